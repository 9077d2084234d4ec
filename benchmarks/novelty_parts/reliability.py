"""Whether the novelty can be believed: reliability over proteins that the calibration has not seen."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cryoprism.evaluation.novelty import (
    SAMPLE,
    Calibration,
    Crowd,
    StatePairs,
    fit_calibration,
    known_probability,
    shipped_calibration,
)

from .chains import Chains
from .panel import Panel
from .scale import BLOCK, SyntheticShapes

Array = NDArray[np.float64]
_FOLDS = 5
_BINS = (0.0, 0.02, 0.1, 0.3, 0.7, 0.9, 0.98, 1.0)


def _fit(
    panel: Panel,
    distances: Array,
    chosen: Sequence[int],
    seed: int,
    draws: int = 200,
    states: Sequence[StatePairs] = (),
) -> Calibration:
    related = panel.related()
    same, different = [], []
    for protein in chosen:
        mine = distances[panel.owner == protein]
        others = [other for other in chosen if not related[protein, other]]
        same.append(mine[:, protein])
        different.append(mine[:, others])
    facts = {
        "proteins": len(chosen),
        "copies": int(np.isin(panel.owner, list(chosen)).sum()),
        "chains_with_states": len(states),
        "seed": seed,
        "command": "python benchmarks/novelty.py --parts calibration --write FILE",
    }
    return fit_calibration(
        same, different, states=states, resolution_in_angstroms=10.0, seed=seed, draws=draws, facts=facts
    )


def fit_all(panel: Panel, chains: Chains | None, seed: int) -> Calibration:
    """Calibration over every protein, with 3Di states where mini3di is there."""
    pairs = [] if chains is None else chains.pairs(np.arange(len(chains.codes)))
    law = _fit(panel, panel.distances(), range(len(panel.names)), seed, states=pairs)
    facts = dict(law.facts)
    # Measured by --parts crowds on folds of the same proteins; kept until it is measured anew.
    kept = "calibration_error_by_entries"
    if kept in shipped_calibration().facts:
        facts[kept] = shipped_calibration().facts[kept]
    if pairs:
        values = np.concatenate([one.different[:, 1] for one in pairs])
        quantiles = np.quantile(values, [0.5, 0.95, 0.99]).round(3).tolist()
        facts["state_similarity_of_different_proteins"] = dict(zip(("median", "95 %", "99 %"), quantiles, strict=True))
    return Calibration(
        law.coefficients, law.draws, law.resolution_in_angstroms, law.descriptor, law.range_of_distances, facts
    )


def measure_calibration(panel: Panel, seed: int) -> None:
    """Print the reliability of the novelty, and scores against baselines."""
    distances = panel.distances()
    size = np.abs(np.log(panel.copy_radius)[:, None] - np.log(panel.radius)[None])
    mass = np.abs(np.log(panel.copy_volume)[:, None] - np.log(panel.volume)[None])
    print(
        f"\nHeld out by protein in {_FOLDS} folds, {len(panel.copies)} SIMULATED copies of {len(panel.names)} REAL "
        f"structures ({panel.refused} more showed no molecule; every other one as deposited: low frequencies lost, "
        f"sharpened, mostly with flat solvent), seed {seed}. Every copy is asked twice: of an index "
        "that holds its structure (known) and of one that holds neither it nor a relative (new).\n"
    )
    rows = []
    curves = {}
    for label, measure, crowded in (
        ("shape and its crowd", distances, True),
        ("shape alone", distances, False),
        ("radius of gyration alone", size, False),
        ("volume alone", mass, False),
    ):
        for entries in (10, len(panel.names)):
            predicted, truth, owner = _held_out(panel, measure, entries, seed, crowded)
            curves[label, entries] = predicted, truth, owner
            rows.append((label, entries, *_scores(predicted, truth, owner, seed)))
    print("| what is compared | index | Brier score | calibration error (ECE) | AUC, new against known |")
    print("|---|---|---|---|---|")
    for label, entries, brier, error, auc in rows:
        print(f"| {label} | {entries} | {brier} | {error} | {auc} |")
    print("\nA constant 0.5 has a Brier score of 0.25.\n")
    for entries in (10, len(panel.names)):
        print(f"Shape and its crowd, index of {entries}:\n")
        _curve(*curves["shape and its crowd", entries], seed)


def _curve(predicted: Array, truth: Array, owner: NDArray[np.int64], seed: int) -> None:
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


def _folds(related: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Fold of each protein; relatives share one, so that what is held out is no near relative of what was fitted."""
    groups = np.array([int(np.flatnonzero(row)[0]) for row in related])
    rng = np.random.default_rng(seed)
    fold_of = dict(zip(rng.permutation(np.unique(groups)).tolist(), np.arange(len(groups)) % _FOLDS, strict=False))
    return np.array([fold_of[group] for group in groups])


