"""True shapes: the envelope of a specimen, and the cells of the ice that it fills in one orientation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from cryoprism.core import InputError
from cryoprism.microscope.potential import PROTEIN_POTENTIAL_IN_VOLTS, VITREOUS_ICE_POTENTIAL_IN_VOLTS

from .specimen import Specimen, resample

__all__ = ["Envelope", "Footprint", "envelope_of", "footprint", "least_height_in_angstroms", "sphere"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# A quarter of the contrast of protein against ice: where a blurred edge of a molecule is still mostly molecule.
_EDGE_IN_VOLTS = 0.25 * (PROTEIN_POTENTIAL_IN_VOLTS - VITREOUS_ICE_POTENTIAL_IN_VOLTS)
_SHELL_IN_ANGSTROMS = 3.0  # from an atom's centre to the water around it
_PROBE_IN_ANGSTROMS = 3.0
_DUST = 0.02  # share of the largest piece below which a piece of a map is noise


@dataclass(frozen=True, eq=False)
class Envelope:
    """The filled outline of a specimen: ``mask`` (z, y, x) about its middle voxel, and the corners of its hull [Å]."""

    mask: NDArray[np.bool_]
    voxel: float
    corners: Floats


@dataclass(frozen=True, eq=False)
class Footprint:
    """Cells that a particle fills, relative to its home cell.

    ``offsets`` (m, 3) as (z, y, x) cells; ``fraction`` (3,) as (x, y, z) is where in its home cell the particle's
    centre lies, -½ to ½ from the middle.
    """

    offsets: Integers
    fraction: Floats

    @property
    def below(self) -> int:
        """Lowest cell."""
        return int(self.offsets[:, 0].min())

    @property
    def above(self) -> int:
        """Highest cell."""
        return int(self.offsets[:, 0].max())

    @property
    def cells_of_the_view(self) -> int:
        """Number of cells (y, x) that it covers along the beam."""
        flat = self.offsets[:, 1] * 100003 + self.offsets[:, 2]
        return int(np.unique(flat).size)


@lru_cache(maxsize=64)
def envelope_of(specimen: Specimen, voxel: float) -> Envelope:
    """Envelope on a grid of ``voxel`` [Å]: atoms with a shell of about 3 Å, or the map where it is mostly molecule.

    Cavities count as part of it.
    """
    half = math.ceil((specimen.radius_in_angstroms + 8.0) / voxel)
    side = 2 * half + 1
    if specimen.model is not None:
        cells = np.rint(specimen.model.positions_in_angstroms.numpy() / voxel).astype(np.int64) + half
        mask = np.zeros((side, side, side), bool)
        mask[cells[:, 2], cells[:, 1], cells[:, 0]] = True
        # Rolled over by a probe: gaps that water could not fill are closed.
        near = ndimage.distance_transform_edt(~mask) * voxel <= _SHELL_IN_ANGSTROMS + _PROBE_IN_ANGSTROMS
        mask = ndimage.distance_transform_edt(near) * voxel > _PROBE_IN_ANGSTROMS
    elif specimen.density is not None:
        coarse = resample(specimen.density, specimen.voxel_size_in_angstroms, voxel, side).numpy()
        level = min(_EDGE_IN_VOLTS, 0.25 * float(coarse.max()))
        mask = coarse > max(level, 0.0)
        axis = (np.arange(side) - half) * voxel
        inside = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 <= (specimen.radius_in_angstroms + voxel) ** 2
        pieces, count = ndimage.label(mask & inside)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        mask = np.isin(pieces, 1 + np.flatnonzero(sizes >= _DUST * sizes.max())) if count else mask & False
    else:
        raise InputError("specimen", f"'{specimen.name}' has neither atoms nor a map", "Give one of them.")
    mask = ndimage.binary_fill_holes(mask)
    if not mask.any():
        raise InputError("specimen", f"'{specimen.name}' is empty: nothing is denser than ice", "Check map and mass.")
    return Envelope(mask, voxel, _corners(mask, voxel))


def _corners(mask: NDArray[np.bool_], voxel: float) -> Floats:
    points = (np.argwhere(mask)[:, ::-1] - mask.shape[0] // 2) * voxel
    # Each end of every row is enough for the hull.
    surface = np.argwhere(mask & ~ndimage.binary_erosion(mask))[:, ::-1] - mask.shape[0] // 2
    try:
        corners: Floats = surface[ConvexHull(surface).vertices] * voxel
    except QhullError:  # flat or tiny
        corners = points.astype(float)
    return corners


def least_height_in_angstroms(specimen: Specimen) -> float:
    """Height [Å] of the view that lies flattest in the film, to a few per cent."""
    count = 500
    # A spiral of directions over half a sphere: half a turn about any axis leaves a height as it is.
    cosine = (np.arange(count) + 0.5) / count
    azimuth = np.arange(count) * math.pi * (3 - math.sqrt(5))
    sine = np.sqrt(1 - cosine**2)
    directions = np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine])
    along = envelope_of(specimen, max(2.0, specimen.radius_in_angstroms / 20)).corners @ directions
    return float(np.ptp(along, axis=0).min())


def footprint(envelope: Envelope, rotation: Floats, cell: float, fraction: Floats, slope: Floats) -> Footprint:
    """Cells that an envelope fills after rotation (3, 3) from the specimen to the film.

    Parameters
    ----------
    envelope, rotation
        What, and how it is turned.
    cell
        Size of a cell [Å].
    fraction
        (x, y, z) of the particle's centre from the middle of its home cell, in cells.
    slope
        (x, y): the grid's height above the beam's horizontal per length; cells are columns of a sheared grid that
        follows a tilted film.
    """
    reach = envelope.corners @ rotation.T
    reach[:, 2] -= reach[:, :2] @ slope
    low = np.floor((reach.min(0) - envelope.voxel) / cell + fraction).astype(np.int64)
    high = np.ceil((reach.max(0) + envelope.voxel) / cell + fraction).astype(np.int64)
    x, y, z = (np.arange(a, b + 1) for a, b in zip(low, high, strict=True))
    dx, dy, dz = ((n - f) * cell for n, f in zip((x, y, z), fraction, strict=True))
    zz, yy, xx = np.meshgrid(dz, dy, dx, indexing="ij", copy=False)
    at = np.stack([xx.ravel(), yy.ravel(), (zz + slope[0] * xx + slope[1] * yy).ravel()], -1) @ rotation
    index = np.rint(at / envelope.voxel).astype(np.int64) + envelope.mask.shape[0] // 2
    valid = ((index >= 0) & (index < envelope.mask.shape[0])).all(1)
    index = np.where(valid[:, None], index, 0)
    inside = valid & envelope.mask[index[:, 2], index[:, 1], index[:, 0]]
    chosen = np.flatnonzero(inside)
    nz, ny, nx = np.unravel_index(chosen, zz.shape)
    offsets = np.stack([z[nz], y[ny], x[nx]], -1)
    if not len(offsets):  # smaller than a cell
        offsets = np.zeros((1, 3), np.int64)
    return Footprint(offsets, fraction)


def sphere(radius: float, voxel: float) -> Envelope:
    """Return a ball of that radius [Å]."""
    half = math.ceil(radius / voxel) + 1
    axis = (np.arange(2 * half + 1) - half) * voxel
    mask = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 <= radius**2
    return Envelope(mask, voxel, _corners(mask, voxel))
