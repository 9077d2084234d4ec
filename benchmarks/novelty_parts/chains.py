"""Chains of real structures, views of each that keep the protein and change its coordinates, and 3Di states."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryoprism.core import generator_for
from cryoprism.evaluation.novelty import (
    StatePairs,
    shape_of_atoms,
    shape_vector,
    state_histogram,
    state_sequences,
    state_similarity,
)
from cryoprism.evaluation.novelty.copies import smooth_fields
from cryoprism.formats import Atoms

from .panel import RELATIVES, panel_names, read_atoms

Array = NDArray[np.float64]
_LEAST_RESIDUES = 40
_TWINS, _MADE = 3, 3


@dataclass(frozen=True, eq=False)
class Chain:
    """A protein chain and the residues that it has."""

    name: str
    atoms: Atoms
    residues: dict[int, str]


@dataclass(frozen=True, eq=False)
class Chains:
    """First chains of the structures, and views of them.

    Attributes
    ----------
    codes
        (n,) PDB codes.
    owner
        (m,) the chain that each view is one of.
    real
        (m,) whether the coordinates of the view are an experiment's.
    distances, similarities
        (m, n) of every view to every first chain; NaN similarity where a chain is too short.
    """

    codes: list[str]
    owner: NDArray[np.int64]
    real: NDArray[np.bool_]
    distances: Array
    similarities: Array

    def related(self) -> NDArray[np.bool_]:
        """(n, n): itself and the same protein in other entries."""
        same = np.eye(len(self.codes), dtype=bool)
        for group in RELATIVES:
            members = [self.codes.index(code) for code in {name[:4] for name in group} if code in self.codes]
            for one in members:
                same[one, members] = True
        return same

    def pairs(self, chosen: NDArray[np.int64]) -> list[StatePairs]:
        """Pairs of each of the chosen chains, the others among the chosen only."""
        related = self.related()
        made = []
        for chain in chosen:
            views = np.flatnonzero(self.owner == chain)
            others = [other for other in chosen if not related[chain, other]]
            same = np.stack([self.distances[views, chain], self.similarities[views, chain]], -1)
            different = np.stack([self.distances[views][:, others], self.similarities[views][:, others]], -1)
            different = different.reshape(-1, 2)
            made.append(StatePairs(same[np.isfinite(same[:, 1])], different[np.isfinite(different[:, 1])]))
        return [one for one in made if len(one.same) and len(one.different)]


def chain_list(name: str) -> list[Chain]:
    """Protein chains of a structure, longer than 40 residues."""
    atoms = read_atoms(name)
    labels = np.array(atoms.chains)
    found = []
    for chain in dict.fromkeys(atoms.chains):
        part = atoms.select(torch.from_numpy(labels == chain))
        residues = {
            number: residue
            for number, residue, atom in zip(part.residue_numbers, part.residue_names, part.atom_names, strict=True)
            if atom == "CA"
        }
        if len(residues) >= _LEAST_RESIDUES:
            found.append(Chain(f"{name} chain {chain}", part, residues))
    return found


def same_sequence(one: Chain, other: Chain) -> bool:
    """Whether two chains are copies of one protein."""
    common = one.residues.keys() & other.residues.keys()
    alike = sum(one.residues[number] == other.residues[number] for number in common)
    return len(common) >= 0.8 * max(len(one.residues), len(other.residues)) and alike >= 0.95 * len(common)


def _moved(atoms: Atoms, generator: torch.Generator) -> Atoms:
    """Coordinates bent by up to 2 Å, smoothly, and every atom off by 0.05 to 0.3 Å.

    With more, the similarity of the states falls below that of any two experiments (0.79 to 1).
    """
    bend, off = torch.rand(2, generator=generator).tolist()
    places = atoms.positions_in_angstroms
    fields = smooth_fields(places - places.mean(0), 3, generator)
    noise = (0.05 + 0.25 * off) * torch.randn(places.shape, generator=generator)
    return replace(atoms, positions_in_angstroms=places + 2.0 * bend * fields / 3**0.5 + noise / 3**0.5)


def make_chains(work: Path, seed: int) -> Chains:
    """Describe first chains and their views, or read what an earlier run described."""
    file = work / f"chains-{seed}.npz"
    if file.is_file():
        with np.load(file) as kept:
            return Chains(
                kept["codes"].tolist(), *(kept[key] for key in ("owner", "real", "distances", "similarities"))
            )
    first: list[Chain] = []
    views: list[tuple[int, bool, Atoms]] = []
    for name in panel_names():
        if "assembly" in name or not (chains := chain_list(name)):
            continue
        twins = [one.atoms for one in chains[1:] if same_sequence(chains[0], one)]
        views += [(len(first), True, atoms) for atoms in itertools.islice(twins, _TWINS)]
        for number in range(_MADE):
            made = _moved(chains[0].atoms, generator_for(seed, "novelty-view", name, number))
            views.append((len(first), False, made))
        first.append(chains[0])
    # The same protein in another entry is a view too.
    codes = [chain.name[:4] for chain in first]
    for group in RELATIVES:
        members = sorted({codes.index(name[:4]) for name in group if name[:4] in codes})
        views += [(a, True, first[b].atoms) for a, b in itertools.permutations(members, 2)]
    known = [_described(chain.atoms) for chain in first]
    asked = [_described(atoms) for _, _, atoms in views]
    distances = [[float(np.linalg.norm(a[0] - b[0])) for b in known] for a in asked]
    alike = [
        [float("nan") if a[1] is None or b[1] is None else state_similarity(a[1], b[1]) for b in known] for a in asked
    ]
    made_chains = Chains(
        codes,
        np.array([owner for owner, _, _ in views]),
        np.array([real for _, real, _ in views]),
        np.array(distances),
        np.array(alike),
    )
    work.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{key: np.asarray(value) for key, value in vars(made_chains).items()})
    return made_chains


def _described(atoms: Atoms) -> tuple[Array, Array | None]:
    return shape_vector(shape_of_atoms(atoms)).astype(np.float64), state_histogram(state_sequences(atoms))
