"""Evidence beside the smooth spectrum: intensity and ice thickness, ice rings, local defocus, reach of the fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from cryoprism.core import interaction_constant
from cryoprism.microscope.crystalline import CUBIC_SPACINGS_IN_ANGSTROMS, HEXAGONAL_SPACINGS_IN_ANGSTROMS
from cryoprism.microscope.dose import damage_envelope
from cryoprism.microscope.ice import (
    ice_structure_power,
    inelastic_mean_free_path_in_angstroms,
    thickness_from_transmission,
)
from cryoprism.microscope.optics import Lens, spatial_coherence_envelope, temporal_coherence_envelope

from .inference import Fit
from .model import DEFOCUS_UNIT, LAYOUT
from .search import smooth_background
from .spectrum import PolarGrid, Spectrum

__all__ = [
    "TYPICAL_EXPOSURE",
    "TYPICAL_THICKNESS",
    "Circumstances",
    "RingFit",
    "TiltPlane",
    "ice_level",
    "ice_thickness",
    "known_log_transfer",
    "local_defocus",
    "ring_excess",
    "ring_fit",
]

#: How far from a reflection crystals are looked for, and how far those that are there may reach [1/Å]: powders of
#: small crystals are broad, and single ones stand hundreds of times above the noise.
_RING_HALF_WIDTH, RING_REACH = 0.006, 0.012
_RING_SIGNIFICANCE = 6.0
# The best of thousands of hypotheses reaches 5.1 on 284 images of noise; faint rings that are right start at 6.8.
_DETECTION = 6.0
#: Exposure [e/Å²] and ice thickness [Å] taken for granted where nothing tells them.
TYPICAL_EXPOSURE = 40.0
TYPICAL_THICKNESS = 400.0


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What is known of a micrograph besides its spectrum; None means not known, and the causes that need it abstain.

    Attributes
    ----------
    exposure_in_electrons_per_square_angstrom
        Total exposure of the summed micrograph.
    exposure_weighted
        True if frames were dose weighted before summing: damage is then not priced as blur.
    incident_intensity
        Grey value of the incident beam without specimen, per pixel.
    mean_intensity
        Mean grey value per pixel if grey values are proportional to electrons.
    mtf_squared
        Detector MTF² as (frequency in 1/pixel, value) samples.
    semi_angle_in_milliradians, focal_spread_in_angstroms
        Stated coherence of the source.
    area_fractions
        Share of the field lost to ``contamination``, ``carbon``, ``crystalline_ice``.
    defect_power_share
        Power that bad pixels and gain residue added, relative to the noise floor after cleaning.
    """

    exposure_in_electrons_per_square_angstrom: float | None = None
    exposure_weighted: bool = False
    incident_intensity: float | None = None
    incident_intensity_relative_sd: float = 0.03
    mean_intensity: float | None = None
    mtf_squared: tuple[Tensor, Tensor] | None = None
    semi_angle_in_milliradians: float | None = None
    focal_spread_in_angstroms: float | None = None
    area_fractions: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    defect_power_share: float = 0.0


def known_log_transfer(
    grid: PolarGrid, lens: Lens, known: Circumstances, defocus_in_angstroms: float = 0.0
) -> dict[str, Tensor]:
    """Log power transfer (shells,) of each cause that is known beforehand: ``damage``, ``detector``, ``coherence``."""
    transfer: dict[str, Tensor] = {}
    k = grid.k
    exposure = known.exposure_in_electrons_per_square_angstrom
    if exposure is not None and exposure > 0 and not known.exposure_weighted:
        transfer["damage"] = 2 * damage_envelope(k, lens.voltage_in_kilovolts, 0.0, exposure).clamp_min(1e-6).log()
    if known.mtf_squared is not None:
        frequency, value = known.mtf_squared
        transfer["detector"] = _interpolate(k * grid.pixel_size_in_angstroms, frequency, value).clamp_min(1e-6).log()
    coherence = torch.zeros_like(k)
    if known.semi_angle_in_milliradians:
        envelope = spatial_coherence_envelope(
            k[:, None],
            lens,
            semi_angle_in_milliradians=known.semi_angle_in_milliradians,
            defocus_in_angstroms=defocus_in_angstroms,
        )[:, 0]
        coherence = coherence + 2 * envelope.clamp_min(1e-6).log()
    if known.focal_spread_in_angstroms:
        envelope = temporal_coherence_envelope(
            k[:, None], lens, focal_spread_in_angstroms=known.focal_spread_in_angstroms
        )[:, 0]
        coherence = coherence + 2 * envelope.clamp_min(1e-6).log()
    if bool((coherence != 0).any()):
        transfer["coherence"] = coherence
    return transfer


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    index = torch.searchsorted(knots, x.clamp(float(knots[0]), float(knots[-1]))).clamp(1, len(knots) - 1)
    left, right = knots[index - 1], knots[index]
    share = ((x - left) / (right - left).clamp_min(1e-12)).clamp(0, 1)
    return values[index - 1] * (1 - share) + values[index] * share


