"""``cryoprism process``: from micrographs to a map in one go."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import LENS, SELECTION, WORKERS, InitialLowpass, Symmetry, fields_of, job_options, with_options

__all__ = ["FIELDS", "process"]

OPTIONS = (
    *SELECTION,
    *LENS,
    *job_options("Process", workers=WORKERS, device="For the stages that use it: cpu, cuda, cuda:N or mps."),
)
#: Which field of ``workflow.ProcessConfig`` each option sets.
FIELDS = {
    "micrographs": "inputs",
    "symmetry": "symmetry",
    "diameter": "diameter_in_angstroms",
    "reference": "reference",
    "pick_method": "pick_method",
    "box": "box_in_pixels",
    "scale": "scaled_box_in_pixels",
    "classes": "classes",
    "initial_lowpass": "initial_lowpass_in_angstroms",
    "use_weights": "use_weights",
    "starts": "starts",
    "iterations": "iterations",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def process(
    context: typer.Context,
    micrographs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MICROGRAPHS",
            help="A RELION STAR or cryoSPARC .cs file, folders, globs, or MRC and TIFF files; micrographs.star of "
            "'cryoprism restore' is not restored again.",
        ),
    ] = None,
    symmetry: Symmetry = "C1",
    diameter: Annotated[
        float | None,
        typer.Option(
            "--diameter", "--particle_diameter", metavar="Å", help="Longest diameter of the particle. Needed."
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", "--ref", metavar="MAP", help="Map to pick with and start from. Default: none."),
    ] = None,
    pick_method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="blob, template or learned. Default: template with a reference, else blob."),
    ] = None,
    box: Annotated[
        int | None, typer.Option("--box", metavar="PIXELS", help="Side of the box. Default: about 1.4 diameters.")
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", help="Side to which particles are scaled down. Default: what the data carry."),
    ] = None,
    classes: Annotated[
        int, typer.Option("--classes", "--K", metavar="N", help="Classes of a 2-D classification; 0 leaves it out.")
    ] = 0,
    initial_lowpass: InitialLowpass = 30.0,
    use_weights: Annotated[
        bool, typer.Option("--use-weights/--no-weights", help="Use each micrograph's fitted envelope in the map.")
    ] = False,
    starts: Annotated[int, typer.Option(metavar="N", help="Independent starts of the initial model.")] = 3,
    iterations: Annotated[
        int, typer.Option("--iterations", "--iter", metavar="N", help="Most passes of the refinement.")
    ] = 20,
) -> int:
    """Go from micrographs to a map: restore, pick, extract, initial model, refine.

    Each stage is a job in a folder of the output, as its own command would write it; give that command more options
    where the defaults do not do. Stages that are done are not done again.

    Writes map.mrc, half1.mrc, half2.mrc, map_sharpened.mrc, mask.mrc, local_resolution.mrc, particles.star with poses,
    resolution.json, report.html, and Restore/, Pick/, Extract/, Classify/, InitialModel/ and Refine/.

    \b
    Example:
    cryoprism process micrographs.star --symmetry O --diameter 130 --out Process/run1
    """
    from cryoprism.core import keep_freed_memory
    from cryoprism.workflow import ProcessConfig, process_session

    from ._console import logging_to_console

    settings = settings_of(context, FIELDS, ProcessConfig)
    keep_freed_memory()
    with logging_to_console():
        summary = process_session(settings)
    for sentence in summary.sentences:
        typer.echo(sentence)
    for row in summary.stages:
        typer.echo(f"{row.folder}: {row.sentence}")
    for name, why in summary.left_out.items():
        typer.echo(f"Left out: {name}: {why}")
    done = "Done before." if summary.skipped else f"Done in {summary.seconds:.0f} s."
    typer.echo(f"{done} Report: {summary.report}")
    return 0
