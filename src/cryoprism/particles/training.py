"""Training of the learned picker on simulated micrographs, and how good a picker is on micrographs with known centres.

The target is a Gaussian spot at each centre, the loss a cross-entropy per pixel in which the spots weigh more than the
rest, so that the network's output less the logarithm of that weight is the log-odds of a spot:

    L = − ⟨w t log p + (1 − t) log(1 − p)⟩   has its minimum at   p / (1 − p) = w t / (1 − t).

Every draw depends on the seed, the number of the step and the place in the batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoprism.core import InputError, generator_for, resolve_device
from cryoprism.formats import read_checkpoint, write_checkpoint

from ._adaptation import ClickedMicrograph, adapt
from ._inputs import PIXELS_PER_DIAMETER
from ._patches import draw_patch
from ._training_fields import EXCLUDED, TrainingField, load_specimens, simulate_fields
from .accuracy import Precision, judged, precision_of
from .calibration import Calibration, fit_calibration
from .network import LOWEST_LOG_ODDS, LearnedPicker, PickerNetwork, copy_of
from .picks import Picks

__all__ = [
    "EXCLUDED",
    "ClickedMicrograph",
    "Precision",
    "TrainedPicker",
    "TrainingConfig",
    "adapt",
    "calibration_on_fields",
    "precision_of",
    "train_on_fields",
    "train_picker",
]

POSITIVE_WEIGHT = 6.0
_AVERAGED = 0.995  # of the weights' running mean
_NEAREST = 0.5  # diameters between two picks
_MATCHED = 0.5  # diameters between a pick and its particle


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train.

    Parameters
    ----------
    structures
        Folder of structure files; None for phantoms.
    excluded
        Stems of files that are not used.
    fields
        Simulated micrographs.
    validation_share
        Share of the specimens that are kept for validation and never trained on.
    steps, batch, patch
        Steps of the optimiser, patches of a step, and their side [pixels of the working scale].
    learning_rate
        Highest, of AdamW, after a short rise; it falls to zero as a cosine.
    minutes
        Training stops after so many minutes even if steps are left (then the result depends on the machine's speed);
        None for no limit.
    widths
        Of the network.
    seed, device
        Of every draw; where to train.
    """

    structures: Path | None = None
    excluded: tuple[str, ...] = EXCLUDED
    fields: int = 700
    validation_share: float = 0.15
    steps: int = 2600
    batch: int = 8
    patch: int = 128
    learning_rate: float = 3e-3
    minutes: float | None = None
    widths: tuple[int, int, int] = (24, 48, 64)
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        checks = (
            ("fields", self.fields >= 2, "2 or more"),
            ("steps", self.steps >= 1, "1 or more"),
            ("batch", self.batch >= 1, "1 or more"),
            ("patch", self.patch >= 2 * PIXELS_PER_DIAMETER, f"{2 * PIXELS_PER_DIAMETER} or more"),
            ("validation_share", 0 <= self.validation_share < 1, "a share from 0 to 1"),
            ("learning_rate", 0 < self.learning_rate < 1, "a number between 0 and 1"),
            ("minutes", self.minutes is None or self.minutes > 0, "a positive number"),
            ("widths", all(w % 8 == 0 and w > 0 for w in self.widths), "multiples of 8"),
        )
        for name, good, remedy in checks:
            if not good:
                raise InputError(name, f"is {getattr(self, name)}", f"Give {remedy}.")


@dataclass(frozen=True)
class TrainedPicker:
    """A picker and how its training went.

    Attributes
    ----------
    picker
        Ready for use, on the CPU.
    losses
        (steps,) loss of each step.
    trained_on, validated_on
        Names of specimens.
    validation
        On specimens that were not trained on; None without any.
    calibration
        What scores are worth, from the same; None without any.
    seconds
        Of training, without the simulation.
    """

    picker: LearnedPicker
    losses: tuple[float, ...]
    trained_on: tuple[str, ...]
    validated_on: tuple[str, ...]
    validation: Precision | None
    calibration: Calibration | None
    seconds: float


