"""From the distance of two descriptors to how much more often equal shapes are that near than different ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError

from .descriptor import DESCRIPTOR

__all__ = ["Calibration", "fit_calibration", "known_probability", "shipped_calibration"]

Array = NDArray[np.float64]

_SCHEMA: Final = "cryoprism-novelty-calibration-1"
#: Distances below this are rounding of grids, not shape.
FLOOR: Final = 0.005


@dataclass(frozen=True, eq=False)
class Calibration:
    """Likelihood ratio of "same shape" to "different shapes" at a distance: exp(a - b ln(d + floor)).

    A power law, since the chance that another shape is within d of a given one falls like a power of d.

    Attributes
    ----------
    coefficients
        (2,): a and b.
    draws
        (k, 2): the same from samples of the proteins with replacement.
    resolution_in_angstroms, descriptor
        What the distances were made with.
    range_of_distances
        From the nearest pair of different shapes to the farthest of equal ones; outside the law is extrapolated.
    facts
        How it was made: proteins, copies, seed, quantiles of 3Di similarity between different proteins.
    """

    coefficients: Array
    draws: Array
    resolution_in_angstroms: float
    descriptor: str
    range_of_distances: tuple[float, float]
    facts: Mapping[str, Any]

    def log_ratio(self, distances: Array, coefficients: Array | None = None) -> Array:
        """Natural logarithm of the likelihood ratio, of each distance."""
        a, b = self.coefficients if coefficients is None else coefficients
        return np.asarray(a - b * np.log(np.asarray(distances, dtype=np.float64) + FLOOR))

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads back."""
        return {
            "schema": _SCHEMA,
            "descriptor": self.descriptor,
            "resolution_in_angstroms": self.resolution_in_angstroms,
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


def fit_calibration(
    same: Sequence[Array],
    different: Sequence[Array],
    *,
    resolution_in_angstroms: float,
    seed: int = 0,
    draws: int = 200,
    facts: Mapping[str, Any] | None = None,
) -> Calibration:
    """Logistic regression of "same" on ln(distance), each protein and both classes with equal weight.

    Parameters
    ----------
    same
        For each protein the distances between its copies and itself.
    different
        For each protein the distances of its copies to other proteins.
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
    everything = np.arange(len(same))
    coefficients = _logistic(same, different, everything)
    spread = np.stack([_logistic(same, different, rng.choice(everything, everything.size)) for _ in range(draws)])
    nearest, farthest = min(float(d.min()) for d in different), max(float(d.max()) for d in same)
    return Calibration(
        coefficients,
        spread,
        resolution_in_angstroms,
        DESCRIPTOR,
        (min(nearest, farthest), max(nearest, farthest)),
        dict(facts or {}),
    )


def _logistic(same: Sequence[Array], different: Sequence[Array], chosen: NDArray[np.int64]) -> Array:
    """Intercept and slope by Newton steps on the weighted likelihood, with a prior of deviation 10 on the slope."""
    distances, labels, weights = [], [], []
    for i in chosen:
        for label, group in ((1.0, same[i]), (0.0, different[i])):
            distances.append(group)
            labels.append(np.full(group.size, label))
            # A pair of classes counts as ten comparisons for each protein: its copies are alike.
            weights.append(np.full(group.size, 10.0 / group.size))
    x = np.stack([np.ones(sum(d.size for d in distances)), -np.log(np.concatenate(distances) + FLOOR)], -1)
    y, w = np.concatenate(labels), np.concatenate(weights)
    penalty = np.diag([1e-6, 1e-2])
    beta = np.zeros(2)
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ beta, -50, 50)))
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
