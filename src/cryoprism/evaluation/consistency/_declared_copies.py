"""Operators that a file declares: of its crystal, its strict non-crystallographic symmetry and its assemblies."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import gemmi
import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError

from ._mirrors import mirror_words
from ._model import Model

__all__ = ["REACH", "Part", "Scope", "Transform", "declared_operators", "everywhere", "without_size"]

REACH = 4_700  # 0.001 Å: contacts of ligands reach 4.5 Å

Transform = tuple[NDArray[np.float64], NDArray[np.float64]]
#: First and last numbers of residues; empty for all of them.
Scope = tuple[tuple[int, int], ...]
#: An operator and the residues that it moves.
Part = tuple[NDArray[np.float64], NDArray[np.float64], Scope]


def declared_operators(
    model: Model, assembly: str | None
) -> tuple[Iterable[tuple[Transform, Scope, Scope]], str, list[str]]:
    """Find what a file declares: its crystal, its strict operators and every assembly (or the one asked for).

    Returns
    -------
    The transforms [Å] with what they move and what that meets; which symmetry, in words; what cannot be used, and why.

    Raises
    ------
    InputError
        No such assembly.
    """
    structure = model.structure
    names = [item.name for item in structure.assemblies]
    if assembly is not None and assembly not in names:
        raise InputError(
            model.path, f"has no assembly '{assembly}' (it has: {', '.join(names) or 'none'})", "Name one of these."
        )
    asked: list[Iterable[tuple[Transform, Scope, Scope]]] = []
    kinds: list[str] = []
    unused: list[str] = []
    if assembly is None:
        _crystal(model, names, asked, kinds, unused)
    for name in names if assembly is None else [assembly]:
        parts = _turning(_operators(model, name), f"biological assembly {name}", unused)
        absent = _absent_chains(model, name)
        if absent:
            unused.append(f"biological assembly {name} is of chains that the file does not hold ({', '.join(absent)}).")
        if len(parts) > 1 or assembly is not None:
            asked.append(_assembled(parts))
            kinds.append(f"biological assembly {name}")
    return itertools.chain.from_iterable(asked), " and ".join(kinds), unused


def _crystal(
    model: Model,
    names: Sequence[str],
    asked: list[Iterable[tuple[Transform, Scope, Scope]]],
    kinds: list[str],
    unused: list[str],
) -> None:
    """Add the copies of a crystal and of strict operators (MTRIX, those whose copies are not in the file)."""
    structure, frames = model.structure, model.declared.frames
    cell = structure.cell.is_crystal() and not without_size(structure)
    if cell and not _has_volume(structure.cell):
        unused.append("the file has a cell that encloses nothing: its crystal's copies are not judged.")
        cell = False
    group: gemmi.SpaceGroup | None = structure.find_spacegroup()
    own: list[Part] = [(np.eye(3), np.zeros(3), ())]
    given = [(np.array(op.tr.mat.tolist()), np.array(op.tr.vec.tolist()), ()) for op in structure.ncs if not op.given]
    strict = own + _turning(given, "the strict operators (MTRIX)", unused)
    if cell and _diffracted(structure) and group is not None and not group.is_sohncke():
        mirrored = mirror_words(model, structure.spacegroup_hm)
        if mirrored:
            unused.append(mirrored)
    if cell and _diffracted(structure) and group is not None and not frames:
        low, high = ((edge(axis=0) + model.corner) / 1000 for edge in (model.points.min, model.points.max))
        asked.append(everywhere(_lattice(structure, low, high)))
        kinds.append(f"crystal, space group {structure.spacegroup_hm}")
        return
    if cell and _diffracted(structure):
        if group is None:
            unused.append(
                f"the file has a cell, but its space group '{structure.spacegroup_hm}' is none: its crystal's copies "
                "are not judged."
            )
        elif len(strict) > 1:
            unused.append("the file has strict operators (MTRIX) in a frame that it does not state: not judged.")
        elif len(frames) == 1:
            parts = _operators(model, names[0]) if names else own
            asked.append(_packed(model, _turning(parts, "the particle", []) or own))
            of = f", of particles as in biological assembly {names[0]}" if names else ""
            kinds.append(f"crystal, space group {structure.spacegroup_hm}{of}")
        else:
            unused.append(
                "the file says that its coordinates are not in the crystal's frame: contacts there are not judged."
            )
    elif frames:
        unused.append("the file says that its coordinates are not in a crystal's frame, but not which crystal it is.")
    elif cell and (group is None or group.number != 1):
        # A cell in P 1 is the box of a map where no crystal was measured.
        unused.append(
            f"the file has a cell of space group '{structure.spacegroup_hm}', but names a method without crystals."
        )
    if len(strict) > 1 and not frames:
        asked.append(_assembled(strict))
        kinds.append("strict non-crystallographic operators")


def without_size(structure: gemmi.Structure) -> bool:
    """Whether the file's cell has edges of 0, as some programs write where there is no crystal."""
    cell = structure.cell
    return bool(cell.is_crystal() and cell.a == cell.b == cell.c == 0)


def _has_volume(cell: gemmi.UnitCell) -> bool:
    edges = (cell.a, cell.b, cell.c, cell.alpha, cell.beta, cell.gamma)
    with np.errstate(all="ignore"):
        turned = np.array(cell.orth.mat.tolist()), np.array(cell.frac.mat.tolist())
    return min(edges) > 0 and bool(np.isfinite(cell.volume) and cell.volume > 0 and np.isfinite(turned).all())


#: Words of methods that see no crystal.
_WITHOUT_CRYSTALS = ("MICROSCOPY", "NMR", "SCATTERING", "FLUORESCENCE", "EPR", "INFRARED", "THEORETICAL")


