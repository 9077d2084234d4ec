"""Run foreign code: a program, a plug-in or a formula, behind walls and within limits, and say what it used."""

from .bubblewrap import Walls, walls
from .execution import NOT_PROTECTED, execute
from .formula import FUNCTIONS, Derivative, Drawn, Formula, FormulaValue, Variable, parse_formula, parse_variable
from .limits import Accounting, Execution, Isolation, Limits, StoppedBy, Verdict
from .seccomp import seccomp_filter
from .units import Unit, parse_unit

__all__ = [
    "FUNCTIONS",
    "NOT_PROTECTED",
    "Accounting",
    "Derivative",
    "Drawn",
    "Execution",
    "Formula",
    "FormulaValue",
    "Isolation",
    "Limits",
    "StoppedBy",
    "Unit",
    "Variable",
    "Verdict",
    "Walls",
    "execute",
    "parse_formula",
    "parse_unit",
    "parse_variable",
    "seccomp_filter",
    "walls",
]
