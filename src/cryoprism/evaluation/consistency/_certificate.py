"""The folder that lets anyone check the proofs again: sources, data in readable form, transcript, one command."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ._cases import RULES, WEIGHTS
from ._chemistry import ACCEPTORS, METALS
from ._coq import LIBRARY, library_sources
from ._emit import HEADER
from ._lean import LEAN_COVERS
from ._model import Model
from ._names import IONS, VIRTUAL, WATERS
from ._sentences import REMARKS, pattern_of

__all__ = ["NOT_ASKED", "TRUSTED", "atoms_table", "certificate_files", "sha256", "write_certificate"]

#: Why a rule may have no obligations. All others are asked of every model.
NOT_ASKED = {
    "bonds": "The model has no bond.",
    "chains": "No chain has two Cα or P that follow one another.",
    "scale": "No chain has a backbone of nine residues at about the lengths of bonds.",
    "chirality": "No residue has a centre whose hand its name tells.",
    "cis_peptides": "There is no peptide bond before anything but proline.",
    "copies": "No symmetry was given or recorded, or no copy comes near.",
    "envelope": "No map was given.",
    "placement": "No map was given, or it looks like noise, or the model has no polymer.",
    "numbering": "No chain has two residues that could be compared, nor a declared sequence.",
    "ligands": "The model has no ligand.",
}
#: What a reader has to believe beside the proofs.
TRUSTED = (
    "the kernel of Coq with its virtual machine and machine integers (Assumptions.v lists their axioms), and check.sh",
    "gemmi as the reader of the model file: atoms.csv shows what it read, check_data.py compares it with Data.v and, "
    "given the model, with the file whose SHA-256 is model_sha256",
    "that the lists of obligations are all that the rules ask of this model, and the operations all its copies: "
    "check.sh checks what is proved about the lists, not whether they are whole, nor why a rule is not_asked",
    "which bonds there are: templates of standard residues, records of the file at lengths that their elements allow "
    "(LINK, SSBOND, struct_conn, CONECT between residues; none of water but to metals), disulfides, sugars, the bond "
    "that closes a chain; within other residues atoms as near as bonds are: two that overlap there are seen below "
    "0.9 Å, or by too many bonds",
    "names: which template a residue has (force fields' names count as the standard ones), which hand it has where "
    "gemmi's table tells it, which atoms and elements belong to a template, which atom bears a hydrogen, "
    "which atoms and hands ligands, sugars, ions and modified residues have (tables of the commonest); sites of waters "
    "that are no atoms (M, lone pairs within 1 Å of O) are left out, ions of force fields have the elements of their "
    "names; and, counted by Python, what leads to a chain, which alternatives meet at one place, how many bonds an "
    "atom has, which atoms are more than a name's formula has, and which gaps and splices of chains are unknown",
    "the limits: least distances of Copies.v, scales of Scale.v, ranges of bonds, chains and volumes, and ideal "
    "lengths, in the sources of each rule; which bonds of a chain are so far off that its scale is told without them",
    "alternative locations: atoms of different letters are not held against each other, nor asked for bonds, where "
    "their occupancies add to no more than 1.01 (the note of each rule counts the pairs); letters are taken as the "
    "file has them; without letters, atoms whose occupancies add to no more than 1.01, and those of one placeholder "
    "(UNL, UNX), are unknown where they are too near: the theorem of what is sure leaves them out",
    "the symmetry operations and the chains they move, from gemmi or the options, as written in Copies_of_model.v; "
    "copies that stay 4.7 Å away by bounding boxes (of all atoms, or of those in each other's box) are left out, of "
    "an operation and its inverse one is listed, what moves nothing by 0.05 Å is the identity, a particle on an "
    "element of its crystal's symmetry is taken as its own copy",
    "an atom nearer than 0.5 Å to its own copy lies on a symmetry element and is not held against it; recorded bonds "
    "to copies may be as short as bonds are, for the operator that the record states",
    "what is not there is not asked about: side chains and Cβ that are not built (a note counts them), residues that "
    "the file does not declare or declares as missing, chains that are traces of Cα or P, chains that skip numbers, "
    "beyond the length of a stretched chain",
    "which voxels of the map belong to its envelope (contour, distance), and whether it looks like noise; "
    "hydrogens and waters are not asked; and the map's density at the backbone, here and where it was moved or scaled "
    "to",
    "handedness and cis peptides are about coordinates rounded to 0.001 Å where the file has more digits; for "
    "distances the sum of margins, and the rounding of rotations to 2^-30, is reckoned by hand",
    "which chains and residues belong together, by letters, bonds and numbers, in PDB files by TER, segments and atoms "
    "of ends as well; which residues are ligands; and the declared sequence, as gemmi aligns it",
)


def atoms_table(model: Model) -> str:
    """Return atoms.csv: every atom with its name and its coordinates in 0.001 Å."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(
        ("number", "chain", "residue", "residue_number", "atom", "element", "x", "y", "z", "residue_index", "kind",
         "alternative", "occupancy")
    )  # fmt: skip
    places = model.points + model.corner
    for number, name in enumerate(model.written):
        residue = model.residues[int(model.residue_of[number])]
        place = f"{residue.number}{residue.insertion}"
        named = (number, residue.chain, residue.name, place, name, model.elements[number])
        held = (model.residue_of, model.kinds, model.alternatives, model.occupancies)
        rows.writerow((*named, *places[number].tolist(), *(one[number] for one in held)))
    return table.getvalue()


