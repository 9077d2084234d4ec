"""Packed coefficients: a half plane of an image's transform inside a radius, sorted by shell, as one flat axis."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from cryoprism.core import InputError

__all__ = ["pack", "pack_real", "packed_frequencies", "packed_shells", "rows_of_packed", "unpack"]


@lru_cache(maxsize=64)
def _packed_frequencies(radius: int, device: torch.device) -> Tensor:
    axis = torch.arange(-radius, radius + 1, device=device)
    ky, kx = torch.meshgrid(axis, axis, indexing="ij")
    k2 = kx * kx + ky * ky
    inside = (k2 <= radius * radius) & ((kx > 0) | ((kx == 0) & (ky > 0)))
    kx, ky, k2 = kx[inside], ky[inside], k2[inside]
    side = 2 * radius + 1
    order = torch.argsort((k2 * side + ky + radius) * side + kx + radius)
    return torch.stack([kx[order], ky[order]], -1)


def packed_frequencies(radius: int, device: torch.device | str = "cpu") -> Tensor:
    """Integer frequencies (N, 2) = (kx, ky) [pixels of the unpadded transform] of the packed coefficients.

    Sorted by kx² + ky², then ky, then kx, so that ``packed_frequencies(s)`` is a prefix of ``packed_frequencies(r)``
    for s < r. The tensor is shared between calls: do not write into it.

    Raises
    ------
    InputError
        The radius is below 1.
    """
    if radius < 1:
        raise InputError("radius", f"{radius}", "Use at least 1 pixel.")
    return _packed_frequencies(int(radius), torch.device(device))


def packed_shells(radius: int, device: torch.device | str = "cpu") -> Tensor:
    """Shell (N,) int64 of each packed coefficient: √(kx² + ky²) rounded to the nearest integer, 1 to ``radius``."""
    k = packed_frequencies(radius, device).double()
    return k.square().sum(-1).sqrt().round().long()


@lru_cache(maxsize=64)
def _packing(box: int, radius: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the packed coefficients stand in a flat half transform, and the phase factors to the image centre."""
    if 2 * radius >= box:
        raise InputError("radius", f"{radius} in a box of {box} pixels", f"Use at most {(box - 1) // 2} pixels.")
    k = packed_frequencies(radius, device)
    index = torch.remainder(k[:, 1], box) * (box // 2 + 1) + k[:, 0]
    phase = 2 * torch.pi * torch.remainder(k.sum(-1) * (box // 2), box).double() / box
    return index, torch.polar(torch.ones_like(phase), phase).to(torch.complex64)


@lru_cache(maxsize=64)
def rows_of_packed(count: int, device: torch.device) -> Tensor:
    """Order (count,) in which packed coefficients stand row by row: what is near in it is near in memory too."""
    k = packed_frequencies(_radius_of(count), device)
    width = 2 * int(k[:, 0].max()) + 1
    return torch.argsort(k[:, 1] * width + k[:, 0])


def _box_of(array: Tensor) -> int:
    box = int(array.shape[-2])
    if int(array.shape[-1]) != box // 2 + 1:
        raise InputError(
            "transform", f"shape {tuple(array.shape)} is no half transform of square images", "Use core.rfft2."
        )
    return box


def pack(images_ft: Tensor, radius: int) -> Tensor:
    """Packed coefficients (..., N) complex of half transforms (..., box, box // 2 + 1), phases from the image centre.

    ``images_ft`` is :func:`cryoprism.core.rfft2` of square images whose centre is pixel box // 2.

    Raises
    ------
    InputError
        Not a half transform of square images, or a radius beyond (box - 1) // 2.
    """
    index, phase = _packing(_box_of(images_ft), int(radius), images_ft.device)
    return images_ft.flatten(-2).index_select(-1, index) * phase


def pack_real(array: Tensor, radius: int) -> Tensor:
    """Packed values (..., N) of real arrays (..., box, box // 2 + 1) on the half transform's grid, for CTFs."""
    index, _ = _packing(_box_of(array), int(radius), array.device)
    return array.flatten(-2).index_select(-1, index)


def unpack(packed: Tensor, box: int) -> Tensor:
    """Half transforms (..., box, box // 2 + 1) of packed coefficients (..., N): inverse of :func:`pack`, zero outside.

    Raises
    ------
    InputError
        The number of coefficients belongs to no radius, or to one beyond the box.
    """
    radius = _radius_of(int(packed.shape[-1]))
    index, phase = _packing(box, radius, packed.device)
    out = torch.zeros(*packed.shape[:-1], box * (box // 2 + 1), dtype=packed.dtype, device=packed.device)
    values = packed * phase.conj()
    out[..., index] = values
    # The column kx = 0 holds both signs of ky.
    k = packed_frequencies(radius, packed.device)
    on_axis = (k[:, 0] == 0).nonzero()[:, 0]
    out[..., (box - k[on_axis, 1]) * (box // 2 + 1)] = values[..., on_axis].conj()
    return out.reshape(*packed.shape[:-1], box, box // 2 + 1)


def _radius_of(count: int) -> int:
    radius = max(1, round(math.sqrt(2 * count / math.pi)))
    for candidate in (radius, radius + 1, radius - 1, radius + 2, radius - 2):
        if candidate >= 1 and int(packed_frequencies(candidate).shape[0]) == count:
            return candidate
    raise InputError("packed coefficients", f"{count} of them belong to no whole radius", "Pack with pack().")
