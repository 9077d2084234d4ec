"""The questions of an assessment: what each depends on, and how its answer is found.

What is absent from this machine (a program, a library) and what was not given make an answer not available, with the
remedy. What the user gave and cannot be used is an error, found by :func:`prepare` before anything is written.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cryoprism.core import CryoPrismError, InputError
from cryoprism.evaluation.consistency import Limits as ProverLimits
from cryoprism.evaluation.consistency import Model, check_consistency, coq_version, read_model
from cryoprism.evaluation.evidence import Answer, not_available
from cryoprism.evaluation.fusion import Shape, Weights, default_shape, default_weights, read_weights, weights_path
from cryoprism.evaluation.impact import Impact, forecast_impact
from cryoprism.evaluation.meta import HOW_TO_GET_CAUSES, judge_settled
from cryoprism.evaluation.novelty import ShapeIndex, novelty_of, require_faiss
from cryoprism.evaluation.perturbation import judge_fragility
from cryoprism.evaluation.reproducibility import (
    DETAILS,
    Record,
    Reproducibility,
    chain_of,
    check_completeness,
    judge_reproducibility,
    read_record,
)
from cryoprism.evaluation.sandbox import Limits as SandboxLimits
from cryoprism.evaluation.sandbox import walls
from cryoprism.formats import Volume, read_map

from ._assess_config import AssessConfig
from ._files import fingerprint, write_json
from .report import novelty_pictures

__all__ = ["Case", "Part", "Question", "notes_on", "prepare", "questions"]

#: Offenders of one rule that stand in the assessment; ``consistency.json`` has all.
_MOST_OFFENDERS: Final = 20
#: Fields of the configuration that decide what the proofs say.
_ABOUT_MODEL: Final = {
    "voxel_size_in_angstroms", "contour", "margin_in_angstroms", "symmetry", "helical_rise_in_angstroms",
    "helical_twist_in_degrees", "assembly", "time_limit_in_seconds", "max_memory_in_gigabytes",
}  # fmt: skip
_ENTRY: Final = re.compile(r"[0-9][A-Za-z0-9]{3}")
_NO_RECORD: Final = "No record of the work was given."
_GIVE_RECORD: Final = "Give the folder of the job that made the map or the model in --record."


@dataclass(frozen=True)
class Part:
    """What came of one question.

    Attributes
    ----------
    content
        The answer as ``assessment.json`` has it.
    files
        What it wrote into the job's folder, relative to that.
    shown
        HTML for the report beside what the content says.
    """

    content: Mapping[str, Any]
    files: tuple[str, ...] = ()
    shown: str = ""

    def answer(self) -> Answer:
        """Return the content as an answer."""
        one = self.content
        return Answer(
            one["value"], one["standard_deviation"], one["status"], tuple(one["sentences"]), dict(one["evidence"])
        )


@dataclass(frozen=True)
class Question:
    """One question: its name in ``assessment.json``, what its answer depends on, and how to find it."""

    name: str
    stamp: str
    ask: Callable[[Path], Part]


@dataclass(frozen=True, eq=False)
class Case:
    """Everything that was given, read and found usable.

    Attributes
    ----------
    volume, record, impact
        None where not given; ``impact`` is the forecast that was looked up.
    chain
        The record and those before it.
    causes
        Folder in the chain that holds ``causes.json``.
    weights, shape
        Of the score.
    files
        What counts as input.
    """

    config: AssessConfig
    model: Model
    volume: Volume | None
    record: Record | None
    chain: tuple[Record, ...]
    causes: Path | None
    impact: Impact
    weights: Weights
    shape: Shape
    files: tuple[Path, ...]


def prepare(config: AssessConfig) -> Case:
    """Read what was given, before anything is written.

    Raises
    ------
    InputError
        Any of it cannot be used.
    """
    model = read_model(config.model_file)
    volume = _volume(config)
    record = None if config.record is None else read_record(config.record)
    chain = () if record is None else chain_of(record)
    if chain:
        check_completeness(chain)
    causes = _causes_in(chain)
    if causes is not None:
        judge_settled(causes)
    if config.index is not None:
        if not (config.index / "index.json").is_file():
            raise InputError(
                config.index, "holds no index of shapes", "Build one: cryoprism novelty build FOLDER --out INDEX."
            )
        if _absence(require_faiss) is None:
            ShapeIndex.open(config.index)
    weights, shape = default_weights(), default_shape()
    if config.weights_file is not None:
        weights, shape = read_weights(config.weights_file)
    given = [config.map_file, None if record is None else record.folder / "job.json", _in(causes, "causes.json")]
    given += [_in(config.index, "index.json"), _forecasts(config.forecasts)]
    given += [None if config.weights_file is None else weights_path(config.weights_file)]
    return Case(
        config=config,
        model=model,
        volume=volume,
        record=record,
        chain=chain,
        causes=causes,
        impact=forecast_impact(config.publication or _entry_of(model), config.forecasts),
        weights=weights,
        shape=shape,
        files=(config.model_file, *(path for path in given if path is not None)),
    )


def _volume(config: AssessConfig) -> Volume | None:
    if config.map_file is None:
        return None
    try:
        return read_map(config.map_file, config.voxel_size_in_angstroms)
    except InputError as error:
        if "no voxel size" in error.found:
            raise InputError(error.where, error.found, "Give it with --pixel-size (Å per voxel).") from error
        raise


def questions(case: Case) -> tuple[Question, ...]:
    """Return the questions in the order in which they are asked."""
    config = case.config
    record = [_record_stamp(one) for one in case.chain]
    model = _print(config.model_file)
    return (
        Question(
            "logic",
            _stamp(
                model, _print(config.map_file), coq_version(), config.model_dump(mode="json", include=_ABOUT_MODEL)
            ),
            lambda folder: _consistency(case, folder),
        ),
        Question(
            "novelty",
            _stamp(model, _print(_in(config.index, "index.json")), config.assembly),
            lambda folder: _novelty(config),
        ),
        Question(
            "impact",
            _stamp(_print(_forecasts(config.forecasts)), config.publication, model),
            lambda folder: Part(_with_option(case.impact.answer(), "--impact")),
        ),
        Question(
            "reproducibility",
            _stamp(
                record, config.rerun, config.rerun_budget_in_seconds, config.time_limit_in_seconds, _absence(walls),
                config.max_memory_in_gigabytes,
            ),
            lambda folder: _reproducibility(case),
        ),
        Question("meta", _stamp(_print(_in(case.causes, "causes.json")), record), lambda folder: _meta(case)),
        Question(
            "perturbation",
            _stamp([_print(_in(place, name)) for place in _fragile(case) for name in _FITTED]),
            lambda folder: _perturbation(case),
        ),
    )  # fmt: skip


def notes_on(case: Case) -> tuple[str, ...]:
    """Return what to be careful about: whether the record is that of this model is not taken for granted."""
    if not case.chain:
        return ()
    given = {path.resolve() for path in (case.config.model_file, case.config.map_file) if path is not None}
    folders = [record.folder.resolve() for record in case.chain]
    read = {path.resolve() for record in case.chain for path in record.files()}
    if given & read or any(path.is_relative_to(folder) for path in given for folder in folders):
        return ()
    return (
        "Neither the model nor the map is among the files that the jobs of the record read or wrote: that they belong "
        "together was said by whoever gave them, and nothing here shows it.",
    )


def _consistency(case: Case, folder: Path) -> Part:
    config = case.config
    limits = ProverLimits(cpu_seconds=config.time_limit_in_seconds)
    if config.max_memory_in_gigabytes is not None:
        limits = replace(limits, memory_in_bytes=int(config.max_memory_in_gigabytes * 1e9))
    found = check_consistency(
        case.model,
        volume=case.volume,
        contour=config.contour,
        margin_in_angstroms=config.margin_in_angstroms,
        symmetry=config.symmetry,
        rise_in_angstroms=config.helical_rise_in_angstroms,
        twist_in_degrees=config.helical_twist_in_degrees,
        assembly=config.assembly,
        limits=limits,
    )
    # A certificate is whole or not there.
    unfinished, certificate = folder / "certificate.part", folder / "certificate"
    shutil.rmtree(unfinished, ignore_errors=True)
    found.write_certificate(unfinished)
    shutil.rmtree(certificate, ignore_errors=True)
    unfinished.rename(certificate)
    content = found.to_json()
    write_json(folder / "consistency.json", content)
    evidence = {key: value for key, value in content.items() if key not in {"schema", "sentences", "by_residue"}}
    evidence["rules"] = [
        rule | {"offenders": rule["offenders"][:_MOST_OFFENDERS], "offenders_in_all": len(rule["offenders"])}
        for rule in content["rules"]
    ]
    files = sorted(str(path.relative_to(folder)) for path in certificate.rglob("*") if path.is_file())
    return Part(_json(replace(found.answer(), evidence=evidence)), ("consistency.json", *files))


def _novelty(config: AssessConfig) -> Part:
    absent = None if config.index is None else _absence(require_faiss)
    if absent is not None:
        return Part(_json(not_available(*absent)))
    found = novelty_of(config.model_file, config.index, assembly=config.assembly)
    return Part(_with_option(found.answer(), "--index"), shown=novelty_pictures(found, most=3))


def _reproducibility(case: Case) -> Part:
    if case.record is None:
        return Part(_json(not_available(_NO_RECORD, _GIVE_RECORD)))
    config = case.config
    found = judge_reproducibility(case.record.folder, rerun=False)
    why = _why_not_again(config, case.record, found)
    if why is not None:
        return Part(_json(replace(found, why_not=why).answer()))
    most = config.time_limit_in_seconds
    limits = SandboxLimits(cpu_seconds=most, wall_seconds=most)
    if config.max_memory_in_gigabytes is not None:
        limits = replace(limits, memory_in_gigabytes=config.max_memory_in_gigabytes)
    return Part(_json(judge_reproducibility(case.record.folder, limits=limits).answer()))


def _why_not_again(config: AssessConfig, record: Record, found: Reproducibility) -> str | None:
    if not config.rerun:
        return "--no-rerun was given"
    if (absent := _absence(walls)) is not None:
        return ". ".join(absent).rstrip(".")
    budget = config.rerun_budget_in_seconds
    expected = record.seconds if found.predicted is None else found.predicted.wall_seconds.median
    if expected is None:
        return "what it would cost is not known, and the record does not say what it took"
    if expected > budget:
        how = "it took" if found.predicted is None else "it is expected to take"
        return f"{how} {expected:.3g} s, more than the {budget:g} s of --rerun-budget"
    return None


def _meta(case: Case) -> Part:
    if case.causes is None:
        why = _NO_RECORD if case.record is None else "No job in the chain of the record holds a causes.json."
        return Part(_json(not_available(why, HOW_TO_GET_CAUSES)))
    return Part(_json(judge_settled(case.causes).answer()))


#: What :func:`judge_fragility` reads posteriors from.
_FITTED: Final = ("causes.json", "resolution.json")


def _fragile(case: Case) -> tuple[Path, ...]:
    """Return the folders of the chain with posteriors: that of the record itself, and that of the restoration."""
    places = [case.record.folder if case.record is not None else None, case.causes]
    found = [place for place in places if place is not None and any((place / name).is_file() for name in _FITTED)]
    return tuple({place.resolve(): place for place in found}.values())


def _perturbation(case: Case) -> Part:
    places = _fragile(case)
    if not places:
        why = _NO_RECORD if case.record is None else "No job in the chain of the record has fitted parameters."
        how = "Give the job of cryoprism restore, process, refine or resolution in --record."
        return Part(_json(not_available(why, how)))
    conclusions: list[dict[str, Any]] = []
    evaluations, moved, fragile = 0, 0, []
    for place in places:
        try:
            found = judge_fragility(place, seed=case.config.seed)
        except InputError as error:
            return Part(_json(not_available(f"{error.where}: {error.found}.", error.remedy)))
        conclusions += [one.to_json() | {"folder": str(place)} for one in found.conclusions]
        fragile += [(one.where, one.name, one.flips or 0.0, one.instead) for one in found.fragile()]
        evaluations += found.evaluations
        moved += sum(len(several) for several in found.parameters.values())
    sentences = [
        f"{moved} fitted parameters were moved within their posteriors, {evaluations} times in all; "
        f"{len(fragile)} of {len(conclusions)} conclusions are others in more than a tenth of the draws."
    ]
    sentences += [
        f"{where}: {name} is another in {100 * flips:.0f} % of the draws" + (f" ({instead})." if instead else ".")
        for where, name, flips, instead in fragile[:5]
    ]
    evidence = {"conclusions": conclusions, "evaluations": evaluations, "parameters_moved": moved}
    return Part({"status": "available", "sentences": sentences, "evidence": _plain(evidence)})


def _causes_in(chain: Sequence[Record]) -> Path | None:
    """Return the nearest folder with a restoration's result; ``process`` keeps its own in a folder of its job's."""
    for record in chain:
        for place in (record.folder, record.folder / "Restore"):
            if (place / "causes.json").is_file():
                return place
    return None


def _entry_of(model: Model) -> str | None:
    """Return the PDB entry that the model's file says it is."""
    told = [model.structure.info[key] for key in ("_entry.id",) if key in model.structure.info]
    for name in (*told, model.structure.name):
        if _ENTRY.fullmatch(name.strip()):
            return str(name.strip().upper())
    return None


