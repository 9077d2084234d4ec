"""Foreign code between walls: what goes in and comes out, and what is said of bad input."""

import os
import sys

import pytest
from hostile import SMALL, alive, limits, person_of, readable_python

from cryoprism.core import InputError
from cryoprism.evaluation.sandbox import Limits, bubblewrap, execute, walls


def test_what_it_writes_and_prints_comes_out(person):
    code = (
        "import os, sys; os.makedirs('a/b'); open('a/b/c', 'w').write('three'); open('a/run', 'w').close();"
        "os.chmod('a/run', 0o755); os.chmod('a/b', 0); print('out'); print('err', file=sys.stderr)"
    )
    run = person.run(code, limits=SMALL, output=person.folder / "out")
    assert (run.verdict, run.exit_code, run.stopped_by) == ("finished", 0, None)
    assert (run.printed, run.errors) == (b"out\n", b"err\n")
    assert run.outputs == ("a/b/c", "a/run")
    assert (person.folder / "out/a/b/c").read_text() == "three"
    assert os.access(person.folder / "out/a/run", os.X_OK)
    assert run.accounting.outputs_in_bytes == 5
    assert run.accounting.started == 1


def test_settings_that_programs_need_can_be_read(person):
    run = person.run("import os; print(os.listdir('/etc')); os.listdir('/etc/alternatives')", limits=SMALL)
    assert run.exit_code == 0, run.errors
    assert b"ld.so.cache" in run.printed


def test_an_exit_code_and_a_signal_are_told_apart(person):
    assert person.run("import sys; sys.exit(7)", limits=SMALL).exit_code == 7
    run = person.run("import os; os.kill(os.getpid(), 11)", limits=SMALL)
    assert (run.verdict, run.exit_code, run.signal) == ("failed", None, "SIGSEGV")


def test_files_copy_although_the_quick_way_is_refused(person):
    code = (
        "import shutil; open('a', 'wb').write(b'7' * 100000); shutil.copyfile('a', 'b'); print(len(open('b').read()))"
    )
    assert person.run(code, limits=SMALL).printed == b"100000\n"


def test_what_lies_in_an_input_folder_is_found_by_its_name_outside(person):
    (person.folder / "in/deep").mkdir(parents=True)
    (person.folder / "in/deep/x").write_text("seven")
    code = "import sys; print(open(sys.argv[1]).read(), sys.argv[2])"
    (person.folder / "plug_in.py").write_text(code)
    (person.folder / "plug_in.py").chmod(0o755)
    run = person.call(
        lambda: execute(
            [readable_python(), "plug_in.py", "in/deep/x", "in/none"],
            limits=SMALL, inputs=["in", "plug_in.py"], folder=person.folder,
        )
    )  # fmt: skip
    assert run.printed == b"seven in/none\n"


def test_inputs_can_be_read_and_not_changed(person):
    source = person.folder / "in.txt"
    source.write_text("data")
    code = "import sys; print(open(sys.argv[1]).read()); open(sys.argv[1], 'w')"
    run = person.call(
        lambda: execute([readable_python(), "-c", code, "in.txt"], inputs=["in.txt"], folder=person.folder)
    )
    assert run.printed == b"data\n"
    assert b"Read-only file system" in run.errors
    assert source.read_text() == "data"


def test_socket_pairs_between_its_own_processes_work(person):
    assert person.run("import socket; a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))").printed == b"b'x'\n"


def test_what_it_leaves_running_is_ended(person):
    marker = f"daemon{os.getpid()}{person.name}"
    code = f"import os, time  # {marker}\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep(60)\n"
    run = person.run(code, limits=SMALL)
    assert run.verdict == "finished"
    assert run.left_behind >= 1
    assert alive(marker) == []


def test_what_it_prints_is_bounded(person):
    run = person.run("import sys\nfor _ in range(100): print('y' * 10**5)", limits=limits(files_in_megabytes=1))
    assert len(run.printed) == 10**6
    assert run.accounting.printed_in_bytes == 100 * (10**5 + 1)
    assert any("are kept" in note for note in run.notes)


@pytest.mark.parametrize("isolation", ["bubblewrap", "none"])
def test_a_plug_in_is_a_python_file(person, isolation):
    plug_in = person.folder / "plug_in.py"
    plug_in.write_text("import json, sys; print(json.dumps(sys.argv[1:]))")
    if not os.access(os.path.realpath(sys.executable), os.X_OK) or person.drops:
        plug_in.write_text("#!/usr/bin/python3\n" + plug_in.read_text())
        plug_in.chmod(0o755)
    run = person.execute([str(plug_in), "a", "--b"], isolation=isolation, limits=SMALL)
    assert run.printed == b'["a", "--b"]\n'


def test_without_walls_it_says_so_and_limits_hold():
    run = execute([sys.executable, "-c", "while True: pass"], isolation="none", limits=limits(cpu_seconds=0.3))
    assert run.stopped_by == "cpu"
    assert "network" in run.notes[0]
    marker = f"plain{os.getpid()}"
    code = f"import os, time  # {marker}\nif os.fork() == 0:\n  os.setsid(); time.sleep(60)\n"
    assert execute([sys.executable, "-c", code], isolation="none", limits=SMALL).left_behind == 1
    assert alive(marker) == []


def test_walls_are_asked_for_by_default(monkeypatch):
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda *_: None)
    bubblewrap._walls.cache_clear()
    try:
        with pytest.raises(InputError, match="apt install bubblewrap"):
            execute([sys.executable, "-c", ""])
    finally:
        bubblewrap._walls.cache_clear()


def test_a_machine_without_namespaces_is_told_apart(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(bubblewrap.shutil, "which", lambda *_: str(fake))
    bubblewrap._walls.cache_clear()
    try:
        with pytest.raises(InputError, match=r"No permissions to create new namespace.*unprivileged_userns_clone"):
            walls()
    finally:
        bubblewrap._walls.cache_clear()


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ([], {}, "no program was given"),
        (["  "], {}, "no program was given"),
        (["no-such-program"], {}, "not installed"),
        (["./nothing.py"], {}, "is not there"),
        (["README"], {"inputs": ["nothing"]}, "does not exist"),
        (["true"], {"inputs": ["/proc"]}, "place of its own"),
        (["true"], {"inputs": ["/"]}, "place of its own"),
        (["true"], {"output": "full"}, "holds something already"),
        (["./data.txt"], {}, "is no program"),
        (["a\0b"], {}, "zero byte"),
    ],
)
def test_bad_input_is_said(tmp_path, monkeypatch, command, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (tmp_path / "data.txt").touch(0o644)
    with pytest.raises(InputError, match=said):
        execute(command, **options)


def test_root_is_told_of_inputs_that_others_cannot_read(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    person_of("root")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").touch(0o600)
    with pytest.raises(InputError, match="by its owner only"):
        execute(["true"], inputs=[tmp_path / "a"])


@pytest.mark.parametrize("name", ["cpu_seconds", "memory_in_gigabytes", "wall_seconds", "files_in_megabytes"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_limits_are_above_zero(name, value):
    with pytest.raises(InputError, match="is no limit"):
        Limits(**{name: value})
