"""``cryoprism refine``: poses, half maps and an honest resolution from particles and a starting map."""

from __future__ import annotations

import logging
import math
import time
import warnings
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.formats import Particles, Volume, write_map, write_particles
from cryoprism.structure import Filament, StoredPoseNetwork, pose_network_start, read_mask, viewing_directions
from cryoprism.structure.likelihood import packed_count
from cryoprism.structure.refinement import refine
from cryoprism.structure.refinement_state import RefinementState, start_state, support_of
from cryoprism.structure.schedule import RefinementSettings
from cryoprism.workflow.jobs.files import fingerprint, write_json
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.progress import progress
from cryoprism.workflow.jobs.summary import StepSummary
from cryoprism.workflow.particles.data import (
    ParticleData,
    checked_particles,
    load_particles,
    require_reachable,
)
from cryoprism.workflow.particles.reference import reference_in_box, require_same_contrast
from cryoprism.workflow.report import map_report
from cryoprism.workflow.report._passes import passes_section, poses_section

from .configs import RefineConfig
from .filaments import axes_of_filaments, filament_of, halves_by_filament, nearest_segments
from .pose_file import fitting_network, proposals_of
from .refinement import (
    FinalMaps,
    final_maps,
    map_of_poses,
    pose_columns,
    posed_particles,
    read_state,
    search_device,
    write_state,
)
from .resolution import ResolutionSummary, summarise_resolution

__all__ = ["RefineSummary", "refine_session"]

log = logging.getLogger("cryoprism")

