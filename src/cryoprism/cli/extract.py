"""``cryoprism extract``: particle images out of micrographs."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import given_values

__all__ = ["FIELDS", "extract"]

#: Which field of ``workflow.ExtractConfig`` each option sets.
FIELDS = {
    "inputs": "inputs",
    "coordinates": "coordinates",
    "box": "box_in_pixels",
    "scale": "scaled_box_in_pixels",
    "diameter": "diameter_in_angstroms",
    "edge": "edge_in_pixels",
    "min_distance": "min_distance_in_angstroms",
    "dust": "dust_in_deviations",
    "invert": "invert",
    "normalise": "normalise",
    "pixel_size": "pixel_size_in_angstroms",
    "voltage": "voltage_in_kilovolts",
    "spherical_aberration": "spherical_aberration_in_millimeters",
    "amplitude_contrast": "amplitude_contrast",
    "out": "output",
    "only_do_unfinished": "only_do_unfinished",
    "overwrite": "overwrite",
    "workers": "workers",
    "seed": "seed",
    "max_memory": "max_memory_in_gigabytes",
}


def extract(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="MICROGRAPHS", help="A STAR or .cs file of micrographs, a folder, or image files."),
    ] = None,
    coordinates: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Folder of coordinate files, or one STAR, .box or .cs file for all."),
    ] = None,
    box: Annotated[int | None, typer.Option(metavar="N", help="Side of the box on the micrograph, in pixels.")] = None,
    scale: Annotated[
        int | None, typer.Option(metavar="N", help="Scale the images down to this side, in pixels.")
    ] = None,
    diameter: Annotated[
        float | None,
        typer.Option(metavar="Å", help="Diameter of the particle; outside is background. Default: 75 % of the box."),
    ] = None,
    edge: Annotated[
        float | None,
        typer.Option(metavar="N", help="Leave out particles nearer to an edge, in pixels. Default: half a box."),
    ] = None,
    min_distance: Annotated[
        float, typer.Option(metavar="Å", help="Leave out duplicates: particles nearer than this to a better one.")
    ] = 20.0,
    dust: Annotated[
        float | None,
        typer.Option(metavar="SIGMA", help="Replace pixels further from the background than this many deviations."),
    ] = None,
    invert: Annotated[bool, typer.Option("--invert/--no-invert", help="Make protein bright.")] = True,
    normalise: Annotated[
        bool,
        typer.Option("--normalise/--no-normalise", help="Flatten the background; bring it to mean 0, deviation 1."),
    ] = True,
    pixel_size: Annotated[
        float | None, typer.Option(metavar="Å", help="Pixel size of the micrographs; replaces that of the metadata.")
    ] = None,
    voltage: Annotated[float | None, typer.Option(metavar="kV", help="Acceleration voltage.")] = None,
    spherical_aberration: Annotated[
        float | None, typer.Option("--spherical-aberration", "--cs", metavar="mm", help="Spherical aberration.")
    ] = None,
    amplitude_contrast: Annotated[
        float | None, typer.Option(metavar="FRACTION", help="Amplitude contrast, usually 0.07 to 0.1.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "--o", metavar="FOLDER", help="Folder to write. Default: the next free Extract/jobNNN."),
    ] = None,
    only_do_unfinished: Annotated[
        bool, typer.Option("--only-do-unfinished", help="Continue in an existing folder and skip what is done.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over in an existing folder.")] = False,
    workers: Annotated[
        int, typer.Option("--workers", "--j", metavar="N", help="Processes that work on micrographs side by side.")
    ] = 1,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of every random number.")] = 0,
    max_memory: Annotated[
        float | None, typer.Option(metavar="GB", help="Memory to stay below. Default: what is free.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Settings from YAML, JSON or a job.json; options given beside it win."),
    ] = None,
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

    values = given_values(context, FIELDS)
    known = {} if config is None else ExtractConfig.from_file(config).model_dump()
    settings = ExtractConfig(**(known | values))
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
    if summary.without_coordinates:
        typer.echo(f"Without coordinates: {len(summary.without_coordinates)} micrographs.")
    for name, reason in summary.failed:
        typer.echo(f"Not extracted: {name}: {reason}", err=True)
    typer.echo(f"Particles: {summary.star}")
    return 1 if summary.failed else 0
