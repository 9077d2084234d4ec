"""3-D Zernike moments of a density in the unit ball, and their norms, which no rotation changes."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import eval_jacobi

__all__ = ["ORDER", "ball_grid", "grid_invariants", "invariant_labels", "radial_polynomial", "zernike_invariants"]

Array = NDArray[np.float64]

#: Highest order n: 121 invariants.
ORDER = 20


def invariant_labels(order: int = ORDER) -> list[tuple[int, int]]:
    """(n, l) of each invariant: n from 0 to ``order``, l from 0 to n with n - l even."""
    return [(n, degree) for n in range(order + 1) for degree in range(n % 2, n + 1, 2)]


def radial_polynomial(n: int, degree: int, radius: Array) -> Array:
    """Orthonormal R_nl(r) under the weight r² on [0, 1]: sqrt(2n + 3) r^l P_k^(0, l + 1/2)(2r² - 1), k = (n - l) / 2.

    Through Jacobi polynomials and not through geometric moments, whose sums cancel at high order. Novotni & Klein
    (2003), ACM Symposium on Solid Modeling, 216; Canterakis (1999), SCIA, 85.
    """
    jacobi: Array = eval_jacobi((n - degree) // 2, 0.0, degree + 0.5, 2.0 * radius**2 - 1.0)
    return np.asarray(math.sqrt(2 * n + 3) * radius**degree * jacobi)


def _spherical_harmonics(points: Array, order: int) -> list[Array]:
    """Real orthonormal spherical harmonics of the directions of points (k, 3): for each l an array (k, 2l + 1)."""
    radius = np.linalg.norm(points, axis=1)
    safe = np.maximum(radius, 1e-300)
    # A point in the centre has no direction; any will do, since only l = 0 is not 0 there.
    cosine = np.where(radius > 0, points[:, 2] / safe, 1.0)
    sine = np.sqrt(np.maximum(1.0 - cosine**2, 0.0))
    azimuth = np.arctan2(points[:, 1], points[:, 0])
    legendre: dict[tuple[int, int], Array] = {(0, 0): np.full(len(points), math.sqrt(1 / (4 * math.pi)))}
    for m in range(order + 1):
        if m:
            legendre[m, m] = math.sqrt((2 * m + 1) / (2 * m)) * sine * legendre[m - 1, m - 1]
        if m < order:
            legendre[m + 1, m] = math.sqrt(2 * m + 3) * cosine * legendre[m, m]
        for n in range(m + 2, order + 1):
            a = math.sqrt((4 * n * n - 1) / (n * n - m * m))
            b = math.sqrt(((n - 1) ** 2 - m * m) / (4 * (n - 1) ** 2 - 1))
            legendre[n, m] = a * (cosine * legendre[n - 1, m] - b * legendre[n - 2, m])
    waves = [(np.cos(m * azimuth), np.sin(m * azimuth)) for m in range(order + 1)]
    result = []
    for degree in range(order + 1):
        columns = [legendre[degree, 0]]
        for m in range(1, degree + 1):
            columns += [
                math.sqrt(2) * legendre[degree, m] * waves[m][0],
                math.sqrt(2) * legendre[degree, m] * waves[m][1],
            ]
        result.append(np.stack(columns, -1))
    return result


def _basis(points: Array, order: int) -> list[tuple[Array, Array, list[int]]]:
    """For each l: radial polynomials (orders, k), harmonics (k, 2l + 1), and the orders n."""
    radius = np.linalg.norm(points, axis=1)
    harmonics = _spherical_harmonics(points, order)
    result = []
    for degree, harmonic in enumerate(harmonics):
        orders = list(range(degree, order + 1, 2))
        radial = np.stack([radial_polynomial(n, degree, radius) for n in orders])
        result.append((radial, harmonic, orders))
    return result


def _norms(basis: list[tuple[Array, Array, list[int]]], weights: Array, order: int) -> Array:
    place = {label: i for i, label in enumerate(invariant_labels(order))}
    result = np.zeros(len(place))
    for degree, (radial, harmonic, orders) in enumerate(basis):
        moments = (radial * weights) @ harmonic
        for n, norm in zip(orders, np.linalg.norm(moments, axis=1), strict=True):
            result[place[n, degree]] = norm
    return np.asarray(math.sqrt(3 / (4 * math.pi)) * result)


def zernike_invariants(points: Array, weights: Array, order: int = ORDER) -> Array:
    """Norms F_nl of the 3-D Zernike moments of weighted points.

    A density is given by its grid points, each with density times volume of a voxel. A full ball of density 1 has
    F_00 = 1, as in Novotni & Klein (2003). The norms are the same for a density and its mirror image.

    Parameters
    ----------
    points
        (k, 3) in the unit ball; those outside are left out.
    weights
        (k,).
    order
        Highest n.

    Returns
    -------
    (invariants,) in the order of :func:`invariant_labels`.
    """
    inside = np.linalg.norm(points, axis=1) <= 1.0
    kept = np.asarray(points, dtype=np.float64)[inside]
    return _norms(_basis(kept, order), np.asarray(weights, dtype=np.float64)[inside], order)


@lru_cache(maxsize=4)
def ball_grid(side: int) -> Array:
    """Points (k, 3) as (x, y, z) of a cubic grid in the unit ball, symmetric about the centre; z changes slowest."""
    axis = (np.arange(side) - (side - 1) / 2) * (2 / side)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    points = np.stack([x.ravel(), y.ravel(), z.ravel()], -1)
    return np.ascontiguousarray(points[np.linalg.norm(points, axis=1) <= 1.0])


@lru_cache(maxsize=2)
def _grid_basis(side: int, order: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32], list[int]]]:
    return [(r.astype(np.float32), h.astype(np.float32), n) for r, h, n in _basis(ball_grid(side), order)]


def grid_invariants(density: Array, side: int, order: int = ORDER) -> Array:
    """As :func:`zernike_invariants` for a density (k,) at the points of :func:`ball_grid`; the basis is kept."""
    weights = (np.asarray(density) * (2 / side) ** 3).astype(np.float32)
    return _norms(_grid_basis(side, order), weights, order)  # type: ignore[arg-type]
