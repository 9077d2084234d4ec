"""Faults planted one at a time, and which residues they touch by distances alone."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cryoprism.evaluation.consistency import Consistency, check_consistency, find_copies, read_model
from cryoprism.formats import Volume

__all__ = ["FAULTS", "Tally", "moves", "plant_all", "synthetic_map"]

#: What is planted, and the rule that has to refute it.
FAULTS = {
    "clash": "clashes",
    "broken chain": "chains",
    "mirrored residue": "chirality",
    "overlapping mate": "copies",
    "atom outside the map": "envelope",
}
_NEAR = 2.21  # Å: no clash, with its margin for rounding, and no bond of the rules reaches further


@dataclass
class Tally:
    """What came of the copies with one fault each, and what was compared in them.

    ``touched``, ``changed`` and ``untouched`` are residues: those that a fault touches, how many of these changed, and
    all others. Of these others' obligations some may have another verdict (``untouched_verdicts``), or be there in one
    of the two models alone (``untouched_added``, ``untouched_removed``).
    """

    planted: int = 0
    caught: int = 0
    touched: int = 0
    changed: int = 0
    untouched: int = 0
    untouched_obligations: int = 0
    untouched_verdicts: int = 0
    untouched_added: int = 0
    untouched_removed: int = 0
    unknown: int = 0
    cpu_seconds: float = 0.0


def synthetic_map(path: Path) -> Volume:
    """Sum of Gaussians of 1.5 Å at the atoms of a structure, in voxels of 1.5 Å with 12 Å around."""
    model = read_model(path)
    places = (model.points + model.corner) / 1000
    low = places.min(axis=0) - 12
    shape = np.ceil((places.max(axis=0) + 12 - low) / 1.5).astype(int)
    data = np.zeros(shape[::-1])
    reach = 4
    for place in (places - low) / 1.5:
        centre = np.rint(place).astype(int)
        axes = [np.arange(c - reach, c + reach + 1) for c in centre]
        waves = [np.exp(-0.5 * (axis - p) ** 2) for axis, p in zip(axes, place, strict=True)]
        box = np.ix_(*(axis.clip(0, n - 1) for axis, n in zip(axes[::-1], data.shape, strict=True)))
        data[box] += waves[2][:, None, None] * waves[1][None, :, None] * waves[0][None, None, :]
    noise = np.random.default_rng(0).normal(0, 0.05, data.shape)
    return Volume(torch.from_numpy((data + noise).astype(np.float32)), 1.5, tuple(float(v) for v in low))


def _atoms(structure: gemmi.Structure) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    places, residues, number = [], [], 0
    for chain in structure[0]:
        for residue in chain:
            for atom in residue:
                places.append(atom.pos.tolist())
                residues.append(number)
            number += 1
    return np.array(places), np.array(residues)


def _touched(before: gemmi.Structure, after: gemmi.Structure) -> set[int]:
    """Residues that hold an atom that was moved or added, or lie within 2.21 Å of its old or new place or a copy of it.

    By distances of gemmi's cells alone: every residue to which a fault could mean anything.
    """
    old, of_old = _atoms(before)
    new, of_new = _atoms(after)
    moved = np.flatnonzero(np.abs(new[: len(old)] - old).max(axis=1) > 1e-4)
    added = np.arange(len(old), len(new))
    found = {int(of_new[k]) for k in (*moved, *added)}
    cell = after.cell
    shifts = np.array([[i, j, k] for i in range(-3, 4) for j in range(-3, 4) for k in range(-3, 4)], float)
    turns = [(np.eye(3), np.zeros(3))] + [(np.array(i.mat.tolist()), np.array(i.vec.tolist())) for i in cell.images]
    orthogonal, fractional = np.array(cell.orth.mat.tolist()), np.array(cell.frac.mat.tolist())
    tree, changed = cKDTree(old), [old[moved], new[moved], new[added]]
    for place in np.concatenate(changed):
        for turn, offset in turns:
            # A copy of the place near the model, and the model's place near a copy: the operations are a group.
            images = (turn @ (fractional @ place) + offset + shifts) @ orthogonal.T
            for near in tree.query_ball_point(images, _NEAR):
                found |= {int(of_old[k]) for k in near}
    return found


def _polymer(structure: gemmi.Structure) -> list[gemmi.Residue]:
    return [
        residue
        for chain in structure[0]
        for residue in chain.get_polymer()
        if residue.find_atom("CB", "*") and residue.find_atom("N", "*") and not any(a.has_altloc() for a in residue)
    ]


def _shift(atom: gemmi.Atom, x: float, y: float, z: float) -> None:
    atom.pos = gemmi.Position(atom.pos.x + x, atom.pos.y + y, atom.pos.z + z)


def _plant(kind: str, structure: gemmi.Structure, k: int, path: Path, rng: np.random.Generator) -> None:
    """Change the ``k``-th residue (of those with Cβ) of a structure, or add a water."""
    if kind == "overlapping mate":
        _overlap(structure, path, rng)
        return
    polymer = _polymer(structure)
    residue = polymer[k]
    if kind == "clash":
        # Its Cβ goes to 1 Å beside an atom of a residue far away in the chain.
        target = polymer[(k + len(polymer) // 2) % len(polymer)].find_atom("C", "*").pos
        residue.find_atom("CB", "*").pos = gemmi.Position(target.x + 0.6, target.y + 0.6, target.z + 0.5)
    elif kind == "broken chain":
        for atom in residue:
            _shift(atom, 9, 6, 4)
    elif kind == "mirrored residue":
        n, ca, c = (np.array(residue.find_atom(a, "*").pos.tolist()) for a in ("N", "CA", "C"))
        normal = np.cross(n - ca, c - ca)
        normal /= np.linalg.norm(normal)
        for atom in residue:
            if atom.name not in {"N", "CA", "C", "O", "OXT"}:
                place = np.array(atom.pos.tolist())
                atom.pos = gemmi.Position(*(place - 2 * ((place - ca) @ normal) * normal))
    else:
        _shift(residue.find_atom("CB", "*"), 40, 40, 40)


def _overlap(structure: gemmi.Structure, path: Path, rng: np.random.Generator) -> None:
    """Add a water that lies in the model's own solvent but 1 Å from an atom of a symmetry copy."""
    model = read_model(path)
    places = (model.points + model.corner) / 1000
    rows = [np.array(o, dtype=float) for o in find_copies(model).operations]
    heavy = np.flatnonzero(model.kinds != 3)
    while True:
        row = rows[int(rng.integers(len(rows)))]
        atom = int(rng.choice(heavy))
        copy = (row[:, :3] @ model.points[atom] + row[:, 3]) / 2**30 / 1000 + model.corner / 1000
        spot = copy + 0.58 * rng.choice([-1, 1], size=3)
        if 2.5 < np.linalg.norm(places - spot, axis=1).min() < 4.4:
            break
    residue = gemmi.Residue()
    residue.name, residue.seqid, residue.het_flag = "HOH", gemmi.SeqId("1"), "H"
    water = gemmi.Atom()
    water.name, water.element, water.occ = "O", gemmi.Element("O"), 1.0
    water.pos = gemmi.Position(*(float(v) for v in spot))
    residue.add_atom(water)
    chain = gemmi.Chain("Zz")
    chain.add_residue(residue)
    structure[0].add_chain(chain)