def ice_thickness(known: Circumstances, lens: Lens) -> tuple[float, float] | None:
    """Ice thickness and its standard deviation [Å] from t = Λ ln(I0 / I); None where the intensities are not known."""
    if known.mean_intensity is None or known.incident_intensity is None:
        return None
    if known.mean_intensity <= 0 or known.incident_intensity <= 0:
        return None
    path = inelastic_mean_free_path_in_angstroms(lens.voltage_in_kilovolts)
    transmission = torch.tensor(min(known.mean_intensity / known.incident_intensity, 1.0))
    thickness = float(thickness_from_transmission(transmission, path))
    # The error is that of the incident intensity plus 10 % of the mean free path itself.
    return thickness, math.hypot(path * known.incident_intensity_relative_sd, 0.1 * thickness)


def ice_level(lens: Lens, known: Circumstances, pixel_size_in_angstroms: float, scale: float) -> tuple[float, float]:
    """Log power of the ice's own structure at 10 Å before the CTF, in units of ``scale``, and its standard deviation.

    A weak object of projected potential v gives I = I0 (1 - 2 CTF ⊗ σv): power (2σ Ī)² P(k) / px² per coefficient.
    Where intensities are not known, Ī = Poisson variance ties the noise floor to the exposure, with 400 Å of ice and
    e^{±1}.
    """
    sigma = interaction_constant(lens.voltage_in_kilovolts)
    exposure = known.exposure_in_electrons_per_square_angstrom
    measured = ice_thickness(known, lens)
    thickness, deviation = measured if measured is not None else (TYPICAL_THICKNESS, 400.0)
    density = ice_structure_power(
        torch.tensor([0.1]),
        max(thickness, 50.0),
        exposure_in_electrons_per_square_angstrom=exposure or TYPICAL_EXPOSURE,
    )
    if measured is not None and known.mean_intensity is not None:
        factor = (2 * sigma * known.mean_intensity) ** 2 / pixel_size_in_angstroms**2 / scale
    else:
        factor = (2 * sigma) ** 2 * (exposure or TYPICAL_EXPOSURE)
    return math.log(float(density) * factor), math.hypot(min(deviation / max(thickness, 50.0), 1.0), 0.25)


def ring_windows(grid: PolarGrid, half_width: float = _RING_HALF_WIDTH) -> Tensor:
    """(shells,) True where rings of crystalline ice can stand: no further than ``half_width`` [1/Å] from one."""
    inside = torch.zeros_like(grid.k, dtype=torch.bool)
    for spacing in (*HEXAGONAL_SPACINGS_IN_ANGSTROMS, *CUBIC_SPACINGS_IN_ANGSTROMS):
        inside |= (grid.k - 1 / spacing).abs() < half_width
    return inside


def ring_excess(spectrum: Spectrum, fit: Fit, scale: float) -> tuple[Tensor, float]:
    """Power around the reflections of ice that the smooth model leaves over.

    Returns
    -------
    excess
        (shells, sectors) in units of ``scale``; zero out of reach of the reflections or where no bin is significant.
    significance
        Largest z-score of a bin or of a ring; crystals count from 6.
    """
    windows = ring_windows(spectrum.grid)
    excess = torch.zeros_like(spectrum.power)
    if not bool(windows.any()):
        return excess, 0.0
    expected = fit.model.log_power(fit.theta, fit.damping).exp()
    ratio = spectrum.power / scale / expected - 1
    weight = spectrum.freedom.clamp_min(0.5)
    bins = (ratio * weight.sqrt())[windows]
    shells = ((ratio * weight).sum(1) / weight.sum(1).sqrt())[windows]
    significance = max(float(bins.max()), float(shells.max()))
    if significance < _RING_SIGNIFICANCE:
        return excess, significance
    significant = (ratio * weight.sqrt() > 3.5) | ((ratio * weight).sum(1) / weight.sum(1).sqrt() > 4.0)[:, None]
    reach = ring_windows(spectrum.grid, RING_REACH)
    excess[reach] = ((ratio * expected).clamp_min(0) * significant)[reach]
    return excess, significance


