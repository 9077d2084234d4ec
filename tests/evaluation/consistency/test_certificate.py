"""A certificate says what consistency.json says, of every rule and of every model."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace

import gemmi
import pytest
from certificates import alter_rule, check, checked, every_rule, grounds
from small_models import helix, pdb

from cryoprism.evaluation.consistency import PLAIN, RULES, CoqRun, Prover, check_consistency
from cryoprism.evaluation.consistency._coq import LIBRARY, library_sources, run_coq
from cryoprism.evaluation.consistency._emit import fitting
from programs import needs_coq


@needs_coq
@pytest.mark.slow
def test_one_command_checks_everything_in_a_fresh_folder(certificate):
    folder = certificate()
    code, said = check(folder)
    assert code == 0, said
    assert "All theorems were accepted; consistency.json says what they say: 72 obligations, 72 proved, 0" in said
    assert (folder / "library" / "Claims.v").is_file()


@needs_coq
@pytest.mark.parametrize("digits", [3, 4])
def test_counts_and_atoms_of_every_rule_are_those_of_the_theorems(tmp_path, quick, digits):
    result = every_rule(tmp_path, digits)
    assert {rule.name for rule in result.rules} == set(RULES)
    assert result.model.exact == (digits == 3)
    assert {rule.name for rule in result.rules if rule.refuted} >= set(RULES) - {"chains", "placement", "scale"}
    code, said = quick(result.write_certificate(tmp_path / "certificate"))
    assert code == 0, said
    assert f"{result.count('obligations')} obligations, {result.count('proved')} proved" in said


@needs_coq
def test_what_has_no_verdict_is_said_and_cannot_be_claimed(tmp_path, quick):
    def run(file, library, cpu_seconds, memory_in_bytes):
        if file.name == "Clashes.v":
            return CoqRun("time limit reached", "", 1.0, 0)
        return PLAIN.run(file, library, cpu_seconds, memory_in_bytes)

    result = checked(tmp_path / "model.pdb", pdb({"A": helix(4)}), coq=Prover(run, PLAIN.words))
    assert result.count("unknown") == 4
    folder = result.write_certificate(tmp_path / "certificate")
    code, said = quick(folder)
    assert code == 0, said
    assert "Without a verdict then, and so not checked: clashes." in said
    assert "Not asked, by the word of consistency.json: scale copies envelope placement ligands." in said
    alter_rule(folder, "clashes", unknown=-4, proved=4)
    code, said = quick(folder)
    assert code == 1
    assert "nothing is proved about clashes, but consistency.json has verdicts" in said


@needs_coq
def test_nothing_is_claimed_where_nothing_was_proved(tmp_path, monkeypatch, quick):
    with monkeypatch.context() as without:
        without.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda name: None)
        result = checked(tmp_path / "model.pdb", pdb({"A": helix(4)}))
    code, said = quick(result.write_certificate(tmp_path / "certificate"))
    assert code == 3
    assert "consistency.json claims none" in said


@needs_coq
def test_axioms_of_all_theorems_in_use_are_the_ones_that_are_accepted(folders, compiled_library, tmp_path):
    """Assumptions.v prints those of every theorem that a model's files apply; check.sh accepts these and no others."""
    listed = set(re.findall(r"Print Assumptions (\w+)\.", library_sources()["Assumptions.v"]))
    used = set()
    for folder in folders.values():
        for file in (folder / "model").glob("*.v"):
            used |= set(re.findall(r"Proof\. apply \(?(\w+)", file.read_text()))
    assert len(used) >= 8
    assert used <= listed
    shutil.copy(compiled_library / "Assumptions.v", tmp_path)
    run = run_coq(
        tmp_path / "Assumptions.v", ["-Q", str(compiled_library), "CryoPrism"], cpu_seconds=60, memory_in_bytes=4 << 30
    )
    printed = set(re.findall(r"^([A-Z]\w*\.\w+)", run.output, flags=re.M))
    text = (folders["clean"] / "check.sh").read_text()
    assert printed == set(text.split('axioms="')[1].split('"')[0].split())


