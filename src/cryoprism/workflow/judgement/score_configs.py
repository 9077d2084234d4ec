"""Configurations of the commands that learn and explain the weights of the score."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from cryoprism.workflow.jobs.config import Inputs, JobConfig

__all__ = ["WeightsExplainConfig", "WeightsLearnConfig"]


class WeightsLearnConfig(JobConfig):
    """Everything that decides what ``cryoprism weights learn`` finds."""

    options: ClassVar[dict[str, str]] = {**JobConfig.options, "inputs": "JUDGEMENTS", "learn_shape": "--shape"}
    needs: ClassVar[dict[str, str]] = {"trials": "learn_shape"}

    inputs: Inputs = Field(min_length=1, description="Files of judgements, one JSON object a line.")
    learn_shape: bool = Field(True, description="Look for β, γ and κ too, where there are judgements enough.")
    trials: int = Field(60, ge=1, le=10_000, description="Shapes to try.")


class WeightsExplainConfig(JobConfig):
    """Everything that decides what ``cryoprism weights explain`` finds."""

    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "table": "TABLE",
        "weights_file": "--score-weights",
    }

    table: Path = Field(description="Table of assessments with a column of measured quality, TSV or CSV.")
    quality: str = Field(description="Column of the measured quality.")
    columns: tuple[str, ...] = Field(
        (), description="Columns that explain it; the components in the table, or all numbers, if absent."
    )
    group: str | None = Field(
        None, description="Column of names; rows with the same one, such as runs of one specimen, belong together."
    )
    lower_is_better: bool = Field(False, description="Smaller quality is better, as for a resolution in Å.")
    weights_file: Path | None = Field(
        None, description="Folder or weights.json of cryoprism weights learn; the default weights if absent."
    )
    bootstraps: int = Field(1000, ge=20, le=100_000, description="Samples of rows for the intervals.")
