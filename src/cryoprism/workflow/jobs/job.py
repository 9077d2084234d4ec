"""Job folders: what was run, on what, what came out; whole outputs only; a killed run resumes where it stopped."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import logging
import platform
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, TextIO

from cryoprism import __version__
from cryoprism.core import InputError

from .config import JobConfig
from .files import TEMPORARY_PREFIX, fingerprint, write_json, write_text
from .resume import (
    FAILURE_MARKER,
    LOCK,
    RECORDS,
    RELION_OWN,
    SUCCESS_MARKER,
    changed_files,
    changed_options,
    discard,
    holds_only_traces,
    make_folder,
    read_record,
)

__all__ = ["FAILURE_MARKER", "SUCCESS_MARKER", "Job", "open_job"]

_PACKAGES = ("torch", "numpy", "scipy", "mrcfile", "starfile", "pydantic")

log = logging.getLogger("cryoprism")


class Job:
    """A job folder that is being written. Made by :func:`open_job`, never directly.

    Attributes
    ----------
    kind
        ``Restore``, ``Simulate`` …
    path
        The folder.
    config
        The validated configuration; it is what ``job.json`` holds.

    ``earlier`` is the ``job.json`` of the run that is continued: its inputs and notes stay until they are replaced.
    """

    def __init__(self, kind: str, path: Path, config: JobConfig, earlier: Mapping[str, Any]) -> None:
        self.kind: Final = kind
        self.path: Final = path
        self.config: Final = config
        self._config_hash: Final = config.result_hash()
        self._record: dict[str, Any] = {
            "schema": "cryoprism-job-1",
            "kind": kind,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "config": config.model_dump(mode="json"),
            "config_hash": self._config_hash,
            "seed": config.seed,
            "versions": _versions(),
            "started": _now(),
            "finished": None,
            "status": "running",
            "inputs": list(earlier.get("inputs", ())),
        }
        if "notes" in earlier:
            # What an earlier run decided holds for what it left: steps that are not done again do not note it again.
            self._record["notes"] = dict(earlier["notes"])

    def record_inputs(self, paths: Iterable[str | Path]) -> None:
        """Write the inputs with their fingerprints into ``job.json``; say which changed since an earlier run."""
        before = {entry.get("path"): entry.get("sha256_of_ends") for entry in self._record["inputs"]}
        self._record["inputs"] = [fingerprint(path) for path in paths]
        self._write_record()
        for entry in self._record["inputs"]:
            if before.get(entry["path"], entry["sha256_of_ends"]) != entry["sha256_of_ends"]:
                log.info("%s has changed since the earlier run: what depends on it is done again", entry["path"])

    def note(self, key: str, value: Any) -> None:
        """Keep a JSON value under ``notes`` in ``job.json``: a count, a duration, a decision."""
        self._record.setdefault("notes", {})[key] = value
        self._write_record()

    def folder(self, name: str) -> Path:
        """Make and return a folder inside the job."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def mark_done(
        self,
        name: str,
        *,
        stage: str,
        source: str | Path | None = None,
        outputs: Sequence[Path] = (),
        depends_on: str = "",
        result: Any = None,
    ) -> None:
        """Record that ``stage`` of the micrograph ``name`` is finished.

        Parameters
        ----------
        name
            Name of the micrograph, as in the catalogue.
        stage
            ``estimate``, ``restore`` …
        source
            The input file; if it changes, the work is done again.
        outputs
            Files inside the job folder that this stage wrote; if one goes missing or changes size, the work is done
            again.
        depends_on
            Hash or text of whatever else decides the result, for example the session's priors.
        result
            A JSON value to be had back by :meth:`done_result`.
        """
        record = {
            "name": name,
            "stage": stage,
            "config_hash": self._config_hash,
            "depends_on": depends_on,
            "source": fingerprint(source) if source is not None else None,
            "outputs": {str(path.relative_to(self.path)): path.stat().st_size for path in outputs},
            "result": result,
        }
        write_json(self._record_path(name, stage), record)

    def is_done(self, name: str, *, stage: str, source: str | Path | None = None, depends_on: str = "") -> bool:
        """Whether ``stage`` of ``name`` was finished with this configuration and input, and its outputs are there."""
        record = self._read(name, stage)
        if record is None or record["config_hash"] != self._config_hash or record["depends_on"] != depends_on:
            return False
        if source is not None and not _same_source(record["source"], source):
            return False
        return all(_size(self.path / output) == size for output, size in record["outputs"].items())

    def done_result(self, name: str, *, stage: str) -> Any:
        """Return the ``result`` that :meth:`mark_done` was given, or None."""
        record = self._read(name, stage)
        return None if record is None else record["result"]

    def write_relion_output_nodes(self, nodes: Mapping[str, int]) -> None:
        """Tell RELION's pipeline what came out of an external job: file inside the folder to RELION 3.1 node type.

        Type 0 is a STAR file of movies, 1 one of micrographs, 2 coordinates of particles, 3 a STAR file of particles.
        """
        rows = "".join(f"{self.path.as_posix()}/{name} {kind}\n" for name, kind in nodes.items())
        header = "\ndata_output_nodes\n\nloop_\n_rlnPipeLineNodeName #1\n_rlnPipeLineNodeType #2\n"
        write_text(self.path / "RELION_OUTPUT_NODES.star", header + rows + "\n")

    def _record_path(self, name: str, stage: str) -> Path:
        digest = hashlib.sha256(f"{stage}\x1f{name}".encode()).hexdigest()[:12]
        return self.path / RECORDS / f"{Path(name).stem[:80]}-{stage}-{digest}.json"

    def _read(self, name: str, stage: str) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(self._record_path(name, stage).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return record

    def _write_record(self) -> None:
        write_json(self.path / "job.json", self._record)

    def _start(self) -> None:
        for marker in (SUCCESS_MARKER, FAILURE_MARKER):
            (self.path / marker).unlink(missing_ok=True)
        self._remove_leftovers()
        self._write_record()

    def _remove_leftovers(self) -> None:
        """Remove what a killed run, or a killed worker of this one, left half written."""
        for pattern in (f"{TEMPORARY_PREFIX}*", ".*.????????.tmp"):
            for leftover in self.path.rglob(pattern):
                leftover.unlink(missing_ok=True)

    def _finish(self, status: str) -> None:
        self._record.update(finished=_now(), status=status)
        self._write_record()
        (self.path / (SUCCESS_MARKER if status == "success" else FAILURE_MARKER)).touch()


@contextmanager
def open_job(kind: str, config: JobConfig, *, root: str | Path = ".", in_stages: bool = False) -> Iterator[Job]:
    """Open the folder of a job and leave it with exactly one of RELION's exit markers.

    The folder is ``config.output``, or the next free ``root/KIND/jobNNN``. Inside the block, log records of the
    ``cryoprism`` logger and warnings go to ``run.log`` as well.

    A folder that was made here, and in which a run was refused (``InputError``, ``OSError``) before anything came out,
    is removed again: the command with corrected options finds no obstacle. One that was there before, as RELION makes
    it, gets the failure marker, and what such a run left in it does not count as content the next time.

    ``only_do_unfinished`` continues the same job: options that decide the result have to be those of the earlier run,
    since nothing that is there could be kept otherwise. A job ``in_stages`` judges that stage by stage itself.

    Raises
    ------
    InputError
        The folder exists and holds something but neither ``only_do_unfinished`` nor ``overwrite`` is set, belongs to
        another kind of job, was begun with other options, or another run is writing into it.
    """
    if config.output is None:
        path, made = _next_folder(Path(root) / kind)
    else:
        path, made = config.output, _made(config.output)
    refused = False
    lock = _claim(kind, path, config, in_stages)
    try:
        record = read_record(path) if config.only_do_unfinished else {}
        job = Job(kind, path, config, record)
        job._start()
        with _logging_to(path / "run.log"):
            log.info("CryoPrism %s, %s in %s", __version__, kind, path)
            _say_what_is_done_again(config, record)
            try:
                yield job
            except BaseException as error:
                status = "interrupted" if isinstance(error, KeyboardInterrupt | GeneratorExit) else "failure"
                log.debug("%s", status, exc_info=error)
                _finish_anyway(job, status)
                refused = isinstance(error, InputError | OSError)
                raise
            job._finish("success")
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)  # many writers do not say where the disk is full
        raise
    finally:
        lock.close()
        if refused and path in made and holds_only_traces(path):
            discard(path, made)


