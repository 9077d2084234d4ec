"""Records and their chain, what is missing, what a job costs, and whether a re-run gives the same."""

import hashlib
import json
import math
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest

from cryoprism import __version__
from cryoprism.core import InputError
from cryoprism.evaluation.reproducibility import (
    SAME,
    Cost,
    CostModel,
    Observation,
    Range,
    Size,
    chain_of,
    check_completeness,
    compare_outputs,
    completeness,
    delta_repro,
    equal_outputs,
    fit_cost_model,
    judge_reproducibility,
    read_record,
    shipped_cost_model,
    size_of,
)
from cryoprism.evaluation.reproducibility.judgement import Repeat
from cryoprism.evaluation.sandbox import Limits, execute
from cryoprism.formats import Volume, write_map
from programs import isolation_here

WALLS = isolation_here()


def write_job(project, name, kind, inputs=(), outputs=(), **changes):
    """A job folder as a run leaves it."""
    folder = project / name
    folder.mkdir(parents=True, exist_ok=True)
    for output in outputs:
        (folder / output).parent.mkdir(parents=True, exist_ok=True)
        (folder / output).write_text(f"{kind} {output}")
    entries = []
    for path in inputs:
        content = (project / path).read_bytes()
        entries.append({"path": path, "bytes": len(content), "changed_ns": 0,
                        "sha256_of_ends": hashlib.sha256(content).hexdigest()})  # fmt: skip
    record = {
        "schema": "cryoprism-job-1", "kind": kind, "command": ["cryoprism"], "config_hash": "0", "seed": 0,
        "config": {"output": name, "seed": 0, "particles_file": inputs[0] if inputs else None},
        "versions": {"cryoprism": __version__, "python": platform.python_version(), "numpy": np.__version__},
        "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:00:20+00:00", "status": "success",
        "inputs": entries,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(record | changes))
    return folder


@pytest.fixture
def project(tmp_path):
    """Raw images, extraction, refinement and resolution."""
    (tmp_path / "raw").mkdir()
    for name in ("a.mrc", "b.mrc"):
        (tmp_path / "raw" / name).write_text(name)
    write_job(tmp_path, "Extract/job001", "Extract", ["raw/a.mrc", "raw/b.mrc"], ["particles.star", "particles/a.mrcs"])
    write_job(tmp_path, "Refine/job002", "Refine", ["Extract/job001/particles.star"], ["half1.mrc", "half2.mrc"])
    halves = ["Refine/job002/half1.mrc", "Refine/job002/half2.mrc"]
    write_job(tmp_path, "Resolution/job003", "Resolution", halves, ["mask.mrc"])
    return tmp_path


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


def items_of(project, name="Resolution/job003"):
    return check_completeness(chain_of(read_record(project / name)))


def missing(items, group):
    return {item.name: item for item in items if item.group == group and not item.there}


def test_complete_data_software_and_parameters(project):
    items = items_of(project)
    for group in ("data", "software", "parameters"):
        assert not missing(items, group)
    assert all(item.remedy for item in items if not item.there)
    assert not any(item.remedy for item in items if item.there)


def test_a_changed_and_an_absent_input_are_found(project):
    (project / "raw/a.mrc").write_text("other")
    (project / "Refine/job002/half2.mrc").unlink()
    found = missing(items_of(project), "data")
    assert "changed" in found["inputs of Extract (job001)"].found
    assert "absent" in found["inputs of Resolution (job003)"].found
    judged = judge_reproducibility(project / "Resolution/job003")
    assert "not there any more" in judged.why_not


def test_other_software_is_said_with_what_to_install(project):
    versions = {"cryoprism": __version__, "numpy": "1.0.0", "nosuchpackage": "2.0"}
    write_job(project, "Refine/job002", "Refine", ["Extract/job001/particles.star"], versions=versions)
    found = missing(items_of(project), "software")["software of Refine (job002)"]
    assert "numpy 1.0.0, here" in found.found
    assert "pip install numpy==1.0.0" in found.remedy


