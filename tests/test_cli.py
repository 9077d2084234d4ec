"""The command line: errors in one line with a remedy, exit codes, options that reach the configuration."""

import errno
import inspect
import json
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import typer

from cryoprism import __version__, cli, workflow
from cryoprism.cli import app, main, restore, simulate
from cryoprism.cli._errors import describe
from cryoprism.core import ConvergenceError, CryoPrismWarning, InputError
from cryoprism.workflow import RestoreConfig, RestoreSummary, SimulateConfig

COMMANDS = sorted(typer.main.get_command(app).commands)
EXPECTED = {
    "assess", "classify", "ctf-refine", "demo", "explain", "extract", "impact", "initial-model", "novelty", "pick",
    "process", "prove", "reconstruct", "refine", "resolution", "restore", "sandbox", "simulate", "synthesize",
    "train-picker", "weights",
}  # fmt: skip


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code


@pytest.fixture
def session(monkeypatch):
    """Stand in for the work: record the configuration, then do what the test says."""
    seen = []

    def act(config):
        return RestoreSummary(output=Path("run"), micrographs=2, restored=2, passes=3, converged=True, seconds=1.0)

    holder = {"act": act}

    def restore_session(config):
        seen.append(config)
        return holder["act"](config)

    monkeypatch.setattr(workflow, "restore_session", restore_session, raising=False)
    holder["seen"] = seen
    return holder


def raising(error):
    def act(config):
        raise error

    return act


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"CryoPrism {__version__}\n"


def test_every_option_reaches_its_field(session):
    given = {
        "--out": "run",
        "--pixel-size": 1.1,
        "--voltage": 200.0,
        "--spherical-aberration": 2.6,
        "--amplitude-contrast": 0.08,
        "--exposure": 41.0,
        "--incident-intensity": 2000.0,
        "--mtf": "mtf.star",
        "--gain": "gain.mrc",
        "--min-defocus": 4000.0,
        "--max-defocus": 40000.0,
        "--low-resolution": 25.0,
        "--high-resolution": 3.5,
        "--max-passes": 4,
        "--workers": 2,
        "--device": "cpu",
        "--seed": 9,
        "--max-memory": 12.0,
    }
    flags = ["--only-do-unfinished", "--no-views", "--phase-plate"]
    arguments = [text for option, value in given.items() for text in (option, str(value))]
    assert run("restore", "a.mrc", "b.mrc", *arguments, *flags) == 0
    (config,) = session["seen"]
    assert config.inputs == ("a.mrc", "b.mrc")
    assert config.only_do_unfinished
    assert not config.views
    assert config.phase_plate
    for option, value in given.items():
        field = next(name for name in RestoreConfig.model_fields if RestoreConfig.option(name) == option)
        found = getattr(config, field)
        assert (str(found) if isinstance(found, Path) else found) == value
    untouched = {"overwrite"}
    defaults = RestoreConfig(inputs="a.mrc")
    changed = {name for name in RestoreConfig.model_fields if getattr(config, name) != getattr(defaults, name)}
    assert changed | untouched | {"device"} == set(RestoreConfig.model_fields)


def test_relions_own_spelling_works(session):
    assert run("restore", "--in_mics", "MotionCorr/job002/corrected.star", "--o", "External/job003/", "--j", "4") == 0
    (config,) = session["seen"]
    assert config.inputs == ("MotionCorr/job002/corrected.star",)
    assert str(config.output) == "External/job003"
    assert config.workers == 4


def test_a_configuration_file_gives_what_the_options_do_not(session, tmp_path):
    path = tmp_path / "job.json"
    stored = RestoreConfig(inputs="a.mrc", seed=5, voltage_in_kilovolts=200)
    path.write_text(json.dumps({"kind": "Restore", "config": stored.model_dump(mode="json")}))
    assert run("restore", "--config", str(path), "--voltage", "300") == 0
    assert session["seen"] == [stored.model_copy(update={"voltage_in_kilovolts": 300.0})]


def test_all_commands_are_there():
    assert set(COMMANDS) == EXPECTED


@pytest.mark.parametrize(
    ("module", "config"),
    [
        (restore, RestoreConfig),
        (simulate, SimulateConfig),
        *(
            (getattr(cli, name), getattr(workflow, f"{kind}Config"))
            for name, kind in (
                ("pick", "Pick"),
                ("extract", "Extract"),
                ("classify", "Classify"),
                ("initial_model", "InitialModel"),
                ("refine", "Refine"),
                ("process", "Process"),
                ("reconstruct", "Reconstruct"),
                ("resolution", "Resolution"),
                ("ctf_refine", "CtfRefine"),
                ("prove", "Prove"),
                ("synthesize", "Synthesize"),
                ("assess", "Assess"),
            )
        ),
    ],
)
def test_help_and_configuration_agree_on_defaults_and_nothing_is_out_of_reach(module, config):
    command = getattr(module, module.__name__.rpartition(".")[2])
    for name, parameter in inspect.signature(command).parameters.items():
        if name in module.FIELDS and parameter.default not in (None, inspect.Parameter.empty):
            field = config.model_fields[module.FIELDS[name]]
            assert parameter.default == field.default, name
    # Commands that work in one process have no use for workers; some run on one device only, or draw nothing.
    assert set(config.model_fields) - set(module.FIELDS.values()) <= {"workers", "device", "seed"}
    assert set(module.FIELDS.values()) <= set(config.model_fields)


