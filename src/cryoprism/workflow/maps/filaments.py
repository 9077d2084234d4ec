"""What ``cryoprism refine`` does for filaments: which segments belong together, where their axes lie, settings."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cryoprism.core import InputError, euler_to_matrix
from cryoprism.formats import Particles
from cryoprism.structure import Filament, HelicalSymmetry, split_half_sets

from .configs import RefineConfig

__all__ = ["axes_of_filaments", "filament_of", "halves_by_filament", "nearest_segments"]


def filament_of(config: RefineConfig, box: int, pixel_size_in_angstroms: float) -> Filament | None:
    """Filament that the options describe; None where they ask for no helix.

    Raises
    ------
    InputError
        The central part of the box is shorter than the rise, or the filament is wider than the particle's sphere.
    """
    rise, twist = config.helical_rise_in_angstroms, config.helical_twist_in_degrees
    if rise is None or twist is None:
        return None
    extent = box * pixel_size_in_angstroms
    if config.helical_central_fraction * extent < rise:
        raise InputError(
            "--helical-central-fraction",
            f"{config.helical_central_fraction:g} of a box of {extent:.4g} Å is less than the rise of {rise:g} Å",
            "Raise it, or extract the segments in larger boxes.",
        )
    diameter = config.helical_diameter_in_angstroms or config.diameter_in_angstroms
    if diameter > config.diameter_in_angstroms:
        raise InputError(
            "--helical-diameter",
            f"{diameter:g} Å is more than the sphere of {config.diameter_in_angstroms:g} Å that is looked at",
            "Raise --diameter to the length of filament that is to be used, or lower it.",
        )
    return Filament(
        HelicalSymmetry(rise, twist),
        diameter,
        units=config.helical_units,
        central_fraction=config.helical_central_fraction,
        axis_spread_in_degrees=config.helical_axis_spread_in_degrees,
        rise_range_in_angstroms=0.05 * rise if config.helical_search else 0.0,
        twist_range_in_degrees=2.0 if config.helical_search else 0.0,
    )


def nearest_segments(config: RefineConfig) -> float:
    """Distance [Å] below which two segments are one and the same: they overlap, but lie a rise apart at least."""
    rise = config.helical_rise_in_angstroms
    return config.min_distance_in_angstroms if rise is None else min(config.min_distance_in_angstroms, 0.5 * rise)


def _tubes(particles: Particles) -> tuple[str, ...] | None:
    """Name of each segment's filament; None where the table does not tell (rlnHelicalTubeID)."""
    table = particles.table
    if table is None or "rlnHelicalTubeID" not in table:
        return None
    numbers = table.column("rlnHelicalTubeID")
    names = particles.micrograph_names or ("",) * len(numbers)
    return tuple(f"{name} tube {number}" for name, number in zip(names, numbers, strict=True))


def halves_by_filament(particles: Particles, seed: int) -> Particles:
    """Table with half sets in which no filament stands in both: its segments show the same pixels.

    Whole micrographs are drawn as for particles; where there is only one, whole filaments.

    Raises
    ------
    InputError
        The table's half sets divide a filament, or one micrograph's segments cannot be told apart.
    """
    tubes = _tubes(particles)
    where = particles.source or "particles"
    if particles.half_set is None:
        names = particles.micrograph_names
        if names is None or len(set(names)) < 2:
            if tubes is None or len(set(tubes)) < 2:
                raise InputError(
                    where,
                    "does not tell filaments apart, and neighbouring segments share pixels",
                    "Give rlnHelicalTubeID and several filaments, or several micrographs.",
                )
            return replace(particles, half_set=split_half_sets(replace(particles, micrograph_names=tubes), seed))
        return replace(particles, half_set=split_half_sets(particles, seed))
    whole, kind = (tubes, "filament") if tubes is not None else (particles.micrograph_names, "micrograph")
    if whole is None:
        raise InputError(
            where,
            "rlnRandomSubset is given but no filament or micrograph is named: both halves may show the same pixels",
            "Give rlnHelicalTubeID or rlnMicrographName.",
        )
    half: dict[str, int] = {}
    for name, number in zip(whole, particles.half_set.tolist(), strict=True):
        if half.setdefault(name, number) != number:
            raise InputError(
                where,
                f"rlnRandomSubset puts segments of one {kind} ({name}) into both halves",
                "Leave rlnRandomSubset out: halves are then whole micrographs or filaments."
                if tubes is not None
                else "Give rlnHelicalTubeID, which tells filaments apart, or leave rlnRandomSubset out.",
            )
    return particles


def axes_of_filaments(particles: Particles) -> Tensor | None:
    """Direction (n, 3) of each filament in its view by rlnAngleTiltPrior and rlnAnglePsiPrior; None without psi."""
    table = particles.table
    if table is None or "rlnAnglePsiPrior" not in table:
        return None
    psi = torch.from_numpy(table.numbers("rlnAnglePsiPrior"))
    tilt = torch.full_like(psi, 90.0)
    if "rlnAngleTiltPrior" in table:
        tilt = torch.from_numpy(table.numbers("rlnAngleTiltPrior"))
    axes: Tensor = euler_to_matrix(torch.zeros_like(psi), tilt, psi)[:, :, 2].float()
    return axes
