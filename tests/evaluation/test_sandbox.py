"""Foreign code between walls: as root and as an ordinary user it gets out nowhere and stays within its limits."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hostile import person_of, readable_python

from cryoprism.core import InputError
from cryoprism.evaluation.sandbox import Limits, bubblewrap, execute, walls

SMALL = Limits(cpu_seconds=20, memory_in_gigabytes=0.3, wall_seconds=20, files_in_megabytes=5, processes=20)
CALL = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"


def limits(**values):
    return Limits(**{**SMALL.to_json(), **values})


@pytest.fixture(params=["root", "ordinary"])
def person(request):
    someone = person_of(request.param)
    yield someone
    shutil.rmtree(someone.folder)


def alive(marker):
    """Processes of this machine whose command line holds a text."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                text = Path("/proc", name, "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in text:
                found.append(int(name))
    return found


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


def test_cpu_time_is_bounded_and_accounted_for(person):
    run = person.run("while True: pass", limits=limits(cpu_seconds=0.5))
    assert run.stopped_by == "cpu"
    assert 0.45 < run.accounting.cpu_seconds < 1.5


def test_cpu_time_of_children_nobody_waits_for_counts(person):
    code = (
        "import os, signal, time; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "while True:\n"
        "  if os.fork() == 0:\n"
        "    end = time.process_time() + 0.2\n"
        "    while time.process_time() < end: pass\n"
        "    os._exit(0)\n"
        "  try: os.wait()\n"
        "  except ChildProcessError: pass\n"
    )
    run = person.run(code, limits=limits(cpu_seconds=0.7, wall_seconds=15))
    assert run.stopped_by == "cpu"
    assert run.accounting.unwaited_seconds > 0.2


def test_time_is_bounded(person):
    started = time.monotonic()
    run = person.run("import time; time.sleep(60)", limits=limits(wall_seconds=0.3))
    assert run.stopped_by == "wall"
    assert time.monotonic() - started < 10


def test_memory_that_grows_is_bounded(person):
    run = person.run("x = []\nwhile True: x.append(bytearray(1 << 20))", limits=limits(memory_in_gigabytes=0.1))
    assert run.stopped_by == "memory" or "memory" in run.limits_reached
    assert run.accounting.peak_memory_in_bytes < 0.25e9


def test_memory_asked_for_at_once_is_refused(person):
    run = person.run("bytearray(10**10)", limits=SMALL)
    assert run.exit_code == 1
    assert b"MemoryError" in run.errors


def test_memory_of_all_processes_together_is_bounded(person):
    code = "import os, time\nfor _ in range(3): os.fork()\nx = bytearray(os.urandom(1)) * (60 << 20); time.sleep(20)"
    run = person.run(code, limits=SMALL)
    assert run.stopped_by == "memory"
    assert run.accounting.wall_seconds < 15


def test_memory_that_a_fork_shares_counts_once(person):
    code = (
        "import os, time; x = bytearray(b'1') * (100 << 20)\n"
        "for _ in range(4):\n  if os.fork() == 0: time.sleep(0.5); os._exit(0)\n"
        "for _ in range(4): os.wait()"
    )
    assert person.run(code, limits=SMALL).verdict == "finished"


def test_shared_memory_counts(person):
    code = (
        "import mmap, time; m = mmap.mmap(-1, 500 << 20)\nfor _ in range(500): m.write(b'1' * (1 << 20))\ntime.sleep(9)"
    )
    assert person.run(code, limits=SMALL).stopped_by == "memory"


def test_what_sockets_hold_counts_as_memory(person):
    code = (
        "import socket\nkeep = []\nwhile True:\n  s = socket.socketpair(); keep.append(s)\n"
        "  for e in s:\n    e.setblocking(False)\n    try:\n      while True: e.send(b'x' * 65536)\n"
        "    except BlockingIOError: pass"
    )
    run = person.run(code, limits=limits(memory_in_gigabytes=0.1))
    assert run.stopped_by == "memory"
    assert run.accounting.kernel_memory_in_bytes > 0.05e9


def test_a_socket_whose_name_looks_like_a_line_of_the_kernels_list_does_no_harm(person):
    code = "import socket; s = socket.socket(socket.AF_UNIX); s.bind('a\\nb c'); print('bound')"
    run = person.run(code, limits=SMALL)
    assert (run.verdict, run.printed) == ("finished", b"bound\n")


