"""What of a record is fragile: which of its conclusions would be others if a fitted parameter were a little different.

A record has posteriors of its parameters (``causes.json`` of a restoration, ``resolution.json`` of a map). Each is
moved within its posterior and every conclusion is drawn anew. Shares of a ledger are moved together, as the record's
correlations have it, for how often a conclusion is another; all else is moved independently, since records hold no
other covariances (``benchmarks/perturbation.py`` measures what that matters). Indices are those of independent
parameters throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cryoprism.core import InputError

from .conclusions import Conclusion, parts_of
from .sensitivity import Parameter, Values, moved_together, sensitivity

__all__ = ["Fragility", "judge_fragility", "require_posteriors"]


@dataclass(frozen=True)
class Fragility:
    """Conclusions of a record, and what was moved.

    Attributes
    ----------
    conclusions
        What was concluded.
    parameters
        That were moved, by where they belong.
    evaluations
        How often conclusions were drawn.
    micrographs, looked_at
        How many micrographs the record has, and at how many of them, evenly spread over the list, it was looked.
    """

    conclusions: tuple[Conclusion, ...]
    parameters: Mapping[str, tuple[Parameter, ...]]
    evaluations: int
    micrographs: int = 0
    looked_at: int = 0

    def fragile(self, most: float = 0.1) -> tuple[Conclusion, ...]:
        """Return the decisions that are others in more than this share of the draws, the shakiest first."""
        found = [one for one in self.conclusions if one.flips is not None and one.flips > most]
        return tuple(sorted(found, key=lambda one: -(one.flips or 0.0)))

    def table(self) -> str:
        """Return the conclusions as a markdown table, total indices with their 90 % intervals."""
        rows = [
            "| where | conclusion | at the means | spread | another in | hangs on (total index) |",
            "|---|---|---|---|---|---|",
        ]
        for one in self.conclusions:
            parts = [
                f"{name} {index.value:.2f} ({index.low:.2f} to {index.high:.2f})"
                for name in one.depends_on()
                if (index := one.outcome.total[name])
            ]
            flips = "" if one.flips is None else f"{one.flips:.0%}" + (f": {one.instead}" if one.instead else "")
            rows.append(
                f"| {one.where} | {one.name} | {one.at_means} | {one.outcome.mean:.3g} ± {one.outcome.deviation:.2g} | "
                f"{flips} | {', '.join(parts) or 'none'} |"
            )
        return "\n".join(rows)

    def to_json(self) -> dict[str, Any]:
        """Return everything by name."""
        return {
            "conclusions": [one.to_json() for one in self.conclusions],
            "parameters": {where: [vars(one) for one in several] for where, several in self.parameters.items()},
            "evaluations": self.evaluations,
            "micrographs": self.micrographs,
            "micrographs_moved": self.looked_at,
        }


def judge_fragility(
    record_folder: str | Path, *, seed: int = 0, count: int = 512, most_micrographs: int = 20
) -> Fragility:
    """Move every fitted parameter of a record within its posterior and see which conclusions hang on it.

    Parameters
    ----------
    record_folder
        Folder with ``causes.json`` (restoration), with ``resolution.json`` (map), or both.
    seed, count
        As in :func:`sensitivity`.
    most_micrographs
        The session and so many micrographs, evenly spread over the list, are judged.

    Raises
    ------
    InputError
        The folder holds neither file, one cannot be read, or nothing in it has a posterior.
    """
    folder = Path(record_folder)
    conclusions: list[Conclusion] = []
    moved: dict[str, tuple[Parameter, ...]] = {}
    evaluations = 0
    parts, micrographs = parts_of(folder, most_micrographs)
    for part in parts:
        if not part.parameters:
            continue
        result = sensitivity(part.follow, part.parameters, seed=seed, count=count)
        joint = part.correlation is not None
        if part.correlation is not None:
            result = moved_together(result, part.follow, part.correlation, seed=seed)
        means = part.follow(_at_means(part.parameters))
        moved[part.where], evaluations = tuple(part.parameters), evaluations + result.evaluations
        conclusions += [replace(decide(part.where, result, means), joint=joint) for decide in part.decisions]
    if not conclusions:
        raise InputError(folder, "holds no parameter with a posterior", "Name the folder of a finished job.")
    return Fragility(tuple(conclusions), moved, evaluations, micrographs, min(micrographs, most_micrographs))


def require_posteriors(record_folder: str | Path, *, most_micrographs: int = 20) -> None:
    """Read all that :func:`judge_fragility` reads, and draw every conclusion once at the means.

    Raises
    ------
    InputError
        A file in the folder cannot be used. That there is none, or nothing fitted in it, is no fault here.
    """
    folder = Path(record_folder)
    for part in parts_of(folder, most_micrographs, needed=False)[0]:
        if part.parameters:
            try:
                part.follow(_at_means(part.parameters))
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise InputError(folder, f"holds values that cannot be ({error})", "Run the job again.") from error


def _at_means(parameters: Sequence[Parameter]) -> Values:
    return {one.name: np.array([min(max(one.mean, one.bounds[0]), one.bounds[1])]) for one in parameters}
