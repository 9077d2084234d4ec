"""From a score map to coordinates: sub-pixel maxima, suppression, edges, artefacts, thresholds from a null."""

import math

import numpy as np
import pytest
import torch

from cryoprism.core import InputError, generator_for
from cryoprism.particles import (
    Picks,
    at_least,
    outside_artefacts,
    pick_from_score_map,
    suppress_neighbours,
    surviving_null,
    threshold_for_false_discoveries,
    within_field,
    without_small_contamination,
)
from cryoprism.restoration import LABELS, ArtefactMask


def bumps(shape, centres, heights, width=3.0):
    y, x = torch.meshgrid(*(torch.arange(n).float() for n in shape), indexing="ij")
    total = torch.zeros(shape)
    for (cx, cy), height in zip(centres, heights, strict=True):
        total = torch.maximum(total, height * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2)))
    return total


def some_picks(count=400, seed=0, size=300.0):
    g = generator_for(seed, "picks")
    return Picks(torch.rand(count, 2, generator=g, dtype=torch.float64) * size, torch.rand(count, generator=g))


def test_maxima_are_found_between_pixels_in_pixels_of_the_micrograph():
    centres, heights = [(20.3, 31.7), (70.0, 12.4)], [2.0, 3.0]
    found = pick_from_score_map(bumps((60, 90), centres, heights), 6.0, 40.0, 1.0, pixel_size_in_angstroms=1.5)
    expected = torch.tensor([centres[1], centres[0]], dtype=torch.float64) * 4
    torch.testing.assert_close(found.xy_in_pixels, expected, atol=0.15, rtol=0)
    torch.testing.assert_close(found.figure_of_merit, torch.tensor([3.0, 2.0]), atol=0.02, rtol=0)


def test_places_may_come_from_one_map_and_merit_from_another():
    """Two neighbours that are one hill in the merit are kept apart by the score, each with the merit at its place."""
    centres = [(30.0, 20.0), (44.0, 20.0)]
    score, merit = bumps((40, 80), centres, [1.0, 0.8]), bumps((40, 80), [(33.0, 20.0)], [5.0]) - 2.0
    found = pick_from_score_map(score, 1.0, 12.0, -10.0, pixel_size_in_angstroms=1.0, merit_map=merit)
    torch.testing.assert_close(found.xy_in_pixels, torch.tensor(centres).double(), atol=0.3, rtol=0)
    expected = merit[20, [30, 44]]
    torch.testing.assert_close(found.figure_of_merit, expected)
    least = 0.5 * float(expected.sum())
    above = pick_from_score_map(score, 1.0, 12.0, least, pixel_size_in_angstroms=1.0, merit_map=merit)
    assert above.figure_of_merit.tolist() == expected[:1].tolist()


def test_picks_move_to_the_maximum_nearby_but_not_together():
    """Found at the maxima of one map, placed at those of another, two pixels away at most."""
    merit = torch.ones(60, 60)
    score, place = bumps((60, 60), [(20, 20)], [1.0]), bumps((60, 60), [(21.3, 18.7)], [1.0], width=6.0)
    moved = pick_from_score_map(score, 1.0, 5.0, 0.5, pixel_size_in_angstroms=1.0, merit_map=merit, place_map=place)
    nearest = (moved.xy_in_pixels - torch.tensor([21.3, 18.7]).double()).norm(dim=1).min()
    assert float(nearest) < 0.1
    far = bumps((60, 60), [(29, 20)], [1.0], width=8.0)
    moved = pick_from_score_map(score, 1.0, 5.0, 0.9, pixel_size_in_angstroms=1.0, merit_map=score, place_map=far)
    assert float((moved.xy_in_pixels[0] - torch.tensor([20.0, 20.0]).double()).norm()) <= 2.6
    # Two on either side of one maximum are drawn to it; the better goes, the worse stays where it was.
    score = bumps((60, 60), [(20, 20), (27, 20)], [1.0, 0.9], width=1.0)
    place = bumps((60, 60), [(23.5, 20)], [1.0], width=6.0)
    moved = pick_from_score_map(score, 1.0, 5.0, 0.5, pixel_size_in_angstroms=1.0, merit_map=score, place_map=place)
    gap = float((moved.xy_in_pixels[0] - moved.xy_in_pixels[1]).norm())
    assert 5.0 <= gap < 7.0 or gap == pytest.approx(7.0, abs=0.1)
    assert len(moved) == 2


