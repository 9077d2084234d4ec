"""Weights from judgements: Bradley–Terry with softmax weights, a Laplace posterior, and its mending by sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from .judgements import Judgement, count_distinct, differences, outcomes, without_copies
from .weights import COMPONENTS, Array, Weights, default_weights, softmax

__all__ = ["Posterior", "agreement_by_judge", "learn", "learn_from", "log_posterior", "mended", "outcome_probabilities"]

_MANY: Final = len(COMPONENTS)
#: Before any judgement, of ln s and τ: a V ahead by 0.2 wins 7 times as often as it loses, give or take a lot; about
#: one judgement in eight between equals is a tie.
NUISANCE_MEAN: Final = (np.log(10.0), -1.0)
NUISANCE_DEVIATION: Final = (1.0, 1.0)
_STEPS: Final = 100
_SETTLED: Final = 1e-9
# Of the importance sampling: draws, points of the grid, degrees of freedom and width of the proposal.
_DRAWS: Final = 3000
_GRID: Final = 11
_FREEDOM: Final = 6.0
_WIDER: Final = 1.2
_AT_ONCE: Final = 400_000


@dataclass(frozen=True)
class Posterior:
    """Normal approximation of what is known about the parameters.

    Attributes
    ----------
    mode
        (7,) logits θ of the weights, ln s, τ: the most probable, or the mean after :func:`mended`.
    covariance
        (7, 7): inverse of the negative Hessian there, or the covariance after :func:`mended`.
    judgements
        How many there were.
    prior
        Of the weights.
    """

    mode: Array
    covariance: Array
    judgements: int
    prior: Weights

    @property
    def weights(self) -> Weights:
        """The weights with their prior, whatever the sharpness of the judges."""
        return Weights(
            tuple(self.mode[:_MANY].tolist()),
            tuple(tuple(row) for row in self.covariance[:_MANY, :_MANY].tolist()),
            self.judgements,
            self.prior,
        )

    def sample(self, count: int, generator: np.random.Generator) -> Array:
        """Draw (count, 7) parameters."""
        root = np.linalg.cholesky(self.covariance)
        return np.asarray(self.mode + generator.standard_normal((count, len(self.mode))) @ root.T)


def outcome_probabilities(parameters: Array, ahead: Array) -> Array:
    """Return the probabilities that a wins, b wins, or a tie is called.

    Davidson's extension of Bradley–Terry for ties, with d = s·(V_a − V_b) = s·softmax(θ)·(x_a − x_b):
    P(a) = e^{d/2}/Z, P(b) = e^{−d/2}/Z, P(tie) = e^τ/Z.

    Parameters
    ----------
    parameters
        (…, 7): θ, ln s, τ.
    ahead
        (n, 5): x_a − x_b.

    Returns
    -------
    ndarray
        (…, n, 3).

    References
    ----------
    Davidson (1970), J. Am. Stat. Assoc. 65, 317.
    """
    d = np.exp(parameters[..., _MANY, None]) * (softmax(parameters[..., :_MANY]) @ ahead.T)
    scores = np.stack([d / 2, -d / 2, np.broadcast_to(parameters[..., _MANY + 1, None], d.shape)], axis=-1)
    return softmax(scores)


def log_posterior(parameters: Array, ahead: Array, told: Array, prior: Weights) -> tuple[float, Array, Array, Array]:
    """Logarithm of the posterior up to a constant, its gradient, its Hessian, and the Hessian without curvature of d.

    Parameters
    ----------
    parameters
        (7,).
    ahead, told
        (n, 5) and (n, 3), as ``differences`` and ``outcomes`` return them.
    prior
        Of the weights; ln s and τ have their own.

    Returns
    -------
    tuple
        Value; (7,) gradient; (7, 7) Hessian; (7, 7) Gauss–Newton part of it, which is always negative definite.
    """
    mean, precision = _prior(prior)
    off = parameters - mean
    weights, s = softmax(parameters[:_MANY]), np.exp(parameters[_MANY])
    middle = ahead @ weights
    d = s * middle
    probability = outcome_probabilities(parameters, ahead)
    value = float((told * np.log(np.maximum(probability, 1e-300))).sum() - 0.5 * off @ precision @ off)
    # d and τ multiply the statistics u = ½, −½, 0 and t = 0, 0, 1 of an outcome: derivatives are their moments.
    u = 0.5 * (probability[:, 0] - probability[:, 1])
    t = probability[:, 2]
    by_d = 0.5 * (told[:, 0] - told[:, 1]) - u
    by_tie = told[:, 2] - t
    jacobian = np.concatenate([s * weights * (ahead - middle[:, None]), d[:, None]], axis=1)
    gradient = np.concatenate([jacobian.T @ by_d, [by_tie.sum()]])
    d_d, d_tie, tie_tie = u**2 - 0.25 * (1 - t), u * t, -t * (1 - t)
    size = _MANY + 2
    newton = np.zeros((size, size))
    newton[:-1, :-1] = jacobian.T @ (d_d[:, None] * jacobian)
    newton[:-1, -1] = newton[-1, :-1] = jacobian.T @ d_tie
    newton[-1, -1] = tie_tie.sum()
    centred = s * weights * ((ahead - middle[:, None]).T @ by_d)  # Σ ∂ℓ/∂d · ∂d/∂θ
    curvature = np.zeros((size, size))
    curvature[:_MANY, :_MANY] = np.diag(centred) - np.outer(weights, centred) - np.outer(centred, weights)
    curvature[:_MANY, _MANY] = curvature[_MANY, :_MANY] = centred
    curvature[_MANY, _MANY] = by_d @ d
    gradient -= precision @ off
    newton -= precision
    return value, gradient, newton + curvature, newton


def learn_from(ahead: Array, told: Array, prior: Weights | None = None, start: Array | None = None) -> Posterior:
    """Find the most probable parameters and the curvature there.

    Parameters
    ----------
    ahead, told
        (n, 5) and (n, 3); n may be 0: the posterior is the prior.
    prior
        The default if None.
    start
        (7,) where to begin; a posterior of fewer judgements is near.
    """
    prior = default_weights() if prior is None else prior
    at, _, covariance = _climb(_prior(prior)[0] if start is None else start, ahead, told, prior)
    return Posterior(at, covariance, len(ahead), prior)


def _climb(
    at: Array, ahead: Array, told: Array, prior: Weights, free: tuple[int, ...] = tuple(range(_MANY + 2))
) -> tuple[Array, float, Array]:
    """Newton's method with halved steps over some of the parameters: the maximum, its height, the inverse curvature."""
    chosen = list(free)
    inside = np.ix_(chosen, chosen)
    value, gradient, full, newton = log_posterior(at, ahead, told, prior)
    for _ in range(_STEPS):
        step = np.zeros_like(at)
        step[chosen] = np.linalg.solve(-newton[inside], gradient[chosen])
        if float(gradient @ step) < _SETTLED:
            break
        length = 1.0
        while length > 1e-6:
            tried = log_posterior(at + length * step, ahead, told, prior)
            if tried[0] >= value:
                break
            length /= 2
        else:
            break
        at = at + length * step
        value, gradient, full, newton = tried
    # A saddle cannot be a maximum, but rounding at a flat one can look like it: then the definite part stands in.
    precise = full if np.linalg.eigvalsh(-full[inside]).min() > 1e-6 else newton
    covariance = np.linalg.inv(-precise[inside])
    return at, value, 0.5 * (covariance + covariance.T)


