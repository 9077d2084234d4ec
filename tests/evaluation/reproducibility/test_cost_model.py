"""What a job costs, with intervals that hold what they promise."""

import json
import math

import numpy as np
import pytest

from cryoprism.core import InputError
from cryoprism.evaluation.reproducibility import (
    CostModel,
    Observation,
    Size,
    fit_cost_model,
    read_record,
    shipped_cost_model,
    size_of,
)


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
    assert set(cost.to_json()) == {"cpu_seconds", "memory_in_bytes", "outside"}
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
