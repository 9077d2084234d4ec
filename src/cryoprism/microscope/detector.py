"""The detector: which electrons are counted, how they blur, and what the sensor adds.

Three stages turn the expected electrons per pixel into the recorded counts:

1. counting: Poisson numbers thinned by DQE(0);
2. coincidence: electrons that arrive close together within one readout frame are counted once (a loss of counts and a
   dip of the noise spectrum at low frequency);
3. blur by the MTF, one at zero frequency. It acts on counted electrons, so the noise is coloured by it.

Then the fixed pattern of the session (gain residue) multiplies, and hot or dead pixels and lines replace. Coincidence
belongs to counting and stands before the blur here; to first order the two commute.

Frequencies of a detector are in 1/pixel with Nyquist at 0.5: that is how RELION's MTF STAR files
(``rlnResolutionInversePixel``) write them. To convert: k [1/pixel] = k [1/Å] × pixel size [Å].

Sources: Li et al. (2013), J. Struct. Biol. 184, 251 (coincidence loss and its noise spectrum); McMullan et al. (2014),
Ultramicroscopy 147, 156 (DQE, MTF and noise spectrum of direct detectors); Ripley (1977), J. R. Stat. Soc. B 39, 172
for the hard-core process whose spectrum the dip is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Generator, Tensor

from cryoprism.core import InputError, generator_for

from ._tensors import Scalar, apply_transfer, grid_of, over_grid

__all__ = [
    "CountingMtf",
    "Detector",
    "IntegratingMtf",
    "MtfCurve",
    "coincidence_dip",
    "count_electrons",
    "defect_masks",
    "gain_pattern",
    "lose_coincidences",
    "perfect_mtf",
    "record",
]


def perfect_mtf(k_in_inverse_pixels: Tensor) -> Tensor:
    """MTF that is one everywhere."""
    return torch.ones_like(k_in_inverse_pixels)


@dataclass(frozen=True)
class CountingMtf:
    """Analytic MTF of a counting detector: sinc(k) exp(-2π²σ²k²), for users without a measured curve.

    Square pixels give the sinc (taken radially), the uncertainty of locating an electron the Gaussian.
    """

    blur_in_pixels: float = 0.15

    def __call__(self, k_in_inverse_pixels: Tensor) -> Tensor:
        """Value at frequencies [1/pixel], any shape."""
        k = k_in_inverse_pixels
        return torch.sinc(k) * torch.exp(-2 * (math.pi * self.blur_in_pixels * k) ** 2)


@dataclass(frozen=True)
class IntegratingMtf:
    """Analytic MTF of an integrating detector: sinc(k) / (1 + (k/k0)²), a Lorentzian for the spread of charge."""

    half_frequency_in_inverse_pixels: float = 0.25

    def __call__(self, k_in_inverse_pixels: Tensor) -> Tensor:
        """Value at frequencies [1/pixel], any shape."""
        k = k_in_inverse_pixels
        return torch.sinc(k) / (1 + (k / self.half_frequency_in_inverse_pixels) ** 2)


@dataclass(frozen=True)
class MtfCurve:
    """A measured MTF: values at ascending frequencies [1/pixel], interpolated linearly, one at zero frequency.

    Beyond the last point (the corners of the transform lie at 0.71) the curve falls on exponentially at its mean rate
    over the last fifth, and never rises. Build it with :meth:`from_points`.
    """

    frequency_in_inverse_pixels: tuple[float, ...]
    value: tuple[float, ...]

    @classmethod
    def from_points(
        cls, frequency_in_inverse_pixels: Tensor | Sequence[float], value: Tensor | Sequence[float]
    ) -> MtfCurve:
        """Check and normalise a curve as ``cryoprism.formats.read_mtf`` reads it.

        Raises
        ------
        InputError
            Fewer than two points, frequencies that do not ascend from near 0, negative or non-finite values.
        """
        frequency = [float(f) for f in frequency_in_inverse_pixels]
        values = [float(v) for v in value]
        remedy = "Give a curve of (frequency [1/pixel], value) from 0 to 0.5, as in RELION's MTF STAR files."
        if len(frequency) != len(values) or len(frequency) < 2:
            raise InputError("MTF curve", f"{len(frequency)} frequencies and {len(values)} values", remedy)
        if not all(math.isfinite(x) for x in (*frequency, *values)) or min(values) < 0 or values[0] <= 0:
            raise InputError("MTF curve", "values that are negative or not finite", remedy)
        if not all(a < b for a, b in pairwise(frequency)) or not -1e-9 <= frequency[0] <= 0.05:
            raise InputError("MTF curve", "frequencies that do not ascend from 0", remedy)
        if frequency[-1] > 0.75:
            raise InputError(
                "MTF curve", f"frequencies up to {frequency[-1]:g}, where Nyquist is 0.5 per pixel", remedy
            )
        return cls(tuple(frequency), tuple(v / values[0] for v in values))

    def __call__(self, k_in_inverse_pixels: Tensor) -> Tensor:
        """Value at frequencies [1/pixel], any shape; differentiable in the frequency."""
        k = k_in_inverse_pixels
        x = torch.tensor(self.frequency_in_inverse_pixels, dtype=k.dtype, device=k.device)
        y = torch.tensor(self.value, dtype=k.dtype, device=k.device)
        i = torch.searchsorted(x, k.detach().contiguous()).clamp(1, len(x) - 1)
        slope = (y[i] - y[i - 1]) / (x[i] - x[i - 1])
        inside = y[i - 1] + slope * (k.clamp(min=self.frequency_in_inverse_pixels[0]) - x[i - 1])
        return torch.where(k <= x[-1], inside, y[-1] * torch.exp(-self._tail_rate() * (k - x[-1]).clamp_min(0)))

    def _tail_rate(self) -> float:
        start = min(int(0.8 * len(self.value)), len(self.value) - 2)
        first, last = self.value[start], self.value[-1]
        if first <= 0 or last <= 0:
            return 0.0
        span = self.frequency_in_inverse_pixels[-1] - self.frequency_in_inverse_pixels[start]
        return max(0.0, math.log(first / last) / span)


def coincidence_dip(k_in_inverse_pixels: Tensor, area_in_square_pixels: float) -> Tensor:
    """Spectrum ĝ(k) of the neighbourhood in which electrons coincide, one at zero frequency.

    A disc of area A = πR² has 2 J1(x)/x with x = 2πkR; here its Gaussian of equal curvature, exp(-x²/8), which is
    exp(-π A k²/2).
    """
    return torch.exp(-0.5 * math.pi * area_in_square_pixels * k_in_inverse_pixels**2)


@dataclass(frozen=True, kw_only=True)
class Detector:
    """What is fixed for a session's detector.

    Parameters
    ----------
    name
        For reports.
    dqe0
        Fraction of the electrons that are counted, in (0, 1].
    mtf
        Function of frequency [1/pixel] (Nyquist at 0.5), one at zero: a :class:`MtfCurve`, an analytic one or your own.
    noise_colour
        How much of the blur happens after counting, in [0, 1]. 1: all of it, noise power ∝ MTF², DQE(k) = DQE(0).
        0: electrons are counted once but misplaced, white noise, DQE(k) = DQE(0) MTF².
    coincidence_area_in_square_pixels
        Area A around an electron in which a later one within the same readout frame is lost; 0 for none.
    gain_residue_deviation, row_residue_deviation, column_residue_deviation
        Standard deviation of the fixed multiplicative pattern per pixel, per row and per column.
    hot_fraction, dead_fraction
        Fraction of the pixels that add ``hot_counts`` and of those that record nothing.
    hot_counts
        Counts that a hot pixel adds per recorded image.
    dead_lines
        Number of dead rows and columns together.
    """

    name: str = "counting"
    dqe0: float = 0.85
    mtf: Callable[[Tensor], Tensor] = CountingMtf()
    noise_colour: float = 1.0
    coincidence_area_in_square_pixels: float = 0.0
    gain_residue_deviation: float = 0.0
    row_residue_deviation: float = 0.0
    column_residue_deviation: float = 0.0
    hot_fraction: float = 0.0
    hot_counts: float = 0.0
    dead_fraction: float = 0.0
    dead_lines: int = 0

    def __post_init__(self) -> None:
        limits = {
            "dqe0": (1e-6, 1.0),
            "noise_colour": (0.0, 1.0),
            "coincidence_area_in_square_pixels": (0.0, 1000.0),
            "gain_residue_deviation": (0.0, 1.0),
            "row_residue_deviation": (0.0, 1.0),
            "column_residue_deviation": (0.0, 1.0),
            "hot_fraction": (0.0, 0.5),
            "dead_fraction": (0.0, 0.5),
            "dead_lines": (0, 10000),
        }
        for field, (low, high) in limits.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise InputError(f"Detector.{field}", f"{value}", f"Give a value from {low:g} to {high:g}.")

    @classmethod
    def ideal(cls) -> Detector:
        """Count every electron where it arrived: only the Poisson noise of the electrons themselves is left."""
        return cls(name="ideal", dqe0=1.0, mtf=perfect_mtf)

    def with_mtf(
        self, frequency_in_inverse_pixels: Tensor | Sequence[float], value: Tensor | Sequence[float]
    ) -> Detector:
        """Return a copy with a measured MTF."""
        return replace(self, mtf=MtfCurve.from_points(frequency_in_inverse_pixels, value))

    def mtf_transfer(self, ky_in_inverse_pixels: Tensor, kx_in_inverse_pixels: Tensor) -> Tensor:
        """Amplitude transfer of the signal on a grid of frequencies [1/pixel] that broadcast to (h, w)."""
        ky, kx = ky_in_inverse_pixels, kx_in_inverse_pixels
        return self.mtf(torch.sqrt(ky * ky + kx * kx))

    def noise_power(self, k_in_inverse_pixels: Tensor, coincidence_loss: Scalar = 0.0) -> Tensor:
        """Noise spectrum relative to white Poisson noise of the recorded counts, any shape.

        MTF^(2 c) (1 - 2 s ĝ(k)) with c the noise colour, s the fraction of electrons lost to coincidence
        (:meth:`coincidence_loss`) and ĝ the :func:`coincidence_dip`. The periodogram |F|²/(h w) of a flat
        exposure with n recorded counts per pixel is n times this.
        """
        blur = self.mtf(k_in_inverse_pixels) ** (2 * self.noise_colour)
        if self.coincidence_area_in_square_pixels == 0:
            return blur
        loss = over_grid(coincidence_loss, k_in_inverse_pixels)
        dip = coincidence_dip(k_in_inverse_pixels, self.coincidence_area_in_square_pixels)
        return blur * (1 - 2 * loss * dip)

    def coincidence_loss(self, electrons_per_pixel: Scalar, readout_frames: float) -> Scalar:
        """Fraction of counts lost, s = 1 - exp(-A n / 2F), with n = DQE(0) × electrons per pixel in F readout frames.

        Of the A n / F neighbours of an electron half came before it.
        """
        density = electrons_per_pixel * (0.5 * self.dqe0 * self.coincidence_area_in_square_pixels / readout_frames)
        return -torch.expm1(-density) if isinstance(density, Tensor) else -math.expm1(-density)


def count_electrons(expected: Tensor, dqe0: Scalar, generator: Generator, *, reparametrised: bool = False) -> Tensor:
    """Draw counts of a thinned Poisson process, Poisson(DQE(0) · expected), independent for every pixel and batch item.

    Parameters
    ----------
    expected
        Expected electrons per pixel (..., y, x), non-negative (negative values count as zero).
    dqe0
        Scalar or batch (b,).
    generator
        Source of the random numbers.
    reparametrised
        Use the Gaussian surrogate n + √n z, through which gradients flow; otherwise true Poisson numbers, without.
    """
    mean = (over_grid(dqe0, expected) * expected).clamp_min(0)
    if not reparametrised:
        return torch.poisson(mean.detach(), generator=generator)
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + torch.sqrt(mean.clamp_min(1e-12)) * noise


def lose_coincidences(
    counts: Tensor, area_in_square_pixels: Scalar, readout_frames: Scalar, generator: Generator | None = None
) -> Tensor:
    """Drop counts that coincide: each survives with probability exp(-(A/2F) (g ∗ n)), n the counts around it.

    Of two electrons closer than the area A within one readout frame the later is lost, hence the half. g is a
    normalised Gaussian neighbourhood of the area A (:func:`coincidence_dip`). The summed counts n stand for F readout
    frames; to first order the loss and its spectrum are those of F separate frames, without looping over them.

    Parameters
    ----------
    counts
        (..., y, x), non-negative.
    area_in_square_pixels, readout_frames
        A and F; scalars (the same for the batch).
    generator
        Adds the binomial noise of the losses as a Gaussian with its variance, so that the result is differentiable; if
        absent, the expected survivors are returned.
    """
    area = float(area_in_square_pixels)
    if area == 0:
        return counts.clone()
    ky, kx = grid_of(counts, 1.0)
    density = apply_transfer(counts, coincidence_dip(torch.sqrt(ky * ky + kx * kx), area))
    survive = torch.exp(-0.5 * area / over_grid(readout_frames, counts) * density.clamp_min(0))
    kept = counts * survive
    if generator is None:
        return kept
    noise = torch.randn(counts.shape, generator=generator, dtype=counts.dtype, device=counts.device)
    return kept + torch.sqrt((kept * (1 - survive)).clamp_min(1e-12)) * noise


def gain_pattern(
    shape: tuple[int, int], detector: Detector, session_seed: int, *, like: Tensor | None = None
) -> Tensor:
    """Draw the fixed multiplicative pattern (h, w) of a session, mean one: independent pixels, rows and columns.

    The same session seed gives the same pattern for every image of the session.
    """
    generator = generator_for(session_seed, "gain_residue", *shape)
    pixels = torch.randn(shape, generator=generator)
    rows = torch.randn(shape[0], 1, generator=generator)
    columns = torch.randn(1, shape[1], generator=generator)
    pattern = (
        1
        + detector.gain_residue_deviation * (pixels - pixels.mean())
        + detector.row_residue_deviation * (rows - rows.mean())
        + detector.column_residue_deviation * (columns - columns.mean())
    ).clamp_min(0)
    return pattern if like is None else pattern.to(dtype=like.dtype, device=like.device)


def defect_masks(
    shape: tuple[int, int], detector: Detector, session_seed: int, *, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Boolean masks (h, w) of the session's hot pixels and of its dead pixels and lines; a dead pixel is never hot.

    More defects contain fewer: raising a fraction keeps those that were there.
    """
    generator = generator_for(session_seed, "defects", *shape)
    order = torch.rand(shape, generator=generator)
    lines = torch.randperm(shape[0] + shape[1], generator=generator)[: detector.dead_lines]
    dead = order > 1 - detector.dead_fraction
    dead[lines[lines < shape[0]], :] = True
    dead[:, lines[lines >= shape[0]] - shape[0]] = True
    hot = (order < detector.hot_fraction) & ~dead
    return hot.to(device), dead.to(device)