def test_a_job_without_seed_or_end_is_not_complete(project):
    write_job(project, "Refine/job002", "Refine", ["Extract/job001/particles.star"], seed=None, status="running")
    found = missing(items_of(project), "parameters")
    assert set(found) == {"seed of Refine (job002)", "end of Refine (job002)"}


OPTICS = "\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnVoltage #2\n_rlnSphericalAberration #3\n1 300.0 2.7\n"


def test_what_a_deposition_asks_for_is_looked_for_along_the_chain(project):
    before = missing(items_of(project), "deposition")
    voltage = "microscope voltage (em_imaging.accelerating_voltage)"
    detector = "detector (em_image_recording.film_or_detector_model)"
    resolution = "resolution (em_3d_reconstruction.resolution)"
    assert {voltage, detector, resolution} <= set(before)
    assert "deposition.json" in before[detector].remedy
    assert "both unfiltered half maps (half maps)" not in before
    (project / "Extract/job001/micrographs.star").write_text(OPTICS)
    (project / "Resolution/job003/resolution.json").write_text(
        json.dumps({"resolution_in_angstroms": {"corrected": 3.214}, "particles": 1000, "symmetry": "O"})
    )
    (project / "Resolution/job003/deposition.json").write_text(
        json.dumps({"em_image_recording.film_or_detector_model": "GATAN K3"})
    )
    items = items_of(project)
    after = missing(items, "deposition")
    assert not {voltage, detector, resolution, "number of particles (em_3d_reconstruction.num_particles)"} & set(after)
    values = {item.name: item.found for item in items}
    assert (values[voltage], values[detector], values[resolution]) == ("300.0", "GATAN K3", "3.21 Å (FSC corrected)")
    assert completeness(items)[0] > completeness(items_of(project, "Refine/job002"))[0]
    (project / "Resolution/job003/deposition.json").write_text("[1]")
    with pytest.raises(InputError, match="no mapping"):
        items_of(project)


def test_the_verdict_says_whether_another_laboratory_could_repeat_it(project):
    good = judge_reproducibility(project / "Resolution/job003", rerun=False)
    assert good.repeatable_elsewhere
    assert "Another laboratory that is given the images has what it takes" in good.answer().sentences[0]
    assert any("EMDB and EMPIAR ask for" in sentence for sentence in good.answer().sentences)
    (project / "raw/a.mrc").unlink()
    bad = judge_reproducibility(project / "Resolution/job003", rerun=False)
    assert not bad.answer().evidence["repeatable_elsewhere"]
    assert "could not repeat it" in bad.answer().sentences[0]
    assert "inputs of Extract" in bad.answer().sentences[0]


def test_what_empiar_asks_of_the_images_is_read_from_them(project):
    import torch

    from cryoprism.formats import write_mrc

    names = (
        "what the raw images are (EMPIAR category and format)",
        "frames and size of a raw image (EMPIAR frames and size)",
    )
    assert set(names) <= set(missing(items_of(project), "deposition"))
    write_mrc(project / "raw/a.mrc", torch.zeros(48, 64), 1.5)
    values = {item.name: item.found for item in items_of(project)}
    assert values[names[0]] == "micrographs - single frame, MRC, 4 bytes a value"
    assert values[names[1]] == "1 frame(s) of 64 x 48 pixels"
    table = "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnDefocusU #2\n_rlnDefocusV #3\n"
    (project / "Extract/job001/micrographs.star").write_text(table + "a.mrc 10000 12000\nb.mrc 21000 19000\n")
    values = {item.name: item.found for item in items_of(project)}
    assert values["smallest defocus (em_imaging.nominal_defocus_min)"] == "1100 nm (fitted)"
    assert values["largest defocus (em_imaging.nominal_defocus_max)"] == "2000 nm (fitted)"
    (project / "Extract/job001/micrographs.star").write_text(table + "a.mrc x 12000\n")
    assert "smallest defocus (em_imaging.nominal_defocus_min)" in missing(items_of(project), "deposition")


