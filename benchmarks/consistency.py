"""Are models consistent, and are planted faults found? Obligations, verdicts, seconds and memory of Coq's checks.

Over the structures of data/structures (panel.tsv), smallest first: obligations, proved, refuted, unknown, CPU seconds
(everything: reading, witnesses, every run of Coq) and memory of each; agreement with gemmi's own contact search and
with its dihedral angles. Into clean structures 20 faults of each kind are planted at once
(clash, broken chain, mirrored residue, overlapping symmetry copy, atom outside the map): each has to be refuted, with
its own residue named, and every residue that no fault touches has to stay proved.

    python benchmarks/consistency.py --structures ../shared/data/structures --parts faults panel --seconds 1500

Simulated: the maps (sums of Gaussians at the atoms). Real: the structures.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import tempfile
import time
from pathlib import Path

import gemmi
import numpy as np
import torch

from cryoprism.evaluation.consistency import Consistency, check_consistency, find_copies, read_model
from cryoprism.formats import Volume

CLEAN = "3dqb.pdb.gz"
FAULTS = ("clash", "broken chain", "mirrored residue", "overlapping copy", "atom outside the map")
RULE = dict(zip(FAULTS, ("clashes", "chains", "chirality", "copies", "envelope"), strict=True))
COUNT = 20


def synthetic_map(path: Path) -> Volume:
    """Sum of Gaussians of 1.5 Å at the atoms of a structure, in voxels of 1.5 Å with 12 Å around."""
    model = read_model(path)
    places = (model.points + model.corner) / 1000
    low = places.min(axis=0) - 12
    shape = np.ceil((places.max(axis=0) + 12 - low) / 1.5).astype(int)
    data = np.zeros(shape[::-1])
    reach = 4
    for place in (places - low) / 1.5:
        centre = np.rint(place).astype(int)
        axes = [np.arange(c - reach, c + reach + 1) for c in centre]
        waves = [np.exp(-0.5 * (axis - p) ** 2) for axis, p in zip(axes, place, strict=True)]
        box = np.ix_(*(axis.clip(0, n - 1) for axis, n in zip(axes[::-1], data.shape, strict=True)))
        data[box] += waves[2][:, None, None] * waves[1][None, :, None] * waves[0][None, None, :]
    noise = np.random.default_rng(0).normal(0, 0.05, data.shape)
    return Volume(torch.from_numpy((data + noise).astype(np.float32)), 1.5, tuple(float(v) for v in low))


def plant(kind: str, path: Path, out: Path, rng: np.random.Generator) -> list[tuple[str, int]]:
    """Write a copy of a structure with 20 faults of a kind; return chain and number of the residues they are in."""
    structure = gemmi.read_structure(str(path))
    structure.setup_entities()
    polymer = [
        (chain.name, residue)
        for chain in structure[0]
        for residue in chain.get_polymer()
        if residue.find_atom("CB", "*") and residue.find_atom("N", "*") and not any(a.has_altloc() for a in residue)
    ]
    # Three apart: neighbours that are moved alike would not be torn from each other.
    chosen = sorted((3 * rng.choice(np.arange(1, len(polymer) // 3), size=COUNT, replace=False)).tolist())
    found = []
    if kind == "overlapping copy":
        return _overlapping(structure, path, out, rng)
    for k in chosen:
        name, residue = polymer[k]
        found.append((name, int(residue.seqid.num)))
        if kind == "clash":
            # Its CB goes to 1 Å beside an atom of a residue far away in the chain.
            other = polymer[(k + len(polymer) // 2) % len(polymer)][1]
            target = other.find_atom("C", "*").pos
            residue.find_atom("CB", "*").pos = gemmi.Position(target.x + 0.6, target.y + 0.6, target.z + 0.5)
        elif kind == "broken chain":
            for atom in residue:
                atom.pos = gemmi.Position(atom.pos.x + 9, atom.pos.y + 6, atom.pos.z + 4)
        elif kind == "mirrored residue":
            n, ca, c = (np.array(residue.find_atom(a, "*").pos.tolist()) for a in ("N", "CA", "C"))
            normal = np.cross(n - ca, c - ca)
            normal /= np.linalg.norm(normal)
            for atom in residue:
                if atom.name not in {"N", "CA", "C", "O", "OXT"}:
                    place = np.array(atom.pos.tolist())
                    atom.pos = gemmi.Position(*(place - 2 * ((place - ca) @ normal) * normal))
        else:
            atom = residue.find_atom("CB", "*")
            atom.pos = gemmi.Position(atom.pos.x + 40, atom.pos.y + 40, atom.pos.z + 40)
    structure.make_mmcif_document().write_file(str(out))
    return found


def _overlapping(structure: gemmi.Structure, path: Path, out: Path, rng: np.random.Generator) -> list[tuple[str, int]]:
    """Waters that lie in the model's own solvent but 1 Å from an atom of a symmetry copy."""
    model = read_model(path)
    copies = find_copies(model)
    places = (model.points + model.corner) / 1000
    chain = gemmi.Chain("Z")
    found = []
    rows = [np.array(o, dtype=float) for o in copies.operations]
    heavy = np.flatnonzero(model.kinds != 3)
    while len(found) < COUNT:
        row = rows[int(rng.integers(len(rows)))]
        atom = int(rng.choice(heavy))
        copy = (row[:, :3] @ model.points[atom] + row[:, 3]) / 2**30 / 1000 + model.corner / 1000
        spot = copy + 0.58 * rng.choice([-1, 1], size=3)
        apart = np.linalg.norm(places - spot, axis=1).min()
        if not 2.5 < apart < 4.4:
            continue
        residue = gemmi.Residue()
        residue.name, residue.seqid, residue.het_flag = "HOH", gemmi.SeqId(str(len(found) + 1)), "H"
        water = gemmi.Atom()
        water.name, water.element, water.occ = "O", gemmi.Element("O"), 1.0
        water.pos = gemmi.Position(*(float(v) for v in spot))
        residue.add_atom(water)
        chain.add_residue(residue)
        found.append(("Z", len(found) + 1))
        places = np.vstack([places, spot])
    structure[0].add_chain(chain)
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(out))
    return found


