"""In a map of noise nothing of a model is proved to lie, nor refuted."""

import numpy as np
import pytest
import torch
from certificates import alter_rule, checked
from scipy.ndimage import gaussian_filter
from small_models import helix, pdb

from cryoprism.formats import Volume
from programs import needs_coq


def _map(noise, width=0.0, molecule=True, side=48):
    rows = helix(20)
    data = np.zeros((side, side, side))
    middle = np.mean([p for _, _, p in rows], axis=0)
    for _, _, place in rows:
        x, y, z = np.rint(place - middle + side // 2).astype(int)
        data[z, y, x] += molecule
    data = gaussian_filter(data, 2.0)
    grains = gaussian_filter(np.random.default_rng(5).standard_normal(data.shape), width) if width else None
    grains = np.random.default_rng(5).standard_normal(data.shape) if grains is None else grains
    level = data[data > 0.3 * data.max()].mean() if molecule else 1.0
    data += noise * level * grains / grains.std()
    return pdb({"A": rows}), Volume(torch.from_numpy(data.astype(np.float32)), 1.0, tuple(middle - side // 2))


def _envelope(result):
    return next(rule for rule in result.rules if rule.name == "envelope")


@pytest.mark.parametrize("width", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("contour", [None, 1.0])
def test_noise_leaves_the_envelope_unknown(tmp_path, width, contour):
    text, volume = _map(1.0, width, molecule=False)
    result = checked(tmp_path / "model.pdb", text, volume=volume, contour=contour)
    assert "placement" not in {rule.name for rule in result.rules}
    rule = _envelope(result)
    assert (rule.proved, rule.refuted, rule.unknown) == (0, 0, 20)
    assert "looks like noise" in rule.why_unknown or "no verdict" in rule.why_unknown
    assert rule.offenders == ()


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 1.0])
def test_a_molecule_in_white_noise_is_judged(tmp_path, noise):
    text, volume = _map(noise)
    rule = _envelope(checked(tmp_path / "model.pdb", text, volume=volume))
    assert "looks like noise" not in rule.why_unknown


@needs_coq
def test_the_certificate_of_a_map_of_noise_is_checked(tmp_path, quick):
    text, volume = _map(1.0, molecule=False)
    result = checked(tmp_path / "model.pdb", text, volume=volume)
    folder = result.write_certificate(tmp_path / "job" / "certificate")
    code, said = quick(folder)
    assert code == 0, said
    alter_rule(folder, "envelope", unknown=-1, proved=1)
    assert "do not have the counts or the atoms" in quick(folder)[1]
