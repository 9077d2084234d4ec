"""Defocus of particles and beam tilt from poses, against RELION's ctf_refine on the same files.

SIMULATED particles with true poses: atoms projected in the plane, contrast transfer with the true defocus and a beam
tilt, white noise. The table is wrong: every micrograph's defocus by a random amount, its particles by their heights on
top, no beam tilt. Half maps are reconstructed with that wrong table, as they would be. Both programs refine defocus per
particle and beam tilt once from the same table, half maps and mask; then maps are reconstructed with what they found.

With ``--low-pass`` both half maps are filtered first, as the maps of an early refinement: at 12 Å no defocus can be
seen, and a program should leave the table nearly as it was.

python benchmarks/ctf_refine.py [--particles 1000] [--ratios 0.1 0.03] [--low-pass 12] [--heights 20 --off 20]
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
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.core import frequency_grid, generator_for, irfft2, matrix_to_euler, random_rotations, rfft2
from cryoprism.formats import Particles, Volume, read_particles, write_map, write_particles, write_stack
from cryoprism.microscope import AtomicModel, Lens, odd_aberration_phase, potential_from_atoms, project_atoms
from cryoprism.particles import transfer_at
from cryoprism.structure import fourier_shell_correlation, low_pass, mask_from_map, particle_batches, reconstruct
from cryoprism.synthesis.phantom import phantom

PIXEL, TILT = 1.4, (0.6, -0.3)
MICROGRAPHS = 20


@dataclass(frozen=True)
class Spread:
    """By how much the table is off [Å]: standard deviation of heights, and of the micrographs' defoci."""

    heights: float = 200.0
    micrographs: float = 150.0


def simulate(
    folder: Path, box: int, count: int, ratio: float, seed: int, spread: Spread
) -> tuple[Particles, Particles, Tensor]:
    """Write the images; the table with the truth, the wrong one, and the true map."""
    built = phantom("globule")
    model = AtomicModel(
        torch.from_numpy(built.positions_in_angstroms).float(), torch.from_numpy(built.atomic_numbers), 30.0
    )
    generator = generator_for(seed, "ctf-refine")
    rotations = random_rotations(count, generator)
    micrograph = torch.arange(count) * MICROGRAPHS // count
    mean = (9000 + 9000 * torch.rand(MICROGRAPHS, generator=generator, dtype=torch.float64))[micrograph]
    off = spread.micrographs * torch.randn(MICROGRAPHS, generator=generator, dtype=torch.float64)[micrograph]
    off = off + spread.heights * torch.randn(count, generator=generator, dtype=torch.float64)
    axis = 180 * torch.rand(MICROGRAPHS, generator=generator, dtype=torch.float64)[micrograph]
    told = Particles(
        image_names=tuple(f"{i + 1:06d}@{folder}/particles.mrcs" for i in range(count)),
        micrograph_names=tuple(f"mic{i:02d}.mrc" for i in micrograph.tolist()),
        pixel_size_in_angstroms=torch.full((count,), PIXEL, dtype=torch.float64),
        voltage_in_kilovolts=torch.full((count,), 300.0, dtype=torch.float64),
        spherical_aberration_in_millimeters=torch.full((count,), 2.7, dtype=torch.float64),
        amplitude_contrast=torch.full((count,), 0.1, dtype=torch.float64),
        angles_in_degrees=torch.stack(matrix_to_euler(rotations.double()), -1),
        origins_in_angstroms=torch.zeros(count, 2, dtype=torch.float64),
        defocus=torch.stack([mean + 150, mean - 150, axis], -1),
        source=str(folder / "particles.star"),
        image_size=torch.full((count,), box),
        half_set=micrograph % 2 + 1,
        optics_group=torch.ones(count, dtype=torch.int64),
    )
    assert told.defocus is not None
    true_defocus = told.defocus.clone()
    true_defocus[:, :2] += off[:, None]
    truth = replace(
        told, defocus=true_defocus, beam_tilt_in_milliradians=torch.tensor([TILT] * count, dtype=torch.float64)
    )
    ky, kx = frequency_grid((box, box), 1.0)
    odd = odd_aberration_phase(
        ky / PIXEL, kx / PIXEL, Lens(), beam_tilt_x_in_milliradians=TILT[0], beam_tilt_y_in_milliradians=TILT[1]
    )
    images = []
    for start in range(0, count, 50):
        chosen = torch.arange(start, min(count, start + 50))
        views = project_atoms(model, rotations[chosen], PIXEL, shape=(box, box), center=False)
        spectra = rfft2(views) * transfer_at(truth, ky, kx, chosen) * torch.polar(torch.ones_like(odd), -odd)
        images.append(irfft2(spectra, (box, box)))
    stack = torch.cat(images)
    stack = stack / stack.std()
    stack = stack + torch.randn(stack.shape, generator=generator) / math.sqrt(ratio)
    write_stack(folder / "particles.mrcs", stack, PIXEL)
    write_particles(folder / "particles.star", told)
    known = potential_from_atoms(model, PIXEL, shape=(box, box, box), center=False)
    return truth, told, known


