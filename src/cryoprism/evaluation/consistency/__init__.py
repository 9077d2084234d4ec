"""Is a model consistent: rules as obligations over integers of 0.001 Å, witnesses in Python, verdicts by Coq."""

from ._cases import RULES, WEIGHTS, Offender
from ._certificate import TRUSTED
from ._coq import HOW_TO_INSTALL, PLAIN, CoqRun, Prover, coq_run, coq_version
from ._envelope import FINE, Envelope
from ._model import Model, Residue, read_model
from ._placement import placement_case
from ._symmetry import find_copies
from ._words import residue_words
from .check import Consistency, Limits, RuleResult, check_consistency

__all__ = [
    "FINE",
    "HOW_TO_INSTALL",
    "PLAIN",
    "RULES",
    "TRUSTED",
    "WEIGHTS",
    "Consistency",
    "CoqRun",
    "Envelope",
    "Limits",
    "Model",
    "Offender",
    "Prover",
    "Residue",
    "RuleResult",
    "check_consistency",
    "coq_run",
    "coq_version",
    "find_copies",
    "placement_case",
    "read_model",
    "residue_words",
]
