"""Write the shapes of maps and models into an index."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoprism.core import InputError

from .descriptor import DESCRIPTOR, DIMENSION, Descriptor
from .index_writer import IndexWriter

__all__ = ["Written", "write_shapes"]


@dataclass(frozen=True)
class Written:
    """What came of writing shapes into an index.

    Attributes
    ----------
    entries, added, known
        Of the index now, those that are new, and files that it held already.
    refused
        Files that could not be used, with the reason.
    notes
        What was left out of the others.
    """

    entries: int
    added: int
    known: int
    refused: tuple[tuple[Path, InputError], ...]
    notes: tuple[str, ...]


def write_shapes(
    index: str | os.PathLike[str],
    described: Iterable[tuple[Path, Descriptor | InputError]],
    *,
    fresh: bool,
    page: dict[str, Any],
) -> Written:
    """Write descriptors into an index; nothing counts before all are in.

    Parameters
    ----------
    index
        Its folder.
    described
        Files with their descriptors, or with the reason why there is none.
    fresh
        Begin a new index in the folder.
    page
        What goes into ``index.json`` beside the rest; ``resolution_in_angstroms`` is needed.

    Raises
    ------
    InputError
        No file could be used, another run writes into the index, or it cannot be written to.
    """
    refused: list[tuple[Path, InputError]] = []
    notes: set[str] = set()
    with IndexWriter(index, DESCRIPTOR, DIMENSION, fresh=fresh) as writer:
        before = len(writer)
        known = 0
        for path, one in described:
            if isinstance(one, InputError):
                refused.append((path, one))
            elif writer.holds(one.entry):
                known += 1
            else:
                notes.update(one.notes)
                writer.add(one.vector[None], [one.entry])
        if len(writer) == before and not known:
            raise refused[0][1] if refused else InputError("files", "none was given", "Name maps and models.")
        if len(writer) > before:
            writer.commit(page)
        return Written(len(writer), len(writer) - before, known, tuple(refused), tuple(sorted(notes)))
