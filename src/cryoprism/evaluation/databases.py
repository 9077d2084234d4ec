"""SQLite files that are written: what went wrong, as an error that names the folder and the remedy."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cryoprism.core import OutputError

__all__ = ["written_database"]

_MEGABYTE: Final = 1e6


@contextmanager
def written_database(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn SQLite's errors of writing the file ``path`` into one that says where, why, and what to do.

    Raises
    ------
    OutputError
        The disk is full, with what was free before the file was begun; or the file cannot be written.
    """
    file = Path(path)
    try:
        yield
    except sqlite3.OperationalError as error:
        folder = file.parent
        # The upper bits of a code only tell apart errors of one kind.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise OutputError(
                folder,
                f"the disk is full ({_free(file) / _MEGABYTE:.2f} MB were free for what is written here)",
                "Free space or write elsewhere with --out, then run again.",
            ) from error
        raise OutputError(
            folder, f"cannot be written ({error})", "Check the permissions and the space left."
        ) from error


def _free(file: Path) -> int:
    """Return what was free before the file was begun [bytes]: what is free now, and what it takes itself."""
    taken = 0
    for one in (file, file.with_name(f"{file.name}-journal")):
        with suppress(OSError):
            taken += one.stat().st_blocks * 512
    with suppress(OSError):
        taken += shutil.disk_usage(file.parent).free
    return taken
