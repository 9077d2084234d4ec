"""Foreign code between walls gets out nowhere, as root and as an ordinary user."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hostile import CALL, SMALL


@pytest.mark.parametrize("place", ["/x", "/usr/x", "/etc/x", "/dev/x", "/root", "/home/x", "/var/x", "/proc/sys/x"])
def test_nothing_else_can_be_written(person, place):
    run = person.run(f"open({place!r}, 'w')", limits=SMALL)
    assert run.exit_code == 1
    assert b"Error" in run.errors


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
