"""Whether a map shows its model at another size, as it does where the voxel size in its header is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cryoprism.formats import Volume

__all__ = ["FoundScale", "scale_of_map"]

_SIDE: Final = 48
_SCALES: Final = np.exp(np.arange(-24, 25) * math.log(2.6) / 24)
_BLUR_IN_VOXELS: Final = 1.5
#: Another size is named where the map looks as much like the model there, and so much more than at its own size.
_ALIKE: Final = 0.8
_BETTER: Final = 0.05
_OTHER: Final = 0.06


@dataclass(frozen=True)
class FoundScale:
    """Length in the map over length in the model, with the correlation there and at the model's own size."""

    scale: float
    correlation: float
    as_it_is: float


def scale_of_map(places_in_angstroms: NDArray[np.float64], volume: Volume) -> FoundScale | None:
    """Compare a map with its model at sizes from 0.38 to 2.6, each wherever in the map it fits best.

    The model keeps its orientation, as a wrong voxel size does not turn it. The map is binned to at most 48 voxels a
    side.

    Parameters
    ----------
    places_in_angstroms
        Atoms (n, 3) as (x, y, z) [Å], in any frame without rotation to the map's.
    volume
        The map.

    Returns
    -------
    FoundScale or None
        None where the model's own size is as good, or no size makes the map look like the model.
    """
    data = volume.data.float().numpy()
    bins = max(1, math.ceil(max(data.shape) / _SIDE))
    z, y, x = (n // bins for n in data.shape)
    if min(z, y, x) < 4:
        return None
    data = data[: z * bins, : y * bins, : x * bins].reshape(z, bins, y, bins, x, bins).mean(axis=(1, 3, 5))
    # Room on every side, so that nothing wraps around.
    shape = [scipy.fft.next_fast_len(2 * n, real=True) for n in data.shape]
    smooth = gaussian_filter(data - np.median(data), _BLUR_IN_VOXELS)
    seen = scipy.fft.rfftn(smooth, shape)
    norm = float(np.linalg.norm(smooth))
    centred = places_in_angstroms - places_in_angstroms.mean(axis=0)
    voxel = bins * volume.voxel_size_in_angstroms

    def best_of(scales: NDArray[np.float64]) -> tuple[float, float]:
        found = [_correlation(centred * (float(scale) / voxel), seen, norm, data.shape, shape) for scale in scales]
        return float(scales[int(np.argmax(found))]), max(found)

    scale, alike = best_of(_SCALES)
    own = best_of(np.ones(1))[1]
    if abs(scale - 1) < _OTHER or alike < _ALIKE or alike < own + _BETTER:
        return None
    scale, alike = best_of(scale * np.linspace(0.96, 1.04, 17))
    return FoundScale(scale, alike, own)


def _correlation(
    points: NDArray[np.float64],
    seen: NDArray[np.complex128],
    norm: float,
    side: tuple[int, ...],
    shape: list[int],
) -> float:
    """Highest correlation of points (n, 3), in voxels about their centre, with a map, over all shifts."""
    low = np.floor(points.min(axis=0)).astype(int) - 4
    index = np.rint(points).astype(int) - low
    extent = index.max(axis=0) + 5
    if norm == 0 or any(extent[::-1] > np.array(side) + 8):
        return 0.0
    made = np.zeros(shape, dtype=np.float64)
    np.add.at(made, (index[:, 2], index[:, 1], index[:, 0]), 1.0)
    made = gaussian_filter(made, _BLUR_IN_VOXELS, mode="wrap")
    product = scipy.fft.irfftn(seen * np.conj(scipy.fft.rfftn(made)), shape)
    return float(product.max()) / (norm * float(np.linalg.norm(made)))
