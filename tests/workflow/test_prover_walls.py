"""Coq behind the sandbox's walls: the same verdicts, nothing written outside, limits, and what is said without them."""

import json
import sys
from pathlib import Path

import pytest

from cryoprism.evaluation.consistency import PLAIN, Limits, check_consistency
from cryoprism.evaluation.consistency._coq import coq_version, library_folder
from cryoprism.evaluation.sandbox import Limits as SandboxLimits
from cryoprism.evaluation.sandbox import execute
from cryoprism.workflow import walled_prover
from programs import needs_coq, require_walls

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation" / "consistency"))
from small_models import helix, moved, pdb


@pytest.fixture
def walled():
    require_walls()
    prover = walled_prover()
    assert prover.words == "Coq ran in a bubblewrap sandbox."
    return prover


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return library_folder(coq_version(), tmp_path_factory.mktemp("library"))


@needs_coq
def test_verdicts_behind_walls_are_the_same(tmp_path, walled):
    path = tmp_path / "model.pdb"
    path.write_text(pdb({"A": moved(helix(6), 2, "CB", [50, 50, 50])}))
    plain, result = check_consistency(path), check_consistency(path, coq=walled)
    assert result.verdict == "refuted"
    assert result.rules == plain.rules
    assert result.cpu_seconds > 0.3
    assert result.memory_in_bytes == pytest.approx(plain.memory_in_bytes, rel=0.2)
    transcript = (result.write_certificate(tmp_path / "c") / "transcript.txt").read_text()
    assert "Coq ran in a bubblewrap sandbox." in transcript
    assert result.to_json()["sandbox"] == walled.words


@needs_coq
def test_a_file_that_commands_coq_writes_nothing_outside(tmp_path, walled, library):
    tmp_path.chmod(0o777)
    file, aim = tmp_path / "Data.v", tmp_path / "stolen"
    file.write_text(f'Redirect "{aim}" Check 1.\n')
    assert PLAIN.run(file, library, 30, 2 << 30).reason == ""
    written = list(tmp_path.glob("stolen*"))
    assert written  # a child of ours writes where it wants
    for path in written:
        path.unlink()
    assert walled.run(file, library, 30, 2 << 30).reason.startswith("not accepted by Coq")
    assert not list(tmp_path.glob("stolen*"))


@needs_coq
def test_limits_hold_behind_walls(tmp_path, walled, library):
    slow = tmp_path / "Slow.v"
    slow.write_text("From Coq Require Import ZArith.\nEval vm_compute in (Z.to_nat (2 ^ 30)).\n")
    assert walled.run(slow, library, 60, 700_000_000).reason.startswith("memory limit reached")
    assert walled.run(slow, library, 60, 50_000_000).reason == "memory limit reached"
    endless = tmp_path / "Endless.v"
    endless.write_text("Goal True. do 1000000000 (try (exfalso; fail)). Abort.\n")
    assert walled.run(endless, library, 1, 2 << 30).reason == "time limit reached"
    path = tmp_path / "model.pdb"
    path.write_text(pdb({"A": helix(4)}))
    result = check_consistency(path, coq=walled, limits=Limits(memory_in_bytes=50_000_000))
    assert result.count("proved") == 0
    assert any("memory limit of 0.05 GB reached; raise --max-memory" in rule.why_unknown for rule in result.rules)


@needs_coq
def test_without_bubblewrap_coq_is_a_child_and_the_certificate_says_so(tmp_path, monkeypatch):
    from cryoprism.evaluation.sandbox import bubblewrap

    bubblewrap._walls.cache_clear()
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        (tmp_path / "coqc").write_text("#!/bin/sh\n")
        (tmp_path / "coqc").chmod(0o755)
        prover = walled_prover()
    bubblewrap._walls.cache_clear()
    assert prover.run is PLAIN.run
    assert prover.words.startswith("Coq ran with limits of time and memory, without a sandbox (")
    assert "is not installed" in prover.words


@needs_coq
def test_a_coq_that_does_not_run_inside_is_a_child(tmp_path, monkeypatch):
    require_walls()
    program = tmp_path / "bin" / "coqc"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'no plug-ins here' >&2\nexit 1\n")
    for path in (tmp_path, program.parent, program):
        path.chmod(0o755)
    monkeypatch.setattr("cryoprism.workflow.judgement.prover_walls.shutil.which", lambda name: str(program))
    prover = walled_prover()
    assert prover.run is PLAIN.run
    assert "coqc does not run inside" in prover.words


@needs_coq
def test_prove_runs_inside_the_sandbox_and_says_that_it_has_no_walls_of_its_own(tmp_path):
    require_walls()
    (tmp_path / "model.pdb").write_text(pdb({"A": helix(4)}))
    for path in (tmp_path, tmp_path / "model.pdb"):
        path.chmod(0o755)
    code = "from cryoprism.cli import main; main()"
    ended = execute(
        [sys.executable, "-c", code, "prove", str(tmp_path / "model.pdb"), "--out", "run"],
        inputs=[tmp_path / "model.pdb"],
        output=tmp_path / "out",
        limits=SandboxLimits(cpu_seconds=200, wall_seconds=400),
    )
    said = (ended.printed + ended.errors).decode()
    assert ended.exit_code in {0, 3}, said
    result = json.loads((tmp_path / "out/run/consistency.json").read_text())
    assert result["counts"]["proved"] > 0
    assert result["sandbox"].startswith("Coq ran with limits of time and memory, without a sandbox (")
