"""Validated configurations: bounded fields, errors that name field, value and remedy, YAML and JSON round trip."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cryoprism import __version__
from cryoprism.core import InputError, point_group_matrices, resolve_device

__all__ = ["Inputs", "JobConfig", "MicrographsConfig", "RestoreConfig", "SelectingConfig", "SimulateConfig"]


def _as_paths(value: Any) -> Any:
    if isinstance(value, str | Path):
        return (str(value),)
    return tuple(str(item) for item in value) if isinstance(value, list | tuple) else value


Inputs = Annotated[tuple[str, ...], BeforeValidator(_as_paths)]


def _point_group(symbol: str) -> str:
    try:
        point_group_matrices(symbol)
    except ValueError:
        raise InputError(
            "--symmetry", f"'{symbol}' is no point group", "Use C1, Cn, Dn, T, O, I1 or I2 (I is I2, as in RELION)."
        ) from None
    return symbol


#: Point group in RELION's orientation; anything else is refused before a job begins.
PointGroup = Annotated[str, AfterValidator(_point_group)]


class JobConfig(BaseModel):
    """What every job has: where it writes, how it resumes, how it uses the machine, its seed.

    Subclasses add their own fields. Units stand in the names. A value that is out of bounds or of the wrong kind raises
    :class:`cryoprism.core.InputError` with the option's name, the value and what is allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    #: Fields that say where and how a job runs but not what comes out; a change of them does not redo finished work.
    bookkeeping: ClassVar[frozenset[str]] = frozenset(
        {"output", "only_do_unfinished", "overwrite", "workers", "max_memory_in_gigabytes"}
    )
    #: How a field is spelled on the command line, where it differs from its name with dashes.
    options: ClassVar[dict[str, str]] = {
        "output": "--out",
        "max_memory_in_gigabytes": "--max-memory",
    }

    #: Fields that name files but are no paths.
    named_files: ClassVar[frozenset[str]] = frozenset({"inputs"})

    #: Fields that mean nothing without another one: given without it they are refused, not left aside.
    needs: ClassVar[dict[str, str]] = {}

    output: Path | None = Field(None, description="Folder to write; the next free KIND/jobNNN if absent.")
    only_do_unfinished: bool = Field(False, description="Continue in an existing folder and skip what is done.")
    overwrite: bool = Field(False, description="Start over in an existing folder.")
    workers: int = Field(1, ge=1, le=1024, description="Processes that work on micrographs side by side.")
    device: str = Field("cpu", description="cpu, cuda, cuda:N or mps; never replaced by another one.")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Seed of every random number.")
    max_memory_in_gigabytes: float | None = Field(None, gt=0, le=1e6, description="Memory to stay below [GB].")

    @model_validator(mode="after")
    def _one_way_to_treat_old_results(self) -> Self:
        if self.only_do_unfinished and self.overwrite:
            raise InputError(
                "--only-do-unfinished and --overwrite",
                "both were asked for, but one keeps finished work and the other discards it",
                "Choose one of them.",
            )
        return self

    @model_validator(mode="after")
    def _nothing_that_has_no_effect(self) -> Self:
        for name, other in self.needs.items():
            if getattr(self, name) != type(self).model_fields[name].default and not getattr(self, other):
                given, lacking = type(self).option(name), type(self).option(other)
                raise InputError(given, f"needs {lacking}, which was not given", f"Add {lacking}, or leave it out.")
        return self

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise self._readable(error) from error

    @classmethod
    def _readable(cls, error: ValidationError) -> InputError:
        first = error.errors(include_url=False)[0]
        location = [str(part) for part in first["loc"]]
        name = location[0] if location else cls.__name__
        known = cls.model_fields.get(name)
        if first["type"] == "extra_forbidden":
            return InputError(
                f"{cls.__name__} field '{name}'",
                "no such field",
                f"Known fields: {', '.join(sorted(cls.model_fields))}.",
            )
        if first["type"] == "missing":
            return InputError(cls.option(name), "nothing was given", _sentence(known and known.description))
        remedy = first["msg"].removeprefix("Value error, ").replace("Input should", f"{cls.option(name)} should")
        return InputError(
            cls.option(name),
            f"{first['input']!r} cannot be used",
            _sentence(remedy) + " " + _sentence(known and known.description),
        )

    @classmethod
    def option(cls, field: str) -> str:
        """Name of a field as the user of the command line writes it, for example ``--pixel-size``."""
        return cls.options.get(field, "--" + field.replace("_", "-"))

    @classmethod
    def files(cls) -> frozenset[str]:
        """Fields that name what is read: not their names but the contents of the files decide the result."""
        paths = {
            name for name, field in cls.model_fields.items() if Path in (field.annotation, *get_args(field.annotation))
        }
        return frozenset(paths) | cls.named_files

    def result_hash(self) -> str:
        """Hash of everything that decides the result: all fields but the bookkeeping ones, and CryoPrism's version."""
        content = self.model_dump(mode="json", exclude=set(self.bookkeeping))
        text = json.dumps({"version": __version__, "kind": type(self).__name__, **content}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        """Text that :meth:`from_file` reads back."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a configuration from YAML, JSON or a ``job.json``.

        Raises
        ------
        InputError
            The file cannot be read, is not a mapping, or holds a field that is unknown or out of bounds.
        """
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                path, f"cannot be read ({error.strerror})", "Give an existing YAML or JSON file."
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(path, "is neither YAML nor JSON", "Write one 'field: value' per line.") from error
        if isinstance(content, dict) and {"kind", "config"} <= content.keys():
            content = content["config"]
        if not isinstance(content, dict):
            raise InputError(path, "holds no fields", "Write one 'field: value' per line.")
        return cls(**{str(key): value for key, value in content.items()})


def _sentence(text: str | None) -> str:
    text = (text or "").strip()
    return text if not text or text.endswith(".") else text + "."


class MicrographsConfig(JobConfig):
    """A job that reads micrographs.

    Values of the microscope that are ``None`` come from the input's metadata. Where both are there, the value given
    here wins.
    """

    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "inputs": "MICROGRAPHS",
        "pixel_size_in_angstroms": "--pixel-size",
        "voltage_in_kilovolts": "--voltage",
        "spherical_aberration_in_millimeters": "--spherical-aberration",
    }

    inputs: Inputs = Field(min_length=1, description="A STAR or .cs file of micrographs, folders, globs or images.")
    pixel_size_in_angstroms: float | None = Field(None, ge=0.05, le=50, description="Pixel size [Å].")
    voltage_in_kilovolts: float | None = Field(None, ge=20, le=1500, description="Acceleration voltage [kV].")
    spherical_aberration_in_millimeters: float | None = Field(None, ge=0, le=20, description="Cs [mm].")
    amplitude_contrast: float | None = Field(
        None, ge=0, lt=1, description="Fraction of amplitude contrast, usually 0.07 to 0.1."
    )

    def lens_values(self) -> dict[str, Any]:
        """Return what was given about the microscope, by the names that ``formats.read_catalogue`` has for it."""
        return {
            "pixel_size_in_angstroms": self.pixel_size_in_angstroms,
            "voltage_in_kilovolts": self.voltage_in_kilovolts,
            "spherical_aberration_in_millimeters": self.spherical_aberration_in_millimeters,
            "amplitude_contrast": self.amplitude_contrast,
        }


