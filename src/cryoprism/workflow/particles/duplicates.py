"""Particles that stand in a table more than once: left out, or refused where both half sets hold one."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from cryoprism.core import InputError
from cryoprism.formats import Particles
from cryoprism.particles import find_duplicate_particles, leaked_halves, same_images
from cryoprism.structure import split_half_sets

__all__ = ["require_both_halves", "without_copies", "without_duplicates"]

log = logging.getLogger("cryoprism")


def without_duplicates(particles: Particles, min_distance_in_angstroms: float, seed: int) -> tuple[Particles, int]:
    """Leave out particles that stand on others, then split half sets by micrograph; given ones stay.

    Raises
    ------
    InputError
        Half sets are given and one particle stands in both, or all in one.
    """
    leaked_halves(particles, min_distance_in_angstroms=min_distance_in_angstroms, contents=False)
    names: dict[str, int] = {}
    drop = torch.tensor([names.setdefault(name, i) != i for i, name in enumerate(particles.image_names)])
    if particles.coordinates_in_pixels is not None and particles.micrograph_names is not None:
        drop |= find_duplicate_particles(particles, min_distance_in_angstroms)
    count = int(drop.sum())
    if count:
        log.info("Left out %d particles that lie on others", count)
        particles = particles.subset(~drop)
    require_both_halves(particles)
    return replace(particles, half_set=split_half_sets(particles, seed)), count


def without_copies(particles: Particles, min_distance_in_angstroms: float, seed: int) -> tuple[Particles, int]:
    """Do as :func:`without_duplicates`, and compare pixels too: copies of a stack have other names.

    Raises
    ------
    InputError
        As there, or images cannot be read.
    """
    given = particles.half_set is not None
    kept, count = without_duplicates(particles, min_distance_in_angstroms, seed)
    first = same_images(kept)
    copies = first != torch.arange(len(kept))
    if not bool(copies.any()):
        return kept, count
    if given:
        leaked_halves(particles, min_distance_in_angstroms=0)  # says which rows, where both halves hold one
    log.info("Left out %d images that stand in the table twice", int(copies.sum()))
    kept = kept.subset(~copies)
    # Halves that were drawn with the copies may be uneven without them.
    halves = split_half_sets(kept if given else replace(kept, half_set=None), seed)
    return replace(kept, half_set=halves), count + int(copies.sum())


def require_both_halves(particles: Particles) -> None:
    """Refuse half sets that the table gives where one of them is empty.

    Raises
    ------
    InputError
        All particles are in one half.
    """
    if particles.half_set is None:
        return
    halves = split_half_sets(particles)
    one, two = int((halves == 1).sum()), int((halves == 2).sum())
    if min(one, two) == 0:
        raise InputError(
            particles.source or "particles",
            f"rlnRandomSubset gives half sets of {one} and {two} particles",
            "Delete the column rlnRandomSubset, so that halves are drawn, or give each half some particles.",
        )
