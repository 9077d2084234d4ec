"""``cryoprism simulate``: micrographs or movies with every hidden quantity written beside them."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import given_values

__all__ = ["FIELDS", "simulate"]

#: Which field of ``workflow.SimulateConfig`` each option sets.
FIELDS = {
    "out": "output",
    "only_do_unfinished": "only_do_unfinished",
    "overwrite": "overwrite",
    "structure": "structure_file",
    "micrographs": "micrographs",
    "width": "width_in_pixels",
    "height": "height_in_pixels",
    "pixel_size": "pixel_size_in_angstroms",
    "voltage": "voltage_in_kilovolts",
    "spherical_aberration": "spherical_aberration_in_millimeters",
    "amplitude_contrast": "amplitude_contrast",
    "exposure": "exposure_in_electrons_per_square_angstrom",
    "ice_thickness": "ice_thickness_in_angstroms",
    "mtf": "mtf_file",
    "particles": "particles_per_micrograph",
    "severity": "severity",
    "frames": "frames",
    "engine": "engine",
    "workers": "workers",
    "device": "device",
    "seed": "seed",
    "max_memory": "max_memory_in_gigabytes",
}


def simulate(
    context: typer.Context,
    out: Annotated[
        str | None,
        typer.Option("--out", "--o", metavar="FOLDER", help="Folder to write. Default: the next free Simulate/jobNNN."),
    ] = None,
    only_do_unfinished: Annotated[
        bool, typer.Option("--only-do-unfinished", help="Continue in an existing folder and skip what is done.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over in an existing folder.")] = False,
    structure: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="PDB, mmCIF or MRC map. Default: a shell of helices built on the spot."),
    ] = None,
    micrographs: Annotated[int, typer.Option(metavar="N", help="Number of micrographs.")] = 4,
    width: Annotated[int, typer.Option(metavar="PIXELS", help="Width of a micrograph.")] = 1024,
    height: Annotated[int, typer.Option(metavar="PIXELS", help="Height of a micrograph.")] = 1024,
    pixel_size: Annotated[float, typer.Option(metavar="Å", help="Pixel size.")] = 1.5,
    voltage: Annotated[float, typer.Option(metavar="kV", help="Acceleration voltage.")] = 300.0,
    spherical_aberration: Annotated[
        float, typer.Option("--spherical-aberration", "--cs", metavar="mm", help="Spherical aberration.")
    ] = 2.7,
    amplitude_contrast: Annotated[float, typer.Option(metavar="FRACTION", help="Amplitude contrast.")] = 0.07,
    exposure: Annotated[float, typer.Option(metavar="e/Å²", help="Total exposure of one micrograph.")] = 40.0,
    ice_thickness: Annotated[
        float | None, typer.Option(metavar="Å", help="Mean thickness of the ice. Default: drawn per micrograph.")
    ] = None,
    mtf: Annotated[
        str | None, typer.Option(metavar="STAR", help="The detector's MTF curve. Default: a typical one.")
    ] = None,
    particles: Annotated[
        int | None, typer.Option(metavar="N", help="Particles in a micrograph. Default: as many as fit loosely.")
    ] = None,
    severity: Annotated[
        float, typer.Option(metavar="FACTOR", help="Strength of the damage: 0 none, 1 ordinary, 2 bad.")
    ] = 1.0,
    frames: Annotated[int, typer.Option(metavar="N", help="Frames per movie; 1 writes micrographs.")] = 1,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="How the wave passes the specimen: rytov or multislice.")
    ] = "rytov",
    workers: Annotated[
        int, typer.Option("--workers", "--j", metavar="N", help="Processes that work on micrographs side by side.")
    ] = 1,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:N or mps; never replaced by another one.")
    ] = "cpu",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of every random number.")] = 0,
    max_memory: Annotated[
        float | None, typer.Option(metavar="GB", help="Memory to stay below. Default: what is free.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Settings from YAML, JSON or a job.json; options given beside it win."),
    ] = None,
) -> int:
    """Make micrographs or movies of a virtual specimen, with every hidden quantity beside them.

    Writes micrographs/ (or movies/), micrographs.star with the true CTF, truth.json with every other cause,
    coordinates/ and job.json. The same seed gives the same images whatever the number of workers.

    \b
    Example:
    cryoprism simulate --structure 4oyn.cif.gz --micrographs 20 --severity 1.5 --out Simulate/session1
    """
    from cryoprism.workflow import SimulateConfig, simulate_session

    from ._console import logging_to_console

    known = {} if config is None else SimulateConfig.from_file(config).model_dump()
    settings = SimulateConfig(**(known | given_values(context, FIELDS)))
    with logging_to_console():
        summary = simulate_session(settings)
    typer.echo(f"{summary.micrographs} simulated in {summary.seconds:.1f} s.")
    typer.echo(f"Next: cryoprism restore {summary.star}")
    return 0
