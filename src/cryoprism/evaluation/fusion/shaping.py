"""β, γ and κ of the score by Bayesian optimisation: how well differences of the score foretell held-out judgements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.optimize import minimize

from cryoprism.core import HOW_TO_INSTALL_ASSESS, InputError

from .judgements import Judgement, outcomes
from .learning import learn_from
from .score import hyperscore
from .weights import COMPONENTS, Array, Shape, Weights, default_shape, default_weights, softmax

__all__ = ["LearnedShape", "learn_shape", "score_log_likelihoods"]

_FOLDS: Final = 5
#: The default itself must pass.
_ROUNDED: Final = 1.0 - 1e-9
_TRIALS: Final = 60
#: Where β and κ (logarithmic) and γ are looked for.
_BETA, _GAMMA, _KAPPA = (0.5, 15.0), (-4.0, 3.0), (0.5, 5.0)


@dataclass(frozen=True)
class LearnedShape:
    """What the search found.

    Attributes
    ----------
    shape
        The one to use: the best, or the default where the best is not better beyond doubt.
    best
        The best on held-out judgements.
    gain, gain_error
        Mean logarithmic likelihood of a held-out judgement [nat]: how much more the best has than the default, and
        its standard error. It is the largest of many trials and so tends to look too good.
    pairs
        How many judgements could be used: those in which both have every answer.
    trials
        How many shapes were tried.
    """

    shape: Shape
    best: Shape
    gain: float
    gain_error: float
    pairs: int
    trials: int

    def to_json(self) -> dict[str, Any]:
        """Return what ``weights.json`` holds of it."""
        return {
            "best": self.best.to_json(),
            "held_out_gain_in_nats": self.gain,
            "standard_error": self.gain_error,
            "pairs": self.pairs,
            "trials": self.trials,
        }

    def sentence(self) -> str:
        """Say which shape is used and why."""
        found = f"{self.gain:.4f} ± {self.gain_error:.4f} nat a judgement in cross-validation on {self.pairs} pairs"
        doubt = f"As the best of {self.trials} tried on the same pairs it looks better than it is."
        best = f"β {self.best.beta:.2f}, γ {self.best.gamma:.2f}, κ {self.best.kappa:.2f}"
        if self.best == default_shape():
            return f"The shape of the score stays the default: none of {self.trials} others foretells better."
        if self.shape == self.best:
            return f"The shape of the score was learned: {best} foretells better than the default by {found}. {doubt}"
        return (
            f"The shape of the score stays the default: the best of {self.trials}, {best}, gains only {found}. {doubt}"
        )


def learn_shape(
    judgements: Sequence[Judgement],
    prior: Weights | None = None,
    *,
    seed: int = 0,
    trials: int = _TRIALS,
) -> LearnedShape:
    """Look for the shape whose differences foretell judgements best.

    Five-fold: weights and the link (P(a) ∝ e^{c·ΔH/2}, ties as in ``outcome_probabilities``) are learned on four
    fifths, the likelihood is that of the fifth. Optuna's tree-structured Parzen estimator proposes; the default is
    the first trial. Pairs that lack an answer are left out, as no V of theirs can be compared.

    The sharpness of the link is fitted beside the shape, so that judgements say nothing of the scale of the score: a
    shape that squeezes it into nothing foretells them as well. So a shape is tried only where the score rises from V =
    0 to 1, and spreads over the judged (their 5 % to 95 % quantiles), at least as far as the default's does.

    Raises
    ------
    InputError
        Optuna is not installed, or too few judgements have every answer.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError("optuna", "is not installed", HOW_TO_INSTALL_ASSESS) from error
    prior = default_weights() if prior is None else prior
    values = np.array([(one.a.vector(), one.b.vector()) for one in judgements], dtype=float)
    values = values.reshape(-1, 2, len(COMPONENTS))
    whole = np.isfinite(values).all(axis=(1, 2))
    values, told = values[whole], outcomes(judgements)[whole]
    if len(values) < 4 * _FOLDS:
        raise InputError(
            "judgements", f"{len(values)} pairs have every answer", f"Give at least {4 * _FOLDS} to learn a shape from."
        )
    fold = np.random.default_rng(seed).permutation(len(values)) % _FOLDS
    weights = [
        softmax(learn_from(values[fold != k, 0] - values[fold != k, 1], told[fold != k], prior).mode[: len(COMPONENTS)])
        for k in range(_FOLDS)
    ]

    def held_out(shape: Shape) -> Array:
        found = np.zeros(len(values))
        for k in range(_FOLDS):
            out = fold == k
            found[out] = score_log_likelihoods(values @ weights[k], told, shape, ~out)[out]
        return found

    default = default_shape()

    judged = values @ np.mean(weights, axis=0)

    def spread(shape: Shape) -> float:
        low, high = np.quantile(hyperscore(np.maximum(judged, 0.0), shape), (0.05, 0.95))
        return float(high - low)

    least = spread(default) * _ROUNDED

    def objective(trial: Any) -> float:
        shape = Shape(
            trial.suggest_float("beta", *_BETA, log=True),
            trial.suggest_float("gamma", *_GAMMA),
            trial.suggest_float("kappa", *_KAPPA, log=True),
        )
        if shape.rise < default.rise * _ROUNDED or spread(shape) < least:
            raise optuna.TrialPruned
        return float(held_out(shape).mean())

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        study.enqueue_trial(default.to_json())
        study.optimize(objective, n_trials=trials)
    finally:
        optuna.logging.set_verbosity(level)
    best = Shape(**study.best_params)
    ahead = held_out(best) - held_out(default)
    gain, doubt = float(ahead.mean()), float(ahead.std(ddof=1) / np.sqrt(len(ahead)))
    better = gain > 2 * doubt
    return LearnedShape(best if better else default, best, gain, doubt, len(values), trials)


def score_log_likelihoods(v: Array, told: Array, shape: Shape, learn_on: Array) -> Array:
    """Logarithm of the probability of each judgement, from the difference of the scores.

    Parameters
    ----------
    v
        (n, 2) V of a and of b.
    told
        (n, 3) outcomes.
    shape
        Of the score.
    learn_on
        (n,) true for the judgements that sharpness c and readiness to tie are fitted to.

    Returns
    -------
    ndarray
        (n,) [nat].
    """
    scores = hyperscore(np.maximum(v, 0.0), shape)
    ahead = scores[:, 0] - scores[:, 1]
    spread = float(ahead[learn_on].std()) or 1.0
    ahead = ahead / spread

    def all_of(link: Array) -> Array:
        d = np.exp(np.clip(link[0], -20, 20)) * ahead
        options = np.stack([d / 2, -d / 2, np.full_like(d, link[1])], axis=1)
        normaliser = options.max(axis=1) + np.log(np.exp(options - options.max(axis=1, keepdims=True)).sum(axis=1))
        return np.asarray((told * options).sum(axis=1) - normaliser)

    def loss(link: Array) -> float:
        # A weak pull keeps both finite where every judgement agrees or no tie was called.
        return float(-all_of(link)[learn_on].sum() + 0.5 * (((link - (0.5, -1.0)) / 2.0) ** 2).sum())

    return all_of(minimize(loss, np.array([0.5, -1.0]), method="L-BFGS-B").x)
