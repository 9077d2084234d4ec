"""Fourier shell correlation of half maps: unmasked, masked, phase-randomised, corrected; and the resolution.

Shells are one Fourier pixel wide: shell i holds the coefficients whose distance from the origin rounds to i, in units
of 1 / (n · voxel size) with the longest edge n of the box. Every coefficient of the full transform counts once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cryoprism.core import InputError, generator_for

from ._volume_fft import irfft3, rfft3

__all__ = [
    "Crossing",
    "FscCurve",
    "HalfMapFsc",
    "correlation_with_mirror",
    "cosine_edge",
    "first_crossing",
    "fourier_shell_correlation",
    "half_map_fsc",
    "irfft3",
    "low_pass",
    "noise_limit",
    "radial_filter",
    "radial_gain",
    "randomise_phases",
    "require_half_maps",
    "rfft3",
    "shell_frequencies",
    "shell_index",
    "shell_sums",
    "three_shell_mean",
]

_RANDOMISE_BELOW = 0.8
# Randomised and true phases mix over the width of the mask's transform: the correction starts two shells later.
_TRANSITION_SHELLS = 2
_LEAKED = 0.9999


@dataclass(frozen=True)
class Crossing:
    """Where a correlation curve first falls below a threshold.

    Attributes
    ----------
    resolution_in_angstroms
        Linear interpolation in frequency between the shells around the crossing; the Nyquist limit where the curve
        stays above; None where it is below from the first shell on.
    at_nyquist
        The curve never falls below: the voxel size, not the data, sets the limit.
    """

    resolution_in_angstroms: float | None
    at_nyquist: bool = False


@dataclass(frozen=True, eq=False)
class FscCurve:
    """Correlation by shell: ``frequency`` [1/Å], ``fsc`` and the number of coefficients ``count``, all (shells,)."""

    frequency: Tensor
    fsc: Tensor
    count: Tensor

    def crossing(self, threshold: float = 0.143) -> Crossing:
        """Resolution at ``threshold``, see :func:`first_crossing`."""
        return first_crossing(self.frequency, self.fsc, threshold)


@dataclass(frozen=True, eq=False)
class HalfMapFsc:
    """The curves of two half maps, all (shells,) double.

    Attributes
    ----------
    frequency
        [1/Å], from 0 to Nyquist.
    count
        Coefficients of the full transform in each shell.
    unmasked, masked, randomised, corrected
        FSC of the maps as they are, under the mask, under the mask with phases randomised, and corrected for the mask.
        Without a mask all but the randomised one, which is then zero, equal the unmasked one.
    randomised_from_shell
        First shell with randomised phases; None without a mask, or where the unmasked FSC never falls below 0.8.
    """

    frequency: Tensor
    count: Tensor
    unmasked: Tensor
    masked: Tensor
    randomised: Tensor
    corrected: Tensor
    randomised_from_shell: int | None

    @property
    def randomised_beyond_in_angstroms(self) -> float | None:
        """Resolution from which on phases were randomised [Å]."""
        if self.randomised_from_shell is None:
            return None
        return 1.0 / float(self.frequency[self.randomised_from_shell])

    def crossing(self, curve: str = "corrected", threshold: float = 0.143) -> Crossing:
        """Resolution of ``unmasked``, ``masked`` or ``corrected`` at a threshold."""
        return first_crossing(self.frequency, getattr(self, curve), threshold)


@lru_cache(maxsize=4)
def _shell_radius(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    longest = max(shape)
    z, y = (torch.fft.fftfreq(n, device=device, dtype=torch.float64) * longest for n in shape[:2])
    x = torch.fft.rfftfreq(shape[2], device=device, dtype=torch.float64) * longest
    squared = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2
    radius: Tensor = squared.sqrt().float()
    return radius


@lru_cache(maxsize=4)
def _shell_index(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    index: Tensor = _shell_radius(shape, device).round().long().clamp_max(max(shape) // 2 + 1)
    return index


def shell_index(shape: tuple[int, int, int], device: torch.device | str = "cpu") -> Tensor:
    """Shell of every coefficient of an ``rfft3``, (z, y, x // 2 + 1) int64.

    Shells 0 … n // 2 (n: longest edge) are inside; n // 2 + 1 stands for everything beyond. Shared between calls: do
    not write into it.
    """
    return _shell_index((int(shape[0]), int(shape[1]), int(shape[2])), torch.device(device))


def shell_frequencies(shape: tuple[int, int, int], voxel_size_in_angstroms: float) -> Tensor:
    """Frequency [1/Å] of each shell, (n // 2 + 1,) double."""
    longest = max(shape)
    return torch.arange(longest // 2 + 1, dtype=torch.float64) / (longest * voxel_size_in_angstroms)


@lru_cache(maxsize=4)
def _multiplicity(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    weight = torch.full((shape[2] // 2 + 1,), 2.0, device=device, dtype=torch.float32)
    weight[0] = 1.0
    if shape[2] % 2 == 0:
        weight[-1] = 1.0
    return weight


def shell_sums(values: Tensor | None, shape: tuple[int, int, int], device: torch.device | str = "cpu") -> Tensor:
    """Sum over each shell of the full transform, (n // 2 + 1,) double, of real ``values`` on the half grid.

    Parameters
    ----------
    values
        (z, y, x // 2 + 1), equal at opposite frequencies; None counts coefficients.
    shape
        Of the volume, (z, y, x).
    device
        Used where there are no values.
    """
    where = torch.device(device) if values is None else values.device
    index = shell_index(shape, where)
    weight = _multiplicity((int(shape[0]), int(shape[1]), int(shape[2])), where)
    weighted = weight.expand(index.shape) if values is None else values * weight
    sums = torch.bincount(index.flatten(), weights=weighted.flatten().double(), minlength=max(shape) // 2 + 2)
    return sums[: max(shape) // 2 + 1]


def _correlate(first: Tensor, second: Tensor, shape: tuple[int, int, int]) -> Tensor:
    a, b = torch.view_as_real(first.resolve_conj()), torch.view_as_real(second.resolve_conj())
    cross = shell_sums((a * b).sum(-1), shape).cpu()
    power = (shell_sums(a.square().sum(-1), shape) * shell_sums(b.square().sum(-1), shape)).cpu()
    return torch.where(power > 0, cross / power.clamp_min(torch.finfo(torch.float64).tiny).sqrt(), 0.0).clamp(-1, 1)


def _shape_of(volume: Tensor) -> tuple[int, int, int]:
    z, y, x = (int(n) for n in volume.shape)
    return z, y, x


def fourier_shell_correlation(
    first: Tensor, second: Tensor, voxel_size_in_angstroms: float, *, mask: Tensor | None = None
) -> FscCurve:
    """Fourier shell correlation of two volumes (z, y, x), FSC = Re Σ F₁F₂* / √(Σ|F₁|² Σ|F₂|²).

    Harauz & van Heel (1986), Optik 73, 146.

    Parameters
    ----------
    first, second
        Volumes of one shape.
    voxel_size_in_angstroms
        [Å].
    mask
        Multiplies both volumes first.

    Raises
    ------
    InputError
        The shapes differ.
    """
    _require_same_shape(first, second, mask)
    shape = _shape_of(first)
    if mask is not None:
        first, second = first * mask, second * mask
    return FscCurve(
        shell_frequencies(shape, voxel_size_in_angstroms),
        _correlate(rfft3(first), rfft3(second), shape),
        shell_sums(None, shape, first.device).cpu(),
    )


def first_crossing(frequency: Tensor, fsc: Tensor, threshold: float) -> Crossing:
    """Where a curve first falls below ``threshold``; the zero frequency does not count.

    Parameters
    ----------
    frequency
        (shells,) [1/Å], ascending from 0.
    fsc
        (shells,).
    threshold
        For example 0.143 for half maps (Rosenthal & Henderson 2003), 0.5 against a model.
    """
    below = torch.nonzero(fsc[1:] < threshold).flatten()
    if below.numel() == 0:
        return Crossing(1.0 / float(frequency[-1]), at_nyquist=True)
    i = int(below[0]) + 1
    if i == 1:
        return Crossing(None)
    high, low = float(fsc[i - 1]), float(fsc[i])
    share = (high - threshold) / (high - low)
    at = float(frequency[i - 1]) + share * float(frequency[i] - frequency[i - 1])
    return Crossing(1.0 / at)


def three_shell_mean(fsc: Tensor) -> Tensor:
    """Mean of each shell and its two neighbours, (..., shells); the first and the last count twice at their ends.

    Single shells dip where a map goes on: a hollow particle has zeros of its own transform, and micrographs of nearly
    one defocus share zeros of the CTF. Whoever asks how far a map goes on asks this curve; a map's resolution is where
    the FSC itself first falls below its threshold.
    """
    padded = torch.cat([fsc[..., :1], fsc, fsc[..., -1:]], -1)
    return (padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]) / 3


def noise_limit(count: Tensor, deviations: float = 3.0, *, mask_fraction: float = 1.0, symmetry: int = 1) -> Tensor:
    """FSC that pure noise exceeds only beyond so many standard deviations, deviations / √n per shell.

    n coefficients of the full transform are n / 2 independent complex numbers, whose normalised real cross term has the
    standard deviation 1 / √n. A mask that leaves a fraction of the box and a point group of order ``symmetry`` both
    lower the number of independent ones.
    """
    independent = (count * mask_fraction / symmetry).clamp_min(1.0)
    return (deviations / independent.sqrt()).clamp_max(1.0)


def randomise_phases(volume: Tensor, from_shell: int, generator: torch.Generator) -> Tensor:
    """Replace the phases of all coefficients from a shell on by random ones and keep the amplitudes.

    The phases are those of white noise, so the result is real exactly. Every call draws its own.
    """
    shape = _shape_of(volume)
    noise = torch.randn(shape, generator=generator, device=volume.device, dtype=volume.dtype)
    phases = rfft3(noise)
    return irfft3(_with_phases(rfft3(volume), phases, from_shell, shape), shape)


def _with_phases(transform: Tensor, phases: Tensor, from_shell: int, shape: tuple[int, int, int]) -> Tensor:
    unit = phases / phases.abs().clamp_min(torch.finfo(torch.float32).tiny)
    return torch.where(shell_index(shape, transform.device) >= from_shell, transform.abs() * unit, transform)


def half_map_fsc(
    half1: Tensor,
    half2: Tensor,
    voxel_size_in_angstroms: float,
    *,
    mask: Tensor | None = None,
    seed: int = 0,
) -> HalfMapFsc:
    """All FSC curves of two independent half maps.

    The mask's own contribution is measured with phases randomised, independently in each half, from the first shell on
    where the unmasked FSC is below 0.8, and taken off: FSC = (FSCₘ - FSCᵣ) / (1 - FSCᵣ), zero where FSCᵣ > FSCₘ (Chen
    et al. 2013, Ultramicroscopy 135, 24). The correction begins two shells beyond the first randomised one, as in
    RELION.

    Parameters
    ----------
    half1, half2
        Unfiltered half maps (z, y, x), never denoised.
    voxel_size_in_angstroms
        [Å].
    mask
        (z, y, x) from 0 to 1 with a soft edge.
    seed
        Of the random phases.

    Raises
    ------
    InputError
        The halves cannot be compared, see :func:`require_half_maps`.
    """
    _require_same_shape(half1, half2, mask)
    shape = _shape_of(half1)
    first, second = rfft3(half1), rfft3(half2)
    frequency = shell_frequencies(shape, voxel_size_in_angstroms)
    count = shell_sums(None, shape, half1.device).cpu()
    unmasked = _correlate(first, second, shape)
    if bool((unmasked[1:] > _LEAKED).all()):
        raise _leaked()
    if mask is None:
        return HalfMapFsc(frequency, count, unmasked, unmasked, torch.zeros_like(unmasked), unmasked, None)
    masked = _correlate(rfft3(half1 * mask), rfft3(half2 * mask), shape)
    below = torch.nonzero(unmasked[1:] < _RANDOMISE_BELOW).flatten()
    if below.numel() == 0:
        return HalfMapFsc(frequency, count, unmasked, masked, torch.zeros_like(masked), masked, None)
    start = int(below[0]) + 1
    hidden = []
    for name, transform in (("first half", first), ("second half", second)):
        # Drawn on the CPU, so that the curve does not depend on the device.
        phases = rfft3(torch.randn(shape, generator=generator_for(seed, "randomised phases", name)).to(half1.device))
        hidden.append(rfft3(irfft3(_with_phases(transform, phases, start, shape), shape) * mask))
    randomised = _correlate(hidden[0], hidden[1], shape)
    # A correlation below zero is chance: it must not raise the corrected curve.
    chance = randomised.clamp_min(0.0)
    corrected = ((masked - chance) / (1 - chance).clamp_min(1e-6)).clamp_min(0.0)
    corrected[: start + _TRANSITION_SHELLS] = masked[: start + _TRANSITION_SHELLS]
    return HalfMapFsc(frequency, count, unmasked, masked, randomised, corrected, start)


def radial_gain(weight_by_shell: Tensor, shape: tuple[int, int, int], device: torch.device | str = "cpu") -> Tensor:
    """Weights per shell (shells,) on the half grid of an ``rfft3``, linear between shells, zero beyond the last."""
    radius = _shell_radius((int(shape[0]), int(shape[1]), int(shape[2])), torch.device(device))
    weight = weight_by_shell.to(radius)
    weight = torch.cat([weight, weight[-1:], weight[-1:]])
    lower = radius.floor().long().clamp_max(max(shape) // 2 + 1)
    share = (radius - lower).clamp(0, 1)
    gain = weight[lower] * (1 - share) + weight[(lower + 1).clamp_max(max(shape) // 2 + 2)] * share
    return torch.where(radius > max(shape) // 2 + 0.5, 0.0, gain)


def radial_filter(volume: Tensor, weight_by_shell: Tensor) -> Tensor:
    """Multiply a volume's transform by a weight per shell (shells,), interpolated linearly between shells.

    Beyond the last shell the weight is zero.
    """
    shape = _shape_of(volume)
    return irfft3(rfft3(volume) * radial_gain(weight_by_shell, shape, volume.device), shape)


def low_pass(volume: Tensor, voxel_size_in_angstroms: float, resolution_in_angstroms: float, edge: int = 2) -> Tensor:
    """Low-pass filter with a raised cosine that falls over ``edge`` shells around the resolution."""
    frequency = shell_frequencies(_shape_of(volume), voxel_size_in_angstroms)
    return radial_filter(volume, cosine_edge(frequency, 1.0 / resolution_in_angstroms, edge))


def cosine_edge(frequency: Tensor, cutoff: float, edge: int = 2) -> Tensor:
    """Weights (shells,) from 1 to 0, a half at ``cutoff`` [1/Å], falling as a raised cosine over ``edge`` shells."""
    width = max(edge, 1) * float(frequency[1])
    phase = ((frequency - cutoff) / width + 0.5).clamp(0, 1)
    return 0.5 + 0.5 * torch.cos(torch.pi * phase)


def correlation_with_mirror(volume: Tensor, reference: Tensor) -> tuple[float, float]:
    """Correlation of a volume (z, y, x), and of its mirror image, with a reference in the same frame.

    The mirror reverses x about voxel n // 2. The larger of the two tells the hand only if the volume was aligned to the
    reference in both hands.
    """
    mirrored = volume.flip(-1)
    if volume.shape[-1] % 2 == 0:
        mirrored = mirrored.roll(1, -1)

    def correlation(one: Tensor) -> float:
        a, b = (one - one.mean()).double(), (reference - reference.mean()).double()
        return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt().clamp_min(1e-300))

    return correlation(volume), correlation(mirrored)


def require_half_maps(half1: Tensor, half2: Tensor, names: tuple[str, str] = ("half map 1", "half map 2")) -> None:
    """Refuse what cannot be two independent half maps.

    Raises
    ------
    InputError
        Different boxes, values that are not finite, a map that is constant, or halves that are the same map.
    """
    if half1.ndim != 3 or half1.shape != half2.shape:
        raise InputError(
            names[1],
            f"a box of {_sizes(half2)} voxels, but {names[0]} has {_sizes(half1)}",
            "Give the two half maps of one refinement, as it wrote them: uncropped, at one box and voxel size.",
        )
    for half, name in ((half1, names[0]), (half2, names[1])):
        bad = int((~torch.isfinite(half)).sum())
        if bad:
            raise InputError(name, f"{bad} voxels are not finite", "Make the map again, or set them to 0.")
        if bool(half.max() == half.min()):
            raise InputError(name, f"every voxel is {float(half.max()) + 0.0:g}", "Give a map that is not empty.")
    scale = float(half1.std())
    if float((half1 - half2).abs().max()) <= 1e-5 * scale:
        raise _leaked(names[1])


def _leaked(name: str = "the half maps") -> InputError:
    return InputError(
        name,
        "the two halves are the same map (FSC = 1 in every shell): particles leaked between the half sets, "
        "or one file was given twice",
        "Give half maps that were reconstructed from disjoint sets of particles.",
    )


def _sizes(volume: Tensor) -> str:
    return " × ".join(str(n) for n in reversed(volume.shape))


def _require_same_shape(first: Tensor, second: Tensor, mask: Tensor | None) -> None:
    if first.ndim != 3 or first.shape != second.shape:
        raise InputError(
            "volumes", f"boxes of {_sizes(first)} and {_sizes(second)} voxels", "Compare volumes of one box."
        )
    if mask is not None and mask.shape != first.shape:
        raise InputError(
            "mask", f"a box of {_sizes(mask)} voxels for maps of {_sizes(first)}", "Give a mask of the maps' box."
        )
