"""Particle coordinates in and out: RELION STAR, EMAN .box, cryoSPARC .cs.

Inside there is one convention: (x, y) in pixels of the summed micrograph, the first pixel in the file being (0, 0).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from cryoprism.core import InputError

from ._files import read_text, stem_of, write_text
from .cryosparc import Locations, read_cs, text_of, write_locations
from .star import StarBlock, read_star, star_value, write_star

__all__ = ["Coordinates", "read_coordinates", "write_coordinates"]


@dataclass(frozen=True)
class Coordinates:
    """Centres of particles on one micrograph.

    ``xy_in_pixels`` is (n, 2) float64; ``score`` (n,) or None; ``box_in_pixels`` is the box of the file, where it has
    one; ``columns`` holds what else a table says of each particle, by RELION's labels, (n,) texts each.
    """

    xy_in_pixels: Tensor
    score: Tensor | None = None
    box_in_pixels: int | None = None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def __len__(self) -> int:
        """Return the number of particles."""
        return int(self.xy_in_pixels.shape[0])


def read_coordinates(
    path: str | os.PathLike[str], *, micrograph: str | os.PathLike[str] | None = None, flip_y_height: int | None = None
) -> Coordinates:
    """Read the coordinates of one micrograph.

    Parameters
    ----------
    path
        ``.star`` (rlnCoordinateX, rlnCoordinateY), ``.box`` (EMAN: corner x, corner y, width, height) or ``.cs``
        (cryoSPARC: fractions of the width and height, from the first pixel in the file, which cryoSPARC and MRC draw at
        the lower left; x pixel = fraction × width).
    micrograph
        Which micrograph to take from a file of several, by its stem; cryoSPARC's leading uid number is passed over.
    flip_y_height
        Height of the micrograph in pixels, where the coordinates were made on an image whose rows run the other way (a
        TIFF read without RELION's flip): y becomes height − 1 − y.

    Returns
    -------
    Coordinates
        Boxes give their central pixel, corner + size // 2.

    Raises
    ------
    InputError
        Unknown format, missing columns, lines that are no numbers, or several micrographs where one was meant.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    reader = {".star": _from_star, ".box": _from_box, ".cs": _from_cs}.get(suffix)
    if reader is None:
        raise InputError(file, f"the suffix '{suffix}' is no coordinate format", "Use .star, .box or .cs.")
    xy, score, box = reader(file, None if micrograph is None else stem_of(Path(micrograph)))
    if not np.isfinite(xy).all():
        raise InputError(file, "holds a coordinate that is not finite", "Correct or delete that row.")
    if flip_y_height is not None:
        xy = np.stack([xy[:, 0], flip_y_height - 1 - xy[:, 1]], axis=1)
    return Coordinates(
        torch.from_numpy(np.ascontiguousarray(xy, dtype=np.float64)),
        None if score is None else torch.from_numpy(np.ascontiguousarray(score, dtype=np.float32)),
        box,
    )


_Parts = tuple[np.ndarray, np.ndarray | None, int | None]


def _chosen(names: list[str], wanted: str | None, file: Path) -> np.ndarray:
    stems = [stem_of(Path(name)) for name in names]
    if wanted is None:
        if len(set(stems)) > 1:
            raise InputError(
                file, f"holds coordinates of {len(set(stems))} micrographs", "Say which micrograph is meant."
            )
        return np.ones(len(stems), dtype=bool)
    keep = np.array([stem == wanted or _without_uid(stem) == wanted for stem in stems], dtype=bool)
    if not keep.any():
        raise InputError(file, f"holds no coordinates of micrograph '{wanted}'", "Check the name of the micrograph.")
    return keep


def _without_uid(stem: str) -> str:
    first, _, rest = stem.partition("_")
    return rest if first.isdigit() and len(first) >= 15 else stem


def _from_star(file: Path, wanted: str | None) -> _Parts:
    for block in read_star(file):
        if "rlnCoordinateX" in block and "rlnCoordinateY" in block:
            break
    else:
        raise InputError(file, "has no block with rlnCoordinateX and rlnCoordinateY", "Give a coordinate STAR file.")
    xy = np.stack([block.numbers("rlnCoordinateX"), block.numbers("rlnCoordinateY")], axis=1)
    score = block.numbers("rlnAutopickFigureOfMerit") if "rlnAutopickFigureOfMerit" in block else None
    if "rlnMicrographName" in block and len(block):
        keep = _chosen(list(block.column("rlnMicrographName")), wanted, file)
        xy, score = xy[keep], None if score is None else score[keep]
    return xy, score, None


def _from_box(file: Path, wanted: str | None) -> _Parts:
    rows: list[tuple[float, float]] = []
    boxes: set[int] = set()
    for number, line in enumerate(read_text(file).splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            x, y, width, height = (float(word) for word in words[:4])
        except ValueError:
            raise InputError(
                file, f"line {number} is not 'x y width height': '{line[:60]}'", "Give an EMAN .box file."
            ) from None
        rows.append((x + width // 2, y + height // 2))
        boxes.add(int(width))
    return np.array(rows, dtype=np.float64).reshape(-1, 2), None, boxes.pop() if len(boxes) == 1 else None


def _from_cs(file: Path, wanted: str | None) -> _Parts:
    table = read_cs(file)
    needed = ("location/center_x_frac", "location/center_y_frac", "location/micrograph_shape")
    missing = [name for name in needed if name not in (table.dtype.names or ())]
    if missing:
        raise InputError(
            file, f"has no field {', '.join(missing)}", "Give the passthrough .cs file, which holds the locations."
        )
    if "location/micrograph_path" in (table.dtype.names or ()):
        table = table[_chosen([text_of(name) for name in table["location/micrograph_path"]], wanted, file)]
    shape = table["location/micrograph_shape"].astype(np.float64)
    x = table["location/center_x_frac"].astype(np.float64) * shape[:, 1]
    y = table["location/center_y_frac"].astype(np.float64) * shape[:, 0]
    score = table["pick_stats/ncc_score"] if "pick_stats/ncc_score" in (table.dtype.names or ()) else None
    return np.stack([x, y], axis=1), score, None


def write_coordinates(
    path: str | os.PathLike[str],
    coordinates: Coordinates,
    *,
    box_in_pixels: int | None = None,
    micrograph: str | os.PathLike[str] | None = None,
    micrograph_shape: tuple[int, int] | None = None,
) -> None:
    """Atomically write coordinates as ``.star``, ``.box`` or ``.cs``; :func:`read_coordinates` returns the same.

    Parameters
    ----------
    path
        The format is that of the suffix.
    coordinates
        Centres in CryoPrism's convention.
    box_in_pixels
        Needed for ``.box`` (or taken from ``coordinates``), whose corners are whole pixels: centres are rounded there.
    micrograph
        Name that ``.star`` and ``.cs`` carry beside each particle, where given.
    micrograph_shape
        (y, x) in pixels, needed for ``.cs``.

    Raises
    ------
    InputError
        Something that the format needs was not given, or the file cannot be written.
    """
    file = Path(path)
    xy = coordinates.xy_in_pixels.detach().cpu().double().numpy()
    suffix = file.suffix.lower()
    if suffix == ".star":
        columns: dict[str, list[str]] = {
            "rlnCoordinateX": [star_value(v) for v in xy[:, 0]],
            "rlnCoordinateY": [star_value(v) for v in xy[:, 1]],
        }
        if coordinates.score is not None:
            columns["rlnAutopickFigureOfMerit"] = [star_value(v) for v in coordinates.score.tolist()]
        if micrograph is not None:
            columns["rlnMicrographName"] = [os.fspath(micrograph)] * len(coordinates)
        rows = tuple(zip(*columns.values(), strict=True))
        write_star(file, [StarBlock("", tuple(columns), rows)])
    elif suffix == ".box":
        box = box_in_pixels or coordinates.box_in_pixels
        if not box or box < 1:
            raise InputError(file, "an EMAN .box file needs a box size", "Give box_in_pixels.")
        corners = np.rint(xy).astype(np.int64) - box // 2
        write_text(file, "".join(f"{x}\t{y}\t{box}\t{box}\n" for x, y in corners))
    elif suffix == ".cs":
        if micrograph_shape is None:
            raise InputError(file, "a .cs file needs the shape of the micrograph", "Give micrograph_shape as (y, x).")
        name = os.fspath(micrograph) if micrograph is not None else ""
        write_locations(file, [Locations(coordinates.xy_in_pixels, name, micrograph_shape, coordinates.score)])
    else:
        raise InputError(file, f"the suffix '{suffix}' is no coordinate format", "Use .star, .box or .cs.")
