"""Coq behind the sandbox's walls: the files that it compiles are made from what users give."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from cryoprism.core import InputError
from cryoprism.evaluation.consistency import PLAIN, CoqRun, Prover, coq_run
from cryoprism.evaluation.sandbox import Execution, Limits, execute

__all__ = ["walled_prover"]

_SYSTEM = (Path("/usr"), Path("/opt"), Path("/bin"))
_COMPILE = (
    'ulimit -s 1000000 2>/dev/null; cp "$1"/model/* . || exit 9; '
    'exec "$2" -q -noglob -Q "$1/library" CryoPrism -Q . Model "$3"'
)


def walled_prover() -> Prover:
    """Return Coq behind bubblewrap's walls: no network, no files but its own, limits of all its processes together.

    Where there is no Coq, no bubblewrap, or Coq cannot be run inside, an ordinary child; the prover's words say why.
    """
    program = shutil.which("coqc")
    if program is None:
        return PLAIN
    # Coq of a package manager of its own brings its folder along.
    place = Path(program).resolve().parent.parent
    brought = [] if any(place.is_relative_to(root) for root in _SYSTEM) else [place]
    try:
        with tempfile.TemporaryDirectory(prefix="cryoprism-prove-") as folder:
            small = Path(folder, "Small.v")
            small.write_text("Check 1.\n", encoding="utf-8")
            for path in (Path(folder), small):
                path.chmod(0o755)
            command = [program, "-q", "-noglob", "-o", "Small.vo", str(small)]
            tried = execute(command, inputs=[Path(folder), *brought], limits=_limits(30, 1 << 30))
        why = "" if tried.verdict == "finished" else f"coqc does not run inside: {_said(tried)[-200:].strip()}"
    except InputError as error:
        why = error.found
    if why:
        return Prover(PLAIN.run, f"{PLAIN.words[:-1]} ({' '.join(why.split())}).")

    def run(file: Path, library: Path, cpu_seconds: float, memory_in_bytes: int) -> CoqRun:
        with tempfile.TemporaryDirectory(prefix="cryoprism-prove-") as folder:
            # As root the program is another user, who sees nothing of a home folder: copies that all may read.
            inside, out = Path(folder, "inside"), Path(folder, "out")
            shutil.copytree(
                library, inside / "library", ignore=shutil.ignore_patterns("*.v", "*.glob", "*.vos", "*.vok")
            )
            (inside / "model").mkdir()
            for path in (file, *file.parent.glob("*.vo")):
                shutil.copy(path, inside / "model")
            for path in (Path(folder), *inside.rglob("*"), inside):
                path.chmod(0o755 if path.is_dir() else 0o644)
            ended = execute(
                ["sh", "-c", _COMPILE, "sh", str(inside), program, file.name],
                inputs=[inside, *brought],
                output=out,
                limits=_limits(cpu_seconds, memory_in_bytes),
            )
            if ended.verdict == "finished":
                shutil.copy(out / f"{file.stem}.vo", file.parent)
        return _judged(ended, memory_in_bytes)

    return Prover(run, "Coq ran in a bubblewrap sandbox.")


def _limits(cpu_seconds: float, memory_in_bytes: int) -> Limits:
    return Limits(
        cpu_seconds=max(1.0, cpu_seconds),
        memory_in_gigabytes=memory_in_bytes / 1e9,
        wall_seconds=10 * cpu_seconds + 10,
        files_in_megabytes=2000,
        processes=16,
    )


def _judged(ended: Execution, memory_in_bytes: int) -> CoqRun:
    used = ended.accounting
    seconds = used.user_seconds + used.system_seconds
    if ended.verdict == "finished":
        return CoqRun("", _said(ended), seconds, used.peak_memory_in_bytes)
    if ended.stopped_by == "memory":
        return CoqRun("memory limit reached", _said(ended), seconds, used.peak_memory_in_bytes)
    late = ended.stopped_by in {"cpu", "wall"}
    code = 1 if ended.exit_code is None else ended.exit_code
    if ended.signal == "SIGSEGV":  # Coq's stack or heap at its end
        code = -11
    return coq_run(code, _said(ended), late, seconds, used.peak_memory_in_bytes)


def _said(ended: Execution) -> str:
    return (ended.printed + ended.errors).decode("utf-8", "replace")
