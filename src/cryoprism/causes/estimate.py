"""Estimate the causes of one micrograph: search, fit, and every piece of evidence, in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoprism.core import single_threaded
from cryoprism.microscope.optics import Lens

from .evidence import (
    RING_REACH,
    TYPICAL_EXPOSURE,
    TYPICAL_THICKNESS,
    Circumstances,
    RingFit,
    TiltPlane,
    ice_level,
    ice_thickness,
    known_log_transfer,
    local_defocus,
    ring_excess,
    ring_fit,
    ring_windows,
)
from .inference import Fit, Prior, default_prior, drift_starts, fit_spectrum, initial_parameters
from .ledger import Observation
from .model import B_UNIT, DEFOCUS_UNIT, LAYOUT, SpectralModel
from .search import search_defocus
from .spectrum import Spectrum

__all__ = ["CtfEstimate", "Estimate", "SearchRange", "estimate_causes", "refit", "with_known"]


@dataclass(frozen=True, kw_only=True)
class SearchRange:
    """Limits of the global search: mean defocus [Å], and whether a phase plate is in."""

    minimum_defocus_in_angstroms: float = 3000.0
    maximum_defocus_in_angstroms: float = 50000.0
    phase_plate: bool = False

    def prior(self) -> Prior:
        """Prior of a session nobody has seen yet."""
        return default_prior(self.phase_plate)


@dataclass(frozen=True)
class CtfEstimate:
    """CTF of a micrograph as RELION writes it, with standard deviations.

    Defocus [Å], positive for underfocus, U ≥ V; angle of U counter-clockwise from x [degrees, 0 to 180).
    """

    defocus_u_in_angstroms: float
    defocus_v_in_angstroms: float
    defocus_angle_in_degrees: float
    phase_shift_in_degrees: float
    defocus_deviation_in_angstroms: float
    astigmatism_deviation_in_angstroms: float
    angle_deviation_in_degrees: float
    phase_shift_deviation_in_degrees: float
    figure_of_merit: float
    limit_in_angstroms: float


@dataclass(frozen=True)
class Estimate:
    """Posterior of the causes of one micrograph.

    Attributes
    ----------
    spectrum, fit, scale
        Data, Laplace posterior, and the grey units² that count as one in the fit.
    rings
        Fit of the Thon rings; ``rings.detected`` is False where none rise above the noise.
    excess, excess_significance
        Power of crystalline-ice rings (shells, sectors) and its z-score.
    tilt, thickness
        Defocus plane; ice thickness and deviation [Å] or None.
    halves
        (2, p) parameters fitted to two independent sets of tiles from the common start; NaN for a set without tiles.
    other_mode
        Probability that another defocus explains the rings as well.
    search_limits_in_angstroms
        Range of mean defocus; a fit that leaves it is not believed.
    """

    lens: Lens
    known: Circumstances
    spectrum: Spectrum
    fit: Fit
    scale: float
    log_transfer: Mapping[str, Tensor]
    rings: RingFit
    excess: Tensor
    excess_significance: float
    tilt: TiltPlane
    thickness: tuple[float, float] | None
    halves: Tensor
    other_mode: float
    search_limits_in_angstroms: tuple[float, float]

    @property
    def observation(self) -> Observation:
        """What the ledger needs."""
        return Observation(
            spectrum=self.spectrum,
            fit=self.fit,
            scale=self.scale,
            known=self.known,
            log_transfer=self.log_transfer,
            ring_excess=self.excess,
            thickness=self.thickness,
            tilt=self.tilt,
            rings_detected=self.rings.detected,
        )

    @property
    def ctf(self) -> CtfEstimate:
        """CTF parameters with their standard deviations by linear propagation."""
        theta, covariance = self.fit.theta, self.fit.covariance
        mean = float(theta[0]) * DEFOCUS_UNIT
        half = math.hypot(float(theta[1]), float(theta[2])) * DEFOCUS_UNIT
        angle = 0.5 * math.degrees(math.atan2(float(theta[2]), float(theta[1])))
        block = covariance[1:3, 1:3] * DEFOCUS_UNIT**2
        direction = theta[1:3] * DEFOCUS_UNIT / max(half, 1e-6)
        across = torch.stack([-direction[1], direction[0]])
        sd_half = math.sqrt(max(float(direction @ block @ direction), 0.0))
        sd_across = math.sqrt(max(float(across @ block @ across), 0.0))
        sd_angle = 0.5 * math.degrees(math.atan2(sd_across, max(half, 1e-6)))
        return CtfEstimate(
            defocus_u_in_angstroms=mean + half,
            defocus_v_in_angstroms=mean - half,
            defocus_angle_in_degrees=angle % 180 if angle % 180 < 180 else 0.0,
            phase_shift_in_degrees=_wrapped(math.degrees(float(theta[3]))) if self.phase_is_free else 0.0,
            defocus_deviation_in_angstroms=self.fit.deviation("defocus") * DEFOCUS_UNIT,
            astigmatism_deviation_in_angstroms=2 * sd_half,
            angle_deviation_in_degrees=sd_angle,
            phase_shift_deviation_in_degrees=(
                math.degrees(self.fit.deviation("phase_shift")) if self.phase_is_free else 0.0
            ),
            figure_of_merit=self.rings.figure_of_merit,
            limit_in_angstroms=self.rings.limit_in_angstroms,
        )

    @property
    def phase_is_free(self) -> bool:
        """Whether a phase plate was asked for; else the phase shift is 0."""
        index = LAYOUT.index("phase_shift")
        return float(self.fit.prior.precision[index, index]) < 1e4

    @property
    def b_factor_in_square_angstroms(self) -> float:
        """Isotropic B-factor of the signal [Å²] relative to a generic protein."""
        return self.fit.value("b_factor") * B_UNIT

    @property
    def drift_in_angstroms(self) -> tuple[float, float]:
        """Drift (y, x) [Å] from start to end of the exposure; its sign is not determined by an image."""
        return self.fit.value("drift_y"), self.fit.value("drift_x")


@single_threaded
def estimate_causes(
    spectrum: Spectrum,
    lens: Lens,
    known: Circumstances | None = None,
    *,
    prior: Prior | None = None,
    search: SearchRange | None = None,
) -> Estimate:
    """Global search and fit of one micrograph's spectrum.

    Parameters
    ----------
    spectrum
        From :func:`cryoprism.causes.measure_spectrum`.
    lens
        Voltage, spherical aberration and amplitude contrast.
    known
        Exposure, intensities, detector curve, areas.
    prior
        Prior of θ, the session's if there is one.
    search
        Limits of the search.
    """
    search = search or SearchRange()
    known = known or Circumstances()
    prior = prior or search.prior()
    shifts = tuple(float(p) for p in range(10, 180, 20)) if search.phase_plate else (0.0,)
    candidates = search_defocus(
        spectrum,
        lens,
        minimum_in_angstroms=search.minimum_defocus_in_angstroms,
        maximum_in_angstroms=search.maximum_defocus_in_angstroms,
        phase_shifts_in_degrees=shifts,
    )
    scale = float(spectrum.power[-max(8, len(spectrum.power) // 6) :].mean())
    log_transfer = known_log_transfer(spectrum.grid, lens, known, candidates[0].mean_defocus_in_angstroms)
    exposure = known.exposure_in_electrons_per_square_angstrom or TYPICAL_EXPOSURE
    measured = ice_thickness(known, lens)
    depth = measured[0] if measured is not None else TYPICAL_THICKNESS
    model = SpectralModel(spectrum.grid, lens, log_transfer, exposure, depth)
    prior = _with_ice(prior, lens, known, spectrum, scale)
    starts = []
    for index, candidate in enumerate(candidates[:2]):
        if index and candidate.score < 0.8 * candidates[0].score:
            break
        start = initial_parameters(spectrum, model, candidate, prior, scale)
        starts.append(drift_starts(spectrum, model, start, scale, count=2 if index == 0 else 0))
    fits = [fit_spectrum(spectrum, model, prior, family, scale, misfit=False) for family in starts]
    best = min(fits, key=lambda fit: fit.objective)
    others = [fit.objective for fit in fits if _is_other_mode(fit, best)]
    second = min(others, default=math.inf)
    other_mode = 1 / (1 + math.exp(min(second - best.objective, 50.0)))
    limits = (search.minimum_defocus_in_angstroms, search.maximum_defocus_in_angstroms)
    return _complete(spectrum, lens, known, prior, model, best.theta, scale, log_transfer, other_mode, limits)


@single_threaded
def refit(estimate: Estimate, prior: Prior) -> Estimate:
    """Fit again from the present posterior under another prior (a pass of the session's loop)."""
    return _complete(
        estimate.spectrum,
        estimate.lens,
        estimate.known,
        prior,
        estimate.fit.model,
        estimate.fit.theta,
        estimate.scale,
        estimate.log_transfer,
        estimate.other_mode,
        estimate.search_limits_in_angstroms,
    )


def _complete(
    spectrum: Spectrum,
    lens: Lens,
    known: Circumstances,
    prior: Prior,
    model: SpectralModel,
    theta: Tensor,
    scale: float,
    log_transfer: Mapping[str, Tensor],
    other_mode: float,
    search_limits: tuple[float, float],
) -> Estimate:
    prior = _with_ice(prior, lens, known, spectrum, scale)
    fit = fit_spectrum(spectrum, model, prior, [theta], scale)
    excess, significance = ring_excess(spectrum, fit, scale)
    if bool(excess.any()):
        # Crystals would pull the smooth noise up: leave all that they reach out and look again. They may have drawn the
        # first fit away from where it began.
        freedom = spectrum.freedom.clone()
        freedom[ring_windows(spectrum.grid, RING_REACH)] = 0.0
        fit = fit_spectrum(spectrum, model, prior, [fit.theta, theta], scale, freedom=freedom)
        excess, significance = ring_excess(spectrum, fit, scale)
    halves = []
    for half in spectrum.halves:
        if not bool((half > 0).any()):
            halves.append(torch.full_like(fit.theta, torch.nan))
            continue
        part = spectrum.with_power(half, spectrum.freedom / 2)
        halves.append(
            fit_spectrum(part, model, prior, [fit.theta], scale, passes=4, misfit=False, freedom=fit.freedom / 2).theta
        )
    return Estimate(
        lens=lens,
        known=known,
        spectrum=spectrum,
        fit=fit,
        scale=scale,
        log_transfer=log_transfer,
        rings=ring_fit(spectrum, fit, scale, search_limits),
        excess=excess,
        excess_significance=significance,
        tilt=local_defocus(spectrum, fit, scale),
        thickness=ice_thickness(known, lens),
        halves=torch.stack(halves),
        other_mode=other_mode,
        search_limits_in_angstroms=search_limits,
    )


def with_known(estimate: Estimate, known: Circumstances) -> Estimate:
    """Copy with other circumstances that do not change the fit (session-wide incident intensity, areas)."""
    return replace(estimate, known=known, thickness=ice_thickness(known, estimate.lens))


def _wrapped(phase_shift_in_degrees: float) -> float:
    """Bring a phase shift to -10 … 170°: 180° more has the same spectrum and turns the contrast over."""
    return (phase_shift_in_degrees + 10) % 180 - 10


def _is_other_mode(fit: Fit, best: Fit) -> bool:
    """Whether two fits end at defoci more than three standard deviations apart; else one mode was found twice."""
    sigma = max(best.deviation("defocus"), 1e-3)
    return abs(fit.value("defocus") - best.value("defocus")) > 3 * sigma


def _with_ice(prior: Prior, lens: Lens, known: Circumstances, spectrum: Spectrum, scale: float) -> Prior:
    """Prior in which the level of the ice's structure is that of this micrograph's own thickness."""
    level, deviation = ice_level(lens, known, spectrum.pixel_size_in_angstroms, scale)
    return prior.with_marginal("ice_level", level, deviation)
