"""Novelty in an assessment: of the whole particle, and the lower of the model's and its map's."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cryoprism.evaluation.novelty import Novelty
from cryoprism.formats import Volume
from cryoprism.workflow.judgement import assess_questions
from cryoprism.workflow.judgement.assess_config import AssessConfig


def novelty(value, reason=""):
    """An answer without shapes, or none."""
    return Novelty(None, value, None if value is None else 0.01, None, (), (), 11, True, 0.5, reason=reason)


@pytest.fixture
def asked(monkeypatch):
    """What is asked for, and what is answered for the model and for the map."""
    calls, answers = [], {}

    def novelty_of(path, index, **options):
        calls.append((Path(path).name, options))
        return answers[Path(path).name]

    monkeypatch.setattr(assess_questions, "novelty_of", novelty_of)
    monkeypatch.setattr(assess_questions, "require_faiss", lambda: None)
    return calls, answers


def part(map_file="map.mrc", **changes):
    config = AssessConfig(model_file=Path("model.cif"), map_file=map_file, index=Path("known"), **changes)
    volume = None if map_file is None else Volume(torch.zeros(8, 8, 8), 1.5, (3.0, 0.0, 0.0))
    return assess_questions._novelty(SimpleNamespace(config=config, volume=volume))


@pytest.mark.parametrize(("model", "seen", "lower"), [(0.99, 0.02, "map"), (0.02, 0.99, "model"), (0.9, 0.95, "model")])
def test_the_lower_of_model_and_map_counts_and_both_are_said(model, seen, lower):
    found = assess_questions._less_new(novelty(model), novelty(seen))
    assert found.value == min(model, seen)
    (said,) = found.notes
    assert f"Of the model the novelty is {model:.2f}, of its map {seen:.2f}: that of the {lower} counts." in said
    assert ("They differ in shape" in said) == (abs(model - seen) > 0.5)


def test_a_map_without_a_shape_leaves_the_models():
    found = assess_questions._less_new(novelty(0.7), novelty(None, "map.mrc: nothing stands out."))
    assert found.value == 0.7
    assert found.notes == ("Its map has no shape to compare: map.mrc: nothing stands out.",)


def test_the_map_is_asked_about_only_where_the_model_has_an_answer(asked):
    calls, answers = asked
    answers.update({"model.cif": novelty(None, "model.cif: has 3 atoms."), "map.mrc": novelty(0.5)})
    assert part().content["value"] is None
    assert [name for name, _ in calls] == ["model.cif"]
    answers["model.cif"] = novelty(0.9)
    part(voxel_size_in_angstroms=1.7)
    assert calls[-1] == ("map.mrc", {"voxel_size_in_angstroms": 1.7})


def test_copies_lie_about_the_middle_of_the_map_and_an_assembly_has_its_own(asked):
    calls, answers = asked
    answers.update({"model.cif": novelty(0.7), "map.mrc": novelty(0.8)})
    part(symmetry="O")
    assert calls[0][1]["symmetry"] == "O"
    assert calls[0][1]["centre_in_angstroms"] == (9.0, 6.0, 6.0)  # x, y, z of the central voxel
    assert "symmetry" not in calls[1][1]
    calls.clear()
    part(map_file=None, symmetry="O", assembly="1")
    assert calls[0][1]["symmetry"] is None
    assert calls[0][1]["centre_in_angstroms"] == (0.0, 0.0, 0.0)
