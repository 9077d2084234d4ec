"""Is a ligand, ion, water or modified residue what its name says: by its atoms, as far as tables have its formula."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Final

import gemmi

from ._belonging import Add
from ._chemistry import template_bonds
from ._formulas import formula_of, ion_of, weight_of
from ._model import Model, Residue
from ._names import IONS

__all__ = ["identities", "unchecked", "unchecked_words"]

#: What a file calls unknown itself.
_UNKNOWN: Final = frozenset({"UNL", "UNX"})
#: Elements that what is missing of a component may be of, for components of which only the weight is known.
_LIKELY: Final = ("B", "C", "N", "O", "F", "P", "S", "Cl", "Fe", "Br")
_SLACK = 0.3
#: Beyond this everything can be added up from these elements.
_ANYTHING = 60.0


def identities(model: Model, add: Add) -> None:
    """Compare the atoms of each residue without template with what its name says: how many are too many, with none.

    Water has one O and at most two H; an ion is one atom of its element; of a component whose formula the table has, no
    element may have more atoms (atoms that leave when it is bonded may lack). It is unknown where more than half of its
    atoms, or all of an element but C, N and O, lack. Of a component of which gemmi's table has the weight alone, the
    atoms must not weigh more, nor lack what no atoms weigh. Atoms of alternatives count for each letter by itself.
    """
    for index, residue in enumerate(model.residues):
        if template_bonds(residue.standard) is not None or residue.name in _UNKNOWN:
            continue
        held = _atoms(model, residue)
        wrong, open_, words = (_water if residue.role == "water" else _component)(residue, held)
        if wrong >= 0:
            add(wrong, 0, index, words, unsure=open_)


def unchecked(model: Model) -> list[str]:
    """Names of residues of which no table has formula or weight: nothing tells whether they are what these say."""
    names = {
        residue.name
        for residue in model.residues
        if residue.role != "water" and template_bonds(residue.standard) is None and not _known(residue)
    }
    return sorted(names)


def unchecked_words(model: Model) -> list[str]:
    """Say of which residues it was not checked what they are, in one sentence; nothing where there are none."""
    names = unchecked(model)
    if not names:
        return []
    # check.sh knows this sentence by its form, with names of these characters.
    names = [re.sub("[^A-Za-z0-9+-]", "?", name) for name in names]
    listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    verb = "is what its name says" if len(names) == 1 else "are what their names say"
    return [f"Whether {listed} {verb} was not checked: no table has the formula."]


def _known(residue: Residue) -> bool:
    name = residue.standard
    return bool(ion_of(name) or formula_of(name) or weight_of(name))


def _atoms(model: Model, residue: Residue) -> Counter[str]:
    """Atoms of each element: the most that any letter of alternatives has, H and D as one."""
    letters = {int(model.alternatives[k]) for k in range(residue.start, residue.stop)} - {0} or {0}
    most: Counter[str] = Counter()
    for letter in letters:
        there = [k for k in range(residue.start, residue.stop) if model.alternatives[k] in (0, letter)]
        most |= Counter("H" if model.kinds[k] == 3 else model.elements[k] for k in there)
    return most


def _water(_: Residue, held: Counter[str]) -> tuple[int, bool, str]:
    """How many atoms are too many, whether that is open, in words; so do the others."""
    unknown = held["X"]
    foreign = held.total() - held["O"] - held["H"] - unknown
    wrong = max(held["O"] - 1, 0) + max(held["H"] - 2, 0) + foreign
    if not wrong and (unknown or not held["O"]):
        return 1, True, "it is called water, and has no O, or atoms without element"
    return wrong, False, f"it is called water, and its atoms are {_listed(held)}"


def _component(residue: Residue, held: Counter[str]) -> tuple[int, bool, str]:
    name = residue.standard
    heavy = Counter({element: count for element, count in held.items() if element != "H"})
    if heavy.total() == 1 and heavy[IONS.get(name, "")]:  # a force field's name of an ion, CLA of chloride
        return 0, False, ""
    ion, formula = ion_of(name), formula_of(name)
    if ion is not None:
        wanted = Counter({ion: 1})
        words = f"it is called {residue.name}, an ion of one {ion.capitalize()}, and its atoms are {_listed(heavy)}"
        return (heavy - wanted).total() + (wanted - heavy).total(), False, words
    if formula is not None:
        many = (heavy - formula).total()
        words = f"{residue.name} has {_listed(formula)}, and its atoms are {_listed(heavy)}"
        if many or not heavy:
            return many, False, words
        lost = [element for element in formula if element not in {"C", "N", "O"} and not heavy[element]]
        lacks = bool(lost) or 2 * heavy.total() < formula.total()
        return int(lacks), True, f"{words}: too few to tell whether it is {residue.name}"
    weight = weight_of(name)
    if not weight:
        return -1, False, ""
    left = weight - sum(gemmi.Element(element).weight * count for element, count in heavy.items())
    words = (
        f"its atoms ({_listed(heavy)}) cannot be those of {residue.name}, which weigh {weight:.1f} Da without hydrogen"
    )
    return int(not _adds_up(left)), False, words


@cache
def _adds_up(left: float) -> bool:
    """Whether missing atoms can weigh so much: nothing, or the sum of a few."""
    if left < -_SLACK:
        return False
    if left > _ANYTHING or left <= _SLACK:
        return True
    return any(_adds_up(left - gemmi.Element(element).weight) for element in _LIKELY)


def _listed(held: Counter[str]) -> str:
    return " ".join(f"{element.capitalize()}{count if count > 1 else ''}" for element, count in sorted(held.items()))
