"""Fourier transforms that compute only the frequencies below a cutoff: what a restored view consists of.

Same conventions as :func:`cryoprism.core.rfft2`. On a micrograph whose signal ends well before Nyquist this halves the
work, and every later step runs on the short array.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
import torch
from torch import Tensor

__all__ = ["Band"]


def _threads() -> int:
    return max(1, min(torch.get_num_threads(), os.cpu_count() or 1))


@dataclass(frozen=True)
class Band:
    """The coefficients with |ky| and |kx| up to a cutoff of the half transform of one image.

    Attributes
    ----------
    shape
        Height and width [pixels] of the image.
    pixel_size_in_angstroms
        Pixel size [Å].
    rows
        Number of rows on each side of ky = 0; the band has 2 · rows + 1 rows, or the image's height if that is fewer.
    columns
        Number of columns, kx = 0 included.
    """

    shape: tuple[int, int]
    pixel_size_in_angstroms: float
    rows: int
    columns: int

    @classmethod
    def up_to(cls, shape: tuple[int, int], pixel_size_in_angstroms: float, cutoff: float) -> Band:
        """Smallest band that holds every frequency up to ``cutoff`` [1/Å]."""
        height, width = shape
        cutoff = min(cutoff, 1.0 / pixel_size_in_angstroms)  # beyond every coefficient
        rows = math.ceil(cutoff * height * pixel_size_in_angstroms)
        columns = math.ceil(cutoff * width * pixel_size_in_angstroms) + 1
        return cls((height, width), pixel_size_in_angstroms, max(1, rows), max(1, min(columns, width // 2 + 1)))

    @property
    def _row_index(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        height = self.shape[0]
        if 2 * self.rows + 1 >= height:
            return np.arange(height)
        return np.concatenate([np.arange(self.rows + 1), np.arange(height - self.rows, height)])

    def frequencies(self) -> tuple[Tensor, Tensor]:
        """(ky, kx) [1/Å] of the band, shapes (n, 1) and (1, columns)."""
        height, width = self.shape
        ky = np.fft.fftfreq(height, self.pixel_size_in_angstroms)[self._row_index]
        kx = np.arange(self.columns) / (width * self.pixel_size_in_angstroms)
        return torch.from_numpy(ky.astype(np.float32))[:, None], torch.from_numpy(kx.astype(np.float32))[None, :]

    def forward(self, image: Tensor) -> Tensor:
        """Unnormalised coefficients (n, columns) of an image (h, w)."""
        half = scipy.fft.rfft(image.numpy(), axis=1, workers=_threads())
        half = np.ascontiguousarray(half[:, : self.columns])
        full = scipy.fft.fft(half, axis=0, overwrite_x=True, workers=_threads())
        return torch.from_numpy(full[self._row_index])

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Image (h, w) whose coefficients are these in the band and zero outside."""
        height, width = self.shape
        full = np.zeros((height, self.columns), dtype=np.complex64)
        full[self._row_index] = coefficients.numpy()
        full = scipy.fft.ifft(full, axis=0, overwrite_x=True, workers=_threads())
        return torch.from_numpy(scipy.fft.irfft(full, n=width, axis=1, workers=_threads()))
