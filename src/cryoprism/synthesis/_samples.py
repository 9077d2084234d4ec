"""Sets of micrographs that are compared, brought to one scale, and cut into patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError

__all__ = [
    "PATCH",
    "Measure",
    "MicrographSet",
    "check_pair",
    "corners_on_grid",
    "has_ordinary_patch",
    "normalised",
    "ordinary_corners",
    "patches_at",
]

PATCH = 128
_BLOCK = 16
_DEBRIS = 4.0  # robust deviations of block means: beyond, a block does not set the scale
_ORDINARY = 0.9  # share of a patch that must be ordinary field


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure.

    Parameters
    ----------
    value
        The figure itself.
    low, high
        95 % interval.
    count
        What it rests on: patches for the classifier and the kernel, micrographs of both sets for the other distances.
    parts
        What the figure is the mean of, where there is such a thing (one AUC a fold).
    """

    value: float
    low: float
    high: float
    count: int
    parts: tuple[float, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain numbers and lists; a bound that the data do not give is None."""
        bounds = {"value": self.value, "low": self.low, "high": self.high}
        record: dict[str, object] = {key: v if math.isfinite(v) else None for key, v in bounds.items()}
        record["count"] = self.count
        if self.parts:
            record["parts"] = list(self.parts)
        return record


@dataclass(frozen=True, eq=False)
class MicrographSet:
    """Micrographs of one origin.

    Parameters
    ----------
    images
        Two or more tensors (y, x) of any grey scale, each edge at least 128 pixels. Two, because nothing can be said of
        how sets differ without knowing how micrographs of one set differ.
    pixel_size_in_angstroms
        Of all of them, or one for each; they must agree.
    weights
        (y, x) share of each pixel that is ordinary field (contamination and carbon have 0), or None, for each image.
    name
        For errors and tables.

    Raises
    ------
    InputError
        Fewer than two images, an image that is too small, flat or not finite, pixel sizes that differ, weights that do
        not fit.
    """

    images: Sequence[Tensor]
    pixel_size_in_angstroms: float | Sequence[float]
    weights: Sequence[Tensor | None] | None = None
    name: str = "set"

    def __post_init__(self) -> None:
        if len(self.images) < 2:
            raise InputError(
                self.name,
                f"holds {len(self.images)} micrographs",
                "Give at least two: micrographs differ by themselves.",
            )
        given = self.pixel_size_in_angstroms
        sizes = list(given) if isinstance(given, Sequence) else [float(given)] * len(self.images)
        if len(sizes) != len(self.images):
            raise InputError(
                self.name, f"{len(sizes)} pixel sizes for {len(self.images)} micrographs", "Give one each."
            )
        if not all(math.isfinite(s) and s > 0 for s in sizes):
            raise InputError(self.name, f"pixel size {min(sizes):g} Å", "Give positive sizes.")
        if max(sizes) > 1.001 * min(sizes):
            raise InputError(
                self.name,
                f"pixel sizes from {min(sizes):g} to {max(sizes):g} Å",
                "Resample the micrographs to one pixel size, or compare them in groups.",
            )
        weights = self.weights
        if weights is not None and len(weights) != len(self.images):
            raise InputError(self.name, f"{len(weights)} weights for {len(self.images)} micrographs", "Give one each.")
        for number, image in enumerate(self.images):
            where = f"{self.name}, micrograph {number + 1}"
            if image.ndim != 2 or min(image.shape) < PATCH:
                raise InputError(
                    where,
                    f"has the shape {tuple(image.shape)}",
                    f"Give images (y, x) of {PATCH} pixels or more a side.",
                )
            if not bool(torch.isfinite(image).all()) or float(image.max()) == float(image.min()):
                raise InputError(where, "is flat or holds values that are not finite", "Leave it out.")
            weight = None if weights is None else weights[number]
            if weight is not None and weight.shape != image.shape:
                raise InputError(
                    where, f"weight {tuple(weight.shape)} for {tuple(image.shape)}", "Give it the same shape."
                )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def pixel_size(self) -> float:
        """Å per pixel of all micrographs."""
        given = self.pixel_size_in_angstroms
        return float(given[0]) if isinstance(given, Sequence) else float(given)

    def weight(self, number: int) -> Tensor | None:
        """Return the weight (y, x) of a micrograph."""
        return None if self.weights is None else self.weights[number]

    def part(self, members: Sequence[int]) -> MicrographSet:
        """Return some of the micrographs, by index."""
        weights = None if self.weights is None else [self.weights[i] for i in members]
        return MicrographSet([self.images[i] for i in members], self.pixel_size, weights, self.name)


def check_pair(real: MicrographSet, synthetic: MicrographSet) -> None:
    """Refuse sets of different pixel sizes."""
    a, b = real.pixel_size, synthetic.pixel_size
    if max(a, b) > 1.001 * min(a, b):
        raise InputError(
            f"{real.name} and {synthetic.name}",
            f"have pixels of {a:g} and {b:g} Å",
            "Resample one of them: what a patch shows depends on its pixel size.",
        )


def normalised(samples: MicrographSet) -> list[Tensor]:
    """Each micrograph at mean 0 and deviation 1 over its ordinary field.

    Blocks of 16 pixels whose mean lies farther out than four robust deviations (dark debris that no mask has caught) do
    not count. The deviation itself is the ordinary one: a median of counted electrons would be a whole number.
    """
    out = []
    for number, image in enumerate(samples.images):
        image = image.float()
        rows, columns = (n // _BLOCK for n in image.shape)
        cut = image[: rows * _BLOCK, : columns * _BLOCK]
        blocks = cut.reshape(rows, _BLOCK, columns, _BLOCK).permute(0, 2, 1, 3).reshape(rows * columns, -1)
        weight = samples.weight(number)
        if weight is not None:
            cut = weight.float()[: rows * _BLOCK, : columns * _BLOCK]
            share = cut.reshape(rows, _BLOCK, columns, _BLOCK).mean((1, 3)).flatten()
            blocks = blocks[share >= _ORDINARY] if bool((share >= _ORDINARY).any()) else blocks
        means = blocks.mean(1)
        off = (means - means.median()).abs()
        kept = blocks[off <= _DEBRIS * 1.4826 * off.median().clamp_min(1e-12)]
        kept = kept if len(kept) else blocks
        out.append((image - kept.mean()) / kept.std().clamp_min(1e-12))
    return out


def corners_on_grid(shape: tuple[int, ...], weight: Tensor | None, *, side: int = PATCH) -> Tensor:
    """Upper left corners (n, 2) (y, x) of patches that do not overlap, the rim shared out, ordinary field only."""
    lines = []
    for length in shape:
        count = length // side
        first = (length - count * side) // 2
        lines.append(first + side * torch.arange(count))
    corners = torch.cartesian_prod(*lines).reshape(-1, 2)
    if weight is None:
        return corners
    return _kept(weight, corners, side)


def has_ordinary_patch(shape: tuple[int, ...], weight: Tensor | None, *, side: int = PATCH) -> bool:
    """Whether a micrograph has a patch of ordinary field on its grid: what cannot be compared is left out by this."""
    if min(shape) < side:
        return False
    return weight is None or bool(_ordinary(weight, corners_on_grid(shape, None, side=side), side).any())


def _kept(weight: Tensor, corners: Tensor, side: int) -> Tensor:
    good = _ordinary(weight, corners, side)
    if not bool(good.any()):
        raise InputError(
            "weights",
            f"no patch of {side} pixels is {_ORDINARY:.0%} ordinary field",
            "Leave the micrograph out, or mask less of it.",
        )
    return corners[good]


def _ordinary(weight: Tensor, corners: Tensor, side: int) -> Tensor:
    total = torch.zeros(weight.shape[0] + 1, weight.shape[1] + 1, dtype=torch.float64)
    total[1:, 1:] = weight.double().cumsum(0).cumsum(1)
    y, x = corners[:, 0], corners[:, 1]
    inside = total[y + side, x + side] - total[y, x + side] - total[y + side, x] + total[y, x]
    return inside >= _ORDINARY * side * side


def ordinary_corners(weight: Tensor | None, shape: tuple[int, ...], *, side: int = PATCH) -> Tensor | None:
    """All corners (n, 2) at every eighth pixel that show ordinary field, or None for no restriction."""
    if weight is None:
        return None
    lines = [torch.arange(0, length - side + 1, 8) for length in shape]
    corners = torch.cartesian_prod(*lines).reshape(-1, 2)
    return _kept(weight, corners, side)


def patches_at(image: Tensor, corners: Tensor, side: int = PATCH) -> Tensor:
    """Patches (n, side, side) at corners (n, 2) (y, x)."""
    windows = image.unfold(0, side, 1).unfold(1, side, 1)
    return windows[corners[:, 0], corners[:, 1]]
