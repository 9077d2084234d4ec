"""Space groups with mirror images: what a molecule of one hand cannot crystallise in."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ._model import Model, Residue

__all__ = ["mirror_words"]

#: Centre and three neighbours: volumes of L amino acids and of D sugars of nucleotides are positive in this order.
_CENTRES = (("CA", "N", "C", "CB"), ("C4'", "C3'", "O4'", "C5'"))


def mirror_words(model: Model, group: str) -> str:
    """Say why copies in a space group with mirror images are unknown; nothing where chains are of both hands, or none.

    Crystals of racemates do exist: whole molecules of each hand, of which a file may hold one alone. Whether that is
    meant, the file does not say.
    """
    hands: dict[str, Counter[bool]] = {}
    for residue in model.residues:
        if residue.role == "polymer":
            hands.setdefault(residue.chain, Counter()).update(_hands(model, residue))
    usual = {count[True] > count[False] for count in hands.values() if count.total()}
    if len(usual) != 1:
        return ""
    return (
        f"space group {group} holds the mirror image of every molecule, and all chains of the file are of one hand: "
        "that is a crystal of a racemate, or the wrong group."
    )


def _hands(model: Model, residue: Residue) -> list[bool]:
    places: dict[str, int] = {}
    for index in range(residue.start, residue.stop):
        places.setdefault(model.names[index].replace("*", "'"), index)
    found = []
    for names in _CENTRES:
        if places.keys() >= set(names):
            a, b, c, d = (model.points[places[name]] / 1000 for name in names)
            found.append(bool(np.dot(np.cross(b - a, c - a), d - a) > 0))
    return found
