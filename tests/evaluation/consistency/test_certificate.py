"""A certificate says what consistency.json says: whatever is altered, on either side, check.sh refuses it."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import gemmi
import numpy as np
import pytest
import torch
from small_models import helix, moved, pdb

from cryoprism.evaluation.consistency import PLAIN, RULES, CoqRun, Prover, check_consistency
from cryoprism.evaluation.consistency._certificate import sha256
from cryoprism.evaluation.consistency._coq import LIBRARY, coq_version, library_folder, library_sources, run_coq
from cryoprism.evaluation.consistency._emit import fitting
from cryoprism.formats import Volume
from programs import needs_coq


def checked(path, text, **options):
    path.write_text(text)
    return check_consistency(path, **options)


def check(folder, name="check.sh"):
    done = subprocess.run(["sh", name], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def compiled_library(tmp_path_factory):
    return library_folder(coq_version(), tmp_path_factory.mktemp("library"))


@pytest.fixture
def quick(compiled_library):
    """check.sh but for the library, which is taken compiled, and for what a test leaves out."""

    def run(folder, leave_out=""):
        text = (folder / "check.sh").read_text()
        first, rest = text.split("for file in $library; do\n  echo", 1)
        text = f'{first}cp {compiled_library}/*.vo .\ncd "$work/model"' + rest.split('cd "$work/model"', 1)[1]
        assert leave_out in text
        (folder / "quick.sh").write_text(text.replace(leave_out, "true") if leave_out else text)
        return check(folder, "quick.sh")

    return run


def every_rule(tmp_path, digits=3):
    """A model with obligations of every rule, refuted ones of most, in a point group and a map."""
    rows = helix(10)
    ca = {k: p for k, n, p in rows if n == "CA"}
    rows = moved(rows, 2, "CB", ca[7] + np.array([0.7, 0.7, 0.7]))
    rows = [(k, n, p - np.mean([p for _, _, p in rows], axis=0) + np.array([2.0, 0, 0])) for k, n, p in rows]
    mirrored = [(k, n, p * np.array([1, 1, -1]) + np.array([40, 0, 0])) for k, n, p in helix(6, cis_after=3)]
    mirrored = [row for row in mirrored if row[:2] != (5, "O")]
    hetero = "\n".join(
        f"HETATM  900 ZN    ZN {chain} 900    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00          ZN"
        for chain, (x, y, z) in (("L", (0, 0, 9)), ("M", (80, 80, 80)))
    )
    sequence = "SEQRES   1 B    6  ALA ALA ALA GLY ALA ALA"
    text = pdb({"A": rows, "B": mirrored}, extra=hetero, head=sequence)
    path = tmp_path / "model.pdb"
    path.write_text(text)
    if digits > 3:
        structure = gemmi.read_structure(str(path))
        structure.setup_entities()
        document = structure.make_mmcif_document()
        table = document.sole_block().find("_atom_site.", ["Cartn_x", "Cartn_y", "Cartn_z"])
        for row in table:
            for k in range(3):
                row[k] = f"{float(row[k]) + 0.0004:.4f}"
        path = tmp_path / "model.cif"
        document.write_file(str(path))
    grid = np.zeros((60, 60, 60), np.float32)
    grid[10:50, 10:50, 10:50] = 1
    volume = Volume(torch.from_numpy(grid), 1.0, (-30.0, -30.0, -30.0))
    return check_consistency(path, volume=volume, contour=0.5, symmetry="C2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Certificates by name, written once: of a clean helix, and of a model that every rule is about."""
    place = tmp_path_factory.mktemp("certificates")
    clean = checked(place / "clean.pdb", pdb({"A": helix(4)}))
    return {
        "clean": clean.write_certificate(place / "clean"),
        "all": every_rule(place).write_certificate(place / "all"),
    }


@pytest.fixture
def certificate(folders, tmp_path):
    def copy(name="clean"):
        return shutil.copytree(folders[name], tmp_path / "job" / "certificate")

    return copy


def sign_again(folder):
    """Write the checksums of the altered files into consistency.json, as who alters both sides would."""
    path = folder / "consistency.json"
    content = json.loads(path.read_text())
    content["files"] = {name: sha256((folder / name).read_text()) for name in content["files"]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def alter(file, old, new, count=1):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, count))


