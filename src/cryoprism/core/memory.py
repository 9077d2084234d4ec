"""Memory that a long-running command gives back only at its end."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next tensor instead of handing it back to the system each time.

    Batches of a search free and take hundreds of megabytes many times a second; every page that comes back has to be
    cleared by the system first, which was seen to take a sixth of a refinement's CPU seconds. The process stays at its
    peak until it ends, so this is for commands, not for libraries. Does nothing where there is no glibc.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
