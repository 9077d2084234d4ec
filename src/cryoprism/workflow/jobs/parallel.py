"""The same function over many micrographs, in one process or several, with results in order and names in errors."""

from __future__ import annotations

import contextlib
import copyreg
import multiprocessing
import os
import pickle
import re
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from cryoprism.core import CryoPrismError, CryoPrismWarning, OutputError

__all__ = ["Failure", "close_workers", "map_items"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def _view_of(content: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(content)


def _taken_apart(view: MappingProxyType[Any, Any]) -> tuple[Any, ...]:
    return _view_of, (dict(view),)


# Frozen records hold read-only views of dicts, which Python cannot send to another process by itself.
copyreg.pickle(MappingProxyType, _taken_apart)


@dataclass(frozen=True)
class Failure:
    """What stands in the place of a result when an item failed and the others went on."""

    name: str
    error: Exception


def map_items(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int = 1,
    *,
    names: Sequence[str] | None = None,
    keep_going: bool = False,
    on_result: Callable[[str], None] | None = None,
) -> Generator[Result | Failure, None, None]:
    """Apply ``function`` to every item and yield the results in the order of the items.

    One worker runs in this process. More run in processes of their own (started afresh, so that no lock or device is
    inherited), with the threads of torch divided among them. At most two items per worker are on their way at any
    time, so memory does not grow with the session. Given ``core.generator_for(seed, name)`` as the only source of
    random numbers, results do not depend on the number of workers, up to the rounding of sums over a different number
    of threads.

    Parameters
    ----------
    function
        A function at the top level of a module (or ``functools.partial`` of one) when there is more than one worker.
    items
        What it is applied to.
    workers
        Number of processes.
    names
        Name of each item for errors and progress; its position if absent.
    keep_going
        Yield a :class:`Failure` for an item whose error is a CryoPrism error, instead of stopping. An output that
        cannot be written stops all the same.
    on_result
        Called with the item's name when its result is yielded, for example the step of a progress bar.

    Raises
    ------
    CryoPrismError
        The first item that failed, in order, with its name. Also when a worker died (usually for lack of memory).
    """
    labels = [str(i + 1) for i in range(len(items))] if names is None else list(names)
    if len(labels) != len(items):
        raise ValueError(f"{len(labels)} names for {len(items)} items")
    outcomes = (
        _serial(function, items) if workers <= 1 or len(items) <= 1 else _pooled(function, items, labels, workers)
    )
    with contextlib.closing(outcomes):
        for name, outcome in zip(labels, outcomes, strict=True):
            if isinstance(outcome, _Raised):
                error = _named(outcome.error, name)
                if not keep_going or isinstance(error, OutputError) or not isinstance(error, CryoPrismError):
                    raise error
                yield Failure(name, error)
            else:
                yield outcome
            if on_result is not None:
                on_result(name)


@dataclass(frozen=True)
class _Raised:
    error: Exception


def _serial(function: Callable[[Item], Result], items: Sequence[Item]) -> Generator[Result | _Raised, None, None]:
    for item in items:
        try:
            result: Result | _Raised = function(item)
        except Exception as error:
            result = _Raised(error)
        yield result


def _pooled(
    function: Callable[[Item], Result], items: Sequence[Item], labels: Sequence[str], workers: int
) -> Generator[Result | _Raised, None, None]:
    executor = _executor(workers)
    waiting: deque[Future[bytes]] = deque()
    finished = False
    try:
        upcoming = iter(items)
        for index in range(len(items)):
            while len(waiting) < 2 * workers and (item := next(upcoming, _END)) is not _END:
                waiting.append(executor.submit(_call_packed, pickle.dumps((function, item))))
            try:
                packed = waiting.popleft().result()
            except BrokenProcessPool as error:
                raise CryoPrismError(
                    labels[index],
                    "a worker process died, most often because memory ran out",
                    "Use fewer --workers or set --max-memory; in a script, start from `if __name__ == '__main__':`.",
                ) from error
            # Bytes from a process of our own making.
            result, messages = pickle.loads(packed)
            for message in messages:
                warnings.warn(message, CryoPrismWarning, stacklevel=2)
            yield result
        finished = True
    finally:
        if not finished:
            # Also reached by Ctrl-C: nobody waits for micrographs whose results nobody will take.
            close_workers(at_once=True)


@dataclass
class _Pool:
    """The processes of the last call: the steps of one job share them, since starting torch takes seconds."""

    workers: int
    executor: ProcessPoolExecutor


_pools: list[_Pool] = []


def _executor(workers: int) -> ProcessPoolExecutor:
    if _pools and _pools[0].workers == workers:
        return _pools[0].executor
    close_workers()
    threads = max(1, torch.get_num_threads() // workers)
    executor = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare_worker, initargs=(threads,)
    )
    _pools.append(_Pool(workers, executor))
    return executor


def close_workers(at_once: bool = False) -> None:
    """End the worker processes that :func:`map_items` keeps for the next step; ``at_once`` kills what they work on."""
    while _pools:
        executor = _pools.pop().executor
        # Python 3.14 has terminate_workers(); before, the processes are only known by this private name.
        processes = list((getattr(executor, "_processes", None) or {}).values())
        executor.shutdown(wait=not at_once, cancel_futures=True)
        if at_once:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(timeout=10)


_END: Any = object()


def _call_packed(packed: bytes) -> bytes:
    """Unpack, call, pack: as plain bytes, since tensors sent the usual way are open files that a kill leaves behind."""
    function, item = pickle.loads(packed)
    return pickle.dumps(_call(function, item))


def _call(function: Callable[[Item], Result], item: Item) -> tuple[Result | _Raised, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CryoPrismWarning)
        try:
            result: Result | _Raised = function(item)
        except Exception as error:
            result = _Raised(error)
    return result, [str(entry.message) for entry in caught if issubclass(entry.category, CryoPrismWarning)]


def _prepare_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    # Ctrl-C reaches the whole process group: the parent alone decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _named(error: Exception, name: str) -> Exception:
    if isinstance(error, CryoPrismError):
        if re.search(rf"(^|[/\s']){re.escape(name)}([.:\s']|$)", error.where):
            return error
        return type(error)(f"{name}: {error.where}", error.found, error.remedy)
    error.add_note(f"while working on {name}")
    return error
