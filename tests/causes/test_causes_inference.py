"""The posterior: recovery, honest intervals, priors, misfit, drift, determinism."""

import math
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from drawn_spectra import (
    LENS,
    PIXEL,
    angle_between,
    axis_vector,
    blank,
    drawn,
    estimate_of,
    micrograph,
    model_of,
    parameters,
)

from cryoprism.causes import Fit, default_prior, estimate_causes, measure_spectrum
from cryoprism.causes.inference import drift_starts, fit_spectrum
from cryoprism.causes.model import LAYOUT

_DRAWS = 60


def _truth() -> torch.Tensor:
    return parameters(astigmatism_c=2.0, astigmatism_s=1.5)


@lru_cache(maxsize=1)
def _fits() -> tuple[Fit, ...]:
    base, theta = blank(), _truth()
    model = model_of(base)
    return tuple(
        fit_spectrum(drawn(model, theta, base, seed), model, default_prior(), [theta], 1.0, misfit=False)
        for seed in range(_DRAWS)
    )


@pytest.mark.parametrize("name", ["defocus", "astigmatism_c", "astigmatism_s"])
def test_intervals_hold_the_truth_as_often_as_they_say(name):
    truth = float(_truth()[LAYOUT.index(name)])
    pull = torch.tensor([(fit.value(name) - truth) / fit.deviation(name) for fit in _fits()])
    inside = int((pull.abs() < 1).sum())
    # Binomial: 41 ± 3.6 of 60; three standard deviations to either side.
    assert 30 <= inside <= 52
    assert abs(float(pull.mean())) < 3.5 / math.sqrt(_DRAWS)
    assert int((pull.abs() < 3).sum()) >= _DRAWS - 2


def test_intervals_are_as_wide_as_the_scatter():
    values = torch.tensor([[fit.value(n) for n in ("defocus", "astigmatism_c", "astigmatism_s")] for fit in _fits()])
    stated = torch.tensor(
        [[fit.deviation(n) for n in ("defocus", "astigmatism_c", "astigmatism_s")] for fit in _fits()]
    )
    ratio = values.std(0) / stated.mean(0)
    # The standard deviation from 60 draws is known to 9 %.
    assert ((ratio > 0.7) & (ratio < 1.35)).all()


def test_coloured_images_give_honest_defocus_all_the_way_from_pixels():
    truth = 15000.0
    estimates = [estimate_causes(measure_spectrum(micrograph(seed, signal=2.0), PIXEL), LENS) for seed in range(20)]
    pull = torch.tensor(
        [(e.fit.value("defocus") * 100 - truth) / e.ctf.defocus_deviation_in_angstroms for e in estimates]
    )
    assert float(pull.abs().max()) < 5
    assert float(pull.square().mean()) < 2.5
    assert int((pull.abs() < 1).sum()) >= 7


def test_search_and_fit_recover_a_drawn_spectrum():
    theta = parameters(defocus=212.0, astigmatism_c=-3.0, astigmatism_s=4.0, drift_y=5.0, drift_x=2.0)
    fit = estimate_of(theta, 11).fit
    for name in ("defocus", "astigmatism_c", "astigmatism_s"):
        assert fit.value(name) == pytest.approx(float(theta[LAYOUT.index(name)]), abs=4 * fit.deviation(name))
    sign = math.copysign(1, fit.value("drift_y"))
    assert sign * fit.value("drift_y") == pytest.approx(5, abs=4 * fit.deviation("drift_y"))
    assert sign * fit.value("drift_x") == pytest.approx(2, abs=4 * fit.deviation("drift_x"))


def test_more_data_narrow_the_posterior_as_the_square_root():
    base, theta = blank(), _truth()
    model = model_of(base)
    few, many = (
        fit_spectrum(
            drawn(model, theta, replace(base, freedom=base.freedom * times), 3),
            model,
            default_prior(),
            [theta],
            1.0,
            misfit=False,
            freedom=base.freedom * times,
        )
        for times in (1, 16)
    )
    assert many.deviation("defocus") == pytest.approx(few.deviation("defocus") / 4, rel=0.15)


def test_without_data_the_posterior_is_the_prior():
    base = blank()
    model = model_of(base)
    prior = default_prior().with_marginal("defocus", 170.0, 3.0)
    fit = fit_spectrum(
        drawn(model, _truth(), base, 1), model, prior, [_truth()], 1.0, misfit=False, freedom=base.freedom * 1e-9
    )
    torch.testing.assert_close(fit.theta[:9], prior.mean[:9], atol=1e-2, rtol=1e-3)
    assert fit.deviation("defocus") == pytest.approx(3.0, rel=1e-3)
    assert fit.deviation("drift_x") == pytest.approx(4.0, rel=1e-3)


def test_a_sharp_wrong_prior_pulls_and_a_wide_one_does_not():
    base, theta = blank(), _truth()
    model = model_of(base)
    spectrum = drawn(model, theta, base, 2)
    wide, sharp = (
        fit_spectrum(spectrum, model, default_prior().with_marginal("b_factor", 9.0, sd), [theta], 1.0, misfit=False)
        for sd in (100.0, 0.01)
    )
    assert sharp.value("b_factor") == pytest.approx(9.0, abs=0.1)
    assert abs(wide.value("b_factor") - 4) < 4 * wide.deviation("b_factor")
    assert wide.deviation("b_factor") > 20 * sharp.deviation("b_factor")


