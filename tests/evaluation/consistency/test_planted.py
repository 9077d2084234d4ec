"""Faults of atoms, bonds and chains that rules have to see, and good models that they must not refute."""

import numpy as np
import pytest
from planted import crystal, hetero, labelled, rule_of, shifted, words_of
from small_models import helix, moved, pdb

from cryoprism.evaluation.consistency._words import length_words
from programs import needs_coq

# Occupancies and alternatives


@pytest.mark.parametrize(
    ("letters", "occupancies", "clashes"),
    [
        ("  ", (0.5, 0.5), True),  # no letter: both are there
        ("  ", (0.0, 0.0), True),  # no occupancy: atoms of the model all the same
        ("A ", (0.5, 0.5), True),
        ("AA", (0.3, 0.3), True),
        ("AB", (0.5, 0.5), False),
        ("AB", (0.67, 0.34), False),  # two decimals
        ("AB", (0.7, 0.7), True),  # the pigeonhole
    ],
)
def test_only_alternatives_that_need_not_be_there_at_once_are_not_compared(witnesses, letters, occupancies, clashes):
    text = pdb({"A": helix(4), "B": shifted(helix(4), 0.4, 0.4, 0.4)})
    for chain, letter, occupancy in zip("AB", letters, occupancies, strict=True):
        text = labelled(text, chain, letter, occupancy)
    result = witnesses(text)
    assert bool(words_of(result, "clashes")) == clashes
    assert ("not judged" in rule_of(result, "clashes").note) == (not clashes)


@needs_coq
def test_coq_agrees_about_alternatives(proved):
    text = pdb({"A": helix(4), "B": shifted(helix(4), 0.4, 0.4, 0.4)})
    apart = proved(labelled(labelled(text, "A", "A", 0.5), "B", "B", 0.5))
    assert rule_of(apart, "clashes").refuted == rule_of(apart, "clashes").unknown == 0
    together = proved(labelled(labelled(text, "A", " ", 0.5), "B", " ", 0.5))
    assert rule_of(together, "clashes").refuted == 8
    # Nothing fails, but whole chains that share a place may be hidden by their letters.
    assert [(rule.name, rule.unknown) for rule in apart.rules if rule.unknown or rule.refuted] == [("completeness", 1)]


@needs_coq
def test_what_is_occupied_in_part_may_take_turns_with_its_copy(proved):
    head = crystal(60, 60, 60, "P 1 2 1")  # a two-fold axis along y through the origin: its copy is 1.6 Å away
    turns = {}
    for occupancy in (0.5, 1.0, 0.0):
        atoms = [("O", "O", (0.8, 31.0, 0.0), occupancy)]
        turns[occupancy] = rule_of(
            proved(pdb({"A": shifted(helix(4), 20, 20, 20)}, extra=hetero(atoms, "HOH"), head=head)), "copies"
        )
    assert (turns[0.5].refuted, turns[0.5].unknown) == (0, 1)
    assert "occupied in part" in turns[0.5].why_unknown
    assert (turns[1.0].refuted, turns[0.0].refuted) == (1, 1)


def test_a_hydrogen_without_a_letter_is_bonded_to_both_alternatives(witnesses):
    atoms = [
        "HETATM    1  C1 ALIG L 900       0.000   0.000   0.000  0.50 20.00           C",
        "HETATM    2  C1 BLIG L 900       0.100   0.000   0.000  0.50 20.00           C",
        "HETATM    3  H1  LIG L 900       0.050   1.000   0.000  1.00 20.00           H",
    ]
    assert words_of(witnesses("\n".join([*atoms, "END", ""])), "clashes") == []


# Chains and backbones


def torn(drop, shift=20.0, residues=8):
    rows = [(k, n, p + (shift if k > 4 else 0)) for k, n, p in helix(residues)]
    return [(k, n, p) for k, n, p in rows if not (k == 4 and n in drop)]


def test_a_chain_torn_at_a_residue_without_its_backbone_is_seen(witnesses):
    result = witnesses(pdb({"A": torn({"CA", "C", "O"})}))
    (words,) = words_of(result, "chains")
    assert "Cα of Ala 3" in words
    assert "Cα of Ala 5" in words
    assert any("Ala 4 in chain A: its backbone lacks CA, C, O" in one for one in words_of(result, "completeness"))
    assert words_of(witnesses(pdb({"A": torn({"CA", "C", "O"}, shift=0)})), "chains") == []


