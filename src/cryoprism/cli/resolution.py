"""``cryoprism resolution``: resolution, mask, sharpened map and report from two half maps."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import Local, Mtf, fields_of, job_options, with_options

__all__ = ["FIELDS", "resolution"]

OPTIONS = job_options("Resolution", seed="Seed of the random phases.")
#: Which field of ``workflow.ResolutionConfig`` each option sets.
FIELDS = {
    "half1": "half1",
    "half2": "half2",
    "mask": "mask_file",
    "threshold": "mask_threshold",
    "extend": "mask_extend_in_angstroms",
    "soft_edge": "mask_soft_edge_in_angstroms",
    "mtf": "mtf_file",
    "mtf_pixel_size": "mtf_pixel_size_in_angstroms",
    "b_factor": "b_factor_in_square_angstroms",
    "symmetry": "symmetry",
    "particles": "particles_file",
    "model": "model_file",
    "assembly": "assembly",
    "fit_model": "fit_model",
    "pixel_size": "voxel_size_in_angstroms",
    "local": "local",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def resolution(
    context: typer.Context,
    half1: Annotated[
        str | None, typer.Argument(metavar="HALF1", help="First unfiltered half map; its voxel size and origin count.")
    ] = None,
    half2: Annotated[str | None, typer.Argument(metavar="HALF2", help="Second unfiltered half map.")] = None,
    mask: Annotated[
        str | None,
        typer.Option("--mask", "--solvent_mask", metavar="MRC", help="Mask from 0 to 1. Default: made from the map."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="LEVEL", help="Level of the low-passed map that bounds the mask. Default: found."),
    ] = None,
    extend: Annotated[float, typer.Option(metavar="Å", help="How far the mask grows beyond the level.")] = 5.0,
    soft_edge: Annotated[float, typer.Option(metavar="Å", help="Width of the mask's soft edge.")] = 12.0,
    mtf: Mtf = None,
    mtf_pixel_size: Annotated[
        float | None,
        typer.Option(
            "--mtf-pixel-size",
            "--mtf_angpix",
            metavar="Å",
            help="Pixel size of the micrographs, if not the maps'.",
        ),
    ] = None,
    b_factor: Annotated[
        float | None,
        typer.Option(
            "--b-factor", "--adhoc_bfac", metavar="Å²", help="B-factor for sharpening, negative. Default: fitted."
        ),
    ] = None,
    symmetry: Annotated[
        str, typer.Option("--symmetry", "--sym", metavar="GROUP", help="Point group of the map, such as C1, D7 or O.")
    ] = "C1",
    particles: Annotated[
        str | None, typer.Option(metavar="STAR", help="Particles with poses, for the plot of viewing directions.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="PDB", help="Atomic model: FSC between map and model, and Q-score.")
    ] = None,
    assembly: Annotated[
        str | None, typer.Option(metavar="NAME", help="Biological assembly of the model, for example 1.")
    ] = None,
    fit_model: Annotated[
        bool, typer.Option("--fit-model", help="Fit the model to the map as a rigid body first.")
    ] = False,
    pixel_size: Annotated[
        float | None,
        typer.Option("--pixel-size", "--angpix", metavar="Å", help="Voxel size; replaces the one in the headers."),
    ] = None,
    local: Local = True,
) -> int:
    """Say how well a map is resolved, from its two half maps.

    HALF1 and HALF2 are the unfiltered half maps of one refinement, of CryoPrism or any other program.

    Writes map.mrc (mean of the halves), map_sharpened.mrc, mask.mrc, local_resolution.mrc, resolution.json,
    report.html, job.json and run.log.

    \b
    Example:
    cryoprism resolution half1.mrc half2.mrc --symmetry O --particles particles.star
    """
    from cryoprism.workflow import ResolutionConfig, measure_resolution

    from ._console import logging_to_console

    settings = settings_of(context, FIELDS, ResolutionConfig)
    with logging_to_console():
        result = measure_resolution(settings)
    done = "was measured before" if result.skipped else f"measured in {result.seconds:.1f} s"
    typer.echo(f"Resolution {done}.")
    for sentence in result.sentences:
        typer.echo(sentence)
    typer.echo(f"Report: {result.report}")
    return 0
