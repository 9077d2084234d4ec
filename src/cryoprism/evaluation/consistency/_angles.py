"""Angles along the backbone of proteins, by the distance of the two atoms that are bonded to the one between them."""

from __future__ import annotations

import itertools

import numpy as np

from ._chemistry import BACKBONE_ATOMS, BOND_RANGES, backbone_atoms
from ._model import Model
from ._pieces import together
from ._topology import atoms_named, places_of, step

__all__ = ["backbone_angles"]

#: First atom, the one between, second atom (+ in the next residue), and how far apart the outer two may be [Å].
#: Ideal (Engh & Huber 1991) 2.46, 2.40, 2.43 and 2.43 Å; with ideal bonds the ranges are 84° to 140°, 95° to 148°, 89°
#: to 145° and 92° to 155°. Of 49,000 each in the 50 structures that the rules were tried on, all but two (of
#: 2HWE, at 3.8 Å, which has torn bonds too) lie at least 0.06 Å within.
SPANS = (
    ("N", "CA", "C", 2.00, 2.80),
    ("CA", "C", "O", 2.05, 2.65),
    ("CA", "C", "+N", 2.00, 2.72),
    ("C", "+N", "+CA", 2.00, 2.74),
)
#: Where C and N are not bonded, the rule about bonds says so, and there is no angle to ask about [0.001 Å].
_BONDED = tuple(round(1000 * edge) for edge in BOND_RANGES[("C", "N")])


def backbone_angles(model: Model) -> list[tuple[int, int, float, float]]:
    """Return the outer atoms of each angle, least and most distance [Å]; alternatives go with their own."""
    found = []
    for chain in places_of(model):
        for n, place in enumerate(chain):
            following = chain[n + 1] if n + 1 < len(chain) else []
            for index in place:
                residue = model.residues[index]
                if backbone_atoms(residue.standard) != BACKBONE_ATOMS["protein"]:
                    continue
                here = {name: atoms_named(model, residue, name) for name in ("N", "CA", "C", "O")}
                nexts = [k for k in following if step(model, index, k) == 1]
                there = {
                    f"+{name}": [i for k in nexts for i in atoms_named(model, model.residues[k], name)]
                    for name in ("N", "CA")
                }
                if not _joined(model, here["C"], there["+N"]):
                    there = {"+N": [], "+CA": []}
                atoms = here | there
                for first, middle, last, least, most in SPANS:
                    found += [
                        (i, k, least, most)
                        for i, k in itertools.product(atoms[first], atoms[last])
                        if together(model, i, k)
                        and any(together(model, i, j) and together(model, j, k) for j in atoms[middle])
                    ]
    return found


def _joined(model: Model, carbons: list[int], nitrogens: list[int]) -> bool:
    """Whether each C and N of one alternative are as far apart as a bond is long: else no angle can be asked about."""
    pairs = [(i, j) for i, j in itertools.product(carbons, nitrogens) if together(model, i, j)]
    apart = [float(np.linalg.norm(model.points[i] - model.points[j])) for i, j in pairs]
    return bool(pairs) and all(_BONDED[0] <= one <= _BONDED[1] for one in apart)
