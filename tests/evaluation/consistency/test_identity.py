"""Ligands, ions, waters and modified residues are what their names say, as far as tables tell; bonds with hydrogens."""

import gemmi
import numpy as np
import pytest
from planted import hetero, words_of
from small_models import helix, pdb

from cryoprism.evaluation.consistency._completeness import Completeness
from cryoprism.evaluation.consistency._formulas import FORMULAS, weight_of
from cryoprism.evaluation.consistency._identity import identities, unchecked

PLACE = np.array([0.0, 0.0, 9.0])


def residue(name, *atoms):
    """HETATM rows of one residue: (atom name, element, shift), beside the helix."""
    return hetero([(atom, element, PLACE + np.array(shift), 1.0) for atom, element, shift in atoms], name)


def told(result, name):
    """What the names of residues lead to: refuted, unknown or nothing, and the words of those of one name."""
    found, model = Completeness(), result.model
    identities(model, found.add)
    failing = [k for k in found.rule.failing() if model.residues[found.rule.residues[k]].name == name]
    words = [found.rule.words[k] for k in failing]
    return "" if not failing else "unknown" if set(failing) <= found.open else "refuted", words


def chain_of(count, element="C", spacing=1.5):
    return [(f"{element}{k}", element, (spacing * k, 0, 0)) for k in range(1, count + 1)]


@pytest.mark.parametrize(
    ("name", "atoms", "verdict"),
    [
        ("HOH", [("O", "O", (0, 0, 0))], ""),
        ("HOH", [("O", "O", (0, 0, 0)), ("H1", "H", (0.96, 0, 0)), ("H2", "H", (-0.24, 0.93, 0))], ""),
        ("HOH", [("C", "C", (0, 0, 0))], "refuted"),
        ("HOH", [("O", "NA", (0, 0, 0))], "refuted"),
        ("HOH", [("O", "O", (0, 0, 0)), ("O2", "O", (1.4, 0, 0))], "refuted"),
        ("HOH", [("H1", "H", (0, 0, 0))], "unknown"),
        ("ZN", [("ZN", "ZN", (0, 0, 0))], ""),
        ("ZN", [("MG", "MG", (0, 0, 0))], "refuted"),
        ("FE2", [("FE", "FE", (0, 0, 0))], ""),
        ("FE2", [("CU", "CU", (0, 0, 0))], "refuted"),
        ("NAG", [("ZN", "ZN", (0, 0, 0))], "refuted"),
        ("ATP", [("C1", "C", (0, 0, 0))], "unknown"),
        ("EDO", [*chain_of(2), ("O1", "O", (0, 1.4, 0)), ("O2", "O", (4.5, 1.4, 0))], ""),
        ("EDO", [*chain_of(2), ("O1", "N", (0, 1.4, 0)), ("O2", "N", (4.5, 1.4, 0))], "refuted"),
        ("SO4", [("S", "S", (0, 0, 0))], "unknown"),
        ("PLM", chain_of(16), ""),  # bound: without its O
        ("PLM", chain_of(17), "refuted"),
        ("PLM", chain_of(7), "unknown"),
        ("PDO", chain_of(3), ""),  # 1,3-propanediol, of which gemmi's weight alone is known: two O lack
        ("PDO", chain_of(6), "refuted"),
        ("XYZ", chain_of(5), ""),
    ],
)  # fmt: skip
def test_what_a_residue_is_called_and_what_it_is(witnesses, name, atoms, verdict):
    result = witnesses(pdb({"A": helix()}, extra=residue(name, *atoms)))
    found, words = told(result, name)
    assert found == verdict, words
    assert (found == "refuted") == any(
        one in all_words for one in words for all_words in words_of(result, "completeness")
    )
    sentence = [one for one in result.sentences() if "was not checked: no table has the formula" in one]
    assert len(sentence) == (name == "XYZ")
    assert unchecked(result.model) == (["XYZ"] if name == "XYZ" else [])


