"""Random numbers by name: the same seed and key give the same numbers whatever the number or order of workers."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["generator_for"]


def generator_for(seed: int, *keys: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that depends only on ``seed`` and ``keys``.

    Two causes of one scene get independent streams by different keys, so that removing one cause leaves the
    random numbers of all others as they were (common random numbers).

    Parameters
    ----------
    seed
        The run's seed.
    keys
        Anything with a stable ``str``: a micrograph name, the name of a cause, a frame number.
    device
        Device of the generator.
    """
    text = "\x1f".join([str(int(seed)), *(str(key) for key in keys)])
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") & (2**63 - 1)
    return torch.Generator(device=device).manual_seed(number)
