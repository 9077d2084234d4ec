"""Trilinear reading of a half transform at points with mirrored halves, in runs that fit a core's cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ._transforms import PaddedGrid

__all__ = ["Corners", "corner_offsets", "corners_of_points", "corners_of_slices", "interpolate", "runs"]

# Samples worked on together: their coordinates and corners stay in a core's cache.
_SAMPLES_ON_CPU = 49_152
_SAMPLES_ON_GPU = 8_388_608


@dataclass(frozen=True)
class Corners:
    """Where n samples fall.

    Attributes
    ----------
    index
        (n,) entry of the cell's lowest corner.
    fraction
        (3, n) way from there along x, y and z, 0 to 1.
    sign
        (n,) -1 where the mirror image is read, whose value is the conjugate, else 1.
    """

    index: Tensor
    fraction: Tensor
    sign: Tensor


def corners_of_slices(rotations: Tensor, frequencies: Tensor, grid: PaddedGrid) -> Corners:
    """Corners of the points scale · Aᵀ k of the rotations (m, 3, 3); samples are flat, all k of a rotation together."""
    points = torch.einsum("nk,mki->imn", frequencies, rotations[:, :2, :]).reshape(3, -1)
    return corners_of_points(points, grid)


def corners_of_points(points: Tensor, grid: PaddedGrid) -> Corners:
    sign = torch.where(points[0] < 0, -1.0, 1.0)
    points = points * sign
    floor = points.floor()
    fraction = points - floor
    # Beyond 2²⁴ voxels float32 has no room for the index.
    x, y, z = floor.to(torch.int64 if grid.voxels >= 2**24 else torch.float32)
    reach, side = grid.reach, 2 * grid.reach + 1
    index = ((z + reach) * side + (y + reach)) * (reach + 1) + x
    return Corners(index.to(torch.int64), fraction, sign)


def runs(count: int, samples: int, device: torch.device) -> Iterator[slice]:
    """Split ``count`` rotations of ``samples`` points each into runs that fit the cache."""
    together = _SAMPLES_ON_CPU * torch.get_num_threads() if device.type == "cpu" else _SAMPLES_ON_GPU
    step = max(1, together // samples)
    for start in range(0, count, step):
        yield slice(start, min(count, start + step))


def corner_offsets(grid: PaddedGrid) -> tuple[int, ...]:
    """Flat distance of the eight corners of a cell from its lowest: along x first, then y, then z."""
    row, layer = grid.reach + 1, (grid.reach + 1) * (2 * grid.reach + 1)
    return (0, 1, row, row + 1, layer, layer + 1, layer + row, layer + row + 1)


def interpolate(bits: Tensor, corners: Corners, grid: PaddedGrid, slopes: bool = False) -> tuple[Tensor, ...]:
    """Trilinear values (2n,) as real, imaginary, real …; with ``slopes`` also the derivatives along x, y, z."""
    tx, ty, tz = (t.repeat_interleave(2) for t in corners.fraction)
    corner = [bits.index_select(0, corners.index + offset).view(torch.float32) for offset in corner_offsets(grid)]
    edge = [torch.lerp(corner[i], corner[i + 1], tx) for i in (0, 2, 4, 6)]
    face = [torch.lerp(edge[i], edge[i + 1], ty) for i in (0, 2)]
    value = torch.lerp(face[0], face[1], tz)
    if not slopes:
        return (value,)
    dx = [corner[i + 1] - corner[i] for i in (0, 2, 4, 6)]
    along_x = torch.lerp(torch.lerp(dx[0], dx[1], ty), torch.lerp(dx[2], dx[3], ty), tz)
    along_y = torch.lerp(edge[1] - edge[0], edge[3] - edge[2], tz)
    return value, along_x, along_y, face[1] - face[0]
