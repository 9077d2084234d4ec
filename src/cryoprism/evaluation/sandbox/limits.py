"""What foreign code may use, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cryoprism.core import InputError

__all__ = ["Accounting", "Execution", "Isolation", "Limits", "StoppedBy", "Verdict"]

#: ``bubblewrap``: namespaces, read-only system, filter of system calls, limits. ``none``: limits alone.
Isolation = Literal["bubblewrap", "none"]
StoppedBy = Literal["cpu", "memory", "wall", "files", "processes"]
#: ``failed``: it ended by itself, with an exit code that is not 0 or by a signal.
Verdict = Literal["finished", "failed", "stopped"]

_MOST = {
    "cpu_seconds": 1e7,
    "memory_in_gigabytes": 1e5,
    "wall_seconds": 1e7,
    "files_in_megabytes": 1e8,
    "processes": 1e5,
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run may use.

    Attributes
    ----------
    cpu_seconds
        Of all processes together.
    memory_in_gigabytes
        Of all processes together (10⁹ bytes), what they have written and share, and what their sockets and pipes can
        hold; files in memory come on top.
    wall_seconds
        From start to end.
    files_in_megabytes
        Of the output folder, and as much again of each of ``/tmp`` and ``/dev/shm`` (10⁶ bytes). They lie in memory
        until the run has ended.
    processes
        Processes and threads that are there at the same time.
    """

    cpu_seconds: float = 600.0
    memory_in_gigabytes: float = 4.0
    wall_seconds: float = 3600.0
    files_in_megabytes: float = 1000.0
    processes: int = 256

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 < value <= most):
                option = "--" + name.split("_")[0]
                raise InputError(option, f"{value:g} is no limit", f"Give a number above 0 and up to {most:g}.")

    def to_json(self) -> dict[str, float | int]:
        """Return the limits by name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Accounting:
    """What a run used, measured inside, by the process that waits for all others (``wait4``).

    Attributes
    ----------
    wall_seconds
        From the start of the program to the end of its last process.
    user_seconds, system_seconds
        CPU time of all processes that were waited for.
    unwaited_seconds
        CPU time beyond those, seen on processes whose parents did not wait for them.
    peak_memory_in_bytes
        Most that all processes held at once, private and shared, looked at every 10 ms; at least that of the largest
        process, which the kernel keeps.
    kernel_memory_in_bytes
        Most that the kernel can have held beside that for open sockets and pipes, by their number and the size of their
        buffers; of pipes only where it mattered.
    peak_processes
        Most processes and threads that were seen at once.
    started
        Processes and threads that were started; 0 without isolation, where they cannot be told from others.
    outputs_in_bytes, temporary_in_bytes
        Written to the output folder, and most seen in ``/tmp`` and ``/dev/shm``.
    printed_in_bytes
        Written to standard output and error, kept or not.
    """

    wall_seconds: float
    user_seconds: float
    system_seconds: float
    unwaited_seconds: float
    peak_memory_in_bytes: int
    kernel_memory_in_bytes: int
    peak_processes: int
    started: int
    outputs_in_bytes: int
    temporary_in_bytes: int
    printed_in_bytes: int

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all processes."""
        return self.user_seconds + self.system_seconds + self.unwaited_seconds

    def to_json(self) -> dict[str, float | int]:
        """Return the figures by name."""
        return {"cpu_seconds": self.cpu_seconds, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run ended.

    Attributes
    ----------
    command
        What was run, as seen inside.
    isolation
        What stood between it and the machine.
    limits, accounting
        What it was allowed and what it used.
    verdict
        How it ended.
    exit_code, signal
        One of them, where it was not stopped.
    stopped_by
        The limit for which it was ended.
    limits_reached
        Limits that it touched without being ended for them: the system refused what was asked for beyond.
    output
        Folder with what it wrote; None where none was asked for.
    outputs
        Files in it, sorted.
    left_out
        What it left in its folder and is not there now, with the reason: links, devices, files beyond the limit.
    left_behind
        Processes that were still there when the program had ended; they were ended.
    printed, errors
        What it printed, as far as it was kept.
    notes
        What the user has to know: what is not protected, what was cut off.
    """

    command: tuple[str, ...]
    isolation: Isolation
    limits: Limits
    accounting: Accounting
    verdict: Verdict
    exit_code: int | None
    signal: str | None
    stopped_by: StoppedBy | None
    limits_reached: tuple[StoppedBy, ...]
    output: Path | None
    outputs: tuple[str, ...]
    left_out: Mapping[str, str]
    left_behind: int
    printed: bytes = field(repr=False)
    errors: bytes = field(repr=False)
    notes: tuple[str, ...]

    def sentence(self) -> str:
        """Say in words how it ended."""
        if self.verdict == "finished":
            how = "The program finished."
        elif self.stopped_by is not None:
            how = _STOPPED[self.stopped_by].format(**self.limits.to_json())
        else:
            end = f"with exit code {self.exit_code}" if self.signal is None else f"by {self.signal}"
            how = f"The program ended {end}."
        return how + "".join(f" It had reached its limit of {_LIMIT_NAMES[name]}." for name in self.limits_reached)

    def to_json(self) -> dict[str, Any]:
        """Return what ``sandbox.json`` holds."""
        return {
            "schema": "cryoprism-sandbox-1",
            "command": list(self.command),
            "isolation": self.isolation,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "stopped_by": self.stopped_by,
            "limits_reached": list(self.limits_reached),
            "sentence": self.sentence(),
            "limits": self.limits.to_json(),
            "accounting": self.accounting.to_json(),
            "outputs": list(self.outputs),
            "left_out": dict(self.left_out),
            "left_behind": self.left_behind,
            "notes": list(self.notes),
        }


_LIMIT_NAMES = {
    "cpu": "CPU time",
    "memory": "memory",
    "wall": "time",
    "files": "files",
    "processes": "processes",
}
_STOPPED = {
    "cpu": "Stopped: it had used its {cpu_seconds:g} s of CPU time.",
    "memory": "Stopped: its processes, with their sockets and pipes, held more than {memory_in_gigabytes:g} GB.",
    "wall": "Stopped: it had run for {wall_seconds:g} s.",
    "files": "Stopped: it wrote more than {files_in_megabytes:g} MB, or too many files.",
    "processes": "Stopped: it had more than {processes} processes and threads.",
}
