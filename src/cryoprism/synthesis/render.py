"""From a scene to counts: potential in layers, wave or linear image, losses, motion, detector; every hidden quantity kept.

Two engines share every mechanism of ``microscope``. ``projection`` is linear: each layer of the slab has its own CTF, and the layers
add up. ``multislice`` (and ``rytov``) carry the wave through the same layers and keep what is not linear. Random draws have names
(:meth:`Scene.generator`), so that two renderings that differ in one cause differ in nothing else; shot noise is drawn as a Gaussian of
the Poisson variance from one field of normal numbers (``poisson="common"``), or as true Poisson numbers (``"exact"``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import scipy.fft
import torch
from torch import Tensor

from cryoprism.core import InputError, frequency_grid, interaction_constant, irfft2, rfft2
from cryoprism.microscope.contamination import carbon_film, contamination
from cryoprism.microscope.crystalline import crystalline_ice
from cryoprism.microscope.detector import CountingMtf, Detector, defect_masks, perfect_mtf, record
from cryoprism.microscope.dose import damage_envelope
from cryoprism.microscope.ice import (
    coloured_noise,
    ice_structure_power,
    inelastic_mean_free_path_in_angstroms,
    inelastic_transmission,
    thickness_field,
)
from cryoprism.microscope.motion import (
    b_factor_envelope,
    fast_start_track,
    jitter_envelope,
    shift_frames,
    track_transfer,
)
from cryoprism.microscope.optics import (
    contrast_transfer,
    directional_spatial_coherence_envelope,
    temporal_coherence_envelope,
    wave_transfer,
)
from cryoprism.microscope.scattering import exit_wave, image_intensity, wave_frequency_grid

from .scene import Placement, Scene, place_particles, tilt_height
from .specimen import Specimen, project_specimen, slab_projections

__all__ = ["Engine", "Particle", "Rendered", "detector_of", "motion_track", "render_micrograph", "render_movie"]

Engine = Literal["projection", "multislice", "rytov"]
Poisson = Literal["common", "exact"]

LAYER_IN_ANGSTROMS = 80.0
ELECTRONS_PER_PIXEL_AND_READOUT = 0.01
"""How dense one readout of a counting detector is; it decides how much a coincidence area loses."""
_DARKEST = 0.02


@dataclass(frozen=True, kw_only=True)
class Particle:
    """Label of one particle whose centre lies in the field: pixels from the first pixel, height along the beam [Å]."""

    x_in_pixels: float
    y_in_pixels: float
    height_in_angstroms: float
    rotation: Tensor
    defocus_u_in_angstroms: float
    defocus_v_in_angstroms: float


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
        Mean counts (y, x) that the electrons alone would give: no shot noise, no defects, no gain residue; a movie's is that of the sum.
    potential
        Projected potential [V Å] of the particles alone (y, x), undamaged.
    signal
        Contrast (y, x) of that potential through the true CTF at each particle's own height and nothing else: relative to a mean of 0.
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


@dataclass(frozen=True)
class _Canvas:
    """The field with a border, so that nothing wraps around into the recorded image."""

    shape: tuple[int, int]
    top: int
    left: int
    pixel: float

    def crop(self, image: Tensor, shape: tuple[int, int]) -> Tensor:
        return image[..., self.top : self.top + shape[0], self.left : self.left + shape[1]].contiguous()


@dataclass(frozen=True)
class _Static:
    """Noise-free canvas quantities before motion and detector: relative intensity = transmission × (1 + contrast)."""

    canvas: _Canvas
    contrast: Tensor
    transmission: Tensor
    potential: Tensor
    signal: Tensor
    thickness: Tensor
    masks: dict[str, Tensor]
    placement: Placement


def detector_of(scene: Scene) -> Detector:
    """Return the detector that the scene's fields describe."""
    return Detector(
        name="counting",
        dqe0=scene.detector_dqe0,
        mtf=CountingMtf(scene.detector_blur_in_pixels) if scene.detector_blur_in_pixels >= 0 else perfect_mtf,
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
    """Where the specimen is (steps, 2) [Å; y, x] in the middle of equal parts of the exposure (the frames by default), mean zero, without jitter."""
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
    scene: Scene, specimen: Specimen, engine: Engine = "projection", *, poisson: Poisson = "common"
) -> Rendered:
    """Render the sum of one exposure, as recorded without alignment of its frames.

    Parameters
    ----------
    scene
        What is seen and how.
    specimen
        The particle.
    engine
        ``projection`` (linear, fast), ``multislice`` or ``rytov``.
    poisson
        ``common``: n + √n z with the same z in every twin, right to the second moment (skewness 1/√n is lost; use it where a pixel counts
        about 10 electrons or more); ``exact``: true Poisson counts.

    Raises
    ------
    InputError
        Unknown engine, or particles that do not fit.
    """
    total = scene.exposure_in_electrons_per_square_angstrom
    static = _static(scene, specimen, engine, fading_end=total, ice_exposure=total)
    canvas = static.canvas
    ky, kx = frequency_grid(canvas.shape, canvas.pixel)
    k = torch.sqrt(ky * ky + kx * kx)
    blur = b_factor_envelope(k, scene.envelope_b_factor_in_square_angstroms) * jitter_envelope(k, scene.jitter_in_angstroms)
    fine = motion_track(scene, max(64, scene.frames))
    moved = irfft2(rfft2(static.contrast) * (blur * track_transfer(ky, kx, fine[:, 0], fine[:, 1])), canvas.shape)
    expected = _electrons(scene, static, moved, total)
    return _finish(scene, engine, static, expected, motion_track(scene), poisson)


