"""Statistics of viewing directions: how evenly particles were seen, and what that costs in Fourier space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError, euler_to_matrix, point_group_matrices

from .local_resolution import spread_directions

__all__ = ["ViewingDirections", "viewing_directions"]

_BANDS, _COLUMNS = 45, 90
_DIRECTIONS = 600


@dataclass(frozen=True, eq=False)
class ViewingDirections:
    """How particles were seen.

    Attributes
    ----------
    density
        (bands, columns) views per area over their mean on the whole sphere, smoothed over 4°. Bands run evenly in tilt
        from 0° to 180°, columns evenly in rot from -180° to 180°. Directions that symmetry makes equal are filled too.
    particles
        Number of views before symmetry.
    sampling_compensation_factor
        1 for even coverage of Fourier space, towards 0 for missing directions: the harmonic mean of the relative
        sampling over directions (SCF of Baldwin & Lyumkis 2020, Prog. Biophys. Mol. Biol. 150, 160), where directions
        without any view count as seen with a hundredth of the mean.
    weakest, strongest
        Sampling of the least and the most covered Fourier direction over the mean.
    missing_fraction
        Share of Fourier directions with less than a tenth of the mean sampling.
    largest_share
        Share of views in the tenth of the sphere that has most of them; a tenth for even views.
    """

    density: Tensor
    particles: int
    sampling_compensation_factor: float
    weakest: float
    strongest: float
    missing_fraction: float
    largest_share: float


def viewing_directions(
    rot: Tensor, tilt: Tensor, *, symmetry: str = "C1", slice_width_in_degrees: float = 2.0
) -> ViewingDirections:
    """Statistics of the directions that particles were seen from.

    The view of a particle is the third row of ``core.euler_to_matrix``: (sin tilt cos rot, sin tilt sin rot, cos tilt)
    in the frame of the map. It fills the central slice of Fourier space at right angles to it.

    Parameters
    ----------
    rot, tilt
        (n,) [degrees], RELION's.
    symmetry
        Point group of the map.
    slice_width_in_degrees
        Standard deviation of the slice's thickness: one shell at a radius of about 30.

    Raises
    ------
    InputError
        No particles, angles that are not finite, or an unknown point group.
    """
    if rot.numel() == 0 or rot.shape != tilt.shape:
        raise InputError("rot and tilt", f"{rot.numel()} and {tilt.numel()} angles", "Give one of each per particle.")
    if not bool((torch.isfinite(rot) & torch.isfinite(tilt)).all()):
        raise InputError("rot and tilt", "angles that are not finite", "Remove these particles.")
    try:
        group = point_group_matrices(symmetry).double()
    except ValueError as error:
        raise InputError("--symmetry", f"'{symmetry}' is no point group", str(error)) from error
    views = euler_to_matrix(rot.double(), tilt.double(), torch.zeros_like(rot, dtype=torch.float64))[:, 2]
    counts = torch.zeros(_BANDS * _COLUMNS, dtype=torch.float64)
    for operator in group:
        turned = views @ operator.T
        counts += torch.bincount(_bins(turned), minlength=_BANDS * _COLUMNS)
    centres, areas = _centres()
    density = _smooth(counts, areas, centres, math.radians(4.0))
    density = density / (density * areas).sum() * areas.sum()
    sampling = _sampling(density, areas, centres, math.radians(slice_width_in_degrees))
    sampling = sampling / sampling.mean()
    order = density.argsort(descending=True)
    tenth = areas[order].cumsum(0) <= 0.1 * areas.sum()
    return ViewingDirections(
        density.reshape(_BANDS, _COLUMNS).float(),
        int(rot.numel()),
        float(1 / (1 / sampling.clamp_min(0.01)).mean()),
        float(sampling.min()),
        float(sampling.max()),
        float((sampling < 0.1).double().mean()),
        float((density * areas)[order][tenth].sum() / areas.sum()),
    )


def _bins(views: Tensor) -> Tensor:
    band = (views[:, 2].clamp(-1, 1).acos() / math.pi * _BANDS).long().clamp(0, _BANDS - 1)
    turn = torch.atan2(views[:, 1], views[:, 0]) / (2 * math.pi) + 0.5
    return band * _COLUMNS + (turn * _COLUMNS).long().clamp(0, _COLUMNS - 1)


def _centres() -> tuple[Tensor, Tensor]:
    """Directions (n, 3) of the bins' middles and their areas (n,) in arbitrary units."""
    tilt = (torch.arange(_BANDS, dtype=torch.float64) + 0.5) * math.pi / _BANDS
    z, ring = tilt.cos(), tilt.sin()[:, None]
    turn = ((torch.arange(_COLUMNS, dtype=torch.float64) + 0.5) / _COLUMNS - 0.5) * 2 * math.pi
    places = torch.stack([ring * turn.cos(), ring * turn.sin(), z[:, None].expand(_BANDS, _COLUMNS)], -1)
    return places.reshape(-1, 3), ring.expand(_BANDS, _COLUMNS).flatten()


def _smooth(counts: Tensor, areas: Tensor, centres: Tensor, sigma: float) -> Tensor:
    """Average counts per area over a Gaussian of the angle, in blocks so that memory stays small."""
    result = torch.empty_like(counts)
    for start in range(0, counts.numel(), 1024):
        # exp((cos θ - 1) / σ²) is the Gaussian of the angle on a sphere (von Mises and Fisher).
        kernel = torch.exp(((centres[start : start + 1024] @ centres.T - 1) / sigma**2).float())
        result[start : start + 1024] = (kernel @ counts.float()) / (kernel @ areas.float())
    return result


def _sampling(density: Tensor, areas: Tensor, centres: Tensor, sigma: float) -> Tensor:
    """Sum the views of each Fourier direction: those at right angles to it, with a Gaussian thickness."""
    axes = spread_directions(_DIRECTIONS)
    # The slice is at least half as thick as the bins, so that none is skipped.
    width = max(sigma, math.pi / _BANDS / 2)
    kernel = torch.exp(-0.5 * ((axes @ centres.T).asin() / width) ** 2)
    return (kernel @ (density * areas)) / (kernel @ areas)
