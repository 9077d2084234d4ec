"""What consistency.json and the folder say beside the counts: derived again, compared, or told as not compared."""

import os
import re
import shutil
import sys

import pytest
from certificates import check, grounds, settle, sign_again, write_grounds
from small_models import helix, pdb

from cryoprism.evaluation.consistency._certificate import sha256
from programs import needs_coq


@needs_coq
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["logic_score"].update(standard_deviation=0.0), "wrong standard_deviation"),
        (lambda c: c["logic_score"].update(standard_deviation=None), "wrong form: line "),
        (lambda c: c.update(model="6z6u.pdb"), "wrong sentences: number 1"),
        (lambda c: c.update(trusted=["nothing"]), "trusted is not the list of this version"),
        (lambda c: c["trusted"].pop(), "trusted is not the list of this version"),
        (lambda c: c.update(lean="checked by Lean 4: all accepted"), "wrong form: line "),
        (lambda c: c.update(sandbox="x"), "wrong form: line "),
        (lambda c: c.update(prover="Coq and Lean"), "wrong form: line "),
        (lambda c: c["sentences"].__setitem__(0, "Proved by Lean 4 too."), "wrong sentences: number 1"),
        (lambda c: c["sentences"].append("Proved by Lean 4 too."), "wrong sentences: number "),
        (lambda c: c["sentences"].pop(0), "wrong sentences: number 1"),
        (lambda c: c["rules"][0].update(title="All is well"), "wrong title of clashes"),
        (lambda c: c["rules"][0].update(unit="galaxy"), "wrong unit of clashes"),
        (lambda c: c["not_asked"].update(ligands="None is there."), "wrong reason why ligands is not asked"),
        (lambda c: c["by_residue"][0]["counts"].update(clashes=[9, 0, 0]), "wrong by_residue"),
        (
            lambda c: c["files"].update({"extra.txt": "ab"}),
            "extra.txt is no file of a certificate, but consistency.json",
        ),
        (lambda c: c["files"].pop("README.md"), "README.md is unknown to consistency.json"),
    ],
)
def test_words_that_are_altered_are_refused(certificate, change, words):
    folder = certificate()
    content = grounds(folder)
    change(content)
    write_grounds(folder, content)
    code, said = check(folder)
    assert (code, words in said) == (1, True), said


@needs_coq
@pytest.mark.parametrize("name", ["README.md", "Makefile"])
def test_what_is_the_same_in_every_certificate_is_refused_though_signed(certificate, name):
    folder = certificate()
    (folder / name).write_text("check:\n\techo All is well\n")
    code, said = check(folder)
    assert (code, f"{name} is not the one that consistency.json was written with" in said) == (1, True), said
    sign_again(folder)
    code, said = check(folder)
    assert (code, f"Refused: {name} is not CryoPrism's." in said) == (1, True), said


@needs_coq
def test_the_lean_source_is_compared_with_its_checksum(certificate):
    folder = certificate()
    (folder / "Obligations.lean").write_text("-- all true\n")
    code, said = check(folder)
    assert (code, "Obligations.lean is not the one that consistency.json was written with" in said) == (1, True), said


@needs_coq
@pytest.mark.parametrize("name", ["README.md", "Makefile", "Obligations.lean"])
def test_files_that_are_missing_or_added_are_refused(certificate, name):
    folder = certificate()
    (folder / "GNUmakefile").write_text("check:\n\techo All is well\n")
    assert "Refused: GNUmakefile is no file of a certificate." in check(folder)[1]
    (folder / "GNUmakefile").unlink()
    (folder / name).unlink()
    assert f"Refused: {name} is missing, or no plain file." in check(folder)[1]


@needs_coq
def test_the_model_is_compared_where_it_is_given(certificate, quick, tmp_path):
    folder = certificate()
    model = tmp_path / "clean.pdb"
    model.write_text(pdb({"A": helix(4)}))
    held = sha256(model.read_text())
    assert grounds(folder)["model_sha256"] == held
    code, said = quick(folder, model=model)
    assert code == 0, said
    assert said.rstrip().endswith(f"of {model}.")
    other = shutil.copy(model, tmp_path / "other.pdb")
    assert f"of {other}, which consistency.json calls clean.pdb." in quick(folder, model=other)[1]
    code, said = quick(folder)
    assert code == 0, said
    assert f"of a file with SHA-256 {held}, which was not at hand" in said
    assert re.search('Not checked by this script: prover "Coq .*"; sandbox ".*"; lean ".*";', said)
    assert "Not compared: the atoms with the model file, words and values of offenders" in said
    (tmp_path / "other.pdb").write_text(pdb({"A": helix(5)}))
    code, said = quick(folder, model=other)
    assert (code, "other.pdb is not the file of this certificate" in said) == (1, True), said
    assert "absent.pdb is no file" in quick(folder, model=tmp_path / "absent.pdb")[1]


@needs_coq
def test_another_model_is_refused_by_its_atoms_where_its_checksum_was_put_in(certificate, quick, tmp_path, monkeypatch):
    """A forger may state the checksum of any file; python3 with gemmi sees that its atoms are others."""
    folder = certificate()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    model = tmp_path / "clean.pdb"
    model.write_text(pdb({"A": helix(4)}))
    assert "the atoms with the model file" not in quick(folder, model=model)[1]
    content = grounds(folder)
    model.write_text(pdb({"A": [(k, name, place + 1) for k, name, place in helix(4)]}))
    content["model_sha256"] = sha256(model.read_text())
    write_grounds(folder, content)
    code, said = quick(folder, model=model)
    assert (code, f"Refused: atoms.csv is not what {model} says." in said) == (1, True), said


@needs_coq
def test_sentences_follow_from_counts_reasons_and_first_offenders(certificate):
    folder = certificate("all")
    content = grounds(folder)
    assert any("more)" in text for text in content["sentences"])
    first = next(rule for rule in content["rules"] if rule["refuted"] and len(rule["offenders"]) > 1)
    first["offenders"][0]["words"] = "Nothing to see here"
    write_grounds(folder, content)
    assert "wrong sentences: number " in check(folder)[1]
    settle(content)
    write_grounds(folder, content)
    assert "wrong" not in check_form(folder)


def check_form(folder):
    """What check.sh says of the form of consistency.json: all before its files are compared."""
    text = (folder / "check.sh").read_text().replace('cd "$(dirname "$0")"', f'cd "{folder}"', 1)
    early = text.split("\nfor line in $library_sums; do", 1)[0]
    file = folder.parent / "form.sh"
    file.write_text(early)
    code, said = check(folder, file)
    assert code == 0, said
    return said


@needs_coq
def test_large_counts_are_written_with_commas(certificate):
    folder = certificate()
    content = grounds(folder)
    for rule in content["rules"]:
        if rule["name"] == "bonds":
            rule["obligations"] += 1_234_567
            rule["proved"] += 1_234_567
    for key in ("obligations", "proved"):
        content["counts"][key] += 1_234_567
    settle(content)
    assert "1,234," in content["sentences"][0]
    write_grounds(folder, content)
    check_form(folder)
