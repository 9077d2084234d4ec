"""Movies in: MRC stacks, TIFF and EER, gain-corrected and frame by frame, never whole in memory unless asked.

Orientation: MRC as stored, EER as stored, TIFF turned upside down (all as RELION does, so that coordinates agree).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoprism.core import InputError

from ._files import existing_file
from .eer import eer_layout, iterate_eer_fractions
from .images import Image, format_of, open_tiff, read_image, read_image_info, tiff_page
from .mrc import map_mrc, read_mrc_header, require_finite, to_float32

__all__ = ["Movie", "MovieInfo", "iterate_movie", "read_gain", "read_movie", "read_movie_info", "sum_movie"]


@dataclass(frozen=True)
class Movie:
    """A whole movie: ``frames`` (t, y, x) float32 and the pixel size [Å], None where the file gives none."""

    frames: Tensor
    pixel_size_in_angstroms: float | None


@dataclass(frozen=True)
class MovieInfo:
    """Frames (EER: fractions), shape (y, x) and pixel size [Å] of a movie as :func:`iterate_movie` will yield it."""

    frames: int
    shape: tuple[int, int]
    pixel_size_in_angstroms: float | None


def read_movie_info(path: str | os.PathLike[str], *, eer_fractionation: int = 40, eer_upsampling: int = 1) -> MovieInfo:
    """Read number of frames, shape and pixel size from the header alone."""
    if format_of(path) == "eer":
        return MovieInfo(*eer_layout(existing_file(path), eer_fractionation, eer_upsampling))
    info = read_image_info(path)
    return MovieInfo(info.frames, info.shape, info.pixel_size_in_angstroms)


def read_gain(
    path: str | os.PathLike[str],
    shape: tuple[int, int],
    *,
    rotation: int = 0,
    flip: int = 0,
    for_eer: bool = False,
) -> Tensor:
    """Read a gain reference as the factor (y, x) to multiply a frame of ``shape`` with; 0 marks a defect.

    Parameters
    ----------
    path
        MRC, TIFF or EER's ``.gain``.
    shape
        (y, x) of the frames as read here. For EER a gain of half or twice that size is replicated or averaged.
    rotation
        Number of quarter turns clockwise (first row on top), as RELION's --gain_rot: 0, 1, 2 or 3. Applied before
        ``flip``.
    flip
        0 none, 1 upside down, 2 left to right, as RELION's --gain_flip.
    for_eer
        A ``.gain`` file multiplies EER; any other gain for EER holds what a flat exposure looks like, so that the
        factor is mean / gain (RELION does the same). For all other movies the gain multiplies.

    Raises
    ------
    InputError
        Unreadable, negative or not finite, or a shape that does not fit.
    """
    file = Path(path)
    if rotation not in (0, 1, 2, 3) or flip not in (0, 1, 2):
        raise InputError(file, f"gain rotation {rotation} and flip {flip}", "Use rotation 0 to 3 and flip 0, 1 or 2.")
    if file.suffix.lower() in (".dm3", ".dm4"):
        raise InputError(file, "is a Digital Micrograph file", "Convert it to MRC, for example with IMOD's dm2mrc.")
    gain = read_image(file).data
    multiplies = not for_eer or file.suffix.lower() == ".gain"
    if for_eer and multiplies:
        gain = gain.flip(0)  # EER keeps its rows in the order of the file, and so must its own gain
    gain = torch.rot90(gain, -rotation, (0, 1))
    gain = gain.flip(0) if flip == 1 else gain.flip(1) if flip == 2 else gain
    if for_eer and gain.shape[0] * 2 == shape[0] and gain.shape[1] * 2 == shape[1]:
        gain = gain.repeat_interleave(2, 0).repeat_interleave(2, 1)
    elif for_eer and gain.shape[0] == 2 * shape[0] and gain.shape[1] == 2 * shape[1]:
        gain = gain.reshape(shape[0], 2, shape[1], 2).mean(dim=(1, 3))
    if tuple(gain.shape) != tuple(shape):
        raise InputError(
            file,
            f"the gain is {gain.shape[1]} x {gain.shape[0]} pixels but the frames are {shape[1]} x {shape[0]}",
            "Give the gain of this detector and mode, or turn it with the gain rotation.",
        )
    if float(gain.min()) < 0 or not bool((gain > 0).any()):
        raise InputError(
            file, "the gain reference is negative or zero throughout", "Check that the right file was named."
        )
    if not multiplies:
        mean = gain.mean(dtype=torch.float64).to(gain.dtype)
        gain = torch.where(gain > 0, mean / gain, torch.zeros_like(gain))
    return gain.contiguous()


def iterate_movie(
    path: str | os.PathLike[str],
    *,
    gain: str | os.PathLike[str] | Tensor | None = None,
    gain_rotation: int = 0,
    gain_flip: int = 0,
    eer_fractionation: int = 40,
    eer_upsampling: int = 1,
    first_frame: int = 0,
    last_frame: int | None = None,
) -> Iterator[Tensor]:
    """Yield the frames (y, x) float32 of a movie one by one, gain-corrected.

    Parameters
    ----------
    path
        MRC or MRCS (gzip and bzip2 too), multi-page TIFF (LZW, deflate, …) or EER.
    gain
        A gain reference (see :func:`read_gain`), or a tensor of the frames' shape to multiply with.
    gain_rotation, gain_flip
        See :func:`read_gain`.
    eer_fractionation
        Raw EER frames per fraction, as RELION's --eer_grouping; what does not fill the last fraction is dropped.
    eer_upsampling
        1: the sensor's pixels (4K); 2: half pixels (8K).
    first_frame, last_frame
        From 0, the last excluded; None is the end.

    Raises
    ------
    InputError
        Unknown, damaged or truncated file, gain of another shape, frames out of range, NaN or infinite pixels.
    """
    file = existing_file(path)
    kind = format_of(file)
    info = read_movie_info(file, eer_fractionation=eer_fractionation, eer_upsampling=eer_upsampling)
    end = info.frames if last_frame is None else last_frame
    if not 0 <= first_frame < end <= info.frames:
        raise InputError(
            file, f"frames {first_frame} to {end} were asked for but it has {info.frames}", "Choose frames within it."
        )
    factor = gain
    if gain is not None and not isinstance(gain, Tensor):
        factor = read_gain(gain, info.shape, rotation=gain_rotation, flip=gain_flip, for_eer=kind == "eer")
    if isinstance(factor, Tensor) and tuple(factor.shape) != info.shape:
        raise InputError(
            file, f"the gain is of shape {tuple(factor.shape)}, the frames {info.shape}", "Give a gain of their shape."
        )
    frames = (
        iterate_eer_fractions(file, eer_fractionation, eer_upsampling, first_frame, end)
        if kind == "eer"
        else _mrc_frames(file, first_frame, end)
        if kind == "mrc"
        else _tiff_frames(file, first_frame, end)
        if kind == "tiff"
        else iter([read_image(file).data])
    )
    for frame in frames:
        yield frame if factor is None else frame.mul_(factor)  # type: ignore[arg-type]


def _mrc_frames(file: Path, first: int, end: int) -> Iterator[Tensor]:
    header = read_mrc_header(file)
    stored = map_mrc(file, header)
    for index in range(first, end):
        frame = to_float32(stored[index])
        if header.dtype.kind == "f":
            require_finite(frame, f"{file}, frame {index + 1}")
        yield frame


def _tiff_frames(file: Path, first: int, end: int) -> Iterator[Tensor]:
    with closing(open_tiff(file)) as tiff:
        for index in range(first, end):
            page = tiff_page(tiff, index, file)
            frame = to_float32(page)
            if np.issubdtype(page.dtype, np.floating):
                require_finite(frame, f"{file}, frame {index + 1}")
            yield frame


def read_movie(
    path: str | os.PathLike[str],
    *,
    gain: str | os.PathLike[str] | Tensor | None = None,
    gain_rotation: int = 0,
    gain_flip: int = 0,
    eer_fractionation: int = 40,
    eer_upsampling: int = 1,
    first_frame: int = 0,
    last_frame: int | None = None,
) -> Movie:
    """Read a whole movie (t, y, x) into memory; parameters and errors as :func:`iterate_movie`."""
    info = read_movie_info(path, eer_fractionation=eer_fractionation, eer_upsampling=eer_upsampling)
    count = (info.frames if last_frame is None else last_frame) - first_frame
    frames = torch.empty(max(count, 0), *info.shape)
    for index, frame in enumerate(
        iterate_movie(
            path,
            gain=gain,
            gain_rotation=gain_rotation,
            gain_flip=gain_flip,
            eer_fractionation=eer_fractionation,
            eer_upsampling=eer_upsampling,
            first_frame=first_frame,
            last_frame=last_frame,
        )
    ):
        frames[index] = frame
    return Movie(frames, info.pixel_size_in_angstroms)


def sum_movie(
    path: str | os.PathLike[str],
    *,
    gain: str | os.PathLike[str] | Tensor | None = None,
    gain_rotation: int = 0,
    gain_flip: int = 0,
    eer_fractionation: int = 40,
    eer_upsampling: int = 1,
    first_frame: int = 0,
    last_frame: int | None = None,
) -> Image:
    """Sum a movie (unaligned) while it streams, two frames in memory; parameters as :func:`iterate_movie`."""
    info = read_movie_info(path, eer_fractionation=eer_fractionation, eer_upsampling=eer_upsampling)
    total = torch.zeros(info.shape)
    for frame in iterate_movie(
        path,
        gain=gain,
        gain_rotation=gain_rotation,
        gain_flip=gain_flip,
        eer_fractionation=eer_fractionation,
        eer_upsampling=eer_upsampling,
        first_frame=first_frame,
        last_frame=last_frame,
    ):
        total += frame
    return Image(total, info.pixel_size_in_angstroms)
