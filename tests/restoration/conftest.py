"""A fitted model made from the lens alone, and images drawn from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from cryoprism.core import irfft2, rfft2
from cryoprism.microscope.optics import Lens, contrast_transfer


@dataclass(frozen=True)
class FakeModel:
    """CTF with a Gaussian envelope, a falling signal spectrum and nearly white noise."""

    pixel_size_in_angstroms: float = 1.5
    defocus_u_in_angstroms: float = 16000.0
    defocus_v_in_angstroms: float = 15000.0
    defocus_angle_in_degrees: float = 30.0
    b_factor: float = 60.0
    signal: float = 40.0
    noise: float = 1.0
    slope: tuple[float, float] = (0.0, 0.0)
    transmission: float = 1.0

    def transfer(self, ky: Tensor, kx: Tensor) -> Tensor:
        k2 = ky * ky + kx * kx
        ctf = contrast_transfer(
            ky,
            kx,
            Lens(),
            defocus_u_in_angstroms=self.defocus_u_in_angstroms,
            defocus_v_in_angstroms=self.defocus_v_in_angstroms,
            defocus_angle_in_degrees=self.defocus_angle_in_degrees,
        )
        return ctf * torch.exp(-self.b_factor / 4 * k2) * math.sqrt(self.transmission)

    def signal_power(self, ky: Tensor, kx: Tensor) -> Tensor:
        return self.signal * torch.exp(-60.0 * (ky * ky + kx * kx))

    def noise_power(self, ky: Tensor, kx: Tensor) -> Tensor:
        return self.noise * (0.7 + 0.3 * torch.exp(-10.0 * (ky * ky + kx * kx)))

    def local_defocus_plane(self) -> tuple[float, float, float]:
        return (self.defocus_u_in_angstroms, *self.slope)

    def with_defocus_offset(self, offset_in_angstroms: float) -> FakeModel:
        return replace(
            self,
            defocus_u_in_angstroms=self.defocus_u_in_angstroms + offset_in_angstroms,
            defocus_v_in_angstroms=self.defocus_v_in_angstroms + offset_in_angstroms,
        )


def grids(shape: tuple[int, int], pixel: float) -> tuple[Tensor, Tensor]:
    return torch.fft.fftfreq(shape[0], pixel)[:, None], torch.fft.rfftfreq(shape[1], pixel)[None, :]


def draw(model: FakeModel, shape: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Specimen signal and image with exactly the spectra of the model."""
    generator = torch.Generator().manual_seed(seed)
    ky, kx = grids(shape, model.pixel_size_in_angstroms)
    white = [rfft2(torch.randn(shape, generator=generator)) for _ in range(2)]
    specimen = white[0] * model.signal_power(ky, kx).sqrt()
    image = specimen * model.transfer(ky, kx) + white[1] * model.noise_power(ky, kx).sqrt()
    return irfft2(specimen, shape), irfft2(image, shape)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)
