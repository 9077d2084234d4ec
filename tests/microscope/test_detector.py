"""The detector: counting statistics, the noise spectrum it predicts, measured curves, and fixed patterns."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
from scipy.spatial import cKDTree
from scipy.special import j1

from cryoprism.core import InputError, frequency_grid, generator_for, half_plane_weights, radial_average
from cryoprism.microscope.detector import (
    CountingMtf,
    Detector,
    IntegratingMtf,
    MtfCurve,
    coincidence_dip,
    count_electrons,
    defect_masks,
    gain_pattern,
    lose_coincidences,
    perfect_mtf,
    record,
)

CURVES = Path(os.environ.get("CRYOPRISM_DATA", Path(__file__).parents[3] / "shared" / "data")) / "detectors"
N = 96


def noise_spectrum(images: torch.Tensor, shells: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Radial periodogram |F|²/(h w) of flat exposures over the mean count, at shells up to Nyquist."""
    h, w = images.shape[-2:]
    ky, kx = frequency_grid((h, w), 1.0)
    k = torch.sqrt(ky**2 + kx**2)
    power = torch.fft.rfft2(images - images.mean((-2, -1), keepdim=True)).abs() ** 2 / (h * w)
    edges = torch.linspace(0.02, 0.5, shells + 1)
    mean, _ = radial_average(power.mean(0), k, edges, half_plane_weights(w))
    centre, _ = radial_average(k, k, edges, half_plane_weights(w))
    return centre, mean / images.mean()


def test_counts_are_poisson_thinned_by_dqe():
    counts = count_electrons(torch.full((4, N, N), 6.0), 0.5, generator_for(1))
    assert torch.equal(counts, counts.round())
    assert float(counts.mean()) == pytest.approx(3.0, rel=0.02)
    assert float(counts.var()) == pytest.approx(3.0, rel=0.04)
    assert not torch.equal(counts[0], counts[1])


def test_the_surrogate_has_the_same_mean_and_variance_and_a_gradient():
    expected = torch.full((4, N, N), 40.0, requires_grad=True)
    counts = count_electrons(expected, 0.5, generator_for(1), reparametrised=True)
    assert float(counts.detach().mean()) == pytest.approx(20.0, rel=0.01)
    assert float(counts.detach().var()) == pytest.approx(20.0, rel=0.04)
    (gradient,) = torch.autograd.grad(counts.sum(), expected)
    assert float(gradient.mean()) == pytest.approx(0.5, rel=0.02)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("colour", [1.0, 0.4, 0.0])
def test_the_noise_spectrum_is_the_predicted_one(colour: float):
    detector = Detector(dqe0=0.8, mtf=CountingMtf(0.25), noise_colour=colour)
    images = record(torch.full((24, N, N), 10.0), detector, generator_for(2))
    k, spectrum = noise_spectrum(images)
    torch.testing.assert_close(spectrum, detector.noise_power(k), rtol=0.06, atol=0)


def test_the_mean_and_the_signal_follow_dqe_and_mtf():
    detector = Detector(dqe0=0.8, mtf=CountingMtf(0.25), noise_colour=0.5)
    x = torch.arange(N)
    wave = torch.cos(2 * math.pi * 24 * x / N).expand(N, N)
    expected = 200 + 100 * wave
    out = record(expected.expand(8, N, N), detector, generator_for(3)).mean(0)
    assert float(out.mean()) == pytest.approx(160.0, rel=0.01)
    amplitude = 2 * float((out * wave).mean())
    transfer = detector.mtf_transfer(torch.zeros(1, 1), torch.full((1, 1), 0.25))
    assert amplitude == pytest.approx(80 * float(transfer), rel=0.02)


def test_coincidence_loss_lowers_the_counts_and_dips_the_spectrum():
    detector = Detector(dqe0=1.0, mtf=perfect_mtf, coincidence_area_in_square_pixels=8.0)
    frames, electrons = 40.0, 0.5
    loss = detector.coincidence_loss(electrons, frames)
    assert loss == pytest.approx(1 - math.exp(-4 * electrons / frames))
    electrons, frames = 50.0, 2000.0
    loss = float(detector.coincidence_loss(electrons, frames))
    images = record(torch.full((60, N, N), electrons), detector, generator_for(4), readout_frames=frames)
    assert float(images.mean()) == pytest.approx(electrons * (1 - loss), rel=0.003)
    k, spectrum = noise_spectrum(images)
    torch.testing.assert_close(spectrum, detector.noise_power(k, loss), rtol=0.06, atol=0)
    assert float(spectrum[0]) < 0.88 < 0.95 < float(spectrum[-1])