def test_completeness_counts_groups_alike_and_is_never_sure(project):
    items = [item for item in items_of(project) if item.group != "deposition"]
    value, deviation = completeness(items)
    assert value == 1.0
    assert 0 < deviation < 0.3


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


def measured(kind="Refine", scatter=0.05, seed=0, exponents=(1.0, 0.5), jobs=12):
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(jobs):
        pixels, particles = 10 ** generator.uniform(5, 7), 10 ** generator.uniform(2, 4)
        log = math.log(1e-6) + exponents[0] * math.log(pixels) + exponents[1] * math.log(particles)
        cost = [math.exp(log + scatter * generator.normal()) for _ in range(2)]
        found.append(Observation(kind, Size(pixels, particles, 64), cost[0], cost[1], 1e8 * cost[0] ** 0.5))
    return found


def test_the_cost_model_finds_the_exponents():
    model = fit_cost_model(measured(), "here")
    near, far = (model.predict("Refine", Size(pixels, 1000, 64)).cpu_seconds for pixels in (1e6, 1e9))
    assert far.median / near.median == pytest.approx(1000, rel=0.3)
    assert near.low < near.median < near.high
    assert far.high / far.low > near.high / near.low, "further away is less sure"
    assert model.predict("Refine", Size(1e6, 1000, 64)).cpu_seconds.median == pytest.approx(
        1e-6 * 1e6 * 1000**0.5, rel=0.1
    )
    assert model.predict("Extract", Size(1e6)) is None


def test_what_starting_takes_is_told_apart_from_the_work():
    start = Observation("start", Size(0), 10.0, 4.0, 4e8)
    jobs = [
        Observation(one.kind, one.size, 10 + one.wall_seconds, 4 + one.cpu_seconds, 4e8 + one.memory_in_bytes)
        for one in measured()
    ]
    model = fit_cost_model(jobs, "here", start)
    small, large = (model.predict("Refine", Size(pixels, 1000, 64)) for pixels in (1.0, 1e9))
    assert small.cpu_seconds.low >= 4.0
    assert small.cpu_seconds.median == pytest.approx(4.0, rel=0.05)
    assert large.cpu_seconds.median == pytest.approx(1e-6 * 1e9 * 1000**0.5, rel=0.3)


def test_the_intervals_of_the_cost_model_hold_nine_of_ten():
    inside = total = 0
    for seed in range(40):
        jobs = measured(scatter=0.3, seed=seed)
        model = fit_cost_model(jobs[:8], "here")
        for one in jobs[8:]:
            span = model.predict("Refine", one.size).cpu_seconds
            inside, total = inside + (span.low <= one.cpu_seconds <= span.high), total + 1
    assert 0.82 <= inside / total <= 0.98


def test_a_busy_machine_does_not_make_jobs_seem_long():
    jobs = measured()
    busy = [Observation(one.kind, one.size, 6 * one.cpu_seconds, one.cpu_seconds, one.memory_in_bytes) for one in jobs]
    cost = fit_cost_model(busy, "here").predict("Refine", Size(1e6, 1000, 64))
    assert cost == fit_cost_model(jobs, "here").predict("Refine", Size(1e6, 1000, 64))
    assert set(cost.to_json()) == {"cpu_seconds", "memory_in_bytes"}
    assert set(shipped_cost_model().start) == {"cpu_seconds", "memory_in_bytes"}


def test_a_cost_model_is_written_and_read(tmp_path):
    model = fit_cost_model(measured(), "here")
    model.write(tmp_path / "cost.json")
    again = CostModel.read(tmp_path / "cost.json")
    assert again.predict("Refine", Size(1e6, 100, 64)) == model.predict("Refine", Size(1e6, 100, 64))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match="no cost model"):
        CostModel.read(tmp_path / "other.json")
    with pytest.raises(InputError, match="has 0"):
        fit_cost_model([Observation("a", Size(1), 0, 0, 0)] * 3, "here")
    assert fit_cost_model(measured(jobs=2), "here").kinds == {}


