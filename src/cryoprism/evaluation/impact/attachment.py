"""Two models of how citations come: preferential attachment, and Wang, Song and Barabási's for each paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtr

from .features import FEATURES, HORIZON_IN_YEARS, Snapshot
from .graph import Floats

__all__ = ["PreferentialAttachment", "WangSongBarabasi", "expected_citations"]

_CITATIONS: Final = FEATURES.index("citations")
_AGE: Final = FEATURES.index("age")
_MU: Final = np.linspace(0.0, 3.0, 13)
_SIGMA: Final = np.array([0.5, 0.7, 0.9, 1.2, 1.6])
_MOST_ROWS: Final = 4000


@dataclass(frozen=True)
class PreferentialAttachment:
    """Citations to come in proportion to those that are there: rate·(citations + k₀)·(age + 1)^−α."""

    rate: float
    offset: float
    ageing: float

    @classmethod
    def fit(cls, cuts: Sequence[Snapshot], targets: Sequence[Floats]) -> PreferentialAttachment:
        """Fit to past snapshots by least squares of ln(1 + citations)."""
        x = np.concatenate([cut.features[cut.rows] for cut in cuts])
        y = np.log1p(np.concatenate(targets))

        def loss(p: Floats) -> float:
            return float(((_attached(x, float(np.exp(p[0])), float(np.exp(p[1])), float(p[2])) - y) ** 2).mean())

        found = minimize(loss, np.array([0.0, 0.0, 0.5]), method="Nelder-Mead", options={"maxiter": 400}).x
        return cls(float(np.exp(found[0])), float(np.exp(found[1])), float(found[2]))

    def predict(self, cut: Snapshot) -> Floats:
        """Return (k,) ln(1 + citations) to come of the works of a snapshot."""
        return _attached(cut.features[cut.rows], self.rate, self.offset, self.ageing)


def _attached(x: Floats, rate: float, offset: float, ageing: float) -> Floats:
    return np.asarray(np.log1p(rate * (np.expm1(x[:, _CITATIONS]) + offset) * (x[:, _AGE] + 1) ** -ageing))


def expected_citations(time: Floats, fitness: float, immediacy: float, longevity: float, m: float) -> Floats:
    """Return c(t) = m·[exp(λ·Φ((ln t − μ)/σ)) − 1], the citations of a paper at age t [years].

    Parameters
    ----------
    time
        Age [years], more than 0.
    fitness, immediacy, longevity
        λ, μ, σ.
    m
        Mean number of references of a work.

    References
    ----------
    Wang, Song and Barabási (2013), Science 342, 127, equation 3.
    """
    return np.asarray(m * np.expm1(fitness * ndtr((np.log(time) - immediacy) / longevity)))


@dataclass(frozen=True)
class WangSongBarabasi:
    """A paper's own λ, μ, σ from its history, with what its predecessors had as prior.

    The citations of a paper are a Poisson process of rate λ·(c + m)·f(t; μ, σ), f log-normal. For each μ and σ of a
    grid λ has a gamma posterior in closed form (prior of ``shape`` and ``mean``); the forecast is the average over
    the grid, weighted by how well each explains the history.

    Attributes
    ----------
    m
        As in :func:`expected_citations`.
    shape, mean
        Of the prior of λ.
    immediacy, longevity
        Means of μ and σ in the prior; μ has a deviation of 0.5, ln σ of 0.3.

    References
    ----------
    Shen et al. (2014), AAAI, 291 (the conjugate prior).
    """

    m: float
    shape: float
    mean: float
    immediacy: float
    longevity: float

    @classmethod
    def fit(
        cls, cuts: Sequence[Snapshot], targets: Sequence[Floats], seed: int = 0, *, m: float = 30.0
    ) -> WangSongBarabasi:
        """Choose the prior that forecasts past snapshots best (least squares of ln(1 + citations))."""
        y = np.log1p(np.concatenate(targets))
        generator = np.random.default_rng(seed)
        chosen = generator.permutation(len(y))[:_MOST_ROWS]
        histories = [_History.of(cut) for cut in cuts]

        def loss(p: Floats) -> float:
            one = cls(m, float(np.exp(p[0])), float(np.exp(p[1])), float(p[2]), float(np.exp(p[3])))
            found = np.concatenate([one._forecast(history) for history in histories])
            return float(((found - y)[chosen] ** 2).mean())

        start = np.array([1.0, -1.0, 1.2, 0.0])
        found = minimize(loss, start, method="Nelder-Mead", options={"maxfev": 60, "initial_simplex": start + np.vstack(
            [np.zeros(4), np.diag([0.7, 0.7, 0.5, 0.3])]
        )}).x  # fmt: skip
        return cls(m, float(np.exp(found[0])), float(np.exp(found[1])), float(found[2]), float(np.exp(found[3])))

    def predict(self, cut: Snapshot) -> Floats:
        """Return (k,) ln(1 + citations) to come of the works of a snapshot."""
        return self._forecast(_History.of(cut))

    def _forecast(self, history: _History) -> Floats:
        rate = self.shape / self.mean
        # λ given μ and σ: gamma(shape + n, rate + exposure).
        exposure = rate + history.exposure(self.m)
        events = self.shape + history.count[:, None]
        prior = (
            -0.5 * ((history.mu - self.immediacy) / 0.5) ** 2
            - 0.5 * (np.log(history.sigma / self.longevity) / 0.3) ** 2
        )
        evidence = history.density - events * np.log(exposure) + prior
        evidence -= evidence.max(axis=1, keepdims=True)
        weight = np.exp(evidence)
        weight /= weight.sum(axis=1, keepdims=True)
        growth = np.minimum(events / exposure * (history.share_then - history.share_now), 20.0)
        more = (self.m + history.count[:, None]) * np.expm1(growth)
        return np.asarray((weight * np.log1p(more)).sum(axis=1))


@dataclass(frozen=True)
class _History:
    """Of k works on the grid of μ and σ (g points): what the likelihood of their citations needs."""

    count: Floats
    share_now: Floats
    share_then: Floats
    share_of_events: Floats
    density: Floats
    mu: Floats
    sigma: Floats

    @classmethod
    def of(cls, cut: Snapshot) -> _History:
        mu, sigma = (axis.ravel() for axis in np.meshgrid(_MU, _SIGMA, indexing="ij"))
        graph, rows = cut.graph, cut.rows
        place = np.full(len(graph.ids), -1)
        place[rows] = np.arange(len(rows))
        which = (place[graph.cited] >= 0) & ~graph.is_patent[graph.citing]
        owner = place[graph.cited[which]]
        age = np.maximum(graph.time[graph.citing[which]] - graph.time[graph.cited[which]], 1e-3)
        z = (np.log(age)[:, None] - mu) / sigma
        shares = np.zeros((len(rows), len(mu)))
        density = np.zeros_like(shares)
        np.add.at(shares, owner, ndtr(z))
        np.add.at(density, owner, -0.5 * z**2 - np.log(sigma) - np.log(age)[:, None])
        now = np.maximum(cut.moment - graph.time[rows], 1e-3)[:, None]
        return cls(
            np.bincount(owner, minlength=len(rows)).astype(float),
            ndtr((np.log(now) - mu) / sigma),
            ndtr((np.log(now + HORIZON_IN_YEARS) - mu) / sigma),
            shares,
            density,
            mu,
            sigma,
        )

    def exposure(self, m: float) -> Floats:
        """∫ (c(t) + m)·f(t) dt up to now: (m + n)·F(now) − Σ F(tᵢ)."""
        return np.asarray((m + self.count[:, None]) * self.share_now - self.share_of_events)