def test_datagrams_of_senders_that_are_gone_count_as_memory(person):
    code = (
        "import socket, time\nkeep = []\nfor k in range(100):\n"
        "  r = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); r.bind(f'\\0{k}'); keep.append(r)\n"
        "  try:\n    while True:\n      s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.setblocking(False)\n"
        "      s.sendto(bytes(200000), f'\\0{k}'); s.close()\n  except BlockingIOError: pass\ntime.sleep(9)"
    )
    assert person.run(code, limits=limits(memory_in_gigabytes=0.1)).stopped_by == "memory"


def test_what_pipes_hold_counts_as_memory_of_processes_that_hide_too(person):
    code = CALL + (
        "import time\nfor _ in range(4): os.fork()\nlibc.prctl(4, 0, 0, 0, 0); keep = []\ntry:\n"
        "  while True:\n    r, w = os.pipe(); keep.append(r); os.write(w, b'x'); os.close(w)\n"
        "except OSError: time.sleep(9)"
    )
    assert person.run(code, limits=limits(memory_in_gigabytes=0.15)).stopped_by == "memory"


def test_a_few_open_pipes_are_no_memory(person):
    code = "import os; keep = [os.pipe() for _ in range(100)]; print(len(keep))"
    assert person.run(code, limits=limits(memory_in_gigabytes=0.1)).verdict == "finished"


def test_buffers_of_sockets_and_pipes_stay_as_they_are(person):
    code = (
        "import fcntl, os, socket\ns = socket.socketpair()[0]\n"
        "for n in (7, 32):\n  try: s.setsockopt(socket.SOL_SOCKET, n, 1 << 30); print('larger socket')\n"
        "  except PermissionError: pass\n"
        "try: fcntl.fcntl(os.pipe()[1], 1031, 1 << 20); print('larger pipe')\nexcept PermissionError: print('refused')"
    )
    assert person.run(code, limits=SMALL).printed == b"refused\n"


def test_pages_cannot_be_left_in_a_pipe(person):
    code = CALL + (
        "import mmap\nr, w = os.pipe(); m = mmap.mmap(-1, 4096); b = (ctypes.c_char * 4096).from_buffer(m)\n"
        "v = (ctypes.c_size_t * 2)(ctypes.addressof(b), 4096)\nprint(libc.vmsplice(w, v, 1, 0), ctypes.get_errno())"
    )
    assert person.run(code, limits=SMALL).printed == b"-1 38\n"


def test_tables_of_pages_count_as_memory(person):
    code = CALL + (
        "libc.mmap.restype = ctypes.c_void_p; n = 1 << 40\n"
        "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]\n"
        "p = libc.mmap(None, n, 1, 0x4022, -1, 0); libc.madvise(ctypes.c_void_p(p), ctypes.c_size_t(n), 15)\n"
        "for k in range(0, n, 2 << 20): ctypes.string_at(p + k, 1)"
    )
    run = person.run(code, limits=limits(memory_in_gigabytes=0.1))
    assert run.stopped_by == "memory"
    assert run.accounting.peak_memory_in_bytes < 0.4e9


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


def test_a_fork_bomb_stays_small_and_ends(person):
    marker = f"bomb{os.getpid()}{person.name}"
    code = f"import os  # {marker}\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    run = person.run(code, limits=limits(wall_seconds=1))
    assert run.stopped_by in {"wall", "cpu"}
    assert "processes" in run.limits_reached
    assert run.accounting.peak_processes == SMALL.processes
    assert alive(marker) == []


def test_threads_count_as_processes(person):
    code = (
        "import threading, time\nn = 0\n"
        "try:\n  for _ in range(100): threading.Thread(target=time.sleep, args=(1,), daemon=True).start(); n += 1\n"
        "except RuntimeError: print(n)"
    )
    assert 0 < int(person.run(code, limits=SMALL).printed) < SMALL.processes


@pytest.mark.parametrize("place", [".", "/tmp", "/dev/shm"])
def test_disk_is_bounded(person, place):
    code = (
        f"import itertools\nfor i in itertools.count():\n  with open({place!r} + f'/f{{i}}', 'wb') as s: "
        "s.write(bytes(10**6))"
    )
    run = person.run(code, limits=SMALL, output=person.folder / "out")
    assert run.verdict == "failed"
    assert b"No space left" in run.errors
    assert "files" in run.limits_reached
    assert run.accounting.outputs_in_bytes <= 5e6


def test_one_large_file_is_refused(person):
    run = person.run("s = open('f', 'wb'); s.truncate(10**12)", limits=SMALL)
    assert run.verdict != "finished"


@pytest.mark.parametrize("place", ["/x", "/usr/x", "/etc/x", "/dev/x", "/root", "/home/x", "/var/x", "/proc/sys/x"])
def test_nothing_else_can_be_written(person, place):
    run = person.run(f"open({place!r}, 'w')", limits=SMALL)
    assert run.exit_code == 1
    assert b"Error" in run.errors


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


