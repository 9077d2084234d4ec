"""What has to be flat: peptide bonds, carbonyl groups, the planar centres of side chains and bases, and rings."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from functools import cache

import numpy as np

from ._chemistry import D_RESIDUES, NUCLEIC, template_bonds
from ._model import Model
from ._rules import Fours, quartets
from ._topology import atoms_named, polymers, step

__all__ = ["peptide_planes", "planar_centres", "rings"]

#: Volume of a peptide bond's Cα, C, N and Cα [Å³]: 2.25 times the sine of the dihedral angle ω, 1.6 at 45°. The wwPDB
#: calls 30° twisted; the other 15° are for bonds and angles out of the ideal.
TWISTED = 1.6
#: Volume at a carbonyl C [Å³]: 2.24 times the sine of the angle between C=O and the plane of Cα, C and N, so that 1.15
#: is 31°. Of 49,000 in the 50 structures that the rules were tried on three lie 26° to 29° out of it (one at 1.65 Å).
PYRAMIDAL = 1.15
#: Volume at a planar centre of a side chain or base, and of four atoms in a row along a ring [Å³]; a tetrahedral centre
#: has 2.5. Along a ring it is 2.0 (of six) or 2.3 (of five) times the sine of the dihedral angle: 30° or 26°. The
#: largest of 25,000 centres in these structures has 0.80, of 43,000 rows 0.75.
BENT = 1.0
#: Beyond this C and N are not bonded, and the rule about bonds says so [0.001 Å].
_BONDED = 2000
#: Rings that are flat. The dihedral angles at every other bond of six tell every fold of a ring, so do three of five.
_RINGS = {
    "PHE": ("CG CD1 CE1 CZ CE2 CD2",), "TYR": ("CG CD1 CE1 CZ CE2 CD2",), "HIS": ("CG ND1 CE1 NE2 CD2",),
    "TRP": ("CG CD1 NE1 CE2 CD2", "CD2 CE2 CZ2 CH2 CZ3 CE3"),
    "purine": ("N1 C2 N3 C4 C5 C6", "C4 C5 N7 C8 N9"), "pyrimidine": ("N1 C2 N3 C4 C5 C6",),
}  # fmt: skip
_FLAT = {
    "ASP": ("CG",), "ASN": ("CG",), "GLU": ("CD",), "GLN": ("CD",), "ARG": ("CZ",), "HIS": ("CG",), "PHE": ("CG",),
    "TYR": ("CG", "CZ"), "TRP": ("CG", "CD2", "CE2"),
}  # fmt: skip


def peptide_planes(model: Model) -> Fours:
    """Volumes of Cα, C, N and Cα of the next residue, of bonded residues: too large where the peptide is twisted."""
    atoms: list[tuple[int, int, int, int]] = []
    for before, after in _bonded(model):
        atoms += _chosen(model, [(before, "CA"), (before, "C"), (after, "N"), (after, "CA")])
    return _within(atoms, TWISTED)


def planar_centres(model: Model) -> Fours:
    """Volumes at carbonyl C (with Cα, O and N of the next residue) and at planar centres of side chains and bases."""
    atoms: list[tuple[int, int, int, int]] = []
    for before, after in _bonded(model):
        atoms += _chosen(model, [(before, "C"), (before, "CA"), (before, "O"), (after, "N")])
    carbonyls = _within(atoms, PYRAMIDAL)
    others = _inside(model, _centres)
    return Fours(np.concatenate([carbonyls.atoms, others.atoms]), carbonyls.ranges + others.ranges)


def rings(model: Model) -> Fours:
    """Volumes of four atoms in a row along aromatic rings and bases."""
    return _inside(model, _rows)


def _inside(model: Model, of: Callable[[str], tuple[tuple[str, ...], ...]]) -> Fours:
    """Fours of atoms within residues; ``of`` gives their names for a residue's."""
    atoms: list[tuple[int, int, int, int]] = []
    for index, residue in enumerate(model.residues):
        for names in of(residue.standard):
            atoms += _chosen(model, [(index, name) for name in names])
    return _within(atoms, BENT)


@cache
def _rows(name: str) -> tuple[tuple[str, ...], ...]:
    """Four atoms in a row, from every other atom of each ring of a residue."""
    kind = D_RESIDUES.get(name, name)
    if name in NUCLEIC:
        kind = "purine" if name[-1] in "AGI" else "pyrimidine"
    found = []
    for text in _RINGS.get(kind, ()):
        ring = text.split()
        found += [tuple((ring + ring)[k : k + 4]) for k in (0, 2, 4)]
    return tuple(found)


@cache
def _centres(name: str) -> tuple[tuple[str, ...], ...]:
    """Planar centres of a residue, each with its three neighbours."""
    graph: dict[str, list[str]] = defaultdict(list)
    for first, second in template_bonds(name) or ():
        graph[first].append(second)
        graph[second].append(first)
    chosen = _FLAT.get(D_RESIDUES.get(name, name), ())
    if name in NUCLEIC:
        chosen = tuple(atom for atom in graph if len(graph[atom]) == 3 and "'" not in atom and atom != "P")
    return tuple((atom, *graph[atom]) for atom in chosen)


def _bonded(model: Model) -> list[tuple[int, int]]:
    return [
        (before, after)
        for chain in polymers(model)
        for before, after in itertools.pairwise(chain)
        if step(model, before, after) == 1
    ]


def _chosen(model: Model, places: list[tuple[int, str]]) -> list[tuple[int, int, int, int]]:
    """Return the four atoms in each alternative, where C and N of two residues are bonded."""
    choices = [atoms_named(model, model.residues[residue], name) for residue, name in places]
    found = quartets(model, choices) if all(choices) else []
    ends = [k for k, (_, name) in enumerate(places) if name in ("C", "N")]
    if len({residue for residue, _ in places}) == 1:
        return found
    return [four for four in found if np.linalg.norm(np.subtract(*model.points[[four[k] for k in ends]])) < _BONDED]


def _within(atoms: list[tuple[int, int, int, int]], limit: float) -> Fours:
    most = round(1e9 * limit)
    return Fours(np.array(atoms, dtype=np.int64).reshape(-1, 4), [(-most, most)] * len(atoms))
