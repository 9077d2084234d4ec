"""``cryoprism prove``: is a model consistent, with proofs that anyone can check again."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import MODEL_CHECKS, fields_of, job_options, with_options

__all__ = ["FIELDS", "prove"]

OPTIONS = MODEL_CHECKS + job_options(
    "Prove",
    device=None,
    seed=None,
    max_memory="Memory that Coq may use. Default: 4 GB.",
    unfinished="Skip what is done.",
)
#: Which field of ``workflow.ProveConfig`` each option sets.
FIELDS = {
    "model": "model_file",
    "assembly": "assembly",
    "time_limit": "time_limit_in_seconds",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def prove(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="PDB or mmCIF file; its first model is checked.")
    ] = None,
    assembly: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Biological assembly whose copies must not overlap. Default: the crystal and every assembly.",
        ),
    ] = None,
    time_limit: Annotated[float, typer.Option(metavar="SECONDS", help="CPU time that Coq may take in all.")] = 300.0,
) -> int:
    """Prove that an atomic model is consistent, or refute it with the atoms that are wrong.

    Coq's kernel checks every verdict: clashes, bonds, chains, scale, handedness, cis peptides, symmetry copies, the
    map's envelope and the place in it, sequence and numbers, ligands, and what the file declares to hold. What could
    not be checked or told is unknown, never proved. What is improbable, not impossible (Ramachandran angles, rotamers),
    is not asked.

    Writes consistency.json, certificate/ (sh check.sh in it checks the proofs again), report.html,
    job.json and run.log.

    Exit codes: 0 all proved, 1 something refuted, 3 something unknown, 2 an error with its remedy.

    \b
    Example:
    cryoprism prove model.cif --map map.mrc --out Prove/job001
    """
    from cryoprism.workflow import ProveConfig, prove_model

    from ._console import logging_to_console

    settings = settings_of(context, FIELDS, ProveConfig)
    with logging_to_console():
        result = prove_model(settings)
    for sentence in result.sentences:
        typer.echo(sentence)
    if result.score is not None and result.deviation is not None:
        typer.echo(
            f"LogicScore: {result.score:.4f} of 1, standard deviation {result.deviation:.4f} "
            "(1 only where all is proved)"
        )
    typer.echo(f"Report: {result.report}")
    return {"proved": 0, "refuted": 1, "unknown": 3}[result.verdict]
