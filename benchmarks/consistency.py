"""Are models consistent, are planted faults found, does gemmi agree? Obligations, verdicts, seconds and memory.

* ``faults``: into a clean structure 20 faults of each kind are planted, each in a copy of its own (clash, broken chain,
  mirrored residue, overlapping symmetry mate, atom outside the map): the right rule has to refute it, and every residue
  that it does not touch has to keep its verdicts (obligations that a water adds are counted apart);
* ``panel``: the structures of data/structures (panel.tsv), smallest first: obligations, proved, refuted, unknown,
  seconds and memory; beside them gemmi's own functions for contacts, bond lengths, hands and peptide bonds. What
  differs is summed up by kind, and ``--list`` writes every case into a table;
* ``sandbox``: what it costs to run Coq behind bubblewrap's walls;
* ``placing``: from which shift, and which wrong voxel size on, a model in its map is refuted: SIMULATED maps of three
  structures at 3 to 10 Å, and 1OEL fitted into EMD-1997 (real);
* ``large``: a hundred thousand atoms, 3IYD three times, 400 Å apart.

    python benchmarks/consistency.py --list differences.tsv

Simulated: the map (sum of Gaussians at the atoms). Real: the structures. CPU seconds are for everything: reading,
witnesses, every run of Coq.
"""

from __future__ import annotations

import argparse
import csv
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

import gemmi

from consistency_parts.gemmi_checks import CHECKS, Difference, compare
from consistency_parts.placing import placing
from consistency_parts.planting import FAULTS, plant_all
from cryoprism.evaluation.consistency import PLAIN, Consistency, check_consistency
from cryoprism.workflow import walled_prover

#: Proved in whole: no fault but the planted ones. Small, since it is checked a hundred times.
CLEAN = "1crn.cif.gz"
COUNT = 20


def faults(path: Path, seed: int) -> None:
    """Print, for each kind of fault, how many of 20 are refuted, and what became of all other residues."""
    clean, found = plant_all(path, COUNT, seed)
    print(
        f"\nClean: {path.name} with a SIMULATED map, {len(clean.model.residues)} residues, "
        f"{clean.count('obligations')} obligations, {clean.count('proved')} proved.\n"
    )
    print("| planted, one in each copy | refuted in the right rule | residues touched | of these changed | "
          "residues not touched | their obligations | of these another verdict | added, removed | unknown | "
          "CPU s a copy |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for kind in FAULTS:
        one = found[kind]
        print(
            f"| {kind} | {one.caught} of {one.planted} | {one.touched} | {one.changed} | "
            f"{one.untouched} | {one.untouched_obligations} | {one.untouched_verdicts} | "
            f"{one.untouched_added}, {one.untouched_removed} | {one.unknown} | {one.cpu_seconds / one.planted:.1f} |",
            flush=True,
        )


def _row(name: str, result: Consistency, seconds: float, counts: dict[str, tuple[int, int]], differ: Counter) -> str:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    cells = [
        f"{counts[check][0]}, {differ[check]}" + (f" of {counts[check][1]}" if counts[check][1] else "")
        if check in counts
        else "–"
        for check in CHECKS
    ]
    return (
        f"| {name} | {len(result.model)} | {result.count('obligations')} | {result.count('proved')} | "
        f"{result.count('refuted')} | {result.count('unknown')} | {result.score:.4f} ± {result.deviation:.4f} | "
        f"{result.cpu_seconds:.1f} | {seconds:.1f} | {result.memory_in_bytes / 1e6:.0f}, {own / 1e6:.0f} | "
        f"{' | '.join(cells)} |"
    )


def panel(folder: Path, limit: float, listing: Path | None) -> None:
    """Print a row for each structure, smallest first, until the time is over; then what differs from gemmi, by kind."""
    with (folder / "panel.tsv").open(encoding="utf-8") as stream:
        rows = sorted(csv.DictReader(stream, delimiter="\t"), key=lambda row: int(row["atoms"]))
    print("\ngemmi: wrong for both, differing (of those judged).\n")
    print("| structure | atoms | obligations | proved | refuted | unknown | LogicScore | CPU s | s | "
          f"memory MB: Coq, Python so far | {' | '.join(CHECKS)} |")  # fmt: skip
    print("|" + "---|" * (10 + len(CHECKS)))
    until = time.monotonic() + limit
    left: list[str] = []
    total, differences = Counter[str](), list[tuple[str, Difference]]()
    agreed, judged = Counter[str](), Counter[str]()
    for row in rows:
        if time.monotonic() > until:
            left.append(row["pdb_id"])
            continue
        started = time.monotonic()
        result = check_consistency(folder / row["file"])
        seconds = time.monotonic() - started
        counts, found = compare(result)
        differences += [(row["pdb_id"], one) for one in found]
        for check, (both, looked) in counts.items():
            agreed[check] += both
            judged[check] += looked
        total.update(structures=1, atoms=len(result.model), cpu=result.cpu_seconds, whole=result.verdict == "proved")
        total.update({name: result.count(name) for name in ("obligations", "proved", "refuted", "unknown")})
        print(_row(row["pdb_id"], result, seconds, counts, Counter(one.check for one in found)), flush=True)
    print(
        f"\n{total['structures']} of {len(rows)} structures (not reached in {limit:g} s: {', '.join(left) or 'none'}), "
        f"{total['atoms']} atoms: {total['obligations']} obligations, {total['proved']} proved, {total['refuted']} "
        f"refuted, {total['unknown']} unknown; {total['whole']} structures proved in whole; {total['cpu']:.0f} CPU s.\n"
    )
    _summary(differences, agreed, judged)
    if listing is not None:
        with listing.open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream, delimiter="\t", lineterminator="\n")
            table.writerow(["structure", "check", "atoms", "here", "gemmi", "why"])
            table.writerows([name, one.check, one.atoms, one.here, one.gemmi, one.why] for name, one in differences)


