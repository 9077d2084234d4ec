"""From a scene to counts: potential, wave or linear image, losses, motion, detector; every hidden quantity kept.

Two engines share every mechanism of ``microscope``. ``projection`` is linear: each layer of the slab has its own CTF,
and the layers add up. ``multislice`` (and ``rytov``) carry the wave through the same layers and keep what is not
linear. Random draws have names (:meth:`Scene.generator`), so that two renderings that differ in one cause differ in
nothing else; shot noise is drawn as a Gaussian of the Poisson variance from one field of normal numbers
(``poisson="common"``), or as true Poisson numbers (``"exact"``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cryoprism.core import frequency_grid, irfft2, rfft2
from cryoprism.microscope.detector import CountingMtf, Detector, MtfCurve, defect_masks, perfect_mtf, record
from cryoprism.microscope.dose import damage_envelope
from cryoprism.microscope.motion import (
    b_factor_envelope,
    fast_start_track,
    jitter_envelope,
    shift_frames,
    track_transfer,
)

from ._slab import Engine, NoiseFree, coherence_envelope, noise_free_image
from .placement import Placement
from .scene import Scene
from .species import Population
from .specimen import Specimen

__all__ = [
    "Engine",
    "Particle",
    "Rendered",
    "detector_of",
    "motion_track",
    "particle_labels",
    "render_micrograph",
    "render_movie",
]

Poisson = Literal["common", "exact"]

ELECTRONS_PER_PIXEL_AND_READOUT = 0.01
"""How dense one readout of a counting detector is; it decides how much a coincidence area loses."""
_DARKEST = 0.02


@dataclass(frozen=True, kw_only=True)
class Particle:
    """Label of one particle whose centre lies in the field: pixels from the first pixel, height along the beam [Å].

    ``species`` and ``conformation`` count from 0 (``Population.class_number`` gives ``rlnClassNumber``); ``filament``
    (``rlnHelicalTubeID``) and ``aggregate`` count from 1, 0 means none; ``arc_position_in_angstroms`` is how far along
    its filament the particle lies (``rlnHelicalTrackLengthAngst``).
    """

    x_in_pixels: float
    y_in_pixels: float
    height_in_angstroms: float
    rotation: Tensor
    defocus_u_in_angstroms: float
    defocus_v_in_angstroms: float
    species: int = 0
    conformation: int = 0
    filament: int = 0
    arc_position_in_angstroms: float = 0.0
    aggregate: int = 0


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A micrograph and everything that is hidden in it.

    Parameters
    ----------
    scene, engine
        What was asked for.
    counts
        Recorded image (y, x), or frames (t, y, x) of a movie.
    expected
        Mean counts (y, x) that the electrons alone would give: no shot noise, no defects, no gain residue; a movie's is
        that of the sum.
    potential
        Projected potential [V Å] of the particles alone (y, x), undamaged.
    signal
        Contrast (y, x) of that potential through the true CTF at each particle's own height and nothing else: relative
        to a mean of 0.
    masks
        ``defects`` (bool), ``contamination``, ``carbon`` and ``crystalline_ice`` (0 … 1), each (y, x).
    ice_thickness
        [Å] (y, x).
    track
        (t, 2) [Å; y, x] where the specimen was in each frame, mean zero.
    particles
        Labels.
    """

    scene: Scene
    engine: Engine
    counts: Tensor
    expected: Tensor
    potential: Tensor
    signal: Tensor
    masks: dict[str, Tensor]
    ice_thickness: Tensor
    track: Tensor
    particles: tuple[Particle, ...]


def detector_of(scene: Scene) -> Detector:
    """Return the detector that the scene's fields describe."""
    mtf: Callable[[Tensor], Tensor] = perfect_mtf
    if scene.detector_mtf:
        mtf = MtfCurve.from_points([f for f, _ in scene.detector_mtf], [v for _, v in scene.detector_mtf])
    elif scene.detector_blur_in_pixels >= 0:
        mtf = CountingMtf(scene.detector_blur_in_pixels)
    return Detector(
        name="counting",
        dqe0=scene.detector_dqe0,
        mtf=mtf,
        coincidence_area_in_square_pixels=scene.coincidence_area_in_square_pixels,
        gain_residue_deviation=scene.gain_residue_deviation,
        row_residue_deviation=scene.line_residue_deviation,
        column_residue_deviation=scene.line_residue_deviation,
        hot_fraction=scene.hot_pixel_fraction,
        hot_counts=scene.hot_pixel_counts,
        dead_fraction=scene.dead_pixel_fraction,
        dead_lines=scene.dead_line_count,
    )