def mended(posterior: Posterior, ahead: Array, told: Array, *, seed: int = 0) -> Posterior:
    """Replace mode and curvature by mean and covariance, from importance sampling.

    After few judgements, well-chosen ones above all, the most probable judge is too sharp and the curvature there
    too strong: intervals would be too narrow. So ln s is laid out on a grid, the other parameters are approximated
    given each value, draws from the mixture of these (multivariate t) are weighted by the true posterior, and their
    moments taken.

    Parameters
    ----------
    posterior
        Of :func:`learn_from`.
    ahead, told
        (n, 5) and (n, 3), the same.
    seed
        Of the draws.

    References
    ----------
    Rue et al. (2009), J. R. Stat. Soc. B 71, 319 (the grid); importance sampling of the mixture is exact in the limit.
    """
    generator = np.random.default_rng(seed)
    free = (*range(_MANY), _MANY + 1)
    grid = NUISANCE_MEAN[0] + NUISANCE_DEVIATION[0] * np.linspace(-2.5, 2.5, _GRID)
    spread = 0.8 * (grid[1] - grid[0])
    centres, roots, heights = [], [], []
    at = posterior.mode
    for value in grid[::-1]:  # from the sharpest: each is near the one before
        at, height, covariance = _climb(
            np.where(np.arange(len(at)) == _MANY, value, at), ahead, told, posterior.prior, free
        )
        centres.append(at)
        roots.append(_WIDER * np.linalg.cholesky(covariance))
        heights.append(height + float(np.log(np.diag(roots[-1])).sum()))
    chance = np.exp(0.7 * (np.array(heights) - max(heights)))  # flatter than the evidence: tails get their draws
    chance /= chance.sum()
    size = len(free)
    component = generator.choice(_GRID, _DRAWS, p=chance)
    z = generator.standard_normal((_DRAWS, size))
    z /= np.sqrt(generator.chisquare(_FREEDOM, (_DRAWS, 1)) / _FREEDOM)
    drawn = np.empty((_DRAWS, len(at)))
    drawn[:, free] = np.array(centres)[component][:, free] + np.einsum("nij,nj->ni", np.array(roots)[component], z)
    drawn[:, _MANY] = np.array(centres)[component, _MANY] + spread * generator.standard_normal(_DRAWS)
    parts = []
    for centre, root, share in zip(centres, roots, chance, strict=True):
        y = np.linalg.solve(root, (drawn[:, free] - centre[list(free)]).T)
        parts.append(
            np.log(max(float(share), 1e-300))
            - 0.5 * (_FREEDOM + size) * np.log1p((y**2).sum(axis=0) / _FREEDOM)
            - np.log(np.diag(root)).sum()
            - 0.5 * ((drawn[:, _MANY] - centre[_MANY]) / spread) ** 2
        )
    weight = _log_densities(drawn, ahead, told, posterior.prior) - np.logaddexp.reduce(parts)
    share = np.exp(weight - weight.max())
    share /= share.sum()
    mean = share @ drawn
    covariance = (share[:, None] * (drawn - mean)).T @ (drawn - mean)
    return Posterior(mean, 0.5 * (covariance + covariance.T), posterior.judgements, posterior.prior)


