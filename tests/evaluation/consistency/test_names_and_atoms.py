"""Names that force fields give, atoms that lie loose or belong elsewhere; judged without the prover."""

import numpy as np
import pytest
from small_models import helix, moved, pdb

from cryoprism.evaluation.consistency import check_consistency
from cryoprism.evaluation.consistency._chemistry import template_centres
from cryoprism.evaluation.consistency._completeness import completeness
from cryoprism.evaluation.consistency._names import bears, standard_atoms, standard_name
from programs import needs_coq


@pytest.fixture
def witnesses(tmp_path, monkeypatch):
    """What Python finds, without Coq's verdict."""

    def check(text, name="model.pdb", **options):
        path = tmp_path / name
        path.write_text(text)
        with monkeypatch.context() as patch:
            patch.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda program: None)
            return check_consistency(path, **options)

    return check


def held(result):
    """Residues of which the rule of completeness leaves something open."""
    found = completeness(result.model)
    return {found.rule.residues[k] for k in found.open}


def words_of(result, name=None):
    return [one.words for rule in result.rules if name in (None, rule.name) for one in rule.offenders]


def hetero(rows, name="LIG", number=900, chain="L"):
    """HETATM rows of one residue: (atom name, element, position)."""
    return "\n".join(
        f"HETATM{number:5d} {atom:<4s} {name:>3s} {chain}{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00"
        f"          {element:>2s}"
        for atom, element, (x, y, z) in rows
    )


def mirrored(rows):
    return [(k, n, p * np.array([1, 1, -1])) for k, n, p in rows]


def edited(text, change):
    return "\n".join(change(line) if line.startswith(("ATOM", "HETATM")) else line for line in text.splitlines()) + "\n"


def beside(rows, distance, seed=0):
    """A place that is ``distance`` from the nearest atom."""
    places = np.array([p for _, _, p in rows])
    for step in np.random.default_rng(seed).normal(size=(20000, 3)):
        place = places[10] + step / np.linalg.norm(step) * (distance + 4)
        if abs(np.linalg.norm(places - place, axis=1).min() - distance) < 0.05:
            return place
    raise AssertionError


WATER = [("O", "O", (0, 0, 0)), ("H1", "H", (0.957, 0, 0)), ("H2", "H", (-0.24, 0.927, 0))]


@pytest.mark.parametrize(("name", "element"), [("HOH", "H"), ("DOD", "D"), ("SOL", "H"), ("TIP", "H")])
def test_water_has_its_hydrogens(witnesses, name, element):
    place = beside(helix(), 3.0)
    rows = [(n, element if e == "H" else e, place + np.array(p)) for n, e, p in WATER]
    assert words_of(witnesses(pdb({"A": helix()}, extra=hetero(rows, name)))) == []
    rows[1] = (*rows[1][:2], place + np.array([5.0, 0, 0]))
    assert any("H1" in words for words in words_of(witnesses(pdb({"A": helix()}, extra=hetero(rows, name))), "bonds"))


@pytest.mark.parametrize("name", ["ALA", "ala", "CYX", "HSD", "LYN", "ASH", "MLE", "UNK", "TYS"])
def test_a_mirrored_residue_is_seen_under_every_name(witnesses, name):
    def rename(line):
        return f"{line[:17]}{name}{line[20:]}"

    found = words_of(witnesses(edited(pdb({"A": mirrored(helix())}), rename)), "chirality")
    assert sum("mirror image" in words for words in found) == 8
    assert words_of(witnesses(edited(pdb({"A": helix()}), rename))) == []


def test_a_hand_that_no_table_tells_is_unknown(witnesses):
    names = {("A", k): "XQZ" for k in range(1, 9)}
    result = witnesses(pdb({"A": mirrored(helix())}, names=names))
    assert words_of(result) == []
    assert sum(k in held(result) for k in range(8)) == 8
    assert words_of(witnesses(pdb({"A": mirrored(helix())}, names={("A", k): "DAL" for k in range(1, 9)}))) == []