def _absence(require: Callable[[], object]) -> tuple[str, str] | None:
    """Return what is absent and how to get it; None where all is there."""
    try:
        require()
    except CryoPrismError as error:
        return f"{error.where}: {error.found}", error.remedy
    return None


def _json(answer: Answer) -> dict[str, Any]:
    content: dict[str, Any] = _plain(answer.to_json())
    return content


def _with_option(answer: Answer, option: str) -> dict[str, Any]:
    """Return the answer; one that is not available names the option too."""
    if answer.status == "not available" and option not in " ".join(answer.sentences):
        answer = replace(answer, sentences=(*answer.sentences, f"The option is {option}."))
    return _json(answer)


def _plain(value: Any) -> Any:
    """Return it as JSON has it: no infinities, tuples as lists, paths as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def _in(folder: Path | None, name: str) -> Path | None:
    return folder / name if folder is not None and (folder / name).is_file() else None


def _forecasts(path: Path | None) -> Path | None:
    return path / "forecasts.sqlite" if path is not None and path.is_dir() else path


def _print(path: Path | None) -> str:
    return "none" if path is None else str(fingerprint(path)["sha256_of_ends"])


def _record_stamp(record: Record) -> list[object]:
    own = [_print(_in(record.folder, name)) for name in ("job.json", DETAILS)]
    return [*own, [[str(one.path), one.state] for one in record.inputs]]


def _stamp(*parts: object) -> str:
    return json.dumps(parts, sort_keys=True, default=str)
