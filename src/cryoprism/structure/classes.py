"""Maximum-likelihood classification of particle images in two dimensions, with resolution from independent halves.

Expectation maximisation (Sigworth 1998, J. Struct. Biol. 122, 328; Scheres et al. 2005, J. Mol. Biol. 348, 139) with
contrast transfer, marginalised over class, in-plane angle and shift. It runs in three stages:

1. *draws*: small random batches update running sums, at low and growing resolution;
2. *whole*: all particles, still up to the joint radius (a quarter of the particle's diameter);
3. *halves*: beyond that radius the two halves of the particles have references of their own, as in gold-standard
   refinement (Scheres & Chen 2012, Nat. Methods 9, 853). Their correlation regularises the averages (Wiener) and is the
   resolution. What is found only up to the joint radius proves nothing, since there noise follows the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoprism.core import InputError, generator_for, resolve_device

from ._classes_data import ClassData, class_data, draw_batch, initial_noise, initial_tables
from ._classes_plane import averages_from_sums, insert_rotated, shell_means
from ._classes_results import Classification, ClassificationState, select_classes
from ._classes_search import Level, Posterior, Views, expectation, moved, prepare_views, search_levels
from ._classes_updates import (
    centred,
    class_ratio,
    half_correlation,
    half_evidence,
    half_references,
    refill_empty,
    smoothed,
)
from ._packing import packed_frequencies, packed_shells
from .fsc import noise_limit

__all__ = ["Classification", "ClassificationState", "classify", "memory_of_classification_in_bytes", "select_classes"]

_BATCH_BYTES = 96 << 20
_STILL = 0.02  # share of particles that may still change class at the end
_FLAT = 0.003  # relative change of the log-likelihood over three iterations
_ENOUGH_ROUNDS = 4
_LOWEST_FRC = 0.143
_SMOOTHING = math.sqrt(3 / 8)  # what smoothing over ¼, ½, ¼ leaves of a deviation
# Of half_evidence for a class of pure noise, measured on 232 of them.
_NOISE_MEAN, _NOISE_DEVIATION = 0.35, 1.1
_PROOF = 3.5  # deviations: one in some 4000 sets of noise
_FEWEST = 10  # particles of a class that counts


def classify(
    images: Tensor,
    transfer: Tensor | None = None,
    *,
    classes: int,
    diameter_in_angstroms: float,
    pixel_size_in_angstroms: float,
    iterations: int = 25,
    max_shift_in_angstroms: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    groups: Tensor | None = None,
    half_set: Tensor | None = None,
    state: ClassificationState | None = None,
    on_iteration: Callable[[ClassificationState], None] | None = None,
) -> Classification:
    """Classify particle images.

    Parameters
    ----------
    images
        (n, box, box), protein bright, centre at pixel box // 2; the background is brought to mean 0, deviation 1.
    transfer
        Contrast transfer, packed (n, N) at radius (box - 1) // 2, or (n, box, box // 2 + 1); 1 if absent.
    classes
        Number of classes; some may end up empty.
    diameter_in_angstroms
        Of the circle that holds the particle [Å].
    pixel_size_in_angstroms
        Of the images [Å].
    iterations
        At most; fewer where nothing changes any more.
    max_shift_in_angstroms
        Shift from the centre that is looked for in each iteration [Å]; a tenth of the diameter if absent.
    seed
        Of draws and of the half sets; the same seed gives the same result on a CPU.
    device
        Where the work is done.
    groups
        (n,) number of the micrograph: groups of at least 30 particles get noise of their own.
    half_set
        (n,) 1 or 2; drawn if absent.
    state, on_iteration
        Continue from a state; called with the state after each iteration, to keep it.

    Raises
    ------
    InputError
        Shapes or numbers that do not fit each other.
    """
    data = class_data(
        images,
        transfer,
        diameter=diameter_in_angstroms / pixel_size_in_angstroms,
        max_shift=(max_shift_in_angstroms or 0.1 * diameter_in_angstroms) / pixel_size_in_angstroms,
        groups=groups,
        half_set=half_set,
        seed=seed,
        device=resolve_device(device),
    )
    if not 1 <= classes <= data.count:
        raise InputError(
            "classes", f"{classes} for {data.count} particles", "Use at least 1, and fewer than particles."
        )
    if iterations < 1:
        raise InputError("iterations", f"{iterations}", "Use at least 1; 25 is usual.")
    now = _initial_state(data, classes, seed) if state is None else state
    if now.class_index.numel() != data.count or now.fraction.numel() != classes:
        raise InputError("state", "belongs to other particles or classes", "Start anew.")
    while now.iteration < iterations and not now.converged:
        now = _iterate(data, now, iterations, seed)
        if on_iteration is not None:
            on_iteration(now)
    return _finished(data, now, pixel_size_in_angstroms)


def memory_of_classification_in_bytes(count: int, box: int, classes: int) -> int:
    """Peak memory of :func:`classify` [bytes] with its images and contrast transfers."""
    coefficients = box * box // 2
    angles = math.ceil(math.pi * box)
    views = classes * angles * coefficients * (8 + 4 + 3 * 4)
    return count * (4 * box * box + 4 * coefficients) + 2 * views + 3 * _BATCH_BYTES + 40 * classes * 4 * box * box


def _initial_state(data: ClassData, classes: int, seed: int) -> ClassificationState:
    noise = initial_noise(data)
    zero = torch.zeros(data.count)
    return ClassificationState(
        iteration=0,
        radius=data.start_radius,
        changed=1.0,
        converged=False,
        tables=initial_tables(data, noise, classes, seed),
        noise=noise,
        fraction=torch.full((classes,), 1.0 / classes),
        origins=torch.zeros(data.count, 2, dtype=torch.long),
        shift=torch.zeros(data.count, 2),
        class_index=torch.full((data.count,), -1),
        psi_in_degrees=zero,
        probability=zero,
        log_likelihood=zero,
        trace=torch.zeros(0),
    )


@dataclass(frozen=True)
class _Plan:
    """What an iteration does: how many particles, up to which radius, how much of the old sums it replaces.

    ``rounds`` counts the iterations with halves apart, this one included.
    """

    particles: int
    radius: int
    step: float
    rounds: int = 0


def _plan(data: ClassData, state: ClassificationState, iterations: int) -> _Plan:
    classes = int(state.fraction.numel())
    draws, whole = max(1, iterations * 12 // 25), max(1, iterations * 3 // 25)
    i = state.iteration
    if i < draws + whole:
        reached = min(1.0, i / max(1, draws - 1))
        radius = round(data.start_radius + reached * (data.joint_radius - data.start_radius))
        drawn = max(300, 30 * classes)
        if i < draws and drawn < data.count:
            return _Plan(drawn, radius, max(0.35, 1.0 / (i + 1)))
        return _Plan(data.count, radius, 1.0)
    if i == draws + whole:
        radius = round(1.6 * data.joint_radius)
    else:
        best = int(max(_crossings(data, state.tables, state.radius)[0]))
        radius = max(round(1.25 * best) + 2, data.joint_radius + 3)
    return _Plan(data.count, min(radius, data.grid.radius), 1.0, i - draws - whole + 1)


def _references(data: ClassData, state: ClassificationState, halves: bool) -> tuple[Tensor, Tensor]:
    """Make references (K, box, box) of the two halves."""
    tables = state.tables.to(data.device)
    if halves:
        return half_references(tables, data.grid, data.mask, data.joint_radius, state.radius)
    ratio = class_ratio(tables.sum(0), data.grid, data.mask, state.radius)
    both = averages_from_sums(tables.sum(0), data.grid, ratio, state.radius)
    both = data.masked(both)
    return both, both


def _iterate(data: ClassData, state: ClassificationState, iterations: int, seed: int) -> ClassificationState:
    plan = _plan(data, state, iterations)
    levels = search_levels(data.grid.box, plan.radius, data.diameter, data.max_shift)
    first, second = _references(data, state, plan.rounds > 0)
    views = prepare_views(first, data.grid, levels)
    chosen = draw_batch(data, plan.particles, generator_for(seed, "classes", state.iteration))
    found = _Found(data, state, levels[-1], int(state.fraction.numel()))
    # Equal for all classes: one that follows their size lets the largest swallow the others.
    prior = torch.zeros_like(state.fraction)
    for half in (0, 1):
        if half == 1 and second is not first:
            views = prepare_views(second, data.grid, levels)
        mine = chosen[data.half_set[chosen] == half + 1]
        for rows in torch.split(mine, _batch_size(levels, int(state.fraction.numel()))):
            found.add(rows, half, _expected(data, state, rows, views, prior))
        found.close(half)
    return _maximised(data, state, plan, found)


def _batch_size(levels: tuple[Level, ...], classes: int) -> int:
    coarse = 4 * levels[0].shifts ** 2 * classes * levels[0].angles
    fine = 128 * packed_frequencies(levels[-1].radius).shape[0] * 16
    return max(4, min(256, _BATCH_BYTES // max(coarse, fine)))


def _expected(
    data: ClassData, state: ClassificationState, rows: Tensor, views: tuple[Views, ...], prior: Tensor
) -> Posterior:
    images, transfer = data.batch(rows)
    count = packed_frequencies(views[-1].level.radius).shape[0]
    shells = packed_shells(views[-1].level.radius)
    noise = state.noise[data.groups[rows]][:, shells].to(data.device)
    origins = state.origins[rows].to(data.device)
    return expectation(
        moved(images, origins),
        transfer[:, :count],
        noise,
        views,
        origins=origins.float(),
        spread=data.max_shift,
        class_prior=prior.to(data.device),
    )


class _Found:
    """Sums of one pass, filled batch by batch."""

    def __init__(self, data: ClassData, state: ClassificationState, level: Level, classes: int) -> None:
        self.level, self.data, self.state = level, data, state
        self._shells = packed_shells(level.radius)
        self._sums = torch.zeros(classes * level.angles, self._shells.numel(), 3, device=data.device)
        self.tables = torch.zeros(2, classes, *data.grid.shape, 3)
        self.power = torch.zeros(state.noise.shape[0], level.radius + 1)
        self.members = torch.zeros(state.noise.shape[0])
        self.fraction = torch.zeros(classes)
        self.rows: list[Tensor] = []
        self.poses: list[tuple[Tensor, ...]] = []

    def add(self, rows: Tensor, half: int, posterior: Posterior) -> None:
        self._sums.index_add_(0, posterior.cell, posterior.sums)
        residual = shell_means(posterior.residual.cpu(), self._shells, self.level.radius + 1)
        group = self.data.groups[rows]
        self.power.index_add_(0, group, residual)
        self.members += torch.bincount(group, minlength=self.members.numel())
        self.fraction += posterior.share.sum(0).cpu()
        poses = (posterior.best_class, posterior.psi_in_degrees, posterior.shift, posterior.probability, posterior.gain)
        self.rows.append(rows)
        self.poses.append(tuple(pose.cpu() for pose in (*poses, posterior.alone)))

    def close(self, half: int) -> None:
        classes = int(self.fraction.numel())
        sums = self._sums.view(classes, self.level.angles, -1, 3)
        self.tables[half] = insert_rotated(sums, self.data.grid, self.level.angles, self.level.radius).cpu()
        self._sums.zero_()


def _maximised(data: ClassData, state: ClassificationState, plan: _Plan, found: _Found) -> ClassificationState:
    rows = torch.cat(found.rows)
    index, psi, shift, probability, gain, alone = (torch.cat([poses[i] for poses in found.poses]) for i in range(6))
    share = len(rows) / data.count
    tables = found.tables / share
    fraction = found.fraction / len(rows)
    if plan.step < 1.0:
        tables = plan.step * tables + (1 - plan.step) * state.tables
        fraction = plan.step * fraction + (1 - plan.step) * state.fraction
    noise = state.noise.clone()
    known = found.members > 0
    fresh = (found.power[known] / found.members[known, None])[:, 1:]
    old = noise[known, 1 : plan.radius + 1]
    noise[known, 1 : plan.radius + 1] = plan.step * fresh.clamp_min(0.05 * old) + (1 - plan.step) * old
    changed = 1.0 if plan.particles < data.count else float((index != state.class_index[rows]).float().mean())
    everyone = {
        "class_index": _put(state.class_index, rows, index),
        "psi_in_degrees": _put(state.psi_in_degrees, rows, psi),
        "probability": _put(state.probability, rows, probability),
        "log_likelihood": _put(state.log_likelihood, rows, gain + alone),
    }
    # The whole part of a shift goes into the origin that the next iteration starts from.
    total = state.origins[rows] + shift
    whole = total.round().long()
    origins = _put(state.origins, rows, whole)
    if plan.rounds == 0:
        tables = refill_empty(tables, fraction)
        tables = centred(tables.to(data.device), data.grid, data.mask, plan.radius).cpu()
    trace = torch.cat([state.trace, gain.mean()[None]])
    # Halves of one class may go on exchanging places for ever: that the likelihood stands still is enough.
    still = float((trace[-3:] - trace[-1]).abs().max()) < _FLAT * abs(float(trace[-1])) or changed < _STILL
    converged = plan.rounds >= _ENOUGH_ROUNDS and abs(plan.radius - state.radius) <= 1 and still
    return replace(
        state,
        iteration=state.iteration + 1,
        radius=plan.radius,
        changed=changed,
        converged=converged,
        tables=tables,
        noise=noise,
        fraction=fraction,
        origins=origins,
        shift=_put(state.shift, rows, total - whole),
        trace=trace,
        **everyone,
    )


def _put(values: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    out = values.clone()
    out[rows] = new.to(out.dtype)
    return out


def _crossings(data: ClassData, tables: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Shell (K,) at which the correlation of the halves ends, fractional, and the correlation (K, shells)."""
    frc = half_correlation(tables.to(data.device), data.grid, data.mask, data.joint_radius, data.grid.radius).cpu()
    frc[:, radius + 1 :] = 0.0  # nothing is there but what the mask spreads
    count = 2.0 * torch.bincount(packed_shells(data.grid.radius), minlength=frc.shape[1]).float()
    limit = noise_limit(count, 2.0 * _SMOOTHING, mask_fraction=data.mask_fraction).clamp_min(_LOWEST_FRC)
    smooth = smoothed(frc)
    below = smooth < limit
    below[:, 0] = False
    shells = torch.full((frc.shape[0],), float(frc.shape[1] - 1))
    for k in range(frc.shape[0]):
        where = below[k].nonzero()
        if where.numel():
            s = int(where[0, 0])
            above, under = float(smooth[k, s - 1] - limit[s - 1]), float(limit[s] - smooth[k, s])
            shells[k] = max(1.0, s - 1 + above / max(above + under, 1e-6)) if s > 1 else 1.0
    return shells, frc


