"""The verdict on a model in words, and its score, from the counts of its rules; check.sh derives the same again."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from cryoprism.evaluation.evidence import Verdict

from ._case import Offender
from ._declared_copies import without_size
from ._identity import unchecked_words
from ._model import Model

__all__ = ["REMARKS", "Counted", "deviation_of", "pattern_of", "remarks_of", "score_of", "sentences_of"]


class Counted(Protocol):
    """A rule with its counts, as ``RuleResult``."""

    @property
    def title(self) -> str:
        """What it says."""

    @property
    def obligations(self) -> int:
        """All of them."""

    @property
    def proved(self) -> int:
        """Of them."""

    @property
    def refuted(self) -> int:
        """Of them."""

    @property
    def unknown(self) -> int:
        """Of them."""

    @property
    def weight(self) -> float:
        """Of one obligation."""

    @property
    def why_unknown(self) -> str:
        """Empty where nothing is."""

    @property
    def offenders(self) -> Sequence[Offender]:
        """What refutes."""


#: What to know about a model, with a number in place of 0.
REMARKS = {
    "models": "The file holds 0 models; the first was checked.",
    "alternatives": "Atoms in different alternative locations whose occupancies add to no more than 1 were not "
    "compared.",
    "absent": "0 atoms have an occupancy of 0; they count like all others.",
    "sites": "Sites of waters that are no atoms (lone pairs, M of four-site models) were left out: 0.",
    "cell": "The file's cell has edges of 0: it is taken as no crystal.",
    "digits": "Coordinates have more than three decimals; distances carry a proved margin of 0.002 Å.",
}


def pattern_of(remark: str) -> str:
    """Return a remark with # for each of its numbers, as check.sh compares it."""
    return re.sub("[0-9]+", "#", remark)


def remarks_of(model: Model) -> tuple[str, ...]:
    """Return what to know about a model."""
    absent = int(np.count_nonzero(model.occupancies == 0))
    counts = {
        "models": model.models_in_file if model.models_in_file > 1 else 0,
        "alternatives": int(model.alternatives.any()),
        "absent": absent,
        "sites": model.virtual_sites,
        "cell": int(without_size(model.structure)),
        "digits": int(not model.exact),
    }
    numbered = {"models", "absent", "sites"}
    remarks = tuple(
        REMARKS[name].replace("0", str(count), 1) if name in numbered else REMARKS[name]
        for name, count in counts.items()
        if count
    )
    return (*remarks, *unchecked_words(model))


def score_of(rules: Sequence[Counted]) -> float | None:
    """Return weighted proved obligations over all weighted obligations; None without any."""
    total = sum(rule.weight * rule.obligations for rule in rules)
    return sum(rule.weight * rule.proved for rule in rules) / total if total else None


def deviation_of(rules: Sequence[Counted]) -> float | None:
    """Return the standard deviation of the score.

    Each rule's share has a Beta posterior (Jeffreys' prior, its obligations as independent draws); to their sum comes,
    in quadrature, the spread of a uniform distribution over the range that the unknown ones leave.
    """
    total = sum(rule.weight * rule.obligations for rule in rules)
    if not total:
        return None
    variance = 0.0
    for rule in rules:
        a, b = rule.proved + 0.5, rule.obligations - rule.proved + 0.5
        share = a * b / ((a + b) ** 2 * (a + b + 1))
        variance += (rule.weight * rule.obligations / total) ** 2 * share
    left = sum(rule.weight * rule.unknown for rule in rules) / total
    return math.sqrt(variance + left**2 / 12)


def sentences_of(
    name: str, verdict: Verdict, counts: Mapping[str, int], rules: Sequence[Counted], remarks: Sequence[str]
) -> tuple[str, ...]:
    """Return the verdict on the model ``name`` in words, the most important first."""
    if not rules:
        return (f"{name} gives no rule anything to say: no checks.",)
    head = {
        "proved": f"{name} is consistent: all {counts['obligations']:,} checks are proved.",
        "refuted": f"{name} is not consistent: {counts['refuted']:,} of {counts['obligations']:,} checks are "
        f"refuted, {counts['proved']:,} proved, {counts['unknown']:,} unknown.",
        "unknown": f"{name} is not refuted, but {counts['unknown']:,} of {counts['obligations']:,} checks are unknown.",
    }[verdict]
    lines = [head]
    for rule in rules:
        if rule.refuted and rule.offenders:
            more = f" ({len(rule.offenders) - 1} more)" if len(rule.offenders) > 1 else ""
            lines.append(f"{rule.title}: {rule.offenders[0].words}.{more}")
    for why in dict.fromkeys(rule.why_unknown for rule in rules if rule.why_unknown):
        lines.append(f"Unknown: {why}")
    if counts["unknown"]:
        lines.append(
            f"Unknown is not proved: the {counts['unknown']:,} unknown checks add nothing to LogicScore, and "
            "its deviation spans what they leave open."
        )
    return (*lines, *remarks)