def motion_track(scene: Scene, steps: int | None = None) -> Tensor:
    """Track (steps, 2) [Å; y, x] of the specimen at the middle of equal parts of the exposure, by default the frames.

    Its mean is zero; jitter is not in it.
    """
    total = scene.exposure_in_electrons_per_square_angstrom
    count = scene.frames if steps is None else steps
    exposure = (torch.arange(count) + 0.5) * (total / count)
    y, x = fast_start_track(
        exposure,
        early_displacement_y_in_angstroms=scene.early_motion_y_in_angstroms,
        early_displacement_x_in_angstroms=scene.early_motion_x_in_angstroms,
        drift_rate_y=scene.drift_y_in_angstroms / total,
        drift_rate_x=scene.drift_x_in_angstroms / total,
        decay_in_electrons_per_square_angstrom=scene.early_motion_decay_in_electrons_per_square_angstrom,
    )
    track = torch.stack([y, x], -1)
    return track - track.mean(0)


def render_micrograph(
    scene: Scene, specimen: Specimen | Population, engine: Engine = "projection", *, poisson: Poisson = "common"
) -> Rendered:
    """Render the sum of one exposure, as recorded without alignment of its frames.

    Parameters
    ----------
    scene
        What is seen and how.
    specimen
        The particle, or a population of several species and conformations.
    engine
        ``projection`` (linear, fast), ``multislice`` or ``rytov``.
    poisson
        ``common``: n + √n z with the same z in every twin, right to the second moment (skewness 1/√n is lost; use it
        where a pixel counts about 10 electrons or more); ``exact``: true Poisson counts.

    Raises
    ------
    InputError
        Unknown engine, or particles that do not fit.
    """
    total = scene.exposure_in_electrons_per_square_angstrom
    static = noise_free_image(scene, specimen, engine, fading_end=total, ice_exposure=total)
    canvas = static.canvas
    ky, kx = frequency_grid(canvas.shape, canvas.pixel)
    k = torch.sqrt(ky * ky + kx * kx)
    blur = b_factor_envelope(k, scene.envelope_b_factor_in_square_angstroms) * jitter_envelope(
        k, scene.jitter_in_angstroms
    )
    fine = motion_track(scene, max(64, scene.frames))
    moved = irfft2(rfft2(static.contrast) * (blur * track_transfer(ky, kx, fine[:, 0], fine[:, 1])), canvas.shape)
    expected = _electrons(scene, static, moved, total)
    return _finish(scene, engine, static, expected, motion_track(scene), poisson)


def render_movie(
    scene: Scene, specimen: Specimen | Population, engine: Engine = "projection", *, poisson: Poisson = "common"
) -> Rendered:
    """Render the frames of one exposure (``counts`` is (t, y, x)); parameters as for :func:`render_micrograph`.

    Particles and support are drawn once and then fade and move frame by frame; moving water is averaged over the
    exposure.
    """
    total = scene.exposure_in_electrons_per_square_angstrom
    static = noise_free_image(scene, specimen, engine, fading_end=0.0, ice_exposure=total)
    canvas = static.canvas
    ky, kx = frequency_grid(canvas.shape, canvas.pixel)
    k = torch.sqrt(ky * ky + kx * kx)
    step = total / scene.frames
    jitter = torch.randn(scene.frames, 2, generator=scene.generator("jitter")) * scene.jitter_in_angstroms
    track = motion_track(scene) + jitter
    blur = b_factor_envelope(k, scene.envelope_b_factor_in_square_angstroms)
    # Particles fade, ice and dirt do not: the particles' share of the contrast is known to first order.
    particles = rfft2(static.signal) * coherence_envelope(scene, ky, kx)
    lasting = (rfft2(static.contrast) - particles) * blur
    particles = particles * blur
    detector = detector_of(scene)
    frames, mean = [], torch.zeros(scene.shape)
    for t in range(scene.frames):
        start = scene.damage_scale * step * t
        end = start + scene.damage_scale * step
        faded = lasting + particles * damage_envelope(k, scene.voltage_in_kilovolts, start, end)
        moved = shift_frames(irfft2(faded, canvas.shape)[None], track[t : t + 1, 0], track[t : t + 1, 1], canvas.pixel)[
            0
        ]
        expected = _electrons(scene, static, moved, step)
        mean = mean + expected
        frames.append(_record(scene, expected, detector, scene.generator("shot_noise", t), poisson))
    out = _finish(scene, engine, static, mean, track, poisson, counts=torch.stack(frames))
    return out


