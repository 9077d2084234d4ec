"""Frames of a synthetic micrograph: what a camera would have recorded one by one, whose sum is the micrograph.

The micrograph is there first; the frames are drawn given their sum, so that it stays as it is. In frame t of T

    frame_t = (mean + gain × (everything that is common + its change by motion and damage)) / T + gain × d_t

What is common: particles, artefacts, the part of the noise that went through the lens, and the slow background, all at
the place where the specimen is in that frame, particles faded by their damage. The changes have mean zero over the
frames: what the micrograph's blur has beyond the mean of the frames' own shifts stays in every frame alike. The part of
the noise behind the lens is told apart by its power P_L of all the power P: given the noise n, it is normal with the
mean n P_L / P and the variance P_L (1 - P_L / P) in every frequency. Where the blur has left less than a third of it,
no more than a third is undone.

The rest of the noise, D, is that of the detector. Given their sum D, T independent normal frames of variance σ² are
drawn one by one: of a remainder R of m frames the next is R / m + σ √(1 - 1/m) z, which is exact. Counted electrons are
divided by binomial draws, exact for Poisson counts. The skewness of ``matched`` noise is in the sum, not in a frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoprism.core import frequency_grid, generator_for, irfft2, rfft2
from cryoprism.microscope.dose import damage_envelope
from cryoprism.microscope.motion import track_transfer
from cryoprism.microscope.optics import contrast_transfer

from ._slab import Canvas
from .artefacts import ArtefactField, artefact_contrast, canvas_of
from .exposure import RadialCorrection, particle_contrast
from .noise import DrawnNoise, NoiseFit, NoiseKind, spectrum_on
from .placement import Placement
from .render import motion_track
from .scene import Scene
from .species import Population

__all__ = ["Still", "frame_tracks", "movie_frames", "shared_power", "still_contrast"]

_STEPS = 128  # of the track over all frames: motion goes on within a frame
_LEAST_TRANSFER = 1.0 / 3.0  # of the motion blur that is undone
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Still:
    """Contrast (y, x) on a canvas of what does not move and has not faded: particles, and artefacts where there are."""

    canvas: Canvas
    particles: Tensor
    lasting: Tensor | None = None


def frame_tracks(scene: Scene, frames: int) -> Tensor:
    """Where the specimen is (t, steps, 2) [Å; y, x] at equal parts of each frame; the mean of all is zero."""
    steps = max(1, math.ceil(_STEPS / frames))
    return motion_track(scene, frames * steps).reshape(frames, steps, 2)


def still_contrast(
    scene: Scene,
    population: Population,
    placement: Placement,
    correction: RadialCorrection | None,
    artefacts: ArtefactField | None = None,
) -> Still:
    """Render a scene as it would look without motion and damage, with a border that can move into the field."""
    canvas = canvas_of(scene)
    still = replace(
        scene,
        height_in_pixels=canvas.shape[0],
        width_in_pixels=canvas.shape[1],
        drift_y_in_angstroms=0.0,
        drift_x_in_angstroms=0.0,
        early_motion_y_in_angstroms=0.0,
        early_motion_x_in_angstroms=0.0,
        damage_scale=0.0,
    )
    particles = particle_contrast(still, population, placement, correction=correction)
    return Still(canvas, particles, None if artefacts is None else artefact_contrast(still, artefacts))


def shared_power(kind: NoiseKind, fit: NoiseFit, ice_power: Tensor, scene: Scene) -> Tensor | None:
    """Power (n, n // 2 + 1) of the noise that all frames have in common; None for kinds that know of none.

    Parameters
    ----------
    kind, fit
        Of the noise.
    ice_power
        Its power before the lens, as in :class:`MatchedMicrograph`.
    scene
        Has the lens.
    """
    if kind not in ("spectrum", "matched"):
        return None
    n = ice_power.shape[0]
    ky, kx = frequency_grid((n, n), scene.pixel_size_in_angstroms)
    power = ice_power * contrast_transfer(ky, kx, scene.lens, **scene.aberrations()).square()
    if kind == "spectrum" and fit.background_power is not None:
        power = power + fit.background_power
    return power


def movie_frames(
    image: Tensor,
    clean: Tensor,
    noise: DrawnNoise,
    fit: NoiseFit,
    scene: Scene,
    still: Still,
    frames: int,
    *,
    shared: Tensor | None,
    seed: int,
    name: str,
) -> Iterator[Tensor]:
    """Yield the frames (y, x) [grey values] one by one; their sum is ``image`` up to rounding.

    Parameters
    ----------
    image, clean, noise, fit
        The micrograph (y, x) and what it is made of: (noise + clean) × gain + mean.
    scene, still
        Motion and damage, and the contrast that they act on.
    frames
        How many.
    shared
        From :func:`shared_power`.
    seed, name
        Name the draws.
    """
    tracks = frame_tracks(scene, frames)
    pixel, shape = scene.pixel_size_in_angstroms, scene.shape
    rest, amplitude, ice = _apart(noise, clean, scene, shared, frames, seed, name)
    changes = _Changes(scene, still, ice, tracks)
    del still, ice  # as large as a frame each, and now within the changes
    if noise.counts is None:
        base = (image if rest is None else image - fit.gain * rest) / frames
    else:
        base = torch.full(shape, (fit.mean - fit.gain) / frames)
    waiting = noise.counts
    expected = None if waiting is None else (1 + clean).clamp_min(0)
    for t in range(frames):
        left, frame = frames - t, torch.zeros(shape)
        change = changes(t)
        if noise.background is not None:
            down, right = (tracks[t].mean(0) / pixel).tolist()
            change += noise.background.moved(shape, down, right)
        if waiting is None or expected is None:
            frame += change / frames
        else:
            theirs = ((1 + clean + change) / frames).clamp_min(0)
            share = torch.ones(shape) if left == 1 else (theirs / expected.clamp_min(_TINY)).clamp(0, 1)
            found = torch.binomial(waiting, share, generator=generator_for(seed, name, "electrons of frame", t))
            waiting, expected = waiting - found, (expected - theirs).clamp_min(0)
            frame += found / noise.electrons
        if rest is not None:
            new = rest
            if left > 1:
                white = torch.randn(shape, generator=generator_for(seed, name, "noise of frame", t))
                if noise.strength is not None:
                    white *= noise.strength
                fresh = irfft2(rfft2(white).mul_(amplitude), shape)
                new = rest / left + fresh * math.sqrt(1 - 1 / left)
                rest = rest - new
            frame += new
        yield frame.mul_(fit.gain).add_(base)


def _apart(
    noise: DrawnNoise, clean: Tensor, scene: Scene, shared: Tensor | None, frames: int, seed: int, name: str
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Noise of the detector, its amplitude in one frame by frequency, and the noise behind the lens."""
    if noise.power is None:
        return None, torch.zeros(()), None
    rest, shape = noise.total, scene.shape
    if noise.counts is not None:
        rest = rest - (noise.counts / noise.electrons - 1 - clean)
    if noise.background is not None:
        rest = rest - noise.background.on(shape)
    power = spectrum_on(noise.power, shape)
    if shared is None:
        return rest, (power / frames).sqrt_(), None
    share = (spectrum_on(shared, shape) / power.clamp_min(_TINY)).clamp_(0, 1)
    white = torch.randn(shape, generator=generator_for(seed, name, "noise behind the lens"))
    if noise.strength is not None:
        white *= noise.strength
    ice = irfft2(rfft2(rest) * share + rfft2(white) * (share * (1 - share) * power).sqrt_(), shape)
    return rest - ice, (power * (1 - share) / frames).sqrt_(), ice


class _Changes:
    """How what the frames have in common differs in each of them from the mean of all: callable by frame number."""

    def __init__(self, scene: Scene, still: Still, ice: Tensor | None, tracks: Tensor) -> None:
        self.scene, self.canvas, self.tracks = scene, still.canvas, tracks
        self.moves = bool((tracks.abs() > 1e-6).any())
        self.fades = scene.damage_scale > 0
        self.wide = frequency_grid(still.canvas.shape, still.canvas.pixel)
        self.field = frequency_grid(scene.shape, still.canvas.pixel)
        self.particles = rfft2(still.particles) if self.moves or self.fades else None
        self.lasting = rfft2(still.lasting) if self.moves and still.lasting is not None else None
        self.mean = self._mean_transfer(*self.wide)
        self.faded = self.mean
        if self.fades:
            self.faded = torch.zeros_like(self.mean)
            for t in range(len(tracks)):
                self.faded += self._faded(t) / len(tracks)
        self.ice: Tensor | None = None
        if self.moves and ice is not None:
            self.blur = self._mean_transfer(*self.field)
            self.ice = rfft2(ice).mul_(self.blur.conj() / self.blur.abs().square().clamp_min(_LEAST_TRANSFER**2))

    def _mean_transfer(self, ky: Tensor, kx: Tensor) -> Tensor:
        every = self.tracks.reshape(-1, 2)
        return track_transfer(ky, kx, every[:, 0], every[:, 1])

    def _transfer(self, t: int, ky: Tensor, kx: Tensor) -> Tensor:
        return track_transfer(ky, kx, self.tracks[t, :, 0], self.tracks[t, :, 1])

    def _faded(self, t: int) -> Tensor:
        """Transfer (h, w) of the particles in a frame."""
        ky, kx = self.wide
        moved = self._transfer(t, ky, kx)
        if not self.fades:
            return moved
        scene = self.scene
        step = scene.damage_scale * scene.exposure_in_electrons_per_square_angstrom / len(self.tracks)
        k = torch.sqrt(ky * ky + kx * kx)
        return moved * damage_envelope(k, scene.voltage_in_kilovolts, step * t, step * (t + 1))

    def __call__(self, t: int) -> Tensor:
        """Change (y, x) of the contrast in frame ``t``."""
        if self.particles is None:
            return torch.zeros(self.scene.shape)
        spectrum = self.particles * (self._faded(t) - self.faded)
        if self.lasting is not None:
            spectrum += self.lasting * (self._transfer(t, *self.wide) - self.mean)
        change = self.canvas.crop(irfft2(spectrum, self.canvas.shape), self.scene.shape)
        if self.ice is not None:
            change += irfft2(self.ice * (self._transfer(t, *self.field) - self.blur), self.scene.shape)
        return change
