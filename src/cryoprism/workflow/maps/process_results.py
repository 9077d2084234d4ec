"""What a whole run leaves at the top of its folder: the map, one report, and the record that all is done."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryoprism.formats import Catalogue, read_map, read_particles
from cryoprism.structure import viewing_directions
from cryoprism.workflow.jobs.files import atomic_path, fingerprint, write_json
from cryoprism.workflow.jobs.job import Job
from cryoprism.workflow.jobs.resume import read_record
from cryoprism.workflow.jobs.summary import StepSummary
from cryoprism.workflow.report import map_report
from cryoprism.workflow.report._passes import passes_section
from cryoprism.workflow.report._stages import StageRow, left_out_section, stages_section

from .configs import ProcessConfig
from .refine_session import RefineSummary
from .resolution import ResolutionSummary, summarise_resolution

__all__ = ["ProcessSummary", "collect_results", "finished_before", "stamp_of_inputs"]

_RESULTS = (
    "map.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "map_sharpened.mrc", "local_resolution.mrc", "particles.star",
    "resolution.json",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ProcessSummary(StepSummary):
    """What ``process_session`` returns.

    Attributes
    ----------
    stages
        Name, outcome, folder and seconds of every stage.
    refinement
        What the last stage found.
    left_out
        Micrographs that did not go on, each with the reason.
    """

    stages: tuple[StageRow, ...]
    refinement: RefineSummary
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdict in words, the resolution first."""
        return self.refinement.sentences


def stamp_of_inputs(config: ProcessConfig, catalogue: Catalogue) -> str:
    """Hash of the contents of all that a run reads: micrographs, their table and what lies beside it, the reference."""
    named = [Path(source) for source in config.inputs]
    beside = [source.parent / "causes.json" for source in named]
    files = [record.path for record in catalogue] + [path for path in (*named, *beside) if path.is_file()]
    if config.reference is not None:
        files.append(config.reference)
    digest = hashlib.sha256()
    for path in files:
        known = fingerprint(path)
        digest.update(f"{known['bytes']} {known['sha256_of_ends']}\n".encode())
    return digest.hexdigest()[:16]


def finished_before(job: Job, stamp: str) -> ProcessSummary | None:
    """Summary of an earlier run that is complete and of the same inputs, options and stages; None where it is not.

    Parameters
    ----------
    job
        The folder.
    stamp
        From :func:`stamp_of_inputs`.
    """
    source = job.path / "Refine" / "resolution.json"
    if not source.is_file() or not job.is_done("map", stage="process", source=source, depends_on=stamp):
        return None
    kept = job.done_result("map", stage="process")
    stages = tuple(StageRow(*row) for row in kept["stages"])
    if kept["config_hashes"] != _config_hashes(job.path, stages):
        return None
    found = kept["refinement"] | {"sentences": tuple(kept["refinement"]["sentences"])}
    refinement = RefineSummary(output=source.parent, skipped=True, **found)
    return ProcessSummary(
        output=job.path, stages=stages, refinement=refinement, left_out=kept["left_out"], skipped=True
    )


def collect_results(
    config: ProcessConfig,
    job: Job,
    rows: Sequence[StageRow],
    left_out: Mapping[str, str],
    refinement: RefineSummary,
    seconds: float,
    stamp: str,
) -> None:
    """Put the results at the top with one report that says how they came about, and record that all is done.

    Parameters
    ----------
    config, job
        Of the run.
    rows
        Its stages.
    left_out
        Micrographs that did not go on, each with the reason.
    refinement
        Its last stage.
    seconds
        Wall time so far.
    stamp
        From :func:`stamp_of_inputs`.
    """
    written = []
    for name in _RESULTS:
        source, target = refinement.output / name, job.path / name
        if source.is_file():
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
            written.append(target)
        else:
            target.unlink(missing_ok=True)
    document = json.loads((job.path / "resolution.json").read_text(encoding="utf-8"))
    resolution = refinement.resolution or _measured_again(config, job.path, document)
    write_json(job.path / "resolution.json", document | {"seconds": seconds})
    history = [
        {key: math.nan if value is None else value for key, value in row.items()}
        for row in document["refinement"]["passes"]
    ]
    page = map_report(
        job.path,
        replace(resolution, particles_count=refinement.particles),
        title=f"From {Path(config.inputs[0]).name} to a map",
        extra=stages_section(rows) + left_out_section(left_out) + passes_section(history),
    )
    job.write_relion_output_nodes({"particles.star": 3, "map.mrc": 6, "half1.mrc": 10, "half2.mrc": 10, "mask.mrc": 7})
    names = ("particles", "duplicates", "passes", "settled", "resolution_in_angstroms", "sentences")
    job.mark_done(
        "map",
        stage="process",
        source=refinement.output / "resolution.json",
        outputs=[*written, page],
        depends_on=stamp,
        result={
            "stages": [[row.folder, row.sentence, row.seconds] for row in rows],
            "config_hashes": _config_hashes(job.path, rows),
            "left_out": dict(left_out),
            "refinement": {name: getattr(refinement, name) for name in names},
        },
    )


def _config_hashes(folder: Path, rows: Sequence[StageRow]) -> dict[str, str | None]:
    """Options that the stages' folders were last written with: a stage may have been run by itself since."""
    return {row.folder: read_record(folder / row.folder).get("config_hash") for row in rows}


def _measured_again(config: ProcessConfig, folder: Path, document: Mapping[str, Any]) -> ResolutionSummary:
    """All that ``refine`` knew of its half maps, where a run was stopped before the report: the same page comes out.

    Parameters
    ----------
    config
        Of the run.
    folder
        Where half maps, mask and particles lie.
    document
        ``resolution.json`` of the refinement.
    """
    angles = read_particles(folder / "particles.star").angles_in_degrees
    assert angles is not None
    summary = summarise_resolution(
        read_map(folder / "half1.mrc"),
        read_map(folder / "half2.mrc"),
        read_map(folder / "mask.mrc").data,
        symmetry=config.symmetry,
        particles_count=document["particles"],
        smaller_half=min(document["refinement"]["particles_in_halves"]),
        viewing=viewing_directions(angles[:, 0], angles[:, 1], symmetry=config.symmetry),
        seed=config.seed,
        start_in_angstroms=config.initial_lowpass_in_angstroms,
    )
    return replace(summary, mask_given=document["mask"]["given"])
