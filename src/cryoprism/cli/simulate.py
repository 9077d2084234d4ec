"""``cryoprism simulate``: micrographs or movies with every hidden quantity written beside them."""

from __future__ import annotations

from typing import Annotated

import typer

from ._given import given_values, settings_of
from ._options import WORKERS, fields_of, job_options, with_options

__all__ = ["FIELDS", "simulate"]

OPTIONS = job_options("Simulate", workers=WORKERS)
#: Which field of ``workflow.SimulateConfig`` each option sets.
FIELDS = {
    "structure": "structure_file",
    "micrographs": "micrographs",
    "width": "width_in_pixels",
    "height": "height_in_pixels",
    "pixel_size": "pixel_size_in_angstroms",
    "voltage": "voltage_in_kilovolts",
    "spherical_aberration": "spherical_aberration_in_millimeters",
    "amplitude_contrast": "amplitude_contrast",
    "exposure": "exposure_in_electrons_per_square_angstrom",
    "ice_thickness": "ice_thickness_in_angstroms",
    "mtf": "mtf_file",
    "particles": "particles_per_micrograph",
    "severity": "severity",
    "frames": "frames",
    "engine": "engine",
    "recipe": "recipe",
    "assembly": "assembly",
    "mass": "mass_in_kilodaltons",
    "movies": "movies",
    "truth_images": "truth_images",
    **fields_of(*OPTIONS),
}


@with_options(*OPTIONS)
def simulate(
    context: typer.Context,
    structure: Annotated[
        str | None,
        typer.Option(
            "--structure",
            "--specimen",
            metavar="FILE",
            help="PDB, mmCIF or MRC map, or shell, barrel or globule. Default: a shell of helices built on the spot.",
        ),
    ] = None,
    assembly: Annotated[
        str | None, typer.Option(metavar="NAME", help="Biological assembly of a structure file, for example 1.")
    ] = None,
    mass: Annotated[float | None, typer.Option(metavar="kDa", help="Mass of the particle; needed for a map.")] = None,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="varied: damage as sessions bring it; demo: one dominant damage each; clean: only the unavoidable.",
        ),
    ] = "varied",
    micrographs: Annotated[
        int, typer.Option("--micrographs", "--count", metavar="N", help="Number of micrographs.")
    ] = 4,
    width: Annotated[int, typer.Option(metavar="PIXELS", help="Width of a micrograph.")] = 1024,
    height: Annotated[int, typer.Option(metavar="PIXELS", help="Height of a micrograph.")] = 1024,
    pixel_size: Annotated[float, typer.Option("--pixel-size", "--angpix", metavar="Å", help="Pixel size.")] = 1.5,
    voltage: Annotated[float, typer.Option("--voltage", "--kV", metavar="kV", help="Acceleration voltage.")] = 300.0,
    spherical_aberration: Annotated[
        float, typer.Option("--spherical-aberration", "--cs", metavar="mm", help="Spherical aberration.")
    ] = 2.7,
    amplitude_contrast: Annotated[float, typer.Option(metavar="FRACTION", help="Amplitude contrast.")] = 0.07,
    exposure: Annotated[float, typer.Option(metavar="e/Å²", help="Total exposure of one micrograph.")] = 40.0,
    ice_thickness: Annotated[
        float | None, typer.Option(metavar="Å", help="Mean thickness of the ice. Default: drawn per micrograph.")
    ] = None,
    mtf: Annotated[
        str | None, typer.Option(metavar="STAR", help="The detector's MTF curve. Default: a typical one.")
    ] = None,
    particles: Annotated[
        int | None, typer.Option(metavar="N", help="Particles in a micrograph. Default: as many as fit loosely.")
    ] = None,
    severity: Annotated[
        float, typer.Option(metavar="FACTOR", help="Strength of the damage: 0 none, 1 ordinary, 2 bad.")
    ] = 1.0,
    frames: Annotated[int, typer.Option(metavar="N", help="Frames per movie; 1 writes micrographs.")] = 1,
    movies: Annotated[
        bool, typer.Option("--movies", help="Write movies; 40 frames unless --frames says more.")
    ] = False,
    truth_images: Annotated[
        bool, typer.Option("--truth-images", help="Write the noise-free potential and signal too.")
    ] = False,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="How the wave passes the specimen: rytov or multislice.")
    ] = "rytov",
) -> int:
    """Make micrographs or movies of a virtual specimen, with every hidden quantity beside them.

    Writes micrographs/ (or movies/) and micrographs.star as a user would get them; truth.star with the true CTF,
    particles.star with every particle, truth/ with every other cause; and job.json. The same seed gives the same images
    whatever the number of workers.

    \b
    Example:
    cryoprism simulate --structure 4oyn.cif.gz --assembly 1 --micrographs 20 --severity 1.5 --out Simulate/session1
    """
    import time
    from dataclasses import replace

    from cryoprism.core import InputError
    from cryoprism.synthesis import Scene, SessionConfig, simulate_session
    from cryoprism.workflow import SimulateConfig, open_job

    from ._console import logging_to_console

    settings = settings_of(context, FIELDS, SimulateConfig)
    if settings.device != "cpu":
        raise InputError(
            "--device", f"'{settings.device}' was asked for but images are simulated on the CPU", "Use cpu."
        )
    count = settings.frames if settings.frames > 1 else 40
    base = Scene(
        height_in_pixels=settings.height_in_pixels,
        width_in_pixels=settings.width_in_pixels,
        pixel_size_in_angstroms=settings.pixel_size_in_angstroms,
        voltage_in_kilovolts=settings.voltage_in_kilovolts,
        spherical_aberration_in_millimeters=settings.spherical_aberration_in_millimeters,
        amplitude_contrast=settings.amplitude_contrast,
        exposure_in_electrons_per_square_angstrom=settings.exposure_in_electrons_per_square_angstrom,
        frames=count,
    )
    if settings.mtf_file is not None:
        from cryoprism.formats import read_mtf

        curve = read_mtf(settings.mtf_file)
        points = zip(curve.frequency_in_inverse_pixels.tolist(), curve.value.tolist(), strict=True)
        base = replace(base, detector_mtf=tuple(points))
    asked = settings.recipe != "demo" or "micrographs" in given_values(context, {"micrographs": "micrographs"})
    started = time.perf_counter()
    with logging_to_console(), open_job("Simulate", settings) as job:
        session = simulate_session(
            SessionConfig(
                output=job.path,
                micrographs=settings.micrographs if asked else None,
                seed=settings.seed,
                recipe=settings.recipe,
                severity=settings.severity,
                specimen="shell" if settings.structure_file is None else str(settings.structure_file),
                assembly=settings.assembly,
                mass_in_kilodaltons=settings.mass_in_kilodaltons,
                base=base,
                particles=settings.particles_per_micrograph,
                ice_thickness_in_angstroms=settings.ice_thickness_in_angstroms,
                movies=settings.movies or settings.frames > 1,
                engine=settings.engine,
                workers=settings.workers,
                truth_images=settings.truth_images,
                overwrite=settings.overwrite,
            )
        )
    skipped = f" ({session.skipped} were there before)" if session.skipped else ""
    typer.echo(f"{len(session.names)} images simulated in {time.perf_counter() - started:.1f} s{skipped}.")
    typer.echo(f"Next: cryoprism restore {session.star}")
    return 0
