"""Hands of the carbons of sugars with rings of six, by their names."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.spatial import cKDTree

from ._model import Model, Residue
from ._rules import VOLUME, Fours, quartets
from ._topology import atoms_named

__all__ = ["SUGARS", "sugar_hands"]

#: Carbons at which a sugar differs from β-D-glucose, whose substituents all lie along the ring.
SUGARS: Final = {
    "BGC": "", "GLC": "1", "GAL": "4", "GLA": "14", "BMA": "2", "MAN": "12", "NAG": "", "NDG": "1", "NGA": "4",
    "A2G": "14", "XYP": "", "XYS": "1", "GCU": "1", "BDP": "", "GCS": "", "BOG": "",
    # α-L-fucose mirrors 6-deoxy-α-D-galactose, α-L-rhamnose 6-deoxy-α-D-mannose.
    "FUC": "235", "FUL": "1235", "RAM": "345",
}  # fmt: skip
#: Centre, its neighbours along the ring, what it bears (C1 what it is bonded to), sign of the volume in β-D-glucose.
_RING: Final = (
    ("C1", "O5", "C2", ("O1",), 1),
    ("C2", "C1", "C3", ("O2", "N2"), -1),
    ("C3", "C2", "C4", ("O3",), 1),
    ("C4", "C3", "C5", ("O4",), -1),
    ("C5", "C4", "O5", ("C6",), 1),
)
#: Sialic acids, but C2, whose hand the names SIA and SLB tell and many files do not.
_SIALIC: Final = (
    ("C4", "C3", "C5", ("O4",), -1),
    ("C5", "C4", "C6", ("N5",), 1),
    ("C6", "C5", "O6", ("C7",), -1),
)
#: Beyond this nothing is bonded to C1 [Å].
_GLYCOSIDIC = 1.8


def sugar_hands(model: Model) -> Fours:
    """Volumes at the carbons of sugars' rings.

    C1 bears its O1 or, in a chain, the O, N or S of another residue.
    """
    atoms: list[tuple[int, int, int, int]] = []
    ranges: list[tuple[int, int]] = []
    low, high = (round(1e9 * value) for value in VOLUME)
    tree: cKDTree | None = None
    for residue in model.residues:
        flipped = SUGARS.get(residue.standard)
        if flipped is None and residue.standard not in ("SIA", "SLB"):
            continue
        tree = tree or cKDTree(model.points / 1000)
        for centre, one, other, borne, sign in _SIALIC if flipped is None else _RING:
            last = next((found for name in borne if (found := atoms_named(model, residue, name))), [])
            if centre == "C1" and not last:
                last = _partners(model, residue, tree)
            choices = [*(atoms_named(model, residue, name) for name in (centre, one, other)), last]
            if not all(choices):
                continue
            positive = (sign > 0) != (centre[1] in (flipped or ""))
            for chosen in quartets(model, choices):
                atoms.append(chosen)
                ranges.append((low, high) if positive else (-high, -low))
    return Fours(np.array(atoms, dtype=np.int64).reshape(-1, 4), ranges)


def _partners(model: Model, residue: Residue, tree: cKDTree) -> list[int]:
    """Atoms of other residues that C1 is bonded to: the nearest O, N or S of each alternative."""
    found: dict[int, tuple[float, int]] = {}
    for centre in atoms_named(model, residue, "C1"):
        for k in tree.query_ball_point(model.points[centre] / 1000, _GLYCOSIDIC):
            if not residue.start <= k < residue.stop and model.elements[k] in {"O", "N", "S"} and model.kinds[k] != 4:
                apart = float(np.linalg.norm(model.points[k] - model.points[centre]))
                letter = int(model.alternatives[k])
                found[letter] = min(found.get(letter, (apart, k)), (apart, k))
    return [k for _, k in found.values()]
