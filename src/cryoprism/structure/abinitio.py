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

from .likelihood import AlignmentData, packed_count
from .maximisation import noise_from_power
from .pose_search import SearchPlan, search
from .schedule import FirstMapSettings, RefinementSettings
from .slices import FourierVolume
from .spherical_start import StartState, order_of_start, start_about_sphere

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
    first: FirstMapSettings | None = None,
    *,
    box: int,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
    state: StartState | None = None,
    on_pass: Callable[[StartState], None] = lambda state: None,
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
    first
        Starts, passes, detail and seed; all as usual if absent.
    box
        Side of the images.
    device
        Where maps are and the work is done; particles may stay in the host's memory.
    on_progress
        Called with passes done and passes in all: before the first pass, and after each.
    state
        What ``on_pass`` was given last by an earlier run with the same particles and settings.
    on_pass
        Called after each pass.
    """
    found = start_about_sphere(
        images,
        transfer,
        group,
        settings,
        first or FirstMapSettings(),
        box=box,
        device=device,
        on_progress=on_progress,
        state=state,
        on_pass=on_pass,
    )
    radius = found.radius
    count = packed_count(radius)
    images, transfer = images[:, :count], transfer[:, :count]
    posterior = search(
        AlignmentData(images, transfer, noise_from_power(images, group, radius), group, box),
        FourierVolume.from_map(found.map, max_radius=radius),
        _plan(settings, radius),
        symmetry=settings.symmetry,
    )
    rotations, shifts = (pose.to(images.device) for pose in posterior.best())
    resolution = box * settings.pixel_size_in_angstroms / radius
    return InitialModel(found.map, resolution, found.log_evidence, found.chosen, rotations, shifts)


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
