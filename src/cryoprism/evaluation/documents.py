"""Reading JSON that somebody else may have written: whatever is wrong with it is one error, never a traceback."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

__all__ = ["UnreadableError", "load_json", "number_in", "read_json"]


class UnreadableError(ValueError):
    """Text is no JSON that can be used; the message says why."""


def load_json(text: str) -> Any:
    """Return the content of a JSON text.

    Raises
    ------
    UnreadableError
        It is no JSON, too deeply nested, or holds halves of characters (lone surrogates), which no file can hold.
    """
    try:
        content = json.loads(text)
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise UnreadableError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise UnreadableError("it holds halves of characters") from None
    except ValueError as error:
        raise UnreadableError(f"it is half written or no JSON ({error})") from None
    return content


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file, with or without a byte-order mark.

    Raises
    ------
    FileNotFoundError
        There is none.
    UnreadableError
        It cannot be read, see :func:`load_json`; its cause is a PermissionError where this user may not.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise UnreadableError("permission denied") from error
    except (OSError, ValueError) as error:
        raise UnreadableError(str(error)) from None
    return load_json(text)


def number_in(value: object) -> float:
    """Return a JSON number as a float; NaN for anything else, infinity for one that is too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
