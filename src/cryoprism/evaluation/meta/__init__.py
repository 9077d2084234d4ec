"""Has the estimate settled: the self-evaluation loop's own ⋄, from the record of a restoration."""

from .settled import HOW_TO_GET_CAUSES, Settled, SettledCause, judge_settled

__all__ = ["HOW_TO_GET_CAUSES", "Settled", "SettledCause", "judge_settled"]
