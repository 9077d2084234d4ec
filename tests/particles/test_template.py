"""The template picker: places and views of an asymmetric body, its statistics, and wrong references."""

import math

import pytest
import torch
from fields_of_balls import CTF, LENS, ball, lattice, micrograph, recovered

from cryoprism.core import InputError, euler_to_matrix, generator_for, point_group_matrices
from cryoprism.formats import Volume
from cryoprism.microscope import project_volume
from cryoprism.particles import (
    at_least,
    pick_from_score_map,
    prepare_field,
    score_templates,
    templates_from_images,
    templates_from_map,
)

PIXEL, DIAMETER, SHAPE, SIDE = 4.0, 130.0, (300, 320), 48


def asymmetric() -> Volume:
    """Four unequal balls that no mirror brings onto themselves (three always lie in a plane, which is one)."""
    body = torch.zeros(SIDE, SIDE, SIDE)
    for (z, y, x), radius in (((-7, 0, 2), 6.5), ((6, 6, 0), 5.0), ((4, -8, -3), 4.0), ((0, 2, 9), 3.0)):
        body = torch.maximum(body, torch.roll(ball(SIDE, radius), (z, y, x), (0, 1, 2)))
    return Volume(body, PIXEL)


@pytest.fixture(scope="module")
def scene():
    places = lattice(SHAPE, 60, seed=2)
    image, turns = micrograph(asymmetric(), places, SHAPE, contrast=2.0, seed=3)
    return image, places, turns


@pytest.fixture(scope="module")
def templates():
    return templates_from_map(asymmetric(), diameter_in_angstroms=DIAMETER, lowpass_in_angstroms=20.0)


def picks_of(image, templates, floor=1.5):
    field = prepare_field(image, PIXEL, templates.pixel_size_in_angstroms, None)
    score = score_templates(field, templates, lens=LENS, ctf=CTF)
    return pick_from_score_map(
        score.values,
        score.pixel_size_in_angstroms,
        0.5 * DIAMETER,
        floor,
        pixel_size_in_angstroms=PIXEL,
        view_map=score.views,
        view_angles_in_degrees=templates.angles_in_degrees,
    )


def test_particles_are_found_in_place_and_view(scene, templates):
    image, places, turns = scene
    picks = picks_of(image, templates)[torch.arange(len(places))]
    precision, recall = recovered(picks.xy_in_pixels, places, 2.5)
    assert precision > 0.97
    assert recall > 0.97
    nearest = torch.cdist(picks.xy_in_pixels, places).argmin(1)
    views = euler_to_matrix(*picks.angles_in_degrees.unbind(-1)).float()
    trace = (views * turns[nearest]).sum((1, 2))
    angle = torch.rad2deg(torch.arccos(((trace - 1) / 2).clamp(-1, 1)))
    assert angle.median() < 15.0  # the step of the grid


def test_components_carry_every_view(templates):
    """Views put together from components are the projections of the map, but for what the low-pass took."""
    side = templates.basis.shape[-1]
    choice = torch.arange(0, len(templates.coefficients), 501)
    made = (templates.coefficients[choice] @ templates.basis.reshape(len(templates.basis), -1)).reshape(-1, side, side)
    turns = euler_to_matrix(*templates.angles_in_degrees[choice].unbind(-1)).float()
    exact = project_volume(asymmetric().data, turns, PIXEL)
    for one, other in zip(made, exact, strict=True):
        coarse = _at(other, side, templates.pixel_size_in_angstroms)
        a, b = one - one.mean(), coarse - coarse.mean()
        assert float((a * b).sum() / (a.norm() * b.norm())) > 0.9
    assert len(templates.basis) < len(templates.coefficients) / 10


