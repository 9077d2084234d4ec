"""Trained ways from noise-free images to micrographs: classical noise, translations, and both."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.synthesis import (
    RealField,
    SyntheticField,
    TranslationMode,
    TranslationSettings,
    train_translator,
)
from cryoprism.synthesis.matching import (
    Exemplar,
    SessionMatch,
    noise_for,
)
from cryoprism.synthesis.noise import NOISE_KINDS, NoiseKind, add_noise, fit_noise

from .material import PIXEL, CleanImage


@dataclass(frozen=True)
class Arm:
    """A trained way from clean images to micrographs: ``draw(clean, seed)`` gives grey values (y, x)."""

    draw: Callable[[CleanImage, int], Tensor]
    training_cpu_seconds: float
    training_seconds: float = 0.0  # by the clock


Trainer = Callable[[SessionMatch, Sequence[Exemplar], Sequence[CleanImage], int], Arm]


def classical(kind: NoiseKind) -> Trainer:
    """Fitted noise. The fit is part of the match; it is repeated here so that its time is known."""

    def train(match: SessionMatch, exemplars: Sequence[Exemplar], cleans: Sequence[CleanImage], seed: int) -> Arm:
        start = time.process_time()
        for exemplar, clean in zip(exemplars, cleans, strict=False):
            fit_noise(
                exemplar.image,
                clean.contrast,
                clean.source.noise.gain,
                pixel_size_in_angstroms=PIXEL,
                weight=exemplar.weight,
            )
        seconds = time.process_time() - start

        def draw(clean: CleanImage, seed: int) -> Tensor:
            fit = noise_for(clean.source, clean.scene)
            name = clean.scene.name
            return add_noise(kind, fit, clean.contrast, pixel_size_in_angstroms=PIXEL, seed=seed, name=name)

        return Arm(draw, seconds)

    return train


def learned(mode: TranslationMode, kind: NoiseKind, steps: int, device: str) -> Trainer:
    """Train a translation on top of a classical start; the baselines start from white noise.

    The compact network on a CPU, the larger one on a GPU.
    """
    make = TranslationSettings.compact if device == "cpu" else TranslationSettings.gpu

    def train(match: SessionMatch, exemplars: Sequence[Exemplar], cleans: Sequence[CleanImage], seed: int) -> Arm:
        started, clock = time.process_time(), time.perf_counter()
        start = classical(kind)(match, exemplars, cleans, seed).draw
        real = [
            RealField(name=e.name, image=e.image, pixel_size_in_angstroms=PIXEL, weight=e.weight) for e in exemplars
        ]
        synthetic = [
            SyntheticField(
                name=clean.scene.name,
                image=start(clean, seed + 1),
                clean=clean.contrast,
                gain=clean.source.noise.gain,
                mask=clean.mask,
                pixel_size_in_angstroms=PIXEL,
            )
            for clean in cleans
        ]
        settings = make(mode=mode, steps=steps, seed=seed, device=device)
        with torch.enable_grad():
            translator = train_translator(real, synthetic, settings, progress=say).translator.to("cpu")
        print(f"{mode} on {kind}: {steps} steps, strength {translator.strength:.2f}", flush=True)

        def draw(clean: CleanImage, seed: int) -> Tensor:
            return translator.translate(
                start(clean, seed),
                clean.contrast,
                clean.mask,
                gain=clean.source.noise.gain,
                pixel_size_in_angstroms=PIXEL,
                seed=seed,
                name=clean.scene.name,
            )

        return Arm(draw, time.process_time() - started, time.perf_counter() - clock)

    return train


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arms_of(steps: int, device: str = "cpu") -> dict[str, Trainer]:
    return {kind: classical(kind) for kind in NOISE_KINDS} | {
        "cyclegan": learned("cyclegan", "gaussian", steps, device),
        "cut": learned("cut", "gaussian", steps, device),
        "spectrum and learned": learned("cryoprism", "spectrum", steps, device),
        "matched and learned": learned("cryoprism", "matched", steps, device),
    }


ARMS = tuple(arms_of(1))
