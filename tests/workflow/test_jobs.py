import errno
import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.workflow import FAILURE_MARKER, SUCCESS_MARKER, RestoreConfig, SimulateConfig, open_job
from cryoprism.workflow.jobs.job import _logging_to


def config_for(path, **values):
    return RestoreConfig(inputs="a.mrc", output=path, **values)


def markers(path):
    return {name for name in (SUCCESS_MARKER, FAILURE_MARKER) if (path / name).exists()}


def run_once(path, source, **values):
    with open_job("Restore", config_for(path, **values)) as job:
        output = job.folder("views") / "a.mrc"
        output.write_bytes(b"12345")
        job.mark_done("a", stage="restore", source=source, outputs=[output], depends_on="p1", result={"defocus": 1.5})


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.mrc"
    path.write_bytes(b"image")
    return path


def test_job_json_says_what_was_run_on_what(tmp_path, source):
    run = tmp_path / "run"
    with open_job("Restore", config_for(run, seed=7)) as job:
        job.record_inputs([source])
        job.note("rings", 3)
        assert not markers(run)
    record = json.loads((run / "job.json").read_text())
    assert record["seed"] == 7
    assert record["status"] == "success"
    assert record["inputs"][0]["bytes"] == 5
    assert record["versions"]["cryoprism"]
    assert record["notes"] == {"rings": 3}
    assert record["finished"] >= record["started"]
    assert RestoreConfig.from_file(run / "job.json") == config_for(run, seed=7)
    assert markers(run) == {SUCCESS_MARKER}


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "failure"), (KeyboardInterrupt, "interrupted"), (SystemExit, "failure")]
)
def test_a_run_that_does_not_finish_leaves_the_failure_marker_alone(tmp_path, source, error, status):
    run = tmp_path / "run"
    with pytest.raises(error), open_job("Restore", config_for(run)):
        raise error
    assert markers(run) == {FAILURE_MARKER}
    assert json.loads((run / "job.json").read_text())["status"] == status
    run_once(run, source, only_do_unfinished=True)
    assert markers(run) == {SUCCESS_MARKER}


def test_what_is_done_is_done_until_something_that_matters_changes(tmp_path, source):
    run = tmp_path / "run"
    run_once(run, source)

    def done(depends_on="p1", **values):
        with open_job("Restore", config_for(run, only_do_unfinished=True, **values)) as job:
            return job.is_done("a", stage="restore", source=source, depends_on=depends_on)

    assert done()
    assert done(workers=3)
    assert not done(depends_on="p2")
    source.touch()
    assert done()
    source.write_bytes(b"imagE")
    assert not done()
    source.write_bytes(b"image")
    assert done()
    (run / "views" / "a.mrc").write_bytes(b"123")
    assert not done()
    (run / "views" / "a.mrc").unlink()
    assert not done()


def test_a_job_goes_on_with_its_own_options_only(tmp_path, source):
    run = tmp_path / "run"
    run_once(run, source)
    kept = (run / "job.json").read_text()
    found = r"run: was begun with other options: --seed was 0, now 1; --min-defocus was 3000, now 4000\..*--overwrite"
    changed = config_for(run, only_do_unfinished=True, lowest_defocus_in_angstroms=4000.0, seed=1)
    with pytest.raises(InputError, match=found), open_job("Restore", changed):
        pass
    assert (run / "job.json").read_text() == kept
    assert markers(run) == {SUCCESS_MARKER}
    with open_job("Restore", changed, in_stages=True):
        pass
    run_once(run, source, seed=3, overwrite=True)
    with open_job("Restore", config_for(run, only_do_unfinished=True, seed=3)) as job:
        assert job.is_done("a", stage="restore", source=source, depends_on="p1")


def test_inputs_that_changed_are_named(tmp_path, source):
    run, curve = tmp_path / "run", tmp_path / "mtf.star"
    with open_job("Restore", config_for(run)) as job:
        job.record_inputs([source])
        job.mark_done("a", stage="restore")
    with open_job("Restore", config_for(run, only_do_unfinished=True)) as job:
        pass  # skipped: what was read stays on record
    assert json.loads((run / "job.json").read_text())["inputs"][0]["bytes"] == 5
    assert "done again" not in (run / "run.log").read_text()
    source.write_bytes(b"imagE")
    with open_job("Restore", config_for(run, only_do_unfinished=True, mtf_file=curve)) as job:
        job.record_inputs([source])
    text = (run / "run.log").read_text()
    assert f"--mtf was not given, now {curve}: what depends on it is done again" in text
    assert f"{source} has changed since the earlier run" in text


