"""From a model to obligations, and the ones that fail: what Coq then has to confirm."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ._chemistry import template_centres
from ._model import Model
from ._topology import Topology, atoms_named, polymers, step, together

__all__ = [
    "Distances",
    "Fours",
    "Numbers",
    "bond_lengths",
    "chains",
    "chirality",
    "cis_peptides",
    "clashes",
    "limits",
    "numbering",
    "sides",
    "volumes",
]

#: Consecutive Cα are 3.8 Å apart (trans) or 2.9 Å (cis), consecutive P 5 to 7.5 Å; over a gap the chain is at most
#: stretched.
CALPHA = (2.6, 4.3, 4.0)
PHOSPHORUS = (4.2, 8.3, 8.0)
#: Volume at a centre [Å³]: 2.5 with ideal geometry, its sign tells the hand, near zero the centre is flat.
VOLUME = (0.8, 4.5)


@dataclass
class Distances:
    """Pairs of atoms with a range [0.001 Å] each; ``units`` names the residue that each counts for."""

    pairs: NDArray[np.int64]  # (n, 2)
    ranges: NDArray[np.int64]  # (n, 2)

    def failing(self, points: NDArray[np.int64], slack: int = 0) -> list[int]:
        """Numbers of the pairs that lie out of their range, made narrower by ``slack`` on both sides."""
        if not len(self.pairs):
            return []
        d2 = ((points[self.pairs[:, 0]] - points[self.pairs[:, 1]]) ** 2).sum(axis=1)
        low, high = self.ranges[:, 0] + slack, self.ranges[:, 1] - slack
        return [int(k) for k in np.flatnonzero((d2 < low * low) | (d2 > high * high))]


@dataclass
class Fours:
    """Four atoms each with a range of a volume or of the sign of a dihedral angle."""

    atoms: NDArray[np.int64]  # (n, 4)
    ranges: list[tuple[int, int]]

    def failing(self, values: list[int]) -> list[int]:
        """Numbers of the obligations whose value is out of its range."""
        return [
            k
            for k, (value, (low, high)) in enumerate(zip(values, self.ranges, strict=True))
            if not low <= value <= high
        ]


@dataclass
class Numbers:
    """Comparisons: (equal, first, second), the residue each is about, and what it says."""

    comparisons: list[tuple[bool, int, int]] = field(default_factory=list)
    residues: list[int] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def failing(self) -> list[int]:
        """Numbers of the comparisons that do not hold."""
        return [k for k, (equal, a, b) in enumerate(self.comparisons) if not (a == b if equal else a < b)]


def limits(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Nearest that two kinds come [0.001 Å]; the same as ``limit`` in Copies.v."""
    metal = (one == 2) | (other == 2)
    hydrogen = (one == 3) | (other == 3)
    acceptor = np.isin(one, (1, 4)) | np.isin(other, (1, 4))
    with_metal = np.where(one == other, 2000, np.where(hydrogen, 1200, 1600))
    with_hydrogen = np.where(acceptor, 1200, 1600)
    found: NDArray[np.int64] = np.where(metal, with_metal, np.where(hydrogen, with_hydrogen, 2200))
    return found


def clashes(model: Model, bonds: list[tuple[int, int]], margin: int) -> list[tuple[int, int]]:
    """Pairs of atoms nearer than their limit plus ``margin`` [0.001 Å], there at once, and not within three bonds."""
    tree = cKDTree(model.points / 1000)
    near = tree.query_pairs((2200 + abs(margin)) / 1000 + 1e-6, output_type="ndarray").astype(np.int64)
    if not len(near):
        return []
    near = np.sort(near, axis=1)
    i, j = near[:, 0], near[:, 1]
    d2 = ((model.points[i] - model.points[j]) ** 2).sum(axis=1)
    alt, occ = model.alternatives, model.occupancies
    both = (alt[i] != 0) & (alt[j] != 0)
    at_once = (both & (alt[i] == alt[j])) | ((~both | (alt[i] == alt[j])) & (occ[i] + occ[j] > 1000))
    limit = limits(model.kinds[i], model.kinds[j]) + margin
    keep = (d2 < limit * limit) & at_once
    graph: dict[int, set[int]] = defaultdict(set)
    for a, b in bonds:
        graph[a].add(b)
        graph[b].add(a)
    found = []
    for a, b in near[keep].tolist():
        first = graph[a]
        if b in first or any(b in graph[k] for k in first) or any(b in graph[m] for k in first for m in graph[k]):
            continue
        found.append((a, b))
    return sorted(found)


def bond_lengths(topology: Topology) -> Distances:
    """Return the obligations about lengths of bonds."""
    if not topology.measured:
        return Distances(np.zeros((0, 2), dtype=np.int64), np.zeros((0, 2), dtype=np.int64))
    table = np.array(topology.measured)
    return Distances(table[:, :2].astype(np.int64), np.rint(1000 * table[:, 2:]).astype(np.int64))


