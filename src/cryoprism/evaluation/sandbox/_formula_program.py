"""What evaluates a formula inside the sandbox: a tree of known operations to sympy, its value and its derivatives.

It runs as ``python -c SOURCE TREE``: nothing is parsed here, and no text is ever evaluated.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from typing import Any


def build(tree: list[Any], symbols: dict[str, Any], sympy: Any) -> Any:
    """Return the sympy expression of a tree ``[operation, operand, …]``."""
    kind = tree[0]
    if kind == "number":
        return sympy.Integer(tree[1]) if isinstance(tree[1], int) else sympy.Float(tree[1], 17)
    if kind == "name":
        return sympy.pi if tree[1] == "pi" else symbols[tree[1]]
    operands = [build(operand, symbols, sympy) for operand in tree[1:]]
    operations: dict[str, Any] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
        "**": lambda a, b: a**b,
        "negative": lambda a: -a,
        "log10": lambda a: sympy.log(a, 10),
        "log2": lambda a: sympy.log(a, 2),
        "abs": sympy.Abs,
        "sqrt": sympy.sqrt,
        "sinc": lambda a: sympy.sinc(a),
    }
    return (operations[kind] if kind in operations else getattr(sympy, kind))(*operands)


def number(expression: Any, values: dict[Any, Any]) -> float | None:
    """Return the value as a float; None where it is no finite real number."""
    try:
        value = complex(expression.evalf(17, subs=values))
    except (ArithmeticError, TypeError, ValueError):  # an infinity, or a part that has no value
        return None
    scale = max(1.0, abs(value.real)) * 1e-12
    return value.real if math.isfinite(value.real) and abs(value.imag) <= scale else None


def draw(task: dict[str, Any]) -> dict[str, Any] | None:
    """Return deviation and 95 % interval of what normal draws of the variables give; None where all are exact."""
    if not any(deviation > 0 for deviation in task["deviations"].values()):
        return None
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # threads count as processes here
    np = importlib.import_module("numpy")
    random = np.random.default_rng(task["seed"])
    drawn = {
        name: random.normal(value, task["deviations"][name], task["draws"]) for name, value in task["values"].items()
    }
    with np.errstate(all="ignore"):
        found = np.broadcast_to(np.asarray(arrays(task["tree"], drawn, np), dtype=float), (task["draws"],))
    finite = found[np.isfinite(found)]
    answer: dict[str, Any] = {"finite": len(finite), "deviation": None, "low": None, "high": None}
    if len(finite) > 1:
        low, high = np.quantile(finite, [0.025, 0.975])
        with np.errstate(all="ignore"):
            spread = float(finite.std())
        answer |= {"deviation": spread if math.isfinite(spread) else None, "low": float(low), "high": float(high)}
    return answer


def arrays(tree: list[Any], drawn: dict[str, Any], np: Any) -> Any:
    """Return the values of a tree for arrays of its variables; NaN where there is no real one."""
    kind = tree[0]
    if kind == "number":
        return float(tree[1])
    if kind == "name":
        return math.pi if tree[1] == "pi" else drawn[tree[1]]
    operands = [np.asarray(arrays(operand, drawn, np), dtype=float) for operand in tree[1:]]
    operations: dict[str, Any] = {
        "+": np.add,
        "-": np.subtract,
        "*": np.multiply,
        "/": np.divide,
        "**": np.power,
        "negative": np.negative,
        "log": np.log,
        "erf": np.vectorize(math.erf, otypes=[float]),
        "sinc": lambda a: np.sinc(a / math.pi),
        "acos": np.arccos,
        "asin": np.arcsin,
        "atan": np.arctan,
    }
    return (operations[kind] if kind in operations else getattr(np, kind))(*operands)


def main() -> None:
    """Read the tree and the values, print the answer."""
    sympy = importlib.import_module("sympy")
    task = json.loads(sys.argv[1])
    symbols = {name: sympy.Symbol(name, real=True) for name in task["values"]}
    values = {symbols[name]: sympy.Float(value, 17) for name, value in task["values"].items()}
    expression = build(task["tree"], symbols, sympy)
    slopes = {name: sympy.diff(expression, symbol) for name, symbol in symbols.items()}
    answer = {
        "expression": str(expression),
        "value": number(expression, values),
        "derivatives": {name: {"expression": str(s), "value": number(s, values)} for name, s in slopes.items()},
        "drawn": draw(task),
        "sympy": sympy.__version__,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
