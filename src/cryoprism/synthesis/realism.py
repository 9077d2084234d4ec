"""Is it real? How far a set of synthetic micrographs is from a set of real ones, by four measures.

* :func:`two_sample_auc`: a classifier trained for it tells them apart, or not (0.5);
* :func:`spectrum_distance`: how much the 2-D or the rotational power spectra differ [dB];
* :func:`patch_statistics`: moments, local variance, correlations, bands of power, in units of the spread between real
  micrographs;
* :func:`kernel_distance`: distance of the distributions of fixed random features of patches.

Micrographs of one session differ by themselves (defocus, ice, drift), so what matters is the distance between the
*distributions* of micrographs. The last three are therefore one estimator. Let k(i, j) be a similarity of micrographs,
x(i)·x(j) for the spectra and the statistics, a Gaussian kernel for the features. Then

    D² = mean k(r, r') + mean k(s, s') - 2 mean k(r, s),   r ≠ r' real, s ≠ s' synthetic,

is unbiased (Gretton et al. 2012, J. Mach. Learn. Res. 13, 723): two sets of one origin give 0 on average, however
noisy and however different their micrographs; it may come out negative. Intervals are 95 % by the jackknife over
micrographs. (A bootstrap would draw a micrograph twice and call it similar to itself.) With three micrographs they are
rough: real against real of other micrographs is always measured beside, by :func:`compare_realism`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cryoprism.core import InputError, frequency_grid, single_threaded

from ._patch_features import all_patches, random_features, statistics_of
from ._samples import Measure, MicrographSet, check_pair, corners_on_grid, normalised, patches_at
from ._two_sample import two_sample_auc
from .noise import power_spectrum

__all__ = [
    "REAL_AGAINST_REAL",
    "Gallery",
    "Measure",
    "MicrographSet",
    "Realism",
    "compare_realism",
    "gallery",
    "kernel_distance",
    "measure_realism",
    "patch_statistics",
    "spectrum_distance",
    "two_sample_auc",
]

REAL_AGAINST_REAL = "real against real"
_TILE = 128
_DECIBEL = 10.0 / math.log(10.0)
_BANDWIDTHS = (1.0, 2.0, 4.0)  # of the Gaussian kernels, in median distances between real patches


# --- the estimator ---------------------------------------------------------------------------------------


def _squared(gram: Tensor, real: int) -> float:
    """Unbiased D² from similarities (n, n) of micrographs, the first ``real`` of which are real."""
    own, other, cross = gram[:real, :real], gram[real:, real:], gram[:real, real:]

    def between(part: Tensor) -> Tensor:
        n = len(part)
        return (part.sum() - part.diagonal().sum()) / (n * (n - 1))

    return float(between(own) + between(other) - 2 * cross.mean())


def _with_interval(gram: Tensor, real: int) -> tuple[float, float, float]:
    """D² and its 95 % interval by the jackknife over micrographs of both sets."""
    gram = gram.double()
    value = _squared(gram, real)
    variance = 0.0
    for first, last in ((0, real), (real, len(gram))):
        n = last - first
        if n < 3:  # with one of two left there is no pair: the spread is not known
            return value, -math.inf, math.inf
        without = []
        for left_out in range(first, last):
            kept = [i for i in range(len(gram)) if i != left_out]
            without.append(_squared(gram[kept][:, kept], real - (first == 0)))
        leaves = torch.tensor(without, dtype=torch.float64)
        variance += (n - 1) / n * float((leaves - leaves.mean()).square().sum())
    reach = 1.96 * math.sqrt(variance)
    return value, value - reach, value + reach


def _root(values: tuple[float, float, float], scale: float, count: int) -> Measure:
    """Distance from its square: what came out below 0 is 0."""
    value, low, high = (scale * math.sqrt(v) if v > 0 else 0.0 for v in values)
    return Measure(value=value, low=low, high=high, count=count)


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


@single_threaded
def spectrum_distance(real: MicrographSet, synthetic: MicrographSet, *, rotational: bool = False) -> Measure:
    """Root mean square difference of the mean log power spectra of two sets [dB].

    Spectra of 128² tiles of micrographs at mean 0 and deviation 1, contamination left out. The mean over a set is
    compared, so that the defocus of one micrograph does not count but the distribution of defoci does; what micrographs
    scatter about it is taken off without bias (0 means none beyond it).

    Parameters
    ----------
    real, synthetic
        The two sets.
    rotational
        Over rings, each as much as any other, so that low frequencies count; otherwise over all frequencies of the
        plane, so that directions (drift, astigmatism, lines of the detector) count.
    """
    check_pair(real, synthetic)
    lines = torch.cat([_log_spectra(s, rotational=rotational) for s in (real, synthetic)])
    gram = lines @ lines.T / lines.shape[1]
    return _root(_with_interval(gram, len(real)), _DECIBEL, len(lines))


# --- statistics of patches -------------------------------------------------------------------------------


@single_threaded
def patch_statistics(
    real: MicrographSet, synthetic: MicrographSet, *, unit: MicrographSet | None = None
) -> tuple[Measure, dict[str, float]]:
    """Differences of simple statistics of patches, in standard deviations between real micrographs.

    Mean, deviation, skewness, excess kurtosis, spread of the local variance and mean (blocks of 16 pixels), correlation
    at some lags, power in eight bands (log), and how mean and deviation vary between patches.

    Parameters
    ----------
    real, synthetic
        The two sets.
    unit
        Real micrographs whose spread is the unit, ``real`` by default; the more the better. Where they agree by chance
        the standard error of one micrograph is the unit.

    Returns
    -------
    tuple
        Root mean square over the statistics, free of bias (two sets of one origin: 0 on average, cut at 0), and the
        synthetic minus real difference of each.
    """
    check_pair(real, synthetic)
    names, a, error = statistics_of(real)
    _, b, _ = statistics_of(synthetic)
    spread = a.var(0)
    if unit is not None:
        check_pair(real, unit)
        _, c, error = statistics_of(unit)
        spread = c.var(0)
    scale = torch.maximum(spread, error.mean(0)).clamp_min(1e-24).sqrt()
    lines = torch.cat([a, b]) / scale
    difference = (b.mean(0) - a.mean(0)) / scale
    gram = lines @ lines.T / lines.shape[1]
    measure = _root(_with_interval(gram, len(a)), 1.0, len(lines))
    return measure, dict(zip(names, difference.tolist(), strict=True))


# --- kernel distance on random features ------------------------------------------------------------------


@single_threaded
def kernel_distance(real: MicrographSet, synthetic: MicrographSet) -> Measure:
    """Squared maximum mean discrepancy of patches on fixed random convolutional features; 0 is perfect, 2 the most.

    Features are the logarithms of mean and deviation of rectified responses at four scales, standardised over the real
    patches; the kernel is the mean of three Gaussians whose widths are 1, 2 and 4 median distances of real patches.
    Pairs of patches of one micrograph are left out, see the module.
    """
    check_pair(real, synthetic)
    patches = [*all_patches(real), *all_patches(synthetic)]
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
    value, low, high = _with_interval(gram, len(real))
    return Measure(value=value, low=max(low, -2.0), high=min(high, 2.0), count=sum(len(f) for f in features))


# --- all of them -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Realism:
    """All measures of one set against real micrographs.

    Parameters
    ----------
    auc
        Of :func:`two_sample_auc`; 0.5 is perfect.
    spectrum, rotational_spectrum
        Of :func:`spectrum_distance` [dB].
    patch
        Of :func:`patch_statistics` [deviations between real micrographs].
    kernel
        Of :func:`kernel_distance`.
    statistics
        Difference of each statistic of patches.
    """

    auc: Measure
    spectrum: Measure
    rotational_spectrum: Measure
    patch: Measure
    kernel: Measure
    statistics: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Plain dictionaries for realism.json; units stand in the names."""
        return {
            "two_sample_auc": self.auc.to_json(),
            "spectrum_distance_in_decibels": self.spectrum.to_json(),
            "rotational_spectrum_distance_in_decibels": self.rotational_spectrum.to_json(),
            "patch_statistics_in_real_deviations": self.patch.to_json(),
            "kernel_distance": self.kernel.to_json(),
            "patch_statistics": dict(self.statistics),
        }


