"""The compiled library of Coq: kept for the next run, and taken from no one else."""

import shutil

import pytest
from certificates import checked
from small_models import helix, pdb

from cryoprism.evaluation.consistency import CoqRun
from cryoprism.evaluation.consistency._coq import LIBRARY, coq_version, library_folder, library_sources
from programs import needs_coq


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
