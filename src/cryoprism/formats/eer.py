"""EER movies (Electron Event Representation): raw frames of single electrons, summed into fractions on the way in.

Container: TIFF with compression 65000 (8-bit run lengths), 65001 (7-bit) or 65002 (widths in tags 65007 to 65009). Rows
come in the order of the file, as in RELION (unlike its other TIFF movies, EER is not turned upside down).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoprism.core import InputError

from .images import eer_pixel_size, open_tiff

__all__ = ["eer_layout", "iterate_eer_fractions"]

_WIDTHS = {65000: (8, 2, 2), 65001: (7, 2, 2)}
_CUT_SHORT = "The file is damaged or cut short: copy it again from its source, or leave it out."


def _widths(page: Any, file: Path) -> tuple[int, int, int]:
    compression = int(page.compression)
    if compression in _WIDTHS:
        return _WIDTHS[compression]
    if compression == 65002:
        return tuple(int(page.tags.valueof(tag, usual)) for tag, usual in ((65007, 7), (65008, 2), (65009, 2)))  # type: ignore[return-value]
    raise InputError(
        file,
        f"a frame has TIFF compression {compression}, which is no EER compression",
        "Leave out sums that were stored as the first page; give EER as EPU writes it.",
    )


def _raw_frame(tiff: Any, index: int, file: Path) -> tuple[bytes, Any]:
    page = tiff.pages[index]
    parts = []
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        tiff.filehandle.seek(offset)
        part = tiff.filehandle.read(count)
        if len(part) < count:
            raise InputError(
                file, f"raw frame {index + 1} holds {len(part)} bytes where {count} are promised", _CUT_SHORT
            )
        parts.append(part)
    return b"".join(parts), page


def eer_layout(file: Path, fractionation: int, upsampling: int) -> tuple[int, tuple[int, int], float | None]:
    """Return the number of fractions, their shape (y, x) and their pixel size [Å], from the header."""
    if upsampling not in (1, 2):
        raise InputError(file, f"EER upsampling {upsampling} was asked for", "Use 1 (4K) or 2 (8K).")
    if fractionation < 1:
        raise InputError(file, f"EER fractionation {fractionation} was asked for", "Use 1 raw frame or more.")
    with closing(open_tiff(file)) as tiff:
        try:
            raw = len(tiff.pages)
            page = tiff.pages[0]
            rows, columns = page.shape[-2:]
            pixel = eer_pixel_size(page)
        except (IndexError, ValueError, RuntimeError) as error:
            raise InputError(file, f"holds no readable EER frame ({error})", _CUT_SHORT) from error
    if raw < fractionation:
        raise InputError(
            file,
            f"holds {raw} raw frames, fewer than one fraction of {fractionation}",
            f"Choose an EER fractionation of {raw} or less.",
        )
    return raw // fractionation, (rows * upsampling, columns * upsampling), pixel and pixel / upsampling


def _decode(
    data: bytes, shape: tuple[int, int], widths: tuple[int, int, int], upsampling: int, file: Path, index: int
) -> NDArray[Any]:
    try:
        if widths == (8, 2, 2):
            return _decode_8_bit(data, shape, upsampling)
        # The codec wants whole 16-bit words and must not stop short of the last code.
        padded = data + bytes(4 + len(data) % 2)
        size = (shape[0] * upsampling, shape[1] * upsampling)
        return np.asarray(imagecodecs.eer_decode(padded, size, *widths, superres=upsampling - 1))
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(file, f"raw frame {index + 1} cannot be decoded ({error})", _CUT_SHORT) from error


def _decode_8_bit(data: bytes, shape: tuple[int, int], upsampling: int) -> NDArray[np.uint8]:
    # Every code has 12 bits, 8 of run length and 4 of sub-pixel; a run of 255 goes on without an electron, but its four
    # bits are there all the same (as RELION reads it).
    raw = np.frombuffer(data[: len(data) // 3 * 3] if len(data) % 3 == 0 else data + bytes(3 - len(data) % 3), np.uint8)
    low, middle, high = raw.reshape(-1, 3).T.astype(np.int64)
    runs = np.stack([low, (middle >> 4) | ((high & 15) << 4)], 1).reshape(-1)
    symbols = np.stack([middle & 15, high >> 4], 1).reshape(-1) ^ 0b1010
    electron = runs < 255
    place = np.cumsum(runs) + np.cumsum(electron) - electron
    total = shape[0] * shape[1]
    end = int(np.argmax(place >= total))
    if place[end] != total:
        raise ValueError(f"its runs end at pixel {int(place[end])} of {total}")
    place, symbols = place[:end][electron[:end]], symbols[:end][electron[:end]]
    row, column = place // shape[1], place % shape[1]
    if upsampling == 2:
        row, column = row * 2 + ((symbols >> 3) & 1), column * 2 + ((symbols >> 1) & 1)
    flat = row * (shape[1] * upsampling) + column
    counts = np.bincount(flat, minlength=total * upsampling**2)
    return counts.astype(np.uint8).reshape(shape[0] * upsampling, shape[1] * upsampling)


def iterate_eer_fractions(file: Path, fractionation: int, upsampling: int, first: int, last: int) -> Iterator[Tensor]:
    """Yield fractions ``first`` to ``last`` (from 0, last excluded) as float32 electron counts (y, x).

    ``fractionation`` is the number of raw frames per fraction, as RELION's --eer_grouping; raw frames that do not fill
    the last fraction are dropped. ``upsampling`` 1 renders on the sensor's pixels (4K), 2 on half pixels (8K).
    """
    with closing(open_tiff(file)) as tiff:
        for fraction in range(first, last):
            total = np.zeros(0, dtype=np.uint16)
            for index in range(fraction * fractionation, (fraction + 1) * fractionation):
                data, page = _raw_frame(tiff, index, file)
                frame = _decode(data, page.shape[-2:], _widths(page, file), upsampling, file, index)
                if not total.size:
                    total = frame.astype(np.uint16)
                else:
                    total += frame
            yield torch.from_numpy(total.astype(np.float32))
