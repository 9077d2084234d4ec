"""One image in: MRC, TIFF, PNG or JPEG, as float32 (y, x).

The first row of the result is the first row of an MRC or PNG file. **TIFF is turned upside down on the way in**, as
RELION does, so that a TIFF and the MRC that RELION or IMOD made from it agree pixel by pixel.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from imagecodecs import DelayedImportError, imread
from numpy.typing import NDArray
from torch import Tensor

from cryoprism.core import InputError

from ._files import existing_file, plain_name
from .mrc import map_mrc, read_mrc_header, require_finite, to_float32

__all__ = ["Image", "ImageInfo", "format_of", "read_image", "read_image_info"]

_SUFFIXES = {
    ".mrc": "mrc",
    ".mrcs": "mrc",
    ".map": "mrc",
    ".ccp4": "mrc",
    ".st": "mrc",
    ".ali": "mrc",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".gain": "tiff",
    ".eer": "eer",
    ".ecc": "eer",
    ".png": "raster",
    ".jpg": "raster",
    ".jpeg": "raster",
}
_ANGSTROMS_PER_UNIT = {2: 2.54e8, 3: 1.0e8}  # inch, centimetre (TIFF tag ResolutionUnit)


@dataclass(frozen=True)
class Image:
    """One image: ``data`` (y, x) float32 and its pixel size [Å], None where the file gives none."""

    data: Tensor
    pixel_size_in_angstroms: float | None


@dataclass(frozen=True)
class ImageInfo:
    """What a header says without reading the pixels: shape (y, x), number of frames, pixel size [Å] or None, kind."""

    shape: tuple[int, int]
    frames: int
    pixel_size_in_angstroms: float | None
    kind: str
    bytes_per_pixel: int


def format_of(path: str | os.PathLike[str]) -> str:
    """``mrc``, ``tiff``, ``eer`` or ``raster``, by the suffix in front of ``.gz`` or ``.bz2``."""
    suffix = plain_name(Path(path)).suffix.lower()
    try:
        return _SUFFIXES[suffix]
    except KeyError:
        known = ", ".join(sorted(_SUFFIXES))
        raise InputError(path, f"the suffix '{suffix}' is not a known image format", f"Use one of {known}.") from None


def split_stack_name(name: str | os.PathLike[str]) -> tuple[int | None, str]:
    """``000003@stack.mrcs`` to (2, 'stack.mrcs'); a plain name to (None, name)."""
    match = re.fullmatch(r"(\d+)@(.+)", os.fspath(name))
    if match is None:
        return None, os.fspath(name)
    return int(match.group(1)) - 1, match.group(2)


def read_image_info(path: str | os.PathLike[str]) -> ImageInfo:
    """Read shape, frame count and pixel size from the header alone.

    For EER ``frames`` counts the raw frames and ``shape`` is that of the sensor.

    Raises
    ------
    InputError
        No such file, an unknown format, or a damaged or truncated file.
    """
    _, plain = split_stack_name(path)
    kind = format_of(plain)
    file = existing_file(plain)
    if kind == "mrc":
        header = read_mrc_header(file)
        sections, rows, columns = header.shape
        if header.space_group == 1 and 1 < sections == rows == columns:
            raise InputError(
                file,
                f"is a map of {columns} x {rows} x {sections} voxels, not a micrograph",
                "Name micrographs or movies; if it is a movie, set its space group (ISPG) to 0.",
            )
        return ImageInfo((rows, columns), sections, header.pixel_size_in_angstroms, kind, header.dtype.itemsize)
    if kind == "raster":
        raster = _read_raster(file)
        return ImageInfo((raster.shape[0], raster.shape[1]), 1, None, kind, raster.dtype.itemsize)
    with open_tiff(file) as tiff:
        page = _first_page(tiff, file)
        frames = len(tiff.pages)
        pixel = eer_pixel_size(page) if kind == "eer" else _tiff_pixel_size(page)
        return ImageInfo(page.shape[-2:], frames, pixel, kind, page.dtype.itemsize)


def read_image(path: str | os.PathLike[str], *, frame: int | None = None, allow_nonfinite: bool = False) -> Image:
    """Read one image as float32 (y, x).

    Parameters
    ----------
    path
        MRC (gzip and bzip2 too), TIFF, PNG or JPEG; ``000003@stack.mrcs`` means the third image of a stack.
    frame
        Which image of a stack, from 0; None demands that the file holds one.
    allow_nonfinite
        False (the default) refuses NaN and infinite pixels.

    Raises
    ------
    InputError
        No such file, unknown or damaged, a movie where an image was expected, or NaN and infinite pixels.
    """
    number, plain = split_stack_name(path)
    frame = number if frame is None else frame
    kind = format_of(plain)
    file = existing_file(plain)
    if kind == "mrc":
        header = read_mrc_header(file)
        index = _one_frame(file, frame, header.shape[0])
        data = to_float32(map_mrc(file, header)[index])
        pixel, exact = header.pixel_size_in_angstroms, header.dtype.kind != "f"
    elif kind == "raster":
        raw = _read_raster(file)
        _one_frame(file, frame, 1)
        data, pixel, exact = to_float32(raw), None, True
    elif kind == "tiff":
        with open_tiff(file) as tiff:
            page = _first_page(tiff, file)
            index = _one_frame(file, frame, len(tiff.pages))
            raw = tiff_page(tiff, index, file)
            data, pixel, exact = to_float32(raw), _tiff_pixel_size(page), raw.dtype.kind != "f"
    else:
        raise InputError(file, "is an EER movie, not an image", "Read it with read_movie or sum_movie.")
    if not (exact or allow_nonfinite):
        require_finite(data, file)
    return Image(data, pixel)


def _one_frame(file: Path, frame: int | None, count: int) -> int:
    if frame is None:
        if count != 1:
            raise InputError(
                file,
                f"holds {count} frames where one image was expected",
                "Read it as a movie, or name one image as NUMBER@FILE.",
            )
        return 0
    if not 0 <= frame < count:
        raise InputError(
            file, f"image {frame + 1} was asked for but it holds {count}", "Check the number before the @."
        )
    return frame


def _read_raster(file: Path) -> NDArray[Any]:
    try:
        raw = np.asarray(imread(os.fspath(file)))
    except (ValueError, RuntimeError, OSError, DelayedImportError) as error:
        raise InputError(file, f"cannot be decoded ({error})"[:300], "Copy or convert the file again.") from error
    if raw.ndim == 3:
        # Colour is brought to grey by plain averaging of red, green and blue; an alpha channel is left out.
        colours = raw[..., :1] if raw.shape[-1] < 3 else raw[..., :3]
        raw = colours.astype(np.float32).mean(axis=-1)
    if raw.ndim != 2:
        raise InputError(file, f"decodes to shape {raw.shape}", "Give a grey or colour image.")
    return raw


def open_tiff(file: Path) -> Any:
    """Open a TIFF (or EER, or .gain) file with tifffile; damaged and truncated files become an InputError."""
    _walk_directories(file)
    try:
        return tifffile.TiffFile(file)
    except (tifffile.TiffFileError, ValueError, OSError, struct.error) as error:
        raise InputError(file, f"is not a readable TIFF file ({error})", _COPY_AGAIN) from error


_COPY_AGAIN = "The file is damaged, cut short or still being written: copy it again, or leave it out."


def _walk_directories(file: Path) -> None:
    # Readers stop quietly at a directory that lies beyond the end of a truncated movie: it would lose frames unseen.
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 8:
            raise InputError(file, f"is not a TIFF file ({size} bytes)", "Check that the right file was named.")
        big = struct.unpack(order + "H", head[2:4])[0] == 43
        if big and len(head) < 16:
            raise InputError(file, f"holds {size} bytes, not even a header", _COPY_AGAIN)
        count_code, entry, offset_code = ("Q", 20, "Q") if big else ("H", 12, "I")
        width, count_width = struct.calcsize(offset_code), struct.calcsize(count_code)
        offset = struct.unpack(order + offset_code, head[8:16] if big else head[4:8])[0]
        seen: set[int] = set()
        while offset and offset not in seen:
            seen.add(offset)
            stream.seek(offset)
            raw = stream.read(count_width)
            end = 0
            if len(raw) == count_width:
                end = offset + count_width + entry * struct.unpack(order + count_code, raw)[0]
            if not end or end + width > size:
                raise InputError(
                    file,
                    f"holds {size} bytes, but the directory of frame {len(seen)} stands at or beyond its end",
                    _COPY_AGAIN,
                )
            stream.seek(end)
            offset = struct.unpack(order + offset_code, stream.read(width))[0]


def _first_page(tiff: Any, file: Path) -> Any:
    try:
        page = tiff.pages[0]
    except (IndexError, tifffile.TiffFileError, ValueError, struct.error) as error:
        raise InputError(file, f"holds no readable TIFF page ({error})", _COPY_AGAIN) from error
    if page.ndim != 2 or page.dtype is None:
        raise InputError(file, f"its pages have shape {page.shape}", "Give a TIFF of one grey channel.")
    return page


def tiff_page(tiff: Any, index: int, file: Path) -> NDArray[Any]:
    """One page (y, x) in RELION's orientation: the last row of the TIFF comes first."""
    try:
        return np.asarray(tiff.pages[index].asarray())[::-1]
    except Exception as error:  # codecs raise their own types
        raise InputError(
            file,
            f"frame {index + 1} cannot be decoded ({type(error).__name__}: {error})",
            "The file is damaged or cut short: copy it again, or leave it out.",
        ) from error


