"""Choosing a device on purpose: what the user asked for or an error, never a silent fallback."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from .errors import InputError

__all__ = ["resolve_device", "single_threaded"]

P = ParamSpec("P")
R = TypeVar("R")


def single_threaded(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function with one thread of torch.

    For work on small tensors: handing a thousandth of a second's work to several threads costs more than it saves, and
    a hundred times more while other processes want the cores.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        threads = torch.get_num_threads()
        if threads == 1:
            return function(*args, **kwargs)
        torch.set_num_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_num_threads(threads)

    return run


def resolve_device(name: str = "cpu") -> torch.device:
    """Turn ``cpu``, ``cuda``, ``cuda:1`` or ``mps`` into a device that really works.

    Raises
    ------
    InputError
        The name is unknown or the machine has no such device. CryoPrism never falls back to another one.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError("--device", f"'{name}' is not a device name", "Use cpu, cuda, cuda:N or mps.") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InputError(
                "--device",
                f"'{name}' was asked for but {count} CUDA devices are usable",
                "Ask for --device cpu, or install a torch build for your GPU and driver.",
            )
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("--device", "'mps' is not usable on this machine", "Ask for --device cpu.")
    elif device.type != "cpu":
        raise InputError("--device", f"'{name}' is not supported", "Use cpu, cuda, cuda:N or mps.")
    return device
