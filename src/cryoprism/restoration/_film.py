"""Dark areas with a sharp edge, and which of them is a support film: brightness, texture and the shape of the edge.

A film, and everything else that is thick, is a step of brightness on a slow background. The step is told from a
gradient of ice thickness by its width, and the film from an object by its edge: one long arc that does not bulge
outwards, where an object's outline turns around it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage

__all__ = [
    "Arc",
    "DarkAreas",
    "edge_contrast",
    "film_arc",
    "find_dark_areas",
    "find_rough_area",
    "otsu",
    "robust_scale",
]

Array = np.ndarray[Any, np.dtype[Any]]

_COARSE = (48.0, 96.0)  # Å, cells on which particles are removed, the larger for large fields
_MEDIAN = 340.0  # Å, wider than two particles
_TEXTURE = 150.0  # Å, over which a variance is taken
_LEAST_AREA = 200.0**2  # Å², of a dark area; smaller objects are found by their darkness alone


class DarkAreas(NamedTuple):
    """Dark areas with sharp edges.

    Attributes
    ----------
    mask
        (y, x) bool.
    background
        (y, x) slow background [grey units] as it is outside of them.
    step
        How much darker they are [grey units]; 0 if there are none.
    """

    mask: Array
    background: Array
    step: float


class Arc(NamedTuple):
    """A circle or line fitted to an edge, F = a(u² + v²) + bu + cv + d with |∇F| = 1 on it, F > 0 in the dark area.

    Attributes
    ----------
    coefficients
        a, b, c, d for u (x) and v (y) from the middle of the field in units of its shorter side.
    length_in_pixels
        Length of the edge that follows it.
    share
        Fraction of the edge that follows it.
    turning
        Angle [rad] by which the edge turns along it; positive where the dark area bulges outwards.
    """

    coefficients: Array
    length_in_pixels: float
    share: float
    turning: float

    def depth(self, shape: tuple[int, ...]) -> Array:
        """Signed distance (y, x) [pixels] to the arc, positive on the dark side."""
        y, x = np.indices(shape).reshape(2, -1)
        return np.asarray(_distance(_terms(y, x, shape), self.coefficients).reshape(shape) * min(shape))


def robust_scale(values: Array) -> tuple[float, float]:
    """Median and 1.4826 times the median absolute deviation."""
    median = float(np.median(values))
    return median, 1.4826 * float(np.median(np.abs(values - median))) + 1e-30


def find_dark_areas(binned: Array, pixel: float) -> DarkAreas:
    """Split a micrograph in a background and areas darker by one step, if the step is large and its edge is narrow.

    The model is a polynomial of second degree plus a step on a set of cells. It is fitted alternately to medians over
    about 340 Å (which have no particles) for a polynomial given the set and a set given the polynomial, beginning from
    Otsu's threshold and from the darkest cells on a robust background; the fit with the smallest mean error is taken.

    Parameters
    ----------
    binned
        (y, x) grey values, particles dark, with pixels smaller than a particle.
    pixel
        Its pixel size [Å].
    """
    nothing = DarkAreas(np.zeros(binned.shape, dtype=bool), np.zeros(binned.shape, dtype=np.float32), 0.0)
    cell = max(1, round(min(max(min(binned.shape) * pixel / 64.0, _COARSE[0]), _COARSE[1]) / pixel))
    rows, columns = (n // cell for n in binned.shape)
    if min(rows, columns) < 12:
        return nothing
    cells = binned[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell).mean((1, 3), dtype=np.float64)
    level = scipy.ndimage.median_filter(cells, size=2 * int(0.5 * _MEDIAN / (cell * pixel)) + 1, mode="reflect")
    design = _quadratic((rows, columns))
    fits = [_alternate(level, design, start) for start in _starts(level, design)]
    fits = [fit for fit in fits if fit is not None]
    if not fits:
        return nothing
    _, dark, coefficients, step = min((fit for fit in fits if fit is not None), key=lambda fit: fit[0])
    residual = level - (design @ coefficients).reshape(level.shape) + step * dark
    inner = scipy.ndimage.binary_erosion(dark, iterations=2), ~scipy.ndimage.binary_dilation(dark, iterations=2)
    if any(side.any() and step < 4.0 * robust_scale(residual[side])[1] for side in inner):
        return nothing
    # From here on at full resolution.
    background = (_quadratic(binned.shape, (rows * cell, columns * cell)) @ coefficients).reshape(binned.shape)
    smooth = scipy.ndimage.gaussian_filter(binned - background, 25.0 / pixel, mode="reflect")
    near = np.repeat(np.repeat(scipy.ndimage.binary_dilation(dark, iterations=3), cell, 0), cell, 1)
    near = np.pad(near, [(0, n - m) for n, m in zip(binned.shape, near.shape, strict=True)], mode="edge")
    if near.all() or step < 4.0 * robust_scale(smooth[~near])[1]:
        return nothing
    reach = max(1, round(60.0 / pixel))
    padded = np.pad((smooth < -0.5 * step) & near, reach, mode="edge")
    mask = scipy.ndimage.binary_opening(padded, iterations=reach)[reach:-reach, reach:-reach]
    mask = scipy.ndimage.binary_fill_holes(mask)
    return DarkAreas(_sharp(mask, binned - background, pixel), background.astype(np.float32), step)


def _quadratic(shape: tuple[int, int], over: tuple[int, int] | None = None) -> Array:
    """Terms (y·x, 6) of a polynomial of second degree over a field whose extent ``over`` [-1, 1] is."""
    over = shape if over is None else over
    y = ((np.arange(shape[0]) + 0.5) * (2.0 / over[0]) - 1.0)[:, None]
    x = ((np.arange(shape[1]) + 0.5) * (2.0 / over[1]) - 1.0)[None, :]
    terms = (y**0 * x**0, y + 0 * x, x + 0 * y, y * x, y * y + 0 * x, x * x + 0 * y)
    return np.stack([np.asarray(term) for term in terms], -1).reshape(-1, 6)


def _starts(level: Array, design: Array) -> list[Array]:
    """Return sets of dark cells to begin with: the darkest, as they are or on a background, and a half-plane."""
    starts = [level < otsu(level)]
    for terms in (3, 6):
        background = _tukey(design[:, :terms], level.ravel())
        residual = level - (design[:, :terms] @ background).reshape(level.shape)
        median, spread = robust_scale(residual)
        starts.append(residual < median - 4.0 * spread)
    starts.append(residual < otsu(residual))
    starts.append(_best_half(level, design))
    return starts


def _best_half(level: Array, design: Array) -> Array:
    """Return the half-plane whose step, added to the polynomial, explains most of the variance."""
    y, x = design[:, 1], design[:, 2]
    angles = np.arange(8) * (math.pi / 8)
    along = np.cos(angles)[:, None] * x + np.sin(angles)[:, None] * y
    cuts = np.quantile(along, np.linspace(0.1, 0.9, 9), axis=1)
    halves = (along > cuts[:, :, None]).reshape(-1, y.size)
    basis = np.linalg.qr(design)[0]
    rest = level.ravel() - basis @ (basis.T @ level.ravel())
    # Of a half, only what the polynomial cannot follow counts.
    free = np.maximum(halves.sum(1) - np.square(halves @ basis).sum(1), 1e-9)
    step = halves @ rest
    best = int(np.argmax(step * step / free))
    return np.asarray((halves[best] == (step[best] < 0)).reshape(level.shape))


def _tukey(design: Array, values: Array, rounds: int = 8) -> Array:
    """Least squares reweighted with Tukey's biweight (c = 4.685)."""
    weight = np.ones_like(values)
    solution = np.zeros(design.shape[1])
    for _ in range(rounds):
        weighted = design * weight[:, None]
        normal = weighted.T @ design
        normal += 1e-9 * np.trace(normal) * np.eye(len(normal))
        solution = np.linalg.solve(normal, weighted.T @ values)
        residual = values - design @ solution
        scale = 1.4826 * float(np.median(np.abs(residual))) + 1e-30
        weight = (1.0 - np.clip(residual / (4.685 * scale), -1.0, 1.0) ** 2) ** 2
    return solution


