"""What is known of standard residues: bonds, centres, ranges; and how near atoms come that share no bond."""

from __future__ import annotations

from functools import cache
from typing import Final

import gemmi

__all__ = [
    "ACCEPTORS",
    "AMINO_CENTRES",
    "ANGLE_DISTANCES",
    "BACKBONES",
    "BACKBONE_ATOMS",
    "BONDED_DISTANCES",
    "BOND_RANGES",
    "CENTRES",
    "D_RESIDUES",
    "LEAST_DISTANCES",
    "METALS",
    "NUCLEIC",
    "SIDE_CHAINS",
    "backbone_atoms",
    "bond_range",
    "link_range",
    "sugar_centres",
    "template_bonds",
    "template_centres",
]

#: Bonds of side chains beyond CB, heavy atoms (PDB names).
SIDE_CHAINS: Final = {
    "ALA": "",
    "GLY": "",
    "SER": "CB-OG",
    "CYS": "CB-SG",
    "THR": "CB-OG1 CB-CG2",
    "VAL": "CB-CG1 CB-CG2",
    "LEU": "CB-CG CG-CD1 CG-CD2",
    "ILE": "CB-CG1 CB-CG2 CG1-CD1",
    "PRO": "CB-CG CG-CD CD-N",
    "MET": "CB-CG CG-SD SD-CE",
    "MSE": "CB-CG CG-SE SE-CE",
    "ASP": "CB-CG CG-OD1 CG-OD2",
    "ASN": "CB-CG CG-OD1 CG-ND2",
    "GLU": "CB-CG CG-CD CD-OE1 CD-OE2",
    "GLN": "CB-CG CG-CD CD-OE1 CD-NE2",
    "LYS": "CB-CG CG-CD CD-CE CE-NZ",
    "ARG": "CB-CG CG-CD CD-NE NE-CZ CZ-NH1 CZ-NH2",
    "HIS": "CB-CG CG-ND1 CG-CD2 ND1-CE1 CD2-NE2 CE1-NE2",
    "PHE": "CB-CG CG-CD1 CG-CD2 CD1-CE1 CD2-CE2 CE1-CZ CE2-CZ",
    "TYR": "CB-CG CG-CD1 CG-CD2 CD1-CE1 CD2-CE2 CE1-CZ CE2-CZ CZ-OH",
    "TRP": "CB-CG CG-CD1 CG-CD2 CD1-NE1 NE1-CE2 CD2-CE2 CD2-CE3 CE3-CZ3 CZ3-CH2 CH2-CZ2 CZ2-CE2",
}
_PURINE = "C1'-N9 N9-C8 C8-N7 N7-C5 C5-C6 C6-N1 N1-C2 C2-N3 N3-C4 C4-C5 C4-N9"
_PYRIMIDINE = "C1'-N1 N1-C2 C2-N3 N3-C4 C4-C5 C5-C6 C6-N1 C2-O2"
_BASES = {
    "A": f"{_PURINE} C6-N6",
    "G": f"{_PURINE} C6-O6 C2-N2",
    "I": f"{_PURINE} C6-O6",
    "C": f"{_PYRIMIDINE} C4-N4",
    "U": f"{_PYRIMIDINE} C4-O4",
    "T": f"{_PYRIMIDINE} C4-O4 C5-C7",
}
_SUGAR = "P-OP1 P-OP2 P-O5' O5'-C5' C5'-C4' C4'-O4' C4'-C3' C3'-O3' C3'-C2' C2'-C1' C1'-O4'"
#: Bonds of nucleotides; DNA has a D before its letter.
NUCLEIC: Final = {
    **{base: f"{_SUGAR} C2'-O2' {bonds}" for base, bonds in _BASES.items()},
    **{f"D{base}": f"{_SUGAR} {bonds}" for base, bonds in _BASES.items()},
}
BACKBONES: Final = "N-CA CA-C C-O C-OXT CA-CB"

