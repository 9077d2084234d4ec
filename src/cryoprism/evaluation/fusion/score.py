"""One score from five answers: V and HyperScore, with what is not known about answers and weights carried through."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cryoprism.core import InputError
from cryoprism.evaluation.evidence import Answer

from .weights import (
    COMPONENTS,
    SYMBOLS,
    Array,
    Shape,
    Weights,
    default_shape,
    default_weights,
    impact_bound_in_citations,
)

__all__ = ["Estimate", "Fusion", "component_values", "fuse", "hyperscore"]

_DRAWS: Final = 20_000
#: Share of the draws that an interval holds.
_WITHIN: Final = 0.95
#: Of a uniform distribution from 0 to 1: no deviation about a most probable value is larger.
_WIDEST: Final = 12**-0.5
#: A shift of an answer's mean by less than this is not worth a sentence.
_WORTH_SAYING: Final = 0.005


def hyperscore(v: Array | float, shape: Shape) -> Array:
    """Return 100·[1 + σ(β·ln V + γ)^κ], σ(x) = 1/(1 + e^−x).

    At V = 0, where ln V does not exist, the limit is taken: σ → 0 because β > 0, so 100.

    Parameters
    ----------
    v
        Any shape, at least 0.
    shape
        β, γ, κ.

    Raises
    ------
    InputError
        A V is negative or no number.
    """
    values = np.asarray(v, dtype=float)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise InputError("V", "is negative or no number", "Give answers of at least 0.")
    with np.errstate(divide="ignore"):  # ln 0 = −∞ gives σ = 0: the limit
        return np.asarray(100.0 * (1.0 + expit(shape.beta * np.log(values) + shape.gamma) ** shape.kappa))


def component_values(answers: Mapping[str, Answer]) -> dict[str, float | None]:
    """Return what each component adds per unit of weight: its value, for impact ln(Impact + 1).

    None where there is no answer, or one that is not tied to the model.
    """
    found: dict[str, float | None] = {}
    for name in COMPONENTS:
        value = answers[name].value if name in answers and answers[name].status == "available" else None
        found[name] = math.log1p(value) if value is not None and name == "impact" else value
    return found


@dataclass(frozen=True)
class Estimate:
    """A number with what is not known about it.

    Attributes
    ----------
    value
        The formula at the values themselves.
    mean, deviation
        Over draws of answers and weights; for the mean logic stands at its value, see :func:`fuse`.
    lower, upper
        The shortest interval that holds 95 % of the draws and ``value``; of the score that of V, taken through the
        formula. It is one-sided where the value is a most probable one at the end of its range.
    """

    value: float
    mean: float
    deviation: float
    lower: float
    upper: float

    def to_json(self) -> dict[str, float]:
        """Return the numbers by name."""
        return {
            "value": self.value,
            "mean": self.mean,
            "standard_deviation": self.deviation,
            "lower": self.lower,
            "upper": self.upper,
        }


@dataclass(frozen=True)
class Fusion:
    """V and HyperScore of one assessment.

    Attributes
    ----------
    v, score
        None where not one component has an answer.
    weights
        Weight of each component as used, after those without an answer were shared out; 0 for these.
    full_weights
        Weight of each before that.
    contributions
        Weight times what the component adds; None without an answer.
    missing
        Components without an answer.
    v_range, score_range
        What V and HyperScore could be with the missing components anywhere from 0 to their bound (1; impact: the
        logarithm of the bound in ``defaults.json``), with their own weights and the 95 % spread of weights and of the
        answers that there are; never narrower than the interval. None where nothing is missing.
    drawn_means
        Mean of the draws of each answer whose deviation does not go with its value as a mean, see :func:`fuse`.
    shape
        β, γ, κ.
    judgements
        How many judgements the weights in use rest on; 0 for the prior.
    sentences
        All of it in words, the score first.
    """

    v: Estimate | None
    score: Estimate | None
    weights: Mapping[str, float]
    full_weights: Mapping[str, float]
    contributions: Mapping[str, float | None]
    missing: tuple[str, ...]
    v_range: tuple[float, float] | None
    score_range: tuple[float, float] | None
    drawn_means: Mapping[str, float]
    shape: Shape
    judgements: int
    sentences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what ``assessment.json`` holds of it."""
        return {
            "v": None if self.v is None else self.v.to_json(),
            "hyperscore": None if self.score is None else self.score.to_json(),
            "weights": dict(self.weights),
            "weights_before_sharing": dict(self.full_weights),
            "contributions": dict(self.contributions),
            "missing": list(self.missing),
            "v_range": None if self.v_range is None else list(self.v_range),
            "hyperscore_range": None if self.score_range is None else list(self.score_range),
            "drawn_means": dict(self.drawn_means),
            "shape": self.shape.to_json(),
            "judgements": self.judgements,
            "sentences": list(self.sentences),
        }


