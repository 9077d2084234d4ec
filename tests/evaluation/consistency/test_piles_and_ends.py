"""Many atoms in one residue, and where files end."""

import time

import numpy as np
import pytest
from small_models import helix, pdb

from cryoprism.evaluation.consistency._pieces import nearest_pairs


def _rule(result, name):
    return next(rule for rule in result.rules if rule.name == name)


def _atom(serial, name, residue, number, place, element):
    x, y, z = place
    return (
        f"HETATM{serial % 100000:5d}  {name:<3s} {residue:>3s} W{number}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00"
        f"          {element:>2s}"
    )


def _grid(side, spacing, first=(15.0, 0.0, 0.0)):
    spots = np.indices((side, side, side)).reshape(3, -1).T
    return spacing * spots + np.array(first)


def _waters(count, number):
    rows = []
    for k, spot in enumerate(_grid(6, 3.0, (3.0, -9.0, 4.0))[:count]):
        for name, away in (("OW", (0, 0, 0)), ("HW1", (0.957, 0, 0)), ("HW2", (-0.24, 0.927, 0))):
            rows.append(_atom(3 * k, name, "SOL", number(k), spot + np.array(away), name[0]))
    return "\n".join(rows)


def test_pieces_are_joined_by_the_shortest_tree():
    draws = np.random.default_rng(5)
    for _ in range(30):
        count = int(draws.integers(2, 30))
        places = draws.normal(size=(count, 3))
        pieces = np.unique(draws.integers(0, count, count), return_inverse=True)[1]
        apart = np.linalg.norm(places[:, None] - places, axis=2)
        root = list(range(int(pieces.max()) + 1))
        wanted = 0.0
        pairs = [(k, n) for k in range(count) for n in range(k)]
        for a, b in sorted(pairs, key=lambda pair: apart[pair]):
            one, other = root[pieces[a]], root[pieces[b]]
            if one != other:
                root = [one if k == other else k for k in root]
                wanted += apart[a, b]
        found = nearest_pairs(places, pieces)
        assert len(found) == pieces.max()
        assert sum(apart[pair] for pair in found) == pytest.approx(wanted)


def test_thousands_of_atoms_in_one_residue_take_no_minutes(witnesses):
    rows = [_atom(k, f"C{k % 100}", "UNL", " 500", spot, "C") for k, spot in enumerate(_grid(12, 3.0))]
    started = time.process_time()
    result = witnesses(pdb({"A": helix(6)}, extra="\n".join(rows)))
    assert time.process_time() - started < 20  # three atoms of 1,000 each took a minute
    words = [one.words for one in _rule(result, "completeness").offenders]
    assert any("bear one name" in text and "UNL" in text for text in words)


def test_an_atom_apart_is_still_told_among_many(witnesses):
    rows = [_atom(k, f"C{k}", "UNL", " 500", spot, "C") for k, spot in enumerate(_grid(3, 1.5))]
    whole = witnesses(pdb({"A": helix(6)}, extra="\n".join(rows)))
    assert not any("lies apart" in one.words for one in _rule(whole, "bonds").offenders)
    rows.append(_atom(99, "C99", "UNL", " 500", (15.0, 0.0, 20.0), "C"))
    torn = witnesses(pdb({"A": helix(6)}, extra="\n".join(rows)))
    told = [one.words for one in _rule(torn, "bonds").offenders if "lies apart" in one.words]
    assert len(told) == 1
    assert told[0].startswith("C99 of UNL 500")
    assert "17.00 Å" in told[0]


def test_waters_without_numbers_are_told_as_waters_of_one_number(witnesses):
    result = witnesses(pdb({"A": helix(6)}, extra=_waters(150, lambda k: "****")))
    assert not _rule(result, "bonds").offenders
    told = [one.words for one in _rule(result, "completeness").offenders]
    assert any("150 waters bear this one number" in text for text in told)
    assert not any("bear one name" in text for text in told)


