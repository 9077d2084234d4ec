"""``cryoprism resolution``: from two half maps to a resolution, a mask, a sharpened map and a report."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cryoprism.core import CryoPrismWarning, InputError, resolve_device
from cryoprism.formats import Volume, read_mtf, read_particles, read_structure
from cryoprism.structure import (
    ViewingDirections,
    fit_model_rigidly,
    map_to_model_fsc,
    mask_from_map,
    model_map,
    q_scores,
    read_mask,
    viewing_directions,
)
from cryoprism.workflow.jobs.files import fingerprint, read_map_given
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.memory import GIGABYTE, available_memory_in_bytes
from cryoprism.workflow.jobs.progress import progress
from cryoprism.workflow.jobs.summary import StepSummary
from cryoprism.workflow.particles.configs import ResolutionConfig
from cryoprism.workflow.report import map_report

from .resolution import ModelFit, ResolutionSummary, summarise_resolution

__all__ = ["ResolutionResult", "measure_resolution"]

log = logging.getLogger("cryoprism")

_STAGES = ("mask", "FSC", "sharpening", "directions", "local resolution", "model", "maps", "report")
# Volumes of float32 alive at the peak: two halves, their transforms (with and without mask), shells, phases.
_VOLUMES = 24
_PROCESS_BYTES = 450_000_000


@dataclass(frozen=True, kw_only=True)
class ResolutionResult(StepSummary):
    """What ``measure_resolution`` returns.

    Attributes
    ----------
    sentences
        The verdict, the resolution first.
    warnings
        What to be careful about.
    """

    sentences: tuple[str, ...]
    warnings: tuple[str, ...]


def measure_resolution(config: ResolutionConfig) -> ResolutionResult:
    """Run ``cryoprism resolution``: from two files to ``resolution.json``, maps and ``report.html``.

    Raises
    ------
    InputError
        A file, a setting or the output folder cannot be used, the half maps are no independent halves, or they do not
        fit into memory.
    """
    started = time.monotonic()
    for path in (config.half1, config.half2):
        if not path.is_file():
            raise InputError(
                path, "does not exist", "Give the two unfiltered half maps, for example half1.mrc half2.mrc."
            )
    if config.half1.resolve() == config.half2.resolve():
        raise InputError(config.half2, "is the first half map again", "Give the two half maps of one refinement.")
    if config.model_file is not None and not config.model_file.is_file():
        raise InputError(config.model_file, "does not exist", "Give a PDB or mmCIF file in --model.")
    with _known_voxel_size():
        half1, half2 = (read_map_given(path, config.voxel_size_in_angstroms) for path in (config.half1, config.half2))
    _require_memory(half1, config)
    mask = None if config.mask_file is None else read_mask(config.mask_file, half1)
    mtf = None if config.mtf_file is None else read_mtf(config.mtf_file)
    viewing, count = _viewing(config)
    device = resolve_device(config.device)
    with open_job("Resolution", config) as job:
        sources = [
            path
            for path in (config.half1, config.half2, config.mask_file, config.mtf_file, config.model_file)
            if path is not None
        ]
        job.record_inputs(sources)
        others = ";".join(str(fingerprint(path)["sha256_of_ends"]) for path in sources[1:])
        if config.only_do_unfinished and job.is_done(
            "resolution", stage="resolution", source=config.half1, depends_on=others
        ):
            kept = job.done_result("resolution", stage="resolution")
            return ResolutionResult(
                output=job.path, sentences=tuple(kept["sentences"]), warnings=tuple(kept["warnings"]), skipped=True
            )
        with progress("Measuring resolution", len(_STAGES)) as step:
            summary = summarise_resolution(
                _to(half1, device.type, config),
                _to(half2, device.type, config),
                None if mask is None else mask.to(device),
                symmetry=config.symmetry,
                particles_count=count,
                viewing=viewing,
                mtf=mtf,
                mtf_pixel_size_in_angstroms=config.mtf_pixel_size_in_angstroms,
                b_factor_in_square_angstroms=config.b_factor_in_square_angstroms,
                mask_threshold=config.mask_threshold,
                mask_extend_in_angstroms=config.mask_extend_in_angstroms,
                mask_soft_edge_in_angstroms=config.mask_soft_edge_in_angstroms,
                local=config.local,
                seed=config.seed,
                names=(str(config.half1), str(config.half2)),
                on_stage=step,
            )
            if summary.shares_noise:
                raise InputError(
                    config.half2,
                    f"shares noise with {config.half1.name}: both agree in the solvent and near the Nyquist limit too",
                    "Give unfiltered half maps of disjoint particles, not the map of both, a copy or denoised maps.",
                )
            if config.model_file is not None:
                summary = replace(summary, model=_model(summary, config, config.model_file))
            step("model")
            summary = replace(summary, seconds=time.monotonic() - started)
            return _finish(summary, job, config, others, started, step)


def _finish(
    summary: ResolutionSummary,
    job: Job,
    config: ResolutionConfig,
    others: str,
    started: float,
    step: Callable[[str], None],
) -> ResolutionResult:
    outputs = summary.write(job.path)
    step("maps")
    outputs.append(map_report(job.path, summary, title=f"Resolution of {config.half1.name} and {config.half2.name}"))
    step("report")
    for warning in summary.warnings:
        warnings.warn(warning, CryoPrismWarning, stacklevel=2)
    sentences = summary.sentences()
    job.mark_done(
        "resolution",
        stage="resolution",
        source=config.half1,
        outputs=outputs,
        depends_on=others,
        result={"sentences": list(sentences), "warnings": list(summary.warnings)},
    )
    return ResolutionResult(
        output=job.path, sentences=sentences, warnings=summary.warnings, seconds=time.monotonic() - started
    )


@contextmanager
def _known_voxel_size() -> Iterator[None]:
    # Each half would warn about the same header.
    with warnings.catch_warnings():
        warnings.simplefilter("once", CryoPrismWarning)
        yield


def _to(volume: Volume, device: str, config: ResolutionConfig) -> Volume:
    return volume if device == "cpu" else replace(volume, data=volume.data.to(config.device))


def _require_memory(volume: Volume, config: ResolutionConfig) -> None:
    need = _PROCESS_BYTES + 4 * _VOLUMES * math.prod(volume.data.shape)
    limit = config.max_memory_in_gigabytes
    available = available_memory_in_bytes() if limit is None else int(limit * 1e9)
    log.info("Memory: about %.1f GB, %.1f GB available", need / GIGABYTE, available / GIGABYTE)
    if need > available:
        raise InputError(
            config.half1,
            f"a box of {volume.data.shape[-1]} voxels needs about {need / GIGABYTE:.1f} GB but "
            f"{available / GIGABYTE:.1f} GB may be used",
            "Free memory, raise --max-memory, or crop the maps.",
        )


def _viewing(config: ResolutionConfig) -> tuple[ViewingDirections | None, int | None]:
    if config.particles_file is None:
        return None, None
    particles = read_particles(config.particles_file)
    if particles.angles_in_degrees is None:
        raise InputError(
            config.particles_file, "has no angles (rlnAngleRot, rlnAngleTilt)", "Give the STAR file of a refinement."
        )
    angles = particles.angles_in_degrees
    return viewing_directions(angles[:, 0], angles[:, 1], symmetry=config.symmetry), len(particles)


def _model(summary: ResolutionSummary, config: ResolutionConfig, path: Path) -> ModelFit:
    atoms = read_structure(path, config.assembly, include_waters=False, include_hydrogens=False)
    atoms = atoms.select(atoms.models == atoms.models.min())
    sharpened = Volume(
        summary.sharpening.data.cpu(), summary.mean.voxel_size_in_angstroms, summary.mean.origin_in_angstroms
    )
    if config.fit_model:
        limit = summary.resolution_in_angstroms or 20.0
        fit = fit_model_rigidly(
            sharpened, atoms, resolution_in_angstroms=max(15.0, 1.5 * limit), finest_in_angstroms=limit
        )
        atoms = fit.apply(atoms)
    # Around the model, not the map: a model of one part is not blamed for the rest.
    around = mask_from_map(model_map(atoms, sharpened).data, sharpened.voxel_size_in_angstroms).data
    fsc = map_to_model_fsc(sharpened, atoms, mask=around)
    scores = q_scores(sharpened, atoms)
    return ModelFit(path.name, fsc, float(scores.nanmean()), len(atoms), config.fit_model)
