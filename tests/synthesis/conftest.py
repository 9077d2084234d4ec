import pytest
import torch

from cryoprism.synthesis import Scene, phantom, specimen_from_phantom


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def shell():
    return specimen_from_phantom(phantom("shell"))


@pytest.fixture(scope="session")
def small_scene():
    return Scene(
        name="small",
        seed=3,
        height_in_pixels=300,
        width_in_pixels=256,
        pixel_size_in_angstroms=2.0,
        particle_count=6,
        exposure_in_electrons_per_square_angstrom=30.0,
        ice_thickness_in_angstroms=250.0,
    )
