"""What an index knows of a shape beside its vector, as rows of its table, each with a checksum."""

from __future__ import annotations

import math
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLUMNS", "Entry"]

#: Columns of the table of entries.
COLUMNS: Final = "id, name, source, kind, sha256, radius_of_gyration, volume, states, pictures, checksum"


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

    def to_row(self, number: int) -> tuple[object, ...]:
        """Cells of the row of this number, in the order of ``COLUMNS``."""
        states = None if self.states is None else self.states.astype(np.float16).tobytes()
        pictures = None if self.pictures is None else zlib.compress(self.pictures.tobytes(), 6)
        size = (float(self.radius_of_gyration_in_angstroms), float(self.volume_in_cubic_angstroms))
        row = (number, self.name, self.source, self.kind, self.sha256, *size, states, pictures)
        return (*row, _checksum(row))

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> Entry:
        """Return the entry of a row.

        Raises
        ------
        sqlite3.DatabaseError
            The row is not what was written.
        """
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
