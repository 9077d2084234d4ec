"""Coordinates laid out as RELION's own picking leaves them, so that its Extract finds them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from cryoprism.formats import Coordinates, write_coordinates
from cryoprism.workflow.jobs.files import write_text

__all__ = ["RELION_LIST", "RELION_SUFFIX", "list_for_relion", "write_for_relion"]

#: What stands behind a micrograph's name in the name of its coordinates.
RELION_SUFFIX: Final = "_pick.star"
#: RELION's window asks for this file: its folder is where coordinates lie, the end of its name is their suffix.
RELION_LIST: Final = f"coords_suffix{RELION_SUFFIX}"
_JOB = re.compile(r"/job\d{3}[^/]*/")


def write_for_relion(folder: Path, micrograph: str, coordinates: Coordinates) -> Path:
    """Write the coordinates of a micrograph where RELION looks for them; return the file.

    RELION 3.1 looks in the job's folder under the whole name of the micrograph, folders included, but without what
    stands before and in ``jobNNN/``, where it has that.

    Parameters
    ----------
    folder
        Of the job.
    micrograph
        Name in ``micrographs.star``: from RELION's project folder, or absolute.
    coordinates
        All of its picks.
    """
    name = Path(_JOB.split(micrograph, maxsplit=1)[-1].lstrip("/"))
    file = folder / name.parent / f"{name.stem}{RELION_SUFFIX}"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_coordinates(file, coordinates, micrograph=micrograph)
    return file


def list_for_relion(folder: Path) -> None:
    """Write the file that RELION's Extract asks for as coordinates; it names the table of the micrographs."""
    write_text(folder / RELION_LIST, f"{(folder / 'micrographs.star').as_posix()}\n")
