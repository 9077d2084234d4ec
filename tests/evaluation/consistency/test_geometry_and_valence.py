"""Angles, folded rings, bonds beyond an atom's valence, gaps, splices, and chains that lie on each other."""

import gemmi
import numpy as np
import pytest
from small_models import helix, moved, pdb

from cryoprism.evaluation.consistency import check_consistency
from cryoprism.evaluation.consistency._completeness import Completeness
from cryoprism.evaluation.consistency._crowding import foreign_chains
from cryoprism.evaluation.consistency._gaps import gaps_of, splices, stretched
from cryoprism.evaluation.consistency._rules import clashes
from cryoprism.evaluation.consistency._topology import build_topology
from programs import needs_coq


def words_of(result, name=None):
    return [one.words for rule in result.rules if name in (None, rule.name) for one in rule.offenders]


def opened(result):
    """What the rules about gaps, splices and chains on each other leave open, in words."""
    found, model = Completeness(), result.model
    splices(model, found.add)
    stretched(model, gaps_of(model), found.add)
    foreign_chains(model, clashes(model, build_topology(model).all_bonds(), 0)[1], found.add)
    return [found.rule.words[k] for k in sorted(found.open)]


def at(rows, residue, name):
    return next(np.asarray(place) for k, n, place in rows if (k, n) == (residue, name))


def turned(point, origin, axis, degrees):
    """Rotate a point about an axis through an origin."""
    axis, angle = axis / np.linalg.norm(axis), np.radians(degrees)
    arm = point - origin
    return (
        origin + arm * np.cos(angle) + np.cross(axis, arm) * np.sin(angle) + axis * (axis @ arm) * (1 - np.cos(angle))
    )


@pytest.mark.parametrize(("degrees", "fine"), [(10, True), (36, False)])
def test_a_carbonyl_that_leaves_its_plane(witnesses, degrees, fine):
    rows = helix()
    carbon, alpha, nitrogen = at(rows, 4, "C"), at(rows, 4, "CA"), at(rows, 5, "N")
    bent = turned(at(rows, 4, "O"), carbon, nitrogen - alpha, degrees)
    found = words_of(witnesses(pdb({"A": moved(rows, 4, "O", bent)})), "chirality")
    assert (found == []) == fine
    assert fine or all("not flat" in words and "1.15" in words for words in found)


@pytest.mark.parametrize(("degrees", "fine"), [(8, True), (30, False)])
def test_a_carbonyl_that_turns_within_its_plane(witnesses, degrees, fine):
    rows = helix()
    carbon, alpha, nitrogen = at(rows, 4, "C"), at(rows, 4, "CA"), at(rows, 5, "N")
    bent = turned(at(rows, 4, "O"), carbon, np.cross(alpha - carbon, nitrogen - carbon), degrees)
    found = words_of(witnesses(pdb({"A": moved(rows, 4, "O", bent)})), "bonds")
    assert (found == []) == fine
    assert fine or any(words.startswith("The angle between Cα of Ala 4") for words in found)


def test_a_stretched_angle_of_glycine_is_seen(witnesses):
    """It has no Cβ, so that no volume at its Cα tells."""
    rows = [row for row in helix() if row[:2] != (8, "CB")]
    nitrogen, alpha, carbon = (at(rows, 8, name) for name in ("N", "CA", "C"))
    axis = np.cross(nitrogen - alpha, carbon - alpha)
    ends = {name: turned(at(rows, 8, name), alpha, axis, 45) for name in ("C", "O")}
    for name, place in ends.items():
        rows = moved(rows, 8, name, place)
    names = {("A", 8): "GLY"}
    assert any("N of Gly 8" in w and "angle" in w for w in words_of(witnesses(pdb({"A": rows}, names=names)), "bonds"))
    whole = [row for row in helix() if row[:2] != (8, "CB")]
    assert words_of(witnesses(pdb({"A": whole}, names=names))) == []


def phenylalanine(fold):
    """A helix whose first residue bears a ring, folded about the line from CG to CZ [degrees]."""
    rows = helix()
    beta, alpha = at(rows, 1, "CB"), at(rows, 1, "CA")
    out = beta - np.mean([place for _, _, place in rows], axis=0)
    along = out / np.linalg.norm(out) * 0.7 + (beta - alpha) / np.linalg.norm(beta - alpha) * 0.5
    along /= np.linalg.norm(along)
    across = np.cross(along, [0.3, 0.5, 0.8])
    across /= np.linalg.norm(across)
    gamma = beta + 1.50 * along
    ring = {"CG": (0, 0), "CD1": (0.695, 1.204), "CE1": (2.085, 1.204), "CZ": (2.78, 0), "CE2": (2.085, -1.204),
            "CD2": (0.695, -1.204)}  # fmt: skip
    found = []
    for name, (x, y) in ring.items():
        place = gamma + x * along + y * across
        found.append((1, name, turned(place, gamma, along, fold / 2 * np.sign(y)) if y else place))
    cut = next(k for k, row in enumerate(rows) if row[0] == 2)
    return rows[:cut] + found + rows[cut:]


