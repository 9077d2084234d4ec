"""Hostile programs in the sandbox, as root and as an ordinary user, and without walls; what a run costs beyond itself.

``python benchmarks/sandbox.py [--parts hostile,overhead] [--only TEXT] [--repeats 20]``

Every program says by itself whether it got what it was after; the table says that, how it ended, and what it used. The
last column runs the same program with ``--isolation none`` where that does no harm. The fork bomb, the disk and the
signal are not run without walls.
"""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryoprism.core import InputError
from cryoprism.evaluation.sandbox import Execution, Limits, execute, walls
from sandbox_parts.programs import ABSTRACT, Program, programs

NOBODY = 65534
LIMITS = Limits(cpu_seconds=1, memory_in_gigabytes=0.3, wall_seconds=6, files_in_megabytes=20, processes=32)


def python_of(user: int) -> str:
    """Return an interpreter that a user can start."""
    found = as_user(user, lambda: os.access(os.path.realpath(sys.executable), os.X_OK))
    return sys.executable if found else "/usr/bin/python3"


def as_user(user: int, function: Callable[[], Any]) -> Any:
    """Call a function in a child that belongs to a user."""
    if user == os.geteuid():
        return function()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            try:
                answer: Any = function()
            except Exception as error:
                answer = error
            with open(write, "wb") as stream:
                stream.write(pickle.dumps(answer))
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as stream:
        content = stream.read()
    os.waitpid(child, 0)
    answer = pickle.loads(content)
    if isinstance(answer, Exception):
        raise answer
    return answer


def said(run: Execution, place: Path) -> str:
    """Say what happened, for the table."""
    got = [line[4:] for line in run.printed.decode(errors="replace").splitlines() if line.startswith("GOT ")]
    links = [path.name for path in (place / "out").rglob("*") if path.is_symlink()] if (place / "out").is_dir() else []
    raised = [path.name for path in (place / "out").rglob("*") if path.is_file() and path.stat().st_mode & 0o6000]
    how = run.verdict if run.stopped_by is None else f"stopped: {run.stopped_by}"
    if run.verdict == "failed":
        error = run.errors.decode(errors="replace").strip().splitlines()
        how = f"refused: {error[-1].split(':', 1)[0]}" if error else f"failed: {run.signal or run.exit_code}"
    parts = ["**got " + "; ".join(got) + "**"] if got else []
    if links:
        parts.append("**links in the output: " + ", ".join(links) + "**")
    if raised:
        parts.append("**set-user-ID in the output: " + ", ".join(raised) + "**")
    parts.append(how)
    if run.limits_reached:
        parts.append("at its limit of " + ", ".join(run.limits_reached))
    if run.left_out:
        names = [name if len(name) < 30 else f"{name[:20]}…" for name in sorted(run.left_out)]
        parts.append(f"left out: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}")
    if run.left_behind:
        parts.append(f"{run.left_behind} ended that stayed")
    used = run.accounting
    kernel = used.kernel_memory_in_bytes / 1e6
    parts.append(
        f"{used.cpu_seconds:.1f} CPU s, {used.wall_seconds:.1f} s, {used.peak_memory_in_bytes / 1e6:.0f} MB"
        f"{f' and {kernel:.0f} MB in the kernel' if kernel >= 1 else ''}, "
        f"{used.peak_processes} proc."
    )
    return "; ".join(parts)


def hostile(only: str) -> None:
    """Print the table of hostile programs, those with ``only`` in their names."""
    place = Path(tempfile.mkdtemp(prefix="cryoprism-hostile-", dir="/tmp"))
    place.chmod(0o777)
    for name in ("secret", "input", "target"):
        (place / name).write_text("as it was")
        (place / name).chmod(0o644)
    people = {"as root": 0} if os.geteuid() == 0 else {}
    people["as an ordinary user"] = NOBODY if os.geteuid() == 0 else os.geteuid()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + ABSTRACT)
        abstract.listen()
        threading.Thread(target=_accept, args=(server,), daemon=True).start()
        print(f"\n| program | {' | '.join(people)} | without walls, {list(people)[-1]} |")
        print("|---|" + "---|" * (len(people) + 1))
        for program in programs(place, server.getsockname()[1], os.getpid()):
            if only not in program.name:
                continue
            cells = []
            for user in people.values():
                cells.append(_one(program, user, place, "bubblewrap"))
            last = list(people.values())[-1]
            cells.append(_one(program, last, place, "none") if program.harmless else "not run")
            print(f"| {program.name} | {' | '.join(cells)} |", flush=True)
    changed = [name for name in ("secret", "input", "target") if (place / name).read_text() != "as it was"]
    print(f"\nFiles outside that changed: {', '.join(changed) or 'none'}.")
    shutil.rmtree(place)


def _one(program: Program, user: int, place: Path, isolation: Any) -> str:
    def act() -> Execution:
        return execute(
            [python_of(os.geteuid()), "-c", program.code], limits=LIMITS, inputs=[place / "input"],
            output=place / "out", isolation=isolation,
        )  # fmt: skip

    shutil.rmtree(place / "out", ignore_errors=True)
    try:
        text = said(as_user(user, act), place)
    except InputError as error:
        text = f"no sandbox: {error.found}"
    shutil.rmtree(place / "out", ignore_errors=True)
    return text


def _accept(server: socket.socket) -> None:
    try:
        while True:
            server.accept()[0].close()
    except OSError:
        return


def overhead(repeats: int) -> None:
    """Print what a run takes, against a plain child."""
    print(f"\n| program | user | way | median [ms] of {repeats} | beyond a plain child [ms] | 10 % to 90 % [ms] |")
    print("|---|---|---|---|---|---|")
    people = {"root": 0, "ordinary": NOBODY} if os.geteuid() == 0 else {"ordinary": os.geteuid()}
    for name, user in people.items():
        python = python_of(user)
        for label, command in {"true": ["/bin/true"], "python3 -c pass": [python, "-c", "pass"]}.items():
            rows = as_user(user, lambda command=command: _timed(command, repeats))
            base = statistics.median(rows["plain child"])
            for way, seconds in rows.items():
                middle = statistics.median(seconds)
                deciles = statistics.quantiles(seconds, n=10)
                print(
                    f"| {label} | {name} | {way} | {1e3 * middle:.1f} | {1e3 * (middle - base):+.1f} | "
                    f"{1e3 * deciles[0]:.1f} to {1e3 * deciles[-1]:.1f} |",
                    flush=True,
                )


def _timed(command: Sequence[str], repeats: int) -> dict[str, list[float]]:
    walls()
    ways: dict[str, Callable[[], object]] = {
        "plain child": lambda: subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL),
        "sandbox": lambda: execute(command, limits=LIMITS),
        "isolation none": lambda: execute(command, limits=LIMITS, isolation="none"),
    }
    rows: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, act in ways.items():  # in turns, so that the machine's load hits all alike
            started = time.perf_counter()
            act()
            rows[way].append(time.perf_counter() - started)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="hostile,overhead")
    parser.add_argument("--only", default="", help="Run the hostile programs with this in their names.")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    print(f"Limits: {LIMITS.to_json()}. bubblewrap: {walls().how}.")
    if "hostile" in options.parts:
        hostile(options.only)
    if "overhead" in options.parts:
        overhead(options.repeats)


if __name__ == "__main__":
    main()
