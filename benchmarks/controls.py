"""Negative controls of refinement: what comes out when nothing, or something else, should.

(a) noise: images of white noise, refined from a map.
(b) real particles (annotated apoferritin of EMPIAR-10146, scaled to 3 Å) refined from GroEL, in O as apoferritin is and
    in C1; one arm from apoferritin itself for comparison.
(c) simulated particles of a phantom refined from another fold of the same size, and from the right one.

Every reference is low-passed to 30 Å. What the reference holds beyond that must not come back: the table gives the mean
correlation of the map with the whole reference between 20 and 8 Å, and how far chance alone goes (three standard
deviations, for as many independent coefficients as the band and the symmetry leave). Averages over the sphere are taken
off both in O, where hollow or not is all that many shells hold. Half maps: first crossing of 0.143 without a mask;
beside it what ``refine`` says of itself. The truth: first crossing of 0.5, simulated maps in the truth's frame, real
ones in the better hand, inside the shell of benchmarks/refine.py; a map of real particles in C1 has a frame of its own.

python benchmarks/controls.py [--parts noise real simulated] [--particles 600] [--relion] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.core import euler_to_matrix, generator_for, point_group_matrices
from cryoprism.formats import Volume, read_map, read_particles, write_map, write_particles, write_stack
from cryoprism.microscope import AtomicModel, Solvent, potential_from_atoms
from cryoprism.structure import fourier_shell_correlation, low_pass, shell_sums, spherical_average, split_half_sets
from cryoprism.synthesis import specimen_from_file
from cryoprism.synthesis.phantom import phantom
from reconstruct import simulate, timed
from refine import DATA, PROGRAM, annotated_particles, crossing, in_frame_of, onto, relion, shell_of

LOW_PASS = 30.0
BAND = (20.0, 8.0)
HEAD = (
    "| particles | reference | halves 0.143 [Å] | its own verdict | map to the whole reference, 20 to 8 Å (chance) | "
    "to the truth 0.5 [Å] | CPU s |\n|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Arm:
    """One refinement: names of particles and reference, both at full detail, and where the truth is known, it."""

    particles: str
    reference: str
    whole: Tensor
    pixel: float
    symmetry: str = "C1"


def memory_of(arm: Arm, volume: Tensor) -> str:
    """Mean correlation with the whole reference beyond its low-pass, and the limit of chance."""
    reference = symmetrised(arm.whole, arm.symmetry)
    if arm.symmetry != "C1":
        volume, reference = volume - spherical_average(volume), reference - spherical_average(reference)
    curve = fourier_shell_correlation(volume, reference, arm.pixel)
    used = (curve.frequency > 1 / BAND[0]) & (curve.frequency < 1 / BAND[1])
    count = shell_sums(None, (volume.shape[0], volume.shape[1], volume.shape[2]))[used]
    # A particle of half the box's width leaves an eighth of the coefficients independent.
    independent = count / 8 / len(point_group_matrices(arm.symmetry))
    chance = 3 * math.sqrt(float((1 / independent).sum())) / len(count)
    return f"{float(curve.fsc[used].mean()):.3f} ({chance:.3f})"


def symmetrised(volume: Tensor, symmetry: str) -> Tensor:
    """Mean over the copies of a point group, as a refinement in it sees a map."""
    box = int(volume.shape[-1])
    axis = (torch.arange(box) - box // 2).float()
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], -1)
    total = torch.zeros_like(volume)
    for turn in point_group_matrices(symmetry).float():
        grid = 2 * (points @ turn + box // 2) / (box - 1) - 1
        total += torch.nn.functional.grid_sample(volume[None, None], grid[None], align_corners=True)[0, 0]
    return total / len(point_group_matrices(symmetry))


def refined(work: Path, arm: Arm, table: str, diameter: float, passes: int, out: str, *more: str) -> float:
    """Refine from the reference low-passed; CPU seconds."""
    write_map(work / f"{out}.mrc", Volume(low_pass(arm.whole, arm.pixel, LOW_PASS), arm.pixel))
    command = [*PROGRAM, "refine", table, "--reference", f"{out}.mrc", "--symmetry", arm.symmetry, "--no-local"]
    command += ["--diameter", str(diameter), "--initial-lowpass", str(LOW_PASS), "--iterations", str(passes), *more]
    return timed([*command, "--out", out, "--overwrite"], work)[0]


def show(arm: Arm, half1: Tensor, half2: Tensor, verdict: str, truth: str, cpu: float) -> None:
    """Print one row."""
    cells = [arm.particles, arm.reference, crossing(half1, half2, arm.pixel, 0.143), verdict]
    cells += [memory_of(arm, half1 + half2), truth, f"{cpu:.0f}"]
    print("| " + " | ".join(cells) + " |", flush=True)


def verdict_of(folder: Path) -> str:
    """Resolution that the job claims, and whether it warns of it."""
    document = json.loads((folder / "resolution.json").read_text(encoding="utf-8"))
    claimed = document["resolution_in_angstroms"]["corrected"]
    words = "none" if claimed is None else f"{claimed:.1f} Å"
    warned = any("Take no resolution" in text or "too few" in text for text in document["warnings"])
    return words + (", warns" if warned else "")


def halves(folder: Path) -> tuple[Tensor, Tensor]:
    return read_map(folder / "half1.mrc").data, read_map(folder / "half2.mrc").data


def globule(seed: int, box: int) -> tuple[Tensor, float]:
    """Potential of a fold of the phantom, and its voxel size [Å]."""
    built = phantom("globule", seed)
    model = AtomicModel(
        torch.from_numpy(built.positions_in_angstroms).float(), torch.from_numpy(built.atomic_numbers), 20.0
    )
    pixel = round(110.0 / box, 3)
    return potential_from_atoms(model, pixel, shape=(box, box, box), center=False), pixel


def blind(work: Path) -> None:
    """Write a table of the simulated particles that tells no poses."""
    table = read_particles(work / "particles.star")
    table = dataclasses.replace(table, angles_in_degrees=None, origins_in_angstroms=None, table=None)
    write_particles(work / "blind.star", dataclasses.replace(table, half_set=split_half_sets(table)))


def noise(work: Path, count: int, passes: int, with_relion: bool, seed: int) -> None:
    """White noise from a phantom."""
    whole, pixel = globule(0, 64)
    simulate(work, whole, pixel, count, 1.0, seed)
    images = torch.randn(count, 64, 64, generator=generator_for(seed, "controls"))
    write_stack(work / "particles.mrcs", images, pixel)
    blind(work)
    arm = Arm(f"white noise, {count}", "phantom", whole, pixel)
    cpu = refined(work, arm, "blind.star", 90, passes, "Noise")
    show(arm, *halves(work / "Noise"), verdict_of(work / "Noise"), "there is none", cpu)
    if with_relion and shutil.which("relion_refine_mpi"):
        cpu = relion("blind.star", "Noise.mrc", "C1", 90, "Relion", work, random=False)
        one, two = (read_map(work / "Relion" / f"run_half{h}_class001_unfil.mrc").data for h in (1, 2))
        show(dataclasses.replace(arm, reference="phantom, RELION 3.1.3"), one, two, "", "there is none", cpu)


def real(work: Path, passes: int) -> None:
    """Apoferritin from GroEL."""
    annotated_particles(work)
    box, pixel = 60, 3.0
    shape = (box, box, box)
    known = {}
    for name, file in (("GroEL", "1oel"), ("apoferritin", "4oyn")):
        atoms = specimen_from_file(DATA / "structures" / f"{file}.pdb.gz", assembly="1").model
        assert atoms is not None
        centre = atoms.positions_in_angstroms.mean(0)
        atoms = dataclasses.replace(atoms, positions_in_angstroms=atoms.positions_in_angstroms - centre)
        known[name] = potential_from_atoms(atoms, pixel, shape=shape, center=torch.zeros(3), solvent=Solvent())
    truth, shell = known["apoferritin"], shell_of(box, pixel)
    for name, symmetry in (("GroEL", "O"), ("GroEL", "C1"), ("apoferritin", "O")):
        arm = Arm("apoferritin, 1,107", f"{name}, {symmetry}", known[name], pixel, symmetry)
        out = f"{name}{symmetry}"
        cpu = refined(work, arm, "particles.star", 144, passes, out, "--scale", str(box))
        one, two = halves(work / out)
        near = "its frame is free"
        if symmetry == "O":
            mirrored = truth.flip(-1).roll(1, -1)
            found = [fourier_shell_correlation(one + two, t, pixel, mask=shell) for t in (truth, mirrored)]
            best = max(found, key=lambda curve: float(curve.fsc[1:20].sum())).crossing(0.5).resolution_in_angstroms
            near = "none" if best is None else f"{best:.1f}"
        show(arm, one, two, verdict_of(work / out), near, cpu)


def simulated(work: Path, count: int, passes: int, seed: int) -> None:
    """Particles of one fold from another."""
    truth, pixel = globule(0, 64)
    simulate(work, truth, pixel, count, 0.05, seed)
    told = read_particles(work / "particles.star")
    assert told.angles_in_degrees is not None
    true = euler_to_matrix(*told.angles_in_degrees.unbind(-1)).float()
    place = {name.split("@")[0]: i for i, name in enumerate(told.image_names)}
    blind(work)
    for name, fold in (("another fold", 1), ("the right one", 0)):
        arm = Arm(f"phantom, {count}, SNR 0.05", name, globule(fold, 64)[0], pixel)
        out = f"Fold{fold}"
        cpu = refined(work, arm, "blind.star", 90, passes, out)
        one, two = halves(work / out)
        found = read_particles(work / out / "particles.star")
        assert found.angles_in_degrees is not None
        poses = euler_to_matrix(*found.angles_in_degrees.unbind(-1)).float()
        order = torch.tensor([place[n.split("@")[0]] for n in found.image_names])
        errors, moved = in_frame_of(poses, true[order], one + two)
        near = f"{crossing(onto(moved, truth), truth, pixel, 0.5)}, poses {float(errors.median()):.0f}° off"
        show(arm, one, two, verdict_of(work / out), near, cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["noise", "real", "simulated"])
    parser.add_argument("--particles", type=int, default=600)
    parser.add_argument("--passes", type=int, default=6, help="of a refinement, at most")
    parser.add_argument("--relion", action="store_true", help="RELION on the noise too")
    parser.add_argument("--work", type=Path, help="keep all files here")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = (given.work or Path(scratch)).resolve()
        for part in given.parts:
            (work / part).mkdir(parents=True, exist_ok=True)
        if "noise" in given.parts:
            noise(work / "noise", given.particles, given.passes, given.relion, given.seed)
        if "simulated" in given.parts:
            simulated(work / "simulated", given.particles, given.passes, given.seed)
        if "real" in given.parts:
            real(work / "real", given.passes)


if __name__ == "__main__":
    main()
