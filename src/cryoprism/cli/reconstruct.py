"""``cryoprism reconstruct``: a map and two half maps from particles with poses."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import (
    Ctf,
    HelicalRise,
    HelicalTwist,
    HelicalUnits,
    ImagePixelSize,
    Symmetry,
    fields_of,
    job_options,
    with_options,
)

__all__ = ["FIELDS", "reconstruct"]

OPTIONS = job_options("Reconstruct", seed="Seed of the half sets, where the table has none.")
#: Which field of ``workflow.ReconstructConfig`` each option sets.
FIELDS = {
    "particles": "particles_file",
    "symmetry": "symmetry",
    "maximum_resolution": "maximum_resolution_in_angstroms",
    "padding": "padding",
    "weights": "weights_folder",
    "helical_rise": "helical_rise_in_angstroms",
    "helical_twist": "helical_twist_in_degrees",
    "helical_units": "helical_units",
    "ctf": "ctf",
    "wiener": "wiener",
    "iterations": "iterations",
    "pixel_size": "pixel_size_in_angstroms",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def reconstruct(
    context: typer.Context,
    particles: Annotated[
        str | None,
        typer.Argument(metavar="PARTICLES", help="A RELION STAR or cryoSPARC .cs file of particles with poses."),
    ] = None,
    symmetry: Symmetry = "C1",
    maximum_resolution: Annotated[
        float | None,
        typer.Option("--maximum-resolution", "--maxres", metavar="Å", help="Finest frequencies used. Default: all."),
    ] = None,
    padding: Annotated[
        int, typer.Option("--padding", "--pad", metavar="N", help="Times the box is padded for the transform.")
    ] = 2,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Folder 'weights' of cryoprism restore: use each micrograph's envelope and noise."
        ),
    ] = None,
    helical_rise: HelicalRise = None,
    helical_twist: HelicalTwist = None,
    helical_units: HelicalUnits = 1,
    ctf: Ctf = True,
    wiener: Annotated[
        bool, typer.Option("--wiener/--no-wiener", help="Weight map.mrc by the correlation of the halves.")
    ] = True,
    iterations: Annotated[
        int, typer.Option(metavar="N", help="Steps that account for uneven coverage; 0 only divides.")
    ] = 3,
    pixel_size: ImagePixelSize = None,
) -> None:
    """Reconstruct a map and two half maps from particles with known poses.

    PARTICLES are as RELION writes them: angles, origins, CTF and, if the halves were already split, rlnRandomSubset;
    otherwise whole micrographs are drawn into two halves.

    Writes map.mrc, half1.mrc, half2.mrc (not weighted, for the resolution), reconstruction.json, job.json and run.log.

    \b
    Example:
    cryoprism reconstruct particles.star --symmetry O --out Reconstruct/run1
    """
    from cryoprism.workflow import ReconstructConfig, reconstruct_session

    from ._console import logging_to_console

    with logging_to_console():
        summary = reconstruct_session(settings_of(context, FIELDS, ReconstructConfig))
    typer.echo(summary.sentence())
