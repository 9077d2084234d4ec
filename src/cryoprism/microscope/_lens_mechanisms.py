"""The objective lens as operators on images and waves, built from the transfer functions of ``optics``."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Generator, Tensor

from ._registry import Mechanism, Parameters
from ._tensors import apply_transfer, grid_of, number, uniform
from .optics import (
    Lens,
    contrast_transfer,
    directional_spatial_coherence_envelope,
    odd_aberration_phase,
    temporal_coherence_envelope,
    wave_transfer,
)

__all__ = ["MECHANISMS"]

_EVEN = (
    "defocus_u_in_angstroms",
    "defocus_v_in_angstroms",
    "defocus_angle_in_degrees",
    "phase_shift_in_degrees",
)
_ODD = ("beam_tilt_x_in_milliradians", "beam_tilt_y_in_milliradians", "trefoil_x", "trefoil_y")
_COHERENCE = ("semi_angle_in_milliradians", "focal_spread_in_angstroms")

_BOUNDS = MappingProxyType(
    {
        "voltage_in_kilovolts": (60.0, 1000.0),
        "spherical_aberration_in_millimeters": (0.0, 10.0),
        "amplitude_contrast": (0.0, 1.0),
        "defocus_u_in_angstroms": (-100000.0, 100000.0),
        "defocus_v_in_angstroms": (-100000.0, 100000.0),
        "defocus_angle_in_degrees": (-180.0, 180.0),
        "phase_shift_in_degrees": (-180.0, 180.0),
        "beam_tilt_x_in_milliradians": (-10.0, 10.0),
        "beam_tilt_y_in_milliradians": (-10.0, 10.0),
        "trefoil_x": (-1000.0, 1000.0),
        "trefoil_y": (-1000.0, 1000.0),
        "tetrafoil_x": (-2000.0, 2000.0),
        "tetrafoil_y": (-2000.0, 2000.0),
        "semi_angle_in_milliradians": (0.0, 1.0),
        "focal_spread_in_angstroms": (0.0, 500.0),
    }
)
_UNITS = MappingProxyType(
    {
        "voltage_in_kilovolts": "kV",
        "spherical_aberration_in_millimeters": "mm",
        "amplitude_contrast": "1",
        "defocus_u_in_angstroms": "Å",
        "defocus_v_in_angstroms": "Å",
        "defocus_angle_in_degrees": "°",
        "phase_shift_in_degrees": "°",
        "beam_tilt_x_in_milliradians": "mrad",
        "beam_tilt_y_in_milliradians": "mrad",
        "trefoil_x": "rad Å³",
        "trefoil_y": "rad Å³",
        "tetrafoil_x": "rad Å⁴",
        "tetrafoil_y": "rad Å⁴",
        "semi_angle_in_milliradians": "mrad",
        "focal_spread_in_angstroms": "Å",
    }
)


def _lens(p: Parameters) -> Lens:
    return Lens(
        voltage_in_kilovolts=number(p, "voltage_in_kilovolts"),
        spherical_aberration_in_millimeters=number(p, "spherical_aberration_in_millimeters"),
        amplitude_contrast=number(p, "amplitude_contrast", 0.0),
    )


def _apply_contrast_transfer(image: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    ky, kx = grid_of(image, number(p, "pixel_size_in_angstroms"))
    return apply_transfer(image, contrast_transfer(ky, kx, _lens(p), **{name: p[name] for name in _EVEN}))


def _apply_odd_aberrations(image: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    ky, kx = grid_of(image, number(p, "pixel_size_in_angstroms"))
    phase = odd_aberration_phase(ky, kx, _lens(p), **{name: p[name] for name in _ODD})
    return apply_transfer(image, torch.exp(-1j * phase))


def _apply_partial_coherence(image: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    ky, kx = grid_of(image, number(p, "pixel_size_in_angstroms"))
    lens = _lens(p)
    spatial = directional_spatial_coherence_envelope(
        ky,
        kx,
        lens,
        semi_angle_in_milliradians=p["semi_angle_in_milliradians"],
        defocus_u_in_angstroms=p["defocus_u_in_angstroms"],
        defocus_v_in_angstroms=p["defocus_v_in_angstroms"],
        defocus_angle_in_degrees=p["defocus_angle_in_degrees"],
    )
    temporal = temporal_coherence_envelope(
        torch.sqrt(ky * ky + kx * kx), lens, focal_spread_in_angstroms=p["focal_spread_in_angstroms"]
    )
    return apply_transfer(image, spatial * temporal)


def _apply_wave_transfer(wave: Tensor, p: Parameters, generator: Generator | None) -> Tensor:
    pixel = number(p, "pixel_size_in_angstroms")
    real = wave.real.dtype
    ky = torch.fft.fftfreq(wave.shape[-2], d=pixel, device=wave.device, dtype=real)[:, None]
    kx = torch.fft.fftfreq(wave.shape[-1], d=pixel, device=wave.device, dtype=real)[None, :]
    names = (*_EVEN, *_ODD, "tetrafoil_x", "tetrafoil_y", *_COHERENCE)
    transfer = wave_transfer(ky, kx, _lens(p), **{name: p[name] for name in names})
    out: Tensor = torch.fft.ifft2(torch.fft.fft2(wave) * transfer)
    return out


def _sample_even(g: Generator) -> dict[str, float]:
    defocus = uniform(g, 5000, 25000)
    return {
        "pixel_size_in_angstroms": 1.0,
        "voltage_in_kilovolts": 300.0,
        "spherical_aberration_in_millimeters": 2.7,
        "amplitude_contrast": 0.1,
        "defocus_u_in_angstroms": defocus + uniform(g, 0, 500),
        "defocus_v_in_angstroms": defocus - uniform(g, 0, 500),
        "defocus_angle_in_degrees": uniform(g, -90, 90),
        "phase_shift_in_degrees": 0.0,
    }


def _sample_odd(g: Generator) -> dict[str, float]:
    return {
        "pixel_size_in_angstroms": 1.0,
        "voltage_in_kilovolts": 300.0,
        "spherical_aberration_in_millimeters": 2.7,
        "beam_tilt_x_in_milliradians": uniform(g, -1, 1),
        "beam_tilt_y_in_milliradians": uniform(g, -1, 1),
        "trefoil_x": uniform(g, -10, 10),
        "trefoil_y": uniform(g, -10, 10),
    }


def _sample_coherence(g: Generator) -> dict[str, float]:
    return {
        **_sample_even(g),
        "semi_angle_in_milliradians": uniform(g, 0.01, 0.2),
        "focal_spread_in_angstroms": uniform(g, 20, 100),
    }


def _sample_wave(g: Generator) -> dict[str, float]:
    return {
        **_sample_coherence(g),
        **_sample_odd(g),
        "tetrafoil_x": uniform(g, -20, 20),
        "tetrafoil_y": uniform(g, -20, 20),
    }


_NO_EVEN = {
    "defocus_u_in_angstroms": 0.0,
    "defocus_v_in_angstroms": 0.0,
    "spherical_aberration_in_millimeters": 0.0,
}
_NO_ODD = dict.fromkeys(_ODD, 0.0)
_NO_COHERENCE = dict.fromkeys(_COHERENCE, 0.0)


MECHANISMS = (
    Mechanism(
        name="contrast_transfer",
        cause="defocus",
        stage="optics",
        apply=_apply_contrast_transfer,
        sample_parameters=_sample_even,
        # A perfect quarter-wave plate in focus: CTF = 1 at every frequency.
        ideal=MappingProxyType({**_NO_EVEN, "phase_shift_in_degrees": 90.0, "amplitude_contrast": 0.0}),
        bounds=_BOUNDS,
        units=_UNITS,
        linear=True,
        random=False,
        differentiable=True,
        input_kind="image",
        ideal_note="In focus, without spherical aberration, with a quarter-wave phase plate: CTF = 1 everywhere.",
        gradient_parameters=_EVEN,
    ),
    Mechanism(
        name="odd_aberrations",
        cause="beam_tilt",
        stage="optics",
        apply=_apply_odd_aberrations,
        sample_parameters=_sample_odd,
        ideal=MappingProxyType(_NO_ODD),
        bounds=_BOUNDS,
        units=_UNITS,
        linear=True,
        random=False,
        differentiable=True,
        input_kind="image",
        gradient_parameters=_ODD,
    ),
    Mechanism(
        name="partial_coherence",
        cause="coherence",
        stage="optics",
        apply=_apply_partial_coherence,
        sample_parameters=_sample_coherence,
        ideal=MappingProxyType(_NO_COHERENCE),
        bounds=_BOUNDS,
        units=_UNITS,
        linear=True,
        random=False,
        differentiable=True,
        input_kind="image",
        gradient_parameters=_COHERENCE,
    ),
    Mechanism(
        name="objective_lens",
        cause="defocus",
        stage="optics",
        apply=_apply_wave_transfer,
        sample_parameters=_sample_wave,
        ideal=MappingProxyType(
            {
                **_NO_EVEN,
                **_NO_ODD,
                **_NO_COHERENCE,
                "phase_shift_in_degrees": 0.0,
                "tetrafoil_x": 0.0,
                "tetrafoil_y": 0.0,
            }
        ),
        bounds=_BOUNDS,
        units=_UNITS,
        linear=True,
        random=False,
        differentiable=True,
        input_kind="wave",
        gradient_parameters=(*_EVEN, *_ODD, *_COHERENCE),
    ),
)
