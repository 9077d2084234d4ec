"""Entries of the PDB and the EMDB, and the publications that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from cryoprism.evaluation.impact.graph import GraphWriter

from .dumps import ImportCount, lines_of, reason_of
from .identifiers import clean_doi, positive

__all__ = ["import_entries"]

_ENTRY_FILES: Final = (".cif", ".cif.gz", ".xml", ".xml.gz", ".json", ".json.gz")
_MOST_XML_BYTES: Final = 200_000_000


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
            count.refuse(str(file), reason_of(error))
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
                return block.find_value("_entry.id").strip("'\"").upper(), clean_doi(doi), positive(pubmed)
        raise ValueError("has no primary citation")
    with lines_of(file) as stream:
        text = stream.read(_MOST_XML_BYTES)
    if name.endswith(".json"):
        content = json.loads(text)
        found = _external_references(content["crossreferences"]["citation_list"]["primary_citation"])
        return str(content["emdb_id"]).upper(), clean_doi(found.get("DOI")), positive(found.get("PUBMED"))
    if "<!ENTITY" in text:
        raise ValueError("declares XML entities, which a header does not need")
    tree = ElementTree.fromstring(text)
    entry = tree.get("emdb_id") or tree.get("accessCode")
    if entry is None:
        raise ValueError("is no EMDB header")
    primary = next((node for node in tree.iter() if node.tag.endswith("primary_citation")), None)
    told = {} if primary is None else {node.get("type", ""): node.text for node in primary.iter() if node.get("type")}
    entry = entry.upper() if entry.upper().startswith("EMD-") else f"EMD-{entry}"
    return entry, clean_doi(told.get("DOI")), positive(told.get("PUBMED"))


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
