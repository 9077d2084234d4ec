"""Bonds of a model: from templates, along chains, from the file's records; where none is known, from distances."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field

import gemmi
import numpy as np
from scipy.spatial import cKDTree

from ._chemistry import BACKBONE_ATOMS, backbone_atoms, bond_range, link_range, template_bonds
from ._links import Link
from ._model import Model, Residue
from ._names import bears
from ._pieces import bonds_of_waters, holding_together, piled_waters, together

__all__ = ["Topology", "build_topology", "places_of", "polymers", "touching"]


@dataclass
class Topology:
    """Bonds of a model.

    Attributes
    ----------
    measured
        Bonds whose length has to lie within a range: first atom, second atom, least and most [Å].
    joined
        Bonds that only exempt from the clash rule: hydrogens, residues without a template, recorded links.
    held
        What holds a residue together where its bonds do not: nearest atoms of its pieces, ranges as in ``measured``.
        They exempt nothing from the clash rule.
    across
        Recorded bonds to a symmetry copy.
    ignored
        Recorded bonds that hold no bond: out of the range of their elements, or with a copy that is not there.
    closed
        Bonds of the last residue of a chain with its first one that no record has.
    skipped
        Pairs along a chain that are as near as a bond, and how many residues the declared sequence has between them.
    """

    measured: list[tuple[int, int, float, float]] = field(default_factory=list)
    joined: list[tuple[int, int]] = field(default_factory=list)
    held: list[tuple[int, int, float, float]] = field(default_factory=list)
    across: list[Link] = field(default_factory=list)
    ignored: int = 0
    skipped: dict[tuple[int, int], int] = field(default_factory=dict)
    closed: list[tuple[int, int]] = field(default_factory=list)

    def all_bonds(self) -> list[tuple[int, int]]:
        """Return every bond within the model once."""
        pairs = [(min(i, j), max(i, j)) for i, j, _, _ in self.measured]
        pairs += [(min(i, j), max(i, j)) for i, j in self.joined]
        return sorted({pair for pair in pairs if pair[0] != pair[1]})


def polymers(model: Model) -> list[list[int]]:
    """Return residues of each polymer chain in their order; of alternative residues at one place the first."""
    return [[place[0] for place in chain] for chain in places_of(model)]


def places_of(model: Model) -> list[list[list[int]]]:
    """Return the places of each polymer chain in their order, and the residues of each place.

    Several residues share a place (microheterogeneity) where they share a number, all of their atoms carry letters of
    alternatives, and no two residues share a letter. Else a number is used twice: two places.
    """
    chains: dict[tuple[str, int], list[list[int]]] = {}
    for index, residue in enumerate(model.residues):
        if residue.role != "polymer":
            continue
        places = chains.setdefault((residue.chain, residue.molecule), [])
        if places and all(_take_turns(model, other, index) for other in places[-1]):
            places[-1].append(index)
        else:
            places.append([index])
    return [_in_order(model, places) for places in chains.values()]


def _in_order(model: Model, places: list[list[int]]) -> list[list[int]]:
    """Put residues that stand at the wrong place of a file where they belong in their chain.

    Where numbers fall, and the residues there do not touch, what stands between two breaks goes before or behind the
    residue that it touches; or, with no residue that it does, where its numbers fill a gap. Else the order stays, as
    it does where a declared sequence gives the places.
    """
    if any(model.residues[place[0]].position is not None for place in places):
        return places
    pairs = list(itertools.pairwise(places))
    if all(step(model, one[0], other[0]) >= 1 or touching(model, one[0], other[0]) for one, other in pairs):
        return places
    cuts = [
        n for n, (one, other) in enumerate(pairs, 1)
        if step(model, one[0], other[0]) != 1 and not touching(model, one[0], other[0])
    ]  # fmt: skip
    runs = [places[a:b] for a, b in itertools.pairwise([0, *cuts, len(places)])]
    moved = True
    while moved and len(runs) > 1:
        moved = False
        for one, other in itertools.permutations(range(len(runs)), 2):
            # Two runs that are joined, and whose numbers go on, are one.
            if other != one + 1 and _goes_on(model, runs[one][-1][0], runs[other][0][0]):
                runs[one] += runs[other]
                del runs[other]
                moved = True
                break
    ordered = runs[:1]
    for run in runs[1:]:
        first, last = (_number(model, place[0]) for place in (run[0], run[-1]))
        room = [
            n for n in range(1, len(ordered))
            if _number(model, ordered[n - 1][-1][0]) < first <= last < _number(model, ordered[n][0][0])
        ]  # fmt: skip
        ordered.insert(room[0] if room else len(ordered), run)
    return [place for run in ordered for place in run]


def _number(model: Model, index: int) -> int:
    return model.residues[index].number


def _goes_on(model: Model, before: int, after: int) -> bool:
    return _number(model, after) > _number(model, before) and touching(model, before, after)


def _take_turns(model: Model, before: int, after: int) -> bool:
    """Whether two residues are alternatives of one place."""
    one, other = model.residues[before], model.residues[after]
    if (one.number, one.insertion) != (other.number, other.insertion) or one.name == other.name:
        return False
    letters = [{int(model.alternatives[k]) for k in range(each.start, each.stop)} for each in (one, other)]
    return 0 not in letters[0] | letters[1] and not letters[0] & letters[1]


def atoms_named(model: Model, residue: Residue, name: str) -> list[int]:
    """Numbers of the atoms of a residue that bear a name: one for each alternative."""
    return [index for index in range(residue.start, residue.stop) if model.names[index] == name]


def step(model: Model, before: int, after: int) -> int:
    """How many places further the second of two residues stands: by the declared sequence, or by their numbers."""
    one, other = model.residues[before], model.residues[after]
    if (one.number, one.insertion) == (other.number, other.insertion):  # a number that is used twice
        return 1
    if one.position is not None and other.position is not None:
        return other.position - one.position
    if one.number == other.number:
        return 1
    return other.number - one.number


def touching(model: Model, before: int, after: int) -> bool:
    """Whether two residues are near enough to be neighbours in a chain: C and N, O3' and P, else Cα or P."""
    one, other = model.residues[before], model.residues[after]
    for tail, head, most in (("C", "N", 2.0), ("O3'", "P", 2.2), ("CA", "CA", 4.3), ("P", "P", 8.3)):
        pairs = itertools.product(atoms_named(model, one, tail), atoms_named(model, other, head))
        apart = [_distance(model, i, j) for i, j in pairs]
        if apart:
            return min(apart) < most
    return False


