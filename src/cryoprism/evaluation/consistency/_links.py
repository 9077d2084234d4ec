"""Bonds that the file records: their atoms, the range that the elements allow, and which symmetry copy is meant."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

import gemmi
import numpy as np
from numpy.typing import NDArray

from ._chemistry import METALS, link_range

__all__ = ["Link", "address_of", "codes_in_mmcif", "codes_in_pdb", "links_in_conect", "links_of"]

#: Carbon and nitrogen that chains and side chains of standard residues join by, as residue and atom.
_ACYL = frozenset({("ASP", "CG"), ("ASN", "CG"), ("GLU", "CD"), ("GLN", "CD")})
_AMINE = ("LYS", "NZ")
#: Rotation and shift of fractional coordinates.
Operator = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Link:
    """A recorded bond.

    Attributes
    ----------
    first, second
        Numbers of the atoms.
    least, most
        Range of its length by the elements [Å].
    covalent
        Whether no metal takes part.
    images
        None within the model. Else where the copy of the second atom lies that is bonded to the first, and that of the
        first that is bonded to the second [Å]; empty where no copy is as near as the record says.
    """

    first: int
    second: int
    least: float
    most: float
    covalent: bool
    images: tuple[tuple[float, float, float], ...] | None = None
    conect: bool = False  # whether CONECT alone has it


def links_of(
    structure: gemmi.Structure,
    atoms: dict[tuple[str, int, str, str, str], list[int]],
    elements: list[str],
    alternatives: list[int],
    codes: dict[tuple[str, ...], tuple[str, str]],
    waters: Set[int] = frozenset(),
    molecules: Sequence[int] = (),
) -> tuple[Link, ...]:
    """Find the recorded bonds.

    ``codes`` are the symmetry operators of both ends, by the names of the atoms; ``waters`` the atoms of waters,
    ``molecules`` the number of each atom's molecule in its chain: where one address names atoms of several, those of
    one molecule are bonded.
    """
    found = []
    for link in structure.connections:
        if link.type == gemmi.ConnectionType.Hydrog:
            continue
        ends = [address_of(partner) for partner in (link.partner1, link.partner2)]
        shared: set[int] = set()
        if molecules:
            one, other = ({molecules[k] for k in atoms.get(end, ())} for end in ends)
            shared = one & other if len(one) + len(other) > 2 else set()
        for i in atoms.get(ends[0], ()):
            for j in atoms.get(ends[1], ()):
                if shared and molecules[i] != molecules[j]:
                    continue
                if alternatives[i] and alternatives[j] and alternatives[i] != alternatives[j]:
                    continue
                least, most, covalent = link_range(elements[i], elements[j])
                if {i, j} & waters and not {elements[i], elements[j]} & METALS:
                    least, most, covalent = 1.0, 0.0, False  # water has no bonds but to metals: no length is one
                images = None
                if link.asu == gemmi.Asu.Different:
                    stated = codes.get((*map(str, ends[0]), *map(str, ends[1])), ("", ""))
                    images = _images(structure, link, stated)
                elif i == j:
                    continue
                found.append(Link(i, j, least, most, covalent, images))
    return tuple(found)


def links_in_conect(
    structure: gemmi.Structure,
    atoms: Sequence[tuple[int, int, str, tuple[str, str] | None]],
    places: NDArray[np.float64],
    waters: Set[int],
    known: Set[tuple[int, int]],
) -> tuple[Link, ...]:
    """Find the bonds between residues that CONECT records of a PDB file add to ``known`` ones.

    ``atoms`` are serial number, residue, element of each, and where a template knows its residue the names of both;
    numbers that are used twice name no atom, and water is bonded to metals alone. Some programs write CONECT by
    distance, clashes too: between two residues of templates only amides count (disulfides are found anyway). Serials go
    stale when a file is edited, so a CONECT whose atoms are not as far apart as a bond of their elements is none: it
    exempts nothing, and nothing is refuted by it.
    """
    numbers: dict[int, int] = {}
    for index, (serial, *_) in enumerate(atoms):
        numbers[serial] = -1 if serial in numbers else index
    found = {}
    for serial, others in structure.conect_map.items():
        for other in others:
            i, j = sorted((numbers.get(serial, -1), numbers.get(other, -1)))
            if i < 0 or atoms[i][1] == atoms[j][1] or (i, j) in known:
                continue
            if not _possible(atoms[i][3], atoms[j][3]):
                continue
            elements = {atoms[i][2], atoms[j][2]}
            if {i, j} & waters and not elements & METALS:
                continue
            least, most, covalent = link_range(atoms[i][2], atoms[j][2])
            fits = least <= float(np.linalg.norm(places[i] - places[j])) <= most
            found[(i, j)] = Link(i, j, least, most, covalent and fits, conect=True)
    return tuple(found[key] for key in sorted(found))


def _possible(one: tuple[str, str] | None, other: tuple[str, str] | None) -> bool:
    """Whether two atoms (residue, atom; None without template) may be bonded: those of templates by amides alone."""
    if one is None or other is None:
        return True
    acyl, amine = ([each for each in (one, other) if test(each)] for test in (_is_acyl, _is_amine))
    return bool(acyl and amine)


def _is_acyl(name: tuple[str, str]) -> bool:
    return name[1] == "C" or name in _ACYL


def _is_amine(name: tuple[str, str]) -> bool:
    return name[1] == "N" or name == _AMINE


def address_of(partner: gemmi.AtomAddress) -> tuple[str, int, str, str, str]:
    """Chain, number, insertion code, residue and atom of one end."""
    seqid = partner.res_id.seqid
    return (
        partner.chain_name,
        int(seqid.num or 0),
        seqid.icode.strip(),
        partner.res_id.name,
        partner.atom_name,
    )


def codes_in_pdb(text: str) -> dict[tuple[str, ...], tuple[str, str]]:
    """Symmetry operators of LINK and SSBOND records, such as 1555 and 3655."""
    found = {}
    for line in text.splitlines():
        if line[:6] not in ("LINK  ", "SSBOND"):
            continue
        if line[:4] == "LINK":
            ends = [
                (line[k + 9], line[k + 10 : k + 14], line[k + 14], line[k + 5 : k + 8], line[k : k + 4])
                for k in (12, 42)
            ]
        else:
            ends = [(line[k], line[k + 2 : k + 6], line[k + 6], "CYS", "SG") for k in (15, 29)]
        key = tuple(part.strip() for end in ends for part in end)
        found[key] = (line[59:65].strip(), line[66:72].strip())
    return found


def codes_in_mmcif(block: gemmi.cif.Block) -> dict[tuple[str, ...], tuple[str, str]]:
    """Symmetry operators of struct_conn, such as 1_555 and 3_655."""
    parts = ("ptnr{}_auth_asym_id", "ptnr{}_auth_seq_id", "?pdbx_ptnr{}_PDB_ins_code", "ptnr{}_auth_comp_id")
    names = [part.format(k) for k in (1, 2) for part in (*parts, "ptnr{}_label_atom_id")]
    names += ["ptnr1_symmetry", "ptnr2_symmetry"]
    found = {}
    for row in block.find("_struct_conn.", names):
        values = [gemmi.cif.as_string(row[k]) if row.has(k) else "" for k in range(len(names))]
        found[tuple(values[:10])] = (values[10], values[11])
    return found


def _images(
    structure: gemmi.Structure, link: gemmi.Connection, codes: tuple[str, str]
) -> tuple[tuple[float, float, float], ...]:
    """Where the partners' copies lie: by the operators that are stated, else the nearest copies.

    Programs number operators differently. So the length that the record gives has the last word (0.1 Å): the stated
    operator counts if it gives that length; if not, the nearest copy does if it has that length.
    """
    cell = structure.cell
    atoms = [structure[0].find_cra(partner).atom for partner in (link.partner1, link.partner2)]
    here, there = (np.array(cell.fractionalize(atom.pos).tolist()) for atom in atoms)
    orthogonal = np.array(cell.orth.mat.tolist())
    group = structure.find_spacegroup()
    operators = [] if group is None else [_matrix(op) for op in group.operations()]
    one, other = (_operator(operators, code) for code in codes)
    candidates: list[Operator] = []
    if one is not None and other is not None:
        inverse = np.linalg.inv(one[0])
        candidates.append((inverse @ other[0], inverse @ (other[1] - one[1])))
    nearest: list[tuple[float, int, NDArray[np.float64], NDArray[np.float64]]] = []
    for rotation, shift in operators:
        moved = rotation @ there + shift
        near = np.rint(here - moved)
        for i, j, k in np.ndindex(3, 3, 3):
            step = near + np.array([i, j, k]) - 1
            apart = float(np.linalg.norm(orthogonal @ (moved + step - here)))
            if apart > 1e-3 or link.partner1 != link.partner2:
                nearest.append((apart, len(nearest), rotation, shift + step))
    nearest.sort(key=lambda item: item[:2])
    candidates += [(rotation, shift) for _, _, rotation, shift in nearest[:4] if not _same(rotation, shift)]
    for rotation, shift in candidates:
        moved, back = rotation @ there + shift, np.linalg.inv(rotation) @ (here - shift)
        apart = float(np.linalg.norm(orthogonal @ (moved - here)))
        if not link.reported_distance or abs(apart - link.reported_distance) < 0.1:
            places = [orthogonal @ moved, orthogonal @ back]
            return tuple((float(x), float(y), float(z)) for x, y, z in places)
    return ()


def _same(rotation: NDArray[np.float64], shift: NDArray[np.float64]) -> bool:
    return bool(np.allclose(rotation, np.eye(3)) and np.allclose(shift, 0))


def _matrix(op: gemmi.Op) -> Operator:
    return np.array(op.rot, dtype=float) / op.DEN, np.array(op.tran, dtype=float) / op.DEN


def _operator(operators: list[Operator], code: str) -> Operator | None:
    row = re.fullmatch(r"(\d+?)_?(\d)(\d)(\d)", code)
    if row is None or not 1 <= int(row[1]) <= len(operators):
        return None
    rotation, shift = operators[int(row[1]) - 1]
    return rotation, shift + np.array([int(row[k]) - 5 for k in (2, 3, 4)])
