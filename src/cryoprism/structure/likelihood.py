"""How well orientations and shifts of a map explain particle images: the expectation step of refinement.

With packed coefficients X of an image, its transfer C, noise variance σ² = E|n|² and the slice R of the map,

    log p(X | orientation, shift) = Σ 2 Re(C X* S R) / σ² - Σ C² |R|² / σ²  + const,

summed over the half plane; S is the phase ramp of the shift. Both sums are matrix products: of the shifted,
transfer-weighted images with the slices, and of C²/σ² with |R|². Images are not masked: a map with a compact support
sees only what the transfer spreads from there, and a mask would cut off high frequencies that defocus has carried
outside of it.

Which orientations and shifts are looked at is the matter of :mod:`.pose_search`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ._packing import packed_frequencies

__all__ = [
    "AlignmentData",
    "PosePrior",
    "Posterior",
    "PosteriorParts",
    "batch_size",
    "batches",
    "log_shift_prior",
    "packed_count",
    "radius_of",
    "real_and_imaginary",
    "scores_of",
    "shift_phases",
]

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
class PosteriorParts:
    """Posterior of one batch of particles after the other; the most probable orientations of each are kept."""

    rotations: list[Tensor] = field(default_factory=list)
    shifts: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    evidence: list[Tensor] = field(default_factory=list)

    def add(
        self, rotations: Tensor, shifts: Tensor, scores: Tensor, keep: int, log_prior: float | Tensor = 0.0
    ) -> None:
        """Add a batch: rotations (b, m, 3, 3), shifts (b, s, 2), log posterior (b, s, m) but for ``log_prior``."""
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
        """Return the posterior of all batches."""
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


def batch_size(numbers: float, each: int, most: int, device: torch.device) -> int:
    """Particles worked on together: ``numbers`` over what ``each`` takes; a GPU has many more, in half its memory."""
    many = 1
    if device.type == "cuda":
        many = max(1, min(_BATCHES_ON_GPU, torch.cuda.mem_get_info(device)[0] // (2 * _BATCH_IN_BYTES)))
    return max(1, min(most * many, int(numbers * many / max(1, each))))


def batches(total: int, size: int) -> Iterator[slice]:
    """Yield slices of ``size`` that cover ``total``."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def log_shift_prior(shifts: Tensor, scale: float) -> Tensor:
    """Log prior (..., s, 1) of shifts: Gaussian with half the search range as its standard deviation."""
    sigma = max(0.5 * scale, 1e-3)
    return -0.5 * (shifts / sigma).square().sum(-1, keepdim=True)


def scores_of(data: AlignmentData, run: slice, slices: Tensor, shifts: Tensor, radius: int) -> Tensor:
    """Log likelihoods (b, s, m) of slices (b, m, N) and shifts (b, s, 2)."""
    values, weights = data.weighted(run, slices.shape[-1], slices.device)
    moved = values[:, None] * shift_phases(shifts, radius, data.box)
    flat = real_and_imaginary(slices)
    cross = torch.bmm(real_and_imaginary(moved), flat.transpose(1, 2))
    power = torch.bmm(flat.square(), weights.repeat_interleave(2, -1)[..., None]).transpose(1, 2)
    return 2 * cross - power
