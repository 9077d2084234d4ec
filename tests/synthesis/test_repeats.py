import math
from dataclasses import replace

import pytest
import torch
from blobs import ellipsoid

from cryoprism.core import InputError, generator_for
from cryoprism.formats import Volume, write_map
from cryoprism.synthesis import Helix, Specimen, one_repeat, specimen_from_file, specimen_name

RISE, TWIST = 5.0, -20.0


def _rung(count=80):
    """Atoms (n, 3) of one flat rung that is no ring about the axis."""
    flat = torch.rand(count, 3, generator=generator_for(0, "rung")) * torch.tensor([60.0, 30.0, 4.0])
    return flat + torch.tensor([-20.0, -15.0, 0.0])


def _turned(points, steps, rise=RISE, twist=TWIST):
    turn = math.radians(twist) * steps
    c, s = math.cos(turn), math.sin(turn)
    return points @ torch.tensor([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]]) + torch.tensor([0.0, 0.0, rise * steps])


def _specimen(points, name="fibril"):
    atom = ellipsoid(10, 10, 10, atoms=4)
    model = replace(
        atom.model,
        positions_in_angstroms=points,
        atomic_numbers=torch.full((len(points),), 6),
        b_factors_in_square_angstroms=torch.full((len(points),), 30.0),
        hydrogens=1.0,
    )
    return Specimen(name=name, radius_in_angstroms=float(points.norm(dim=1).max()) + 1.5, model=model)


def test_a_structure_of_several_rungs_is_cut_to_one_whole_rung():
    rung = _rung()
    stack = torch.cat([_turned(rung, i) for i in range(-5, 5)])
    unit = one_repeat(_specimen(stack), Helix(rise_in_angstroms=RISE, twist_in_degrees=TWIST))
    points = unit.model.positions_in_angstroms
    assert len(points) == len(rung)
    assert unit.model.b_factors_in_square_angstroms.shape == (len(rung),)
    last = _turned(rung, 4)
    torch.testing.assert_close(points[:, :2], last[:, :2])  # the axis stays where it is
    torch.testing.assert_close(points[:, 2], last[:, 2] - last[:, 2].mean(), atol=1e-4, rtol=0)


def test_one_rung_and_a_subunit_beside_the_axis_stay_as_they_are():
    helix = Helix(rise_in_angstroms=RISE, twist_in_degrees=TWIST)
    one = _specimen(_rung())
    assert one_repeat(one, helix) is one
    subunit = ellipsoid(12, 12, 12, atoms=400)
    wide = Helix(rise_in_angstroms=6.0, twist_in_degrees=60.0, axis_offset_in_angstroms=(35.0, 0.0))
    assert one_repeat(subunit, wide) is subunit


@pytest.mark.parametrize(
    ("points", "helix"),
    [
        # Ten rungs with another twist; a subunit that would turn about its own middle.
        (
            torch.cat([_turned(_rung(400), i) for i in range(-5, 5)]),
            Helix(rise_in_angstroms=RISE, twist_in_degrees=8.0),
        ),
        (
            ellipsoid(12, 12, 12, atoms=400).model.positions_in_angstroms,
            Helix(rise_in_angstroms=6.0, twist_in_degrees=60),
        ),
    ],
)
def test_repeats_that_would_lie_in_one_another_are_refused(points, helix):
    with pytest.raises(InputError, match="would lie within") as caught:
        one_repeat(_specimen(points), helix)
    assert "--axis-offset" in caught.value.remedy


def _map(path, inside, voxel=2.0):
    write_map(path, Volume(inside.float(), voxel))
    return specimen_from_file(path, contour=0.5)


def test_a_map_of_a_filament_is_cut_and_a_map_of_a_subunit_is_not(tmp_path):
    side, voxel = 48, 2.0
    axis = (torch.arange(side) - side // 2).float() * voxel
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    rod = (x / 30) ** 2 + (y / 12) ** 2 < 1
    whole = _map(tmp_path / "rod.mrc", rod)
    unit = one_repeat(whole, Helix(rise_in_angstroms=10.0, twist_in_degrees=2.0))
    assert float(unit.density.sum()) == pytest.approx(float(whole.density.sum()) * 10.0 / (side * voxel), rel=0.05)
    slab = _map(tmp_path / "slab.mrc", rod & (z.abs() < 10.0))
    assert one_repeat(slab, Helix(rise_in_angstroms=21.0, twist_in_degrees=2.0)) is slab
    ball = _map(tmp_path / "ball.mrc", x**2 + y**2 + z**2 < 20.0**2)
    with pytest.raises(InputError, match="would lie within"):
        one_repeat(ball, Helix(rise_in_angstroms=8.0, twist_in_degrees=2.0))
    beside = Helix(rise_in_angstroms=8.0, twist_in_degrees=90.0, axis_offset_in_angstroms=(40.0, 0.0))
    assert one_repeat(ball, beside) is ball


def test_a_map_without_a_particle_is_refused(tmp_path):
    with pytest.raises(InputError, match="all voxels are"):
        _map(tmp_path / "even.mrc", torch.full((16, 16, 16), 0.5))


def test_names_are_those_of_the_files():
    found = [specimen_name(name) for name in ("a/4oyn.pdb.gz", "1abc.cif", "map.mrc", "x.y.mrc")]
    assert found == ["4oyn", "1abc", "map", "x.y"]
