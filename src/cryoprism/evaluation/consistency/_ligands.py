"""The rule about ligands: each touches something other than water, in the model or in a copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from . import _emit
from ._case import Case, Offender
from ._company import dissolved
from ._lean_space import lean_ligands
from ._model import Model
from ._symmetry import Copies, Scope, place, within_scope
from ._words import residue_words

__all__ = ["ligands_case"]


def ligands_case(model: Model, copies: Copies) -> Case | None:
    """Return the rule; None where the model has no ligand."""
    ligands = [k for k, residue in enumerate(model.residues) if residue.role == "ligand"]
    if not ligands:
        return None
    around = copies.both_ways()
    slack = 0 if model.exact and not around.operations else 5
    partners = np.flatnonzero(model.kinds != 4)
    tree = cKDTree(model.points[partners] / 1000)
    touches, alone, borderline, offenders, ions = [], [], set(), [], []
    for k, residue in enumerate(ligands):
        atoms = range(model.residues[residue].start, model.residues[residue].stop)
        best = _contact(model, partners, tree, residue, atoms, None)
        if best is None or best[0] > 4500 - slack:
            for n, (operation, scope) in enumerate(zip(around.operations, around.scopes, strict=True), 1):
                if not within_scope(scope[0], residue):
                    continue
                places = place(model, operation, atoms)
                other = _contact(model, partners, tree, residue, atoms, places, scope[1])
                if other is not None and (best is None or other[0] < best[0]):
                    best = (other[0], n, other[2], other[3])
        if best is not None and best[0] <= 4500 - slack - 1e-6:
            touches.append((residue, best[1], best[2], best[3]))
        elif (best is not None and best[0] <= 4500 + slack + 1e-6) or copies.left_out:
            borderline.add(k)
        elif dissolved(model, residue):
            borderline.add(k)
            ions.append(residue_words(model.residues[residue]))
        else:
            alone.append(residue)
            words = f"{residue_words(model.residues[residue])} touches nothing: no atom but water within 4.5 Å"
            offenders.append(Offender(words, (residue,), tuple(atoms), None))
    lonely = set(alone)
    refuted = {k for k, residue in enumerate(ligands) if residue in lonely}
    case = Case("ligands", ligands, refuted, borderline, offenders, _emit.ligands_source(around, touches, alone, slack))
    case.lean = lean_ligands(around, touches, alone, slack)
    if copies.left_out:
        case.why = copies.left_out
    elif ions:
        more = f" and {len(ions) - 3} more" if len(ions) > 3 else ""
        case.why = f"{', '.join(ions[:3])}{more}: ions among waters, which touch nothing else."
    return case


def _contact(
    model: Model,
    partners: NDArray[np.int64],
    tree: cKDTree,
    residue: int,
    atoms: Sequence[int],
    moved: NDArray[np.int64] | None,
    scope: Scope = (),
) -> tuple[float, int, int, int] | None:
    """Nearest partner of a ligand's atoms, as they are or ``moved``: distance [0.001 Å], 0, its atom, the other."""
    best: tuple[float, int, int, int] | None = None
    for n, atom in enumerate(atoms):
        place_of = model.points[atom] if moved is None else moved[n]
        for near in tree.query_ball_point(place_of / 1000, 4.51):
            other = int(partners[near])
            of = int(model.residue_of[other])
            if (moved is None and of == residue) or not within_scope(scope, of):
                continue
            apart = float(np.sqrt(((place_of - model.points[other]) ** 2).sum()))
            if best is None or apart < best[0]:
                best = (apart, 0, atom, other)
    return best