def test_waters_with_their_numbers_are_not(witnesses):
    result = witnesses(pdb({"A": helix(6)}, extra=_waters(150, lambda k: f"{k + 1:4d}")))
    assert not _rule(result, "bonds").offenders
    assert not any("waters bear" in one.words for one in _rule(result, "completeness").offenders)


def test_waters_of_one_number_may_not_lie_on_one_another(witnesses):
    rows = "\n".join(_atom(k, "O", "HOH", "   7", (12.0 + 1.2 * k, 0, 0), "O") for k in range(2))
    result = witnesses(pdb({"A": helix(6)}, extra=rows))
    assert any("1.20 Å" in one.words for one in _rule(result, "clashes").offenders)


def _ending(result):
    rule = _rule(result, "completeness")
    return "may have been cut" in rule.why_unknown


def _text(end, head=""):
    body = pdb({"A": helix(6)}).removesuffix("END\n")
    return f"{head}{body}{end}"


@pytest.mark.parametrize(
    "text",
    [
        _text("END\n"),
        _text("end\n"),
        _text("ENDMDL\n", "MODEL        1\n"),  # GROMACS
        _text("#BEGIN_POSE_ENERGIES_TABLE x.pdb\nlabel fa_atr total\npose -1 -1\n#END_POSE_ENERGIES_TABLE x.pdb\n"),
        _text("# All scores below are weighted scores, not raw scores.\n"),
    ],
)
def test_ends_of_programs_are_ends(text, proved, coq_of_python):
    assert not _ending(proved(text))


@pytest.mark.parametrize(
    "text",
    [
        _text(""),  # TER: chains may have stood behind it
        _text("", "MODEL        1\n"),
        _text("ENDMDL\n"),
        "#BEGIN_POSE_ENERGIES_TABLE x.pdb\n" + _text(""),
        _text("REMARK cut here\n"),
    ],
)
def test_files_that_may_have_been_cut_are_unknown(text, proved, coq_of_python):
    assert _ending(proved(text))


def _one_table(end):
    """mmCIF as Biopython writes it: one table, a # before it and one behind it."""
    names = (
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id label_seq_id "
        "pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv auth_seq_id auth_asym_id pdbx_PDB_model_num"
    )
    rows = [
        f"ATOM {k} {name[0]} {name} . ALA A ? {number} ? {x:.3f} {y:.3f} {z:.3f} 1.0 20.0 {number} A 1"
        for k, (number, name, (x, y, z)) in enumerate(helix(6), 1)
    ]
    head = "".join(f"_atom_site.{name}\n" for name in names.split())
    return "data_x\n#\nloop_\n" + head + "\n".join(rows) + "\n" + end


def test_a_mark_at_the_end_of_an_mmcif_file_with_one_table_is_its_end(proved, coq_of_python):
    assert not _ending(proved(_one_table("#\n"), "model.cif"))
    assert _ending(proved(_one_table(""), "model.cif"))
    assert _ending(proved(_one_table("#\n")[:-200].rsplit("\n", 1)[0] + "\n", "model.cif"))


def _with_cell(a, b, c):
    return _text("END\n", f"CRYST1{a:9.3f}{b:9.3f}{c:9.3f}  90.00  90.00  90.00 P 1           1\n")


@pytest.mark.filterwarnings("error")
def test_a_cell_of_zeros_is_no_crystal(proved, coq_of_python):
    result = proved(_with_cell(0, 0, 0))
    assert all(rule.name != "copies" for rule in result.rules)
    assert "The file's cell has edges of 0: it is taken as no crystal." in result.remarks
    assert not any("edges of 0" in remark for remark in proved(_with_cell(1, 1, 1)).remarks)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("edges", [(20, 0, 30), (-20, 20, 30)])
def test_a_cell_that_encloses_nothing_is_unknown(edges, proved, coq_of_python):
    assert "encloses nothing" in _rule(proved(_with_cell(*edges)), "copies").why_unknown
