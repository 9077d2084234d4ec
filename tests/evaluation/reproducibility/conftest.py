"""A project of recorded jobs."""

import pytest
from recorded_jobs import write_job


@pytest.fixture
def project(tmp_path):
    """Raw images, extraction, refinement and resolution."""
    (tmp_path / "raw").mkdir()
    for name in ("a.mrc", "b.mrc"):
        (tmp_path / "raw" / name).write_text(name)
    write_job(tmp_path, "Extract/job001", "Extract", ["raw/a.mrc", "raw/b.mrc"], ["particles.star", "particles/a.mrcs"])
    write_job(tmp_path, "Refine/job002", "Refine", ["Extract/job001/particles.star"], ["half1.mrc", "half2.mrc"])
    halves = ["Refine/job002/half1.mrc", "Refine/job002/half2.mrc"]
    write_job(tmp_path, "Resolution/job003", "Resolution", halves, ["mask.mrc"])
    return tmp_path
