"""Synthetic micrographs: what they cost, whether their labels give the map back, whether their views are uniform.

    python benchmarks/synthesize.py [--parts speed labels views] [--count 20] [--seed 0] [--work FOLDER]

``speed``: 4096² pixels with 300 ferritins (24-mer of 4OYN), noise ``matched`` to three REAL micrographs of
EMPIAR-10146, by ``cryoprism synthesize`` in a process of its own. One micrograph is made first, so that the match is
not counted; then the set grows by 20. What starting and the report take (the same command with nothing to do) is shown
apart. CPU seconds include the workers; other work on the machine lengthens the wall time. Memory is the sum over all
processes (pages that they share count twice). 1,000 micrographs are extrapolated, but for the memory of the tables,
which is measured with 1,000 micrographs' labels. The files of one and two workers are compared by their hashes.

``labels``: SIMULATED sessions are matched; particles are cut from synthetic micrographs without noise (the limit of a
high dose) at their labels and reconstructed with the poses and defoci of the labels by ``cryoprism reconstruct`` and
``relion_reconstruct --skip_gridding``; FSC to the input map inside a soft sphere. RELION 3.1 changes signs in odd
boxes; there it is given images that make up for that, and the plain ones beside.

``views``: labels of at least 20,000 particles, loose and crowded, a ball and an elongated molecule; and 5 % of
preferred views as a control that the tests can fail.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from cryoprism.core import matrix_to_euler
from cryoprism.formats import read_map, read_particle_images, read_particles, write_map, write_particles, write_stack
from cryoprism.formats.maps import Volume
from cryoprism.structure import fourier_shell_correlation, soft_sphere
from cryoprism.synthesis import (
    Arrangement,
    Population,
    PreferredViews,
    Scene,
    Species,
    Specimen,
    particle_labels,
    place_population,
    specimen_from_file,
    specimen_volume,
)
from realism_parts.material import data_folder
from reconstruct import with_sign_undone

PROGRAM = [sys.executable, "-c", "from cryoprism.cli import main; main()"]
GOAL, THOUSAND = 10.0, 1000
EDGE, PARTICLES = 4096, 300
PARTS = ("speed", "labels", "views")
CROWDED = (0.5, 0.9)  # coverage by a ball in a single layer, by an elongated molecule
TABLES = """
import json, resource, sys
from cryoprism.synthesis import particles_block, scene_from_dict
from cryoprism.formats import write_star
names, scenes, particles = [], [], []
for number in range(int(sys.argv[2])):
    truth = json.loads(open(sys.argv[1], encoding="utf-8").read())
    names.append(f"micrographs/{number + 1:06d}.mrc")
    scenes.append(scene_from_dict(truth["scene"]))
    particles.append(truth["particles"])