def fuse(
    answers: Mapping[str, Answer],
    weights: Weights | None = None,
    shape: Shape | None = None,
    *,
    seed: int = 0,
    draws: int = _DRAWS,
) -> Fusion:
    """Fuse answers: V = w1·Logic + w2·Novelty + w3·ln(Impact + 1) + w4·Repro + w5·Meta, and HyperScore of V.

    Answers are drawn from Beta distributions of their means and deviations, impact from a gamma distribution (a count
    is skewed and never negative), weights from theirs. No distribution from 0 to 1 with mean m has a variance of
    m(1 − m) or more; an answer such as “4 of 4, so 1 ± 0.14” states its most probable value, and is drawn from the Beta
    distribution with that mode and that deviation (at most that of a uniform one). ``drawn_means`` says which. An
    impact of 0 ± s is drawn from the exponential distribution with that deviation, whose mode is 0. A component without
    an answer is left out and its weight shared among the others in proportion to theirs.

    The mean of V and of the score takes logic at its value, where an obligation without a verdict counts as not
    proved. Its spread, which grows with what is open, is in the deviation and the interval alone: a time limit that
    leaves more open can lower a centre and widen an interval, and never raises a centre.

    Parameters
    ----------
    answers
        By component (``COMPONENTS``); one that is not listed counts as not available, and so does one that is not
        tied to the model.
    weights, shape
        The defaults if None. Weights learned from too few judgements are replaced by their prior.
    seed
        Of the draws.
    draws
        How many.

    Raises
    ------
    InputError
        An answer has an unknown name or lies outside its range.
    """
    _require_in_range(answers)
    untied = tuple(name for name in COMPONENTS if name in answers and answers[name].status == "not tied to the model")
    answers = {name: answer for name, answer in answers.items() if answer.status == "available"}
    told = default_weights() if weights is None else weights
    used = told.in_use
    shape = default_shape() if shape is None else shape
    full = np.array([used.mean[name] for name in COMPONENTS])
    values = component_values(answers)
    known = np.array([values[name] is not None for name in COMPONENTS])
    missing = tuple(name for name in COMPONENTS if values[name] is None)
    at = np.array([0.0 if values[name] is None else float(values[name] or 0.0) for name in COMPONENTS])
    share = np.where(known, full, 0.0) / full[known].sum() if known.any() else np.zeros(len(COMPONENTS))
    v = score = v_range = score_range = None
    why_wide = ""
    if known.any():
        generator = np.random.default_rng(seed)
        own_weights = used.sample(draws, generator)
        drawn_weights = own_weights * known
        drawn_weights /= drawn_weights.sum(axis=1, keepdims=True)
        drawn = np.stack([_draw(name, answers.get(name), draws, generator) for name in COMPONENTS], axis=1)
        sums = (drawn_weights * drawn).sum(axis=1)
        low, high = _shortest(float(share @ at), sums)
        logic = COMPONENTS.index("logic")
        # What is open must not raise a centre: in every draw fewer proofs give a lower V, and so a lower score.
        centre = sums + drawn_weights[:, logic] * (at[logic] - drawn[:, logic])
        v = Estimate(float(share @ at), float(centre.mean()), float(sums.std()), low, high)
        ends = hyperscore(np.array([v.value, low, high]), shape)
        scores = hyperscore(sums, shape)
        score = Estimate(
            *map(float, (ends[0], hyperscore(centre, shape).mean(), scores.std(), ends[1], ends[2])),
        )
        if missing:
            bounds = np.array([math.log1p(impact_bound_in_citations()) if n == "impact" else 1.0 for n in COMPONENTS])
            least = (own_weights * np.where(known, drawn, 0.0)).sum(axis=1)
            most = (own_weights * np.where(known, drawn, bounds)).sum(axis=1)
            v_range = (
                min(low, float(full @ at), float(np.quantile(least, 0.025))),
                max(high, float(full @ np.where(known, at, bounds)), float(np.quantile(most, 0.975))),
            )
            score_range = (float(hyperscore(v_range[0], shape)), float(hyperscore(v_range[1], shape)))
            why_wide = _why_wide(full, bounds, known, own_weights, used.judgements)
    drawn_means = {
        name: a / (a + b)
        for name, answer in answers.items()
        if answer.value is not None and name != "impact" and _is_mode(answer.value, answer.deviation or 0.0)
        for a, b in (_beta(answer.value, answer.deviation or 0.0),)
    }
    return Fusion(
        v=v,
        score=score,
        weights=dict(zip(COMPONENTS, share.tolist(), strict=True)),
        full_weights=dict(zip(COMPONENTS, full.tolist(), strict=True)),
        contributions={
            name: None if values[name] is None else float(share[i] * at[i]) for i, name in enumerate(COMPONENTS)
        },
        missing=missing,
        v_range=v_range,
        score_range=score_range,
        drawn_means=drawn_means,
        shape=shape,
        judgements=used.judgements,
        sentences=_sentences(
            v,
            score,
            missing,
            v_range,
            score_range,
            told,
            why_wide,
            _untied(untied) + _modes_in_words(answers, drawn_means),
        ),
    )


