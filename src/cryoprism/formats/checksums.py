"""Checksums by which a record, an index or a certificate knows a file again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

__all__ = ["sha256_of_ends", "sha256_of_file"]

_END_BYTES = 1 << 20


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a whole file; an OSError where it cannot be read."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_ends(stream: BinaryIO) -> str:
    """Return the SHA-256 of the first and the last MiB of an open file (of all of it up to 2 MiB).

    Fast for movies of many gigabytes; a change in the middle alone that keeps the size goes unseen.
    """
    size = os.fstat(stream.fileno()).st_size
    stream.seek(0)
    digest = hashlib.sha256(stream.read(_END_BYTES))
    if size > _END_BYTES:
        stream.seek(max(_END_BYTES, size - _END_BYTES))
        digest.update(stream.read(_END_BYTES))
    return digest.hexdigest()
