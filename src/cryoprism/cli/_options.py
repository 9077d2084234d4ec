"""Options that commands share, so that they are called and explained alike everywhere."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

import typer

__all__ = [
    "ANY_DEVICE",
    "LENS",
    "MODEL_CHECKS",
    "NO_MPS",
    "SELECTION",
    "WORKERS",
    "Ctf",
    "HelicalRise",
    "HelicalTwist",
    "HelicalUnits",
    "ImagePixelSize",
    "InitialLowpass",
    "Local",
    "Micrographs",
    "MinDistance",
    "Mtf",
    "Option",
    "Seed",
    "ShiftRange",
    "Symmetry",
    "Workers",
    "fields_of",
    "job_options",
    "with_options",
]

Result = TypeVar("Result")

ANY_DEVICE: Final = "cpu, cuda, cuda:N or mps; never replaced by another one."
WORKERS: Final = "Processes that work on micrographs side by side."
_SEED: Final = "Seed of every random number."
NO_MPS: Final = "cpu, cuda or cuda:N; never replaced by another one."

# Options of some commands each, as annotations of their parameters.
Micrographs = Annotated[
    list[str] | None,
    typer.Argument(metavar="MICROGRAPHS", help="A STAR or .cs file of micrographs, a folder, or image files."),
]
Symmetry = Annotated[
    str, typer.Option("--symmetry", "--sym", metavar="GROUP", help="Point group, such as C1, D7, O or I1.")
]
InitialLowpass = Annotated[
    float, typer.Option("--initial-lowpass", "--ini_high", metavar="Å", help="Low-pass of the starting map.")
]
ImagePixelSize = Annotated[
    float | None,
    typer.Option("--pixel-size", "--angpix", metavar="Å", help="Pixel size of the images; replaces the table's."),
]
ShiftRange = Annotated[float, typer.Option(metavar="Å", help="How far off centre particles may be.")]
MinDistance = Annotated[
    float, typer.Option(metavar="Å", help="Particles nearer than this to another one are left out; 0 keeps all.")
]
Ctf = Annotated[bool, typer.Option("--ctf/--no-ctf", help="Correct for the contrast transfer.")]
Local = Annotated[bool, typer.Option("--local/--no-local", help="Measure the resolution by place too.")]
Mtf = Annotated[str | None, typer.Option(metavar="STAR", help="The detector's MTF curve, in RELION's format.")]
HelicalRise = Annotated[
    float | None,
    typer.Option("--helical-rise", "--helical_rise_initial", metavar="Å", help="Rise of a helix about z."),
]
HelicalTwist = Annotated[
    float | None,
    typer.Option(
        "--helical-twist",
        "--helical_twist_initial",
        metavar="DEGREES",
        help="Twist of the helix, positive for right-handed.",
    ),
]
HelicalUnits = Annotated[
    int,
    typer.Option(
        "--helical-units", "--helical_nr_asu", metavar="N", help="Units of the helix that each segment is inserted as."
    ),
]

Workers = Annotated[int, typer.Option("--workers", "--j", metavar="N", help=WORKERS)]
Seed = Annotated[int, typer.Option(metavar="N", help=_SEED)]


@dataclass(frozen=True)
class Option:
    """An option that belongs to a group.

    Attributes
    ----------
    name
        Of the command's parameter.
    field
        Of the configuration that it sets; empty where it sets none.
    annotation
        Type and typer's description.
    default
        As ``--help`` shows it; the configuration's own is what counts.
    """

    name: str
    field: str
    annotation: Any
    default: Any = None


def _number(name: str, field: str, metavar: str, text: str, *spellings: str) -> Option:
    return Option(name, field, Annotated[float | None, typer.Option(*spellings, metavar=metavar, help=text)])


#: What the metadata say about the microscope, given by hand.
LENS: Final = (
    _number(
        "pixel_size",
        "pixel_size_in_angstroms",
        "Å",
        "Pixel size of the micrographs; replaces that of the metadata.",
        "--pixel-size",
        "--angpix",
    ),
    _number("voltage", "voltage_in_kilovolts", "kV", "Acceleration voltage.", "--voltage", "--kV"),
    _number(
        "spherical_aberration",
        "spherical_aberration_in_millimeters",
        "mm",
        "Spherical aberration.",
        "--spherical-aberration",
        "--cs",
    ),
    _number("amplitude_contrast", "amplitude_contrast", "FRACTION", "Amplitude contrast, usually 0.07 to 0.1."),
)
#: Which micrographs go on, by what their restoration found.
SELECTION: Final = (
    _number(
        "max_ctf_resolution",
        "max_ctf_resolution_in_angstroms",
        "Å",
        "Leave out micrographs whose Thon rings were fitted to no finer than this.",
    ),
    _number(
        "min_information",
        "min_information_share",
        "SHARE",
        "Leave out micrographs with less than this share of the median information.",
    ),
    _number(
        "max_ice",
        "max_ice_significance",
        "SIGMA",
        "Leave out micrographs whose rings of crystalline ice stand out further.",
    ),
    _number("max_astigmatism", "max_astigmatism_in_angstroms", "Å", "Leave out micrographs with more astigmatism."),
    _number(
        "max_contamination",
        "max_contamination",
        "SHARE",
        "Leave out micrographs with a larger share of contamination and carbon.",
    ),
)


#: What decides how a model is checked: its map, and the copies that must not overlap.
MODEL_CHECKS: Final = (
    Option(
        "map",
        "map_file",
        Annotated[
            str | None,
            typer.Option("--map", metavar="FILE", help="Map in the model's frame: the model has to lie within it."),
        ],
    ),
    _number("contour", "contour", "LEVEL", "Level of the map that bounds the molecule. Default: found."),
    Option(
        "margin",
        "margin_in_angstroms",
        Annotated[float, typer.Option(metavar="Å", help="How far outside the contour an atom may lie.")],
        3.0,
    ),
    _number(
        "pixel_size",
        "voxel_size_in_angstroms",
        "Å",
        "Voxel size of the map; replaces the header's.",
        "--pixel-size",
        "--angpix",
    ),
    Option(
        "symmetry",
        "symmetry",
        Annotated[
            str | None,
            typer.Option("--symmetry", "--sym", metavar="GROUP", help="Point group whose copies must not overlap."),
        ],
    ),
    Option("helical_rise", "helical_rise_in_angstroms", HelicalRise),
    Option("helical_twist", "helical_twist_in_degrees", HelicalTwist),
)


def job_options(
    kind: str,
    *,
    workers: str | None = None,
    device: str | None = ANY_DEVICE,
    seed: str | None = _SEED,
    unfinished: str = "Continue in an existing folder and skip what is done.",
    max_memory: str = "Memory to stay below. Default: what is free.",
) -> tuple[Option, ...]:
    """Options of a job, in the order in which ``--help`` shows them.

    Parameters
    ----------
    kind
        Of the job: its folder is ``KIND/jobNNN``.
    workers, device, seed
        Help texts; None where the command has no such option.
    unfinished, max_memory
        Help texts.
    """
    folder = typer.Option(
        "--out", "--o", metavar="FOLDER", help=f"Folder to write. Default: the next free {kind}/jobNNN."
    )
    resume = typer.Option("--only-do-unfinished", help=unfinished)
    options = [
        Option("out", "output", Annotated[str | None, folder]),
        Option("only_do_unfinished", "only_do_unfinished", Annotated[bool, resume], False),
        Option(
            "overwrite",
            "overwrite",
            Annotated[bool, typer.Option("--overwrite", help="Start over in an existing folder.")],
            False,
        ),
    ]
    if workers is not None:
        spelled = typer.Option("--workers", "--j", metavar="N", help=workers)
        options.append(Option("workers", "workers", Annotated[int, spelled], 1))
    if device is not None:
        options.append(Option("device", "device", Annotated[str, typer.Option(metavar="NAME", help=device)], "cpu"))
    if seed is not None:
        options.append(Option("seed", "seed", Annotated[int, typer.Option(metavar="N", help=seed)], 0))
    options.append(_number("max_memory", "max_memory_in_gigabytes", "GB", max_memory))
    settings = typer.Option(metavar="FILE", help="Settings from YAML, JSON or a job.json; options given beside it win.")
    return (*options, Option("config", "", Annotated[str | None, settings]))


def fields_of(*options: Option) -> dict[str, str]:
    """Name of each option's parameter to name of the configuration's field that it sets."""
    return {option.name: option.field for option in options if option.field}


def with_options(*options: Option) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Give a command options behind its own.

    The command does not get them as arguments: ``settings_of`` reads them, as all others, from the context.
    """

    def decorate(command: Callable[..., Result]) -> Callable[..., Result]:
        own = inspect.signature(command, eval_str=True)
        shared = [
            inspect.Parameter(
                option.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=option.default,
                annotation=option.annotation,
            )
            for option in options
        ]

        @functools.wraps(command)
        def run(**values: Any) -> Result:
            return command(**{name: value for name, value in values.items() if name in own.parameters})

        signature = own.replace(parameters=[*own.parameters.values(), *shared])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
        return run

    return decorate
