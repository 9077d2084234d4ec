"""What restoration needs to know about one micrograph: its fitted transfer and spectra, as protocols.

The room :mod:`cryoprism.causes` supplies objects of this shape. Restoration never fits a spectrum itself.

Units: power is that of the periodogram |rfft2(image - mean)|² / (height · width) in the image's own grey units
squared, so that the mean of a power over all coefficients of the full transform is a variance per pixel. Model of the
image::

    image - mean = F⁻¹[H · F(specimen)] + noise,    <|F(specimen)|²> = S,    <|F(noise)|²> = N

with ``H = transfer``, ``S = signal_power``, ``N = noise_power``. With H(0) > 0 (CTF(0) = +amplitude contrast) protein
is dark in the image and dark in the specimen signal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from cryoprism.core import InputError

__all__ = ["BandLimitedModel", "FittedModel", "RefocusableModel", "SpectralTable", "tabulate"]


class FittedModel(Protocol):
    """Fitted spectra of one micrograph; functions of frequencies [1/Å] that broadcast."""

    @property
    def pixel_size_in_angstroms(self) -> float:
        """Pixel size [Å] of the micrograph that was fitted."""

    def transfer(self, ky: Tensor, kx: Tensor) -> Tensor:
        """Signed coherent transfer H: CTF times envelopes, MTF and the root of the transmission."""

    def signal_power(self, ky: Tensor, kx: Tensor) -> Tensor:
        """Power S of the ideal specimen signal, before the transfer."""

    def noise_power(self, ky: Tensor, kx: Tensor) -> Tensor:
        """Power N of everything else at the detector: shot noise, incoherent background, rings."""

    def local_defocus_plane(self) -> tuple[float, float, float]:
        """Defocus in the middle of the field [Å] and its gradient along y and x [Å/Å]; zero gradient if unknown."""


@runtime_checkable
class RefocusableModel(Protocol):
    """A model that can also tell its transfer a little above or below the mean plane of the specimen."""

    def with_defocus_offset(self, offset_in_angstroms: float) -> FittedModel:
        """Return the same model with ``offset_in_angstroms`` [Å] added to both defocus values."""


@runtime_checkable
class BandLimitedModel(Protocol):
    """A model that tells from which frequency on its powers were fitted; they are extrapolated below."""

    @property
    def lowest_fitted_frequency(self) -> float:
        """Lowest fitted frequency [1/Å]."""


@dataclass(frozen=True)
class SpectralTable:
    """Signal and noise on a polar grid of the half plane.

    Attributes
    ----------
    frequency
        (r,) frequencies [1/Å], equally spaced from half a step to Nyquist.
    angle_in_degrees
        (a,) directions from x towards +y, covering [0, 180).
    transfer_squared, signal, noise
        (a, r) H², S and N [grey² for the powers].
    density
        (r,) number of coefficients of the full transform per sample of the shell, divided by all of them; the square's
        corners beyond Nyquist are counted with the last shell, so that ``density.sum() * a`` is 1.
    """

    frequency: Tensor
    angle_in_degrees: Tensor
    transfer_squared: Tensor
    signal: Tensor
    noise: Tensor
    density: Tensor

    def isotropic(self, values: Tensor, tolerance: float = 0.005) -> bool:
        """Whether ``values`` (a, r) vary by less than ``tolerance`` with direction on every shell."""
        low, high = values.amin(0), values.amax(0)
        return bool(((high - low) <= tolerance * high.clamp_min(1e-30)).all())


def tabulate(model: FittedModel, *, radii: int = 1024, angles: int = 24) -> SpectralTable:
    """Evaluate a model on a polar grid: cheap stand-in for the full transform wherever only sums are needed.

    Raises
    ------
    InputError
        The model's pixel size is not positive, or a power is negative or not finite.
    """
    pixel = float(model.pixel_size_in_angstroms)
    if not (pixel > 0 and math.isfinite(pixel)):
        raise InputError("pixel_size_in_angstroms", f"{pixel}", "Give the micrograph's pixel size in Å.")
    nyquist = 0.5 / pixel
    edges = torch.linspace(0.0, nyquist, radii + 1, dtype=torch.float64)
    frequency = (0.5 * (edges[1:] + edges[:-1])).float()
    degrees = torch.arange(angles, dtype=torch.float32) * (180.0 / angles)
    radians = torch.deg2rad(degrees)[:, None]
    ky, kx = frequency * radians.sin(), frequency * radians.cos()
    shape = (angles, radii)
    transfer = model.transfer(ky, kx).detach().float().expand(shape)
    signal = model.signal_power(ky, kx).detach().float().expand(shape)
    noise = model.noise_power(ky, kx).detach().float().expand(shape)
    for name, power in (("signal_power", signal), ("noise_power", noise), ("transfer", transfer)):
        if not bool(torch.isfinite(power).all()) or (name != "transfer" and bool((power < 0).any())):
            raise InputError(name, "it has values that are negative or not finite", "Fit this micrograph again.")
    area = math.pi * (edges[1:] ** 2 - edges[:-1] ** 2) * pixel * pixel
    area[-1] += 1.0 - math.pi / 4.0
    return SpectralTable(frequency, degrees, transfer * transfer, signal, noise, (area / angles).float())
