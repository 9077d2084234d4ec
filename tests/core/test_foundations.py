"""Random streams, devices, and errors."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from cryoprism.core import ConvergenceError, CryoPrismError, InputError, generator_for, resolve_device


def draw(key: int) -> list[float]:
    return torch.rand(3, generator=generator_for(7, "micrograph", key)).tolist()


def test_random_numbers_do_not_depend_on_workers_or_order():
    alone = [draw(key) for key in range(6)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(draw, range(6))) == alone
    assert [draw(key) for key in reversed(range(6))] == alone[::-1]


def test_streams_differ_by_seed_by_key_and_by_where_keys_are_split():
    seen = {
        tuple(torch.rand(2, generator=generator_for(*arguments)).tolist())
        for arguments in [(1,), (2,), (1, "a"), (1, "b"), (1, "a", "b"), (1, "ab"), (1, "b", "a"), (11,), (1, 1)]
    }
    assert len(seen) == 9


def test_drawing_leaves_the_global_state_alone():
    state = torch.get_rng_state()
    torch.rand(5, generator=generator_for(1))
    assert torch.equal(state, torch.get_rng_state())


def test_cpu_is_cpu():
    assert resolve_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:99", ""])
def test_devices_that_are_not_there_are_an_error_and_never_a_fallback(name: str):
    with pytest.raises(InputError, match="--device"):
        resolve_device(name)


@pytest.mark.parametrize(
    ("kind", "usable"), [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())]
)
def test_an_accelerator_is_given_or_refused(kind: str, usable: bool):
    if usable:
        assert resolve_device(kind).type == kind
    else:
        with pytest.raises(InputError, match=kind):
            resolve_device(kind)


@pytest.mark.parametrize("kind", [CryoPrismError, InputError, ConvergenceError])
def test_errors_say_where_what_and_how_and_cross_process_borders(kind: type[CryoPrismError]):
    error = kind("--pixel-size", "0 was given", "Give a positive number.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.where, again.found, again.remedy) == ("--pixel-size", "0 was given", "Give a positive number.")
    assert str(again) == "--pixel-size: 0 was given. Give a positive number."