def _alternate(level: Array, design: Array, dark: Array) -> tuple[float, Array, Array, float] | None:
    """Mean error, dark cells, polynomial and step of the two-level model, or None if it ends with one level."""
    for _ in range(6):
        if not 0 < dark.sum() < dark.size:
            return None
        both = _tukey(np.concatenate([design, -dark.reshape(-1, 1).astype(float)], 1), level.ravel(), 4)
        step = float(both[-1])
        if step <= 0.0:
            return None
        residual = level - (design @ both[:-1]).reshape(level.shape)
        new = residual < -0.5 * step
        if np.array_equal(new, dark):
            break
        dark = new
    return float(np.abs(residual + step * dark).mean()), dark, both[:-1], step


def _sharp(mask: Array, flat: Array, pixel: float) -> Array:
    """Pieces of a mask that are large and have a sharp edge."""
    pieces, _ = scipy.ndimage.label(mask)
    kept = np.zeros_like(mask)
    for number, box in enumerate(scipy.ndimage.find_objects(pieces), 1):
        reach = round(300.0 / pixel)
        window = tuple(slice(max(0, s.start - reach), s.stop + reach) for s in box)
        piece = pieces[window] == number
        if piece.sum() * pixel * pixel >= _LEAST_AREA:
            others = mask[window] & ~piece
            if edge_contrast(piece, flat[window], pixel, others) > 0.6:
                kept[window] |= piece
    return kept


