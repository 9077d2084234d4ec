"""Records of jobs and the chain they make; odd and unreadable ones are said."""

import json

import pytest
from recorded_jobs import write_job

from cryoprism.core import InputError
from cryoprism.evaluation.reproducibility import chain_of, judge_reproducibility, read_record, size_of


def test_the_chain_goes_back_to_the_raw_images(project, monkeypatch):
    monkeypatch.chdir("/")  # paths are meant from the project's folder, wherever one stands
    record = read_record(project / "Resolution/job003")
    assert record.base == project
    assert [one.kind for one in chain_of(record)] == ["Resolution", "Refine", "Extract"]
    assert {one.state for one in record.inputs} == {"same"}
    assert record.seconds == 20
    assert read_record(project / "Resolution/job003/job.json").kind == "Resolution"


def test_a_circle_ends(project):
    record = json.loads((project / "Extract/job001/job.json").read_text())
    record["config"]["reference"] = "Refine/job002/half1.mrc"
    (project / "Extract/job001/job.json").write_text(json.dumps(record))
    assert len(chain_of(read_record(project / "Resolution/job003"))) == 3


def test_commands_are_those_of_the_kinds(project):
    for kind, command in {"InitialModel": "initial-model", "CtfRefine": "ctf-refine", "Refine": "refine"}.items():
        assert read_record(write_job(project, "x", kind)).command == command


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "holds no job.json"),
        ('{"schema": "cryoprism-job-1", "kind": "Ref', "half written"),
        ("[" * 100_000, "too deeply"),
        ("[]", "no record of the form"),
        ('{"schema": "other"}', "no record of the form"),
        ('{"schema": "cryoprism-job-1"}', "has no 'kind'"),
    ],
)
def test_unreadable_records_are_said(tmp_path, text, said):
    if text is not None:
        (tmp_path / "job.json").write_text(text)
    with pytest.raises(InputError, match=said):
        judge_reproducibility(tmp_path)


def test_no_folder_is_said(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        read_record(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("inputs", 0, "bytes"), "many"),
        (("inputs", 0, "bytes"), 10**400),
        (("inputs", 0, "path"), "raw/a\0.mrc"),
        (("inputs", 0), None),
        (("config", "particles_file"), "a\0b"),
        (("config", "particles_file"), {"a": ["b"]}),
        (("config", "output"), 5),
        (("versions", ""), "1"),
        (("versions", "numpy"), ["1"]),
        (("notes",), {"particles": "many"}),
        (("config", "box_in_pixels"), "wide"),
        (("config", "width_in_pixels"), [1]),
        (("seed",), "zero"),
        (("started",), 10**30),
    ],
)
def test_odd_values_in_a_record_are_no_traceback(project, path, value):
    file = project / "Refine/job002/job.json"
    content = json.loads(file.read_text())
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    file.write_text(json.dumps(content))
    judged = judge_reproducibility(project / "Refine/job002", rerun=False)
    size_of(read_record(project / "Refine/job002"))
    json.dumps(judged.answer().to_json(), allow_nan=False)


@pytest.mark.parametrize("kind", ["", "Refine\0", "../x", "--help", 5])
def test_a_kind_that_is_none_is_said(project, kind):
    write_job(project, "Odd/job001", kind)
    with pytest.raises(InputError, match="kind"):
        read_record(project / "Odd/job001")
