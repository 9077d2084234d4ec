"""consistency.json claims what the theorems say and nothing else: whatever is altered, check.sh refuses it."""

import json
import shutil

import pytest
from certificates import alter_rule, check, grounds, settle, write_grounds

from programs import needs_coq


@needs_coq
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("chirality", {"refuted": -1, "proved": 1}),
        ("clashes", {"refuted": -1, "proved": 1}),
        ("bonds", {"obligations": 1, "proved": 1}),
        ("envelope", {"unknown": 1, "proved": -1}),
        ("placement", {"unknown": -1, "proved": 1}),
        ("ligands", {"obligations": 1, "unknown": 1}),
        ("numbering", {"refuted": 1, "proved": -1}),
        ("copies", {"obligations": 2, "proved": 2}),
    ],
)
def test_counts_that_are_altered_are_refused(certificate, quick, name, changes):
    folder = certificate("all")
    alter_rule(folder, name, **changes)
    code, said = quick(folder)
    assert code == 1
    assert "Refused: the theorems do not have the counts or the atoms of consistency.json." in said


@needs_coq
def test_atoms_that_are_altered_are_refused(certificate, quick):
    folder = certificate("all")
    path = folder / "consistency.json"
    content = json.loads(path.read_text())
    next(rule for rule in content["rules"] if rule["name"] == "clashes")["offenders"][0]["atoms"][0] += 1
    write_grounds(folder, content)
    assert "do not have the counts or the atoms" in quick(folder)[1]


@needs_coq
def test_a_rule_that_is_kept_silent_is_refused(certificate, quick):
    folder = certificate("all")
    path = folder / "consistency.json"
    content = json.loads(path.read_text())
    dropped = next(rule for rule in content["rules"] if rule["name"] == "chirality")
    content["rules"].remove(dropped)
    for key in content["counts"]:
        content["counts"][key] -= dropped[key]
    settle(content)
    write_grounds(folder, content)
    code, said = quick(folder)
    assert (code, "wrong rules: nothing is said about chirality" in said) == (1, True)
    content["not_asked"]["chirality"] = "No residue has a centre whose hand its name tells."
    write_grounds(folder, content)
    code, said = quick(folder)
    assert code == 1
    assert "Local_rules.v proves something about Chirality, of which consistency.json says nothing" in said


@needs_coq
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(verdict="refuted"), "wrong verdict"),
        (lambda c: c["logic_score"].update(value=0.9), "wrong logic_score"),
        (lambda c: c["counts"].update(proved=46, refuted=1), "wrong counts: their sums differ"),
        (lambda c: c["rules"][0].update(proved=3), "wrong counts of clashes"),
        (lambda c: c["rules"].append(c["rules"][0]), "wrong rule clashes"),
        (lambda c: c["rules"][0].update(weight=0.001), "wrong weight of clashes"),
        (lambda c: c["not_asked"].update(clashes="None."), "wrong rule clashes"),
        (lambda c: c["not_asked"].update(shape="None."), "wrong rule shape: there is none of that name"),
        (lambda c: c["not_asked"].pop("envelope"), "wrong rules: nothing is said about envelope"),
        (lambda c: c.update(rules=[]), "wrong form: line "),
    ],
)
def test_a_consistency_json_at_odds_with_itself_is_refused(certificate, change, words):
    folder = certificate()
    path = folder / "consistency.json"
    content = json.loads(path.read_text())
    change(content)
    write_grounds(folder, content)
    code, said = check(folder)
    assert code == 1
    assert words in said


@needs_coq
def test_the_copy_beside_the_folder_has_to_say_the_same(certificate):
    folder = certificate()
    shutil.copy(folder / "consistency.json", folder.parent)
    alter_rule(folder, "clashes", unknown=1, proved=-1)
    assert "here and beside this folder do not say the same" in check(folder)[1]
    (folder / "consistency.json").unlink()
    assert "consistency.json is missing" in check(folder)[1]


@needs_coq
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (' "verdict": "proved",\n', ' "verdict": "proved",\n "verdict": "refuted",\n'),
        ('   "why_unknown": "",\n', '   "why_unknown": "", "proved": 9,\n'),
        ('   "why_unknown": "",\n', '   "why_unknown": "",\n   "proved": 9,\n'),
        ("\n ]\n}\n", "\n ]}\n"),
        ("\n}\n", '\n}\n{"verdict": "refuted"}\n'),
        (' "atoms": 20,\n "residues": 4,\n', ' "residues": 4,\n "atoms": 20,\n'),
        (' "verdict": "proved",\n', ' "verdict" : "proved",\n'),
        ('"atoms": 20,', '"atoms": 20 ,'),
        (' "files": {\n', ' "files": {\n  "atoms.csv": "00",\n'),
        ('   "weight": 1.0,\n', '   "weight": 1.00,\n'),
        (' "not_asked": {\n', ' "not_asked": {\n  "copies": "None.",\n'),
    ],
)
def test_a_consistency_json_in_another_form_is_refused(certificate, old, new):
    """Programs take the last of two equal keys, and a reader of lines the first."""
    folder = certificate()
    path = folder / "consistency.json"
    text = path.read_text()
    assert old in text
    start = text.rindex(old)
    path.write_text(text[:start] + new + text[start + len(old) :])
    code, said = check(folder)
    assert (code, "Refused: consistency.json: wrong " in said) == (1, True)


@needs_coq
@pytest.mark.parametrize("rule", ["clashes", "completeness"])
def test_no_model_goes_without_the_rules_that_are_about_every_model(certificate, rule):
    folder = certificate()
    content = grounds(folder)
    dropped = next(one for one in content["rules"] if one["name"] == rule)
    content["rules"].remove(dropped)
    for key in content["counts"]:
        content["counts"][key] -= dropped[key]
    settle(content)
    content["not_asked"][rule] = "There is nothing to ask."
    write_grounds(folder, content)
    code, said = check(folder)
    assert (code, "clashes and completeness are asked of every model" in said) == (1, True)
