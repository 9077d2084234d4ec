"""Atoms that proofs are about are those of the model: whatever is altered is refused."""

import re
import subprocess
import sys

import pytest
from certificates import alter, check, checked, grounds, settle, sign_again, write_grounds
from small_models import helix, pdb

from cryoprism.evaluation.consistency._coq import run_coq
from programs import needs_coq


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
