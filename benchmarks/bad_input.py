"""Bad input from the command line: what was tried, the exit code, and the line that the user reads.

    python benchmarks/bad_input.py [--only WORD] [--write]

Every case runs `cryoprism restore` in a process and a folder of its own and is checked: the expected exit code, the
words that name file or field, value and remedy, no traceback, no marker of success after an error, no temporary file
left. Exit 0: all as expected. ``--write`` puts the table into docs/bad-input.md.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from cryoprism.core import generator_for
from cryoprism.formats import write_mrc
from cryoprism.synthesis.phantom import phantom
from cryoprism.synthesis.render import render_micrograph
from cryoprism.synthesis.scene import Scene
from cryoprism.synthesis.specimen import specimen_from_phantom

PAGE = Path(__file__).resolve().parents[1] / "docs" / "bad-input.md"
BEGIN, END = "<!-- table of cases: begin -->", "<!-- table of cases: end -->"
PROGRAM = [sys.executable, "-c", "from cryoprism.cli import main; main()", "restore"]
LENS = ["--voltage", "300", "--cs", "2.7", "--amplitude-contrast", "0.1"]
Prepare = Callable[[Path], Sequence[str]]


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong.

    ``prepare`` fills the folder and returns the arguments; ``words`` must stand in what the program says; ``kept`` are
    outputs that must be there.
    """

    title: str
    prepare: Prepare
    code: int = 2
    words: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()
    limit_in_bytes: int | None = None
    possible: Callable[[], bool] = field(default=lambda: True)


_good: list[np.ndarray] = []


def good(index: int = 0) -> np.ndarray:
    """Return a simulated micrograph (512, 512) with particles; another index gives another one."""
    if not _good:
        specimen = specimen_from_phantom(phantom("shell"))
        scene = Scene(name="bad-input", height_in_pixels=512, width_in_pixels=512, particle_count=15)
        _good.append(render_micrograph(scene, specimen).expected.numpy())
    shape = (137 * index, 59 * index)
    mean = torch.from_numpy(np.roll(_good[0], shape, (0, 1)).copy())
    return torch.poisson(mean, generator=generator_for(0, "bad-input", index)).numpy()


def mrc(path: Path, data: np.ndarray | None = None, pixel: float = 1.5) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mrc(path, good() if data is None else data, pixel)
    return path.name


def header_pixel(path: Path, cell: float) -> None:
    """Overwrite the cell of an MRC header, which is how a pixel size goes wrong."""
    with path.open("r+b") as stream:
        stream.seek(40)
        stream.write(np.array([cell, cell, cell], dtype="<f4").tobytes())


def star(path: Path, names: Sequence[str], *, optics: str = "1", group: str = "1", pixel: str = "1.5") -> str:
    head = (
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnOpticsGroupName #2\n_rlnVoltage #3\n"
        "_rlnSphericalAberration #4\n"
        f"_rlnAmplitudeContrast #5\n_rlnMicrographPixelSize #6\n{optics} one 300 2.7 0.1 {pixel}\n\n"
    )
    rows = "".join(f"{name} {group}\n" for name in names)
    body = f"data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n{rows}\n"
    path.write_text((head if optics else "") + body)
    return path.name


def one(
    change: Callable[[Path], None] = lambda path: None,
    *options: str,
    data: Callable[[], np.ndarray] | None = None,
    pixel: float = 1.5,
) -> Prepare:
    """One micrograph, changed."""

    def prepare(folder: Path) -> list[str]:
        name = mrc(folder / "a.mrc", None if data is None else data(), pixel)
        change(folder / name)
        return [name, *LENS, *options]

    return prepare


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def nan() -> np.ndarray:
    data = good()
    data[3, 5] = np.nan
    return data


def volume(path: Path) -> None:
    write_mrc(path, np.random.default_rng(0).random((130, 130, 130)), 1.5, volume=True)


def text(path: Path) -> None:
    path.write_text("These are notes, not pixels.\n" * 100)


