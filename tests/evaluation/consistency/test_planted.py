"""Faults that rules have to see, and good models that they must not refute; most are judged without the prover."""

import shutil

import gemmi
import numpy as np
import pytest
from small_models import helix, moved, pdb

from cryoprism.evaluation.consistency import HOW_TO_INSTALL, check_consistency, find_copies, read_model
from cryoprism.evaluation.consistency._completeness import completeness
from cryoprism.evaluation.consistency._symmetry import joined_copies, overlaps
from cryoprism.evaluation.consistency._topology import build_topology
from cryoprism.evaluation.consistency._words import length_words

needs_coq = pytest.mark.skipif(shutil.which("coqc") is None, reason=f"Coq is absent. {HOW_TO_INSTALL}")


def rule_of(result, name):
    return next(rule for rule in result.rules if rule.name == name)


def words_of(result, name):
    return [one.words for one in rule_of(result, name).offenders]


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


@pytest.fixture
def proved(tmp_path):
    def check(text, name="model.pdb", **options):
        path = tmp_path / name
        path.write_text(text)
        return check_consistency(path, **options)

    return check


def labelled(text, chain, letter, occupancy):
    """Give all atoms of a chain a letter and an occupancy."""
    return "\n".join(
        f"{line[:16]}{letter}{line[17:54]}{occupancy:6.2f}{line[60:]}"
        if line.startswith("ATOM") and line[21] == chain
        else line
        for line in text.splitlines()
    )


def shifted(rows, *shift):
    return [(k, n, p + np.array(shift, dtype=float)) for k, n, p in rows]


def hetero(rows, name="LIG", chain="L"):
    """HETATM rows of one residue: (atom name, element, position, occupancy)."""
    return "\n".join(
        f"HETATM{k:5d} {atom:<4s} {name:>3s} {chain} 900    {x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f} 20.00"
        f"          {element:>2s}"
        for k, (atom, element, (x, y, z), occupancy) in enumerate(rows, 900)
    )


CRYSTAL = "CRYST1{:9.3f}{:9.3f}{:9.3f}{:7.2f}{:7.2f}{:7.2f} {:<11s}{:4d}"


def crystal(a, b, c, group="P 1"):
    return CRYSTAL.format(a, b, c, 90, 90, 90, group, 1)


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
    assert apart.verdict == "proved", apart.sentences()


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


# Recorded links


def link(one, other, codes=("1555", "1555"), length=1.5):
    """LINK of (atom, residue name, chain, number)."""
    ends = [f"{atom:>4s} {name:>3s} {chain}{number:4d} " for atom, name, chain, number in (one, other)]
    return f"LINK        {ends[0]}{'':15s}{ends[1]}  {codes[0]:>6s} {codes[1]:>6s}{length:6.2f}"


def test_a_recorded_link_is_a_bond_at_a_length_of_bonds_alone(witnesses):
    rows = helix()
    place = {(k, n): p for k, n, p in rows}
    both = (" CB ", "ALA", "A", 2), (" CB ", "ALA", "B", 2)
    for apart, kinds in ((1.5, set()), (0.6, {"bonds", "clashes"}), (6.0, {"bonds"})):
        direction = place[(2, "CB")] - place[(2, "CA")]
        spot = place[(2, "CB")] + apart * direction / np.linalg.norm(direction)
        lone = hetero([("C1", "C", spot, 1.0)])
        text = pdb({"A": rows}, extra=lone, head=link(both[0], (" C1 ", "LIG", "L", 900), length=apart))
        result = witnesses(text)
        named = {
            rule.name
            for rule in result.rules
            for one in rule.offenders
            if "C1 of LIG" in one.words and "Cβ" in one.words
        }
        assert named == kinds, result.sentences()


