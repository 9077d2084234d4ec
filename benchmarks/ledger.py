"""Is the loss ledger right? Predicted against truly lost bits, by twin simulations with the cause removed.

200 simulated micrographs, each with one dominant cause at random strength over a random mild background of motion, ice
and blur, rendered by the projection engine with a height of its own for every particle, early motion and counting
noise; the estimator assumes uniform drift, a smooth structure factor and a flat slab. The truth is the coherent
information between image and particles (synthesis.truth), computed again in twins with common random numbers.

    python benchmarks/ledger.py --count 200 --workers 2

Prints, with 95 % bootstrap intervals over micrographs: how often the top cause is right; Spearman's correlation of
predicted and true gains over all (micrograph, cause) pairs that were priced, and over all pairs with nothing predicted
where the estimator abstained; the same for a shuffled graph (every cause's evidence is handed to another) and for no
graph (every cause gets the same share); and how often each cause is abstained on, with the bits it truly took there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from cryoprism.causes import abstentions, information_under
from cryoprism.core import generator_for
from cryoprism.formats import MicrographRecord, OpticsGroup, write_mrc
from cryoprism.synthesis.phantom import phantom
from cryoprism.synthesis.render import render_micrograph
from cryoprism.synthesis.scene import Scene, intervene
from cryoprism.synthesis.specimen import Specimen, specimen_from_phantom
from cryoprism.synthesis.truth import information_of
from cryoprism.workflow import RestoreConfig, map_items
from cryoprism.workflow.micrographs.analysis import Task, analyse
from cryoprism.workflow.micrographs.restore_session import analyse_session

DOMINANT = ("motion", "ice_thickness", "envelope", "contamination", "carbon", "damage", "defects")
#: Crystals take little at the resolution of these scenes, however strong: they come on top of every eighth micrograph.
PRICED = (*DOMINANT, "crystalline_ice")
#: Causes beside the dominant one that may be there in every micrograph.
MILD = ("motion", "ice_thickness", "envelope")


def draw_scene(seed: int, index: int) -> tuple[Scene, str]:
    """Scene number ``index``: a dominant cause at random strength over a mild background."""
    g = generator_for(seed, "ledger-benchmark", index)
    u = lambda low=0.0, high=1.0: low + (high - low) * float(torch.rand((), generator=g))  # noqa: E731
    crystals = index % 8 == 7
    dominant = DOMINANT[(index // 8) % 7] if crystals else DOMINANT[index % 8]
    strength = u(0.5, 2.0)
    direction = u(0, 2 * np.pi)
    drift = 1.2 * u() + (7.0 * strength if dominant == "motion" else 0.0)
    changes: dict[str, object] = {
        "drift_y_in_angstroms": drift * np.sin(direction),
        "drift_x_in_angstroms": drift * np.cos(direction),
        "early_motion_y_in_angstroms": 0.3 * drift * np.sin(direction + 0.4),
        "early_motion_x_in_angstroms": 0.3 * drift * np.cos(direction + 0.4),
        "ice_thickness_in_angstroms": 180 + 60 * u() + (500 * strength if dominant == "ice_thickness" else 0.0),
        "envelope_b_factor_in_square_angstroms": 12 * u() + (90 * strength if dominant == "envelope" else 0.0),
        "damage_scale": 1.0 if dominant == "damage" else 0.0,
    }
    if dominant == "contamination":
        changes["contamination_count"] = int(np.ceil(4 * strength))
    if dominant == "carbon":
        changes["carbon_fraction"] = 0.25 * strength
    if dominant == "defects":
        changes |= {
            "hot_pixel_fraction": 2e-4 * strength,
            "hot_pixel_counts": 600.0,
            "dead_pixel_fraction": 2e-4 * strength,
            "dead_line_count": round(strength),
        }
    if crystals:
        changes["crystalline_ice_strength"] = 0.5 * strength
    scene = Scene(
        name=f"{index:04d}-{dominant}" + ("-crystals" if crystals else ""),
        seed=seed,
        amplitude_contrast=0.07,
        defocus_in_angstroms=u(8000, 24000),
        astigmatism_in_angstroms=u(0, 600),
        astigmatism_angle_in_degrees=u(-90, 90),
        exposure_in_electrons_per_square_angstrom=40.0,
        particle_count=70,
        **changes,  # type: ignore[arg-type]
    )
    return scene, dominant


_specimen: Specimen | None = None


def specimen() -> Specimen:
    """One specimen per process."""
    global _specimen
    if _specimen is None:
        _specimen = specimen_from_phantom(phantom("shell"))
    return _specimen


def render_and_price(index: int, *, seed: int, folder: Path) -> dict[str, object]:
    """Render a scene, write its micrograph, and return the true gain of every active cause."""
    stored = folder / f"{index:04d}.json"
    if stored.exists():
        return dict(json.loads(stored.read_text()))
    scene, dominant = draw_scene(seed, index)
    rendered = render_micrograph(scene, specimen(), "projection")
    write_mrc(folder / f"{scene.name}.mrc", rendered.counts, scene.pixel_size_in_angstroms)
    masks = tuple(name for name in ("contamination", "carbon", "defects") if bool((rendered.masks[name] > 0.5).any()))
    # What a mask covers is lost to the particles; defects that are left in are noise.
    base = information_of(rendered, exclude=tuple(m for m in masks if m != "defects")).bits
    gains = {}
    for cause in PRICED:
        twin_scene = intervene(scene, cause)
        if twin_scene == scene:
            continue
        twin = render_micrograph(twin_scene, specimen(), "projection")
        left = tuple(m for m in masks if m not in (cause, "defects"))
        gains[cause] = information_of(twin, exclude=left).bits - base
    exposure = scene.exposure_in_electrons_per_square_angstrom
    result: dict[str, object] = {
        "name": scene.name,
        "dominant": dominant,
        "bits": base,
        "gains": gains,
        "incident": exposure * scene.pixel_size_in_angstroms**2 * scene.detector_dqe0,
        "weighted": scene.damage_scale == 0.0,
    }
    stored.write_text(json.dumps(result))
    return result


def interval(count: int, statistic: Callable[[np.ndarray], float], seed: int, draws: int = 300) -> tuple[float, float]:
    """95 % bootstrap interval over micrographs."""
    rng = np.random.default_rng(seed)
    samples = [statistic(rng.integers(0, count, count)) for _ in range(draws)]
    return float(np.nanpercentile(samples, 2.5)), float(np.nanpercentile(samples, 97.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="Keep and reuse simulated micrographs here.")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="ledger-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.time()
    truths = list(
        map_items(partial(render_and_price, seed=args.seed, folder=folder), list(range(args.count)), args.workers)
    )
    print(f"rendered {args.count} micrographs and their twins in {time.time() - began:.0f} s")
    optics = OpticsGroup("simulated", 300.0, 2.7, 0.07, 1.5)
    tasks = []
    for truth in truths:
        extra = {"cryoprismIncidentIntensity": str(truth["incident"])}
        if truth["weighted"]:
            extra["rlnMicrographDoseWeighted"] = "1"
        path = folder / f"{truth['name']}.mrc"
        record = MicrographRecord(str(truth["name"]), path, "simulated", extra=extra)
        config = RestoreConfig(inputs=str(path), exposure_in_electrons_per_square_angstrom=40.0)
        tasks.append(Task(record, optics, config, None))
    began = time.time()
    analyses = list(map_items(analyse, tasks, args.workers))
    names = [task.record.name for task in tasks]
    session = analyse_session(names, [a.estimate for a in analyses], workers=args.workers, passes=8)
    print(
        f"estimated in {time.time() - began:.0f} s; loop: {len(session.trace.passes)} passes, "
        f"converged: {session.trace.converged}"
    )
    rows: list[dict[str, Any]] = []
    for truth, estimate, ledger in zip(truths, session.estimates, session.ledgers, strict=True):
        observation = replace(estimate.observation, abstained=frozenset(abstentions(estimate)))
        now = information_under(observation)
        priced = [cause for cause in PRICED if ledger.entries[cause].bits is not None]
        rows.append(
            {
                "name": truth["name"],
                "bits": truth["bits"],
                "truth": truth["gains"],
                "predicted": {c: information_under(observation, [c]) - now if c in priced else 0.0 for c in PRICED},
                "abstained": [cause for cause in PRICED if cause not in priced],
                "estimated": ledger.information_in_bits,
            }
        )
    report(rows, args.seed)


def report(rows: list[dict[str, Any]], seed: int) -> None:
    """Print the tables."""
    names = list(PRICED)
    true = np.array([[row["truth"].get(c, np.nan) for c in names] for row in rows])
    seen = np.array([[row["predicted"][c] for c in names] for row in rows])
    there = ~np.isnan(true)
    priced = there & np.array([[c not in row["abstained"] for c in names] for row in rows])
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(names))
    while (order == np.arange(len(names))).any():
        order = rng.permutation(len(names))
    mean = np.where(there, seen, 0).sum(1, keepdims=True) / there.sum(1, keepdims=True)
    arms = {
        "CryoPrism": seen,
        "shuffled graph": seen[:, order],
        "no graph": np.repeat(mean, len(names), 1) + 1e-9 * rng.random(seen.shape),
    }
    columns = ("top cause right", "Spearman, priced", "Spearman, all pairs")
    print(f"\n{'arm':<16}" + "".join(f"{column:>26}" for column in columns))
    for arm, values in arms.items():

        def top(i: np.ndarray, values: np.ndarray = values) -> float:
            return float((np.nanargmax(true[i], 1) == values[i].argmax(1)).mean())

        def rank(i: np.ndarray, values: np.ndarray = values) -> float:
            return float(spearmanr(true[i][priced[i]], values[i][priced[i]]).statistic)

        def rank_all(i: np.ndarray, values: np.ndarray = values) -> float:
            return float(spearmanr(true[i][there[i]], values[i][there[i]]).statistic)

        line = f"{arm:<16}"
        for statistic in (top, rank, rank_all):
            low, high = interval(len(rows), statistic, seed)
            line += f"{statistic(np.arange(len(rows))):>10.3f} [{low:.3f}, {high:.3f}]"
        print(line)
    print(f"{int(priced.sum())} of {int(there.sum())} pairs priced")
    print(
        f"\n{'cause':<16}{'present':>8}{'abstained':>10}{'true bits there':>17}{'dominant':>9}{'found':>7}"
        f"{'predicted / true':>17}{'Spearman':>9}"
    )
    winner, guess = np.nanargmax(true, 1), seen.argmax(1)
    for column, cause in enumerate(names):
        own, mine = there[:, column], priced[:, column]
        silent = own & ~mine
        first = winner == column
        found = f"{(guess[first] == column).mean():.2f}" if first.any() else "-"
        hidden = f"{np.median(true[silent, column]):.0f}" if silent.any() else "-"
        ratio = f"{np.median(seen[mine, column] / true[mine, column]):.2f}" if mine.any() else "-"
        rho = f"{spearmanr(true[mine, column], seen[mine, column]).statistic:.2f}" if mine.sum() > 2 else "-"
        print(f"{cause:<16}{own.sum():>8}{silent.sum():>10}{hidden:>17}{first.sum():>9}{found:>7}{ratio:>17}{rho:>9}")
    share = np.array([row["estimated"] / row["bits"] for row in rows])
    low, median, high = np.percentile(share, [10, 50, 90])
    print(f"\nestimated / true information: median {median:.2f}, 10 to 90 %: {low:.2f} to {high:.2f}")
    for row, truly, guessed in zip(rows, winner, guess, strict=True):
        if truly != guessed:
            print(f"  wrong: {row['name']}: {names[truly]} took most, {names[guessed]} was named")


if __name__ == "__main__":
    main()
