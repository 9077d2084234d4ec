"""A first map without any reference: several starts from noise, the best one kept.

Each start is weak random detail about the measured spherical average of the particles, which passes over all
orientations of a coarse grid turn into a map (:mod:`.spherical_start`). The log evidence chooses among the starts. The
hand of the map is not determined by images of projections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .likelihood import AlignmentData, packed_count, radius_of
from .maximisation import noise_from_power
from .pose_search import SearchPlan, search
from .schedule import RefinementSettings
from .slices import FourierVolume
from .spherical_start import finest_of_start, order_of_start, start_about_sphere

__all__ = ["InitialModel", "ab_initio"]


@dataclass(frozen=True)
class InitialModel:
    """The best of several starts.

    Attributes
    ----------
    map
        (box, box, box) low-passed, in the units of the images, on the device of the work.
    resolution_in_angstroms
        The detail that the passes used.
    log_evidence
        (starts,) mean log evidence per particle of each start, on the same grids.
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


def ab_initio(
    images: Tensor,
    transfer: Tensor,
    group: Tensor,
    settings: RefinementSettings,
    *,
    box: int,
    starts: int = 3,
    passes: int | None = None,
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
        Random starts; twelve passes (eight with large cells) decide which one is continued.
    passes
        Passes of the start that is kept; 30 if absent, 16 with large cells, which settle sooner and cost more.
    finest_in_angstroms
        Detail down to which it is sought; :func:`finest_of_start` if absent.
    seed
        Of starts, grids and the choice of particles.
    device
        Where maps are and the work is done; particles may stay in the host's memory.
    on_progress
        Called with passes done and passes in all.
    """
    extent = box * settings.pixel_size_in_angstroms
    finest = finest_in_angstroms or finest_of_start(settings.symmetry, settings.diameter_in_angstroms)
    radius = min(radius_of(images), max(3, round(extent / finest)))
    trial, usual = (12, 30) if order_of_start(settings.symmetry) == 3 else (8, 16)
    passes = usual if passes is None else passes
    found = start_about_sphere(
        images,
        transfer,
        group,
        settings,
        box=box,
        radius=radius,
        starts=starts,
        trial_passes=min(trial, passes),
        passes=passes,
        seed=seed,
        device=device,
        on_progress=on_progress,
    )
    count = packed_count(radius)
    images, transfer = images[:, :count], transfer[:, :count]
    posterior = search(
        AlignmentData(images, transfer, noise_from_power(images, group, radius), group, box),
        FourierVolume.from_map(found.map, max_radius=radius),
        _plan(settings, radius),
        symmetry=settings.symmetry,
    )
    rotations, shifts = (pose.to(images.device) for pose in posterior.best())
    return InitialModel(found.map, extent / radius, found.log_evidence, found.chosen, rotations, shifts)


def _plan(settings: RefinementSettings, radius: int) -> SearchPlan:
    last = order_of_start(settings.symmetry)
    pixel = settings.pixel_size_in_angstroms
    return SearchPlan(
        orders=(last - 1, last, last + 1),
        radii=tuple(max(3, round(radius * share)) for share in (0.6, 0.8, 1.0)),
        shift_range=settings.shift_range_in_angstroms / pixel,
        shift_step=max(1.5, 0.03 * settings.diameter_in_angstroms / pixel),
        keep=16,
    )
