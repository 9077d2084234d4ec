"""The verdict of an assessment: one sentence that a biologist understands."""

from __future__ import annotations

from collections.abc import Mapping

from cryoprism.evaluation.evidence import Answer

__all__ = ["QUESTIONS", "verdict"]

#: Name in ``assessment.json`` to the question.
QUESTIONS: Mapping[str, str] = {
    "logic": "Is the model consistent?",
    "novelty": "Has anything of this shape been seen?",
    "impact": "Will it matter?",
    "reproducibility": "Could someone repeat it?",
    "meta": "Has the estimate settled?",
}
_SUBJECTS = {
    "logic": "consistency",
    "novelty": "novelty",
    "impact": "impact",
    "reproducibility": "reproducibility",
    "meta": "whether the estimate has settled",
}
_SURE = 0.9


def verdict(answers: Mapping[str, Answer]) -> str:
    """Return in one sentence what is known, by component, and what could not be judged."""
    known = [_WORDS[name](answers[name]) for name in QUESTIONS if answers[name].status == "available"]
    missing = [_SUBJECTS[name] for name in QUESTIONS if answers[name].status != "available"]
    if not known:
        return "Nothing could be judged: every answer is missing, and each says how to get it."
    text = "; ".join(known)
    text = text[0].upper() + text[1:]
    return f"{text}; {_listed(missing)} could not be judged." if missing else f"{text}."


def _logic(answer: Answer) -> str:
    counts = answer.evidence["counts"]
    refuted, unknown, everything = counts["refuted"], counts["unknown"], counts["obligations"]
    if refuted:
        broken = sorted(answer.evidence["rules"], key=lambda one: -one["refuted"])
        rules = [f"“{rule['title']}”" for rule in broken if rule["refuted"]]
        others = f" and {len(rules) - 2} more rules" if len(rules) > 2 else ""
        return f"the model breaks {refuted:,} of {everything:,} checks ({_listed(rules[:2])}{others})"
    if unknown:
        return f"no fault of the model was found, but {unknown:,} of {everything:,} checks are open"
    return f"all {everything:,} checks of the model's geometry, hand and numbering are proved"


def _novelty(answer: Answer) -> str:
    value, held = answer.value or 0.0, answer.evidence["index_entries"]
    nearest = answer.evidence["neighbours"][0]["name"]
    if answer.evidence["neighbours"][0]["is_same_file"]:
        return "the index of known shapes holds this very file, so nothing is new about it"
    if value >= _SURE:
        return f"none of {held} known shapes is like it"
    if value <= 1 - _SURE:
        return f"its shape is known (nearest of {held}: {nearest})"
    return f"whether its shape is new is open (nearest of {held}: {nearest})"


def _impact(answer: Answer) -> str:
    made_up = " by a SIMULATED graph" if answer.evidence.get("simulated") else ""
    return f"about {answer.value or 0.0:.0f} citations are expected in five years{made_up}"


def _reproducibility(answer: Answer) -> str:
    items = answer.evidence["items"]
    can = "another laboratory could" if answer.evidence["repeatable_elsewhere"] else "another laboratory could not"
    there = (
        f"{can} repeat the work from its record ({sum(one['there'] for one in items)} of {len(items)} things for that "
        "and for a deposition are there)"
    )
    again = answer.evidence.get("repeat")
    if again is None:
        return f"{there}, but it was not run again"
    if again["status"] == "not comparable":
        return f"{there}; run again it finished, but left nothing to compare"
    if again["status"] == "failed":
        return f"{there}, but running it again failed"
    same = sum(one["agreement"] == 1 for one in again["files"])
    if same == len(again["files"]):
        return f"{there}, and run again it gave the same results"
    return f"{there}, and run again {same} of {len(again['files'])} results were the same"


def _meta(answer: Answer) -> str:
    counted = [one for one in answer.evidence["causes"] if one["counts"]]
    settled = sum(one["settled"] for one in counted)
    return f"{settled} of {len(counted)} fitted causes have settled"


_WORDS = {
    "logic": _logic,
    "novelty": _novelty,
    "impact": _impact,
    "reproducibility": _reproducibility,
    "meta": _meta,
}


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
