"""Pickers on real micrographs with annotated particles: precision, recall, F1, average precision, CPU seconds.

    python benchmarks/picking.py [--without-topaz] [--keep FOLDER]

REAL: eight micrographs of apoferritin (EMPIAR-10146, unaligned averages, 1.5 Å per pixel), about 170 annotated
particles each, from CRYOPRISM_DATA (../shared/data if absent). All pickers get the same files, and those that take a
CTF the same CTF (CryoPrism's estimate). What is measured:

* A pick is right if an annotated centre that no better pick has taken lies within 65 Å (half a diameter).
* Annotations nearer to each other than 20 Å are one particle marked twice. Of what lies within 130 Å of an edge nothing
  is counted, neither for nor against, so that no program's rule for edges matters.
* "default": the program's own default threshold. "best": the threshold of highest F1 on these very micrographs, which
  nobody knows beforehand. AP is the area under precision (made monotone) over recall, from a low threshold.
* Intervals are 95 % bootstraps over micrographs; differences are paired.

The annotation is not complete: faint and overlapping particles are missing, and some on dark contamination are marked;
every picker loses a few percent to that. CryoPrism's template, RELION's template: the 24-mer of 4OYN, 20 Å low-pass,
octahedral. RELION's result depends on the grey scale of the reference against the noise, so four scales and two
angular samplings are run and the one with the highest AP is shown, a choice made in RELION's favour on the test data;
so is Topaz's shrinking factor. Three of CryoPrism's defaults were set after a look at these annotations: contamination
no larger than four particles is not masked, a pick is dropped where masks cover half of its disc (not a quarter), and
the blob picker's kernel (an even ball rather than a Laplacian of Gaussian); the rows without masks show what masks cost
(annotators marked particles in dark clumps). No second annotated set was there to confirm them. CPU seconds
count the whole program, start and CTF estimation included, per micrograph.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.spatial
import torch

import cryoprism as cryoprism_package
from cryoprism.formats import Coordinates, Volume, read_coordinates, read_structure, write_map
from cryoprism.microscope.potential import AtomicModel, Solvent, average_hydrogens, potential_from_atoms
from cryoprism.particles import Picks, suppress_neighbours

PIXEL, DIAMETER, REACH, MARGIN = 1.5, 130.0, 65.0, 130.0
SHAPE = (1200, 1240)
LOWPASS = 20.0
PEERS = Path(__file__).resolve().parents[1] / ".peers"


@dataclass(frozen=True)
class Result:
    """Picks of one program by micrograph: at a low threshold, and the program's own default threshold."""

    picks: dict[str, Coordinates]
    threshold: float
    seconds: float
    kind: str
    note: str = ""


def run(command: Sequence[object], folder: Path) -> float:
    """Run a program with one thread; return its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Programs run elsewhere: a relative PYTHONPATH would make them import another CryoPrism than this file does.
    code = str(Path(cryoprism_package.__file__).resolve().parents[1])
    paths = os.pathsep.join([code, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run([str(c) for c in command], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout)[-600:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# --- the truth -------------------------------------------------------------------------------------------


def annotated(data: Path) -> dict[str, np.ndarray]:
    """Annotated centres [pixels] by micrograph, those marked twice merged."""
    truth = {}
    for file in sorted((data / "coordinates").glob("*.star")):
        xy = read_coordinates(file).xy_in_pixels
        truth[file.stem] = suppress_neighbours(Picks(xy, torch.zeros(len(xy))), 20.0 / PIXEL).xy_in_pixels.numpy()
    return truth


def counted(xy: np.ndarray) -> np.ndarray:
    """Which centres are far enough from every edge."""
    edge = MARGIN / PIXEL
    far = np.array([SHAPE[1] - 1 - edge, SHAPE[0] - 1 - edge])
    return ((xy >= edge) & (xy <= far)).all(1)


def matched(picks: Coordinates, truth: np.ndarray) -> np.ndarray:
    """Rows (score, right or wrong) of the picks that count, best first; each annotation is taken once."""
    xy = picks.xy_in_pixels.numpy()
    score = np.zeros(len(xy)) if picks.score is None else picks.score.double().numpy()
    tree, free, inside = scipy.spatial.cKDTree(truth), np.ones(len(truth), dtype=bool), counted(truth)
    rows = []
    for i in np.argsort(-score, kind="stable"):
        near = sorted(tree.query_ball_point(xy[i], REACH / PIXEL), key=lambda j: np.hypot(*(truth[j] - xy[i])))
        hit = next((j for j in near if free[j]), None)
        if hit is not None:
            free[hit] = False
            if inside[hit]:
                rows.append((score[i], 1.0))
        elif counted(xy[i : i + 1])[0]:
            rows.append((score[i], 0.0))
    return np.array(rows).reshape(-1, 2)


# --- the measures ----------------------------------------------------------------------------------------

MEASURES = ("P", "R", "F1 default", "F1 best", "AP")


def measures(rows: Sequence[np.ndarray], positives: Sequence[int], threshold: float) -> np.ndarray:
    """Precision, recall and F1 at the default threshold, best F1, average precision, over micrographs together."""
    table = np.concatenate(list(rows))
    table = table[np.argsort(-table[:, 0], kind="stable")]
    total = sum(positives)
    right = np.cumsum(table[:, 1])
    count = np.arange(1, len(table) + 1)
    f1 = 2 * right / (count + total)
    precision, recall = right / count, right / total
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    ap = float((np.diff(np.concatenate([[0.0], recall])) * envelope).sum())
    n = int((table[:, 0] >= threshold).sum())
    at = (precision[n - 1], recall[n - 1], f1[n - 1]) if n else (0.0, 0.0, 0.0)
    return np.array([*at, f1.max() if len(f1) else 0.0, ap])


def bootstrap(rows: list[np.ndarray], positives: list[int], threshold: float, rounds: int = 1000) -> np.ndarray:
    """Measures (rounds, 5) over micrographs drawn with replacement; the same draws for every picker."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(rows), (rounds, len(rows)))
    return np.array([measures([rows[i] for i in d], [positives[i] for i in d], threshold) for d in draws])


