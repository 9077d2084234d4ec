"""Models, maps, records and indexes that are wrong: cases of ``cryoprism assess``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .making import Case, Prepare
from .making_particles import volume

_ATOM = "ATOM  {number:5d}  CA  ALA A{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C  \n"


def _model(folder: Path) -> None:
    """Ten consecutive Cα, 3.8 Å apart."""
    rows = [_ATOM.format(number=k + 1, x=3.8 * k, y=0.0, z=0.0) for k in range(10)]
    (folder / "model.pdb").write_text("".join(rows) + "END\n")


def _nothing(folder: Path) -> None:
    pass


def given(*options: str, more: Callable[[Path], object] = _nothing, model: str = "model.pdb") -> Prepare:
    """Return a model, with one thing wrong."""

    def prepare(folder: Path) -> tuple[str, ...]:
        _model(folder)
        more(folder)
        return (model, *options)

    return prepare


def _nan(folder: Path) -> None:
    text = (folder / "model.pdb").read_text()
    (folder / "model.pdb").write_text(text.replace("   3.800", "     nan"))


def _empty(folder: Path) -> None:
    (folder / "model.pdb").write_text("HEADER    NOTHING\nEND\n")


def _flat_map(folder: Path) -> None:
    volume(folder / "map.mrc", np.zeros((32, 32, 32)))


def _no_job(folder: Path) -> None:
    (folder / "job").mkdir()


def _half_written(folder: Path) -> None:
    (folder / "job").mkdir()
    (folder / "job" / "job.json").write_text('{"schema": "cryoprism-job-1", "kind": ')


def _other_weights(folder: Path) -> None:
    (folder / "weights.json").write_text(json.dumps({"schema": "something-else"}))


_CASES = (
    Case("no such model", given(model="none.cif"), words=("none.cif", "does not exist")),
    Case("a model without atoms", given(more=_empty), words=("model.pdb",)),
    Case("coordinates that are no numbers", given(more=_nan), words=("model.pdb",)),
    Case("an empty map", given("--map", "map.mrc", more=_flat_map), words=("map",)),
    Case("a record without job.json", given("--record", "job", more=_no_job), words=("job", "holds no job.json")),
    Case("a half-written record", given("--record", "job", more=_half_written), words=("job.json", "half written")),
    Case("an index that is not there", given("--index", "known"), words=("known", "novelty build")),
    Case("forecasts that are not there", given("--impact", "cited"), words=("cited", "impact train")),
    Case(
        "weights of another kind",
        given("--score-weights", "weights.json", more=_other_weights),
        words=("weights.json", "weights learn"),
    ),
    Case("a time limit of 0", given("--time-limit", "0"), words=("--time-limit",)),
    Case(
        "only a model",
        given(),
        code=0,
        words=("--index", "--impact", "--record"),
        kept=("assessment.json", "report.html"),
    ),
)
CASES = tuple(case.of("assess") for case in _CASES)
