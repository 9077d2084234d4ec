"""A population by true shapes: filaments first, then clumps, then single particles, all in one grid of cells."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoprism.core import InputError, random_rotations

from ._envelope import footprint
from ._filaments import lay_filaments
from ._ground import Ground, prepare, too_many, too_thin
from ._occupancy import Guest
from .arrangement import draw_rotations
from .placement import Placement, draw_members, tilt_matrix
from .scene import Scene
from .species import Population

__all__ = ["place_shapes"]

Integers = NDArray[np.int64]

_DENSEST = 0.64  # random close packing of spheres (Scott & Kilgour 1969): more is not worth a try
_SAMPLED_VIEWS = 12


def place_shapes(scene: Scene, population: Population, margin: float, support: Tensor | None) -> Placement:
    """See :func:`.placement.place_population`."""
    ground = prepare(scene, population, margin, support)
    filaments = lay_filaments(ground)
    wanted = _target(ground)
    species, conformations = draw_members(scene, population, wanted)
    wanted = len(species)
    arrangement, rng = population.arrangement, ground.rng
    film = draw_rotations(arrangement.views, wanted, scene.generator("orientation"))
    surface = np.where(rng.random(wanted) < arrangement.interface_share, np.where(rng.random(wanted) < 0.5, 1, -1), 0)
    film[torch.from_numpy(surface == -1)] *= torch.tensor([1.0, -1.0, -1.0])[:, None]
    rotations = tilt_matrix(scene) @ film
    turns = rotations.double().numpy()
    guests = []
    for i in range(wanted):
        envelope = ground.envelope(int(species[i]), int(conformations[i]))
        print_ = footprint(envelope, turns[i], ground.cell, rng.random(3) - 0.5, ground.slope)
        guests.append(ground.grid.guest(print_, ground.anywhere, int(surface[i])))
    _require_thick_enough(ground, guests, species, conformations)
    aggregates = _seat_all(ground, guests)
    homes = np.array([g.home for g in guests], dtype=float).reshape(-1, 3)
    fractions = np.array([g.footprint.fraction for g in guests]).reshape(-1, 3)
    centres = torch.from_numpy((homes + fractions) * ground.cell).float()
    centres[:, 2] += centres[:, :2] @ torch.from_numpy(ground.slope).float()
    zero = torch.zeros(wanted, dtype=torch.int64)
    return Placement(
        centres_in_angstroms=torch.cat([filaments.centres_in_angstroms, centres]),
        rotations=torch.cat([filaments.rotations, rotations]),
        species=torch.cat([filaments.species, species]),
        conformations=torch.cat([filaments.conformations, conformations]),
        filaments=torch.cat([filaments.filaments, zero]),
        arc_positions_in_angstroms=torch.cat([filaments.arc_positions_in_angstroms, zero.float()]),
        aggregates=torch.cat([filaments.aggregates, torch.from_numpy(aggregates)]),
    )


def _target(ground: Ground) -> int:
    """Single particles wanted in the field and its border."""
    arrangement, population = ground.population.arrangement, ground.population
    singles = [(i, s) for i, s in enumerate(population.shares) if population.species[i].helix is None]
    if not singles or sum(s for _, s in singles) == 0:
        return 0
    area, whole = ground.usable_area(ground.field), ground.usable_area(ground.room)
    views = random_rotations(_SAMPLED_VIEWS, ground.scene.generator("sampled views")).double().numpy()
    volume = shadow = total = 0.0
    for i, share in singles:
        for j, part in enumerate(population.species[i].shares):
            prints = [footprint(ground.envelope(i, j), v, ground.cell, np.zeros(3), ground.slope) for v in views]
            volume += share * part * float(np.mean([len(p.offsets) for p in prints])) * ground.cell**3
            shadow += share * part * float(np.mean([p.cells_of_the_view for p in prints])) * ground.cell**2
            total += share * part
    volume, shadow = volume / total, shadow / total
    if arrangement.coverage is not None:
        wanted = arrangement.coverage * whole / shadow
    elif arrangement.density_per_square_micrometer is not None:
        wanted = arrangement.density_per_square_micrometer * whole * 1e-8
    else:
        count = ground.scene.particle_count if arrangement.count is None else arrangement.count
        if count and area <= 0:
            raise InputError("scene.carbon_fraction", "leaves no ice for particles", "Let them lie on carbon, too.")
        wanted = count * whole / area if count else 0.0
    cells = (2 * ground.grid.half_depth + 1).clip(0)[ground.room]
    depth = float(cells.mean()) * ground.cell
    if arrangement.may_protrude:
        depth += 2 * population.radius_in_angstroms
    most = _DENSEST * depth * whole / volume
    if wanted > most:
        raise too_many(ground, wanted, 0.9 * most)
    return round(wanted)


def _require_thick_enough(ground: Ground, guests: list[Guest], species: Tensor, conformations: Tensor) -> None:
    if ground.population.arrangement.may_protrude or not guests:
        return
    tall = [g.footprint.above - g.footprint.below + 1 for g in guests]
    worst = int(np.argmax(tall))
    deepest = 2 * int(ground.grid.half_depth[ground.room].max()) + 1
    if tall[worst] > deepest:
        name = ground.population.species[int(species[worst])].conformations[int(conformations[worst])].name
        raise too_thin(ground, name, tall[worst] * ground.cell)


def _seat_all(ground: Ground, guests: list[Guest]) -> Integers:
    """Give every particle a place; returns the number of its clump (n,) from 1, 0 for none."""
    arrangement, rng, grid = ground.population.arrangement, ground.rng, ground.grid
    clumped = np.flatnonzero(rng.random(len(guests)) < arrangement.aggregate_share)
    clump = np.zeros(len(guests), np.int64)
    clump[clumped] = 1 + np.arange(len(clumped)) // arrangement.aggregate_size
    _set_draws(ground, guests, clump)
    # The large ones first, and clumps before all: they need the most room in one place.
    size = np.array([len(g.flat) for g in guests])
    order: Integers = np.lexsort((-size, np.where(clump > 0, clump, np.iinfo(np.int64).max)))
    members: dict[int, list[Guest]] = {}
    unplaced = 0
    for i in order:
        friends = members.setdefault(int(clump[i]), []) if clump[i] else []
        if friends and _join(ground, guests[i], friends):
            friends.append(guests[i])
            continue
        if not grid.seat(guests[i], rng):
            guests[i].draw = ground.anywhere
            if not grid.seat(guests[i], rng, 20):
                unplaced += 1
                continue
        friends.append(guests[i])
    if unplaced or not grid.make_room(guests, rng):
        fit = grid.thin_out(guests, rng)
        raise too_many(ground, len(guests), fit)
    return clump


def _set_draws(ground: Ground, guests: list[Guest], clump: Integers) -> None:
    """Let the children of a cluster look for a place around their parent."""
    clusters, rng = ground.population.arrangement.clusters, ground.rng
    if clusters is None or not guests:
        return
    children = np.flatnonzero((rng.random(len(guests)) < clusters.share) & (clump == 0))
    parents = max(1, round(len(children) / clusters.members))
    homes = np.concatenate([ground.anywhere(4) for _ in range(8 * parents)])
    if len(homes):
        clouds = [ground.around(homes[i % len(homes)], clusters.spread_in_angstroms) for i in range(parents)]
        for i, parent in zip(children, rng.integers(0, parents, len(children)), strict=True):
            guests[i].draw = clouds[parent]


def _join(ground: Ground, guest: Guest, friends: list[Guest]) -> bool:
    """Bring a particle up to one of a clump from a random side until it touches."""
    grid, rng = ground.grid, ground.rng
    extent = int(np.abs(guest.footprint.offsets).max())
    for _ in range(8):
        friend = friends[rng.integers(len(friends))]
        assert friend.home is not None
        sides = rng.standard_normal((6, 3))
        sides /= np.linalg.norm(sides, axis=1, keepdims=True)
        reach = extent + int(np.abs(friend.footprint.offsets).max()) + 2
        ways = friend.home + np.rint(sides[:, None] * np.arange(1, reach + 1)[None, :, None]).astype(np.int64)
        ways = ways.reshape(-1, 3)
        ways = ways[(np.abs(ways[:, :2]) <= grid.half_width).all(1)]
        low, high = grid.heights(guest, ways[:, :2])
        found = grid.first_free(guest, ways[(ways[:, 2] >= low) & (ways[:, 2] <= high)])
        if found is not None:
            grid.enter(guest, found)
            return True
    return False
