"""Parts of ``cryoprism refine``: states on disk, and the last maps with all shells."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from cryoprism.core import InputError, euler_to_matrix, matrix_to_euler, point_group_matrices, resolve_device
from cryoprism.formats import Particles
from cryoprism.structure import FourierVolume, SliceAccumulator, split_point_group
from cryoprism.structure.likelihood import AlignmentData, Posterior
from cryoprism.structure.maximisation import insert_posterior, noise_from_power
from cryoprism.structure.refinement import posterior_of
from cryoprism.structure.refinement_state import RefinementState
from cryoprism.structure.schedule import RefinementSettings
from cryoprism.structure.spherical_start import StartState
from cryoprism.workflow.jobs.files import atomic_path
from cryoprism.workflow.particles.data import ParticleData

from .filaments import axes_of_filaments

__all__ = [
    "FinalMaps",
    "final_maps",
    "map_of_poses",
    "pose_columns",
    "posed_particles",
    "read_state",
    "search_device",
    "write_state",
]

State = TypeVar("State", RefinementState, StartState)

_BATCH = 4096


@dataclass(frozen=True, eq=False)
class FinalMaps:
    """Half maps with all shells, and the poses that made them.

    Attributes
    ----------
    half1, half2
        (box, box, box), unfiltered, on the CPU as all the rest.
    rotations, shifts
        (n, 3, 3) and (n, 2) [pixels] of the most probable pose.
    probability
        (n,) share of the posterior that it has.
    log_evidence
        (n,) against an empty image.
    significant
        (n,) number of orientations that share the posterior.
    """

    half1: Tensor
    half2: Tensor
    rotations: Tensor
    shifts: Tensor
    probability: Tensor
    log_evidence: Tensor
    significant: Tensor


def search_device(name: str) -> torch.device:
    """Device of a search for poses.

    Raises
    ------
    InputError
        The machine has no such device, or it has no double precision.
    """
    device = resolve_device(name)
    if device.type == "mps":
        raise InputError("--device", "'mps' has no double precision, which rotations need", "Use cpu or cuda.")
    return device


def write_state(path: Path, state: RefinementState | StartState, stamp: str) -> None:
    """Write a state whole or not at all; ``stamp`` says what it belongs to."""
    arrays: dict[str, np.ndarray] = {}
    rest: dict[str, Any] = {"stamp": stamp}
    for field in fields(state):
        value = getattr(state, field.name)
        if isinstance(value, Tensor):
            arrays[field.name] = value.detach().cpu().numpy()
        elif isinstance(value, tuple) and value and isinstance(value[0], Tensor):
            for i, part in enumerate(value):
                arrays[f"{field.name}.{i}"] = part.detach().cpu().numpy()
        else:
            rest[field.name] = value
    text = np.frombuffer(json.dumps(rest).encode(), np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, _rest=text, **arrays)  # type: ignore[arg-type]


def read_state(path: Path, stamp: str, kind: type[State]) -> State | None:
    """State of a kind that :func:`write_state` wrote for the same ``stamp``; None where there is none."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    values: dict[str, Any] = json.loads(arrays.pop("_rest").tobytes().decode())
    if values.pop("stamp", None) != stamp:
        return None
    parts: dict[str, list[Tensor]] = {}
    for name, array in arrays.items():
        stem, dot, _ = name.partition(".")
        if dot:
            parts.setdefault(stem, []).append(torch.from_numpy(array))
        else:
            values[name] = torch.from_numpy(array)
    values |= {name: tuple(tensors) for name, tensors in parts.items()}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return kind(**values)
    except TypeError:  # written by another version
        return None


def map_of_poses(data: ParticleData, symmetry: str, finest_in_angstroms: float) -> Tensor:
    """Map (box, box, box) of all particles with the poses that their table brings, up to a resolution.

    Only for a start that is low-passed: halves are mixed.
    """
    particles = data.particles
    assert particles.angles_in_degrees is not None
    radius = max(4, min(data.radius, round(1.5 * data.box * data.pixel_size_in_angstroms / finest_in_angstroms)))
    rotations = euler_to_matrix(*particles.angles_in_degrees.unbind(-1)).float()
    origins = particles.origins_in_angstroms
    shifts = torch.zeros(len(particles), 2) if origins is None else origins.float() / data.pixel_size_in_angstroms
    ones = torch.ones(1, data.images.shape[1])
    part = AlignmentData(data.images, data.transfer, ones, torch.zeros(len(particles), dtype=torch.long), data.box)
    known = Posterior(
        rotations[:, None], shifts[:, None], torch.ones(len(particles), 1, 1), torch.zeros(len(particles))
    )
    accumulator = SliceAccumulator(data.box, max_radius=radius)
    exact, copies = split_point_group(point_group_matrices(symmetry))
    insert_posterior(accumulator, part, known, radius, copies=copies if len(copies) > 1 else None)
    if len(exact) > 1:
        accumulator = accumulator.symmetrised(exact)
    return accumulator.reconstruct(0.01 * accumulator.shell_weights(), iterations=0)


