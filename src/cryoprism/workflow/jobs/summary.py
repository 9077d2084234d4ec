"""What a session came to, for the last lines of a command and for Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["JobSummary", "MicrographsSummary", "RestoreSummary", "StepSummary"]


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """What every session says of its job.

    Attributes
    ----------
    output
        The job folder.
    seconds
        Wall time of this run.
    """

    output: Path
    seconds: float = 0.0

    @property
    def report(self) -> Path:
        """The page to open, in jobs that write one."""
        return self.output / "report.html"


@dataclass(frozen=True, kw_only=True)
class StepSummary(JobSummary):
    """A job that is done as a whole or not at all.

    Attributes
    ----------
    skipped
        Everything was there already.
    """

    skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class MicrographsSummary(JobSummary):
    """A job that goes through micrographs.

    Attributes
    ----------
    micrographs
        How many there are to go through.
    skipped
        How many of them were done before.
    failed
        (name, reason) of those that could not be read or used.
    """

    micrographs: int
    skipped: int = 0
    failed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class RestoreSummary(MicrographsSummary):
    """What ``restore_session`` returns.

    Attributes
    ----------
    restored
        How many have all their outputs now, those of earlier runs included.
    flagged
        Names of micrographs to look at: no Thon rings, no signal, off the session.
    passes
        Passes of the self-evaluation loop.
    converged
        Whether the loop stopped by its own criterion.
    sentences
        The session in words, most important first.
    """

    restored: int
    flagged: tuple[str, ...] = ()
    passes: int = 0
    converged: bool = False
    sentences: tuple[str, ...] = ()

    @property
    def causes(self) -> Path:
        """Posterior, ledger and weights of every micrograph."""
        return self.output / "causes.json"

    @property
    def star(self) -> Path:
        """The micrographs for RELION."""
        return self.output / "micrographs.star"