# --- the pickers -----------------------------------------------------------------------------------------


def reference_map() -> Volume:
    """Potential of the 24-mer of 4OYN against ice, limited to 8 Å, in a box of 180 Å at the micrographs' pixel."""
    data = data_folder() / "structures" / "4oyn.pdb.gz"
    atoms = read_structure(data, "1", include_waters=False)
    atoms = atoms.select((atoms.atomic_numbers > 0) & (atoms.models == 0))
    positions = atoms.positions_in_angstroms - atoms.positions_in_angstroms.mean(0)
    model = AtomicModel(
        positions, atoms.atomic_numbers, 200.0, atoms.occupancies, average_hydrogens(atoms.atomic_numbers)
    )
    return Volume(potential_from_atoms(model, PIXEL, shape=(120, 120, 120), center=False, solvent=Solvent()), PIXEL)


def cryoprism(method: str, work: Path, *options: object, name: str = "") -> Result:
    """Run ``cryoprism pick``; the candidates below its threshold come from a second, resumed run that is not timed."""
    out = work / f"cryoprism-{name or method}"
    base = [sys.executable, "-c", "from cryoprism.cli._main import main; main()", "pick", work / "mics.star"]
    base += ["--method", method, "--diameter", DIAMETER, "--no-pictures", "--out", out, *options]
    seconds = run(base, work)
    from cryoprism.workflow.particles.picking import FLOOR

    threshold = default_threshold(out)
    run([*base, "--only-do-unfinished", "--threshold", FLOOR[method]], work)
    picks = {file.stem: read_coordinates(file) for file in (out / "coordinates").glob("*.star")}
    note = "weights as shipped" if method == "learned" else ""
    return Result(picks, threshold, seconds, {"blob": "no reference", "template": "map"}.get(method, "network"), note)


def default_threshold(job: Path) -> float:
    import json

    value = json.loads((job / "job.json").read_text(encoding="utf-8"))["notes"]["threshold"]
    return float("inf") if value is None else float(value)


def relion(work: Path, name: str, *options: object) -> tuple[dict[str, Coordinates], float]:
    """Run relion_autopick; it writes an empty file for a micrograph without picks."""
    out = work / name
    out.mkdir()
    command = ["relion_autopick", "--i", "relion.star", "--odir", f"{name}/", "--pickname", "pick", *options]
    seconds = run(command, work)
    picks = {}
    for file in out.rglob("*_pick.star"):
        empty = Coordinates(torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0))
        picks[file.stem.removesuffix("_pick")] = read_coordinates(file) if file.stat().st_size else empty
    return picks, seconds


def relion_log(work: Path) -> Result:
    """Laplacian of Gaussian; its default threshold is the lowest score that the default run keeps."""
    options = ["--LoG", "--LoG_diam_min", 110, "--LoG_diam_max", 150, "--shrink", 0, "--lowpass", LOWPASS]
    default, seconds = relion(work, "relion-log", *options)
    low, _ = relion(work, "relion-log-low", *options, "--LoG_adjust_threshold", -5)
    return Result(low, _lowest(default), seconds, "no reference")