def test_a_link_to_a_copy_counts_for_the_operator_that_it_states(tmp_path):
    """C1 is 1.45 Å from the copies of O2 at (a, 0), (0, b) and (a, b): the record names the first."""
    atoms = [("C1", "C", (5.02, 5.0, 5.0), 1.0), ("O2", "O", (4.0, 3.97, 5.0), 1.0)]
    path = tmp_path / "model.pdb"
    found = {}
    for codes, length in ((("1555", "1655"), 1.46), (("1555", "1565"), 1.45), (("1555", "1655"), 2.9)):
        record = link((" C1 ", "LIG", "L", 900), (" O2 ", "LIG", "L", 900), codes, length)
        path.write_text("\n".join([crystal(2.06, 2.05, 30), record, hetero(atoms), "END", ""]))
        model = read_model(path)
        topology = build_topology(model)
        copies = find_copies(model)
        triples = joined_copies(model, copies, topology.across)
        shifts = {tuple(round(row[3] / 2**30 / 1000) for row in copies.operations[n - 1]) for n, _, _ in triples}
        found[codes, length] = {tuple(abs(v) for v in shift) for shift in shifts}
        assert len(topology.across) + topology.ignored == 1
    assert found == {
        (("1555", "1655"), 1.46): {(2, 0, 0)},
        (("1555", "1565"), 1.45): {(0, 2, 0)},
        (("1555", "1655"), 2.9): set(),
    }


@needs_coq
def test_coq_agrees_about_links_to_copies(proved):
    """A disulfide-like bond across a cell of 20 Å: without its record the copies overlap."""
    ends = hetero([("C1", "C", (1.0, 5.0, 5.0), 1.0), ("C2", "C", (19.5, 5.0, 5.0), 1.0)])
    record = link((" C1 ", "LIG", "L", 900), (" C2 ", "LIG", "L", 900), ("1555", "1455"), 1.5)
    for head, refuted in (([record], 0), ([], 1)):
        copies = rule_of(proved("\n".join([crystal(20, 30, 30), *head, ends, "END", ""])), "copies")
        assert (copies.refuted, copies.unknown, copies.why_unknown) == (refuted, 0, "")


# What a file declares


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text, ""),
        (
            lambda text: "\n".join(line for line in text.splitlines() if " ALA A   4 " not in line),
            "the file says that 8",
        ),
        (
            lambda text: "\n".join(line for line in text.splitlines() if "CB  ALA A   4 " not in line),
            "MASTER counts 40",
        ),
    ],
)
def test_rows_that_the_file_declares_and_lacks_are_found(witnesses, change, words):
    declared = ["SEQRES   1 A   10  ALA ALA ALA ALA ALA ALA ALA ALA ALA ALA"]
    declared += [
        "REMARK   4 1ABC COMPLIES WITH FORMAT V. 3.30",
        "REMARK 465     ALA A     9",
        "REMARK 465     ALA A    10",
    ]
    master = f"MASTER      100    0    0    0    0    0    0    6{40:5d}    1    0    1"
    result = witnesses(change(pdb({"A": helix()}, head="\n".join(declared), extra=master)))
    found = words_of(result, "completeness")
    assert any(words in one for one in found) if words else found == []
    assert "of 10 residues of the declared sequences are modelled" in rule_of(result, "completeness").note


@needs_coq
def test_a_file_without_its_end_is_not_proved(proved):
    text = pdb({"A": helix()})
    cut = "\n".join(text.splitlines()[:-12]) + "\n"  # at the boundary of two rows, after residue 6
    result = proved(cut)
    assert result.verdict == "unknown"
    assert "it may have been cut" in " ".join(result.sentences())
    rest = proved(text.replace("TER\nEND", "TER\nEND\n" + text.splitlines()[0].replace("A   1", "A  99")))
    assert "stands after END" in rule_of(rest, "completeness").why_unknown


def mmcif_of(text):
    structure = gemmi.read_pdb_string(text)
    structure.setup_entities()
    structure.assign_label_seq_id()
    return structure.make_mmcif_document()


