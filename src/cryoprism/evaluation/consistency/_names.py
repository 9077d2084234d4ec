"""Names of residues and atoms: those that force fields give, as the standard ones, and the hand that a name states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import gemmi

from ._chemistry import D_RESIDUES, NUCLEIC, SIDE_CHAINS

__all__ = [
    "IONS",
    "VIRTUAL",
    "WATERS",
    "bears",
    "hand_of",
    "is_water",
    "standard_atoms",
    "standard_name",
    "without_virtual",
]

#: Water in AMBER, CHARMM, GROMACS and OpenMM, beside the names that gemmi knows.
WATERS: Final = frozenset(
    (  # noqa: SIM905
        "HOH DOD WAT H2O TIP TIP3 TIP4 TIP5 TP3 TP4 TP5 SOL SPC SPCE T3P T4P T4E T5P OPC OPC3 SWM SWM4"
    ).split()
)
#: Sites of models of water that are no atoms: M of four-site models, 0.1 to 0.25 Å from O (AMBER EPW, GROMACS MW,
#: CHARMM OM), and the lone pairs of five-site ones, 0.7 Å from O.
VIRTUAL: Final = frozenset({"EP", "EPW", "EP1", "EP2", "M", "MW", "MW1", "MW2", "OM", "LP", "LP1", "LP2"})
#: Beyond this from its O a site is none of water's [Å].
VIRTUAL_REACH: Final = 1.0
#: Ions of force fields, and of the dictionary: their names and elements. Without a column of elements, or with a name a
#: column further on, SOD reads as sulphur and NA as nitrogen.
IONS: Final = {
    "SOD": "NA", "NA+": "NA", "POT": "K", "K+": "K", "CLA": "CL", "CL-": "CL", "CES": "CS", "CS+": "CS", "LIT": "LI",
    "LI+": "LI", "RUB": "RB", "RB+": "RB", "CAL": "CA", "CA2+": "CA", "BAR": "BA", "CAD": "CD", "ZN2": "ZN",
    "ZN2+": "ZN", "MG2+": "MG", "CIM": "CL", "CIP": "NA", "IB": "I",
    **{name: name for name in "LI NA K RB CS MG CA SR BA MN FE CO NI CU ZN CD HG CL BR".split()},  # noqa: SIM905
}  # fmt: skip

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


def is_water(residue: gemmi.Residue) -> bool:
    """Whether a residue is water: by gemmi, or by a force field's name and its elements."""
    if residue.entity_type == gemmi.EntityType.Water or residue.is_water():
        return True
    return residue.name.upper() in WATERS and {atom.element.name for atom in residue} <= {"O", "H", "D", "X"}


def without_virtual(structure: gemmi.Structure) -> int:
    """Leave out the sites of waters that are no atoms, give ions of force fields their elements; return how many sites.

    A site is left out where its name is one of ``VIRTUAL``, or its element is none, and it lies within 1 Å of an O of
    its water that is not such a site.
    """
    left = 0
    for residue in (residue for model in structure for chain in model for residue in chain):
        if len(residue) == 1 and residue.name.upper() == residue[0].name.upper() in IONS:
            residue[0].element = gemmi.Element(IONS[residue.name.upper()])
        elif len(residue) > 1 and is_water(residue):
            sites = [atom.name.upper() in VIRTUAL or atom.element.name == "X" for atom in residue]
            oxygens = [
                atom.pos for atom, site in zip(residue, sites, strict=True) if not site and atom.element.name == "O"
            ]
            for k in range(len(residue) - 1, -1, -1):
                if sites[k] and any(residue[k].pos.dist(place) <= VIRTUAL_REACH for place in oxygens):
                    del residue[k]
                    left += 1
    return left


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
    if name not in NUCLEIC:
        table |= {"O1": "O", "O2": "OXT"}  # ends of chains in GROMACS
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
