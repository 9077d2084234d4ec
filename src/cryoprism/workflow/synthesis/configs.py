"""Configuration of ``cryoprism synthesize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from cryoprism.core import InputError
from cryoprism.workflow.jobs.config import Inputs, JobConfig, PointGroup

__all__ = ["SynthesizeConfig"]


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, int | float | str) else value


_FEWEST = 4  # micrographs: one of them validates

Numbers = Annotated[tuple[float, ...], BeforeValidator(_listed)]
Masses = Annotated[tuple[Annotated[float, Field(gt=0, le=1e6)], ...], BeforeValidator(_listed)]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
PointGroups = Annotated[tuple[PointGroup, ...], BeforeValidator(_listed)]


class SynthesizeConfig(JobConfig):
    """Everything that decides what ``cryoprism synthesize`` makes."""

    #: Every micrograph has draws of its own, so that a set can grow.
    bookkeeping: ClassVar[frozenset[str]] = JobConfig.bookkeeping | {
        "count", "match", "realism", "train_picker", "picker_steps", "train_poses", "pose_steps",
    }  # fmt: skip
    named_files: ClassVar[frozenset[str]] = frozenset({"match", "maps"})
    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "maps": "--map",
        "shares": "--share",
        "mass_in_kilodaltons": "--mass",
        "lowpass_in_angstroms": "--lowpass",
        "diameter_in_angstroms": "--diameter",
        "particles_per_micrograph": "--particles",
        "ice_thickness_in_angstroms": "--ice-thickness",
        "width_in_pixels": "--width",
        "height_in_pixels": "--height",
        "pixel_size_in_angstroms": "--pixel-size",
        "voltage_in_kilovolts": "--voltage",
        "spherical_aberration_in_millimeters": "--spherical-aberration",
        "preferred_views": "--preferred-view",
        "view_share": "--preferred-share",
        "view_concentration": "--preferred-concentration",
        "filament_length_in_angstroms": "--filament-length",
        "persistence_length_in_angstroms": "--persistence-length",
        "axis_offset_in_angstroms": "--axis-offset",
        "conformation_shares": "--conformation-share",
        "cluster_spread_in_angstroms": "--cluster-spread",
        "tilt_in_degrees": "--tilt",
        "tilt_axis_in_degrees": "--tilt-axis",
    }
    FRAMES: ClassVar[int] = 40

    maps: Inputs = Field(
        min_length=1, description="Map, PDB or mmCIF file of each species; conformations of one joined by commas."
    )
    match: Inputs = Field(min_length=1, description="Real micrographs to match: a STAR or .cs file, folder or images.")
    count: int = Field(10, ge=1, le=1_000_000, description="Synthetic micrographs.")
    shares: Numbers = Field((), description="Share of each species by number; equal if absent.")
    morph: int = Field(0, ge=0, le=100, description="States between the two conformations of a species.")
    conformation_shares: tuple[tuple[float, ...], ...] = Field(
        (), description="Shares of the conformations of each species by number; equal if absent."
    )
    assembly: Names = Field(
        (), description="Biological assembly of structure files, one for all or for each species; none: as it is."
    )
    mass_in_kilodaltons: Masses = Field(
        (), description="Mass of a map's particle [kDa], one for all or for each species; from the contour if absent."
    )
    contour: Numbers = Field(
        (), description="Contour level of a map at which it encloses the molecule, one for all or for each species."
    )
    lowpass_in_angstroms: float = Field(0.0, ge=0, le=200, description="Finest detail of the specimen [Å]; 0 for all.")
    symmetry: PointGroups = Field(
        ("C1",), min_length=1, description="Point group of the map, one for all or for each species."
    )
    diameter_in_angstroms: float | None = Field(
        None, gt=0, le=1e5, description="Diameter for picking the real micrographs [Å]; from the map if absent."
    )
    coordinates: Path | None = Field(
        None, description="Picks of the real micrographs (folder or file); found with the map if absent."
    )
    exemplars: int = Field(12, ge=1, le=1000, description="Most real micrographs that are matched.")
    noise: Literal["none", "gaussian", "poisson", "poisson-gaussian", "spectrum", "matched", "learned"] = Field(
        "matched", description="Noise: classical, or what a network learns on top of matched noise."
    )
    learning_steps: int | None = Field(
        None, ge=1, le=1_000_000, description="Steps of learned noise; 4,000 on a CPU, 40,000 on a GPU if absent."
    )
    particles_per_micrograph: int | None = Field(
        None, ge=0, le=100_000, description="Particles in a micrograph; the density of the real ones if absent."
    )
    ice_thickness_in_angstroms: float | None = Field(
        None,
        gt=0,
        le=5000,
        description="Ice [Å]; if absent a quarter more than the particle, or what all of them need.",
    )
    ice_gradient: float = Field(
        0.0,
        ge=0,
        le=5000,
        description="Rise of the ice's thickness across the field [Å/µm], in a direction of its own.",
    )
    tilt_in_degrees: float = Field(0.0, ge=-70, le=70, description="Tilt of the film about an axis in it [degrees].")
    tilt_axis_in_degrees: float = Field(
        0.0, ge=-360, le=360, description="From x to the tilt axis, towards y [degrees]."
    )
    preferred_views: tuple[tuple[float, float], ...] = Field((), description="Preferred views as rot, tilt [degrees].")
    view_share: float = Field(0.5, ge=0, le=1, description="Share of the particles in preferred views.")
    view_concentration: float = Field(20.0, ge=0, le=1e6, description="Concentration of preferred views.")
    interface_share: float = Field(0.0, ge=0, le=1, description="Share of particles at the air-water interfaces.")
    cluster_share: float = Field(0.0, ge=0, le=1, description="Share of particles in clusters.")
    cluster_size: float = Field(8.0, ge=1, le=1e5, description="Mean number of particles in a cluster.")
    cluster_spread_in_angstroms: float = Field(
        500.0, gt=0, le=1e6, description="Standard deviation of a cluster along x and y [Å]."
    )
    aggregate_share: float = Field(0.0, ge=0, le=1, description="Share of particles in clumps.")
    aggregate_size: int = Field(6, ge=2, le=1000, description="Particles in a clump.")
    filaments: int = Field(0, ge=0, le=10_000, description="Filaments in a micrograph.")
    filament_length_in_angstroms: float = Field(2000.0, gt=0, le=1e6, description="Length of filaments [Å].")
    persistence_length_in_angstroms: float = Field(
        1.5e5, gt=0, le=1e12, description="Persistence length of filaments [Å]: 1.5e5 is about that of F-actin."
    )
    axis_offset_in_angstroms: tuple[float, float] = Field(
        (0.0, 0.0), description="From the helical axis to the centre of the specimen, x and y [Å]."
    )
    helical_rise: float | None = Field(None, gt=0, le=1000, description="Rise between subunits of a filament [Å].")
    helical_twist: float = Field(0.0, ge=-360, le=360, description="Twist between subunits [degrees].")
    contamination: int | None = Field(
        None, ge=0, le=1000, description="Ice crystals in a micrograph; as many as in the real ones if absent."
    )
    carbon: float | None = Field(
        None, ge=0, le=1, description="Share of micrographs with an edge of carbon film; as the real ones if absent."
    )
    movies: bool = Field(
        False, description="Write movies beside the micrographs: 40 frames, or as many as frames says."
    )
    frames: int | None = Field(None, ge=2, le=1000, description="Frames of a movie; movies are written if it is given.")
    width_in_pixels: int | None = Field(None, ge=128, le=16_384, description="Width; that of the real ones if absent.")
    height_in_pixels: int | None = Field(None, ge=128, le=16_384, description="Height; as the real ones if absent.")
    pixel_size_in_angstroms: float | None = Field(None, ge=0.05, le=50, description="Pixel size [Å].")
    voltage_in_kilovolts: float | None = Field(None, ge=20, le=1500, description="Acceleration voltage [kV].")
    spherical_aberration_in_millimeters: float | None = Field(None, ge=0, le=20, description="Cs [mm].")
    amplitude_contrast: float | None = Field(
        None, ge=0, lt=1, description="Fraction of amplitude contrast, usually 0.07 to 0.1."
    )
    train_picker: bool = Field(False, description="Train a picker for this specimen on the result.")
    picker_steps: int = Field(1500, ge=1, le=1_000_000, description="Steps of that training.")
    train_poses: bool = Field(False, description="Train a pose network for this specimen on the result.")
    pose_steps: int = Field(1500, ge=1, le=1_000_000, description="Steps of that training.")
    realism: bool = Field(True, description="Measure how far the result can be told from the real micrographs.")

    def map_files(self) -> list[Path]:
        """Files of all species and conformations, in their order."""
        return [Path(part.strip()) for entry in self.maps for part in entry.split(",")]

    @property
    def frames_of_a_movie(self) -> int:
        """Frames to write, 0 for none."""
        return self.frames or (self.FRAMES if self.movies else 0)

    @model_validator(mode="after")
    def _can_be_trained_on(self) -> Self:
        for option, asked in (("--train-picker", self.train_picker), ("--train-poses", self.train_poses)):
            if asked and self.count < _FEWEST:
                raise InputError(option, f"{self.count} micrographs", f"Make {_FEWEST} or more (--count).")
        if self.train_poses and (len(self.maps) > 1 or self.filaments):
            what = "filaments" if self.filaments else f"{len(self.maps)} species"
            raise InputError("--train-poses", f"was asked for {what}", "A pose network knows one single particle.")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.shares and len(self.shares) != len(self.maps):
            raise InputError("--share", f"{len(self.shares)} for {len(self.maps)} species", "Give one for each --map.")
        if self.shares and (min(self.shares) < 0 or not sum(self.shares) > 0):
            listed = ", ".join(f"{share:g}" for share in self.shares)
            raise InputError("--share", f"are {listed}", "Give shares of 0 or more, not all of them 0.")
        for field in ("assembly", "mass_in_kilodaltons", "contour", "symmetry", "conformation_shares"):
            given = len(getattr(self, field))
            if given > 1 and given != len(self.maps):
                raise InputError(
                    self.option(field),
                    f"{given} for {len(self.maps)} species",
                    "Give one for all, or one for each --map in the same order.",
                )
        for shares in self.conformation_shares:
            if not shares or min(shares) < 0 or not sum(shares) > 0:
                listed = ", ".join(f"{share:g}" for share in shares)
                raise InputError(
                    "--conformation-share", f"are {listed}", "Give shares of 0 or more, not all of them 0."
                )
        if (self.filaments > 0) != (self.helical_rise is not None):
            raise InputError(
                "--filaments and --helical-rise", "only one of them was given", "Filaments need both, others neither."
            )
        if self.particles_per_micrograph == 0 and not self.filaments:
            raise InputError(
                "--particles", "0: there would be nothing to label", "Ask for one or more; 'simulate' makes empty ice."
            )
        if self.learning_steps is not None and self.noise != "learned":
            raise InputError("--learning-steps", f"with --noise {self.noise}", "Give it with --noise learned.")
        if self.morph and any(len(entry.split(",")) != 2 for entry in self.maps):
            raise InputError(
                "--morph", "needs two conformations of every species", "Give them as --map FIRST.pdb,LAST.pdb."
            )
        return self
