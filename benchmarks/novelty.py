"""Novelty: large indexes, real structures, and whether its probabilities can be believed.

    python benchmarks/novelty.py [--parts scale,real,calibration,crowds] [--counts 1000000,10000000] [--copies 6]
                                 [--strangers 100,...,1000000] [--maps MAP ...] [--work FOLDER] [--seed 0]
                                 [--write FILE]

REAL: 50 PDB entries and map EMD-1997 from CRYOPRISM_DATA (../shared/data if absent). SIMULATED: copies of the entries
as maps, turned at random, on another grid (2.5 to 4 Å), lengths wrong by up to 3 %, uneven by up to a half, bent by up
to 2 Å, filtered (5 to 15 Å, B of 0 to 200 Å²), half of them with white noise up to the molecule's own mean density in
voxels of 2 Å; every other one as deposited: up to 0.7 of the low frequencies lost, sharpened, mostly with flat solvent.
SYNTHETIC: the vectors of the large indexes, mixtures of real descriptors with the residue of a copy.

* ``scale``: build time, peak memory, disk, recall@10 against exact search, time of a query on one thread;
* ``real``: the same protein in another crystal or another copy of it in the same one, turned, at 10 Å and with noise:
  does it rank first; baselines by size alone; the correlation after a search over rotations beside it;
  ``--maps`` asks about further maps (of apoferritin from ``cryoprism process`` on EMPIAR-10146, say);
* ``calibration``: reliability of the novelty over proteins that its calibration has not seen (folds by protein), Brier
  score and expected calibration error; models with 3Di states and without. ``--write`` fits all proteins and writes the
  file that the program ships;
* ``crowds``: the same in indexes of 10² to 10⁶ SYNTHETIC strangers.

Intervals are 95 %, over samples of proteins with replacement. ``--work`` keeps the descriptors between calls.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cryoprism.evaluation.novelty import states_available
from novelty_parts.panel import make_panel
from novelty_parts.scale import measure_scale


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="scale,real,calibration,crowds")
    parser.add_argument("--counts", default="1000000,10000000")
    parser.add_argument("--copies", type=int, default=6)
    parser.add_argument("--work", type=Path, default=Path("novelty-benchmark"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strangers", default="100,1000,10000,100000,1000000")
    parser.add_argument("--maps", type=Path, nargs="*", default=[])
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    panel = make_panel(arguments.work, arguments.copies, arguments.seed)
    if {"calibration", "crowds"} & set(parts) or arguments.write:
        from novelty_parts.chains import make_chains
        from novelty_parts.reliability import fit_all, measure_calibration, measure_crowds, measure_states

        chains = make_chains(arguments.work, arguments.seed) if states_available() else None
        if "calibration" in parts:
            measure_calibration(panel, arguments.seed)
            if chains is not None:
                measure_states(panel, chains, arguments.seed)
        if "crowds" in parts:
            measure_crowds(panel, [int(count) for count in arguments.strangers.split(",")], arguments.seed)
        if arguments.write:
            law = fit_all(panel, chains, arguments.seed)
            arguments.write.write_text(json.dumps(law.to_json(), separators=(",", ":")) + "\n", encoding="utf-8")
    if "real" in parts:
        from novelty_parts.real import measure_real

        measure_real(panel, arguments.seed, arguments.maps)
    if "scale" in parts:
        for count in arguments.counts.split(","):
            measure_scale(panel, arguments.work, int(count), arguments.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
