"""Helical symmetry of a synthetic helix: imposed, found, and the same as RELION's."""

import math
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cryoprism.core import InputError, random_rotations
from cryoprism.formats import Volume, read_map, write_map
from cryoprism.structure import (
    FourierVolume,
    HelicalSymmetry,
    helical_agreement,
    helical_views,
    impose_helical_symmetry,
    packed_frequencies,
    refine_helical_symmetry,
)

VOXEL = 2.0
HELIX = HelicalSymmetry(9.0, 31.0)


def helix(box: int = 48, symmetry: HelicalSymmetry = HELIX) -> Tensor:
    """Two blobs a unit, along the whole box."""
    axis = (torch.arange(box) - box // 2).float()
    volume = torch.zeros(box, box, box)
    reach = math.ceil(0.5 * box * VOXEL / symmetry.rise_in_angstroms) + 2
    for unit in range(-reach, reach + 1):
        for radius, turn, lift, weight in ((14.0, 0.0, 0.0, 1.0), (20.0, 40.0, 1.5, 0.6)):
            angle = math.radians(unit * symmetry.twist_in_degrees + turn)
            z = (unit * symmetry.rise_in_angstroms + lift) / VOXEL
            y, x = radius / VOXEL * math.sin(angle), radius / VOXEL * math.cos(angle)
            square = (axis - z)[:, None, None] ** 2 + (axis - y)[:, None] ** 2 + (axis - x) ** 2
            volume += weight * torch.exp(-square / 5.0)
    return volume


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


@pytest.mark.parametrize("box", [48, 49])
def test_a_perfect_helix_stays_and_the_other_hand_does_not(box: int) -> None:
    volume = helix(box)
    assert correlation(impose_helical_symmetry(volume, VOXEL, HELIX), volume) > 0.998
    assert correlation(impose_helical_symmetry(volume, VOXEL, HelicalSymmetry(9.0, -31.0)), volume) < 0.6
    assert helical_agreement(volume, VOXEL, HELIX) > 0.99
    assert helical_agreement(volume, VOXEL, HelicalSymmetry(9.0, -31.0)) < 0.6


def test_the_ends_are_filled_from_the_centre_and_noise_falls() -> None:
    volume = helix()
    centre = torch.zeros(48)
    centre[14:35] = 1.0
    cut = volume * centre[:, None, None]
    assert correlation(impose_helical_symmetry(cut, VOXEL, HELIX, central_fraction=0.4), volume) > 0.99
    noisy = volume + torch.randn(volume.shape, generator=torch.Generator().manual_seed(0))
    clean = impose_helical_symmetry(noisy, VOXEL, HELIX, central_fraction=0.9)
    # 48 voxels of 2 Å hold ten units of 9 Å.
    assert float((clean - volume)[:, 16:32, 16:32].var()) < 0.2 * float((noisy - volume)[:, 16:32, 16:32].var())
    assert torch.equal(noisy, volume + torch.randn(volume.shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("noise", "start", "rise_error", "twist_error"), [(0.0, (9.5, 29.0), 0.02, 0.05), (0.1, (8.4, 33.0), 0.12, 0.3)]
)
def test_rise_and_twist_are_found_nearby(
    noise: float, start: tuple[float, float], rise_error: float, twist_error: float
) -> None:
    volume = helix() + noise * torch.randn(48, 48, 48, generator=torch.Generator().manual_seed(1))
    found = refine_helical_symmetry(
        volume, VOXEL, HelicalSymmetry(*start), outer_radius_in_angstroms=30.0, central_fraction=0.9
    )
    assert found.rise_in_angstroms == pytest.approx(9.0, abs=rise_error)
    assert found.twist_in_degrees == pytest.approx(31.0, abs=twist_error)


@pytest.mark.parametrize("steps", [1, -2])
def test_views_of_a_helix_have_equivalents(steps: int) -> None:
    """The slice at the equivalent orientation is the slice times the phases, for a helix as long as the box is high."""
    box = 48
    axis = (torch.arange(box) - box // 2).float()
    # An object and the same object one step further: V(R r + s) of the second is the first.
    volume = torch.exp(-((axis - 4)[:, None, None] ** 2 + (axis - 5)[:, None] ** 2 + (axis + 2) ** 2) / 6.0)
    turn = HELIX.rotation(steps)
    x, y, z = (turn @ torch.tensor([-2.0, 5.0, 4.0])).tolist()
    z += steps * HELIX.rise_in_angstroms / VOXEL
    moved = torch.exp(-((axis - z)[:, None, None] ** 2 + (axis - y)[:, None] ** 2 + (axis - x) ** 2) / 6.0)
    rotations = random_rotations(3, torch.Generator().manual_seed(2))
    k = packed_frequencies(12)
    turned, phases = helical_views(rotations, k, HELIX, steps, box=box, voxel_size_in_angstroms=VOXEL)
    expected = FourierVolume.from_map(moved, padding=4).slices(turned, 12)
    here = FourierVolume.from_map(volume, padding=4).slices(rotations, 12) * phases
    assert float((here - expected).abs().max()) < 0.02 * float(expected.abs().max())


def test_units_are_counted_about_the_present_one() -> None:
    assert list(HELIX.steps(1)) == [0]
    assert list(HELIX.steps(4)) == [-1, 0, 1, 2]
    assert list(HELIX.steps(5)) == [-2, -1, 0, 1, 2]


def test_impossible_helices_are_refused() -> None:
    with pytest.raises(InputError, match="positive rise"):
        HelicalSymmetry(0.0, 30.0)
    with pytest.raises(InputError, match="central_fraction"):
        impose_helical_symmetry(helix(), VOXEL, HelicalSymmetry(60.0, 30.0))
    with pytest.raises(InputError, match="central_fraction"):
        impose_helical_symmetry(helix(), VOXEL, HELIX, central_fraction=0.0)


@pytest.mark.relion
def test_relion_imposes_the_same(tmp_path: Path) -> None:
    volume = helix() + 0.2 * torch.randn(48, 48, 48, generator=torch.Generator().manual_seed(3))
    write_map(tmp_path / "in.mrc", Volume(volume, VOXEL))
    command = "relion_helix_toolbox --impose --i in.mrc --o out.mrc --rise 9 --twist 31 --z_percentage 0.3"
    command += f" --angpix {VOXEL} --cyl_outer_diameter 80 --sphere_percentage 0.95"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    theirs = read_map(tmp_path / "out.mrc", VOXEL).data
    ours = impose_helical_symmetry(volume, VOXEL, HELIX, central_fraction=0.3)
    axis = torch.arange(48) - 24
    inside = (axis[:, None] ** 2 + axis**2 < 18 * 18) & (axis[:, None, None].abs() < 14)
    assert correlation(ours[inside], theirs[inside]) > 0.999
