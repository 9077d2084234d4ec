"""Job records and the chain they make: what was run, on what, and which jobs made what it was run on.

A record is a folder with ``job.json`` (``cryoprism-job-1``). Paths in it are meant from the folder in which the command
was called, which it does not say: it is the one from which its own folder and its inputs are found.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from cryoprism.core import InputError
from cryoprism.evaluation.documents import UnreadableError, number_in, read_json
from cryoprism.formats import sha256_of_ends

__all__ = ["Input", "Record", "chain_of", "read_record"]

_SCHEMA: Final = "cryoprism-job-1"
_NEEDED: Final = {"kind": str, "config": dict, "versions": dict, "inputs": list, "status": str}
_KIND: Final = re.compile(r"[A-Z][A-Za-z]{0,40}")
# Job folders lie at most so far above the files that they hold (particles/NAME.mrcs …).
_LEVELS: Final = 3


@dataclass(frozen=True)
class Input:
    """A file that a job read, and whether it is still what it was."""

    path: Path
    bytes: int
    state: Literal["same", "changed", "absent"]


@dataclass(frozen=True, eq=False)
class Record:
    """What ``job.json`` says.

    Attributes
    ----------
    folder
        The job folder.
    kind
        ``Refine``, ``Resolution`` …
    config, versions, notes
        As recorded.
    seed
        Of every random number; None where it was not recorded.
    status
        ``success``, ``failure``, ``interrupted``, ``running``.
    seconds
        Wall time, to the second; None where the job has not ended.
    base
        From where its paths are meant.
    inputs
        Files that it read.
    typed
        The command line after the program's name.
    started
        When, as recorded (ISO 8601).
    """

    folder: Path
    kind: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    seed: int | None
    status: str
    seconds: float | None
    base: Path
    inputs: tuple[Input, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)
    typed: tuple[str, ...] = ()
    started: str = ""

    @property
    def command(self) -> str:
        """Name of the command that makes such a record: ``initial-model`` for ``InitialModel``."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", self.kind).lower()

    def parts(self) -> tuple[Record, ...]:
        """Return the records of the steps that one command ran as jobs in folders of this one's, as ``process`` does.

        A job of another command, written into this folder later, is no part of it.
        """
        found = []
        for place in sorted(path.parent for path in self.folder.glob("*/job.json")):
            try:
                one = read_record(place)
            except InputError:
                continue
            if one.typed[:1] == self.typed[:1]:
                found.append(one)
        return tuple(sorted(found, key=lambda one: one.started))

    def files(self) -> tuple[Path, ...]:
        """Files and folders that the configuration names and that are there, and the inputs that are there."""
        named = [text for value in self.config.values() for text in (value if isinstance(value, list) else [value])]
        paths = [self.base / text for text in named if isinstance(text, str) and text and len(text) < 1000]
        own = self.folder.resolve()
        found = [*paths, *(one.path for one in self.inputs)]
        return tuple(dict.fromkeys(path for path in found if _exists(path) and path.resolve() != own))


def read_record(folder: str | Path) -> Record:
    """Read the record of a job folder (or its ``job.json``).

    Raises
    ------
    InputError
        There is no folder, no ``job.json`` in it, it may not be read, is half written, or lacks what a record has.
    """
    place = Path(folder)
    if place.name == "job.json":
        place = place.parent
    if not place.is_dir():
        raise InputError(place, "is no folder", "Name the folder of a job, for example Refine/job004.")
    path = place / "job.json"
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise InputError(place, "holds no job.json", "Name the folder of a CryoPrism job.") from None
    except UnreadableError as error:
        denied = isinstance(error.__cause__, PermissionError)
        remedy = "Give yourself the right to read it (chmod)." if denied else "Run the job again."
        raise InputError(path, f"cannot be read: {error}", remedy) from None
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA:
        raise InputError(path, f"is no record of the form {_SCHEMA}", "Name the folder of a CryoPrism job.")
    for name, kind in _NEEDED.items():
        if not isinstance(content.get(name), kind):
            raise InputError(path, f"has no '{name}'", "Run the job again with --overwrite.")
    if not _KIND.fullmatch(content["kind"]):
        raise InputError(path, f"'{content['kind'][:40]}' is no kind of job", "Run the job again with --overwrite.")
    entries = [entry for entry in content["inputs"] if isinstance(entry, dict) and isinstance(entry.get("path"), str)]
    base = _base(place, content["config"], [entry["path"] for entry in entries])
    seed = content.get("seed")
    return Record(
        folder=place,
        kind=content["kind"],
        config=content["config"],
        versions={str(name): str(version) for name, version in content["versions"].items()},
        seed=seed if isinstance(seed, int) and not isinstance(seed, bool) else None,
        status=content["status"],
        seconds=_seconds(content.get("started"), content.get("finished")),
        base=base,
        inputs=tuple(_input(base, entry) for entry in entries),
        notes=content.get("notes", {}) if isinstance(content.get("notes", {}), dict) else {},
        typed=tuple(map(str, typed[1:])) if isinstance(typed := content.get("command"), list) else (),
        started=str(content.get("started")),
    )


def chain_of(record: Record) -> tuple[Record, ...]:
    """Return the record, those of its parts and of the jobs whose files it was run on, and theirs, the nearest first.

    A job folder whose record cannot be read ends the chain there: its files count as given.
    """
    found = {record.folder.resolve(): record}
    queue = [record]
    while queue:
        one = queue.pop(0)
        for part in reversed(one.parts()):
            if part.folder.resolve() not in found:
                found[part.folder.resolve()] = part
                queue.append(part)
        for path in one.files():
            place = _job_folder(path.resolve())
            if place is None or place in found:
                continue
            try:
                found[place] = read_record(place)
            except InputError:
                continue
            queue.append(found[place])
    return tuple(found.values())


def _job_folder(path: Path) -> Path | None:
    for place in (path, *path.parents)[: _LEVELS + 1]:
        if (place / "job.json").is_file():
            return place
    return None


def _base(folder: Path, config: Mapping[str, Any], inputs: list[str]) -> Path:
    whole = folder.resolve()
    candidates = [Path.cwd(), whole.parent, whole.parent.parent]
    output = config.get("output")
    relative = Path(output) if isinstance(output, str) else Path(whole.parent.name, whole.name)
    depth = len([part for part in relative.parts if part != "."])
    if not relative.is_absolute() and ".." not in relative.parts and whole.parts[-depth:] == relative.parts:
        candidates.insert(0, whole.parents[depth - 1])
    return max(candidates, key=lambda place: sum(_exists(place / name) for name in inputs[:100]))


def _input(base: Path, entry: Mapping[str, Any]) -> Input:
    path = base / entry["path"]
    told = number_in(entry.get("bytes", 0))
    size = int(told) if 0 <= told < math.inf else 0
    try:
        with path.open("rb") as stream:
            same = path.stat().st_size == told and sha256_of_ends(stream) == entry.get("sha256_of_ends")
    except (OSError, ValueError):  # no file can have a name with a NUL in it
        return Input(path, size, "absent")
    return Input(path, size, "same" if same else "changed")


def _seconds(started: object, finished: object) -> float | None:
    try:
        times = [datetime.datetime.fromisoformat(str(text)) for text in (started, finished)]
        return (times[1] - times[0]).total_seconds()
    except (ValueError, TypeError):
        return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
