"""Who is in synthetic micrographs and how they lie: the population that a configuration of ``synthesize`` asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from cryoprism.core import InputError
from cryoprism.synthesis import (
    Arrangement,
    Clusters,
    Filaments,
    Helix,
    Population,
    PreferredViews,
    SessionMatch,
    Species,
    conformations_from_files,
    least_height_in_angstroms,
    morph,
    one_repeat,
    specimen_name,
)

from .configs import SynthesizeConfig

__all__ = ["population_of", "require_ice", "require_tilt"]

Value = TypeVar("Value")


def population_of(config: SynthesizeConfig) -> Population:
    """Species, conformations and arrangement that a configuration asks for.

    Raises
    ------
    InputError
        A file cannot be read, has no scale, or is no repeat of the filament that it is to make.
    """
    helix = None
    if config.helical_rise is not None:
        helix = Helix(
            rise_in_angstroms=config.helical_rise,
            twist_in_degrees=config.helical_twist,
            axis_offset_in_angstroms=config.axis_offset_in_angstroms,
        )
    species = []
    for number, entry in enumerate(config.maps):
        files = [part.strip() for part in entry.split(",")]
        assembly = _of(config.assembly, number)
        states = conformations_from_files(
            files,
            assembly=None if assembly == "none" else assembly,
            molecular_mass_in_kilodaltons=_of(config.mass_in_kilodaltons, number),
            contour=_of(config.contour, number),
            symmetry=_of(config.symmetry, number) or "C1",
            resolution_in_angstroms=config.lowpass_in_angstroms,
        )
        if config.morph and len(states) == 2:
            states = morph(states[0], states[1], config.morph + 2)
        if helix is not None:
            states = tuple(one_repeat(state, helix) for state in states)
        shares = _of(config.conformation_shares, number) or ()
        if shares and len(shares) != len(states):
            raise InputError(
                "--conformation-share",
                f"{len(shares)} shares for the {len(states)} conformations of {entry}",
                "Give one for each conformation, joined by commas; those of --morph count too.",
            )
        species.append(Species(name=specimen_name(files[0]), conformations=states, shares=shares, helix=helix))
    return Population(species=tuple(species), shares=config.shares, arrangement=_arrangement(config))


def _of(values: Sequence[Value], number: int) -> Value | None:
    """Value of a species: its own, the one for all, or none."""
    return None if not values else values[number if len(values) > 1 else 0]


def _arrangement(config: SynthesizeConfig) -> Arrangement:
    views = None
    if config.preferred_views:
        count = len(config.preferred_views)
        views = PreferredViews(
            directions_in_degrees=config.preferred_views,
            shares=(config.view_share / count,) * count,
            concentrations=(config.view_concentration,) * count,
        )
    filaments, clusters = None, None
    if config.filaments:
        filaments = Filaments(
            count=config.filaments,
            length_in_angstroms=config.filament_length_in_angstroms,
            persistence_length_in_angstroms=config.persistence_length_in_angstroms,
        )
    if config.cluster_share > 0:
        clusters = Clusters(
            share=config.cluster_share,
            members=config.cluster_size,
            spread_in_angstroms=config.cluster_spread_in_angstroms,
        )
    return Arrangement(
        views=views,
        interface_share=config.interface_share,
        clusters=clusters,
        aggregate_share=config.aggregate_share,
        aggregate_size=config.aggregate_size,
        filaments=filaments,
    )


def require_ice(config: SynthesizeConfig, population: Population) -> None:
    """Raise an error, before anything is matched, where no view of a particle fits into the ice that was asked for."""
    thickness = config.ice_thickness_in_angstroms
    if thickness is None:
        return
    for species in population.species:
        for conformation in species.conformations:
            least = least_height_in_angstroms(conformation)
            if species.helix is None and thickness < 0.95 * least:
                raise InputError(
                    "--ice-thickness",
                    f"{thickness:g} Å, but '{conformation.name}' is {least:.0f} Å high however it is turned",
                    "Give thicker ice.",
                )


def require_tilt(config: SynthesizeConfig, match: SessionMatch) -> None:
    """Raise an error, before anything is made, where a tilted film would reach through the focus of the lens."""
    if config.tilt_in_degrees == 0:
        return
    axis = math.radians(config.tilt_axis_in_degrees)
    for one in match.micrographs:
        height = config.height_in_pixels or one.scene.height_in_pixels
        width = config.width_in_pixels or one.scene.width_in_pixels
        reach = 0.5 * (abs(math.cos(axis)) * height + abs(math.sin(axis)) * width)
        reach *= one.scene.pixel_size_in_angstroms * math.tan(math.radians(abs(config.tilt_in_degrees)))
        least = match.defocus_range_in_angstroms[0]
        if reach > least:
            raise InputError(
                "--tilt",
                f"at {config.tilt_in_degrees:g}° the film reaches {reach:.0f} Å above the middle of the field, but "
                f"scenes are drawn from a defocus of {least:.0f} Å on",
                "Tilt less, make smaller micrographs (--width, --height), or match ones further from focus.",
            )
