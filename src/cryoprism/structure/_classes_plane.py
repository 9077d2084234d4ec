"""Class averages in Fourier space: sampling at in-plane rotations, its adjoint, and averages from weighted sums.

The two-dimensional analogue of :mod:`cryoprism.structure.slices`: the view at in-plane angle psi is R(Aᵀ k) with A the
upper left 2 × 2 of ``euler_to_matrix(0, 0, psi)``, read bilinearly from the transform of the padded image, whose
attenuation sinc²(x) sinc²(y) is corrected in real space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cryoprism.core import irfft2, rfft2

from ._packing import packed_frequencies

__all__ = ["PlaneGrid", "averages_from_sums", "insert_rotated", "rotated_views", "shell_means", "soft_circle"]

_FLOOR = 0.1  # of the shell's mean weight: what hardly any view covers is damped, not amplified


@dataclass(frozen=True)
class PlaneGrid:
    """A square box, padded twice and transformed, of which the half kx ≥ 0 within ``reach`` is kept.

    Attributes
    ----------
    box
        Side of the images [pixels].
    radius
        Largest radius of interest [pixels of the unpadded transform], at most (box - 1) // 2.
    """

    box: int
    radius: int

    @property
    def padded(self) -> int:
        """Side of the padded box."""
        return 2 * self.box

    @property
    def reach(self) -> int:
        """Largest index of a table."""
        return 2 * self.radius + 1

    @property
    def shape(self) -> tuple[int, int]:
        """Of a table (ky, kx)."""
        return 2 * self.reach + 1, self.reach + 1


def soft_circle(
    box: int, radius: float, edge: float, device: torch.device | str = "cpu", *, corners: bool = False
) -> Tensor:
    """Circle (box, box) about pixel box // 2: 1 up to ``radius`` [pixels], a cosine to 0 over ``edge`` pixels.

    With ``corners`` it is 1 where it would be 0 and 0 elsewhere: the background.
    """
    axis = (torch.arange(box, device=device) - box // 2).float()
    distance = (axis[:, None] ** 2 + axis**2).sqrt()
    if corners:
        return (distance > radius + edge).float()
    return 0.5 + 0.5 * torch.cos(torch.pi * ((distance - radius) / edge).clamp(0.0, 1.0))


def _phases(grid: PlaneGrid, indices: Tensor, sign: int) -> Tensor:
    turns = torch.remainder(indices * (grid.box // 2), grid.padded).double() * (sign * 2 * math.pi / grid.padded)
    return torch.polar(torch.ones_like(turns), turns).to(torch.complex64)


def _gridding(grid: PlaneGrid, device: torch.device) -> Tensor:
    axis = (torch.arange(grid.box, device=device) - grid.box // 2).float() / grid.padded
    line = torch.sinc(axis) ** 2
    return line[:, None] * line


def _transform(images: Tensor, grid: PlaneGrid) -> Tensor:
    """Tables (K, ky, kx) of images (K, box, box), freed of the interpolation's attenuation."""
    device, extra = images.device, grid.padded - grid.box
    padded = torch.nn.functional.pad(images / _gridding(grid, device), (0, extra, 0, extra))
    full = torch.arange(-grid.reach, grid.reach + 1, device=device)
    table = rfft2(padded)[:, torch.remainder(full, grid.padded)][:, :, : grid.reach + 1]
    phase = _phases(grid, full, 1)
    return table * phase[:, None] * phase[grid.reach :]


def _inverse(table: Tensor, grid: PlaneGrid) -> Tensor:
    """Images (K, box, box) of Hermitian tables, with the attenuation of the insertion corrected."""
    device, keep = table.device, min(grid.reach, grid.box - 1)
    full = torch.arange(-keep, keep + 1, device=device)
    phase = _phases(grid, full, -1)
    cut = table[:, grid.reach - keep : grid.reach + keep + 1, : keep + 1] * phase[:, None] * phase[keep:]
    half = torch.zeros(table.shape[0], grid.padded, grid.box + 1, dtype=torch.complex64, device=device)
    half[:, torch.remainder(full, grid.padded), : keep + 1] = cut
    images = irfft2(half, (grid.padded, grid.padded))[:, : grid.box, : grid.box]
    return images.float() / _gridding(grid, device)