def test_it_has_no_rights_and_no_open_files(person):
    code = (
        "import os\nlines = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "print(*(int(lines[name], 16) for name in ('CapEff', 'CapPrm', 'NoNewPrivs', 'Seccomp')))\n"
        "print(os.getuid() != 0, os.getgroups() in ([], [os.getgid()], [65534]))\n"
        "print(sorted(n for n in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}') or int(n) < 3))"
    )
    rights, user, files = person.run(code, limits=SMALL).printed.decode().splitlines()
    assert rights == "0 0 1 2"
    assert user == "True True"
    assert files == "['0', '1', '2']"


def test_the_users_files_are_not_there(person):
    secret = person.folder / "secret"
    secret.write_text("1234")
    for path in (secret, Path.home() / ".bashrc", Path("/etc/shadow"), Path("/var/log"), Path("/sys/kernel")):
        run = person.run(f"import os; print(os.path.exists({str(path)!r}))", limits=SMALL)
        assert run.printed == b"False\n", path


def test_there_is_no_network(person):
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []
        thread = threading.Thread(target=lambda: accepted.append(server.accept()), daemon=True)
        thread.start()
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)"
        run = person.run(code, limits=SMALL)
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0, "the test itself works"
        thread.join(10)
        accepted[0][0].close()
    assert run.exit_code == 1
    assert len(accepted) == 1
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0cryoprism-{os.getpid()}")
        listener.listen()
        code = f"import socket; socket.socket(socket.AF_UNIX).connect('\\0cryoprism-{os.getpid()}')"
        assert person.run(code, limits=SMALL).exit_code == 1


def test_socket_pairs_between_its_own_processes_work(person):
    assert person.run("import socket; a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))").printed == b"b'x'\n"


@pytest.mark.parametrize(
    "call",
    [
        "libc.ptrace(16, 1, 0, 0)",
        "libc.ptrace(0, 0, 0, 0)",
        "libc.unshare(0x10000000)",
        "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "libc.umount2(b'/tmp', 2)",
        "libc.personality(0x0040000)",
        "libc.setns(0, 0)",
        "libc.process_vm_readv(1, None, 0, None, 0, 0)",
        "libc.chroot(b'/tmp')",
        "libc.shmget(0, 1 << 20, 0o1600)",
        "libc.memfd_create(b'x', 0)",
        "libc.prlimit(1, 7, None, ctypes.create_string_buffer(16))",
    ],
)
def test_calls_that_reach_out_are_refused(person, call):
    run = person.run(CALL + f"print({call}, ctypes.get_errno())", limits=SMALL)
    result, error = run.printed.split()
    assert int(result) == -1
    assert int(error) in {1, 38}


def test_it_sees_and_signals_its_own_processes_only(person):
    code = (
        "import os\npids = {int(n) for n in os.listdir('/proc') if n.isdigit()}\nprint(pids == {1, os.getpid()})\n"
        f"try: os.kill({os.getpid()}, 9)\nexcept ProcessLookupError: print('none')\n"
        "for number in (2, 9, 15, 19):\n  try: os.kill(1, number)\n  except PermissionError: pass\nprint('on')\n"
    )
    assert person.run(code, limits=SMALL).printed == b"True\nnone\non\n"


@pytest.mark.parametrize("what", ["mem", "environ", "cwd/x", "fd/3"])
def test_the_watching_process_cannot_be_looked_into(person, what):
    run = person.run(f"open('/proc/1/{what}', 'r+b')", limits=SMALL)
    assert run.exit_code == 1
    assert b"PermissionError" in run.errors


def test_links_do_not_lead_out(person):
    target = person.folder / "outside"
    target.mkdir()
    target.chmod(0o777)
    (target / "there").write_text("as it was")
    code = (
        f"import os; os.symlink({str(target / 'there')!r}, 'file'); os.symlink({str(target)!r}, 'folder')\n"
        "os.mkfifo('fifo'); open('good', 'w').write('1'); os.link('good', 'second'); os.symlink('good', 'inner')"
    )
    run = person.run(code, limits=SMALL, output=person.folder / "out")
    assert run.outputs == ("good",)
    assert set(run.left_out) == {"file", "folder", "fifo", "second", "inner"}
    assert not any(path.is_symlink() for path in (person.folder / "out").iterdir())
    assert [path.name for path in target.iterdir()] == ["there"]
    assert (target / "there").read_text() == "as it was"


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