def _lowest(picks: dict[str, Coordinates]) -> float:
    return min(float(p.score.min()) for p in picks.values() if p.score is not None and len(p))


def relion_template(work: Path, reference: Volume, score: Callable[[Result], float]) -> Result:
    """Template autopick at four grey scales and two samplings; the best by average precision is returned."""
    results = []
    peak = float(reference.data.sum(0).max())
    for scale in (0.7, 1.0, 1.4, 2.0):
        # The projection's peak in standard deviations of the noise, which is what RELION's references are in.
        name = f"reference-{scale}.mrc"
        write_map(work / name, Volume(reference.data * (scale / peak), PIXEL))
        for order, angle in ((1, 15), (2, 5)):
            options = ["--ref", name, "--angpix_ref", PIXEL, "--sym", "O", "--healpix_order", order, "--ang", angle]
            options += ["--ctf", "--invert", "--lowpass", LOWPASS, "--particle_diameter", 150, "--shrink", 0]
            options += ["--min_distance", REACH, "--threshold", 0.0]
            picks, seconds = relion(work, f"relion-template-{scale}-{order}", *options)
            note = f"best of 8: scale {scale}, healpix {order}, {angle}°"
            results.append(Result(picks, 0.25, seconds, "map", note))  # the default of the program
    return max(results, key=score)


def topaz_picks(work: Path, files: Sequence[Path], factor: int) -> tuple[dict[str, Coordinates], float]:
    """Return picks of Topaz's pre-trained resnet16_u64 from a low score on, after shrinking, and its CPU seconds."""
    python = PEERS / "topaz" / "bin" / "python"
    folder, table = work / f"topaz-{factor}", work / f"topaz-{factor}.txt"
    folder.mkdir()
    seconds = run([python, "-m", "topaz.commands.preprocess", "-s", factor, "-o", folder, *files], work)
    command = [python, "-m", "topaz.commands.extract", "-m", "resnet16_u64", "-d", -1, "-t", -6, "-x", factor]
    command += ["-r", round(0.5 * REACH / PIXEL / factor * 1.5), "-o", table]
    seconds += run([*command, *sorted(folder.glob("*.mrc"))], work)
    found: dict[str, list[tuple[float, float, float]]] = {}
    with table.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            values = float(row["x_coord"]), float(row["y_coord"]), float(row["score"])
            found.setdefault(row["image_name"], []).append(values)
    if not found:  # its command ends without an error where its libraries do not fit together
        raise RuntimeError("Topaz wrote no pick at all, not even below its threshold: its environment does not work")
    picks = {}
    for name, values in found.items():
        array = torch.tensor(values, dtype=torch.float64)
        picks[name] = Coordinates(array[:, :2], array[:, 2].float())
    return picks, seconds


def topaz(work: Path, files: Sequence[Path], score: Callable[[Result], float]) -> Result:
    """Topaz at two shrinking factors; its default threshold is 0."""
    results = []
    for factor in (4, 6):
        picks, seconds = topaz_picks(work, files, factor)
        results.append(Result(picks, 0.0, seconds, "network", f"best of 2: shrunk {factor} times"))
    return max(results, key=score)


# --- the table -------------------------------------------------------------------------------------------


def data_folder() -> Path:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("CRYOPRISM_DATA", default))


def prepare(work: Path, names: Sequence[str]) -> list[Path]:
    """Copy the micrographs, and write a STAR file without a CTF for us."""
    (work / "mics").mkdir()
    files = []
    for name in names:
        files.append(work / "mics" / f"{name}.mrc")
        shutil.copy(data_folder() / "apoferritin" / "micrographs" / f"{name}.mrc", files[-1])
    rows = "".join(f"mics/{name}.mrc 1\n" for name in names)
    header = (
        "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnVoltage #3\n"
        "_rlnSphericalAberration #4\n_rlnAmplitudeContrast #5\n_rlnMicrographPixelSize #6\n"
        "opticsGroup1 1 300.0 2.7 0.07 1.5\n\n\ndata_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n"
    )
    (work / "mics.star").write_text(header + rows, encoding="utf-8")
    return files


