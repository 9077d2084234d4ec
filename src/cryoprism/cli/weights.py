"""``cryoprism weights``: weights of the score from judgements, against measured quality, and what to ask next."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import Seed, fields_of, job_options, with_options

__all__ = ["EXPLAIN_FIELDS", "LEARN_FIELDS", "app", "ask", "explain", "learn"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Weights of the score: learn them from judgements, hold them against quality, choose what to ask next.",
)

_LEARN = job_options("Weights", device=None)
_EXPLAIN = job_options("Quality", device=None, seed="Seed of the samples of rows.")
#: Which field of ``workflow.WeightsLearnConfig`` each option sets.
LEARN_FIELDS = {"judgements": "inputs", "shape": "learn_shape", "trials": "trials", **fields_of(*_LEARN)}
#: Which field of ``workflow.WeightsExplainConfig`` each option sets.
EXPLAIN_FIELDS = {
    "table": "table",
    "quality": "quality",
    "column": "columns",
    "group": "group",
    "lower_is_better": "lower_is_better",
    "score_weights": "weights_file",
    "bootstraps": "bootstraps",
    **fields_of(*_EXPLAIN),
}


@app.command("learn", short_help="Learn the weights from people's judgements.")
@with_options(*_LEARN)
def learn(
    context: typer.Context,
    judgements: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="JUDGEMENTS",
            help="Files with one JSON object a line: a and b (an assessment.json, or values by component), better "
            "('a', 'b' or 'tie') and, if wanted, judge.",
        ),
    ] = None,
    shape: Annotated[bool, typer.Option("--shape/--no-shape", help="Look for β, γ and κ of the score too.")] = True,
    trials: Annotated[int, typer.Option(metavar="N", help="Shapes to try.")] = 60,
) -> int:
    """Learn how much each answer weighs in the score from which of two assessments people found better.

    With fewer than 100 judgements a score keeps the weights it had before.

    Writes weights.json, report.html, job.json and run.log.

    \b
    Example:
    cryoprism weights learn judgements.jsonl
    """
    from cryoprism.workflow import WeightsLearnConfig, learn_weights

    from ._console import logging_to_console

    settings = settings_of(context, LEARN_FIELDS, WeightsLearnConfig)
    with logging_to_console():
        result = learn_weights(settings)
    for sentence in result.sentences:
        typer.echo(sentence)
    typer.echo(f"Weights: {result.output / 'weights.json'}")
    typer.echo(f"Report: {result.report}")
    return 0


@app.command("explain", short_help="Say whether weights and measured quality move together.")
@with_options(*_EXPLAIN)
def explain(
    context: typer.Context,
    table: Annotated[
        str | None,
        typer.Argument(
            metavar="TABLE",
            help="TSV or CSV with a heading: a column of quality, and the five components or a column 'assessment' "
            "that names each row's assessment.json.",
        ),
    ] = None,
    quality: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the measured quality.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column that explains it; may be given again. Default: the components."),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of names; rows with the same one, such as runs of one specimen, belong together.",
        ),
    ] = None,
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="Smaller quality is better, as for a resolution in Å.")
    ] = False,
    score_weights: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Folder or weights.json of weights learn. Default: the default weights."),
    ] = None,
    bootstraps: Annotated[int, typer.Option(metavar="N", help="Samples of rows for the intervals.")] = 1000,
) -> int:
    """Regress measured image quality on what the score is made of, and say whether they move together.

    Writes quality.json, report.html, job.json and run.log.

    \b
    Example:
    cryoprism weights explain entries.tsv --quality q_score
    """
    from cryoprism.workflow import WeightsExplainConfig, explain_weights

    from ._console import logging_to_console

    settings = settings_of(context, EXPLAIN_FIELDS, WeightsExplainConfig)
    with logging_to_console():
        result = explain_weights(settings)
    for sentence in result.sentences:
        typer.echo(sentence)
    typer.echo(f"Report: {result.report}")
    return 0


@app.command("ask", short_help="Choose the pair of assessments to judge next.")
def ask(
    assessments: Annotated[
        list[str], typer.Argument(metavar="ASSESSMENTS", help="Folders of cryoprism assess, or assessment.json files.")
    ],
    judgements: Annotated[
        str | None, typer.Option(metavar="FILE", help="Judgements so far; a pair is not asked again.")
    ] = None,
    thompson: Annotated[
        bool, typer.Option("--thompson", help="Choose by Thompson sampling, not by expected information.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Print the two assessments whose comparison would tell most about the weights, and the line to fill in.

    \b
    Example:
    cryoprism weights ask Assess --judgements judgements.jsonl
    """
    from cryoprism.workflow import next_question

    found = next_question(assessments, judgements, how="thompson" if thompson else "information", seed=seed)
    typer.echo(f"Which is better, a: {found.a.name} or b: {found.b.name}?")
    typer.echo(
        f"The answer is expected to tell {found.information_in_bits:.3f} bits about the weights; "
        f"{found.pairs} pairs were compared after {found.judgements} judgements."
    )
    typer.echo(found.line())
