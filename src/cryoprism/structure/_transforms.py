"""Geometry of padded half transforms, and the pruned transforms between them and maps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from cryoprism.core import InputError

__all__ = [
    "PaddedGrid",
    "gridding_correction",
    "half_transform",
    "inverse_half_transform",
    "resample",
    "shells_of_grid",
]


@dataclass(frozen=True)
class PaddedGrid:
    """A cubic box, padded and transformed, of which the half x ≥ 0 within ``reach`` is kept.

    Attributes
    ----------
    box
        Side of the map [voxels].
    padded
        Side of the padded box, even.
    max_radius
        Largest radius of interest [pixels of the unpadded transform].
    """

    box: int
    padded: int
    max_radius: int

    @classmethod
    def of(cls, box: int, padding: int = 2, max_radius: int | None = None) -> PaddedGrid:
        """Check and build; the radius is (box - 1) // 2 if absent.

        Raises
        ------
        InputError
            Padding below 1, or a radius outside 1 … (box - 1) // 2.
        """
        radius = (box - 1) // 2 if max_radius is None else int(max_radius)
        if padding < 1:
            raise InputError("padding", f"{padding}", "Use 2.")
        if not 1 <= radius <= (box - 1) // 2:
            raise InputError("max_radius", f"{radius} in a box of {box}", f"Use 1 to {(box - 1) // 2} pixels.")
        padded = padding * box
        return cls(box, padded + padded % 2, radius)

    @property
    def scale(self) -> float:
        """Padded pixels per unpadded pixel."""
        return self.padded / self.box

    @property
    def reach(self) -> int:
        """Largest index that is kept: one beyond the radius, for interpolation; at most padded // 2 - 1 is filled."""
        return math.ceil(self.scale * self.max_radius) + 1

    def coarser(self) -> PaddedGrid:
        """Smallest grid of the same extent, with larger voxels, that holds the radius; itself if that saves little."""
        if self.padded % self.box:
            return self
        box = 2 * int(scipy.fft.next_fast_len(self.max_radius + 2, real=True))
        return self if box > 0.9 * self.box else PaddedGrid(box, box * (self.padded // self.box), self.max_radius)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the table (z, y, x)."""
        side = 2 * self.reach + 1
        return side, side, self.reach + 1

    @property
    def voxels(self) -> int:
        """Number of the table's entries."""
        return math.prod(self.shape)


def gridding_correction(grid: PaddedGrid, device: torch.device | str = "cpu") -> Tensor:
    """Attenuation sinc²(|r| / padded) (box, box, box) which trilinear interpolation in Fourier space brings."""
    axis = (torch.arange(grid.box, device=device, dtype=torch.float32) - grid.box // 2) / grid.padded
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    return torch.sinc(radius.clamp_max(0.5 * math.sqrt(3) * grid.box / grid.padded)) ** 2


def shells_of_grid(grid: PaddedGrid, device: torch.device | str = "cpu") -> Tensor:
    """Distance (z, y, x) float32 of the table's entries from the origin [pixels of the unpadded transform]."""
    full = torch.arange(-grid.reach, grid.reach + 1, device=device, dtype=torch.float32) / grid.scale
    half = full[grid.reach :]
    return (full[:, None, None] ** 2 + (full[:, None] ** 2 + half**2)).sqrt_()


def _phases(indices: np.ndarray, grid: PaddedGrid, sign: int) -> np.ndarray:
    # Counting from voxel box // 2; reduced in integers, so that large boxes lose no digits.
    turns = (indices * (grid.box // 2)) % grid.padded
    return np.exp(sign * 2j * np.pi * turns / grid.padded).astype(np.complex64)


def _threads() -> int:
    return max(1, torch.get_num_threads())


def half_transform(volume: Tensor, grid: PaddedGrid) -> Tensor:
    """Table (z, y, x) complex64 of a map (box, box, box): zero-padded transform about voxel box // 2, cropped.

    Axis by axis, and cropped after each: the padded box is never in memory.
    """
    reach = grid.reach
    full = np.arange(-reach, reach + 1)
    wrapped = full % grid.padded
    if volume.device.type != "cpu":
        return _half_transform_on_device(volume, grid)
    array = volume.detach().float().numpy()
    out = scipy.fft.rfft(array, n=grid.padded, axis=2, workers=_threads())[:, :, : reach + 1]
    out = _fit(out, 2, reach + 1) * _phases(np.arange(reach + 1), grid, 1)
    out = scipy.fft.fft(out, n=grid.padded, axis=1, workers=_threads())[:, wrapped]
    out *= _phases(full, grid, 1)[:, None]
    out = scipy.fft.fft(out, n=grid.padded, axis=0, workers=_threads())[wrapped]
    out *= _phases(full, grid, 1)[:, None, None]
    return torch.from_numpy(np.ascontiguousarray(out.astype(np.complex64, copy=False)))


def _fit(array: np.ndarray, axis: int, length: int) -> np.ndarray:
    missing = length - array.shape[axis]
    if missing <= 0:
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, missing)
    return np.pad(array, widths)


def _half_transform_on_device(volume: Tensor, grid: PaddedGrid) -> Tensor:
    reach = grid.reach
    full = np.arange(-reach, reach + 1)
    wrapped = torch.from_numpy(full % grid.padded).to(volume.device)
    phase = torch.from_numpy(_phases(full, grid, 1)).to(volume.device)
    out = torch.fft.rfft(volume.float(), n=grid.padded, dim=2)[:, :, : reach + 1]
    out = torch.nn.functional.pad(out, (0, reach + 1 - out.shape[2])) * phase[reach:]
    out = torch.fft.fft(out, n=grid.padded, dim=1)[:, wrapped] * phase[:, None]
    out = torch.fft.fft(out, n=grid.padded, dim=0)[wrapped] * phase[:, None, None]
    result: Tensor = out.contiguous()
    return result


def inverse_half_transform(table: Tensor, grid: PaddedGrid) -> Tensor:
    """Map (box, box, box) float32 of a Hermitian table: inverse of :func:`half_transform`, cropped to the box.

    Entries at and beyond half the padded side are left out; the values at x = 0 must be Hermitian themselves.
    """
    reach, box, padded = grid.reach, grid.box, grid.padded
    keep = min(reach, (padded - 1) // 2)
    full = np.arange(-keep, keep + 1)
    inner = slice(reach - keep, reach + keep + 1)
    cut = table[inner, inner, : keep + 1]
    if table.device.type != "cpu":
        phase = torch.from_numpy(_phases(full, grid, -1)).to(table.device)
        wrapped_t = torch.from_numpy(full % padded).to(table.device)
        for axis in (0, 1):
            shape = list(cut.shape)
            shape[axis] = padded
            line = torch.zeros(shape, dtype=cut.dtype, device=cut.device)
            line.index_copy_(axis, wrapped_t, cut * phase.reshape([-1 if d == axis else 1 for d in range(3)]))
            cut = torch.fft.ifft(line, dim=axis).narrow(axis, 0, box)
        volume: Tensor = torch.fft.irfft(cut * phase[keep:], n=padded, dim=2)[:, :, :box].contiguous()
        return volume
    array = cut.detach().resolve_conj().numpy()
    for axis in (0, 1):
        shape = list(array.shape)
        shape[axis] = padded
        padded_line = np.zeros(shape, dtype=np.complex64)
        phases = _phases(full, grid, -1).reshape([-1 if d == axis else 1 for d in range(3)])
        # Negative frequencies to the end of the line.
        for old, new in ((slice(keep, None), slice(0, keep + 1)), (slice(0, keep), slice(padded - keep, None))):
            part, place = ((slice(None),) * axis + (which,) for which in (old, new))
            np.multiply(array[part], phases[old] if axis == 0 else phases[:, old], out=padded_line[place])
        array = scipy.fft.ifft(padded_line, axis=axis, overwrite_x=True, workers=_threads())
        array = array[:box] if axis == 0 else array[:, :box]
    array *= _phases(np.arange(keep + 1), grid, -1)
    array = scipy.fft.irfft(array, n=padded, axis=2, workers=_threads())[:, :, :box]
    return torch.from_numpy(np.ascontiguousarray(array.astype(np.float32, copy=False)))


def resample(volume: Tensor, box: int) -> Tensor:
    """Map on a finer grid of the same extent, (box, box, box); values, not sums, are kept."""
    side = int(volume.shape[-1])
    if side == box:
        return volume
    radius = (side - 1) // 2 - 1
    table = half_transform(volume, PaddedGrid(side, side, radius))
    return inverse_half_transform(table, PaddedGrid(box, box, radius)) * (box / side) ** 3
