"""Do weights and image quality move together? A regression of measured quality on what the score is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError

from .quality_table import SAME, QualityTable
from .weights import COMPONENTS, Array, Weights

__all__ = ["Coefficient", "QualityRegression", "regress_quality"]

_BOOTSTRAPS: Final = 1000
#: One component alone is no sum, and of two weights a correlation is ±1 whatever they are.
_LEAST_FOR_V, _LEAST_FOR_WEIGHTS = 2, 3


@dataclass(frozen=True)
class Coefficient:
    """Of one column: change of quality, in its standard deviations, for one standard deviation more of the column.

    Attributes
    ----------
    name
        Column.
    value, lower, upper
        With its 95 % bootstrap interval, all other columns held.
    alone
        Spearman correlation of the column by itself with quality.
    """

    name: str
    value: float
    lower: float
    upper: float
    alone: float


@dataclass(frozen=True)
class QualityRegression:
    """What :func:`regress_quality` found.

    Attributes
    ----------
    coefficients
        One a column.
    explained, explained_interval
        R² on rows that were not fitted (five-fold), and its 95 % bootstrap interval.
    score_correlation
        Spearman correlation of V with quality: value, lower, upper; None where the table has fewer than two of the
        components. V is that of those it has, their weights as if the others had no answer.
    weights_correlation
        Correlation of the weights (times the spread of their components) with the coefficients: value, lower, upper;
        None where there are fewer than three.
    rows, ridge
        Rows that were used and the penalty, in rows.
    predicted
        (n,) quality of each row as foretold by the other folds.
    sentences
        In words.
    """

    coefficients: tuple[Coefficient, ...]
    explained: float
    explained_interval: tuple[float, float]
    score_correlation: tuple[float, float, float] | None
    weights_correlation: tuple[float, float, float] | None
    rows: int
    ridge: float
    predicted: Array
    sentences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all but the predictions."""
        return {
            "coefficients": [vars(one) for one in self.coefficients],
            "explained": self.explained,
            "explained_interval": list(self.explained_interval),
            "score_correlation": None if self.score_correlation is None else list(self.score_correlation),
            "weights_correlation": None if self.weights_correlation is None else list(self.weights_correlation),
            "rows": self.rows,
            "ridge": self.ridge,
            "sentences": list(self.sentences),
        }


def regress_quality(
    table: QualityTable,
    weights: Weights,
    *,
    lower_is_better: bool = False,
    ridge: float = 1.0,
    bootstraps: int = _BOOTSTRAPS,
    seed: int = 0,
) -> QualityRegression:
    """Regress quality on the columns, all in their own standard deviations, by ridge regression.

    Where the table has components, V with the weights in use is compared with quality too, and the weights with the
    coefficients; weights of components that it lacks are shared among the others, as in a score. Intervals are
    quantiles over rows drawn with replacement, over whole groups where the table has them; then whole groups are held
    out too.

    Parameters
    ----------
    table
        Of assessments.
    weights
        Those to be compared.
    lower_is_better
        Quality is turned round first: for a resolution in Å.
    ridge
        Penalty in rows: 1 is as much as one more row says.
    bootstraps, seed
        Of the intervals.

    Raises
    ------
    InputError
        A column or the quality is the same everywhere.
    """
    x = np.stack(
        [
            np.log1p(np.maximum(column, 0)) if name == "impact" else column
            for name, column in zip(table.columns, table.values.T, strict=True)
        ],
        axis=1,
    )
    y = -table.quality if lower_is_better else table.quality
    for name, column in (*zip(table.columns, x.T, strict=True), (table.quality_name, y)):
        if not column.std() > 1e-12 * max(1.0, float(np.abs(column).max())):
            raise InputError(name, "is the same in every row", "Leave the column out, or give rows that differ.")
    generator = np.random.default_rng(seed)
    count = len(y)
    groups = np.arange(count) if table.groups is None else table.groups
    members = [np.flatnonzero(groups == number) for number in range(int(groups.max()) + 1)]
    predicted = _held_out(x, y, ridge, generator, groups)
    used = weights.in_use
    held = [name for name in COMPONENTS if name in table.columns]
    order = [table.columns.index(name) for name in held]
    w = np.array([used.mean[name] for name in held])
    v = x[:, order] @ (w / w.sum()) if len(held) >= _LEAST_FOR_V else None
    several = len(held) >= _LEAST_FOR_WEIGHTS

    def statistics(rows: NDArray[np.intp]) -> list[float]:
        coefficients, spread = _ridge(x[rows], y[rows], ridge)
        found: list[float] = [*coefficients.tolist(), _explained(y[rows], predicted[rows])]
        if v is not None:
            found.append(_spearman(v[rows], y[rows]))
        if several:
            found.append(_pearson(w * spread[order], coefficients[order]))
        return found

    def draw() -> NDArray[np.intp]:
        chosen = generator.integers(0, len(members), len(members))
        return chosen if table.groups is None else np.concatenate([members[k] for k in chosen])

    at: Array = np.array(statistics(np.arange(count)))
    drawn = np.array([statistics(draw()) for _ in range(bootstraps)])
    low, high = np.nanquantile(drawn, (0.025, 0.975), axis=0)
    many = len(table.columns)
    coefficients = tuple(
        Coefficient(name, float(at[i]), float(low[i]), float(high[i]), _spearman(x[:, i], y))
        for i, name in enumerate(table.columns)
    )
    triples = [(float(at[i]), float(low[i]), float(high[i])) for i in range(many, len(at))]
    score = None if v is None else triples[1]
    agreement = triples[2] if several else None
    return QualityRegression(
        coefficients,
        triples[0][0],
        triples[0][1:],
        score,
        agreement,
        count,
        ridge,
        -predicted if lower_is_better else predicted,
        _sentences(table, lower_is_better, coefficients, triples[0], score, agreement, used.sentence()),
    )


