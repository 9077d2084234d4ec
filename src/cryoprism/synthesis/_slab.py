"""The slab in the beam: particles, ice and obstacles in layers, carried through the lens to a noise-free image.

Layers are horizontal and 80 Å deep, numbered from the plane that the defocus refers to. Ice noise is drawn by layer
number, so that a thinner film keeps the noise of its inner layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import scipy.fft
import torch
from torch import Tensor

from cryoprism.core import InputError, frequency_grid, interaction_constant, irfft2, rfft2
from cryoprism.microscope.contamination import carbon_film, contamination
from cryoprism.microscope.crystalline import crystalline_ice
from cryoprism.microscope.dose import damage_envelope
from cryoprism.microscope.ice import (
    coloured_noise,
    ice_structure_power,
    inelastic_mean_free_path_in_angstroms,
    inelastic_transmission,
    thickness_field,
)
from cryoprism.microscope.motion import shift_frames
from cryoprism.microscope.optics import (
    contrast_transfer,
    directional_spatial_coherence_envelope,
    temporal_coherence_envelope,
    wave_transfer,
)
from cryoprism.microscope.scattering import exit_wave, image_intensity, wave_frequency_grid

from .placement import Placement, place_population, tilt_height
from .scene import Scene
from .species import Population, as_population
from .specimen import Specimen, project_specimen, slab_projections

__all__ = [
    "HOLE_RADIUS_IN_ANGSTROMS",
    "LAYER_IN_ANGSTROMS",
    "Canvas",
    "Engine",
    "NoiseFree",
    "coherence_envelope",
    "hole_center",
    "noise_free_image",
    "with_border",
]

Engine = Literal["projection", "multislice", "rytov"]

LAYER_IN_ANGSTROMS = 80.0
HOLE_RADIUS_IN_ANGSTROMS = 6000.0
"""Of the holes in a support film."""


@dataclass(frozen=True)
class Canvas:
    """The field with a border, so that nothing wraps around into the recorded image."""

    shape: tuple[int, int]
    top: int
    left: int
    pixel: float

    def crop(self, image: Tensor, shape: tuple[int, int]) -> Tensor:
        return image[..., self.top : self.top + shape[0], self.left : self.left + shape[1]].contiguous()


def with_border(scene: Scene, border_in_pixels: int) -> Canvas:
    """Canvas with a border at least so wide, of a size that transforms fast, the field's middle pixel at its own."""
    height, width = (int(scipy.fft.next_fast_len(n + 2 * border_in_pixels, real=True)) for n in scene.shape)
    top, left = height // 2 - scene.shape[0] // 2, width // 2 - scene.shape[1] // 2
    return Canvas((height, width), top, left, scene.pixel_size_in_angstroms)


@dataclass(frozen=True)
class NoiseFree:
    """Noise-free canvas quantities before motion and detector: relative intensity = transmission × (1 + contrast)."""

    canvas: Canvas
    contrast: Tensor
    transmission: Tensor
    potential: Tensor
    signal: Tensor
    thickness: Tensor
    masks: dict[str, Tensor]
    placement: Placement


def noise_free_image(
    scene: Scene, specimen: Specimen | Population, engine: Engine, *, fading_end: float, ice_exposure: float
) -> NoiseFree:
    """Render everything that motion and the detector act on.

    Parameters
    ----------
    scene, specimen, engine
        What is seen and how; a specimen is a population of one.
    fading_end
        Exposure [e/Å²] over which the particles fade on average; 0 for intact ones.
    ice_exposure
        Exposure [e/Å²] over which moving water is averaged.
    """
    if engine not in get_args(Engine):
        raise InputError("engine", f"'{engine}' is not known", f"Use one of {', '.join(get_args(Engine))}.")
    population = as_population(specimen)
    largest = population.radius_in_angstroms
    pixel = scene.pixel_size_in_angstroms
    border = math.ceil((largest + 20.0) / pixel)
    canvas = with_border(scene, border)
    height, width = canvas.shape
    extra, transmission, obstacles = _obstacles(scene, canvas)
    placement = place_population(scene, population, border * pixel, obstacles.get("carbon"))
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
    reach = 0.0 if engine == "projection" else largest
    if len(placement) and reach:
        low, high = min(low, float(heights.min()) - reach), max(high, float(heights.max()) + reach)
    numbers = range(math.floor(low / LAYER_IN_ANGSTROMS + 0.5), math.floor(high / LAYER_IN_ANGSTROMS + 0.5) + 1)
    path = inelastic_mean_free_path_in_angstroms(scene.voltage_in_kilovolts)
    transmission = transmission * inelastic_transmission(thickness, path)
    layers = _layers(scene, population, placement, canvas, numbers, thin=engine != "projection")
    ice = _ice_layers(scene, canvas, numbers, thickness, middle, ice_exposure)
    draw = _linear if engine == "projection" else _through_waves
    contrast, potential, signal = draw(scene, canvas, numbers, layers, ice, extra, fading_end, engine)
    masks = {name: canvas.crop(mask, scene.shape) for name, mask in obstacles.items()}
    return NoiseFree(canvas, contrast, transmission, potential, signal, thickness, masks, placement)


