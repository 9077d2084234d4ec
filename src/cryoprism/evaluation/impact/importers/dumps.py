"""Text of a dump line by line, plain or packed, and a count of what could not be used."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from cryoprism.core import InputError

__all__ = ["MOST_LINE", "ImportCount", "lines_of", "numbered", "reason_of"]

_NAMED: Final = 10
MOST_LINE: Final = 50_000_000


@dataclass
class ImportCount:
    """How a file was read.

    Attributes
    ----------
    file
        Its name.
    read, bad
        Lines (or files) that were used, and that could not be.
    examples
        The first bad ones, with file, line and reason.
    """

    file: str
    read: int = 0
    bad: int = 0
    examples: list[str] = field(default_factory=list)

    def refuse(self, where: str, why: str) -> None:
        """Count a bad line."""
        self.bad += 1
        if len(self.examples) < _NAMED:
            self.examples.append(f"{where}: {why}")

    def require_any(self, what: str) -> ImportCount:
        """Return itself.

        Raises
        ------
        InputError
            Nothing could be read.
        """
        if self.read == 0:
            found = self.examples[0] if self.examples else "it is empty"
            raise InputError(self.file, f"holds no {what} ({found})", f"Give a file of {what}.")
        return self


@contextmanager
def lines_of(path: str | Path) -> Iterator[TextIO]:
    """Open text that is plain, gzipped, or the first file of a zip archive."""
    file = Path(path)
    try:
        with file.open("rb") as raw:
            start = raw.read(4)
        if start[:2] == b"\x1f\x8b":
            with gzip.open(file, "rt", encoding="utf-8-sig", errors="replace") as stream:
                yield stream
        elif start in (b"PK\x03\x04", b"PK\x05\x06"):
            with zipfile.ZipFile(file) as archive:
                names = [one.filename for one in archive.infolist() if not one.is_dir() and one.file_size]
                names = [name for name in names if not name.startswith("__MACOSX")]
                if not names:
                    raise zipfile.BadZipFile("the archive is empty")
                with archive.open(names[0]) as inside:
                    yield io.TextIOWrapper(inside, encoding="utf-8-sig", errors="replace")
        else:
            with file.open("r", encoding="utf-8-sig", errors="replace") as stream:
                yield stream
    except (FileNotFoundError, IsADirectoryError, PermissionError, zipfile.BadZipFile) as error:
        raise InputError(file, f"cannot be read: {error}", "Give a dump as it was downloaded.") from error


def numbered(stream: TextIO, count: ImportCount) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, from 1; those that are too long, and an early end, are counted as bad."""
    number = 0
    try:
        while line := stream.readline(MOST_LINE):
            number += 1
            if len(line) == MOST_LINE and not line.endswith("\n"):
                count.refuse(f"{count.file} line {number}", f"is longer than {MOST_LINE:,} characters")
                while line and not line.endswith("\n"):
                    line = stream.readline(MOST_LINE)
                continue
            yield number, line
    except (EOFError, OSError, zlib.error) as error:  # a download that was cut off or is damaged
        count.refuse(f"{count.file} after line {number}", f"ends too early: {error}")


def reason_of(error: Exception) -> str:
    """Why a line or a file could not be used."""
    return f"has no {error}" if isinstance(error, KeyError) else str(error)
