"""Phantoms: specimens that the project builds itself from ideal α-helices, so that nothing need be downloaded.

``shell`` is about ferritin's size (octahedral, 24 subunits, 120 Å across, hollow within 80 Å), ``barrel`` is a D7
cylinder of 14 subunits, ``globule`` is one asymmetric chain bundle. Helices have the exact screw of 100° and 1.5 Å per
residue; where two of them touch, side chains turn or shorten until nothing clashes, so every specimen has a surface and
a core.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from scipy.spatial import cKDTree

from cryoprism.core import InputError, point_group_matrices

from ._helices import RISE_IN_ANGSTROMS, TURN_IN_DEGREES, Array, HelixAxis, ideal_backbone, pack_helices, side_chain

__all__ = ["Phantom", "PhantomKind", "phantom"]

PhantomKind = Literal["shell", "barrel", "globule"]

CLASH_IN_ANGSTROMS = 3.2
_ATOMIC_NUMBER = {"N": 7, "CA": 6, "C": 6, "O": 8, "CB": 6}
_HYDROGENS = {"N": 1, "CA": 1, "C": 0, "O": 0, "CB": 2}  # of a residue inside a chain
_DALTONS = {1: 1.008, 6: 12.011, 7: 14.007, 8: 15.999}
_ROTAMERS = [(a, b, 180.0) for a in (-65.0, 180.0, 62.0) for b in (180.0, -65.0, 65.0)]


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """A specimen of ideal helices.

    Parameters
    ----------
    name
        Kind and seed.
    symmetry
        Point group symbol in RELION's orientation; the centre of the group is the origin.
    positions_in_angstroms
        (n, 3) heavy atoms (x, y, z), the first copy first.
    atomic_numbers
        (n,) int.
    axes
        The helices of the first copy.
    helix_of_atom
        (n,) which helix an atom belongs to, counted through all copies.
    mass_in_kilodaltons
        Of all copies, hydrogens included.
    """

    name: str
    symmetry: str
    positions_in_angstroms: Array
    atomic_numbers: np.ndarray
    axes: tuple[HelixAxis, ...]
    helix_of_atom: np.ndarray
    mass_in_kilodaltons: float

    @property
    def radius_in_angstroms(self) -> float:
        """Largest distance of an atom from the origin [Å]."""
        return float(np.linalg.norm(self.positions_in_angstroms, axis=1).max())


@lru_cache(maxsize=8)
def phantom(kind: PhantomKind = "shell", seed: int = 0) -> Phantom:
    """Build a phantom; the same kind and seed give the same atoms.

    Parameters
    ----------
    kind
        ``shell`` (O, about 420 kDa, 120 Å), ``barrel`` (D7, about 240 kDa, 120 × 88 Å) or ``globule`` (C1, about 58
        kDa, 75 Å).
    seed
        Another seed gives another fold of the same size.

    Raises
    ------
    InputError
        The kind is unknown.
    """
    if kind not in get_args(PhantomKind):
        raise InputError("phantom", f"'{kind}' is not known", f"Use one of {', '.join(get_args(PhantomKind))}.")
    symbol, lengths, container, centres, directions = _RECIPES[kind](seed)
    group = point_group_matrices(symbol).double().numpy()
    attempts = (
        pack_helices(
            lengths, group, container, centres, directions, spacing_in_angstroms=8.6, seed=seed * 97 + i, iterations=300
        )
        for i in range(2)
    )
    centres, directions, _ = min(attempts, key=lambda attempt: attempt[2])
    axes = [
        HelixAxis(
            centre_in_angstroms=(float(c[0]), float(c[1]), float(c[2])),
            direction=(float(d[0]), float(d[1]), float(d[2])),
            phase_in_degrees=0.0,
            residues=round(length / RISE_IN_ANGSTROMS),
        )
        for c, d, length in zip(centres, directions, lengths, strict=True)
    ]
    return _decorate(f"{kind}-{seed}", symbol, group, _trim(_turn(axes, group), group))


def _turn(axes: list[HelixAxis], group: Array) -> tuple[HelixAxis, ...]:
    """Turn each helix about its own axis to the phase in which its atoms keep furthest from the others (two sweeps)."""
    turned = list(axes)
    for _ in range(2):
        for i, axis in enumerate(turned):
            costs = []
            for phase in np.arange(0.0, 360.0, 20.0):
                atoms = ideal_backbone(replace(axis, phase_in_degrees=float(phase))).reshape(-1, 3)
                others = [ideal_backbone(a).reshape(-1, 3) for j, a in enumerate(turned) if j != i]
                tree = cKDTree(_surroundings(atoms, others, group, reach=8.0))
                distance = np.asarray(tree.query(atoms, k=1)[0])
                costs.append(float((np.clip(4.5 - distance, 0.0, None) ** 2).sum()))
            turned[i] = replace(axis, phase_in_degrees=20.0 * int(np.argmin(costs)))
    return tuple(turned)


def _trim(axes: tuple[HelixAxis, ...], group: Array) -> tuple[HelixAxis, ...]:
    """Shorten helices at the nearer end until no backbone atom touches another helix."""
    trimmed = list(axes)
    for _ in range(12):
        clean = True
        for i in range(len(trimmed)):
            chains = [ideal_backbone(a)[:, :4] for a in trimmed]
            others = [c.reshape(-1, 3) for j, c in enumerate(chains) if j != i]
            tree = cKDTree(_surroundings(chains[i].reshape(-1, 3), others, group, reach=6.0))
            touching = np.flatnonzero(_nearest(tree, chains[i]).min(1) < CLASH_IN_ANGSTROMS)
            if touching.size == 0:
                continue
            clean = False
            count = trimmed[i].residues
            head, tail = touching[touching < count / 2], touching[touching >= count / 2]
            first = int(head.max()) + 1 if head.size else 0
            last = int(tail.min()) if tail.size else count
            trimmed[i] = _shorten(trimmed[i], first, max(last, first + 4))
        if clean:
            break
    return tuple(trimmed)


def _shorten(axis: HelixAxis, first: int, last: int) -> HelixAxis:
    """Keep the residues from ``first`` up to but without ``last`` where they are."""
    shift = RISE_IN_ANGSTROMS * (0.5 * (first + last - 1) - 0.5 * (axis.residues - 1))
    unit = np.asarray(axis.direction) / np.linalg.norm(axis.direction)
    x, y, z = (np.asarray(axis.centre_in_angstroms) + shift * unit).tolist()
    return replace(
        axis,
        centre_in_angstroms=(x, y, z),
        phase_in_degrees=axis.phase_in_degrees + TURN_IN_DEGREES * first,
        residues=last - first,
    )


def _surroundings(atoms: Array, others: list[Array], group: Array, reach: float) -> Array:
    """Return what surrounds ``atoms``: other atoms of the unit, and all copies of both, within a box around them."""
    unit = np.concatenate([atoms, *others])
    copies = np.einsum("gij,nj->gni", group, unit)
    around = np.concatenate([copies[0, atoms.shape[0] :], copies[1:].reshape(-1, 3)])
    near = ((around > atoms.min(0) - reach) & (around < atoms.max(0) + reach)).all(1)
    kept: Array = around[near]
    # A far point keeps the tree non-empty.
    return np.concatenate([kept, np.full((1, 3), 1e6)])


def _decorate(name: str, symbol: str, group: Array, axes: tuple[HelixAxis, ...]) -> Phantom:
    """Grow side chains that fit, symmetrise and weigh."""
    backbones = [ideal_backbone(axis) for axis in axes]
    names = ("N", "CA", "C", "O", "CB")
    positions: list[Array] = []
    numbers: list[int] = []
    helix: list[int] = []
    mass = 0.0
    unit = [b[:, :4].reshape(-1, 3) for b in backbones]
    keeps_cb = []
    for i, backbone in enumerate(backbones):
        tree = cKDTree(_surroundings(unit[i], [u for j, u in enumerate(unit) if j != i], group, 12.0))
        keeps_cb.append(_nearest(tree, backbone[:, 4]) >= CLASH_IN_ANGSTROMS)
    grown: Array = np.zeros((0, 3))  # side-chain atoms so far, with copies
    grown_helix = np.zeros(0, dtype=int)
    for i, backbone in enumerate(backbones):
        tree = cKDTree(_surroundings(unit[i], [u for j, u in enumerate(unit) if j != i], group, 14.0))
        own = cKDTree(backbone.reshape(-1, 3))
        chains = np.stack([side_chain(backbone, chi) for chi in _ROTAMERS], 1)  # (residues, rotamers, 3, 3)
        room = np.minimum(_nearest(tree, chains), _nearest(own, chains) + 0.8)
        room[:, :, 0] = _nearest(tree, chains[:, :, 0])  # Cγ is bonded to its own Cβ
        for n in range(backbone.shape[0]):
            atoms = [backbone[n, a] for a in range(4)]
            kinds = list(names[:4])
            cb = backbone[n, 4]
            if keeps_cb[i][n] and _fits(cb[None], grown[grown_helix != i], group):
                atoms.append(cb)
                kinds.append("CB")
                chain = _longest_chain(cb, chains[n], room[n], grown, group)
                mass += sum(_DALTONS[6] + 2 * _DALTONS[1] for _ in chain) + _DALTONS[1]
                placed = np.concatenate([cb[None], chain])
                copies = np.einsum("gij,nj->gni", group, placed).reshape(-1, 3)
                grown = np.concatenate([grown, copies])
                belongs = np.repeat(np.where(np.arange(group.shape[0]) == 0, i, -1), placed.shape[0])
                grown_helix = np.concatenate([grown_helix, belongs])
                atoms.extend(chain)
            else:
                mass += _DALTONS[1]
            numbers.extend([_ATOMIC_NUMBER[k] for k in kinds] + [6] * (len(atoms) - len(kinds)))
            mass += sum(_DALTONS[_ATOMIC_NUMBER[k]] + _HYDROGENS[k] * _DALTONS[1] for k in kinds)
            positions.extend(atoms)
            helix.extend([i] * len(atoms))
    order = group.shape[0]
    copied = np.einsum("gij,nj->gni", group, np.asarray(positions)).reshape(-1, 3)
    helices = (np.asarray(helix)[None] + len(axes) * np.arange(order)[:, None]).reshape(-1)
    return Phantom(
        name=name,
        symmetry=symbol,
        positions_in_angstroms=copied,
        atomic_numbers=np.tile(np.asarray(numbers, dtype=np.int64), order),
        axes=axes,
        helix_of_atom=helices,
        mass_in_kilodaltons=order * mass / 1000.0,
    )


def _nearest(tree: cKDTree, points: Array) -> Array:
    """Distance [Å] of points (..., 3) to the nearest atom in a tree."""
    return np.asarray(tree.query(points.reshape(-1, 3))[0]).reshape(points.shape[:-1])


def _fits(atoms: Array, others: Array, group: Array) -> bool:
    """Whether new atoms keep off those already placed and off their own symmetry copies."""
    near = others[(np.abs(others - atoms[0]) < 12.0).all(1)] if others.size else others
    around = np.concatenate([near, np.einsum("gij,nj->gni", group[1:], atoms).reshape(-1, 3)])
    distance = np.linalg.norm(atoms[:, None] - around[None], axis=-1)
    return bool((distance >= CLASH_IN_ANGSTROMS).all())


def _longest_chain(cb: Array, chains: Array, room: Array, grown: Array, group: Array) -> Array:
    """Return the roomiest rotamer of the longest chain that fits, (0 to 3, 3)."""
    for length in (3, 2, 1):
        least = room[:, :length].min(1)
        for rotamer in np.argsort(-least, kind="stable"):
            if least[rotamer] < CLASH_IN_ANGSTROMS:
                break
            if _fits(np.concatenate([cb[None], chains[rotamer, :length]]), grown, group):
                out: Array = chains[rotamer, :length]
                return out
    return chains[0, :0]


Recipe = tuple[str, tuple[float, ...], Callable[[Array], tuple[Array, Array]], Array, Array]


def _shell(seed: int) -> Recipe:
    """Two layers of four helices over a quarter of a cube's face: one of 24 equal fields of the sphere."""
    rng = np.random.default_rng(seed)
    centres, directions, lengths = [], [], []
    for count, radius, length in ((4, 55.5, 37.5), (4, 44.5, 30.0)):
        for i in range(count):
            a, b = math.radians(45.0 * (i + 0.5) / count), math.radians(22.5)
            ahead, behind = (np.array([math.tan(a), math.tan(b + s), 1.0]) for s in (0.01, -0.01))
            ahead, behind = ahead / np.linalg.norm(ahead), behind / np.linalg.norm(behind)
            middle = ahead + behind
            centres.append(radius * middle / np.linalg.norm(middle))
            directions.append((ahead - behind) * (1 if (i + seed) % 2 else -1) + rng.normal(0, 2e-3, 3) * (seed > 0))
            lengths.append(length)
    return "O", tuple(lengths), _between_spheres(43.5, 56.5), np.stack(centres), np.stack(directions)


