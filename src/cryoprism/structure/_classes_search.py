"""Posterior of class, in-plane angle and shift of each particle: all of them coarsely, then the likely ones finely.

With X the packed transform of a particle, H its contrast transfer, σ² = E|noise|² per coefficient and R the view of a
class, the log-likelihood of a shift t over that of noise alone is, over the half plane,

    2 Re⟨X H / σ² · exp(-2πi k·t), R⟩ - ⟨H² / σ², |R|²⟩,

the first term a matrix product with particles × shifts as rows and classes × angles as columns, the second one with
particles as rows. Cells are halved from level to level: the children of angle cell j are 2j and 2j + 1, those of a
shift cell its four quarters, so that no pose is counted twice.

Images are not masked: references are, and what they do not cover weighs nothing in the products. A mask on the images
would tie neighbouring shells together, and noise that follows the common low frequencies would creep outwards from
shell to shell until the halves agree on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from cryoprism.core import rfft2

from ._classes_plane import PlaneGrid, rotated_views
from ._packing import pack, packed_frequencies

__all__ = ["Level", "Posterior", "Views", "expectation", "moved", "prepare_views", "search_levels"]

_COARSE_ANGLES = 60  # about 6°
_FEWEST_ANGLES = 24
_CELLS, _SHIFTS = 64, 6  # (class, angle) and shift cells of a particle that are refined at each level
_NEGLIGIBLE = 1e-4  # share of a particle


@dataclass(frozen=True)
class Level:
    """One fineness of the search.

    Attributes
    ----------
    radius
        Of the coefficients compared [pixels].
    angles
        Cells of the full turn; cell j is centred at (j + ½) · 360° / angles.
    shifts
        Cells along each axis of the shift.
    step
        Width of a shift cell [pixels].
    """

    radius: int
    angles: int
    shifts: int
    step: float


@dataclass(frozen=True)
class Views:
    """Views of all classes at one level: packed (K · A, N) complex and their squared amplitudes (K · A, N)."""

    level: Level
    values: Tensor
    power: Tensor
    phases: Tensor


@dataclass(frozen=True)
class Posterior:
    """What a batch of b particles contributes; cells that take less than 10⁻⁴ of a particle are left out.

    Attributes
    ----------
    owner, cell, weight
        (m,) particle within the batch, flat class × angle cell of the finest level, and share of the particle.
    sums
        (m, N, 3) real and imaginary part of weight · X H / σ² moved to the centre, and weight · H² / σ².
    residual
        (b, N) expected |X - H R|² per coefficient.
    best_class, psi_in_degrees, shift, probability, gain
        (b,), (b,), (b, 2) = x, y [pixels], (b,), (b,): the likeliest pose, its share, and the log-likelihood over that
        of noise alone.
    alone
        (b,) log-likelihood of noise alone.
    share
        (b, K) share of each class.
    """

    owner: Tensor
    cell: Tensor
    weight: Tensor
    sums: Tensor
    residual: Tensor
    best_class: Tensor
    psi_in_degrees: Tensor
    shift: Tensor
    probability: Tensor
    gain: Tensor
    alone: Tensor
    share: Tensor


def search_levels(box: int, radius: int, diameter: float, max_shift: float) -> tuple[Level, ...]:
    """Levels from coarse to ``radius``; at each, a cell moves the particle's edge by half a wavelength of its radius.

    ``diameter`` and ``max_shift`` are in pixels.
    """

    def angles_for(r: float) -> float:
        return 2 * math.pi * r * diameter / box

    doublings = max(0, math.ceil(math.log2(max(angles_for(radius) / _COARSE_ANGLES, 1e-9))))
    start = radius / 2**doublings
    angles = max(_FEWEST_ANGLES, 4 * math.ceil(angles_for(start) / 4))
    shifts = max(1, round(2 * max_shift / (0.5 * box / start)))
    return tuple(
        Level(
            math.ceil(start * 2**i) if i < doublings else radius,
            angles * 2**i,
            shifts * 2**i,
            2 * max_shift / (shifts * 2**i),
        )
        for i in range(doublings + 1)
    )


def shift_values(level: Level, device: torch.device | str = "cpu") -> Tensor:
    """Shifts (T, 2) = x, y [pixels] of the cells of a level, x fastest."""
    line = (torch.arange(level.shifts, device=device).float() + 0.5 - 0.5 * level.shifts) * level.step
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], -1)


def prepare_views(references: Tensor, grid: PlaneGrid, levels: tuple[Level, ...]) -> tuple[Views, ...]:
    """Sample references (K, box, box) at every level."""
    out = []
    for level in levels:
        values = rotated_views(references, grid, level.angles, level.radius).flatten(0, 1)
        k = packed_frequencies(level.radius, references.device).float()
        turns = shift_values(level, references.device) @ k.T * (-2 * math.pi / grid.box)
        power = torch.view_as_real(values).square().sum(-1)
        out.append(Views(level, values, power, torch.polar(torch.ones_like(turns), turns)))
    return tuple(out)


def moved(images: Tensor, origins: Tensor) -> Tensor:
    """Images (b, box, box) shifted by whole ``origins`` (b, 2) = x, y [pixels], around the edges of the box."""
    box = images.shape[-1]
    axis = torch.arange(box, device=images.device)
    rows = torch.remainder(axis - origins[:, 1:], box)
    columns = torch.remainder(axis - origins[:, :1], box)
    number = torch.arange(images.shape[0], device=images.device)
    return images[number[:, None, None], rows[:, :, None], columns[:, None, :]]


def expectation(
    images: Tensor,
    transfer: Tensor,
    noise: Tensor,
    views: tuple[Views, ...],
    *,
    origins: Tensor,
    spread: float,
    class_prior: Tensor,
) -> Posterior:
    """Posterior of a batch.

    Parameters
    ----------
    images
        (b, box, box) already moved by their whole ``origins``.
    transfer, noise
        (b, N) packed contrast transfer and variance of the noise, at the finest level's radius.
    views
        Of :func:`prepare_views`.
    origins, spread
        (b, 2) [pixels]; Gaussian prior of the whole shift with this deviation [pixels].
    class_prior
        (K,) logarithms.
    """
    radius = views[-1].level.radius
    whole = pack(rfft2(images), radius)
    weighted = transfer / noise
    scored = whole * weighted
    damping = transfer * weighted
    classes = int(class_prior.numel())
    score, cells, shifts = _coarse(scored, damping, views[0], origins, spread, class_prior)
    for parent, view in pairwise(views):
        cells, shifts = _children(cells, shifts, parent.level)
        score = _fine(scored, damping, view, cells, shifts, origins, spread, class_prior)
        if view is not views[-1]:
            score, cells, shifts = _keep(score, cells, shifts)
    gain = torch.logsumexp(score.flatten(1), 1)
    posterior = torch.exp(score - gain[:, None, None])  # (b, shifts, cells)
    return _contribution(posterior, gain, cells, shifts, views[-1], whole, transfer, noise, classes)


def _prior(shifts: Tensor, origins: Tensor, spread: float) -> Tensor:
    """(b, t) for shifts (b, t, 2)."""
    square: Tensor = (shifts + origins[:, None]).square().sum(-1)
    return -square / (2 * spread * spread)


def _coarse(
    scored: Tensor, damping: Tensor, view: Views, origins: Tensor, spread: float, class_prior: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    count, level = view.values.shape[1], view.level
    moved_rows = scored[:, None, :count] * view.phases  # (b, T, N)
    batch, number = moved_rows.shape[:2]
    rows = torch.view_as_real(moved_rows).flatten(-2).flatten(0, 1)
    columns = torch.view_as_real(view.values).flatten(-2)
    score = (rows @ columns.T).view(batch, number, -1).mul_(2.0)
    own = damping[:, :count] @ view.power.T - class_prior.repeat_interleave(level.angles)
    score -= own[:, None]
    shifts = shift_values(level, scored.device).expand(batch, -1, -1)
    score += _prior(shifts, origins, spread)[:, :, None]
    every_shift = torch.arange(number, device=scored.device).expand(batch, -1)
    every_cell = torch.arange(columns.shape[0], device=scored.device).expand(batch, -1)
    return _keep(score, every_cell, every_shift)


def _keep(score: Tensor, cells: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the cells and the shifts that stand highest at their best."""
    few = score.amax(1).topk(min(_CELLS, cells.shape[1]), dim=1).indices
    some = score.amax(2).topk(min(_SHIFTS, shifts.shape[1]), dim=1).indices
    kept = score.gather(2, few[:, None].expand(-1, score.shape[1], -1))
    kept = kept.gather(1, some[:, :, None].expand(-1, -1, few.shape[1]))
    return kept, cells.gather(1, few), shifts.gather(1, some)


