"""Aberrations from particles with poses: ``cryoprism ctf-refine``."""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from cryoprism.core import CryoPrismWarning, InputError, resolve_device
from cryoprism.formats import Particles, Volume, read_map, read_particles, write_particles, write_star
from cryoprism.particles import leaked_halves
from cryoprism.structure import (
    MapReference,
    directional_weights_block,
    estimate_beam_tilt,
    match_particles,
    micrograph_signal,
    packed_frequencies,
    read_mask,
    refine_defocus,
    refine_micrograph_defocus,
    require_half_maps,
    split_half_sets,
    with_beam_tilt,
    with_defocus,
)
from cryoprism.workflow.jobs.files import fingerprint, write_json
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.memory import GIGABYTE, available_memory_in_bytes
from cryoprism.workflow.jobs.progress import progress
from cryoprism.workflow.jobs.summary import StepSummary
from cryoprism.workflow.particles.configs import CtfRefineConfig
from cryoprism.workflow.particles.data import require_reachable
from cryoprism.workflow.report._aberrations_page import aberrations_report

from .aberrations import Found, found_document, found_sentences, found_warnings

__all__ = ["CtfRefineSummary", "ctf_refine_session"]

log = logging.getLogger("cryoprism")

# Tolerance of a quarter turn of the CTF at 300 kV: d² / 4λ is 460 Å at 6 Å.
_COARSE_FOR_DEFOCUS = 6.0
_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class CtfRefineSummary(StepSummary):
    """What came out.

    Attributes
    ----------
    sentences
        What was found, in words.
    """

    sentences: tuple[str, ...]

    def sentence(self) -> str:
        """Lines for the console."""
        first = "Nothing to do, it is all there." if self.skipped else f"Done in {self.seconds:.1f} s."
        last = f"Particles: {self.output / 'particles.star'}. Report: {self.report}"
        return "\n".join([first, *self.sentences, last])


def ctf_refine_session(config: CtfRefineConfig) -> CtfRefineSummary:
    """Run ``cryoprism ctf-refine``: a refined table, ``aberrations.json`` and the weights of every micrograph.

    Beam tilt is estimated first and applied, then defocus, then beam tilt again with the better defocus.

    Raises
    ------
    InputError
        Nothing to do, no poses, no defocus, no half sets, particles in both of them, half maps that are no halves or
        belong to other particles, too little memory.
    """
    started = time.monotonic()
    if not (config.defocus or config.beam_tilt or config.astigmatism or config.signal):
        raise InputError("options", "everything is switched off", "Ask for --defocus, --beam-tilt or --signal.")
    device = resolve_device(config.device)
    particles = read_particles(config.particles_file)
    if particles.half_set is None:
        raise InputError(
            config.particles_file,
            "names no half sets (rlnRandomSubset)",
            "Give the table of the refinement that made the half maps: each particle is compared with its own half.",
        )
    half_set = split_half_sets(particles)
    leaked_halves(particles)
    one, two, mask = _maps(config)
    require_reachable(config.maximum_resolution_in_angstroms, one.voxel_size_in_angstroms)
    _check_memory(config, one, particles)
    with open_job("CtfRefine", config) as job:
        sources = [p for p in (config.particles_file, config.half1, config.half2, config.mask_file) if p is not None]
        job.record_inputs(sources)
        others = ";".join(str(fingerprint(path)["sha256_of_ends"]) for path in sources[1:])
        if config.only_do_unfinished and job.is_done(
            "aberrations", stage="ctf-refine", source=config.particles_file, depends_on=others
        ):
            kept = job.done_result("aberrations", stage="ctf-refine")
            return CtfRefineSummary(
                output=job.path, sentences=tuple(kept), seconds=time.monotonic() - started, skipped=True
            )
        reference = MapReference.from_half_maps(
            one.data.to(device),
            two.data.to(device),
            one.voxel_size_in_angstroms,
            mask=None if mask is None else mask.to(device),
            maximum_resolution_in_angstroms=config.maximum_resolution_in_angstroms,
        )
        found = _refine(config, particles, reference, half_set, device)
        sentences = found_sentences(found)
        seconds = time.monotonic() - started
        careful = found_warnings(found)
        finest = found.match.finest_in_angstroms
        if finest > _COARSE_FOR_DEFOCUS and (config.defocus or config.astigmatism):
            kept = (
                f"Defocus stays as it is in the table: the half maps agree to {finest:.3g} Å only, where one that is "
                f"off by some hundred Å makes no difference. It is refined from {_COARSE_FOR_DEFOCUS:g} Å on."
            )
            sentences = (*sentences, kept)
            careful.insert(0, kept)
        outputs = _write(job, found, sentences, seconds)
        outputs.append(_report(config, job, found, sentences, careful))
        for warning in careful:
            warnings.warn(warning, CryoPrismWarning, stacklevel=2)
        job.mark_done(
            "aberrations",
            stage="ctf-refine",
            source=config.particles_file,
            depends_on=others,
            outputs=outputs,
            result=list(sentences),
        )
    return CtfRefineSummary(output=job.path, sentences=sentences, seconds=seconds)


