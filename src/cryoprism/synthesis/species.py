"""Who is in the ice: species, their conformations and shares, and where conformations come from.

A conformation is a :class:`~.specimen.Specimen`. Several of one species come from a list of files, from the models of
one file, or from a morph between two states.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cryoprism.core import InputError, point_group_matrices
from cryoprism.microscope.potential import AtomicModel

from .arrangement import Arrangement, require
from .specimen import Specimen, specimens_from_file

__all__ = ["Helix", "Population", "Species", "as_population", "conformations_from_files", "morph", "repeat_unit"]


@dataclass(frozen=True, kw_only=True)
class Helix:
    """Helical symmetry of a species whose specimen is one repeat; the axis is parallel to the specimen's z.

    Parameters
    ----------
    rise_in_angstroms, twist_in_degrees
        From one repeat to the next; a positive twist is right-handed.
    axis_offset_in_angstroms
        (x, y) from the axis to the specimen's centre: 0 for a segment around its axis, the radius for a subunit.
    """

    rise_in_angstroms: float
    twist_in_degrees: float = 0.0
    axis_offset_in_angstroms: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        rise = self.rise_in_angstroms
        require("helix.rise_in_angstroms", math.isfinite(rise) and rise > 0, rise, "a rise above 0 Å")
        require("helix.twist_in_degrees", math.isfinite(self.twist_in_degrees), self.twist_in_degrees, "an angle")


@dataclass(frozen=True, kw_only=True)
class Species:
    """One kind of particle.

    Parameters
    ----------
    name
        For labels.
    conformations
        One or more specimens; their point groups stand with them.
    shares
        Share of each conformation, brought to a sum of 1; empty for equal shares.
    helix
        Given for filaments, which are laid along curves (``Arrangement.filaments``).
    """

    name: str
    conformations: tuple[Specimen, ...]
    shares: tuple[float, ...] = ()
    helix: Helix | None = None

    def __post_init__(self) -> None:
        if not self.conformations:
            raise InputError(f"species '{self.name}'", "has no conformations", "Give one or more specimens.")
        shares = _shares(f"species '{self.name}'", self.shares, len(self.conformations))
        object.__setattr__(self, "shares", shares)
        for conformation in self.conformations:
            try:
                point_group_matrices(conformation.symmetry)
            except ValueError as error:
                raise InputError(f"species '{self.name}'", str(error), "Name a point group of rotations.") from error


@dataclass(frozen=True, kw_only=True)
class Population:
    """What a scene holds: species, their shares by number, and how they are arranged."""

    species: tuple[Species, ...]
    shares: tuple[float, ...] = ()
    arrangement: Arrangement = field(default_factory=Arrangement)

    def __post_init__(self) -> None:
        if not self.species:
            raise InputError("population", "has no species", "Give one or more.")
        object.__setattr__(self, "shares", _shares("population", self.shares, len(self.species)))
        helical = any(one.helix is not None for one in self.species)
        if helical != (self.arrangement.filaments is not None):
            raise InputError(
                "population",
                "has a helix without filaments to lay" if helical else "is to lay filaments but no species has a helix",
                "Give both Species.helix and Arrangement.filaments, or neither.",
            )

    @property
    def radius_in_angstroms(self) -> float:
        """Largest radius of any conformation [Å]."""
        return max(c.radius_in_angstroms for one in self.species for c in one.conformations)

    def class_number(self, species: int, conformation: int) -> int:
        """Return the number of a conformation among those of all species, from 1, as ``rlnClassNumber`` counts."""
        return 1 + sum(len(one.conformations) for one in self.species[:species]) + conformation


def as_population(what: Specimen | Population) -> Population:
    """Return a specimen as a population of one, arranged so that twins of a scene keep their particles."""
    if isinstance(what, Population):
        return what
    species = Species(name=what.name, conformations=(what,))
    return Population(species=(species,), arrangement=Arrangement(collisions="spheres"))


def _shares(where: str, shares: Sequence[float], count: int) -> tuple[float, ...]:
    if not shares:
        return (1.0 / count,) * count
    if len(shares) != count:
        raise InputError(f"{where}.shares", f"{len(shares)} shares for {count} members", "Give one share for each.")
    total = math.fsum(shares)
    if not (all(math.isfinite(s) and s >= 0 for s in shares) and total > 0):
        raise InputError(f"{where}.shares", f"are {tuple(shares)}", "Give shares of 0 or more, not all of them 0.")
    return tuple(s / total for s in shares)


def conformations_from_files(
    paths: Sequence[str | os.PathLike[str]],
    *,
    assembly: str | None = None,
    molecular_mass_in_kilodaltons: float | None = None,
    contour: float | None = None,
    symmetry: str = "C1",
    resolution_in_angstroms: float = 0.0,
) -> tuple[Specimen, ...]:
    """Conformations of one species from maps and structures, in order; a file of several models gives them all.

    Parameters are those of :func:`~.specimen.specimens_from_file`, the same for all files.
    """
    if not paths:
        raise InputError("conformations", "no files", "Give one or more maps or structures.")
    return tuple(
        specimen
        for path in paths
        for specimen in specimens_from_file(
            path,
            assembly=assembly,
            molecular_mass_in_kilodaltons=molecular_mass_in_kilodaltons,
            contour=contour,
            symmetry=symmetry,
            resolution_in_angstroms=resolution_in_angstroms,
        )
    )


def morph(first: Specimen, last: Specimen, steps: int) -> tuple[Specimen, ...]:
    """Conformations on a straight way between two states, the ends included.

    Atoms of equal number and kind in equal order: the last state is first superposed on the first (Kabsch 1976, Acta
    Cryst. A32, 922), then positions, B-factors and occupancies move linearly. Halfway through a large turn bonds
    shorten, so give intermediate states where domains turn by more than about 40°. Maps on the same grid: densities
    fade from one into the other.

    Parameters
    ----------
    first, last
        The two states; the first gives the point group, unless they differ: then C1.
    steps
        Number of conformations, 2 or more.

    Raises
    ------
    InputError
        The states cannot be matched atom by atom or voxel by voxel.
    """
    require("morph.steps", steps >= 2, steps, "2 or more")
    where = f"morph '{first.name}' to '{last.name}'"
    weights = [i / (steps - 1) for i in range(steps)]
    symmetry = first.symmetry if first.symmetry == last.symmetry else "C1"
    if first.model is not None and last.model is not None:
        a, b = first.model, last.model
        if not torch.equal(a.atomic_numbers, b.atomic_numbers):
            raise InputError(
                where,
                f"{a.atomic_numbers.numel()} atoms against {b.atomic_numbers.numel()}, or in another order",
                "Give two states of the same atoms in the same order.",
            )
        moved = _superposed(b.positions_in_angstroms, a.positions_in_angstroms)
        models = [_between(a, replace(b, positions_in_angstroms=moved), w) for w in weights]
        radii = [float(m.positions_in_angstroms.norm(dim=1).max()) + 1.5 for m in models]
        return tuple(
            replace(first, name=f"{first.name}-{i + 1}", model=m, radius_in_angstroms=r, symmetry=symmetry)
            for i, (m, r) in enumerate(zip(models, radii, strict=True))
        )
    if first.density is not None and last.density is not None:
        same = math.isclose(first.voxel_size_in_angstroms, last.voxel_size_in_angstroms, rel_tol=1e-3)
        if first.density.shape != last.density.shape or not same:
            raise InputError(
                where,
                f"grids of {tuple(first.density.shape)} at {first.voxel_size_in_angstroms:g} Å and "
                f"{tuple(last.density.shape)} at {last.voxel_size_in_angstroms:g} Å",
                "Resample one map on the grid of the other.",
            )
        radius = max(first.radius_in_angstroms, last.radius_in_angstroms)
        return tuple(
            replace(
                first,
                name=f"{first.name}-{i + 1}",
                density=torch.lerp(first.density, last.density, w),
                radius_in_angstroms=radius,
                symmetry=symmetry,
            )
            for i, w in enumerate(weights)
        )
    raise InputError(where, "one state is atoms and the other a map", "Give two structures or two maps.")


def _superposed(points: Tensor, onto: Tensor) -> Tensor:
    """Turn and move points (n, 3) to the least squared distance from their partners."""
    here, there = points.double(), onto.double()
    u, _, vt = torch.linalg.svd((here - here.mean(0)).T @ (there - there.mean(0)))
    sign = torch.ones(3, dtype=torch.float64)
    sign[2] = torch.sign(torch.linalg.det(u @ vt))
    turn = (u * sign) @ vt
    moved: Tensor = (here - here.mean(0)) @ turn + there.mean(0)
    return moved.to(points)


def _between(a: AtomicModel, b: AtomicModel, weight: float) -> AtomicModel:
    def mixed(x: Tensor | float, y: Tensor | float) -> Tensor:
        return torch.as_tensor(x) * (1 - weight) + torch.as_tensor(y) * weight

    return AtomicModel(
        positions_in_angstroms=mixed(a.positions_in_angstroms, b.positions_in_angstroms),
        atomic_numbers=a.atomic_numbers,
        b_factors_in_square_angstroms=mixed(a.b_factors_in_square_angstroms, b.b_factors_in_square_angstroms),
        occupancies=mixed(a.occupancies, b.occupancies),
        hydrogens=a.hydrogens,
    )


def repeat_unit(specimen: Specimen, length_in_angstroms: float) -> Specimen:
    """Cut the middle of a map of a filament along z, so that repeats of that length add up to the whole.

    The cut is a ramp one voxel wide that adds up to 1 with its neighbour's.

    Raises
    ------
    InputError
        Not a map, or a map shorter than the repeat.
    """
    if specimen.density is None:
        raise InputError(f"specimen '{specimen.name}'", "is no map", "Give atoms of one repeat as they are.")
    voxel, side = specimen.voxel_size_in_angstroms, specimen.density.shape[0]
    if not voxel <= length_in_angstroms <= (side - 2) * voxel:
        raise InputError(
            f"specimen '{specimen.name}'",
            f"{side * voxel:.0f} Å long, asked for a repeat of {length_in_angstroms:g} Å",
            "Give a length of at least one voxel that the map holds; resample the map where its voxels are larger.",
        )
    z = (torch.arange(side) - side // 2).float() * voxel
    window = ((0.5 * length_in_angstroms - z.abs()) / voxel + 0.5).clamp(0, 1)
    density = specimen.density * window[:, None, None]
    across = (specimen.density.square().sum(0) > 0.01 * specimen.density.square().sum(0).max()).nonzero()
    reach = float((across - side // 2).float().norm(dim=1).max()) * voxel
    radius = min(specimen.radius_in_angstroms, math.hypot(reach, 0.5 * length_in_angstroms) + voxel)
    return replace(specimen, density=density, radius_in_angstroms=radius)
