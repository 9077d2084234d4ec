"""Nested cells cover the rotations once, symmetry keeps one of each set, children lie in their parents."""

import pytest
import torch

from cryoprism.core import generator_for, point_group_matrices, random_rotations
from cryoprism.structure import OrientationCells, angular_distance, shift_disc


@pytest.mark.parametrize(("symmetry", "order"), [("C1", 1), ("C3", 4), ("D2", 4), ("T", 12), ("O", 24), ("I1", 60)])
def test_an_asymmetric_unit_holds_its_share_of_the_cells(symmetry, order):
    group = len(point_group_matrices(symmetry))
    cells = OrientationCells(3, torch.eye(3))
    share = len(cells.asymmetric_unit(symmetry)) / (12 * 4**3 * cells.steps)
    assert share == pytest.approx(1 / group, rel=0.15)


@pytest.mark.parametrize("symmetry", ["C1", "D7", "O", "I"])
def test_every_rotation_has_a_cell_of_the_asymmetric_unit_nearby(symmetry):
    turn = random_rotations(1, generator_for(4, "turn"))[0]
    cells = OrientationCells(2, turn)
    unit = cells.matrices(cells.asymmetric_unit(symmetry))
    wanted = random_rotations(30, generator_for(5, symmetry))
    nearest = torch.stack([angular_distance(one.expand_as(unit), unit, symmetry).min() for one in wanted])
    assert nearest.max() < 1.1 * cells.width_in_degrees


def test_children_lie_around_their_parent():
    cells = OrientationCells(2, torch.eye(3))
    some = torch.arange(0, 12 * 16 * cells.steps, 97)
    children = cells.finer().matrices(cells.children(some))
    parents = cells.matrices(some)[:, None].expand_as(children)
    distance = angular_distance(children.reshape(-1, 3, 3), parents.reshape(-1, 3, 3)).reshape(len(some), 8)
    assert distance.max() < cells.width_in_degrees
    assert len(torch.unique(cells.children(some))) == 8 * len(some)


def test_the_distance_of_equivalent_rotations_is_zero():
    group = point_group_matrices("O")
    rotations = random_rotations(len(group), generator_for(1, "equivalent"))
    assert angular_distance(rotations, rotations @ group, "O").max() < 0.1
    assert angular_distance(rotations, rotations @ group, "C1")[1:].min() > 80


def test_a_disc_of_shifts_holds_its_centre_and_its_rim():
    disc = shift_disc(4.0, 2.0)
    assert len(disc) == 13
    assert (disc == 0).all(1).any()
    assert disc.norm(dim=1).max() == 4.0
