"""Crystalline ice in the transform of a micrograph: its rings and spots, found as excess over the fitted spectrum.

Only the known reflections of ice are touched, so layer lines of filaments and spots of two-dimensional crystals stay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["ICE_SPACINGS_IN_ANGSTROMS", "IceSuppression", "ice_region", "suppress_crystalline_ice"]

#: Hexagonal ice (100), (002), (101), (102), (110), (103), (112); cubic ice (111), (220), (311) coincide with some of
#: them. From the unit cell a = 4.519 Å, c = 7.357 Å (Dowell & Rinfret 1960, Nature 188, 1144, for the cubic form a =
#: 6.350 Å).
ICE_SPACINGS_IN_ANGSTROMS = (3.90, 3.67, 3.44, 2.67, 2.26, 2.07, 1.92)
_HALF_WIDTH = 0.015  # of a ring, as a fraction of its frequency


@dataclass(frozen=True)
class IceSuppression:
    """What was done to the reflections of ice.

    Attributes
    ----------
    spacings_in_angstroms
        Reflections that lie inside the band that was looked at.
    excess
        Robust ring power over the fitted power, one per spacing; 1 means no ring.
    spots
        Numbers of single coefficients that were brought down, one per spacing.
    """

    spacings_in_angstroms: tuple[float, ...]
    excess: tuple[float, ...]
    spots: tuple[int, ...]


def ice_region(ky: Tensor, kx: Tensor) -> tuple[Tensor, Tensor]:
    """Where the reflections and their flanks lie on a grid of frequencies (n, 1) and (1, m).

    Returns
    -------
    index
        Flat indices into (n, m), ascending.
    frequency
        Their magnitudes [1/Å].
    """
    k_squared = ky * ky + kx * kx
    inside = torch.zeros(k_squared.shape, dtype=torch.bool)
    highest = min(float(ky.abs().max()), float(kx.abs().max()))
    for spacing in ICE_SPACINGS_IN_ANGSTROMS:
        lower, upper = ((1 - 3 * _HALF_WIDTH) / spacing, (1 + 3 * _HALF_WIDTH) / spacing)
        if upper <= highest:
            inside |= (k_squared - 0.5 * (lower**2 + upper**2)).abs_() <= 0.5 * (upper**2 - lower**2)
    index = torch.from_numpy(np.flatnonzero(inside.numpy()))
    return index, k_squared.reshape(-1)[index].sqrt()


def suppress_crystalline_ice(
    coefficients: Tensor, expected_power: Tensor, frequency: Tensor, scale: float, *, false_spots: float = 0.01
) -> tuple[Tensor, IceSuppression]:
    """Bring rings and spots of ice down to the fitted power; phases stay.

    Within 1.5 % of each reflection u = |F|²·scale / expected power is exponential with mean 1 for anything noise-like
    (Goodman, Statistical Optics, ch. 2). The ring's excess is median(u)/ln 2 against the same in both flanks; if it is
    more than 1.2 and 5 standard errors (1/(ln 2 √n) each) the ring is divided by its root. A coefficient whose u still
    exceeds ln(n / ``false_spots``) is a spot and gets the expected amplitude.

    Parameters
    ----------
    coefficients
        (n,) complex, those around the reflections (others are left as they are); not changed.
    expected_power
        (n,) fitted power H²S + N.
    frequency
        (n,) magnitude [1/Å].
    scale
        Factor from |F|² to power: 1 / (height · width) for an unnormalised transform.
    false_spots
        Expected number of coefficients taken for spots by chance in each ring.

    Returns
    -------
    coefficients
        New (n,) complex.
    suppression
        What was found; spacings with fewer than 50 coefficients in the ring or its flanks are left out.
    """
    spacings: list[float] = []
    excesses: list[float] = []
    spots: list[int] = []
    ratio = (coefficients.real.square() + coefficients.imag.square()) * scale / expected_power.clamp_min(1e-30)
    total = torch.ones_like(ratio)
    for spacing in ICE_SPACINGS_IN_ANGSTROMS:
        off = (frequency * spacing - 1.0).abs()
        ring = (off <= _HALF_WIDTH).nonzero()[:, 0]
        flank = ratio[(off > _HALF_WIDTH) & (off <= 3 * _HALF_WIDTH)]
        n = ring.numel()
        if n < 50 or flank.numel() < 50:
            continue
        level = max(float(flank.median()) / math.log(2.0), 1e-30)
        u = ratio[ring] / level
        excess = float(u.median()) / math.log(2.0)
        error = math.sqrt(1.0 / n + 1.0 / flank.numel()) / math.log(2.0)
        if excess > max(1.2, 1.0 + 5.0 * error):
            total[ring] /= math.sqrt(excess)
            u = u / excess
        spot = u > math.log(n / false_spots)
        total[ring[spot]] /= u[spot].sqrt()
        spacings.append(spacing)
        excesses.append(excess)
        spots.append(int(spot.sum()))
    return coefficients * total, IceSuppression(tuple(spacings), tuple(excesses), tuple(spots))
