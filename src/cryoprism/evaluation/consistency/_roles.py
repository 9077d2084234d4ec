"""Which residues are polymer, ligand or water: by what the file says, and by the bonds and places of their atoms."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import gemmi
import numpy as np
from scipy.spatial import cKDTree

from ._chemistry import template_bonds
from ._names import IONS, is_water, standard_name

__all__ = ["roles_of"]

#: C and N, O3' and P nearer than this are bonded; atoms of one backbone [Å].
_BONDED = 1.9
#: Caps of chains have so many atoms at most, with hydrogens: acetyl, amide, methyl amide, ethanolamine.
_LARGEST_CAP = 11
_CAPS = frozenset({"ACE", "FOR", "NH2", "NME", "NMA", "NHE"})
#: Nearer than this a residue with the next number is meant to be the neighbour: atoms that are compared [Å].
_NEIGHBOURS = (("CA", "CA", 6.0), ("C4'", "C4'", 10.0))
_CAPPED = (("N", "C", 5.0), ("C", "N", 5.0))
_STEPS = (("C", "N"), ("N", "C"), ("O3'", "P"), ("P", "O3'"))


def roles_of(chain: gemmi.Chain, standing: list[int]) -> list[str]:
    """Return polymer, ligand or water for each residue of a chain.

    What the file says comes first. A residue that it lists as HETATM, or after TER, belongs to the polymer all the same
    if it has a backbone (N, CA, C, or the sugar of a nucleotide) that is bonded to a residue of the chain, or stands
    between two of them by its row and number, or beside one by its number and place, so that a tear is seen as one; and
    so does a small residue (a cap) whose N or C is bonded to a C or N of the chain. ``standing`` is how many TER are
    before each residue.
    """
    roles = [_stated(residue) for residue in chain]
    loose = [k for k, role in enumerate(roles) if role == "ligand" and chain[k].label_seq is None]
    if not loose:
        return roles
    bodies = {k for k in loose if _backbone(chain[k])}
    caps = {k for k in loose if k not in bodies and _cap(chain[k])}
    if not bodies | caps:
        return roles
    ends = {k: _ends(chain[k]) for k, role in enumerate(roles) if role == "polymer" or k in bodies | caps}
    placed = [k for k in bodies if _between(chain, roles, standing, k)]
    placed += [k for k in bodies | caps if k not in placed and _beside(chain, roles, k)]
    for k in placed:
        roles[k] = "polymer"
    pool = {k for k in ends if roles[k] == "polymer"} | bodies
    trees = _trees(ends, pool)
    joined = {k for k in bodies if roles[k] != "polymer" and _joined(ends[k], k, trees)}
    held = {k for k in pool if roles[k] == "polymer"} | joined
    for k in joined:
        roles[k] = "polymer"
    trees, declared = _trees(ends, held), any(chain[n].label_seq is not None for n in held)
    for k in caps:
        # The file's sequence, where there is one, does not have it: then it is none of the chain.
        if not declared and _joined(ends[k], k, trees):
            roles[k] = "polymer"
    return roles


def _stated(residue: gemmi.Residue) -> str:
    if is_water(residue):
        return "water"
    if len(residue) == 1 and residue.name.upper() == residue[0].name.upper() in IONS:
        return "ligand"
    # Sugars of some entries are listed with the polymer, but stand nowhere in its sequence.
    known = template_bonds(standard_name(residue.name, [atom.name for atom in residue])) is not None
    stray = residue.het_flag == "H" and residue.label_seq is None and not known
    return "polymer" if residue.entity_type == gemmi.EntityType.Polymer and not stray else "ligand"


def _at(residue: gemmi.Residue, name: str) -> list[list[float]]:
    return [atom.pos.tolist() for atom in residue if atom.name.replace("*", "'") == name]


def _backbone(residue: gemmi.Residue) -> bool:
    """Whether it has N, CA and C that are bonded, or a sugar with O3' or P."""
    names = {atom.name.replace("*", "'") for atom in residue}
    if names >= {"N", "CA", "C"}:
        return all(
            _least(_at(residue, one), _at(residue, other)) < _BONDED for one, other in (("N", "CA"), ("CA", "C"))
        )
    return names >= {"C3'", "C4'"} and bool(names & {"O3'", "P"})


def _cap(residue: gemmi.Residue) -> bool:
    names = {atom.name for atom in residue}
    return len(residue) <= _LARGEST_CAP and bool(names & {"N", "C"})


def _ends(residue: gemmi.Residue) -> dict[str, list[list[float]]]:
    return {name: _at(residue, name) for name in ("N", "C", "P", "O3'")}


def _least(one: list[list[float]], other: list[list[float]]) -> float:
    pairs = itertools.product(one, other)
    return min((float(np.linalg.norm(np.subtract(a, b))) for a, b in pairs), default=np.inf)


def _trees(ends: Mapping[int, dict[str, list[list[float]]]], pool: set[int]) -> dict[str, tuple[cKDTree, list[int]]]:
    """Find the ends of the residues in ``pool`` by name, with the residue of each."""
    found = {}
    for name in ("N", "C", "P", "O3'"):
        rows = [(place, n) for n in sorted(pool) for place in ends[n][name]]
        if rows:
            found[name] = (cKDTree([place for place, _ in rows]), [n for _, n in rows])
    return found


def _joined(own: dict[str, list[list[float]]], k: int, trees: Mapping[str, tuple[cKDTree, list[int]]]) -> bool:
    """Whether one of a residue's ends is bonded to the fitting end of another one."""
    for here, there in _STEPS:
        if own[here] and there in trees:
            tree, owners = trees[there]
            near = tree.query_ball_point(own[here], _BONDED)
            if any(owners[n] != k for found in near for n in found):
                return True
    return False


def _between(chain: gemmi.Chain, roles: list[str], standing: list[int], k: int) -> bool:
    """Whether its row stands between those of two residues of the polymer, without TER, and its number does too.

    At the start of a chain it has to be the number before the first one.
    """
    before = next((n for n in range(k - 1, -1, -1) if roles[n] == "polymer"), None)
    after = next((n for n in range(k + 1, len(roles)) if roles[n] == "polymer"), None)
    if after is None or standing[after] != standing[k]:
        return False
    number, later = (int(chain[n].seqid.num or 0) for n in (k, after))
    if before is None:
        return number == later - 1
    return standing[before] == standing[k] and int(chain[before].seqid.num or 0) < number < later


def _beside(chain: gemmi.Chain, roles: list[str], k: int) -> bool:
    """Whether its number is the one before or after a residue of the polymer, which it is near, and no other's."""
    residue = chain[k]
    number = int(residue.seqid.num or 0)
    polymer = [n for n, role in enumerate(roles) if role == "polymer"]
    if any(chain[n].label_seq is not None for n in polymer) or any(chain[n].seqid.num == number for n in polymer):
        return False
    if not _backbone(residue) and residue.name not in _CAPS:
        return False
    pairs = _NEIGHBOURS if _backbone(residue) else _CAPPED
    return any(
        _least(_at(residue, own), _at(chain[n], theirs)) < reach
        for n in polymer
        if abs(int(chain[n].seqid.num or 0) - number) == 1
        for own, theirs, reach in pairs
    )
