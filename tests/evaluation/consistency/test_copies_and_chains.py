"""Copies that files declare, and chains by their numbers and letters; most are judged without the prover."""

import gemmi
import numpy as np
import pytest
import torch
from small_models import helix, moved, pdb

from cryoprism.core import InputError
from cryoprism.evaluation.consistency import check_consistency, find_copies, read_model
from cryoprism.evaluation.consistency._coq import CoqRun, Prover
from cryoprism.evaluation.consistency._topology import build_topology
from cryoprism.formats import Volume
from programs import needs_coq

CELL = "CRYST1{:9.3f}{:9.3f}{:9.3f}  90.00  90.00  90.00 {:<11s}   1"
SMALL, LARGE = CELL.format(9, 5, 5, "P 1"), CELL.format(60, 60, 60, "P 1")
FRAME = "\n".join(f"REMARK 285 X0  {k}" + "".join(f"{float(k == m):12.6f}" for m in (1, 2, 3, 4)) for k in (1, 2, 3))


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """Verdicts as they are where Coq accepts all."""
    monkeypatch.setattr("cryoprism.evaluation.consistency.check.coq_version", lambda: "0")
    monkeypatch.setattr("cryoprism.evaluation.consistency.check.library_folder", lambda *_: tmp_path)
    accepting = Prover(lambda *_: CoqRun("", "", 0.0, 0), "no wall")

    def check(text, name="model.pdb", **options):
        path = tmp_path / name
        path.write_text(text)
        return check_consistency(path, coq=accepting, **options)

    return check


def rule_of(result, name):
    return next(rule for rule in result.rules if rule.name == name)


def words_of(result, name):
    return [one.words for one in rule_of(result, name).offenders]


def operators(record, *shifts, given=""):
    """Rows of MTRIX or REMARK 350 for shifts along x."""
    rows = []
    for number, shift in enumerate(shifts, 1):
        for k in (1, 2, 3):
            values = "".join(f"{float(k == m):10.6f}" for m in (1, 2, 3)) + f"{shift * (k == 1):15.5f}"
            start = f"MTRIX{k} {number:3d}" if record == "MTRIX" else f"REMARK 350   BIOMT{k} {number:3d}"
            rows.append(f"{start}{values}    {given if number > 1 else 1}".rstrip())
    return "\n".join(rows)


def biomt(*shifts, chain="A", number=1):
    head = f"REMARK 350 BIOMOLECULE: {number}\nREMARK 350 APPLY THE FOLLOWING TO CHAINS: {chain}\n"
    return head + operators("BIOMT", *shifts)


@pytest.mark.parametrize(
    ("head", "verdict", "words"),
    [
        (SMALL, "refuted", ""),
        (CELL.format(9, 5, 5, "P 9 9 9"), "unknown", "'P 9 9 9'"),
        (CELL.format(9, 5, 5, ""), "unknown", "space group ''"),
        (f"EXPDTA    ELECTRON CRYSTALLOGRAPHY\n{SMALL}", "refuted", ""),
        (f"EXPDTA    FIBER DIFFRACTION\n{SMALL}", "refuted", ""),
        (f"EXPDTA    ELECTRON MICROSCOPY\n{SMALL}", "proved", ""),  # the box of a map
        (f"EXPDTA    ELECTRON MICROSCOPY\n{CELL.format(90, 90, 90, 'P 21 21 21')}", "unknown", "without crystals"),
        (f"{FRAME}\n{SMALL}", "refuted", ""),
        (f"{FRAME}\n{LARGE}", "proved", ""),
        (FRAME, "unknown", "which crystal"),
        (operators("MTRIX", 0, 2.5), "refuted", ""),
        (operators("MTRIX", 0, 2.5, given="1"), "proved", ""),
        (f"{FRAME}\n{LARGE}\n{operators('MTRIX', 0, 2.5)}", "unknown", "strict operators"),
        (biomt(0, 2.5), "refuted", ""),
        (biomt(0, 40), "proved", ""),
        (biomt(0, 40, chain="Z"), "unknown", "does not hold (Z)"),
        (biomt(0, 40, chain="A, Z"), "unknown", "does not hold (Z)"),
        (f"{biomt(0)}\n{biomt(0, 2.5, number=2)}", "refuted", ""),
        (f"{biomt(0, 2.5)}\n{LARGE}", "refuted", ""),
        (biomt(0, 0), "refuted", ""),
        (biomt(0, 0.04), "refuted", ""),
    ],
)
def test_copies_that_a_file_declares_are_judged_or_unknown(judged, head, verdict, words):
    result = judged(pdb({"A": helix()}, head=head))
    assert result.verdict == verdict, result.sentences()
    if verdict != "proved":
        rule = rule_of(result, "copies")
        assert rule.refuted if verdict == "refuted" else rule.unknown == rule.obligations
        assert words in rule.why_unknown
    assert not any(rule.refuted for rule in result.rules if rule.name != "copies")


