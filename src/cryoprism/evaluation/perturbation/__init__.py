"""What is fragile: fitted parameters moved within their posteriors, and which conclusion hangs on which of them."""

from .fragility import Conclusion, Fragility, judge_fragility
from .sensitivity import Index, Outcome, Parameter, Sensitivity, sensitivity

__all__ = [
    "Conclusion",
    "Fragility",
    "Index",
    "Outcome",
    "Parameter",
    "Sensitivity",
    "judge_fragility",
    "sensitivity",
]
