"""What an answer is: a value with its deviation and what it rests on, or why there is none and how to get it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cryoprism.core import InputError

__all__ = ["Answer", "Status", "Verdict", "available", "not_available", "not_tied"]

#: Of one obligation. ``unknown`` (time limit, no prover) never counts as proved.
Verdict = Literal["proved", "refuted", "unknown"]
Status = Literal["available", "not available", "not tied to the model"]


@dataclass(frozen=True)
class Answer:
    """Answer to one question about a result.

    Attributes
    ----------
    value
        From 0 to 1 (impact: a count, at least 0), or None where there is no answer.
    deviation
        Standard deviation of the value.
    status
        Whether there is an answer. One that is not tied to the model has its value, which is about something that
        nothing shows to be the model's, and does not count.
    sentences
        The evidence in words; where there is no answer, why and how to get one.
    evidence
        The evidence for programs: JSON values.
    """

    value: float | None
    deviation: float | None
    status: Status
    sentences: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what ``assessment.json`` holds of it."""
        return {
            "value": self.value,
            "standard_deviation": self.deviation,
            "status": self.status,
            "sentences": list(self.sentences),
            "evidence": dict(self.evidence),
        }


def available(
    value: float, deviation: float, sentences: Sequence[str], evidence: Mapping[str, Any] | None = None
) -> Answer:
    """Return an answer that there is.

    Raises
    ------
    InputError
        The value or its deviation is negative or not finite.
    """
    for name, number in (("value", value), ("deviation", deviation)):
        if not (math.isfinite(number) and number >= 0):
            raise InputError(name, f"{number} is no number of at least 0", "Say that the answer is not available.")
    return Answer(float(value), float(deviation), "available", tuple(sentences), dict(evidence or {}))


def not_available(why: str, how: str, evidence: Mapping[str, Any] | None = None) -> Answer:
    """Return that there is no answer, why, and how to get one."""
    return Answer(None, None, "not available", (why, how), dict(evidence or {}))


def not_tied(answer: Answer, why: str, how: str) -> Answer:
    """Return an answer about something that nothing shows to be the model's, why, and how to show it."""
    return replace(answer, status="not tied to the model", sentences=(f"Not counted. {why} {how}", *answer.sentences))
