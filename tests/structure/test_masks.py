"""Masks: edges by closed form, molecules found in noise, files checked."""

import math

import pytest
import torch
from half_maps import VOXEL, halves, molecule

from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.formats import Volume, read_map, write_map
from cryoprism.structure import (
    half_map_fsc,
    mask_from_map,
    mask_is_too_tight,
    molecule_threshold,
    read_mask,
    soft_sphere,
)

BOX = 64


@pytest.mark.parametrize("box", [40, 41])
def test_a_sphere_has_its_volume_and_a_cosine_edge(box):
    mask = soft_sphere((box,) * 3, VOXEL, 20.0, soft_edge_in_angstroms=10.0)
    line = mask[box // 2, box // 2, box // 2 :]
    distance = torch.arange(line.numel()) * VOXEL
    expected = 0.5 + 0.5 * torch.cos(math.pi * ((distance - 20) / 10).clamp(0, 1))
    torch.testing.assert_close(line, expected)
    hard = soft_sphere((box,) * 3, VOXEL, 20.0, soft_edge_in_angstroms=0.0)
    assert float(hard.sum()) * VOXEL**3 == pytest.approx(4 / 3 * math.pi * 20**3, rel=0.03)


@pytest.mark.parametrize("noise", [0.0, 1.0, 4.0])
def test_the_molecule_is_found_whatever_the_noise(noise):
    """Radius 30 Å: the mask is 1 inside (but for the threshold's depth) and 0 beyond growth and edge."""
    truth = soft_sphere((BOX,) * 3, VOXEL, 30.0, soft_edge_in_angstroms=6.0)
    mean = sum(halves(truth, noise)) / 2
    mask = mask_from_map(mean, VOXEL, extend_in_angstroms=5.0, soft_edge_in_angstroms=12.0)
    z, y, x = torch.meshgrid(*[(torch.arange(BOX) - BOX // 2) * VOXEL] * 3, indexing="ij")
    distance = (z**2 + y**2 + x**2).float().sqrt()
    assert float(mask.data[distance < 26].min()) > 0.9
    assert float(mask.data[distance < 30].min()) > 0.8
    assert float(mask.data[distance > 30 + 6 + 8 + 5 + 12].max()) == 0.0
    assert mask.fraction == pytest.approx(float(mask.data.mean()))
    assert 0.0 <= float(mask.data.min()) <= float(mask.data.max()) <= 1.0


def test_scale_and_offset_do_not_matter():
    mean = sum(halves(molecule(), 1.0)) / 2
    plain = mask_from_map(mean, VOXEL)
    other = mask_from_map(1e-3 * mean + 7e-3, VOXEL)
    assert float((plain.data - other.data).abs().mean()) < 0.01


def test_small_pieces_are_dropped_and_holes_filled():
    volume = soft_sphere((BOX,) * 3, VOXEL, 30.0) - soft_sphere((BOX,) * 3, VOXEL, 8.0, soft_edge_in_angstroms=2.0)
    volume[4:7, 4:7, 4:7] = 3.0
    mask = mask_from_map(volume, VOXEL, low_pass_in_angstroms=6.0).data
    assert float(mask[5, 5, 5]) == 0.0
    assert float(mask[BOX // 2, BOX // 2, BOX // 2]) == 1.0


def test_a_threshold_that_nothing_exceeds_says_the_maximum():
    with pytest.raises(InputError, match="--threshold"):
        mask_from_map(molecule(), VOXEL, threshold=1e6)
    with pytest.raises(InputError, match="constant"):
        molecule_threshold(torch.zeros(16, 16, 16))


def test_a_mask_that_fills_the_box_warns():
    with pytest.warns(CryoPrismWarning, match="% of the box"):
        mask_from_map(molecule(48, 40.0), VOXEL, threshold=-100.0)


def test_tight_masks_are_recognised():
    one, two = halves(molecule(48, 24.0) * 4, 0.5)
    wide = soft_sphere((48,) * 3, VOXEL, 30.0, soft_edge_in_angstroms=12.0)
    rough = (torch.rand(48, 48, 48, generator=torch.Generator().manual_seed(5)) > 0.5).float() * wide
    assert not mask_is_too_tight(half_map_fsc(one, two, VOXEL, mask=wide))
    assert mask_is_too_tight(half_map_fsc(one, two, VOXEL, mask=rough))
    assert not mask_is_too_tight(half_map_fsc(one, two, VOXEL))


def test_a_written_mask_is_read_back_and_a_wrong_one_refused(tmp_path):
    like = Volume(torch.zeros(24, 24, 24), VOXEL, (-24.0, 0.0, 4.0))
    mask = soft_sphere((24,) * 3, VOXEL, 15.0)
    path = tmp_path / "mask.mrc"
    write_map(path, Volume(mask, VOXEL, like.origin_in_angstroms))
    torch.testing.assert_close(read_mask(path, like), mask)
    assert read_map(path).origin_in_angstroms == pytest.approx(like.origin_in_angstroms)
    for data, voxel, word in (
        (mask[:20, :20, :20], VOXEL, "a box of"),
        (mask, 3.0, "voxel size"),
        (10 * mask, VOXEL, "values from"),
        (0.1 * mask, VOXEL, "nothing is inside"),
    ):
        write_map(path, Volume(data.contiguous(), voxel))
        with pytest.raises(InputError, match=word):
            read_mask(path, like)
