"""Whether the novelty can be believed: reliability over proteins that the calibration has not seen."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cryoprism.evaluation.novelty import (
    Calibration,
    fit_calibration,
    known_probability,
    state_histogram,
    state_sequences,
    state_similarity,
    states_available,
)

from .panel import Panel, read_atoms

Array = NDArray[np.float64]
_FOLDS = 5
_BINS = (0.0, 0.02, 0.1, 0.3, 0.7, 0.9, 0.98, 1.0)


def _distances(panel: Panel) -> Array:
    """Distances (copies, models)."""
    return np.asarray(np.linalg.norm(panel.copies[:, None].astype(np.float64) - panel.models[None], axis=-1))


def _fit(panel: Panel, distances: Array, chosen: Sequence[int], seed: int, draws: int = 200) -> Calibration:
    related = panel.related()
    same, different = [], []
    for protein in chosen:
        mine = distances[panel.owner == protein]
        others = [other for other in chosen if not related[protein, other]]
        same.append(mine[:, protein])
        different.append(mine[:, others].ravel())
    facts = {
        "proteins": len(chosen),
        "copies": int(np.isin(panel.owner, list(chosen)).sum()),
        "seed": seed,
        "command": "python benchmarks/novelty.py --parts calibration --write FILE",
    }
    return fit_calibration(same, different, resolution_in_angstroms=10.0, seed=seed, draws=draws, facts=facts)


def fit_all(panel: Panel, seed: int) -> Calibration:
    """Calibration over every protein, with what 3Di states say of different ones."""
    law = _fit(panel, _distances(panel), range(len(panel.names)), seed)
    facts = dict(law.facts)
    if states_available():
        histograms = [state_histogram(state_sequences(read_atoms(name))) for name in panel.names]
        related = panel.related()
        values = [
            state_similarity(one, other)
            for i, one in enumerate(histograms)
            for j, other in enumerate(histograms[:i])
            if one is not None and other is not None and not related[i, j]
        ]
        quantiles = np.quantile(values, [0.5, 0.95, 0.99]).round(3).tolist()
        facts["state_similarity_of_different_proteins"] = dict(zip(("median", "95 %", "99 %"), quantiles, strict=True))
    return Calibration(
        law.coefficients, law.draws, law.resolution_in_angstroms, law.descriptor, law.range_of_distances, facts
    )


def measure_calibration(panel: Panel, seed: int) -> None:
    """Print the reliability of the novelty, and scores against baselines."""
    distances = _distances(panel)
    size = np.abs(np.log(panel.copy_radius)[:, None] - np.log(panel.radius)[None])
    mass = np.abs(np.log(panel.copy_volume)[:, None] - np.log(panel.volume)[None])
    print(
        f"\nHeld out by protein in {_FOLDS} folds, {len(panel.copies)} SIMULATED copies of {len(panel.names)} REAL "
        f"structures ({panel.refused} more showed no molecule), seed {seed}. Every copy is asked twice: of an index "
        "that holds its structure (known) and of one that holds neither it nor a relative (new).\n"
    )
    rows = []
    curves = {}
    for label, measure in (("shape descriptor", distances), ("radius of gyration alone", size), ("volume alone", mass)):
        for entries in (10, len(panel.names)):
            predicted, truth, owner = _held_out(panel, measure, entries, seed)
            curves[label, entries] = predicted, truth, owner
            rows.append((label, entries, *_scores(predicted, truth, owner, seed)))
    print("| what is compared | index | Brier score | calibration error (ECE) | AUC, new against known |")
    print("|---|---|---|---|---|")
    for label, entries, brier, error, auc in rows:
        print(f"| {label} | {entries} | {brier} | {error} | {auc} |")
    print("\nA constant 0.5 has a Brier score of 0.25.\n")
    for entries in (10, len(panel.names)):
        predicted, truth, owner = curves["shape descriptor", entries]
        print(f"Shape descriptor, index of {entries}:\n")
        print("| novelty said | answers | mean said | truly new (interval) |")
        print("|---|---|---|---|")
        for low, high in itertools.pairwise(_BINS):
            inside = (predicted >= low) & ((predicted < high) | (high == 1.0))
            if not inside.any():
                continue
            interval = _interval(_share_within(truth, inside), owner, seed)
            print(
                f"| {low:g} to {high:g} | {int(inside.sum())} | {predicted[inside].mean():.3f} | "
                f"{truth[inside].mean():.3f} ({interval[0]:.3f} to {interval[1]:.3f}) |"
            )
        print()


def _held_out(panel: Panel, measure: Array, entries: int, seed: int) -> tuple[Array, Array, NDArray[np.int64]]:
    """Novelty, whether it is new, and the protein, of every copy asked twice by a calibration that has not seen it."""
    rng = np.random.default_rng([seed, entries])
    related = panel.related()
    # Relatives stay in one fold: what is held out is no near relative of what was fitted.
    groups = np.array([int(np.flatnonzero(row)[0]) for row in related])
    fold_of = dict(zip(rng.permutation(np.unique(groups)).tolist(), np.arange(len(groups)) % _FOLDS, strict=False))
    fold = np.array([fold_of[group] for group in groups])
    predicted, truth, owner = [], [], []
    for number in range(_FOLDS):
        law = _fit(panel, measure, np.flatnonzero(fold != number).tolist(), seed, draws=1)
        for copy in np.flatnonzero(fold[panel.owner] == number):
            protein = int(panel.owner[copy])
            others = np.flatnonzero(~related[protein])
            for new in (False, True):
                most = min(entries - (not new), others.size)
                held = rng.choice(others, most, replace=False)
                held = held if new else np.append(held, protein)
                known = known_probability(law.log_ratio(measure[copy, held]), held.size, 0.5)
                predicted.append(1 - known)
                truth.append(float(new))
                owner.append(protein)
    return np.array(predicted), np.array(truth), np.array(owner)


def _scores(predicted: Array, truth: Array, owner: NDArray[np.int64], seed: int) -> tuple[str, str, str]:
    def brier(w: Array) -> float:
        return float((w * (predicted - truth) ** 2).sum() / w.sum())

    order = np.argsort(predicted)
    ten = np.array_split(order, 10)

    def error(w: Array) -> float:
        parts = [abs(float((w[b] * (predicted[b] - truth[b])).sum())) for b in ten]
        return sum(parts) / float(w.sum())

    def auc(w: Array) -> float:
        # Ties count half.
        new, old = truth > 0.5, truth < 0.5
        more = (predicted[new][:, None] > predicted[old]) + 0.5 * (predicted[new][:, None] == predicted[old])
        pairs = w[new][:, None] * w[old]
        return float((pairs * more).sum() / pairs.sum())

    return tuple(_shown(f, owner, seed, len(truth), times) for f, times in ((brier, 500), (error, 500), (auc, 60)))  # type: ignore[return-value]


def _share_within(truth: Array, inside: NDArray[np.bool_]) -> Callable[[Array], float]:
    return lambda w: float((w * truth)[inside].sum() / max(w[inside].sum(), 1e-12))


def _interval(
    f: Callable[[Array], float], owner: NDArray[np.int64], seed: int, times: int = 500
) -> tuple[float, float]:
    """95 % of a weighted statistic over samples of proteins with replacement."""
    rng = np.random.default_rng(seed)
    proteins = np.unique(owner)
    place = np.searchsorted(proteins, owner)
    values = [
        f(np.bincount(rng.integers(0, proteins.size, proteins.size), minlength=proteins.size)[place].astype(float))
        for _ in range(times)
    ]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _shown(f: Callable[[Array], float], owner: NDArray[np.int64], seed: int, count: int, times: int) -> str:
    low, high = _interval(f, owner, seed, times)
    return f"{f(np.ones(count)):.3f} ({low:.3f} to {high:.3f})"
