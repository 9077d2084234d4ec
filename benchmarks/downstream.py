"""What a synthetic training set is worth: the same networks trained on each, tried where they were not trained.

    python benchmarks/downstream.py [--parts picker poses] [--noise gaussian poisson poisson-gaussian spectrum matched]
                                    [--seeds 0 1 2] [--count 16] [--steps 300] [--pose-steps 600] [--lowpass 15]
                                    [--keep FOLDER]

SYNTHETIC training sets, matched to six real micrographs of EMPIAR-10146 (specimen: the 24-mer of 4OYN low-passed to
15 Å; picks of these six by its own views, no annotation): the same particles, places and views in every set, only the
noise differs. The session is matched once; mean and standard deviation are over seeds of set and training.

picker: the network of the learned picker, from random weights, with the same steps and the same draws. REAL test: the
annotated micrographs, as in ``picking.py``; average precision within half a diameter. The three micrographs that
nothing was matched to stand apart in the last column. Masks are not used, so that the networks alone are compared. The
shipped picker, which has seen no ferritin, stands beside.

poses: the pose network, trained on the particles of the same sets at their labels (``synthesize --train-poses``).
SIMULATED test by the other engine: multislice, the 24-mer at full resolution, 40 e/Å² with their own shot noise, ice,
motion, envelope, detector and defects (recipe "varied", severity 0.5), defocus 8,000 to 24,000 Å, particles that do not
overlap, cut 3 Å off their centres (deviation per axis).
Median angle of the best candidate to the truth under O. Beside it: random orientations, and the network that ``refine
--pose-network --initial-lowpass 15`` trains on projections of the low-passed map and the test particles' own power.

About 50 CPU minutes for both parts, five kinds of noise and three seeds.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from cryoprism.core import generator_for
from cryoprism.formats import Coordinates, read_coordinates, write_mrc
from cryoprism.restoration import find_defects, replace_defects
from cryoprism.structure import (
    PoseAccuracy,
    PosedImages,
    RefinementSettings,
    load_pose_network,
    pose_accuracy,
    pose_network_start,
    start_state,
)
from cryoprism.synthesis import (
    Scene,
    add_noise,
    noise_for,
    particle_labels,
    particle_record,
    read_match,
    render_micrograph,
    scene_to_dict,
    specimen_from_file,
    specimen_volume,
    varied_scene,
)
from cryoprism.workflow import SynthesizeConfig, synthesize_session
from cryoprism.workflow._boxes import box_for
from cryoprism.workflow._files import write_json
from cryoprism.workflow._picking import FLOOR
from cryoprism.workflow._synthesis import SynthesisTask, clean_image, population_of, scene_of_task
from cryoprism.workflow._synthesis_picker import train_picker_on
from cryoprism.workflow._synthesis_poses import joined, posed_particles_of, train_poses_on
from picking import DIAMETER, PIXEL, Result, annotated, data_folder, judged, measures, prepare, run

MATCHED = (0, 1, 3, 4, 6, 7)
KINDS = ("gaussian", "poisson", "poisson-gaussian", "spectrum", "matched")
PICKS_OFF = 3.0  # Å


def micrographs() -> list[Path]:
    return sorted((data_folder() / "apoferritin" / "micrographs").glob("*.mrc"))


def structure() -> Path:
    return data_folder() / "structures" / "4oyn.pdb.gz"


# --- the sets --------------------------------------------------------------------------------------------


def settings(output: Path, lowpass: float, **more: object) -> SynthesizeConfig:
    files = micrographs()
    return SynthesizeConfig(
        maps=(str(structure()),),
        assembly="1",
        symmetry="O",
        lowpass_in_angstroms=lowpass,
        match=tuple(str(files[i]) for i in MATCHED),
        pixel_size_in_angstroms=PIXEL,
        voltage_in_kilovolts=300.0,
        spherical_aberration_in_millimeters=2.7,
        amplitude_contrast=0.1,
        diameter_in_angstroms=DIAMETER,
        realism=False,
        output=output,
        **more,
    )


def matched_session(work: Path, lowpass: float) -> Path:
    """Folder of what is found in the real micrographs, by the command itself."""
    made = synthesize_session(settings(work / "session", lowpass, count=1, only_do_unfinished=True))
    return made.output / "match"


def make_sets(work: Path, match_folder: Path, kinds: Sequence[str], count: int, seed: int, lowpass: float) -> list[str]:
    """Write ``work/KIND-SEED`` for each kind of noise on the same clean images; returns the micrographs' names."""
    config = settings(work / "unused", lowpass, seed=seed)
    population, match = population_of(config), read_match(match_folder)
    names = [f"{index + 1:06d}" for index in range(count)]
    for kind in kinds:
        for name in ("micrographs", "truth"):
            (work / f"{kind}-{seed}" / name).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        task = SynthesisTask(index, name, config, match_folder, work)
        scene, source = scene_of_task(task, match, population)
        with torch.no_grad():
            made = clean_image(scene, source, config, population, match)
            clean, scene, placement = made.contrast, made.scene, made.placement
        fit = noise_for(match.micrographs[source], scene)
        particles = [particle_record(label, population) for label in particle_labels(scene, placement)]
        for kind in kinds:
            image = add_noise(kind, fit, clean, pixel_size_in_angstroms=PIXEL, seed=seed, name=name)
            write_mrc(work / f"{kind}-{seed}" / "micrographs" / f"{name}.mrc", image, PIXEL)
            truth = {"scene": scene_to_dict(scene), "particles": particles}
            write_json(work / f"{kind}-{seed}" / "truth" / f"{name}.json", truth)
    return names


