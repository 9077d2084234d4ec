"""Atomic models from PDB and mmCIF through gemmi: asymmetric unit, biological assembly, NCS or whole unit cell."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
import torch
from torch import Tensor

from cryoprism.core import InputError

from ._files import existing_file, read_text

__all__ = ["Atoms", "parse_structure", "read_structure"]


@dataclass(frozen=True)
class Atoms:
    """Atoms of a structure, one entry per atom site (alternative places are separate sites with their occupancies).

    positions_in_angstroms
        (n, 3) as x, y, z in the file's orthogonal frame.
    atomic_numbers
        (n,) int64; 0 where the element is unknown.
    b_factors_in_square_angstroms, occupancies
        (n,) float32; an anisotropic site gives its equivalent isotropic B.
    models
        (n,) int64, from 0.
    atom_names, residue_names, residue_numbers, chains
        One per atom; chains of an expanded structure are named apart by gemmi (A, A2 …).
    """

    positions_in_angstroms: Tensor
    atomic_numbers: Tensor
    b_factors_in_square_angstroms: Tensor
    occupancies: Tensor
    models: Tensor
    atom_names: tuple[str, ...]
    residue_names: tuple[str, ...]
    residue_numbers: tuple[int, ...]
    chains: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of atoms."""
        return len(self.atom_names)

    def select(self, keep: Tensor) -> Atoms:
        """Return the atoms where the boolean tensor ``keep`` (n,) is True."""
        index = torch.nonzero(keep).flatten()
        places = index.tolist()
        return Atoms(
            self.positions_in_angstroms[index],
            self.atomic_numbers[index],
            self.b_factors_in_square_angstroms[index],
            self.occupancies[index],
            self.models[index],
            tuple(self.atom_names[i] for i in places),
            tuple(self.residue_names[i] for i in places),
            tuple(self.residue_numbers[i] for i in places),
            tuple(self.chains[i] for i in places),
        )


def read_structure(
    path: str | os.PathLike[str],
    assembly: str | None = None,
    *,
    include_waters: bool = True,
    include_hydrogens: bool = True,
) -> Atoms:
    """Read a PDB or mmCIF file, gzipped or not.

    Parameters
    ----------
    path
        ``.pdb``, ``.ent``, ``.cif`` or ``.mmcif``, with or without ``.gz``; the content decides.
    assembly
        None: the coordinates as they stand. ``"1"``, ``"2"`` …: the biological assembly of that name (BIOMT, mmCIF
        assemblies), of every model. ``"ncs"``: the non-crystallographic operators that are not yet applied. ``"cell"``:
        all copies of one crystallographic unit cell, as the space group gives them.
    include_waters, include_hydrogens
        False leaves HOH, or H and D, out.

    Raises
    ------
    InputError
        Not a structure, no atoms, no such assembly (those that exist are named), or no unit cell to expand.
    """
    file = existing_file(path)
    structure = parse_structure(file)
    structure.setup_entities()
    if assembly is not None:
        structure = _expanded(structure, assembly, file)
    if not include_waters:
        structure.remove_waters()
    if not include_hydrogens:
        structure.remove_hydrogens()
    return _collect(structure, file)


def parse_structure(path: str | os.PathLike[str]) -> gemmi.Structure:
    """Return all that gemmi finds in a PDB or mmCIF file, plain or compressed.

    gemmi takes coordinates of a PDB file that are no numbers (``********`` of a program that ran out of columns) for 0;
    here they are an error.

    Raises
    ------
    InputError
        Not a structure, an empty file, or coordinates that are no numbers, with the line.
    """
    file = existing_file(path)
    if not file.stat().st_size:
        raise InputError(file, "is empty", "Give a PDB or mmCIF file.")
    try:
        structure = gemmi.read_structure(os.fspath(file), format=gemmi.CoorFormat.Detect)
    except (RuntimeError, ValueError, OSError, EOFError) as error:
        raise InputError(file, f"is not a readable structure ({error})"[:300], "Give a PDB or mmCIF file.") from error
    if structure.input_format == gemmi.CoorFormat.Pdb:
        _require_numbers(file)
    return structure


def _require_numbers(file: Path) -> None:
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if line.startswith(("ATOM  ", "HETATM")):
            try:
                float(line[30:38]), float(line[38:46]), float(line[46:54])
            except ValueError:
                found = f"has '{line[30:54].strip()}' in place of coordinates in line {number}"
                raise InputError(file, found, "Give a number with three decimals for x, y and z.") from None


def _expanded(structure: gemmi.Structure, assembly: str, file: object) -> gemmi.Structure:
    naming = gemmi.HowToNameCopiedChain.AddNumber
    if assembly == "ncs":
        structure.expand_ncs(naming)
        return structure
    if assembly == "cell":
        if not structure.cell.is_crystal() or structure.find_spacegroup() is None:
            raise InputError(
                file, "has no unit cell or no space group", "Leave the assembly out, or name a biological one."
            )
        structure.expand_ncs(naming)
        chosen = gemmi.Assembly("cell")
        generator = gemmi.Assembly.Gen()
        generator.chains = sorted({chain.name for model in structure for chain in model})
        frac, orth = structure.cell.frac, structure.cell.orth
        for transform in [gemmi.Transform(), *(orth.combine(image).combine(frac) for image in structure.cell.images)]:
            operator = gemmi.Assembly.Operator()
            operator.transform = transform
            generator.operators.append(operator)
        chosen.generators.append(generator)
    else:
        found = [item for item in structure.assemblies if item.name == assembly]
        if not found:
            names = ", ".join(item.name for item in structure.assemblies) or "none"
            raise InputError(
                file, f"has no assembly '{assembly}' (it has: {names})", "Name one of these, or leave it out."
            )
        chosen = found[0]
    result = structure.clone()
    while len(result):
        del result[0]
    for model in structure:
        copy = gemmi.make_assembly(chosen, model, naming)
        copy.num = model.num
        result.add_model(copy)
    return result


def _collect(structure: gemmi.Structure, file: object) -> Atoms:
    positions: list[tuple[float, float, float]] = []
    numbers: list[int] = []
    b_factors: list[float] = []
    occupancies: list[float] = []
    models: list[int] = []
    names: list[str] = []
    residues: list[str] = []
    sequence: list[int] = []
    chains: list[str] = []
    for index, model in enumerate(structure):
        for site in model.all():
            atom = site.atom
            positions.append((atom.pos.x, atom.pos.y, atom.pos.z))
            numbers.append(atom.element.atomic_number)
            b_factors.append(atom.b_iso)
            occupancies.append(atom.occ)
            models.append(index)
            names.append(atom.name)
            residues.append(site.residue.name)
            sequence.append(int(site.residue.seqid.num or 0))
            chains.append(site.chain.name)
    if not positions:
        raise InputError(file, "holds no atoms", "Give a PDB or mmCIF file with coordinates.")
    coordinates = np.array(positions, dtype=np.float32)
    if not np.isfinite(coordinates).all():
        raise InputError(file, "holds coordinates that are not finite", "Correct or delete those atoms.")
    return Atoms(
        torch.from_numpy(coordinates),
        torch.tensor(numbers, dtype=torch.int64),
        torch.tensor(b_factors, dtype=torch.float32),
        torch.tensor(occupancies, dtype=torch.float32),
        torch.tensor(models, dtype=torch.int64),
        tuple(names),
        tuple(residues),
        tuple(sequence),
        tuple(chains),
    )