def test_options_are_called_alike_and_mean_the_same_in_every_command():
    spellings, units = {}, {}
    for name, command in typer.main.get_command(app).commands.items():
        for option in command.params:
            if option.param_type_name == "option" and name != "demo":
                spellings.setdefault(option.opts[0], {})[tuple(option.opts)] = name
                units.setdefault(option.opts[0], {})["flag" if option.is_flag else option.metavar] = name
    # Numbers of things that have nothing to do with each other, under the only word there is.
    counts = {"--micrographs", "--iterations", "--particles", "--threshold", "--reference"}
    assert {name: found for name, found in spellings.items() if len(found) > 1 and name not in counts} == {}
    assert {name: found for name, found in units.items() if len(found) > 1 and name not in counts} == {}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_command_is_documented(name):
    command = typer.main.get_command(app).commands[name]
    assert command.short_help
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name}"
        assert parameter.help.endswith((".", "]")), f"{name} {parameter.name}"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            InputError("a.mrc: mode", "99 is unknown", "Convert it."),
            "Error: a.mrc: mode: 99 is unknown. Convert it.",
        ),
        (ConvergenceError("the loop", "no end", "Give more passes."), "Error: the loop: no end. Give more passes."),
        (
            OSError(errno.ENOSPC, "No space left on device", "run/views/a.mrc"),
            "Error: run/views/a.mrc: the disk is full. Free space or write elsewhere with --out, then run again with "
            "--only-do-unfinished.",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/run"),
            "Error: /run: permission denied. Check the permissions, or write elsewhere with --out.",
        ),
        (
            MemoryError(),
            "Error: memory: ran out while working. Use fewer --workers, or set --max-memory so that tiles are used.",
        ),
    ],
)
def test_an_error_is_one_line_with_a_remedy_and_exit_code_2(session, capsys, error, line):
    session["act"] = raising(error)
    assert run("restore", "a.mrc") == 2
    assert capsys.readouterr().err.splitlines() == [line]


def test_a_mistake_in_the_program_keeps_its_traceback(session):
    session["act"] = raising(ZeroDivisionError("oops"))
    with pytest.raises(ZeroDivisionError):
        main(["restore", "a.mrc"])
    assert describe(ZeroDivisionError("oops")) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["restore"], ["IN", "nothing was given"]),
        (["restore", "a.mrc", "--voltage", "300000"], ["--voltage", "300000", "1500"]),
        (["restore", "a.mrc", "--voltage", "fast"], ["--voltage", "fast"]),
        (["restore", "a.mrc", "--wrokers", "2"], ["--wrokers", "--workers"]),
        (["restore", "a.mrc", "--device", "cuda:99"], ["--device", "cuda:99", "cpu"]),
        (["restore", "a.mrc", "--config", "none.yaml"], ["none.yaml", "cannot be read"]),
        (["restore", "a.mrc", "--overwrite", "--only-do-unfinished"], ["--overwrite", "Choose one"]),
        (["simulate", "--engine", "magic"], ["--engine", "magic", "rytov"]),
        (["explain", "nowhere"], ["nowhere", "--out"]),
        (["frobnicate"], ["frobnicate"]),
    ],
)
def test_a_slip_of_the_user_gets_one_line_that_names_it(session, capsys, arguments, words):
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: ")
    for word in words:
        assert word in line
    assert session["seen"] == []


def test_warnings_are_one_line_each(session, capsys):
    def act(config):
        warnings.warn("a.mrc: header pixel size is 1.0.\n  Give --pixel-size.", CryoPrismWarning, stacklevel=1)
        return RestoreSummary(output=Path("run"), micrographs=1, restored=1)

    session["act"] = act
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("restore", "a.mrc") == 0
    assert capsys.readouterr().err.splitlines() == ["Warning: a.mrc: header pixel size is 1.0. Give --pixel-size."]


def test_the_summary_names_what_failed_and_what_to_look_at(session, capsys):
    session["act"] = lambda config: RestoreSummary(
        output=Path("run"),
        micrographs=3,
        restored=2,
        skipped=1,
        flagged=("b.mrc",),
        failed=(("c.mrc", "cut short"),),
        passes=2,
    )
    assert run("restore", "a.mrc") == 1
    out, err = capsys.readouterr()
    assert "2 of 3 micrographs restored (1 were done before)" in out
    assert "did not converge after 2 pass(es)" in out
    assert "b.mrc" in out
    assert err == "Not restored: c.mrc: cut short\n"
    assert "Report: run/report.html" in out


INTERRUPTED = """
import signal, sys, time
from pathlib import Path
from cryoprism import workflow
from cryoprism.cli import main

# Tests that run in the background of a shell inherit that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def restore_session(config):
    with workflow.open_job("Restore", config):
        Path(sys.argv[1], "started").touch()
        time.sleep(60)

workflow.restore_session = restore_session
main(["restore", "a.mrc", "--out", sys.argv[1]])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_says_how_to_go_on(tmp_path, number, code):
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert "--only-do-unfinished" in err
    assert (tmp_path / "RELION_JOB_EXIT_FAILURE").exists()
    assert not (tmp_path / "RELION_JOB_EXIT_SUCCESS").exists()


def test_a_reader_that_goes_away_is_no_error():
    code = "from cryoprism.cli import main; main(['restore', '--help'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert b"Traceback" not in err
