"""The questions of an assessment: what each depends on, and how its answer is found.

What is absent from this machine (a program, a library) and what was not given make an answer not available, with the
remedy. What the user gave and cannot be used is an error, found by ``prepare`` before anything is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cryoprism.core import InputError
from cryoprism.evaluation.consistency import Limits as ProverLimits
from cryoprism.evaluation.consistency import check_consistency, coq_version
from cryoprism.evaluation.evidence import Answer, not_available
from cryoprism.evaluation.meta import HOW_TO_GET_CAUSES, judge_settled
from cryoprism.evaluation.novelty import Novelty, novelty_of, require_faiss
from cryoprism.evaluation.perturbation import judge_fragility
from cryoprism.evaluation.reproducibility import (
    DETAILS,
    Record,
    Reproducibility,
    judge_reproducibility,
)
from cryoprism.evaluation.sandbox import Limits as SandboxLimits
from cryoprism.evaluation.sandbox import walls
from cryoprism.formats import Volume, sha256_of_file
from cryoprism.workflow.jobs.files import write_json
from cryoprism.workflow.report import consistency_pictures, novelty_pictures

from .assess_case import FITTED, Case, absence, file_in, fitted_in, forecasts_file
from .assess_config import AssessConfig
from .certificate_folder import put_certificate
from .model_in_map import misfits, ranges_of, with_frame_remark
from .prover_walls import walled_prover

__all__ = ["Part", "Question", "questions"]

#: Offenders of one rule that stand in the assessment; ``consistency.json`` has all.
_MOST_OFFENDERS: Final = 20
#: Fields of the configuration that decide what the proofs say.
_ABOUT_MODEL: Final = {
    "voxel_size_in_angstroms", "contour", "margin_in_angstroms", "symmetry", "helical_rise_in_angstroms",
    "helical_twist_in_degrees", "assembly", "time_limit_in_seconds", "max_memory_in_gigabytes",
}  # fmt: skip
#: Novelties that differ by more are those of two shapes.
_OTHER_SHAPE: Final = 0.5
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
            _stamp(
                model, _print(file_in(config.index, "index.json")), config.assembly, config.symmetry,
                _print(config.map_file), _centre(case.volume),
            ),
            lambda folder: _novelty(case),
        ),
        Question(
            "impact",
            _stamp(_print(forecasts_file(config.forecasts)), config.publication, model),
            lambda folder: Part(_with_option(case.impact.answer(), "--impact")),
        ),
        Question(
            "reproducibility",
            _stamp(
                record, config.rerun, config.rerun_budget_in_seconds, config.time_limit_in_seconds, absence(walls),
                config.max_memory_in_gigabytes,
            ),
            lambda folder: _reproducibility(case),
        ),
        Question("meta", _stamp(_print(file_in(case.causes, "causes.json")), record), lambda folder: _meta(case)),
        Question(
            "perturbation",
            _stamp(
                [_print(file_in(place, name)) for place in fitted_in(case.record, case.causes) for name in FITTED],
                config.perturbed_micrographs,
            ),
            lambda folder: _perturbation(case),
        ),
    )  # fmt: skip


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
        coq=walled_prover(),
    )
    found, frame = with_frame_remark(found, case.volume)
    certificate = put_certificate(found, folder)
    content = found.to_json()
    write_json(folder / "consistency.json", content)
    evidence = {
        key: value for key, value in content.items() if key not in {"schema", "sentences", "by_residue", "files"}
    }
    evidence["rules"] = [
        rule | {"offenders": rule["offenders"][:_MOST_OFFENDERS], "offenders_in_all": len(rule["offenders"])}
        for rule in content["rules"]
    ]
    evidence["outside_map"] = [one.to_json() for one in ranges_of(found.model, misfits(found))]
    evidence["frame"] = frame
    files = sorted(str(path.relative_to(folder)) for path in certificate.rglob("*") if path.is_file())
    shown = consistency_pictures(found, case.volume)
    return Part(_json(replace(found.answer(), evidence=evidence)), ("consistency.json", *files), shown)


def _centre(volume: Volume | None) -> tuple[float, float, float]:
    """Return where the axes of a point group meet [Å]: at the central voxel of a map, else at the origin."""
    if volume is None:
        return (0.0, 0.0, 0.0)
    size, (z, y, x) = volume.voxel_size_in_angstroms, (n // 2 for n in volume.data.shape)
    ox, oy, oz = volume.origin_in_angstroms
    return (ox + x * size, oy + y * size, oz + z * size)


def _novelty(case: Case) -> Part:
    config = case.config
    absent = None if config.index is None else absence(require_faiss)
    if absent is not None:
        return Part(_json(not_available(*absent)))
    found = novelty_of(
        config.model_file,
        config.index,
        assembly=config.assembly,
        symmetry=None if config.assembly else config.symmetry,  # an assembly has its copies already
        centre_in_angstroms=_centre(case.volume),
    )
    if config.map_file is not None and found.value is not None:
        found = _less_new(found, novelty_of(config.map_file, config.index,
                                            voxel_size_in_angstroms=config.voxel_size_in_angstroms))  # fmt: skip
    return Part(_with_option(found.answer(), "--index"), shown=novelty_pictures(found, most=3))


def _less_new(model: Novelty, seen: Novelty) -> Novelty:
    """Return the lower of the novelties of a model and of its map.

    What was seen is the map. A wrong model has a shape that nobody has seen, and must not be rewarded for it.
    """
    if seen.value is None or model.value is None:
        note = f"Its map has no shape to compare: {seen.reason}"
        return replace(model, notes=(*model.notes, note))
    lower = "map" if seen.value < model.value else "model"
    note = f"Of the model the novelty is {model.value:.2f}, of its map {seen.value:.2f}: that of the {lower} counts."
    if abs(model.value - seen.value) > _OTHER_SHAPE:
        note += " They differ in shape: the model is a part of what the map shows, or does not belong into it."
    chosen = seen if lower == "map" else model
    return replace(chosen, notes=(*chosen.notes, note))


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
    if (absent := absence(walls)) is not None:
        return ". ".join(absent).rstrip(".")
    budget = config.rerun_budget_in_seconds
    expected = record.seconds if found.predicted is None else found.predicted.cpu_seconds.median
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


def _perturbation(case: Case) -> Part:
    places = fitted_in(case.record, case.causes)
    if not places:
        why = _NO_RECORD if case.record is None else "No job in the chain of the record has fitted parameters."
        how = "Give the job of cryoprism restore, process, refine or resolution in --record."
        return Part(_json(not_available(why, how)))
    conclusions: list[dict[str, Any]] = []
    evaluations, moved, micrographs, looked_at, fragile = 0, 0, 0, 0, []
    for place in places:
        try:
            found = judge_fragility(place, seed=case.config.seed, most_micrographs=case.config.perturbed_micrographs)
        except InputError as error:
            return Part(_json(not_available(f"{error.where}: {error.found}.", error.remedy)))
        conclusions += [one.to_json() | {"folder": str(place)} for one in found.conclusions]
        fragile += [(one.where, one.name, one.flips or 0.0, one.instead) for one in found.fragile()]
        evaluations += found.evaluations
        moved += sum(len(several) for several in found.parameters.values())
        micrographs, looked_at = micrographs + found.micrographs, looked_at + found.looked_at
    sentences = [
        f"{moved} fitted parameters were moved within their posteriors, {evaluations} times in all; "
        f"{len(fragile)} of {len(conclusions)} conclusions are others in more than a tenth of the draws."
    ]
    sentences += [
        f"{where}: {name} is another in {100 * flips:.0f} % of the draws" + (f" ({instead})." if instead else ".")
        for where, name, flips, instead in fragile[:5]
    ]
    if looked_at < micrographs:
        sentences.append(
            f"Only {looked_at} of {micrographs} micrographs, evenly spread over the list, were looked at: "
            "--perturbed-micrographs says how many."
        )
    elif micrographs:
        sentences.append(f"All {micrographs} micrographs were looked at.")
    joint = sum(bool(one["joint"]) for one in conclusions)
    if moved > 1:
        sentences.append(_how_moved(joint, len(conclusions)))
    evidence = {
        "conclusions": conclusions,
        "evaluations": evaluations,
        "parameters_moved": moved,
        "micrographs": micrographs,
        "micrographs_moved": looked_at,
        "independent": joint == 0,
    }
    return Part({"status": "available", "sentences": sentences, "evidence": _plain(evidence)})


def _how_moved(joint: int, everything: int) -> str:
    apart = (
        "independently of one another, because a record holds their deviations and no covariances: where two of them "
        "hang together, as defocus and astigmatism may, the spread is not that of both together"
    )
    if joint == 0:
        return f"Parameters were moved {apart}."
    rest = "" if joint == everything else f" All others were moved {apart}."
    return (
        f"For {joint} of {everything} conclusions the bits that causes took were moved together, as the samples of "
        f"their posterior go.{rest} Indices are those of independent parameters throughout."
    )


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


def _print(path: Path | None) -> str:
    return "none" if path is None else sha256_of_file(path)


def _record_stamp(record: Record) -> list[object]:
    own = [_print(file_in(record.folder, name)) for name in ("job.json", DETAILS)]
    return [*own, [[str(one.path), one.state] for one in record.inputs]]


def _stamp(*parts: object) -> str:
    return json.dumps(parts, sort_keys=True, default=str)