def _barrel(seed: int) -> Recipe:
    """Two layers of four upright helices over a fourteenth of a cylinder wall."""
    rng = np.random.default_rng(seed)
    centres, directions, lengths = [], [], []
    for count, radius in ((4, 46.0), (3, 35.0)):
        for i in range(count):
            angle = math.radians(360.0 / 7 * (i + 0.5) / count)
            centres.append((radius * math.cos(angle), radius * math.sin(angle), 22.5))
            tilt = 0.25 if radius > 40 else -0.15
            directions.append((-tilt * math.sin(angle), tilt * math.cos(angle), 1.0 if i % 2 else -1.0))
            lengths.append(36.0)
    noise = rng.normal(0.0, 0.1, (len(lengths), 3)) * (seed > 0)
    return "D7", tuple(lengths), _cylinder_wall(33.0, 48.0, 43.0), np.array(centres), np.array(directions) + noise


def _globule(seed: int) -> Recipe:
    """Thirty helices of differing length in an ellipsoid without symmetry."""
    rng = np.random.default_rng(seed + 11)
    count = 30
    axes = np.array([36.0, 25.0, 29.0])
    points = rng.normal(size=(count, 3))
    points *= (rng.uniform(0.2, 1.0, (count, 1)) ** (1 / 3)) / np.linalg.norm(points, axis=1, keepdims=True)
    lengths = tuple(float(v) for v in rng.choice([21.0, 25.5, 30.0, 36.0], count))
    return "C1", lengths, _ellipsoid(axes), points * axes * 0.8, rng.normal(size=(count, 3))