@pytest.mark.parametrize(("fold", "fine"), [(0, True), (15, True), (60, False)])
def test_a_ring_that_is_folded(witnesses, fold, fine):
    found = words_of(witnesses(pdb({"A": phenylalanine(fold)}, names={("A", 1): "PHE"})), "chirality")
    assert (found == []) == fine
    assert fine or any(words.startswith("A ring of Phe 1 in chain A is folded") for words in found)


def hetero(rows, name="LIG", number=900, chain="L"):
    return "\n".join(
        f"HETATM{number:5d} {atom:<4s} {name:>3s} {chain}{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00"
        f"          {element:>2s}"
        for atom, element, (x, y, z) in rows
    )


def beside(rows, distance):
    """A place beside the helix, that far from its nearest atom."""
    places = np.array([place for _, _, place in rows])
    for reach in np.arange(4, 30, 0.02):
        place = places.mean(axis=0) + np.array([0, reach, 0])
        if np.linalg.norm(places - place, axis=1).min() >= distance:
            return place
    raise AssertionError


#: A carbon and its neighbours at the corners of a tetrahedron.
CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3) * 1.53


def test_a_carbon_of_a_ligand_has_four_bonds(witnesses):
    place = beside(helix(), 4.5)
    rows = [("C1", "C", place)] + [(f"C{k}", "C", place + corner) for k, corner in enumerate(CORNERS, 2)]
    assert words_of(witnesses(pdb({"A": helix()}, extra=hetero(rows)))) == []
    fifth = [*rows, ("C6", "C", place + np.array([0, 0, -1.4]))]
    found = words_of(witnesses(pdb({"A": helix()}, extra=hetero(fifth))), "completeness")
    assert any("C1 of LIG 900 in chain L has 5 bonds" in words and "at most 4" in words for words in found)
    metal = [*rows, ("FE", "FE", place + np.array([0, 0, -2.0]))]
    assert not any("bonds" in w for w in words_of(witnesses(pdb({"A": helix()}, extra=hetero(metal))), "completeness"))
    silicon = [(n, "SI" if n == "C1" else e, p) for n, e, p in fifth]
    assert not any(
        "bonds" in w for w in words_of(witnesses(pdb({"A": helix()}, extra=hetero(silicon))), "completeness")
    )


def link(one, other):
    """LINK row between atoms (name, residue, chain, number)."""
    ends = "".join(f"{f' {n}':<4s} {r:>3s} {c}{k:4d}" + " " * 16 for n, r, c, k in (one, other))
    return f"LINK        {ends}"[:72]


def test_a_record_gives_no_bond_to_an_atom_that_has_none_left(witnesses):
    rows = helix()
    oxygen, carbon = at(rows, 8, "O"), at(rows, 8, "C")
    away = (oxygen - carbon) / np.linalg.norm(oxygen - carbon)
    place = oxygen + 1.4 * away
    extra = hetero([("C1", "C", place), ("C2", "C", place + 1.5 * away)])
    head = link(("O", "ALA", "A", 8), ("C1", "LIG", "L", 900))
    once = witnesses(pdb({"A": rows}, extra=extra, head=head))
    assert len(once.model.links) == 1
    assert words_of(once) == []
    other = oxygen + 1.4 * turned(away, np.zeros(3), np.cross(away, [0.2, 0.9, 0.1]), 100)
    second = hetero([("C1", "C", other), ("C2", "C", other + 1.5 * (other - oxygen) / 1.4)], number=901)
    heads = "\n".join([head, link(("O", "ALA", "A", 8), ("C1", "LIG", "L", 901))])
    twice = witnesses(pdb({"A": rows}, extra=f"{extra}\n{second}", head=heads))
    assert len(twice.model.links) == 2
    assert any("O of Ala 8 in chain A has 3 bonds" in words and "at most 2" in words for words in words_of(twice))


@pytest.mark.parametrize(("residue", "most"), [(4, 1), (8, 2)])
def test_the_oxygen_of_a_peptide_bond_has_no_other_bond(witnesses, residue, most):
    rows = helix()
    carbon, oxygen = at(rows, residue, "C"), at(rows, residue, "O")
    away = (oxygen - carbon) / np.linalg.norm(oxygen - carbon)
    place = oxygen + 1.4 * turned(away, np.zeros(3), np.cross(away, [0.2, 0.9, 0.1]), 50)
    head = link(("O", "ALA", "A", residue), ("C1", "LIG", "L", 900))
    extra = hetero([("C1", "C", place), ("C2", "C", place + (place - oxygen) * 1.07)])
    result = witnesses(pdb({"A": rows}, extra=extra, head=head))
    assert len(result.model.links) == 1
    found = [words for words in words_of(result, "completeness") if "has 2 bonds" in words]
    assert len(found) == (most == 1)


