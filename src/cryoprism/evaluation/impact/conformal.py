"""Intervals of forecast citations from the errors on works that were held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from .graph import Floats

__all__ = ["Conformal", "Prediction"]

_GROUPS: Final = 3
_LEAST_IN_GROUP: Final = 60
_COVERAGE: Final = 0.95


@dataclass(frozen=True)
class Prediction:
    """Of k works: expected citations with deviation and 95 % interval.

    Attributes
    ----------
    expected, deviation, lower, upper
        (k,) counts.
    """

    expected: Floats
    deviation: Floats
    lower: Floats
    upper: Floats


@dataclass(frozen=True)
class Conformal:
    """Split conformal intervals on the scale ln(1 + citations).

    Residuals of works that neither trained nor chose the model, in up to three groups by the size of the forecast,
    since small counts scatter differently from large ones. Where the works to come are exchangeable with these, an
    interval holds the truth with 95 %; years differ, so they are so only nearly.

    Attributes
    ----------
    edges
        Forecasts that part the groups.
    residuals
        Of each group, sorted: truth minus forecast.

    References
    ----------
    Vovk, Gammerman and Shafer (2005), Algorithmic Learning in a Random World.
    """

    edges: Floats
    residuals: tuple[Floats, ...]

    @classmethod
    def of(cls, predicted: Floats, truth: Floats) -> Conformal:
        """Take the residuals of works that were held out, both as ln(1 + citations)."""
        groups = max(1, min(_GROUPS, len(predicted) // _LEAST_IN_GROUP))
        edges = np.unique(np.quantile(predicted, np.arange(1, groups) / groups))
        which = np.searchsorted(edges, predicted, side="right")
        residuals = [np.sort((truth - predicted)[which == g]) for g in range(len(edges) + 1)]
        if min(map(len, residuals)) < 20:  # ties in the forecasts
            return cls(np.zeros(0), (np.sort(truth - predicted),))
        return cls(edges, tuple(residuals))

    def predict(self, predicted: Floats) -> Prediction:
        """Turn forecasts on the scale ln(1 + citations) into expected counts with intervals."""
        which = np.searchsorted(self.edges, predicted, side="right")
        found = np.zeros((4, len(predicted)))
        for group, residuals in enumerate(self.residuals):
            inside = which == group
            counts = np.maximum(np.expm1(predicted[inside, None] + residuals), 0.0)
            tail, many = (1 - _COVERAGE) / 2, len(residuals)
            # The k-th smallest of n is passed by a new one with chance (n + 1 − k)/(n + 1).
            high = int(np.ceil((1 - tail) * (many + 1)))
            low = int(np.floor(tail * (many + 1)))
            found[0, inside], found[1, inside] = counts.mean(axis=1), counts.std(axis=1)
            # With too few to go by, an interval starts at 0, and reaches as far as the widest with twice its room.
            found[2, inside] = counts[:, low - 1] if low >= 1 else 0.0
            found[3, inside] = counts[:, high - 1] if high <= many else 2 * counts[:, -1] + 1
        return Prediction(*found)
