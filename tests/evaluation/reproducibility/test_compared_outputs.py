"""Outputs of two runs are compared by what they are."""

import json
import math

import numpy as np
import pytest

from cryoprism.evaluation.reproducibility import compare_outputs
from cryoprism.formats import Volume, write_map


def test_outputs_are_compared_by_what_they_are(tmp_path):
    before, after = tmp_path / "a", tmp_path / "b"
    for folder, scale in ((before, 1.0), (after, 1.01)):
        folder.mkdir()
        generator = np.random.default_rng(0)
        import torch

        data = torch.from_numpy(generator.normal(size=(8, 8, 8)).astype(np.float32)) * scale
        write_map(folder / "map.mrc", Volume(data, 1.0))
        (folder / "same.txt").write_text("same")
        (folder / "numbers.json").write_text(json.dumps({"x": scale, "seconds": scale * 9, "list": [1, {"y": 2.0}]}))
        (folder / "table.star").write_text(f"data_\n{folder}/x.mrc {scale} word\n")
        (folder / "run.log").write_text(str(scale))
        (folder / ".done").mkdir()
        (folder / ".done/x.json").write_text(str(scale))
    (before / "gone.txt").write_text("1")
    (before / "other.bin").write_bytes(b"1")
    (after / "other.bin").write_bytes(b"2")
    found = {one.name: one for one in compare_outputs(before, after)}
    assert set(found) == {"map.mrc", "same.txt", "numbers.json", "table.star", "gone.txt", "other.bin"}
    assert found["same.txt"].agreement == 1.0
    assert found["map.mrc"].agreement == pytest.approx(0.99, abs=1e-4)
    assert found["numbers.json"].agreement == pytest.approx(1 - 0.01 / 1.01)
    assert found["table.star"].agreement == pytest.approx(1 - 0.01 / 1.01)
    assert (found["gone.txt"].agreement, found["other.bin"].agreement) == (0.0, 0.0)
    (after / "map.mrc").write_bytes(b"broken")
    assert {one.name: one.agreement for one in compare_outputs(before, after)}["map.mrc"] == 0.0


def two_jsons(folder, first, second):
    for name, content in (("a", first), ("b", second)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "x.json").write_text(json.dumps(content))
    (found,) = compare_outputs(folder / "a", folder / "b")
    return found


def test_texts_in_json_count_and_are_named(tmp_path):
    found = two_jsons(tmp_path, {"verdict": "sound", "x": 1.0}, {"verdict": "broken", "x": 1.0})
    assert found.agreement == 0.0
    assert "1 of them equal" in found.how
    assert "/verdict" in found.how
    assert two_jsons(tmp_path, {"a": True, "b": None, "c": []}, {"a": 1, "b": 0, "c": []}).agreement == 0.0
    # Not a number is the same as itself, and a number that no float holds is one too.
    assert two_jsons(tmp_path, [math.nan, 10**400], [math.nan, 10**400]).agreement == 1.0
    assert two_jsons(tmp_path, [math.nan, 10**400], [math.nan, 10**400 + 1]).agreement == 0.0
    # Rounding about zero is none.
    assert two_jsons(tmp_path, [1e-17], [-3e-17]).agreement == 1.0


def test_names_of_files_count_without_the_folder_of_the_run(tmp_path):
    first, second = {"map": "/out/job/map.mrc"}, {"map": "Refine/job002/map.mrc"}
    assert two_jsons(tmp_path, first, second).agreement == 1.0
    assert two_jsons(tmp_path, first, {"map": "Refine/job002/half1.mrc"}).agreement == 0.0


@pytest.mark.parametrize("key", ["candidate", "update", "sometimes", "times", "secondary_structure", "timed", "dated"])
def test_only_whole_words_tell_of_the_run(tmp_path, key):
    assert two_jsons(tmp_path, {key: 1.0, "y": 1}, {key: 2.0, "y": 1}).agreement == pytest.approx(0.5)


@pytest.mark.parametrize("key", ["seconds", "cpu_seconds", "memoryInBytes", "date", "peak_memory", "started", "CPU"])
def test_what_tells_of_the_run_is_left_out(tmp_path, key):
    assert two_jsons(tmp_path, {key: 1.0, "y": 1}, {key: 2.0, "y": 1}).agreement == 1.0


def test_archives_are_compared_array_by_array(tmp_path):
    for name, scale in (("a", 1.0), ("b", 1.1)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "x.npz", same=np.arange(3), near=scale * np.ones(4), words=np.array(["a", name]))
    (found,) = compare_outputs(tmp_path / "a", tmp_path / "b")
    assert found.agreement == 0.0
    assert "words" in found.how