def build_topology(model: Model) -> Topology:
    """Find the bonds of a model."""
    found = Topology()
    names: list[dict[str, list[int]]] = []
    for residue in model.residues:
        by_name: dict[str, list[int]] = defaultdict(list)
        for index in range(residue.start, residue.stop):
            by_name[model.names[index]].append(index)
        names.append(by_name)
        _within(model, residue, by_name, found)
    for chain in places_of(model):
        for one, other in itertools.pairwise(chain):
            for before, after in itertools.product(one, other):
                _along(model, (before, after), names, found)
        _around(model, chain, names, found)
    _sulphur(model, found)
    _sugars(model, found)
    for link in model.links:
        if link.images is None:
            _recorded(model, link, found)
        elif link.images:
            found.across.append(link)
        else:
            found.ignored += 1
    return found


def _along(model: Model, pair: tuple[int, int], names: list[dict[str, list[int]]], found: Topology) -> None:
    """Add the bond from one residue of a chain to the next."""
    before, after = pair
    gap = step(model, before, after)
    one, other = (model.residues[k] for k in pair)
    missing = (
        gap - 1 if one.position is not None and other.position is not None and other.number - one.number > 1 else 0
    )
    for tail, head in (("C", "N"), ("O3'", "P")):
        both = list(itertools.product(names[before].get(tail, ()), names[after].get(head, ())))
        own = [pair for pair in both if together(model, *pair)]
        # Where the letters of neighbours differ in all, each atom is asked with the nearest one.
        asked = own or [min(one, key=lambda k: _distance(model, *k)) for one in _by_first(both)]
        for i, j in both:
            low, high = bond_range(model.elements[i], model.elements[j]) or (1.0, 2.0)
            near = low <= _distance(model, i, j) <= high
            if gap == 1 and (i, j) in asked:
                found.measured.append((i, j, low, high))
            elif (i, j) not in own:
                # What is as near as a bond is one, if both are there.
                if gap == 1 and near:
                    found.joined.append((i, j))
            elif _distance(model, i, j) < 1.9:
                # Numbers may skip without a residue missing; where the declared sequence skips as well, one is.
                if missing > 0:
                    found.skipped[(i, j)] = missing
                else:
                    found.joined.append((i, j))


#: Distances that only a peptide bond gives: C to N, Cα to N, C to Cα, O to N [Å].
_PEPTIDE = (("C", "N", 1.2, 1.5), ("CA", "N", 2.2, 2.7), ("C", "CA", 2.2, 2.7), ("O", "N", 2.0, 2.5))


def _around(model: Model, chain: list[list[int]], names: list[dict[str, list[int]]], found: Topology) -> None:
    """Add the bond that closes a chain, recorded or not: C, Cα and O of its end about N and Cα of its start."""
    if len(chain) < 3:
        return
    last, first = names[chain[-1][0]], names[chain[0][0]]
    if "OXT" in last or any(
        len(last.get(tail, ())) != 1 or len(first.get(head, ())) != 1
        or not least <= _distance(model, last[tail][0], first[head][0]) <= most
        for tail, head, least, most in _PEPTIDE
    ):  # fmt: skip
        return
    i, j = last["C"][0], first["N"][0]
    if not any({link.first, link.second} == {i, j} for link in model.links):
        found.measured.append((i, j, *(bond_range("C", "N") or (1.0, 2.0))))
        found.closed.append((i, j))


