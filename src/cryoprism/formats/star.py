"""STAR files as text tables: nothing is reinterpreted, so that what CryoPrism does not know is written back unchanged.

Grammar: the subset of STAR (Hall 1991) that RELION reads: ``data_`` blocks, each a loop or a list of pairs, comments
after ``#`` at the start of a word, values with spaces in single or double quotes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError

from ._files import read_text, write_text

__all__ = ["StarBlock", "find_block", "read_star", "star_text", "write_star"]

_WORD = re.compile(r"""'((?:[^']|'(?=\S))*)'(?=\s|$)|"((?:[^"]|"(?=\S))*)"(?=\s|$)|(\S+)""")


@dataclass(frozen=True)
class StarBlock:
    """One ``data_`` block: a loop, or pairs kept as a loop of one row with ``is_loop`` False.

    Labels stand without their leading underscore; every value is the text of the file. ``source`` names the file in
    errors.
    """

    name: str
    labels: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_loop: bool = True
    source: str = "STAR"

    def __contains__(self, label: str) -> bool:
        """Return whether the block has a column of this label."""
        return label in self.labels

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def column(self, label: str) -> tuple[str, ...]:
        """Return one column as text; an InputError says which column is missing."""
        index = self._index(label)
        return tuple(row[index] for row in self.rows)

    def numbers(self, label: str) -> NDArray[np.float64]:
        """Return one column as float64 (n,); an InputError names the first row that is no number."""
        column = self.column(label)
        try:
            return np.array(column, dtype=np.float64)
        except ValueError:
            for text in column:
                try:
                    float(text)
                except ValueError:
                    break
            raise InputError(
                self.source,
                f"column {label} of block data_{self.name} holds '{text}' in row {column.index(text) + 1}",
                "Write a number there.",
            ) from None

    def records(self) -> list[dict[str, str]]:
        """Return the rows as dictionaries from label to text."""
        return [dict(zip(self.labels, row, strict=True)) for row in self.rows]

    def with_columns(self, columns: Mapping[str, Sequence[object]]) -> StarBlock:
        """Return a block with columns replaced or appended; numbers are written with up to nine significant digits."""
        labels = list(self.labels)
        rows = [list(row) for row in self.rows]
        for label, values in columns.items():
            if len(values) != len(rows):
                raise InputError(
                    self.source, f"column {label} has {len(values)} values for {len(rows)} rows", "Give one per row."
                )
            texts = [star_value(value) for value in values]
            if label in labels:
                index = labels.index(label)
                for row, text in zip(rows, texts, strict=True):
                    row[index] = text
            else:
                labels.append(label)
                for row, text in zip(rows, texts, strict=True):
                    row.append(text)
        return replace(self, labels=tuple(labels), rows=tuple(tuple(row) for row in rows))

    def _index(self, label: str) -> int:
        try:
            return self.labels.index(label)
        except ValueError:
            have = ", ".join(self.labels[:12]) + (" …" if len(self.labels) > 12 else "")
            raise InputError(
                self.source, f"block data_{self.name} has no column {label} (it has {have})", f"Add the column {label}."
            ) from None


def star_value(value: object) -> str:
    """Write one value as text: integers and booleans as integers, floats so that float32 returns exactly."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, int | np.integer):
        return str(int(value))
    if value is None:
        return "None"
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    number = float(value)  # type: ignore[arg-type]
    text = f"{number:.6f}"
    return text if float(text) == number or abs(float(text) - number) <= 5e-9 * abs(number) else f"{number:.9g}"


def _words(line: str) -> list[str]:
    if "'" not in line and '"' not in line and "#" not in line:
        return line.split()
    words: list[str] = []
    for match in _WORD.finditer(line):
        single, double, bare = match.groups()
        if bare is not None:
            if bare.startswith("#"):
                break
            words.append(bare)
        else:
            words.append(single if single is not None else double)
    return words


