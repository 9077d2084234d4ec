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
from cryoprism.formats import write_mrc, write_stack
from cryoprism.restoration import LABELS
from cryoprism.synthesis import (
    ArtefactField,
    Artefacts,
    NoiseKind,
    NoRoom,
    Placement,
    Population,
    Scene,
    SessionMatch,
    artefact_contrast,
    artefact_field,
    draw_artefacts,
    draw_exposure,
    draw_noise,
    frame_tracks,
    movie_frames,
    noise_for,
    particle_contrast,
    particle_labels,
    particle_record,
    place_population,
    project_specimen,
    read_match,
    scene_to_dict,
    shared_power,
    still_contrast,
)
from cryoprism.workflow.jobs.files import write_json

from .configs import SynthesizeConfig
from .learned_noise import LEARNED_ON, learned_places, translated
from .population import population_of

__all__ = [
    "CleanImage",
    "SynthesisTask",
    "clean_image",
    "outputs_of",
    "read_truth",
    "scene_of_task",
    "synthesize_one",
]

_ICE_OVER_PARTICLE = 1.25  # ice where nothing says how thick it is: thin films are a little thicker than the particle
_THICKER = (1.25, 1.6, 2.2, 3.0)
_IN_MASK = 0.15  # of a view's largest potential: what counts as the particle in its mask
_OUTLINE_B_FACTOR = 4000.0  # [Å²] smooths it by 7 Å (deviation): B = 8 π² σ²


@dataclass(frozen=True)
class SynthesisTask:
    """What a worker needs for one micrograph."""

    index: int
    name: str
    config: SynthesizeConfig
    match: Path
    folder: Path

    @property
    def artefact_mask(self) -> Path:
        """Labels of ``restoration.LABELS``; only where there are artefacts."""
        return self.folder / "masks" / f"{self.name}_artefacts.mrc"


@dataclass(frozen=True, eq=False)
class CleanImage:
    """A micrograph without noise.

    Attributes
    ----------
    contrast
        (y, x) of particles and artefacts through the lens.
    scene, placement
        With the ice that the particles need, and where they are.
    artefacts, field
        What was drawn of them; ``field`` is None where there are none.
    """

    contrast: Tensor
    scene: Scene
    placement: Placement
    artefacts: Artefacts
    field: ArtefactField | None

    def labels(self) -> Tensor | None:
        """Artefacts as (y, x) uint8 of ``restoration.LABELS``; None where there are none."""
        if self.field is None:
            return None
        labels = torch.zeros(self.scene.shape, dtype=torch.uint8)
        labels[self.field.carbon] = LABELS["carbon"]
        labels[self.field.contamination] = LABELS["contamination"]
        return labels


@lru_cache(maxsize=2)
def _population(config: str, changed: tuple[int, ...]) -> Population:
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
    if config.ice_gradient > 0:
        turn = float(torch.rand((), generator=scene.generator("direction of the wedge")))
        size["ice_gradient_direction_in_degrees"] = 360.0 * turn
    scene = replace(
        scene,
        ice_gradient_in_angstroms_per_micrometer=config.ice_gradient,
        tilt_in_degrees=config.tilt_in_degrees,
        tilt_axis_in_degrees=config.tilt_axis_in_degrees,
        ice_thickness_in_angstroms=thickness,
        particle_count=round(area * scene.particle_count) if count is None else count,
        **size,
    )
    return scene, match.micrographs.index(chosen)


