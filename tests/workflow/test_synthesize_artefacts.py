import json
import shutil

import pytest
import torch
from synthetic_sets import config_for

from cryoprism.core import InputError
from cryoprism.formats import read_image
from cryoprism.restoration import LABELS
from cryoprism.workflow import synthesize_session
from cryoprism.workflow.synthesis import picker


@pytest.fixture(scope="module")
def dirty(session, made, tmp_path_factory):
    return synthesize_session(
        config_for(session, tmp_path_factory.mktemp("dirty") / "set", contamination=2, carbon=1.0, frames=2)
    )


def _truth(summary, name):
    return json.loads((summary.output / "truth" / f"{name}.json").read_text())


def test_a_clean_session_gives_clean_micrographs(made):
    assert not list((made.output / "masks").glob("*_artefacts.mrc"))
    artefacts = _truth(made, "000001")["artefacts"]
    assert artefacts["contamination"] == []
    assert artefacts["carbon"] is None
    assert "artefacts" not in made.report.read_text()


def test_artefacts_are_drawn_labelled_and_change_no_particle(made, dirty):
    for name in ("000001", "000002"):
        truth, clean = _truth(dirty, name), _truth(made, name)
        assert truth["particles"] == clean["particles"]
        plain = read_image(made.output / "masks" / f"{name}.mrc").data
        assert torch.equal(plain, read_image(dirty.output / "masks" / f"{name}.mrc").data)
        labels = read_image(dirty.output / "masks" / f"{name}_artefacts.mrc").data
        assert set(labels.unique().tolist()) == {0.0, float(LABELS["contamination"]), float(LABELS["carbon"])}
        assert len(truth["artefacts"]["contamination"]) == 2
        for crystal in truth["artefacts"]["contamination"]:
            assert int(labels[crystal["y_in_pixels"], crystal["x_in_pixels"]]) == LABELS["contamination"]
        share = float((labels == LABELS["carbon"]).float().mean())
        assert share == pytest.approx(truth["artefacts"]["carbon"]["share"], abs=0.1)
        image = read_image(dirty.output / "micrographs" / f"{name}.mrc").data
        before = read_image(made.output / "micrographs" / f"{name}.mrc").data
        assert float(image[labels > 0].mean()) < float(before[labels > 0].mean()) - 0.1 * float(before.std())
    assert "artefacts" in dirty.report.read_text()


def test_the_picker_learns_what_is_not_to_be_found(dirty):
    field = picker._field(dirty.output, "000001", 120.0)
    assert field.labels.shape == field.image.shape
    assert {LABELS["contamination"], LABELS["carbon"]} <= set(field.labels.unique().tolist())
    x, y = field.xy_in_pixels.round().long().unbind(1)
    height, width = field.labels.shape
    under = field.labels[y.clamp(0, height - 1), x.clamp(0, width - 1)] > 0
    assert len(field.xy_in_pixels) < len(_truth(dirty, "000001")["particles"])
    assert float(under.float().mean()) < 0.1  # at a coarser pixel an edge may round the other way


def test_a_lost_mask_is_made_again(session, dirty, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(dirty.output, out)
    lost = out / "masks" / "000001_artefacts.mrc"
    before = read_image(lost).data
    lost.unlink()
    again = synthesize_session(config_for(session, out, contamination=2, carbon=1.0, frames=2, only_do_unfinished=True))
    assert again.made == 1
    assert torch.equal(before, read_image(lost).data)


@pytest.mark.parametrize(
    ("changes", "words"), [({"contamination": -1}, "--contamination"), ({"carbon": 2.0}, "--carbon")]
)
def test_bad_shares_are_named(session, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        config_for(session, tmp_path / "out", **changes)