# --- picker ----------------------------------------------------------------------------------------------


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


# --- poses -----------------------------------------------------------------------------------------------


def simulated_particles(count: int, seed: int = 1000) -> PosedImages:
    """Particles of ``count`` micrographs by the multislice engine, none of whose draws a training set shares."""
    specimen = specimen_from_file(structure(), assembly="1", symmetry="O")
    base = Scene(height_in_pixels=1024, width_in_pixels=1024, pixel_size_in_angstroms=PIXEL, particle_count=75)
    parts = []
    for index in range(count):
        scene = varied_scene(seed, index, base, severity=0.5)
        made = render_micrograph(scene, specimen, "multislice")
        defects = find_defects(made.counts)
        image = replace_defects(made.counts, defects.mask, generator_for(seed, "defects", index))
        off = PICKS_OFF / PIXEL * torch.randn(len(made.particles), 2, generator=generator_for(seed, "picks", index))
        records = [
            record | {"x_in_pixels": record["x_in_pixels"] + dx, "y_in_pixels": record["y_in_pixels"] + dy}
            for record, (dx, dy) in zip(map(particle_record, made.particles), off.tolist(), strict=True)
        ]
        parts.append(posed_particles_of(image, scene, records, DIAMETER)[0])
    return joined(parts)


def by_projections(test: PosedImages, seed: int, steps: int, lowpass: float) -> tuple[PoseAccuracy, float]:
    """Accuracy on the test of a network trained on projections of the map, and the CPU seconds of its training."""
    pixel = box_for(DIAMETER, PIXEL) * PIXEL / test.box
    specimen = specimen_from_file(structure(), assembly="1", symmetry="O", resolution_in_angstroms=lowpass)
    volume = specimen_volume(specimen, pixel)
    map_ = torch.zeros(test.box, test.box, test.box)
    common = min(test.box, len(volume))
    a, b = len(volume) // 2 - common // 2, test.box // 2 - common // 2
    inner = slice(b, b + common)
    map_[inner, inner, inner] = volume[a : a + common, a : a + common, a : a + common]
    asked = RefinementSettings(
        symmetry="O",
        diameter_in_angstroms=DIAMETER,
        pixel_size_in_angstroms=pixel,
        initial_resolution_in_angstroms=max(lowpass, 2 * pixel),
        seed=seed,
    )
    group = torch.zeros(len(test), dtype=torch.long)
    state = start_state(test.images, test.transfer, group, map_, asked, min(24, (test.box - 1) // 2))
    start = pose_network_start(test.images, test.transfer, group, state, asked, steps=steps)
    return pose_accuracy(start.candidates, test.rotations, "O"), start.training_seconds


# --- the tables ------------------------------------------------------------------------------------------


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation over seeds."""
    more = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{more}"


def picker_table(rows: Mapping[str, Sequence[tuple[float, float, float]]], shipped: tuple[float, float]) -> None:
    print("\n| training set | average precision, all | seeds | not matched to | CPU s, training |")
    print("|---|---|---|---|---|")
    print(f"| as shipped (no ferritin) | {shipped[0]:.3f} | | {shipped[1]:.3f} | |")
    for kind, found in rows.items():
        values, others, seconds = zip(*found, strict=True)
        each = ", ".join(f"{v:.3f}" for v in values)
        print(f"| {kind} | {spread(values, 3)} | {each} | {spread(others, 3)} | {np.mean(seconds):.0f} |")


def pose_table(rows: Mapping[str, Sequence[tuple[PoseAccuracy, float]]]) -> None:
    chance = next(iter(rows.values()))[0][0].chance_in_degrees
    print("\n| training set | median error [°] | seeds | nearest of 4 [°] | within 15° | CPU s, training |")
    print("|---|---|---|---|---|---|")
    print(f"| none: random orientations | {chance:.1f} | | | | |")
    for kind, found in rows.items():
        medians = [one.median_in_degrees for one, _ in found]
        each = ", ".join(f"{v:.1f}" for v in medians)
        nearest = spread([one.nearest_in_degrees for one, _ in found], 1)
        within = np.mean([one.share_within_15_degrees for one, _ in found])
        seconds = np.mean([s for _, s in found])
        print(f"| {kind} | {spread(medians, 1)} | {each} | {nearest} | {within:.0%} | {seconds:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("picker", "poses"), default=["picker", "poses"])
    parser.add_argument("--noise", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=16, help="micrographs of a set")
    parser.add_argument("--steps", type=int, default=300, help="of the picker's training")
    parser.add_argument("--pose-steps", type=int, default=600)
    parser.add_argument("--test", type=int, default=14, help="multislice micrographs")
    parser.add_argument("--lowpass", type=float, default=15.0, help="of the specimen in the sets [Å]; 0 for none")
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = (args.keep or Path(tempfile.mkdtemp())).resolve()
    work.mkdir(parents=True, exist_ok=True)
    picking, posing = "picker" in args.parts, "poses" in args.parts
    truth = annotated(data_folder() / "apoferritin")
    matched = {micrographs()[i].stem for i in MATCHED}
    apart = {name: xy for name, xy in truth.items() if name not in matched}
    pickers: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in args.noise}
    poses: dict[str, list[tuple[PoseAccuracy, float]]] = {"projections of the map": []}
    poses |= {kind: [] for kind in args.noise}
    shipped = (0.0, 0.0)
    if picking:
        prepare(work, sorted(truth))
        found = picks(work, "shipped", None)
        shipped = precision(found, truth), precision(found, apart)
        print(f"REAL test of the picker: {len(truth)} annotated micrographs, {len(apart)} of them not matched to")
    if posing:
        test = simulated_particles(args.test)
        print(f"SIMULATED test of the poses: {len(test)} particles of {args.test} multislice micrographs", flush=True)
    match = matched_session(work, args.lowpass)
    for seed in args.seeds:
        names = make_sets(work, match, args.noise, args.count, seed, args.lowpass)
        if posing:
            poses["projections of the map"].append(by_projections(test, seed, args.pose_steps, args.lowpass))
        for kind in args.noise:
            folder = work / f"{kind}-{seed}"
            if picking:
                before = time.process_time()
                weights, _ = train_picker_on(folder, names, DIAMETER, args.steps, seed)
                seconds = time.process_time() - before
                found = picks(work, f"{kind}-{seed}", weights)
                pickers[kind].append((precision(found, truth), precision(found, apart), seconds))
                print(f"<!-- picker, {kind}, seed {seed}: {pickers[kind][-1]} -->", flush=True)
            if posing:
                before = time.process_time()
                weights, words = train_poses_on(folder, names, DIAMETER, "O", args.pose_steps, seed)
                seconds = time.process_time() - before
                network = load_pose_network(weights).network
                candidates = network.candidates(test.images, test.transfer, 4).rotations
                poses[kind].append((pose_accuracy(candidates, test.rotations, "O"), seconds))
                print(f"<!-- poses, {kind}, seed {seed}: {poses[kind][-1]}; {words} -->", flush=True)
            if args.keep is None:
                shutil.rmtree(folder)
    if picking:
        picker_table(pickers, shipped)
    if posing:
        pose_table(poses)


if __name__ == "__main__":
    main()
