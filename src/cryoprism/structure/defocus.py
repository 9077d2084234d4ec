"""Defocus of single particles and of micrographs, from particles with poses against a map.

The likelihood of a change δ of a particle's defocus, its astigmatism kept, is a sum over rings of equal k² alone: with
the contrast transfer C = -A sin χ, its quadrature Q = -A cos χ, θ = πλk²δ, G = Re X·R* and H = |R|²,

    C(δ) = C cos θ - Q sin θ,
    log L(δ) = Σ [2 G C(δ) - H C(δ)²] / σ² = Σ_rings a cos θ + b sin θ + c cos 2θ + d sin 2θ + constant,

so that every particle is reduced to four numbers per ring once, and a whole grid of defoci is one matrix product. The
likelihood is band-limited in δ: where the grid is fine enough a parabola through its top is a Newton step.

Heights are drawn as δᵢ = μ(micrograph) + N(0, τ²), μ ~ N(0, ω²): how far particles lie from their common plane, and how
far the estimate of a micrograph was off. τ and ω are those that make the session's data most probable (empirical
Bayes). A particle whose posterior is hardly narrower than that says nothing of itself and gets its micrograph's; a
micrograph that says nothing keeps its old value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoprism.core import InputError, electron_wavelength_in_angstroms
from cryoprism.formats import Particles
from cryoprism.particles import transfer_at

from ._packing import packed_frequencies, packed_shells
from .matching import Match, MatchedBatch, matched_batches

__all__ = [
    "AstigmatismRefinement",
    "DefocusRefinement",
    "defocus_likelihood",
    "refine_defocus",
    "refine_micrograph_defocus",
    "with_defocus",
]

#: A posterior wider than this share of the prior counts as the prior (as for the causes of a micrograph).
_AS_WIDE_AS_THE_PRIOR = 0.75
#: Twice the gain in log evidence that a spread of the session must bring.
_EVIDENCE = 9.0
_FOR_PRIORS = 4000
_WAVES_PER_GRID_STEP = 0.05


@dataclass(frozen=True)
class DefocusRefinement:
    """Changes of defocus of n particles on m micrographs.

    Attributes
    ----------
    offset_in_angstroms
        (n,) what is to be added to u and v; 0 where the old value is kept.
    standard_deviation_in_angstroms
        (n,) of the posterior; of the particle's likelihood alone where the session shows no spread.
    determined
        (n,) whether the particle itself determined its defocus.
    micrograph_offset_in_angstroms, micrograph_standard_deviation_in_angstroms
        (m,) common change of a micrograph's particles.
    micrograph_determined
        (m,) whether its particles together determined it.
    spread_in_angstroms
        τ, between the particles of a micrograph; 0 where the session does not show one.
    micrograph_spread_in_angstroms
        ω, between micrographs; 0 likewise.
    at_limit
        Particles whose most probable value lies at the end of the range that was searched.
    """

    offset_in_angstroms: Tensor
    standard_deviation_in_angstroms: Tensor
    determined: Tensor
    micrograph_offset_in_angstroms: Tensor
    micrograph_standard_deviation_in_angstroms: Tensor
    micrograph_determined: Tensor
    spread_in_angstroms: float
    micrograph_spread_in_angstroms: float
    at_limit: int


@dataclass(frozen=True)
class AstigmatismRefinement:
    """Changes of defocus and astigmatism of m micrographs.

    Attributes
    ----------
    change_in_angstroms
        (m, 3): mean defocus, and half the difference of u and v times cos 2α and sin 2α; 0 where abstained.
    standard_deviation_in_angstroms
        (m, 3) of the posterior.
    determined
        (m, 3)
    prior_in_angstroms
        (3,) spread of the session, 0 where it shows none.
    """

    change_in_angstroms: Tensor
    standard_deviation_in_angstroms: Tensor
    determined: Tensor
    prior_in_angstroms: Tensor


def _grid(match: Match, search: float, step: float | None) -> Tensor:
    finest = 1.0 / match.finest_in_angstroms
    voltage = float(match.particles.voltage_in_kilovolts.min())
    # The fastest wave of the likelihood is that of cos 2θ at the finest k.
    wave = 1.0 / (electron_wavelength_in_angstroms(voltage) * finest**2)
    step = min(search / 8, max(5.0, min(_WAVES_PER_GRID_STEP * wave, search / 40))) if step is None else step
    half = math.ceil(search / step)
    return torch.arange(-half, half + 1, dtype=torch.float64) * step


def _quadrature(match: Match, batch: MatchedBatch) -> Tensor:
    """Q = -A cos χ (n, N): the transfer with a quarter period less of phase shift."""
    particles, k = match.particles, packed_frequencies(match.reference.radius, match.device).float()
    k = k / match.reference.box
    shift = particles.phase_shift_in_degrees
    shift = torch.zeros(len(particles), dtype=torch.float64) if shift is None else shift
    turned = replace(particles, phase_shift_in_degrees=shift - 90.0)
    return transfer_at(turned, k[None, :, 1], k[None, :, 0], batch.indices)[:, 0]


def _gain(match: Match) -> Tensor:
    """Gain of the half maps (N,) packed.

    A map that a filter made too weak asks for a larger |C|: all defoci would move towards the next maximum of it.
    """
    return match.noise.map_gain.to(match.device)[packed_shells(match.reference.radius, match.device)]


def defocus_likelihood(match: Match, offsets_in_angstroms: Tensor) -> Tensor:
    """Log-likelihood (n, g) double of changes (g,) [Å] of each particle's defocus, up to a constant per particle."""
    offsets = offsets_in_angstroms.double().to(match.device)
    k = packed_frequencies(match.reference.radius, match.device)
    squares, ring = torch.unique(k.square().sum(-1), return_inverse=True)
    gain = _gain(match)
    out = torch.empty(len(match.particles), len(offsets), dtype=torch.float64)
    scale = (match.reference.box * match.reference.pixel_size_in_angstroms) ** 2
    waves: dict[float, Tensor] = {}
    for batch in matched_batches(match):
        quadrature = _quadrature(match, batch)
        c, w = batch.transfer, batch.weight
        g = 2 * w * gain * ((batch.observed.conj() * batch.predicted).real - batch.own)
        h = w * (gain * batch.predicted.abs()) ** 2
        parts = (g * c, -g * quadrature, 0.5 * h * (quadrature**2 - c**2), h * c * quadrature)
        rings = torch.cat([torch.zeros(len(c), len(squares), device=c.device).index_add_(1, ring, p) for p in parts], 1)
        voltages = match.particles.voltage_in_kilovolts[batch.indices]
        for voltage in set(voltages.tolist()):
            if voltage not in waves:
                turn = math.pi * electron_wavelength_in_angstroms(voltage) / scale
                theta = turn * squares.double()[:, None] * offsets
                waves[voltage] = torch.cat([theta.cos(), theta.sin(), (2 * theta).cos(), (2 * theta).sin()]).float()
            mine = voltages == voltage
            out[batch.indices[mine]] = (rings[mine.to(rings.device)] @ waves[voltage]).double().cpu()
    return out


