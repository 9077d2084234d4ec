"""The blob picker on images drawn from its own model, on noise, and against the wrong contrast and size."""

import dataclasses

import pytest
import torch
from fields_of_balls import CTF, LENS, ball, lattice, micrograph, recovered

from cryoprism.core import InputError, generator_for
from cryoprism.formats import Volume
from cryoprism.particles import (
    blob_pixel_in_angstroms,
    phase_randomised,
    pick_from_score_map,
    prepare_field,
    score_blobs,
)

PIXEL, DIAMETER, SHAPE = 4.0, 120.0, (480, 520)


@pytest.fixture(scope="module")
def balls():
    places = lattice(SHAPE, 60, seed=1)
    image, _ = micrograph(Volume(ball(44, DIAMETER / PIXEL / 2), PIXEL), places, SHAPE, contrast=3.0, gradient=3.0)
    return image, places


def picks_of(image, *, ctf=True, field=None):
    field = prepare_field(image, PIXEL, blob_pixel_in_angstroms(0.85 * DIAMETER), None) if field is None else field
    score = score_blobs(field, 0.85 * DIAMETER, 1.15 * DIAMETER, lens=LENS if ctf else None, ctf=CTF if ctf else None)
    return pick_from_score_map(
        score.values,
        score.pixel_size_in_angstroms,
        0.5 * DIAMETER,
        1.0,
        pixel_size_in_angstroms=PIXEL,
        diameter_map=score.diameter_in_angstroms,
    )


def test_balls_are_found_where_they_are(balls):
    image, places = balls
    precision, recall = recovered(picks_of(image)[torch.arange(len(places))].xy_in_pixels, places, 2.0)
    assert precision > 0.97
    assert recall > 0.97


def test_knowing_the_ctf_gives_surer_picks(balls):
    image, places = balls
    surer, less = (picks_of(image, ctf=known).figure_of_merit[: len(places)].median() for known in (True, False))
    assert float(surer) > 1.05 * float(less)


def test_bright_particles_are_not_taken_for_dark_ones(balls):
    image, places = balls
    dark, bright = picks_of(image), picks_of(-image)
    assert recovered(bright.xy_in_pixels[: len(places)], places, 2.0)[1] < 0.1
    assert float(bright.figure_of_merit[0]) < float(dark.figure_of_merit[len(places) // 2])


def test_the_best_size_is_that_of_the_particles(balls):
    image, _ = balls
    field = prepare_field(image, PIXEL, blob_pixel_in_angstroms(0.7 * DIAMETER), None)
    score = score_blobs(field, 0.7 * DIAMETER, 1.4 * DIAMETER, lens=LENS, ctf=CTF)
    picks = pick_from_score_map(
        score.values,
        score.pixel_size_in_angstroms,
        0.5 * DIAMETER,
        4.0,
        pixel_size_in_angstroms=PIXEL,
        diameter_map=score.diameter_in_angstroms,
    )
    assert float(picks.diameter_in_angstroms.median()) == pytest.approx(DIAMETER, rel=0.09)


def test_scores_of_noise_are_standard_deviations():
    """White noise: at one size the score map has standard deviation 1, whatever the grey scale."""
    noise = 50.0 + 7.0 * torch.randn(SHAPE, generator=generator_for(4, "noise"))
    field = prepare_field(noise, PIXEL, 7.0, None)
    score = score_blobs(field, DIAMETER, DIAMETER, lens=LENS, ctf=CTF)
    assert float(score.values.std()) == pytest.approx(1.0, abs=0.12)
    assert abs(float(score.values.mean())) < 0.1


def test_random_phases_leave_the_power_and_take_the_particles(balls):
    image, places = balls
    field = prepare_field(image, PIXEL, blob_pixel_in_angstroms(0.85 * DIAMETER), None)
    copy = phase_randomised(field.image, generator_for(0, "null"))
    torch.testing.assert_close(torch.fft.rfft2(copy).abs(), torch.fft.rfft2(field.image).abs(), atol=0.05, rtol=1e-3)
    null = picks_of(image, field=dataclasses.replace(field, image=copy))
    assert recovered(null.xy_in_pixels[: len(places)], places, 2.0)[0] < 0.3
    assert float(null.figure_of_merit[0]) < float(picks_of(image).figure_of_merit[int(0.9 * len(places))])


def test_the_wrong_order_of_diameters_is_refused(balls):
    field = prepare_field(balls[0], PIXEL, 8.0, None)
    with pytest.raises(InputError, match="smaller first"):
        score_blobs(field, 100.0, 50.0)
