"""Direct Fourier reconstruction against RELION on the same particles with known poses: same map, CPU seconds, truth.

Simulated particles (projections of a padded-by-4 volume, CTF, white noise); ``cryoprism reconstruct`` and
``relion_reconstruct`` read the same STAR file. RELION makes one map, CryoPrism that map and two half maps. RELION runs
with the defaults of 3.1 (ten gridding iterations) and with ``--skip_gridding``, which its later versions do by default.
Where the two maps differ, the truth says which is nearer. In odd boxes RELION's images are also given with its wrong
change of signs undone.

python benchmarks/reconstruct.py [--particles 2000] [--boxes 96 95] [--symmetries C1 O] [--setting="--pad 3"]
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.core import frequency_grid, generator_for, irfft2, matrix_to_euler, random_rotations, rfft2
from cryoprism.formats import (
    Particles,
    read_map,
    read_particle_images,
    read_particles,
    write_particles,
    write_stack,
)
from cryoprism.microscope import AtomicModel, potential_from_atoms, project_volume
from cryoprism.particles import transfer_at
from cryoprism.structure import fourier_shell_correlation, soft_sphere
from cryoprism.synthesis.phantom import phantom

SPECIMEN = {"C1": ("globule", 110.0), "O": ("shell", 160.0)}


def specimen(symmetry: str, box: int) -> tuple[Tensor, float]:
    """Potential (box, box, box) of a phantom and its voxel size [Å]."""
    kind, extent = SPECIMEN[symmetry]
    built = phantom(kind)  # type: ignore[arg-type]
    pixel = round(extent / box, 3)
    model = AtomicModel(
        torch.from_numpy(built.positions_in_angstroms).float(), torch.from_numpy(built.atomic_numbers), 20.0
    )
    return potential_from_atoms(model, pixel, shape=(box, box, box), center=False), pixel


def simulate(folder: Path, truth: Tensor, pixel: float, count: int, ratio: float, seed: int) -> None:
    """Write particles.mrcs and particles.star: random views, origins of up to 3 pixels, defocus 0.8 to 2.2 µm.

    ``ratio`` is the variance of the signal over that of the noise, over the whole image.
    """
    box = int(truth.shape[-1])
    generator = generator_for(seed, "reconstruct", str(box))
    rotations = random_rotations(count, generator)
    angles = torch.stack(matrix_to_euler(rotations.double()), -1)
    origins = (torch.rand(count, 2, generator=generator, dtype=torch.float64) * 6 - 3) * pixel
    u = 8000 + 14000 * torch.rand(count, generator=generator, dtype=torch.float64)
    v = u - 400 * torch.rand(count, generator=generator, dtype=torch.float64)
    axis = 180 * torch.rand(count, generator=generator, dtype=torch.float64)
    particles = Particles(
        image_names=tuple(f"{i + 1:06d}@{folder}/particles.mrcs" for i in range(count)),
        micrograph_names=tuple(f"mic{i % 20:02d}.mrc" for i in range(count)),
        pixel_size_in_angstroms=torch.full((count,), pixel, dtype=torch.float64),
        voltage_in_kilovolts=torch.full((count,), 300.0, dtype=torch.float64),
        spherical_aberration_in_millimeters=torch.full((count,), 2.7, dtype=torch.float64),
        amplitude_contrast=torch.full((count,), 0.1, dtype=torch.float64),
        angles_in_degrees=angles,
        origins_in_angstroms=origins,
        defocus=torch.stack([u, v, axis], -1),
        source=str(folder / "particles.star"),
        image_size=torch.full((count,), box),
    )
    ky, kx = frequency_grid((box, box), 1.0)
    images = []
    for start in range(0, count, 50):
        chosen = torch.arange(start, min(count, start + 50))
        views = rfft2(project_volume(truth, rotations[chosen], 1.0, padding=4))
        shift = 2 * math.pi * (ky * origins[chosen, 1, None, None] + kx * origins[chosen, 0, None, None]) / pixel
        views = views * transfer_at(particles, ky, kx, chosen) * torch.polar(torch.ones(()), shift.float())
        images.append(irfft2(views, (box, box)))
    stack = torch.cat(images)
    # Noise of deviation 1, as RELION's normalisation leaves it: other images mislead its refinement.
    stack = stack * (math.sqrt(ratio) / stack.std())
    for start in range(0, count, 200):
        part = stack[start : start + 200]
        part += torch.randn(part.shape, generator=generator)
    write_stack(folder / "particles.mrcs", stack, pixel)
    write_particles(folder / "particles.star", particles)


def timed(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a program on one thread; CPU seconds (children included) and wall seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout}\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.monotonic() - start


def crossing(fsc: Tensor, frequency: Tensor) -> str:
    """Resolution [Å] where a curve falls below 0.5."""
    below = (fsc < 0.5).nonzero()
    return f"< {1 / float(frequency[-1]):.2f}" if not len(below) else f"{1 / float(frequency[int(below[0])]):.2f}"


@dataclass(frozen=True)
class Comparison:
    """Options of one CryoPrism map and one RELION map that are compared, and what the row says of them."""

    ours: tuple[str, str]
    theirs: tuple[str, str]
    table: str = "particles.star"


def comparisons(box: int, pixel: float, settings: list[str]) -> list[Comparison]:
    """Rows of the table for one set of particles.

    The last is the same estimator on both sides: the sums are divided by the weights and nothing else, and the
    frequencies end at the same radius (RELION goes one pixel further by default).
    """
    # Both programs round this to two pixels below Nyquist.
    limit = f"{box * pixel / (box // 2 - 2.25):.5f}"
    default, divided = ("default", ""), ("--skip_gridding", "--skip_gridding")
    rows = [Comparison(default, default), Comparison(default, divided)]
    rows.append(
        Comparison(
            ("only divides", f"--iterations 0 --no-wiener --maximum-resolution {limit}"),
            ("--skip_gridding, same cut", f"--skip_gridding --maxres {limit}"),
        )
    )
    if box % 2:
        rows.append(Comparison(default, ("--skip_gridding, sign undone", "--skip_gridding"), "undone.star"))
    return rows + [Comparison(default, (options, options)) for options in settings]


def with_sign_undone(images: Tensor) -> Tensor:
    """Images (n, box, box) of an odd box that come out right when RELION has centred them.

    RELION moves the centre of an image to the origin by (-1)^(row + column) in its half transform. In an odd box that
    is no shift at all: rows of negative frequency, counted from the end, get the opposite sign. The images are given
    the shift by box // 2 pixels and that sign beforehand. (The column kx = 0 is then not Hermitian, and half of it is
    lost.)
    """
    box = int(images.shape[-1])
    ky, kx = frequency_grid((box, box), 1.0)
    row, column = torch.arange(box)[:, None], torch.arange(box // 2 + 1)
    sign = 1.0 - 2.0 * ((row + column) % 2)
    spectra = rfft2(images) * torch.polar(sign.abs(), 2 * math.pi * (box // 2) * (ky + kx)) * sign
    return irfft2(spectra, (box, box))


def undo_sign(folder: Path, pixel: float) -> None:
    """Write undone.mrcs and undone.star: the images that come out right when RELION has centred them."""
    particles = read_particles(folder / "particles.star")
    images = read_particle_images(particles, torch.arange(len(particles)))
    write_stack(folder / "undone.mrcs", with_sign_undone(images), pixel)
    text = (folder / "particles.star").read_text()
    (folder / "undone.star").write_text(text.replace("particles.mrcs", "undone.mrcs"))


def rows(symmetry: str, box: int, count: int, ratio: float, seed: int, settings: list[str]) -> Iterator[list[str]]:
    """Lines of the table for one set of particles."""
    truth, pixel = specimen(symmetry, box)
    program = [sys.executable, "-c", "from cryoprism.cli import main; main()", "reconstruct"]
    last = int(0.9 * (box // 2))
    mask = soft_sphere((box, box, box), pixel, 0.42 * box * pixel, soft_edge_in_angstroms=0.06 * box * pixel)

    def shells(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        curve = fourier_shell_correlation(first, second, pixel, mask=mask)
        return curve.fsc[1 : last + 1], curve.frequency[1 : last + 1]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate(folder, truth, pixel, count, ratio, seed)
        if box % 2:
            undo_sign(folder, pixel)
        seconds: dict[tuple[str, str], float] = {}
        for comparison in comparisons(box, pixel, settings):
            maps = []
            for who, (_, options) in (("ours", comparison.ours), ("theirs", comparison.theirs)):
                key = (who, options + comparison.table * (who == "theirs"))
                out = f"{who}{[*seconds, key].index(key)}"
                if key not in seconds and who == "ours":
                    command = [*program, "particles.star", "--symmetry", symmetry, "--out", out, *options.split()]
                    seconds[key] = timed(command, folder)[0]
                elif key not in seconds:
                    command = ["relion_reconstruct", "--i", comparison.table, "--o", f"{out}.mrc", "--ctf"]
                    seconds[key] = timed([*command, "--sym", symmetry, *options.split()], folder)[0]
                path = folder / (f"{out}/map.mrc" if who == "ours" else f"{out}.mrc")
                maps.append((read_map(path, pixel).data, seconds[key]))
            (mine, our_seconds), (peer, their_seconds) = maps
            between, frequency = shells(mine, peer)
            to_truth = [shells(volume, truth)[0] for volume in (mine, peer)]
            differ = between < 0.999
            closer = int((to_truth[0] > to_truth[1])[differ].sum())
            yield [
                f"{symmetry} {box}",
                f"{ratio:g}",
                comparison.ours[0],
                comparison.theirs[0],
                f"{float(between.min()):.5f} ({int(between.argmin()) + 1})",
                f"{last - int(differ.sum())} of {last}",
                f"{closer} of {int(differ.sum())}",
                *(f"{float(curve.min()):.4f}" for curve in to_truth),
                *(crossing(curve, frequency) for curve in to_truth),
                f"{our_seconds:.1f}",
                f"{their_seconds:.1f}",
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=2000)
    parser.add_argument("--boxes", type=int, nargs="+", default=[96, 95])
    parser.add_argument("--symmetries", nargs="+", default=["C1", "O"], choices=sorted(SPECIMEN))
    parser.add_argument("--ratios", type=float, nargs="+", default=[100.0, 0.05])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        help='Further options of relion_reconstruct, such as --setting="--NN".',
    )
    args = parser.parse_args()
    if shutil.which("relion_reconstruct") is None:
        raise SystemExit("relion_reconstruct is not on the PATH: there is nothing to compare with.")
    print(
        f"SIMULATED: {args.particles} particles, known poses. FSC inside a soft sphere: the lowest up to 0.9 Nyquist.\n"
    )
    columns = (
        "specimen", "SNR", "ours", "RELION", "FSC ours–RELION (shell)", "shells ≥ 0.999", "ours closer in the others",
        "FSC to truth, ours", "RELION", "FSC 0.5 [Å], ours", "RELION", "CPU [s], ours", "RELION",
    )  # fmt: skip
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)
    for symmetry in args.symmetries:
        for box in args.boxes:
            for ratio in args.ratios:
                for row in rows(symmetry, box, args.particles, ratio, args.seed, args.setting):
                    print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
