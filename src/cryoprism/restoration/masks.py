"""Artefact mask: contamination, carbon, and crystalline ice, as labelled regions of one micrograph.

Everything but the search for crystals runs on an image binned to 12 to 24 Å per pixel: what is masked here is larger
than a particle. All limits are conservative: a region is labelled only if it stands far outside the micrograph's own
spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage
import torch
from torch import Tensor

from cryoprism.core import InputError

from ._film import film_arc, find_dark_areas, find_rough_area, robust_scale
from .background import fit_background

__all__ = ["LABELS", "ArtefactMask", "artefact_mask"]

LABELS = {"good": 0, "defect": 1, "contamination": 2, "carbon": 3, "crystalline ice": 4}

_BINNED_PIXEL = (12.0, 24.0)  # Å, the larger for large fields
_CRYSTAL_TILE = 256  # pixels of the micrograph
_ICE_RINGS = (3.90, 3.67, 3.44)  # Å

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ArtefactMask:
    """Labelled regions at low resolution.

    Attributes
    ----------
    labels
        (by, bx) uint8, see :data:`LABELS`, covering the field evenly.
    shape
        Height and width [pixels] of the micrograph.
    """

    labels: Tensor
    shape: tuple[int, int]

    @property
    def area_fractions(self) -> dict[str, float]:
        """Fraction of the field under each label (single defects are known to :class:`Defects` only)."""
        return {name: float((self.labels == label).float().mean()) for name, label in LABELS.items()}

    def full_labels(self, defects: Tensor | None = None) -> Tensor:
        """Labels (h, w) uint8 at full resolution, with the pixels of ``defects`` (h, w) labelled 1."""
        row, column = ((torch.arange(n) * m) // n for n, m in zip(self.shape, self.labels.shape, strict=True))
        full = self.labels[:, column][row]
        if defects is not None:
            full.view(-1)[torch.from_numpy(np.flatnonzero(defects.numpy()))] = LABELS["defect"]
        return full


def artefact_mask(image: Tensor, pixel_size_in_angstroms: float) -> ArtefactMask:
    """Find contamination, carbon and crystalline ice.

    Parameters
    ----------
    image
        (h, w) grey values, protein dark, defects replaced; not changed.
    pixel_size_in_angstroms
        Pixel size [Å]. Crystalline ice is looked for only if Nyquist is beyond 3.4 Å.

    Raises
    ------
    InputError
        The pixel size is not positive or the image is not two-dimensional.
    """
    if not pixel_size_in_angstroms > 0:
        raise InputError("pixel_size_in_angstroms", f"{pixel_size_in_angstroms}", "Give the pixel size in Å.")
    if image.ndim != 2:
        raise InputError("image", f"shape {tuple(image.shape)}", "Give one micrograph.")
    image = image.detach()
    height, width = image.shape
    coarse = min(max(min(height, width) * pixel_size_in_angstroms / 256.0, _BINNED_PIXEL[0]), _BINNED_PIXEL[1])
    factor = max(1, min(round(coarse / pixel_size_in_angstroms), min(height, width) // 32))
    binned = torch.nn.functional.avg_pool2d(image[None, None], factor)[0, 0]
    pixel = pixel_size_in_angstroms * factor
    carbon, objects = _thick_areas(binned.numpy(), pixel)
    hidden = torch.from_numpy(carbon | objects)
    flat = binned - fit_background(binned, ignore=hidden).field()
    contamination = _contamination(flat.numpy(), pixel, carbon, objects)
    labels = torch.zeros(binned.shape, dtype=torch.uint8)
    crystals = _crystals(image, pixel_size_in_angstroms)
    if crystals is not None and bool(crystals.any()):
        row = (torch.arange(labels.shape[0]) * factor // _CRYSTAL_TILE).clamp_max(crystals.shape[0] - 1)
        column = (torch.arange(labels.shape[1]) * factor // _CRYSTAL_TILE).clamp_max(crystals.shape[1] - 1)
        labels[crystals[row][:, column]] = LABELS["crystalline ice"]
    labels[torch.from_numpy(carbon)] = LABELS["carbon"]
    labels[torch.from_numpy(contamination)] = LABELS["contamination"]
    return ArtefactMask(labels, (height, width))


def _thick_areas(binned: Array, pixel: float) -> tuple[Array, Array]:
    """Support film and large objects, by the shape of what is dark with a sharp edge; else a film by its texture."""
    dark = find_dark_areas(binned, pixel)
    carbon, objects = np.zeros_like(dark.mask), np.zeros_like(dark.mask)
    pieces, count = scipy.ndimage.label(dark.mask)
    for number in range(1, count + 1):
        piece = pieces == number
        arc = film_arc(piece, pixel)
        if arc is None:
            objects |= piece
            continue
        # What lies on the film's edge and juts out is no film.
        depth = arc.depth(piece.shape) * pixel
        beyond = scipy.ndimage.binary_propagation(piece & (depth < -120.0), mask=piece & (depth < -40.0))
        carbon |= piece & ~beyond
        objects |= beyond
    if not carbon.any():
        rough = find_rough_area(
            binned, pixel, scipy.ndimage.binary_dilation(objects, iterations=max(1, round(60.0 / pixel)))
        )
        carbon = rough & ~objects
    return carbon, objects


def _contamination(flat: Array, pixel: float, carbon: Array, objects: Array) -> Array:
    """Find dark, thick, compact regions.

    Smoothed over 40 Å, a seed is darker than 6 robust deviations and than anything that particles do: 1.8 times the
    grey that only 5 % of the field goes below (many particles), and 1.8 times the median of the dark spots if there
    are at least eight and all much alike (few particles; contamination comes in all sizes). It grows to half of that,
    is cut at half of its own depth nearby, and counts from an area of (100 Å)².

    Parameters
    ----------
    flat
        (y, x) grey values without the background.
    pixel
        Its pixel size [Å].
    carbon, objects
        (y, x) bool: film, where nothing is looked for, and what is known to be contamination.
    """
    if carbon.all():
        return np.zeros(flat.shape, dtype=bool)
    smooth = _smooth_outside(flat, carbon, 40.0 / pixel)
    usual = ~(carbon | scipy.ndimage.binary_dilation(objects, iterations=max(1, round(60.0 / pixel))))
    if usual.mean() < 0.05:
        return objects
    median, spread = robust_scale(smooth[usual])
    dark = (median - smooth) / spread
    typical = float(np.quantile(dark[usual], 0.95))
    around = scipy.ndimage.maximum_filter(dark, size=2 * max(1, round(75.0 / pixel)) + 1, mode="nearest")
    spots = dark[(dark == around) & (dark > 4.0) & usual]
    if spots.size >= 8:
        level, scatter = robust_scale(spots)
        if scatter < 0.2 * level:
            typical = max(typical, level)
    limit = max(6.0, 1.8 * typical)
    grown, count = scipy.ndimage.label((dark > 0.5 * limit) & ~carbon)
    if count == 0:
        return objects
    index = np.arange(1, count + 1)
    peak = scipy.ndimage.maximum(dark, grown, index)
    area = scipy.ndimage.sum_labels(dark > 0.7 * limit, grown, index) * pixel * pixel
    keep = np.concatenate([[False], (peak > limit) & (area > 100.0**2)])
    found = keep[grown] & (dark > 0.5 * around)
    margin = round(12.0 / pixel)
    if margin and found.any():
        found = scipy.ndimage.binary_dilation(found, iterations=margin) & ~carbon
    return np.asarray(found | objects)


def _smooth_outside(image: Array, ignore: Array, sigma: float) -> Array:
    """Gaussian mean of what is not ignored."""
    if not ignore.any():
        return np.asarray(scipy.ndimage.gaussian_filter(image, sigma, mode="reflect"))
    weight = scipy.ndimage.gaussian_filter((~ignore).astype(np.float32), sigma, mode="reflect")
    total = scipy.ndimage.gaussian_filter(np.where(ignore, 0.0, image).astype(np.float32), sigma, mode="reflect")
    return np.asarray(total / np.maximum(weight, 0.05))


def _crystals(image: Tensor, pixel: float) -> Tensor | None:
    """Tiles (ty, tx) with ice reflections: a ring above its flanks, or spots that chance does not make.

    For noise the periodogram over its mean is exponential; a ring's mean over its flanks' then has the standard error
    1/√n, and the strongest of n coefficients passes ln(n · tiles / 0.001) once in a thousand micrographs.
    """
    if 2.0 * pixel >= _ICE_RINGS[-1] / 1.05:
        return None
    size = _CRYSTAL_TILE
    ty, tx = image.shape[0] // size, image.shape[1] // size
    if ty == 0 or tx == 0:
        return None
    ky = torch.fft.fftfreq(size, pixel)[:, None]
    kx = torch.fft.rfftfreq(size, pixel)[None, :]
    k = torch.sqrt(ky * ky + kx * kx)
    taper = torch.hann_window(size, periodic=True)
    taper = taper / taper.square().mean().sqrt()
    found = torch.zeros(ty * tx, dtype=torch.bool)
    # Axes and the outermost columns belong to line defects and to aliasing.
    usable = (ky.abs() > 2.0 / (size * pixel)) & (kx > 2.0 / (size * pixel)) & (kx < 0.49 / pixel)
    rings = []
    for spacing in _ICE_RINGS:
        off = (k * spacing - 1.0).abs()
        rings.append(((off < 0.012) & usable, (off > 0.02) & (off < 0.05) & usable))
    region = torch.zeros_like(usable)
    for ring, flank in rings:
        region |= ring | flank
    flat_region = region.reshape(-1).nonzero()[:, 0]
    index = [tuple(part.reshape(-1)[flat_region].nonzero()[:, 0] for part in ring) for ring in rings]
    for row in range(ty):
        strip = image[row * size : (row + 1) * size, : tx * size].reshape(size, tx, size).permute(1, 0, 2)
        tapered = (strip - strip.mean(dim=(1, 2), keepdim=True)) * taper * taper[:, None]
        transform = torch.from_numpy(_rfft2(tapered.numpy())).reshape(tx, -1).index_select(1, flat_region)
        power = torch.view_as_real(transform).square().sum(-1)
        hit = torch.zeros(tx, dtype=torch.bool)
        for ring, flank in index:
            n, m = ring.numel(), flank.numel()
            level = power.index_select(1, flank).mean(-1).clamp_min(1e-30)
            inside = power.index_select(1, ring)
            # The taper correlates neighbours: about 2.2 coefficients share one independent value.
            error = math.sqrt(2.2 * (1.0 / n + 1.0 / m))
            excess, peak = inside.mean(-1) / level, inside.amax(-1) / level
            hit |= (excess > max(1.5, 1.0 + 8.0 * error)) | (peak > 1.5 * math.log(n * ty * tx / 1e-3))
        found[row * tx : (row + 1) * tx] = hit
    return found.reshape(ty, tx)


def _rfft2(stack: Array) -> Array:
    return np.asarray(scipy.fft.rfft2(stack, workers=max(1, torch.get_num_threads())))
