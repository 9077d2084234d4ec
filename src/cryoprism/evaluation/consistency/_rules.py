"""From a model to obligations, and the ones that fail: what Coq then has to confirm."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ._chemistry import bond_range, template_bonds
from ._hands import centres_of
from ._model import Model
from ._pieces import together
from ._topology import Topology, atoms_named, places_of, polymers, step

__all__ = [
    "Distances",
    "Fours",
    "Numbers",
    "alternatives",
    "angle_limits",
    "bond_lengths",
    "bonded_limits",
    "chains",
    "chirality",
    "cis_peptides",
    "clashes",
    "limits",
    "numbering",
    "quartets",
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
    carbon = (one == 0) | (other == 0)
    with_metal = np.where(one == other, 2000, np.where(hydrogen, 1200, np.where(carbon, 1900, 1600)))
    with_hydrogen = np.where(acceptor, 1200, 1600)
    found: NDArray[np.int64] = np.where(metal, with_metal, np.where(hydrogen, with_hydrogen, 2200))
    return found


def bonded_limits(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Nearest that two kinds come that share a bond [0.001 Å]; ``bonded_limit`` in Copies.v."""
    hydrogen, metal = (one == 3) | (other == 3), (one == 2) | (other == 2)
    found: NDArray[np.int64] = np.where(hydrogen, 600, np.where(metal, 1400, 900))
    return found


