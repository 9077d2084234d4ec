"""The least-squares map of inserted slices: density compensation by conjugate gradients on a Toeplitz kernel.

Dividing the sums by the weights treats every point of the grid alone, but slices fall between the points. The least
squares solution of Σ w |V(Aᵀ k) - x|² obeys a convolution in real space, kernel ∗ map = back projection, whose kernel
is the transform of the sampling density (Wajer & Pruessmann 2001, ISMRM 9, 767; for single particles Penczek, Renka &
Schomberg 2004, J. Opt. Soc. Am. A 21, 499, and Zheng et al. 2009, J. Struct. Biol. 166, 67). On a grid padded twice
that convolution is exact. Known support (the sphere in the box) makes it well posed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from ._transforms import PaddedGrid, gridding_correction, inverse_half_transform

__all__ = ["conjugate_gradients", "sphere"]

_FLOOR = 0.1  # of the shell's mean weight, in the preconditioner
_ROWS = 4  # of a spectrum, worked on together by each thread


def sphere(grid: PaddedGrid, radius: float, device: torch.device | str = "cpu") -> Tensor:
    """1 within ``radius`` [voxels] of voxel box // 2 and 0 beyond it, (box, box, box)."""
    axis = (torch.arange(grid.box, device=device) - grid.box // 2).float()
    return ((axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) < radius * radius).float()


def _in_fft_order(table: Tensor, grid: PaddedGrid, dtype: type[np.generic] = np.float32) -> np.ndarray:
    """Real table (z, y, x) as the half spectrum (padded, padded, padded // 2 + 1) of an FFT, zero elsewhere."""
    side, reach = grid.padded, min(grid.reach, (grid.padded - 1) // 2)
    inner = slice(grid.reach - reach, grid.reach + reach + 1)
    out = np.zeros((side, side, side // 2 + 1), dtype=dtype)
    cut = table[inner, inner, : reach + 1].cpu().numpy()
    for low, part in ((0, slice(reach, None)), (side - reach, slice(0, reach))):
        rows = cut[part]
        out[low : low + len(rows), : reach + 1, : reach + 1] = rows[:, reach:]
        out[low : low + len(rows), side - reach :, : reach + 1] = rows[:, :reach]
    return out


def _density_kernel(weight: Tensor, grid: PaddedGrid) -> np.ndarray:
    """Spectrum of the sampling density's kernel, freed of the attenuation by trilinear insertion; in FFT order."""
    side, threads = grid.padded, _threads()
    table = _in_fft_order(weight, grid, np.complex64)
    kernel = scipy.fft.irfftn(table, s=(side,) * 3, overwrite_x=True, workers=threads)
    del table
    # The attenuation of one octant serves all eight.
    lag = np.arange(side // 2 + 1, dtype=np.float32) / side
    squared = lag[:, None] ** 2 + lag**2
    mirrored = np.abs(np.fft.fftfreq(side, 1 / side)).round().astype(int)
    for z, distance in enumerate(lag):
        quarter = np.sinc(np.minimum(np.sqrt(squared + distance * distance), np.float32(0.5))) ** 2
        plane = quarter[mirrored[:, None], mirrored]
        for layer in {z, -z % side}:
            kernel[layer] /= plane
    # Contiguous, as it is read in every step.
    return np.ascontiguousarray(scipy.fft.rfftn(kernel, overwrite_x=True, workers=threads).real)


def _threads() -> int:
    return max(1, torch.get_num_threads())


def _rows_in_sphere(grid: PaddedGrid, step: int) -> Iterator[tuple[slice, int]]:
    """Rows along y of a half spectrum in FFT order, ``step`` at a time, and the columns x within the grid's reach."""
    side = grid.padded
    for start in range(0, side, step):
        stop = min(side, start + step)
        nearest = min(min(y, side - y) for y in range(start, stop))
        inside = math.isqrt(max(0, grid.reach**2 - nearest**2))
        yield slice(start, stop), 0 if nearest > grid.reach else min(side // 2, inside) + 1


def _filtered(volume: Tensor, spectrum: Tensor, grid: PaddedGrid) -> Tensor:
    """Volume (box, box, box) padded, multiplied by a real spectrum in FFT order, and cropped."""
    side, box = grid.padded, grid.box
    if volume.device.type != "cpu":
        transform = torch.fft.rfftn(volume, s=(side, side, side)) * spectrum
        result: Tensor = torch.fft.irfftn(transform, s=(side, side, side))[:box, :box, :box]
        return result
    threads, wanted = _threads(), spectrum.numpy()
    # Axis by axis: what is zero before a transform or dropped after it is not transformed.
    out = scipy.fft.rfft(volume.numpy(), n=side, axis=2, workers=threads)
    out = scipy.fft.fft(out, n=side, axis=1, workers=threads)
    # A few rows at a time stay in the cache, and their corners outside the sphere of the spectrum are left out.
    for rows, width in _rows_in_sphere(grid, _ROWS * threads):
        out[:, rows, width:] = 0
        if width:
            part = scipy.fft.fft(out[:, rows, :width], n=side, axis=0, workers=threads)
            part *= wanted[:, rows, :width]
            out[:, rows, :width] = scipy.fft.ifft(part, axis=0, overwrite_x=True, workers=threads)[:box]
    out = scipy.fft.ifft(out, axis=1, overwrite_x=True, workers=threads)[:, :box]
    return torch.from_numpy(scipy.fft.irfft(out, n=side, axis=2, workers=threads)[:, :, :box])


def conjugate_gradients(
    numerator: Tensor,
    weight: Tensor,
    prior: Tensor | None,
    typical: Tensor,
    start: Tensor,
    grid: PaddedGrid,
    *,
    support: Tensor,
    iterations: int,
) -> Tensor:
    """Improve ``start`` towards the map whose slices fit the inserted ones best, inside ``support``.

    Parameters
    ----------
    numerator, weight
        Tables (z, y, x) of the accumulator.
    prior
        1 / τ² on the table, or None.
    typical
        Mean weight of the shell of each entry; 0 where nothing is wanted.
    start
        (box, box, box) first guess.
    grid
        Geometry; padded at least twice.
    support
        (box, box, box) of 0 and 1.
    iterations
        Steps; few are enough, and stopping early keeps what the views hardly determine close to the start.
    """
    wanted = typical > 0
    level = torch.maximum(weight, _FLOOR * typical)
    if prior is not None:
        level = level + prior
    inverse = torch.from_numpy(_in_fft_order(torch.where(wanted, 1.0 / level.clamp_min(1e-30), 0.0), grid))
    density = _density_kernel(weight, grid)
    if prior is not None:
        density += _in_fft_order(prior, grid)
    density *= _in_fft_order(wanted.float(), grid)
    kernel, inverse = torch.from_numpy(density).to(start.device), inverse.to(start.device)
    back = inverse_half_transform(torch.where(wanted, numerator, 0.0), grid)
    target = support * back / gridding_correction(grid, back.device)

    def filtered(volume: Tensor, spectrum: Tensor) -> Tensor:
        return support * _filtered(volume, spectrum, grid)

    volume = start * support
    residual = target - filtered(volume, kernel)
    preconditioned = filtered(residual, inverse)
    step = preconditioned
    product = (residual * preconditioned).sum()
    for done in range(1, iterations + 1):
        image = filtered(step, kernel)
        curvature = (step * image).sum()
        if not float(curvature) > 0 or not float(product) > 0:
            break  # the truncated kernel is indefinite by rounding only: nothing more can be gained
        length = product / curvature
        volume = volume + length * step
        if done == iterations:
            break
        residual = residual - length * image
        preconditioned = filtered(residual, inverse)
        previous, product = product, (residual * preconditioned).sum()
        step = preconditioned + product / previous * step
    return volume
