"""Configurations of ``cryoprism novelty``: building an index of known shapes, adding to it, asking it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from cryoprism.core import InputError
from cryoprism.evaluation.novelty import kind_of_file
from cryoprism.workflow.jobs.config import Inputs, JobConfig

__all__ = ["NoveltyAddConfig", "NoveltyBuildConfig", "NoveltyQueryConfig"]

_FILES = "Maps, models, or folders of them."
_ASSEMBLY = "Biological assembly of the models, for example 1; the coordinates as they stand if absent."
_VOXEL = "Voxel size of the maps [Å]; that of their headers if absent."


class _ShapesConfig(JobConfig):
    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "inputs": "FILES",
        "model_or_map": "MODEL_OR_MAP",
        "index": "--index",
        "resolution_in_angstroms": "--resolution",
        "voxel_size_in_angstroms": "--pixel-size",
    }

    assembly: str | None = Field(None, description=_ASSEMBLY)
    voxel_size_in_angstroms: float | None = Field(None, ge=0.05, le=50, description=_VOXEL)


class NoveltyBuildConfig(_ShapesConfig):
    """Everything that decides what ``cryoprism novelty build`` does."""

    inputs: Inputs = Field(min_length=1, description=_FILES)
    resolution_in_angstroms: float = Field(
        10.0, ge=5, le=50, description="Common resolution of all shapes [Å]; probabilities are calibrated at 10."
    )


class NoveltyAddConfig(_ShapesConfig):
    """Everything that decides what ``cryoprism novelty add`` does."""

    inputs: Inputs = Field(min_length=1, description=_FILES)
    index: Path = Field(description="Folder of the index.")


class NoveltyQueryConfig(_ShapesConfig):
    """Everything that decides what ``cryoprism novelty query`` does."""

    needs: ClassVar[dict[str, str]] = {"neighbours": "index", "prior": "index"}

    model_or_map: Path = Field(description="Model (PDB, mmCIF) or map (MRC), gzipped or not.")
    index: Path | None = Field(None, description="Folder of the index; without one there is no answer.")
    neighbours: int = Field(10, ge=1, le=1000, description="Nearest entries to list.")
    prior: float = Field(0.5, gt=0, lt=1, description="Probability that the index holds the shape, before looking.")

    @model_validator(mode="after")
    def _what_fits_the_file(self) -> Self:
        kind = kind_of_file(self.model_or_map)
        if kind == "model" and self.voxel_size_in_angstroms is not None:
            raise InputError("--pixel-size", "needs a map, and a model was given", "Leave it out.")
        if kind == "map" and self.assembly is not None:
            raise InputError("--assembly", "needs a model, and a map was given", "Leave it out.")
        return self