def test_with_marginal_changes_one_parameter_only():
    prior = default_prior()
    other = prior.with_marginal("b_factor", 7.0, 0.5)
    index = LAYOUT.index("b_factor")
    keep = torch.arange(LAYOUT.size) != index
    assert float(other.mean[index]) == 7.0
    assert float(other.standard_deviation[index]) == pytest.approx(0.5)
    torch.testing.assert_close(other.standard_deviation[keep], prior.standard_deviation[keep])
    assert float(prior.mean[index]) == 4.0
    values = torch.linalg.eigvalsh(prior.precision.double())
    assert values.min() > 0


def test_misfit_widens_the_interval_only_where_there_is_misfit():
    base, theta = blank(), _truth()
    model = model_of(base)
    good = drawn(model, theta, base, 5)
    # Fringes of a structure factor that no smooth spline follows.
    fringes = 1 + 0.25 * torch.cos(2 * math.pi * 70 * base.grid.k + 1)[:, None]
    bad = replace(good, power=good.power * fringes)
    width = {
        (name, misfit): fit_spectrum(spectrum, model, default_prior(), [theta], 1.0, misfit=misfit).deviation("defocus")
        for name, spectrum in (("good", good), ("bad", bad))
        for misfit in (False, True)
    }
    assert width["bad", True] > 1.5 * width["bad", False]
    assert width["good", True] < 1.25 * width["good", False]
    assert width["good", True] >= 0.99 * width["good", False]


def test_the_sign_of_a_drift_is_not_determined():
    base, theta = blank(), parameters(drift_y=4.0, drift_x=-3.0)
    model = model_of(base)
    spectrum = drawn(model, theta, base, 6)
    mirrored = theta.clone()
    both = [LAYOUT.index("drift_y"), LAYOUT.index("drift_x")]
    mirrored[both] = -mirrored[both]
    first, second = (
        fit_spectrum(spectrum, model, default_prior(), [start], 1.0, misfit=False) for start in (theta, mirrored)
    )
    assert first.objective == pytest.approx(second.objective, abs=0.05)
    torch.testing.assert_close(first.theta[both], -second.theta[both], atol=0.05, rtol=0)
    assert first.deviation("drift_y") == pytest.approx(second.deviation("drift_y"), rel=0.02)


@pytest.mark.parametrize("degrees", [7.0, 40.0, 75.0, 100.0, 130.0, 170.0])
def test_a_drift_of_six_angstroms_is_found_in_any_direction(degrees):
    spectrum = measure_spectrum(micrograph(int(degrees), drift=axis_vector(6.0, degrees)), PIXEL)
    y, x = estimate_causes(spectrum, LENS).drift_in_angstroms
    assert math.hypot(y, x) == pytest.approx(6, abs=0.6)
    assert angle_between(math.degrees(math.atan2(y, x)), degrees) < 5


def test_drift_starts_keep_the_given_start_first_and_point_along_the_drift():
    base = blank()
    model = model_of(base)
    spectrum = drawn(model, parameters(drift_y=6.0), base, 8)
    start = parameters()
    found = drift_starts(spectrum, model, start, 1.0, count=2)
    assert torch.equal(found[0], start)
    assert len(found) == 3
    y, x = (float(found[1][LAYOUT.index(name)]) for name in ("drift_y", "drift_x"))
    assert angle_between(math.degrees(math.atan2(y, x)), 90.0) <= 15
    assert torch.equal(drift_starts(spectrum, model, start, 1.0, count=0)[0], start)


def test_the_best_of_several_starts_wins():
    base, theta = blank(), parameters(drift_y=6.0)
    model = model_of(base)
    spectrum = drawn(model, theta, base, 8)
    lost = theta.clone()
    lost[0] = 100.0
    alone = fit_spectrum(spectrum, model, default_prior(), [lost], 1.0, misfit=False)
    both = fit_spectrum(spectrum, model, default_prior(), [lost, theta], 1.0, misfit=False)
    assert both.objective < alone.objective
    assert both.value("defocus") == pytest.approx(150, abs=4 * both.deviation("defocus"))


def test_estimates_are_repeatable_to_the_bit_and_leave_the_spectrum_alone():
    spectrum = measure_spectrum(micrograph(5), PIXEL)
    before = spectrum.power.clone()
    first, second = (estimate_causes(spectrum, LENS) for _ in range(2))
    assert torch.equal(first.fit.theta, second.fit.theta)
    assert torch.equal(first.fit.covariance, second.fit.covariance)
    assert torch.equal(spectrum.power, before)


def test_posterior_samples_have_its_mean_and_covariance():
    fit = _fits()[0]
    draws = fit.samples(4000, torch.Generator().manual_seed(1))
    sd = fit.covariance.diagonal().sqrt()
    assert ((draws.mean(0) - fit.theta).abs() < 5 * sd / math.sqrt(4000) + 1e-6).all()
    torch.testing.assert_close(draws.std(0), sd, rtol=0.08, atol=1e-6)
    again = fit.samples(4000, torch.Generator().manual_seed(1))
    assert torch.equal(draws, again)
    index = [0, LAYOUT.index("b_factor"), LAYOUT.signal.stop - 3]
    wanted = fit.covariance[index][:, index]
    found = torch.cov((draws - fit.theta)[:, index].T)
    scale = (wanted.diagonal()[:, None] * wanted.diagonal()[None]).sqrt()
    assert ((found - wanted) / scale).abs().max() < 0.1


def test_grey_units_do_not_change_the_causes():
    one, other = (estimate_causes(measure_spectrum(grey * micrograph(7), PIXEL), LENS) for grey in (1.0, 250.0))
    assert one.fit.value("defocus") == pytest.approx(other.fit.value("defocus"), abs=0.2 * one.fit.deviation("defocus"))
    assert one.b_factor_in_square_angstroms == pytest.approx(other.b_factor_in_square_angstroms, abs=2)
    assert other.scale == pytest.approx(250**2 * one.scale, rel=1e-3)
