"""The objective lens: aberration phase, contrast transfer, and coherence envelopes.

Convention (RELION's): defocus positive for underfocus, defocus angle counter-clockwise from x towards +y (the row
index), CTF = -sin(χ - arcsin Q), hence CTF(0) = +Q. An image of a weak phase object is
I = I0 (1 - 2 F⁻¹[CTF · F(σ V)]): protein is dark as recorded.

Source of the formulas: Zhang (2016), J. Struct. Biol. 193, 1 (Gctf, eq. 1 to 4); Spence, High-Resolution Electron
Microscopy, ch. 3 and 4 for the envelopes; Zivanov et al. (2020), IUCrJ 7, 253 for beam tilt and higher orders.
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
    "depth_damping",
    "directional_spatial_coherence_envelope",
    "odd_aberration_phase",
    "spatial_coherence_envelope",
    "temporal_coherence_envelope",
    "tetrafoil_phase",
    "thickness_averaged_ctf_squared",
    "wave_transfer",
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

    Δf(φ) = mean + half difference · cos 2(φ - angle), written with kx² - ky² and 2 kx ky so that it is smooth at k = 0
    and valid for either sign of the astigmatism.
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


def odd_aberration_phase(
    ky: Tensor,
    kx: Tensor,
    lens: Lens,
    *,
    beam_tilt_x_in_milliradians: Scalar = 0.0,
    beam_tilt_y_in_milliradians: Scalar = 0.0,
    trefoil_x: Scalar = 0.0,
    trefoil_y: Scalar = 0.0,
) -> Tensor:
    """Odd (antisymmetric) aberration phase χ_odd(k) [rad], shape (..., h, w), of beam tilt (axial coma) and trefoil.

    χ_odd = 2π Cs λ² k² (k·β) - a_x (kx³ - 3 kx ky²) - a_y (3 kx² ky - ky³).

    The transform of an image is multiplied by exp(-iχ_odd) on top of its CTF. That is the phase factor which RELION 3.1
    applies to references for ``rlnBeamTiltX``, ``rlnBeamTiltY`` and the antisymmetric Zernike coefficients of order 3,
    ±3 (``rlnOddZernike``: a_x is its sixth number, a_y its third), signs included: there, too, a tilt and a coefficient
    of the same sign act against each other. A power spectrum does not show any of it.

    Parameters
    ----------
    ky, kx
        Frequencies [1/Å] that broadcast to (h, w); half or full grids.
    lens
        Voltage and spherical aberration.
    beam_tilt_x_in_milliradians, beam_tilt_y_in_milliradians
        Beam tilt β [mrad]; scalars or batches (b,).
    trefoil_x, trefoil_y
        Threefold astigmatism a [rad Å³]; scalars or batches (b,).
    """
    wavelength = lens.wavelength_in_angstroms
    cs = lens.spherical_aberration_in_millimeters * ANGSTROMS_PER_MILLIMETER
    xx, yy = kx * kx, ky * ky
    tilted = kx * _t(beam_tilt_x_in_milliradians, ky) + ky * _t(beam_tilt_y_in_milliradians, ky)
    coma = (2e-3 * math.pi * cs * wavelength**2) * (xx + yy) * tilted
    trefoil = _t(trefoil_x, ky) * (kx * xx - 3 * kx * yy) + _t(trefoil_y, ky) * (3 * xx * ky - ky * yy)
    return coma - trefoil


def tetrafoil_phase(ky: Tensor, kx: Tensor, tetrafoil_x: Scalar = 0.0, tetrafoil_y: Scalar = 0.0) -> Tensor:
    """Fourfold astigmatism [rad], even: a_x k⁴ cos 4φ + a_y k⁴ sin 4φ with a [rad Å⁴]; add it to the even phase χ.

    RELION's symmetric Zernike coefficients of order 4, ±4 (``rlnEvenZernike``: a_x is its ninth number, a_y its fifth).
    """
    xx, yy = kx * kx, ky * ky
    cosine = xx * xx - 6 * xx * yy + yy * yy
    sine = 4 * kx * ky * (xx - yy)
    return _t(tetrafoil_x, ky) * cosine + _t(tetrafoil_y, ky) * sine


def directional_spatial_coherence_envelope(
    ky: Tensor,
    kx: Tensor,
    lens: Lens,
    *,
    semi_angle_in_milliradians: Scalar,
    defocus_u_in_angstroms: Scalar,
    defocus_v_in_angstroms: Scalar,
    defocus_angle_in_degrees: Scalar = 0.0,
) -> Tensor:
    """Envelope of a source of finite size with astigmatism: exp[-(α / 2λ)² |∇χ|²], shape (..., h, w).

    ∇χ = -2πλ D k + 2π Cs λ³ k² k with D the 2 × 2 matrix of the defocus; equal to
    :func:`spatial_coherence_envelope` without astigmatism.
    """
    wavelength = lens.wavelength_in_angstroms
    cs = lens.spherical_aberration_in_millimeters * ANGSTROMS_PER_MILLIMETER
    u, v = _t(defocus_u_in_angstroms, ky), _t(defocus_v_in_angstroms, ky)
    angle = 2 * torch.deg2rad(_t(defocus_angle_in_degrees, ky))
    mean, half = 0.5 * (u + v), 0.5 * (u - v)
    radial = cs * wavelength**3 * (kx * kx + ky * ky) - wavelength * mean
    slope_x = radial * kx - wavelength * half * (angle.cos() * kx + angle.sin() * ky)
    slope_y = radial * ky - wavelength * half * (angle.sin() * kx - angle.cos() * ky)
    alpha = _t(semi_angle_in_milliradians, ky) * 1e-3
    return torch.exp(-((math.pi * alpha / wavelength) ** 2) * (slope_x**2 + slope_y**2))


def wave_transfer(
    ky: Tensor,
    kx: Tensor,
    lens: Lens,
    *,
    defocus_u_in_angstroms: Scalar,
    defocus_v_in_angstroms: Scalar,
    defocus_angle_in_degrees: Scalar = 0.0,
    phase_shift_in_degrees: Scalar = 0.0,
    beam_tilt_x_in_milliradians: Scalar = 0.0,
    beam_tilt_y_in_milliradians: Scalar = 0.0,
    trefoil_x: Scalar = 0.0,
    trefoil_y: Scalar = 0.0,
    tetrafoil_x: Scalar = 0.0,
    tetrafoil_y: Scalar = 0.0,
    semi_angle_in_milliradians: Scalar = 0.0,
    focal_spread_in_angstroms: Scalar = 0.0,
) -> Tensor:
    """Transfer of the electron wave, exp(-iχ_even - iχ_odd) times the coherence envelopes, complex (..., h, w).

    Multiply the full transform of the exit wave by it (grids of ``fftfreq`` along both axes). Amplitude contrast
    belongs to the wave, not to the lens, and is not in here; the phase plate spares the unscattered beam (k = 0).
    Envelopes on the wave are right for the interference with the unscattered beam, that is to first order in the
    specimen's phase.
    With a weak phase object exp(iσV) the image is 1 - 2 F⁻¹[CTF(Q = 0) exp(-iχ_odd) F(σV)].
    """
    even = aberration_phase(
        ky,
        kx,
        lens,
        defocus_u_in_angstroms=defocus_u_in_angstroms,
        defocus_v_in_angstroms=defocus_v_in_angstroms,
        defocus_angle_in_degrees=defocus_angle_in_degrees,
    ) + tetrafoil_phase(ky, kx, tetrafoil_x, tetrafoil_y)
    odd = odd_aberration_phase(
        ky,
        kx,
        lens,
        beam_tilt_x_in_milliradians=beam_tilt_x_in_milliradians,
        beam_tilt_y_in_milliradians=beam_tilt_y_in_milliradians,
        trefoil_x=trefoil_x,
        trefoil_y=trefoil_y,
    )
    k2 = kx * kx + ky * ky
    plate = torch.deg2rad(_t(phase_shift_in_degrees, ky)) * (k2 > 0)
    envelope = directional_spatial_coherence_envelope(
        ky,
        kx,
        lens,
        semi_angle_in_milliradians=semi_angle_in_milliradians,
        defocus_u_in_angstroms=defocus_u_in_angstroms,
        defocus_v_in_angstroms=defocus_v_in_angstroms,
        defocus_angle_in_degrees=defocus_angle_in_degrees,
    )
    wavelength = lens.wavelength_in_angstroms
    spread = _t(focal_spread_in_angstroms, ky)
    envelope = envelope * torch.exp(-0.5 * (math.pi * wavelength * spread * k2) ** 2)
    return envelope * torch.exp(-1j * (even - plate + odd))


def depth_damping(
    k_squared: Tensor, lens: Lens, *, thickness_in_angstroms: Scalar, defocus_deviation_in_angstroms: Scalar = 0.0
) -> Tensor:
    """Share sinc(λ k² t) exp(-2 (π λ s k²)²) of the oscillation of CTF² that a deep specimen leaves.

    Parameters are those of :func:`thickness_averaged_ctf_squared`, which explains them; ``k_squared`` (h, w) [1/Å²].
    """
    depth = lens.wavelength_in_angstroms * k_squared
    damping = torch.sinc(depth * _t(thickness_in_angstroms, k_squared))
    return damping * torch.exp(-2 * (math.pi * depth * _t(defocus_deviation_in_angstroms, k_squared)) ** 2)


def thickness_averaged_ctf_squared(
    ky: Tensor,
    kx: Tensor,
    lens: Lens,
    *,
    thickness_in_angstroms: Scalar,
    defocus_deviation_in_angstroms: Scalar = 0.0,
    **aberrations: Any,
) -> Tensor:
    """CTF² averaged over the depth of the specimen: ½ [1 - sinc(λ k² t) g cos 2(χ - arcsin Q)], shape (..., h, w).

    Scatterers at height z in a slab of thickness t see the defocus Δf + z; their powers add because their positions
    are independent. The mean of cos(2χ - 2πλk²z) over the slab is cos 2χ · sinc(λk²t), with sinc(x) = sin(πx)/(πx) and
    the first node at t = 1/(λk²) (Elferich, Kong, Zottig & Grigorieff 2024, eLife 13, RP97227). A further Gaussian
    spread of the defocus (tilt of the field, uneven ice) with standard deviation s gives g = exp(-2 (π λ s k²)²).

    Parameters
    ----------
    ky, kx
        Frequencies [1/Å] that broadcast to (h, w).
    lens
        Voltage, spherical aberration, amplitude contrast.
    thickness_in_angstroms, defocus_deviation_in_angstroms
        t and s [Å]; scalars or batches (b,).
    aberrations
        As for :func:`aberration_phase`; the defocus is that of the middle of the slab.
    """
    chi = aberration_phase(ky, kx, lens, **aberrations) - math.asin(lens.amplitude_contrast)
    damping = depth_damping(
        kx * kx + ky * ky,
        lens,
        thickness_in_angstroms=thickness_in_angstroms,
        defocus_deviation_in_angstroms=defocus_deviation_in_angstroms,
    )
    return 0.5 * (1 - damping * torch.cos(2 * chi))
