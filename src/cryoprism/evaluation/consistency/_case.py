"""What comes of one rule: its obligations, the ones that fail, and the atoms that make them fail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._model import Model

__all__ = ["RULES", "WEIGHTS", "Case", "Offender", "spread"]

#: Name of a rule, what it says, what one obligation is.
RULES = {
    "clashes": ("Atoms keep apart", "residue"),
    "bonds": ("Bonds and angles are possible", "bond or angle"),
    "chains": ("Chains are unbroken: consecutive Cα and P", "step of a chain"),
    "scale": ("Bonds are as long on average as bonds are: the scale is right", "chain"),
    "chirality": ("Residues and helices have the right hand, planar groups are flat", "centre or peptide bond"),
    "cis_peptides": ("Peptide bonds are trans, but before proline", "peptide bond"),
    "copies": ("Symmetry copies do not overlap", "residue"),
    "envelope": ("The model lies within its map", "residue"),
    "placement": ("The model stands where its map is dense", "comparison"),
    "numbering": ("Sequence and numbers agree", "comparison"),
    "completeness": ("Nothing is missing or doubled: backbones, atoms, what the file declares", "comparison"),
    "ligands": ("Ligands touch something", "ligand"),
}
#: Weight of one obligation in the score: a residue has about eight bonds and four angles, three comparisons, and three
#: to five volumes.
WEIGHTS = {
    "clashes": 1.0,
    "bonds": 0.125,
    "chains": 1.0,
    "scale": 1.0,
    "chirality": 1 / 3,
    "cis_peptides": 0.5,
    "copies": 1.0,
    "envelope": 1.0,
    "placement": 1.0,
    "numbering": 1 / 3,
    "completeness": 1 / 3,
    "ligands": 1.0,
}


@dataclass(frozen=True)
class Offender:
    """Why an obligation fails: in words, its residues and atoms (numbers from 0), and what was measured."""

    words: str
    residues: tuple[int, ...]
    atoms: tuple[int, ...]
    value: float | None


@dataclass
class Case:
    """One rule of one model.

    Attributes
    ----------
    residues
        The residue that each obligation counts for.
    refuted, borderline
        Obligations that fail; and that cannot be told because of rounding.
    offenders
        What refutes them.
    source
        Coq source of the theorems.
    why
        Why the borderline ones cannot be told.
    """

    name: str
    residues: list[int]
    refuted: set[int]
    borderline: set[int]
    offenders: list[Offender]
    source: str
    note: str = ""
    lean: str = ""
    why: str = "distances that rounding to 0.001 Å leaves open."


def spread(model: Model, i: int, j: int, moved: NDArray[np.int64] | None = None) -> float:
    """Distance of two atoms [Å]; of the first where it was ``moved`` to [0.001 Å]."""
    start = model.points[i] if moved is None else moved
    return float(np.linalg.norm(start - model.points[j])) / 1000
