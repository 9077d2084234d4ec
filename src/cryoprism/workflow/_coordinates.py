"""Coordinates of a whole session, from whatever they were given in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from cryoprism.core import InputError
from cryoprism.formats import Coordinates, MicrographRecord, read_coordinates, read_star

from ._files import output_stems

__all__ = ["session_coordinates"]

_SUFFIXES = (".star", ".box", ".cs")
# What programs put behind the micrograph's name.
_ENDINGS = re.compile(r"_(autopick|manualpick|pick|picks|picked|coords|coordinates|particles)$")


def session_coordinates(source: Path, records: Sequence[MicrographRecord]) -> dict[str, Coordinates]:
    """Coordinates by the name of the micrograph; micrographs that have none are left out.

    Parameters
    ----------
    source
        A folder with one ``.star``, ``.box`` or ``.cs`` file per micrograph, named after it (subfolders and endings
        such as ``_autopick`` too: RELION's and CryoPrism's own picking folders); or one file for all, whose rows name
        their micrographs.
    records
        The micrographs.

    Raises
    ------
    InputError
        Nothing there, a damaged file, or no coordinates for any of the micrographs.
    """
    stems = {record.name: output_stems([record.path])[0] for record in records}
    if source.is_dir():
        found = _from_folder(source, stems)
    elif not source.exists():
        raise InputError(source, "does not exist", "Give the folder or the file of the coordinates in --coordinates.")
    elif source.suffix.lower() == ".star":
        found = _from_star(source, stems)
    else:
        found = _from_file(source, stems)
    if not found:
        raise InputError(
            source,
            f"holds no coordinates of any of {len(records)} micrographs, the first of which is '{records[0].name}'",
            "Name coordinate files after the micrographs, for example 'NAME.star' for 'NAME.mrc'.",
        )
    return found


def _from_folder(folder: Path, stems: Mapping[str, str]) -> dict[str, Coordinates]:
    by_stem: dict[str, list[Path]] = {}
    for file in folder.rglob("*"):
        if file.suffix.lower() in _SUFFIXES and not file.name.startswith("."):
            by_stem.setdefault(file.stem, []).append(file)
            shorter = _ENDINGS.sub("", file.stem)
            if shorter != file.stem:
                by_stem.setdefault(shorter, []).append(file)
    if not by_stem:
        raise InputError(folder, "holds no coordinate files (.star, .box, .cs)", "Give the folder they lie in.")

    def best(files: Sequence[Path]) -> Path:
        return min(files, key=lambda f: (len(f.parts), _SUFFIXES.index(f.suffix.lower()), len(f.name), f.name))

    named = {name: by_stem.get(name, by_stem.get(stem)) for name, stem in stems.items()}
    return {name: read_coordinates(best(files)) for name, files in named.items() if files}


def _from_star(file: Path, stems: Mapping[str, str]) -> dict[str, Coordinates]:
    blocks = read_star(file)
    block = next((b for b in blocks if "rlnCoordinateX" in b and "rlnCoordinateY" in b), None)
    if block is None or "rlnMicrographName" not in block:
        if len(stems) == 1:
            return {name: read_coordinates(file) for name in stems}
        found = "has no rows with rlnCoordinateX and rlnCoordinateY" if block is None else "names no micrographs"
        raise InputError(file, found, "Give a STAR file with coordinates and rlnMicrographName, or a folder.")
    xy = np.stack([block.numbers("rlnCoordinateX"), block.numbers("rlnCoordinateY")], axis=1)
    if not np.isfinite(xy).all():
        raise InputError(file, "holds a coordinate that is not finite", "Correct or delete that row.")
    merit = "rlnAutopickFigureOfMerit"
    score = block.numbers(merit).astype(np.float32) if merit in block else None
    rows: dict[str, list[int]] = {}
    for row, micrograph in enumerate(block.column("rlnMicrographName")):
        rows.setdefault(micrograph, []).append(row)
    by_stem: dict[str, list[int]] = {}
    for micrograph, members in rows.items():
        by_stem.setdefault(output_stems([micrograph])[0], []).extend(members)
    return {
        name: Coordinates(
            torch.from_numpy(xy[by_stem[stem]]), None if score is None else torch.from_numpy(score[by_stem[stem]])
        )
        for name, stem in stems.items()
        if stem in by_stem
    }


def _from_file(file: Path, stems: Mapping[str, str]) -> dict[str, Coordinates]:
    found: dict[str, Coordinates] = {}
    errors = []
    for name, stem in stems.items():
        try:
            found[name] = read_coordinates(file, micrograph=stem)
        except InputError as error:
            errors.append(error)
    if not found and errors:
        raise errors[0]
    return found
