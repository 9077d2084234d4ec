"""``cryoprism refine`` that begins with a pose network, trained anew or from a file."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from cryoprism.core import InputError, euler_to_matrix, generator_for
from cryoprism.formats import (
    read_map,
    read_particles,
)
from cryoprism.structure import (
    FourierVolume,
    PoseNetworkConfig,
    StoredPoseNetwork,
    fourier_shell_correlation,
    packed_frequencies,
    save_pose_network,
    train_pose_network,
)
from cryoprism.structure.orientations import angular_distance
from cryoprism.workflow import refine_session
from cryoprism.workflow.maps.pose_file import fitting_network, proposals_of
from cryoprism.workflow.particles.data import load_particles

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "structure"))
from posed_particles import BOX, PIXEL, density
from refine_sets import COUNT, DIAMETER, config, make_project

# What to be careful about is said as a warning; here it is no error.
pytestmark = pytest.mark.filterwarnings("ignore::cryoprism.core.CryoPrismWarning")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("refine"))


@pytest.fixture(scope="module")
def stored(project: Path) -> Path:
    """A network trained on the particle in a larger box of other pixels than the images have."""
    side, pixel = 40, 2.0
    volume = density()
    volume = fourier_resampled(volume, PIXEL, pixel, side)
    config = PoseNetworkConfig(
        radius=10, diameter_in_pixels=DIAMETER / pixel, order=1, channels=48, steps=120, batch=48, rate=5e-3
    )
    k = packed_frequencies(10).float().norm(dim=1) / (side * pixel)
    defocus = 9000 + 9000 * torch.rand(200, 1, generator=generator_for(1, "stored"))
    transfer = torch.sin(math.pi * 0.0197 * defocus * k**2 + 0.1)
    noise = torch.full((11,), 0.3 * float(volume.sum(0).var()) * side * side)
    network = train_pose_network(FourierVolume.from_map(volume), transfer, noise, config)
    save_pose_network(project / "poses.safetensors", StoredPoseNetwork(network, pixel))
    return project / "poses.safetensors"


def fourier_resampled(volume: torch.Tensor, old: float, new: float, side: int) -> torch.Tensor:
    """Density (side, side, side) of the same particle at other voxels: its transform cut off, in a box that fits."""
    box = round(side * new / old)
    padded = torch.nn.functional.pad(volume, [box // 2 - BOX // 2, box - BOX - (box // 2 - BOX // 2)] * 3)
    cut = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(padded)))
    a = box // 2 - side // 2
    cut = cut[a : a + side, a : a + side, a : a + side]
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(cut))).real * (side / box) ** 3


@pytest.mark.slow
def test_a_pose_network_can_be_the_start_and_says_what_it_cost(project: Path, tmp_path: Path) -> None:
    settings = config(project, tmp_path / "run", pose_network=True, pose_network_steps=60, iterations=2)
    summary = refine_session(settings)
    curve = fourier_shell_correlation(read_map(summary.output / "map.mrc").data, density(), PIXEL)
    assert curve.crossing(0.5).resolution_in_angstroms < 9.0
    log = (summary.output / "run.log").read_text()
    assert f"s for {COUNT} particles" in log
    assert log.index("Pose network trained") < log.index("log evidence lost") < log.index("Refining: 1 of")
    note = json.loads((summary.output / "job.json").read_text())["notes"]["pose_network"]
    assert note["training_seconds"] > 1.0
    assert note["saved_seconds"] < COUNT * note["search_seconds"]
    with pytest.raises(InputError, match="--pose-network"):
        config(project, tmp_path, pose_network=True, helical_rise_in_angstroms=5.0, helical_twist_in_degrees=30.0)


def test_a_network_from_a_file_finds_poses_in_images_of_another_box(project: Path, stored: Path) -> None:
    settings = config(project, project / "unused", pose_network_file=stored)
    network = fitting_network(settings, BOX, PIXEL)
    assert network is not None
    truth = read_particles(project / "posed.star")
    data = load_particles(read_particles(project / "input.star"), BOX, PIXEL, diameter_in_angstroms=DIAMETER)
    assert len(data.particles) == len(truth)
    assert network.box_at(PIXEL) != data.box
    found = proposals_of(network, data, 4)
    angles = truth.angles_in_degrees
    assert angles is not None
    error = angular_distance(found[:, 0], euler_to_matrix(*angles.unbind(-1)).float())
    # Chance is 126°.
    assert float(error.median()) < 60


def test_a_pose_network_from_a_file_can_be_the_start(project: Path, stored: Path, tmp_path: Path) -> None:
    summary = refine_session(config(project, tmp_path / "run", pose_network_file=stored, iterations=1))
    assert "Pose network: trained before" in (summary.output / "run.log").read_text()
    note = json.loads((summary.output / "job.json").read_text())["notes"]["pose_network"]
    assert note["training_seconds"] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"symmetry": "D2"}, "was trained for C1, not D2"),
        ({"diameter_in_angstroms": 40.0}, "was trained for a particle of 56"),
        ({"scaled_box_in_pixels": 16}, "--scale"),
        ({"pose_network_file": "reference.mrc"}, "is no safetensors file"),
        ({"pose_network_file": "nowhere.safetensors"}, "does not exist"),
    ],
)
def test_networks_that_do_not_fit_are_named(
    project: Path, stored: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    if "pose_network_file" in changes:
        changes = {"pose_network_file": project / str(changes["pose_network_file"])}
    with pytest.raises(InputError) as error:
        refine_session(config(project, tmp_path / "run", **({"pose_network_file": stored} | changes)))
    assert words in str(error.value)
    assert not (tmp_path / "run").exists()