@pytest.mark.parametrize(
    ("name", "verdict"), [("ALA", ""), ("SEP", "unknown"), ("AIB", ""), ("XYZ", ""), ("SAR", "refuted"), ("HYP", "")]
)
def test_a_residue_of_a_chain_that_has_another_name(witnesses, name, verdict):
    rows = helix()
    if name == "SAR":  # has one carbon less
        rows.append((4, "CX", next(p for k, n, p in rows if (k, n) == (4, "CB")) + np.array([0, 1.2, 0.9])))
    result = witnesses(pdb({"A": rows}, names={("A", 4): name}))
    assert told(result, name)[0] == verdict
    assert unchecked(result.model) == (["XYZ"] if name == "XYZ" else [])


def test_formulas_weigh_what_gemmis_table_says():
    known = {name: weight_of(name) for name in FORMULAS if weight_of(name)}
    assert len(known) > 80
    for name, weight in known.items():
        own = sum(gemmi.Element(element.capitalize()).weight * count for element, count in FORMULAS[name].items())
        assert own == pytest.approx(weight, abs=0.1), name


@pytest.mark.parametrize(("count", "fine"), [(3, True), (4, False)])
def test_hydrogens_that_an_atom_has_no_bonds_for(witnesses, count, fine):
    rows = helix()
    here = {n: p for k, n, p in rows if k == 4}
    axis = (here["CB"] - here["CA"]) / np.linalg.norm(here["CB"] - here["CA"])
    across = np.cross(axis, [0.3, 0.5, 0.8])
    across /= np.linalg.norm(across)
    for k in range(count):
        angle = 2 * np.pi * k / count
        way = across * np.cos(angle) + np.cross(axis, across) * np.sin(angle)
        rows.append((4, f"HB{k + 1}", here["CB"] + 0.4 * axis + 1.0 * way))
    found = [words for words in words_of(witnesses(pdb({"A": rows})), "completeness") if "hydrogens counted" in words]
    assert (found == []) == fine
    assert fine or "has 5 bonds" in found[0]


@pytest.mark.parametrize(("count", "fine"), [(1, True), (2, False)])
def test_a_third_atom_at_the_sulphur_of_a_disulfide(witnesses, count, fine):
    rows = helix(4)
    here = {n: p for k, n, p in rows if k == 2}
    away = (here["CB"] - here["CA"]) / np.linalg.norm(here["CB"] - here["CA"])
    sulphur = here["CB"] + 1.81 * away
    rows.append((2, "SG", sulphur))
    beside = np.cross(away, [0.0, 0.0, 1.0])
    ways = [away, beside / np.linalg.norm(beside)][:count]
    extra = [
        hetero([("SG", "S", sulphur + 2.04 * way, 1.0)], "XYZ").replace("L 900", f"L {900 + k}")
        for k, way in enumerate(ways)
    ]
    result = witnesses(pdb({"A": rows}, names={("A", 2): "CYS"}, extra="\n".join(extra)))
    found = [words for words in words_of(result, "completeness") if "Sγ of Cys 2" in words]
    assert (found == []) == fine, found
    assert fine or "has 3 bonds" in found[0]


def test_the_beta_carbon_of_d_threonine_is_asked(witnesses):
    rows = helix()
    here = {n: p for k, n, p in rows if k == 4}
    axis = here["CB"] - here["CA"]
    first = np.cross(axis, [1.0, 0, 0])
    first *= 1.4 / np.linalg.norm(first)
    second = np.cross(axis, first)
    second *= 1.4 / np.linalg.norm(second)
    found = {}
    for name in ("THR", "DTH"):
        for swapped in (False, True):
            ends = [first + 0.5 * axis / 1.5, second + 0.5 * axis / 1.5]
            ends = ends[::-1] if swapped else ends
            sides = [(4, "OG1", here["CB"] + ends[0]), (4, "CG2", here["CB"] + ends[1])]
            result = witnesses(pdb({"A": [*rows, *sides]}, names={("A", 4): name}))
            found[name, swapped] = sum("Cβ" in words and "mirror" in words for words in words_of(result, "chirality"))
    assert sorted(found.values()) == [0, 0, 1, 1]
    assert found["THR", False] != found["DTH", False]
