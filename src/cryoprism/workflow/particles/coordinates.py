"""Coordinates of a whole session, from whatever they were given in."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.formats import Coordinates, MicrographRecord, read_coordinates, read_star
from cryoprism.workflow.jobs.files import output_stems

__all__ = ["PARTICLE_LABELS", "session_coordinates"]

#: What a table of particles may say of each beside its place, and what stays true when it is cut out anew.
PARTICLE_LABELS = (
    "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst", "rlnDefocusU", "rlnDefocusV",
    "rlnDefocusAngle", "rlnClassNumber", "rlnRandomSubset", "rlnGroupNumber", "rlnHelicalTubeID",
    "rlnHelicalTrackLengthAngst", "rlnAngleTiltPrior", "rlnAnglePsiPrior", "rlnAnglePsiFlipRatio",
)  # fmt: skip

_SUFFIXES = (".star", ".box", ".cs")
# What programs put behind the micrograph's name.
_ENDINGS = re.compile(r"_(autopick|manualpick|pick|picks|picked|coords|coordinates|particles)$")


def session_coordinates(source: Path, records: Sequence[MicrographRecord]) -> dict[str, Coordinates]:
    """Coordinates by the name of the micrograph; micrographs that have none are left out.

    Warns of coordinates that belong to none of the micrographs.

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
        Nothing there, a damaged file or a folder that may not be read, a file whose rows name another micrograph than
        the file does, or no coordinates for any of the micrographs.
    """
    stems = {record.name: output_stems([record.path])[0] for record in records}
    others: list[str] = []
    if source.is_dir():
        found, others = _from_folder(source, stems)
    elif not source.exists():
        raise InputError(source, "does not exist", "Give the folder or the file of the coordinates in --coordinates.")
    elif source.suffix.lower() == ".star":
        found, others = _from_star(source, stems)
    else:
        found = _from_file(source, stems)
    if not found:
        there = f"; it has those of '{others[0]}'" + (f" and {len(others) - 1} more" if others[1:] else "")
        raise InputError(
            source,
            f"holds no coordinates of any of {len(records)} micrographs, the first of which is '{records[0].name}'"
            + (there if others else ""),
            "Name coordinate files after the micrographs, for example 'NAME.star' for 'NAME.mrc'.",
        )
    if others:
        warnings.warn(
            f"{source}: has coordinates of {len(others)} micrographs that are not among the {len(records)} given, such "
            f"as '{others[0]}'. No particles are cut from them; if they are wanted, give all micrographs that were "
            "picked",
            CryoPrismWarning,
            stacklevel=3,
        )
    return found


def _from_folder(folder: Path, stems: Mapping[str, str]) -> tuple[dict[str, Coordinates], list[str]]:
    files = [file for file in _files_in(folder) if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")]
    by_stem: dict[str, list[Path]] = {}
    for file in files:
        for stem in dict.fromkeys((file.stem, _ENDINGS.sub("", file.stem))):
            by_stem.setdefault(stem, []).append(file)
    if not by_stem:
        raise InputError(folder, "holds no coordinate files (.star, .box, .cs)", "Give the folder they lie in.")

    def best(files: Sequence[Path]) -> Path:
        return min(files, key=lambda f: (len(f.parts), _SUFFIXES.index(f.suffix.lower()), len(f.name), f.name))

    named = {name: by_stem.get(name, by_stem.get(stem)) for name, stem in stems.items()}
    taken = {file for files in named.values() for file in files or ()}
    # Tables of a whole session (particles.star, micrographs.star) lie beside the files of single micrographs.
    depth = max((len(file.parts) for file in taken), default=0)
    others = sorted({_ENDINGS.sub("", f.stem) for f in files if f not in taken and len(f.parts) >= depth})
    chosen = {name: best(files) for name, files in named.items() if files}
    return {name: _of_one(file, stems[name]) for name, file in chosen.items()}, others


def _files_in(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(
            error.filename or folder,
            f"cannot be read ({error.strerror})",
            "Check the permissions of the coordinates' folder (ls -l), and that its disk is mounted.",
        ) from error

    return [Path(where) / name for where, _, names in os.walk(folder, onerror=refuse) for name in names]


def _of_one(file: Path, stem: str) -> Coordinates:
    """Coordinates of a file that is named after a micrograph, if its rows do not say otherwise."""
    if file.suffix.lower() == ".star":
        for block in read_star(file):
            if "rlnMicrographName" not in block or "rlnCoordinateX" not in block:
                continue
            inside = {output_stems([name])[0] for name in block.column("rlnMicrographName")}
            if inside and not any(name == stem or name.endswith(stem) or stem.endswith(name) for name in inside):
                raise InputError(
                    file,
                    f"is named after '{stem}' but its rows name '{min(inside)}' (rlnMicrographName)",
                    "Coordinates fit the micrograph they were picked on only: rename the file, or correct its rows.",
                )
    return read_coordinates(file)


def _from_star(file: Path, stems: Mapping[str, str]) -> tuple[dict[str, Coordinates], list[str]]:
    blocks = read_star(file)
    block = next((b for b in blocks if "rlnCoordinateX" in b and "rlnCoordinateY" in b), None)
    if block is None or "rlnMicrographName" not in block:
        if len(stems) == 1:
            return {name: read_coordinates(file) for name in stems}, []
        what = "has no rows with rlnCoordinateX and rlnCoordinateY" if block is None else "names no micrographs"
        raise InputError(file, what, "Give a STAR file with coordinates and rlnMicrographName, or a folder.")
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
    known = {label: block.column(label) for label in PARTICLE_LABELS if label in block}
    found = {
        name: Coordinates(
            torch.from_numpy(xy[by_stem[stem]]),
            None if score is None else torch.from_numpy(score[by_stem[stem]]),
            columns={label: tuple(values[row] for row in by_stem[stem]) for label, values in known.items()},
        )
        for name, stem in stems.items()
        if stem in by_stem
    }
    return found, sorted(by_stem.keys() - set(stems.values()))


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
