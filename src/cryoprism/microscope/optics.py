"""The objective lens: aberration phase, contrast transfer, and coherence envelopes.

Convention (RELION's): defocus positive for underfocus, defocus angle counter-clockwise from x towards +y (the row index),
CTF = -sin(χ - arcsin Q), hence CTF(0) = +Q. An image of a weak phase object is I = I0 (1 - 2 F⁻¹[CTF · F(σ V)]): protein
is dark as recorded.

Source of the formulas: Zhang (2016), J. Struct. Biol. 193, 1 (Gctf, eq. 1 to 4); Spence, High-Resolution Electron Microscopy,
ch. 3 and 4 for the envelopes; Zivanov et al. (2020), IUCrJ 7, 253 for beam tilt and higher orders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cryoprism.core import ANGSTROMS_PER_MILLIMETER, electron_wavelength_in_angstroms

__all__ = [
    "Lens",
    "aberration_phase",
    "contrast_transfer",
    "defocus_along",
    "spatial_coherence_envelope",
    "temporal_coherence_envelope",
]

Scalar = float | Tensor


@dataclass(frozen=True, kw_only=True)
class Lens:
    """What an optics group fixes: voltage [kV], spherical aberration [mm], amplitude contrast [fraction]."""

    voltage_in_kilovolts: float = 300.0
    spherical_aberration_in_millimeters: float = 2.7
    amplitude_contrast: float = 0.1

    @property
    def wavelength_in_angstroms(self) -> float:
        """Electron wavelength [Å]."""
        return electron_wavelength_in_angstroms(self.voltage_in_kilovolts)


def _t(value: Scalar, like: Tensor) -> Tensor:
    """Make a parameter broadcast against a grid: a batch of shape (b,) becomes (b, 1, 1)."""
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return tensor[..., None, None] if tensor.ndim else tensor


def defocus_along(ky: Tensor, kx: Tensor, defocus_u: Scalar, defocus_v: Scalar, angle_in_degrees: Scalar) -> Tensor:
    """Product Δf(φ) k² [1/Å] of directional defocus and squared frequency.

    Δf(φ) = mean + half difference · cos 2(φ - angle), written with kx² - ky² and 2 kx ky so that it is smooth at k = 0 and
    valid for either sign of the astigmatism.
    """
    u, v = _t(defocus_u, ky), _t(defocus_v, ky)
    angle = torch.deg2rad(_t(angle_in_degrees, ky))
    mean, half = 0.5 * (u + v), 0.5 * (u - v)
    xx, yy = kx * kx, ky * ky
    return mean * (xx + yy) + half * ((2 * angle).cos() * (xx - yy) + (2 * angle).sin() * (2 * kx * ky))


def aberration_phase(
    ky: Tensor,
    kx: Tensor,
    lens: Lens,
    *,
    defocus_u_in_angstroms: Scalar,
    defocus_v_in_angstroms: Scalar,
    defocus_angle_in_degrees: Scalar = 0.0,
    phase_shift_in_degrees: Scalar = 0.0,
) -> Tensor:
    """Even (point-symmetric) aberration phase χ(k) [rad], shape (..., h, w).

    χ = -π λ Δf(φ) k² + (π/2) Cs λ³ k⁴ - phase shift.

    Parameters
    ----------
    ky, kx
        Frequencies [1/Å] that broadcast to (h, w).
    lens
        Voltage and spherical aberration.
    defocus_u_in_angstroms, defocus_v_in_angstroms
        Defocus [Å] along the major and minor axis, positive for underfocus; scalars or batches (b,).
    defocus_angle_in_degrees
        Direction of ``defocus_u``, counter-clockwise from x towards +y [degrees].
    phase_shift_in_degrees
        Phase plate shift [degrees].
    """
    wavelength = lens.wavelength_in_angstroms
    cs = lens.spherical_aberration_in_millimeters * ANGSTROMS_PER_MILLIMETER
    k2 = kx * kx + ky * ky
    defocus_k2 = defocus_along(ky, kx, defocus_u_in_angstroms, defocus_v_in_angstroms, defocus_angle_in_degrees)
    phase = -math.pi * wavelength * defocus_k2 + (0.5 * math.pi * cs * wavelength**3) * (k2 * k2)
    return phase - torch.deg2rad(_t(phase_shift_in_degrees, ky))


def contrast_transfer(ky: Tensor, kx: Tensor, lens: Lens, **aberrations: Any) -> Tensor:
    """Contrast transfer function CTF(k) = -sin(χ(k) - arcsin Q), shape (..., h, w); +Q at zero frequency.

    Keyword arguments are those of :func:`aberration_phase`.
    """
    return -torch.sin(aberration_phase(ky, kx, lens, **aberrations) - math.asin(lens.amplitude_contrast))


def spatial_coherence_envelope(
    k: Tensor, lens: Lens, *, semi_angle_in_milliradians: Scalar, defocus_in_angstroms: Scalar
) -> Tensor:
    """Envelope of a source of finite size: exp[-(π α / λ)² (Cs λ³ k³ - λ Δf k)²] with the semi-angle α."""
    wavelength = lens.wavelength_in_angstroms
    cs = lens.spherical_aberration_in_millimeters * ANGSTROMS_PER_MILLIMETER
    alpha = _t(semi_angle_in_milliradians, k) * 1e-3
    slope = cs * wavelength**3 * k**3 - wavelength * _t(defocus_in_angstroms, k) * k
    return torch.exp(-((math.pi * alpha / wavelength * slope) ** 2))


def temporal_coherence_envelope(k: Tensor, lens: Lens, *, focal_spread_in_angstroms: Scalar) -> Tensor:
    """Envelope of a focal spread δ [Å, standard deviation]: exp[-½ (π λ δ k²)²]."""
    return torch.exp(-0.5 * (math.pi * lens.wavelength_in_angstroms * _t(focal_spread_in_angstroms, k) * k * k) ** 2)