def _at(image, side, pixel):
    """Sample an image about its centre on another grid."""
    axis = (torch.arange(side) - side // 2).float() * pixel / PIXEL
    place = (2 * (axis + image.shape[-1] // 2) + 1) / image.shape[-1] - 1
    y, x = torch.meshgrid(place, place, indexing="ij")
    grid = torch.stack([x, y], -1)[None]
    return torch.nn.functional.grid_sample(image[None, None], grid, mode="bicubic", align_corners=False)[0, 0]


def test_symmetry_leaves_out_copies_and_loses_nothing():
    group = point_group_matrices("D2")
    one = torch.roll(ball(SIDE, 5.0), (5, 6, 7), (0, 1, 2))
    axis = (torch.arange(SIDE) - SIDE // 2).float()
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], -1)
    body = torch.zeros(SIDE, SIDE, SIDE)
    for g in group:
        grid = (2 * (points @ g.T + SIDE // 2) + 1) / SIDE - 1
        body += torch.nn.functional.grid_sample(one[None, None], grid[None], align_corners=False)[0, 0]
    volume = Volume(body, PIXEL)
    full = templates_from_map(volume, diameter_in_angstroms=DIAMETER, healpix_order=1)
    part = templates_from_map(volume, diameter_in_angstroms=DIAMETER, symmetry="D2", healpix_order=1)
    assert len(part.coefficients) * 4 == pytest.approx(len(full.coefficients), rel=0.15)
    places = lattice(SHAPE, 60, seed=5)
    image, _ = micrograph(volume, places, SHAPE, contrast=2.0, seed=6)
    a, b = (picks_of(image, t).figure_of_merit[: len(places)] for t in (full, part))
    assert float(b.mean() / a.mean()) == pytest.approx(1.0, abs=0.04)


def test_scores_of_noise_follow_the_theory(templates):
    """One view: standard deviation 1. The best of many views: no more than √(2 ln n) at a typical point."""
    noise = 10.0 + 3.0 * torch.randn(SHAPE, generator=generator_for(4, "noise"))
    field = prepare_field(noise, PIXEL, templates.pixel_size_in_angstroms, None)
    single = _first_view(templates)
    values = score_templates(field, single, lens=LENS, ctf=CTF).values
    assert float(values.std()) == pytest.approx(1.0, abs=0.12)
    best = score_templates(field, templates, lens=LENS, ctf=CTF).values
    assert 1.0 < float(best.median()) < math.sqrt(2 * math.log(len(templates.coefficients)))


def _first_view(templates):
    import dataclasses

    return dataclasses.replace(
        templates, coefficients=templates.coefficients[:1], angles_in_degrees=templates.angles_in_degrees[:1]
    )


def test_noise_gives_no_particles_of_the_reference(scene, templates):
    """Einstein from noise: what noise gives lies clearly below what particles give."""
    image, places, _ = scene
    noise = torch.randn(SHAPE, generator=generator_for(5, "noise"))
    true, false = picks_of(image, templates), picks_of(noise, templates)
    assert float(false.figure_of_merit[0]) < float(true.figure_of_merit[len(places) // 2])
    assert len(at_least(false, float(true.figure_of_merit[int(0.9 * len(places))]))) <= 1


def test_another_reference_fits_worse(scene, templates):
    image, places, _ = scene
    other = templates_from_map(Volume(ball(SIDE, 14.0), PIXEL), diameter_in_angstroms=DIAMETER, healpix_order=0)
    right, wrong = (picks_of(image, t).figure_of_merit[: len(places)].mean() for t in (templates, other))
    assert float(wrong) < 0.9 * float(right)


def test_class_averages_serve_as_templates(scene):
    """Two projections of the map, turned in the plane, find the particles that look like them."""
    image, places, turns = scene
    views = project_volume(asymmetric().data, turns[:6], PIXEL)
    classes = templates_from_images(views, PIXEL, diameter_in_angstroms=DIAMETER)
    assert classes.coefficients.shape[0] == 6 * 24
    picks = picks_of(image, classes)
    away = torch.cdist(places[:6], picks.xy_in_pixels[: len(places)])
    assert float(away.amin(1).max()) < 2.5
    # A particle of class 1 is turned by psi 0, the others' rows name their class.
    best = picks.angles_in_degrees[away.argmin(1)]
    assert float((best[:, 0] == torch.arange(6)).double().mean()) > 0.6


def test_impossible_references_are_refused():
    with pytest.raises(InputError, match="cubic"):
        templates_from_map(Volume(torch.ones(8, 8, 9), 1.0), diameter_in_angstroms=100.0)
    with pytest.raises(InputError, match="empty"):
        templates_from_map(Volume(torch.zeros(20, 20, 20), 4.0), diameter_in_angstroms=60.0)
    with pytest.raises(InputError, match="at most half"):
        templates_from_map(asymmetric(), diameter_in_angstroms=30.0, lowpass_in_angstroms=20.0)
