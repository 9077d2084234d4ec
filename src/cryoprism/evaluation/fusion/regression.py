"""Do weights and image quality move together? A regression of measured quality on what the score is made of."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError

from .judgements import read_assessment
from .weights import COMPONENTS, Array, Weights

__all__ = ["Coefficient", "QualityRegression", "QualityTable", "read_quality_table", "regress_quality"]

_BOOTSTRAPS: Final = 1000
_LEAST_ROWS: Final = 20
_ASSESSMENT: Final = "assessment"


@dataclass(frozen=True)
class QualityTable:
    """Numbers of many assessments.

    Attributes
    ----------
    columns
        Names of the numbers that explain.
    values
        (n, columns); of ``impact`` the count.
    quality
        (n,) measured.
    quality_name
        Its column.
    left_out
        Rows in which a number was missing.
    """

    columns: tuple[str, ...]
    values: Array
    quality: Array
    quality_name: str
    left_out: int


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
        Spearman correlation of V with quality: value, lower, upper; None where columns for V are missing.
    weights_correlation
        Correlation of the weights (times the spread of their components) with the coefficients: value, lower, upper;
        None as above.
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


def read_quality_table(path: str | Path, quality: str, columns: Sequence[str] = ()) -> QualityTable:
    """Read a table with a heading, tabs or commas between columns.

    A column ``assessment`` names each row's ``assessment.json`` (relative to the table): its answers are columns then.

    Parameters
    ----------
    path
        The file.
    quality
        Column of the measured quality, larger is better unless the caller turns it.
    columns
        That explain it; by default the components that the table has, else every column of numbers.

    Raises
    ------
    InputError
        The file, a column or a number cannot be read (the error names the line), or fewer than 20 rows are whole.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
        tabs = "\t" in text.partition("\n")[0]
        rows = list(csv.reader(io.StringIO(text), delimiter="\t" if tabs else ","))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(file, f"cannot be read: {error}", "Give a table with a heading, as TSV or CSV.") from error
    if len(rows) < 2:
        raise InputError(file, "holds no rows under a heading", "Give a table with a heading, as TSV or CSV.")
    head = [name.strip() for name in rows[0]]
    if _ASSESSMENT in head:
        rows = _with_answers(file, head, rows)
        head = rows[0]
    for name in (quality, *columns):
        if name not in head:
            raise InputError(file, f"has no column '{name}'", f"Its columns are {', '.join(head)}.")
    chosen = list(columns) or [name for name in COMPONENTS if name in head and name != quality]
    if not chosen:
        chosen = [name for i, name in enumerate(head) if name != quality and _is_numeric(rows[1:], i)]
    if not chosen:
        raise InputError(file, "has no column of numbers beside the quality", "Name columns of numbers.")
    wanted = [head.index(name) for name in (*chosen, quality)]
    found, left_out = [], 0
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(head):
            raise InputError(f"{file} line {number}", f"{len(row)} cells of {len(head)}", "Mend the line.")
        numbers = [_number(row[i], f"{file} line {number}: {head[i]}") for i in wanted]
        if all(math.isfinite(value) for value in numbers):
            found.append(numbers)
        else:
            left_out += 1
    if len(found) < max(_LEAST_ROWS, 4 * len(chosen)):
        raise InputError(
            file, f"{len(found)} rows have every number", f"Give at least {max(_LEAST_ROWS, 4 * len(chosen))}."
        )
    table = np.array(found)
    return QualityTable(tuple(chosen), table[:, :-1], table[:, -1], quality, left_out)


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

    Where the table has all five components, V with the weights in use is compared with quality too, and the weights
    with the coefficients. Intervals are quantiles over rows drawn with replacement.

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
    predicted = _held_out(x, y, ridge, generator)
    used = weights.in_use
    has_all = set(COMPONENTS) <= set(table.columns)
    order = [table.columns.index(name) for name in COMPONENTS] if has_all else []
    w = np.array([used.mean[name] for name in COMPONENTS])
    v = x[:, order] @ w if has_all else None

    def statistics(rows: NDArray[np.intp]) -> list[float]:
        coefficients, spread = _ridge(x[rows], y[rows], ridge)
        found: list[float] = [*coefficients.tolist(), _explained(y[rows], predicted[rows])]
        if v is not None:
            found += [_spearman(v[rows], y[rows]), _pearson(w * spread[order], coefficients[order])]
        return found

    count = len(y)
    at: Array = np.array(statistics(np.arange(count)))
    drawn = np.array([statistics(generator.integers(0, count, count)) for _ in range(bootstraps)])
    low, high = np.nanquantile(drawn, (0.025, 0.975), axis=0)
    many = len(table.columns)
    coefficients = tuple(
        Coefficient(name, float(at[i]), float(low[i]), float(high[i]), _spearman(x[:, i], y))
        for i, name in enumerate(table.columns)
    )
    triples = [(float(at[i]), float(low[i]), float(high[i])) for i in range(many, len(at))]
    score = triples[1] if has_all else None
    agreement = triples[2] if has_all else None
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
    if score is not None and agreement is not None:
        said.append(f"V and {name} {_together(score, 'Spearman')}")
        said.append(f"The weights and what {name} goes with {_together(agreement, 'correlation')} {source}")
    else:
        lacking = [one for one in COMPONENTS if one not in table.columns]
        said.append(
            f"Whether weights and {name} move together cannot be said: the table has no column {', '.join(lacking)}."
        )
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


def _with_answers(file: Path, head: list[str], rows: list[list[str]]) -> list[list[str]]:
    column, added = head.index(_ASSESSMENT), [name for name in COMPONENTS if name not in head]
    found = [[*head, *added]]
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            found.append([])
        elif len(row) != len(head):
            raise InputError(f"{file} line {number}", f"{len(row)} cells of {len(head)}", "Mend the line.")
        else:
            told = read_assessment(file.parent / row[column].strip(), where=f"{file} line {number}").values
            found.append([*row, *("" if told[name] is None else repr(told[name]) for name in added)])
    return found


def _is_numeric(rows: Sequence[Sequence[str]], column: int) -> bool:
    cells = [row[column].strip() for row in rows[:200] if column < len(row)]
    try:
        return sum(math.isfinite(float(cell)) for cell in cells if cell) > 0.5 * len(cells)
    except ValueError:
        return False


def _number(cell: str, where: str) -> float:
    text = cell.strip()
    if text.lower() in {"", "na", "n/a", "nan", "none", "null", "-"}:
        return math.nan
    try:
        return float(text)
    except ValueError as error:
        raise InputError(where, f"{text!r} is no number", "Mend the cell, or leave it empty.") from error


def _ridge(x: Array, y: Array, ridge: float) -> tuple[Array, Array]:
    spread = x.std(axis=0)
    scaled = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    target = (y - y.mean()) / (y.std() or 1.0)
    return np.linalg.solve(scaled.T @ scaled + ridge * np.eye(x.shape[1]), scaled.T @ target), spread


def _held_out(x: Array, y: Array, ridge: float, generator: np.random.Generator, folds: int = 5) -> Array:
    fold = generator.permutation(len(y)) % folds
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
