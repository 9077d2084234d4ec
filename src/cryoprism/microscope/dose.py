"""Radiation damage: how exposure fades the signal, frequency by frequency, and the matching exposure filter.

Source: Grant & Grigorieff (2015), eLife 4, e06980. The critical exposure is that at 300 kV; at 200 kV it is 0.8 of it.
Exposures are in e/Å² at the specimen and are used as given, never rescaled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Literal

import torch
from torch import Generator, Tensor

from cryoprism.core import electron_wavelength_in_angstroms, irfft2, rfft2

from ._registry import Mechanism, Parameters
from ._tensors import Scalar, apply_transfer, grid_of, number, over_grid, uniform

__all__ = [
    "MECHANISMS",
    "critical_exposure",
    "damage_amplitude",
    "damage_envelope",
    "damage_frames",
    "exposure_weighted_sum",
    "exposure_weights",
    "voltage_factor",
]

_A, _B, _C = 0.24499, -1.6649, 2.8141


def _velocity_squared(voltage_in_kilovolts: float) -> float:
    # (v/c)² = 1 / (1 + (λ m c / h)²), with the Compton wavelength of the electron h / m c in Å.
    return 1.0 / (1.0 + (electron_wavelength_in_angstroms(voltage_in_kilovolts) / 0.0242631024) ** 2)


def voltage_factor(voltage_in_kilovolts: float) -> float:
    """Critical exposure relative to 300 kV: 1 at 300 kV and 0.8 at 200 kV (published figures).

    Other voltages follow (v/c)², to which the inelastic cross section is inverse: interpolated between the two figures
    and proportional outside (0.50 at 100 kV).
    """
    here, at_200, at_300 = (_velocity_squared(v) for v in (voltage_in_kilovolts, 200.0, 300.0))
    if here <= at_200:
        return 0.8 * here / at_200
    if here >= at_300:
        return here / at_300
    return 0.8 + 0.2 * (here - at_200) / (at_300 - at_200)


def critical_exposure(k: Tensor, voltage_in_kilovolts: float = 300.0) -> Tensor:
    """Critical exposure Ne(k) = 0.24499 k^-1.6649 + 2.8141 [e/Å²] at frequency ``k`` [1/Å], any shape.

    Frequencies below 1e-6 1/Å count as 1e-6, so that the value and its gradient stay finite at zero frequency.
    """
    at_300: Tensor = _A * k.clamp_min(1e-6) ** _B + _C
    return voltage_factor(voltage_in_kilovolts) * at_300


def damage_amplitude(k: Tensor, voltage_in_kilovolts: float, exposure: Scalar) -> Tensor:
    """Amplitude exp(-N / 2 Ne(k)) left after the accumulated exposure N [e/Å²], a scalar or a batch (b,)."""
    return torch.exp(-over_grid(exposure, k) / (2 * critical_exposure(k, voltage_in_kilovolts)))


def damage_envelope(k: Tensor, voltage_in_kilovolts: float, exposure_start: Scalar, exposure_end: Scalar) -> Tensor:
    """Mean amplitude of an unweighted sum of frames recorded between two accumulated exposures.

    ∫ exp(-N/2Ne) dN / (N2 - N1) = exp(-N1/2Ne) (1 - e^-x)/x with x = (N2 - N1)/2Ne; equal to
    :func:`damage_amplitude` where the interval is empty.

    Parameters
    ----------
    k
        Frequency [1/Å], (h, w) or broadcastable.
    voltage_in_kilovolts
        Acceleration voltage [kV].
    exposure_start, exposure_end
        Accumulated exposures N1 ≤ N2 [e/Å²]; scalars or batches (b,). N1 > 0 for a pre-exposed specimen.
    """
    start, end = over_grid(exposure_start, k), over_grid(exposure_end, k)
    scale = 0.5 / critical_exposure(k, voltage_in_kilovolts)
    x = (end - start) * scale
    small = x.abs() < 1e-3
    safe = torch.where(small, torch.ones_like(x), x)
    mean = torch.where(small, 1 - x / 2 + x * x / 6, -torch.expm1(-safe) / safe)
    return torch.exp(-start * scale) * mean


def _frame_envelopes(
    k: Tensor, voltage_in_kilovolts: float, exposure_per_frame: Scalar, frames: int, pre_exposure: Scalar
) -> Tensor:
    """Damage envelope of each frame, (t, h, w), or (b, t, h, w) for a batch of pre-exposures or exposures (b,)."""
    per_frame = torch.as_tensor(exposure_per_frame, dtype=k.dtype, device=k.device)
    per_frame = per_frame[..., None].expand(*per_frame.shape, frames)
    end = per_frame.cumsum(-1) + over_grid(pre_exposure, k, axes=1)
    return damage_envelope(k, voltage_in_kilovolts, end - per_frame, end)


def exposure_weights(
    k: Tensor,
    voltage_in_kilovolts: float,
    exposure_per_frame: Scalar,
    frames: int,
    *,
    pre_exposure: Scalar = 0.0,
) -> Tensor:
    """Weights (t, h, w) of the frames in a noise-normalised, exposure-weighted sum.

    w_t(k) = q_t √n / √(Σ q_t²) with q_t the mean amplitude during frame t (:func:`damage_envelope`): the weights that
    give the best signal-to-noise ratio for equal noise in every frame, scaled so that the noise spectrum of the sum is
    that of the plain sum of the n frames, and the mean is kept. (Grant & Grigorieff, eq. 9, up to the constant √n.)

    Parameters
    ----------
    k
        Frequency [1/Å].
    voltage_in_kilovolts
        Acceleration voltage [kV].
    exposure_per_frame
        Exposure of one frame [e/Å²], scalar or batch (b,).
    frames
        Number of frames n.
    pre_exposure
        Exposure before the first frame [e/Å²].
    """
    q = _frame_envelopes(k, voltage_in_kilovolts, exposure_per_frame, frames, pre_exposure)
    norm = q.square().sum(-3, keepdim=True).sqrt()
    return q * (math.sqrt(frames) / norm)


def exposure_weighted_sum(
    movie: Tensor,
    pixel_size_in_angstroms: float,
    voltage_in_kilovolts: float,
    exposure_per_frame: Scalar,
    *,
    pre_exposure: Scalar = 0.0,
) -> Tensor:
    """Sum the frames of ``movie`` (..., t, y, x) with :func:`exposure_weights`; returns (..., y, x)."""
    ky, kx = grid_of(movie, pixel_size_in_angstroms)
    k = torch.sqrt(ky * ky + kx * kx)
    weights = exposure_weights(k, voltage_in_kilovolts, exposure_per_frame, movie.shape[-3], pre_exposure=pre_exposure)
    return irfft2((rfft2(movie) * weights).sum(-3), (movie.shape[-2], movie.shape[-1]))


def damage_frames(
    movie: Tensor,
    pixel_size_in_angstroms: float,
    voltage_in_kilovolts: float,
    exposure_per_frame: Scalar,
    *,
    pre_exposure: Scalar = 0.0,
) -> Tensor:
    """Fade each frame of a noise-free ``movie`` (..., t, y, x) by the damage done up to and during it."""
    ky, kx = grid_of(movie, pixel_size_in_angstroms)
    k = torch.sqrt(ky * ky + kx * kx)
    return apply_transfer(
        movie, _frame_envelopes(k, voltage_in_kilovolts, exposure_per_frame, movie.shape[-3], pre_exposure)
    )


def _apply_damage_frames(movie: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    return damage_frames(
        movie,
        number(p, "pixel_size_in_angstroms"),
        number(p, "voltage_in_kilovolts"),
        p["exposure_per_frame_in_electrons_per_square_angstrom"],
        pre_exposure=p["pre_exposure_in_electrons_per_square_angstrom"],
    )


def _apply_damage(image: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    ky, kx = grid_of(image, number(p, "pixel_size_in_angstroms"))
    start = torch.as_tensor(p["pre_exposure_in_electrons_per_square_angstrom"], dtype=image.dtype, device=image.device)
    return apply_transfer(
        image,
        damage_envelope(
            torch.sqrt(ky * ky + kx * kx),
            number(p, "voltage_in_kilovolts"),
            start,
            start + p["exposure_in_electrons_per_square_angstrom"],
        ),
    )


_BEFORE = "pre_exposure_in_electrons_per_square_angstrom"


def _damage(
    name: str,
    apply: Callable[[Tensor, Parameters, Generator | None], Tensor],
    exposure: str,
    drawn: tuple[float, float],
    most: float,
    kind: Literal["image", "movie"],
) -> Mechanism:
    """Damage by an exposure that is called so, drawn from a range and at most ``most`` [e/Å²]."""
    return Mechanism(
        name=name,
        cause="radiation_damage",
        stage="dose",
        apply=apply,
        sample_parameters=lambda g: {
            "pixel_size_in_angstroms": 1.0,
            "voltage_in_kilovolts": 300.0,
            _BEFORE: uniform(g, 0, 2),
            exposure: uniform(g, *drawn),
        },
        ideal=MappingProxyType({_BEFORE: 0.0, exposure: 0.0}),
        bounds=MappingProxyType({_BEFORE: (0.0, 50.0), exposure: (0.0, most)}),
        units=MappingProxyType({_BEFORE: "e/Å²", exposure: "e/Å²"}),
        linear=True,
        random=False,
        differentiable=True,
        input_kind=kind,
        gradient_parameters=(exposure,),
    )


MECHANISMS = (
    _damage(
        "radiation_damage",
        _apply_damage,
        "exposure_in_electrons_per_square_angstrom",
        (20, 80),
        300.0,
        "image",
    ),
    _damage(
        "radiation_damage_of_frames",
        _apply_damage_frames,
        "exposure_per_frame_in_electrons_per_square_angstrom",
        (0.5, 4),
        20.0,
        "movie",
    ),
)