def _tiff_pixel_size(page: Any) -> float | None:
    # SerialEM and IMOD write pixels per centimetre; screen resolutions (72 or 300 dpi) are no pixel sizes of a
    # micrograph.
    unit = page.tags.get(296)
    resolution = page.tags.get(282)
    if unit is None or resolution is None or int(unit.value) not in _ANGSTROMS_PER_UNIT:
        return None
    numerator, denominator = resolution.value
    if not numerator or not denominator:
        return None
    pixel = _ANGSTROMS_PER_UNIT[int(unit.value)] * denominator / numerator
    return float(pixel) if 0.01 < pixel < 1000.0 else None


def eer_pixel_size(page: Any) -> float | None:
    """Pixel size [Å] of the sensor from the acquisition metadata in tag 65001 (sensorPixelSize, metres), or None."""
    tag = page.tags.get(65001)
    if tag is None:
        return None
    text = tag.value.decode("utf-8", "replace") if isinstance(tag.value, bytes) else str(tag.value)
    match = re.search(r'name="sensorPixelSize\.width"[^>]*>\s*([0-9.eE+-]+)', text)
    try:
        pixel = 1e10 * float(match.group(1)) if match else 0.0
    except ValueError:
        return None
    return pixel if 0.01 < pixel < 1000 else None
