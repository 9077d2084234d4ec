"""Files that are either whole or absent, and fingerprints that tell whether an input changed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryoprism.core import InputError
from cryoprism.formats import Volume, read_map, sha256_of_ends

__all__ = [
    "TEMPORARY_PREFIX",
    "all_or_none",
    "atomic_path",
    "fingerprint",
    "naming_pixel_size",
    "output_stems",
    "read_map_given",
    "read_map_of_molecule",
    "require_file",
    "weights_card",
    "write_json",
    "write_text",
]

TEMPORARY_PREFIX = ".cryoprism-tmp-"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes ``path`` at the end, whole, or vanishes if anything goes wrong.

    The temporary file lies in the same folder (so that the rename is atomic) and keeps the suffix (so that writers
    which look at it do the same). The data are flushed to the disk before the rename: after a power cut the file is
    the old one or the new one, never an empty one.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{target.name}")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def all_or_none(folder: Path, *names: str) -> Iterator[None]:
    """Where writing fails, take back those of several files and folders in a folder that were written already.

    Each is whole by itself, and of no use without the others: a record of proofs without its certificate, a table of
    forecasts without what they rest on.
    """
    before = {folder / name: _inode(folder / name) for name in names}
    try:
        yield
    except (OSError, InputError):
        for path, number in before.items():
            if _inode(path) != number:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        raise


def _inode(path: Path) -> int | None:
    """Return the number of the file; what is written atomically gets another."""
    return path.stat().st_ino if path.exists() else None


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused because no JSON reader has to understand them."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def weights_card(title: str, facts: Mapping[str, str]) -> str:
    """Return the text of the card that goes with trained weights."""
    rows = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
    return f"# {title}\n\n| what | value |\n| --- | --- |\n{rows}"


def fingerprint(path: str | Path) -> dict[str, str | int]:
    """Size, time of last change, and SHA-256 of the first and the last MiB of a file.

    Reading both ends is fast for movies of many gigabytes. A change in the middle alone that keeps size and time goes
    unseen; programs that write micrographs do not do that.

    Returns
    -------
    dict
        ``path`` (as given), ``bytes``, ``changed_ns`` (nanoseconds since 1970), ``sha256_of_ends`` (of the whole file
        where it is at most 2 MiB).
    """
    file = Path(path)
    with file.open("rb") as stream:
        status = os.fstat(stream.fileno())
        ends = sha256_of_ends(stream)
    return {
        "path": str(path),
        "bytes": status.st_size,
        "changed_ns": status.st_mtime_ns,
        "sha256_of_ends": ends,
    }


def require_file(path: Path, remedy: str) -> None:
    """Refuse what is not a file, or may not be read, by the reason.

    Raises
    ------
    InputError
        It is not there, is a folder, or cannot be read by this user.
    """
    if path.is_dir():
        raise InputError(path, "is a folder, not a file", remedy)
    if not path.is_file():
        raise InputError(path, "does not exist", remedy)
    if not os.access(path, os.R_OK):
        raise InputError(path, "cannot be read", "Give yourself the right to read it (chmod).")


def read_map_given(path: Path, voxel_size_in_angstroms: float | None) -> Volume:
    """Read a map of a command that has ``--pixel-size``.

    Raises
    ------
    InputError
        It cannot be used; where only the voxel size lacks, the option is named.
    """
    with naming_pixel_size():
        return read_map(path, voxel_size_in_angstroms)


def read_map_of_molecule(path: Path, voxel_size_in_angstroms: float | None) -> Volume:
    """Read a map as :func:`read_map_given`, and refuse one that shows nothing.

    Raises
    ------
    InputError
        It cannot be used, or all its voxels are the same.
    """
    volume = read_map_given(path, voxel_size_in_angstroms)
    if bool((volume.data == volume.data.flatten()[0]).all()):
        raise InputError(path, "is empty: all voxels are the same", "Give a map of the molecule.")
    return volume


@contextmanager
def naming_pixel_size() -> Iterator[None]:
    """Name the option --pixel-size in the error where a map has no voxel size."""
    try:
        yield
    except InputError as error:
        if "no voxel size" in error.found:
            raise InputError(error.where, error.found, "Give it with --pixel-size (Å per voxel).") from error
        raise


def output_stems(paths: Sequence[str | Path]) -> list[str]:
    """One output name per input: its stem; where two inputs share a stem, parent folders are put before it.

    Compressed suffixes count as part of the suffix: ``a.mrc.gz`` gives ``a``.

    Raises
    ------
    InputError
        The same file is listed twice.
    """
    files = [Path(path) for path in paths]
    seen: dict[Path, int] = {}
    for index, file in enumerate(files):
        key = Path(os.path.abspath(file))
        if key in seen:
            raise InputError(file, "is listed twice in the input", "List every micrograph once.")
        seen[key] = index
    stems = [_stem(file) for file in files]
    depth = 1
    while len(set(stems)) < len(stems) and depth <= max(len(Path(os.path.abspath(file)).parts) for file in files):
        count: dict[str, int] = {}
        for stem in stems:
            count[stem] = count.get(stem, 0) + 1
        for index, file in enumerate(files):
            if count[stems[index]] > 1:
                parts = Path(os.path.abspath(file)).parts[-1 - depth : -1]
                stems[index] = "__".join([*(part.strip("/\\") for part in parts), _stem(file)])
        depth += 1
    if len(set(stems)) < len(stems):
        twin = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(twin, "two inputs differ only in their suffix", "Give one file per micrograph.")
    return stems


def _stem(file: Path) -> str:
    name = file.name
    for suffix in (".gz", ".bz2"):
        name = name.removesuffix(suffix)
    return Path(name).stem or name
