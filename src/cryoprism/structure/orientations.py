"""Nested grids of orientations and shifts, by which a search goes from coarse to fine.

An orientation is a cell: one HEALPix direction of view times one in-plane angle. A cell of order n has eight children
of order n + 1 (four directions, two angles) whose centres lie around its own. Cells of one order are numbered
``direction · steps + angle``, so that a search stores whole numbers and turns them into matrices only where it needs
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import euler_to_matrix, healpix_children, healpix_directions, point_group_matrices

__all__ = ["OrientationCells", "angular_distance", "common_frame", "shift_disc"]

# A direction away from every axis of every group: of each set of equivalent directions the one nearest to it is kept.
_GENERIC = (0.3571, 0.4827, 0.7997)


@dataclass(frozen=True)
class OrientationCells:
    """Cells of one order, turned as a whole by ``offset``.

    Attributes
    ----------
    order
        HEALPix order; cells are about 58.6° / 2ⁿ wide.
    offset
        (3, 3) rotation: the matrices are A · offset, so that repeated searches do not see the same orientations.
    """

    order: int
    offset: Tensor

    @property
    def steps(self) -> int:
        """In-plane angles per direction."""
        return int(6 * 2**self.order)

    @property
    def width_in_degrees(self) -> float:
        """Width of a cell."""
        return float(60.0 / 2**self.order)

    def matrices(self, cells: Tensor) -> Tensor:
        """Rotations (..., 3, 3) float32 of cells (...)."""
        rot, tilt = healpix_directions(self.order).to(cells.device)[cells // self.steps].unbind(-1)
        psi = (cells % self.steps).double() * (360.0 / self.steps) + 180.0 / self.steps
        return (euler_to_matrix(rot, tilt, psi) @ self.offset.to(rot)).float()

    def finer(self) -> OrientationCells:
        """Cells of the next order."""
        return OrientationCells(self.order + 1, self.offset)

    def children(self, cells: Tensor) -> Tensor:
        """Cells (..., 8) of the next order inside each of ``cells`` (...)."""
        directions = healpix_children(cells // self.steps)
        angles = 2 * (cells % self.steps)[..., None] + torch.arange(2, device=cells.device)
        return (directions[..., :, None] * (2 * self.steps) + angles[..., None, :]).flatten(-2)

    def asymmetric_unit(self, symmetry: str) -> Tensor:
        """Cells (n,) on the CPU, one of each set {A · g} of equivalent ones."""
        first = torch.arange(12 * 4**self.order) * self.steps
        views = self.matrices(first)[:, 2].double()
        group = point_group_matrices(symmetry).double()
        towards = torch.tensor(_GENERIC, dtype=torch.float64)
        nearness = views @ (group @ towards).T
        own = views @ towards
        kept = first[own >= nearness.amax(1) - 1e-6]
        return (kept[:, None] + torch.arange(self.steps)).flatten()


def shift_disc(radius: float, step: float, device: torch.device | str = "cpu") -> Tensor:
    """Shifts (n, 2) x, y on a square grid of ``step`` inside a disc, the zero shift among them."""
    reach = int(radius / step + 1e-6)
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32, device=device) * step
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = x * x + y * y <= radius * radius * (1 + 1e-6)
    return torch.stack([x[inside], y[inside]], -1)


def angular_distance(first: Tensor, second: Tensor, symmetry: str = "C1") -> Tensor:
    """Smallest angle (n,) [degrees] between rotations (n, 3, 3) under a point group: A and A · g are the same."""
    group = point_group_matrices(symmetry).to(first)
    relative = torch.einsum("nij,gjk,nik->ng", first, group, second)
    # Tr(A g Bᵀ) written without forming the products
    cosine = (relative - 1) / 2
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))).amin(1)


def common_frame(found: Tensor, true: Tensor) -> tuple[Tensor, Tensor, float]:
    """How far poses are from others but for one rotation of the map, and perhaps its other hand.

    A map made from particles alone has a frame and a hand of its own. In a view of a map of the other hand, V(-r), one
    sees what the first map shows turned by 180° in its plane.

    Parameters
    ----------
    found, true
        (n, 3, 3), without symmetry.

    Returns
    -------
    tuple
        Errors (n,) [degrees], the rotation G (3, 3) for which A ≈ B · G, and 1 or -1 for the hand: the first map is
        V(hand · Gᵀ r) of the second one.
    """
    best: tuple[Tensor, Tensor, float] | None = None
    for hand in (1.0, -1.0):
        turn = torch.diag(torch.tensor([hand, hand, 1.0], dtype=found.dtype, device=found.device))
        relative = (turn @ true).transpose(1, 2) @ found
        chosen = torch.ones(len(relative), dtype=torch.bool, device=found.device)
        for _ in range(3):  # the rotation nearest to the mean, then to the mean of those that agree with it
            u, _, v = torch.linalg.svd(relative[chosen].mean(0).double())
            proper = torch.ones(3, dtype=torch.float64, device=found.device)
            proper[2] = torch.det(u @ v)
            common = (u @ torch.diag(proper) @ v).to(found.dtype)
            errors = angular_distance(relative, common.expand_as(relative))
            chosen = errors <= errors.median()
        if best is None or float(errors.median()) < float(best[0].median()):
            best = errors, common, hand
    assert best is not None
    return best
