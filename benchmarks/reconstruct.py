"""Direct Fourier reconstruction against RELION on the same particles with known poses: same map, CPU seconds, truth.

Simulated particles (projections of a padded-by-4 volume, CTF, white noise); ``cryoprism reconstruct`` and
``relion_reconstruct`` read the same STAR file. RELION makes one map, CryoPrism that map and two half maps.

python benchmarks/reconstruct.py [--particles 2000] [--boxes 96 95] [--symmetries C1 O]
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
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.core import frequency_grid, generator_for, irfft2, matrix_to_euler, random_rotations, rfft2
from cryoprism.formats import Particles, Volume, read_map, write_map, write_particles, write_stack
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
    stack = stack / stack.std()
    for start in range(0, count, 200):
        part = stack[start : start + 200]
        part += torch.randn(part.shape, generator=generator) / math.sqrt(ratio)
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
    below = (fsc[1:] < 0.5).nonzero()
    return f"< {1 / float(frequency[-1]):.2f}" if not len(below) else f"{1 / float(frequency[int(below[0]) + 1]):.2f}"


def row(symmetry: str, box: int, count: int, ratio: float, seed: int) -> list[str]:
    """One line of the table."""
    truth, pixel = specimen(symmetry, box)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate(folder, truth, pixel, count, ratio, seed)
        write_map(folder / "truth.mrc", Volume(truth, pixel))
        program = [sys.executable, "-c", "from cryoprism.cli import main; main()"]
        ours, _ = timed([*program, "reconstruct", "particles.star", "--symmetry", symmetry, "--out", "ours"], folder)
        theirs, _ = timed(
            ["relion_reconstruct", "--i", "particles.star", "--o", "relion.mrc", "--ctf", "--sym", symmetry], folder
        )
        mine, peer = (read_map(folder / path, pixel).data for path in ("ours/map.mrc", "relion.mrc"))
    last = int(0.9 * (box // 2))
    mask = soft_sphere((box, box, box), pixel, 0.42 * box * pixel, soft_edge_in_angstroms=0.06 * box * pixel)
    between = fourier_shell_correlation(mine, peer, pixel, mask=mask)
    to_truth = [fourier_shell_correlation(volume, truth, pixel, mask=mask) for volume in (mine, peer)]
    return [
        f"{symmetry} {box}",
        f"{ratio:g}",
        f"{float(between.fsc[1 : last + 1].min()):.5f}",
        f"{int((between.fsc[1 : last + 1] >= 0.999).sum())} of {last}",
        *(f"{float(curve.fsc[1 : last + 1].min()):.4f}" for curve in to_truth),
        *(crossing(curve.fsc, curve.frequency) for curve in to_truth),
        f"{ours:.1f}",
        f"{theirs:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=2000)
    parser.add_argument("--boxes", type=int, nargs="+", default=[96, 95])
    parser.add_argument("--symmetries", nargs="+", default=["C1", "O"], choices=sorted(SPECIMEN))
    parser.add_argument("--ratios", type=float, nargs="+", default=[100.0, 0.05])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if shutil.which("relion_reconstruct") is None:
        raise SystemExit("relion_reconstruct is not on the PATH: there is nothing to compare with.")
    print(
        f"SIMULATED: {args.particles} particles, known poses. FSC inside a soft sphere: the lowest up to 0.9 Nyquist.\n"
    )
    columns = (
        "specimen", "SNR", "FSC ours–RELION", "shells ≥ 0.999", "FSC to truth, ours", "RELION", "FSC 0.5 [Å], ours",
        "RELION", "CPU [s], ours", "RELION",
    )  # fmt: skip
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)
    for symmetry in args.symmetries:
        for box in args.boxes:
            for ratio in args.ratios:
                print("| " + " | ".join(row(symmetry, box, args.particles, ratio, args.seed)) + " |", flush=True)


if __name__ == "__main__":
    main()
