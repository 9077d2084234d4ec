"""Opening, decompressing and atomically replacing files, with errors that name the file and the remedy."""

from __future__ import annotations

import bz2
import gzip
import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cryoprism.core import InputError, OutputError

_GZIP_MAGIC = b"\x1f\x8b"
_BZIP2_MAGIC = b"BZh"
COMPRESSED_SUFFIXES = (".gz", ".bz2")


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` as a :class:`Path`, or raise an InputError where it is not a readable file."""
    file = Path(path)
    try:
        if file.is_file():
            return file
        if file.is_dir():
            raise InputError(file, "is a folder, not a file", "Name a file inside it.")
    except OSError as error:
        raise InputError(
            file, f"cannot be looked at ({error.strerror})", "Check the path and its permissions."
        ) from error
    raise InputError(file, "does not exist", "Check the spelling and the folder it is relative to.")


def compression_of(path: Path) -> str | None:
    """``gzip``, ``bzip2`` or None, from the first bytes of the file and never from its name."""
    try:
        with path.open("rb") as stream:
            head = stream.read(3)
    except OSError as error:
        raise InputError(path, f"cannot be opened ({error.strerror})", "Check the permissions of the file.") from error
    if head.startswith(_GZIP_MAGIC):
        return "gzip"
    if head.startswith(_BZIP2_MAGIC):
        return "bzip2"
    return None


@contextmanager
def open_plain(path: Path, kind: str | None) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes; gzip and bzip2 contents are decompressed while they are read.

    Raises
    ------
    InputError
        The file cannot be opened, or its compressed contents are damaged or cut short.
    """
    try:
        with gzip.open(path) if kind == "gzip" else bz2.open(path) if kind == "bzip2" else path.open("rb") as stream:
            yield stream  # type: ignore[misc]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(path, f"its compressed contents are damaged or cut short ({error})", _COPY_AGAIN) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(path, f"cannot be read ({reason})", "Check the file and its permissions.") from error


_COPY_AGAIN = "Copy the file again from its source, or leave it out."


def read_text(path: str | os.PathLike[str]) -> str:
    """Contents of a text file (plain, gzip or bzip2); bytes that are not UTF-8 are read as Latin-1."""
    file = existing_file(path)
    with open_plain(file, compression_of(file)) as stream:
        data = stream.read()
    if b"\x00" in data:
        raise InputError(file, "is a binary file where text was expected", "Check that the right file was named.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


@contextmanager
def atomic_writer(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write to a hidden file in the same folder and move it into place only when everything was written.

    On any exception (a full disk, a killed worker) the old file, if there was one, stands untouched and the temporary
    file is removed. The folder must exist.

    Raises
    ------
    OutputError
        The folder is missing or cannot be written to, or the disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
        os.replace(temporary, target)
    except OSError as error:
        _remove(temporary)
        reason = error.strerror or str(error)
        raise OutputError(
            target,
            f"cannot be written ({reason})",
            "Check the folder and the space left on disk; --only-do-unfinished continues from what is finished.",
        ) from error
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Atomically write ``text`` as UTF-8."""
    with atomic_writer(path) as stream:
        stream.write(text.encode("utf-8"))


def plain_name(path: Path) -> Path:
    """Return the path without a trailing ``.gz`` or ``.bz2``."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED_SUFFIXES else path


def stem_of(path: Path) -> str:
    """Strip folder, compression suffix and format suffix from a name: ``x/a.b.mrc.gz`` gives ``a.b``."""
    return plain_name(path).stem
