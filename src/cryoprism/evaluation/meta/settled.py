"""Share of the fitted causes that have settled: stable between passes and not split between modes.

⋄ of a cause is exp(−½·move²)·(1 − probability of another mode), the move being that of the last pass in posterior
standard deviations, averaged over the micrographs (``causes.loop.judge``). A cause counts with its ⋄ where it moved by
no more than one standard deviation in any micrograph in the last pass, which is the loop's own criterion to stop, and
with 0 where it still moved.

Only causes that are fitted count, and of these only those that the data determine in at least one micrograph: what is
measured once or stated cannot move, and what only has its prior stands still for that reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cryoprism.causes import CAUSES, FITTED
from cryoprism.core import InputError
from cryoprism.evaluation.documents import UnreadableError, number_in, read_json
from cryoprism.evaluation.evidence import Answer, available, not_available

__all__ = ["HOW_TO_GET_CAUSES", "Settled", "SettledCause", "judge_settled"]

_SCHEMA: Final = "cryoprism-causes-1"
#: A cause that moved by more than so many standard deviations in the last pass has not settled.
_MOST_SHIFT: Final = 1.0
HOW_TO_GET_CAUSES: Final = (
    "Give the job of cryoprism restore or process in --record, or a job whose input came from one."
)


@dataclass(frozen=True)
class SettledCause:
    """One fitted cause after the last pass.

    Attributes
    ----------
    name
        As in ``causes.json``.
    stability
        ⋄, mean over the micrographs.
    shift
        Largest move of the last pass [posterior standard deviations].
    determined_in
        Micrographs whose data determine it.
    counts
        Whether it is determined in any.
    """

    name: str
    stability: float
    shift: float
    determined_in: int
    counts: bool

    @property
    def settled(self) -> bool:
        """Whether it moved no further than the loop allows."""
        return self.shift <= _MOST_SHIFT

    @property
    def share(self) -> float:
        """What it adds to the count of settled causes: ⋄, or 0 where it still moved."""
        return self.stability if self.settled else 0.0

    @property
    def words(self) -> str:
        """Name inside a sentence."""
        return CAUSES[self.name].words if self.name in CAUSES else self.name.replace("_", " ")


@dataclass(frozen=True)
class Settled:
    """What a restoration says of its own estimate.

    Attributes
    ----------
    causes
        The fitted ones.
    converged, passes
        Of the loop.
    micrographs, flagged
        How many were estimated, and how many of them are flagged.
    source
        The file.
    """

    causes: tuple[SettledCause, ...]
    converged: bool
    passes: int
    micrographs: int
    flagged: int
    source: Path

    def value(self) -> tuple[float, float] | None:
        """Return the share of settled causes and its standard deviation; None where no cause counts.

        The deviation is that of a share of which k of n were counted and nothing was known before: a Beta(k + 1,
        n − k + 1) distribution. Causes are counted and not micrographs, whose estimates share the session's priors.
        """
        counted = [one.share for one in self.causes if one.counts]
        if not counted:
            return None
        k, n = sum(counted), len(counted)
        mean = (k + 1) / (n + 2)
        return k / n, math.sqrt(mean * (1 - mean) / (n + 3))

    def answer(self) -> Answer:
        """Return the answer."""
        evidence = {
            "source": str(self.source),
            "converged": self.converged,
            "passes": self.passes,
            "micrographs": self.micrographs,
            "flagged": self.flagged,
            "causes": [asdict(one) | {"settled": one.settled, "share": one.share} for one in self.causes],
        }
        found = self.value()
        if found is None:
            why = (
                "The self-evaluation loop made no pass."
                if not self.causes
                else "The data determine none of the fitted causes in any micrograph."
            )
            return not_available(why, "Restore more or better micrographs: cryoprism restore.", evidence)
        return available(*found, self._sentences(), evidence)

    def _sentences(self) -> list[str]:
        counted = [one for one in self.causes if one.counts]
        good = [one for one in counted if one.settled]
        ended = "converged" if self.converged else "did not converge"
        said = [
            f"{len(good)} of {len(counted)} fitted causes moved by no more than one standard deviation in the last "
            f"pass; the self-evaluation loop {ended} after {self.passes} pass(es) over {self.micrographs} "
            "micrograph(s)."
        ]
        if moving := [f"{one.words} (by {one.shift:.2g})" for one in counted if not one.settled]:
            said.append(f"Still moving, in standard deviations: {', '.join(moving)}.")
        if split := [f"{one.words} (⋄ {one.stability:.2f})" for one in good if one.stability < 0.9]:
            said.append(f"Stable in part, or split between modes: {', '.join(split)}.")
        if unknown := [one.words for one in self.causes if not one.counts]:
            said.append(f"Not counted, because these data do not determine it: {', '.join(unknown)}.")
        if self.flagged:
            said.append(f"{self.flagged} of {self.micrographs} micrographs are flagged; causes.json says why.")
        return said


def judge_settled(path: str | Path) -> Settled:
    """Judge a ``causes.json``, or the one in a folder.

    Raises
    ------
    InputError
        It is not there, cannot be read, or is something else.
    """
    file = Path(path) / "causes.json" if Path(path).is_dir() else Path(path)
    remedy = "Name the folder that cryoprism restore wrote (--out)."
    try:
        content: Any = read_json(file)
    except FileNotFoundError:
        raise InputError(file, "does not exist", remedy) from None
    except UnreadableError as error:
        raise InputError(file, f"cannot be read: {error}", "Run the job again.") from None
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA:
        raise InputError(file, f"has not the form {_SCHEMA}", remedy)
    try:
        return _settled(content, file)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError) as error:
        raise InputError(file, f"lacks what such a file has ({error})", "Run the job again.") from error


def _settled(content: Mapping[str, Any], file: Path) -> Settled:
    loop, micrographs = content["session"]["loop"], content["micrographs"]
    last = loop["trace"][-1]["causes"] if loop["trace"] else {}
    if not isinstance(last, dict) or not isinstance(micrographs, list):
        raise TypeError("a list stands for an object, or an object for a list")
    causes = []
    for name in FITTED:
        if name not in last:
            continue
        determined = sum(bool(one["causes"].get(name, {}).get("identifiable")) for one in micrographs)
        causes.append(
            SettledCause(
                name,
                _number(last[name], "stability", 1.0),
                _number(last[name], "shift_in_standard_deviations", math.inf),
                determined,
                determined > 0,
            )
        )
    return Settled(
        causes=tuple(causes),
        converged=bool(loop["converged"]),
        passes=int(loop["passes"]),
        micrographs=len(micrographs),
        flagged=sum(bool(one["flags"]) for one in micrographs),
        source=file,
    )


def _number(entry: Mapping[str, Any], name: str, most: float) -> float:
    value = number_in(entry[name])
    if not (math.isfinite(value) and 0 <= value <= most):
        raise ValueError(f"{name} is {entry[name]!r:.40}")
    return value
