"""From distances, 3Di states and the crowd around a query to the probability that an index holds its shape."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import gammaln
from scipy.stats import norm
from scipy.stats import t as student_t

from cryoprism.core import InputError

from .descriptor import DESCRIPTOR

__all__ = [
    "AROUND",
    "COEFFICIENTS",
    "Calibration",
    "Crowd",
    "StatePairs",
    "fit_calibration",
    "known_probability",
    "shipped_calibration",
]

Array = NDArray[np.float64]

_SCHEMA: Final = "cryoprism-novelty-calibration-2"
#: Distances below this are rounding of grids, not shape.
FLOOR: Final = 0.005
#: Entries between these distances of a query are strangers to it, and tell how crowded its neighbourhood is.
AROUND: Final = (0.2, 0.5)
#: What the coefficients of a law are, in order.
COEFFICIENTS: Final = (
    "location", "log_spread", "strangers_location", "strangers_log_spread", "share_around", "crowding",
    "states_offset", "states_slope",
)  # fmt: skip
_MOST_OF_STATES: Final = float(np.log(20.0))
# Degrees of freedom of Student's t: views of one molecule have a longer tail than a normal law.
_FREEDOM: Final = 5.0


@dataclass(frozen=True)
class Crowd:
    """How many entries of a sample of the index lie at distances ``AROUND`` of a query.

    Attributes
    ----------
    count, sampled
        Those that do, of all that were looked at.
    """

    count: int
    sampled: int

    @classmethod
    def of(cls, distances: Array) -> Crowd:
        """Count the distances (n,) of a query to a sample of the index."""
        inside = (distances >= AROUND[0]) & (distances < AROUND[1])
        return cls(int(inside.sum()), int(distances.size))


@dataclass(frozen=True, eq=False)
class StatePairs:
    """Pairs of one protein that have both a distance in shape and a similarity in 3Di states.

    Attributes
    ----------
    same, different
        (n, 2): distance and similarity, to views of itself and to other proteins.
    """

    same: Array
    different: Array


@dataclass(frozen=True, eq=False)
class Calibration:
    """Likelihood ratio of "same shape" to "a stranger", of each entry near a query.

    Views of one molecule: ln(distance + floor) follows Student's t. Strangers: it follows a normal law, fitted to those
    nearer than 0.5, times how crowded the neighbourhood of this query is. The crowd has a gamma prior of mean 1, so
    that its posterior mean is (count + crowding) / (expected count + crowding). Where both are models of proteins, the
    ratio is multiplied by exp(offset + slope·h), h = -ln(1.02 - similarity of the 3Di states), but by no more than a
    factor of 20 up or down: a poor model has other states than a good one of the same protein.

    Attributes
    ----------
    coefficients
        (8,) as in ``COEFFICIENTS``; both of the states are 0 where none were given.
    draws
        (k, 8): the same from samples of the proteins with replacement.
    resolution_in_angstroms, descriptor
        What the distances were made with.
    range_of_distances
        From the nearest pair of different shapes to the farthest of equal ones; outside the law is extrapolated.
    facts
        How it was made: proteins, copies, seed, quantiles of 3Di similarity between different proteins; measured
        calibration errors of the probability by the number of entries (``calibration_error_by_entries``).
    """

    coefficients: Array
    draws: Array
    resolution_in_angstroms: float
    descriptor: str
    range_of_distances: tuple[float, float]
    facts: Mapping[str, Any]

    @property
    def uses_states(self) -> bool:
        """Whether 3Di states enter."""
        return bool(self.coefficients[7] != 0)

    def crowding(self, crowd: Crowd | None, coefficients: Array | None = None) -> float:
        """How many times more strangers there are around a query than around most; 1 where it is not known."""
        if crowd is None:
            return 1.0
        law = self.coefficients if coefficients is None else coefficients
        return float((crowd.count + law[5]) / (crowd.sampled * law[4] + law[5]))

    def log_ratio(
        self,
        distances: Array,
        similarities: Array | None = None,
        crowd: Crowd | None = None,
        coefficients: Array | None = None,
    ) -> Array:
        """Natural logarithm of the likelihood ratio of each entry.

        Parameters
        ----------
        distances
            (n,) in shape.
        similarities
            (n,) in 3Di states, NaN where one of the two has none.
        crowd
            Around the query.
        coefficients
            One of the draws; the best ones if absent.
        """
        law = self.coefficients if coefficients is None else coefficients
        ratio = _shape_ratio(np.asarray(distances, dtype=np.float64), law) - np.log(self.crowding(crowd, law))
        if similarities is not None:
            known = np.isfinite(similarities)
            states = law[6] + law[7] * _height(np.where(known, similarities, 0.0))
            ratio = ratio + np.where(known, np.clip(states, -_MOST_OF_STATES, _MOST_OF_STATES), 0.0)
        return np.asarray(ratio)

    def usual_distances(self) -> tuple[float, float, float]:
        """Distance within which half and 95 % of the views of one molecule lie, and 1 % of the strangers."""
        law = self.coefficients
        half = float(np.exp(law[0]))
        most = float(np.exp(law[0] + student_t.ppf(0.95, _FREEDOM) * np.exp(law[1])))
        strange = float(np.exp(law[2] + norm.ppf(0.01) * np.exp(law[3])))
        return half - FLOOR, most - FLOOR, strange - FLOOR

    def error(self, entries: int) -> float:
        """Return the measured calibration error of the probability in an index of so many entries; 0 if not known.

        Between the sizes at which it was measured it runs straight with their logarithm, beyond them it stays.
        """
        measured = self.facts.get("calibration_error_by_entries")
        if not measured:
            return 0.0
        sizes = sorted(measured, key=int)
        logs = np.log([int(size) for size in sizes])
        return float(np.interp(np.log(max(entries, 1)), logs, [float(measured[size]) for size in sizes]))

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads back."""
        return {
            "schema": _SCHEMA,
            "descriptor": self.descriptor,
            "resolution_in_angstroms": self.resolution_in_angstroms,
            "names": list(COEFFICIENTS),
            "coefficients": [round(float(c), 5) for c in self.coefficients],
            "range_of_distances": [round(float(c), 5) for c in self.range_of_distances],
            "facts": dict(self.facts),
            "draws": [[round(float(c), 4) for c in draw] for draw in self.draws],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: object) -> Calibration:
        """Read a calibration.

        Raises
        ------
        InputError
            It is none, or was made with another descriptor.
        """
        if content.get("schema") != _SCHEMA or content.get("descriptor") != DESCRIPTOR:
            raise InputError(
                where,
                f"is no calibration of the descriptor {DESCRIPTOR}",
                "Make one: python benchmarks/novelty.py --parts calibration --write FILE.",
            )
        low, high = content["range_of_distances"]
        return cls(
            np.array(content["coefficients"]),
            np.array(content["draws"]),
            float(content["resolution_in_angstroms"]),
            str(content["descriptor"]),
            (float(low), float(high)),
            dict(content["facts"]),
        )


