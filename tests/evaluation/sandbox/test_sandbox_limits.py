"""Foreign code stays within its limits of time, memory, processes and files, as root and as an ordinary user."""

import os
import time

import pytest
from hostile import CALL, SMALL, alive, limits


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