def edge_contrast(region: Array, image: Array, pixel: float, ignore: Array | None = None) -> float:
    """Share of a region's depth that lies within 100 Å of its edge, along the weaker parts of the edge.

    Means over 100 Å along the edge, of a strip 30 to 110 Å outside minus one as far inside; their 20 % quantile over
    the median difference between the region and its surroundings. About 1 for a step, near 0 for a gradient or chance.

    Parameters
    ----------
    region
        (y, x) bool.
    image
        (y, x) grey values; the region is dark.
    pixel
        Pixel size [Å].
    ignore
        (y, x) bool, other regions.
    """
    border = region & scipy.ndimage.binary_dilation(~region)
    if not border.any() or region.all():
        return 0.0
    outward = scipy.ndimage.distance_transform_edt(~region) * pixel
    inward = scipy.ndimage.distance_transform_edt(region) * pixel
    outside = (outward > 30.0) & (outward < 110.0)
    if ignore is not None:
        outside &= ~ignore
    inside = (inward > 30.0) & (inward < 110.0)
    strips = []
    for strip in (outside, inside):
        weight = scipy.ndimage.gaussian_filter(strip.astype(np.float32), 70.0 / pixel, mode="constant")
        total = scipy.ndimage.gaussian_filter(
            np.where(strip, image, 0).astype(np.float32), 70.0 / pixel, mode="constant"
        )
        strips.append(np.where(weight > 1e-2, total / np.maximum(weight, 1e-2), np.nan))
    local = (strips[0] - strips[1])[border]
    local = local[np.isfinite(local)]
    around = (outward > 30.0) & (outward < 300.0) & (~ignore if ignore is not None else True)
    if local.size == 0 or not around.any():
        return 0.0
    depth = float(np.median(image[around]) - np.median(image[region]))
    return float(np.quantile(local, 0.2)) / depth if depth > 0 else 0.0


def film_arc(region: Array, pixel: float, tolerance_in_angstroms: float = 40.0) -> Arc | None:
    """Arc along the edge of a region if it looks like a film's: long, across the field, and not bulging outwards.

    The circle that most of the edge follows within the tolerance (out of 200 through three random points of it;
    Fischler & Bolles 1981, Comm. ACM 24, 381), then refined on these points with Pratt's (1987, SIGGRAPH 21, 145)
    algebraic fit, which contains the straight line. It must follow more than half of the edge, over at least 0.45 of
    the field's shorter side, and bulge outwards by less than 0.6 rad: a film surrounds round holes, an object's outline
    turns by π or more (π/2 in a corner). The region must touch the field's border.

    Parameters
    ----------
    region
        (y, x) bool, one piece.
    pixel
        Pixel size [Å].
    tolerance_in_angstroms
        How far a film's edge may be from an arc.
    """
    y, x = np.nonzero(region & scipy.ndimage.binary_dilation(~region))
    side = min(region.shape)
    touches = np.concatenate([region[0], region[-1], region[:, 0], region[:, -1]]).mean()
    if y.size < 0.4 * side or touches < 0.05:
        return None
    points = _terms(y, x, region.shape)
    tolerance = max(tolerance_in_angstroms / pixel, 2.0) / side
    picks = np.random.default_rng(0).integers(0, y.size, (200, 3))
    circles = np.linalg.svd(points[picks])[2][:, -1]  # what vanishes on three points
    norm = circles[:, 1] ** 2 + circles[:, 2] ** 2 - 4.0 * circles[:, 0] * circles[:, 3]
    circles = circles[norm > 1e-12] / np.sqrt(norm[norm > 1e-12])[:, None]
    follows = [np.abs(_distance(points, circle)) < tolerance for circle in circles]
    best = max(follows, key=np.count_nonzero, default=np.zeros(y.size, dtype=bool))
    if best.sum() < 3:
        return None
    circle = _pratt(points[best])
    best = np.abs(_distance(points, circle)) < tolerance
    inside = np.nonzero(region)
    if np.mean(_distance(_terms(inside[0], inside[1], region.shape), circle) > 0) < 0.5:
        circle = -circle
    a, b, c, _ = circle.tolist()
    gradient = np.abs(np.stack([2.0 * a * points[:, 1] + b, 2.0 * a * points[:, 2] + c], -1))[best]
    # A pixel of the edge stands for the length 1 / max(|cos|, |sin|) of it.
    length = float((1.0 / np.clip(gradient.max(-1), 0.7, 1.0)).sum()) / side
    arc = Arc(circle, length * side, float(best.mean()), -2.0 * a * length)
    return arc if length > 0.45 and arc.share > 0.5 and arc.turning < 0.6 else None


