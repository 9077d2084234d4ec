"""Run a program between walls or, only where asked for, without them; say how it ended and what it used."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from cryoprism.core import InputError

from ._outputs import Received, receive
from .bubblewrap import OUTPUT, Walls, interpreter, runtime_paths, walls
from .limits import Accounting, Execution, Isolation, Limits, StoppedBy
from .seccomp import seccomp_filter

__all__ = ["NOT_PROTECTED", "execute"]

#: What limits alone do not protect against.
NOT_PROTECTED: Final = (
    "Without isolation the program has all your rights: it can read and change every file that you can, use the "
    "network, look at and end your other processes, and leave processes behind that hide from the watch. Limits of "
    "time, memory and processes hold for what it starts openly; the size of its folder is bounded per file only."
)
_LAUNCHER: Final = Path(__file__).with_name("_launcher.py")
_MOST_FILES: Final = 100_000
# By so much a socket goes beyond its buffer: the last message is taken whole.
_LAST_MESSAGE_BYTES: Final = 1 << 17
_MOST_TEXT_BYTES: Final = 10_000_000
_PATIENCE_SECONDS: Final = 15.0
# Looked at of a folder that is handed over to another user; enough to find out, not to read a whole archive.
_MOST_LOOKED_AT: Final = 20_000
_HANDED_ON: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TZ")
#: From here on the kernel counts the processes of a user namespace by themselves.
_COUNTS_BY_NAMESPACE: Final = (5, 14)


def execute(
    command: Sequence[str],
    *,
    limits: Limits | None = None,
    inputs: Sequence[str | Path] = (),
    output: str | Path | None = None,
    isolation: Isolation = "bubblewrap",
    environment: Mapping[str, str] | None = None,
    folder: str | Path = ".",
) -> Execution:
    """Run a program and wait for its end.

    It sees the system (``/usr``, ``/opt``, libraries), Python with this environment, its own file and ``inputs``, all
    read-only at their own places; a folder ``/out`` of its own, in which it starts; an empty ``/tmp``; its own
    processes; no network. What it leaves in ``/out`` is copied to ``output`` when it has ended, regular files only.

    Parameters
    ----------
    command
        Program and arguments. A Python file that is no program is run with Python. Arguments that are spelled as one of
        ``inputs``, or as something in one, are given as full paths, since the program starts in another folder.
    limits
        What it may use.
    inputs
        Files and folders it may read.
    output
        New or empty folder for what it writes; None drops that.
    isolation
        ``none`` runs it as an ordinary child; see :data:`NOT_PROTECTED`.
    environment
        Variables beside those that are set anyway (PATH, HOME, TMPDIR, LANG).
    folder
        From which relative paths are meant.

    Raises
    ------
    InputError
        The command is empty or its program is not there, an input cannot be read, the output folder holds something,
        or no sandbox can be made here.
    """
    limits = limits or Limits()
    reads = [_readable(Path(os.path.abspath(Path(folder, path))), path) for path in inputs]
    given, program = _resolved(command, inputs, Path(folder))
    target = None if output is None else _empty_folder(Path(output))
    built = walls() if isolation == "bubblewrap" else None
    if built is not None and os.geteuid() == 0:
        for path in [*reads, *([] if program is None else [program])]:
            _require_readable_by_others(path)
    with tempfile.TemporaryDirectory(prefix="cryoprism-sandbox-") as scratch:
        inside = OUTPUT if built else str(target.resolve() if target else scratch)
        spec = _specification(given, limits, inside, built)
        variables = _environment(inside, built is not None, Path(scratch)) | dict(environment or {})
        seen = [*runtime_paths(), *([] if built is None else runtime_paths(built.python)), *reads]
        if program is not None:
            seen.append(program)
        run = _Run(spec, limits, variables, target if built else None)
        received = run.go(built, seen)
    return _judged(given, isolation, limits, target, run, received)


@dataclass
class _Run:
    """One run: the process outside, what it prints, and its report."""

    spec: dict[str, Any]
    limits: Limits
    environment: dict[str, str]
    target: Path | None
    printed: bytearray = field(default_factory=bytearray)
    errors: bytearray = field(default_factory=bytearray)
    printed_bytes: int = 0
    overdue: bool = False

    def go(self, built: Walls | None, reads: Sequence[Path]) -> Received | None:
        """Start it, read what comes, wait for its end."""
        report, report_end = os.pipe()
        filter_end, filter_in = os.pipe()
        self.spec["report"] = report_end
        python = str(interpreter() if built is None else built.python)
        arguments = [python, "-I", "-S", "-c", _LAUNCHER.read_text(encoding="utf-8"), json.dumps(self.spec)]
        drop: dict[str, Any] = {}
        if built is not None:
            # A pipe holds it whole: 64 KiB against less than two.
            os.write(filter_in, seccomp_filter())
            arguments = [*built.arguments(reads, self.spec["file"], filter_end), *arguments]
            if built.how == "user" and os.geteuid() == 0:
                user = built.user()
                drop = {"user": user, "group": user, "extra_groups": []}
        os.close(filter_in)
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(report_end, filter_end),
                env=self.environment,
                start_new_session=True,
                **drop,
            )
        except BaseException:
            os.close(report)
            raise
        finally:
            os.close(report_end)
            os.close(filter_end)
        timer = threading.Timer(self.limits.wall_seconds + _PATIENCE_SECONDS + self.spec["file"] / 1e7, self._end)
        self._process = process
        threads = [
            threading.Thread(target=self._keep, args=(process.stdout, self.printed), daemon=True),
            threading.Thread(target=self._keep, args=(process.stderr, self.errors), daemon=True),
        ]
        for thread in (*threads, timer):
            thread.start()
        try:
            with open(report, "rb") as stream:
                return receive(stream, self.target, self.spec["file"])
        finally:
            process.kill()
            process.wait()
            timer.cancel()
            for thread in threads:
                # Without isolation a process that hides can hold the pipe: it is not waited for.
                thread.join(timeout=2.0)

    def _end(self) -> None:
        self.overdue = True
        self._process.kill()

    def _keep(self, stream: IO[bytes], into: bytearray) -> None:
        most = min(_MOST_TEXT_BYTES, self.spec["file"])
        while block := stream.read1(1 << 16):  # type: ignore[attr-defined]
            self.printed_bytes += len(block)
            into += block[: max(0, most - len(into))]
        stream.close()


def _specification(command: Sequence[str], limits: Limits, inside: str, built: Walls | None) -> dict[str, Any]:
    size = int(limits.files_in_megabytes * 1e6)
    version = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdigit())
    counts_all = built is None or (built.how == "user" and version < _COUNTS_BY_NAMESPACE)
    return {
        "command": list(command),
        "alone": built is not None,
        "uid": built.user() if built is not None and built.how == "root" else None,
        "cpu": limits.cpu_seconds,
        "wall": limits.wall_seconds,
        "memory": int(limits.memory_in_gigabytes * 1e9),
        "file": size,
        "processes": limits.processes,
        # The first process inside counts too; where the kernel counts all of a user, so do the others.
        "others": 1 + (_tasks_of(os.geteuid()) if counts_all else 0),
        "most_files": _MOST_FILES,
        "socket": _kernel_number("net/core/wmem_default", 212_992) + _LAST_MESSAGE_BYTES,
        # No limit means that every pipe keeps its whole buffer.
        "pipes": _kernel_number("fs/pipe-user-pages-soft", 16_384) * os.sysconf("SC_PAGESIZE") or 1 << 62,
        "out": inside,
        "folders": [] if built is None else [OUTPUT, "/tmp", "/dev/shm"],
    }


def _kernel_number(name: str, otherwise: int) -> int:
    try:
        return int(Path("/proc/sys", name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return otherwise


def _environment(inside: str, isolated: bool, scratch: Path) -> dict[str, str]:
    temporary = "/tmp" if isolated else str(scratch)
    values = {
        "PATH": os.pathsep.join([str(Path(sys.prefix) / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": temporary,
        "TMPDIR": temporary,
        "LANG": "C.UTF-8",
        "USER": "sandbox",
        "PYTHONDONTWRITEBYTECODE": "1",
        "CRYOPRISM_OUT": inside,
    }
    source = Path(__file__).resolve().parents[3]
    if not source.is_relative_to(sys.prefix):
        values["PYTHONPATH"] = str(source)
    return values | {name: os.environ[name] for name in _HANDED_ON if name in os.environ}


def _resolved(command: Sequence[str], inputs: Sequence[str | Path], folder: Path) -> tuple[list[str], Path | None]:
    """Command with full paths, and the program's own file."""
    if not command or not command[0].strip():
        raise InputError("PROGRAM", "no program was given", "Put it behind --, for example -- python3 plug_in.py.")
    for text in command:
        if "\0" in text:
            raise InputError("PROGRAM", f"{text!r} holds a zero byte", "Leave it out.")
    arguments = [_placed(text, inputs, folder) for text in command[1:]]
    name = command[0]
    if "/" not in name and not name.endswith(".py"):
        search = os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ.get("PATH", os.defpath)])
        found = shutil.which(name, path=search)
        if found is None:
            raise InputError("PROGRAM", f"'{name}' is not installed", "Give a program on the PATH or the path of one.")
        return [found, *arguments], Path(found)
    path = Path(os.path.abspath(folder / name))
    if not path.is_file():
        raise InputError("PROGRAM", f"{name} is not there", "Give a program on the PATH or the path of one.")
    if path.suffix == ".py" and not os.access(path, os.X_OK):
        return [sys.executable, str(path), *arguments], _readable(path, name)
    if not os.access(path, os.X_OK):
        raise InputError("PROGRAM", f"{name} is no program", f"Make it one with: chmod +x {name}")
    return [str(path), *arguments], path


