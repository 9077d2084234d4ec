"""How sure the comparison of models is, and how many held-out works the intervals hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .conformal import Conformal
from .graph import Floats

__all__ = ["Compared", "Coverage", "compare", "held_out_coverage"]

_DRAWS: Final = 2000
_FOLDS: Final = 5
_NORMAL_95: Final = 1.96


@dataclass(frozen=True)
class Compared:
    """Mean absolute error of a model with its 95 % interval, and by how much it is worse than the chosen one.

    Attributes
    ----------
    low, high
        By a bootstrap over the works that chose.
    behind, behind_low, behind_high
        Error less that of the chosen model, on the same works, with its interval; 0 for the chosen one.
    """

    low: float
    high: float
    behind: float
    behind_low: float
    behind_high: float

    @property
    def is_as_good(self) -> bool:
        """Whether the works do not tell it from the chosen one."""
        return self.behind_low <= 0


@dataclass(frozen=True)
class Coverage:
    """Part of held-out works whose citations lay within their intervals, with its 95 % interval (Wilson), and works."""

    share: float
    low: float
    high: float
    works: int

    def to_json(self) -> dict[str, Any]:
        """Return it by name."""
        return dict(vars(self))


def compare(missed: Mapping[str, Floats], chosen: str, seed: int) -> dict[str, Compared]:
    """Compare models by their absolute errors (n,) on the same works, resampled 2,000 times."""
    count = len(missed[chosen])
    picked = np.random.default_rng(seed).integers(0, count, (_DRAWS, count))
    found = {}
    for name, values in missed.items():
        low, high = np.quantile(values[picked].mean(axis=1), (0.025, 0.975))
        apart = values - missed[chosen]
        behind_low, behind_high = np.quantile(apart[picked].mean(axis=1), (0.025, 0.975))
        found[name] = Compared(float(low), float(high), float(apart.mean()), float(behind_low), float(behind_high))
    return found


def held_out_coverage(predicted: Floats, truth: Floats, seed: int) -> Coverage:
    """Measure how many works the intervals hold, each by residuals of the other four fifths of the works.

    Parameters
    ----------
    predicted, truth
        (n,) as ln(1 + citations), of works that neither trained nor chose the model.
    seed
        Of the fifths.
    """
    order = np.random.default_rng(seed).permutation(len(truth))
    inside = 0
    for fold in np.array_split(order, _FOLDS):
        others = np.setdiff1d(order, fold)
        made = Conformal.of(predicted[others], truth[others]).predict(predicted[fold])
        counts = np.expm1(truth[fold])
        inside += int(((made.lower <= counts + 1e-9) & (counts <= made.upper + 1e-9)).sum())
    n, share = len(truth), inside / len(truth)
    square = _NORMAL_95**2
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = _NORMAL_95 * math.sqrt(share * (1 - share) / n + square / (4 * n**2)) / (1 + square / n)
    return Coverage(share, max(0.0, middle - half), min(1.0, middle + half), n)
