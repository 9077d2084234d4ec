"""``cryoprism demo``: simulate a small damaged session, restore it, and compare estimated with true causes."""

from __future__ import annotations

from typing import Annotated

import typer

from ._options import Seed, Workers

__all__ = ["demo"]


def demo(
    out: Annotated[
        str, typer.Option("--out", metavar="FOLDER", help="Folder to write; made anew every time.")
    ] = "demo",
    micrographs: Annotated[int, typer.Option(metavar="N", help="Number of micrographs.")] = 6,
    workers: Workers = 2,
    seed: Seed = 0,
) -> int:
    """Show what CryoPrism does, on data it makes itself: no download, about two minutes.

    Simulates a few micrographs of a phantom with known, varied damage, restores them, and prints a table of estimated
    against true causes and where the report is.
    """
    from cryoprism.workflow import run_demo

    from ._console import logging_to_console, print_summary

    with logging_to_console():
        result = run_demo(out, micrographs=micrographs, workers=workers, seed=seed)
    for line in result.table:
        typer.echo(line)
    return print_summary(result.summary)