def png(folder: Path) -> None:
    import imagecodecs

    inside = folder / "pictures"
    inside.mkdir()
    for index in range(2):
        data = good(index)
        grey = np.clip((data - data.min()) / np.ptp(data) * 255, 0, 255).astype(np.uint8)
        (inside / f"p{index}.png").write_bytes(imagecodecs.png_encode(grey))


def folder_of(count: int, folder: Path, name: str = "mics") -> str:
    for index in range(count):
        mrc(folder / name / f"m{index}.mrc", good(index))
    return name


def steps(*actions: Callable[[Path], object], then: Sequence[str]) -> Prepare:
    def prepare(folder: Path) -> Sequence[str]:
        for action in actions:
            action(folder)
        return then

    return prepare


def _zipped_and_cut(path: Path) -> None:
    packed = gzip.compress(path.read_bytes(), 1)
    path.write_bytes(packed[: len(packed) // 2])


def _one_bad(folder: Path) -> None:
    folder_of(3, folder)
    truncate(folder / "mics" / "m1.mrc")


def _star_with_bad(folder: Path) -> None:
    _one_bad(folder)
    star(folder / "mics.star", [f"mics/m{index}.mrc" for index in range(3)])


def _twins(folder: Path) -> None:
    for name in ("one", "two"):
        mrc(folder / name / "a.mrc")


def _held(folder: Path) -> None:
    mrc(folder / "a.mrc")
    (folder / "run").mkdir()
    (folder / "run" / "thesis.tex").write_text("mine")


def _unreadable(folder: Path) -> None:
    folder_of(1, folder, "locked")
    (folder / "locked").chmod(0)


def _unwritable(folder: Path) -> None:
    mrc(folder / "a.mrc")
    (folder / "shelf").mkdir()
    (folder / "shelf").chmod(0o555)


NO_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
WRAPPED = NO_OVERRIDE if hasattr(os, "geteuid") and os.geteuid() == 0 else ()


def can_drop_rights() -> bool:
    return not WRAPPED or shutil.which("setpriv") is not None


def can_mount() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
    )


SMALL_DISK = (
    "unshare",
    "-m",
    "sh",
    "-c",
    'mount -t tmpfs -o size=5m tmpfs disk && "$@"; code=$?; cp -a disk/run copy; exit $code',
    "sh",
)

CASES = (
    # The file itself.
    Case("micrograph cut short", one(truncate), words=("a.mrc", "holds 524", "cut short")),
    Case("empty file", one(lambda p: os.truncate(p, 0)), words=("a.mrc", "holds 0 bytes")),
    Case("not an image (text named .mrc)", one(text), words=("a.mrc", "not an MRC file")),
    Case("gzip file cut short", one(_zipped_and_cut), words=("a.mrc", "cut short")),
    Case("a NaN among the pixels", one(data=nan), words=("a.mrc", "1 of 262144 pixels are NaN", "(3, 5)")),
    Case("three-dimensional volume", one(volume), words=("a.mrc", "130 x 130 x 130", "map")),
    Case("constant image", one(data=lambda: np.full((512, 512), 7.0, np.float32)), words=("a.mrc", "every pixel is 7")),
    Case("image of 64 × 64 pixels", one(data=lambda: good()[:64, :64]), words=("a.mrc", "64")),
    Case(
        "unknown suffix",
        lambda f: (f / "a.doc").write_text("x") and ["a.doc", *LENS],
        words=("a.doc", "'.doc'", ".mrc"),
    ),
    # Pixel size.
    Case("header pixel size 0", one(lambda p: header_pixel(p, 0.0)), words=("a.mrc", "pixel size", "--pixel-size")),
    Case(
        "header pixel size exactly 1 Å",
        one(lambda p: header_pixel(p, 512.0)),
        code=0,
        words=("a.mrc", "exactly 1 Å", "--pixel-size"),
    ),
    Case("header pixel size 100 Å", one(lambda p: header_pixel(p, 51200.0)), words=("100", "--pixel-size")),
    Case(
        "--pixel-size 100 (nothing left to fit)",
        one(lambda p: None, "--pixel-size", "100"),
        words=("--pixel-size", "100"),
    ),
    Case("--pixel-size 20 (nothing left to fit)", one(lambda p: None, "--pixel-size", "20"), words=("20", "30")),
    Case("--pixel-size -1", one(lambda p: None, "--pixel-size", "-1"), words=("--pixel-size", "-1", "0.05")),
    Case(
        "PNG folder without pixel size",
        steps(png, then=["pictures", *LENS]),
        words=("p0.png", "pixel size", "--pixel-size"),
    ),
    Case(
        "PNG folder with pixel size",
        steps(png, then=["pictures", *LENS, "--pixel-size", "1.5"]),
        code=0,
        words=("2 of 2",),
        kept=("views/p1.mrc",),
    ),
    Case("no voltage anywhere", lambda f: [mrc(f / "a.mrc")], words=("a.mrc", "voltage", "--voltage")),
    # STAR files.
    Case("empty STAR file", lambda f: (f / "e.star").touch() or ["e.star"], words=("e.star",)),
    Case("STAR file without rows", lambda f: [star(f / "e.star", [])], words=("e.star", "no rows")),
    Case(
        "STAR file names missing micrographs",
        lambda f: [star(f / "m.star", ["no/a.mrc", "no/b.mrc"])],
        words=("m.star", "2 of 2", "no/a.mrc"),
    ),
    Case(
        "STAR file without optics table",
        steps(lambda f: mrc(f / "a.mrc"), lambda f: star(f / "m.star", ["a.mrc"], optics=""), then=["m.star"]),
        words=("m.star", "data_optics"),
    ),
    Case(
        "STAR row with an unknown optics group",
        steps(lambda f: mrc(f / "a.mrc"), lambda f: star(f / "m.star", ["a.mrc"], group="7"), then=["m.star"]),
        words=("m.star", "group 7", "rlnOpticsGroup"),
    ),
    Case(
        "STAR optics pixel size is no number",
        steps(lambda f: mrc(f / "a.mrc"), lambda f: star(f / "m.star", ["a.mrc"], pixel="wide"), then=["m.star"]),
        words=("m.star", "rlnMicrographPixelSize", "'wide'"),
    ),
    Case(
        "same micrograph listed twice",
        steps(lambda f: mrc(f / "a.mrc"), then=["a.mrc", "./a.mrc", *LENS]),
        words=("a.mrc", "listed 2 times"),
    ),
    Case(
        "same name in two folders",
        steps(_twins, then=["one/a.mrc", "two/a.mrc", *LENS]),
        code=0,
        words=("2 of 2",),
        kept=("views/one_a.mrc", "views/two_a.mrc"),
    ),
    # Where things are.
    Case("input does not exist", lambda f: ["nowhere", *LENS], words=("nowhere", "does not exist")),
    Case("glob that fits nothing", lambda f: ["x*.mrc", *LENS], words=("x*.mrc", "matches nothing")),
    Case("empty folder", lambda f: (f / "mics").mkdir() or ["mics", *LENS], words=("mics", "empty folder")),
    Case(
        "folder that may not be read",
        steps(_unreadable, then=["locked", *LENS]),
        words=("locked", "ermission"),
        wrapper=WRAPPED,
        possible=can_drop_rights,
    ),
    Case(
        "output where nothing may be written",
        steps(_unwritable, then=["a.mrc", *LENS, "--out", "shelf/run"]),
        words=("shelf/run", "permission", "--out"),
        wrapper=WRAPPED,
        possible=can_drop_rights,
    ),
    Case(
        "output folder is a file",
        lambda f: (f / "run").touch() or [mrc(f / "a.mrc"), *LENS],
        words=("run", "is a file", "--out"),
    ),
    Case(
        "output folder holds something",
        steps(_held, then=["a.mrc", *LENS]),
        words=("run", "already holds", "--only-do-unfinished"),
    ),
    Case(
        "--overwrite on a folder that is no job",
        steps(_held, then=["a.mrc", *LENS, "--overwrite"]),
        words=("run", "no CryoPrism job"),
        kept=("thesis.tex",),
    ),
    Case(
        "disk full",
        lambda f: (f / "disk").mkdir() or [folder_of(4, f), *LENS, "--out", "disk/run"],
        words=("disk/run", "pace", "--only-do-unfinished"),
        kept=("views/m0.mrc",),
        wrapper=SMALL_DISK,
        possible=can_mount,
    ),
    Case(
        "file larger than allowed",
        lambda f: [folder_of(2, f), *LENS],
        words=("views/m0.mrc", "arge"),
        limit_in_bytes=400_000,
    ),
    # One among many.
    Case(
        "one cut short in a folder of three",
        steps(_one_bad, then=["mics", *LENS]),
        code=1,
        words=("2 of 3", "m1", "cut short"),
        kept=("views/m0.mrc", "views/m2.mrc", "micrographs.star"),
    ),
    Case(
        "one cut short of three in a STAR file",
        steps(_star_with_bad, then=["mics.star"]),
        code=1,
        words=("2 of 3", "m1", "cut short"),
        kept=("views/m0.mrc", "views/m2.mrc"),
    ),
    # Options.
    Case("--workers 0", one(lambda p: None, "--workers", "0"), words=("--workers", "0")),
    Case(
        "--device cuda without a GPU",
        one(lambda p: None, "--device", "cuda"),
        words=("--device", "cuda", "cpu"),
        possible=lambda: not torch.cuda.is_available(),
    ),
    Case("unknown option", one(lambda p: None, "--pixelsize", "1"), words=("--pixelsize", "--pixel-size")),
    Case("--voltage 300000", one(lambda p: None, "--voltage", "300000"), words=("--voltage", "300000", "1500")),
    Case(
        "--mtf that does not exist",
        one(lambda p: None, "--mtf", "k4.star"),
        words=("k4.star", "does not exist", "--mtf"),
    ),
    Case(
        "--gain of another shape",
        lambda f: [mrc(f / "a.mrc", np.stack([good(0), good(1)])), "--gain", mrc(f / "g.mrc", good()[:100]), *LENS],
        words=("g.mrc", "100"),
    ),
    Case("--max-memory too small", one(lambda p: None, "--max-memory", "0.1"), words=("512", "0.1 GB", "--max-memory")),
)


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.name.startswith(".cryoprism-tmp-") or p.name.endswith(".tmp")]


