"""Modulation transfer functions of detectors, as RELION's STAR files tabulate them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoprism.core import InputError

from .star import read_star

__all__ = ["Mtf", "read_mtf"]


@dataclass(frozen=True)
class Mtf:
    """A tabulated MTF: ``value`` (n,) at ascending ``frequency_in_inverse_pixels`` (n,), Nyquist being 0.5 1/pixel."""

    frequency_in_inverse_pixels: Tensor
    value: Tensor

    def at(self, frequency_in_inverse_pixels: Tensor) -> Tensor:
        """Linear interpolation at |frequency| [1/pixel], of any shape; the end values hold beyond the table's ends."""
        wanted = frequency_in_inverse_pixels.abs()
        x = self.frequency_in_inverse_pixels.to(wanted)
        y = self.value.to(wanted)
        index = torch.searchsorted(x, wanted.contiguous()).clamp(1, x.numel() - 1)
        left, right = x[index - 1], x[index]
        share = ((wanted - left) / (right - left)).clamp(0.0, 1.0)
        return y[index - 1] + share * (y[index] - y[index - 1])


def read_mtf(path: str | os.PathLike[str]) -> Mtf:
    """Read an MTF from a STAR file with the columns ``rlnResolutionInversePixel`` [1/pixel] and ``rlnMtfValue``.

    Raises
    ------
    InputError
        The columns are missing, fewer than two rows are there, the frequencies do not ascend or a value is negative or
        not finite.
    """
    file = Path(path)
    for block in read_star(file):
        if {"rlnResolutionInversePixel", "rlnMtfValue"} <= set(block.labels):
            frequency = block.numbers("rlnResolutionInversePixel")
            value = block.numbers("rlnMtfValue")
            break
    else:
        raise InputError(
            file,
            "has no block with rlnResolutionInversePixel and rlnMtfValue",
            "Give an MTF as a RELION STAR file with these two columns.",
        )
    if frequency.size < 2 or not np.all(np.diff(frequency) > 0) or frequency[0] < 0:
        raise InputError(
            file, "rlnResolutionInversePixel does not ascend over two rows or more", "Sort the rows by frequency."
        )
    if not (np.isfinite(value).all() and (value >= 0).all() and value[0] > 0):
        raise InputError(file, "rlnMtfValue holds a negative or non-finite value", "Correct the table.")
    return Mtf(torch.from_numpy(frequency.astype(np.float32)), torch.from_numpy(value.astype(np.float32)))
