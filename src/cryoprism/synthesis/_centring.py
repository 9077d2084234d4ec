"""Centres of particles near given places and their mean, found the same way on real and synthetic micrographs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cryoprism.core import frequency_grid, generator_for, irfft2, random_rotations, rfft2
from cryoprism.microscope.optics import contrast_transfer

from .noise import spectrum_on
from .scene import Scene
from .specimen import Specimen, project_specimen

__all__ = ["FINEST_OF_MEAN", "Centring", "share_of"]

FINEST_OF_MEAN = 20.0  # [Å] the mean of unaligned particles holds nothing finer
_REACH_IN_ANGSTROMS = 25.0  # a pick may be this far from its particle


class Centring:
    """Finds the centres of particles near given places, and their mean, the same way on real and synthetic images."""

    def __init__(self, scene: Scene, specimen: Specimen, power: Tensor, seed: int) -> None:
        shape, pixel = scene.shape, scene.pixel_size_in_angstroms
        self.scene, self.pixel = scene, pixel
        self.half = 2 * math.ceil(0.75 * specimen.radius_in_angstroms / pixel)
        views = project_specimen(
            specimen,
            random_rotations(64, generator_for(seed, "views")),
            pixel,
            scene.specimen_b_factor_in_square_angstroms,
        ).mean(0)
        canvas = torch.zeros(shape)
        side = min(views.shape[-1], *shape)
        crop = (views.shape[-1] - side) // 2
        top, left = shape[0] // 2 - side // 2, shape[1] // 2 - side // 2
        canvas[top : top + side, left : left + side] = views[crop : crop + side, crop : crop + side]
        ky, kx = frequency_grid(shape, pixel)
        k = torch.sqrt(ky * ky + kx * kx)
        transfer = contrast_transfer(ky, kx, scene.lens, **scene.aberrations())
        band = (k > 0.2 / specimen.radius_in_angstroms) & (k < 1 / FINEST_OF_MEAN)
        whitened = band / spectrum_on(power, shape).clamp_min(1e-30)
        self.kernel = rfft2(torch.fft.ifftshift(canvas)).conj() * transfer * whitened
        self.reach = math.ceil(_REACH_IN_ANGSTROMS / pixel)

    def centres(self, image: Tensor, xy: Tensor) -> Tensor:
        """Best places (n, 2) [px] within reach of ``xy``; particles are dark, so the correlation is a minimum."""
        score = -irfft2(rfft2(image - image.mean()) * self.kernel, self.scene.shape)
        found = []
        for x, y in xy.round().long().tolist():
            top, left = max(0, y - self.reach), max(0, x - self.reach)
            part = score[top : y + self.reach + 1, left : x + self.reach + 1]
            if part.numel():
                best = int(part.argmax())
                found.append([left + best % part.shape[1], top + best // part.shape[1]])
        return torch.tensor(found, dtype=torch.float64).reshape(-1, 2)

    def mean(self, image: Tensor, xy: Tensor) -> Tensor:
        """Mean box (side, side) around whole-pixel places that lie inside the field."""
        h = self.half
        parts = [
            image[y - h : y + h, x - h : x + h]
            for x, y in xy.round().long().tolist()
            if h <= x <= image.shape[1] - h and h <= y <= image.shape[0] - h
        ]
        if not parts:
            return torch.zeros(2 * h, 2 * h)
        box = torch.stack(parts).mean(0)
        return box - box.mean()


def share_of(mean: Tensor, model: Tensor, pixel: float, coarse: float, fine: float) -> tuple[float, float]:
    """Regression of one mean particle on another within a band [Å], and their correlation there."""
    n = mean.shape[0]
    ky, kx = frequency_grid((n, n), pixel)
    k = torch.sqrt(ky * ky + kx * kx)
    band = (k > 1 / coarse) & (k < 1 / fine)
    a, b = rfft2(mean)[band], rfft2(model)[band]
    cross = float((a * b.conj()).real.sum())
    own = float(b.abs().square().sum())
    return cross / max(own, 1e-30), cross / math.sqrt(max(own * float(a.abs().square().sum()), 1e-30))
