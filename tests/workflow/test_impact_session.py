"""``cryoprism impact`` from the command line, on SIMULATED dumps: build, train, forecast, bad input, starting again."""

import importlib.util
import inspect
import json
from pathlib import Path

import pytest

from cryoprism.cli import impact as command
from cryoprism.cli import main
from cryoprism.evaluation.impact import simulate_citations
from cryoprism.workflow import ImpactBuildConfig, ImpactTrainConfig

dumps_file = Path(__file__).parents[1] / "evaluation/impact/simulated_dumps.py"
spec = importlib.util.spec_from_file_location("simulated_dumps_for_sessions", dumps_file)
dumps = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dumps)


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(one) for one in arguments])
    return caught.value.code


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    place = tmp_path_factory.mktemp("dumps")
    graph = simulate_citations(1200, seed=2, patents=0.3)
    works = dumps.write_openalex(place / "works.gz", graph)
    patents, references = dumps.write_patents(place, graph)
    code = run(
        "impact", "build", works, "--patents", patents, "--patent-references", references, "--out", place / "graph"
    )
    assert code == 0
    return place, int(graph.ids[graph.ids > 0].max())


def test_building_writes_a_graph_and_says_what_was_left_out(built, capsys):
    place, _ = built
    told = json.loads((place / "graph/import.json").read_text())
    assert told["counts"]["works"] == 1200
    assert told["counts"]["citations_by_patents_of_works"] > 100
    assert [Path(one["file"]).name for one in told["files"]] == ["works.gz", "g_patent.tsv", "g_other_reference.tsv"]
    before = (place / "graph/citations.sqlite").stat().st_mtime_ns
    again = ["--patents", place / "g_patent.tsv", "--patent-references", place / "g_other_reference.tsv"]
    assert run("impact", "build", place / "works.gz", *again, "--out", place / "graph", "--only-do-unfinished") == 0
    assert (place / "graph/citations.sqlite").stat().st_mtime_ns == before


def test_a_dump_of_which_most_lines_cannot_be_used_is_no_success(tmp_path, capsys):
    good, bad = '{"id": "W1", "publication_year": 2000}\n', "nonsense\n"
    (tmp_path / "poor.jsonl").write_text(good + 5 * bad)
    call = ("impact", "build", tmp_path / "poor.jsonl", "--out", tmp_path / "poor")
    assert run(*call) == 1
    assert "could not be used: 5 of 6 lines" in capsys.readouterr().out
    assert run(*call, "--only-do-unfinished") == 1
    (tmp_path / "fair.jsonl").write_text(good + good.replace("W1", "W2") + bad)
    assert run("impact", "build", tmp_path / "fair.jsonl", "--out", tmp_path / "fair") == 0


def test_training_and_looking_up(built, tmp_path, capsys):
    place, last = built
    quick = ["--model", "preferential attachment", "--model", "Wang–Song–Barabási"]
    assert run("impact", "train", place / "graph", *quick, "--out", tmp_path / "impact") == 0
    said = capsys.readouterr().out
    assert "mean absolute error" in said
    content = json.loads((tmp_path / "impact/impact.json").read_text())
    assert content["patents"] is not None
    assert content["chosen"] in {"preferential attachment", "Wang–Song–Barabási"}
    page = (tmp_path / "impact/report.html").read_text()
    assert "Citations by patents" in page
    assert "the 95 % intervals held" in page
    assert "more than that which is used (95 %)" in page
    assert "<svg" in page
    assert run("impact", "forecast", f"10.5555/sim.{last}", "--trained", tmp_path / "impact", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["status"] == "available"
    assert answer["value"] >= 0
    assert answer["evidence"]["patents"]["expected"] >= 0


def test_without_a_folder_it_is_said_how_to_get_one(capsys):
    assert run("impact", "forecast", "10.1038/nature12345") == 0
    assert "cryoprism impact build" in capsys.readouterr().out
    assert run("impact", "forecast", "10.1038/nature12345", "--json") == 0
    assert json.loads(capsys.readouterr().out)["value"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build"], "WORKS"),
        (["build", "none.gz"], "none.gz"),
        (["build", "bad.jsonl"], "bad.jsonl"),
        (["build", "good.jsonl", "--patent-citations", "good.jsonl"], "--patents"),
        (["train", "nowhere"], "nowhere"),
        (["train", "good.jsonl"], "no citation graph"),
        (["forecast", "10.1/x", "--trained", "nowhere"], "nowhere"),
        (["train", "nowhere", "--model", "magic"], "magic"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text("nonsense\n")
    (tmp_path / "good.jsonl").write_text('{"id": "W1", "publication_year": 2000}\n')
    assert run("impact", *arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("Error: ")
    assert words in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "good.jsonl"]


def test_a_graph_that_does_not_fit_is_refused_with_its_size(built, tmp_path, capsys):
    place, _ = built
    assert run("impact", "train", place / "graph", "--max-memory", "0.01", "--out", tmp_path / "no") == 2
    assert "--max-memory" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_too_short_a_history_is_refused(built, tmp_path, capsys):
    place, _ = built
    assert run("impact", "train", place / "graph", "--now", "1998", "--out", tmp_path / "no") == 2
    assert "13 years" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("function", "fields", "config"),
    [
        (command.build, command.BUILD_FIELDS, ImpactBuildConfig),
        (command.train, command.TRAIN_FIELDS, ImpactTrainConfig),
    ],
)
def test_help_and_configuration_agree(function, fields, config):
    for name, parameter in inspect.signature(function).parameters.items():
        if name in fields and parameter.default not in (None, inspect.Parameter.empty):
            assert parameter.default == config.model_fields[fields[name]].default, name
    assert set(config.model_fields) - set(fields.values()) <= {"workers", "device", "seed"}
    assert set(fields.values()) <= set(config.model_fields)
