"""What ``--noise learned`` learned, inside worker processes: where it is kept, and how it is put on a micrograph."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.synthesis import NoiseKind, Placement, Population, Scene, particle_mask
from cryoprism.synthesis.translation import Translator, load_translator

from .configs import SynthesizeConfig

__all__ = ["LEARNED_ON", "learned_places", "translated", "translation_file"]

LEARNED_ON: NoiseKind = "matched"
"""Noise that it is put on top of."""


def translation_file(folder: Path) -> Path:
    """Weights of a job's translation."""
    return folder / "match" / "translation.safetensors"


def learned_places(scene: Scene, population: Population, placement: Placement) -> Tensor:
    """Mask (y, x) of particles that guides what is learned: discs of the largest radius."""
    pixel = scene.pixel_size_in_angstroms
    middle = torch.tensor([scene.width_in_pixels // 2, scene.height_in_pixels // 2])
    return particle_mask(
        scene.shape, placement.centres_in_angstroms[:, :2] / pixel + middle, population.radius_in_angstroms / pixel
    )


@lru_cache(maxsize=1)
def _translator(file: Path, changed: int, device: str) -> Translator:
    return load_translator(file, device=device)


def translated(
    folder: Path, image: Tensor, clean: Tensor, mask: Tensor, gain: float, config: SynthesizeConfig, name: str
) -> tuple[Tensor, float]:
    """Micrograph (y, x) with what was learned for this job, and its strength."""
    file = translation_file(folder)
    translator = _translator(file, file.stat().st_mtime_ns, config.device)
    out = translator.translate(
        image,
        clean,
        mask,
        gain=gain,
        pixel_size_in_angstroms=translator.pixel_size_in_angstroms,
        seed=config.seed,
        name=name,
    )
    return out, translator.strength
