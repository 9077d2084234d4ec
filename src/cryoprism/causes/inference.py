"""Abduction: the posterior of one micrograph's parameters under the Whittle likelihood and a Gaussian prior.

The negative log posterior is Σ n [log P(θ) + I / P(θ)] + ½ (θ - μ)ᵀ Λ (θ - μ) with the averaged periodogram I and its
effective number of
coefficients n (Whittle 1953; Dahlhaus 1988). Fisher scoring uses F = Σ n ∂log P ∂log Pᵀ + Λ, whose inverse is the
posterior covariance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.microscope.motion import drift_envelope

from .model import B_UNIT, DEFOCUS_UNIT, LAYOUT, SpectralModel
from .search import DefocusCandidate, smooth_background
from .spectrum import Spectrum

__all__ = ["Fit", "Prior", "default_prior", "drift_starts", "fit_spectrum", "initial_parameters"]


@dataclass(frozen=True)
class Prior:
    """Gaussian prior of θ: mean (p,), precision (p, p).

    ``sharpest_b_factor`` [Å²] is that of the session's sharpest micrographs, against which blur is counted; 0 before a
    session is known.
    """

    mean: Tensor
    precision: Tensor
    sharpest_b_factor: float = 0.0

    @property
    def standard_deviation(self) -> Tensor:
        """Marginal prior standard deviations (p,)."""
        variance: Tensor = torch.linalg.inv(self.precision.double()).diagonal()
        return variance.clamp_min(0).sqrt().float()

    def with_marginal(self, name: str, mean: float, standard_deviation: float) -> Prior:
        """Copy in which one parameter, independent of the others, has another mean and standard deviation."""
        index = LAYOUT.index(name)
        new_mean, precision = self.mean.clone(), self.precision.clone()
        precision[index, :] = 0
        precision[:, index] = 0
        precision[index, index] = 1 / standard_deviation**2
        new_mean[index] = mean
        return Prior(new_mean, precision, self.sharpest_b_factor)


def _smoothness(size: int, step: float, level: float) -> Tensor:
    """Precision of spline coefficients: independent steps N(0, step²), a level of standard deviation ``level``."""
    difference = torch.eye(size)[1:] - torch.eye(size)[:-1]
    return difference.T @ difference / step**2 + torch.ones(size, size) / (size * level) ** 2


def default_prior(phase_plate: bool = False) -> Prior:
    """Prior of a session nobody has seen yet: wide in everything that the data determine, physical elsewhere.

    Defocus is flat in the search range; half the astigmatism has 500 Å per component, drift 4 Å per component, B a
    mean of 40 ± 40 Å²;
    log S departs from the generic protein by steps of 1.2 between knots, log F, which no
    interference shapes, moves by steps of 0.25.
    """
    mean = torch.zeros(LAYOUT.size)
    precision = torch.zeros(LAYOUT.size, LAYOUT.size)
    for name, centre, sd in (
        ("defocus", 0.0, 1e4),
        ("astigmatism_c", 0.0, 500 / DEFOCUS_UNIT),
        ("astigmatism_s", 0.0, 500 / DEFOCUS_UNIT),
        ("phase_shift", math.pi / 2 if phase_plate else 0.0, 0.6 if phase_plate else 1e-3),
        ("b_factor", 40 / B_UNIT, 40 / B_UNIT),
        ("drift_y", 0.0, 4.0),
        ("drift_x", 0.0, 4.0),
        ("ice_level", 0.0, 3.0),
        ("ice_blur", 30 / B_UNIT, 20 / B_UNIT),
    ):
        index = LAYOUT.index(name)
        mean[index] = centre
        precision[index, index] = 1 / sd**2
    signal, noise = LAYOUT.signal, LAYOUT.noise
    precision[signal, signal] = _smoothness(signal.stop - signal.start, 1.2, 30.0)
    precision[noise, noise] = _smoothness(noise.stop - noise.start, 0.25, 30.0)
    return Prior(mean, precision)


@dataclass(frozen=True)
class Fit:
    """Posterior of one micrograph in Laplace approximation.

    Attributes
    ----------
    theta, covariance
        Mean (p,) and covariance (p, p).
    freedom
        (shells, sectors) effective coefficients after the model's own misfit was added to the sampling noise.
    damping
        (shells, 1) of the CTF oscillation used in the model.
    objective
        Negative log posterior (up to a constant).
    converged
        Whether scoring settled.
    """

    model: SpectralModel
    prior: Prior
    theta: Tensor
    covariance: Tensor
    freedom: Tensor
    damping: Tensor
    objective: float
    converged: bool
    passes: int

    def deviation(self, name: str) -> float:
        """Posterior standard deviation of a parameter."""
        index = LAYOUT.index(name)
        return float(self.covariance[index, index].clamp_min(0).sqrt())

    def value(self, name: str) -> float:
        """Posterior mean of a parameter."""
        return float(self.theta[LAYOUT.index(name)])

    def samples(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws (count, p) from the posterior."""
        values, vectors = torch.linalg.eigh(self.covariance.double())
        root = vectors * values.clamp_min(0).sqrt()
        noise = torch.randn(count, LAYOUT.size, generator=generator, dtype=torch.float64)
        draws: Tensor = self.theta + (noise @ root.T).float()
        return draws


