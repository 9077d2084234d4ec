"""Micrographs drawn straight from the pickers' own model, with the truth beside them."""

from __future__ import annotations

import torch
from torch import Tensor

from cryoprism.core import frequency_grid, generator_for, irfft2, random_rotations, rfft2
from cryoprism.formats import CtfRecord, Volume
from cryoprism.microscope import project_volume
from cryoprism.microscope.optics import Lens, contrast_transfer

LENS = Lens(voltage_in_kilovolts=300.0, spherical_aberration_in_millimeters=2.7, amplitude_contrast=0.1)
CTF = CtfRecord(17000.0, 16000.0, 25.0)


def lattice(shape: tuple[int, int], spacing: int, seed: int) -> Tensor:
    """Places (n, 2) x, y on a grid, each moved at random by up to a sixth of the spacing, none near the edge."""
    g = generator_for(seed, "lattice")
    ys, xs = (torch.arange(0.75 * spacing, n - 0.7 * spacing, spacing) for n in shape)
    grid = torch.cartesian_prod(ys, xs).flip(-1).double()
    return grid + (torch.rand(grid.shape, generator=g, dtype=torch.float64) - 0.5) * spacing / 3


def micrograph(
    volume: Volume, places: Tensor, shape: tuple[int, int], contrast: float, seed: int = 0, gradient: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Image (h, w) of a map in random orientations (n, 3, 3), which are returned too: dark, CTF, white noise of 1."""
    pixel = volume.voxel_size_in_angstroms
    turns = random_rotations(len(places), generator_for(seed, "turns"))
    views = project_volume(volume.data, turns, pixel)
    views = views / views.std()
    side = views.shape[-1]
    canvas = torch.zeros(shape)
    for view, (x, y) in zip(views, places.tolist(), strict=True):
        top, left = round(y) - side // 2, round(x) - side // 2
        canvas[top : top + side, left : left + side] += view
    ky, kx = frequency_grid(shape, pixel)
    ctf = contrast_transfer(
        ky,
        kx,
        LENS,
        defocus_u_in_angstroms=CTF.defocus_u_in_angstroms,
        defocus_v_in_angstroms=CTF.defocus_v_in_angstroms,
        defocus_angle_in_degrees=CTF.defocus_angle_in_degrees,
    )
    signal = irfft2(rfft2(canvas) * ctf, shape)
    noise = torch.randn(shape, generator=generator_for(seed, "noise"))
    slope = gradient * torch.linspace(-1, 1, shape[1])[None] if gradient else 0.0
    return 100.0 - contrast * signal + noise + slope, turns


def recovered(found: Tensor, truth: Tensor, reach: float) -> tuple[float, float]:
    """Precision and recall of centres within a reach [pixels]."""
    away = torch.cdist(found.double(), truth.double())
    if not away.numel():
        return 0.0, 0.0
    return float((away.amin(1) <= reach).double().mean()), float((away.amin(0) <= reach).double().mean())


def ball(side: int, radius: float) -> Tensor:
    """Even ball (side, side, side) with a soft edge."""
    axis = torch.arange(side) - side // 2
    r = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).float().sqrt()
    return torch.sigmoid((radius - r) / 0.5)
