"""``cryoprism refine``: poses, half maps and resolution from particles and a starting map."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import (
    NO_MPS,
    HelicalRise,
    HelicalTwist,
    HelicalUnits,
    ImagePixelSize,
    InitialLowpass,
    Local,
    MinDistance,
    ShiftRange,
    Symmetry,
    fields_of,
    job_options,
    with_options,
)

__all__ = ["FIELDS", "refine"]

OPTIONS = job_options(
    "Refine",
    device=NO_MPS,
    seed="Seed of the grids, and of the half sets where the table has none.",
    unfinished="Go on after the last pass of a run that was stopped.",
)
#: Which field of ``workflow.RefineConfig`` each option sets.
FIELDS = {
    "particles": "particles_file",
    "reference": "reference",
    "symmetry": "symmetry",
    "diameter": "diameter_in_angstroms",
    "initial_lowpass": "initial_lowpass_in_angstroms",
    "mask": "mask_file",
    "weights": "weights_folder",
    "scale": "scaled_box_in_pixels",
    "shift_range": "shift_range_in_angstroms",
    "min_distance": "min_distance_in_angstroms",
    "maximum_resolution": "maximum_resolution_in_angstroms",
    "iterations": "iterations",
    "local": "local",
    "pixel_size": "pixel_size_in_angstroms",
    "helical_rise": "helical_rise_in_angstroms",
    "helical_twist": "helical_twist_in_degrees",
    "helical_units": "helical_units",
    "helical_diameter": "helical_diameter_in_angstroms",
    "helical_central_fraction": "helical_central_fraction",
    "helical_axis_spread": "helical_axis_spread_in_degrees",
    "helical_search": "helical_search",
    "pose_network": "pose_network",
    "pose_network_steps": "pose_network_steps",
    "pose_network_file": "pose_network_file",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def refine(
    context: typer.Context,
    particles: Annotated[
        str | None,
        typer.Argument(metavar="PARTICLES", help="A RELION STAR or cryoSPARC .cs file of particles with their CTF."),
    ] = None,
    reference: Annotated[
        str,
        typer.Option(
            "--reference",
            "--ref",
            metavar="MAP",
            help="Map to start from, of any scale and voxel size; 'none' starts from poses that PARTICLES holds.",
        ),
    ] = "none",
    symmetry: Symmetry = "C1",
    diameter: Annotated[
        float | None,
        typer.Option("--diameter", "--particle_diameter", metavar="Å", help="Diameter of the particle. Needed."),
    ] = None,
    initial_lowpass: InitialLowpass = 30.0,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask", "--solvent_mask", metavar="MRC", help="Mask from 0 to 1. Default: a soft sphere of the diameter."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Folder 'weights' of cryoprism restore: use the envelope of each micrograph."
        ),
    ] = None,
    scale: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Scale images down to this side first. Default: as they are.")
    ] = None,
    shift_range: ShiftRange = 12.0,
    min_distance: MinDistance = 20.0,
    maximum_resolution: Annotated[
        float | None,
        typer.Option(
            "--maximum-resolution", "--maxres", metavar="Å", help="Finest frequencies used for poses. Default: all."
        ),
    ] = None,
    iterations: Annotated[int, typer.Option("--iterations", "--iter", metavar="N", help="Most passes.")] = 20,
    local: Local = True,
    pixel_size: ImagePixelSize = None,
    helical_rise: HelicalRise = None,
    helical_twist: HelicalTwist = None,
    helical_units: HelicalUnits = 1,
    helical_diameter: Annotated[
        float | None,
        typer.Option(
            "--helical-diameter",
            "--helical_outer_diameter",
            metavar="Å",
            help="Outer diameter of the filament; --diameter is the length that is looked at. Default: the same.",
        ),
    ] = None,
    helical_central_fraction: Annotated[
        float,
        typer.Option(
            "--helical-central-fraction",
            "--helical_z_percentage",
            metavar="SHARE",
            help="Part of the box along z from which the map is symmetrised.",
        ),
    ] = 0.3,
    helical_axis_spread: Annotated[
        float,
        typer.Option(
            metavar="DEGREES",
            help="How far filaments lean out of the plane, or off rlnAngleTiltPrior and rlnAnglePsiPrior.",
        ),
    ] = 10.0,
    helical_search: Annotated[
        bool,
        typer.Option(
            "--helical-search/--no-helical-search",
            "--helical_symmetry_search/--no-helical_symmetry_search",
            help="Refine rise (within 5 %) and twist (within 2°) after each pass.",
        ),
    ] = False,
    pose_network: Annotated[
        bool,
        typer.Option(
            "--pose-network/--no-pose-network",
            help="First pass near poses of a network trained on the reference; run.log says what it saved or cost.",
        ),
    ] = False,
    pose_network_steps: Annotated[int, typer.Option(metavar="N", help="Steps of the network's training.")] = 1500,
    pose_network_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="'poses.safetensors' of synthesize --train-poses, in place of a training."),
    ] = None,
) -> int:
    """Refine poses and make a map with an honest resolution.

    Duplicates are left out, then whole micrographs are drawn into two halves that share nothing finer than 40 Å
    from there on; rlnRandomSubset is kept where it is given.

    Filaments (--helical-rise, --helical-twist) stay whole in one half (rlnHelicalTubeID), lie in the plane or where
    the table's priors say, shift along their axis by half a rise at most, and give symmetrised maps.

    Writes map.mrc, half1.mrc, half2.mrc (unfiltered), map_sharpened.mrc, mask.mrc, local_resolution.mrc,
    particles.star with poses, resolution.json, report.html, passes.npz (to go on after a stop), job.json and run.log.

    \b
    Example:
    cryoprism refine particles.star --reference start.mrc --symmetry O --diameter 130 --out Refine/run1
    """
    from cryoprism.core import keep_freed_memory
    from cryoprism.workflow import RefineConfig, refine_session

    from ._console import logging_to_console

    settings = settings_of(context, FIELDS, RefineConfig)
    keep_freed_memory()
    with logging_to_console():
        summary = refine_session(settings)
    for sentence in summary.sentences:
        typer.echo(sentence)
    done = "was refined before" if summary.skipped else f"in {summary.seconds:.1f} s"
    left_out = f", {summary.duplicates} duplicates left out" if summary.duplicates else ""
    typer.echo(f"{summary.particles} particles{left_out}, {summary.passes} passes, {done}.")
    if not summary.settled:
        typer.echo(f"It had not settled after {summary.passes} passes: give more --iterations.")
    typer.echo(f"Report: {summary.report}")
    return 0