def measure_states(panel: Panel, chains: Chains, seed: int) -> None:
    """Print what 3Di states add for models: the same questions with shape alone and with both."""
    fold = _folds(chains.related(), seed)
    of_panel = {code: int(f) for code, f in zip(chains.codes, fold, strict=True)}
    related = chains.related()
    rng = np.random.default_rng([seed, 3])
    found: dict[str, list[float]] = {"shape alone": [], "shape and 3Di states": []}
    truth, owner = [], []
    for number in range(_FOLDS):
        kept = [i for i, name in enumerate(panel.names) if of_panel.get(name[:4]) != number]
        law = _fit(panel, panel.distances(), kept, seed, draws=0, states=chains.pairs(np.flatnonzero(fold != number)))
        for view in np.flatnonzero(fold[chains.owner] == number):
            protein = int(chains.owner[view])
            others = np.flatnonzero(~related[protein])
            for new in (False, True):
                held = others if new else np.append(rng.permutation(others)[1:], protein)
                distances, alike = chains.distances[view, held], chains.similarities[view, held]
                crowd = Crowd.of(distances)
                for label, states in (("shape alone", None), ("shape and 3Di states", alike)):
                    ratios = law.log_ratio(distances, states, crowd)
                    found[label].append(1 - known_probability(ratios, held.size, 0.5))
                truth.append(float(new))
                owner.append(protein)
    t, o = np.array(truth), np.array(owner)
    print(
        f"\n3Di states beside the shape: {len(chains.owner)} views of {len(chains.codes)} REAL chains asked of the "
        f"first chains ({int(chains.real.sum())} views REAL: another copy in the crystal or another entry; the others "
        "SIMULATED, bent by up to 2 Å and every atom off by up to 0.3 Å), models on both sides, held out by protein "
        f"in {_FOLDS} folds; each asked with its chain in the index and without, seed {seed}.\n"
    )
    print("| what is compared | Brier score | calibration error (ECE) | AUC, new against known | REAL views, Brier |")
    print("|---|---|---|---|---|")
    real = np.repeat(chains.real[np.concatenate([np.flatnonzero(fold[chains.owner] == k) for k in range(_FOLDS)])], 2)
    for label, values in found.items():
        p = np.array(values)
        print(f"| {label} | {' | '.join(_scores(p, t, o, seed))} | {float(((p - t)[real] ** 2).mean()):.4f} |")
    for label, values in found.items():
        print(f"\n{label[0].upper() + label[1:]}:\n")
        _curve(np.array(values), t, o, seed)


