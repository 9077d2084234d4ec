"""Boxes out of a micrograph: cut at whole pixels, downscaled, background flattened, contrast inverted.

The order is RELION's (``relion_preprocess``): cut, rescale, subtract the background's plane, bring the background to
mean 0 and deviation 1, invert.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError, fourier_crop, frequency_grid, irfft2, rfft2
from cryoprism.restoration import LABELS

__all__ = ["Extraction", "extract_particles", "local_defocus", "masked_fraction", "normalise_particles"]

#: Share of the box that the background circle takes where no particle diameter is given, as RELION's interface does.
BACKGROUND_SHARE = 0.75
_CHUNK_BYTES = 1 << 28


@dataclass(frozen=True)
class Extraction:
    """Particles cut out of one micrograph.

    Attributes
    ----------
    images
        (k, box, box) float32, the particles that were kept, in the order of the coordinates.
    kept
        (n,) bool: which coordinates became images.
    centres_in_pixels
        (k, 2) float64: x, y of the pixel of the micrograph that lies at box // 2; what rlnCoordinateX/Y should say.
    origins_in_angstroms
        (k, 2) float64: x, y of the shift that brings the particle to the centre (rlnOriginXAngst): the part of a pixel
        by which a coordinate missed its centre, with the sign turned.
    pixel_size_in_angstroms
        Of the images.
    at_edge, without_contrast
        How many were left out because their box leaves the field, or because nothing varies in it.
    """

    images: Tensor
    kept: Tensor
    centres_in_pixels: Tensor
    origins_in_angstroms: Tensor
    pixel_size_in_angstroms: float
    at_edge: int = 0
    without_contrast: int = 0

    def __len__(self) -> int:
        """Return the number of images."""
        return int(self.images.shape[0])


def extract_particles(
    micrograph: Tensor,
    xy_in_pixels: Tensor,
    *,
    box_in_pixels: int,
    pixel_size_in_angstroms: float,
    output_box: int | None = None,
    edge_in_pixels: float | None = None,
    background_diameter_in_angstroms: float | None = None,
    invert: bool = True,
    normalise: bool = True,
    dust_in_deviations: float | None = None,
    generator: torch.Generator | None = None,
) -> Extraction:
    """Cut particles out of a micrograph.

    Parameters
    ----------
    micrograph
        (h, w) grey values, protein dark, bad pixels replaced; not changed.
    xy_in_pixels
        (n, 2) x, y of the particles, the first pixel being (0, 0). A box is cut around the nearest pixel, without
        interpolation; the rest becomes the origin.
    box_in_pixels
        Side of the box on the micrograph.
    pixel_size_in_angstroms
        Of the micrograph.
    output_box
        Side to which the transform of the box is cropped; as cut if absent.
    edge_in_pixels
        Particles nearer than this to an edge are left out; half a box (the whole box must lie inside) if absent. Below
        half a box, what lies outside repeats the nearest pixel, as in RELION.
    background_diameter_in_angstroms
        Outside this circle is background; 75 % of the box if absent.
    invert
        Make protein bright.
    normalise
        Subtract the plane through the background, and divide by the background's standard deviation.
    dust_in_deviations
        Pixels further than this from the background's mean are replaced by Gaussian noise of its spread (RELION's
        white and black dust); needs ``generator``.
    generator
        Source of that noise.

    Raises
    ------
    InputError
        A size or diameter that cannot be, or a micrograph that is not two-dimensional or smaller than the box.
    """
    side = box_in_pixels if output_box is None else output_box
    _check(micrograph, xy_in_pixels, box_in_pixels, side, pixel_size_in_angstroms)
    if dust_in_deviations is not None and generator is None:
        raise InputError("generator", "none was given", "Dust is replaced by noise: give a torch.Generator.")
    height, width = micrograph.shape
    xy = xy_in_pixels.detach().cpu().double()
    # Halves go up, whatever the parity of the pixel, so that a shift by whole pixels changes nothing.
    centres = torch.floor(xy + 0.5)
    x, y = centres.long().unbind(-1)
    if edge_in_pixels is None:
        half, rest = box_in_pixels // 2, box_in_pixels - box_in_pixels // 2
        inside = (x >= half) & (y >= half) & (x + rest <= width) & (y + rest <= height)
    else:
        edge = max(edge_in_pixels, 0.0)
        inside = (xy[:, 0] >= edge) & (xy[:, 1] >= edge)
        inside &= (xy[:, 0] <= width - 1 - edge) & (xy[:, 1] <= height - 1 - edge)
    chosen = inside.nonzero()[:, 0]
    pixel = pixel_size_in_angstroms * box_in_pixels / side
    diameter = background_diameter_in_angstroms or BACKGROUND_SHARE * box_in_pixels * pixel_size_in_angstroms
    step = max(1, _CHUNK_BYTES // (4 * box_in_pixels * box_in_pixels))
    images, good = [], []
    for part in (chosen[begin : begin + step] for begin in range(0, chosen.numel(), step)):
        cut = _rescale(_cut(micrograph, x[part], y[part], box_in_pixels), side)
        usable = torch.ones(part.numel(), dtype=torch.bool)
        if normalise:
            cut, usable = normalise_particles(
                cut, diameter / pixel, dust_in_deviations=dust_in_deviations, generator=generator
            )
        images.append((-cut if invert else cut)[usable])
        good.append(part[usable])
    rows = torch.cat(good) if good else chosen
    kept = torch.zeros(xy.shape[0], dtype=torch.bool)
    kept[rows] = True
    return Extraction(
        images=torch.cat(images) if images else torch.empty(0, side, side),
        kept=kept,
        centres_in_pixels=centres[rows],
        origins_in_angstroms=(centres[rows] - xy[rows]) * pixel_size_in_angstroms,
        pixel_size_in_angstroms=pixel,
        at_edge=int((~inside).sum()),
        without_contrast=chosen.numel() - rows.numel(),
    )


def _check(micrograph: Tensor, xy: Tensor, box: int, side: int, pixel: float) -> None:
    if micrograph.ndim != 2:
        raise InputError("micrograph", f"shape {tuple(micrograph.shape)}", "Give one micrograph (h, w).")
    if xy.ndim != 2 or xy.shape[1] != 2:
        raise InputError("xy_in_pixels", f"shape {tuple(xy.shape)}", "Give one row x, y per particle.")
    if not bool(torch.isfinite(xy).all()):
        raise InputError("xy_in_pixels", "a coordinate is not finite", "Correct or delete it.")
    if not 4 <= box <= min(micrograph.shape):
        raise InputError(
            "box", f"{box} pixels on a micrograph of {micrograph.shape[1]} x {micrograph.shape[0]}", "Take another box."
        )
    if not 4 <= side <= box:
        raise InputError("scaled box", f"{side} pixels from a box of {box}", "Images are only made smaller: 4 to box.")
    if not (math.isfinite(pixel) and pixel > 0):
        raise InputError("pixel_size_in_angstroms", f"{pixel}", "Give a positive pixel size in Å.")


def _cut(micrograph: Tensor, x: Tensor, y: Tensor, box: int) -> Tensor:
    """Cut boxes (n, box, box) float32 with pixel (y, x) at box // 2; beyond the field the nearest pixel repeats."""
    span = torch.arange(box) - box // 2
    rows = (y[:, None] + span).clamp(0, micrograph.shape[0] - 1)
    columns = (x[:, None] + span).clamp(0, micrograph.shape[1] - 1)
    return micrograph[rows[:, :, None], columns[:, None, :]].float()