def _finished(data: ClassData, state: ClassificationState, pixel: float) -> Classification:
    order = torch.argsort(state.fraction, descending=True, stable=True)
    rank = torch.argsort(order)
    tables = state.tables[:, order].to(data.device)
    crossing, frc = _crossings(data, tables, state.radius)
    correlation = smoothed(frc).clamp(1e-3, 0.9999)
    ratio = (2 * correlation / (1 - correlation)).to(data.device)
    averages = data.masked(averages_from_sums(tables.sum(0), data.grid, ratio, state.radius))
    extent = data.grid.box * pixel
    last = min(state.radius, round(2.5 * data.joint_radius))
    evidence = half_evidence(tables, data.grid, data.mask, data.joint_radius, state.radius, last).cpu()
    # All classes together show whether there are particles at all; each is then judged by its own curve.
    counted = state.fraction[order] * data.count >= _FEWEST
    excess = float((evidence[counted] - _NOISE_MEAN).sum())
    proof = excess / (_NOISE_DEVIATION * math.sqrt(max(1, int(counted.sum()))))
    proven = counted & (crossing > data.joint_radius + 1) & (proof > _PROOF)
    resolution = torch.where(proven, extent / crossing, torch.inf)
    reach = int(crossing[proven].max()) if bool(proven.any()) else 0
    beyond = frc[:, data.joint_radius + 1 : max(reach, data.joint_radius + 1) + 1]
    return Classification(
        averages=averages.cpu(),
        class_index=rank[state.class_index.clamp_min(0)],
        probability=state.probability,
        log_likelihood=state.log_likelihood,
        psi_in_degrees=torch.remainder(state.psi_in_degrees + 180, 360) - 180,
        origins_in_angstroms=(state.origins + state.shift).double() * pixel,
        fraction=state.fraction[order],
        frc=frc,
        resolution_in_angstroms=resolution,
        joint_resolution_in_angstroms=extent / data.joint_radius,
        evidence=evidence,
        proof=proof,
        score=beyond.clamp(-1.0, 1.0).mean(1).clamp_min(0.0),
        trace=state.trace,
        converged=state.converged,
    )
