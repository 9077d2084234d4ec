"""Real micrographs, the specimen, the match and the noise-free images that all arms share."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.causes import estimate_causes, measure_spectrum
from cryoprism.core import InputError
from cryoprism.formats import read_coordinates, read_image, read_structure
from cryoprism.microscope.optics import Lens
from cryoprism.microscope.potential import AtomicModel, Solvent, average_hydrogens, potential_from_atoms
from cryoprism.restoration.masks import artefact_mask
from cryoprism.synthesis import (
    Arrangement,
    Population,
    Scene,
    Species,
    Specimen,
    particle_contrast,
    particle_mask,
    place_population,
)
from cryoprism.synthesis.matching import (
    Exemplar,
    MatchedMicrograph,
    SessionMatch,
)
from cryoprism.synthesis.noise import fit_noise

PIXEL, RADIUS, LOWPASS = 1.5, 64.0, 15.0
ICE, THICKER = (
    160.0,
    (1.0, 1.25, 1.6, 2.2, 3.0),
)  # [Å] a quarter more than the particle, as ``cryoprism synthesize`` has it
TWICE = 20.0  # [Å] annotations nearer than this are one particle
LENS = Lens(voltage_in_kilovolts=300.0, spherical_aberration_in_millimeters=2.7, amplitude_contrast=0.1)


@dataclass(frozen=True)
class CleanImage:
    """A noise-free micrograph, its exposure, and the real micrograph whose noise it is given."""

    scene: Scene
    source: MatchedMicrograph
    contrast: Tensor
    mask: Tensor


def data_folder() -> Path:
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("CRYOPRISM_DATA", default))


def without_doubles(xy: Tensor) -> Tensor:
    """Annotated centres (n, 2), the first of those that lie within 20 Å of each other."""
    kept: list[Tensor] = []
    for point in xy:
        if all(float((point - other).norm()) * PIXEL > TWICE for other in kept):
            kept.append(point)
    return torch.stack(kept)


def exemplars_of(names: Sequence[str], folder: Path) -> list[Exemplar]:
    """Real micrographs with their estimated causes; without an annotation, without picks."""
    made = []
    for name in names:
        image = read_image(folder / "micrographs" / f"{name}.mrc").data.float()
        file = folder / "coordinates" / f"{name}.star"
        xy = torch.zeros(0, 2, dtype=torch.float64)
        if file.exists():
            xy = without_doubles(read_coordinates(file).xy_in_pixels.double())
        estimate = estimate_causes(measure_spectrum(image, PIXEL), LENS)
        made.append(Exemplar(name=name, image=image, estimate=estimate, xy_in_pixels=xy, weight=weights_of([image])[0]))
    return made


def specimen_of(data: Path) -> Specimen:
    """Potential of the 24-mer of 4OYN in solvent, without anything finer than 15 Å."""
    atoms = read_structure(data / "structures" / "4oyn.pdb.gz", assembly="1", include_waters=False)
    model = AtomicModel(
        positions_in_angstroms=atoms.positions_in_angstroms - atoms.positions_in_angstroms.mean(0),
        atomic_numbers=atoms.atomic_numbers,
        b_factors_in_square_angstroms=atoms.b_factors_in_square_angstroms,
        occupancies=atoms.occupancies,
        hydrogens=average_hydrogens(atoms.atomic_numbers),
    )
    side = 2 * math.ceil((RADIUS + 8.0) / PIXEL)
    volume = potential_from_atoms(model, PIXEL, shape=(side, side, side), center=False, solvent=Solvent())
    full, half = torch.fft.fftfreq(side, PIXEL), torch.fft.rfftfreq(side, PIXEL)
    k = (full[:, None, None] ** 2 + full[:, None] ** 2 + half**2).sqrt()
    density = torch.fft.irfftn(torch.fft.rfftn(volume) * (k <= 1 / LOWPASS), s=(side,) * 3)
    return Specimen(
        name="4oyn", radius_in_angstroms=RADIUS, symmetry="O", density=density, voxel_size_in_angstroms=PIXEL
    )


def clean_image(
    match: SessionMatch, specimen: Specimen, scene: Scene, source: MatchedMicrograph, seed: int
) -> CleanImage:
    density = source.density_in_inverse_square_micrometers
    population = Population(
        species=(Species(name=specimen.name, conformations=(specimen,)),),
        arrangement=Arrangement(density_per_square_micrometer=density),
    )
    scene = replace(scene, seed=seed, ice_thickness_in_angstroms=ICE)
    placement = None
    for factor in THICKER:  # as the command does where the count does not fit into a single layer
        try:
            thickness = factor * ICE
            placement = place_population(replace(scene, ice_thickness_in_angstroms=thickness), population, RADIUS)
            break
        except InputError:
            continue
    assert placement is not None
    contrast = particle_contrast(scene, population, placement, correction=match.correction)
    middle = torch.tensor([scene.width_in_pixels // 2, scene.height_in_pixels // 2])
    centres = placement.centres_in_angstroms[:, :2] / PIXEL + middle
    return CleanImage(scene, source, contrast, particle_mask(scene.shape, centres, RADIUS / PIXEL))


def with_unannotated(match: SessionMatch, exemplars: Sequence[Exemplar], specimen: Specimen) -> SessionMatch:
    """Give micrographs without annotation the median density, and fit their noise beside as many particles."""
    known = torch.tensor([m.density_in_inverse_square_micrometers for m in match.micrographs if m.agreement > 0])
    out = []
    for m, exemplar in zip(match.micrographs, exemplars, strict=True):
        if not len(exemplar.xy_in_pixels):
            m = replace(m, density_in_inverse_square_micrometers=float(known.median()))
            clean = clean_image(match, specimen, m.scene, m, 0).contrast
            noise = fit_noise(
                exemplar.image, clean, m.noise.gain, pixel_size_in_angstroms=PIXEL, weight=exemplar.weight
            )
            m = replace(m, noise=noise)
        out.append(m)
    return replace(match, micrographs=tuple(out))


def weights_of(images: Sequence[Tensor]) -> list[Tensor]:
    return [(artefact_mask(image, PIXEL).full_labels() == 0).float() for image in images]
