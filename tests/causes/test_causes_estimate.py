"""Estimates as RELION writes them, abstention, and the fitted model that restoration works with."""

import math
from dataclasses import replace

import pytest
import torch
from drawn_spectra import LENS, PIXEL, angle_between, blank, drawn, estimate_of, micrograph, model_of, parameters, white

from cryoprism.causes import (
    CAUSES,
    Circumstances,
    SearchRange,
    abstentions,
    default_prior,
    estimate_causes,
    fitted_spectrum,
    measure_spectrum,
    refit,
    with_known,
)
from cryoprism.microscope.optics import contrast_transfer


@pytest.mark.parametrize(
    ("u", "v", "angle"),
    [(16000.0, 15000.0, 20.0), (12000.0, 11500.0, 95.0), (22000.0, 20500.0, 178.0), (9000.0, 8000.0, 45.0)],
)
def test_defocus_axes_and_angle_follow_relion(u, v, angle):
    ctf = estimate_causes(measure_spectrum(micrograph(int(angle), defocus=(u, v, angle)), PIXEL), LENS).ctf
    assert ctf.defocus_u_in_angstroms >= ctf.defocus_v_in_angstroms
    assert 0 <= ctf.defocus_angle_in_degrees < 180
    assert ctf.defocus_u_in_angstroms == pytest.approx(u, abs=25)
    assert ctf.defocus_v_in_angstroms == pytest.approx(v, abs=25)
    assert angle_between(ctf.defocus_angle_in_degrees, angle) < 2
    assert angle_between(ctf.defocus_angle_in_degrees, angle) < 5 * ctf.angle_deviation_in_degrees
    assert ctf.phase_shift_in_degrees == 0
    assert 0 < ctf.defocus_deviation_in_angstroms < 20


def test_swapped_axes_are_put_in_order():
    # V > U at 20° is U > V at 110°.
    ctf = estimate_causes(measure_spectrum(micrograph(1, defocus=(15000.0, 16000.0, 20.0)), PIXEL), LENS).ctf
    assert ctf.defocus_u_in_angstroms > ctf.defocus_v_in_angstroms
    assert angle_between(ctf.defocus_angle_in_degrees, 110.0) < 2


def test_a_round_lens_leaves_the_angle_open():
    ctf = estimate_causes(measure_spectrum(micrograph(2), PIXEL), LENS).ctf
    assert ctf.defocus_u_in_angstroms - ctf.defocus_v_in_angstroms < 30
    assert ctf.angle_deviation_in_degrees > 5


@pytest.mark.parametrize("phase_shift", [50.0, 120.0])
def test_phase_plate_mode(phase_shift):
    spectrum = measure_spectrum(micrograph(3, defocus=12000.0, phase_shift=phase_shift), PIXEL)
    ctf = estimate_causes(spectrum, LENS, search=SearchRange(phase_plate=True)).ctf
    assert ctf.phase_shift_in_degrees == pytest.approx(phase_shift, abs=3)
    assert 0.05 < ctf.phase_shift_deviation_in_degrees < 5
    assert ctf.defocus_u_in_angstroms == pytest.approx(12000, abs=40)


def test_the_limit_grows_coarser_as_rings_drown():
    limits = [
        estimate_causes(measure_spectrum(micrograph(4, signal=signal), PIXEL), LENS).rings.limit_in_angstroms
        for signal in (8.0, 0.8, 0.3)
    ]
    assert 2 * PIXEL < limits[0] < limits[1] < limits[2] < 15


def test_pure_noise_shows_no_rings():
    rings = [estimate_causes(measure_spectrum(white((768, 768), seed), PIXEL), LENS).rings for seed in range(16)]
    assert not any(one.detected for one in rings)
    assert all(one.figure_of_merit < 0.2 for one in rings)
    assert all(math.isinf(one.limit_in_angstroms) for one in rings)


def test_a_field_of_one_tile_has_no_halves_to_compare():
    estimate = estimate_causes(measure_spectrum(white((512, 512), 3), PIXEL), LENS)
    assert estimate.spectrum.tiles == 1
    assert not torch.isfinite(estimate.halves).all()