def _summary(differences: list[tuple[str, Difference]], agreed: Counter[str], judged: Counter[str]) -> None:
    kinds: dict[tuple[str, str, str], list[str]] = {}
    for name, one in differences:
        side = "only gemmi calls it wrong" if one.here == "not refuted" else "only here"
        kinds.setdefault((one.check, side, one.why), []).append(name)
    print("| check | judged by both | wrong for both | differing: which | why | how many | in structures |")
    print("|---|---|---|---|---|---|---|")
    for check in CHECKS:
        mine = {key: names for key, names in kinds.items() if key[0] == check}
        for (_, side, why), names in sorted(mine.items()) or [(("", "nothing", ""), [])]:
            looked = judged[check] or "pairs nearer than 2.2 Å"
            print(f"| {check} | {looked} | {agreed[check]} | {side} | {why} | {len(names)} | {len(set(names))} |")


def sandbox(folder: Path) -> None:
    """Print what bubblewrap's walls cost: five runs each way, in turns."""
    print(
        "\n| structure | atoms | Coq as a child: s | behind walls: s | walls: s more (median of 5) | MB: child, walls |"
    )
    print("|---|---|---|---|---|---|")
    for name in ("1crn.cif.gz", "3dqb.pdb.gz"):
        seconds: dict[bool, list[float]] = {False: [], True: []}
        memory = {}
        for _ in range(5):
            for walled in (False, True):
                started = time.monotonic()
                result = check_consistency(folder / name, coq=walled_prover() if walled else PLAIN)
                seconds[walled].append(time.monotonic() - started)
                memory[walled] = result.memory_in_bytes
        child, walls = (sorted(seconds[walled])[2] for walled in (False, True))
        print(
            f"| {name} | {len(result.model)} | {child:.2f} | {walls:.2f} | {walls - child:.2f} | "
            f"{memory[False] / 1e6:.0f}, {memory[True] / 1e6:.0f} |",
            flush=True,
        )


def large(folder: Path) -> None:
    """Print what a hundred thousand atoms take."""
    structure = gemmi.read_structure(str(folder / "3iyd.cif.gz"))
    model = structure[0]
    chains = [chain.clone() for chain in model]
    for copy in (1, 2):
        for chain in chains:
            moved = chain.clone()
            moved.name = f"{chain.name}{copy}"
            for residue in moved:
                residue.subchain = f"{residue.subchain}{copy}"
                for atom in residue:
                    atom.pos += gemmi.Position(400.0 * copy, 0, 0)
            model.add_chain(moved)
    # A frame of its own: the crystal of one of them says nothing about three.
    alone = gemmi.Structure()
    alone.add_model(model)
    alone.setup_entities()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "three.cif"
        alone.make_mmcif_document().write_file(str(path))
        result = check_consistency(path)
    print("\n| atoms | obligations | proved | refuted | unknown | CPU s | MB of Coq |\n|---|---|---|---|---|---|---|")
    counts = " | ".join(str(result.count(name)) for name in ("obligations", "proved", "refuted", "unknown"))
    print(f"| {len(result.model)} | {counts} | {result.cpu_seconds:.1f} | {result.memory_in_bytes / 1e6:.0f} |")


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("faults", "placing", "panel", "sandbox", "large")
    parser.add_argument("--structures", type=Path, default=Path("../shared/data/structures"))
    parser.add_argument("--maps", type=Path, default=Path("../shared/data/maps"))
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--clean", default=CLEAN, help="structure of the planted faults, proved in whole")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop the panel after this wall time")
    parser.add_argument("--list", type=Path, help="write every difference from gemmi into this table")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if "faults" in chosen.parts:
        faults(chosen.structures / chosen.clean, chosen.seed)
    if "placing" in chosen.parts:
        placing(chosen.structures, chosen.maps, chosen.seed)
    if "sandbox" in chosen.parts:
        sandbox(chosen.structures)
    if "large" in chosen.parts:
        large(chosen.structures)
    if "panel" in chosen.parts:
        panel(chosen.structures, chosen.seconds, chosen.list)


if __name__ == "__main__":
    main()
