"""``cryoprism sandbox run``: what it writes, its exit codes, its options."""

import json
from pathlib import Path

import jsonschema
import pytest
import typer

from cryoprism.cli import main, sandbox
from cryoprism.core import InputError
from cryoprism.workflow import SandboxConfig, run_in_sandbox
from programs import isolation_here

WALLS = isolation_here()
SCHEMA = json.loads(
    (Path(__file__).resolve().parents[2] / "src/cryoprism/workflow/schemas/sandbox.schema.json").read_text("utf-8")
)


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main(["sandbox", "run", *map(str, arguments)])
    return caught.value.code


def test_a_run_leaves_a_record(tmp_path, capsys):
    out = tmp_path / "run"
    code = "print('hello'); open('x.txt', 'w').write('12')"
    call = ("--isolation", WALLS, "--cpu", 5, "--out", out)
    assert run(*call, "--", "python3", "-c", code) == 0
    record = json.loads((out / "sandbox.json").read_text())
    assert (record["schema"], record["verdict"], record["outputs"]) == ("cryoprism-sandbox-1", "finished", ["x.txt"])
    assert record["limits"]["cpu_seconds"] == 5
    assert record["accounting"]["cpu_seconds"] > 0
    assert (out / "stdout.txt").read_text() == "hello\n"
    assert (out / "output/x.txt").read_text() == "12"
    job = json.loads((out / "job.json").read_text())
    assert (job["kind"], job["config"]["command"]) == ("Sandbox", ["python3", "-c", code])
    assert "The program finished." in capsys.readouterr().out
    assert run(*call, "--", "python3", "-c", code) == 2
    assert run(*call, "--only-do-unfinished", "--", "python3", "-c", code) == 0
    assert run(*call, "--overwrite", "--", "python3", "-c", "pass") == 0
    assert list((out / "output").iterdir()) == []


def record_of(out):
    content = json.loads((out / "sandbox.json").read_text())
    jsonschema.validate(content, SCHEMA, cls=jsonschema.Draft202012Validator)
    return content


def test_the_record_keeps_to_its_schema_and_the_page_says_it_to_people(tmp_path):
    code = "import os, sys; print('<b>hi'); os.symlink('/etc/passwd', 'link'); open('x', 'w').write('12'); sys.exit(4)"
    out = tmp_path / "run"
    assert run("--isolation", WALLS, "--out", out, "--", "python3", "-c", code) == 1
    record = record_of(out)
    assert (record["verdict"], record["exit_code"]) == ("failed", 4)
    page = (out / "report.html").read_text()
    assert "The program ended with exit code 4." in page
    assert 'href="output/x"' in page
    assert "&lt;b&gt;hi" in page
    assert "<b>hi" not in page
    if WALLS == "bubblewrap":
        assert "is a link to /etc/passwd" in page
    assert run("--isolation", WALLS, "--wall", 0.3, "--out", tmp_path / "slow", "--", "sleep", 30) == 1
    record_of(tmp_path / "slow")
    assert (tmp_path / "slow/report.html").read_text().count("limit reached") == 1


def test_a_formula_with_an_infinite_slope_has_a_value_all_the_same(tmp_path):
    pytest.importorskip("sympy", reason="sympy is not installed (the extra 'assess')")
    out = tmp_path / "root"
    assert run("--isolation", WALLS, "--out", out, "--formula", "sqrt(x)", "--variable", "x=0") == 0
    record = record_of(out)
    assert record["formula"]["value"] == 0
    assert record["formula"]["derivatives"]["x"]["value"] is None
    assert "sqrt(x)" in (out / "report.html").read_text()


def test_where_derivatives_do_not_hold_the_drawn_interval_is_given(tmp_path, capsys):
    pytest.importorskip("sympy", reason="sympy is not installed (the extra 'assess')")
    out = tmp_path / "square"
    assert run("--isolation", WALLS, "--out", out, "--formula", "x^2", "--variable", "x=0±1") == 0
    said = capsys.readouterr().out
    assert "x**2 = 0. Draws of its variables give 95 % between" in said
    assert "does not hold here: take the interval" in said
    formula = record_of(out)["formula"]
    assert formula["standard_deviation"] is None
    assert formula["drawn"]["high"] == pytest.approx(5.02, rel=0.07)
    assert "do not hold here: take the interval" in (out / "report.html").read_text()