def _diffracted(structure: gemmi.Structure) -> bool:
    # gemmi's map has no get.
    stated = [value for name, value in structure.info.items() if name == "_exptl.method"]
    methods = " ".join(stated).upper()
    crystals = "DIFFRACTION" in methods or "CRYSTALLOGRAPHY" in methods
    return crystals or not any(word in methods for word in _WITHOUT_CRYSTALS)


def _absent_chains(model: Model, name: str) -> list[str]:
    """Chains that an assembly is stated for and the file does not hold."""
    chosen = next(item for item in model.structure.assemblies if item.name == name)
    chains = {residue.chain for residue in model.residues}
    asyms = {residue.subchain for residue in model.residues}
    found = {chain for generator in chosen.generators for chain in generator.chains if chain not in chains}
    found |= {asym for generator in chosen.generators for asym in generator.subchains if asym not in asyms}
    return sorted(found)


def everywhere(transforms: Iterable[Transform]) -> Iterable[tuple[Transform, Scope, Scope]]:
    return ((transform, (), ()) for transform in transforms)


def _lattice(structure: gemmi.Structure, low: NDArray[np.float64], high: NDArray[np.float64]) -> Iterable[Transform]:
    """Yield the copies in a crystal of what lies in a box [Å] that can meet it."""
    cell = structure.cell
    orthogonal, fractional = np.array(cell.orth.mat.tolist()), np.array(cell.frac.mat.tolist())
    images = [(np.eye(3), np.zeros(3))]
    images += [(np.array(image.mat.tolist()), np.array(image.vec.tolist())) for image in cell.images]
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    own = corners @ fractional.T
    for number, (rotation, shift) in enumerate(images):
        moved = own @ rotation.T + shift
        # All cells in which the copy can meet the model.
        first = np.floor(own.min(axis=0) - moved.max(axis=0)).astype(int)
        last = np.ceil(own.max(axis=0) - moved.min(axis=0)).astype(int)
        turned = orthogonal @ rotation @ fractional
        for i in range(first[0], last[0] + 1):
            for j in range(first[1], last[1] + 1):
                for k in range(first[2], last[2] + 1):
                    if number or i or j or k:  # all but the model itself
                        yield turned, orthogonal @ (shift + np.array([i, j, k]))


def _operators(model: Model, name: str) -> list[Part]:
    """Operators of an assembly, and the residues that each moves."""
    chosen = next(item for item in model.structure.assemblies if item.name == name)
    return [
        (np.array(one.transform.mat.tolist()), np.array(one.transform.vec.tolist()), scope)
        for generator in chosen.generators
        for scope in (_scope(model, set(generator.chains), set(generator.subchains)),)
        if scope is not None
        for one in generator.operators
    ]


def _assembled(copies: Sequence[Part]) -> Iterable[tuple[Transform, Scope, Scope]]:
    """Every copy as seen from every other one: operators move the chains that they are stated for, and no others."""
    for n, (rotation, shift, moved) in enumerate(copies):
        for m, (other, offset, met) in enumerate(copies):
            if n != m:
                # Where the first copy lies as seen from the second.
                yield (other.T @ rotation, other.T @ (shift - offset)), moved, met


def _turning(parts: Sequence[Part], kind: str, unused: list[str]) -> list[Part]:
    """Operators that leave the hand of what they move; what is left out of the others is said in ``unused``."""
    kept = [part for part in parts if not np.linalg.det(part[0]) < 0]
    if len(kept) < len(parts):
        unused.append(f"an operator of {kind} turns the molecule into its mirror image, so its copy cannot be judged.")
    return kept


def _packed(model: Model, parts: Sequence[Part]) -> Iterable[tuple[Transform, Scope, Scope]]:
    """Yield the copies in a crystal of particles (assemblies) with another frame, one in the asymmetric unit.

    With frame X, operators of the assembly B and of the crystal L: B_m^-1 X^-1 L X B_k, where they come near.
    """
    frame = np.array(model.declared.frames[0])
    turn, shift = frame[:, :3], frame[:, 3]
    yield from _assembled(parts)
    rotations, offsets = np.array([part[0] for part in parts]), np.array([part[1] for part in parts])
    low, high = ((edge(axis=0) + model.corner) / 1000 for edge in (model.points.min, model.points.max))
    middle, half = (low + high) / 2, (high - low) / 2
    places = rotations @ middle + offsets
    centre = places.mean(axis=0)
    radius = float(np.linalg.norm(places - centre, axis=1).max() + np.linalg.norm(half))
    own = turn @ centre + shift
    for rotation, vector in _lattice(model.structure, own - radius, own + radius):
        away = float(np.linalg.norm(rotation @ own + vector - own))
        # A particle on an element of the crystal's symmetry is its own copy: that is in its own symmetry already.
        if away < 1 or away > 2 * radius + REACH / 1000:
            continue
        across = turn.T @ rotation @ turn
        along = turn.T @ (rotation @ shift + vector - shift)
        turned, moved = across @ rotations, offsets @ across.T + along
        for back, origin, (_, _, met) in zip(rotations, offsets, parts, strict=True):
            all_turns, all_shifts = back.T @ turned, (moved - origin) @ back
            apart = np.abs(all_turns @ middle + all_shifts - middle)
            near = (apart <= np.abs(all_turns) @ half + half + REACH / 1000).all(axis=1)
            for k in np.flatnonzero(near).tolist():
                yield (all_turns[k], all_shifts[k]), parts[k][2], met


def _scope(model: Model, chains: set[str], subchains: set[str]) -> Scope | None:
    """Residues of some chains; empty for all, None for none."""
    held = [residue.chain in chains or residue.subchain in subchains for residue in model.residues]
    if all(held):
        return ()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], held, [False]]).astype(int)))
    return tuple((int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)) or None
