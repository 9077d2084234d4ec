"""A table of assessments and a measured quality, as people make it: TSV or CSV, with names of assessments if wanted."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError

from .judgements import read_assessment
from .weights import COMPONENTS, Array

__all__ = ["SAME", "QualityTable", "read_quality_table"]

_LEAST_ROWS: Final = 20
_LEAST_GROUPS: Final = 5
_ASSESSMENT: Final = "assessment"
#: Why a component is of no use here.
SAME: Final = "it is the same in every row"


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
    absent
        Components that cannot be used, with why: in no row, or the same in every row.
    groups
        (n,) number of the group of each row: rows of one group, such as runs of one specimen, are not independent; None
        where each row stands for itself.
    """

    columns: tuple[str, ...]
    values: Array
    quality: Array
    quality_name: str
    left_out: int
    absent: Mapping[str, str] = field(default_factory=dict)
    groups: NDArray[np.intp] | None = None


def read_quality_table(
    path: str | Path, quality: str, columns: Sequence[str] = (), group: str | None = None
) -> QualityTable:
    """Read a table with a heading, tabs or commas between columns.

    A column ``assessment`` names each row's ``assessment.json`` (relative to the table): its answers are columns then.
    A component that is in no row, or the same in every row, is left out unless it was asked for.

    Parameters
    ----------
    path
        The file.
    quality
        Column of the measured quality, larger is better unless the caller turns it.
    columns
        That explain it; by default the components that the table has, else every column of numbers.
    group
        Column of names: rows with the same one belong together.

    Raises
    ------
    InputError
        The file, a column or a number cannot be read (the error names the line), or fewer than 20 rows are whole, or
        fewer than five groups.
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
    if quality in columns:
        raise InputError(
            "--column", f"'{quality}' is the quality itself, which explains itself whole", "Name other columns."
        )
    head = [name.strip() for name in rows[0]]
    if _ASSESSMENT in head:
        rows = _with_answers(file, head, rows)
        head = rows[0]
    for name in (quality, *columns, *([] if group is None else [group])):
        if name not in head:
            raise InputError(file, f"has no column '{name}'", f"Its columns are {', '.join(head)}.")
    chosen = list(columns) or [name for name in COMPONENTS if name in head and name != quality]
    absent: dict[str, str] = {}
    if not columns:
        absent = {name: why for name in chosen if (why := _useless(file, head, rows, name, quality))}
        # Where nothing is left, the error about what stays says what is wrong.
        chosen = [name for name in chosen if name not in absent] or chosen
    if not chosen:
        chosen = [name for i, name in enumerate(head) if name not in {quality, group} and _is_numeric(rows[1:], i)]
    if not chosen:
        raise InputError(file, "has no column of numbers beside the quality", "Name columns of numbers.")
    wanted = [head.index(name) for name in (*chosen, quality)]
    found, names, left_out = [], [], 0
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(head):
            raise InputError(f"{file} line {number}", f"{len(row)} cells of {len(head)}", "Mend the line.")
        numbers = [_number(row[i], f"{file} line {number}: {head[i]}", head[i]) for i in wanted]
        if all(math.isfinite(value) for value in numbers):
            found.append(numbers)
            names.append("" if group is None else row[head.index(group)].strip())
        else:
            left_out += 1
    if len(found) < max(_LEAST_ROWS, 4 * len(chosen)):
        raise InputError(
            file, f"{len(found)} rows have every number", f"Give at least {max(_LEAST_ROWS, 4 * len(chosen))}."
        )
    table = np.array(found)
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if group is not None and len(order) < _LEAST_GROUPS:
        raise InputError(file, f"column '{group}' has {len(order)} groups", f"Give at least {_LEAST_GROUPS}.")
    groups = None if group is None else np.array([order[name] for name in names])
    return QualityTable(tuple(chosen), table[:, :-1], table[:, -1], quality, left_out, absent, groups)


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


def _useless(file: Path, head: list[str], rows: Sequence[Sequence[str]], name: str, quality: str) -> str:
    """Why a component cannot be used: it is in no row that has a quality, or the same in every one; empty if it can."""
    at, beside = head.index(name), head.index(quality)
    found = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) == len(head) and not math.isnan(_number(row[beside], f"{file} line {number}: {quality}")):
            found.append(_number(row[at], f"{file} line {number}: {name}", name))
    values = [one for one in found if math.isfinite(one)]
    if not values:
        return "it is in no row"
    return SAME if max(values) == min(values) and len(values) == len(found) else ""


def _number(cell: str, where: str, name: str = "") -> float:
    text = cell.strip()
    if text.lower() in {"", "na", "n/a", "nan", "none", "null", "-"}:
        return math.nan
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(where, f"{text[:40]!r} is no number", "Mend the cell, or leave it empty.") from error
    if name in COMPONENTS and not 0 <= value <= (math.inf if name == "impact" else 1.0):
        reach = "at least 0" if name == "impact" else "from 0 to 1"
        raise InputError(where, f"{text[:40]} is out of range", f"Give a number {reach}, or leave the cell empty.")
    return value
