"""What the learned picker is given: a micrograph at a scale set by the particle, in channels that the causes supply.

A micrograph is resampled so that the particle's diameter spans :data:`PIXELS_PER_DIAMETER` pixels, whatever its pixel
size; one network then serves particles of every size. Three channels come out: grey values with mean and deviation of
their surroundings taken out, the same after a Wiener filter with the CTF (zero where no CTF is known), and a mask of
what is no ice with particles (zero where nothing is known).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from cryoprism.core import InputError, frequency_grid, irfft2, rfft2
from cryoprism.formats import CtfRecord, OpticsGroup
from cryoprism.microscope.optics import Lens, contrast_transfer
from cryoprism.restoration.masks import LABELS, ArtefactMask

from ._field import phase_randomised

__all__ = [
    "PIXELS_PER_DIAMETER",
    "SPOT_WIDTH",
    "Transfer",
    "centre_odds",
    "null_channels",
    "picker_channels",
    "resample",
    "sharpened",
    "working_pixel",
]

PIXELS_PER_DIAMETER = 24
"""Pixels of the working image across one particle diameter."""

SPOT_WIDTH = 0.1
"""Standard deviation [diameters] of the spot that marks a centre in training."""

_WINDOW = 0.12  # standard deviation [diameters] within which a centre is counted
_SHARP = 1.5 / 24  # standard deviation [diameters] of the mean that is taken off to find maxima
_SURROUNDINGS = (1.2, 1.6)  # standard deviations [diameters] of the windows for the mean and for the deviation
_CLIP = 6.0  # deviations
_OUTLIER = 8.0  # robust deviations of the raw pixels
_WIENER = 0.15  # noise over signal of the CTF filter, at the scale of CTF²


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """The contrast transfer of one micrograph: lens and aberrations, signs and angles as in ``microscope.optics``."""

    lens: Lens
    defocus_u_in_angstroms: float
    defocus_v_in_angstroms: float
    defocus_angle_in_degrees: float = 0.0
    phase_shift_in_degrees: float = 0.0

    @classmethod
    def from_records(cls, optics: OpticsGroup, ctf: CtfRecord) -> Transfer:
        """Join what the optics group and the CTF estimate of a micrograph say."""
        return cls(
            lens=Lens(
                voltage_in_kilovolts=optics.voltage_in_kilovolts,
                spherical_aberration_in_millimeters=optics.spherical_aberration_in_millimeters,
                amplitude_contrast=optics.amplitude_contrast,
            ),
            defocus_u_in_angstroms=ctf.defocus_u_in_angstroms,
            defocus_v_in_angstroms=ctf.defocus_v_in_angstroms,
            defocus_angle_in_degrees=ctf.defocus_angle_in_degrees,
            phase_shift_in_degrees=ctf.phase_shift_in_degrees,
        )

    def on_grid(self, shape: tuple[int, int], pixel_size_in_angstroms: float, device: torch.device) -> Tensor:
        """CTF on the half grid (h, w // 2 + 1) of an image of ``shape``."""
        ky, kx = frequency_grid(shape, pixel_size_in_angstroms, device=device)
        return contrast_transfer(
            ky,
            kx,
            self.lens,
            defocus_u_in_angstroms=self.defocus_u_in_angstroms,
            defocus_v_in_angstroms=self.defocus_v_in_angstroms,
            defocus_angle_in_degrees=self.defocus_angle_in_degrees,
            phase_shift_in_degrees=self.phase_shift_in_degrees,
        )


def working_pixel(diameter_in_angstroms: float) -> float:
    """Pixel size [Å] of the working image.

    Raises
    ------
    InputError
        The diameter is not a positive number.
    """
    if not (math.isfinite(diameter_in_angstroms) and diameter_in_angstroms > 0):
        raise InputError("--diameter", f"is {diameter_in_angstroms}", "Give the particle's diameter in Å.")
    return diameter_in_angstroms / PIXELS_PER_DIAMETER


def resample(image: Tensor, pixel_size_in_angstroms: float, new_pixel_size_in_angstroms: float) -> Tensor:
    """Sample an image (h, w) anew; pixel j of the result lies j × the new pixel size from the first pixel.

    A Lanczos kernel of three lobes, as wide as the coarser of the two pixels and with its weights adding up to one also
    at the edges; images more than four times too fine are averaged over whole pixels before, and not more than a
    twentieth of the power of what is too fine folds back. Linear in the image.

    Parameters
    ----------
    image
        (h, w) float.
    pixel_size_in_angstroms, new_pixel_size_in_angstroms
        Old and new pixel size; the result is (h', w') with h' = ⌊(h − 1) × old / new⌋ + 1.
    """
    ratio = new_pixel_size_in_angstroms / pixel_size_in_angstroms
    height, width = (max(1, math.floor((n - 1) / ratio + 1e-6) + 1) for n in image.shape)
    factor = max(1, min(math.floor(ratio / 2), min(image.shape) // 8))
    if factor > 1:
        image = torch.nn.functional.avg_pool2d(image[None, None], factor)[0, 0]
    offset = 0.5 * (factor - 1) / factor  # of the first average from the first pixel, in averages
    rows = _lanczos(image.shape[0], height, ratio / factor, offset, image.device)
    columns = _lanczos(image.shape[1], width, ratio / factor, offset, image.device)
    return rows @ image @ columns.T


@lru_cache(maxsize=16)
def _lanczos(old: int, new: int, ratio: float, offset: float, device: torch.device) -> Tensor:
    """Weights (new, old) of a Lanczos kernel."""
    scale = max(1.0, ratio)
    at = torch.arange(new, dtype=torch.float64)[:, None] * ratio - offset
    x = (torch.arange(old, dtype=torch.float64) - at) / scale
    weights = torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)
    return (weights / weights.sum(1, keepdim=True)).float().to(device)


@lru_cache(maxsize=16)
def _gaussian(size: int, deviation: float, device: torch.device) -> Tensor:
    """Weights (size, size) of a Gaussian mean; what lies beyond the edge has no weight."""
    x = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((x[:, None] - x) / deviation) ** 2)
    return weights.to(device)


def _local_mean(values: Tensor, weight: Tensor, deviation: float) -> Tensor:
    """Weighted Gaussian mean of an image (h, w)."""
    rows, columns = (_gaussian(n, deviation, values.device) for n in values.shape)
    total = rows @ weight @ columns
    return (rows @ (values * weight) @ columns) / total.clamp_min(1e-3 * float(total.max()) + 1e-12)


def _standardised(image: Tensor, good: Tensor) -> Tensor:
    """Grey values less the local mean, over the local deviation; neither looks at what is masked, which becomes 0."""
    mean_window, deviation_window = (PIXELS_PER_DIAMETER * width for width in _SURROUNDINGS)
    centred = image - _local_mean(image, good, mean_window)
    variance = _local_mean(centred.square(), good, deviation_window)
    typical = (variance * good).sum() / good.sum().clamp_min(1.0)
    return good * centred / (variance + 0.05 * typical).sqrt().clamp_min(1e-12)


def _without_outliers(image: Tensor) -> Tensor:
    """Raw pixels limited to what the micrograph's own spread explains."""
    step = max(1, image.numel() // 200_000)
    sample = image.reshape(-1)[::step]
    median = sample.median()
    spread = 1.4826 * (sample - median).abs().median()
    if not float(spread) > 0:
        return image - median
    return (image - median).clamp(-_OUTLIER * spread, _OUTLIER * spread) / spread


def picker_channels(
    micrograph: Tensor,
    pixel_size_in_angstroms: float,
    *,
    diameter_in_angstroms: float,
    transfer: Transfer | None = None,
    mask: Tensor | ArtefactMask | None = None,
) -> Tensor:
    """Channels (3, h', w') of a micrograph at the working scale.

    Parameters
    ----------
    micrograph
        (h, w) raw pixels, protein dark, finite; not changed.
    pixel_size_in_angstroms
        Its pixel size [Å].
    diameter_in_angstroms
        Of the particle [Å].
    transfer
        The CTF, where it is known.
    mask
        Labels of ``restoration.masks`` at any resolution, covering the field evenly; single defects do not count.

    Raises
    ------
    InputError
        Not one image, pixels that are not finite, no pixel size, or a field smaller than the particle.
    """
    if micrograph.ndim != 2:
        raise InputError("micrograph", f"has shape {tuple(micrograph.shape)}", "Give one image (y, x).")
    if not (math.isfinite(pixel_size_in_angstroms) and pixel_size_in_angstroms > 0):
        raise InputError("pixel_size_in_angstroms", f"is {pixel_size_in_angstroms}", "Give the pixel size in Å.")
    pixel = working_pixel(diameter_in_angstroms)
    if min(micrograph.shape) * pixel_size_in_angstroms < diameter_in_angstroms:
        extent = min(micrograph.shape) * pixel_size_in_angstroms
        raise InputError(
            "--diameter",
            f"{diameter_in_angstroms:g} Å does not fit into a field of {extent:.0f} Å",
            "Check the diameter and the pixel size.",
        )
    image = micrograph.detach().float()
    if not bool(torch.isfinite(image).all()):
        raise InputError("micrograph", "holds pixels that are not finite", "Replace its defects first.")
    small = resample(_without_outliers(image), pixel_size_in_angstroms, pixel)
    bad = _mask_on(mask, micrograph.shape, small, pixel / pixel_size_in_angstroms)
    grey = _standardised(small, 1.0 - bad)
    if transfer is None:
        filtered = torch.zeros_like(grey)
    else:
        filtered = _wiener(grey.clamp(-_CLIP, _CLIP), transfer, pixel)
    return torch.stack([grey.clamp(-_CLIP, _CLIP), filtered, bad])


def null_channels(
    channels: Tensor, diameter_in_angstroms: float, transfer: Transfer | None, generator: torch.Generator
) -> Tensor:
    """Channels (3, h', w') of a micrograph with the same power, the same mask and no particle.

    The Fourier phases of the grey values are drawn anew at the working scale, where mean and deviation of their
    surroundings are taken out already, so that gradients and artefacts add nothing to the power.

    Parameters
    ----------
    channels
        As :func:`picker_channels` gives them, for ``diameter_in_angstroms`` and ``transfer``; not changed.
    generator
        On the CPU.
    """
    grey, _, bad = channels
    noise = phase_randomised((grey * (1.0 - bad)).cpu(), generator).to(grey)
    grey = _standardised(noise, 1.0 - bad).clamp(-_CLIP, _CLIP)
    pixel = working_pixel(diameter_in_angstroms)
    filtered = torch.zeros_like(grey) if transfer is None else _wiener(grey, transfer, pixel)
    return torch.stack([grey, filtered, bad])


def _wiener(image: Tensor, transfer: Transfer, pixel: float) -> Tensor:
    """Image (h, w) through CTF / (CTF² + noise), scaled to a deviation of 1."""
    border = PIXELS_PER_DIAMETER // 2
    height, width = image.shape
    padded = torch.nn.functional.pad(image[None], (border, border, border, border), mode="replicate")[0]
    shape = (int(padded.shape[0]), int(padded.shape[1]))
    ctf = transfer.on_grid(shape, pixel, image.device)
    out = irfft2(rfft2(padded) * (ctf / (ctf.square() + _WIENER)), shape)
    out = out[border : border + height, border : border + width]
    return (out / out.std().clamp_min(1e-6)).clamp(-_CLIP, _CLIP)


def _mask_on(mask: Tensor | ArtefactMask | None, shape: torch.Size, like: Tensor, ratio: float) -> Tensor:
    """Whether each pixel of the working image is masked, as 0 or 1."""
    if mask is None:
        return torch.zeros_like(like)
    labels = mask.labels if isinstance(mask, ArtefactMask) else mask
    if labels.ndim != 2:
        raise InputError("mask", f"has shape {tuple(labels.shape)}", "Give the labels of one micrograph (y, x).")
    bad = ((labels != LABELS["good"]) & (labels != LABELS["defect"])).to(like)
    index = []
    for axis in (0, 1):
        at = torch.arange(like.shape[axis], device=like.device) * ratio  # in pixels of the micrograph
        index.append((at * labels.shape[axis] / shape[axis]).long().clamp(0, labels.shape[axis] - 1))
    return bad[index[0]][:, index[1]]


def centre_odds(spot_log_odds: Tensor) -> Tensor:
    """Log-odds (h, w) of a particle centre about here, from those of each pixel being on the spot that marks one.

    Where the network cannot tell the place to a fraction of the spot, no single pixel is likely on it, though a centre
    is near for sure. Hence the expected spots are added up under a Gaussian window W: with p the probability that the
    network gives and G a perfect spot, n = (W ∗ p) / (W ∗ G)(0) is the number of centres that are expected under the
    window, and the probability of one or more is 1 − exp(−n), with the log-odds log(exp(n) − 1).
    """
    spot, window = SPOT_WIDTH * PIXELS_PER_DIAMETER, _WINDOW * PIXELS_PER_DIAMETER
    rows, columns = (_gaussian(n, window, spot_log_odds.device) for n in spot_log_odds.shape)
    perfect = 2 * math.pi / (1 / spot**2 + 1 / window**2)
    return (rows @ torch.sigmoid(spot_log_odds) @ columns / perfect).clamp_min(1e-7).expm1().log()


def sharpened(spot_log_odds: Tensor) -> Tensor:
    """Log-odds (h, w) of spots less their mean over a spot's core: a shoulder becomes a maximum.

    An overlapped or faint particle on the flank of a surer neighbour bends the map and often has no maximum in it.
    """
    rows, columns = (_gaussian(n, _SHARP * PIXELS_PER_DIAMETER, spot_log_odds.device) for n in spot_log_odds.shape)
    weight = rows.sum(1)[:, None] * columns.sum(1)
    return spot_log_odds - (rows @ spot_log_odds @ columns) / weight