def certificate_files(model: Model, sources: Mapping[str, str], transcript: str, lean: str) -> dict[str, str]:
    """Return what is in the folder, but ``consistency.json``, by the paths in it.

    Parameters
    ----------
    sources
        Data.v and the file of each rule, by name without suffix.
    transcript, lean
        What Coq said, and the Lean source.
    """
    library = library_sources()
    sums = "\n".join(f"{name.removesuffix('.v')}={sha256(text)}" for name, text in library.items())
    folder = resources.files(__package__).joinpath("coq")
    check, check_data = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("check.sh", "check_data.py"))
    ions = [f"{name}={element}" for name, element in IONS.items()]
    lists = {"METALS": METALS, "ACCEPTORS": ACCEPTORS, "WATERS": WATERS, "VIRTUAL": VIRTUAL, "IONS": ions}
    for name, kinds in lists.items():
        check_data = check_data.replace(f"@{name}@", " ".join(sorted(kinds)))
    readme = _readme()
    filled = {
        "LIBRARY": " ".join(LIBRARY),
        "SUMS": sums,
        "CHECK_DATA": sha256(check_data),
        "RULES": ";".join(f"{name}={json.dumps(WEIGHTS[name])}={what}={unit}" for name, (what, unit) in RULES.items()),
        "NOT_ASKED": ";".join(f"{name}={why}" for name, why in NOT_ASKED.items()),
        "REMARKS": "|".join(pattern_of(remark) for remark in REMARKS.values()),
        "TRUSTED": sha256(",".join(json.dumps(text, ensure_ascii=False) for text in TRUSTED) + "\n"),
        "README": sha256(readme),
        "MAKEFILE": sha256(_MAKEFILE),
        "HEADER": HEADER.removesuffix("\n"),
    }
    for name, text in filled.items():
        check = check.replace(f"@{name}@", text)
    files = {f"library/{name}": text for name, text in library.items()}
    files |= {f"model/{name}.v": text for name, text in sources.items()}
    files["atoms.csv"] = atoms_table(model)
    files["check_data.py"] = check_data
    files["check.sh"] = check
    files["Makefile"] = _MAKEFILE
    files["transcript.txt"] = transcript
    files["Obligations.lean"] = lean
    files["README.md"] = readme
    return files


_MAKEFILE = "check:\n\tsh check.sh\n.PHONY: check\n"


def _readme() -> str:
    """README.md, the same in every certificate of a version: check.sh knows its checksum."""
    trusted = "\n".join(f"- {text}" for text in TRUSTED)
    return (
        "# Certificate of consistency\n\n"
        "`sh check.sh MODEL` checks everything again; it needs coqc (Coq 8.16 or later) and no more. MODEL is the file "
        "that consistency.json names; without it (or with `make`) all else is checked. It refuses files that are not "
        "those consistency.json was written with, other files in this folder, theorems that rest on anything but Coq's "
        "machine integers, theorems that state something else than their rule (library/Claims.v), atoms that are not "
        "the packed ones, rules of which nothing is said, and a consistency.json in another form, or whose counts, "
        "atoms, score, deviation or sentences do not follow from the theorems. It ends with what it does not compare. "
        "Where python3 has gemmi it compares the data with MODEL; elsewhere `python3 -I check_data.py MODEL` does.\n\n"
        "In model/, each rule has its data, its theorem, and the list `found` of obligations that fail: the theorem "
        "says that the list is complete and right. library/ holds what is proved once; its Margins.v proves how far "
        "rounding may move a distance. transcript.txt is what Coq said; consistency.json says how it was kept apart "
        "(`sandbox`).\n\n"
        f"Obligations.lean is a second form of the same obligations. {LEAN_COVERS}\n\n"
        f"Trusted beside the proofs:\n\n{trusted}\n"
    )


def sha256(text: str) -> str:
    """Return the checksum of a file with this text."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_certificate(folder: Path, files: Mapping[str, str], consistency: Mapping[str, Any]) -> None:
    """Write the folder: ``files`` and ``consistency.json``, which holds their checksums."""
    content = json.dumps(consistency, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for name, text in {**files, "consistency.json": content}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
