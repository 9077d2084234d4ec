"""``cryoprism assess``: five questions about a model, each answered with its evidence, and one score from that."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryoprism import __version__
from cryoprism.evaluation.fusion import Fusion, fuse
from cryoprism.workflow.jobs.files import write_json
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.progress import progress
from cryoprism.workflow.jobs.summary import StepSummary
from cryoprism.workflow.report import assess_report

from .assess_case import Case, prepare
from .assess_config import AssessConfig
from .assess_questions import Part, Question, questions
from .assess_words import QUESTIONS, verdict
from .whose_record import only_of_this_model, tie_of

__all__ = ["AssessSummary", "assess_session"]

log = logging.getLogger("cryoprism")

_STAGE = "assess"


@dataclass(frozen=True, kw_only=True)
class AssessSummary(StepSummary):
    """What :func:`assess_session` returns.

    Attributes
    ----------
    sentences
        The verdict first, then the score and what it rests on.
    unavailable
        Question to why it has no answer and how to get one.
    uncounted
        Question to why its answer, which is about a record that nothing ties to the model, does not count.
    """

    sentences: tuple[str, ...]
    unavailable: Mapping[str, tuple[str, ...]]
    uncounted: Mapping[str, str]


def assess_session(config: AssessConfig) -> AssessSummary:
    """Run ``cryoprism assess``: ``assessment.json``, ``consistency.json``, ``certificate/`` and ``report.html``.

    Every question is a stage: one that was answered is not asked again while what it depends on stays the same; one
    that had no answer is.

    Raises
    ------
    InputError
        The model, the map, the record, the index, the forecasts or the weights cannot be used.
    """
    started = time.monotonic()
    case = prepare(config)
    asked = questions(case)
    with open_job("Assess", config) as job:
        job.record_inputs(case.files)
        parts: dict[str, Part] = {}
        kept = 0
        with progress("Assessing", len(asked)) as step:
            for question in asked:
                before = _kept(job, config, question)
                kept += before is not None
                parts[question.name] = before or _asked(job, question)
                log.info("%s: %s", question.name, parts[question.name].content["sentences"][0])
                step(question.name)
        untied = tie_of(case, parts["logic"].content["evidence"])
        parts = only_of_this_model(parts, untied)
        answers = {name: parts[name].answer() for name in QUESTIONS}
        fusion = fuse(answers, case.weights, case.shape, seed=config.seed)
        said = verdict(answers)
        document = _document(case, parts, fusion, said, untied)
        write_json(job.path / "assessment.json", document)
        assess_report(
            job.path,
            document,
            pictures={name: part.shown for name, part in parts.items() if part.shown},
            files=[name for part in parts.values() for name in part.files],
        )
        return AssessSummary(
            output=job.path,
            sentences=(said, *fusion.sentences),
            unavailable={name: one.sentences for name, one in answers.items() if one.status == "not available"},
            uncounted={
                name: one.sentences[0]
                for name, one in answers.items()
                if one.value is not None and one.status != "available"
            },
            skipped=kept == len(asked),
            seconds=time.monotonic() - started,
        )


def _kept(job: Job, config: AssessConfig, question: Question) -> Part | None:
    """Return an earlier answer that still holds."""
    if not (config.only_do_unfinished and job.is_done(question.name, stage=_STAGE, depends_on=question.stamp)):
        return None
    result = job.done_result(question.name, stage=_STAGE)
    part = Part(result["content"], tuple(result["files"]), result["shown"])
    return part if part.content["status"] == "available" and not _without_verdict(part) else None


def _without_verdict(part: Part) -> bool:
    """Whether a prover was asked and gave no verdict at all: another try may find one."""
    counts = part.content["evidence"].get("counts")
    return counts is not None and counts["unknown"] == counts["obligations"]


def _asked(job: Job, question: Question) -> Part:
    part = question.ask(job.path)
    job.mark_done(
        question.name,
        stage=_STAGE,
        outputs=[job.path / name for name in part.files],
        depends_on=question.stamp,
        result={"content": part.content, "files": list(part.files), "shown": part.shown},
    )
    return part


def _document(case: Case, parts: Mapping[str, Part], fusion: Fusion, said: str, untied: str | None) -> dict[str, Any]:
    config = case.config
    frame = parts["logic"].content["evidence"].get("frame")
    inputs = {
        "model": config.model_file,
        "map": config.map_file,
        "record": None if case.record is None else case.record.folder,
        "index": config.index,
        "forecasts": config.forecasts,
        "weights": config.weights_file,
    }
    return {
        "schema": "cryoprism-assessment-1",
        "cryoprism_version": __version__,
        "inputs": {name: None if path is None else str(path) for name, path in inputs.items()},
        "verdict": said,
        "notes": [*([frame] if frame else []), *([untied] if untied else [])],
        **{name: dict(parts[name].content) for name in QUESTIONS},
        **fusion.to_json(),
        "weight_intervals": case.weights.in_use.intervals(config.seed),
        "perturbation": dict(parts["perturbation"].content),
        "certificate": "certificate" if any(name.startswith("certificate/") for name in parts["logic"].files) else None,
    }
