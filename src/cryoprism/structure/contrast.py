"""Whether protein is bright, in particles, in a map, and in one against the other; no orientation is needed for it.

The mean over all views of a particle is a section of the spherical average. Up to about 1 / D its transform is positive
for everything that is denser than the solvent and fits a ball of diameter D, solid or hollow, and of whatever shape;
beyond, its sign tells the shape. So what is compared are the lowest frequencies, weighted by exp(-2 (k D)²).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cryoprism.core import frequency_magnitude, irfft2, rfft2

from ._packing import packed_frequencies
from .fsc import low_pass
from .round_part import spherical_average
from .slices import FourierVolume

__all__ = ["INVERTED", "brightness", "contrast_of_map", "contrast_significance"]

#: Significance below which contrast is inverted. Noise reaches it never; right particles lie far above zero.
INVERTED = -8.0
_FARTHEST = 1.6
# Detail [Å] beyond which sharpening, and noise, decide what a map's density looks like.
_COARSE = 20.0
# Share of voxels that has to lie outside for their level to be known.
_LEAST_OUTSIDE = 0.02


def contrast_significance(
    images: Tensor,
    transfer: Tensor,
    *,
    box: int,
    pixel_size_in_angstroms: float,
    diameter_in_angstroms: float,
    reference: Tensor | None = None,
) -> float:
    """Mean agreement of particles with something bright in the middle, in standard errors of that mean.

    Each particle gives Σ Re X C T over the lowest frequencies, with X its transform, C its contrast transfer and T the
    weight exp(-2 (k D)²), times the section of the reference's spherical average if there is one. Particles without
    signal give a standard normal number. Shifts of a fifth of the diameter do no harm.

    Parameters
    ----------
    images, transfer
        (n, N) packed coefficients, and what multiplies the signal.
    box
        Side of the images [pixels].
    reference
        (box, box, box); a bright blob if absent.

    Returns
    -------
    float
        Positive: alike; negative: one is the other's negative; 0 where nothing can be said.
    """
    weight = _weight(box * pixel_size_in_angstroms, diameter_in_angstroms, images.shape[1])
    if reference is not None:
        weight = weight * _section(reference, weight.shape[0], diameter_in_angstroms / pixel_size_in_angstroms)
    weight = weight.to(images.device)
    count = weight.shape[0]
    values = (images[:, :count].real * transfer[:, :count] * weight).sum(1).double()
    error = float(values.std()) / math.sqrt(max(len(values), 1)) if len(values) > 1 else 0.0
    return float(values.mean()) / error if error > 0 else 0.0


def contrast_of_map(volume: Tensor, pixel_size_in_angstroms: float, diameter_in_angstroms: float) -> float:
    """Contrast of a map (box, box, box): near 1 for a bright particle in its middle, near -1 for a black one."""
    extent = int(volume.shape[-1]) * pixel_size_in_angstroms
    weight = _weight(extent, diameter_in_angstroms)
    section = _section(volume, weight.shape[0], diameter_in_angstroms / pixel_size_in_angstroms) * weight
    return float(section.sum() / section.abs().sum().clamp_min(1e-30))


def brightness(
    density: Tensor, pixel_size_in_angstroms: float, diameter_in_angstroms: float, *, averages: bool = False
) -> float:
    """Whether the density inside the diameter lies above the level around it, from that density alone.

    Parameters
    ----------
    density
        A map (n, n, n), or class averages (classes, n, n).
    pixel_size_in_angstroms, diameter_in_angstroms
        Of the map or the averages, and of the particle in their middle.
    averages
        Whether these are class averages.

    Returns
    -------
    float
        Squares of what lies above, less squares of what lies below, over both: beyond 0.8 for a bright particle,
        whatever its shape and sharpness, the opposite for a black one, and near 0 for differences and for what has
        lost its coarse part. Rings of the contrast transfer about a class average bring it nearer to 0. 0 as well where
        nothing lies around.
    """
    side = int(density.shape[-1])
    axis = (torch.arange(side) - side // 2).float() * pixel_size_in_angstroms
    finest = max(_COARSE, 2 * pixel_size_in_angstroms)
    if averages:
        square = axis[:, None] ** 2 + axis**2
        k = frequency_magnitude((side, side), pixel_size_in_angstroms)
        coarse = irfft2(rfft2(density.float()) * torch.sigmoid((1.0 - k * finest) / 0.05), (side, side))
    else:
        square = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
        coarse = low_pass(density.float(), pixel_size_in_angstroms, finest)[None]
    inside = square < (0.5 * diameter_in_angstroms) ** 2
    if float((~inside).float().mean()) < _LEAST_OUTSIDE:
        return 0.0
    values = coarse[:, inside].double()
    above = values - coarse[:, ~inside].double().median(dim=1, keepdim=True).values
    return float((above * above.abs()).sum() / above.square().sum().clamp_min(1e-300))


def _weight(extent: float, diameter: float, most: int | None = None) -> Tensor:
    """Weights (m,) of the lowest packed frequencies of a box of so many Å, at most ``most`` of them."""
    shells = max(2, math.ceil(_FARTHEST * extent / diameter))
    turns = packed_frequencies(shells)[:most].float().norm(dim=1) * diameter / extent
    return torch.exp(-2 * turns.square())


def _section(volume: Tensor, count: int, diameter: float) -> Tensor:
    """Central section (count,) of the spherical average of a particle of so many voxels, above its surroundings."""
    shells = 1
    while len(packed_frequencies(shells)) < count:
        shells += 1
    average = spherical_average(volume.float())
    axis = torch.arange(volume.shape[-1], device=volume.device) - volume.shape[-1] // 2
    outside = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 > (0.5 * diameter) ** 2
    # A level of its own, as many programs leave one, would be a bright or dark box.
    level = average[outside].mean() if bool(outside.any()) else average.min()
    above = FourierVolume.from_map(average - level, max_radius=shells)
    front = torch.eye(3, device=average.device)[None]
    return above.slices(front, shells)[0, :count].real.cpu()
