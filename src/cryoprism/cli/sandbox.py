"""``cryoprism sandbox``: run foreign code between walls and within limits."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from ._given import settings_of
from ._options import fields_of, job_options, with_options

__all__ = ["FIELDS", "app", "run"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run foreign code between walls and within limits.")

# Its own --memory is the program's limit.
OPTIONS: Final = tuple(
    option
    for option in job_options("Sandbox", device=None, seed=None, unfinished="Skip the run if it is done.")
    if option.name != "max_memory"
)
#: Which field of ``workflow.SandboxConfig`` each option sets.
FIELDS: Final = {
    "program": "command",
    "formula": "formula",
    "variable": "variables",
    "unit": "unit",
    "input_": "inputs",
    "isolation": "isolation",
    "cpu": "cpu_seconds",
    "memory": "memory_in_gigabytes",
    "wall": "wall_seconds",
    "files": "files_in_megabytes",
    "processes": "processes",
    **fields_of(*OPTIONS),
}


@app.command(
    "run",
    short_help="Run a program, a plug-in or a formula.",
    context_settings={"allow_interspersed_args": False},
)
@with_options(*OPTIONS)
def run(
    context: typer.Context,
    program: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- PROGRAM ARGS", help="Program or Python file, and its arguments."),
    ] = None,
    formula: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Evaluate a formula instead, for example 'exp(-B*k^2/4)'.")
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER±NUMBER UNIT", help="A variable of the formula: 'dose=40±2 e/Å²'. Repeatable."
        ),
    ] = None,
    unit: Annotated[
        str | None, typer.Option(metavar="UNIT", help="Unit of the formula's value. Default: base units (Å, kV, e, s).")
    ] = None,
    input_: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="PATH", help="File or folder that the program may read. Repeatable."),
    ] = None,
    cpu: Annotated[float, typer.Option(metavar="S", help="CPU time of all its processes.")] = 600.0,
    memory: Annotated[float, typer.Option(metavar="GB", help="Memory of all its processes.")] = 4.0,
    wall: Annotated[float, typer.Option(metavar="S", help="Time from start to end.")] = 3600.0,
    files: Annotated[
        float, typer.Option(metavar="MB", help="What it may write; that lies in memory until it has ended.")
    ] = 1000.0,
    processes: Annotated[int, typer.Option(metavar="N", help="Processes and threads at one time.")] = 256,
    isolation: Annotated[
        str, typer.Option(metavar="NAME", help="bubblewrap, or none: limits only, no walls; it says what that means.")
    ] = "bubblewrap",
) -> int:
    """Run a program, a plug-in or a formula without trusting it.

    It sees the system and its --input read-only, starts in an empty folder of its own, has no network, and sees no
    process but its own. What it leaves in its folder comes out to output/. Exit codes: 0 finished, 1 the program
    failed or was stopped by a limit, which is named.

    Writes report.html, sandbox.json, stdout.txt, stderr.txt, output/, job.json and
    run.log.

    \b
    Examples:
    cryoprism sandbox run --cpu 60 --input map.mrc -- plug_in.py map.mrc
    cryoprism sandbox run --formula "dose*exp(-B*k^2/4)" --variable "dose=40±2 e/Å²" --variable "B=100 Å²" \\
      --variable "k=0.2 1/Å"
    """
    from cryoprism.workflow import SandboxConfig, run_in_sandbox

    from ._console import logging_to_console

    settings = settings_of(context, FIELDS, SandboxConfig)
    with logging_to_console():
        summary = run_in_sandbox(settings)
    for sentence in summary.sentences:
        typer.echo(sentence)
    typer.echo(f"Report: {summary.output / 'report.html'}")
    return 0 if summary.verdict == "finished" else 1
