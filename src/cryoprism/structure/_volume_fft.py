"""Fourier transforms of volumes: scipy's threads on the CPU where no gradient is asked for, else torch."""

from __future__ import annotations

import os

import numpy as np
import scipy.fft
import torch
from torch import Tensor

__all__ = ["irfft3", "rfft3"]


def rfft3(volumes: Tensor) -> Tensor:
    """Half Fourier transform over the last three axes, unnormalised, batched; differentiable."""
    if volumes.device.type == "cpu" and not (torch.is_grad_enabled() and volumes.requires_grad):
        array = scipy.fft.rfftn(volumes.detach().numpy(), axes=(-3, -2, -1), workers=_threads())
        return torch.from_numpy(np.asarray(array))
    transform: Tensor = torch.fft.rfftn(volumes, dim=(-3, -2, -1))
    return transform


def irfft3(coefficients: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Inverse of :func:`rfft3` for volumes of ``shape`` (z, y, x)."""
    if coefficients.device.type == "cpu" and not (torch.is_grad_enabled() and coefficients.requires_grad):
        data = coefficients.detach().resolve_conj().numpy()
        return torch.from_numpy(np.asarray(scipy.fft.irfftn(data, s=shape, axes=(-3, -2, -1), workers=_threads())))
    volume: Tensor = torch.fft.irfftn(coefficients, s=shape, dim=(-3, -2, -1))
    return volume


def _threads() -> int:
    return max(1, min(torch.get_num_threads(), os.cpu_count() or 1))
