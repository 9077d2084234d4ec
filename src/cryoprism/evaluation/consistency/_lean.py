"""The same obligations as Lean 4 source, without any library: the decision is made by ``native_decide``."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from ._emit import fitting
from ._lean_literals import array, margin_name, row
from ._lean_space import space_head
from ._model import Model
from ._rules import Distances, Fours, Numbers

__all__ = ["check_lean", "lean_distances", "lean_fours", "lean_numbers", "lean_source"]

#: What the reader of a certificate has to know about the Lean source.
LEAN_COVERS = (
    "It holds the obligations of every rule, decided by native_decide: bonds, chains, scale, handedness, cis "
    "peptides, numbers, completeness, clashes, copies, ligands and the envelope. Its checks are its statements: unlike "
    "the Coq files it does not prove that a check means what the rule says. It has never been compiled in the making; "
    "consistency.json says whether a Lean was there to check it (`lean`)."
)

_HEAD = """set_option maxRecDepth 100000
set_option maxHeartbeats 0

/- Atoms: x, y, z in 0.001 Å, kind, alternative, occupancy in thousandths, residue. -/
abbrev Atom := Int × Int × Int × Nat × Nat × Nat × Nat

def d2 (a b : Atom) : Int :=
  (a.1 - b.1)^2 + (a.2.1 - b.2.1)^2 + (a.2.2.1 - b.2.2.1)^2

def cross (u v : Int × Int × Int) : Int × Int × Int :=
  (u.2.1 * v.2.2 - u.2.2 * v.2.1, u.2.2 * v.1 - u.1 * v.2.2, u.1 * v.2.1 - u.2.1 * v.1)

def dot (u v : Int × Int × Int) : Int := u.1 * v.1 + u.2.1 * v.2.1 + u.2.2 * v.2.2

def between (a b : Atom) : Int × Int × Int := (b.1 - a.1, b.2.1 - a.2.1, b.2.2.1 - a.2.2.1)

def volume (a b c d : Atom) : Int := dot (cross (between a b) (between a c)) (between a d)

def side (a b c d : Atom) : Int :=
  dot (cross (between a b) (between b c)) (cross (between b c) (between c d))

def at' (atoms : Array Atom) (i : Nat) : Atom := atoms.getD i (0, 0, 0, 0, 0, 0, 0)

"""


def lean_source(model: Model, parts: list[str]) -> str:
    """Return Lean source: the atoms and, for each rule, that exactly the listed obligations fail."""
    rows = np.concatenate(
        [model.points, np.stack([model.kinds, model.alternatives, model.occupancies, model.residue_of], axis=1)], axis=1
    )
    return _HEAD + array("atoms", "Atom", [row(one) for one in rows.tolist()]) + space_head(model) + "".join(parts)


def _theorem(name: str, table: str, blank: str, holds: str, found: list[int]) -> str:
    return (
        f"def {name}Failing : List Nat := {found}\n\n"
        f"theorem {name}_exact : (List.range {table}.size).filter\n"
        f"    (fun k => let q := {table}.getD k {blank}; !({holds}))\n"
        f"    = {name}Failing := by native_decide\n\n"
    )


def lean_distances(name: str, rule: Distances, found: dict[int, list[int]]) -> str:
    """Return the rule about pairs of atoms with a range each; the key of ``found`` is the slack [0.001 Å]."""
    rows = [row(one) for one in np.concatenate([rule.pairs, rule.ranges], axis=1).tolist()]
    text = array(name, "Nat × Nat × Int × Int", rows)
    pair = "d2 (at' atoms q.1) (at' atoms q.2.1)"
    for slack, numbers in found.items():
        low, high = (f"(q.2.2.1 + ({slack}))", f"(q.2.2.2 - ({slack}))") if slack else ("q.2.2.1", "q.2.2.2")
        holds = f"decide ({low}^2 ≤ {pair}) && decide ({pair} ≤ {high}^2)"
        text += _theorem(name + margin_name(slack), name, "(0, 0, 1, 0)", holds, numbers)
    return text


def lean_fours(name: str, function: str, rule: Fours, found: list[int]) -> str:
    """Return the rule about four atoms each; ``function`` is ``volume`` or ``side``."""
    rows = [row((*four, *ends)) for four, ends in zip(rule.atoms.tolist(), rule.ranges, strict=True)]
    value = f"{function} (at' atoms q.1) (at' atoms q.2.1) (at' atoms q.2.2.1) (at' atoms q.2.2.2.1)"
    holds = f"decide (q.2.2.2.2.1 ≤ {value}) && decide ({value} ≤ q.2.2.2.2.2)"
    return array(name, "Nat × Nat × Nat × Nat × Int × Int", rows) + _theorem(
        name, name, "(0, 0, 0, 0, 1, 0)", holds, found
    )


def lean_numbers(name: str, rule: Numbers, found: list[int]) -> str:
    """Return the rule about numbers in a row."""
    rows = [f"({str(equal).lower()},{a},{b})" for equal, a, b in fitting(rule.comparisons)]
    holds = "if q.1 then decide (q.2.1 = q.2.2) else decide (q.2.1 < q.2.2)"
    return array(name, "Bool × Nat × Nat", rows) + _theorem(name, name, "(true, 0, 1)", holds, found)


def check_lean(source: str, *, seconds: float = 600.0) -> str:
    """Return what became of the Lean source: checked, refused, or emitted and not checked where there is no Lean."""
    program = shutil.which("lean")
    if program is None:
        return "emitted, not checked (no lean on the PATH)"
    with tempfile.TemporaryDirectory(prefix="cryoprism-lean-") as folder:
        file = Path(folder) / "Obligations.lean"
        file.write_text(source, encoding="utf-8")
        try:
            run = subprocess.run(
                [program, str(file)],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=seconds,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"emitted, not checked ({type(error).__name__})"
    return "checked" if run.returncode == 0 else f"refused by lean: {' '.join(run.stdout.split())[:200]}"
