"""What classification reads of each particle, and where it starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError, generator_for, rfft2

from ._classes_plane import PlaneGrid, insert_rotated, shell_means, soft_circle
from ._packing import pack, pack_real, packed_frequencies, packed_shells

__all__ = ["ClassData", "class_data", "draw_batch", "initial_noise", "initial_tables"]

_GROUP = 30  # particles from which on a micrograph's own noise is better known than that of all
_SEEDS = 25  # images that a class starts from
_CHUNK = 256


@dataclass(frozen=True)
class ClassData:
    """Images with all that does not change between iterations.

    Attributes
    ----------
    images
        (n, box, box) as given.
    transfer
        (n, N) packed, or None.
    background, deviation
        (n,) mean and standard deviation outside the circle.
    groups, half_set
        (n,) group of the noise from 0, and half 1 or 2.
    grid, mask
        Geometry and the soft circle (box, box).
    diameter, max_shift
        [pixels]
    start_radius, joint_radius
        First radius, and that up to which the halves share references [pixels].
    device
        Where batches go.
    """

    images: Tensor
    transfer: Tensor | None
    background: Tensor
    deviation: Tensor
    groups: Tensor
    half_set: Tensor
    grid: PlaneGrid
    mask: Tensor
    diameter: float
    max_shift: float
    start_radius: int
    joint_radius: int
    device: torch.device

    @property
    def count(self) -> int:
        """Number of particles."""
        return int(self.images.shape[0])

    @property
    def mask_fraction(self) -> float:
        """Mean square of the mask: the share of white noise's power that it lets through."""
        return float(self.mask.square().mean())

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (b, box, box) and packed contrast transfer (b, N)."""
        images = (self.images[rows] - self.background[rows, None, None]) / self.deviation[rows, None, None]
        if self.transfer is None:
            transfer = torch.ones(len(rows), packed_frequencies(self.grid.radius).shape[0], device=self.device)
        else:
            transfer = self.transfer[rows].to(self.device)
        return images.to(self.device), transfer

    def masked(self, averages: Tensor) -> Tensor:
        """Averages inside the circle, with what is outside it brought to mean 0 first: zero frequency is not known."""
        return masked_averages(averages, self.mask)


def masked_averages(averages: Tensor, mask: Tensor) -> Tensor:
    """Take the mean of the background from averages (..., box, box) and apply the mask."""
    outside = (1 - mask) * (soft_circle(mask.shape[-1], mask.shape[-1] / 2 - 1, 1.0, mask.device) > 0)
    level = (averages * outside).sum((-2, -1), keepdim=True) / outside.sum().clamp_min(1e-6)
    return (averages - level) * mask


def class_data(
    images: Tensor,
    transfer: Tensor | None,
    *,
    diameter: float,
    max_shift: float,
    groups: Tensor | None,
    half_set: Tensor | None,
    seed: int,
    device: torch.device,
) -> ClassData:
    """Check and put together; ``diameter`` and ``max_shift`` in pixels."""
    if images.ndim != 3 or images.shape[1] != images.shape[2] or images.shape[0] < 2:
        raise InputError("images", f"shape {tuple(images.shape)}", "Give at least two square images (n, box, box).")
    count, box = int(images.shape[0]), int(images.shape[-1])
    if box < 16:
        raise InputError("images", f"boxes of {box} pixels", "Use at least 16 pixels.")
    if not 4 <= diameter <= 0.96 * box:
        raise InputError(
            "--diameter",
            f"{diameter:.1f} pixels in a box of {box}",
            "Use less than 96 % of the box, which leaves a background: a smaller diameter or larger boxes.",
        )
    grid = PlaneGrid(box, (box - 1) // 2)
    for name, given in (("groups", groups), ("half_set", half_set)):
        if given is not None and given.shape != (count,):
            raise InputError(name, f"shape {tuple(given.shape)} for {count} images", "Give one number per image.")
    if half_set is None:
        half_set = torch.arange(count)[torch.randperm(count, generator=generator_for(seed, "class-halves"))] % 2 + 1
    if not (bool((half_set == 1).any()) and bool((half_set == 2).any())):
        raise InputError("half sets", "one of them is empty", "Give particles of both, or leave rlnRandomSubset out.")
    edge = max(2.0, min(5.0, 0.5 * (box - diameter) - 0.5))
    background, deviation = _background(images, 0.5 * diameter)
    unit = box / diameter
    return ClassData(
        images=images,
        transfer=_packed_transfer(transfer, count, box, grid.radius),
        background=background,
        deviation=deviation,
        groups=_merged(groups, count),
        half_set=half_set.long(),
        grid=grid,
        mask=soft_circle(box, 0.5 * diameter, edge, device),
        diameter=diameter,
        max_shift=max(max_shift, 0.5),
        start_radius=max(2, min(grid.radius, round(3 * unit))),
        joint_radius=max(3, min(grid.radius, round(4 * unit))),
        device=device,
    )


def _background(images: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    outside = soft_circle(images.shape[-1], radius, 1e-3, corners=True).flatten() > 0
    means, deviations = [], []
    for part in torch.split(images, _CHUNK):
        deviation, mean = torch.std_mean(part.flatten(1)[:, outside], dim=1)
        means.append(mean)
        deviations.append(deviation)
    deviation = torch.cat(deviations)
    if not bool((deviation > 0).all()):
        row = int((deviation <= 0).nonzero()[0])
        raise InputError(f"image {row + 1}", "has a background without any noise", "Leave the particle out.")
    return torch.cat(means), deviation


def _packed_transfer(transfer: Tensor | None, count: int, box: int, radius: int) -> Tensor | None:
    if transfer is None:
        return None
    if tuple(transfer.shape) == (count, box, box // 2 + 1):
        return torch.cat([pack_real(part, radius) for part in torch.split(transfer, _CHUNK)])
    expected = (count, packed_frequencies(radius).shape[0])
    if tuple(transfer.shape) != expected:
        raise InputError(
            "transfer", f"shape {tuple(transfer.shape)}", f"Give {expected} or {(count, box, box // 2 + 1)}."
        )
    return transfer


def _merged(groups: Tensor | None, count: int) -> Tensor:
    """Give groups numbers from 0; those of few particles share the last one."""
    if groups is None:
        return torch.zeros(count, dtype=torch.long)
    _, index, members = torch.unique(groups, return_inverse=True, return_counts=True)
    large = members >= _GROUP
    number = torch.where(large, large.long().cumsum(0) - 1, large.sum())
    merged: Tensor = torch.unique(number[index], return_inverse=True)[1]
    return merged


def draw_batch(data: ClassData, size: int, generator: torch.Generator) -> Tensor:
    """Positions (m,) of ``size`` particles, ascending; all of them in their order if as many are asked for."""
    if size >= data.count:
        return torch.arange(data.count)
    return torch.randperm(data.count, generator=generator)[:size].sort().values


def initial_noise(data: ClassData) -> Tensor:
    """Variance (groups, shells) of the noise: mean power of the images less that of their mean."""
    shells = packed_shells(data.grid.radius)
    number = int(data.groups.max()) + 1
    power = torch.zeros(number, data.grid.radius + 1)
    mean = torch.zeros(data.grid.box, data.grid.box)
    for rows in torch.split(torch.arange(data.count), _CHUNK):
        images, _ = data.batch(rows)
        values = pack(rfft2(images), data.grid.radius)
        spectrum = shell_means(torch.view_as_real(values).square().sum(-1).cpu(), shells, data.grid.radius + 1)
        power.index_add_(0, data.groups[rows], spectrum)
        mean += images.sum(0).cpu()
    power /= torch.bincount(data.groups, minlength=number)[:, None]
    average = pack(rfft2(mean[None] / data.count), data.grid.radius)
    common = shell_means(torch.view_as_real(average).square().sum(-1), shells, data.grid.radius + 1)
    # A mean over n images holds 1/n of the noise's power.
    power = (power - common).clamp_min(0.1 * power)
    power[:, 0] = power[:, 1]
    return power


def initial_tables(data: ClassData, noise: Tensor, classes: int, seed: int) -> Tensor:
    """Make sums (2, K, ky, kx, 3) of few randomly drawn images per class, each at a random angle."""
    radius, angles = data.start_radius, 24
    shells, count = packed_shells(radius), packed_frequencies(radius).shape[0]
    seeds = max(1, min(_SEEDS, data.count // classes))
    order = torch.randperm(data.count, generator=generator_for(seed, "class-starts"))[: classes * seeds]
    turns = torch.randint(angles, (len(order),), generator=generator_for(seed, "class-angles"))
    tables = torch.zeros(2, classes, *data.grid.shape, 3)
    for half in (1, 2):
        sums = torch.zeros(classes * angles, count, 3, device=data.device)
        mine = (data.half_set[order] == half).nonzero()[:, 0]
        for places in torch.split(mine, _CHUNK):
            rows = order[places]
            images, transfer = data.batch(rows)
            weight = transfer[:, :count] / noise[data.groups[rows]][:, shells].to(data.device)
            values = torch.view_as_real(pack(rfft2(images), radius) * weight)
            part = torch.cat([values, (weight * transfer[:, :count])[..., None]], -1)
            cell = (places // seeds) * angles + turns[places]
            sums.index_add_(0, cell.to(data.device), part)
        tables[half - 1] = insert_rotated(sums.view(classes, angles, count, 3), data.grid, angles, radius).cpu()
    return tables * (data.count / len(order))
