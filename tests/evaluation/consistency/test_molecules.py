"""Which residues are one chain: modified ones and caps, molecules whose letters do not tell, bonds in CONECT alone."""

import subprocess
import sys

import numpy as np
import pytest
from small_models import helix, moved, pdb

from cryoprism.evaluation.consistency import check_consistency, find_copies, read_model
from cryoprism.evaluation.consistency._cases import cases_of
from cryoprism.evaluation.consistency._topology import build_topology
from cryoprism.evaluation.consistency._words import length_words
from programs import needs_coq


@pytest.fixture
def found(tmp_path):
    """What the rules find, as it is where Coq accepts all: verdict, words of each rule, notes, the model."""

    class Found:
        def __init__(self, text):
            path = tmp_path / "model.pdb"
            path.write_text(text)
            self.model = read_model(path)
            cases = cases_of(self.model, build_topology(self.model), find_copies(self.model), None)
            self.obligations = sum(len(case.residues) for case in cases)
            self.words = {case.name: [one.words for one in case.offenders] for case in cases}
            self.why = {case.name: case.why for case in cases if case.borderline}
            self.note = {case.name: case.note for case in cases}
            self.refuted = {case.name for case in cases if case.refuted}
            self.verdict = "refuted" if self.refuted else "unknown" if self.why else "proved"

    return Found


def place_of(rows, residue, name):
    return next(p for k, n, p in rows if (k, n) == (residue, name))


def mirrored(rows, residue):
    """Reflect the Cβ of a residue in the plane of its N, Cα and C."""
    n, ca, c, cb = (place_of(rows, residue, name) for name in ("N", "CA", "C", "CB"))
    normal = np.cross(n - ca, c - ca) / np.linalg.norm(np.cross(n - ca, c - ca))
    return moved(rows, residue, "CB", cb - 2 * normal * np.dot(cb - ca, normal))


def ended(rows):
    """Add OXT to the last residue."""
    last = rows[-1][0]
    ca, c, o = (place_of(rows, last, name) for name in ("CA", "C", "O"))
    away = (c - ca) / np.linalg.norm(c - ca) + (c - o) / np.linalg.norm(c - o)
    return [*rows, (last, "OXT", c + 1.25 * away / np.linalg.norm(away))]


def hetero(text, number):
    """Write a residue as HETATM."""
    return "\n".join(
        "HETATM" + line[6:] if line.startswith("ATOM") and int(line[22:26]) == number else line
        for line in text.splitlines()
    )


LINKS = (
    "LINK         C   ALA A   3                 N   ABA A   4     1555   1555  1.33\n"
    "LINK         C   ABA A   4                 N   ALA A   5     1555   1555  1.33"
)


@pytest.mark.parametrize("head", ["", LINKS])
def test_a_modified_residue_written_as_hetatm_belongs_to_its_chain(found, head):
    names = {("A", 4): "ABA"}
    rows = helix()
    as_atom = found(pdb({"A": rows}, names=names, head=head))
    good = found(hetero(pdb({"A": rows}, names=names, head=head), 4))
    assert (good.verdict, good.obligations) == ("proved", as_atom.obligations)
    assert good.model.residues[3].role == "polymer"
    bad = found(hetero(pdb({"A": mirrored(rows, 4)}, names=names, head=head), 4))
    assert ["ABA 4" in words and "mirror image" in words for words in bad.words["chirality"]] == [True]
    # Torn out of its chain it still stands between its neighbours by row and number.
    torn = [(k, n, p + (k == 4) * np.array([0, 0, 30.0])) for k, n, p in rows]
    assert found(hetero(pdb({"A": torn}, names=names, head=head), 4)).words["bonds"]


@pytest.mark.parametrize("away", [0.0, 1.0])
def test_a_modified_residue_after_ter_is_asked_with_its_chain(found, away):
    rows = mirrored(helix(), 8)
    axis = place_of(rows, 8, "N") - place_of(rows, 7, "C")
    last = [(k, n, p + away * axis) for k, n, p in rows if k == 8]
    text = pdb({"A": [row for row in rows if row[0] < 8]}).replace("END\n", "")
    result = found(text + hetero(pdb({"A": last}, names={("A", 8): "ABA"}), 8))
    assert result.refuted >= {"chirality"} | ({"bonds"} if away else set())


