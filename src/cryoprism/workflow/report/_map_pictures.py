"""Pictures of a map: central slices, projections, and shaded surfaces, as arrays and as addresses for a page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

import imagecodecs
import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "SIZE",
    "VIEWS",
    "SurfaceView",
    "central_slices",
    "colour_ramp",
    "grey",
    "png_source",
    "projections",
    "render_surface",
    "surface_level",
    "tinted",
    "window_of",
    "without_dust",
]

Array = NDArray[np.float32]

#: Side of a picture [pixels].
SIZE: Final = 400
#: Names of the three views: x right and y up, x right and z up, y right and z up.
VIEWS: Final = ("along z", "along y", "along x")

# A ramp from fine to coarse that colour-blind readers can tell apart (after ColorBrewer's RdYlBu, Brewer 2003).
_RAMP: Final = np.array(
    [
        (0.192, 0.310, 0.682),
        (0.271, 0.459, 0.761),
        (0.420, 0.655, 0.835),
        (0.624, 0.812, 0.898),
        (0.820, 0.910, 0.890),
        (0.980, 0.950, 0.720),
        (0.996, 0.850, 0.540),
        (0.988, 0.640, 0.370),
        (0.930, 0.410, 0.270),
        (0.800, 0.170, 0.180),
    ],
    dtype=np.float32,
)
_SOLID: Final = np.array((0.42, 0.61, 0.83), dtype=np.float32)


def colour_ramp(share: NDArray[np.floating]) -> Array:
    """Colours (…, 3), 0 … 1, of shares from 0 to 1: blue through pale yellow to red."""
    place = np.clip(np.nan_to_num(share), 0, 1) * (len(_RAMP) - 1)
    low = np.minimum(place.astype(int), len(_RAMP) - 2)
    rest = (place - low)[..., None].astype(np.float32)
    return np.asarray(_RAMP[low] * (1 - rest) + _RAMP[low + 1] * rest)


def _planes(volume: Tensor, how: str) -> list[Array]:
    pictures = []
    for axis in range(3):
        plane = volume.select(axis, volume.shape[axis] // 2) if how == "slice" else volume.sum(axis)
        # Rows go downwards on a page, the second axis of a map upwards.
        pictures.append(np.ascontiguousarray(plane.flip(0).float().cpu().numpy()))
    return pictures


def central_slices(volume: Tensor) -> list[Array]:
    """Slices of a volume (z, y, x) through voxel n // 2: looking along z (x right, y up), y (x, z) and x (y, z)."""
    return _planes(volume, "slice")


def projections(volume: Tensor) -> list[Array]:
    """Sum along z, y and x, laid out as :func:`central_slices`."""
    return _planes(volume, "sum")


