"""The slow background of a micrograph (thickness of the ice, illumination) as a few cosines over its field."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SlowWaves", "fit_waves", "waves_like"]

_NEARLY_SQUARE = 1.05  # quotient of the sides of a field that may be turned by 90°


@dataclass(frozen=True, eq=False)
class SlowWaves:
    """A background, or a window of it.

    Parameters
    ----------
    coefficients
        (u, v) of cosines with u and v half waves over the field, of mean square 1.
    field
        (y, x) size of that field [px].
    start
        (y, x) first pixel of the window in the field; beyond its edges the field goes on mirrored.
    """

    coefficients: Tensor
    field: tuple[int, int]
    start: tuple[int, int] = (0, 0)

    def on(self, shape: tuple[int, int]) -> Tensor:
        """Background (y, x) in a window of that shape."""
        y, x = (_cosines(*line) for line in self._lines(shape))
        return y.T @ self.coefficients @ x

    def moved(self, shape: tuple[int, int], down: float, right: float) -> Tensor:
        """Change (y, x) when it moves by a few pixels, to first order: they are no part of its waves."""
        y, x = (_cosines(*line) for line in self._lines(shape))
        slope_y, slope_x = (_slopes(*line) for line in self._lines(shape))
        return -(down * (slope_y.T @ self.coefficients @ x) + right * (y.T @ self.coefficients @ slope_x))

    def _lines(self, shape: tuple[int, int]) -> list[tuple[int, Tensor, int]]:
        return [
            (count, torch.arange(start, start + length), field)
            for count, start, length, field in zip(self.coefficients.shape, self.start, shape, self.field, strict=True)
        ]


def fit_waves(image: Tensor, tile: int) -> Tensor:
    """Coefficients of all cosines over an image (y, x) slower than one wave over a tile, without the mean."""
    rows, columns = (1 + 2 * length // tile for length in image.shape)
    y, x = (_cosines(n, torch.arange(length), length) for n, length in zip((rows, columns), image.shape, strict=True))
    flat = y @ image @ x.T / image.numel()
    flat[0, 0] = 0
    return flat


def waves_like(
    coefficients: Tensor, field: tuple[int, int], shape: tuple[int, int], generator: torch.Generator
) -> SlowWaves:
    """Another background like one of a field, for a micrograph of some shape.

    It is mirrored, and turned by 90° where the field is square but for a twentieth, so that a dark edge stays dark; its
    finer waves have any sign. Its waves keep their lengths: a smaller micrograph is a window somewhere in the field.
    """
    signs = 2.0 * torch.randint(2, coefficients.shape, generator=generator) - 1
    order = torch.arange(coefficients.shape[0])[:, None] + torch.arange(coefficients.shape[1])
    mirror_y, mirror_x, turn = torch.randint(2, (3,), generator=generator).tolist()
    mirrored = torch.ones_like(coefficients)
    mirrored[1::2] *= 1 - 2 * mirror_y
    mirrored[:, 1::2] *= 1 - 2 * mirror_x
    drawn = coefficients * torch.where(order > 2, signs, mirrored)
    if turn and max(field) <= _NEARLY_SQUARE * min(field):
        drawn = drawn.T
    start = [0, 0]
    for axis in (0, 1):
        if room := field[axis] - shape[axis]:
            start[axis] = min(room, 0) + int(torch.randint(abs(room) + 1, (), generator=generator))
    return SlowWaves(drawn, field, (start[0], start[1]))


def _cosines(count: int, pixels: Tensor, length: int) -> Tensor:
    """Cosines (count, n) at n pixels, of 0, 1, 2 … half waves over a length [px], of mean square 1 over it."""
    order, place = torch.arange(count)[:, None], (pixels + 0.5) / length
    return torch.cos(math.pi * order * place) * torch.where(order > 0, math.sqrt(2.0), 1.0)


def _slopes(count: int, pixels: Tensor, length: int) -> Tensor:
    """Slopes per pixel of :func:`_cosines`."""
    order, place = torch.arange(count)[:, None], (pixels + 0.5) / length
    return -torch.sin(math.pi * order * place) * (order * (math.pi * math.sqrt(2.0) / length))
