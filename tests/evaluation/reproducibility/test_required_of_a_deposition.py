"""What the archives require counts, what they only ask for does not, and the words say which."""

import hashlib
import json
import platform

import numpy as np
import pytest
import torch

from cryoprism import __version__
from cryoprism.evaluation.evidence import not_available
from cryoprism.evaluation.reproducibility import (
    DETAILS,
    chain_of,
    check_completeness,
    completeness,
    judge_reproducibility,
    read_record,
)
from cryoprism.formats import write_stack
from cryoprism.workflow.judgement.assess_words import QUESTIONS, verdict

#: By EMDB's schema of an entry, its deposition guide, and EMPIAR's schema of a deposition.
BY_HAND = {
    "em_image_recording.film_or_detector_model": "GATAN K2 SUMMIT (4k x 4k)",
    "em_imaging.microscope_model": "FEI TITAN KRIOS",
    "em_vitrification.cryogen_name": "ETHANE",
    "em_entity_assembly.name": "apoferritin",
    "em_imaging.electron_source": "FIELD EMISSION GUN",
    "em_imaging.illumination_mode": "FLOOD BEAM",
    "em_imaging.mode": "BRIGHT FIELD",
    "em_imaging.accelerating_voltage": 300,
    "em_buffer.pH": 7.5,
    "em_map.contour_level": 0.02,
    "image of the map": "map.png",
    "em_map.pixel_spacing_x": 1.5,
    "em_single_particle_entity.point_symmetry": "O",
}


def job(project, name, kind, inputs, outputs=()):
    """A finished job that read files and wrote some."""
    folder = project / name
    folder.mkdir(parents=True)
    for output in outputs:
        (folder / output).write_text(output)
    entries = []
    for path in inputs:
        content = (project / path).read_bytes()
        entries.append({"path": path, "bytes": len(content), "changed_ns": 0,
                        "sha256_of_ends": hashlib.sha256(content).hexdigest()})  # fmt: skip
    record = {
        "schema": "cryoprism-job-1", "kind": kind, "command": ["cryoprism"], "config_hash": "0", "seed": 0,
        "config": {"output": name, "seed": 0, "particles_file": inputs[0]}, "status": "success", "inputs": entries,
        "versions": {"cryoprism": __version__, "python": platform.python_version(), "numpy": np.__version__},
        "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:00:20+00:00",
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def project(tmp_path):
    """A micrograph, particles of it, and a map of these."""
    (tmp_path / "raw").mkdir()
    write_stack(tmp_path / "raw/a.mrc", torch.zeros(1, 8, 8), 1.5)
    job(tmp_path, "Extract", "Extract", ["raw/a.mrc"], ["particles.star"])
    job(tmp_path, "Refine", "Refine", ["Extract/particles.star"], ["map.mrc", "half1.mrc", "half2.mrc"])
    return tmp_path


def judged(project, name="Refine"):
    return judge_reproducibility(project / name, rerun=False)


def test_a_record_with_all_that_is_required_is_complete_without_the_rest(project):
    before = judged(project)
    assert before.repeatable_elsewhere
    assert not before.depositable
    (project / "Refine" / DETAILS).write_text(json.dumps(BY_HAND))
    after = judged(project)
    assert after.depositable
    assert {item.needed for item in after.missing()} == {False}  # grid, exposure, defocus … are only asked for
    assert len(after.missing()) > 5
    assert after.answer().value == 1.0 > before.answer().value
    assert "so is what EMDB and EMPIAR require" in after.verdict()


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_each_required_field_counts_alone(project, name):
    told = {key: value for key, value in BY_HAND.items() if key != name}
    (project / "Refine" / DETAILS).write_text(json.dumps(told))
    (lacking,) = (item for item in judged(project).missing() if item.needed)
    assert f"({name})" in lacking.name
    assert judged(project).answer().value == pytest.approx(0.75 + 0.25 * 17 / 18)


def test_what_is_only_asked_for_moves_nothing(project):
    (project / "Refine" / DETAILS).write_text(json.dumps({"em_sample_support.grid_type": "QUANTIFOIL", "mask": "m"}))
    with_them = judged(project)
    (project / "Refine" / DETAILS).unlink()
    assert with_them.answer().value == judged(project).answer().value
    assert with_them.answer().deviation == judged(project).answer().deviation


def test_a_map_is_required_only_of_work_that_made_one(project):
    def needed(name):
        items = check_completeness(chain_of(read_record(project / name)))
        return {item.name for item in items if item.needed}, completeness(items)[0]

    extracted, share = needed("Extract")
    refined, _ = needed("Refine")
    assert refined - extracted >= {"the map (primary map)", "both unfiltered half maps (half maps)"}
    told = {key: value for key, value in BY_HAND.items() if "map" not in key and "symmetry" not in key}
    (project / "Extract" / DETAILS).write_text(json.dumps(told))
    assert needed("Extract")[1] == 1.0 > share
    (project / "Refine" / "map.mrc").unlink()  # a map that was made and lost is missing
    assert "the map (primary map)" in {item.name for item in judged(project).missing() if item.needed}


def said(answer):
    """The verdict where nothing else has an answer."""
    others = {name: not_available("none", "none") for name in QUESTIONS}
    return verdict(others | {"reproducibility": answer}).lower()


def test_words_and_value_say_the_same(project):
    found = judged(project)
    answer = found.answer()
    assert "to repeat the computation" in answer.sentences[0]
    assert "Not yet the experiment: a deposition lacks" in answer.sentences[0]
    required = [item for item in found.items if item.group == "deposition" and item.needed]
    asked = [item for item in found.items if not item.needed]
    assert (
        f"{sum(one.there for one in required)} of {len(required)} that EMDB and EMPIAR require of a deposition"
        in answer.sentences[1]
    )
    assert f"{sum(one.there for one in asked)} of {len(asked)}) does not count" in answer.sentences[1]
    assert "another laboratory that is given the images could repeat" in said(answer)
    (project / "Refine" / DETAILS).write_text(json.dumps(BY_HAND))
    whole = judged(project).answer()
    assert "another laboratory could repeat" in said(whole)
    (project / "raw/a.mrc").unlink()  # EMPIAR's items go with it, and so does the computation
    lost = judged(project).answer()
    assert "could not repeat" in lost.sentences[0]
    assert lost.value <= 0.5
