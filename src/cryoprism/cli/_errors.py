"""Errors as one line: where, what was found, what to do."""

from __future__ import annotations

import errno
import sys

import typer

__all__ = ["describe", "one_line"]

_FULL = "Free space or write elsewhere with --out, then run again with --only-do-unfinished."
_SYSTEM_ERRORS = {
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("the disk quota is used up", _FULL),
    errno.EFBIG: ("the file is larger than this file system or a limit allows", _FULL),
    errno.EACCES: ("permission denied", "Check the permissions, or write elsewhere with --out."),
    errno.EPERM: ("not permitted", "Check the permissions, or write elsewhere with --out."),
    errno.EROFS: ("the file system is read-only", "Write elsewhere with --out."),
    errno.ENOENT: ("no such file or folder", "Check the path."),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "Check the path."),
    errno.EISDIR: ("is a folder where a file is needed", "Name a file."),
    errno.ENAMETOOLONG: ("the name is too long", "Use a shorter name or path."),
    errno.EMFILE: ("too many open files", "Raise the limit (ulimit -n) or use fewer --workers."),
    errno.EIO: ("the disk reported an input/output error", "Check the disk; then run again with --only-do-unfinished."),
    errno.ESTALE: ("the network file system lost this file", "Mount it again; then use --only-do-unfinished."),
    errno.ENOMEM: ("memory ran out", "Use fewer --workers or set --max-memory."),
}


def describe(error: BaseException) -> str | None:
    """Text of an error that the user can do something about, or None where only a traceback helps.

    CryoPrism's own errors carry their text. Usage errors come from the parser. Of the system's errors those with a
    known remedy count, and running out of memory.
    """
    # Looked up, not imported: if the class was never loaded, the error cannot be one, and a usage error stays quick.
    errors = sys.modules.get("cryoprism.core.errors")
    if errors is not None and isinstance(error, errors.CryoPrismError):
        return one_line(str(error))
    if hasattr(error, "format_message"):
        return _usage(error)
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return "memory: ran out while working. Use fewer --workers, or set --max-memory so that tiles are used."
    if isinstance(error, OSError) and error.errno in _SYSTEM_ERRORS:
        found, remedy = _SYSTEM_ERRORS[error.errno]
        return one_line(f"{error.filename or 'file system'}: {found}. {remedy}")
    return None


def one_line(text: str) -> str:
    """Text without line breaks."""
    return " ".join(text.split())


def _usage(error: BaseException) -> str:
    message = one_line(str(error.format_message())).rstrip(".")  # type: ignore[attr-defined]
    parsed = getattr(error.__cause__, "errors", None)
    if parsed is not None:
        message = f"{message}, not {parsed()[0].get('input')!r}"
    context: typer.Context | None = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "cryoprism"
    return f"{command}: {message}. See '{command} --help'."


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
