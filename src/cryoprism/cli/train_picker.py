"""``cryoprism train-picker``: train the learned picker on simulated micrographs, or adapt it to a few clicks."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import fields_of, job_options, with_options

__all__ = ["FIELDS", "train_picker"]

OPTIONS = job_options("TrainPicker", workers="Threads.", max_memory="Kept with the job; training needs about 2 GB.")
#: Which field of ``workflow.TrainPickerConfig`` each option sets.
FIELDS = {
    "structures": "structures",
    "exclude": "excluded",
    "micrographs": "fields",
    "steps": "steps",
    "minutes": "minutes",
    "adapt": "adapt_to",
    "coordinates": "coordinates",
    "diameter": "diameter_in_angstroms",
    "expected_count": "expected_count",
    "picker": "weights",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def train_picker(
    context: typer.Context,
    structures: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="PDB and mmCIF files to simulate micrographs of. Default: phantoms."),
    ] = None,
    exclude: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Structure files that are not used, with commas. Default: ferritins."),
    ] = None,
    micrographs: Annotated[int, typer.Option(metavar="N", help="Micrographs to simulate.")] = 700,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps of training. Default: 2600, or 150 to adapt.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(metavar="MIN", help="Longest time for the steps; the result then depends on the machine."),
    ] = None,
    adapt: Annotated[
        str | None,
        typer.Option(metavar="MICROGRAPHS", help="Adapt a picker to clicks on these micrographs (STAR, .cs, folder)."),
    ] = None,
    coordinates: Annotated[
        str | None, typer.Option(metavar="PATH", help="A folder with one coordinate file a micrograph, or one file.")
    ] = None,
    diameter: Annotated[
        float | None,
        typer.Option("--diameter", "--particle_diameter", metavar="Å", help="Diameter of the particle, to adapt."),
    ] = None,
    expected_count: Annotated[
        float | None, typer.Option(metavar="N", help="Particles on a micrograph, roughly, to adapt.")
    ] = None,
    picker: Annotated[
        str | None, typer.Option(metavar="FILE", help="Weights to adapt. Default: those that ship with CryoPrism.")
    ] = None,
) -> int:
    """Train the learned picker on simulated micrographs, or adapt it to a few clicks.

    Writes picker.safetensors, which pick takes as --picker, its card picker.md, job.json and run.log. To adapt, mark
    10 to 50 particles and say roughly how many a micrograph holds: what is not marked counts as unknown, not as empty.

    \b
    Examples:
    cryoprism train-picker --structures structures --out TrainPicker/new
    cryoprism train-picker --adapt micrographs.star --coordinates clicks --diameter 130 --expected-count 150 --out A
    """
    from cryoprism.workflow import TrainPickerConfig, run_train_picker

    from ._console import logging_to_console

    settings = settings_of(context, FIELDS, TrainPickerConfig)
    with logging_to_console():
        summary = run_train_picker(settings)
    for sentence in summary.sentences:
        typer.echo(sentence)
    typer.echo(f"Weights: {summary.weights}")
    return 0