def test_a_recorded_bond_is_that_of_one_molecule(found):
    rows = helix()
    text = two(rows, later(rows, 0), letter=" ")
    record = LINKS.splitlines()[0].replace("ABA", "ALA").replace(" A   ", "     ")
    assert found(f"{record}\n{text}").verdict == "proved"


def test_a_free_amino_acid_is_a_ligand(found):
    rows = [row for row in helix(3) if row[0] == 2]
    away = [(900, n, p + np.array([9.0, 0, 0])) for _, n, p in rows]
    text = pdb({"A": helix()}).replace("END\n", "")
    ligand = hetero(pdb({"A": away}, names={("A", 900): "ORN"}), 900)
    assert found(f"{text}{ligand}").model.residues[-1].role == "ligand"


def cap(rows, kind, number, record):
    return "\n".join(
        f"{record:<6s}{k:5d}  {name:<3s} {kind} A{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00"
        f"          {name[0]:>2s}"
        for k, (name, (x, y, z)) in enumerate(rows, 900)
    )


@pytest.mark.parametrize("record", ["ATOM", "HETATM"])
@pytest.mark.parametrize("after_ter", [True, False])
def test_caps_of_a_chain_belong_to_it(found, record, after_ter):
    rows = helix(9)
    inner = pdb({"A": [row for row in rows if 2 <= row[0] <= 8]}).replace("TER\nEND\n", "")
    amide = [("N", place_of(rows, 9, "N"))]
    acetyl = [(new, place_of(rows, 1, old)) for old, new in (("CA", "CH3"), ("C", "C"), ("O", "O"))]
    caps = [cap(amide, "NH2", 9, record), cap(acetyl, "ACE", 1, record)]
    parts = [inner, "TER\n", *(f"{one}\n" for one in caps), "END\n"]
    whole = parts if after_ter else [f"{caps[1]}\n", inner, f"{caps[0]}\n", "TER\n", "END\n"]
    good = found("".join(whole))
    assert good.verdict == "proved", good.words
    # Further away than a bond it is none.
    c = place_of(rows, 8, "C")
    far = cap([("N", c + (amide[0][1] - c) * 2.05 / 1.329)], "NH2", 9, record)
    assert found("".join(whole).replace(caps[0], far)).refuted & {"clashes", "bonds"}


AWAY = np.array([0, 40.0, 0])


def two(first, second, *, letter="A", ter=True, segments=("", "")):
    """Two molecules in one chain."""
    parts = []
    for rows, segment in zip((first, second), segments, strict=True):
        lines = pdb({letter: rows}).splitlines()[:-2]
        parts += [f"{line[:72]}{segment:<4s}{line[76:]}" for line in lines] + ["TER"] * ter
    return "\n".join([*parts, "END", ""])


def later(rows, by):
    return [(k + by, n, p + AWAY) for k, n, p in rows]


@pytest.mark.parametrize(
    ("letter", "end", "by", "ter", "segments", "verdict"),
    [
        (" ", True, 8, True, ("", ""), "proved"),  # tleap, cpptraj
        (" ", False, 8, True, ("", ""), "unknown"),
        (" ", True, 8, False, ("", ""), "proved"),
        (" ", False, 8, False, ("", ""), "refuted"),
        ("A", True, 8, True, ("", ""), "proved"),
        ("A", False, 8, True, ("", ""), "refuted"),  # torn, with TER at the tear
        ("A", True, 8, False, ("", ""), "refuted"),
        (" ", False, 0, True, ("", ""), "proved"),  # GROMACS
        (" ", True, 0, False, ("", ""), "proved"),
        (" ", False, 0, False, ("", ""), "unknown"),
        ("A", False, 0, True, ("", ""), "unknown"),
        (" ", False, 0, False, ("PROA", "PROB"), "proved"),  # CHARMM
        (" ", False, 8, False, ("PROA", "PROB"), "proved"),
        ("A", False, 8, False, ("PROA", "PROB"), "unknown"),
    ],
)
def test_ter_segments_and_numbers_tell_molecules_apart(found, letter, end, by, ter, segments, verdict):
    rows = ended(helix()) if end else helix()
    result = found(two(rows, later(helix(), by), letter=letter, ter=ter, segments=segments))
    assert result.verdict == verdict, (result.words, result.why)
    if verdict == "unknown":
        assert any(text in result.why["completeness"] for text in ("torn", "told", "not told"))
    if verdict != "refuted":
        assert [residue.molecule for residue in result.model.residues] == [0] * 8 + [1] * 8
    # Within the second molecule a tear, and a mirrored residue, are refuted as ever.
    torn = [(k, n, p + (k > 4) * np.array([0, 0, 9.0])) for k, n, p in helix()]
    assert "bonds" in found(two(rows, later(torn, by), letter=letter, ter=ter, segments=segments)).refuted
    wrong = later(mirrored(helix(), 4), by)
    assert "chirality" in found(two(rows, wrong, letter=letter, ter=ter, segments=segments)).refuted


