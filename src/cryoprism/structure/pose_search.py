"""The search for poses: branch and bound over nested cells, and a local grid about known poses.

At each level the cells that can still hold a share of the posterior are divided, and more shells take part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError

from .likelihood import (
    AlignmentData,
    PosePrior,
    Posterior,
    PosteriorParts,
    batch_size,
    batches,
    log_shift_prior,
    packed_count,
    real_and_imaginary,
    scores_of,
    shift_phases,
)
from .orientations import OrientationCells, shift_disc
from .slices import FourierVolume

__all__ = ["SearchPlan", "ball_of_rotations", "search", "search_around"]

_CACHE_IN_BYTES = 1_200_000_000
# Shifts searched about known ones, in steps of the first level.
_NEAR_IN_STEPS = 2.1


@dataclass(frozen=True)
class SearchPlan:
    """From which cells to which, with how many shells, over which shifts.

    Attributes
    ----------
    orders
        HEALPix orders, each one above the one before.
    radii
        Shells used at each order.
    shift_range, shift_step
        Disc of shifts searched first and its step [pixels]; the step halves with every order.
    keep
        Most cells that are divided further at each level.
    """

    orders: tuple[int, ...]
    radii: tuple[int, ...]
    shift_range: float
    shift_step: float
    keep: int = 32

    def __post_init__(self) -> None:
        if len(self.orders) != len(self.radii) or not self.orders:
            raise InputError("search plan", f"{len(self.orders)} orders, {len(self.radii)} radii", "Give pairs.")


def search(
    data: AlignmentData,
    volume: FourierVolume,
    plan: SearchPlan,
    *,
    symmetry: str = "C1",
    offset: Tensor | None = None,
    prior: PosePrior | None = None,
    near: Tensor | None = None,
    keep_last: int = 64,
) -> Posterior:
    """Posterior over all orientations and shifts of every particle, by branch and bound.

    Parameters
    ----------
    data
        Particles.
    volume
        Transform of the reference, in the units of the images, with a compact support in real space.
    plan
        Levels of the search.
    symmetry
        Point group of the reference.
    offset
        (3, 3) rotation of the grid; none if absent.
    prior
        Of poses; all orientations alike and Gaussian shifts about 0, half their range wide, if absent.
    near
        (n, 2) shifts [pixels] about which the first level looks, two of its steps around, instead of over the whole
        range; the prior of shifts stays as it is. Not together with ``prior``.
    keep_last
        Most orientations that the posterior keeps for a particle.
    """
    device = volume.table.device
    cells = OrientationCells(plan.orders[0], torch.eye(3, device=device) if offset is None else offset.to(device))
    ids_all = cells.asymmetric_unit(symmetry).to(device)
    if prior is not None:
        ids_all = ids_all[prior.possible(cells.matrices(ids_all), cells.width_in_degrees)]
    ids, centre, total = _coarse(data, volume, cells, ids_all, plan, prior, near)
    step = plan.shift_step
    if len(plan.orders) == 1:
        raise InputError("search plan", "one level only", "Give at least two orders.")
    parts = PosteriorParts()
    # What a candidate of the last level is worth before the data: its share of all orientations and of the shifts.
    levels = len(plan.orders) - 1
    area = (plan.shift_step / 2**levels) ** 2 / (2 * math.pi * (0.5 * plan.shift_range) ** 2)
    log_prior: float | Tensor = math.log(area) - math.log(len(ids_all) * 8**levels)
    if prior is not None:
        log_prior = prior.log_volume(plan.shift_step / 2**levels) - levels * math.log(8) - total
    for level, radius in enumerate(plan.radii[1:], start=1):
        last = level == len(plan.orders) - 1
        children = cells.children(ids).flatten(1)
        cells = cells.finer()
        step = step / 2
        count = packed_count(radius)
        around = shift_disc(2 * step, step, device)
        unique, place = torch.unique(children, return_inverse=True)
        cached = None
        if len(unique) * count * 8 <= _CACHE_IN_BYTES:
            cached = torch.cat([volume.slices(cells.matrices(c), radius) for c in torch.split(unique, 4096)])
        next_ids, next_centre = [], []
        size = batch_size(3e7, children.shape[1] * count, 32, device)
        for run in batches(len(data), size):
            if cached is not None:
                slices = cached[place[run].reshape(-1)]
            else:
                slices = volume.slices(cells.matrices(children[run].reshape(-1)), radius)
            slices = slices.reshape(*children[run].shape, count)
            shifts = centre[run, None] + around
            scores = scores_of(data, run, slices, shifts, radius)
            if prior is None:
                scores = scores + log_shift_prior(shifts, plan.shift_range)
            else:
                scores = scores + _log_prior(prior, shifts, cells.matrices(children[run]), run, step)
            if last:
                share = log_prior[run] if isinstance(log_prior, Tensor) else log_prior
                parts.add(cells.matrices(children[run]), shifts, scores, keep_last, share)
                continue
            marginal = torch.logsumexp(scores, 1)
            kept = min(plan.keep, marginal.shape[1])
            top = marginal.topk(kept, 1).indices
            next_ids.append(children[run].gather(1, top))
            flat = scores.flatten(1).argmax(1) // scores.shape[2]
            next_centre.append(shifts[torch.arange(len(flat), device=device), flat])
        if not last:
            ids, centre = torch.cat(next_ids), torch.cat(next_centre)
    return parts.joined()


def _coarse(
    data: AlignmentData,
    volume: FourierVolume,
    cells: OrientationCells,
    ids: Tensor,
    plan: SearchPlan,
    prior: PosePrior | None,
    near: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Best cells (n, keep), best shift (n, 2) over all cells ``ids`` and the disc of shifts; log Σ prior (n,)."""
    radius = plan.radii[0]
    count = packed_count(radius)
    device = volume.table.device
    turns = cells.matrices(ids)
    slices = volume.slices(turns, radius)
    columns, power = real_and_imaginary(slices).T.contiguous(), (slices.abs() ** 2).T.contiguous()
    reach = plan.shift_range if near is None else min(plan.shift_range, _NEAR_IN_STEPS * plan.shift_step)
    disc = shift_disc(reach, plan.shift_step, device)
    ramps = shift_phases(disc, radius, data.box)
    size = batch_size(4e7, len(disc) * len(ids), 64, device)
    kept = min(plan.keep, len(ids))
    origins = torch.zeros(len(data), 2, device=device) if near is None else near.to(device)
    log_shifts = log_shift_prior(disc[None], plan.shift_range)
    if prior is not None:
        log_shifts = prior.shifts(disc[None], turns[None], plan.shift_step)
    total = torch.full((len(data),), math.log(len(ids)), device=device)
    cells_out, shifts_out = [], []
    for run in batches(len(data), size):
        values, weights = data.weighted(run, count, device)
        if near is not None:
            values = values * shift_phases(origins[run, None], radius, data.box)[:, 0]
            log_shifts = log_shift_prior(origins[run, None] + disc, plan.shift_range)
        moved = real_and_imaginary(values[:, None] * ramps)
        scores = 2 * (moved.reshape(-1, 2 * count) @ columns).reshape(len(values), len(disc), -1)
        scores = scores - (weights @ power)[:, None] + log_shifts
        if prior is not None:
            log_turns = prior.orientations(turns[None], run)
            scores = scores + log_turns[:, None]
            total[run] = torch.logsumexp(log_turns, 1)
        # The sum over shifts ranks orientations; its maximum alone would favour sharp noise peaks.
        best, where = scores.max(1)
        marginal = best + torch.log(torch.exp(scores - best[:, None]).sum(1))
        top = marginal.topk(kept, 1).indices
        cells_out.append(ids[top])
        shifts_out.append(origins[run] + disc[where.gather(1, top[:, :1])[:, 0]])
    return torch.cat(cells_out), torch.cat(shifts_out), total


