"""An answer about a record that nothing ties to the model does not enter V; what ties it does."""

import json
import shutil
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from cryoprism.cli import main
from cryoprism.evaluation.evidence import available, not_available, not_tied
from cryoprism.evaluation.fusion import fuse, read_assessment
from cryoprism.formats import write_mrc
from cryoprism.workflow import AssessConfig, SimulateConfig, assess_session, open_job
from cryoprism.workflow.judgement.assess_questions import Part
from cryoprism.workflow.judgement.whose_record import only_of_this_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation" / "novelty"))
from made_shapes import helix, write_pdb

SCHEMA = json.loads(
    (Path(__file__).resolve().parents[2] / "src/cryoprism/workflow/schemas/assessment.schema.json").read_text("utf-8")
)
SIDE, VOXEL = 48, 1.5


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "helix.pdb"
    write_pdb(path, helix(12))
    return path


def density(path, rows):
    """A map with a blob at every atom, in the frame of the model."""
    grid = (np.arange(SIDE) - SIDE // 2) * VOXEL
    data = np.zeros((SIDE, SIDE, SIDE), dtype=np.float32)
    for x, y, z in rows:
        along = [np.exp(-0.5 * ((grid - c) / 2.0) ** 2) for c in (z, y, x)]
        data += np.einsum("i,j,k->ijk", *along).astype(np.float32)
    write_mrc(path, data, pixel_size_in_angstroms=VOXEL, origin_in_angstroms=(grid[0],) * 3, volume=True)


def atoms(model):
    lines = [line for line in model.read_text().splitlines() if line.startswith("ATOM")]
    return np.array([[float(line[a : a + 8]) for a in (30, 38, 46)] for line in lines])


@pytest.fixture
def record(tmp_path, model):
    """A job that wrote a map in which the model lies."""
    folder = tmp_path / "Refine" / "job001"
    with open_job("Refine", SimulateConfig(output=folder, seed=2)) as job:
        density(job.path / "map.mrc", atoms(model))
    return folder


def assessed(tmp_path, name, **given):
    assess_session(AssessConfig(rerun=False, output=tmp_path / name, **given))
    content = json.loads((tmp_path / name / "assessment.json").read_text())
    jsonschema.validate(content, SCHEMA, cls=jsonschema.Draft202012Validator)
    return content


def test_a_foreign_record_counts_as_missing_and_is_shown_with_its_value(tmp_path, model, record):
    alone = assessed(tmp_path, "alone", model_file=model)
    foreign = assessed(tmp_path, "foreign", model_file=model, record=record)
    part = foreign["reproducibility"]
    assert part["status"] == "not tied to the model"
    assert part["value"] > 0
    assert "reproducibility" in foreign["missing"]
    assert foreign["contributions"]["reproducibility"] is None
    assert foreign["v"] == alone["v"]
    assert foreign["v_range"] == alone["v_range"]
    assert "the record does not count" in foreign["verdict"]
    assert any("counts as missing" in text for text in foreign["sentences"])
    page = (tmp_path / "foreign/report.html").read_text()
    assert "not tied to the model" in page
    assert f"{part['value']:.3f} ±" in page
    assert read_assessment(tmp_path / "foreign/assessment.json").values["reproducibility"] is None


def test_the_command_says_that_it_does_not_count(tmp_path, model, record, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["assess", str(model), "--record", str(record), "--no-rerun", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "Not tied to the model: reproducibility." in said
    assert "Not available: reproducibility" not in said


@pytest.mark.parametrize("copied", [False, True])
def test_a_model_in_the_records_own_map_is_tied(tmp_path, model, record, copied):
    given = record / "map.mrc"
    if copied:  # under another name elsewhere it is the same map
        given = Path(shutil.copy(given, tmp_path / "mine.mrc"))
    content = assessed(tmp_path, "own", model_file=model, map_file=given, record=record)
    assert content["reproducibility"]["status"] == "available"
    assert content["contributions"]["reproducibility"] > 0
    assert "does not count" not in content["verdict"]


def test_a_model_outside_the_records_own_map_is_not_tied(tmp_path, model, record):
    moved = tmp_path / "moved.pdb"
    rows = []
    for line in model.read_text().splitlines():
        if line.startswith("ATOM"):
            line = f"{line[:30]}{float(line[30:38]) + 25:8.3f}{line[38:]}"
        rows.append(line)
    moved.write_text("\n".join(rows) + "\n")
    content = assessed(tmp_path, "moved", model_file=moved, map_file=record / "map.mrc", record=record)
    assert content["reproducibility"]["status"] == "not tied to the model"
    assert "residues lie in it" in content["reproducibility"]["sentences"][0]


def test_a_map_of_the_same_size_that_is_another_does_not_tie(tmp_path, model, record):
    density(tmp_path / "other.mrc", atoms(model) + 1.0)
    assert (tmp_path / "other.mrc").stat().st_size == (record / "map.mrc").stat().st_size
    content = assessed(tmp_path, "other", model_file=model, map_file=tmp_path / "other.mrc", record=record)
    assert content["reproducibility"]["status"] == "not tied to the model"


def test_a_model_that_a_job_of_the_record_wrote_is_tied(tmp_path, model, record):
    shutil.copy(model, record / "fitted.pdb")
    content = assessed(tmp_path, "wrote", model_file=model, record=record)
    assert content["reproducibility"]["status"] == "available"


def test_an_answer_that_is_not_tied_is_a_missing_one_to_the_score():
    logic, repro = available(0.8, 0.05, ["a"]), available(0.9, 0.02, ["b"])
    loose = not_tied(repro, "Why.", "How.")
    without = fuse({"logic": logic})
    foreign = fuse({"logic": logic, "reproducibility": loose})
    own = fuse({"logic": logic, "reproducibility": repro})
    assert foreign.v == without.v
    assert foreign.v_range == without.v_range
    low, high = own.v_range
    assert foreign.v_range[1] - foreign.v_range[0] > high - low
    assert own.v.value != without.v.value
    assert "reproducibility" not in foreign.drawn_means


def test_what_has_no_answer_stays_so_and_other_questions_are_left_alone():
    told = available(0.5, 0.1, ["told"]).to_json()
    gone = not_available("Why.", "How.").to_json()
    names = ("logic", "novelty", "impact", "reproducibility", "meta")
    parts = {name: Part(gone if name == "meta" else told) for name in names}
    found = only_of_this_model(parts, "Nothing shows it.")
    changed = [name for name in names if found[name] != parts[name]]
    assert changed == ["reproducibility"]
    assert only_of_this_model(parts, None) == parts