def _log_normal(values: Tensor, spread: float, step: float) -> Tensor:
    """Log of a normal distribution on a grid, summing to one even where it is narrower than the step."""
    log = -0.5 * (values / max(spread, 1e-3 * step)) ** 2
    return log - torch.logsumexp(log, -1, keepdim=True)


def _convolved(likelihood: Tensor, grid: Tensor, spread: float) -> Tensor:
    """Log (n, g) of ∫ L(δ) N(δ; μ, τ²) dδ for every μ of the grid."""
    if spread <= 0:
        return likelihood
    step = float(grid[1] - grid[0])
    top = likelihood.amax(1, keepdim=True)
    kernel = _log_normal(grid[:, None] - grid, spread, step).exp().T
    return ((likelihood - top).exp() @ kernel).clamp_min(1e-300).log() + top


def _by_micrograph(values: Tensor, micrograph: Tensor, count: int) -> Tensor:
    return torch.zeros(count, values.shape[1], dtype=values.dtype).index_add_(0, micrograph, values)


def _spreads(likelihood: Tensor, grid: Tensor, micrograph: Tensor, count: int) -> tuple[float, float]:
    """τ and ω with the largest evidence, each 0 unless the data ask for it."""
    step = float(grid[1] - grid[0])
    widest = float(grid[-1]) / 2
    candidates = [0.0, *torch.logspace(math.log10(2 * step), math.log10(max(widest, 3 * step)), 14).tolist()]
    table = torch.empty(len(candidates), len(candidates), dtype=torch.float64)
    for i, tau in enumerate(candidates):
        per_micrograph = _by_micrograph(_convolved(likelihood, grid, tau), micrograph, count)
        for j, omega in enumerate(candidates):
            table[i, j] = torch.logsumexp(per_micrograph + _log_normal(grid, omega, step), 1).sum()
    i, j = divmod(int(table.argmax()), len(candidates))
    if 2 * float(table[i, j] - table[0].max()) < _EVIDENCE:
        i, j = 0, int(table[0].argmax())
    if 2 * float(table[i, j] - table[i, 0]) < _EVIDENCE:
        j = 0
        i = int(table[:, 0].argmax())
        if 2 * float(table[i, 0] - table[0, 0]) < _EVIDENCE:
            i = 0
    return candidates[i], candidates[j]


