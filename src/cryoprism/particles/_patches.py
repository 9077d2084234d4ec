"""Training patches from simulated fields: what real sessions add beyond the physics, and the target."""

from __future__ import annotations

import math
from dataclasses import replace

import scipy.ndimage
import torch
from torch import Tensor

from cryoprism.core import frequency_grid, irfft2, rfft2

from ._field import phase_randomised
from ._inputs import PIXELS_PER_DIAMETER, SPOT_WIDTH, Transfer, picker_channels, working_pixel
from ._training_fields import TrainingField

__all__ = ["centre_target", "draw_patch", "without_particles"]

_RANDOM_PHASES = 0.15  # of the patches come from a field without_particles
_SCALE_ERROR = (0.8, 1.28)  # how wrong a user's diameter may be


def centre_target(xy: Tensor, shape: tuple[int, int]) -> Tensor:
    """Map (h, w) in [0, 1] with a Gaussian spot of 0.1 diameters at each centre (n, 2), given in its pixels."""
    y = torch.arange(shape[0], dtype=torch.float32)[:, None]
    x = torch.arange(shape[1], dtype=torch.float32)[None, :]
    target = torch.zeros(shape)
    width = SPOT_WIDTH * PIXELS_PER_DIAMETER
    for cx, cy in xy.tolist():
        along_y, along_x = (torch.exp(-0.5 * (d / width).square()) for d in (y - cy, x - cx))
        target = torch.maximum(target, along_y * along_x)
    return target


def without_particles(field: TrainingField, generator: torch.Generator) -> TrainingField:
    """Return a field with the power of this one and no particle: every Fourier phase is drawn anew.

    What tells particles from such noise is their shape alone, so they are the hardest of empty micrographs. Artefacts,
    whose power would drown that of the particles, are filled with the mean of the rest before.
    """
    good = field.labels == 0
    level = field.image[good].mean() if bool(good.any()) else field.image.mean()
    flat = torch.where(good, field.image - level, 0.0)
    return replace(
        field,
        image=phase_randomised(flat, generator) + level,
        xy_in_pixels=field.xy_in_pixels[:0],
        labels=torch.zeros_like(field.labels),
    )