def test_axes_may_have_pixels_of_their_own():
    found = pick_from_score_map(
        bumps((60, 90), [(70.0, 20.0)], [1.0]), (3.0, 2.0), 20.0, 0.5, pixel_size_in_angstroms=1.0
    )
    torch.testing.assert_close(found.xy_in_pixels, torch.tensor([[140.0, 60.0]]).double(), atol=1e-3, rtol=0)


def test_a_maximum_on_the_border_is_kept_as_it_is():
    found = pick_from_score_map(bumps((40, 40), [(0.0, 39.0)], [1.0]), 1.0, 5.0, 0.9, pixel_size_in_angstroms=1.0)
    assert found.xy_in_pixels.tolist() == [[0.0, 39.0]]


def test_a_flat_or_low_map_gives_nothing():
    assert len(pick_from_score_map(torch.zeros(30, 30), 1.0, 5.0, 0.1, pixel_size_in_angstroms=1.0)) == 0


def test_views_and_diameters_travel_with_their_pick():
    score = bumps((40, 60), [(10.0, 20.0), (45.0, 20.0)], [1.0, 2.0])
    views = torch.zeros(40, 60, dtype=torch.int32)
    views[:, 30:] = 1
    angles = torch.tensor([[10.0, 20.0, 30.0], [40.0, 50.0, 60.0]])
    found = pick_from_score_map(
        score,
        1.0,
        10.0,
        0.5,
        pixel_size_in_angstroms=1.0,
        view_map=views,
        view_angles_in_degrees=angles,
        diameter_map=views * 10.0,
    )
    assert found.angles_in_degrees.tolist() == [[40.0, 50.0, 60.0], [10.0, 20.0, 30.0]]
    assert found.diameter_in_angstroms.tolist() == [10.0, 0.0]


@pytest.mark.parametrize("distance", [0.5, 7.0, 40.0, 1000.0])
def test_suppression_is_the_sequential_rule(distance):
    picks = some_picks()
    xy, score = picks.xy_in_pixels.numpy(), picks.figure_of_merit.numpy()
    kept: list[int] = []
    for i in np.argsort(-score, kind="stable"):
        if all(np.hypot(*(xy[i] - xy[j])) >= distance for j in kept):
            kept.append(int(i))
    got = suppress_neighbours(picks, distance)
    assert torch.equal(got.xy_in_pixels, picks.xy_in_pixels[kept])
    assert torch.equal(got.figure_of_merit, picks.figure_of_merit[kept])


def test_edges_are_left_out():
    picks = Picks(torch.tensor([[9.9, 50.0], [10.0, 50.0], [50.0, 29.0], [50.0, 29.1]]).double(), torch.ones(4))
    kept = within_field(picks, (61, 100), 10.0)
    assert kept.xy_in_pixels[:, 0].tolist() == [10.0, 50.0, 50.0]
    assert len(within_field(picks, (40, 100), 10.0)) == 1


