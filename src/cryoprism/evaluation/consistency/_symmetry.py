"""Symmetry copies of a model: crystal, biological assembly, point group, helix; as integers that Coq can check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import gemmi
import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError, point_group_matrices

from ._model import Model
from ._rules import limits

__all__ = ["UNIT", "Copies", "find_copies", "overlaps", "place"]

#: Rotations are in units of 2^-30, as in Mates.v.
UNIT = 1 << 30
_REACH = 4_700  # 0.001 Å: contacts of ligands reach 4.5 Å
_MOST = 4_000


@dataclass(frozen=True)
class Copies:
    """Copies of a model that come near it.

    Attributes
    ----------
    operations
        Rows (r1, r2, r3, shift) of each, in units of 2^-30 and 2^-30 * 0.001 Å in the frame of ``Model.points``. Of an
        operation and its inverse one is here: they give the same distances.
    kind
        Which symmetry, in words; empty for none.
    """

    operations: tuple[tuple[tuple[int, int, int, int], ...], ...]
    kind: str


def find_copies(
    model: Model,
    *,
    symmetry: str | None = None,
    rise_in_angstroms: float | None = None,
    twist_in_degrees: float | None = None,
    assembly: str | None = None,
    centre_in_angstroms: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Copies:
    """Find the copies of a model whose bounding boxes come within 4.7 Å of its own.

    What is asked for comes first: point group, helix or assembly. Without that a crystal gives its own copies (space
    group, strict non-crystallographic operators, all cells around), any other model those of its first assembly.

    Raises
    ------
    InputError
        No such assembly, or a helix without rise or twist.
    """
    centre = np.array(centre_in_angstroms)
    if symmetry is not None and symmetry.upper() != "C1":
        rotations = point_group_matrices(symmetry).double().numpy()
        return _near(model, ((r, centre - r @ centre) for r in rotations), f"point group {symmetry.upper()}")
    if rise_in_angstroms is not None or twist_in_degrees is not None:
        if rise_in_angstroms is None or twist_in_degrees is None:
            raise InputError("--helical-rise and --helical-twist", "one is missing", "Give both of them.")
        length = float(np.ptp(model.points[:, 2])) / 1000
        turns = min(int((length + 10) / rise_in_angstroms) + 1, _MOST)
        steps = (_screw(k, rise_in_angstroms, twist_in_degrees, centre) for k in range(1, turns + 1))
        return _near(model, steps, f"helix of {rise_in_angstroms:g} Å and {twist_in_degrees:g}° a unit")
    structure = model.structure
    crystal = structure.cell.is_crystal() and structure.find_spacegroup() is not None and _diffracted(structure)
    if assembly is None and crystal:
        return _near(model, _lattice(model), f"crystal, space group {structure.spacegroup_hm}", trim=True)
    names = [item.name for item in structure.assemblies]
    if assembly is not None and assembly not in names:
        raise InputError(
            model.path, f"has no assembly '{assembly}' (it has: {', '.join(names) or 'none'})", "Name one of these."
        )
    if names:
        name = assembly if assembly is not None else names[0]
        return _near(model, _assembled(model, name), f"biological assembly {name}")
    return Copies((), "")


def _diffracted(structure: gemmi.Structure) -> bool:
    methods = " ".join(structure.info["_exptl.method"].split() if "_exptl.method" in structure.info else []).upper()
    return not methods or "DIFFRACTION" in methods


def _screw(
    k: int, rise: float, twist: float, centre: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    angle = np.deg2rad(k * twist)
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return rotation, centre - rotation @ centre + np.array([0, 0, k * rise])


def _lattice(model: Model) -> Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    cell = model.structure.cell
    orthogonal, fractional = np.array(cell.orth.mat.tolist()), np.array(cell.frac.mat.tolist())
    images = [(np.eye(3), np.zeros(3))]
    images += [(np.array(image.mat.tolist()), np.array(image.vec.tolist())) for image in cell.images]
    low, high = (model.points.min(axis=0) + model.corner) / 1000, (model.points.max(axis=0) + model.corner) / 1000
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    own = corners @ fractional.T
    for rotation, shift in images:
        moved = own @ rotation.T + shift
        # All cells in which the copy can meet the model.
        first = np.floor(own.min(axis=0) - moved.max(axis=0)).astype(int)
        last = np.ceil(own.max(axis=0) - moved.min(axis=0)).astype(int)
        turned = orthogonal @ rotation @ fractional
        for i in range(first[0], last[0] + 1):
            for j in range(first[1], last[1] + 1):
                for k in range(first[2], last[2] + 1):
                    yield turned, orthogonal @ (shift + np.array([i, j, k]))


def _assembled(model: Model, name: str) -> Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    chosen = next(item for item in model.structure.assemblies if item.name == name)
    operators = [
        (np.array(one.transform.mat.tolist()), np.array(one.transform.vec.tolist()))
        for generator in chosen.generators
        for one in generator.operators
    ]
    for rotation, shift in operators:
        for other, offset in operators:
            # Where the first copy lies as seen from the second.
            yield other.T @ rotation, other.T @ (shift - offset)


def place(model: Model, operation: tuple[tuple[int, int, int, int], ...]) -> NDArray[np.int64]:
    """Coordinates of a copy, rounded down to 0.001 Å as Coq does it."""
    rows = np.array(operation, dtype=np.int64)
    found: NDArray[np.int64] = (model.points @ rows[:, :3].T + rows[:, 3]) >> 30
    return found


def _near(
    model: Model,
    transforms: Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]],
    kind: str,
    trim: bool = False,
) -> Copies:
    low, high = model.points.min(axis=0), model.points.max(axis=0)
    middle, half = (low + high) / 2, (high - low) / 2
    found: dict[tuple[int, ...], tuple[tuple[int, int, int, int], ...]] = {}
    for rotation, shift in transforms:
        # x' = R (p + corner) + shift - corner, all in 0.001 Å
        offset = rotation @ model.corner + 1000 * shift - model.corner
        if np.allclose(rotation, np.eye(3), atol=1e-6) and np.abs(offset).max() < 1:
            continue
        centre = rotation @ middle + offset
        if (np.abs(centre - middle) > np.abs(rotation) @ half + half + _REACH).any():
            continue
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3:
            continue  # not a rotation: a broken record
        inverse = rotation.T
        keys = [
            tuple(np.rint(np.concatenate([1e3 * m.ravel(), v / 100])).astype(int).tolist())
            for m, v in ((rotation, offset), (inverse, -inverse @ offset))
        ]
        if keys[0] in found or keys[1] in found:
            continue
        rows = np.rint(np.concatenate([rotation, offset[:, None]], axis=1) * UNIT).astype(np.int64)
        found[keys[0]] = tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in rows)
        if len(found) > _MOST:
            break
    kept = tuple(found.values())
    return Copies(kept, kind)


def overlaps(model: Model, copies: Copies, across: list[tuple[int, int]], margin: int) -> list[tuple[int, int, int]]:
    """Operation (from 1), atom of the copy and atom of the model that overlap; as ``overlapping`` in Mates.v."""
    from scipy.spatial import cKDTree

    if not copies.operations:
        return []
    tree = cKDTree(model.points / 1000)
    joined = {(i, j) for i, j in across} | {(j, i) for i, j in across}
    low, high = model.points.min(axis=0) - 2_300, model.points.max(axis=0) + 2_300
    occ = model.occupancies
    found = []
    for number, operation in enumerate(copies.operations, 1):
        moved = place(model, operation)
        inside = np.flatnonzero(((moved >= low) & (moved <= high)).all(axis=1))
        if not len(inside):
            continue
        near = cKDTree(moved[inside] / 1000).query_ball_tree(tree, (2200 + abs(margin)) / 1000 + 1e-6)
        pairs = [(int(inside[k]), j) for k, partners in enumerate(near) for j in partners]
        if not pairs:
            continue
        i, j = np.array(pairs, dtype=np.int64).T
        d2 = ((moved[i] - model.points[j]) ** 2).sum(axis=1)
        limit = limits(model.kinds[i], model.kinds[j]) + margin
        bad = (d2 < limit * limit) & (occ[i] + occ[j] > 1000) & ~((i == j) & (d2 < 250_000))
        found += [
            (number, int(a), int(b)) for a, b in zip(i[bad], j[bad], strict=True) if (int(a), int(b)) not in joined
        ]
    return sorted(found)
