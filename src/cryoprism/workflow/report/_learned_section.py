"""Part of a synthetic set's report: what learning added, and what the network holds to be alike."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cryoprism.synthesis.translation import LEAST_GAIN

from ._map_pictures import png_source
from ._numbers import escape

__all__ = ["learned_section"]

_SHOWN_SIDE = 420
_RING = np.array([255, 140, 0], dtype=np.uint8)


def learned_section(
    strength: float,
    steps: int,
    distances: dict[float, float],
    picture: NDArray[np.uint8],
    maps: Tensor,
    xy_in_pixels: Tensor,
    on_particles: int,
) -> str:
    """Return the HTML of the section.

    Parameters
    ----------
    strength, steps, distances
        Factor on what was learned, steps of training, distance from real patches by factor.
    picture
        (h, w) the micrograph that the places are in, as bytes.
    maps, xy_in_pixels
        (n, y, x) similarity of every place to n chosen ones, and those.
    on_particles
        How many of them, the first, lie on particles.
    """
    listed = ", ".join(f"{factor:g}: {distance:.4f}" for factor, distance in sorted(distances.items()))
    words = (
        f"A translation was trained for {steps} steps. Distance of the statistics of patches from those of real ones, "
        f"by the share of it that is added: {listed}. "
        + (
            _nothing(distances)
            if strength == 0
            else f"The share {strength:g} is added; what it adds does not correlate with the particles."
        )
    )
    places = xy_in_pixels.tolist()
    scale = maps.shape[-1] / picture.shape[-1]
    figures = (
        f'<figure><img src="{png_source(_ringed(picture, places, scale))}" alt="places">'
        "<figcaption>The micrograph, and the places</figcaption></figure>"
    )
    figures += "".join(
        f'<figure><img src="{_map(one, place)}" alt="similarity {i}"><figcaption>Like place {i}, '
        f"{'on a particle' if i <= on_particles else 'between particles'}</figcaption></figure>"
        for i, (one, place) in enumerate(zip(maps, places, strict=True), 1)
    )
    return (
        f'<section id="learned"><h2>What was learned</h2><div class="box"><p>{escape(words)}</p>'
        f'<div class="three">{figures}</div><p class="quiet small">Cosine between the features of the ringed place and '
        "of every other, black for opposite, white for the same: what the contrastive loss holds to be alike.</p></div>"
        "</section>"
    )


def _nothing(distances: dict[float, float]) -> str:
    """Why nothing is added."""
    before = distances.get(0.0, 0.0)
    if min(distances.values(), default=before) < before:
        return (
            f"Nothing of it is added: it brings patches nearer by less than {LEAST_GAIN:.0%} of the distance, which "
            "may be chance."
        )
    return "Nothing of it is added: it brings no patch nearer, fitted noise leaves nothing that it could learn."


def _map(similarity: Tensor, place: list[float]) -> str:
    step = max(1, math.ceil(max(similarity.shape) / _SHOWN_SIDE))
    grey = ((similarity[::step, ::step] * 0.5 + 0.5).clamp(0, 1) * 255).numpy().astype(np.uint8)
    return png_source(_ringed(grey, [place], step))


def _ringed(grey: NDArray[np.uint8], places: list[list[float]], step: float) -> NDArray[np.uint8]:
    """Picture (h, w, 3) of bytes (h, w) with rings about places x, y, given in pixels ``step`` times finer."""
    picture: NDArray[np.uint8] = np.repeat(grey[..., None], 3, axis=2)
    y, x = np.ogrid[: grey.shape[0], : grey.shape[1]]
    radius = max(6.0, 0.03 * max(grey.shape))
    for place in places:
        picture[np.abs(np.hypot(y - place[1] / step, x - place[0] / step) - radius) < 1.2] = _RING
    return picture
