"""Configurations of the commands that find poses, and of the one that runs everything."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cryoprism.core import InputError
from cryoprism.workflow.jobs.config import JobConfig, PointGroup, SelectingConfig

__all__ = ["InitialModelConfig", "ProcessConfig", "RefineConfig"]

_PARTICLES = "A STAR or .cs file of particles."
_SYMMETRY = "Point group: C1, Cn, Dn, T, O, I1 or I2, in RELION's orientation."


class RefineConfig(JobConfig):
    """Everything that decides what ``cryoprism refine`` does."""

    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "particles_file": "PARTICLES",
        "diameter_in_angstroms": "--diameter",
        "initial_lowpass_in_angstroms": "--initial-lowpass",
        "mask_file": "--mask",
        "weights_folder": "--weights",
        "scaled_box_in_pixels": "--scale",
        "shift_range_in_angstroms": "--shift-range",
        "min_distance_in_angstroms": "--min-distance",
        "maximum_resolution_in_angstroms": "--maximum-resolution",
        "pixel_size_in_angstroms": "--pixel-size",
        "helical_rise_in_angstroms": "--helical-rise",
        "helical_twist_in_degrees": "--helical-twist",
        "helical_diameter_in_angstroms": "--helical-diameter",
        "helical_axis_spread_in_degrees": "--helical-axis-spread",
    }
    named_files: ClassVar[frozenset[str]] = frozenset({"reference"})

    particles_file: Path = Field(description=_PARTICLES)
    reference: str = Field("none", description="Map to start from; 'none' starts from poses that the table holds.")
    symmetry: PointGroup = Field("C1", description=_SYMMETRY)
    diameter_in_angstroms: float = Field(gt=0, le=1e5, description="Diameter of the particle [Å].")
    initial_lowpass_in_angstroms: float = Field(30.0, gt=1, le=1000, description="Low-pass of the starting map [Å].")
    mask_file: Path | None = Field(None, description="Mask from 0 to 1; a soft sphere of the diameter if absent.")
    weights_folder: Path | None = Field(None, description="Folder 'weights' of cryoprism restore.")
    scaled_box_in_pixels: int | None = Field(
        None, ge=8, le=8192, description="Side to which images are scaled down before anything else [pixels]."
    )
    shift_range_in_angstroms: float = Field(12.0, gt=0, le=1000, description="How far off centre particles may be [Å].")
    min_distance_in_angstroms: float = Field(
        20.0, ge=0, le=1e5, description="Particles of a micrograph nearer than this are duplicates [Å]."
    )
    maximum_resolution_in_angstroms: float | None = Field(
        None, gt=0, le=1e4, description="Finest frequencies used for poses [Å]; as fine as the halves agree if absent."
    )
    iterations: int = Field(20, ge=1, le=200, description="Most passes.")
    local: bool = Field(True, description="Measure the resolution by place too.")
    pixel_size_in_angstroms: float | None = Field(None, ge=0.05, le=50, description="Pixel size of the images [Å].")
    helical_rise_in_angstroms: float | None = Field(None, gt=0, le=1e4, description="Rise of a helix about z [Å].")
    helical_twist_in_degrees: float | None = Field(
        None, ge=-360, le=360, description="Twist of the helix [degrees], positive for right-handed."
    )
    helical_units: int = Field(1, ge=1, le=1000, description="Units of the helix that each segment is inserted as.")
    helical_diameter_in_angstroms: float | None = Field(
        None, gt=0, le=1e5, description="Outer diameter of the filament [Å]; that of the particle if absent."
    )
    helical_central_fraction: float = Field(
        0.3, gt=0, le=1, description="Part of the box along z from which the map is symmetrised."
    )
    helical_axis_spread_in_degrees: float = Field(
        10.0, gt=0, le=90, description="How far filaments lean out of the plane, or off their priors [degrees]."
    )
    helical_search: bool = Field(False, description="Refine rise and twist after each pass.")
    pose_network: bool = Field(False, description="Start from poses of a network trained on the reference.")
    pose_network_steps: int = Field(1500, ge=1, le=1_000_000, description="Steps of the network's training.")
    pose_network_file: Path | None = Field(None, description="Network that was trained before, to start from.")

    @model_validator(mode="after")
    def _helix_is_whole(self) -> Self:
        if (self.helical_rise_in_angstroms is None) != (self.helical_twist_in_degrees is None):
            raise InputError("--helical-rise and --helical-twist", "one came without the other", "Give both.")
        if self.helical_rise_in_angstroms is not None and self.symmetry.strip().upper()[0] not in "CD":
            raise InputError("--symmetry", f"'{self.symmetry}' of a helix", "Filaments have Cn or Dn about their axis.")
        asked = "--pose-network" if self.pose_network_file is None else "--pose-network-file"
        if self.helical_rise_in_angstroms is not None and (self.pose_network or self.pose_network_file is not None):
            raise InputError(asked, "was asked for a helix", "Filaments are searched without it.")
        return self


class InitialModelConfig(JobConfig):
    """Everything that decides what ``cryoprism initial-model`` does."""

    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "particles_file": "PARTICLES",
        "diameter_in_angstroms": "--diameter",
        "maximum_resolution_in_angstroms": "--maximum-resolution",
        "shift_range_in_angstroms": "--shift-range",
        "min_distance_in_angstroms": "--min-distance",
        "pixel_size_in_angstroms": "--pixel-size",
    }

    particles_file: Path = Field(description=_PARTICLES)
    symmetry: PointGroup = Field("C1", description=_SYMMETRY)
    diameter_in_angstroms: float = Field(gt=0, le=1e5, description="Diameter of the particle [Å].")
    starts: int = Field(3, ge=1, le=100, description="Independent starts from noise; the best is kept.")
    maximum_resolution_in_angstroms: float | None = Field(
        None,
        gt=1,
        le=1000,
        description="Finest frequencies used [Å]; what the grid of orientations can tell apart at the rim if absent.",
    )
    shift_range_in_angstroms: float = Field(12.0, gt=0, le=1000, description="How far off centre particles may be [Å].")
    min_distance_in_angstroms: float = Field(
        20.0, ge=0, le=1e5, description="Particles of a micrograph nearer than this are duplicates [Å]."
    )
    pixel_size_in_angstroms: float | None = Field(None, ge=0.05, le=50, description="Pixel size of the images [Å].")


class ProcessConfig(SelectingConfig):
    """Everything that decides what ``cryoprism process`` does; each stage has its own command with more options."""

    options: ClassVar[dict[str, str]] = {
        **SelectingConfig.options,
        "diameter_in_angstroms": "--diameter",
        "box_in_pixels": "--box",
        "scaled_box_in_pixels": "--scale",
        "initial_lowpass_in_angstroms": "--initial-lowpass",
    }

    symmetry: PointGroup = Field("C1", description=_SYMMETRY)
    diameter_in_angstroms: float = Field(gt=0, le=1e5, description="Longest diameter of the particle [Å].")
    reference: Path | None = Field(None, description="Map to pick with and start from; made from the data if absent.")
    pick_method: Literal["blob", "template", "learned"] | None = Field(
        None, description="Picker: blob, template, learned; template with a reference, else blob, if absent."
    )
    box_in_pixels: int | None = Field(
        None, ge=16, le=8192, description="Side of the box on the micrograph [pixels]; about 1.4 diameters if absent."
    )
    scaled_box_in_pixels: int | None = Field(
        None, ge=16, le=8192, description="Side to which particles are scaled down; what the data carry if absent."
    )
    initial_lowpass_in_angstroms: float = Field(30.0, gt=1, le=1000, description="Low-pass of the starting map [Å].")
    use_weights: bool = Field(False, description="Use the envelope that restore fitted to each micrograph in the map.")
    classes: int = Field(
        0, ge=0, le=2000, description="Classes of a 2-D classification that sorts particles out; 0 leaves it out."
    )
    starts: int = Field(3, ge=1, le=100, description="Independent starts of the initial model.")
    iterations: int = Field(20, ge=1, le=200, description="Most passes of the refinement.")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.pick_method == "template" and self.reference is None:
            raise InputError("--reference", "nothing was given", "The template picker needs a map.")
        if self.scaled_box_in_pixels and self.box_in_pixels and self.scaled_box_in_pixels > self.box_in_pixels:
            raise InputError(
                "--scale", f"{self.scaled_box_in_pixels} is more than the box of {self.box_in_pixels}", "Lower it."
            )
        return self
