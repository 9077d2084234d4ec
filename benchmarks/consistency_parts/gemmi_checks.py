"""What gemmi's own functions say of contacts, bonds, hands and peptide bonds, and where that differs from the proofs.

Nothing of the project's rules is used: contacts are ContactSearch over NeighborSearch, bonds are judged by gemmi's
covalent radii, hands by the improper dihedral of Cα, N, C, Cβ (about +34° for L-amino acids), peptide bonds by
calculate_omega. Atoms are matched by their place in the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import gemmi
import numpy as np

from cryoprism.evaluation.consistency import Consistency, Offender

__all__ = ["CHECKS", "Difference", "compare"]

NEAREST = 2.2  # Å: the limit for heavy atoms of the proofs
SPARE = 0.35  # Å about the sum of gemmi's covalent radii
CHECKS = ("contacts", "contacts with copies", "bond lengths", "hands", "peptide bonds")
_BACKBONE = (("N", "CA"), ("CA", "C"), ("C", "O"), ("P", "O5'"), ("O5'", "C5'"), ("C4'", "C3'"), ("C3'", "O3'"))
_MODIFIED_AS_PROLINE = {"PRO", "DPR", "HYP"}


@dataclass(frozen=True)
class Difference:
    """What one calls wrong and the other does not: atoms, both values in words, and why."""

    check: str
    atoms: str
    here: str
    gemmi: str
    why: str


@dataclass
class _Opinions:
    """Values of what gemmi calls wrong, by atoms; and how many it looked at."""

    wrong: dict[tuple[int, ...], float]
    judged: dict[tuple[int, ...], float]


class _Structure:
    def __init__(self, result: Consistency) -> None:
        self.result = result
        self.structure = result.model.structure.clone()
        self.atoms: list[tuple[gemmi.Chain, gemmi.Residue, gemmi.Atom]] = []
        self.place: dict[int, int] = {}
        for chain in self.structure[0]:
            for number, residue in enumerate(chain):
                self.place[len(self.atoms)] = number
                for atom in residue:
                    atom.serial = len(self.atoms)
                    self.atoms.append((chain, residue, atom))
        self.linked = self._links()

    def _links(self) -> set[frozenset[int]]:
        """Pairs of residues (by their first atom) that the file joins, and bridges of sulphur."""
        found = set()
        for link in self.structure.connections:
            ends = [self.structure[0].find_cra(partner) for partner in (link.partner1, link.partner2)]
            if all(end.atom is not None for end in ends):
                found.add(frozenset(end.residue[0].serial for end in ends))
        return found

    def words(self, numbers: tuple[int, ...]) -> str:
        parts = []
        for number in numbers:
            chain, residue, atom = self.atoms[number]
            other = "" if atom.altloc == "\0" else f" {atom.altloc}"
            parts.append(f"{chain.name}/{residue.name} {residue.seqid}/{atom.name}{other}")
        return " – ".join(parts)

    def offenders(self, rule: str) -> list[Offender]:
        return [one for found in self.result.rules if found.name == rule for one in found.offenders]

    def chains(self) -> Iterator[list[gemmi.Residue]]:
        for chain in self.structure[0]:
            yield list(chain.get_polymer().first_conformer())

    # contacts

    def contacts(self) -> tuple[_Opinions, _Opinions]:
        """Pairs of heavy atoms of residues that are not adjacent, nearer than 2.2 Å: in the model, with copies."""
        search = gemmi.NeighborSearch(self.structure[0], self.structure.cell, 4.0).populate(include_h=False)
        contacts = gemmi.ContactSearch(NEAREST)
        # Not AdjacentResidues: that takes residues that overlap for neighbours, wherever they stand in the chain.
        contacts.ignore = gemmi.ContactSearch.Ignore.SameResidue
        contacts.twice = True  # once is not enough where only one of two images is found; pairs are kept once anyhow
        own, copies = _Opinions({}, {}), _Opinions({}, {})
        for one in contacts.find_contacts(search):
            pair = tuple(sorted((one.partner1.atom.serial, one.partner2.atom.serial)))
            # image_idx counts operations; shifts by whole cells show in the distance alone.
            copy = one.image_idx or abs(one.partner1.atom.pos.dist(one.partner2.atom.pos) - one.dist) > 0.01
            if not copy and self.adjacent(pair):
                continue
            into = copies if copy else own
            into.wrong[pair] = min(one.dist, into.wrong.get(pair, 9.0))
        return own, copies

    def adjacent(self, pair: tuple[int, ...]) -> bool:
        """Whether two atoms are of one residue or of neighbours in their chain."""
        (chain, one, _), (second, other, _) = (self.atoms[k] for k in pair)
        places = [self.place[residue[0].serial] for residue in (one, other)]
        return chain.name == second.name and abs(places[0] - places[1]) <= 1

    def why_not_here(self, pair: tuple[int, ...], length: float) -> str:
        (_, one, a), (_, other, b) = (self.atoms[k] for k in pair)
        if a.element.is_metal or b.element.is_metal:
            return "metal: nearer limit here"
        if frozenset((one[0].serial, other[0].serial)) in self.linked or {a.name, b.name} == {"SG"}:
            return "joined by a recorded link or a disulfide"
        if a.altloc != "\0" or b.altloc != "\0" or a.occ + b.occ <= 1.0005:
            return "alternatives or occupancies: need not be there at once"
        if abs(length - NEAREST) < 0.006:
            return "within the margin for rounding of copies: open"
        if pair[0] == pair[1]:
            return "on a symmetry element"
        return "other"

    def why_only_here(self, pair: tuple[int, ...], length: float, of_copies: bool) -> str:
        (_, _, a), (_, _, b) = (self.atoms[k] for k in pair)
        if a.element.is_hydrogen or b.element.is_hydrogen:
            return "hydrogens: not searched in gemmi"
        if not of_copies and self.adjacent(pair):
            return "same or adjacent residues: not searched in gemmi"
        if of_copies and length < 0.8:
            return "nearer than 0.8 Å: gemmi takes it for a special position"
        return "other"

    # geometry

    def bonds(self) -> _Opinions:
        """Bonds of the backbone whose length is not the sum of gemmi's covalent radii within 0.35 Å."""
        found = _Opinions({}, {})

        def judge(one: gemmi.Residue, other: gemmi.Residue, names: tuple[str, str]) -> None:
            a, b = (residue.find_atom(name, "*") for residue, name in zip((one, other), names, strict=True))
            if a and b:
                length = a.pos.dist(b.pos)
                pair = tuple(sorted((a.serial, b.serial)))
                found.judged[pair] = length
                if abs(length - a.element.covalent_r - b.element.covalent_r) > SPARE:
                    found.wrong[pair] = length

        for chain in self.chains():
            for residue in chain:
                for names in _BACKBONE:
                    judge(residue, residue, names)
            for before, after in itertools.pairwise(chain):
                if before.label_seq is not None and after.label_seq == before.label_seq + 1:
                    judge(before, after, ("C", "N"))
                    judge(before, after, ("O3'", "P"))
        return found

    def hands(self) -> _Opinions:
        """Cα whose improper dihedral has not the sign of its name [degrees]."""
        found = _Opinions({}, {})
        for chain in self.chains():
            for residue in chain:
                known = gemmi.find_tabulated_residue(residue.name)
                if not known.is_amino_acid():
                    continue
                four = [residue.find_atom(name, "*") for name in ("CA", "N", "C", "CB")]
                if all(four):
                    angle = float(np.degrees(gemmi.calculate_dihedral(*(atom.pos for atom in four))))
                    key = (four[0].serial,)
                    found.judged[key] = angle
                    if angle * (-1 if known.kind == gemmi.ResidueKind.AAD else 1) < 0:
                        found.wrong[key] = angle
        return found

    def peptides(self) -> _Opinions:
        """Peptide bonds before anything but proline whose omega is below 90° [degrees]."""
        found = _Opinions({}, {})
        for chain in self.chains():
            for before, after in itertools.pairwise(chain):
                joined = before.label_seq is not None and after.label_seq == before.label_seq + 1
                ends = [before.find_atom("CA", "*"), after.find_atom("CA", "*")]
                if not joined or after.name in _MODIFIED_AS_PROLINE or not all(ends):
                    continue
                bond = [before.find_atom("C", "*"), after.find_atom("N", "*")]
                if not all(bond) or bond[0].pos.dist(bond[1].pos) > 2.0:  # a gap is no peptide bond
                    continue
                omega = float(np.degrees(gemmi.calculate_omega(before, after)))
                if not np.isnan(omega):
                    key = (ends[0].serial, ends[1].serial)
                    found.judged[key] = omega
                    if abs(omega) < 90:
                        found.wrong[key] = omega
        return found


