"""Causal weights of particles: the envelope and the noise that were fitted to their micrographs, per frequency.

A micrograph that moved while it was recorded has lost signal along one direction only. Its envelope E(k) (drift,
B-factor, damage, detector) and its noise N(k) tell how much each coefficient of its particles is worth:
Σ CTF·E·X / σ² over Σ (CTF·E)² / σ² instead of Σ CTF·X over Σ CTF².
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import torch
from torch import Tensor

from cryoprism.core import InputError
from cryoprism.formats import Particles, StarBlock, read_star
from cryoprism.formats.star import find_block

from ._packing import packed_frequencies

__all__ = [
    "DirectionalWeights",
    "EnvelopeModel",
    "ParticleWeights",
    "directional_weights",
    "directional_weights_block",
    "read_directional_weights",
    "weights_for_particles",
]

_BLOCK = "directional"
_COLUMNS = ("cryoprismDirection", "rlnResolution", "cryoprismEnvelope", "cryoprismNoisePower")


class EnvelopeModel(Protocol):
    """What is needed of a fitted micrograph: :func:`cryoprism.causes.fitted_spectrum` gives it."""

    @property
    def pixel_size_in_angstroms(self) -> float:
        """Pixel size [Å] of the micrograph that was fitted."""

    def envelope(self, ky: Tensor, kx: Tensor) -> Tensor:
        """Transfer without the CTF at frequencies [1/Å]; signed where drift reverses the contrast."""

    def noise_power(self, ky: Tensor, kx: Tensor) -> Tensor:
        """Noise power [grey²]."""


@dataclass(frozen=True)
class DirectionalWeights:
    """Envelope and noise of one micrograph on a polar grid of the half plane.

    Attributes
    ----------
    frequency
        (r,) [1/Å], ascending.
    angle_in_degrees
        (a,) directions from x towards +y, equally spaced from 0 in [0, 180).
    envelope
        (a, r) amplitude left of the signal; negative where its contrast is reversed.
    noise_power
        (a, r) [grey²].
    """

    frequency: Tensor
    angle_in_degrees: Tensor
    envelope: Tensor
    noise_power: Tensor

    def at(self, ky: Tensor, kx: Tensor) -> tuple[Tensor, Tensor]:
        """Envelope and noise power at frequencies (n,) [1/Å], bilinear in direction and frequency, constant beyond."""
        k = torch.hypot(ky, kx)
        angles = self.angle_in_degrees.numel()
        turn = torch.remainder(torch.rad2deg(torch.atan2(ky, kx)), 180.0) * (angles / 180.0)
        low_angle = turn.floor()
        share_angle = turn - low_angle
        low = low_angle.long() % angles
        high = (low + 1) % angles
        place = torch.searchsorted(self.frequency, k).clamp(1, self.frequency.numel() - 1)
        below, above = self.frequency[place - 1], self.frequency[place]
        share = ((k - below) / (above - below)).clamp(0, 1)

        def read(table: Tensor) -> Tensor:
            first = torch.lerp(table[low, place - 1], table[low, place], share)
            second = torch.lerp(table[high, place - 1], table[high, place], share)
            return torch.lerp(first, second, share_angle)

        return read(self.envelope), read(self.noise_power)


@dataclass(frozen=True)
class ParticleWeights:
    """Packed envelopes and noise variances of particles, kept once per micrograph.

    Attributes
    ----------
    micrograph
        (n,) number of each particle's micrograph.
    envelope
        (m, N) relative to the session's geometric mean at low frequency, in the units of normalised particle images.
    noise_variance
        (m, N) variance of a coefficient of the unnormalised transform of an image whose background has variance 1.
    """

    micrograph: Tensor
    envelope: Tensor
    noise_variance: Tensor

    def at(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Envelope and noise variance (n, N) of particles."""
        rows = self.micrograph[indices]
        return self.envelope[rows], self.noise_variance[rows]


def directional_weights(model: EnvelopeModel, *, radii: int = 64, angles: int = 24) -> DirectionalWeights:
    """Tabulate the envelope and the noise of a fitted micrograph up to its Nyquist frequency.

    Raises
    ------
    InputError
        Values that are not finite, or noise that is not positive.
    """
    nyquist = 0.5 / float(model.pixel_size_in_angstroms)
    frequency = torch.linspace(0.0, nyquist, radii)
    degrees = torch.arange(angles, dtype=torch.float32) * (180.0 / angles)
    radians = torch.deg2rad(degrees)[:, None]
    ky, kx = frequency * radians.sin(), frequency * radians.cos()
    envelope = model.envelope(ky, kx).detach().float().expand(angles, radii)
    noise = model.noise_power(ky, kx).detach().float().expand(angles, radii)
    weights = DirectionalWeights(frequency, degrees, envelope.contiguous(), noise.contiguous())
    _check(weights, "fitted micrograph")
    return weights


