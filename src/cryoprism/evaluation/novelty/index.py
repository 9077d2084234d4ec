"""The index of known shapes: vectors in faiss, what they belong to in SQLite, and a page that says what counts."""

from __future__ import annotations

import math
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cryoprism.core import HOW_TO_INSTALL_ASSESS, InputError

from .entries import COLUMNS, Entry
from .storage import damaged, read_page, read_sample, verify

__all__ = ["Match", "ShapeIndex", "require_faiss"]

Vectors = NDArray[np.float32]


def require_faiss() -> Any:
    """Return the module faiss.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise InputError("novelty", "the package faiss is not installed", HOW_TO_INSTALL_ASSESS) from error
    return faiss


@dataclass(frozen=True, eq=False)
class Match:
    """An entry, its number in the index, and its distance to a query."""

    number: int
    entry: Entry
    distance: float


class ShapeIndex:
    """An index that is read.

    Attributes
    ----------
    path
        Its folder.
    page
        Content of its ``index.json``.
    """

    def __init__(
        self, path: Path, page: dict[str, Any], vectors: Any, sample: tuple[NDArray[np.int64], Vectors]
    ) -> None:
        self.path: Final = path
        self.page: Final = page
        self._vectors = vectors
        self._sample = sample

    @classmethod
    def open(cls, path: str | os.PathLike[str], version: str | None = None) -> ShapeIndex:
        """Open an index. Its vectors are compared with their SHA-256, once in a process.

        Parameters
        ----------
        path
            Its folder.
        version
            Descriptor version that it must have; any if absent.

        Raises
        ------
        InputError
            There is none, it is damaged, it was made with another descriptor, or faiss is absent.
        """
        folder = Path(path)
        page = read_page(folder)
        if version is not None and page["descriptor"] != version:
            raise InputError(
                folder,
                f"was built with the shape descriptor {page['descriptor']}, this program uses {version}",
                "Build it again from its files: cryoprism novelty build FOLDER --out INDEX --overwrite.",
            )
        faiss = require_faiss()
        file = folder / page["vectors"]
        try:
            verify(file, page["vectors_sha256"])
            vectors = faiss.read_index(os.fspath(file))
        except (OSError, RuntimeError) as error:
            raise damaged(file, error) from error
        if vectors.ntotal != page["count"]:
            raise damaged(file, f"{vectors.ntotal} vectors instead of {page['count']}")
        if hasattr(vectors, "nprobe"):
            vectors.nprobe = page["probes"]
        index = cls(folder, page, vectors, read_sample(folder / page["sample"], page))
        index._require_table()
        return index

    def __len__(self) -> int:
        """Return the number of entries."""
        return int(self.page["count"])

    @property
    def is_flat(self) -> bool:
        """Whether every vector is kept in full and compared with every query."""
        return bool(self.page["kind"] == "flat")

    def probe(self, lists: int) -> None:
        """Look into this many lists for each query; no effect on a flat index."""
        if hasattr(self._vectors, "nprobe"):
            self._vectors.nprobe = lists

    def nearest(self, queries: Vectors, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Distances and numbers (queries, count) of the nearest entries; number -1 where there are no more."""
        squares, numbers = self._vectors.search(np.ascontiguousarray(queries, dtype=np.float32), count)
        return np.sqrt(np.maximum(squares, 0.0)), numbers

    def vectors(self) -> Vectors:
        """Every vector (entries, d), as exactly as the index keeps it."""
        if hasattr(self._vectors, "make_direct_map"):
            self._vectors.make_direct_map()
        return np.asarray(self._vectors.reconstruct_n(0, len(self)))

    def sample(self) -> Vectors:
        """Vectors (at most 10,000, d) of the index in full, chosen by their numbers alone."""
        return self._sample[1]

    def search(self, query: Vectors, count: int) -> list[Match]:
        """Return the nearest entries of a vector (d,), or of several (k, d) by the smallest distance, nearest first."""
        distances, numbers = self.nearest(np.atleast_2d(query), min(count, len(self)))
        found: dict[int, float] = {}
        for number, distance in zip(numbers.ravel().tolist(), distances.ravel().tolist(), strict=True):
            if number >= 0:
                found[number] = min(distance, found.get(number, math.inf))
        chosen = sorted(found.items(), key=lambda one: one[1])[:count]
        entries = self.entries([number for number, _ in chosen])
        if lost := [number for number, _ in chosen if number not in entries]:
            raise damaged(self.path / self.page["table"], f"entry {lost[0]} is missing")
        return [Match(number, entries[number], distance) for number, distance in chosen]

    def entries(self, numbers: Sequence[int]) -> dict[int, Entry]:
        """Entries by their numbers."""
        marks = ",".join("?" * len(numbers))
        query = f"SELECT {COLUMNS} FROM entries WHERE id IN ({marks})"
        with self._table() as table:
            return {int(row[0]): Entry.of_row(row) for row in table.execute(query, list(numbers))}

    def all_entries(self) -> Iterator[tuple[int, Entry]]:
        """Every entry with its number."""
        with self._table() as table:
            query = f"SELECT {COLUMNS} FROM entries WHERE id < ? ORDER BY id"
            for row in table.execute(query, (len(self),)):
                yield int(row[0]), Entry.of_row(row)

    @contextmanager
    def _table(self) -> Iterator[sqlite3.Connection]:
        file = self.path / self.page["table"]
        try:
            if file.stat().st_size < 512:
                raise sqlite3.DatabaseError(f"{file.stat().st_size} bytes")
            with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as table:
                yield table
        # A damaged file can give cells of any kind.
        except (sqlite3.Error, OSError, zlib.error, ValueError, TypeError, IndexError) as error:
            raise damaged(file, error) from error

    def _require_table(self) -> None:
        with self._table() as table:
            # Numbers are given without gaps: the last one tells whether all are there, and is found at once.
            last = table.execute("SELECT max(id) FROM entries").fetchone()[0]
        if (-1 if last is None else last) + 1 < len(self):
            raise damaged(self.path / self.page["table"], f"entries end at {last}, {len(self)} are needed")
