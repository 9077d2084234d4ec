"""The hand of α-helices, by their Cα alone: the other one is that of a mirrored map."""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np

from ._chemistry import D_RESIDUES, SIDE_CHAINS
from ._model import Model, Residue
from ._names import hand_of
from ._rules import Fours
from ._topology import atoms_named, places_of, step

__all__ = ["helix_hands"]

#: How far apart the Cα of an α-helix are [Å]: the next 3.8, the one after it 5.5, the third 5.0. Both hands have these.
#: In a turn of a β-hairpin or a 3-10 helix the third is 5.5 to 6 Å away.
SPACING: Final = ((3.5, 4.1), (5.0, 6.0), (4.5, 5.7))
#: Windows of four Cα in a row that make a helix.
LEAST_WINDOWS = 6
#: Volume of four Cα in a row [Å³]: 43 in an ideal right-handed helix, -43 in a left-handed one. Of 9,600 in the 50
#: structures that the rules were tried on all lie between 2 and 54; irregular turns are at the lower end.
VOLUME: Final = (-10.0, 100.0)


def helix_hands(model: Model) -> Fours:
    """Volumes of Cα i, i+1, i+2 and i+3 along α-helices of at least nine residues, none of them D or of unknown hand.

    Helices that are half glycine, which has no hand, are not asked.
    """
    atoms: list[tuple[int, int, int, int]] = []
    for chain in places_of(model):
        row: list[int] = []
        for before, place in itertools.pairwise([[], *chain]):
            here = atoms_named(model, model.residues[place[0]], "CA")
            usual = len(place) == 1 and len(here) > 0 and _usual(model.residues[place[0]])
            if row and (not usual or step(model, before[0], place[0]) != 1):
                atoms += _windows(model, row)
                row = []
            if usual:
                row.append(here[0])
        atoms += _windows(model, row)
    low, high = (round(1e9 * value) for value in VOLUME)
    return Fours(np.array(atoms, dtype=np.int64).reshape(-1, 4), [(low, high)] * len(atoms))


def _usual(residue: Residue) -> bool:
    """Whether a residue is an L amino acid or glycine."""
    known = residue.standard in SIDE_CHAINS
    return known or (residue.standard not in D_RESIDUES and hand_of(residue.name) == "L")


def _windows(model: Model, row: list[int]) -> list[tuple[int, int, int, int]]:
    """Windows of four Cα along a stretch of a chain that belong to helices."""
    if len(row) < LEAST_WINDOWS + 3:
        return []
    places = model.points[row] / 1000
    fits = np.ones(len(row) - 3, dtype=bool)
    for n, (low, high) in enumerate(SPACING, 1):
        apart = np.linalg.norm(places[n:] - places[:-n], axis=1)
        near = (apart >= low) & (apart <= high)
        for k in range(4 - n):  # the steps of this length that lie within each window
            fits &= near[k : k + len(fits)]
    glycine = np.array([model.residues[int(model.residue_of[k])].standard == "GLY" for k in row])
    found = []
    start = 0
    for same, group in itertools.groupby(fits):
        stop = start + len(list(group))
        if same and stop - start >= LEAST_WINDOWS and 2 * glycine[start : stop + 3].sum() < stop + 3 - start:
            found += [(row[k], row[k + 1], row[k + 2], row[k + 3]) for k in range(start, stop)]
        start = stop
    return found