def _require_in_range(answers: Mapping[str, Answer]) -> None:
    for name, answer in answers.items():
        if name not in COMPONENTS:
            raise InputError(name, "is no component of the score", f"The components are {', '.join(COMPONENTS)}.")
        limit, reach = (math.inf, "at least 0") if name == "impact" else (1.0, "from 0 to 1")
        if answer.value is not None and not (math.isfinite(answer.value) and 0 <= answer.value <= limit):
            raise InputError(name, f"the answer is {answer.value}", f"Give an answer {reach}, or none.")
        if answer.deviation is not None and not (math.isfinite(answer.deviation) and answer.deviation >= 0):
            raise InputError(name, f"the standard deviation is {answer.deviation}", "Give one of at least 0, or none.")


def _is_mode(value: float, deviation: float) -> bool:
    """Whether no distribution from 0 to 1 has this mean and this deviation."""
    return deviation > 0 and deviation**2 >= value * (1.0 - value) * (1.0 - 1e-9)


def _beta(value: float, deviation: float) -> tuple[float, float]:
    """Parameters of the Beta distribution with this mean, or else this mode, and this deviation (above 0)."""
    if not _is_mode(value, deviation):
        worth = value * (1.0 - value) / deviation**2 - 1.0
        return value * worth, (1.0 - value) * worth
    # a − 1 and b − 1 share out what was observed; the deviation falls with it, from that of a uniform distribution.
    low, high = -30.0, 60.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        a, b = 1.0 + value * math.exp(middle), 1.0 + (1.0 - value) * math.exp(middle)
        wide = math.sqrt(a * b / (a + b + 1.0)) / (a + b) > min(deviation, _WIDEST)
        low, high = (middle, high) if wide else (low, middle)
    return a, b


def _draw(name: str, answer: Answer | None, draws: int, generator: np.random.Generator) -> Array:
    """Draws of what a component adds: one in each of as many equally probable strata, so that means hold closely.

    Always drawn: a component that goes missing leaves the others' draws as they are.
    """
    uniform = (generator.permutation(draws) + generator.random(draws)) / draws
    if answer is None or answer.value is None:
        return np.zeros(draws)
    mean, deviation = answer.value, answer.deviation or 0.0
    if name == "impact":
        if deviation == 0:
            return np.full(draws, math.log1p(mean))
        from scipy.stats import gamma

        if mean == 0:  # no count of at least 0 has this mean and a spread: 0 is the most probable one
            return np.asarray(np.log1p(gamma.ppf(uniform, 1.0, scale=deviation)))
        return np.asarray(np.log1p(gamma.ppf(uniform, (mean / deviation) ** 2, scale=deviation**2 / mean)))
    if deviation < 1e-9:
        return np.full(draws, mean)
    from scipy.stats import beta

    return np.asarray(beta.ppf(uniform, *_beta(mean, deviation)))