_OUTPUTS = ("map.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "particles.star", "resolution.json", "report.html")
_STATE = "passes.npz"


@dataclass(frozen=True, kw_only=True)
class RefineSummary(StepSummary):
    """What ``refine_session`` returns.

    Attributes
    ----------
    particles
        In the map.
    duplicates
        Left out because they lie on others.
    passes
        Done in all, earlier runs included.
    settled
        Whether resolution and poses had stopped changing.
    resolution_in_angstroms
        By the corrected FSC at 0.143; None where the halves do not agree.
    sentences
        The verdict in words, the resolution first.
    resolution
        All that the half maps say; None where everything was there already.
    """

    particles: int
    duplicates: int
    passes: int
    settled: bool
    resolution_in_angstroms: float | None
    sentences: tuple[str, ...]
    resolution: ResolutionSummary | None = None


def refine_session(config: RefineConfig) -> RefineSummary:
    """Run ``cryoprism refine``.

    The state after each pass is kept in ``passes.npz``; a run that was killed goes on from there.

    Raises
    ------
    InputError
        The table, the reference, the mask or the weights cannot be used, the particles are dark where the reference is
        bright, one particle stands in both half sets, or memory does not suffice.
    """
    started = time.monotonic()
    device = search_device(config.device)
    particles, box, pixel = checked_particles(
        config.particles_file,
        diameter_in_angstroms=config.diameter_in_angstroms,
        pixel_size_in_angstroms=config.pixel_size_in_angstroms,
    )
    named = None if config.reference.lower() == "none" else Path(config.reference)
    if named is None and particles.angles_in_degrees is None:
        raise InputError(
            "--reference", "nothing was given, and the table has no poses", "Make one with 'cryoprism initial-model'."
        )
    filament = filament_of(config, box, pixel)
    if filament is not None:
        particles = halves_by_filament(particles, config.seed)
    given = (config.particles_file, named, config.mask_file, config.pose_network_file)
    sources = [path for path in given if path is not None]
    for path in sources:
        if not path.is_file():
            raise InputError(path, "does not exist", "Check the path.")
    stored = fitting_network(config, box, pixel)
    with open_job("Refine", config) as job:
        stamp = ";".join([config.result_hash(), *(_stamp(path) for path in sources)])
        if config.only_do_unfinished and job.is_done(
            "map", stage="refine", source=config.particles_file, depends_on=stamp
        ):
            return replace(_as_before(job), seconds=time.monotonic() - started)
        job.record_inputs(sources)
        data = _loaded(config, particles, box, pixel)
        settings = _settings(config, data, filament)
        mask = _mask(config, data)
        state = read_state(job.path / _STATE, stamp, RefinementState) if config.only_do_unfinished else None
        if state is not None and len(state.rotations) != len(data.particles):
            log.info("The table holds other particles than before: the refinement starts over")
            state = None
        if state is None:
            state = _start(config, data, settings, named, _search_radius(config, data), device)
        else:
            state = state.on(device)
            log.info("Going on after pass %d", state.iteration)
        state = _refined(config, job, data, state, settings, mask, stamp, stored)
        with progress("Final maps", 2 * math.ceil(len(data.particles) / 2048)) as step:
            final = final_maps(data, state, settings, step)
        if mask is None and filament is not None:
            mask = support_of(data.box, settings)
        return _finish(config, job, data, state, final, mask, stamp, started)


def _stamp(path: Path) -> str:
    """Content and size of a file, in short."""
    known = fingerprint(path)
    return f"{known['sha256_of_ends']}-{known['bytes']}"


def _as_before(job: Job) -> RefineSummary:
    kept = job.done_result("map", stage="refine")
    return RefineSummary(output=job.path, skipped=True, **(kept | {"sentences": tuple(kept["sentences"])}))


def _loaded(config: RefineConfig, particles: Particles, box: int, pixel: float) -> ParticleData:
    with progress("Reading particles", math.ceil(len(particles) / 256)) as step:
        data = load_particles(
            particles,
            box,
            pixel,
            diameter_in_angstroms=config.diameter_in_angstroms,
            scaled_box=config.scaled_box_in_pixels,
            weights_folder=config.weights_folder,
            min_distance_in_angstroms=nearest_segments(config),
            seed=config.seed,
            max_memory_in_gigabytes=config.max_memory_in_gigabytes,
            on_batch=step,
        )
    log.info("%d particles, %d and %d in the halves", len(data.particles), *data.counts)
    return data


def _settings(config: RefineConfig, data: ParticleData, filament: Filament | None) -> RefinementSettings:
    lowpass = config.initial_lowpass_in_angstroms
    if lowpass < 2 * data.pixel_size_in_angstroms:
        raise InputError(
            "--initial-lowpass",
            f"{lowpass:g} Å is beyond the images' limit of {2 * data.pixel_size_in_angstroms:.3g} Å",
            "Give a coarser one; 30 to 60 Å let the data decide.",
        )
    return RefinementSettings(
        symmetry=config.symmetry,
        diameter_in_angstroms=config.diameter_in_angstroms,
        pixel_size_in_angstroms=data.pixel_size_in_angstroms,
        initial_resolution_in_angstroms=lowpass,
        shift_range_in_angstroms=config.shift_range_in_angstroms,
        iterations=config.iterations,
        seed=config.seed,
        filament=filament,
    )


def _search_radius(config: RefineConfig, data: ParticleData) -> int:
    limit = config.maximum_resolution_in_angstroms
    if limit is None:
        return data.radius
    require_reachable(limit, data.pixel_size_in_angstroms)
    radius = round(data.box * data.pixel_size_in_angstroms / limit)
    if radius < 4:
        raise InputError("--maximum-resolution", f"{limit:g} Å leaves {radius} shells of the box", "Lower it.")
    return min(radius, data.radius)


def _mask(config: RefineConfig, data: ParticleData) -> Tensor | None:
    if config.mask_file is None:
        return None
    return read_mask(config.mask_file, Volume(torch.zeros(data.box, data.box, data.box), data.pixel_size_in_angstroms))


def _start(
    config: RefineConfig,
    data: ParticleData,
    settings: RefinementSettings,
    named: Path | None,
    radius: int,
    device: torch.device,
) -> RefinementState:
    lowpass = config.initial_lowpass_in_angstroms
    if named is None:
        log.info("Starting from the poses of the table")
        reference = map_of_poses(data, config.symmetry, lowpass)
    else:
        reference = reference_in_box(named, data.box, data.pixel_size_in_angstroms, lowpass)
        require_same_contrast(data, reference, config.diameter_in_angstroms, config.particles_file, named)
    count = packed_count(radius)
    return start_state(
        data.images[:, :count], data.transfer[:, :count], data.group, reference.to(device), settings, radius
    )


def _refined(
    config: RefineConfig,
    job: Job,
    data: ParticleData,
    state: RefinementState,
    settings: RefinementSettings,
    mask: Tensor | None,
    stamp: str,
    stored: StoredPoseNetwork | None,
) -> RefinementState:
    """Run the passes that are left; after each, its state is on disk."""
    if state.settled or state.iteration >= settings.iterations:
        return state
    count = int(state.noise_variance.shape[1])
    candidates = _candidates(config, job, data, state, settings, stored)
    with progress("Refining", settings.iterations - state.iteration) as step:

        def on_pass(now: RefinementState) -> None:
            write_state(job.path / _STATE, now, stamp)
            row = now.history[-1]
            turned = (
                "" if math.isnan(row["change_in_degrees"]) else f", poses turned by {row['change_in_degrees']:.2g}°"
            )
            words = f"{row['resolution_in_angstroms']:.2f} Å{turned}"
            log.debug("Pass %d: %s, %s", now.iteration, words, row)
            step(words)

        return refine(
            data.images[:, :count],
            data.transfer[:, :count],
            data.group,
            data.half_set,
            state,
            settings,
            mask=mask,
            axes=None if settings.filament is None else axes_of_filaments(data.particles),
            candidates=candidates,
            on_pass=on_pass,
        )


def _candidates(
    config: RefineConfig,
    job: Job,
    data: ParticleData,
    state: RefinementState,
    settings: RefinementSettings,
    stored: StoredPoseNetwork | None,
) -> Tensor | None:
    """Orientations that the pose network proposes for the first pass; None where it was not asked for, or is behind."""
    if not (config.pose_network or stored) or state.iteration:
        return None
    count = int(state.noise_variance.shape[1])
    start = pose_network_start(
        data.images[:, :count],
        data.transfer[:, :count],
        data.group,
        state,
        settings,
        steps=config.pose_network_steps,
        on_trained=lambda seconds: log.info("Pose network trained in %.0f CPU s", seconds),
        propose=None if stored is None else partial(proposals_of, stored, data),
    )
    log.info("%s", start.sentence())
    facts = {field.name: getattr(start, field.name) for field in fields(start) if field.name != "candidates"}
    job.note("pose_network", facts | {"saved_seconds": start.saved_seconds})
    return start.candidates


def _finish(
    config: RefineConfig,
    job: Job,
    data: ParticleData,
    state: RefinementState,
    final: FinalMaps,
    mask: Tensor | None,
    stamp: str,
    started: float,
) -> RefineSummary:
    pixel = data.pixel_size_in_angstroms
    halves = Volume(final.half1, pixel), Volume(final.half2, pixel)
    posed = posed_particles(data, final.rotations, final.shifts)
    assert posed.angles_in_degrees is not None
    angles = posed.angles_in_degrees
    with progress("Measuring resolution", 5) as step:
        summary = summarise_resolution(
            halves[0],
            halves[1],
            mask,
            symmetry=config.symmetry,
            particles_count=len(posed),
            smaller_half=min(data.counts),
            viewing=viewing_directions(angles[:, 0], angles[:, 1], symmetry=config.symmetry),
            local=config.local,
            seed=config.seed,
            start_in_angstroms=config.initial_lowpass_in_angstroms,
            on_stage=step,
        )
    summary = replace(summary, seconds=time.monotonic() - started)
    if mask is not None and config.mask_file is None:
        words = "the sphere of the diameter inside the filament's cylinder"
        summary = replace(summary, mask_given=False, mask_made=words)
    for number, half in enumerate(halves, 1):
        write_map(job.path / f"half{number}.mrc", half)
    summary.write(job.path)
    document = summary.document() | {"refinement": _history(data, state)}
    write_json(job.path / "resolution.json", document)
    write_particles(job.path / "particles.star", posed, extra_columns=pose_columns(final))
    map_report(
        job.path, summary, title=f"Refinement of {config.particles_file.name}", extra=_sections(data, state, final)
    )
    job.write_relion_output_nodes({"particles.star": 3, "map.mrc": 6, "half1.mrc": 10, "half2.mrc": 10, "mask.mrc": 7})
    for warning in summary.warnings:
        warnings.warn(warning, CryoPrismWarning, stacklevel=3)
    result: dict[str, Any] = {
        "particles": len(posed),
        "duplicates": data.duplicates,
        "passes": state.iteration,
        "settled": state.settled and state.iteration < config.iterations,
        "resolution_in_angstroms": summary.resolution_in_angstroms,
        "sentences": list(summary.sentences()),
    }
    job.mark_done(
        "map",
        stage="refine",
        source=config.particles_file,
        outputs=[job.path / name for name in _OUTPUTS],
        depends_on=stamp,
        result=result,
    )
    return RefineSummary(
        output=job.path,
        resolution=summary,
        seconds=time.monotonic() - started,
        **(result | {"sentences": summary.sentences()}),
    )


def _history(data: ParticleData, state: RefinementState) -> dict[str, Any]:
    return {
        "particles_in_halves": list(data.counts),
        "duplicates_left_out": data.duplicates,
        "passes": [
            {key: value if math.isfinite(value) else None for key, value in row.items()} for row in state.history
        ],
    }


def _sections(data: ParticleData, state: RefinementState, final: FinalMaps) -> str:
    names = data.particles.micrograph_names
    facts = {
        "in the first half": f"{data.counts[0]} particles",
        "in the second half": f"{data.counts[1]} particles",
        "duplicates left out": str(data.duplicates),
        "micrographs": str(len(set(names))) if names else "not named",
    }
    if state.history and "rise_in_angstroms" in state.history[-1]:
        last = state.history[-1]
        facts["rise and twist"] = f"{last['rise_in_angstroms']:.3f} Å, {last['twist_in_degrees']:.3f}°"
    distance = final.shifts.norm(dim=1) * data.pixel_size_in_angstroms
    return passes_section(state.history) + poses_section(final.probability.numpy(), distance.numpy(), facts)
