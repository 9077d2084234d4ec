"""A map's resolution in words: the verdict, and what to be careful about."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from cryoprism.formats import Volume
from cryoprism.structure import (
    DirectionalFsc,
    HalfMapFsc,
    Sharpening,
    ViewingDirections,
    fourier_shell_correlation,
    mask_is_too_tight,
    noise_limit,
    spherical_average,
)

if TYPE_CHECKING:
    from .resolution import ResolutionSummary

__all__ = ["cautions", "common_start", "endless_agreement", "few_particles", "only_round", "shared_noise", "verdict"]

_UNEVEN: Final = 1.3
# Fewer views of a half than this are a matter of chance, whatever shells they fill: a rule of thumb.
_FEWEST = 50
# Share of the start's low-pass that halves of noise reach; signal goes further, or cannot be told from it.
_BEYOND_START = 0.6
# Times that a half has to measure each coefficient at the resolution, in the mean over directions.
_FEWEST_MEASUREMENTS = 3.0
# Share of the box outside of the molecule from which on its noise can be judged.
_LEAST_SOLVENT = 0.05


def few_particles(
    half_count: int | None,
    order: int,
    resolution_in_angstroms: float | None = None,
    diameter_in_angstroms: float | None = None,
) -> str | None:
    """Say that a half has too few particles for its FSC to mean something; None where it has enough.

    A shell at 1/d of a molecule of diameter D holds 2π(D/d)² independent coefficients, of which a view measures π D/d.
    N views of a half, times the order of the point group, therefore measure each N·d/(2D) times in the mean. Where
    that is hardly once, poses follow the noise of single images, and the halves agree on what they started from.

    Parameters
    ----------
    half_count
        Particles in the smaller half; None if unknown.
    order
        Of the point group.
    resolution_in_angstroms, diameter_in_angstroms
        d and D; without them only the number counts.
    """
    if half_count is None:
        return None
    times = math.inf
    if resolution_in_angstroms is not None and diameter_in_angstroms:
        times = half_count * order * resolution_in_angstroms / (2 * diameter_in_angstroms)
    if half_count >= _FEWEST and times >= _FEWEST_MEASUREMENTS:
        return None
    return (
        f"A half has only {half_count} particles: too few for the agreement of the halves to mean something. Take no "
        "resolution from it; hundreds in each half are the least."
    )


def only_round(half1: Tensor, half2: Tensor, voxel_size_in_angstroms: float, mask: Tensor, limit: float) -> str | None:
    """Say that nearly round halves (z, y, x) agree on their spherical average and on nothing else; None where they do.

    Without any orientation found, two halves of ferritin still share its shell, down to 10 Å and beyond. What is left
    without the averages has to correlate in the octave before the resolution ``limit`` [Å].
    """
    rest = [half - spherical_average(half) for half in (half1, half2)]
    curve = fourier_shell_correlation(rest[0], rest[1], voxel_size_in_angstroms, mask=mask)
    octave = (curve.frequency >= 0.5 / limit) & (curve.frequency <= 1 / limit)
    if float(curve.fsc[octave].mean()) >= 0.143:
        return None
    return (
        "The halves agree on what is round only, not on any detail of it: no orientations were found. Take no "
        "resolution from them; another start (--seed), more particles or a reference may help."
    )


def common_start(limit: float | None, start_in_angstroms: float | None) -> str | None:
    """Say that halves agree little further than the low-passed map that both began from; None where they do.

    Noise does so too: particles of nothing but noise, refined from a map at 30 Å, gave halves that agree to 21 Å
    without a mask and to 19 Å with one (``benchmarks/controls.py``).
    """
    if limit is None or start_in_angstroms is None or limit < _BEYOND_START * start_in_angstroms:
        return None
    return (
        f"The halves agree to {limit:.3g} Å, little further than the {start_in_angstroms:g} Å map that both started "
        "from, and halves of pure noise would do the same. Take no resolution from it before another start "
        "(--initial-lowpass further out, or initial-model) leads to the same map."
    )


def endless_agreement(finest_in_angstroms: float) -> str:
    """Say that halves agree up to the finest frequency that was compared [Å], which is no resolution."""
    return (
        f"The FSC stays above 0.143 up to the finest frequency, {finest_in_angstroms:.3g} Å. Either the voxels are "
        "too large for this map, or the halves share noise (particles in both halves, a half map compared with the map "
        "of both, filters, denoising)."
    )


def shared_noise(half1: Tensor, half2: Tensor, voxel_size_in_angstroms: float, mask: Tensor) -> tuple[str | None, bool]:
    """Say that halves (z, y, x) which agree up to Nyquist do so in the solvent too; None where only the molecule does.

    The second value tells whether they were seen to share it: without solvent nobody knows.

    A map that is better than its voxels and halves that share noise (copies, a half against the map of both) have the
    same FSC. Around the molecule there is nothing but noise, and there they differ.
    """
    # Some voxels further out than the mask: a tight one leaves signal outside of it.
    around = torch.nn.functional.max_pool3d((mask > 0.01).float()[None, None], 5, 1, 2)
    solvent = 1 - torch.nn.functional.avg_pool3d(around, 5, 1, 2)[0, 0]
    halves = [(half - half[solvent > 0.5].mean()) * solvent for half in (half1, half2)]
    level = None
    if float(solvent.mean()) > _LEAST_SOLVENT and all(bool((half != 0).any()) for half in halves):
        curve = fourier_shell_correlation(halves[0], halves[1], voxel_size_in_angstroms)
        level = float(curve.fsc[3 * curve.fsc.numel() // 4 :].mean())
    if level is None or not math.isfinite(level):
        return (
            "The halves agree at every frequency, and there is no solvent around the molecule that would tell whether "
            "the voxels are too large for this map or the halves share noise. Take no resolution from them; give half "
            "maps that were not masked."
        ), False
    if level < 0.143:
        return None, False
    return (
        f"The halves share noise: they agree ({level:.2f}) in the solvent around the molecule and near the Nyquist "
        "limit too. Take no resolution from them; look for particles in both halves, a half map compared with the map "
        "of both, filters and denoising."
    ), True


def cautions(
    fsc: HalfMapFsc,
    cones: DirectionalFsc | None,
    mean: Volume,
    sharpening: Sharpening,
    order: int,
    viewing: ViewingDirections | None,
    few: str | None = None,
) -> list[str]:
    """Return what to be careful about, in words.

    Parameters
    ----------
    fsc, cones, mean, sharpening, viewing
        As in :class:`ResolutionSummary`.
    order
        Of the point group.
    few
        Of :func:`few_particles`, :func:`only_round`, :func:`common_start` or :func:`shared_noise`.
    """
    found = [] if few is None else [few]
    crossing = fsc.crossing()
    if crossing.resolution_in_angstroms is None:
        found.append("The half maps do not agree at any resolution: there is no common structure in them.")
        return found
    if crossing.at_nyquist and few is None:
        found.append(
            f"The FSC stays above 0.143 up to the Nyquist limit of {2 * mean.voxel_size_in_angstroms:.3g} Å, though "
            "not in the solvent: the voxels are too large for this map."
        )
    elif not crossing.at_nyquist:
        found += _common_noise(fsc, order)
    if mask_is_too_tight(fsc):
        found.append(
            "The mask is too tight: by itself it correlates the halves where their phases were randomised. Use a wider "
            "or softer one (--extend, --soft-edge)."
        )
    if fsc.randomised_from_shell is None and not crossing.at_nyquist:
        found.append("The unmasked FSC never falls below 0.8, so that the effect of the mask could not be measured.")
    logarithm = sharpening.original.logarithm
    finite = logarithm[torch.isfinite(logarithm)]
    if finite.numel() and bool((finite < float(finite[:8].max()) - math.log(1e5)).any()):
        found.append(
            "The half maps look low-pass filtered: their amplitudes vanish at high frequency. Give unfiltered ones."
        )
    if cones is not None:
        best, worst = float(cones.resolution_in_angstroms.min()), float(cones.resolution_in_angstroms.max())
        if not math.isfinite(worst) or worst > _UNEVEN * best:
            found.append(
                f"The map is uneven: {best:.3g} Å along the best direction, "
                + (f"{worst:.3g} Å along the worst." if math.isfinite(worst) else "nothing along the worst.")
            )
    if viewing is not None and viewing.sampling_compensation_factor < 0.5:
        found.append(
            "Views are missing: some directions were seen so rarely that the map is smeared along them. Tilted data or "
            "another support can help."
        )
    return found


def _common_noise(fsc: HalfMapFsc, order: int) -> list[str]:
    """Look for correlation near Nyquist, beyond the resolution: what halves share there is no signal."""
    shells = fsc.frequency.numel()
    resolved = 1 / (fsc.crossing().resolution_in_angstroms or math.inf) / float(fsc.frequency[1])
    tail = slice(max(int(0.85 * shells), math.ceil(1.1 * resolved), 3), shells)
    if tail.start > shells - 2:
        return []
    level = float(fsc.unmasked[tail].mean())
    error = float(noise_limit(fsc.count[tail].sum()[None], 1.0, symmetry=order)[0])
    if level > max(6 * error, 0.03):
        return [
            f"The halves still correlate ({level:.2f}) near the Nyquist limit, far beyond the resolution: they share "
            "noise. Look for duplicate particles across the halves, and for filtered or denoised maps."
        ]
    return []


def verdict(summary: ResolutionSummary) -> list[str]:
    """Return what the half maps say, in sentences, the resolution first."""
    crossing = summary.fsc.crossing()
    limit = crossing.resolution_in_angstroms
    if limit is None:
        return ["The two half maps do not agree with each other: this map shows no structure that can be trusted."]
    up_to = "at least " if crossing.at_nyquist else ""
    figure = f"The map is resolved to {up_to}{limit:.2f} Å (FSC = 0.143, mask corrected)."
    endless = crossing.at_nyquist and summary.few is not None
    if endless:
        figure = f"The FSC stays above 0.143 up to the finest frequency, {limit:.2f} Å (mask corrected)."
    elif summary.few is not None:
        figure = f"The FSC falls below 0.143 at {limit:.2f} Å (mask corrected), which is no resolution here."
    # What should be seen is no use where the figure itself is none.
    sentences = [f"{figure} {_seen_at(limit)}"] if summary.few is None else [summary.few, figure]
    # A curve that never falls says nothing by place or direction either.
    if not endless:
        sentences += _more_figures(summary)
    guinier = summary.sharpening.weighted
    if guinier.b_factor_in_square_angstroms is None:
        sentences.append(f"The map was not sharpened: {guinier.reason}.")
    else:
        error = guinier.standard_deviation_in_square_angstroms or 0.0
        sentences.append(
            f"Amplitudes fall off with a B-factor of {-guinier.b_factor_in_square_angstroms:.0f} ± {error:.0f} Å²."
        )
    if summary.model is not None:
        agreed = summary.model.crossing().resolution_in_angstroms
        reached = "nowhere" if agreed is None else f"to {agreed:.2f} Å"
        sentences.append(f"Map and model agree {reached} (FSC = 0.5); the mean Q-score is {summary.model.q_score:.2f}.")
    return sentences


def _more_figures(summary: ResolutionSummary) -> list[str]:
    """Say what there is without a mask, by place and by direction."""
    found = []
    unmasked = summary.fsc.crossing("unmasked").resolution_in_angstroms
    if unmasked is not None:
        found.append(f"Without any mask the halves agree to {unmasked:.2f} Å.")
    if summary.local is not None:
        low, high = torch.quantile(summary.local.points, torch.tensor([0.1, 0.9])).tolist()
        found.append(
            f"By place it varies: the best tenth of the molecule is better than {low:.1f} Å, the poorest tenth worse "
            f"than {high:.1f} Å (local FSC = 0.5)."
        )
    if summary.directional is not None:
        by = summary.directional.resolution_in_angstroms
        if bool(torch.isfinite(by).all()):
            found.append(f"By direction it goes from {float(by.min()):.1f} to {float(by.max()):.1f} Å.")
    return found


def _seen_at(resolution: float) -> str:
    for limit, words in (
        (2.0, "Single atoms, water and ions should be visible."),
        (3.0, "Side chains should be clear and larger water molecules visible."),
        (4.0, "The backbone and most bulky side chains should be traceable."),
        (5.0, "Strands of sheets begin to separate; the backbone can be followed in parts."),
        (9.0, "Helices should show as rods; side chains are not visible."),
        (20.0, "Domains and overall shape should be right; secondary structure is not visible."),
    ):
        if resolution < limit:
            return words
    return "Only the overall shape can be trusted."
