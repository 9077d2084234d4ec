"""Soft random outlines, shared by crystalline patches and contamination."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

__all__ = ["pixel_coordinates", "soft_blob"]


def pixel_coordinates(
    shape: tuple[int, int], pixel_size_in_angstroms: float, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Coordinates (y, x) [Å] of pixel centres from pixel n // 2, broadcastable: (height, 1) and (1, width)."""
    y = (torch.arange(shape[0], device=device, dtype=torch.float32) - shape[0] // 2) * pixel_size_in_angstroms
    x = (torch.arange(shape[1], device=device, dtype=torch.float32) - shape[1] // 2) * pixel_size_in_angstroms
    return y[:, None], x[None, :]


def soft_blob(
    shape: tuple[int, int],
    pixel_size_in_angstroms: float,
    center_in_angstroms: tuple[float, float],
    radius_in_angstroms: float,
    *,
    generator: Generator,
    roughness: float = 0.15,
    edge_in_angstroms: float = 20.0,
) -> Tensor:
    """Patch (y, x) that is 1 inside a random star-shaped outline and falls to 0 over ``edge_in_angstroms``.

    The edge is a logistic, the outline r(φ) = R [1 + roughness Σ_m a_m cos(mφ + φ_m) / m], m = 1 … 7, with Gaussian
    a_m; the centre (x, y) counts from pixel n // 2.
    """
    device = generator.device
    y, x = pixel_coordinates(shape, pixel_size_in_angstroms, device)
    x, y = x - center_in_angstroms[0], y - center_in_angstroms[1]
    angle = torch.atan2(y, x)
    outline = torch.ones(shape, device=device)
    draws = torch.randn(7, generator=generator, device=device)
    phases = 2 * math.pi * torch.rand(7, generator=generator, device=device)
    for order in range(1, 8):
        outline = outline + roughness * draws[order - 1] / order * torch.cos(order * angle + phases[order - 1])
    distance = radius_in_angstroms * outline.clamp_min(0.1) - torch.sqrt(x * x + y * y)
    return torch.sigmoid(distance * (4.0 / edge_in_angstroms))