def _children(cells: Tensor, shifts: Tensor, parent: Level) -> tuple[Tensor, Tensor]:
    # Flat cells are class · A + j; those of the next level class · 2A + 2j and the one after it.
    finer = torch.stack([2 * cells, 2 * cells + 1], -1).flatten(1)
    y, x = shifts // parent.shifts, shifts % parent.shifts
    side = 2 * parent.shifts
    quarters = [(2 * y + dy) * side + 2 * x + dx for dy in (0, 1) for dx in (0, 1)]
    return finer, torch.stack(quarters, -1).flatten(1)


def _rows(values: Tensor, phases: Tensor, shifts: Tensor) -> Tensor:
    """Values (b, N) at the shifts (b, s), as real (b, s, 2N)."""
    return torch.view_as_real(values[:, None] * phases[shifts]).flatten(-2)


def _fine(
    scored: Tensor,
    damping: Tensor,
    view: Views,
    cells: Tensor,
    shifts: Tensor,
    origins: Tensor,
    spread: float,
    class_prior: Tensor,
) -> Tensor:
    count = view.values.shape[1]
    rows = _rows(scored[:, :count], view.phases, shifts)
    columns = torch.view_as_real(view.values).flatten(-2)[cells]  # (b, c, 2N)
    score = torch.bmm(rows, columns.transpose(1, 2)).mul_(2.0)
    own = torch.bmm(view.power[cells], damping[:, :count, None])[:, :, 0]
    score -= (own - class_prior[cells // view.level.angles])[:, None]
    score += _prior(shift_values(view.level, scored.device)[shifts], origins, spread)[:, :, None]
    return score


def _contribution(
    posterior: Tensor,
    gain: Tensor,
    cells: Tensor,
    shifts: Tensor,
    view: Views,
    whole: Tensor,
    transfer: Tensor,
    noise: Tensor,
    classes: int,
) -> Posterior:
    batch, count = cells.shape[0], whole.shape[1]
    level = view.level
    weighted = transfer / noise
    of_cell = posterior.sum(1)
    flat = posterior.flatten(1)
    best = flat.argmax(1)
    number = torch.arange(batch, device=cells.device)
    best_cell = cells[number, best % cells.shape[1]]
    best_shift = shifts[number, best // cells.shape[1]]
    share = torch.zeros(batch, classes, device=cells.device).scatter_add_(1, cells // level.angles, of_cell)
    owner, place = (of_cell > _NEGLIGIBLE).nonzero(as_tuple=True)
    by_shift = posterior.transpose(1, 2)
    # Sum over the shifts in one product, then only the cells that matter.
    sums = torch.bmm(by_shift, _rows(whole * weighted, view.phases, shifts))[owner, place].view(-1, count, 2)
    cell, weight = cells[owner, place], of_cell[owner, place]
    reference = view.values[cell]
    cross = (sums * torch.view_as_real(reference)).sum(-1)
    fit = torch.zeros_like(transfer).index_add_(0, owner, weight[:, None] * view.power[cell])
    against = torch.zeros_like(transfer).index_add_(0, owner, cross)
    power = torch.view_as_real(whole).square().sum(-1)
    residual = power - 2 * noise * against + transfer.square() * fit
    return Posterior(
        owner=owner,
        cell=cell,
        weight=weight,
        sums=torch.cat([sums, (weight[:, None] * (transfer * weighted)[owner])[..., None]], -1),
        residual=residual,
        best_class=best_cell // level.angles,
        psi_in_degrees=(best_cell % level.angles + 0.5) * (360.0 / level.angles),
        shift=shift_values(level, cells.device)[best_shift],
        probability=flat[number, best],
        gain=gain,
        alone=-(power / noise + (math.pi * noise).log()).sum(1),
        share=share,
    )
