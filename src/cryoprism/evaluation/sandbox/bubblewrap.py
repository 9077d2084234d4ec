"""The walls: bubblewrap's arguments, whether it works here, and what of the system is seen inside.

As root, bubblewrap builds the sandbox with root's rights and the first process inside drops to a user of its own, since
the kernel counts no processes against root. As an ordinary user (and as root in a container that may not make
namespaces directly) it goes through a user namespace.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from cryoprism.core import InputError

from .seccomp import seccomp_filter

__all__ = ["OUTPUT", "Walls", "interpreter", "runtime_paths", "walls"]

#: Where the output folder lies inside.
OUTPUT: Final = "/out"
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt")
# OCaml's library manager, by which Coq finds its plug-ins, says in its own file what lies where.
_SETTINGS: Final = (
    "/etc/alternatives", "/etc/fonts", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
    "/etc/ocamlfind.conf", "/etc/ocamlfind.conf.d",
)  # fmt: skip
#: Users that no account has (systemd hands numbers of this range out for the same purpose).
_FREE_USERS: Final = range(61184, 65520)
_REMEDY: Final = (
    "Install bubblewrap (apt install bubblewrap) and let it make namespaces (sysctl "
    "kernel.unprivileged_userns_clone=1 or user.max_user_namespaces=10000; AppArmor and containers can forbid it too), "
    "or choose --isolation none, which protects from mistakes only."
)
_turn = itertools.count(os.getpid())


@dataclass(frozen=True)
class Walls:
    """How the sandbox is built here.

    Attributes
    ----------
    program
        bubblewrap.
    how
        ``root``: with root's rights; ``user``: in a user namespace.
    python
        Interpreter of the first process inside.
    """

    program: str
    how: Literal["root", "user"]
    python: Path

    def user(self) -> int | None:
        """Return the user to whom the program is handed over: a free one for root, else None."""
        if os.geteuid() != 0:
            return None
        taken = {os.stat(f"/proc/{name}").st_uid for name in os.listdir("/proc") if _is_process(name)}
        first = next(_turn)
        for step in range(len(_FREE_USERS)):
            number = _FREE_USERS[(first + step) % len(_FREE_USERS)]
            if number not in taken:
                return number
        raise InputError("sandbox", "there is no free user", "End other runs first.")

    def arguments(self, reads: Sequence[Path], most_bytes: int, filter_descriptor: int) -> list[str]:
        """Return the command that builds the sandbox; what runs inside is put behind it.

        Parameters
        ----------
        reads
            Files and folders that are seen at their own places, read-only, beside the system.
        most_bytes
            Size of the output folder, and of each of ``/tmp`` and ``/dev/shm``.
        filter_descriptor
            From which bubblewrap reads the filter of system calls.
        """
        call = [self.program, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        call += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox"]
        if self.how == "user":
            call.append("--unshare-user")
        else:
            call += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        for root in _SYSTEM:
            if os.path.islink(root):
                call += ["--symlink", os.readlink(root), root]
            elif os.path.isdir(root):
                call += ["--ro-bind", root, root]
        call += ["--perms", "0755", "--dir", "/etc"]  # bubblewrap's own would be closed to all but root
        for name in _SETTINGS:
            call += ["--ro-bind-try", name, name]
        size = ["--size", str(most_bytes)]
        call += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", *size, "--tmpfs", "/dev/shm"]
        call += ["--perms", "1777", *size, "--tmpfs", "/tmp", "--perms", "0777", *size, "--tmpfs", OUTPUT]
        seen = [Path(root) for root in _SYSTEM if os.path.isdir(root)]
        made = {Path("/"), Path("/tmp"), Path("/etc")}
        for path in sorted(set(reads)):
            if any(path.is_relative_to(folder) for folder in seen):
                continue
            for folder in reversed(path.parents):
                if folder not in made:
                    call += ["--perms", "0755", "--dir", str(folder)]
                    made.add(folder)
            call += ["--ro-bind", str(path), str(path)]
            seen.append(path)
        # The roots that bubblewrap makes are file systems in memory without a size of their own.
        return [*call, "--remount-ro", "/dev", "--remount-ro", "/", "--seccomp", str(filter_descriptor), "--"]


def walls() -> Walls:
    """Return how a sandbox is built on this machine by this user.

    Raises
    ------
    InputError
        bubblewrap is absent or may not make namespaces, or there is no filter for this processor.
    """
    return _walls(os.geteuid())


@cache
def _walls(user: int) -> Walls:
    program = shutil.which("bwrap")
    if program is None:
        raise InputError("sandbox", "bubblewrap (bwrap) is not installed", _REMEDY)
    python = interpreter()
    seccomp_filter()
    said = ""
    ways: tuple[Literal["root", "user"], ...] = ("root", "user") if user == 0 else ("user",)
    for how in ways:
        candidate = Walls(program, how, python)
        try:
            wrong = _try(candidate)
        except (OSError, subprocess.TimeoutExpired) as error:
            wrong = str(error)
        if not wrong:
            return candidate
        said = said or wrong
    raise InputError("sandbox", f"bubblewrap cannot make a sandbox here ({said})", _REMEDY)


def _try(candidate: Walls) -> str:
    """Build an empty sandbox; what went wrong."""
    source, sink = os.pipe()
    try:
        os.write(sink, seccomp_filter())
        os.close(sink)
        drop: dict[str, Any] = (
            {} if candidate.how == "root" or os.geteuid() else {"user": candidate.user(), "extra_groups": []}
        )
        done = subprocess.run(
            [*candidate.arguments(runtime_paths(candidate.python), 1 << 20, source), candidate.python, "-ISc", ""],
            capture_output=True,
            pass_fds=(source,),
            timeout=30,
            **drop,
        )
    finally:
        os.close(source)
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def runtime_paths(python: Path | None = None) -> list[Path]:
    """Return the folders an interpreter is made of: its own, the environment's, and where CryoPrism lies.

    Parameters
    ----------
    python
        An interpreter of which only the installation is wanted; the running one with its environment if absent.
    """
    if python is not None:
        return [python.resolve().parent.parent]
    source = Path(__file__).resolve().parents[3]
    paths = [Path(sys.base_prefix), Path(sys.base_prefix).resolve(), Path(sys.prefix)]
    if not source.is_relative_to(sys.prefix):
        paths.append(source)
    return [path for path in paths if os.access(path, os.R_OK | os.X_OK)]


def interpreter() -> Path:
    """Return an interpreter that can be run inside: the running one's own, or the system's where that is closed."""
    own = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    for path in (own, Path("/usr/bin/python3")):
        try:
            mode = path.stat().st_mode
        except OSError:
            continue
        # Root's own rights say nothing: inside, another user runs it. What lies above it is not seen there.
        if os.access(path, os.X_OK) and (os.geteuid() != 0 or mode & 0o005 == 0o005):
            return path
    raise InputError("sandbox", f"{own} cannot be run by other users", "Install python3 for all (/usr/bin/python3).")


def _is_process(name: str) -> bool:
    return name.isdigit() and os.path.exists(f"/proc/{name}")
