"""Correlations with the truth, ring by ring and in real space, and their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoprism.core import frequency_grid, rfft2

#: Resolution shells [Å], coarse to fine.
SHELLS = ((100, 40), (40, 25), (25, 15), (15, 10), (10, 7), (7, 5))


@dataclass(frozen=True)
class Rings:
    """Ring number of each coefficient of the half plane, coefficients per ring, ring radius [1/Å]."""

    index: np.ndarray
    count: np.ndarray
    frequency: np.ndarray

    @classmethod
    def of(cls, shape: tuple[int, int], pixel: float) -> Rings:
        """Rings one Fourier pixel wide."""
        ky, kx = frequency_grid(shape, pixel)
        step = 1 / (min(shape) * pixel)
        index = (torch.sqrt(ky * ky + kx * kx) / step).round().long().numpy()
        # The first and last columns hold conjugate pairs; they are left out.
        index[:, 0] = index[:, -1] = 0
        count = np.bincount(index.ravel())
        return cls(index, count, np.arange(len(count)) * step)

    def correlation(self, a: Tensor, b: Tensor) -> np.ndarray:
        """Fourier ring correlation; 0 where one of the two has nothing."""
        fa, fb = rfft2(a - a.mean()), rfft2(b - b.mean())
        size = len(self.count)
        cross = np.bincount(self.index.ravel(), (fa * fb.conj()).real.double().numpy().ravel(), size)
        pa = np.bincount(self.index.ravel(), fa.abs().double().square().numpy().ravel(), size)
        pb = np.bincount(self.index.ravel(), fb.abs().double().square().numpy().ravel(), size)
        # A band that a filter has closed holds rounding errors only.
        closed = (pa < 1e-10 * pa[1:].max()) | (pb < 1e-10 * pb[1:].max())
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(closed, 0.0, np.nan_to_num(cross / np.sqrt(pa * pb)))

    def within(self, coarse: float, fine: float) -> np.ndarray:
        """Say which rings lie in a shell [Å]."""
        return (self.frequency >= 1 / coarse) & (self.frequency < 1 / fine)

    def chance(self, coarse: float, fine: float) -> float:
        """Return the standard deviation of the mean ring correlation of images that have nothing in common."""
        n = self.count[self.within(coarse, fine)]
        return float(np.sqrt((1 / (2 * n)).sum()) / len(n))


def pearson(a: Tensor, b: Tensor) -> float:
    x, y = (a - a.mean()).double().flatten(), (b - b.mean()).double().flatten()
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm > 0 else 0.0


def figures(image: Tensor, truth: Tensor, rings: Rings, weight: np.ndarray) -> list[float]:
    """Mean ring correlation of each shell, mean weighted by true signal, real-space correlation."""
    frc = rings.correlation(image, truth)
    shells = [float(frc[rings.within(*shell)].mean()) for shell in SHELLS]
    return [*shells, float((frc * weight).sum() / weight.sum()), pearson(image, truth)]


def reachable(image: Tensor, truth: Tensor, rings: Rings) -> float:
    """Real-space correlation if each ring of the image had the weight that suits it best."""
    frc = rings.correlation(image, truth)
    power = rfft2(truth - truth.mean()).abs().double().square().numpy().ravel()
    share = np.bincount(rings.index.ravel(), power, len(rings.count))
    return float(np.sqrt((frc**2 * share).sum() / share.sum()))


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over micrographs."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (4000, len(values)))].mean(1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))
