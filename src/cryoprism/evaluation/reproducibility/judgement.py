"""Could someone else repeat it: what is complete, what a re-run gave and cost, and one figure from both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryoprism.core import InputError
from cryoprism.evaluation.evidence import Answer, available
from cryoprism.evaluation.sandbox import Execution, Isolation, Limits

from .comparison import SAME, equal_outputs
from .completeness import Item, check_completeness, completeness
from .cost import Cost, CostModel, Range, shipped_cost_model, size_of
from .record import Record, chain_of, read_record
from .rerun import Repeat, cost_foreseen, delta_repro, repeat_job

__all__ = ["Reproducibility", "judge_reproducibility"]

#: Standard deviation of a uniform distribution over [0, 1]: nothing is known.
_IGNORANCE: Final = 12**-0.5
#: Most that the answer is where something is missing without which the work cannot be repeated: below even odds, since
#: then it is likelier that it cannot be.
_NOT_REPEATABLE: Final = 0.5
#: Exit code of an error of the user's: something is not as the record says, and nothing was computed.
_REFUSED: Final = 2
#: These would need walls within walls.
_NOT_RUN_AGAIN: Final = {"Sandbox"}


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
                f"{cost_foreseen(self.repeat):.3f} (1 where the cost was foreseen): {share * (1 - delta):.3f}."
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
        if repeat.predicted.outside:
            cost += (
                f", a forecast beyond the jobs that it was learned from ({repeat.predicted.outside}): that the cost "
                "was another does not count"
            )
    return [*sentences, cost + "."]
