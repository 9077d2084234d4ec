"""Maps to start from: brought to the box of the images, and not the negative of what they show."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.core import InputError
from cryoprism.structure import INVERTED, brightness, contrast_of_map, contrast_significance, low_pass

from .data import ParticleData, read_reference

__all__ = ["reference_in_box", "require_bright", "require_same_contrast"]

log = logging.getLogger("cryoprism")

# Right maps have 0.8 or more, whatever the diameter; of differences the most that was ever seen are 0.7.
_BLACK = -0.75


def reference_in_box(path: Path, box: int, pixel_size_in_angstroms: float, coarsest_in_angstroms: float) -> Tensor:
    """Read a map and bring it to the box and pixel size of the images, (box, box, box).

    Parameters
    ----------
    coarsest_in_angstroms
        Low-pass that the map gets anyway: detail beyond it need not survive.

    Raises
    ------
    InputError
        As :func:`read_reference`.
    """
    volume = read_reference(path)
    data, voxel = volume.data.float(), volume.voxel_size_in_angstroms
    factor = pixel_size_in_angstroms / voxel
    if data.shape == (box, box, box) and abs(factor - 1) < 1e-3:
        return data
    log.info(
        "%s: a box of %d voxels of %.4g Å, brought to %d of %.4g Å",
        path, data.shape[-1], voxel, box, pixel_size_in_angstroms,
    )  # fmt: skip
    data = low_pass(data, voxel, max(coarsest_in_angstroms / 2, 2 * voxel, 2 * pixel_size_in_angstroms))
    # Positions of the new voxels in the old map, both counted from voxel n // 2; grid_sample wants -1 … 1.
    axis = (torch.arange(box) - box // 2).float() * factor
    x, y, z = (2 * (axis + n // 2) / max(n - 1, 1) - 1 for n in reversed(data.shape))
    grid = torch.stack([t.expand(box, box, box) for t in (x, y[:, None], z[:, None, None])], -1)
    return torch.nn.functional.grid_sample(data[None, None], grid[None], align_corners=True)[0, 0]


def require_bright(
    density: Tensor, pixel_size_in_angstroms: float, diameter: float, path: Path, *, averages: bool = False
) -> None:
    """Refuse a map (n, n, n) or class averages (classes, n, n) whose particle is plainly darker than its surroundings.

    Raises
    ------
    InputError
        Names the file, and how to turn it over.
    """
    found = brightness(density, pixel_size_in_angstroms, diameter, averages=averages)
    log.debug("Brightness of %s inside the diameter: %.2f", path, found)
    if found < _BLACK:
        raise InputError(
            path,
            "shows the particle black: what lies within the diameter is darker than what lies around it",
            _turn_over(path),
        )


def _turn_over(path: Path) -> str:
    inverted = f"{path.stem}_inverted{path.suffix or '.mrc'}"
    return f"Turn it over: relion_image_handler --i {path} --o {inverted} --multiply_constant -1"


def require_same_contrast(data: ParticleData, reference: Tensor, diameter: float, table: Path, path: Path) -> None:
    """Refuse a reference (box, box, box) that is the negative of what the particles show.

    Raises
    ------
    InputError
        Names whichever of the two is dark, and how to turn it over.
    """
    pixel = data.pixel_size_in_angstroms
    found = contrast_significance(
        data.images,
        data.transfer,
        box=data.box,
        pixel_size_in_angstroms=pixel,
        diameter_in_angstroms=diameter,
        reference=reference,
    )
    log.debug("Contrast of the particles against the reference: %.1f standard errors", found)
    if found >= INVERTED:
        return
    against = f"(their mean is against each other by {-found:.0f} standard errors)"
    if contrast_of_map(reference, pixel, diameter) < 0:
        raise InputError(
            path,
            f"shows the particle black, while in {table} protein is bright {against}",
            _turn_over(path),
        )
    raise InputError(
        table,
        f"the particles are dark where {path} is bright {against}",
        "Extract them with protein bright: 'cryoprism extract --invert', or relion_preprocess --invert_contrast.",
    )
