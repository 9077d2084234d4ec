"""Steps that one command ran in folders of its own, as ``process`` does, are read as parts of the chain."""

import pytest
from recorded_jobs import items_of, missing, write_job

from cryoprism.evaluation.reproducibility import chain_of, judge_reproducibility, read_record
from cryoprism.evaluation.reproducibility.rerun import _seen

STAR = """
data_micrographs

loop_
_rlnMicrographName #1
_rlnDefocusU #2
_rlnDefocusV #3
raw/a.mrc 12000 11000
raw/b.mrc 24000 22000
"""
TYPED = ["cryoprism", "process", "raw/a.mrc", "raw/b.mrc", "--out", "run"]
DEFOCI = (
    "smallest defocus (em_imaging.nominal_defocus_min)",
    "largest defocus (em_imaging.nominal_defocus_max)",
)


@pytest.fixture
def run(project):
    """A ``process`` job with two of its steps, and the job of another command in its folder."""
    raw = ["raw/a.mrc", "raw/b.mrc"]
    write_job(project, "run", "Process", raw, ["map.mrc", "half1.mrc", "half2.mrc"], command=TYPED)
    restore = write_job(project, "run/Restore", "Restore", raw, command=TYPED)
    (restore / "micrographs.star").write_text(STAR)
    later = {"command": TYPED, "started": "2026-01-01T00:00:30+00:00"}
    write_job(project, "run/Refine", "Refine", ["run/Restore/micrographs.star"], **later)
    write_job(project, "run/judged", "Assess", ["run/map.mrc"], command=["cryoprism", "assess", "model.pdb"])
    return project


def test_defocus_is_found_in_the_restoration_of_a_process_job(run):
    items = items_of(run, "run")
    values = {item.name: item.found for item in items}
    assert [values[name] for name in DEFOCI] == ["1150 nm (fitted)", "2300 nm (fitted)"]
    assert not set(DEFOCI) & set(missing(items, "deposition"))
    (run / "run/Restore/job.json").unlink()
    assert set(DEFOCI) <= set(missing(items_of(run, "run"), "deposition"))


def test_the_chain_has_the_steps_and_no_job_of_another_command(run):
    chain = chain_of(read_record(run / "run"))
    assert [one.kind for one in chain] == ["Process", "Refine", "Restore"]
    assert "3 jobs" in judge_reproducibility(run / "run", rerun=False).verdict()


def test_what_is_wrong_with_a_step_is_found(run):
    write_job(run, "run/Refine", "Refine", ["run/Restore/micrographs.star"], command=TYPED, seed=None)
    assert set(missing(items_of(run, "run"), "parameters")) == {"seed of Refine (Refine)"}


def test_a_step_that_cannot_be_read_is_left_out(run):
    (run / "run/Refine/job.json").write_text("{")
    assert [one.kind for one in chain_of(read_record(run / "run"))] == ["Process", "Restore"]


def test_a_repeat_does_not_see_the_folder_that_it_repeats(run):
    record = read_record(run / "run")
    assert (run / "run").resolve() not in _seen(record, chain_of(record))
    assert (run / "raw").resolve() in _seen(record, chain_of(record))