@dataclass(frozen=True)
class TiltPlane:
    """Defocus plane over the field: gradient [Å/Å] along y and x, standard deviation, and its significance."""

    gradient_y: float
    gradient_x: float
    deviation: float
    significant: bool
    regions: Tensor
    region_deviation: Tensor

    @property
    def tilt_in_degrees(self) -> float:
        """Inclination that the gradient means."""
        return math.degrees(math.atan(math.hypot(self.gradient_y, self.gradient_x)))


def local_defocus(spectrum: Spectrum, fit: Fit, scale: float, steps: int = 40) -> TiltPlane:
    """Defocus offsets [Å] of 3 × 3 regions by scoring the defocus alone, and the plane through them."""
    rows, columns = spectrum.regions.shape[:2]
    count = rows * columns
    power = spectrum.regions.reshape(count, -1) / scale
    share = fit.freedom.flatten() / count
    offset, variance = torch.zeros(count), torch.full((count,), 1.0)
    base, jac = fit.model.jacobian(fit.theta, fit.damping)
    # The local amplitude is free: one nuisance (level of the power) is projected out of the defocus direction.
    direction = jac[:, 0] - (jac[:, 0] * share).sum() / share.sum()
    information = float((share * direction.square()).sum())
    for region in range(count):
        theta = fit.theta.clone()
        level = 0.0
        for _ in range(steps):
            logp = fit.model.log_power(theta, fit.damping).flatten() if _ else base
            ratio = power[region] * torch.exp(-logp - level)
            level += float((share * ratio).sum() / share.sum()) - 1
            move = float((share * direction * (ratio - 1)).sum()) / max(information, 1e-9)
            limit = 3 / max(math.sqrt(information), 1e-6)
            theta[0] += min(max(move, -limit), limit)
            if abs(move) * math.sqrt(information) < 0.1:
                break
            if _ + 1 < steps:
                direction = fit.model.jacobian(theta, fit.damping)[1][:, 0]
                direction = direction - (direction * share).sum() / share.sum()
        offset[region] = (theta[0] - fit.theta[0]) * DEFOCUS_UNIT
        variance[region] = DEFOCUS_UNIT**2 / max(information, 1e-9)
    centres = spectrum.region_centres.reshape(count, 2)
    design = torch.cat([torch.ones(count, 1), centres], 1).double()
    weight = (1 / variance).double()
    normal = design.T @ (design * weight[:, None])
    covariance = torch.linalg.inv(normal + 1e-12 * torch.eye(3, dtype=torch.float64) * normal.diagonal().max())
    plane = covariance @ (design.T @ (weight * offset.double()))
    gradient = plane[1:]
    z = float(gradient @ torch.linalg.solve(covariance[1:, 1:], gradient))
    residual = float((weight * (offset.double() - design @ plane).square()).sum() / max(count - 3, 1))
    z /= max(residual, 0.5)
    return TiltPlane(
        gradient_y=float(gradient[0]),
        gradient_x=float(gradient[1]),
        deviation=math.sqrt(float(covariance[1:, 1:].diagonal().mean()) * max(residual, 1.0)),
        # F-test with 2 and 6 degrees of freedom at 0.001; regions that share tiles would agree by themselves.
        significant=z / 2 > 27.0 and min(spectrum.shape) >= 3 * spectrum.grid.edge,
        regions=offset.view(rows, columns),
        region_deviation=variance.sqrt().view(rows, columns),
    )


@dataclass(frozen=True)
class RingFit:
    """How well the Thon rings are fitted, along the warped radius of the mean defocus.

    Attributes
    ----------
    k
        (shells,) [1/Å].
    observed, fitted
        (shells,) power averaged along the curves of equal phase, background subtracted, oscillation scaled to unit.
    correlation
        (shells,) local correlation between the two.
    figure_of_merit
        Correlation of the two-dimensional oscillation with the model over the fitted range.
    limit_in_angstroms
        Resolution to which the local correlation stays above 0.5; infinite where no ring is fitted.
    """

    k: Tensor
    observed: Tensor
    fitted: Tensor
    correlation: Tensor
    figure_of_merit: float
    limit_in_angstroms: float
    detected: bool