def measure_realism(
    real: MicrographSet,
    synthetic: MicrographSet,
    *,
    unit: MicrographSet | None = None,
    seed: int = 0,
    trainings: int = 2,
    steps: int = 150,
) -> Realism:
    """Take all measures of one set against real micrographs; parameters as in the single functions."""
    patch, statistics = patch_statistics(real, synthetic, unit=unit)
    return Realism(
        auc=two_sample_auc(real, synthetic, seed=seed, trainings=trainings, steps=steps),
        spectrum=spectrum_distance(real, synthetic),
        rotational_spectrum=spectrum_distance(real, synthetic, rotational=True),
        patch=patch,
        kernel=kernel_distance(real, synthetic),
        statistics=statistics,
    )


def compare_realism(
    real: MicrographSet,
    arms: Mapping[str, MicrographSet],
    other_real: MicrographSet | None,
    *,
    seed: int = 0,
    trainings: int = 2,
    steps: int = 150,
    progress: Callable[[str, Realism], None] | None = None,
) -> dict[str, Realism]:
    """Measure every arm against the same real micrographs, and other real ones beside them.

    Parameters
    ----------
    real
        Micrographs that nothing was fitted to.
    arms
        Synthetic sets by name: what is proposed and every baseline.
    other_real
        Real micrographs of the same session (those that were matched); their row is :data:`REAL_AGAINST_REAL`. None
        where there are too few.
    seed, trainings, steps
        See :func:`two_sample_auc`.
    progress
        Called with each row when it is there.
    """
    rows = dict(arms)
    unit = None
    if other_real is not None:
        if REAL_AGAINST_REAL in rows:
            raise InputError("arms", f"'{REAL_AGAINST_REAL}' is the name of the real row", "Give the arm another name.")
        rows[REAL_AGAINST_REAL] = other_real
        check_pair(real, other_real)
        weights = [s.weight(i) for s in (real, other_real) for i in range(len(s))]
        unit = MicrographSet([*real.images, *other_real.images], real.pixel_size, weights, "real micrographs")
    out = {}
    for name, samples in rows.items():
        out[name] = measure_realism(real, samples, unit=unit, seed=seed, trainings=trainings, steps=steps)
        if progress is not None:
            progress(name, out[name])
    return out


