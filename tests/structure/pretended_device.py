"""A second device that needs no hardware: what runs on it runs as on a GPU, and mixing it with the CPU is an error.

Tensors of this device hold ordinary numbers but report ``device="meta"``, so that code takes its path for other
devices. As on CUDA, an operation on tensors of both devices raises unless the one on the CPU is a single number or an
index, a generator of the CPU cannot fill a tensor of the device, and numpy does not read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")

_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}


class WrongDeviceError(RuntimeError):
    """What CUDA would refuse."""


class _There(Tensor):
    """Numbers on the pretended device."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> _There:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=DEVICE,
        )
        made.numbers = numbers
        return made

    def tolist(self) -> Any:
        return self.numbers.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _numbers(value: Any) -> Any:
    return value.numbers if isinstance(value, _There) else value


def _there(value: Any) -> Any:
    if isinstance(value, _There) or not isinstance(value, Tensor):
        return value
    # The wrapper cannot carry the marks of lazy conjugates.
    return _There(value.resolve_conj().resolve_neg())


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    wanted = kwargs.get("device")
    leaves = tree_leaves((args, kwargs))
    there = any(isinstance(leaf, _There) for leaf in leaves)
    checked = leaves if func not in _INDEXED else tree_leaves((args[0], args[2:]))
    if func in _INDEXED and not isinstance(args[0], _There) and there:
        raise WrongDeviceError(f"{func}: a tensor of the CPU and indices or values of the device")
    if there and func not in _MOVES and any(type(leaf) is Tensor and leaf.ndim > 0 for leaf in checked):
        raise WrongDeviceError(f"{func}: tensors of two devices")
    if wanted is not None:
        if torch.device(wanted) == DEVICE and isinstance(kwargs.get("generator"), torch.Generator):
            raise WrongDeviceError(f"{func}: a generator of the CPU for a tensor of the device")
        there = torch.device(wanted) == DEVICE
        kwargs = kwargs | {"device": torch.device("cpu")}
    out = func(*tree_map(_numbers, args), **tree_map(_numbers, kwargs))
    if func is torch.ops.aten.copy_.default:
        there = isinstance(args[0], _There)
    return tree_map(_there, out) if there else out


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Written(TorchFunctionMode):
    """``torch.tensor`` never asks a dispatch mode where numbers written in Python go."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return func(*args, **(kwargs | {"device": "cpu"})).to(DEVICE)
        return func(*args, **kwargs)


@contextmanager
def pretended_device() -> Iterator[torch.device]:
    """Within it ``torch.device("meta")`` computes."""
    with _Written(), _Mode():
        yield DEVICE
