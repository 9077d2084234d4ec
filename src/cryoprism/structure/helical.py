"""Helical symmetry: imposing rise and twist on a map, inserting symmetric copies of views, and finding both locally.

A helix about z repeats as V(R(twist) · r + rise · z) = V(r); a positive twist is right-handed, as in RELION (He &
Scheres 2017, J. Struct. Biol. 198, 163). Only the central part along z is trusted: towards
the ends of the box segments fade.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from cryoprism.core import InputError

__all__ = [
    "HelicalCopies",
    "HelicalSymmetry",
    "helical_agreement",
    "helical_views",
    "impose_helical_symmetry",
    "refine_helical_symmetry",
]

_MOST_POINTS = 20_000
_ZOOMS = 8


@dataclass(frozen=True)
class HelicalSymmetry:
    """Rise and twist of a helix about z.

    Attributes
    ----------
    rise_in_angstroms
        Translation along +z from one unit to the next [Å], positive.
    twist_in_degrees
        Rotation about z from one unit to the next [degrees], positive for a right-handed helix.
    """

    rise_in_angstroms: float
    twist_in_degrees: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rise_in_angstroms) and self.rise_in_angstroms > 0):
            raise InputError("helical rise", f"{self.rise_in_angstroms} Å", "Give a positive rise in Å.")
        if not math.isfinite(self.twist_in_degrees):
            raise InputError("helical twist", f"{self.twist_in_degrees}", "Give the twist in degrees.")

    def steps(self, units: int) -> range:
        """Return the steps to ``units`` neighbouring units about the present one, 0 among them."""
        return range(-((units - 1) // 2), units // 2 + 1)

    def rotation(self, steps: int) -> Tensor:
        """Rotation (3, 3) about z by ``steps`` twists."""
        angle = math.radians(steps * self.twist_in_degrees)
        c, s = math.cos(angle), math.sin(angle)
        return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class HelicalCopies:
    """How views of a helix are repeated.

    Attributes
    ----------
    symmetry
        Rise and twist.
    units
        Asymmetrical units that a segment is inserted as: about the distance between segments over the rise.
    voxel_size_in_angstroms
        Of the images and the map [Å].
    """

    symmetry: HelicalSymmetry
    units: int
    voxel_size_in_angstroms: float

    def __post_init__(self) -> None:
        if self.units < 1:
            raise InputError("helical units", f"{self.units}", "Use at least 1.")

    def views(self, rotations: Tensor, frequencies: Tensor, box: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Rotations (m, 3, 3) of all copies of views, and the phases (m, N) of their coefficients."""
        for steps in self.symmetry.steps(self.units):
            yield helical_views(
                rotations,
                frequencies,
                self.symmetry,
                steps,
                box=box,
                voxel_size_in_angstroms=self.voxel_size_in_angstroms,
            )


def helical_views(
    rotations: Tensor,
    frequencies: Tensor,
    helix: HelicalSymmetry,
    steps: int,
    *,
    box: int,
    voxel_size_in_angstroms: float,
) -> tuple[Tensor, Tensor]:
    """Where the views of a helix are to be inserted again, ``steps`` units further on.

    V̂(R q) = exp(-2πi (R q) · s) V̂(q) with s = steps · rise along z, so a coefficient at q = Aᵀ k is also one at
    (A Rᵀ)ᵀ k, times a phase.

    Parameters
    ----------
    rotations
        (m, 3, 3).
    frequencies
        (N, 2) packed frequencies [pixels of the unpadded transform].
    helix, steps
        Symmetry, and how many units on; negative ones go down.
    box, voxel_size_in_angstroms
        Of the map.

    Returns
    -------
    rotations
        (m, 3, 3) A · Rᵀ.
    phases
        (m, N) complex factors on the coefficients.
    """
    turned = rotations @ helix.rotation(steps).to(rotations).T
    along_z = turned[:, :2, 2] @ frequencies.to(rotations).T
    shift = steps * helix.rise_in_angstroms / voxel_size_in_angstroms
    phase = (-2 * math.pi * shift / box) * along_z
    return turned, torch.polar(torch.ones_like(phase), phase)


