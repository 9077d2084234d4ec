"""The demonstration: a small simulated session with one dominant damage each, restored and held against the truth."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoprism.synthesis import Scene, SessionConfig, simulate_session
from cryoprism.workflow.jobs.config import RestoreConfig, SimulateConfig
from cryoprism.workflow.jobs.job import open_job
from cryoprism.workflow.jobs.progress import progress
from cryoprism.workflow.jobs.summary import RestoreSummary

from .narrative import cause_in_words, read_causes
from .restore_session import restore_session

__all__ = ["Demonstration", "compare_with_truth", "run_demo"]

log = logging.getLogger("cryoprism")

_COLUMNS = ("micrograph", "defocus [Å]", "astigmatism [Å]", "drift [Å]", "ice [Å]", "most bits lost to")


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration came to.

    Attributes
    ----------
    summary
        Of the restoration.
    table
        Lines of text: estimated ± standard deviation (true) of every micrograph.
    """

    summary: RestoreSummary
    table: tuple[str, ...]


def run_demo(output: str | Path, *, micrographs: int = 6, workers: int = 2, seed: int = 0) -> Demonstration:
    """Simulate, restore, compare; ``output`` gets the folders ``simulated`` and ``restored``, made anew."""
    folder = Path(output)
    base = Scene()
    settings = SimulateConfig(
        output=folder / "simulated", overwrite=True, recipe="demo", micrographs=micrographs, seed=seed, workers=workers
    )
    with open_job("Simulate", settings) as job, progress("Simulating", micrographs) as step:
        session = simulate_session(
            SessionConfig(
                output=job.path,
                micrographs=micrographs,
                seed=seed,
                recipe="demo",
                base=base,
                workers=workers,
                overwrite=True,
            ),
            lambda done, total: step(f"{done} of {total}"),
        )
    flat = base.exposure_in_electrons_per_square_angstrom * base.pixel_size_in_angstroms**2 * base.detector_dqe0
    summary = restore_session(
        RestoreConfig(
            inputs=(str(session.star),),
            output=folder / "restored",
            overwrite=True,
            seed=seed,
            workers=workers,
            incident_intensity=flat,
        )
    )
    return Demonstration(summary, compare_with_truth(summary.causes, folder / "simulated" / "truth"))


def compare_with_truth(causes: str | Path, truth: str | Path) -> tuple[str, ...]:
    """Table of what was estimated and what was simulated.

    Parameters
    ----------
    causes
        ``causes.json`` of the restoration.
    truth
        Folder of the simulation's truth files, one per micrograph.

    Returns
    -------
    tuple
        Lines of text. A quantity that the data do not identify is shown as ``?``, with the truth beside it.
    """
    rows = [_COLUMNS]
    for entry in read_causes(causes)["micrographs"]:
        name = Path(entry["name"]).stem
        content = json.loads((Path(truth) / f"{name}.json").read_text(encoding="utf-8"))
        scene = content["scene"]
        rows.append(
            (
                name,
                _cell(entry, "defocus", "mean_defocus", scene["defocus_in_angstroms"], 0),
                _cell(entry, "astigmatism", "astigmatism", scene["astigmatism_in_angstroms"], 0),
                _cell(entry, "motion", "drift", _drift(content["track_in_angstroms"]), 1),
                _cell(entry, "ice_thickness", "thickness", content["mean_ice_thickness_in_angstroms"], 0),
                _worst(entry),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return ("estimated ± standard deviation (true); ? means: these data do not tell", *lines)


def _cell(entry: Mapping[str, Any], cause: str, parameter: str, true: float, digits: int) -> str:
    found = entry["causes"].get(cause, {}).get("parameters", {}).get(parameter)
    if found is None or found["mean"] is None or not found["identifiable"]:
        return f"? ({true:.{digits}f})"
    return f"{found['mean']:.{digits}f} ± {found['standard_deviation']:.{digits}f} ({true:.{digits}f})"


def _drift(track: Sequence[Sequence[float]]) -> float:
    """Length [Å] of the uniform drift that blurs as this track does: √12 times its scatter along its main direction."""
    count = len(track)
    if count < 2:
        return 0.0
    mean_y, mean_x = (sum(point[axis] for point in track) / count for axis in (0, 1))
    yy = sum((point[0] - mean_y) ** 2 for point in track) / count
    xx = sum((point[1] - mean_x) ** 2 for point in track) / count
    yx = sum((point[0] - mean_y) * (point[1] - mean_x) for point in track) / count
    largest = 0.5 * (yy + xx) + math.hypot(0.5 * (yy - xx), yx)
    return math.sqrt(12 * largest)


def _worst(entry: Mapping[str, Any]) -> str:
    ledger = {name: cause["bits_lost"]["mean"] for name, cause in entry["causes"].items() if cause["bits_lost"]}
    if not ledger or max(ledger.values()) <= 0:
        return "-"
    return cause_in_words(max(ledger, key=lambda name: float(ledger[name])))
