"""The envelope of a map, and which atoms of a model lie outside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from cryoprism.core import InputError
from cryoprism.formats import Volume
from cryoprism.structure import molecule_threshold, no_molecule

from ._model import Model

__all__ = ["FINE", "Envelope", "envelope_of", "voxel_indices"]

#: Voxel sizes and origins are in units of 2^-20 * 0.001 Å, as in Local.v.
FINE = 1 << 20
_SMOOTH = 2.0  # Å
#: A contour that holds a larger share of the map, by itself or with its margin, would hold any model.
_MOST_FILLED = 0.9


@dataclass(frozen=True)
class Envelope:
    """Voxels of a map at or above its contour, and those near them.

    Attributes
    ----------
    inside
        (z, y, x), whether a voxel belongs.
    voxel, origin
        Of the voxels' lower corners in the frame of ``Model.points``, in units of 2^-20 * 0.001 Å; origin is (x, y, z).
    contour, margin_in_angstroms
        Level of the map (smoothed where ``smoothed``), and how far beyond it an atom may lie.
    doubt
        Why nothing can be told from the map, which looks like noise; empty where a molecule stands out of it.
    """

    inside: NDArray[np.bool_]
    voxel: int
    origin: tuple[int, int, int]
    contour: float
    margin_in_angstroms: float
    smoothed: bool
    doubt: str = ""


def envelope_of(
    model: Model, volume: Volume, *, contour: float | None = None, margin_in_angstroms: float = 3.0
) -> Envelope:
    """Find the envelope of a map.

    Without a contour the map is smoothed with a Gaussian of 2 Å and divided where ``structure.molecule_threshold``
    does it; a contour that is given counts for the map as it is.

    Raises
    ------
    InputError
        The map is empty, nothing of it reaches the contour, or nearly all of it does or lies within the margin.
    """
    data = volume.data.float().numpy()
    size = volume.voxel_size_in_angstroms
    if float(np.ptp(data)) == 0:
        raise InputError("--map", "is empty: all voxels are the same", "Give a map of the molecule.")
    doubt = no_molecule(volume)
    smoothed = contour is None
    if contour is None:
        data = gaussian_filter(data, _SMOOTH / size)
        level = molecule_threshold(torch.from_numpy(data))
    else:
        level = contour
    dense = data >= level
    if not dense.any():
        raise InputError(
            "--contour", f"nothing of the map reaches {level:g} (most: {data.max():g})", "Give a lower one."
        )
    if (filled := float(dense.mean())) > _MOST_FILLED:
        raise InputError(
            "--contour",
            f"{100 * filled:.3g} % of the map reach {level:g}, so that it bounds nothing",
            "Give a higher one.",
        )
    near = np.asarray(distance_transform_edt(~dense)) * size <= margin_in_angstroms
    if (filled := float(near.mean())) > _MOST_FILLED and not doubt:
        raise InputError(
            "--margin",
            f"{100 * filled:.3g} % of the map lie within {margin_in_angstroms:g} Å of the contour, so that it bounds "
            "nothing",
            "Give a smaller one, a higher --contour, or a map with more solvent around the molecule.",
        )
    voxel = round(size * 1000 * FINE)
    origin = tuple(
        round((1000 * volume.origin_in_angstroms[k] - int(model.corner[k]) - 500 * size) * FINE) for k in range(3)
    )
    return Envelope(near, voxel, (origin[0], origin[1], origin[2]), float(level), margin_in_angstroms, smoothed, doubt)


def voxel_indices(model: Model, envelope: Envelope) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Voxel (x, y, z) of each atom, and whether it belongs to the envelope."""
    index = (model.points * FINE - np.array(envelope.origin)) // envelope.voxel
    shape = np.array(envelope.inside.shape[::-1])
    valid = ((index >= 0) & (index < shape)).all(axis=1)
    inside = np.zeros(len(model), dtype=bool)
    x, y, z = index[valid].T
    inside[valid] = envelope.inside[z, y, x]
    return index, inside