def test_the_model_that_ships_knows_the_usual_jobs():
    model = shipped_cost_model()
    assert {"Simulate", "Restore", "Extract", "Reconstruct", "Resolution"} <= set(model.kinds)


def test_sizes_come_from_records(project):
    assert size_of(read_record(project / "Extract/job001")).pixels == pytest.approx(10 / 4)
    record = json.loads((project / "Refine/job002/job.json").read_text())
    record["config"]["scaled_box_in_pixels"] = 64
    record["notes"] = {"particles": 100}
    (project / "Refine/job002/job.json").write_text(json.dumps(record))
    size = size_of(read_record(project / "Refine/job002"))
    assert (size.pixels, size.particles, size.box) == (100 * 64**2, 100, 64)


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


def test_a_re_run_with_nothing_to_compare_is_neither_failed_nor_a_verdict(project):
    record = read_record(project / "Refine/job002")
    items = check_completeness(chain_of(record))
    finished, failed = (execute([program], isolation="none") for program in ("true", "false"))
    from cryoprism.evaluation.reproducibility import Reproducibility

    judged = Reproducibility((record,), items, None, Repeat(finished, None, ()), None)
    answer = judged.answer()
    assert answer.evidence["repeat"]["status"] == "not comparable"
    assert answer.evidence["repeat"]["agreement"] is None
    assert answer.evidence["delta_repro"] is None
    assert (answer.value, answer.deviation) == (pytest.approx(completeness(items)[0]), pytest.approx(12**-0.5))
    said = " ".join(answer.sentences)
    assert "not comparable" in said
    assert "failed" not in said
    json.dumps(answer.to_json(), allow_nan=False)
    broken = Reproducibility((record,), items, None, Repeat(failed, None, ()), None).answer()
    assert broken.evidence["repeat"]["status"] == "failed"
    assert broken.value == 0.0


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


@pytest.mark.parametrize("resolution", ["fine", [3], {"corrected": "fine"}, {"corrected": -1}, 10**400])
def test_an_odd_resolution_is_none(project, resolution):
    content = {"resolution_in_angstroms": resolution, "particles_in_halves": ["a", None]}
    (project / "Resolution/job003/resolution.json").write_text(json.dumps(content))
    found = missing(items_of(project), "deposition")
    assert {"resolution (em_3d_reconstruction.resolution)",
            "number of particles (em_3d_reconstruction.num_particles)"} <= set(found)  # fmt: skip


@pytest.fixture(scope="module")
def resolved(tmp_path_factory):
    """A real job on two half maps."""
    from cryoprism.workflow import ResolutionConfig, measure_resolution

    project = tmp_path_factory.mktemp("project")
    place = Path("/tmp") / f"cryoprism-test-{project.parent.name}-{project.name}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    generator = np.random.default_rng(1)
    import torch

    axes = np.mgrid[-16:16, -16:16, -16:16]
    blob = np.exp(-(axes**2).sum(0) / 50) * (1 + 0.5 * np.sin(axes[0]))
    for name in ("half1.mrc", "half2.mrc"):
        noisy = (blob + 0.02 * generator.normal(size=blob.shape)).astype(np.float32)
        write_map(place / name, Volume(torch.from_numpy(noisy), 2.0))
    measure_resolution(
        ResolutionConfig(
            half1=place / "half1.mrc", half2=place / "half2.mrc", output=place / "Resolution/job001", local=False
        )
    )
    yield place / "Resolution/job001"
    shutil.rmtree(place)