class RestoreConfig(MicrographsConfig):
    """Everything that decides what ``cryoprism restore`` does."""

    #: Every micrograph is judged by its own content, so that a session can grow.
    bookkeeping: ClassVar[frozenset[str]] = MicrographsConfig.bookkeeping | {"inputs"}
    options: ClassVar[dict[str, str]] = {
        **MicrographsConfig.options,
        "inputs": "IN",
        "exposure_in_electrons_per_square_angstrom": "--exposure",
        "mtf_file": "--mtf",
        "gain_file": "--gain",
        "lowest_defocus_in_angstroms": "--min-defocus",
        "highest_defocus_in_angstroms": "--max-defocus",
        "coarsest_resolution_in_angstroms": "--low-resolution",
        "finest_resolution_in_angstroms": "--high-resolution",
    }

    exposure_in_electrons_per_square_angstrom: float | None = Field(
        None, gt=0, le=1e4, description="Total exposure of one micrograph [e/Å²]."
    )
    incident_intensity: float | None = Field(
        None, gt=0, le=1e9, description="Grey value of a pixel without specimen (flat field); tells the ice thickness."
    )
    mtf_file: Path | None = Field(
        None, description="Detector MTF curve as STAR (rlnResolutionInversePixel, rlnMtfValue)."
    )
    gain_file: Path | None = Field(None, description="Gain reference for movies.")
    lowest_defocus_in_angstroms: float = Field(3000.0, ge=0, le=200_000, description="Start of the defocus search [Å].")
    highest_defocus_in_angstroms: float = Field(
        50_000.0, gt=0, le=300_000, description="End of the defocus search [Å]."
    )
    coarsest_resolution_in_angstroms: float = Field(30.0, gt=1, le=200, description="Coarse end of the fit [Å].")
    finest_resolution_in_angstroms: float | None = Field(
        None, gt=0.5, le=100, description="Fine end of the fit [Å]; chosen from the data if absent."
    )
    phase_plate: bool = Field(False, description="Search the phase shift too.")
    max_passes: int = Field(8, ge=1, le=50, description="Most passes of the self-evaluation loop.")
    views: bool = Field(True, description="Write restored views, residuals, deviations and masks.")

    @model_validator(mode="after")
    def _ranges_in_order(self) -> Self:
        if self.lowest_defocus_in_angstroms >= self.highest_defocus_in_angstroms:
            raise InputError(
                "--min-defocus and --max-defocus",
                f"{self.lowest_defocus_in_angstroms:g} is not below {self.highest_defocus_in_angstroms:g} Å",
                "Give the smaller underfocus first; both are in Å and positive for underfocus.",
            )
        fine, coarse = self.finest_resolution_in_angstroms, self.coarsest_resolution_in_angstroms
        if fine is not None and fine >= coarse:
            raise InputError(
                "--low-resolution and --high-resolution",
                f"{coarse:g} Å is not coarser than {fine:g} Å",
                "Give the coarse limit in --low-resolution (for example 30) and the fine one in --high-resolution (4).",
            )
        return self

    @model_validator(mode="after")
    def _device_exists(self) -> Self:
        resolve_device(self.device)
        return self


