"""Where every particle of a scene lies and how it is turned.

Two ways. :func:`place_particles` puts bounding spheres one by one, so that twins of a scene keep their particles.
:func:`place_population` carries out an :class:`~.arrangement.Arrangement` by true shapes in a grid of cells
(:mod:`._occupancy`): filaments first, then clumps, then the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cryoprism.core import InputError, random_rotations

from .arrangement import draw_rotations
from .scene import CAUSES, Scene
from .species import Population

__all__ = ["NoRoom", "Placement", "place_particles", "place_population", "tilt_height", "tilt_matrix"]


class NoRoom(InputError):
    """Particles do not fit into the ice: there are too many of them, or one is larger. Thicker ice may hold them."""


def _none() -> Tensor:
    return torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the particles of a scene are.

    Parameters
    ----------
    centres_in_angstroms
        (n, 3) as (x, y, z) from the middle of the image (pixel n // 2) and of the slab, z along the beam, the slab's
        tilt included.
    rotations
        (n, 3, 3) take a point of the specimen into the frame of the view.
    species, conformations
        (n,) which species of the population, and which conformation of that species, from 0.
    filaments, arc_positions_in_angstroms
        (n,) number of the filament from 1, 0 for none, and how far along its axis.
    aggregates
        (n,) number of the clump from 1, 0 for none.
    """

    centres_in_angstroms: Tensor
    rotations: Tensor
    species: Tensor = field(default_factory=_none)
    conformations: Tensor = field(default_factory=_none)
    filaments: Tensor = field(default_factory=_none)
    arc_positions_in_angstroms: Tensor = field(default_factory=_none)
    aggregates: Tensor = field(default_factory=_none)

    def __post_init__(self) -> None:
        count = len(self)
        for name in ("species", "conformations", "filaments", "arc_positions_in_angstroms", "aggregates"):
            value = getattr(self, name)
            if value.numel() != count:
                value = torch.zeros(count, dtype=torch.int64)
            object.__setattr__(self, name, value.float() if name.startswith("arc") else value)

    def __len__(self) -> int:
        """Return the number of particles, those beyond the edges included."""
        return int(self.centres_in_angstroms.shape[0])


def place_particles(scene: Scene, radius_in_angstroms: float, margin_in_angstroms: float = 0.0) -> Placement:
    """Place spheres of the specimen's radius in the slab without collision, with uniform orientations.

    Candidates come one by one, uniform over the field and its margin and over the depth that the slab leaves; one that
    touches an earlier particle is dropped. Collisions are judged in the thinnest film, where depths are closest, so
    that a thicker film keeps the very same particles.

    Parameters
    ----------
    scene
        Gives size, count, ice and tilt. The count is meant for the field itself; the margin gets particles at the same
        density.
    radius_in_angstroms
        Radius of the sphere around the specimen [Å].
    margin_in_angstroms
        Width of the border outside of the field that also gets particles [Å].

    Raises
    ------
    NoRoom
        So many particles do not fit.
    """
    size = torch.tensor([scene.width_in_pixels, scene.height_in_pixels]) * scene.pixel_size_in_angstroms
    whole = size + 2 * margin_in_angstroms
    wanted = round(scene.particle_count * float(whole.prod() / size.prod()))
    diameter = 2 * radius_in_angstroms
    thinnest = min(CAUSES["ice_thickness"]["ice_thickness_in_angstroms"], scene.ice_thickness_in_angstroms)
    tight = max(0.0, thinnest - diameter)
    generator = scene.generator("placement")
    kept = torch.zeros(0, 3)
    attempts = 0
    while kept.shape[0] < wanted and attempts < 15:
        batch = torch.rand(max(4 * wanted, 64), 3, generator=generator) - 0.5
        for candidate in batch:
            point = torch.stack([candidate[0] * whole[0], candidate[1] * whole[1], candidate[2] * tight])
            others = kept * torch.tensor([1.0, 1.0, tight])
            if kept.shape[0] == 0 or bool(((others - point) ** 2).sum(1).min() >= diameter**2):
                kept = torch.cat([kept, torch.stack([point[0], point[1], candidate[2]])[None]])
            if kept.shape[0] == wanted:
                break
        attempts += 1
    if kept.shape[0] < wanted:
        most = int(0.45 * float(size.prod()) / (math.pi * radius_in_angstroms**2))
        raise NoRoom(
            "scene.particle_count",
            f"{scene.particle_count} particles of radius {radius_in_angstroms:.0f} Å do not fit without touching",
            f"Ask for about {most} or fewer, or a larger field.",
        )
    depth = max(0.0, scene.ice_thickness_in_angstroms - diameter)
    x, y = kept[:, 0], kept[:, 1]
    z = kept[:, 2] * depth + tilt_height(scene, y, x)
    rotations = random_rotations(kept.shape[0], scene.generator("orientation"))
    return Placement(centres_in_angstroms=torch.stack([x, y, z], -1), rotations=rotations)


