"""What is left of the signal in each micrograph, per frequency and direction, measured by its particles.

Averages of movies that were never aligned lose signal along the drift; thick ice and damage lose it everywhere. Against
a map this can be read off directly: over the particles of micrograph m,

    E_m(k) = Σ Re(X · C R*) / Σ |C R|²,     variance σ² / (2 Σ |C R|²),

is its transfer relative to the map's average one, at every frequency vector k. It is smoothed by

    E_m(k) = scale · exp(-B k² / 4) · D(k · d),     D = exp(-(π k·d)² / 6)  or  sinc(k·d),

with the drift d [Å] either of a path whose spread along one axis is Gaussian, or of uniform motion over that length;
both have the same second moment. Spreads of log scale and B over the session are the priors of its micrographs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ._packing import packed_frequencies, packed_shells
from .aberrations import THREE_SIGMA_OF_TWO
from .matching import Match, matched_batches
from .weights import DirectionalWeights, ParticleWeights

__all__ = ["MicrographSignal", "SignalSums", "fit_micrograph_signal", "micrograph_signal", "signal_sums"]

Drift = Literal["gaussian", "sinc"]


@dataclass(frozen=True)
class SignalSums:
    """Sums over the particles of m micrographs at N packed frequencies.

    Attributes
    ----------
    frequency
        (N, 2) = kx, ky [1/Å].
    cross
        (m, N) Σ Re(X · C R*) / σ².
    power
        (m, N) Σ |C R|² / σ².
    """

    frequency: Tensor
    cross: Tensor
    power: Tensor


@dataclass(frozen=True)
class MicrographSignal:
    """Transfer of m micrographs relative to the map.

    Attributes
    ----------
    names
        Of the micrographs.
    scale
        (m,) at zero frequency; the map's average is near 1.
    b_factor_in_square_angstroms
        (m,) relative to the map, either sign.
    drift_in_angstroms
        (m, 2) = x, y, up to its sign; 0 where it does not stand clear of zero by three standard deviations.
    scale_deviation, b_factor_deviation, drift_deviation
        (m,) of the posterior; the drift's along itself [Å].
    drift_significance
        (m,) χ² of two degrees of freedom that the drift gains.
    drift_determined
        (m,)
    shape
        Which D was fitted.
    noise_variance
        (m, radius + 1) of a coefficient, per shell.
    micrograph
        (n,) number of each particle's micrograph.
    box, radius, pixel_size_in_angstroms
        Of the particle images.
    """

    names: tuple[str, ...]
    scale: Tensor
    b_factor_in_square_angstroms: Tensor
    drift_in_angstroms: Tensor
    scale_deviation: Tensor
    b_factor_deviation: Tensor
    drift_deviation: Tensor
    drift_significance: Tensor
    drift_determined: Tensor
    shape: Drift
    noise_variance: Tensor
    micrograph: Tensor
    box: int
    radius: int
    pixel_size_in_angstroms: float

    @property
    def axis_in_degrees(self) -> Tensor:
        """Direction (m,) of the drift in [0, 180), counter-clockwise from x towards +y."""
        return torch.rad2deg(torch.atan2(self.drift_in_angstroms[:, 1], self.drift_in_angstroms[:, 0])) % 180.0

    def envelope(self, kx: Tensor, ky: Tensor) -> Tensor:
        """E (m, ...) at frequencies (...) [1/Å]."""
        extra = (None,) * kx.ndim
        theta = torch.stack(
            [self.scale.log(), self.b_factor_in_square_angstroms, *self.drift_in_angstroms.unbind(-1)], -1
        )
        log, turn = (t.to(kx) for t in (theta, self.drift_in_angstroms))
        smooth = torch.exp(log[(slice(None), 0, *extra)] - 0.25 * log[(slice(None), 1, *extra)] * (kx**2 + ky**2))
        return smooth * _along(turn[(slice(None), 0, *extra)] * kx + turn[(slice(None), 1, *extra)] * ky, self.shape)

    def packed(self, radius: int | None = None) -> ParticleWeights:
        """Envelope and noise for :func:`cryoprism.structure.particle_batches` and refinement.

        Beyond the shells that were measured, up to ``radius``, the envelope continues as fitted and the noise as in the
        last shell.
        """
        wanted = self.radius if radius is None else radius
        k = packed_frequencies(wanted).float() / (self.box * self.pixel_size_in_angstroms)
        shell = packed_shells(wanted).clamp_max(self.noise_variance.shape[1] - 1)
        return ParticleWeights(self.micrograph, self.envelope(k[:, 0], k[:, 1]), self.noise_variance[:, shell])

    def table(self, number: int, *, radii: int = 64, angles: int = 24) -> DirectionalWeights:
        """Envelope and noise of one micrograph as a polar table, the form in which weights are kept in files.

        The noise is relative, with mean 1 over the plane, since :func:`cryoprism.structure.weights_for_particles` takes
        images as normalised to it.
        """
        frequency = torch.linspace(0.0, 0.5 / self.pixel_size_in_angstroms, radii)
        degrees = torch.arange(angles, dtype=torch.float32) * (180.0 / angles)
        radians = torch.deg2rad(degrees)[:, None]
        envelope = self.envelope(frequency * radians.cos(), frequency * radians.sin())[number]
        shell = (frequency * self.box * self.pixel_size_in_angstroms).clamp(1, self.noise_variance.shape[1] - 1)
        low = shell.floor().long()
        high = (low + 1).clamp_max(self.noise_variance.shape[1] - 1)
        noise = torch.lerp(self.noise_variance[number, low], self.noise_variance[number, high], shell - low)
        noise = noise / ((noise * frequency).sum() / frequency.sum())
        return DirectionalWeights(frequency, degrees, envelope, noise.expand(angles, radii).contiguous())


def _along(turns: Tensor, shape: Drift) -> Tensor:
    return torch.sinc(turns) if shape == "sinc" else torch.exp(-(math.pi**2 / 6) * turns**2)


def signal_sums(match: Match) -> SignalSums:
    """Sum over the particles of each micrograph (one pass); scale and B-factor of the table are left out of C."""
    bare = replace(match.particles, ctf_scale=None, ctf_b_factor_in_square_angstroms=None)
    k = packed_frequencies(match.reference.radius).double()
    cross = torch.zeros(len(match.noise.names), len(k), dtype=torch.float64, device=match.device)
    power = torch.zeros_like(cross)
    for batch in matched_batches(match.with_particles(bare)):
        made = batch.transfer * batch.predicted
        row = match.noise.micrograph[batch.indices].to(match.device)
        agreement = (batch.observed.conj() * made).real - batch.transfer * batch.own
        cross.index_add_(0, row, (batch.weight * agreement).double())
        power.index_add_(0, row, (batch.weight * made.abs() ** 2).double())
    frequency = k / (match.reference.box * match.reference.pixel_size_in_angstroms)
    return SignalSums(frequency, cross.cpu(), power.cpu())


def micrograph_signal(match: Match, *, shape: Drift = "gaussian") -> MicrographSignal:
    """Scale, B-factor and drift of every micrograph relative to the map, with error bars.

    Parameters
    ----------
    match
        Particles beside their half maps.
    shape
        ``gaussian`` for paths that wander, ``sinc`` for uniform motion, whose signal reverses beyond 1 / d.
    """
    sums = signal_sums(match)
    return fit_micrograph_signal(sums, match, shape=shape)


def fit_micrograph_signal(sums: SignalSums, match: Match, *, shape: Drift = "gaussian") -> MicrographSignal:
    """Fit the smooth form to sums, first alone and then with the session's spread of scale and B as prior."""
    count = len(match.noise.names)
    alone = [_fit(sums.frequency, sums.cross[i], sums.power[i], shape, None) for i in range(count)]
    prior = _session(torch.stack([fit.theta for fit in alone]), torch.stack([fit.variance for fit in alone]))
    fits = [_fit(sums.frequency, sums.cross[i], sums.power[i], shape, prior, alone[i]) for i in range(count)]
    theta = torch.stack([fit.theta for fit in fits])
    variance = torch.stack([fit.variance for fit in fits])
    gain = torch.tensor([fit.gain for fit in fits], dtype=torch.float64)
    return MicrographSignal(
        names=match.noise.names,
        scale=theta[:, 0].exp(),
        b_factor_in_square_angstroms=theta[:, 1],
        drift_in_angstroms=theta[:, 2:],
        scale_deviation=theta[:, 0].exp() * variance[:, 0].sqrt(),
        b_factor_deviation=variance[:, 1].sqrt(),
        drift_deviation=variance[:, 2].sqrt(),
        drift_significance=gain,
        drift_determined=gain >= THREE_SIGMA_OF_TWO,
        shape=shape,
        noise_variance=match.noise.variance,
        micrograph=match.noise.micrograph,
        box=match.reference.box,
        radius=match.reference.radius,
        pixel_size_in_angstroms=match.reference.pixel_size_in_angstroms,
    )


