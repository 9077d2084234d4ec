"""What a later run of ``cryoprism synthesize`` keeps, and what it makes again."""

import json
import os
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from synthetic_sets import config_for

from cryoprism.formats import Volume, read_image, read_map, read_star, write_map, write_star
from cryoprism.workflow import synthesize_session


@pytest.fixture
def mine(session, tmp_path):
    """A copy of the session whose files a test may change."""
    shutil.copytree(session, tmp_path / "session")
    return tmp_path / "session"


def table_of(session, *names):
    """Write a table of some of the real micrographs."""
    optics, table = read_star(session / "real" / "micrographs.star")
    path = session / "real" / f"{'_'.join(names)}.star"
    rows = tuple(row for row in table.rows if any(name in str(row) for name in names))
    write_star(path, [optics, replace(table, rows=rows)])
    return (str(path),)


def image_of(out):
    return read_image(out / "micrographs" / "000001.mrc").data


def test_a_replaced_map_is_used(mine, tmp_path):
    once = {"count": 1, "only_do_unfinished": True}
    out = synthesize_session(config_for(mine, tmp_path / "set", count=1)).output
    before, match = image_of(out), (out / "match" / "match.json").stat().st_mtime_ns
    os.utime(mine / "shell.mrc", ns=(1, 1))
    kept = synthesize_session(config_for(mine, out, **once))
    assert (kept.made, kept.skipped) == (0, 1)
    assert (out / "match" / "match.json").stat().st_mtime_ns == match
    old = read_map(mine / "shell.mrc").data
    write_map(mine / "shell.mrc", Volume(old + 0.5 * old.roll(3, 0), 2.5))
    again = synthesize_session(config_for(mine, out, **once))
    assert (again.made, again.skipped) == (1, 0)
    assert (out / "match" / "match.json").stat().st_mtime_ns != match
    fresh = synthesize_session(config_for(mine, tmp_path / "fresh", count=1)).output
    assert torch.equal(image_of(out), image_of(fresh))
    assert not torch.equal(image_of(out), before)


@pytest.mark.filterwarnings("ignore:.*not among the 1 given")
def test_other_coordinates_and_other_real_micrographs_are_matched_again(mine, tmp_path):
    once = {"count": 1, "only_do_unfinished": True}
    first, second = table_of(mine, "00001"), table_of(mine, "00002")
    out = synthesize_session(config_for(mine, tmp_path / "set", count=1, match=first)).output
    assert json.loads((out / "truth" / "000001.json").read_text())["matched_to"] == "00001"
    assert synthesize_session(config_for(mine, out, match=second, **once)).made == 1
    assert "00001 is not among the real micrographs now" in (out / "run.log").read_text()
    assert json.loads((out / "truth" / "000001.json").read_text())["matched_to"] == "00002"
    optics, table = read_star(mine / "real" / "particles.star")
    write_star(mine / "real" / "particles.star", [optics, replace(table, rows=table.rows[:-3])])
    assert synthesize_session(config_for(mine, out, match=second, **once)).made == 1


def test_only_what_was_matched_is_called_matched(mine, tmp_path, monkeypatch):
    """A session that has grown keeps its match; nothing is judged by what it was fitted to."""
    seen = {}
    module = sys.modules["cryoprism.workflow.synthesis.synthesize_session"]

    def note(folder, tasks, match, population, matched, apart, seed):
        seen.update(matched=[one.name for one in matched], apart=[one.name for one in apart])
        return None, None

    monkeypatch.setattr(module, "measure_session_realism", note)
    folder = mine / "real" / "micrographs"
    for number in range(3, 9):
        shutil.copy(folder / "00001.mrc", folder / f"0000{number}.mrc")
    optics, table = read_star(mine / "real" / "micrographs.star")
    names = [f"micrographs/0000{number}.mrc" for number in range(1, 9)]
    grown = mine / "real" / "grown.star"
    write_star(grown, [optics, replace(table, rows=8 * table.rows[:1]).with_columns({"rlnMicrographName": names})])
    out = synthesize_session(config_for(mine, tmp_path / "set", count=1)).output
    changes = {"count": 1, "realism": True, "only_do_unfinished": True, "match": (str(grown),)}
    assert synthesize_session(config_for(mine, out, **changes)).made == 0
    assert seen["matched"] == ["00001", "00002"]
    assert seen["apart"] == ["00003", "00006"]
