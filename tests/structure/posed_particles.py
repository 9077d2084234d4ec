"""Particles with known poses and known faults, and noisy half maps of what they show."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.core import frequency_grid, generator_for, irfft2, matrix_to_euler, random_rotations, rfft2
from cryoprism.formats import Particles, read_particles, write_particles, write_stack
from cryoprism.microscope import Lens, odd_aberration_phase, project_volume
from cryoprism.particles import particle_transfer
from cryoprism.structure import MapReference, Match, match_particles

PIXEL = 1.5
BOX = 48
LENS = Lens()


def density(box: int = BOX, count: int = 80, seed: int = 0) -> Tensor:
    """Asymmetric density with detail up to Nyquist."""
    generator = torch.Generator().manual_seed(seed)
    places = (torch.rand(count, 3, generator=generator) - 0.5) * 0.5 * box
    volume = torch.zeros(box, box, box)
    axis = (torch.arange(box) - box // 2).float()
    for z, y, x in places.tolist():
        square = (axis - z)[:, None, None] ** 2 + (axis - y)[:, None] ** 2 + (axis - x) ** 2
        volume += torch.exp(-square / 1.2)
    return volume


def simulate(
    folder: Path,
    count: int,
    *,
    noise: float = 2.0,
    micrographs: int = 8,
    beam_tilt: tuple[float, float] = (0.0, 0.0),
    trefoil: tuple[float, float] = (0.0, 0.0),
    defocus_error: Tensor | None = None,
    envelope: Tensor | None = None,
    signal: float = 1.0,
    box: int = BOX,
    seed: int = 0,
) -> Particles:
    """Write and return a table whose defocus is the truth minus ``defocus_error`` (n, 3 as mean and astigmatism).

    ``noise`` is in standard deviations of the signal; ``envelope`` (micrographs, box, box // 2 + 1) multiplies the
    transforms; the table knows neither tilt nor trefoil nor envelope.
    """
    generator = generator_for(seed, "posed-particles")
    truth = density(box)
    rotations = random_rotations(count, generator)
    number = torch.arange(count) * micrographs // count
    mean = 9000 + 1200 * (number % 8).double() + 100 * torch.rand(count, generator=generator, dtype=torch.float64)
    half = torch.full_like(mean, 150.0)
    angle = 20.0 * (number % 8).double()
    error = torch.zeros(count, 3, dtype=torch.float64) if defocus_error is None else defocus_error
    cosine = half * torch.deg2rad(2 * angle).cos()
    sine = half * torch.deg2rad(2 * angle).sin()

    def table(mean: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        length = torch.hypot(cosine, sine)
        return torch.stack([mean + length, mean - length, torch.rad2deg(0.5 * torch.atan2(sine, cosine))], -1)

    particles = Particles(
        image_names=tuple(f"{i + 1:06d}@{folder}/particles.mrcs" for i in range(count)),
        micrograph_names=tuple(f"m{i:02d}.mrc" for i in number.tolist()),
        pixel_size_in_angstroms=torch.full((count,), PIXEL, dtype=torch.float64),
        voltage_in_kilovolts=torch.full((count,), LENS.voltage_in_kilovolts, dtype=torch.float64),
        spherical_aberration_in_millimeters=torch.full(
            (count,), LENS.spherical_aberration_in_millimeters, dtype=torch.float64
        ),
        amplitude_contrast=torch.full((count,), LENS.amplitude_contrast, dtype=torch.float64),
        angles_in_degrees=torch.stack(matrix_to_euler(rotations.double()), -1),
        origins_in_angstroms=PIXEL * (torch.rand(count, 2, generator=generator, dtype=torch.float64) * 4 - 2),
        defocus=table(mean, cosine, sine),
        source=str(folder / "particles.star"),
        image_size=torch.full((count,), box),
        half_set=number % 2 + 1,
        optics_group=torch.ones(count, dtype=torch.int64),
    )

    ky, kx = frequency_grid((box, box), 1.0)
    odd = odd_aberration_phase(
        ky / PIXEL,
        kx / PIXEL,
        LENS,
        beam_tilt_x_in_milliradians=beam_tilt[0],
        beam_tilt_y_in_milliradians=beam_tilt[1],
        trefoil_x=trefoil[0],
        trefoil_y=trefoil[1],
    )
    assert particles.origins_in_angstroms is not None
    shift = particles.origins_in_angstroms.float()[:, :, None, None] / PIXEL
    phase = 2 * math.pi * (kx * shift[:, 0] + ky * shift[:, 1]) - odd
    spectra = rfft2(project_volume(truth, rotations, 1.0, padding=3)) * particle_transfer(particles, (box, box))
    if envelope is not None:
        spectra = spectra * envelope[number]
    images = signal * irfft2(spectra * torch.polar(torch.ones_like(phase), phase), (box, box))
    level = noise * float(images.std()) if signal else 1.0
    images = images + level * torch.randn(images.shape, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    write_stack(folder / "particles.mrcs", images, PIXEL)
    told = replace(particles, defocus=table(mean - error[:, 0], cosine - error[:, 1], sine - error[:, 2]))
    write_particles(folder / "particles.star", told)
    return read_particles(folder / "particles.star")


def noisy_halves(noise: float = 0.03, box: int = BOX) -> tuple[Tensor, Tensor]:
    """The truth and independent noise."""
    truth = density(box)
    generator = torch.Generator().manual_seed(7)
    one, two = (truth + noise * torch.randn(truth.shape, generator=generator) for _ in range(2))
    return one, two


def matched(particles: Particles, noise: float = 0.03) -> Match:
    reference = MapReference.from_half_maps(*noisy_halves(noise), PIXEL)
    assert particles.half_set is not None
    return match_particles(particles, reference, particles.half_set)
