"""Run Coq: the library once for each version, then one file for each rule, with limits of time and memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from cryoprism.core import CryoPrismError

__all__ = [
    "HOW_TO_INSTALL",
    "LIBRARY",
    "PLAIN",
    "CoqRun",
    "Prover",
    "coq_run",
    "coq_version",
    "library_folder",
    "library_sources",
    "run_coq",
]

#: Files of the library in the order in which they depend on one another.
LIBRARY = ("Points", "Copies", "Mates", "Local", "Ligands", "Scale", "Packing", "Margins", "Claims", "Assumptions")
HOW_TO_INSTALL = "Install Coq 8.16 or later (Debian and Ubuntu: apt install coq) so that coqc is on the PATH."


@dataclass(frozen=True)
class CoqRun:
    """How a run of Coq ended: ``reason`` is empty where every theorem was accepted."""

    reason: str
    output: str
    cpu_seconds: float
    memory_in_bytes: int


@dataclass(frozen=True)
class Prover:
    """How Coq is run on the files of a model.

    Attributes
    ----------
    run
        Compiles a file in its folder, with (file, folder of the library, CPU seconds, bytes of memory); the ``.vo`` has
        to lie beside it then.
    words
        How it is kept apart, as a sentence for the certificate.
    """

    run: Callable[[Path, Path, float, int], CoqRun]
    words: str


def coq_version() -> str | None:
    """Return the version of the coqc on the PATH, or None where there is none."""
    program = shutil.which("coqc")
    if program is None:
        return None
    try:
        shown = subprocess.run(
            [program, "--print-version"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return shown.stdout.split()[0] if shown.stdout.split() else None


def library_sources() -> dict[str, str]:
    """Return the library's files by their names."""
    folder = resources.files(__package__).joinpath("coq")
    return {f"{name}.v": folder.joinpath(f"{name}.v").read_text(encoding="utf-8") for name in LIBRARY}


def library_folder(version: str, scratch: Path) -> Path:
    """Folder with the compiled library; compiled where it is not there yet.

    It lies in the user's cache, named after the sources and the version of Coq, or in ``scratch`` where that cannot be
    written. What lies there is taken where it is the user's own, nobody else can write it, and the compiled files are
    those whose checksums were kept beside them; else it is compiled again. Whoever can write as the user is trusted, as
    with the program itself; check.sh takes nothing from here.

    Raises
    ------
    CryoPrismError
        Coq does not accept the library.
    """
    sources = library_sources()
    digest = hashlib.sha256("\0".join([version, *sources, *sources.values()]).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cryoprism"
    target = cache / f"coq-{digest}"
    if _unaltered(target):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="coq-", dir=cache))
    except OSError:  # a home that cannot be written: compile for this run alone
        folder = target = Path(tempfile.mkdtemp(prefix="library-", dir=scratch))
    try:
        for name, text in sources.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name in LIBRARY:
            run = run_coq(folder / f"{name}.v", ["-Q", ".", "CryoPrism"], cpu_seconds=300, memory_in_bytes=4 << 30)
            if run.reason:
                raise CryoPrismError(f"{name}.v", f"Coq {version} does not accept it ({run.reason})", HOW_TO_INSTALL)
        (folder / _SUMS).write_text(_sums_of(folder), encoding="utf-8")
        if folder != target and not _unaltered(target):  # else another run was faster
            with contextlib.suppress(OSError):
                if target.is_symlink():
                    target.unlink()
                shutil.rmtree(target, ignore_errors=True)
                folder.rename(target)
            if not _unaltered(target):  # what lies there cannot be taken away
                target = Path(tempfile.mkdtemp(prefix="library-", dir=scratch))
                shutil.copytree(folder, target, dirs_exist_ok=True)
    finally:
        if folder != target:
            shutil.rmtree(folder, ignore_errors=True)
    return target


#: Checksums of the compiled library, in its folder.
_SUMS = "checksums.txt"


def _sums_of(folder: Path) -> str:
    names = [f"{name}.vo" for name in LIBRARY]
    return "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)