@dataclass(frozen=True)
class _Fit:
    """θ = (log scale, B, drift x, y); variances of log scale, B and the drift along itself; χ² the drift gains."""

    theta: Tensor
    variance: Tensor
    gain: float


@dataclass(frozen=True)
class _Prior:
    mean: Tensor
    precision: Tensor


def _session(theta: Tensor, variance: Tensor) -> _Prior:
    """Mean and precision of (log scale, B) over the session, robust against micrographs that went astray."""
    values, own = theta[:, :2], variance[:, :2]
    if len(values) < 4:
        return _Prior(values.median(0).values, torch.tensor([1.0, 100.0**-2], dtype=torch.float64))
    middle = values.median(0).values
    spread = 1.4826 * (values - middle).abs().median(0).values
    excess = (spread**2 - own.median(0).values).clamp_min(torch.tensor([0.02**2, 2.0**2], dtype=torch.float64))
    return _Prior(middle, 1.0 / excess)


def _fit(
    frequency: Tensor, cross: Tensor, power: Tensor, shape: Drift, prior: _Prior | None, start: _Fit | None = None
) -> _Fit:
    mean = torch.tensor([0.0, 0.0], dtype=torch.float64) if prior is None else prior.mean
    # Broad at first: scale within a factor of about 3, B within hundreds of Å².
    precision = torch.tensor([1.0, 300.0**-2], dtype=torch.float64) if prior is None else prior.precision
    isotropic, low = _climb(frequency, cross, power, shape, mean, precision, torch.tensor([0.0, float(mean[1]), 0, 0]))
    best, high = isotropic, low
    for axis in ((1.0, 0.0), (0.0, 1.0), (0.7, 0.7), (0.7, -0.7)) if start is None else (None,):
        first = isotropic.clone()
        k = float(frequency.norm(dim=-1).max())
        first[2:] = torch.tensor(axis) * (0.5 / k) if axis is not None else start.theta[2:] if start else 0.0
        if axis is None and float(first[2:].norm()) < 0.05 / k:
            first[2:] = torch.tensor([0.3 / k, 0.0])
        found, height = _climb(frequency, cross, power, shape, mean, precision, first)
        if height > high:
            best, high = found, height
    gain = max(0.0, 2 * (high - low))
    theta = best if gain >= THREE_SIGMA_OF_TWO else isotropic
    information = _curvature(frequency, power, shape, theta, precision)
    length = float(theta[2:].norm())
    if length > 0:
        turn = torch.eye(4, dtype=torch.float64)
        along = theta[2:] / length
        turn[2, 2:], turn[3, 2:] = along, torch.stack([-along[1], along[0]])
        covariance = torch.linalg.inv(turn @ information @ turn.T)
        variance = covariance.diagonal()[:3]
    else:
        covariance = torch.linalg.inv(information[:2, :2])
        # Of a drift of zero nothing but the square is known: the length at which χ² would reach one.
        variance = torch.cat([covariance.diagonal(), _blur_deviation(frequency, power, theta).reshape(1)])
    return _Fit(theta, variance, gain)


