"""FSC against closed forms, noise, RELION; what half maps must not be."""

import math
import subprocess

import numpy as np
import pytest
import torch
from half_maps import VOXEL, halves, molecule

from cryoprism.core import InputError
from cryoprism.formats import Volume, read_star, write_map
from cryoprism.formats.star import find_block
from cryoprism.structure import (
    correlation_with_mirror,
    first_crossing,
    fourier_shell_correlation,
    half_map_fsc,
    irfft3,
    low_pass,
    noise_limit,
    randomise_phases,
    require_half_maps,
    rfft3,
    shell_index,
    shell_sums,
    soft_sphere,
)


@pytest.mark.parametrize("shape", [(24, 24, 24), (23, 23, 23), (20, 24, 23)])
def test_the_half_transform_counts_every_coefficient_once(shape):
    """Parseval's theorem by shells, and shells by the full transform."""
    volume = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    power = shell_sums(torch.view_as_real(rfft3(volume)).square().sum(-1), shape)
    grids = np.meshgrid(*(np.fft.fftfreq(n) * max(shape) for n in shape), indexing="ij")
    index = np.round(np.sqrt(sum(g**2 for g in grids))).astype(int)
    full = np.abs(np.fft.fftn(volume.numpy())) ** 2
    expected = np.bincount(index.ravel(), weights=full.ravel())[: max(shape) // 2 + 1]
    np.testing.assert_allclose(power.numpy(), expected, rtol=1e-5)
    counted = shell_sums(None, shape)
    np.testing.assert_array_equal(counted.numpy(), np.bincount(index.ravel())[: max(shape) // 2 + 1])


@pytest.mark.parametrize("box", [32, 33])
def test_signal_and_noise_of_equal_power_correlate_by_one_half(box):
    """FSC = S / (S + N): white signal with white noise of the same power in each half."""
    truth = torch.randn(box, box, box, generator=torch.Generator().manual_seed(3))
    one, two = halves(truth, 1.0)
    curve = fourier_shell_correlation(one, two, VOXEL)
    error = 1.0 / curve.count.sqrt()
    assert bool(((curve.fsc - 0.5).abs() < 4 * error)[4:].all())
    assert curve.frequency[-1] == pytest.approx((box // 2) / (box * VOXEL))


def test_pure_noise_stays_within_three_deviations():
    one, two = halves(torch.zeros(64, 64, 64), 1.0)
    curve = fourier_shell_correlation(one, two, VOXEL)
    inside = curve.fsc.abs() < noise_limit(curve.count)
    assert float(inside[2:].double().mean()) > 0.93
    scaled = (curve.fsc * curve.count.sqrt())[2:]
    assert float(scaled.std()) == pytest.approx(1.0, abs=0.3)


def test_noise_under_a_mask_is_corrected_to_nothing():
    """A mask correlates nothing by itself when noise is independent; the corrected curve ends at zero."""
    box = 48
    one, two = halves(low_pass(molecule(box, 24.0), VOXEL, 16.0), 0.4)
    mask = soft_sphere((box,) * 3, VOXEL, 26.0, soft_edge_in_angstroms=6)
    fsc = half_map_fsc(one, two, VOXEL, mask=mask)
    beyond = fsc.frequency > 1 / 12.0
    limit = noise_limit(fsc.count, 4.0, mask_fraction=float((mask**2).mean()))
    assert bool((fsc.corrected[beyond] < limit[beyond]).all())
    # Shell 6; phases are random from the shell after it, and the correction begins two later.
    assert box * VOXEL / fsc.crossing().resolution_in_angstroms == pytest.approx(6.0, abs=2.5)


def test_a_sharp_mask_inflates_the_masked_curve_and_the_correction_takes_it_off():
    """A jagged mask leaks strong low frequencies into high shells, equally in both halves."""
    box = 48
    signal = low_pass(molecule(box, 26.0), VOXEL, 20.0) * 6
    one, two = halves(signal, 0.3)
    rough = (torch.rand(box, box, box, generator=torch.Generator().manual_seed(5)) > 0.5).float()
    fsc = half_map_fsc(one, two, VOXEL, mask=rough * soft_sphere((box,) * 3, VOXEL, 26.0))
    beyond = fsc.frequency > 1 / 8.0
    assert float(fsc.masked[beyond].mean()) > 0.3
    assert float(fsc.corrected[beyond].mean()) < 0.1
    assert float(fsc.corrected[beyond].mean()) < 0.5 * float(fsc.masked[beyond].mean())


@pytest.mark.parametrize("box", [16, 17])
def test_randomised_phases_keep_amplitudes_and_low_shells(box):
    volume = torch.randn(box, box, box, generator=torch.Generator().manual_seed(0))
    before = volume.clone()
    changed = randomise_phases(volume, 5, torch.Generator().manual_seed(1))
    assert torch.equal(volume, before)
    old, new = rfft3(volume), rfft3(changed)
    torch.testing.assert_close(new.abs(), old.abs(), rtol=1e-3, atol=1e-3)
    low = shell_index((box,) * 3) < 5
    torch.testing.assert_close(new[low], old[low], rtol=1e-3, atol=1e-3)
    other = randomise_phases(volume, 5, torch.Generator().manual_seed(2))
    curve = fourier_shell_correlation(changed, other, 1.0)
    assert bool((curve.fsc[:5] > 0.999).all())
    assert float(curve.fsc[5:].abs().mean()) < 0.2


def test_the_same_seed_gives_the_same_curve_and_halves_get_their_own_phases():
    one, two = halves(molecule(32, 18.0), 0.8)
    mask = soft_sphere((32,) * 3, VOXEL, 20.0)
    first, again, other = (half_map_fsc(one, two, VOXEL, mask=mask, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(first.randomised, again.randomised)
    assert not torch.equal(first.randomised, other.randomised)
    assert float(first.randomised[first.randomised_from_shell + 4 :].abs().mean()) < 0.3


def test_the_first_crossing_counts_and_is_interpolated():
    frequency = torch.arange(6).double() / 100
    curve = torch.tensor([1.0, 0.9, 0.6, 0.1, 0.7, 0.0])
    assert first_crossing(frequency, curve, 0.5).resolution_in_angstroms == pytest.approx(1 / 0.022)
    assert first_crossing(frequency, curve, 0.05).resolution_in_angstroms == pytest.approx(1 / (0.04 + 0.65 / 70))
    never = first_crossing(frequency, torch.full((6,), 0.8), 0.5)
    assert never.at_nyquist
    assert never.resolution_in_angstroms == pytest.approx(20.0)
    assert first_crossing(frequency, torch.zeros(6), 0.5).resolution_in_angstroms is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda m: m.clone(), "same map"),
        (lambda m: 3.0 * m, "same map"),
        (lambda m: torch.zeros_like(m), "every voxel is 0"),
        (lambda m: torch.where(m == m.max(), torch.nan, m), "not finite"),
        (lambda m: m[1:], "a box of"),
    ],
)
def test_what_is_no_pair_of_halves_is_refused(change, word):
    one = molecule(32, 18.0)

    def compare():
        require_half_maps(one, change(one))
        half_map_fsc(one, change(one), VOXEL)

    with pytest.raises(InputError, match=word):
        compare()


def test_the_mirror_image_is_told_apart():
    for box in (32, 33):
        truth = molecule(box, 18.0)
        direct, mirrored = correlation_with_mirror(truth, truth)
        assert direct == pytest.approx(1.0, abs=1e-6)
        assert mirrored < 0.9
        flipped = truth.flip(-1) if box % 2 else truth.flip(-1).roll(1, -1)
        assert correlation_with_mirror(flipped, truth)[1] == pytest.approx(1.0, abs=1e-6)


def test_low_pass_and_inverse():
    volume = torch.randn(21, 21, 21, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(irfft3(rfft3(volume), (21, 21, 21)), volume, rtol=1e-4, atol=1e-5)
    power = torch.view_as_real(rfft3(low_pass(volume, 1.0, 5.0))).square().sum(-1)
    shells = shell_index((21, 21, 21))
    assert float(power[shells > 21 / 5 + 2].max()) < 1e-6 * float(power.max())


def test_gradients_reach_the_map():
    volume = torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    irfft3(rfft3(volume), (8, 8, 8)).square().sum().backward()
    torch.testing.assert_close(volume.grad, 2 * volume.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.relion
def test_curves_and_resolution_of_relion_postprocess(tmp_path):
    """Same maps and mask: curves within 0.02 (0.05 where phases are random), resolution within one shell."""
    box = 64
    one, two = halves(molecule(box, 36.0), 0.9)
    mask = soft_sphere((box,) * 3, VOXEL, 40.0, soft_edge_in_angstroms=12)
    for name, data in (("half1", one), ("half2", two), ("mask", mask)):
        write_map(tmp_path / f"{name}.mrc", Volume(data, VOXEL))
    command = "relion_postprocess --i half1.mrc --i2 half2.mrc --mask mask.mrc --angpix 2 --auto_bfac --o post"
    (tmp_path / "post").mkdir()  # RELION wants to put a picture there
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    blocks = read_star(tmp_path / "post.star")
    table = find_block(blocks, "fsc")
    fsc = half_map_fsc(one, two, VOXEL, mask=mask)
    away = slice(3, box // 2)
    columns = {
        "rlnFourierShellCorrelationUnmaskedMaps": (fsc.unmasked, 0.02),
        "rlnFourierShellCorrelationMaskedMaps": (fsc.masked, 0.02),
        "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": (fsc.randomised, 0.1),
        "rlnFourierShellCorrelationCorrected": (fsc.corrected, 0.05),
    }
    later = slice(fsc.randomised_from_shell + 3, box // 2)
    for label, (ours, tolerance) in columns.items():
        part = later if "Randomized" in label else away
        theirs = table.numbers(label)
        np.testing.assert_allclose(ours.numpy()[part], theirs[part], atol=tolerance, err_msg=label)
    general = find_block(blocks, "general")
    final = float(general.numbers("rlnFinalResolution")[0])
    shell = box * VOXEL / final
    assert box * VOXEL / fsc.crossing().resolution_in_angstroms == pytest.approx(shell, abs=1.0)
    assert fsc.randomised_beyond_in_angstroms == pytest.approx(float(general.numbers("rlnRandomiseFrom")[0]), rel=1e-4)
    assert math.isfinite(final)
