"""A first map without any reference: stochastic refinement from noise, several starts, the best one kept.

Each start begins with a smooth ball of random lumps. Small random batches of particles are aligned to it by the same
search as in refinement, and the sums that make the map forget older batches exponentially, so that early wrong views
fade (stochastic gradient descent with momentum in the space of Fourier sums: Punjani et al. 2017, Nat. Methods 14, 290,
in the form of variable-metric steps of Kimanius et al. 2021, Biochem. J. 478, 4169). Resolution grows from coarse to
fine. Particles of high symmetry (T, O, I) are nearly round and take another way (:mod:`.spherical_start`). The hand of
the map is not determined by images of projections.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import generator_for, point_group_matrices

from .fsc import radial_filter
from .likelihood import AlignmentData, packed_count, radius_of
from .masks import soft_sphere
from .maximisation import insert_posterior, noise_from_power
from .orientations import OrientationCells
from .pose_search import SearchPlan, search
from .schedule import RefinementSettings
from .slices import FourierVolume, SliceAccumulator, split_point_group
from .spherical_start import finest_of_round_start, is_round_group, start_about_sphere

__all__ = ["InitialModel", "ab_initio", "finest_of_start"]

_FINEST_IN_ANGSTROMS = 12.0
_COARSEST_IN_ANGSTROMS = 35.0


@dataclass(frozen=True)
class InitialModel:
    """The best of several starts.

    Attributes
    ----------
    map
        (box, box, box) low-passed, in the units of the images, on the device of the work.
    resolution_in_angstroms
        Of the low-pass: the detail that the last batches used.
    log_evidence
        (starts,) mean log evidence per particle of each start on the same test batch.
    chosen
        Which start was kept.
    rotations, shifts
        (n, 3, 3) and (n, 2) [pixels]: most probable poses of all particles against the map.
    """

    map: Tensor
    resolution_in_angstroms: float
    log_evidence: Tensor
    chosen: int
    rotations: Tensor
    shifts: Tensor


@dataclass
class _Start:
    map: Tensor
    sums: SliceAccumulator
    evidence: float = -math.inf


def finest_of_start(symmetry: str, diameter_in_angstroms: float) -> float:
    """Detail [Å] down to which a first map is sought: 12, or finer where the particle is nearly round."""
    return finest_of_round_start(diameter_in_angstroms) if is_round_group(symmetry) else _FINEST_IN_ANGSTROMS


def ab_initio(
    images: Tensor,
    transfer: Tensor,
    group: Tensor,
    settings: RefinementSettings,
    *,
    box: int,
    starts: int = 3,
    batches: int = 40,
    batch_size: int | None = None,
    finest_in_angstroms: float | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> InitialModel:
    """Find a map from noise.

    Parameters
    ----------
    images, transfer
        (n, N) packed coefficients of the unmasked images, and what multiplies the signal.
    group
        (n,) micrograph of each particle.
    settings
        Symmetry, diameter, pixel size, range of shifts.
    box
        Side of the images.
    starts
        Random starts; half of the batches decide which one is continued.
    batches
        Batches of the start that is kept.
    batch_size
        Particles in a batch; from 100 to 300, by the number of particles, if absent.
    finest_in_angstroms
        Detail down to which it is sought; :func:`finest_of_start` if absent.
    seed
        Of starts and batches.
    device
        Where maps are and the work is done; particles may stay in the host's memory.
    on_progress
        Called with batches done and batches in all.
    """
    pixel = settings.pixel_size_in_angstroms
    extent = box * pixel
    finest = finest_in_angstroms or finest_of_start(settings.symmetry, settings.diameter_in_angstroms)
    if is_round_group(settings.symmetry):
        radius = min(radius_of(images), round(extent / finest))
        found = start_about_sphere(
            images,
            transfer,
            group,
            settings,
            box=box,
            radius=radius,
            starts=starts,
            seed=seed,
            device=device,
            on_progress=on_progress,
        )
        noise = noise_from_power(images, group, radius_of(images))
        return _with_poses(
            found.map, images, transfer, group, noise, settings, radius, found.log_evidence, found.chosen
        )
    coarse = max(3, round(extent / _COARSEST_IN_ANGSTROMS))
    most = radius_of(images)
    fine = min(most, max(coarse + 2, round(extent / max(finest, 2.5 * pixel))))
    size = batch_size or int(min(len(images), max(100, min(300, len(images) // 10))))
    noise = noise_from_power(images, group, most)
    trial = max(4, batches // 2)
    total = starts * trial + batches - trial
    done = 0

    def step(start: _Start, number: int, seed_key: int) -> None:
        nonlocal done
        progress = number / max(1, batches - 1)
        radius = round(coarse + (fine - coarse) * min(1.0, 1.4 * progress))
        chosen = torch.randperm(len(images), generator=generator_for(seed, "batch", seed_key, number))[:size]
        _learn(start, images, transfer, group, noise, chosen, settings, radius, progress, number)
        done += 1
        if on_progress is not None:
            on_progress(done, total)

    candidates = []
    for index in range(starts):
        generator = generator_for(seed, "start", index)
        first = _random_map(box, settings, generator, images, transfer).to(device)
        start = _Start(first, SliceAccumulator(box, max_radius=most, device=device))
        for number in range(trial):
            step(start, number, index)
        candidates.append(start)
    test = torch.randperm(len(images), generator=generator_for(seed, "test"))[: 2 * size]
    test_radius = round(coarse + (fine - coarse) * min(1.0, 1.4 * 0.5))
    for start in candidates:
        start.evidence = _evidence(start.map, images, transfer, group, noise, test, settings, test_radius)
    evidence = torch.tensor([start.evidence for start in candidates])
    chosen = int(evidence.argmax())
    best = candidates[chosen]
    for number in range(trial, batches):
        step(best, number, chosen)
    return _with_poses(best.map, images, transfer, group, noise, settings, fine, evidence, chosen)


def _with_poses(
    volume: Tensor,
    images: Tensor,
    transfer: Tensor,
    group: Tensor,
    noise: Tensor,
    settings: RefinementSettings,
    radius: int,
    evidence: Tensor,
    chosen: int,
) -> InitialModel:
    """Search the poses of all particles against the map that was kept."""
    box = int(volume.shape[-1])
    posterior = search(
        AlignmentData(images, transfer, noise, group, box),
        FourierVolume.from_map(volume, max_radius=radius),
        _plan(settings, radius, 1.0),
        symmetry=settings.symmetry,
    )
    rotations, shifts = (pose.to(images.device) for pose in posterior.best())
    detail = box * settings.pixel_size_in_angstroms / radius
    return InitialModel(volume, detail, evidence, chosen, rotations, shifts)


def _random_map(
    box: int, settings: RefinementSettings, generator: torch.Generator, images: Tensor, transfer: Tensor
) -> Tensor:
    """Smooth random lumps inside the particle's sphere, as strong as the particles' low shells."""
    pixel = settings.pixel_size_in_angstroms
    white = torch.randn(box, box, box, generator=generator)
    shells = torch.arange(box // 2 + 1, dtype=torch.float32)
    width = box * pixel / (0.5 * settings.diameter_in_angstroms)
    lumps = radial_filter(white, torch.exp(-0.5 * (shells / width) ** 2))
    sphere = soft_sphere((box, box, box), pixel, 0.4 * settings.diameter_in_angstroms)
    lumps = (lumps / lumps.std() + 1.5).clamp_min(0) * sphere
    lumps = lumps.to(images.device)
    low = packed_count(4)
    volume = FourierVolume.from_map(lumps, max_radius=4)
    cells = OrientationCells(1, torch.eye(3))
    view = (volume.slices(cells.matrices(torch.arange(0, 48 * cells.steps, 7)), 4).abs() ** 2).mean(0)
    expected = (view * (transfer[:, :low] ** 2).mean(0)).sum()
    power = (images[:, :low].abs() ** 2).mean(0).sum()
    return lumps * math.sqrt(0.5 * float(power) / max(float(expected), 1e-30))


def _plan(settings: RefinementSettings, radius: int, progress: float) -> SearchPlan:
    high = len(point_group_matrices(settings.symmetry)) >= 12
    first = 2 if high else 1
    orders = (first, first + 1) if progress < 0.3 else (first, first + 1, first + 2)
    radii = tuple(max(3, round(radius * (0.6 + 0.4 * i / (len(orders) - 1)))) for i in range(len(orders)))
    return SearchPlan(
        orders=orders,
        radii=radii,
        shift_range=settings.shift_range_in_angstroms / settings.pixel_size_in_angstroms,
        shift_step=max(1.5, 0.12 * settings.diameter_in_angstroms / settings.pixel_size_in_angstroms * 0.25),
        keep=16,
    )


def _learn(
    start: _Start,
    images: Tensor,
    transfer: Tensor,
    group: Tensor,
    noise: Tensor,
    chosen: Tensor,
    settings: RefinementSettings,
    radius: int,
    progress: float,
    number: int,
) -> None:
    box = int(start.map.shape[-1])
    data = AlignmentData(images[chosen], transfer[chosen], noise, group[chosen], box)
    volume = FourierVolume.from_map(start.map, max_radius=radius)
    offset = OrientationCells(0, torch.eye(3)).matrices(torch.tensor([number % 72]))[0]
    posterior = search(data, volume, _plan(settings, radius, progress), symmetry=settings.symmetry, offset=offset)
    exact, copies = split_point_group(point_group_matrices(settings.symmetry))
    device = start.map.device
    fresh = SliceAccumulator(box, max_radius=start.sums.grid.max_radius, device=device)
    insert_posterior(fresh, data, posterior, radius, copies=copies if len(copies) > 1 else None)
    # The memory grows: about two batches at first, a whole set in the end.
    keep = 0.5 + 0.42 * progress
    start.sums.sums.mul_(keep).add_(fresh.sums)
    accumulator = start.sums.symmetrised(exact) if len(exact) > 1 else start.sums
    weights = accumulator.shell_weights()
    shells = torch.arange(len(weights), dtype=torch.float32, device=device)
    # Prior power falls with frequency; it holds back shells that a batch hardly determines.
    typical = weights[1 : radius + 1].mean()
    prior = 0.15 * typical * (1 + (shells / max(radius, 1)) ** 2)
    new = accumulator.reconstruct(prior.clamp_min(1e-12), iterations=0)
    sphere = soft_sphere((box, box, box), settings.pixel_size_in_angstroms, 0.5 * settings.diameter_in_angstroms)
    sphere = sphere.to(device)
    gain = 0.5 * (1 + torch.cos(math.pi * ((torch.arange(box // 2 + 1).float() - radius + 1) / 3).clamp(0, 1)))
    gain[radius + 2 :] = 0
    start.map = radial_filter(new * sphere, gain) * sphere


def _evidence(
    volume: Tensor,
    images: Tensor,
    transfer: Tensor,
    group: Tensor,
    noise: Tensor,
    chosen: Tensor,
    settings: RefinementSettings,
    radius: int,
) -> float:
    data = AlignmentData(images[chosen], transfer[chosen], noise, group[chosen], int(volume.shape[-1]))
    plan = _plan(settings, radius, 1.0)
    posterior = search(data, FourierVolume.from_map(volume, max_radius=radius), plan, symmetry=settings.symmetry)
    return float(posterior.log_evidence.mean())
