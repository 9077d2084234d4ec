"""The pose network as the start of a refinement: the same map as by the search, and an honest account of its cost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from posed_particles import density
from torch import Tensor

from cryoprism.core import InputError, generator_for, random_rotations, rfft2
from cryoprism.structure import (
    AlignmentData,
    Filament,
    FourierVolume,
    HelicalSymmetry,
    PoseStart,
    RefinementSettings,
    RefinementState,
    angular_distance,
    fourier_shell_correlation,
    low_pass,
    pack,
    packed_frequencies,
    pose_network_start,
    refine,
    search,
    start_state,
)
from cryoprism.structure.candidates import near_candidates
from cryoprism.structure.schedule import plan_for

BOX, PIXEL, RADIUS, COUNT = 32, 3.0, 14, 160
SETTINGS = RefinementSettings(
    symmetry="C1",
    diameter_in_angstroms=60.0,
    pixel_size_in_angstroms=PIXEL,
    initial_resolution_in_angstroms=14.0,
    shift_range_in_angstroms=4.0,
    iterations=2,
    finest_order=4,
    keep=16,
)
Made = tuple[Tensor, Tensor, Tensor, Tensor, RefinementState]


@pytest.fixture(scope="module")
def made() -> Made:
    """Images, transfer, groups, true rotations, and the state before the first pass."""
    generator = generator_for(8, "pose-start")
    rotations = random_rotations(COUNT, generator)
    k = packed_frequencies(RADIUS).float().norm(dim=1) / (BOX * PIXEL)
    transfer = torch.sin(math.pi * 0.0197 * (8000 + 4000 * torch.rand(COUNT, 1, generator=generator)) * k**2 + 0.2)
    views = FourierVolume.from_map(density(BOX), max_radius=RADIUS).slices(rotations, RADIUS) * transfer
    power = (views.abs() ** 2).sum(1).mean() * 2 / BOX**4
    noise = torch.randn(COUNT, BOX, BOX, generator=generator) * math.sqrt(float(power) / 1.0)
    images = views + pack(rfft2(noise), RADIUS)
    group = torch.arange(COUNT) % 8
    state = start_state(images, transfer, group, low_pass(density(BOX), PIXEL, 14.0), SETTINGS, RADIUS)
    return images, transfer, group, rotations, state


@pytest.fixture(scope="module")
def start(made: Made) -> PoseStart:
    images, transfer, group, _, state = made
    return pose_network_start(images, transfer, group, state, SETTINGS, steps=120)


def test_candidates_of_the_low_passed_map_are_near_the_truth(made: Made, start: PoseStart) -> None:
    assert start.candidates.shape == (COUNT, 4, 3, 3)
    nearest = torch.stack([angular_distance(start.candidates[:, i], made[3]) for i in range(4)]).amin(0)
    # The nearest of four random orientations is about 80° away.
    assert float(nearest.median()) < 20.0


def test_a_look_near_true_candidates_is_the_global_search(made: Made) -> None:
    images, transfer, group, rotations, state = made
    data = AlignmentData(images, transfer, state.noise_variance, group, BOX)
    volume = FourierVolume.from_map(state.references[0], max_radius=state.radius)
    near = near_candidates(data, volume, rotations[:, None], state.radius, SETTINGS)
    everywhere = search(data, volume, plan_for(state.radius, replace(SETTINGS, keep=64), BOX))
    # Evidence is in the same units, whatever the grid: most of the posterior lies near the truth. A grid that has its
    # centre there sees a little too much, a coarse one a little too little.
    lost = everywhere.log_evidence - near.log_evidence
    assert float(lost.median().abs()) < 2.5
    assert float(angular_distance(near.best()[0], rotations).median()) < 12.0
    away = near_candidates(data, volume, rotations[torch.randperm(COUNT)][:, None], state.radius, SETTINGS)
    assert float((near.log_evidence - away.log_evidence).median()) > 2.0


def test_a_refinement_from_the_network_ends_where_the_search_ends(made: Made, start: PoseStart) -> None:
    images, transfer, group, _, state = made
    ends = [
        refine(images, transfer, group, 1 + group % 2, state, SETTINGS, candidates=candidates)
        for candidates in (start.candidates, None)
    ]
    with_network, without = (
        fourier_shell_correlation(end.maps[0] + end.maps[1], density(BOX), PIXEL).fsc[3:11].mean() for end in ends
    )
    before = fourier_shell_correlation(state.maps[0], density(BOX), PIXEL).fsc[3:11].mean()
    assert float(with_network) > float(before) + 0.1
    assert float(with_network) > float(without) - 0.05
    # Random candidates are believed in the first pass and worse for it.
    lost = random_rotations(COUNT, generator_for(1, "lost"))[:, None]
    once = replace(SETTINGS, iterations=1)
    misled, led = (
        refine(images, transfer, group, 1 + group % 2, state, once, candidates=c).history[-1]["log_evidence"]
        for c in (lost, start.candidates)
    )
    assert misled < led - 2.0


def test_the_account_adds_up(start: PoseStart) -> None:
    assert start.training_seconds > 0
    assert start.near_seconds > 0
    assert 0.5 < start.agreement <= 1.0
    # All orientations hold what lies near the candidates too, but for the grid.
    assert -1.0 < start.evidence_lost < 5.0
    plain = replace(
        start, candidates=torch.eye(3).expand(1000, 4, 3, 3), training_seconds=50.0, looking_seconds=1.0,
        near_seconds=0.002, search_seconds=0.023, evidence_lost=0.5, agreement=0.9,
    )  # fmt: skip
    assert plain.saved_seconds == pytest.approx(21.0 - 51.0)
    assert "costs 30 s for 1000 particles and pays from 2500 particles on" in plain.sentence()
    assert "never pays" in replace(plain, search_seconds=0.001).sentence()
    assert "saves 970 s" in replace(plain, search_seconds=1.023).sentence()


def test_where_it_does_not_belong_it_is_refused(made: Made) -> None:
    images, transfer, group, _, state = made
    with pytest.raises(InputError, match="first pass"):
        pose_network_start(images, transfer, group, replace(state, iteration=1), SETTINGS)
    helix = replace(SETTINGS, filament=Filament(HelicalSymmetry(10.0, 30.0), 50.0))
    with pytest.raises(InputError, match="filaments"):
        pose_network_start(images, transfer, group, state, helix)
