"""Whether a molecule stands out of the noise of a map, and its dense pieces."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoprism.core import InputError, volume_frequency_grid
from cryoprism.formats import Volume

from .masks import molecule_threshold

__all__ = ["DENSE_LEVEL", "LEAST_CONTRAST", "DensePieces", "dense_pieces", "low_passed", "no_molecule"]

#: Level of a molecule's edge between the solvent (0) and the mean of the molecule (1).
DENSE_LEVEL = 0.5
#: A molecule has to stand out of the solvent by this many of the solvent's standard deviations; noise reaches 3.9.
LEAST_CONTRAST = 4.0
#: Or the values form two groups: variance between them over all variance (Otsu 1979, IEEE Trans. Syst. Man Cybern. 9,
#: 62). Gaussian noise has 2/π, in boxes of few wavelengths up to 0.72; where a molecule fills much of the box, its
#: spread is taken for the solvent's, but values form two groups: 0.80 and more.
_LEAST_DIVISION = 0.75
_PASSES = 12
_RESOLUTION = 10.0  # Å


@dataclass(frozen=True, eq=False)
class DensePieces:
    """What stands out of a low-passed map.

    Attributes
    ----------
    pieces
        (z, y, x), whether a voxel belongs to a piece of at least a twentieth of the largest.
    solvent, spread
        Median of the solvent and its standard deviation (from the median of deviations).
    height
        Mean of the pieces above the solvent.
    """

    pieces: NDArray[np.bool_]
    solvent: float
    spread: float
    height: float

    @property
    def contrast(self) -> float:
        """Height in standard deviations of the solvent."""
        return self.height / max(self.spread, 1e-12)

    @property
    def words(self) -> str:
        """What to say where the contrast is too low."""
        return (
            f"no molecule stands out: its densest parts are {self.contrast:.1f} standard deviations of the noise above "
            f"the solvent, and {LEAST_CONTRAST:g} are needed"
        )


def low_passed(volume: Volume, resolution_in_angstroms: float) -> tuple[NDArray[np.float32], list[float]]:
    """Map blurred by a Gaussian that falls to 1/e at a resolution, on a grid of about a third of it.

    Returns
    -------
    ndarray, list of float
        The map (z, y, x), and the voxel size along z, y and x [Å].
    """
    resolution = resolution_in_angstroms
    data = volume.data.float()
    voxel = volume.voxel_size_in_angstroms
    shape = [int(n) for n in data.shape]
    spectrum = torch.fft.rfftn(data)
    small = [min(n, 2 * math.ceil(1.5 * n * voxel / resolution)) for n in shape]
    for axis, (n, s) in enumerate(zip(shape, small, strict=True)):
        keep = torch.arange(s // 2 + 1) if axis == 2 else (torch.fft.fftfreq(s) * s).round().long().remainder(n)
        spectrum = spectrum.index_select(axis, keep)
    # Scaled in this order: a last bit can decide whether a piece counts, and vectors of indexes stay as they are.
    per_voxel = zip(volume_frequency_grid(small, 1.0), shape, small, strict=True)
    z, y, x = (f * (s / (n * voxel)) * resolution for f, n, s in per_voxel)
    spectrum = spectrum * torch.exp(-(z**2 + y**2 + x**2))
    scale = math.prod(small) / math.prod(shape)
    smooth: Tensor = torch.fft.irfftn(spectrum * scale, s=small)
    return smooth.numpy(), [n * voxel / s for n, s in zip(shape, small, strict=True)]


def dense_pieces(smooth: NDArray[np.float32]) -> DensePieces:
    """Find what stands out of a low-passed map (z, y, x) whose protein is bright.

    The level lies half way between the solvent and the mean of what exceeds it (Ridler & Calvard 1978, with a fixed
    background), but at least three standard deviations of the solvent above it.

    Raises
    ------
    InputError
        The map is constant.
    """
    level = molecule_threshold(torch.from_numpy(smooth))
    outside = smooth[smooth <= level]
    solvent = float(np.median(outside))
    spread = 1.4826 * float(np.median(np.abs(outside - solvent)))
    piece = _large_pieces(smooth > level)
    for _ in range(_PASSES):
        height = float(smooth[piece].mean()) - solvent
        fresh = _large_pieces(smooth > solvent + max(DENSE_LEVEL * height, 3.0 * spread))
        if not fresh.any() or bool((fresh == piece).all()):
            break
        piece = fresh
    return DensePieces(piece, solvent, spread, float(smooth[piece].mean()) - solvent)


def _large_pieces(molecule: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = scipy.ndimage.label(molecule)
    if count < 2:
        return molecule
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= 0.05 * sizes.max())[labels])


def no_molecule(volume: Volume) -> str:
    """Return why a map looks like noise, in words; empty where a molecule stands out, or its values form two groups.

    The map is low-passed at 10 Å first, so that noise without a molecule is about Gaussian whatever its resolution.
    Of a map with fewer than 64 values there nothing is said.
    """
    smooth, _ = low_passed(volume, _RESOLUTION)
    try:
        dense = dense_pieces(smooth)
    except InputError:  # too few values for a level between molecule and solvent
        return ""
    return "" if dense.contrast >= LEAST_CONTRAST or _division(smooth) >= _LEAST_DIVISION else dense.words


def _division(values: NDArray[np.float32]) -> float:
    """Variance between the two groups that divide the values best, over all variance."""
    ordered = np.sort(values, axis=None).astype(np.float64)
    ordered -= ordered.mean()
    below = np.arange(1, ordered.size) / ordered.size
    means = np.cumsum(ordered)[:-1] / ordered.size
    return float((means**2 / (below * (1 - below))).max() / max(float(ordered.var()), 1e-300))
