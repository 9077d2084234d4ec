"""What a synthetic training set is worth: the same networks trained on each, tried where they were not trained.

    python benchmarks/downstream.py [--parts picker frames poses] [--noise gaussian poisson poisson-gaussian spectrum
                                    matched] [--seeds 0 1 2] [--count 16] [--steps 300] [--pose-steps 600]
                                    [--lowpass 15] [--posed STAR] [--workers 2] [--device cpu] [--keep FOLDER]

SYNTHETIC training sets, matched to six real micrographs of EMPIAR-10146 (specimen: the 24-mer of 4OYN low-passed to
15 Å; picks of these six by its own views, no annotation): the same particles, places and views in every set, only the
noise differs. The session is matched once; mean and standard deviation are over seeds of set and training.

picker: the network of the learned picker, from random weights, with the same steps and the same draws. REAL test: the
annotated micrographs, as in ``picking.py``; average precision within half a diameter. The three micrographs that
nothing was matched to stand apart in the last column. Masks are not used, so that the networks alone are compared. The
shipped picker, which has seen no ferritin, stands beside.

frames: the same on REAL single frames of these micrographs, where particles are hardly to be seen; the sets are matched
to single frames of the same six. A frame shows neither Thon rings nor enough of a particle to pick it, so CTF and picks
are those of the averages, in matching and in the test.

poses: the pose network, trained on the particles of the same sets at their labels (``synthesize --train-poses``).
SIMULATED tests by the other engine: multislice, the 24-mer at full resolution with shot noise, ice, motion and detector
of their own, cut 3 Å off their centres (deviation per axis). "varied" is the recipe of that name (severity 0.5, 40
e/Å², defocus 8,000 to 24,000 Å, no session's, particles far apart). "session" has defocus, drift, B-factor and density
of particles drawn from the match, as a user's own particles would; its exposure is the one of five whose particles'
power, shell by shell, is nearest to that of the real picks.
With --posed there is a REAL one: particles of these micrographs and the poses of a refinement, which are no truth.
Median angle of the best candidate to the truth under O. Beside it: random orientations, and the network that ``refine
--pose-network --initial-lowpass 15`` trains on projections of the low-passed map and the test particles' own power.

About 80 CPU minutes for all parts, five kinds of noise and three seeds; --workers shares them out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

import downstream_parts.pickers as pickers
import downstream_parts.poses as poses
from cryoprism.structure import PoseAccuracy
from cryoprism.workflow.synthesis.poses import joined
from downstream_parts.sets import KINDS, Asked, make_one, matched_frames, matched_session, micrographs
from picking import annotated, data_folder, prepare

Item = TypeVar("Item")
Made = TypeVar("Made")


def each(do: Callable[[Item], Made], items: Sequence[Item], workers: int, told: bool = False) -> list[Made]:
    """Results in order, by processes of their own; ``told``: each is printed as soon as it is there."""
    found = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for item, result in zip(items, pool.map(do, items), strict=True):
            found.append(result)
            if told:
                print(f"<!-- {item}: {result} -->", flush=True)
    return found


def sets_of(args: argparse.Namespace, work: Path, match: Path, label: str) -> dict[tuple[str, int], list[str]]:
    """Names of the micrographs of every set, ``label`` before the folders' names."""
    asked = [
        Asked(work, match, label, tuple(args.noise), index, seed, args.lowpass)
        for seed in args.seeds
        for index in range(args.count)
    ]
    each(make_one, asked, args.workers)
    names = [one.name for one in asked[: args.count]]
    return {(kind, seed): names for kind in args.noise for seed in args.seeds}


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation over seeds."""
    more = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{more}"


def picker_part(args: argparse.Namespace, work: Path, frames: bool) -> None:
    truth = annotated(data_folder() / "apoferritin")
    folder = work / ("on-frames" if frames else "on-averages")
    folder.mkdir(exist_ok=True)
    table = folder / "mics.star"
    if not table.exists():
        prepare(folder, sorted(truth))
    what = "annotated micrographs"
    shipped = pickers.tried(table, folder / "shipped", None, 0.0)
    if frames:
        what = "single frames of annotated micrographs"
        # The CTF that the run above found in the averages.
        table.write_text((folder / "shipped" / "micrographs.star").read_text(encoding="utf-8"), encoding="utf-8")
        for file in micrographs(frames=True):
            if file.stem in truth:
                (folder / "mics" / file.name).unlink()
                (folder / "mics" / file.name).write_bytes(file.read_bytes())
        shipped = pickers.tried(table, folder / "shipped-on-frames", None, 0.0)
    match = matched_frames(work, args.lowpass) if frames else matched_session(work, args.lowpass)
    label = "frames-" if frames else ""
    asked = [
        pickers.PickerAsked(kind, work / f"{label}{kind}-{seed}", tuple(names), table, args.steps, seed, args.device)
        for (kind, seed), names in sets_of(args, work, match, label).items()
    ]
    found = each(pickers.train_and_try, asked, args.workers, told=True)
    count = len(pickers.apart_of(truth))
    print(f"\nREAL test of the picker: {len(truth)} {what}, {count} of them not matched to; {args.count} micrographs a")
    print(f"set, {args.steps} steps\n")
    print("| training set | average precision, all | seeds | not matched to | CPU s, training |")
    print("|---|---|---|---|---|")
    print(f"| as shipped (no ferritin) | {shipped.all:.3f} | | {shipped.apart:.3f} | |")
    for kind in args.noise:
        mine = [one for one, ask in zip(found, asked, strict=True) if ask.kind == kind]
        values = ", ".join(f"{one.all:.3f}" for one in mine)
        apart, seconds = spread([one.apart for one in mine], 3), np.mean([one.seconds for one in mine])
        print(f"| {kind} | {spread([one.all for one in mine], 3)} | {values} | {apart} | {seconds:.0f} |", flush=True)


def write_tests(args: argparse.Namespace, work: Path, match: Path) -> None:
    """Particles of both tests into ``work``, those of the session at the exposure that fits."""
    real = poses.real_power(match)
    tries = [poses.TestAsked(match, i, 2000, exposure) for exposure in poses.EXPOSURES for i in range(2)]
    made = each(poses.test_particles, tries, args.workers)
    exposure, off = poses.nearest_exposure(real, [joined(made[2 * i : 2 * i + 2]) for i in range(len(poses.EXPOSURES))])
    each_one = ", ".join(f"{e:g}: {o:.2f}" for e, o in zip(poses.EXPOSURES, off, strict=True))
    print(
        f"\nexposure of the session's test: {exposure:g} e/Å² (RMS of log power to the real picks: {each_one})",
        flush=True,
    )
    for name, dose in zip(poses.TESTS, (None, exposure), strict=True):
        asked = [poses.TestAsked(match, index, 1000, dose) for index in range(args.test)]
        torch.save(joined(each(poses.test_particles, asked, args.workers)), work / f"test-{name}.pt")
    if args.posed is not None:
        torch.save(poses.real_particles(args.posed), work / "test-real.pt")


def pose_part(args: argparse.Namespace, work: Path) -> None:
    match = matched_session(work, args.lowpass)
    write_tests(args, work, match)
    more = (work, args.pose_steps, args.device, args.lowpass)

    def ask(kind: str, folder: Path | None, names: Sequence[str], seed: int) -> poses.PosesAsked:
        tests, steps, device, lowpass = more
        return poses.PosesAsked(kind, folder, tuple(names), tests, steps, seed, device, lowpass)

    asked = [ask("projections of the map", None, (), seed) for seed in args.seeds]
    for (kind, seed), names in sets_of(args, work, match, "").items():
        asked.append(ask(kind, work / f"{kind}-{seed}", names, seed))
    print_shares(work, asked)
    found = each(poses.train_and_try, asked, args.workers, told=True)
    counts = {name: len(test) for name, test in poses.read_tests(work).items()}
    for test, count in counts.items():
        what = "REAL" if test == "real" else "SIMULATED"
        where = args.posed if test == "real" else f"{args.test} multislice micrographs"
        print(f"\n{what} test of the poses, {test}: {count} particles of {where};")
        print(f"{args.count} micrographs a set, {args.pose_steps} steps\n")
        rows: dict[str, list[tuple[PoseAccuracy, float]]] = {}
        for one, (accuracies, seconds) in zip(asked, found, strict=True):
            rows.setdefault(one.kind, []).append((accuracies[test], seconds))
        pose_table(rows)


def print_shares(work: Path, asked: Sequence[poses.PosesAsked]) -> None:
    """How much of the power of the particles of every test and kind of set is common to them all."""
    looked = dict(poses.read_tests(work))
    for one in asked:
        if one.folder is not None and one.kind not in looked:
            looked[one.kind] = poses.set_particles(one.folder, one.names[:6])
    print("\nShare of power common to all particles (their spherical part), shells 1 to 8 of a box of 64 pixels:\n")
    print("| particles | " + " | ".join(str(shell) for shell in range(1, 9)) + " |\n|---|" + "---|" * 8)
    for name, images in looked.items():
        print(f"| {name} | " + " | ".join(f"{float(v):.2f}" for v in poses.common_share(images)[:8]) + " |", flush=True)


def pose_table(rows: dict[str, list[tuple[PoseAccuracy, float]]]) -> None:
    chance = next(iter(rows.values()))[0][0].chance_in_degrees
    print("| training set | median error [°] | seeds | nearest of 4 [°] | within 15° | CPU s, training |")
    print("|---|---|---|---|---|---|")
    print(f"| none: random orientations | {chance:.1f} | | | | |")
    for kind, found in rows.items():
        medians = [one.median_in_degrees for one, _ in found]
        values = ", ".join(f"{v:.1f}" for v in medians)
        nearest = spread([one.nearest_in_degrees for one, _ in found], 1)
        within = np.mean([one.share_within_15_degrees for one, _ in found])
        seconds = np.mean([s for _, s in found])
        print(f"| {kind} | {spread(medians, 1)} | {values} | {nearest} | {within:.0%} | {seconds:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("picker", "frames", "poses")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--noise", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=16, help="micrographs of a set")
    parser.add_argument("--steps", type=int, default=300, help="of the picker's training")
    parser.add_argument("--pose-steps", type=int, default=600)
    parser.add_argument("--test", type=int, default=14, help="multislice micrographs")
    parser.add_argument("--lowpass", type=float, default=15.0, help="of the specimen in the sets [Å]; 0 for none")
    parser.add_argument("--posed", type=Path, help="particles.star of a refinement, for a real test of the poses")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of the trainings")
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    if not (data_folder() / "apoferritin").is_dir():
        sys.exit(f"{data_folder()} holds no apoferritin/; set CRYOPRISM_DATA to the folder of the data.")
    torch.set_num_threads(1)
    work = (args.keep or Path(tempfile.mkdtemp())).resolve()
    work.mkdir(parents=True, exist_ok=True)
    if "picker" in args.parts:
        picker_part(args, work, frames=False)
    if "frames" in args.parts:
        picker_part(args, work, frames=True)
    if "poses" in args.parts:
        pose_part(args, work)


if __name__ == "__main__":
    main()
