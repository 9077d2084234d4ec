"""Images that stand in a table more than once, whatever their files are called."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from cryoprism.formats import Particles, read_particle_images

__all__ = ["same_images"]

_BATCH = 256


def same_images(particles: Particles) -> Tensor:
    """Row (n,) of the first image with the same pixels, its own for an image that is like none before it.

    Two noisy images never share a row, so that the middle row of each is read first; whole images are compared only
    where those are equal. Images of one value are all alike and say nothing: each counts for itself.

    Raises
    ------
    InputError
        Images cannot be read.
    """
    rows = _digests(particles, range(len(particles)), middle_row_only=True)
    times: dict[bytes, int] = {}
    for digest in rows:
        times[digest] = times.get(digest, 0) + 1
    suspects = [i for i, digest in enumerate(rows) if times[digest] > 1]
    found = torch.arange(len(particles))
    first: dict[bytes, int] = {}
    for row, digest in zip(suspects, _digests(particles, suspects), strict=True):
        if digest:
            found[row] = first.setdefault(digest, row)
    return found


def _digests(particles: Particles, chosen: Sequence[int], *, middle_row_only: bool = False) -> list[bytes]:
    """Hash pixels; an image that holds one value has no hash."""
    found = []
    for begin in range(0, len(chosen), _BATCH):
        images = read_particle_images(particles, chosen[begin : begin + _BATCH], middle_row_only=middle_row_only)
        for image in images.numpy():
            flat = not middle_row_only and image.min() == image.max()
            found.append(b"" if flat else hashlib.blake2b(image.tobytes(), digest_size=16).digest())
    return found
