"""Defective detector pixels in one micrograph: hot and dead pixels, rows and columns, and their replacement.

A particle is smooth over several pixels because the transfer function and the pixel size limit it; a defect is not. So
a pixel is judged against its own neighbours, at a limit that the image's own tails set, and never against the mean
grey alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoprism.core import InputError

__all__ = ["Defects", "find_defects", "replace_defects"]

_BLOCK = 64  # pixels; the block over which level and spread count as constant
_REACH = 3  # pixels; neighbours up to this far judge and replace a pixel
_CHANCE = 0.01  # expected number of good pixels flagged in one whole micrograph
_CROSS = ((-2, 0), (2, 0), (0, -2), (0, 2))
_ENDS = frozenset({-32768.0, -128.0, 127.0, 255.0, 32767.0, 65535.0})  # of integer files


@dataclass(frozen=True)
class Defects:
    """Defects of one micrograph.

    Attributes
    ----------
    mask
        (h, w) boolean, true where the pixel is bad.
    hot, dead
        Numbers of single bad pixels above and below their surroundings, those inside bad rows and columns not counted.
    rows, columns
        Indices of rows and columns of which at least a quarter is bad.
    saturated
        Number of pixels at the end of the number range (clipped when the image was written). They count as bad only
        where their neighbours do not share their brightness.
    """

    mask: Tensor
    hot: int
    dead: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    saturated: int


def find_defects(image: Tensor) -> Defects:
    """Find hot and dead pixels, bad rows and bad columns.

    1. Level and spread (median and median absolute deviation) in blocks of 64 pixels; pixels far out are candidates.
    2. The image's own tails about the local grey set the limit: quantiles at 1 % and 0.1 % are extrapolated
       exponentially to a chance of 0.01 false pixels per micrograph. That is conservative for Gaussian, Poisson and
       any other tail lighter than exponential.
    3. A candidate is bad if it stands out by that limit from the median of its 7 x 7 neighbours too; a pixel inside a
       bright or dark object shares its neighbours' grey and stays.
    4. Rows and columns, by quarters: off the running median of nine lines by more than 8 spreads, and to the same side
       in each of four pieces; or with another roughness along the line (constant and noisy lines).
    5. A blank border (lines of one constant grey at the edge) is bad.

    Parameters
    ----------
    image
        (h, w) grey values; not changed. NaN and infinite pixels are bad.

    Raises
    ------
    InputError
        The image is not two-dimensional, is smaller than 32 pixels along an axis, or is blank.
    """
    if image.ndim != 2 or min(image.shape) < 32:
        raise InputError("image", f"shape {tuple(image.shape)}", "Give one micrograph of at least 32 x 32 pixels.")
    image = image.detach()
    mask = torch.zeros(image.shape, dtype=torch.bool)
    if not math.isfinite(float(image.sum())):
        mask = ~torch.isfinite(image)
        finite = image[~mask]
        if finite.numel() == 0:
            raise InputError("image", "no pixel is a finite number", "Leave this micrograph out.")
        image = torch.where(mask, finite.median(), image)
    row_parts, column_parts = _bad_lines(image)
    quarter = (image.shape[0] // 4, image.shape[1] // 4)
    for row, part in row_parts:
        mask[row, part * quarter[1] : image.shape[1] if part == 3 else (part + 1) * quarter[1]] = True
    for column, part in column_parts:
        mask[part * quarter[0] : image.shape[0] if part == 3 else (part + 1) * quarter[0], column] = True
    _mark_blank_border(image, mask)
    if bool(mask.all()):
        first = image[0, 0]
        found = f"every pixel is {float(first):g}" if bool((image == first).all()) else "every line is blank"
        raise InputError("image", found, "Nothing was recorded: leave this micrograph out.")
    y, x, sign, saturated = _candidates(image)
    sign = sign[~mask[y, x]]
    mask[y, x] = True
    rows, columns = (tuple(sorted({line for line, _ in parts})) for parts in (row_parts, column_parts))
    return Defects(mask, int((sign > 0).sum()), int((sign < 0).sum()), rows, columns, saturated)


def _block_statistics(image: Tensor) -> tuple[Tensor, Tensor, int, int]:
    """Median and robust deviation (by, bx) of blocks, from every fourth pixel; the block's height and width."""
    height, width = image.shape
    by, bx = max(1, height // _BLOCK), max(1, width // _BLOCK)
    sy, sx = height // by, width // bx
    sample = image[: by * sy, : bx * sx].reshape(by, sy, bx, sx)[:, ::4, :, ::4]
    sample = sample.permute(0, 2, 1, 3).reshape(by, bx, -1)
    median = sample.median(-1).values
    spread = 1.4826 * (sample - median[..., None]).abs_().median(-1).values
    return median, spread, sy, sx


def _tail_limits(image: Tensor, spread: Tensor, sy: int, sx: int) -> tuple[float, float]:
    """Limits (low, high) in spreads beyond which ``_CHANCE`` good pixels are expected in the whole image.

    Measured on about half a million pixels against the mean of four neighbours two pixels away, so that slow
    objects do not count as tails; never inside the limit of a Gaussian.
    """
    by, bx = spread.shape
    row = torch.arange(4, image.shape[0] - 3, max(2, image.numel() // 1_000_000))
    centre = image[row]
    level = (image[row - 2] + image[row + 2])[:, 2:-2] + centre[:, :-4] + centre[:, 4:]
    residual = (centre[:, 2:-2] - 0.25 * level)[:, ::2]
    column = (torch.arange(2, image.shape[1] - 2, 2) // sx).clamp_max(bx - 1)
    scale = spread[(row // sy).clamp_max(by - 1)][:, column]
    z = (residual / scale.clamp_min(1e-12)).reshape(-1)
    count = z.numel()
    per_thousand, per_hundred = max(1, count // 1000), max(2, count // 100)
    chance = _CHANCE / image.numel()
    gaussian = -float(torch.special.ndtri(torch.tensor(chance, dtype=torch.float64)))
    limits = []
    for side in (-z, z):
        top = side.topk(per_hundred).values
        first, second = float(top[-1]), float(top[per_thousand - 1])
        slope = max(0.0, second - first) / math.log(per_hundred / per_thousand)
        limits.append(max(gaussian, second + slope * math.log(per_thousand / count / chance)))
    return -limits[0], limits[1]


def _candidates(image: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Positions and signs of single bad pixels, and the number of pixels at the end of the range."""
    median, spread, sy, sx = _block_statistics(image)
    by, bx = median.shape
    typical = spread[spread > 0].median() if bool((spread > 0).any()) else torch.tensor(0.0)
    spread = spread.clamp_min(0.25 * float(typical))
    low, high = _tail_limits(image, spread, sy, sx)
    # A block's median is not the level at each of its pixels, so step 1 is looser than step 3.
    lower = median + 0.7 * low * spread
    counts = _in_counts(median, spread)
    if counts and float(median.min()) > 15.0:
        lower = lower.clamp_min(0.5)  # so that every zero is looked at
    flat, saturated = _outside(image, lower, median + 0.7 * high * spread, sy, sx)
    y, x = flat // image.shape[1], flat % image.shape[1]
    # A strong particle has many such pixels; four neighbours settle most of them cheaply.
    near = torch.stack([image[_reflect(y + dy, image.shape[0]), _reflect(x + dx, image.shape[1])] for dy, dx in _CROSS])
    step = image[y, x] - near.sort(0).values[1:3].mean(0)
    apart = step.abs() > 0.4 * min(high, -low) * spread[(y // sy).clamp_max(by - 1), (x // sx).clamp_max(bx - 1)]
    y, x = y[apart], x[apart]
    values = image[y, x]
    if y.numel() == 0:
        return y, x, values, saturated
    level = _neighbours(image, y, x).median(-1).values
    at = ((y // sy).clamp_max(by - 1), (x // sx).clamp_max(bx - 1))
    z = (values - level) / spread[at].clamp_min(1e-12)
    bad = (z > high) | (z < low)
    if counts:
        # A dead pixel of a counting detector reads exactly zero; in a full enough exposure no good pixel does.
        bad |= (values == 0) & (torch.exp(-level) * image.numel() < _CHANCE)
    return y[bad], x[bad], torch.sign(z[bad]), saturated


def _outside(image: Tensor, lower: Tensor, upper: Tensor, sy: int, sx: int) -> tuple[Tensor, int]:
    """Flat indices of pixels outside the limits (by, bx) of their blocks, and the count of saturated pixels.

    Works strip by strip with small buffers: a whole-image temporary costs more than the arithmetic.
    """
    height, width = image.shape
    by, bx = lower.shape
    column = (torch.arange(width) // sx).clamp_max(bx - 1)
    array = image.numpy()
    lowest, highest = float(array[::8, ::8].min()), float(array[::8, ::8].max())
    # Only images that come from integers have ends; looking at them costs a pass over the image.
    integer = bool((image[::64, ::64] == image[::64, ::64].round()).all())
    found: list[Tensor] = []
    ends = 0
    for index in range(by):
        top = index * sy
        strip = array[top : height if index == by - 1 else top + sy]
        highest_here, lowest_here = strip.max(0), strip.min(0)
        hit = (lowest_here < lower[index, column].numpy()) | (highest_here > upper[index, column].numpy())
        lowest, highest = min(lowest, float(lowest_here.min())), max(highest, float(highest_here.max()))
        columns = torch.from_numpy(hit).nonzero()[:, 0]
        if columns.numel():
            part = image[top : top + strip.shape[0], columns]
            low, high = lower[index, column[columns]], upper[index, column[columns]]
            rows, position = ((part < low) | (part > high)).nonzero().unbind(-1)
            found.append((rows + top) * width + columns[position])
    if integer:
        ends = sum(int((array == end).sum()) for end in {lowest, highest} & _ENDS)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long), ends


def _in_counts(median: Tensor, spread: Tensor) -> bool:
    """Whether the image is in counts: variance about equal to the mean in most blocks."""
    ratio = spread.square() / median.clamp_min(1e-12)
    return bool(median.min() > 0) and 0.5 < float(ratio.median()) < 2.0


def _neighbours(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values (n, 48) of the 7 x 7 surroundings, reflected at the border."""
    height, width = image.shape
    offsets = torch.cartesian_prod(torch.arange(-_REACH, _REACH + 1), torch.arange(-_REACH, _REACH + 1))
    offsets = offsets[(offsets != 0).any(-1)]
    yy = _reflect(y[:, None] + offsets[:, 0], height)
    xx = _reflect(x[:, None] + offsets[:, 1], width)
    return image[yy, xx]


def _reflect(index: Tensor, size: int) -> Tensor:
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index).clamp_(0, size - 1)


def _bad_lines(image: Tensor) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Bad rows and bad columns as (index, quarter of the line)."""
    height, width = image.shape
    array = image.numpy()
    sy, sx = height // 16, width // 16
    row_mean = np.stack([array[:, i * sx : (i + 1) * sx].mean(1) for i in range(16)], 1)
    column_mean = np.stack([array[i * sy : (i + 1) * sy].mean(0) for i in range(16)], 1)
    # Roughness along the line from a part of its pixels is enough: only constant and very noisy lines show in it.
    ly, lx = min(4 * sy, 128), min(4 * sx, 128)
    # Steps are capped, so that single hot pixels do not make a line rough.
    cap = 5.0 * float(np.median(np.abs(np.diff(array[::8, : 16 * sx : 8], axis=1)))) + 1e-12

    def roughness(part: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
        return np.asarray(np.minimum(np.abs(np.diff(part, axis=axis)), cap).mean(axis))

    row_rough = np.stack([roughness(array[:, 4 * i * sx : 4 * i * sx + lx], 1) for i in range(4)], 1)
    column_rough = np.stack([roughness(array[4 * i * sy : 4 * i * sy + ly], 0) for i in range(4)], 1)
    result = []
    for mean, rough in ((row_mean, row_rough), (column_mean, column_rough)):
        pieces, _ = _departure(torch.from_numpy(mean))
        pieces = pieces.reshape(-1, 4, 4)
        # A bad line is off along its whole length; the edge of an object is not.
        steady = (pieces.amin(-1) > 2.5) | (pieces.amax(-1) < -2.5)
        shifted = steady & (0.5 * pieces.sum(-1).abs() > 8.0)
        strange, change = _departure(torch.from_numpy(rough).clamp_min(1e-12).log())
        bad = shifted | ((strange.abs() > 8.0) & (change.abs() > 0.5))
        result.append([(int(line), int(part)) for line, part in bad.nonzero().tolist()])
    return result[0], result[1]


def _mark_blank_border(image: Tensor, mask: Tensor) -> None:
    """Mark lines of one constant value that reach in from an edge, as programs leave them after a shift."""
    for pixels, marks in ((image, mask), (image.T, mask.T)):
        for order in (range(pixels.shape[0]), range(pixels.shape[0] - 1, -1, -1)):
            for line in order:
                if bool((pixels[line] != pixels[line, 0]).any()):
                    break
                marks[line] = True


def _departure(values: Tensor) -> tuple[Tensor, Tensor]:
    """Departure of lines (n, parts) from the median of the nine lines about each, in robust spreads and as it is."""
    padded = torch.cat([values[1:5].flip(0), values, values[-5:-1].flip(0)])
    residual = values - padded.unfold(0, 9, 1).median(-1).values
    spread = 1.4826 * residual.abs().median(0, keepdim=True).values
    return residual / spread.clamp_min(1e-9), residual


def replace_defects(image: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Replace bad pixels by good ones drawn at random from their 7 x 7 surroundings; returns a new image.

    Drawing, instead of averaging, keeps the local level, the local noise and the grey steps of counting detectors.
    Where a 7 x 7 surrounding has no good pixel, the draw is from good pixels of the whole image.

    Parameters
    ----------
    image
        (h, w) grey values; not changed.
    mask
        (h, w) boolean, true where bad.
    generator
        Source of the random numbers: same state, same result.

    Raises
    ------
    InputError
        Shapes differ, or no pixel is good.
    """
    if mask.shape != image.shape:
        raise InputError("mask", f"shape {tuple(mask.shape)} beside {tuple(image.shape)}", "Give a mask of the image.")
    out = image.clone()
    _replace(out, mask, generator)
    return out


def _replace(image: Tensor, mask: Tensor, generator: torch.Generator) -> None:
    """Do the work of :func:`replace_defects` inside ``image``."""
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))
    if flat.numel() == 0:
        return
    if flat.numel() == mask.numel():
        raise InputError("mask", "every pixel is marked bad", "Leave this micrograph out.")
    source = image.clone() if flat.numel() > 65536 else image  # later draws must not see earlier replacements
    for some in torch.split(flat, 65536):
        y, x = some // image.shape[1], some % image.shape[1]
        usable = ~_neighbours(mask, y, x)
        lottery = torch.rand(usable.shape, generator=generator) * usable
        value = _neighbours(source, y, x).gather(-1, lottery.argmax(-1, keepdim=True))[:, 0]
        lost = ~usable.any(-1)
        if bool(lost.any()):
            pool = source[~mask]
            value[lost] = pool[torch.randint(pool.numel(), (int(lost.sum()),), generator=generator)]
        image[y, x] = value
