"""The pose network: turned particles give turned answers, symmetric copies count as one, training beats chance."""

import math
from dataclasses import replace

import pytest
import torch
from posed_particles import density
from torch import Tensor

from cryoprism.core import InputError, euler_to_matrix, generator_for, point_group_matrices, random_rotations, rfft2
from cryoprism.microscope import project_volume
from cryoprism.structure import (
    FourierVolume,
    PoseNetwork,
    PoseNetworkConfig,
    pack,
    packed_frequencies,
    train_pose_network,
)
from cryoprism.structure.orientations import angular_distance
from cryoprism.structure.pose_network import _to_cells

BOX = 32
CONFIG = PoseNetworkConfig(
    radius=10, diameter_in_pixels=20.0, order=1, channels=48, steps=150, batch=48, shift_in_pixels=0.5, rate=5e-3
)
NOISE = torch.full((11,), 6.0 * BOX * BOX)  # of a white noise of variance 6 per pixel


def tetramer(box: int = BOX) -> Tensor:
    """Density with D2 symmetry, on the grid."""
    volume = density(box)
    axis = torch.arange(box)
    mirror = (2 * (box // 2) - axis) % box
    turned = volume + volume[:, mirror][:, :, mirror]  # about z
    return turned + turned[mirror][:, mirror]  # about x


@pytest.fixture(scope="module")
def trained() -> tuple[PoseNetwork, Tensor]:
    volume = density(BOX)
    ones = torch.ones(1, len(packed_frequencies(CONFIG.radius)))
    return train_pose_network(FourierVolume.from_map(volume), ones, NOISE, CONFIG), volume


def views(volume: Tensor, rotations: Tensor, seed: int) -> Tensor:
    """Packed transforms of projections made in real space by another path than the training's, with noise."""
    images = project_volume(volume, rotations, 1.0, padding=3)
    noise = torch.randn(images.shape, generator=generator_for(seed, "noise")) * math.sqrt(float(NOISE[0])) / BOX
    return pack(rfft2(images + noise), CONFIG.radius)


def test_candidates_are_near_the_truth(trained: tuple[PoseNetwork, Tensor]) -> None:
    network, volume = trained
    truth = random_rotations(200, generator_for(5, "truth"))
    observed = views(volume, truth, 1)
    found = network.candidates(observed, torch.ones(1, observed.shape[1]), 4)
    assert found.rotations.shape == (200, 4, 3, 3)
    torch.testing.assert_close(
        found.rotations @ found.rotations.mT, torch.eye(3).expand(200, 4, 3, 3), atol=1e-4, rtol=0
    )
    assert float((torch.linalg.det(found.rotations) - 1).abs().max()) < 1e-4
    first = angular_distance(found.rotations[:, 0], truth)
    # Chance is 126°, cells are 30° wide.
    assert float(first.median()) < 25
    nearest = torch.stack([angular_distance(found.rotations[:, i], truth) for i in range(4)]).amin(0)
    assert float((nearest < 30).float().mean()) > float((first < 30).float().mean())
    assert float((nearest < 30).float().mean()) > 0.75
    assert bool((found.probability[:, 0] >= 0).all())
    assert float(found.probability.sum(1).max()) <= 1 + 1e-4


def test_noise_gets_no_confidence(trained: tuple[PoseNetwork, Tensor]) -> None:
    network, volume = trained
    truth = random_rotations(100, generator_for(6, "truth"))
    signal = views(volume, truth, 2)
    noise = signal - views(volume, truth, 3)
    ones = torch.ones(1, signal.shape[1])
    seen = network.candidates(signal, ones, 1).probability
    unseen = network.candidates(noise / math.sqrt(2), ones, 1).probability
    assert float(unseen.median()) < 0.7 * float(seen.median())


def test_a_turned_particle_gives_the_turned_answer() -> None:
    """Holds before any training: the architecture does it."""
    config = replace(CONFIG, order=2)
    network = PoseNetwork(config, BOX, NOISE).eval()
    rotation = euler_to_matrix(torch.tensor([40.0]), torch.tensor([70.0]), torch.tensor([10.0])).float()
    # A quarter turn takes the grid of the slices onto itself.
    turn = euler_to_matrix(torch.tensor([0.0]), torch.tensor([0.0]), torch.tensor([90.0])).float()
    volume = FourierVolume.from_map(density(BOX))
    with torch.no_grad():
        one, two = (network(volume.slices(a, config.radius)).view(-1, 24) for a in (rotation, turn @ rotation))
    torch.testing.assert_close(two, one.roll(6, 1), atol=0.01 * float(one.std()), rtol=0)
    # In the cells, too, six steps of 15° on.
    cells = network.cells.view(-1, 24, 3, 3)
    torch.testing.assert_close(turn @ cells[:, 5], cells[:, 11], atol=1e-5, rtol=0)


@pytest.mark.parametrize("symmetry", ["C1", "C3", "D2", "O"])
def test_targets_do_not_tell_symmetric_copies_apart(symmetry: str) -> None:
    network = PoseNetwork(replace(CONFIG, symmetry=symmetry), BOX, NOISE)
    group = point_group_matrices(symmetry)
    truth = random_rotations(6, generator_for(1, symmetry))
    target = network.targets(truth)
    for element in group[:: max(1, len(group) // 5)]:
        torch.testing.assert_close(network.targets(truth @ element), target, atol=1e-4, rtol=1e-3)
    assert target.sum(1) == pytest.approx(torch.ones(6), abs=1e-5)
    angle, _ = _to_cells(truth, network.cells, group)
    nearest = network.cells[angle.argmin(1)]
    torch.testing.assert_close(angle.amin(1), angular_distance(nearest, truth, symmetry), atol=0.05, rtol=0)
    assert float(angle.amin(1).max()) < 30


def test_a_symmetric_map_is_learned() -> None:
    volume = tetramer()
    config = replace(CONFIG, symmetry="D2", steps=120)
    ones = torch.ones(1, len(packed_frequencies(config.radius)))
    network = train_pose_network(FourierVolume.from_map(volume), ones, NOISE, config)
    truth = random_rotations(100, generator_for(5, "truth"))
    observed = pack(rfft2(project_volume(volume, truth, 1.0, padding=3)), config.radius)
    found = network.candidates(observed, torch.ones(1, observed.shape[1]), 2)
    assert float(angular_distance(found.rotations[:, 0], truth, "D2").median()) < 25


def test_the_same_seed_gives_the_same_network() -> None:
    volume = FourierVolume.from_map(density(BOX))
    ones = torch.ones(1, len(packed_frequencies(CONFIG.radius)))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    config = replace(CONFIG, steps=2)
    one, two = (train_pose_network(volume, ones, NOISE, config) for _ in range(2))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    other = train_pose_network(volume, ones, NOISE, replace(config, seed=1))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"radius": 2}, "radius"),
        ({"diameter_in_pixels": 0.0}, "diameter"),
        ({"order": 7}, "order"),
        ({"steps": 0}, "training"),
    ],
)
def test_bad_settings_are_named(change: dict[str, float], word: str) -> None:
    with pytest.raises(InputError, match=word):
        replace(CONFIG, **change)  # type: ignore[arg-type]


def test_missing_shells_are_named() -> None:
    volume = FourierVolume.from_map(density(BOX))
    with pytest.raises(InputError, match="shells"):
        train_pose_network(volume, torch.ones(1, 400), NOISE[:5], CONFIG)
    with pytest.raises(InputError, match="coefficients"):
        train_pose_network(volume, torch.ones(1, 5), NOISE, CONFIG)
