"""Scores become probabilities, and a session's own scores tell how many of its candidates are particles."""

import math

import pytest
import torch

from cryoprism.core import InputError, generator_for
from cryoprism.particles import Calibration, fit_calibration, threshold_above_null

FLOOR = -9.0
RIGHT, WRONG = (0.5, 1.2), (-5.0, 1.2)  # mean and deviation of the scores


def candidates(share, count=6000, seed=0):
    """Scores of two normal distributions of the same width, whose log-odds are a straight line."""
    g = generator_for(seed, "candidates")
    right = torch.rand(count, generator=g) < share
    mean = torch.where(right, RIGHT[0], WRONG[0])
    return (mean + RIGHT[1] * torch.randn(count, generator=g)).clamp_min(FLOOR), right


def even(share):
    """Score of even odds, in closed form."""
    middle, gap, variance = 0.5 * (RIGHT[0] + WRONG[0]), RIGHT[0] - WRONG[0], RIGHT[1] ** 2
    return middle - variance / gap * math.log(share / (1 - share))


@pytest.fixture(scope="module")
def calibration():
    return fit_calibration(*candidates(0.25), FLOOR)


def test_the_fit_finds_the_line_of_log_odds(calibration):
    slope = (RIGHT[0] - WRONG[0]) / RIGHT[1] ** 2
    assert calibration.slope == pytest.approx(slope, rel=0.08)
    assert calibration.threshold(calibration.share) == pytest.approx(even(calibration.share), abs=0.1)
    assert calibration.share == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("share", [0.05, 0.25, 0.6, 0.95])
def test_the_share_is_found_without_a_label(calibration, share):
    scores, right = candidates(share, seed=1)
    found = calibration.share_of(scores)
    assert found == pytest.approx(float(right.float().mean()), abs=0.01)
    assert calibration.threshold(found) == pytest.approx(even(share), abs=0.15)
    # What it calls a probability is one.
    odds = calibration.log_odds(scores, found)
    band = odds.abs() < 1.0
    expected, counted = float(torch.sigmoid(odds[band]).sum()), float(right[band].sum())
    assert expected == pytest.approx(counted, abs=3 + 0.3 * int(band.sum()))


def test_a_session_without_particles_gets_a_threshold_that_next_to_nothing_reaches(calibration):
    scores, _ = candidates(0.0, count=4000, seed=2)
    threshold = calibration.threshold(calibration.share_of(scores))
    before = int((scores >= calibration.threshold(calibration.share)).sum())
    assert before > 10
    assert int((scores >= threshold).sum()) <= 0.2 * before


def test_scores_below_the_floor_do_not_count_and_no_score_is_no_accident(calibration):
    scores, _ = candidates(0.4, seed=3)
    with_rubbish = torch.cat([scores, torch.full((5000,), FLOOR - 1)])
    assert calibration.share_of(with_rubbish) == calibration.share_of(scores)
    assert math.isfinite(calibration.threshold(calibration.share_of(torch.zeros(0))))


def test_text_keeps_it(calibration):
    read = Calibration.from_text(calibration.to_text())
    assert read.threshold(0.5) == pytest.approx(calibration.threshold(0.5), abs=1e-3)
    for text in ("", "[1]", '{"slope": 1}', '{"slope": "x", "offset": 0, "share": 0.5, "floor": -9}'):
        with pytest.raises(InputError, match="calibration"):
            Calibration.from_text(text)


def test_separable_scores_give_a_finite_slope_and_useless_ones_are_refused():
    scores, right = torch.tensor([-3.0, -2.0, 2.0, 3.0]), torch.tensor([False, False, True, True])
    assert 0 < fit_calibration(scores, right, FLOOR).slope < 5
    with pytest.raises(InputError, match="4 of 4"):
        fit_calibration(scores, torch.ones(4, dtype=torch.bool), FLOOR)
    with pytest.raises(InputError, match="right from wrong"):
        fit_calibration(scores, ~right, FLOOR)


def test_picks_have_to_outnumber_those_of_the_null():
    scores = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.5, -3.0])
    assert threshold_above_null(scores, torch.tensor([-2.0]), 0.0, 0.5) == 0.0
    # Three of the null among six: half, which will do. Four are too many; from 1 on there are two among five.
    assert threshold_above_null(scores, torch.tensor([0.1, 0.2, 2.5]), 0.0, 0.5) == 0.0
    assert threshold_above_null(scores, torch.tensor([0.6, 0.7, 1.1, 2.5]), 0.0, 0.5) == 1.0
    assert threshold_above_null(scores, torch.full((9,), 6.0), 0.0, 0.5) == math.inf
    # With one more in the null than there are, five picks are needed at a fifth.
    assert threshold_above_null(scores, torch.zeros(0), 0.0, 0.2, surplus=1) == 0.0
    assert threshold_above_null(scores, torch.zeros(0), 1.5, 0.2, surplus=1) == math.inf
    assert threshold_above_null(torch.zeros(0), torch.zeros(0), 0.0, 0.2, surplus=1) == math.inf


def test_noise_seldom_outnumbers_its_own_null():
    """Scores and null from one distribution: with the surplus they pass in no more than the rate of all sessions."""
    passed = 0
    for seed in range(200):
        draws = torch.randn(2, 50, generator=generator_for(seed, "exchangeable"))
        passed += math.isfinite(threshold_above_null(draws[0], draws[1], 0.0, 0.2, surplus=1))
    assert passed <= 0.2 * 200