def faults(folder: Path, seed: int) -> None:
    """Print, for each kind of fault, how many of 20 are refuted."""
    path = folder / CLEAN
    volume = synthetic_map(path)
    clean = check_consistency(path, volume=volume)
    print(f"\nClean: {CLEAN}, {clean.count('obligations')} obligations, {clean.count('proved')} proved.\n")
    print("| planted (20 at once) | refuted, right rule and residue | obligations refuted in all | unknown | CPU s |")
    print("|---|---|---|---|---|")
    for kind in FAULTS:
        rng = np.random.default_rng([seed, FAULTS.index(kind)])
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "planted.cif"
            planted = plant(kind, path, out, rng)
            result = check_consistency(out, volume=volume if kind == "atom outside the map" else None)
        rule = next(rule for rule in result.rules if rule.name == RULE[kind])
        named = {
            (result.model.residues[k].chain, result.model.residues[k].number)
            for one in rule.offenders
            for k in one.residues
            if rule.refuted
        }
        hit = sum(place in named for place in planted)
        row = f"| {kind} | {hit} of {len(planted)} | {result.count('refuted')} | {result.count('unknown')} |"
        print(f"{row} {result.cpu_seconds:.1f} |", flush=True)


def gemmi_contacts(result: Consistency) -> set[tuple[int, int]]:
    """Pairs that gemmi's own ContactSearch finds below 2.2 Å between heavy atoms of residues that are not adjacent."""
    structure = result.model.structure
    model = structure[0]
    search = gemmi.NeighborSearch(model, gemmi.UnitCell(), 3.0).populate(include_h=False)
    contacts = gemmi.ContactSearch(2.2)
    contacts.ignore = gemmi.ContactSearch.Ignore.AdjacentResidues
    places = {}
    held = result.model
    for number, point in enumerate(held.points):
        places[tuple((point + held.corner).tolist())] = number
    found = set()
    for contact in contacts.find_contacts(search):
        ends = []
        for partner in (contact.partner1, contact.partner2):
            pos = partner.atom.pos
            ends.append(places.get(tuple(round(1000 * v) for v in (pos.x, pos.y, pos.z)), -1))
        if -1 not in ends:
            found.add((min(ends), max(ends)))
    return found


