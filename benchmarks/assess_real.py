"""Real particles, their map and its own model judged together, and what wrong models get on the same map and record.

REAL: nine micrographs of apoferritin (EMPIAR-10146) restored, annotated particles extracted, refined in O from the
24-mer of 4OYN low-passed to 30 Å; the model is the chain of 4OYN (octahedral crystal, so it lies in the map's frame),
with ``--symmetry O``. The index holds a dozen structures, with another ferritin (6Z6U) and without it. Wrong models:

- the chain moved by 10 Å along x; turned by 30° about the particle's z;
- its mirror image (x, y swapped): O has mirror images, so it fills the same shell, and its residues are of the wrong
  hand;
- another protein of the same weight (8PGE, β-lactamase) with its centre where that of the chain was.

The record is run again in the sandbox once, for the own model; the others are assessed with ``--no-rerun``.

CRYOPRISM_DATA=... python benchmarks/assess_real.py [--work FOLDER]

With ``--work`` what is finished there is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gemmi
import torch

from cryoprism.formats import Volume, write_map
from cryoprism.microscope import Solvent, potential_from_atoms
from cryoprism.structure import low_pass
from cryoprism.synthesis import specimen_from_file

DATA = Path(os.environ.get("CRYOPRISM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")).resolve()
PROGRAM = [str(Path(sys.executable).parent / "cryoprism")]
KNOWN = ("1oel", "2buk", "8pge", "3dqb", "1gbt", "1u19", "4aui", "5fp2", "4en8", "3bep")
#: The other ferritin.
MATE = "6z6u"
SIDE, PIXEL = 120, 1.5
MIDDLE = SIDE // 2 * PIXEL

Move = Callable[[gemmi.Position], tuple[float, float, float]]


def structure(name: str) -> gemmi.Structure:
    """Read the first file of an entry."""
    (file,) = sorted((DATA / "structures").glob(f"{name}.*.gz"))
    found = gemmi.read_structure(str(file))
    found.setup_entities()
    return found


def write_moved(model: gemmi.Structure, move: Move, path: Path) -> Path:
    """Write a model with its atoms moved, without its crystal."""
    moved = model.clone()
    for atom in (atom for chains in moved for chain in chains for residue in chain for atom in residue):
        atom.pos = gemmi.Position(*move(atom.pos))
    moved.cell, moved.spacegroup_hm = gemmi.UnitCell(), ""
    moved.make_mmcif_document().write_file(str(path))
    return path


def models(work: Path) -> dict[str, Path]:
    """Write the own model and wrong ones, in the frame of the map."""
    own, other = structure("4oyn"), structure("8pge")
    weight = own[0].calculate_center_of_mass()
    shift = [a - b for a, b in zip(weight.tolist(), other[0].calculate_center_of_mass().tolist(), strict=True)]
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))

    def at(move: Move) -> Move:
        return lambda p: tuple(value + MIDDLE for value in move(p))  # type: ignore[return-value]

    moves: dict[str, tuple[gemmi.Structure, Move]] = {
        "own": (own, lambda p: (p.x, p.y, p.z)),
        "moved by 10 Å": (own, lambda p: (p.x + 10, p.y, p.z)),
        "turned by 30°": (own, lambda p: (cos * p.x - sin * p.y, sin * p.x + cos * p.y, p.z)),
        "mirror image": (own, lambda p: (p.y, p.x, p.z)),
        "8PGE in its place": (other, lambda p: (p.x + shift[0], p.y + shift[1], p.z + shift[2])),
    }
    folder = work / "models"
    folder.mkdir(exist_ok=True)
    return {
        name: write_moved(model, at(move), folder / f"{name.replace(' ', '_').replace('°', '')}.cif")
        for name, (model, move) in moves.items()
    }


def call(arguments: Sequence[str], work: Path) -> None:
    """Run a command of the program; what is finished is kept."""
    subprocess.run([*PROGRAM, *arguments, "--only-do-unfinished"], cwd=work, check=True, capture_output=True, text=True)


def record(work: Path) -> None:
    """Micrographs to a map: three jobs, and two indexes of known shapes."""
    atoms = specimen_from_file(DATA / "structures" / "4oyn.pdb.gz", assembly="1").model
    assert atoms is not None
    start = potential_from_atoms(atoms, PIXEL, shape=(SIDE,) * 3, center=torch.zeros(3), solvent=Solvent())
    if not (work / "start.mrc").is_file():
        write_map(work / "start.mrc", Volume(low_pass(start, PIXEL, 30.0) / 100, PIXEL))
    ferritin = DATA / "apoferritin"
    call(["restore", str(ferritin / "micrographs.star"), "--no-views", "--out", "Restore"], work)
    cut = ["--box", str(SIDE), "--edge", "82.5", "--diameter", "150", "--out", "Extract"]
    call(["extract", "Restore/micrographs.star", "--coordinates", str(ferritin / "coordinates"), *cut], work)
    fine = ["--symmetry", "O", "--diameter", "144", "--no-local", "--out", "Refine"]
    call(["refine", "Extract/particles.star", "--reference", "start.mrc", *fine], work)
    for name, entries in (("known", (*KNOWN, MATE)), ("without", KNOWN)):
        files = [str(file) for entry in entries for file in sorted((DATA / "structures").glob(f"{entry}.*.gz"))]
        call(["novelty", "build", *files, "--assembly", "1", "--out", name], work)


def row(name: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    rules = {rule["name"]: rule for rule in found["logic"]["evidence"]["rules"]}
    outside, hand, copies = (
        f"{rules[one]['refuted']} of {rules[one]['obligations']}" for one in ("envelope", "chirality", "copies")
    )
    answers = [
        f"{found[one]['value']:.3f} ± {found[one]['standard_deviation']:.3f}"
        for one in ("logic", "novelty", "reproducibility", "meta")
    ]
    v, score, span = found["v"], found["hyperscore"], found["hyperscore_range"]
    return " | ".join(
        [
            f"| {name}", outside, hand, copies, *answers,
            f"{v['value']:.3f} ({v['lower']:.3f} to {v['upper']:.3f})",
            f"{score['value']:.1f} ({score['lower']:.1f} to {score['upper']:.1f}); {span[0]:.1f} to {span[1]:.1f} |",
        ]
    )  # fmt: skip


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder to work in and to keep")
    asked = parser.parse_args()
    if not (DATA / "apoferritin").is_dir():
        sys.exit(f"{DATA} holds no apoferritin/; set CRYOPRISM_DATA to the folder of the data.")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(asked.work or temporary).resolve()
        work.mkdir(parents=True, exist_ok=True)
        record(work)
        print("| model | outside the map | of wrong hand | overlaps with copies | logic (π) | novelty (∞) | "
              "reproducibility (△) | meta (⋄) | V | HyperScore; with impact anywhere |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
        said = {}
        for index, only in (("known", None), ("without", "own")):
            for name, file in models(work).items():
                if only not in {None, name}:
                    continue
                out = f"Assess_{index}_{file.stem}"
                again = [] if (name, index) == ("own", "known") else ["--no-rerun"]
                given = ["--map", "Refine/map.mrc", "--record", "Refine", "--symmetry", "O", "--index", index]
                call(["assess", str(file), *given, *again, "--out", out], work)
                found = json.loads((work / out / "assessment.json").read_text())
                label = name if index == "known" else f"{name}; no ferritin in the index"
                said[label] = found["verdict"]
                print(row(label, found), flush=True)
        print("\n| model | verdict |\n|---|---|")
        for label, verdict in said.items():
            print(f"| {label} | {verdict} |")


if __name__ == "__main__":
    main()
