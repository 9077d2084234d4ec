"""The self-evaluation loop π·i·△·⋄·∞: causes are judged, re-weighted and shared until nothing moves.

Five numbers in [0, 1] per cause: π inside physical bounds; i its share of the lost information; △ repeated by
independent halves; ⋄ stable between passes and not split between modes; ∞ not surprising under the session's prior.
Their product is the cause's weight: it says how strongly the micrograph shapes the session's prior of that cause in the
next pass, and in which order causes are corrected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import single_threaded

from .estimate import Estimate
from .graph import CAUSES
from .inference import Prior
from .ledger import Ledger
from .model import B_UNIT, DEFOCUS_UNIT, LAYOUT

__all__ = ["FITTED", "Gates", "LoopPass", "LoopTrace", "judge", "learn_prior", "run_loop"]

#: Causes that move with θ, and the entries of θ that carry them.
FITTED: Mapping[str, tuple[str, ...]] = {
    "defocus": ("defocus",),
    "astigmatism": ("astigmatism_c", "astigmatism_s"),
    "motion": ("drift_y", "drift_x"),
    "envelope": ("b_factor",),
}
#: Entries whose prior a session teaches; defocus is set anew for every exposure.
_SHARED = ("astigmatism_c", "astigmatism_s", "b_factor")
_UNITS = {"defocus": DEFOCUS_UNIT, "astigmatism": DEFOCUS_UNIT, "motion": 1.0, "envelope": B_UNIT}


@dataclass(frozen=True)
class Gates:
    """The five numbers of one cause of one micrograph, and the uncertainty of their product."""

    inside_bounds: float
    information: float
    repeats: float
    stable: float
    in_distribution: float
    deviation: float

    @property
    def weight(self) -> float:
        """π · i · △ · ⋄ · ∞."""
        return self.inside_bounds * self.information * self.repeats * self.stable * self.in_distribution


@dataclass(frozen=True)
class LoopPass:
    """One pass: largest move of a cause [its σ] and of a weight [its own uncertainty]; by cause, gates and moves."""

    largest_move_in_sigma: float
    largest_weight_move: float
    gates: Mapping[str, Gates]
    moves: Mapping[str, float]


@dataclass(frozen=True)
class LoopTrace:
    """All passes and whether the loop settled."""

    passes: tuple[LoopPass, ...]
    converged: bool


def _entries(name: str) -> list[int]:
    return [LAYOUT.index(entry) for entry in FITTED[name]]


def _distance(a: Tensor, b: Tensor, covariance: Tensor, name: str) -> float:
    """Mahalanobis distance per degree of freedom of two estimates; the sign of a drift does not matter."""
    index = _entries(name)
    inverse = torch.linalg.inv(covariance[index][:, index].double() + 1e-12 * torch.eye(len(index)))

    def length(d: Tensor) -> float:
        return math.sqrt(max(float(d @ inverse @ d), 0.0) / len(index))

    difference = (a[index] - b[index]).double()
    if name == "motion":
        return min(length(difference), length((a[index] + b[index]).double()))
    return length(difference)


def _phi(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def _value(estimate: Estimate, name: str) -> tuple[float, float]:
    """Leading number of a fitted cause and its standard deviation, in boundary units."""
    index = _entries(name)
    theta, covariance = estimate.fit.theta[index], estimate.fit.covariance[index][:, index]
    if len(index) == 1:
        return float(theta[0]) * _UNITS[name], math.sqrt(max(float(covariance[0, 0]), 0.0)) * _UNITS[name]
    length = float(theta.norm())
    direction = theta / max(length, 1e-6)
    return length * _UNITS[name], math.sqrt(max(float(direction @ covariance @ direction), 0.0)) * _UNITS[name]


@single_threaded
def judge(estimate: Estimate, ledger: Ledger, previous: Estimate | None) -> dict[str, Gates]:
    """Five numbers for every fitted or priced cause of a micrograph.

    Causes without an entry in θ (areas, rings, known curves) are measured or stated, not fitted: △ and ⋄ are 1 for
    them, and π says
    whether the measured value is possible.
    """
    shares = ledger.shares()
    lost = max(sum(max(entry.bits or 0.0, 0.0) for entry in ledger.entries.values()), 1e-9)
    gates: dict[str, Gates] = {}
    for name, cause in CAUSES.items():
        entry = ledger.entries[name]
        if name not in FITTED and entry.bits is None:
            continue
        share = shares.get(name, 0.0)
        spread = min((entry.deviation or 0.0) / lost, 1.0)
        inside, repeats, stable, typical = 1.0, 1.0, 1.0, 1.0
        if name in FITTED:
            value, sd = _value(estimate, name)
            low, high = cause.bounds
            inside = _phi((high - value) / max(sd, 1e-9)) - _phi((low - value) / max(sd, 1e-9))
            if name in {"astigmatism", "motion"}:  # lengths cannot be negative
                inside = _phi((high - value) / max(sd, 1e-9))
            # A field of one tile has no second half: what was not tested does not count as passed.
            repeats = 0.0
            if bool(torch.isfinite(estimate.halves).all()):
                halves = _distance(estimate.halves[0], estimate.halves[1], 4 * estimate.fit.covariance, name)
                repeats = math.exp(-0.5 * max(halves**2 - 1, 0.0))
            if previous is not None:
                moved = _distance(estimate.fit.theta, previous.fit.theta, estimate.fit.covariance, name)
                stable = math.exp(-0.5 * moved**2)
            stable *= 1 - estimate.other_mode
            prior = estimate.fit.prior
            spread_prior = torch.linalg.inv(prior.precision.double()).float() + estimate.fit.covariance
            surprise = _distance(estimate.fit.theta, prior.mean, spread_prior, name)
            typical = math.exp(-0.5 * max(surprise**2 - 4, 0.0))
        product = inside * repeats * stable * typical
        gates[name] = Gates(
            inside_bounds=min(max(inside, 0.0), 1.0),
            information=share,
            repeats=repeats,
            stable=stable,
            in_distribution=typical,
            deviation=product * spread + 0.02,
        )
    return gates


@single_threaded
def learn_prior(estimates: Sequence[Estimate], gates: Sequence[Mapping[str, Gates]], base: Prior) -> Prior:
    """Empirical Bayes: the session's prior from all micrographs, weighted by their gates.

    For every shared entry the mean and between-micrograph variance are those of one step of expectation maximisation,
    τ² = Σ w [(θ - μ)² +
    σ²] / Σ w, shrunk towards the prior of an unseen session as if that were worth three micrographs. The structure
    factor and
    the noise floor keep their smoothness prior around the session's mean. Drift has no common direction: only its
    size is learned.
    """
    usable = [index for index, estimate in enumerate(estimates) if estimate.rings.detected]
    if len(usable) < 3:
        return base
    theta = torch.stack([estimates[i].fit.theta for i in usable]).double()
    variance = torch.stack([estimates[i].fit.covariance.diagonal() for i in usable]).double()
    prior = base
    base_sd = base.standard_deviation.double()
    for entry in (*_SHARED, "drift_y", "drift_x"):
        index = LAYOUT.index(entry)
        name = next(cause for cause, entries in FITTED.items() if entry in entries)
        # What is sure counts; the information gate orders corrections, but a cause that costs nothing is still
        # learned from.
        weight = torch.tensor(
            [
                (g := gates[i][name]).inside_bounds * g.repeats * g.stable * g.in_distribution * (0.1 + g.information)
                for i in usable
            ],
            dtype=torch.float64,
        ).clamp_min(1e-3)
        weight = weight * len(usable) / weight.sum()
        values, noise = theta[:, index], variance[:, index]
        spread0 = float(base_sd[index]) ** 2
        between = values.var() if len(usable) > 3 else torch.tensor(spread0, dtype=torch.float64)
        sure = weight / (noise + between.clamp_min(1e-3 * spread0))
        if entry.startswith("drift"):
            mean = 0.0
        else:
            pull = 3.0 / (spread0 + float(between))
            mean = float(((sure * values).sum() + pull * float(base.mean[index])) / (sure.sum() + pull))
        scatter = float((weight * ((values - mean).square() + noise)).sum())
        tau2 = (scatter + 3.0 * spread0 * 0.3) / (len(usable) + 3.0)
        if entry.startswith("drift"):
            both = [LAYOUT.index("drift_y"), LAYOUT.index("drift_x")]
            scatter = float((weight[:, None] * (theta[:, both].square() + variance[:, both])).sum()) / 2
            tau2 = (scatter + 3.0 * spread0 * 0.3) / (len(usable) + 3.0)
        prior = prior.with_marginal(entry, mean, math.sqrt(max(tau2, 1e-4 * spread0)))
    # Structure factor: shape around the session's mean; its level stays free.
    means = prior.mean.clone()
    precision = prior.precision.clone()
    size = len(usable)
    signal = LAYOUT.signal
    coefficients = theta[:, signal]
    shape = coefficients - coefficients.mean(1, keepdim=True)
    shrink = size / (size + 3.0)
    means[signal] = (shrink * shape.mean(0)).float()
    # One specimen has one structure factor: its steps vary by a sixth of what they do among proteins.
    tighter = 1 + 40.0 * shrink
    block = base.precision[signal, signal]
    level = torch.ones_like(block) / block.shape[0] ** 2
    free = float(level.flatten() @ block.flatten() / (level.flatten() @ level.flatten()))
    precision[signal, signal] = (block - free * level) * tighter + free * level
    # Blur is counted from the sharpest quarter of the session.
    blur = theta[:, LAYOUT.index("b_factor")] * B_UNIT
    sharpest = max(float(torch.quantile(blur, 0.25)), 0.0)
    return Prior(means, precision, sharpest)


def run_loop(
    estimates: Sequence[Estimate],
    price: Callable[[Iterable[Estimate]], list[Ledger]],
    fit_again: Callable[[Iterable[Estimate], Prior], list[Estimate]],
    base: Prior,
    *,
    passes: int = 6,
) -> tuple[list[Estimate], list[Ledger], list[dict[str, Gates]], Prior, LoopTrace]:
    """Judge, share, fit again, until no cause moves by more than 1 σ and no weight by more than its own uncertainty.

    Parameters
    ----------
    estimates
        First estimates under the prior of an unseen session.
    price
        Makes the ledgers of many estimates (possibly in parallel).
    fit_again
        Fits many estimates again under a prior.
    base
        Prior of an unseen session.
    passes
        Upper limit.
    """
    current = list(estimates)
    ledgers = price(current)
    gates = [judge(e, book, None) for e, book in zip(current, ledgers, strict=True)]
    trace: list[LoopPass] = []
    prior, converged = base, False
    for _ in range(passes):
        prior = learn_prior(current, gates, base)
        fresh = fit_again(current, prior)
        fresh_ledgers = price(fresh)
        fresh_gates = [judge(new, book, old) for new, book, old in zip(fresh, fresh_ledgers, current, strict=True)]
        moves = {
            name: max(
                (
                    _distance(new.fit.theta, old.fit.theta, new.fit.covariance, name)
                    for new, old in zip(fresh, current, strict=True)
                    if new.rings.detected
                ),
                default=0.0,
            )
            for name in FITTED
        }
        move = max(moves.values())
        weight_move = max(
            (
                abs(new[name].weight - old[name].weight) / max(new[name].deviation, old[name].deviation)
                for new, old in zip(fresh_gates, gates, strict=True)
                for name in new
                if name in old
            ),
            default=0.0,
        )
        current, ledgers, gates = fresh, fresh_ledgers, fresh_gates
        trace.append(LoopPass(move, weight_move, _mean_gates(gates), moves))
        if move <= 1.0 and weight_move <= 1.0:
            converged = True
            break
    return current, ledgers, gates, prior, LoopTrace(tuple(trace), converged)


def _mean_gates(gates: Sequence[Mapping[str, Gates]]) -> dict[str, Gates]:
    out = {}
    for name in CAUSES:
        judged = [row[name] for row in gates if name in row]
        if judged:
            out[name] = Gates(
                *(
                    sum(getattr(gate, number) for gate in judged) / len(judged)
                    for number in ("inside_bounds", "information", "repeats", "stable", "in_distribution", "deviation")
                )
            )
    return out