def test_random_phases_keep_the_rings_which_live_in_the_power_alone():
    # A negative control that cannot be one: exchanging all phases leaves the periodogram of an image as it was.
    image = micrograph(6)
    phases = torch.angle(torch.fft.rfft2(white(tuple(image.shape), 77)))
    shuffled = torch.fft.irfft2(torch.polar(torch.fft.rfft2(image).abs(), phases), s=image.shape)
    first, second = (estimate_causes(measure_spectrum(one, PIXEL), LENS) for one in (image, shuffled))
    assert second.rings.detected
    joint = math.hypot(first.fit.deviation("defocus"), second.fit.deviation("defocus"))
    assert abs(first.fit.value("defocus") - second.fit.value("defocus")) < 4 * joint


def test_refitting_under_the_same_prior_moves_nothing():
    first = estimate_causes(measure_spectrum(micrograph(5), PIXEL), LENS)
    second = refit(first, default_prior())
    for name in ("defocus", "astigmatism_c", "b_factor", "drift_y"):
        assert abs(first.fit.value(name) - second.fit.value(name)) < 0.2 * first.fit.deviation(name)


def test_new_circumstances_change_the_thickness_and_nothing_else():
    first = estimate_of(parameters(), 1)
    second = with_known(first, Circumstances(mean_intensity=90.0, incident_intensity=100.0))
    assert first.thickness is None
    assert second.thickness is not None
    assert torch.equal(first.fit.theta, second.fit.theta)
    assert replace(second, known=first.known, thickness=None).ctf == first.ctf


def test_noise_is_abstained_on_and_so_is_what_nobody_stated():
    noise = next(
        estimate
        for estimate in (estimate_causes(measure_spectrum(white((768, 768), s), PIXEL), LENS) for s in range(9))
        if not estimate.rings.detected
    )
    reasons = abstentions(noise)
    assert {"defocus", "astigmatism", "motion", "envelope", "tilt"} <= set(reasons)
    assert {"ice_thickness", "damage", "exposure", "detector", "coherence", "beam_tilt"} <= set(reasons)
    assert list(reasons) == [name for name in CAUSES if name in reasons]
    assert all(reasons.values())


def test_what_is_clear_is_not_abstained_on():
    known = Circumstances(
        exposure_in_electrons_per_square_angstrom=40.0,
        mean_intensity=90.0,
        incident_intensity=100.0,
        mtf_squared=(torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.3])),
        focal_spread_in_angstroms=50.0,
    )
    spectrum = measure_spectrum(micrograph(9, drift=(6.0, 2.0), defocus=(15500.0, 15000.0, 40.0)), PIXEL)
    reasons = abstentions(estimate_causes(spectrum, LENS, known))
    for name in ("defocus", "astigmatism", "motion", "ice_thickness", "damage", "exposure", "detector", "coherence"):
        assert name not in reasons
    still = abstentions(estimate_causes(measure_spectrum(micrograph(9), PIXEL), LENS, known))
    assert "motion" in still
    assert {"beam_tilt", "heterogeneity", "crowding", "coincidence"} <= set(still)


def test_crystals_cannot_be_seen_beyond_nyquist():
    coarse = estimate_causes(measure_spectrum(white((512, 512), 1), 2.8), LENS)
    assert "crystalline_ice" in abstentions(coarse)
    assert "crystalline_ice" not in abstentions(estimate_of(parameters(), 1))


def _frequencies() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.fft.fftfreq(96, PIXEL)[:, None], torch.fft.rfftfreq(96, PIXEL)[None, :]


