"""Simulated micrographs with known particle centres, to train a picker on.

Physics first: the synthesis room renders particles, small debris and large strangers in ice of varied thickness, dose,
defocus, motion, with contamination and support film. The images are rendered at a coarse pixel, which is all that the
picker will look at, so that one costs a twentieth of a second.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoprism.core import InputError, generator_for
from cryoprism.microscope.contamination import Obstacle, contamination
from cryoprism.restoration.masks import LABELS
from cryoprism.synthesis import (
    Particle,
    Scene,
    Specimen,
    phantom,
    render_micrograph,
    specimen_from_file,
    specimen_from_phantom,
)

from ._inputs import Transfer

__all__ = ["EXCLUDED", "TrainingField", "load_specimens", "simulate_fields"]

EXCLUDED = ("4oyn", "6z6u")
"""Structures that no shipped weights are trained on: ferritins, so that tests on apoferritin are tests on the unseen.
The phantom ``shell`` is left out for the same reason."""

SMALLEST_DIAMETER = 90.0  # Å; what is smaller serves as debris
LARGEST_DIAMETER = 420.0  # Å; fibres and giant assemblies need no network of this kind
_PIXELS_ACROSS = 28  # simulated pixels across a diameter: finer than the picker's 24
_SIDE = 336  # pixels of a field
_FEWEST_ATOMS, _MOST_ATOMS = 4000, 400_000  # of a particle: fewer hardly show, more take minutes to draw
_CONTACT = 0.88  # of a diameter: neighbours come as near as this,
_INTERLOCK = 8.0  # but lose no more than so many Å of a radius
_HIDDEN = 0.9  # contamination that lets this share of the electrons pass leaves particles to be seen

log = logging.getLogger("cryoprism")


@dataclass(frozen=True, eq=False)
class TrainingField:
    """One simulated micrograph.

    Attributes
    ----------
    name
        Of the specimen.
    image
        (h, w) recorded counts.
    pixel_size_in_angstroms, diameter_in_angstroms
        Of the image, and of the sphere around the particle.
    xy_in_pixels
        (n, 2) centres of particles that are to be found: not those on support film or under thick contamination.
    labels
        (h, w) uint8 as in ``restoration.LABELS``: contamination and carbon as they truly are.
    transfer
        The true CTF.
    """

    name: str
    image: Tensor
    pixel_size_in_angstroms: float
    diameter_in_angstroms: float
    xy_in_pixels: Tensor
    labels: Tensor
    transfer: Transfer


def load_specimens(folder: Path | None, excluded: Sequence[str] = EXCLUDED) -> list[Specimen]:
    """Specimens to train on, large to small.

    Parameters
    ----------
    folder
        Structure files (PDB, mmCIF), of which the first biological assembly is taken where there is one, beside two
        barrels among the phantoms; None gives phantoms alone: barrels and globules of several seeds.
    excluded
        Stems of files that are left out, in any case of letters.

    Raises
    ------
    InputError
        The folder holds no structure of a usable size.
    """
    if folder is None:
        return _phantoms(range(3), range(4))
    names = {name.lower() for name in excluded}
    specimens = []
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        stem = file.name.split(".")[0].lower()
        if stem in names or not any(end in file.name for end in (".pdb", ".cif", ".ent")):
            continue
        specimen = _from_structure(file)
        if specimen is not None:
            specimens.append(replace(specimen, name=stem))
    usable = [s for s in specimens if 2 * s.radius_in_angstroms <= LARGEST_DIAMETER]
    if not any(_is_large(s) for s in usable):
        raise InputError(
            folder,
            f"holds no structure of {SMALLEST_DIAMETER:.0f} to {LARGEST_DIAMETER:.0f} Å that is not excluded",
            "Name a folder of PDB or mmCIF files, or leave --structures out to train on phantoms.",
        )
    return sorted([*usable, *_phantoms(range(2), range(0))], key=lambda s: -s.radius_in_angstroms)


def _phantoms(barrels: Iterable[int], globules: Iterable[int]) -> list[Specimen]:
    made = [phantom("barrel", seed) for seed in barrels] + [phantom("globule", seed) for seed in globules]
    return [specimen_from_phantom(p) for p in made]


def _is_large(specimen: Specimen) -> bool:
    atoms = 0 if specimen.model is None else specimen.model.positions_in_angstroms.shape[0]
    return 2 * specimen.radius_in_angstroms >= SMALLEST_DIAMETER and atoms >= _FEWEST_ATOMS


def _from_structure(file: Path) -> Specimen | None:
    for assembly in ("1", None):
        try:
            specimen = specimen_from_file(file, assembly=assembly)
        except InputError:
            continue
        if specimen.model is not None and specimen.model.positions_in_angstroms.shape[0] <= _MOST_ATOMS:
            return specimen
    log.info("%s: no assembly of a usable size, left out", file.name)
    return None


def simulate_fields(specimens: Sequence[Specimen], count: int, seed: int, side: int = _SIDE) -> Iterator[TrainingField]:
    """Render ``count`` fields, the specimens taking turns in blocks; each depends on the seed and its number only.

    Parameters
    ----------
    specimens
        As from :func:`load_specimens`; those below :data:`SMALLEST_DIAMETER` are debris for the others (phantoms have
        none).
    count, seed
        How many, and the seed of every draw.
    side
        Pixels of a field.
    """
    large = [s for s in specimens if _is_large(s)] or list(specimens)
    for index in range(count):
        # In blocks, because a specimen's potential is computed once and kept for the next few fields.
        specimen = large[index * len(large) // count]
        yield _field(specimen, specimens, index, seed, side)


def _field(specimen: Specimen, others: Sequence[Specimen], index: int, seed: int, side: int) -> TrainingField:
    generator = generator_for(seed, "picking", index)
    diameter = 2 * specimen.radius_in_angstroms
    pixel = diameter / _PIXELS_ACROSS
    scene = _scene(index, seed, diameter, pixel, side, generator)
    packed = _interlocking(specimen)
    rendered = None
    for _ in range(4):
        try:
            with torch.no_grad():
                rendered = render_micrograph(scene, packed)
            break
        except InputError:  # too many to fit: fewer
            scene = replace(scene, particle_count=int(0.7 * scene.particle_count))
    if rendered is None:
        rendered = render_micrograph(replace(scene, particle_count=0), packed)
    particles = list(rendered.particles)
    contrast = _strangers(scene, specimen, others, generator)
    if scene.particle_count and float(torch.rand((), generator=generator)) < 0.55:
        # A second layer, whose particles may lie in front of those of the first, and may have lost some of their
        # contrast: at the air-water interface, out of focus, or to the beam.
        draws = torch.rand(3, generator=generator).tolist()
        extra, labelled = _layer(scene, packed, max(1, round((0.1 + 0.7 * draws[0]) * scene.particle_count)))
        contrast = contrast + (0.5 + 0.5 * draws[2] if draws[1] < 0.4 else 1.0) * extra
        particles += labelled
    small = _small_crystals(scene, diameter, generator)
    image = (rendered.counts + float(rendered.counts.mean()) * contrast) * small.transmission
    dirt = (rendered.masks["contamination"] > 0.5) | (small.mask > 0.5)
    labels = torch.zeros(image.shape, dtype=torch.uint8)
    labels[rendered.masks["carbon"] > 0.5] = LABELS["carbon"]
    labels[dirt] = LABELS["contamination"]
    xy = torch.tensor([[p.x_in_pixels, p.y_in_pixels] for p in particles]).reshape(-1, 2)
    whole = xy.round().long()
    thin = (small.transmission > _HIDDEN) & (rendered.masks["contamination"] <= 0.5)
    seen = (labels == 0) | ((labels == LABELS["contamination"]) & thin)
    xy = xy[seen[whole[:, 1].clamp(0, side - 1), whole[:, 0].clamp(0, side - 1)]]
    transfer = Transfer(
        lens=scene.lens,
        defocus_u_in_angstroms=scene.defocus_u_in_angstroms,
        defocus_v_in_angstroms=scene.defocus_v_in_angstroms,
        defocus_angle_in_degrees=scene.astigmatism_angle_in_degrees,
        phase_shift_in_degrees=scene.phase_shift_in_degrees,
    )
    return TrainingField(specimen.name, image, pixel, diameter, xy, labels, transfer)


@lru_cache(maxsize=4)
def _interlocking(specimen: Specimen) -> Specimen:
    """Return a specimen whose neighbours may come nearer than the sphere around it: few particles fill that sphere.

    Spheres placed at random one after another cover no more than 55 % of a field; particles in a crowded film cover
    up to three quarters. The potential keeps its box, which has a margin of as many Å as the radius loses.
    """
    radius = specimen.radius_in_angstroms
    return replace(specimen, radius_in_angstroms=max(_CONTACT * radius, radius - _INTERLOCK))


def _scene(
    index: int, seed: int, diameter: float, pixel: float, side: int, generator: torch.Generator, **fixed: Any
) -> Scene:
    """Draw one exposure as sessions bring them, from good to bad."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def logarithmic(low: float, high: float) -> float:
        return low * math.exp(math.log(high / low) * uniform(0.0, 1.0))

    def chance(probability: float) -> bool:
        return uniform(0.0, 1.0) < probability

    area = (side * pixel) ** 2 / (0.25 * math.pi * diameter**2)  # particles that would cover the field once
    thickness = diameter * (uniform(1.02, 1.3) if chance(0.5) else uniform(1.3, 2.6)) + 30.0
    # A third of the fields is crowded, some hold no particle at all.
    coverage = 0.0 if chance(0.06) else uniform(0.4, 0.55) if chance(0.35) else uniform(0.02, 0.43)
    drift, angle = uniform(0.0, 1.0) ** 2 * min(0.25 * diameter, 30.0), uniform(0.0, 2 * math.pi)
    values: dict[str, Any] = {
        "defocus_in_angstroms": logarithmic(5000.0, 38000.0),
        "astigmatism_in_angstroms": uniform(0.0, 900.0),
        "astigmatism_angle_in_degrees": uniform(-90.0, 90.0),
        "phase_shift_in_degrees": uniform(30.0, 100.0) if chance(0.04) else 0.0,
        "exposure_in_electrons_per_square_angstrom": logarithmic(4.0, 70.0),
        "voltage_in_kilovolts": 300.0 if chance(0.75) else 200.0,
        "amplitude_contrast": uniform(0.06, 0.12),
        "ice_thickness_in_angstroms": thickness,
        "ice_gradient_in_angstroms_per_micrometer": uniform(0.0, 800.0) if chance(0.4) else 0.0,
        "ice_gradient_direction_in_degrees": uniform(0.0, 360.0),
        "drift_y_in_angstroms": drift * math.sin(angle),
        "drift_x_in_angstroms": drift * math.cos(angle),
        "jitter_in_angstroms": uniform(0.0, 1.5),
        "envelope_b_factor_in_square_angstroms": uniform(0.0, 300.0),
        "contamination_count": int(uniform(1.0, 6.0)) if chance(0.4) else 0,
        "carbon_fraction": uniform(0.08, 0.5) if chance(0.15) else 0.0,
        "particle_count": round(coverage * area),
    }
    return Scene(
        name=f"picking-{index}",
        seed=seed,
        height_in_pixels=side,
        width_in_pixels=side,
        pixel_size_in_angstroms=pixel,
        detector_blur_in_pixels=-1.0,
        detector_dqe0=uniform(0.5, 0.9),
        **(values | fixed),
    )


