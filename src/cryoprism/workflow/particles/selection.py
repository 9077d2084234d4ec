"""Which micrographs of a session go on, by what its restoration found out about them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryoprism.core import InputError
from cryoprism.particles import MicrographSelection, select_micrographs
from cryoprism.workflow.jobs.config import SelectingConfig
from cryoprism.workflow.jobs.job import Job

__all__ = ["choose_micrographs", "note_left_out", "read_causes"]

log = logging.getLogger("cryoprism")

#: Fields of the configuration, and the arguments of ``select_micrographs`` that they are.
_LIMITS: Final = {
    "max_ctf_resolution_in_angstroms": "max_resolution_in_angstroms",
    "min_information_share": "min_information_share",
    "max_ice_significance": "max_ice_significance",
    "max_astigmatism_in_angstroms": "max_astigmatism_in_angstroms",
    "max_contamination": "max_contamination",
}


def read_causes(star: Path) -> dict[str, Any] | None:
    """``causes.json`` beside a table of ``cryoprism restore``; None where there is none."""
    try:
        document: dict[str, Any] = json.loads((star.parent / "causes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document


def choose_micrographs(
    config: SelectingConfig, star: Path, *, coarsest_in_angstroms: float | None = None
) -> Mapping[str, str]:
    """Name the micrographs to leave out, each with its reason in a sentence.

    Parameters
    ----------
    config
        Its limits.
    star
        ``micrographs.star`` of ``cryoprism restore``, beside which ``causes.json`` lies.
    coarsest_in_angstroms
        Limit of the fitted Thon rings [Å] where ``config`` gives none. It leaves all micrographs where it would leave
        none, and where there is no ``causes.json``.

    Raises
    ------
    InputError
        A limit was given but there is no ``causes.json``, or no micrograph keeps the limits.
    """
    asked = [field for field in _LIMITS if getattr(config, field) is not None]
    causes = read_causes(star)
    if causes is None:
        if not asked:
            return {}
        raise InputError(
            config.option(asked[0]),
            f"there is no causes.json beside {star}",
            "It is written by 'cryoprism restore': give the micrographs.star of its folder.",
        )
    limits = {argument: getattr(config, field) for field, argument in _LIMITS.items()}
    if limits["max_resolution_in_angstroms"] is None:
        limits["max_resolution_in_angstroms"] = coarsest_in_angstroms
    choice: MicrographSelection = select_micrographs(causes, **limits)
    if not choice.kept:
        if not asked:
            return {}
        name, why = next(iter(choice.rejected.items()))
        raise InputError(
            star,
            f"no micrograph keeps the limits; {name}: {why.rstrip('.')}",
            "Loosen them, or restore more micrographs.",
        )
    return choice.rejected


def note_left_out(job: Job, left_out: Mapping[str, str]) -> None:
    """Put the micrographs that were left out, with their reasons, into the job's log and record."""
    for name, why in left_out.items():
        log.info("%s is left out: %s", name, why)
    job.note("micrographs_left_out", dict(left_out))