#: Amino acids of the other hand, by their names in the chemical component dictionary.
D_RESIDUES: Final = {
    "DAL": "ALA", "DAR": "ARG", "DSG": "ASN", "DAS": "ASP", "DCY": "CYS", "DGN": "GLN", "DGL": "GLU", "DHI": "HIS",
    "DIL": "ILE", "DLE": "LEU", "DLY": "LYS", "MED": "MET", "DPN": "PHE", "DPR": "PRO", "DSN": "SER", "DTH": "THR",
    "DTR": "TRP", "DTY": "TYR", "DVA": "VAL",
}  # fmt: skip

#: Range of a bond's length [Å] by its elements: the shortest and longest kinds of Allen et al. (1987), J. Chem. Soc.
#: Perkin Trans. II, S1, and Engh & Huber (1991), Acta Cryst. A47, 392, with about 0.25 Å on both sides.
BOND_RANGES: Final = {
    ("C", "C"): (1.10, 1.80),
    ("C", "N"): (1.05, 1.75),
    ("C", "O"): (1.00, 1.70),
    ("C", "S"): (1.50, 2.10),
    ("C", "SE"): (1.60, 2.25),
    ("S", "S"): (1.75, 2.40),
    ("O", "P"): (1.25, 1.90),
    ("C", "H"): (0.60, 1.35),
    ("H", "N"): (0.60, 1.30),
    ("H", "O"): (0.60, 1.30),
    ("H", "S"): (0.60, 1.60),
}
METALS: Final = frozenset(
    (  # noqa: SIM905
        "LI NA K RB CS BE MG CA SR BA SC Y TI ZR V NB CR MO W MN TC RE FE RU OS CO RH IR NI PD PT CU AG AU ZN CD HG "
        "AL GA IN TL SN PB SB BI LA CE PR ND SM EU GD TB DY HO ER TM YB LU HF TA U TH"
    ).split()
)
#: Elements that take part in hydrogen bonds: hydrogens come nearer to them.
ACCEPTORS: Final = frozenset({"N", "O", "S", "F", "CL", "BR", "I", "SE"})
#: Nearest that atoms without a bond come [Å]; the library Copies.v holds the same numbers. 2.2 and 1.6 Å are what the
#: wwPDB calls close contacts (REMARK 500); metals are coordinated from 1.7 Å, strong hydrogen bonds have 1.2 Å. Three
#: bonds apart nothing comes nearer either (cis O=C-C=O 2.6 Å, O-P-O-C 2.5 Å).
LEAST_DISTANCES: Final = {
    "two atoms": 2.2,
    "metal and other atom": 1.6,
    "metal and C, P or B, without a bond": 1.9,
    "two metals": 2.0,
    "hydrogen and N, O, S or halogen, or metal": 1.2,
    "hydrogen and other atom": 1.6,
}
#: The same for two atoms that are bonded to a third one. From the bonds of Allen et al. (1987) and the angles of rings:
#: F-C-F 2.16 Å, O=N=O 2.17 Å, C-O-C and C-N-N of rings of five 2.1 Å, C-C-C of rings of four 2.05 to 2.15 Å (in rings
#: of three the two share a bond); H-O-H 1.51 Å, 1.34 Å where hydrogens are put at 0.85 Å.
ANGLE_DISTANCES: Final = {"two atoms": 1.9, "metal and other atom": 1.6, "hydrogen and other atom": 1.2}
#: The same for atoms that share a bond, of what elements so ever: N≡N 1.10 Å, C≡O 1.13 Å; H-H 0.74 Å, O-H 0.82 Å; V=O
#: 1.58 Å.
BONDED_DISTANCES: Final = {"two atoms": 0.9, "metal and other atom": 1.4, "hydrogen and other atom": 0.6}
#: Atoms of the backbone along the chain; O is beside C.
BACKBONE_ATOMS: Final = {"protein": ("N", "CA", "C", "O"), "nucleic": ("P", "O5'", "C5'", "C4'", "C3'", "O3'")}