def test_coincidence_agrees_with_electrons_dropped_one_by_one():
    """Points in separate readout frames, the later of each close pair dropped (Matérn's hard-core process)."""
    rng = np.random.default_rng(1)
    side, area, rate, frames, exposures = 64, 16.0, 0.01, 100, 40
    images, arrived, kept = np.zeros((exposures, side, side), np.float32), 0, 0
    for exposure in range(exposures):
        for _ in range(frames):
            points = rng.uniform(0, side, (rng.poisson(rate * side * side), 2))
            pairs = cKDTree(points, boxsize=side).query_pairs(math.sqrt(area / math.pi), output_type="ndarray")
            survivors = np.delete(points, np.unique(pairs.max(1, initial=0)) if len(pairs) else [], axis=0)
            arrived, kept = arrived + len(points), kept + len(survivors)
            np.add.at(images[exposure], tuple(survivors.astype(int).T), 1)
    detector = Detector(dqe0=1.0, mtf=perfect_mtf, coincidence_area_in_square_pixels=area)
    loss = float(detector.coincidence_loss(rate * frames, frames))
    assert 1 - kept / arrived == pytest.approx(loss, rel=0.05)
    k, spectrum = noise_spectrum(torch.from_numpy(images), shells=8)
    torch.testing.assert_close(spectrum, detector.noise_power(k, loss), rtol=0, atol=0.035)
    assert float(spectrum[0]) < 0.92
    summed = torch.full((1, side, side), rate * frames)
    assert float(lose_coincidences(summed, area, frames).mean()) == pytest.approx(
        kept / arrived * rate * frames, rel=0.01
    )


def test_gaussian_dip_stands_in_for_the_disc():
    area = 5.0
    k = torch.linspace(0.01, 0.25, 25)
    x = 2 * math.pi * k.numpy() * math.sqrt(area / math.pi)
    disc = torch.from_numpy(2 * j1(x) / x).float()
    low = x < 1.5
    torch.testing.assert_close(coincidence_dip(k, area)[low], disc[low], atol=0.02, rtol=0)


def test_the_ideal_detector_leaves_nothing_but_poisson_noise():
    images = record(torch.full((16, N, N), 5.0), Detector.ideal(), generator_for(5))
    torch.testing.assert_close(images, images.round(), atol=1e-4, rtol=0)
    assert float(images.mean()) == pytest.approx(5.0, rel=0.01)
    _, spectrum = noise_spectrum(images)
    torch.testing.assert_close(spectrum, torch.ones_like(spectrum), rtol=0.08, atol=0)


