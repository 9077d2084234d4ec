"""Bonds of a model: from templates, along chains, from the file's records; where none is known, from distances."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field

import gemmi
import numpy as np
from scipy.spatial import cKDTree

from ._chemistry import bond_range, template_bonds
from ._model import Model, Residue

__all__ = ["Topology", "build_topology", "polymers"]


@dataclass
class Topology:
    """Bonds of a model.

    Attributes
    ----------
    measured
        Bonds whose length has to lie within a range: first atom, second atom, least and most [Å].
    joined
        Bonds that only exempt from the clash rule: hydrogens, residues without a template, recorded links.
    across
        Recorded bonds to a symmetry copy.
    """

    measured: list[tuple[int, int, float, float]] = field(default_factory=list)
    joined: list[tuple[int, int]] = field(default_factory=list)
    across: list[tuple[int, int]] = field(default_factory=list)

    def all_bonds(self) -> list[tuple[int, int]]:
        """Return every bond within the model once."""
        pairs = [(min(i, j), max(i, j)) for i, j, _, _ in self.measured]
        pairs += [(min(i, j), max(i, j)) for i, j in self.joined]
        return sorted({pair for pair in pairs if pair[0] != pair[1]})


def polymers(model: Model) -> list[list[int]]:
    """Return residues of each polymer chain in their order; of several at one place (microheterogeneity) the first."""
    chains: dict[str, list[int]] = {}
    for index, residue in enumerate(model.residues):
        if residue.role != "polymer":
            continue
        before = chains.setdefault(residue.chain, [])
        if before:
            last = model.residues[before[-1]]
            if (last.number, last.insertion) == (residue.number, residue.insertion) and last.name != residue.name:
                continue
        before.append(index)
    return list(chains.values())


def together(model: Model, i: int, j: int) -> bool:
    """Whether two atoms are in the same alternative, or one of them in all."""
    one, other = model.alternatives[i], model.alternatives[j]
    return bool(one == 0 or other == 0 or one == other)


def atoms_named(model: Model, residue: Residue, name: str) -> list[int]:
    """Numbers of the atoms of a residue that bear a name: one for each alternative."""
    return [index for index in range(residue.start, residue.stop) if model.names[index] == name]


def step(model: Model, before: int, after: int) -> int:
    """How many places further the second of two residues stands: by the declared sequence, or by their numbers."""
    one, other = model.residues[before], model.residues[after]
    if one.position is not None and other.position is not None:
        return other.position - one.position
    if one.number == other.number:
        return 1
    return other.number - one.number


def build_topology(model: Model) -> Topology:
    """Find the bonds of a model."""
    found = Topology()
    names: list[dict[str, list[int]]] = []
    for residue in model.residues:
        by_name: dict[str, list[int]] = defaultdict(list)
        for index in range(residue.start, residue.stop):
            by_name[model.names[index]].append(index)
        names.append(by_name)
        if residue.role != "water":
            _within(model, residue, by_name, found)
    for chain in polymers(model):
        for before, after in itertools.pairwise(chain):
            gap = step(model, before, after)
            for tail, head in (("C", "N"), ("O3'", "P")):
                for i in names[before].get(tail, ()):
                    for j in names[after].get(head, ()):
                        if not together(model, i, j):
                            continue
                        if gap == 1:
                            low, high = bond_range(model.elements[i], model.elements[j]) or (1.0, 2.0)
                            found.measured.append((i, j, low, high))
                        elif _distance(model, i, j) < 1.9:
                            found.joined.append((i, j))
    _sulphur(model, found)
    _sugars(model, found)
    for i, j, other in model.connections:
        if other:
            found.across.append((i, j))
        else:
            found.joined.append((i, j))
    return found


def _distance(model: Model, i: int, j: int) -> float:
    return float(np.linalg.norm(model.points[i] - model.points[j])) / 1000


def _within(model: Model, residue: Residue, by_name: dict[str, list[int]], found: Topology) -> None:
    bonds = template_bonds(residue.name)
    places = range(residue.start, residue.stop)
    known = set() if bonds is None else {name for bond in bonds for name in bond}
    for first, second in bonds or ():
        for i in by_name.get(first, ()):
            for j in by_name.get(second, ()):
                if together(model, i, j):
                    limits = bond_range(model.elements[i], model.elements[j])
                    if limits is None:
                        found.joined.append((i, j))
                    else:
                        found.measured.append((i, j, *limits))
    free = [i for i in places if model.names[i] not in known or model.kinds[i] == 3]
    if not free or len(places) < 2:
        return
    # Atoms that no template knows: bonded where the distance is that of a bond.
    other = np.arange(residue.start, residue.stop)
    radii = np.array([gemmi.Element(model.elements[i]).covalent_r for i in other])
    for i in free:
        reach = 1000 * (radii + radii[i - residue.start] + 0.4)
        apart = np.sqrt(((model.points[other] - model.points[i]) ** 2).sum(axis=1))
        near = other[(apart < reach) & (other != i)]
        if model.kinds[i] == 3:  # a hydrogen has one bond, with the nearest heavy atom
            heavy = [int(j) for j in near if model.kinds[j] != 3 and together(model, i, int(j))]
            near = np.array(sorted(heavy, key=lambda j: apart[j - residue.start])[:1], dtype=np.int64)
        found.joined += [
            (i, int(j)) for j in near if (model.kinds[j] != 3 or model.kinds[i] == 3) and together(model, i, int(j))
        ]


def _sulphur(model: Model, found: Topology) -> None:
    """Disulfide bonds, recorded or not: two SG within 2.5 Å of each other."""
    sulphurs = [i for i, name in enumerate(model.names) if name == "SG" and model.elements[i] == "S"]
    if len(sulphurs) < 2:
        return
    tree = cKDTree(model.points[sulphurs] / 1000)
    for a, b in sorted(tree.query_pairs(2.5)):
        i, j = sulphurs[a], sulphurs[b]
        if model.residue_of[i] != model.residue_of[j] and together(model, i, j):
            limits = bond_range("S", "S")
            if limits is not None and _distance(model, i, j) > 1.5:
                found.measured.append((i, j, *limits))


def _sugars(model: Model, found: Topology) -> None:
    """Glycosidic bonds that the file does not record: C1 of a residue without template to O or N, 1.2 to 1.7 Å."""
    anomeric = [
        i for i, name in enumerate(model.names) if name == "C1" and model.residues[model.residue_of[i]].role == "ligand"
    ]
    polar = [i for i, element in enumerate(model.elements) if element in {"O", "N"} and model.kinds[i] != 4]
    if not anomeric or not polar:
        return
    tree = cKDTree(model.points[polar] / 1000)
    for i in anomeric:
        for k in tree.query_ball_point(model.points[i] / 1000, 1.7):
            j = polar[k]
            if model.residue_of[i] != model.residue_of[j] and _distance(model, i, j) > 1.2:
                found.joined.append((i, j))