def clean_image(
    scene: Scene, source: int, config: SynthesizeConfig, population: Population, match: SessionMatch
) -> CleanImage:
    """Particles and artefacts of a scene through its lens; ``source`` is the number of the real micrograph.

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
        except NoRoom:
            if thickness == thicknesses[-1]:
                raise
    assert placement is not None
    contrast = particle_contrast(scene, population, placement, correction=match.correction)
    if (darkest := float(contrast.min())) < -1:
        raise InputError(
            "--map",
            f"a contrast of {darkest:.2g} where particles are darkest: fewer electrons than none",
            "Check --mass or --contour, the voxel size, and --helical-rise: there is far too much matter.",
        )
    artefacts = draw_artefacts(
        match, match.micrographs[source], scene, contamination=config.contamination, carbon=config.carbon
    )
    field = None
    if artefacts:
        field = artefact_field(scene, artefacts)
        contrast = contrast + field.canvas.crop(artefact_contrast(scene, field), scene.shape)
    return CleanImage(contrast, scene, placement, artefacts, field)


def synthesize_one(task: SynthesisTask) -> dict[str, Any]:
    """Make one micrograph, its movie if asked for, its masks and its truth file, whose content is returned."""
    config = task.config
    # Neither the number of micrographs nor what is trained on them is in the key: tasks share one population.
    alike: dict[str, Any] = {"count": 1, "train_picker": False, "train_poses": False}
    changed = tuple(file.stat().st_mtime_ns for file in config.map_files())
    population = _population(config.model_copy(update=alike).model_dump_json(), changed)
    match = _match(task.match, (task.match / "match.json").stat().st_mtime_ns)
    scene, source = scene_of_task(task, match, population)
    with torch.no_grad():
        clean = clean_image(scene, source, config, population, match)
        scene = clean.scene
        fit = noise_for(match.micrographs[source], scene)
        pixel = scene.pixel_size_in_angstroms
        kind: NoiseKind = LEARNED_ON if config.noise == "learned" else config.noise
        noise = draw_noise(kind, fit, clean.contrast, pixel_size_in_angstroms=pixel, seed=config.seed, name=task.name)
        image = (noise.total + clean.contrast) * fit.gain + fit.mean
        strength = None
        if config.noise == "learned":
            places = learned_places(scene, population, clean.placement)
            image, strength = translated(task.folder, image, clean.contrast, places, fit.gain, config, task.name)
        movie: dict[str, Any] = {}
        if frames := config.frames_of_a_movie:
            made = movie_frames(
                image,
                clean.contrast,
                noise,
                fit,
                scene,
                still_contrast(scene, population, clean.placement, match.correction, clean.field),
                frames,
                shared=shared_power(kind, fit, match.micrographs[source].ice_power, scene),
                seed=config.seed,
                name=task.name,
            )
            write_stack(task.folder / "movies" / f"{task.name}.mrcs", made, pixel)
            movie = {"track_in_angstroms": frame_tracks(scene, frames).mean(1).tolist()}
            scene = replace(scene, frames=frames)
    labels = particle_labels(scene, clean.placement)
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
            "share_of_learned_residual": strength,
        },
        **movie,
        "artefacts": {"seed": scene.seed, **clean.artefacts.to_dict()},
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
    _write(task, image, _instances(scene, population, clean.placement), clean.labels(), truth, pixel)
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
            # As smooth as an outline is: single atoms would leave holes.
            seen = project_specimen(conformation, placement.rotations[members], pixel, _OUTLINE_B_FACTOR).abs()
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


def outputs_of(task: SynthesisTask) -> list[Path]:
    """Files that :func:`synthesize_one` has written for a task."""
    found = [
        task.folder / "micrographs" / f"{task.name}.mrc",
        task.folder / "masks" / f"{task.name}.mrc",
        task.folder / "truth" / f"{task.name}.json",
    ]
    if task.config.frames_of_a_movie:
        found.append(task.folder / "movies" / f"{task.name}.mrcs")
    return [*found, task.artefact_mask] if task.artefact_mask.is_file() else found


def _write(
    task: SynthesisTask, image: Tensor, mask: Tensor, artefacts: Tensor | None, truth: Mapping[str, Any], pixel: float
) -> None:
    write_mrc(task.folder / "micrographs" / f"{task.name}.mrc", image, pixel)
    write_mrc(task.folder / "masks" / f"{task.name}.mrc", mask, pixel, mode=1)
    task.artefact_mask.unlink(missing_ok=True)
    if artefacts is not None:
        write_mrc(task.artefact_mask, artefacts, pixel, mode=0)
    # Written last: its presence means that the others are whole.
    write_json(task.folder / "truth" / f"{task.name}.json", truth)


def read_truth(folder: Path, name: str) -> dict[str, Any]:
    """Return what :func:`synthesize_one` wrote for a micrograph."""
    content: dict[str, Any] = json.loads((folder / "truth" / f"{name}.json").read_text(encoding="utf-8"))
    return content
