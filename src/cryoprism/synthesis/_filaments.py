"""Filaments: worm-like chains in the plane of the film, with repeats along them by rise and twist."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from ._envelope import footprint, sphere
from ._ground import Ground, too_thin, tube_radius
from .placement import NoRoom, Placement, draw_members, tilt_matrix

__all__ = ["lay_filaments", "repeats_along", "worm_like_chain"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_STARTS = 200  # places tried for one filament


def worm_like_chain(
    length: float, step: float, persistence_length: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return positions (n, 2) [Å] and directions (n,) [rad] of a planar chain at arc lengths 0, step, … ≤ length.

    It starts at the origin in a random direction. Between two positions it goes straight along the mean of their
    directions.
    """
    count = int(length / step + 1e-9) + 1
    bends = rng.standard_normal(count - 1) * math.sqrt(step / persistence_length)
    angle = 2 * math.pi * rng.random() + np.concatenate([[0.0], np.cumsum(bends)])
    halfway = 0.5 * (angle[1:] + angle[:-1])
    moves = step * np.stack([np.cos(halfway), np.sin(halfway)], -1)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(moves, 0)]), angle


def repeats_along(
    angle: Floats, twist_in_degrees: float, axis_offset: tuple[float, float], phase: float
) -> tuple[Floats, Floats]:
    """Orientation and shift of the repeats of a filament that runs along directions ``angle`` (n,) [rad].

    The specimen's z comes to lie along the filament. Seen along it, the first repeat is turned by ``phase`` [rad] and
    each one by the twist against the one before; bending turns the frame in the plane without twisting it.

    Returns
    -------
    rotations
        (n, 3, 3) from the specimen to the film.
    shifts
        (n, 3) [Å; x, y, z] from the axis to the repeat's centre.
    """
    c, s, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    # Columns: normal in the plane, normal of the plane, tangent; right-handed since (ẑ × t) × ẑ = t.
    frame = np.stack([np.stack([-s, c, zero], -1), np.stack([zero, zero, one], -1), np.stack([c, s, zero], -1)], -1)
    turn = phase + np.radians(twist_in_degrees) * np.arange(len(angle))
    ct, st = np.cos(turn), np.sin(turn)
    about_z = np.stack(
        [np.stack([ct, st, zero], -1), np.stack([-st, ct, zero], -1), np.stack([zero, zero, one], -1)], -1
    )
    rotations = frame @ about_z
    return rotations, rotations @ np.array([axis_offset[0], axis_offset[1], 0.0])


def lay_filaments(ground: Ground) -> Placement:
    """Lay the filaments that the arrangement asks for, without crossings; each takes its tube from the grid.

    A filament runs straight on beyond the borders; repeats out there are left out. Its species is drawn once, the
    conformation for each of its repeats.

    Raises
    ------
    NoRoom
        A tube is thicker than the ice, or so many filaments do not fit.
    """
    wishes = ground.population.arrangement.filaments
    share = ground.usable_area(ground.room) / max(ground.usable_area(ground.field), 1.0)
    wanted = round(wishes.count * share) if wishes is not None else 0
    species, _ = draw_members(ground.scene, ground.population, wanted, helical=True)
    centres, turns, kinds, ids, arcs = [np.zeros((0, 3))], [np.zeros((0, 3, 3))], [], [], []
    for i, kind in enumerate(species.tolist()):
        found = _lay(ground, kind)
        if found is None:
            fit = int(i / share)
            raise NoRoom(
                "arrangement.filaments",
                f"{wishes.count if wishes else 0} filaments do not fit without crossing",
                f"Ask for about {fit} or fewer, shorter ones, or a larger field.",
            )
        points, rotations, arc = found
        centres.append(points)
        turns.append(rotations)
        kinds += [kind] * len(arc)
        ids += [i + 1] * len(arc)
        arcs += arc.tolist()
    kinds_ = torch.tensor(kinds, dtype=torch.int64)
    return Placement(
        centres_in_angstroms=torch.from_numpy(np.concatenate(centres)).float(),
        rotations=torch.from_numpy(np.concatenate(turns)).float(),
        species=kinds_,
        conformations=_conformations(ground, kinds_),
        filaments=torch.tensor(ids, dtype=torch.int64),
        arc_positions_in_angstroms=torch.tensor(arcs, dtype=torch.float32),
    )


def _conformations(ground: Ground, kinds: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(len(kinds), dtype=torch.int64)
    for i, one in enumerate(ground.population.species):
        chosen = torch.nonzero(kinds == i).flatten()
        if len(chosen):
            shares = torch.tensor(one.shares, dtype=torch.float64)
            generator = ground.scene.generator("conformation of repeats", i)
            out[chosen] = torch.multinomial(shares, len(chosen), replacement=True, generator=generator)
    return out


def _lay(ground: Ground, kind: int) -> tuple[Floats, Floats, Floats] | None:
    """Centres (n, 3) [Å], rotations (n, 3, 3) and arc positions (n,) of one filament's repeats; None: no place."""
    species, grid, rng, cell = ground.population.species[kind], ground.grid, ground.rng, ground.cell
    wishes, helix = ground.population.arrangement.filaments, species.helix
    assert wishes is not None
    assert helix is not None
    radius = max(tube_radius(species, j) for j in range(len(species.conformations)))
    ball = footprint(sphere(radius, 0.5 * cell), np.eye(3), cell, np.zeros(3), ground.slope)
    tube = grid.guest(ball, ground.anywhere)
    deepest = int(grid.half_depth[ground.room].max())
    if grid.walls and ball.above > deepest:
        raise too_thin(ground, species.name, 2 * radius)
    tilt = tilt_matrix(ground.scene).double().numpy()
    slope = ground.slope
    every = max(1, int(0.7 * radius / helix.rise_in_angstroms))
    for _ in range(_STARTS):
        path, angle = worm_like_chain(
            wishes.length_in_angstroms, helix.rise_in_angstroms, wishes.persistence_length_in_angstroms, rng
        )
        arc = helix.rise_in_angstroms * np.arange(len(path))
        start = ground.anywhere(1)
        if not len(start):
            continue
        # The whole filament is equally likely to pass anywhere, so its middle is what is drawn.
        along = np.concatenate([path - path[len(path) // 2], np.zeros((len(path), 1))], 1) @ tilt.T
        xy = along[:, :2] + start * cell
        homes = np.rint(xy / cell).astype(np.int64)
        inside = (np.abs(homes) <= grid.half_width).all(1)
        low, high = grid.heights(tube, homes[inside])
        if not inside.any() or low.max() > high.min():
            continue
        z = rng.integers(low.max(), high.min() + 1)
        seen = np.flatnonzero(inside)
        probes = np.unique(np.concatenate([seen[::every], seen[-1:]]))
        balls = np.concatenate([homes[probes], np.full((len(probes), 1), z)], 1)
        if not grid.free(tube, balls).all():
            continue
        grid.fill(tube, balls)
        rotations, shifts = repeats_along(
            angle, helix.twist_in_degrees, helix.axis_offset_in_angstroms, 2 * math.pi * rng.random()
        )
        height = z * cell + xy @ slope
        centres = np.concatenate([xy, height[:, None]], 1) + shifts @ tilt.T
        return centres[inside], (tilt @ rotations)[inside], arc[inside]
    return None
