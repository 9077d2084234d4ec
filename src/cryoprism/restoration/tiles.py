"""Views of micrographs that are too large for the memory: overlapping tiles, blended."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cryoprism.core import InputError

from ._model import FittedModel, RefocusableModel
from .defects import Defects
from .masks import ArtefactMask
from .view import View, restore_view

__all__ = ["restore_view_in_tiles"]

_OVERLAP = 256


def _starts(length: int, tile: int) -> list[int]:
    if length <= tile:
        return [0]
    count = -(-(length - _OVERLAP) // (tile - _OVERLAP))
    return [round(index * (length - tile) / (count - 1)) for index in range(count)] if count > 1 else [0]


def _ramp(start: int, size: int, length: int) -> Tensor:
    """Weight (size,) that rises and falls over the overlap, except at the micrograph's own edges."""
    position = torch.arange(size, dtype=torch.float32) + 0.5
    weight = torch.ones(size)
    if start > 0:
        weight = torch.minimum(weight, position / _OVERLAP)
    if start + size < length:
        weight = torch.minimum(weight, (size - position) / _OVERLAP)
    return weight.clamp_min(1e-3)


def restore_view_in_tiles(
    image: Tensor,
    model: FittedModel,
    tile: tuple[int, int],
    *,
    defects: Defects,
    artefacts: ArtefactMask,
    seed: int = 0,
    name: str = "",
) -> View:
    """Restore a micrograph piece by piece; as :func:`restore_view`, with memory for one tile and the results.

    Tiles overlap by 256 pixels and are blended linearly, so that they show no seams. What is not an image in the result
    (support, background, ice) is that of the first tile.

    Parameters
    ----------
    image, model, seed, name
        As for :func:`restore_view`.
    tile
        Height and width [pixels] of a tile, more than twice the overlap.
    defects, artefacts
        Found in the whole micrograph.

    Raises
    ------
    InputError
        The tile is too small.
    """
    if min(tile) < 2 * _OVERLAP:
        raise InputError("tile", f"{tile[1]}x{tile[0]} pixels", f"Use at least {2 * _OVERLAP} pixels along each axis.")
    height, width = image.shape
    size_y, size_x = min(tile[0], height), min(tile[1], width)
    labels = artefacts.full_labels()
    _, gradient_y, gradient_x = model.local_defocus_plane()
    names = ("view", "residual", "deviation", "removed_background")
    sums = {field: torch.zeros(height, width) for field in names}
    total = torch.zeros(height, width)
    first: View | None = None
    for y in _starts(height, size_y):
        for x in _starts(width, size_x):
            part = (slice(y, y + size_y), slice(x, x + size_x))
            local = model
            if (gradient_y or gradient_x) and isinstance(model, RefocusableModel):
                pixel = model.pixel_size_in_angstroms
                offset = (y + size_y / 2 - height / 2) * gradient_y + (x + size_x / 2 - width / 2) * gradient_x
                local = model.with_defocus_offset(offset * pixel)
            piece = restore_view(
                image[part],
                local,
                seed=seed,
                name=f"{name}:{y}:{x}",
                defects=replace(defects, mask=defects.mask[part]),
                artefacts=ArtefactMask(labels[part], (size_y, size_x)),
            )
            weight = _ramp(y, size_y, height)[:, None] * _ramp(x, size_x, width)
            for field in names:
                sums[field][part] += weight * getattr(piece, field)
            total[part] += weight
            first = piece if first is None else first
    if first is None:
        raise InputError("image", "is empty", "Give a micrograph.")
    for field in names:
        sums[field] /= total
    return replace(
        first,
        view=sums["view"],
        residual=sums["residual"],
        deviation=sums["deviation"],
        removed_background=sums["removed_background"],
        mask=artefacts.full_labels(defects.mask),
        artefacts=artefacts,
        defects=defects,
    )