def initial_parameters(
    spectrum: Spectrum, model: SpectralModel, candidate: DefocusCandidate, prior: Prior, scale: float
) -> Tensor:
    """Start of the scoring: defocus from the search, smooth envelopes from the radial extremes of the spectrum."""
    theta = prior.mean.clone()
    theta[0] = 0.5 * (candidate.defocus_u_in_angstroms + candidate.defocus_v_in_angstroms) / DEFOCUS_UNIT
    half = 0.5 * (candidate.defocus_u_in_angstroms - candidate.defocus_v_in_angstroms) / DEFOCUS_UNIT
    axis = math.radians(2 * candidate.defocus_angle_in_degrees)
    theta[1], theta[2] = half * math.cos(axis), half * math.sin(axis)
    theta[3] = math.radians(candidate.phase_shift_in_degrees)
    theta[LAYOUT.index("drift_y")], theta[LAYOUT.index("drift_x")] = 0.3, 0.3
    # Regress the radial power on [noise, CTF²] in a sliding window to get starts for log F and log A.
    damping = model.damping(theta)
    ctf2 = (0.5 * (1 - damping * torch.cos(model.phase(theta)))).mean(1)
    power = (spectrum.power / scale * spectrum.freedom).sum(1) / spectrum.freedom.sum(1)
    width = torch.full((len(power),), 9.0 * spectrum.grid.edge / 512)
    m_c, m_p = smooth_background(ctf2, width), smooth_background(power, width)
    covariance = smooth_background(ctf2 * power, width) - m_c * m_p
    variance = smooth_background(ctf2.square(), width) - m_c.square()
    slope = (covariance / variance.clamp_min(1e-4)).clamp_min(1e-3 * m_p)
    slope = torch.minimum(slope, 0.9 * m_p / m_c.clamp_min(0.05))
    floor = (m_p - slope * m_c).clamp_min(0.05 * m_p)
    theta[LAYOUT.noise] = model.project_noise(floor.log(), prior.precision[LAYOUT.noise, LAYOUT.noise])
    bare = slope.log() + theta[LAYOUT.index("b_factor")] * B_UNIT * spectrum.grid.k.square() / 2
    theta[LAYOUT.signal] = model.project_signal(bare, prior.precision[LAYOUT.signal, LAYOUT.signal])
    return theta


def drift_starts(spectrum: Spectrum, model: SpectralModel, theta: Tensor, scale: float, count: int = 2) -> list[Tensor]:
    """Return starts that differ in drift: the likeliest of a fan of directions and lengths, and (almost) none.

    The envelope of a drift is multi-modal in its direction. Each trial keeps the shell averages of the coherent
    power, so that only the
    angular pattern decides.
    """
    damping = model.damping(theta)
    contrast = 0.5 * (1 - damping * torch.cos(model.phase(theta)))
    coherent = model.log_coherent(theta).exp() * contrast
    noise = model.log_noise(theta).exp()
    power, freedom = spectrum.power / scale, spectrum.freedom
    lengths = torch.tensor([2.0, 4.0, 6.0, 9.0, 13.0])
    angles = torch.deg2rad(torch.arange(0.0, 180.0, 15.0))
    dy = (lengths[:, None] * torch.sin(angles)).flatten()
    dx = (lengths[:, None] * torch.cos(angles)).flatten()
    ky, kx = model.grid.ky, model.grid.kx
    shape = drift_envelope(ky, kx, dy, dx).square()
    shape = shape / shape.mean(-1, keepdim=True).clamp_min(1e-3)
    expected = coherent * shape + noise
    cost = (freedom * (expected.log() + power / expected)).sum((-1, -2))
    plain = coherent + noise
    reference = float((freedom * (plain.log() + power / plain)).sum())
    starts = [theta]
    for index in torch.argsort(cost)[:count].tolist():
        if float(cost[index]) < reference:
            trial = theta.clone()
            trial[LAYOUT.index("drift_y")], trial[LAYOUT.index("drift_x")] = dy[index], dx[index]
            starts.append(trial)
    return starts


