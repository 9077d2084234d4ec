"""Where features are compared: positions on particles and on background.

A patch of noise looks like any other patch of noise: negatives drawn anywhere (CUT, Park et al. 2020) teach little.
Zhang et al. 2024 (CryoGEM) draw them from the other class by the mask of the particles: for a particle's place the
negatives lie on background, and the other way round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError

__all__ = ["Positions", "particle_mask", "sample_positions"]


@dataclass(frozen=True, eq=False)
class Positions:
    """Flat indices into the grid of features of one image.

    Parameters
    ----------
    groups
        Pairs of queries and negatives, (n,) and (m,); ``None`` as negatives stands for the other queries.
    """

    groups: tuple[tuple[Tensor, Tensor | None], ...]


def particle_mask(shape: tuple[int, int], xy_in_pixels: Tensor, radius_in_pixels: float) -> Tensor:
    """Mask (y, x): 1 within a radius of a particle's centre, 0 elsewhere.

    Parameters
    ----------
    shape
        Of the micrograph.
    xy_in_pixels
        (n, 2) centres.
    radius_in_pixels
        Of the particles.

    Raises
    ------
    InputError
        The radius is not positive.
    """
    if not radius_in_pixels > 0:
        raise InputError("radius", f"{radius_in_pixels:g} pixels", "Give the particles' radius, above 0.")
    mask = torch.zeros(shape)
    height, width = shape
    reach = math.ceil(radius_in_pixels) + 1
    for x, y in xy_in_pixels.tolist():
        top, bottom = max(0, int(y) - reach), min(height, int(y) + reach + 1)
        left, right = max(0, int(x) - reach), min(width, int(x) + reach + 1)
        if top >= bottom or left >= right:
            continue
        dy, dx = torch.arange(top, bottom)[:, None] - y, torch.arange(left, right)[None] - x
        part = mask[top:bottom, left:right]
        part[dy * dy + dx * dx <= radius_in_pixels**2] = 1.0
    return mask


def _some(places: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return places[torch.randperm(len(places), generator=generator)[:count]]


def sample_positions(mask: Tensor, count: int, generator: torch.Generator, *, guided: bool = True) -> Positions:
    """Choose the places of one image whose features are compared.

    Parameters
    ----------
    mask
        (h, w) share of particle, on the grid of the features.
    count
        Queries of each class at most, and negatives of each query.
    generator
        Of the draw, on the CPU.
    guided
        Negatives from the other class; without it (CUT), and where a patch has but one class, from anywhere.
    """
    flat = mask.flatten()
    particle, background = torch.nonzero(flat >= 0.5)[:, 0], torch.nonzero(flat < 0.5)[:, 0]
    if not guided or min(len(particle), len(background)) < 2:
        return Positions(((_some(torch.arange(flat.numel()), 2 * count, generator), None),))
    on, off = _some(particle, count, generator), _some(background, count, generator)
    return Positions(((on, off), (off, on)))
