"""How much of a micrograph's noise went through the lens."""

from __future__ import annotations

import torch
from torch import Tensor

from cryoprism.core import frequency_grid
from cryoprism.microscope.optics import contrast_transfer

from .scene import Scene

__all__ = ["ice_power"]


def ice_power(power: Tensor, scene: Scene, neighbours: int = 12) -> Tensor:
    """Part of the noise that rises and falls with CTF², by regression over rings: power before the CTF."""
    n = power.shape[0]
    ky, kx = frequency_grid((n, n), scene.pixel_size_in_angstroms)
    k = torch.sqrt(ky * ky + kx * kx)
    squared = contrast_transfer(ky, kx, scene.lens, **scene.aberrations()).square()
    ring = (k * (n * scene.pixel_size_in_angstroms)).round().long()
    rings = int(ring.max()) + 1

    def over_rings(values: Tensor) -> Tensor:
        total = torch.zeros(rings, dtype=torch.float64).index_add_(0, ring.flatten(), values.flatten().double())
        kernel = torch.ones(1, 1, 2 * neighbours + 1, dtype=torch.float64)
        return torch.nn.functional.conv1d(total[None, None], kernel, padding=neighbours)[0, 0]

    count = over_rings(torch.ones_like(power)).clamp_min(1)
    mean_c, mean_p = over_rings(squared) / count, over_rings(power) / count
    covariance = over_rings(squared * power) / count - mean_c * mean_p
    variance = over_rings(squared * squared) / count - mean_c**2
    slope = (covariance / variance.clamp_min(1e-4)).clamp_min(0)
    # No more than all of the ring's power can have gone through the lens.
    slope = torch.minimum(slope, mean_p / mean_c.clamp_min(0.05))
    return slope[ring].float()
