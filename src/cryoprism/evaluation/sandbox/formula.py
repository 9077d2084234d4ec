"""A user's formula: read without running any text, its units checked, value and derivatives found in the sandbox."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from cryoprism.core import HOW_TO_INSTALL_ASSESS, InputError

from .execution import execute
from .limits import Execution, Isolation, Limits
from .units import DIMENSIONLESS, Unit, parse_unit

__all__ = ["FUNCTIONS", "Derivative", "Drawn", "Formula", "FormulaValue", "Variable", "parse_formula", "parse_variable"]

#: What may be called, each with one argument without a unit (``sqrt`` and ``abs``: with any). ``sinc(x)`` is sin(x)/x.
FUNCTIONS: Final = frozenset({
    "abs", "acos", "asin", "atan", "cos", "cosh", "erf", "exp", "log", "log10", "log2", "sin", "sinc", "sinh", "sqrt",
    "tan", "tanh",
})  # fmt: skip
_OPERATORS: Final[dict[type[ast.operator], str]] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**",
}  # fmt: skip
_LONGEST: Final = 2000
#: Draws of the variables beside the derivatives, their seed, and how far the two may lie apart.
_DRAWS: Final = 4096
_SEED: Final = 0
_AGREE: Final = 0.2
_NORMAL_95: Final = 1.96
_DEEPEST: Final = 60
_PROGRAM: Final = Path(__file__).with_name("_formula_program.py")
_VARIABLE: Final = re.compile(
    r"^\s*(?P<name>\w+)\s*=\s*(?P<value>[+-]?[\d.]+(?:[eE][+-]?\d+)?)"
    r"(?:\s*(?:±|\+/-)\s*(?P<deviation>[\d.]+(?:[eE][+-]?\d+)?))?(?:\s+(?P<unit>\S.*)|(?P<close>[^\W\d_]\S*|°|%))?\s*$"
)
_DEFAULT_LIMITS: Final = Limits(
    cpu_seconds=20.0, memory_in_gigabytes=1.0, wall_seconds=60.0, files_in_megabytes=1.0, processes=16
)


@dataclass(frozen=True)
class Variable:
    """A value with its standard deviation (0: exact) and unit."""

    name: str
    value: float
    deviation: float
    unit: Unit


@dataclass(frozen=True)
class Derivative:
    """By one variable: as text, its value in base units, its unit, and the share of the variance that it brings in.

    The value is None where it is no finite real number.
    """

    expression: str
    value: float | None
    unit: str
    share_of_variance: float | None


@dataclass(frozen=True)
class Drawn:
    """What normal draws of the variables give, each independent of the others.

    Attributes
    ----------
    deviation, interval
        Standard deviation and 2.5 to 97.5 % of the draws with a finite value, in the unit of the formula's value; None
        where there is none.
    share_finite
        Of the draws.
    """

    deviation: float | None
    interval: tuple[float, float] | None
    share_finite: float

    def agrees_with(self, value: float, deviation: float) -> bool:
        """Whether value ± deviation says the same: deviation and ends of the 95 % interval within 20 %."""
        if self.deviation is None or self.interval is None or self.share_finite < 1:
            return False
        room = _AGREE * max(self.deviation, deviation)
        ends = (value - _NORMAL_95 * deviation, value + _NORMAL_95 * deviation)
        near = all(abs(a - b) <= _NORMAL_95 * room for a, b in zip(ends, self.interval, strict=True))
        return near and abs(self.deviation - deviation) <= room

    def to_json(self) -> dict[str, Any]:
        """Return what ``sandbox.json`` holds of it."""
        low, high = self.interval or (None, None)
        return {
            "draws": _DRAWS,
            "seed": _SEED,
            "share_finite": self.share_finite,
            "standard_deviation": self.deviation,
            "low": low,
            "high": high,
        }


@dataclass(frozen=True)
class FormulaValue:
    """What came out of a formula.

    Attributes
    ----------
    expression
        As sympy writes it.
    value, deviation
        In ``unit``; the deviation by the derivatives (first order, independent variables).
    unit
        As asked for, or of base units.
    derivatives
        By variable.
    drawn
        What draws give; None where every variable is exact.
    execution
        The run that found it.
    """

    expression: str
    value: float
    deviation: float
    unit: str
    derivatives: Mapping[str, Derivative]
    drawn: Drawn | None
    execution: Execution

    @property
    def first_order_holds(self) -> bool:
        """Whether the draws say the same as the derivatives."""
        return self.drawn is None or self.drawn.agrees_with(self.value, self.deviation)

    def to_json(self) -> dict[str, Any]:
        """Return what ``sandbox.json`` holds of it."""
        derivatives = {name: vars(derivative) for name, derivative in self.derivatives.items()}
        return {
            "expression": self.expression,
            "value": self.value,
            "standard_deviation": self.deviation if self.first_order_holds else None,
            "first_order_standard_deviation": self.deviation,
            "first_order_holds": self.first_order_holds,
            "drawn": None if self.drawn is None else self.drawn.to_json(),
            "unit": self.unit,
            "derivatives": derivatives,
        }


@dataclass(frozen=True)
class Formula:
    """A formula that was read and whose units fit.

    Attributes
    ----------
    text
        As given.
    tree
        Operations as nested lists.
    variables
        Those given, by name.
    unit
        Dimension of the result, in base units.
    """

    text: str
    tree: list[Any]
    variables: Mapping[str, Variable]
    unit: Unit

    def evaluate(
        self, *, unit: str | None = None, limits: Limits | None = None, isolation: Isolation = "bubblewrap"
    ) -> FormulaValue | Execution:
        """Return value and derivatives; the run alone where it was stopped by a limit or failed.

        Parameters
        ----------
        unit
            In which the value is wanted; base units if absent.
        limits, isolation
            As in :func:`execute`.

        Raises
        ------
        InputError
            The unit does not fit, sympy is absent, the value is no finite real number, or no sandbox can be made.
        """
        wanted = self.unit.base if unit is None else parse_unit(unit, "--unit")
        if not wanted.is_like(self.unit):
            raise InputError("--unit", f"the formula gives {self.unit}, not {unit}", f"Ask for {self.unit} or like it.")
        if importlib.util.find_spec("sympy") is None:
            raise InputError("sympy", "is not installed", HOW_TO_INSTALL_ASSESS)
        values = {name: variable.value * variable.unit.factor for name, variable in self.variables.items()}
        deviations = {name: variable.deviation * variable.unit.factor for name, variable in self.variables.items()}
        task = json.dumps(
            {"tree": self.tree, "values": values, "deviations": deviations, "draws": _DRAWS, "seed": _SEED}
        )
        command = [sys.executable, "-c", _PROGRAM.read_text(encoding="utf-8"), task]
        run = execute(command, limits=limits or _DEFAULT_LIMITS, isolation=isolation)
        if run.verdict != "finished":
            return run
        answer = json.loads(run.printed)
        slopes = {name: slope["value"] for name, slope in answer["derivatives"].items()}
        missing = [name for name, slope in slopes.items() if slope is None and self.variables[name].deviation > 0]
        if answer["value"] is None or missing:
            what = "the formula" if answer["value"] is None else f"its derivative by {missing[0]}"
            raise InputError("--formula", f"{what} is no finite real number here", "Give other values.")
        parts = {
            name: 0.0 if variable.deviation == 0 else (slopes[name] * variable.deviation * variable.unit.factor) ** 2
            for name, variable in self.variables.items()
        }
        variance = sum(parts.values())
        derivatives = {
            name: Derivative(
                slope["expression"],
                slope["value"],
                str(self.unit.times(self.variables[name].unit.base, Fraction(-1))),
                parts[name] / variance if variance > 0 else None,
            )
            for name, slope in answer["derivatives"].items()
        }
        return FormulaValue(
            expression=answer["expression"],
            value=answer["value"] / wanted.factor,
            deviation=math.sqrt(variance) / wanted.factor,
            unit=str(wanted) if unit is None else unit,
            derivatives=derivatives,
            drawn=_drawn(answer["drawn"], wanted.factor),
            execution=run,
        )


def _drawn(answer: Mapping[str, Any] | None, factor: float) -> Drawn | None:
    if answer is None:
        return None
    share = answer["finite"] / _DRAWS
    if answer["low"] is None:
        return Drawn(None, None, share)
    spread = None if answer["deviation"] is None else answer["deviation"] / factor
    return Drawn(spread, (answer["low"] / factor, answer["high"] / factor), share)


def parse_variable(text: str) -> Variable:
    """Read ``dose=40 e/Å²`` or ``dose = 40 ± 2 e/Å²``; without a unit it is dimensionless.

    Raises
    ------
    InputError
        It is written otherwise, or its unit is unknown.
    """
    found = _VARIABLE.match(text)
    try:
        if found is None or not found["name"].isidentifier():
            raise ValueError
        value, deviation = float(found["value"]), float(found["deviation"] or 0)
    except ValueError:
        raise InputError(
            "--variable", f"'{text}' is not NAME=NUMBER UNIT", "Write for example: dose=40 e/Å² or dose=40±2 e/Å²"
        ) from None
    name = found["name"]
    if name in FUNCTIONS or name == "pi":
        raise InputError("--variable", f"'{name}' has a meaning already", "Choose another name.")
    return Variable(name, value, deviation, parse_unit(found["unit"] or found["close"] or "", f"--variable {name}"))


def parse_formula(text: str, variables: Sequence[Variable]) -> Formula:
    """Read a formula and check its units.

    It may hold numbers, the variables, ``pi``, ``+ - * / ^``, brackets and :data:`FUNCTIONS`; nothing else, and nothing
    of it is run. Angles are numbers (radians), so that ``sin`` takes ``30 °`` as well.

    Raises
    ------
    InputError
        Something else stands in it, a name is unknown, or units do not fit.
    """
    by_name = {variable.name: variable for variable in variables}
    if len(by_name) < len(variables):
        raise InputError("--variable", "a name is given twice", "Give each once.")
    plain = text.strip()
    for sign, meaning in {"^": "**", "·": "*", "×": "*", "−": "-", "²": "**2", "³": "**3", "π": "pi"}.items():
        plain = plain.replace(sign, meaning)
    if not plain or len(plain) > _LONGEST:
        raise InputError("--formula", f"has {len(plain)} characters", f"Give from 1 to {_LONGEST}.")
    try:
        body = ast.parse(plain, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        shown = text if len(text) <= 80 else f"{text[:80]}…"
        raise InputError("--formula", f"'{shown}' cannot be read", "Write it as in Python: a*exp(-b*k**2/4)") from None
    tree, unit = _read(body, by_name, 0)
    return Formula(text, tree, by_name, unit.base)


def _read(node: ast.expr, variables: Mapping[str, Variable], depth: int) -> tuple[list[Any], Unit]:
    if depth > _DEEPEST:
        raise InputError("--formula", f"is nested deeper than {_DEEPEST}", "Split it.")
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        if not (abs(node.value) < 1e300):  # type: ignore[arg-type]
            raise InputError("--formula", "a number is too large", "Give one below 1e300.")
        return ["number", node.value], DIMENSIONLESS
    if isinstance(node, ast.Name):
        if node.id == "pi":
            return ["name", "pi"], DIMENSIONLESS
        if node.id not in variables:
            raise InputError("--formula", f"'{node.id}' is unknown", f"Give it: --variable '{node.id}=NUMBER UNIT'")
        return ["name", node.id], variables[node.id].unit.base
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        tree, unit = _read(node.operand, variables, depth + 1)
        return (["negative", tree] if isinstance(node.op, ast.USub) else tree), unit
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _operation(node, _OPERATORS[type(node.op)], variables, depth)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _call(node, node.func.id, variables, depth)
    raise InputError(
        "--formula",
        f"'{ast.unparse(node)}' may not stand in it",
        "Use numbers, variables, + - * / ^, brackets and functions.",
    )


def _operation(node: ast.BinOp, sign: str, variables: Mapping[str, Variable], depth: int) -> tuple[list[Any], Unit]:
    left, first = _read(node.left, variables, depth + 1)
    right, second = _read(node.right, variables, depth + 1)
    tree = [sign, left, right]
    if sign in "+-":
        if not first.is_like(second):
            raise InputError("--formula", f"{_said(node.left)} is in {first}, {_said(node.right)} in {second}",
                             "Only like units can be added.")  # fmt: skip
        return tree, first
    if sign in "*/":
        return tree, first.times(second, Fraction(1 if sign == "*" else -1))
    _require_plain(node.right, second)
    if first.is_like(DIMENSIONLESS):
        return tree, DIMENSIONLESS
    power = _fraction(right)
    if power is None or abs(power) > 12:
        raise InputError("--formula", f"{_said(node.left)} in {first} is raised to {_said(node.right)}",
                         "Raise what has a unit to a number between -12 and 12 only.")  # fmt: skip
    return tree, first.to_the(power)


def _call(node: ast.Call, name: str, variables: Mapping[str, Variable], depth: int) -> tuple[list[Any], Unit]:
    if name not in FUNCTIONS:
        raise InputError("--formula", f"'{name}' is no known function", f"Known are {', '.join(sorted(FUNCTIONS))}.")
    if len(node.args) != 1 or node.keywords or isinstance(node.args[0], ast.Starred):
        raise InputError("--formula", f"{name} was not given one argument", f"Write {name}(x).")
    tree, unit = _read(node.args[0], variables, depth + 1)
    if name == "sqrt":
        return [name, tree], unit.to_the(Fraction(1, 2))
    if name == "abs":
        return [name, tree], unit
    _require_plain(node.args[0], unit)
    return [name, tree], DIMENSIONLESS


def _require_plain(node: ast.expr, unit: Unit) -> None:
    if not unit.is_like(DIMENSIONLESS):
        raise InputError("--formula", f"{_said(node)} is in {unit} where a number is needed", "Divide by a like value.")


def _fraction(tree: list[Any]) -> Fraction | None:
    """Return the value of a tree of numbers."""
    if tree[0] == "number":
        return Fraction(tree[1]).limit_denominator(1000)
    if tree[0] == "negative":
        inner = _fraction(tree[1])
        return None if inner is None else -inner
    if tree[0] == "/":
        above, below = _fraction(tree[1]), _fraction(tree[2])
        return None if above is None or not below else above / below
    return None


def _said(node: ast.expr) -> str:
    return f"'{ast.unparse(node)}'"
