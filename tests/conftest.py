"""Where the real data are, and skipping of what this machine cannot run."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def data_folder() -> Path:
    """Folder of the real data: CRYOPRISM_DATA, or shared/data beside the checkout."""
    return Path(os.environ.get("CRYOPRISM_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data; the test is skipped where it is absent."""
    folder = data_folder()
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; CRYOPRISM_DATA names another folder")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need the real data or RELION where these are absent, with the reason."""
    folder = data_folder()
    no_data = pytest.mark.skip(reason=f"no real data in {folder}; CRYOPRISM_DATA names another folder")
    no_relion = pytest.mark.skip(reason="RELION is not on the PATH (Debian package: relion)")
    for item in items:
        if item.get_closest_marker("real") and not folder.is_dir():
            item.add_marker(no_data)
        if item.get_closest_marker("relion") and shutil.which("relion_image_handler") is None:
            item.add_marker(no_relion)
