"""Proofs, libraries and programs of a certificate: whatever is altered, check.sh refuses it."""

import re
import subprocess
import sys

import pytest
from certificates import alter, check, grounds, sign_again, write_grounds
from small_models import helix, pdb

from cryoprism.evaluation.consistency._certificate import sha256
from programs import needs_coq


@pytest.mark.parametrize(
    "name", ["model/Clashes.v", "model/Data.v", "library/Copies.v", "atoms.csv", "check_data.py", "transcript.txt"]
)
@needs_coq
def test_a_file_that_is_altered_alone_is_refused(certificate, name):
    folder = certificate()
    (folder / name).write_text((folder / name).read_text() + "\n")
    code, said = check(folder)
    assert code == 1
    assert f"Refused: {name} is not" in said


@needs_coq
def test_a_file_that_is_added_or_missing_is_refused(certificate):
    folder = certificate()
    (folder / "library" / "Points.vo").write_text("")
    assert "library/Points.vo is no file of a certificate" in check(folder)[1]
    (folder / "library" / "Points.vo").unlink()
    (folder / "library" / "Local.v").unlink()
    assert "library/Local.v is not CryoPrism's" in check(folder)[1]


@needs_coq
def test_a_library_of_ones_own_is_refused_though_signed(certificate):
    folder = certificate()
    alter(folder / "library" / "Copies.v", "else 2200)", "else 20)")
    sign_again(folder)
    code, said = check(folder)
    assert code == 1
    assert "library/Copies.v is not CryoPrism's" in said


@needs_coq
def test_a_list_of_failures_that_is_altered_is_refused_though_signed(certificate, quick):
    folder = certificate("all")
    file = folder / "model" / "Local_rules.v"
    start = file.read_text().index("Module Chirality.")
    listed = re.compile(r"Definition found : list Z := \[([^\]]+)\]").search(file.read_text(), start).group(0)
    alter(file, listed, "Definition found : list Z := []")
    sign_again(folder)
    code, said = quick(folder)
    assert code == 1
    assert "Coq does not accept model/Local_rules.v" in said


@needs_coq
def test_a_weaker_statement_is_refused_though_coq_accepts_it(certificate, quick):
    folder = certificate()
    # Only what is nearer than the limit less 0.05 Å is a clash: true, and less than the rule says.
    alter(folder / "model" / "Clashes.v", "clashing 0%uint63", f"clashing {2**63 - 50}%uint63", 2)
    sign_again(folder)
    code, said = quick(folder)
    assert code == 1
    assert "Refused: a theorem does not state what its rule says." in said


@needs_coq
def test_what_is_taken_for_granted_is_refused_at_every_door(certificate, quick):
    folder = certificate()
    proof = folder / "model" / "Clashes.v"
    granted = re.sub(
        r"Theorem clashes :(.*?)\.\nProof\..*?Qed\.\n",
        r"Axiom granted :\1.\nTheorem clashes :\1.\nProof. apply granted. Qed.\n",
        proof.read_text(),
        flags=re.S,
    )
    proof.write_text(granted)
    sign_again(folder)
    code, said = quick(folder)
    assert (code, "Clashes.v takes something for granted or commands Coq: Axiom" in said) == (1, True)
    door = "refuse \"$file takes something for granted or commands Coq: $(tr '\\n' ' ' <others)\""
    code, said = quick(folder, leave_out=door)
    assert code == 1
    assert "Refused: theorems take for granted: Clashes.Clashes.granted" in said


@pytest.mark.parametrize(
    "words", ["Admitted.", "Unset Guard Checking.", 'Redirect "x" Check 1.', "#[bypass_check(guard)]", "Load x."]
)
@needs_coq
def test_commands_to_coq_are_refused(certificate, words):
    folder = certificate()
    alter(folder / "model" / "Clashes.v", "Qed.", f"Qed. {words}")
    sign_again(folder)
    code, said = check(folder)
    assert code == 1
    assert "takes something for granted or commands Coq" in said


@needs_coq
@pytest.mark.parametrize("name", ["model/foo.vo", "model/foo.v", "model/.foo.v", "library/foo.vo", "model/Data.vo"])
def test_a_compiled_file_that_is_planted_is_refused_though_signed(certificate, name):
    """Coq trusts a .vo: one with a byte altered proves what is false, and Print Assumptions shows nothing."""
    folder = certificate()
    (folder / name).write_text("")
    content = grounds(folder)
    content["files"][name] = sha256("")
    write_grounds(folder, content)
    code, said = check(folder)
    assert (code, f"Refused: {name} is no file of a certificate." in said) == (1, True)


@needs_coq
@pytest.mark.parametrize("name", ["model/Clashes.v", "model", "library", "atoms.csv", "library/Points.v"])
def test_links_are_refused(certificate, name):
    folder = certificate()
    moved_to = folder.parent / "elsewhere"
    (folder / name).rename(moved_to)
    (folder / name).symlink_to(moved_to)
    code, said = check(folder)
    assert (code, f"Refused: {name} is missing, or no plain" in said) == (1, True)


@needs_coq
@pytest.mark.parametrize("line", ["From Model Require Import foo.", "Require foo.", "Import foo.", 'Require "foo".'])
def test_other_modules_are_not_required(certificate, line):
    folder = certificate()
    alter(folder / "model" / "Clashes.v", "\nModule Clashes.\n", f"\n{line}\nModule Clashes.\n")
    sign_again(folder)
    code, said = check(folder)
    assert (code, "takes something for granted or commands Coq:" in said) == (1, True)
    alter(folder / "model" / "Clashes.v", f"\n{line}\n", "\n")
    alter(folder / "model" / "Clashes.v", "Require Import Data.", "Require Import Data foo.")
    sign_again(folder)
    code, said = check(folder)
    assert (code, "model/Clashes.v does not begin as files of a rule do" in said) == (1, True)


@needs_coq
def test_of_the_folder_python_runs_no_more_than_what_is_known(certificate):
    folder = certificate()
    mark = folder.parent / "mark"
    for name in ("csv", "io", "json", "re", "hashlib"):
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    (folder.parents[1] / "model.pdb").write_text(pdb({"A": helix(4)}))
    python = [sys.executable, "check_data.py", str(folder.parents[1] / "model.pdb")]
    subprocess.run(python, cwd=folder, check=True, capture_output=True)
    for name in ("csv", "hashlib", "io", "json", "re"):
        code, said = check(folder)
        assert (code, f"Refused: {name}.py is no file of a certificate." in said) == (1, True)
        (folder / f"{name}.py").unlink()
    alter(folder / "check_data.py", "import os\n", f"import os\nopen({str(mark)!r}, 'w').close()\n")
    sign_again(folder)
    code, said = check(folder)
    assert (code, "Refused: check_data.py is not CryoPrism's." in said) == (1, True)
    assert not mark.exists()
