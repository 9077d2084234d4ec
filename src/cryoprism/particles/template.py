"""Template picker: a matched filter for all views of a map, through the micrograph's own CTF and noise.

Model of the neighbourhood of a particle: image = −a · h ⊗ T_v + noise, with the CTF h, the projection T_v of view v,
an unknown contrast a > 0, and stationary noise of power P (Thon rings and neighbours included, since both are in the
way). The likelihood ratio against a = 0 is ½z², with the matched filter (North 1943; Turin 1960)

    z_v(x) = Σ_k conj(h T_v) I e^{2πikx} / P  /  √(Σ_k |h T_v|² / P),

which has mean 0 and standard deviation 1 where there is no particle. Divided by the local standard deviation of the
whitened image under the template it becomes a correlation that bright and dark regions share (Roseman 2003,
Ultramicroscopy 94, 225).

Speed. Projections of one map are much alike: r principal components of all views carry them. So only r images are
correlated by FFT, and every view's score is a linear combination of these r maps: one matrix product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import (
    InputError,
    fourier_crop,
    frequency_magnitude,
    irfft2,
    matrix_to_euler,
    orientation_grid,
    rfft2,
)
from cryoprism.formats import CtfRecord, Volume
from cryoprism.microscope import project_volume
from cryoprism.microscope.optics import Lens

from ._field import Field, MatchedFilter

__all__ = ["TemplateScore", "Templates", "score_templates", "templates_from_images", "templates_from_map"]

#: Share of the templates' energy that the principal components must carry.
_ENERGY = 0.995
#: Coarsest frequencies used, in diameters of the particle.
_COARSEST_IN_DIAMETERS = 2.0
_VIEWS_AT_ONCE = 512
#: Pixels whose scores of all views are made together: as many as stay in the cache.
_PIXELS_AT_ONCE = 192


@dataclass(frozen=True, eq=False)
class Templates:
    """All views of a particle as combinations of a few images.

    Attributes
    ----------
    basis
        (r, side, side) float32, particle bright, centre at side // 2.
    coefficients
        (views, r): view v is Σ_r coefficients[v, r] · basis[r].
    angles_in_degrees
        (views, 3) rot, tilt, psi of each view.
    pixel_size_in_angstroms
        Of the basis; micrographs are brought to nearly this.
    diameter_in_angstroms
        Of the particle.
    lowpass_in_angstroms
        Finest detail used.
    """

    basis: Tensor
    coefficients: Tensor
    angles_in_degrees: Tensor
    pixel_size_in_angstroms: float
    diameter_in_angstroms: float
    lowpass_in_angstroms: float


@dataclass(frozen=True, eq=False)
class TemplateScore:
    """Scores (h, w) in standard deviations of the noise, and the best view (h, w) at their maxima, −1 elsewhere."""

    values: Tensor
    views: Tensor
    pixel_size_in_angstroms: tuple[float, float]


def templates_from_map(
    volume: Volume,
    *,
    diameter_in_angstroms: float,
    symmetry: str = "C1",
    lowpass_in_angstroms: float = 20.0,
    healpix_order: int = 2,
) -> Templates:
    """Project a map in all directions.

    Parameters
    ----------
    volume
        Cubic map, protein bright, centred at voxel n // 2; scale and offset do not matter.
    diameter_in_angstroms
        A soft sphere of this diameter is cut out.
    symmetry
        Point group of the map; only one of each symmetric set of views is made.
    lowpass_in_angstroms
        Finest detail used. Coarse templates cannot bring detail into what is picked.
    healpix_order
        Views every 58.6° / 2ⁿ, in-plane angles every 60° / 2ⁿ.

    Raises
    ------
    InputError
        The map is no cube, a length is not positive, or the low-pass leaves nothing of the particle.
    """
    _check(diameter_in_angstroms, lowpass_in_angstroms)
    data = volume.data.float()
    if data.ndim != 3 or len(set(data.shape)) != 1:
        raise InputError("--reference", f"the map has shape {tuple(data.shape)}", "Give a cubic map.")
    coarse, pixel = _coarse_cube(data, volume.voxel_size_in_angstroms, diameter_in_angstroms, lowpass_in_angstroms)
    turns = orientation_grid(healpix_order, symmetry)
    images = torch.cat([project_volume(coarse, part, pixel) for part in torch.split(turns, _VIEWS_AT_ONCE)])
    angles = torch.stack(matrix_to_euler(turns.double()), -1)
    return _compressed(images, angles, pixel, diameter_in_angstroms, lowpass_in_angstroms)


def templates_from_images(
    images: Tensor,
    pixel_size_in_angstroms: float,
    *,
    diameter_in_angstroms: float,
    lowpass_in_angstroms: float = 20.0,
    healpix_order: int = 2,
) -> Templates:
    """Turn 2-D class averages in the plane.

    Parameters
    ----------
    images
        (classes, side, side), protein bright, centred at side // 2.
    pixel_size_in_angstroms
        Of the images.
    diameter_in_angstroms, lowpass_in_angstroms
        As in :func:`templates_from_map`.
    healpix_order
        In-plane angles every 60° / 2ⁿ.

    Returns
    -------
    Templates
        ``angles_in_degrees`` holds psi; rot is the number of the class, tilt 0.

    Raises
    ------
    InputError
        Images that are not square, or a length that is not positive.
    """
    _check(diameter_in_angstroms, lowpass_in_angstroms)
    if images.ndim != 3 or images.shape[-1] != images.shape[-2]:
        raise InputError("--reference", f"images of shape {tuple(images.shape)}", "Give square class averages.")
    count, side = len(images), int(images.shape[-1])
    target = _coarse_side(side * pixel_size_in_angstroms, pixel_size_in_angstroms, lowpass_in_angstroms)
    centred = torch.fft.ifftshift(images.float(), dim=(-2, -1))
    small = torch.fft.fftshift(_cropped_image(centred, target), dim=(-2, -1))
    pixel = pixel_size_in_angstroms * side / target
    axis = (torch.arange(target) - target // 2).float() * pixel
    radius = torch.sqrt(axis[:, None] ** 2 + axis**2)
    small = (small - small.mean((1, 2), keepdim=True)) * _soft_inside(radius, diameter_in_angstroms, pixel)
    psi = torch.arange(6 * 2**healpix_order, dtype=torch.float64) * 60.0 / 2**healpix_order
    angle = torch.deg2rad(psi).float()
    # Pixel of the turned image ↔ place in the class average: a view with psi is the class turned by −psi about z.
    x, y = axis.expand(target, -1), axis[:, None].expand(-1, target)
    c, s = angle.cos()[:, None, None], angle.sin()[:, None, None]
    place = torch.stack([c * x - s * y, s * x + c * y], -1) / pixel
    grid = (2 * (place + target // 2) + 1) / target - 1
    turned = torch.cat(
        [
            torch.nn.functional.grid_sample(
                image[None, None].expand(len(psi), -1, -1, -1), grid, mode="bicubic", align_corners=False
            )[:, 0]
            for image in small
        ]
    )
    number = torch.arange(count, dtype=torch.float64).repeat_interleave(len(psi))
    angles = torch.stack([number, torch.zeros_like(number), psi.repeat(count)], -1)
    return _compressed(turned, angles, pixel, diameter_in_angstroms, lowpass_in_angstroms)


def _check(diameter: float, lowpass: float) -> None:
    if not diameter > 0:
        raise InputError("--diameter", f"{diameter}", "Give the longest diameter of the particle in Å.")
    if not 0 < lowpass < 0.5 * diameter:
        raise InputError(
            "--initial-lowpass",
            f"{lowpass:g} Å leaves nothing of a particle of {diameter:g} Å",
            "Give at most half of the diameter.",
        )


def _coarse_side(extent: float, pixel: float, lowpass: float) -> int:
    """Pixels across an extent [Å] at a third of the low-pass, even, not finer than the original."""
    side = round(extent / max(pixel, lowpass / 3.0))
    return max(8, side - side % 2)


def _soft_inside(radius: Tensor, diameter: float, pixel: float) -> Tensor:
    edge = max(2.0 * pixel, 0.05 * diameter)
    return torch.sigmoid((0.5 * diameter + edge - radius) / (0.25 * edge))


def _coarse_cube(data: Tensor, voxel: float, diameter: float, lowpass: float) -> tuple[Tensor, float]:
    """Sphere around the centre in a box of about 1.5 diameters, at about a third of the low-pass per voxel."""
    wanted = math.ceil(1.5 * diameter / voxel)
    side = wanted + wanted % 2
    old = data.shape[0]
    if old > side:
        start = old // 2 - side // 2
        data = data[start : start + side, start : start + side, start : start + side]
    elif old < side:
        before = side // 2 - old // 2
        data = torch.nn.functional.pad(data, (before, side - old - before) * 3)
    axis = (torch.arange(side) - side // 2).float() * voxel
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    data = data * _soft_inside(radius, diameter, voxel)
    if not float(data.abs().max()) > 0:
        raise InputError("--reference", "the map is empty within the diameter", "Give a centred map, or its diameter.")
    small = _coarse_side(side * voxel, voxel, lowpass)
    # The centre stands at pixel 0 while the transform is cut, so that it stays one in the smaller box.
    spectrum = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(data)))
    start = side // 2 - small // 2
    cut = spectrum[start : start + small, start : start + small, start : start + small]
    cube = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(cut)).real) * (small / side) ** 3
    return cube.contiguous(), voxel * side / small


def _cropped_image(images: Tensor, side: int) -> Tensor:
    return fourier_crop(images, (side, side)) if side < images.shape[-1] else images.clone()


def _compressed(images: Tensor, angles: Tensor, pixel: float, diameter: float, lowpass: float) -> Templates:
    """Principal components of low-passed views: as many as carry the energy."""
    side = int(images.shape[-1])
    k = frequency_magnitude((side, side), pixel)
    band = torch.sigmoid((1.0 / lowpass - k) / (0.05 / lowpass)) * (k > 0.5 / (_COARSEST_IN_DIAMETERS * diameter))
    flat = irfft2(rfft2(images) * band, (side, side)).reshape(len(images), -1)
    energy = flat.square().sum(1, keepdim=True).sqrt()
    if not float(energy.min()) > 0:
        raise InputError("--reference", "a view of it is empty", "Give a map with the particle in its centre.")
    flat = flat / energy
    # The smaller of the two Gram matrices.
    if len(flat) < flat.shape[1]:
        values, vectors = torch.linalg.eigh((flat @ flat.T).double())
        vectors = flat.T.double() @ vectors / values.clamp_min(1e-12).sqrt()
    else:
        values, vectors = torch.linalg.eigh((flat.T @ flat).double())
    carried = values.flip(0).cumsum(0) / values.sum()
    rank = min(int((carried < _ENERGY).sum()) + 1, len(values))
    basis = vectors[:, -rank:].flip(1).T.float()
    return Templates(
        basis.reshape(rank, side, side).contiguous(),
        (flat @ basis.T).contiguous(),
        angles,
        pixel,
        diameter,
        lowpass,
    )


def score_templates(
    field: Field, templates: Templates, *, lens: Lens | None = None, ctf: CtfRecord | None = None
) -> TemplateScore:
    """Best matched-filter score over all views at every pixel of a field.

    Parameters
    ----------
    field
        From ``prepare_field`` at the templates' pixel size.
    templates
        Views of the particle.
    lens, ctf
        Optics and CTF of the micrograph; without them the templates are taken as they are.
    """
    side = int(templates.basis.shape[-1])
    filters = MatchedFilter(
        field,
        side,
        templates.lowpass_in_angstroms,
        _COARSEST_IN_DIAMETERS * templates.diameter_in_angstroms,
        lens,
        ctf,
    )
    padded = torch.zeros(len(templates.basis), *filters.shape)
    padded[:, :side, :side] = templates.basis
    kernels = rfft2(torch.roll(padded, (-(side // 2), -(side // 2)), (1, 2)))
    norm = ((templates.coefficients @ filters.gram(kernels)) * templates.coefficients).sum(1).clamp_min(1e-20).sqrt()
    weights = templates.coefficients / norm[:, None]
    maps = filters.correlate(kernels)
    height, width = field.image.shape
    flat = maps.reshape(len(maps), -1)
    views = weights.T.contiguous()
    best = torch.cat([(part.T @ views).amax(1) for part in torch.split(flat, _PIXELS_AT_ONCE, dim=1)])
    values = best.reshape(height, width) / filters.local_deviation(0.5 * templates.diameter_in_angstroms)
    around = torch.nn.functional.max_pool2d(values[None, None], 3, stride=1, padding=1)[0, 0]
    peaks = torch.nonzero((values == around).flatten())[:, 0]
    which = torch.full((flat.shape[1],), -1, dtype=torch.int32)
    for part in torch.split(peaks, _PIXELS_AT_ONCE):
        which[part] = (flat[:, part].T @ views).argmax(1).int()
    return TemplateScore(values, which.reshape(height, width), field.pixel_size_in_angstroms)
