"""Poses are found, posteriors are calibrated, maps get better, and noise stays noise."""

import math
from dataclasses import replace

import pytest
import torch

from cryoprism.core import InputError, generator_for, random_rotations, rfft2
from cryoprism.microscope import AtomicModel, potential_from_atoms
from cryoprism.structure import (
    AlignmentData,
    FirstMapSettings,
    FourierVolume,
    RefinementSettings,
    SearchPlan,
    SliceAccumulator,
    ab_initio,
    angular_distance,
    common_frame,
    fourier_shell_correlation,
    insert_posterior,
    low_pass,
    noise_from_residuals,
    pack,
    packed_frequencies,
    refine,
    search,
    search_around,
    soft_sphere,
    start_state,
)
from cryoprism.structure.likelihood import shift_phases
from cryoprism.structure.maximisation import _systematic
from cryoprism.structure.schedule import local_passes_begun, order_of_next_pass
from cryoprism.synthesis.phantom import phantom

BOX, PIXEL, RADIUS = 40, 2.75, 17


@pytest.fixture(scope="module")
def molecule():
    built = phantom("globule")
    atoms = AtomicModel(
        torch.from_numpy(built.positions_in_angstroms).float(), torch.from_numpy(built.atomic_numbers), 60.0
    )
    volume = potential_from_atoms(atoms, PIXEL, shape=(BOX,) * 3, center=False)
    return volume / volume.std()


def particles(molecule, count, ratio, seed=0, shift=2.0):
    """Packed images with a transfer that has zeros, and what is true of them."""
    generator = generator_for(seed, "particles")
    rotations = random_rotations(count, generator)
    shifts = (2 * torch.rand(count, 2, generator=generator) - 1) * shift
    k = packed_frequencies(RADIUS).float().norm(dim=1) / (BOX * PIXEL)
    focus = 8000 + 6000 * torch.rand(count, 1, generator=generator)
    transfer = torch.sin(math.pi * 0.0197 * focus * k**2 + 0.1)
    views = FourierVolume.from_map(molecule, max_radius=RADIUS).slices(rotations, RADIUS) * transfer
    views = views * shift_phases(-shifts, RADIUS, BOX)
    power = (views.abs() ** 2).sum(1).mean() * 2 / BOX**4
    noise = torch.randn(count, BOX, BOX, generator=generator) * math.sqrt(float(power) / ratio)
    return views + pack(rfft2(noise), RADIUS), transfer, rotations, shifts


def settings(**changes):
    return replace(
        RefinementSettings(
            symmetry="C1",
            diameter_in_angstroms=90.0,
            pixel_size_in_angstroms=PIXEL,
            initial_resolution_in_angstroms=25.0,
            shift_range_in_angstroms=8.0,
            iterations=5,
            finest_order=4,
            keep=12,
        ),
        **changes,
    )


def data_of(images, transfer, noise):
    return AlignmentData(images, transfer, noise.expand(1, -1), torch.zeros(len(images), dtype=torch.long), BOX)


PLAN = SearchPlan(orders=(2, 3, 4), radii=(9, 12, 15), shift_range=3.0, shift_step=1.5, keep=12)


@pytest.fixture(scope="module")
def searched(molecule):
    images, transfer, rotations, shifts = particles(molecule, 60, 0.3)
    level = (images.abs() ** 2)[:, -200:].mean()
    data = data_of(images, transfer, torch.full((images.shape[1],), float(level)))
    volume = FourierVolume.from_map(molecule, max_radius=RADIUS)
    return data, volume, search(data, volume, PLAN), rotations, shifts


def test_a_search_finds_orientations_and_shifts(searched):
    _, _, posterior, rotations, shifts = searched
    found, moved = posterior.best()
    assert angular_distance(found, rotations).median() < 4
    assert (moved - shifts).norm(dim=1).median() < 0.6
    assert torch.allclose(posterior.weights.sum((1, 2)), torch.ones(60), atol=1e-4)


def test_a_local_search_comes_nearer(searched):
    data, volume, posterior, rotations, _ = searched
    found, moved = posterior.best()
    local = search_around(
        data, volume, found, moved, step_in_degrees=1.2, reach=2, shift_step=0.25, shift_reach=2, radius=16
    )
    before = angular_distance(found, rotations).median()
    assert angular_distance(local.best()[0], rotations).median() < before


