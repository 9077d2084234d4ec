"""Configuration of ``cryoprism prove``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from cryoprism.core import InputError
from cryoprism.workflow.jobs.config import JobConfig, PointGroup

__all__ = ["ProveConfig", "require_one"]


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

    needs: ClassVar[dict[str, str]] = dict.fromkeys(
        ("contour", "margin_in_angstroms", "voxel_size_in_angstroms"), "map_file"
    )

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

    @model_validator(mode="after")
    def _one_kind_of_copies(self) -> Self:
        helix = self.helical_rise_in_angstroms is not None or self.helical_twist_in_degrees is not None
        given = {
            "--symmetry": self.symmetry not in {None, "C1", "c1"},
            "--helical-rise and --helical-twist": helix,
            "--assembly": self.assembly is not None,
        }
        require_one([name for name, there in given.items() if there])
        return self


def require_one(given: list[str]) -> None:
    """Refuse more than one kind of copies, of which all but the first would be left aside.

    Raises
    ------
    InputError
        More than one was given.
    """
    if len(given) > 1:
        raise InputError(" and ".join(given), "each names the copies that must not overlap", "Give one of them.")