def _log_prior(prior: PosePrior, shifts: Tensor, rotations: Tensor, run: slice, step: float) -> Tensor:
    """Log prior (b, s, m) of shifts (b, s, 2) and rotations (b, m, 3, 3)."""
    return prior.shifts(shifts, rotations, step) + prior.orientations(rotations, run)[:, None]


def search_around(
    data: AlignmentData,
    volume: FourierVolume,
    rotations: Tensor,
    shifts: Tensor,
    *,
    step_in_degrees: float,
    reach: int,
    shift_step: float,
    shift_reach: int,
    radius: int,
    prior: PosePrior | None = None,
    keep_last: int = 64,
) -> Posterior:
    """Posterior on a local grid about known poses.

    Parameters
    ----------
    rotations, shifts
        (n, 3, 3) and (n, 2) [pixels]: the poses that the grids are centred on.
    step_in_degrees, reach
        Step of the grid of rotation vectors, and how many steps it goes in every direction.
    shift_step, shift_reach
        The same for shifts [pixels].
    radius
        Shells used.
    prior
        Of poses; all alike if absent.
    """
    count = packed_count(radius)
    device = volume.table.device
    ball = ball_of_rotations(step_in_degrees, reach).to(device)
    around = shift_disc(shift_step * shift_reach, shift_step, device)
    rotations, shifts = rotations.to(device), shifts.to(device)
    parts = PosteriorParts()
    size = batch_size(3e7, len(ball) * count, 32, device)
    for run in batches(len(data), size):
        candidates = ball[None] @ rotations[run, None]
        slices = volume.slices(candidates.reshape(-1, 3, 3), radius).reshape(*candidates.shape[:2], count)
        moves = shifts[run, None] + around
        scores = scores_of(data, run, slices, moves, radius)
        if prior is not None:
            scores = scores + _log_prior(prior, moves, candidates, run, shift_step)
        parts.add(candidates, moves, scores, keep_last)
    return parts.joined()


def ball_of_rotations(step_in_degrees: float, reach: int) -> Tensor:
    """Small rotations (m, 3, 3) on a cubic grid of rotation vectors inside a ball, the identity first."""
    axis = torch.arange(-reach, reach + 1, dtype=torch.float64)
    vectors = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    vectors = vectors[vectors.norm(dim=1) <= reach + 1e-6]
    vectors = vectors[vectors.norm(dim=1).argsort(stable=True)] * math.radians(step_in_degrees)
    zero = torch.zeros(len(vectors), dtype=torch.float64)
    x, y, z = vectors.unbind(-1)
    generator = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    rotations: Tensor = torch.linalg.matrix_exp(generator).float()
    return rotations
