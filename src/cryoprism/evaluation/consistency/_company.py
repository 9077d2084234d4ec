"""Ligands and waters belong to something: their contacts lead to a chain, in the model or over its copies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ._belonging import Add
from ._chemistry import METALS
from ._model import Model
from ._symmetry import Copies, place, within_scope

__all__ = ["dissolved", "lead_to_a_chain"]

#: A contact of a ligand, as the rule about ligands has it; of a water, whose hydrogen bonds have 2.5 to 3.5 Å and whose
#: next shell is at 4.5 Å (REMARK 525 lists waters beyond 5 Å) [0.001 Å].
LIGAND_REACH, WATER_REACH = 4500, 6000
_HALOGENS = frozenset({"F", "CL", "BR", "I"})


def lead_to_a_chain(model: Model, copies: Copies, add: Add) -> None:
    """Compare for each ligand and water whether its contacts lead to a chain; without chains nothing is asked.

    A ligand has to touch (4.5 Å) a chain, or a ligand that does; a water (6 Å) any of these, or a water that does.
    Copies of what leads to a chain count as well. Where copies are left out, one that leads nowhere is unknown, and so
    is an ion among waters.
    """
    roles = np.array([residue.role for residue in model.residues])
    if not (roles == "polymer").any():
        return
    reached = roles == "polymer"
    around = copies.both_ways()
    for role, reach in (("ligand", LIGAND_REACH), ("water", WATER_REACH)):
        _spread(model, around, reached, roles == role, reach)
        for index in np.flatnonzero(roles == role):
            words = f"its contacts lead to no chain: it is further than {reach / 1000:g} Å from all that do"
            unsure = bool(copies.left_out) or (not reached[index] and dissolved(model, int(index)))
            add(int(reached[index]), 1, int(index), words, unsure=unsure)


def dissolved(model: Model, index: int) -> bool:
    """Whether a residue is an ion with a water within 4.5 Å: in a simulation's box it may be far from all else."""
    residue = model.residues[index]
    if residue.stop - residue.start != 1 or model.elements[residue.start] not in METALS | _HALOGENS:
        return False
    apart = ((model.points[model.kinds == 4] - model.points[residue.start]) ** 2).sum(axis=1)
    return bool((apart <= LIGAND_REACH**2).any())


def _spread(model: Model, around: Copies, reached: NDArray[np.bool_], wanted: NDArray[np.bool_], reach: int) -> None:
    """Add to ``reached`` (residues) the wanted ones that touch it, from one to the next."""
    fresh = reached.copy()
    while True:
        while fresh.any():
            fresh = _touching(model, fresh, wanted & ~reached, reach)
            reached |= fresh
        open_atoms = np.flatnonzero((wanted & ~reached)[model.residue_of])
        if not len(open_atoms) or not around.operations:
            return
        held = np.flatnonzero(reached[model.residue_of])
        tree = cKDTree(model.points[held])
        for operation, scope in zip(around.operations, around.scopes, strict=True):
            for atom, near in zip(
                open_atoms, tree.query_ball_point(place(model, operation, open_atoms.tolist()), reach), strict=True
            ):
                residue = int(model.residue_of[atom])
                if near and within_scope(scope[0], residue):
                    fresh[residue] |= any(within_scope(scope[1], int(model.residue_of[held[k]])) for k in near)
        if not fresh.any():
            return
        reached |= fresh


def _touching(model: Model, fresh: NDArray[np.bool_], wanted: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Which of the wanted residues have an atom within reach of a fresh one."""
    found = np.zeros(len(fresh), dtype=bool)
    here, there = (np.flatnonzero(chosen[model.residue_of]) for chosen in (fresh, wanted))
    if len(here) and len(there):
        apart, _ = cKDTree(model.points[here]).query(model.points[there], distance_upper_bound=reach + 1e-6)
        found[model.residue_of[there[np.isfinite(apart)]]] = True
    return found
