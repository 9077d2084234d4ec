"""Is it real? How far a set of synthetic micrographs is from a set of real ones, by four measures.

* :func:`two_sample_auc`: a classifier trained for it tells them apart, or not (0.5);
* :func:`spectrum_distance`: how much the 2-D or the rotational power spectra differ [dB];
* :func:`patch_statistics`: moments, local variance, correlations, bands of power, in units of the spread between real
  micrographs;
* :func:`kernel_distance`: distance of the distributions of fixed random features of patches.

Micrographs of one session differ by themselves (defocus, ice, drift), so what matters is the distance between the
*distributions* of micrographs. The last three are therefore one unbiased estimator (``_distances.py``): two sets of one
origin give 0 on average, however noisy and however different their micrographs; it may come out negative. Intervals are
95 %. With three micrographs they are rough: real against real of other micrographs is always measured beside, by
:func:`compare_realism`. Which of two sets is the nearer one, :func:`advantage_over` tells much better than their
intervals do, because both are compared with the same real micrographs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cryoprism.core import InputError, single_threaded

from ._distances import Interval, features_gram, spectrum_gram, squared_advantage, squared_distance, statistics_gram
from ._samples import (
    Measure,
    MicrographSet,
    check_pair,
    corners_on_grid,
    has_ordinary_patch,
    normalised,
    patches_at,
)
from ._two_sample import TwoSampleScores, auc_advantage, two_sample_auc, two_sample_scores

__all__ = [
    "REAL_AGAINST_REAL",
    "Advantage",
    "Gallery",
    "Measure",
    "MicrographSet",
    "Realism",
    "advantage_over",
    "compare_realism",
    "gallery",
    "has_ordinary_patch",
    "kernel_distance",
    "measure_realism",
    "patch_statistics",
    "spectrum_distance",
    "two_sample_auc",
]

REAL_AGAINST_REAL = "real against real"
_DECIBEL = 10.0 / math.log(10.0)


def _root(values: Interval, scale: float, count: int) -> Measure:
    """Distance from its square: what came out below 0 is 0."""
    value, low, high = (scale * math.sqrt(v) if v > 0 else 0.0 for v in values)
    return Measure(value=value, low=low, high=high, count=count)


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
    gram = spectrum_gram((real, synthetic), rotational=rotational)
    return _root(squared_distance(gram, len(real)), _DECIBEL, len(gram))


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
    if unit is not None:
        check_pair(real, unit)
    gram, difference = statistics_gram(real, (synthetic,), unit)
    return _root(squared_distance(gram, len(real)), 1.0, len(gram)), difference


@single_threaded
def kernel_distance(real: MicrographSet, synthetic: MicrographSet) -> Measure:
    """Squared maximum mean discrepancy of patches on fixed random convolutional features; 0 is perfect, 2 the most.

    Features are the logarithms of mean and deviation of rectified responses at four scales, standardised over the real
    patches; the kernel is the mean of three Gaussians whose widths are 1, 2 and 4 median distances of real patches.
    Pairs of patches of one micrograph are left out, see the module.
    """
    check_pair(real, synthetic)
    gram, count = features_gram(real, (synthetic,))
    value, low, high = squared_distance(gram, len(real))
    return Measure(value=value, low=max(low, -2.0), high=min(high, 2.0), count=count)


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
    scores
        What the AUC comes from.
    """

    auc: Measure
    spectrum: Measure
    rotational_spectrum: Measure
    patch: Measure
    kernel: Measure
    statistics: dict[str, float]
    scores: TwoSampleScores = field(repr=False)

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
    scores = two_sample_scores(real, synthetic, seed=seed, trainings=trainings, steps=steps)
    return Realism(
        auc=scores.measure(),
        spectrum=spectrum_distance(real, synthetic),
        rotational_spectrum=spectrum_distance(real, synthetic, rotational=True),
        patch=patch,
        kernel=kernel_distance(real, synthetic),
        statistics=statistics,
        scores=scores,
    )


@dataclass(frozen=True, kw_only=True)
class Advantage:
    """How much nearer one synthetic set is to real micrographs than a baseline: positive is better, 95 % intervals.

    Parameters
    ----------
    auc
        Of the AUC above 0.5.
    spectrum, rotational_spectrum
        Of squared distances [dB²].
    patch
        Of the squared distance [deviations² between real micrographs].
    kernel
        Of the squared distance.
    """

    auc: Measure
    spectrum: Measure
    rotational_spectrum: Measure
    patch: Measure
    kernel: Measure

    def to_json(self) -> dict[str, object]:
        """Plain dictionaries for realism.json."""
        return {
            "two_sample_auc_above_half": self.auc.to_json(),
            "squared_spectrum_distance_in_square_decibels": self.spectrum.to_json(),
            "squared_rotational_spectrum_distance_in_square_decibels": self.rotational_spectrum.to_json(),
            "squared_patch_statistics_in_square_real_deviations": self.patch.to_json(),
            "kernel_distance": self.kernel.to_json(),
        }


@single_threaded
def advantage_over(
    real: MicrographSet,
    ours: MicrographSet,
    baseline: MicrographSet,
    scores: tuple[TwoSampleScores, TwoSampleScores],
    *,
    unit: MicrographSet | None = None,
) -> Advantage:
    """Compare two synthetic sets that were made from the same noise-free images, in pairs.

    Parameters
    ----------
    real
        What both are compared with.
    ours, baseline
        As many micrographs in each, in the same order.
    scores
        Of both, from :func:`measure_realism`, with the same seed.
    unit
        See :func:`patch_statistics`.

    Raises
    ------
    InputError
        Sets of different numbers or pixel sizes.
    """
    for some in (ours, baseline):
        check_pair(real, some)
    if len(ours) != len(baseline):
        raise InputError("sets", f"{len(ours)} and {len(baseline)} micrographs", "Give pairs of one noise-free image.")

    def measure(gram: Tensor, scale: float = 1.0) -> Measure:
        value, low, high = (scale * v for v in squared_advantage(gram, len(real), len(ours)))
        return Measure(value=value, low=low, high=high, count=len(gram))

    sets = (real, ours, baseline)
    return Advantage(
        auc=auc_advantage(*scores),
        spectrum=measure(spectrum_gram(sets, rotational=False), _DECIBEL**2),
        rotational_spectrum=measure(spectrum_gram(sets, rotational=True), _DECIBEL**2),
        patch=measure(statistics_gram(real, (ours, baseline), unit)[0]),
        kernel=measure(features_gram(real, (ours, baseline))[0]),
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
    ours: str | None = None,
) -> tuple[dict[str, Realism], dict[str, Advantage]]:
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
    ours
        Name of the arm whose advantage over each other one is to be told; all come from the same noise-free images.

    Returns
    -------
    tuple
        Measures by name, and the advantage of ``ours`` over each other arm.
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
    found = {
        name: advantage_over(real, arms[ours], samples, (out[ours].scores, out[name].scores), unit=unit)
        for name, samples in arms.items()
        if ours is not None and name != ours
    }
    return out, found


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
