"""Gain residue: the fixed pattern that an imperfect gain reference leaves in every micrograph of a session.

Particles, ice and noise change from micrograph to micrograph, the detector does not. The running mean of normalised
micrographs therefore keeps the fixed pattern and averages the rest away; two independent halves of the session say
whether there is a pattern at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cryoprism.core import InputError

__all__ = ["GainResidue", "GainResidueAccumulator"]

_PARTS = ("rows", "columns", "pixels")


@dataclass(frozen=True)
class GainResidue:
    """What is known about the gain residue of a session.

    Attributes
    ----------
    kind
        ``none``: no common pattern beyond chance; ``multiplicative``: image = ideal · (1 + pattern); ``additive``: the
        grey zero of the images is arbitrary (mean not well above the noise), image = ideal + pattern · noise deviation.
    pattern
        (h, w) best linear estimate of the pattern, zero mean, or ``None`` if ``kind`` is ``none``.
    significance
        For rows, columns and single pixels: the agreement of the two halves in its own standard errors.
    deviation
        For rows, columns and single pixels: root mean square of the true pattern; zero where not significant.
    micrographs
        How many were seen.
    """

    kind: Literal["none", "multiplicative", "additive"]
    pattern: Tensor | None
    significance: dict[str, float]
    deviation: dict[str, float]
    micrographs: int

    def correct(self, image: Tensor) -> Tensor:
        """Return ``image`` (h, w) without the fixed pattern; the image itself if there is none.

        Raises
        ------
        InputError
            The image has another shape than the session.
        """
        if self.pattern is None:
            return image
        if image.shape != self.pattern.shape:
            raise InputError(
                "image",
                f"shape {tuple(image.shape)} in a session of {tuple(self.pattern.shape)}",
                "Process micrographs of different detectors as separate sessions.",
            )
        if self.kind == "multiplicative":
            return image / (1.0 + self.pattern)
        return image - self.pattern * _spread(image)


class GainResidueAccumulator:
    """Collects micrographs one by one; holds two images, whatever the length of the session.

    Parameters
    ----------
    threshold
        Standard errors by which the halves must agree before a pattern is called real.
    """

    def __init__(self, threshold: float = 5.0) -> None:
        self._threshold = threshold
        self._sums: list[Tensor] = []
        self._counts = [0, 0]
        self._multiplicative: bool | None = None

    @property
    def micrographs(self) -> int:
        """Number of micrographs seen."""
        return sum(self._counts)

    def update(self, image: Tensor) -> None:
        """Add one micrograph (h, w); it is not changed.

        It is divided by (or, with an arbitrary zero, freed of) its local level over about 32 pixels, then clipped at
        four standard deviations, so that contamination and defects of one micrograph weigh little.

        Raises
        ------
        InputError
            The shape differs from the session's.
        """
        image = image.detach()
        if not self._sums:
            self._sums = [torch.zeros(image.shape, dtype=torch.float32) for _ in range(2)]
        if image.shape != self._sums[0].shape:
            raise InputError(
                "image",
                f"shape {tuple(image.shape)} in a session of {tuple(self._sums[0].shape)}",
                "Process micrographs of different detectors as separate sessions.",
            )
        spread = _spread(image)
        if self._multiplicative is None:
            # Counts have a true zero; rescaled images do not, and dividing by their mean would mean nothing.
            self._multiplicative = bool(image[::16, ::16].median() > 3.0 * spread)
        half = self.micrographs % 2
        _add_normalised(self._sums[half], image, self._multiplicative, spread)
        self._counts[half] += 1

    def estimate(self) -> GainResidue:
        """Test for a common pattern and estimate it.

        With half means A and B, covariance over pixels estimates the variance of the true pattern without bias; its
        standard error comes from the scatter over 64 tiles. The pattern is (A + B)/2 shrunk by variance / (variance +
        noise), for row means, column means and the rest of the pixels apart (empirical Bayes); the last without what is
        smooth over 9 pixels, where micrographs themselves agree by chance.
        """
        nothing = dict.fromkeys(_PARTS, 0.0)
        if min(self._counts) < 1:
            return GainResidue("none", None, dict(nothing), dict(nothing), self.micrographs)
        halves = [total / count for total, count in zip(self._sums, self._counts, strict=True)]
        first, second = (_split(half) for half in halves)
        pattern: Tensor | None = None
        significance, deviation = dict(nothing), dict(nothing)
        for name, a, b in zip(_PARTS, first, second, strict=True):
            covariance, error = _covariance(a, b)
            significance[name] = covariance / max(error, 1e-30)
            if significance[name] < self._threshold:
                continue
            total = float((0.5 * (a + b)).square().mean())
            shrink = min(1.0, covariance / max(total, 1e-30))
            deviation[name] = math.sqrt(covariance)
            part = 0.5 * shrink * (a + b)
            if name == "pixels":
                # At the scale of particles the mean of a session is mostly particles: only what changes from pixel to
                # pixel is the detector's.
                part = (
                    part
                    - torch.nn.functional.avg_pool2d(part[None, None], 9, stride=1, padding=4, count_include_pad=False)[
                        0, 0
                    ]
                )
            pattern = part.expand(halves[0].shape).clone() if pattern is None else pattern + part
        kind: Literal["none", "multiplicative", "additive"] = "none"
        if pattern is not None:
            kind = "multiplicative" if self._multiplicative else "additive"
        return GainResidue(kind, pattern, significance, deviation, self.micrographs)


def _spread(image: Tensor) -> float:
    """Robust standard deviation of the pixel noise: from differences of neighbouring pixels, every eighth row."""
    rows = image[::8, : image.shape[1] // 2 * 2]
    return 1.4826 / math.sqrt(2.0) * float((rows[:, 1::2] - rows[:, ::2]).abs_().median()) + 1e-30


def _add_normalised(total: Tensor, image: Tensor, multiplicative: bool, spread: float) -> None:
    """Add the normalised image to ``total`` strip by strip, which stays in the processor's cache."""
    height, width = image.shape
    side = 32
    by, bx = max(1, height // side), max(1, width // side)
    sy, sx = height // by, width // bx
    level = image[: by * sy, : bx * sx].reshape(by, sy, bx, sx).mean(dim=(1, 3))
    # Linear between the blocks: steps at block borders would look like a fixed pattern.
    across = torch.nn.functional.interpolate(level[None], size=bx * sx, mode="linear", align_corners=False)[0]
    across = torch.cat([across, across[:, -1:].expand(by, width - bx * sx)], 1)
    position = ((torch.arange(height, dtype=torch.float32) + 0.5) / sy - 0.5).clamp(0, by - 1)
    below = position.floor().long().clamp_max(max(by - 2, 0))
    fraction = (position - below)[:, None]
    floor = max(1e-6, 0.05 * float(level.median())) if multiplicative else 0.0
    for top in range(0, height, 64):
        rows = slice(top, min(top + 64, height))
        low, high = across[below[rows]], across[(below[rows] + 1).clamp_max(by - 1)]
        local = torch.lerp(low, high, fraction[rows])
        strip = image[rows] - local
        if multiplicative:
            strip /= local.clamp_min_(floor)
            limit = 4.0 * spread / max(float(level.median()), floor)
        else:
            strip /= spread
            limit = 4.0
        total[rows] += torch.nan_to_num_(strip).clamp_(-limit, limit)


def _split(pattern: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row means (h, 1), column means (1, w) and the rest (h, w), each with zero mean."""
    centred = pattern - pattern.mean()
    rows = centred.mean(1, keepdim=True)
    columns = centred.mean(0, keepdim=True)
    return rows, columns, centred - rows - columns


def _covariance(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Covariance of two zero-mean halves and its standard error from 64 tiles or runs of lines."""
    product = a * b
    if 1 in product.shape:
        groups = torch.stack([chunk.mean() for chunk in product.flatten().tensor_split(min(64, product.numel() // 4))])
    else:
        sy, sx = max(1, product.shape[0] // 8), max(1, product.shape[1] // 8)
        groups = product[: 8 * sy, : 8 * sx].reshape(8, sy, 8, sx).mean(dim=(1, 3)).flatten()
    # Under the null the halves are independent, so the scatter of the groups measures chance; under a pattern it
    # measures chance and the pattern's unevenness, which only makes the test more careful.
    return float(product.mean()), float(groups.std()) / math.sqrt(groups.numel())
