"""Public bibliographic dumps into a citation graph: OpenAlex works, PatentsView, PDB and EMDB entries.

Every file is read once, line by line. A line that cannot be used is counted and the first ones are named.
"""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import math
import re
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO
from urllib.parse import unquote
from xml.etree import ElementTree

from cryoprism.core import InputError

from .graph import GraphWriter

__all__ = [
    "ImportCount",
    "clean_doi",
    "import_entries",
    "import_openalex",
    "import_patent_citations",
    "import_patent_references",
    "import_patents",
]

_NAMED: Final = 10
#: The suffix of a DOI is any printable text (DOI Handbook 2.2.2); blanks and quotes end it in running text.
_DOI: Final = re.compile(r"10\.\d{4,9}(?:\.\d+)*/[^\s\"\u201c\u201d]+", re.IGNORECASE)
#: Where another DOI, an address or a closing tag of HTML begins right after it.
_DOI_END: Final = re.compile(r"</|<(?=[a-z]+[\s/>]*$)|&[lg]t;/|[,;|](?=(?:doi:|https?:)|10\.\d{4,9}/)", re.IGNORECASE)
_BRACKETS: Final = {")": "(", "]": "[", "}": "{", ">": "<"}
_MOST_LINE: Final = 50_000_000
#: Lines over which a quoted cell of a table may go before its quote is taken for a stray one.
_MOST_LINES_OF_A_CELL: Final = 50
_ENTRY_FILES: Final = (".cif", ".cif.gz", ".xml", ".xml.gz", ".json", ".json.gz")
_MOST_XML_BYTES: Final = 200_000_000


@dataclass
class ImportCount:
    """How a file was read.

    Attributes
    ----------
    file
        Its name.
    read, bad
        Lines (or files) that were used, and that could not be.
    examples
        The first bad ones, with file, line and reason.
    """

    file: str
    read: int = 0
    bad: int = 0
    examples: list[str] = field(default_factory=list)

    def refuse(self, where: str, why: str) -> None:
        """Count a bad line."""
        self.bad += 1
        if len(self.examples) < _NAMED:
            self.examples.append(f"{where}: {why}")

    def require_any(self, what: str) -> ImportCount:
        """Return itself.

        Raises
        ------
        InputError
            Nothing could be read.
        """
        if self.read == 0:
            found = self.examples[0] if self.examples else "it is empty"
            raise InputError(self.file, f"holds no {what} ({found})", f"Give a file of {what}.")
        return self


def clean_doi(text: object) -> str | None:
    """Return the DOI in a text, in lower case; None if there is none.

    Brackets and ``<``, ``>``, ``;`` belong to it where they are balanced, as in old SICI suffixes; punctuation at its
    end and brackets opened before it do not. In an address %-escapes are undone, and a query or fragment is cut.
    """
    if not isinstance(text, str):
        return None
    if text.lstrip().lower().startswith(("http://", "https://")):
        text = unquote(re.split(r"[?#]", text, maxsplit=1)[0])
    found = _DOI.search(text)
    if found is None:
        return None
    doi = _DOI_END.split(found.group(), maxsplit=1)[0]
    while doi:
        last = doi[-1]
        if last in ".,;:!?'*\u2019" or (last in _BRACKETS and doi.count(last) > doi.count(_BRACKETS[last])):
            doi = doi[:-1]
        else:
            break
    return None if doi.endswith("/") else doi.lower()


