"""What a fit of noise counts in pixels: cumulants, the share that electrons make up, how uneven the variance is."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import avg_pool2d

__all__ = ["FIELD_IN_ANGSTROMS", "counted_share", "cumulants", "field_deviation"]

FIELD_IN_ANGSTROMS = 300.0
"""Scale of the local variance."""
_FINE_CORRELATION = 2 * (1 + 2 * ((2 / 3) ** 2 + (1 / 6) ** 2)) ** 2  # 2 Σρ² of the second differences of white noise


def cumulants(image: Tensor, share: Tensor, edge: int = 64) -> tuple[float, float]:
    """Third and fourth cumulant of a pixel about the mean of its block; those of independent parts add up.

    Pixels beyond six deviations (a hot pixel, a scratch) would be all that is seen of either; they are left out.
    """
    edge = min(edge, *image.shape)
    blocks, counted = _blocks(image, edge), _blocks(share, edge) > 0.99
    mean = (blocks * counted).sum(1, keepdim=True) / counted.sum(1, keepdim=True).clamp_min(1)
    values = (blocks - mean)[counted].double()
    if len(values) < 1000:
        return 0.0, 0.0
    values = values[values.abs() <= 6 * values.std()]
    values = values - values.mean()
    second = values.square().mean()
    return float(values.pow(3).mean()), float(values.pow(4).mean() - 3 * second.square())


def _blocks(image: Tensor, edge: int) -> Tensor:
    h, w = image.shape[0] // edge * edge, image.shape[1] // edge * edge
    return image[:h, :w].reshape(h // edge, edge, w // edge, edge).permute(0, 2, 1, 3).reshape(-1, edge * edge)


def _fine(image: Tensor) -> Tensor:
    """Second differences along x and y, of unit gain for white noise: detail without particles."""
    d = image[1:-1, 1:-1] - 0.5 * (image[1:-1, :-2] + image[1:-1, 2:])
    d = d[1:-1] - 0.5 * (d[:-2] + d[2:])
    return d / 1.5


def counted_share(relative: Tensor, share: Tensor, edge: int = 16) -> float:
    """Share of the noise's variance that counts make up: it rises in proportion to the local mean, the rest does not.

    The rise of the variance of fine detail with the local contrast, relative to that variance: 1 for pure counts.
    """
    fine = _blocks(_fine(relative), edge)
    mean = _blocks(relative[2:-2, 2:-2], edge).mean(1)
    good = _blocks(share[2:-2, 2:-2], edge).mean(1) > 0.99
    mean, variance = mean[good], fine[good].square().mean(1)
    if len(mean) < 20:
        return 0.0
    centred = mean - mean.mean()
    slope = float((centred * variance).sum() / centred.square().sum().clamp_min(1e-12))
    return min(max(slope / float(variance.mean().clamp_min(1e-12)), 0.0), 1.0)


def _local_log_variance(relative: Tensor, pixel: float) -> tuple[Tensor, int]:
    edge = max(8, round(FIELD_IN_ANGSTROMS / pixel / 2))
    fine = _fine(relative).square()[None, None]
    return avg_pool2d(fine, min(edge, *fine.shape[-2:]))[0, 0].clamp_min(1e-12).log(), edge


def field_deviation(relative: Tensor, share: Tensor, pixel: float) -> float:
    logs, edge = _local_log_variance(relative, pixel)
    good = avg_pool2d(share[2:-2, 2:-2][None, None], min(edge, *share.shape))[0, 0] > 0.99
    if int(good.sum()) < 9:
        return 0.0
    values = logs[good]
    values = values[(values - values.median()).abs() < 4 * values.std()]
    # Squared fine detail of white noise: of n neighbours that correlate, the log of the mean varies by this / n.
    return math.sqrt(max(0.0, float(values.var()) - _FINE_CORRELATION / edge**2))
