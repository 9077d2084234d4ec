"""How much of a trained residual is worth adding, judged on patches that no step of the training has drawn.

The training holds the mean of the same statistics to that of real patches; here their whole distribution counts, and
what is judged is what is added: the residual less its regression on the particles. An adversarial game need not end
nearer to the real micrographs than it began. The residual is therefore scaled by the factor, from none of it to all, at
which patches are most like real ones; where the classical noise leaves nothing to learn, that factor is zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["LEAST_GAIN", "STRENGTHS", "best_strength", "patch_statistics"]

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: By this share of the distance without a residual a larger factor has to be nearer.
LEAST_GAIN = 0.05

_RINGS = 12


def patch_statistics(patches: Tensor) -> Tensor:
    """Statistics (n, 17) of patches (n, p, p): logarithms of the power in 12 rings, mean, deviation, higher moments.

    Higher moments (skewness, excess kurtosis) are those of pixels; the third also of means over 4 × 4 pixels.
    """
    n, side = patches.shape[0], patches.shape[-1]
    patches = patches.double()
    mean = patches.mean((1, 2), keepdim=True)
    line = torch.hann_window(side, periodic=False, dtype=torch.float64, device=patches.device)
    power = torch.fft.rfft2((patches - mean) * (line[:, None] * line)).abs().square().flatten(1)
    ky, kx = torch.fft.fftfreq(side, device=patches.device)[:, None], torch.fft.rfftfreq(side, device=patches.device)
    # Rings of equal ratio: as much attention to undulation and particles as to fine noise.
    k = torch.sqrt(ky * ky + kx * kx).clamp_min(1 / side)
    ring = (_RINGS * torch.log(k * side) / math.log(side * 0.5**0.5)).long().clamp_max(_RINGS - 1)
    rings = torch.zeros(n, _RINGS, dtype=torch.float64, device=patches.device).index_add(1, ring.flatten(), power)
    used = rings.amax(0) > 0
    columns = [rings[:, used].clamp_min(1e-12).log()]
    coarse = torch.nn.functional.avg_pool2d(patches[:, None], 4)[:, 0]
    for values, powers in ((patches, (3, 4)), (coarse, (3,))):
        deviation = values.std((1, 2), keepdim=True).clamp_min(1e-12)
        standard = (values - values.mean((1, 2), keepdim=True)) / deviation
        columns += [standard.pow(p).mean((1, 2))[:, None] for p in powers]
    return torch.cat([*columns, mean[:, 0], patches.std((1, 2))[:, None]], 1)


def _distance(a: Tensor, b: Tensor) -> float:
    """Energy distance of two samples (n, d) and (m, d), without bias: 0 in the mean where both are of one kind."""
    n, m = len(a), len(b)
    within_a = torch.cdist(a, a).sum() / (n * (n - 1))
    within_b = torch.cdist(b, b).sum() / (m * (m - 1))
    return float(2 * torch.cdist(a, b).mean() - within_a - within_b)


def best_strength(real: Tensor, image: Tensor, residual: Tensor) -> tuple[float, dict[float, float]]:
    """Factor on the residual at which synthetic patches are nearest to real ones, and the distance at each factor.

    The distance is the energy distance (Székely and Rizzo 2013) of :func:`patch_statistics` in units of their deviation
    between real patches. A larger factor has to be nearer by more than the distances scatter: by 5 % of the distance
    without a residual.

    Parameters
    ----------
    real, image, residual
        (n, p, p) patches of real and of synthetic micrographs, and what the network adds to the latter.
    """
    target = patch_statistics(real)
    centre, scale = target.mean(0), target.std(0).clamp_min(1e-9)
    target = (target - centre) / scale
    found = {
        factor: _distance((patch_statistics(image + factor * residual) - centre) / scale, target)
        for factor in STRENGTHS
    }
    best, margin = STRENGTHS[0], LEAST_GAIN * abs(found[STRENGTHS[0]])
    for factor in STRENGTHS[1:]:
        if found[factor] < found[best] - margin:
            best = factor
    return best, found
