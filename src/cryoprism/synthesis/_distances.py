"""The estimator behind three measures of realism: similarities of micrographs, and what follows from them.

Let k(i, j) be a similarity of micrographs, x(i)·x(j) for the spectra and the statistics, a Gaussian kernel for the
features. Then

    D² = mean k(r, r') + mean k(s, s') - 2 mean k(r, s),   r ≠ r' real, s ≠ s' synthetic,

is unbiased (Gretton et al. 2012, J. Mach. Learn. Res. 13, 723). Intervals are 95 % by the jackknife over micrographs.
(A bootstrap would draw a micrograph twice and call it similar to itself.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cryoprism.core import frequency_grid

from ._patch_features import all_patches, random_features, statistics_of
from ._samples import MicrographSet, normalised
from .noise import power_spectrum

__all__ = [
    "features_gram",
    "spectrum_gram",
    "squared_advantage",
    "squared_distance",
    "statistics_gram",
]

_TILE = 128
_BANDWIDTHS = (1.0, 2.0, 4.0)  # of the Gaussian kernels, in median distances between real patches

Interval = tuple[float, float, float]
"""Value, lower and upper end."""


# --- the estimator ---------------------------------------------------------------------------------------


def _between(part: Tensor) -> Tensor:
    n = len(part)
    return (part.sum() - part.diagonal().sum()) / (n * (n - 1))


def _squared(gram: Tensor, real: Sequence[int], synthetic: Sequence[int]) -> float:
    """Unbiased D² of some micrographs from the similarities (n, n) of all."""
    r, s = list(real), list(synthetic)
    cross = gram[r][:, s].mean()
    return float(_between(gram[r][:, r]) + _between(gram[s][:, s]) - 2 * cross)


def _jackknife(function: Callable[[list[int], list[int]], float], real: int, synthetic: int) -> Interval:
    """Evaluate a function of the numbers of real and of synthetic micrographs, and its 95 % interval."""
    every = list(range(real)), list(range(synthetic))
    value = function(*every)
    variance = 0.0
    for side, n in enumerate((real, synthetic)):
        if n < 3:  # with one of two left there is no pair: the spread is not known
            return value, -math.inf, math.inf
        without = []
        for left_out in range(n):
            kept = [i for i in range(n) if i != left_out]
            without.append(function(kept, every[1]) if side == 0 else function(every[0], kept))
        leaves = torch.tensor(without, dtype=torch.float64)
        variance += (n - 1) / n * float((leaves - leaves.mean()).square().sum())
    reach = 1.96 * math.sqrt(variance)
    return value, value - reach, value + reach


def squared_distance(gram: Tensor, real: int) -> Interval:
    """D² of similarities (n, n), the first ``real`` of which are of real micrographs, and its interval."""
    gram = gram.double()
    return _jackknife(lambda r, s: _squared(gram, r, [real + i for i in s]), real, len(gram) - real)


def squared_advantage(gram: Tensor, real: int, ours: int) -> Interval:
    """D² of a baseline less our own, and its interval: positive where ours is nearer to the real ones.

    Rows of the similarities: ``real`` micrographs, ``ours``, then as many of the baseline, each made from the same
    noise-free image as ours of that number: they are left out in pairs, and what real micrographs scatter cancels.
    """
    gram = gram.double()

    def difference(r: list[int], s: list[int]) -> float:
        return _squared(gram, r, [real + ours + i for i in s]) - _squared(gram, r, [real + i for i in s])

    return _jackknife(difference, real, ours)


# --- spectra ---------------------------------------------------------------------------------------------


def _log_spectra(samples: MicrographSet, *, rotational: bool) -> Tensor:
    """Logarithm of the power (micrographs, frequencies), rotational means by ring or every frequency of a tile."""
    lines = []
    for number, image in enumerate(normalised(samples)):
        power = power_spectrum(image, _TILE, samples.weight(number)).double()
        ky, kx = frequency_grid((_TILE, _TILE), 1.0)
        ring = (torch.sqrt(ky * ky + kx * kx) * _TILE).round().long()
        if rotational:
            rings = _TILE // 2 + 1
            inside = ring < rings
            total = torch.zeros(rings, dtype=torch.float64).index_add_(0, ring[inside], power[inside])
            power = total / torch.bincount(ring[inside], minlength=rings)
            lines.append(power[2:].log())
        else:
            lines.append(power[ring >= 2].log())  # below, the tile's own window is seen
    return torch.stack(lines)


def spectrum_gram(sets: Sequence[MicrographSet], *, rotational: bool) -> Tensor:
    """Mean product of log power spectra of all micrographs of the sets, over rings or over the plane."""
    lines = torch.cat([_log_spectra(samples, rotational=rotational) for samples in sets])
    return lines @ lines.T / lines.shape[1]


# --- statistics of patches -------------------------------------------------------------------------------


def statistics_gram(
    real: MicrographSet, synthetic: Sequence[MicrographSet], unit: MicrographSet | None
) -> tuple[Tensor, dict[str, float]]:
    """Mean product of standardised statistics, and what the first synthetic set has more of than the real one.

    The unit of each statistic is its deviation between the micrographs of ``unit`` (``real`` if None), or the standard
    error of one micrograph where they agree by chance.
    """
    names, own, error = statistics_of(real)
    others = [statistics_of(samples)[1] for samples in synthetic]
    spread = own.var(0)
    if unit is not None:
        _, values, error = statistics_of(unit)
        spread = values.var(0)
    scale = torch.maximum(spread, error.mean(0)).clamp_min(1e-24).sqrt()
    lines = torch.cat([own, *others]) / scale
    difference = (others[0].mean(0) - own.mean(0)) / scale
    return lines @ lines.T / lines.shape[1], dict(zip(names, difference.tolist(), strict=True))


# --- kernel on random features ---------------------------------------------------------------------------


def features_gram(real: MicrographSet, synthetic: Sequence[MicrographSet]) -> tuple[Tensor, int]:
    """Mean Gaussian kernel of the patches of every two micrographs, and the number of patches."""
    patches = [p for samples in (real, *synthetic) for p in all_patches(samples)]
    features = [
        torch.cat([random_features(some) for some in p.tensor_split(list(range(64, len(p), 64)))]).double()
        for p in patches
    ]
    own = torch.cat(features[: len(real)])
    centre, scale = own.mean(0), own.std(0).clamp_min(1e-9)
    features = [(f - centre) / scale for f in features]
    own = (own - centre) / scale
    typical = float(torch.cdist(own, own).square().median().clamp_min(1e-9))
    gram = torch.zeros(len(features), len(features), dtype=torch.float64)
    for i, a in enumerate(features):
        for j in range(i + 1):
            squared = torch.cdist(a, features[j]).square()
            similar = [(-0.5 * squared / (typical * w * w)).exp().mean() for w in _BANDWIDTHS]
            gram[i, j] = gram[j, i] = torch.stack(similar).mean()
    return gram, sum(len(f) for f in features)
