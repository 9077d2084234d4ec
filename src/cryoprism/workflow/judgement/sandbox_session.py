"""``cryoprism sandbox run``: a program, a plug-in or a formula behind walls, with a record of what it used."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cryoprism.core import InputError
from cryoprism.evaluation.sandbox import (
    Execution,
    FormulaValue,
    Limits,
    execute,
    parse_formula,
    parse_variable,
    walls,
)
from cryoprism.workflow.jobs.config import JobConfig
from cryoprism.workflow.jobs.files import atomic_path, fingerprint, write_json
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.summary import StepSummary
from cryoprism.workflow.report import sandbox_report

__all__ = ["SandboxConfig", "SandboxSummary", "run_in_sandbox"]

_DEFAULTS = Limits()


class SandboxConfig(JobConfig):
    """Everything that decides what ``cryoprism sandbox run`` does."""

    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "command": "PROGRAM",
        "inputs": "--input",
        "variables": "--variable",
        "cpu_seconds": "--cpu",
        "memory_in_gigabytes": "--memory",
        "wall_seconds": "--wall",
        "files_in_megabytes": "--files",
    }

    command: tuple[str, ...] = Field((), description="Program and its arguments, behind --.")
    formula: str | None = Field(None, description="Formula to evaluate instead of a program.")
    variables: tuple[str, ...] = Field((), description="Variables of the formula: name=40±2 e/Å².")
    unit: str | None = Field(None, description="Unit of the formula's value; base units if absent.")
    inputs: tuple[str, ...] = Field((), description="Files and folders the program may read.")
    isolation: Literal["bubblewrap", "none"] = Field("bubblewrap", description="bubblewrap, or none: limits only.")
    cpu_seconds: float = Field(_DEFAULTS.cpu_seconds, gt=0, le=1e7, description="CPU time of all processes [s].")
    memory_in_gigabytes: float = Field(
        _DEFAULTS.memory_in_gigabytes, gt=0, le=1e5, description="Memory of all processes [GB]."
    )
    wall_seconds: float = Field(_DEFAULTS.wall_seconds, gt=0, le=1e7, description="Time from start to end [s].")
    files_in_megabytes: float = Field(
        _DEFAULTS.files_in_megabytes,
        gt=0,
        le=1e8,
        description="What it may write [MB]; it lies in memory till the end.",
    )
    processes: int = Field(_DEFAULTS.processes, ge=1, le=100_000, description="Processes and threads at one time.")

    @model_validator(mode="after")
    def _one_thing_to_run(self) -> Self:
        if self.formula is None and (self.variables or self.unit):
            option = "--variable" if self.variables else "--unit"
            raise InputError(option, "no formula was given", "Add --formula.")
        if self.formula is not None and self.inputs:
            raise InputError("--input", "a formula reads no files", "Leave it out, or give a program behind --.")
        if (self.formula is None) == (not self.command):
            found = "nothing was given" if self.formula is None else "a program was given beside a formula"
            raise InputError("PROGRAM or --formula", found, "Put a program behind --, or give one --formula.")
        return self

    def limits(self) -> Limits:
        """Return the limits as the sandbox takes them."""
        return Limits(
            cpu_seconds=self.cpu_seconds,
            memory_in_gigabytes=self.memory_in_gigabytes,
            wall_seconds=self.wall_seconds,
            files_in_megabytes=self.files_in_megabytes,
            processes=self.processes,
        )


@dataclass(frozen=True, kw_only=True)
class SandboxSummary(StepSummary):
    """What :func:`run_in_sandbox` returns.

    Attributes
    ----------
    verdict
        ``finished``, ``failed`` or ``stopped``.
    sentences
        How it ended, what it used, and what to be careful about.
    """

    verdict: str
    sentences: tuple[str, ...]


def run_in_sandbox(config: SandboxConfig) -> SandboxSummary:
    """Run a program or a formula; write ``sandbox.json``, ``report.html``, what it printed, and ``output/``.

    Raises
    ------
    InputError
        The program, an input, the formula or its units cannot be used, or no sandbox can be made here.
    """
    started = time.monotonic()
    if config.isolation == "bubblewrap":
        walls()
    formula = None
    if config.formula is not None:
        formula = parse_formula(config.formula, [parse_variable(text) for text in config.variables])
    files = [Path(path) for path in (*config.inputs, *config.command[:1]) if Path(path).is_file()]
    with open_job("Sandbox", config) as job:
        job.record_inputs(files)
        prints = ";".join(str(fingerprint(path)["sha256_of_ends"]) for path in files)
        if config.only_do_unfinished and job.is_done("sandbox", stage="sandbox", depends_on=prints):
            kept = job.done_result("sandbox", stage="sandbox")
            return SandboxSummary(
                output=job.path, verdict=kept["verdict"], sentences=tuple(kept["sentences"]), skipped=True
            )
        value: FormulaValue | None = None
        if formula is not None:
            result = formula.evaluate(unit=config.unit, limits=_formula_limits(config), isolation=config.isolation)
            value = result if isinstance(result, FormulaValue) else None
            run = result.execution if isinstance(result, FormulaValue) else result
        else:
            shutil.rmtree(job.path / "output", ignore_errors=True)
            run = execute(
                config.command,
                limits=config.limits(),
                inputs=config.inputs,
                output=job.path / "output",
                isolation=config.isolation,
            )
        return _finish(job, config, run, value, prints, started)


def _formula_limits(config: SandboxConfig) -> Limits | None:
    """Return the limits that were given; those of formulas, which are tighter, where none was."""
    given = config.model_fields_set & {
        "cpu_seconds",
        "memory_in_gigabytes",
        "wall_seconds",
        "files_in_megabytes",
        "processes",
    }
    return config.limits() if given else None


def _finish(
    job: Job, config: SandboxConfig, run: Execution, value: FormulaValue | None, prints: str, started: float
) -> SandboxSummary:
    content: dict[str, Any] = run.to_json()
    sentences = [run.sentence()]
    if value is not None:
        content["formula"] = value.to_json()
        sentences.insert(0, _value_in_words(value))
    elif config.formula is not None and run.verdict == "failed":
        said = run.errors.decode("utf-8", errors="replace").strip().splitlines()
        sentences[0] = f"The formula has no value that could be found ({said[-1][:200] if said else run.sentence()})."
    used = run.accounting
    sentences.append(
        f"It used {used.cpu_seconds:.2f} s of CPU time in {used.wall_seconds:.2f} s, at most "
        f"{used.peak_memory_in_bytes / 1e9:.3f} GB and {used.peak_processes} process(es), and wrote "
        f"{used.outputs_in_bytes / 1e6:.2f} MB."
    )
    sentences += run.notes
    if run.left_out:
        first, why = next(iter(run.left_out.items()))
        sentences.append(f"{len(run.left_out)} of what it wrote was left out: {first} {why}.")
    outputs = [job.path / name for name in ("stdout.txt", "stderr.txt", "sandbox.json")]
    for path, text in zip(outputs, (run.printed, run.errors), strict=False):
        with atomic_path(path) as temporary:
            temporary.write_bytes(text)
    write_json(outputs[-1], content)
    outputs.append(sandbox_report(job.path, content, sentences, inputs=config.inputs, formula=config.formula))
    job.mark_done(
        "sandbox",
        stage="sandbox",
        outputs=outputs,
        depends_on=prints,
        result={"verdict": run.verdict, "sentences": sentences},
    )
    return SandboxSummary(
        output=job.path, verdict=run.verdict, sentences=tuple(sentences), seconds=time.monotonic() - started
    )


def _value_in_words(value: FormulaValue) -> str:
    unit = "" if value.unit == "dimensionless" else f" {value.unit}"
    spread = f" ± {value.deviation:.3g}" if value.deviation and value.first_order_holds else ""
    text = f"{value.expression} = {value.value:.6g}{spread}{unit}."
    slopes = "; ".join(f"by {name}: {slope.expression}" for name, slope in value.derivatives.items())
    return " ".join(part for part in (text, _drawn_in_words(value), f"Derivatives {slopes}." if slopes else "") if part)


def _drawn_in_words(value: FormulaValue) -> str:
    drawn = value.drawn
    if drawn is None:
        return ""
    if drawn.interval is None:
        return "No draw of its variables gives a finite value, so that nothing can be said of its spread."
    low, high = drawn.interval
    spread = "" if drawn.deviation is None else f", standard deviation {drawn.deviation:.3g}"
    unit = "" if value.unit == "dimensionless" else f" {value.unit}"
    text = f"Draws of its variables give 95 % between {low:.3g} and {high:.3g}{unit}{spread}"
    if drawn.share_finite < 1:
        text += f"; {100 * (1 - drawn.share_finite):.2g} % of them have no finite value and are left out"
    if not value.first_order_holds:
        text += (
            f". The derivatives alone would say ± {value.deviation:.3g}, which does not hold here: take the interval"
        )
    return f"{text}."
