"""Particles with poses to a map and two half maps: ``cryoprism reconstruct``."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cryoprism.core import CryoPrismWarning, InputError, point_group_matrices, resolve_device
from cryoprism.formats import Volume, read_particle_images, read_particles, write_map
from cryoprism.structure import (
    HelicalCopies,
    HelicalSymmetry,
    ParticleBatch,
    Reconstruction,
    first_crossing,
    memory_of_reconstruction_in_bytes,
    particle_batches,
    reconstruct,
    require_half_maps,
    shell_frequencies,
    weights_for_particles,
)
from cryoprism.workflow.jobs.files import write_json
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.memory import GIGABYTE, available_memory_in_bytes
from cryoprism.workflow.jobs.progress import Step, progress
from cryoprism.workflow.jobs.summary import StepSummary
from cryoprism.workflow.particles.configs import ReconstructConfig
from cryoprism.workflow.particles.data import common_pixel_size, require_reachable
from cryoprism.workflow.particles.duplicates import without_copies

from .resolution_words import endless_agreement, few_particles

__all__ = ["ReconstructSummary", "reconstruct_session"]

log = logging.getLogger("cryoprism")

_BATCH = 128
# Particles nearer than this on a micrograph are one [Å], as for refine.
_NEAREST = 20.0
_OUTPUTS = ("map.mrc", "half1.mrc", "half2.mrc", "reconstruction.json")


@dataclass(frozen=True, kw_only=True)
class ReconstructSummary(StepSummary):
    """What came out.

    Attributes
    ----------
    particles
        In the map.
    resolution_in_angstroms
        Where the half maps' correlation without a mask falls below 0.143; None where it never rises above.
    few
        That a half has too few particles for a resolution, in words.
    duplicates
        How many were left out because the table holds them more than once.
    endless
        That the halves agree at every frequency, in words.
    """

    particles: int
    resolution_in_angstroms: float | None
    few: str | None = None
    duplicates: int = 0
    endless: str | None = None

    def sentence(self) -> str:
        """One line for the console."""
        if self.skipped:
            return f"Nothing to do: {self.output / 'map.mrc'} is there."
        found = (
            "the halves do not agree at any frequency"
            if self.resolution_in_angstroms is None
            else "halves agree at every frequency, which is no resolution (FSC 0.143, no mask)"
            if self.endless is not None
            else f"halves agree to {self.resolution_in_angstroms:.2f} Å (FSC 0.143, no mask)"
        )
        again = f" {self.duplicates} particles stood in the table twice and were left out." if self.duplicates else ""
        few = "" if self.few is None else f" {self.few}"
        done = f"{self.particles} particles in {self.seconds:.1f} s: {found}."
        return f"{done}{again}{few} Map: {self.output / 'map.mrc'}"


def reconstruct_session(config: ReconstructConfig) -> ReconstructSummary:
    """Run ``cryoprism reconstruct``.

    Raises
    ------
    InputError
        No poses, particles that stand in both halves, an empty half, mixed pixel sizes, a limit beyond Nyquist, weights
        that are missing, too little memory.
    """
    started = time.monotonic()
    device = resolve_device(config.device)
    symmetry = config.symmetry
    particles = read_particles(config.particles_file, pixel_size_in_angstroms=config.pixel_size_in_angstroms)
    pixel = common_pixel_size(particles, "reconstruct")
    box = int(read_particle_images(particles, [0]).shape[-1])
    radius = _radius(config, box, pixel)
    _check_memory(config, box, radius)
    particles, duplicates = without_copies(particles, _nearest(config), config.seed)
    with open_job("Reconstruct", config) as job:
        if config.only_do_unfinished and job.is_done("map", stage="reconstruct", source=config.particles_file):
            result = job.done_result("map", stage="reconstruct")
            return ReconstructSummary(
                output=job.path,
                particles=len(particles),
                resolution_in_angstroms=result,
                seconds=time.monotonic() - started,
                duplicates=duplicates,
                skipped=True,
            )
        job.record_inputs([config.particles_file])
        weights = (
            None
            if config.weights_folder is None
            else weights_for_particles(config.weights_folder, particles, box, radius)
        )
        batches = particle_batches(particles, radius, ctf=config.ctf, weights=weights, batch_size=_BATCH, device=device)
        count = math.ceil(len(particles) / _BATCH)
        with progress("Reconstructing", count) as step:
            result = reconstruct(
                _counted(batches, step),
                box,
                symmetry=symmetry,
                helix=_helix(config, pixel),
                padding=config.padding,
                max_radius=radius,
                wiener=config.wiener,
                iterations=config.iterations if config.padding >= 2 else 0,
                device=device,
            )
        names = (f"{config.particles_file}, half set 1", f"{config.particles_file}, half set 2")
        require_half_maps(result.half1, result.half2, names)
        seconds = time.monotonic() - started
        resolution = _write(job, result, config, box, pixel, seconds, duplicates)
        endless = _never_falls(result, radius, box * pixel)
        if endless is not None:
            warnings.warn(endless, CryoPrismWarning, stacklevel=2)
        few = few_particles(min(result.counts), len(point_group_matrices(symmetry)))
        if few is not None:
            warnings.warn(few, CryoPrismWarning, stacklevel=2)
    return ReconstructSummary(
        output=job.path,
        particles=len(particles),
        resolution_in_angstroms=resolution,
        seconds=seconds,
        few=few,
        duplicates=duplicates,
        endless=endless,
    )


def _nearest(config: ReconstructConfig) -> float:
    """Distance [Å] below which two particles are one; segments of a helix lie a rise apart at least."""
    rise = config.helical_rise_in_angstroms
    return _NEAREST if rise is None else min(_NEAREST, 0.5 * rise)


def _never_falls(result: Reconstruction, radius: int, side_in_angstroms: float) -> str | None:
    """Say that the halves agree wherever they were compared, so that no resolution can be read off; else None."""
    if float(result.fsc[1 : radius + 1].min()) < 0.143:
        return None
    return endless_agreement(side_in_angstroms / radius)


def _helix(config: ReconstructConfig, pixel: float) -> HelicalCopies | None:
    rise, twist = config.helical_rise_in_angstroms, config.helical_twist_in_degrees
    if rise is None or twist is None:
        return None
    return HelicalCopies(HelicalSymmetry(rise, twist), config.helical_units, pixel)


def _radius(config: ReconstructConfig, box: int, pixel: float) -> int:
    most = (box - 1) // 2
    limit = config.maximum_resolution_in_angstroms
    if limit is None:
        return most
    require_reachable(limit, pixel)
    radius = round(box * pixel / limit)
    if radius < 1:
        raise InputError("--maximum-resolution", f"{limit:g} Å is more than the box of {box * pixel:g} Å", "Lower it.")
    return min(radius, most)


def _check_memory(config: ReconstructConfig, box: int, radius: int) -> None:
    need = memory_of_reconstruction_in_bytes(box, config.padding, radius, iterations=config.iterations)
    available = (
        available_memory_in_bytes()
        if config.max_memory_in_gigabytes is None
        else int(config.max_memory_in_gigabytes * GIGABYTE)
    )
    log.info("Memory: about %.1f GB, %.1f GB available", need / GIGABYTE, available / GIGABYTE)
    if need > available and config.device == "cpu":
        raise InputError(
            "memory",
            f"a box of {box} pixels needs about {need / GIGABYTE:.1f} GB, {available / GIGABYTE:.1f} GB may be used",
            "Give --maximum-resolution, --iterations 0 or smaller images.",
        )


def _counted(batches: Iterator[ParticleBatch], step: Step) -> Iterator[ParticleBatch]:
    done = 0
    for batch in batches:
        yield batch
        done += int(batch.images.shape[0])
        step(f"{done} particles")


def _write(
    job: Job,
    result: Reconstruction,
    config: ReconstructConfig,
    box: int,
    pixel: float,
    seconds: float,
    duplicates: int,
) -> float | None:
    for name, data in (("map", result.map), ("half1", result.half1), ("half2", result.half2)):
        write_map(job.path / f"{name}.mrc", Volume(data.cpu(), pixel))
    frequency = shell_frequencies((box, box, box), pixel)
    crossing = first_crossing(frequency, result.fsc, 0.143)
    document: dict[str, Any] = {
        "schema": "cryoprism-reconstruction-1",
        "particles_in_halves": list(result.counts),
        "duplicates_left_out": duplicates,
        "symmetry": config.symmetry,
        "pixel_size_in_angstroms": pixel,
        "box_in_pixels": box,
        "frequency_in_inverse_angstroms": [round(f, 7) for f in frequency.tolist()],
        "fsc_unmasked": [round(f, 5) for f in result.fsc.tolist()],
        "resolution_in_angstroms": {"unmasked": crossing.resolution_in_angstroms},
        "seconds": round(seconds, 2),
    }
    write_json(job.path / "reconstruction.json", document)
    job.write_relion_output_nodes({"map.mrc": 6, "half1.mrc": 10, "half2.mrc": 10})
    job.mark_done(
        "map",
        stage="reconstruct",
        source=config.particles_file,
        outputs=[job.path / name for name in _OUTPUTS],
        result=crossing.resolution_in_angstroms,
    )
    return crossing.resolution_in_angstroms