@needs_coq
@pytest.mark.parametrize(("head", "verdict"), [(CELL.format(9, 9, 9, "P 9 9 9"), "unknown"), (biomt(0, 0), "refuted")])
def test_coq_agrees_about_copies_without_operators_and_on_the_molecule(tmp_path, head, verdict):
    path = tmp_path / "model.pdb"
    path.write_text(pdb({"A": helix(4)}, head=head))
    assert check_consistency(path).verdict == verdict


def test_an_operator_for_other_chains_is_no_copy_of_the_molecule(judged):
    far = [(k, n, p + np.array([0, 40.0, 0])) for k, n, p in helix()]
    other = biomt(0, chain="B").split("\n", 1)[1]
    assert judged(pdb({"A": helix(), "B": far}, head=f"{biomt(0)}\n{other}")).verdict == "proved"


def test_a_polymer_does_not_lie_on_a_symmetry_element_as_an_ion_does(judged):
    trace = [(k, n, p) for k, n, p in helix(12) if n == "CA"]
    result = judged(pdb({"A": trace}, head=biomt(0, 0.45)))
    assert result.verdict == "unknown"
    assert "12 atoms of chain A onto themselves" in rule_of(result, "copies").why_unknown
    # The negative control: an ion on the axis of a pair of chains.
    rows = [(k, n, p + np.array([0, 6.0, 0]) - helix()[0][2]) for k, n, p in helix()]
    clear = [(k, n, p + np.array([0, 8.0, 0])) for k, n, p in rows]
    zinc = "HETATM  900 ZN    ZN Z 900       0.000   0.000   0.000  1.00 20.00          ZN"
    axial = judged(pdb({"A": clear}, extra=zinc), symmetry="C2")
    assert rule_of(axial, "copies").unknown == rule_of(axial, "copies").refuted == 0
    assert "an atom lies on a symmetry element" in rule_of(axial, "copies").note


@pytest.mark.parametrize(("rise", "twist"), [(0.0, 10.0), (-5.0, 10.0), (float("nan"), 1.0), (1e-4, 1.0)])
def test_a_helix_has_a_rise_of_a_subunit(tmp_path, rise, twist):
    path = tmp_path / "model.pdb"
    path.write_text(pdb({"A": helix()}))
    with pytest.raises(InputError, match="rise"):
        find_copies(read_model(path), rise_in_angstroms=rise, twist_in_degrees=twist)


def density(rows):
    places = np.array([place for _, _, place in rows])
    low = places.min(axis=0) - 10
    shape = np.ceil((places.max(axis=0) + 10 - low) / 1.0).astype(int)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1) + low
    data = sum(np.exp(-((grid - place) ** 2).sum(axis=-1) / 4) for place in places)
    return Volume(torch.from_numpy(data.transpose(2, 1, 0).astype(np.float32)), 1.0, tuple(low.tolist()))


def test_the_envelope_asks_atoms_of_no_occupancy_and_bounds_its_margin(judged):
    rows = helix()
    away = pdb({"A": [(k, n, p + np.array([300.0, 0, 0])) for k, n, p in rows]}).replace("  1.00 20.00", "  0.00 20.00")
    assert rule_of(judged(away, volume=density(rows)), "envelope").refuted == 8
    with pytest.raises(InputError, match="--margin"):
        judged(pdb({"A": rows}), volume=density(rows), margin_in_angstroms=100.0)


