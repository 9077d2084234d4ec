"""Amortised poses: a small network that looks at a particle once and names a few likely orientations.

It is trained for one map, on synthetic projections of it or on images with known poses (:mod:`.pose_training`), and
gives candidates from which a search can start; it is never the last word on a pose.

Input is the particle filtered by CTF / σ², inside a limited radius, on polar coordinates: radii are channels, the angle
runs along a circle. All convolutions go round that circle, so a particle that is turned in its plane gives the same
answer turned: the in-plane angle need not be learned. Output is a probability for every cell of
``core.orientation_grid``: directions of view (one of each symmetric set) as channels, in-plane angles along the circle.
The target is spread over the cells near the truth *or near any symmetric copy of it*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cryoprism.core import InputError, in_plane_step_in_degrees, orientation_grid, point_group_matrices

from ._packing import packed_frequencies, packed_shells

__all__ = ["PoseCandidates", "PoseNetwork", "PoseNetworkConfig", "per_coefficient", "per_shell"]


@dataclass(frozen=True, kw_only=True)
class PoseNetworkConfig:
    """What decides a trained network.

    Attributes
    ----------
    radius
        Shells of the particle's transform that are looked at [pixels].
    diameter_in_pixels
        Of the particle, in pixels of its image; polar coordinates end a little outside.
    symmetry
        Point group of the map.
    order
        HEALPix order of the cells: 2 = 15°.
    channels
        Width of the network.
    steps, batch
        Of the training; the number of images is their product.
    shift_in_pixels
        Standard deviation of the remaining shifts of the particles.
    rate
        Largest learning rate.
    seed
        Of weights and images.
    """

    radius: int
    diameter_in_pixels: float
    symmetry: str = "C1"
    order: int = 2
    channels: int = 128
    steps: int = 1500
    batch: int = 64
    shift_in_pixels: float = 1.0
    rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.radius < 4:
            raise InputError("radius", f"{self.radius} shells", "Use at least 4.")
        if not self.diameter_in_pixels > 4:
            raise InputError("diameter", f"{self.diameter_in_pixels:g} pixels", "Give the particle's diameter.")
        if self.order not in (0, 1, 2, 3):
            raise InputError("order", f"{self.order}", "Use 1 (30°), 2 (15°) or 3 (7.5°).")
        if self.steps < 1 or self.batch < 2:
            raise InputError("training", f"{self.steps} steps of {self.batch} images", "Use more.")


@dataclass(frozen=True)
class PoseCandidates:
    """Likely orientations of n particles, best first.

    Attributes
    ----------
    rotations
        (n, k, 3, 3)
    probability
        (n, k) of the cells around each.
    """

    rotations: Tensor
    probability: Tensor


class _Block(nn.Module):
    """Residual block on the circle."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.around = nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation, padding_mode="circular")
        self.mix = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.gelu(self.around(self.norm(x)))
        out: Tensor = x + self.mix(inner)
        return out


class PoseNetwork(nn.Module):
    """Probabilities of orientation cells from packed transforms; made by :mod:`.pose_training`.

    Attributes
    ----------
    config
        How it was made.
    box
        Side of the particle images [pixels].
    cells
        (directions · angles, 3, 3) orientations, the in-plane angle fastest.
    """

    cells: Tensor
    polar: Tensor
    precision: Tensor
    group: Tensor

    def __init__(self, config: PoseNetworkConfig, box: int, noise_variance: Tensor) -> None:
        super().__init__()
        self.config, self.box = config, box
        self.angles = 6 * 2**config.order
        self.register_buffer("cells", orientation_grid(config.order, config.symmetry), persistent=False)
        self.directions = self.cells.shape[0] // self.angles
        self.register_buffer("polar", _polar_basis(config, box, 2 * self.angles), persistent=False)
        self.register_buffer("precision", 1.0 / per_coefficient(noise_variance, config.radius))
        self.register_buffer("group", point_group_matrices(config.symmetry), persistent=False)
        rings = self.polar.shape[0] // (2 * self.angles)
        width = config.channels
        self.enter = nn.Conv1d(rings, width, 5, padding=2, padding_mode="circular")
        self.blocks = nn.ModuleList([_Block(width, d) for d in (1, 2, 4, 8)])
        self.head = nn.Sequential(nn.GELU(), nn.Conv1d(width, 2 * width, 1), nn.GELU())
        self.name = nn.Conv1d(2 * width, self.directions, 1)

    def targets(self, rotations: Tensor) -> Tensor:
        """Probabilities (n, cells) about rotations (n, 3, 3) and all their symmetric copies."""
        width = 0.5 * in_plane_step_in_degrees(self.config.order)
        angle, _ = _to_cells(rotations, self.cells, self.group)
        return torch.softmax(-0.5 * (angle / width) ** 2, -1)

    def forward(self, filtered: Tensor) -> Tensor:
        """Logits (n, directions · angles) of filtered packed transforms (n, N) complex."""
        flat = torch.view_as_real(filtered).flatten(1)
        x = (flat @ self.polar.T).view(len(filtered), -1, 2 * self.angles)
        x = x / x.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-12)
        x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        x = self.head(nn.functional.avg_pool1d(x, 2))
        logits: Tensor = self.name(x).flatten(1)
        return logits

    def filtered(self, observed: Tensor, transfer: Tensor) -> Tensor:
        """Packed transforms (n, N), at any radius not below the network's, times CTF / σ²."""
        count = self.precision.shape[0]
        return observed[:, :count] * transfer[:, :count] * self.precision

    @torch.no_grad()
    def candidates(self, observed: Tensor, transfer: Tensor, count: int = 4) -> PoseCandidates:
        """Likely orientations of particles.

        The best cell, averaged with its neighbours by their probabilities; then the best cell that is further than one
        and a half steps from that, and so on.

        Parameters
        ----------
        observed
            (n, N) packed transforms with the particle near the centre.
        transfer
            (n, N) contrast transfer.
        count
            Candidates per particle.
        """
        near = 1.5 * in_plane_step_in_degrees(self.config.order)
        rotations, shares = [], []
        many, device = self.precision.shape[0], self.precision.device
        for start in range(0, len(observed), 256):
            part = slice(start, start + 256)
            seen = self.filtered(observed[part, :many].to(device), transfer[part, :many].to(device))
            probability = torch.softmax(self(seen), -1)
            rest = probability.clone()
            for _ in range(count):
                best = self.cells[rest.argmax(1)]
                angle, copies = _to_cells(best, self.cells, self.group)
                inside = (angle < near) & (rest > 0)
                weight = torch.where(inside, rest, 0.0)
                shares.append(weight.sum(1))
                rotations.append(_mean_rotation(weight, self.cells, self.group, copies))
                rest = torch.where(angle < near, 0.0, rest)
        blocks = math.ceil(len(observed) / 256)

        def arranged(values: list[Tensor]) -> Tensor:
            return torch.cat([torch.stack(values[i * count : (i + 1) * count], 1) for i in range(blocks)])

        return PoseCandidates(arranged(rotations), arranged(shares))