def _by_first(pairs: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Pairs in lists of those that share their first atom."""
    return [list(one) for _, one in itertools.groupby(pairs, key=lambda pair: pair[0])]


def _distance(model: Model, i: int, j: int) -> float:
    return float(np.linalg.norm(model.points[i] - model.points[j])) / 1000


def _recorded(model: Model, link: Link, found: Topology) -> None:
    """Take a recorded bond within the model: a covalent one has to have its length, one of a metal counts if it has."""
    i, j = link.first, link.second
    if link.covalent:
        found.measured.append((i, j, link.least, link.most))
    elif link.least <= _distance(model, i, j) <= link.most:
        found.joined.append((i, j))
    else:
        found.ignored += 1


def _within(model: Model, residue: Residue, by_name: dict[str, list[int]], found: Topology) -> None:
    waters = piled_waters(model, residue)
    if waters:
        found.measured += bonds_of_waters(model, residue, waters)
        return
    bonds = template_bonds(residue.standard)
    places = range(residue.start, residue.stop)
    known = set() if bonds is None else {name for bond in bonds for name in bond}
    before = len(found.measured), len(found.joined)
    for first, second in bonds or ():
        both = [(i, j) for i in by_name.get(first, ()) for j in by_name.get(second, ())]
        # Alternatives go with their own; where an atom has only one that the other has not, with any.
        for i, j in [pair for pair in both if together(model, *pair)] or both:
            limits = bond_range(model.elements[i], model.elements[j])
            if limits is None:
                found.joined.append((i, j))
            else:
                found.measured.append((i, j, *limits))
    if len(places) < 2:
        return
    free = [i for i in places if model.names[i] not in known or model.kinds[i] == 3]
    if free:
        _by_distance(model, residue, free, found)
    edges = [(i, j) for i, j, *_ in found.measured[before[0] :]] + found.joined[before[1] :]
    bonded, apart = holding_together(model, residue, edges, known)
    found.measured += bonded
    found.held += apart


def _by_distance(model: Model, residue: Residue, free: list[int], found: Topology) -> None:
    """Bonds of atoms that no template knows: those whose distance is that of a bond; each hydrogen has one.

    In an amino acid its name says with which atom (HB2 with CB), else the nearest one is meant.
    """
    amino = BACKBONE_ATOMS["protein"] == backbone_atoms(residue.standard)
    other = np.arange(residue.start, residue.stop)
    radii = np.array([gemmi.Element(model.elements[i]).covalent_r for i in other])
    for i in free:
        reach = 1000 * (radii + radii[i - residue.start] + 0.4)
        apart = np.sqrt(((model.points[other] - model.points[i]) ** 2).sum(axis=1))
        if model.kinds[i] != 3:
            near = other[(apart < reach) & (other != i)]
            found.joined += [(i, int(j)) for j in near if model.kinds[j] != 3 and together(model, i, int(j))]
            continue
        heavy = [int(j) for j in other if model.kinds[j] != 3 and together(model, i, int(j))]
        if heavy:  # it has to be as near as a bond is
            named = [j for j in heavy if bears(model.names[j], model.names[i])] if amino else []
            parent = min(named or heavy, key=lambda j: apart[j - residue.start])
            found.measured.append((i, parent, *link_range(model.elements[i], model.elements[parent])[:2]))
            # That atom in each alternative, where the hydrogen has no letter but it has.
            found.joined += [(i, j) for j in heavy if model.names[j] == model.names[parent] and j != parent]


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


#: Atoms of amino acids that carry sugars.
_GLYCOSYLATED = frozenset({"ND2", "OG", "OG1", "OH", "NH1", "NH2", "OD1", "OE1", "OE2", "OD2"})


def _sugars(model: Model, found: Topology) -> None:
    """Glycosidic bonds that the file does not record: C1 of a sugar to its partner's O or N, 1.2 to 1.7 Å.

    A sugar is a residue without template whose C1 and O5 (or C2 and O6, sialic acids) share a bond; its partner an
    oxygen of another such residue, or an atom of a side chain that carries sugars.
    """
    sugars = {}
    for residue in model.residues:
        if residue.role == "ligand":
            for carbon, oxygen in (("C1", "O5"), ("C2", "O6"), ("C1", "O4")):
                for i in atoms_named(model, residue, carbon):
                    if any(_distance(model, i, j) < 1.7 for j in atoms_named(model, residue, oxygen)):
                        sugars[i] = residue
    polar = [
        i
        for i, element in enumerate(model.elements)
        if (model.names[i] in _GLYCOSYLATED)
        or (element == "O" and model.residues[model.residue_of[i]].role == "ligand")
    ] if sugars else []  # fmt: skip
    if not polar:
        return
    tree = cKDTree(model.points[polar] / 1000)
    for i in sugars:
        for k in tree.query_ball_point(model.points[i] / 1000, 1.7):
            j = polar[k]
            if model.residue_of[i] != model.residue_of[j] and _distance(model, i, j) > 1.2 and together(model, i, j):
                found.joined.append((i, j))
