"""Each residue is one bonded piece: what has to be asked so that no atom lies apart from its residue."""

from __future__ import annotations

from collections import defaultdict

import gemmi
import numpy as np

from ._chemistry import METALS
from ._model import Model, Residue

__all__ = ["holding_together", "together"]

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
    if not atoms:
        return found
    reached, waiting = {atoms[0]}, [atoms[0]]
    while True:
        while waiting:
            here = waiting.pop()
            for there in graph[here]:
                if there not in reached:
                    reached.add(there)
                    waiting.append(there)
                    found.append((here, there, True))
        rest = [i for i in atoms if i not in reached]
        if not rest:
            return found
        inner = sorted(reached)
        apart = ((model.points[inner][:, None] - model.points[rest][None]) ** 2).sum(axis=2)
        row, column = np.unravel_index(int(np.argmin(apart)), apart.shape)
        found.append((inner[int(row)], rest[int(column)], False))
        reached.add(rest[int(column)])
        waiting.append(rest[int(column)])