def _why_wide(full: Array, bounds: Array, known: NDArray[np.bool_], drawn_weights: Array, judgements: int) -> str:
    """Say in one sentence why the range with the missing answers is as wide as it is: the one that could add most."""
    at = int(np.where(known, -1.0, full * bounds).argmax())
    low, high = np.quantile(drawn_weights[:, at], [0.025, 0.975])
    name, bound = COMPONENTS[at], float(bounds[at])
    rests = f"rests on {judgements} judgements" if judgements else "is a guess from before any judgement"
    each = f"ln({impact_bound_in_citations():g} + 1) = {bound:.2f}" if name == "impact" else f"{bound:g}"
    return (
        f"That range is wide because a missing answer may be anything: {name} alone could add from 0 to {each} times "
        f"its weight, and that weight, {full[at]:.2f} (95 % {low:.2f} to {high:.2f}), {rests}."
    )


def _untied(names: tuple[str, ...]) -> list[str]:
    if not names:
        return []
    return [
        f"{' and '.join(names)} {'counts' if len(names) == 1 else 'count'} as missing: there is a value, but nothing "
        "ties it to this model."
    ]


def _modes_in_words(answers: Mapping[str, Answer], drawn_means: Mapping[str, float]) -> list[str]:
    said = []
    for name, mean in drawn_means.items():
        value, deviation = answers[name].value or 0.0, answers[name].deviation or 0.0
        if abs(mean - value) >= _WORTH_SAYING:
            said.append(
                f"{name} {value:.2f} ± {deviation:.2f} is a most probable value: its spread goes one way, so the "
                f"intervals rest on a mean of {mean:.2f}."
            )
    return said


def _shortest(value: float, drawn: Array) -> tuple[float, float]:
    """Return the shortest interval that holds 95 % of the draws and the value."""
    ordered = np.sort(drawn)
    within = math.ceil(_WITHIN * len(ordered))
    low = np.minimum(ordered[: len(ordered) - within + 1], value)
    high = np.maximum(ordered[within - 1 :], value)
    best = int((high - low).argmin())
    return float(low[best]), float(high[best])


def _sentences(
    v: Estimate | None,
    score: Estimate | None,
    missing: tuple[str, ...],
    v_range: tuple[float, float] | None,
    score_range: tuple[float, float] | None,
    weights: Weights,
    why_wide: str,
    modes: list[str],
) -> tuple[str, ...]:
    if v is None or score is None:
        return ("There is no score: not one component has an answer.",)
    many = len(COMPONENTS)
    interval = f"95 % {score.lower:.1f} to {score.upper:.1f}; V {v.value:.3f}, 95 % {v.lower:.3f} to {v.upper:.3f}"
    if v_range is None or score_range is None:
        said = [f"HyperScore {score.value:.1f} from all {many} answers ({interval})."]
    else:
        bound = impact_bound_in_citations()
        counted = f" (impact counted up to {bound:g} citations)" if "impact" in missing else ""
        there = many - len(missing)
        few = len(missing) == 1
        *most, last = [f"{name} ({SYMBOLS[name]})" for name in missing]
        names = f"{', '.join(most)} and {last}" if most else last
        said = [
            f"HyperScore {score.value:.1f} from {there} answer{'' if there == 1 else 's'} of {many}; with the missing "
            f"answer{'' if few else 's'} anywhere, between {score_range[0]:.1f} and {score_range[1]:.1f}{counted}.",
            f"Of the answer{'' if there == 1 else 's'} that there {'is' if there == 1 else 'are'} alone: {interval}. "
            f"{names} {'has' if few else 'have'} no answer: {'its' if few else 'their'} weight is shared among the "
            f"others. Only the range from {score_range[0]:.1f} to {score_range[1]:.1f} (V {v_range[0]:.3f} to "
            f"{v_range[1]:.3f}), with the spread of the weights and of the other answers, holds what "
            f"{'it' if few else 'they'} could be: compare by that.",
            why_wide,
        ]
    if v.value == 0:
        said.append("V is 0, where its logarithm does not exist: the score is the limit, 100.")
    said += modes
    said.append(weights.sentence())
    return tuple(said)
