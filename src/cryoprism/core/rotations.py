"""Rotations as RELION writes them, uniform sampling of SO(3), and point groups."""

from __future__ import annotations

import math
import re

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "euler_to_matrix",
    "matrix_to_euler",
    "point_group_matrices",
    "random_rotations",
]


def euler_to_matrix(rot: Tensor, tilt: Tensor, psi: Tensor) -> Tensor:
    """Euler angles (rot, tilt, psi) [degrees], ZYZ as in RELION, to matrices (..., 3, 3) acting on (x, y, z).

    A = Rz(psi) Ry(tilt) Rz(rot) in RELION's passive sense: rows of A are the axes of the projected view written in the
    coordinates of the map, so ``A @ r`` takes a point of the map into the frame of the view (third axis = beam).
    Heymann, Chagoyen & Belnap (2005), J. Struct. Biol. 151, 196.
    """
    a, b, g = (torch.deg2rad(torch.as_tensor(v)) for v in (rot, tilt, psi))
    ca, cb, cg, sa, sb, sg = a.cos(), b.cos(), g.cos(), a.sin(), b.sin(), g.sin()
    rows = [
        torch.stack([cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb], -1),
        torch.stack([-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb], -1),
        torch.stack([sb * ca, sb * sa, cb], -1),
    ]
    return torch.stack(rows, -2)


def matrix_to_euler(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Invert :func:`euler_to_matrix`: (rot, tilt, psi) [degrees], tilt in [0, 180]; rot is 0 where tilt is 0 or 180."""
    sin_tilt = torch.hypot(matrix[..., 0, 2], matrix[..., 1, 2])
    tilt = torch.atan2(sin_tilt, matrix[..., 2, 2])
    gimbal = sin_tilt < 1e-6
    rot = torch.where(gimbal, torch.zeros_like(tilt), torch.atan2(matrix[..., 2, 1], matrix[..., 2, 0]))
    sign = torch.where(matrix[..., 2, 2] < 0, -1.0, 1.0)
    psi_gimbal = torch.atan2(-matrix[..., 1, 0] * 1.0, matrix[..., 0, 0] * sign)
    psi_gimbal = torch.where(matrix[..., 2, 2] < 0, torch.atan2(matrix[..., 1, 0], -matrix[..., 0, 0]), psi_gimbal)
    psi = torch.where(gimbal, psi_gimbal, torch.atan2(matrix[..., 1, 2], -matrix[..., 0, 2]))
    return torch.rad2deg(rot), torch.rad2deg(tilt), torch.rad2deg(psi)


def random_rotations(count: int, generator: torch.Generator) -> Tensor:
    """Exactly uniform rotations (count, 3, 3) from normalised Gaussian quaternions (Shoemake 1992)."""
    q = torch.randn(count, 4, generator=generator, dtype=torch.float64, device=generator.device)
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2).float()


def _axis_rotation(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    u = np.asarray(axis, dtype=float)
    u = u / np.linalg.norm(u)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    cross = np.array([[0, -u[2], u[1]], [u[2], 0, -u[0]], [-u[1], u[0], 0]])
    return np.asarray(c * np.eye(3) + s * cross + (1 - c) * np.outer(u, u))


def _close(generators: list[np.ndarray]) -> np.ndarray:
    group = [np.eye(3)]
    frontier = list(group)
    while frontier:
        fresh: list[np.ndarray] = []
        for known in frontier:
            for g in generators:
                candidate = g @ known
                if not any(np.allclose(candidate, other, atol=1e-6) for other in group):
                    group.append(candidate)
                    fresh.append(candidate)
        frontier = fresh
    return np.stack(group)


def point_group_matrices(symbol: str) -> Tensor:
    """All rotations (order, 3, 3) of a point group: ``C1``, ``Cn``, ``Dn``, ``T``, ``O``, ``I`` (also ``I1``, ``I2``).

    Orientation as in RELION: main axis along z, second axis of D along x, T with a 3-fold along z, O with 4-folds along
    x, y and z, ``I1`` with 2-folds along x, y and z (VIPER) and ``I2``, which is also ``I``, with that setting turned
    by 90° about z.
    """
    name = symbol.strip().upper()
    golden = (1 + math.sqrt(5)) / 2
    if match := re.fullmatch(r"C(\d+)", name):
        generators = [_axis_rotation((0, 0, 1), 360 / _order(match.group(1), symbol))]
    elif match := re.fullmatch(r"D(\d+)", name):
        generators = [_axis_rotation((0, 0, 1), 360 / _order(match.group(1), symbol)), _axis_rotation((1, 0, 0), 180)]
    elif name == "T":
        generators = [_axis_rotation((0, 0, 1), 120), _axis_rotation((0, math.sqrt(2 / 3), math.sqrt(1 / 3)), 180)]
    elif name == "O":
        generators = [_axis_rotation((0, 0, 1), 90), _axis_rotation((1, 1, 1), 120)]
    elif name == "I1":
        generators = [
            _axis_rotation((0, 0, 1), 180),
            _axis_rotation((0, 1, golden), 72),
            _axis_rotation((1, 1, 1), 120),
        ]
    elif name in {"I", "I2"}:
        generators = [
            _axis_rotation((0, 0, 1), 180),
            _axis_rotation((1, 0, golden), 72),
            _axis_rotation((1, 1, 1), 120),
        ]
    else:
        raise ValueError(f"unknown point group '{symbol}': use C1, Cn, Dn, T, O, I, I1 or I2")
    return torch.from_numpy(_close(generators)).float()


def _order(digits: str, symbol: str) -> int:
    order = int(digits)
    if order < 1:
        raise ValueError(f"unknown point group '{symbol}': the order of the axis must be at least 1")
    return order
