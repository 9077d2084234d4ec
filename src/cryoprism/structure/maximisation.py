"""From a posterior back to a map, a noise spectrum and the strength of each micrograph: the maximisation step."""

from __future__ import annotations

import torch
from torch import Tensor

from ._packing import packed_frequencies, packed_shells
from .helical import HelicalCopies
from .likelihood import AlignmentData, Posterior, packed_count, shift_phases
from .slices import FourierVolume, SliceAccumulator

__all__ = ["insert_posterior", "micrograph_scales", "noise_from_power", "noise_from_residuals", "shell_noise"]

_MOST_VIEWS = 16


def insert_posterior(
    accumulator: SliceAccumulator,
    data: AlignmentData,
    posterior: Posterior,
    radius: int,
    *,
    copies: Tensor | None = None,
    helix: HelicalCopies | None = None,
    views: int = _MOST_VIEWS,
    batch: int | None = None,
) -> None:
    """Insert every particle at orientations drawn from its posterior, each with its expected shift-summed image.

    The posterior of a faint particle spreads over very many orientations; inserting all of them costs more than finding
    them. ``views`` of equal weight are drawn systematically (one random start, equal steps through the cumulative
    posterior), which leaves the expectation unchanged and adds next to no variance; the sum over shifts is exact.

    Parameters
    ----------
    accumulator
        Receives Σ p C X / σ² and Σ p C² / σ².
    radius
        Shells that are inserted.
    copies
        (c, 3, 3) rotations of the map under which each view is inserted again; the identity alone if absent.
    helix
        Insert each view at its helical equivalents too.
    views
        How many orientations are drawn for a particle; one that is drawn several times is inserted once.
    """
    count = packed_count(radius)
    device = accumulator.sums.device
    batch = batch or (16 if device.type == "cpu" else 128)
    for start in range(0, len(data), batch):
        run = slice(start, min(start + batch, len(data)))
        values, weights = data.weighted(run, count, device)
        ramps = shift_phases(posterior.shifts[run], radius, data.box)
        moved = values[:, None] * ramps
        share = posterior.weights[run]
        orientation = share.sum(1)
        drawn = _systematic(orientation, views, start)
        particle, column = torch.nonzero(drawn > 0, as_tuple=True)
        factor = drawn[particle, column] / orientation[particle, column]
        # Only the orientations that were drawn are summed over shifts.
        most = int((drawn > 0).sum(1).max())
        picked = drawn.topk(most, 1).indices
        sums = torch.bmm(
            share.gather(2, picked[:, None].expand(-1, share.shape[1], -1)).transpose(1, 2).to(moved.dtype), moved
        )
        order = torch.arange(most, device=device).expand(len(picked), -1)
        slot = torch.zeros_like(drawn, dtype=torch.long).scatter_(1, picked, order)
        summed = sums[particle, slot[particle, column]] * factor[:, None]
        amount = drawn[particle, column][:, None] * weights[particle]
        rotations = posterior.rotations[run][particle, column]
        for turned in [rotations] if copies is None else [rotations @ copy.T for copy in copies.to(rotations)]:
            if helix is None:
                accumulator.add(summed, amount, turned)
                continue
            for again, phases in helix.views(turned, packed_frequencies(radius, device), data.box):
                accumulator.add(summed * phases, amount, again)


def _systematic(probability: Tensor, views: int, first: int) -> Tensor:
    """Weights (n, m), multiples of 1 / views with row sums 1 and expectation ``probability`` over the start.

    The start differs from row to row, counted from ``first``, by the golden ratio, so that it needs no random numbers
    and does not depend on the size of batches.
    """
    rows = first + torch.arange(len(probability), dtype=torch.float64, device=probability.device)
    start = torch.remainder(0.5 + rows * 0.6180339887498949, 1.0)
    total = torch.cumsum(probability.double(), 1)
    total = total / total[:, -1:]
    upper = torch.floor(total * views + start[:, None])
    lower = torch.cat([torch.floor(start)[:, None], upper[:, :-1]], 1)
    counts = upper - lower
    return (counts / counts.sum(1, keepdim=True)).to(probability.dtype)


def _by_shell(values: Tensor, radius: int) -> Tensor:
    """Mean (..., radius + 1) over the packed coefficients of each shell; shell 0 repeats shell 1."""
    shells = packed_shells(radius, values.device)
    shells = shells.clamp_max(radius)
    count = torch.bincount(shells, minlength=radius + 1).clamp_min(1)
    total = torch.zeros(*values.shape[:-1], radius + 1, device=values.device).index_add_(-1, shells, values)
    mean = total / count
    mean[..., 0] = mean[..., 1]
    return mean


