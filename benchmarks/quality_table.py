"""Do the answers of an assessment move with image quality? A table of real runs on SIMULATED sessions with known truth.

    python benchmarks/quality_table.py [--structures 10] [--runs 4] [--out FOLDER]

Each run simulates a session of a known structure at one severity, restores it, assesses the structure with that record
(re-run in the sandbox included) and measures quality: the correlation of the restored views with the noise-free
particles, mean over the session. Half of the runs state exposure and MTF. The index of known shapes holds every other
structure. Impact has no answer. Then cryoprism weights explain, rows drawn by structure: runs of one structure share
its logic and novelty. Controls: the quality of the raw images, and the quality shuffled.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cryoprism.evaluation.fusion import COMPONENTS, default_weights, read_quality_table, regress_quality
from cryoprism.formats import read_image
from cryoprism.synthesis import Scene, SessionConfig, simulate_session
from cryoprism.workflow import (
    AssessConfig,
    NoveltyBuildConfig,
    RestoreConfig,
    WeightsExplainConfig,
    assess_session,
    build_index,
    explain_weights,
    restore_session,
)
from restore_parts.measures import pearson

#: Small enough to be proved in seconds; with and without faults.
STRUCTURES = ("2buk", "1gbt", "1d66", "4oyn", "1dul", "1gya", "4p5j", "3dqb", "8pge", "1rb8", "4opj", "3rer")
SEVERITIES = (0.2, 0.8, 1.4, 2.0)
COLUMNS = ("structure", "severity", "stated", *COMPONENTS, "view_correlation", "raw_correlation")


def run(folder: Path, structure: Path, index: Path, severity: float, stated: bool, seed: int) -> dict[str, object]:
    """Return one row of the table."""
    scene = replace(Scene(), height_in_pixels=512, width_in_pixels=512)
    simulate_session(
        SessionConfig(
            output=folder / "Simulate", micrographs=2, seed=seed, severity=severity, specimen=str(structure),
            base=scene, engine="rytov", truth_images=True,
        )
    )  # fmt: skip
    more = {"exposure_in_electrons_per_square_angstrom": 40.0, "mtf_file": folder / "Simulate/mtf.star"}
    restore_session(
        RestoreConfig(
            inputs=(str(folder / "Simulate/micrographs.star"),), output=folder / "Restore", **(more if stated else {})
        )
    )
    assess_session(
        AssessConfig(model_file=structure, record=folder / "Restore", index=index, output=folder / "Assess", seed=seed)
    )
    answers = json.loads((folder / "Assess/assessment.json").read_text())
    found: dict[str, list[float]] = {"views": [], "raw": []}
    for path in sorted((folder / "Simulate/micrographs").glob("*.mrc")):
        truth = -read_image(folder / f"Simulate/truth/{path.stem}_potential.mrc").data
        found["views"].append(pearson(read_image(folder / f"Restore/views/{path.name}").data, truth))
        found["raw"].append(pearson(read_image(path).data, truth))
    row: dict[str, object] = {name: answers[name]["value"] for name in COMPONENTS}
    return row | {
        "structure": structure.name[:4],
        "severity": severity,
        "stated": stated,
        "view_correlation": float(np.mean(found["views"])),
        "raw_correlation": float(np.mean(found["raw"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CRYOPRISM_DATA", "../shared/data")))
    parser.add_argument("--structures", type=int, default=10)
    parser.add_argument("--runs", type=int, default=4, help="of each structure")
    parser.add_argument("--out", type=Path, help="where table and page are kept")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="quality-") as name:
        folder = Path(name)
        out = given.out or folder / "out"
        out.mkdir(parents=True, exist_ok=True)
        models = [next((given.data / "structures").glob(f"{one}.*")) for one in STRUCTURES[: given.structures]]
        known = folder / "known"
        known.mkdir()
        for path in models[::2]:
            shutil.copy(path, known)
        build_index(NoveltyBuildConfig(inputs=(known,), output=folder / "index"))
        table = out / "runs.tsv"
        table.write_text("\t".join(COLUMNS) + "\n")
        for number, model in enumerate(models):
            for turn in range(given.runs):
                place = folder / f"{number}-{turn}"
                severity = SEVERITIES[turn % len(SEVERITIES)]
                stated = (number + turn) % 2 == 0
                row = run(place, model, folder / "index", severity, stated, 100 * given.seed + 10 * number + turn)
                cells = ["" if row[column] is None else str(row[column]) for column in COLUMNS]
                with table.open("a") as stream:
                    stream.write("\t".join(cells) + "\n")
                shutil.rmtree(place)
        report(table, out)


def report(table: Path, out: Path) -> None:
    """Print what the command says of it, and the controls."""
    summary = explain_weights(
        WeightsExplainConfig(table=table, quality="view_correlation", group="structure", output=out / "Quality")
    )
    print("\n" + "\n".join(f"- {sentence}" for sentence in summary.sentences))
    print("\n| SIMULATED runs | answer | coefficient, all others held [95 %] | alone (Spearman) |")
    print("|---|---|---|---|")
    whole = read_quality_table(table, "view_correlation", group="structure")
    raw = read_quality_table(table, "raw_correlation", group="structure")
    shuffled = replace(whole, quality=np.random.default_rng(0).permutation(whole.quality))
    for words, one in (("quality of the views", whole), ("control: of the raw images", raw),
                       ("control: shuffled", shuffled)):  # fmt: skip
        found = regress_quality(one, default_weights())
        for row in found.coefficients:
            interval = f"{row.value:+.2f} [{row.lower:+.2f}, {row.upper:+.2f}]"
            print(f"| {words} | {row.name} | {interval} | {row.alone:+.2f} |")
        score = found.score_correlation
        together = "–" if score is None else f"{score[0]:+.2f} [{score[1]:+.2f}, {score[2]:+.2f}]"
        low, high = found.explained_interval
        explained = f"explained, not fitted: {found.explained:.2f} [{low:.2f}, {high:.2f}]"
        print(f"| {words} | V, Spearman | {together} | {explained} |")


if __name__ == "__main__":
    main()
