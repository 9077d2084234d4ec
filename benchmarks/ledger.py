"""Is the loss ledger right? Predicted against truly lost bits, by twin simulations with the cause removed.

200 simulated micrographs, each with one dominant cause at random strength over a random mild background of the others,
rendered by the projection engine with per-particle heights, early motion and a measured-like detector; the estimator assumes
uniform drift, a smooth structure factor and a flat slab. The truth is the coherent information between image and particles
(synthesis.truth), recomputed in twins with common random numbers.

    python benchmarks/ledger.py --count 200 --workers 2

Prints, with 95 % bootstrap intervals over micrographs: how often the top cause is right, Spearman's correlation of predicted and
true gains, both also for a shuffled graph (evidence of one cause handed to another) and for no graph (each cause gets the same share),
and how often each cause is abstained on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from cryoprism.causes import CAUSES, abstentions, information_under
from cryoprism.core import generator_for
from cryoprism.formats import MicrographRecord, OpticsGroup, write_mrc
from cryoprism.synthesis.phantom import phantom
from cryoprism.synthesis.render import detector_of, render_micrograph
from cryoprism.synthesis.scene import Scene, intervene
from cryoprism.synthesis.specimen import Specimen, specimen_from_phantom
from cryoprism.synthesis.truth import information_of
from cryoprism.workflow import RestoreConfig, map_items
from cryoprism.workflow._analysis import Task, analyse
from cryoprism.workflow.session import analyse_session

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


def interval(values: np.ndarray, statistic: object, seed: int = 0, draws: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval over micrographs."""
    rng = np.random.default_rng(seed)
    samples = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(draws)]  # type: ignore[operator]
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
    scene, _ = draw_scene(args.seed, 0)
    curve = detector_of(scene).mtf
    frequency = torch.linspace(0, 0.5, 51)
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
    _ = curve, frequency
    began = time.time()
    analyses = list(map_items(analyse, tasks, args.workers))
    names = [task.record.name for task in tasks]
    session = analyse_session(names, [a.estimate for a in analyses], workers=1)
    print(
        f"estimated in {time.time() - began:.0f} s; loop: {len(session.trace.passes)} passes, converged: {session.trace.converged}"
    )
    rows = []
    abstained = dict.fromkeys(PRICED, 0)
    present = dict.fromkeys(PRICED, 0)
    for truth, estimate, ledger in zip(truths, session.estimates, session.ledgers, strict=True):
        left_out = abstentions(estimate)
        observation = replace(estimate.observation, abstained=frozenset(left_out))
        now = information_under(observation)
        gains = dict(truth["gains"])  # type: ignore[call-overload]
        predicted = {}
        for cause in PRICED:
            priced = ledger.entries[cause].bits is not None
            predicted[cause] = information_under(observation, [cause]) - now if priced else 0.0
            if cause in gains:
                present[cause] += 1
                abstained[cause] += cause in left_out
        rows.append({"truth": gains, "predicted": predicted, **{k: truth[k] for k in ("name", "dominant", "bits")}, "estimated": ledger.information_in_bits})
    report(rows, present, abstained, args.seed)


def report(rows: list[dict[str, object]], present: dict[str, int], abstained: dict[str, int], seed: int) -> None:
    """Print the tables."""
    names = list(PRICED)
    true = np.array([[row["truth"].get(c, 0.0) for c in names] for row in rows])  # type: ignore[attr-defined]
    seen = np.array([[row["predicted"][c] for c in names] for row in rows])  # type: ignore[index]
    rng = np.random.default_rng(seed)
    arms = {
        "CryoPrism": seen,
        "shuffled graph": seen[:, rng.permutation(len(names))],
        "no graph": np.repeat(seen.mean(1, keepdims=True), len(names), 1) + 1e-9 * rng.random(seen.shape),
    }
    print(f"\n{'arm':<16}{'top cause right':>26}{'Spearman':>26}")
    for arm, values in arms.items():
        both = np.stack([true, values], -1)

        def top(x: np.ndarray) -> float:
            return float((x[..., 0].argmax(1) == x[..., 1].argmax(1)).mean())

        def rank(x: np.ndarray) -> float:
            active = x[..., 0] != 0
            return float(spearmanr(x[..., 0][active], x[..., 1][active]).statistic)

        t, r = interval(both, top, seed, 300), interval(both, rank, seed, 300)
        print(f"{arm:<16}{top(both):>10.3f} [{t[0]:.3f}, {t[1]:.3f}]{rank(both):>10.3f} [{r[0]:.3f}, {r[1]:.3f}]")
    print(f"\n{'cause':<18}{'present':>8}{'abstained':>10}{'dominant':>9}{'found':>7}{'median true':>13}{'median predicted':>17}{'Spearman':>10}")
    winner, guess = true.argmax(1), seen.argmax(1)
    for column, cause in enumerate(names):
        own = np.array([cause in row["truth"] for row in rows])  # type: ignore[operator]
        first = winner == column
        found = (guess[first] == column).mean() if first.any() else float("nan")
        rank_one = spearmanr(true[own, column], seen[own, column]).statistic if own.sum() > 2 else float("nan")
        strong = own & np.array([row["dominant"] == cause for row in rows])
        print(
            f"{cause:<18}{present[cause]:>8}{abstained[cause]:>10}{int(first.sum()):>9}{found:>7.2f}"
            f"{np.median(true[strong, column]) if strong.any() else float('nan'):>13.0f}{np.median(seen[strong, column]) if strong.any() else float('nan'):>17.0f}{rank_one:>10.2f}"
        )
    ratio = np.array([row["estimated"] / row["bits"] for row in rows])  # type: ignore[operator]
    print(f"\nestimated / true information: median {np.median(ratio):.2f}, 10 to 90 %: {np.percentile(ratio, 10):.2f} to {np.percentile(ratio, 90):.2f}")
    wrong = [(row["name"], names[w], names[g], round(true[i, w]), round(true[i, g]), round(seen[i, w]), round(seen[i, g])) for i, (row, w, g) in enumerate(zip(rows, winner, guess, strict=True)) if w != g]
    for line in wrong[:25]:
        print("  wrong:", *line)
    _ = CAUSES


if __name__ == "__main__":
    main()