def _log_densities(parameters: Array, ahead: Array, told: Array, prior: Weights) -> Array:
    mean, precision = _prior(prior)
    off = parameters - mean
    found = -0.5 * np.einsum("ni,ij,nj->n", off, precision, off)
    if len(ahead):
        which = told.argmax(axis=1)
        for part in np.array_split(np.arange(len(parameters)), 1 + len(parameters) * len(ahead) // _AT_ONCE):
            chance = outcome_probabilities(parameters[part], ahead)[:, np.arange(len(ahead)), which]
            found[part] += np.log(np.maximum(chance, 1e-300)).sum(axis=1)
    return np.asarray(found)


def learn(judgements: Sequence[Judgement], prior: Weights | None = None, *, seed: int = 0) -> Posterior:
    """Learn weights from judgements; with few of them the posterior stays near the prior.

    Parameters
    ----------
    judgements
        Of one or more judges, who are taken to agree on the weights. What one judge says again of a pair is left out;
        a judge who contradicts himself is heard, but a pair counts once for each judge in ``Posterior.judgements``.
    prior
        The default if None.
    seed
        Of the sampling that mends the normal approximation.
    """
    several = without_copies(judgements)
    ahead, told = differences([(one.a, one.b) for one in several]), outcomes(several)
    found = learn_from(ahead, told, prior)
    found = mended(found, ahead, told, seed=seed) if several else found
    return replace(found, judgements=count_distinct(several))


def agreement_by_judge(weights: Weights, judgements: Sequence[Judgement]) -> dict[str, tuple[int, int, int]]:
    """Return, for each judge, how many judgements, how many of them no tie, and how many of these V agrees with."""
    ahead = differences([(one.a, one.b) for one in judgements]) @ softmax(np.asarray(weights.logits))
    found: dict[str, tuple[int, int, int]] = {}
    for one, d in zip(judgements, ahead, strict=True):
        count, decided, agreed = found.get(one.judge, (0, 0, 0))
        no_tie = one.better != "tie"
        right = no_tie and bool(d > 0 if one.better == "a" else d < 0)
        found[one.judge] = (count + 1, decided + no_tie, agreed + right)
    return dict(sorted(found.items()))


def _prior(prior: Weights) -> tuple[Array, Array]:
    mean = np.concatenate([prior.logits, NUISANCE_MEAN])
    precision = np.zeros((_MANY + 2, _MANY + 2))
    precision[:_MANY, :_MANY] = np.linalg.inv(np.asarray(prior.covariance))
    precision[_MANY:, _MANY:] = np.diag(1 / np.square(NUISANCE_DEVIATION))
    return mean, precision
