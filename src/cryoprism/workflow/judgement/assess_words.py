"""The verdict of an assessment: two or three short sentences that a biologist understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cryoprism.evaluation.evidence import Answer
from cryoprism.evaluation.reproducibility import SAME

__all__ = ["ENOUGH", "QUESTIONS", "share_within", "verdict"]

#: A model of which less lies in the map does not fit it.
ENOUGH: Final = 0.5

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
#: Rule to what it is about: a verdict names only those that had something to check.
_ABOUT = {
    "clashes": "clashes",
    "bonds": "bonds",
    "chains": "chain breaks",
    "scale": "the scale",
    "chirality": "hand",
    "cis_peptides": "peptide bonds",
    "copies": "symmetry copies",
    "envelope": "the map",
    "placement": "its place in the map",
    "numbering": "numbering",
    "completeness": "completeness",
    "ligands": "ligands",
}
_RECORD = "the work of the record"
_SURE = 0.9


def share_within(logic: Mapping[str, Any]) -> float | None:
    """Return the share of the residues that lie in the map, from the evidence of consistency; None without a map."""
    judged = next((rule["obligations"] for rule in logic.get("rules", ()) if rule["name"] == "envelope"), 0)
    if not judged:
        return None
    return 1 - sum(int(one["residues"]) for one in logic.get("outside_map", ())) / judged


def verdict(answers: Mapping[str, Answer]) -> str:
    """Return in at most three short sentences what is known, and what could not be judged.

    Parameters
    ----------
    answers
        By component.
    """
    words = {name: _WORDS[name](answers[name]) for name in QUESTIONS if answers[name].status != "not available"}
    untied = [name for name in words if answers[name].status == "not tied to the model"]
    missing = [_SUBJECTS[name] for name in QUESTIONS if name not in words]
    if not words:
        return "Nothing could be judged: every answer is missing, and each says how to get it."
    if "reproducibility" in untied:
        strange = f"{_RECORD} (which nothing shows to be this model's)"
        words["reproducibility"] = words["reproducibility"].replace(_RECORD, strange)
    lacking = [f"{_listed(missing)} could not be judged"] if missing else []
    parts = (
        [words[name] for name in ("logic",) if name in words],
        [words[name] for name in ("novelty", "impact") if name in words] + lacking,
        [words[name] for name in ("reproducibility", "meta") if name in words]
        + (["the record does not count"] if untied else []),
    )
    joined = ["; ".join(part) for part in parts if part]
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in joined)


def _logic(answer: Answer) -> str:
    counts = answer.evidence["counts"]
    refuted, unknown, everything = counts["refuted"], counts["unknown"], counts["obligations"]
    within = share_within(answer.evidence)
    fits = "" if within is None or within >= ENOUGH else f"only {100 * within:.0f} % of the model lies in the map: "
    if refuted:
        broken = sorted(answer.evidence["rules"], key=lambda one: -one["refuted"])
        rules = [f"“{rule['title']}”" for rule in broken if rule["refuted"]]
        if len(rules) > 2:
            rules = [*rules[:2], f"{len(rules) - 2} more rule{'' if len(rules) == 3 else 's'}"]
        return f"{fits}{'it' if fits else 'the model'} breaks {refuted:,} of {everything:,} checks ({_listed(rules)})"
    if unknown == everything:
        return f"nothing about the model is proved: the prover gave no verdict on any of its {everything:,} checks"
    if unknown:
        return f"{fits}no fault of the model was found, but {unknown:,} of {everything:,} checks are open"
    asked = [_ABOUT[rule["name"]] for rule in answer.evidence["rules"] if rule["obligations"]]
    return f"all {everything:,} checks of the model are proved ({_listed(asked)})"


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
    elsewhere, given = answer.evidence["repeatable_elsewhere"], answer.evidence.get("depositable", True)
    who = "another laboratory that is given the images" if elsewhere and not given else "another laboratory"
    there = f"{who} {'could' if elsewhere else 'could not'} repeat {_RECORD}"
    again = answer.evidence.get("repeat")
    if again is None:
        return f"{there}, which was not run again"
    if again["status"] == "not comparable":
        return f"{there}, which ran again but left nothing to compare"
    if again["status"] == "failed":
        return f"{there}, which failed when it was run again"
    differing = [one for one in again["files"] if one["agreement"] < SAME]
    if not differing:
        return f"{there}, which gave the same results when it was run again"
    worst = min(differing, key=lambda one: one["agreement"])["name"]
    more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
    return f"{there}, but run again it gave another {worst}{more}"


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