def alter_rule(folder, name, **changes):
    """Alter counts of a rule and all that follows from them."""
    path = folder / "consistency.json"
    content = json.loads(path.read_text())
    rule = next(rule for rule in content["rules"] if rule["name"] == name)
    rule.update({key: rule[key] + by for key, by in changes.items()})
    for key, by in changes.items():
        content["counts"][key] += by
    settle(content)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def settle(content):
    counts, rules = content["counts"], content["rules"]
    content["verdict"] = "refuted" if counts["refuted"] else "unknown" if counts["unknown"] else "proved"
    content["logic_score"]["value"] = sum(rule["weight"] * rule["proved"] for rule in rules) / sum(
        rule["weight"] * rule["obligations"] for rule in rules
    )


@needs_coq
@pytest.mark.slow
def test_one_command_checks_everything_in_a_fresh_folder(certificate):
    folder = certificate()
    code, said = check(folder)
    assert code == 0, said
    assert "All theorems were accepted; consistency.json says what they say: 58 obligations, 58 proved, 0" in said
    assert (folder / "library" / "Claims.v").is_file()


@needs_coq
@pytest.mark.parametrize("digits", [3, 4])
def test_counts_and_atoms_of_every_rule_are_those_of_the_theorems(tmp_path, quick, digits):
    result = every_rule(tmp_path, digits)
    assert {rule.name for rule in result.rules} == set(RULES)
    assert result.model.exact == (digits == 3)
    assert {rule.name for rule in result.rules if rule.refuted} >= set(RULES) - {"chains"}
    code, said = quick(result.write_certificate(tmp_path / "certificate"))
    assert code == 0, said
    assert f"{result.count('obligations')} obligations, {result.count('proved')} proved" in said


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
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("chirality", {"refuted": -1, "proved": 1}),
        ("clashes", {"refuted": -1, "proved": 1}),
        ("bonds", {"obligations": 1, "proved": 1}),
        ("envelope", {"unknown": 1, "proved": -1}),
        ("ligands", {"obligations": 1, "unknown": 1}),
        ("numbering", {"refuted": 1, "proved": -1}),
        ("copies", {"obligations": 2, "proved": 2}),
    ],
)
def test_counts_that_are_altered_are_refused(certificate, quick, name, changes):
    folder = certificate("all")
    alter_rule(folder, name, **changes)
    code, said = quick(folder)
    assert code == 1
    assert "Refused: the theorems do not have the counts or the atoms of consistency.json." in said


@needs_coq
def test_atoms_that_are_altered_are_refused(certificate, quick):
    folder = certificate("all")
    path = folder / "consistency.json"
    content = json.loads(path.read_text())
    next(rule for rule in content["rules"] if rule["name"] == "clashes")["offenders"][0]["atoms"][0] += 1
    path.write_text(json.dumps(content, indent=1))
    assert "do not have the counts or the atoms" in quick(folder)[1]


@needs_coq
def test_a_rule_that_is_kept_silent_is_refused(certificate, quick):
    folder = certificate("all")
    path = folder / "consistency.json"
    content = json.loads(path.read_text())
    dropped = next(rule for rule in content["rules"] if rule["name"] == "chirality")
    content["rules"].remove(dropped)
    for key in content["counts"]:
        content["counts"][key] -= dropped[key]
    settle(content)
    path.write_text(json.dumps(content, indent=1))
    code, said = quick(folder)
    assert (code, "wrong rules: nothing is said about chirality" in said) == (1, True)
    content["not_asked"]["chirality"] = "No residue has a centre whose hand its name tells."
    path.write_text(json.dumps(content, indent=1))
    code, said = quick(folder)
    assert code == 1
    assert "Local_rules.v proves something about Chirality, of which consistency.json says nothing" in said


@needs_coq
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(verdict="refuted"), "wrong verdict"),
        (lambda c: c["logic_score"].update(value=0.9), "wrong logic_score"),
        (lambda c: c["counts"].update(proved=46, refuted=1), "wrong counts: their sums differ"),
        (lambda c: c["rules"][0].update(proved=3), "wrong counts of clashes"),
        (lambda c: c["rules"].append(c["rules"][0]), "wrong rule clashes"),
        (lambda c: c["rules"][0].update(weight=0.001), "wrong weight of clashes"),
        (lambda c: c["not_asked"].update(clashes="None."), "wrong rule clashes"),
        (lambda c: c["not_asked"].update(shape="None."), "wrong rule shape: there is none of that name"),
        (lambda c: c["not_asked"].pop("envelope"), "wrong rules: nothing is said about envelope"),
        (lambda c: c.update(rules=[]), "wrong form: line "),
    ],
)
def test_a_consistency_json_at_odds_with_itself_is_refused(certificate, change, words):
    folder = certificate()
    path = folder / "consistency.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=1))
    code, said = check(folder)
    assert code == 1
    assert words in said