def posed_particles(data: ParticleData, rotations: Tensor, shifts: Tensor) -> Particles:
    """Return the table with poses: rotations (n, 3, 3), shifts (n, 2) [pixels]."""
    return replace(
        data.particles,
        angles_in_degrees=torch.stack(matrix_to_euler(rotations.double()), -1),
        origins_in_angstroms=shifts.double() * data.pixel_size_in_angstroms,
        class_number=torch.ones(len(data.particles), dtype=torch.long),
    )


def pose_columns(final: FinalMaps) -> dict[str, list[object]]:
    """Columns of RELION that say how sure each pose is."""
    return {
        "rlnLogLikeliContribution": [round(v, 3) for v in final.log_evidence.tolist()],
        "rlnMaxValueProbDistribution": [round(v, 5) for v in final.probability.tolist()],
        "rlnNrOfSignificantSamples": [max(1, round(v)) for v in final.significant.tolist()],
    }


def final_maps(
    data: ParticleData,
    state: RefinementState,
    settings: RefinementSettings,
    on_batch: Callable[[str], None] = lambda name: None,
) -> FinalMaps:
    """Find the posterior of every particle once more and insert all its shells into the map of its half.

    Filaments are symmetrised. Nothing is filtered; the two halves share nothing that the passes before did not share.

    Parameters
    ----------
    data, state, settings
        As in the last pass.
    on_batch
        Called after each batch of particles.
    """
    exact, copies = split_point_group(point_group_matrices(settings.symmetry))
    count = len(data.particles)
    rotations, shifts = torch.zeros(count, 3, 3), torch.zeros(count, 2)
    probability, evidence, significant = torch.zeros(count), torch.zeros(count), torch.zeros(count)
    noise = state.noise_variance
    if noise.shape[1] < data.images.shape[1]:
        # Shells that no pass has used hold noise alone, as far as anybody knows.
        noise = torch.cat([noise, noise_from_power(data.images, data.group, data.radius)[:, noise.shape[1] :]], 1)
    device = state.references[0].device
    filament = None if settings.filament is None else settings.filament.with_history(state.history)
    axes = None if filament is None else axes_of_filaments(data.particles)
    pixel = data.pixel_size_in_angstroms
    maps = []
    went_local = settings.local_passes > 0 and state.settled and state.iteration < settings.iterations
    for half in (1, 2):
        volume = FourierVolume.from_map(state.references[half - 1], max_radius=state.radius)
        accumulator = SliceAccumulator(data.box, max_radius=data.radius, device=device)
        rows = torch.nonzero(data.half_set == half)[:, 0]
        for start in range(0, len(rows), _BATCH):
            chosen = rows[start : start + _BATCH]
            strength = state.scales[data.group[chosen]][:, None]
            part = AlignmentData(
                data.images[chosen],
                data.transfer[chosen] * strength,
                noise,
                data.group[chosen],
                data.box,
            )
            told = None if axes is None else axes[chosen]
            posterior = posterior_of(part, volume, state, chosen, settings, axes=told, local=went_local)
            insert_posterior(
                accumulator,
                part,
                posterior,
                data.radius,
                copies=copies if len(copies) > 1 else None,
                helix=None if filament is None else filament.copies(pixel),
            )
            rotations[chosen], shifts[chosen] = (t.cpu() for t in posterior.best())
            probability[chosen], evidence[chosen] = posterior.probability().cpu(), posterior.log_evidence.cpu()
            significant[chosen] = posterior.effective_orientations().cpu()
            on_batch(f"half {half}, {start + len(chosen)} particles")
        if len(exact) > 1:
            accumulator = accumulator.symmetrised(exact)
        made = accumulator.reconstruct()
        maps.append((made if filament is None else filament.symmetrised(made, pixel)).cpu())
        del accumulator, volume
    return FinalMaps(maps[0], maps[1], rotations, shifts, probability, evidence, significant)
