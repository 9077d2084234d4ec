"""Works of OpenAlex."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryoprism.evaluation.impact.graph import GraphWriter

from .dumps import ImportCount, lines_of, numbered, reason_of
from .identifiers import clean_doi, openalex_number, year_of

__all__ = ["import_openalex"]


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
    with lines_of(path) as stream:
        for number, line in numbered(stream, count):
            if not line.strip():
                continue
            try:
                writer.work(**_openalex_work(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                count.refuse(f"{path} line {number}", reason_of(error))
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
        "number": openalex_number(content["id"]),
        "time": year_of(str(date)),
        "authors": len(content.get("authorships") or []),
        "cites": [openalex_number(one) for one in cites],
        "doi": clean_doi(content.get("doi")),
        "pubmed": None if pubmed is None else _pubmed(str(pubmed).rstrip("/").rsplit("/", 1)[-1]),
        "title": str(content.get("display_name") or content.get("title") or "")[:300],
    }


def _pubmed(text: str) -> int:
    number = int(text)
    if not 0 < number < 2**62:
        raise ValueError(f"{text} is no PubMed id")
    return number
