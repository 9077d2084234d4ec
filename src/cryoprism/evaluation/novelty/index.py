"""The index of known shapes: vectors in faiss, what they belong to in SQLite, and a page that says what counts."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cryoprism.core import HOW_TO_INSTALL_ASSESS, InputError
from cryoprism.formats import sha256_of_file

from .storage import INDEX_REMEDY, PAGE, SCHEMA, damaged, lock, order, read_page, read_sample, verify, whole

__all__ = [
    "FLAT_LIMIT",
    "INDEX_REMEDY",
    "SAMPLE",
    "Entry",
    "IndexWriter",
    "Match",
    "ShapeIndex",
    "lists_for",
    "require_faiss",
]

Vectors = NDArray[np.float32]

#: Up to this many entries the index is flat: every vector in full, compared with every query, nothing lost.
FLAT_LIMIT: Final = 10_000
#: Lists that a query looks into: 0.98 of the ten nearest among 10⁶ in 0.7 ms (docs/results.md).
_PROBES: Final = 16
#: Vectors of the index that are kept in full beside it, to tell how crowded the neighbourhood of a query is.
SAMPLE: Final = 10_000
_LOCK: Final = ".index-lock"
_COLUMNS: Final = "id, name, source, kind, sha256, radius_of_gyration, volume, states, pictures, checksum"


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
class Entry:
    """What an index knows of a shape beside its vector.

    Attributes
    ----------
    name, source
        As shown, and the file it came from.
    kind
        ``model`` or ``map``; ``synthetic`` for vectors of a benchmark.
    sha256
        Of the file.
    radius_of_gyration_in_angstroms, volume_in_cubic_angstroms
        Of the envelope; 0 where unknown.
    states
        Histogram of 3Di states (``states.state_histogram``), models of proteins only.
    pictures
        (3, side, side) uint8: projections of the envelope along its principal axes.
    """

    name: str
    source: str
    kind: str
    sha256: str = ""
    radius_of_gyration_in_angstroms: float = 0.0
    volume_in_cubic_angstroms: float = 0.0
    states: NDArray[np.float64] | None = None
    pictures: NDArray[np.uint8] | None = None

    def _row(self, number: int) -> tuple[object, ...]:
        states = None if self.states is None else self.states.astype(np.float16).tobytes()
        pictures = None if self.pictures is None else zlib.compress(self.pictures.tobytes(), 6)
        size = (float(self.radius_of_gyration_in_angstroms), float(self.volume_in_cubic_angstroms))
        row = (number, self.name, self.source, self.kind, self.sha256, *size, states, pictures)
        return (*row, _checksum(row))

    @classmethod
    def _of(cls, row: Sequence[Any]) -> Entry:
        if row[9] != _checksum(row[:9]):
            raise sqlite3.DatabaseError(f"the row of entry {row[0]} is not what was written")
        states = None if row[7] is None else np.frombuffer(row[7], dtype=np.float16).astype(np.float64)
        pictures = None
        if row[8] is not None:
            flat = np.frombuffer(zlib.decompress(row[8]), dtype=np.uint8)
            side = round(math.sqrt(flat.size / 3))
            pictures = flat.reshape(3, side, side)
        return cls(row[1], row[2], row[3], row[4], row[5], row[6], states, pictures)


def _checksum(row: Sequence[Any]) -> int:
    """CRC-32 of a row, its blobs as they are."""
    value = 0
    for cell in row:
        value = zlib.crc32(cell if isinstance(cell, bytes) else repr(cell).encode("utf-8", "surrogatepass"), value)
    return value


@dataclass(frozen=True, eq=False)
class Match:
    """An entry, its number in the index, and its distance to a query."""

    number: int
    entry: Entry
    distance: float


def lists_for(count: int) -> int:
    """Choose how many lists an IVF index has: four square roots of its entries, a power of two, 64 to 8192."""
    return int(min(8192, max(64, 2 ** round(math.log2(4 * math.sqrt(max(count, 1)))))))


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
        query = f"SELECT {_COLUMNS} FROM entries WHERE id IN ({marks})"
        with self._table() as table:
            return {int(row[0]): Entry._of(row) for row in table.execute(query, list(numbers))}

    def all_entries(self) -> Iterator[tuple[int, Entry]]:
        """Every entry with its number."""
        with self._table() as table:
            query = f"SELECT {_COLUMNS} FROM entries WHERE id < ? ORDER BY id"
            for row in table.execute(query, (len(self),)):
                yield int(row[0]), Entry._of(row)

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
        try:
            self._open()
        except BaseException:
            self._lock.close()
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
        self._table.rollback()
        self._table.close()
        if self._fresh:
            (self.path / self._name).unlink(missing_ok=True)
            if not (self.path / PAGE).is_file():
                (self.path / _LOCK).unlink(missing_ok=True)
        self._lock.close()

    def __len__(self) -> int:
        """Return the number of entries, uncommitted ones among them."""
        return int(self._vectors.ntotal)

    def holds(self, entry: Entry) -> bool:
        """Whether an entry of this name was made from this very file."""
        query = "SELECT 1 FROM entries WHERE sha256 = ? AND sha256 <> '' AND name = ?"
        return self._table.execute(query, (entry.sha256, entry.name)).fetchone() is not None

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
        rows = (entry._row(first + i) for i, entry in enumerate(entries))
        self._table.executemany(f"INSERT INTO entries ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)", rows)
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
    def _is_flat(self) -> bool:
        return not hasattr(self._vectors, "nprobe")

    def commit(self, more: dict[str, Any]) -> None:
        """Make what was added count; ``more``, the resolution in it, goes into ``index.json``."""
        self._table.commit()
        name = f"shapes-{self._generation + 1:06d}.faiss"
        whole(self.path / name, lambda file: self._faiss.write_index(self._vectors, os.fspath(file)))
        sample = f"sample-{self._generation + 1:06d}.npz"
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