def read_star(path: str | os.PathLike[str]) -> tuple[StarBlock, ...]:
    """Read every block of a STAR file.

    Raises
    ------
    InputError
        The file is missing, empty or not STAR, or a row has too few or too many values.
    """
    file = Path(path)
    lines = read_text(file).splitlines()
    blocks: list[StarBlock] = []
    position = 0
    while position < len(lines):
        words = lines[position].split(None, 1)
        if words and words[0].startswith("data_"):
            block, position = _read_block(lines, position, str(file))
            blocks.append(block)
        elif words and not words[0].startswith("#"):
            raise InputError(
                file, f"line {position + 1} stands before any data_ block: '{lines[position][:60]}'", _NOT_STAR
            )
        else:
            position += 1
    if not blocks:
        raise InputError(file, "holds no data_ block: it is empty or not a STAR file", _NOT_STAR)
    return tuple(blocks)


_NOT_STAR = "Name a STAR file as RELION writes it."


def _read_block(lines: Sequence[str], position: int, source: str) -> tuple[StarBlock, int]:
    name = lines[position].split()[0][5:]
    labels: list[str] = []
    rows: list[tuple[str, ...]] = []
    pairs: list[str] = []
    is_loop = False
    position += 1
    while position < len(lines):
        text = lines[position].strip()
        if text.startswith("data_"):
            break
        words = _words(text)
        position += 1
        if not words:
            continue
        # By the line, not the word: a quoted value may look like a label.
        if text.startswith("loop_"):
            is_loop = True
        elif text.startswith("_") and not rows:
            labels.append(words[0][1:])
            if not is_loop:
                if len(words) != 2:
                    raise InputError(
                        source, f"line {position} should be a label and one value: '{text[:60]}'", _NOT_STAR
                    )
                pairs.append(words[1])
        elif len(words) != len(labels) or not is_loop:
            raise InputError(
                source,
                f"line {position} holds {len(words)} values for the {len(labels)} columns of block data_{name}",
                "The row is damaged or cut short: correct or delete it.",
            )
        else:
            rows.append(tuple(words))
    if not is_loop:
        rows = [tuple(pairs)] if labels else []
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise InputError(source, f"block data_{name} has the column {twice} twice", "Delete one of the two.")
    return StarBlock(name, tuple(labels), tuple(rows), is_loop or not labels, source), position


def find_block(blocks: Iterable[StarBlock], name: str) -> StarBlock | None:
    """Return the block of this name, or None."""
    return next((block for block in blocks if block.name == name), None)


def _quoted(text: str) -> str:
    if text and not re.search(r"\s", text) and text[0] not in "'\"#" and not text.startswith(("data_", "loop_", "_")):
        return text
    return f"'{text}'" if '"' in text else f'"{text}"'


def star_text(blocks: Iterable[StarBlock]) -> str:
    """Return the text of a STAR file with these blocks, in RELION 3.1's layout."""
    out: list[str] = []
    for block in blocks:
        out += ["", "# version 30001", "", f"data_{block.name}", ""]
        if block.is_loop:
            out.append("loop_ ")
            out += [f"_{label} #{number} " for number, label in enumerate(block.labels, 1)]
            table = [[_quoted(text) for text in row] for row in block.rows]
            widths = [max((len(row[i]) for row in table), default=0) for i in range(len(block.labels))]
            out += [" ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) + " " for row in table]
        else:
            width = max((len(label) for label in block.labels), default=0) + 1
            values = block.rows[0] if block.rows else ()
            out += [f"_{label.ljust(width)} {_quoted(text)}" for label, text in zip(block.labels, values, strict=True)]
        out.append(" ")
    return "\n".join(out) + "\n"


def write_star(path: str | os.PathLike[str], blocks: Iterable[StarBlock]) -> None:
    """Atomically write a STAR file; :func:`read_star` returns the same blocks."""
    write_text(path, star_text(blocks))
