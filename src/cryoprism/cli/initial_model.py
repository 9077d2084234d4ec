"""``cryoprism initial-model``: a first map from particles alone."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import NO_MPS, ImagePixelSize, MinDistance, ShiftRange, Symmetry, fields_of, job_options, with_options

__all__ = ["FIELDS", "initial_model"]

OPTIONS = job_options("InitialModel", device=NO_MPS, seed="Seed of the starts and of the half sets.")
#: Which field of ``workflow.InitialModelConfig`` each option sets.
FIELDS = {
    "particles": "particles_file",
    "symmetry": "symmetry",
    "diameter": "diameter_in_angstroms",
    "starts": "starts",
    "maximum_resolution": "maximum_resolution_in_angstroms",
    "shift_range": "shift_range_in_angstroms",
    "min_distance": "min_distance_in_angstroms",
    "pixel_size": "pixel_size_in_angstroms",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def initial_model(
    context: typer.Context,
    particles: Annotated[
        str | None,
        typer.Argument(metavar="PARTICLES", help="A RELION STAR or cryoSPARC .cs file of particles with their CTF."),
    ] = None,
    symmetry: Symmetry = "C1",
    diameter: Annotated[
        float | None,
        typer.Option("--diameter", "--particle_diameter", metavar="Å", help="Diameter of the particle. Needed."),
    ] = None,
    starts: Annotated[int, typer.Option(metavar="N", help="Independent starts from noise; the best is kept.")] = 3,
    maximum_resolution: Annotated[
        float | None,
        typer.Option(
            "--maximum-resolution",
            "--maxres",
            metavar="Å",
            help="Finest frequencies used. Default: a sixteenth to an eighth of the diameter, from 12 (T, O, I: 9) on.",
        ),
    ] = None,
    shift_range: ShiftRange = 12.0,
    min_distance: MinDistance = 20.0,
    pixel_size: ImagePixelSize = None,
) -> int:
    """Make a first map from particles alone, without a reference.

    The hand of the map is not known: the mirror image explains the particles just as well.

    Writes initial_model.mrc, particles.star with poses, initial_model.json, report.html, passes.npz (to go on after a
    stop), job.json and run.log.

    \b
    Example:
    cryoprism initial-model Extract/job001/particles.star --symmetry O --diameter 130
    """
    from cryoprism.core import keep_freed_memory
    from cryoprism.workflow import InitialModelConfig, initial_model_session

    from ._console import logging_to_console

    settings = settings_of(context, FIELDS, InitialModelConfig)
    keep_freed_memory()
    with logging_to_console():
        summary = initial_model_session(settings)
    typer.echo(summary.sentence)
    done = "was there already" if summary.skipped else f"made in {summary.seconds:.1f} s"
    typer.echo(f"Model {done}: {summary.map}")
    typer.echo(f"Report: {summary.report}")
    return 0