def run(
    arguments: Sequence[str], folder: Path, wrapper: Sequence[str] = (), limit: int | None = None
) -> subprocess.CompletedProcess[str]:
    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [*wrapper, *PROGRAM, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=limited,
    )


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": ""}


def said(err: str, code: int) -> str:
    """Line of the program that matters most."""
    lines = [line for line in err.splitlines() if line.strip()]
    for start in ("Error:", "Not restored:", "Warning:", "Stopped."):
        for line in lines:
            if line.startswith(start):
                return line
    return "" if code == 0 else (lines[-1] if lines else "")


def check(case: Case, folder: Path) -> tuple[int, str, list[str]]:
    """Exit code, what was said, and what is wrong."""
    arguments = list(case.prepare(folder))
    if "--out" not in arguments:
        arguments += ["--out", "run"]
    result = run(arguments, folder, case.wrapper, case.limit_in_bytes)
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
    if result.returncode >= 2 and (out / "RELION_JOB_EXIT_SUCCESS").exists():
        wrong.append("claims success")
    if left := leftovers(folder):
        wrong.append(f"leaves {left}")
    if gone := [name for name in case.kept if not (out / name).exists()]:
        wrong.append(f"lacks {gone}")
    if result.returncode in (0, 1) and not (out / "RELION_JOB_EXIT_SUCCESS").exists():
        wrong.append("no marker of success")
    line = said(result.stderr, result.returncode).replace(str(folder), "…")
    if "Traceback" in everything:
        line = everything.strip().splitlines()[-1]
    return result.returncode, line, wrong