@lru_cache(maxsize=1)
def shipped_calibration() -> Calibration:
    """Calibration that comes with the program (10 Å)."""
    file = Path(__file__).with_name("calibration.json")
    return Calibration.from_json(json.loads(file.read_text(encoding="utf-8")), file)


def _student(x: Array, location: float, log_spread: float) -> Array:
    """Logarithm of Student's t density of ``_FREEDOM`` degrees of freedom."""
    z = (x - location) / np.exp(log_spread)
    constant = gammaln((_FREEDOM + 1) / 2) - gammaln(_FREEDOM / 2) - 0.5 * np.log(_FREEDOM * np.pi)
    return np.asarray(constant - log_spread - (_FREEDOM + 1) / 2 * np.log1p(z**2 / _FREEDOM))


def _shape_ratio(distances: Array, law: Array) -> Array:
    x = np.log(distances + FLOOR)
    # Beyond the middle of the strangers their density stays what it is there: what is farther is no nearer again.
    z = (np.minimum(x, law[2]) - law[2]) / np.exp(law[3])
    strangers = -0.5 * z**2 - law[3] - 0.5 * np.log(2 * np.pi)
    return np.asarray(_student(x, law[0], law[1]) - strangers)


def _height(similarities: Array) -> Array:
    """Similarity on a scale without upper bound; 1.02 keeps equal histograms finite."""
    return np.asarray(-np.log(1.02 - similarities))


def fit_calibration(
    same: Sequence[Array],
    different: Sequence[Array],
    *,
    states: Sequence[StatePairs] = (),
    resolution_in_angstroms: float,
    seed: int = 0,
    draws: int = 200,
    facts: Mapping[str, Any] | None = None,
) -> Calibration:
    """Fit the law by maximum likelihood, each protein with equal weight.

    Parameters
    ----------
    same
        For each protein the distances (copies,) between its copies and itself.
    different
        For each protein the distances (copies, others) of its copies to other proteins.
    states
        For each of a set of proteins the pairs with 3Di states; none leaves the states out.
    resolution_in_angstroms
        Of the descriptors.
    seed, draws
        Of the samples of proteins that give the spread.
    facts
        What is written beside it.
    """
    if len(same) != len(different) or len(same) < 3:
        raise InputError("calibration", f"{len(same)} proteins", "Give three or more.")
    rng = np.random.default_rng(seed)

    def one(chosen: NDArray[np.int64], pairs: Sequence[StatePairs]) -> Array:
        law = _fit_shape([same[i] for i in chosen], [different[i] for i in chosen])
        return np.append(law, _fit_states(law, pairs))

    def drawn(count: int) -> NDArray[np.int64]:
        return rng.integers(0, count, count) if count else np.zeros(0, dtype=np.int64)

    coefficients = one(np.arange(len(same)), states)
    spread = [one(drawn(len(same)), [states[i] for i in drawn(len(states))]) for _ in range(draws)]
    nearest, farthest = min(float(d.min()) for d in different), max(float(d.max()) for d in same)
    return Calibration(
        coefficients,
        np.stack(spread) if spread else coefficients[None],
        resolution_in_angstroms,
        DESCRIPTOR,
        (min(nearest, farthest), max(nearest, farthest)),
        dict(facts or {}),
    )


