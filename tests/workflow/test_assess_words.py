"""The verdict of an assessment: short sentences, only rules that were asked, whose record it is."""

import pytest

from cryoprism.evaluation.evidence import available, not_available, not_tied
from cryoprism.workflow.judgement.assess_words import verdict

GONE = not_available("It is not there.", "Get it.")


def logic(proved, refuted, unknown, rules=("numbering", "completeness")):
    counts = {"obligations": proved + refuted + unknown, "proved": proved, "refuted": refuted, "unknown": unknown}
    asked = [{"name": name, "title": name, "refuted": refuted, "obligations": 3} for name in rules]
    asked.append({"name": "chirality", "title": "hand", "refuted": 0, "obligations": 0})
    return available(0.5, 0.1, (), {"counts": counts, "rules": asked})


def repeated(files=None, elsewhere=True):
    repeat = None if files is None else {"status": "compared", "files": files}
    return available(0.5, 0.1, (), {"repeatable_elsewhere": elsewhere, "items": [], "repeat": repeat})


ALL = {
    "logic": logic(8, 0, 0),
    "novelty": available(0.99, 0.01, (), {"index_entries": 9, "neighbours": [{"name": "x", "is_same_file": False}]}),
    "impact": available(12.0, 5.0, ()),
    "reproducibility": repeated([{"name": "map.mrc", "agreement": 0.9999}]),
    "meta": available(0.9, 0.1, (), {"causes": [{"counts": True, "settled": True}] * 4}),
}


@pytest.mark.parametrize("gone", [(), ("novelty",), ("impact", "meta"), ("novelty", "impact", "reproducibility")])
def test_the_verdict_is_at_most_three_short_sentences(gone):
    said = verdict(ALL | dict.fromkeys(gone, GONE))
    sentences = said.split(". ")
    assert 2 <= len(sentences) <= 3
    assert max(len(sentence.split()) for sentence in sentences) <= 35
    assert ("could not be judged" in said) == bool(gone)


def test_only_rules_that_had_something_to_check_are_named():
    said = verdict(dict.fromkeys(ALL, GONE) | {"logic": logic(5, 0, 0)})
    assert said.startswith("All 5 checks of the model are proved (numbering and completeness).")
    assert "hand" not in said


def test_nothing_proved_is_said():
    assert "no verdict on any of its 6 checks" in verdict(dict.fromkeys(ALL, GONE) | {"logic": logic(0, 0, 6)})


def test_the_output_that_differs_is_named_and_whose_record_it_is():
    files = [{"name": "causes.json", "agreement": 0.99}, {"name": "micrographs.star", "agreement": 0.1}]
    said = verdict(ALL | {"reproducibility": repeated(files)})
    assert "run again it gave another micrographs.star and 1 more" in said
    assert "this model's" not in said
    for answer in (repeated(), repeated(elsewhere=False)):
        strange = verdict(ALL | {"reproducibility": not_tied(answer, "Why.", "How.")})
        clause = next(part for part in strange.replace(". ", "; ").split("; ") if "laboratory" in part)
        assert "nothing shows to be this model's" in clause
        assert "the record does not count" in strange


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (("a", "b"), "(“a” and “b”)"),
        (("a", "b", "c"), "(“a”, “b” and 1 more rule)"),
        (("a", "b", "c", "d"), "(“a”, “b” and 2 more rules)"),
    ],
)
def test_broken_rules_are_counted_in_grammar(rules, said):
    assert said in verdict(dict.fromkeys(ALL, GONE) | {"logic": logic(5, 2, 0, rules)})
