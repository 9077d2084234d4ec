"""Which parameter moves which outcome: Sobol indices of any function of independent parameters.

Every outcome's variance is divided among the parameters (Sobol 1993): the first-order index is the share that one
moves by itself, the total index what would be left if all others were known. Points are scrambled Sobol sequences,
arranged as Saltelli did; estimators of Saltelli et al. 2010, *Computer Physics Communications* 181, 259–270 (first
order) and Jansen 1999, *Computer Physics Communications* 117, 35–43 (total); intervals by bootstrap over the points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from cryoprism.core import InputError

__all__ = ["Index", "Outcome", "Parameter", "Sensitivity", "Values", "moved_together", "sensitivity"]

Values = Mapping[str, NDArray[np.float64]]
_LEAST_COUNT: Final = 16
_MOST_COUNT: Final = 1 << 20


@dataclass(frozen=True)
class Parameter:
    """A normal distribution, cut off at its bounds.

    Attributes
    ----------
    name
        By which the function knows it.
    mean, deviation
        Of the normal distribution before it is cut; the deviation is above 0.
    bounds
        Smallest and largest value.
    unit
        For the table.
    """

    name: str
    mean: float
    deviation: float
    bounds: tuple[float, float] = (-math.inf, math.inf)
    unit: str = "1"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.deviation) and self.deviation > 0):
            raise InputError(
                self.name, f"{self.mean:g} ± {self.deviation:g}", "Give a finite mean and a deviation > 0."
            )
        if not self.bounds[0] < self.bounds[1]:
            raise InputError(self.name, f"bounds {self.bounds}", "Give the smaller one first.")

    def at(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the values at these probabilities."""
        low, high = (ndtr((bound - self.mean) / self.deviation) for bound in self.bounds)
        if high - low < 1e-12:
            raise InputError(self.name, f"{self.mean:g} ± {self.deviation:g} lies outside {self.bounds}", "Widen them.")
        values: NDArray[np.float64] = self.mean + self.deviation * ndtri(low + (high - low) * uniform)
        return np.clip(values, *self.bounds)