AMINO_CENTRES = {
    "ALL": (("CA", "N", "C", "CB", 1),),
    "THR": (("CB", "CA", "OG1", "CG2", 1),),
    "ILE": (("CB", "CA", "CG1", "CG2", 1),),
}
#: Centres of nucleotides: centre, three neighbours, sign of the volume.
CENTRES: Final = (
    ("C1'", "O4'", "C2'", "N", 1),
    ("C3'", "C2'", "C4'", "O3'", -1),
    ("C4'", "C3'", "C5'", "O4'", -1),
    ("C2'", "C1'", "C3'", "O2'", -1),
)


def bond_range(one: str, other: str) -> tuple[float, float] | None:
    """Range [Å] of a bond between two elements, or None where nothing is known."""
    one, other = ("H" if element == "D" else element for element in (one, other))
    return BOND_RANGES.get((min(one, other), max(one, other)))


def link_range(one: str, other: str) -> tuple[float, float, bool]:
    """Range [Å] of a recorded bond, and whether it is covalent.

    Where ``bond_range`` knows nothing: 0.65 times the sum of the covalent radii of Cordero et al. (2008), Dalton Trans.
    2832, to 0.4 Å beyond it; 0.9 Å beyond it for metals, whose bonds are longer and vary more.
    """
    metal = one in METALS or other in METALS
    limits = bond_range(one, other)
    if limits is not None:
        return (*limits, True)
    radii = float(gemmi.Element(one).covalent_r + gemmi.Element(other).covalent_r)
    # Ni-CO and Fe-CO of hydrogenases and haems 1.7 to 1.8 Å, alkyl and aryl 1.9 Å and more.
    least = max(0.65 * radii, 1.65) if metal and "C" in (one, other) else 0.65 * radii
    return least, radii + (0.9 if metal else 0.4), not metal


def backbone_atoms(name: str) -> tuple[str, ...]:
    """Return the names of a residue's backbone atoms along the chain; none where the residue is not known."""
    if name in NUCLEIC:
        return BACKBONE_ATOMS["nucleic"]
    return BACKBONE_ATOMS["protein"] if D_RESIDUES.get(name, name) in SIDE_CHAINS else ()


@cache
def template_bonds(name: str) -> tuple[tuple[str, str], ...] | None:
    """Bonds of a residue between heavy atoms by their names, or None where the residue is not known."""
    name = D_RESIDUES.get(name, name)
    if name in SIDE_CHAINS:
        text = BACKBONES.removesuffix(" CA-CB") if name == "GLY" else f"{BACKBONES} {SIDE_CHAINS[name]}"
    elif name in NUCLEIC:
        text = NUCLEIC[name]
    else:
        return None
    pairs = [tuple(bond.split("-")) for bond in text.split()]
    return tuple((first, second) for first, second in pairs)


@cache
def template_centres(name: str) -> list[tuple[str, str, str, str, int]]:
    """Chiral centres of a residue: centre, three neighbours, and the sign that their volume has to have."""
    if name in NUCLEIC:
        return sugar_centres("N9" if name[-1] in "AGI" else "N1")
    parent = D_RESIDUES.get(name, name)
    if parent not in SIDE_CHAINS or parent == "GLY":
        return []
    centres = list(AMINO_CENTRES["ALL"])
    centres += AMINO_CENTRES.get(parent, ())  # D-threonine and D-isoleucine are mirror images in whole
    return [(a, b, c, d, sign if name == parent else -sign) for a, b, c, d, sign in centres]


def sugar_centres(base: str) -> list[tuple[str, str, str, str, int]]:
    """Chiral centres of ribose and deoxyribose; ``base`` is the atom that C1' bears."""
    return [(a, b, c, base if d == "N" else d, sign) for a, b, c, d, sign in CENTRES]