def render_movie(
    scene: Scene, specimen: Specimen, engine: Engine = "projection", *, poisson: Poisson = "common"
) -> Rendered:
    """Render the frames of one exposure (``counts`` is (t, y, x)); parameters as for :func:`render_micrograph`.

    Particles and support are drawn once and then fade and move frame by frame; moving water is averaged over the exposure.
    """
    total = scene.exposure_in_electrons_per_square_angstrom
    static = _static(scene, specimen, engine, fading_end=0.0, ice_exposure=total)
    canvas = static.canvas
    ky, kx = frequency_grid(canvas.shape, canvas.pixel)
    k = torch.sqrt(ky * ky + kx * kx)
    step = total / scene.frames
    jitter = torch.randn(scene.frames, 2, generator=scene.generator("jitter")) * scene.jitter_in_angstroms
    track = motion_track(scene) + jitter
    spectrum = rfft2(static.contrast) * b_factor_envelope(k, scene.envelope_b_factor_in_square_angstroms)
    detector = detector_of(scene)
    frames, mean = [], torch.zeros(scene.shape)
    for t in range(scene.frames):
        start = scene.damage_scale * step * t
        faded = spectrum * damage_envelope(k, scene.voltage_in_kilovolts, start, start + scene.damage_scale * step)
        moved = shift_frames(irfft2(faded, canvas.shape)[None], track[t : t + 1, 0], track[t : t + 1, 1], canvas.pixel)[0]
        expected = _electrons(scene, static, moved, step)
        mean = mean + expected
        frames.append(_record(scene, expected, detector, scene.generator("shot_noise", t), poisson))
    out = _finish(scene, engine, static, mean, track, poisson, counts=torch.stack(frames))
    return out


