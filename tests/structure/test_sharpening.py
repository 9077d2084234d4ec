"""Guinier plots and sharpening: a known B-factor comes back, noise is not sharpened, RELION agrees."""

import subprocess

import pytest
import torch
from half_maps import VOXEL, halves, molecule

from cryoprism.core import InputError
from cryoprism.formats import Mtf, Volume, read_map, read_star, write_map
from cryoprism.formats.star import find_block
from cryoprism.structure import (
    fit_guinier,
    fourier_shell_correlation,
    fsc_weights,
    guinier_plot,
    half_map_fsc,
    radial_filter,
    sharpen,
    shell_frequencies,
    soft_sphere,
)

BOX = 64
SHAPE = (BOX, BOX, BOX)


def blurred(b_factor, seed=0):
    """White noise with a B-factor: its Guinier plot is a straight line."""
    white = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    return radial_filter(white, torch.exp(-b_factor * shell_frequencies(SHAPE, VOXEL) ** 2 / 4))


@pytest.mark.parametrize("b_factor", [40.0, 150.0])
def test_a_known_fall_off_is_measured(b_factor):
    fit = fit_guinier(*guinier_plot(blurred(b_factor), VOXEL), finest_in_angstroms=4.0)
    assert fit.b_factor_in_square_angstroms == pytest.approx(-b_factor, abs=3)
    assert fit.standard_deviation_in_square_angstroms < 2


def test_too_few_shells_are_no_fit():
    fit = fit_guinier(*guinier_plot(blurred(100.0), VOXEL), finest_in_angstroms=9.5)
    assert fit.b_factor_in_square_angstroms is None
    assert "too few" in fit.reason


def test_weights_are_rosenthal_and_hendersons():
    weights = fsc_weights(torch.tensor([1.0, 1.0, 0.143, 0.5, -0.1, 0.4]).double())
    assert weights[2] == pytest.approx(0.5, abs=1e-3)
    assert weights[3] == pytest.approx((2 / 3) ** 0.5)
    assert float(weights[4]) == 0.0
    assert float(weights[5]) == 0.0  # chance agreement beyond the end


def test_sharpening_undoes_the_blur():
    truth, seen = blurred(0.0), blurred(120.0)
    fsc = torch.ones(BOX // 2 + 1).double()
    result = sharpen(seen, VOXEL, fsc, resolution_in_angstroms=4.2)
    curve = fourier_shell_correlation(result.data, truth, VOXEL)
    resolved = curve.frequency < 1 / 4.6
    assert bool((curve.fsc[resolved] > 0.999).all())
    assert result.sharpened.b_factor_in_square_angstroms == pytest.approx(0.0, abs=30)
    amplitude = guinier_plot(result.data, VOXEL)[1] - guinier_plot(truth, VOXEL)[1]
    flat = (curve.frequency > 0.05) & resolved
    assert float(amplitude[flat].std()) < 0.03


def test_a_given_b_factor_and_no_resolution_are_obeyed():
    seen = blurred(120.0)
    fsc = torch.ones(BOX // 2 + 1).double()
    frequency = shell_frequencies(SHAPE, VOXEL)
    result = sharpen(seen, VOXEL, fsc, resolution_in_angstroms=4.2, b_factor_in_square_angstroms=-60, low_pass=False)
    gain = guinier_plot(result.data, VOXEL)[1] - guinier_plot(seen, VOXEL)[1]
    torch.testing.assert_close(gain[1:], 15 * frequency[1:] ** 2, rtol=0, atol=0.02)
    untouched = sharpen(seen, VOXEL, 0 * fsc, resolution_in_angstroms=None)
    torch.testing.assert_close(untouched.data, radial_filter(seen, torch.ones_like(fsc)), rtol=1e-3, atol=1e-3)


def test_the_detector_is_divided_out():
    curve = Mtf(torch.linspace(0, 0.5, 11), torch.linspace(1, 0.4, 11))
    truth = blurred(60.0)
    frequency = shell_frequencies(SHAPE, VOXEL)
    seen = radial_filter(truth, curve.at((frequency * VOXEL).float()).double())
    fsc = torch.ones(BOX // 2 + 1).double()
    result = sharpen(
        seen, VOXEL, fsc, resolution_in_angstroms=4.2, b_factor_in_square_angstroms=0.0, mtf=curve, low_pass=False
    )
    wanted = radial_filter(truth, fsc)
    assert float((result.data - wanted).std() / wanted.std()) < 0.01
    dead = Mtf(torch.tensor([0.0, 0.2]), torch.tensor([1.0, 0.0]))
    with pytest.raises(InputError, match="--mtf"):
        sharpen(seen, VOXEL, fsc, resolution_in_angstroms=4.2, mtf=dead)
    with pytest.raises(InputError, match="fsc"):
        sharpen(seen, VOXEL, fsc[:-1], resolution_in_angstroms=4.2)


@pytest.mark.relion
def test_relion_finds_the_same_b_factor_and_map(tmp_path):
    one, two = halves(molecule(BOX, 36.0, b_factor=120.0), 1.2)
    mask = soft_sphere(SHAPE, VOXEL, 44.0, soft_edge_in_angstroms=12)
    for name, data in (("half1", one), ("half2", two), ("mask", mask)):
        write_map(tmp_path / f"{name}.mrc", Volume(data, VOXEL))
    command = "relion_postprocess --i half1.mrc --i2 half2.mrc --mask mask.mrc --angpix 2 --auto_bfac --o post"
    fsc = half_map_fsc(one, two, VOXEL, mask=mask)
    limit = fsc.crossing().resolution_in_angstroms
    command += f" --autob_highres {limit:.3f} --low_pass {limit:.3f}"
    (tmp_path / "post").mkdir()  # RELION wants to put a picture there
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    general = find_block(read_star(tmp_path / "post.star"), "general")
    theirs = float(general.numbers("rlnBfactorUsedForSharpening")[0])
    ours = sharpen((one + two) / 2, VOXEL, fsc.corrected, resolution_in_angstroms=limit)
    assert ours.weighted.b_factor_in_square_angstroms == pytest.approx(theirs, rel=0.1)
    curve = fourier_shell_correlation(ours.data, read_map(tmp_path / "post.mrc").data, VOXEL, mask=mask)
    assert bool((curve.fsc[1:][curve.frequency[1:] < 0.9 / limit] > 0.99).all())