def test_a_tear_at_ter_without_letters_is_never_proved(found):
    rows = [(k, n, p + (k > 4) * np.array([0, 0, 12.0])) for k, n, p in helix()]
    parts = [[row for row in rows if row[0] <= 4], [row for row in rows if row[0] > 4]]
    assert found(two(*parts, letter=" ")).verdict == "unknown"
    assert found(two(*parts, letter="A")).verdict == "refuted"
    whole = [[row for row in helix() if row[0] <= 4], [row for row in helix() if row[0] > 4]]
    assert found(two(*whole, letter=" ")).verdict == "proved"
    assert {residue.molecule for residue in found(two(*whole, letter=" ")).model.residues} == {0}


def test_residues_at_the_wrong_place_of_a_file_are_put_in_order(found):
    rows = helix()
    for shift, verdict in ((0.0, "proved"), (9.0, "refuted")):
        late = [(k, n, p + np.array([0, 0, shift])) for k, n, p in rows if k == 4]
        text = pdb({"A": [*(row for row in rows if row[0] != 4), *late]})
        assert found(text).verdict == verdict
    halves = [row for row in rows if row[0] > 4] + [row for row in rows if row[0] <= 4]
    assert found(pdb({"A": halves})).verdict == "proved"


def test_bonds_between_residues_may_stand_in_conect_alone(found):
    rows = helix()
    ca, cb = (place_of(rows, 3, name) for name in ("CA", "CB"))
    serial = next(k for k, row in enumerate(rows, 1) if row[:2] == (3, "CB"))

    def with_ligand(length, records):
        where = cb + length * (cb - ca) / np.linalg.norm(cb - ca)
        return pdb({"A": rows}, extra=cap([("C1", where)], "LIG", 900, "HETATM") + records)

    conect = f"\nCONECT{serial:5d}{900:5d}"
    assert found(with_ligand(1.5, "")).refuted == {"clashes"}
    good = found(with_ligand(1.5, conect))
    assert good.verdict == "proved", good.words
    assert "stand in CONECT alone, 1: Cβ of Ala 3" in good.note["bonds"]
    assert "clashes" in found(with_ligand(2.0, conect)).refuted
    # Between two standard residues one that is written by distance is a clash as ever.
    onto = moved(rows, 7, "CB", cb + np.array([0.9, 0.9, 0.9]))
    other = next(k for k, row in enumerate(rows, 1) if row[:2] == (7, "CB"))
    assert "clashes" in found(pdb({"A": onto}, extra=f"CONECT{serial:5d}{other:5d}")).refuted
    # A CONECT whose serials went stale says nothing of atoms that are far apart.
    far = cap([("C1", cb + np.array([0, 0, 4.0]))], "LIG", 900, "HETATM")
    stale = found(pdb({"A": [row for row in rows if row[0] < 5]}, extra=f"{far}\nCONECT    1{900:5d}"))
    assert stale.verdict == "proved"
    assert "exempt no pair" in stale.note["bonds"]