def chains(model: Model) -> Distances:
    """Distances of consecutive Cα and P; over a gap in the numbers, what a stretched chain can span."""
    pairs, ranges = [], []
    for chain in polymers(model):
        for before, after in itertools.pairwise(chain):
            gap = step(model, before, after)
            if gap < 1:
                continue
            for name, element, (low, high, stretched) in (("CA", "C", CALPHA), ("P", "P", PHOSPHORUS)):
                ends = [
                    (i, j)
                    for i in atoms_named(model, model.residues[before], name)
                    for j in atoms_named(model, model.residues[after], name)
                    if model.elements[i] == model.elements[j] == element and together(model, i, j)
                ]
                for i, j in ends:
                    pairs.append((i, j))
                    ranges.append((1000 * low, 1000 * (high if gap == 1 else stretched * min(gap, 500))))
    return Distances(
        np.array(pairs, dtype=np.int64).reshape(-1, 2), np.rint(np.array(ranges)).astype(np.int64).reshape(-1, 2)
    )


def chirality(model: Model) -> Fours:
    """Volumes at chiral centres of amino acids and nucleotides."""
    atoms: list[tuple[int, int, int, int]] = []
    ranges: list[tuple[int, int]] = []
    low, high = (round(1e9 * value) for value in VOLUME)
    for residue in model.residues:
        if residue.role == "water":
            continue
        for *quartet, sign in template_centres(residue.name):
            for chosen in _quartets(model, [atoms_named(model, residue, name) for name in quartet]):
                atoms.append(chosen)
                ranges.append((low, high) if sign > 0 else (-high, -low))
    return Fours(np.array(atoms, dtype=np.int64).reshape(-1, 4), ranges)


def cis_peptides(model: Model) -> Fours:
    """Dihedral angles of peptide bonds before anything but proline, which have to be above 90°."""
    atoms: list[tuple[int, int, int, int]] = []
    for chain in polymers(model):
        for before, after in itertools.pairwise(chain):
            one, other = model.residues[before], model.residues[after]
            if step(model, before, after) != 1 or other.name in {"PRO", "DPR", "HYP"}:
                continue
            places = [(one, "CA"), (one, "C"), (other, "N"), (other, "CA")]
            atoms += _quartets(model, [atoms_named(model, residue, name) for residue, name in places])
    return Fours(np.array(atoms, dtype=np.int64).reshape(-1, 4), [(-(10**40), -1)] * len(atoms))


def _quartets(model: Model, choices: list[list[int]]) -> list[tuple[int, int, int, int]]:
    """Combine four atoms that belong to the same alternative, for each that there is."""
    if all(len(choice) == 1 for choice in choices):
        return [(choices[0][0], choices[1][0], choices[2][0], choices[3][0])]
    labels = sorted({int(model.alternatives[i]) for choice in choices for i in choice} - {0})
    found = []
    for label in labels:
        chosen = [[i for i in choice if model.alternatives[i] in (0, label)] for choice in choices]
        if all(chosen):
            found.append((chosen[0][-1], chosen[1][-1], chosen[2][-1], chosen[3][-1]))
    return sorted(set(found))


def volumes(points: NDArray[np.int64], fours: Fours) -> list[int]:
    """Signed volume at the first atom [10^-9 Å³]."""
    a, b, c, d = (points[fours.atoms[:, k]] for k in range(4))
    return [int(value) for value in (np.cross(b - a, c - a) * (d - a)).sum(axis=1)]


def sides(points: NDArray[np.int64], fours: Fours) -> list[int]:
    """Positive where the dihedral angle is below 90°; Python's integers, since these have up to 100 bits."""
    found = []
    for quartet in points[fours.atoms].astype(object):
        a, b, c, d = quartet
        found.append(int(np.dot(np.cross(b - a, c - b), np.cross(c - b, d - c))))
    return found


def numbering(model: Model) -> Numbers:
    """Numbers are used once, places in the declared sequence grow, and residues are the declared ones."""
    found = Numbers()
    seen: dict[str, list[int]] = defaultdict(list)
    for chain in polymers(model):
        for index in chain:
            seen[model.residues[index].chain].append(index)
    codes: dict[str, int] = {}
    for name, members in seen.items():
        declared = model.sequences.get(name, ())

        def key(index: int) -> int:
            residue = model.residues[index]
            return (residue.number + 100_000) * 64 + (ord(residue.insertion) & 63 if residue.insertion else 0)

        ordered = sorted(members, key=key)
        for before, after in itertools.pairwise(ordered):
            found.comparisons.append((False, key(before), key(after)))
            found.residues.append(after)
            found.words.append("its number is used twice in the chain")
        places = [i for i in members if model.residues[i].position is not None]
        for before, after in itertools.pairwise(places):
            one, other = model.residues[before].position or 0, model.residues[after].position or 0
            found.comparisons.append((False, max(one, 0), max(other, 0)))
            found.residues.append(after)
            found.words.append("it stands before its predecessor in the declared sequence")
        if not declared:
            continue
        for index in members:
            residue = model.residues[index]
            place = residue.position
            options = declared[place - 1].split(",") if place is not None and 1 <= place <= len(declared) else []
            wanted = residue.name if residue.name in options else (options[0] if options else "nothing")
            code = [codes.setdefault(text, len(codes)) for text in (residue.name, wanted)]
            found.comparisons.append((True, code[0], code[1]))
            found.residues.append(index)
            found.words.append(f"the declared sequence has {wanted} there")
    return found