@needs_coq
def test_the_copy_beside_the_folder_has_to_say_the_same(certificate):
    folder = certificate()
    shutil.copy(folder / "consistency.json", folder.parent)
    alter_rule(folder, "clashes", unknown=1, proved=-1)
    assert "here and beside this folder do not say the same" in check(folder)[1]
    (folder / "consistency.json").unlink()
    assert "consistency.json is missing" in check(folder)[1]


@needs_coq
def test_what_has_no_verdict_is_said_and_cannot_be_claimed(tmp_path, quick):
    def run(file, library, cpu_seconds, memory_in_bytes):
        if file.name == "Clashes.v":
            return CoqRun("time limit reached", "", 1.0, 0)
        return PLAIN.run(file, library, cpu_seconds, memory_in_bytes)

    result = checked(tmp_path / "model.pdb", pdb({"A": helix(4)}), coq=Prover(run, "For a test."))
    assert result.count("unknown") == 4
    folder = result.write_certificate(tmp_path / "certificate")
    code, said = quick(folder)
    assert code == 0, said
    assert "Without a verdict then, and so not checked: clashes." in said
    assert "Not asked, by the word of consistency.json: copies envelope ligands." in said
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
def test_tampered_data_fail(certificate, compiled_library):
    folder = certificate()
    python = [sys.executable, "check_data.py", str(folder.parents[1] / "model.pdb")]
    (folder.parents[1] / "model.pdb").write_text(pdb({"A": helix(4)}))
    subprocess.run(python, cwd=folder, check=True, capture_output=True)
    # An atom is moved by 5 Å in the data alone: the comparison with atoms.csv fails, and so does the proof.
    text = (folder / "model" / "Data.v").read_text()
    word = re.search(r"\b\d{15,}\b", text).group(0)
    alter(folder / "model" / "Data.v", word, str(int(word) + (5000 << 42)))
    sign_again(folder)
    code, said = check(folder)
    assert code == 1
    assert "atom 0: Data.v has" in said
    options = ["-Q", str(compiled_library), "CryoPrism", "-Q", ".", "Model"]
    reasons = [
        run_coq(folder / "model" / f"{name}.v", options, cpu_seconds=60, memory_in_bytes=4 << 30).reason
        for name in ("Data", "Local_rules")
    ]
    assert reasons[0] == ""
    assert "not accepted by Coq" in reasons[1]


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


@needs_coq
def test_a_library_without_a_cache_is_gone_after_the_run(tmp_path, monkeypatch):
    blocked, temporary = tmp_path / "blocked", tmp_path / "temporary"
    blocked.write_text("no folder")
    temporary.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    result = checked(tmp_path / "model.pdb", pdb({"A": helix(4)}))
    assert result.verdict == "proved"
    assert list(temporary.iterdir()) == []


@needs_coq
def test_a_library_that_is_not_accepted_leaves_nothing(tmp_path, monkeypatch):
    from cryoprism.core import CryoPrismError

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    broken = dict.fromkeys(library_sources(), "Theorem no : False. Proof. Qed.")
    monkeypatch.setattr("cryoprism.evaluation.consistency._coq.library_sources", lambda: broken)
    with pytest.raises(CryoPrismError, match="does not accept it"):
        library_folder(coq_version(), tmp_path)
    assert list((tmp_path / "cache" / "cryoprism").iterdir()) == []


def test_readme_says_how_coq_ran(tmp_path, monkeypatch):
    monkeypatch.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda name: None)
    result = checked(tmp_path / "model.pdb", pdb({"A": helix(4)}))
    assert "No Coq ran." in (result.write_certificate(tmp_path / "one") / "README.md").read_text()
    other = replace(result, sandbox="Coq ran in a glass house.")
    assert "Coq ran in a glass house." in (other.write_certificate(tmp_path / "two") / "README.md").read_text()


def grounds(folder):
    """consistency.json as a dictionary."""
    return json.loads((folder / "consistency.json").read_text())