def _finish_anyway(job: Job, status: str) -> None:
    # On a full disk even the marker may fail; the first error is the one worth telling.
    try:
        job._remove_leftovers()
        job._finish(status)
    except OSError:
        log.debug("the marker could not be written", exc_info=True)


def _say_what_is_done_again(config: JobConfig, record: Mapping[str, Any]) -> None:
    earlier, version = record.get("config", {}), record.get("versions", {}).get("cryoprism", __version__)
    for text in changed_files(config, earlier):
        log.info("%s: what depends on it is done again", text)
    if version != __version__:
        log.info("The earlier run was made by CryoPrism %s: all is done again", version)


def _next_folder(parent: Path) -> tuple[Path, list[Path]]:
    made = make_folder(parent)
    numbers = [int(p.name[3:]) for p in parent.glob("job[0-9]*") if p.name[3:].isdigit()]
    number = max(numbers, default=0) + 1
    while True:
        path = parent / f"job{number:03d}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path, [path, *made]


def _made(path: Path) -> list[Path]:
    if path.exists() and not path.is_dir():
        raise InputError(path, "is a file, not a folder", "Name another folder in --out.")
    return make_folder(path)


def _claim(kind: str, path: Path, config: JobConfig, in_stages: bool) -> IO[str]:
    foreign = [entry.name for entry in path.iterdir() if entry.name not in RELION_OWN | {LOCK}]
    if foreign and not holds_only_traces(path):
        _require_the_same_job(kind, path, config, len(foreign), in_stages)
    lock = (path / LOCK).open("a", encoding="utf-8")
    try:
        _lock(lock)
    except OSError as error:
        lock.close()
        raise InputError(
            path, "another run is writing into this folder", "Wait for it or name another folder."
        ) from error
    if config.overwrite:
        for record in (path / RECORDS).glob("*.json"):
            record.unlink()
    return lock


