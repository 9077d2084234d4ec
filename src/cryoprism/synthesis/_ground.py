"""The film that particles are placed in: its grid of cells, its wedge and tilt, its support film and its borders."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoprism.microscope.ice import thickness_field

from ._envelope import Envelope, envelope_of
from ._occupancy import Drawn, Occupancy
from .placement import NoRoom
from .scene import Scene
from .species import Population, Species
from .specimen import Specimen

__all__ = ["Ground", "prepare", "too_many", "too_thin", "tube_radius"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_FINEST_CELL_IN_ANGSTROMS = 4.0
_MOST_CELLS = 2e8  # a byte each


@dataclass(eq=False)
class Ground:
    """What stays fixed while particles are placed.

    ``slope`` (x, y) is that of the tilted film; ``support``, ``field`` (the image) and ``room`` (with its border) are
    True in their columns of the grid (y, x).
    """

    scene: Scene
    population: Population
    cell: float
    slope: Floats
    grid: Occupancy
    support: NDArray[np.bool_]
    field: NDArray[np.bool_]
    room: NDArray[np.bool_]
    rng: np.random.Generator

    def envelope(self, species: int, conformation: int) -> Envelope:
        """Envelope of a conformation, twice as fine as the cells."""
        return envelope_of(self.population.species[species].conformations[conformation], 0.5 * self.cell)

    def usable_area(self, where: NDArray[np.bool_]) -> float:
        """Area [Å²] of ice, with support film in the measure in which it is occupied."""
        kept = self.population.arrangement.carbon_occupancy
        return float(np.where(self.support, kept, 1.0)[where].sum()) * self.cell**2

    def anywhere(self, count: int) -> Integers:
        """Return up to ``count`` homes (x, y), uniform, thinned on the support film."""
        half = self.grid.half_width
        xy = self.rng.integers(-half, half + 1, (count, 2))
        kept = self.population.arrangement.carbon_occupancy
        if kept < 1:
            film = self.support[xy[:, 1] + self.grid.middle[1], xy[:, 0] + self.grid.middle[0]]
            xy = xy[~film | (self.rng.random(count) < kept)]
        return xy

    def around(self, parent: Integers, spread: float) -> Drawn:
        """Return draws of homes in a Gaussian cloud."""

        def draw(count: int) -> Integers:
            xy = np.rint(parent + spread / self.cell * self.rng.standard_normal((count, 2))).astype(np.int64)
            return xy[(np.abs(xy) <= self.grid.half_width).all(1)]

        return draw


def prepare(scene: Scene, population: Population, margin: float, support: Tensor | None) -> Ground:
    """Return the film of a scene, empty, with cells fine enough for the smallest of the population."""
    size = np.array([scene.width_in_pixels, scene.height_in_pixels]) * scene.pixel_size_in_angstroms
    whole = size + 2 * margin
    radii = [_outline_radius(c) for one in population.species for c in one.conformations]
    cell = max(_FINEST_CELL_IN_ANGSTROMS, min(radii) / 10, max(radii) / 25)
    slack = scene.ice_thickness_in_angstroms + 4 * max(radii)
    cell = max(cell, (float(whole.prod()) * slack / _MOST_CELLS) ** (1 / 3))
    steep = math.tan(math.radians(scene.tilt_in_degrees))
    axis = math.radians(scene.tilt_axis_in_degrees)
    slope = np.array([-steep * math.sin(axis), steep * math.cos(axis)])
    widest = max(radii)
    for one in population.species:
        if one.helix is not None:
            widest = max(widest, *(tube_radius(one, j) for j in range(len(one.conformations))))
    reach = math.ceil((widest + 8.0) * (1 + abs(steep)) / cell) + 2
    half = np.floor(0.5 * whole / cell).astype(np.int64)
    shape = (int(2 * (half[1] + 2 * reach) + 1), int(2 * (half[0] + 2 * reach) + 1))
    thickness = thickness_field(
        shape,
        cell,
        scene.ice_thickness_in_angstroms,
        gradient_in_angstroms_per_micrometer=scene.ice_gradient_in_angstroms_per_micrometer,
        direction_in_degrees=scene.ice_gradient_direction_in_degrees,
    ).numpy()
    depth = np.where(thickness > 0, np.floor(0.5 * thickness / cell), -1).astype(np.int64)
    y, x = ((np.arange(n) - n // 2) * cell for n in shape)
    film = np.zeros(shape, bool)
    if support is not None:
        pixel = scene.pixel_size_in_angstroms
        row, column = (
            np.clip(np.rint(place / pixel).astype(int) + n // 2, 0, n - 1)
            for place, n in zip((y, x), support.shape, strict=True)
        )
        film = support.numpy()[row[:, None], column] > 0.5
    inside = (np.abs(y)[:, None] <= 0.5 * size[1]) & (np.abs(x) <= 0.5 * size[0])
    room = (np.abs(y)[:, None] <= half[1] * cell) & (np.abs(x) <= half[0] * cell)
    arrangement = population.arrangement
    closed = film if arrangement.carbon_occupancy == 0 and film.any() else None
    grid = Occupancy(depth, (int(half[0]), int(half[1])), reach, walls=not arrangement.may_protrude, closed=closed)
    seed = int(torch.randint(0, 2**62, (1,), generator=scene.generator("placement of shapes")))
    return Ground(scene, population, cell, slope, grid, film, inside, room, np.random.default_rng(seed))


def _outline_radius(specimen: Specimen) -> float:
    """Largest distance [Å] of the outline from the centre; a noisy map's own radius is larger."""
    envelope = _rough_envelope(specimen)
    return float(np.linalg.norm(envelope.corners, axis=1).max()) + envelope.voxel


def _rough_envelope(specimen: Specimen) -> Envelope:
    return envelope_of(specimen, max(2.0, specimen.radius_in_angstroms / 20))


def too_many(ground: Ground, wanted: float, fit: float) -> NoRoom:
    """Return the error of a target that cannot be reached; both numbers count the border, too."""
    share = float(ground.field.sum()) / float(ground.room.sum())
    return NoRoom(
        "arrangement",
        f"{round(wanted * share)} particles in the field do not fit without touching",
        f"Ask for about {int(fit * share)} or fewer (as count), for thicker ice or a larger field.",
    )


def too_thin(ground: Ground, name: str, height: float) -> NoRoom:
    """Return the error of a particle of that height [Å] that is larger than the ice."""
    return NoRoom(
        "scene.ice_thickness_in_angstroms",
        f"is {ground.scene.ice_thickness_in_angstroms:g} Å, but '{name}' is about {height:.0f} Å high in its view",
        "Give thicker ice (--ice-thickness), views that lie flat (PreferredViews), or Arrangement(may_protrude=True).",
    )


def tube_radius(species: Species, conformation: int) -> float:
    """Radius [Å] of the tube around a filament's axis that holds all of its repeats."""
    assert species.helix is not None
    envelope = _rough_envelope(species.conformations[conformation])
    across = envelope.corners[:, :2] + np.array(species.helix.axis_offset_in_angstroms)
    return float(np.linalg.norm(across, axis=1).max()) + envelope.voxel
