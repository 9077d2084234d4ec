"""A disk that fills up: one line that names the folder, what was free and what to do, and nothing half-written."""

import gc
import importlib.util
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cryoprism.cli import main
from cryoprism.core import OutputError
from cryoprism.evaluation.databases import written_database
from cryoprism.evaluation.impact import simulate_citations

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation" / "novelty"))
from made_shapes import blob_rows, write_pdb

EVALUATION = Path(__file__).parents[1] / "evaluation"
spec = importlib.util.spec_from_file_location("simulated_dumps_full_disk", EVALUATION / "impact/simulated_dumps.py")
dumps = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dumps)


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(one) for one in arguments])
    return int(stopped.value.code or 0)


def said(capsys):
    """The error: one line, and no traceback."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return next(line for line in text.splitlines() if line.startswith("Error"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    place = tmp_path_factory.mktemp("inputs")
    dumps.write_openalex(place / "works.gz", simulate_citations(1200, seed=2, patents=0.3))
    (place / "models").mkdir()
    for seed in range(3):
        write_pdb(place / f"models/blob{seed}.pdb", blob_rows(seed))
    return place


@pytest.fixture
def full(monkeypatch):
    """SQLite finds the disk full beyond so many pages of 4 kB: its own error, at its own place."""

    def beyond(pages):
        connect = sqlite3.connect

        def connected(path, *arguments, **more):
            base = connect(path, *arguments, **more)
            if not more.get("uri"):
                base.execute(f"PRAGMA max_page_count={pages}")
            return base

        monkeypatch.setattr(sqlite3, "connect", connected)

    return beyond


@pytest.mark.parametrize("pages", [2, 12, 20])
def test_a_graph_that_does_not_fit_is_one_error_and_leaves_nothing(inputs, tmp_path, capsys, full, pages):
    full(pages)
    assert run("impact", "build", inputs / "works.gz", "--out", tmp_path / "graph") == 2
    line = said(capsys)
    assert f"{tmp_path / 'graph'}: the disk is full (" in line
    assert "MB were free" in line
    assert "--out" in line
    assert not (tmp_path / "graph").exists()


def test_forecasts_that_do_not_fit_are_one_error_and_leave_nothing(inputs, tmp_path, capsys, full):
    assert run("impact", "build", inputs / "works.gz", "--out", tmp_path / "graph") == 0
    capsys.readouterr()
    full(2)
    call = ("impact", "train", tmp_path / "graph", "--model", "preferential attachment", "--out", tmp_path / "told")
    assert run(*call) == 2
    assert f"{tmp_path / 'told'}: the disk is full (" in said(capsys)
    assert not (tmp_path / "told").exists()


@pytest.mark.parametrize("pages", [1, 4])
def test_an_index_that_does_not_fit_is_one_error_and_leaves_nothing(inputs, tmp_path, capsys, full, pages):
    pytest.importorskip("faiss")
    full(pages)
    assert run("novelty", "build", inputs / "models", "--out", tmp_path / "known") == 2
    assert f"{tmp_path / 'known'}: the disk is full (" in said(capsys)
    assert not (tmp_path / "known").exists()


def test_an_index_whose_page_cannot_be_written_leaves_nothing(inputs, tmp_path, capsys, monkeypatch):
    pytest.importorskip("faiss")
    replace = os.replace

    def refuse(source, target):
        if Path(target).name == "index.json":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    assert run("novelty", "build", inputs / "models", "--out", tmp_path / "known") == 2
    assert "No space left" in said(capsys)
    assert not (tmp_path / "known").exists()


def test_adding_to_an_index_that_does_not_fit_leaves_it_as_it_was(inputs, tmp_path, capsys, full):
    pytest.importorskip("faiss")
    first = inputs / "models/blob0.pdb"
    assert run("novelty", "build", first, "--out", tmp_path / "known") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "known").glob("*-000001.*")}
    capsys.readouterr()
    full(1)
    assert run("novelty", "add", inputs / "models", "--index", tmp_path / "known", "--out", tmp_path / "added") == 2
    assert "the disk is full" in said(capsys)
    assert {path.name: path.read_bytes() for path in (tmp_path / "known").glob("*-000001.*")} == before
    assert not list((tmp_path / "known").glob("*-000002.*"))


def test_proofs_without_their_certificate_do_not_stay(inputs, tmp_path, capsys, monkeypatch):
    from cryoprism.evaluation.consistency import Consistency

    def refuse(self, folder):
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(Consistency, "write_certificate", refuse)
    assert run("prove", inputs / "models/blob0.pdb", "--out", tmp_path / "proved") != 0
    assert "the disk is full" in said(capsys)
    assert not (tmp_path / "proved").exists()


def test_other_errors_of_writing_are_said_and_errors_of_programming_are_not_hidden(tmp_path):
    with pytest.raises(OutputError, match="unable to open"), written_database(tmp_path / "absent/a.sqlite"):
        sqlite3.connect(tmp_path / "absent/a.sqlite").execute("CREATE TABLE t(x)")
    with pytest.raises(sqlite3.ProgrammingError), written_database(tmp_path / "a.sqlite"):
        sqlite3.connect(tmp_path / "a.sqlite").execute("SELECT ?", ())


@pytest.fixture
def small_disk():
    """A disk of 200 kB, where one can be mounted; outside of pytest's folders, which it could not remove."""
    if os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting takes root")
    place = Path(tempfile.mkdtemp(prefix="cryoprism-disk-"))
    try:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", place], capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            yield place
        finally:
            gc.collect()  # a connection in a traceback keeps the disk busy
            subprocess.run(["umount", "-l", place], check=True)
    finally:
        place.rmdir()


@pytest.mark.parametrize("taken", [185, 120, 60, 0])
def test_a_disk_that_is_really_full(inputs, small_disk, capsys, taken):
    pytest.importorskip("faiss")
    (small_disk / "filler").write_bytes(bytes(1024 * taken))
    assert run("impact", "build", inputs / "works.gz", "--out", small_disk / "graph") == 2
    assert "the disk is full" in said(capsys)
    code = run("novelty", "build", inputs / "models", "--out", small_disk / "known")
    if code:
        assert code == 2
        said(capsys)
    left = {str(path.relative_to(small_disk)) for path in small_disk.rglob("*")} - {"filler"}
    assert not any(name.startswith("graph") for name in left)
    assert code == 0 or not left
