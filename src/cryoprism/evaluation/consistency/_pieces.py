"""Each residue is one bonded piece: what has to be asked so that no atom lies apart from its residue."""

from __future__ import annotations

from collections import defaultdict

import gemmi
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ._chemistry import METALS, link_range
from ._model import Model, Residue

__all__ = ["bonds_of_waters", "holding_together", "nearest_pairs", "piled_waters", "together"]

#: A bond, and for each atom that is not there another one [Å].
_STRIDE = 1.8
#: What a template knows, but seldom is there.
_ENDS = frozenset({"OXT", "P", "OP1", "OP2"})
#: Names of the dictionary for what nobody knows: atoms in density, without bonds; so far they may lie apart [Å].
_UNKNOWN = frozenset({"UNL", "UNX"})
_SCATTERED = 8.0


def together(model: Model, i: int, j: int) -> bool:
    """Whether two atoms are in the same alternative, or one of them in all."""
    one, other = model.alternatives[i], model.alternatives[j]
    return bool(one == 0 or other == 0 or one == other)


def holding_together(
    model: Model, residue: Residue, edges: list[tuple[int, int]], known: set[str]
) -> tuple[list[tuple[int, int, float, float]], list[tuple[int, int, float, float]]]:
    """Bonds of a residue, and gaps between its pieces: first atom, second atom, least and most [Å].

    In each alternative the bonds (``edges``) make pieces; from the first piece on, the nearest atom of another one has
    to be within a bond's reach (sum of the covalent radii and 0.4 Å, 0.9 Å for metals), or as many bonds further as
    atoms are missing there (of the template's ``known`` names, of those in other alternatives, or by what the file
    declares). The bonds are those of a tree over the atoms where no template knows the residue, else none.
    """
    heavy = [i for i in range(residue.start, residue.stop) if model.kinds[i] != 3]
    if len(heavy) < 2:
        return [], []
    names = {model.names[i] for i in heavy} | (known - _ENDS)
    declared = sum(
        (chain, number, code) == (residue.chain, residue.number, residue.insertion)
        for chain, number, code, _ in model.declared.missing
    ) if not known else 0  # fmt: skip
    bonded: dict[tuple[int, int], float] = {}
    apart: dict[tuple[int, int], float] = {}
    for letter in sorted({int(model.alternatives[i]) for i in heavy} - {0}) or [0]:
        atoms = [i for i in heavy if model.alternatives[i] in (0, letter)]
        absent = len(names - {model.names[i] for i in atoms}) + declared
        for i, j, bond in _joins(model, atoms, edges):
            reach = _reach(model, i, j)
            if not bond:
                least = _SCATTERED if residue.name in _UNKNOWN else _STRIDE * (absent + 1) if absent else 0.0
                apart[(i, j)] = max(reach, least)
            elif not known:  # a template's bonds are asked anyway
                bonded[(i, j)] = reach
    return [(i, j, 0.6, most) for (i, j), most in bonded.items()], [(i, j, 0.6, most) for (i, j), most in apart.items()]


def piled_waters(model: Model, residue: Residue) -> list[int]:
    """Return the oxygens of a water that are several molecules with one number (none of other letters), else none.

    Programs that run out of numbers write so: ``****``, or digits of another base.
    """
    if residue.role != "water":
        return []
    places = range(residue.start, residue.stop)
    oxygens = [k for k in places if model.elements[k] == "O" and model.alternatives[k] == 0]
    return oxygens if len(oxygens) > 1 else []


def bonds_of_waters(model: Model, residue: Residue, oxygens: list[int]) -> list[tuple[int, int, float, float]]:
    """Bonds of several waters with one number, each hydrogen with the nearest oxygen, as in ``Topology.measured``."""
    hydrogens = [k for k in range(residue.start, residue.stop) if model.kinds[k] == 3]
    if not hydrogens:
        return []
    nearest = cKDTree(model.points[oxygens] / 1000).query(model.points[hydrogens] / 1000)[1]
    least, most = link_range("H", "O")[:2]
    return [(i, oxygens[k], least, most) for i, k in zip(hydrogens, nearest.tolist(), strict=True)]


def _reach(model: Model, i: int, j: int) -> float:
    elements = model.elements[i], model.elements[j]
    radii = sum(float(gemmi.Element(element).covalent_r) for element in elements)
    return radii + (0.9 if METALS & set(elements) else 0.4)


def _joins(model: Model, atoms: list[int], edges: list[tuple[int, int]]) -> list[tuple[int, int, bool]]:
    """Pairs that make one piece of the atoms: bonds of a tree (True), then nearest atoms of pieces (False)."""
    member = set(atoms)
    graph: dict[int, list[int]] = defaultdict(list)
    for i, j in edges:
        if i in member and j in member:
            graph[i].append(j)
            graph[j].append(i)
    found: list[tuple[int, int, bool]] = []
    piece: dict[int, int] = {}
    pieces = 0
    for first in atoms:
        if first in piece:
            continue
        piece[first] = pieces
        waiting = [first]
        while waiting:
            here = waiting.pop()
            for there in graph[here]:
                if there not in piece:
                    piece[there] = pieces
                    waiting.append(there)
                    found.append((here, there, True))
        pieces += 1
    if pieces == 1:
        return found
    beside: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for a, b in nearest_pairs(model.points[atoms] / 1000, np.array([piece[i] for i in atoms])):
        i, j = atoms[a], atoms[b]
        beside[piece[i]].append((i, j))
        beside[piece[j]].append((j, i))
    # From the first atom's piece outwards: the second atom of a pair is the one that lies apart.
    reached, todo = {0}, [0]
    for here_piece in todo:
        for i, j in beside[here_piece]:
            if piece[j] not in reached:
                reached.add(piece[j])
                todo.append(piece[j])
                found.append((i, j, False))
    return found


def nearest_pairs(places: NDArray[np.float64], pieces: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the pairs of points that join pieces by the shortest tree, as Borůvka finds it.

    In each round every piece is joined to the point that is nearest of all others, and so their number at least halves.
    That point is sought once for each binary digit of the pieces' numbers, since any two pieces differ in one.

    Parameters
    ----------
    places
        (n, 3), of points.
    pieces
        (n,), the piece of each point, from 0 on without a gap.
    """
    found = []
    while pieces.max(initial=0):
        least, other = np.full(len(places), np.inf), np.zeros(len(places), dtype=np.int64)
        for digit in range(int(pieces.max()).bit_length()):
            side = (pieces >> digit) & 1 == 1
            for one in (side, ~side):
                here, there = np.flatnonzero(one), np.flatnonzero(~one)
                apart, nearest = cKDTree(places[there]).query(places[here])
                nearer = apart < least[here]
                least[here[nearer]], other[here[nearer]] = apart[nearer], there[nearest[nearer]]
        order = np.lexsort((least, pieces))
        best = order[np.searchsorted(pieces[order], np.arange(pieces.max() + 1))]
        root = list(range(len(best)))
        for a in best[np.argsort(least[best], kind="stable")].tolist():
            b = int(other[a])
            first, second = _root(root, int(pieces[a])), _root(root, int(pieces[b]))
            if first != second:
                root[first] = second
                found.append((a, b))
        roots = np.array([_root(root, k) for k in range(len(root))])
        pieces = np.unique(roots, return_inverse=True)[1][pieces]
    return found


def _root(root: list[int], k: int) -> int:
    while root[k] != k:
        root[k] = root[root[k]]
        k = root[k]
    return k