@pytest.mark.parametrize("resolution", [(100, 120), (25, 30)])
def test_picks_on_artefacts_are_left_out(resolution):
    labels = torch.zeros(resolution, dtype=torch.uint8)
    labels[:, resolution[1] // 2 :] = LABELS["carbon"]  # the right half: x from 60
    mask = ArtefactMask(labels, (100, 120))
    picks = Picks(torch.tensor([[20.0, 50.0], [52.0, 50.0], [58.5, 50.0], [70.0, 50.0]]).double(), torch.ones(4))
    xs = outside_artefacts(picks, mask, (100, 120), 12.0, largest_fraction=0.1).xy_in_pixels[:, 0].tolist()
    assert xs == [20.0]
    xs = outside_artefacts(picks, mask, (100, 120), 12.0, largest_fraction=0.3).xy_in_pixels[:, 0].tolist()
    assert xs == [20.0, 52.0]
    xs = outside_artefacts(picks, labels, (100, 120), 12.0, largest_fraction=1.0).xy_in_pixels[:, 0].tolist()
    assert 70.0 not in xs
    assert 20.0 in xs


def test_single_defects_do_no_harm():
    labels = torch.full((40, 40), LABELS["defect"], dtype=torch.uint8)
    picks = Picks(torch.tensor([[20.0, 20.0]]).double(), torch.ones(1))
    assert len(outside_artefacts(picks, labels, (40, 40), 5.0)) == 1


def test_null_picks_lose_to_better_neighbours_only():
    data = Picks(torch.tensor([[10.0, 10.0], [50.0, 50.0]]).double(), torch.tensor([3.0, 1.0]))
    null = Picks(torch.tensor([[12.0, 10.0], [51.0, 50.0], [90.0, 90.0]]).double(), torch.tensor([2.0, 2.0, 0.5]))
    assert surviving_null(null, data, 5.0).tolist() == [2.0, 0.5]


def test_the_threshold_keeps_its_promise():
    """Scores of a mixture with a known share of noise: the true share of false picks is what was asked for."""
    g = generator_for(1, "scores")
    noise, signal = torch.randn(4000, generator=g), 3.5 + torch.randn(1000, generator=g)
    null = torch.randn(4000, generator=g)
    for rate in (0.02, 0.1):
        threshold = threshold_for_false_discoveries(torch.cat([noise, signal]), null, rate)
        false, true = int((noise >= threshold).sum()), int((signal >= threshold).sum())
        assert false / (false + true) == pytest.approx(rate, abs=0.5 * rate)
        assert true > 700


def test_noise_alone_gives_no_threshold():
    g = generator_for(2, "scores")
    scores = torch.randn(3000, generator=g)
    assert math.isinf(threshold_for_false_discoveries(scores, torch.cat([scores + 0.01, scores]), 0.05))
    assert math.isinf(threshold_for_false_discoveries(torch.zeros(0), scores, 0.05))


def test_at_least_includes_the_threshold():
    picks = Picks(torch.zeros(3, 2).double(), torch.tensor([1.0, 2.0, 3.0]))
    assert at_least(picks, 2.0).figure_of_merit.tolist() == [2.0, 3.0]


def test_impossible_values_are_refused():
    with pytest.raises(InputError, match="min_distance"):
        pick_from_score_map(torch.zeros(9, 9), 1.0, 0.0, 0.0, pixel_size_in_angstroms=1.0)
    with pytest.raises(InputError, match="score map"):
        pick_from_score_map(torch.zeros(9), 1.0, 1.0, 0.0, pixel_size_in_angstroms=1.0)


def test_contamination_of_the_size_of_particles_is_left_to_the_picker():
    labels = torch.zeros(100, 120, dtype=torch.uint8)
    labels[10:20, 10:20] = LABELS["contamination"]  # 400 pixels of the micrograph: 1.3 particles
    labels[50:90, 50:90] = LABELS["contamination"]  # 20 particles
    labels[0:5, 100:105] = LABELS["carbon"]
    mask = ArtefactMask(labels, (200, 240))
    kept = without_small_contamination(mask, 20.0)
    expected = labels.clone()
    expected[10:20, 10:20] = 0
    assert torch.equal(kept.labels, expected)
    assert int(mask.labels[15, 15]) == LABELS["contamination"]
    assert torch.equal(without_small_contamination(mask, 20.0, smallest_in_particles=1.0).labels, labels)
