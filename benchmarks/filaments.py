"""Refinement of simulated filaments: without helical symmetry, with it, with priors of the axes, and RELION.

SIMULATED: blobs on a helix of rise 13 Å and twist 47°, projected in the plane without a volume or a Fourier slice,
contrast transfer, white noise. Segments of one filament share psi within 1.5°, lean out of the plane by 5°, lie along
their axis within half a rise and across it by a pixel. The table's rlnAnglePsiPrior is off by 5° and of either
polarity. All arms start from the true map low-passed to 30 Å and use the same half sets (whole filaments). The truth is
turned and slid along its axis to fit each map best, which the images do not determine.

python benchmarks/filaments.py [--segments 400] [--ratio 0.1] [--no-relion]
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.core import euler_to_matrix, frequency_grid, generator_for, irfft2, rfft2
from cryoprism.formats import Particles, Volume, read_map, write_map, write_particles, write_stack
from cryoprism.microscope import Lens, contrast_transfer
from cryoprism.structure import fourier_shell_correlation, low_pass, soft_cylinder, soft_sphere
from refine import PROGRAM, timed

PIXEL, BOX, RISE, TWIST = 2.5, 48, 13.0, 47.0
# Radius [Å], turn [degrees], height [Å] and weight of the blobs of a unit, and their width [Å].
UNIT = ((22.0, 0.0, 0.0, 1.0), (12.0, 35.0, 3.0, 0.7), (25.0, 28.0, 5.0, 0.8), (6.0, 150.0, -2.0, 0.5))
WIDTH = 3.0
DIAMETER, OUTER = 105.0, 72.0


def blobs(turn: float = 0.0, slide: float = 0.0) -> tuple[Tensor, Tensor]:
    """Positions (m, 3) = x, y, z [Å] and weights (m,) along 1.6 boxes."""
    most = math.ceil(0.8 * BOX * PIXEL / RISE)
    rows = [
        (
            radius * math.cos(math.radians(unit * TWIST + angle + turn)),
            radius * math.sin(math.radians(unit * TWIST + angle + turn)),
            unit * RISE + lift + slide,
            weight,
        )
        for unit in range(-most, most + 1)
        for radius, angle, lift, weight in UNIT
    ]
    table = torch.tensor(rows)
    return table[:, :3], table[:, 3]


def filament(turn: float = 0.0, slide: float = 0.0) -> Tensor:
    """Map (box, box, box)."""
    places, weights = blobs(turn, slide)
    axis = (torch.arange(BOX) - BOX // 2).float() * PIXEL
    x, y, z = (torch.exp(-0.5 * ((axis - places[:, i, None]) / WIDTH) ** 2) for i in range(3))
    return torch.einsum("mz,my,mx,m->zyx", z, y, x, weights)


def simulate(folder: Path, count: int, ratio: float, seed: int) -> None:
    """Write segments.mrcs, segments.star and start.mrc."""
    generator = generator_for(seed, "filament-benchmark")

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tube = torch.arange(count) // 10
    number = int(tube.max()) + 1
    psi = (360 * torch.rand(number, generator=generator, dtype=torch.float64))[tube] + 1.5 * normal(count)
    rot = 360 * torch.rand(count, generator=generator, dtype=torch.float64)
    turns = euler_to_matrix(rot, 90 + 5 * normal(count), psi).float()
    axis = torch.nn.functional.normalize(turns[:, :2, 2], dim=1)
    along = (torch.rand(count, 1, generator=generator) - 0.5) * RISE / PIXEL
    shifts = along * axis + normal(count, 1).float() * torch.stack([-axis[:, 1], axis[:, 0]], -1)
    places, weights = blobs()
    centres = (places @ turns.transpose(1, 2))[..., :2] / PIXEL - shifts[:, None]
    grid = (torch.arange(BOX) - BOX // 2).float()
    in_x, in_y = (torch.exp(-0.5 * ((grid - centres[..., i : i + 1]) * PIXEL / WIDTH) ** 2) for i in (0, 1))
    images = torch.einsum("nmy,nmx,m->nyx", in_y, in_x, weights)
    focus = 8000 + 9000 * torch.rand(count, generator=generator)
    ky, kx = frequency_grid((BOX, BOX), PIXEL)
    transfer = contrast_transfer(ky, kx, Lens(), defocus_u_in_angstroms=focus, defocus_v_in_angstroms=focus)
    images = irfft2(rfft2(images) * transfer, (BOX, BOX))
    images = images / images.std() + math.sqrt(1 / ratio) * torch.randn(images.shape, generator=generator)
    images = (images - images.mean((1, 2), keepdim=True)) / images.std((1, 2), keepdim=True)
    write_stack(folder / "segments.mrcs", images, PIXEL)
    one, lens = torch.ones(count, dtype=torch.float64), Lens()
    table = Particles(
        image_names=tuple(f"{i + 1:06d}@{folder}/segments.mrcs" for i in range(count)),
        micrograph_names=tuple(f"m{int(i):03d}.mrc" for i in tube),
        pixel_size_in_angstroms=PIXEL * one,
        voltage_in_kilovolts=lens.voltage_in_kilovolts * one,
        spherical_aberration_in_millimeters=lens.spherical_aberration_in_millimeters * one,
        amplitude_contrast=lens.amplitude_contrast * one,
        defocus=torch.stack([focus.double(), focus.double(), 0 * one], -1),
        half_set=tube % 2 + 1,
        source=str(folder / "segments.star"),
        image_size=torch.full((count,), BOX),
        optics_group=torch.ones(count, dtype=torch.int64),
    )
    write_particles(folder / "plain.star", table)
    flip = 180.0 * torch.randint(2, (number,), generator=generator)[tube]
    prior = psi + 5 * normal(count) + flip
    columns = {
        "rlnHelicalTubeID": (tube + 1).tolist(),
        "rlnHelicalTrackLengthAngst": [13.0 * (i % 10) for i in range(count)],
        "rlnAngleTiltPrior": [90.0] * count,
        "rlnAnglePsiPrior": prior.tolist(),
        "rlnAnglePsiFlipRatio": [0.5] * count,
        "rlnAngleRot": [0.0] * count,
        "rlnAngleTilt": [90.0] * count,
        "rlnAnglePsi": prior.tolist(),
    }
    write_particles(folder / "segments.star", table, extra_columns=columns)
    write_map(folder / "start.mrc", Volume(low_pass(filament(), PIXEL, 30.0), PIXEL))


def against_truth(volume: Tensor) -> str:
    """Resolution [Å] at which the FSC to the truth falls below 0.5, for the turn and slide that fit best."""
    mask = soft_sphere((BOX,) * 3, PIXEL, 36.0) * soft_cylinder((BOX,) * 3, PIXEL, 36.0)
    best, fit = -1.0, (0.0, 0.0)
    span = (20.0, 0.5 * RISE)
    for _ in range(3):
        middle = fit
        for turn in torch.linspace(-1, 1, 9).tolist():
            for slide in torch.linspace(-1, 1, 9).tolist():
                place = middle[0] + turn * span[0], middle[1] + slide * span[1]
                both = torch.stack([(filament(*place) * mask).flatten(), (volume * mask).flatten()])
                likeness = float(torch.corrcoef(both)[0, 1])
                if likeness > best:
                    best, fit = likeness, place
        span = (span[0] / 4, span[1] / 4)
    found = fourier_shell_correlation(volume, filament(*fit), PIXEL, mask=mask).crossing(0.5).resolution_in_angstroms
    return "-" if found is None else f"{found:.2f}"


def row(name: str, first: Tensor, second: Tensor, seconds: float) -> None:
    mask = soft_sphere((BOX,) * 3, PIXEL, 36.0) * soft_cylinder((BOX,) * 3, PIXEL, 36.0)
    half = fourier_shell_correlation(first, second, PIXEL, mask=mask).crossing(0.143).resolution_in_angstroms
    between = "-" if half is None else f"{half:.2f}"
    print(f"| {name} | {between} | {against_truth(first + second)} | {seconds:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=400)
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--relion", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = (args.work or Path(tempfile.mkdtemp(prefix="filaments-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    simulate(folder, args.segments, args.ratio, args.seed)
    print(f"SIMULATED: {args.segments} segments of {BOX}² pixels of {PIXEL} Å, SNR {args.ratio:g}.\n")
    print("| arm | half maps 0.143 [Å] | to the truth 0.5 [Å] | CPU s |\n|---|---|---|---|")
    start = read_map(folder / "start.mrc").data
    print(f"| start | - | {against_truth(start)} | - |", flush=True)
    common = ["--reference", "start.mrc", "--diameter", f"{DIAMETER:g}", "--shift-range", "9", "--no-local"]
    helix = ["--helical-rise", f"{RISE:g}", "--helical-twist", f"{TWIST:g}", "--helical-diameter", f"{OUTER:g}"]
    helix += ["--helical-central-fraction", "0.5"]
    off = [*helix[:1], "12.7", *helix[2:3], "46", *helix[4:], "--helical-search"]
    for name, table, options in (
        ("CryoPrism, C1", "plain.star", []),
        ("CryoPrism, rise and twist", "plain.star", helix),
        ("CryoPrism, priors of the axes too", "segments.star", helix),
        ("CryoPrism, priors, searching from 12.7 Å and 46°", "segments.star", off),
    ):
        out = folder / name.replace(" ", "_").replace(",", "")
        cpu = timed([*PROGRAM, "refine", table, *common, *options, "--out", str(out), "--overwrite"], folder)[0]
        row(name, *(read_map(out / f"half{n}.mrc").data for n in (1, 2)), cpu)
    if not args.relion or shutil.which("relion_refine_mpi") is None:
        print("| RELION 3.1.3 | not run | | |")
        return
    (folder / "Relion").mkdir(exist_ok=True)
    command = f"""mpirun --allow-run-as-root --oversubscribe -n 3 relion_refine_mpi --o Relion/run --auto_refine
        --split_random_halves --i segments.star --ref start.mrc --ini_high 30 --dont_combine_weights_via_disc --pool 30
        --pad 2 --ctf --particle_diameter {DIAMETER} --flatten_solvent --zero_mask --oversampling 1 --healpix_order 2
        --auto_local_healpix_order 4 --offset_range 4 --offset_step 2 --sym C1 --low_resol_join_halves 40 --norm --scale
        --j 1 --helix --helical_nr_asu 1 --helical_rise_initial {RISE} --helical_twist_initial {TWIST}
        --helical_z_percentage 0.5 --helical_outer_diameter {OUTER} --sigma_tilt 5 --sigma_psi 5""".split()
    cpu = timed(command, folder)[0]
    row(
        "RELION 3.1.3 auto_refine, priors",
        *(read_map(folder / "Relion" / f"run_half{h}_class001_unfil.mrc").data for h in (1, 2)),
        cpu,
    )


if __name__ == "__main__":
    main()
