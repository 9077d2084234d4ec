"""Coq source of a model's data and of one theorem for each rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ._envelope import Envelope
from ._model import Model
from ._rules import Distances, Fours, Numbers
from ._symmetry import Copies, Scope

__all__ = [
    "HEADER",
    "asked_source",
    "clash_source",
    "copies_source",
    "data_source",
    "distances_source",
    "envelope_source",
    "fitting",
    "fours_source",
    "ligands_source",
    "numbers_source",
    "scale_source",
]

_CHUNK, _BLOCK = 4000, 16
#: Of one number of a comparison, as Packing.v reads it.
_NUMBER_BITS = 30
#: What stands before the theorems of a file.
HEADER = """From Coq Require Import ZArith List Bool Uint63.
From CryoPrism Require Import Points Copies Mates Local Ligands Scale Packing.
From Model Require Import Data.
Import ListNotations.
Open Scope Z_scope.
"""


def _ints(name: str, values: Iterable[int]) -> str:
    """One list of machine integers, in blocks of sixteen and pieces: Coq reads long lists slowly and deeply."""
    numbers = [str(value) for value in np.asarray(list(values), dtype=np.int64).tolist()]
    whole = len(numbers) // _BLOCK * _BLOCK
    text = ""
    parts: list[str] = []
    for start in range(0, whole, _CHUNK):
        stop = min(start + _CHUNK, whole)
        rows = [" ".join(numbers[k : k + _BLOCK]) for k in range(start, stop, _BLOCK)]
        blocks = f"(Block {' (Block '.join(rows)} Stop{')' * len(rows)}"
        text += f"Definition {name}_{len(parts)} : block := {blocks}%uint63.\n"
        parts.append(f"unpacked {name}_{len(parts)}")
    rest = "".join(f"{number}::" for number in numbers[whole:])
    text += f"Definition {name}_rest : list int := ({rest}nil)%uint63.\n"
    return f"{text}Definition {name} : list int := {' ++ '.join([*parts, f'{name}_rest'])}.\n"


def _numbers(values: Iterable[int]) -> str:
    return "[" + "; ".join(str(value) for value in values) + "]"


def _pairs(pairs: Sequence[tuple[int, ...]]) -> str:
    if not pairs:
        return "nil"
    return "(" + " :: ".join("(" + ", ".join(map(str, pair)) + ")" for pair in pairs) + " :: nil)%uint63"


def _int(value: int) -> str:
    return f"{value % (1 << 63)}%uint63"


def _proof(name: str, statement: str, by: str) -> str:
    return (
        f"Theorem {name} :\n  {statement}.\nProof. apply {by}. vm_cast_no_check (eq_refl true). Qed.\nCheck {name}.\n"
    )


def data_source(model: Model) -> str:
    """Return the atoms."""
    x, y, z = model.points.T
    words = (x << 42) | (y << 21) | z
    more = (model.residue_of << 32) | (model.kinds << 24) | (model.alternatives << 16) | model.occupancies
    packed = np.stack([words, more], axis=1).ravel()
    return (
        # No word of the user's files goes into a proof: a name may end a comment and go on as Coq.
        f"(* {len(model)} atoms, 0.001 Å from ({', '.join(map(str, model.corner))}) *)\n"
        "From Coq Require Import List Uint63.\nFrom CryoPrism Require Import Points.\nImport ListNotations.\n"
        f"{_ints('packed', packed)}Definition atoms : list atom := decode_all 0%uint63 packed.\n"
    )


def clash_source(bonds: Sequence[tuple[int, int]], found: dict[int, list[tuple[int, int]]]) -> str:
    """Return the theorem that a list of clashes is complete and right, for each margin [0.001 Å]."""
    table = np.array(bonds, dtype=np.int64).reshape(-1, 2)
    text = _ints("packed_bonds", (table[:, 0] << 36) | (table[:, 1] << 16))
    text += "Definition bonds := bonds_from packed_bonds.\n"
    for margin, pairs in found.items():
        name = _suffix(margin)
        text += f"Definition found{name} : list (int * int) := {_pairs(pairs)}.\n"
        second = (
            f"(forall i j, In (i, j) found{name} -> exists a b,\n"
            f"     In a atoms /\\ In b atoms /\\ id a = i /\\ id b = j /\\ clashing {_int(margin)} bonds a b)"
        )
        first = (
            "(forall a b, In a atoms -> In b atoms -> to_Z (id a) < to_Z (id b) ->\n"
            f"     clashing {_int(margin)} bonds a b -> In (id a, id b) found{name})\n  /\\ "
        )
        if margin < 0:
            text += _proof(f"clashes{name}", second, "clashes_sure")
        else:
            text += _proof(f"clashes{name}", first + second, "clashes_exact")
    return text


def _suffix(margin: int) -> str:
    return "" if margin == 0 else f"_within_{margin}" if margin > 0 else f"_beyond_{-margin}"


def _operation(rows: tuple[tuple[int, int, int, int], ...], scope: tuple[Scope, Scope] = ((), ())) -> str:
    text = " ".join("(Row " + " ".join(f"({value})" for value in row) + ")" for row in rows)
    return f"Op {text} {_pairs(scope[0])} {_pairs(scope[1])}"


def copies_source(
    model: Model,
    copies: Copies,
    joined: Sequence[tuple[int, int, int]],
    found: dict[int, list[tuple[int, int, int]]],
) -> str:
    """Return the theorem about overlaps with symmetry copies; with a negative margin, of those that are sure."""
    operations = zip(copies.operations, copies.scopes, strict=True)
    ops = ";\n  ".join(f"({number}%uint63, {_operation(*one)})" for number, one in enumerate(operations, 1))
    text = f"Definition ops : list (int * op) := [\n  {ops}].\n"
    text += f"Definition joined : list (int * int * int) := {_pairs(list(joined))}.\n"
    # Where copies are left out, nothing is known of what the others do not refute.
    text += f"Definition unjudged : list int := {'map id atoms' if copies.left_out else 'nil'}.\n"
    for name, axis in zip("xyz", model.points.T, strict=True):
        text += f"Definition range_{name} := Range {int(axis.min())}%uint63 {int(axis.max())}%uint63.\n"
    for margin, triples in found.items():
        name = _suffix(margin)
        sure = str(margin < 0).lower()
        text += f"Definition found{name} : list (int * int * int) := {_pairs(triples)}.\n"
        second = (
            f"(forall n i j, In (n, i, j) found{name} -> exists o a b,\n"
            "     In (n, o) ops /\\ In a atoms /\\ In b atoms /\\ id a = i /\\ id b = j /\\\n"
            f"     overlapping {sure} {_int(margin)} joined n o a b)"
        )
        first = (
            "(forall n o a b, In (n, o) ops -> In a atoms -> In b atoms ->\n"
            f"     overlapping {sure} {_int(margin)} joined n o a b -> In (n, id a, id b) found{name})\n  /\\ "
        )
        if margin < 0:
            text += _proof(f"copies{name}", second, "(copies_sure _ _ range_x range_y range_z)")
        else:
            text += _proof(f"copies{name}", first + second, "(copies_exact _ _ range_x range_y range_z)")
    return text


def _classes(ranges: Sequence[tuple[int, int]]) -> tuple[list[int], str]:
    kinds: dict[tuple[int, int], int] = {}
    chosen = [kinds.setdefault((int(low), int(high)), len(kinds)) for low, high in ranges]
    return chosen, "[" + "; ".join(f"({low}, {high})" for low, high in kinds) + "]"


def distances_source(rule: Distances, found: dict[int, list[int]]) -> str:
    """Return the theorem about pairs of atoms with a range each; the key of ``found`` is the slack [0.001 Å]."""
    chosen, table = _classes([(int(low), int(high)) for low, high in rule.ranges])
    packed = [(int(i) << 36) | (int(j) << 16) | c for (i, j), c in zip(rule.pairs, chosen, strict=True)]
    text = f"{_ints('packed_pairs', packed)}Definition ranges : list (Z * Z) := {table}.\n"
    text += "Definition obligations := pairs_from ranges packed_pairs.\n"
    for slack, numbers in found.items():
        name = _suffix(slack)
        text += f"Definition found{name} : list Z := {_numbers(numbers)}.\n"
        statement = (
            "forall k q, nth_error obligations k = Some q -> exists a b,\n"
            "    In a atoms /\\ In b atoms /\\ id a = first q /\\ id b = second q /\\\n"
            f"    (In (Z.of_nat k) found{name} <->\n"
            f"     ~ (sq (least q + ({slack})) <= D2 a b <= sq (most q - ({slack}))))"
        )
        text += _proof(f"distances{name}", statement, "distances_exact")
    return text


def scale_source(groups: Sequence[Sequence[tuple[int, int, int]]], found: dict[int, list[int]]) -> str:
    """Return the theorem about sums of bonds (first, second, ideal length); keys of ``found`` are slacks [0.001]."""
    text = ""
    for number, bonds in enumerate(groups):
        text += _ints(f"packed_group_{number}", [(i << 36) | (j << 16) | ideal for i, j, ideal in bonds])
    parts = ";\n  ".join(f"Group (spans_from packed_group_{number})" for number in range(len(groups)))
    text += f"Definition obligations : list group := [\n  {parts}].\n"
    for slack, numbers in found.items():
        name = _suffix(slack)
        text += f"Definition found{name} : list Z := {_numbers(numbers)}.\n"
        statement = (
            "forall k g, nth_error obligations k = Some g -> exists ds,\n"
            "    Forall2 (squared atoms) (members g) ds /\\\n"
            f"    (In (Z.of_nat k) found{name} <-> ~ in_scale ({slack}) (total ds) (total (map ideal (members g))))"
        )
        text += _proof(f"scale{name}", statement, "scale_exact")
    return text


def fours_source(rule: Fours, function: str, found: list[int]) -> str:
    """Return the theorem about four atoms each; ``function`` is ``volume`` or ``side`` of Local.v."""
    chosen, table = _classes(rule.ranges)
    packed = []
    for (a, b, c, d), kind in zip(rule.atoms.tolist(), chosen, strict=True):
        packed += [(a << 20) | b, (c << 28) | (d << 8) | kind]
    statement = (
        "forall k q, nth_error obligations k = Some q -> exists a b c d,\n"
        "    In a atoms /\\ In b atoms /\\ In c atoms /\\ In d atoms /\\\n"
        "    id a = q1 q /\\ id b = q2 q /\\ id c = q3 q /\\ id d = q4 q /\\\n"
        f"    (In (Z.of_nat k) found <-> ~ (low_end q <= {function} a b c d <= high_end q))"
    )
    return (
        f"{_ints('packed_fours', packed)}Definition ranges : list (Z * Z) := {table}.\n"
        "Definition obligations := fours_from ranges packed_fours.\n"
        f"Definition found : list Z := {_numbers(found)}.\n{_proof(function + 's', statement, function + 's_exact')}"
    )


def fitting(comparisons: Sequence[tuple[bool, int, int]]) -> list[tuple[bool, int, int]]:
    """Comparisons as they are where 30 bits hold every number, else of the ranks of the numbers.

    Ranks of all numbers of a rule compare as the numbers do. Negative and large ones would else be cut to other
    numbers, and Coq would prove something about those.
    """
    values = sorted({value for _, *pair in comparisons for value in pair})
    if not values or (values[0] >= 0 and values[-1] < 1 << _NUMBER_BITS):
        return list(comparisons)
    ranks = {value: rank for rank, value in enumerate(values)}
    return [(equal, ranks[a], ranks[b]) for equal, a, b in comparisons]


def numbers_source(rule: Numbers, sure: Sequence[int] | None = None) -> str:
    """Return the theorem about numbers and names in a row; ``sure`` are those of what fails that count as refuted."""
    packed = [(a << 31) | (b << 1) | int(equal) for equal, a, b in fitting(rule.comparisons)]
    statement = "forall k q, nth_error obligations k = Some q -> (In (Z.of_nat k) found <-> ~ numbers_hold q)"
    return (
        f"{_ints('packed_numbers', packed)}Definition obligations := numbers_from packed_numbers.\n"
        f"Definition found : list Z := {_numbers(rule.failing())}.\n"
        f"{'' if sure is None else f'Definition sure : list Z := {_numbers(sure)}.{chr(10)}'}"
        f"{_proof('numbers_agree', statement, 'numbers_exact')}"
    )


def envelope_source(envelope: Envelope, index: NDArray[np.int64], inside: NDArray[np.bool_]) -> str:
    """Return the theorem about the voxels that hold the atoms."""
    voxels = np.unique(index[inside], axis=0)
    packed = [(int(x) << 40) | (int(y) << 20) | int(z) for x, y, z in voxels]
    outside = [int(k) for k in np.flatnonzero(~inside)]
    x, y, z = envelope.origin
    statement = (
        "forall k a, nth_error atoms k = Some a ->\n    (In (Z.of_nat k) found <-> ~ In (box_of lattice a) voxels)"
    )
    return (
        f"(* voxels of the envelope that hold atoms; contour {envelope.contour:.6g} *)\n"
        f"{_ints('packed_voxels', packed)}Definition voxels := voxels_from packed_voxels.\n"
        f"Definition lattice := Grid {envelope.voxel} ({x}) ({y}) ({z}).\n"
        f"Definition found : list Z := {_numbers(outside)}.\n"
        # In a map that looks like noise nothing is known, whatever lies within its contour.
        f"Definition unjudged : list int := {'map id atoms' if envelope.doubt else 'nil'}.\n"
        f"{_proof('inside', statement, 'inside_exact')}"
    )


def ligands_source(
    copies: Copies, touches: Sequence[tuple[int, int, int, int]], alone: Sequence[int], slack: int
) -> str:
    """Return the theorem about contacts: (residue, copy, its atom, other atom), and residues without any."""
    unit = 1 << 30
    same = ((unit, 0, 0, 0), (0, unit, 0, 0), (0, 0, unit, 0))
    operations = [(same, ((), ())), *zip(copies.operations, copies.scopes, strict=True)]
    ops = ";\n  ".join(f"({number}%uint63, {_operation(*one)})" for number, one in enumerate(operations))
    listed = " :: ".join("Touch " + " ".join(map(str, touch)) for touch in touches)
    lonely = " :: ".join(map(str, alone))
    statement = (
        "(forall q, In q touches -> exists o a b, In (copy q, o) ops /\\ In a atoms /\\ In b atoms /\\\n"
        "     res a = ligand q /\\ partner (copy q) (ligand q) b = true /\\ related o a b = true /\\\n"
        f"     E2 o a b <= sq (reach - {slack}))\n"
        "  /\\ (forall r n o a b, In r alone -> In (n, o) ops -> In a atoms -> In b atoms -> res a = r ->\n"
        f"     partner n r b = true -> related o a b = true -> sq (reach + {slack}) < E2 o a b)"
    )
    return (
        f"Definition ops : list (int * op) := [\n  {ops}].\n"
        f"Definition touches : list touch := ({listed + ' :: ' if listed else ''}nil)%uint63.\n"
        f"Definition alone : list int := ({lonely + ' :: ' if lonely else ''}nil)%uint63.\n"
        f"{_proof('ligands', statement, 'ligands_exact')}"
    )


def asked_source(residues: Sequence[int]) -> str:
    """Return the list of residues that are obligations."""
    return _ints("asked", residues)