def test_the_score_is_the_log_likelihood(searched):
    data, volume, posterior, *_ = searched
    rotations, shifts = posterior.best()
    count = len(packed_frequencies(15))
    view = volume.slices(rotations, 15) * data.transfer[:, :count]
    noise = data.noise_variance[0, :count]

    def log_likelihood(moved):
        image = data.images[:, :count] * shift_phases(moved, 15, BOX)
        return -((image - view).abs() ** 2 / noise).sum(1)

    here = log_likelihood(shifts)
    away = log_likelihood(shifts + 3.0)
    # Probabilities of the posterior follow the same differences.
    rows = torch.arange(len(shifts))
    column = posterior.weights.sum(1).argmax(1)
    weights = posterior.weights[rows, :, column]
    best = weights.argmax(1)
    other = torch.where(best == 0, 1, 0)
    moved = posterior.shifts[rows, other]
    prior = lambda s: -0.5 * ((s / 1.5) ** 2).sum(1)  # noqa: E731
    expected = log_likelihood(moved) + prior(moved) - here - prior(shifts)
    got = torch.log(weights[rows, other] / weights[rows, best])
    assert (here > away).all()
    seen = got > -15
    assert torch.allclose(got[seen], expected[seen], atol=0.3, rtol=0.02)


def test_noise_is_measured_behind_the_signal(searched):
    data, volume, posterior, *_ = searched
    found = noise_from_residuals(data, volume, posterior, 15, RADIUS)
    assert float((found / data.noise_variance).mean()) == pytest.approx(1.0, abs=0.06)


def test_systematic_draws_keep_the_expectation():
    probability = torch.rand(400, 30, generator=generator_for(2, "draws")) ** 4
    probability = probability / probability.sum(1, keepdim=True)
    drawn = _systematic(probability, 8, 0)
    assert torch.allclose(drawn.sum(1), torch.ones(400), atol=1e-5)
    assert ((drawn - probability).abs() <= 1 / 8 + 1e-5).all()
    assert (drawn.mean(0) - probability.mean(0)).abs().max() < 0.01


def test_inserting_sharp_posteriors_gives_the_map_back(molecule):
    images, transfer, rotations, shifts = particles(molecule, 500, 1e6)
    data = data_of(images, transfer, torch.ones(images.shape[1]))
    volume = FourierVolume.from_map(molecule, max_radius=RADIUS)
    posterior = search_around(
        data, volume, rotations, shifts, step_in_degrees=1.0, reach=0, shift_step=1.0, shift_reach=0, radius=12
    )
    accumulator = SliceAccumulator(BOX, max_radius=RADIUS)
    insert_posterior(accumulator, data, posterior, RADIUS)
    made = accumulator.reconstruct(1e-4 * accumulator.shell_weights(), iterations=0)
    assert fourier_shell_correlation(made, molecule, PIXEL).fsc[1:14].min() > 0.97


def groups(count):
    return torch.arange(count) % 10


@pytest.mark.slow
def test_refinement_comes_closer_to_the_truth(molecule):
    count = 400
    images, transfer, rotations, _ = particles(molecule, count, 0.15)
    group = groups(count)
    state = start_state(images, transfer, group, low_pass(molecule, PIXEL, 25.0), settings(), RADIUS)
    end = refine(images, transfer, group, 1 + group % 2, state, settings())
    mask = soft_sphere((BOX,) * 3, PIXEL, 42)
    start = fourier_shell_correlation(state.maps[0], molecule, PIXEL, mask=mask).fsc
    final = fourier_shell_correlation(end.maps[0] + end.maps[1], molecule, PIXEL, mask=mask).fsc
    assert final[6:12].mean() > start[6:12].mean() + 0.2
    assert angular_distance(end.rotations, rotations).median() < 8
    assert end.history[-1]["log_evidence"] > end.history[0]["log_evidence"]


@pytest.mark.slow
def test_pure_noise_does_not_take_on_the_reference(molecule):
    count = 400
    generator = generator_for(9, "noise")
    noise = torch.randn(count, BOX, BOX, generator=generator)
    images = pack(rfft2(noise), RADIUS)
    _, transfer, *_ = particles(molecule, count, 1.0)
    group = groups(count)
    chosen = settings(iterations=3)
    state = start_state(images, transfer, group, low_pass(molecule, PIXEL, 25.0), chosen, RADIUS)
    end = refine(images, transfer, group, 1 + group % 2, state, chosen)
    fsc = fourier_shell_correlation(*end.maps, PIXEL).fsc
    # Beyond the shells that both halves began with, the halves share nothing.
    assert fsc[8:15].mean().abs() < 0.15


