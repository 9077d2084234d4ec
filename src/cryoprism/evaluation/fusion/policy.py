"""Weights by reinforcement learning: a policy that picks the better of two is rewarded where the judge agrees."""

from __future__ import annotations

from typing import Final

import numpy as np

from .learning import NUISANCE_MEAN
from .weights import COMPONENTS, Array, Weights, default_weights, softmax

__all__ = ["policy_gradient"]

_MANY: Final = len(COMPONENTS)
_EPOCHS: Final = 300
_RATE: Final = 0.05


def policy_gradient(
    ahead: Array,
    told: Array,
    prior: Weights | None = None,
    *,
    seed: int = 0,
    epochs: int = _EPOCHS,
    start: Array | None = None,
) -> Array:
    """Learn logits by REINFORCE with a baseline.

    The policy picks a with probability σ(s·(V_a − V_b)); the reward is 1 where the judge picked the same, ½ for a
    tie, 0 otherwise. The baseline is, for each pair, the running mean of its rewards, so that only surprises move the
    weights. Each epoch picks once for every judgement; the prior pulls as one Gaussian factor. It has no posterior: it
    stands beside the Bradley–Terry weights as a check that another way of learning comes to the same.

    Parameters
    ----------
    ahead, told
        (n, 5) and (n, 3), as for :func:`learn_from`.
    prior
        The default if None.
    seed
        Of the picks.
    epochs
        Passes over the judgements.
    start
        (5,) logits to begin with; those of the prior if None.

    Returns
    -------
    ndarray
        (5,) logits: the mean of the second half of the epochs, as the last one alone is noisy.
    """
    prior = default_weights() if prior is None else prior
    mean = np.asarray(prior.logits)
    precision = np.linalg.inv(np.asarray(prior.covariance))
    generator = np.random.default_rng(seed)
    logits = mean.copy() if start is None else start.copy()
    sharpness = float(np.exp(NUISANCE_MEAN[0]))
    right = told[:, 0] + 0.5 * told[:, 2]  # reward of picking a; that of picking b is 1 minus it
    baseline = np.full(len(ahead), 0.5)
    first, second = np.zeros(_MANY), np.zeros(_MANY)
    total = np.zeros(_MANY)
    for epoch in range(epochs):
        weights = softmax(logits)
        middle = ahead @ weights
        chance = 1 / (1 + np.exp(-np.clip(sharpness * middle, -50, 50)))
        picked = generator.random(len(ahead)) < chance
        reward = np.where(picked, right, 1 - right)
        score = sharpness * weights * (ahead - middle[:, None]) * (picked - chance)[:, None]
        gradient = ((reward - baseline)[:, None] * score).sum(axis=0) - precision @ (logits - mean)
        baseline += 0.1 * (reward - baseline)
        first = 0.9 * first + 0.1 * gradient  # Adam: the size of the reward's gradient falls as the policy settles
        second = 0.99 * second + 0.01 * gradient**2
        step = (first / (1 - 0.9 ** (epoch + 1))) / (np.sqrt(second / (1 - 0.99 ** (epoch + 1))) + 1e-8)
        logits = logits + _RATE * step
        if epoch >= epochs // 2:
            total += logits
    return total / (epochs - epochs // 2)
