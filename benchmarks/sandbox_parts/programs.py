"""Hostile programs: each says ``GOT`` and what it got where it reached what it was after."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from cryoprism.evaluation.sandbox.seccomp import ARCHITECTURES, REFUSED

__all__ = ["ABSTRACT", "Program", "programs"]

LIBC = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
#: Name of a socket outside that has no place in the file system.
ABSTRACT = "cryoprism-hostile"


@dataclass(frozen=True)
class Program:
    """A program, what it is after, and whether it may run without walls.

    It prints ``GOT`` and what it got where it reached that.
    """

    name: str
    code: str
    harmless: bool = True


def programs(place: Path, port: int, pid: int) -> list[Program]:
    """Return the programs; ``place`` holds a secret file, ``port`` listens, ``pid`` runs, all outside."""
    read = (
        "\nfor path in {paths}:\n  try: n = len(open(path, 'rb').read(99)); print('GOT', path[-9:], n, 'bytes')"
        "\n  except OSError: pass"
    )
    # What the calling user could read outside, the home folder and the secret.
    private = [str(place / "secret"), str(Path.home() / ".bashrc"), "/etc/shadow", "/proc/1/environ"]
    return [
        Program("fork bomb", "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", harmless=False),
        Program("memory, one process", "x = []\nwhile True: x.append(bytearray(b'1') * (1 << 20))"),
        Program(
            "memory, sixteen processes",
            "import os, time\nfor _ in range(4): os.fork()\nx = []\n"
            "for _ in range(100): x.append(bytearray(b'1') * (1 << 20)); time.sleep(0.01)\ntime.sleep(9)",
        ),
        Program("CPU", "while True: pass"),
        Program(
            "CPU, children unwaited for",
            "import os, signal, time; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True:\n"
            "  if os.fork() == 0:\n    while time.process_time() < 0.2: pass\n    os._exit(0)\n  time.sleep(0.15)",
        ),
        Program("sleep", "import time; time.sleep(3600)"),
        Program(
            "disk, output folder", "s = open('f', 'wb')\nfor _ in range(200): s.write(bytes(10**6)); s.flush()",
            harmless=False,
        ),
        Program(
            "disk, many files", "import itertools\nfor i in itertools.count(): open(f'/tmp/{i}', 'w').close()",
            harmless=False,
        ),
        Program("print without end", "while True: print('y' * 10**4)"),
        Program(
            "socket to this machine",
            f"import socket; socket.create_connection(('127.0.0.1', {port}), 2); print('GOT it')",
        ),
        Program("ptrace", LIBC + "print('GOT it' if 0 in (libc.ptrace(16, os.getppid()), libc.ptrace(0)) else 'no')"),
        Program(
            "new user namespace, mount",
            LIBC + "if libc.unshare(0x10020000) == 0: print('GOT unshare')\n"
            "if libc.mount(b'n', b'/tmp', b'tmpfs', 0, None) == 0: print('GOT mount')",
        ),
        Program(
            "other processes in /proc",
            "import os\nfor n in os.listdir('/proc'):\n  if n.isdigit() and int(n) not in (1, os.getpid()):\n"
            "    line = open(f'/proc/{n}/cmdline').read()\n    if line: print('GOT a command line'); break",
        ),
        Program(
            "memory of its own watcher",
            "import os\ntry: open(f'/proc/{os.getppid()}/mem', 'r+b'); print('GOT it')\nexcept OSError: pass",
        ),
        Program("private files", read.format(paths=private)),
        Program(
            "link out of the output folder",
            f"import os; os.symlink({str(place / 'target')!r}, 'link'); os.symlink('/etc/passwd', 'passwd')",
        ),
        Program("signal to parent", "import os, time; os.kill(os.getppid(), 9); time.sleep(0.2)", harmless=False),
        Program(
            "signal outside",
            f"import os\ntry: os.kill({pid}, 0); print('GOT it')\nexcept OSError: pass",
        ),
        Program(
            "writing /usr, /etc and inputs",
            f"for p in ('/usr/x', '/etc/x', '/x', {str(place / 'input')!r}):\n"
            "  try: open(p, 'a').close(); print('GOT', p)\n  except OSError: pass",
        ),
        Program(
            "daemon that stays",
            "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep(30)\n  os._exit(0)",
        ),
        *_more(place),
    ]  # fmt: skip


def _more(place: Path) -> list[Program]:
    """Return what takes memory that no process is charged for, and further ways out."""
    many = "for _ in range(4): os.fork()\n"
    column = ARCHITECTURES[platform.machine()].column
    calls = {name: numbers[column] for name, numbers in REFUSED.items() if numbers[column] is not None}
    clone = (56, 220)[column]
    return [
        Program(
            "memory in sockets, sixteen processes",
            "import os, socket, time\n" + many + "keep = []\nwhile True:\n  s = socket.socketpair(); keep.append(s)\n"
            "  for e in s:\n    e.setblocking(False)\n    try:\n      while True: e.send(b'x' * 65536)\n"
            "    except BlockingIOError: pass",
            harmless=False,
        ),
        Program(
            "memory in sockets, larger buffers",
            "import socket\nfor n in (7, 32):\n  s = socket.socketpair()[0]\n"
            "  try: s.setsockopt(socket.SOL_SOCKET, n, 1 << 30)\n  except OSError: pass\n"
            "  if s.getsockopt(socket.SOL_SOCKET, 7) > 250000: print('GOT', n)",
        ),
        Program(
            "memory in datagrams of senders that are gone",
            "import socket, time\nkeep = []\nfor k in range(300):\n"
            "  r = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); r.bind(f'\\0{k}'); keep.append(r)\n"
            "  try:\n    while True:\n      s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "      s.setblocking(False); s.sendto(bytes(200000), f'\\0{k}'); s.close()\n"
            "  except BlockingIOError: pass\ntime.sleep(1)",
            harmless=False,
        ),
        Program(
            "memory in pipes, sixteen processes",
            "import os, time\n" + many + "keep = []\ntry:\n  while True:\n    r, w = os.pipe(); keep.append(r)\n"
            "    os.set_blocking(w, False)\n    try:\n      while True: os.write(w, b'x' * 65536)\n"
            "    except BlockingIOError: os.close(w)\nexcept OSError: time.sleep(1)",
            harmless=False,
        ),
        Program(
            "memory in pipes, larger ones",
            "import fcntl, os\nr, w = os.pipe()\ntry:\n  if fcntl.fcntl(w, 1031, 1 << 20) > 65536: print('GOT a MiB')\n"
            "except OSError: pass",
        ),
        Program(
            "pages that stay in pipes (vmsplice, splice, tee, sendfile)",
            LIBC + "import mmap\nr, w = os.pipe(); R, W = os.pipe(); os.write(W, b'x'); m = mmap.mmap(-1, 4096)\n"
            "b = (ctypes.c_char * 4096).from_buffer(m); v = (ctypes.c_size_t * 2)(ctypes.addressof(b), 4096)\n"
            "if libc.vmsplice(w, v, 1, 0) > 0: print('GOT vmsplice')\nif libc.tee(R, w, 1, 2) > 0: print('GOT tee')\n"
            "if libc.splice(R, 0, w, 0, 1, 2) > 0: print('GOT splice')\nf = os.open('/bin/sh', 0)\n"
            "if libc.sendfile(w, f, 0, 9) > 0: print('GOT sendfile')",
        ),
        Program(
            "memory in tables of pages",
            LIBC + "libc.mmap.restype = ctypes.c_void_p; n = 1 << 40\n"
            "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]\n"
            "p = libc.mmap(None, n, 1, 0x4022, -1, 0); libc.madvise(ctypes.c_void_p(p), ctypes.c_size_t(n), 15)\n"
            "for k in range(0, n, 2 << 20): ctypes.string_at(p + k, 1)",
            harmless=False,
        ),
        Program(
            "memory in mappings, sixteen processes",
            LIBC + "import time; libc.mmap.restype = ctypes.c_void_p\n"
            "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]\n"
            "for k in range(65000): libc.mmap(None, 4096, 1, 0x22 if k % 2 else 0x21, -1, 0)\n" + many
            + "time.sleep(1)",
            harmless=False,
        ),
        Program(
            "timers and signals that wait",
            LIBC + "n, t = 0, ctypes.c_void_p()\n"
            "while n < 20000 and libc.timer_create(0, None, ctypes.byref(t)) == 0: n += 1\n"
            "if n > 5000: print('GOT', n, 'timers')",
        ),
        Program(
            "each refused system call",
            LIBC + f"calls = {calls}\nfor name, n in calls.items():\n"
            "  ctypes.set_errno(0); got = libc.syscall(n, 0, 0, 0, 0, 0, 0)\n"
            "  if got != -1 or ctypes.get_errno() not in (1, 38): print('GOT', name)",
            harmless=False,
        ),
        Program(
            "new namespace by clone",
            LIBC + f"for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):\n"
            f"  pid = libc.syscall({clone}, flag | 17, 0, 0, 0, 0)\n"
            "  if pid == 0: os._exit(0)\n  if pid > 0: print('GOT', hex(flag))",
        ),
        Program(
            "other families of sockets",
            LIBC + "for f in range(2, 46):\n  v = (ctypes.c_int * 2)()\n"
            "  if libc.socket(f, 2, 0) >= 0 or libc.socketpair(f, 2, 0, v) == 0: print('GOT family', f)",
        ),
        Program(
            "abstract socket outside",
            "import socket\ns = socket.socket(socket.AF_UNIX)\n"
            f"try: s.connect('\\0{ABSTRACT}'); print('GOT it')\nexcept OSError: pass",
        ),
        Program(
            "typing into a terminal (TIOCSTI)",
            "import fcntl, os\nfds = [0, 1, 2]\nfor n in ('/dev/tty', '/dev/ptmx', '/dev/console'):\n"
            "  try: fds.append(os.open(n, os.O_RDWR | os.O_NOCTTY))\n  except OSError: pass\nfor fd in fds:\n"
            "  try: fcntl.ioctl(fd, 0x5412, b'x'); print('GOT', fd)\n  except OSError: pass",
        ),
        Program(
            "limits of itself and of its watcher",
            "import os, resource as r\n"
            "for what in (r.RLIMIT_NOFILE, r.RLIMIT_DATA, r.RLIMIT_CPU, r.RLIMIT_NPROC, r.RLIMIT_FSIZE):\n"
            "  try: r.setrlimit(what, (r.RLIM_INFINITY, r.RLIM_INFINITY)); print('GOT', what)\n"
            "  except (OSError, ValueError): pass\n"
            "try: r.prlimit(os.getppid(), r.RLIMIT_NOFILE, (3, 3)); print('GOT the watcher')\nexcept OSError: pass",
            harmless=False,
        ),
        Program(
            "forged report on an open descriptor",
            "import os\nfor fd in range(3, 256):\n"
            "  try: os.write(fd, bytes(8)); print('GOT', fd)\n  except OSError: pass",
        ),
        Program(
            "settings of the kernel",
            "for p in ('sys/kernel/core_pattern', 'sysrq-trigger', 'sys/vm/drop_caches', "
            "'sys/user/max_user_namespaces', '1/oom_score_adj'):\n"
            "  try: open('/proc/' + p, 'r+').close(); print('GOT', p)\n  except OSError: pass",
        ),
        Program(
            "device node, set-user-ID file",
            "import os\ntry: os.mknod('disk', 0o60666, os.makedev(8, 0)); print('GOT a node')\nexcept OSError: pass\n"
            "open('tool', 'w').close(); os.chmod('tool', 0o6755)",
        ),
        Program(
            "hard links to inputs and system",
            f"import os\nfor p in ({str(place / 'input')!r}, '/bin/sh', '/proc/self/exe'):\n"
            "  try: os.link(p, 'hard'); print('GOT', p)\n  except OSError: pass",
        ),
        Program("sparse file of a terabyte", "open('f', 'w').truncate(1 << 40)", harmless=False),
        Program(
            "fifty sparse files", "for k in range(50): open(f'f{k:02}', 'w').truncate(15 * 10**6)", harmless=False
        ),
        Program(
            "two thousand folders deep",
            "import os\nfor _ in range(2000): os.mkdir('d'); os.chdir('d')\nopen('f', 'w').close()",
            harmless=False,
        ),
        Program(
            "fork bomb, each in a session of its own",
            "import os\nwhile True:\n  try:\n    if os.fork() == 0: os.setsid()\n  except OSError: pass",
            harmless=False,
        ),
        Program(
            "CPU, eight threads",
            "import hashlib, threading\nx = bytes(1 << 24)\ndef burn():\n  while True: hashlib.sha256(x)\n"
            "for _ in range(8): threading.Thread(target=burn).start()",
        ),
        Program("signal to all", "import os, time\nos.kill(-1, 9); time.sleep(0.2)", harmless=False),
    ]  # fmt: skip