@needs_coq
def test_check_is_the_same_in_every_certificate(folders):
    one, other = (folder / "check.sh" for folder in folders.values())
    assert one.read_text() == other.read_text()
    assert all(f"{name}=" in one.read_text() for name in LIBRARY)


def test_no_word_of_a_file_goes_into_a_proof(tmp_path, monkeypatch):
    monkeypatch.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda name: None)
    path = tmp_path / "x*) Axiom boom : False. (* from (lab).pdb"
    folder = checked(path, pdb({"A": helix(4)})).write_certificate(tmp_path / "certificate")
    assert all("boom" not in file.read_text() for file in (folder / "model").glob("*.v"))
    subprocess.run([sys.executable, "check_data.py"], cwd=folder, check=True, capture_output=True)


@needs_coq
def test_a_name_of_braces_and_quotes_does_no_harm(tmp_path, quick):
    path = tmp_path / 'a{b}"rules":[{"name":"x"}] c.pdb'
    code, said = quick(checked(path, pdb({"A": helix(4)})).write_certificate(tmp_path / "certificate"))
    assert code == 0, said


def test_the_readme_is_the_same_and_the_json_says_how_coq_ran(tmp_path, monkeypatch):
    monkeypatch.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda name: None)
    result = checked(tmp_path / "model.pdb", pdb({"A": helix(4)}))
    folder = result.write_certificate(tmp_path / "one")
    assert grounds(folder)["sandbox"] == "No Coq ran."
    other = replace(result, sandbox="Coq ran in a bubblewrap sandbox.").write_certificate(tmp_path / "two")
    assert grounds(other)["sandbox"] == "Coq ran in a bubblewrap sandbox."
    assert (folder / "README.md").read_bytes() == (other / "README.md").read_bytes()


def test_every_rule_is_asked_or_said_not_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda name: None)
    content = checked(tmp_path / "model.pdb", pdb({"A": helix(4)})).to_json()
    asked = {rule["name"] for rule in content["rules"]}
    assert set(RULES) == asked | set(content["not_asked"])
    assert content["not_asked"]["envelope"] == "No map was given."
    assert not asked & set(content["not_asked"])


@pytest.mark.parametrize("shift", [0, -200_000, 200_000_000])
def test_numbers_that_do_not_fit_are_compared_by_their_ranks(shift):
    numbers = [(False, 5 + shift, 2**31), (True, 7, 7 + shift), (False, 7 + shift, 5 + shift), (True, 2**30, 0)]
    found = fitting(numbers)
    assert all(0 <= a < 2**30 and 0 <= b < 2**30 for _, a, b in found)
    truth = [(a == b if equal else a < b) for equal, a, b in numbers]
    assert [(a == b if equal else a < b) for equal, a, b in found] == truth
    assert fitting([(False, 3, 900)]) == [(False, 3, 900)]


@needs_coq
@pytest.mark.parametrize("number", [-200_000, 200_000_000])
def test_residue_numbers_that_are_large_or_negative_get_a_verdict(tmp_path, number):
    path = tmp_path / "model.pdb"
    path.write_text(pdb({"A": helix(4)}))
    structure = gemmi.read_structure(str(path))
    structure.setup_entities()
    for k, residue in enumerate(structure[0][0]):
        residue.seqid.num = number + k
    structure.assign_label_seq_id()
    path = tmp_path / "model.cif"
    structure.make_mmcif_document().write_file(str(path))
    result = check_consistency(path)
    rule = next(rule for rule in result.rules if rule.name == "numbering")
    assert rule.proved == rule.obligations > 0
    # A file without sequences may have been cut: that alone is open.
    assert {one.name for one in result.rules if one.unknown} <= {"completeness"}
