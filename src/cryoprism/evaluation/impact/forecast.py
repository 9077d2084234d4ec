"""The impact of one publication: its forecast in a trained folder, or why there is none and how to get one."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryoprism.core import InputError
from cryoprism.evaluation.databases import written_database
from cryoprism.evaluation.evidence import Answer, available, not_available

from .conformal import Prediction
from .features import HORIZON_IN_YEARS, OLDEST_IN_YEARS
from .importers import clean_doi

__all__ = ["HOW_TO_GET_DATA", "Impact", "forecast_impact", "write_forecasts"]

HOW_TO_GET_DATA: Final = (
    "Get a dump of OpenAlex works (openalex.org, free), cut down to your field, then run cryoprism impact build and "
    "cryoprism impact train, and give the folder of the latter."
)
_FILE: Final = "forecasts.sqlite"
_SCHEMA: Final = """
CREATE TABLE forecasts(id INTEGER PRIMARY KEY, expected REAL, deviation REAL, lower REAL, upper REAL,
                       patents REAL, patents_deviation REAL, patents_lower REAL, patents_upper REAL,
                       doi TEXT, pubmed INTEGER, title TEXT, time REAL);
CREATE TABLE entries(entry TEXT, doi TEXT, pubmed INTEGER);
CREATE TABLE about(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Impact:
    """Forecast of one publication.

    Attributes
    ----------
    expected, deviation, lower, upper
        Citations in the five years after the graph ends, with standard deviation and 95 % interval; None where there
        is no forecast.
    patents
        The same four for citations by patents; None where the graph has none.
    reason, remedy
        Why there is no forecast, and how to get one; empty where there is.
    sentences
        The forecast in words.
    facts
        For programs.
    """

    expected: float | None = None
    deviation: float | None = None
    lower: float | None = None
    upper: float | None = None
    patents: tuple[float, float, float, float] | None = None
    reason: str = ""
    remedy: str = ""
    sentences: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def answer(self) -> Answer:
        """Return it as one of the answers of an assessment; its value is the expected number of citations."""
        if self.expected is None or self.deviation is None:
            return not_available(self.reason, self.remedy, self.facts)
        evidence = {"lower": self.lower, "upper": self.upper, **self.facts}
        if self.patents is not None:
            names = ("expected", "standard_deviation", "lower", "upper")
            evidence["patents"] = dict(zip(names, self.patents, strict=True))
        return available(self.expected, self.deviation, self.sentences, evidence)


def write_forecasts(
    path: str | Path,
    graph: str | Path,
    ids: Any,
    works: Prediction,
    patents: Prediction | None,
    about: Mapping[str, Any],
) -> int:
    """Write ``forecasts.sqlite``: forecasts with what their publications are known by, taken from the graph's file.

    Returns
    -------
    int
        How many.

    Raises
    ------
    OutputError
        The disk is full, or the file cannot be written.
    """
    with written_database(path):
        return _written(path, graph, ids, works, patents, about)


def _written(
    path: str | Path,
    graph: str | Path,
    ids: Any,
    works: Prediction,
    patents: Prediction | None,
    about: Mapping[str, Any],
) -> int:
    base = sqlite3.connect(path, isolation_level=None)
    try:
        base.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + _SCHEMA)
        base.execute("ATTACH ? AS graph", (str(graph),))
        base.execute("BEGIN")
        for k, one in enumerate(ids.tolist()):
            row = [float(column[k]) for column in (works.expected, works.deviation, works.lower, works.upper)]
            row += (
                [None] * 4  # type: ignore[list-item]
                if patents is None
                else [float(c[k]) for c in (patents.expected, patents.deviation, patents.lower, patents.upper)]
            )
            base.execute(
                "INSERT INTO forecasts SELECT id, ?, ?, ?, ?, ?, ?, ?, ?, doi, pubmed, title, time FROM graph.works "
                "WHERE id = ?",
                (*row, one),
            )
        base.execute("INSERT INTO entries SELECT entry, doi, pubmed FROM graph.entries")
        base.execute("INSERT INTO about VALUES('about', ?)", (json.dumps(dict(about), allow_nan=False),))
        for table, column in (("forecasts", "doi"), ("forecasts", "pubmed"), ("entries", "entry")):
            base.execute(f"CREATE INDEX {table}_{column} ON {table}({column})")
        count = int(base.execute("SELECT count(*) FROM forecasts").fetchone()[0])
        base.execute("COMMIT")
    finally:
        base.close()
    return count