def _placed(argument: str, inputs: Sequence[str | Path], folder: Path) -> str:
    """Full path of what is an input, or lies in one, as it is spelled outside; anything else as it stands."""
    path = Path(argument)
    for given in inputs:
        below = path.is_relative_to(given) and ".." not in path.parts and Path(folder, path).exists()
        if argument == str(given) or (argument and below):
            return os.path.abspath(Path(folder, path))
    return argument


def _readable(path: Path, spelled: str | Path) -> Path:
    if path in (Path("/"), Path("/tmp"), Path("/dev/shm")) or any(
        path == root or path.is_relative_to(root) for root in (Path("/proc"), Path("/sys"), Path(OUTPUT))
    ):
        raise InputError("--input", f"{spelled} has a place of its own inside", "Give a folder or file below it.")
    if not path.exists():
        raise InputError("--input", f"{spelled} does not exist", "Give files and folders that are there.")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise InputError("--input", f"{spelled} cannot be read", "Give yourself the right to read it (chmod).")
    return path


def _require_readable_by_others(path: Path) -> None:
    """As root the program runs as a user of its own, who needs the rights that all others have."""
    for number, place in enumerate([path] if not path.is_dir() else _below(path)):
        status = place.stat() if place.exists() else None
        if status is None or number > _MOST_LOOKED_AT:
            continue
        needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else 0)
        if status.st_mode & needed != needed:
            raise InputError(
                place,
                "can be read by its owner only, but root's programs run as a user of their own in the sandbox",
                f"Let others read it (chmod -R o+rX {path}), or run as its owner.",
            )


