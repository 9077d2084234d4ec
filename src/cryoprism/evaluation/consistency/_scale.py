"""The scale of a model: the bonds of a chain together are as long as bonds are, unless the pixel size was wrong."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from . import _emit
from ._case import Case, Offender
from ._chemistry import BACKBONE_ATOMS, backbone_atoms
from ._lean_literals import array, margin_name, row
from ._model import Model
from ._pieces import together
from ._topology import atoms_named, places_of, step

__all__ = ["LEAST_SCALE", "MOST_SCALE", "Lengths", "scale_case", "scale_lengths"]

#: Root of the sum of squared lengths over that of the ideal ones [0.001]; Scale.v holds the same numbers.
LEAST_SCALE, MOST_SCALE = 970, 1030
#: Ideal lengths [0.001 Å] (+ in the next residue): Engh & Huber (1991), and Gelbin et al. (1996), J. Am. Chem. Soc.
#: 118, 519.
PROTEIN = (("N", "CA", 1458), ("CA", "C", 1525), ("C", "+N", 1329))
NUCLEIC = (
    ("P", "O5'", 1593), ("O5'", "C5'", 1425), ("C5'", "C4'", 1510), ("C4'", "C3'", 1524), ("C3'", "O3'", 1423),
    ("O3'", "+P", 1607), ("C4'", "O4'", 1451), ("O4'", "C1'", 1414), ("C1'", "C2'", 1526), ("C2'", "C3'", 1525),
)  # fmt: skip
#: Consecutive Cα of a trans peptide, where a chain is no more than a trace.
TRACE = (("CA", "+CA", 3800),)
#: Fewer say little about an average: the backbone of nine residues, or as many steps of a trace.
_LEAST_BONDS, _LEAST_STEPS = 27, 9
#: A bond that is torn or squeezed further says nothing about the others (the rule about bonds refutes it).
_TORN = 1.4


@dataclass
class Lengths:
    """Bonds that are judged together, by their sum.

    Attributes
    ----------
    words
        Which these are, for example ``bonds of chain A``.
    bonds
        First atom, second atom, ideal length [0.001 Å].
    residues
        First and last residue.
    """

    words: str
    bonds: list[tuple[int, int, int]]
    residues: tuple[int, ...]

    def sums(self, model: Model) -> tuple[int, int]:
        """Return the sums of squares of the lengths, and of the ideal ones [10^-6 Å²]."""
        table = np.array(self.bonds, dtype=np.int64)
        apart = model.points[table[:, 0]] - model.points[table[:, 1]]
        return int((apart**2).sum()), int((table[:, 2] ** 2).sum())


def scale_lengths(model: Model) -> list[Lengths]:
    """Return what is judged: the backbone's bonds of each chain, or steps of a Cα trace; short chains together."""
    found: list[Lengths] = []
    small: list[tuple[int, int, int]] = []
    within: list[int] = []
    for chain in places_of(model):
        bonds = _bonds(model, chain, PROTEIN) + _bonds(model, chain, NUCLEIC)
        steps = [] if bonds else _bonds(model, chain, TRACE)
        ends = tuple(dict.fromkeys((chain[0][0], chain[-1][-1])))
        name = model.residues[chain[0][0]].chain.strip()
        of = f" of chain {name}" if name else ""
        if len(bonds) >= _LEAST_BONDS:
            found.append(Lengths(f"bonds{of}", bonds, ends))
        elif len(steps) >= _LEAST_STEPS:
            found.append(Lengths(f"steps from one Cα to the next{of}", steps, ends))
        elif bonds:
            small += bonds
            within += ends
    if len(small) >= _LEAST_BONDS:
        found.append(Lengths("bonds of the short chains", small, tuple(dict.fromkeys((within[0], within[-1])))))
    return found


def _bonds(model: Model, chain: list[list[int]], kinds: tuple[tuple[str, str, int], ...]) -> list[tuple[int, int, int]]:
    """Bonds of one kind of polymer along a chain; alternatives go with their own."""
    backbone = BACKBONE_ATOMS["nucleic" if kinds is NUCLEIC else "protein"]
    found = []
    for n, place in enumerate(chain):
        following = chain[n + 1] if n + 1 < len(chain) else []
        for index in place:
            if not _is_of(model, index, backbone):
                continue
            nexts = [k for k in following if step(model, index, k) == 1 and _is_of(model, k, backbone)]
            for one, other, ideal in kinds:
                residues = nexts if other.startswith("+") else [index]
                first = atoms_named(model, model.residues[index], one)
                second = [i for k in residues for i in atoms_named(model, model.residues[k], other.removeprefix("+"))]
                found += [
                    (i, j, ideal)
                    for i, j in itertools.product(first, second)
                    if together(model, i, j) and ideal / _TORN <= _apart(model, i, j) <= ideal * _TORN
                ]
    return found


