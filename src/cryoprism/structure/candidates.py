"""A first look at poses near a few candidates per particle, over all shifts."""

from __future__ import annotations

import math

from torch import Tensor

from cryoprism.core import point_group_matrices

from .likelihood import (
    AlignmentData,
    Posterior,
    PosteriorParts,
    batch_size,
    batches,
    log_shift_prior,
    packed_count,
    scores_of,
)
from .orientations import shift_disc
from .pose_search import ball_of_rotations
from .schedule import RefinementSettings
from .slices import FourierVolume

__all__ = ["near_candidates"]

# How far about a candidate is searched [degrees], in steps of what the radius can tell apart.
_AROUND = 15.0
_MOST_STEPS = 3


def near_candidates(
    data: AlignmentData, volume: FourierVolume, candidates: Tensor, radius: int, settings: RefinementSettings
) -> Posterior:
    """Posterior over orientations about candidates and all shifts; evidence in the units of a global search.

    Parameters
    ----------
    data
        n particles.
    volume
        Transform of the reference.
    candidates
        (n, k, 3, 3).
    radius
        Shells used.
    settings
        Diameter, pixel size, symmetry and range of shifts.
    """
    pixel, device = settings.pixel_size_in_angstroms, volume.table.device
    detail = data.box * pixel / radius
    finest = math.degrees(0.5 * detail / (0.5 * settings.diameter_in_angstroms))
    reach = max(1, min(_MOST_STEPS, math.ceil(_AROUND / finest)))
    step = _AROUND / reach
    ball = ball_of_rotations(step, reach).to(device)
    reach_of_shifts = settings.shift_range_in_angstroms / pixel
    shift_step = max(0.5, min(1.0, 0.12 * detail / pixel))
    disc = shift_disc(reach_of_shifts, shift_step, device)
    # The share of all orientations and of the shifts that a sample stands for.
    order = len(point_group_matrices(settings.symmetry))
    share = math.log(math.radians(step) ** 3 * order / (8 * math.pi**2))
    share += math.log(shift_step**2 / (2 * math.pi * (0.5 * reach_of_shifts) ** 2))
    count = packed_count(radius)
    many = candidates.shape[1] * len(ball)
    parts = PosteriorParts()
    for run in batches(len(data), batch_size(3e7, many * count, 32, device)):
        turns = (ball @ candidates[run].to(device)[:, :, None]).flatten(1, 2)
        slices = volume.slices(turns.reshape(-1, 3, 3), radius).reshape(*turns.shape[:2], count)
        moves = disc.expand(len(turns), -1, -1)
        scores = scores_of(data, run, slices, moves, radius) + log_shift_prior(moves, reach_of_shifts)
        parts.add(turns, moves, scores, 64, share)
    return parts.joined()