def _below(folder: Path) -> list[Path]:
    found = [folder]
    for place, folders, files in os.walk(folder):
        found += [Path(place, name) for name in (*folders, *files)]
        if len(found) > _MOST_LOOKED_AT:
            break
    return found


def _empty_folder(path: Path) -> Path:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(path, "holds something already", "Name a new or empty folder in --out.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _tasks_of(user: int) -> int:
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == user:
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue
    return count


def _judged(
    command: Sequence[str],
    isolation: Isolation,
    limits: Limits,
    target: Path | None,
    run: _Run,
    received: Received | None,
) -> Execution:
    if received is None:
        if not run.overdue:
            said = run.errors.decode(errors="replace").strip().splitlines()
            why = said[-1] if said else "it ended without a report"
            raise InputError("sandbox", f"could not be started ({why})", "See whether bubblewrap works: bwrap --help.")
        report: dict[str, Any] = {"stopped_by": "wall", "status": None, "wall": limits.wall_seconds}
        received = Received(report, (), {})
    report = received.report
    if report.get("start_error"):
        reason = os.strerror(report["start_error"])
        raise InputError("PROGRAM", f"{command[0]} could not be started ({reason})", "Give a program for this machine.")
    files, left_out = received.files, received.left_out
    if isolation == "none" and target is not None:
        files = tuple(sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()))
    status = report["status"]
    code = os.waitstatus_to_exitcode(status) if status is not None else None
    stopped: StoppedBy | None = report["stopped_by"]
    number = None if code is None or code >= 0 else -code
    if stopped is None and number == signal.SIGXCPU:
        stopped = "cpu"
    if stopped is None and number == signal.SIGXFSZ:
        stopped = "files"
    notes = [NOT_PROTECTED] if isolation == "none" else []
    kept = len(run.printed) + len(run.errors)
    if kept < run.printed_bytes:
        notes.append(f"Of {run.printed_bytes} bytes that it printed the first {kept} are kept.")
    if report.get("left_behind"):
        notes.append(f"{report['left_behind']} process(es) were still there when the program ended; they were ended.")
    return Execution(
        command=tuple(command),
        isolation=isolation,
        limits=limits,
        accounting=Accounting(
            wall_seconds=report["wall"],
            user_seconds=report.get("user", 0.0),
            system_seconds=report.get("system", 0.0),
            unwaited_seconds=report.get("unwaited", 0.0),
            peak_memory_in_bytes=report.get("peak", 0),
            kernel_memory_in_bytes=report.get("kernel", 0),
            peak_processes=report.get("peak_processes", 0),
            started=report.get("started", 0),
            outputs_in_bytes=sum((target / name).stat().st_size for name in files) if target is not None else 0,
            temporary_in_bytes=report.get("temporary", 0),
            printed_in_bytes=run.printed_bytes,
        ),
        verdict="stopped" if stopped else ("finished" if code == 0 else "failed"),
        exit_code=code if stopped is None and number is None else None,
        signal=None if stopped or number is None else signal.Signals(number).name,
        stopped_by=stopped,
        limits_reached=tuple(name for name in _reached(report, limits) if name != stopped),
        output=target,
        outputs=tuple(_text(name) for name in files),
        left_out={_text(name): _text(reason) for name, reason in left_out.items()},
        left_behind=int(report.get("left_behind", 0)),
        printed=bytes(run.printed),
        errors=bytes(run.errors),
        notes=tuple(notes),
    )


def _reached(report: Mapping[str, Any], limits: Limits) -> tuple[StoppedBy, ...]:
    full = 0.99 * limits.files_in_megabytes * 1e6
    touched: list[StoppedBy] = []
    if report.get("largest", 0) > limits.memory_in_gigabytes * 1e9:
        touched.append("memory")
    if max(report.get("out_full", 0), report.get("temporary", 0)) > full:
        touched.append("files")
    if report.get("peak_processes", 0) >= limits.processes:
        touched.append("processes")
    return tuple(touched)


def _text(name: str) -> str:
    """Name that any JSON reader takes; file names may hold any bytes."""
    return os.fsencode(name).decode("utf-8", errors="replace")