def _is_of(model: Model, index: int, backbone: tuple[str, ...]) -> bool:
    return backbone_atoms(model.residues[index].standard) == backbone


def _apart(model: Model, i: int, j: int) -> float:
    """Distance [0.001 Å]."""
    return math.dist(model.points[i], model.points[j])


def scale_case(model: Model) -> Case:
    """Return the rule: one obligation for each chain that has bonds enough, one for all others together.

    Where coordinates are rounded to 0.001 Å, each bond is right to 0.002 Å, and bonds of 1.3 Å and more together to 2
    in 1,000 (the triangle inequality of their lengths as one vector).
    """
    groups = scale_lengths(model)
    slacks = (0,) if model.exact else (2, -2)
    sums = [group.sums(model) for group in groups]
    found = {slack: [k for k, one in enumerate(sums) if not _within(*one, slack)] for slack in slacks}
    refuted = set(found[slacks[-1]])
    offenders = []
    for k in sorted(refuted):
        squares, ideals = sums[k]
        scale = math.sqrt(squares / ideals)
        how = "long" if scale > 1 else "short"
        words = (
            f"The {groups[k].words} are {100 * abs(scale - 1):.1f} % too {how} on average: the model is at the wrong "
            f"scale, as with a wrong pixel size; possible are {100 - LEAST_SCALE / 10:.0f} % either way"
        )
        offenders.append(Offender(words, groups[k].residues, (), scale))
    bonds = [group.bonds for group in groups]
    return Case(
        "scale",
        [group.residues[0] for group in groups],
        refuted,
        set(found[slacks[0]]) - refuted,
        offenders,
        _emit.scale_source(bonds, found),
        _note(sums),
        _lean(bonds, found),
    )


def _within(squares: int, ideals: int, slack: int) -> bool:
    """As ``in_scale`` in Scale.v."""
    low, high = LEAST_SCALE + slack, MOST_SCALE - slack
    return low * low * ideals <= 1_000_000 * squares <= high * high * ideals


def _note(sums: list[tuple[int, int]]) -> str:
    scales = [math.sqrt(squares / ideals) for squares, ideals in sums]
    if not scales:
        return ""
    low, high = f"{min(scales):.4f}", f"{max(scales):.4f}"
    return f"lengths over ideal ones, root mean square: {low if low == high else f'{low} to {high}'}"


def _lean(groups: list[list[tuple[int, int, int]]], found: dict[int, list[int]]) -> str:
    """Return the rule as Lean source: a table of bonds for each obligation."""
    text = "".join(
        array(f"scale{number}", "Nat × Nat × Int", [row(bond) for bond in bonds]) for number, bonds in enumerate(groups)
    )
    text += array("scale", "Array (Nat × Nat × Int)", [f"scale{number}" for number in range(len(groups))])
    text += (
        "def squares (u : Array (Nat × Nat × Int)) : Int :=\n"
        "  u.foldl (fun v b => v + d2 (at' atoms b.1) (at' atoms b.2.1)) 0\n\n"
        "def ideals (u : Array (Nat × Nat × Int)) : Int :=\n"
        "  u.foldl (fun v b => v + b.2.2^2) 0\n\n"
    )
    for slack, numbers in found.items():
        name = f"scale{margin_name(slack)}"
        low, high = f"({LEAST_SCALE} + ({slack}))^2 * ideals q", f"({MOST_SCALE} - ({slack}))^2 * ideals q"
        text += (
            f"def {name}Failing : List Nat := {numbers}\n\n"
            f"theorem {name}_exact : (List.range scale.size).filter\n"
            f"    (fun k => let q := scale.getD k #[]; !(decide ({low} ≤ 1000000 * squares q) &&\n"
            f"      decide (1000000 * squares q ≤ {high})))\n"
            f"    = {name}Failing := by native_decide\n\n"
        )
    return text