# --- for the eye -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Gallery:
    """Real and synthetic patches in a random order.

    Parameters
    ----------
    patches
        (n, side, side), from micrographs at mean 0 and deviation 1.
    is_real
        (n,) the answer.
    """

    patches: Tensor
    is_real: Tensor


def gallery(
    real: MicrographSet,
    synthetic: MicrographSet,
    generator: torch.Generator,
    *,
    count: int = 12,
    side_in_pixels: int = 256,
) -> Gallery:
    """Draw patches of both sets, about half of each, for a picture without labels.

    How many of them are real is drawn too, so that the last ones cannot be told by counting. Patches of one micrograph
    do not overlap as long as there are enough.

    Raises
    ------
    InputError
        The micrographs are smaller than a patch.
    """
    check_pair(real, synthetic)
    is_real = torch.rand(count, generator=generator) < 0.5
    pools = []
    for samples in (synthetic, real):
        if any(min(im.shape) < side_in_pixels for im in samples.images):
            raise InputError(samples.name, f"micrographs below {side_in_pixels} pixels", "Ask for smaller patches.")
        images = normalised(samples)
        grid = [corners_on_grid(im.shape, samples.weight(i), side=side_in_pixels) for i, im in enumerate(images)]
        places = [(i, corner) for i, corners in enumerate(grid) for corner in corners]
        order = torch.randperm(len(places), generator=generator).tolist()
        pools.append((images, [places[i] for i in order]))
    taken = [0, 0]
    patches = []
    for answer in is_real.long().tolist():
        images, places = pools[answer]
        number, corner = places[taken[answer] % len(places)]
        taken[answer] += 1
        patches.append(patches_at(images[number], corner[None], side_in_pixels)[0])
    return Gallery(patches=torch.stack(patches), is_real=is_real)
