"""From the sums of a pass to the references of the next: regularisation, halves, centring, empty classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cryoprism.core import irfft2, rfft2

from ._classes_data import masked_averages
from ._classes_plane import PlaneGrid, averages_from_sums, shell_means
from ._packing import pack, packed_shells, unpack

__all__ = ["centred", "class_ratio", "half_correlation", "half_evidence", "half_references", "refill_empty", "smoothed"]

_EMPTY = 0.1  # of an equal share
_FAR = 1e6


def _spectra(averages: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    return pack(rfft2(averages), radius), packed_shells(radius, averages.device)


def _free(table: Tensor, grid: PlaneGrid, radius: int) -> Tensor:
    """Averages without regularisation."""
    ratio = torch.full((table.shape[0], radius + 1), _FAR, device=table.device)
    return averages_from_sums(table, grid, ratio, radius)


def class_ratio(table: Tensor, grid: PlaneGrid, mask: Tensor, radius: int) -> Tensor:
    """Ratio (K, radius + 1) of signal to noise of averages, from their own power inside the mask.

    The noise of a coefficient is 1 / weight, of which the mask lets its mean square through; what the average's power
    exceeds that by is signal.
    """
    values, shells = _spectra(masked_averages(_free(table, grid, radius), mask), radius)
    power = shell_means(torch.view_as_real(values).square().sum(-1), shells, radius + 1)
    weight = _shell_weights(table, grid, radius)
    ratio = power * weight / mask.square().mean() - 1
    ratio[:, 0] = ratio[:, 1]
    return ratio.clamp_min(0.01)


def _shell_weights(table: Tensor, grid: PlaneGrid, radius: int) -> Tensor:
    """Sum the weights (K, radius + 1) of a coefficient of the unpadded transform: four points of the table."""
    full = torch.arange(-grid.reach, grid.reach + 1, device=table.device).float() / 2
    # The column kx = 0 holds half of what the whole plane would: leave it out.
    shells = (full[:, None] ** 2 + full[grid.reach + 1 :] ** 2).sqrt().round().long()
    return 4 * shell_means(table[:, :, 1:, 2].flatten(1), shells.flatten(), radius + 1)


def half_correlation(tables: Tensor, grid: PlaneGrid, mask: Tensor, joint_radius: int, radius: int) -> Tensor:
    """Correlation (K, radius + 1) of the masked averages of the two halves, shell 0 (= 1) first.

    Beyond ``joint_radius`` it is that of averages from which everything up to it was taken before masking: what the
    halves shared there must not come in through the mask.
    """
    shells = packed_shells(radius, tables.device)
    cross, power = _half_products(tables, grid, mask, joint_radius, radius)

    def mean(values: Tensor) -> Tensor:
        return shell_means(values, shells, radius + 1)

    common, square = mean(cross), mean(power[0]) * mean(power[1])
    frc = torch.where(square > 0, common / square.clamp_min(1e-30).sqrt(), torch.zeros_like(common))
    frc[:, 0] = 1.0
    return frc


def _half_products(
    tables: Tensor, grid: PlaneGrid, mask: Tensor, joint_radius: int, radius: int
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Real cross term (K, N) and powers (K, N) of the halves, common and fine frequencies masked apart."""
    shells = packed_shells(radius, tables.device)
    halves = []
    for table in tables:
        whole = _free(table, grid, radius)
        coarse = _free(table, grid, min(radius, joint_radius))
        low = pack(rfft2(masked_averages(whole, mask)), radius)
        high = pack(rfft2((whole - coarse) * mask), radius)
        halves.append(torch.where(shells <= joint_radius, low, high))
    first, second = halves
    return (first * second.conj()).real, (first.abs().square(), second.abs().square())


