"""Configuration of ``cryoprism prove``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from cryoprism.workflow.jobs.config import JobConfig, PointGroup

__all__ = ["ProveConfig"]


class ProveConfig(JobConfig):
    """Everything that decides what ``cryoprism prove`` checks."""

    # How long the prover may take and how much memory it may use decide what is known in the end.
    bookkeeping: ClassVar[frozenset[str]] = JobConfig.bookkeeping - {"max_memory_in_gigabytes"}
    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "model_file": "MODEL",
        "map_file": "--map",
        "margin_in_angstroms": "--margin",
        "voxel_size_in_angstroms": "--pixel-size",
        "helical_rise_in_angstroms": "--helical-rise",
        "helical_twist_in_degrees": "--helical-twist",
        "time_limit_in_seconds": "--time-limit",
    }

    model_file: Path = Field(description="PDB or mmCIF file; its first model is checked.")
    map_file: Path | None = Field(None, description="Map in the model's frame.")
    contour: float | None = Field(None, description="Level of the map that bounds the molecule; found if absent.")
    margin_in_angstroms: float = Field(
        3.0, ge=0, le=100, description="How far outside the contour an atom may lie [Å]."
    )
    voxel_size_in_angstroms: float | None = Field(None, ge=0.05, le=50, description="Voxel size of the map [Å].")
    symmetry: PointGroup | None = Field(None, description="Point group: C1, Cn, Dn, T, O, I1 or I2, as in RELION.")
    helical_rise_in_angstroms: float | None = Field(None, gt=0, le=1e4, description="Rise of a helix about z [Å].")
    helical_twist_in_degrees: float | None = Field(
        None, ge=-360, le=360, description="Twist of the helix [degrees], positive for right-handed."
    )
    assembly: str | None = Field(None, description="Biological assembly whose copies must not overlap.")
    time_limit_in_seconds: float = Field(300.0, ge=1, le=1e6, description="CPU time that Coq may take in all [s].")
