"""How much memory a run needs, said before it starts; micrographs too large for the machine are worked on in tiles."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from cryoprism.core import CryoPrismWarning, InputError

__all__ = ["MemoryPlan", "available_memory_in_bytes", "estimate_memory_in_bytes", "plan_memory"]

GIGABYTE = 1_000_000_000

# Resident size of one process with torch, scipy and the program loaded, and float32 images alive at the peak of the
# work on one micrograph (image, transforms, their products).
_PROCESS_BYTES = 450_000_000
_IMAGES_ESTIMATE = 8
_IMAGES_VIEWS = 16
_FLOAT = 4
_SMALLEST_TILE = 1024
_TILE_STEP = 256


@dataclass(frozen=True)
class MemoryPlan:
    """What a run will use.

    Attributes
    ----------
    workers
        Processes, at most as many as were asked for.
    bytes_per_worker
        Peak of one of them.
    available_bytes
        What the machine, its container or ``--max-memory`` leaves.
    tile
        (height, width) [pixels] of the pieces in which views are restored; None for whole micrographs.
    """

    workers: int
    bytes_per_worker: int
    available_bytes: int
    tile: tuple[int, int] | None

    @property
    def total_bytes(self) -> int:
        """Peak of all workers together."""
        return self.workers * self.bytes_per_worker

    def __str__(self) -> str:
        tiles = "whole micrographs" if self.tile is None else f"tiles of {self.tile[1]}×{self.tile[0]} pixels"
        return (
            f"Memory: about {self.total_bytes / GIGABYTE:.1f} GB for {self.workers} worker(s) on {tiles}, "
            f"{self.available_bytes / GIGABYTE:.1f} GB available"
        )


def estimate_memory_in_bytes(
    shape: tuple[int, int], *, frames: int = 1, views: bool = True, tile: tuple[int, int] | None = None
) -> int:
    """Peak memory [bytes] of the process that works on one micrograph.

    Parameters
    ----------
    shape
        (height, width) [pixels].
    frames
        Frames of a movie that are in memory together; 1 for a micrograph.
    views
        Whether views, residuals and deviations are made.
    tile
        Size of the pieces the views are restored in; the input image itself always stays whole.
    """
    pixels = shape[0] * shape[1]
    worked_on = pixels if tile is None else min(pixels, tile[0] * tile[1])
    images = _IMAGES_ESTIMATE + (_IMAGES_VIEWS if views else 0)
    # With tiles, the input and the four outputs are still whole images.
    whole = pixels * (max(frames, 1) + (4 if views and tile is not None else 0))
    return _PROCESS_BYTES + _FLOAT * (images * worked_on + whole)


def available_memory_in_bytes() -> int:
    """Memory that is free now: the least of what the system and the container's limit leave."""
    limits = [_system_available()]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        most, now = _number(limit), _number(used)
        if most is not None and now is not None:
            limits.append(max(most - now, 0))
    return min(limits)


def _system_available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES"))


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def plan_memory(
    shape: tuple[int, int],
    *,
    workers: int = 1,
    frames: int = 1,
    views: bool = True,
    limit_in_bytes: int | None = None,
) -> MemoryPlan:
    """Choose workers and tiles so that a run fits; the largest micrograph of the session decides.

    Fewer workers are tried before tiles, tiles before giving up. The caller shows the plan before it starts.

    Parameters
    ----------
    shape
        (height, width) [pixels] of the largest micrograph.
    workers
        Processes that were asked for.
    frames, views
        As in :func:`estimate_memory_in_bytes`.
    limit_in_bytes
        What ``--max-memory`` says; what is free now if absent.

    Raises
    ------
    InputError
        Not even one worker on the smallest tiles fits.
    """
    available = available_memory_in_bytes() if limit_in_bytes is None else limit_in_bytes
    need = estimate_memory_in_bytes(shape, frames=frames, views=views)
    if need <= available:
        fitting = min(workers, available // need)
        if fitting < workers:
            warnings.warn(
                f"--workers: {workers} would need about {workers * need / GIGABYTE:.1f} GB but "
                f"{available / GIGABYTE:.1f} GB may be used. Going on with {fitting}",
                CryoPrismWarning,
                stacklevel=2,
            )
        return MemoryPlan(fitting, need, available, None)
    side = _TILE_STEP * (math.isqrt(shape[0] * shape[1]) // _TILE_STEP)
    while side >= _SMALLEST_TILE:
        need = estimate_memory_in_bytes(shape, frames=frames, views=views, tile=(side, side))
        if need <= available:
            return MemoryPlan(1, need, available, (side, side))
        side -= _TILE_STEP
    raise InputError(
        f"a micrograph of {shape[1]}×{shape[0]} pixels" + (f" and {frames} frames" if frames > 1 else ""),
        f"needs about {need / GIGABYTE:.1f} GB but {available / GIGABYTE:.1f} GB may be used",
        "Free memory, raise --max-memory, or bin the micrographs.",
    )
