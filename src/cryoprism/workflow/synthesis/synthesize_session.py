"""``cryoprism synthesize``: labelled micrographs that look like a session's own, from a map and a few real ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoprism.core import InputError, single_threaded
from cryoprism.formats import Catalogue, read_image, write_star
from cryoprism.synthesis import (
    Exemplar,
    Population,
    SessionMatch,
    match_session,
    micrograph_ctf,
    optics_block,
    optics_groups,
    particles_block,
    read_match,
    scene_from_dict,
    star_block,
    write_match,
)
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.parallel import close_workers, map_items
from cryoprism.workflow.jobs.progress import progress
from cryoprism.workflow.maps.boxes import box_for
from cryoprism.workflow.report._learned_section import learned_section
from cryoprism.workflow.report._synthesis_page import picture_bytes, synthesis_report

from .configs import SynthesizeConfig
from .making import SynthesisTask, outputs_of, read_truth, synthesize_one
from .match_agreement import require_agreement
from .match_evidence import MATCH, evidence_of, standing_match
from .matching import exemplars_of, require_one_session, require_picks
from .noise_learning import STAGE, learn_noise, learned_noise_of, similar_places
from .picker import train_picker_on
from .population import population_of, require_ice, require_tilt
from .poses import train_poses_on
from .realism import measure_session_realism

__all__ = ["SynthesizeSummary", "synthesize_session"]

log = logging.getLogger("cryoprism")


@dataclass(frozen=True, kw_only=True)
class SynthesizeSummary:
    """What ``synthesize_session`` returns.

    Attributes
    ----------
    output
        The job folder.
    micrographs, particles
        How many there are.
    auc
        Held-out AUC of a classifier against real micrographs: 0.5 is perfect; None where it was not measured.
    picker, picker_words
        Weights of a picker that was trained, and how it does in validation.
    poses, poses_words
        The same of a pose network.
    made, skipped
        How many micrographs were made now, and how many were there already.
    seconds
        Wall time.
    """

    output: Path
    micrographs: int
    particles: int
    made: int
    skipped: int
    seconds: float
    auc: float | None = None
    picker: Path | None = None
    picker_words: str = ""
    poses: Path | None = None
    poses_words: str = ""

    @property
    def star(self) -> Path:
        """The table of all particles."""
        return self.output / "particles.star"

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.output / "report.html"


@dataclass(frozen=True, eq=False)
class _Matched:
    match: SessionMatch
    matched: list[Exemplar]
    apart: list[Exemplar]
    evidence: str


@single_threaded
def synthesize_session(config: SynthesizeConfig) -> SynthesizeSummary:
    """Run ``cryoprism synthesize``, in one thread of torch.

    Sums round differently in another number of threads, and counts drawn at a rate that differs in its last digit are
    other counts: the same seed would give other micrographs. What is made in parallel is made by workers.

    Raises
    ------
    InputError
        The map, the real micrographs or a setting cannot be used; nothing is written then.
    """
    started = time.monotonic()
    # What takes no time is looked at first: a large structure takes minutes.
    _require_maps(config)
    catalogue, pixel = require_one_session(config)
    require_picks(config, catalogue)
    population = population_of(config)
    require_ice(config, population)
    if config.lowpass_in_angstroms and config.lowpass_in_angstroms < 2 * pixel:
        log.info("--lowpass %g Å is finer than the pixels can carry (%g Å)", config.lowpass_in_angstroms, 2 * pixel)
    try:
        with open_job("Synthesize", config) as job:
            job.record_inputs([*config.map_files(), *(record.path for record in catalogue)])
            found = _matched(config, job, catalogue, population, pixel)
            require_tilt(config, found.match)
            if config.noise == "learned" and not _has_learned(config, job, found.evidence):
                learn_noise(config, job, found.match, population, found.matched, found.evidence)
            tasks = [
                SynthesisTask(index, f"{index + 1:06d}", config, job.path / "match", job.path)
                for index in range(config.count)
            ]
            made = _make(config, job, tasks, found.evidence)
            diameter = config.diameter_in_angstroms or 2 * population.radius_in_angstroms
            particles = _tables(job, tasks, box_for(diameter, pixel))
            realism, shown = None, None
            if config.realism:
                realism, shown = measure_session_realism(
                    job.path, tasks, found.match, population, found.matched, found.apart, config.seed
                )
            learned = _learned(job, tasks[0].name, config.seed) if config.noise == "learned" else ""
            names = [task.name for task in tasks]
            synthesis_report(job.path, names, found.match, realism, shown, learned)
            picker, poses, words, poses_words = None, None, "", ""
            if config.train_picker:
                picker, words = train_picker_on(
                    job.path, names, diameter, config.picker_steps, config.seed, config.device
                )
            if config.train_poses:
                poses, poses_words = train_poses_on(
                    job.path, names, diameter, config.symmetry[0], config.pose_steps, config.seed, config.device
                )
            summary = SynthesizeSummary(
                output=job.path,
                micrographs=len(tasks),
                particles=particles,
                auc=_auc(realism),
                picker=picker,
                picker_words=words,
                poses=poses,
                poses_words=poses_words,
                made=made,
                skipped=len(tasks) - made,
                seconds=time.monotonic() - started,
            )
            job.note("particles", particles)
            nodes = {"micrographs.star": 1, "particles.star": 3}
            job.write_relion_output_nodes({"movies.star": 0} | nodes if config.frames_of_a_movie else nodes)
            return summary
    finally:
        close_workers()


def _require_maps(config: SynthesizeConfig) -> None:
    for file in config.map_files():
        if not file.exists():
            raise InputError(file, "does not exist", "Give an existing map or structure.")


def _matched(
    config: SynthesizeConfig, job: Job, catalogue: Catalogue, population: Population, pixel: float
) -> _Matched:
    """Match the session, or read back what an earlier run of this job found."""
    folder = job.path / "match"
    names, evidence = standing_match(config, job, catalogue) or ([], "")
    learns = config.noise == "learned" and not _has_learned(config, job, evidence)
    if names and not config.realism and not learns:
        return _Matched(read_match(folder), [], [], evidence)
    matched, apart = exemplars_of(config, catalogue, pixel, population, job, names)
    if names:
        return _Matched(read_match(folder), matched, apart, evidence)
    largest = max(
        (c for one in population.species for c in one.conformations), key=lambda specimen: specimen.radius_in_angstroms
    )
    match = match_session(matched, largest, pixel, seed=config.seed)
    require_agreement(match, single_particles=not config.filaments)
    write_match(folder, match)
    outputs = [folder / "match.json", folder / "spectra.safetensors"]
    names = [one.name for one in match.micrographs]
    evidence = evidence_of(config, catalogue, names)
    job.mark_done("session", stage=MATCH, outputs=outputs, depends_on=evidence, result=names)
    for one in match.micrographs:
        log.info(
            "%s: %.0f particles per µm², mean particle agrees to %.2f with the map",
            one.name,
            one.density_in_inverse_square_micrometers,
            one.agreement,
        )
    _log_artefacts(match)
    return _Matched(match, matched, apart, evidence)


def _has_learned(config: SynthesizeConfig, job: Job, evidence: str) -> bool:
    return config.only_do_unfinished and job.is_done("session", stage=STAGE, depends_on=evidence)


def _log_artefacts(match: SessionMatch) -> None:
    seen = [one.artefacts for one in match.micrographs]
    told = sum(len(one.contaminations) for one in seen)
    spots = sum(len(one.spots) for one in seen)
    if spots:
        log.info(
            "Real micrographs: %d dark spots; %d of them are larger than a few particles and are drawn as contamination"
            " (--contamination N draws as many as you say)",
            spots,
            told,
        )
    if films := sum(one.carbon_share > 0 for one in seen):
        log.info("Real micrographs: %d of %d have an edge of carbon film", films, len(seen))


def _make(config: SynthesizeConfig, job: Job, tasks: Sequence[SynthesisTask], evidence: str) -> int:
    for name in ("micrographs", "masks", "truth", *(["movies"] if config.frames_of_a_movie else [])):
        job.folder(name)

    def is_done(task: SynthesisTask) -> bool:
        return config.only_do_unfinished and job.is_done(task.name, stage="synthesize", depends_on=evidence)

    todo = [task for task in tasks if not is_done(task)]
    with progress("Synthesizing", len(todo)) as step:
        results = map_items(synthesize_one, todo, config.workers, names=[t.name for t in todo], on_result=step)
        for task, _ in zip(todo, results, strict=True):
            job.mark_done(task.name, stage="synthesize", outputs=outputs_of(task), depends_on=evidence)
    return len(todo)


def _tables(job: Job, tasks: Sequence[SynthesisTask], box_in_pixels: int) -> int:
    """Write micrographs.star, particles.star and, for movies, movies.star; returns the number of particles.

    Nothing is cut out yet. RELION reads a table of particles only if it tells the size of their boxes, though, and what
    it extracts again takes the size that is asked for then.
    """
    names, scenes, particles = [], [], []
    for task in tasks:
        truth = read_truth(job.path, task.name)
        names.append(f"micrographs/{task.name}.mrc")
        scenes.append(scene_from_dict(truth["scene"]))
        particles.append(truth["particles"])
    lenses, groups = optics_groups(scenes)
    columns: dict[str, Any] = {"rlnMicrographName": names, "rlnOpticsGroup": groups}
    table = star_block("micrographs", columns | micrograph_ctf(scenes))
    write_star(job.path / "micrographs.star", [optics_block(lenses, mtf=False), table])
    if tasks[0].config.frames_of_a_movie:
        movies = {
            "rlnMicrographMovieName": [f"movies/{task.name}.mrcs" for task in tasks],
            "rlnOpticsGroup": groups,
        }
        movie_optics = optics_block(lenses, movies=True, mtf=False)
        write_star(job.path / "movies.star", [movie_optics, star_block("movies", movies)])
    if not any(particles):
        raise InputError("--particles", "no particle lies in any micrograph", "Ask for one or more.")
    optics = optics_block(lenses, mtf=False, box_in_pixels=box_in_pixels)
    write_star(job.path / "particles.star", [optics, particles_block(names, scenes, particles)])
    return sum(len(some) for some in particles)


def _learned(job: Job, name: str, seed: int) -> str:
    """Section of the report on what was learned."""
    found = learned_noise_of(job.path)
    image = read_image(job.path / "micrographs" / f"{name}.mrc")
    mask = (read_image(job.path / "masks" / f"{name}.mrc").data > 0).float()
    seen = similar_places(job.path, image.data.float(), mask, seed)
    shown = picture_bytes(seen.image, image.pixel_size_in_angstroms or 1.0)
    return learned_section(
        found.strength, found.steps, found.distances, shown, seen.maps, seen.xy_in_pixels, seen.on_particles
    )


def _auc(realism: dict[str, Any] | None) -> float | None:
    measures = {} if realism is None else realism["measures"]
    return next(
        (float(row["two_sample_auc"]["value"]) for name, row in measures.items() if name.startswith("made")), None
    )
