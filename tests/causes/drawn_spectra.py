"""Spectra and images whose causes are known exactly: drawn from the spectral model, or coloured by the optics alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cryoprism.causes import Estimate, Spectrum, estimate_causes, measure_spectrum
from cryoprism.causes.model import LAYOUT, SpectralModel
from cryoprism.microscope.motion import drift_envelope
from cryoprism.microscope.optics import Lens, contrast_transfer

LENS = Lens()
PIXEL = 1.5


def white(shape: tuple[int, int], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@lru_cache(maxsize=4)
def blank(size: int = 512, pixel: float = PIXEL) -> Spectrum:
    """Spectrum of white noise: grid, freedom and shape for drawn spectra."""
    return measure_spectrum(white((size, size), 0), pixel)


def model_of(spectrum: Spectrum, **known: Tensor) -> SpectralModel:
    return SpectralModel(spectrum.grid, LENS, known, 40.0, 0.0)


def parameters(**values: float) -> Tensor:
    """θ of a clear micrograph: 15 000 Å of defocus, signal and noise alike at 10 Å, hardly any ice."""
    theta = torch.zeros(LAYOUT.size)
    defaults = {"defocus": 150.0, "b_factor": 4.0, "ice_level": -8.0, "ice_blur": 3.0}
    theta[LAYOUT.signal] = values.pop("signal", 1.0)
    for name, value in (defaults | values).items():
        theta[LAYOUT.index(name)] = value
    return theta


def gamma(shape: tuple[int, ...], freedom: Tensor, seed: int) -> Tensor:
    """Mean of ``freedom`` squared complex normal numbers of mean power one."""
    order = freedom.double().clamp_min(1e-6).expand(shape).numpy()
    return torch.from_numpy(np.random.default_rng(seed).gamma(order) / order).float()


def drawn(model: SpectralModel, theta: Tensor, base: Spectrum, seed: int, scale: float = 1.0) -> Spectrum:
    """Spectrum drawn from the model: power, and its halves, whose mean it is."""
    expected = model.log_power(theta, model.damping(theta)).exp() * scale
    halves = expected * gamma((2, *expected.shape), base.freedom / 2, seed)
    regions = expected * gamma((3, 3, *expected.shape), base.freedom / 9, seed + 10_000)
    return replace(base, power=halves.mean(0), halves=halves, regions=regions)


def estimate_of(theta: Tensor, seed: int, size: int = 512, **options: object) -> Estimate:
    base = blank(size)
    return estimate_causes(drawn(model_of(base), theta, base, seed), LENS, **options)  # type: ignore[arg-type]


def coloured(noise: Tensor, power: Callable[[Tensor, Tensor], Tensor], pixel: float = PIXEL) -> Tensor:
    """Gaussian image whose periodogram has the mean power(ky, kx)."""
    ky = torch.fft.fftfreq(noise.shape[0], pixel)[:, None]
    kx = torch.fft.rfftfreq(noise.shape[1], pixel)[None, :]
    return torch.fft.irfft2(torch.fft.rfft2(noise) * power(ky, kx).sqrt(), s=noise.shape)


def micrograph(
    seed: int,
    *,
    defocus: float | tuple[float, float, float] = 15000.0,
    phase_shift: float = 0.0,
    drift: tuple[float, float] = (0.0, 0.0),
    b_factor: float = 60.0,
    signal: float = 8.0,
    size: tuple[int, int] = (768, 768),
    pixel: float = PIXEL,
    grey: float = 1.0,
) -> Tensor:
    """Coloured image, written with the optics alone: signal · drift² · e^{-Bk²/2} · CTF² + 1."""
    u, v, angle = defocus if isinstance(defocus, tuple) else (defocus, defocus, 0.0)

    def power(ky: Tensor, kx: Tensor) -> Tensor:
        ctf = contrast_transfer(
            ky,
            kx,
            LENS,
            defocus_u_in_angstroms=u,
            defocus_v_in_angstroms=v,
            defocus_angle_in_degrees=angle,
            phase_shift_in_degrees=phase_shift,
        )
        blur = torch.exp(-0.5 * b_factor * (ky**2 + kx**2)) * drift_envelope(ky, kx, *drift) ** 2
        return signal * blur * ctf**2 + 1

    return grey * coloured(white(size, seed), power, pixel)


def angle_between(a: float, b: float) -> float:
    """Distance of two axes [degrees]."""
    return abs((a - b + 90) % 180 - 90)


def axis_vector(length: float, degrees: float) -> tuple[float, float]:
    """(y, x) of a vector ``degrees`` from x towards +y."""
    return length * math.sin(math.radians(degrees)), length * math.cos(math.radians(degrees))
