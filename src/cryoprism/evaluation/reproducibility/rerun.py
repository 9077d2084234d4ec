"""A job run again in the sandbox: how it ended, what it cost, and how like its outputs are."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cryoprism.core import InputError
from cryoprism.evaluation.sandbox import Execution, Isolation, Limits, execute
from cryoprism.formats import read_star

from .comparison import FileComparison, compare_outputs, equal_outputs
from .cost import Cost
from .record import Record

__all__ = ["Repeat", "cost_foreseen", "delta_repro", "repeat_job"]

_COST_WEIGHT: Final = 0.1
_IMAGES: Final = ("rlnImageName", "rlnMicrographName", "rlnMicrographMovieName")
_RUN: Final = (
    "import os, sys\ntry: os.chdir(sys.argv[1])\nexcept OSError: pass\n"
    "from cryoprism.cli import main\nmain(sys.argv[2:])"
)


@dataclass(frozen=True)
class Repeat:
    """A re-run: how it ended, what it cost against the prediction, and how like its outputs are."""

    execution: Execution
    predicted: Cost | None
    files: tuple[FileComparison, ...]

    @property
    def status(self) -> Literal["compared", "failed", "not comparable"]:
        """``failed`` did not finish; ``not comparable`` finished, but the record has no output to compare with."""
        if self.execution.verdict != "finished":
            return "failed"
        return "compared" if self.files else "not comparable"

    @property
    def agreement(self) -> float:
        """Share of the outputs that are equal, see :func:`equal_outputs`; 0 where there are none."""
        return statistics.fmean(equal_outputs(self.files)) if self.files else 0.0

    @property
    def deviation(self) -> float:
        """Standard error of the agreement over the outputs."""
        values = equal_outputs(self.files)
        return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it by name."""
        return {
            "status": self.status,
            "verdict": self.execution.verdict,
            "sentence": self.execution.sentence(),
            "accounting": self.execution.accounting.to_json(),
            "predicted": None if self.predicted is None else self.predicted.to_json(),
            "agreement": None if self.status == "not comparable" else self.agreement,
            "files": [one.to_json() for one in self.files],
        }


def delta_repro(repeat: Repeat) -> float:
    """Return Δ_Repro, 0 for a perfect repeat, 1 for none: 1 − A·(0.9 + 0.1·K).

    A is the share of the outputs that are equal. K = exp(−z), z = how far the measured CPU time lies outside the 90 %
    interval of its prediction, in powers of ten: K is 1 inside it, and where there was no prediction or one beyond the
    jobs that it was learned from. So the result
    decides, and a cost that nobody foresaw takes at most a tenth.
    """
    return 1.0 - repeat.agreement * (1.0 - _COST_WEIGHT + _COST_WEIGHT * cost_foreseen(repeat))


def cost_foreseen(repeat: Repeat) -> float:
    """Return K of :func:`delta_repro`."""
    kept = 1.0
    if repeat.predicted is not None and not repeat.predicted.outside:
        span, actual = repeat.predicted.cpu_seconds, repeat.execution.accounting.cpu_seconds
        if actual > 0:
            outside = max(0.0, math.log10(actual / span.high), math.log10(span.low / actual))
            kept = math.exp(-outside)
    return kept


def repeat_job(
    record: Record,
    chain: Sequence[Record],
    *,
    limits: Limits,
    isolation: Isolation = "bubblewrap",
    predicted: Cost | None = None,
) -> Repeat:
    """Run a recorded job again in a folder of its own, its inputs read-only, and compare the outputs.

    Parameters
    ----------
    record, chain
        The job, and those before it, whose folders it may read.
    limits, isolation
        As in :func:`cryoprism.evaluation.sandbox.execute`.
    predicted
        What it is expected to cost.
    """
    place = Path(tempfile.mkdtemp(prefix="cryoprism-repeat-"))
    try:
        settings = place / "config.json"
        changes = {"output": None, "only_do_unfinished": False, "overwrite": False}
        settings.write_text(json.dumps({**record.config, **changes}), encoding="utf-8")
        settings.chmod(0o644)
        inside = "/out/job" if isolation == "bubblewrap" else str(place / "out" / "job")
        arguments = [record.command, "--config", str(settings), "--out", inside]
        execution = execute(
            [sys.executable, "-c", _RUN, str(record.base.resolve()), *arguments],
            limits=limits,
            inputs=[settings, *_seen(record, chain)],
            output=place / "out",
            isolation=isolation,
        )
        files = compare_outputs(record.folder, place / "out" / "job") if execution.verdict == "finished" else ()
        return Repeat(execution, predicted, files)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _seen(record: Record, chain: Sequence[Record]) -> list[Path]:
    """Folders below the project's in which inputs lie, and files elsewhere: tables name images in the same folders."""
    base, found = record.base.resolve(), []
    own = record.folder.resolve()
    for one in chain:
        if one is not record and one.folder.resolve().is_relative_to(own):
            continue  # the steps of this very job are run again, not read
        files = one.files()
        tables = [path for path in files if path.suffix == ".star" and path.is_file()]
        for path in (*files, *_image_folders(tables, base), *([] if one is record else [one.folder])):
            whole = Path(os.path.abspath(path))
            if whole.is_relative_to(base) and whole != base:
                found.append(base / whole.relative_to(base).parts[0])
            elif whole != base:
                found.append(whole)
    return list(dict.fromkeys(found))


def _image_folders(tables: Sequence[Path], base: Path) -> list[Path]:
    """Folders of the images that tables name, as far as they are there."""
    found = set()
    for table in tables:
        try:
            blocks = read_star(table)
        except InputError:
            continue
        for block in blocks:
            for label in _IMAGES:
                if label in block:
                    found |= {Path(text.split("@")[-1]).parent for text in block.column(label)}
    return [place for place in (base / one for one in sorted(found)) if place.is_dir() and place != base]