def per_coefficient(noise_variance: Tensor, radius: int) -> Tensor:
    """Packed values (N,) of values (shells,) per shell from 0.

    Raises
    ------
    InputError
        Too few shells.
    """
    shell = packed_shells(radius)
    if noise_variance.numel() <= radius:
        raise InputError("noise variance", f"{noise_variance.numel()} shells", f"Give {radius + 1}, one per shell.")
    return noise_variance.float()[shell]


def per_shell(values: Tensor, radius: int) -> Tensor:
    """Mean (radius + 1,) of packed values (N,) over each shell; shell 0 repeats shell 1."""
    shell = packed_shells(radius, values.device)
    mean = torch.zeros(radius + 1, device=values.device).index_add_(0, shell, values[: len(shell)])
    mean = mean / torch.bincount(shell, minlength=radius + 1).clamp_min(1)
    mean[0] = mean[1]
    return mean


def _polar_basis(config: PoseNetworkConfig, box: int, angles: int) -> Tensor:
    """Matrix (rings · angles, 2 N) that takes packed coefficients, real and imaginary, to polar samples of the image.

    A view with in-plane angle ψ is turned by -ψ, hence the angles run clockwise.
    """
    k = packed_frequencies(config.radius).float() / box
    step = box / (2.0 * config.radius)  # the pixel that the radius allows
    rings = max(4, math.ceil(0.5 * config.diameter_in_pixels * 1.1 / step))
    radii = (torch.arange(rings).float() + 0.5) * step
    turn = -2 * math.pi * torch.arange(angles).float() / angles
    places = torch.stack([radii[:, None] * turn.cos(), radii[:, None] * turn.sin()], -1).reshape(-1, 2)
    phase = 2 * math.pi * places @ k.T
    basis = torch.stack([phase.cos(), -phase.sin()], -1).flatten(1)
    # A ring stands for an area that grows with its radius.
    return basis * (radii / radii.max()).sqrt().repeat_interleave(angles)[:, None]


def _to_cells(rotations: Tensor, cells: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest angle (n, c) [degrees] between rotations (n, 3, 3) and cells under the group, and by which copy."""
    turned = (rotations[:, None] @ group).flatten(2)
    trace = turned @ cells.flatten(1).T
    best, copy = trace.max(1)
    return torch.rad2deg(torch.arccos(((best - 1) / 2).clamp(-1, 1))), copy


def _mean_rotation(weight: Tensor, cells: Tensor, group: Tensor, copies: Tensor) -> Tensor:
    """Rotations (n, 3, 3) nearest to the weighted mean of cells that were brought next to each other by the group."""
    count = len(weight)
    total = torch.zeros(count, 3, 3, dtype=cells.dtype, device=cells.device)
    for number, element in enumerate(group):
        # best @ g lies next to the cell, so cell @ gᵀ lies next to best.
        mine = torch.where(copies == number, weight, 0.0)
        total += (mine @ cells.flatten(1)).view(count, 3, 3) @ element.T
    u, _, vh = torch.linalg.svd(total)
    sign = torch.linalg.det(u @ vh)
    u = torch.cat([u[..., :2], u[..., 2:] * sign[:, None, None]], -1)
    nearest: Tensor = u @ vh
    return nearest
