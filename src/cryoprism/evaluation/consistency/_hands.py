"""Which chiral centres a residue has, and of which hand: by its template, or by its atoms where there is none."""

from __future__ import annotations

import numpy as np

from ._chemistry import AMINO_CENTRES, sugar_centres, template_bonds, template_centres
from ._model import Model, Residue
from ._names import hand_of

__all__ = ["Centre", "centres_of"]

#: Centre, three neighbours, sign of the volume.
Centre = tuple[str, str, str, str, int]
#: Beyond this nothing is bonded to C1' [Å].
_GLYCOSIDIC = 2.0


def centres_of(model: Model, residue: Residue) -> tuple[list[Centre], bool]:
    """Return the centres to be asked, and whether one has the other hand than usual in a residue of unknown hand.

    In a polymer a residue that no template knows has the centre of amino acids where it has N, CA, C and CB, and those
    of nucleotides where it has a furanose. Its name tells the hand (gemmi's table of components); where that table does
    not have it, usual centres are asked and unusual ones are not.
    """
    if residue.standard and template_bonds(residue.standard) is not None:
        return template_centres(residue.standard), False
    if residue.role != "polymer":
        return [], False
    places: dict[str, int] = {}
    for index in range(residue.start, residue.stop):
        places.setdefault(model.names[index].replace("*", "'"), index)
    centres = [one for one in AMINO_CENTRES["ALL"] if places.keys() >= set(one[:4])]
    if "C1'" in places and "C4'" in places:
        near: dict[str, float] = {
            name: float(np.linalg.norm(model.points[places[name]] - model.points[places["C1'"]])) / 1000
            for name in ["N9", "N1", "C5"]
            if name in places
        }
        base = min(near, key=lambda name: near[name], default="")
        usual = sugar_centres(base if base and near[base] < _GLYCOSIDIC else "none")
        centres += [one for one in usual if places.keys() >= set(one[:4])]
    if not centres:
        return [], False
    hand = hand_of(residue.name)
    if hand == "D":
        return [(a, b, c, d, -sign) for a, b, c, d, sign in centres], False
    if hand == "L":
        return list(centres), False
    kept = [one for one in centres if _volume(model, [places[name] for name in one[:4]]) * one[4] > 0]
    return kept, len(kept) < len(centres)


def _volume(model: Model, atoms: list[int]) -> float:
    a, b, c, d = (model.points[k] / 1000 for k in atoms)
    return float(np.dot(np.cross(b - a, c - a), d - a))