def refused(path, act=lambda job: job.folder("deep/er"), error=InputError, **values):
    def work():
        with open_job("Restore", config_for(path, **values)) as job:
            job.folder("views")
            act(job)
            raise error("--mask", "has another box", "Give one of the map.")

    with pytest.raises(error):
        work()


def test_a_refused_run_leaves_nothing_in_the_way(tmp_path, source):
    refused(tmp_path / "a" / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mrc"]
    run_once(tmp_path / "a" / "b", source)
    with pytest.raises(InputError), open_job("Restore", config_for(None), root=tmp_path):
        raise InputError("a", "b", "c")
    assert not (tmp_path / "Restore").exists()
    # An error that nobody foresaw keeps its log, and is no obstacle either.
    refused(tmp_path / "odd", error=ValueError)
    assert "Traceback" in (tmp_path / "odd" / "run.log").read_text()
    run_once(tmp_path / "odd", source)


def test_a_refused_run_in_a_folder_that_was_there_keeps_its_marker(tmp_path, source):
    run = tmp_path / "job004"
    run.mkdir()
    for name in ("run.out", "run.err", "note.txt", "job.star"):
        (run / name).write_text("RELION's")
    refused(run)
    assert markers(run) == {FAILURE_MARKER}
    assert "has another box" in (run / "run.log").read_text()
    run_once(run, source)
    assert markers(run) == {SUCCESS_MARKER}
    assert (run / "note.txt").read_text() == "RELION's"


def test_what_came_out_or_is_not_ours_stays(tmp_path, source):
    run = tmp_path / "run"
    refused(run, lambda job: (job.path / "views" / "a.mrc").write_bytes(b"12345"))
    assert (run / "views" / "a.mrc").read_bytes() == b"12345"
    assert markers(run) == {FAILURE_MARKER}
    with pytest.raises(InputError, match="already holds"), open_job("Restore", config_for(run)):
        pass
    # What a user put there while the job was running.
    refused(tmp_path / "note", lambda job: (job.path / "thesis.txt").write_text("precious"))
    assert (tmp_path / "note" / "thesis.txt").read_text() == "precious"
    refused(tmp_path / "link", lambda job: (job.path / "views" / "a.mrc").symlink_to(source))
    assert (tmp_path / "link" / "views" / "a.mrc").is_symlink()
    assert markers(tmp_path / "link") == {FAILURE_MARKER}
    # An empty folder in a folder that no run has seen is somebody's.
    other = tmp_path / "data" / "raw"
    other.mkdir(parents=True)
    with pytest.raises(InputError, match="already holds"), open_job("Restore", config_for(other.parent)):
        pass
    # A finished job is not lost to a refused repetition.
    done = tmp_path / "done"
    run_once(done, source)
    refused(done, overwrite=True)
    assert (done / "views" / "a.mrc").read_bytes() == b"12345"


def test_results_come_back_and_stages_and_names_are_apart(tmp_path, source):
    run = tmp_path / "run"
    run_once(run, source)
    with open_job("Restore", config_for(run, only_do_unfinished=True)) as job:
        assert job.done_result("a", stage="restore") == {"defocus": 1.5}
        assert job.done_result("a", stage="estimate") is None
        assert not job.is_done("b", stage="restore")
        job.mark_done("x/a", stage="restore", result=1)
        job.mark_done("y/a", stage="restore", result=2)
        assert job.done_result("x/a", stage="restore") == 1
        assert job.done_result("a", stage="restore") == {"defocus": 1.5}


def test_overwrite_forgets_what_was_done(tmp_path, source):
    run = tmp_path / "run"
    run_once(run, source)
    with open_job("Restore", config_for(run, overwrite=True)) as job:
        assert not job.is_done("a", stage="restore", source=source, depends_on="p1")


def test_old_results_are_never_mixed_with_new_ones_unasked(tmp_path, source):
    run = tmp_path / "run"
    run_once(run, source)
    with pytest.raises(InputError, match="--only-do-unfinished"), open_job("Restore", config_for(run)):
        pass
    assert markers(run) == {SUCCESS_MARKER}
    with (
        pytest.raises(InputError, match="a Restore job, not a Simulate job"),
        open_job("Simulate", SimulateConfig(output=run, overwrite=True)),
    ):
        pass
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("precious")
    with pytest.raises(InputError, match="no CryoPrism job"), open_job("Restore", config_for(other, overwrite=True)):
        pass
    assert sorted(path.name for path in other.iterdir()) == ["chapter.txt"]
    with pytest.raises(InputError, match="is a file"), open_job("Restore", config_for(source)):
        pass


def test_a_folder_that_relion_has_prepared_counts_as_empty(tmp_path):
    run = tmp_path / "External" / "job004"
    run.mkdir(parents=True)
    for name in ("run.out", "run.err", "note.txt", "job.star", "job_pipeline.star"):
        (run / name).touch()
    with open_job("Restore", config_for(run)) as job:
        job.write_relion_output_nodes({"micrographs.star": 1})
    assert markers(run) == {SUCCESS_MARKER}
    assert f"{run.as_posix()}/micrographs.star 1" in (run / "RELION_OUTPUT_NODES.star").read_text()


def test_jobs_are_numbered_after_the_highest(tmp_path):
    for expected in ("job001", "job002"):
        with open_job("Restore", config_for(None), root=tmp_path) as job:
            assert job.path == tmp_path / "Restore" / expected
    (tmp_path / "Restore" / "job041").mkdir()
    with open_job("Restore", config_for(None), root=tmp_path) as job:
        assert job.path.name == "job042"


def test_two_runs_cannot_write_into_one_folder(tmp_path):
    run = tmp_path / "run"
    with open_job("Restore", config_for(run)):
        again = config_for(run, only_do_unfinished=True)
        with pytest.raises(InputError, match="another run is writing"), open_job("Restore", again):
            pass
        assert not markers(run)
    with open_job("Restore", again):
        pass


def test_the_log_holds_messages_warnings_and_the_traceback(tmp_path, monkeypatch):
    run = tmp_path / "run"
    log = logging.getLogger("cryoprism")
    level, handlers = log.level, list(log.handlers)
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *rest: shown.append(str(message)))

    def fail():
        with open_job("Restore", config_for(run)):
            log.info("fitting %s", "a.mrc")
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn("pixel size is 1.0 in the header", CryoPrismWarning, stacklevel=1)
            raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        fail()
    assert shown == ["pixel size is 1.0 in the header"]
    text = (run / "run.log").read_text()
    assert "fitting a.mrc" in text
    assert "WARNING pixel size is 1.0 in the header" in text
    assert "Traceback" in text
    assert log.level == level
    assert log.handlers == handlers


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_makes_the_log_silent_and_names_the_folder(tmp_path, capsys):
    with _logging_to(Path("/dev/full")):
        logging.getLogger("cryoprism").warning("lost")
    assert capsys.readouterr().err == ""

    def fill():
        with open_job("Restore", config_for(tmp_path / "run")):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        fill()
    assert caught.value.filename == str(tmp_path / "run")
    assert not (tmp_path / "run").exists()


KILLED = """
import os, signal, sys
from cryoprism.workflow import RestoreConfig, atomic_path, open_job
run, source = sys.argv[1:]
with open_job("Restore", RestoreConfig(inputs=source, output=run)) as job:
    job.mark_done("a", stage="restore", source=source)
    with atomic_path(job.folder("views") / "b.mrc") as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_no_marker_and_resumes_without_its_half_written_file(tmp_path, source):
    run = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(run), str(source)], check=False)
    assert killed.returncode == -9
    assert not markers(run)
    assert len(list((run / "views").iterdir())) == 1
    config = RestoreConfig(inputs=str(source), output=run, only_do_unfinished=True)
    with open_job("Restore", config) as job:
        assert job.is_done("a", stage="restore", source=source)
        assert list((run / "views").iterdir()) == []
