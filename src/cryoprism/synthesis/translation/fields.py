"""What is trained on: real and synthetic micrographs in units of their standard deviation, and patches of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from cryoprism.core import InputError, generator_for

__all__ = ["Batch", "Prepared", "RealField", "SyntheticField", "draw_batch", "prepare"]

_GRID = 8  # px between the places of patches that are tried
_ORDINARY = 0.9  # share of a patch that must be ordinary field


@dataclass(frozen=True, eq=False, kw_only=True)
class RealField:
    """A real micrograph.

    Parameters
    ----------
    name
        For messages.
    image
        (y, x) grey values.
    pixel_size_in_angstroms
        Of the image.
    weight
        (y, x) share of each pixel that is ordinary field; None for all. Patches with much of contamination or carbon
        are left out.
    """

    name: str
    image: Tensor
    pixel_size_in_angstroms: float
    weight: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class SyntheticField:
    """A synthetic micrograph with classical noise, and what it was made of.

    Parameters
    ----------
    name
        For messages.
    image
        (y, x) grey values. For the mode ``cryoprism`` as matched as can be; for the baselines, the clean image with
        white Gaussian noise.
    clean
        (y, x) contrast of the particles relative to a mean of 0.
    gain
        Grey values per relative contrast.
    mask
        (y, x) share of particle.
    pixel_size_in_angstroms
        Of all images.
    """

    name: str
    image: Tensor
    clean: Tensor
    gain: float
    mask: Tensor
    pixel_size_in_angstroms: float


@dataclass(frozen=True, eq=False)
class Prepared:
    """All fields in units of their standard deviation, their pixel size and a hash of them all.

    ``corners`` are those (n, 2) of a real field's patches that lie on ordinary field; None where all do.
    """

    real: tuple[Tensor, ...]
    corners: tuple[Tensor | None, ...]
    synthetic: tuple[Tensor, ...]
    pixel_size_in_angstroms: float
    digest: str


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches of one step.

    Parameters
    ----------
    real, image, clean
        (b, 1, p, p) in units of the micrograph's standard deviation.
    mask
        (b, 1, p, p)
    noise
        (b, 1, p, p) white, for what the generator has to invent.
    """

    real: Tensor
    image: Tensor
    clean: Tensor
    mask: Tensor
    noise: Tensor

    def conditions(self) -> Tensor:
        """Channels (b, 3, p, p) that the generator sees beside the image."""
        return torch.cat([self.clean, self.mask, self.noise], 1)

    def to(self, device: torch.device) -> Batch:
        """Return the same patches on a device."""
        return Batch(*(getattr(self, name).to(device) for name in ("real", "image", "clean", "mask", "noise")))


def scale_of(name: str, image: Tensor, weight: Tensor | None = None) -> tuple[float, float]:
    """Mean and standard deviation of a micrograph's grey values.

    Raises
    ------
    InputError
        The image is flat, or has values that are no numbers.
    """
    share = torch.ones_like(image, dtype=torch.float64) if weight is None else weight.double()
    total = share.sum().clamp_min(1e-12)
    mean = float((image.double() * share).sum() / total)
    deviation = float((((image.double() - mean).square() * share).sum() / total).sqrt())
    if not 0 < deviation < float("inf"):
        raise InputError(name, f"its grey values have a standard deviation of {deviation:g}", "Leave it out.")
    return mean, deviation


