"""From distances to probabilities: the law that is fitted, the crowd, 3Di states, the size of the index."""

import numpy as np
import pytest
from scipy.stats import norm

from cryoprism.core import InputError
from cryoprism.evaluation.novelty import (
    AROUND,
    DESCRIPTOR,
    Calibration,
    Crowd,
    StatePairs,
    fit_calibration,
    known_probability,
    shipped_calibration,
)


def drawn_world(seed=0, proteins=60, copies=20, others=400):
    """Distances of views by a t law about ln 0.05, of strangers by a normal law about ln 0.8, crowds of shape 2."""
    rng = np.random.default_rng(seed)
    same, different = [], []
    for _ in range(proteins):
        same.append(np.exp(np.log(0.05) + 0.3 * rng.standard_t(5, copies)) - 0.005)
        crowd = rng.gamma(2.0, 0.5)
        # A crowd of 2 has twice as many below each distance: every rank is half as far down.
        share = np.minimum(rng.random((copies, others)) / crowd, 0.999)
        different.append(np.exp(np.log(0.8) + 0.4 * norm.ppf(share)))
    return same, different


def test_the_law_that_drew_them_is_found_again():
    same, different = drawn_world()
    law = fit_calibration([np.maximum(d, 1e-4) for d in same], different, resolution_in_angstroms=10.0, draws=10)
    location, log_spread, strange, strange_spread, _, crowding, *states = law.coefficients
    assert location == pytest.approx(np.log(0.05), abs=0.03)
    assert np.exp(log_spread) == pytest.approx(0.3, rel=0.1)
    assert strange == pytest.approx(np.log(0.8), abs=0.1)
    assert np.exp(strange_spread) == pytest.approx(0.4, rel=0.15)
    assert crowding == pytest.approx(2.0, rel=0.5)
    assert states == [0.0, 0.0]
    assert not law.uses_states
    assert 0 < law.draws[:, 0].std() < 0.1


def test_a_crowded_neighbourhood_makes_a_near_stranger_less_telling():
    law = shipped_calibration()
    d = np.array([0.1])
    expected = 100 * law.coefficients[4]
    empty, usual, crowded = (
        law.log_ratio(d, None, Crowd(round(count), 100))[0] for count in (0, expected, min(100, 3 * expected))
    )
    assert empty > usual > crowded
    assert usual == pytest.approx(law.log_ratio(d)[0], abs=0.05)
    # The posterior mean of the crowd: its prior counts as much as ``crowding`` expected strangers.
    prior = law.coefficients[5]
    assert empty - law.log_ratio(d)[0] == pytest.approx(-np.log(prior / (expected + prior)))


def test_a_crowd_is_counted_beyond_where_views_of_one_molecule_lie():
    inside = np.linspace(*AROUND, 7)[:-1]
    assert Crowd.of(np.concatenate([[0.0, 0.1, AROUND[1], 2.0], inside])) == Crowd(6, 10)


def test_states_move_the_ratio_up_and_down_but_not_without_bound():
    rng = np.random.default_rng(1)
    same, different = drawn_world(1)
    pairs = []
    for _ in range(40):
        alike, unlike = rng.uniform(0.8, 1.0, 6), rng.uniform(0.2, 0.8, 40)
        d = np.exp(rng.normal(np.log(0.05), 0.3, 6)), rng.uniform(0.2, 0.8, 40)
        pairs.append(StatePairs(np.stack([d[0], alike], -1), np.stack([d[1], unlike], -1)))
    same = [np.maximum(d, 1e-4) for d in same]
    law = fit_calibration(same, different, states=pairs, resolution_in_angstroms=10.0, draws=2)
    assert law.uses_states
    d = np.full(3, 0.12)
    moved = law.log_ratio(d, np.array([0.97, 0.3, np.nan])) - law.log_ratio(d)
    assert moved[0] > 0.5
    assert moved[1] < -1
    assert moved[2] == 0  # a map has no states
    assert np.abs(moved).max() <= np.log(20) + 1e-9
    # Where similarity says nothing of the protein it is not believed.
    mixed = [
        StatePairs(
            one.same * [1, 0] + [0, 0.6] + np.stack([np.zeros(6), rng.normal(0, 0.1, 6)], -1),
            one.different * [1, 0] + [0, 0.6] + np.stack([np.zeros(40), rng.normal(0, 0.1, 40)], -1),
        )
        for one in pairs
    ]
    blind = fit_calibration(same, different, states=mixed, resolution_in_angstroms=10.0, draws=0)
    assert abs(blind.coefficients[7]) < 0.5 * law.coefficients[7]


def test_the_probability_counts_the_size_of_the_index_in():
    ratios = np.log([100.0])
    assert known_probability(ratios, 1, 0.5) == pytest.approx(100 / 101)
    assert known_probability(ratios, 100, 0.5) == pytest.approx(0.5)
    assert known_probability(ratios, 10_000, 0.5) == pytest.approx(0.01 / 1.01)
    assert known_probability(np.log([50.0, 50.0]), 100, 0.5) == pytest.approx(0.5)
    assert known_probability(ratios, 100, 0.1) == pytest.approx(0.1)
    assert known_probability(np.array([]), 10, 0.5) == 0.0
    assert known_probability(np.array([2000.0]), 10, 0.5) == pytest.approx(1.0)


def test_the_error_of_a_large_index_is_that_which_was_measured():
    shipped = shipped_calibration()
    assert shipped.error(100_000) == pytest.approx(0.149)
    assert shipped.error(10_000) < shipped.error(300_000) < shipped.error(10**6) == shipped.error(10**8)


def test_the_shipped_calibration_is_one_of_this_descriptor_and_comes_back():
    shipped = shipped_calibration()
    assert shipped.descriptor == DESCRIPTOR
    assert shipped.uses_states
    # Nearer is likelier, wherever views of one molecule and strangers meet.
    assert np.all(np.diff(shipped.log_ratio(np.linspace(0.02, 0.5, 50))) < 0)
    again = Calibration.from_json(shipped.to_json(), "here")
    np.testing.assert_allclose(again.draws, shipped.draws)
    with pytest.raises(InputError, match="no calibration"):
        Calibration.from_json({**shipped.to_json(), "descriptor": "other"}, "here")