def forecast_impact(publication: str | None, folder: str | Path | None) -> Impact:
    """Look up the forecast of a publication.

    Parameters
    ----------
    publication
        A DOI, a PubMed id (``pubmed:123``), an id of OpenAlex (``W123``), or a PDB or EMDB entry whose publication is
        in the graph; None if unpublished or unknown.
    folder
        Of ``cryoprism impact train``; None if there is none.

    Raises
    ------
    InputError
        The folder is there but holds no forecasts, or the publication is none of these.
    """
    if folder is None:
        return Impact(reason="There is no citation graph to forecast from.", remedy=HOW_TO_GET_DATA)
    file = Path(folder) / _FILE if Path(folder).is_dir() else Path(folder)
    if not file.is_file():
        raise InputError(file, "does not exist", "Give the folder of cryoprism impact train.")
    if publication is None or not publication.strip():
        return Impact(
            reason="No publication was named.",
            remedy="Name it by its DOI, PubMed id, or PDB or EMDB entry; what is not published has no citations yet.",
        )
    base = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
    try:
        about = json.loads(base.execute("SELECT value FROM about WHERE name = 'about'").fetchone()[0])
        row = _find(base, publication.strip())
    except (sqlite3.DatabaseError, TypeError, ValueError) as error:
        raise InputError(file, f"holds no forecasts ({error})", "Give the folder of cryoprism impact train.") from error
    finally:
        base.close()
    facts = {"publication": publication, "model": about["chosen"], "until": about["until"]}
    facts["simulated"] = about["simulated"]
    if row is None:
        return Impact(
            reason=f"{publication} is not among the works that the citation graph has from the {OLDEST_IN_YEARS:g} "
            f"years before {about['until']:.1f}.",
            remedy="Build the graph from a newer or larger dump, and train again.",
            facts=facts,
        )
    expected, deviation, lower, upper, *patents = row[1:9]
    facts |= {"title": row[11], "doi": row[9]}
    span = f"in the {HORIZON_IN_YEARS:g} years after {about['until']:.1f}"
    sentences = [
        f"{expected:.1f} citations are expected {span} (95 % {lower:.0f} to {upper:.0f}), by {about['chosen']}, the "
        "best of the models on the validation year.",
    ]
    if patents[0] is not None:
        sentences.append(
            f"{patents[0]:.2f} citations by patents are expected (95 % {patents[2]:.0f} to {patents[3]:.0f}), by "
            f"{about['chosen_for_patents']}."
        )
    if about["simulated"]:
        sentences.append("The citation graph is SIMULATED: this is a test, not a forecast of anything real.")
    return Impact(
        expected,
        deviation,
        lower,
        upper,
        None if patents[0] is None else (patents[0], patents[1], patents[2], patents[3]),
        sentences=tuple(sentences),
        facts=facts,
    )


def _find(base: sqlite3.Connection, publication: str) -> Any:
    lowered = publication.lower()
    if doi := clean_doi(publication):
        return base.execute("SELECT * FROM forecasts WHERE doi = ?", (doi,)).fetchone()
    if found := re.fullmatch(r"(?:pubmed|pmid)[:\s]*(\d+)", lowered):
        return base.execute("SELECT * FROM forecasts WHERE pubmed = ?", (int(found.group(1)),)).fetchone()
    if found := re.fullmatch(r"(?:https?://(?:api\.)?openalex\.org/(?:works/)?)?w(\d+)", lowered):
        return base.execute("SELECT * FROM forecasts WHERE id = ?", (int(found.group(1)),)).fetchone()
    if re.fullmatch(r"emd-\d{4,5}|[0-9][a-z0-9]{3}|pdb_[a-z0-9]{8}", lowered):
        return base.execute(
            "SELECT f.* FROM entries e JOIN forecasts f ON f.doi = e.doi OR f.pubmed = e.pubmed WHERE e.entry = ?",
            (publication.upper(),),
        ).fetchone()
    raise InputError(
        "publication", f"'{publication}' is unknown", "Give a DOI, pubmed:NUMBER, W-number, or PDB or EMDB entry."
    )
