"""Patents of PatentsView, what they cite and what they refer to: tab-separated tables."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryoprism.core import InputError
from cryoprism.evaluation.impact.graph import GraphWriter

from .dumps import MOST_LINE, ImportCount, lines_of, numbered
from .identifiers import clean_doi, year_of

__all__ = ["import_patent_citations", "import_patent_references", "import_patents"]

#: Lines over which a quoted cell of a table may go before its quote is taken for a stray one.
_MOST_LINES_OF_A_CELL: Final = 50


def import_patents(path: str | Path, writer: GraphWriter) -> ImportCount:
    """Read PatentsView's ``g_patent`` (``patent_id``, ``patent_date``): TSV, gzipped or zipped.

    Raises
    ------
    InputError
        The file cannot be read, lacks a column or holds no patents.
    """
    count = ImportCount(str(path))
    for where, row in _rows(path, count, ("patent_id", "patent_date")):
        try:
            time = year_of(row[1])
        except ValueError:
            count.refuse(where, f"{row[1]!r} is no date")
            continue
        writer.patent(row[0], time)
        count.read += 1
    return count.require_any("patents")


def import_patent_citations(path: str | Path, writer: GraphWriter) -> ImportCount:
    """Read PatentsView's ``g_us_patent_citation`` (``patent_id`` cites ``citation_patent_id``).

    Raises
    ------
    InputError
        As :func:`import_patents`.
    """
    count = ImportCount(str(path))
    for _, row in _rows(path, count, ("patent_id", "citation_patent_id")):
        writer.patent_cites_patent(row[0], row[1])
        count.read += 1
    return count.require_any("citations among patents")


def import_patent_references(path: str | Path, writer: GraphWriter) -> ImportCount:
    """Read PatentsView's ``g_other_reference`` (``patent_id``, ``other_reference_text``); texts with a DOI count.

    Raises
    ------
    InputError
        As :func:`import_patents`.
    """
    count = ImportCount(str(path))
    for _, row in _rows(path, count, ("patent_id", "other_reference_text")):
        count.read += 1
        doi = clean_doi(row[1])
        if doi is not None:
            writer.patent_cites_doi(row[0], doi)
    return count.require_any("references of patents")


def _records(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    """Cells of each record of a tab-separated table, with the number of its first line.

    A quoted cell may hold line ends. A quote that is not closed within 50 lines is a stray one: its line is read
    without quoting, and the following ones by themselves, so that one bad cell costs no other record.
    """
    waiting: deque[tuple[int, str]] = deque()
    while True:
        if not waiting:
            if (one := next(lines, None)) is None:
                return
            waiting.append(one)
        number, text = waiting.popleft()
        held: list[tuple[int, str]] = []
        while text.count('"') % 2 and len(held) < _MOST_LINES_OF_A_CELL:
            one = waiting.popleft() if waiting else next(lines, None)
            if one is None:
                break
            held.append(one)
            text += one[1]
        if text.count('"') % 2:
            first = text[: len(text) - sum(len(line) for _, line in held)]
            waiting.extendleft(reversed(held))
            yield number, first.rstrip("\r\n").split("\t")
        elif text.strip():
            try:
                yield number, next(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))
            except csv.Error:  # a lone carriage return
                yield number, text.rstrip("\r\n").split("\t")


def _rows(path: str | Path, count: ImportCount, columns: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    csv.field_size_limit(2 * MOST_LINE)
    with lines_of(path) as stream:
        records = _records((number, line.replace("\0", "")) for number, line in numbered(stream, count))
        head = [name.strip() for name in next(records, (0, []))[1]]
        if lacking := [name for name in columns if name not in head]:
            raise InputError(
                path, f"has no column {lacking[0]}", f"Give PatentsView's table with {', '.join(columns)}."
            )
        wanted = [head.index(name) for name in columns]
        for number, row in records:
            where = f"{path} line {number}"
            if len(row) != len(head):
                count.refuse(where, f"{len(row)} cells of {len(head)}")
            elif not all(row[i].strip() for i in wanted):
                count.refuse(where, "a cell is empty")
            else:
                yield where, [row[i].strip() for i in wanted]
