"""How far a run is and how long it still takes: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["ConsoleHandler", "console", "progress"]

log = logging.getLogger("cryoprism")

#: Call it once per finished item, with the item's name.
Step = Callable[[str], None]

_SECONDS_BETWEEN_LINES = 30.0


@lru_cache(maxsize=1)
def console() -> Console:
    """Return the one console on stderr that bars, log lines and warnings share, so that they do not tear each other."""
    return Console(stderr=True)


class ConsoleHandler(logging.Handler):
    """Log records as plain lines on the shared console."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            console().print(self.format(record), markup=False, highlight=False, soft_wrap=True)
        except Exception:
            self.handleError(record)


@contextmanager
def progress(label: str, total: int, *, to: Console | None = None) -> Iterator[Step]:
    """Show progress over ``total`` items while the block runs.

    On a terminal a bar with count, elapsed and remaining time. Elsewhere a log line at the first item, at the last,
    and between them at every tenth of the way or every 30 seconds, whichever comes later.

    Parameters
    ----------
    label
        What is being done, for example ``Estimating causes``.
    total
        Number of items.
    to
        Another console, for tests.

    Yields
    ------
    Callable
        To be called with the name of each finished item.
    """
    target = to or console()
    if target.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[item]}"),
        )
        with Progress(*columns, console=target, transient=False) as bar:
            task = bar.add_task(label, total=total, item="")
            yield lambda name: bar.update(task, advance=1, item=name)
        return
    yield _line_logger(label, total)


def _line_logger(label: str, total: int, clock: Callable[[], float] = time.monotonic) -> Step:
    started = last = clock()
    done = shown = 0

    def step(name: str) -> None:
        nonlocal done, shown, last
        done += 1
        now = clock()
        tenth = done - shown >= max(1, total // 10)
        if done not in (1, total) and not (tenth and now - last >= _SECONDS_BETWEEN_LINES):
            return
        shown, last = done, now
        left = (now - started) / done * (total - done)
        log.info("%s: %d of %d, %s left (%s)", label, done, total, _duration(left), name)

    return step


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
