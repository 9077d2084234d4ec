"""The backbone's density here against where it is moved or scaled to: shifts and voxel sizes that an envelope bears."""

import numpy as np
import pytest
import torch
from planted import rule_of
from scipy.ndimage import gaussian_filter
from small_models import helix, pdb

from cryoprism.evaluation.consistency import check_consistency
from cryoprism.evaluation.consistency._model import read_model
from cryoprism.evaluation.consistency._placement import placement_case
from cryoprism.formats import Volume
from programs import needs_coq

SIZE = 1.5


def simulated(model, resolution):
    """SIMULATED map of a model: Gaussians of 0.225 times the resolution, one residue in five weak, with noise."""
    rng = np.random.default_rng(1)
    places = (model.points + model.corner) / 1000
    low = places.min(axis=0) - 20
    grid = np.zeros(np.ceil((np.ptp(places, axis=0) + 40) / SIZE).astype(int))
    weights = np.where(rng.random(len(model.residues)) < 0.2, 0.2, 1.0)[model.residue_of]
    np.add.at(grid, tuple(np.rint((places - low) / SIZE).astype(int).T), weights)
    grid = gaussian_filter(grid, 0.225 * resolution / SIZE)
    grid += rng.normal(size=grid.shape) * 0.3 * grid.std()
    return Volume(torch.from_numpy(grid.transpose(2, 1, 0).astype(np.float32)), SIZE, tuple(low.tolist()))


def altered(volume, shift=(0, 0, 0), scale=1.0):
    """The map with its origin moved, and its voxels scaled about its middle."""
    shape = np.array(volume.data.shape[::-1])
    origin = np.array(volume.origin_in_angstroms) + np.array(shift) - 0.5 * shape * SIZE * (scale - 1)
    return Volume(volume.data, SIZE * scale, tuple(origin.tolist()))


def verdict(model, volume):
    case = placement_case(model, volume)
    assert len(case.residues) == 4
    return "refuted" if case.refuted else "unknown" if case.borderline else "proved"


@pytest.fixture(scope="module", params=["3dqb.pdb.gz", "4p5j.cif.gz"])
def entry(request, real_data):
    return read_model(real_data / "structures" / request.param)


@pytest.mark.parametrize("resolution", [3.0, 6.0, 10.0])
def test_shifts_and_voxel_sizes(entry, resolution):
    volume = simulated(entry, resolution)
    assert verdict(entry, volume) == "proved"
    assert verdict(entry, altered(volume, (0.5, -0.5, 0.5))) == "proved"
    for way in ((1, 0, 0), (0.6, -0.64, 0.48), (0, 0.28, 0.96)):
        assert verdict(entry, altered(volume, 5 * np.array(way))) == "refuted"
        assert verdict(entry, altered(volume, 3 * np.array(way))) != "proved"
    for scale in (0.9, 1.1):
        found = verdict(entry, altered(volume, scale=scale))
        assert found == "refuted" if resolution == 3 else found != "proved" or resolution == 10


def test_inverted_flat_and_few(entry):
    volume = simulated(entry, 4.0)
    assert verdict(entry, Volume(-volume.data, SIZE, volume.origin_in_angstroms)) == "refuted"
    flat = Volume(torch.ones_like(volume.data), SIZE, volume.origin_in_angstroms)
    assert verdict(entry, flat) == "unknown"


def test_a_part_of_a_complex_is_no_better_elsewhere(entry):
    # The map of twice the molecule, side by side: the model is one of them.
    for resolution in (3.0, 8.0):
        volume = simulated(entry, resolution)
        data = volume.data.clone()
        data += torch.roll(volume.data, 25, dims=0)
        assert verdict(entry, Volume(data, SIZE, volume.origin_in_angstroms)) == "proved"


@needs_coq
def test_a_small_model_is_open_at_most_and_its_certificate_holds(tmp_path, quick):
    path = tmp_path / "model.pdb"
    for count, wanted in ((20, 0), (60, 1)):
        path.write_text(pdb({"A": helix(count)}))
        model = read_model(path)
        result = check_consistency(path, volume=altered(simulated(model, 4.0), (0, 0, 5.0)), margin_in_angstroms=6.0)
        rule = rule_of(result, "placement")
        assert (rule.refuted > 0) == bool(wanted)
        assert rule.unknown > 0
        assert result.verdict == ("refuted" if wanted else "unknown"), result.sentences()
        code, said = quick(result.write_certificate(tmp_path / f"certificate{count}"))
        assert code == 0, said
    assert "moved by" in rule.offenders[0].words
    assert "origin or voxel size is wrong" in rule.offenders[0].words