@lru_cache(maxsize=8)
def _corners(grid: PlaneGrid, angles: int, radius: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Where the points Aᵀ k lie in a flat table: first corner (A·N), weights (A·N, 4), sign of the imaginary part."""
    psi = (torch.arange(angles, device=device).double() + 0.5) * (2 * math.pi / angles)
    k = 2.0 * packed_frequencies(radius, device).double()
    cosine, sine = psi.cos()[:, None], psi.sin()[:, None]
    # A = [[cos, sin], [-sin, cos]], so that Aᵀ k = (cos kx - sin ky, sin kx + cos ky).
    x, y = cosine * k[:, 0] - sine * k[:, 1], sine * k[:, 0] + cosine * k[:, 1]
    sign = torch.where(x < 0, -1.0, 1.0)
    x, y = (x * sign).flatten(), (y * sign).flatten()
    left, low = x.floor(), y.floor()
    u, v = (x - left).float(), (y - low).float()
    first = (low.long() + grid.reach) * grid.shape[1] + left.long()
    weights = torch.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v], -1)
    return first, weights, sign.flatten().float()


def _offsets(grid: PlaneGrid) -> tuple[int, int, int, int]:
    return 0, 1, grid.shape[1], grid.shape[1] + 1


def rotated_views(images: Tensor, grid: PlaneGrid, angles: int, radius: int) -> Tensor:
    """Packed coefficients (K, A, N) complex64 of images (K, box, box) seen at the angles psi = (j + ½) · 360° / A."""
    first, weights, sign = _corners(grid, angles, radius, images.device)
    table = torch.view_as_real(_transform(images, grid)).flatten(1, 2)
    out = torch.zeros(images.shape[0], first.numel(), 2, device=images.device)
    for offset, weight in zip(_offsets(grid), weights.unbind(-1), strict=True):
        out += table.index_select(1, first + offset) * weight[:, None]
    out[..., 1] *= sign
    return torch.view_as_complex(out).view(images.shape[0], angles, -1)


def insert_rotated(sums: Tensor, grid: PlaneGrid, angles: int, radius: int) -> Tensor:
    """Adjoint of the sampling: tables (K, ky, kx, 3) of sums (K, A, N, 3) = real and imaginary part, weight."""
    first, weights, sign = _corners(grid, angles, radius, sums.device)
    count = sums.shape[0]
    # One row per point, all classes beside each other.
    rows = sums.flatten(1, 2).transpose(0, 1).contiguous()
    rows[..., 1] *= sign[:, None]
    rows = rows.flatten(1)
    table = torch.zeros(grid.shape[0] * grid.shape[1], 3 * count, device=sums.device)
    for offset, weight in zip(_offsets(grid), weights.unbind(-1), strict=True):
        table.index_add_(0, first + offset, rows * weight[:, None])
    return table.view(*grid.shape, count, 3).permute(2, 0, 1, 3).contiguous()


def _folded(table: Tensor) -> tuple[Tensor, Tensor]:
    """Numerator and weight of a table, its column kx = 0 completed by the conjugates of its mirror image."""
    column = table[:, :, 0].clone()
    mirror = column.flip(1)
    mirror[..., 1] *= -1
    whole = table.clone()
    whole[:, :, 0] = column + mirror
    return torch.view_as_complex(whole[..., :2].contiguous()), whole[..., 2]


@lru_cache(maxsize=8)
def _table_shells(grid: PlaneGrid, device: torch.device) -> Tensor:
    full = torch.arange(-grid.reach, grid.reach + 1, device=device).float() / 2
    return (full[:, None] ** 2 + full[grid.reach :] ** 2).sqrt().round().long()


def shell_means(values: Tensor, shells: Tensor, count: int) -> Tensor:
    """Mean (..., count) of ``values`` (..., N) over the coefficients of each shell 0 … count - 1; 0 where none is."""
    inside = shells < count
    index, chosen = shells[inside], values[..., inside]
    total = torch.zeros(*values.shape[:-1], count, dtype=values.dtype, device=values.device)
    number = torch.bincount(index, minlength=count).clamp_min(1).to(values.dtype)
    return total.index_add_(-1, index, chosen) / number


def averages_from_sums(table: Tensor, grid: PlaneGrid, ratio: Tensor, radius: int) -> Tensor:
    """Averages (K, box, box) from tables (K, ky, kx, 3): sum / (weight + mean weight of the shell / ratio).

    Parameters
    ----------
    table
        Of :func:`insert_rotated`.
    grid
        Its geometry.
    ratio
        (K, shells) ratio of signal to noise that regularises each shell, shell 0 first; infinite for none.
    radius
        Nothing beyond it is kept [pixels of the unpadded transform].
    """
    numerator, weight = _folded(table)
    shells = _table_shells(grid, table.device)
    count = int(ratio.shape[-1])
    typical = shell_means(weight.flatten(1), shells.flatten(), count)
    at = shells.clamp_max(count - 1).flatten()
    mean = typical[:, at].view_as(weight)
    prior = (typical / ratio.clamp_min(1e-6))[:, at].view_as(weight)
    level = torch.maximum(weight, _FLOOR * mean) + prior
    wanted = (shells <= radius) & (shells < count) & (mean > 0)
    values = torch.where(wanted, numerator / level.clamp_min(1e-30), torch.zeros_like(numerator))
    return _inverse(values, grid)
