"""Names of residues and atoms: those that force fields give, as the standard ones, and the hand that a name states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import gemmi

from ._chemistry import D_RESIDUES, NUCLEIC, SIDE_CHAINS

__all__ = ["WATERS", "bears", "hand_of", "standard_atoms", "standard_name"]

#: Water in AMBER, CHARMM and GROMACS, beside the names that gemmi knows.
WATERS: Final = frozenset({"HOH", "DOD", "WAT", "H2O", "TIP", "TIP3", "TIP4", "TP3", "SOL", "SPC", "T3P", "T4P"})

#: Protonation states and disulfides as AMBER, CHARMM, GROMACS and OPLS name them; ends of chains as AMBER does.
_AMINO: Final = {
    "HID": "HIS", "HIE": "HIS", "HIP": "HIS", "HSD": "HIS", "HSE": "HIS", "HSP": "HIS", "HISA": "HIS", "HISB": "HIS",
    "HISD": "HIS", "HISE": "HIS", "HISH": "HIS", "HIS1": "HIS", "HIS2": "HIS", "CYX": "CYS", "CYM": "CYS",
    "CYN": "CYS", "CYSH": "CYS", "CYS1": "CYS", "CYS2": "CYS", "ASH": "ASP", "ASPH": "ASP", "ASPP": "ASP",
    "GLH": "GLU", "GLUH": "GLU", "GLUP": "GLU", "LYN": "LYS", "LYSH": "LYS", "LSN": "LYS", "LYP": "LYS",
    "ARN": "ARG", "ARGN": "ARG", "TYM": "TYR",
}  # fmt: skip
#: Bases by their long names; which of RNA and DNA it is tells O2'.
_BASES: Final = {"ADE": "A", "CYT": "C", "GUA": "G", "THY": "T", "URA": "U", "INO": "I"}
_ATOMS: Final = {"O1P": "OP1", "O2P": "OP2", "O3P": "OP3", "OT1": "O", "OT2": "OXT", "OC1": "O", "OC2": "OXT"}


def standard_name(name: str, atoms: Sequence[str]) -> str:
    """Return the name under which a residue's template stands, or the name itself (upper case) where none does.

    ``atoms`` are the names of its atoms, which tell RNA from DNA.
    """
    name = name.upper()
    if name in SIDE_CHAINS or name in D_RESIDUES or (name in NUCLEIC and len(name) > 1):
        return name
    if name in _AMINO:
        return _AMINO[name]
    if len(name) == 4 and name[0] in "NC" and (name[1:] in SIDE_CHAINS or name[1:] in _AMINO):
        return _AMINO.get(name[1:], name[1:])
    sugar = {atom.replace("*", "'") for atom in atoms}
    base = name[:-1] if len(name) > 1 and name[-1] in "35N" and name not in _BASES else name
    base = base[1:] if len(base) == 2 and base[0] == "R" else base
    base = _BASES.get(base, base)
    if base in NUCLEIC and "C1'" in sugar:
        return f"D{base}" if len(base) == 1 and base != "T" and "O2'" not in sugar and "C2'" in sugar else base
    return name


def standard_atoms(name: str, atoms: Sequence[str]) -> list[str]:
    """Names of a residue's atoms as its template (``name``) has them: upper case, primes, and what changed in 2007."""
    upper = [atom.upper() for atom in atoms]
    if name not in SIDE_CHAINS and name not in D_RESIDUES and name not in NUCLEIC:
        return upper
    present = set(upper)
    table = dict(_ATOMS)
    if name == "ILE":
        table["CD"] = "CD1"
    if name in NUCLEIC:
        table |= {atom: atom.replace("*", "'") for atom in upper if "*" in atom}
        table["C5M"] = "C7"
    wanted = [table.get(atom, atom) for atom in upper]
    return [new if new == old or new not in present else old for old, new in zip(upper, wanted, strict=True)]


def bears(heavy: str, hydrogen: str) -> bool:
    """Whether a heavy atom of an amino acid bears a hydrogen by their names: N has H, H1 and HN; CB has HB2 and 1HB."""
    rest = hydrogen.lstrip("0123456789")[1:]
    if rest in {"", "1", "2", "3", "N", "N1", "N2", "N3", "T1", "T2", "T3"}:
        return heavy == "N"
    return len(heavy) > 1 and heavy != "OXT" and rest.startswith(heavy[1:])


def hand_of(name: str) -> Literal["L", "D", "unknown"]:
    """Return the hand of a residue without template by what gemmi's table of components says."""
    kinds = gemmi.ResidueKind
    found = gemmi.find_tabulated_residue(name)
    if not found.found():
        return "unknown"
    if found.kind == kinds.AAD:
        return "D"
    return "L" if found.kind in (kinds.AA, kinds.PAA, kinds.MAA, kinds.RNA, kinds.DNA) else "unknown"