def window_of(volume: Tensor, mask: Tensor, margin: int = 4) -> tuple[slice, slice, slice]:
    """Cube about voxel n // 2 that holds where the mask exceeds 0.05: pictures of it waste no space."""
    inside = torch.nonzero(mask > 0.05)
    middle = torch.tensor([n // 2 for n in volume.shape], device=inside.device)
    reach = int((inside - middle).abs().max()) + margin if inside.numel() else max(volume.shape)
    z, y, x = (slice(max(0, n // 2 - reach), min(n, n // 2 + reach + 1)) for n in volume.shape)
    return z, y, x


def grey(picture: Array, *, low: float | None = None, high: float | None = None, size: int = SIZE) -> NDArray[np.uint8]:
    """Bytes of a picture, enlarged smoothly to about ``size`` pixels; protein bright.

    Without limits the 0.3 and 99.8 % quantiles become black and white.
    """
    factor = size / max(picture.shape)
    shown = scipy.ndimage.zoom(picture, factor, order=3 if factor > 1 else 1) if abs(factor - 1) > 0.05 else picture
    first = float(np.quantile(picture, 0.003)) if low is None else low
    last = float(np.quantile(picture, 0.998)) if high is None else high
    return np.asarray(np.clip((shown - first) / max(last - first, 1e-12) * 255, 0, 255).astype(np.uint8))


def tinted(picture: NDArray[np.uint8], colour: Array, cover: Array) -> NDArray[np.uint8]:
    """Grey picture (h, w) over colours (h, w, 3) where ``cover`` (h, w) is 1, dark grey where it is 0."""
    light = picture.astype(np.float32)[..., None] / 255
    inside, outside = colour * (0.45 + 0.55 * light), np.full_like(colour, 0.13)
    share = cover[..., None]
    return np.asarray((255 * np.clip(share * inside + (1 - share) * outside, 0, 1)).astype(np.uint8))


def png_source(picture: NDArray[np.uint8]) -> str:
    """Return the ``data:`` address of a picture (h, w), (h, w, 3) or (h, w, 4)."""
    encoded = imagecodecs.png_encode(np.ascontiguousarray(picture), level=7)
    return "data:image/png;base64," + base64.b64encode(encoded).decode("ascii")


def surface_level(volume: Tensor, mask: Tensor) -> float:
    """Level for a surface: half way between solvent and molecule among what the mask lets through (Otsu 1979)."""
    values = volume[mask > 0.5].float().cpu().numpy()
    if values.size < 16:
        values = volume.float().cpu().numpy().ravel()
    low, high = np.quantile(values, (0.001, 0.999))
    if not high > low:
        return float(low)
    counts, edges = np.histogram(values, bins=256, range=(float(low), float(high)))
    centres = 0.5 * (edges[:-1] + edges[1:])
    weight = np.cumsum(counts)
    total = np.cumsum(counts * centres)
    below, above = total / np.maximum(weight, 1), (total[-1] - total) / np.maximum(weight[-1] - weight, 1)
    between = weight * (weight[-1] - weight) * (above - below) ** 2
    return float(centres[int(np.argmax(between))])


@dataclass(frozen=True, eq=False)
class SurfaceView:
    """A shaded surface: ``picture`` (h, w, 4) uint8, transparent where nothing is; ``covered`` share of its pixels."""

    picture: NDArray[np.uint8]
    covered: float


def render_surface(
    volume: Tensor,
    level: float,
    view: int,
    *,
    colour_by: Tensor | None = None,
    colour_range: tuple[float, float] = (0.0, 1.0),
    size: int = SIZE,
) -> SurfaceView:
    """Shaded picture of the surface volume = level, seen along an axis.

    Parallel rays are followed through the map to where they first rise above the level; the gradient there is the
    surface's normal. Light comes from the upper left, crevices are darkened by how far they lie below their
    surroundings, and what is far away fades a little.

    Parameters
    ----------
    volume
        (z, y, x).
    level
        Of the surface.
    view
        0, 1, 2: looking along z, y or x, laid out as :func:`central_slices`.
    colour_by
        (z, y, x): the value at the surface chooses the colour; one colour if absent.
    colour_range
        Values of the ends of the colours.
    size
        Side of the picture [pixels].
    """
    # Axes of the picture: depth towards the reader first, then rows downwards, then columns.
    order = ((0, 1, 2), (1, 0, 2), (2, 0, 1))[view]
    turned = volume.float().cpu().permute(*order).flip((0, 1) if view != 1 else (1,))
    field = turned.numpy()
    _, rows, columns = field.shape
    fine = 2 * size
    scale = max(rows, columns) / fine
    row = (np.arange(fine) - fine / 2 + 0.5) * scale + (rows - 1) / 2
    column = (np.arange(fine) - fine / 2 + 0.5) * scale + (columns - 1) / 2
    hit, first, share = _first_crossing(turned, row, column, level)
    at = np.stack([first + share, *np.broadcast_arrays(row[:, None], column[None, :])])
    normal = _normals(field, at, hit)
    shade, glint = _light(normal)
    distance = np.where(hit, at[0], np.nan)
    shade = shade * _openness(distance, hit, scale) * _fading(distance, hit)
    if colour_by is None:
        colour = np.broadcast_to(_SOLID, (*hit.shape, 3))
    else:
        by = colour_by.float().cpu().permute(*order).flip((0, 1) if view != 1 else (1,)).numpy()
        values = scipy.ndimage.map_coordinates(by, at, order=1, mode="nearest")
        low, high = colour_range
        colour = colour_ramp((values - low) / max(high - low, 1e-9))
    picture = np.clip(colour * shade[..., None] + glint[..., None], 0, 1)
    layers = np.concatenate([picture * hit[..., None], hit[..., None].astype(np.float32)], -1)
    small = layers.reshape(size, 2, size, 2, 4).mean((1, 3))
    small[..., :3] /= np.maximum(small[..., 3:], 1e-6)
    return SurfaceView((np.clip(small, 0, 1) * 255).round().astype(np.uint8), float(hit.mean()))


def _first_crossing(
    field: Tensor, row: NDArray[np.float64], column: NDArray[np.float64], level: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Whether and where every ray (row, column) first exceeds the level: voxel before it and the share of a voxel."""
    depth, rows, columns = field.shape
    x = torch.from_numpy(2 * column / max(columns - 1, 1) - 1).float()
    y = torch.from_numpy(2 * row / max(rows - 1, 1) - 1).float()
    grid = torch.stack([x[None, :].expand(row.size, -1), y[:, None].expand(-1, column.size)], -1)[None]
    shape = (row.size, column.size)
    hit = np.zeros(shape, dtype=bool)
    first, share = np.zeros(shape), np.zeros(shape)
    before = np.full(shape, -np.inf)
    for start in range(0, depth, 16):
        # Sheet by sheet: the enlarged map is never in memory.
        sheet = torch.nn.functional.grid_sample(
            field[None, start : start + 16], grid, align_corners=True, padding_mode="border"
        )[0].numpy()
        for offset, values in enumerate(sheet):
            new = (values > level) & ~hit
            if new.any():
                # A ray that begins inside the molecule meets the surface at its first voxel.
                known = np.isfinite(before[new])
                below = np.where(known, before[new], level)
                first[new] = start + offset - 1
                share[new] = np.where(known, (level - below) / np.maximum(values[new] - below, 1e-12), 1.0)
                hit |= new
            before = values
    outside = (row[:, None] < 0) | (row[:, None] > rows - 1) | (column < 0) | (column > columns - 1)
    return hit & ~outside, first, share


def _normals(field: Array, at: NDArray[np.float64], hit: NDArray[np.bool_]) -> Array:
    """Find unit normals (h, w, 3) as (depth, row, column) that point out of the molecule."""
    smooth = scipy.ndimage.gaussian_filter(field, 0.7)
    points = at[:, hit]
    gradient = np.stack(
        [
            scipy.ndimage.map_coordinates(smooth, points + step, order=1, mode="nearest")
            - scipy.ndimage.map_coordinates(smooth, points - step, order=1, mode="nearest")
            for step in 0.7 * np.eye(3)[:, :, None]
        ],
        -1,
    )
    normal = np.zeros((*hit.shape, 3), dtype=np.float32)
    normal[hit] = -gradient / np.maximum(np.linalg.norm(gradient, axis=-1, keepdims=True), 1e-12)
    return normal


def _light(normal: Array) -> tuple[Array, Array]:
    """Diffuse shade and glint (h, w); the reader looks along rising depth."""
    key = np.array((-0.78, -0.50, -0.38), dtype=np.float32)
    fill = np.array((-0.60, 0.35, 0.72), dtype=np.float32)
    key, fill = key / np.linalg.norm(key), fill / np.linalg.norm(fill)
    diffuse = 0.36 + 0.70 * np.clip(normal @ key, 0, 1) + 0.16 * np.clip(normal @ fill, 0, 1)
    half = key + np.array((-1, 0, 0), dtype=np.float32)
    glint = 0.20 * np.clip(normal @ (half / np.linalg.norm(half)), 0, 1) ** 28
    return diffuse, glint


def _openness(distance: Array, hit: NDArray[np.bool_], scale: float) -> Array:
    """Share of light that reaches a point: less where its surroundings lie nearer to the reader."""
    result = np.ones(hit.shape, dtype=np.float32)
    ground = np.where(hit, distance, 0.0).astype(np.float32)
    weight = hit.astype(np.float32)
    for reach, strength in ((1.5, 0.10), (4.0, 0.05), (10.0, 0.02)):
        mean = _blurred(ground, reach / scale) / np.maximum(_blurred(weight, reach / scale), 1e-3)
        result *= np.exp(-strength * np.clip(ground - mean, 0, 2.5 * reach))
    return np.clip(result, 0.35, 1.0)


def _blurred(picture: Array, sigma: float) -> Array:
    """Gaussian mean, worked out on a coarser grid where it is wide."""
    factor = max(1, int(sigma / 3))
    whole = torch.from_numpy(picture)[None, None]
    small = torch.nn.functional.avg_pool2d(whole, factor, ceil_mode=True)[0, 0].numpy()
    smooth = torch.from_numpy(scipy.ndimage.gaussian_filter(small, sigma / factor, truncate=3.0))[None, None]
    return np.asarray(
        torch.nn.functional.interpolate(smooth, size=picture.shape, mode="bilinear", align_corners=False)[0, 0].numpy()
    )


def _fading(distance: Array, hit: NDArray[np.bool_]) -> Array:
    if not hit.any():
        return np.ones(hit.shape, dtype=np.float32)
    near, far = np.nanquantile(distance[hit], (0.01, 0.99))
    return np.asarray(1.06 - 0.30 * np.clip((np.nan_to_num(distance) - near) / max(far - near, 1e-6), 0, 1))


def without_dust(volume: Tensor, level: float, *, smallest: float = 0.02) -> Tensor:
    """Map whose pieces above the level that are smaller than a share of the largest are levelled out."""
    above = volume.cpu().numpy() > level
    labels, count = scipy.ndimage.label(above)
    if count < 2:
        return volume
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    dust = torch.from_numpy(above & (sizes < smallest * sizes.max())[labels]).to(volume.device)
    return torch.where(dust, volume.median(), volume)