def test_the_fitted_model_is_what_restoration_asks_for():
    estimate = estimate_causes(measure_spectrum(micrograph(3, defocus=(16000.0, 15400.0, 30.0), grey=5.0), PIXEL), LENS)
    model = fitted_spectrum(estimate)
    ky, kx = _frequencies()
    zero = torch.zeros(1, 1)
    assert model.pixel_size_in_angstroms == PIXEL
    assert float(model.transfer(zero, zero)) == pytest.approx(LENS.amplitude_contrast, abs=1e-5)
    assert float(model.envelope(zero, zero)) == pytest.approx(1, abs=1e-6)
    for values in (model.transfer(ky, kx), model.signal_power(ky, kx), model.noise_power(ky, kx)):
        assert values.shape == (96, 49)
        assert torch.isfinite(values).all()
    assert (model.signal_power(ky, kx) > 0).all()
    assert (model.noise_power(ky, kx) > 0).all()
    ctf = estimate.ctf
    transfer = contrast_transfer(
        ky,
        kx,
        LENS,
        defocus_u_in_angstroms=ctf.defocus_u_in_angstroms,
        defocus_v_in_angstroms=ctf.defocus_v_in_angstroms,
        defocus_angle_in_degrees=ctf.defocus_angle_in_degrees,
    )
    torch.testing.assert_close(model.transfer(ky, kx), transfer * model.envelope(ky, kx))
    # H² S + N is the spectrum in grey units, where a ring or more is averaged: the tile's window smears their contrast.
    grid = estimate.spectrum.grid
    predicted = model.transfer(grid.ky, grid.kx) ** 2 * model.signal_power(grid.ky, grid.kx)
    predicted = predicted + model.noise_power(grid.ky, grid.kx)
    shells = len(grid.k) // 25 * 25
    seen = estimate.spectrum.power[:shells].reshape(-1, 25 * grid.ky.shape[1]).mean(1)
    torch.testing.assert_close(predicted[:shells].reshape(len(seen), -1).mean(1), seen, rtol=0.06, atol=0)
    assert model.lowest_fitted_frequency == pytest.approx(float(grid.k[0]))


def test_a_defocus_offset_moves_both_axes_and_leaves_the_rest():
    model = fitted_spectrum(estimate_of(parameters(astigmatism_c=3.0), 4))
    moved = model.with_defocus_offset(-700.0)
    assert moved.defocus_u_in_angstroms == pytest.approx(model.defocus_u_in_angstroms - 700)
    assert moved.defocus_v_in_angstroms == pytest.approx(model.defocus_v_in_angstroms - 700)
    assert moved.local_defocus_plane()[0] == pytest.approx(model.local_defocus_plane()[0] - 700)
    ky, kx = _frequencies()
    assert torch.equal(moved.noise_power(ky, kx), model.noise_power(ky, kx))
    assert torch.equal(moved.envelope(ky, kx), model.envelope(ky, kx))
    assert not torch.equal(moved.transfer(ky, kx), model.transfer(ky, kx))
    torch.testing.assert_close(
        moved.with_defocus_offset(700.0).transfer(ky, kx), model.transfer(ky, kx), atol=1e-4, rtol=0
    )


def test_without_rings_there_is_no_signal_to_restore():
    base = blank()
    flat = drawn(model_of(base), parameters(signal=-60.0, ice_level=-60.0), base, 1)
    estimate = estimate_causes(flat, LENS)
    silent = replace(estimate, rings=replace(estimate.rings, detected=False))
    model = fitted_spectrum(silent)
    ky, kx = _frequencies()
    assert model.signal_power(ky, kx).max() < 1e-30
    k = torch.sqrt(ky**2 + kx**2)
    inside = (k > 0.05) & (k < 0.3)
    # Drawn noise is white with power one: so is what is fitted.
    assert float(model.noise_power(ky, kx)[inside].mean()) == pytest.approx(1, abs=0.15)


def test_known_blur_goes_into_the_envelope_and_leaves_the_signal():
    theta = parameters()
    plain = fitted_spectrum(estimate_of(theta, 2))
    known = Circumstances(mtf_squared=(torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.25])))
    blurred = fitted_spectrum(estimate_of(theta, 2, known=known))
    ky, kx = torch.tensor([[0.0]]), torch.tensor([[0.05, 0.1, 0.2]])
    # A line from 1 to ¼ in MTF² over half a cycle per pixel; amplitudes carry its root.
    root = (1 - 1.5 * kx * PIXEL).sqrt()
    b = blurred.b_factor_in_square_angstroms, plain.b_factor_in_square_angstroms
    ratio = blurred.envelope(ky, kx) / torch.exp(-max(b[0], 0.0) / 4 * kx**2)
    drift = [torch.sinc(kx * model.drift_in_angstroms[1]) for model in (blurred, plain)]
    torch.testing.assert_close(ratio / drift[0], root, rtol=5e-3, atol=0)
    torch.testing.assert_close(
        plain.envelope(ky, kx) / drift[1], torch.exp(-max(b[1], 0.0) / 4 * kx**2), rtol=1e-4, atol=0
    )
