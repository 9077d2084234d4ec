"""Configurations of the commands that build a citation graph and train forecasts on it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cryoprism.core import InputError
from cryoprism.workflow.jobs.config import JobConfig

__all__ = ["ImpactBuildConfig", "ImpactTrainConfig"]

ModelName = Literal[
    "median of the past", "preferential attachment", "Wang–Song–Barabási", "gradient boosting", "GraphSAGE"
]


class ImpactBuildConfig(JobConfig):
    """Everything that decides what ``cryoprism impact build`` puts into a graph."""

    options: ClassVar[dict[str, str]] = {**JobConfig.options, "works": "WORKS"}

    works: tuple[Path, ...] = Field((), description="Files of OpenAlex works, JSON lines, plain or gzipped.")
    merged_works: tuple[Path, ...] = Field(
        (), description="merged_ids/works of OpenAlex: which works became part of others; files or the folder."
    )
    patents: tuple[Path, ...] = Field((), description="PatentsView's g_patent: TSV, plain, gzipped or zipped.")
    patent_citations: tuple[Path, ...] = Field((), description="PatentsView's g_us_patent_citation.")
    patent_references: tuple[Path, ...] = Field((), description="PatentsView's g_other_reference.")
    entries: tuple[Path, ...] = Field((), description="PDB mmCIF, EMDB headers (XML, JSON), or folders of them.")

    @model_validator(mode="after")
    def _works_and_patents(self) -> Self:
        if not self.works:
            raise InputError("WORKS", "nothing was given", "Give files of OpenAlex works (openalex.org, free).")
        if (self.patent_citations or self.patent_references) and not self.patents:
            raise InputError(
                "--patents", "is needed with citations of patents", "Give g_patent: a citation counts from its date."
            )
        return self


class ImpactTrainConfig(JobConfig):
    """Everything that decides what ``cryoprism impact train`` forecasts."""

    options: ClassVar[dict[str, str]] = {**JobConfig.options, "graph": "GRAPH", "models": "--model"}

    graph: Path = Field(description="Folder of cryoprism impact build, or its citations.sqlite.")
    models: tuple[ModelName, ...] = Field((), description="Models to try; all if absent.")
    now: float | None = Field(
        None, ge=1600, le=2200, description="Moment to forecast from, in years; the newest work's date if absent."
    )
