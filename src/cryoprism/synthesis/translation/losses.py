"""Losses of the learned translation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

__all__ = [
    "band_shares",
    "cycle_loss",
    "discriminator_loss",
    "generator_loss",
    "patch_nce",
    "signal_loss",
    "statistics_loss",
    "without_signal",
]


def patch_nce(query: Tensor, positive: Tensor, negatives: Tensor | None = None, *, temperature: float = 0.07) -> Tensor:
    """Contrastive loss: each query shall be more like its positive than like any negative (Park et al. 2020).

    Parameters
    ----------
    query
        (…, n, d) unit vectors of the output.
    positive
        (…, n, d) unit vectors of the input at the same places.
    negatives
        (…, m, d) unit vectors of the input, the same for all queries; None takes the positives of the other queries.
    temperature
        Cosines are divided by it.
    """
    if negatives is None:
        logits = query @ positive.transpose(-1, -2)
        target = torch.arange(query.shape[-2], device=query.device).expand(query.shape[:-1])
    else:
        logits = torch.cat([(query * positive).sum(-1, keepdim=True), query @ negatives.transpose(-1, -2)], -1)
        target = torch.zeros(query.shape[:-1], dtype=torch.long, device=query.device)
    return cross_entropy(logits.float().flatten(0, -2) / temperature, target.flatten())


def discriminator_loss(real: tuple[Tensor, Tensor], synthetic: tuple[Tensor, Tensor]) -> Tensor:
    """Least squares: real to 1, synthetic to 0 (Mao et al. 2017), for places and whole images alike."""
    total = torch.zeros((), device=real[0].device)
    for r, s in zip(real, synthetic, strict=True):
        total = total + 0.5 * ((r.float() - 1).square().mean() + s.float().square().mean())
    return total


def generator_loss(synthetic: tuple[Tensor, Tensor]) -> Tensor:
    """Least squares: synthetic to 1 (Mao et al. 2017)."""
    total = torch.zeros((), device=synthetic[0].device)
    for s in synthetic:
        total = total + (s.float() - 1).square().mean()
    return total


def cycle_loss(image: Tensor, there_and_back: Tensor) -> Tensor:
    """Mean absolute difference (Zhu et al. 2017, CycleGAN); also for the identity."""
    return (image - there_and_back).float().abs().mean()


def statistics_loss(statistics: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Mean squared difference between the mean statistics of patches and those of real ones, in their deviations.

    The squares are products of the differences of two halves of the patches: without bias, so that the scatter of a few
    patches is not taken for a difference. May come out negative.

    Parameters
    ----------
    statistics
        (n, d) of n ≥ 2 patches.
    mean, scale
        (d,) mean and deviation between real patches.
    """
    standard = (statistics - mean) / scale
    first, second = standard[0::2].mean(0), standard[1::2].mean(0)
    return (first * second).mean()


def _bands(height: int, width: int, count: int, device: torch.device) -> Tensor:
    """Band (h, w // 2 + 1) of each frequency of the half plane, of equal width up to Nyquist; the mean is ``count``."""
    ky = torch.fft.fftfreq(height, device=device)[:, None]
    kx = torch.fft.rfftfreq(width, device=device)[None]
    band = (torch.sqrt(ky * ky + kx * kx) * (2 * count)).long().clamp_max(count - 1)
    band[0, 0] = count
    return band


def _sums(values: Tensor, band: Tensor, count: int) -> Tensor:
    """Sum of (…, h, w') over all but the band: (count,)."""
    flat = values.reshape(-1, band.numel()).sum(0)
    return torch.zeros(count + 1, device=flat.device, dtype=flat.dtype).index_add(0, band.flatten(), flat)[:count]


def _half(image: Tensor) -> Tensor:
    image = image.float()
    transform: Tensor = torch.fft.rfft2(image - image.mean((-2, -1), keepdim=True), norm="ortho")
    return transform


def band_shares(residual: Tensor, clean: Tensor, *, bands: int = 16) -> Tensor:
    """Regression of the residual on the clean image in each frequency band (bands,): what is added to the signal's 1.

    Parameters
    ----------
    residual, clean
        (…, y, x) in the same units.
    bands
        Of equal width up to Nyquist.
    """
    r, c = _half(residual), _half(clean)
    band = _bands(r.shape[-2], residual.shape[-1], bands, r.device)
    cross, own = _sums((r * c.conj()).real, band, bands), _sums(c.abs().square(), band, bands)
    return cross / own.clamp_min(1e-12 * float(own.max()) + 1e-30)


def signal_loss(residual: Tensor, clean: Tensor, image: Tensor, *, bands: int = 16, floor: float = 1e-3) -> Tensor:
    """Mean squared correlation of the residual with the clean image over frequency bands.

    Parameters
    ----------
    residual, clean, image
        (b, 1, y, x): what is added, the particles without noise, what it is added to.
    bands
        Of equal width up to Nyquist.
    floor
        Share of the image's power that is added to the residual's: a residual of next to nothing need not be ordered.
    """
    r, c, i = _half(residual), _half(clean), _half(image)
    band = _bands(r.shape[-2], residual.shape[-1], bands, r.device)
    cross = _sums((r * c.conj()).real, band, bands)
    power = _sums(r.abs().square(), band, bands) + floor * _sums(i.abs().square(), band, bands)
    own = power * _sums(c.abs().square(), band, bands)
    # A band without a frequency, or where the particles have nothing, does not count.
    return (cross.square() / own.clamp_min(1e-20)).sum() / (own > 1e-20).sum().clamp_min(1)


def without_signal(residual: Tensor, clean: Tensor, *, bands: int = 16) -> Tensor:
    """Residual (…, y, x) less its regression on the clean image, band by band: uncorrelated in each of them.

    Of several images the regression is one over them all.
    """
    shares = band_shares(residual, clean, bands=bands)
    r, c = torch.fft.rfft2(residual.float(), norm="ortho"), _half(clean)
    band = _bands(r.shape[-2], residual.shape[-1], bands, r.device)
    factor = torch.cat([shares, shares.new_zeros(1)])[band]
    rest: Tensor = torch.fft.irfft2(r - factor * c, s=(residual.shape[-2], residual.shape[-1]), norm="ortho")
    return rest
