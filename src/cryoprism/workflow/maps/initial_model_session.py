"""``cryoprism initial-model``: a first map from particles alone."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.formats import Particles, Volume, write_map, write_particles
from cryoprism.structure import INVERTED, contrast_of_map, contrast_significance, finest_of_start, spherical_average
from cryoprism.structure.abinitio import InitialModel, ab_initio
from cryoprism.structure.schedule import FirstMapSettings, RefinementSettings
from cryoprism.structure.spherical_start import StartState
from cryoprism.workflow.jobs.files import fingerprint, write_json
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.progress import progress
from cryoprism.workflow.jobs.summary import StepSummary
from cryoprism.workflow.particles.data import ParticleData, checked_particles, even_fast_size, load_particles
from cryoprism.workflow.report._model_page import model_report

from .configs import InitialModelConfig
from .refinement import posed_particles, read_state, search_device, write_state

__all__ = ["InitialModelSummary", "initial_model_session"]

log = logging.getLogger("cryoprism")

# Share of a map that is not its spherical average, below which it holds no orientation: ferritin has 0.26.
_ROUND = 0.01
_DARK = (
    "The map's density is negative, since the particles are dark on bright ground: extract them with protein bright "
    "('cryoprism extract --invert')."
)
_STATE = "passes.npz"
_OUTPUTS = ("initial_model.mrc", "particles.star", "initial_model.json", "report.html")


@dataclass(frozen=True, kw_only=True)
class InitialModelSummary(StepSummary):
    """What ``initial_model_session`` returns.

    Attributes
    ----------
    particles
        Used.
    duplicates
        Left out because they lie on others.
    log_evidence
        Mean over the particles, of every start.
    chosen
        Which start was kept, from 0.
    sentence
        The outcome in words.
    """

    particles: int
    duplicates: int
    log_evidence: tuple[float, ...]
    chosen: int
    sentence: str

    @property
    def map(self) -> Path:
        """The model."""
        return self.output / "initial_model.mrc"


def initial_model_session(config: InitialModelConfig) -> InitialModelSummary:
    """Run ``cryoprism initial-model``.

    The state after each pass is kept in ``passes.npz``; a run that was killed goes on from there.

    Raises
    ------
    InputError
        The table cannot be used, or memory does not suffice.
    """
    started = time.monotonic()
    device = search_device(config.device)
    particles, box, pixel = checked_particles(
        config.particles_file,
        diameter_in_angstroms=config.diameter_in_angstroms,
        pixel_size_in_angstroms=config.pixel_size_in_angstroms,
    )
    # Half a shell beyond the finest detail, so that its own edge stays out of the map.
    finest = config.maximum_resolution_in_angstroms or finest_of_start(config.symmetry, config.diameter_in_angstroms)
    side = min(box, even_fast_size(2.4 * box * pixel / finest))
    if 6 * box * pixel / side > config.diameter_in_angstroms:
        raise InputError(
            "--maximum-resolution",
            f"{finest:g} Å is too coarse for a particle of {config.diameter_in_angstroms:g} Å",
            "Lower it.",
        )
    with open_job("InitialModel", config) as job:
        if config.only_do_unfinished and job.is_done("model", stage="initial-model", source=config.particles_file):
            kept = job.done_result("model", stage="initial-model")
            kept["log_evidence"] = tuple(kept["log_evidence"])
            return InitialModelSummary(output=job.path, skipped=True, seconds=time.monotonic() - started, **kept)
        job.record_inputs([config.particles_file])
        with progress("Reading particles", math.ceil(len(particles) / 256)) as step:
            data = load_particles(
                particles,
                box,
                pixel,
                diameter_in_angstroms=config.diameter_in_angstroms,
                scaled_box=side if side < box else None,
                min_distance_in_angstroms=config.min_distance_in_angstroms,
                seed=config.seed,
                max_memory_in_gigabytes=config.max_memory_in_gigabytes,
                on_batch=step,
            )
        log.info("%d particles of %d pixels of %.3g Å", len(data.particles), data.box, data.pixel_size_in_angstroms)
        settings = RefinementSettings(
            symmetry=config.symmetry,
            diameter_in_angstroms=config.diameter_in_angstroms,
            pixel_size_in_angstroms=data.pixel_size_in_angstroms,
            shift_range_in_angstroms=config.shift_range_in_angstroms,
            seed=config.seed,
        )
        model = _model(config, job, data, settings, finest, device)
        return _finish(config, job, data, model, posed_particles(data, model.rotations, model.shifts), started)


def _model(
    config: InitialModelConfig,
    job: Job,
    data: ParticleData,
    settings: RefinementSettings,
    finest: float,
    device: torch.device,
) -> InitialModel:
    """Search for the map; after each pass, its state is on disk."""
    known = fingerprint(config.particles_file)
    stamp = f"{config.result_hash()};{known['sha256_of_ends']}-{known['bytes']}"
    state = read_state(job.path / _STATE, stamp, StartState) if config.only_do_unfinished else None
    if state is not None:
        log.info("Going on after pass %d, with %d starts tried", state.passes, len(state.scores))
    with ExitStack() as stack:
        steps: list[Callable[[str], None]] = []

        def on_progress(done: int, total: int) -> None:
            # The first call comes before the first pass: the clock starts there, at what an earlier run has left.
            if steps:
                steps[0](f"pass {done}")
            elif total > done:
                steps.append(stack.enter_context(progress("Initial model", total - done)))

        return ab_initio(
            data.images,
            data.transfer,
            data.group,
            settings,
            FirstMapSettings(starts=config.starts, finest_in_angstroms=finest, seed=settings.seed),
            box=data.box,
            device=device,
            on_progress=on_progress,
            state=state,
            on_pass=lambda now: write_state(job.path / _STATE, now, stamp),
        )


def _finish(
    config: InitialModelConfig, job: Job, data: ParticleData, model: InitialModel, posed: Particles, started: float
) -> InitialModelSummary:
    pixel = data.pixel_size_in_angstroms
    volume = Volume(model.map.cpu(), pixel)
    write_map(job.path / "initial_model.mrc", volume)
    write_particles(job.path / "particles.star", posed)
    scores = [float(value) for value in model.log_evidence]
    chosen = int(model.chosen)
    sentence = _sentence(len(posed), scores, chosen)
    if float((model.map - spherical_average(model.map)).norm()) < _ROUND * float(model.map.norm()):
        sentence = f"No orientations were found: the map is round. {sentence}"
        warnings.warn(f"{config.particles_file}: no orientations were found, the map is round", CryoPrismWarning, 2)
    dark = _dark(data, model, config.diameter_in_angstroms)
    if dark:
        sentence = f"{_DARK} {sentence}"
        warnings.warn(f"{config.particles_file}: {_DARK}", CryoPrismWarning, 2)
    write_json(
        job.path / "initial_model.json",
        {
            "schema": "cryoprism-initial-model-1",
            "particles": len(posed),
            "duplicates_left_out": data.duplicates,
            "symmetry": config.symmetry,
            "resolution_in_angstroms": model.resolution_in_angstroms,
            "voxel_size_in_angstroms": pixel,
            "box_in_voxels": data.box,
            "log_evidence_of_starts": scores,
            "chosen_start": chosen,
            "negative_density": dark,
            "seconds": round(time.monotonic() - started, 2),
        },
    )
    facts = {
        "particles": f"{len(posed)}",
        "symmetry": config.symmetry.upper(),
        "finest detail": f"{model.resolution_in_angstroms:.1f} Å",
        "voxel": f"{pixel:.3g} Å",
    }
    model_report(
        job.path,
        volume,
        title=f"Initial model of {config.particles_file.name}",
        verdict=sentence,
        diameter_in_angstroms=config.diameter_in_angstroms,
        facts=facts,
        scores=scores,
        chosen=chosen,
    )
    job.write_relion_output_nodes({"particles.star": 3, "initial_model.mrc": 6})
    result: dict[str, Any] = {
        "particles": len(posed),
        "duplicates": data.duplicates,
        "log_evidence": scores,
        "chosen": chosen,
        "sentence": sentence,
    }
    job.mark_done(
        "model",
        stage="initial-model",
        source=config.particles_file,
        outputs=[job.path / name for name in _OUTPUTS],
        result=result,
    )
    return InitialModelSummary(
        output=job.path, seconds=time.monotonic() - started, **(result | {"log_evidence": tuple(scores)})
    )


def _dark(data: ParticleData, model: InitialModel, diameter: float) -> bool:
    """Whether particles and map are black; of noise alone no map has a contrast."""
    pixel = data.pixel_size_in_angstroms
    found = contrast_significance(
        data.images, data.transfer, box=data.box, pixel_size_in_angstroms=pixel, diameter_in_angstroms=diameter
    )
    return found < INVERTED and contrast_of_map(model.map, pixel, diameter) < 0


def _sentence(count: int, scores: list[float], chosen: int) -> str:
    kept = f"Model from {count} particles: start {chosen + 1} of {len(scores)} explains them best"
    if len(scores) < 2:
        return f"Model from {count} particles, one start: nothing says whether another would have found the same."
    spread = max(scores) - min(scores)
    near = sum(score > max(scores) - 0.2 * max(abs(max(scores)), 1e-9) for score in scores)
    return f"{kept}; {near} of {len(scores)} starts end within a fifth of it (log evidence spread {spread:.3g})."
