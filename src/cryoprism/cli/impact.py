"""``cryoprism impact``: a citation graph from public dumps, and forecasts of citations and patents."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import fields_of, job_options, with_options

__all__ = ["BUILD_FIELDS", "TRAIN_FIELDS", "app", "build", "forecast", "train"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Will it matter: build a citation graph from public dumps, train forecasts, look one up.",
)

_BUILD = job_options("CitationGraph", device=None, seed=None)
_TRAIN = job_options("Impact", device=None)
#: Which field of ``workflow.ImpactBuildConfig`` each option sets.
BUILD_FIELDS = {
    "works": "works",
    "merged_works": "merged_works",
    "patents": "patents",
    "patent_citations": "patent_citations",
    "patent_references": "patent_references",
    "entries": "entries",
    **fields_of(*_BUILD),
}
#: Which field of ``workflow.ImpactTrainConfig`` each option sets.
TRAIN_FIELDS = {"graph": "graph", "model": "models", "now": "now", **fields_of(*_TRAIN)}


@app.command("build", short_help="Put public bibliographic dumps into a citation graph.")
@with_options(*_BUILD)
def build(
    context: typer.Context,
    works: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORKS", help="Files of OpenAlex works: JSON lines, plain or gzipped."),
    ] = None,
    merged_works: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="OpenAlex's merged_ids/works: files, or the folder."),
    ] = None,
    patents: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="PatentsView's g_patent (TSV, also gzipped or zipped); may be given again."),
    ] = None,
    patent_citations: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="PatentsView's g_us_patent_citation.")
    ] = None,
    patent_references: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="PatentsView's g_other_reference: which publications patents cite."),
    ] = None,
    entries: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="PDB mmCIF or EMDB header files (XML, JSON), or folders of them."),
    ] = None,
) -> int:
    """Read dumps line by line into one graph of works, their dates and who cites whom.

    Who cites a work that OpenAlex has merged into another cites that other one, where --merged-works says so.
    A full dump of OpenAlex is larger than most machines can train on: cut it down to a field first. Lines that
    cannot be used are counted and the first of them named. Exit code 1: most lines of a file could not be used.

    Writes citations.sqlite, import.json, job.json and run.log.

    \b
    Example:
    cryoprism impact build works/part_000.gz --entries structures
    """
    from cryoprism.workflow import ImpactBuildConfig, build_impact_graph

    from ._console import logging_to_console

    settings = settings_of(context, BUILD_FIELDS, ImpactBuildConfig)
    with logging_to_console():
        result = build_impact_graph(settings)
    for sentence in result.sentences:
        typer.echo(sentence)
    typer.echo(f"Graph: {result.output}")
    return 1 if result.mostly_unusable else 0


@app.command("train", short_help="Train forecasts on a citation graph and choose the best.")
@with_options(*_TRAIN)
def train(
    context: typer.Context,
    graph: Annotated[
        str | None, typer.Argument(metavar="GRAPH", help="Folder of impact build, or its citations.sqlite.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Model to try, may be given again: 'median of the past', 'preferential attachment', "
            "'Wang–Song–Barabási', 'gradient boosting' or 'GraphSAGE'. Default: all.",
        ),
    ] = None,
    now: Annotated[
        float | None, typer.Option(metavar="YEAR", help="Forecast from here on. Default: the newest work's date.")
    ] = None,
) -> int:
    """Forecast the citations of young works in the next five years, and those by patents where there are any.

    Models train on the past, the best on the year of validation is used and named; nothing after that moment is
    looked at. Needs works of 13 years or more.

    Writes forecasts.sqlite, impact.json, report.html, job.json and run.log.

    \b
    Example:
    cryoprism impact train CitationGraph/job001
    """
    from cryoprism.workflow import ImpactTrainConfig, train_impact

    from ._console import logging_to_console

    settings = settings_of(context, TRAIN_FIELDS, ImpactTrainConfig)
    with logging_to_console():
        result = train_impact(settings)
    for sentence in result.sentences:
        typer.echo(sentence)
    typer.echo(f"Report: {result.report}")
    return 0


@app.command("forecast", short_help="Look up the forecast of one publication.")
def forecast(
    publication: Annotated[
        str,
        typer.Argument(metavar="PUBLICATION", help="DOI, pubmed:NUMBER, OpenAlex W-number, or a PDB or EMDB entry."),
    ],
    trained: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Folder of impact train. Without one there is no forecast.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON instead of words.")] = False,
) -> None:
    """Print how many citations a publication is expected to get, or why that cannot be said and how to get there.

    \b
    Example:
    cryoprism impact forecast 10.1016/j.str.2011.08.001 --trained Impact/job001
    """
    import json

    from cryoprism.evaluation.impact import forecast_impact

    answer = forecast_impact(publication, trained).answer()
    if as_json:
        typer.echo(json.dumps(answer.to_json(), indent=1, ensure_ascii=False))
        return
    for sentence in answer.sentences:
        typer.echo(sentence)
