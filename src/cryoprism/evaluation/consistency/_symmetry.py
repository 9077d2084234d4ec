"""Symmetry copies of a model: crystal, biological assembly, point group, helix; as integers that Coq can check."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError, point_group_matrices

from ._declared_copies import REACH, Scope, Transform, declared_operators, everywhere
from ._links import Link
from ._model import Model
from ._rules import alternatives, bonded_limits, limits

__all__ = ["UNIT", "Copies", "Scope", "find_copies", "joined_copies", "overlaps", "place", "within_scope"]

#: Rotations are in units of 2^-30, as in Mates.v.
UNIT = 1 << 30
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
    scopes
        For each operation, which residues it moves, and which residues these meet.
    left_out
        Why copies are not here that may come near; empty where all are.
    """

    operations: tuple[tuple[tuple[int, int, int, int], ...], ...]
    kind: str
    scopes: tuple[tuple[Scope, Scope], ...] = ()
    left_out: str = ""

    def both_ways(self) -> Copies:
        """Return the operations with their inverses: what one atom meets is not what meets it."""
        rows, scopes = list(self.operations), list(self.scopes)
        for operation, (sources, targets) in zip(self.operations, self.scopes, strict=True):
            table = np.array(operation, dtype=np.float64)
            inverse = table[:, :3].T / UNIT
            back = np.rint(np.concatenate([inverse * UNIT, -inverse @ table[:, 3:]], axis=1)).astype(np.int64)
            rows.append(_rows(back))
            scopes.append((targets, sources))
        return Copies(tuple(rows), self.kind, tuple(scopes), self.left_out)