def _sample(volume: Tensor, points: Tensor) -> Tensor:
    """Trilinear values (n,) at points (n, 3) = x, y, z [voxels from voxel n // 2]; zero outside."""
    sizes = torch.tensor(volume.shape[::-1], device=volume.device, dtype=volume.dtype)
    grid = (2 * (points + torch.div(sizes, 2, rounding_mode="floor")) + 1) / sizes - 1
    return grid_sample(volume[None, None], grid[None, None, None], mode="bilinear", align_corners=False)[0, 0, 0, 0]


def _central_planes(volume: Tensor, fraction: float) -> float:
    if not 0 < fraction <= 1:
        raise InputError("central_fraction", f"{fraction}", "Use more than 0 and at most 1, for example 0.3.")
    return 0.5 * fraction * (volume.shape[0] - 1)


def impose_helical_symmetry(
    volume: Tensor,
    voxel_size_in_angstroms: float,
    helix: HelicalSymmetry,
    *,
    central_fraction: float = 0.3,
) -> Tensor:
    """Average a map (z, y, x) over its helical symmetry; every voxel takes its equivalents in the central part.

    Trilinear interpolation. Zero outside the cylinder that fits the box.

    Parameters
    ----------
    volume
        (z, y, x), axis of the helix along z through voxel n // 2.
    voxel_size_in_angstroms
        [Å].
    helix
        Rise and twist.
    central_fraction
        Part of the box along z that is trusted; it must hold at least one rise.

    Raises
    ------
    InputError
        The central part is shorter than the rise.
    """
    half = _central_planes(volume, central_fraction)
    rise = helix.rise_in_angstroms / voxel_size_in_angstroms
    if 2 * half < rise:
        raise InputError(
            "central_fraction",
            f"{central_fraction:g} of the box is {2 * half:.1f} voxels, the rise is {rise:.1f}",
            "Raise it, or use larger boxes.",
        )
    depth, height, width = volume.shape
    z = torch.arange(depth, device=volume.device, dtype=volume.dtype) - depth // 2
    y = torch.arange(height, device=volume.device, dtype=volume.dtype) - height // 2
    x = torch.arange(width, device=volume.device, dtype=volume.dtype) - width // 2
    yy, xx = (t.reshape(-1) for t in torch.meshgrid(y, x, indexing="ij"))
    inside = (yy * yy + xx * xx) < (0.5 * min(height, width) - 1) ** 2
    plane = torch.stack([xx[inside], yy[inside], torch.zeros_like(xx[inside])], -1)
    total = torch.zeros(depth, plane.shape[0], device=volume.device, dtype=volume.dtype)
    count = torch.zeros(depth, device=volume.device, dtype=volume.dtype)
    most = math.ceil((0.5 * depth + half) / rise)
    for steps in range(-most, most + 1):
        moved = z + steps * rise
        chosen = (moved.abs() <= half).nonzero()[:, 0]
        if chosen.numel() == 0:
            continue
        turned = plane @ helix.rotation(steps).to(plane).T
        points = turned[None].repeat(chosen.numel(), 1, 1)
        points[..., 2] += moved[chosen, None]
        total[chosen] += _sample(volume, points.reshape(-1, 3)).view(chosen.numel(), -1)
        count[chosen] += 1
    out = torch.zeros_like(volume).view(depth, -1)
    out[:, inside] = total / count.clamp_min(1)[:, None]
    return out.view(depth, height, width)


