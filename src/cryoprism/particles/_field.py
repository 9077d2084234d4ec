"""A micrograph made ready for the classical pickers: flat, without outliers, coarse, with its own power spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from cryoprism.core import (
    InputError,
    fourier_crop,
    frequency_grid,
    frequency_magnitude,
    half_plane_weights,
    irfft2,
    radial_average,
    rfft2,
)
from cryoprism.formats import CtfRecord
from cryoprism.microscope.optics import Lens, contrast_transfer
from cryoprism.restoration import ArtefactMask, fit_background

__all__ = ["Field", "MatchedFilter", "phase_randomised", "prepare_field"]

#: Grey values further from the median than this many robust deviations of the coarse image are cut off there.
_CLIP = 4.5


@dataclass(frozen=True, eq=False)
class Field:
    """Coarse micrograph.

    Attributes
    ----------
    image
        (h, w) float32, particles dark as recorded, zero mean, outliers cut, artefacts zero.
    pixel_size_in_angstroms
        (y, x): the field's extent over its pixels.
    power
        (shells,) mean |FFT|² / pixels over shells of ``shell_width`` [1/Å], smooth, positive.
    shell_width
        [1/Å].
    """

    image: Tensor
    pixel_size_in_angstroms: tuple[float, float]
    power: Tensor
    shell_width: float

    def power_at(self, k: Tensor) -> Tensor:
        """Power at frequencies k [1/Å], linear between shells, constant beyond them."""
        position = (k / self.shell_width - 0.5).clamp(0, len(self.power) - 1.001)
        index = position.long()
        return torch.lerp(self.power[index], self.power[index + 1], position - index)


def prepare_field(
    image: Tensor, pixel_size_in_angstroms: float, coarse_pixel_in_angstroms: float, artefacts: ArtefactMask | None
) -> Field:
    """Flatten, shrink, cut outliers and measure the spectrum.

    Parameters
    ----------
    image
        (h, w) grey values as recorded; not changed.
    pixel_size_in_angstroms
        Of the micrograph.
    coarse_pixel_in_angstroms
        Of the result, nearly; not finer than the micrograph.
    artefacts
        Regions set to the background, so that their edges and grey do not count.

    Raises
    ------
    InputError
        The image is not two-dimensional or the pixel size is not positive.
    """
    if image.ndim != 2:
        raise InputError("image", f"shape {tuple(image.shape)}", "Give one micrograph; sum a movie first.")
    if not pixel_size_in_angstroms > 0:
        raise InputError("pixel_size_in_angstroms", f"{pixel_size_in_angstroms}", "Give the pixel size in Å.")
    whole = image.detach().float()
    shrink = max(1.0, coarse_pixel_in_angstroms / pixel_size_in_angstroms)
    height, width = (max(16, round(n / shrink)) for n in whole.shape)
    coarse = fourier_crop(whole, (height, width)) if (height, width) != tuple(whole.shape) else whole.clone()
    coarse -= fit_background(coarse, order=4, ignore=None if artefacts is None else artefacts.labels > 0).field()
    median = coarse.median()
    deviation = 1.4826 * (coarse - median).abs().median().clamp_min(1e-12)
    coarse = ((coarse - median) / deviation).clamp_(-_CLIP, _CLIP)
    if artefacts is not None and bool((artefacts.labels > 0).any()):
        hidden = (artefacts.labels > 0).float()[None, None]
        keep = 1.0 - torch.nn.functional.interpolate(hidden, size=(height, width), mode="bilinear")[0, 0]
        coarse *= keep
    coarse -= coarse.mean()
    pixel = (
        pixel_size_in_angstroms * whole.shape[0] / height,
        pixel_size_in_angstroms * whole.shape[1] / width,
    )
    power, shell_width = _radial_power(coarse, pixel)
    return Field(coarse, pixel, power, shell_width)


def _radial_power(image: Tensor, pixel: tuple[float, float]) -> tuple[Tensor, float]:
    height, width = image.shape
    taper = torch.outer(torch.hann_window(height), torch.hann_window(width))
    tapered = (image - image.mean()) * taper
    plane = rfft2(tapered).abs().square() / float(taper.square().sum())
    size = math.sqrt(pixel[0] * pixel[1])
    # Rows and columns differ in their pixel by less than a pixel over the whole field: one size serves.
    radius = frequency_magnitude((height, width), size)
    shell_width = 2.0 / (min(height, width) * size)
    edges = torch.arange(0, math.ceil(0.5 / size / shell_width) + 1) * shell_width
    mean, count = radial_average(plane, radius, edges, half_plane_weights(width).expand(height, -1))
    mean = mean[count > 0]
    # Logarithms over five shells: the mean of few coefficients scatters.
    padded = torch.nn.functional.pad(mean.clamp_min(1e-12).log()[None, None], (2, 2), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, 5, 1)[0, 0].exp(), shell_width


def phase_randomised(image: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise (h, w) with the very power of every Fourier coefficient of an image, and nothing in its place.

    Phases are those of white noise, so that the result is real; coefficients keep their magnitude.
    """
    noise = torch.randn(image.shape, generator=generator, dtype=torch.float32)
    phases = rfft2(noise)
    spectrum = rfft2(image).abs() * phases / phases.abs().clamp_min(1e-20)
    return torch.from_numpy(
        np.asarray(scipy.fft.irfft2(spectrum.numpy(), s=image.shape, workers=torch.get_num_threads()))
    ).float()


