"""Images of particles: reading those that a table names, and writing stacks image by image."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoprism.core import InputError

from ._files import atomic_writer
from .images import split_stack_name
from .mrc import header_bytes, map_mrc, read_mrc_header
from .particles import Particles
from .relion import resolve_name

__all__ = ["read_particle_images", "write_stack"]


def read_particle_images(
    particles: Particles, indices: Sequence[int] | Tensor | None = None, *, middle_row_only: bool = False
) -> Tensor:
    """Read the images that a table names, whatever stacks they lie in.

    Stacks are mapped from disk and each is opened once, so that a batch costs what its own images take.

    Parameters
    ----------
    particles
        ``image_names`` such as ``000001@stack.mrcs``, relative to the folder of ``particles.source`` or the current
        one.
    indices
        Positions (from 0) or a boolean mask; all particles if absent.
    middle_row_only
        Read one row of each image, which costs a page of its stack.

    Returns
    -------
    Tensor
        (n, box, box) float32, in the order of ``indices``; (n, 1, box) of middle rows.

    Raises
    ------
    InputError
        A stack is missing, damaged or too short for the number before the @, images are not square or of different
        sizes, or pixels are NaN or infinite; the error names the row of the table (from 1).
    """
    chosen = torch.arange(len(particles)) if indices is None else torch.as_tensor(indices)
    rows = (chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen).tolist()
    stacks: dict[str, list[tuple[int, int]]] = {}
    for position, row in enumerate(rows):
        number, name = split_stack_name(particles.image_names[row])
        stacks.setdefault(name, []).append((-1 if number is None else number, position))
    images: np.ndarray | None = None
    for name, members in stacks.items():
        path = resolve_name(name, Path(particles.source))
        first = _row(particles, rows[members[0][1]])
        if not path.is_file():
            raise InputError(
                first,
                f"names images in {path}, which does not exist",
                "Names are looked for beside the STAR file, then in the current folder: change into the project's "
                "folder.",
            )
        header = read_mrc_header(path)
        count, height, width = header.shape
        if height != width:
            raise InputError(path, f"its images are {width} x {height} pixels", "Give square particle images.")
        if images is None:
            images = np.empty((len(rows), 1 if middle_row_only else height, width), dtype=np.float32)
        elif images.shape[-1] != width:
            raise InputError(
                first,
                f"its images in {path} are {width} pixels wide where those before are {images.shape[-1]}",
                "Extract all particles with the same box, or split the table by optics group.",
            )
        stored = map_mrc(path, header)
        if middle_row_only:
            stored = stored[:, height // 2 : height // 2 + 1]
        for number, position in sorted(members):
            where = _row(particles, rows[position])
            if number < 0 and count > 1:
                raise InputError(where, f"names {path} without a number, but it holds {count}", "Write 000001@NAME.")
            if number >= count:
                raise InputError(
                    where,
                    f"asks for image {number + 1} of {path}, which holds {count}",
                    "The stack was cut short or written again: extract the particles again, or correct the table.",
                )
            np.copyto(images[position], stored[max(number, 0)], casting="unsafe")
    if images is None:
        return torch.empty(0, 0, 0)
    result = torch.from_numpy(images)
    low, high = torch.aminmax(result.flatten(1), dim=1)
    bad = ~(low.isfinite() & high.isfinite())
    if bool(bad.any()):
        row = rows[int(bad.nonzero()[0])]
        raise InputError(
            _row(particles, row),
            f"image {particles.image_names[row]} holds pixels that are NaN or infinite ({int(bad.sum())} images do)",
            "Leave it out, or extract the particles again.",
        )
    return result


def _row(particles: Particles, row: int) -> str:
    return f"{particles.source or 'particles'}, row {row + 1}"


def write_stack(path: str | os.PathLike[str], images: Tensor | Iterable[Tensor], pixel_size_in_angstroms: float) -> int:
    """Atomically write a stack of images (MRC mode 2, space group 0), one at a time, and return how many there were.

    Parameters
    ----------
    path
        The file to write (``.mrcs`` as RELION expects); its folder must exist.
    images
        (n, h, w), or any iterable of (h, w) or (b, h, w): never all in memory at once.
    pixel_size_in_angstroms
        Pixel size [Å].

    Raises
    ------
    InputError
        No images, images of different sizes, values that are not finite, or the file cannot be written.
    """
    target = Path(path)
    if not (math.isfinite(pixel_size_in_angstroms) and pixel_size_in_angstroms > 0):
        raise InputError(target, f"the pixel size is {pixel_size_in_angstroms}", "Give a positive pixel size in Å.")
    parts = iter([images] if isinstance(images, Tensor) else images)
    first = next(parts, None)
    if first is None:
        raise InputError(target, "there are no images to write", "Give at least one image.")
    height, width = first.shape[-2:]
    low, high, total, squares, count = math.inf, -math.inf, 0.0, 0.0, 0
    with atomic_writer(target) as stream:
        stream.write(bytes(1024))
        for block in _blocks(chain([first], parts)):
            if tuple(block.shape[-2:]) != (height, width):
                raise InputError(
                    target,
                    f"image {count + 1} is {tuple(block.shape[-2:])}, those before {(height, width)}",
                    "Give images of one size.",
                )
            pixels = np.ascontiguousarray(block.detach().cpu().numpy(), dtype="<f4")
            lowest, highest = float(pixels.min()), float(pixels.max())
            if not (math.isfinite(lowest) and math.isfinite(highest)):
                raise InputError(target, "an image to be written is not finite", "Leave that particle out.")
            low, high = min(low, lowest), max(high, highest)
            total += float(pixels.sum(dtype=np.float64))
            squares += float(np.square(pixels, dtype=np.float64).sum())
            stream.write(pixels.reshape(-1).view(np.uint8).data)
            count += block.shape[0]
        if count == 0:
            raise InputError(target, "there are no images to write", "Give at least one image.")
        mean = total / (count * height * width)
        deviation = math.sqrt(max(0.0, squares / (count * height * width) - mean * mean))
        stream.seek(0)
        stream.write(header_bytes((count, height, width), pixel_size_in_angstroms, (low, high, mean, deviation)))
    return count


def _blocks(parts: Iterable[Tensor], most: int = 64) -> Iterator[Tensor]:
    """Cut what comes into blocks (b, h, w) of at most ``most`` images."""
    for part in parts:
        whole = part[None] if part.ndim == 2 else part
        yield from (whole[begin : begin + most] for begin in range(0, whole.shape[0], most))
