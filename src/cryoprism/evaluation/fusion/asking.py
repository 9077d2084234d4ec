"""Which pair to ask about next: by the information its answer is expected to give about the weights."""

from __future__ import annotations

from typing import Final

import numpy as np

from .learning import Posterior, outcome_probabilities
from .weights import COMPONENTS, Array

__all__ = ["expected_information_in_bits", "most_informative", "thompson"]

_MANY: Final = len(COMPONENTS)
_WEIGHTS: Final = 64
_NUISANCE: Final = 6


def expected_information_in_bits(
    posterior: Posterior, ahead: Array, generator: np.random.Generator, *, draws: int = _WEIGHTS
) -> Array:
    """Mutual information of the outcome and the weights, for each candidate pair.

    I = H(E_w P(y | w)) − E_w H(P(y | w)), where P(y | w) is averaged over the sharpness of the judge and the
    readiness to call a tie given w: what an answer says of these alone counts nothing.

    Parameters
    ----------
    posterior
        What is known now.
    ahead
        (n, 5) differences of the candidates.
    generator
        Source of the draws; all candidates share them.
    draws
        Of weights.

    Returns
    -------
    ndarray
        (n,) bits, from 0 to log2(3).
    """
    covariance = posterior.covariance
    own, cross = covariance[:_MANY, :_MANY], covariance[_MANY:, :_MANY]
    gain = cross @ np.linalg.inv(own)
    rest = covariance[_MANY:, _MANY:] - gain @ cross.T
    off = generator.standard_normal((draws, _MANY)) @ np.linalg.cholesky(own).T
    # The same for every draw of w: their scatter would look like information otherwise.
    spread = generator.standard_normal((_NUISANCE, 2)) @ np.linalg.cholesky(0.5 * (rest + rest.T)).T
    parameters = np.empty((draws, _NUISANCE, _MANY + 2))
    parameters[..., :_MANY] = (posterior.mode[:_MANY] + off)[:, None]
    parameters[..., _MANY:] = posterior.mode[_MANY:] + (off @ gain.T)[:, None] + spread
    given = outcome_probabilities(parameters, ahead).mean(axis=1)
    return np.asarray(np.maximum(_entropy(given.mean(axis=0)) - _entropy(given).mean(axis=0), 0.0))


def most_informative(posterior: Posterior, ahead: Array, generator: np.random.Generator) -> tuple[int, float]:
    """Return the candidate with the most expected information, and how many bits that is."""
    bits = expected_information_in_bits(posterior, ahead, generator)
    best = int(bits.argmax())
    return best, float(bits[best])


def thompson(posterior: Posterior, ahead: Array, generator: np.random.Generator) -> int:
    """Return the candidate about which two draws from the posterior disagree most.

    Thompson sampling for a question: each draw acts as if it were the truth, and the pair is asked that tells the two
    apart best (largest total variation between their outcome probabilities).
    """
    first, second = outcome_probabilities(posterior.sample(2, generator), ahead)
    return int(np.abs(first - second).sum(axis=-1).argmax())


def _entropy(probability: Array) -> Array:
    return np.asarray(-(probability * np.log2(np.maximum(probability, 1e-300))).sum(axis=-1))
