"""Noise is told from maps of molecules."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cryoprism.formats import Volume, read_map, read_structure
from cryoprism.structure import model_map, no_molecule


def _noise(seed, side, voxel, width):
    data = np.random.default_rng(seed).standard_normal((side, side, side))
    data = gaussian_filter(data, width / voxel) if width else data
    return Volume(torch.from_numpy(data.astype(np.float32)), voxel)


@pytest.mark.parametrize("width", [0.0, 0.7, 1.0, 2.0, 4.0])
@pytest.mark.parametrize(("side", "voxel"), [(40, 1.0), (64, 1.0), (64, 2.0), (20, 11.4)])
def test_noise_is_told_whether_white_or_smoothed(side, voxel, width):
    for seed in range(3):
        assert no_molecule(_noise(seed, side, voxel, width)).startswith("no molecule stands out")


@pytest.mark.real
@pytest.mark.parametrize("name", ["beta_galactosidase.mrc", "emd_1997_groel.mrc", "emd_3197.mrc"])
def test_recorded_maps_are_no_noise(real_data, name):
    assert no_molecule(read_map(real_data / "maps" / name)) == ""


@pytest.mark.real
@pytest.mark.parametrize("resolution", [3.0, 5.0, 8.0, 15.0])
@pytest.mark.parametrize(("noise", "told"), [(0.0, True), (0.1, True), (0.3, True), (1.0, True), (20.0, False)])
def test_a_small_molecule_stands_out_of_noise_that_does_not_hide_it(real_data, resolution, noise, told):
    atoms = read_structure(real_data / "structures" / "1crn.cif.gz")
    middle = atoms.positions_in_angstroms.mean(0)
    like = Volume(torch.zeros(48, 48, 48), 1.0, tuple(float(m) - 24 for m in middle))
    data = gaussian_filter(model_map(atoms, like, b_factor_in_square_angstroms=0.0).data.numpy(), 0.225 * resolution)
    level = data[data > 0.3 * data.max()].mean()
    data = data + noise * level * np.random.default_rng(1).standard_normal(data.shape)
    found = no_molecule(Volume(torch.from_numpy(data.astype(np.float32)), 1.0))
    assert (found == "") == told


def test_a_map_too_small_to_tell_is_not_called_noise():
    assert no_molecule(_noise(0, 8, 1.0, 0.0)) == ""
