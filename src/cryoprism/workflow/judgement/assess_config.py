"""Configuration of ``cryoprism assess``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from cryoprism.core import InputError
from cryoprism.workflow.jobs.config import JobConfig, PointGroup

from .prove_config import require_one

__all__ = ["AssessConfig"]


class AssessConfig(JobConfig):
    """Everything that decides what ``cryoprism assess`` finds."""

    #: Each question is judged by what it alone depends on, so that an index, a record or a map can come later.
    bookkeeping: ClassVar[frozenset[str]] = JobConfig.bookkeeping | {
        "model_file",
        "map_file",
        "record",
        "index",
        "forecasts",
        "publication",
        "weights_file",
        "assembly",
        "voxel_size_in_angstroms",
        "contour",
        "margin_in_angstroms",
        "symmetry",
        "helical_rise_in_angstroms",
        "helical_twist_in_degrees",
        "rerun",
        "rerun_budget_in_seconds",
        "time_limit_in_seconds",
        "perturbed_micrographs",
    }
    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "model_file": "MODEL",
        "map_file": "--map",
        "forecasts": "--impact",
        "weights_file": "--score-weights",
        "voxel_size_in_angstroms": "--pixel-size",
        "margin_in_angstroms": "--margin",
        "helical_rise_in_angstroms": "--helical-rise",
        "helical_twist_in_degrees": "--helical-twist",
        "rerun_budget_in_seconds": "--rerun-budget",
        "time_limit_in_seconds": "--time-limit",
    }

    needs: ClassVar[dict[str, str]] = {
        "contour": "map_file",
        "margin_in_angstroms": "map_file",
        "voxel_size_in_angstroms": "map_file",
        "publication": "forecasts",
        "rerun_budget_in_seconds": "record",
        "perturbed_micrographs": "record",
    }

    model_file: Path = Field(description="Atomic model: PDB or mmCIF, gzipped or not.")
    map_file: Path | None = Field(None, description="Map in the model's frame; its envelope has to hold the model.")
    record: Path | None = Field(None, description="Folder of the job that made the map or the model.")
    index: Path | None = Field(None, description="Index of known shapes: folder of cryoprism novelty build.")
    forecasts: Path | None = Field(None, description="Forecasts of citations: folder of cryoprism impact train.")
    publication: str | None = Field(
        None,
        description="DOI, pubmed:NUMBER, OpenAlex W-number, or PDB or EMDB entry; the model's own entry if absent.",
    )
    weights_file: Path | None = Field(
        None, description="Folder or weights.json of cryoprism weights learn; the default weights if absent."
    )
    assembly: str | None = Field(None, description="Biological assembly of the model, for example 1.")
    voxel_size_in_angstroms: float | None = Field(None, ge=0.05, le=50, description="Voxel size of the map [Å].")
    contour: float | None = Field(None, description="Level of the map that bounds it; found if absent.")
    margin_in_angstroms: float = Field(3.0, ge=0, le=50, description="How far outside the contour an atom may lie [Å].")
    symmetry: PointGroup | None = Field(None, description="Point group whose copies of the model must not overlap.")
    helical_rise_in_angstroms: float | None = Field(None, gt=0, le=1000, description="Rise of a helix about z [Å].")
    helical_twist_in_degrees: float | None = Field(None, ge=-360, le=360, description="Twist of the helix [degrees].")
    rerun: bool = Field(True, description="Run the record again in the sandbox.")
    rerun_budget_in_seconds: float = Field(
        300.0, gt=0, le=1e7, description="Only run again what is expected to take no longer than this [s]."
    )
    time_limit_in_seconds: float = Field(
        600.0, ge=1, le=1e7, description="CPU time of the proofs, and time of the re-run, after which they stop [s]."
    )
    perturbed_micrographs: int = Field(
        20,
        ge=1,
        le=1_000_000,
        description="Micrographs whose fitted parameters are moved, evenly spread over the record's.",
    )

    @model_validator(mode="after")
    def _one_kind_of_copies(self) -> Self:
        helix = self.helical_rise_in_angstroms is not None or self.helical_twist_in_degrees is not None
        if helix and self.symmetry not in {None, "C1", "c1"}:
            require_one(["--symmetry", "--helical-rise and --helical-twist"])
        if (
            not self.rerun
            and self.rerun_budget_in_seconds != type(self).model_fields["rerun_budget_in_seconds"].default
        ):
            raise InputError("--rerun-budget", "needs a re-run, and --no-rerun was given", "Leave one of them out.")
        return self
