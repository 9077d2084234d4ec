"""Negative control of the pickers: how many picks on micrographs without a particle, at every program's own threshold.

    python benchmarks/picking_empty.py [--without-topaz] [--keep FOLDER]

Right is 0. Three kinds, 1200 × 1240 pixels of 1.5 Å, 300 kV:

* SIMULATED ice without a particle (three films of 900, 600 and 300 Å at 0.8, 1.6 and 2.4 µm);
* SIMULATED, the same with four contaminations each and a support film on one;
* REAL powers: every second annotated micrograph of EMPIAR-10146 with random Fourier phases. Every coefficient keeps its
  magnitude, so ice, Thon rings and the power of 170 particles are there, and no particle is.

Settings are those of ``picking.py``: what RELION's and Topaz's best settings were there is used here, RELION's and
Topaz's thresholds are constants. CryoPrism's are chosen from a session's own scores, so two figures are given: a
session of nothing but such micrographs, and one in which they stand among these four real ones (whose picks are not
counted). All get the same CTF: the simulated truth, or CryoPrism's estimate of the real micrograph. The blob and the
template picker draw their own null as the third kind is drawn, with other random numbers; they are at home there.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryoprism.core import generator_for
from cryoprism.formats import Coordinates, read_catalogue, read_coordinates, read_image, write_map, write_mrc
from cryoprism.particles import phase_randomised
from cryoprism.synthesis import Scene, phantom, render_micrograph, specimen_from_phantom
from picking import (
    DIAMETER,
    LOWPASS,
    PEERS,
    PIXEL,
    REACH,
    SHAPE,
    data_folder,
    reference_map,
    relion,
    run,
    topaz_picks,
)

KINDS = ("ice", "dirty ice", "random phases")
FILMS = 3
COPIES = 4
Ctf = tuple[float, float, float]


@dataclass(frozen=True)
class Micrograph:
    """One file, its kind ("real" for those that stand beside) and its CTF: defocus U, V [Å], angle [degrees]."""

    name: str
    kind: str
    ctf: Ctf


def simulated(work: Path) -> list[Micrograph]:
    """Films without particles: clean ones, and ones with contamination and carbon."""
    specimen = specimen_from_phantom(phantom("globule"))
    made = []
    for kind in KINDS[:2]:
        for number in range(FILMS):
            share = number / (FILMS - 1)
            dirty = kind == "dirty ice"
            scene = Scene(
                name=f"{kind.replace(' ', '-')}-{number}",
                seed=number,
                height_in_pixels=SHAPE[0],
                width_in_pixels=SHAPE[1],
                pixel_size_in_angstroms=PIXEL,
                defocus_in_angstroms=8000.0 + 16000.0 * share,
                ice_thickness_in_angstroms=300.0 + 600.0 * (1 - share),
                ice_gradient_in_angstroms_per_micrometer=300.0 * (number % 2),
                jitter_in_angstroms=1.0,
                contamination_count=4 if dirty else 0,
                carbon_fraction=0.25 if dirty and number % 2 else 0.0,
                particle_count=0,
            )
            with torch.no_grad():
                rendered = render_micrograph(scene, specimen)
            write_mrc(work / "mics" / f"{scene.name}.mrc", rendered.counts, pixel_size_in_angstroms=PIXEL)
            half = 0.5 * scene.astigmatism_in_angstroms
            ctf = (scene.defocus_in_angstroms + half, scene.defocus_in_angstroms - half, 30.0)
            made.append(Micrograph(scene.name, kind, ctf))
    return made


def real(work: Path) -> list[Micrograph]:
    """Write real micrographs, and copies of them with random phases; CTF by CryoPrism."""
    source = data_folder() / "apoferritin"
    names = sorted(file.stem for file in (source / "coordinates").glob("*.star"))[::2][:COPIES]
    for name in names:
        shutil.copy(source / "micrographs" / f"{name}.mrc", work / "mics" / f"{name}.mrc")
    _table(work / "bare.star", [Micrograph(name, "real", (0.0, 0.0, 0.0)) for name in names], with_ctf=False)
    pick(work, "blob", "bare.star", "estimate")
    made = []
    shutil.copy(work / "estimate" / "micrographs.star", work / "estimated.star")  # where its names are right
    for record in read_catalogue(str(work / "estimated.star")):
        if record.ctf is None:
            raise RuntimeError(f"{record.name}: no CTF was found")
        ctf = (
            record.ctf.defocus_u_in_angstroms,
            record.ctf.defocus_v_in_angstroms,
            record.ctf.defocus_angle_in_degrees,
        )
        made.append(Micrograph(record.name, "real", ctf))
        image = read_image(work / "mics" / f"{record.name}.mrc").data.float()
        mean = image.mean()
        noise = phase_randomised(image - mean, generator_for(1, "negative control", record.name)) + mean
        write_mrc(work / "mics" / f"random-{record.name}.mrc", noise, pixel_size_in_angstroms=PIXEL)
        made.append(Micrograph(f"random-{record.name}", "random phases", ctf))
    return made


def _table(path: Path, micrographs: Sequence[Micrograph], *, with_ctf: bool = True) -> None:
    labels = ["rlnMicrographName", "rlnOpticsGroup"]
    labels += ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"] if with_ctf else []
    rows = "".join(
        f"mics/{m.name}.mrc 1" + (" {:.2f} {:.2f} {:.2f}".format(*m.ctf) if with_ctf else "") + "\n"
        for m in micrographs
    )
    header = "".join(f"_{label} #{number}\n" for number, label in enumerate(labels, 1))
    optics = (
        "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnVoltage #3\n"
        "_rlnSphericalAberration #4\n_rlnAmplitudeContrast #5\n_rlnMicrographPixelSize #6\n"
        "opticsGroup1 1 300.0 2.7 0.07 1.5\n\n\n"
    )
    path.write_text(optics + "data_micrographs\n\nloop_\n" + header + rows, encoding="utf-8")


def pick(work: Path, method: str, table: str, out: str, *options: object) -> dict[str, int]:
    """Run ``cryoprism pick`` with its own threshold; return the picks of each micrograph."""
    command = [sys.executable, "-c", "from cryoprism.cli._main import main; main()", "pick", table]
    command += ["--method", method, "--diameter", DIAMETER, "--no-pictures", "--out", work / out, *options]
    run(command, work)
    return {file.stem: len(read_coordinates(file).xy_in_pixels) for file in (work / out / "coordinates").glob("*.star")}


def at_threshold(picks: dict[str, Coordinates], threshold: float) -> dict[str, int]:
    """Count what reaches a constant threshold."""
    return {n: 0 if p.score is None else int((p.score >= threshold).sum()) for n, p in picks.items()}


def peers(work: Path, args: argparse.Namespace) -> dict[str, dict[str, int] | str]:
    """Return counts of RELION's and Topaz's pickers by micrograph."""
    found: dict[str, dict[str, int] | str] = {}
    if shutil.which("relion_autopick"):
        log = ["--LoG", "--LoG_diam_min", 110, "--LoG_diam_max", 150, "--shrink", 0, "--lowpass", LOWPASS]
        default, _ = relion(work, "relion-log", *log)
        found["RELION 3.1 LoG"] = {name: len(picks.xy_in_pixels) for name, picks in default.items()}
        reference = reference_map()
        write_map(
            work / "relion-reference.mrc",
            type(reference)(reference.data * (1.4 / float(reference.data.sum(0).max())), PIXEL),
        )
        options = ["--ref", "relion-reference.mrc", "--angpix_ref", PIXEL, "--sym", "O", "--healpix_order", 1]
        options += ["--ang", 15, "--ctf", "--invert", "--lowpass", LOWPASS, "--particle_diameter", 150, "--shrink", 0]
        options += ["--min_distance", REACH, "--threshold", 0.25]
        picks, _ = relion(work, "relion-template", *options)
        found["RELION 3.1 template"] = at_threshold(picks, 0.25)
    else:
        found["RELION 3.1 LoG"] = found["RELION 3.1 template"] = "absent: relion_autopick is not on the PATH"
    if args.without_topaz or not (PEERS / "topaz").exists():
        found["Topaz resnet16"] = "left out" if args.without_topaz else "absent: no environment under .peers/"
    else:
        try:  # with the real micrographs, so that no pick at all means that it does not work
            picks, _ = topaz_picks(work, sorted((work / "mics").glob("*.mrc")), 4)
            found["Topaz resnet16"] = at_threshold(picks, 0.0)
        except RuntimeError as error:
            found["Topaz resnet16"] = f"failed: {str(error)[-200:]}"
    return found


def cells(counts: dict[str, int], micrographs: Sequence[Micrograph]) -> list[str]:
    """Mean and largest count of each kind; a program that writes nothing for a micrograph picked nothing."""
    words = []
    for kind in KINDS:
        each = [counts.get(m.name, 0) for m in micrographs if m.kind == kind]
        words.append(f"{np.mean(each):.1f} (most {max(each)})")
    return words


def compare(work: Path, args: argparse.Namespace) -> None:
    """Make the micrographs, run everything, print the table."""
    (work / "mics").mkdir()
    micrographs = simulated(work) + real(work)
    empty = [m for m in micrographs if m.kind != "real"]
    _table(work / "relion.star", empty)
    _table(work / "mixed.star", micrographs)
    for kind in KINDS:
        _table(work / f"{kind.replace(' ', '-')}.star", [m for m in empty if m.kind == kind])
    write_map(work / "reference.mrc", reference_map())
    template = ("--reference", work / "reference.mrc", "--symmetry", "O", "--initial-lowpass", LOWPASS)
    print("picks per micrograph without a particle: mean (most)\n")
    print("| picker | session | " + " | ".join(KINDS) + " |")
    print("|---|---|" + "---|" * len(KINDS))
    for method, options in (("blob", ()), ("template", template), ("learned", ())):
        alone: dict[str, int] = {}
        for kind in KINDS:
            word = kind.replace(" ", "-")
            alone |= pick(work, method, f"{word}.star", f"{method}-{word}", *options)
        print(f"| CryoPrism {method} | of its kind | " + " | ".join(cells(alone, empty)) + " |", flush=True)
        mixed = pick(work, method, "mixed.star", f"{method}-mixed", *options)
        print(f"| CryoPrism {method} | among real ones | " + " | ".join(cells(mixed, empty)) + " |", flush=True)
    for name, counts in peers(work, args).items():
        line = [counts] if isinstance(counts, str) else cells(counts, empty)
        print(f"| {name} | | " + " | ".join(line) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-topaz", action="store_true")
    parser.add_argument("--keep", type=Path, help="New folder in which everything is kept.")
    args = parser.parse_args()
    if not (data_folder() / "apoferritin").is_dir():
        sys.exit(f"{data_folder()} holds no apoferritin/; set CRYOPRISM_DATA to the folder of the data.")
    if args.keep is not None:
        args.keep.mkdir(parents=True)
        compare(args.keep.resolve(), args)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), args)


if __name__ == "__main__":
    main()
