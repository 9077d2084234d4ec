"""``cryoprism reconstruct``: a map and two half maps from particles with poses."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import JOB_FIELDS, Config, MaxMemory, OnlyDoUnfinished, Overwrite

__all__ = ["FIELDS", "reconstruct"]

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
    "device": "device",
    **JOB_FIELDS,
}


def reconstruct(
    context: typer.Context,
    particles: Annotated[
        str | None,
        typer.Argument(metavar="PARTICLES", help="A RELION STAR or cryoSPARC .cs file of particles with poses."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "--o", metavar="FOLDER", help="Folder to write. Default: the next free Reconstruct/jobNNN."
        ),
    ] = None,
    symmetry: Annotated[
        str, typer.Option("--symmetry", "--sym", metavar="GROUP", help="Point group, such as C1, D7, O or I1.")
    ] = "C1",
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
    helical_rise: Annotated[
        float | None,
        typer.Option("--helical-rise", "--helical_rise_initial", metavar="Å", help="Rise of a helix about z."),
    ] = None,
    helical_twist: Annotated[
        float | None,
        typer.Option(
            "--helical-twist",
            "--helical_twist_initial",
            metavar="DEGREES",
            help="Twist of the helix, positive for right-handed.",
        ),
    ] = None,
    helical_units: Annotated[
        int,
        typer.Option(
            "--helical-units",
            "--helical_nr_asu",
            metavar="N",
            help="Units of the helix that each segment is inserted as.",
        ),
    ] = 1,
    ctf: Annotated[bool, typer.Option("--ctf/--no-ctf", help="Correct for the contrast transfer.")] = True,
    wiener: Annotated[
        bool, typer.Option("--wiener/--no-wiener", help="Weight map.mrc by the correlation of the halves.")
    ] = True,
    iterations: Annotated[
        int, typer.Option(metavar="N", help="Steps that account for uneven coverage; 0 only divides.")
    ] = 3,
    pixel_size: Annotated[
        float | None,
        typer.Option(
            "--pixel-size", "--angpix", metavar="Å", help="Pixel size of the images; replaces the one in the metadata."
        ),
    ] = None,
    only_do_unfinished: OnlyDoUnfinished = False,
    overwrite: Overwrite = False,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:N or mps; never replaced by another one.")
    ] = "cpu",
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the half sets, where the table has none.")] = 0,
    max_memory: MaxMemory = None,
    config: Config = None,
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
        summary = reconstruct_session(settings_of(context, FIELDS, ReconstructConfig, config))
    typer.echo(summary.sentence())
