"""What an assessment is about: everything that was given, read and found usable before anything is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryoprism.core import CryoPrismError
from cryoprism.evaluation.consistency import Model, read_model
from cryoprism.evaluation.fusion import Shape, Weights, default_shape, default_weights, read_weights, weights_path
from cryoprism.evaluation.impact import Impact, forecast_impact
from cryoprism.evaluation.meta import judge_settled
from cryoprism.evaluation.novelty import ShapeIndex, require_faiss, require_index
from cryoprism.evaluation.perturbation import require_posteriors
from cryoprism.evaluation.reproducibility import Record, chain_of, check_completeness, read_record
from cryoprism.formats import Volume
from cryoprism.workflow.jobs.files import read_map_of_molecule, require_file

from .assess_config import AssessConfig

__all__ = ["FITTED", "Case", "absence", "file_in", "fitted_in", "forecasts_file", "prepare"]

#: What the fragility of a record is judged from.
FITTED: Final = ("causes.json", "resolution.json")
_ENTRY: Final = re.compile(r"[0-9][A-Za-z0-9]{3}")


@dataclass(frozen=True, eq=False)
class Case:
    """Everything that was given, read and found usable.

    Attributes
    ----------
    volume, record, impact
        None where not given; ``impact`` is the forecast that was looked up.
    chain
        The record and those before it.
    causes
        Folder in the chain that holds ``causes.json``.
    weights, shape
        Of the score.
    files
        What counts as input.
    """

    config: AssessConfig
    model: Model
    volume: Volume | None
    record: Record | None
    chain: tuple[Record, ...]
    causes: Path | None
    impact: Impact
    weights: Weights
    shape: Shape
    files: tuple[Path, ...]


def prepare(config: AssessConfig) -> Case:
    """Read what was given, before anything is written.

    Raises
    ------
    InputError
        Any of it cannot be used.
    """
    require_file(config.model_file, "Give a model: PDB or mmCIF.")
    if config.map_file is not None:
        require_file(config.map_file, "Give a map in MRC format in --map.")
    model = read_model(config.model_file)
    volume = None
    if config.map_file is not None:
        volume = read_map_of_molecule(config.map_file, config.voxel_size_in_angstroms)
    record = None if config.record is None else read_record(config.record)
    chain = () if record is None else chain_of(record)
    if chain:
        check_completeness(chain)
    causes = _causes_in(chain)
    if causes is not None:
        judge_settled(causes)
    for place in fitted_in(record, causes):
        require_posteriors(place, most_micrographs=config.perturbed_micrographs)
    if config.index is not None:
        require_index(config.index)
        if absence(require_faiss) is None:
            ShapeIndex.open(config.index)
    weights, shape = default_weights(), default_shape()
    if config.weights_file is not None:
        weights, shape = read_weights(config.weights_file)
    given = [config.map_file, None if record is None else record.folder / "job.json", file_in(causes, "causes.json")]
    given += [file_in(config.index, "index.json"), forecasts_file(config.forecasts)]
    given += [None if config.weights_file is None else weights_path(config.weights_file)]
    return Case(
        config=config,
        model=model,
        volume=volume,
        record=record,
        chain=chain,
        causes=causes,
        impact=forecast_impact(config.publication or _entry_of(model), config.forecasts),
        weights=weights,
        shape=shape,
        files=(config.model_file, *(path for path in given if path is not None)),
    )


def _causes_in(chain: Sequence[Record]) -> Path | None:
    """Return the nearest folder with a restoration's result; ``process`` keeps its own in a folder of its job's."""
    for record in chain:
        for place in (record.folder, record.folder / "Restore"):
            if (place / "causes.json").is_file():
                return place
    return None


def fitted_in(record: Record | None, causes: Path | None) -> tuple[Path, ...]:
    """Return the folders of the chain with posteriors: that of the record itself, and that of the restoration."""
    places = [None if record is None else record.folder, causes]
    found = [place for place in places if place is not None and any((place / name).is_file() for name in FITTED)]
    return tuple({place.resolve(): place for place in found}.values())


def _entry_of(model: Model) -> str | None:
    """Return the PDB entry that the model's file says it is."""
    told = [model.structure.info[key] for key in ("_entry.id",) if key in model.structure.info]
    for name in (*told, model.structure.name):
        if _ENTRY.fullmatch(name.strip()):
            return str(name.strip().upper())
    return None


def absence(require: Callable[[], object]) -> tuple[str, str] | None:
    """Return what is absent and how to get it; None where all is there."""
    try:
        require()
    except CryoPrismError as error:
        return f"{error.where}: {error.found}", error.remedy
    return None


def file_in(folder: Path | None, name: str) -> Path | None:
    """Return the file of this name in a folder; None where there is none."""
    return folder / name if folder is not None and (folder / name).is_file() else None


def forecasts_file(path: Path | None) -> Path | None:
    """Return the file with the forecasts that is meant by it or by its folder."""
    return path / "forecasts.sqlite" if path is not None and path.is_dir() else path
