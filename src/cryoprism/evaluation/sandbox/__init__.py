"""Run foreign code: a program, a plug-in or a formula, behind walls and within limits, and say what it used."""

from .bubblewrap import Walls, walls
from .execution import NOT_PROTECTED, execute
from .limits import Accounting, Execution, Isolation, Limits, StoppedBy, Verdict
from .seccomp import seccomp_filter

__all__ = [
    "NOT_PROTECTED",
    "Accounting",
    "Execution",
    "Isolation",
    "Limits",
    "StoppedBy",
    "Verdict",
    "Walls",
    "execute",
    "seccomp_filter",
    "walls",
]