def _electrons(scene: Scene, static: NoiseFree, contrast: Tensor, exposure: float) -> Tensor:
    """Return the expected electrons per pixel (y, x) that reach the detector in an exposure [e/Å²]."""
    relative = static.transmission * (1 + contrast).clamp_min(_DARKEST)
    return static.canvas.crop(relative, scene.shape) * (exposure * scene.pixel_size_in_angstroms**2)


def _record(scene: Scene, expected: Tensor, detector: Detector, generator: torch.Generator, poisson: Poisson) -> Tensor:
    mean = float(expected.mean()) * detector.dqe0
    return record(
        expected,
        detector,
        generator,
        readout_frames=max(1.0, mean / ELECTRONS_PER_PIXEL_AND_READOUT),
        session_seed=scene.session_seed,
        reparametrised=poisson == "common",
    )


def _finish(
    scene: Scene,
    engine: Engine,
    static: NoiseFree,
    expected: Tensor,
    track: Tensor,
    poisson: Poisson,
    counts: Tensor | None = None,
) -> Rendered:
    canvas, detector = static.canvas, detector_of(scene)
    if counts is None:
        counts = _record(scene, expected, detector, scene.generator("shot_noise"), poisson)
    ky, kx = frequency_grid(scene.shape, 1.0)
    loss = float(
        detector.coincidence_loss(
            float(expected.mean()), max(1.0, float(expected.mean()) / ELECTRONS_PER_PIXEL_AND_READOUT)
        )
    )
    mean_counts = irfft2(rfft2(expected) * detector.mtf_transfer(ky, kx), scene.shape) * (detector.dqe0 * (1 - loss))
    hot, dead = defect_masks(scene.shape, detector, scene.session_seed)
    masks = {"defects": hot | dead}
    for name in ("contamination", "carbon", "crystalline_ice"):
        masks[name] = static.masks.get(name, torch.zeros(scene.shape))
    return Rendered(
        scene=scene,
        engine=engine,
        counts=counts,
        expected=mean_counts,
        potential=canvas.crop(static.potential, scene.shape),
        signal=canvas.crop(static.signal, scene.shape),
        masks=masks,
        ice_thickness=canvas.crop(static.thickness, scene.shape),
        track=track,
        particles=particle_labels(scene, static.placement),
    )


def particle_labels(scene: Scene, placement: Placement) -> tuple[Particle, ...]:
    """Return the labels of the particles whose centres lie in the field."""
    labels = []
    for i, centre in enumerate(placement.centres_in_angstroms.tolist()):
        x = centre[0] / scene.pixel_size_in_angstroms + scene.width_in_pixels // 2
        y = centre[1] / scene.pixel_size_in_angstroms + scene.height_in_pixels // 2
        if not (0 <= x <= scene.width_in_pixels - 1 and 0 <= y <= scene.height_in_pixels - 1):
            continue
        labels.append(
            Particle(
                x_in_pixels=x,
                y_in_pixels=y,
                height_in_angstroms=centre[2],
                rotation=placement.rotations[i],
                defocus_u_in_angstroms=scene.defocus_u_in_angstroms + centre[2],
                defocus_v_in_angstroms=scene.defocus_v_in_angstroms + centre[2],
                species=int(placement.species[i]),
                conformation=int(placement.conformations[i]),
                filament=int(placement.filaments[i]),
                arc_position_in_angstroms=float(placement.arc_positions_in_angstroms[i]),
                aggregate=int(placement.aggregates[i]),
            )
        )
    return tuple(labels)
