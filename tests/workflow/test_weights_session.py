"""``cryoprism weights`` from the command line: files in, weights, words and pages out; bad input; starting again."""

import inspect
import json

import numpy as np
import pytest

from cryoprism.cli import main
from cryoprism.cli import weights as command
from cryoprism.evaluation.fusion import COMPONENTS, default_weights, read_weights
from cryoprism.workflow import WeightsExplainConfig, WeightsLearnConfig


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(one) for one in arguments])
    return caught.value.code


def judgements(path, count, seed=0):
    """SIMULATED judge who looks at meta alone."""
    generator = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        a, b = (
            {name: round(float(x), 3) for name, x in zip(COMPONENTS, generator.random(5), strict=True)} for _ in "ab"
        )
        better = "tie" if abs(a["meta"] - b["meta"]) < 0.05 else "a" if a["meta"] > b["meta"] else "b"
        lines.append(json.dumps({"a": a, "b": b, "better": better, "judge": "simulated"}))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_learning_writes_weights_that_a_score_can_use(tmp_path, capsys):
    file = judgements(tmp_path / "said.jsonl", 150)
    out = tmp_path / "job"
    assert run("weights", "learn", file, "--out", out, "--no-shape") == 0
    said = capsys.readouterr().out
    assert "learned from 150 judgements" in said
    weights, _ = read_weights(out)
    assert weights.in_use is weights
    assert weights.mean["meta"] > 2 * default_weights().mean["meta"]
    content = json.loads((out / "weights.json").read_text())
    assert content["judges"]["simulated"]["judgements"] == 150
    assert content["policy_gradient"]["meta"] > 2 * default_weights().mean["meta"]
    page = (out / "report.html").read_text()
    assert "Weights of the score" in page
    assert "simulated" in page
    assert (out / "RELION_JOB_EXIT_SUCCESS").exists()
    before = (out / "weights.json").stat().st_mtime_ns
    assert run("weights", "learn", file, "--out", out, "--no-shape", "--only-do-unfinished") == 0
    assert (out / "weights.json").stat().st_mtime_ns == before
    judgements(file, 151)
    assert run("weights", "learn", file, "--out", out, "--no-shape", "--only-do-unfinished") == 0
    assert json.loads((out / "weights.json").read_text())["judgements"] == 151


def test_few_judgements_leave_the_score_as_it_was_and_say_so(tmp_path, capsys):
    file = judgements(tmp_path / "said.jsonl", 99)
    assert run("weights", "learn", file, "--out", tmp_path / "job") == 0
    assert "99 judgements of at least 100" in capsys.readouterr().out
    weights, _ = read_weights(tmp_path / "job/weights.json")
    assert weights.in_use == default_weights()
    assert json.loads((tmp_path / "job/weights.json").read_text())["in_use"] == "prior"


def test_a_bad_line_is_an_error_without_a_folder(tmp_path, capsys):
    file = judgements(tmp_path / "said.jsonl", 3)
    file.write_text(file.read_text() + "{broken\n")
    assert run("weights", "learn", file, "--out", tmp_path / "job") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "said.jsonl line 4" in line
    assert not (tmp_path / "job").exists()


def test_explaining_says_whether_both_move_together(tmp_path, capsys):
    generator = np.random.default_rng(0)
    values = generator.random((80, 5))
    quality = values @ list(default_weights().mean.values()) + 0.02 * generator.standard_normal(80)
    rows = [",".join(["name", *COMPONENTS, "q"])]
    rows += [",".join(["<b>", *(f"{x:.5f}" for x in [*row, q])]) for row, q in zip(values, quality, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    out = tmp_path / "job"
    assert run("weights", "explain", tmp_path / "table.csv", "--quality", "q", "--bootstraps", 50, "--out", out) == 0
    assert "V and q move together" in capsys.readouterr().out
    content = json.loads((out / "quality.json").read_text())
    assert [one["name"] for one in content["coefficients"]] == list(COMPONENTS)
    assert "<svg" in (out / "report.html").read_text()
    assert run("weights", "explain", tmp_path / "table.csv", "--quality", "none", "--out", tmp_path / "no") == 2
    assert not (tmp_path / "no").exists()


def assessment(folder, **values):
    folder.mkdir(parents=True)
    content = {name: {"value": values.get(name, 0.5), "standard_deviation": 0.0} for name in COMPONENTS}
    (folder / "assessment.json").write_text(json.dumps(content))


def test_asking_names_a_pair_that_was_not_judged_and_tells_more(tmp_path, capsys):
    assessment(tmp_path / "Assess/job001", logic=1.0, meta=0.0)
    assessment(tmp_path / "Assess/job002", logic=0.0, meta=1.0)
    assessment(tmp_path / "Assess/job003", logic=0.01, meta=1.0)
    assert run("weights", "ask", tmp_path / "Assess") == 0
    first, second, line = capsys.readouterr().out.splitlines()
    assert "job001" in first  # 2 and 3 are nearly alike: asking about them tells nothing
    assert "3 pairs" in second
    content = json.loads(line)
    content["better"] = "a"
    said = tmp_path / "said.jsonl"
    said.write_text(json.dumps(content) + "\n")
    assert run("weights", "ask", tmp_path / "Assess", "--judgements", said, "--thompson") == 0
    assert "2 pairs were compared after 1 judgements" in capsys.readouterr().out


@pytest.mark.parametrize("given", [[], ["Assess"]])
def test_asking_without_a_pair_says_what_is_needed(tmp_path, capsys, given):
    assessment(tmp_path / "Assess/job001")
    assert run("weights", "ask", *(tmp_path / name for name in given)) == 2
    assert capsys.readouterr().err.startswith("Error: ")


@pytest.mark.parametrize(
    ("function", "fields", "config"),
    [
        (command.learn, command.LEARN_FIELDS, WeightsLearnConfig),
        (command.explain, command.EXPLAIN_FIELDS, WeightsExplainConfig),
    ],
)
def test_help_and_configuration_agree(function, fields, config):
    for name, parameter in inspect.signature(function).parameters.items():
        if name in fields and parameter.default not in (None, inspect.Parameter.empty):
            assert parameter.default == config.model_fields[fields[name]].default, name
    assert set(config.model_fields) - set(fields.values()) <= {"workers", "device", "seed"}
    assert set(fields.values()) <= set(config.model_fields)


def test_one_line_copied_150_times_is_one_judgement_and_is_warned_of(tmp_path, capsys):
    line = judgements(tmp_path / "one.jsonl", 1).read_text()
    (tmp_path / "many.jsonl").write_text(150 * line)
    assert run("weights", "learn", tmp_path / "many.jsonl", "--out", tmp_path / "out") == 0
    content = json.loads((tmp_path / "out/weights.json").read_text())
    assert (content["judgements"], content["in_use"]) == (1, "prior")
    assert content["shape_search"] is None
    said = capsys.readouterr().out
    assert "Warning: only 1 of 150 judgements" in said
    assert "149 say again" in said


def test_a_column_does_not_explain_itself(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("q,x\n" + "\n".join(f"{k},{k % 7}" for k in range(30)) + "\n")
    base = ("weights", "explain", tmp_path / "t.csv", "--quality", "q", "--out", tmp_path / "out")
    assert run(*base, "--column", "q") == 2
    assert "the quality itself" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
