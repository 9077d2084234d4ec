"""Contrast transfer of particles, from what their table says of each: defocus, phase shift, B-factor and scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cryoprism.core import InputError, frequency_grid
from cryoprism.formats import Particles
from cryoprism.microscope.optics import Lens, contrast_transfer

__all__ = ["particle_transfer", "transfer_at"]


def particle_transfer(
    particles: Particles,
    shape: tuple[int, int],
    indices: Sequence[int] | Tensor | None = None,
    *,
    damping: bool = True,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Contrast transfer of particles on the half grid of an ``rfft2`` of their images.

    Parameters
    ----------
    particles
        With defocus; images of ``pixel_size_in_angstroms``.
    shape
        (height, width) of an image.
    indices
        Which particles (positions or a boolean mask); all if absent.
    damping
        Whether the scale and B-factor of the table multiply it: scale · exp(-B k²/4), as in RELION.
    device
        Where the result is made.

    Returns
    -------
    Tensor
        (n, height, width // 2 + 1) float32; +amplitude contrast at zero frequency (times the scale). Beam tilt, which
        is a phase, is not in it.

    Raises
    ------
    InputError
        The table has no defocus.
    """
    ky, kx = frequency_grid(shape, 1.0, device=device)
    return transfer_at(particles, ky, kx, indices, damping=damping)


def transfer_at(
    particles: Particles,
    ky_per_pixel: Tensor,
    kx_per_pixel: Tensor,
    indices: Sequence[int] | Tensor | None = None,
    *,
    damping: bool = True,
) -> Tensor:
    """Contrast transfer of particles at any frequencies, for example packed ones as (1, m).

    Parameters
    ----------
    particles, indices, damping
        As in :func:`particle_transfer`.
    ky_per_pixel, kx_per_pixel
        Frequencies [cycles per pixel of the particle images], two-dimensional, that broadcast to (h, w).

    Returns
    -------
    Tensor
        (n, h, w) in the type and on the device of the frequencies.
    """
    if particles.defocus is None:
        raise InputError(
            particles.source or "particles",
            "gives no defocus (rlnDefocusU, rlnDefocusV, rlnDefocusAngle)",
            "Estimate the CTF of the micrographs first ('cryoprism restore') and extract from its micrographs.star.",
        )
    chosen = torch.arange(len(particles)) if indices is None else torch.as_tensor(indices)
    chosen = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen.long()
    defocus = particles.defocus[chosen]
    phase = _or(particles.phase_shift_in_degrees, chosen, 0.0)
    optics = torch.stack(
        [
            particles.voltage_in_kilovolts[chosen],
            particles.spherical_aberration_in_millimeters[chosen],
            particles.amplitude_contrast[chosen],
            particles.pixel_size_in_angstroms[chosen],
        ],
        dim=1,
    )
    distinct, group = torch.unique(optics, dim=0, return_inverse=True)
    parts = [
        _of_one_lens(row, ky_per_pixel, kx_per_pixel, defocus[group == number], phase[group == number])
        for number, row in enumerate(distinct.tolist())
    ]
    if not parts:
        return ky_per_pixel.new_zeros(0, *(ky_per_pixel + kx_per_pixel).shape)
    transfer = torch.cat(parts)
    if len(parts) > 1:
        # Back from the order of the groups to that of the table.
        transfer = transfer[torch.argsort(torch.argsort(group, stable=True)).to(transfer.device)]
    scale, b_factor = particles.ctf_scale, particles.ctf_b_factor_in_square_angstroms
    if damping and b_factor is not None and bool((b_factor[chosen] != 0).any()):
        b_per_pixel = b_factor[chosen] / optics[:, 3] ** 2
        square = kx_per_pixel * kx_per_pixel + ky_per_pixel * ky_per_pixel
        transfer *= torch.exp(-0.25 * b_per_pixel.to(square)[:, None, None] * square)
    if damping and scale is not None:
        transfer *= scale[chosen].to(transfer)[:, None, None]
    return transfer


def _or(values: Tensor | None, chosen: Tensor, default: float) -> Tensor:
    return torch.full((chosen.numel(),), default, dtype=torch.float64) if values is None else values[chosen]


def _of_one_lens(optics: list[float], ky: Tensor, kx: Tensor, defocus: Tensor, phase: Tensor) -> Tensor:
    voltage, aberration, contrast, pixel = optics
    lens = Lens(
        voltage_in_kilovolts=voltage, spherical_aberration_in_millimeters=aberration, amplitude_contrast=contrast
    )
    return contrast_transfer(
        ky / pixel,
        kx / pixel,
        lens,
        defocus_u_in_angstroms=defocus[:, 0],
        defocus_v_in_angstroms=defocus[:, 1],
        defocus_angle_in_degrees=defocus[:, 2],
        phase_shift_in_degrees=phase,
    )