_RECIPES: dict[str, Callable[[int], Recipe]] = {"shell": _shell, "barrel": _barrel, "globule": _globule}


def _between_spheres(inner: float, outer: float) -> Callable[[Array], tuple[Array, Array]]:
    def excess(points: Array) -> tuple[Array, Array]:
        radius = np.linalg.norm(points, axis=1)
        beyond, within = np.clip(radius - outer, 0.0, None), np.clip(inner - radius, 0.0, None)
        return beyond + within, points / np.maximum(radius, 1e-6)[:, None] * np.where(within > 0, -1.0, 1.0)[:, None]

    return excess


def _cylinder_wall(inner: float, outer: float, half_height: float) -> Callable[[Array], tuple[Array, Array]]:
    def excess(points: Array) -> tuple[Array, Array]:
        radius = np.linalg.norm(points[:, :2], axis=1)
        radial = np.clip(radius - outer, 0.0, None) - np.clip(inner - radius, 0.0, None)
        axial = np.sign(points[:, 2]) * np.clip(np.abs(points[:, 2]) - half_height, 0.0, None)
        push = np.concatenate(
            [points[:, :2] / np.maximum(radius, 1e-6)[:, None] * radial[:, None], axial[:, None]], axis=1
        )
        size = np.linalg.norm(push, axis=1)
        return size, push / np.maximum(size, 1e-9)[:, None]

    return excess


def _ellipsoid(axes: Array) -> Callable[[Array], tuple[Array, Array]]:
    def excess(points: Array) -> tuple[Array, Array]:
        scaled = np.linalg.norm(points / axes, axis=1)
        radius = np.linalg.norm(points, axis=1)
        outside = radius * np.clip(1.0 - 1.0 / np.maximum(scaled, 1e-6), 0.0, None)
        return outside, points / np.maximum(radius, 1e-6)[:, None]

    return excess
