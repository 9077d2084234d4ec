"""From a map or a model to a soft envelope in the unit ball: one resolution, one level, one centre, one scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoprism.core import InputError, volume_frequency_grid
from cryoprism.formats import Atoms, Volume
from cryoprism.structure import DENSE_LEVEL, LEAST_CONTRAST, dense_pieces, low_passed, model_map

from .zernike import ball_grid

__all__ = ["RADIUS_IN_GYRATIONS", "SIDE", "Shape", "box_around", "shape_of_atoms", "shape_of_map"]

Array = NDArray[np.float64]

#: Points of the grid along the diameter of the unit ball.
SIDE = 48
#: Radius of the unit ball in radii of gyration: a ball ends at 1.29, a thin rod at 1.73.
RADIUS_IN_GYRATIONS = 1.8
#: How far about the level of the envelope its soft edge begins and ends, in heights of the molecule.
_EDGE = 0.25
#: Part of the amplitude that is taken to be lost at frequency 0, and down to which length [Å].
_LOSS, _LOST_IN_ANGSTROMS = 0.55, 50.0
#: Pictures reach as far as this many radii of the ball.
_WIDEST = 2


@dataclass(frozen=True, eq=False)
class Shape:
    """A soft envelope (0 to 1) about its centre of mass.

    Attributes
    ----------
    envelope
        (k,) at the points of ``zernike.ball_grid(SIDE)``.
    radius_of_gyration_in_angstroms
        [Å] of the envelope.
    volume_in_cubic_angstroms
        [Å³] of the envelope.
    share_outside
        Part of the envelope beyond the unit ball, which the descriptor does not see.
    beyond
        (n, n, n) as (z, y, x): the envelope on a grid of the same pitch that holds what lies beyond the ball too, for
        pictures; None where nothing of note does.
    """

    envelope: Array
    radius_of_gyration_in_angstroms: float
    volume_in_cubic_angstroms: float
    share_outside: float
    beyond: NDArray[np.float32] | None = None


def shape_of_map(
    volume: Volume, resolution_in_angstroms: float = 10.0, *, low_frequencies_restored: bool = False
) -> Shape:
    """Envelope of the molecule in a map whose protein is bright.

    The map is low-passed by a Gaussian that falls to 1/e at the resolution. The level lies half way between the solvent
    and the mean of what exceeds it (Ridler & Calvard 1978, with a fixed background), so that it depends neither on the
    box nor on the scale of the map. Pieces smaller than a twentieth of the largest are dropped.

    Many maps have lost low frequencies, so that the middle of the molecule is darker than its rim. With
    ``low_frequencies_restored`` the amplitudes are divided by 1 - 0.55 exp(-(50 Å · f)²), an average loss.

    Raises
    ------
    InputError
        The map is constant, or no molecule stands out of its noise.
    """
    if not resolution_in_angstroms > 0:
        raise InputError("resolution", f"{resolution_in_angstroms:g} Å", "Give one above 0, usually 10.")
    smooth, voxels = low_passed(volume, resolution_in_angstroms)
    if low_frequencies_restored:
        smooth = _restored(smooth, voxels)
    envelope = _envelope(smooth)
    # A map that ends within the molecule: no density beyond it.
    grid = [np.arange(n) * v for n, v in zip(envelope.shape, voxels, strict=True)]
    total = float(envelope.sum(dtype=np.float64))
    sums = [envelope.sum(axis=tuple(b for b in range(3) if b != a), dtype=np.float64) for a in range(3)]
    centre = [float((s * g).sum()) / total for s, g in zip(sums, grid, strict=True)]
    square = sum(float((s * (g - c) ** 2).sum()) / total for s, g, c in zip(sums, grid, centre, strict=True))
    gyration = math.sqrt(square)
    radius = RADIUS_IN_GYRATIONS * gyration
    points = ball_grid(SIDE)[:, ::-1] * radius
    at = np.stack([(points[:, a] + centre[a]) / voxels[a] for a in range(3)])
    sampled = scipy.ndimage.map_coordinates(envelope, at, order=1, mode="constant")
    z, y, x = ((g - c) ** 2 for g, c in zip(grid, centre, strict=True))
    beyond = z[:, None, None] + y[:, None] + x > radius**2
    return Shape(
        np.asarray(sampled, dtype=np.float64),
        gyration,
        total * float(np.prod(voxels)),
        float(envelope[beyond].sum(dtype=np.float64)) / total,
        _with_what_lies_beyond(envelope, centre, voxels, radius),
    )


def _with_what_lies_beyond(
    envelope: NDArray[np.float32], centre: list[float], voxels: list[float], radius: float
) -> NDArray[np.float32] | None:
    """Envelope on a wider grid; None where the ball holds every place of half the density and more."""
    places = np.argwhere(envelope > 0.5) * np.array(voxels) - np.array(centre)
    reach = float(np.sqrt((places**2).sum(1).max(initial=0.0))) / radius
    if reach <= 1:
        return None
    half = min(math.ceil(reach * SIDE / 2) + 1, _WIDEST * SIDE // 2)
    steps = (np.arange(2 * half) - (2 * half - 1) / 2) * (2 / SIDE) * radius
    axes = [(steps + c) / v for c, v in zip(centre, voxels, strict=True)]
    at = np.stack(np.meshgrid(*axes, indexing="ij"))
    return np.asarray(scipy.ndimage.map_coordinates(envelope, at, order=1, mode="constant"), dtype=np.float32)


def shape_of_atoms(atoms: Atoms, resolution_in_angstroms: float = 10.0) -> Shape:
    """Envelope of an atomic model, by way of its map: potential against ice, of its first model if it has several.

    Raises
    ------
    InputError
        No atom of a known element.
    """
    atoms = atoms.select((atoms.models == atoms.models.min()) & (atoms.atomic_numbers > 0))
    if not len(atoms):
        raise InputError("model", "holds no atoms of a known element", "Give a structure with known elements.")
    like = box_around(atoms.positions_in_angstroms, resolution_in_angstroms / 3.0, 2.0 * resolution_in_angstroms)
    # B-factors say how sharp the atoms are, not where they are; some files hold other numbers in their place.
    return shape_of_map(model_map(atoms, like, b_factor_in_square_angstroms=0.0), resolution_in_angstroms)


def box_around(positions_in_angstroms: Tensor, voxel_size_in_angstroms: float, margin_in_angstroms: float) -> Volume:
    """Empty map around positions (n, 3) as (x, y, z) [Å], with a margin [Å] on every side."""
    low, high = positions_in_angstroms.amin(0), positions_in_angstroms.amax(0)
    voxel = voxel_size_in_angstroms
    x, y, z = (
        2 * int(scipy.fft.next_fast_len(math.ceil((float(side) / 2 + margin_in_angstroms) / voxel)))
        for side in high - low
    )
    middle = (low + high) / 2
    origin = [float(m) - (n // 2) * voxel for m, n in zip(middle, (x, y, z), strict=True)]
    return Volume(torch.zeros(z, y, x), voxel, (origin[0], origin[1], origin[2]))


def _restored(smooth: NDArray[np.float32], voxels: list[float]) -> NDArray[np.float32]:
    """Map with its low frequencies raised, padded so that nothing wraps around."""
    solvent = float(np.median(smooth))
    wide = [
        scipy.fft.next_fast_len(n + math.ceil(_LOST_IN_ANGSTROMS / v), real=True)
        for n, v in zip(smooth.shape, voxels, strict=True)
    ]
    axes = (0, 1, 2)
    z, y, x = (f.numpy() for f in volume_frequency_grid(wide, voxels, dtype=torch.float64))
    square = z**2 + y**2 + x**2
    gain = 1 / (1 - _LOSS * np.exp(-square * _LOST_IN_ANGSTROMS**2))
    raised = scipy.fft.irfftn(scipy.fft.rfftn(smooth - solvent, wide, axes) * gain.astype(np.float32), wide, axes)
    return np.asarray(raised[tuple(slice(n) for n in smooth.shape)] + solvent, dtype=np.float32)


def _envelope(smooth: NDArray[np.float32]) -> NDArray[np.float32]:
    dense = dense_pieces(smooth)
    if dense.contrast < LEAST_CONTRAST:
        raise InputError(
            "map", dense.words, "Give a map of a molecule, its protein bright; half maps are averaged first."
        )
    if dense.pieces.sum() < 8:
        raise InputError(
            "map",
            "what stands out is too small to have a shape at this resolution",
            "Give a map of a molecule or a complex of at least 20 residues.",
        )
    low, high = DENSE_LEVEL - _EDGE, DENSE_LEVEL + _EDGE
    share = np.clip(((smooth - dense.solvent) / dense.height - low) / (high - low), 0.0, 1.0)
    # The soft edge reaches beyond the level; what is not next to a piece is noise.
    near = scipy.ndimage.binary_dilation(dense.pieces, scipy.ndimage.generate_binary_structure(3, 3), iterations=2)
    return np.asarray(np.where(near, share, 0.0), dtype=np.float32)