def moves(before: tuple[int, int, int], after: tuple[int, int, int]) -> tuple[int, int, int]:
    """How many obligations changed their verdict, were added and were removed, at least.

    From the counts (proved, refuted, unknown) of one residue in one rule, before and after.
    """
    lost = sum(max(0, b - a) for b, a in zip(before, after, strict=True))
    gained = sum(max(0, a - b) for b, a in zip(before, after, strict=True))
    verdicts = min(lost, gained)
    return verdicts, gained - verdicts, lost - verdicts


def _compare(tally: Tally, rule: str, clean: Consistency, planted: Consistency, touched: set[int]) -> None:
    changed: set[int] = set()
    for residue in range(len(clean.model.residues)):
        before = {found.name: found.by_residue[residue] for found in clean.rules if residue in found.by_residue}
        after = {found.name: found.by_residue[residue] for found in planted.rules if residue in found.by_residue}
        if residue in touched:
            changed |= {residue} if before != after else set()
            continue
        tally.untouched += 1
        tally.untouched_obligations += sum(map(sum, before.values()))
        for name in before.keys() | after.keys():
            verdicts, added, removed = moves(before.get(name, (0, 0, 0)), after.get(name, (0, 0, 0)))
            tally.untouched_verdicts += verdicts
            tally.untouched_added += added
            tally.untouched_removed += removed
    more = range(len(clean.model.residues), len(planted.model.residues))
    changed |= {k for k in more if any(sum(r.by_residue[k][1:]) for r in planted.rules if k in r.by_residue)}
    wanted = next(found for found in planted.rules if found.name == rule)
    named = {k for one in wanted.offenders for k in one.residues} if wanted.refuted else set()
    tally.planted += 1
    tally.caught += bool(named) and named <= touched
    tally.touched += len(touched)
    tally.changed += len(changed)
    tally.unknown += planted.count("unknown")
    tally.cpu_seconds += planted.cpu_seconds


def plant_all(path: Path, count: int, seed: int) -> tuple[Consistency, dict[str, Tally]]:
    """Check a clean structure, and ``count`` copies of it for each kind of fault with one fault each."""
    volume = synthetic_map(path)
    found = {kind: Tally() for kind in FAULTS}
    with tempfile.TemporaryDirectory() as scratch:
        first = Path(scratch) / "clean.cif"
        base = gemmi.read_structure(str(path))
        base.setup_entities()
        base.make_mmcif_document().write_file(str(first))
        clean = check_consistency(first, volume=volume)
        for number, (kind, rule) in enumerate(FAULTS.items()):
            rng = np.random.default_rng([seed, number])
            # The last of the chain has no step behind it; neighbours are planted in copies of their own.
            for k in rng.choice(len(_polymer(base)) - 1, size=count, replace=False):
                before = gemmi.read_structure(str(first))
                before.setup_entities()
                after = before.clone()
                _plant(kind, after, int(k), first, rng)
                out = Path(scratch) / "planted.cif"
                after.setup_entities()
                after.make_mmcif_document().write_file(str(out))
                planted = check_consistency(out, volume=volume)
                again = gemmi.read_structure(str(out))
                _compare(found[kind], rule, clean, planted, _touched(before, again))
    return clean, found
