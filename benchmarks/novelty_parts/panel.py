"""Descriptors of real structures and of copies of them, kept in a file so that they are made once."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryoprism.core import InputError
from cryoprism.evaluation.novelty import Shape, copies_of, shape_of_atoms, shape_of_map, shape_vector
from cryoprism.formats import Atoms, Volume, read_structure

#: Entries of one molecule or of near relatives: their pairs count neither as equal nor as different shapes.
RELATIVES = (
    ("1u19", "3dqb", "3pqr"),
    ("5o3l", "5o3t"),
    ("4oyn assembly 1", "6z6u"),
    ("1oel", "1oel assembly 1"),
    ("4oyn", "4oyn assembly 1"),
    ("1gbt", "1sfi"),
)
#: Biological assemblies that stand beside the deposited coordinates.
ASSEMBLIES = (("4oyn", "1"), ("1oel", "1"))


@dataclass(frozen=True, eq=False)
class Panel:
    """Structures and their copies.

    Attributes
    ----------
    names
        Of the structures.
    models
        (n, 128) vectors.
    copies, owner, noise
        (m, 2, 128) vectors of maps, as they are and with low frequencies restored, the structure each is a copy of,
        and its noise.
    deposited
        (m,) whether low frequencies were lost, the map sharpened and mostly its solvent flattened.
    radius, volume, copy_radius, copy_volume
        Radii of gyration [Å] and volumes [Å³].
    refused
        Copies in which no molecule stood out of the noise, of all that were made.
    """

    names: list[str]
    models: NDArray[np.float32]
    copies: NDArray[np.float32]
    owner: NDArray[np.int64]
    noise: NDArray[np.float64]
    deposited: NDArray[np.bool_]
    radius: NDArray[np.float64]
    volume: NDArray[np.float64]
    copy_radius: NDArray[np.float64]
    copy_volume: NDArray[np.float64]
    refused: int

    def distances(self) -> NDArray[np.float64]:
        """(m, n): of every copy to every model, the smaller of its two vectors'."""
        return looked_for(self.copies, self.models)

    def related(self) -> NDArray[np.bool_]:
        """(n, n): itself and relatives."""
        same = np.eye(len(self.names), dtype=bool)
        for group in RELATIVES:
            members = [self.names.index(name) for name in group if name in self.names]
            for one in members:
                same[one, members] = True
        return same


def looked_for(looks: NDArray[np.float32], models: NDArray[np.float32]) -> NDArray[np.float64]:
    """Distances (m, n) of queries (m, k, d), the smallest of their k vectors', to models (n, d)."""
    one = models.astype(np.float64)
    parts = [np.linalg.norm(looks[:, k, None].astype(np.float64) - one[None], axis=-1) for k in range(looks.shape[1])]
    return np.asarray(np.min(parts, axis=0))


def looks_of(volume: Volume) -> tuple[Shape, NDArray[np.float32]]:
    """Shape of a map, and the vectors (2, 128) under which it is looked for."""
    shape = shape_of_map(volume)
    first = shape_vector(shape)
    try:
        second = shape_vector(shape_of_map(volume, low_frequencies_restored=True))
    except InputError:
        second = first
    return shape, np.stack([first, second])


def structures_folder() -> Path:
    """Folder of the real structures."""
    root = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("CRYOPRISM_DATA", root)) / "structures"
    if not folder.is_dir():
        raise InputError(folder, "does not exist", "Name the folder of the data in CRYOPRISM_DATA.")
    return folder


def read_atoms(name: str) -> Atoms:
    """First model of a structure, ``1oel`` or ``1oel assembly 1``, without waters and hydrogens."""
    code, _, assembly = name.partition(" assembly ")
    file = next(structures_folder().glob(f"{code}.*.gz"))
    atoms = read_structure(file, assembly or None, include_waters=False, include_hydrogens=False)
    return atoms.select((atoms.models == atoms.models.min()) & (atoms.atomic_numbers > 0))


def panel_names() -> list[str]:
    """Names of all structures, assemblies among them."""
    codes = sorted(path.name[:4] for path in structures_folder().glob("*.gz"))
    return codes + [f"{code} assembly {number}" for code, number in ASSEMBLIES]


def make_panel(work: Path, count: int, seed: int, names: list[str] | None = None) -> Panel:
    """Describe every structure and ``count`` copies of it, or read what an earlier run described."""
    torch.set_num_threads(1)
    chosen = panel_names() if names is None else names
    file = work / f"panel2-{len(chosen)}-{count}-{seed}.npz"
    if file.is_file():
        with np.load(file) as kept:
            values = {key: kept[key] for key in kept.files if key not in {"names", "refused"}}
            return Panel(names=kept["names"].tolist(), refused=int(kept["refused"]), **values)
    models, copies, owner, noise, deposited, sizes, copy_sizes = [], [], [], [], [], [], []
    refused = 0
    started = time.process_time()
    for place, name in enumerate(chosen):
        atoms = read_atoms(name)
        shape = shape_of_atoms(atoms)
        models.append(shape_vector(shape))
        sizes.append((shape.radius_of_gyration_in_angstroms, shape.volume_in_cubic_angstroms))
        for recipe, volume in copies_of(atoms, count, seed, name):
            try:
                copy, looks = looks_of(volume)
            except InputError:
                refused += 1
                continue
            copies.append(looks)
            owner.append(place)
            noise.append(recipe.noise)
            deposited.append(recipe.sharpening_in_square_angstroms > 0)
            copy_sizes.append((copy.radius_of_gyration_in_angstroms, copy.volume_in_cubic_angstroms))
    print(f"Described {len(chosen)} structures and {len(copies)} copies in {time.process_time() - started:.0f} CPU s.")
    size, copy_size = np.array(sizes), np.array(copy_sizes)
    panel = Panel(
        chosen,
        np.stack(models),
        np.stack(copies),
        np.array(owner),
        np.array(noise),
        np.array(deposited),
        size[:, 0],
        size[:, 1],
        copy_size[:, 0],
        copy_size[:, 1],
        refused,
    )
    work.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{key: np.asarray(value) for key, value in vars(panel).items()})
    return panel