def ring_fit(
    spectrum: Spectrum, fit: Fit, scale: float, search_limits_in_angstroms: tuple[float, float] = (0.0, math.inf)
) -> RingFit:
    """Compare observed and fitted rings; an equi-phase average makes astigmatism harmless (Zhang 2016).

    Rings count as detected if noise hardly makes such an oscillation, it has at least one period in the fitted range,
    and the defocus lies inside the search limits [Å].
    """
    grid, model, theta = spectrum.grid, fit.model, fit.theta
    with torch.no_grad():
        noise = model.log_noise(theta).exp()
        coherent = model.log_coherent(theta).exp() * model.directional(theta)
        contrast = 0.5 * (1 - fit.damping * torch.cos(model.phase(theta)))
        expected = coherent * contrast + noise
    # Oscillating part of observation and model, in units of the expected power's own noise.
    swing = coherent * (contrast - 0.5) / expected
    seen = spectrum.power / scale / expected - 1 + swing
    # Equi-phase radius: the radius on a round lens of the mean defocus that has the same phase.
    mean_phase = -fit_phase_of_mean(fit)
    phase = -model.phase(theta)
    radius = torch.searchsorted(mean_phase.contiguous(), phase.contiguous()).clamp(0, len(grid.k) - 1)
    # Shells that the fit left out (crystals) must not judge it.
    weight = spectrum.freedom * (fit.freedom > 0.01 * spectrum.freedom)
    flat = radius.flatten()
    total = torch.zeros(len(grid.k)).index_add_(0, flat, weight.flatten()).clamp_min(1e-9)
    observed = torch.zeros(len(grid.k)).index_add_(0, flat, (seen * weight).flatten()) / total
    fitted = torch.zeros(len(grid.k)).index_add_(0, flat, (swing * weight).flatten()) / total
    # A window of about two oscillations, at least 10 shells.
    rate = torch.diff(mean_phase, append=mean_phase[-1:]).abs().clamp_min(1e-3)
    width = (0.35 * 2 * math.pi / rate).clamp(5.0, len(grid.k) / 6)
    m_oo = smooth_background(observed.square(), width)
    m_ff = smooth_background(fitted.square(), width)
    m_of = smooth_background(observed * fitted, width)
    correlation = (m_of / (m_oo * m_ff).sqrt().clamp_min(1e-12)).clamp(-1, 1)
    merit = float(
        (seen * swing * weight).sum() / ((seen**2 * weight).sum() * (swing**2 * weight).sum()).sqrt().clamp_min(1e-12)
    )
    first = int(len(grid.k) * 0.08)
    good = correlation > 0.5
    below = (~good[first:]).nonzero()
    last = first + int(below[0]) if len(below) else len(grid.k) - 1
    defocus, sigma = (number * DEFOCUS_UNIT for number in (fit.value("defocus"), fit.deviation("defocus")))
    low, high = search_limits_in_angstroms
    believable = low - 3 * sigma <= defocus <= high + 3 * sigma and float(mean_phase[-1] - mean_phase[0]) > 2 * math.pi
    detected = believable and last > first + 3 and _ring_significance(fit, seen, swing) > _DETECTION
    return RingFit(
        k=grid.k,
        observed=observed,
        fitted=fitted,
        correlation=correlation,
        figure_of_merit=merit,
        limit_in_angstroms=1 / float(grid.k[last]) if detected else math.inf,
        detected=detected,
    )


def _ring_significance(fit: Fit, seen: Tensor, swing: Tensor) -> float:
    """z-score of the oscillation in the data along the fitted one, after both lost what a smooth floor can explain."""
    basis, weight = fit.model.noise_basis, fit.freedom
    normal = basis.T @ (basis * weight.sum(1, keepdim=True))
    normal = normal + 1e-6 * torch.eye(len(normal)) * normal.diagonal().max()

    def rough(values: Tensor) -> Tensor:
        smooth: Tensor = torch.linalg.solve(normal, basis.T @ (values * weight).sum(1))
        return values - (basis @ smooth)[:, None]

    pattern = rough(swing)
    length = float((weight * pattern.square()).sum().sqrt())
    return float((weight * rough(seen) * pattern).sum()) / max(length, 1e-9)


def fit_phase_of_mean(fit: Fit) -> Tensor:
    """2χ' (shells,) of the round lens with the mean defocus of a fit, made monotonic for inversion."""
    theta = fit.theta.clone()
    theta[LAYOUT.index("astigmatism_c")] = 0.0
    theta[LAYOUT.index("astigmatism_s")] = 0.0
    phase = fit.model.phase(theta)[:, 0]
    return torch.cummin(phase, 0).values
