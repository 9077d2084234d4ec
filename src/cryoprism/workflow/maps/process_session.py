"""``cryoprism process``: from micrographs to a map, one stage after the other, each of them a job of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from cryoprism.core import InputError
from cryoprism.formats import Catalogue, read_star, write_star
from cryoprism.workflow.jobs.config import JobConfig, RestoreConfig
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.resume import changed_options, read_record
from cryoprism.workflow.micrographs.reading import read_micrographs
from cryoprism.workflow.micrographs.restore_session import restore_session
from cryoprism.workflow.particles.classify_session import classify_session
from cryoprism.workflow.particles.configs import ClassifyConfig, ExtractConfig, PickConfig
from cryoprism.workflow.particles.data import read_reference
from cryoprism.workflow.particles.extract_session import extract_session
from cryoprism.workflow.particles.pick_session import pick_session
from cryoprism.workflow.particles.reference import require_bright
from cryoprism.workflow.particles.room import require_room
from cryoprism.workflow.particles.selection import choose_micrographs, note_left_out, read_causes
from cryoprism.workflow.report._stages import StageRow

from .boxes import box_for, scaled_box_for, with_room
from .configs import InitialModelConfig, ProcessConfig, RefineConfig
from .initial_model_session import initial_model_session
from .process_results import ProcessSummary, collect_results, finished_before, stamp_of_inputs
from .refine_session import RefineSummary, refine_session

__all__ = ["ProcessSummary", "process_session"]

log = logging.getLogger("cryoprism")

Settings = TypeVar("Settings", bound=JobConfig)

_RESTORED = "cryoprismFlags"
# Which devices a stage works on; the others have a CPU's work to do.
_DEVICES = {
    RestoreConfig: ("cuda", "mps"),
    ClassifyConfig: ("cuda", "mps"),
    InitialModelConfig: ("cuda",),
    RefineConfig: ("cuda",),
}
_COARSEST_RINGS = 25.0


class _Run:
    """The stages that are done, and how the next one is called."""

    def __init__(self, config: ProcessConfig, job: Job, total: int, pixel: float) -> None:
        self.config, self.job, self.total, self.pixel = config, job, total, pixel
        self.rows: list[StageRow] = []

    def settings(self, folder: str, kind: type[Settings], **fields: Any) -> Settings:
        """Configure a stage: it goes on where it stopped, unless it is to start over or had other options."""
        config, output = self.config, self.job.path / folder
        settings = kind(
            output=output,
            workers=config.workers,
            device=config.device if config.device.partition(":")[0] in _DEVICES.get(kind, ()) else "cpu",
            seed=config.seed,
            max_memory_in_gigabytes=config.max_memory_in_gigabytes,
            **fields,
        )
        changes = changed_options(settings, read_record(output).get("config", {}))
        if changes and not config.overwrite:
            log.info("%s is done again: %s", folder, "; ".join(changes))
        again = config.overwrite or bool(changes)
        return settings.model_copy(update={"only_do_unfinished": not again, "overwrite": again})

    def stage(self, folder: str, work: Callable[[], Any], words: Callable[[Any], str]) -> Any:
        """Do one stage and keep what came of it."""
        started = time.monotonic()
        log.info("Stage %d of %d: %s", len(self.rows) + 1, self.total, folder)
        result = work()
        sentence = words(result)
        log.info("%s: %s", folder, sentence)
        self.rows.append(StageRow(folder, sentence, time.monotonic() - started))
        return result


def process_session(config: ProcessConfig) -> ProcessSummary:
    """Run ``cryoprism process``: restore, pick, extract, (classify,) initial model, refine.

    Every stage is a job in a folder of the output that its own command could have written, and resumes by itself. An
    input that ``cryoprism restore`` wrote is not restored again. A run that is complete is left as it is.

    Raises
    ------
    InputError
        As the stages; picks too few to go on.
    """
    started = time.monotonic()
    catalogue = read_micrographs(config)
    pixel = catalogue.optics_of(catalogue.micrographs[0]).pixel_size_in_angstroms
    _check_before_work(config, catalogue, pixel)
    done_before = all(_RESTORED in record.extra for record in catalogue) and len(config.inputs) == 1
    with open_job("Process", config, in_stages=True) as job:
        stamp = stamp_of_inputs(config, catalogue)
        if config.only_do_unfinished and (before := finished_before(job, stamp)) is not None:
            log.info("All is done: nothing in %s is changed", job.path)
            return replace(before, seconds=time.monotonic() - started)
        job.record_inputs(record.path for record in catalogue)
        total = 3 + (not done_before) + bool(config.classes) + (config.reference is None)
        run = _Run(config, job, total, pixel)
        restored = Path(config.inputs[0]) if done_before else _restore(run)
        left_out = choose_micrographs(config, restored, coarsest_in_angstroms=_COARSEST_RINGS)
        micrographs = _selected(job, restored, left_out)
        masks = restored.parent / "masks"
        picks = _pick(run, micrographs, masks if masks.is_dir() else None)
        particles = _extract(run, micrographs, picks, _finest(restored), masks if masks.is_dir() else None)
        if config.classes:
            particles = _classify(run, particles)
        reference = config.reference or _initial_model(run, particles)
        refinement = _refine(run, particles, reference, restored)
        collect_results(config, job, run.rows, left_out, refinement, time.monotonic() - started, stamp)
        return ProcessSummary(
            output=job.path,
            stages=tuple(run.rows),
            refinement=refinement,
            left_out=left_out,
            seconds=time.monotonic() - started,
        )


def _check_before_work(config: ProcessConfig, catalogue: Catalogue, pixel: float) -> None:
    """Refuse now what a stage would refuse after hours."""
    require_room(catalogue, config.diameter_in_angstroms)
    box = config.box_in_pixels
    if box is not None and box * pixel <= config.diameter_in_angstroms:
        raise InputError(
            "--box",
            f"{box} pixels are {box * pixel:.4g} Å, but the particle measures {config.diameter_in_angstroms:g} Å",
            f"Give about {box_for(config.diameter_in_angstroms, pixel)} pixels (1.4 diameters), or leave --box out.",
        )
    if config.reference is not None:
        volume = read_reference(config.reference)
        require_bright(volume.data, volume.voxel_size_in_angstroms, config.diameter_in_angstroms, config.reference)


def _restore(run: _Run) -> Path:
    config = run.config
    settings = run.settings(
        "Restore",
        RestoreConfig,
        inputs=config.inputs,
        **config.lens_values(),
        views=False,
    )
    summary = run.stage(
        "Restore",
        lambda: restore_session(settings),
        lambda s: f"{s.restored} of {s.micrographs} micrographs" + (f"; {s.sentences[0]}" if s.sentences else "."),
    )
    return Path(summary.star)


def _selected(job: Job, restored: Path, left_out: Mapping[str, str]) -> Path:
    """Table of the micrographs that go on."""
    note_left_out(job, left_out)
    if not left_out:
        return restored
    stems = {Path(name).stem for name in left_out}
    blocks = []
    for block in read_star(restored):
        if "rlnMicrographName" in block:
            names = block.column("rlnMicrographName")
            block = replace(
                block,
                rows=tuple(row for row, name in zip(block.rows, names, strict=True) if Path(name).stem not in stems),
            )
        blocks.append(block)
    out = job.path / "selected.star"
    write_star(out, blocks)
    return out


def _finest(restored: Path) -> float | None:
    """Resolution to which the better micrographs show rings [Å]: no particle carries more."""
    causes = read_causes(restored)
    limits = sorted(
        float(entry["fit_limit_in_angstroms"])
        for entry in (causes or {}).get("micrographs", [])
        if entry.get("fit_limit_in_angstroms") is not None
    )
    return limits[len(limits) // 10] if limits else None


def _pick(run: _Run, micrographs: Path, masks: Path | None) -> Path:
    config = run.config
    method = config.pick_method or ("blob" if config.reference is None else "template")
    settings = run.settings(
        "Pick",
        PickConfig,
        inputs=(str(micrographs),),
        masks_folder=masks,
        method=method,
        diameter_in_angstroms=config.diameter_in_angstroms,
        reference=config.reference if method == "template" else None,
        symmetry=config.symmetry,
    )
    summary = run.stage(
        "Pick",
        lambda: pick_session(settings),
        lambda s: f"{s.particles} particles on {s.micrographs} micrographs. {s.how}",
    )
    if summary.particles < 2:
        raise InputError(
            "Pick",
            f"{summary.particles} particles on {summary.micrographs} micrographs",
            f"Look at {micrographs.parent / 'report.html'} first: do the micrographs show Thon rings? Then check "
            "--diameter and the pixel size, or try another --pick-method.",
        )
    return Path(summary.output)


def _extract(run: _Run, micrographs: Path, picks: Path, finest: float | None, masks: Path | None) -> Path:
    config, pixel = run.config, run.pixel
    box = config.box_in_pixels or box_for(config.diameter_in_angstroms, pixel)
    side = config.scaled_box_in_pixels or scaled_box_for(box, pixel, finest)
    settings = run.settings(
        "Extract",
        ExtractConfig,
        inputs=(str(micrographs),),
        masks_folder=masks,
        coordinates=picks,
        box_in_pixels=box,
        scaled_box_in_pixels=side,
        diameter_in_angstroms=with_room(config, pixel),
    )
    summary = run.stage(
        "Extract",
        lambda: extract_session(settings),
        lambda s: (
            f"{s.particles} particles in boxes of {box} pixels"
            + ("" if side is None else f", scaled down to {side}")
            + f" ({s.pixel_size_in_angstroms:.3g} Å per pixel), "
            f"without {s.at_edge} at edges and {s.duplicates} duplicates."
        ),
    )
    return Path(summary.star)


def _classify(run: _Run, particles: Path) -> Path:
    config = run.config
    settings = run.settings(
        "Classify",
        ClassifyConfig,
        particles_file=particles,
        classes=config.classes,
        diameter_in_angstroms=with_room(config, run.pixel),
    )
    summary = run.stage("Classify", lambda: classify_session(settings), lambda s: s.sentence())
    if not summary.selected_particles:
        log.info("No class stands out: all particles are kept")
        return particles
    return Path(summary.output) / "selected.star"


def _initial_model(run: _Run, particles: Path) -> Path:
    config = run.config
    settings = run.settings(
        "InitialModel",
        InitialModelConfig,
        particles_file=particles,
        symmetry=config.symmetry,
        diameter_in_angstroms=with_room(config, run.pixel),
        starts=config.starts,
    )
    summary = run.stage("InitialModel", lambda: initial_model_session(settings), lambda s: s.sentence)
    return Path(summary.map)


def _refine(run: _Run, particles: Path, reference: Path, restored: Path) -> RefineSummary:
    config = run.config
    weights = restored.parent / "weights"
    settings = run.settings(
        "Refine",
        RefineConfig,
        particles_file=particles,
        reference=str(reference),
        symmetry=config.symmetry,
        diameter_in_angstroms=with_room(config, run.pixel),
        initial_lowpass_in_angstroms=config.initial_lowpass_in_angstroms,
        weights_folder=weights if config.use_weights else None,
        iterations=config.iterations,
    )
    summary: RefineSummary = run.stage("Refine", lambda: refine_session(settings), lambda s: s.sentences[0])
    return summary
