"""How particles are to be arranged in the ice: how many, which way they face, at which height, alone or together.

These are wishes only; :mod:`.placement` carries them out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from cryoprism.core import InputError, euler_to_matrix, random_rotations

__all__ = ["Arrangement", "Clusters", "Collisions", "Filaments", "PreferredViews", "draw_rotations"]

Collisions = Literal["shapes", "spheres"]


def require(where: str, good: bool, found: object, remedy: str) -> None:
    """Raise the error of a value that cannot be used."""
    if not good:
        raise InputError(where, f"is {found}", f"Give {remedy}.")


@dataclass(frozen=True, kw_only=True)
class PreferredViews:
    """Directions of the specimen that like to face along the normal of the film.

    Around each direction the view follows von Mises and Fisher's law, density ∝ exp(κ μ·d); its in-plane angle is
    uniform. What the shares leave to 1 sees the specimen uniformly from all sides. Copies of a direction under the
    specimen's symmetry look the same, so one of them is enough.

    Parameters
    ----------
    directions_in_degrees
        (rot, tilt) of each view, as RELION writes them.
    shares
        Share of the particles for each, together 1 at most.
    concentrations
        κ of each: 10 spreads by about 18° (1/√κ rad along each axis), 100 by 6°.
    """

    directions_in_degrees: tuple[tuple[float, float], ...]
    shares: tuple[float, ...]
    concentrations: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.directions_in_degrees)
        same = count == len(self.shares) == len(self.concentrations) and count > 0
        require("views.shares", same, f"{len(self.shares)} shares for {count} directions", "one of each per view")
        good = all(0 <= s <= 1 for s in self.shares) and sum(self.shares) <= 1 + 1e-6
        require("views.shares", good, self.shares, "shares from 0 to 1 that add up to 1 at most")
        good = all(math.isfinite(k) and 0 <= k <= 1e6 for k in self.concentrations)
        require("views.concentrations", good, self.concentrations, "values from 0 to 1e6")


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Particles that come together, as in Thomas's process: parents anywhere, a Gaussian cloud of children around each.

    Parameters
    ----------
    share
        Of all particles that belong to a cluster.
    members
        Mean number in one cluster.
    spread_in_angstroms
        Standard deviation of the children along x and y.
    """

    share: float = 1.0
    members: float = 8.0
    spread_in_angstroms: float = 500.0

    def __post_init__(self) -> None:
        require("clusters.share", 0 <= self.share <= 1, self.share, "a share from 0 to 1")
        require("clusters.members", 1 <= self.members < math.inf, self.members, "1 or more")
        require("clusters.spread_in_angstroms", 0 < self.spread_in_angstroms < math.inf, self.spread_in_angstroms, "Å")


