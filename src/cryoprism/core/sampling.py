"""Even grids of directions and orientations: HEALPix on the sphere, in-plane angles, one copy of each symmetric set.

HEALPix (Górski et al. 2005, ApJ 622, 759) cuts the sphere into 12 · 4ⁿ cells of equal area. In its plane a cell of face
f lies at offsets u, v in (0, 1) from the face's southern corner; with s = r_f − u − v counted from the north pole (s =
0) over the equator (s = 2) to the south pole (s = 4) and σ = min(1, s, 4 − s),

    z = 1 − s²/3 for s < 1,  (4 − 2s)/3 for 1 ≤ s ≤ 3,  (4 − s)²/3 − 1 for s > 3;   φ = π/4 · (c_f + (u − v)/σ).

Numbering is nested: the cells 4i to 4i + 3 of the next order lie inside cell i.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .errors import InputError
from .rotations import euler_to_matrix, point_group_matrices

__all__ = ["direction_grid", "healpix_children", "healpix_directions", "in_plane_step_in_degrees", "orientation_grid"]

_FACE_ROW = (2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4)
_FACE_COLUMN = (1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7)
_HIGHEST_ORDER = 10


def _checked(order: int) -> int:
    if not 0 <= order <= _HIGHEST_ORDER:
        raise InputError("order", f"{order}", f"Give a HEALPix order between 0 and {_HIGHEST_ORDER}.")
    return order


def in_plane_step_in_degrees(order: int) -> float:
    """Step of the in-plane angle that suits HEALPix cells of an order: 60° / 2ⁿ, about their width (58.6° / 2ⁿ)."""
    return 60.0 / float(2 ** _checked(order))


def healpix_directions(order: int) -> Tensor:
    """Centres of the 12 · 4ⁿ HEALPix cells: (n, 2) float64 rot in [0, 360) and tilt in (0, 180) [degrees], nested."""
    sides = 2 ** _checked(order)
    within = torch.arange(sides * sides)
    x, y = torch.zeros_like(within), torch.zeros_like(within)
    for bit in range(order):
        x |= ((within >> (2 * bit)) & 1) << bit
        y |= ((within >> (2 * bit + 1)) & 1) << bit
    u, v = (x.double() + 0.5) / sides, (y.double() + 0.5) / sides
    row = torch.tensor(_FACE_ROW, dtype=torch.float64)[:, None]
    column = torch.tensor(_FACE_COLUMN, dtype=torch.float64)[:, None]
    s = (row - u - v).flatten()
    width = torch.minimum(s, 4 - s).clamp_max(1.0)
    z = torch.where(s < 1, 1 - s * s / 3, torch.where(s > 3, (4 - s) ** 2 / 3 - 1, (4 - 2 * s) / 3))
    rot = torch.remainder(45.0 * (column + (u - v) / width.reshape(12, -1)), 360.0).flatten()
    return torch.stack([rot, torch.rad2deg(torch.arccos(z))], -1)


def healpix_children(cells: Tensor) -> Tensor:
    """Numbers (..., 4) of the four cells of the next order inside each of ``cells`` (...), nested."""
    return 4 * cells[..., None] + torch.arange(4, device=cells.device)


def direction_grid(order: int, symmetry: str = "C1", *, offset_in_degrees: float = 0.0) -> Tensor:
    """HEALPix directions of view, one of each symmetric set: (n, 2) float64 rot and tilt [degrees].

    A symmetric copy of the orientation A is A @ g, so that its direction of view (third row of A) becomes d @ g. Kept
    is the d that lies nearest to a direction v away from all axes: the Dirichlet cell of v, 1/|G| of the sphere.

    Parameters
    ----------
    order
        HEALPix order, 0 to 10; cells are 58.6° / 2ⁿ wide.
    symmetry
        Point group, see :func:`point_group_matrices`.
    offset_in_degrees
        Turns the grid by Euler angles of this size each before copies are removed, so that repeated searches do not see
        the same directions.

    Raises
    ------
    InputError
        The order is out of range.
    """
    rot, tilt = healpix_directions(order).unbind(-1)
    directions = _unit_vectors(rot, tilt)
    if offset_in_degrees:
        angle = torch.tensor(float(offset_in_degrees), dtype=torch.float64)
        directions = directions @ euler_to_matrix(angle, angle, angle)
    group = point_group_matrices(symmetry).double()
    if len(group) > 1:
        centre = _cell_centre(symmetry)
        own = directions @ centre
        # d @ g · v = d · g v; float32 rounding of the group must not lose a direction on the border of two cells.
        best = (directions @ (group @ centre).T).amax(1)
        directions = directions[own >= best - 1e-6]
    rot = torch.remainder(torch.rad2deg(torch.atan2(directions[:, 1], directions[:, 0])), 360.0)
    return torch.stack([rot, torch.rad2deg(torch.arccos(directions[:, 2].clamp(-1.0, 1.0)))], -1)


def orientation_grid(order: int, symmetry: str = "C1", *, offset_in_degrees: float = 0.0) -> Tensor:
    """Orientations (n, 3, 3) float32 evenly over the rotations, one of each symmetric set {A @ g}.

    The n = directions × in-plane angles of :func:`direction_grid` and :func:`in_plane_step_in_degrees`; the in-plane
    angle runs fastest. ``offset_in_degrees`` is added to the in-plane angles too.
    """
    rot, tilt = direction_grid(order, symmetry, offset_in_degrees=offset_in_degrees).unbind(-1)
    psi = torch.arange(6 * 2**order, dtype=torch.float64) * in_plane_step_in_degrees(order) + offset_in_degrees
    zero = torch.zeros(len(rot), len(psi), dtype=torch.float64)
    matrices = euler_to_matrix(rot[:, None] + zero, tilt[:, None] + zero, psi + zero)
    return matrices.reshape(-1, 3, 3).float()


def _unit_vectors(rot: Tensor, tilt: Tensor) -> Tensor:
    a, b = torch.deg2rad(rot), torch.deg2rad(tilt)
    return torch.stack([b.sin() * a.cos(), b.sin() * a.sin(), b.cos()], -1)


@lru_cache(maxsize=16)
def _cell_centre(symmetry: str) -> Tensor:
    """Direction farthest from all of its copies, pushed aside a little so that no grid direction ties."""
    candidates = _unit_vectors(*healpix_directions(4).unbind(-1))
    group = point_group_matrices(symmetry).double()
    nearest = torch.full((len(candidates),), -2.0, dtype=torch.float64)
    for element in group:
        if torch.allclose(element, torch.eye(3, dtype=torch.float64), atol=1e-4):
            continue
        nearest = torch.maximum(nearest, (candidates @ element * candidates).sum(-1))
    best = candidates[int(nearest.argmin())]
    aside = best + torch.tensor([0.0037, 0.0071, 0.0053], dtype=torch.float64)
    return torch.nn.functional.normalize(aside, dim=0)