def helical_agreement(
    volume: Tensor,
    voxel_size_in_angstroms: float,
    helix: HelicalSymmetry,
    *,
    central_fraction: float = 0.5,
    outer_radius_in_angstroms: float | None = None,
    steps: int | None = None,
) -> float:
    """Mean correlation between all pairs of copies of a map's central part, 0, 1, 2, … units further on.

    1 for a perfect helix, 0 for noise. Points are those of the lower half of the central part, so that as many steps as
    possible stay within it: ``steps`` of them, or all that fit.
    """
    half = _central_planes(volume, central_fraction)
    rise = helix.rise_in_angstroms / voxel_size_in_angstroms
    points = _points(volume, half, outer_radius_in_angstroms, voxel_size_in_angstroms)
    steps = max(1, int(half / rise)) if steps is None else steps
    if rise > 2 * half:
        raise InputError("helical rise", f"{rise:.1f} voxels exceed the central part", "Raise central_fraction.")
    here = _sample(volume, points)
    total, own = here - here.mean(), here.var(correction=0)
    for step in range(1, steps + 1):
        moved = points @ helix.rotation(step).to(points).T
        moved[:, 2] += step * rise
        there = _sample(volume, moved)
        total = total + there - there.mean()
        own = own + there.var(correction=0)
    # The variance of a sum is that of its terms and their covariances, which are wanted.
    return float((total.var(correction=0) - own) / (steps * own).clamp_min(1e-30))


def _smoothed(volume: Tensor) -> Tensor:
    """Convolve with a Gaussian of one voxel: interpolation between voxels smooths noise, here it finds none to."""
    x = torch.arange(-4, 5, device=volume.device, dtype=volume.dtype)
    kernel = torch.exp(-0.5 * x * x)
    kernel = kernel / kernel.sum()
    out = volume[None, None]
    for axis in range(3):
        shape, padding = [1] * 5, [0] * 3
        shape[2 + axis], padding[axis] = 9, 4
        out = torch.nn.functional.conv3d(out, kernel.view(shape), padding=padding)
    return out[0, 0]


def _points(volume: Tensor, half: float, outer_radius: float | None, voxel: float) -> Tensor:
    depth, height, width = volume.shape
    radius = 0.5 * min(height, width) - 1 if outer_radius is None else outer_radius / voxel
    z, y, x = torch.meshgrid(
        *(torch.arange(n, device=volume.device, dtype=volume.dtype) - n // 2 for n in (depth, height, width)),
        indexing="ij",
    )
    chosen = (y * y + x * x < radius * radius) & (z >= -half) & (z <= 0)
    points = torch.stack([x[chosen], y[chosen], z[chosen]], -1)
    return points[:: max(1, points.shape[0] // _MOST_POINTS)]


def refine_helical_symmetry(
    volume: Tensor,
    voxel_size_in_angstroms: float,
    start: HelicalSymmetry,
    *,
    rise_range_in_angstroms: float = 1.0,
    twist_range_in_degrees: float = 3.0,
    central_fraction: float = 0.5,
    outer_radius_in_angstroms: float | None = None,
) -> HelicalSymmetry:
    """Rise and twist near a start under which a map agrees best with itself: grids that close in.

    Parameters
    ----------
    volume, voxel_size_in_angstroms
        Map (z, y, x) and its voxel size [Å].
    start
        Where to look.
    rise_range_in_angstroms, twist_range_in_degrees
        How far on either side [Å, degrees].
    central_fraction, outer_radius_in_angstroms
        Part along z and radius [Å] of what is compared.
    """

    def cost(rise: float, twist: float) -> float:
        if not 0.2 * start.rise_in_angstroms < rise:
            return 1.0
        helix = HelicalSymmetry(rise, twist)
        return -helical_agreement(
            volume,
            voxel_size_in_angstroms,
            helix,
            central_fraction=central_fraction,
            outer_radius_in_angstroms=outer_radius_in_angstroms,
            steps=steps,
        )

    # The same number for all candidates, or those with fewer steps would win by that alone.
    most = (start.rise_in_angstroms + rise_range_in_angstroms) / voxel_size_in_angstroms
    steps = max(1, int(_central_planes(volume, central_fraction) / most))
    volume = _smoothed(volume)
    best = (start.rise_in_angstroms, start.twist_in_degrees)
    span = (rise_range_in_angstroms, twist_range_in_degrees)
    for points in (9, *[5] * _ZOOMS):
        offsets = torch.linspace(-1, 1, points).tolist()
        grid = [(best[0] + a * span[0], best[1] + b * span[1]) for a in offsets for b in offsets]
        best = min(grid, key=lambda pair: cost(*pair))
        span = (span[0] * 2 / (points - 1), span[1] * 2 / (points - 1))
    return HelicalSymmetry(*best)
