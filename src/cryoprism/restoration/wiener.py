"""Wiener deconvolution by fitted spectra: the linear core of the view.

W = H·S / (H²·S + N) on the frequencies where the image knows anything (Penczek 2010, Methods in Enzymology 482, 73).
Where the defocus varies over the field, the image is filtered for several focal planes and the results are blended by
weights that are linear in the local defocus: no tile borders, and still linear in the image.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import CryoPrismWarning

from ._band import Band
from ._model import FittedModel, RefocusableModel, SpectralTable, tabulate
from .crystalline import IceSuppression, ice_region, suppress_crystalline_ice
from .low_frequencies import lowest_fitted_frequency

__all__ = ["SignalSupport", "wiener_filter"]

_LEAST_SSNR = 1e-3  # a frequency below this would keep less than a thousandth of its signal


@dataclass(frozen=True)
class SignalSupport:
    """Whether the image has the signal that the model claims.

    ``scale`` is the least-squares factor on H²S in the image's periodogram with its standard ``error``: about 1 when
    the model was fitted to this image, about 0 on pure noise.
    """

    scale: float
    error: float

    @property
    def factor(self) -> float:
        """Factor on the signal power in the filter: the scale up to 1, or 0 if it is below 3 errors or below 0.05."""
        if not self.scale > max(3.0 * self.error, 0.05):
            return 0.0
        return min(1.0, self.scale)


def wiener_filter(image: Tensor, model: FittedModel) -> tuple[Tensor, Tensor]:
    """Apply the linear part of :func:`restore_view` alone.

    Parameters
    ----------
    image
        (h, w) [grey units], background removed; not changed.
    model
        Fitted spectra of the micrograph.

    Returns
    -------
    view
        (h, w) Wiener estimate of the specimen signal. Linear in ``image``; for one focal plane also self-adjoint.
    reblurred
        (h, w) the view seen through the fitted transfer.
    """
    table = tabulate(model)
    band = pass_band((image.shape[0], image.shape[1]), table)
    view, reblurred, _, _ = deconvolve(band.forward(image.detach()), band, model, table, 1.0)
    return view, reblurred


def signal_cutoff(table: SpectralTable) -> float:
    """Finest frequency [1/Å] with a signal-to-noise ratio above ``_LEAST_SSNR``; at least a tenth of Nyquist."""
    ssnr = (table.transfer_squared * table.signal / table.noise.clamp_min(1e-30)).amax(0)
    above = (ssnr > _LEAST_SSNR).nonzero()
    last = int(above[-1]) if above.numel() else 0
    return float(table.frequency[max(last, table.frequency.numel() // 10)])


def pass_band(shape: tuple[int, int], table: SpectralTable) -> Band:
    nyquist = float(table.frequency[-1] + 0.5 * (table.frequency[1] - table.frequency[0]))
    cutoff = signal_cutoff(table)
    # A signal up to Nyquist reaches into the corners of the transform too.
    return Band.up_to(shape, 0.5 / nyquist, math.inf if cutoff > 0.97 * nyquist else cutoff)


@dataclass(frozen=True)
class _Spectra:
    """S and N of a model on any grid, from a radial table where they do not depend on direction."""

    model: FittedModel
    step: float
    signal_by_radius: Tensor | None
    noise_by_radius: Tensor | None

    @classmethod
    def of(cls, model: FittedModel, table: SpectralTable, band: Band) -> _Spectra:
        step = 0.5 / (max(band.shape) * band.pixel_size_in_angstroms)
        radius = torch.arange(math.ceil(0.75 / (band.pixel_size_in_angstroms * step)) + 2) * step
        radius[0] = 0.25 * step
        zero = torch.zeros(1)
        radial = [
            function(zero, radius).detach().float().reshape(-1).expand(radius.numel())
            if table.isotropic(values)
            else None
            for function, values in ((model.signal_power, table.signal), (model.noise_power, table.noise))
        ]
        return cls(model, step, radial[0], radial[1])

    def at(self, ky: Tensor, kx: Tensor) -> tuple[Tensor, Tensor]:
        index = (torch.sqrt(ky * ky + kx * kx) * (1.0 / self.step) + 0.5).int()
        shape = index.shape
        signal = (
            self.model.signal_power(ky, kx).expand(shape)
            if self.signal_by_radius is None
            else (self.signal_by_radius[index])
        )
        noise = (
            self.model.noise_power(ky, kx).expand(shape)
            if self.noise_by_radius is None
            else (self.noise_by_radius[index])
        )
        return signal, noise.clamp_min(1e-30)


def signal_support(coefficients: Tensor, band: Band, model: FittedModel) -> SignalSupport:
    """Least-squares factor a in I = a·H²S + N with the weights 1/P² of exponential deviates, from every fourth row.

    Coefficients coarser than the fit reaches or than 1/16 of the field are left out; powers above 20 times the expected
    (spots, contamination) are clipped.
    """
    ky, kx = band.frequencies()
    ky, some = ky[1::4], coefficients[1::4]
    height, width = band.shape
    signal = model.signal_power(ky, kx).expand(some.shape)
    noise = model.noise_power(ky, kx).expand(some.shape).clamp_min(1e-30)
    part = model.transfer(ky, kx).square() * signal
    expected = part + noise
    power = (some.real.square() + some.imag.square()) * (1.0 / (height * width))
    power = torch.minimum(power, 20.0 * expected)
    slow = max(16.0 / (min(height, width) * band.pixel_size_in_angstroms), lowest_fitted_frequency(model))
    weight = ((ky * ky + kx * kx) > slow * slow) / expected.square()
    information = float((weight * part * part).sum(dtype=torch.float64))
    if information <= 0.0:
        return SignalSupport(0.0, math.inf)
    scale = float((weight * part * (power - noise)).sum(dtype=torch.float64)) / information
    return SignalSupport(scale, information**-0.5)


def _planes(model: FittedModel, table: SpectralTable, band: Band) -> list[float]:
    """Defocus offsets [Å] of the planes that the field is divided into; one zero if the gradient does not matter.

    Neighbouring planes are at most one radian of aberration phase apart where the signal-to-noise ratio falls below
    0.1.
    """
    _, slope_y, slope_x = model.local_defocus_plane()
    height, width = (n * band.pixel_size_in_angstroms for n in band.shape)
    half = 0.5 * (abs(slope_y) * height + abs(slope_x) * width)
    ssnr = (table.transfer_squared * table.signal / table.noise.clamp_min(1e-30)).amax(0)
    useful = (ssnr > 0.1).nonzero()
    finest = float(table.frequency[int(useful[-1])]) if useful.numel() else float(table.frequency[0])
    wavelength = 0.0251  # Å at 200 kV; at 300 kV the planes only come closer than needed
    apart = 1.0 / (math.pi * wavelength * finest * finest)
    if half <= 0.25 * apart:
        return [0.0]
    if not isinstance(model, RefocusableModel):
        warnings.warn(
            "local_defocus_plane: the defocus varies over the field but the model has no with_defocus_offset; "
            "the mean defocus is used everywhere.",
            CryoPrismWarning,
            stacklevel=3,
        )
        return [0.0]
    count = min(32, max(2, math.ceil(2.0 * half / apart) + 1))
    return [-half + 2.0 * half * i / (count - 1) for i in range(count)]


def deconvolve(
    coefficients: Tensor, band: Band, model: FittedModel, table: SpectralTable, factor: float, correct_ice: bool = False
) -> tuple[Tensor, Tensor, IceSuppression, int]:
    """View and reblurred view from the coefficients of an image; blended over focal planes where the defocus varies."""
    ice = IceSuppression((), (), ())
    if factor == 0.0:
        return torch.zeros(band.shape), torch.zeros(band.shape), ice, 1
    ky, kx = band.frequencies()
    spectra = _Spectra.of(model, table, band)
    if correct_ice:
        coefficients, ice = _without_ice(coefficients, band, model, factor)
    offsets = _planes(model, table, band)
    windows = [_window(band, model, offsets, index) for index in range(len(offsets))] if len(offsets) > 1 else []
    seen = torch.zeros_like(coefficients)
    view = torch.zeros(0)
    for index, offset in enumerate(offsets):
        focused = _at_focus(model, offset)
        filtered = torch.empty_like(coefficients)
        # Blocks of rows stay in the processor's cache through the whole chain of operations.
        for start in range(0, ky.numel(), 64):
            rows = slice(start, start + 64)
            transfer = focused.transfer(ky[rows], kx)
            signal, noise = spectra.at(ky[rows], kx)
            gain = transfer * signal
            gain *= factor
            gain /= transfer * gain + noise
            torch.mul(coefficients[rows], gain, out=filtered[rows])
            if not windows:
                torch.mul(filtered[rows], transfer, out=seen[rows])
        sharp = band.inverse(filtered)
        if windows:
            sharp *= windows[index]
        view = view.add_(sharp) if index else sharp
    # The defocus belongs to the place in the specimen: the view is cut into planes before it goes through the lens.
    for offset, window in zip(offsets, windows, strict=False):
        focused, part = _at_focus(model, offset), band.forward(view * window)
        for start in range(0, ky.numel(), 64):
            rows = slice(start, start + 64)
            seen[rows] += part[rows] * focused.transfer(ky[rows], kx)
    return view, band.inverse(seen), ice, len(offsets)


def _at_focus(model: FittedModel, offset: float) -> FittedModel:
    return model.with_defocus_offset(offset) if offset and isinstance(model, RefocusableModel) else model


def _window(band: Band, model: FittedModel, offsets: list[float], index: int) -> Tensor:
    """Weight (h, w) of one focal plane: linear between neighbouring planes, all planes together 1."""
    _, slope_y, slope_x = model.local_defocus_plane()
    height, width = band.shape
    y = (torch.arange(height) - 0.5 * (height - 1)) * (slope_y * band.pixel_size_in_angstroms)
    x = (torch.arange(width) - 0.5 * (width - 1)) * (slope_x * band.pixel_size_in_angstroms)
    distance = (y[:, None] + (x - offsets[index])).mul_(1.0 / (offsets[1] - offsets[0]))
    return distance.abs_().neg_().add_(1.0).clamp_min_(0.0)


def _without_ice(coefficients: Tensor, band: Band, model: FittedModel, factor: float) -> tuple[Tensor, IceSuppression]:
    ky, kx = band.frequencies()
    index, frequency = ice_region(ky, kx)
    if index.numel() == 0:
        return coefficients, IceSuppression((), (), ())
    y, x = ky[index // kx.numel(), 0], kx[0, index % kx.numel()]
    expected = factor * model.signal_power(y, x) * model.transfer(y, x).square() + model.noise_power(y, x)
    clean, ice = suppress_crystalline_ice(
        coefficients.reshape(-1)[index], expected, frequency, 1.0 / (band.shape[0] * band.shape[1])
    )
    out = coefficients.clone()
    out.view(-1)[index] = clean
    return out, ice