def _smooth(groups: Tensor, counts: Tensor) -> Tensor:
    """Spectra (g, r) drawn towards their weighted mean where a group has few particles."""
    overall = (groups * counts[:, None]).sum(0) / counts.sum().clamp_min(1)
    share = (counts / (counts + 10.0))[:, None]
    # Groups differ most by one factor; their shape is known from few particles only.
    factor = (groups / overall.clamp_min(1e-30)).median(1, keepdim=True).values
    return share * groups + (1 - share) * overall * factor


def shell_noise(power: Tensor, group: Tensor, groups: int, radius: int) -> Tensor:
    """Variance (groups, N) of each micrograph from the power (n, N) of what no signal explains, smooth by shells.

    Groups without particles get the mean of the others.
    """
    counts = torch.bincount(group, minlength=groups).float()
    spectra = torch.zeros(groups, radius + 1, device=power.device)
    spectra.index_add_(0, group, _by_shell(power, radius))
    present = counts > 0
    spectra[present] /= counts[present, None]
    spectra[~present] = spectra[present].mean(0)
    return _smooth(spectra, counts)[:, packed_shells(radius, power.device).clamp_max(radius)]


def noise_from_power(images: Tensor, group: Tensor, radius: int) -> Tensor:
    """Noise variance (groups, N) from the power of the whole images: a start, with the signal still in it."""
    groups = int(group.max()) + 1
    spectra = torch.zeros(groups, radius + 1, device=images.device)
    counts = torch.bincount(group, minlength=groups).float()
    for index in range(groups):
        mine = torch.nonzero(group == index)[:, 0]
        if len(mine):
            power = torch.stack([(images[c].abs() ** 2).sum(0) for c in torch.split(mine, 256)]).sum(0) / len(mine)
            spectra[index] = _by_shell(power, radius)
    spectra[counts == 0] = spectra[counts > 0].mean(0)
    return _smooth(spectra, counts)[:, packed_shells(radius, images.device).clamp_max(radius)]


def noise_from_residuals(
    data: AlignmentData, volume: FourierVolume, posterior: Posterior, radius: int, total: int
) -> Tensor:
    """Noise variance (groups, N) after the most probable view of the map has been taken off.

    Parameters
    ----------
    radius
        Shells up to which the map is known.
    total
        Shells of the spectrum; beyond ``radius`` all power is noise.
    """
    rotations, shifts = posterior.best()
    groups = int(data.noise_variance.shape[0])
    here, device = data.images.device, volume.table.device
    spectra = torch.zeros(groups, total + 1, device=here)
    counts = torch.bincount(data.group, minlength=groups).float()
    known, every = packed_count(radius), packed_count(total)
    for chosen in torch.split(torch.arange(len(data), device=here), 256):
        images = data.images[chosen, :every].to(device)
        power = images.abs() ** 2
        places = chosen.to(device)
        view = volume.slices(rotations[places], radius) * data.transfer[chosen, :known].to(device)
        moved = images[:, :known] * shift_phases(shifts[places], radius, data.box)
        power[:, :known] = (moved - view).abs() ** 2
        spectra.index_add_(0, data.group[chosen], _by_shell(power, total).to(here))
    present = counts > 0
    spectra[present] /= counts[present, None]
    spectra[~present] = spectra[present].mean(0)
    return _smooth(spectra, counts)[:, packed_shells(total, here).clamp_max(total)]


def micrograph_scales(data: AlignmentData, volume: FourierVolume, posterior: Posterior, radius: int) -> Tensor:
    """Strength (groups,) of the signal of each micrograph against the map, geometric mean 1 over those present.

    Σ Re(X* C R) / σ² over Σ |C R|² / σ², as RELION's scale correction.
    """
    rotations, shifts = posterior.best()
    groups = int(data.noise_variance.shape[0])
    here, device = data.images.device, volume.table.device
    above, below = torch.zeros(groups, device=here), torch.zeros(groups, device=here)
    count = packed_count(radius)
    for chosen in torch.split(torch.arange(len(data), device=here), 256):
        places = chosen.to(device)
        view = volume.slices(rotations[places], radius) * data.transfer[chosen, :count].to(device)
        moved = data.images[chosen, :count].to(device) * shift_phases(shifts[places], radius, data.box)
        noise = data.noise_variance[data.group[chosen], :count].to(device)
        above.index_add_(0, data.group[chosen], ((moved * view.conj()).real / noise).sum(1).to(here))
        below.index_add_(0, data.group[chosen], (view.abs() ** 2 / noise).sum(1).to(here))
    present = below > 0
    scale = torch.ones(groups, device=here)
    scale[present] = (above[present] / below[present]).clamp(0.2, 5.0)
    scale[present] /= torch.exp(torch.log(scale[present]).mean())
    return scale