def _obstacles(scene: Scene, canvas: Canvas) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Potential [V Å], transmission and masks on the canvas of all that is neither specimen nor vitreous ice."""
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
        film = carbon_film(
            canvas.shape,
            canvas.pixel,
            generator=generator,
            thickness_in_angstroms=scene.carbon_thickness_in_angstroms,
            hole_radius_in_angstroms=HOLE_RADIUS_IN_ANGSTROMS,
            hole_center_in_angstroms=hole_center(scene.shape, canvas.pixel, scene.carbon_fraction, angle),
            voltage_in_kilovolts=scene.voltage_in_kilovolts,
        )
        potential, transmission = potential + film.projected_potential, transmission * film.transmission
        masks["carbon"] = film.mask
    return potential, transmission, masks


def hole_center(shape: tuple[int, int], pixel: float, fraction: float, angle: float) -> tuple[float, float]:
    """Centre (x, y) [Å] of a hole whose film covers a fraction of the field on the side of an angle [rad]."""
    y = torch.arange(shape[0])[:, None] - shape[0] // 2
    x = torch.arange(shape[1])[None, :] - shape[1] // 2
    along = ((math.cos(angle) * x + math.sin(angle) * y) * pixel).flatten().sort().values
    edge = float(along[min(along.numel() - 1, int((1 - fraction) * along.numel()))])
    away = edge - HOLE_RADIUS_IN_ANGSTROMS
    return away * math.cos(angle), away * math.sin(angle)


def _layers(
    scene: Scene, population: Population, placement: Placement, canvas: Canvas, numbers: range, *, thin: bool
) -> dict[int, Tensor]:
    """Projected potential [V Å] of the particles by layer: whole, or cut into the layers they span (``thin``)."""
    layers: dict[int, Tensor] = {}
    b_factor = scene.specimen_b_factor_in_square_angstroms

    def add(number: int, image: Tensor, row: int, column: int) -> None:
        if number not in layers:
            layers[number] = torch.zeros(canvas.shape)
        target = layers[number]
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
    home = torch.floor(heights / LAYER_IN_ANGSTROMS + 0.5).long().clamp(numbers[0], numbers[-1]).tolist()
    for specimen, chosen in _members(population, placement):
        if thin:
            for i in chosen.tolist():
                sheets, offsets = slab_projections(
                    specimen, placement.rotations[i], canvas.pixel, b_factor, (float(rest[i, 0]), float(rest[i, 1]))
                )
                of_layer = torch.floor((heights[i] + offsets) / LAYER_IN_ANGSTROMS + 0.5).long()
                for number in sorted(set(of_layer.tolist())):
                    clipped = min(max(number, numbers[0]), numbers[-1])
                    add(clipped, sheets[of_layer == number].sum(0), rows[i], columns[i])
            continue
        for start in range(0, len(chosen), 32):
            part = chosen[start : start + 32]
            views = project_specimen(specimen, placement.rotations[part], canvas.pixel, b_factor)
            views = shift_frames(views, rest[part, 0], rest[part, 1], canvas.pixel)
            for i, view in zip(part.tolist(), views, strict=True):
                add(home[i], view, rows[i], columns[i])
    return layers


def _members(population: Population, placement: Placement) -> Iterator[tuple[Specimen, Tensor]]:
    """Each conformation and the numbers of its particles, so that its volume is made once."""
    for i, species in enumerate(population.species):
        for j, specimen in enumerate(species.conformations):
            chosen = torch.nonzero((placement.species == i) & (placement.conformations == j)).flatten()
            if len(chosen):
                yield specimen, chosen


def _ice_layers(
    scene: Scene, canvas: Canvas, numbers: range, thickness: Tensor, middle: Tensor, exposure: float
) -> Iterator[Tensor]:
    """Fluctuations [V Å] of vitreous ice by layer, each as deep at a pixel as the slab is within it there."""
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
    canvas: Canvas,
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
    coherence = coherence_envelope(scene, ky, kx)
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


def coherence_envelope(scene: Scene, ky: Tensor, kx: Tensor) -> Tensor:
    """Spatial times temporal coherence (h, w) on frequencies [1/Å], at the defocus of the slab's middle."""
    k = torch.sqrt(ky * ky + kx * kx)
    spatial = directional_spatial_coherence_envelope(
        ky,
        kx,
        scene.lens,
        semi_angle_in_milliradians=scene.source_semi_angle_in_milliradians,
        defocus_u_in_angstroms=scene.defocus_u_in_angstroms,
        defocus_v_in_angstroms=scene.defocus_v_in_angstroms,
        defocus_angle_in_degrees=scene.astigmatism_angle_in_degrees,
    )
    return spatial * temporal_coherence_envelope(
        k, scene.lens, focal_spread_in_angstroms=scene.focal_spread_in_angstroms
    )


def _through_waves(
    scene: Scene,
    canvas: Canvas,
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
