"""Could someone else repeat it: what is complete, what a re-run gave and cost, and one figure from both."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cryoprism.core import InputError
from cryoprism.evaluation.evidence import Answer, available
from cryoprism.evaluation.sandbox import Execution, Isolation, Limits, execute
from cryoprism.formats import read_star

from .comparison import SAME, FileComparison, compare_outputs, equal_outputs
from .completeness import Item, check_completeness, completeness
from .cost import Cost, CostModel, Range, shipped_cost_model, size_of
from .record import Record, chain_of, read_record

__all__ = ["Repeat", "Reproducibility", "delta_repro", "judge_reproducibility", "repeat_job"]

#: Standard deviation of a uniform distribution over [0, 1]: nothing is known.
_IGNORANCE: Final = 12**-0.5
_COST_WEIGHT: Final = 0.1
#: Most that the answer is where something is missing without which the work cannot be repeated: below even odds, since
#: then it is likelier that it cannot be.
_NOT_REPEATABLE: Final = 0.5
#: Exit code of an error of the user's: something is not as the record says, and nothing was computed.
_REFUSED: Final = 2
_IMAGES: Final = ("rlnImageName", "rlnMicrographName", "rlnMicrographMovieName")
#: These would need walls within walls.
_NOT_RUN_AGAIN: Final = {"Sandbox"}
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


@dataclass(frozen=True)
class Reproducibility:
    """What is known of whether a record can be repeated.

    Attributes
    ----------
    chain
        The record and those before it.
    items
        What is needed, and whether it is there.
    predicted
        What a re-run would cost, where that is known.
    repeat
        The re-run; None where there was none.
    why_not
        Why there was none.
    """

    chain: tuple[Record, ...]
    items: tuple[Item, ...]
    predicted: Cost | None
    repeat: Repeat | None
    why_not: str | None

    def missing(self) -> tuple[Item, ...]:
        """Return what is missing, with where to give it: what is needed first."""
        lacking = [item for item in self.items if not item.there]
        return tuple(sorted(lacking, key=lambda item: not item.needed))

    def _lacking(self, *, deposition: bool) -> list[Item]:
        """Return what is needed and missing, to repeat the computation or to deposit it."""
        return [one for one in self.missing() if one.needed and (one.group == "deposition") == deposition]

    @property
    def repeatable_elsewhere(self) -> bool:
        """Whether another laboratory has what it takes: data, software, parameters and seeds of every job."""
        return not self._lacking(deposition=False)

    @property
    def depositable(self) -> bool:
        """Whether all is there that EMDB and EMPIAR require."""
        return not self._lacking(deposition=True)

    def verdict(self) -> str:
        """Say whether another laboratory could repeat it, and what is missing for that."""
        jobs = f"{len(self.chain)} job{'' if len(self.chain) == 1 else 's'}"
        if lacking := self._lacking(deposition=False):
            return (
                f"Another laboratory could not repeat it from this record of {jobs}: "
                f"{_first(item.name for item in lacking)} fail."
            )
        if not (lacking := self._lacking(deposition=True)):
            return (
                "Another laboratory has what it takes to repeat it: data, software, parameters and seeds of "
                f"{jobs} are complete, and so is what EMDB and EMPIAR require of a deposition."
            )
        return (
            "Another laboratory that is given the images has what it takes to repeat the computation: data, software, "
            f"parameters and seeds of {jobs} are complete. Not yet the experiment: a deposition lacks "
            f"{_first(item.name.split(' (')[0] for item in lacking)}."
        )

    def _counts(self) -> str:
        def of(items: list[Item]) -> str:
            return f"{sum(item.there for item in items)} of {len(items)}"

        computed = [item for item in self.items if item.group != "deposition"]
        required = [item for item in self.items if item.group == "deposition" and item.needed]
        asked = [item for item in self.items if not item.needed]
        return (
            f"There are {of(computed)} things that are needed to repeat the computation and {of(required)} that EMDB "
            f"and EMPIAR require of a deposition; what they only ask for ({of(asked)}) does not count."
        )

    @property
    def cap(self) -> float:
        """Most that the answer can be: 1; where the work cannot be repeated the share of what is there, at most ½."""
        if self.repeatable_elsewhere:
            return 1.0
        needed = [item.there for item in self.items if item.needed]
        return min(_NOT_REPEATABLE, sum(needed) / len(needed))

    def _formula(self, share: float, delta: float | None, value: float) -> str:
        """Say how the value comes about, with its numbers."""
        groups = ", ".join(
            f"{group} {sum(item.there for item in items)} of {len(items)}"
            for group in dict.fromkeys(item.group for item in self.items)
            if (items := [item for item in self.items if item.group == group and item.needed])
        )
        said = f"Completeness {share:.3f} is the mean of four shares of what is needed: {groups}."
        if delta is not None and self.repeat is not None:
            outputs = equal_outputs(self.repeat.files)
            said += (
                f" Times (1 − Δ_Repro), Δ_Repro = 1 − A·(0.9 + 0.1·K) = {delta:.3f}, A = {self.repeat.agreement:.3f} "
                f"({sum(outputs)} of {len(outputs)} outputs are equal to a thousandth; a folder is one), K = "
                f"{_foreseen(self.repeat):.3f} (1 where the cost was foreseen): {share * (1 - delta):.3f}."
            )
        if not self.repeatable_elsewhere:
            said += (
                f" As something is missing without which it cannot be repeated, the answer is at most {self.cap:.3f}, "
                f"the share of what is there and no more than a half: {value:.3f}."
            )
        return said

    def answer(self) -> Answer:
        """Return the answer.

        With a re-run: completeness · (1 − Δ_Repro), see :func:`delta_repro`. Without one: completeness alone, with the
        standard deviation of a value of which nothing is known, since nobody has tried. A re-run that finished where
        there is nothing to compare it with decides as little as none. Never more than :attr:`cap`.
        """
        delta: float | None = None
        share, spread = completeness(self.items)
        sentences = [self.verdict(), self._counts()]
        evidence: dict[str, Any] = {
            "chain": [{"kind": record.kind, "folder": str(record.folder)} for record in self.chain],
            "repeatable_elsewhere": self.repeatable_elsewhere,
            "depositable": self.depositable,
            "completeness": share,
            "at_most": self.cap,
            "items": [item.to_json() for item in self.items],
            "predicted": None if self.predicted is None else self.predicted.to_json(),
        }
        if self.repeat is None:
            value, deviation = share, max(spread, _IGNORANCE)
            sentences.append(f"It was not run again ({self.why_not}): the answer rests on completeness alone.")
        elif self.repeat.status == "not comparable":
            value, deviation = share, max(spread, _IGNORANCE)
            evidence |= {"delta_repro": None, "repeat": self.repeat.to_json()}
            sentences += _repeat_in_words(self.repeat, math.nan)
        else:
            delta = delta_repro(self.repeat)
            value = share * (1.0 - delta)
            deviation = math.hypot(spread * (1.0 - delta), share * self.repeat.deviation)
            evidence |= {"delta_repro": delta, "repeat": self.repeat.to_json()}
            sentences += _repeat_in_words(self.repeat, delta)
        value = min(value, self.cap)
        sentences.insert(2, self._formula(share, delta, value))
        sentences += [f"Missing: {item.name}: {item.found}. {item.remedy}" for item in self.missing() if item.needed]
        if asked := [item.name for item in self.missing() if not item.needed]:
            sentences.append(f"Missing, but not required by EMDB or EMPIAR: {', '.join(asked)}.")
        return available(value, deviation, sentences, evidence)


def _first(names: Iterable[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return f"{', '.join(listed[:most])}{more}"


def delta_repro(repeat: Repeat) -> float:
    """Return Δ_Repro, 0 for a perfect repeat, 1 for none: 1 − A·(0.9 + 0.1·K).

    A is the share of the outputs that are equal. K = exp(−z), z = how far the measured CPU time lies outside the 90 %
    interval of its prediction, in powers of ten: K is 1 inside it, and where there was no prediction. So the result
    decides, and a cost that nobody foresaw takes at most a tenth.
    """
    return 1.0 - repeat.agreement * (1.0 - _COST_WEIGHT + _COST_WEIGHT * _foreseen(repeat))


def _foreseen(repeat: Repeat) -> float:
    """Return K of :func:`delta_repro`."""
    kept = 1.0
    if repeat.predicted is not None:
        span, actual = repeat.predicted.cpu_seconds, repeat.execution.accounting.cpu_seconds
        if actual > 0:
            outside = max(0.0, math.log10(actual / span.high), math.log10(span.low / actual))
            kept = math.exp(-outside)
    return kept


def judge_reproducibility(
    record_folder: str | Path,
    *,
    rerun: bool = True,
    limits: Limits | None = None,
    isolation: Isolation = "bubblewrap",
    model: CostModel | None = None,
) -> Reproducibility:
    """Judge whether a record can be repeated.

    Parameters
    ----------
    record_folder
        Folder of a job.
    rerun
        Run it again in the sandbox, where its predicted cost lies within the limits.
    limits
        What the re-run may use; its budget.
    isolation
        As in :func:`cryoprism.evaluation.sandbox.execute`.
    model
        Of the cost; the one that ships if absent.

    Raises
    ------
    InputError
        The folder holds no readable record. A sandbox that cannot be made here is a reason why there was no re-run.
    """
    record = read_record(record_folder)
    chain = chain_of(record)
    items = check_completeness(chain)
    limits = limits or Limits()
    predicted = _prediction(record, model or shipped_cost_model())
    why_not = _objection(record, items, predicted, limits) if rerun else "it was not asked for"
    repeat = None
    if why_not is None:
        try:
            repeat = repeat_job(record, chain, limits=limits, isolation=isolation, predicted=predicted)
        except InputError as error:
            why_not = str(error).rstrip(".")
        else:
            why_not = _no_verdict(repeat.execution)
            repeat = repeat if why_not is None else None
    return Reproducibility(chain, items, predicted, repeat, why_not)


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
    for one in chain:
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


def _prediction(record: Record, model: CostModel | None) -> Cost | None:
    return None if model is None else model.predict(record.kind, size_of(record))


def _objection(record: Record, items: Sequence[Item], predicted: Cost | None, limits: Limits) -> str | None:
    if record.kind in _NOT_RUN_AGAIN:
        return f"a {record.kind} job is not run inside another sandbox"
    gone = [one.path for one in record.inputs if one.state == "absent"]
    if gone:
        return f"{gone[0]} is not there any more"
    if predicted is None:
        if record.seconds is not None and record.seconds > limits.wall_seconds:
            return f"it took {record.seconds:.0f} s, more than the {limits.wall_seconds:g} s allowed"
        return None
    over = (
        ("CPU time", predicted.cpu_seconds, limits.cpu_seconds, "s", 1.0),
        ("memory", predicted.memory_in_bytes, limits.memory_in_gigabytes * 1e9, "GB", 1e9),
    )
    for name, span, most, unit, scale in over:
        if span.median > most:
            return (
                f"it would take {_about(span, scale)} {unit} of {name}, more than the {most / scale:g} {unit} allowed"
            )
    return None


def _no_verdict(run: Execution) -> str | None:
    """Why a re-run says nothing of the result: a limit stopped it, or the program refused what it was given."""
    if run.stopped_by is not None:
        return run.sentence().rstrip(".")
    if run.exit_code == _REFUSED:
        said = run.errors.decode(errors="replace").strip().splitlines()
        return f"it was refused: {said[-1].removeprefix('Error: ').rstrip('.')}" if said else "it was refused"
    return None


def _about(span: Range, scale: float) -> str:
    return f"{span.median / scale:.3g} ({span.low / scale:.3g} to {span.high / scale:.3g})"


def _repeat_in_words(repeat: Repeat, delta: float) -> list[str]:
    used = repeat.execution.accounting
    if repeat.status == "not comparable":
        return [
            "Run again, it finished, but it is not comparable: the record's folder holds no output of the kind that is "
            "compared (it may have been emptied). The answer rests on completeness alone."
        ]
    if repeat.status == "failed":
        said = repeat.execution.errors.decode(errors="replace").strip().splitlines()
        why = f" It said: {said[-1]}" if said else ""
        return [f"The re-run failed. {repeat.execution.sentence()}{why}"]
    same = sum(one.agreement >= SAME for one in repeat.files)
    worst = min(repeat.files, key=lambda one: one.agreement)
    outcome = f"Run again, {same} of {len(repeat.files)} files of results are equal; Δ_Repro {delta:.4f}."
    if worst.agreement < SAME:
        outcome += f" Least alike is {worst.name} ({worst.how})."
    elif worst.agreement < 1:
        outcome += f" Least alike, but equal to a thousandth, is {worst.name} ({worst.how})."
    sentences = [outcome]
    cost = (
        f"It took {used.cpu_seconds:.1f} CPU s, {used.wall_seconds:.1f} s and {used.peak_memory_in_bytes / 1e9:.2f} GB"
    )
    if repeat.predicted is not None:
        cost += (
            f"; foreseen were {_about(repeat.predicted.cpu_seconds, 1.0)} CPU s and "
            f"{_about(repeat.predicted.memory_in_bytes, 1e9)} GB"
        )
    return [*sentences, cost + "."]