def angle_limits(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Nearest that two kinds come that are bonded to one atom [0.001 Å]; ``angle_limit`` in Copies.v."""
    hydrogen, metal = (one == 3) | (other == 3), (one == 2) | (other == 2)
    found: NDArray[np.int64] = np.where(hydrogen, 1200, np.where(metal, 1600, 1900))
    return found


def alternatives(model: Model, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether pairs of atoms are in different alternatives and need not be there at once; as in Copies.v."""
    alt, occ = model.alternatives, model.occupancies
    found: NDArray[np.bool_] = (alt[i] != 0) & (alt[j] != 0) & (alt[i] != alt[j]) & (occ[i] + occ[j] <= 1010)
    return found


def clashes(
    model: Model, bonds: list[tuple[int, int]], margin: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs of atoms nearer than every limit for them plus ``margin`` [0.001 Å]: there at once, and in alternatives.

    Limits are those of all atoms, of those that share a bond, and of those that are bonded to one atom.
    """
    tree = cKDTree(model.points / 1000)
    near = tree.query_pairs((2200 + abs(margin)) / 1000 + 1e-6, output_type="ndarray").astype(np.int64)
    if not len(near):
        return [], []
    near = np.sort(near, axis=1)
    i, j = near[:, 0], near[:, 1]
    d2 = ((model.points[i] - model.points[j]) ** 2).sum(axis=1)
    kinds = model.kinds[i], model.kinds[j]
    keys = np.array([(a << 20) | b for a, b in bonds], dtype=np.int64)
    joined = np.isin((i << 20) | j, keys)
    keep = d2 < (limits(*kinds) + margin) ** 2
    keep &= ~joined | (d2 < (bonded_limits(*kinds) + margin) ** 2)
    graph: dict[int, set[int]] = defaultdict(set)
    for a, b in bonds:
        graph[a].add(b)
        graph[b].add(a)
    spanned = d2 >= (angle_limits(*kinds) + margin) ** 2
    other = alternatives(model, i, j)
    found: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for k in np.flatnonzero(keep):
        a, b = int(i[k]), int(j[k])
        if not (spanned[k] and graph[a] & graph[b]):
            found[int(other[k])].append((a, b))
    return sorted(found[0]), sorted(found[1])


def bond_lengths(topology: Topology, angles: list[tuple[int, int, float, float]]) -> Distances:
    """Return the obligations about lengths of bonds, angles, then those about gaps between pieces of a residue."""
    rows = topology.measured + angles + topology.held
    if not rows:
        return Distances(np.zeros((0, 2), dtype=np.int64), np.zeros((0, 2), dtype=np.int64))
    table = np.array(rows)
    return Distances(table[:, :2].astype(np.int64), np.rint(1000 * table[:, 2:]).astype(np.int64))


def chains(model: Model) -> Distances:
    """Distances of consecutive Cα and P; over a gap in the numbers, what a stretched chain can span.

    A residue without that atom does not end the chain: the step goes from the last residue that has one, and counts
    the places between. A residue that no template knows may be several (chromophores): one for every four atoms.
    """
    pairs, ranges = [], []
    for places in places_of(model):
        chain = [place[0] for place in places]
        for name, element, (low, high, stretched) in (("CA", "C", CALPHA), ("P", "P", PHOSPHORUS)):
            last: list[int] = []
            gap = 0
            for n, index in enumerate(chain):
                if n:
                    further = step(model, chain[n - 1], index)
                    gap += further
                    if further < 1:  # the numbers start again: nothing is known about the distance
                        last = []
                residue = model.residues[index]
                here = [k for k in _named(model, places[n], name) if model.elements[k] == element]
                both = [(i, j) for i in last for j in here]
                # Alternatives go with their own; where a residue has only one that the next has not, with any.
                both = [(i, j) for i, j in both if together(model, i, j)] or both
                pairs += both
                ranges += [(1000 * low, 1000 * (high if gap == 1 else stretched * min(gap, 500)))] * len(both)
                if here:
                    last, gap = here, 0
                elif template_bonds(residue.standard) is None:
                    gap += (residue.stop - residue.start) // 4
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
        for *quartet, sign in centres_of(model, residue)[0]:
            for chosen in quartets(model, [atoms_named(model, residue, name) for name in quartet]):
                atoms.append(chosen)
                ranges.append((low, high) if sign > 0 else (-high, -low))
    return Fours(np.array(atoms, dtype=np.int64).reshape(-1, 4), ranges)


def cis_peptides(model: Model) -> Fours:
    """Dihedral angles of peptide bonds before anything but proline, which have to be above 90°.

    Where C and N are not as near as a bond, there is no peptide bond to ask about.
    """
    atoms: list[tuple[int, int, int, int]] = []
    for chain in places_of(model):
        for before, place in itertools.pairwise(chain):
            for after in place:
                if step(model, before[0], after) != 1 or model.residues[after].standard in {"PRO", "DPR", "HYP"}:
                    continue
                ends = [(before, "CA"), (before, "C"), ([after], "N"), ([after], "CA")]
                found = quartets(model, [_named(model, residues, name) for residues, name in ends])
                atoms += [four for four in found if _bonded(model, four[1], four[2])]
    return Fours(np.array(atoms, dtype=np.int64).reshape(-1, 4), [(-(10**40), -1)] * len(atoms))


def _named(model: Model, residues: Sequence[int], name: str) -> list[int]:
    """Numbers of the atoms of alternative residues that bear a name."""
    return [atom for k in residues for atom in atoms_named(model, model.residues[k], name)]


def _bonded(model: Model, i: int, j: int) -> bool:
    """Whether two atoms are as far apart as a bond of their elements is long."""
    low, high = bond_range(model.elements[i], model.elements[j]) or (1.0, 2.0)
    return low <= float(np.linalg.norm(model.points[i] - model.points[j])) / 1000 <= high


def quartets(model: Model, choices: list[list[int]]) -> list[tuple[int, int, int, int]]:
    """Combine four atoms that belong to the same alternative, for each that there is."""
    if all(len(choice) == 1 for choice in choices):
        return [(choices[0][0], choices[1][0], choices[2][0], choices[3][0])]
    labels = sorted({int(model.alternatives[i]) for choice in choices for i in choice} - {0})
    found = []
    for label in labels:
        chosen = [[i for i in choice if model.alternatives[i] in (0, label)] for choice in choices]
        if all(chosen):
            found.append((chosen[0][-1], chosen[1][-1], chosen[2][-1], chosen[3][-1]))
    if not found and all(choices):  # each in an alternative of its own
        found.append((choices[0][0], choices[1][0], choices[2][0], choices[3][0]))
    return sorted(set(found))


def _edges(points: NDArray[np.int64], fours: Fours) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Vectors a to b, b to c, c to d (n, 3, 3), and where they are so short that products fit 64 bits."""
    edges = np.diff(points[fours.atoms], axis=1)
    return edges, np.abs(edges).max(axis=(1, 2), initial=0) < 8_000


def volumes(points: NDArray[np.int64], fours: Fours) -> list[int]:
    """Signed volume at the first atom [10^-9 Å³]."""
    edges, short = _edges(points, fours)

    def volume(e: NDArray[Any]) -> NDArray[Any]:
        return np.asarray((_cross(e[:, 0], e[:, 0] + e[:, 1]) * e.sum(axis=1)).sum(axis=1))

    return _exactly(volume, edges, short)


def sides(points: NDArray[np.int64], fours: Fours) -> list[int]:
    """Positive where the dihedral angle is below 90°."""
    edges, short = _edges(points, fours)

    def side(e: NDArray[Any]) -> NDArray[Any]:
        return np.asarray((_cross(e[:, 0], e[:, 1]) * _cross(e[:, 1], e[:, 2])).sum(axis=1))

    return _exactly(side, edges, short)


def _cross(u: NDArray[Any], v: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(u[:, [1, 2, 0]] * v[:, [2, 0, 1]] - u[:, [2, 0, 1]] * v[:, [1, 2, 0]])


def _exactly(
    function: Callable[[NDArray[Any]], NDArray[Any]], edges: NDArray[np.int64], short: NDArray[np.bool_]
) -> list[int]:
    """Values of a function of integers: with 64 bits where these suffice, else with Python's (up to 100 bits)."""
    found = np.zeros(len(edges), dtype=object)
    found[short] = function(edges[short])
    found[~short] = function(edges[~short].astype(object))
    return [int(value) for value in found]


def numbering(model: Model) -> Numbers:
    """Numbers are used once, places in the declared sequence grow, and residues are the declared ones."""
    found = Numbers()
    seen: dict[tuple[str, int], list[int]] = defaultdict(list)
    for chain in polymers(model):
        for index in chain:
            seen[(model.residues[index].chain, model.residues[index].molecule)].append(index)
    codes: dict[str, int] = {}
    for (name, _), members in seen.items():
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
            words = f"the declared sequence has {wanted} there"
            if not places:  # no residue fits
                there = declared[members.index(index)] if members.index(index) < len(declared) else "nothing"
                words = f"the declared sequence is another one: counted from the start it has {there} there"
            code = [codes.setdefault(text, len(codes)) for text in (residue.name, wanted)]
            found.comparisons.append((True, code[0], code[1]))
            found.residues.append(index)
            found.words.append(words)
    return found
