"""What an earlier run left in a job folder: whether it stands in the way, and whether it is the same job."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from .config import JobConfig

__all__ = [
    "FAILURE_MARKER",
    "LOCK",
    "RECORDS",
    "RELION_OWN",
    "SUCCESS_MARKER",
    "changed_files",
    "changed_options",
    "discard",
    "holds_only_traces",
    "make_folder",
    "read_record",
]

SUCCESS_MARKER: Final = "RELION_JOB_EXIT_SUCCESS"
FAILURE_MARKER: Final = "RELION_JOB_EXIT_FAILURE"
RECORDS: Final = ".done"
LOCK: Final = ".lock"
#: RELION makes the folder of an external job and puts these into it before it starts the program.
RELION_OWN: Final = frozenset({
    "run.out", "run.err", "run.job", "note.txt", "job.star", "job_pipeline.star", "default_pipeline.star",
    "continue_job.star", "RELION_JOB_RUNNING", "RELION_JOB_ABORT_NOW", "pipeline_control",
})  # fmt: skip
#: What every run writes about itself, whatever comes out of it.
_TRACES: Final = frozenset({"job.json", "run.log", LOCK, SUCCESS_MARKER, FAILURE_MARKER})


def read_record(folder: Path) -> dict[str, Any]:
    """Content of the folder's ``job.json``; empty where there is none that can be read."""
    try:
        content = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def holds_only_traces(folder: Path) -> bool:
    """Whether a run of CryoPrism has been here and produced nothing: its record, log, marker and empty folders.

    A folder without the record of a run is somebody else's, even where it is empty but for a folder.
    """
    if "kind" not in read_record(folder):
        return False
    return all(
        entry.name in _TRACES | RELION_OWN or (entry.is_dir() and not entry.is_symlink() and _is_empty(entry))
        for entry in folder.iterdir()
    )


def _is_empty(folder: Path) -> bool:
    return not any(files for _, _, files in os.walk(folder)) and not any(p.is_symlink() for p in folder.rglob("*"))


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; the ones that were not there before, the innermost first."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return made


def discard(folder: Path, made: Iterable[Path]) -> None:
    """Remove a folder in which a run left only traces, and those of ``made`` that are empty then.

    Only names that a run writes about itself are removed, and folders only where they are empty.
    """
    for name in _TRACES:
        (folder / name).unlink(missing_ok=True)
    inside = [Path(name) for name, _, _ in os.walk(folder, topdown=False) if Path(name) != folder]
    for path in (*inside, *made):
        try:
            path.rmdir()
        except OSError:
            return


def changed_options(config: JobConfig, earlier: Mapping[str, Any]) -> list[str]:
    """Name the options that decide the result and are not those of an earlier configuration, with both values.

    Files do not count here: what is read is judged by its content.

    Parameters
    ----------
    config
        Of the run that begins.
    earlier
        ``config`` of the earlier ``job.json``. A field that it lacks had its default.
    """
    return [text for name, text in _differences(config, earlier) if name not in config.files()]


def changed_files(config: JobConfig, earlier: Mapping[str, Any]) -> list[str]:
    """Name the options that give other files than an earlier configuration, as :func:`changed_options` does."""
    return [text for name, text in _differences(config, earlier) if name in config.files()]


def _differences(config: JobConfig, earlier: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not earlier:
        return []
    now = config.model_dump(mode="json", exclude=set(config.bookkeeping))
    found = []
    for name, value in now.items():
        before = earlier.get(name, type(config).model_fields[name].default)
        if before != value:
            found.append((name, f"{config.option(name)} was {_text(before)}, now {_text(value)}"))
    return found


def _text(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return " ".join(str(item) for item in value[:3]) + (" …" if len(value) > 3 else "")
    return f"{value:g}" if isinstance(value, float) else str(value)