@pytest.mark.filterwarnings("ignore::cryoprism.core.CryoPrismWarning")
def test_a_job_is_run_again_and_gives_the_same(resolved, tmp_path):
    judged = judge_reproducibility(resolved, limits=Limits(cpu_seconds=200, wall_seconds=300), isolation=WALLS)
    assert judged.why_not is None
    assert judged.repeat.execution.verdict == "finished", judged.repeat.execution.errors.decode()
    assert {"map.mrc", "resolution.json", "mask.mrc"} <= {one.name for one in judged.repeat.files}
    assert judged.repeat.agreement > 0.999
    answer = judged.answer()
    share = completeness(judged.items)[0]
    assert answer.value == pytest.approx(share * (1 - answer.evidence["delta_repro"]))
    assert answer.deviation > 0
    assert any("Run again" in sentence for sentence in answer.sentences)
    assert any(sentence.startswith("Missing: detector") for sentence in answer.sentences)
    json.dumps(answer.to_json())
    # Negative control: an output that was meddled with is found.
    copy = tmp_path / "copy"
    shutil.copytree(resolved, copy)
    content = json.loads((copy / "resolution.json").read_text())
    content["curves"]["fsc_corrected"] = [0.0 for _ in content["curves"]["fsc_corrected"]]
    (copy / "resolution.json").write_text(json.dumps(content))
    (meddled,) = [one for one in compare_outputs(copy, resolved) if one.name == "resolution.json"]
    assert meddled.agreement < 0.99


def test_without_a_re_run_the_answer_says_so(resolved):
    answer = judge_reproducibility(resolved, rerun=False).answer()
    assert "completeness alone" in " ".join(answer.sentences)
    assert answer.deviation == pytest.approx(12**-0.5)
    assert "repeat" not in answer.evidence
    costly = CostModel({"Resolution": fit_cost_model(
        [Observation("Resolution", Size(10.0**n), 1e5, 1e5, 1e9) for n in (4, 5, 6)], "here").kinds["Resolution"]
    }, "here")  # fmt: skip
    judged = judge_reproducibility(resolved, limits=Limits(cpu_seconds=10), model=costly)
    assert judged.repeat is None
    assert "more than the 10 s allowed" in judged.why_not


def test_a_re_run_that_is_stopped_is_no_verdict(resolved):
    judged = judge_reproducibility(resolved, limits=Limits(wall_seconds=0.2), isolation=WALLS, model=CostModel({}, ""))
    assert judged.repeat is None
    assert judged.why_not


def test_a_re_run_that_is_refused_is_no_verdict(resolved, tmp_path):
    copy = tmp_path / "job"
    shutil.copytree(resolved, copy)
    record = json.loads((copy / "job.json").read_text())
    halves = {name: str(resolved.parents[1] / f"{name}.mrc") for name in ("half1", "half2")}
    record["config"] |= halves | {"mask_file": halves["half1"]}
    (copy / "job.json").write_text(json.dumps(record))
    judged = judge_reproducibility(copy, isolation="none", model=CostModel({}, ""))
    assert judged.repeat is None
    assert judged.why_not.startswith("it was refused: ")
    assert judged.answer().value > 0


def test_a_sandbox_that_cannot_be_made_is_a_reason(resolved, monkeypatch):
    from cryoprism.evaluation.sandbox import bubblewrap

    monkeypatch.setattr(bubblewrap.shutil, "which", lambda *_: None)
    bubblewrap._walls.cache_clear()
    try:
        judged = judge_reproducibility(resolved, model=CostModel({}, ""))
    finally:
        bubblewrap._walls.cache_clear()
    assert "not installed" in judged.why_not


def repeat_of(agreement, cpu, span):
    run = execute(["true"], isolation="none")
    object.__setattr__(run.accounting, "user_seconds", cpu)
    object.__setattr__(run.accounting, "system_seconds", 0.0)
    object.__setattr__(run.accounting, "unwaited_seconds", 0.0)
    from cryoprism.evaluation.reproducibility import FileComparison

    whole = Range(1, 0.1, 10)
    predicted = None if span is None else Cost(Range(math.sqrt(span[0] * span[1]), *span), whole)
    return Repeat(run, predicted, (FileComparison("x", agreement, ""),))


