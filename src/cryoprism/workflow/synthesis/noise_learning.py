"""``--noise learned``: train a translation on a session's micrographs; what there is to say of it afterwards."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.core import generator_for
from cryoprism.synthesis import (
    Exemplar,
    Population,
    RealField,
    SessionMatch,
    SyntheticField,
    TranslationSettings,
    add_noise,
    noise_for,
    train_translator,
)
from cryoprism.synthesis.translation import LEAST_GAIN, load_translator, query_points, save_translator, similarity_maps
from cryoprism.workflow.jobs.files import atomic_path
from cryoprism.workflow.jobs.job import Job

from .configs import SynthesizeConfig
from .learned_noise import LEARNED_ON, learned_places, translation_file
from .making import SynthesisTask, clean_image, scene_of_task

__all__ = ["STAGE", "LearnedNoise", "SimilarPlaces", "learn_noise", "learned_noise_of", "similar_places"]

STAGE = "learn noise"
_FIELDS = 6  # synthetic micrographs to learn on; more would only repeat
_ON_PARTICLES, _BETWEEN = 3, 2  # places whose like is shown
_MAPPED = 640  # pixels of a side of what similarities are shown of

log = logging.getLogger("cryoprism")


@dataclass(frozen=True, eq=False)
class LearnedNoise:
    """What the report says of a translation.

    Attributes
    ----------
    strength
        Factor on what was learned; 0: nothing is added.
    steps
        Of its training.
    distances
        Energy distance of patch statistics from real ones by factor.
    """

    strength: float
    steps: int
    distances: dict[float, float]


def _settings(config: SynthesizeConfig) -> TranslationSettings:
    """Compact on a CPU, the larger network on a GPU."""
    make = TranslationSettings.compact if config.device == "cpu" else TranslationSettings.gpu
    settings = make(seed=config.seed, device=config.device)
    if config.learning_steps is None:
        return settings
    return make(seed=config.seed, device=config.device, steps=config.learning_steps)


def learn_noise(
    config: SynthesizeConfig,
    job: Job,
    match: SessionMatch,
    population: Population,
    exemplars: Sequence[Exemplar],
    evidence: str,
) -> None:
    """Train on the matched micrographs and synthetic ones of their own; ``match/translation.safetensors``.

    An interrupted training goes on from ``match/.translation.pt``. ``evidence`` tells what the match rests on.

    Raises
    ------
    InputError
        Micrographs smaller than the patches that are learned from.
    """
    pixel = match.micrographs[0].scene.pixel_size_in_angstroms
    real = [RealField(name=e.name, image=e.image, pixel_size_in_angstroms=pixel, weight=e.weight) for e in exemplars]
    synthetic = []
    with torch.no_grad():
        for index in range(min(_FIELDS, max(2, len(exemplars)))):
            # Scenes of their own: what is learned on is not what is made.
            task = SynthesisTask(index, f"learning-{index + 1}", config, job.path / "match", job.path)
            scene, source = scene_of_task(task, match, population)
            made = clean_image(scene, source, config, population, match)
            clean, scene = made.contrast, made.scene
            fit = noise_for(match.micrographs[source], scene)
            image = add_noise(LEARNED_ON, fit, clean, pixel_size_in_angstroms=pixel, seed=config.seed, name=task.name)
            synthetic.append(
                SyntheticField(
                    name=task.name,
                    image=image,
                    clean=clean,
                    gain=fit.gain,
                    mask=learned_places(scene, population, made.placement),
                    pixel_size_in_angstroms=pixel,
                )
            )
    checkpoint = job.path / "match" / ".translation.pt"
    trained = train_translator(real, synthetic, _settings(config), progress=log.info, checkpoint=checkpoint)
    with atomic_path(translation_file(job.path)) as temporary:
        save_translator(temporary, trained.translator)
    job.mark_done("session", stage=STAGE, outputs=[translation_file(job.path)], depends_on=evidence)
    checkpoint.unlink(missing_ok=True)
    strength = trained.translator.strength
    if strength == 0:
        log.info(
            "What was learned brings patches no nearer to real ones, or by less than %.0f %%: nothing of it is added.",
            100 * LEAST_GAIN,
        )
    else:
        log.info("What was learned is added with a factor of %g.", strength)


def learned_noise_of(folder: Path) -> LearnedNoise:
    """Return what is known of a job's translation."""
    translator = load_translator(translation_file(folder))
    distances = json.loads(translator.notes.get("distances", "{}"))
    return LearnedNoise(
        translator.strength,
        int(translator.notes.get("steps", 0)),
        {float(factor): float(distance) for factor, distance in distances.items()},
    )


@dataclass(frozen=True, eq=False)
class SimilarPlaces:
    """How alike the network holds some places of a micrograph to every other.

    Attributes
    ----------
    image
        (y, x) what is shown of the micrograph, in grey values.
    maps
        (n, y, x) cosines.
    xy_in_pixels
        (n, 2) the places, those on particles first.
    on_particles
        How many those are.
    """

    image: Tensor
    maps: Tensor
    xy_in_pixels: Tensor
    on_particles: int


def similar_places(folder: Path, image: Tensor, mask: Tensor, seed: int) -> SimilarPlaces:
    """Ask the network of a job about places on and between particles (``mask``); of a large micrograph its middle."""
    top, left = (max(0, (n - _MAPPED) // 2) for n in image.shape)
    image, mask = (t[top : top + _MAPPED, left : left + _MAPPED] for t in (image, mask))
    generator = generator_for(seed, "similarity")
    xy, on_particles = torch.zeros(0, 2, dtype=torch.float64), 0
    for particle, count in ((True, _ON_PARTICLES), (False, _BETWEEN)):
        if bool(((mask >= 0.5) == particle).any()):
            found = query_points(mask, count, generator, particle=particle)
            xy, on_particles = torch.cat([xy, found]), len(found) if particle else on_particles
    maps = similarity_maps(load_translator(translation_file(folder)), image, image, xy).maps
    return SimilarPlaces(image, maps, xy, on_particles)