def _rescale(images: Tensor, side: int) -> Tensor:
    """Crop the transform to ``side``; what was at pixel box // 2 is at side // 2, at even and odd sizes."""
    box = images.shape[-1]
    if side == box:
        return images
    shift = (side // 2) * box / side - box // 2
    if shift:
        ky, kx = frequency_grid((box, box), 1.0)
        images = irfft2(rfft2(images) * torch.exp(-2j * math.pi * shift * (ky + kx)), (box, box))
    return fourier_crop(images, (side, side))


def normalise_particles(
    images: Tensor,
    background_diameter_in_pixels: float,
    *,
    dust_in_deviations: float | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Subtract the least-squares plane of the background and divide by the background's standard deviation.

    The background is what lies further than half the diameter from pixel box // 2.

    Parameters
    ----------
    images
        (n, box, box); not changed.
    background_diameter_in_pixels
        Of the circle around the particle.
    dust_in_deviations, generator
        As in :func:`extract_particles`.

    Returns
    -------
    images
        (n, box, box) float32; background mean 0 and standard deviation 1.
    usable
        (n,) bool: False where the background does not vary, or not everything is finite; such images are zero.

    Raises
    ------
    InputError
        The circle leaves fewer than 16 pixels of background, or has no size.
    """
    box = images.shape[-1]
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    y, x = axis[:, None].expand(box, box), axis[None, :].expand(box, box)
    outside = (x * x + y * y > (0.5 * background_diameter_in_pixels) ** 2).flatten()
    if not background_diameter_in_pixels > 0 or int(outside.sum()) < 16:
        raise InputError(
            "diameter",
            f"a circle of {background_diameter_in_pixels:.1f} pixels leaves {int(outside.sum())} of {box * box} pixels "
            "as background",
            "Take a larger box or a smaller diameter.",
        )
    design = torch.stack([torch.ones(box * box, dtype=torch.float64), y.flatten(), x.flatten()], dim=1)
    solve = torch.linalg.pinv(design[outside]).float()
    design = design.float()

    def flatten(flat: Tensor) -> tuple[Tensor, Tensor]:
        # The first mean keeps float32 from losing the digits of large grey values.
        flat = flat - flat.mean(1, keepdim=True)
        flat = flat - (flat[:, outside] @ solve.T) @ design.T
        deviation = flat[:, outside].std(1, correction=0)
        return flat, deviation

    whole = images.detach().float().flatten(1)
    flat, deviation = flatten(whole)
    level = whole.abs().amax(1)
    usable = (deviation > 1e-6 * level) & deviation.isfinite()
    flat = flat / torch.where(usable, deviation, torch.ones_like(deviation))[:, None]
    if dust_in_deviations is not None:
        dust = flat.abs() > dust_in_deviations
        if bool((dust & usable[:, None]).any()):
            flat = torch.where(dust, torch.randn(flat.shape, generator=generator), flat)
            flat, deviation = flatten(flat)
            flat = flat / deviation.clamp_min(1e-12)[:, None]
    flat[~usable] = 0.0
    return flat.view(-1, box, box), usable


def local_defocus(
    defocus: Tensor,
    gradient: tuple[float, float],
    xy_in_pixels: Tensor,
    shape: tuple[int, int],
    pixel_size_in_angstroms: float,
) -> Tensor:
    """Defocus of each particle on a tilted specimen: that of the micrograph plus the plane at its place.

    Parameters
    ----------
    defocus
        (3,) u [Å], v [Å], angle [degrees] of the micrograph, which hold in its middle.
    gradient
        (y, x) change of the defocus [Å per Å] along the rows' and columns' direction.
    xy_in_pixels
        (n, 2)
    shape
        (height, width) of the micrograph [pixels].
    pixel_size_in_angstroms
        Of the micrograph.

    Returns
    -------
    Tensor
        (n, 3) float64.
    """
    middle = torch.tensor([(shape[1] - 1) / 2, (shape[0] - 1) / 2], dtype=torch.float64)
    offset = (xy_in_pixels.double() - middle) * pixel_size_in_angstroms
    change = offset[:, 0] * gradient[1] + offset[:, 1] * gradient[0]
    return defocus.double() + torch.stack([change, change, torch.zeros_like(change)], dim=1)


def masked_fraction(
    labels: Tensor, xy_in_pixels: Tensor, shape: tuple[int, int], diameter_in_pixels: float, *, samples: int = 24
) -> Tensor:
    """Share of each particle's disc that lies on contamination, carbon or crystalline ice.

    Parameters
    ----------
    labels
        (by, bx) numbers of ``restoration.LABELS`` over the field, at any resolution (``masks/*.mrc``).
    xy_in_pixels
        (n, 2)
    shape
        (height, width) of the micrograph [pixels].
    diameter_in_pixels
        Of the disc, in pixels of the micrograph.
    samples
        Points across the disc at which the mask is looked up; points outside the field do not count.

    Returns
    -------
    Tensor
        (n,) float32 from 0 to 1.
    """
    axis = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples - 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    disc = x * x + y * y <= 0.25
    offsets = torch.stack([x[disc], y[disc]], dim=1) * diameter_in_pixels
    points = xy_in_pixels.double()[:, None] + offsets
    size = torch.tensor([shape[1], shape[0]], dtype=torch.float64)
    inside = ((points > -0.5) & (points < size - 0.5)).all(-1)
    grid = torch.tensor([labels.shape[1], labels.shape[0]], dtype=torch.float64)
    index = ((points + 0.5) / size * grid).long().clamp_min(0).minimum((grid - 1).long())
    found = labels[index[..., 1], index[..., 0]].round()
    # Single defects are mended and do no harm.
    bad = (found != LABELS["good"]) & (found != LABELS["defect"]) & inside
    return (bad.sum(1) / inside.sum(1).clamp_min(1)).float()
