"""Blob picker: dark, compact things of a known size, with no reference.

The model of a particle of which nothing is known but its diameter d is an even ball. Its projection has the transform
B_d(k) = 3 (sin x − x cos x)/x³, x = π d k (the form factor of Rayleigh 1911), and is looked for as a template is: by a
matched filter through the micrograph's CTF and noise,

    z_d(x) = Σ_k (h B_d) I e^{2πikx} / P  /  √(Σ_k |h B_d|² / P),

over a range of diameters. The answer to noise has standard deviation 1 at every size (the scale normalisation of
Lindeberg 1998, Int. J. Computer Vision 30, 79, for coloured noise), so that figures of merit can be compared between
sizes and micrographs. The largest is the score, and the size that gave it the diameter.

A Laplacian of a Gaussian, the usual detector, is the same filter for a Gaussian particle in noise of power 1/k⁴. On
micrographs of hollow and of touching particles it does clearly worse, since most of what tells a particle from the gap
between its neighbours lies in its edge and in the fringes that the CTF puts around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError
from cryoprism.formats import CtfRecord
from cryoprism.microscope.optics import Lens

from ._field import Field, MatchedFilter

__all__ = ["BlobScore", "blob_pixel_in_angstroms", "score_blobs"]

#: Ratio of neighbouring diameters.
_STEP = 1.08
_PIXELS_PER_DIAMETER = 16.0


@dataclass(frozen=True, eq=False)
class BlobScore:
    """Score map (h, w) in standard deviations of the noise, and the diameter (h, w) [Å] that gave it."""

    values: Tensor
    diameter_in_angstroms: Tensor
    pixel_size_in_angstroms: tuple[float, float]


def blob_pixel_in_angstroms(smallest_diameter_in_angstroms: float) -> float:
    """Return the pixel size [Å] that a field for blobs should have: a sixteenth of the smallest diameter."""
    return smallest_diameter_in_angstroms / _PIXELS_PER_DIAMETER


def score_blobs(
    field: Field,
    smallest_diameter_in_angstroms: float,
    largest_diameter_in_angstroms: float,
    *,
    lowpass_in_angstroms: float = 20.0,
    lens: Lens | None = None,
    ctf: CtfRecord | None = None,
) -> BlobScore:
    """Score every pixel of a field as the centre of a dark ball.

    Parameters
    ----------
    field
        From ``prepare_field`` at :func:`blob_pixel_in_angstroms`.
    smallest_diameter_in_angstroms, largest_diameter_in_angstroms
        Range of diameters [Å], in steps of 8 %.
    lowpass_in_angstroms
        Finest detail used.
    lens, ctf
        Optics and CTF of the micrograph: blobs are seen through them; without, as they are.

    Raises
    ------
    InputError
        The diameters are not positive or in the wrong order.
    """
    small, large = smallest_diameter_in_angstroms, largest_diameter_in_angstroms
    if not 0 < small <= large:
        raise InputError("--min-diameter and --max-diameter", f"{small:g} and {large:g} Å", "Give the smaller first.")
    filters = MatchedFilter(
        field,
        math.ceil(large / min(field.pixel_size_in_angstroms)),
        min(lowpass_in_angstroms, 0.25 * small),
        2.0 * large,
        lens,
        ctf,
    )
    steps = max(1, math.ceil(math.log(large / small) / math.log(_STEP)) + 1)
    diameters = torch.logspace(math.log10(small), math.log10(large), steps)
    k = torch.sqrt(filters.ky * filters.ky + filters.kx * filters.kx)
    best = torch.full(field.image.shape, -torch.inf)
    size = torch.zeros(field.image.shape)
    for diameter in diameters.tolist():
        x = (math.pi * diameter * k).clamp_min(0.05)  # below, digits are lost; B is 1 there
        kernel = (3.0 * (torch.sin(x) - x * torch.cos(x)) / x**3).to(torch.complex64)[None]
        score = filters.correlate(kernel)[0] / filters.gram(kernel)[0, 0].clamp_min(1e-30).sqrt()
        better = score > best
        best, size = torch.where(better, score, best), torch.where(better, diameter, size)
    deviation = filters.local_deviation(0.25 * (small + large))
    return BlobScore(best / deviation, size, field.pixel_size_in_angstroms)
