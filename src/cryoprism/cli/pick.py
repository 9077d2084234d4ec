"""``cryoprism pick``: find the particles on micrographs."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import LENS, WORKERS, Micrographs, fields_of, job_options, with_options

__all__ = ["FIELDS", "pick"]

OPTIONS = (
    *LENS,
    *job_options("Pick", workers=WORKERS, device="Of the learned picker: cpu, cuda, cuda:N or mps; never another one."),
)
#: Which field of ``workflow.PickConfig`` each option sets.
FIELDS = {
    "inputs": "inputs",
    "method": "method",
    "diameter": "diameter_in_angstroms",
    "min_diameter": "smallest_diameter_in_angstroms",
    "max_diameter": "largest_diameter_in_angstroms",
    "reference": "reference",
    "symmetry": "symmetry",
    "initial_lowpass": "lowpass_in_angstroms",
    "healpix_order": "healpix_order",
    "picker": "weights",
    "threshold": "threshold",
    "false_discovery_rate": "false_discovery_rate",
    "min_distance": "min_distance_in_angstroms",
    "edge": "edge_in_angstroms",
    "masks": "masks_folder",
    "no_masks": "use_masks",
    "box_files": "box_files",
    "box": "box_in_pixels",
    "pictures": "pictures",
    "relion_coordinates": "relion_coordinates",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def pick(
    context: typer.Context,
    inputs: Micrographs = None,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="blob (a ball of the diameter), template (a map), or learned.")
    ] = "blob",
    diameter: Annotated[
        float | None,
        typer.Option(
            "--diameter", "--particle_diameter", metavar="Å", help="Longest diameter of the particle. Always needed."
        ),
    ] = None,
    min_diameter: Annotated[
        float | None, typer.Option(metavar="Å", help="Smallest diameter of a blob. Default: 85 % of --diameter.")
    ] = None,
    max_diameter: Annotated[
        float | None, typer.Option(metavar="Å", help="Largest diameter of a blob. Default: 115 % of --diameter.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", "--ref", metavar="FILE", help="Map (.mrc) or class averages (.mrcs), bright."),
    ] = None,
    symmetry: Annotated[
        str, typer.Option("--symmetry", "--sym", metavar="GROUP", help="Point group of the map, as in RELION.")
    ] = "C1",
    initial_lowpass: Annotated[
        float,
        typer.Option("--initial-lowpass", "--ini_high", metavar="Å", help="Finest detail that blobs, templates use."),
    ] = 20.0,
    healpix_order: Annotated[
        int, typer.Option(metavar="N", help="Steps between views: 0 = 60°, 1 = 30°, 2 = 15°, 3 = 7.5°.")
    ] = 2,
    picker: Annotated[
        str | None, typer.Option(metavar="FILE", help="Picker of 'train-picker'. Default: the one that ships.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="MERIT", help="Lowest figure of merit. Default: from the session's own noise."),
    ] = None,
    false_discovery_rate: Annotated[
        float, typer.Option(metavar="SHARE", help="False picks that noise may add at the threshold that is chosen.")
    ] = 0.05,
    min_distance: Annotated[
        float | None,
        typer.Option(metavar="Å", help="Shortest distance between particles. Default: half the diameter."),
    ] = None,
    edge: Annotated[
        float | None,
        typer.Option(metavar="Å", help="Leave out particles nearer to an edge. Default: half the diameter."),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="masks/ of 'cryoprism restore'. Default: beside the input, or found anew."),
    ] = None,
    no_masks: Annotated[
        bool, typer.Option("--use-masks/--no-masks", help="Leave out particles on carbon, contamination and ice.")
    ] = True,
    box_files: Annotated[bool, typer.Option("--box-files", help="Write EMAN .box files too.")] = False,
    box: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Side of the boxes in .box files. Default: 1.5 diameters.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw the picks over each micrograph.")
    ] = True,
    relion_coordinates: Annotated[
        bool, typer.Option("--relion-coordinates", help="Write coords_suffix_pick.star for RELION's Extract too.")
    ] = False,
) -> int:
    """Find the particles on micrographs: as balls of a size, by a map's views, or by a trained network.

    MICROGRAPHS is best the micrographs.star of 'cryoprism restore', whose CTF and masks are used; where the input gives
    no CTF it is estimated. Without --threshold, copies of the micrographs with random phases tell how many picks are
    false, and the threshold keeps them below --false-discovery-rate. Contamination no larger than four particles is
    left to the picker to judge. Where picks look too many or too few, set
    --threshold: picks/ shows each with a ring from orange (least sure) to green, and rlnAutopickFigureOfMerit has the
    numbers. With --only-do-unfinished and the same --out another threshold takes no time.

    Writes coordinates/ (a STAR file for each micrograph), particles.star, particles.cs (cryoSPARC), micrographs.star,
    picks/, job.json and run.log. RELION looks for coordinates under the whole path of each micrograph: for extraction
    there, add --relion-coordinates.

    \b
    Example:
    cryoprism pick Restore/job001/micrographs.star --method template --reference map.mrc --symmetry O --diameter 130
    """
    from cryoprism.workflow import PickConfig, pick_session

    from ._console import logging_to_console

    settings = settings_of(context, FIELDS, PickConfig)
    with logging_to_console():
        summary = pick_session(settings)
    each = summary.particles / max(summary.micrographs, 1)
    typer.echo(
        f"{summary.particles} particles on {summary.micrographs} micrographs ({each:.0f} each) "
        f"in {summary.seconds:.1f} s."
    )
    typer.echo(summary.how)
    if summary.empty:
        typer.echo(f"Without a pick: {len(summary.empty)} micrographs, such as {summary.empty[0]}.")
    for name, reason in summary.failed:
        typer.echo(f"Not picked: {name}: {reason}", err=True)
    typer.echo(f"Particles: {summary.star}")
    if settings.relion_coordinates:
        typer.echo(f"For RELION: --coord_dir {summary.output}/ --coord_suffix _pick.star")
    return 1 if summary.failed else 0
