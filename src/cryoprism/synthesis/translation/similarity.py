"""What the network holds to be alike: cosine similarity of learned features with those of chosen places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cryoprism.core import InputError

from .fields import scale_of
from .networks import FOLD
from .translator import Translator

__all__ = ["SimilarityMaps", "query_points", "similarity_maps"]


@dataclass(frozen=True, eq=False)
class SimilarityMaps:
    """Similarity of every place of one image with some places of another.

    Attributes
    ----------
    maps
        (n, y, x) cosines, -1 to 1.
    xy_in_pixels
        (n, 2) places that were asked for.
    layer
        Of the encoder, 0 the finest.
    """

    maps: Tensor
    xy_in_pixels: Tensor
    layer: int


def query_points(mask: Tensor, count: int, generator: torch.Generator, *, particle: bool) -> Tensor:
    """Draw places (n, 2) x, y [px] on particles or on background.

    Raises
    ------
    InputError
        The mask has no such place.
    """
    places = torch.nonzero(mask >= 0.5 if particle else mask < 0.5)
    if not len(places):
        kind = "particle" if particle else "background"
        raise InputError("mask", f"has no {kind}", "Give a mask with particles and background.")
    chosen = places[torch.randperm(len(places), generator=generator)[:count]]
    return chosen.flip(1).double()


def similarity_maps(
    translator: Translator,
    queries_in: Tensor,
    image: Tensor,
    xy_in_pixels: Tensor,
    *,
    layer: int = -1,
    tile: int = 512,
) -> SimilarityMaps:
    """Cosine similarity of the features at chosen places of one image with those at every place of another.

    As in training, where queries come from the output, positives and negatives from the input (Park et al. 2020): give
    the translated micrograph and the one it was made from. The same image twice is allowed.

    Parameters
    ----------
    translator
        Its encoder and projection.
    queries_in
        (y, x) image that the places are in; grey values.
    image
        (y, x) image that is mapped; grey values.
    xy_in_pixels
        (n, 2) places.
    layer
        Of the encoder; -1 for the last, which sees farthest.
    tile
        Edge of the tiles [px] worked on at a time.

    Raises
    ------
    InputError
        A place outside the image, no such layer, an image too small.
    """
    layers = translator.generator.layers
    if not -layers <= layer < layers:
        raise InputError("layer", f"{layer}, of {layers}", f"Give one from 0 to {layers - 1}.")
    layer %= layers
    height, width = queries_in.shape
    x, y = xy_in_pixels.double().reshape(-1, 2).unbind(1)
    if not bool(((x >= 0) & (x < width) & (y >= 0) & (y < height)).all()):
        raise InputError("places", "lie outside the image", f"Give x below {width} and y below {height}.")

    def vectors(picture: Tensor) -> Tensor:
        if min(picture.shape) < translator.generator.smallest:
            raise InputError("image", f"has {tuple(picture.shape)} pixels", "Give a larger one.")
        mean, deviation = scale_of("image", picture)

        def project(part: Tensor) -> Tensor:
            found = translator.generator.features(part)[layer]
            unit: Tensor = translator.heads(layer, found.permute(0, 2, 3, 1))
            return unit.permute(0, 3, 1, 2)

        return translator.by_tiles(project, ((picture.float() - mean) / deviation)[None], tile)

    asked = vectors(queries_in)[:, (y / FOLD).long(), (x / FOLD).long()]
    cosines = torch.einsum("dn,dyx->nyx", asked, vectors(image)).clamp(-1, 1)
    rows, columns = cosines.shape[-2:]
    full = interpolate(cosines[None], size=(rows * FOLD, columns * FOLD), mode="nearest")[0]
    return SimilarityMaps(full[:, : image.shape[0], : image.shape[1]], xy_in_pixels, layer)
