"""Operators that turn a molecule into its mirror image are no symmetry of molecules of one hand."""

import numpy as np
import pytest
from small_models import helix, pdb

MIRROR = np.diag([-1.0, 1, 1])
TURN = np.diag([-1.0, -1, 1])


def _copies(result):
    return next((rule for rule in result.rules if rule.name == "copies"), None)


def _rows(matrix, shift, name, given=""):
    return [
        f"{name}{k + 1} {{:3d}}{matrix[k][0]:10.6f}{matrix[k][1]:10.6f}{matrix[k][2]:10.6f}     {shift[k]:10.5f}{given}"
        for k in range(3)
    ]


def _assembly(matrix):
    head = [
        "REMARK 350",
        "REMARK 350 BIOMOLECULE: 1",
        "REMARK 350 AUTHOR DETERMINED BIOLOGICAL UNIT: DIMERIC",
        "REMARK 350 APPLY THE FOLLOWING TO CHAINS: A",
    ]
    for number, (turn, shift) in enumerate(((np.eye(3), (0, 0, 0)), (matrix, (40, 0, 0))), 1):
        head += [line.format(number) for line in _rows(turn, shift, "REMARK 350   BIOMT")]
    return "\n".join(head)


def _strict(matrix):
    lines = [line.format(1) for line in _rows(np.eye(3), (0, 0, 0), "MTRIX", "    1")]
    return "\n".join(lines + [line.format(2) for line in _rows(matrix, (40, 0, 0), "MTRIX")])


def _crystal(group):
    return f"CRYST1{40:9.3f}{45:9.3f}{50:9.3f}  90.00  90.00  90.00 {group:11s}"


def _beside(rows, matrix):
    """A copy of the rows that touches them."""
    return [(k, name, matrix @ place + np.array([16.0, 0, 0])) for k, name, place in rows]


@pytest.mark.parametrize("head", [_assembly, _strict])
def test_a_mirror_is_no_operator_of_a_molecule(head, proved, coq_of_python):
    rule = _copies(proved(pdb({"A": helix(6)}, head=head(MIRROR))))
    assert rule.unknown == rule.obligations
    assert "turns the molecule into its mirror image" in rule.why_unknown
    turned = _copies(proved(pdb({"A": helix(6)}, head=head(TURN))))
    assert turned is None or not turned.unknown


@pytest.mark.parametrize("group", ["P -1", "P 1 21/c 1", "P 1 m 1"])
def test_one_hand_in_a_group_with_mirror_images_is_unknown(group, proved, coq_of_python):
    rows = [(k, name, place + np.array([15.0, 12, 5])) for k, name, place in helix(6)]
    rule = _copies(proved(pdb({"A": rows}, head=_crystal(group))))
    assert not rule.refuted
    assert rule.unknown == rule.obligations
    assert f"space group {group} holds the mirror image" in rule.why_unknown
    for usual in ("P 1", "P 1 21 1"):
        other = _copies(proved(pdb({"A": rows}, head=_crystal(usual))))
        assert other is None or not other.unknown


def test_both_hands_in_a_group_with_mirror_images_are_judged(proved, coq_of_python):
    rows = [(k, name, place + np.array([15.0, 12, 5])) for k, name, place in helix(6)]
    kinds = {("B", k): "DAL" for k in range(1, 7)}
    both = {"A": rows, "B": _beside(rows, MIRROR)}
    rule = _copies(proved(pdb(both, names=kinds, head=_crystal("P -1"))))
    assert rule is None or "mirror image" not in rule.why_unknown
    one = {"A": rows, "B": _beside(rows, TURN)}
    assert "all chains of the file are of one hand" in _copies(proved(pdb(one, head=_crystal("P -1")))).why_unknown


def test_copies_that_overlap_in_such_a_group_are_refuted(proved, coq_of_python):
    rule = _copies(proved(pdb({"A": helix(6)}, head=_crystal("P -1"))))
    assert rule.refuted


def test_the_sugars_of_nucleic_acids_have_a_hand(proved, coq_of_python):
    """Four atoms of a sugar in each nucleotide; the copies stay unknown."""
    sugar = [
        ("C4'", (0, 0, 0)),
        ("C3'", (1.5, 0, 0)),
        ("O4'", (-0.5, 1.4, 0)),
        ("C5'", (-0.5, -0.6, 1.3)),
        ("P", (0, 3, 3)),
    ]
    rows = [(k, name, np.array(place) + np.array([15.0, 12, 5 + 6 * k])) for k in (1, 2) for name, place in sugar]
    names = {("A", k): "A" for k in (1, 2)}
    rule = _copies(proved(pdb({"A": rows}, names=names, head=_crystal("P -1"))))
    assert "holds the mirror image" in rule.why_unknown
