"""Literals of Lean 4 source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["array", "margin_name", "row"]

#: Long literals are read in pieces: Lean's limits are about one of them.
_PIECE = 400


def row(values: Iterable[int]) -> str:
    """Return a tuple of integers."""
    return "(" + ",".join(f"({value})" if value < 0 else str(value) for value in values) + ")"


def array(name: str, kind: str, rows: Sequence[str]) -> str:
    """Return the definition of an array, its rows in pieces of at most 400."""
    pieces = [rows[k : k + _PIECE] for k in range(0, len(rows), _PIECE)]
    text = "".join(
        f"def {name}_{k} : Array ({kind}) := #[\n{f',{chr(10)}'.join(piece)}]\n\n" for k, piece in enumerate(pieces)
    )
    joined = " ++ ".join(f"{name}_{k}" for k in range(len(pieces))) or "#[]"
    return f"{text}def {name} : Array ({kind}) := {joined}\n\n"


def margin_name(margin: int) -> str:
    """Return how a theorem with a margin for rounding is called: what may fail, or what is sure to."""
    return "" if margin == 0 else "Possible" if margin > 0 else "Sure"
