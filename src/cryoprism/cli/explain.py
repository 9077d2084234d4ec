"""``cryoprism explain``: a session or a micrograph in words, numbers and a plot."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["explain"]


def explain(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder that cryoprism restore wrote, or its causes.json.")],
    micrograph: Annotated[
        str | None, typer.Option(metavar="NAME", help="Explain this micrograph: its name, or a unique part of it.")
    ] = None,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw the ledger with its error bars (.png, .pdf or .svg).")
    ] = None,
    graph: Annotated[
        str | None, typer.Option(metavar="FILE", help="Draw the causal graph of the session, weighted by loss (.svg).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead of words.")] = False,
) -> None:
    """Say which causes took how much information, how sure that is, and what to do about it.

    Reads what cryoprism restore wrote; nothing is computed again.

    \b
    Example:
    cryoprism explain Restore/job001 --micrograph 03.15.02
    """
    import json

    from cryoprism.workflow import explanation_of, plot_ledger, read_causes
    from cryoprism.workflow.report import write_graph

    explanation = explanation_of(run, micrograph)
    if plot is not None:
        plot_ledger(explanation, plot)
    if graph is not None:
        write_graph(read_causes(run), graph)
    if as_json:
        typer.echo(json.dumps(explanation.numbers, indent=1, ensure_ascii=False))
        return
    for line in explanation.lines():
        typer.echo(line)
    if plot is not None:
        typer.echo(f"Plot: {plot}")
    if graph is not None:
        typer.echo(f"Graph: {graph}")
