"""Options that commands share, so that they are called and explained alike everywhere."""

from __future__ import annotations

from typing import Annotated, Final

import typer

__all__ = [
    "JOB_FIELDS",
    "LENS_FIELDS",
    "SELECTION_FIELDS",
    "AmplitudeContrast",
    "Config",
    "MaxAstigmatism",
    "MaxContamination",
    "MaxCtfResolution",
    "MaxIce",
    "MaxMemory",
    "MicrographPixelSize",
    "MinInformation",
    "OnlyDoUnfinished",
    "Overwrite",
    "Seed",
    "SphericalAberration",
    "Voltage",
    "Workers",
]

#: Which field of the configuration each of these sets.
LENS_FIELDS: Final = {
    "pixel_size": "pixel_size_in_angstroms",
    "voltage": "voltage_in_kilovolts",
    "spherical_aberration": "spherical_aberration_in_millimeters",
    "amplitude_contrast": "amplitude_contrast",
}
JOB_FIELDS: Final = {
    "out": "output",
    "only_do_unfinished": "only_do_unfinished",
    "overwrite": "overwrite",
    "seed": "seed",
    "max_memory": "max_memory_in_gigabytes",
}
SELECTION_FIELDS: Final = {
    "max_ctf_resolution": "max_ctf_resolution_in_angstroms",
    "min_information": "min_information_share",
    "max_ice": "max_ice_significance",
    "max_astigmatism": "max_astigmatism_in_angstroms",
    "max_contamination": "max_contamination",
}

MicrographPixelSize = Annotated[
    float | None,
    typer.Option(
        "--pixel-size", "--angpix", metavar="Å", help="Pixel size of the micrographs; replaces that of the metadata."
    ),
]
Voltage = Annotated[float | None, typer.Option("--voltage", "--kV", metavar="kV", help="Acceleration voltage.")]
SphericalAberration = Annotated[
    float | None, typer.Option("--spherical-aberration", "--cs", metavar="mm", help="Spherical aberration.")
]
AmplitudeContrast = Annotated[
    float | None, typer.Option(metavar="FRACTION", help="Amplitude contrast, usually 0.07 to 0.1.")
]
MaxCtfResolution = Annotated[
    float | None,
    typer.Option(metavar="Å", help="Leave out micrographs whose Thon rings were fitted to no finer than this."),
]
MinInformation = Annotated[
    float | None,
    typer.Option(metavar="SHARE", help="Leave out micrographs with less than this share of the median information."),
]
MaxIce = Annotated[
    float | None,
    typer.Option(metavar="SIGMA", help="Leave out micrographs whose rings of crystalline ice stand out further."),
]
MaxAstigmatism = Annotated[float | None, typer.Option(metavar="Å", help="Leave out micrographs with more astigmatism.")]
MaxContamination = Annotated[
    float | None,
    typer.Option(metavar="SHARE", help="Leave out micrographs with a larger share of contamination and carbon."),
]
OnlyDoUnfinished = Annotated[
    bool,
    typer.Option("--only-do-unfinished", help="Continue in an existing folder and skip what is done."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over in an existing folder.")]
Workers = Annotated[
    int, typer.Option("--workers", "--j", metavar="N", help="Processes that work on micrographs side by side.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of every random number.")]
MaxMemory = Annotated[float | None, typer.Option(metavar="GB", help="Memory to stay below. Default: what is free.")]
Config = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Settings from YAML, JSON or a job.json; options given beside it win."),
]
