"""``cryoprism restore``: estimate the causes, restore the images, explain the losses."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import LENS, WORKERS, Mtf, fields_of, job_options, with_options

__all__ = ["FIELDS", "restore"]

OPTIONS = (*LENS, *job_options("Restore", workers=WORKERS))
#: Which field of ``workflow.RestoreConfig`` each option sets.
FIELDS = {
    "inputs": "inputs",
    "in_mics": "inputs",
    "views": "views",
    "exposure": "exposure_in_electrons_per_square_angstrom",
    "incident_intensity": "incident_intensity",
    "mtf": "mtf_file",
    "gain": "gain_file",
    "min_defocus": "lowest_defocus_in_angstroms",
    "max_defocus": "highest_defocus_in_angstroms",
    "low_resolution": "coarsest_resolution_in_angstroms",
    "high_resolution": "finest_resolution_in_angstroms",
    "phase_plate": "phase_plate",
    "max_passes": "max_passes",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def restore(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IN", help="A RELION STAR or cryoSPARC .cs file, a folder, a quoted glob, or image files."
        ),
    ] = None,
    in_mics: Annotated[
        str | None, typer.Option("--in_mics", metavar="STAR", help="Same as IN, for RELION's external jobs.")
    ] = None,
    views: Annotated[
        bool, typer.Option("--views/--no-views", help="Write restored views, residuals, deviations and masks.")
    ] = True,
    exposure: Annotated[float | None, typer.Option(metavar="e/Å²", help="Total exposure of one micrograph.")] = None,
    incident_intensity: Annotated[
        float | None,
        typer.Option(metavar="GREY", help="Grey value of a pixel without specimen; tells the thickness of the ice."),
    ] = None,
    mtf: Mtf = None,
    gain: Annotated[str | None, typer.Option(metavar="FILE", help="Gain reference, for movies.")] = None,
    min_defocus: Annotated[float, typer.Option(metavar="Å", help="Start of the defocus search.")] = 3000.0,
    max_defocus: Annotated[float, typer.Option(metavar="Å", help="End of the defocus search.")] = 50000.0,
    low_resolution: Annotated[float, typer.Option(metavar="Å", help="Coarse end of the fit.")] = 30.0,
    high_resolution: Annotated[
        float | None, typer.Option(metavar="Å", help="Fine end of the fit. Default: chosen from the data.")
    ] = None,
    phase_plate: Annotated[bool, typer.Option("--phase-plate", help="Search the phase shift too.")] = False,
    max_passes: Annotated[int, typer.Option(metavar="N", help="Most passes of the self-evaluation loop.")] = 8,
) -> int:
    """Estimate what damaged each micrograph, restore it, and say what each cause cost.

    IN is a STAR or .cs file, a folder, a quoted glob, or image files (MRC, TIFF, EER). Values of the microscope come
    from the metadata; a value given as an option wins.

    Writes micrographs.star (for RELION), causes.json, report.html, views/, residuals/, deviations/, masks/, job.json
    and run.log. Only the parameters and weights in micrographs.star are meant for reconstruction; views are for eyes
    and pickers.

    \b
    Example:
    cryoprism restore micrographs.star --out Restore/session1 --workers 4
    """
    from cryoprism.workflow import RestoreConfig, restore_session

    from ._console import logging_to_console, print_summary

    both = {"inputs": [*inputs, in_mics]} if inputs and in_mics else {}
    settings = settings_of(context, FIELDS, RestoreConfig, **both)
    with logging_to_console():
        summary = restore_session(settings)
    return print_summary(summary)
