"""Sets whose realism cannot be measured as usual are finished all the same."""

import functools
import json
import sys
from dataclasses import replace

import torch
from synthetic_sets import config_for

from cryoprism.core import InputError
from cryoprism.workflow import synthesize_session
from cryoprism.workflow.synthesis import realism as _realism


def with_masks(monkeypatch, change):
    """Let ``change`` turn the real micrographs into what realism is to be measured with."""
    module = sys.modules["cryoprism.workflow.synthesis.synthesize_session"]
    measure = module.measure_session_realism

    def measured(folder, tasks, match, population, matched, apart, seed):
        return measure(folder, tasks, match, population, change(matched), apart, seed)

    monkeypatch.setattr(module, "measure_session_realism", measured)
    quick = functools.partial(_realism.compare_realism, trainings=1, steps=2)
    monkeypatch.setattr(_realism, "compare_realism", quick)


def crossed(image):
    """Weight of a micrograph with a masked cross: patches of 128 pixels are left, none of 256."""
    weight = torch.ones_like(image)
    weight[190:290] = 0
    weight[:, 180:300] = 0
    return weight


def test_what_shows_no_ordinary_field_is_left_out(session, tmp_path, monkeypatch):
    def dirty(matched):
        seen = [replace(one, weight=crossed(one.image)) for one in matched]
        return [*seen, replace(matched[0], name="dirty", weight=torch.zeros_like(matched[0].image))]

    with_masks(monkeypatch, dirty)
    done = synthesize_session(config_for(session, tmp_path / "set", realism=True))
    document = json.loads((done.output / "realism.json").read_text())
    assert document["left_out"] == ["dirty"]
    assert document["real_micrographs"] == ["00001", "00002"]
    assert "made (matched)" in document["measures"]
    page = done.report.read_text()
    assert "Left out, for want of ordinary field: dirty." in page
    assert "Which of these are real?" in page
    assert "Each 320 Å wide" in page  # 128 pixels
    log = (done.output / "run.log").read_text()
    assert "sets against real micrographs, about" in log


def test_a_set_that_cannot_be_compared_has_its_report(session, tmp_path, monkeypatch):
    with_masks(monkeypatch, lambda matched: [replace(one, weight=torch.zeros_like(one.image)) for one in matched])
    done = synthesize_session(config_for(session, tmp_path / "set", realism=True))
    document = json.loads((done.output / "realism.json").read_text())
    assert "ordinary field" in document["not_measured"]
    assert document["left_out"] == ["00001", "00002"]
    assert done.auc is None
    assert "was not measured" in done.report.read_text()
    assert (done.output / "RELION_JOB_EXIT_SUCCESS").is_file()


def test_an_error_of_the_comparison_is_told_and_not_the_end(session, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise InputError("real micrographs, micrograph 2", "is flat", "Leave it out.")

    monkeypatch.setattr(_realism, "compare_realism", refuse)
    done = synthesize_session(config_for(session, tmp_path / "set", realism=True))
    assert "is flat" in json.loads((done.output / "realism.json").read_text())["not_measured"]
    assert "is flat" in done.report.read_text()
