"""One synthetic micrograph, inside worker processes: draw its exposure, place, render, add noise, write the labels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoprism.core import InputError
from cryoprism.formats import write_mrc
from cryoprism.synthesis import (
    Arrangement,
    Clusters,
    Filaments,
    Helix,
    NoiseKind,
    Placement,
    Population,
    PreferredViews,
    Scene,
    SessionMatch,
    Species,
    add_noise,
    conformations_from_files,
    draw_exposure,
    morph,
    noise_for,
    particle_contrast,
    particle_labels,
    particle_record,
    place_population,
    project_specimen,
    read_match,
    scene_to_dict,
)

from ._files import write_json
from ._synthesis_configs import SynthesizeConfig

__all__ = ["SynthesisTask", "clean_image", "population_of", "read_truth", "scene_of_task", "synthesize_one"]

_ICE_OVER_PARTICLE = 1.25  # ice where nothing says how thick it is: thin films are a little thicker than the particle
_THICKER = (1.25, 1.6, 2.2, 3.0)
_IN_MASK = 0.15  # of a view's largest potential: what counts as the particle in its mask


@dataclass(frozen=True)
class SynthesisTask:
    """What a worker needs for one micrograph."""

    index: int
    name: str
    config: SynthesizeConfig
    match: Path
    folder: Path


def population_of(config: SynthesizeConfig) -> Population:
    """Species, conformations and arrangement that a configuration asks for.

    Raises
    ------
    InputError
        A file cannot be read, or has no scale.
    """
    helix = None
    if config.helical_rise is not None:
        helix = Helix(rise_in_angstroms=config.helical_rise, twist_in_degrees=config.helical_twist)
    species = []
    for entry in config.maps:
        files = [part.strip() for part in entry.split(",")]
        states = conformations_from_files(
            files,
            assembly=config.assembly,
            molecular_mass_in_kilodaltons=config.mass_in_kilodaltons,
            contour=config.contour,
            symmetry=config.symmetry,
            resolution_in_angstroms=config.lowpass_in_angstroms,
        )
        if config.morph and len(states) == 2:
            states = morph(states[0], states[1], config.morph + 2)
        species.append(Species(name=Path(files[0]).stem, conformations=states, helix=helix))
    views = None
    if config.preferred_views:
        count = len(config.preferred_views)
        views = PreferredViews(
            directions_in_degrees=config.preferred_views,
            shares=(config.view_share / count,) * count,
            concentrations=(config.view_concentration,) * count,
        )
    filaments = None
    if config.filaments:
        filaments = Filaments(count=config.filaments, length_in_angstroms=config.filament_length_in_angstroms)
    return Population(
        species=tuple(species),
        shares=config.shares,
        arrangement=Arrangement(
            views=views,
            interface_share=config.interface_share,
            clusters=Clusters(share=config.cluster_share) if config.cluster_share > 0 else None,
            aggregate_share=config.aggregate_share,
            filaments=filaments,
        ),
    )


@lru_cache(maxsize=2)
def _population(config: str) -> Population:
    return population_of(SynthesizeConfig(**json.loads(config)))


@lru_cache(maxsize=2)
def _match(folder: Path, changed: int) -> SessionMatch:
    return read_match(folder)


def scene_of_task(task: SynthesisTask, match: SessionMatch, population: Population) -> tuple[Scene, int]:
    """Scene of a micrograph to make, and the number of the real one whose noise it has."""
    config = task.config
    scene, chosen = draw_exposure(match, config.seed, task.index, task.name)
    size: dict[str, Any] = {}
    area = 1.0
    for field, value in (("width_in_pixels", config.width_in_pixels), ("height_in_pixels", config.height_in_pixels)):
        if value is not None:
            area *= value / getattr(scene, field)
            size[field] = value
    thickness = config.ice_thickness_in_angstroms
    if thickness is None:
        thickness = _ICE_OVER_PARTICLE * 2 * population.radius_in_angstroms
    count = config.particles_per_micrograph
    scene = replace(
        scene,
        ice_thickness_in_angstroms=thickness,
        particle_count=round(area * scene.particle_count) if count is None else count,
        **size,
    )
    return scene, match.micrographs.index(chosen)


def clean_image(
    scene: Scene, config: SynthesizeConfig, population: Population, match: SessionMatch
) -> tuple[Tensor, Scene, Placement]:
    """Contrast (y, x) of a scene's particles through its lens, the scene, and where they are.

    Where nobody said how thick the ice is, and as many particles as were counted do not fit into it side by side, it
    is made thicker until they do: in the real film they then lie over each other too.
    """
    thicknesses = [scene.ice_thickness_in_angstroms]
    if config.ice_thickness_in_angstroms is None:
        thicknesses += [factor * thicknesses[0] for factor in _THICKER]
    placement = None
    for thickness in thicknesses:
        scene = replace(scene, ice_thickness_in_angstroms=thickness)
        try:
            placement = place_population(scene, population, population.radius_in_angstroms)
            break
        except InputError:
            if thickness == thicknesses[-1]:
                raise
    assert placement is not None
    return particle_contrast(scene, population, placement, correction=match.correction), scene, placement


def synthesize_one(task: SynthesisTask) -> dict[str, Any]:
    """Make one micrograph, its mask and its truth file, whose content is returned."""
    config = task.config
    # Neither the number of micrographs nor what is trained on them is in the key: tasks share one population.
    alike: dict[str, Any] = {"count": 1, "train_picker": False, "train_poses": False}
    population = _population(config.model_copy(update=alike).model_dump_json())
    match = _match(task.match, (task.match / "match.json").stat().st_mtime_ns)
    scene, source = scene_of_task(task, match, population)
    with torch.no_grad():
        clean, scene, placement = clean_image(scene, config, population, match)
        fit = noise_for(match.micrographs[source], scene)
        kind: NoiseKind = config.noise
        pixel = scene.pixel_size_in_angstroms
        image = add_noise(kind, fit, clean, pixel_size_in_angstroms=pixel, seed=config.seed, name=task.name)
    labels = particle_labels(scene, placement)
    truth = {
        "schema": "cryoprism-synthetic-1",
        "simulated": True,
        "scene": scene_to_dict(scene),
        "matched_to": match.micrographs[source].name,
        "noise": {
            "kind": kind,
            "mean_in_grey_values": fit.mean,
            "gain_in_grey_values_per_relative_contrast": fit.gain,
            "variance_of_relative_contrast": fit.variance,
            "electrons_per_pixel": fit.electrons if math.isfinite(fit.electrons) else None,
        },
        "species": [
            {
                "name": one.name,
                "conformations": [
                    {"name": c.name, "symmetry": c.symmetry, "radius_in_angstroms": c.radius_in_angstroms}
                    for c in one.conformations
                ],
            }
            for one in population.species
        ],
        "particles": [particle_record(label, population) for label in labels],
    }
    _write(task, image, _instances(scene, population, placement), truth, pixel)
    return truth


def _instances(scene: Scene, population: Population, placement: Placement) -> Tensor:
    """Label image (y, x) int16: 0 for ice, n for the particle in row n of the micrograph's labels.

    Where particles lie over each other the upper one counts; those whose centre lies outside have no label and no mask.
    """
    pixel = scene.pixel_size_in_angstroms
    image = torch.zeros(scene.shape, dtype=torch.int16)
    middle = torch.tensor([scene.width_in_pixels // 2, scene.height_in_pixels // 2])
    xy = placement.centres_in_angstroms[:, :2] / pixel + middle
    limit = torch.tensor([scene.width_in_pixels - 1, scene.height_in_pixels - 1])
    inside = ((xy >= 0) & (xy <= limit)).all(1)
    number = torch.cumsum(inside.long(), 0)
    if int(inside.sum()) > 32767:
        raise InputError("--particles", f"{int(inside.sum())} particles", "Masks number 32,767 at most: ask for fewer.")
    views: dict[int, Tensor] = {}
    for s, species in enumerate(population.species):
        for c, conformation in enumerate(species.conformations):
            members = torch.nonzero((placement.species == s) & (placement.conformations == c) & inside)[:, 0]
            if not len(members):
                continue
            seen = project_specimen(conformation, placement.rotations[members], pixel, 0.0).abs()
            solid = seen > _IN_MASK * seen.flatten(1).amax(1)[:, None, None]
            views |= dict(zip(members.tolist(), solid, strict=True))
    for i in sorted(views, key=lambda j: float(placement.centres_in_angstroms[j, 2])):
        view = views[i]
        side = view.shape[-1]
        left, top = (xy[i].round().long() - side // 2).tolist()
        a, b = max(0, top), min(image.shape[0], top + side)
        c, d = max(0, left), min(image.shape[1], left + side)
        part = image[a:b, c:d]
        part[view[a - top : b - top, c - left : d - left]] = int(number[i])
    return image


def _write(task: SynthesisTask, image: Tensor, mask: Tensor, truth: Mapping[str, Any], pixel: float) -> None:
    write_mrc(task.folder / "micrographs" / f"{task.name}.mrc", image, pixel)
    write_mrc(task.folder / "masks" / f"{task.name}.mrc", mask, pixel, mode=1)
    # Written last: its presence means that the others are whole.
    write_json(task.folder / "truth" / f"{task.name}.json", truth)


def read_truth(folder: Path, name: str) -> dict[str, Any]:
    """Return what :func:`synthesize_one` wrote for a micrograph."""
    content: dict[str, Any] = json.loads((folder / "truth" / f"{name}.json").read_text(encoding="utf-8"))
    return content
