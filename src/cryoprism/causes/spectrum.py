"""The observable: locally averaged periodograms of a micrograph on a polar grid, with honest degrees of freedom.

A micrograph is cut into half-overlapping tiles under a Hann window (Welch 1967). Tile periodograms are summed over a
3 × 3 grid of
regions and two interleaved halves, so that the global spectrum, local spectra (tilt) and independent halves
(repeatability) come from
one set of transforms. Powers are |FFT|² / pixel count of the image minus its mean: white noise of variance σ² has
power σ².
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
import scipy.sparse
import torch
from torch import Tensor

from cryoprism.core import InputError

__all__ = ["PolarGrid", "Spectrum", "measure_spectrum", "polar_grid", "tile_edge", "window_autocorrelation"]

_TILE_EXTENT_IN_ANGSTROMS = 720.0
_SECTORS = 24
_FEWEST_CLEAN_TILES = 2
REGIONS = 3


def tile_edge(shape: tuple[int, int], pixel_size_in_angstroms: float) -> int:
    """Edge [px] of the square tiles: about 720 Å, FFT friendly, from 128 to 1024 px and inside the image.

    720 Å holds the delocalised rings of ordinary defocus; smaller tiles would smear them.
    """
    if min(shape) < 128:
        raise InputError(
            "image", f"{shape[0]}x{shape[1]} pixels", "Give micrographs of at least 128 pixels along each axis."
        )
    wanted = min(max(_TILE_EXTENT_IN_ANGSTROMS / pixel_size_in_angstroms, 256), 1024, min(shape))
    good = [n for n in (128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024) if n <= min(shape)]
    return min(good, key=lambda n: (abs(math.log(n / wanted)), n))


@lru_cache(maxsize=8)
def _hann(edge: int) -> np.ndarray:
    line = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(edge) + 0.5) / edge)
    window = np.outer(line, line)
    return np.ascontiguousarray(window / np.sqrt((window**2).sum()), dtype=np.float32)


def window_autocorrelation(lag: Tensor) -> Tensor:
    """Autocorrelation of the Hann window at ``lag`` (fraction of the tile edge, any sign), 1 at zero, 0 beyond 1.

    The expected periodogram is the spectrum convolved with the window's own, so an oscillation cos(2π k·r) of the
    spectrum survives
    with the window's autocorrelation at r (Wiener-Khinchin). Closed form for w = ½(1 - cos 2πx).
    """
    x = lag.abs().clamp(max=1.0)
    rest = 1 - x
    tau = 2 * math.pi
    value = 0.25 * rest + 0.125 * rest * torch.cos(tau * x) + (3 / (16 * math.pi)) * torch.sin(tau * x)
    return value / 0.375


@dataclass(frozen=True)
class PolarGrid:
    """Polar bins of a tile's half plane: one pixel wide in radius, 7.5° in angle.

    Attributes
    ----------
    ky, kx
        (shells, sectors) centre of each bin [1/Å].
    k
        (shells,) radius [1/Å].
    angle_in_degrees
        (sectors,) direction, counter-clockwise from x towards +y, in [0, 180).
    count
        (shells, sectors) independent complex coefficients of one tile in the bin, before windowing.
    shell_width
        Radial width [1/Å].
    """

    edge: int
    pixel_size_in_angstroms: float
    limits_in_angstroms: tuple[float, float]
    first_shell: int
    ky: Tensor
    kx: Tensor
    k: Tensor
    angle_in_degrees: Tensor
    count: Tensor
    shell_width: float
    _matrix: scipy.sparse.csr_matrix

    def __reduce__(self) -> tuple[Any, ...]:
        # A grid follows from four numbers: processes exchange those and share the cached tables.
        return polar_grid, (self.edge, self.pixel_size_in_angstroms, *self.limits_in_angstroms)

    def average(self, power: np.ndarray) -> Tensor:
        """Average half-plane powers (groups, edge, edge // 2 + 1) over the bins: (groups, shells, sectors)."""
        flat = np.ascontiguousarray(power.reshape(power.shape[0], -1), dtype=np.float32)
        return torch.from_numpy((self._matrix @ flat.T).T.reshape(power.shape[0], *self.ky.shape).astype(np.float32))


@lru_cache(maxsize=8)
def polar_grid(
    edge: int, pixel_size_in_angstroms: float, low_in_angstroms: float, high_in_angstroms: float
) -> PolarGrid:
    """Make the polar grid between two resolutions [Å]; ``high`` is cut at 0.98 of Nyquist."""
    extent = edge * pixel_size_in_angstroms
    high = min(1 / high_in_angstroms, 0.98 / (2 * pixel_size_in_angstroms))
    first, last = max(2, round(extent / low_in_angstroms)), int(extent * high)
    fy = np.fft.fftfreq(edge, 1 / edge)[:, None]
    fx = np.arange(edge // 2 + 1)[None, :]
    radius = np.sqrt(fx**2 + fy**2)
    angle = np.degrees(np.arctan2(fy, fx + 0.0 * fy)) % 180
    # Column 0 holds each coefficient twice (k and -k); keep one of them. The axes carry detector lines: left out.
    keep = (fx > 0) & (np.abs(fy) > 0) & (fx < edge / 2)
    shell = np.rint(radius).astype(int)
    keep &= (shell >= first) & (shell <= last)
    sector = np.floor(angle / (180 / _SECTORS)).astype(int) % _SECTORS
    bins = ((shell - first) * _SECTORS + sector)[keep]
    columns = np.flatnonzero(keep)
    shells = last - first + 1
    if shells < 24:
        raise InputError(
            "pixel size",
            f"{pixel_size_in_angstroms:g} Å leaves nothing to fit between {low_in_angstroms:g} and {1 / high:.3g} Å",
            "Correct the header or give --pixel-size; a CTF fit needs pixels below about 4 Å.",
        )
    count = np.bincount(bins, minlength=shells * _SECTORS).astype(np.float64)
    matrix = scipy.sparse.csr_matrix(
        ((1 / np.maximum(count, 1))[bins].astype(np.float32), (bins, columns)), shape=(shells * _SECTORS, radius.size)
    )
    k = torch.arange(first, last + 1, dtype=torch.float32) / extent
    centre = (torch.arange(_SECTORS, dtype=torch.float32) + 0.5) * (180 / _SECTORS)
    ky = k[:, None] * torch.sin(torch.deg2rad(centre))
    kx = k[:, None] * torch.cos(torch.deg2rad(centre))
    return PolarGrid(
        edge=edge,
        pixel_size_in_angstroms=pixel_size_in_angstroms,
        limits_in_angstroms=(low_in_angstroms, high_in_angstroms),
        first_shell=first,
        ky=ky,
        kx=kx,
        k=k,
        angle_in_degrees=centre,
        count=torch.from_numpy(count.reshape(shells, _SECTORS)).float(),
        shell_width=1 / extent,
        _matrix=matrix,
    )


@dataclass(frozen=True)
class Spectrum:
    """Averaged periodogram of one micrograph.

    Attributes
    ----------
    power
        (shells, sectors) mean periodogram [grey units²].
    freedom
        (shells, sectors) effective number of independent complex coefficients behind each value.
    halves
        (2, shells, sectors) the same from two interleaved sets of tiles; each has half of ``freedom``.
    regions
        (3, 3, shells, sectors) local spectra, rows from top to bottom.
    region_centres
        (3, 3, 2) centre (y, x) of each region relative to the middle of the image [Å].
    low_k, low_power, low_coefficients
        (m,) shells below the polar grid, from 4 pixels on: radius [1/Å], mean power, coefficients of the whole image.
    plane
        (edge, edge // 2 + 1) mean periodogram on the Cartesian half plane, for pictures and spots.
    mean, variance
        Of the image inside the tiles, grey units.
    coefficients_per_tile_coefficient
        How many coefficients of the whole image one coefficient of a tile stands for.
    """

    grid: PolarGrid
    power: Tensor
    freedom: Tensor
    halves: Tensor
    regions: Tensor
    region_centres: Tensor
    plane: np.ndarray
    low_k: Tensor
    low_power: Tensor
    low_coefficients: Tensor
    shape: tuple[int, int]
    mean: float
    variance: float
    tiles: int

    @property
    def pixel_size_in_angstroms(self) -> float:
        """Pixel size [Å]."""
        return self.grid.pixel_size_in_angstroms

    @property
    def coefficients(self) -> Tensor:
        """(shells, sectors) complex coefficients of the whole micrograph in each bin."""
        return self.grid.count * (self.shape[0] * self.shape[1] / self.grid.edge**2)

    def with_power(self, power: Tensor, freedom: Tensor) -> Spectrum:
        """Copy with another power and freedom (a half, a region)."""
        return replace(self, power=power, freedom=freedom)


def _freedom_factor(starts_y: np.ndarray, starts_x: np.ndarray, edge: int) -> float:
    """Variance of the mean periodogram over tiles times (correlation between neighbouring frequencies), for P = 1."""

    def line(starts: np.ndarray) -> float:
        lag = torch.from_numpy(np.abs(starts[:, None] - starts[None, :]) / edge)
        rho = window_autocorrelation(lag).numpy()
        return float((rho**2).mean())

    # Sum over neighbouring coefficients of the squared correlation of a Hann-windowed transform: 35/18 per axis.
    return line(starts_y) * line(starts_x) * (35 / 18) ** 2


def measure_spectrum(
    image: Tensor | np.ndarray,
    pixel_size_in_angstroms: float,
    *,
    low_in_angstroms: float = 30.0,
    high_in_angstroms: float = 2.5,
    valid: np.ndarray | None = None,
    workers: int = 2,
) -> Spectrum:
    """Measure the averaged periodogram of a micrograph.

    Parameters
    ----------
    image
        (y, x) real, any grey unit; not changed.
    pixel_size_in_angstroms
        Pixel size [Å].
    low_in_angstroms, high_in_angstroms
        Resolution range [Å] of the polar grid.
    valid
        (y, x) boolean, False where a mask leaves the image out; tiles with over half of their area left out are
        dropped. None keeps all.
    workers
        Threads of the transforms.

    Raises
    ------
    InputError
        The image is smaller than 128 px or blank.
    """
    pixels = image.numpy() if isinstance(image, Tensor) else image
    height, width = pixels.shape
    edge = tile_edge((height, width), pixel_size_in_angstroms)
    grid = polar_grid(edge, pixel_size_in_angstroms, low_in_angstroms, high_in_angstroms)
    window = _hann(edge)
    starts_y, starts_x = (_starts(n, edge) for n in (height, width))
    power = np.zeros((2 * REGIONS * REGIONS, edge, edge // 2 + 1), dtype=np.float32)
    used = np.zeros(len(power), dtype=int)
    total, square = 0.0, 0.0
    batch = max(1, int(2**22 // edge**2))
    # A field of two tiles along either axis is one such block: there the tiles themselves alternate.
    block = 2 if max(len(starts_y), len(starts_x)) > 2 else 1
    places = [(i, j, int(y), int(x)) for i, y in enumerate(starts_y) for j, x in enumerate(starts_x)]
    covered = [
        0.0 if valid is None else 1.0 - float(valid[y : y + edge : 8, x : x + edge : 8].mean()) for *_, y, x in places
    ]
    # A tile that a mask touches brings foreign rings along: such tiles serve only where there are no others.
    limit = 0.1 if sum(share <= 0.1 for share in covered) >= _FEWEST_CLEAN_TILES else 0.5
    jobs: list[tuple[int, int, int]] = []
    for (i, j, y, x), share in zip(places, covered, strict=True):
        if share <= limit:
            region = _region(y, height, edge) * REGIONS + _region(x, width, edge)
            # Blocks of 2 x 2 tiles alternate between the halves: few overlapping tiles fall into different halves.
            jobs.append((2 * region + (i // block + j // block) % 2, y, x))
    if not jobs:
        if valid is None:
            raise InputError("image", "holds no tile", "Give larger micrographs.")
        # A mask that spares no tile cannot help: measure all of it, the mask still tells what is lost.
        return measure_spectrum(
            pixels,
            pixel_size_in_angstroms,
            low_in_angstroms=low_in_angstroms,
            high_in_angstroms=high_in_angstroms,
            workers=workers,
        )
    for begin in range(0, len(jobs), batch):
        part = jobs[begin : begin + batch]
        tiles = np.empty((len(part), edge, edge), dtype=np.float32)
        for index, (_, y, x) in enumerate(part):
            tile = pixels[y : y + edge, x : x + edge]
            mean = tile.mean(dtype=np.float64)
            np.subtract(tile, np.float32(mean), out=tiles[index], casting="unsafe")
            flat = tiles[index].ravel()
            total += float(mean)
            square += float(np.dot(flat, flat)) / edge**2
            tiles[index] *= window
        half = scipy.fft.rfft2(tiles, workers=workers, overwrite_x=True)
        for index, (group, _, _) in enumerate(part):
            power[group] += half[index].real ** 2 + half[index].imag ** 2
            used[group] += 1
    variance = square / len(jobs)
    if not variance > 0:
        raise InputError("image", "every pixel has the same value", "Leave this blank micrograph out.")
    groups = grid.average(power)
    weight = torch.from_numpy(used).float()
    halves_used = weight.view(-1, 2).sum(0).clamp_min(1)
    region_used = weight.view(-1, 2).sum(1).clamp_min(1)
    shaped = groups.view(REGIONS * REGIONS, 2, *grid.ky.shape)
    factor = _freedom_factor(starts_y, starts_x, edge) * (len(starts_y) * len(starts_x) / len(jobs))
    centres = torch.zeros(REGIONS, REGIONS, 2)
    rows = _centres(starts_y, height, edge) * pixel_size_in_angstroms
    columns = _centres(starts_x, width, edge) * pixel_size_in_angstroms
    centres[..., 0], centres[..., 1] = rows[:, None], columns[None, :]
    plane = power.sum(0) / np.float32(len(jobs))
    low_shell, low_power, low_count = _low_shells(plane, grid.first_shell)
    return Spectrum(
        grid=grid,
        low_k=torch.from_numpy(low_shell / (edge * pixel_size_in_angstroms)).float(),
        low_power=torch.from_numpy(low_power).float(),
        low_coefficients=torch.from_numpy(low_count * (height * width / edge**2)).float(),
        power=groups.sum(0) / len(jobs),
        freedom=grid.count / factor,
        halves=shaped.sum(0) / halves_used[:, None, None],
        regions=(shaped.sum(1) / region_used[:, None, None]).view(REGIONS, REGIONS, *grid.ky.shape),
        region_centres=centres,
        plane=plane,
        shape=(height, width),
        mean=total / len(jobs),
        variance=variance,
        tiles=len(jobs),
    )


def _low_shells(plane: np.ndarray, first_shell: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shells 4 to first_shell - 1 of a half plane: radius [px], mean power, number of its coefficients."""
    edge = plane.shape[0]
    reach = first_shell + 1
    rows = np.r_[0:reach, edge - reach : edge]
    part = plane[rows, 1:reach]
    fy = np.fft.fftfreq(edge, 1 / edge)[rows][:, None]
    radius = np.rint(np.sqrt(fy**2 + np.arange(1, reach)[None, :] ** 2)).astype(int)
    count = np.bincount(radius.ravel())
    mean = np.bincount(radius.ravel(), part.ravel()) / np.maximum(count, 1)
    shells = np.arange(min(4, first_shell - 1), first_shell)
    return shells.astype(float), mean[shells], count[shells].astype(float)


def _starts(length: int, edge: int) -> np.ndarray:
    count = max(1, math.ceil((length - edge) / (edge / 2)) + 1) if length > edge else 1
    return np.rint(np.linspace(0, length - edge, count)).astype(int)


def _region(start: int, length: int, edge: int) -> int:
    return min(REGIONS - 1, int((start + edge / 2) * REGIONS / length))


def _centres(starts: np.ndarray, length: int, edge: int) -> Tensor:
    middle = starts + edge / 2
    region = np.array([_region(int(s), length, edge) for s in starts])
    fallback = (np.arange(REGIONS) + 0.5) * length / REGIONS
    values = [middle[region == r].mean() if (region == r).any() else fallback[r] for r in range(REGIONS)]
    return torch.tensor(np.array(values) - length / 2, dtype=torch.float32)
