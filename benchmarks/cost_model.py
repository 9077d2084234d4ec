"""Measure small jobs of every kind, learn what jobs cost, and see how well that foretells one that is left out.

``python benchmarks/cost_model.py [--write] [--sizes 5]``

The jobs are a chain on SIMULATED micrographs of several sizes: simulate, restore (also without views, and with two
workers), extract, reconstruct, resolution, refine (two iterations). The sandbox's first process measures them
(``wait4``), without walls, since each job reads what the one before it wrote in place. ``--write`` replaces the model
that ships with the package, ``src/cryoprism/evaluation/reproducibility/cost_model.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from cryoprism.evaluation.reproducibility import (
    CostModel,
    Observation,
    Size,
    fit_cost_model,
    read_record,
    size_of,
)
from cryoprism.evaluation.sandbox import Limits, execute

#: Side of the micrographs, how many, particles on each, box [pixels].
SIZES = ((256, 2, 20, 32), (384, 2, 30, 48), (512, 4, 60, 64), (512, 2, 90, 48), (768, 4, 60, 64), (1280, 6, 20, 128))
#: Beyond it only the jobs on micrographs are run.
LARGEST_BOX = 64
LIMITS = Limits(cpu_seconds=400, memory_in_gigabytes=4, wall_seconds=500, files_in_megabytes=500)
RUN = "import os, sys; os.chdir(sys.argv[1]); from cryoprism.cli import main; main(sys.argv[2:])"


def run(project: Path, name: str, *arguments: object) -> Observation | None:
    """Run a command into ``project/NAME``; what it took, None where it failed."""
    done = execute(
        [sys.executable, "-c", RUN, str(project), *map(str, arguments), "--out", name], limits=LIMITS, isolation="none"
    )
    if done.verdict != "finished":
        print(f"{name} {arguments}: {done.sentence()} {done.errors.decode()[-300:]}", file=sys.stderr)
        return None
    record, used = read_record(project / name), done.accounting
    print(
        f"{name}: {used.cpu_seconds:.1f} CPU s, {used.peak_memory_in_bytes / 1e9:.2f} GB", file=sys.stderr, flush=True
    )
    return Observation(
        record.kind, size_of(record), used.wall_seconds, used.cpu_seconds, float(used.peak_memory_in_bytes)
    )


def start() -> Observation:
    """Measure the program when it starts and does nothing: the median of three."""
    command = [sys.executable, "-c", "import cryoprism.workflow, cryoprism.structure"]
    runs = [execute(command, limits=LIMITS, isolation="none").accounting for _ in range(3)]
    return Observation(
        "start", Size(0.0), *(statistics.median(values) for values in zip(
            *((one.wall_seconds, one.cpu_seconds, float(one.peak_memory_in_bytes)) for one in runs), strict=True))
    )  # fmt: skip


def sessions(path: Path, machine: str, base: Observation) -> dict[str, list[float]]:
    """Return what the start took in earlier sessions on such a machine, and in this one."""
    before: dict[str, list[float]] = {}
    if path.is_file() and (known := CostModel.read(path)).machine == machine:
        before = {target: list(values) for target, values in known.sessions.items()}
    return {target: [*before.get(target, []), getattr(base, target)] for target in ("cpu_seconds", "memory_in_bytes")}


def one_worker(observations: list[Observation]) -> Observation:
    """Return what one more process takes: half of what a restoration with two workers takes more, the median."""
    alone = {one.size.pixels: one for one in observations if one.size.products and one.size.processes == 1}
    more = [(one, alone[one.size.pixels]) for one in observations if one.size.processes == 3]
    return Observation("worker", Size(0.0), *(
        statistics.median((getattr(two, name) - getattr(one, name)) / 2 for two, one in more)
        for name in ("wall_seconds", "cpu_seconds", "memory_in_bytes")
    ))  # fmt: skip


def larger(model: CostModel) -> None:
    """Print how a model of small jobs foretells one sixteen times as large as the median."""
    project = Path(tempfile.mkdtemp(prefix="cryoprism-cost-"))
    steps = (
        ("sim", "simulate", "--structure", "barrel", "--recipe", "clean", "--micrographs", 2, "--width", 2048,
         "--height", 2048, "--pixel-size", 1.5, "--particles", 60),
        ("restore", "restore", "sim/micrographs.star"),
        ("two", "restore", "sim/micrographs.star", "--workers", 2),
    )  # fmt: skip
    print("\n| larger job | pixels [10⁶] | CPU [s] | foretold, 90 % | memory [GB] | foretold, 90 % |")
    print("|---|---|---|---|---|---|")
    for name, *arguments in steps:
        one = run(project, name, *arguments)
        cost = None if one is None else model.predict(one.kind, one.size)
        if one is None or cost is None:
            continue
        cpu, memory = cost.cpu_seconds, cost.memory_in_bytes
        print(
            f"| {one.kind} | {one.size.pixels / 1e6:.1f} | {one.cpu_seconds:.1f} | {cpu.median:.1f} ({cpu.low:.1f} to "
            f"{cpu.high:.1f}) | {one.memory_in_bytes / 1e9:.2f} | {memory.median / 1e9:.2f} ({memory.low / 1e9:.2f} to "
            f"{memory.high / 1e9:.2f}) |"
        )
    shutil.rmtree(project)


def chain(project: Path, side: int, count: int, particles: int, box: int) -> list[Observation]:
    """Run the chain at one size."""
    steps = (
        ("sim", "simulate", "--structure", "barrel", "--recipe", "clean", "--micrographs", count, "--width", side,
         "--height", side, "--pixel-size", 3, "--particles", particles),
        ("restore", "restore", "sim/micrographs.star"),
        ("plain", "restore", "sim/micrographs.star", "--no-views"),
        ("two", "restore", "sim/micrographs.star", "--workers", 2),
        ("extract", "extract", "sim/truth.star", "--coordinates", "sim/particles.star", "--box", box, "--diameter", 90),
        ("rec", "reconstruct", "extract/particles.star"),
        ("res", "resolution", "rec/half1.mrc", "rec/half2.mrc", "--no-local"),
        ("refine", "refine", "extract/particles.star", "--reference", "rec/map.mrc", "--initial-lowpass", 20,
         "--diameter", 90, "--iterations", 2, "--no-local"),
    )  # fmt: skip
    found = [run(project, name, *arguments) for name, *arguments in (steps[:4] if box > LARGEST_BOX else steps)]
    return [one for one in found if one is not None]


def left_out(observations: list[Observation], machine: str, base: Observation, worker: Observation) -> None:
    """Print how well jobs are foretold by a model of all others."""
    print(
        "\n| kind | jobs | CPU time [s] | memory [GB] | ratio of actual to foretold CPU, each left out | inside 90 % |"
    )
    print("|---|---|---|---|---|---|")
    inside_all = total = 0
    for kind in dict.fromkeys(one.kind for one in observations):
        mine = [one for one in observations if one.kind == kind]
        ratios, inside = [], 0
        for one in mine:
            others = [other for other in observations if other is not one]
            cost = fit_cost_model(others, machine, base, worker).predict(kind, one.size)
            if cost is None:
                continue
            ratios.append(one.cpu_seconds / cost.cpu_seconds.median)
            inside += cost.cpu_seconds.low <= one.cpu_seconds <= cost.cpu_seconds.high
        inside_all, total = inside_all + inside, total + len(ratios)
        cpu, memory = [one.cpu_seconds for one in mine], [one.memory_in_bytes / 1e9 for one in mine]
        print(
            f"| {kind} | {len(mine)} | {min(cpu):.1f} to {max(cpu):.1f} | {min(memory):.2f} to {max(memory):.2f} | "
            f"{', '.join(f'{ratio:.2f}' for ratio in ratios)} | {inside} of {len(ratios)} |"
        )
    print(f"\nInside the 90 % interval: {inside_all} of {total}.")
    if observations:
        worst = max(abs(math.log(one.wall_seconds / max(one.cpu_seconds, 1e-9))) for one in observations)
        print(f"Wall time and CPU time differ by a factor of up to {math.exp(worst):.1f}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the model that ships")
    parser.add_argument("--sizes", type=int, default=len(SIZES))
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    base = start()
    observations: list[Observation] = []
    for size in SIZES[: options.sizes]:
        project = Path(tempfile.mkdtemp(prefix="cryoprism-cost-"))
        observations += chain(project, *size)
        shutil.rmtree(project)
    print(f"Jobs on {machine}: {len(observations)}. To start and do nothing takes {base.cpu_seconds:.1f} CPU s, "
          f"{base.memory_in_bytes / 1e9:.2f} GB.")  # fmt: skip
    worker = one_worker(observations)
    print(f"One more process takes {worker.cpu_seconds:.1f} CPU s, {worker.memory_in_bytes / 1e9:.2f} GB.")
    left_out(observations, machine, base, worker)
    model = fit_cost_model(observations, machine, base, worker)
    path = Path(__file__).parents[1] / "src/cryoprism/evaluation/reproducibility/cost_model.json"
    model = dataclasses.replace(model, sessions=sessions(path, machine, base))
    if options.write:
        model.write(path)
        print(f"\nWritten: {path.name}", flush=True)
    larger(model)


if __name__ == "__main__":
    main()
