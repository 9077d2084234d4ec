"""Classical noise for clean images, fitted to real micrographs in seconds, without training.

A clean image is the particles' contrast c(y, x) relative to a mean of 0 (:func:`particle_contrast`). A micrograph is

    grey(y, x) = mean + gain × (c(y, x) + noise)

with the gain in grey values per relative contrast, so that grey values stay physical. The models differ in the noise:

* ``none``: nothing, for pairs of clean and noisy images;
* ``gaussian``: white, of the variance that the particles leave over;
* ``poisson``: counts of N(1 + c) electrons per pixel, N such that they vary as much;
* ``poisson-gaussian``: as many electrons as the rise of the local variance with the local mean tells, white noise
  for the rest (Foi et al. 2008, IEEE Trans. Image Process. 17, 1737);
* ``spectrum``: Gaussian of the 2-D power spectrum that the particles leave over (detector, ice with its Thon rings,
  drift, lines), its strength varying over the field like the local variance of the real micrograph does;
* ``matched``: that, and what else can be measured: its strength follows the local mean as shot noise does; as many
  counts of one size as explain the skewness and kurtosis of real pixels (a detector that counts electrons leaves
  both); and a background (thickness of the ice, illumination) as uneven as the real one, kept out of the spectrum.

All are fitted to pairs: a real micrograph, and a clean image that has the same statistics of particles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from cryoprism.core import InputError, generator_for, irfft2, rfft2

from ._noise_statistics import FIELD_IN_ANGSTROMS, counted_share, cumulants, field_deviation
from ._slow_waves import SlowWaves, fit_waves, waves_like

__all__ = [
    "NOISE_KINDS",
    "DrawnNoise",
    "NoiseFit",
    "NoiseKind",
    "add_noise",
    "brightness_rise",
    "draw_noise",
    "fit_noise",
    "power_spectrum",
    "spectrum_on",
]

NoiseKind = Literal["none", "gaussian", "poisson", "poisson-gaussian", "spectrum", "matched"]
NOISE_KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)[1:]
"""All that are noise."""

_TILE = 512
_LEAST_SHARE = 0.05  # of the real power: what is left as noise at least, where particles explain too much
_LEAST_SKEWNESS = 0.01  # below, sampling explains it
_MOST_COUNTS = 0.95  # share of the variance that counts of one size may have


@dataclass(frozen=True, eq=False, kw_only=True)
class NoiseFit:
    """What is left of one micrograph's statistics when its particles are taken away.

    Parameters
    ----------
    mean, gain
        Grey value without contrast, and grey values per relative contrast.
    power
        (n, n // 2 + 1) power of the noise [relative contrast²] at frequencies of a tile of n × n pixels, normalised as
        |FFT|² / pixel count.
    variance
        Of the noise [relative contrast²]: the mean of ``power``.
    electrons
        Electrons per pixel that the rise of variance with the mean tells (Poisson-Gaussian); infinite where it does not
        rise.
    field_deviation
        Standard deviation of the logarithm of the local variance, without what sampling adds.
    skewness, kurtosis
        Third and fourth (excess) standardised cumulants of a pixel of the noise; 0 for Gaussian noise.
    background
        (u, v) coefficients [relative contrast] of cosines with u and v half waves over the field, of mean square 1:
        what is too slow for the tiles of the spectrum. None for an even field.
    background_power
        (n, n // 2 + 1) what that background adds to ``power`` where it is not kept apart.
    field_in_pixels
        (y, x) size of the field that the background was measured over; None: that of what is drawn.
    """

    mean: float
    gain: float
    power: Tensor
    variance: float
    electrons: float
    field_deviation: float
    skewness: float = 0.0
    kurtosis: float = 0.0
    background: Tensor | None = None
    background_power: Tensor | None = None
    field_in_pixels: tuple[int, int] | None = None


def _window(n: int) -> Tensor:
    line = 0.5 - 0.5 * torch.cos(2 * math.pi * (torch.arange(n) + 0.5) / n)
    window = line[:, None] * line
    return window / window.square().mean().sqrt()


def _tile(shape: Sequence[int]) -> int:
    """Edge [px] of the tiles of a spectrum: 512, or half of a smaller image, so that nine or more are averaged."""
    return min(_TILE, 2 * (min(shape) // 4))


def power_spectrum(image: Tensor, tile: int | None = None, weight: Tensor | None = None) -> Tensor:
    """2-D power (n, n // 2 + 1) of an image (y, x) by half-overlapping Hann tiles (Welch), |FFT|² / pixel count.

    Parameters
    ----------
    image
        (y, x); each tile's own mean is taken away.
    tile
        Edge n [px]; smaller images take the largest even edge that fits. By default 512, at most half of the image: one
        tile alone scatters by as much as its power, nine by a third of it.
    weight
        (y, x) share of a pixel that counts; tiles less than 0.9 of whose pixels count are left out, if others are left.
    """
    n = _tile(image.shape[-2:]) if tile is None else min(tile, 2 * (min(image.shape[-2:]) // 2))
    window = _window(n)
    total = torch.zeros(n, n // 2 + 1, dtype=torch.float64)
    rows, columns = _starts(image.shape[-2], n), _starts(image.shape[-1], n)
    places = [(y, x) for y in rows for x in columns]
    if weight is not None:
        clean = [(y, x) for y, x in places if float(weight[y : y + n, x : x + n].mean()) >= 0.9]
        places = clean or places
    for y, x in places:
        part = image[y : y + n, x : x + n]
        total += rfft2((part - part.mean()) * window).abs().square() / n**2
    return (total / len(places)).float()


def _starts(length: int, n: int) -> list[int]:
    count = max(1, math.ceil((length - n) / (n / 2)) + 1)
    return sorted({round(i * (length - n) / max(1, count - 1)) for i in range(count)})


def spectrum_on(power: Tensor, shape: tuple[int, int]) -> Tensor:
    """Power on the half grid of another shape (y, x), by linear interpolation between its frequencies."""
    rows = torch.fft.fftshift(power, dim=0)
    rows = torch.cat([rows, rows[:1]])  # the row of -Nyquist is that of +Nyquist
    y = torch.fft.fftfreq(shape[0])[:, None].expand(-1, shape[1] // 2 + 1) * 2.0
    x = (torch.fft.rfftfreq(shape[1]) * 4.0 - 1.0)[None].expand(shape[0], -1)
    grid = torch.stack([x, y], -1)[None]
    out = grid_sample(rows[None, None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0, 0]
    return out.clamp_min(0)


def fit_noise(
    real: Tensor, clean: Tensor, gain: float, *, pixel_size_in_angstroms: float, weight: Tensor | None = None
) -> NoiseFit:
    """Fit the noise of one real micrograph.

    Parameters
    ----------
    real
        (y, x) grey values.
    clean
        (y, x) contrast of particles with the micrograph's statistics: number, CTF, envelope. Where they stand is
        irrelevant.
    gain
        Grey values per relative contrast.
    pixel_size_in_angstroms
        Of both.
    weight
        (y, x) share of each pixel that is ordinary field (no contamination, no carbon).

    Raises
    ------
    InputError
        The gain is not positive, or the image is flat.
    """
    if not gain > 0:
        raise InputError("gain", f"is {gain:g}", "Give grey values per relative contrast, above 0.")
    share = torch.ones_like(real) if weight is None else weight.to(real)
    mean = float((real * share).sum() / share.sum())
    shape = (int(real.shape[0]), int(real.shape[1]))
    background = fit_waves(torch.where(share > 0.5, real - mean, 0.0), _tile(shape))
    uneven = power_spectrum(real, weight=weight) / gain**2
    real = real - SlowWaves(background, shape).on(shape)
    whole = power_spectrum(real, weight=weight) / gain**2
    if not float(whole.mean()) > 0:
        raise InputError("micrograph", "all pixels are alike", "Leave it out.")
    power = torch.maximum(whole - power_spectrum(clean), _LEAST_SHARE * whole)
    power[0, 0] = power[0, 1]  # each tile's mean was taken away
    relative = (real - mean) / gain
    counted = counted_share(relative, share)
    variance = float(power_mean(power))
    third, fourth = (a - b for a, b in zip(cumulants(relative, share), cumulants(clean, share), strict=True))
    # Noise of uneven strength has third and fourth cumulants by itself, 3 cov(contrast, variance) and 3 var(variance).
    spread, field = float(clean.var()), field_deviation(relative, share, pixel_size_in_angstroms)
    third -= 3 * spread * counted * variance
    fourth -= 3 * (counted * counted * spread + field * field) * variance**2
    return NoiseFit(
        mean=mean - gain * float(clean.mean()),
        gain=gain,
        power=power,
        variance=variance,
        electrons=1.0 / (counted * variance) if counted > 0.01 else math.inf,
        field_deviation=field,
        skewness=third / variance**1.5,
        kurtosis=fourth / variance**2,
        background=background / gain,
        background_power=(uneven - whole).clamp_min(0),
        field_in_pixels=shape,
    )


def power_mean(power: Tensor) -> Tensor:
    """Mean of a half-plane power (n, n // 2 + 1) over the whole plane: the variance of a pixel."""
    doubled = power.clone()
    doubled[:, 1 : (power.shape[1] - 1)] *= 2
    return doubled.sum() / (power.shape[0] * 2 * (power.shape[1] - 1))


def brightness_rise(fit: NoiseFit) -> float:
    """Relative rise of the variance of the noise per unit of contrast, 0 where it does not rise."""
    return 1.0 / (fit.electrons * fit.variance)


@dataclass(frozen=True, eq=False, kw_only=True)
class DrawnNoise:
    """Noise as it was drawn for one micrograph, and what it is made of, so that frames can be told apart in it.

    Parameters
    ----------
    total
        (y, x) all of it [relative contrast].
    counts, electrons
        (y, x) electrons that were counted beside it, and how many make a contrast of 1; None where none were counted.
    power
        (n, n // 2 + 1) power of what is neither counted nor background, normalised as in :class:`NoiseFit`; None where
        there is nothing else.
    strength
        (y, x) amplitude by which that is stronger or weaker than its power says; None for even noise.
    background
        The slow waves in it.
    """

    total: Tensor
    counts: Tensor | None = None
    electrons: float = math.inf
    power: Tensor | None = None
    strength: Tensor | None = None
    background: SlowWaves | None = None


def add_noise(
    kind: NoiseKind, fit: NoiseFit, clean: Tensor, *, pixel_size_in_angstroms: float, seed: int, name: str
) -> Tensor:
    """Micrograph (y, x) in grey values: the clean image (y, x) with noise of a kind, as fitted.

    Parameters and errors as for :func:`draw_noise`.
    """
    noise = draw_noise(kind, fit, clean, pixel_size_in_angstroms=pixel_size_in_angstroms, seed=seed, name=name)
    return (noise.total + clean) * fit.gain + fit.mean


def draw_noise(
    kind: NoiseKind, fit: NoiseFit, clean: Tensor, *, pixel_size_in_angstroms: float, seed: int, name: str
) -> DrawnNoise:
    """Draw noise of a kind, as fitted.

    Parameters
    ----------
    kind
        One of :data:`NOISE_KINDS`, or ``none``.
    fit
        From :func:`fit_noise`.
    clean
        (y, x) relative contrast.
    pixel_size_in_angstroms
        Of the image.
    seed, name
        Name the draws.

    Raises
    ------
    InputError
        Unknown kind.
    """
    generator = generator_for(seed, name, "noise", kind)
    shape = (int(clean.shape[0]), int(clean.shape[1]))
    if kind == "none":
        return DrawnNoise(total=torch.zeros(shape))
    if kind == "gaussian":
        noise = torch.randn(shape, generator=generator) * math.sqrt(fit.variance)
        return DrawnNoise(total=noise, power=_white(fit.variance))
    if kind == "poisson":
        electrons = 1.0 / fit.variance
        counts = _counts(clean, electrons, generator)
        return DrawnNoise(total=counts / electrons - 1 - clean, counts=counts, electrons=electrons)
    if kind == "poisson-gaussian":
        rest, noise, found = fit.variance, torch.zeros(shape), None
        if math.isfinite(fit.electrons):
            found = _counts(clean, fit.electrons, generator)
            noise = found / fit.electrons - 1 - clean
            rest = max(0.0, fit.variance - 1.0 / fit.electrons)
        noise = noise + torch.randn(shape, generator=generator) * math.sqrt(rest)
        return DrawnNoise(total=noise, counts=found, electrons=fit.electrons, power=_white(rest))
    strength = None
    if kind == "spectrum":
        power = fit.power if fit.background_power is None else fit.power + fit.background_power
        white = torch.randn(shape, generator=generator)
        if fit.field_deviation > 0:
            strength = _variance_field(shape, fit.field_deviation, pixel_size_in_angstroms, generator)
            white *= strength
        noise = irfft2(rfft2(white).mul_(spectrum_on(power, shape).sqrt_()), shape)
        return DrawnNoise(total=noise, power=power, strength=strength)
    if kind == "matched":
        amplitude = spectrum_on(fit.power, shape).sqrt_()
        white = _shot_noise(shape, fit, amplitude, generator)
        if fit.field_deviation > 0:
            strength = _variance_field(shape, fit.field_deviation, pixel_size_in_angstroms, generator)
            white *= strength
        if math.isfinite(fit.electrons):  # fewer electrons where a particle is, less shot noise
            fewer = (1 + brightness_rise(fit) * clean).clamp_min(0.1).sqrt()
            white *= fewer
            strength = fewer if strength is None else strength * fewer
        noise = irfft2(rfft2(white).mul_(amplitude), shape)
        background = None
        if fit.background is not None:
            background = waves_like(fit.background, fit.field_in_pixels or shape, shape, generator)
            noise += background.on(shape)
        return DrawnNoise(total=noise, power=fit.power, strength=strength, background=background)
    raise InputError("noise", f"'{kind}' is not known", f"Use one of {', '.join(get_args(NoiseKind))}.")


def _white(variance: float) -> Tensor:
    return torch.full((2, 2), variance)


def _counts(clean: Tensor, electrons: float, generator: torch.Generator) -> Tensor:
    return torch.poisson((electrons * (1 + clean)).clamp_min(0), generator=generator)


def _shot_noise(shape: tuple[int, int], fit: NoiseFit, amplitude: Tensor, generator: torch.Generator) -> Tensor:
    """White noise (y, x) of variance 1 that has the fit's skewness and kurtosis after a filter of real ``amplitude``.

    A share of the variance are counts of one size: Poisson of rate r, each worth a, has the cumulants r a², r a³, r a⁴.
    A filter h multiplies the third and fourth by Σh³ and Σh⁴, where Σh² = 1.
    """
    white = torch.randn(shape, generator=generator)
    kernel = irfft2(amplitude.to(torch.complex64), shape)
    kernel = kernel / kernel.square().sum().sqrt()
    cubed, fourth_power = float(kernel.pow(3).sum()), float(kernel.pow(4).sum())
    if abs(fit.skewness) < _LEAST_SKEWNESS or cubed < 0.05:
        return white
    third = fit.skewness / cubed
    # A share above one is none: counts alone have the kurtosis skewness².
    fourth = max(fit.kurtosis / fourth_power, third * third / _MOST_COUNTS)
    size, rate = fourth / third, third**4 / fourth**3
    counts = torch.poisson(torch.full(shape, rate), generator=generator)
    return white.mul_(math.sqrt(1 - third * third / fourth)).add_((counts - rate) * size)


def _variance_field(shape: tuple[int, int], deviation: float, pixel: float, generator: torch.Generator) -> Tensor:
    """Amplitudes (y, x) that vary smoothly over some 300 Å, of mean square 1."""
    step = FIELD_IN_ANGSTROMS / pixel
    rows, columns = (max(2, math.ceil(n / step) + 1) for n in shape)
    coarse = torch.randn(1, 1, rows, columns, generator=generator) * deviation
    field = interpolate(coarse, size=shape, mode="bicubic", align_corners=True)[0, 0]
    amplitude = (0.5 * field).exp()
    return amplitude / amplitude.square().mean().sqrt()
