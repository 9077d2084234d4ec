"""Files of an index of shapes: whether they are whole, written at once or not at all, one writer at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError, OutputError
from cryoprism.evaluation.documents import UnreadableError, read_json
from cryoprism.formats import sha256_of_file

__all__ = [
    "INDEX_REMEDY",
    "PAGE",
    "SCHEMA",
    "damaged",
    "lock",
    "order",
    "read_page",
    "read_sample",
    "require_index",
    "verify",
    "whole",
]

Vectors = NDArray[np.float32]

#: How to get an index.
INDEX_REMEDY: Final = "Build one: cryoprism novelty build FOLDER --out INDEX."
SCHEMA: Final = "cryoprism-shape-index-2"
PAGE: Final = "index.json"
_FILES: Final = ("vectors", "sample", "table")
# Files whose content was compared with index.json by this process: path, size, time of change, SHA-256.
_VERIFIED: set[tuple[str, int, int, str]] = set()


def damaged(file: Path, why: object) -> InputError:
    """Error that names a damaged file and the remedy."""
    return InputError(
        file, f"is damaged ({why})"[:300], "Build the index again: cryoprism novelty build FOLDER --out INDEX."
    )


def verify(file: Path, expected: object) -> None:
    """Raise a RuntimeError unless the content of a file is what ``index.json`` says."""
    state = file.stat()
    stamp = (os.fspath(file.resolve()), state.st_size, state.st_mtime_ns, str(expected))
    if stamp in _VERIFIED:
        return
    if sha256_of_file(file) != expected:
        raise RuntimeError("its content is not what index.json says")
    _VERIFIED.add(stamp)


def read_sample(file: Path, page: dict[str, Any]) -> tuple[NDArray[np.int64], Vectors]:
    """Numbers (n,) and vectors (n, d) of the sample; an InputError where it is damaged."""
    try:
        verify(file, page["sample_sha256"])
        with np.load(file, allow_pickle=False) as kept:
            return kept["numbers"], kept["vectors"]
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise damaged(file, error) from error


def order(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Random numbers that depend on the entries' numbers alone (splitmix64): the smallest make the sample."""
    with np.errstate(over="ignore"):
        x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def require_index(folder: Path) -> None:
    """Raise an InputError where a folder that was named is no index of shapes."""
    if not (folder / PAGE).is_file():
        found = "does not exist" if not folder.exists() else f"holds no index of shapes ({PAGE} is missing)"
        raise InputError(folder, found, INDEX_REMEDY)


def read_page(folder: Path) -> dict[str, Any]:
    """Content of ``index.json``; an InputError where it is missing or damaged."""
    require_index(folder)
    file = folder / PAGE
    try:
        page = read_json(file)
    except (OSError, UnreadableError) as error:
        raise damaged(file, error) from error
    needed = {
        "schema", "descriptor", "kind", "count", "vectors", "vectors_sha256", "sample", "sample_sha256", "table",
        "probes", "resolution_in_angstroms",
    }  # fmt: skip
    if not isinstance(page, dict) or page.get("schema") != SCHEMA or not needed <= page.keys():
        raise damaged(file, f"no page of {SCHEMA}")
    if not all(isinstance(page[key], str) and Path(page[key]).name == page[key] for key in _FILES):
        raise damaged(file, "names files outside the folder")
    if not all(isinstance(page[key], int) and page[key] >= 0 for key in ("count", "probes")):
        raise damaged(file, "counts that are none")
    return page


def whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name and move it into place when it is whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise OutputError(path, f"cannot be written ({error})"[:300], "Check the folder and the space left.") from error
    finally:
        temporary.unlink(missing_ok=True)


def lock(descriptor: int) -> None:
    """Lock an open file for this process; an OSError where another one has it."""
    if sys.platform == "win32":
        return
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
