"""Configurations of the commands from coordinates to a map."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cryoprism.core import InputError
from cryoprism.workflow.jobs.config import JobConfig, MicrographsConfig, PointGroup, SelectingConfig

__all__ = ["ClassifyConfig", "CtfRefineConfig", "ExtractConfig", "PickConfig", "ReconstructConfig", "ResolutionConfig"]


class ExtractConfig(SelectingConfig):
    """Everything that decides what ``cryoprism extract`` does."""

    #: Every micrograph is judged by its own content, so that a session can grow.
    bookkeeping: ClassVar[frozenset[str]] = JobConfig.bookkeeping | {
        "inputs",
        "max_ctf_resolution_in_angstroms",
        "min_information_share",
        "max_ice_significance",
        "max_astigmatism_in_angstroms",
        "max_contamination",
    }
    options: ClassVar[dict[str, str]] = {
        **SelectingConfig.options,
        "masks_folder": "--masks",
        "box_in_pixels": "--box",
        "scaled_box_in_pixels": "--scale",
        "diameter_in_angstroms": "--diameter",
        "edge_in_angstroms": "--edge",
        "min_distance_in_angstroms": "--min-distance",
        "dust_in_deviations": "--dust",
    }

    coordinates: Path = Field(description="Folder of coordinate files, or one STAR, .box or .cs file.")
    masks_folder: Path | None = Field(
        None, description="Folder 'masks' of cryoprism restore; that beside the input if absent."
    )
    box_in_pixels: int = Field(ge=8, le=8192, description="Side of the box on the micrograph [pixels].")
    scaled_box_in_pixels: int | None = Field(
        None, ge=8, le=8192, description="Side to which the images are scaled down [pixels]; as cut if absent."
    )
    diameter_in_angstroms: float | None = Field(
        None,
        gt=0,
        le=1e5,
        description="Diameter of the particle [Å]; outside is background. 75 % of the box if absent.",
    )
    edge_in_angstroms: float | None = Field(
        None, ge=0, le=1e5, description="Leave out particles nearer to an edge [Å]; half a box if absent."
    )
    min_distance_in_angstroms: float = Field(
        20.0, ge=0, le=1e5, description="Leave out duplicates: particles nearer than this to a better one [Å]."
    )
    dust_in_deviations: float | None = Field(
        None, gt=0, le=1e3, description="Replace pixels further from the background than this many deviations."
    )
    invert: bool = Field(True, description="Make protein bright.")
    normalise: bool = Field(True, description="Flatten the background and bring it to mean 0 and deviation 1.")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.scaled_box_in_pixels is not None and self.scaled_box_in_pixels > self.box_in_pixels:
            raise InputError(
                "--scale",
                f"{self.scaled_box_in_pixels} pixels are more than the box of {self.box_in_pixels}",
                "Images are only made smaller: give at most the box, or leave --scale out.",
            )
        return self


class ResolutionConfig(JobConfig):
    """Everything that decides what ``cryoprism resolution`` measures."""

    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "half1": "HALF1",
        "half2": "HALF2",
        "mask_file": "--mask",
        "mtf_file": "--mtf",
        "mtf_pixel_size_in_angstroms": "--mtf-pixel-size",
        "model_file": "--model",
        "particles_file": "--particles",
        "voxel_size_in_angstroms": "--pixel-size",
        "b_factor_in_square_angstroms": "--b-factor",
        "mask_threshold": "--threshold",
        "mask_extend_in_angstroms": "--extend",
        "mask_soft_edge_in_angstroms": "--soft-edge",
        "local": "--local",
    }

    half1: Path = Field(description="First unfiltered half map.")
    half2: Path = Field(description="Second unfiltered half map.")
    mask_file: Path | None = Field(None, description="Mask from 0 to 1 in the maps' box; made from the map if absent.")
    mtf_file: Path | None = Field(None, description="Detector MTF curve as STAR.")
    mtf_pixel_size_in_angstroms: float | None = Field(
        None, ge=0.05, le=50, description="Pixel size of the micrographs [Å], where maps were down-scaled."
    )
    model_file: Path | None = Field(None, description="PDB or mmCIF model in the frame of the map.")
    assembly: str | None = Field(None, description="Biological assembly of the model.")
    fit_model: bool = Field(False, description="Fit the model to the map as a rigid body first.")
    particles_file: Path | None = Field(None, description="STAR or .cs with poses, for the viewing directions.")
    symmetry: PointGroup = Field("C1", description="Point group of the map.")
    voxel_size_in_angstroms: float | None = Field(None, ge=0.05, le=50, description="Voxel size [Å].")
    b_factor_in_square_angstroms: float | None = Field(
        None, ge=-5000, le=0, description="B-factor for sharpening, negative; fitted if absent."
    )
    mask_threshold: float | None = Field(None, description="Level of the low-passed map that bounds the molecule.")
    mask_extend_in_angstroms: float = Field(5.0, ge=0, le=200, description="Growth of the mask [Å].")
    mask_soft_edge_in_angstroms: float = Field(12.0, gt=0, le=200, description="Width of the mask's soft edge [Å].")
    local: bool = Field(True, description="Measure the resolution by place too.")


class ReconstructConfig(JobConfig):
    """Everything that decides what ``cryoprism reconstruct`` does."""

    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "particles_file": "PARTICLES",
        "maximum_resolution_in_angstroms": "--maximum-resolution",
        "weights_folder": "--weights",
        "helical_rise_in_angstroms": "--helical-rise",
        "helical_twist_in_degrees": "--helical-twist",
        "pixel_size_in_angstroms": "--pixel-size",
    }

    particles_file: Path = Field(description="A STAR or .cs file of particles with poses.")
    symmetry: PointGroup = Field("C1", description="Point group: C1, Cn, Dn, T, O, I1 or I2, in RELION's orientation.")
    padding: int = Field(2, ge=1, le=4, description="Times the box is padded for the transform.")
    maximum_resolution_in_angstroms: float | None = Field(
        None, gt=0, le=1e4, description="Finest frequencies used [Å]; Nyquist if absent."
    )
    weights_folder: Path | None = Field(
        None, description="Folder 'weights' of cryoprism restore: envelope and noise of each micrograph."
    )
    helical_rise_in_angstroms: float | None = Field(None, gt=0, le=1e4, description="Rise of a helix about z [Å].")
    helical_twist_in_degrees: float | None = Field(
        None, ge=-360, le=360, description="Twist of the helix [degrees], positive for right-handed."
    )
    helical_units: int = Field(1, ge=1, le=1000, description="Units of the helix that each segment is inserted as.")
    ctf: bool = Field(True, description="Correct for the contrast transfer.")
    wiener: bool = Field(True, description="Weight the map of all particles by the correlation of the halves.")
    iterations: int = Field(3, ge=0, le=100, description="Steps that account for uneven coverage; 0 divides only.")
    pixel_size_in_angstroms: float | None = Field(None, ge=0.05, le=50, description="Pixel size of the images [Å].")

    @model_validator(mode="after")
    def _rise_with_twist(self) -> Self:
        if (self.helical_rise_in_angstroms is None) != (self.helical_twist_in_degrees is None):
            raise InputError("--helical-rise and --helical-twist", "one came without the other", "Give both.")
        return self


class PickConfig(MicrographsConfig):
    """Everything that decides what ``cryoprism pick`` does."""

    #: These decide what is done with finished scores, not the scores; every micrograph is judged by its own content.
    bookkeeping: ClassVar[frozenset[str]] = MicrographsConfig.bookkeeping | {
        "inputs",
        "threshold",
        "false_discovery_rate",
        "box_files",
        "box_in_pixels",
        "pictures",
        "relion_coordinates",
    }
    options: ClassVar[dict[str, str]] = {
        **MicrographsConfig.options,
        "diameter_in_angstroms": "--diameter",
        "smallest_diameter_in_angstroms": "--min-diameter",
        "largest_diameter_in_angstroms": "--max-diameter",
        "lowpass_in_angstroms": "--initial-lowpass",
        "masks_folder": "--masks",
        "use_masks": "--use-masks",
        "weights": "--picker",
        "min_distance_in_angstroms": "--min-distance",
        "edge_in_angstroms": "--edge",
        "box_in_pixels": "--box",
    }

    method: Literal["blob", "template", "learned"] = Field("blob", description="Which picker: blob, template, learned.")
    diameter_in_angstroms: float = Field(gt=0, le=1e5, description="Longest diameter of the particle [Å].")
    smallest_diameter_in_angstroms: float | None = Field(
        None, gt=0, le=1e5, description="Smallest diameter of a blob [Å]; 85 % of the diameter if absent."
    )
    largest_diameter_in_angstroms: float | None = Field(
        None, gt=0, le=1e5, description="Largest diameter of a blob [Å]; 115 % of the diameter if absent."
    )
    reference: Path | None = Field(None, description="Map, or stack of class averages, for the template picker.")
    symmetry: PointGroup = Field("C1", description="Point group of the map: C1, Cn, Dn, T, O, I1 or I2, as in RELION.")
    lowpass_in_angstroms: float = Field(20.0, gt=1, le=1000, description="Finest detail used by blobs, templates [Å].")
    healpix_order: int = Field(2, ge=0, le=4, description="Steps between views: 0 = 60°, 1 = 30°, 2 = 15°, 3 = 7.5°.")
    weights: Path | None = Field(
        None, description="Weights of the learned picker, from train-picker; those that ship if absent."
    )
    threshold: float | None = Field(
        None, description="Lowest figure of merit; chosen for the session from its own noise if absent."
    )
    false_discovery_rate: float = Field(
        0.05, gt=0, lt=1, description="Share of false picks that the chosen threshold lets through in noise."
    )
    min_distance_in_angstroms: float | None = Field(
        None, gt=0, le=1e5, description="Shortest distance between two particles [Å]; half the diameter if absent."
    )
    edge_in_angstroms: float | None = Field(
        None, ge=0, le=1e5, description="Leave out particles nearer to an edge [Å]; half the diameter if absent."
    )
    masks_folder: Path | None = Field(
        None, description="Folder 'masks' of cryoprism restore; that beside the input, or found anew, if absent."
    )
    use_masks: bool = Field(True, description="Leave out particles on carbon, contamination and crystalline ice.")
    box_files: bool = Field(False, description="Write EMAN .box files too.")
    box_in_pixels: int | None = Field(
        None, ge=2, le=8192, description="Side of the boxes in .box files [pixels]; 1.5 diameters if absent."
    )
    pictures: bool = Field(True, description="Draw the picks over each micrograph.")
    relion_coordinates: bool = Field(False, description="Lay coordinates out for RELION's extraction too.")

    @model_validator(mode="after")
    def _parts_fit_the_method(self) -> Self:
        if self.method == "template" and self.reference is None:
            raise InputError("--reference", "nothing was given", "The template picker needs a map or class averages.")
        if self.method != "template" and self.reference is not None:
            raise InputError("--reference", f"the {self.method} picker uses none", "Add --method template.")
        if self.method != "learned" and self.weights is not None:
            raise InputError("--picker", f"the {self.method} picker uses none", "Add --method learned.")
        small, large = self.diameters_in_angstroms
        if small > large:
            raise InputError(
                "--min-diameter and --max-diameter", f"{small:g} and {large:g} Å", "Give the smaller one first."
            )
        return self

    @property
    def diameters_in_angstroms(self) -> tuple[float, float]:
        """Range of the diameters of blobs [Å]."""
        d = self.diameter_in_angstroms
        return self.smallest_diameter_in_angstroms or 0.85 * d, self.largest_diameter_in_angstroms or 1.15 * d


class CtfRefineConfig(JobConfig):
    """Everything that decides what ``cryoprism ctf-refine`` does."""

    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "particles_file": "PARTICLES",
        "half1": "--half1",
        "half2": "--half2",
        "mask_file": "--mask",
        "search_in_angstroms": "--search",
        "lowest_resolution_in_angstroms": "--kmin-tilt",
        "maximum_resolution_in_angstroms": "--maximum-resolution",
    }

    particles_file: Path = Field(description="A STAR or .cs file of particles with poses and half sets.")
    half1: Path = Field(description="Unfiltered half map of the particles of half set 1.")
    half2: Path = Field(description="Unfiltered half map of the particles of half set 2.")
    mask_file: Path | None = Field(None, description="Mask from 0 to 1 in the maps' box; a sphere if absent.")
    defocus: bool = Field(True, description="Refine the defocus of every particle.")
    astigmatism: bool = Field(False, description="Refine mean defocus and astigmatism of every micrograph.")
    beam_tilt: bool = Field(True, description="Estimate the beam tilt of every optics group.")
    trefoil: bool = Field(False, description="Fit threefold astigmatism beside the beam tilt.")
    signal: bool = Field(True, description="Measure what is left of the signal in every micrograph.")
    drift_shape: Literal["gaussian", "sinc"] = Field("gaussian", description="How drift takes signal: gaussian, sinc.")
    search_in_angstroms: float = Field(1500.0, ge=100, le=20000, description="Largest change of defocus [Å].")
    lowest_resolution_in_angstroms: float = Field(
        20.0, gt=1, le=1000, description="Coarser frequencies are not used for beam tilt [Å]."
    )
    maximum_resolution_in_angstroms: float | None = Field(
        None, gt=0, le=1e4, description="Finest frequencies used [Å]; where the halves agree (FSC 0.143) if absent."
    )


class ClassifyConfig(JobConfig):
    """Everything that decides what ``cryoprism classify`` does."""

    #: It decides which classes are kept, not what they are.
    bookkeeping: ClassVar[frozenset[str]] = JobConfig.bookkeeping | {"least_score"}
    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "particles_file": "PARTICLES",
        "diameter_in_angstroms": "--diameter",
        "scaled_box_in_pixels": "--scale",
        "least_score": "--select",
        "max_shift_in_angstroms": "--max-shift",
        "pixel_size_in_angstroms": "--pixel-size",
    }

    particles_file: Path = Field(description="A STAR or .cs file of extracted particles.")
    classes: int = Field(50, ge=1, le=2000, description="Number of classes.")
    diameter_in_angstroms: float = Field(gt=0, le=1e5, description="Diameter of the circle that holds a particle [Å].")
    iterations: int = Field(25, ge=1, le=1000, description="Iterations at most.")
    scaled_box_in_pixels: int | None = Field(
        None, ge=16, le=4096, description="Side to which images are scaled down [pixels]; to 3 Å per pixel if absent."
    )
    least_score: float = Field(
        0.2, ge=0, le=1, description="Lowest score of a class that goes into selected.star, 0 to 1."
    )
    max_shift_in_angstroms: float | None = Field(
        None, gt=0, le=1e4, description="Shift looked for in each iteration [Å]; a tenth of the diameter if absent."
    )
    ctf: bool = Field(True, description="Correct for the contrast transfer.")
    pixel_size_in_angstroms: float | None = Field(None, ge=0.05, le=50, description="Pixel size of the images [Å].")
