"""Which file holds a micrograph's artefact labels: ``restore`` and ``synthesize`` both write a folder ``masks``."""

from __future__ import annotations

from pathlib import Path

from cryoprism.workflow.jobs.resume import read_record

__all__ = ["artefact_labels_beside"]


def artefact_labels_beside(folder: Path, name: str) -> Path | None:
    """Labels of a micrograph's artefacts in a folder ``masks``; None where there are none.

    ``restore`` calls them NAME.mrc. In a synthetic set those are the numbers of the particles; artefacts have files of
    their own, where there are any.
    """
    synthetic = read_record(folder.parent).get("kind") == "Synthesize"
    path = folder / (f"{name}_artefacts.mrc" if synthetic else f"{name}.mrc")
    return path if path.is_file() else None