write_star(sys.argv[3], [particles_block(names, scenes, particles)])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def heading(title: str, columns: Sequence[str]) -> None:
    print(f"\n{title}\n\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)


def line(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


# --- speed ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What a command took; ``peak`` [bytes] is the largest sum of resident memory over its processes."""

    wall: float
    cpu: float
    peak: int


def _resident(root: int) -> int:
    """Resident bytes of a process and all below it."""
    parents: dict[int, int] = {}
    pages: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:  # it has ended
                continue
            parents[int(entry.name)], pages[int(entry.name)] = int(fields[1]), int(fields[21])
    total = 0
    for process in pages:
        above = process
        while above not in (root, 0):
            above = parents.get(above, 0)
        total += pages[process] if above == root else 0
    return total * os.sysconf("SC_PAGE_SIZE")


def measured(arguments: Sequence[str]) -> Cost:
    """Run ``cryoprism`` in a process of its own, with the threads that it takes by itself."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    process = subprocess.Popen(
        [*PROGRAM, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.25):
            peak[0] = max(peak[0], _resident(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    ended.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"cryoprism {arguments[0]} failed:\n{output}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.monotonic() - began, cpu, peak[0])


def ferritin() -> list[str]:
    return ["--map", str(data_folder() / "structures" / "4oyn.pdb.gz"), "--assembly", "1", "--symmetry", "O"]


def hashes(folder: Path) -> dict[str, str]:
    files = [p for kind in ("micrographs", "masks", "truth") for p in sorted((folder / kind).iterdir())]
    files.append(folder / "particles.star")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def speed(work: Path, count: int, seed: int) -> None:
    real = data_folder() / "apoferritin"
    given = ["synthesize", *ferritin(), "--match", str(real / "micrographs.star")]
    given += ["--coordinates", str(real / "coordinates"), "--width", str(EDGE), "--height", str(EDGE)]
    given += [
        "--particles",
        str(PARTICLES),
        "--noise",
        "matched",
        "--no-realism",
        "--exemplars",
        "3",
        "--seed",
        str(seed),
    ]
    load = os.getloadavg()[0]
    heading(
        f"{EDGE}² pixels, {PARTICLES} particles, noise `matched`, {os.cpu_count()} cores; load of other work before: "
        f"{load:.1f}",
        (
            "workers", "match of three and first micrograph: CPU [s]", f"{count} more: wall [s]", "CPU [s]",
            "nothing to do: wall [s]", "CPU [s]", "per micrograph: wall [s]", "CPU [s]", "peak memory [GB]",
            "disk per micrograph [MB]", "1,000 micrographs: wall [h]", "CPU [h]", "disk [GB]",
        ),
    )  # fmt: skip
    found = {}
    for workers in (2, 1):
        out = work / f"speed{workers}"
        options = [*given, "--workers", str(workers), "--out", str(out)]
        first = measured([*options, "--count", "1"])
        idle = measured([*options, "--count", "1", "--only-do-unfinished"])
        grown = measured([*options, "--count", str(count + 1), "--only-do-unfinished"])
        wall, cpu = (grown.wall - idle.wall) / count, (grown.cpu - idle.cpu) / count
        disk = sum(p.stat().st_size for kind in ("micrographs", "masks", "truth") for p in (out / kind).iterdir())
        disk /= count + 1
        line(
            str(workers), f"{first.cpu:.0f}", f"{grown.wall:.0f}", f"{grown.cpu:.0f}", f"{idle.wall:.1f}",
            f"{idle.cpu:.1f}", f"{wall:.2f}", f"{cpu:.2f}", f"{grown.peak / 1e9:.2f}", f"{disk / 1e6:.0f}",
            f"{(idle.wall + THOUSAND * wall) / 3600:.2f}", f"{(idle.cpu + THOUSAND * cpu) / 3600:.2f}",
            f"{THOUSAND * disk / 1e9:.0f}",
        )  # fmt: skip
        found[workers] = hashes(out)
    different = [name for name in found[1] if found[1][name] != found[2].get(name)]
    print(f"\n{len(different)} of {len(found[1])} files differ between 1 and 2 workers {different[:5]}")
    tables = []
    for number in (1, THOUSAND):
        command = [sys.executable, "-c", TABLES, str(out / "truth" / "000001.json"), str(number), str(work / "t.star")]
        tables.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1e6)
    print(
        f"Labels of {THOUSAND} micrographs in one table: {tables[1]:.2f} GB in the main process, {tables[0]:.2f} of 1"
    )


# --- labels --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Proof:
    """What is made and given back."""

    title: str
    structure: str
    options: tuple[str, ...]
    symmetry: str
    boxes: tuple[int, ...]
    pixel: float = 2.0
    #: Voxel size [Å] of the map that is given; 0: the structure itself.
    voxel: float = 0.0

    @property
    def specimen(self) -> Specimen:
        """The molecule from its structure file."""
        assembly = self.options[1] if self.options else None
        return specimen_from_file(data_folder() / "structures" / self.structure, assembly=assembly)


PROOFS = (
    Proof("O: 4OYN, 24-mer", "4oyn.pdb.gz", ("--assembly", "1"), "O", (128, 129)),
    Proof("C1: 1IGY, antibody", "1igy.cif.gz", (), "C1", (160, 161)),
)


def in_box(volume: Tensor, box: int) -> Tensor:
    """Cut or pad a cube about its voxel n // 2."""
    old = int(volume.shape[-1])
    out = volume.new_zeros(box, box, box)
    low = old // 2 - box // 2
    here, there = (slice(max(0, s), min(n, s + m)) for s, n, m in ((low, old, box), (-low, box, old)))
    out[there, there, there] = volume[here, here, here]
    return out


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def quiet_set(proof: Proof, folder: Path, micrographs: int, seed: int) -> None:
    """Simulate a session, match it, and make micrographs without noise in FOLDER/set."""
    structure = [str(data_folder() / "structures" / proof.structure), *proof.options]
    size = ["--pixel-size", str(proof.pixel), "--width", "768", "--height", "768", "--recipe", "clean"]
    size += ["--micrographs", "3", "--particles", "30", "--seed", str(seed)]
    _run([*PROGRAM, "simulate", "--structure", *structure, *size, "--out", "real"], folder)
    given = ["--map", *structure]
    if proof.voxel:
        write_map(folder / "input.mrc", Volume(specimen_volume(proof.specimen, proof.voxel), proof.voxel))
        given = ["--map", "input.mrc", "--contour", "0.4"]
    _run(
        [
            *PROGRAM, "synthesize", *given, "--symmetry", proof.symmetry, "--match", "real/micrographs.star",
            "--coordinates", "real/particles.star", "--count", str(micrographs), "--width", "1024", "--height", "1024",
            "--particles", "80", "--noise", "none", "--no-realism", "--seed", str(seed), "--out", "set",
        ],
        folder,
    )  # fmt: skip


def reconstructions(proof: Proof, folder: Path, box: int) -> Iterator[tuple[str, Path]]:
    """Names and files of the maps of particles cut in a box at the labels."""
    out = f"box{box}"
    _run(
        [
            *PROGRAM, "extract", "set/micrographs.star", "--coordinates", "set/particles.star", "--box", str(box),
            "--no-normalise", "--out", out,
        ],
        folder,
    )  # fmt: skip
    _run([*PROGRAM, "reconstruct", f"{out}/particles.star", "--symmetry", proof.symmetry, "--out", f"{out}map"], folder)
    yield "cryoprism", folder / f"{out}map" / "map.mrc"
    if shutil.which("relion_reconstruct") is None:
        return
    theirs = ["relion_reconstruct", "--ctf", "--skip_gridding", "--sym", proof.symmetry, "--i"]
    _run([*theirs, f"{out}/particles.star", "--o", f"{out}relion.mrc"], folder)
    yield "RELION", folder / f"{out}relion.mrc"
    if box % 2:
        with contextlib.chdir(folder):  # names in the table are relative to it
            particles = read_particles(f"{out}/particles.star")
            images = read_particle_images(particles, torch.arange(len(particles)))
        write_stack(folder / "undone.mrcs", with_sign_undone(images), proof.pixel)
        names = tuple(f"{i + 1:06d}@undone.mrcs" for i in range(len(particles)))
        write_particles(folder / "undone.star", replace(particles, image_names=names))
        _run([*theirs, "undone.star", "--o", f"{out}undone.mrc"], folder)
        yield "RELION, sign undone", folder / f"{out}undone.mrc"


def labels(work: Path, micrographs: int, seed: int) -> None:
    heading(
        "SIMULATED session matched; no noise; FSC between the input map and the map from the labels",
        ("specimen", "box", "program", "particles", "least FSC to 0.9 Nyquist", "FSC at 0.9 Nyquist",
         "below 0.5 at [Nyquist]"),
    )  # fmt: skip
    for number, proof in enumerate(PROOFS):
        folder = work / f"labels{number}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "set" / "particles.star").exists():
            quiet_set(proof, folder, micrographs, seed)
        specimen = proof.specimen
        truth = specimen_volume(specimen, proof.pixel)
        for box in proof.boxes:
            mask = soft_sphere((box,) * 3, proof.pixel, specimen.radius_in_angstroms + 4, soft_edge_in_angstroms=12.0)
            for program, path in reconstructions(proof, folder, box):
                curve = fourier_shell_correlation(
                    in_box(truth, box), read_map(path, proof.pixel).data, proof.pixel, mask=mask
                )
                part = curve.frequency * 2 * proof.pixel
                fsc = curve.fsc[(part > 0) & (part <= 0.9)]
                low = (curve.fsc < 0.5) & (part > 0) & (part <= 1)
                ends = f"{float(part[low][0]):.3f}" if bool(low.any()) else "never"
                count = len(read_particles(folder / f"box{box}" / "particles.star"))
                line(
                    proof.title, str(box), program, str(count), f"{float(fsc.min()):.4f}", f"{float(fsc[-1]):.4f}", ends
                )


# --- views ---------------------------------------------------------------------------------------------------


def rotations_of(specimen: Specimen, arrangement: Arrangement, wanted: int, seed: int) -> Tensor:
    """Rotations (n, 3, 3) of the labels of as many micrographs as hold ``wanted`` particles."""
    population = Population(species=(Species(name="one", conformations=(specimen,)),), arrangement=arrangement)
    scene = Scene(
        height_in_pixels=EDGE,
        width_in_pixels=EDGE,
        pixel_size_in_angstroms=1.0,
        ice_thickness_in_angstroms=2.5 * specimen.radius_in_angstroms,
        seed=seed,
    )
    found: list[Tensor] = []
    number = 0
    while len(found) < wanted:
        one = replace(scene, name=f"{number:06d}")
        placement = place_population(one, population, specimen.radius_in_angstroms)
        found += [label.rotation for label in particle_labels(one, placement)]
        number += 1
    return torch.stack(found)


def uniformity(rotations: Tensor) -> dict[str, float]:
    """p-value of each test that the rotations (n, 3, 3) are uniform.

    The direction of view in the specimen's frame is the third row of a rotation. Rayleigh: 3 n |mean|² of directions
    follows χ² of 3; over SO(3) 3 n ‖mean rotation‖² follows χ² of 9; Bingham: (15/2) n (tr T² - 1/3) of the tensor T
    of directions follows χ² of 5 (Mardia & Jupp 2000, sections 10.4 and 13.2). Kolmogorov and Smirnov's for each label.
    """
    turns = rotations.double()
    count = len(turns)
    directions = turns[:, 2]
    tensor = directions.T @ directions / count
    rot, tilt, psi = (angle.numpy() for angle in matrix_to_euler(turns))

    def spread(values: NDArray[np.float64], low: float, width: float) -> float:
        return float(stats.kstest(values, "uniform", args=(low, width)).pvalue)

    return {
        "Rayleigh, directions": float(stats.chi2.sf(3 * count * float(directions.mean(0).square().sum()), 3)),
        "Bingham, directions": float(stats.chi2.sf(7.5 * count * (float(tensor.square().sum()) - 1 / 3), 5)),
        "Rayleigh, SO(3)": float(stats.chi2.sf(3 * count * float(turns.mean(0).square().sum()), 9)),
        "KS, rot": spread(np.mod(rot, 360.0), 0.0, 360.0),
        "KS, cos tilt": spread(np.cos(np.radians(tilt)), -1.0, 2.0),
        "KS, psi": spread(np.mod(psi, 360.0), 0.0, 360.0),
    }


def views(wanted: int, seed: int) -> None:
    structures = data_folder() / "structures"
    ball = specimen_from_file(structures / "4oyn.pdb.gz", assembly="1")
    long = specimen_from_file(structures / "1igy.cif.gz")
    few = PreferredViews(directions_in_degrees=((0.0, 90.0),), shares=(0.05,), concentrations=(20.0,))
    sets = (
        ("4OYN, 24-mer, loose", ball, Arrangement(coverage=0.1)),
        ("4OYN, 24-mer, crowded", ball, Arrangement(coverage=CROWDED[0])),
        ("1IGY, antibody, loose", long, Arrangement(coverage=0.1)),
        ("1IGY, antibody, crowded", long, Arrangement(coverage=CROWDED[1])),
        ("control: 0.05 in a preferred view", ball, Arrangement(coverage=0.1, views=few)),
    )
    columns: list[str] | None = None
    for name, specimen, arrangement in sets:
        rotations = rotations_of(specimen, arrangement, wanted, seed)
        found = uniformity(rotations)
        if columns is None:
            columns = list(found)
            heading("p-values of uniform views", ("placement", "share of the field covered", "labels", *columns))
        line(name, f"{arrangement.coverage:.2f}", str(len(rotations)), *(f"{p:.2g}" for p in found.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--count", type=int, default=20, help="Micrographs that are timed.")
    parser.add_argument("--micrographs", type=int, default=12, help="Of the proof of the labels.")
    parser.add_argument("--labels", type=int, default=20_000, help="Whose views are tested, at least.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="Keep the files here.")
    args = parser.parse_args()
    if not (data_folder() / "structures").is_dir():
        sys.exit(f"{data_folder()} holds no structures/; set CRYOPRISM_DATA to the folder of the data.")
    parts: dict[str, Callable[[Path], None]] = {
        "speed": lambda work: speed(work, args.count, args.seed),
        "labels": lambda work: labels(work, args.micrographs, args.seed),
        "views": lambda work: views(args.labels, args.seed),
    }
    with tempfile.TemporaryDirectory(prefix="synthesize-") as name:
        work = (args.work or Path(name)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        for part in args.parts:
            parts[part](work)


if __name__ == "__main__":
    main()