def test_a_residue_that_may_be_several_lets_the_chain_reach_further(witnesses):
    """A chromophore of three residues bears one number; it has no Cα."""
    rows = [(k, n, p) for k, n, p in helix(12) if k not in (5, 6, 7)]
    rows = [(k if k < 5 else k - 2, n, p + (4.0 if k > 7 else 0)) for k, n, p in rows]
    chromophore = [(5, f"C{k}", p + 100) for k, (_, _, p) in enumerate(helix(3))]
    rows = [row for row in rows if row[0] < 5] + chromophore + [row for row in rows if row[0] > 5]
    result = witnesses(pdb({"A": rows}, names={("A", 5): "CRX"}))
    assert words_of(result, "chains") == []


def test_a_trace_of_calphas_is_a_model_and_is_called_one(witnesses):
    result = witnesses(pdb({"A": [row for row in helix() if row[1] == "CA"]}))
    assert words_of(result, "completeness") == []
    assert "chain A: a trace of one atom a residue" in rule_of(result, "completeness").note


@needs_coq
def test_backbones_are_refuted_inside_and_unknown_at_the_ends(proved):
    inside = proved(pdb({"A": [row for row in helix() if row[:2] != (4, "O")]}))
    assert rule_of(inside, "completeness").refuted == 1
    end = rule_of(proved(pdb({"A": [row for row in helix() if row[:2] != (8, "O")]})), "completeness")
    assert (end.refuted, end.unknown) == (0, 1)
    assert "Ala 8 in chain A: its backbone lacks O" in end.why_unknown
    head = "REMARK 470     ALA A   4    O"
    declared = proved(pdb({"A": [row for row in helix() if row[:2] != (4, "O")]}, head=head))
    assert declared.verdict == "proved", declared.sentences()
    assert "1 backbone atoms are declared as missing" in rule_of(declared, "completeness").note


# Least distances along bonds, atoms that are doubled


def test_a_carbonyl_oxygen_on_the_next_nitrogen_is_too_near_for_its_angle(witnesses):
    rows = helix()
    place = {(k, n): p for k, n, p in rows}
    c, n = place[(3, "C")], place[(4, "N")]
    aside = np.cross(n - c, place[(3, "CA")] - c)
    spot = c + 1.05 * (n - c) / np.linalg.norm(n - c) + 0.6 * aside / np.linalg.norm(aside)
    result = witnesses(pdb({"A": moved(rows, 3, "O", spot)}))
    assert words_of(result, "bonds") == []
    assert any(
        "O of Ala 3 in chain A is 0.6" in one and "bonded to one atom keep at least 1.9 Å" in one
        for one in words_of(result, "clashes")
    )


def test_atoms_three_bonds_apart_keep_the_distance_of_all(witnesses):
    bent = [("C1", "C", (0, 0, 0), 1), ("C2", "C", (0, 1.5, 0), 1), ("C3", "C", (1.5, 1.5, 0), 1)]
    assert words_of(witnesses(hetero([*bent, ("C4", "C", (2.5, 0.4, 0), 1)])), "clashes") == []
    result = witnesses(hetero([*bent, ("C4", "C", (2.0, 0.1, 0.2), 1)]))
    assert [one.split(";")[0] for one in words_of(result, "clashes")] == [
        "C1 of LIG 900 in chain L is 2.01 Å from C4 of LIG 900 in chain L"
    ]


def ring(count=6, radius=1.39):
    turns = 2 * np.pi * np.arange(count) / count
    return [
        (f"C{k}", "C", (radius * np.cos(turn) + 5, radius * np.sin(turn) + 5, 5.0), 1.0) for k, turn in enumerate(turns)
    ]


def test_rings_are_whole_and_their_atoms_apart(witnesses):
    for count, radius in ((6, 1.39), (5, 1.2), (4, 1.08), (3, 0.87)):
        assert words_of(witnesses(hetero(ring(count, radius))), "clashes") == []
    fallen = ring()
    fallen[1] = ("C1", "C", fallen[0][2], 1.0)
    result = witnesses(hetero(fallen))
    assert any("C0" in one and "share a bond keep at least 0.9 Å" in one for one in words_of(result, "clashes"))


def test_an_atom_that_is_there_twice_is_found(witnesses):
    text = pdb({"A": helix(4)}).splitlines()
    where = next(k for k, line in enumerate(text) if " CB " in line)
    text.insert(where, text[where][:30] + f"{float(text[where][30:38]) + 4:8.3f}" + text[where][38:])
    assert any("bear one name" in one and "CB" in one for one in words_of(witnesses("\n".join(text)), "completeness"))


@pytest.mark.parametrize(("value", "edges", "text"), [(2.197, (2.2,), "2.197"), (1.5, (2.2,), "1.50")])
def test_a_length_that_misses_its_limit_narrowly_is_not_rounded_onto_it(value, edges, text):
    assert length_words(value, *edges) == text
