"""What a session came to, for the last lines of a command and for Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["RestoreSummary"]


@dataclass(frozen=True, kw_only=True)
class RestoreSummary:
    """What ``restore_session`` returns.

    Attributes
    ----------
    output
        The job folder.
    micrographs
        How many the input lists.
    restored
        How many have all their outputs now, those of earlier runs included.
    skipped
        How many of them were done before.
    flagged
        Names of micrographs to look at: no Thon rings, no signal, off the session.
    failed
        (name, reason) of micrographs that could not be read or fitted.
    passes
        Passes of the self-evaluation loop.
    converged
        Whether the loop stopped by its own criterion.
    seconds
        Wall time.
    sentences
        The session in words, most important first.
    """

    output: Path
    micrographs: int
    restored: int
    skipped: int = 0
    flagged: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    passes: int = 0
    converged: bool = False
    seconds: float = 0.0
    sentences: tuple[str, ...] = ()

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.output / "report.html"

    @property
    def causes(self) -> Path:
        """Posterior, ledger and weights of every micrograph."""
        return self.output / "causes.json"

    @property
    def star(self) -> Path:
        """The micrographs for RELION."""
        return self.output / "micrographs.star"
