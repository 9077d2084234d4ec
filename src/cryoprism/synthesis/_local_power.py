"""Power that stands where the particles stand: what a micrograph has on its particles and not between them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cryoprism.core import frequency_grid, rfft2

from .noise import spectrum_on

__all__ = ["Places", "excess_power", "noise_excess", "places_beside", "ring_means"]

_FAR = 1.35  # radii from any particle: between the particles
_MOST = 400


class Places:
    """Boxes on particles and boxes between them.

    Parameters
    ----------
    on, between
        (n, 2) upper left corners (y, x).
    side
        Edge of a box [px], a particle's diameter.
    """

    def __init__(self, on: Tensor, between: Tensor, side: int) -> None:
        self.on, self.between, self.side = on, between, side


def places_beside(xy: Tensor, radius: float, shape: tuple[int, ...], weight: Tensor | None) -> Places | None:
    """Boxes on particles at ``xy`` (n, 2) [px] of a radius [px], and between them; None where there are too few.

    Only boxes inside the field, all of whose pixels count (``weight``).
    """
    side = 2 * math.ceil(radius)
    lines = [torch.arange(0, max(1, length - side + 1), 8) for length in shape]
    between = torch.cartesian_prod(*lines)
    centres = between.flip(1).double() + side / 2
    between = between[torch.cdist(centres, xy.double()).min(1).values > _FAR * radius]
    on = xy.flip(1).round().long() - side // 2
    kept = []
    for corners in (on, between):
        inside = ((corners >= 0) & (corners <= torch.tensor(shape) - side)).all(1)
        corners = corners[inside]
        if weight is not None:
            whole = [bool((weight[y : y + side, x : x + side] > 0.99).all()) for y, x in corners.tolist()]
            corners = corners[torch.tensor(whole, dtype=torch.bool)]
        kept.append(corners[:: max(1, len(corners) // _MOST)])
    if min(len(corners) for corners in kept) < 12:
        return None
    return Places(kept[0], kept[1], side)


def _boxes(image: Tensor, corners: Tensor, side: int) -> Tensor:
    return image.unfold(0, side, 1).unfold(1, side, 1)[corners[:, 0], corners[:, 1]]


def _window(side: int) -> Tensor:
    line = 0.5 - 0.5 * torch.cos(2 * math.pi * (torch.arange(side) + 0.5) / side)
    window = line[:, None] * line
    return window / window.square().mean().sqrt()


def excess_power(image: Tensor, places: Places) -> tuple[Tensor, float]:
    """Mean |FFT|² / pixel count (side, side // 2 + 1) of windowed boxes on particles less that between them.

    The second value is the same difference of the mean of the image, as the window weighs it.
    """
    window = _window(places.side)
    powers, means = [], []
    for corners in (places.on, places.between):
        boxes = _boxes(image, corners, places.side)
        means.append(float((boxes * window.square()).mean()))
        centred = boxes - boxes.mean((1, 2), keepdim=True)
        powers.append(rfft2(centred * window).abs().square().mean(0) / places.side**2)
    return powers[0] - powers[1], means[0] - means[1]


def ring_means(power: Tensor, pixel: float, edges: Tensor) -> Tensor:
    """Mean of a power (n, n // 2 + 1) within rings between ``edges`` [1/Å]; 0 where a ring holds nothing."""
    n = power.shape[0]
    ky, kx = frequency_grid((n, n), pixel)
    ring = torch.bucketize(torch.sqrt(ky * ky + kx * kx), edges) - 1
    inside = (ring >= 0) & (ring < len(edges) - 1)
    total = torch.zeros(len(edges) - 1, dtype=torch.float64).index_add_(0, ring[inside], power[inside].double())
    return total / torch.bincount(ring[inside], minlength=len(edges) - 1).clamp_min(1)


def noise_excess(power: Tensor, rise: float, contrast: float, side: int) -> Tensor:
    """Return what noise of a power adds to the excess, if it rises by ``rise`` per unit of ``contrast``."""
    return spectrum_on(power, (side, side)) * (rise * contrast)
