"""What a real micrograph shows of contamination and support film: how much, how large, how dark.

An artefact mask knows dark, compact regions and areas behind a long edge. A dark region no larger than a few particles
may as well be some of them over each other, or one that holds iron: only larger ones are told apart as contamination.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

__all__ = ["ArtefactMasks", "SeenArtefacts", "Spot", "look_at_artefacts", "seen_from_dict"]

_LARGER_THAN_CLUMPS = 3.0  # particle radii: the area of nine particles
_CELL_EDGE = 24.0  # Å from the outline of a spot to what is taken for its inside
_RING = (60.0, 180.0)  # Å outside of it: its surroundings


class ArtefactMasks(NamedTuple):
    """Where a mask of any resolution (by, bx), bool, says contamination and where support film."""

    contamination: Tensor
    carbon: Tensor


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A dark, compact region.

    Parameters
    ----------
    radius_in_angstroms
        Of a disc of its area; that of what is inside the field, for one at the border.
    depth
        How much darker than its surroundings it is [relative contrast].
    told_apart
        Whether it is larger than what a few particles could make up.
    """

    radius_in_angstroms: float
    depth: float
    told_apart: bool


@dataclass(frozen=True, kw_only=True)
class SeenArtefacts:
    """Artefacts of one real micrograph.

    Parameters
    ----------
    spots
        Dark regions, whatever they are.
    contamination_share
        Share of the field that they cover.
    carbon_share, carbon_depth
        Share that support film covers (0 where no edge is seen; a field all of carbon shows none), and how much darker
        it is [relative contrast].
    """

    spots: tuple[Spot, ...] = ()
    contamination_share: float = 0.0
    carbon_share: float = 0.0
    carbon_depth: float = 0.0

    @property
    def contaminations(self) -> tuple[Spot, ...]:
        """Spots that are told apart from particles."""
        return tuple(spot for spot in self.spots if spot.told_apart)


def look_at_artefacts(
    image: Tensor, masks: ArtefactMasks, pixel_size_in_angstroms: float, gain: float, particle_radius: float
) -> SeenArtefacts:
    """Measure the artefacts that a mask shows.

    Parameters
    ----------
    image
        (y, x) grey values.
    masks
        Where they are.
    pixel_size_in_angstroms
        Of the image.
    gain
        Grey values per relative contrast.
    particle_radius
        Of the specimen [Å].
    """
    dirt, film = (np.asarray(mask.numpy(), dtype=bool) for mask in masks)
    if not dirt.any() and not film.any():
        return SeenArtefacts()
    cells = (int(dirt.shape[0]), int(dirt.shape[1]))
    grey = torch.nn.functional.adaptive_avg_pool2d(image[None, None], cells)[0, 0].numpy()
    cell = pixel_size_in_angstroms * math.sqrt(image.shape[0] * image.shape[1] / (cells[0] * cells[1]))
    good = ~(dirt | film)
    level = float(np.median(grey[good])) if good.any() else float(np.median(grey))
    pieces, count = scipy.ndimage.label(dirt)
    spots = []
    for number in range(1, count + 1):
        piece = pieces == number
        radius = math.sqrt(float(piece.sum()) / math.pi) * cell
        away = scipy.ndimage.distance_transform_edt(~piece) * cell
        inner = scipy.ndimage.distance_transform_edt(piece) * cell > _CELL_EDGE
        ring = good & (away > _RING[0]) & (away < _RING[1])
        around = float(np.median(grey[ring])) if ring.any() else level
        depth = (around - float(np.median(grey[inner if inner.any() else piece]))) / gain
        if depth > 0:
            told = radius >= _LARGER_THAN_CLUMPS * particle_radius
            spots.append(Spot(radius_in_angstroms=radius, depth=depth, told_apart=told))
    return SeenArtefacts(
        spots=tuple(spots),
        contamination_share=float(dirt.mean()),
        carbon_share=float(film.mean()),
        carbon_depth=max(0.0, (level - float(np.median(grey[film]))) / gain) if film.any() else 0.0,
    )


def seen_from_dict(values: Mapping[str, Any]) -> SeenArtefacts:
    """Inverse of ``dataclasses.asdict``."""
    return SeenArtefacts(**{**values, "spots": tuple(Spot(**spot) for spot in values.get("spots", ()))})
