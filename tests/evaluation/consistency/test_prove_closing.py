"""What ``cryoprism prove`` says at its end."""

import json
import re

import pytest
from small_models import helix, pdb

from cryoprism.cli import main


def test_prove_prints_the_score_with_its_deviation(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cryoprism.evaluation.consistency._coq.shutil.which", lambda name: None)
    path = tmp_path / "model.pdb"
    path.write_text(pdb({"A": helix(4)}))
    with pytest.raises(SystemExit):
        main(["prove", str(path), "--out", str(tmp_path / "job")])
    stated = json.loads((tmp_path / "job" / "consistency.json").read_text())["logic_score"]
    said = re.search(r"LogicScore: ([\d.]+) of 1, standard deviation ([\d.]+)", capsys.readouterr().out)
    assert float(said[1]) == pytest.approx(stated["value"], abs=1e-4)
    assert float(said[2]) == pytest.approx(stated["standard_deviation"], abs=1e-4) != 0
    # A job that is done already says the same.
    with pytest.raises(SystemExit):
        main(["prove", str(path), "--out", str(tmp_path / "job"), "--only-do-unfinished"])
    assert said[0] in capsys.readouterr().out