def test_an_empty_half_is_refused(molecule):
    images, transfer, *_ = particles(molecule, 10, 1.0)
    group = torch.zeros(10, dtype=torch.long)
    state = start_state(images, transfer, group, molecule, settings(), RADIUS)
    with pytest.raises(InputError, match="10 and 0"):
        refine(images, transfer, group, torch.ones(10, dtype=torch.long), state, settings())


@pytest.mark.slow
def test_a_first_map_from_noise_finds_the_poses_of_the_molecule(molecule):
    """But for the frame and the hand of the map, which no image determines."""
    count = 500
    images, transfer, rotations, _ = particles(molecule, count, 1.0)
    made = ab_initio(images, transfer, groups(count), settings(), FirstMapSettings(starts=2, passes=14), box=BOX)
    assert len(made.log_evidence) == 2
    assert made.chosen == int(made.log_evidence.argmax())
    errors, turn, hand = common_frame(made.rotations, rotations)
    assert float(errors.median()) < 12.0
    assert float((errors < 30).float().mean()) > 0.8
    assert hand in (1.0, -1.0)
    assert float(torch.det(turn)) == pytest.approx(1.0, abs=1e-4)
    # Poses of another order are no frame of these.
    wrong, *_ = common_frame(made.rotations[torch.randperm(count, generator=generator_for(0, "wrong"))], rotations)
    assert float(wrong.median()) > 60.0


@pytest.mark.parametrize("hand", [1.0, -1.0])
def test_poses_of_a_turned_map_of_either_hand(hand):
    true = random_rotations(200, generator_for(4, "frame"))
    turn = random_rotations(1, generator_for(5, "frame"))[0]
    found = torch.diag(torch.tensor([hand, hand, 1.0])) @ true @ turn
    found[:60] = random_rotations(60, generator_for(6, "frame"))
    errors, common, which = common_frame(found, true)
    assert which == hand
    assert torch.allclose(common, turn, atol=1e-3)
    assert float(errors[60:].max()) < 0.2


def rows(evidence, change=5.0, order=5.0, probability=0.9):
    return tuple(
        {"log_evidence": value, "change_in_degrees": change, "order": order, "probability": probability}
        for value in evidence
    )


def begun(history):
    return local_passes_begun(history, RefinementSettings("C1", 60.0, PIXEL, finest_order=5))


def test_a_refinement_goes_on_while_the_evidence_rises():
    assert begun(rows([1.0, 10.0, 20.0, 21.0, 22.0, 23.0])) == 0
    assert begun(rows([1.0, 10.0, 20.0, 20.0, 20.01])) == 0
    assert begun(rows([1.0, 10.0, 20.0, 20.0, 20.01, 19.0])) == 1
    assert begun(rows([1.0, 10.0, 20.0, 20.0, 20.01, 19.0, 25.0])) == 2


def test_a_refinement_ends_where_poses_rest():
    assert begun(rows([1.0, 10.0, 20.0], change=0.5)) == 2
    assert begun(rows([1.0, 10.0, 20.0], change=math.nan)) == 0


def test_finer_cells_come_before_the_end():
    settings = RefinementSettings("C1", 60.0, PIXEL, finest_order=5)
    rising, resting = rows([1.0, 10.0, 20.0], order=4.0), rows([1.0, 10.0, 20.0], change=0.5, order=4.0)
    assert order_of_next_pass(rising, settings) == 4
    assert order_of_next_pass(rows([20.0, 20.1], order=4.0), settings) == 5
    # Poses that rest in coarse cells ask for finer ones; where these gain nothing, one pass with them is the last.
    assert order_of_next_pass(resting, settings) == 5
    assert begun(resting) == 0
    assert begun(resting + rows([20.0])) == 1
    assert begun(resting + rows([25.0])) == 0
    # A wide posterior does not get finer cells: the refinement may end with coarse ones.
    wide = rows([20.0, 20.0, 20.0, 20.0], order=4.0, probability=0.1)
    assert order_of_next_pass(wide, settings) == 4
    assert begun(wide) == 1
