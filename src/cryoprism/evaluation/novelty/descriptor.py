"""The shape descriptor of a map or a model: a vector that compares shape and size whatever the orientation."""

from __future__ import annotations

import gzip
import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray

from cryoprism.core import InputError, point_group_matrices
from cryoprism.formats import Atoms, read_map, read_structure

from .entries import Entry
from .preparation import SIDE, Shape, shape_of_atoms, shape_of_map
from .states import state_histogram, state_sequences, states_available
from .zernike import ORDER, ball_grid, grid_invariants, invariant_labels

__all__ = [
    "DESCRIPTOR",
    "DIMENSION",
    "MAP_SUFFIXES",
    "MODEL_SUFFIXES",
    "Descriptor",
    "NoShapeError",
    "describe_file",
    "kind_of_file",
    "shape_pictures",
    "shape_vector",
]

#: Version of the vectors; those of another version cannot be compared.
DESCRIPTOR: Final = f"zernike{ORDER}-v1"
#: 121 invariants, the logarithm of the radius of gyration, and zeros up to a multiple of 16.
DIMENSION: Final = 128
MODEL_SUFFIXES: Final = (".pdb", ".ent", ".cif", ".mmcif")
MAP_SUFFIXES: Final = (".mrc", ".map", ".ccp4", ".rec")
# Invariants of high order carry more noise than shape: they fade as exp(-(n / 15)²).
_FADE: Final = 15.0
_PICTURE_SIDE: Final = 48
#: A model of fewer residues and fewer atoms, and a map of a smaller radius of gyration (in resolutions), has no shape.
_LEAST_RESIDUES: Final = 20
_LEAST_ATOMS: Final = 100
_LEAST_GYRATION: Final = 0.6
_NO_SHAPE_REMEDY: Final = "Give a molecule or a complex of at least 20 residues or 100 atoms."


class NoShapeError(InputError):
    """What was given is too small for its outer shape to say what it is."""


@dataclass(frozen=True, eq=False)
class Descriptor:
    """What the index compares.

    Attributes
    ----------
    vector
        (128,) float32.
    entry
        Name, source, kind, size, 3Di histogram and pictures.
    share_outside
        Part of the envelope beyond 1.8 radii of gyration, which the invariants do not see.
    notes
        What was left out: 3Di states where mini3di is absent, further models of a file.
    restored
        (128,) of a map with its low frequencies restored, under which it is looked for too; None for a model.
    """

    vector: NDArray[np.float32]
    entry: Entry
    share_outside: float
    notes: tuple[str, ...]
    restored: NDArray[np.float32] | None = None

    def looks(self) -> NDArray[np.float32]:
        """(k, 128): every vector under which it is looked for."""
        return self.vector[None] if self.restored is None else np.stack([self.vector, self.restored])


def shape_vector(shape: Shape) -> NDArray[np.float32]:
    """Vector (128,) of a shape.

    The invariants, faded with their order, as a vector of length 1, then ln(radius of gyration / Å): the unit ball is
    scaled by the radius of gyration, so that only this entry knows the size. A distance of 0.1 is 10 % in radius.
    A shape and its mirror image have the same vector.
    """
    norms = grid_invariants(shape.envelope, SIDE)
    norms = norms * np.exp([-((n / _FADE) ** 2) for n, _ in invariant_labels()])
    vector = np.zeros(DIMENSION, dtype=np.float32)
    vector[: norms.size] = norms / np.linalg.norm(norms)
    vector[norms.size] = np.log(shape.radius_of_gyration_in_angstroms)
    return vector