def _terms(y: Array, x: Array, shape: tuple[int, ...]) -> Array:
    """Rows (v² + u², u, v, 1) with u, v from the middle of the field in units of its shorter side."""
    side = min(shape)
    v, u = (y - 0.5 * shape[0]) / side, (x - 0.5 * shape[1]) / side
    return np.stack([u * u + v * v, u, v, np.ones_like(u)], -1)


def _pratt(points: Array) -> Array:
    """Coefficients (a, b, c, d) that minimise ΣF² under b² + c² - 4ad = 1."""
    constraint = np.diag([0.0, 1.0, 1.0, 0.0])
    constraint[0, 3] = constraint[3, 0] = -2.0
    values, vectors = np.linalg.eig(np.linalg.solve(constraint, points.T @ points))
    vectors = vectors.real
    norm = np.einsum("ik,ij,jk->k", vectors, constraint, vectors)
    order = np.where(norm > 1e-12, np.abs(values), np.inf)
    chosen = int(np.argmin(order))
    return np.asarray(vectors[:, chosen] / math.sqrt(float(norm[chosen])))


def _distance(points: Array, circle: Array) -> Array:
    """Signed distance to a circle: exact for F = a(ρ² - R²), 2aR = ±1, and linear for a line."""
    value = points @ circle
    return np.asarray(2.0 * value / (1.0 + np.sqrt(np.maximum(1.0 + 4.0 * circle[0] * value, 0.0))))


def find_rough_area(image: Array, pixel: float, ignore: Array) -> Array:
    """Find one of two regions with different texture, in one piece and with a film's edge: the rougher.

    The logarithm of the local variance (of the image without its slow part, over about 300 Å) is split in two (Otsu
    1979, IEEE Trans. SMC 9, 62), if the classes are far apart against their own spreads.

    Parameters
    ----------
    image
        (y, x) grey values.
    pixel
        Its pixel size [Å].
    ignore
        (y, x) bool, what has no vote.
    """
    nothing = np.zeros(image.shape, dtype=bool)
    if min(image.shape) * pixel < 1500.0 or ignore.mean() > 0.5:
        return nothing
    detail = image - scipy.ndimage.gaussian_filter(image, 30.0 / pixel, mode="reflect")
    # Clipped, so that single contaminations and particles weigh like texture.
    _, spread = robust_scale(detail)
    energy = np.minimum(detail * detail, (4.0 * spread) ** 2)
    if ignore.any():
        energy[ignore] = np.median(energy[~ignore])
    texture = np.log(scipy.ndimage.gaussian_filter(energy, _TEXTURE / pixel, mode="reflect") + 1e-30)
    rough = texture > otsu(texture)
    if not 0.03 <= rough.mean() <= 0.97:
        return nothing
    high, low = texture[rough], texture[~rough]
    separation = (np.median(high) - np.median(low)) / (robust_scale(high)[1] + robust_scale(low)[1])
    if separation < 3.0 or np.median(high) - np.median(low) < 0.25:
        return nothing
    pieces, count = scipy.ndimage.label(rough)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    largest = pieces == 1 + int(sizes.argmax())
    border = np.concatenate([largest[0], largest[-1], largest[:, 0], largest[:, -1]])
    if sizes.max() < 0.8 * rough.sum() or border.mean() < 0.05:
        return nothing
    return nothing if film_arc(largest, pixel, _TEXTURE / 2.0) is None else np.asarray(largest)


def otsu(values: Array) -> float:
    """Threshold that maximises the variance between two classes."""
    counts, edges = np.histogram(values, bins=128)
    centres = 0.5 * (edges[1:] + edges[:-1])
    below = np.cumsum(counts).astype(float)
    above = below[-1] - below
    mass = np.cumsum(counts * centres)
    # Where one class is empty there is nothing between the two.
    means = mass / np.maximum(below, 1.0), (mass[-1] - mass) / np.maximum(above, 1.0)
    between = below * above * (means[0] - means[1]) ** 2
    return float(edges[1 + int(np.argmax(between[:-1]))])