def prepare(real: Sequence[RealField], synthetic: Sequence[SyntheticField], patch: int) -> Prepared:
    """Check and scale all fields.

    Raises
    ------
    InputError
        No fields, different pixel sizes, shapes that do not fit, images smaller than a patch, no ordinary field.
    """
    if not real:
        raise InputError("real micrographs", "there are none", "Give at least one real micrograph to match.")
    if not synthetic:
        raise InputError("synthetic micrographs", "there are none", "Draw some with classical noise first.")
    pixel = real[0].pixel_size_in_angstroms
    digest = hashlib.sha256()
    every: list[RealField | SyntheticField] = [*real, *synthetic]
    for field in every:
        if abs(field.pixel_size_in_angstroms / pixel - 1) > 1e-3:
            raise InputError(
                field.name,
                f"has a pixel size of {field.pixel_size_in_angstroms:g} Å, the first real micrograph {pixel:g} Å",
                "Bring all micrographs to one pixel size.",
            )
        if field.image.ndim != 2 or min(field.image.shape) < patch:
            raise InputError(
                field.name,
                f"has {' × '.join(map(str, field.image.shape))} pixels, less than a patch of {patch} × {patch}",
                "Give a larger micrograph, or a smaller patch.",
            )
        others = (field.weight,) if isinstance(field, RealField) else (field.clean, field.mask)
        for other in others:
            if other is not None and other.shape != field.image.shape:
                raise InputError(
                    field.name,
                    f"an image of {tuple(field.image.shape)} with a mask or clean image of {tuple(other.shape)}",
                    "Give all of the same shape.",
                )
        digest.update(field.image.detach().float().cpu().contiguous().numpy().tobytes())
        for other in others:
            digest.update(b"-" if other is None else other.detach().float().cpu().contiguous().numpy().tobytes())
    scaled, corners, stacks = list[Tensor](), list[Tensor | None](), list[Tensor]()
    for seen in real:
        places = None if seen.weight is None else _ordinary(seen.weight.float(), patch)
        if places is None or len(places):
            mean, deviation = scale_of(seen.name, seen.image, seen.weight)
            scaled.append(((seen.image - mean) / deviation).float())
            corners.append(places)
    if not scaled:
        raise InputError(
            "real micrographs",
            f"no patch of {patch} × {patch} pixels is free of contamination and carbon",
            "Give cleaner micrographs, or a smaller patch.",
        )
    for drawn in synthetic:
        mean, deviation = scale_of(drawn.name, drawn.image)
        digest.update(repr(float(drawn.gain)).encode())
        parts = ((drawn.image - mean) / deviation, drawn.clean * (drawn.gain / deviation), drawn.mask)
        stacks.append(torch.stack([part.float() for part in parts]))
    return Prepared(tuple(scaled), tuple(corners), tuple(stacks), pixel, digest.hexdigest())


def _corner(shape: tuple[int, int], patch: int, generator: torch.Generator) -> tuple[int, int]:
    y = int(torch.randint(shape[0] - patch + 1, (), generator=generator))
    x = int(torch.randint(shape[1] - patch + 1, (), generator=generator))
    return y, x


def _ordinary(weight: Tensor, patch: int) -> Tensor:
    """Corners (n, 2) of the patches that are nearly all ordinary field."""
    share = avg_pool2d(weight[None, None], patch, _GRID)[0, 0]
    return torch.nonzero(share >= _ORDINARY) * _GRID


def _real_patch(fields: Prepared, patch: int, generator: torch.Generator) -> Tensor:
    chosen = int(torch.randint(len(fields.real), (), generator=generator))
    image, corners = fields.real[chosen], fields.corners[chosen]
    if corners is None:
        y, x = _corner((image.shape[0], image.shape[1]), patch, generator)
    else:
        y, x = corners[int(torch.randint(len(corners), (), generator=generator))].tolist()
    return image[y : y + patch, x : x + patch]


def _turned(patch: Tensor, generator: torch.Generator) -> Tensor:
    # Half a turn is the one rotation that astigmatism and drift survive.
    return patch.flip(-2, -1) if int(torch.randint(2, (), generator=generator)) else patch


def draw_batch(fields: Prepared, count: int, patch: int, *, seed: int, step: int) -> Batch:
    """Patches of a step; each is named by seed, step and place, so that no state has to be kept."""
    real, drawn, noise = [], [], []
    for place in range(count):
        generator = generator_for(seed, "translation", step, place)
        real.append(_turned(_real_patch(fields, patch, generator), generator))
        stack = fields.synthetic[int(torch.randint(len(fields.synthetic), (), generator=generator))]
        y, x = _corner((stack.shape[1], stack.shape[2]), patch, generator)
        drawn.append(_turned(stack[:, y : y + patch, x : x + patch], generator))
        noise.append(torch.randn(1, patch, patch, generator=generator))
    parts = torch.stack(drawn)
    return Batch(torch.stack(real)[:, None], parts[:, :1], parts[:, 1:2], parts[:, 2:], torch.stack(noise))
