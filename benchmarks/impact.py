"""Forecasts of citations by four models, their intervals and their time.

SIMULATED citation graphs throughout (preferential attachment × fitness × log-normal ageing × topics): no bibliographic
dump is at hand here, so nothing below says how well real papers are forecast. Strict in time: models train on
snapshots ten years and more before "now", are chosen on the one five years before, and are tested on what the graph
does in the five years after "now", which they never see.

python benchmarks/impact.py [--seeds 6] [--works 3000] [--patents 0.15]
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from cryoprism.evaluation.impact import (
    HORIZON_IN_YEARS,
    MODELS,
    Conformal,
    fit_model,
    later_citations,
    simulate_citations,
    snapshot,
)

Array = NDArray[np.float64]
NOW = 2015.0


def interval(values: list[float], form: str = ".3f") -> str:
    """Mean over the graphs with its 95 % bootstrap interval."""
    data = np.array(values)
    drawn = data[np.random.default_rng(0).integers(0, len(data), (4000, len(data)))].mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{data.mean():{form}} [{low:{form}}, {high:{form}}]"


class Row:
    """Figures of one model over the graphs."""

    def __init__(self) -> None:
        self.error: list[float] = []
        self.behind: list[float] = []
        self.rank: list[float] = []
        self.coverage: list[float] = []
        self.width: list[float] = []
        self.seconds: list[float] = []
        self.chosen = 0


def one_graph(seed: int, works: int, patents: float, by_patents: bool, rows: dict[str, Row]) -> int:
    graph = simulate_citations(works, seed=seed, patents=patents)
    known = graph.until(NOW)
    validation = NOW - HORIZON_IN_YEARS
    cuts = [snapshot(known, validation - HORIZON_IN_YEARS - back) for back in range(3)]
    targets = [later_citations(known, cut, by_patents=by_patents) for cut in cuts]
    check, test = snapshot(known, validation), snapshot(known, NOW)
    checked = np.log1p(later_citations(known, check, by_patents=by_patents))
    truth = later_citations(graph, test, by_patents=by_patents)
    order = np.random.default_rng(seed).permutation(len(checked))
    choose, rest = order[: len(order) // 2], order[len(order) // 2 :]
    on_validation, on_test = {}, {}
    for name in MODELS:
        started = time.process_time()
        model = fit_model(name, cuts, targets, seed)
        before, found = model.predict(check), model.predict(test)
        rows[name].seconds.append(time.process_time() - started)
        on_validation[name] = float(np.abs(before - checked)[choose].mean())
        on_test[name] = float(np.abs(found - np.log1p(truth)).mean())
        made = Conformal.of(before[rest], checked[rest]).predict(found)
        inside = (made.lower <= truth + 1e-9) & (truth <= made.upper + 1e-9)
        rows[name].coverage.append(float(inside.mean()))
        rows[name].width.append(float((np.log1p(made.upper) - np.log1p(made.lower)).mean()))
        rows[name].error.append(on_test[name])
        if name != "median of the past":  # which has no order
            rows[name].rank.append(float(spearmanr(found, truth)[0]))
    for name in rows:
        rows[name].behind.append(on_test[name] - on_test["preferential attachment"])
    rows[min(MODELS, key=lambda name: on_validation[name])].chosen += 1
    return len(truth)


def table(seeds: int, works: int, patents: float, by_patents: bool) -> None:
    rows = {name: Row() for name in MODELS}
    tested = [one_graph(seed, works, patents, by_patents, rows) for seed in range(seeds)]
    what = "patents" if by_patents else "works"
    print(
        f"\nCitations by {what} in five years, {seeds} SIMULATED graphs of {works:,} works (and {patents:g} patents for"
    )
    print(f"each), {np.mean(tested):.0f} works tested a graph; mean over graphs [95 % bootstrap].\n")
    print(
        "| model | MAE of ln(1 + c) | less than preferential attachment's | Spearman | 95 % interval covers | its "
        "width in ln(1 + c) | chosen | CPU s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        print(
            f"| {name} | {interval(row.error)} | "
            f"{'' if name == 'preferential attachment' else interval([-x for x in row.behind], '+.3f')} | "
            f"{interval(row.rank) if row.rank else '–'} | {interval(row.coverage)} | {np.mean(row.width):.2f} | "
            f"{row.chosen} of {seeds} | {np.mean(row.seconds):.1f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--works", type=int, default=3000)
    parser.add_argument("--patents", type=float, default=0.15)
    given = parser.parse_args()
    table(given.seeds, given.works, given.patents, False)
    table(max(2, given.seeds // 2), given.works, given.patents, True)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"\nAll of it: {used.ru_utime + used.ru_stime:.0f} CPU s, {used.ru_maxrss / 1e6:.2f} GB at most.")


if __name__ == "__main__":
    main()
