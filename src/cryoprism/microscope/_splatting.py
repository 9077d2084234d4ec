"""Sums of many radial functions on a grid: quintic B-spline splatting, then Fourier filters (d = 2 or 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import scipy.fft
import torch
from torch import Tensor

__all__ = ["splat", "splat_density"]

_DEGREE = 5
_CHUNK = 16384


def _spline_weights(fraction: Tensor) -> Tensor:
    """Quintic B-spline at fraction + 0 … 5, shape (..., 6); the sum is 1."""
    values = [torch.ones_like(fraction)]
    for order in range(2, _DEGREE + 2):
        previous = [*values, torch.zeros_like(fraction)]
        values = [
            ((fraction + j) * previous[j] + ((order - fraction - j) * previous[j - 1] if j else 0.0)) / (order - 1)
            for j in range(order)
        ]
    return torch.stack(values, -1)


def splat(points: Tensor, weights: Tensor, shape: Sequence[int]) -> Tensor:
    """Add weights (n, r) at points (n, d) [pixels] to periodic grids (r, *shape) with quintic B-splines."""
    dimensions, rank = points.shape[1], weights.shape[1]
    grid = torch.zeros(rank, math.prod(shape), dtype=points.dtype, device=points.device)
    offsets = torch.arange(_DEGREE + 1, device=points.device)
    for start in range(0, points.shape[0], _CHUNK):
        part = points[start : start + _CHUNK]
        floor = torch.floor(part.detach())
        spline = _spline_weights(part - floor)  # (c, d, 6)
        place = (floor.long()[..., None] + (_DEGREE + 1) // 2 - offsets).remainder(
            torch.tensor(shape, device=points.device)[:, None]
        )
        index, weight = place[:, 0], spline[:, 0]
        for axis in range(1, dimensions):
            index = (index[:, :, None] * shape[axis] + place[:, axis, None, :]).flatten(1)
            weight = (weight[:, :, None] * spline[:, axis, None, :]).flatten(1)
        values = weights[start : start + _CHUNK].T[:, :, None] * weight
        grid = grid.index_add_(1, index.flatten(), values.flatten(1))
    return grid.reshape(rank, *shape)


def _kept(size: int, fine: int, half: bool) -> tuple[Tensor, Tensor]:
    """Where the frequencies below Nyquist of a coarse axis stand on the coarse and on the fine axis."""
    top = (size - 1) // 2
    order = torch.arange(0 if half else -top, top + 1)
    return order.remainder(size), order.remainder(fine)


def splat_density(
    points: Tensor,
    coefficients: Tensor,
    nodes: Tensor,
    basis: Tensor,
    shape: Sequence[int],
    pixel: float,
    oversampling: float,
    scale_by: float,
) -> Tensor:
    """Sum of radial functions on a grid of ``shape`` and spacing ``pixel``, limited to frequencies below Nyquist.

    Atom i at points[i] (d numbers from pixel n // 2, slow axis first) has the transform
    scale_by × Σ_r coefficients[i, r] basis[:, r](k), the basis being given on equidistant frequencies ``nodes``.
    """
    fine = tuple(scipy.fft.next_fast_len(max(8, math.ceil(n * max(1.0, oversampling))), real=True) for n in shape)
    scale = torch.tensor([m / (n * pixel) for n, m in zip(shape, fine, strict=True)], dtype=points.dtype)
    shift = torch.tensor([(n // 2) * m / n for n, m in zip(shape, fine, strict=True)], dtype=points.dtype)
    grids = splat(points * scale.to(points.device) + shift.to(points.device), coefficients, fine)
    device, last = points.device, len(shape) - 1
    picks = [_kept(n, m, axis == last) for axis, (n, m) in enumerate(zip(shape, fine, strict=True))]
    radius2 = torch.zeros((), device=device, dtype=points.dtype)
    correction = torch.ones((), device=device, dtype=points.dtype)
    for axis, (n, m, (_, at)) in enumerate(zip(shape, fine, picks, strict=True)):
        cycles = torch.where(at > m // 2, at - m, at).to(device=device, dtype=points.dtype)
        view = [1] * len(shape)
        view[axis] = -1
        radius2 = radius2 + ((cycles / (n * pixel)) ** 2).view(view)
        correction = correction * torch.sinc(cycles / m).view(view) ** (_DEGREE + 1)
    # Radial functions by linear interpolation between the nodes.
    position = radius2.sqrt() * ((nodes.numel() - 1) / float(nodes[-1]))
    low = position.long().clamp_max(nodes.numel() - 2)
    fraction = position - low
    select = torch.meshgrid(*[at.to(device) for _, at in picks], indexing="ij")
    total = torch.zeros(radius2.shape, dtype=torch.complex64 if points.dtype == torch.float32 else torch.complex128)
    total = total.to(device)
    for grid, radial in zip(grids, basis.T.to(points.dtype), strict=True):
        curve = torch.lerp(radial[low], radial[low + 1], fraction)
        total = total + torch.fft.rfftn(grid)[select] * (curve / correction)
    spectrum = torch.zeros(*shape[:-1], shape[-1] // 2 + 1, dtype=total.dtype, device=device)
    target = torch.meshgrid(*[at.to(device) for at, _ in picks], indexing="ij")
    spectrum = spectrum.index_put(target, total)
    density: Tensor = torch.fft.irfftn(spectrum, s=tuple(shape)) * (scale_by / pixel ** len(shape))
    return density