def _require_the_same_job(kind: str, path: Path, config: JobConfig, entries: int, in_stages: bool) -> None:
    if not (config.only_do_unfinished or config.overwrite):
        raise InputError(
            path,
            f"the folder already holds {entries} entries",
            "Add --only-do-unfinished to continue, --overwrite to start over, or name another folder in --out.",
        )
    record = read_record(path)
    if record.get("kind") != kind:
        earlier = record.get("kind")
        what = "no CryoPrism job" if earlier is None else f"a {earlier} job, not a {kind} job"
        raise InputError(path, f"the folder holds {what}", "Name another folder in --out.")
    if config.only_do_unfinished and not in_stages and (changes := changed_options(config, record.get("config", {}))):
        raise InputError(
            path,
            f"was begun with other options: {'; '.join(changes)}",
            "Give the same options to continue, --overwrite to start over, or another folder in --out.",
        )


def _lock(stream: IO[str]) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


class _LogFile(logging.FileHandler):
    """A log that goes silent where the disk is full: the job's own error says so."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(logging.DEBUG)
    level, show = log.level, warnings.showwarning

    def also_to_file(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        handler.handle(log.makeRecord(log.name, logging.WARNING, filename, lineno, str(message), (), None))
        show(message, category, filename, lineno, file, line)

    log.addHandler(handler)
    log.setLevel(min(level, logging.DEBUG) if level else logging.DEBUG)
    warnings.showwarning = also_to_file
    try:
        yield
    finally:
        warnings.showwarning = show
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()


def _versions() -> dict[str, str]:
    versions = {"cryoprism": __version__, "python": platform.python_version(), "system": platform.system()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return versions


def _same_source(record: Mapping[str, Any] | None, source: str | Path) -> bool:
    if record is None:
        return False
    now = fingerprint(source)
    # A copy elsewhere with the same content is the same input.
    return all(record.get(key) == now[key] for key in ("bytes", "sha256_of_ends"))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