def test_delta_repro_is_what_its_definition_says():
    assert delta_repro(repeat_of(1.0, 5.0, (1.0, 10.0))) == pytest.approx(0.0)
    assert delta_repro(repeat_of(1.0, 5.0, None)) == pytest.approx(0.0)
    assert delta_repro(repeat_of(0.8, 5.0, (1.0, 10.0))) == 1.0  # the only output is another one
    assert delta_repro(repeat_of(SAME, 5.0, (1.0, 10.0))) == pytest.approx(0.0)
    assert delta_repro(repeat_of(1.0, 100.0, (1.0, 10.0))) == pytest.approx(0.1 * (1 - math.exp(-1)))
    assert delta_repro(repeat_of(1.0, 0.01, (1.0, 10.0))) == pytest.approx(0.1 * (1 - math.exp(-2)))
    assert delta_repro(Repeat(repeat_of(1.0, 1.0, None).execution, None, ())) == 1.0


def test_one_wrong_number_counts_in_full_and_is_named(project):
    """One defocus of many micrographs: its table is another result, and no folder of pictures outvotes it."""
    from cryoprism.evaluation.reproducibility import FileComparison, Reproducibility

    head = "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnDefocusU #2\n"
    rows = [f"m{number}.mrc {10000 + number}" for number in range(200)]
    for folder, changed in (("before", "m7.mrc 99999"), ("after", rows[7])):
        (project / folder).mkdir()
        told = [*rows[:7], changed, *rows[8:]]
        (project / folder / "micrographs.star").write_text(head + "\n".join(told) + "\n")
    (table,) = compare_outputs(project / "before", project / "after")
    assert table.agreement < 0.2
    pictures = tuple(FileComparison(f"cleaned/m{number}.mrc", 1.0, "the same bytes") for number in range(200))
    files = (*pictures, FileComparison("causes.json", 1.0, "the same bytes"), table)
    assert equal_outputs(files) == [True, True, False]
    repeat = Repeat(repeat_of(1.0, 1.0, None).execution, None, files)
    assert repeat.agreement == pytest.approx(2 / 3)
    assert delta_repro(repeat) == pytest.approx(1 / 3)
    record = read_record(project / "Extract/job001")
    items = check_completeness((record,))
    answer = Reproducibility((record,), items, None, repeat, None).answer()
    assert answer.value == pytest.approx(completeness(items)[0] * 2 / 3)
    said = " ".join(answer.sentences)
    assert "Least alike is micrographs.star" in said
    assert "2 of 3 outputs" in said


def test_what_cannot_be_repeated_has_no_high_answer(project):
    whole = judge_reproducibility(project / "Resolution/job003", rerun=False).answer()
    assert whole.evidence["at_most"] == 1.0
    (project / "raw/a.mrc").unlink()
    answer = judge_reproducibility(project / "Resolution/job003", rerun=False).answer()
    there = [item["there"] for item in answer.evidence["items"]]
    assert answer.value == pytest.approx(min(0.5, sum(there) / len(there)))
    assert answer.value < 0.5 < answer.evidence["completeness"] < whole.value
    formula = next(sentence for sentence in answer.sentences if sentence.startswith("Completeness"))
    assert f"{answer.evidence['completeness']:.3f}" in formula
    assert f"data 2 of 3, software 3 of 3, parameters 9 of 9, deposition {sum(there) - 14} of 28" in formula
    assert f"at most {answer.value:.3f}" in formula


def test_a_map_that_is_not_there_has_no_voxel_size(tmp_path):
    name = "voxel size (em_map.pixel_spacing_x)"
    folder = write_job(tmp_path, "Simulate/job001", "Simulate", config={"output": "x", "pixel_size_in_angstroms": 1.5})
    assert name in missing(items_of(tmp_path, "Simulate/job001"), "deposition")
    (folder / "map.mrc").write_text("a map")
    assert name not in missing(items_of(tmp_path, "Simulate/job001"), "deposition")
