"""How like the outputs of two runs are: the same bytes, or how far their numbers lie apart."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from cryoprism.core import InputError
from cryoprism.formats import read_mrc

__all__ = ["FileComparison", "compare_outputs"]

#: What a run writes about itself and for going on; pictures and pages show what is in the other files.
_NOT_RESULTS: Final = {
    "job.json", "run.log", "RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_OUTPUT_NODES.star",
    "passes.npz", "deposition.json",
}  # fmt: skip
_PICTURES: Final = {".png", ".html", ".svg", ".pdf"}
#: Numbers that tell of the run, not of the result.
_OF_THE_RUN: Final = re.compile(r"second|cpu|time|memory|date", re.IGNORECASE)
_NUMBER: Final = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


@dataclass(frozen=True)
class FileComparison:
    """One output in two runs.

    Attributes
    ----------
    name
        Path inside the job folder.
    agreement
        1 for the same, 0 for nothing in common or missing.
    how
        What was compared, in words.
    """

    name: str
    agreement: float
    how: str

    def to_json(self) -> dict[str, Any]:
        """Return it by name."""
        return vars(self).copy()


def compare_outputs(before: Path, after: Path) -> tuple[FileComparison, ...]:
    """Compare every result in a job folder with that of another run of the same job.

    Maps and stacks: 1 − ‖a − b‖/‖a‖, at least 0. Numbers in JSON: mean of 1 − |a − b|/max(|a|, |b|), those that tell of
    the run left out; tables (STAR) the same over their cells, text counting as the same or not. Anything else: the same
    bytes or not.

    Parameters
    ----------
    before, after
        Folders of both runs. What is only in ``after`` does not count.
    """
    found = []
    for path in sorted(before.rglob("*")):
        name = str(path.relative_to(before))
        hidden = any(part.startswith(".") for part in path.relative_to(before).parts)
        if not path.is_file() or hidden or path.name in _NOT_RESULTS or path.suffix in _PICTURES:
            continue
        found.append(_compare(name, path, after / name))
    return tuple(found)


def _compare(name: str, first: Path, second: Path) -> FileComparison:
    if not second.is_file():
        return FileComparison(name, 0.0, "was not made")
    if _hash(first) == _hash(second):
        return FileComparison(name, 1.0, "the same bytes")
    try:
        if first.suffix in {".mrc", ".mrcs"}:
            return _arrays(name, read_mrc(first)[0], read_mrc(second)[0])
        if first.suffix == ".json":
            contents = [json.loads(path.read_text(encoding="utf-8")) for path in (first, second)]
            return _values(name, dict(_leaves(contents[0])), dict(_leaves(contents[1])), "numbers")
        if first.suffix == ".star":
            return _values(name, dict(enumerate(_cells(first))), dict(enumerate(_cells(second))), "cells")
    except (InputError, ValueError, OSError) as error:
        return FileComparison(name, 0.0, f"could not be compared ({error})")
    return FileComparison(name, 0.0, "other bytes")


def _arrays(name: str, first: Any, second: Any) -> FileComparison:
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if a.shape != b.shape:
        return FileComparison(name, 0.0, f"shape {a.shape} and {b.shape}")
    norm = float(np.linalg.norm(a))
    apart = float(np.linalg.norm(a - b))
    relative = apart / norm if norm else (0.0 if apart == 0 else 1.0)
    spread = float(a.std() * b.std())
    correlation = float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread else math.nan
    return FileComparison(
        name, max(0.0, 1.0 - relative), f"relative difference {relative:.2g}, correlation {correlation:.6f}"
    )


def _values(name: str, first: dict[Any, Any], second: dict[Any, Any], what: str) -> FileComparison:
    shares, largest = [], 0.0
    for key in first.keys() | second.keys():
        deviation = _deviation(first.get(key), second.get(key)) if key in first and key in second else 1.0
        shares.append(1.0 - deviation)
        largest = max(largest, deviation)
    agreement = sum(shares) / len(shares) if shares else 1.0
    return FileComparison(name, agreement, f"{len(shares)} {what}, largest relative deviation {largest:.2g}")


def _deviation(a: Any, b: Any) -> float:
    numbers = [value for value in (a, b) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < 2:
        return 0.0 if a == b else 1.0
    largest = max(abs(a), abs(b))
    if largest == 0 or a == b:
        return 0.0
    return min(1.0, abs(a - b) / largest) if math.isfinite(largest) else 1.0


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not _OF_THE_RUN.search(str(key)):
                yield from _leaves(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{path}/{number}")
    elif isinstance(value, int | float) or value is None:
        yield path, value


def _cells(path: Path) -> list[float | str]:
    """Cells of a table; names of files count without the folder that holds them, which is another one."""
    cells: list[float | str] = []
    for word in path.read_text(encoding="utf-8").split():
        if _NUMBER.match(word):
            cells.append(float(word))
        else:
            cells.append(word.rsplit("/", 1)[-1] if "/" in word else word)
    return cells


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