def _rows(table: NDArray[np.int64]) -> tuple[tuple[int, int, int, int], ...]:
    return tuple((int(a), int(b), int(c), int(d)) for a, b, c, d in table)


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

    What is asked for comes first: point group, helix or assembly. Without that all that the file declares counts: the
    crystal (space group, all cells around), strict non-crystallographic operators, and every assembly.

    Raises
    ------
    InputError
        No such assembly, or a helix without rise or twist, with a rise that is not above 0, or of so many copies that
        the rise cannot be that of a subunit.
    """
    centre = np.array(centre_in_angstroms)
    if symmetry is not None and symmetry.upper() != "C1":
        rotations = point_group_matrices(symmetry).double().numpy()
        turns = (r for r in rotations if np.abs(r - np.eye(3)).max() > 1e-6)
        return _near(model, everywhere((r, centre - r @ centre) for r in turns), f"point group {symmetry.upper()}")
    if rise_in_angstroms is not None or twist_in_degrees is not None:
        if rise_in_angstroms is None or twist_in_degrees is None:
            raise InputError("--helical-rise and --helical-twist", "one is missing", "Give both of them.")
        steps = _helix(model, rise_in_angstroms, twist_in_degrees, centre)
        kind = f"helix of {rise_in_angstroms:g} Å and {twist_in_degrees:g}° a unit"
        return _near(model, everywhere(steps), kind)
    asked, kind, unused = declared_operators(model, assembly)
    copies = _near(model, asked, kind)
    words = " ".join([*unused, *([copies.left_out] if copies.left_out else [])])
    return replace(copies, kind=kind or "nothing that could be used", left_out=words) if words else copies


def _helix(model: Model, rise: float, twist: float, centre: NDArray[np.float64]) -> Iterable[Transform]:
    if not (np.isfinite(rise) and rise > 0 and np.isfinite(twist)):
        found = f"{rise:g} Å and {twist:g}° are no helix"
        remedy = "Give a rise above 0; a negative twist makes the helix left-handed."
        raise InputError("--helical-rise and --helical-twist", found, remedy)
    length = float(np.ptp(model.points[:, 2])) / 1000
    units = int((length + 10) / rise) + 1
    if units > _MOST:
        found = f"with {rise:g} Å a unit {units:,} copies come near a model of {length:.0f} Å"
        raise InputError("--helical-rise", found, "Give the rise of one subunit.")
    return (_screw(k, rise, twist, centre) for k in range(1, units + 1))


def _screw(k: int, rise: float, twist: float, centre: NDArray[np.float64]) -> Transform:
    angle = np.deg2rad(k * twist)
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return rotation, centre - rotation @ centre + np.array([0, 0, k * rise])


def place(
    model: Model, operation: tuple[tuple[int, int, int, int], ...], atoms: Sequence[int] | None = None
) -> NDArray[np.int64]:
    """Coordinates of a copy (of some atoms), rounded down to 0.001 Å as Coq does it."""
    rows = np.array(operation, dtype=np.int64)
    points = model.points if atoms is None else model.points[np.asarray(atoms)]
    found: NDArray[np.int64] = (points @ rows[:, :3].T + rows[:, 3]) >> 30
    return found


def _near(model: Model, transforms: Iterable[tuple[Transform, Scope, Scope]], kind: str) -> Copies:
    low, high = model.points.min(axis=0), model.points.max(axis=0)
    middle, half = (low + high) / 2, (high - low) / 2
    found: list[tuple[tuple[int, int, int, int], ...]] = []
    scopes: list[tuple[Scope, Scope]] = []
    known = np.empty((_MOST, 12))
    left_out = ""
    for (rotation, shift), sources, targets in transforms:
        # x' = R (p + corner) + shift - corner, all in 0.001 Å
        offset = rotation @ model.corner + 1000 * shift - model.corner
        centre = rotation @ middle + offset
        if (
            not (np.isfinite(rotation).all() and np.isfinite(offset).all())
            or np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3
        ):
            left_out = f"one of the operators ({kind}) is no rotation, so its copy cannot be judged."
            continue
        # The identity, nothing moves by more than 0.05 Å: other chains as they are in the file, or a chain twice.
        if (np.abs(rotation - np.eye(3)) @ half + np.abs(centre - middle)).max() < 50:
            twice = _in_both(sources, targets)
            if twice is None:
                continue
            sources = targets = twice
        if (np.abs(centre - middle) > np.abs(rotation) @ half + half + REACH).any():
            continue
        inverse = rotation.T
        if _is_known(known[: len(found)], scopes, rotation, centre, (sources, targets)) or _is_known(
            known[: len(found)], scopes, inverse, inverse @ (middle - offset), (targets, sources)
        ):
            continue
        if not _meet(model.points, rotation, offset):
            continue
        if len(found) == _MOST:
            left_out = f"more than {_MOST:,} copies come near ({kind}); the rest was not judged."
            break
        known[len(found)] = np.concatenate([rotation.ravel(), centre])
        scopes.append((sources, targets))
        found.append(_rows(np.rint(np.concatenate([rotation, offset[:, None]], axis=1) * UNIT).astype(np.int64)))
    return Copies(tuple(found), kind, tuple(scopes), left_out)


def _in_both(one: Scope, other: Scope) -> Scope | None:
    """Return the residues that belong to two scopes; None where there are none."""
    if not one or not other:
        return one or other
    pairs = itertools.product(one, other)
    both = [(max(a, c), min(b, d)) for (a, b), (c, d) in pairs if max(a, c) <= min(b, d)]
    return tuple(sorted(both)) or None


def _is_known(
    known: NDArray[np.float64],
    scopes: Sequence[tuple[Scope, Scope]],
    rotation: NDArray[np.float64],
    centre: NDArray[np.float64],
    scope: tuple[Scope, Scope],
) -> bool:
    """Whether an operator is there already, for these residues or for all of them: within 0.1 Å."""
    same = (np.abs(known[:, :9] - rotation.ravel()) < 1e-3).all(axis=1)
    same &= (np.abs(known[:, 9:] - centre) < 100).all(axis=1)
    return any(scopes[k] in (scope, ((), ())) for k in np.flatnonzero(same).tolist())


def _meet(points: NDArray[np.int64], rotation: NDArray[np.float64], offset: NDArray[np.float64]) -> bool:
    """Whether what lies in the box of the other, of copy and model, comes within 4.7 Å by its own boxes."""
    parts = []
    for moved in (points @ rotation.T + offset, (points - offset) @ rotation):
        low, high = points.min(axis=0) - REACH, points.max(axis=0) + REACH
        parts.append(((moved >= low) & (moved <= high)).all(axis=1))
    if not (parts[0].any() and parts[1].any()):
        return False
    copy, own = points[parts[0]] @ rotation.T + offset, points[parts[1]]
    gap = np.maximum(copy.min(axis=0) - own.max(axis=0), own.min(axis=0) - copy.max(axis=0))
    return bool((gap <= REACH).all())


def joined_copies(model: Model, copies: Copies, links: Sequence[Link]) -> list[tuple[int, int, int]]:
    """Return the recorded bonds to copies: operation (from 1), atom of the copy, atom of the model.

    A record counts for the copy that it states (the atom within 0.2 Å of where the record has it) and at a length that
    the elements allow.
    """
    found = set()
    for link in links:
        for n, operation in enumerate(copies.operations, 1):
            moved = place(model, operation, [link.second, link.first])
            ends = zip(moved, link.images or (), ((link.second, link.first), (link.first, link.second)), strict=False)
            for spot, stated, (one, other) in ends:
                wanted = 1000 * np.array(stated) - model.corner
                apart = float(np.linalg.norm(spot - model.points[other])) / 1000
                if np.linalg.norm(spot - wanted) < 200 and link.least <= apart <= link.most:
                    found.add((n, one, other))
    return sorted(found)


def _members(model: Model, scope: Scope) -> NDArray[np.bool_]:
    if not scope:
        return np.ones(len(model), dtype=bool)
    held: NDArray[np.bool_] = np.zeros(len(model.residues), dtype=bool)
    for first, last in scope:
        held[first : last + 1] = True
    return np.asarray(held[model.residue_of])


def within_scope(scope: Scope, residue: int) -> bool:
    """Whether a residue belongs."""
    return not scope or any(first <= residue <= last for first, last in scope)


@dataclass
class Overlaps:
    """Overlaps with copies: operation (from 1), atom of the copy, atom of the model; and how many pairs were exempt.

    ``on_itself`` says which chain a copy lays onto itself, where one does.
    """

    found: list[tuple[int, int, int]]
    alternatives: int = 0
    on_elements: int = 0
    on_itself: str = ""


#: So many atoms of one polymer chain an element of symmetry may run through. An axis is a line: of a chain that crosses
#: it, it meets an atom or two, of one along a ring or a base pair four. A ligand or an ion may lie on it as a whole.
_ON_ELEMENT = 4


def overlaps(
    model: Model, copies: Copies, joined: list[tuple[int, int, int]], margin: int, *, sure: bool = False
) -> Overlaps:
    """Find what overlaps, as ``overlapping`` in Mates.v; ``sure``: only what has to be there at once."""
    from scipy.spatial import cKDTree

    held = Overlaps([])
    tree = cKDTree(model.points / 1000)
    bonds = set(joined)
    low, high = model.points.min(axis=0) - 2_300, model.points.max(axis=0) + 2_300
    share = np.where(model.occupancies == 0, 1000, model.occupancies)
    for number, (operation, scope) in enumerate(zip(copies.operations, copies.scopes, strict=True), 1):
        sources, targets = (_members(model, part) for part in scope)
        moved = place(model, operation)
        inside = np.flatnonzero(((moved >= low) & (moved <= high)).all(axis=1) & sources)
        if not len(inside):
            continue
        near = cKDTree(moved[inside] / 1000).query_ball_tree(tree, (2200 + abs(margin)) / 1000 + 1e-6)
        pairs = [(int(inside[k]), j) for k, partners in enumerate(near) for j in partners]
        if not pairs:
            continue
        i, j = np.array(pairs, dtype=np.int64).T
        d2 = ((moved[i] - model.points[j]) ** 2).sum(axis=1)
        kinds = model.kinds[i], model.kinds[j]
        bad = (d2 < (limits(*kinds) + margin) ** 2) & targets[j]
        bound = np.array([(number, a, b) in bonds for a, b in pairs]) if bonds else np.zeros(len(pairs), dtype=bool)
        bad &= ~bound | (d2 < (bonded_limits(*kinds) + margin) ** 2)
        own = (i == j) & (d2 < 250_000)
        other = alternatives(model, i, j)
        held.on_elements += int((bad & own).sum())
        of = [model.residues[int(model.residue_of[a])] for a in i[own & targets[j]]]
        for chain, count in Counter(residue.chain for residue in of if residue.role == "polymer").items():
            if count > _ON_ELEMENT:
                held.on_itself = f"symmetry copy {number} lays {count} atoms of chain {chain} onto themselves."
        held.alternatives += int((bad & other & ~own).sum())
        bad &= ~own & ~other
        if sure:
            bad &= share[i] + share[j] > 1010
        held.found += [(number, int(a), int(b)) for a, b in zip(i[bad], j[bad], strict=True)]
    held.found.sort()
    return held