def test_the_gain_pattern_belongs_to_the_session():
    detector = Detector(gain_residue_deviation=0.02, row_residue_deviation=0.03)
    one, same, other = (gain_pattern((64, 80), detector, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert float(one.mean()) == pytest.approx(1.0, abs=1e-4)
    assert float(one.mean(1).std()) == pytest.approx(0.03, rel=0.3)
    assert float(one.mean(0).std()) < 0.01
    assert float((one - one.mean(1, keepdim=True)).std()) == pytest.approx(0.02, rel=0.05)


def test_defects_have_the_asked_frequency_and_effect():
    detector = Detector(hot_fraction=0.01, dead_fraction=0.02, hot_counts=500.0, dead_lines=2, mtf=perfect_mtf)
    hot, dead = defect_masks((N, N), detector, 3)
    assert not bool((hot & dead).any())
    lines = int(dead.all(0).sum() + dead.all(1).sum())
    assert lines == 2
    assert float(hot.float().mean()) == pytest.approx(0.01, rel=0.4)
    image = record(torch.full((2, N, N), 3.0), detector, generator_for(1), session_seed=3)
    assert float(image[:, dead].abs().max()) == 0
    assert float(image[:, hot].min()) >= 500
    more, _ = defect_masks((N, N), Detector(hot_fraction=0.02, dead_fraction=0.02, dead_lines=2), 3)
    assert bool((more | ~hot).all())


def test_curves_pass_through_their_points_and_fall_beyond():
    curve = MtfCurve.from_points(torch.tensor([0.0, 0.25, 0.4, 0.5]), [2.0, 1.6, 1.2, 0.8])
    k = torch.tensor([0.0, 0.25, 0.5, 0.325, 0.7], dtype=torch.float64)
    values = curve(k).tolist()
    assert values[:4] == pytest.approx([1.0, 0.8, 0.4, 0.7])
    assert 0 < values[4] < 0.4
    interior = torch.tensor([0.1, 0.3, 0.45, 0.6], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(curve, (interior,))
    assert hash(curve) == hash(MtfCurve(curve.frequency_in_inverse_pixels, curve.value))


@pytest.mark.parametrize(
    ("frequency", "value"),
    [
        ([0.0], [1.0]),
        ([0.0, 0.5], [1.0]),
        ([0.0, 0.3, 0.2], [1.0, 0.9, 0.8]),
        ([0.1, 0.5], [1.0, 0.5]),
        ([0.0, 1.0], [1.0, 0.5]),
        ([0.0, 0.5], [1.0, float("nan")]),
        ([0.0, 0.5], [1.0, -0.1]),
    ],
)
def test_bad_curves_are_refused_with_a_remedy(frequency: list[float], value: list[float]):
    with pytest.raises(InputError, match=r"MTF curve.*0\.5"):
        MtfCurve.from_points(frequency, value)


def test_bad_detectors_are_refused_by_field():
    with pytest.raises(InputError, match="dqe0"):
        Detector(dqe0=1.5)


@pytest.mark.parametrize("mtf", [perfect_mtf, CountingMtf(), IntegratingMtf()])
def test_analytic_curves_start_at_one_and_do_not_rise(mtf):
    k = torch.linspace(0, 0.7, 71)
    values = mtf(k)
    assert float(values[0]) == 1
    assert bool((values.diff() <= 1e-6).all())
    assert float(values.min()) >= 0


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["mtf_k2_300kV_FL2", "mtf_k3_standard_300kV_FL2", "mtf_falcon4EC_300kV", "mtf_de20_300kV"]
)
def test_measured_curves(name: str):
    path = CURVES / f"{name}.star"
    if not path.exists():
        pytest.skip(f"no measured curve at {path}")
    table = starfile.read(path)
    detector = Detector().with_mtf(
        torch.tensor(table["rlnResolutionInversePixel"].to_numpy()), torch.tensor(table["rlnMtfValue"].to_numpy())
    )
    k = torch.linspace(0, 0.71, 200)
    values = detector.mtf(k)
    assert float(values[0]) == pytest.approx(1.0)
    assert bool(((values >= 0) & (values < 1.1)).all())
    assert bool((values[k > 0.5].diff() <= 0).all())
    assert 0.05 < float(detector.mtf(torch.tensor([0.5]))) < 0.75


@pytest.mark.real
def test_the_default_curve_stands_among_the_measured_counting_detectors():
    names = ("mtf_k2_300kV_FL2", "mtf_k3_standard_300kV_FL2", "mtf_falcon4EC_300kV", "mtf_falcon3EC_300kV")
    if not all((CURVES / f"{name}.star").exists() for name in names):
        pytest.skip(f"no measured curves in {CURVES}")
    k = torch.tensor([0.125, 0.25, 0.375, 0.5])
    measured = []
    for name in names:
        table = starfile.read(CURVES / f"{name}.star")
        curve = MtfCurve.from_points(
            table["rlnResolutionInversePixel"].to_numpy().tolist(), table["rlnMtfValue"].to_numpy().tolist()
        )
        measured.append(curve(k))
    low, high = torch.stack(measured).amin(0), torch.stack(measured).amax(0)
    default = CountingMtf()(k)
    assert bool(((default > low - 0.05) & (default < high + 0.05)).all()), (default, low, high)
