"""Symmetry copies of a model: crystal, biological assembly, point group, helix; as integers that Coq can check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import gemmi
import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError, point_group_matrices

from ._links import Link
from ._model import Model
from ._rules import alternatives, bonded_limits, limits

__all__ = ["UNIT", "Copies", "Scope", "find_copies", "joined_copies", "overlaps", "place", "within_scope"]

#: Rotations are in units of 2^-30, as in Mates.v.
UNIT = 1 << 30
_REACH = 4_700  # 0.001 Å: contacts of ligands reach 4.5 Å
_MOST = 4_000


Transform = tuple[NDArray[np.float64], NDArray[np.float64]]
#: First and last numbers of residues; empty for all of them.
Scope = tuple[tuple[int, int], ...]


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
        return _near(model, _everywhere((r, centre - r @ centre) for r in rotations), f"point group {symmetry.upper()}")
    if rise_in_angstroms is not None or twist_in_degrees is not None:
        if rise_in_angstroms is None or twist_in_degrees is None:
            raise InputError("--helical-rise and --helical-twist", "one is missing", "Give both of them.")
        length = float(np.ptp(model.points[:, 2])) / 1000
        turns = int((length + 10) / rise_in_angstroms) + 1
        steps = (_screw(k, rise_in_angstroms, twist_in_degrees, centre) for k in range(1, turns + 1))
        kind = f"helix of {rise_in_angstroms:g} Å and {twist_in_degrees:g}° a unit"
        return _near(model, _everywhere(steps), kind)
    structure = model.structure
    crystal = structure.cell.is_crystal() and structure.find_spacegroup() is not None and _diffracted(structure)
    if assembly is None and crystal and not model.declared.frames:
        low, high = ((edge(axis=0) + model.corner) / 1000 for edge in (model.points.min, model.points.max))
        return _near(
            model, _everywhere(_lattice(model.structure, low, high)), f"crystal, space group {structure.spacegroup_hm}"
        )
    names = [item.name for item in structure.assemblies]
    if assembly is not None and assembly not in names:
        raise InputError(
            model.path, f"has no assembly '{assembly}' (it has: {', '.join(names) or 'none'})", "Name one of these."
        )
    if names:
        name = assembly if assembly is not None else names[0]
        copies = _near(model, _assembled(model, name), f"biological assembly {name}")
        if assembly is not None or not crystal:
            return copies
        if len(model.declared.frames) == 1:
            kind = f"crystal, space group {structure.spacegroup_hm}, of biological assemblies {name}"
            return _near(model, _packed(model, name), kind)
        words = "the file says that its coordinates are not in the crystal's frame: contacts there are not judged."
        return replace(copies, left_out=copies.left_out or words)
    return Copies((), "")


def _diffracted(structure: gemmi.Structure) -> bool:
    methods = " ".join(structure.info["_exptl.method"].split() if "_exptl.method" in structure.info else []).upper()
    return not methods or "DIFFRACTION" in methods


def _screw(k: int, rise: float, twist: float, centre: NDArray[np.float64]) -> Transform:
    angle = np.deg2rad(k * twist)
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return rotation, centre - rotation @ centre + np.array([0, 0, k * rise])


def _everywhere(transforms: Iterable[Transform]) -> Iterable[tuple[Transform, Scope, Scope]]:
    return ((transform, (), ()) for transform in transforms)


def _lattice(structure: gemmi.Structure, low: NDArray[np.float64], high: NDArray[np.float64]) -> Iterable[Transform]:
    """Yield the copies in a crystal of what lies in a box [Å] that can meet it."""
    cell = structure.cell
    orthogonal, fractional = np.array(cell.orth.mat.tolist()), np.array(cell.frac.mat.tolist())
    images = [(np.eye(3), np.zeros(3))]
    images += [(np.array(image.mat.tolist()), np.array(image.vec.tolist())) for image in cell.images]
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


def _operators(model: Model, name: str) -> list[tuple[NDArray[np.float64], NDArray[np.float64], Scope]]:
    """Operators of an assembly, and the residues that each moves."""
    chosen = next(item for item in model.structure.assemblies if item.name == name)
    return [
        (np.array(one.transform.mat.tolist()), np.array(one.transform.vec.tolist()), scope)
        for generator in chosen.generators
        for scope in (_scope(model, set(generator.chains), set(generator.subchains)),)
        if scope is not None
        for one in generator.operators
    ]


def _assembled(model: Model, name: str) -> Iterable[tuple[Transform, Scope, Scope]]:
    """Every copy as seen from every other one: operators move the chains that they are stated for, and no others."""
    copies = _operators(model, name)
    for n, (rotation, shift, moved) in enumerate(copies):
        for m, (other, offset, met) in enumerate(copies):
            if n != m:
                # Where the first copy lies as seen from the second.
                yield (other.T @ rotation, other.T @ (shift - offset)), moved, met


def _packed(model: Model, name: str) -> Iterable[tuple[Transform, Scope, Scope]]:
    """Yield the copies in a crystal of particles (assemblies) with another frame, one in the asymmetric unit.

    With frame X, operators of the assembly B and of the crystal L: B_m^-1 X^-1 L X B_k, where they come near.
    """
    frame = np.array(model.declared.frames[0])
    turn, shift = frame[:, :3], frame[:, 3]
    parts = _operators(model, name)
    yield from _assembled(model, name)
    rotations, offsets = np.array([part[0] for part in parts]), np.array([part[1] for part in parts])
    low, high = ((edge(axis=0) + model.corner) / 1000 for edge in (model.points.min, model.points.max))
    middle, half = (low + high) / 2, (high - low) / 2
    places = rotations @ middle + offsets
    centre = places.mean(axis=0)
    radius = float(np.linalg.norm(places - centre, axis=1).max() + np.linalg.norm(half))
    own = turn @ centre + shift
    for rotation, vector in _lattice(model.structure, own - radius, own + radius):
        away = float(np.linalg.norm(rotation @ own + vector - own))
        # A particle on an element of the crystal's symmetry is its own copy: that is in its own symmetry already.
        if away < 1 or away > 2 * radius + _REACH / 1000:
            continue
        across = turn.T @ rotation @ turn
        along = turn.T @ (rotation @ shift + vector - shift)
        turned, moved = across @ rotations, offsets @ across.T + along
        for back, origin, (_, _, met) in zip(rotations, offsets, parts, strict=True):
            all_turns, all_shifts = back.T @ turned, (moved - origin) @ back
            apart = np.abs(all_turns @ middle + all_shifts - middle)
            near = (apart <= np.abs(all_turns) @ half + half + _REACH / 1000).all(axis=1)
            for k in np.flatnonzero(near):
                yield (all_turns[k], all_shifts[k]), parts[k][2], met


def _scope(model: Model, chains: set[str], subchains: set[str]) -> Scope | None:
    """Residues of some chains; empty for all, None for none."""
    held = [residue.chain in chains or residue.subchain in subchains for residue in model.residues]
    if all(held):
        return ()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], held, [False]]).astype(int)))
    return tuple((int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)) or None


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
    found: dict[tuple[object, ...], tuple[tuple[int, int, int, int], ...]] = {}
    left_out = ""
    for (rotation, shift), sources, targets in transforms:
        # x' = R (p + corner) + shift - corner, all in 0.001 Å
        offset = rotation @ model.corner + 1000 * shift - model.corner
        centre = rotation @ middle + offset
        # The identity: nothing moves by more than 0.05 Å.
        if (np.abs(rotation - np.eye(3)) @ half + np.abs(centre - middle)).max() < 50:
            continue
        if (
            not (np.isfinite(rotation).all() and np.isfinite(offset).all())
            or np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3
        ):
            left_out = f"one of the operators ({kind}) is no rotation, so its copy cannot be judged."
            continue
        if (np.abs(centre - middle) > np.abs(rotation) @ half + half + _REACH).any():
            continue
        inverse = rotation.T
        keys = [
            (*np.rint(np.concatenate([1e3 * m.ravel(), v / 100])).astype(int).tolist(), one, other)
            for m, v, one, other in (
                (rotation, offset, sources, targets),
                (inverse, -inverse @ offset, targets, sources),
            )
        ]
        if keys[0] in found or keys[1] in found:
            continue
        if not _meet(model.points, rotation, offset):
            continue
        if len(found) == _MOST:
            left_out = f"more than {_MOST:,} copies come near ({kind}); the rest was not judged."
            break
        found[keys[0]] = _rows(np.rint(np.concatenate([rotation, offset[:, None]], axis=1) * UNIT).astype(np.int64))
    scopes = tuple((key[-2], key[-1]) for key in found)
    return Copies(tuple(found.values()), kind, scopes, left_out)  # type: ignore[arg-type]


def _meet(points: NDArray[np.int64], rotation: NDArray[np.float64], offset: NDArray[np.float64]) -> bool:
    """Whether what lies in the box of the other, of copy and model, comes within 4.7 Å by its own boxes."""
    parts = []
    for moved in (points @ rotation.T + offset, (points - offset) @ rotation):
        low, high = points.min(axis=0) - _REACH, points.max(axis=0) + _REACH
        parts.append(((moved >= low) & (moved <= high)).all(axis=1))
    if not (parts[0].any() and parts[1].any()):
        return False
    copy, own = points[parts[0]] @ rotation.T + offset, points[parts[1]]
    gap = np.maximum(copy.min(axis=0) - own.max(axis=0), own.min(axis=0) - copy.max(axis=0))
    return bool((gap <= _REACH).all())


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
    """Overlaps with copies: operation (from 1), atom of the copy, atom of the model; and how many pairs were exempt."""

    found: list[tuple[int, int, int]]
    alternatives: int = 0
    on_elements: int = 0


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
        held.alternatives += int((bad & other & ~own).sum())
        bad &= ~own & ~other
        if sure:
            bad &= share[i] + share[j] > 1010
        held.found += [(number, int(a), int(b)) for a, b in zip(i[bad], j[bad], strict=True)]
    held.found.sort()
    return held
