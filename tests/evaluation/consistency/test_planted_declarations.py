"""What a file declares of itself and lacks."""

import gemmi
import pytest
from planted import rule_of, shifted, words_of
from small_models import helix, pdb

from cryoprism.evaluation.consistency._completeness import completeness
from programs import needs_coq


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
