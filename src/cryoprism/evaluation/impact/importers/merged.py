"""Works that OpenAlex has merged into others: whoever cites the old number cites the work it became part of."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

from cryoprism.core import InputError
from cryoprism.evaluation.impact.graph import GraphWriter

from .dumps import ImportCount, lines_of, numbered
from .identifiers import openalex_number

__all__ = ["import_merged_works"]

_COLUMNS: Final = ("id", "merge_into_id")
_REMEDY: Final = "Give files of merged_ids/works of OpenAlex's snapshot (merge_date,id,merge_into_id), or that folder."


def import_merged_works(path: str | Path, writer: GraphWriter) -> ImportCount:
    """Read ``merged_ids/works`` of OpenAlex's snapshot: CSV with ``merge_date,id,merge_into_id``, a file or a folder.

    Files are named after their day and read in that order: a later merger of the same work replaces an earlier one.
    Source: OpenAlex, “Snapshot data format”, section “Merged entities”.

    Raises
    ------
    InputError
        There is no such file, or one has no such columns.
    """
    root = Path(path)
    files = sorted(one for one in root.rglob("*.csv*") if one.is_file()) if root.is_dir() else [root]
    count = ImportCount(str(path))
    for file in files:
        _read(file, writer, count)
    return count.require_any("merged works")


def _read(file: Path, writer: GraphWriter, count: ImportCount) -> None:
    with lines_of(file) as stream:
        lines = numbered(stream, count)
        _, first = next(lines, (0, ""))
        head = [name.strip() for name in first.split(",")]
        if lacking := [name for name in _COLUMNS if name not in head]:
            raise InputError(file, f"has no column {lacking[0]}", _REMEDY)
        gone, kept = (head.index(name) for name in _COLUMNS)
        for number, line in lines:
            if not line.strip():
                continue
            try:
                cells = next(csv.reader([line.replace("\0", "")]))
                writer.merged(openalex_number(cells[gone].strip()), openalex_number(cells[kept].strip()))
            except (ValueError, IndexError, StopIteration, csv.Error) as error:
                count.refuse(
                    f"{file} line {number}", "a cell is missing" if isinstance(error, IndexError) else str(error)
                )
            else:
                count.read += 1