def test_an_mmcif_file_has_the_residues_and_chains_that_it_lists(witnesses):
    text = pdb(
        {"A": helix(), "B": shifted(helix(), 40, 0, 0)}, head="SEQRES   1 A    8  ALA ALA ALA ALA ALA ALA ALA ALA"
    )
    document = mmcif_of(text)
    block = document[0]
    loop = block.init_loop("_pdbx_poly_seq_scheme.", ["asym_id", "seq_id", "mon_id", "auth_seq_num"])
    for chain in ("Axp",):
        for k in range(1, 9):
            loop.add_row([chain, str(k), "ALA", str(k)])
    assert words_of(witnesses(document.as_string(), "model.cif"), "completeness") == []
    atoms = block.find("_atom_site.", ["auth_asym_id", "auth_seq_id"])
    for row in reversed([k for k, row in enumerate(atoms) if row[0] == "B" or int(row[1]) == 8]):
        atoms.remove_row(row)
    found = words_of(witnesses(document.as_string(), "model.cif"), "completeness")
    assert any("has 7 residues of its sequence; the file says that 8 are modelled" in one for one in found)
    assert any("lists chain Bxp but holds no atom of it" in one for one in found)


def test_an_mmcif_file_of_the_archive_ends_with_its_mark(witnesses):
    tables = mmcif_of(pdb({"A": helix(3)})).as_string().split("\n", 1)[1].rstrip()
    text = f"data_X\n#\n_software.name x\n#\n_exptl_crystal.id 1\n#\n{tables}"
    for end, open_ones in (("\n#\n", False), ("\n", True)):
        result = witnesses(text + end, "model.cif")
        assert words_of(result, "completeness") == []
        assert bool(completeness(result.model).open) == open_ones


# Assemblies and copies


def biomt(*generators):
    """REMARK 350 of generators (chains, translations along x)."""
    lines, number = ["REMARK 350 BIOMOLECULE: 1"], 0
    for chains, shifts in generators:
        lines.append(f"REMARK 350 APPLY THE FOLLOWING TO CHAINS: {chains}")
        for shift in shifts:
            number += 1
            for row in range(3):
                cells = "".join(f"{float(row == k):10.6f}" for k in range(3))
                lines.append(f"REMARK 350   BIOMT{row + 1} {number:3d}{cells}{shift if row == 0 else 0.0:15.5f}")
    return "\n".join(lines)


@needs_coq
def test_an_operator_moves_the_chains_that_it_is_stated_for(proved):
    """Moved by 40 Å, chain A would lie on chain B; chain B goes where nothing is."""
    chains = {"A": helix(4), "B": shifted(helix(4), 40, 0, 0)}
    good = proved(pdb(chains, head=biomt(("A", [0.0]), ("B", [0.0, 9.0]))))
    assert good.verdict == "proved", good.sentences()
    assert "copies" in {rule.name for rule in good.rules}
    bad = rule_of(proved(pdb(chains, head=biomt(("A", [0.0, 40.5]), ("B", [0.0])))), "copies")
    assert bad.refuted == 8
    whole = rule_of(proved(pdb(chains, head=biomt(("A, B", [0.0, 40.5])))), "copies")
    assert whole.refuted == 8


def test_chains_of_an_assembly_are_read_from_both_formats(tmp_path):
    text = pdb({"A": helix(4), "B": shifted(helix(4), 14, 0, 0)}, head=biomt(("A", [0.0]), ("B", [0.0, 12.0])))
    (tmp_path / "model.pdb").write_text(text)
    structure = gemmi.read_structure(str(tmp_path / "model.pdb"))
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(tmp_path / "model.cif"))
    for name in ("model.pdb", "model.cif"):
        copies = find_copies(read_model(tmp_path / name))
        one, other = ((0, 3),), ((4, 7),)
        assert {frozenset(scope) for scope in copies.scopes} == {frozenset({one, other}), frozenset({other})}, name


