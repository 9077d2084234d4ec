"""Ideal α-helices of L-residues and their packing into shells, barrels and globules without clashes.

Everything here is geometry in Å with coordinates (x, y, z); no structure of nature is copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RISE_IN_ANGSTROMS", "TURN_IN_DEGREES", "HelixAxis", "ideal_backbone", "pack_helices", "side_chain"]

Array = NDArray[np.float64]

RISE_IN_ANGSTROMS = 1.5
TURN_IN_DEGREES = 100.0

# Cylindrical coordinates (radius Å, angle °, height Å) of one residue about the axis, its Cα at angle and height 0.
# Solved so that under the exact screw of 100° and 1.5 Å per residue the peptide has Engh & Huber's bond lengths
# and angles and a trans ω; φ = -61.7°, ψ = -42.9° and the hydrogen bond O(i)···N(i+4) of 2.93 Å follow from it.
_CYLINDER = {
    "N": (1.53318, -26.57899, -0.90276),
    "CA": (2.28047, 0.0, 0.0),
    "C": (1.68780, 27.78115, 1.03525),
    "O": (1.99657, 22.78610, 2.21611),
    "CB": (3.34635, 16.21807, -0.77294),
}
BACKBONE = tuple(_CYLINDER)


@dataclass(frozen=True, kw_only=True)
class HelixAxis:
    """A straight helix: centre [Å], unit direction from N to C terminus, phase about it [degrees], residues."""

    centre_in_angstroms: tuple[float, float, float]
    direction: tuple[float, float, float]
    phase_in_degrees: float
    residues: int

    @property
    def length_in_angstroms(self) -> float:
        """Length along the axis [Å]."""
        return self.residues * RISE_IN_ANGSTROMS


def ideal_backbone(axis: HelixAxis) -> Array:
    """Atoms N, CA, C, O, CB of an ideal right-handed α-helix, shape (residues, 5, 3) [Å].

    Atom a of residue n stands at angle φ_a + 100° n and height z_a + 1.5 n Å about the axis.
    """
    table = np.array([_CYLINDER[name] for name in BACKBONE])
    n = np.arange(axis.residues)[:, None]
    angle = np.radians(table[:, 1] + TURN_IN_DEGREES * n + axis.phase_in_degrees)
    height = table[:, 2] + RISE_IN_ANGSTROMS * (n - 0.5 * (axis.residues - 1))
    e1, e2, e3 = _frame(np.asarray(axis.direction))
    centre = np.asarray(axis.centre_in_angstroms)
    radial = np.cos(angle)[..., None] * e1 + np.sin(angle)[..., None] * e2
    out: Array = centre + table[:, 0, None] * radial + height[..., None] * e3
    return out


def side_chain(backbone: Array, chi: tuple[float, ...]) -> Array:
    """Aliphatic side-chain atoms beyond CB (γ, δ, ε), shape (residues, len(chi), 3), by the torsions ``chi`` [degrees].

    Bonds of 1.52 Å and angles of 113°, grown from (N, CA, CB).
    """
    a, b, c = backbone[:, 0], backbone[:, 1], backbone[:, 4]
    atoms = []
    for torsion in chi:
        a, b, c = b, c, _grow(a, b, c, 1.52, 113.0, torsion)
        atoms.append(c)
    return np.stack(atoms, axis=1) if atoms else np.zeros((backbone.shape[0], 0, 3))


def _grow(a: Array, b: Array, c: Array, bond: float, angle: float, torsion: float) -> Array:
    """Place the fourth atom of a chain a-b-c-d by bond length [Å], angle b-c-d and torsion [degrees]."""
    t, d = math.radians(angle), math.radians(torsion)
    along = _unit(c - b)
    normal = _unit(np.cross(b - a, along))
    across = np.cross(normal, along)
    out: Array = c + bond * (-math.cos(t) * along + math.sin(t) * (math.cos(d) * across + math.sin(d) * normal))
    return out


def _unit(v: Array) -> Array:
    out: Array = v / np.linalg.norm(v, axis=-1, keepdims=True)
    return out


def _frame(direction: Array) -> tuple[Array, Array, Array]:
    e3 = _unit(direction)
    helper = np.eye(3)[int(np.argmin(np.abs(e3)))]
    e1 = _unit(np.cross(helper, e3))
    return e1, np.cross(e3, e1), e3


def pack_helices(
    lengths_in_angstroms: tuple[float, ...],
    symmetry: Array,
    excess: Callable[[Array], tuple[Array, Array]],
    start: Array,
    start_directions: Array,
    *,
    spacing_in_angstroms: float,
    seed: int,
    iterations: int = 400,
) -> tuple[Array, Array, float]:
    """Move straight rods, together with their symmetry copies, until no two axes come closer than a spacing.

    Each rod is a row of beads 2.5 Å apart; beads of different rods (own and copies) repel harmonically within the
    spacing and are pulled back where they leave the container. Momentum descent with noise that decays to zero.

    Parameters
    ----------
    lengths_in_angstroms
        Rod lengths of one asymmetric unit.
    symmetry
        (order, 3, 3), the identity first.
    excess
        Maps points (n, 3) to (distance outside of the container (n,) [Å], unit outward direction (n, 3)).
    start
        (rods, 3) centres to start near.
    start_directions
        (rods, 3) directions to start near.
    spacing_in_angstroms
        Smallest distance allowed between two axes.
    seed
        Of the noise.
    iterations
        Number of descent steps.

    Returns
    -------
    centres
        (rods, 3) [Å].
    directions
        (rods, 3) unit vectors.
    worst
        Deepest remaining overlap [Å], container included.
    """
    rng = np.random.default_rng(seed)
    rods = len(lengths_in_angstroms)
    offsets = [np.linspace(-0.5, 0.5, max(2, round(length / 2.5))) * length for length in lengths_in_angstroms]
    owner = np.repeat(np.arange(rods), [o.size for o in offsets])
    offset = np.concatenate(offsets)
    centres = start + rng.normal(0.0, 0.5, start.shape)
    directions = _unit(start_directions)
    # Only copies that can touch the unit while it moves by a rod's thickness matter; for a shell that is a handful.
    reach = 0.5 * max(lengths_in_angstroms) + np.linalg.norm(start - start.mean(0), axis=1).max() + spacing_in_angstroms
    near = np.linalg.norm(start.mean(0) - np.einsum("gij,j->gi", symmetry, start.mean(0)), axis=1) < 2 * reach
    symmetry = symmetry[near]
    order = symmetry.shape[0]
    same_rod = (owner[:, None] == owner[None, :])[:, None, :] & (np.arange(order) == 0)[None, :, None]
    same_rod = same_rod.reshape(owner.size, -1)
    speed_c, speed_d = np.zeros_like(centres), np.zeros_like(directions)
    share = 1.0 / np.bincount(owner)
    inertia = np.array([max(o.var(), 1.0) for o in offsets])
    best: tuple[float, Array, Array] = (math.inf, centres, directions)
    for step in range(iterations):
        beads = centres[owner] + offset[:, None] * directions[owner]
        copies = np.einsum("gij,nj->gni", symmetry, beads)
        flat = copies.reshape(-1, 3)
        square = (beads**2).sum(1)[:, None] + (flat**2).sum(1)[None] - 2.0 * beads @ flat.T
        distance = np.sqrt(np.maximum(square, 1e-6))
        overlap = np.where(same_rod, 0.0, np.clip(spacing_in_angstroms - distance, 0.0, None))
        outside, outward = excess(beads)
        worst = max(float(overlap.max()), float(outside.max()))
        if worst < best[0]:
            best = (worst, centres.copy(), directions.copy())
        if worst < 0.15:
            break
        push = overlap / distance
        force = push.sum(1)[:, None] * beads - push @ flat - outside[:, None] * outward
        pull = np.stack([np.bincount(owner, force[:, i]) for i in range(3)], -1) * share[:, None]
        twist = np.stack([np.bincount(owner, force[:, i] * offset) for i in range(3)], -1)
        twist *= (share / inertia)[:, None]
        noise = 0.15 * max(0.0, 1.0 - step / (0.6 * iterations))
        speed_c = 0.7 * speed_c + 0.4 * pull + noise * rng.normal(size=centres.shape)
        speed_d = 0.7 * speed_d + 0.4 * twist + 0.1 * noise * rng.normal(size=centres.shape)
        centres = centres + np.clip(speed_c, -2.0, 2.0)
        directions = _unit(directions + np.clip(speed_d, -0.2, 0.2))
    return best[1], best[2], best[0]
