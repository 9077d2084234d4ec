"""How far synthetic micrographs can be told from real ones that nothing was fitted to: ``realism.json``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoprism.core import InputError, generator_for
from cryoprism.formats import read_image
from cryoprism.restoration import LABELS
from cryoprism.synthesis import (
    NOISE_KINDS,
    Exemplar,
    Gallery,
    MicrographSet,
    Population,
    SessionMatch,
    add_noise,
    compare_realism,
    gallery,
    has_ordinary_patch,
    noise_for,
)
from cryoprism.workflow.jobs.files import write_json

from .making import CleanImage, SynthesisTask, clean_image, scene_of_task

__all__ = ["measure_session_realism"]

log = logging.getLogger("cryoprism")

_MOST = 6  # synthetic micrographs that are compared: patches of more would not narrow the interval
_GALLERY_SIDES = (256, 192, 128)  # pixels
_MINUTES = 0.6  # on one core for a set: six small trainings and three distances
_TOO_FEW = "Two real and two synthetic micrographs that show ordinary field are the least that can be compared."


def measure_session_realism(
    folder: Path,
    tasks: Sequence[SynthesisTask],
    match: SessionMatch,
    population: Population,
    matched: Sequence[Exemplar],
    unseen: Sequence[Exemplar],
    seed: int,
) -> tuple[dict[str, Any], Gallery | None]:
    """Measure what was made and every classical baseline against real micrographs, and real against real.

    Parameters
    ----------
    folder
        Of the job; ``realism.json`` is written there.
    tasks, match, population
        What was made, and from what.
    matched, unseen
        Real micrographs that were matched, and those that were kept apart. Where fewer than two were kept apart, the
        matched ones stand in, and the file says so.
    seed
        Of the classifiers and of the gallery.

    Micrographs without a patch of ordinary field are left out, and where the sets cannot be compared ``realism.json``
    says why under ``not_measured``.
    """
    left_out = [one.name for one in (*matched, *unseen) if not _shows_field(one)]
    matched, unseen = ([one for one in some if _shows_field(one)] for some in (matched, unseen))
    apart = len(unseen) >= 2
    real = unseen if apart else matched
    document: dict[str, Any] = {
        "schema": "cryoprism-realism-1",
        "real_micrographs": [one.name for one in real],
        "matched_micrographs": [one.name for one in matched],
        "kept_apart": apart,
        "synthetic_micrographs": [],
        "left_out": left_out,
        "measures": {},
    }

    def finished(why: str = "", shown: Gallery | None = None) -> tuple[dict[str, Any], Gallery | None]:
        if why:
            document["not_measured"] = why
            log.info("How real the set looks is not measured. %s", why)
        write_json(folder / "realism.json", document)
        return document, shown

    if len(real) < 2 or len(tasks) < 2:
        return finished(_TOO_FEW)
    pixel = match.micrographs[0].scene.pixel_size_in_angstroms
    made = f"made ({tasks[0].config.noise})"
    arms: dict[str, list[Tensor]] = {made: []}
    weights: list[Tensor] = []
    for task in tasks[:_MOST]:
        scene, source = scene_of_task(task, match, population)
        clean = clean_image(scene, source, task.config, population, match)
        weight = _ordinary(clean)
        if not has_ordinary_patch(weight.shape, weight):
            left_out.append(task.name)
            continue
        document["synthetic_micrographs"].append(task.name)
        weights.append(weight)
        arms[made].append(read_image(folder / "micrographs" / f"{task.name}.mrc").data)
        fit = noise_for(match.micrographs[source], clean.scene)
        for kind in NOISE_KINDS:
            if kind != task.config.noise:
                image = add_noise(kind, fit, clean.contrast, pixel_size_in_angstroms=pixel, seed=seed, name=task.name)
                arms.setdefault(kind, []).append(image)
    if len(weights) < 2:
        return finished(_TOO_FEW)
    count = len(arms) + (apart and len(matched) >= 2)
    log.info(
        "How real the set looks: %d sets against real micrographs, about %.0f minutes on one core (--no-realism leaves "
        "it out)",
        count,
        max(1.0, count * _MINUTES),
    )
    try:
        unseen_set = _set(real, pixel, "real micrographs")
        sets = {name: MicrographSet(images, pixel, weights, name) for name, images in arms.items()}
        others = _set(matched, pixel, "matched micrographs") if apart and len(matched) >= 2 else None
        rows, advantages = compare_realism(
            unseen_set,
            sets,
            others,
            seed=seed,
            ours=made,
            progress=lambda name, row: log.info("%s: AUC %.2f", name, row.auc.value),
        )
    except InputError as error:
        # The set is finished and whole: that it cannot be compared is no reason to end without its report.
        return finished(str(error))
    document["measures"] = {name: row.to_json() for name, row in rows.items()}
    document["advantages"] = {name: row.to_json() for name, row in advantages.items()}
    return finished(shown=_gallery(unseen_set, sets[made], seed))


def _shows_field(exemplar: Exemplar) -> bool:
    return has_ordinary_patch(exemplar.image.shape, exemplar.weight)


def _gallery(real: MicrographSet, made: MicrographSet, seed: int) -> Gallery | None:
    """Patches of both sets, as large as every micrograph has some of."""
    largest = min(_GALLERY_SIDES[0], *(min(image.shape) for image in (*real.images, *made.images)))
    for side in sorted({largest, *(side for side in _GALLERY_SIDES if side < largest)}, reverse=True):
        try:
            return gallery(real, made, generator_for(seed, "gallery"), side_in_pixels=side)
        except InputError:
            continue  # no patch of this side is ordinary field
    return None


def _ordinary(clean: CleanImage) -> Tensor:
    """Share (y, x) of each pixel that is ordinary field, as real micrographs have it."""
    labels = clean.labels()
    return torch.ones(clean.scene.shape) if labels is None else (labels == LABELS["good"]).float()


def _set(exemplars: Sequence[Exemplar], pixel: float, name: str) -> MicrographSet:
    weights = [torch.ones_like(one.image) if one.weight is None else one.weight for one in exemplars]
    return MicrographSet([one.image for one in exemplars], pixel, weights, name)
