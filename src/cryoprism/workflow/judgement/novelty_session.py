"""``cryoprism novelty``: an index of known shapes, and how new a map or a model is against it."""

from __future__ import annotations

import datetime
import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryoprism import __version__
from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.evaluation.novelty import (
    Descriptor,
    Novelty,
    ShapeIndex,
    describe_file,
    kind_of_file,
    novelty_of,
    require_faiss,
    require_index,
    write_shapes,
)
from cryoprism.formats import sha256_of_file
from cryoprism.workflow.jobs.files import all_or_none, naming_pixel_size, write_json
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.progress import progress
from cryoprism.workflow.jobs.summary import StepSummary
from cryoprism.workflow.report import novelty_report

from .novelty_configs import NoveltyAddConfig, NoveltyBuildConfig, NoveltyQueryConfig

__all__ = ["NoveltyIndexSummary", "NoveltyQuerySummary", "add_to_index", "build_index", "query_novelty"]

log = logging.getLogger("cryoprism")


@dataclass(frozen=True, kw_only=True)
class NoveltyIndexSummary(StepSummary):
    """What building an index, or adding to it, came to.

    Attributes
    ----------
    index
        Folder of the index.
    entries, added
        Shapes in it, and those that are new.
    failed
        Files that could not be used, with the reason.
    """

    index: Path
    entries: int
    added: int
    failed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class NoveltyQuerySummary(StepSummary):
    """What asking an index came to.

    Attributes
    ----------
    novelty
        The answer and what it rests on; None where it was asked before.
    sentences
        The answer in words.
    """

    novelty: Novelty | None
    sentences: tuple[str, ...]


def build_index(config: NoveltyBuildConfig) -> NoveltyIndexSummary:
    """Run ``cryoprism novelty build``: an index of the shapes of maps and models, in the job's own folder.

    Raises
    ------
    InputError
        No file can be used, the folder holds something else, another run writes into it, or faiss is absent.
    """
    started = time.monotonic()
    require_faiss()
    files = _files(config.inputs)
    with open_job("NoveltyIndex", config) as job:
        job.record_inputs(files)
        others = ";".join(map(sha256_of_file, files))
        if config.only_do_unfinished and job.is_done("index", stage="novelty", depends_on=others):
            kept = job.done_result("index", stage="novelty")
            failed = tuple((name, why) for name, why in kept["failed"])
            return NoveltyIndexSummary(
                output=job.path, index=job.path, entries=kept["entries"], added=0, failed=failed, skipped=True
            )
        page = {"resolution_in_angstroms": config.resolution_in_angstroms, "cryoprism_version": __version__}
        entries, added, failed = _write(job, job.path, files, config, config.resolution_in_angstroms, page, fresh=True)
        job.mark_done(
            "index",
            stage="novelty",
            outputs=[job.path / "index.json"],
            depends_on=others,
            result={"entries": entries, "failed": [list(one) for one in failed]},
        )
    return NoveltyIndexSummary(
        output=job.path, index=job.path, entries=entries, added=added, failed=failed, seconds=time.monotonic() - started
    )


