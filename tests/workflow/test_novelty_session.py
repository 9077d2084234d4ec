"""``cryoprism novelty`` from the command line: build, add, query, and what goes wrong."""

import inspect
import json
import sys
from pathlib import Path

import jsonschema
import pytest

from cryoprism.cli import main, novelty
from cryoprism.workflow import NoveltyAddConfig, NoveltyBuildConfig, NoveltyQueryConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation" / "novelty"))
from made_shapes import blob_rows, write_pdb

SCHEMA = json.loads(
    (Path(__file__).resolve().parents[2] / "src/cryoprism/workflow/schemas/novelty.schema.json").read_text("utf-8")
)
pytest.importorskip("faiss", reason="faiss is not installed (the extra 'assess')")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed in range(3):
        write_pdb(folder / f"blob{seed}.pdb", blob_rows(seed))
    (folder / "README.txt").write_text("not a structure")
    return folder


@pytest.fixture(scope="module")
def index(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "known"
    assert run("novelty", "build", models, "--out", folder) == 0
    return folder


def test_build_writes_an_index_and_the_record_of_a_job(index):
    page = json.loads((index / "index.json").read_text())
    assert page["count"] == 3
    assert (index / "RELION_JOB_EXIT_SUCCESS").exists()
    assert json.loads((index / "job.json").read_text())["notes"]["entries"] == 3


def test_query_writes_the_answer_and_pictures(index, tmp_path, capsys):
    copy = write_pdb(tmp_path / "copy <1>.pdb", blob_rows(1, turn=3))
    assert run("novelty", "query", copy, "--index", index, "--out", tmp_path / "q") == 0
    document = json.loads((tmp_path / "q" / "novelty.json").read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid({**document, "value": 1.5})
    assert document["evidence"]["neighbours"][0]["name"] == "blob1"
    page = (tmp_path / "q" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 * 4
    assert "copy &lt;1&gt;" in page
    assert "hand is not seen" in page
    assert "blob1" in capsys.readouterr().out


def test_query_without_an_index_is_no_error_and_no_number(models, tmp_path, capsys):
    assert run("novelty", "query", models / "blob0.pdb", "--out", tmp_path / "q") == 0
    document = json.loads((tmp_path / "q" / "novelty.json").read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert (document["status"], document["value"]) == ("not available", None)
    assert "novelty build" in capsys.readouterr().out


def test_add_takes_new_files_and_leaves_known_ones_out(models, tmp_path, capsys):
    folder = tmp_path / "known"
    assert run("novelty", "build", models / "blob0.pdb", "--out", folder) == 0
    assert run("novelty", "add", models, "--index", folder, "--out", tmp_path / "add") == 0
    assert "2 shapes added" in capsys.readouterr().out
    assert json.loads((folder / "index.json").read_text())["count"] == 3


def test_files_that_cannot_be_used_are_named_and_the_others_kept(models, tmp_path, capsys):
    bad = tmp_path / "bad.pdb"
    bad.write_text("hello\n")
    assert run("novelty", "build", models / "blob0.pdb", bad, "--out", tmp_path / "k") == 1
    assert "bad.pdb" in capsys.readouterr().out
    assert json.loads((tmp_path / "k" / "index.json").read_text())["count"] == 1


def test_nothing_is_left_where_no_file_can_be_used(tmp_path, capsys):
    bad = tmp_path / "bad.pdb"
    bad.write_text("hello\n")
    assert run("novelty", "build", bad, "--out", tmp_path / "k") == 2
    assert "bad.pdb" in capsys.readouterr().err
    assert not (tmp_path / "k").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "nowhere", "--out", "k"), "does not exist"),
        (("build", ".", "--out", "k"), "holds no map and no model"),
        (("add", "a.pdb", "--index", "none", "--out", "k"), "does not exist"),
        (("query", "none.pdb", "--out", "k"), "does not exist"),
        (("query", "--out", "k"), "MODEL_OR_MAP: nothing was given"),
    ],
)
def test_slips_get_one_line_and_leave_nothing(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert run("novelty", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "k").exists()


def test_an_index_that_was_named_has_to_be_there(models, tmp_path, capsys):
    assert run("novelty", "query", models / "blob0.pdb", "--index", tmp_path / "none", "--out", tmp_path / "q") == 2
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "q").exists()


def test_a_damaged_index_is_one_line(models, index, tmp_path, capsys):
    copy = tmp_path / "broken"
    copy.mkdir()
    (copy / "index.json").write_text("{}")
    assert run("novelty", "query", models / "blob0.pdb", "--index", copy, "--out", tmp_path / "q") == 2
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "fields", "config"),
    [
        (novelty.build, novelty.BUILD_FIELDS, NoveltyBuildConfig),
        (novelty.add, novelty.ADD_FIELDS, NoveltyAddConfig),
        (novelty.query, novelty.QUERY_FIELDS, NoveltyQueryConfig),
    ],
)
def test_help_and_configuration_agree(command, fields, config):
    for name, parameter in inspect.signature(command).parameters.items():
        if name in fields and parameter.default not in (None, inspect.Parameter.empty):
            assert parameter.default == config.model_fields[fields[name]].default, name
    unreachable = {"workers", "device", "seed", "max_memory_in_gigabytes"}
    assert set(config.model_fields) - set(fields.values()) <= unreachable
    assert set(fields.values()) <= set(config.model_fields)