def shape_pictures(shape: Shape) -> NDArray[np.uint8]:
    """Projections (3, n, n) of an envelope along its principal axes, the longest upright in the first two.

    The sides of the axes are chosen by the third moments, without mirroring. A pixel is 3.6/48 radii of gyration; n is
    48, or as many as the molecule needs.
    """
    points = ball_grid(SIDE)
    weights = shape.envelope / shape.envelope.sum()
    centred = points - weights @ points
    _, axes = np.linalg.eigh((centred * weights[:, None]).T @ centred)
    axes = axes[:, ::-1]  # the longest first
    skew = (weights[:, None] * (centred @ axes) ** 3).sum(0)
    axes = axes * np.where(skew < 0, -1.0, 1.0)
    axes[:, 2] *= np.sign(np.linalg.det(axes))
    cube = shape.beyond
    if cube is None:
        cube = np.zeros((SIDE,) * 3, dtype=np.float32)
        place = np.rint((points + 1) * SIDE / 2 - 0.5).astype(int)
        cube[place[:, 2], place[:, 1], place[:, 0]] = shape.envelope
    pixels = _PICTURE_SIDE * len(cube) // SIDE
    # Rows of the turned cube: from the top down the longest axis, then the middle one, then the shortest.
    grid = (np.arange(pixels) - (pixels - 1) / 2) * (2 / _PICTURE_SIDE)
    u, v, w = np.meshgrid(-grid, grid, grid, indexing="ij")
    at = np.stack([u, v, w], -1).reshape(-1, 3) @ axes.T
    turned = scipy.ndimage.map_coordinates(cube, (at[:, ::-1] * SIDE / 2 + (len(cube) - 1) / 2).T, order=1)
    turned = turned.reshape((pixels,) * 3)
    sums = [turned.sum(2), turned.sum(1), turned.sum(0)]
    return np.stack([np.clip(255 * s / max(float(s.max()), 1e-9), 0, 255).astype(np.uint8) for s in sums])


def kind_of_file(path: str | os.PathLike[str]) -> Literal["model", "map"] | None:
    """Whether a file's name is that of a model or a map; None for any other file."""
    name = Path(path).name.lower()
    for suffix in (".gz", ".bz2"):
        name = name.removesuffix(suffix)
    if name.endswith(MODEL_SUFFIXES):
        return "model"
    return "map" if name.endswith(MAP_SUFFIXES) else None


