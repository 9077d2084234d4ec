"""Small helpers that make parameters broadcast against grids and apply transfer functions to real images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from cryoprism.core import frequency_grid, irfft2, rfft2

__all__ = ["Scalar", "apply_transfer", "grid_of", "number", "over_grid", "uniform"]

Scalar = float | Tensor


def over_grid(value: Scalar, like: Tensor, axes: int = 2) -> Tensor:
    """Make a parameter broadcast against a grid: a batch of shape (b,) becomes (b, 1, 1) for two grid axes."""
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return tensor[(..., *(None,) * axes)] if tensor.ndim else tensor


def number(parameters: Mapping[str, Tensor | float], name: str, default: float | None = None) -> float:
    """Return one plain number (the same for the whole batch), for example a pixel size or a seed.

    Raises
    ------
    ValueError
        The parameter is missing without a default, or differs within the batch.
    """
    if name not in parameters:
        if default is None:
            raise ValueError(f"the parameter '{name}' is missing: add it to the mapping")
        return default
    value = parameters[name]
    if isinstance(value, Tensor):
        if value.numel() > 1 and not bool((value == value.flatten()[0]).all()):
            raise ValueError(f"'{name}' must be one number for the whole batch, not {tuple(value.shape)} values")
        return float(value.flatten()[0])
    return float(value)


def grid_of(images: Tensor, pixel_size_in_angstroms: float) -> tuple[Tensor, Tensor]:
    """Frequencies (ky, kx) [1/Å] of the ``rfft2`` of real ``images`` (..., y, x), in their dtype."""
    height, width = images.shape[-2:]
    return frequency_grid((height, width), pixel_size_in_angstroms, device=images.device, dtype=images.dtype)


def apply_transfer(images: Tensor, transfer: Tensor) -> Tensor:
    """Multiply the transform of real ``images`` (..., y, x) by ``transfer`` (..., y, x // 2 + 1); linear, batched."""
    height, width = images.shape[-2:]
    return irfft2(rfft2(images) * transfer, (height, width))


def uniform(generator: Generator, low: float, high: float) -> float:
    """Draw one uniform number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, device=generator.device))