def test_an_atom_far_from_its_residue_is_torn_off(witnesses):
    rows = helix()
    for name in ("ALA", "TYS", "MLE"):
        text = pdb({"A": moved(rows, 4, "CB", [60.0, 60, 60])}, names={("A", 4): name})
        assert any("Cβ of" in words for words in words_of(witnesses(text), "bonds")), name
    glycol = [("C1", "C", (0, 0, 0)), ("C2", "C", (1.5, 0, 0)), ("O1", "O", (-0.5, 1.3, 0)), ("O2", "O", (2.0, 1.3, 0))]
    place = beside(rows, 3.5)
    whole = [(n, e, place + (place - rows[10][2]) * 0.5 + np.array(p)) for n, e, p in glycol]
    assert words_of(witnesses(pdb({"A": rows}, extra=hetero(whole, "EDO"))), "bonds") == []
    whole[2] = ("O1", "O", (99.0, 0, 0))
    assert any("O1 of EDO" in w for w in words_of(witnesses(pdb({"A": rows}, extra=hetero(whole, "EDO"))), "bonds"))


@pytest.mark.parametrize(("distance", "fine"), [(1.01, True), (1.39, False), (100.0, False)])
def test_a_hydrogen_has_a_parent(witnesses, distance, fine):
    rows = helix()
    nitrogen = next(p for k, n, p in rows if (k, n) == (1, "N"))
    away = nitrogen - np.mean([p for _, _, p in rows], axis=0)
    place = nitrogen + distance * away / np.linalg.norm(away)
    line = "ATOM    900  H   ALA A   1    {:8.3f}{:8.3f}{:8.3f}  1.00 20.00           H".format(*place)
    text = pdb({"A": rows}).replace("ATOM      6", f"{line}\nATOM      6", 1)
    assert any(w.startswith("The bond from H of") for w in words_of(witnesses(text), "bonds")) == (not fine)


def test_a_chain_in_two_alternatives_is_one_chain(witnesses):
    shifted = [(k, n, p + (np.array([1.2, 0, 0]) if k > 4 else 0)) for k, n, p in helix()]

    def letters(line):
        return f"{line[:16]}{'A' if int(line[22:26]) < 5 else 'B'}{line[17:54]}  0.50{line[60:]}"

    assert any(" 4 in chain A" in w for w in words_of(witnesses(edited(pdb({"A": shifted}), letters)), "bonds"))
    assert words_of(witnesses(edited(pdb({"A": helix()}), letters))) == []


def test_hands_are_asked_where_each_atom_has_a_letter_of_its_own(witnesses):
    def letters(line):
        return f"{line[:16]}{'ABCDEFG'[int(line[6:11]) % 5]}{line[17:54]}  0.20{line[60:]}"

    found = words_of(witnesses(edited(pdb({"A": mirrored(helix())}), letters)), "chirality")
    assert sum("mirror image" in words for words in found) == 8


def renamed(name, **residues):
    def change(line):
        return f"{line[:17]}{name:>3s}{line[20:]}" if int(line[22:26]) in residues.get("only", range(99)) else line

    return change


@pytest.mark.parametrize("name", ["GLY", "DA", "U"])
def test_atoms_that_a_residue_does_not_have_are_seen(witnesses, name):
    text = edited(pdb({"A": helix()}), renamed(name, only=[4]))
    assert any("do not belong" in w for w in words_of(witnesses(text), "completeness"))


def test_atoms_that_are_not_built_are_counted_and_no_fault(witnesses):
    result = witnesses(edited(pdb({"A": helix()}), renamed("TRP")))
    assert words_of(result) == []
    assert "8 residues lack 72 atoms" in next(rule for rule in result.rules if rule.name == "completeness").note


@pytest.mark.parametrize(("atom", "element"), [("CA", "N"), ("CB", "O"), ("O", "H"), ("C", "S")])
def test_elements_are_those_of_the_names(witnesses, atom, element):
    def change(line):
        return f"{line[:76]}{element:>2s}" if line[12:16].strip() == atom else line

    found = words_of(witnesses(edited(pdb({"A": helix()}), change)), "completeness")
    assert sum("do not belong to ALA by element" in w for w in found) == 8


@pytest.mark.parametrize(
    ("occupancy", "b_factor", "fine"),
    [(1, 20, True), (1, -3, True), (-0.5, 20, False), (1.5, 20, False), (1, -50, False)],
)
def test_occupancies_and_b_factors_are_possible(witnesses, occupancy, b_factor, fine):
    text = edited(pdb({"A": helix()}), lambda line: f"{line[:54]}{occupancy:6.2f}{b_factor:6.2f}{line[66:]}")
    found = words_of(witnesses(text), "completeness")
    assert (found == []) == fine
    assert fine or "the first its N: occupancy" in found[0]


