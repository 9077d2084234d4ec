"""The folder that lets anyone check the proofs again: sources, data in readable form, transcript, one command."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ._coq import LIBRARY, library_sources
from ._model import Model

__all__ = ["TRUSTED", "atoms_table", "write_certificate"]

#: What a reader has to believe beside the proofs.
TRUSTED = (
    "the kernel of Coq with its virtual machine and machine integers (Assumptions.v lists their axioms)",
    "gemmi as the reader of the model file: atoms.csv shows what it read, check_data.py compares it with Data.v",
    "which bonds there are: templates of standard residues, records of the file, distances within other residues (an "
    "overlap inside a residue without template is not seen)",
    "the limits: least distances of Copies.v, ranges of bonds, chains and volumes in the sources of each rule",
    "the symmetry operations, from gemmi or the options, as written in Copies_of_model.v; copies whose bounding boxes "
    "stay 4.7 Å away are left out, and of an operation and its inverse one is listed",
    "which voxels of the map belong to its envelope (contour, distance)",
    "handedness and cis peptides are about coordinates rounded to 0.001 Å where the file has more digits",
    "which chains and residues belong together, and the declared sequence, as gemmi aligns it",
)

_CHECK = """#!/bin/sh
# Check every theorem again with Coq (8.16 or later), and the packed data against atoms.csv.
set -e
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if command -v python3 >/dev/null; then python3 check_data.py; else echo "No python3: data not compared"; fi
if grep -lE '(Admitted|admit|Axiom|Parameter|Conjecture|Hypothesis|Redirect|Declare|Load)' model/*.v; then
  echo "The files above take something for granted or command Coq: not accepted." >&2
  exit 1
fi
cp -r library model "$work"
ulimit -s 1000000 2>/dev/null || true
cd "$work/library"
for file in {library}; do echo "$file"; coqc -q -Q . CryoPrism "$file.v"; done
cd "$work/model"
for file in {files}; do echo "$file"; coqc -q -Q ../library CryoPrism -Q . Model "$file.v"; done
echo "All theorems were accepted."
"""

_CHECK_DATA = '''"""Compare the machine integers of Data.v with atoms.csv and, with gemmi, with a model file."""

import csv
import pathlib
import re
import sys

here = pathlib.Path(__file__).resolve().parent
text = (here / "model" / "Data.v").read_text(encoding="utf-8")
corner = [int(n) for n in re.search(r"from \\(([^)]*)\\)", text).group(1).split(",")]
words = [int(n) for part in re.findall(r"list int := \\(([0-9:]+)::nil\\)", text) for n in part.split("::")]
rows = list(csv.DictReader((here / "atoms.csv").open(encoding="utf-8")))
if len(words) != 2 * len(rows):
    sys.exit(f"Data.v holds {len(words) // 2} atoms, atoms.csv {len(rows)}")
for number, row in enumerate(rows):
    word, more = words[2 * number], words[2 * number + 1]
    place = [(word >> 42) + corner[0], (word >> 21) % 2**21 + corner[1], word % 2**21 + corner[2]]
    held = [more >> 32, (more >> 24) & 255, (more >> 16) & 255, more & 65535]
    wanted = [int(row[name]) for name in ("x", "y", "z")]
    known = [int(row[name]) for name in ("residue_index", "kind", "alternative", "occupancy")]
    if place != wanted or held != known:
        sys.exit(f"atom {number}: Data.v has {place} {held}, atoms.csv {wanted} {known}")
print(f"Data.v and atoms.csv agree on {len(rows)} atoms.")
if len(sys.argv) > 1:
    import gemmi

    structure = gemmi.read_structure(sys.argv[1])
    atoms = [site.atom for site in structure[0].all()]
    if len(atoms) != len(rows):
        sys.exit(f"{sys.argv[1]} has {len(atoms)} atoms, atoms.csv {len(rows)}")
    for number, (row, atom) in enumerate(zip(rows, atoms)):
        wanted = [round(1000 * value) for value in (atom.pos.x, atom.pos.y, atom.pos.z)]
        if atom.name != row["atom"] or any(abs(int(row[n]) - w) > 1 for n, w in zip("xyz", wanted)):
            sys.exit(f"atom {number} ({atom.name}): {sys.argv[1]} has {wanted}, atoms.csv {row}")
    print(f"atoms.csv and {sys.argv[1]} agree.")
'''


def atoms_table(model: Model) -> str:
    """Return atoms.csv: every atom with its name and its coordinates in 0.001 Å."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(
        ("number", "chain", "residue", "residue_number", "atom", "x", "y", "z", "residue_index", "kind", "alternative",
         "occupancy")
    )  # fmt: skip
    places = model.points + model.corner
    for number, name in enumerate(model.names):
        residue = model.residues[int(model.residue_of[number])]
        named = (number, residue.chain, residue.name, f"{residue.number}{residue.insertion}", name)
        held = (model.residue_of, model.kinds, model.alternatives, model.occupancies)
        rows.writerow((*named, *places[number].tolist(), *(one[number] for one in held)))
    return table.getvalue()


def write_certificate(folder: Path, model: Model, sources: dict[str, str], transcript: str, lean: str) -> None:
    """Write the folder; ``sources`` are Data.v and the file of each rule."""
    for part in ("library", "model"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    files = {f"library/{name}": text for name, text in library_sources().items()}
    files |= {f"model/{name}.v": text for name, text in sources.items()}
    files["atoms.csv"] = atoms_table(model)
    files["check_data.py"] = _CHECK_DATA
    files["check.sh"] = _CHECK.replace("{library}", " ".join(LIBRARY)).replace("{files}", " ".join(sources))
    files["Makefile"] = "check:\n\tsh check.sh\n.PHONY: check\n"
    files["transcript.txt"] = transcript
    files["Obligations.lean"] = lean
    trusted = "\n".join(f"- {text}" for text in TRUSTED)
    files["README.md"] = (
        f"# Certificate of {model.path.name}\n\n`make` (or `sh check.sh`) checks every theorem again with Coq; "
        "`python3 check_data.py MODEL` compares the data with the model file (with gemmi).\n\n"
        "In model/, each rule has its data, its theorem, and the list `found` of obligations that fail: the theorem "
        "says that the list is complete and right. library/ holds what is proved once; its Margins.v proves how far "
        "rounding may move a distance. "
        f"transcript.txt is what Coq said.\n\nTrusted beside the proofs:\n\n{trusted}\n"
    )
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
