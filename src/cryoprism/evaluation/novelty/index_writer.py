"""Building an index of shapes and adding to one: nothing counts before it is committed."""

from __future__ import annotations

import json
import math
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError
from cryoprism.evaluation.databases import written_database
from cryoprism.formats import sha256_of_file

from .entries import COLUMNS, Entry
from .index import ShapeIndex, require_faiss
from .storage import PAGE, SCHEMA, lock, order, read_page, whole

__all__ = ["FLAT_LIMIT", "SAMPLE", "IndexWriter", "lists_for"]

Vectors = NDArray[np.float32]

#: Up to this many entries the index is flat: every vector in full, compared with every query, nothing lost.
FLAT_LIMIT: Final = 10_000
#: Lists that a query looks into: 0.98 of the ten nearest among 10⁶ in 0.7 ms (docs/results.md).
_PROBES: Final = 16
#: Vectors of the index that are kept in full beside it, to tell how crowded the neighbourhood of a query is.
SAMPLE: Final = 10_000
_LOCK: Final = ".index-lock"


def _vectors_of(generation: int) -> str:
    return f"shapes-{generation:06d}.faiss"


def _sample_of(generation: int) -> str:
    return f"sample-{generation:06d}.npz"


def lists_for(count: int) -> int:
    """Choose how many lists an IVF index has: four square roots of its entries, a power of two, 64 to 8192."""
    return int(min(8192, max(64, 2 ** round(math.log2(4 * math.sqrt(max(count, 1)))))))