def contents(run_folder: Path) -> dict[str, str]:
    """Hash of every product of a run that must not depend on how it came about."""
    names = [
        p for kind in ("views", "residuals", "deviations", "masks") for p in sorted((run_folder / kind).glob("*.mrc"))
    ]
    names += [run_folder / "micrographs.star", run_folder / "causes.json"]
    return {str(p.relative_to(run_folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in names}


def stopped(title: str, number: signal.Signals, folder: Path, workers: int) -> tuple[str, int, str, list[str]]:
    """Stop a run after its first restored micrograph, continue it, and compare with a run that was left alone."""
    arguments = [folder_of(8, folder), *LENS, "--workers", str(workers)]
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
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not list((out / ".done").glob("[!.]*.json")):
        time.sleep(0.005)
    process.send_signal(number)
    stdout, err = process.communicate(timeout=60)
    code = process.returncode
    expected = 130 if number == signal.SIGINT else -number
    if code != expected:
        wrong.append(f"exit code {code}, not {expected}")
    if "Traceback" in stdout + err:
        wrong.append("a traceback")
    if (out / "RELION_JOB_EXIT_SUCCESS").exists():
        wrong.append("claims success")
    if number == signal.SIGINT and leftovers(out):
        wrong.append(f"leaves {leftovers(out)}")
    kept = len(list((out / ".done").glob("[!.]*.json")))
    if not 1 <= kept < 8:
        wrong.append(f"{kept} of 8 finished when stopped")
    again = run([*arguments, "--out", "run", "--only-do-unfinished"], folder)
    if again.returncode != 0 or "were done before" not in again.stdout:
        wrong.append(f"continuing: exit code {again.returncode}, {again.stderr[-200:]}")
    if leftovers(out):
        wrong.append(f"after continuing: leaves {leftovers(out)}")
    outcome = "continuing failed"
    if whole.returncode == 0 and again.returncode == 0:
        one, other = contents(folder / "whole"), contents(out)
        if different := [name for name in one if one[name] != other.get(name)]:
            wrong.append(f"differs from an undisturbed run: {', '.join(different[:3])}")
        outcome = f"{len(different)} of {len(one)} files differ from an undisturbed run"
    line = said(err, code) or "(nothing: the process is gone)"
    return (
        title,
        code,
        f"{line} {kept} of 8 kept; continued with --only-do-unfinished, {outcome}",
        wrong,
    )


def table(rows: Sequence[tuple[str, int, str]]) -> str:
    def cell(text: str) -> str:
        return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")

    lines = ["| tried | exit code | what it says |", "|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {cell(title)} | {code} | {cell(line) or '(all well)'} |" for title, code, line in rows)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose title holds this")
    parser.add_argument("--write", action="store_true", help="put the table into docs/bad-input.md")
    args = parser.parse_args()
    if args.write and args.only:
        parser.error("--write needs all cases, not --only")
    rows: list[tuple[str, int, str]] = []
    bad = 0
    with tempfile.TemporaryDirectory(prefix="bad-input-") as name:
        for number, case in enumerate(CASES):
            if args.only not in case.title:
                continue
            if not case.possible():
                print(f"{case.title}: cannot be tried here")
                continue
            folder = Path(name) / f"{number:02d}"
            folder.mkdir()
            code, line, wrong = check(case, folder)
            rows.append((case.title, code, marked(line, wrong)))
            bad += report(case.title, code, line, wrong)
            shutil.rmtree(folder)
        for title, number_, workers in (
            ("Ctrl-C while restoring", signal.SIGINT, 1),
            ("Ctrl-C while restoring, two workers", signal.SIGINT, 2),
            ("kill -9 while restoring", signal.SIGKILL, 1),
        ):
            if args.only not in title:
                continue
            folder = Path(name) / title.replace(" ", "-")
            folder.mkdir()
            _, code, line, wrong = stopped(title, number_, folder, workers)
            rows.append((title, code, marked(line, wrong)))
            bad += report(title, code, line, wrong)
    print(f"\n{len(rows)} cases, {bad} not as expected")
    if args.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}", encoding="utf-8")
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