@dataclass(frozen=True)
class Index:
    """A share of the variance with its 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Outcome:
    """What moving the parameters does to one outcome.

    Attributes
    ----------
    mean, deviation
        Over the points.
    first, total
        Indices by parameter; empty where the outcome does not move.
    """

    mean: float
    deviation: float
    first: Mapping[str, Index]
    total: Mapping[str, Index]


@dataclass(frozen=True)
class Sensitivity:
    """Outcomes by name, and the values of every outcome at the independent points (2 · count)."""

    parameters: tuple[Parameter, ...]
    outcomes: Mapping[str, Outcome]
    draws: Values
    evaluations: int

    def to_json(self) -> dict[str, Any]:
        """Return indices by outcome and parameter."""
        return {
            name: {
                "mean": outcome.mean,
                "standard_deviation": outcome.deviation,
                "first_order": {key: vars(index) for key, index in outcome.first.items()},
                "total": {key: vars(index) for key, index in outcome.total.items()},
            }
            for name, outcome in self.outcomes.items()
        }


def sensitivity(
    function: Callable[[Values], Values],
    parameters: Sequence[Parameter],
    *,
    seed: int,
    count: int = 512,
    resamples: int = 200,
) -> Sensitivity:
    """Move all parameters within their distributions and divide the variance of what follows.

    Parameters
    ----------
    function
        From values by parameter's name, each of shape (n,), to outcomes by name, each of shape (n,).
    parameters
        Independent of one another.
    seed
        Of the points and the bootstrap.
    count
        Base points, a power of 2; the function is evaluated at count · (parameters + 2) points.
    resamples
        Bootstrap samples for the intervals.

    Raises
    ------
    InputError
        There is no parameter, two share a name, the count is no power of 2, or an outcome is not finite.
    """
    names = [parameter.name for parameter in parameters]
    if not names or len(set(names)) < len(names):
        raise InputError("parameters", f"{len(names)} with {len(set(names))} names", "Give each its own name.")
    if not (_LEAST_COUNT <= count <= _MOST_COUNT) or count & (count - 1):
        raise InputError("count", f"{count}", f"Give a power of 2 from {_LEAST_COUNT} to {_MOST_COUNT}.")
    points = _points(2 * len(names), count, seed)
    base = {
        name: (parameter.at(points[:, i]), parameter.at(points[:, len(names) + i]))
        for i, (name, parameter) in enumerate(zip(names, parameters, strict=True))
    }
    first = {name: values[0] for name, values in base.items()}
    second = {name: values[1] for name, values in base.items()}
    at_first, at_second = _call(function, first, count), _call(function, second, count)
    exchanged = {name: _call(function, {**first, name: second[name]}, count) for name in names}
    generator = np.random.default_rng([seed, len(names), count])
    rows = generator.integers(0, count, (resamples, count))
    outcomes = {
        key: _outcome(at_first[key], at_second[key], {name: exchanged[name][key] for name in names}, rows)
        for key in at_first
    }
    draws = {key: np.concatenate([at_first[key], at_second[key]]) for key in at_first}
    return Sensitivity(tuple(parameters), outcomes, draws, count * (len(names) + 2))


def moved_together(
    result: Sensitivity,
    function: Callable[[Values], Values],
    correlation: NDArray[np.float64],
    *,
    seed: int,
) -> Sensitivity:
    """Replace draws, means and deviations by those of dependent parameters, under a Gaussian copula.

    Indices stay as they are: Sobol's divide a variance among independent parameters and mean nothing like it of others.

    Parameters
    ----------
    result, function
        Of :func:`sensitivity`.
    correlation
        (p, p) of the parameters before they are cut, in their order; its nearest positive one is taken.
    seed
        Of the points.

    Raises
    ------
    InputError
        The matrix has another size or is no correlation, or an outcome is not finite.
    """
    size = len(result.parameters)
    square = correlation.shape == (size, size) and np.isfinite(correlation).all()
    if not (square and np.allclose(correlation, correlation.T, atol=1e-3) and np.allclose(np.diag(correlation), 1)):
        raise InputError("correlation", f"is none of {size} parameters", "Run the job again.")
    count = len(next(iter(result.draws.values())))
    values, vectors = np.linalg.eigh(0.5 * (correlation + correlation.T))
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    root /= np.linalg.norm(root, axis=1, keepdims=True)
    together = ndtr(ndtri(_points(size, count, seed)) @ root.T)
    edge = 1e-9
    together = np.clip(together, edge, 1 - edge)
    drawn = {one.name: one.at(together[:, i]) for i, one in enumerate(result.parameters)}
    draws = _call(function, drawn, count)
    outcomes = {
        key: replace(outcome, mean=float(draws[key].mean()), deviation=float(draws[key].std()))
        for key, outcome in result.outcomes.items()
    }
    return replace(result, outcomes=outcomes, draws=draws, evaluations=result.evaluations + count)


def _points(dimensions: int, count: int, seed: int) -> NDArray[np.float64]:
    engine = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    drawn = engine.draw(count, dtype=torch.float64).numpy()
    # Half a step off the edges, at which a normal distribution has no value.
    edge = 0.5 / count / 2**8
    values: NDArray[np.float64] = np.clip(drawn, edge, 1 - edge)
    return values


def _call(function: Callable[[Values], Values], values: Values, count: int) -> dict[str, NDArray[np.float64]]:
    found = {}
    for key, result in function(values).items():
        array = np.broadcast_to(np.asarray(result, dtype=np.float64), (count,))
        if not np.isfinite(array).all():
            raise InputError(key, "is not finite for some values of the parameters", "Bound them.")
        found[key] = array
    return found


def _outcome(a: NDArray[np.float64], b: NDArray[np.float64], exchanged: Values, rows: NDArray[np.int64]) -> Outcome:
    both = np.concatenate([a, b])
    mean, deviation = float(both.mean()), float(both.std())
    if deviation <= 1e-12 * max(abs(mean), 1e-300):
        return Outcome(mean, 0.0, {}, {})
    first, total = {}, {}
    for name, ab in exchanged.items():
        # Centred, which changes no index but its scatter.
        first[name] = _index((b - mean) * (ab - a), a, b, rows)
        total[name] = _index(0.5 * (a - ab) ** 2, a, b, rows)
    return Outcome(mean, deviation, first, total)


def _index(
    terms: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64], rows: NDArray[np.int64]
) -> Index:
    value = float(terms.mean() / np.concatenate([a, b]).var())
    # Variance of both sets in every resample, from their moments.
    size = rows.shape[1]
    means = (a[rows].sum(axis=1) + b[rows].sum(axis=1)) / (2 * size)
    squares = ((a * a)[rows].sum(axis=1) + (b * b)[rows].sum(axis=1)) / (2 * size)
    variances = np.maximum(squares - means**2, 1e-300)
    low, high = np.quantile(terms[rows].mean(axis=1) / variances, [0.05, 0.95])
    return Index(value, float(low), float(high))