def import_openalex(path: str | Path, writer: GraphWriter) -> ImportCount:
    """Read a file of OpenAlex works: JSON lines, plain or gzipped.

    Of each: ``id``, ``publication_date`` (or ``publication_year``), ``referenced_works``, ``authorships``, ``doi``,
    ``ids.pmid`` and ``display_name``. Counts that the dump holds of later citations are not looked at.

    Raises
    ------
    InputError
        The file cannot be read or holds no works.
    """
    count = ImportCount(str(path))
    with _lines(path) as stream:
        for number, line in _numbered(stream, count):
            if not line.strip():
                continue
            try:
                writer.work(**_openalex_work(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                count.refuse(f"{path} line {number}", _reason(error))
            else:
                count.read += 1
    return count.require_any("OpenAlex works")


def _openalex_work(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    cites = content.get("referenced_works") or []
    pubmed = (content.get("ids") or {}).get("pmid")
    date = content.get("publication_date") or content.get("publication_year")
    if date is None:
        raise ValueError("no date")
    return {
        "number": _openalex_number(content["id"]),
        "time": year_of(str(date)),
        "authors": len(content.get("authorships") or []),
        "cites": [_openalex_number(one) for one in cites],
        "doi": clean_doi(content.get("doi")),
        "pubmed": None if pubmed is None else _pubmed(str(pubmed).rstrip("/").rsplit("/", 1)[-1]),
        "title": str(content.get("display_name") or content.get("title") or "")[:300],
    }


def _openalex_number(text: Any) -> int:
    found = (
        re.fullmatch(r"(?:https?://(?:api\.)?openalex\.org/(?:works/)?)?[Ww](\d+)", text)
        if isinstance(text, str)
        else None
    )
    if found is None or not 0 < int(found.group(1)) < 2**62:
        raise ValueError(f"{text!r} is no work of OpenAlex")
    return int(found.group(1))


def _pubmed(text: str) -> int:
    number = int(text)
    if not 0 < number < 2**62:
        raise ValueError(f"{text} is no PubMed id")
    return number


def year_of(text: str) -> float:
    """Return a date, YYYY or YYYY-MM-DD, in years; a bare year counts from its middle.

    Raises
    ------
    ValueError
        It is no date.
    """
    if re.fullmatch(r"\d{4}", text):
        year = int(text) + 0.5
    else:
        day = datetime.date.fromisoformat(text[:10])
        start = datetime.date(day.year, 1, 1).toordinal()
        length = datetime.date(day.year, 12, 31).toordinal() - start + 1
        year = day.year + (day.toordinal() - start) / length
    if not 1500 <= year <= 2200:
        raise ValueError(f"{text} is no date")
    # One work of a later year would be taken for the end of the graph.
    if math.floor(year) > datetime.datetime.now(datetime.UTC).year:
        raise ValueError(f"{text} is in the future")
    return year


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


def import_entries(path: str | Path, writer: GraphWriter) -> ImportCount:
    """Read the primary publication of PDB entries (mmCIF) and EMDB entries (header XML or JSON), a file or a folder.

    Raises
    ------
    InputError
        There is no such file, or none has a publication.
    """
    root = Path(path)
    files = (
        sorted(file for file in root.rglob("*") if file.name.lower().endswith(_ENTRY_FILES))
        if root.is_dir()
        else [root]
    )
    count = ImportCount(str(path))
    for file in files:
        try:
            entry, doi, pubmed = _publication(file)
        except (OSError, ValueError, KeyError, RuntimeError, ElementTree.ParseError) as error:
            count.refuse(str(file), _reason(error))
            continue
        if doi is None and pubmed is None:
            count.refuse(str(file), "names no DOI or PubMed id of a publication")
            continue
        writer.entry(entry, doi, pubmed)
        count.read += 1
    return count.require_any("entries with a publication")


def _publication(file: Path) -> tuple[str, str | None, int | None]:
    name = file.name.lower().removesuffix(".gz")
    if name.endswith(".cif"):
        import gemmi

        block = gemmi.cif.read(str(file)).sole_block()
        table = block.find("_citation.", ["id", "?pdbx_database_id_DOI", "?pdbx_database_id_PubMed"])
        for row in table:
            if row.str(0) == "primary":
                doi = row.str(1) if row.has(1) else ""
                pubmed = row.str(2) if row.has(2) else ""
                return block.find_value("_entry.id").strip("'\"").upper(), clean_doi(doi), _positive(pubmed)
        raise ValueError("has no primary citation")
    with _lines(file) as stream:
        text = stream.read(_MOST_XML_BYTES)
    if name.endswith(".json"):
        content = json.loads(text)
        found = _external_references(content["crossreferences"]["citation_list"]["primary_citation"])
        return str(content["emdb_id"]).upper(), clean_doi(found.get("DOI")), _positive(found.get("PUBMED"))
    if "<!ENTITY" in text:
        raise ValueError("declares XML entities, which a header does not need")
    tree = ElementTree.fromstring(text)
    entry = tree.get("emdb_id") or tree.get("accessCode")
    if entry is None:
        raise ValueError("is no EMDB header")
    primary = next((node for node in tree.iter() if node.tag.endswith("primary_citation")), None)
    told = {} if primary is None else {node.get("type", ""): node.text for node in primary.iter() if node.get("type")}
    entry = entry.upper() if entry.upper().startswith("EMD-") else f"EMD-{entry}"
    return entry, clean_doi(told.get("DOI")), _positive(told.get("PUBMED"))


def _external_references(content: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    if isinstance(content, dict):
        if "type_" in content and "valueOf_" in content:
            found[str(content["type_"])] = str(content["valueOf_"])
        for value in content.values():
            found |= _external_references(value)
    elif isinstance(content, list):
        for value in content:
            found |= _external_references(value)
    return found


def _positive(text: object) -> int | None:
    known = isinstance(text, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", text) is not None
    return int(text) if known and int(text) > 0 else None  # type: ignore[call-overload]


def _reason(error: Exception) -> str:
    return f"has no {error}" if isinstance(error, KeyError) else str(error)


@contextmanager
def _lines(path: str | Path) -> Iterator[TextIO]:
    """Open text that is plain, gzipped, or the first file of a zip archive."""
    file = Path(path)
    try:
        with file.open("rb") as raw:
            start = raw.read(4)
        if start[:2] == b"\x1f\x8b":
            with gzip.open(file, "rt", encoding="utf-8-sig", errors="replace") as stream:
                yield stream
        elif start in (b"PK\x03\x04", b"PK\x05\x06"):
            with zipfile.ZipFile(file) as archive:
                names = [one.filename for one in archive.infolist() if not one.is_dir() and one.file_size]
                names = [name for name in names if not name.startswith("__MACOSX")]
                if not names:
                    raise zipfile.BadZipFile("the archive is empty")
                with archive.open(names[0]) as inside:
                    yield io.TextIOWrapper(inside, encoding="utf-8-sig", errors="replace")
        else:
            with file.open("r", encoding="utf-8-sig", errors="replace") as stream:
                yield stream
    except (FileNotFoundError, IsADirectoryError, PermissionError, zipfile.BadZipFile) as error:
        raise InputError(file, f"cannot be read: {error}", "Give a dump as it was downloaded.") from error


def _numbered(stream: TextIO, count: ImportCount) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        while line := stream.readline(_MOST_LINE):
            number += 1
            if len(line) == _MOST_LINE and not line.endswith("\n"):
                count.refuse(f"{count.file} line {number}", f"is longer than {_MOST_LINE:,} characters")
                while line and not line.endswith("\n"):
                    line = stream.readline(_MOST_LINE)
                continue
            yield number, line
    except (EOFError, OSError, zlib.error) as error:  # a download that was cut off or is damaged
        count.refuse(f"{count.file} after line {number}", f"ends too early: {error}")


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
    csv.field_size_limit(2 * _MOST_LINE)
    with _lines(path) as stream:
        records = _records((number, line.replace("\0", "")) for number, line in _numbered(stream, count))
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
