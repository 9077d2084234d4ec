"""Aberrations that particles with poses reveal: beam tilt and trefoil per optics group.

A power spectrum is even and shows no odd phase. Summed over particles with known views it does appear (Zivanov et al.
2018, eLife 7, e42166; 2020, IUCrJ 7, 253): with the transform X of a particle, its contrast transfer C, the slice R of
the map and the noise variance σ²,

    Z(k) = Σ C · R* · X / σ²,   W(k) = Σ C² |R|² / σ²,   X = C · R · exp(-iχ_odd) + noise,

so that Z = W · exp(-iχ_odd) plus complex noise of variance W. χ_odd is fitted over all k by maximum likelihood,

    χ_odd(k) = beam tilt and trefoil of microscope.odd_aberration_phase + 2π k · s,

together with a shift s, because poses were found without it and took up part of it. The Fisher information of the
phases is 2 W, which gives the covariance in closed form. R is a slice of the other half's map: the particle's own noise
in its own half would be in phase with it and hide the tilt, the more so the fewer the particles (two numbers for a
whole session do not tie the halves together).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoprism.formats import Particles
from cryoprism.microscope.optics import Lens, odd_aberration_phase

from ._packing import packed_frequencies
from .matching import Match, matched_batches

__all__ = [
    "BeamTilt",
    "CauseParameter",
    "OddPhaseSums",
    "beam_tilt_causes",
    "estimate_beam_tilt",
    "fit_odd_aberrations",
    "odd_phase_sums",
    "with_beam_tilt",
]

#: χ² of two degrees of freedom that chance exceeds as rarely as three standard deviations of one.
LARGEST_TILT_IN_MILLIRADIANS = 10.0
"""Some ten times what a badly aligned microscope has; a fit that goes beyond has lost its way among wrapped phases."""
THREE_SIGMA_OF_TWO = 11.83
#: Standard deviations by which particles and map must agree at all before their phases are read.
_LEAST_AGREEMENT = 10.0
_UNITS = ("mrad", "mrad", "rad Å³", "rad Å³")


@dataclass(frozen=True)
class OddPhaseSums:
    """What the particles of one optics group say about odd phases.

    Attributes
    ----------
    group
        Number of the optics group.
    lens
        Voltage and spherical aberration.
    frequency
        (N, 2) = kx, ky [1/Å] of the packed coefficients.
    numerator
        (N,) complex, Z.
    weight
        (N,) real, W.
    particles
        How many were summed.
    """

    group: int
    lens: Lens
    frequency: Tensor
    numerator: Tensor
    weight: Tensor
    particles: int


@dataclass(frozen=True)
class BeamTilt:
    """Odd aberrations of one optics group.

    Attributes
    ----------
    group
        Number of the optics group.
    beam_tilt_in_milliradians
        (x, y); RELION's rlnBeamTiltX, rlnBeamTiltY, signs included.
    trefoil
        (x, y) [rad Å³]; zero where it was not asked for.
    shift_in_angstroms
        (x, y) that was fitted beside them.
    covariance
        (4, 4) of beam tilt x, y and trefoil x, y; inflated where the phases scatter more than the noise says.
    significance
        Standard deviations by which the tilt stands clear of zero (of a normal variable as improbable).
    determined
        Whether that is three or more, with particles that agree with the map at all. Otherwise the tilt is to be left
        as it was.
    scatter
        Variance of the phase residuals over what the noise makes; near 1 where the model holds.
    particles
        In the group.
    """

    group: int
    beam_tilt_in_milliradians: tuple[float, float]
    trefoil: tuple[float, float]
    shift_in_angstroms: tuple[float, float]
    covariance: Tensor
    significance: float
    determined: bool
    scatter: float
    particles: int

    @property
    def standard_deviation_in_milliradians(self) -> tuple[float, float]:
        """Of beam tilt x and y."""
        x, y = self.covariance.diagonal()[:2].clamp_min(0).sqrt().tolist()
        return x, y


@dataclass(frozen=True)
class CauseParameter:
    """One parameter of a cause with its error bar, as ``causes.json`` of ``restore`` writes it.

    Attributes
    ----------
    cause
        Its name in :data:`cryoprism.causes.CAUSES`.
    name, unit
        Of the parameter.
    value, standard_deviation
        Posterior.
    identifiable
        Whether the data determine it.
    reason
        Why not; empty otherwise.
    """

    cause: str
    name: str
    unit: str
    value: float
    standard_deviation: float
    identifiable: bool
    reason: str = ""


def odd_phase_sums(match: Match, *, remove_known: bool = False) -> tuple[OddPhaseSums, ...]:
    """Sum Z and W over the particles of each optics group (one pass over the images).

    Parameters
    ----------
    match
        Particles beside their half maps.
    remove_known
        Whether the beam tilt of the table is taken out first, so that the sums show what is left of it.
    """
    particles = match.particles
    if not remove_known:
        match = match.with_particles(replace(particles, beam_tilt_in_milliradians=None))
    groups = torch.zeros(len(particles)) if particles.optics_group is None else particles.optics_group
    keys = torch.stack(
        [groups.double(), particles.voltage_in_kilovolts, particles.spherical_aberration_in_millimeters], 1
    )
    distinct, number = torch.unique(keys, dim=0, return_inverse=True)
    k = packed_frequencies(match.reference.radius).double()
    frequency = k / (match.reference.box * match.reference.pixel_size_in_angstroms)
    numerator = torch.zeros(len(distinct), len(k), dtype=torch.complex128, device=match.device)
    weight = torch.zeros(len(distinct), len(k), dtype=torch.float64, device=match.device)
    for batch in matched_batches(match, other_half=True):
        made = batch.transfer * batch.predicted
        row = number[batch.indices].to(match.device)
        numerator.index_add_(0, row, (batch.weight * made.conj() * batch.observed).to(torch.complex128))
        weight.index_add_(0, row, (batch.weight * made.abs() ** 2).double())
    counts = torch.bincount(number, minlength=len(distinct)).tolist()
    return tuple(
        OddPhaseSums(
            group=int(row[0]),
            lens=Lens(voltage_in_kilovolts=float(row[1]), spherical_aberration_in_millimeters=float(row[2])),
            frequency=frequency,
            numerator=numerator[i].cpu(),
            weight=weight[i].cpu(),
            particles=counts[i],
        )
        for i, row in enumerate(distinct.tolist())
    )


def _basis(sums: OddPhaseSums, trefoil: bool) -> Tensor:
    """Phases (N, 4 or 6) of one unit of beam tilt x, y [mrad], (trefoil x, y,) shift x, y [Å]."""
    kx, ky = sums.frequency.unbind(-1)
    names = ["beam_tilt_x_in_milliradians", "beam_tilt_y_in_milliradians"]
    if trefoil:
        names += ["trefoil_x", "trefoil_y"]
    columns = [odd_aberration_phase(ky, kx, sums.lens, **{name: 1.0}) for name in names]
    return torch.stack([*columns, 2 * math.pi * kx, 2 * math.pi * ky], -1)


def fit_odd_aberrations(
    sums: OddPhaseSums, *, trefoil: bool = False, lowest_resolution_in_angstroms: float = 20.0
) -> BeamTilt:
    """Fit beam tilt (and trefoil) to summed phases by weighted least squares and Gauss-Newton.

    Parameters
    ----------
    sums
        Of one optics group.
    trefoil
        Whether threefold astigmatism is fitted too.
    lowest_resolution_in_angstroms
        Coarser frequencies are left out, as by RELION: neighbours and solvent disturb them, and they say little about a
        phase that grows with k³.
    """
    k = sums.frequency.norm(dim=-1)
    finest = float(k.max())
    lowest = min(1.0 / lowest_resolution_in_angstroms, 0.5 * finest)
    basis = _basis(sums, trefoil)
    unit = basis.abs().amax(0).clamp_min(1e-300)
    scaled = basis / unit
    theta = torch.zeros(scaled.shape[1], dtype=torch.float64)
    # From coarse to fine, so that phases that wrap at high frequency are unwrapped by what came before.
    for share in (0.4, 0.55, 0.7, 0.85, 1.0):
        limit = lowest + share * (finest - lowest)
        used = (k >= (lowest if share == 1.0 else 0.0)) & (k <= limit * (1 + 1e-9)) & (sums.weight > 0)
        theta = _gauss_newton(scaled[used], sums.numerator[used], sums.weight[used], theta)
    used = (k >= lowest) & (sums.weight > 0)
    rows, w, z = scaled[used], sums.weight[used], sums.numerator[used]
    turned = z * torch.polar(torch.ones_like(w), rows @ theta)
    scatter = float((turned.imag.square() / (0.5 * w)).mean())
    information = 2 * (rows * w[:, None]).T @ rows
    ridge = 1e-12 * float(information.diagonal().mean().clamp_min(1e-300))
    covariance = torch.linalg.inv(information + ridge * torch.eye(len(theta), dtype=torch.float64))
    covariance = max(1.0, scatter) * covariance / unit[:, None] / unit
    values = (theta / unit).tolist()
    full = torch.zeros(4, 4, dtype=torch.float64)
    fitted = len(theta) - 2
    full[:fitted, :fitted] = covariance[:fitted, :fitted]
    tilt = torch.tensor(values[:2], dtype=torch.float64)
    # The smaller of Wald's χ² and the gain in likelihood over shift (and trefoil) alone: where hardly any signal is
    # there the first knows nothing of the many places in which chance may put the top.
    square = float(tilt @ torch.linalg.solve(covariance[:2, :2], tilt))
    rest = torch.zeros_like(theta)
    rest[2:] = _gauss_newton(rows[:, 2:], z, w, theta[2:])
    without = float((z * torch.polar(torch.ones_like(w), rows @ rest)).real.sum())
    square = max(0.0, min(square, 4 * (float(turned.real.sum()) - without) / max(1.0, scatter)))
    seen = 2 * float(w.sum()) >= _LEAST_AGREEMENT**2
    return BeamTilt(
        group=sums.group,
        beam_tilt_in_milliradians=(values[0], values[1]),
        trefoil=(values[2], values[3]) if trefoil else (0.0, 0.0),
        shift_in_angstroms=(values[-2], values[-1]),
        covariance=full,
        significance=_as_standard_deviations(square),
        determined=seen and square >= THREE_SIGMA_OF_TWO and float(tilt.norm()) <= LARGEST_TILT_IN_MILLIRADIANS,
        scatter=scatter,
        particles=sums.particles,
    )


def _gauss_newton(basis: Tensor, z: Tensor, w: Tensor, theta: Tensor) -> Tensor:
    """Maximise Σ Re(Z exp(iφ)) over the phases φ = basis · θ; steps that do not climb are halved."""

    def climb(at: Tensor) -> tuple[Tensor, float]:
        turned = z * torch.polar(torch.ones_like(w), basis @ at)
        return turned, float(turned.real.sum())

    turned, height = climb(theta)
    normal = (basis * w[:, None]).T @ basis
    normal = normal + 1e-9 * torch.eye(len(theta), dtype=normal.dtype) * normal.diagonal().mean()
    for _ in range(30):
        step = torch.linalg.solve(normal, -(basis.T @ turned.imag))
        size = 1.0
        while size > 1e-3:
            trial, higher = climb(theta + size * step)
            if higher >= height:
                break
            size *= 0.5
        else:
            break
        theta, turned = theta + size * step, trial
        gained, height = higher - height, higher
        if gained <= 1e-10 * max(abs(height), 1e-300):
            break
    return theta


def _as_standard_deviations(square: float) -> float:
    """Give the standard deviations at which a normal variable is as improbable as χ² of two degrees of freedom."""
    if square > 1000:
        # erfc(x / √2) ≈ exp(-x² / 2) · √(2/π) / x, which underflows first.
        return math.sqrt(square - math.log(0.5 * math.pi * square))
    tail = torch.tensor(0.5 * math.exp(-0.5 * square), dtype=torch.float64)
    return float(-torch.special.ndtri(tail))


def estimate_beam_tilt(
    match: Match, *, trefoil: bool = False, lowest_resolution_in_angstroms: float = 20.0
) -> tuple[BeamTilt, ...]:
    """Beam tilt of every optics group, the whole of it and not a change of what the table gives.

    See :func:`fit_odd_aberrations` for the parameters. A group whose tilt does not stand clear of zero by three
    standard deviations has ``determined`` False.

    Examples
    --------
    >>> from cryoprism.structure import estimate_beam_tilt, with_beam_tilt
    >>> def refine(match):
    ...     return with_beam_tilt(match.particles, estimate_beam_tilt(match))
    """
    return tuple(
        fit_odd_aberrations(sums, trefoil=trefoil, lowest_resolution_in_angstroms=lowest_resolution_in_angstroms)
        for sums in odd_phase_sums(match)
    )


def with_beam_tilt(particles: Particles, found: Sequence[BeamTilt]) -> Particles:
    """Particles with the tilts that were determined; the others keep what they had (0 where the table gave none)."""
    count = len(particles)
    old = particles.beam_tilt_in_milliradians
    if old is None and not any(one.determined for one in found):
        return particles
    tilt = torch.zeros(count, 2, dtype=torch.float64) if old is None else old.clone()
    groups = torch.zeros(count) if particles.optics_group is None else particles.optics_group
    for one in found:
        if one.determined:
            tilt[groups == one.group] = torch.tensor(one.beam_tilt_in_milliradians, dtype=torch.float64)
    return replace(particles, beam_tilt_in_milliradians=tilt)


def beam_tilt_causes(found: BeamTilt) -> tuple[CauseParameter, ...]:
    """Answer to the abstention on ``beam_tilt`` of a single micrograph: its parameters with error bars."""
    beyond = math.hypot(*found.beam_tilt_in_milliradians) > LARGEST_TILT_IN_MILLIRADIANS
    reason = (
        ""
        if found.determined
        else f"no microscope is tilted by more than {LARGEST_TILT_IN_MILLIRADIANS:g} mrad: the poses are wrong, or the "
        "maps fit the noise of their particles"
        if beyond
        else f"the phases of {found.particles} particles stand {found.significance:.1f} standard deviations clear of "
        "no tilt, less than 3"
    )
    deviations = found.covariance.diagonal().clamp_min(0).sqrt().tolist()
    values = (*found.beam_tilt_in_milliradians, *found.trefoil)
    names = ("beam_tilt_x", "beam_tilt_y", "trefoil_x", "trefoil_y")
    return tuple(
        CauseParameter("beam_tilt", name, unit, value, deviation, found.determined, reason)
        for name, unit, value, deviation in zip(names, _UNITS, values, deviations, strict=True)
        if deviation > 0
    )
