"""Do the atoms of a residue belong to it: names that its template has, elements as they say, possible occupancies."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import gemmi

from ._chemistry import BACKBONE_ATOMS, template_bonds
from ._hands import centres_of
from ._model import Model, Residue

__all__ = ["atoms_of_residues"]

#: Beside its template: ends of chains, and what deposits of terminal phosphates and CHARMM patches bear.
_EXTRA = frozenset({"OXT", "OP3", "O3P", "O5T", "O3T"})
#: Not missed: the other oxygen of the end, the phosphate of a 5' end; the backbone is asked for elsewhere.
_NOT_MISSED = frozenset({"OXT", "P", "OP1", "OP2", "N", "CA", "C", "O"})

_LEAST_B = -20.0
#: Atoms of what closes a chain: acetyl, amide, methyl amide, ethanolamine, with hydrogens.
_LARGEST_CAP = 11


class Add(Protocol):
    """Adds a comparison: what is found, what is wanted, the residue, words; ``unsure`` where failing is unknown."""

    def __call__(self, found: int, wanted: int, residue: int, words: str, *, unsure: bool = False) -> None:
        """Add it."""


def atoms_of_residues(model: Model, add: Add) -> list[str]:
    """Compare the atoms of each residue with its template; return what to note.

    A heavy atom that the template does not have, or an element that is not the name's, is refuted. Missing atoms of
    side chains are common in good models and are counted in the note.
    """
    missing: Counter[int] = Counter()
    strange: Counter[str] = Counter()
    for index, residue in enumerate(model.residues):
        bonds = template_bonds(residue.standard)
        if bonds is None:
            if residue.role == "polymer":
                strange[residue.name] += 1
                _strange(model, index, residue, add)
            continue
        known = {name for bond in bonds for name in bond}
        places = range(residue.start, residue.stop)
        wrong = [k for k in places if not _fits(model, residue, k, known)]
        words = "names"
        if wrong:
            foreign = [k for k in wrong if model.names[k] not in known | _EXTRA and model.kinds[k] != 3]
            listed = ", ".join(dict.fromkeys(f"{model.names[k]} ({model.elements[k]})" for k in wrong[:4]))
            words = (
                f"{len(wrong)} of its atoms do not belong to {residue.standard} by "
                f"{'name' if foreign else 'element'}: {listed}"
            )
        add(len(places) - len(wrong), len(places), index, words)
        lost = known - _NOT_MISSED - {model.names[k] for k in places}
        if lost and len(places) > 1:
            missing[index] = len(lost)
    notes = []
    if missing:
        notes.append(f"{len(missing)} residues lack {sum(missing.values())} atoms of side chains or bases")
    if strange:
        listed = ", ".join(sorted(strange)[:6])
        notes.append(f"no template knows {strange.total()} residues of chains ({listed}): asked by their atoms")
    _shares(model, add)
    return notes


def _strange(model: Model, index: int, residue: Residue, add: Add) -> None:
    """Add a residue that no template knows: unknown where neither a table nor its atoms tell what to ask."""
    hands = centres_of(model, residue)[1]
    names = {name.replace("*", "'") for name in model.names[residue.start : residue.stop]}
    asked = names >= set(BACKBONE_ATOMS["protein"]) or {"C1'", "C3'", "C4'"} <= names or names == {"CA"}
    words = (
        "its name is in no table, and its hand is not the usual one: whether it should be is not known"
        if hands
        else "its name is in no table, and it has no whole backbone: what to ask of it is not known"
    )
    around = [k for k in (index - 1, index + 1) if 0 <= k < len(model.residues)]
    inside = sum(model.residues[k].role == "polymer" and model.residues[k].chain == residue.chain for k in around) == 2
    cap = not inside and residue.stop - residue.start <= _LARGEST_CAP
    known = asked or cap or gemmi.find_tabulated_residue(residue.name).found()
    add(int(hands or not known), 0, index, words, unsure=True)


def _fits(model: Model, residue: Residue, atom: int, known: set[str]) -> bool:
    name, element = model.names[atom], model.elements[atom]
    if name in known or name in _EXTRA:
        return element == ("SE" if name == "SE" and residue.standard == "MSE" else name[0])
    # Hydrogens have many names, but all begin with their element, after a digit at most.
    return element in {"H", "D"} and name.lstrip("0123456789'\"*")[:1] in {"H", "D"}


def _shares(model: Model, add: Add) -> None:
    """Occupancies lie between 0 and 1 (1.01: rounding); B factors are above -20 Å².

    Maps that are sharpened too far give B factors a little below 0 (to -3 Å² in six of the 50 structures that the
    rules were tried on), which is no fault of the coordinates.
    """
    atoms = [atom for chain in model.structure[0] for residue in chain for atom in residue]
    bad = [k for k, atom in enumerate(atoms) if not (-1e-6 <= atom.occ <= 1.0101 and atom.b_iso >= _LEAST_B)]
    words = "occupancies and B factors"
    if bad:
        first = atoms[bad[0]]
        words = (
            f"{len(bad)} atoms have an occupancy out of 0 to 1 or a B factor below {_LEAST_B:g} Å², the first its "
            f"{first.name}: occupancy {first.occ:g}, B factor {first.b_iso:g} Å²"
        )
    add(len(bad), 0, int(model.residue_of[bad[0]]) if bad else len(model.residues) - 1, words)