@needs_coq
def test_copies_that_cannot_be_judged_leave_the_rule_unknown(proved, monkeypatch):
    chains = {"A": helix(4)}
    skewed = biomt(("A", [0.0, 40.0])).replace(
        "  1.000000  0.000000  0.000000       40", "  1.000000  0.500000  0.000000       40"
    )
    copies = rule_of(proved(pdb(chains, head=skewed)), "copies")
    assert (copies.proved, copies.refuted, copies.unknown) == (0, 0, 4)
    assert "is no rotation" in copies.why_unknown
    monkeypatch.setattr("cryoprism.evaluation.consistency._symmetry._MOST", 1)
    many = rule_of(proved(pdb(chains, head=crystal(10, 10, 11))), "copies")
    assert (many.proved, many.refuted, many.unknown) == (0, 0, 4)
    assert "more than 1 copies come near" in many.why_unknown


@needs_coq
def test_ligands_touch_copies_on_both_sides(proved):
    """One ion lies a cell before the protein, one a cell behind: one of them meets the copy that is not listed."""
    rows = helix()
    places = np.array([p for _, _, p in rows])
    spot = next(
        spot
        for direction in np.random.default_rng(0).normal(size=(500, 3))
        for spot in [places.mean(axis=0) + 7 * direction / np.linalg.norm(direction)]
        if 2.6 < np.linalg.norm(places - spot, axis=1).min() < 4.0
    )
    ions = "\n".join(
        hetero([("ZN", "ZN", spot + np.array([shift, 0, 0]), 1.0)], "ZN", chain)
        for chain, shift in (("L", 50), ("M", -50))
    )
    ligands = rule_of(proved(pdb({"A": rows}, extra=ions, head=crystal(50, 60, 60))), "ligands")
    assert (ligands.proved, ligands.refuted) == (2, 0)


def test_particles_in_another_frame_meet_their_neighbours_in_the_crystal(tmp_path):
    """Two chains about z, turned and moved into the crystal, overlap as they do in the crystal's frame."""
    turn = np.array([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]]) @ np.eye(3)[[1, 2, 0]]
    shift = np.array([3.0, 4.0, 5.0])
    rows = shifted(helix(4), 4, 3, 0)
    twin = [(k, n, p * np.array([-1, -1, 1])) for k, n, p in rows]
    cell = crystal(11, 10, 7)

    def overlapping(head, chains):
        path = tmp_path / "model.pdb"
        path.write_text(pdb(chains, head=f"{cell}\n{head}"))
        model = read_model(path)
        copies = find_copies(model)
        found = overlaps(model, copies, [], 0).found
        return {(model.residues[model.residue_of[k]].number, model.names[k]) for _, i, j in found for k in (i, j)}

    frame = "\n".join(
        f"REMARK 285 X0  {k + 1} " + "".join(f"{v:12.6f}" for v in (*turn[k], shift[k])) for k in range(3)
    )
    pair = biomt(("A", [0.0, 0.0])).splitlines()
    pair[6] = pair[6].replace("  1.000000", " -1.000000")
    pair[5] = pair[5].replace("  1.000000", " -1.000000")
    turned = overlapping("\n".join([frame, *pair]), {"A": rows})
    inside = {
        "A": [(k, n, turn @ p + shift) for k, n, p in rows],
        "B": [(k, n, turn @ p + shift) for k, n, p in twin],
    }
    assert turned == overlapping("", inside)
    assert 3 < len(turned) < 40


def test_two_particles_in_another_frame_leave_the_crystal_unknown(witnesses):
    frames = "\n".join(
        f"REMARK 285 X{n}  {k + 1}" + "".join(f"{float(k == m):12.6f}" for m in range(3)) + f"{50.0 * n:12.5f}"
        for n in range(2)
        for k in range(3)
    )
    head = "\n".join([crystal(90, 90, 90), frames, biomt(("A", [0.0, 9.0]))])
    result = witnesses(pdb({"A": helix(4)}, head=head))
    assert find_copies(result.model).left_out.startswith("the file says that its coordinates are not in the crystal's")


@pytest.mark.parametrize(("value", "edges", "text"), [(2.197, (2.2,), "2.197"), (1.5, (2.2,), "1.50")])
def test_a_length_that_misses_its_limit_narrowly_is_not_rounded_onto_it(value, edges, text):
    assert length_words(value, *edges) == text
