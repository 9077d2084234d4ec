"""What comes out of the sandbox: a report and files in one stream, of which nothing is believed without a look."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

__all__ = ["Received", "receive"]

_LONGEST_HEADER = 1 << 28


@dataclass(frozen=True)
class Received:
    """Report of the first process inside, the files that were written here, and what was left out and why."""

    report: dict[str, Any]
    files: tuple[str, ...]
    left_out: dict[str, str]


def receive(stream: IO[bytes], folder: Path | None, most_bytes: int) -> Received | None:
    """Read the stream and write the files into ``folder``, which is new and empty; None where it says nothing.

    Only regular files are made, at paths that stay below the folder; since no links are ever made, none can lead out.

    Parameters
    ----------
    stream
        Of the first process inside.
    folder
        Where the files go; None leaves them unread.
    most_bytes
        Size of all files together.
    """
    size = stream.read(8)
    if len(size) < 8 or int.from_bytes(size, "little") > _LONGEST_HEADER:
        return None
    text = stream.read(int.from_bytes(size, "little"))
    try:
        header = json.loads(text)
    except ValueError:
        return None
    left_out = {str(path): str(reason) for path, reason in header["left_out"].items()}
    written: list[str] = []
    if folder is None:
        return Received(header["report"], tuple(path for path, _, _ in header["files"]), left_out)
    total = 0
    for path, length, executable in header["files"]:
        reason = _objection(path)
        total += length
        if total > most_bytes:
            left_out[path] = "does not fit into the limit of files"
            break
        if reason is None:
            try:
                _write(stream, folder / path, length, executable)
            except OSError as error:
                left_out[path] = f"could not be written ({error.strerror})"
                break
            written.append(path)
        else:
            left_out[path] = reason
            _skip(stream, length)
    # What comes after a file that could not be written cannot be told apart any more.
    for path, _, _ in header["files"]:
        if path not in left_out and path not in written:
            left_out[path] = "comes after a file that could not be written"
    return Received(header["report"], tuple(sorted(written)), left_out)


def _objection(path: str) -> str | None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\0" in path or any(part in {"..", "."} for part in path.split("/")):
        return "leads out of the folder"
    return None


def _write(stream: IO[bytes], target: Path, length: int, executable: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = 0o755 if executable else 0o644
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with open(descriptor, "wb") as sink:
            while length > 0:
                block = stream.read(min(length, 1 << 20))
                if not block:
                    raise OSError(5, "the stream ended early")
                sink.write(block)
                length -= len(block)
    except OSError:
        target.unlink()
        raise


def _skip(stream: IO[bytes], length: int) -> None:
    while length > 0 and (block := stream.read(min(length, 1 << 20))):
        length -= len(block)