def half_evidence(tables: Tensor, grid: PlaneGrid, mask: Tensor, joint_radius: int, radius: int, last: int) -> Tensor:
    """How far (K,) the halves agree from ``joint_radius`` + 2 to ``last``, in standard deviations of pure noise.

    Noise averaged at ill-known angles is nearly round: along a ring its coefficients are all but equal, and counting
    them one by one would take two round noises for structure. Angular harmonics of a ring are independent of each
    other, so the products of the halves' harmonics are summed, at equal power of all rings, and their variance is that
    of the products of their powers. Rings nearer than box / diameter are one and the same behind the mask.
    On 232 classes of pure noise this was 0.35 on average with deviation 1.1.
    """
    box, device = grid.box, tables.device
    diameter = 2 * math.sqrt(float(mask.sum()) / math.pi)
    rings = torch.arange(joint_radius + 2, last + 1, device=device).float()
    count = 4 * max(last, 1)
    if not len(rings):
        return torch.zeros(tables.shape[1])
    theta = torch.arange(count, device=device) * (2 * math.pi / count)
    axis = (torch.arange(box, device=device) - box // 2).float()
    kx = (rings[:, None] * theta.cos()).flatten()
    ky = (rings[:, None] * theta.sin()).flatten()
    ex, ey = (
        torch.polar(torch.ones(len(k), box, device=device), -2 * math.pi / box * k[:, None] * axis) for k in (kx, ky)
    )
    harmonics = []
    for table in tables:
        fine = (_free(table, grid, radius) - _free(table, grid, min(radius, joint_radius))) * mask
        values = torch.einsum("kyx,py,px->kp", fine.to(torch.complex64), ey, ex)
        lines = values.view(-1, len(rings), count)
        lines = lines / lines.abs().square().mean(-1, keepdim=True).sqrt().clamp_min(1e-20)
        # Coefficients at opposite points are conjugate: harmonics -m repeat those of m.
        harmonics.append(torch.fft.fft(lines, dim=-1)[..., : count // 2] / count)
    first, second = harmonics
    times = torch.full((count // 2,), 2.0, device=device)
    times[0] = 1.0
    product = ((first * second.conj()).real * times).sum((1, 2))
    power = first.abs().square() * second.abs().square()
    # A complex product has half its power in the real part; the constant harmonic is real or imaginary throughout.
    variance = (power * torch.where(times == 1, 1.0, 2.0)).sum((1, 2)) * (box / diameter)
    deviations: Tensor = product / variance.clamp_min(1e-12).sqrt()
    return deviations


def smoothed(frc: Tensor) -> Tensor:
    """Mean of a shell, counted twice, and its neighbours: single shells of few coefficients jump."""
    left = torch.cat([frc[:, :1], frc[:, :-1]], 1)
    right = torch.cat([frc[:, 1:], frc[:, -1:]], 1)
    return 0.25 * left + 0.5 * frc + 0.25 * right


def half_references(
    tables: Tensor, grid: PlaneGrid, mask: Tensor, joint_radius: int, radius: int
) -> tuple[Tensor, Tensor]:
    """Make Wiener-weighted references (K, box, box) of the halves: common up to ``joint_radius``, then each its own.

    All classes share one spectrum of the signal, measured from what their halves have in common. With one each, the
    largest class would be sharpest and draw ever more particles for that alone.
    """
    ratio = _shared_ratio(tables, grid, mask, joint_radius, radius)
    whole = tables.sum(0)
    shells = packed_shells(radius, tables.device)
    common = averages_from_sums(whole, grid, class_ratio(whole, grid, mask, radius), min(radius, joint_radius))
    low = pack(rfft2(masked_averages(common, mask)), radius) * (shells <= joint_radius)
    references = []
    for table, own in zip(tables, ratio, strict=True):
        fine = averages_from_sums(table, grid, own, radius) - averages_from_sums(
            table, grid, own, min(radius, joint_radius)
        )
        # Cut after masking: the mask carries neither the common part outwards nor a half into the common part.
        high = pack(rfft2(fine * mask), radius) * (shells > joint_radius)
        references.append(irfft2(unpack(low + high, grid.box), (grid.box, grid.box)))
    return references[0], references[1]


def _shared_ratio(tables: Tensor, grid: PlaneGrid, mask: Tensor, joint_radius: int, radius: int) -> Tensor:
    """Ratio (2, K, radius + 1) of signal to noise of each half's classes: one signal for all, each its own weight."""
    cross, _ = _half_products(tables, grid, mask, joint_radius, radius)
    common = shell_means(cross, packed_shells(radius, tables.device), radius + 1)
    weight = torch.stack([_shell_weights(table, grid, radius) for table in tables])
    # The cross term of a class is as exact as its halves are large.
    share = weight.amin(0)
    signal = smoothed(((share * common).sum(0) / share.sum(0).clamp_min(1e-30))[None])[0]
    return (signal.clamp_min(0) * weight / mask.square().mean()).clamp_min(1e-3)


def refill_empty(tables: Tensor, fraction: Tensor) -> Tensor:
    """Give each class with less than a tenth of an equal share one half of the largest class's particles.

    The largest class keeps the other half: the two differ by noise and part ways.
    """
    tables = tables.clone()
    left = fraction.clone()
    for empty in (fraction < _EMPTY / fraction.numel()).nonzero()[:, 0].tolist():
        largest = int(left.argmax())
        tables[0, empty], tables[1, empty] = 0.5 * tables[0, largest], 0.5 * tables[0, largest]
        tables[0, largest] = tables[1, largest] = 0.5 * tables[1, largest]
        left[empty] = left[largest] = left[largest] / 2
    return tables


def centred(tables: Tensor, grid: PlaneGrid, mask: Tensor, radius: int) -> Tensor:
    """Shift classes so that the bright part of each average has its centre of mass at the centre of the box."""
    both = tables.sum(0)
    averages = averages_from_sums(both, grid, class_ratio(both, grid, mask, radius), radius)
    bright = masked_averages(averages, mask).clamp_min(0)
    axis = (torch.arange(grid.box, device=tables.device) - grid.box // 2).float()
    mass = bright.sum((1, 2)).clamp_min(1e-6)
    x, y = (bright.sum(1) @ axis) / mass, (bright.sum(2) @ axis) / mass
    full = torch.arange(-grid.reach, grid.reach + 1, device=tables.device).float()
    turns = (y[:, None, None] * full[:, None] + x[:, None, None] * full[grid.reach :]) * (2 * math.pi / grid.padded)
    phase = torch.polar(torch.ones_like(turns), turns)
    out = tables.clone()
    moved = torch.view_as_complex(tables[..., :2].contiguous()) * phase
    out[..., :2] = torch.view_as_real(moved)
    return out
