"""Refinement from a low-passed start against RELION on the same particles, half sets and mask; and fully automatic.

(a) simulated: 2,000 particles of an asymmetric phantom (C1, 96², SNR 0.05): true poses, refinement from 30 Å, ab-initio
    start; RELION auto_refine on the same table with ``--relion``. There it searches all orientations at 7.5° (with
    oversampling) and from then on near the best ones (its option for when local searches begin): all orientations at
    3.75°, its default, take it an hour or more a pass on two shared cores, by its own estimate;
    ``--relion-local-order 4`` lets it.
(b) real: annotated picks of the eight micrographs of data/apoferritin, start: the 24-mer of 4OYN low-passed to 30 Å.
    Annotations nearer than 20 Å to another one mark the same particle twice (133 of 1,428): they are left out, and the
    half sets are whole micrographs. Left in and drawn at random, the same pixels stand in both halves and raise their
    FSC without any signal; ``--leaky`` runs RELION that way beside, to show how much.
    FSC is measured here for all arms by the same code: half maps unmasked and inside the spherical shell 28 to 78 Å
    (soft edges inside it, zero elsewhere), their sum against the 24-mer in that shell. The 24-mer's own transform is
    faint near 22 Å, where all eight micrographs have the first zero of their transfer: the curve dips there.
(c) automatic: from the nine micrographs alone, picks and first map its own; the hand of such a map is not determined,
    so the model is compared in both and the better one shown.
    CPU seconds are those of the whole command, children included.

python benchmarks/refine.py [--parts simulated real automatic] [--relion] [--leaky] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.core import euler_to_matrix
from cryoprism.formats import Volume, read_map, read_particles, write_map, write_particles
from cryoprism.microscope import Solvent, potential_from_atoms
from cryoprism.structure import common_frame, fourier_shell_correlation, low_pass, soft_sphere
from cryoprism.structure._transforms import resample
from cryoprism.structure.reconstruction import split_half_sets
from cryoprism.synthesis import specimen_from_file
from reconstruct import simulate, specimen, timed

DATA = Path(os.environ.get("CRYOPRISM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")).resolve()
PROGRAM = [str(Path(sys.executable).parent / "cryoprism")]
# CTFFIND 5.0.2 on these micrographs (box 512, 30 to 4 Å): defocus 1, defocus 2 [Å], angle [degrees].
CTFFIND = {
    "03.05.02": (20023, 19134, -56.8),
    "03.15.02": (23048, 22013, -57.7),
    "03.43.44": (20693, 19737, -58.1),
    "04.32.27": (17047, 16484, -52.0),
    "04.33.57": (17245, 16752, -39.8),
    "04.36.57": (17889, 17455, -54.1),
    "05.24.39": (16710, 16361, -53.7),
    "05.31.00": (22401, 21997, -59.4),
}
OUR_HALVES = ("half1.mrc", "half2.mrc")
HEAD = "| arm | half maps, unmasked [Å] | in the shell [Å] | to model 0.5 [Å] | 0.3 [Å] | 0.143 [Å] | CPU s |"


def crossing(first: Tensor, second: Tensor, pixel: float, threshold: float, mask: Tensor | None = None) -> str:
    """Resolution [Å] of the first crossing."""
    found = fourier_shell_correlation(first, second, pixel, mask=mask).crossing(threshold).resolution_in_angstroms
    return "none" if found is None else f"{found:.2f}"


def real_row(name: str, half1: Tensor, half2: Tensor, model: Tensor, shell: Tensor, pixel: float, cpu: float) -> None:
    """Print one arm."""
    whole = half1 + half2
    cells = [
        crossing(half1, half2, pixel, 0.143),
        crossing(half1, half2, pixel, 0.143, shell),
        *(crossing(whole, model, pixel, t, shell) for t in (0.5, 0.3, 0.143)),
        f"{cpu:.0f}",
    ]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def shell_of(side: int, pixel: float) -> Tensor:
    """Spherical shell from 28 to 78 Å with soft edges of 6 Å inside it."""
    outer, inner = (
        soft_sphere((side, side, side), pixel, radius, soft_edge_in_angstroms=6.0) for radius in (72.0, 28.0)
    )
    return outer * (1 - inner)


def halves(folder: Path) -> tuple[Tensor, Tensor]:
    return read_map(folder / "half1.mrc").data, read_map(folder / "half2.mrc").data


def relion(
    table: str,
    reference: str,
    symmetry: str,
    diameter: float,
    out: str,
    folder: Path,
    random: bool = False,
    local_order: int = 4,
) -> float:
    """Run RELION's auto-refine with sensible settings; CPU seconds of all its processes.

    The starting maps are not on the images' grey scale, so its first pass goes by correlation (``--firstiter_cc``).
    """
    (folder / out).mkdir(exist_ok=True)
    command = f"""mpirun --allow-run-as-root --oversubscribe -n 3 relion_refine_mpi --o {out}/run --auto_refine
        --split_random_halves --i {table} --ref {reference} --ini_high 30 --dont_combine_weights_via_disc --pool 30
        --pad 2 --ctf --particle_diameter {diameter} --flatten_solvent --zero_mask --oversampling 1 --healpix_order 2
        --auto_local_healpix_order {local_order} --offset_range 5 --offset_step 2 --sym {symmetry}
        --low_resol_join_halves 40 --norm --scale --firstiter_cc --j 1""".split()
    if random:
        command += ["--random_seed", "1"]
    return timed(command, folder)[0]


def annotated_particles(work: Path) -> tuple[int, list[str]]:
    """Write particles.star with half sets of whole micrographs; their number, and how they were extracted."""
    micrographs = work / "micrographs.star"
    rows = "".join(
        f"{DATA}/apoferritin/micrographs/May08_{stem}.mrc 1 {u} {v} {angle}\n"
        for stem, (u, v, angle) in CTFFIND.items()
    )
    micrographs.write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnVoltage #3\n_rlnSphericalAberration #4\n"
        "_rlnAmplitudeContrast #5\n_rlnMicrographPixelSize #6\n_rlnMicrographOriginalPixelSize #7\n"
        "opticsGroup1 1 300.0 2.7 0.07 1.5 1.5\n\n"
        "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n"
        f"_rlnDefocusU #3\n_rlnDefocusV #4\n_rlnDefocusAngle #5\n{rows}",
        encoding="utf-8",
    )
    cut = ["extract", str(micrographs), "--coordinates", str(DATA / "apoferritin" / "coordinates"), "--box", "120"]
    cut += ["--edge", "82.5", "--diameter", "150", "--overwrite"]
    timed([*PROGRAM, *cut, "--out", "Extract"], work)
    particles = read_particles(work / "Extract" / "particles.star")
    particles = dataclasses.replace(particles, half_set=split_half_sets(particles))
    write_particles(work / "particles.star", particles)
    return len(particles), cut


def real(work: Path, leaky: bool) -> None:
    """All arms on the annotated particles."""
    count, cut = annotated_particles(work)
    atoms = specimen_from_file(DATA / "structures" / "4oyn.pdb.gz", assembly="1").model
    assert atoms is not None
    model = potential_from_atoms(atoms, 1.5, shape=(120, 120, 120), center=torch.zeros(3), solvent=Solvent())
    write_map(work / "start.mrc", Volume(low_pass(model, 1.5, 30.0) / 100, 1.5))
    shell = shell_of(120, 1.5)
    print(f"\n### Real: {count} particles of EMPIAR-10146, symmetry O, start 4OYN at 30 Å\n\n{HEAD}")
    print("|---|---|---|---|---|---|---|", flush=True)
    restore = timed(
        [*PROGRAM, "restore", str(DATA / "apoferritin" / "micrographs.star"), "--no-views", "--out", "Restore"], work
    )[0]
    run = ["refine", "particles.star", "--reference", "start.mrc", "--symmetry", "O", "--diameter", "144", "--no-local"]
    for name, extra, more in (
        ("CryoPrism", [], 0.0),
        ("CryoPrism, motion envelopes of restore (its seconds included)", ["--weights", "Restore/weights"], restore),
    ):
        out = "RefineWeighted" if extra else "Refine"
        cpu = timed([*PROGRAM, *run, *extra, "--out", out, "--overwrite"], work)[0]
        real_row(name, *halves(work / out), model, shell, 1.5, cpu + more)
    if shutil.which("relion_refine_mpi") is None:
        print("| RELION: not installed | | | | | | |")
        return
    cpu = relion("particles.star", "start.mrc", "O", 150, "RelionRefine", work)
    got = [read_map(work / "RelionRefine" / f"run_half{h}_class001_unfil.mrc").data for h in (1, 2)]
    real_row("RELION 3.1.3 auto_refine, same half sets", got[0], got[1], model, shell, 1.5, cpu)
    if leaky:
        timed([*PROGRAM, *cut, "--min-distance", "0", "--out", "ExtractAll"], work)
        cpu = relion("ExtractAll/particles.star", "start.mrc", "O", 150, "RelionLeaky", work, random=True)
        got = [read_map(work / "RelionLeaky" / f"run_half{h}_class001_unfil.mrc").data for h in (1, 2)]
        real_row("RELION, duplicates kept, random halves", got[0], got[1], model, shell, 1.5, cpu)


def automatic(work: Path) -> None:
    """From micrographs to a map without any input but symmetry and diameter."""
    command = ["process", str(DATA / "apoferritin" / "micrographs.star"), "--symmetry", "O", "--diameter", "130"]
    cpu = timed([*PROGRAM, *command, "--out", "Process", "--overwrite"], work)[0]
    first = read_map(work / "Process" / "half1.mrc")
    second = read_map(work / "Process" / "half2.mrc")
    pixel, side = first.voxel_size_in_angstroms, first.data.shape[-1]
    count = len(read_particles(work / "Process" / "particles.star"))
    print(f"\n### Automatic: nine micrographs, {count} own picks, ab-initio start\n\n{HEAD}")
    print("|---|---|---|---|---|---|---|")
    atoms = specimen_from_file(DATA / "structures" / "4oyn.pdb.gz", assembly="1").model
    assert atoms is not None
    hands = [atoms, dataclasses.replace(atoms, positions_in_angstroms=-atoms.positions_in_angstroms)]
    shell = shell_of(side, pixel)
    models = [
        potential_from_atoms(hand, pixel, shape=(side, side, side), center=torch.zeros(3), solvent=Solvent())
        for hand in hands
    ]
    whole = first.data + second.data
    model = max(
        models, key=lambda m: float(fourier_shell_correlation(whole, m, pixel, mask=shell).fsc[: side // 4].sum())
    )
    real_row("CryoPrism, from micrographs alone", first.data, second.data, model, shell, pixel, cpu)


def in_frame_of(found: Tensor, true: Tensor, volume: Tensor) -> tuple[Tensor, Tensor]:
    """Errors (n,) [degrees] of poses after one common rotation, and the map in the frame of the truth."""
    errors, common, hand = common_frame(found, true)
    box = int(volume.shape[-1])
    axis = (torch.arange(box) - box // 2).float()
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    # W(r) = V(Gᵀ r), in the order x, y, z.
    points = torch.stack([x, y, z], -1) @ common * hand
    # On twice as fine a grid, where linear interpolation is harmless.
    fine = resample(volume, 2 * box)
    grid = 2 * (points + box // 2) * 2 / (2 * box - 1) - 1
    moved = torch.nn.functional.grid_sample(fine[None, None], grid[None], align_corners=True)[0, 0]
    return errors, moved


def onto(volume: Tensor, truth: Tensor) -> Tensor:
    """Map (box, box, box) moved to where it correlates best with the truth; the origin of an own first map is free."""
    one, two = torch.fft.rfftn(volume), torch.fft.rfftn(truth)
    box = int(volume.shape[-1])
    correlation = torch.fft.irfftn(two * one.conj(), s=truth.shape)
    peak = [int(i) for i in torch.unravel_index(correlation.argmax(), correlation.shape)]
    phase = torch.zeros(one.shape)
    for axis, place in enumerate(peak):
        line = correlation.movedim(axis, 0)[:, peak[(axis + 1) % 3] if axis == 2 else peak[0 if axis else 1]]
        rest = peak[1] if axis == 2 else peak[2]
        low, top, high = (float(line[(place + i) % box, rest]) for i in (-1, 0, 1))
        shift = place + 0.5 * (low - high) / (low - 2 * top + high)
        k = torch.fft.rfftfreq(box) if axis == 2 else torch.fft.fftfreq(box)
        phase = phase - 2 * torch.pi * shift * k.view([-1 if i == axis else 1 for i in range(3)])
    return torch.fft.irfftn(one * torch.polar(torch.ones_like(phase), phase), s=truth.shape)


def simulated(work: Path, count: int, with_relion: bool, local_order: int, seed: int) -> None:
    """C1, 96², SNR 0.05 over the whole image."""
    truth, pixel = specimen("C1", 96)
    simulate(work, truth, pixel, count, 0.05, seed)
    table = read_particles(work / "particles.star")
    true = euler_to_matrix(*table.angles_in_degrees.unbind(-1)).float()  # type: ignore[union-attr]
    write_map(work / "start.mrc", Volume(low_pass(truth, pixel, 30.0), pixel))
    blind = dataclasses.replace(table, angles_in_degrees=None, origins_in_angstroms=None, table=None)
    blind = dataclasses.replace(blind, half_set=split_half_sets(blind))
    write_particles(work / "blind.star", blind)
    support = soft_sphere((96, 96, 96), pixel, 45, soft_edge_in_angstroms=8)
    print(f"\n### Simulated: {count} particles, C1, 96² of {pixel} Å, SNR 0.05\n")
    print("| arm | half maps 0.143 [Å] | to truth 0.5 [Å] | median pose error [°] | CPU s |\n|---|---|---|---|---|")

    def show(
        name: str, out: str, cpu: float, poses: str | None = "particles.star", maps: Sequence[str] = OUR_HALVES
    ) -> None:
        one, two = (read_map(work / out / file).data for file in maps)
        error = "0"
        whole = one + two
        if poses is not None:
            found = read_particles(work / out / poses)
            rotations = euler_to_matrix(*found.angles_in_degrees.unbind(-1)).float()  # type: ignore[union-attr]
            place = {name: i for i, name in enumerate(n.split("@")[0] for n in table.image_names)}
            order = torch.tensor([place[n.split("@")[0]] for n in found.image_names])
            errors, whole = in_frame_of(rotations, true[order], whole)
            whole = onto(whole, truth)
            error = f"{float(errors.median()):.1f}"
        cells = [crossing(one, two, pixel, 0.143, support), crossing(whole, truth, pixel, 0.5, support), error]
        print(f"| {name} | " + " | ".join(cells) + f" | {cpu:.0f} |", flush=True)

    cpu = timed([*PROGRAM, "reconstruct", "particles.star", "--out", "True", "--overwrite"], work)[0]
    show("true poses", "True", cpu, poses=None)
    common = ["--diameter", "90", "--no-local", "--overwrite"]
    cpu = timed([*PROGRAM, "refine", "blind.star", "--reference", "start.mrc", *common, "--out", "Refine"], work)[0]
    show("refinement from 30 Å", "Refine", cpu)
    cpu = timed([*PROGRAM, "initial-model", "blind.star", "--diameter", "90", "--out", "Initial", "--overwrite"], work)[
        0
    ]
    again = ["--reference", "Initial/initial_model.mrc", *common, "--out", "FromInitial"]
    cpu += timed([*PROGRAM, "refine", "blind.star", *again], work)[0]
    show("ab-initio and refinement, brought to the truth's frame and hand", "FromInitial", cpu)
    if with_relion and shutil.which("relion_refine_mpi"):
        cpu = relion("blind.star", "start.mrc", "C1", 90, "Relion", work, local_order=local_order)
        files = [f"run_half{h}_class001_unfil.mrc" for h in (1, 2)]
        local = {3: "7.5°", 4: "3.75°"}[local_order]
        show(f"RELION 3.1.3 auto_refine from 30 Å, local from {local}", "Relion", cpu, "run_data.star", files)
    elif not with_relion:
        print("| RELION 3.1.3 | not run: add --relion | | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["simulated", "real", "automatic"])
    parser.add_argument("--particles", type=int, default=2000)
    parser.add_argument("--relion", action="store_true", help="RELION on the simulated set too")
    parser.add_argument("--relion-local-order", type=int, choices=(3, 4), default=3, help="When RELION looks locally")
    parser.add_argument("--leaky", action="store_true", help="RELION with duplicates in random halves")
    parser.add_argument("--work", type=Path, help="keep all files here")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = (given.work or Path(scratch)).resolve()
        for part in given.parts:
            (work / part).mkdir(parents=True, exist_ok=True)
        if "simulated" in given.parts:
            simulated(work / "simulated", given.particles, given.relion, given.relion_local_order, given.seed)
        if "real" in given.parts:
            real(work / "real", given.leaky)
        if "automatic" in given.parts:
            automatic(work / "automatic")


if __name__ == "__main__":
    main()