def _strangers(scene: Scene, specimen: Specimen, others: Sequence[Specimen], generator: torch.Generator) -> Tensor:
    """Contrast (h, w) of what is protein but not the particle: debris half its size or less, and large assemblies."""
    contrast = torch.zeros(scene.shape)
    radius = specimen.radius_in_angstroms
    choices: tuple[tuple[list[Specimen], float, tuple[int, int]], ...] = (
        ([s for s in others if 0.12 * radius < s.radius_in_angstroms < 0.5 * radius], 0.45, (5, 60)),
        ([s for s in others if 1.8 * radius < s.radius_in_angstroms < 3.2 * radius], 0.12, (1, 3)),
    )
    for group, probability, (low, high) in choices:
        draws = torch.rand(2, generator=generator).tolist()
        if group and draws[0] < probability:
            # The same few strangers in all fields of a specimen: their potentials are kept.
            chosen = generator_for(scene.seed, "strangers", specimen.name, low)
            stranger = group[int(float(torch.rand((), generator=chosen)) * len(group))]
            contrast = contrast + _layer(scene, stranger, low + int(draws[1] * (high - low)))[0]
    return contrast


def _layer(scene: Scene, specimen: Specimen, count: int) -> tuple[Tensor, tuple[Particle, ...]]:
    """Contrast (h, w) and labels of so many more particles in the same exposure; none where they do not fit."""
    more = replace(
        scene,
        name=f"{scene.name}-{specimen.name}-more",
        particle_count=count,
        contamination_count=0,
        carbon_fraction=0.0,
    )
    try:
        with torch.no_grad():
            rendered = render_micrograph(more, specimen)
    except InputError:
        return torch.zeros(scene.shape), ()
    return rendered.signal, rendered.particles


def _small_crystals(scene: Scene, diameter: float, generator: torch.Generator) -> Obstacle:
    """Contamination about as large as the particle, from hardly visible to black."""
    draws = torch.rand(4, generator=generator).tolist()
    return contamination(
        scene.shape,
        scene.pixel_size_in_angstroms,
        generator=generator,
        count=1 + int(5 * draws[1]) if draws[0] < 0.45 else 0,
        radius_in_angstroms=diameter * (0.15 + 0.55 * draws[2]),
        thickness_in_angstroms=80.0 * 30.0 ** draws[3],
        voltage_in_kilovolts=scene.voltage_in_kilovolts,
        edge_in_angstroms=0.15 * diameter,
    )
