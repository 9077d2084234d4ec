import multiprocessing
import time
from types import MappingProxyType

import parallel_functions as functions
import pytest

from cryoprism.core import CryoPrismError, CryoPrismWarning, InputError, OutputError
from cryoprism.workflow import Failure, map_items

NAMES = ["a", "b", "c", "d", "e"]


def test_results_are_in_order_and_the_same_for_any_number_of_workers():
    serial = list(map_items(functions.noise, NAMES))
    assert serial == list(map_items(functions.noise, NAMES, 2))
    assert len({tuple(values) for values in serial}) == len(NAMES)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_carries_the_micrographs_name(workers):
    with pytest.raises(InputError) as caught:
        list(map_items(functions.fail_on_c, NAMES, workers, names=[f"{name}.mrc" for name in NAMES]))
    assert str(caught.value) == "c.mrc: header: mode 99 is unknown. Convert it to mode 2."


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_micrograph_does_not_stop_the_others_if_so_asked(workers):
    seen = []
    results = list(map_items(functions.fail_on_c, NAMES, workers, names=NAMES, keep_going=True, on_result=seen.append))
    assert [r for r in results if not isinstance(r, Failure)] == ["a", "b", "d", "e"]
    assert isinstance(results[2], Failure)
    assert results[2].name == "c"
    assert seen == NAMES


def test_a_full_disk_stops_all_the_same():
    with pytest.raises(OutputError, match=r"b\.mrc: cannot be written"):
        list(map_items(functions.full_on_b, NAMES, names=NAMES, keep_going=True))


def test_a_mistake_in_the_program_is_never_passed_over():
    with pytest.raises(ZeroDivisionError) as caught:
        list(map_items(functions.divide, [1, 0], names=["a", "b"], keep_going=True))
    assert caught.value.__notes__ == ["while working on b"]


def test_warnings_of_workers_reach_the_caller():
    with pytest.warns(CryoPrismWarning) as caught:
        assert list(map_items(functions.warn, ["a", "b"], 2)) == ["a", "b"]
    assert {str(entry.message) for entry in caught} == {"a: no pixel size", "b: no pixel size"}


def test_a_worker_that_dies_is_reported_with_a_remedy():
    with pytest.raises(CryoPrismError, match="a worker process died"):
        list(map_items(functions.die, NAMES, 2, names=NAMES))


def test_nobody_waits_for_results_that_nobody_takes():
    results = map_items(functions.slow, NAMES, 2)
    assert next(results) == "a"
    started = time.monotonic()
    results.close()
    deadline = started + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


def test_read_only_views_travel():
    views = [MappingProxyType({"a": 1}), MappingProxyType({"b": 2})]
    assert list(map_items(functions.give_back, views, 2)) == views


def test_one_name_per_item():
    with pytest.raises(ValueError, match="2 names for 5 items"):
        list(map_items(functions.noise, NAMES, names=["a", "b"]))
    assert list(map_items(functions.noise, [])) == []
