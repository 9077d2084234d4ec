"""Pose networks from images with known poses: they learn, go on where they stopped, and come back from their files."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from posed_particles import density
from pretended_device import DEVICE, pretended_device
from torch import Tensor

from cryoprism.core import InputError, generator_for, random_rotations, rfft2
from cryoprism.formats import write_weights
from cryoprism.microscope import project_volume
from cryoprism.structure import (
    FourierVolume,
    PosedImages,
    PoseNetwork,
    PoseNetworkConfig,
    StoredPoseNetwork,
    in_another_box,
    load_pose_network,
    pack,
    packed_frequencies,
    pose_accuracy,
    save_pose_network,
    train_on_posed_images,
)
from cryoprism.structure.pose_training import _behind

BOX, RADIUS = 32, 10
CONFIG = PoseNetworkConfig(
    radius=RADIUS, diameter_in_pixels=20.0, order=1, channels=48, steps=150, batch=48, shift_in_pixels=0.5, rate=5e-3
)


def simulated(count: int, seed: int, noise: float = 2.0) -> PosedImages:
    """Views of an asymmetric density through a contrast transfer, off the centre by what ``shifts`` takes back."""
    generator = generator_for(seed, "posed-images")
    rotations = random_rotations(count, generator)
    k = packed_frequencies(RADIUS).float() / BOX
    transfer = torch.sin(40 * (0.5 + torch.rand(count, 1, generator=generator)) * k.square().sum(1) + 0.3)
    shifts = 2 * torch.randn(count, 2, generator=generator)
    turns = 2 * math.pi * shifts @ k.T
    views = FourierVolume.from_map(density(BOX)).slices(rotations, RADIUS) * transfer
    images = views * torch.polar(torch.ones_like(turns), turns)
    images += pack(rfft2(math.sqrt(noise) * torch.randn(count, BOX, BOX, generator=generator)), RADIUS)
    return PosedImages(images, transfer, rotations, shifts, BOX)


@pytest.fixture(scope="module")
def known() -> PosedImages:
    return simulated(1500, 1)


def test_a_network_learns_from_images_with_known_poses(known: PosedImages) -> None:
    network, losses = train_on_posed_images(known, CONFIG)
    assert len(losses) == CONFIG.steps
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    other = simulated(200, 2)
    centred = other.moved(torch.arange(200), RADIUS, torch.zeros(200, 2))
    found = pose_accuracy(network.candidates(centred, other.transfer, 4).rotations, other.rotations)
    # Images it has not seen; cells are 30° wide.
    assert found.chance_in_degrees == pytest.approx(126, abs=6)
    assert found.median_in_degrees < 45
    assert found.nearest_in_degrees <= found.median_in_degrees
    assert found.particles == 200


def test_poses_that_belong_to_other_images_teach_nothing(known: PosedImages) -> None:
    mixed = replace(known, rotations=known.rotations.roll(1, 0))
    network, _ = train_on_posed_images(mixed, replace(CONFIG, steps=60))
    other = simulated(200, 2)
    centred = other.moved(torch.arange(200), RADIUS, torch.zeros(200, 2))
    found = pose_accuracy(network.candidates(centred, other.transfer, 1).rotations, other.rotations)
    assert found.median_in_degrees > 90


def test_the_view_from_behind_is_the_mirror_image() -> None:
    volume = FourierVolume.from_map(density(BOX))
    rotations = random_rotations(5, generator_for(3, "behind"))
    order, conjugate = _behind(RADIUS)
    seen = volume.slices(rotations, RADIUS)[:, order]
    seen = torch.where(conjugate, seen.conj(), seen)
    behind = volume.slices(torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ rotations, RADIUS)
    torch.testing.assert_close(seen, behind, atol=1e-3 * float(behind.abs().max()), rtol=1e-3)


def test_an_interrupted_training_comes_to_the_same_weights(known: PosedImages, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=70, channels=16, batch=8)
    whole, losses = train_on_posed_images(known, config)
    checkpoint = tmp_path / ".poses.pt"

    steps: list[str] = []
    # Step 50 is the last that is kept: what is left behind is what a training that was killed later leaves.
    train_on_posed_images(known, config, checkpoint=checkpoint)
    kept = torch.load(checkpoint, weights_only=True)
    assert len(kept["losses"]) == 50
    again, found = train_on_posed_images(known, config, steps.append, checkpoint)
    assert found == losses
    assert steps == []  # no line at step 50: it was not done again
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    # Other images start anew.
    _, others = train_on_posed_images(simulated(100, 5), config, steps.append, checkpoint)
    assert others != losses
    assert "step 50 of 70" in steps[0]


def test_a_network_comes_back_from_its_file(known: PosedImages, tmp_path: Path) -> None:
    network, _ = train_on_posed_images(known, replace(CONFIG, steps=3, symmetry="D2"))
    file = tmp_path / "poses.safetensors"
    digest = save_pose_network(file, StoredPoseNetwork(network, 2.5, {"seed": "7"}))
    assert digest == save_pose_network(tmp_path / "again.safetensors", StoredPoseNetwork(network, 2.5, {"seed": "7"}))
    found = load_pose_network(file)
    assert found.network.config == network.config
    assert (found.network.box, found.pixel_size_in_angstroms, found.notes["seed"]) == (BOX, 2.5, "7")
    assert found.extent_in_angstroms == pytest.approx(80)
    assert found.diameter_in_angstroms == pytest.approx(50)
    assert found.notes["symmetry"] == "D2"
    assert len(json.loads(found.notes["noise_variance_per_shell"])) == RADIUS + 1
    one, two = (n.candidates(known.images[:9], known.transfer[:9], 2) for n in (network, found.network))
    assert torch.equal(one.rotations, two.rotations)
    assert torch.equal(one.probability, two.probability)


def test_files_that_are_no_pose_network_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_pose_network(tmp_path / "none.safetensors")
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"no weights")
    with pytest.raises(InputError, match="is no safetensors file"):
        load_pose_network(garbage)
    other = tmp_path / "other.safetensors"
    write_weights(other, {"a": torch.ones(2)}, {"format": "cryoprism-picker-1"})
    with pytest.raises(InputError, match="cryoprism-picker-1"):
        load_pose_network(other)
    write_weights(other, {"a": torch.ones(2)}, {"format": "cryoprism-poses-1", "config": '{"radius": 8}'})
    with pytest.raises(InputError, match="does not hold the weights"):
        load_pose_network(other)


def centred_in(volume: Tensor, side: int) -> Tensor:
    out = torch.zeros(side, side, side)
    a = side // 2 - len(volume) // 2
    out[a : a + len(volume), a : a + len(volume), a : a + len(volume)] = volume
    return out


@pytest.mark.parametrize(("side", "other"), [(48, 33), (33, 48), (40, 40)])
def test_images_are_brought_to_another_box(side: int, other: int) -> None:
    volume = density(24)
    rotations = random_rotations(3, generator_for(1, "boxes"))
    one, two = (rfft2(project_volume(centred_in(volume, n), rotations, 1.0, padding=3)) for n in (side, other))
    found = in_another_box(pack(one, (side - 1) // 2), side, other, RADIUS)
    wanted = pack(two, RADIUS)
    assert float((found - wanted).norm()) < 0.03 * float(wanted.norm())


def test_a_network_says_which_box_it_needs() -> None:
    stored = StoredPoseNetwork(PoseNetwork(CONFIG, BOX, torch.ones(RADIUS + 1)), 3.0)
    assert stored.box_at(1.5) == 64
    assert stored.box_at(3.0) == 32
    assert stored.finest_in_angstroms == pytest.approx(9.6)
    with pytest.raises(InputError, match="too coarse"):
        stored.box_at(5.0)


def test_images_that_cannot_teach_are_named(known: PosedImages) -> None:
    one = PosedImages(known.images[:1], known.transfer[:1], known.rotations[:1], known.shifts[:1], BOX)
    with pytest.raises(InputError, match="there are 1"):
        train_on_posed_images(one, CONFIG)
    with pytest.raises(InputError, match="coefficients"):
        train_on_posed_images(known, replace(CONFIG, radius=12))


def test_training_on_another_device_comes_to_the_same(known: PosedImages, monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(CONFIG, steps=3)
    _, here = train_on_posed_images(known, few)
    monkeypatch.setattr("cryoprism.structure.pose_training.resolve_device", lambda name: DEVICE)
    with pretended_device():
        network, there = train_on_posed_images(known, few, device="cuda")
        assert there == pytest.approx(here)
        assert network.precision.device.type == "cpu"