class IndexWriter:
    """Builds an index or adds to one; nothing counts before :meth:`commit`, which replaces one page.

    Rows of SQLite whose number the page does not reach are left from a run that was killed, and are overwritten.

    Parameters
    ----------
    path
        Folder of the index; it is made if absent.
    descriptor
        Version of the vectors.
    dimension
        Of the vectors.
    fresh
        Begin a new index: what an earlier one held counts no more once this one is committed.
    expected
        How many entries there will be in all, as far as known: chooses the number of lists.

    Raises
    ------
    InputError
        Another run is writing into the index, it is missing, damaged or of another descriptor, or faiss is absent.
    """

    def __init__(
        self, path: str | os.PathLike[str], descriptor: str, dimension: int, *, fresh: bool, expected: int = 0
    ):
        self._faiss = require_faiss()
        self.path: Final = Path(path)
        self._descriptor, self._dimension, self._expected = descriptor, dimension, expected
        self._fresh = fresh
        if fresh:
            self.path.mkdir(parents=True, exist_ok=True)
        elif not (self.path / PAGE).is_file():
            read_page(self.path)
        self._lock = (self.path / _LOCK).open("a", encoding="utf-8")
        try:
            lock(self._lock.fileno())
        except OSError as error:
            self._lock.close()
            raise InputError(
                self.path, "another run is writing into this index", "Wait for it, or name another index."
            ) from error
        self._table: sqlite3.Connection | None = None
        self._name, self._generation = "", 0
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise

    def _open(self) -> None:
        if self._fresh:
            self._vectors = self._faiss.IndexFlatL2(self._dimension)
            self._sample = np.zeros(0, dtype=np.int64), np.zeros((0, self._dimension), dtype=np.float32)
            self._generation, self.probes = 0, 1
            with suppress(InputError):
                self._generation = int(read_page(self.path).get("generation", 0))
            self._name = f"entries-{self._generation + 1:06d}.sqlite"
            (self.path / self._name).unlink(missing_ok=True)
        else:
            known = ShapeIndex.open(self.path, self._descriptor)
            self._vectors, self._sample = known._vectors, known._sample
            self._generation, self.probes = int(known.page.get("generation", 0)), int(known.page["probes"])
            self._name = str(known.page["table"])
        with written_database(self.path / self._name):
            self._open_table()

    def _open_table(self) -> None:
        self._table = sqlite3.connect(self.path / self._name)
        self._table.execute(
            "CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY, name TEXT, source TEXT, kind TEXT, "
            "sha256 TEXT, radius_of_gyration REAL, volume REAL, states BLOB, pictures BLOB, checksum INTEGER)"
        )
        self._table.execute("CREATE INDEX IF NOT EXISTS by_file ON entries (sha256) WHERE sha256 <> ''")
        self._table.execute("DELETE FROM entries WHERE id >= ?", (self._vectors.ntotal,))

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        # Whatever fails here, the files go: the error that led here is the one worth telling.
        if self._table is not None:
            with suppress(sqlite3.Error):
                self._table.rollback()
            with suppress(sqlite3.Error):
                self._table.close()
        for name in (_vectors_of(self._generation + 1), _sample_of(self._generation + 1)):
            (self.path / name).unlink(missing_ok=True)  # written, and no page names them
        if self._fresh:
            for name in (self._name, f"{self._name}-journal"):
                if self._name:
                    (self.path / name).unlink(missing_ok=True)
            if not (self.path / PAGE).is_file():
                (self.path / _LOCK).unlink(missing_ok=True)
        self._lock.close()

    def __len__(self) -> int:
        """Return the number of entries, uncommitted ones among them."""
        return int(self._vectors.ntotal)

    def holds(self, entry: Entry) -> bool:
        """Whether an entry of this name was made from this very file."""
        query = "SELECT 1 FROM entries WHERE sha256 = ? AND sha256 <> '' AND name = ?"
        return self._rows.execute(query, (entry.sha256, entry.name)).fetchone() is not None

    def train(self, sample: Vectors, lists: int) -> None:
        """Make the (empty) index one of inverted lists with 8-bit vectors, its lists learned from a sample."""
        quantizer = self._faiss.IndexFlatL2(self._dimension)
        made = self._faiss.IndexIVFScalarQuantizer(
            quantizer, self._dimension, lists, self._faiss.ScalarQuantizer.QT_8bit, self._faiss.METRIC_L2
        )
        made.train(np.ascontiguousarray(sample, dtype=np.float32))
        made.own_fields = True
        quantizer.this.disown()
        self._vectors = made
        self.probes = _PROBES

    def add(self, vectors: Vectors, entries: Sequence[Entry]) -> None:
        """Add vectors (n, d) with their entries; a flat index that grows beyond its limit gets inverted lists.

        Raises
        ------
        InputError
            Vectors that are not finite.
        """
        if not bool(np.isfinite(vectors).all()):
            raise InputError("shape descriptor", "is not finite", "Look at the map: it may be empty or damaged.")
        first = len(self)
        self._vectors.add(np.ascontiguousarray(vectors, dtype=np.float32))
        rows = (entry.to_row(first + i) for i, entry in enumerate(entries))
        with written_database(self.path / self._name):
            self._rows.executemany(f"INSERT INTO entries ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)", rows)
        self._keep(first, np.asarray(vectors, dtype=np.float32))
        if self._is_flat and len(self) > FLAT_LIMIT:
            known = self._vectors.reconstruct_n(0, len(self))
            self.train(known, min(lists_for(max(self._expected, len(known))), len(known) // 39))
            self._vectors.add(known)

    def _keep(self, first: int, vectors: Vectors) -> None:
        """Let new vectors into the sample, each by its own number."""
        numbers = np.append(self._sample[0], np.arange(first, first + len(vectors)))
        if len(numbers) <= SAMPLE:
            self._sample = numbers, np.concatenate([self._sample[1], vectors])
            return
        kept = np.sort(np.argpartition(order(numbers), SAMPLE - 1)[:SAMPLE])
        old = len(self._sample[0])
        self._sample = (
            numbers[kept],
            np.concatenate([self._sample[1][kept[kept < old]], vectors[kept[kept >= old] - old]]),
        )

    @property
    def _rows(self) -> sqlite3.Connection:
        assert self._table is not None, "the index is open"
        return self._table

    @property
    def _is_flat(self) -> bool:
        return not hasattr(self._vectors, "nprobe")

    def commit(self, more: dict[str, Any]) -> None:
        """Make what was added count; ``more``, the resolution in it, goes into ``index.json``."""
        with written_database(self.path / self._name):
            self._rows.commit()
        name = _vectors_of(self._generation + 1)
        whole(self.path / name, lambda file: self._faiss.write_index(self._vectors, os.fspath(file)))
        sample = _sample_of(self._generation + 1)
        whole(self.path / sample, self._write_sample)
        page = {
            "schema": SCHEMA,
            "descriptor": self._descriptor,
            "kind": "flat" if self._is_flat else "ivf-sq8",
            "count": len(self),
            "dimension": self._dimension,
            "lists": 0 if self._is_flat else int(self._vectors.nlist),
            "probes": self.probes,
            "vectors": name,
            "table": self._name,
            "sample": sample,
            "vectors_sha256": sha256_of_file(self.path / name),
            "sample_sha256": sha256_of_file(self.path / sample),
            "generation": self._generation + 1,
            **more,
        }
        text = json.dumps(page, indent=1, ensure_ascii=False) + "\n"
        whole(self.path / PAGE, lambda file: file.write_text(text, encoding="utf-8"))
        for file in [
            path
            for pattern in ("shapes-*.faiss", "sample-*.npz", "entries-*.sqlite")
            for path in self.path.glob(pattern)
        ]:
            if file.name not in {name, sample, self._name}:
                file.unlink(missing_ok=True)
        self._generation += 1
        self._fresh = False

    def _write_sample(self, file: Path) -> None:
        with file.open("wb") as stream:
            np.savez(stream, numbers=self._sample[0], vectors=self._sample[1])
