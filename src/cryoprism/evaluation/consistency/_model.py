"""A model as the rules see it: coordinates in units of 0.001 Å, residues in their order, bonds that are recorded."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError
from cryoprism.formats import parse_structure

from ._chemistry import ACCEPTORS, METALS, backbone_atoms, template_bonds
from ._declared import Declared, declared_in_mmcif, declared_in_pdb, text_of
from ._links import Link, address_of, codes_in_mmcif, codes_in_pdb, links_in_conect, links_of
from ._molecules import Standing, molecules_of, standing_in_pdb, with_repeats_apart
from ._names import standard_atoms, standard_name, without_virtual
from ._roles import roles_of

__all__ = ["Model", "Residue", "read_model"]

#: Atom numbers have 20 bits, coordinates 21 bits from a corner that lies 10 Å outside.
MOST_ATOMS = 1 << 20
_CORNER = 10_000
_SIDE = 2_093_000 - _CORNER


@dataclass(frozen=True)
class Residue:
    """One residue: its names, what it belongs to, and its atoms ``start`` to ``stop``."""

    chain: str
    name: str
    number: int
    insertion: str
    position: int | None  # in the declared sequence, from 1
    role: str  # polymer, ligand or water
    start: int
    stop: int
    subchain: str = ""  # asym id of mmCIF
    standard: str = ""  # name of its template, where force fields have others for it
    molecule: int = 0  # number among the molecules of its chain that TER, segments or numbers tell apart


@dataclass(frozen=True)
class Model:
    """A model as the rules see it.

    Attributes
    ----------
    points
        (n, 3) int64, in units of 0.001 Å from ``corner`` (same units); all are positive.
    residue_of, kinds, alternatives, occupancies
        (n,) int64: index into ``residues``; 0 heavy, 1 acceptor, 2 metal, 3 hydrogen, 4 water; letter of the
        alternative location, 0 for none; occupancy in thousandths.
    exact
        Whether the file's coordinates have no more than three decimals.
    sequences
        Declared residue names of each chain (SEQRES, entity_poly_seq), where there are any.
    links
        Bonds that the file records.
    declared
        What the file says about itself.
    virtual_sites
        Sites of waters that are no atoms, and left out.
    doubts
        Residues of which the file does not tell whether another molecule begins with them, and why.
    written
        Names of the atoms as the file has them; ``names`` are those of the templates.
    """

    path: Path
    points: NDArray[np.int64]
    corner: NDArray[np.int64]
    residue_of: NDArray[np.int64]
    kinds: NDArray[np.int64]
    alternatives: NDArray[np.int64]
    occupancies: NDArray[np.int64]
    names: tuple[str, ...]
    elements: tuple[str, ...]
    residues: tuple[Residue, ...]
    exact: bool
    models_in_file: int
    sequences: dict[str, tuple[str, ...]]
    links: tuple[Link, ...]
    declared: Declared
    structure: gemmi.Structure = field(repr=False)
    virtual_sites: int = 0
    doubts: tuple[tuple[int, str], ...] = ()
    written: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        """Return the number of atoms."""
        return len(self.names)


def _kind(element: str, role: str) -> int:
    if element in {"H", "D"}:
        return 3
    if element in METALS:
        return 2
    if role == "water":
        return 4
    return 1 if element in ACCEPTORS else 0


def _join_polymers(structure: gemmi.Structure) -> None:
    """Make residues of a polymer what gemmi takes for ligands because they stand after a TER in their chain.

    Some programs write TER at every gap. What is written as ATOM and has a backbone belongs to the polymer.
    """
    joined = False
    for residue in (residue for model in structure for chain in model for residue in chain):
        if residue.entity_type != gemmi.EntityType.NonPolymer or residue.het_flag != "A":
            continue
        names = {atom.name.replace("*", "'") for atom in residue}
        if backbone_atoms(residue.name) and (names >= {"N", "CA", "C"} or names >= {"C3'", "C4'"}):
            residue.entity_type = gemmi.EntityType.Polymer
            joined = True
    if joined:  # the sequence is aligned to what shares a subchain
        structure.assign_subchains(force=True)


def read_model(path: str | os.PathLike[str]) -> Model:
    """Read the first model of a PDB or mmCIF file.

    Raises
    ------
    InputError
        Not a structure, no atoms, coordinates that are not finite, or more than the provers' numbers can hold.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(file, "does not exist", "Give a PDB or mmCIF file.")
    try:
        structure, declared, codes, standing, repeats = _read(file)
    except (RuntimeError, ValueError, OSError, EOFError) as error:
        raise InputError(file, f"is not a readable structure ({error})"[:300], "Give a PDB or mmCIF file.") from error
    if not len(structure) or not structure[0].count_atom_sites():
        raise InputError(file, "holds no atoms", "Give a PDB or mmCIF file with coordinates.")
    if structure.input_format == gemmi.CoorFormat.Pdb:
        _join_polymers(structure)
    virtual = without_virtual(structure)
    structure.setup_entities()
    structure.assign_label_seq_id()
    first = structure[0]
    positions: list[tuple[float, float, float]] = []
    residue_of: list[int] = []
    kinds: list[int] = []
    alternatives: list[int] = []
    occupancies: list[float] = []
    names: list[str] = []
    written: list[str] = []  # as the file has them
    elements: list[str] = []
    residues: list[Residue] = []
    sequences = _sequences(structure)
    doubts: list[tuple[int, str]] = []
    for chain in first:
        stands = standing.get(chain.name, [])
        if len(stands) != len(chain):
            stands = [Standing(0, "")] * len(chain)
        roles = roles_of(chain, [one.ter for one in stands])
        polymer = [k for k, role in enumerate(roles) if role == "polymer"]
        molecules: dict[int, int] = {}
        if chain.name not in sequences:  # a declared sequence tells what belongs together
            molecules, open_ends = molecules_of(chain, polymer, stands, repeats=repeats)
            doubts += [(len(residues) + k, words) for k, words in open_ends.items()]
        for place, residue in enumerate(chain):
            role = roles[place]
            start = len(names)
            written += [atom.name for atom in residue]
            standard = standard_name(residue.name, written[start:])
            names += standard_atoms(standard, written[start:])
            for atom in residue:
                element = atom.element.name.upper()
                positions.append((atom.pos.x, atom.pos.y, atom.pos.z))
                residue_of.append(len(residues))
                kinds.append(_kind(element, role))
                alternatives.append(0 if atom.altloc == "\0" else ord(atom.altloc) & 255)
                occupancies.append(atom.occ)
                elements.append(element)
            residues.append(
                Residue(
                    chain.name,
                    residue.name,
                    int(residue.seqid.num or 0),
                    residue.seqid.icode.strip(),
                    residue.label_seq,
                    role,
                    start,
                    len(names),
                    residue.subchain,
                    standard,
                    molecules.get(place, 0),
                )
            )
    waters = {k for of in residues if of.role == "water" for k in range(of.start, of.stop)}
    places = np.array(positions)
    shares = np.array(occupancies)
    if not (np.isfinite(places).all() and np.isfinite(shares).all()):
        bad = int(np.flatnonzero(~(np.isfinite(places).all(axis=1) & np.isfinite(shares)))[0])
        of = residues[residue_of[bad]]
        raise InputError(
            file,
            f"atom {names[bad]} of {of.name} {of.number} in chain {of.chain} has a coordinate or occupancy that is "
            "not a finite number",
            "Correct or delete that atom.",
        )
    if len(names) > MOST_ATOMS:
        raise InputError(file, f"holds {len(names)} atoms", f"Give at most {MOST_ATOMS}, for example chain by chain.")
    if np.abs(places).max() > 1e6:
        raise InputError(file, "holds coordinates beyond 1,000,000 Å", "Correct those atoms.")
    scaled = places * 1000
    whole = np.rint(scaled).astype(np.int64)
    corner = whole.min(axis=0) - _CORNER
    if int((whole - corner).max()) > _SIDE:
        raise InputError(
            file, f"is {(np.ptp(whole, axis=0).max()) / 1000:.0f} Å long", "Give models of at most 2,070 Å."
        )
    molecule_of = [residues[k].molecule for k in residue_of]
    ends = _linked(structure, residues, written)
    links = links_of(structure, ends, elements, alternatives, codes, waters, molecule_of)
    pairs = {(min(one.first, one.second), max(one.first, one.second)) for one in links}
    known = [template_bonds(residue.standard) is not None for residue in residues]
    serials = (atom.serial for chain in first for residue in chain for atom in residue)
    named = [
        (serial, of, element, (residues[of].standard, name) if known[of] else None)
        for serial, of, element, name in zip(serials, residue_of, elements, names, strict=True)
    ]
    links += links_in_conect(structure, named, places, waters, pairs)
    return Model(
        file,
        whole - corner,
        corner,
        np.array(residue_of),
        np.array(kinds),
        np.array(alternatives),
        np.clip(np.rint(shares * 1000), 0, 1000).astype(np.int64),
        tuple(names),
        tuple(elements),
        tuple(residues),
        bool(np.abs(scaled - whole).max() < 1e-5),
        len(structure),
        sequences,
        links,
        declared,
        structure,
        virtual,
        tuple(doubts),
        tuple(written),
    )


