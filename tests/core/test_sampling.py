"""Grids of directions and orientations: even, complete, and one copy of each symmetric set."""

import math

import pytest
import torch

from cryoprism.core import (
    InputError,
    euler_to_matrix,
    generator_for,
    point_group_matrices,
    random_rotations,
)
from cryoprism.core.sampling import direction_grid, healpix_children, healpix_directions, orientation_grid


def unit(angles: torch.Tensor) -> torch.Tensor:
    a, b = torch.deg2rad(angles).unbind(-1)
    return torch.stack([b.sin() * a.cos(), b.sin() * a.sin(), b.cos()], -1)


def test_the_coarsest_cells_are_where_the_paper_has_them():
    """Order 0: four at cos(tilt) = 2/3, four on the equator, four at −2/3 (Górski et al. 2005, sec. 4)."""
    grid = healpix_directions(0)
    z = torch.cos(torch.deg2rad(grid[:, 1]))
    expected = torch.tensor([2 / 3] * 4 + [0.0] * 4 + [-2 / 3] * 4, dtype=torch.float64)
    torch.testing.assert_close(z, expected, atol=1e-12, rtol=0)
    rot = torch.tensor([45.0, 135.0, 225.0, 315.0, 0.0, 90.0, 180.0, 270.0, 45.0, 135.0, 225.0, 315.0])
    torch.testing.assert_close(grid[:, 0], rot.double())


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_directions_are_even(order):
    """Equal areas: low spherical moments vanish, cells lie apart, and nothing of the sphere is far from a centre."""
    d = unit(healpix_directions(order))
    assert d.shape == (12 * 4**order, 3)
    torch.testing.assert_close(d.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    # Second moments by the midpoint rule: 1/3 but for the cells' finite size.
    width = math.sqrt(4 * math.pi / len(d))
    torch.testing.assert_close(d.T @ d / len(d), torch.eye(3).double() / 3, atol=0.2 * width**2, rtol=0)
    apart = torch.rad2deg(torch.arccos((d @ d.T - 3 * torch.eye(len(d)).double()).amax(1).clamp(-1, 1)))
    assert apart.min() > 0.65 * math.degrees(width)
    probes = random_rotations(3000, generator_for(0, "probe"))[:, 2].double()
    away = torch.rad2deg(torch.arccos((probes @ d.T).amax(1).clamp(-1, 1)))
    assert away.max() < 0.95 * math.degrees(width)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_children_lie_around_their_parent(order):
    parents, children = unit(healpix_directions(order)), unit(healpix_directions(order + 1))
    numbers = healpix_children(torch.arange(len(parents)))
    assert torch.equal(numbers.flatten(), torch.arange(len(children)))
    width = math.sqrt(4 * math.pi / len(parents))
    angle = torch.arccos((children[numbers] * parents[:, None]).sum(-1).clamp(-1, 1))
    assert angle.max() < 0.75 * width
    centre = children[numbers].mean(1)
    assert torch.arccos((centre / centre.norm(dim=-1, keepdim=True) * parents).sum(-1).clamp(-1, 1)).max() < 0.2 * width


@pytest.mark.parametrize("symmetry", ["C1", "C2", "C4", "D2", "D4", "C3", "C7", "D3", "T", "O", "I1", "I2"])
def test_each_symmetric_set_is_there_once(symmetry):
    order = 3
    grid, group = direction_grid(order, symmetry), point_group_matrices(symmetry)
    whole = 12 * 4**order
    # A border is as long as the circumference of the cell: that many cells may fall on either side.
    border = math.sqrt(whole / len(group))
    assert abs(len(grid) - whole / len(group)) <= 1.5 * border
    d = unit(grid)
    copies = torch.einsum("ni,gij->gnj", d, group.double())
    # No two of the grid are copies of each other, but for a direction on an axis and itself.
    overlap = torch.einsum("gni,mi->gnm", copies, d)
    overlap[:, torch.arange(len(d)), torch.arange(len(d))] = -1
    assert torch.rad2deg(torch.arccos(overlap.max().clamp(-1, 1))) > 1e-2 or len(group) == 1
    probes = random_rotations(2000, generator_for(1, "probe"))[:, 2].double()
    away = torch.rad2deg(torch.arccos((probes @ copies.reshape(-1, 3).T).amax(1).clamp(-1, 1)))
    assert away.max() < 2.0 * math.degrees(math.sqrt(4 * math.pi / whole))


@pytest.mark.parametrize(("symmetry", "offset"), [("C1", 0.0), ("D2", 0.0), ("O", 0.0), ("O", 7.3)])
def test_every_orientation_is_near_one_of_the_grid(symmetry, offset):
    order = 2
    grid, group = orientation_grid(order, symmetry, offset_in_degrees=offset), point_group_matrices(symmetry)
    full = 12 * 4**order * 6 * 2**order
    assert abs(len(grid) * len(group) / full - 1) < 0.6
    torch.testing.assert_close(grid @ grid.mT, torch.eye(3).expand_as(grid), atol=1e-5, rtol=0)
    probes = random_rotations(300, generator_for(2, "probe"))
    copies = torch.einsum("nij,gjk->ngik", grid, group).reshape(-1, 9)
    trace = (probes.reshape(-1, 9) @ copies.T).amax(1)
    angle = torch.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1)))
    # Cells are 15° wide, in-plane steps 15°: half a diagonal of that box is 13°, the border of a cell adds to it.
    assert angle.max() < (14.0 if symmetry == "C1" else 22.0)
    assert angle.median() < 10.0


def test_an_offset_gives_other_orientations():
    a, b = direction_grid(2), direction_grid(2, offset_in_degrees=5.0)
    assert len(a) == len(b)
    assert (unit(a) @ unit(b).T).amax(1).min() < math.cos(math.radians(1.0))


def test_in_plane_angles_run_fastest():
    grid, directions = orientation_grid(1, "C4"), direction_grid(1, "C4")
    views = grid.reshape(len(directions), 12, 3, 3)
    torch.testing.assert_close(views[:, :, 2].double(), unit(directions)[:, None].expand(-1, 12, -1), atol=1e-6, rtol=0)
    step = euler_to_matrix(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(30.0))
    torch.testing.assert_close(views[:, 1], step @ views[:, 0], atol=1e-5, rtol=0)


def test_an_impossible_order_is_refused():
    with pytest.raises(InputError, match="HEALPix order"):
        healpix_directions(11)