class SelectingConfig(MicrographsConfig):
    """A job that may leave out micrographs by what ``cryoprism restore`` found out about them."""

    options: ClassVar[dict[str, str]] = {
        **MicrographsConfig.options,
        "max_ctf_resolution_in_angstroms": "--max-ctf-resolution",
        "min_information_share": "--min-information",
        "max_ice_significance": "--max-ice",
        "max_astigmatism_in_angstroms": "--max-astigmatism",
    }

    max_ctf_resolution_in_angstroms: float | None = Field(
        None, gt=0.5, le=200, description="Thon rings have to be fitted to this resolution or finer [Å]."
    )
    min_information_share: float | None = Field(
        None, ge=0, le=10, description="Least information left, as a share of the session's median."
    )
    max_ice_significance: float | None = Field(
        None, ge=0, le=1e6, description="Largest significance of rings of crystalline ice, in standard deviations."
    )
    max_astigmatism_in_angstroms: float | None = Field(
        None, ge=0, le=1e5, description="Largest difference between the two defocus values [Å]."
    )
    max_contamination: float | None = Field(
        None, ge=0, le=1, description="Largest share of the field under contamination and carbon."
    )


class SimulateConfig(JobConfig):
    """Everything that decides what ``cryoprism simulate`` makes."""

    #: Each micrograph has a seed of its own, so that a session can grow.
    bookkeeping: ClassVar[frozenset[str]] = JobConfig.bookkeeping | {"micrographs"}
    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "structure_file": "--structure",
        "width_in_pixels": "--width",
        "height_in_pixels": "--height",
        "pixel_size_in_angstroms": "--pixel-size",
        "voltage_in_kilovolts": "--voltage",
        "spherical_aberration_in_millimeters": "--spherical-aberration",
        "exposure_in_electrons_per_square_angstrom": "--exposure",
        "ice_thickness_in_angstroms": "--ice-thickness",
        "mtf_file": "--mtf",
        "particles_per_micrograph": "--particles",
        "mass_in_kilodaltons": "--mass",
    }

    structure_file: Path | None = Field(
        None, description="PDB, mmCIF or MRC map of the particle; a shell of helices that CryoPrism builds if absent."
    )
    micrographs: int = Field(4, ge=1, le=100_000, description="Number of micrographs.")
    width_in_pixels: int = Field(1024, ge=128, le=16_384, description="Width of a micrograph.")
    height_in_pixels: int = Field(1024, ge=128, le=16_384, description="Height of a micrograph.")
    pixel_size_in_angstroms: float = Field(1.5, ge=0.2, le=20, description="Pixel size [Å].")
    voltage_in_kilovolts: float = Field(300.0, ge=20, le=1500, description="Acceleration voltage [kV].")
    spherical_aberration_in_millimeters: float = Field(2.7, ge=0, le=20, description="Cs [mm].")
    amplitude_contrast: float = Field(0.07, ge=0, lt=1, description="Fraction of amplitude contrast.")
    exposure_in_electrons_per_square_angstrom: float = Field(40.0, gt=0, le=1e4, description="Total exposure [e/Å²].")
    ice_thickness_in_angstroms: float | None = Field(
        None, gt=0, le=5000, description="Mean thickness of the ice [Å]; drawn per micrograph if absent."
    )
    mtf_file: Path | None = Field(None, description="Detector MTF curve as STAR; a typical one if absent.")
    particles_per_micrograph: int | None = Field(
        None, ge=0, le=100_000, description="Particles in a micrograph; as many as fit loosely if absent."
    )
    severity: float = Field(1.0, ge=0, le=10, description="Strength of the damage: 0 none, 1 ordinary, 2 bad.")
    frames: int = Field(1, ge=1, le=1000, description="Frames per movie; 1 writes micrographs.")
    engine: Literal["rytov", "multislice"] = Field("rytov", description="How the wave passes the specimen.")
    recipe: Literal["varied", "demo", "clean"] = Field("varied", description="Which damage the micrographs get.")
    assembly: str | None = Field(None, description="Biological assembly of a structure file.")
    mass_in_kilodaltons: float | None = Field(None, gt=0, le=1e6, description="Mass of the particle; needed for a map.")
    movies: bool = Field(False, description="Write movies.")
    truth_images: bool = Field(False, description="Write the noise-free potential and signal too.")
