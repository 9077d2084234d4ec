"""Whether a record is that of the model: what an answer about the record may say of the model hangs on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryoprism.evaluation.evidence import not_tied
from cryoprism.formats import sha256_of_file

from .assess_case import Case
from .assess_questions import Part
from .assess_words import ENOUGH, share_within

__all__ = ["only_of_this_model", "tie_of"]

#: Questions whose answer is about the record alone.
_OF_THE_RECORD: Final = ("reproducibility", "meta")
_HOW: Final = "Give in --map the map that a job of the record wrote, and the model that was built into it."


def tie_of(case: Case, logic: Mapping[str, Any]) -> str | None:
    """Say why nothing ties the record to the model; None where something does, or where there is no record.

    A record is that of a model if one of its jobs read or wrote the model, or if one read or wrote the map that was
    given and at least half of the model's residues lie in that map. A copy under another name is the same file.

    Parameters
    ----------
    case
        What was given.
    logic
        Evidence of the answer about consistency: how many residues lie outside the map.
    """
    config = case.config
    if not case.chain or _is_of_record(config.model_file, case):
        return None
    if config.map_file is None or not _is_of_record(config.map_file, case):
        return (
            "Neither the model nor the map is among the files that the jobs of the record read or wrote: that they "
            "belong together was said by whoever gave them, and nothing here shows it."
        )
    within = share_within(logic)
    if within is None:
        return "The map is of the record, but whether the model lies in it could not be judged."
    if within < ENOUGH:
        return (
            f"The map is of the record, but only {100 * within:.0f} % of the model's residues lie in it: nothing shows "
            "that the model was built into it."
        )
    return None


def only_of_this_model(parts: Mapping[str, Part], why: str | None) -> dict[str, Part]:
    """Return the answers; those about a record that nothing ties to the model no longer count as answers."""
    if why is None:
        return dict(parts)
    found = dict(parts)
    for name in _OF_THE_RECORD:
        answer = parts[name].answer()
        if answer.status == "available":
            content = not_tied(answer, why, _HOW).to_json()
            found[name] = Part(content, parts[name].files, parts[name].shown)
    return found


def _is_of_record(path: Path, case: Case) -> bool:
    """Whether a job of the record read or wrote this file, or one with the same content."""
    whole = path.resolve()
    read = {one.resolve() for record in case.chain for one in record.files() if one.is_file()}
    folders = [record.folder.resolve() for record in case.chain]
    if whole in read or any(whole.is_relative_to(folder) for folder in folders):
        return True
    size = whole.stat().st_size
    wrote = (
        Path(place, name) for folder in folders for place, _, names in os.walk(folder) for name in names
    )  # fmt: skip
    alike = [one for one in {*read, *wrote} if one.is_file() and one.stat().st_size == size]
    own = sha256_of_file(whole) if alike else ""
    return any(sha256_of_file(one) == own for one in alike)
