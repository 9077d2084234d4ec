"""``cryoprism extract``: particle images out of micrographs."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import LENS, SELECTION, WORKERS, Micrographs, fields_of, job_options, with_options

__all__ = ["FIELDS", "extract"]

OPTIONS = (*SELECTION, *LENS, *job_options("Extract", workers=WORKERS, device=None))
#: Which field of ``workflow.ExtractConfig`` each option sets.
FIELDS = {
    "inputs": "inputs",
    "coordinates": "coordinates",
    "box": "box_in_pixels",
    "scale": "scaled_box_in_pixels",
    "diameter": "diameter_in_angstroms",
    "edge": "edge_in_angstroms",
    "masks": "masks_folder",
    "min_distance": "min_distance_in_angstroms",
    "dust": "dust_in_deviations",
    "invert": "invert",
    "normalise": "normalise",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def extract(
    context: typer.Context,
    inputs: Micrographs = None,
    coordinates: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Folder of coordinate files, or one STAR, .box or .cs file for all."),
    ] = None,
    box: Annotated[int | None, typer.Option(metavar="PIXELS", help="Side of the box on the micrograph.")] = None,
    scale: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Scale images down to this side. Default: as cut.")
    ] = None,
    diameter: Annotated[
        float | None,
        typer.Option(
            "--diameter",
            "--particle_diameter",
            metavar="Å",
            help="Diameter of the particle; outside is background. Default: 75 % of the box.",
        ),
    ] = None,
    edge: Annotated[
        float | None,
        typer.Option(metavar="Å", help="Leave out particles nearer to an edge. Default: half a box."),
    ] = None,
    min_distance: Annotated[
        float, typer.Option(metavar="Å", help="Leave out duplicates: particles nearer than this to a better one.")
    ] = 20.0,
    dust: Annotated[
        float | None,
        typer.Option(metavar="SIGMA", help="Replace pixels further from the background than this many deviations."),
    ] = None,
    masks: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="masks/ of 'cryoprism restore'. Default: beside the input.")
    ] = None,
    invert: Annotated[bool, typer.Option("--invert/--no-invert", help="Make protein bright.")] = True,
    normalise: Annotated[
        bool,
        typer.Option("--normalise/--no-normalise", help="Flatten the background; bring it to mean 0, deviation 1."),
    ] = True,
) -> int:
    """Cut particles out of micrographs: inverted, normalised, scaled down.

    MICROGRAPHS is best the micrographs.star of 'cryoprism restore': its defocus, tilt of the field, weights and mended
    pixels go into the particles. Coordinates are files named after the micrographs in a folder (as 'cryoprism pick'
    and RELION write them), or one file for all.

    Writes particles/ (a stack for each micrograph), particles.star (for RELION and 'cryoprism refine'), job.json and
    run.log. Particles at edges and duplicates are left out; all others stay, with the share of each that lies on
    artefacts and the probability to be junk beside them.

    \b
    Example:
    cryoprism extract Restore/job001/micrographs.star --coordinates Pick/job001 --box 256 --diameter 180
    """
    from cryoprism.workflow import ExtractConfig, extract_session

    from ._console import logging_to_console

    settings = settings_of(context, FIELDS, ExtractConfig)
    with logging_to_console():
        summary = extract_session(settings)
    typer.echo(
        f"{summary.particles} particles from {summary.micrographs} micrographs at "
        f"{summary.pixel_size_in_angstroms:g} Å per pixel in {summary.seconds:.1f} s."
    )
    left_out = {
        "at edges": summary.at_edge,
        "duplicates": summary.duplicates,
        "without contrast": summary.without_contrast,
    }
    if any(left_out.values()):
        typer.echo("Left out: " + ", ".join(f"{count} {why}" for why, count in left_out.items() if count) + ".")
    for name, why in summary.left_out.items():
        typer.echo(f"Left out: {name}: {why}")
    if summary.without_coordinates:
        typer.echo(f"Without coordinates: {len(summary.without_coordinates)} micrographs.")
    for name, reason in summary.failed:
        typer.echo(f"Not extracted: {name}: {reason}", err=True)
    typer.echo(f"Particles: {summary.star}")
    return 1 if summary.failed else 0
