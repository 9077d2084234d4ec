"""Does an atom have more bonds than its element? Asked where bonds come from records or from distances."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Final

from ._belonging import Add
from ._chemistry import BACKBONE_ATOMS, METALS, backbone_atoms, link_range, template_bonds
from ._model import Model
from ._topology import Topology, atoms_named
from ._words import atom_words

__all__ = ["hydrogens", "valences"]

#: Most atoms, but hydrogens and metals, that an element is bonded to. Nitrogen is quaternary in choline, phosphorus
#: pentavalent in phosphoranes, iodine divalent in iodonium.
MOST_BONDS: Final = {"C": 4, "N": 4, "O": 2, "S": 4, "SE": 4, "P": 5, "F": 1, "CL": 1, "BR": 1, "I": 2}
#: The same with hydrogens, for atoms that bear any; phosphorus and sulphur bear them rarely.
MOST_WITH_HYDROGENS: Final = {"C": 4, "N": 4, "O": 3}
#: The sulphur of cysteine: its Cβ and one more; sulphinic and sulphonic acids have names of their own.
_THIOL = 2
#: Carbon and oxygen of a peptide bond, which have a double bond.
_AMIDE = {"C": 3, "O": 1}
#: Halogens with oxygen (perchlorate), sulphur and phosphorus with fluorine (SF5), and whatever neighbours boron
#: (carboranes) may have more.
_HALOGENS = frozenset({"F", "CL", "BR", "I"})
_UNKNOWN = frozenset({"UNL", "UNX"})


def valences(model: Model, topology: Topology, bonds: list[tuple[int, int]], add: Add) -> None:
    """Compare, for a residue each, how many of its atoms have more bonds than their elements have, with none.

    Asked are the atoms of residues that no template knows, whose bonds are found by distances, the sulphur of
    cysteines, which finds its disulfides by distances, and the ends of recorded covalent bonds. Atoms of alternatives
    count for each letter by itself, and copies with recorded bonds too.
    """
    recorded = {end for link in (*model.links, *topology.across) if link.covalent for end in (link.first, link.second)}
    asked: dict[int, list[int]] = defaultdict(list)
    for index, residue in enumerate(model.residues):
        if residue.role == "water" or residue.stop - residue.start < 2 or residue.name in _UNKNOWN:
            continue
        free = template_bonds(residue.standard) is None
        for atom in range(residue.start, residue.stop):
            thiol = residue.standard == "CYS" and model.names[atom] == "SG"
            if (free or thiol or atom in recorded) and model.elements[atom] in MOST_BONDS:
                asked[index].append(atom)
    # Whether a carbonyl group is that of a peptide bond tells its carbon.
    carbons = {
        index: atoms_named(model, model.residues[index], "C")
        for index in asked
        if backbone_atoms(model.residues[index].standard) == BACKBONE_ATOMS["protein"]
    }
    wanted = {atom for atoms in (*asked.values(), *carbons.values()) for atom in atoms}
    graph: dict[int, list[int]] = defaultdict(list)
    for i, j in bonds:
        if (i in wanted or j in wanted) and _counts(model, i, j):
            graph[i].append(j)
            graph[j].append(i)
    beyond: dict[int, int] = defaultdict(int)
    for link in topology.across:
        for atom, other in ((link.first, link.second), (link.second, link.first)):
            beyond[atom] += link.covalent and model.kinds[other] != 3
    for index, atoms in asked.items():
        amide = any(
            model.names[k] == "N" and model.residue_of[k] != index for c in carbons.get(index, ()) for k in graph[c]
        )
        most = {atom: _most(model, atom, graph[atom], amide) for atom in atoms}
        bad = [atom for atom in atoms if _bonded(model, graph[atom]) + beyond[atom] > most[atom]]
        words = "bonds"
        if bad:
            listed = ", ".join(atom_words(model, k) for k in graph[bad[0]][:6])
            words = (
                f"{atom_words(model, bad[0])} has {_bonded(model, graph[bad[0]]) + beyond[bad[0]]} bonds ({listed}); "
                f"without hydrogens and metals such an atom has at most {most[bad[0]]}"
            )
        add(len(bad), 0, index, words)


def hydrogens(model: Model, bonds: list[tuple[int, int]], add: Add) -> None:
    """Compare, for a residue with hydrogens each, how many atoms have more bonds than their elements have, with none.

    H and D at one place are two atoms unless they are alternatives.
    """
    graph: dict[int, list[int]] = defaultdict(list)
    bearing: dict[int, set[int]] = defaultdict(set)
    for i, j in bonds:
        if METALS & {model.elements[i], model.elements[j]}:
            continue
        graph[i].append(j)
        graph[j].append(i)
        for hydrogen, atom in ((i, j), (j, i)):
            if model.kinds[hydrogen] == 3 and model.elements[atom] in MOST_WITH_HYDROGENS and model.kinds[atom] != 4:
                bearing[int(model.residue_of[atom])].add(atom)
    for index, atoms in sorted(bearing.items()):
        bad = [k for k in sorted(atoms) if _bonded(model, graph[k]) > MOST_WITH_HYDROGENS[model.elements[k]]]
        words = "bonds with hydrogens"
        if bad:
            words = (
                f"{atom_words(model, bad[0])} has {_bonded(model, graph[bad[0]])} bonds, hydrogens counted; such an "
                f"atom has at most {MOST_WITH_HYDROGENS[model.elements[bad[0]]]}"
            )
        add(len(bad), 0, index, words)


def _counts(model: Model, i: int, j: int) -> bool:
    """Whether a bond counts: not with hydrogen or metals, and not longer than bonds of its elements are."""
    if 3 in (model.kinds[i], model.kinds[j]) or METALS & {model.elements[i], model.elements[j]}:
        return False
    apart = math.dist(model.points[i].tolist(), model.points[j].tolist()) / 1000
    return apart <= link_range(model.elements[i], model.elements[j])[1]


def _bonded(model: Model, others: list[int]) -> int:
    """How many atoms that are there at once an atom is bonded to: the most of any alternative."""
    letters = {int(model.alternatives[k]) for k in others} - {0} or {0}
    named = [
        {(int(model.residue_of[k]), model.names[k]) for k in others if model.alternatives[k] in (0, letter)}
        for letter in letters
    ]
    return max(len(one) for one in named)


def _most(model: Model, atom: int, others: list[int], amide: bool) -> int:
    """How many bonds an atom may have; ``amide``: the residue's C is bonded to the N of another one."""
    element, around = model.elements[atom], {model.elements[k] for k in others}
    rich = (element in _HALOGENS and "C" not in around) or (element in {"S", "P"} and "F" in around)
    if rich or "B" in around:
        return len(others) + 9  # not asked
    residue = model.residues[int(model.residue_of[atom])]
    if amide and model.names[atom] in _AMIDE:
        return _AMIDE[model.names[atom]]
    return _THIOL if model.names[atom] == "SG" and residue.standard == "CYS" else MOST_BONDS[element]
