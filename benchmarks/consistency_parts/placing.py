"""How far a model may stand from its map before the rule about its place refutes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cryoprism.core import generator_for
from cryoprism.evaluation.consistency import Model, placement_case, read_model
from cryoprism.formats import Volume, read_map, read_structure
from cryoprism.structure import fit_model_rigidly

__all__ = ["placing"]

ENTRIES = ("3dqb.pdb.gz", "4p5j.cif.gz", "6u8a.cif.gz")
RESOLUTIONS = (3.0, 6.0, 10.0)
SHIFTS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
SCALES = (0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 1.0, 1.02, 1.03, 1.04, 1.05, 1.07, 1.1, 1.15, 1.2)
_VOXEL = 1.5
_DIRECTIONS = 8


def simulated(model: Model, resolution: float, seed: int) -> Volume:
    """Make a SIMULATED map: Gaussians of 0.225 times the resolution, one residue in five weak, half its rms noise."""
    rng = np.random.default_rng(seed)
    places = (model.points + model.corner) / 1000
    low = places.min(axis=0) - 20
    grid = np.zeros(np.ceil((np.ptp(places, axis=0) + 40) / _VOXEL).astype(int))
    weights = np.where(rng.random(len(model.residues)) < 0.2, 0.2, 1.0)[model.residue_of]
    np.add.at(grid, tuple(np.rint((places - low) / _VOXEL).astype(int).T), weights)
    grid = gaussian_filter(grid, 0.225 * resolution / _VOXEL)
    grid += rng.normal(size=grid.shape) * 0.5 * grid.std()
    return Volume(torch.from_numpy(grid.transpose(2, 1, 0).astype(np.float32)), _VOXEL, tuple(low.tolist()))


def _altered(volume: Volume, shift: NDArray[np.float64], scale: float) -> Volume:
    """Return the map with its origin moved, and its voxels scaled about its middle."""
    size = volume.voxel_size_in_angstroms
    shape = np.array(volume.data.shape[::-1])
    origin = np.array(volume.origin_in_angstroms) + shift - 0.5 * shape * size * (scale - 1)
    return Volume(volume.data, size * scale, tuple(origin.tolist()))


def _verdict(model: Model, volume: Volume, shift: NDArray[np.float64], scale: float = 1.0) -> str:
    case = placement_case(model, _altered(volume, shift, scale))
    if case is None:
        raise ValueError(f"{model.path} has no polymer")
    return "refuted" if case.refuted else "unknown" if case.borderline else "proved"


def _row(name: str, model: Model, volume: Volume, seed: int) -> str:
    ways = torch.randn((_DIRECTIONS, 3), generator=generator_for(seed, "directions", name)).double().numpy()
    ways /= np.linalg.norm(ways, axis=1)[:, None]
    still = np.zeros(3)
    moved = {length: [_verdict(model, volume, length * way) for way in ways] for length in SHIFTS}
    scaled = {scale: _verdict(model, volume, still, scale) for scale in SCALES}
    cells = [_verdict(model, volume, still)]
    for fine in ({"refuted", "unknown"}, {"refuted"}):
        reach = [length for length in SHIFTS if all(set(moved[k]) <= fine for k in SHIFTS if k >= length)]
        below = [k for k in SCALES if k < 1 and all(scaled[j] in fine for j in SCALES if j <= k)]
        above = [k for k in SCALES if k > 1 and all(scaled[j] in fine for j in SCALES if j >= k)]
        cells.append(f"{min(reach):g}" if reach else "–")
        cells.append(f"{max(below):g}" if below else "–")
        cells.append(f"{min(above):g}" if above else "–")
    return f"| {name} | {' | '.join(cells)} |"


def placing(folder: Path, maps: Path, seed: int) -> None:
    """Print from which shift and voxel size on a model is never proved, and always refuted."""
    print(
        "\n| map | right model | never proved from shift [Å] | to voxels x | from voxels x "
        "| always refuted from shift [Å] | to voxels x | from voxels x |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for entry in ENTRIES:
        model = read_model(folder / entry)
        for resolution in RESOLUTIONS:
            name = f"{entry.split('.')[0].upper()}, SIMULATED, {resolution:g} Å"
            print(_row(name, model, simulated(model, resolution, seed), seed), flush=True)
    volume = read_map(maps / "emd_1997_groel.mrc")
    fit = fit_model_rigidly(
        volume,
        read_structure(folder / "1oel.pdb.gz", include_waters=False),
        resolution_in_angstroms=20.0,
        rotations=600,
        refine=3,
    )
    model = read_model(folder / "1oel.pdb.gz")
    turn, shift = (part.double().numpy() for part in (fit.rotation, fit.translation_in_angstroms))
    places = np.rint(((model.points + model.corner) / 1000 @ turn.T + shift) * 1000).astype(np.int64)
    corner = places.min(axis=0) - 10_000
    fitted = replace(model, points=places - corner, corner=corner)
    print(_row("EMD-1997 (real), 1OEL fitted as a rigid body", fitted, volume, seed), flush=True)
