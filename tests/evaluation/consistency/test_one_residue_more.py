"""One residue is said to be one."""

import pytest
from small_models import helix, pdb

from cryoprism.evaluation.consistency import check_consistency
from cryoprism.evaluation.consistency._coq import CoqRun, Prover


@pytest.mark.parametrize(("declared", "said"), [(5, "1 residue more than"), (6, "2 residues more than")])
def test_residues_that_the_sequence_has_more_are_counted_in_grammar(tmp_path, monkeypatch, declared, said):
    monkeypatch.setattr("cryoprism.evaluation.consistency.check.coq_version", lambda: "0")
    monkeypatch.setattr("cryoprism.evaluation.consistency.check.library_folder", lambda *_: tmp_path)
    head = f"SEQRES   1 A {declared:4d} " + " ALA" * declared
    (tmp_path / "model.pdb").write_text(pdb({"A": helix(4)}, head=head))
    result = check_consistency(tmp_path / "model.pdb", coq=Prover(lambda *_: CoqRun("", "", 0.0, 0), "no wall"))
    told = next(rule for rule in result.rules if rule.name == "completeness")
    assert said in told.why_unknown