def measure_crowds(panel: Panel, counts: Sequence[int], seed: int) -> None:
    """Print the reliability in indexes of ever more SYNTHETIC strangers, made of proteins other than the query's."""
    distances = panel.distances()
    fold = _folds(panel.related(), seed)
    labels = ("with the crowd", "without it", "index size ignored")
    print(
        f"\nIndexes of SYNTHETIC strangers (mixtures of REAL descriptors of proteins in other folds), "
        f"{len(panel.copies)} SIMULATED copies, each asked with its own REAL structure among them and without, law "
        f"fitted on the other folds, seed {seed}:\n"
    )
    print("| strangers | law | Brier score | calibration error (ECE) | AUC | mean novelty said, new / known |")
    print("|---|---|---|---|---|---|")
    for count in counts:
        said: dict[str, list[float]] = {label: [] for label in labels}
        truth, owner = [], []
        for number in range(_FOLDS):
            law = _fit(panel, distances, np.flatnonzero(fold != number).tolist(), seed, draws=0)
            shapes = SyntheticShapes(panel, seed, np.flatnonzero(fold != number))
            asked = np.flatnonzero(fold[panel.owner] == number)
            near, crowds = _strangers(shapes, panel.copies[asked], count)
            for row, copy in enumerate(asked):
                protein = int(panel.owner[copy])
                for new in (False, True):
                    own = [] if new else [distances[copy, protein]]
                    d = np.append(near[row], own)
                    size = count + (not new)
                    for label in labels:
                        ratios = law.log_ratio(d, None, crowds[row] if label == labels[0] else None)
                        entries = len(panel.names) if label == labels[2] else size
                        said[label].append(1 - known_probability(ratios, entries, 0.5))
                    truth.append(float(new))
                    owner.append(protein)
        t, o = np.array(truth), np.array(owner)
        for label in labels:
            p = np.array(said[label])
            means = f"{p[t > 0.5].mean():.3f} / {p[t < 0.5].mean():.3f}"
            print(f"| {count:,} | {label} | {' | '.join(_scores(p, t, o, seed))} | {means} |", flush=True)
        if count == max(counts):
            print(f"\n{count:,} strangers, with the crowd:\n")
            _curve(np.array(said[labels[0]]), t, o, seed)


def _strangers(shapes: SyntheticShapes, looks: NDArray[np.float32], count: int) -> tuple[Array, list[Crowd]]:
    """Distances (m, 64) of queries (m, k, d) to the nearest of ``count`` strangers, and their crowds."""
    asked = looks.reshape(-1, looks.shape[-1])
    near = np.full((len(looks), 64), np.inf)
    crowds: list[Crowd] = []
    for start in range(0, count, BLOCK):
        vectors = shapes.block("strangers", start // BLOCK, min(BLOCK, count - start))
        squares = (asked**2).sum(1)[:, None] + (vectors**2).sum(1) - 2 * asked @ vectors.T
        d = np.sqrt(np.maximum(squares, 0)).reshape(len(looks), -1, len(vectors)).min(1)
        if not crowds:
            crowds = [Crowd.of(row[:SAMPLE].astype(np.float64)) for row in d]
        nearest = np.partition(d, 64, axis=1)[:, :64] if d.shape[1] > 64 else d
        near = np.sort(np.concatenate([near, nearest], 1), axis=1)[:, :64]
    return near, crowds


def _held_out(
    panel: Panel, measure: Array, entries: int, seed: int, crowded: bool
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Novelty, whether it is new, and the protein, of every copy asked twice by a calibration that has not seen it."""
    rng = np.random.default_rng([seed, entries])
    related = panel.related()
    fold = _folds(related, seed)
    predicted, truth, owner = [], [], []
    for number in range(_FOLDS):
        law = _fit(panel, measure, np.flatnonzero(fold != number).tolist(), seed, draws=0)
        for copy in np.flatnonzero(fold[panel.owner] == number):
            protein = int(panel.owner[copy])
            others = np.flatnonzero(~related[protein])
            for new in (False, True):
                most = min(entries - (not new), others.size)
                held = rng.choice(others, most, replace=False)
                held = held if new else np.append(held, protein)
                crowd = Crowd.of(measure[copy, held]) if crowded else None
                known = known_probability(law.log_ratio(measure[copy, held], None, crowd), held.size, 0.5)
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
