"""The spectral face of the causal model: expected periodogram of a micrograph given its causes.

P(k, φ) = [A(k) + W(k)] · D(k, φ) · C²(k, φ) + F(k)

with C² = ½[1 - a·cos 2χ'] the contrast transfer (a: damping of its oscillation by window, binning and thickness), W the
structure of the ice itself, D
the directional
envelope of motion, A = S · E² · MTF² the coherent power and F = MTF² · R + N everything that the CTF does not
modulate. S and F are
smooth: exponentials of cubic B-splines. All transfer functions are those of ``cryoprism.microscope``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor

from cryoprism.microscope.ice import ice_structure_power
from cryoprism.microscope.motion import drift_envelope
from cryoprism.microscope.optics import Lens, aberration_phase, defocus_along, depth_damping

from .search import modulation_damping
from .spectrum import PolarGrid

__all__ = [
    "LAYOUT",
    "ParameterLayout",
    "SpectralModel",
    "generic_log_structure_factor",
    "ice_log_shape",
    "spline_basis",
]

#: Defocus and astigmatism enter the parameter vector in this unit [Å], so that all parameters are of order one to ten.
DEFOCUS_UNIT = 100.0
#: B-factors enter in this unit [Å²].
B_UNIT = 10.0
_SIGNAL_KNOTS = (0.0, 0.02, 0.035, 0.055, 0.08, 0.12, 0.18, 0.26, 0.36, 0.50)
_NOISE_KNOTS = (0.0, 0.025, 0.045, 0.07, 0.10, 0.14, 0.19, 0.25, 0.32, 0.40, 0.50)


def spline_basis(k: Tensor, knots: tuple[float, ...]) -> Tensor:
    """Cubic B-spline basis (…, len(knots) + 2) with natural padding, constant beyond the outer knots.

    ``knots`` are frequencies [1/Å]. They are absolute, so that coefficients mean the same for every micrograph of a
    session.
    """
    full = np.concatenate([[knots[0]] * 3, knots, [knots[-1]] * 3])
    flat = np.clip(k.detach().double().numpy().ravel(), knots[0], knots[-1] - 1e-9)
    design = BSpline.design_matrix(flat, full, 3).toarray()
    return torch.from_numpy(design).to(torch.float32).reshape(*k.shape, -1)


def generic_log_structure_factor(k: Tensor) -> Tensor:
    """Log power of a generic protein's projection against k [1/Å], zero at k = 0.1: the prior mean of log S.

    Beyond about 10 Å proteins follow Wilson statistics: power ∝ Σ f_e²(k), the mean squared electron form factor of
    C, N, O and H at
    protein composition, with a mean atomic B-factor of 30 Å² in power. Below, a shape term rises as k^-2 (between the
    Porod law k^-4 of a
    compact body and the k^-1 of its projection's rim). Session and micrograph refine it: only the order of magnitude
    matters here.
    """
    return _protein_log_power(k) - _protein_log_power(torch.tensor(0.1))


def _protein_log_power(k: Tensor) -> Tensor:
    s2 = (k / 2) ** 2
    # Carbon, Peng et al. (1996), Acta Cryst. A52, 257: sum of Gaussians in s = k / 2.
    a = (0.0893, 0.2563, 0.7570, 1.0487, 0.3575)
    b = (0.2465, 1.7100, 6.4094, 18.6113, 50.2523)
    form = sum(ai * torch.exp(-bi * s2) for ai, bi in zip(a, b, strict=True))
    shape = torch.log1p((0.06 / k.clamp_min(1e-3)) ** 2)
    return 2 * torch.log(torch.as_tensor(form)) - 30.0 * k.square() / 2 + shape


def ice_log_shape(k: Tensor, exposure_in_electrons_per_square_angstrom: float) -> Tensor:
    """Log power of the structure of vitreous ice against k [1/Å], zero at k = 0.1 (see ``microscope.ice``)."""
    both = torch.cat([k, torch.tensor([0.1])])
    power = ice_structure_power(
        both, 1.0, exposure_in_electrons_per_square_angstrom=exposure_in_electrons_per_square_angstrom
    )
    return (power[:-1] / power[-1]).log()


@dataclass(frozen=True)
class ParameterLayout:
    """Where each parameter stands in the vector θ."""

    names: tuple[str, ...]
    signal: slice
    noise: slice

    @property
    def size(self) -> int:
        """Length of θ."""
        return len(self.names)

    def index(self, name: str) -> int:
        """Position of a named parameter."""
        return self.names.index(name)


def _layout() -> ParameterLayout:
    lens = ("defocus", "astigmatism_c", "astigmatism_s", "phase_shift")
    physical = (*lens, "b_factor", "drift_y", "drift_x", "ice_level", "ice_blur")
    signal = tuple(f"signal_{i}" for i in range(len(_SIGNAL_KNOTS) + 2))
    noise = tuple(f"noise_{i}" for i in range(len(_NOISE_KNOTS) + 2))
    first, second = len(physical), len(physical) + len(signal)
    return ParameterLayout(physical + signal + noise, slice(first, second), slice(second, second + len(noise)))


#: The one layout of θ: defocus, astigmatism (cosine and sine part, half difference) [100 Å]; phase shift [rad]; B
#: [10 Å²]; drift [Å]; log power of the ice's structure at 10 Å and its blur [10 Å²]; splines of log S and log F.
LAYOUT = _layout()


@dataclass(frozen=True)
class SpectralModel:
    """Expected log periodogram as a function of θ, on a polar grid.

    Parameters
    ----------
    grid
        Polar bins.
    lens
        Optics.
    known_log_transfer
        By cause, (shells,) log power transfer that is known beforehand: ``detector`` (MTF²), ``damage`` at the stated
        exposure, ``coherence``. Water flows: damage does not fade its structure.
    exposure_in_electrons_per_square_angstrom
        Over which the water moves.
    thickness_in_angstroms
        Depth over which scatterers lie: it damps the rings of the sum of their powers.
    """

    grid: PolarGrid
    lens: Lens
    known_log_transfer: Mapping[str, Tensor]
    exposure_in_electrons_per_square_angstrom: float
    thickness_in_angstroms: float = 0.0
    _signal_basis: Tensor = field(init=False)
    _noise_basis: Tensor = field(init=False)
    _template: Tensor = field(init=False)
    _ice_shape: Tensor = field(init=False)
    _phase_origin: Tensor = field(init=False)
    _phase_slopes: Tensor = field(init=False)
    _half_k_squared: Tensor = field(init=False)

    def __post_init__(self) -> None:
        k = self.grid.k
        shape = ice_log_shape(k, self.exposure_in_electrons_per_square_angstrom)
        for name, transfer in self.known_log_transfer.items():
            if name != "damage":
                shape = shape + transfer
        # 2χ' is linear in the lens parameters, so that its values at zero and at unit vectors are all of it.
        origin = self._lens_phase(torch.zeros(4))
        slopes = torch.stack([self._lens_phase(unit) - origin for unit in torch.eye(4)])
        for name, value in (
            ("_signal_basis", spline_basis(k, _SIGNAL_KNOTS)),
            ("_noise_basis", spline_basis(k, _NOISE_KNOTS)),
            ("_template", generic_log_structure_factor(k) + self.fixed_log_transfer),
            ("_ice_shape", shape),
            ("_phase_origin", origin),
            ("_phase_slopes", slopes),
            ("_half_k_squared", k.square() / 2 * B_UNIT),
        ):
            object.__setattr__(self, name, value)

    @property
    def noise_basis(self) -> Tensor:
        """Spline basis (shells, m) of the logarithm of the noise floor."""
        return self._noise_basis

    @property
    def fixed_log_transfer(self) -> Tensor:
        """Sum (shells,) of everything that is known to blur the particles."""
        total = torch.zeros_like(self.grid.k)
        for transfer in self.known_log_transfer.values():
            total = total + transfer
        return total

    def damping(self, theta: Tensor) -> Tensor:
        """Damping (shells, 1) of the CTF oscillation at the mean defocus of θ: tiles, bins, depth."""
        window = modulation_damping(self.grid, self.lens, float(theta[0]) * DEFOCUS_UNIT)
        depth = depth_damping(self.grid.k.square(), self.lens, thickness_in_angstroms=self.thickness_in_angstroms)
        return (window * depth)[:, None]

    def _lens_phase(self, lens: Tensor) -> Tensor:
        mean, along, across = lens[0] * DEFOCUS_UNIT, lens[1] * DEFOCUS_UNIT, lens[2] * DEFOCUS_UNIT
        ky, kx = self.grid.ky.double(), self.grid.kx.double()
        phase = aberration_phase(
            ky, kx, self.lens, defocus_u_in_angstroms=mean + along, defocus_v_in_angstroms=mean - along
        )
        # The sine part of the astigmatism lies at 45°; two parts instead of an angle keep the model smooth where it
        # vanishes.
        phase = phase - math.pi * self.lens.wavelength_in_angstroms * defocus_along(ky, kx, across, -across, 45.0)
        return (2 * (phase - lens[3] - math.asin(self.lens.amplitude_contrast))).float()

    def phase(self, theta: Tensor) -> Tensor:
        """2χ' (shells, sectors) [rad], χ' = χ - arcsin Q."""
        return self._phase_origin + torch.einsum("i,ikl->kl", theta[:4], self._phase_slopes)

    def log_particles(self, theta: Tensor) -> Tensor:
        """Log A(k), (shells, 1): particles."""
        b = theta[4] * B_UNIT
        return (self._template + self._signal_basis @ theta[LAYOUT.signal] - b * self.grid.k.square() / 2)[:, None]

    def log_ice(self, theta: Tensor) -> Tensor:
        """Log W(k), (shells, 1): the structure of vitreous ice, which shows Thon rings too."""
        return (theta[7] + self._ice_shape - theta[8] * B_UNIT * self.grid.k.square() / 2)[:, None]

    def log_coherent(self, theta: Tensor) -> Tensor:
        """Log [A(k) + W(k)], (shells, 1)."""
        return torch.logaddexp(self.log_particles(theta), self.log_ice(theta))

    def log_noise(self, theta: Tensor) -> Tensor:
        """Log F(k), (shells, 1)."""
        return (self._noise_basis @ theta[LAYOUT.noise])[:, None]

    def directional(self, theta: Tensor) -> Tensor:
        """D(k, φ), the power envelope of drift, (shells, sectors)."""
        return drift_envelope(self.grid.ky, self.grid.kx, theta[5], theta[6]).square()

    def log_power(self, theta: Tensor, damping: Tensor) -> Tensor:
        """Return the expected log periodogram (shells, sectors)."""
        contrast = 0.5 * (1 - damping * torch.cos(self.phase(theta)))
        coherent = self.log_coherent(theta).exp() * self.directional(theta) * contrast
        return torch.log(coherent + self.log_noise(theta).exp())

    def jacobian(self, theta: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
        """Log power (n,) and its derivative (n, p) over the flattened polar grid, in closed form (tests: autograd)."""
        phase = self.phase(theta)
        contrast = 0.5 * (1 - damping * torch.cos(phase))
        particles, ice = self.log_particles(theta).exp(), self.log_ice(theta).exp()
        noise = self.log_noise(theta).exp()
        ky, kx = self.grid.ky, self.grid.kx
        along = ky * theta[5] + kx * theta[6]
        envelope = drift_envelope(ky, kx, theta[5], theta[6])
        drift = envelope.square()
        # d sinc(x) / dx = (cos πx - sinc x) / x, and -π² x / 3 at the origin.
        safe = torch.where(along.abs() < 1e-3, torch.ones_like(along), along)
        slope = torch.where(
            along.abs() < 1e-3, -(math.pi**2) / 3 * along, (torch.cos(math.pi * along) - envelope) / safe
        )
        power = (particles + ice) * drift * contrast + noise
        particle_share = particles * drift * contrast / power
        ice_share = ice * drift * contrast / power
        wave = (particles + ice) * drift * (0.5 * damping * torch.sin(phase)) / power
        blur = (particles + ice) * contrast * 2 * envelope * slope / power
        columns = torch.empty(*power.shape, LAYOUT.size)
        torch.mul(wave[..., None], self._phase_slopes.permute(1, 2, 0), out=columns[..., :4])
        columns[..., 4] = -particle_share * self._half_k_squared[:, None]
        columns[..., 5] = blur * ky
        columns[..., 6] = blur * kx
        columns[..., 7] = ice_share
        columns[..., 8] = -ice_share * self._half_k_squared[:, None]
        torch.mul(particle_share[..., None], self._signal_basis[:, None, :], out=columns[..., LAYOUT.signal])
        torch.mul((noise / power)[..., None], self._noise_basis[:, None, :], out=columns[..., LAYOUT.noise])
        return power.log().flatten(), columns.view(-1, LAYOUT.size)

    def project_signal(self, log_values: Tensor, precision: Tensor) -> Tensor:
        """Spline coefficients of log S whose A(k) follows ``log_values`` (shells,) with B = 0."""
        return _project(self._signal_basis, log_values - self._template, precision)

    def project_noise(self, log_values: Tensor, precision: Tensor) -> Tensor:
        """Spline coefficients of log F that follow ``log_values`` (shells,)."""
        return _project(self._noise_basis, log_values, precision)


def _project(basis: Tensor, values: Tensor, precision: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve(basis.T @ basis + 0.05 * precision, basis.T @ values)
    return solution