def draw_patch(field: TrainingField, generator: torch.Generator, side: int) -> tuple[Tensor, Tensor]:
    """Cut a patch out of a field, or out of its copy without particles, and disturb it.

    Parameters
    ----------
    field
        A simulated micrograph.
    generator
        Of every draw.
    side
        Pixels of the patch at the working scale.

    Returns
    -------
    channels
        (3, side, side), as from ``picker_channels``, for a diameter that is somewhat wrong.
    target
        (side, side) as from :func:`centre_target`.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    if uniform(0.0, 1.0) < _RANDOM_PHASES:
        field = without_particles(field, generator)
    low, high = _SCALE_ERROR
    error = low * (high / low) ** uniform(0.0, 1.0)
    diameter = field.diameter_in_angstroms * error
    ratio = working_pixel(diameter) / field.pixel_size_in_angstroms
    size = min(math.ceil((side - 1) * ratio) + 1, *field.image.shape)
    top, left = (int(uniform(0.0, 1.0) * (n - size + 1)) for n in field.image.shape)
    window = (slice(top, top + size), slice(left, left + size))
    labels = field.labels[window]
    image = _disturbed(
        field.image[window], labels, field.diameter_in_angstroms / field.pixel_size_in_angstroms, generator
    )
    transfer = _mistaken(field.transfer, generator) if uniform(0.0, 1.0) < 0.6 else None
    mask = _mistaken_mask(labels, generator) if uniform(0.0, 1.0) < 0.6 else None
    channels = picker_channels(
        image, field.pixel_size_in_angstroms, diameter_in_angstroms=diameter, transfer=transfer, mask=mask
    )[:, :side, :side]
    xy = (field.xy_in_pixels - torch.tensor([left, top])) / ratio
    near = ((xy > -6) & (xy < side + 6)).all(1)
    target = centre_target(xy[near], (side, side))
    missing = (0, side - channels.shape[2], 0, side - channels.shape[1])
    channels = torch.nn.functional.pad(channels, missing)
    turns, mirror = int(uniform(0.0, 4.0)), uniform(0.0, 1.0) < 0.5
    channels, target = torch.rot90(channels, turns, (1, 2)), torch.rot90(target, turns, (0, 1))
    if mirror:
        channels, target = channels.flip(-1), target.flip(-1)
    return channels.contiguous(), target.contiguous()


def _disturbed(image: Tensor, labels: Tensor, diameter: float, generator: torch.Generator) -> Tensor:
    """Image with blur, coloured noise, uneven illumination and contrast, and defects; ``diameter`` in its pixels."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    good = image[labels == 0] if bool((labels == 0).any()) else image.reshape(-1)
    image = (image - good.mean()) / good.std().clamp_min(1e-6)
    shape = (int(image.shape[0]), int(image.shape[1]))
    ky, kx = frequency_grid(shape, 1.0 / diameter)  # in cycles per diameter
    k = torch.sqrt(ky * ky + kx * kx)
    if uniform(0.0, 1.0) < 0.4:
        angle, long, short = uniform(0.0, math.pi), uniform(0.0, 0.08), uniform(0.0, 0.03)
        along, across = math.cos(angle) * kx + math.sin(angle) * ky, math.cos(angle) * ky - math.sin(angle) * kx
        blur = torch.exp(-2 * math.pi**2 * ((long * along) ** 2 + (short * across) ** 2))
        image = irfft2(rfft2(image) * blur, shape)
    if uniform(0.0, 1.0) < 0.6:
        slope, level = uniform(0.0, 1.6), uniform(0.0, 1.3) ** 2
        noise = torch.randn(shape, generator=generator)
        noise = irfft2(rfft2(noise) * (k + 0.3).pow(-slope), shape)
        image = image + level * noise / noise.std()
    if uniform(0.0, 1.0) < 0.5:
        waves = torch.randn(shape, generator=generator)
        waves = irfft2(rfft2(waves) * torch.exp(-((k / uniform(0.1, 0.35)) ** 2)), shape)
        waves = waves / waves.std().clamp_min(1e-6)
        image = image * (1 + uniform(0.0, 0.3) * waves.clamp(-2.5, 2.5)) + uniform(0.0, 1.5) * waves
    if uniform(0.0, 1.0) < 0.3:
        image = image.sign() * image.abs().pow(uniform(0.75, 1.3))
    if uniform(0.0, 1.0) < 0.15:
        image = image.clone()
        image[:, int(uniform(0, 1) * shape[1])] += uniform(-8.0, 8.0)
        spots = torch.randint(0, shape[0] * shape[1], (5,), generator=generator)
        image.view(-1)[spots] += uniform(-20.0, 20.0)
    return image


def _mistaken(transfer: Transfer, generator: torch.Generator) -> Transfer:
    """Give the CTF the errors of an estimate."""
    normal = torch.randn(3, generator=generator).tolist()
    factor = 1 + 0.03 * normal[0]
    return replace(
        transfer,
        defocus_u_in_angstroms=transfer.defocus_u_in_angstroms * factor + 100 * normal[1],
        defocus_v_in_angstroms=transfer.defocus_v_in_angstroms * factor - 100 * normal[1],
        defocus_angle_in_degrees=transfer.defocus_angle_in_degrees + 5 * normal[2],
    )


def _mistaken_mask(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Labels of artefacts with pieces missing, grown or shrunk, as an automatic mask has them."""
    pieces, count = scipy.ndimage.label((labels > 0).numpy())
    mask = torch.zeros_like(labels)
    for number in range(1, count + 1):
        draws = torch.rand(2, generator=generator).tolist()
        if draws[0] < 0.2:
            continue
        piece = pieces == number
        steps = int(7 * draws[1]) - 3
        if steps > 0:
            piece = scipy.ndimage.binary_dilation(piece, iterations=steps)
        elif steps < 0:
            piece = scipy.ndimage.binary_erosion(piece, iterations=-steps)
        mask[torch.from_numpy(piece)] = 2
    return mask