def disagreements(result: Consistency) -> tuple[int, int, int]:
    """Clashes that both find, that only CryoPrism finds, that only gemmi finds, among pairs that both judge."""
    held = result.model
    ours = {one.atoms for rule in result.rules if rule.name == "clashes" for one in rule.offenders}
    theirs = gemmi_contacts(result)

    def judged(pair: tuple[int, ...]) -> bool:
        i, j = pair
        a, b = int(held.residue_of[i]), int(held.residue_of[j])
        plain = all(held.kinds[k] in (0, 1, 4) for k in pair)
        full = held.occupancies[i] + held.occupancies[j] > 1000 and held.alternatives[i] == held.alternatives[j] == 0
        return bool(plain and full and abs(a - b) > 1)

    ours, theirs = {p for p in ours if judged(p)}, {p for p in theirs if judged(p)}
    return len(ours & theirs), len(ours - theirs), len(theirs - ours)


def gemmi_geometry(result: Consistency) -> int:
    """How many chiral centres and peptide bonds gemmi's own functions judge differently from the proofs."""
    differ = 0
    for chain in result.model.structure[0]:
        polymer = list(chain.get_polymer().first_conformer())
        for before, after in itertools.pairwise(polymer):
            ends = [before.find_atom("CA", "*"), before.find_atom("C", "*"), after.find_atom("N", "*")]
            ends.append(after.find_atom("CA", "*"))
            omega = gemmi.calculate_dihedral(*(atom.pos for atom in ends)) if all(ends) else np.nan
            step = (after.label_seq or 0) - (before.label_seq or 0)
            if np.isnan(omega) or step != 1 or after.name in {"PRO", "DPR", "HYP"}:
                continue
            cis = abs(np.degrees(omega)) < 90
            words = f"{after.name.capitalize()} {after.seqid} in chain {chain.name} is cis"
            proofs = any(
                words in one.words for rule in result.rules if rule.name == "cis_peptides" for one in rule.offenders
            )
            differ += cis != proofs
    return differ


def panel(folder: Path, seconds: float) -> None:
    """Print a row for each structure, smallest first, until the time is over."""
    with (folder / "panel.tsv").open(encoding="utf-8") as stream:
        rows = sorted(csv.DictReader(stream, delimiter="\t"), key=lambda row: int(row["atoms"]))
    print("\n| structure | atoms | obligations | proved | refuted | unknown | LogicScore | CPU s | memory MB | "
          "clashes: both, only here, only gemmi | cis judged differently |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    until = time.monotonic() + seconds
    done, left = 0, []
    for row in rows:
        if time.monotonic() > until:
            left.append(row["pdb_id"])
            continue
        result = check_consistency(folder / row["file"])
        both, here, there = disagreements(result)
        print(
            f"| {row['pdb_id']} | {len(result.model)} | {result.count('obligations')} | {result.count('proved')} | "
            f"{result.count('refuted')} | {result.count('unknown')} | {result.score:.4f} ± {result.deviation:.4f} | "
            f"{result.cpu_seconds:.1f} | {result.memory_in_bytes / 1e6:.0f} | {both}, {here}, {there} | "
            f"{gemmi_geometry(result)} |",
            flush=True,
        )
        done += 1
    print(f"\n{done} of {len(rows)} structures; not reached in {seconds:g} s: {', '.join(left) or 'none'}.")


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=Path, default=Path("../shared/data/structures"))
    parser.add_argument("--parts", nargs="+", choices=("faults", "panel"), default=("faults", "panel"))
    parser.add_argument("--seconds", type=float, default=1e9, help="stop the panel after this wall time")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if "faults" in chosen.parts:
        faults(chosen.structures, chosen.seed)
    if "panel" in chosen.parts:
        panel(chosen.structures, chosen.seconds)


if __name__ == "__main__":
    main()
