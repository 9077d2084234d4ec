"""Whether a re-run gives the same, and what that makes of the answer."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from cryoprism.evaluation.reproducibility import (
    SAME,
    Cost,
    CostModel,
    Observation,
    Range,
    Repeat,
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
)
from cryoprism.evaluation.sandbox import Limits, execute
from cryoprism.formats import Volume, write_map
from programs import isolation_here

WALLS = isolation_here()


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