def add_to_index(config: NoveltyAddConfig) -> NoveltyIndexSummary:
    """Run ``cryoprism novelty add``: more shapes for an index; files that it holds already are left out.

    Raises
    ------
    InputError
        As :func:`build_index`, or the index is missing, damaged or of another descriptor.
    """
    started = time.monotonic()
    files = _files(config.inputs)
    opened = ShapeIndex.open(config.index)
    resolution = float(opened.page["resolution_in_angstroms"])
    with open_job("NoveltyAdd", config) as job:
        job.record_inputs(files)
        page = {key: opened.page[key] for key in ("resolution_in_angstroms", "cryoprism_version")}
        page["last_added"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entries, added, failed = _write(job, config.index, files, config, resolution, page, fresh=False)
    return NoveltyIndexSummary(
        output=job.path,
        index=config.index,
        entries=entries,
        added=added,
        failed=failed,
        seconds=time.monotonic() - started,
    )


def query_novelty(config: NoveltyQueryConfig) -> NoveltyQuerySummary:
    """Run ``cryoprism novelty query``: ``novelty.json`` and ``report.html`` with pictures of the nearest shapes.

    Raises
    ------
    InputError
        The file cannot be used, or the index is missing, damaged or of another descriptor.
    """
    started = time.monotonic()
    if not config.model_or_map.is_file():
        raise InputError(config.model_or_map, "does not exist", "Give a map (.mrc) or a model (.pdb, .cif).")
    if config.index is not None:
        require_index(config.index)
    with open_job("Novelty", config) as job, all_or_none(job.path, "novelty.json", "report.html"):
        inputs = [config.model_or_map, *([] if config.index is None else [config.index / "index.json"])]
        job.record_inputs(inputs)
        state = ";".join(map(sha256_of_file, inputs))
        if config.only_do_unfinished and job.is_done(
            "novelty", stage="novelty", source=config.model_or_map, depends_on=state
        ):
            kept = job.done_result("novelty", stage="novelty")
            return NoveltyQuerySummary(output=job.path, novelty=None, sentences=tuple(kept), skipped=True)
        with naming_pixel_size():
            found = novelty_of(
                config.model_or_map,
                config.index,
                assembly=config.assembly,
                voxel_size_in_angstroms=config.voxel_size_in_angstroms,
                neighbours=config.neighbours,
                prior=config.prior,
            )
        document = {"schema": "cryoprism-novelty-1", "cryoprism_version": __version__, **found.answer().to_json()}
        write_json(job.path / "novelty.json", document)
        title = f"Novelty of {config.model_or_map.name}"
        outputs = [job.path / "novelty.json", novelty_report(job.path, found, title=title)]
        sentences = found.sentences()
        job.mark_done(
            "novelty",
            stage="novelty",
            source=config.model_or_map,
            outputs=outputs,
            depends_on=state,
            result=list(sentences),
        )
    return NoveltyQuerySummary(output=job.path, novelty=found, sentences=sentences, seconds=time.monotonic() - started)


def _files(inputs: Sequence[str]) -> list[Path]:
    """Files that were named, and the maps and models in folders that were, in order of their names."""
    files: list[Path] = []
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            if not os.access(path, os.R_OK | os.X_OK):
                raise InputError(
                    path, "cannot be read: permission denied", "Give yourself the right to read it (chmod)."
                )
            inside = [one for one in sorted(path.rglob("*")) if one.is_file() and kind_of_file(one) is not None]
            if not inside:
                raise InputError(
                    path, "holds no map and no model", "Name a folder with .mrc, .map, .pdb or .cif files."
                )
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(path, "does not exist", "Name maps, models, or folders of them.")
    return list(dict.fromkeys(files))


def _write(
    job: Job,
    index: Path,
    files: Sequence[Path],
    config: NoveltyBuildConfig | NoveltyAddConfig,
    resolution: float,
    page: dict[str, object],
    *,
    fresh: bool,
) -> tuple[int, int, tuple[tuple[str, str], ...]]:
    with progress("Describing shapes", len(files)) as step:

        def described() -> Iterator[tuple[Path, Descriptor | InputError]]:
            for path in files:
                try:
                    with naming_pixel_size():
                        found = describe_file(
                            path,
                            resolution_in_angstroms=resolution,
                            assembly=config.assembly,
                            voxel_size_in_angstroms=config.voxel_size_in_angstroms,
                        )
                except InputError as error:
                    yield path, error
                else:
                    yield path, found
                step(path.name)

        written = write_shapes(index, described(), fresh=fresh, page=dict(page))
    failed = tuple((str(path), str(error)) for path, error in written.refused)
    for name, why in failed:
        log.debug("%s left out: %s", name, why)
    if written.known:
        log.info("%d files are in the index already", written.known)
    for note in written.notes:
        warnings.warn(note, CryoPrismWarning, stacklevel=2)
    job.note("entries", written.entries)
    job.note("added", written.added)
    job.note("left_out", [list(one) for one in failed])
    return written.entries, written.added, failed