def _maps(config: CtfRefineConfig) -> tuple[Volume, Volume, Tensor | None]:
    for option, path in (("--half1", config.half1), ("--half2", config.half2)):
        if not path.is_file():
            raise InputError(option, f"{path} does not exist", "Give the two unfiltered half maps of the refinement.")
    if config.half1.resolve() == config.half2.resolve():
        raise InputError(config.half2, "is the first half map again", "Give the two half maps of one refinement.")
    one, two = read_map(config.half1), read_map(config.half2)
    require_half_maps(one.data, two.data, names=(str(config.half1), str(config.half2)))
    return one, two, None if config.mask_file is None else read_mask(config.mask_file, one)


def _check_memory(config: CtfRefineConfig, volume: Volume, particles: Particles) -> None:
    box = int(volume.data.shape[-1])
    packed = len(packed_frequencies((box - 1) // 2))
    micrographs = len(set(particles.micrograph_names or ("all",)))
    tables = 2 * 8 * 4 * box**3 + 6 * 4 * box**3
    need = tables + 24 * 8 * _BATCH * packed + (32 * micrographs * packed if config.signal else 0)
    need += 3 * 8 * 301 * len(particles) if config.defocus else 0
    limit = config.max_memory_in_gigabytes
    available = available_memory_in_bytes() if limit is None else int(limit * GIGABYTE)
    log.info("Memory: about %.1f GB, %.1f GB available", need / GIGABYTE, available / GIGABYTE)
    if need > available and config.device == "cpu":
        raise InputError(
            "memory",
            f"maps of {box} voxels and {micrographs} micrographs need about {need / GIGABYTE:.1f} GB, "
            f"{available / GIGABYTE:.1f} GB may be used",
            "Give --no-signal, smaller images, or raise --max-memory.",
        )


def _refine(
    config: CtfRefineConfig, particles: Particles, reference: MapReference, half_set: Tensor, device: torch.device
) -> Found:
    moves = config.defocus or config.astigmatism
    steps = ["noise"] + ["beam tilt"] * config.beam_tilt + ["defocus"] * config.defocus
    steps += ["astigmatism"] * config.astigmatism + ["beam tilt"] * (config.beam_tilt and moves)
    steps += ["signal"] * config.signal
    found = None
    with progress("Refining aberrations", len(steps)) as done:
        for step in steps:
            if step == "noise":
                match = match_particles(particles, reference, half_set, device=device, batch_size=_BATCH)
                found = Found(match)
            assert found is not None
            match = found.match
            if step == "beam tilt":
                tilts = estimate_beam_tilt(
                    match,
                    trefoil=config.trefoil,
                    lowest_resolution_in_angstroms=config.lowest_resolution_in_angstroms,
                )
                found = dataclasses.replace(
                    found, tilts=tilts, match=match.with_particles(with_beam_tilt(match.particles, tilts))
                )
            elif step in ("defocus", "astigmatism") and match.finest_in_angstroms > _COARSE_FOR_DEFOCUS:
                pass  # maps that hold nothing finer are blind to it
            elif step == "defocus":
                defocus = refine_defocus(match, search_in_angstroms=config.search_in_angstroms)
                moved = match.with_particles(with_defocus(match.particles, defocus, match))
                found = dataclasses.replace(found, defocus=defocus, match=moved)
            elif step == "astigmatism":
                astigmatism = refine_micrograph_defocus(match)
                moved = match.with_particles(with_defocus(match.particles, astigmatism, match))
                found = dataclasses.replace(found, astigmatism=astigmatism, match=moved)
            elif step == "signal":
                found = dataclasses.replace(found, signal=micrograph_signal(match, shape=config.drift_shape))
            done(step)
    assert found is not None
    return found


def _write(job: Job, found: Found, sentences: tuple[str, ...], seconds: float) -> list[Path]:
    particles = found.match.particles
    extra: dict[str, list[float]] = {}
    if found.defocus is not None:
        deviation = found.defocus.standard_deviation_in_angstroms
        extra["cryoprismDefocusDeviation"] = [round(v, 2) for v in deviation.tolist()]
    outputs = [job.path / "particles.star", job.path / "aberrations.json"]
    write_particles(outputs[0], particles, extra_columns=extra)
    write_json(outputs[1], found_document(found, sentences, seconds))
    if found.signal is not None:
        folder = job.folder("weights")
        for number, name in enumerate(found.signal.names):
            path = folder / f"{PurePosixPath(name).stem}.star"
            write_star(path, [directional_weights_block(found.signal.table(number))])
            outputs.append(path)
    job.write_relion_output_nodes({"particles.star": 3})
    return outputs


def _report(config: CtfRefineConfig, job: Job, found: Found, sentences: tuple[str, ...], careful: list[str]) -> Path:
    noise, finest = found.match.noise, found.match.finest_in_angstroms
    return aberrations_report(
        job.path,
        title=f"Aberrations of {config.particles_file.name}",
        sentences=sentences,
        warnings=careful,
        facts={
            "particles": str(len(found.match.particles)),
            "micrographs": str(len(noise.names)),
            "optics groups": str(len(found.tilts)) if found.tilts else "not asked for",
            "finest frequencies": f"{finest:.2f} Å",
        },
        micrograph=noise.micrograph.tolist(),
        names=noise.names,
        tilts=found.tilts,
        defocus=found.defocus,
        astigmatism=found.astigmatism,
        signal=found.signal,
    )