def test_the_bond_that_closes_a_chain_needs_no_record(found):
    first, last = ([(k, n, p) for k, n, p in helix() if (k > 4) == later_half] for later_half in (True, False))
    ring = [(k - 4, n, p) for k, n, p in first] + [(k + 10, n, p) for k, n, p in last]
    good = found(pdb({"A": ring}))
    assert good.verdict == "proved", good.words
    assert "close a chain and stand in no record, 1: C of Ala 14" in good.note["bonds"]
    start = place_of(ring, 1, "N") - place_of(ring, 14, "C")
    near = [(k, n, p + (k <= 4) * start * 0.25) for k, n, p in ring]
    assert "clashes" in found(pdb({"A": near})).refuted


def beside(apart, count):
    """Places in a row beside the Cβ of the third residue."""
    ca, cb = (place_of(helix(), 3, name) for name in ("CA", "CB"))
    out = (cb - ca) / np.linalg.norm(cb - ca)
    return [cb + out * (3.2 + apart * k) for k in range(count)]


def waters(*occupancies, apart=1.0):
    return "\n".join(
        f"HETATM{900 + k:5d}  O   HOH W {500 + k:3d}    {x:8.3f}{y:8.3f}{z:8.3f}{share:6.2f} 20.00           O"
        for k, (share, (x, y, z)) in enumerate(zip(occupancies, beside(apart, 2), strict=True))
    )


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [((0.5, 0.5), "unknown"), ((0.0, 1.0), "unknown"), ((0.6, 0.5), "refuted"), ((1.0, 1.0), "refuted")],
)
def test_atoms_without_letters_may_take_turns_or_not(found, shares, verdict):
    result = found(pdb({"A": helix()}, extra=waters(*shares)))
    assert result.verdict == verdict
    assert found(pdb({"A": helix()}, extra=waters(*shares, apart=3.0))).verdict == "proved"
    if verdict == "unknown":
        assert "whether they take turns" in result.why["clashes"]


@needs_coq
def test_coq_agrees_that_turns_are_unknown(tmp_path):
    path = tmp_path / "model.pdb"
    rows = helix(4)
    ca = place_of(rows, 1, "CA")
    path.write_text(pdb({"A": moved(rows, 4, "CB", ca + np.array([0.8, 0.8, 0.8]))}, extra=waters(0.5, 0.5)))
    result = check_consistency(path)
    clashes = next(rule for rule in result.rules if rule.name == "clashes")
    assert (clashes.refuted, clashes.unknown) == (2, 2), clashes.why_unknown
    folder = result.write_certificate(tmp_path / "certificate")
    run = subprocess.run(["sh", "check.sh"], cwd=folder, capture_output=True, text=True, check=False)
    assert "refused" not in (run.stdout + run.stderr).lower(), run.stdout + run.stderr
    assert run.returncode == 0


@needs_coq
def test_check_data_reads_repeated_residues_as_the_model_does(tmp_path):
    path = tmp_path / "model.pdb"
    path.write_text(two(helix(4), later(helix(4), 0), letter=" "))
    result = check_consistency(path)
    assert result.verdict == "proved"
    folder = result.write_certificate(tmp_path / "certificate")
    check = [sys.executable, "-I", "check_data.py", str(path)]
    run = subprocess.run(check, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(("name", "verdict"), [("UNL", "unknown"), ("LIG", "refuted")])
def test_atoms_of_a_placeholder_are_unknown(found, name, verdict):
    rows = [(f"O{k}", where) for k, where in enumerate(beside(1.8, 3))]
    assert found(pdb({"A": helix()}, extra=cap(rows, name, 900, "HETATM"))).verdict == verdict


def test_words_name_what_is_there(found):
    assert length_words(2.19999, 2.2) == "2.19999"
    assert length_words(2.18, 2.2) == "2.18"
    head = "SEQRES   1 A    8  TRP TRP TRP TRP TRP TRP TRP TRP"
    assert all("it has TRP there" in words for words in found(pdb({"A": helix()}, head=head)).words["numbering"])
    rows = [(k + 13 * (k > 4), n, p + (k > 4) * np.array([0, 0, 9.0])) for k, n, p in helix()]
    head = "SEQRES   1 A    8  ALA ALA ALA ALA ALA ALA ALA ALA"
    assert "their numbers skip 13" in found(pdb({"A": rows}, head=head)).words["bonds"][0]
