"""Segments of a simulated filament: blobs on a helix, projected in the plane without any volume or Fourier slice."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import euler_to_matrix, frequency_grid, generator_for, irfft2, rfft2
from cryoprism.microscope import Lens, contrast_transfer
from cryoprism.structure import HelicalSymmetry

PIXEL, BOX = 3.0, 40
HELIX = HelicalSymmetry(13.0, 47.0)
# Radius [Å], turn [degrees], height [Å], weight of the blobs of a unit.
_UNIT = ((22.0, 0.0, 0.0, 1.0), (12.0, 35.0, 3.0, 0.7), (25.0, 28.0, 5.0, 0.8), (6.0, 150.0, -2.0, 0.5))
_WIDTH = 3.6


def points(half_length_in_angstroms: float) -> tuple[Tensor, Tensor]:
    """Blobs (m, 3) = x, y, z [Å] and weights (m,) along the axis."""
    most = math.ceil(half_length_in_angstroms / HELIX.rise_in_angstroms)
    places, weights = [], []
    for unit in range(-most, most + 1):
        for radius, turn, lift, weight in _UNIT:
            angle = math.radians(unit * HELIX.twist_in_degrees + turn)
            z = unit * HELIX.rise_in_angstroms + lift
            places.append((radius * math.cos(angle), radius * math.sin(angle), z))
            weights.append(weight)
    return torch.tensor(places), torch.tensor(weights)


def truth(box: int = BOX) -> Tensor:
    """Map (box, box, box) of the filament, as long as the box."""
    axis = (torch.arange(box) - box // 2).float() * PIXEL
    volume = torch.zeros(box, box, box)
    for (x, y, z), weight in zip(*(t.tolist() for t in points(box * PIXEL)), strict=True):
        square = (axis - z)[:, None, None] ** 2 + (axis - y)[:, None] ** 2 + (axis - x) ** 2
        volume += weight * torch.exp(-square / (2 * _WIDTH**2))
    return volume


@dataclass(frozen=True)
class Segments:
    """What was simulated: images (n, box, box), their CTF and what is true of them."""

    images: Tensor
    transfer: Tensor
    defocus: Tensor
    angles: Tensor
    rotations: Tensor
    shifts: Tensor
    psi_prior: Tensor
    filament: Tensor


def segments(count: int, ratio: float, seed: int = 0, per_filament: int = 10) -> Segments:
    """Segments of straight filaments in the plane, tilted a little, each filament with a psi of its own.

    ``shifts`` [pixels] bring a segment to the centre; along the axis they stay within half a rise, across it they are
    about a pixel. The prior of psi is off by about 5° and of either polarity.
    """
    generator = generator_for(seed, "filaments")

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    filament = torch.arange(count) // per_filament
    number = int(filament.max()) + 1
    psi = (360 * torch.rand(number, generator=generator, dtype=torch.float64))[filament] + 1.5 * normal(count)
    tilt = 90 + 5 * normal(count)
    rot = 360 * torch.rand(count, generator=generator, dtype=torch.float64)
    angles = torch.stack([rot, tilt, psi], -1)
    rotations = euler_to_matrix(rot, tilt, psi).float()
    axis = torch.nn.functional.normalize(rotations[:, :2, 2], dim=1)
    along = (torch.rand(count, 1, generator=generator) - 0.5) * HELIX.rise_in_angstroms / PIXEL
    across = normal(count, 1).float()
    shifts = along * axis + across * torch.stack([-axis[:, 1], axis[:, 0]], -1)
    places, weights = points(0.8 * BOX * PIXEL)
    centres = (places @ rotations.transpose(1, 2))[..., :2] / PIXEL - shifts[:, None]
    grid = (torch.arange(BOX) - BOX // 2).float()
    width = _WIDTH / PIXEL
    in_x = torch.exp(-0.5 * ((grid - centres[..., :1]) / width) ** 2)
    in_y = torch.exp(-0.5 * ((grid - centres[..., 1:]) / width) ** 2)
    images = torch.einsum("nmy,nmx,m->nyx", in_y, in_x, weights)
    defocus = 9000 + 9000 * torch.rand(count, generator=generator)
    ky, kx = frequency_grid((BOX, BOX), PIXEL)
    transfer = contrast_transfer(ky, kx, Lens(), defocus_u_in_angstroms=defocus, defocus_v_in_angstroms=defocus)
    images = irfft2(rfft2(images) * transfer, (BOX, BOX))
    images = images / images.std()
    images = images + math.sqrt(1 / ratio) * torch.randn(images.shape, generator=generator)
    flip = 180.0 * torch.randint(2, (number,), generator=generator)[filament]
    return Segments(images, transfer, defocus, angles, rotations, shifts, psi + 5 * normal(count) + flip, filament)
