"""Sugars and α-helices have the hand of their names; mirrored ones are refuted, by Cα alone too."""

import numpy as np
import pytest
from planted import hetero, rule_of, words_of
from small_models import helix, pdb

from cryoprism.evaluation.consistency._helices import helix_hands
from cryoprism.evaluation.consistency._sugars import SUGARS
from programs import needs_coq

#: α-D-glucose of 3VD8 [Å].
GLUCOSE = {
    "C1": (1.17, -0.80, -0.95), "C2": (1.60, 0.49, -0.30), "C3": (0.74, 0.90, 0.80), "C4": (-0.68, 0.88, 0.47),
    "C5": (-1.07, -0.45, -0.15), "C6": (-2.49, -0.41, -0.60), "O1": (1.43, -1.84, -0.13), "O2": (2.94, 0.35, 0.18),
    "O3": (1.14, 2.24, 1.23), "O4": (-1.45, 1.08, 1.68), "O5": (-0.24, -0.80, -1.27), "O6": (-3.08, -1.63, -0.94),
}  # fmt: skip


def sugar(name, mirrored=False):
    flip = np.array([-1 if mirrored else 1, 1, 1])
    return hetero([(n, n[0], np.array(p) * flip + np.array([0, 0, 14.0]), 1.0) for n, p in GLUCOSE.items()], name)


@pytest.mark.parametrize(
    ("name", "mirrored", "wrong"),
    [
        ("GLC", False, set()),
        ("GLC", True, {"C1", "C2", "C3", "C4", "C5"}),
        ("BGC", False, {"C1"}),
        ("GAL", False, {"C1", "C4"}),
        ("GLA", False, {"C4"}),
        ("MAN", False, {"C2"}),
        ("BMA", False, {"C1", "C2"}),
        ("XYZ", True, set()),
    ],
)
def test_carbons_of_sugars_have_the_hand_of_their_name(witnesses, name, mirrored, wrong):
    found = words_of(witnesses(pdb({"A": helix()}, extra=sugar(name, mirrored))), "chirality")
    assert {words.split()[2] for words in found} == wrong
    assert all("is the mirror image of what its name says" in words for words in found)


def test_the_anomer_of_a_sugar_in_a_chain_is_told_by_what_c1_is_bonded_to(witnesses):
    rows = [line for line in sugar("GLC").splitlines() if " O1 " not in line]
    atom = hetero([("O1", "O", np.array(GLUCOSE["O1"]) + np.array([0, 0, 14.0]), 1.0)], "EOH").replace("L 900", "L 901")
    for name, wrong in (("GLC", 0), ("BGC", 1)):
        text = "\n".join(rows).replace("GLC", name)
        bonded = witnesses(pdb({"A": helix()}, extra=f"{text}\n{atom}"))
        assert sum("C1 of" in words for words in words_of(bonded, "chirality")) == wrong
        alone = witnesses(pdb({"A": helix()}, extra=text))
        assert words_of(alone, "chirality") == []


def test_every_sugar_differs_from_the_others():
    kinds = [(flips, name in {"NAG", "NDG", "NGA", "A2G"}) for name, flips in SUGARS.items()]
    assert all(set(flips) <= set("12345") for flips, _ in kinds)
    hexoses = ["GLC", "BGC", "GAL", "GLA", "MAN", "BMA"]
    assert len({SUGARS[name] for name in hexoses}) == len(hexoses)


def trace(rows):
    return [row for row in rows if row[1] == "CA"]


def mirrored(rows):
    return [(k, n, p * np.array([1, 1, -1])) for k, n, p in rows]


def left(rows):
    return [words for words in words_of(rows, "chirality") if "turns to the left" in words]


@needs_coq
def test_a_mirrored_trace_is_refuted_by_its_helix(proved):
    right = proved(pdb({"A": trace(helix(12))}))
    assert right.verdict == "proved", right.sentences()
    assert rule_of(right, "chirality").proved == 9
    wrong = proved(pdb({"A": mirrored(trace(helix(12)))}))
    assert wrong.verdict == "refuted"
    assert rule_of(wrong, "chirality").refuted == 9
    assert left(wrong) == [
        "Ala 1 to Ala 12 in chain A form an α-helix that turns to the left, which L amino acids do not: the model may "
        "be the mirror image of the molecule, built into a map of the wrong hand"
    ]


@pytest.mark.parametrize(
    ("count", "name", "asked"),
    [(8, "ALA", 0), (9, "ALA", 6), (12, "GLY", 0), (12, "DAL", 0), (12, "XYZ", 0), (12, "AIB", 9)],
)
def test_which_helices_are_asked(witnesses, count, name, asked):
    rows = mirrored(trace(helix(count)))
    names = {("A", k): name for k in range(1, count + 1)}
    result = witnesses(pdb({"A": rows}, names=names))
    assert len(helix_hands(result.model).atoms) == asked
    assert any(rule.name == "chirality" for rule in result.rules) == (asked > 0)
    assert asked == 0 or len(left(result)) == 1


def test_a_strand_and_a_helix_of_another_pitch_are_not_asked(witnesses):
    strand = [(k, "CA", np.array([3.3 * k, 1.8 * (k % 2), 0.0])) for k in range(1, 15)]
    assert len(helix_hands(witnesses(pdb({"A": strand})).model).atoms) == 0
    broken = [(k + 3 * (k > 7), n, p) for k, n, p in trace(helix(14))]  # two of seven residues
    assert len(helix_hands(witnesses(pdb({"A": broken})).model).atoms) == 0
