"""A temporal citation graph: works with their dates in SQLite, as arrays in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError
from cryoprism.evaluation.databases import written_database

__all__ = ["PATENT_OFFSET", "CitationGraph", "GraphWriter", "load_graph"]

#: Patents get ids from here downwards, works of OpenAlex keep their own, which are positive.
PATENT_OFFSET: Final = -1
_BATCH: Final = 20_000
#: Each round doubles how far a chain of mergers is followed; only a circle needs more.
_MOST_DOUBLINGS: Final = 40
_SCHEMA: Final = """
CREATE TABLE works(id INTEGER PRIMARY KEY, time REAL NOT NULL, authors INTEGER NOT NULL, refs INTEGER NOT NULL,
                   doi TEXT, pubmed INTEGER, title TEXT, record INTEGER NOT NULL);
CREATE TABLE citations(citing INTEGER NOT NULL, cited INTEGER NOT NULL, record INTEGER NOT NULL,
                       PRIMARY KEY(citing, cited)) WITHOUT ROWID;
CREATE TABLE patents(number TEXT PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE by_doi(patent TEXT NOT NULL, doi TEXT NOT NULL, PRIMARY KEY(patent, doi)) WITHOUT ROWID;
CREATE TABLE between_patents(citing TEXT NOT NULL, cited TEXT NOT NULL, PRIMARY KEY(citing, cited)) WITHOUT ROWID;
CREATE TABLE entries(entry TEXT NOT NULL, doi TEXT, pubmed INTEGER);
CREATE TABLE merged(id INTEGER PRIMARY KEY, target INTEGER NOT NULL);
CREATE TABLE about(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class CitationGraph:
    """Works, oldest first, and who cites whom.

    Attributes
    ----------
    ids
        (n,) of OpenAlex, negative for patents.
    time
        (n,) date of publication or grant [years], rising.
    authors, references
        (n,) counts on the work itself.
    citing, cited
        (m,) positions in the arrays above; ordered by the time of the citing work, which is when the citation counts.
    simulated
        Whether a simulator made it.
    """

    ids: Integers
    time: Floats
    authors: Floats
    references: Floats
    citing: Integers
    cited: Integers
    simulated: bool = False

    @property
    def is_patent(self) -> NDArray[np.bool_]:
        """(n,) whether a work is a patent."""
        return np.asarray(self.ids < 0)

    @property
    def edge_time(self) -> Floats:
        """(m,) when each citation was made [years]."""
        return self.time[self.citing]

    def until(self, moment: float) -> CitationGraph:
        """Return what was known at a moment [years]: works and citations up to it."""
        count = int(np.searchsorted(self.time, moment, side="right"))
        edges = int(np.searchsorted(self.edge_time, moment, side="right"))
        return CitationGraph(
            self.ids[:count],
            self.time[:count],
            self.authors[:count],
            self.references[:count],
            self.citing[:edges],
            self.cited[:edges],
            self.simulated,
        )


class GraphWriter:
    """Fill a new SQLite file from dumps; memory stays bounded whatever their size.

    Parameters
    ----------
    path
        File to make.
    simulated
        Said in the file, so that nobody takes it for real.

    Raises
    ------
    OutputError
        The disk is full, or the file cannot be written; so do all methods that write.
    """

    def __init__(self, path: str | Path, *, simulated: bool = False) -> None:
        self._path = Path(path)
        with written_database(path):
            self._base = sqlite3.connect(path, isolation_level=None)
            try:
                # The file is made anew and renamed when whole: no journal is needed.
                self._base.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + _SCHEMA)
                self._base.execute("BEGIN")
                self.about("simulated", "yes" if simulated else "no")
            except sqlite3.Error:
                self._base.close()
                raise
        self._pending: dict[str, list[tuple[object, ...]]] = {}

    def about(self, name: str, value: str) -> None:
        """Keep a fact about the graph."""
        self._base.execute("INSERT OR REPLACE INTO about VALUES(?, ?)", (name, value))

    def work(
        self,
        number: int,
        time: float,
        *,
        authors: int,
        cites: Iterable[int],
        doi: str | None,
        pubmed: int | None,
        title: str,
    ) -> None:
        """Add a work and what it cites; one that is there already is replaced, with all that it cited."""
        cited = list(dict.fromkeys(cites))
        self._records += 1
        self._add("works", (number, time, authors, len(cited), doi, pubmed, title, self._records))
        for one in cited:
            if one != number:
                self._add("citations", (number, one, self._records))

    def merged(self, number: int, into: int) -> None:
        """Say that a work was merged into another, which :meth:`finish` follows to the last one."""
        self._add("merged", (number, into))

    def patent(self, number: str, time: float) -> None:
        """Add a patent by its number."""
        identity = PATENT_OFFSET - self._patents
        self._patents += 1
        self._add("patents", (number, identity))
        self._add("works", (identity, time, 0, 0, None, None, f"patent {number}", 0))

    _patents = 0
    _records = 0

    def patent_cites_patent(self, citing: str, cited: str) -> None:
        """Add a citation among patents."""
        self._add("between_patents", (citing, cited))

    def patent_cites_doi(self, patent: str, doi: str) -> None:
        """Add a citation of a publication by a patent."""
        self._add("by_doi", (patent, doi))

    def entry(self, entry: str, doi: str | None, pubmed: int | None) -> None:
        """Add the publication of a PDB or EMDB entry."""
        self._add("entries", (entry, doi, pubmed))

    def _add(self, table: str, row: tuple[object, ...]) -> None:
        rows = self._pending.setdefault(table, [])
        rows.append(row)
        if len(rows) >= _BATCH:
            self._flush(table)

    def _flush(self, table: str) -> None:
        rows = self._pending.pop(table, [])
        if rows:
            marks = ",".join("?" * len(rows[0]))
            with written_database(self._path):
                self._base.executemany(f"INSERT OR REPLACE INTO {table} VALUES({marks})", rows)

    def finish(self) -> dict[str, int]:
        """Join what different dumps said of the same works, close the file, and return counts."""
        for table in list(self._pending):
            self._flush(table)
        with written_database(self._path):
            return self._joined()

    def _joined(self) -> dict[str, int]:
        run = self._base.execute
        # What an earlier record of a work cited, and the last one does not.
        run("DELETE FROM citations WHERE record <> (SELECT record FROM works WHERE id = citing)")
        works_merged, follow = self._merge()
        run("CREATE INDEX works_doi ON works(doi) WHERE doi IS NOT NULL")
        run("CREATE INDEX works_pubmed ON works(pubmed) WHERE pubmed IS NOT NULL")
        run("CREATE INDEX entries_entry ON entries(entry)")
        run(
            "INSERT OR IGNORE INTO citations SELECT p.id, w.id, 0 FROM by_doi d JOIN patents p ON p.number = d.patent "
            "JOIN works w ON w.doi = d.doi"
        )
        run(
            "INSERT OR IGNORE INTO citations SELECT a.id, b.id, 0 FROM between_patents c "
            "JOIN patents a ON a.number = c.citing JOIN patents b ON b.number = c.cited"
        )
        outside = "citing NOT IN (SELECT id FROM works) OR cited NOT IN (SELECT id FROM works)"
        dropped = run(f"DELETE FROM citations WHERE {outside}").rowcount
        # A citation from the past is an error of a date: it would let the future speak.
        early = run(
            "DELETE FROM citations WHERE (SELECT time FROM works WHERE id = citing) < "
            "(SELECT time FROM works WHERE id = cited)"
        ).rowcount

        def one(query: str) -> int:
            return int(run(query).fetchone()[0])

        counts = {
            "works": one("SELECT count(*) FROM works WHERE id > 0"),
            "patents": one("SELECT count(*) FROM works WHERE id < 0"),
            "citations": one("SELECT count(*) FROM citations"),
            "citations_by_patents_of_works": one("SELECT count(*) FROM citations WHERE citing < 0 AND cited > 0"),
            "works_merged_into_others": works_merged,
            "citations_of_merged_works": follow,
            "citations_of_works_outside": max(dropped, 0),
            "citations_older_than_what_they_cite": max(early, 0),
            "entries": one("SELECT count(*) FROM entries"),
        }
        run("COMMIT")
        self._base.close()
        return counts

    def _merge(self) -> tuple[int, int]:
        """Take merged works out and let what cites them cite what they became; how many works and citations.

        Only where the graph has the work that they became: else the old record is all there is of it. Mergers in a
        circle say nothing and are left out.
        """
        run = self._base.execute
        onward = "target IN (SELECT id FROM merged)"
        for _ in range(_MOST_DOUBLINGS):
            step = "UPDATE merged SET target = (SELECT next.target FROM merged next WHERE next.id = merged.target)"
            if not run(f"{step} WHERE {onward} AND id <> target").rowcount:
                break
        # Written down first: rows that are deleted meanwhile would break the circle that is looked for.
        run(f"CREATE TEMP TABLE circular AS SELECT id FROM merged WHERE {onward}")
        run("DELETE FROM merged WHERE id IN (SELECT id FROM circular) OR target NOT IN (SELECT id FROM works)")
        gone = "IN (SELECT id FROM merged)"
        run(f"DELETE FROM citations WHERE citing {gone}")
        moved = (
            f"UPDATE OR IGNORE citations SET cited = (SELECT target FROM merged WHERE id = cited) WHERE cited {gone}"
        )
        follow = run(moved).rowcount
        run(f"DELETE FROM citations WHERE cited {gone} OR cited = citing")  # the same twice, or of itself
        return run(f"DELETE FROM works WHERE id {gone}").rowcount, follow

    def close(self) -> None:
        """Give up; the file is of no use."""
        self._base.close()


def load_graph(path: str | Path) -> CitationGraph:
    """Read a graph into memory, about 40 bytes a work and 32 a citation.

    Raises
    ------
    InputError
        The file is no citation graph, or holds no citations.
    """
    file = Path(path) / "citations.sqlite" if Path(path).is_dir() else Path(path)
    remedy = "Give the folder of cryoprism impact build, or its citations.sqlite."
    if not file.is_file():
        raise InputError(file, "does not exist", remedy)
    base = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
    try:
        works = np.array(
            base.execute("SELECT id, time, authors, refs FROM works ORDER BY time, id").fetchall(), dtype=float
        ).reshape(-1, 4)
        edges = np.array(base.execute("SELECT citing, cited FROM citations").fetchall(), dtype=np.int64).reshape(-1, 2)
        simulated = base.execute("SELECT value FROM about WHERE name = 'simulated'").fetchone()
    except sqlite3.DatabaseError as error:
        raise InputError(file, f"is no citation graph ({error})", remedy) from error
    finally:
        base.close()
    if len(edges) == 0:
        raise InputError(file, "holds no citations", "Build it from a dump of OpenAlex works that cite one another.")
    ids = works[:, 0].astype(np.int64)
    return ordered_graph(ids, works[:, 1], works[:, 2], works[:, 3], edges, simulated == ("yes",))


def ordered_graph(
    ids: Integers, time: Floats, authors: Floats, references: Floats, edges: Integers, simulated: bool
) -> CitationGraph:
    """Make a graph of works in any order and (m, 2) pairs of ids, citing and cited."""
    order = np.argsort(time, kind="stable")
    ids, time = ids[order], time[order]
    by_id = np.argsort(ids)
    ends = by_id[np.searchsorted(ids[by_id], edges)]
    ends = ends[np.argsort(time[ends[:, 0]], kind="stable")]
    return CitationGraph(ids, time, authors[order], references[order], ends[:, 0], ends[:, 1], simulated)
