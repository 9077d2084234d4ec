"""``cryoprism assess``: everything that can be said about a model, with evidence, and one score."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import MODEL_CHECKS, fields_of, job_options, with_options

__all__ = ["FIELDS", "assess"]

OPTIONS = MODEL_CHECKS + job_options(
    "Assess",
    device=None,
    seed="Seed of the draws.",
    unfinished="Continue in an existing folder; what was answered is kept while its inputs stay the same.",
    max_memory="Memory of one proof and of the re-run. Default: 4 GB.",
)
#: Which field of ``workflow.AssessConfig`` each option sets.
FIELDS = {
    "model": "model_file",
    "record": "record",
    "index": "index",
    "impact": "forecasts",
    "publication": "publication",
    "score_weights": "weights_file",
    "assembly": "assembly",
    "rerun": "rerun",
    "rerun_budget": "rerun_budget_in_seconds",
    "time_limit": "time_limit_in_seconds",
    "perturbed_micrographs": "perturbed_micrographs",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def assess(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Atomic model (.pdb, .cif), gzipped or not.")
    ] = None,
    record: Annotated[
        str | None, typer.Option(metavar="JOB", help="Folder of the job that made the map or the model.")
    ] = None,
    index: Annotated[
        str | None, typer.Option("--index", metavar="FOLDER", help="Index of known shapes, of novelty build.")
    ] = None,
    impact: Annotated[
        str | None, typer.Option("--impact", metavar="FOLDER", help="Forecasts of citations, of impact train.")
    ] = None,
    publication: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="DOI, pubmed:NUMBER, OpenAlex W-number, or PDB or EMDB entry. Default: the model's own entry.",
        ),
    ] = None,
    score_weights: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Folder or weights.json of weights learn. Default: the default weights."),
    ] = None,
    assembly: Annotated[
        str | None, typer.Option(metavar="NAME", help="Biological assembly of the model, for example 1.")
    ] = None,
    rerun: Annotated[bool, typer.Option("--rerun/--no-rerun", help="Run the record again in the sandbox.")] = True,
    rerun_budget: Annotated[
        float, typer.Option(metavar="SECONDS", help="Only run again what is expected to take no longer.")
    ] = 300.0,
    time_limit: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="CPU time of the proofs, and time of the re-run, after which they stop."),
    ] = 600.0,
    perturbed_micrographs: Annotated[
        int,
        typer.Option(
            metavar="N", help="Micrographs whose fitted parameters are moved, evenly spread over the record's."
        ),
    ] = 20,
) -> int:
    """Judge a model: is it consistent, new, of weight, repeatable, settled, and one score from that.

    Each answer comes with its evidence and its standard deviation, or says why there is none and how to get one.
    Without --index, --impact or --record the answers that need them are left out of the score. With --symmetry the
    shape that is looked up is that of the whole particle.

    Exit code 0: the assessment was made, whatever it says and whatever is not available; 2: something given cannot be
    used. The command whose exit code tells the verdict on a model is cryoprism prove.

    Writes assessment.json, consistency.json, certificate/ (sh check.sh in it checks the proofs again), report.html,
    job.json and run.log.

    \b
    Example:
    cryoprism assess model.cif --map Refine/job001/map.mrc --record Refine/job001 --index known
    """
    from cryoprism.workflow import AssessConfig, assess_session

    from ._console import logging_to_console

    settings = settings_of(context, FIELDS, AssessConfig)
    with logging_to_console():
        result = assess_session(settings)
    for sentence in result.sentences:
        typer.echo(sentence)
    for name, (why, *how) in result.unavailable.items():
        typer.echo(f"Not available: {name}. {' '.join((why, *how))}")
    for name, why in result.uncounted.items():
        typer.echo(f"Not tied to the model: {name}. {why}")
    done = "Nothing has changed since it was assessed" if result.skipped else f"Assessed in {result.seconds:.1f} s"
    typer.echo(f"{done}. Report: {result.report}")
    return 0