def _blur_deviation(frequency: Tensor, power: Tensor, theta: Tensor) -> Tensor:
    """Square of the drift [Å²] along x that would change the likelihood by half a unit."""
    smooth = _smooth(frequency, theta)
    effect = smooth * (math.pi**2 / 6) * frequency[:, 0] ** 2
    return 1.0 / (2 * (power * effect**2).sum()).clamp_min(1e-300).sqrt()


def _smooth(frequency: Tensor, theta: Tensor) -> Tensor:
    return torch.exp(theta[0] - 0.25 * theta[1] * frequency.square().sum(-1))


def _model(frequency: Tensor, theta: Tensor, shape: Drift) -> tuple[Tensor, Tensor]:
    """E (N,) and its derivatives (N, 4)."""
    turns = frequency @ theta[2:]
    smooth = _smooth(frequency, theta)
    along = _along(turns, shape)
    if shape == "sinc":
        x = math.pi * turns
        small = x.abs() < 1e-3
        safe = torch.where(small, 1.0, x)
        slope = math.pi * torch.where(small, -x / 3, (safe.cos() - safe.sin() / safe) / safe)
    else:
        slope = -(math.pi**2 / 3) * turns * along
    value = smooth * along
    jacobian = torch.stack(
        [value, -0.25 * frequency.square().sum(-1) * value, *(smooth * slope * k for k in frequency.unbind(-1))], -1
    )
    return value, jacobian


