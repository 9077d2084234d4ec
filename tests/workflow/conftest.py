import pytest
from synthetic_sets import config_for

from cryoprism.formats import Volume, write_map
from cryoprism.synthesis import Scene, SessionConfig, phantom, simulate_session, specimen_from_phantom, specimen_volume
from cryoprism.workflow import synthesize_session


@pytest.fixture(scope="session")
def session(tmp_path_factory):
    """Two simulated micrographs that stand for real ones, and the map of their particle."""
    folder = tmp_path_factory.mktemp("session")
    base = Scene(height_in_pixels=448, width_in_pixels=480, pixel_size_in_angstroms=2.5)
    simulate_session(
        SessionConfig(
            output=folder / "real",
            micrographs=2,
            seed=4,
            recipe="clean",
            base=base,
            particles=30,
            ice_thickness_in_angstroms=160.0,
            engine="projection",
        )
    )
    volume = specimen_volume(specimen_from_phantom(phantom("shell")), 2.5, 30.0)
    write_map(folder / "shell.mrc", Volume(volume, 2.5))
    return folder


@pytest.fixture(scope="session")
def made(session, tmp_path_factory):
    """Two synthetic micrographs with everything at its default."""
    return synthesize_session(config_for(session, tmp_path_factory.mktemp("made") / "set"))
