"""Errors of assess, novelty and weights name the file, what is wrong with it, and what helps."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from cryoprism.cli import main
from cryoprism.core import InputError
from cryoprism.evaluation import documents
from cryoprism.evaluation.fusion import COMPONENTS
from cryoprism.evaluation.fusion.shaping import LearnedShape
from cryoprism.evaluation.fusion.weights import Shape, default_shape
from cryoprism.evaluation.reproducibility import read_record
from cryoprism.formats import write_mrc

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation" / "novelty"))
from made_shapes import blob_rows, helix, write_pdb


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(one) for one in arguments])
    return int(stopped.value.code or 0)


@pytest.fixture
def denied(monkeypatch):
    """A file or folder that this user may not read, also where the user is root."""
    forbidden = []
    read, may = Path.read_text, os.access

    def read_text(self, *arguments, **more):
        if self in forbidden:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *arguments, **more)

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in forbidden and may(path, mode))
    return forbidden


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff\n"])
def test_a_file_without_judgements_is_refused(tmp_path, capsys, text):
    (tmp_path / "said.jsonl").write_text(text)
    assert run("weights", "learn", tmp_path / "said.jsonl", "--out", tmp_path / "out") == 2
    assert f"{tmp_path / 'said.jsonl'}: holds no judgement" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_agreement_on_the_judgements_that_were_learned_from_is_said_to_be_that(tmp_path, capsys):
    generator = np.random.default_rng(1)
    lines = []
    for _ in range(30):
        a, b = ({name: float(x) for name, x in zip(COMPONENTS, generator.random(5), strict=True)} for _ in "ab")
        lines.append(json.dumps({"a": a, "b": b, "better": "a" if a["meta"] > b["meta"] else "b"}))
    (tmp_path / "said.jsonl").write_text("\n".join(lines))
    assert run("weights", "learn", tmp_path / "said.jsonl", "--no-shape", "--out", tmp_path / "out") == 0
    assert "the ones that it was learned from" in capsys.readouterr().out


def test_the_best_of_many_shapes_is_said_to_look_better_than_it_is():
    found = LearnedShape(Shape(2.0, 0.0, 1.0), Shape(2.0, 0.0, 1.0), 0.13, 0.05, 150, 60)
    kept = LearnedShape(default_shape(), Shape(2.0, 0.0, 1.0), 0.01, 0.05, 150, 60)
    for one in (found, kept):
        assert "best of 60 tried on the same pairs it looks better than it is" in one.sentence()
        assert "held-out pairs" not in one.sentence()


def test_a_record_that_may_not_be_read_is_not_to_be_run_again(tmp_path, denied):
    (tmp_path / "job.json").write_text("{}")
    denied.append(tmp_path / "job.json")
    with pytest.raises(InputError) as caught:
        read_record(tmp_path)
    assert "permission denied" in caught.value.found
    assert "chmod" in caught.value.remedy
    denied.clear()
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(InputError, match="half written") as caught:
        read_record(tmp_path)
    assert caught.value.remedy == "Run the job again."


def test_why_a_document_may_not_be_read_is_its_cause(tmp_path, denied):
    (tmp_path / "a.json").write_text("{}")
    denied.append(tmp_path / "a.json")
    with pytest.raises(documents.UnreadableError, match="permission denied") as caught:
        documents.read_json(tmp_path / "a.json")
    assert isinstance(caught.value.__cause__, PermissionError)


@pytest.mark.parametrize("command", ["prove", "assess"])
def test_a_map_of_nothing_is_named(tmp_path, capsys, command):
    write_pdb(tmp_path / "helix.pdb", helix(6))
    write_mrc(tmp_path / "flat.mrc", np.full((8, 8, 8), 2.0, dtype=np.float32), 1.5, volume=True)
    assert run(command, tmp_path / "helix.pdb", "--map", tmp_path / "flat.mrc", "--out", tmp_path / "out") == 2
    assert f"{tmp_path / 'flat.mrc'}: is empty: all voxels are the same" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def without_size(tmp_path):
    """A map whose header gives no voxel size."""
    path = tmp_path / "none.mrc"
    write_mrc(path, np.random.default_rng(0).random((24, 24, 24), dtype=np.float32), 1.5, volume=True)
    content = bytearray(path.read_bytes())
    content[40:52] = bytes(12)  # the sides of the cell
    path.write_bytes(content)
    return path


def test_novelty_names_the_option_where_a_map_has_no_voxel_size(tmp_path, capsys, without_size):
    pytest.importorskip("faiss")
    write_pdb(tmp_path / "blob.pdb", blob_rows(0))
    assert run("novelty", "build", tmp_path / "blob.pdb", "--out", tmp_path / "known") == 0
    capsys.readouterr()
    assert run("novelty", "query", without_size, "--index", tmp_path / "known", "--out", tmp_path / "asked") == 2
    assert "--pixel-size" in capsys.readouterr().err
    assert run("novelty", "build", without_size, "--out", tmp_path / "other") == 2
    assert "--pixel-size" in capsys.readouterr().err


def test_novelty_says_that_a_folder_may_not_be_read(tmp_path, capsys, denied):
    pytest.importorskip("faiss")
    (tmp_path / "closed").mkdir()
    denied.append(tmp_path / "closed")
    assert run("novelty", "build", tmp_path / "closed", "--out", tmp_path / "known") == 2
    assert "permission denied" in capsys.readouterr().err
    denied.clear()
    assert run("novelty", "build", tmp_path / "closed", "--out", tmp_path / "known") == 2
    assert "holds no map" in capsys.readouterr().err