def test_a_formula_that_cannot_be_found_says_why(tmp_path, capsys):
    pytest.importorskip("sympy", reason="sympy is not installed (the extra 'assess')")
    out = tmp_path / "huge"
    assert run("--isolation", WALLS, "--out", out, "--formula", "sin(10^9999)") == 1
    assert "The formula has no value that could be found" in capsys.readouterr().out
    assert record_of(out)["verdict"] == "failed"


def test_exit_codes_say_how_it_ended(tmp_path, capsys):
    base = ("--isolation", WALLS)
    assert run(*base, "--out", tmp_path / "a", "--", "python3", "-c", "raise SystemExit(3)") == 1
    assert "exit code 3" in capsys.readouterr().out
    assert run(*base, "--out", tmp_path / "b", "--wall", 0.3, "--", "sleep", 30) == 1
    assert "had run for 0.3 s" in capsys.readouterr().out
    assert json.loads((tmp_path / "b/sandbox.json").read_text())["stopped_by"] == "wall"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing was given"),
        (("--", ""), "no program was given"),
        (("--", "no-such-program"), "not installed"),
        (("--cpu", 0, "--", "true"), "--cpu"),
        (("--memory", -1, "--", "true"), "--memory"),
        (("--wall", "nan", "--", "true"), "--wall"),
        (("--files", 0, "--", "true"), "--files"),
        (("--processes", 0, "--", "true"), "--processes"),
        (("--input", "nothing", "--", "true"), "does not exist"),
        (("--formula", "x+1"), "unknown"),
        (("--formula", "a+b", "--variable", "a=1 Å", "--variable", "b=1 kV"), "like units"),
        (("--formula", "1", "--", "true"), "beside a formula"),
        (("--variable", "a=1"), "Add --formula"),
        (("--isolation", "prayer", "--", "true"), "--isolation"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys, arguments, said):
    if "--isolation" not in arguments:
        arguments = ("--isolation", WALLS, *arguments)
    assert run("--out", tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("Error: ")
    assert said in error
    assert not (tmp_path / "out").exists()


def test_a_formula_is_recorded(tmp_path, capsys):
    pytest.importorskip("sympy")
    arguments = ("--formula", "a*x^2", "--variable", "a=2±0.1 1/Å", "--variable", "x=3 Å", "--unit", "nm")
    assert run("--isolation", WALLS, "--out", tmp_path / "out", *arguments) == 0
    formula = json.loads((tmp_path / "out/sandbox.json").read_text())["formula"]
    assert formula["value"] == pytest.approx(1.8)
    assert formula["standard_deviation"] == pytest.approx(0.09)
    assert "2*a*x" in capsys.readouterr().out


def test_every_field_has_its_option():
    reachable = set(sandbox.FIELDS.values()) | {"workers", "device", "seed", "max_memory_in_gigabytes"}
    assert reachable == set(SandboxConfig.model_fields)
    command = typer.main.get_command(sandbox.app)
    command = getattr(command, "commands", {"run": command})["run"]
    for parameter in command.params:
        assert parameter.help
        assert parameter.help.endswith((".", "]"))


def test_a_step_of_the_pipeline_runs_in_it(tmp_path):
    """The program itself can be put behind the walls, with this environment."""
    config = SandboxConfig(
        command=("python3", "-c", "import cryoprism; print(cryoprism.__version__)"), isolation=WALLS,
        output=tmp_path / "out",
    )  # fmt: skip
    assert run_in_sandbox(config).verdict == "finished"


def test_a_configuration_needs_one_thing_to_run():
    with pytest.raises(InputError):
        SandboxConfig()
