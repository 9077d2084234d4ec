"""The cost of a job: each process starts the program, intervals hold jobs left out, forecasts know their range."""

import dataclasses
import math

import numpy as np
import pytest
from recorded_jobs import write_job

from cryoprism.evaluation.reproducibility import (
    Observation,
    Size,
    fit_cost_model,
    read_record,
    shipped_cost_model,
    size_of,
)
from cryoprism.evaluation.reproducibility.cost import Cost, Range
from cryoprism.evaluation.reproducibility.judgement import _repeat_in_words
from cryoprism.evaluation.reproducibility.rerun import Repeat, cost_foreseen
from cryoprism.evaluation.sandbox import Limits, execute

START = Observation("start", Size(0), 3.0, 3.0, 3e8)


def observed(pixels, processes=1, products=False, factor=1.0):
    work = factor * 1e-6 * pixels * (2.0 if products else 1.0)
    size = Size(pixels, processes=processes, products=products, image=pixels)
    return Observation("Restore", size, 1.0, 3.0 * processes + work, 3e8 * processes + 100 * pixels)


def model():
    jobs = [observed(2e5 * 2**k, products=bool(k % 2)) for k in range(8)]
    return fit_cost_model(jobs, "here", START)


def test_every_process_starts_the_program():
    one, three = (model().predict("Restore", Size(1e6, processes=n, image=1e6)) for n in (1, 3))
    assert three.cpu_seconds.median - one.cpu_seconds.median == pytest.approx(6.0)
    assert three.memory_in_bytes.low - one.memory_in_bytes.low == pytest.approx(6e8)
    assert one.cpu_seconds.median == pytest.approx(4.0, rel=0.1)


def test_what_processes_took_is_not_learned_as_work():
    alone = [observed(2e5 * 2**k) for k in range(6)]
    shared = [observed(2e5 * 2**k, processes=3) for k in range(6)]
    told = [fit_cost_model(jobs, "here", START).predict("Restore", Size(1e6, image=1e6)) for jobs in (alone, shared)]
    assert told[0].cpu_seconds.median == pytest.approx(told[1].cpu_seconds.median)


def test_data_products_cost_what_they_cost():
    plain, products = (model().predict("Restore", Size(1e6, products=p, image=1e6)) for p in (False, True))
    assert (products.cpu_seconds.median - 3) / (plain.cpu_seconds.median - 3) == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (Size(1e6, image=1e6), ""),
        (Size(1e9, image=1e6), "1,000,000,000 pixels"),
        (Size(1e3, image=1e6), "1,000 pixels"),
        (Size(1e6, image=1e9), "pixels in one image"),
        (Size(1e6, particles=1000, image=1e6), "1,000 particles"),
    ],
)
def test_a_forecast_beyond_the_jobs_says_so(size, said):
    outside = model().predict("Restore", size).outside
    assert (outside == "") == (said == "")
    assert said in outside


def test_products_that_no_job_had_are_outside():
    plain = fit_cost_model([observed(2e5 * 2**k) for k in range(6)], "here", START)
    assert plain.predict("Restore", Size(1e6, products=True, image=1e6)).outside == "data products"


def test_intervals_are_widened_until_jobs_left_out_lie_inside():
    generator = np.random.default_rng(0)
    # Half of the jobs take ten times as long as the other half: the few of a kind cannot tell.
    jobs = []
    for kind in range(12):
        for k in range(4):
            one = observed(1e6 * 2**k, factor=float(math.exp(3 * generator.standard_t(1.5))))
            jobs.append(dataclasses.replace(one, kind=f"K{'abcdefghijkl'[kind]}"))
    wild = fit_cost_model(jobs, "here")
    assert wild.widened["cpu_seconds"] > 1
    assert model().widened["cpu_seconds"] >= 1
    inside = 0
    for one in jobs:
        others = fit_cost_model([job for job in jobs if job is not one], "here")
        span = dataclasses.replace(others, widened=wild.widened).predict(one.kind, one.size).cpu_seconds
        inside += span.low <= one.cpu_seconds <= span.high
    assert inside / len(jobs) >= 0.9


def test_the_size_of_a_record_has_its_processes_and_products(project):
    config = {"output": "run", "workers": 8, "views": True}
    write_job(project, "run", "Restore", ["raw/a.mrc", "raw/b.mrc"], config=config)
    size = size_of(read_record(project / "run"))
    assert (size.processes, size.products) == (3, True)  # two images keep two workers busy
    write_job(project, "run", "Restore", ["raw/a.mrc", "raw/b.mrc"], config={"workers": 1, "views": False})
    size = size_of(read_record(project / "run"))
    assert (size.processes, size.products) == (1, False)


def test_a_cost_beyond_the_range_takes_nothing_from_the_answer():
    execution = execute(["true"], limits=Limits(), isolation="none")
    tight = Range(1e6, 9e5, 2e6)
    known, beyond = Cost(tight, tight), Cost(tight, tight, "1,000 particles")
    assert cost_foreseen(Repeat(execution, known, ())) < 0.5
    assert cost_foreseen(Repeat(execution, beyond, ())) == 1.0
    (*_, said) = _repeat_in_words(Repeat(execution, beyond, (compared(),)), 0.0)
    assert "beyond the jobs that it was learned from (1,000 particles)" in said
    (*_, said) = _repeat_in_words(Repeat(execution, known, (compared(),)), 0.0)
    assert "beyond" not in said


def compared():
    from cryoprism.evaluation.reproducibility import FileComparison

    return FileComparison("a.mrc", 1.0, "bytes")


def test_the_model_that_ships_foretells_the_restoration_of_the_demo():
    """Six micrographs of 1024 × 1024, two workers, data products: 13.1 CPU s and 0.89 GB were needed."""
    size = Size(6292992.0, processes=3, products=True, image=1048832.0)
    cost = shipped_cost_model().predict("Restore", size)
    assert cost.outside == ""
    assert cost.cpu_seconds.low <= 13.1 <= cost.cpu_seconds.high
    assert cost.memory_in_bytes.low <= 0.89e9 <= cost.memory_in_bytes.high


def test_sessions_that_took_different_times_widen_every_interval():
    alike = dataclasses.replace(model(), sessions={"cpu_seconds": [3.0, 3.0, 3.0]})
    apart = dataclasses.replace(model(), sessions={"cpu_seconds": [2.8, 3.0, 3.2]})
    size = Size(1e6, image=1e6)
    narrow, wide = (one.predict("Restore", size).cpu_seconds for one in (alike, apart))
    same = model().predict("Restore", size).cpu_seconds
    assert (narrow.low, narrow.high) == pytest.approx((same.low, same.high))
    assert wide.median == narrow.median
    assert wide.high / wide.median > 1.1 > narrow.high / narrow.median
    assert wide.low < narrow.low
    assert dataclasses.replace(model(), sessions={"cpu_seconds": [2.8]}).predict("Restore", size).cpu_seconds == same
