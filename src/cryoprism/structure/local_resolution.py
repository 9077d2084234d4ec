"""Resolution by place and by direction: FSC in a sliding soft window, and in cones of directions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from scipy.spatial import ConvexHull
from torch import Tensor

from cryoprism.core import InputError

from .fsc import (
    _multiplicity,
    cosine_edge,
    first_crossing,
    irfft3,
    radial_gain,
    rfft3,
    shell_frequencies,
    shell_index,
    three_shell_mean,
)

__all__ = [
    "DirectionalFsc",
    "LocalResolution",
    "directional_fsc",
    "filter_locally",
    "local_resolution",
    "spread_directions",
]

_BATCH_VOXELS = 1_000_000
_MOST_POINTS = 3000


@dataclass(frozen=True, eq=False)
class LocalResolution:
    """Resolution by place.

    Attributes
    ----------
    data
        (z, y, x) [Å]; outside the mask the nearest value inside, so that surfaces can be coloured.
    points
        (n,) the values at the grid points themselves [Å].
    window_in_angstroms
        Diameter of the window at half its height.
    threshold
        FSC at which the resolution was read off.
    """

    data: Tensor
    points: Tensor
    window_in_angstroms: float
    threshold: float


@dataclass(frozen=True, eq=False)
class DirectionalFsc:
    """FSC in cones.

    Attributes
    ----------
    directions
        (d, 3) unit vectors (x, y, z), half a sphere.
    frequency, fsc
        (shells,) [1/Å] and (d, shells).
    resolution_in_angstroms
        (d,) at FSC = 0.143, averaged over three shells; infinite where the halves do not agree at all.
    sphericity
        Of the surface FSC = 0.5 in Fourier space, π^⅓ (6 V)^⅔ / A: 1 for a map that is equally good in all directions
        (Tan et al. 2017, Nature Methods 14, 793); None where a direction never reaches 0.5.
    cone_in_degrees
        Half of the cones' opening.
    """

    directions: Tensor
    frequency: Tensor
    fsc: Tensor
    resolution_in_angstroms: Tensor
    sphericity: float | None
    cone_in_degrees: float


def local_resolution(
    half1: Tensor,
    half2: Tensor,
    voxel_size_in_angstroms: float,
    mask: Tensor,
    *,
    window_in_angstroms: float,
    step_in_voxels: int | None = None,
    threshold: float = 0.5,
    on_batch: Callable[[int, int], None] | None = None,
) -> LocalResolution:
    """Resolution in a soft sphere that slides over the molecule.

    Around every grid point inside the mask both halves are cut out, multiplied by a soft sphere and correlated;
    the resolution is where the local FSC first falls below ``threshold`` (Cardone, Heymann & Steven 2013, J. Struct.
    Biol. 184, 226). A window of seven times the resolution is a fair compromise: smaller ones see more detail with
    larger errors. Values coarser than half of its full
    width are held there.

    Parameters
    ----------
    half1, half2
        (z, y, x).
    voxel_size_in_angstroms
        [Å].
    mask
        (z, y, x); the grid covers where it exceeds 0.5.
    window_in_angstroms
        Diameter of the window at half its height [Å].
    step_in_voxels
        Spacing of the grid; the finest that needs at most 3000 points if absent.
    threshold
        Of the FSC.
    on_batch
        Called with the points done and all points.

    Raises
    ------
    InputError
        The window is smaller than 12 voxels or does not fit the box, or the mask is empty.
    """
    shape = tuple(half1.shape)
    # The window is flat to half of its radius and one half at three quarters.
    width = 2 * round(window_in_angstroms / voxel_size_in_angstroms / 1.5)
    if width < 16 or width > min(shape):
        raise InputError(
            "window_in_angstroms",
            f"{window_in_angstroms:g} Å need {width} voxels in a box of {min(shape)}",
            f"Choose {12 * voxel_size_in_angstroms:.3g} to {0.75 * min(shape) * voxel_size_in_angstroms:.3g} Å.",
        )
    inside = mask > 0.5
    if not bool(inside.any()):
        raise InputError("mask", "nowhere exceeds 0.5", "Give a mask with ones inside the molecule.")
    step = step_in_voxels or max(1, math.ceil((float(inside.sum()) / _MOST_POINTS) ** (1 / 3)))
    starts = [(n // 2) % step for n in shape]
    grid = inside[starts[0] :: step, starts[1] :: step, starts[2] :: step]
    where = torch.nonzero(grid)
    if where.shape[0] == 0:
        where = torch.nonzero(torch.ones_like(grid))[grid.numel() // 2][None]
    centres = where * step + torch.tensor(starts, device=where.device)
    values = _windowed(half1, half2, centres, width, voxel_size_in_angstroms, threshold, on_batch)
    full = _spread(values.cpu(), where.cpu(), tuple(grid.shape), shape, starts, step)
    return LocalResolution(full.to(half1.device), values, window_in_angstroms, threshold)


def _windowed(
    half1: Tensor,
    half2: Tensor,
    centres: Tensor,
    width: int,
    voxel: float,
    threshold: float,
    on_batch: Callable[[int, int], None] | None,
) -> Tensor:
    box = (width, width, width)
    device = half1.device
    offset = torch.arange(width, device=device) - width // 2
    radius = (offset[:, None, None] ** 2 + offset[:, None] ** 2 + offset**2).sqrt() / (width / 2)
    window = 0.5 + 0.5 * torch.cos(torch.pi * (2 * radius - 1).clamp(0, 1))
    padded = [torch.nn.functional.pad(half, (width // 2,) * 6) for half in (half1, half2)]
    index = shell_index(box, device).flatten()
    shells = width // 2 + 1
    kept = torch.nonzero(index < shells).flatten()
    index = index[kept]
    order = torch.argsort(index, stable=True)
    kept, bounds = kept[order], torch.cumsum(torch.bincount(index, minlength=shells), 0)
    weight = _multiplicity(box, device).expand(width, width, width // 2 + 1).flatten()[kept]
    frequency = shell_frequencies(box, voxel)
    batch = max(1, _BATCH_VOXELS // width**3)
    results = []
    for first in range(0, centres.shape[0], batch):
        pieces = centres[first : first + batch]
        spectra = []
        for half in padded:
            cut = torch.stack([half[z : z + width, y : y + width, x : x + width] for z, y, x in pieces.tolist()])
            # The window's own step at a mean level would correlate the halves at low frequency only; taken off anyway.
            cut = (cut - (cut * window).sum((1, 2, 3), keepdim=True) / window.sum()) * window
            spectra.append(rfft3(cut).reshape(cut.shape[0], -1)[:, kept])
        a, b = (torch.view_as_real(s) for s in spectra)
        sums = [_segments((one * other).sum(-1) * weight, bounds) for one, other in ((a, b), (a, a), (b, b))]
        fsc = sums[0] / (sums[1] * sums[2]).sqrt().clamp_min(1e-30)
        results.append(_resolutions(frequency, fsc.cpu(), threshold, 0.5 * width * voxel))
        if on_batch is not None:
            on_batch(min(first + batch, centres.shape[0]), centres.shape[0])
    return torch.cat(results)


def _segments(values: Tensor, bounds: Tensor) -> Tensor:
    """Sum to (batch, shells) values (batch, n) that are sorted by shell."""
    total = torch.nn.functional.pad(values.double().cumsum(-1), (1, 0))
    ends = total[:, bounds]
    return torch.diff(ends, dim=-1, prepend=torch.zeros_like(ends[:, :1]))


def _resolutions(frequency: Tensor, fsc: Tensor, threshold: float, coarsest: float) -> Tensor:
    """First crossing of every curve (n, shells) [Å], from shell 1 on, where the zero shell counts as 1."""
    curve = fsc.clone()
    curve[:, 0] = 1.0
    below = curve < threshold
    crossed = below.any(-1)
    i = torch.where(crossed, below.int().argmax(-1), curve.shape[1] - 1).clamp_min(1)
    rows = torch.arange(curve.shape[0])
    high, low = curve[rows, i - 1], curve[rows, i]
    share = torch.where(crossed, (high - threshold) / (high - low).clamp_min(1e-12), 1.0)
    at = frequency[i - 1] + share * (frequency[i] - frequency[i - 1])
    return (1.0 / at.clamp_min(1e-9)).clamp_max(coarsest).float()


def _spread(
    values: Tensor, where: Tensor, grid: tuple[int, ...], shape: tuple[int, ...], starts: list[int], step: int
) -> Tensor:
    """Values at grid points to the full box: nearest beyond the mask, linear between points."""
    coarse = np.zeros(grid, dtype=np.float32)
    known = np.zeros(grid, dtype=bool)
    z, y, x = where.numpy().T
    coarse[z, y, x], known[z, y, x] = values.numpy(), True
    nearest = scipy.ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    coarse = coarse[tuple(nearest)]
    full = coarse
    for axis, (n, start) in enumerate(zip(shape, starts, strict=True)):
        at = np.clip((np.arange(n) - start) / step, 0, full.shape[axis] - 1)
        low = np.minimum(at.astype(int), max(full.shape[axis] - 2, 0))
        share = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        high = np.minimum(low + 1, full.shape[axis] - 1)
        full = np.take(full, low, axis) * (1 - share) + np.take(full, high, axis) * share
    return torch.from_numpy(np.ascontiguousarray(full))


def filter_locally(volume: Tensor, resolution: Tensor, voxel_size_in_angstroms: float, *, levels: int = 10) -> Tensor:
    """Low-pass filter each place of a volume (z, y, x) to its own resolution (z, y, x) [Å].

    A bank of ``levels`` filters, evenly spaced in frequency over the resolutions that occur, is blended linearly.
    """
    shape = (int(volume.shape[0]), int(volume.shape[1]), int(volume.shape[2]))
    wanted = 1.0 / resolution
    low, high = float(wanted.min()), float(wanted.max())
    cutoffs = torch.linspace(low, high, max(levels, 2)).tolist()
    transform = rfft3(volume)
    frequency = shell_frequencies(shape, voxel_size_in_angstroms)
    position = (wanted - low) / max(high - low, 1e-12) * (len(cutoffs) - 1)
    result = torch.zeros_like(volume)
    for number, cutoff in enumerate(cutoffs):
        gain = radial_gain(cosine_edge(frequency, cutoff), shape, volume.device)
        share = (1 - (position - number).abs()).clamp_min(0)
        result += share * irfft3(transform * gain, shape)
    return result


def spread_directions(count: int) -> Tensor:
    """Directions (count, 3) as (x, y, z), spread evenly over the half sphere z > 0 by a Fibonacci spiral."""
    number = torch.arange(count, dtype=torch.float64)
    z = 1 - (number + 0.5) / count
    turn = number * (math.pi * (3 - math.sqrt(5)))
    ring = (1 - z * z).sqrt()
    return torch.stack([ring * turn.cos(), ring * turn.sin(), z], -1)


def directional_fsc(
    half1: Tensor,
    half2: Tensor,
    voxel_size_in_angstroms: float,
    *,
    mask: Tensor | None = None,
    cone_in_degrees: float = 20.0,
    directions: int = 200,
    threshold: float = 0.143,
) -> DirectionalFsc:
    """FSC in cones about evenly spread directions: whether the map is as good along one axis as along another.

    Coefficients are first gathered by shell and by 1300 patches of equal area of the half sphere; a cone is then the
    sum of its patches, so that the number of directions costs nothing. Resolutions are read off a mean over three
    shells: in a single shell a cone may dip by chance, or with all others where the particle's own transform is faint.

    Parameters
    ----------
    half1, half2, mask
        (z, y, x).
    voxel_size_in_angstroms
        [Å].
    cone_in_degrees
        Half of the opening: 20 as in Tan et al. (2017).
    directions
        How many.
    threshold
        At which the resolution of a direction is read.
    """
    shape = (int(half1.shape[0]), int(half1.shape[1]), int(half1.shape[2]))
    shells = max(shape) // 2 + 1
    if mask is not None:
        half1, half2 = half1 * mask, half2 * mask
    index, patch, patches, centres = _patches(shape, shells, half1.device)
    a, b = (torch.view_as_real(rfft3(half).flatten()[index]) for half in (half1, half2))
    weight = _multiplicity(shape, half1.device).expand(shape[0], shape[1], shape[2] // 2 + 1).flatten()[index]
    sums = [
        torch.bincount(patch, weights=((one * other).sum(-1) * weight).double(), minlength=patches * shells)
        .reshape(patches, shells)
        .cpu()
        for one, other in ((a, b), (a, a), (b, b))
    ]
    axes = spread_directions(directions)
    cone = ((axes @ centres.T).abs() >= math.cos(math.radians(cone_in_degrees))).double()
    cross, first, second = (cone @ table for table in sums)
    fsc = cross / (first * second).sqrt().clamp_min(1e-30)
    frequency = shell_frequencies(shape, voxel_size_in_angstroms)

    def limits(level: float) -> list[float]:
        # The innermost shells have no coefficient in some cones: they cannot speak against a direction.
        found = []
        for curve in fsc:
            speaks = torch.cat([torch.ones(3), curve[3:]]).double()
            found.append(first_crossing(frequency, three_shell_mean(speaks), level).resolution_in_angstroms or math.inf)
        return found

    half_way = torch.tensor(limits(0.5))
    sphericity = _sphericity(axes, 1 / half_way) if bool(torch.isfinite(half_way).all()) else None
    return DirectionalFsc(axes, frequency, fsc, torch.tensor(limits(threshold)), sphericity, cone_in_degrees)


_BANDS, _SECTORS = 18, 72


def _patches(shape: tuple[int, int, int], shells: int, device: torch.device) -> tuple[Tensor, Tensor, int, Tensor]:
    """Places of the coefficients that count, their (patch, shell) number, number of patches and patch centres."""
    shell = shell_index(shape, device).flatten()
    index = torch.nonzero((shell > 0) & (shell < shells)).flatten()
    z, y = (torch.fft.fftfreq(n, device=device) for n in shape[:2])
    x = torch.fft.rfftfreq(shape[2], device=device)
    half = (shape[0], shape[1], shape[2] // 2 + 1)
    kz, ky, kx = (axis.expand(half).flatten()[index] for axis in (z[:, None, None], y[:, None], x))
    sign = torch.where(kz < 0, -1.0, 1.0)
    height = (kz.abs() / (kx * kx + ky * ky + kz * kz).sqrt()).clamp(max=1 - 1e-7)
    band = (height * _BANDS).long()
    sector = ((torch.atan2(ky * sign, kx * sign) / (2 * math.pi)).remainder(1.0) * _SECTORS).long() % _SECTORS
    patch = (band * _SECTORS + sector) * shells + shell[index]
    middle_z = (torch.arange(_BANDS, dtype=torch.float64) + 0.5) / _BANDS
    turn = (torch.arange(_SECTORS, dtype=torch.float64) + 0.5) * (2 * math.pi / _SECTORS)
    ring = (1 - middle_z**2).sqrt()[:, None]
    centres = torch.stack(
        [ring * turn.cos(), ring * turn.sin(), middle_z[:, None].expand(_BANDS, _SECTORS)], -1
    ).reshape(-1, 3)
    return index, patch, _BANDS * _SECTORS, centres


def _sphericity(axes: Tensor, radius: Tensor) -> float:
    """π^⅓ (6 V)^⅔ / A of the body with ``radius`` (d,) along ± ``axes`` (d, 3), over the unit sphere's."""
    points = torch.cat([axes, -axes]).numpy()
    reach = torch.cat([radius, radius]).numpy()
    triangles = ConvexHull(points).simplices

    def ratio(body: np.ndarray) -> float:
        corners = body[triangles]
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        area = 0.5 * np.linalg.norm(cross, axis=1).sum()
        volume = np.abs(np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))).sum() / 6
        return float(math.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area)

    return ratio(points * reach[:, None]) / ratio(points)