def fit_spectrum(
    spectrum: Spectrum,
    model: SpectralModel,
    prior: Prior,
    starts: Sequence[Tensor],
    scale: float,
    *,
    passes: int = 25,
    misfit: bool = True,
    freedom: Tensor | None = None,
) -> Fit:
    """Fisher scoring from several starts; the best posterior wins.

    Parameters
    ----------
    spectrum, model, prior
        Data, forward model, prior of θ.
    starts
        Starting vectors θ.
    scale
        Grey units² of power that count as one: the spectrum is divided by it.
    passes
        Upper limit of scoring steps.
    misfit
        Add the observed misfit of shells (structure-factor fringes that no smooth S has) to their variance, so that
        the posterior is
        honest where the model is not perfect.
    freedom
        Effective coefficients to use in place of the spectrum's.
    """
    power = spectrum.power / scale
    weight = spectrum.freedom if freedom is None else freedom
    fits = [_score(power, weight, model, prior, start, passes) for start in starts]
    best = min(fits, key=lambda fit: fit.objective)
    if misfit:
        for _ in range(2):
            weight = _weigh_misfit(power, spectrum.freedom if freedom is None else freedom, best)
            best = _score(power, weight, model, prior, best.theta, passes)
    return best


def _weigh_misfit(power: Tensor, freedom: Tensor, fit: Fit) -> Tensor:
    """Freedom with shell-wise misfit added: n → n / (1 + N τ²), τ² the excess variance of shell means.

    Shells without freedom are left out: they neither get any nor tell their neighbours' misfit.
    """
    expected = fit.model.log_power(fit.theta, fit.damping).exp()
    ratio = power / expected
    total = freedom.sum(1)
    used = (total > 0).float()
    total = total.clamp_min(1e-6)
    shell = (ratio * freedom).sum(1) / total - 1
    width = torch.full((len(total),), 10.0)
    # A shell's own noise is 1 / N; its neighbours tell the excess.
    excess = smooth_background((shell.square() - 0.6 / total) * used, width)
    excess = (excess / smooth_background(used, width).clamp_min(0.05)).clamp_min(0.0)
    return freedom / (1 + total * excess)[:, None]


def _score(power: Tensor, weight: Tensor, model: SpectralModel, prior: Prior, start: Tensor, passes: int) -> Fit:
    theta = start.clone()
    damping = model.damping(theta)
    flat_weight, flat_power = weight.flatten(), power.flatten()
    precision = prior.precision.double()

    def objective(parameters: Tensor) -> float:
        logp = model.log_power(parameters, damping).flatten()
        step = (parameters - prior.mean).double()
        data = (flat_weight * (logp + flat_power * torch.exp(-logp))).double().sum()
        return float(data + 0.5 * step @ precision @ step)

    value = objective(theta)
    ridge, converged, done = 1e-3, False, 0
    information = precision
    for iteration in range(passes):
        done = iteration + 1
        logp, jac = model.jacobian(theta, damping)
        gradient = (jac.T @ (flat_weight * (1 - flat_power * torch.exp(-logp)))).double()
        gradient = gradient + precision @ (theta - prior.mean).double()
        information = (jac.T @ (jac * flat_weight[:, None])).double() + precision
        improved, trial, trial_value, step = False, theta, value, gradient
        for _ in range(8):
            step = torch.linalg.solve(information + ridge * torch.diag(information.diagonal()), gradient)
            trial = theta - step.float()
            trial_value = objective(trial)
            if math.isfinite(trial_value) and trial_value <= value:
                improved = True
                break
            ridge = min(ridge * 8 + 1e-3, 1e6)
        if not improved:
            converged = True
            break
        moved = float((step @ information @ step).clamp_min(0).sqrt())
        gain, theta, value = value - trial_value, trial, trial_value
        ridge = max(ridge / 6, 1e-6)
        if iteration in (1, 4):
            # The damping of the oscillation follows the defocus, outside the derivative: it varies slowly.
            damping = model.damping(theta)
            value = objective(theta)
        elif moved < 0.05 and gain < 0.02:
            converged = True
            break
    covariance = torch.linalg.inv(information).float()
    return Fit(model, prior, theta, covariance, weight, damping, value, converged, done)