def write_grounds(folder, content):
    (folder / "consistency.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


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
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (' "verdict": "proved",\n', ' "verdict": "proved",\n "verdict": "refuted",\n'),
        ('   "why_unknown": "",\n', '   "why_unknown": "", "proved": 9,\n'),
        ('   "why_unknown": "",\n', '   "why_unknown": "",\n   "proved": 9,\n'),
        ("\n ]\n}\n", "\n ]}\n"),
        ("\n}\n", '\n}\n{"verdict": "refuted"}\n'),
        (' "atoms": 20,\n "residues": 4,\n', ' "residues": 4,\n "atoms": 20,\n'),
        (' "verdict": "proved",\n', ' "verdict" : "proved",\n'),
        ('"atoms": 20,', '"atoms": 20 ,'),
        (' "files": {\n', ' "files": {\n  "atoms.csv": "00",\n'),
        ('   "weight": 1.0,\n', '   "weight": 1.00,\n'),
        (' "not_asked": {\n', ' "not_asked": {\n  "copies": "None.",\n'),
    ],
)
def test_a_consistency_json_in_another_form_is_refused(certificate, old, new):
    """Programs take the last of two equal keys, and a reader of lines the first."""
    folder = certificate()
    path = folder / "consistency.json"
    text = path.read_text()
    assert old in text
    start = text.rindex(old)
    path.write_text(text[:start] + new + text[start + len(old) :])
    code, said = check(folder)
    assert (code, "Refused: consistency.json: wrong " in said) == (1, True)


@needs_coq
@pytest.mark.parametrize("rule", ["clashes", "completeness"])
def test_no_model_goes_without_the_rules_that_are_about_every_model(certificate, rule):
    folder = certificate()
    content = grounds(folder)
    dropped = next(one for one in content["rules"] if one["name"] == rule)
    content["rules"].remove(dropped)
    for key in content["counts"]:
        content["counts"][key] -= dropped[key]
    settle(content)
    content["not_asked"][rule] = "There is nothing to ask."
    write_grounds(folder, content)
    code, said = check(folder)
    assert (code, "clashes and completeness are asked of every model" in said) == (1, True)


def test_every_rule_is_asked_or_said_not_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda name: None)
    content = checked(tmp_path / "model.pdb", pdb({"A": helix(4)})).to_json()
    asked = {rule["name"] for rule in content["rules"]}
    assert set(RULES) == asked | set(content["not_asked"])
    assert content["not_asked"]["envelope"] == "No map was given."
    assert not asked & set(content["not_asked"])


@needs_coq
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("decode_all 0%uint63 packed.", "firstn 19 (decode_all 0%uint63 packed) ++ nil."),
        ("decode_all 0%uint63 packed.", "map (fun a => decode 0 0 0) (decode_all 0%uint63 packed)."),
        ("decode_all 0%uint63 packed.", "decode_all 7%uint63 packed."),
        ("packed_0 ++ packed_rest.", "packed_0 ++ tl packed_rest."),
        ("Definition packed :", "Definition packed_rest : list int := nil.\nDefinition packed :"),
        ("Import ListNotations.\n", "Import ListNotations.\nDefinition decode_all (i : int) := decode_all 7%uint63.\n"),
        ("::nil)%uint63.", "::(tl nil))%uint63."),
    ],
)
def test_atoms_that_are_not_what_is_packed_are_refused(certificate, quick, old, new):
    folder = certificate()
    alter(folder / "model" / "Data.v", old, new)
    sign_again(folder)
    code, said = quick(folder)
    assert (code, "Refused: model/Data.v holds something else than packed atoms." in said) == (1, True)


@needs_coq
def test_coq_says_itself_that_atoms_are_what_is_packed(certificate, quick):
    """A second wall: without the grammar of Data.v the statement about atoms refuses it."""
    folder = certificate()
    alter(folder / "model" / "Data.v", "decode_all 0%uint63 packed.", "decode_all 7%uint63 packed.")
    path = folder / "model" / "Local_rules.v"
    path.unlink()
    (folder / "model" / "Clashes.v").unlink()
    content = grounds(folder)
    content["files"] = {name: content["files"][name] for name in content["files"] if (folder / name).exists()}
    for one in [*content["rules"], content["counts"]]:
        one.update(unknown=one["obligations"], proved=0, refuted=0)
    settle(content)
    write_grounds(folder, content)
    alter(folder / "transcript.txt", "== Clashes.v: accepted ==", "")
    alter(folder / "transcript.txt", "== Local_rules.v: accepted ==", "")
    sign_again(folder)
    grammar = 'refuse "model/Data.v holds something else than packed atoms."'
    code, said = quick(folder, leave_out=grammar)
    assert (code, "Refused: a theorem does not state what its rule says." in said) == (1, True)


