"""``cryoprism refine``: poses, half maps and resolution from particles and a starting map."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import JOB_FIELDS, Config, MaxMemory, Overwrite

__all__ = ["FIELDS", "refine"]

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
    "device": "device",
    **JOB_FIELDS,
}


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
    symmetry: Annotated[
        str, typer.Option("--symmetry", "--sym", metavar="GROUP", help="Point group, such as C1, D7, O or I1.")
    ] = "C1",
    diameter: Annotated[
        float | None,
        typer.Option("--diameter", "--particle_diameter", metavar="Å", help="Diameter of the particle. Needed."),
    ] = None,
    initial_lowpass: Annotated[
        float, typer.Option("--initial-lowpass", "--ini_high", metavar="Å", help="Low-pass of the starting map.")
    ] = 30.0,
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
    shift_range: Annotated[float, typer.Option(metavar="Å", help="How far off centre particles may be.")] = 12.0,
    min_distance: Annotated[
        float, typer.Option(metavar="Å", help="Particles nearer than this to another one are left out; 0 keeps all.")
    ] = 20.0,
    maximum_resolution: Annotated[
        float | None,
        typer.Option(
            "--maximum-resolution", "--maxres", metavar="Å", help="Finest frequencies used for poses. Default: all."
        ),
    ] = None,
    iterations: Annotated[int, typer.Option("--iterations", "--iter", metavar="N", help="Most passes.")] = 20,
    local: Annotated[bool, typer.Option("--local/--no-local", help="Measure the resolution by place too.")] = True,
    pixel_size: Annotated[
        float | None,
        typer.Option("--pixel-size", "--angpix", metavar="Å", help="Pixel size of the images; replaces the table's."),
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
    out: Annotated[
        str | None,
        typer.Option("--out", "--o", metavar="FOLDER", help="Folder to write. Default: the next free Refine/jobNNN."),
    ] = None,
    only_do_unfinished: Annotated[
        bool, typer.Option("--only-do-unfinished", help="Go on after the last pass of a run that was stopped.")
    ] = False,
    overwrite: Overwrite = False,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="cpu, cuda or cuda:N; never replaced by another one.")
    ] = "cpu",
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of the grids, and of the half sets where the table has none.")
    ] = 0,
    max_memory: MaxMemory = None,
    config: Config = None,
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

    settings = settings_of(context, FIELDS, RefineConfig, config)
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
