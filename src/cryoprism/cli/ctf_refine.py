"""``cryoprism ctf-refine``: defocus of particles, beam tilt and lost signal, from poses."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import settings_of
from ._options import fields_of, job_options, with_options

__all__ = ["FIELDS", "ctf_refine"]

OPTIONS = job_options("CtfRefine", seed=None)
#: Which field of ``workflow.CtfRefineConfig`` each option sets.
FIELDS = {
    "particles": "particles_file",
    "half1": "half1",
    "half2": "half2",
    "mask": "mask_file",
    "defocus": "defocus",
    "astigmatism": "astigmatism",
    "beam_tilt": "beam_tilt",
    "trefoil": "trefoil",
    "signal": "signal",
    "drift_shape": "drift_shape",
    "search": "search_in_angstroms",
    "kmin_tilt": "lowest_resolution_in_angstroms",
    "maximum_resolution": "maximum_resolution_in_angstroms",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def ctf_refine(
    context: typer.Context,
    particles: Annotated[
        str | None,
        typer.Argument(metavar="PARTICLES", help="A STAR or .cs file of particles with poses and half sets."),
    ] = None,
    half1: Annotated[
        str | None, typer.Option("--half1", "--m1", metavar="FILE", help="Unfiltered map of half set 1. Needed.")
    ] = None,
    half2: Annotated[
        str | None, typer.Option("--half2", "--m2", metavar="FILE", help="Unfiltered map of half set 2. Needed.")
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask", "--solvent_mask", metavar="MRC", help="Mask from 0 to 1 in the maps' box. Default: a sphere."
        ),
    ] = None,
    defocus: Annotated[
        bool, typer.Option("--defocus/--no-defocus", help="Refine the defocus of every particle.")
    ] = True,
    astigmatism: Annotated[
        bool,
        typer.Option("--astigmatism/--no-astigmatism", help="Refine mean defocus and astigmatism of every micrograph."),
    ] = False,
    beam_tilt: Annotated[
        bool, typer.Option("--beam-tilt/--no-beam-tilt", help="Estimate the beam tilt of every optics group.")
    ] = True,
    trefoil: Annotated[
        bool, typer.Option("--trefoil", help="Fit threefold astigmatism beside the beam tilt; reported only.")
    ] = False,
    signal: Annotated[
        bool,
        typer.Option("--signal/--no-signal", help="Measure what is left of the signal in every micrograph."),
    ] = True,
    drift_shape: Annotated[
        str, typer.Option(metavar="NAME", help="How drift takes signal: gaussian (wandering) or sinc (uniform).")
    ] = "gaussian",
    search: Annotated[float, typer.Option(metavar="Å", help="Largest change of defocus.")] = 1500.0,
    kmin_tilt: Annotated[
        float, typer.Option("--kmin-tilt", "--kmin_tilt", metavar="Å", help="Coarser frequencies tell no beam tilt.")
    ] = 20.0,
    maximum_resolution: Annotated[
        float | None,
        typer.Option(
            "--maximum-resolution", "--maxres", metavar="Å", help="Finest frequencies used. Default: FSC = 0.143."
        ),
    ] = None,
) -> None:
    """Refine defocus and beam tilt of particles against the half maps they made.

    Each particle is compared with the map of its own half set. What the data do not determine keeps its old value.

    Writes particles.star (defocus of every particle with its standard deviation, beam tilt of every optics group),
    aberrations.json (every estimate with its error bar), weights/ (signal and noise of every micrograph, for
    cryoprism reconstruct --weights), report.html, job.json and run.log.

    \b
    Example:
    cryoprism ctf-refine particles.star --half1 half1.mrc --half2 half2.mrc --mask mask.mrc --out CtfRefine/run1
    """
    from cryoprism.workflow import CtfRefineConfig, ctf_refine_session

    from ._console import logging_to_console

    with logging_to_console():
        summary = ctf_refine_session(settings_of(context, FIELDS, CtfRefineConfig))
    typer.echo(summary.sentence())