def test_waters_and_ligands_lead_to_a_chain(witnesses):
    rows = helix()
    near = beside(rows, 3.0)
    away = near - np.mean([p for _, _, p in rows], axis=0)
    away /= np.linalg.norm(away)
    waters = [hetero([("O", "O", near + 4.5 * k * away)], "HOH", 901 + k) for k in range(3)]
    assert words_of(witnesses(pdb({"A": rows}, extra="\n".join(waters)))) == []
    lost = hetero([("O", "O", (200, 200, 200))], "HOH", 920)
    found = words_of(witnesses(pdb({"A": rows}, extra="\n".join([*waters, lost]))))
    assert len(found) == 1
    assert found[0].startswith("HOH 920 in chain L: its contacts lead to no chain")
    pair = [hetero([("ZN", "ZN", (300 + 4 * k, 0, 0))], "ZN", 930 + k) for k in range(2)]
    found = words_of(witnesses(pdb({"A": rows}, extra="\n".join(pair))), "completeness")
    assert [words[:6] for words in found] == ["ZN 930", "ZN 931"]


def test_a_water_at_a_copy_of_the_chain_belongs(witnesses):
    rows = helix()
    places = np.array([p for _, _, p in rows])
    head = "CRYST1   60.000   60.000   60.000  90.00  90.00  90.00 P 1           1"
    water = hetero([("O", "O", beside(rows, 3.0) + np.array([0, 0, 60.0]))], "HOH")
    assert np.linalg.norm(places - (beside(rows, 3.0) + np.array([0, 0, 60.0])), axis=1).min() > 20
    assert words_of(witnesses(pdb({"A": rows}, extra=water, head=head)), "completeness") == []


@pytest.mark.parametrize(("occupancy", "fine"), [(0.33, True), (0.34, False), (0.5, False)])
def test_three_alternatives_at_one_place_share_one_occupancy(witnesses, occupancy, fine):
    place = beside(helix(), 3.0)
    rows = [hetero([("O", "O", place)], "HOH", 901 + k) for k in range(3)]
    text = "\n".join(f"{row[:16]}{'ABC'[k]}{row[17:54]}{occupancy:6.2f}{row[60:]}" for k, row in enumerate(rows))
    found = words_of(witnesses(pdb({"A": helix()}, extra=text)))
    assert (found == []) == fine, found
    assert fine or "3 atoms keep one another out" in found[0]


def outside(rows, residue, name, distance):
    """A place that is nearest to one atom, as far from it as said."""
    here = next(p for k, n, p in rows if (k, n) == (residue, name))
    others = np.array([p for k, n, p in rows if (k, n) != (residue, name)])
    steps = np.random.default_rng(1).normal(size=(4000, 3))
    places = here + distance * steps / np.linalg.norm(steps, axis=1, keepdims=True)
    return max(places, key=lambda place: np.linalg.norm(others - place, axis=1).min())


def linked(rows, name, atom, element, distance):
    text = hetero([(atom, element, outside(rows, 4, "CB", distance))], name)
    link = f"LINK         CB  ALA A   4                {atom:>2s}   {name:>3s} L 900     1555   1555  {distance:.2f}  "
    return pdb({"A": rows}, extra=text, head=link)


@pytest.mark.parametrize(
    ("name", "element", "distance", "fine"),
    [("HOH", "O", 1.5, False), ("LIG", "O", 1.43, True), ("ZN", "ZN", 1.63, False), ("ZN", "ZN", 1.95, True)],
)
def test_a_record_makes_no_bond_of_what_cannot_be_one(witnesses, name, element, distance, fine):
    found = words_of(witnesses(linked(helix(), name, element, element, distance)), "clashes")
    assert (found == []) == fine, found


def test_no_metal_lies_in_a_carbon(witnesses):
    rows = helix()
    text = hetero([("ZN", "ZN", outside(rows, 4, "CB", 1.7))], "ZN")
    assert any("at least 1.9 Å" in words for words in words_of(witnesses(pdb({"A": rows}, extra=text)), "clashes"))


