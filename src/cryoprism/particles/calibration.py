"""What a score is worth in the session at hand: probabilities from scores, and the threshold of even odds.

A picker's scores are calibrated on micrographs whose centres are known: a candidate with the score s is right with the
log-odds (Platt 1999)

    log p/(1 − p) = a s + b,   where a share π₀ of the candidates is right.

In another session more of the candidates, or fewer, are right. If particles and background score as they did before,
Bayes' rule adds logit π − logit π₀ to the log-odds, and the share π follows from the session's own scores without a
label, by expectation maximisation (Saerens, Latinne & Decaestecker 2002, Neural Computation 14, 21):

    π ← ⟨p(s; π)⟩ over all candidates.

A pick is kept where it is likelier right than wrong.

That estimate believes that background scores as it did in the calibration. Noise with the power of many particles
scores higher, and then some of it is taken for particles. So picks have to outnumber those of a null too: the same
micrographs with random Fourier phases (:func:`threshold_above_null`).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError

from .picks import threshold_for_false_discoveries

__all__ = ["Calibration", "fit_calibration", "threshold_above_null"]

_PASSES = 500
_SETTLED = 1e-6
_LEAST = 1e-4  # share that is never taken for impossible


@dataclass(frozen=True)
class Calibration:
    """Log-odds ``slope`` · score + ``offset`` of a candidate where a ``share`` of all is right.

    The share belongs to the lowest score that counted as a candidate, ``floor``: more is wrong below.
    """

    slope: float
    offset: float
    share: float
    floor: float

    def log_odds(self, scores: Tensor, share: float) -> Tensor:
        """Log-odds of candidates being right where so large a share of them is."""
        return self.slope * scores.double() + self.offset + _logit(share) - _logit(self.share)

    def share_of(self, scores: Tensor) -> float:
        """Share of the candidates of a session that are right; ``scores`` (n,) of all from ``floor`` on.

        Half a particle more in one candidate more keeps the estimate off 0 and 1.
        """
        candidates = scores[scores >= self.floor]
        share = self.share
        for _ in range(_PASSES):
            right = float(torch.sigmoid(self.log_odds(candidates, share)).sum())
            before, share = share, (right + 0.5) / (candidates.numel() + 1.0)
            share = min(max(share, _LEAST), 1 - _LEAST)
            if abs(share - before) < _SETTLED:
                break
        return share

    def threshold(self, share: float) -> float:
        """Score of even odds where so large a share of the candidates is right; the floor at least."""
        return max(self.floor, (_logit(self.share) - _logit(share) - self.offset) / self.slope)

    def to_text(self) -> str:
        """Return JSON, for the metadata of weights."""
        return json.dumps({name: round(value, 4) for name, value in asdict(self).items()}, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Calibration:
        """Read what :meth:`to_text` gave.

        Raises
        ------
        InputError
            Something else.
        """
        try:
            return cls(**{name: float(value) for name, value in json.loads(text).items()})
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError("calibration", f"cannot be read: {text[:80]}", "Train the picker anew.") from error


def fit_calibration(scores: Tensor, right: Tensor, floor: float) -> Calibration:
    """Fit the calibration to candidates of which it is known which are right.

    Parameters
    ----------
    scores
        (n,) of all candidates from ``floor`` on.
    right
        (n,) bool.
    floor
        Lowest score.

    Raises
    ------
    InputError
        All are right or all wrong, or the right ones do not score higher: then scores say nothing.
    """
    s, t = scores.double(), right.double()
    count, hits = t.numel(), float(t.sum())
    if not 0 < hits < count:
        raise InputError("scores", f"{hits:.0f} of {count} candidates are right", "Give right and wrong ones.")
    # Platt's targets: without them scores that separate perfectly would give an infinite slope.
    target = torch.where(right, (hits + 1) / (hits + 2), 1 / (count - hits + 2))
    design = torch.stack([s, torch.ones_like(s)], 1)
    weights = torch.zeros(2, dtype=torch.float64)
    for _ in range(100):  # Newton's method; the loss is convex
        p = torch.sigmoid(design @ weights)
        gradient = design.T @ (p - target)
        curvature = (design.T * (p * (1 - p)).clamp_min(1e-9)) @ design + 1e-9 * torch.eye(2, dtype=torch.float64)
        step = torch.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, 2.0 / max(float(step.abs().max()), 1e-12))
        if float(step.abs().max()) < 1e-10:
            break
    slope, offset = weights.tolist()
    if not slope > 0:
        raise InputError("scores", "do not tell right from wrong candidates", "Train for longer.")
    return Calibration(slope, offset, hits / count, floor)


def threshold_above_null(
    scores: Tensor, null_scores: Tensor, threshold: float, rate: float, *, surplus: int = 0
) -> float:
    """Lowest score, no lower than a threshold, from which on a null gives no more than a share of the picks.

    Parameters
    ----------
    scores, null_scores
        (n,), (m,) of the candidates of data and null over the same area.
    threshold
        Returned as it is where no null candidate reaches it, the surplus aside.
    rate
        Largest count in the null per pick of the data.
    surplus
        Added to the null's count. With 1 the chance that noise passes, n picks of it being exchangeable with their
        null, is no greater than the rate (Barber & Candès 2015, Ann. Stat. 43, 2055).

    Returns
    -------
    float
        Infinity where the data hold no more than the null.
    """
    null = null_scores[null_scores >= threshold].double()
    if not null.numel() and not surplus:
        return threshold
    found = scores[scores >= threshold].double()
    endless = torch.full((surplus,), math.inf, dtype=torch.float64)
    least = threshold_for_false_discoveries(found, torch.cat([null, endless]), rate)
    # The threshold itself where all picks above it will do, not the lowest of them.
    return threshold if found.numel() and least <= float(found.min()) else least


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
