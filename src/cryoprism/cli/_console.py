"""What commands say while they run and when they are done; not light, so commands import it when they run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from cryoprism.workflow import ConsoleHandler, RestoreSummary

__all__ = ["logging_to_console", "print_summary"]

_MOST_NAMES = 8


@contextmanager
def logging_to_console() -> Iterator[None]:
    """Show the log's lines (not its details) on stderr while a command runs."""
    log = logging.getLogger("cryoprism")
    handler = ConsoleHandler(logging.INFO)
    # Warnings are printed by the warnings module, micrographs that failed by the summary: once each.
    handler.addFilter(lambda record: record.levelno < logging.WARNING)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def print_summary(summary: RestoreSummary) -> int:
    """Print what came out of a session and return the exit code."""
    done = f"{summary.restored} of {summary.micrographs} micrographs restored"
    if summary.skipped:
        done += f" ({summary.skipped} were done before)"
    typer.echo(f"{done} in {summary.seconds:.1f} s.")
    if summary.passes:
        how = "converged" if summary.converged else "did not converge"
        typer.echo(f"The loop over the causes {how} after {summary.passes} pass(es).")
    for sentence in summary.sentences:
        typer.echo(sentence)
    if summary.flagged:
        typer.echo(f"Flagged, look at them in the report: {_names(summary.flagged)}.")
    for name, reason in summary.failed[:_MOST_NAMES]:
        typer.echo(f"Not restored: {name}: {reason}", err=True)
    if len(summary.failed) > _MOST_NAMES:
        typer.echo(f"… and {len(summary.failed) - _MOST_NAMES} more, all in run.log.", err=True)
    typer.echo(f"Report: {summary.report}")
    return 1 if summary.failed else 0


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    return shown if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more"
