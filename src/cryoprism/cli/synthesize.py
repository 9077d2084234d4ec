"""``cryoprism synthesize``: labelled micrographs that look like a session's own."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import LENS, WORKERS, HelicalRise, fields_of, job_options, with_options

__all__ = ["FIELDS", "synthesize"]

OPTIONS = (
    *LENS,
    *job_options(
        "Synthesize", workers=WORKERS, device="Of what is trained: cpu, cuda, cuda:N or mps; never another one."
    ),
)
#: Which field of ``workflow.SynthesizeConfig`` each option sets.
FIELDS = {
    "maps": "maps",
    "match": "match",
    "count": "count",
    "share": "shares",
    "morph": "morph",
    "conformation_share": "conformation_shares",
    "assembly": "assembly",
    "mass": "mass_in_kilodaltons",
    "contour": "contour",
    "lowpass": "lowpass_in_angstroms",
    "symmetry": "symmetry",
    "diameter": "diameter_in_angstroms",
    "coordinates": "coordinates",
    "exemplars": "exemplars",
    "noise": "noise",
    "learning_steps": "learning_steps",
    "particles": "particles_per_micrograph",
    "ice_thickness": "ice_thickness_in_angstroms",
    "ice_gradient": "ice_gradient",
    "tilt": "tilt_in_degrees",
    "tilt_axis": "tilt_axis_in_degrees",
    "preferred_view": "preferred_views",
    "preferred_share": "view_share",
    "preferred_concentration": "view_concentration",
    "interface_share": "interface_share",
    "cluster_share": "cluster_share",
    "cluster_size": "cluster_size",
    "cluster_spread": "cluster_spread_in_angstroms",
    "aggregate_share": "aggregate_share",
    "aggregate_size": "aggregate_size",
    "filaments": "filaments",
    "filament_length": "filament_length_in_angstroms",
    "persistence_length": "persistence_length_in_angstroms",
    "axis_offset": "axis_offset_in_angstroms",
    "helical_rise": "helical_rise",
    "helical_twist": "helical_twist",
    "contamination": "contamination",
    "carbon": "carbon",
    "movies": "movies",
    "frames": "frames",
    "width": "width_in_pixels",
    "height": "height_in_pixels",
    "realism": "realism",
    "train_picker": "train_picker",
    "picker_steps": "picker_steps",
    "train_poses": "train_poses",
    "pose_steps": "pose_steps",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def synthesize(
    context: typer.Context,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FILE",
            help="Map, PDB or mmCIF file of a species; again for more species. Conformations of one: FIRST,SECOND.",
        ),
    ] = None,
    match: Annotated[
        list[str] | None,
        typer.Option("--match", metavar="MICROGRAPHS", help="Real micrographs to match: STAR, .cs, folder or images."),
    ] = None,
    count: Annotated[int, typer.Option("--count", metavar="N", help="Synthetic micrographs.")] = 10,
    share: Annotated[
        list[float] | None, typer.Option(metavar="SHARE", help="Share of each species, once for each --map.")
    ] = None,
    morph: Annotated[int, typer.Option(metavar="N", help="States between the two conformations of a species.")] = 0,
    conformation_share: Annotated[
        list[str] | None,
        typer.Option(metavar="SHARE,SHARE", help="Shares of a species' conformations; one for all, or each --map's."),
    ] = None,
    assembly: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Biological assembly of structure files, for example 1; none: as it is. One for all, or each --map's.",
        ),
    ] = None,
    mass: Annotated[
        list[float] | None,
        typer.Option(
            metavar="kDa", help="Mass of a map's particle. Default: from --contour. One for all, or each --map's."
        ),
    ] = None,
    contour: Annotated[
        list[float] | None,
        typer.Option(metavar="LEVEL", help="Level at which a map encloses the molecule. One for all, or each --map's."),
    ] = None,
    lowpass: Annotated[float, typer.Option(metavar="Å", help="Finest detail of the specimen; 0 keeps all.")] = 0.0,
    symmetry: Annotated[
        list[str] | None,
        typer.Option(
            "--symmetry",
            "--sym",
            metavar="GROUP",
            help="Point group, such as C1, D7, O or I1. One for all, or each --map's. Default: C1.",
        ),
    ] = None,
    diameter: Annotated[
        float | None,
        typer.Option(
            "--diameter",
            "--particle_diameter",
            metavar="Å",
            help="For picking the real micrographs. Default: from the map.",
        ),
    ] = None,
    coordinates: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Picks of the real micrographs. Default: found with the map's own views."),
    ] = None,
    exemplars: Annotated[int, typer.Option(metavar="N", help="Most real micrographs that are matched.")] = 12,
    noise: Annotated[
        str,
        typer.Option(metavar="NAME", help="matched, learned, spectrum, gaussian, poisson, poisson-gaussian or none."),
    ] = "matched",
    learning_steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of learned noise. Default: 4,000, half an hour on a core; 40,000 on a GPU."),
    ] = None,
    particles: Annotated[
        int | None, typer.Option(metavar="N", help="Particles in a micrograph. Default: as dense as the real ones.")
    ] = None,
    ice_thickness: Annotated[
        float | None,
        typer.Option(
            metavar="Å", help="Ice. Default: a quarter more than the particle, or as much as all of them need."
        ),
    ] = None,
    ice_gradient: Annotated[
        float, typer.Option(metavar="Å/µm", help="Wedge: rise of the ice's thickness, in any direction.")
    ] = 0.0,
    tilt: Annotated[
        float, typer.Option(metavar="DEGREES", help="Tilt of the film; every particle has its own defocus.")
    ] = 0.0,
    tilt_axis: Annotated[
        float, typer.Option("--tilt-axis", metavar="DEGREES", help="From x to the tilt axis, towards y.")
    ] = 0.0,
    preferred_view: Annotated[
        list[str] | None, typer.Option(metavar="ROT,TILT", help="A preferred view [degrees]; again for more.")
    ] = None,
    preferred_share: Annotated[float, typer.Option(metavar="SHARE", help="Of particles in preferred views.")] = 0.5,
    preferred_concentration: Annotated[
        float, typer.Option(metavar="KAPPA", help="How closely they keep to it: 10 spreads by 18°, 100 by 6°.")
    ] = 20.0,
    interface_share: Annotated[
        float, typer.Option(metavar="SHARE", help="Of particles at the air-water interfaces.")
    ] = 0.0,
    cluster_share: Annotated[float, typer.Option(metavar="SHARE", help="Of particles in loose clusters.")] = 0.0,
    cluster_size: Annotated[float, typer.Option(metavar="N", help="Mean number of particles in a cluster.")] = 8.0,
    cluster_spread: Annotated[
        float, typer.Option(metavar="Å", help="Standard deviation of a cluster along x and y.")
    ] = 500.0,
    aggregate_share: Annotated[float, typer.Option(metavar="SHARE", help="Of particles in clumps.")] = 0.0,
    aggregate_size: Annotated[int, typer.Option(metavar="N", help="Particles in a clump.")] = 6,
    filaments: Annotated[int, typer.Option(metavar="N", help="Filaments in a micrograph (--helical-rise).")] = 0,
    filament_length: Annotated[float, typer.Option(metavar="Å", help="Length of filaments.")] = 2000.0,
    persistence_length: Annotated[
        float, typer.Option(metavar="Å", help="How straight they are: F-actin 1.5e5, microtubules 5e7.")
    ] = 1.5e5,
    axis_offset: Annotated[
        str | None,
        typer.Option(metavar="X,Y", help="From the helical axis to the centre of a subunit [Å]. Default: 0,0."),
    ] = None,
    helical_rise: HelicalRise = None,
    helical_twist: Annotated[
        float,
        typer.Option("--helical-twist", "--helical_twist_initial", metavar="DEGREES", help="From unit to unit."),
    ] = 0.0,
    contamination: Annotated[
        int | None, typer.Option(metavar="N", help="Ice crystals in a micrograph. Default: as in the real ones.")
    ] = None,
    carbon: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Of micrographs with an edge of carbon film. Default: as the real ones."),
    ] = None,
    movies: Annotated[
        bool, typer.Option("--movies", help="Write movies too; 40 frames unless --frames says more.")
    ] = False,
    frames: Annotated[
        int | None, typer.Option(metavar="N", help="Frames per movie; given alone it asks for them.")
    ] = None,
    width: Annotated[int | None, typer.Option(metavar="PIXELS", help="Default: that of the real ones.")] = None,
    height: Annotated[int | None, typer.Option(metavar="PIXELS", help="Default: that of the real ones.")] = None,
    realism: Annotated[
        bool,
        typer.Option(
            "--realism/--no-realism", help="Keep a third of the real micrographs apart and measure how real it looks."
        ),
    ] = True,
    train_picker: Annotated[
        bool, typer.Option("--train-picker", help="Train a picker for this specimen on the result.")
    ] = False,
    picker_steps: Annotated[int, typer.Option(metavar="N", help="Steps of that training, about 0.2 s each.")] = 1500,
    train_poses: Annotated[
        bool, typer.Option("--train-poses", help="Train a pose network for this specimen on the result.")
    ] = False,
    pose_steps: Annotated[int, typer.Option(metavar="N", help="Steps of that training, about 0.1 s each.")] = 1500,
) -> int:
    """Make labelled micrographs that look like those of a session, from a map and a handful of real micrographs.

    Defocus, astigmatism, envelope, drift, contrast, noise and density are estimated from the real micrographs and drawn
    anew for each synthetic one. Every particle has its own height, defocus and view. The same seed gives the same
    micrographs; with --only-do-unfinished and a higher --count a set grows.

    Writes micrographs/, micrographs.star with the true CTF, particles.star with all labels (RELION 3.1), masks/ (pixels
    numbered by particle), truth/ (every hidden quantity as JSON), realism.json, report.html, job.json and run.log. With
    --movies also movies/ and movies.star: the frames of a movie add up to its micrograph.

    \b
    Example:
    cryoprism synthesize --map 4oyn.pdb.gz --assembly 1 --symmetry O --match micrographs.star --count 100 --out set
    """
    from cryoprism.workflow import SynthesizeConfig, synthesize_session

    from ._console import logging_to_console

    more: dict[str, object] = {}
    if preferred_view:
        more["preferred_views"] = [view.split(",") for view in preferred_view]
    if conformation_share:
        more["conformation_shares"] = [shares.split(",") for shares in conformation_share]
    if axis_offset is not None:
        more["axis_offset_in_angstroms"] = axis_offset.split(",")
    settings = settings_of(context, FIELDS, SynthesizeConfig, **more)
    with logging_to_console():
        summary = synthesize_session(settings)
    there = f", {summary.skipped} of them there already" if summary.skipped else ""
    typer.echo(
        f"{summary.micrographs} synthetic micrographs{there} with {summary.particles} particles "
        f"in {summary.seconds:.1f} s."
    )
    if summary.auc is not None:
        typer.echo(f"A classifier tells them from real micrographs with an AUC of {summary.auc:.2f} (0.5: not at all).")
    if summary.picker is not None:
        typer.echo(f"Picker: {summary.picker} ({summary.picker_words})")
    if summary.poses is not None:
        typer.echo(f"Pose network: {summary.poses} ({summary.poses_words})")
    typer.echo(f"Micrographs: {summary.output / 'micrographs.star'}")
    if settings.frames_of_a_movie:
        typer.echo(f"Movies: {summary.output / 'movies.star'}")
    typer.echo(f"Labels: {summary.star}")
    typer.echo(f"Report: {summary.report}")
    return 0
