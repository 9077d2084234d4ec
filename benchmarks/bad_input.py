"""Bad input from the command line: what was tried, the exit code, and the line that the user reads.

    python benchmarks/bad_input.py [--only WORD] [--write]

Every case runs its command in a process and a folder of its own and is checked: the expected exit code, the words that
name file or field, value and remedy, no traceback, no marker of success after an error, no temporary file left, and no
folder that would stand in the way of the corrected command unless something came out. Exit 0: all as expected.
``--write`` puts the table into docs/bad-input.md.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch

import cryoprism.cli
import cryoprism.workflow
from bad_input_cases import CASES, LENS, Case, folder_of
from bad_input_cases.making_particles import posed
from bad_input_cases.synthesizing import session

PAGE = Path(__file__).resolve().parents[1] / "docs" / "bad-input.md"
BEGIN, END = "<!-- table of cases: begin -->", "<!-- table of cases: end -->"
PROGRAM = [sys.executable, "-c", "from cryoprism.cli import main; main()"]


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.name.startswith(".cryoprism-tmp-") or p.name.endswith(".tmp")]


@dataclass(frozen=True)
class Result:
    """What a command said and how it ended."""

    returncode: int
    stdout: str
    stderr: str


def run(arguments: Sequence[str], folder: Path, wrapper: Sequence[str] = (), limit: int | None = None) -> Result:
    """Run a command in a process of its own, which starts with everything imported unless there is a wrapper."""
    if wrapper:
        done = subprocess.run(
            [*wrapper, *PROGRAM, *arguments], cwd=folder, env=environment(), capture_output=True, text=True
        )
        return Result(done.returncode, done.stdout, done.stderr)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _become(arguments, folder, out.fileno(), err.fileno(), limit)
        _, status = os.waitpid(child, 0)
        said = []
        for stream in (out, err):
            stream.seek(0)
            said.append(stream.read().decode())
    return Result(os.waitstatus_to_exitcode(status), *said)


def _become(arguments: Sequence[str], folder: Path, out: int, err: int, limit: int | None) -> NoReturn:
    """Be the program: its output goes to the two files, its exit code to the parent."""
    code: object = 70
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w", closefd=False), "utf-8") for n in (1, 2))
        os.chdir(folder)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        sys.argv = ["cryoprism", *arguments]
        cryoprism.cli.main(arguments)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def environment() -> dict[str, str]:
    # The package that is tried here, wherever the program starts.
    package = str(Path(cryoprism.cli.__file__).parents[2])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "", "PYTHONPATH": package}


def said(err: str, code: int, words: Sequence[str] = ()) -> str:
    """Line of the program that matters most: of several warnings, the one that holds most of ``words``."""
    lines = [line for line in err.splitlines() if line.strip()]
    for start in ("Error:", "Not restored:", "Not picked:", "Not extracted:", "Stopped.", "Warning:"):
        found = [line for line in lines if line.startswith(start)]
        if found:
            return max(found, key=lambda line: sum(word in line for word in words))
    return "" if code == 0 else (lines[-1] if lines else "")


def check(case: Case, folder: Path) -> tuple[int, str, list[str]]:
    """Exit code, what was said, and what is wrong."""
    arguments = list(case.prepare(folder))
    if "--out" not in arguments:
        arguments += ["--out", "run"]
    there = (folder / "run").exists()
    wrapper = [part.replace("SIZE", case.small_disk) for part in case.wrapper]
    result = run([*case.command.split(), *arguments], folder, wrapper, case.limit_in_bytes)
    for locked in folder.iterdir():
        if locked.is_dir():
            locked.chmod(0o755)
    everything, wrong = result.stdout + result.stderr, []
    if result.returncode != case.code:
        wrong.append(f"exit code {result.returncode}, not {case.code}")
    if "Traceback" in everything:
        wrong.append("a traceback")
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    if len(errors) != (1 if case.code == 2 else 0):
        wrong.append(f"{len(errors)} error lines")
    missing = [word for word in case.words if word not in everything]
    if missing:
        wrong.append(f"does not say {', '.join(missing)}")
    out = folder / ("copy" if (folder / "copy").exists() else "run")
    # 3 is a verdict of prove: something is unknown.
    if result.returncode not in (0, 1, 3) and (out / "RELION_JOB_EXIT_SUCCESS").exists():
        wrong.append("claims success")
    if result.returncode == 2 and not there and out.exists() and not outputs(out):
        wrong.append("leaves a folder that holds nothing")
    if left := leftovers(folder):
        wrong.append(f"leaves {left}")
    if gone := [name for name in case.kept if not (out / name).exists()]:
        wrong.append(f"lacks {gone}")
    if result.returncode in (0, 1) and not (out / "RELION_JOB_EXIT_SUCCESS").exists():
        wrong.append("no marker of success")
    line = said(result.stderr, result.returncode, case.words).replace(str(folder), "…")
    if "Traceback" in everything:
        line = everything.strip().splitlines()[-1]
    return result.returncode, line, wrong


def outputs(out: Path) -> list[str]:
    """Files of a run but those about itself."""
    own = ("job.json", "run.log", ".lock")
    return [p.name for p in out.rglob("*") if p.is_file() and p.name not in own and "RELION_JOB" not in p.name]


@dataclass(frozen=True)
class Stop:
    """A run that is stopped once ``begun`` (a glob in its folder) has appeared, and continued."""

    title: str
    command: str
    begun: str
    #: Globs of products that must not depend on how they came about.
    products: tuple[str, ...]
    number: signal.Signals = signal.SIGINT
    options: tuple[str, ...] = ()
    says: str = ""

    def arguments(self, folder: Path) -> list[str]:
        """Fill the folder and return what the command is given."""
        if self.command in ("restore", "pick"):
            return [folder_of(8, folder), *LENS, *self.options]
        if self.command == "extract":
            _coordinates(folder)
            return [folder_of(8, folder), *LENS, *self.options]
        if self.command == "synthesize":
            return list(session(*self.options, count=2)(folder))
        return list(posed(*self.options, count=200)(folder))


def _coordinates(folder: Path) -> None:
    (folder / "picks").mkdir()
    rows = "".join(f"{90 + 40 * i} {100 + 30 * i}\n" for i in range(9))
    for number in range(8):
        (folder / "picks" / f"m{number}.star").write_text(f"data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n{rows}")


RESTORED = (
    *(f"{kind}/*.mrc" for kind in ("views", "residuals", "deviations", "masks")),
    "micrographs.star",
    "causes.json",
)
PICKED = ("--diameter", "150", "--threshold", "3")
EXTRACTED = ("--coordinates", "picks", "--box", "128")
SORTED = ("--classes", "4", "--diameter", "60", "--iterations", "12")
REFINED = ("--reference", "reference.mrc", "--diameter", "60", "--iterations", "6", "--no-local")
MAPS = ("map.mrc", "half*.mrc", "particles.star")
RECORD = ".done/[!.]*.json"
MADE = ("micrographs/*.mrc", "masks/*.mrc", "truth/*.json", "micrographs.star", "particles.star")
FIRST_MADE = ".done/000001-synthesize-*.json"
SET = ("--count", "4", "--particles", "6")
STOPS = (
    Stop("Ctrl-C while restoring", "restore", RECORD, RESTORED, says="were done before"),
    Stop(
        "Ctrl-C while restoring, two workers",
        "restore",
        RECORD,
        RESTORED,
        options=("--workers", "2"),
        says="were done before",
    ),
    Stop("kill -9 while restoring", "restore", RECORD, RESTORED, signal.SIGKILL, says="were done before"),
    Stop("Ctrl-C while picking", "pick", RECORD, ("coordinates/*.star", "particles.star"), options=PICKED),
    Stop("Ctrl-C while extracting", "extract", RECORD, ("particles/*.mrcs", "particles.star"), options=EXTRACTED),
    Stop("Ctrl-C while classifying", "classify", "state.pt", ("classes.mrcs", "particles.star"), options=SORTED),
    Stop("Ctrl-C while refining", "refine", "passes.npz", MAPS, options=REFINED),
    Stop("kill -9 while refining", "refine", "passes.npz", MAPS, signal.SIGKILL, options=REFINED),
    Stop("Ctrl-C while synthesizing", "synthesize", FIRST_MADE, MADE, options=SET, says="of them there already"),
)


def contents(folder: Path, products: Sequence[str]) -> dict[str, str]:
    """Hash of every product of a run that must not depend on how it came about; names of the run itself apart."""
    files = [path for pattern in products for path in sorted(folder.glob(pattern))]
    own = f"{folder.name}/".encode()
    return {
        str(p.relative_to(folder)): hashlib.sha256(
            p.read_bytes().replace(own, b"") if p.suffix in (".star", ".json") else p.read_bytes()
        ).hexdigest()
        for p in files
    }


def stopped(stop: Stop, folder: Path) -> tuple[int, str, list[str]]:
    """Stop a run when something is finished, continue it, and compare with a run that was left alone."""
    arguments = [stop.command, *stop.arguments(folder)]
    whole = run([*arguments, "--out", "whole"], folder)
    wrong = [] if whole.returncode == 0 else [f"undisturbed run: exit code {whole.returncode}"]
    process = subprocess.Popen(
        [*PROGRAM, *arguments, "--out", "run"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out = folder / "run"
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline and not list(out.glob(stop.begun)):
        time.sleep(0.005)
    process.send_signal(stop.number)
    stdout, err = process.communicate(timeout=60)
    code = process.returncode
    expected = 130 if stop.number == signal.SIGINT else -stop.number
    if code != expected:
        wrong.append(f"exit code {code}, not {expected}")
    if "Traceback" in stdout + err:
        wrong.append("a traceback")
    if (out / "RELION_JOB_EXIT_SUCCESS").exists():
        wrong.append("claims success")
    if stop.number == signal.SIGINT and leftovers(out):
        wrong.append(f"leaves {leftovers(out)}")
    records = len(list(out.glob(RECORD)))
    kept = f"{records} of 8 kept; " if stop.begun == RECORD else ""
    if stop.begun == RECORD and not 1 <= records < 8:
        wrong.append(f"{records} of 8 finished when stopped")
    again = run([*arguments, "--out", "run", "--only-do-unfinished"], folder)
    if again.returncode != 0 or stop.says not in again.stdout:
        wrong.append(f"continuing: exit code {again.returncode}, {again.stderr[-200:]}")
    if leftovers(out):
        wrong.append(f"after continuing: leaves {leftovers(out)}")
    outcome = "continuing failed"
    if whole.returncode == 0 and again.returncode == 0:
        first, other = contents(folder / "whole", stop.products), contents(out, stop.products)
        if different := [name for name in first if first[name] != other.get(name)]:
            wrong.append(f"differs from an undisturbed run: {', '.join(different[:3])}")
        outcome = f"{len(different)} of {len(first)} files differ from an undisturbed run"
    line = said(err, code) or "(nothing: the process is gone)"
    return code, f"{line} {kept}continued with --only-do-unfinished, {outcome}", wrong


def table(rows: Sequence[tuple[str, int, str]]) -> str:
    def cell(text: str) -> str:
        return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")

    lines = ["| tried | exit code | what it says |", "|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {cell(title)} | {code} | {cell(line) or '(all well)'} |" for title, code, line in rows)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose command and title hold this")
    parser.add_argument(
        "--write", action="store_true", help="put the table, or the rows of --only, into docs/bad-input.md"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)  # a process that forks must have no threads of its own
    rows: list[tuple[str, int, str]] = []
    bad = 0
    with tempfile.TemporaryDirectory(prefix="bad-input-") as name:
        for number, case in enumerate((*CASES, *STOPS)):
            title = case.name if isinstance(case, Case) else case.title
            if args.only not in f"{case.command}: {title}":
                continue
            if isinstance(case, Case) and not case.possible():
                print(f"{title}: cannot be tried here")
                continue
            folder = Path(name) / f"{number:03d}"
            folder.mkdir()
            code, line, wrong = check(case, folder) if isinstance(case, Case) else stopped(case, folder)
            rows.append((title, code, marked(line, wrong)))
            bad += report(title, code, line, wrong)
            shutil.rmtree(folder)
    print(f"\n{len(rows)} cases, {bad} not as expected")
    if args.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        old, after = rest.split(END)
        new = table(rows)
        if args.only:
            named = {row.split(" | ")[0]: row for row in new.splitlines()[2:]}
            new = "\n".join(named.pop(row.split(" | ")[0], row) for row in old.strip().splitlines())
            new = "\n".join([new, *named.values()])
        PAGE.write_text(f"{before}{BEGIN}\n{new}\n{END}{after}", encoding="utf-8")
    sys.exit(1 if bad else 0)


def marked(line: str, wrong: Sequence[str]) -> str:
    """Return the line, and what is not as it should be: the page hides nothing."""
    return f"{line} (not as it should be: {'; '.join(wrong)})" if wrong else line


def report(title: str, code: int, line: str, wrong: Sequence[str]) -> bool:
    print(f"{'WRONG ' if wrong else 'ok    '}{title} → {code}: {line}", flush=True)
    for what in wrong:
        print(f"        {what}", flush=True)
    return bool(wrong)


if __name__ == "__main__":
    main()
