"""Lean 4 source of the rules about space: clashes, symmetry copies, ligands' contacts and the map's envelope.

Atoms are looked up in the order of their x: the source holds that order, and Lean checks that it is one and that no
atom is missing from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ._envelope import Envelope
from ._lean_literals import array, margin_name, row
from ._model import Model
from ._symmetry import UNIT, Copies, Scope

__all__ = ["lean_clashes", "lean_copies", "lean_envelope", "lean_ligands", "space_head"]

_HEAD = """def kind (a : Atom) : Nat := a.2.2.2.1
def alternative (a : Atom) : Nat := a.2.2.2.2.1
def occupancy (a : Atom) : Nat := a.2.2.2.2.2.1
def residue (a : Atom) : Nat := a.2.2.2.2.2.2

/- Where a list that grows no longer lies before what is looked for: its halves are halved, 64 times at most. -/
def search (before : Nat → Bool) : Nat → Nat → Nat → Nat
  | 0, low, _ => low
  | fuel + 1, low, high =>
    let middle := (low + high) / 2
    if low < high then
      (if before middle then search before fuel (middle + 1) high else search before fuel low middle)
    else low

/- The atoms in order of x: all of them, and in order. -/
def xOf (k : Nat) : Int := (at' atoms (byX.getD k 0)).1

theorem order_exact : (decide (byX.size = atoms.size)
    && (List.range atoms.size).all (fun i => decide (placeInX.getD i byX.size < byX.size)
      && decide (byX.getD (placeInX.getD i byX.size) atoms.size = i))
    && (List.range (byX.size - 1)).all (fun k => decide (xOf k ≤ xOf (k + 1)))) = true := by native_decide

/- Atoms whose x is not below low and not above high. -/
def upTo (high : Int) : Nat → Nat → List Nat
  | 0, _ => []
  | fuel + 1, k =>
    if decide (k < byX.size) && decide (xOf k ≤ high) then byX.getD k 0 :: upTo high fuel (k + 1) else []

def nearX (low high : Int) : List Nat :=
  upTo high byX.size (search (fun k => decide (xOf k < low)) 64 0 byX.size)

def gather (f : Nat → List (Nat × Nat × Nat)) (count : Nat) : List (Nat × Nat × Nat) :=
  ((List.range count).foldl (fun found k => (f k).reverse ++ found) []).reverse

/- Kinds: 1 may accept a hydrogen bond, 2 metal, 3 hydrogen, 4 water. Limits in 0.001 Å. -/
def metal (a b : Atom) : Bool := kind a == 2 || kind b == 2
def hydrogen (a b : Atom) : Bool := kind a == 3 || kind b == 3
def acceptor (a b : Atom) : Bool := kind a == 1 || kind a == 4 || kind b == 1 || kind b == 4

def limit (a b : Atom) : Int :=
  if metal a b then (if kind a == kind b then 2000 else if hydrogen a b then 1200
    else if kind a == 0 || kind b == 0 then 1900 else 1600)
  else if hydrogen a b then (if acceptor a b then 1200 else 1600) else 2200

def bondedLimit (a b : Atom) : Int := if hydrogen a b then 600 else if metal a b then 1400 else 900
def angleLimit (a b : Atom) : Int := if hydrogen a b then 1200 else if metal a b then 1600 else 1900

/- In different alternatives that need not be there at once. -/
def alternatives (a b : Atom) : Bool :=
  !(alternative a == 0) && !(alternative b == 0) && !(alternative a == alternative b)
  && decide (occupancy a + occupancy b ≤ 1010)

"""

#: What rules about copies share: an operation is three rows of a rotation with a shift, and two ranges of residues.
_OPERATIONS = """abbrev Row := Int × Int × Int × Int
abbrev Op := Row × Row × Row × List (Nat × Nat) × List (Nat × Nat)

/- Residues that an operation moves, or that these meet: none stated are all. -/
def member (ranges : List (Nat × Nat)) (r : Nat) : Bool :=
  ranges.isEmpty || ranges.any (fun p => decide (p.1 ≤ r) && decide (r ≤ p.2))

/- Rotation in units of 2^-30, rounded down to 0.001 Å. -/
def copied (r : Row) (a : Atom) : Int :=
  Int.fdiv (r.1 * a.1 + r.2.1 * a.2.1 + r.2.2.1 * a.2.2.1 + r.2.2.2) 1073741824

def moved (o : Op) (a : Atom) : Atom :=
  (copied o.1 a, copied o.2.1 a, copied o.2.2.1 a, a.2.2.2)

def nowhere : Op := ((0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0), [], [])

"""

_CLASHES = """def bonded (i j : Nat) : Bool := (joinedTo.getD i []).contains j || (joinedTo.getD j []).contains i
def twoApart (i j : Nat) : Bool := (joinedTo.getD i []).any (fun k => bonded k j)

def clash (margin : Int) (i j : Nat) : Bool :=
  let a := at' atoms i
  let b := at' atoms j
  let d := d2 a b
  decide (d < (limit a b + margin)^2) && !(alternatives a b)
  && (!(bonded i j) || decide (d < (bondedLimit a b + margin)^2))
  && (!(twoApart i j) || decide (d < (angleLimit a b + margin)^2))

/- No limit with its margin is above 2300. -/
def clashesWithin (margin : Int) : List (Nat × Nat × Nat) :=
  gather (fun i => let x := (at' atoms i).1;
    ((nearX (x - 2300) (x + 2300)).filter (fun j => decide (i < j) && clash margin i j)).map (fun j => (0, i, j)))
    atoms.size

"""

_COPIES = """def share (a : Atom) : Nat := if occupancy a == 0 then 1000 else occupancy a

def together (sure : Bool) (a b : Atom) : Bool :=
  !(alternatives a b) && (!sure || decide (1010 < share a + share b))

def overlapping (sure : Bool) (margin : Int) (n : Nat) (o : Op) (i j : Nat) : Bool :=
  let a := at' atoms i
  let b := at' atoms j
  let d := d2 (moved o a) b
  decide (d < (limit a b + margin)^2) && together sure a b && member o.2.2.2.2 (residue b)
  && (!(copiesJoined.toList.contains (n, i, j)) || decide (d < (bondedLimit a b + margin)^2))
  && !(decide (i = j) && decide (d < 250000))

/- Copies are numbered from 1. -/
def overlapsWithin (sure : Bool) (margin : Int) : List (Nat × Nat × Nat) :=
  gather (fun n => let o := copiesOps.getD n nowhere;
    gather (fun i => let a := at' atoms i;
      if member o.2.2.2.1 (residue a) then
        (let x := (moved o a).1;
        ((nearX (x - 2300) (x + 2300)).filter (fun j => overlapping sure margin (n + 1) o i j)).map
          (fun j => (n + 1, i, j)))
      else []) atoms.size) copiesOps.size

"""

_LIGANDS = """/- An atom that counts for a residue, seen from copy n (0: the model itself): no water, not its own. -/
def partner (n r : Nat) (b : Atom) : Bool := !(kind b == 4) && (!(n == 0) || !(residue b == r))

def contact (reach : Int) (n i j : Nat) : Bool :=
  let o := ligandsOps.getD n nowhere
  let a := at' atoms i
  let b := at' atoms j
  decide (n < ligandsOps.size) && decide (i < atoms.size) && decide (j < atoms.size) && partner n (residue a) b
  && member o.2.2.2.1 (residue a) && member o.2.2.2.2 (residue b) && decide (d2 (moved o a) b ≤ reach^2)

/- No reach is above 4600. -/
def contactsOf (reach : Int) (lonely : List Nat) : List (Nat × Nat × Nat) :=
  gather (fun i => if lonely.contains (residue (at' atoms i)) then
      gather (fun n => let x := (moved (ligandsOps.getD n nowhere) (at' atoms i)).1;
        ((nearX (x - 4600) (x + 4600)).filter (fun j => contact reach n i j)).map (fun j => (n, i, j))) ligandsOps.size
    else []) atoms.size

"""

_ENVELOPE = """def voxelOf (origin p : Int) : Int := Int.fdiv (p * 1048576 - origin) voxelSize

/- One number for a voxel: of voxels with a negative index there is none. -/
def voxelNumber (a : Atom) : Int :=
  let x := voxelOf voxelX a.1
  let y := voxelOf voxelY a.2.1
  let z := voxelOf voxelZ a.2.2.1
  if decide (0 ≤ x) && decide (0 ≤ y) && decide (0 ≤ z) && decide (x < 1048576) && decide (y < 1048576)
  then (z * 1048576 + y) * 1048576 + x else -1

def runOf (k : Nat) : Int × Int := voxelRuns.getD k (0, -1)

theorem voxelRuns_exact : (List.range voxelRuns.size).all (fun k => decide ((runOf k).1 ≤ (runOf k).2)
    && (decide (k + 1 = voxelRuns.size) || decide ((runOf k).2 < (runOf (k + 1)).1))) = true := by native_decide

def inEnvelope (v : Int) : Bool :=
  let k := search (fun k => decide ((runOf k).2 < v)) 64 0 voxelRuns.size
  decide (k < voxelRuns.size) && decide ((runOf k).1 ≤ v) && decide (v ≤ (runOf k).2)

theorem envelope_exact : (List.range atoms.size).filter
    (fun k => !(inEnvelope (voxelNumber (at' atoms k))))
    = envelopeFailing.toList := by native_decide

"""


def _places(model: Model) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the atoms in order of x, and where in that order each atom is."""
    order = np.argsort(model.points[:, 0], kind="stable").astype(np.int64)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return order, rank


def space_head(model: Model) -> str:
    """Return the order of the atoms and what all rules about space share."""
    order, rank = _places(model)
    lists = array("byX", "Nat", [str(k) for k in order.tolist()])
    lists += array("placeInX", "Nat", [str(k) for k in rank.tolist()])
    return lists + _HEAD + _OPERATIONS


def _listed(name: str, model: Model, triples: Iterable[tuple[int, int, int]], value: str) -> str:
    """Return the theorem that a value is a list of (copy, atom, atom); in the order in which Lean finds them."""
    _, rank = _places(model)
    ordered = sorted(triples, key=lambda found: (found[0], found[1], rank[found[2]]))
    return (
        f"{array(f'{name}Failing', 'Nat × Nat × Nat', [row(found) for found in ordered])}"
        f"theorem {name}_exact : {value} = {name}Failing.toList := by native_decide\n\n"
    )


def _int(value: int) -> str:
    return f"({value})" if value < 0 else str(value)


def lean_clashes(model: Model, bonds: Sequence[tuple[int, int]], found: dict[int, list[tuple[int, int]]]) -> str:
    """Return the bonds and, for each margin [0.001 Å], the theorem that exactly the listed pairs clash."""
    joined: dict[int, set[int]] = defaultdict(set)
    for a, b in bonds:
        joined[a].add(b)
        joined[b].add(a)
    rows = [f"[{','.join(map(str, sorted(joined[k])))}]" if k in joined else "[]" for k in range(len(model))]
    text = array("joinedTo", "List Nat", rows) + _CLASHES
    for margin, pairs in found.items():
        triples = [(0, min(pair), max(pair)) for pair in pairs]
        text += _listed(f"clashes{margin_name(margin)}", model, triples, f"clashesWithin {_int(margin)}")
    return text


def _operations(name: str, rows: Iterable[tuple[tuple[tuple[int, int, int, int], ...], tuple[Scope, Scope]]]) -> str:
    literals = []
    for operation, scopes in rows:
        ranges = [f"[{','.join(row(one) for one in scope)}]" for scope in scopes]
        literals.append(f"({','.join([row(one) for one in operation] + ranges)})")
    return array(name, "Op", literals)


def lean_copies(
    model: Model,
    copies: Copies,
    joined: Sequence[tuple[int, int, int]],
    found: dict[int, list[tuple[int, int, int]]],
) -> str:
    """Return the operations and, for each margin [0.001 Å], the theorem that exactly the listed atoms overlap."""
    text = _operations("copiesOps", zip(copies.operations, copies.scopes, strict=True))
    text += array("copiesJoined", "Nat × Nat × Nat", [row(one) for one in joined]) + _COPIES
    for margin, triples in found.items():
        value = f"overlapsWithin {str(margin < 0).lower()} {_int(margin)}"
        text += _listed(f"copies{margin_name(margin)}", model, triples, value)
    return text


def lean_ligands(copies: Copies, touches: Sequence[tuple[int, int, int, int]], alone: Sequence[int], slack: int) -> str:
    """Return theorems that ``touches`` (residue, copy, its atom, other atom) are contacts and ``alone`` have none.

    ``slack`` [0.001 Å] makes the reach shorter for the first and longer for the second, as in Ligands.v.
    """
    same = ((UNIT, 0, 0, 0), (0, UNIT, 0, 0), (0, 0, UNIT, 0))
    nowhere: tuple[Scope, Scope] = ((), ())
    text = _operations("ligandsOps", [(same, nowhere), *zip(copies.operations, copies.scopes, strict=True)])
    text += array("touches", "Nat × Nat × Nat × Nat", [row(touch) for touch in touches])
    text += array("ligandsFailing", "Nat", [str(residue) for residue in alone])
    return (
        f"{text}{_LIGANDS}"
        "theorem touches_exact : touches.toList.all (fun q => decide (residue (at' atoms q.2.2.1) = q.1)\n"
        f"    && contact {4500 - slack} q.2.1 q.2.2.1 q.2.2.2) = true := by native_decide\n\n"
        f"theorem ligands_exact : contactsOf {4500 + slack} ligandsFailing.toList = [] := by native_decide\n\n"
    )


def lean_envelope(envelope: Envelope, index: NDArray[np.int64], inside: NDArray[np.bool_]) -> str:
    """Return the theorem about the voxels that hold the atoms, as runs along x."""
    x, y, z = index[inside].T
    numbers = np.unique((z << 40) | (y << 20) | x)
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 2) != 1)
    stops = np.append(starts[1:], len(numbers))[: len(starts)] - 1
    runs = [row(run) for run in zip(numbers[starts].tolist(), numbers[stops].tolist(), strict=True)]
    text = array("voxelRuns", "Int × Int", runs)
    for name, value in zip(("Size", "X", "Y", "Z"), (envelope.voxel, *envelope.origin), strict=True):
        text += f"def voxel{name} : Int := {_int(value)}\n\n"
    outside = np.flatnonzero(~inside).tolist()
    return text + array("envelopeFailing", "Nat", [str(atom) for atom in outside]) + _ENVELOPE