def _by_atoms(offenders: list[Offender]) -> dict[tuple[int, ...], Offender]:
    return {tuple(sorted(one.atoms)): one for one in offenders}


def compare(result: Consistency) -> tuple[dict[str, tuple[int, int]], list[Difference]]:
    """Return, for each check, how many both call wrong and how many were judged (contacts: none), and what differs."""
    held = _Structure(result)
    counts: dict[str, tuple[int, int]] = {}
    found: list[Difference] = []
    own, copies = held.contacts()
    # Of a file in the frame of its particle gemmi would move the coordinates as they are.
    crystal = not result.model.declared.frames and any(
        rule.name == "copies" and rule.note.startswith("crystal") for rule in result.rules
    )
    pairs = [("contacts", own, "clashes")] + ([("contacts with copies", copies, "copies")] if crystal else [])
    for check, opinions, rule in pairs:
        here = _by_atoms(held.offenders(rule))
        counts[check] = (len(here.keys() & opinions.wrong.keys()), 0)
        for pair in sorted(opinions.wrong.keys() - here.keys()):
            length = opinions.wrong[pair]
            words, why = f"nearer than {NEAREST} Å: {length:.2f} Å", held.why_not_here(pair, length)
            found.append(Difference(check, held.words(pair), "not refuted", words, why))
        for pair in sorted(here.keys() - opinions.wrong.keys()):
            length = here[pair].value or 0.0
            why = held.why_only_here(pair, length, of_copies=rule == "copies")
            found.append(Difference(check, held.words(pair), f"refuted: {length:.2f} Å", "no contact", why))
    geometry = (
        ("bond lengths", held.bonds(), "bonds", "Å", "limits differ", "sum of covalent radii"),
        (
            "hands",
            held.hands(),
            "chirality",
            "Å³",
            "twisted, bent or flat: gemmi is asked for the sign alone",
            "improper dihedral",
        ),
        ("peptide bonds", held.peptides(), "cis_peptides", "", "near 90°", "omega"),
    )
    for check, opinions, rule, unit, why, what in geometry:
        here = {key: one for key, one in _by_atoms(held.offenders(rule)).items() if key in opinions.judged}
        counts[check] = (len(here.keys() & opinions.wrong.keys()), len(opinions.judged))
        for key in sorted(here.keys() ^ opinions.wrong.keys()):
            value = here[key].value if key in here else None
            mine = "not refuted" if key not in here else "refuted" if value is None else f"refuted: {value:.2f} {unit}"
            theirs = f"{'wrong' if key in opinions.wrong else 'right'}, {what}: {opinions.judged[key]:.2f}"
            found.append(Difference(check, held.words(key), mine, theirs, why))
    return counts, found