def _fit_shape(same: Sequence[Array], different: Sequence[Array]) -> Array:
    """First six coefficients."""
    x = np.log(np.concatenate(same) + FLOOR)
    weight = np.concatenate([np.full(d.size, 1 / d.size) for d in same])
    start = np.array([np.average(x, weights=weight), np.log(0.4)])
    found = minimize(lambda p: -float((weight * _student(x, p[0], p[1])).sum()), start, method="Nelder-Mead").x
    strangers = np.concatenate([d.ravel() for d in different])
    end = np.log(AROUND[1] + FLOOR)
    near = np.log(strangers[strangers < AROUND[1]] + FLOOR)
    far = strangers.size - near.size + 1  # one more of each, so that a sample without any has a law
    near = np.append(near, end)

    def censored(p: Array) -> float:
        z, spread = (near - p[0]) / np.exp(p[1]), np.exp(p[1])
        return float((0.5 * z**2 + p[1]).sum() - far * norm.logsf((end - p[0]) / spread))

    stranger = minimize(censored, np.array([end + 0.3, np.log(0.5)]), method="Nelder-Mead").x
    share_around = (((strangers >= AROUND[0]) & (strangers < AROUND[1])).sum() + 1) / (strangers.size + 1)
    count = np.concatenate([((d >= AROUND[0]) & (d < AROUND[1])).sum(1) for d in different]).astype(np.float64)
    expected = np.concatenate([np.full(len(d), d.shape[1] * share_around) for d in different])
    each = np.concatenate([np.full(len(d), 1 / len(d)) for d in different])

    def counts(log_shape: Array) -> float:
        # Poisson counts whose mean has a gamma law of mean 1 are negative binomial.
        shape = float(np.exp(np.clip(log_shape[0], -3, 5)))
        share = shape / (shape + expected)
        return -float((each * (gammaln(count + shape) - gammaln(shape) + shape * np.log(share) + count * np.log1p(-share))).sum())  # noqa: E501  # fmt: skip

    crowding = float(np.exp(np.clip(minimize(counts, np.zeros(1), method="Nelder-Mead").x[0], -3, 5)))
    return np.array([*found, *stranger, share_around, crowding])


def _fit_states(law: Array, pairs: Sequence[StatePairs]) -> Array:
    """Offset and slope by logistic regression beside the ratio of the shapes, with a prior of deviation 10."""
    if not pairs:
        return np.zeros(2)
    values = np.concatenate([part for one in pairs for part in (one.same, one.different)])
    sizes = [(len(one.same), len(one.different)) for one in pairs]
    y = np.concatenate([np.repeat([1.0, 0.0], size) for size in sizes])
    # A pair of classes counts as ten comparisons for each protein: its copies are alike.
    w = np.concatenate([np.full(n, 10.0 / n) for size in sizes for n in size if n])
    x = np.stack([np.ones(len(values)), _height(values[:, 1])], -1)
    offset = np.clip(_shape_ratio(values[:, 0], law), -30, 30)
    penalty = np.eye(2) * 1e-2
    beta = np.zeros(2)
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-np.clip(offset + x @ beta, -50, 50)))
        gradient = x.T @ (w * (y - p)) - penalty @ beta
        step = np.linalg.solve((x * (w * p * (1 - p))[:, None]).T @ x + penalty, gradient)
        size = float(np.abs(step).max())
        beta = beta + step * min(1.0, 2.0 / max(size, 1e-12))
        if size < 1e-9:
            break
    return np.asarray(beta)


def known_probability(log_ratios: Array, entries: int, prior: float) -> float:
    """Probability that an index holds an entry of the same shape as a query.

    Either no entry has its shape (1 - prior), or one of them has, each as likely (prior / entries). The data favour the
    second by the mean of the likelihood ratios over all entries, so that a chance neighbour counts less the larger
    the index. Entries whose ratio is not given count as 0.
    """
    if not 0 < prior < 1:
        raise InputError("prior", f"{prior:g}", "Give a probability between 0 and 1.")
    if not log_ratios.size:
        return 0.0
    top = float(log_ratios.max())
    evidence = top + float(np.log(np.exp(log_ratios - top).sum())) - np.log(entries)
    odds = evidence + np.log(prior) - np.log1p(-prior)
    return float(1.0 / (1.0 + np.exp(-np.clip(odds, -700, 700))))
