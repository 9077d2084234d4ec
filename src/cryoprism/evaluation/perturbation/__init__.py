"""What is fragile: fitted parameters moved within their posteriors, and which conclusion hangs on which of them."""

from .conclusions import Conclusion
from .fragility import Fragility, judge_fragility, require_posteriors
from .sensitivity import Index, Outcome, Parameter, Sensitivity, sensitivity

__all__ = [
    "Conclusion",
    "Fragility",
    "Index",
    "Outcome",
    "Parameter",
    "Sensitivity",
    "judge_fragility",
    "require_posteriors",
    "sensitivity",
]
