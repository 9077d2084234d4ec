"""The fitted model of one micrograph as functions of any frequency: what restoration and weighting work with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoprism.microscope.motion import b_factor_envelope, drift_envelope
from cryoprism.microscope.optics import Lens, contrast_transfer

from .estimate import Estimate
from .model import B_UNIT

__all__ = ["FittedSpectrum", "fitted_spectrum"]


@dataclass(frozen=True, eq=False)
class FittedSpectrum:
    """Transfer, signal and noise at frequencies (ky, kx) [1/Å] that broadcast; powers in grey units².

    image - mean = F⁻¹[transfer · F(specimen)] + noise, <|F(specimen)|²> = signal power, <|F(noise)|²> = noise power,
    for the periodogram
    |FFT|² / pixel count. The transfer holds everything that is known or fitted to blur the specimen: CTF, drift,
    B-factor, damage, MTF; it is
    signed, +amplitude contrast at zero frequency. Radial tables are linear interpolations on the fit's own shells,
    constant beyond them.
    """

    lens: Lens
    pixel_size_in_angstroms: float
    defocus_u_in_angstroms: float
    defocus_v_in_angstroms: float
    defocus_angle_in_degrees: float
    phase_shift_in_degrees: float
    b_factor_in_square_angstroms: float
    drift_in_angstroms: tuple[float, float]
    defocus_gradient: tuple[float, float]
    k_step: float
    k_first: float
    log_known_transfer: Tensor
    log_signal: Tensor
    noise: Tensor

    @property
    def lowest_fitted_frequency(self) -> float:
        """Frequency [1/Å] below which the spectra are continued, not fitted."""
        return self.k_first

    def _table(self, values: Tensor, ky: Tensor, kx: Tensor) -> Tensor:
        position = (torch.sqrt(ky * ky + kx * kx) - self.k_first) / self.k_step
        position = position.clamp_(0, len(values) - 1.001)
        index = position.to(torch.int32)
        share = position - index
        return torch.lerp(values[index], values[index + 1], share)

    def transfer(self, ky: Tensor, kx: Tensor) -> Tensor:
        """Signed coherent transfer."""
        ctf = contrast_transfer(
            ky,
            kx,
            self.lens,
            defocus_u_in_angstroms=self.defocus_u_in_angstroms,
            defocus_v_in_angstroms=self.defocus_v_in_angstroms,
            defocus_angle_in_degrees=self.defocus_angle_in_degrees,
            phase_shift_in_degrees=self.phase_shift_in_degrees,
        )
        return ctf * self.envelope(ky, kx)

    def envelope(self, ky: Tensor, kx: Tensor) -> Tensor:
        """Return the transfer without the CTF; signed where drift reverses the contrast."""
        k = torch.sqrt(ky * ky + kx * kx)
        value = b_factor_envelope(k, max(self.b_factor_in_square_angstroms, 0.0))
        value = value * drift_envelope(ky, kx, *self.drift_in_angstroms)
        if bool((self.log_known_transfer != 0).any()):
            value = value * torch.exp(0.5 * self._table(self.log_known_transfer, ky, kx))
        return value

    def signal_power(self, ky: Tensor, kx: Tensor) -> Tensor:
        """Power of the specimen before the transfer."""
        return torch.exp(self._table(self.log_signal, ky, kx))

    def noise_power(self, ky: Tensor, kx: Tensor) -> Tensor:
        """Power of everything that is not specimen: detector, background, and ice averaged over the CTF."""
        return self._table(self.noise, ky, kx)

    def local_defocus_plane(self) -> tuple[float, float, float]:
        """Mean defocus [Å] and its gradient along y and x [Å/Å]; zero where no tilt is significant."""
        return 0.5 * (self.defocus_u_in_angstroms + self.defocus_v_in_angstroms), *self.defocus_gradient

    def with_defocus_offset(self, offset_in_angstroms: float) -> FittedSpectrum:
        """Copy with both defoci moved by an offset [Å]."""
        return replace(
            self,
            defocus_u_in_angstroms=self.defocus_u_in_angstroms + offset_in_angstroms,
            defocus_v_in_angstroms=self.defocus_v_in_angstroms + offset_in_angstroms,
        )


def fitted_spectrum(estimate: Estimate) -> FittedSpectrum:
    """Fitted model of an estimate.

    A micrograph without Thon rings has no specimen signal that can be told from noise: its signal power is zero.
    """
    ctf, fit, grid = estimate.ctf, estimate.fit, estimate.spectrum.grid
    known = fit.model.fixed_log_transfer
    b = fit.value("b_factor") * B_UNIT
    coherent = fit.model.log_particles(fit.theta)[:, 0]
    log_signal = coherent - known + max(b, 0.0) * grid.k.square() / 2 + math.log(estimate.scale)
    if not estimate.rings.detected:
        log_signal = torch.full_like(log_signal, -80.0)
    gradient = (estimate.tilt.gradient_y, estimate.tilt.gradient_x) if estimate.tilt.significant else (0.0, 0.0)
    return FittedSpectrum(
        lens=estimate.lens,
        pixel_size_in_angstroms=grid.pixel_size_in_angstroms,
        defocus_u_in_angstroms=ctf.defocus_u_in_angstroms,
        defocus_v_in_angstroms=ctf.defocus_v_in_angstroms,
        defocus_angle_in_degrees=ctf.defocus_angle_in_degrees,
        phase_shift_in_degrees=ctf.phase_shift_in_degrees,
        b_factor_in_square_angstroms=b,
        drift_in_angstroms=estimate.drift_in_angstroms,
        defocus_gradient=gradient,
        k_step=grid.shell_width,
        k_first=float(grid.k[0]),
        log_known_transfer=known,
        log_signal=log_signal,
        noise=(fit.model.log_noise(fit.theta).exp() + 0.5 * fit.model.log_ice(fit.theta).exp())[:, 0] * estimate.scale,
    )
