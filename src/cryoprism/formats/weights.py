"""Networks on disk: weights as safetensors with notes, and the state that an interrupted training goes on from."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cryoprism.core import InputError

from ._files import atomic_writer

__all__ = ["read_checkpoint", "read_weights", "write_checkpoint", "write_weights"]

_ENTRY = "cryoprism"

log = logging.getLogger("cryoprism")


def write_weights(path: str | Path, state: Mapping[str, Tensor], notes: Mapping[str, str]) -> str:
    """Write tensors and notes as safetensors, whole or not at all; returns the file's SHA-256.

    Parameters
    ----------
    state
        Tensors by name, on any device.
    notes
        What is needed to load them; ``format`` among it says whose weights they are.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    # One entry, because the order of several is not kept, and equal weights are to be equal files.
    content = save(tensors, metadata={_ENTRY: json.dumps(dict(notes), sort_keys=True)})
    with atomic_writer(path) as stream:
        stream.write(content)
    return hashlib.sha256(content).hexdigest()


def read_weights(path: str | Path, kind: str, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and notes that :func:`write_weights` wrote.

    Parameters
    ----------
    kind
        What the notes must give as ``format``.
    remedy
        What an error advises.

    Raises
    ------
    InputError
        No such file, no safetensors file, or one of another kind.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(file, "no such file", remedy)
    notes: dict[str, str] = {}
    state: dict[str, Tensor] = {}
    try:
        with safe_open(file, framework="pt") as stored:
            notes = dict(json.loads((stored.metadata() or {}).get(_ENTRY, "{}")))
            state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(file, f"is no safetensors file ({error})"[:200], remedy) from error
    if notes.get("format") != kind:
        raise InputError(file, f"holds '{notes.get('format', 'no format')}', not {kind}", remedy)
    return state, notes


def write_checkpoint(file: Path, identity: str, state: Mapping[str, Any]) -> None:
    """Keep the state of a training; one that is killed while it writes leaves the last whole file behind."""
    with atomic_writer(file) as stream:
        torch.save(dict(state) | {"identity": identity}, stream)


def read_checkpoint(file: Path, identity: str, device: torch.device) -> dict[str, Any] | None:
    """State that :func:`write_checkpoint` kept; None where there is none, or it is of another training."""
    if not file.is_file():
        return None
    try:
        kept: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError):
        log.info("%s cannot be read: training starts anew", file)
        return None
    if kept.get("identity") != identity:
        log.info("%s is of other data or settings: training starts anew", file)
        return None
    return kept