def turned(rows, degrees):
    """Turn all after the peptide bond between 4 and 5 about it."""
    c, n = (next(p for k, a, p in rows if (k, a) == key) for key in ((4, "C"), (5, "N")))
    axis = (n - c) / np.linalg.norm(n - c)
    angle = np.radians(degrees)

    def turn(place):
        v = place - n
        return n + v * np.cos(angle) + np.cross(axis, v) * np.sin(angle) + axis * (axis @ v) * (1 - np.cos(angle))

    return [(k, a, turn(p) if k > 5 or (k == 5 and a != "N") else p) for k, a, p in rows]


@pytest.mark.parametrize(("degrees", "fine"), [(0, True), (30, True), (-30, True), (66, False), (-80, False)])
def test_peptides_are_flat(witnesses, degrees, fine):
    found = words_of(witnesses(pdb({"A": turned(helix(), degrees)})), "chirality")
    assert [("from Ala 4" in w and "is twisted" in w) for w in found] == ([] if fine else [True])


def test_carbonyl_groups_are_flat(witnesses):
    rows = helix()
    alpha, carbon, oxygen = (next(p for k, n, p in rows if (k, n) == (4, name)) for name in ("CA", "C", "O"))
    normal = np.cross(alpha - carbon, oxygen - carbon)
    out = moved(rows, 4, "O", carbon + 1.23 * normal / np.linalg.norm(normal))
    found = words_of(witnesses(pdb({"A": out})), "chirality")
    assert len(found) == 1
    assert found[0].startswith("C of Ala 4 in chain A and the three atoms that it is bonded to are not flat")


def test_a_hydrogen_is_at_the_atom_that_its_name_says():
    for heavy, hydrogens in (("N", ("H", "HN", "H1", "2H")), ("CB", ("HB2", "1HB", "HB")), ("OG1", ("HG1",))):
        assert all(bears(heavy, hydrogen) for hydrogen in hydrogens)
    assert not bears("CA", "H")
    assert not bears("CA", "HB1")


def test_names_of_force_fields_are_the_standard_ones():
    ribose, deoxyribose = ["C1'", "C2'", "O2'"], ["C1*", "C2*"]
    names = {"HSD": "HIS", "CYX": "CYS", "NALA": "ALA", "CCYX": "CYS", "ala": "ALA", "DPR": "DPR", "XYZ": "XYZ"}
    assert {name: standard_name(name, []) for name in names} == names
    assert [standard_name(name, ribose) for name in ("ADE", "RA5", "A3", "URA", "A")] == ["A", "A", "A", "U", "A"]
    assert [standard_name(name, deoxyribose) for name in ("ADE", "DA5", "THY", "DT3")] == ["DA", "DA", "T", "DT"]
    assert standard_atoms("ILE", ["CD", "ot1", "OT2"]) == ["CD1", "O", "OXT"]
    assert standard_atoms("DT", ["O1P", "C5M", "C1*"]) == ["OP1", "C7", "C1'"]
    assert standard_atoms("LIG", ["O1P", "CD"]) == ["O1P", "CD"]


def test_arabinose_is_not_ribose():
    centres = {one[0]: one for one in template_centres("A")}
    assert centres["C2'"] == ("C2'", "C1'", "C3'", "O2'", -1)  # ribose, as in crystals of RNA: -2.4 to -2.9 Å³


@needs_coq
def test_coq_agrees_about_what_is_loose(tmp_path):
    rows = moved(turned(helix(), 80), 2, "CB", [60.0, 60, 60])
    place = beside(rows, 3.0)
    waters = [hetero([("O", "O", place)], "HOH", 901 + k) for k in range(3)]
    text = "\n".join(f"{row[:16]}{'ABC'[k]}{row[17:54]}  0.50{row[60:]}" for k, row in enumerate(waters))
    path = tmp_path / "model.pdb"
    path.write_text(pdb({"A": rows}, extra=text, names={("A", 2): "MLE"}))
    result = check_consistency(path)
    assert {rule.name: rule.why_unknown for rule in result.rules if rule.unknown} == {}
    assert {rule.name for rule in result.rules if rule.refuted} >= {"bonds", "chirality", "completeness"}
    assert any("is twisted" in words for words in words_of(result, "chirality"))
    assert any("lies apart from its residue" in words for words in words_of(result, "bonds"))
    assert any("3 atoms keep one another out" in words for words in words_of(result, "completeness"))