def record(
    expected: Tensor,
    detector: Detector,
    generator: Generator,
    *,
    readout_frames: float = 1.0,
    session_seed: int = 0,
    reparametrised: bool = False,
) -> Tensor:
    """Turn expected electrons per pixel into recorded counts (..., y, x): all stages in order.

    Parameters
    ----------
    expected
        Expected electrons per pixel (..., y, x); for a movie (..., t, y, x) each frame is recorded by itself.
    detector
        The detector.
    generator
        Source of the random numbers of this exposure.
    readout_frames
        Readout frames that one recorded image sums, for coincidence loss.
    session_seed
        Fixes the gain residue and the defects of the session.
    reparametrised
        Gaussian surrogate with gradients instead of Poisson counts (:func:`count_electrons`).
    """
    height, width = expected.shape[-2:]
    ky, kx = grid_of(expected, 1.0)
    mtf = detector.mtf_transfer(ky, kx)
    before, after = mtf ** (1 - detector.noise_colour), mtf**detector.noise_colour
    counts = count_electrons(apply_transfer(expected, before), detector.dqe0, generator, reparametrised=reparametrised)
    counts = lose_coincidences(counts, detector.coincidence_area_in_square_pixels, readout_frames, generator)
    image = apply_transfer(counts, after) * gain_pattern((height, width), detector, session_seed, like=expected)
    hot, dead = defect_masks((height, width), detector, session_seed, device=expected.device)
    return torch.where(dead, torch.zeros_like(image), image + detector.hot_counts * hot.to(image.dtype))
