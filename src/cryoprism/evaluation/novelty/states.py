"""3Di states of a protein model (the structural alphabet of Foldseek) and how alike two models are in them."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoprism.core import InputError
from cryoprism.formats import Atoms

__all__ = ["STATES_REMEDY", "state_histogram", "state_sequences", "state_similarity", "states_available"]

Array = NDArray[np.float64]

#: How to get what reads 3Di states.
STATES_REMEDY = "Install mini3di for 3Di states: 'make assess' in CryoPrism's own folder."
_LETTERS = 20
#: Fewer residues than this say nothing about a fold.
_LEAST_RESIDUES = 20
_BACKBONE = ("CA", "CB", "N", "C")


def states_available() -> bool:
    """Whether the package mini3di is installed."""
    return importlib.util.find_spec("mini3di") is not None


def state_sequences(atoms: Atoms) -> list[NDArray[np.uint8]]:
    """States (0 to 19) along each protein chain of the first model; residues without a state are left out.

    van Kempen et al. (2024), Nat. Biotechnol. 42, 243. Of alternative places the first counts.

    Raises
    ------
    InputError
        The package mini3di is absent.
    """
    if not states_available():
        raise InputError("3Di states", "the package mini3di is not installed", STATES_REMEDY)
    import mini3di

    encoder = mini3di.Encoder()
    first = int(atoms.models.min())
    positions = atoms.positions_in_angstroms.numpy()
    models = atoms.models.tolist()
    chains: dict[str, dict[int, dict[str, NDArray[np.float32]]]] = {}
    for i, (name, number, chain) in enumerate(zip(atoms.atom_names, atoms.residue_numbers, atoms.chains, strict=True)):
        # Calcium ions are called CA too.
        if models[i] == first and name in _BACKBONE and int(atoms.atomic_numbers[i]) in (6, 7):
            chains.setdefault(chain, {}).setdefault(number, {}).setdefault(name, positions[i])
    result = []
    for residues in chains.values():
        kept = [residue for residue in residues.values() if "CA" in residue]
        if len(kept) < 6:
            continue
        nothing = np.full(3, np.nan, dtype=np.float32)
        ca, cb, n, c = (np.stack([residue.get(name, nothing) for residue in kept]) for name in _BACKBONE)
        with np.errstate(all="ignore"):
            states: Any = encoder.encode_atoms(ca, cb, n, c)  # masked where an atom is missing
        result.append(np.asarray(states.compressed(), dtype=np.uint8))
    return result


def state_histogram(sequences: list[NDArray[np.uint8]]) -> Array | None:
    """Square roots of the shares of the 400 pairs of neighbouring states; None for fewer than 20 residues."""
    counts = np.zeros(_LETTERS * _LETTERS)
    for states in sequences:
        pairs = states[:-1].astype(np.int64) * _LETTERS + states[1:]
        counts += np.bincount(pairs, minlength=counts.size)
    if counts.sum() < _LEAST_RESIDUES:
        return None
    return np.asarray(np.sqrt(counts / counts.sum()))


def state_similarity(one: Array, other: Array) -> float:
    """Bhattacharyya coefficient of two histograms: 1 for the same shares of pairs of states, 0 for no common pair."""
    return float(np.clip(np.dot(one, other), 0.0, 1.0))
