"""How like the outputs of two runs are: the same bytes, or how far their numbers lie apart."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from cryoprism.core import InputError
from cryoprism.evaluation.documents import number_in, read_json
from cryoprism.formats import read_mrc, sha256_of_file

__all__ = ["SAME", "FileComparison", "compare_outputs", "equal_outputs"]

#: From this agreement on two results are equal: no number in them differs by more than a thousandth.
SAME: Final = 1.0 - 1e-3
#: Numbers that differ by no more than this are equal however small they are: rounding about zero.
_NOTHING: Final = 1e-9

#: What a run writes about itself and for going on; pictures and pages show what is in the other files.
_NOT_RESULTS: Final = {
    "job.json", "run.log", "RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_OUTPUT_NODES.star",
    "passes.npz", "deposition.json",
}  # fmt: skip
_PICTURES: Final = {".png", ".html", ".svg", ".pdf"}
#: Keys that tell of the run, not of the result, and words of a key that do.
_KEYS_OF_THE_RUN: Final = {"time", "date", "started", "finished", "created"}
_WORDS_OF_THE_RUN: Final = {"second", "seconds", "cpu", "memory"}
_WORD: Final = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
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

    Maps and stacks: 1 − ‖a − b‖/‖a‖, at least 0. JSON: the least alike of its values, of numbers
    1 − |a − b|/max(|a|, |b|), of texts and all else the same (1) or not (0), names of files without their folder, what
    tells of the run left out; tables (STAR) the same over their cells, archives over their arrays. So one wrong value
    is not lost among many right ones. Anything else: the same bytes or not.

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


def equal_outputs(files: Sequence[FileComparison]) -> list[bool]:
    """Return for each output of a job whether it is equal: a file in its folder, or a folder in that with all it holds.

    A folder of like files (a picture or a stack of each micrograph) is one output, so that many files of one kind do
    not outvote the one table that everything else rests on.
    """
    found: dict[str, bool] = {}
    for one in files:
        output = Path(one.name).parts[0]
        found[output] = found.get(output, True) and one.agreement >= SAME
    return list(found.values())


def _compare(name: str, first: Path, second: Path) -> FileComparison:
    if not second.is_file():
        return FileComparison(name, 0.0, "was not made")
    if sha256_of_file(first) == sha256_of_file(second):
        return FileComparison(name, 1.0, "the same bytes")
    try:
        if first.suffix in {".mrc", ".mrcs"}:
            return _arrays(name, read_mrc(first)[0], read_mrc(second)[0])
        if first.suffix == ".json":
            return _values(name, dict(_leaves(read_json(first))), dict(_leaves(read_json(second))), "values")
        if first.suffix == ".npz":
            return _archive(name, first, second)
        if first.suffix == ".star":
            return _values(name, dict(enumerate(_cells(first))), dict(enumerate(_cells(second))), "cells")
    except (InputError, ValueError, OSError, RecursionError, zipfile.BadZipFile) as error:
        return FileComparison(name, 0.0, f"could not be compared ({error})")
    return FileComparison(name, 0.0, "other bytes")


def _arrays(name: str, first: Any, second: Any) -> FileComparison:
    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if a.shape != b.shape:
        return FileComparison(name, 0.0, f"shape {a.shape} and {b.shape}")
    if np.array_equal(a, b, equal_nan=True):
        return FileComparison(name, 1.0, "the same values")
    norm = float(np.linalg.norm(a))
    apart = float(np.linalg.norm(a - b))
    relative = apart / norm if norm else (0.0 if apart == 0 else 1.0)
    spread = float(a.std() * b.std())
    correlation = float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread else math.nan
    return FileComparison(
        name, max(0.0, 1.0 - relative), f"relative difference {relative:.2g}, correlation {correlation:.6f}"
    )


def _archive(name: str, first: Path, second: Path) -> FileComparison:
    """Arrays of both archives; those of the first that are not numbers count as the same or not."""
    shares: list[float] = []
    worst = ""
    with np.load(first, allow_pickle=False) as a, np.load(second, allow_pickle=False) as b:
        for key in a.files:
            one, other = a[key], b[key] if key in b.files else None
            if other is None:
                share = 0.0
            elif one.dtype.kind in "biuf" and other.dtype.kind in "biuf":
                share = _arrays(key, one, other).agreement
            else:
                share = float(np.array_equal(one, other))
            worst = key if not shares or share < min(shares) else worst
            shares.append(share)
    if not shares:
        return FileComparison(name, 1.0, "no arrays")
    return FileComparison(name, min(shares), f"{len(shares)} arrays, least alike {worst} ({min(shares):.4f})")


def _values(name: str, first: dict[Any, Any], second: dict[Any, Any], what: str) -> FileComparison:
    shares, largest, others = [], 0.0, []
    for key in sorted(first.keys() | second.keys(), key=str):
        deviation = _deviation(first.get(key), second.get(key)) if key in first and key in second else 1.0
        shares.append(1.0 - deviation)
        if deviation and not (_is_number(first.get(key)) and _is_number(second.get(key))):
            others.append(str(key))
        else:
            largest = max(largest, deviation)
    agreement = min(shares, default=1.0)
    equal = sum(share >= SAME for share in shares)
    how = f"{len(shares)} {what}, {equal} of them equal, largest relative deviation of a number {largest:.2g}"
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        how += f"; other or missing: {', '.join(others[:3])}{more}"
    return FileComparison(name, agreement, how)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _deviation(a: Any, b: Any) -> float:
    if not (_is_number(a) and _is_number(b)):
        return 0.0 if type(a) is type(b) and a == b else 1.0
    if a == b or (a != a and b != b):
        return 0.0
    one, other = number_in(a), number_in(b)
    if abs(one - other) <= _NOTHING:
        return 0.0
    largest = max(abs(one), abs(other))
    return min(1.0, abs(one - other) / largest) if math.isfinite(one) and math.isfinite(other) else 1.0


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not _is_of_the_run(str(key)):
                yield from _leaves(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{path}/{number}")
    else:
        yield path, _without_folder(value) if isinstance(value, str) else value


def _cells(path: Path) -> list[float | str]:
    """Cells of a table; names of files count without the folder that holds them, which is another one."""
    cells: list[float | str] = []
    for word in path.read_text(encoding="utf-8").split():
        if _NUMBER.match(word):
            cells.append(float(word))
        else:
            cells.append(_without_folder(word))
    return cells


def _without_folder(text: str) -> str:
    """Return a path without its folder, which is another one in a re-run; any other text as it is."""
    return text.rsplit("/", 1)[-1] if "/" in text and not any(one.isspace() for one in text) else text


def _is_of_the_run(key: str) -> bool:
    words = {word.lower() for word in _WORD.findall(key)}
    return key.lower() in _KEYS_OF_THE_RUN or bool(words & _WORDS_OF_THE_RUN)