class MatchedFilter:
    """Matched filters on one field: its whitened transform, the CTF, the band, and the local noise.

    ``shape`` is that of the padded transform; kernels given to :meth:`correlate` are half transforms of it, centred on
    the origin, for a particle that is bright; the field's particles are dark.
    """

    def __init__(
        self,
        field: Field,
        margin_in_pixels: int,
        finest_in_angstroms: float,
        coarsest_in_angstroms: float,
        lens: Lens | None = None,
        ctf: CtfRecord | None = None,
    ) -> None:
        self.field = field
        height, width = field.image.shape
        rows, columns = (scipy.fft.next_fast_len(n + margin_in_pixels, real=True) for n in (height, width))
        self.shape = (int(rows), int(columns))
        pixel_y, pixel_x = field.pixel_size_in_angstroms
        self.ky = frequency_grid(self.shape, pixel_y)[0]
        self.kx = frequency_grid(self.shape, pixel_x)[1]
        k = torch.sqrt(self.ky * self.ky + self.kx * self.kx)
        fine, coarse = 1.0 / finest_in_angstroms, 1.0 / coarsest_in_angstroms
        band = torch.sigmoid((fine - k) / (0.05 * fine)) * torch.sigmoid((k - coarse) / (0.1 * coarse))
        band[0, 0] = 0.0
        self.transfer = band
        if lens is not None and ctf is not None:
            self.transfer = band * contrast_transfer(
                self.ky,
                self.kx,
                lens,
                defocus_u_in_angstroms=ctf.defocus_u_in_angstroms,
                defocus_v_in_angstroms=ctf.defocus_v_in_angstroms,
                defocus_angle_in_degrees=ctf.defocus_angle_in_degrees,
                phase_shift_in_degrees=ctf.phase_shift_in_degrees,
            )
        self._whiten = field.power_at(k).rsqrt()
        padded = torch.zeros(self.shape)
        padded[:height, :width] = field.image
        self._whitened = rfft2(padded) * self._whiten
        self._band = band

    def gram(self, kernels: Tensor) -> Tensor:
        """Inner products (r, r) of the filtered, whitened kernels (r, h, w // 2 + 1): covariances of their maps."""
        weight = half_plane_weights(self.shape[1]).sqrt() * self._whiten * self.transfer
        flat = torch.view_as_real(kernels * weight).reshape(len(kernels), -1)
        return flat @ flat.T / (self.shape[0] * self.shape[1])

    def correlate(self, kernels: Tensor) -> Tensor:
        """Correlate the field with kernels: (r, h, w).

        Under noise of the field's power the covariance of the maps is the Gram matrix.
        """
        height, width = self.field.image.shape
        return irfft2(kernels.conj() * (-self._whitened * self._whiten * self.transfer), self.shape)[:, :height, :width]

    def local_deviation(self, radius_in_angstroms: float) -> Tensor:
        """Measure the whitened field's deviation (h, w) in a disc around each pixel, over that of the whole field.

        The variance of a disc is drawn half-way towards the field's, as its posterior mean is if the prior is worth as
        many pixels as the disc: particles themselves raise the variance under them, and must not be punished for it.
        """
        height, width = self.field.image.shape
        noise = irfft2(self._whitened * self._band, self.shape)[:height, :width].square()
        reach = [radius_in_angstroms / pixel for pixel in self.field.pixel_size_in_angstroms]
        half = [math.ceil(r) for r in reach]
        y, x = np.ogrid[-half[0] : half[0] + 1, -half[1] : half[1] + 1]
        disc = ((y / reach[0]) ** 2 + (x / reach[1]) ** 2 <= 1.0).astype(np.float32)
        total = torch.from_numpy(_convolved(noise.numpy(), disc))
        count = torch.from_numpy(_convolved(np.ones((height, width), dtype=np.float32), disc))
        local = total / count.clamp_min(1.0) / noise.mean().clamp_min(1e-12)
        return (0.5 + 0.5 * local).sqrt()


def _convolved(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    # Imported here: scipy.signal takes most of a second, and few commands come this way.
    from scipy.signal import fftconvolve

    return np.asarray(fftconvolve(image, kernel, mode="same"), dtype=np.float32)