def _moments(log: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    share = torch.softmax(log, 1)
    mean = share @ grid
    return mean, (share @ grid.square() - mean.square()).clamp_min(0).sqrt()


def _tops(log: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Most probable values (n,) by a parabola through the highest grid point, and whether they stand at the end."""
    step = float(grid[1] - grid[0])
    best = log.argmax(1)
    edge = (best == 0) | (best == len(grid) - 1)
    at = best.clamp(1, len(grid) - 2)
    row = torch.arange(len(log))
    left, middle, right = (log[row, at + i] for i in (-1, 0, 1))
    curvature = (left - 2 * middle + right).clamp_max(-1e-12)
    shift = (0.5 * (left - right) / curvature).clamp(-1, 1)
    return torch.where(edge, grid[best], grid[at] + step * shift), edge


def refine_defocus(
    match: Match,
    *,
    search_in_angstroms: float = 1500.0,
    step_in_angstroms: float | None = None,
    per_particle: bool = True,
) -> DefocusRefinement:
    """Defocus of every particle, with the prior that the session itself shows (one pass over the images).

    Parameters
    ----------
    match
        Particles beside their half maps.
    search_in_angstroms
        Largest change that is considered, either way.
    step_in_angstroms
        Of the grid; a twentieth of the finest wave of the likelihood, but at least 5 Å, if absent.
    per_particle
        Whether particles may differ from their micrograph; otherwise τ = 0.

    Raises
    ------
    InputError
        The range holds less than four steps.
    """
    grid = _grid(match, search_in_angstroms, step_in_angstroms)
    if len(grid) < 9:
        raise InputError("search range", f"{search_in_angstroms:g} Å holds too few steps", "Widen it.")
    step = float(grid[1] - grid[0])
    likelihood = defocus_likelihood(match, grid)
    micrograph, count = match.noise.micrograph, len(match.noise.names)
    few = _whole_micrographs(micrograph, _FOR_PRIORS)
    used, members = torch.unique(micrograph[few], return_inverse=True)
    tau, omega = _spreads(likelihood[few], grid, members, len(used))
    if not per_particle:
        tau = 0.0
    common = _by_micrograph(_convolved(likelihood, grid, tau), micrograph, count)
    log = common + _log_normal(grid, omega, step)
    mean, deviation = _moments(log, grid)
    known = deviation < _AS_WIDE_AS_THE_PRIOR * omega
    mean = torch.where(known, mean, 0.0)
    if tau > 0:
        centre = mean[micrograph]
        # What is not known of the plane is not known of its particles.
        width = (tau**2 + torch.where(known, deviation, omega)[micrograph] ** 2).sqrt()
        prior = -0.5 * ((grid - centre[:, None]) / width[:, None]) ** 2
        posterior = likelihood + prior
        top, edge = _tops(posterior, grid)
        _, own = _moments(posterior, grid)
        determined = (own < _AS_WIDE_AS_THE_PRIOR * width) & ~edge
        offset = torch.where(determined, top, centre)
    else:
        edge = torch.zeros(len(micrograph), dtype=torch.bool)
        determined = torch.zeros(len(micrograph), dtype=torch.bool)
        # No prior to speak of: what the particle itself would tell.
        own, offset = _moments(likelihood, grid)[1], mean[micrograph]
    return DefocusRefinement(
        offset_in_angstroms=offset,
        standard_deviation_in_angstroms=own,
        determined=determined,
        micrograph_offset_in_angstroms=mean,
        micrograph_standard_deviation_in_angstroms=deviation,
        micrograph_determined=known,
        spread_in_angstroms=tau,
        micrograph_spread_in_angstroms=omega,
        at_limit=int(edge.sum()),
    )


def _whole_micrographs(micrograph: Tensor, most: int) -> Tensor:
    """Positions of about ``most`` particles of whole micrographs, spread over the session."""
    size = torch.bincount(micrograph)
    order = torch.arange(len(size))
    stride = max(1, math.ceil(len(micrograph) / most))
    chosen = order[::stride]
    return torch.isin(micrograph, chosen).nonzero()[:, 0]


def refine_micrograph_defocus(match: Match, *, iterations: int = 3) -> AstigmatismRefinement:
    """Mean defocus and astigmatism of every micrograph by Gauss-Newton over all its particles.

    One pass over the images per iteration. The spread of the changes over the session, beyond their own error, is the
    prior; what a micrograph does not determine better than that is left as it was. Start close: run
    :func:`refine_defocus` first and apply it.
    """
    particles, reference = match.particles, match.reference
    count = len(match.noise.names)
    change = torch.zeros(count, 3, dtype=torch.float64)
    k = packed_frequencies(reference.radius, match.device).float()
    k = k / (reference.box * reference.pixel_size_in_angstroms)
    kx, ky = k.unbind(-1)
    shape = torch.stack([kx**2 + ky**2, kx**2 - ky**2, 2 * kx * ky], -1)
    gain = _gain(match)
    shape = shape * 1e4  # per 10⁴ Å, so that float32 is enough
    normal = torch.zeros(count, 3, 3, dtype=torch.float64)
    for _ in range(max(1, iterations)):
        moved = match.with_particles(_moved(particles, change[match.noise.micrograph]))
        normal, gradient = torch.zeros_like(normal), torch.zeros(count, 3, dtype=torch.float64)
        for batch in matched_batches(moved):
            # χ falls by πλΔf k²; C = -A sin χ, so dC = Q dχ.
            turn = torch.tensor(
                [
                    math.pi * electron_wavelength_in_angstroms(float(v))
                    for v in particles.voltage_in_kilovolts[batch.indices]
                ]
            ).to(k)
            slope = -_quadrature(moved, batch) * turn[:, None]
            predicted = gain * batch.predicted
            residual = batch.observed - batch.transfer * predicted
            pull = batch.weight * ((residual.conj() * predicted).real - gain * batch.own) * slope
            stiffness = batch.weight * predicted.abs() ** 2 * slope**2
            row = match.noise.micrograph[batch.indices]
            gradient.index_add_(0, row, 2 * (pull @ shape).double().cpu())
            matrix = torch.einsum("nk,ki,kj->nij", stiffness, shape, shape)
            normal.index_add_(0, row, 2 * matrix.double().cpu())
        # A ridge of 2000 Å keeps what is not seen at all where it is.
        ridge = torch.eye(3, dtype=torch.float64) * (1e4 / 2000.0) ** 2
        step = torch.linalg.solve(normal + ridge, gradient - change / 1e4 @ ridge) * 1e4
        change = change + step.clamp(-500.0, 500.0)
    precision = normal / 1e8
    tiny = 1e-12 * torch.eye(3, dtype=torch.float64)
    own = torch.linalg.inv(precision + tiny).diagonal(dim1=1, dim2=2)
    prior = _session_spread(change, own)
    # Unseen directions have huge variances; where the session shows no spread the prior is zero and nothing moves.
    inverse = torch.diag_embed(1.0 / prior.clamp_min(1e-3) ** 2)
    covariance = torch.linalg.inv(precision + inverse)
    shrunk = (covariance @ precision @ change[..., None])[..., 0]
    deviation = covariance.diagonal(dim1=1, dim2=2).sqrt()
    determined = (deviation < _AS_WIDE_AS_THE_PRIOR * prior) & (prior > 0)
    return AstigmatismRefinement(
        change_in_angstroms=torch.where(determined, shrunk, 0.0),
        standard_deviation_in_angstroms=torch.where(prior > 0, deviation, own.sqrt()),
        determined=determined,
        prior_in_angstroms=prior,
    )


def _session_spread(values: Tensor, variances: Tensor) -> Tensor:
    """Spread (p,) about zero of values (m, p) beyond their own variances, by maximum likelihood; 0 if it is chance."""
    candidates = torch.cat([torch.zeros(1), torch.logspace(0, 3.5, 60)]).double()
    total = variances[..., None] + candidates.square()
    log = (-0.5 * (total.log() + values[..., None] ** 2 / total)).sum(0)
    best = log.argmax(1)
    gain = 2 * (log.gather(1, best[:, None])[:, 0] - log[:, 0])
    return torch.where(gain >= _EVIDENCE, candidates[best], 0.0)


def _moved(particles: Particles, change: Tensor) -> Particles:
    """Particles whose mean defocus and astigmatism (n, 3) changed."""
    assert particles.defocus is not None
    u, v, angle = particles.defocus.double().unbind(-1)
    double = 2 * torch.deg2rad(angle)
    mean = 0.5 * (u + v) + change[:, 0]
    c = 0.5 * (u - v) * double.cos() + change[:, 1]
    s = 0.5 * (u - v) * double.sin() + change[:, 2]
    half = torch.hypot(c, s)
    new = torch.rad2deg(0.5 * torch.atan2(s, c))
    same = (change[:, 1:] == 0).all(1)
    half = torch.where(same, 0.5 * (u - v), half)
    return replace(particles, defocus=torch.stack([mean + half, mean - half, torch.where(same, angle, new)], -1))


def with_defocus(particles: Particles, found: DefocusRefinement | AstigmatismRefinement, match: Match) -> Particles:
    """Particles with the refined defocus; what was not determined stays as it was."""
    if isinstance(found, DefocusRefinement):
        change = torch.zeros(len(particles), 3, dtype=torch.float64)
        change[:, 0] = found.offset_in_angstroms
        return _moved(particles, change)
    return _moved(particles, found.change_in_angstroms[match.noise.micrograph])
