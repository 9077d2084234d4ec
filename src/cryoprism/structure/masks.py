"""Soft masks: around a molecule by its own density, spheres, and files.

A mask is (z, y, x) float32 from 0 to 1. Its edge is a raised cosine: a sharp one would correlate half maps by itself.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.formats import Volume, read_map

from .fsc import HalfMapFsc, low_pass

__all__ = [
    "MapMask",
    "mask_from_map",
    "mask_is_too_tight",
    "molecule_threshold",
    "read_mask",
    "soft_cylinder",
    "soft_sphere",
]

_TIGHT = 0.1


@dataclass(frozen=True, eq=False)
class MapMask:
    """A mask and how it came about.

    Attributes
    ----------
    data
        (z, y, x) float32, 0 … 1.
    threshold
        Level of the low-passed map that bounds the molecule.
    fraction
        Mean of the mask: the share of the box that it lets through.
    """

    data: Tensor
    threshold: float
    fraction: float


def soft_sphere(
    shape: tuple[int, int, int],
    voxel_size_in_angstroms: float,
    radius_in_angstroms: float,
    *,
    soft_edge_in_angstroms: float = 10.0,
) -> Tensor:
    """Sphere about voxel n // 2, 1 up to the radius and a raised cosine from there over the soft edge, (z, y, x)."""
    z, y, x = ((torch.arange(n) - n // 2).float() * voxel_size_in_angstroms for n in shape)
    distance = (z[:, None, None] ** 2 + y[:, None] ** 2 + x**2).sqrt()
    return _raised_cosine(distance - radius_in_angstroms, soft_edge_in_angstroms)


def soft_cylinder(
    shape: tuple[int, int, int],
    voxel_size_in_angstroms: float,
    radius_in_angstroms: float,
    *,
    soft_edge_in_angstroms: float = 10.0,
) -> Tensor:
    """Cylinder about the z axis through voxel n // 2, as long as the box; its edge as that of :func:`soft_sphere`."""
    y, x = ((torch.arange(n) - n // 2).float() * voxel_size_in_angstroms for n in shape[1:])
    distance = (y[:, None] ** 2 + x**2).sqrt()
    return _raised_cosine(distance - radius_in_angstroms, soft_edge_in_angstroms).expand(shape).clone()


def _raised_cosine(outside: Tensor, edge: float) -> Tensor:
    if edge <= 0:
        return (outside <= 0).float()
    return 0.5 + 0.5 * torch.cos(math.pi * (outside / edge).clamp(0, 1))


def molecule_threshold(smooth: Tensor) -> float:
    """Level that divides molecule from solvent in a low-passed map (z, y, x).

    The solvent is the most frequent value within the sphere that fits the box; its spread is that of the values below.
    The threshold is 4 spreads above the solvent, but between an eighth and a half of the way to the molecule's dense
    parts, so that maps without noise, or with much of it, are bounded too.

    Raises
    ------
    InputError
        The map is constant.
    """
    inside = soft_sphere(_shape(smooth), 1.0, min(smooth.shape) / 2 - 0.5, soft_edge_in_angstroms=0.0) > 0
    values = np.sort(smooth[inside].double().numpy())
    # What a solvent mask has set to a constant says nothing about the spread.
    values = values[np.flatnonzero(np.diff(values, append=np.inf) > 0)]
    if values.size < 64:
        raise InputError("map", "is (nearly) constant: there is no molecule to mask", "Give a map of a molecule.")
    solvent = _mode(values)
    below = solvent - values[values < solvent]
    spread = 1.4826 * float(np.median(below)) if below.size else 0.0
    dense = float(values[-max(values.size // 200, 8) :].mean())
    height = dense - solvent
    return float(solvent + min(max(4.0 * spread, 0.125 * height), 0.5 * height))


def _mode(values: NDArray[np.float64]) -> float:
    """Half-sample mode of sorted values: the middle of ever shorter halves that hold most values."""
    part = values[:: max(1, values.size // 200_000)]
    while part.size > 8:
        half = (part.size + 1) // 2
        start = int(np.argmin(part[half - 1 :] - part[: part.size - half + 1]))
        part = part[start : start + half]
    return float(part.mean())


def mask_from_map(
    volume: Tensor,
    voxel_size_in_angstroms: float,
    *,
    threshold: float | None = None,
    low_pass_in_angstroms: float = 15.0,
    extend_in_angstroms: float = 5.0,
    soft_edge_in_angstroms: float = 12.0,
) -> MapMask:
    """Soft mask around the molecule.

    The map is low-passed and thresholded, small pieces (less than a twentieth of the largest) are dropped and cavities
    filled; what remains grows by ``extend`` and ends in a raised cosine.

    Parameters
    ----------
    volume
        Map (z, y, x), protein positive: for half maps their mean.
    voxel_size_in_angstroms
        [Å].
    threshold
        Level in the low-passed map; :func:`molecule_threshold` if absent.
    low_pass_in_angstroms
        Resolution at which the molecule is looked for [Å]; never finer than 2.5 voxels.
    extend_in_angstroms, soft_edge_in_angstroms
        Growth and width of the edge [Å].

    Raises
    ------
    InputError
        Nothing exceeds the threshold, or the map is constant or not finite.
    """
    if not bool(torch.isfinite(volume).all()):
        raise InputError("map", "holds voxels that are not finite", "Reconstruct the map again.")
    resolution = max(low_pass_in_angstroms, 2.5 * voxel_size_in_angstroms)
    smooth = low_pass(volume.float(), voxel_size_in_angstroms, resolution).cpu()
    level = molecule_threshold(smooth) if threshold is None else threshold
    molecule = smooth.numpy() > level
    if not molecule.any():
        raise InputError(
            "--threshold",
            f"no voxel of the map, low-passed to {resolution:g} Å, exceeds {level:g}",
            f"Choose a level below {float(smooth.max()):.4g}, or leave it out.",
        )
    molecule = _large_pieces(molecule)
    reach = (extend_in_angstroms + soft_edge_in_angstroms) / voxel_size_in_angstroms
    distance = _distance_outside(molecule, math.ceil(reach) + 1) * voxel_size_in_angstroms
    data = _raised_cosine(torch.from_numpy(distance) - extend_in_angstroms, soft_edge_in_angstroms)
    fraction = float(data.mean())
    if fraction > 0.7:
        warnings.warn(
            f"mask: it covers {100 * fraction:.0f} % of the box. The molecule fills the box, or the threshold "
            f"{level:.3g} is too low; check mask.mrc",
            CryoPrismWarning,
            stacklevel=2,
        )
    return MapMask(data.to(volume.device), level, fraction)


def _large_pieces(molecule: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = scipy.ndimage.label(molecule)
    if count > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        molecule = (sizes >= 0.05 * sizes.max())[labels]
    return np.asarray(scipy.ndimage.binary_fill_holes(molecule))


def _distance_outside(molecule: NDArray[np.bool_], margin: int) -> NDArray[np.float32]:
    """Distance [voxels] of every voxel to the molecule; right up to ``margin``, larger beyond."""
    window = []
    for axis, n in enumerate(molecule.shape):
        others = tuple(a for a in range(3) if a != axis)
        filled = np.flatnonzero(molecule.any(axis=others))
        window.append(slice(max(0, filled[0] - margin), min(n, filled[-1] + margin + 1)))
    distance = np.full(molecule.shape, 2.0 * margin, dtype=np.float32)
    part = tuple(window)
    distance[part] = scipy.ndimage.distance_transform_edt(~molecule[part])
    return distance


def mask_is_too_tight(fsc: HalfMapFsc) -> bool:
    """Whether the mask by itself correlates the halves: FSC of randomised phases above 0.1 where it should vanish.

    The median over the shells from the start of the correction to the resolution (ten at least) decides.
    """
    if fsc.randomised_from_shell is None:
        return False
    start = fsc.randomised_from_shell + 2
    below = torch.nonzero(fsc.masked[start:] < 0.143).flatten()
    stop = start + max(10, int(below[0]) if below.numel() else fsc.masked.numel())
    part = fsc.randomised[start:stop]
    return part.numel() > 0 and float(part.median()) > _TIGHT


def read_mask(path: str | os.PathLike[str], like: Volume) -> Tensor:
    """Read a mask (z, y, x) for a map.

    Raises
    ------
    InputError
        Another box or voxel size than the map's, values outside 0 … 1 (0.001 is forgiven), or nothing inside.
    """
    with warnings.catch_warnings():
        # The voxel size of 1 that some programs leave in masks is caught by the comparison below.
        warnings.simplefilter("ignore", CryoPrismWarning)
        volume = read_map(path)
    if volume.data.shape != like.data.shape:
        here, there = (" × ".join(str(n) for n in reversed(v.data.shape)) for v in (volume, like))
        raise InputError(path, f"a box of {here} voxels for maps of {there}", "Give a mask of the maps' box.")
    if abs(volume.voxel_size_in_angstroms / like.voxel_size_in_angstroms - 1) > 0.01:
        raise InputError(
            path,
            f"a voxel size of {volume.voxel_size_in_angstroms:g} Å for maps of {like.voxel_size_in_angstroms:g} Å",
            "Give a mask that was made for these maps, or correct its header.",
        )
    low, high = float(volume.data.min()), float(volume.data.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise InputError(path, f"values from {low:g} to {high:g}", "Masks go from 0 (solvent) to 1 (molecule).")
    if high < 0.5:
        raise InputError(path, f"the largest value is {high:g}: nothing is inside", "Give a mask with ones inside.")
    return volume.data.float().clamp(0, 1)


def _shape(volume: Tensor) -> tuple[int, int, int]:
    z, y, x = (int(n) for n in volume.shape)
    return z, y, x
