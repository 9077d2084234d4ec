"""How long a micrograph of 4096² takes, everything included, as a user runs it.

    python benchmarks/speed.py [--workers 2 1] [--few 4] [--many 12] [--folder FOLDER]

SIMULATED input: one micrograph of 4096² at 1 Å per pixel (projection engine), made into many by random rolls of its
expected counts and fresh Poisson noise; float32 MRC. Each row is `cryoprism restore` in a process of its own: starting,
reading, estimating, the loop, restoring, writing views, residuals, deviations, masks, panels and the report. Two
lengths of a session are run: the slope between them is what a further micrograph costs, the rest is the start. Mark:
1.7 s on two cores (100 TB of float32 micrographs a month). CPU seconds include the workers; other work on the machine
lengthens the wall time, so the load before the runs is printed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from cryoprism.core import generator_for
from cryoprism.formats import read_image, write_mrc
from cryoprism.synthesis.phantom import phantom
from cryoprism.synthesis.render import render_micrograph
from cryoprism.synthesis.scene import Scene
from cryoprism.synthesis.specimen import specimen_from_phantom

MARK = 1.7
EDGE = 4096
SECONDS_PER_MONTH = 365.25 / 12 * 86400
PROGRAM = [sys.executable, "-c", "from cryoprism.cli import main; main()", "restore"]


def make_session(folder: Path, count: int, seed: int) -> None:
    """Write the micrographs that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    mean_file = folder / "expected.mrc"
    if not mean_file.exists():
        scene = Scene(
            name="speed",
            seed=seed,
            height_in_pixels=EDGE,
            width_in_pixels=EDGE,
            pixel_size_in_angstroms=1.0,
            particle_count=400,
            ice_thickness_in_angstroms=350.0,
            drift_x_in_angstroms=2.0,
            envelope_b_factor_in_square_angstroms=30.0,
        )
        began = time.time()
        rendered = render_micrograph(scene, specimen_from_phantom(phantom("shell")))
        write_mrc(mean_file, rendered.expected, 1.0)
        print(f"simulated one micrograph of {EDGE}² in {time.time() - began:.0f} s")
    mean = read_image(mean_file).data
    (folder / "mics").mkdir(exist_ok=True)
    for index in range(count):
        path = folder / "mics" / f"m{index:03d}.mrc"
        if path.exists():
            continue
        g = generator_for(seed, "speed", index)
        shift = torch.randint(0, EDGE, (2,), generator=g).tolist()
        write_mrc(path, torch.poisson(mean.roll(shift, (0, 1)), generator=g), 1.0)


@dataclass(frozen=True)
class Run:
    """One run: wall and CPU seconds, and the seconds of each stage by its log."""

    wall: float
    cpu: float
    stages: dict[str, float]


def run(folder: Path, count: int, workers: int) -> Run:
    out = folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    files = [str(folder / "mics" / f"m{index:03d}.mrc") for index in range(count)]
    lens = ["--voltage", "300", "--cs", "2.7", "--amplitude-contrast", "0.1", "--pixel-size", "1.0"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    wall_began = datetime.datetime.now()
    result = subprocess.run(
        [*PROGRAM, *files, *lens, "--workers", str(workers), "--out", str(out)], capture_output=True, text=True
    )
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode:
        raise RuntimeError(result.stderr[-1000:])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall, cpu, stages_of(out / "run.log", wall_began, wall))


def stages_of(log: Path, began: datetime.datetime, wall: float) -> dict[str, float]:
    """Seconds between the log's landmarks; what comes before the log is the start of the program."""
    marks: list[tuple[str, datetime.datetime]] = []
    for line in log.read_text(encoding="utf-8").splitlines():
        found = re.match(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) \w+ (.*)", line)
        if found:
            marks.append((found.group(2), datetime.datetime.strptime(found.group(1), "%Y-%m-%d %H:%M:%S,%f")))
    names = {
        "CryoPrism": "start, catalogue",
        "Memory": "fingerprints of the input",
        "Looking for gain residue": "gain residue",
        "Estimating": "estimation",
        "Loop": "the loop",
        "Restoring": "restoration and writing",
    }
    stages: dict[str, float] = dict.fromkeys(names.values(), 0.0)
    last = began
    for text, when in marks:
        stage = next((name for start, name in names.items() if text.startswith(start)), None)
        if stage is not None:
            stages[stage] += (when - last).total_seconds()
            last = when
    stages["STAR, causes.json, report, end"] = wall - (last - began).total_seconds()
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--few", type=int, default=4)
    parser.add_argument("--many", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep and reuse the simulated micrographs here")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="speed-"))
    make_session(folder, args.many, args.seed)
    megabytes = EDGE * EDGE * 4 / 1e6
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load before the runs {load:.1f}; {megabytes:.1f} MB per micrograph")
    print(
        f"{'workers':>7}{'micrographs':>12}{'wall s':>8}{'CPU s':>8}{'s each':>8}{'s each, sustained':>19}"
        f"{'CPU s each':>12}{'start s':>9}{'MB/s':>7}{'TB/month':>10}   mark {MARK} s"
    )
    for workers in args.workers:
        few, many = run(folder, args.few, workers), run(folder, args.many, workers)
        slope = (many.wall - few.wall) / (args.many - args.few)
        cpu_slope = (many.cpu - few.cpu) / (args.many - args.few)
        rate = megabytes / slope
        for count, result in ((args.few, few), (args.many, many)):
            line = f"{workers:>7}{count:>12}{result.wall:>8.1f}{result.cpu:>8.1f}{result.wall / count:>8.2f}"
            if count == args.many:
                start, month = many.wall - args.many * slope, rate * SECONDS_PER_MONTH / 1e6
                line += f"{slope:>19.2f}{cpu_slope:>12.2f}{start:>9.1f}{rate:>7.1f}{month:>10.0f}"
                line += f"   {'reached' if slope <= MARK else 'missed'}"
            print(line, flush=True)
        print(
            f"  stages with {workers} worker(s), wall s: {args.few} and {args.many} micrographs, and each further one"
        )
        for stage in few.stages:
            a, b = few.stages[stage], many.stages[stage]
            print(f"    {stage:<34}{a:>8.2f}{b:>8.2f}{(b - a) / (args.many - args.few):>8.3f}")
    if args.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
