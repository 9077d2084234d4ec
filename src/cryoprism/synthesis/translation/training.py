"""Training of the learned translation: unpaired, contrastive and adversarial.

The generator adds a residual to a micrograph that a classical model has drawn. Its loss is

    adversarial (least squares) + contrast of features, input against output + correlation of residual and signal
    + distance of the statistics of patches from those of real ones,

that of the baselines the published one (``cut``: without masks and without the last two terms; ``cyclegan``: cycle and
identity in place of the contrast). Of the trained residual as much is added as brings patches nearer to real ones
(:func:`best_strength`); the baselines add it all. Every draw depends on seed, step and place, so that an interrupted
training goes on to the same weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cryoprism.core import generator_for, resolve_device
from cryoprism.formats import read_checkpoint, write_checkpoint

from .fields import Batch, Prepared, RealField, SyntheticField, draw_batch, prepare
from .losses import (
    cycle_loss,
    discriminator_loss,
    generator_loss,
    patch_nce,
    signal_loss,
    statistics_loss,
    without_signal,
)
from .networks import FOLD, Discriminator, Generator, Heads
from .sampling import Positions, sample_positions
from .settings import TranslationSettings
from .strength import best_strength, patch_statistics
from .translator import Translator

__all__ = ["TrainedTranslator", "train_translator"]

_EVERY = 50  # steps between two lines of progress, and between two checkpoints


@dataclass(frozen=True, eq=False)
class TrainedTranslator:
    """A translator and how its training went.

    Attributes
    ----------
    translator
        Ready for use, on the CPU.
    losses
        By name (``adversarial``, ``discriminator``, ``contrast``, ``signal``, ``statistics``, ``cycle``, ``identity``),
        (steps,) each.
    seconds
        Of this call.
    """

    translator: Translator
    losses: dict[str, tuple[float, ...]]
    seconds: float


@torch.enable_grad()
def train_translator(
    real: Sequence[RealField],
    synthetic: Sequence[SyntheticField],
    settings: TranslationSettings,
    *,
    progress: Callable[[str], None] | None = None,
    checkpoint: Path | None = None,
    stop_after: int | None = None,
) -> TrainedTranslator:
    """Train a translator from synthetic to real micrographs; they need not show the same places.

    Parameters
    ----------
    real, synthetic
        Micrographs, in grey values.
    settings
        How.
    progress
        Called with a line of text now and then.
    checkpoint
        File that keeps the state every 50 steps; a later call with the same data and settings goes on from there and
        comes to the same weights.
    stop_after
        Leave after so many steps in all, as if interrupted; the checkpoint is written.

    Raises
    ------
    InputError
        Fields that cannot be used (:func:`prepare`), or no such device.
    """
    say = progress or (lambda text: None)
    device = resolve_device(settings.device)
    fields = prepare(real, synthetic, settings.patch)
    trainer = _Trainer(settings, device)
    trainer.know(fields)
    identity = _identity(settings, fields)
    losses: list[dict[str, float]] = [] if checkpoint is None else trainer.load(checkpoint, identity)
    started = time.perf_counter()
    last = settings.steps if stop_after is None else min(settings.steps, stop_after)
    for step in range(len(losses), last):
        batch = draw_batch(fields, settings.batch, settings.patch, seed=settings.seed, step=step).to(device)
        losses.append(trainer.step(batch, step))
        if (step + 1) % _EVERY == 0 or step + 1 == last:
            recent = losses[-_EVERY:]
            means = ", ".join(f"{name} {sum(x[name] for x in recent) / len(recent):.4f}" for name in recent[0])
            say(f"step {step + 1} of {settings.steps}: {means}, {time.perf_counter() - started:.0f} s")
            if checkpoint is not None:
                trainer.save(checkpoint, identity, losses)
    strength, distances = trainer.strength(fields) if settings.keeps_signal and losses else (1.0, {})
    notes = {"data": fields.digest, "steps": str(len(losses)), "distances": json.dumps(distances)}
    generator, heads = trainer.average.generator, trainer.average.heads
    translator = Translator(
        generator=generator.cpu().eval(),
        heads=heads.cpu().eval(),
        settings=settings,
        pixel_size_in_angstroms=fields.pixel_size_in_angstroms,
        strength=strength,
        notes=notes,
    )
    names = losses[0] if losses else {}
    return TrainedTranslator(
        translator, {name: tuple(x[name] for x in losses) for name in names}, time.perf_counter() - started
    )


def _identity(settings: TranslationSettings, fields: Prepared) -> str:
    return json.dumps([replace(settings, device="cpu").to_dict(), fields.digest], sort_keys=True)


class _Half(nn.Module):
    """Generator and heads, of which a running mean is kept."""

    def __init__(self, settings: TranslationSettings) -> None:
        super().__init__()
        s = settings
        self.generator = Generator(s.width, s.encoder, s.decoder, s.conditions)
        self.heads = Heads(self.generator.layers, s.width, s.projection)


class _Trainer:
    """All that training changes, and one step of it."""

    def __init__(self, settings: TranslationSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator_for(settings.seed, "weights").initial_seed() % 2**31))
            self.half, self.average = _Half(settings), _Half(settings)
            self.judge = self._discriminator()
            cyclic = settings.mode == "cyclegan"
            self.back = Generator(settings.width, settings.encoder, settings.decoder, 0) if cyclic else None
            self.back_judge = self._discriminator() if cyclic else None
        self.average.load_state_dict(self.half.state_dict())
        self.average.requires_grad_(False)
        for module in self._modules().values():
            module.to(device)
        makers: list[nn.Module] = [self.half]
        if self.back is not None:
            makers.append(self.back)
        judges: list[nn.Module] = [self.judge]
        if self.back_judge is not None:
            judges.append(self.back_judge)
        self.real_statistics: tuple[Tensor, ...] = ()
        self.maker_optimiser = _adam(makers, settings.rate)
        self.judge_optimiser = _adam(judges, settings.discriminator_rate)

    def know(self, fields: Prepared) -> None:
        """Measure the statistics of real patches, where the generator is held to them."""
        s = self.settings
        if not s.keeps_signal:
            return
        # Numbers of steps below zero: the judged ones of `strength` first, these after them.
        rounds = math.ceil(s.judged / s.batch)
        drawn = [
            draw_batch(fields, s.batch, s.patch, seed=s.seed, step=-1 - rounds - number).real[:, 0]
            for number in range(rounds)
        ]
        statistics = patch_statistics(torch.cat(drawn))
        self.real_statistics = tuple(
            part.to(self.device) for part in (statistics.mean(0), statistics.std(0).clamp_min(1e-9))
        )

    def _discriminator(self) -> Discriminator:
        return Discriminator(self.settings.discriminator_width, self.settings.discriminator_layers)

    def _modules(self) -> dict[str, nn.Module]:
        every = {
            "half": self.half,
            "average": self.average,
            "judge": self.judge,
            "back": self.back,
            "back_judge": self.back_judge,
        }
        return {name: module for name, module in every.items() if module is not None}

    def _precision(self) -> AbstractContextManager[Any]:
        if self.settings.mixed_precision and self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """One step of the discriminator, then one of the generator; returns the losses."""
        s = self.settings
        share = min(1.0, 2.0 * (1.0 - step / s.steps))
        for optimiser, rate in ((self.maker_optimiser, s.rate), (self.judge_optimiser, s.discriminator_rate)):
            for group in optimiser.param_groups:
                group["lr"] = rate * share
        conditions = batch.conditions() if s.conditions else None
        with self._precision():
            encoded = self.half.generator.encode(batch.image)
            residual = self.half.generator.decode(encoded, conditions).float()
            output = batch.image + residual
            returned = batch.real + self.back(batch.real).float() if self.back is not None else None
            judged = discriminator_loss(*self.judge(batch.real, output.detach(), measure=True))
            if self.back_judge is not None and returned is not None:
                seen = self.back_judge(batch.image, returned.detach(), measure=True)
                judged = judged + discriminator_loss(*seen)
        _descend(self.judge_optimiser, judged, [self.judge])
        # The discriminator is only asked now: its own weights get no gradient.
        for judge in (self.judge, self.back_judge):
            if judge is not None:
                judge.requires_grad_(False)
        with self._precision():
            terms = self._terms(batch, step, encoded[1], residual, output, returned)
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        _descend(self.maker_optimiser, total, [self.half])
        for judge in (self.judge, self.back_judge):
            if judge is not None:
                judge.requires_grad_(True)
        self._follow(min(s.memory, (step + 1) / (step + 10)))
        found = {name: float(value.detach()) for name, (_, value) in terms.items()}
        return {"discriminator": float(judged.detach()), **found}

    def _terms(
        self,
        batch: Batch,
        step: int,
        features: list[Tensor],
        residual: Tensor,
        output: Tensor,
        returned: Tensor | None,
    ) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of each part of the generator's loss."""
        s, half = self.settings, self.half
        terms = {"adversarial": (s.adversarial_weight, generator_loss(self.judge(batch.real, output)[1]))}
        if self.back is not None and self.back_judge is not None and returned is not None:
            there = output + self.back(output).float()
            back = returned + half.generator(returned).float()
            same = half.generator(batch.real).float(), self.back(batch.image).float()
            returning = generator_loss(self.back_judge(batch.image, returned)[1])
            terms["adversarial"] = (s.adversarial_weight, terms["adversarial"][1] + returning)
            terms["cycle"] = (s.cycle_weight, cycle_loss(batch.image, there) + cycle_loss(batch.real, back))
            zero = torch.zeros_like(same[0])
            terms["identity"] = (s.identity_weight, cycle_loss(same[0], zero) + cycle_loss(same[1], zero))
            return terms
        positions = self._positions(batch, step)
        contrast = self._contrast(half.generator.features(output), features, positions)
        if s.mode == "cut":
            # As published: a real micrograph shall stay as it is, in its features.
            before = half.generator.encode(batch.real)
            kept = batch.real + half.generator.decode(before, None).float()
            contrast = 0.5 * (contrast + self._contrast(half.generator.features(kept), before[1], positions))
        terms["contrast"] = (s.contrast_weight, contrast)
        if s.keeps_signal:
            terms["signal"] = (s.signal_weight, signal_loss(residual, batch.clean, batch.image, bands=s.bands))
            found = patch_statistics(output[:, 0])
            terms["statistics"] = (s.statistics_weight, statistics_loss(found, *self.real_statistics).float())
        return terms

    def _positions(self, batch: Batch, step: int) -> list[Positions]:
        masks = nn.functional.avg_pool2d(batch.mask, FOLD)[:, 0].cpu()
        guided = self.settings.mode == "cryoprism"
        return [
            sample_positions(
                mask,
                self.settings.points,
                generator_for(self.settings.seed, "positions", step, place),
                guided=guided,
            )
            for place, mask in enumerate(masks)
        ]

    def _contrast(self, after: list[Tensor], before: list[Tensor], positions: list[Positions]) -> Tensor:
        """PatchNCE over all layers, images and groups of positions."""
        # Groups of one size go through together: one by one they are most of what a GPU is asked to start.
        alike: dict[tuple[int, int | None], list[tuple[int, Tensor, Tensor | None]]] = {}
        for place, chosen in enumerate(positions):
            for queries, negatives in chosen.groups:
                size = len(queries), None if negatives is None else len(negatives)
                alike.setdefault(size, []).append((place, queries, negatives))
        total = torch.zeros((), device=self.device)
        count = 0
        for (_, many), members in alike.items():
            places = torch.tensor([one for one, _, _ in members])[:, None].to(self.device)
            asked = torch.stack([one for _, one, _ in members]).to(self.device)
            against = None
            if many is not None:
                against = torch.stack([one for _, _, one in members if one is not None]).to(self.device)
            for layer, (a, b) in enumerate(zip(after, before, strict=True)):
                a, b = a.flatten(2).transpose(1, 2), b.flatten(2).transpose(1, 2)
                query = self.half.heads(layer, a[places, asked])
                # The input is what the output is held against: it does not move towards it.
                positive = self.half.heads(layer, b[places, asked]).detach()
                other = None if against is None else self.half.heads(layer, b[places, against]).detach()
                found = patch_nce(query, positive, other, temperature=self.settings.temperature)
                total = total + len(members) * found
                count += len(members)
        return total / count

    @torch.no_grad()
    def strength(self, fields: Prepared) -> tuple[float, dict[float, float]]:
        """Best factor on the residual of the mean network, on patches that no step has drawn.

        As :meth:`Translator.translate` does, what correlates with the particles is taken from the residual before.
        """
        s = self.settings
        real, image, clean, residual = [], [], [], []
        for number in range(math.ceil(s.judged / s.batch)):
            batch = draw_batch(fields, s.batch, s.patch, seed=s.seed, step=-1 - number).to(self.device)
            residual.append(self.average.generator(batch.image, batch.conditions()).float().cpu()[:, 0])
            real.append(batch.real.cpu()[:, 0])
            image.append(batch.image.cpu()[:, 0])
            clean.append(batch.clean.cpu()[:, 0])
        # Over all patches at once, as over a whole micrograph: one patch says too little of a band.
        added = without_signal(torch.cat(residual), torch.cat(clean), bands=s.bands)
        return best_strength(torch.cat(real), torch.cat(image), added)

    @torch.no_grad()
    def _follow(self, memory: float) -> None:
        for mean, value in zip(self.average.parameters(), self.half.parameters(), strict=True):
            mean.lerp_(value, 1 - memory)

    def save(self, file: Path, identity: str, losses: list[dict[str, float]]) -> None:
        """Write the state; a killed training leaves a whole file behind."""
        state: dict[str, Any] = {name: module.state_dict() for name, module in self._modules().items()}
        state |= {"maker_optimiser": self.maker_optimiser.state_dict()}
        state |= {"judge_optimiser": self.judge_optimiser.state_dict()}
        write_checkpoint(file, identity, state | {"losses": losses})

    def load(self, file: Path, identity: str) -> list[dict[str, float]]:
        """Losses of the steps that are done; none where the file is absent or of another training."""
        kept = read_checkpoint(file, identity, self.device)
        if kept is None:
            return []
        for name, module in self._modules().items():
            module.load_state_dict(kept[name])
        self.maker_optimiser.load_state_dict(kept["maker_optimiser"])
        self.judge_optimiser.load_state_dict(kept["judge_optimiser"])
        return [dict(found) for found in kept["losses"]]


def _adam(modules: Iterable[nn.Module], rate: float) -> torch.optim.Adam:
    # A short memory of the mean gradient, as both sides of the game keep moving (Radford et al. 2016).
    return torch.optim.Adam([p for module in modules for p in module.parameters()], lr=rate, betas=(0.5, 0.999))


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor, clipped: Sequence[nn.Module]) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    for module in clipped:
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimiser.step()