def everything(work: Path, truth: dict[str, np.ndarray], args: argparse.Namespace) -> dict[str, Result | str]:
    """Run every picker; a picker that is not there gives a sentence that says so."""
    names = sorted(truth)
    files = prepare(work, names)
    reference = reference_map()
    write_map(work / "reference.mrc", reference)

    def score(result: Result) -> float:
        rows, positives = judged(result, truth)
        return float(measures(rows, positives, result.threshold)[-1])

    found: dict[str, Result | str] = {"CryoPrism blob": cryoprism("blob", work)}
    options = ("--reference", work / "reference.mrc", "--symmetry", "O", "--initial-lowpass", LOWPASS)
    found["CryoPrism template"] = cryoprism("template", work, *options)
    found["CryoPrism blob, no masks"] = cryoprism("blob", work, "--no-masks", name="blob-bare")
    found["CryoPrism template, no masks"] = cryoprism("template", work, *options, "--no-masks", name="template-bare")
    try:
        found["CryoPrism learned"] = cryoprism("learned", work)
        found["CryoPrism learned, no masks"] = cryoprism("learned", work, "--no-masks", name="learned-bare")
    except RuntimeError as error:
        found["CryoPrism learned"] = f"absent: {str(error)[-200:]}"
    if shutil.which("relion_autopick"):
        shutil.copy(work / "cryoprism-blob" / "micrographs.star", work / "relion.star")
        found["RELION 3.1 LoG"] = relion_log(work)
        found["RELION 3.1 template"] = relion_template(work, reference, score)
    else:
        found["RELION 3.1 LoG"] = found["RELION 3.1 template"] = "absent: relion_autopick is not on the PATH"
    if args.without_topaz:
        found["Topaz resnet16"] = "left out by --without-topaz"
    elif (PEERS / "topaz").exists():
        try:
            found["Topaz resnet16"] = topaz(work, files, score)
        except RuntimeError as error:
            found["Topaz resnet16"] = f"failed: {str(error)[-200:]}"
    else:
        found["Topaz resnet16"] = "absent: benchmarks/restore.py makes its environment under .peers/"
    return found


def judged(result: Result, truth: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[int]]:
    empty = Coordinates(torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0))
    rows = [matched(result.picks.get(name, empty), truth[name]) for name in sorted(truth)]
    return rows, [int(counted(truth[name]).sum()) for name in sorted(truth)]


def print_table(found: dict[str, Result | str], truth: dict[str, np.ndarray]) -> None:
    total = sum(int(counted(xy).sum()) for xy in truth.values())
    print(f"REAL, EMPIAR-10146: {len(truth)} micrographs, {total} annotated particles that count\n")
    print("| picker | needs | P default | R default | F1 default | F1 best | AP | CPU s | note |")
    print("|---|---|---|---|---|---|---|---|---|")
    draws: dict[str, np.ndarray] = {}
    for name, result in found.items():
        if isinstance(result, str):
            print(f"| {name} | | | | | | | | {result} |")
            continue
        rows, positives = judged(result, truth)
        values = measures(rows, positives, result.threshold)
        draws[name] = bootstrap(rows, positives, result.threshold)
        low, high = np.percentile(draws[name], [2.5, 97.5], axis=0)
        cells = [f"{v:.3f} [{a:.3f}, {b:.3f}]" for v, a, b in zip(values, low, high, strict=True)]
        seconds = f"{result.seconds / len(truth):.2f}"
        print(f"| {name} | {result.kind} | " + " | ".join(cells) + f" | {seconds} | {result.note} |")
    print()
    for ours in (name for name in draws if name.startswith("CryoPrism")):
        for peer in (name for name in draws if not name.startswith("CryoPrism")):
            words = []
            for number, label in ((2, "F1 default"), (3, "F1 best"), (4, "AP")):
                delta = draws[ours][:, number] - draws[peer][:, number]
                low, high = np.percentile(delta, [2.5, 97.5])
                verdict = "better" if low > 0 else "worse" if high < 0 else "no clear difference"
                words.append(f"{label} {delta.mean():+.3f} [{low:+.3f}, {high:+.3f}] {verdict}")
            print(f"- {ours} minus {peer}: " + "; ".join(words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-topaz", action="store_true")
    parser.add_argument("--keep", type=Path, help="New folder in which everything is kept.")
    args = parser.parse_args()
    if not (data_folder() / "apoferritin").is_dir():
        sys.exit(f"{data_folder()} holds no apoferritin/; set CRYOPRISM_DATA to the folder of the data.")
    truth = annotated(data_folder() / "apoferritin")
    if args.keep is not None:
        args.keep.mkdir(parents=True)
        print_table(everything(args.keep.resolve(), truth, args), truth)
        return
    with tempfile.TemporaryDirectory() as folder:
        print_table(everything(Path(folder), truth, args), truth)


if __name__ == "__main__":
    main()