def gap(apart, numbers):
    """Two helices whose nearest ends have their Cα that far apart; the second begins ``numbers`` after the first."""
    first = helix()
    end, start = at(first, 8, "CA"), at(first, 1, "CA")
    axis = at(first, 8, "CA") - at(first, 1, "CA")
    shift = end - start + axis / np.linalg.norm(axis) * apart
    return first + [(k + 7 + numbers, n, place + shift) for k, n, place in first]


@pytest.mark.parametrize(("apart", "verdict"), [(20.0, "noted"), (34.0, "noted"), (36.5, "open"), (41.0, "refuted")])
def test_a_gap_is_noted_with_what_could_span_it(witnesses, apart, verdict):
    result = witnesses(pdb({"A": gap(apart, 10)}))
    note = next(rule.note for rule in result.rules if rule.name == "chains")
    assert f"Ala 8 to Ala 18 in chain A: 9 not there, {apart:.1f} Å, at most 40.0" in note
    assert any("stretched" in words for words in opened(result)) == (verdict == "open")
    assert (words_of(result, "chains") != []) == (verdict == "refuted")


def test_residues_that_are_joined_where_only_the_sequence_skips_are_unknown(tmp_path, monkeypatch):
    structure = gemmi.read_pdb_string(pdb({"A": helix(12)}))
    structure.setup_entities()
    structure.entities[0].full_sequence = ["ALA"] * 17
    for skipped in (5, 0):
        for k, residue in enumerate(structure[0]["A"]):
            residue.label_seq = k + 1 + (skipped if k >= 6 else 0)
        path = tmp_path / f"skips{skipped}.cif"
        structure.make_mmcif_document().write_file(str(path))
        with monkeypatch.context() as patch:
            patch.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda program: None)
            result = check_consistency(path)
        assert words_of(result) == []
        found = [words for words in opened(result) if "the declared sequence has 5 residues between them" in words]
        assert len(found) == (1 if skipped else 0)


def labelled(text, letters):
    """Give the atoms of chains a letter and half an occupancy; ``letters`` may depend on the atom's name."""

    def change(line):
        letter = letters(line[21], line[12:16].strip()) if line.startswith("ATOM") else ""
        return f"{line[:16]}{letter}{line[17:54]}  0.50{line[60:]}" if letter else line

    return "\n".join(change(line) for line in text.splitlines()) + "\n"


def test_chains_that_lie_on_each_other_as_alternatives_are_unknown(witnesses):
    text = pdb({"A": helix(), "B": [(k, n, place + 0.3) for k, n, place in helix()]})
    result = witnesses(labelled(text, lambda chain, name: chain))
    assert words_of(result) == []
    assert any("lie on each other as alternatives" in words and "chain B" in words for words in opened(result))


def test_side_chains_that_take_turns_are_no_chains_on_each_other(witnesses):
    rows = helix()
    beta = at(rows, 1, "CB")
    other = [(k, n, turned(place, beta, np.array([0.2, 1.0, 0.4]), 180)) for k, n, place in rows]
    other = [(k, n, place + (beta - np.mean([p for _, _, p in rows], axis=0)) * 0.4) for k, n, place in other]
    text = pdb({"A": rows, "B": moved(other, 1, "CB", beta + 0.3)})
    result = witnesses(labelled(text, lambda chain, name: chain if name == "CB" else ""))
    assert opened(result) == []


@needs_coq
def test_the_certificate_of_angles_rings_gaps_and_ions_holds(quick, tmp_path):
    rows = phenylalanine(60)
    carbon, alpha, nitrogen = at(rows, 4, "C"), at(rows, 4, "CA"), at(rows, 5, "N")
    rows = moved(rows, 4, "O", turned(at(rows, 4, "O"), carbon, np.cross(alpha - carbon, nitrogen - carbon), 30))
    axis = at(rows, 8, "CA") - at(rows, 1, "CA")
    shift = at(rows, 8, "CA") - at(rows, 1, "CA") + axis / np.linalg.norm(axis) * 36.5
    rows += [(k + 17, n, place + shift) for k, n, place in helix()]
    path = tmp_path / "model.pdb"
    place, out = beside(phenylalanine(60), 3.0), np.array([0, 2.8, 0])
    waters = [hetero([("O", "O", place + k * out)], "HOH", 900 + k) for k in range(4)]
    ion = hetero([("NA", "NA", place + 4 * out)], "NA", 910)
    path.write_text(pdb({"A": rows}, names={("A", 1): "PHE"}, extra="\n".join([*waters, ion])))
    result = check_consistency(path)
    counts = {rule.name: (rule.refuted, rule.unknown) for rule in result.rules}
    assert counts["bonds"][0] == 1
    assert counts["chirality"][0] >= 1
    assert counts["completeness"] == (0, 2)  # the gap, and the ion among waters
    assert counts["ligands"] == (0, 1)
    folder = result.write_certificate(tmp_path / "certificate")
    code, said = quick(folder)
    assert code == 0, said
