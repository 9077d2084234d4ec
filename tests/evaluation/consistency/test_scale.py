"""A model of the wrong scale is refuted, by the bonds of a chain together; single ones are within their ranges."""

import numpy as np
import pytest
from certificates import alter_rule, checked
from small_lean import run_lean
from small_models import helix, moved, pdb

from cryoprism.evaluation.consistency._scale import LEAST_SCALE, MOST_SCALE
from programs import needs_coq


def _scaled(rows, factor):
    return [(number, name, factor * np.asarray(place)) for number, name, place in rows]


def _rule(result):
    return next((rule for rule in result.rules if rule.name == "scale"), None)


@needs_coq
@pytest.mark.parametrize(
    ("factor", "refuted"),
    [(1.0, False), (0.975, False), (1.025, False), (0.96, True), (1.04, True), (0.8, True), (1.3, True)],
)
def test_a_chain_at_another_scale_is_refuted(proved, factor, refuted):
    result = proved(pdb({"A": _scaled(helix(10), factor)}))
    rule = _rule(result)
    assert (rule.obligations, rule.refuted, rule.unknown) == (1, int(refuted), 0)
    if refuted:
        (one,) = rule.offenders
        how = "long" if factor > 1 else "short"
        assert f"bonds of chain A are {100 * abs(factor - 1):.1f} % too {how} on average" in one.words
        assert one.value == pytest.approx(factor, abs=0.002)


@needs_coq
def test_nothing_but_the_scale_sees_a_model_that_is_eight_percent_too_large(proved):
    result = proved(pdb({"A": _scaled(helix(10), 1.08)}))
    assert {rule.name for rule in result.rules if rule.refuted} == {"scale"}
    assert result.verdict == "refuted"


def test_each_chain_is_judged_by_itself_and_short_ones_together(witnesses):
    far = np.array([100.0, 0, 0])
    short = [(k, n, p + far) for k, n, p in helix(5)]
    other = [(k, n, p + 2 * far) for k, n, p in _scaled(helix(5), 1.05)]
    result = witnesses(pdb({"A": helix(10), "B": _scaled(helix(12), 1.06), "C": short, "D": other}))
    rule = _rule(result)
    assert rule.obligations == 3
    assert [one.words.split(" are ")[0] for one in rule.offenders] == ["The bonds of chain B"]
    larger = [(k, n, p + far) for k, n, p in _scaled(helix(5), 1.05)]
    rule = _rule(witnesses(pdb({"C": larger, "D": other})))
    assert [one.words.split(" are ")[0] for one in rule.offenders] == ["The bonds of the short chains"]
    assert _rule(witnesses(pdb({"C": short}))) is None


def test_one_torn_or_long_bond_is_not_the_scale(witnesses):
    rows = helix(10)
    places = {(k, n): p for k, n, p in rows}
    for place in (places[5, "C"] + np.array([9.0, 0, 0]), places[5, "C"] + np.array([0.35, 0.0, 0.0])):
        assert _rule(witnesses(pdb({"A": moved(rows, 5, "C", place)}))).offenders == ()


def test_traces_are_judged_by_their_steps(witnesses):
    trace = [row for row in helix(12) if row[1] == "CA"]
    assert _rule(witnesses(pdb({"A": trace}))).offenders == ()
    (one,) = _rule(witnesses(pdb({"A": _scaled(trace, 1.08)}))).offenders
    assert one.words.startswith("The steps from one Cα to the next of chain A are 8.2 % too long")


@needs_coq
def test_what_rounding_leaves_open_is_unknown(tmp_path):
    """Coordinates with four decimals: a scale within 2 in 1,000 of the limit is neither proved nor refuted."""
    import gemmi

    edge = _rule(checked(tmp_path / "one.pdb", pdb({"A": helix(10)})))
    now = float(edge.note.split(": lengths")[-1].split()[-1])
    for factor, counts in ((1.030, (0, 0, 1)), (1.0275, (1, 0, 0)), (1.0325, (0, 1, 0))):
        structure = gemmi.read_pdb_string(pdb({"A": helix(10)}))
        structure.setup_entities()
        document = structure.make_mmcif_document()
        table = document.sole_block().find("_atom_site.", ["Cartn_x", "Cartn_y", "Cartn_z"])
        for row in table:
            for k in range(3):
                row[k] = f"{float(row[k]) * factor / now + 0.00004:.5f}"
        path = tmp_path / "model.cif"
        document.write_file(str(path))
        rule = _rule(checked(path, path.read_text()))
        assert (rule.proved, rule.refuted, rule.unknown) == counts


@needs_coq
@pytest.mark.parametrize("factor", [1.0, 1.05])
def test_the_certificate_is_checked_and_its_counts_held(tmp_path, quick, factor):
    result = checked(tmp_path / "model.pdb", pdb({"A": _scaled(helix(10), factor)}))
    folder = result.write_certificate(tmp_path / "job" / "certificate")
    code, said = quick(folder)
    assert code == 0, said
    change = {"refuted": -1, "proved": 1} if factor > 1 else {"refuted": 1, "proved": -1}
    alter_rule(folder, "scale", **change)
    assert "do not have the counts or the atoms" in quick(folder)[1]


def test_lean_decides_the_same(witnesses):
    far = np.array([100.0, 0, 0])
    chains = {"A": helix(10), "B": [(k, n, p + far) for k, n, p in _scaled(helix(11), 1.05)]}
    text = witnesses(pdb(chains)).lean_text
    assert "scaleFailing : List Nat := [1]" in text
    assert run_lean(text)["scale"]
    for wrong in ("[]", "[0]", "[0, 1]"):
        assert not run_lean(text.replace("scaleFailing : List Nat := [1]", f"scaleFailing : List Nat := {wrong}"))[
            "scale"
        ]


def test_the_limits_are_those_of_the_library():
    from cryoprism.evaluation.consistency._coq import library_sources

    text = library_sources()["Scale.v"]
    assert f"least_scale := {LEAST_SCALE}." in text
    assert f"most_scale := {MOST_SCALE}." in text