def _curvature(frequency: Tensor, power: Tensor, shape: Drift, theta: Tensor, precision: Tensor) -> Tensor:
    jacobian = _model(frequency, theta, shape)[1]
    information = 2 * (jacobian * power[:, None]).T @ jacobian
    return information + torch.diag(torch.cat([precision, precision.new_full((2,), 1e-12)]))


def _climb(
    frequency: Tensor,
    cross: Tensor,
    power: Tensor,
    shape: Drift,
    mean: Tensor,
    precision: Tensor,
    start: Tensor,
) -> tuple[Tensor, float]:
    """Levenberg-Marquardt on log L = 2 Σ (cross · E - ½ power · E²) with a normal prior on (log scale, B)."""

    def height(at: Tensor) -> tuple[float, Tensor, Tensor]:
        value, jacobian = _model(frequency, at, shape)
        away = at[:2] - mean
        log = float(2 * (cross * value - 0.5 * power * value**2).sum() - 0.5 * (precision * away**2).sum())
        gradient = 2 * jacobian.T @ (cross - power * value)
        gradient[:2] -= precision * away
        return log, gradient, jacobian

    theta = start.double()
    log, gradient, jacobian = height(theta)
    damping = 1e-3
    prior = torch.diag(torch.cat([precision, precision.new_zeros(2)]))
    for _ in range(60):
        normal = 2 * (jacobian * power[:, None]).T @ jacobian + prior
        damped = normal + damping * torch.diag(normal.diagonal().clamp_min(1e-12))
        step = torch.linalg.solve(damped, gradient)
        trial, trial_gradient, trial_jacobian = height(theta + step)
        if trial >= log:
            done = trial - log < 1e-6
            theta, log, gradient, jacobian = theta + step, trial, trial_gradient, trial_jacobian
            damping = max(damping / 5, 1e-9)
            if done:
                break
        else:
            damping *= 5
            if damping > 1e9:
                break
    return theta, log