@needs_coq
def test_of_the_folder_python_runs_no_more_than_what_is_known(certificate):
    folder = certificate()
    mark = folder.parent / "mark"
    for name in ("csv", "io", "json", "re", "hashlib"):
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    (folder.parents[1] / "model.pdb").write_text(pdb({"A": helix(4)}))
    python = [sys.executable, "check_data.py", str(folder.parents[1] / "model.pdb")]
    subprocess.run(python, cwd=folder, check=True, capture_output=True)
    alter(folder / "check_data.py", "import os\n", f"import os\nopen({str(mark)!r}, 'w').close()\n")
    sign_again(folder)
    code, said = check(folder)
    assert (code, "Refused: check_data.py is not CryoPrism's." in said) == (1, True)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("column", "value"),
    [("alternative", "65"), ("occupancy", "500"), ("kind", "3"), ("residue", "GLY"), ("residue_number", "9"),
     ("chain", "B"), ("element", "N"), ("atom", "CD"), ("x", "9"), ("residue_index", "3")],
)  # fmt: skip
def test_what_data_say_of_an_atom_is_compared_with_the_model(tmp_path, monkeypatch, column, value):
    """Data.v and atoms.csv altered alike: an atom whose letter or occupancy is another clashes with nothing."""
    monkeypatch.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda name: None)
    folder = checked(tmp_path / "model.pdb", pdb({"A": helix(4)})).write_certificate(tmp_path / "certificate")
    head, *rows = (row.split(",") for row in (folder / "atoms.csv").read_text().splitlines())
    row = rows[1]
    changed = dict(zip(head, row, strict=True)) | {column: value}
    rows[1] = list(changed.values())
    (folder / "atoms.csv").write_text("\n".join(",".join(one) for one in [head, *rows]) + "\n")
    # The same in Data.v: the second pair of numbers.
    text = (folder / "model" / "Data.v").read_text()
    corner = [int(n) for n in re.search(r"from \(([^)]*)\)", text).group(1).split(",")]
    number = {name: int(changed[name]) for name in ("x", "y", "z", "residue_index", "kind", "alternative", "occupancy")}
    x, y, z = (number[name] - c for name, c in zip("xyz", corner, strict=True))
    more = number["residue_index"] << 32 | number["kind"] << 24 | number["alternative"] << 16 | number["occupancy"]
    pair = list(re.finditer(r"\d+", text[text.index("(Block") :]))[2:4]
    start = text.index("(Block")
    new = f"{(x << 42) | (y << 21) | z} {more}"
    altered = text[: start + pair[0].start()] + new + text[start + pair[1].end() :]
    (folder / "model" / "Data.v").write_text(altered)
    python = [sys.executable, "check_data.py"]
    alone = subprocess.run(python, cwd=folder, capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr
    python.append(str(tmp_path / "model.pdb"))
    done = subprocess.run(python, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "atom 1 (CA): " in done.stderr


def test_data_are_compared_with_the_file_of_the_certificate_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda name: None)
    path = tmp_path / "model.pdb"
    folder = checked(path, pdb({"A": helix(4)})).write_certificate(tmp_path / "certificate")
    path.write_text(path.read_text() + "\n")
    python = [sys.executable, "check_data.py", str(path)]
    done = subprocess.run(python, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not the file of this certificate" in done.stderr


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


@needs_coq
@pytest.mark.parametrize("how", ["altered", "writable", "no sums", "a link"])
def test_a_compiled_library_is_not_taken_from_anyone(tmp_path, monkeypatch, compiled_library, how):
    calls = []

    def compiled(file, options, **limits):
        calls.append(file.name)
        shutil.copy(compiled_library / f"{file.stem}.vo", file.parent)
        return CoqRun("", "", 0.0, 0)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("cryoprism.evaluation.consistency._coq.run_coq", compiled)
    place = library_folder("8", tmp_path)
    assert len(calls) == len(LIBRARY)
    assert library_folder("8", tmp_path) == place
    assert len(calls) == len(LIBRARY)
    if how == "altered":
        content = (place / "Local.vo").read_bytes()
        (place / "Local.vo").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif how == "writable":
        place.chmod(0o777)
    elif how == "no sums":
        (place / "checksums.txt").unlink()
    else:
        place.rename(tmp_path / "other")
        place.symlink_to(tmp_path / "other")
    assert library_folder("8", tmp_path) == place
    assert len(calls) == 2 * len(LIBRARY)
    assert (place / "Local.vo").read_bytes() == (compiled_library / "Local.vo").read_bytes()
    assert not place.is_symlink()
    assert place.stat().st_mode & 0o022 == 0
