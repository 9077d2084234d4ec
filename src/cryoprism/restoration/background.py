"""Slow background of a micrograph: ice gradient and uneven illumination as a robust low-order polynomial.

The field is fitted to medians of blocks, with Tukey weights, so that particles, contamination and a carbon edge do not
pull it. It is removed for the view only; the data product keeps the raw pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError

__all__ = ["Background", "fit_background"]


@dataclass(frozen=True)
class Background:
    """A polynomial Σ c[i, j] · P_i(y) · P_j(x), i + j ≤ order, of Legendre terms on [-1, 1] over the field.

    Attributes
    ----------
    coefficients
        (order + 1, order + 1) float64 [grey units].
    shape
        Height and width [pixels] of the field.
    relative_range
        Highest minus lowest value of the field over its mean; ``nan`` where the mean is not positive.
    noise_of_blocks
        Robust standard deviation [grey units] of the blocks about the field.
    """

    coefficients: Tensor
    shape: tuple[int, int]
    relative_range: float
    noise_of_blocks: float

    def field(self) -> Tensor:
        """Evaluate the background (h, w) [grey units], float32."""
        y, x = (_legendre(_centres(n, n), self.coefficients.shape[0]) for n in self.shape)
        return (y @ self.coefficients).float() @ x.T.float()


def _centres(blocks: int, size: int) -> Tensor:
    """Centres of equal blocks over ``size`` pixels, in [-1, 1]."""
    step = size // blocks
    return (torch.arange(blocks, dtype=torch.float64) * step + 0.5 * step) * (2.0 / size) - 1.0


def _legendre(u: Tensor, terms: int) -> Tensor:
    columns = [torch.ones_like(u), u]
    for n in range(1, terms - 1):
        columns.append(((2 * n + 1) * u * columns[n] - n * columns[n - 1]) / (n + 1))
    return torch.stack(columns[:terms], -1)


def block_medians(image: Tensor, blocks: tuple[int, int], samples: int = 8) -> Tensor:
    """Medians (by, bx) of equal blocks, each from about ``samples``² means of small squares inside it."""
    by, bx = blocks
    sy, sx = image.shape[0] // by, image.shape[1] // bx
    squares = image[: by * sy, : bx * sx]
    ky, kx = max(1, sy // samples), max(1, sx // samples)
    ny, nx = sy // ky, sx // kx
    squares = squares.reshape(by, sy, bx, sx)[:, : ny * ky, :, : nx * kx].reshape(by, ny, ky, bx, nx, kx)
    means = squares.mean(dim=(2, 5))
    return means.permute(0, 2, 1, 3).reshape(by, bx, ny * nx).median(-1).values


def fit_background(image: Tensor, *, order: int = 3, blocks: int = 32, ignore: Tensor | None = None) -> Background:
    """Fit the slow background of one micrograph.

    Least squares of block medians on Legendre products of total degree ≤ ``order``, reweighted with Tukey's biweight
    (c = 4.685, scale from the median absolute deviation) until it settles (Huber & Ronchetti, Robust Statistics, ch.
    7).

    Parameters
    ----------
    image
        (h, w) grey values.
    order
        Highest total degree, 0 to 8.
    blocks
        Blocks along the longer axis.
    ignore
        Boolean map of contamination or carbon at any resolution over the same field; blocks whose centre it marks have
        no vote.

    Raises
    ------
    InputError
        The order is out of range or the image is smaller than 8 pixels.
    """
    if not 0 <= order <= 8:
        raise InputError("order", f"{order}", "Use a degree between 0 and 8.")
    if image.ndim != 2 or min(image.shape) < 8:
        raise InputError("image", f"shape {tuple(image.shape)}", "Give one micrograph of at least 8 x 8 pixels.")
    height, width = image.shape
    step = max(1, math.ceil(max(height, width) / blocks))
    by, bx = max(1, height // step), max(1, width // step)
    values = block_medians(image, (by, bx)).double().reshape(-1)
    keep = torch.isfinite(values)
    if ignore is not None:
        row, column = (
            ((_centres(b, n) + 1.0) * 0.5 * m).long().clamp_max(m - 1)
            for b, n, m in ((by, height, ignore.shape[0]), (bx, width, ignore.shape[1]))
        )
        keep &= ~ignore[row][:, column].reshape(-1)
    py, px = (_legendre(_centres(b, n), order + 1) for b, n in ((by, height), (bx, width)))
    terms = [(i, j) for i in range(order + 1) for j in range(order + 1) if i + j <= order and i < by and j < bx]
    if int(keep.sum()) < 2 * len(terms):
        terms = [(0, 0)]
    if not bool(keep.any()):
        keep = torch.isfinite(values)
    design = torch.stack([torch.outer(py[:, i], px[:, j]).reshape(-1) for i, j in terms], -1)[keep]
    values = values[keep]
    solution, scale = _tukey_fit(design, values)
    coefficients = torch.zeros(order + 1, order + 1, dtype=torch.float64)
    for (i, j), c in zip(terms, solution.tolist(), strict=True):
        coefficients[i, j] = c
    fitted = design @ solution
    mean = float(coefficients[0, 0])
    relative = float(fitted.max() - fitted.min()) / mean if mean > 0 else math.nan
    return Background(coefficients, (height, width), relative, scale)


def _tukey_fit(design: Tensor, values: Tensor) -> tuple[Tensor, float]:
    weight = torch.ones_like(values)
    scale = 0.0
    solution = torch.zeros(design.shape[1], dtype=design.dtype)
    for _ in range(12):
        weighted = design * weight[:, None]
        # Normal equations: Legendre products are nearly orthogonal, and the matrix is tiny.
        normal = weighted.T @ design
        normal.diagonal().add_(1e-12 * float(normal.trace()))
        update = torch.linalg.solve(normal, weighted.T @ values)
        settled = bool((update - solution).abs().max() <= 1e-6 * (1e-12 + scale))
        solution = update
        residual = values - design @ solution
        scale = 1.4826 * float(residual.abs().median())
        if settled or scale == 0.0:
            break
        weight = (1.0 - (residual / (4.685 * scale)).clamp(-1.0, 1.0) ** 2) ** 2
    return solution, scale