def timed(commands: list[list[str]], folder: Path) -> float:
    """Run programs on one thread; CPU seconds of them all."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in commands:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{command[0]} failed:\n{done.stdout}\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def quality(particles: Particles, truth: Tensor, mask: Tensor) -> str:
    """Resolution [Å] at which the map made with a table falls below FSC 0.5 to the truth."""
    box = int(truth.shape[-1])
    made = reconstruct(particle_batches(particles, (box - 1) // 2), box)
    crossing = fourier_shell_correlation(made.map, truth, PIXEL, mask=mask).crossing(0.5)
    return f"{crossing.resolution_in_angstroms or math.inf:.2f}"


def rows(box: int, count: int, ratio: float, seed: int, coarse: float | None, spread: Spread) -> list[list[str]]:
    """Lines of the table for one signal-to-noise ratio."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth, told, known = simulate(folder, box, count, ratio, seed, spread)
        told = read_particles(folder / "particles.star")
        first = reconstruct(particle_batches(told, (box - 1) // 2), box, wiener=False)
        for number, half in enumerate((first.half1, first.half2), 1):
            filtered = half if coarse is None else low_pass(half, PIXEL, coarse)
            write_map(folder / f"half{number}.mrc", Volume(filtered, PIXEL))
        mask = mask_from_map(known, PIXEL).data
        write_map(folder / "mask.mrc", Volume(mask, PIXEL))
        (folder / "post").mkdir()
        maps = ["--m1", "half1.mrc", "--m2", "half2.mrc"]
        seconds = {"as given": 0.0, "true": 0.0}
        found = {"as given": told, "true": replace(truth, source=told.source)}
        ours = [sys.executable, "-c", "from cryoprism.cli import main; main()", "ctf-refine", "particles.star", *maps]
        seconds["CryoPrism"] = timed([[*ours, "--mask", "mask.mrc", "--no-signal", "--out", "ours"]], folder)
        found["CryoPrism"] = read_particles(folder / "ours/particles.star")
        if shutil.which("relion_ctf_refine") is not None:
            post = "relion_postprocess --i half1.mrc --i2 half2.mrc --o post/p --mask mask.mrc --angpix"
            fit = "--fit_beamtilt --fit_defocus --fit_mode fpfff --o relion/ --angpix_ref"
            seconds["RELION"] = timed(
                [
                    [*post.split(), str(PIXEL)],
                    [
                        "relion_ctf_refine",
                        "--i",
                        "particles.star",
                        "--f",
                        "post/p.star",
                        *maps,
                        *fit.split(),
                        str(PIXEL),
                    ],
                ],
                folder,
            )
            found["RELION"] = read_particles(folder / "relion/particles_ctf_refine.star")
        lines = []
        for program, table in found.items():
            assert table.defocus is not None
            assert truth.defocus is not None
            left = (table.defocus[:, :2].mean(1) - truth.defocus[:, :2].mean(1)).square().mean().sqrt()
            tilt = table.beam_tilt_in_milliradians
            tilt = torch.zeros(1, 2) if tilt is None else tilt
            lines.append(
                [
                    f"{ratio:g}",
                    program,
                    f"{float(left):.0f}",
                    f"{float(tilt[0, 0]):.2f}, {float(tilt[0, 1]):.2f}",
                    quality(table, known, mask),
                    f"{seconds[program]:.1f}",
                ]
            )
        return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--box", type=int, default=72)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.1, 0.03])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--low-pass", type=float, help="of the half maps [Å]")
    parser.add_argument("--heights", type=float, default=200.0, help="by which particles' defoci are off [Å]")
    parser.add_argument("--off", type=float, default=150.0, help="by which micrographs' defoci are off [Å]")
    args = parser.parse_args()
    spread = Spread(args.heights, args.off)
    torch.set_num_threads(1)
    print(f"SIMULATED: {args.particles} particles of {args.box}² pixels of {PIXEL} Å, true tilt {TILT} mrad.\n")
    columns = ("SNR", "table", "defocus off, rms [Å]", "beam tilt [mrad]", "FSC 0.5 to truth [Å]", "CPU [s]")
    print("| seed | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1), flush=True)
    for ratio in args.ratios:
        for seed in args.seeds:
            for line in rows(args.box, args.particles, ratio, seed, args.low_pass, spread):
                print(f"| {seed} | " + " | ".join(line) + " |", flush=True)


if __name__ == "__main__":
    main()
