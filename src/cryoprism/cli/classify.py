"""``cryoprism classify``: class averages of particles."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import Ctf, ImagePixelSize, fields_of, job_options, with_options

__all__ = ["FIELDS", "classify"]

OPTIONS = job_options("Classify")
#: Which field of ``workflow.ClassifyConfig`` each option sets.
FIELDS = {
    "particles": "particles_file",
    "classes": "classes",
    "diameter": "diameter_in_angstroms",
    "iterations": "iterations",
    "scale": "scaled_box_in_pixels",
    "select": "least_score",
    "max_shift": "max_shift_in_angstroms",
    "ctf": "ctf",
    "pixel_size": "pixel_size_in_angstroms",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def classify(
    context: typer.Context,
    particles: Annotated[
        str | None,
        typer.Argument(metavar="PARTICLES", help="A RELION STAR or cryoSPARC .cs file of extracted particles."),
    ] = None,
    diameter: Annotated[
        float | None,
        typer.Option(
            "--diameter", "--particle_diameter", metavar="Å", help="Diameter of the circle that holds the particle."
        ),
    ] = None,
    classes: Annotated[int, typer.Option("--classes", "--K", metavar="N", help="Number of classes.")] = 50,
    iterations: Annotated[
        int, typer.Option("--iterations", "--iter", metavar="N", help="Iterations at most; fewer once nothing changes.")
    ] = 25,
    scale: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", help="Scale images down to this side. Default: to 3 Å per pixel."),
    ] = None,
    select: Annotated[
        float, typer.Option(metavar="SCORE", help="Lowest score of a class that goes into selected.star, 0 to 1.")
    ] = 0.2,
    max_shift: Annotated[
        float | None,
        typer.Option(metavar="Å", help="Shift looked for in each iteration. Default: a tenth of the diameter."),
    ] = None,
    ctf: Ctf = True,
    pixel_size: ImagePixelSize = None,
) -> None:
    """Sort particles into classes of like views and average them.

    PARTICLES are those of 'cryoprism extract' or of RELION, with their CTF. The classes come from the particles alone.

    Writes classes.mrcs and classes.star (averages, the largest class first), particles.star (class, in-plane angle and
    origin of each particle), selected.star (particles of the classes that are good by themselves), report.html with
    the gallery, classification.json, job.json and run.log.

    The score of a class is the mean correlation of the averages of its two halves, from the resolution up to which they
    shared a reference to that of the best class. Classes with a score of at least --select are selected, but none if
    the halves, taken over all classes, agree no better than pure noise may.

    \b
    Example:
    cryoprism classify Extract/job001/particles.star --classes 50 --diameter 180
    """
    from cryoprism.workflow import ClassifyConfig, classify_session

    from ._console import logging_to_console

    with logging_to_console():
        summary = classify_session(settings_of(context, FIELDS, ClassifyConfig))
    typer.echo(summary.sentence())
    typer.echo(f"Gallery: {summary.output / 'report.html'}")