def train_picker(
    config: TrainingConfig, progress: Callable[[str], None] | None = None, checkpoint: Path | None = None
) -> TrainedPicker:
    """Simulate micrographs and train a picker on them.

    Parameters
    ----------
    config
        How.
    progress
        Called with a line of text now and then.
    checkpoint
        File that keeps the state every 100 steps; a later call with the same configuration goes on from there and
        comes to the same weights.

    Raises
    ------
    InputError
        No usable structures, or no such device.
    """
    say = progress or (lambda text: None)
    resolve_device(config.device)
    specimens = load_specimens(config.structures, config.excluded)
    fields = []
    for field in simulate_fields(specimens, config.fields, config.seed):
        fields.append(field)
        if len(fields) % 50 == 0:
            say(f"{len(fields)} of {config.fields} micrographs simulated")
    names = sorted({field.name for field in fields})
    step = 0 if config.validation_share == 0 else max(2, round(1 / config.validation_share))
    kept = set(names[step // 2 :: step]) if step and len(names) > step // 2 else set()
    training = [field for field in fields if field.name not in kept]
    return train_on_fields(training, [field for field in fields if field.name in kept], config, progress, checkpoint)


def train_on_fields(
    fields: Sequence[TrainingField],
    validation: Sequence[TrainingField],
    config: TrainingConfig,
    progress: Callable[[str], None] | None = None,
    checkpoint: Path | None = None,
) -> TrainedPicker:
    """Train on fields that are already there; see :func:`train_picker`."""
    if not fields:
        raise InputError("fields", "there is no micrograph to train on", "Give some, or less to validate on.")
    say = progress or (lambda text: None)
    device = resolve_device(config.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator_for(config.seed, "weights").initial_seed() % 2**31))
        network = PickerNetwork(config.widths)
    network.to(device).train()
    average = copy_of(network).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-3)
    state = _State(network, average, optimiser)
    losses: list[float] = [] if checkpoint is None else state.load(checkpoint, config)
    started = time.perf_counter()
    for step in range(len(losses), config.steps):
        share = step / config.steps
        if config.minutes is not None:
            share = max(share, (time.perf_counter() - started) / (60 * config.minutes))
            if share >= 1:
                break
        rise = min(1.0, (step + 1) / min(100, config.steps))
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * rise * (0.5 + 0.5 * math.cos(math.pi * share))
        channels, target = _batch(fields, config, step)
        output = network(channels.to(device).to(memory_format=torch.channels_last))
        loss = _loss(output, target.to(device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        _follow(average, network, min(_AVERAGED, (step + 1) / (step + 10)))
        if (step + 1) % 100 == 0:
            seconds = time.perf_counter() - started
            say(f"step {step + 1} of {config.steps}: loss {np.mean(losses[-100:]):.4f}, {seconds:.0f} s")
            if checkpoint is not None:
                state.save(checkpoint, config, losses)
    seconds = time.perf_counter() - started
    picker = LearnedPicker(copy_of(average), offset=math.log(POSITIVE_WEIGHT))
    return TrainedPicker(
        picker=picker,
        losses=tuple(losses),
        trained_on=tuple(sorted({field.name for field in fields})),
        validated_on=tuple(sorted({field.name for field in validation})),
        validation=precision_on_fields(picker, validation) if validation else None,
        calibration=calibration_on_fields(picker, validation) if validation else None,
        seconds=seconds,
    )


@dataclass(frozen=True)
class _State:
    """All that training changes, to be kept in a file and had back."""

    network: PickerNetwork
    average: PickerNetwork
    optimiser: torch.optim.Optimizer

    def save(self, file: Path, config: TrainingConfig, losses: Sequence[float]) -> None:
        state = {
            "losses": list(losses),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        write_checkpoint(file, _identity(config), state)

    def load(self, file: Path, config: TrainingConfig) -> list[float]:
        """Losses of the steps that are done; none where the file is absent or of another training."""
        kept = read_checkpoint(file, _identity(config), resolve_device(config.device))
        if kept is None:
            return []
        self.network.load_state_dict(kept["network"])
        self.average.load_state_dict(kept["average"])
        self.optimiser.load_state_dict(kept["optimiser"])
        return [float(loss) for loss in kept["losses"]]


def _identity(config: TrainingConfig) -> str:
    return str(replace(config, minutes=None, device="cpu"))


def _batch(fields: Sequence[TrainingField], config: TrainingConfig, step: int) -> tuple[Tensor, Tensor]:
    patches = []
    for place in range(config.batch):
        generator = generator_for(config.seed, "patch", step, place)
        chosen = int(torch.randint(0, len(fields), (), generator=generator))
        patches.append(draw_patch(fields[chosen], generator, config.patch))
    return torch.stack([p[0] for p in patches]), torch.stack([p[1] for p in patches])


def _loss(output: Tensor, target: Tensor) -> Tensor:
    """Weighted cross-entropy of log-odds (b, h, w) and targets in [0, 1], per pixel of spot."""
    log_p, log_q = torch.nn.functional.logsigmoid(output), torch.nn.functional.logsigmoid(-output)
    total = -(POSITIVE_WEIGHT * target * log_p + (1 - target) * log_q).sum()
    return total / (POSITIVE_WEIGHT * target.sum() + 0.01 * target.numel())


@torch.no_grad()
def _follow(average: PickerNetwork, network: PickerNetwork, memory: float) -> None:
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(value, 1 - memory)


def precision_on_fields(picker: LearnedPicker, fields: Sequence[TrainingField]) -> Precision:
    """Precision of a picker on simulated fields, given the true CTF and no mask."""
    return precision_of(*_picks_on_fields(picker, fields))


def calibration_on_fields(picker: LearnedPicker, fields: Sequence[TrainingField]) -> Calibration | None:
    """Return what the scores of a picker are worth on simulated fields; None where they tell nothing."""
    try:
        return fit_calibration(*judged(*_picks_on_fields(picker, fields)), LOWEST_LOG_ODDS)
    except InputError:
        return None


def _picks_on_fields(
    picker: LearnedPicker, fields: Sequence[TrainingField]
) -> tuple[list[Picks], list[Tensor], list[float]]:
    """Return picks, true centres, and how far a pick may be off, of each field."""
    picks, truths, reach = [], [], []
    for field in fields:
        diameter, pixel = field.diameter_in_angstroms, field.pixel_size_in_angstroms
        score = picker.score(field.image, pixel, diameter_in_angstroms=diameter, transfer=field.transfer)
        picks.append(score.picks(_NEAREST * diameter, LOWEST_LOG_ODDS, pixel_size_in_angstroms=pixel))
        truths.append(field.xy_in_pixels)
        reach.append(_MATCHED * diameter / pixel)
    return picks, truths, reach
