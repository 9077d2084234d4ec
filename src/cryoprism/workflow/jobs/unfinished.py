"""What is left to do of a session, micrograph by micrograph; one that cannot be used does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cryoprism.formats import MicrographRecord

from .job import Job
from .parallel import Failure, map_items
from .progress import progress

__all__ = ["do_unfinished"]

log = logging.getLogger("cryoprism")


class _Task(Protocol):
    """Work on one micrograph."""

    @property
    def record(self) -> MicrographRecord: ...


Task = TypeVar("Task", bound=_Task)


def do_unfinished(
    job: Job,
    stage: str,
    tasks: Sequence[Task],
    work: Callable[[Task], Any],
    *,
    title: str,
    source: Callable[[Task], Path],
    outputs: Callable[[Task, Any], Sequence[Path]],
    stamps: Mapping[str, str],
    workers: int,
) -> tuple[tuple[tuple[str, str], ...], int]:
    """Do what an earlier run has not done yet, and record each micrograph that is done.

    Parameters
    ----------
    job, stage
        Where it is recorded, and as what.
    tasks
        One for every micrograph.
    work
        Does a task, in a process of its own where there are several workers; what it returns is kept, as JSON.
    title
        What the progress is called.
    source, outputs
        The file that a task reads; the files that it wrote, by its result.
    stamps
        Name of a micrograph to what else decides its result.
    workers
        Processes.

    Returns
    -------
    failed
        (name, reason) of micrographs that could not be used.
    skipped
        How many were done before.
    """

    def is_done(task: Task) -> bool:
        name = task.record.name
        return job.is_done(name, stage=stage, source=source(task), depends_on=stamps[name])

    todo = [task for task in tasks if not (job.config.only_do_unfinished and is_done(task))]
    names = [task.record.name for task in todo]
    failed: list[tuple[str, str]] = []
    with progress(title, len(todo)) as step:
        results = map_items(work, todo, workers, names=names, keep_going=True, on_result=step)
        for task, name, result in zip(todo, names, results, strict=True):
            if isinstance(result, Failure):
                failed.append((name, str(result.error)))
                log.error("%s: left out: %s", name, result.error)
                continue
            job.mark_done(
                name,
                stage=stage,
                source=source(task),
                outputs=outputs(task, result),
                depends_on=stamps[name],
                result=result,
            )
    return tuple(failed), len(tasks) - len(todo)