def describe_file(
    path: str | os.PathLike[str],
    *,
    resolution_in_angstroms: float = 10.0,
    assembly: str | None = None,
    symmetry: str | None = None,
    centre_in_angstroms: tuple[float, float, float] = (0.0, 0.0, 0.0),
    voxel_size_in_angstroms: float | None = None,
) -> Descriptor:
    """Descriptor of a map (MRC, CCP4) or a model (PDB, mmCIF), gzipped or not.

    Parameters
    ----------
    path
        The file.
    resolution_in_angstroms
        Common resolution [Å]; vectors of different ones cannot be compared.
    assembly
        Biological assembly of a model (``"1"`` …); the coordinates as they stand if absent.
    symmetry, centre_in_angstroms
        Point group of a model that is one unit of a particle, and its centre (x, y, z) [Å]: the shape is that of all
        copies together.
    voxel_size_in_angstroms
        Of a map, in place of its header's [Å].

    Raises
    ------
    InputError
        No such file, neither a map nor a model, no atoms, no voxel size, or nothing that stands out of the noise.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(file, "does not exist", "Give a map (.mrc, .map) or a model (.pdb, .cif), gzipped or not.")
    kind = kind_of_file(file)
    notes: list[str] = []
    states = None
    restored = None
    try:
        if kind == "model":
            atoms = _read_model(file, assembly)
            if int(atoms.models.max()) > int(atoms.models.min()):
                notes.append(f"Of {int(atoms.models.max()) + 1} models in {file.name} the first was taken.")
            atoms = atoms.select((atoms.models == atoms.models.min()) & (atoms.atomic_numbers > 0))
            _require_a_shape(atoms)
            whole = atoms
            if symmetry is not None and symmetry.upper() != "C1":
                whole = _all_copies(atoms, symmetry, centre_in_angstroms)
                notes.append(
                    f"The shape is that of the whole particle: the model and its copies by {symmetry.upper()}."
                )
            shape = shape_of_atoms(whole, resolution_in_angstroms)
            if states_available():
                states = state_histogram(state_sequences(atoms))
            else:
                notes.append(
                    "3Di states were left out: mini3di is not installed (in CryoPrism's own folder: make assess)."
                )
        elif kind == "map":
            volume = read_map(file, voxel_size_in_angstroms)
            shape = shape_of_map(volume, resolution_in_angstroms)
            if shape.radius_of_gyration_in_angstroms < _LEAST_GYRATION * resolution_in_angstroms:
                raise NoShapeError(
                    "map",
                    f"what stands out has a radius of gyration of {shape.radius_of_gyration_in_angstroms:.1f} Å, too "
                    f"little to have a shape at {resolution_in_angstroms:g} Å",
                    _NO_SHAPE_REMEDY,
                )
            with suppress(InputError):  # raised, its noise may hide the molecule
                restored = shape_vector(shape_of_map(volume, resolution_in_angstroms, low_frequencies_restored=True))
        else:
            raise InputError(
                file,
                "is by its name neither a map nor a model",
                "Give .mrc, .map, .ccp4, .pdb or .cif, gzipped or not.",
            )
    except InputError as error:
        # What the map or model is called matters more than that it is one.
        raise error if str(file) in str(error.where) else type(error)(file, error.found, error.remedy) from error
    name = file.name
    for suffix in (".gz", ".bz2"):
        name = name.removesuffix(suffix)
    entry = Entry(
        name=Path(name).stem + (f" assembly {assembly}" if assembly and kind == "model" else ""),
        source=str(file.resolve()),
        kind=str(kind),
        sha256=_digest(file),
        radius_of_gyration_in_angstroms=shape.radius_of_gyration_in_angstroms,
        volume_in_cubic_angstroms=shape.volume_in_cubic_angstroms,
        states=states,
        pictures=shape_pictures(shape),
    )
    return Descriptor(shape_vector(shape), entry, shape.share_outside, tuple(notes), restored)


def _all_copies(atoms: Atoms, symmetry: str, centre: tuple[float, float, float]) -> Atoms:
    """Return the atoms with all their copies by a point group about a centre (x, y, z) [Å]."""
    turns = point_group_matrices(symmetry).to(atoms.positions_in_angstroms)
    middle = torch.tensor(centre).to(atoms.positions_in_angstroms)
    places = torch.einsum("gij,nj->gni", turns, atoms.positions_in_angstroms - middle) + middle
    many = len(turns)
    return Atoms(
        places.reshape(-1, 3),
        atoms.atomic_numbers.repeat(many),
        atoms.b_factors_in_square_angstroms.repeat(many),
        atoms.occupancies.repeat(many),
        atoms.models.repeat(many),
        atoms.atom_names * many,
        atoms.residue_names * many,
        atoms.residue_numbers * many,
        atoms.chains * many,
    )


def _read_model(file: Path, assembly: str | None) -> Atoms:
    try:
        return read_structure(file, assembly, include_waters=False, include_hydrogens=False)
    except InputError as error:
        if error.found != "holds no atoms":
            raise
        read_structure(file, assembly)  # raises where there is nothing at all
        raise NoShapeError(file, "holds nothing but water and hydrogens", _NO_SHAPE_REMEDY) from error


def _require_a_shape(atoms: Atoms) -> None:
    """Refuse what is both less than 20 residues and less than 100 atoms.

    A trace of alpha carbons has few atoms and a short piece of DNA few residues: either has a shape.
    """
    if not len(atoms):
        raise InputError("model", "holds no atom of a known element", "Give a structure with known elements.")
    residues = len(set(zip(atoms.chains, atoms.residue_numbers, strict=True)))
    if residues < _LEAST_RESIDUES and len(atoms) < _LEAST_ATOMS:
        raise NoShapeError(
            "model",
            f"has {len(atoms)} atom{'s' if len(atoms) != 1 else ''} in {residues} residue"
            f"{'s' if residues != 1 else ''} (without water and hydrogens), fewer than {_LEAST_ATOMS} and fewer than "
            f"{_LEAST_RESIDUES}: too little to have a shape",
            _NO_SHAPE_REMEDY,
        )


def _digest(file: Path) -> str:
    """SHA-256 of a file's content, of what is inside where it is gzipped: a packed copy is the same file."""
    digest = hashlib.sha256()
    opener: Any = gzip.open if file.suffix.lower() == ".gz" else open
    with opener(file, "rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
