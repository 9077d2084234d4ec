"""How far synthetic micrographs can be told from real ones that nothing was fitted to: ``realism.json``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoprism.core import generator_for
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
    noise_for,
)

from ._files import write_json
from ._synthesis import CleanImage, SynthesisTask, clean_image, scene_of_task

__all__ = ["measure_session_realism"]

log = logging.getLogger("cryoprism")

_MOST = 6  # synthetic micrographs that are compared: patches of more would not narrow the interval
_SHORTEST_SIDE = 128


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
    """
    apart = len(unseen) >= 2
    real = unseen if apart else matched
    some = tasks[:_MOST]
    document: dict[str, Any] = {
        "schema": "cryoprism-realism-1",
        "real_micrographs": [one.name for one in real],
        "matched_micrographs": [one.name for one in matched],
        "kept_apart": apart,
        "synthetic_micrographs": [task.name for task in some],
        "measures": {},
    }
    if len(real) < 2 or len(some) < 2:
        document["not_measured"] = "Two real and two synthetic micrographs are the least that can be compared."
        write_json(folder / "realism.json", document)
        return document, None
    pixel = match.micrographs[0].scene.pixel_size_in_angstroms
    made = f"made ({some[0].config.noise})"
    arms = {made: [read_image(folder / "micrographs" / f"{task.name}.mrc").data for task in some]}
    weights: list[Tensor] = []
    for task in some:
        scene, source = scene_of_task(task, match, population)
        clean = clean_image(scene, source, task.config, population, match)
        weights.append(_ordinary(clean))
        fit = noise_for(match.micrographs[source], clean.scene)
        for kind in NOISE_KINDS:
            if kind != task.config.noise:
                image = add_noise(kind, fit, clean.contrast, pixel_size_in_angstroms=pixel, seed=seed, name=task.name)
                arms.setdefault(kind, []).append(image)
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
    document["measures"] = {name: row.to_json() for name, row in rows.items()}
    document["advantages"] = {name: row.to_json() for name, row in advantages.items()}
    write_json(folder / "realism.json", document)
    side = min(256, *(min(image.shape) for image in (*unseen_set.images, *sets[made].images)))
    shown = None
    if side >= _SHORTEST_SIDE:
        shown = gallery(unseen_set, sets[made], generator_for(seed, "gallery"), side_in_pixels=side)
    return document, shown


def _ordinary(clean: CleanImage) -> Tensor:
    """Share (y, x) of each pixel that is ordinary field, as real micrographs have it."""
    labels = clean.labels()
    return torch.ones(clean.scene.shape) if labels is None else (labels == LABELS["good"]).float()


def _set(exemplars: Sequence[Exemplar], pixel: float, name: str) -> MicrographSet:
    weights = [torch.ones_like(one.image) if one.weight is None else one.weight for one in exemplars]
    return MicrographSet([one.image for one in exemplars], pixel, weights, name)