def _check(weights: DirectionalWeights, where: object) -> None:
    noise, envelope = weights.noise_power, weights.envelope
    if not (bool(envelope.isfinite().all()) and bool(noise.isfinite().all()) and bool((noise > 0).all())):
        raise InputError(where, "envelope or noise is not finite, or noise not positive", "Fit this micrograph again.")


def directional_weights_block(weights: DirectionalWeights) -> StarBlock:
    """STAR block of the table, one row per direction and frequency; :func:`read_directional_weights` reads it."""
    rows = tuple(
        (f"{angle:.4g}", f"{k:.6g}", f"{envelope:.5g}", f"{noise:.5g}")
        for i, angle in enumerate(weights.angle_in_degrees.tolist())
        for k, envelope, noise in zip(
            weights.frequency.tolist(), weights.envelope[i].tolist(), weights.noise_power[i].tolist(), strict=True
        )
    )
    return StarBlock(_BLOCK, _COLUMNS, rows)


def read_directional_weights(path: str | os.PathLike[str]) -> DirectionalWeights:
    """Read the directional table of a weights file of ``cryoprism restore``.

    Raises
    ------
    InputError
        The file has no such table, or one that is damaged.
    """
    file = Path(path)
    block = find_block(read_star(file), _BLOCK)
    if block is None or not all(label in block for label in _COLUMNS):
        raise InputError(
            file, "holds no directional envelope and noise", "Run 'cryoprism restore' again with this version."
        )
    angle, k, envelope, noise = (torch.from_numpy(block.numbers(label)).float() for label in _COLUMNS)
    degrees, frequency = torch.unique(angle), torch.unique(k)
    shape = (degrees.numel(), frequency.numel())
    if angle.numel() != shape[0] * shape[1] or frequency.numel() < 2:
        raise InputError(file, "its directional table has gaps", "Run 'cryoprism restore' again.")
    weights = DirectionalWeights(frequency, degrees, envelope.reshape(shape), noise.reshape(shape))
    _check(weights, file)
    return weights


def weights_for_particles(
    weights: Mapping[str, DirectionalWeights] | str | os.PathLike[str],
    particles: Particles,
    box: int,
    radius: int,
) -> ParticleWeights:
    """Packed envelope and noise of every particle's micrograph.

    The images are taken as normalised: a background of variance 1. A micrograph's noise is therefore scaled to that,
    and its envelope by the same factor, so that a micrograph with more noise or less contrast counts less. The common
    scale is removed: the geometric mean of the envelopes at low frequency is 1.

    Parameters
    ----------
    weights
        By the stem of the micrograph's name, or the folder with ``<stem>.star`` of ``cryoprism restore``.
    particles
        With micrograph names.
    box
        Side of the images [pixels].
    radius
        Of the packed coefficients [pixels].

    Raises
    ------
    InputError
        The table names no micrographs, or there are no weights for one of them.
    """
    if particles.micrograph_names is None:
        raise InputError(
            particles.source or "particles", "names no micrographs (rlnMicrographName)", "Reconstruct without weights."
        )
    stems = [PurePosixPath(name).stem for name in particles.micrograph_names]
    # Two pixel sizes of one micrograph are two sets of frequencies.
    keys = list(zip(stems, particles.pixel_size_in_angstroms.tolist(), strict=True))
    distinct = sorted(set(keys))
    k = packed_frequencies(radius).float() / box
    envelopes, noises = [], []
    for stem, pixel in distinct:
        envelope, noise = _weights_of(weights, stem).at(k[:, 1] / pixel, k[:, 0] / pixel)
        level = noise.mean()
        envelopes.append(envelope / level.sqrt())
        noises.append(noise / level * (box * box))
    stacked = torch.stack(envelopes)
    low = stacked[:, : max(2, stacked.shape[1] // 64)].abs().mean(1).clamp_min(1e-20)
    scale = math.exp(float(low.log().mean()))
    number = {key: i for i, key in enumerate(distinct)}
    return ParticleWeights(torch.tensor([number[key] for key in keys]), stacked / scale, torch.stack(noises))


def _weights_of(weights: Mapping[str, DirectionalWeights] | str | os.PathLike[str], stem: str) -> DirectionalWeights:
    if isinstance(weights, str | os.PathLike):
        path = Path(weights) / f"{stem}.star"
        if not path.is_file():
            raise InputError(path, "does not exist", "Give the 'weights' folder that 'cryoprism restore' wrote.")
        return read_directional_weights(path)
    if stem not in weights:
        raise InputError("weights", f"there are none for micrograph '{stem}'", "Restore that micrograph first.")
    return weights[stem]
