"""Density maps: volumes (z, y, x) whatever order the file keeps its axes in, with voxel size and origin."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.core import CryoPrismWarning, InputError

from .mrc import MrcHeader, read_mrc, require_finite, write_mrc

__all__ = ["Volume", "read_map", "write_map"]


@dataclass(frozen=True)
class Volume:
    """A map: ``data`` (z, y, x) float32, voxel size [Å], and where its first voxel lies (x, y, z) [Å]."""

    data: Tensor
    voxel_size_in_angstroms: float
    origin_in_angstroms: tuple[float, float, float] = (0.0, 0.0, 0.0)


def read_map(path: str | os.PathLike[str], voxel_size_in_angstroms: float | None = None) -> Volume:
    """Read a map from an MRC or CCP4 file (gzip and bzip2 too).

    Axes in any order (mapc, mapr, maps) are brought to (z, y, x). The origin is the header's ORIGIN, or where that is
    zero the start indices times the voxel size.

    Parameters
    ----------
    path
        The file.
    voxel_size_in_angstroms
        Wins over the header. Without it a header of exactly 1 Å warns, and 0 or voxels that are not cubes are refused.

    Raises
    ------
    InputError
        Damaged file, an image or a stack of images, impossible axes, no voxel size, voxels that are not cubes, NaN or
        infinite voxels.
    """
    file = Path(path)
    data, header = read_mrc(file, allow_nonfinite=True)
    if data.shape[0] == 1:
        raise InputError(
            file,
            "holds one section: it is an image, not a map",
            "Give a three-dimensional map; a stack of images ends in .mrcs.",
        )
    _require_no_stack(file, header)
    if sorted(header.axes) == [1, 2, 3]:
        axes = header.axes
    elif header.axes == (0, 0, 0):
        axes = (1, 2, 3)
    else:
        raise InputError(file, f"mapc, mapr, maps = {header.axes} is no order of axes", "Correct the header.")
    # Stored axis order is (sections, rows, columns) = axes reversed; find where z, y and x stand.
    stored = tuple(reversed(axes))
    data = data.permute(*(stored.index(axis) for axis in (3, 2, 1))).contiguous()
    voxel = voxel_size_in_angstroms
    z, y, x = header.voxel_size_in_angstroms
    if voxel is None:
        if not (x and y and z):
            raise InputError(
                file,
                f"the header gives no voxel size ({x:g} x {y:g} x {z:g} Å)",
                "Write the true one, in Å, into the header: 'relion_image_handler --i IN --o OUT "
                "--force_header_angpix 1.23'.",
            )
        if max(x, y, z) / min(x, y, z) > 1.001:
            raise InputError(
                file, f"voxels of {x:g} x {y:g} x {z:g} Å are no cubes", "Resample the map to cubic voxels first."
            )
        voxel = x
        if (x, y, z) == (1.0, 1.0, 1.0):
            warnings.warn(
                f"{file}: the header's voxel size is exactly 1 Å, which often means that it was never set. "
                "Check it, and give the voxel size if it is wrong.",
                CryoPrismWarning,
                stacklevel=2,
            )
    require_finite(data, file, volume=True)
    origin = header.origin_in_angstroms
    if not any(origin):
        # nxstart, nystart, nzstart count along columns, rows and sections.
        by_axis = dict(zip(axes, header.start, strict=True))
        origin = (by_axis[1] * voxel, by_axis[2] * voxel, by_axis[3] * voxel)
    return Volume(data, float(voxel), origin)


def _require_no_stack(file: Path, header: MrcHeader) -> None:
    """Refuse a stack of images; some programs write space group 0 for maps too, which are cubes with sections of z."""
    count, height, width = header.shape
    named = ".mrcs" in file.suffixes
    told = header.space_group == 0 and (header.sections_of_cell == 1 or not count == height == width)
    if named or told:
        why = "its name ends in .mrcs" if named else "space group 0 in the header"
        raise InputError(
            file,
            f"is a stack of {count} images of {width} x {height} pixels ({why}), not a map",
            "Give a three-dimensional map. If it is one, name it .mrc and write space group (ISPG) 1 into its header.",
        )


def write_map(path: str | os.PathLike[str], volume: Volume, *, mode: int = 2) -> None:
    """Atomically write a map: space group 1, voxel size and origin in the header; see :func:`write_mrc` for errors."""
    if volume.data.ndim != 3:
        raise InputError(path, f"a volume of shape {tuple(volume.data.shape)}", "Give a volume (z, y, x).")
    write_mrc(
        path,
        volume.data.to(torch.float32) if volume.data.dtype == torch.float64 else volume.data,
        volume.voxel_size_in_angstroms,
        volume=True,
        mode=mode,
        origin_in_angstroms=volume.origin_in_angstroms,
    )
