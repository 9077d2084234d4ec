"""Small models for the tests of novelty: blobs of carbon atoms, helices with a backbone, and files of them."""

from pathlib import Path

import numpy as np
import torch

from cryoprism.core import generator_for, random_rotations


def blob(seed: int, atoms: int = 400, lobes: int = 4) -> np.ndarray:
    """Positions (atoms, 3) [Å] of a few lobes of different size."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 14, (lobes, 3))
    widths = rng.uniform(3, 7, lobes)
    which = rng.integers(0, lobes, atoms)
    return centres[which] + widths[which, None] * rng.normal(0, 1, (atoms, 3))


def helix(residues: int = 60) -> list[tuple[str, str, int, np.ndarray]]:
    """(atom, element, residue, position) of an ideal alpha helix."""
    shape = {"N": (1.55, -27.5, -0.88), "CA": (2.29, 0.0, 0.0), "C": (1.67, 26.9, 1.11), "CB": (3.30, -19.0, -0.3)}
    rows = []
    for number in range(residues):
        for name, (radius, turn, lift) in shape.items():
            angle = np.radians(100 * number + turn)
            place = np.array([radius * np.cos(angle), radius * np.sin(angle), 1.5 * number + lift])
            rows.append((name, name[0], number + 1, place))
    return rows


def strand(residues: int = 60) -> list[tuple[str, str, int, np.ndarray]]:
    """Two extended strands that run side by side, as in a hairpin."""
    rows = []
    for number in range(residues):
        half = residues // 2
        up = number < half
        along = 3.3 * (number if up else residues - 1 - number)
        side, zigzag = (0.0 if up else 4.8), 0.9 * (-1) ** number
        sign = 1 if up else -1
        for name, (dz, dy) in {"N": (-1.2, 0.3), "CA": (0.0, 0.0), "C": (1.2, 0.3), "CB": (0.1, 1.5)}.items():
            place = np.array([side, zigzag + dy * (-1) ** number, along + sign * dz])
            rows.append((name, name[0], number + 1, place))
    return rows


def turned(positions: np.ndarray, seed: int) -> np.ndarray:
    turn = random_rotations(1, generator_for(seed, "test-turn"))[0].double().numpy()
    return positions @ turn.T + 5.0


def write_pdb(path: Path, rows: list[tuple[str, str, int, np.ndarray]], *, altlocs: bool = False) -> Path:
    """A PDB file of alanines; with ``altlocs`` every atom stands at two places of half occupancy."""
    lines = []
    for name, element, number, place in rows:
        for label, shift, share in (("A", 0.0, 0.5), ("B", 0.4, 0.5)) if altlocs else ((" ", 0.0, 1.0),):
            x, y, z = place + shift
            lines.append(
                f"ATOM  {(len(lines) + 1) % 100000:5d}  {name:<3}{label}ALA A{number % 10000:4d}    "
                f"{x:8.3f}{y:8.3f}{z:8.3f}{share:6.2f} 20.00          {element:>2}"
            )
    path.write_text("\n".join([*lines, "END", ""]), encoding="utf-8")
    return path


def blob_rows(seed: int, atoms: int = 400, turn: int | None = None) -> list[tuple[str, str, int, np.ndarray]]:
    positions = blob(seed, atoms)
    if turn is not None:
        positions = turned(positions, turn)
    return [("CA", "C", number + 1, place) for number, place in enumerate(positions)]


def balls(side: int, voxel: float, parts: list[tuple[tuple[float, float, float], float]]) -> torch.Tensor:
    """Map (side, side, side) of full balls: centres (x, y, z) from the middle and radii [Å]."""
    axis = (torch.arange(side) - side // 2).float() * voxel
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    data = torch.zeros(side, side, side)
    for (cx, cy, cz), radius in parts:
        data = torch.maximum(data, ((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 <= radius**2).float())
    return data
