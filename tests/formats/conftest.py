from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

DATA = Path(os.environ.get("CRYOPRISM_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


@pytest.fixture
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"real data folder {DATA} is absent (set CRYOPRISM_DATA)")
    return DATA


@pytest.fixture
def relion() -> str:
    if shutil.which("relion_image_handler") is None:
        pytest.skip("RELION is not on the PATH")
    return "relion"