def _sequences(structure: gemmi.Structure) -> dict[str, tuple[str, ...]]:
    found = {}
    for chain in structure[0]:
        polymer = chain.get_polymer()
        if len(polymer):
            entity = structure.get_entity_of(polymer)
            if entity is not None and entity.full_sequence:
                found[chain.name] = tuple(entity.full_sequence)
    return found


def _linked(
    structure: gemmi.Structure, residues: list[Residue], names: list[str]
) -> dict[tuple[str, int, str, str, str], list[int]]:
    """Atoms of the residues that have recorded bonds, by chain, number, insertion code, residue and name."""
    ends = {address_of(end)[:4] for link in structure.connections for end in (link.partner1, link.partner2)}
    found: dict[tuple[str, int, str, str, str], list[int]] = {}
    for residue in residues:
        key = (residue.chain, residue.number, residue.insertion, residue.name)
        if key in ends:
            for index in range(residue.start, residue.stop):
                found.setdefault((*key, names[index]), []).append(index)
    return found


def _read(
    file: Path,
) -> tuple[gemmi.Structure, Declared, dict[tuple[str, ...], tuple[str, str]], dict[str, list[Standing]], bool]:
    """Structure, what the file declares, symmetry operators of its links; how residues of a PDB file stand in chains.

    The last is whether residues that repeat others of their chain were told apart.
    """
    text = text_of(file)
    if re.match(r"(\s|#.*\n)*data_", text, re.IGNORECASE):
        block = gemmi.cif.read_string(text)[0]
        if block.find_values("_atom_site.id") or block.find_values("_atom_site.Cartn_x"):
            structure = gemmi.make_structure_from_block(block)
            structure.merge_chain_parts()
            return structure, declared_in_mmcif(block, text), codes_in_mmcif(block), {}, False
    structure = parse_structure(file)
    if structure.input_format != gemmi.CoorFormat.Pdb:
        return structure, declared_in_pdb(text), codes_in_pdb(text), {}, False
    apart = with_repeats_apart(text)
    if apart != text:
        structure = gemmi.read_pdb_string(apart)
        structure.merge_chain_parts()
    return structure, declared_in_pdb(text), codes_in_pdb(text), standing_in_pdb(apart), apart != text
