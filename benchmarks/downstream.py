"""What a synthetic training set is worth: the same picker trained on each, tried on real micrographs.

    python benchmarks/downstream.py [--noise gaussian poisson poisson-gaussian spectrum matched] [--seeds 0 1 2]
                                    [--count 24] [--steps 800] [--keep FOLDER]

SYNTHETIC training sets, matched to six real micrographs of EMPIAR-10146 (specimen: the 24-mer of 4OYN low-passed to
15 Å; picks of these six by its own views, no annotation): the same particles, places and views in every set, only the
noise differs. The network is that of the learned picker, from random weights, with the same steps and the same draws.
REAL test: the annotated micrographs, as in ``picking.py``; average precision within half a diameter. The three
micrographs that nothing was matched to stand apart in the last column. Mean and standard deviation over seeds of set
and training. Masks are not used, so that the networks alone are compared. The shipped picker, which has seen no
ferritin, stands beside.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cryoprism.formats import Coordinates, read_coordinates
from cryoprism.workflow import SynthesizeConfig, synthesize_session
from cryoprism.workflow._picking import FLOOR
from picking import DIAMETER, Result, annotated, data_folder, judged, measures, prepare, run

MATCHED = (0, 1, 3, 4, 6, 7)
KINDS = ("gaussian", "poisson", "poisson-gaussian", "spectrum", "matched")


def micrographs() -> list[Path]:
    return sorted((data_folder() / "apoferritin" / "micrographs").glob("*.mrc"))


def trained(work: Path, kind: str, seed: int, count: int, steps: int) -> tuple[Path, float]:
    """Weights of a picker trained on a synthetic set of a kind of noise, and the CPU seconds of set and training."""
    files = micrographs()
    before = time.process_time()
    made = synthesize_session(
        SynthesizeConfig(
            maps=(str(data_folder() / "structures" / "4oyn.pdb.gz"),),
            assembly="1",
            symmetry="O",
            lowpass_in_angstroms=15.0,
            match=tuple(str(files[i]) for i in MATCHED),
            pixel_size_in_angstroms=1.5,
            voltage_in_kilovolts=300.0,
            spherical_aberration_in_millimeters=2.7,
            amplitude_contrast=0.1,
            diameter_in_angstroms=DIAMETER,
            noise=kind,
            count=count,
            seed=seed,
            realism=False,
            train_picker=True,
            picker_steps=steps,
            output=work / f"{kind}-{seed}",
        )
    )
    assert made.picker is not None
    return made.picker, time.process_time() - before


def picks(work: Path, name: str, weights: Path | None) -> dict[str, Coordinates]:
    """All candidates of a learned picker on the annotated micrographs."""
    out = work / f"picks-{name}"
    command = [sys.executable, "-c", "from cryoprism.cli import main; main()", "pick", work / "mics.star"]
    command += ["--method", "learned", "--diameter", DIAMETER, "--no-pictures", "--no-masks", "--out", out]
    command += ["--threshold", FLOOR["learned"]]
    if weights is not None:
        command += ["--picker", weights]
    run(command, work)
    return {file.stem: read_coordinates(file) for file in (out / "coordinates").glob("*.star")}


def precision(found: dict[str, Coordinates], truth: dict[str, np.ndarray]) -> float:
    rows, positives = judged(Result(found, 0.0, 0.0, ""), truth)
    return float(measures(rows, positives, 0.0)[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    truth = annotated(data_folder() / "apoferritin")
    matched = {micrographs()[i].stem for i in MATCHED}
    apart = {name: xy for name, xy in truth.items() if name not in matched}
    work = (args.keep or Path(tempfile.mkdtemp())).resolve()
    work.mkdir(parents=True, exist_ok=True)
    prepare(work, sorted(truth))
    print(f"REAL test: {len(truth)} annotated micrographs, {len(apart)} of them not matched to\n")
    print("| training set | average precision, all | seeds | not matched to | CPU s, set and training |")
    print("|---|---|---|---|---|")
    shipped = picks(work, "shipped", None)
    print(f"| as shipped (no ferritin) | {precision(shipped, truth):.3f} | | {precision(shipped, apart):.3f} | |")
    for kind in args.noise:
        values, others, seconds = [], [], []
        for seed in args.seeds:
            weights, spent = trained(work, kind, seed, args.count, args.steps)
            found = picks(work, f"{kind}-{seed}", weights)
            values.append(precision(found, truth))
            others.append(precision(found, apart))
            seconds.append(spent)
            if args.keep is None:
                shutil.rmtree(work / f"{kind}-{seed}")
        each = ", ".join(f"{v:.3f}" for v in values)
        spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
        print(
            f"| {kind} | {np.mean(values):.3f}{spread} | {each} | {np.mean(others):.3f} | {np.mean(seconds):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
