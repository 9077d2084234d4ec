"""Lean source that no Lean has read: its form is parsed here, and its obligations are decided by another hand."""

import ast
import json
import re

import numpy as np
import pytest
from small_models import helix, moved, pdb

from cryoprism.evaluation.consistency import check_consistency
from cryoprism.evaluation.consistency._lean import check_lean

TOKEN = re.compile(r"\s+|[\w'.]+|:=|=>|#\[|/-|-/|[-×+*/^≤!&=<>():\[\],;|→]")
KEYWORDS = {"set_option", "abbrev", "def", "theorem", "fun", "let", "if", "then", "else", "by", "native_decide"}
CORE = {"Int", "Nat", "Bool", "Array", "List", "decide", "true", "false", "maxRecDepth", "maxHeartbeats"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    with pytest.MonkeyPatch.context() as without:
        without.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda name: None)
        rows = helix(120, cis_after=4)
        ca = {k: p for k, n, p in rows if n == "CA"}
        rows = moved(moved(rows, 2, "CB", ca[7] + 0.7), 9, "CB", ca[9] - (dict_of(rows)[9, "CB"] - ca[9]))
        path = tmp_path_factory.mktemp("lean") / "model.pdb"
        path.write_text(pdb({"A": rows}, head="SEQRES   1 A    4  ALA ALA GLY ALA"))
        result = check_consistency(path)
    return result, result.lean_text


def dict_of(rows):
    return {(k, n): p for k, n, p in rows}


def without_comments(text):
    return re.sub(r"/-.*?-/", " ", text, flags=re.S)


def test_brackets_close_and_every_name_is_defined_before_it_is_used(source):
    check_form(source[1])


def check_form(source):
    """Assert what can be known of Lean source without a Lean."""
    text = without_comments(source)
    tokens = TOKEN.findall(text)
    assert "".join(tokens) == text  # nothing but tokens that Lean's own grammar has
    open_brackets = []
    for token in tokens:
        if token in {"(", "[", "#["}:
            open_brackets.append(token)
        elif token in {")", "]"}:
            assert open_brackets, "a bracket closes that never opened"
            assert (open_brackets.pop() == "(") == (token == ")")
    assert open_brackets == []
    known = set(KEYWORDS | CORE)
    for command in re.split(r"\n(?=def |theorem |abbrev )", "\n" + text):
        head = re.match(r"\n?(def|theorem|abbrev) ([\w']+)", command)
        names = re.findall(r"(?<![\w'.])[a-zA-Z][\w']*", command)
        if head is None:
            assert set(names) <= known
            continue
        assert head[2] not in known, "a name is defined twice"
        bound = {"a", "b", "c", "d", "i", "j", "k", "n", "o", "p", "q", "r", "u", "v", "x", "y", "z"}
        bound |= {"before", "count", "f", "found", "fuel", "high", "lonely", "low", "margin", "middle", "origin"}
        bound |= {"ranges", "reach", "sure"}
        bound |= {"atoms"} if head[2] == "at'" else set()
        assert set(names) - bound - {head[2]} <= known
        known.add(head[2])


def arrays(text):
    """Arrays of the source by name, put together from their pieces."""
    held = {}
    for name, literal in re.findall(r"def (\w+) : Array \([^)]*\) := #\[\n(.*?)\]\n\n", text, flags=re.S):
        held[name] = ast.literal_eval(f"[{literal.replace('true', '1').replace('false', '0')}]")
        assert len(held[name]) <= 400
    joined = {name: [] for name in re.findall(r"def (\w+) : Array \([^)]*\) := #\[\]\n\n", text)}
    for name, parts in re.findall(r"def (\w+) : Array \([^)]*\) := (\w+_0(?: \+\+ \w+)*)\n\n", text):
        joined[name] = [row for part in parts.split(" ++ ") for row in held[part]]
    return joined


def test_what_the_source_says_fails_is_what_fails(source):
    result, text = source
    held = arrays(text)
    atoms = [np.array(row[:3], dtype=object) for row in held["atoms"]]
    assert len(atoms) == len(result.model)
    failing = {name: json.loads(found) for name, found in re.findall(r"def (\w+)Failing : List Nat := (\[.*?\])", text)}

    def volume(a, b, c, d):
        return int(np.dot(np.cross(b - a, c - a), d - a))

    def side(a, b, c, d):
        return int(np.dot(np.cross(b - a, c - b), np.cross(c - b, d - c)))

    def holds(name, row):
        if name in {"bonds", "chains"}:
            i, j, low, high = row
            return low**2 <= int(((atoms[i] - atoms[j]) ** 2).sum()) <= high**2
        if name in {"chirality", "cisPeptides"}:
            value = (volume if name == "chirality" else side)(*(atoms[k] for k in row[:4]))
            return row[4] <= value <= row[5]
        return row[1] == row[2] if row[0] else row[1] < row[2]

    failing.pop("scale")  # sums of bonds: test_scale.py
    counts = {rule.name: rule.obligations for rule in result.rules}
    assert {name: len(rows) for name, rows in held.items() if name in counts} == {
        name: counts[name] for name in held if name in counts
    }
    assert {"bonds", "chains", "chirality", "cisPeptides", "numbering"} <= failing.keys()
    for name, found in failing.items():
        assert [k for k, row in enumerate(held[name]) if not holds(name, row)] == found
    assert all(failing[name] for name in ("bonds", "chirality", "cisPeptides", "numbering"))


def test_the_theorems_say_that(source):
    text = source[1]
    for name in ("bonds", "chains", "chirality", "cisPeptides", "numbering"):
        start = text.index(f"theorem {name}_exact : (List.range {name}.size).filter")
        theorem = text[start : text.index("native_decide", start)]
        assert f"let q := {name}.getD k (" in theorem
        assert theorem.rstrip().endswith(f"= {name}Failing := by")


def test_without_lean_nothing_is_claimed(monkeypatch):
    monkeypatch.setattr("cryoprism.evaluation.consistency._lean.shutil.which", lambda name: None)
    assert check_lean("theorem no : False := by native_decide") == "emitted, not checked (no lean on the PATH)"