def place_population(
    scene: Scene, population: Population, margin_in_angstroms: float = 0.0, support: Tensor | None = None
) -> Placement:
    """Place the particles of a population as its arrangement asks.

    Parameters
    ----------
    scene
        Gives size, ice, wedge and tilt, and the count where the arrangement has no target of its own.
    population
        Who.
    margin_in_angstroms
        Width of the border outside of the field that also gets particles, at the same density [Å].
    support
        (y, x) share of support film, 0 … 1, at the scene's pixel size, its pixel n // 2 at the middle of the field;
        None for no film.

    Raises
    ------
    NoRoom
        So many particles do not fit, or one is larger than the ice.
    InputError
        The defocus has the wrong sign.
    """
    arrangement = population.arrangement
    if arrangement.collisions == "shapes":
        from ._crowd import place_shapes

        require_underfocus(scene)
        return place_shapes(scene, population, margin_in_angstroms, support)
    area = scene.height_in_pixels * scene.width_in_pixels * scene.pixel_size_in_angstroms**2
    count = arrangement.count
    if arrangement.density_per_square_micrometer is not None:
        count = round(arrangement.density_per_square_micrometer * area * 1e-8)
    asked = scene if count is None else replace(scene, particle_count=count)
    placement = place_particles(asked, population.radius_in_angstroms, margin_in_angstroms)
    species, conformations = draw_members(scene, population, len(placement))
    if arrangement.views is not None:
        film = draw_rotations(arrangement.views, len(placement), scene.generator("orientation"))
        placement = replace(placement, rotations=tilt_matrix(scene) @ film)
    return replace(placement, species=species, conformations=conformations)


def draw_members(scene: Scene, population: Population, count: int, *, helical: bool = False) -> tuple[Tensor, Tensor]:
    """Draw species and conformation (count,) by their shares, among the species with a helix or those without."""
    among = [(one.helix is not None) == helical for one in population.species]
    shares = torch.tensor(population.shares, dtype=torch.float64) * torch.tensor(among)
    if count == 0 or float(shares.sum()) == 0:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    species = torch.multinomial(shares, count, replacement=True, generator=scene.generator("species", helical))
    conformations = torch.zeros(count, dtype=torch.int64)
    for i, one in enumerate(population.species):
        chosen = torch.nonzero(species == i).flatten()
        if len(chosen) and len(one.conformations) > 1:
            own = torch.tensor(one.shares, dtype=torch.float64)
            generator = scene.generator("conformation", helical, i)
            conformations[chosen] = torch.multinomial(own, len(chosen), replacement=True, generator=generator)
    return species, conformations


def require_underfocus(scene: Scene) -> None:
    """Raise an error where the defocus has the other hand: it is positive for underfocus, as RELION and CTFFIND say."""
    if min(scene.defocus_u_in_angstroms, scene.defocus_v_in_angstroms) < 0:
        raise InputError(
            "scene.defocus_in_angstroms",
            f"is {scene.defocus_in_angstroms:g} Å, which is overfocus (underfocus is positive)",
            "Change the sign; EMAN, Bsoft and Frealign's older files count the other way.",
        )


def tilt_height(scene: Scene, y: Tensor, x: Tensor) -> Tensor:
    """Height [Å] of the slab's middle along the beam at (y, x) [Å]: tan(tilt) × distance from the tilt axis."""
    axis = math.radians(scene.tilt_axis_in_degrees)
    distance = math.cos(axis) * y - math.sin(axis) * x
    return math.tan(math.radians(scene.tilt_in_degrees)) * distance


def tilt_matrix(scene: Scene) -> Tensor:
    """Rotation (3, 3) from the frame of the untilted film to that of the view; its height is :func:`tilt_height`'s."""
    axis, tilt = math.radians(scene.tilt_axis_in_degrees), math.radians(scene.tilt_in_degrees)
    c, s = math.cos(axis), math.sin(axis)
    along = torch.tensor([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])  # x to the tilt axis
    ct, st = math.cos(tilt), math.sin(tilt)
    return along.T @ torch.tensor([[1.0, 0.0, 0.0], [0.0, ct, -st], [0.0, st, ct]]) @ along
