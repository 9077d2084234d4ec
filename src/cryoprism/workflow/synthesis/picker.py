"""A picker for one specimen, trained on its synthetic micrographs alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor

from cryoprism import __version__
from cryoprism.formats import read_image
from cryoprism.particles import TrainingConfig, TrainingField, resample, train_on_fields
from cryoprism.particles.network import Transfer, save_picker
from cryoprism.synthesis import scene_from_dict
from cryoprism.workflow.jobs.files import atomic_path, weights_card, write_text
from cryoprism.workflow.particles.train_picker_session import training_facts

from .making import read_truth

__all__ = ["held_out", "train_picker_on"]

log = logging.getLogger("cryoprism")

_PIXELS_ACROSS = 28  # of a field, across a particle: a little finer than the network works at

T = TypeVar("T")


def held_out(micrographs: Sequence[T]) -> tuple[list[T], list[T]]:
    """Micrographs to train on, and the seventh of them that validates; each has some from four on."""
    return [one for i, one in enumerate(micrographs) if i % 7 != 3], list(micrographs[3::7])


def train_picker_on(
    folder: Path, names: Sequence[str], diameter_in_angstroms: float, steps: int, seed: int, device: str = "cpu"
) -> tuple[Path, str]:
    """Train on the micrographs of a synthetic set; a seventh of them validates and calibrates.

    Writes ``picker.safetensors`` and ``picker.md`` into the folder; ``cryoprism pick --method learned --picker`` takes
    the former. Interrupted training goes on from ``.picker.pt``.

    Returns
    -------
    tuple of Path and str
        The weights, and how they do in validation, in words.
    """
    training, validation = held_out([_field(folder, name, diameter_in_angstroms) for name in names])
    config = TrainingConfig(fields=len(training), steps=steps, seed=seed, device=device)
    checkpoint = folder / ".picker.pt"
    trained = train_on_fields(training, validation, config, log.info, checkpoint)
    facts = training_facts(config, trained) | {
        "data": f"{len(training)} synthetic micrographs matched to a session (micrographs.star beside this file)",
        "trained on": "the specimen of these micrographs, no other",
        "validated on": f"{len(validation)} other synthetic micrographs of it",
        "excluded": "nothing",
    }
    notes = {"trained_on": "synthetic micrographs of one specimen", "seed": str(seed), "steps": str(steps)}
    words = "no validation"
    if trained.validation is not None:
        words = f"average precision {trained.validation.average_precision:.3f} on synthetic micrographs it has not seen"
        if math.isfinite(trained.validation.threshold):
            notes["threshold"] = f"{trained.validation.threshold:.3f}"
    if trained.calibration is not None:
        notes["calibration"] = trained.calibration.to_text()
    weights = folder / "picker.safetensors"
    with atomic_path(weights) as temporary:
        digest = save_picker(temporary, replace(trained.picker, notes=MappingProxyType(notes)))
    facts |= {"SHA-256 of the weights": digest, "CryoPrism": __version__}
    write_text(folder / "picker.md", weights_card("Weights of the learned picker", facts))
    checkpoint.unlink(missing_ok=True)
    return weights, words


def _field(folder: Path, name: str, diameter: float) -> TrainingField:
    """One micrograph at the scale of the network's fields; centres in pixels of that scale."""
    truth = read_truth(folder, name)
    scene = scene_from_dict(truth["scene"])
    image: Tensor = read_image(folder / "micrographs" / f"{name}.mrc").data
    old, new = scene.pixel_size_in_angstroms, diameter / _PIXELS_ACROSS
    if new > old:
        image = resample(image, old, new)
    else:
        new = old
    xy = torch.tensor([[p["x_in_pixels"], p["y_in_pixels"]] for p in truth["particles"]]).reshape(-1, 2)
    labels = torch.zeros(image.shape, dtype=torch.uint8)
    artefacts = folder / "masks" / f"{name}_artefacts.mrc"
    if artefacts.is_file():
        full = read_image(artefacts).data
        # A particle under a crystal or on the film is not to be found.
        x, y = xy.round().long().unbind(1)
        xy = xy[full[y.clamp(0, full.shape[0] - 1), x.clamp(0, full.shape[1] - 1)] == 0]
        row, column = (torch.arange(n) * m // n for n, m in zip(image.shape, full.shape, strict=True))
        labels = full[row][:, column].to(torch.uint8)
    return TrainingField(
        name=name,
        image=image,
        pixel_size_in_angstroms=new,
        diameter_in_angstroms=diameter,
        xy_in_pixels=xy * (old / new),
        labels=labels,
        transfer=Transfer(
            lens=scene.lens,
            defocus_u_in_angstroms=scene.defocus_u_in_angstroms,
            defocus_v_in_angstroms=scene.defocus_v_in_angstroms,
            defocus_angle_in_degrees=scene.astigmatism_angle_in_degrees,
            phase_shift_in_degrees=scene.phase_shift_in_degrees,
        ),
    )
