"""The learned picker's network on a synthetic set, tried on annotated real micrographs."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from cryoprism.formats import Coordinates, read_coordinates
from cryoprism.workflow.particles.picking import FLOOR
from cryoprism.workflow.synthesis.picker import train_picker_on
from picking import DIAMETER, Result, annotated, data_folder, judged, measures, run

from .sets import MATCHED, micrographs


@dataclass(frozen=True)
class PickerAsked:
    """A training and its test, for a worker."""

    kind: str
    folder: Path
    names: tuple[str, ...] = field(repr=False)
    table: Path
    steps: int
    seed: int
    device: str


@dataclass(frozen=True)
class PickerResult:
    """Average precision on all annotated micrographs and on those nothing was matched to; CPU seconds of training."""

    all: float
    apart: float
    seconds: float


def picks(table: Path, out: Path, weights: Path | None) -> dict[str, Coordinates]:
    """All candidates of a learned picker on the micrographs of a table."""
    command = [sys.executable, "-c", "from cryoprism.cli import main; main()", "pick", table]
    command += ["--method", "learned", "--diameter", DIAMETER, "--no-pictures", "--no-masks", "--out", out]
    command += ["--threshold", FLOOR["learned"]]
    if weights is not None:
        command += ["--picker", weights]
    run(command, table.parent)
    return {file.stem: read_coordinates(file) for file in (out / "coordinates").glob("*.star")}


def precision(found: dict[str, Coordinates], truth: dict[str, np.ndarray]) -> float:
    rows, positives = judged(Result(found, 0.0, 0.0, ""), truth)
    return float(measures(rows, positives, 0.0)[-1])


def apart_of(truth: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Annotations of the micrographs that nothing was matched to."""
    matched = {micrographs()[i].stem for i in MATCHED}
    return {name: xy for name, xy in truth.items() if name not in matched}


def tried(table: Path, out: Path, weights: Path | None, seconds: float) -> PickerResult:
    truth = annotated(data_folder() / "apoferritin")
    found = picks(table, out, weights)
    return PickerResult(precision(found, truth), precision(found, apart_of(truth)), seconds)


def train_and_try(asked: PickerAsked) -> PickerResult:
    torch.set_num_threads(1)
    before = time.process_time()
    weights, _ = train_picker_on(asked.folder, asked.names, DIAMETER, asked.steps, asked.seed, asked.device)
    seconds = time.process_time() - before
    return tried(asked.table, asked.folder / "picks", weights, seconds)
