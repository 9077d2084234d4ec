"""``cryoprism weights``: weights of the score from judgements, against measured quality, and what to ask next."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from cryoprism.core import InputError
from cryoprism.evaluation.fusion import (
    COMPONENTS,
    ENOUGH_JUDGEMENTS,
    Assessed,
    Judgement,
    agreement_by_judge,
    count_distinct,
    default_shape,
    default_weights,
    differences,
    expected_information_in_bits,
    learn,
    learn_shape,
    outcomes,
    policy_gradient,
    read_assessment,
    read_judgements,
    read_quality_table,
    read_weights,
    regress_quality,
    softmax,
    thompson,
    weights_path,
    without_copies,
)
from cryoprism.workflow.jobs.config import JobConfig
from cryoprism.workflow.jobs.files import fingerprint, write_json
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.summary import StepSummary
from cryoprism.workflow.report import quality_report, weights_report

from .score_configs import WeightsExplainConfig, WeightsLearnConfig

__all__ = ["Question", "WeightsSummary", "explain_weights", "learn_weights", "next_question"]

#: More pairs than this are thinned out at random before they are compared.
_MOST_PAIRS: Final = 20_000


@dataclass(frozen=True, kw_only=True)
class WeightsSummary(StepSummary):
    """What :func:`learn_weights` and :func:`explain_weights` return.

    Attributes
    ----------
    sentences
        What was found, in words.
    """

    sentences: tuple[str, ...]


def learn_weights(config: WeightsLearnConfig) -> WeightsSummary:
    """Run ``cryoprism weights learn``: ``weights.json`` and ``report.html`` from files of judgements.

    Raises
    ------
    InputError
        A file or a line cannot be read, or a file holds no judgement.
    """
    started = time.monotonic()
    read = [one for path in config.inputs for one in _some_judgements(path)]
    judgements = without_copies(read)
    distinct = count_distinct(judgements)
    with open_job("Weights", config) as job:
        job.record_inputs(config.inputs)
        if (kept := _kept(job, config, "weights", config.inputs)) is not None:
            return kept
        posterior = learn(judgements, default_weights(), seed=config.seed)
        weights = posterior.weights
        pairs = [(one.a, one.b) for one in judgements]
        beside = softmax(policy_gradient(differences(pairs), outcomes(judgements), seed=config.seed))
        shape, searched, words = default_shape(), None, ""
        if config.learn_shape and distinct >= ENOUGH_JUDGEMENTS:
            try:
                found = learn_shape(judgements, seed=config.seed, trials=config.trials)
            except InputError as error:
                words = f"The shape of the score stays the default: {error}"
            else:
                shape, searched, words = found.shape, found.to_json(), found.sentence()
        judges = agreement_by_judge(weights, judgements)
        deviation = float(np.sqrt(posterior.covariance[-2, -2]))
        content: dict[str, Any] = weights.to_json() | {
            "shape": shape.to_json(),
            "shape_search": searched,
            "judges": {
                name: {"judgements": count, "decided": decided, "agreed": agreed}
                for name, (count, decided, agreed) in judges.items()
            },
            "log_sharpness": {"mean": float(posterior.mode[-2]), "standard_deviation": deviation},
            "policy_gradient": dict(zip(COMPONENTS, beside.tolist(), strict=True)),
        }
        again = _repeats(len(read), len(judgements), distinct)
        sentences = tuple(text for text in (weights.sentence(), again, *_told(content), words) if text)
        content["sentences"] = list(sentences)
        write_json(job.path / "weights.json", content)
        outputs = [job.path / "weights.json", weights_report(job.path, content)]
        job.note("judgements", distinct)
        _mark(job, "weights", config.inputs, outputs, sentences)
        return WeightsSummary(output=job.path, sentences=sentences, seconds=time.monotonic() - started)


def _some_judgements(path: str | Path) -> list[Judgement]:
    found = read_judgements(path)
    if not found:
        raise InputError(path, "holds no judgement", "Write one a line; 'cryoprism weights ask' gives the first.")
    return found


def _kept(job: Job, config: JobConfig, stage: str, sources: Sequence[str | Path]) -> WeightsSummary | None:
    if not (config.only_do_unfinished and job.is_done(stage, stage=stage, depends_on=_hashes(sources))):
        return None
    return WeightsSummary(
        output=job.path, sentences=tuple(job.done_result(stage, stage=stage)["sentences"]), skipped=True
    )


def _mark(
    job: Job, stage: str, sources: Sequence[str | Path], outputs: Sequence[Path], sentences: Sequence[str]
) -> None:
    result = {"sentences": list(sentences)}
    job.mark_done(stage, stage=stage, outputs=outputs, depends_on=_hashes(sources), result=result)


def _hashes(sources: Sequence[str | Path]) -> str:
    return ";".join(str(fingerprint(path)["sha256_of_ends"]) for path in sources)


def _repeats(read: int, kept: int, distinct: int) -> str:
    """Warn where one judge spoke more than once of one pair."""
    if read == distinct:
        return ""
    said = f"Warning: only {distinct} of {read} judgements are each of another pair or judge, and only these count."
    if read > kept:
        said += f" {read - kept} say again what the same judge said before and were left out."
    if kept > distinct:
        said += f" {kept - distinct} say otherwise than the same judge did before of the same pair."
    return f'{said} Where several people judged the same pairs, name them in "judge".'


def _told(content: dict[str, Any]) -> tuple[str, ...]:
    names = ", ".join(
        f"{name} {one['weight']:.2f} ({one['lower']:.2f} to {one['upper']:.2f})"
        for name, one in content["weights"].items()
    )
    after = "" if content["in_use"] == "learned" else ", not in use yet"
    decided = sum(one["decided"] for one in content["judges"].values())
    agreed = sum(one["agreed"] for one in content["judges"].values())
    said = [f"Most probable weights{after}, with 95 % intervals: {names}."]
    if decided:
        said.append(
            f"V with them agrees with {agreed} of the {decided} judgements that are no ties: the ones that it was "
            "learned from, so others may agree less."
        )
    return tuple(said)


def explain_weights(config: WeightsExplainConfig) -> WeightsSummary:
    """Run ``cryoprism weights explain``: ``quality.json`` and ``report.html`` from a table.

    Raises
    ------
    InputError
        The table, a column or the weights cannot be used.
    """
    started = time.monotonic()
    table = read_quality_table(config.table, config.quality, config.columns, config.group)
    weights = default_weights() if config.weights_file is None else read_weights(config.weights_file)[0]
    with open_job("Quality", config) as job:
        sources = [config.table] if config.weights_file is None else [config.table, weights_path(config.weights_file)]
        job.record_inputs(sources)
        if (kept := _kept(job, config, "quality", sources)) is not None:
            return kept
        found = regress_quality(
            table, weights, lower_is_better=config.lower_is_better, bootstraps=config.bootstraps, seed=config.seed
        )
        content = {
            "schema": "cryoprism-quality-1",
            "quality": config.quality,
            "lower_is_better": config.lower_is_better,
            "group": config.group,
            "weights": weights.in_use.mean,
            **found.to_json(),
        }
        write_json(job.path / "quality.json", content)
        page = quality_report(job.path, found, quality=table.quality, name=config.quality)
        _mark(job, "quality", sources, [job.path / "quality.json", page], found.sentences)
        return WeightsSummary(output=job.path, sentences=found.sentences, seconds=time.monotonic() - started)


@dataclass(frozen=True)
class Question:
    """The pair to show to somebody next.

    Attributes
    ----------
    a, b
        The two.
    information_in_bits
        What the answer is expected to tell of the weights.
    judgements, pairs
        How many are there, and how many pairs were compared.
    """

    a: Assessed
    b: Assessed
    information_in_bits: float
    judgements: int
    pairs: int

    def line(self) -> str:
        """Return the line of the file of judgements, where ``better`` is to be filled in."""
        return json.dumps({"a": _side(self.a), "b": _side(self.b), "better": "a, b or tie"}, ensure_ascii=False)


def next_question(
    assessments: Sequence[str | Path],
    judgements: str | Path | None = None,
    *,
    how: Literal["information", "thompson"] = "information",
    seed: int = 0,
) -> Question:
    """Choose the pair of assessments to ask about next.

    Parameters
    ----------
    assessments
        ``assessment.json`` files, or folders in which they lie at any depth.
    judgements
        What was said before; a pair that was judged is not asked again.
    how
        By expected information, or by Thompson sampling.
    seed
        Of the draws.

    Raises
    ------
    InputError
        Fewer than two assessments that differ, every pair was judged, or a file cannot be read.
    """
    known = [read_assessment(path) for path in _assessment_files(assessments)]
    told: list[Judgement] = [] if judgements is None else read_judgements(judgements)
    generator = np.random.default_rng(seed)
    judged = {frozenset((_key(one.a), _key(one.b))) for one in told}
    pairs = [
        pair
        for pair in itertools.combinations(known, 2)
        if frozenset((_key(pair[0]), _key(pair[1]))) not in judged and differences([pair]).any()
    ]
    if not pairs:
        raise InputError(
            "ASSESSMENTS",
            f"{len(known)} assessments leave no pair to ask about",
            "Give two or more that differ and were not judged yet.",
        )
    if len(pairs) > _MOST_PAIRS:
        pairs = [pairs[i] for i in generator.choice(len(pairs), _MOST_PAIRS, replace=False)]
    posterior = learn(told)
    ahead = differences(pairs)
    bits = expected_information_in_bits(posterior, ahead, generator)
    best = int(bits.argmax()) if how == "information" else thompson(posterior, ahead, generator)
    return Question(*pairs[best], float(bits[best]), len(told), len(pairs))


def _assessment_files(given: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for one in map(Path, given):
        inside = sorted(one.rglob("assessment.json")) if one.is_dir() else [one]
        if not inside:
            raise InputError(one, "holds no assessment.json", "Give folders of cryoprism assess.")
        found += inside
    return list(dict.fromkeys(found))


def _key(one: Assessed) -> tuple[float | None, ...]:
    return tuple(one.values.get(name) for name in COMPONENTS)


def _side(one: Assessed) -> Any:
    return {name: value for name, value in one.values.items() if value is not None}
