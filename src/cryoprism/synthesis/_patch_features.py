"""Numbers that describe patches: named statistics, and responses of fixed random filters."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from cryoprism.core import frequency_grid, generator_for, rfft2

from ._samples import PATCH, MicrographSet, corners_on_grid, normalised, patches_at

__all__ = ["all_patches", "random_features", "statistics_of"]

_BLOCK = 16
_LAGS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (0, 4), (4, 0), (0, 16), (16, 0))
_BANDS = 8
_SCALES = (1, 2, 4, 8)
_FILTERS = 16


def all_patches(samples: MicrographSet) -> list[Tensor]:
    """Patches (n, 128, 128) of each micrograph that do not overlap, of ordinary field."""
    images = normalised(samples)
    return [patches_at(im, corners_on_grid(im.shape, samples.weight(i))) for i, im in enumerate(images)]


def _of_patches(patches: Tensor) -> dict[str, Tensor]:
    """Statistics (n,) of patches (n, 128, 128), by name."""
    patches = patches.double()
    mean = patches.mean((1, 2))
    centred = patches - mean[:, None, None]
    deviation = centred.square().mean((1, 2)).sqrt()
    unit = centred / deviation[:, None, None]
    n = PATCH // _BLOCK
    blocks = centred.reshape(-1, n, _BLOCK, n, _BLOCK)
    local = blocks.var((2, 4)).log()
    out = {
        "mean": mean,
        "deviation": deviation,
        "skewness": unit.pow(3).mean((1, 2)),
        "kurtosis": unit.pow(4).mean((1, 2)) - 3,
        "spread of local variance": local.std((1, 2)),
        "spread of local mean": blocks.mean((2, 4)).std((1, 2)),
    }
    for dy, dx in _LAGS:
        a, b = unit[:, dy:, dx:], unit[:, : PATCH - dy, : PATCH - dx]
        out[f"correlation at {dy}, {dx} px"] = (a * b).mean((1, 2))
    power = rfft2(unit).abs().square()
    ky, kx = frequency_grid((PATCH, PATCH), 1.0)
    k = torch.sqrt(ky * ky + kx * kx)
    edges = torch.logspace(math.log10(1.5 / PATCH), math.log10(0.5), _BANDS + 1)
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        band = (k >= low) & (k < high)
        out[f"power at {low:.3f} to {high:.3f} per px"] = power[:, band].mean(1).log()
    return out


def statistics_of(samples: MicrographSet) -> tuple[list[str], Tensor, Tensor]:
    """Names, values (micrographs, statistics), and squared standard errors of the same shape."""
    names: list[str] = []
    values, errors = [], []
    for patches in all_patches(samples):
        by_name = _of_patches(patches)
        line = torch.stack(list(by_name.values()))
        count = max(2, line.shape[1])
        spread = line[:2].std(1) if line.shape[1] > 1 else torch.zeros(2, dtype=line.dtype)
        names = [*by_name, "spread of patch means", "spread of patch deviations"]
        values.append(torch.cat([line.mean(1), spread]))
        error = line.var(1) if line.shape[1] > 1 else torch.zeros(len(line), dtype=line.dtype)
        errors.append(torch.cat([error / count, spread.square() / (2 * count)]))
    return names, torch.stack(values), torch.stack(errors)


def _filters(shape: tuple[int, ...], *keys: object) -> Tensor:
    """Random filters (out, in, y, x), each of sum 0 and norm 1; the same in every session of the program."""
    drawn = torch.randn(shape, generator=generator_for(0, "random features", *keys))
    drawn = drawn - drawn.mean((1, 2, 3), keepdim=True)
    return drawn / drawn.square().sum((1, 2, 3), keepdim=True).sqrt()


def random_features(patches: Tensor) -> Tensor:
    """Features (n, 192) of patches (n, 128, 128): rectified responses of random filters, two layers, four scales."""
    out = []
    for scale in _SCALES:
        image = avg_pool2d(patches[:, None], scale) * scale  # white noise keeps its deviation
        first = conv2d(image, _filters((_FILTERS, 1, 5, 5), scale, 1)).abs()
        second = conv2d(avg_pool2d(first, 2), _filters((_FILTERS, _FILTERS, 3, 3), scale, 2)).abs()
        out += [first.mean((2, 3)), first.std((2, 3)), second.mean((2, 3))]
    return torch.cat(out, 1).log()
