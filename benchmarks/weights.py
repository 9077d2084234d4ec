"""How many judgements the weights of the score need, how honest their intervals are, and what a learned shape gains.

SIMULATED judges throughout: each has known weights (drawn from the prior), a known sharpness and calls ties as in
Davidson's model; assessments are drawn at random. Nobody was asked.

python benchmarks/weights.py [--parts questions coverage laplace shape] [--seeds 10] [--most 300]
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
from numpy.typing import NDArray

from cryoprism.evaluation.fusion import (
    COMPONENTS,
    Assessed,
    Judgement,
    Shape,
    default_shape,
    default_weights,
    hyperscore,
    learn_from,
    learn_shape,
    log_posterior,
    mended,
    most_informative,
    outcome_probabilities,
    policy_gradient,
    score_log_likelihoods,
    softmax,
    thompson,
)

Array = NDArray[np.float64]
MANY = len(COMPONENTS)
SHARPNESS = 15.0
CANDIDATES = 200
STEP = 10


def assessments(count: int, generator: np.random.Generator) -> Array:
    """(count, 5) what each component adds: four uniform from 0 to 1, impact ln(1 + citations) of a skewed count."""
    x = generator.random((count, MANY))
    x[:, 2] = np.log1p(generator.gamma(0.8, 10.0, count))
    return x


def answers(truth: Array, ahead: Array, generator: np.random.Generator) -> Array:
    """(n, 3) what a judge with these weights says."""
    parameters = np.concatenate([np.log(truth), [math.log(SHARPNESS), -1.0]])
    chance = outcome_probabilities(parameters, ahead)
    return np.eye(3)[(generator.random((len(ahead), 1)) > chance.cumsum(axis=1)).sum(axis=1)]


def error(weights: Array, truth: Array) -> float:
    """L1 distance."""
    return float(np.abs(weights - truth).sum())


def asked(how: str, seed: int, most: int) -> tuple[list[int], list[float]]:
    """Errors after so many judgements, questions chosen in one way."""
    generator = np.random.default_rng([seed, 1])
    truth = default_weights().sample(1, np.random.default_rng([seed, 0]))[0]
    pool = assessments(400, generator)
    ahead, told = np.zeros((0, MANY)), np.zeros((0, 3))
    found, logits = learn_from(ahead, told), None
    counts, errors = [0], [error(softmax(found.mode[:MANY]), truth)]
    for number in range(1, most + 1):
        pairs = generator.integers(0, len(pool), (CANDIDATES, 2))
        options = pool[pairs[:, 0]] - pool[pairs[:, 1]]
        if how.endswith("expected information"):
            chosen = most_informative(found, options, generator)[0]
        elif how == "Thompson sampling":
            chosen = thompson(found, options, generator)
        else:
            chosen = 0
        ahead = np.vstack([ahead, options[chosen]])
        told = np.vstack([told, answers(truth, options[chosen : chosen + 1], generator)])
        if how.startswith("policy gradient"):
            if number % STEP == 0:
                logits = policy_gradient(ahead, told, seed=seed, epochs=100, start=logits)
                counts.append(number)
                errors.append(error(softmax(logits), truth))
            if how.endswith("expected information"):
                found = learn_from(ahead, told, start=found.mode)
            continue
        found = learn_from(ahead, told, start=found.mode)
        if number % STEP == 0:
            counts.append(number)
            # Beyond 150 judgements mode and mean are alike (table below), and the mean costs more.
            read = mended(found, ahead, told) if number <= 150 else found
            errors.append(error(softmax(read.mode[:MANY]), truth))
    return counts, errors


def reached(counts: list[int], errors: list[float], goal: float = 0.1) -> float:
    """First count from which on the error stays at or below the goal for three readings; infinity if never."""
    below = np.array(errors) <= goal
    for i in range(len(below)):
        if below[i : i + 3].all() and i + 3 <= len(below):
            return counts[i]
    return math.inf


def interval(values: list[float], seed: int = 0) -> str:
    """Median with its 95 % bootstrap interval."""
    data = np.array(values)
    drawn = np.median(data[np.random.default_rng(seed).integers(0, len(data), (2000, len(data)))], axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975), method="nearest")
    return " ".join(["–" if not math.isfinite(np.median(data)) else f"{np.median(data):.0f}",
                     f"[{_count(low)}, {_count(high)}]"])  # fmt: skip


def mean_interval(values: list[float], digits: int, sign: str = "") -> str:
    """Mean with its 95 % bootstrap interval."""
    data = np.array(values)
    drawn = data[np.random.default_rng(0).integers(0, len(data), (2000, len(data)))].mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{data.mean():{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _count(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "never"


def questions(seeds: int, most: int) -> None:
    print(f"\nSIMULATED judges, {seeds} of them; questions are chosen among {CANDIDATES} random pairs each time.\n")
    print(
        "| questions, learner | judgements to reach 0.1 in L1: median [95 %] | reached | L1 after 50: mean [95 %] | "
        "after 100 | after 200 | CPU ms a question |"
    )
    print("|---|---|---|---|---|---|---|")
    for how in (
        "random",
        "expected information",
        "Thompson sampling",
        "policy gradient, random",
        "policy gradient, expected information",
    ):
        started = time.process_time()
        runs = [asked(how, seed, most) for seed in range(seeds)]
        spent = 1000 * (time.process_time() - started) / (seeds * most)
        needed = [reached(*run) for run in runs]
        at = [
            mean_interval([errors[counts.index(count)] for counts, errors in runs], 3) if count <= most else "–"
            for count in (50, 100, 200)
        ]
        print(
            f"| {how} | {interval(needed)} | {sum(map(math.isfinite, needed))} of {seeds} | {' | '.join(at)} | "
            f"{spent:.1f} |",
            flush=True,
        )


def coverage(seeds: int) -> None:
    print(f"\nShare of true weights inside the 95 % interval; {seeds} SIMULATED judges × 5 weights.\n")
    print("| judgements | questions | Laplace at the mode | mended by sampling |")
    print("|---|---|---|---|")
    for count in (20, 100):
        for how in ("random", "expected information"):
            inside: dict[str, list[bool]] = {"mode": [], "mended": []}
            for seed in range(seeds):
                generator = np.random.default_rng([seed, 2])
                truth = default_weights().sample(1, np.random.default_rng([seed, 0]))[0]
                ahead, told = judged(truth, count, how, generator)
                found = learn_from(ahead, told)
                for name, one in (("mode", found), ("mended", mended(found, ahead, told))):
                    known = one.weights.intervals()
                    inside[name] += [w["lower"] <= t <= w["upper"] for w, t in zip(known.values(), truth, strict=True)]
            cells = []
            for row in inside.values():
                by_judge = np.array(row).reshape(-1, MANY).mean(axis=1)  # the weights of one judge hang together
                cells.append(f"{by_judge.mean():.3f} ± {by_judge.std(ddof=1) / math.sqrt(seeds):.3f}")
            print(f"| {count} | {how} | {' | '.join(cells)} |", flush=True)
    widths = []
    before = np.mean([w["upper"] - w["lower"] for w in default_weights().intervals().values()])
    for seed in range(10):
        generator = np.random.default_rng([seed, 3])
        ahead = assessments(200, generator) - assessments(200, generator)
        told = np.eye(3)[generator.integers(0, 2, 200)]
        found = mended(learn_from(ahead, told), ahead, told)
        widths.append(np.mean([w["upper"] - w["lower"] for w in found.weights.intervals().values()]))
    print("\nNegative control: after 200 judgements by a coin the intervals are "
          f"{np.mean(widths) / before:.2f} of their width before.")  # fmt: skip


def laplace(seeds: int, steps: int = 20_000) -> None:
    print(
        f"\nAgainst two random-walk Metropolis chains of {steps:,} steps on the same posterior, {seeds} SIMULATED "
        "judges. Over judges and weights: largest difference of\na mean; mean [least, most] ratio of the standard "
        "deviation to the chains'; mean (largest) difference of an end of the 95 % interval. R̂: split potential "
        "scale\nreduction, "
        "largest; draws: least effective number for a weight.\n"
    )
    print(
        "| judgements | questions | Laplace: means | deviations | interval | mended by sampling: means | deviations | "
        "interval | R̂ | draws | CPU ms: Laplace, mended, chains |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for count, how in ((20, "random"), (20, "expected information"), (100, "random"), (100, "expected information"),
                       (500, "random")):  # fmt: skip
        gaps: list[list[float]] = [[], []]
        ratios: list[list[float]] = [[], []]
        ends: list[list[float]] = [[], []]
        spent: list[list[float]] = [[], [], []]
        scale, effective = 1.0, math.inf
        for seed in range(seeds):
            generator = np.random.default_rng([seed, 4])
            truth = default_weights().sample(1, np.random.default_rng([seed, 0]))[0]
            ahead, told = judged(truth, count, how, generator)
            clock = [time.process_time()]
            found = learn_from(ahead, told)
            clock.append(time.process_time())
            better = mended(found, ahead, told)
            clock.append(time.process_time())
            chains = np.stack([
                softmax(metropolis(better.sample(1, generator)[0], better.covariance, ahead, told, generator, steps)[
                    :, :MANY]) for _ in range(2)
            ])  # fmt: skip
            clock.append(time.process_time())
            r, n = settled(chains)
            scale, effective = max(scale, r), min(effective, n)
            chain = chains.reshape(-1, MANY)
            for k in range(3):
                spent[k].append(1000 * (clock[k + 1] - clock[k]))
            edges = np.quantile(chain, (0.025, 0.975), axis=0)
            for k, one in enumerate((found, better)):
                normal = softmax(one.sample(20_000, generator)[:, :MANY])
                gaps[k].append(float(np.abs(chain.mean(0) - normal.mean(0)).max()))
                ratios[k] += (normal.std(0) / chain.std(0)).tolist()
                ends[k] += np.abs(np.quantile(normal, (0.025, 0.975), axis=0) - edges).ravel().tolist()
        cells = [
            f"{max(gaps[k]):.3f} | {np.mean(ratios[k]):.2f} [{min(ratios[k]):.2f}, {max(ratios[k]):.2f}] | "
            f"{np.mean(ends[k]):.3f} ({max(ends[k]):.3f})"
            for k in range(2)
        ]
        print(
            f"| {count} | {how} | {' | '.join(cells)} | {scale:.3f} | {effective:.0f} | "
            f"{', '.join(f'{np.mean(s):.0f}' for s in spent)} |",
            flush=True,
        )


def judged(truth: Array, count: int, how: str, generator: np.random.Generator) -> tuple[Array, Array]:
    """Differences of so many pairs, chosen in one way, and what the judge says of them."""
    if how == "random":
        ahead = assessments(count, generator) - assessments(count, generator)
        return ahead, answers(truth, ahead, generator)
    pool = assessments(400, generator)
    ahead, told = np.zeros((0, MANY)), np.zeros((0, 3))
    found = learn_from(ahead, told)
    for _ in range(count):
        pairs = generator.integers(0, len(pool), (50, 2))
        options = pool[pairs[:, 0]] - pool[pairs[:, 1]]
        best = most_informative(found, options, generator)[0]
        ahead = np.vstack([ahead, options[best]])
        told = np.vstack([told, answers(truth, options[best : best + 1], generator)])
        found = learn_from(ahead, told, start=found.mode)
    return ahead, told


def metropolis(
    start: Array, covariance: Array, ahead: Array, told: Array, generator: np.random.Generator, steps: int
) -> Array:
    """Draws of the exact posterior, the first tenth left out."""
    root = np.linalg.cholesky(covariance) * 2.38 / math.sqrt(len(start))
    prior = default_weights()
    at, value = start, log_posterior(start, ahead, told, prior)[0]
    draws = np.empty((steps, len(start)))
    for i in range(steps):
        tried = at + root @ generator.standard_normal(len(start))
        new = log_posterior(tried, ahead, told, prior)[0]
        if math.log(generator.random()) < new - value:
            at, value = tried, new
        draws[i] = at
    return draws[steps // 10 :]


def settled(chains: Array) -> tuple[float, float]:
    """Largest split R̂ and least effective number of draws over the last axis of (chains, steps, weights).

    Gelman et al., Bayesian Data Analysis, sections 11.4 and 11.5; autocorrelations up to the first below 0.05.
    """
    half = chains.shape[1] // 2
    parts = np.concatenate([chains[:, :half], chains[:, half : 2 * half]])
    within = parts.var(axis=1, ddof=1).mean(axis=0)
    between = half * parts.mean(axis=1).var(axis=0, ddof=1)
    r = np.sqrt(((half - 1) / half * within + between / half) / within)
    number = math.inf
    for weight in range(chains.shape[2]):
        off = chains[:, :, weight] - chains[:, :, weight].mean(axis=1, keepdims=True)
        power = np.abs(np.fft.rfft(off, 2 * off.shape[1], axis=1)) ** 2
        memory = np.fft.irfft(power, axis=1)[:, : off.shape[1]].sum(axis=0)
        memory /= memory[0]
        last = int((memory < 0.05).argmax())
        number = min(number, off.size / (1 + 2 * memory[1:last].sum()))
    return float(r.max()), number


def shape(seeds: int, trials: int) -> None:
    print(
        "\nShape of the score found by Optuna on held-out pairs of 400 judgements, then tested on 2,000 fresh pairs of"
    )
    print(
        f"the same SIMULATED judges (of two, each gives half); {seeds} seeds each, {trials} trials. Nat a\n"
        "judgement more than the default.\n"
    )
    print(
        "| judges, by what they go | gain held out (what the search sees) | gain on fresh pairs: mean [95 %] | "
        "default kept |"
    )
    print("|---|---|---|---|")
    steep, flat = Shape(14.0, 7.0, 4.0), Shape(2.0, 2.5, 1.0)
    judges = {
        "one: the default shape": [(default_shape(), False)],
        "one: β 14, γ 7, κ 4 (all below V ≈ 0.6 alike)": [(steep, False)],
        "one: β 2, γ 2.5, κ 1 (differences at low V count)": [(flat, False)],
        "two of the default shape, weights the other way round": [(default_shape(), False), (default_shape(), True)],
        "two of β 14, γ 7, κ 4, weights the other way round": [(steep, False), (steep, True)],
        "two, β 14, γ 7, κ 4 and β 2, γ 2.5, κ 1, the same weights": [(steep, False), (flat, False)],
    }
    for words, several in judges.items():
        seen, fresh, kept = [], [], 0
        for seed in range(seeds):
            generator = np.random.default_rng([seed, 5])
            w = default_weights().sample(1, np.random.default_rng([seed, 0]))[0]
            pairs = np.array([assessments(2, generator) for _ in range(2400)])
            told = np.empty((len(pairs), 3))
            for number, (true_shape, turned) in enumerate(several):
                mine = np.arange(len(pairs)) % len(several) == number
                # Turned: what weighs most for one weighs least for the other.
                own = np.sort(w)[::-1][w.argsort().argsort()] if turned else w
                scores = hyperscore(pairs[mine] @ own, true_shape)
                d = (scores[:, 0] - scores[:, 1]) / (scores[:, 0] - scores[:, 1]).std()
                options = softmax(np.stack([1.5 * d, -1.5 * d, np.full_like(d, -1.0)], axis=1))
                told[mine] = np.eye(3)[(generator.random((len(d), 1)) > options.cumsum(axis=1)).sum(axis=1)]
            spoken = [judgement(pair, int(k)) for pair, k in zip(pairs[:400], told[:400].argmax(axis=1), strict=True)]
            found = learn_shape(spoken, seed=seed, trials=trials)
            kept += found.shape == default_shape()
            seen.append(found.gain)
            learned = softmax(learn_from(pairs[:400, 0] - pairs[:400, 1], told[:400]).mode[:MANY])
            first = np.arange(len(pairs)) < 400
            ahead = score_log_likelihoods(pairs @ learned, told, found.shape, first)
            behind = score_log_likelihoods(pairs @ learned, told, default_shape(), first)
            fresh.append(float((ahead - behind)[~first].mean()))
        print(
            f"| {words} | {np.mean(seen):+.4f} | {mean_interval(fresh, 4, '+')} | {kept} of {seeds} |",
            flush=True,
        )


def judgement(pair: Array, picked: int) -> Judgement:
    """Return the pair as people give it: impact as a count."""
    sides = []
    for x in pair:
        values = dict(zip(COMPONENTS, x.tolist(), strict=True))
        sides.append(Assessed("simulated", values | {"impact": math.expm1(values["impact"])}))
    return Judgement(sides[0], sides[1], ("a", "b", "tie")[picked])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("questions", "coverage", "laplace", "shape")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--most", type=int, default=300, help="judgements at most")
    parser.add_argument("--trials", type=int, default=40)
    given = parser.parse_args()
    if "questions" in given.parts:
        questions(given.seeds, given.most)
    if "coverage" in given.parts:
        coverage(2 * given.seeds)
    if "laplace" in given.parts:
        laplace(max(2, given.seeds // 2))
    if "shape" in given.parts:
        shape(max(2, given.seeds // 2), given.trials)


if __name__ == "__main__":
    main()
