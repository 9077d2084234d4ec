"""``cryoprism prove``: from a model to verdicts that Coq has checked, a certificate and a report."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from cryoprism.evaluation.consistency import Limits, check_consistency
from cryoprism.evaluation.evidence import Verdict
from cryoprism.formats import Volume, sha256_of_file
from cryoprism.workflow.jobs.files import all_or_none, read_map_of_molecule, require_file, write_json
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.summary import StepSummary
from cryoprism.workflow.report import consistency_report

from .certificate_folder import put_certificate
from .model_in_map import with_frame_remark
from .prove_config import ProveConfig
from .prover_walls import walled_prover

__all__ = ["ProveResult", "prove_model"]

log = logging.getLogger("cryoprism")

_GIGABYTES = 4.0


@dataclass(frozen=True, kw_only=True)
class ProveResult(StepSummary):
    """What ``prove_model`` returns: the verdict, the same in words, and LogicScore with its standard deviation."""

    verdict: Verdict
    sentences: tuple[str, ...]
    score: float | None = None
    deviation: float | None = None


def prove_model(config: ProveConfig) -> ProveResult:
    """Run ``cryoprism prove``: write ``consistency.json``, ``certificate/`` and ``report.html``.

    Raises
    ------
    InputError
        The model, the map, a setting or the output folder cannot be used.
    """
    started = time.monotonic()
    files = [path for path in (config.model_file, config.map_file) if path is not None]
    for path in files:
        require_file(path, "Give a model (PDB, mmCIF) and, in --map, a map in MRC format.")
    volume = None
    if config.map_file is not None:
        volume = read_map_of_molecule(config.map_file, config.voxel_size_in_angstroms)
    with open_job("Prove", config) as job, all_or_none(job.path, "consistency.json", "certificate", "report.html"):
        job.record_inputs(files)
        others = ";".join(map(sha256_of_file, files))
        if config.only_do_unfinished and job.is_done(
            "consistency", stage="prove", source=config.model_file, depends_on=others
        ):
            kept = job.done_result("consistency", stage="prove")
            return ProveResult(
                output=job.path,
                verdict=kept["verdict"],
                sentences=tuple(kept["sentences"]),
                score=kept.get("score"),
                deviation=kept.get("deviation"),
                skipped=True,
            )
        return _prove(job, config, volume, others, started)


def _prove(job: Job, config: ProveConfig, volume: Volume | None, others: str, started: float) -> ProveResult:
    log.info("Checking %s", config.model_file.name)
    result = check_consistency(
        config.model_file,
        volume=volume,
        contour=config.contour,
        margin_in_angstroms=config.margin_in_angstroms,
        symmetry=config.symmetry,
        rise_in_angstroms=config.helical_rise_in_angstroms,
        twist_in_degrees=config.helical_twist_in_degrees,
        assembly=config.assembly,
        limits=Limits(
            config.time_limit_in_seconds, int((config.max_memory_in_gigabytes or _GIGABYTES) * 1_000_000_000)
        ),
        coq=walled_prover(),
    )
    result, frame = with_frame_remark(result, volume)
    for rule in result.rules:
        log.info("%s: %d proved, %d refuted, %d unknown", rule.title, rule.proved, rule.refuted, rule.unknown)
    written = [job.path / "consistency.json"]
    write_json(written[0], result.to_json())
    written.append(put_certificate(result, job.path) / "check.sh")
    written.append(consistency_report(job.path, result, volume, frame or ""))
    sentences = result.sentences()
    job.mark_done(
        "consistency",
        stage="prove",
        source=config.model_file,
        outputs=written,
        depends_on=others,
        result={
            "verdict": result.verdict,
            "sentences": list(sentences),
            "score": result.score,
            "deviation": result.deviation,
        },
    )
    return ProveResult(
        output=job.path,
        verdict=result.verdict,
        sentences=sentences,
        score=result.score,
        deviation=result.deviation,
        seconds=time.monotonic() - started,
    )
