"""Spectra coarser than the fit reaches: where the Thon rings end and the particles' own contrast begins.

A CTF fit starts at about 30 Å, because the slow part of a spectrum is not described by rings. Most of what an eye or a
picker sees is coarser. So the two powers are continued there from the image itself, with the fitted transfer:

* signal: least squares of I = N + H²·S in each shell, where the excess is significant; never less than the fitted S;
* below 1/(150 Å) a specimen of separate particles has a level spectrum (its form factor is flat below the inverse of
  its size), so S is held at its value there and what is left over counts as background, in N.

Only magnitudes averaged over whole shells are taken from the image, no phase and no place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._band import Band
from ._model import BandLimitedModel, FittedModel, RefocusableModel

__all__ = ["continue_to_low_frequencies", "lowest_fitted_frequency"]

_DEFAULT_LOWEST = 1.0 / 30.0  # 1/Å
_PLATEAU = 1.0 / 150.0  # 1/Å


@dataclass(frozen=True)
class _Continued:
    """A model whose powers below ``join`` [1/Å] come from tables that are linear in frequency."""

    model: FittedModel
    join: float
    step: float
    signal: Tensor
    noise: Tensor

    @property
    def pixel_size_in_angstroms(self) -> float:
        return self.model.pixel_size_in_angstroms

    def transfer(self, ky: Tensor, kx: Tensor) -> Tensor:
        return self.model.transfer(ky, kx)

    def signal_power(self, ky: Tensor, kx: Tensor) -> Tensor:
        return self._joined(self.model.signal_power(ky, kx), self.signal, ky, kx)

    def noise_power(self, ky: Tensor, kx: Tensor) -> Tensor:
        return self._joined(self.model.noise_power(ky, kx), self.noise, ky, kx)

    def local_defocus_plane(self) -> tuple[float, float, float]:
        return self.model.local_defocus_plane()

    def _joined(self, fitted: Tensor, table: Tensor, ky: Tensor, kx: Tensor) -> Tensor:
        k = torch.sqrt(ky * ky + kx * kx)
        position = (k / self.step - 0.5).clamp(0, table.numel() - 1.001)
        index = position.long()
        return torch.where(k < self.join, torch.lerp(table[index], table[index + 1], position - index), fitted)


@dataclass(frozen=True)
class _ContinuedRefocusable(_Continued):
    """The same for a model that can be refocused."""

    def with_defocus_offset(self, offset_in_angstroms: float) -> FittedModel:
        assert isinstance(self.model, RefocusableModel)
        refocused = self.model.with_defocus_offset(offset_in_angstroms)
        return _ContinuedRefocusable(refocused, self.join, self.step, self.signal, self.noise)


def lowest_fitted_frequency(model: FittedModel) -> float:
    """Lowest frequency [1/Å] at which the spectra of the model were fitted; 1/(30 Å) if it does not say."""
    return float(model.lowest_fitted_frequency) if isinstance(model, BandLimitedModel) else _DEFAULT_LOWEST


def continue_to_low_frequencies(coefficients: Tensor, band: Band, model: FittedModel) -> FittedModel:
    """Continue a fitted model below its lowest frequency with the power of the image.

    Parameters
    ----------
    coefficients
        (n, m) unnormalised coefficients of the image, background removed.
    band
        The frequencies that they stand for.
    model
        Fitted spectra; must have signal at all (see :class:`SignalSupport`), else the excess has no meaning.

    Returns
    -------
    model
        The same model where the image has no significant excess (4 standard errors of a shell's mean), or fewer than
        four shells fit below the lowest fitted frequency.
    """
    join = lowest_fitted_frequency(model)
    height, width = band.shape
    # Shells three coefficients wide have enough members for a mean; the first is left to the background.
    step = 3.0 / (min(height, width) * band.pixel_size_in_angstroms)
    shells = int(join / step)
    if shells < 4:
        return model
    ky, kx = band.frequencies()
    near_y, near_x = (ky[:, 0].abs() < join).nonzero()[:, 0], int((kx[0] < join).sum())
    ky, kx = ky[near_y], kx[:, :near_x]
    k = torch.sqrt(ky * ky + kx * kx)
    shell = (k / step).long()
    inside = shell < shells
    # The column kx = 0 holds each coefficient twice; it is few of many.
    shell = shell[inside]
    some = coefficients[near_y, :near_x][inside]
    power = (some.real.square() + some.imag.square()) / (height * width)
    h2 = model.transfer(ky, kx).square().expand(k.shape)[inside]
    signal = model.signal_power(ky, kx).expand(k.shape)[inside]
    noise = model.noise_power(ky, kx).expand(k.shape)[inside]

    def mean(values: Tensor) -> Tensor:
        return torch.zeros(shells).index_add_(0, shell, values) / count

    count = torch.bincount(shell, minlength=shells).float().clamp_min(1.0)
    middle = torch.stack(
        [power[shell == i].median() if bool((shell == i).any()) else torch.tensor(0.0) for i in range(shells)]
    )
    # Contamination and gradients make single coefficients huge; five medians is the 97 % point of an exponential.
    power = torch.minimum(power, 5.0 * middle[shell])
    observed, h2_mean, fitted_signal, fitted_noise = mean(power), mean(h2), mean(signal), mean(noise)
    expected = mean(h2 * signal) + fitted_noise
    significant = observed - expected > 4.0 * expected / count.sqrt()
    if not bool(significant.any()):
        return model
    estimate = mean(h2 * (power - noise)) / mean(h2 * h2).clamp_min(1e-12)
    estimate = torch.where(significant, torch.maximum(estimate, fitted_signal), fitted_signal)
    smooth = estimate.log()
    padded = torch.cat([smooth[:1], smooth, smooth[-1:]])
    smooth = (0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]).exp()
    plateau = min(max(int(_PLATEAU / step), 1), shells - 1)
    smooth[:plateau] = torch.minimum(smooth[:plateau], smooth[plateau])
    background = torch.maximum(fitted_noise, observed - h2_mean * smooth)
    kind = _ContinuedRefocusable if isinstance(model, RefocusableModel) else _Continued
    return kind(model, join, step, smooth, background)