@needs_coq
def test_coq_counts_atoms_of_no_occupancy_in_the_envelope(tmp_path):
    import subprocess

    rows = helix(4)
    path = tmp_path / "model.pdb"
    text = pdb({"A": moved(rows, 2, "CB", [60, 60, 60])}).replace("  1.00 20.00", "  0.00 20.00")
    path.write_text(text)
    folder = check_consistency(path, volume=density(rows)).write_certificate(tmp_path / "certificate")
    run = subprocess.run(["sh", "check.sh"], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    assert "refused" not in (run.stdout + run.stderr).lower()


def residue_lines(rows, number, kind="ALA"):
    text = pdb({"A": [row for row in rows if row[0] == number]}, names={("A", number): kind})
    return text.splitlines()[:-2]


def lettered(lines, letter, occupancy):
    return [f"{line[:16]}{letter}{line[17:54]}{occupancy:6.2f}{line[60:]}" for line in lines]


def file_of(parts):
    return "\n".join([*(line for part in parts for line in part), "TER", "END", ""])


def test_alternative_residues_at_one_place_are_no_fault(judged):
    rows = helix()
    parts = [residue_lines(rows, k) for k in range(1, 9)]
    parts[3:4] = [lettered(parts[3], "A", 0.6), lettered(residue_lines(rows, 4, kind="SER"), "B", 0.4)]
    result = judged(file_of(parts))
    assert result.verdict == "proved", result.sentences()
    torn = [line[:30] + f"{float(line[30:38]) + 12:8.3f}" + line[38:] for line in parts[4]]
    broken = judged(file_of([*parts[:4], torn, *parts[5:]]))
    assert any("Ser 4" in words for words in words_of(broken, "bonds"))
    assert any("Ser 4" in words for words in words_of(broken, "chains"))


@pytest.mark.parametrize("letters", ["  ", "AA", "A "])
def test_a_second_residue_under_a_used_number_is_followed_and_refuted(judged, letters):
    rows = helix()
    far = [(k, n, p + np.array([30.0, 0, 0])) for k, n, p in rows]
    parts = [residue_lines(rows, k) for k in range(1, 9)]
    parts[3:4] = [
        lettered(parts[3], letters[0], 0.6),
        lettered(residue_lines(far, 4, kind="SER"), letters[1], 0.4),
    ]
    result = judged(file_of(parts))
    assert words_of(result, "numbering") == ["Ser 4 in chain A: its number is used twice in the chain"]
    assert any("Ser 4" in words for words in words_of(result, "chains"))


def test_neighbours_of_other_letters_share_a_bond_where_both_are_there(judged):
    rows = helix()
    beside = [(k, n, p + np.array([0.1, 0, 0])) for k, n, p in rows]
    parts = [residue_lines(rows, k) for k in range(1, 9)]
    for k, letters in ((4, "AB"), (5, "CD")):
        parts[k - 1] = lettered(parts[k - 1], letters[0], 0.6) + lettered(residue_lines(beside, k), letters[1], 0.4)
    result = judged(file_of(parts))
    assert result.verdict == "proved", result.sentences()


def renumbered(rows, change, apart):
    return [(change(k), n, p + np.array([apart * k, 0, 0])) for k, n, p in rows]


@pytest.mark.parametrize("change", [lambda k: 10 * k, lambda k: -k])
def test_chains_that_their_numbers_take_apart_are_unknown(judged, change):
    result = judged(pdb({"A": renumbered(helix(), change, 15.0)}))
    assert result.verdict == "unknown"
    assert "cannot be asked" in rule_of(result, "completeness").why_unknown


def test_numbers_that_fall_once_are_unknown_unless_the_chain_goes_on(judged):
    def change(k):
        return k if k <= 4 else k - 40

    rows = helix()
    assert judged(pdb({"A": renumbered(rows, change, 0.0)})).verdict == "proved"
    torn = [(change(k), n, p + (k > 4) * np.array([0, 0, 50.0])) for k, n, p in rows]
    result = judged(pdb({"A": torn}))
    assert result.verdict == "unknown"
    assert "the numbers of its chain fall here" in rule_of(result, "completeness").why_unknown


def test_a_chain_is_not_bonded_over_residues_that_its_sequence_has(judged):
    rows = [(k if k <= 4 else k + 1, n, p) for k, n, p in helix()]
    head = "REMARK   4 XXXX COMPLIES WITH FORMAT V. 3.30\nREMARK 465     TRP A     5\n"
    head += "SEQRES   1 A    9  ALA ALA ALA ALA TRP ALA ALA ALA ALA"
    result = judged(pdb({"A": rows}, head=head))
    assert any("has 1 residue between them that is not there" in words for words in words_of(result, "clashes"))
    assert judged(pdb({"A": rows})).verdict == "proved"  # numbers alone may skip


def test_residues_that_are_neither_modelled_nor_declared_missing_are_unknown(judged):
    result = judged(pdb({"A": helix(4)}, head="SEQRES   1 A    8  ALA ALA ALA ALA ALA ALA ALA ALA"))
    assert result.verdict == "unknown"
    assert "4 residues more than the model" in rule_of(result, "completeness").why_unknown
    # Residues of another chain do not make up for them.
    far = [(k, n, p + np.array([0, 40.0, 0])) for k, n, p in helix()]
    both = judged(pdb({"A": helix(4), "B": far}, head="SEQRES   1 A    8  ALA ALA ALA ALA ALA ALA ALA ALA"))
    assert "4 residues more than the model" in rule_of(both, "completeness").why_unknown


def test_other_models_of_a_file_are_unknown(judged):
    good = pdb({"A": helix(4)}).replace("END\n", "ENDMDL\n")
    point = pdb({"A": [(k, n, np.ones(3)) for k, n, _ in helix(4)]}).replace("END\n", "ENDMDL\n")
    result = judged(f"MODEL        1\n{good}MODEL        2\n{point}END\n")
    assert result.verdict == "unknown"
    assert "2 models" in rule_of(result, "completeness").why_unknown


def test_an_mmcif_file_that_may_have_been_cut_is_unknown(judged):
    structure = gemmi.read_pdb_string(pdb({"A": helix()}))
    structure.setup_entities()
    bare = structure.make_mmcif_document().as_string()
    structure.entities[0].full_sequence = ["ALA"] * 8
    whole = structure.make_mmcif_document().as_string()
    assert judged(whole, "model.cif").verdict == "proved"
    cut = whole.splitlines()
    assert judged("\n".join(cut[:-20]) + "\n", "model.cif").verdict == "unknown"
    # Without a sequence nothing tells where the atoms end.
    assert judged(bare, "model.cif").verdict == "unknown"


def test_a_file_without_polymers_is_not_proved(judged):
    water = "HETATM    1  O   HOH A   1       1.000   2.000   3.000  1.00 20.00           O\nEND\n"
    result = judged(water)
    assert result.verdict == "unknown"
    assert "no polymer" in rule_of(result, "completeness").why_unknown


@pytest.mark.parametrize("sequence", ["", "SEQRES   1 A    8  ALA ALA ALA ALA ALA ALA ALA ALA"])
def test_a_chain_goes_on_after_ter(judged, sequence):
    # One TER alone: a second one makes all before it a polymer for gemmi.
    lines = [line for line in pdb({"A": helix()}, head=sequence).splitlines() if line != "TER"]
    where = next(k for k, line in enumerate(lines) if line.startswith("ATOM") and line[22:26] == "   5")
    result = judged("\n".join([*lines[:where], "TER", *lines[where:], ""]))
    assert result.verdict == "proved", result.sentences()
    assert {residue.role for residue in result.model.residues} == {"polymer"}
    if not sequence:
        gap = judged("\n".join([*lines[:where], "TER", *lines[where + 5 :], ""]))
        assert gap.verdict == "proved", gap.sentences()
    torn = [line[:30] + f"{float(line[30:38]) + 30:8.3f}" + line[38:] for line in lines[where:-1]]
    assert words_of(judged("\n".join([*lines[:where], "TER", *torn, *lines[-1:], ""])), "chains")


def test_cis_is_asked_of_bonds_alone(judged):
    rows = helix(cis_after=4)
    assert len(words_of(judged(pdb({"A": rows})), "cis_peptides")) == 1
    torn = judged(pdb({"A": [(k, n, p + (k > 4) * np.array([0, 0, 14.0])) for k, n, p in rows]}))
    assert words_of(torn, "chains")
    assert not words_of(torn, "cis_peptides")


def test_a_number_used_twice_keeps_both_residues_in_the_bonds(tmp_path):
    path = tmp_path / "model.pdb"
    parts = [residue_lines(helix(3), k) for k in (1, 2, 3)]
    path.write_text(file_of([*parts[:2], residue_lines(helix(3), 2, kind="GLY"), parts[2]]))
    model = read_model(path)
    ends = {(int(model.residue_of[i]), int(model.residue_of[j])) for i, j, _, _ in build_topology(model).measured}
    assert {(0, 1), (1, 2), (2, 3)} <= ends
