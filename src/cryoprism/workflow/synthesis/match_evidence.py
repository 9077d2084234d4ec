"""What a match rests on, told by content: whether one of an earlier run still stands."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

from cryoprism.formats import Catalogue
from cryoprism.workflow.jobs.files import fingerprint
from cryoprism.workflow.jobs.job import Job

from .configs import SynthesizeConfig
from .matching import read_picks

__all__ = ["MATCH", "evidence_of", "standing_match"]

MATCH = "match"

log = logging.getLogger("cryoprism")


def evidence_of(config: SynthesizeConfig, catalogue: Catalogue, names: Sequence[str]) -> str:
    """Hash of all files that decide a match and what is made from it.

    That is the content of the maps, and of the micrographs called ``names`` with their lens, CTF and coordinates. Other
    micrographs do not count: a session may grow. Where a file lies does not count either.
    """
    digest = hashlib.sha256()

    def add(*values: object) -> None:
        digest.update(json.dumps([str(value) for value in values]).encode())

    for file in config.map_files():
        add(*_content(file))
    records = sorted((record for record in catalogue if record.name in names), key=lambda record: record.name)
    for record in records:
        optics = catalogue.optics_of(record)
        lens = (
            optics.voltage_in_kilovolts,
            optics.spherical_aberration_in_millimeters,
            optics.amplitude_contrast,
            optics.pixel_size_in_angstroms,
        )
        add(record.name, *_content(record.path), *lens, record.ctf)
    if config.coordinates is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said already where they are used
            picks = read_picks(config.coordinates, records, catalogue)
        for name in sorted(picks):
            add(name, picks[name].tolist())
    return digest.hexdigest()[:16]


def _content(file: Path) -> tuple[str | int, str | int]:
    found = fingerprint(file)
    return found["bytes"], found["sha256_of_ends"]


def standing_match(config: SynthesizeConfig, job: Job, catalogue: Catalogue) -> tuple[list[str], str] | None:
    """Names of the micrographs that an earlier run of this job has matched, and the evidence; None where it is void."""
    if not config.only_do_unfinished:
        return None
    names = job.done_result("session", stage=MATCH)
    if not names:
        return None
    gone = [name for name in names if name not in {record.name for record in catalogue}]
    if not gone:
        evidence = evidence_of(config, catalogue, names)
        if job.is_done("session", stage=MATCH, depends_on=evidence):
            return names, evidence
    why = f"{gone[0]} is not among the real micrographs now" if gone else "its maps, micrographs or coordinates changed"
    log.info("The earlier run's match does not hold (%s): all is made again", why)
    return None
