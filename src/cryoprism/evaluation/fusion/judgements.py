"""What people said when they were shown two assessments: reading and keeping it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from cryoprism.core import InputError
from cryoprism.evaluation.documents import UnreadableError, load_json, number_in, read_json

from .weights import COMPONENTS, Array

__all__ = [
    "Assessed",
    "Judgement",
    "Outcome",
    "count_distinct",
    "differences",
    "outcomes",
    "read_assessment",
    "read_judgements",
    "without_copies",
]

Outcome = Literal["a", "b", "tie"]
_OUTCOMES: Final = ("a", "b", "tie")
_EXAMPLE: Final = '{"a": "Assess/job001/assessment.json", "b": {"logic": 0.9, "impact": 12}, "better": "a"}'


@dataclass(frozen=True)
class Assessed:
    """The answers of one assessment, without their deviations.

    Attributes
    ----------
    name
        What a person knows it by.
    values
        By component: from 0 to 1, impact a count; None where there is no answer.
    """

    name: str
    values: Mapping[str, float | None]

    def vector(self) -> Array:
        """Return (5,) what each component adds per unit of weight: impact as ln(Impact + 1); NaN without an answer."""
        found = [self.values.get(name) for name in COMPONENTS]
        return np.array(
            [
                math.nan if value is None else math.log1p(value) if name == "impact" else value
                for name, value in zip(COMPONENTS, found, strict=True)
            ]
        )


@dataclass(frozen=True)
class Judgement:
    """One pair and which of it somebody found better.

    Attributes
    ----------
    a, b
        The pair.
    better
        ``a``, ``b`` or ``tie``.
    judge
        Who said so; empty if unknown.
    """

    a: Assessed
    b: Assessed
    better: Outcome
    judge: str = ""


def differences(pairs: Sequence[tuple[Assessed, Assessed]]) -> Array:
    """Return (n, 5) by how much the first of each pair is ahead, by component; 0 where either has no answer."""
    rows = [a.vector() - b.vector() for a, b in pairs]
    return np.asarray(np.nan_to_num(np.array(rows, dtype=float).reshape(-1, len(COMPONENTS)), nan=0.0))


def outcomes(judgements: Sequence[Judgement]) -> Array:
    """Return (n, 3) of 0 and 1: a is better, b is better, a tie."""
    return np.array([[one.better == name for name in _OUTCOMES] for one in judgements], dtype=float).reshape(-1, 3)


def without_copies(judgements: Sequence[Judgement]) -> list[Judgement]:
    """Return the judgements without those that say again of the same pair what the same judge said before."""
    found: dict[tuple[object, ...], Judgement] = {}
    for one in judgements:
        found.setdefault((*_pair_and_judge(one), _winner(one)), one)
    return list(found.values())


def count_distinct(judgements: Sequence[Judgement]) -> int:
    """Return how many pairs of a pair of assessments and a judge there are: to ask twice makes no two judgements."""
    return len({_pair_and_judge(one) for one in judgements})


def _answers(one: Assessed) -> tuple[float | None, ...]:
    return tuple(one.values.get(name) for name in COMPONENTS)


def _pair_and_judge(one: Judgement) -> tuple[object, ...]:
    return frozenset((_answers(one.a), _answers(one.b))), one.judge


def _winner(one: Judgement) -> tuple[float | None, ...] | None:
    return {"a": _answers(one.a), "b": _answers(one.b), "tie": None}[one.better]


def read_judgements(path: str | Path) -> list[Judgement]:
    """Read judgements, one JSON object a line: ``a``, ``b``, ``better`` and, if wanted, ``judge``.

    ``a`` and ``b`` are an ``assessment.json`` (relative to the file) or the values themselves by component. Empty
    lines are passed over, as is a byte-order mark. Lines end with LF, CR LF or CR alone: other separators, such as
    U+2028, may stand in a text.

    Raises
    ------
    InputError
        The file or a line cannot be read; the error names the line.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(file, f"cannot be read: {error}", f"Give a file of lines such as {_EXAMPLE}.") from error
    known: dict[Path, Assessed] = {}
    found = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if line.strip():
            found.append(_judgement(line, f"{file} line {number}", file.parent, known))
    return found


def _judgement(line: str, where: str, folder: Path, known: dict[Path, Assessed]) -> Judgement:
    remedy = f"Write lines such as {_EXAMPLE}."
    try:
        content = load_json(line)
    except UnreadableError as error:
        raise InputError(where, f"cannot be read: {error}", remedy) from error
    if not isinstance(content, dict):
        raise InputError(where, "no JSON object", remedy)
    if strange := sorted(set(content) - {"a", "b", "better", "judge"}):
        raise InputError(where, f"unknown field '{strange[0]}'", remedy)
    better = content.get("better")
    if better not in _OUTCOMES:
        raise InputError(where, f"better is {_short(better)}", "Say which is better: 'a', 'b' or 'tie'.")
    judge = content.get("judge", "")
    if not isinstance(judge, str):
        raise InputError(where, f"judge is {_short(judge)}", "Give a name, or leave it out.")
    pair = []
    for side in ("a", "b"):
        told = content.get(side)
        if isinstance(told, str):
            target = folder / told
            if target not in known:
                known[target] = read_assessment(target, where=f"{where}: {side}")
            pair.append(known[target])
        elif isinstance(told, dict):
            pair.append(Assessed(side, _values(told, f"{where}: {side}", remedy)))
        else:
            raise InputError(f"{where}: {side}", f"is {_short(told)}", remedy)
    return Judgement(pair[0], pair[1], better, judge)


def read_assessment(path: str | Path, *, where: str | None = None) -> Assessed:
    """Read the answers of an ``assessment.json``.

    Raises
    ------
    InputError
        It cannot be read or holds other things.
    """
    file = Path(path)
    place = str(file) if where is None else f"{where}: {file}"
    remedy = "Give the assessment.json of cryoprism assess."
    try:
        content = read_json(file)
    except (FileNotFoundError, UnreadableError) as error:
        raise InputError(place, f"cannot be read: {error}", remedy) from error
    if not isinstance(content, dict) or not any(isinstance(content.get(name), dict) for name in COMPONENTS):
        raise InputError(place, "holds no answers", remedy)
    told = {
        name: None if content[name].get("status") == "not tied to the model" else content[name].get("value")
        for name in COMPONENTS
        if isinstance(content.get(name), dict)
    }
    return Assessed(str(file), _values(told, place, remedy))


def _values(told: Mapping[str, Any], where: str, remedy: str) -> dict[str, float | None]:
    if strange := sorted(set(told) - set(COMPONENTS)):
        raise InputError(where, f"unknown component '{strange[0]}'", f"The components are {', '.join(COMPONENTS)}.")
    for name, value in told.items():
        limit = math.inf if name == "impact" else 1.0
        number = number_in(value)
        if value is not None and not (math.isfinite(number) and 0 <= number <= limit):
            reach = "at least 0" if name == "impact" else "from 0 to 1"
            raise InputError(where, f"{name} is {_short(value)}", f"Give a number {reach}, or null.")
    if not told or all(value is None for value in told.values()):
        raise InputError(where, "holds no answer", remedy)
    return {name: None if (value := told.get(name)) is None else number_in(value) for name in COMPONENTS}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]} … ({len(text)} characters)"