def _sentences(
    table: QualityTable,
    lower_is_better: bool,
    coefficients: Sequence[Coefficient],
    explained: tuple[float, float, float],
    score: tuple[float, float, float] | None,
    agreement: tuple[float, float, float] | None,
    source: str,
) -> tuple[str, ...]:
    name = f"{table.quality_name} (lower is better)" if lower_is_better else table.quality_name
    said = []
    lacking = [
        f"{one} (the same in every row)" if table.absent.get(one) == SAME else one
        for one in COMPONENTS
        if one not in table.columns
    ]
    without = f"{', '.join(lacking[:-1])} and {lacking[-1]}" if len(lacking) > 1 else "".join(lacking)
    if score is None:
        said.append(f"Whether V or weights and {name} move together cannot be said: the table has no {without}.")
    else:
        shared = f" V is without {without}, whose weight is shared among the others." if lacking else ""
        said.append(f"V and {name} {_together(score, 'Spearman')}{shared}")
        if agreement is not None:
            many = len(COMPONENTS) - len(lacking)
            said.append(
                f"The weights and what {name} goes with {_together(agreement, 'correlation')} That is over {many} "
                f"answers, and one of them alone can make it. {source}"
            )
        else:
            said.append(f"With two answers, whether weights and {name} move together cannot be said.")
    rise = [one for one in coefficients if one.lower > 0]
    fall = [one for one in coefficients if one.upper < 0]
    unclear = [one.name for one in coefficients if one.lower <= 0 <= one.upper]
    for words, chosen in (("rises", rise), ("falls", fall)):
        if chosen:
            listed = ", ".join(
                f"{one.name} ({one.value:+.2f}, 95 % {one.lower:+.2f} to {one.upper:+.2f})" for one in chosen
            )
            said.append(f"{name} {words} with {listed}, in standard deviations and all others held.")
    if unclear:
        said.append(f"No clear effect: {', '.join(unclear)}.")
    said.append(
        f"All columns together explain {100 * explained[0]:.0f} % of its variance on rows that were not fitted "
        f"(95 % {100 * explained[1]:.0f} to {100 * explained[2]:.0f}); {len(table.quality)} rows, "
        f"{table.left_out} left out for a missing number."
    )
    if table.groups is not None:
        many = int(table.groups.max()) + 1
        said.append(f"Rows of one group belong together: {many} groups were drawn and held out as wholes.")
    said.append("A regression shows what goes together, not what causes what.")
    return tuple(said)


def _together(found: tuple[float, float, float], kind: str) -> str:
    value, low, high = found
    numbers = f"{kind} {value:+.2f}, 95 % {low:+.2f} to {high:+.2f}"
    if low > 0:
        return f"move together ({numbers})."
    if high < 0:
        return f"move against each other ({numbers})."
    return f"are not seen to move together ({numbers})."


def _ridge(x: Array, y: Array, ridge: float) -> tuple[Array, Array]:
    spread = x.std(axis=0)
    scaled = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    target = (y - y.mean()) / (y.std() or 1.0)
    return np.linalg.solve(scaled.T @ scaled + ridge * np.eye(x.shape[1]), scaled.T @ target), spread


def _held_out(
    x: Array, y: Array, ridge: float, generator: np.random.Generator, groups: NDArray[np.intp], folds: int = 5
) -> Array:
    fold = (generator.permutation(int(groups.max()) + 1) % folds)[groups]
    found = np.empty(len(y))
    for k in range(folds):
        fit = fold != k
        coefficients, spread = _ridge(x[fit], y[fit], ridge)
        scaled = (x[~fit] - x[fit].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
        found[~fit] = y[fit].mean() + y[fit].std() * (scaled @ coefficients)
    return found


def _explained(y: Array, predicted: Array) -> float:
    total = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - predicted) ** 2).sum()) / total if total > 0 else math.nan


def _spearman(a: Array, b: Array) -> float:
    from scipy.stats import rankdata

    return _pearson(rankdata(a), rankdata(b))


def _pearson(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else math.nan
