"""Particles to class averages: ``cryoprism classify``."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import pickle
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoprism.core import CryoPrismWarning, InputError, fourier_crop, resolve_device
from cryoprism.formats import (
    Particles,
    StarBlock,
    portable_name,
    read_particle_images,
    read_particles,
    write_particles,
    write_stack,
    write_star,
)
from cryoprism.particles import transfer_at
from cryoprism.structure import (
    Classification,
    ClassificationState,
    classify,
    memory_of_classification_in_bytes,
    packed_frequencies,
    select_classes,
    split_half_sets,
)
from cryoprism.workflow.jobs.files import atomic_path, fingerprint, write_json
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.memory import GIGABYTE, available_memory_in_bytes
from cryoprism.workflow.jobs.progress import progress
from cryoprism.workflow.jobs.summary import StepSummary
from cryoprism.workflow.report._classes_page import classes_report

from .configs import ClassifyConfig
from .data import common_pixel_size

__all__ = ["ClassifySummary", "classify_session"]

log = logging.getLogger("cryoprism")

_BATCH = 256
_FINEST_PIXEL = 3.0
_UNPROVEN = 999.0  # what RELION writes where no resolution is known
_STATE = "state.pt"


@dataclass(frozen=True, kw_only=True)
class ClassifySummary(StepSummary):
    """What came out.

    Attributes
    ----------
    particles, classes
        How many there are; classes without a particle are not counted.
    selected_particles, selected_classes
        In ``selected.star``.
    best_resolution_in_angstroms
        Of the best class; None where no class shows proven structure.
    iterations
        Done in all.
    """

    particles: int
    classes: int
    selected_particles: int
    selected_classes: int
    best_resolution_in_angstroms: float | None
    iterations: int

    def sentence(self) -> str:
        """One line for the console."""
        best = self.best_resolution_in_angstroms
        found = "no class shows proven structure" if best is None else f"the best one reaches {best:.1f} Å"
        return (
            f"{self.particles} particles in {self.classes} classes after {self.iterations} iterations "
            f"({self.seconds:.1f} s): {found}. Selected: {self.selected_particles} particles in "
            f"{self.selected_classes} classes."
        )


def classify_session(config: ClassifyConfig) -> ClassifySummary:
    """Run ``cryoprism classify``: ``classes.mrcs``, ``classes.star``, ``particles.star``, ``selected.star``, report.

    The state after each iteration is kept, so that a killed run goes on from there.

    Raises
    ------
    InputError
        No CTF, mixed pixel sizes, a circle that does not fit the box, more classes than particles, too little memory.
    """
    started = time.monotonic()
    resolve_device(config.device)
    particles = read_particles(config.particles_file, pixel_size_in_angstroms=config.pixel_size_in_angstroms)
    pixel = common_pixel_size(particles, "classify")
    box = int(read_particle_images(particles, [0]).shape[-1])
    side = _scaled_side(config, box, pixel)
    _check(config, particles, side, pixel * box / side)
    stamp = _stamp(config, particles)
    with open_job("Classify", config) as job:
        if config.only_do_unfinished and job.is_done(
            "classes", stage="classify", source=config.particles_file, depends_on=f"{stamp} {config.least_score}"
        ):
            known = job.done_result("classes", stage="classify")
            return ClassifySummary(output=job.path, **{**known, "seconds": time.monotonic() - started, "skipped": True})
        job.record_inputs([config.particles_file])
        images, transfer = _load(particles, side, config.ctf)
        state = _read_state(job.path / _STATE, stamp) if config.only_do_unfinished else None
        if state is not None:
            log.info("Continuing after iteration %d", state.iteration)
        with progress("Classifying", config.iterations - (0 if state is None else state.iteration)) as step:
            result = classify(
                images,
                transfer,
                classes=config.classes,
                diameter_in_angstroms=config.diameter_in_angstroms,
                pixel_size_in_angstroms=pixel * box / side,
                iterations=config.iterations,
                max_shift_in_angstroms=config.max_shift_in_angstroms,
                seed=config.seed,
                device=config.device,
                groups=_groups(particles),
                half_set=split_half_sets(particles, config.seed),
                state=state,
                on_iteration=_keeper(job.path / _STATE, stamp, step, box * pixel),
            )
        summary = _write(job, config, particles, result, pixel * box / side, started)
        job.mark_done(
            "classes",
            stage="classify",
            source=config.particles_file,
            outputs=[job.path / name for name in ("classes.mrcs", "classes.star", "particles.star", "report.html")],
            depends_on=f"{stamp} {config.least_score}",
            result={f.name: getattr(summary, f.name) for f in fields(summary) if f.name not in ("output", "skipped")},
        )
    return summary


def _scaled_side(config: ClassifyConfig, box: int, pixel: float) -> int:
    side = config.scaled_box_in_pixels
    if side is None:
        wished = 2 * math.ceil(box * pixel / _FINEST_PIXEL / 2)
        return min(box, max(32, wished))
    if side > box:
        raise InputError("--scale", f"{side} pixels are more than the box of {box}", "Images are only made smaller.")
    return side


def _check(config: ClassifyConfig, particles: Particles, side: int, pixel: float) -> None:
    if config.ctf and particles.defocus is None:
        raise InputError(
            particles.source,
            "gives no defocus (rlnDefocusU, rlnDefocusV, rlnDefocusAngle)",
            "Estimate the CTF first ('cryoprism restore'), or add --no-ctf.",
        )
    count = len(particles)
    if config.classes * 2 > count:
        raise InputError(
            "--classes", f"{config.classes} for {count} particles", "Use at most half as many; 50 to 100 per class do."
        )
    if config.diameter_in_angstroms > 0.96 * side * pixel:
        raise InputError(
            "--diameter",
            f"{config.diameter_in_angstroms:g} Å in a box of {side * pixel:.0f} Å",
            "Use less than 96 % of the box, which leaves a background, or extract larger boxes.",
        )
    need = memory_of_classification_in_bytes(count, side, config.classes)
    available = (
        available_memory_in_bytes()
        if config.max_memory_in_gigabytes is None
        else int(config.max_memory_in_gigabytes * GIGABYTE)
    )
    log.info(
        "Memory: about %.1f GB for %d images of %d pixels in %d classes, %.1f GB available",
        need / GIGABYTE, count, side, config.classes, available / GIGABYTE,
    )  # fmt: skip
    if need > available:
        raise InputError(
            "memory",
            f"{count} images of {side} pixels in {config.classes} classes need about {need / GIGABYTE:.1f} GB, "
            f"{available / GIGABYTE:.1f} GB may be used",
            "Give a smaller --scale or fewer --classes.",
        )


def _load(particles: Particles, side: int, ctf: bool) -> tuple[Tensor, Tensor | None]:
    """Read images (n, side, side), and packed contrast transfer (n, N) at their pixel size."""
    box = int(read_particle_images(particles, [0]).shape[-1])
    scaled = replace(particles, pixel_size_in_angstroms=particles.pixel_size_in_angstroms * (box / side))
    radius = (side - 1) // 2
    k = packed_frequencies(radius).float() / side
    images = torch.empty(len(particles), side, side)
    transfer = torch.empty(len(particles), k.shape[0]) if ctf else None
    with progress("Reading images", math.ceil(len(particles) / _BATCH)) as step:
        for start in range(0, len(particles), _BATCH):
            rows = torch.arange(start, min(start + _BATCH, len(particles)))
            whole = read_particle_images(particles, rows)
            flat = (whole.flatten(1).std(1) == 0).nonzero()
            if len(flat):
                name = particles.image_names[int(rows[int(flat[0, 0])])]
                raise InputError(particles.source, f"image {name} holds one value only", "Delete that row.")
            images[rows] = whole if side == box else fourier_crop(whole, (side, side))
            if transfer is not None:
                transfer[rows] = transfer_at(scaled, k[None, :, 1], k[None, :, 0], rows)[:, 0]
            step(f"{int(rows[-1]) + 1} particles")
    return images, transfer


def _groups(particles: Particles) -> Tensor | None:
    names = particles.micrograph_names
    if names is None:
        return None
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([number[name] for name in names])


def _stamp(config: ClassifyConfig, particles: Particles) -> str:
    """Hash of everything that decides the iterations: the settings and the table."""
    digest = hashlib.sha256(config.result_hash().encode())
    source = fingerprint(config.particles_file)
    digest.update(repr((source["bytes"], source["sha256_of_ends"], len(particles))).encode())
    return digest.hexdigest()[:16]


def _keeper(
    path: Path, stamp: str, step: Callable[[str], None], extent: float
) -> Callable[[ClassificationState], None]:
    def keep(state: ClassificationState) -> None:
        content: dict[str, Any] = {f.name: getattr(state, f.name) for f in fields(state)}
        # Through memory: torch tells of a full disk in a way that nobody can read.
        packed = io.BytesIO()
        torch.save({"stamp": stamp, **content}, packed)
        with atomic_path(path) as temporary:
            temporary.write_bytes(packed.getbuffer())
        step(f"{extent / state.radius:.1f} Å, log-likelihood {float(state.trace[-1]):.2f}")

    return keep


def _read_state(path: Path, stamp: str) -> ClassificationState | None:
    if not path.is_file():
        return None
    try:
        content = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile):
        return None
    if content.pop("stamp", None) != stamp:
        return None
    return ClassificationState(**content)


def _write(
    job: Job, config: ClassifyConfig, particles: Particles, result: Classification, pixel: float, started: float
) -> ClassifySummary:
    chosen = select_classes(result, least_score=config.least_score)
    members = torch.bincount(result.class_index, minlength=config.classes)
    chosen &= members > 0
    write_stack(job.path / "classes.mrcs", result.averages, pixel)
    _write_classes(job, result, members, chosen)
    done = _with_poses(particles, result)
    extra = {
        "rlnLogLikeliContribution": [f"{v:.3f}" for v in result.log_likelihood.tolist()],
        "rlnMaxValueProbDistribution": [f"{v:.6f}" for v in result.probability.tolist()],
    }
    write_particles(job.path / "particles.star", done, extra_columns=extra)
    kept = chosen[result.class_index]
    selected = job.path / "selected.star"
    nodes = {"particles.star": 3, "classes.mrcs": 5}
    if bool(kept.any()):
        positions = kept.nonzero()[:, 0].tolist()
        write_particles(
            selected, done.subset(kept), extra_columns={k: [v[i] for i in positions] for k, v in extra.items()}
        )
        nodes["selected.star"] = 3
    else:
        selected.unlink(missing_ok=True)
        _warn_of_nothing(result)
    proven = result.resolution_in_angstroms[torch.isfinite(result.resolution_in_angstroms) & (members > 0)]
    summary = ClassifySummary(
        output=job.path,
        particles=len(particles),
        classes=int((members > 0).sum()),
        selected_particles=int(kept.sum()),
        selected_classes=int(chosen.sum()),
        best_resolution_in_angstroms=float(proven.min()) if proven.numel() else None,
        iterations=int(result.trace.numel()),
        seconds=round(time.monotonic() - started, 2),
    )
    write_json(job.path / "classification.json", _document(config, result, members, chosen, pixel, summary))
    classes_report(job.path, result, members, chosen, summary, pixel, config.least_score)
    job.write_relion_output_nodes(nodes)
    return summary


def _warn_of_nothing(result: Classification) -> None:
    warnings.warn(
        "no class was selected, so that selected.star is not written: the halves do not agree beyond "
        f"{result.joint_resolution_in_angstroms:.1f} Å, or none has the score of --select. Look at report.html, at "
        "--diameter and at the particles",
        CryoPrismWarning,
        stacklevel=2,
    )


def _with_poses(particles: Particles, result: Classification) -> Particles:
    zero = torch.zeros(len(particles), dtype=torch.float64)
    return replace(
        particles,
        angles_in_degrees=torch.stack([zero, zero, result.psi_in_degrees.double()], -1),
        origins_in_angstroms=result.origins_in_angstroms,
        class_number=result.class_index + 1,
    )


def _resolutions(result: Classification) -> list[float]:
    return [v if math.isfinite(v) else _UNPROVEN for v in result.resolution_in_angstroms.tolist()]


def _write_classes(job: Job, result: Classification, members: Tensor, chosen: Tensor) -> None:
    stack = portable_name(job.path / "classes.mrcs")
    labels = (
        "rlnReferenceImage",
        "rlnClassDistribution",
        "rlnEstimatedResolution",
        "cryoprismParticles",
        "cryoprismClassScore",
        "cryoprismSelected",
    )
    rows = tuple(
        (f"{i + 1:06d}@{stack}", f"{share:.6f}", f"{resolution:.3f}", str(count), f"{score:.4f}", str(int(keep)))
        for i, (share, resolution, count, score, keep) in enumerate(
            zip(
                result.fraction.tolist(),
                _resolutions(result),
                members.tolist(),
                result.score.tolist(),
                chosen.tolist(),
                strict=True,
            )
        )
    )
    path = job.path / "classes.star"
    write_star(path, [StarBlock("", labels, rows, True, str(path))])


def _document(
    config: ClassifyConfig,
    result: Classification,
    members: Tensor,
    chosen: Tensor,
    pixel: float,
    summary: ClassifySummary,
) -> dict[str, Any]:
    return {
        "schema": "cryoprism-classification-1",
        "particles": summary.particles,
        "pixel_size_in_angstroms": pixel,
        "box_in_pixels": int(result.averages.shape[-1]),
        "diameter_in_angstroms": config.diameter_in_angstroms,
        "converged": result.converged,
        "iterations": summary.iterations,
        "log_likelihood_over_noise": [round(v, 4) for v in result.trace.tolist()],
        "joint_resolution_in_angstroms": round(result.joint_resolution_in_angstroms, 3),
        "proof_in_deviations": round(result.proof, 3),
        "selection": f"a score of at least {config.least_score:g}, none if the halves prove no structure",
        "classes": [
            {
                "number": i + 1,
                "particles": int(members[i]),
                "fraction": round(float(result.fraction[i]), 6),
                "resolution_in_angstroms": None if resolution == _UNPROVEN else round(resolution, 3),
                "evidence": round(float(result.evidence[i]), 3),
                "score": round(float(result.score[i]), 4),
                "selected": bool(chosen[i]),
                "frc": [round(v, 4) for v in result.frc[i].tolist()],
            }
            for i, resolution in enumerate(_resolutions(result))
        ],
        "seconds": summary.seconds,
    }
