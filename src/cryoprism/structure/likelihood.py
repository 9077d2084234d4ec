"""How well orientations and shifts of a map explain particle images: the expectation step of refinement.

With packed coefficients X of an image, its transfer C, noise variance σ² = E|n|² and the slice R of the map,

    log p(X | orientation, shift) = Σ 2 Re(C X* S R) / σ² - Σ C² |R|² / σ²  + const,

summed over the half plane; S is the phase ramp of the shift. Both sums are matrix products: of the shifted,
transfer-weighted images with the slices, and of C²/σ² with |R|². Images are not masked: a map with a compact support
sees only what the transfer spreads from there, and a mask would cut off high frequencies that defocus has carried
outside of it.

The posterior is found by branch and bound over nested cells: at each level the cells that can still hold a share of the
posterior are divided, and more shells take part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from cryoprism.core import InputError

from ._packing import packed_frequencies
from .orientations import OrientationCells, shift_disc
from .slices import FourierVolume

__all__ = [
    "AlignmentData",
    "PosePrior",
    "Posterior",
    "SearchPlan",
    "packed_count",
    "radius_of",
    "real_and_imaginary",
    "search",
    "search_around",
]

_CACHE_IN_BYTES = 1_200_000_000
_NEAR_IN_STEPS = 2.1
# What a CPU's batch and all that is alive beside it take, and how many such batches a GPU works on at most.
_BATCH_IN_BYTES = 640_000_000
_BATCHES_ON_GPU = 32


@dataclass(frozen=True)
class AlignmentData:
    """What an expectation step needs of n particles; groups are micrographs.

    Attributes
    ----------
    images
        (n, N) complex64 packed transforms of the whole images; they may stay in the host's memory while the search
        works on another device.
    transfer
        (n, N) float32 CTF times the envelope that is modelled.
    noise_variance
        (groups, N) variance E|n|² of a coefficient.
    group
        (n,) group of each particle.
    box
        Side of the images [pixels].
    """

    images: Tensor
    transfer: Tensor
    noise_variance: Tensor
    group: Tensor
    box: int

    def __len__(self) -> int:
        """Return the number of particles."""
        return int(self.images.shape[0])

    def subset(self, chosen: Tensor) -> AlignmentData:
        """Return the particles ``chosen`` (indices or mask)."""
        return AlignmentData(
            self.images[chosen], self.transfer[chosen], self.noise_variance, self.group[chosen], self.box
        )

    def weighted(self, chosen: slice, count: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """C·X/σ² and C²/σ² (m, count) of some particles, for the first ``count`` coefficients, on ``device``."""
        transfer = self.transfer[chosen, :count]
        over_noise = transfer / self.noise_variance[self.group[chosen], :count]
        pair = self.images[chosen, :count] * over_noise, transfer * over_noise
        return pair if device is None else (pair[0].to(device), pair[1].to(device))


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


class PosePrior(Protocol):
    """What is known of poses before the images; :class:`cryoprism.structure.FilamentPrior` is one."""

    def possible(self, rotations: Tensor, margin_in_degrees: float) -> Tensor:
        """Whether cells (m,) about rotations (m, 3, 3) are searched at all."""

    def orientations(self, rotations: Tensor, rows: slice) -> Tensor:
        """Log prior (b or 1, m) of rotations (b or 1, m, 3, 3) of some particles."""

    def shifts(self, shifts: Tensor, rotations: Tensor, step: float) -> Tensor:
        """Log prior (b, s, m) of shifts (b, s, 2) on a grid of ``step`` at rotations (b, m, 3, 3)."""

    def log_volume(self, step: float) -> float:
        """Log share of one shift."""


@dataclass(frozen=True)
class Posterior:
    """Posterior of n particles over their last candidates, padded to the same number.

    Attributes
    ----------
    rotations
        (n, m, 3, 3).
    shifts
        (n, s, 2) x, y [pixels]: what brings the particle to the centre.
    weights
        (n, s, m), sum 1 for each particle; 0 for padding.
    log_evidence
        (n,) log of the likelihood's mean under the prior of poses, against an empty image; grids of different
        orders are comparable. A local search leaves the prior out.
    """

    rotations: Tensor
    shifts: Tensor
    weights: Tensor
    log_evidence: Tensor

    def best(self) -> tuple[Tensor, Tensor]:
        """Most probable rotation (n, 3, 3) and its most probable shift (n, 2)."""
        count = self.weights.shape[2]
        orientation = self.weights.sum(1).argmax(1)
        rows = torch.arange(len(orientation), device=orientation.device)
        shift = self.weights[rows, :, orientation].argmax(1) if count else orientation
        return self.rotations[rows, orientation], self.shifts[rows, shift]

    def probability(self) -> Tensor:
        """Posterior (n,) of the most probable orientation."""
        return self.weights.sum(1).amax(1)

    def effective_orientations(self) -> Tensor:
        """Return the number (n,) of orientations that share the posterior, 1 / Σ p²."""
        return 1.0 / self.weights.sum(1).square().sum(1).clamp_min(1e-12)


@dataclass
class _Parts:
    rotations: list[Tensor] = field(default_factory=list)
    shifts: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    evidence: list[Tensor] = field(default_factory=list)

    def add(
        self, rotations: Tensor, shifts: Tensor, scores: Tensor, keep: int, log_prior: float | Tensor = 0.0
    ) -> None:
        marginal = torch.logsumexp(scores, 1)
        kept = min(keep, marginal.shape[1])
        _, chosen = marginal.topk(kept, 1)
        scores = scores.gather(2, chosen[:, None].expand(-1, scores.shape[1], -1))
        total = torch.logsumexp(scores.flatten(1), 1)
        self.weights.append(torch.exp(scores - total[:, None, None]))
        self.rotations.append(rotations.gather(1, chosen[..., None, None].expand(-1, -1, 3, 3)))
        self.shifts.append(shifts)
        self.evidence.append(total + log_prior)

    def joined(self) -> Posterior:
        return Posterior(
            torch.cat(self.rotations), torch.cat(self.shifts), torch.cat(self.weights), torch.cat(self.evidence)
        )


def packed_count(radius: int) -> int:
    """Return the number N of packed coefficients inside a radius."""
    return int(packed_frequencies(radius).shape[0])


def radius_of(images: Tensor) -> int:
    """Return the radius at which images (n, N) were packed."""
    radius = int(math.sqrt(2 * images.shape[1] / math.pi)) + 2
    while packed_count(radius) > images.shape[1]:
        radius -= 1
    return radius


def real_and_imaginary(values: Tensor) -> Tensor:
    """Real and imaginary parts in turn, (..., 2 N), without a copy: products of these are Re(a* b)."""
    return torch.view_as_real(values.resolve_conj()).flatten(-2)


def shift_phases(shifts: Tensor, count_radius: int, box: int) -> Tensor:
    """Phase ramps (..., N) complex that move images by shifts (..., 2) x, y [pixels]."""
    k = packed_frequencies(count_radius, shifts.device).to(shifts)
    angle = (-2 * math.pi / box) * (shifts @ k.T)
    return torch.polar(torch.ones_like(angle), angle)


def _batch_size(numbers: float, each: int, most: int, device: torch.device) -> int:
    """Particles worked on together: ``numbers`` over what ``each`` takes; a GPU has many more, in half its memory."""
    many = 1
    if device.type == "cuda":
        many = max(1, min(_BATCHES_ON_GPU, torch.cuda.mem_get_info(device)[0] // (2 * _BATCH_IN_BYTES)))
    return max(1, min(most * many, int(numbers * many / max(1, each))))


def _batches(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


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
    size = _batch_size(4e7, len(disc) * len(ids), 64, device)
    kept = min(plan.keep, len(ids))
    origins = torch.zeros(len(data), 2, device=device) if near is None else near.to(device)
    log_shifts = _shift_prior(disc[None], plan.shift_range)
    if prior is not None:
        log_shifts = prior.shifts(disc[None], turns[None], plan.shift_step)
    total = torch.full((len(data),), math.log(len(ids)), device=device)
    cells_out, shifts_out = [], []
    for run in _batches(len(data), size):
        values, weights = data.weighted(run, count, device)
        if near is not None:
            values = values * shift_phases(origins[run, None], radius, data.box)[:, 0]
            log_shifts = _shift_prior(origins[run, None] + disc, plan.shift_range)
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


def _shift_prior(shifts: Tensor, scale: float) -> Tensor:
    """Log prior (..., s, 1) of shifts: Gaussian with half the search range as its standard deviation."""
    sigma = max(0.5 * scale, 1e-3)
    return -0.5 * (shifts / sigma).square().sum(-1, keepdim=True)


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
    parts = _Parts()
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
        size = _batch_size(3e7, children.shape[1] * count, 32, device)
        for run in _batches(len(data), size):
            if cached is not None:
                slices = cached[place[run].reshape(-1)]
            else:
                slices = volume.slices(cells.matrices(children[run].reshape(-1)), radius)
            slices = slices.reshape(*children[run].shape, count)
            shifts = centre[run, None] + around
            scores = _scores(data, run, slices, shifts, radius)
            if prior is None:
                scores = scores + _shift_prior(shifts, plan.shift_range)
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


def _log_prior(prior: PosePrior, shifts: Tensor, rotations: Tensor, run: slice, step: float) -> Tensor:
    """Log prior (b, s, m) of shifts (b, s, 2) and rotations (b, m, 3, 3)."""
    return prior.shifts(shifts, rotations, step) + prior.orientations(rotations, run)[:, None]


def _scores(data: AlignmentData, run: slice, slices: Tensor, shifts: Tensor, radius: int) -> Tensor:
    """Log likelihoods (b, s, m) of slices (b, m, N) and shifts (b, s, 2)."""
    values, weights = data.weighted(run, slices.shape[-1], slices.device)
    moved = values[:, None] * shift_phases(shifts, radius, data.box)
    flat = real_and_imaginary(slices)
    cross = torch.bmm(real_and_imaginary(moved), flat.transpose(1, 2))
    power = torch.bmm(flat.square(), weights.repeat_interleave(2, -1)[..., None]).transpose(1, 2)
    return 2 * cross - power


def _ball_of_rotations(step_in_degrees: float, reach: int) -> Tensor:
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
    ball = _ball_of_rotations(step_in_degrees, reach).to(device)
    around = shift_disc(shift_step * shift_reach, shift_step, device)
    rotations, shifts = rotations.to(device), shifts.to(device)
    parts = _Parts()
    size = _batch_size(3e7, len(ball) * count, 32, device)
    for run in _batches(len(data), size):
        candidates = ball[None] @ rotations[run, None]
        slices = volume.slices(candidates.reshape(-1, 3, 3), radius).reshape(*candidates.shape[:2], count)
        moves = shifts[run, None] + around
        scores = _scores(data, run, slices, moves, radius)
        if prior is not None:
            scores = scores + _log_prior(prior, moves, candidates, run, shift_step)
        parts.add(candidates, moves, scores, keep_last)
    return parts.joined()
