"""Names and sentences as a structural biologist reads them."""

from __future__ import annotations

from ._chemistry import template_bonds
from ._model import Model, Residue

__all__ = ["atom_words", "length_words", "residue_words"]

_GREEK = {"A": "α", "B": "β", "G": "γ", "D": "δ", "E": "ε", "Z": "ζ", "H": "η"}


def residue_words(residue: Residue, *, chain: bool = True) -> str:
    """Return a residue as ``Ala 12 in chain A``."""
    name = residue.name.capitalize() if len(residue.name) == 3 and template_bonds(residue.standard) else residue.name
    where = f" in chain {residue.chain}" if chain and residue.chain.strip() else ""
    if residue.molecule:
        where += f" (molecule {residue.molecule + 1})"
    return f"{name} {residue.number}{residue.insertion}{where}"


def atom_words(model: Model, index: int) -> str:
    """Return an atom as ``Cα of Ala 12 in chain A``."""
    residue = model.residues[int(model.residue_of[index])]
    name = model.names[index]
    if residue.role == "polymer" and len(residue.name) == 3 and len(name) > 1 and name[1] in _GREEK:
        element = model.elements[index]
        if element in {"C", "N", "O", "S"} and name.startswith(element):
            name = name[0] + _GREEK[name[1]] + name[2:]
    label = int(model.alternatives[index])
    other = f" (alternative {chr(label)})" if label else ""
    return f"{name} of {residue_words(residue)}{other}"


def length_words(angstroms: float, *edges: float) -> str:
    """Return a length with two decimals, or as many more as tell it from the ``edges`` that it misses [Å]."""
    places = 3 if any(abs(angstroms - edge) < 0.01 for edge in edges) else 2
    while places < 8 and any(float(f"{angstroms:.{places}f}") == round(edge, 4) for edge in edges):
        places += 1
    return f"{angstroms:.{places}f}"