def _static(scene: Scene, specimen: Specimen, engine: Engine, *, fading_end: float, ice_exposure: float) -> _Static:
    if engine not in ("projection", "multislice", "rytov"):
        raise InputError("engine", f"'{engine}' is not known", "Use projection, multislice or rytov.")
    pixel = scene.pixel_size_in_angstroms
    border = math.ceil((specimen.radius_in_angstroms + 20.0) / pixel)
    height, width = (int(scipy.fft.next_fast_len(n + 2 * border, real=True)) for n in scene.shape)
    # The canvas keeps the field's middle pixel n // 2 at its own.
    canvas = _Canvas((height, width), height // 2 - scene.shape[0] // 2, width // 2 - scene.shape[1] // 2, pixel)
    placement = place_particles(scene, specimen.radius_in_angstroms, border * pixel)
    thickness = thickness_field(
        canvas.shape,
        pixel,
        scene.ice_thickness_in_angstroms,
        gradient_in_angstroms_per_micrometer=scene.ice_gradient_in_angstroms_per_micrometer,
        direction_in_degrees=scene.ice_gradient_direction_in_degrees,
    )
    y = ((torch.arange(height) - height // 2) * pixel)[:, None].float()
    x = ((torch.arange(width) - width // 2) * pixel)[None, :].float()
    middle = tilt_height(scene, y, x).expand(canvas.shape)
    low, high = float((middle - 0.5 * thickness).min()), float((middle + 0.5 * thickness).max())
    if len(placement):
        heights = placement.centres_in_angstroms[:, 2]
        low, high = min(low, float(heights.min())), max(high, float(heights.max()))
    reach = 0.0 if engine == "projection" else specimen.radius_in_angstroms
    if len(placement) and reach:
        low, high = min(low, float(heights.min()) - reach), max(high, float(heights.max()) + reach)
    numbers = range(math.floor(low / LAYER_IN_ANGSTROMS + 0.5), math.floor(high / LAYER_IN_ANGSTROMS + 0.5) + 1)
    extra, transmission, masks = _obstacles(scene, canvas)
    path = inelastic_mean_free_path_in_angstroms(scene.voltage_in_kilovolts)
    transmission = transmission * inelastic_transmission(thickness, path)
    layers = _layers(scene, specimen, placement, canvas, numbers, thin=engine != "projection")
    ice = _ice_layers(scene, canvas, numbers, thickness, middle, ice_exposure)
    draw = _linear if engine == "projection" else _through_waves
    contrast, potential, signal = draw(scene, canvas, numbers, layers, ice, extra, fading_end, engine)
    return _Static(canvas, contrast, transmission, potential, signal, thickness, masks, placement)


def _obstacles(scene: Scene, canvas: _Canvas) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Potential [V Å], transmission and masks of all that is neither specimen nor vitreous ice."""
    potential, transmission = torch.zeros(canvas.shape), torch.ones(canvas.shape)
    masks: dict[str, Tensor] = {}
    area = canvas.shape[0] * canvas.shape[1] * canvas.pixel**2
    if scene.crystalline_ice_strength > 0:
        crystals = crystalline_ice(
            canvas.shape,
            canvas.pixel,
            100.0 * scene.crystalline_ice_strength,
            generator=scene.generator("crystalline_ice"),
            patches=max(1, round(area / 6e5)),
            patch_radius_in_angstroms=400.0,
        )
        potential = potential + crystals.projected_potential
        masks["crystalline_ice"] = crystals.mask
    if scene.contamination_count > 0:
        dirt = contamination(
            canvas.shape,
            canvas.pixel,
            generator=scene.generator("contamination"),
            count=scene.contamination_count,
            radius_in_angstroms=150.0,
            thickness_in_angstroms=400.0,
            voltage_in_kilovolts=scene.voltage_in_kilovolts,
        )
        potential, transmission = potential + dirt.projected_potential, transmission * dirt.transmission
        masks["contamination"] = dirt.mask
    if scene.carbon_fraction > 0:
        generator = scene.generator("carbon")
        angle = 2 * math.pi * float(torch.rand((), generator=generator))
        y = torch.arange(scene.shape[0])[:, None] - scene.shape[0] // 2
        x = torch.arange(scene.shape[1])[None, :] - scene.shape[1] // 2
        along = ((math.cos(angle) * x + math.sin(angle) * y) * canvas.pixel).flatten().sort().values
        edge = float(along[min(along.numel() - 1, int((1 - scene.carbon_fraction) * along.numel()))])
        radius = 6000.0
        film = carbon_film(
            canvas.shape,
            canvas.pixel,
            generator=generator,
            thickness_in_angstroms=scene.carbon_thickness_in_angstroms,
            hole_radius_in_angstroms=radius,
            hole_center_in_angstroms=((edge - radius) * math.cos(angle), (edge - radius) * math.sin(angle)),
            voltage_in_kilovolts=scene.voltage_in_kilovolts,
        )
        potential, transmission = potential + film.projected_potential, transmission * film.transmission
        masks["carbon"] = film.mask
    cropped = {name: canvas.crop(mask, scene.shape) for name, mask in masks.items()}
    return potential, transmission, cropped


def _layers(
    scene: Scene, specimen: Specimen, placement: Placement, canvas: _Canvas, numbers: range, *, thin: bool
) -> dict[int, Tensor]:
    """Projected potential [V Å] of the particles by layer; whole particles, or cut into the layers they span (``thin``)."""
    layers: dict[int, Tensor] = {}
    b_factor = scene.specimen_b_factor_in_square_angstroms

    def add(number: int, image: Tensor, row: int, column: int) -> None:
        target = layers.setdefault(number, torch.zeros(canvas.shape))
        side = image.shape[-1]
        top, left = row - side // 2, column - side // 2
        a, b = max(0, top), min(canvas.shape[0], top + side)
        c, d = max(0, left), min(canvas.shape[1], left + side)
        if a < b and c < d:
            target[a:b, c:d] += image[a - top : b - top, c - left : d - left]

    at = placement.centres_in_angstroms[:, [1, 0]] / canvas.pixel
    whole = at.round()
    rest = (at - whole) * canvas.pixel
    rows = (whole[:, 0].long() + canvas.shape[0] // 2).tolist()
    columns = (whole[:, 1].long() + canvas.shape[1] // 2).tolist()
    heights = placement.centres_in_angstroms[:, 2]
    if thin:
        for i in range(len(placement)):
            sheets, offsets = slab_projections(
                specimen, placement.rotations[i], canvas.pixel, b_factor, (float(rest[i, 0]), float(rest[i, 1]))
            )
            of_layer = torch.floor((heights[i] + offsets) / LAYER_IN_ANGSTROMS + 0.5).long()
            for number in of_layer.unique().tolist():
                clipped = min(max(number, numbers[0]), numbers[-1])
                add(clipped, sheets[of_layer == number].sum(0), rows[i], columns[i])
        return layers
    of_layer = torch.floor(heights / LAYER_IN_ANGSTROMS + 0.5).long().clamp(numbers[0], numbers[-1]).tolist()
    for start in range(0, len(placement), 32):
        part = slice(start, start + 32)
        views = project_specimen(specimen, placement.rotations[part], canvas.pixel, b_factor)
        views = shift_frames(views, rest[part, 0], rest[part, 1], canvas.pixel)
        for i, view in enumerate(views, start):
            add(of_layer[i], view, rows[i], columns[i])
    return layers


def _ice_layers(
    scene: Scene, canvas: _Canvas, numbers: range, thickness: Tensor, middle: Tensor, exposure: float
) -> Iterator[Tensor]:
    """Fluctuations [V Å] of vitreous ice layer by layer; a layer has the depth of slab that lies within it at each pixel."""
    ky, kx = frequency_grid(canvas.shape, canvas.pixel)
    k = torch.sqrt(ky * ky + kx * kx)
    power = ice_structure_power(k, 1.0, exposure_in_electrons_per_square_angstrom=exposure)
    for number in numbers:
        bottom, top = (number - 0.5) * LAYER_IN_ANGSTROMS, (number + 0.5) * LAYER_IN_ANGSTROMS
        depth = ((middle + 0.5 * thickness).clamp_max(top) - (middle - 0.5 * thickness).clamp_min(bottom)).clamp_min(0)
        noise = coloured_noise(power, canvas.shape, canvas.pixel, scene.generator("ice", number))
        yield noise * depth.sqrt()


def _fading(scene: Scene, k: Tensor, end: float) -> Tensor:
    return damage_envelope(k, scene.voltage_in_kilovolts, 0.0, scene.damage_scale * end)


def _linear(
    scene: Scene,
    canvas: _Canvas,
    numbers: range,
    layers: dict[int, Tensor],
    ice: Iterator[Tensor],
    extra: Tensor,
    fading_end: float,
    engine: Engine,
) -> tuple[Tensor, Tensor, Tensor]:
    ky, kx = frequency_grid(canvas.shape, canvas.pixel)
    k = torch.sqrt(ky * ky + kx * kx)
    fading = _fading(scene, k, fading_end)
    coherence = _coherence(scene, ky, kx, k)
    potential = torch.zeros(canvas.shape)
    signal = torch.zeros(canvas.shape[0], canvas.shape[1] // 2 + 1, dtype=torch.complex64)
    image = torch.zeros_like(signal)
    for number, water in zip(numbers, ice, strict=True):
        ctf = contrast_transfer(ky, kx, scene.lens, **scene.aberrations(number * LAYER_IN_ANGSTROMS))
        rest = rfft2(water + extra if number == numbers[0] else water)
        if number in layers:
            potential += layers[number]
            transform = rfft2(layers[number])
            signal += transform * ctf
            rest += transform * fading
        image += rest * ctf
    factor = -2 * interaction_constant(scene.voltage_in_kilovolts)
    return irfft2(image * (factor * coherence), canvas.shape), potential, irfft2(factor * signal, canvas.shape)


def _coherence(scene: Scene, ky: Tensor, kx: Tensor, k: Tensor) -> Tensor:
    spatial = directional_spatial_coherence_envelope(
        ky,
        kx,
        scene.lens,
        semi_angle_in_milliradians=scene.source_semi_angle_in_milliradians,
        defocus_u_in_angstroms=scene.defocus_u_in_angstroms,
        defocus_v_in_angstroms=scene.defocus_v_in_angstroms,
        defocus_angle_in_degrees=scene.astigmatism_angle_in_degrees,
    )
    return spatial * temporal_coherence_envelope(k, scene.lens, focal_spread_in_angstroms=scene.focal_spread_in_angstroms)


def _through_waves(
    scene: Scene,
    canvas: _Canvas,
    numbers: range,
    layers: dict[int, Tensor],
    ice: Iterator[Tensor],
    extra: Tensor,
    fading_end: float,
    engine: Engine,
) -> tuple[Tensor, Tensor, Tensor]:
    ky, kx = frequency_grid(canvas.shape, canvas.pixel)
    k = torch.sqrt(ky * ky + kx * kx)
    fading = _fading(scene, k, fading_end)
    potential = torch.zeros(canvas.shape)
    signal = torch.zeros(canvas.shape[0], canvas.shape[1] // 2 + 1, dtype=torch.complex64)

    def slices() -> Iterator[Tensor]:
        for number, water in zip(numbers, ice, strict=True):
            total = water + extra if number == numbers[0] else water
            if number in layers:
                potential.add_(layers[number])
                transform = rfft2(layers[number])
                ctf = contrast_transfer(ky, kx, scene.lens, **scene.aberrations(number * LAYER_IN_ANGSTROMS))
                signal.add_(transform * ctf)
                total = total + irfft2(transform * fading, canvas.shape)
            yield total

    wave = exit_wave(
        slices(),
        pixel_size_in_angstroms=canvas.pixel,
        slice_thickness_in_angstroms=LAYER_IN_ANGSTROMS,
        voltage_in_kilovolts=scene.voltage_in_kilovolts,
        amplitude_contrast=scene.amplitude_contrast,
        method="rytov" if engine == "rytov" else "multislice",
        bandwidth_limit=None,
    )
    wy, wx = wave_frequency_grid(canvas.shape, canvas.pixel)
    transfer = wave_transfer(
        wy,
        wx,
        scene.lens,
        **scene.aberrations(0.5 * (numbers[0] + numbers[-1]) * LAYER_IN_ANGSTROMS),
        semi_angle_in_milliradians=scene.source_semi_angle_in_milliradians,
        focal_spread_in_angstroms=scene.focal_spread_in_angstroms,
    )
    factor = -2 * interaction_constant(scene.voltage_in_kilovolts)
    return image_intensity(wave, transfer) - 1.0, potential, irfft2(factor * signal, canvas.shape)


def _electrons(scene: Scene, static: _Static, contrast: Tensor, exposure: float) -> Tensor:
    """Expected electrons per pixel (y, x) that reach the detector in an exposure [e/Å²]."""
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
    static: _Static,
    expected: Tensor,
    track: Tensor,
    poisson: Poisson,
    counts: Tensor | None = None,
) -> Rendered:
    canvas, detector = static.canvas, detector_of(scene)
    if counts is None:
        counts = _record(scene, expected, detector, scene.generator("shot_noise"), poisson)
    ky, kx = frequency_grid(scene.shape, 1.0)
    loss = float(detector.coincidence_loss(float(expected.mean()), max(1.0, float(expected.mean()) / ELECTRONS_PER_PIXEL_AND_READOUT)))
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
        particles=_labels(scene, static.placement),
    )


def _labels(scene: Scene, placement: Placement) -> tuple[Particle, ...]:
    labels = []
    for centre, rotation in zip(placement.centres_in_angstroms.tolist(), placement.rotations, strict=True):
        x = centre[0] / scene.pixel_size_in_angstroms + scene.width_in_pixels // 2
        y = centre[1] / scene.pixel_size_in_angstroms + scene.height_in_pixels // 2
        if not (0 <= x <= scene.width_in_pixels - 1 and 0 <= y <= scene.height_in_pixels - 1):
            continue
        labels.append(
            Particle(
                x_in_pixels=x,
                y_in_pixels=y,
                height_in_angstroms=centre[2],
                rotation=rotation,
                defocus_u_in_angstroms=scene.defocus_u_in_angstroms + centre[2],
                defocus_v_in_angstroms=scene.defocus_v_in_angstroms + centre[2],
            )
        )
    return tuple(labels)