def _unaltered(folder: Path) -> bool:
    """Whether a compiled library is the user's own, closed to others, and as it was compiled."""
    try:
        held = folder.lstat()
        if not stat.S_ISDIR(held.st_mode) or held.st_uid != os.getuid() or held.st_mode & 0o022:
            return False
        files = [(folder / name).lstat() for name in (_SUMS, *(f"{name}.vo" for name in LIBRARY))]
        if not all(stat.S_ISREG(file.st_mode) and file.st_uid == os.getuid() for file in files):
            return False
        return (folder / _SUMS).read_text(encoding="utf-8") == _sums_of(folder)
    except (OSError, ValueError):
        return False


def run_coq(file: Path, options: list[str], *, cpu_seconds: float, memory_in_bytes: int) -> CoqRun:
    """Compile one file in its folder, with stdin closed.

    Parameters
    ----------
    file
        The ``.v`` file; the ``.vo`` is written beside it.
    options
        Of coqc.
    cpu_seconds, memory_in_bytes
        Limits that the system enforces; wall time is limited to ten times the former.
    """
    # The shell sets the limits: code between fork and exec is not safe in a process with threads.
    limits = f"ulimit -s 1000000 2>/dev/null; ulimit -t {max(1, round(cpu_seconds))}; ulimit -v {memory_in_bytes >> 10}"
    command = ["sh", "-c", f'{limits}; exec coqc "$@"', "sh", "-q", *options, file.name]
    with tempfile.TemporaryFile() as captured:
        process = subprocess.Popen(
            command, cwd=file.parent, stdin=subprocess.DEVNULL, stdout=captured, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        late = threading.Event()

        def stop() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(10 * cpu_seconds + 10, stop)
        timer.start()
        peak, ended = [0], threading.Event()
        watch = threading.Thread(target=_watch_memory, args=(process.pid, peak, ended), daemon=True)
        watch.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            timer.cancel()
            ended.set()
            watch.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        captured.seek(0)
        output = captured.read().decode("utf-8", "replace")
    # A child begins with the peak of the process that started it, so its own is known only where it is larger.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = usage.ru_maxrss * 1024 if usage.ru_maxrss > own else peak[0]
    return coq_run(process.returncode, output, late.is_set(), usage.ru_utime + usage.ru_stime, memory)


def _watch_memory(process: int, peak: list[int], ended: threading.Event) -> None:
    """Keep the largest memory of a process in ``peak`` [bytes] until it has ended."""
    status = Path(f"/proc/{process}/status")
    while not ended.wait(0.02):
        try:
            found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii", errors="replace"))
        except OSError:
            return
        if found:
            peak[0] = max(peak[0], 1024 * int(found[1]))


def coq_run(code: int, output: str, late: bool, cpu_seconds: float, memory_in_bytes: int) -> CoqRun:
    """Return a run with its reason; ``code`` is negative for signals, ``late`` that a limit of time ended it."""
    return CoqRun(_reason(code, late, output), output, cpu_seconds, memory_in_bytes)


def _reason(code: int, late: bool, output: str) -> str:
    if code == 0:
        return ""
    if late or code in (-signal.SIGXCPU, -signal.SIGKILL, 128 + signal.SIGXCPU, 128 + signal.SIGKILL):
        return "time limit reached"
    said = output.lower()
    short = any(words in said for words in ("out of memory", "not enough memory", "cannot allocate"))
    if short or code == -signal.SIGSEGV:
        return "memory limit reached"
    if "Stack overflow" in output:
        return "memory limit reached (stack)"
    last = " ".join(output.split())[-300:]
    return f"not accepted by Coq: {last}"


def _run_plainly(file: Path, library: Path, cpu_seconds: float, memory_in_bytes: int) -> CoqRun:
    options = ["-Q", str(library), "CryoPrism", "-Q", ".", "Model"]
    return run_coq(file, options, cpu_seconds=cpu_seconds, memory_in_bytes=memory_in_bytes)


#: Coq as an ordinary child.
PLAIN = Prover(_run_plainly, "Coq ran with limits of time and memory, without a sandbox.")
