"""Choosing a device on purpose: what the user asked for or an error, never a silent fallback."""

from __future__ import annotations

import torch

from .errors import InputError

__all__ = ["resolve_device"]


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