@dataclass(frozen=True, kw_only=True)
class Filaments:
    """Curved filaments of the species that have a helix.

    The axis is a worm-like chain in the plane of the film: over a step ds its direction turns by a Gaussian angle of
    variance ds / P, so that the mean cosine over a length s is exp(-s / 2P) (Doi & Edwards 1986, for two dimensions).

    Parameters
    ----------
    count
        Filaments in the field, the border gets more at the same density.
    length_in_angstroms
        Of each along its axis.
    persistence_length_in_angstroms
        P: 1.5e5 is about F-actin's, 5e7 a microtubule's.
    """

    count: int
    length_in_angstroms: float
    persistence_length_in_angstroms: float = 1.5e5

    def __post_init__(self) -> None:
        length, persistence = self.length_in_angstroms, self.persistence_length_in_angstroms
        require("filaments.count", self.count >= 0, self.count, "0 or more")
        require("filaments.length_in_angstroms", 0 < length < math.inf, length, "a length above 0 Å")
        require("filaments.persistence_length_in_angstroms", persistence > 0, persistence, "a length above 0 Å")


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """How many particles, and how they lie.

    At most one of ``count``, ``density_per_square_micrometer`` and ``coverage`` is given; without any the scene's
    particle count is meant.

    Parameters
    ----------
    count
        Particles in the field.
    density_per_square_micrometer
        Particles per µm² of ice (of carbon in the measure of ``carbon_occupancy``).
    coverage
        Sum of the particles' projected areas over that area; views may overlap in a thick film, so that it can pass 1.
    views
        Preferred views; None: exactly uniform over SO(3).
    interface_share
        Share of the particles that touch a surface of the film, half of them above and half below; those below are
        turned over, because it is the same face that meets the air.
    clusters
        Loose clusters; None for none.
    aggregate_share, aggregate_size
        Share of the particles that stick together in clumps, and the number in a clump.
    filaments
        For species with a helix.
    carbon_occupancy
        Density on the support film relative to ice: 1 no difference, 0 none there.
    collisions
        ``shapes``: no two particles share a place, by their true shapes, and all lie within the ice and its wedge.
        ``spheres``: bounding spheres, judged in the thinnest film, so that twins of a scene that differ in the ice keep
        the very same particles; ice thinner than the particle does not matter.
    may_protrude
        Let particles larger than the ice stick out of it instead of refusing them (``shapes``).
    """

    count: int | None = None
    density_per_square_micrometer: float | None = None
    coverage: float | None = None
    views: PreferredViews | None = None
    interface_share: float = 0.0
    clusters: Clusters | None = None
    aggregate_share: float = 0.0
    aggregate_size: int = 6
    filaments: Filaments | None = None
    carbon_occupancy: float = 1.0
    collisions: Collisions = "shapes"
    may_protrude: bool = False

    def __post_init__(self) -> None:
        aims = (self.count, self.density_per_square_micrometer, self.coverage)
        given = [aim for aim in aims if aim is not None]
        require("arrangement", len(given) <= 1, f"{len(given)} targets", "one of count, density and coverage")
        for name, aim in zip(("count", "density_per_square_micrometer", "coverage"), aims, strict=True):
            if aim is not None:
                require(f"arrangement.{name}", 0 <= aim < math.inf, aim, "0 or more")
        for name in ("interface_share", "aggregate_share", "carbon_occupancy"):
            value = getattr(self, name)
            require(f"arrangement.{name}", 0 <= value <= 1, value, "a share from 0 to 1")
        require("arrangement.aggregate_size", self.aggregate_size >= 2, self.aggregate_size, "2 or more")
        known = get_args(Collisions)
        require(
            "arrangement.collisions", self.collisions in known, f"'{self.collisions}'", f"one of {', '.join(known)}"
        )
        if self.collisions == "spheres":
            apart = (self.coverage, self.clusters, self.filaments)
            plain = all(part is None for part in apart) and self.interface_share == 0 and self.aggregate_share == 0
            plain = plain and self.carbon_occupancy == 1
            require("arrangement.collisions", plain, "'spheres'", "'shapes' for anything but single particles in ice")


def draw_rotations(views: PreferredViews | None, count: int, generator: torch.Generator) -> Tensor:
    """Rotations (count, 3, 3) from the specimen to the film, whose normal is z: uniform, or with preferred views.

    The rotations are uniform over all of SO(3) whatever the specimen's point group: to draw from one asymmetric unit
    with a grid of angles would favour its borders.
    """
    rotations = random_rotations(count, generator)
    if views is None:
        return rotations
    shares = torch.tensor([*views.shares, max(0.0, 1.0 - sum(views.shares))], dtype=torch.float64)
    which = torch.multinomial(shares, count, replacement=True, generator=generator) if count else torch.zeros(0)
    for i, ((rot, tilt), kappa) in enumerate(zip(views.directions_in_degrees, views.concentrations, strict=True)):
        chosen = torch.nonzero(which == i).flatten()
        uniform, azimuth, psi = torch.rand(3, len(chosen), generator=generator, dtype=torch.float64)
        # Cosine of the angle from the mean direction, by inversion of the distribution function (Fisher 1953).
        cosine = 1 - 2 * uniform
        if kappa > 0:
            cosine = 1 + torch.log(uniform + (1 - uniform) * math.exp(-2 * kappa)) / kappa
        off = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
        # Third row of this product: the direction at (azimuth, off) from the pole, the pole brought to (rot, tilt).
        near = euler_to_matrix(360 * azimuth, off, 360 * psi)
        pole = euler_to_matrix(*(torch.tensor(a, dtype=torch.float64) for a in (rot, tilt, 0.0)))
        rotations[chosen] = (near @ pole).float()
    return rotations
