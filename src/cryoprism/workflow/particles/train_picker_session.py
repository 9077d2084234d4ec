"""The job of ``cryoprism train-picker``: train the learned picker on simulated micrographs, or adapt it to clicks."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import BeforeValidator, Field, model_validator

from cryoprism import __version__
from cryoprism.core import InputError, resolve_device
from cryoprism.formats import Catalogue, MicrographRecord, read_catalogue, read_coordinates, read_image
from cryoprism.particles.network import LearnedPicker, Transfer, load_picker, save_picker
from cryoprism.particles.training import (
    EXCLUDED,
    ClickedMicrograph,
    TrainedPicker,
    TrainingConfig,
    adapt,
    train_picker,
)
from cryoprism.workflow.jobs.config import JobConfig
from cryoprism.workflow.jobs.files import atomic_path, weights_card, write_text
from cryoprism.workflow.jobs.job import Job, open_job

__all__ = ["TrainPickerConfig", "TrainPickerSummary", "run_train_picker", "training_facts"]

log = logging.getLogger("cryoprism")


def _as_names(value: Any) -> Any:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value


class TrainPickerConfig(JobConfig):
    """Everything that decides what ``cryoprism train-picker`` does."""

    options: ClassVar[dict[str, str]] = {
        **JobConfig.options,
        "excluded": "--exclude",
        "fields": "--micrographs",
        "adapt_to": "--adapt",
        "diameter_in_angstroms": "--diameter",
        "weights": "--picker",
    }
    named_files: ClassVar[frozenset[str]] = frozenset({"adapt_to"})

    structures: Path | None = Field(None, description="Folder of PDB or mmCIF files; phantoms if absent.")
    excluded: Annotated[tuple[str, ...], BeforeValidator(_as_names)] = Field(
        EXCLUDED, description="Names of structure files that are not used, with commas between them."
    )
    fields: int = Field(700, ge=2, le=1_000_000, description="Micrographs to simulate.")
    steps: int | None = Field(None, ge=1, le=10_000_000, description="Steps of training; 2600, or 150 to adapt.")
    minutes: float | None = Field(None, gt=0, le=1e5, description="Longest time for the steps [min].")
    adapt_to: str | None = Field(None, description="Micrographs with clicks (STAR, .cs, folder): adapt, do not train.")
    coordinates: Path | None = Field(None, description="Clicks: a folder with one file a micrograph, or one file.")
    diameter_in_angstroms: float | None = Field(None, gt=0, le=1e5, description="Diameter of the particle [Å].")
    expected_count: float | None = Field(None, gt=0, le=1e6, description="Particles on a micrograph, roughly.")
    weights: Path | None = Field(None, description="Weights to adapt; those that ship with CryoPrism if absent.")

    @model_validator(mode="after")
    def _all_that_adaptation_needs(self) -> Self:
        needed = ("coordinates", "diameter_in_angstroms", "expected_count")
        for name in needed:
            if self.adapt_to is not None and getattr(self, name) is None:
                raise InputError(self.option(name), "is needed to adapt a picker", "Give it, or leave --adapt out.")
            if self.adapt_to is None and getattr(self, name) is not None:
                raise InputError(self.option(name), "serves adaptation only", "Give --adapt, or leave it out.")
        if self.adapt_to is None and self.weights is not None:
            raise InputError("--picker", "serves adaptation only", "Give --adapt, or leave it out.")
        return self

    @model_validator(mode="after")
    def _device_exists(self) -> Self:
        resolve_device(self.device)
        return self


@dataclass(frozen=True)
class TrainPickerSummary:
    """What came out.

    Attributes
    ----------
    weights, card
        Files that were written.
    sha256
        Of the weights.
    sentences
        For people.
    """

    weights: Path
    card: Path
    sha256: str
    sentences: tuple[str, ...]


def run_train_picker(config: TrainPickerConfig) -> TrainPickerSummary:
    """Train or adapt a picker in a job folder: ``picker.safetensors`` and its card ``picker.md``.

    Raises
    ------
    InputError
        No usable structures, no clicks, values that are missing or out of bounds.
    """
    if config.structures is not None and not config.structures.is_dir():
        raise InputError(
            "--structures",
            f"{config.structures} does not exist or is no folder",
            "Name a folder of PDB or mmCIF files, or leave it out to train on phantoms.",
        )
    with open_job("TrainPicker", config) as job, _threads(config.workers):
        picker, facts = _adapted(config, job) if config.adapt_to is not None else _trained(config, job)
        weights, card = job.path / "picker.safetensors", job.path / "picker.md"
        with atomic_path(weights) as temporary:
            digest = save_picker(temporary, picker)
        facts |= {"SHA-256 of the weights": digest, "CryoPrism": __version__}
        write_text(card, weights_card("Weights of the learned picker", facts))
        job.note("sha256", digest)
        (job.path / ".checkpoint.pt").unlink(missing_ok=True)
    kept = ("average precision in validation", "loss", "clicks")
    sentences = [f"{name}: {value}" for name, value in facts.items() if name in kept]
    return TrainPickerSummary(weights, card, digest, tuple(sentences))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trained(config: TrainPickerConfig, job: Job) -> tuple[LearnedPicker, dict[str, str]]:
    settings = TrainingConfig(
        structures=config.structures,
        excluded=config.excluded,
        fields=config.fields,
        steps=TrainingConfig.steps if config.steps is None else config.steps,
        minutes=config.minutes,
        seed=config.seed,
        device=config.device,
    )
    checkpoint = job.path / ".checkpoint.pt"
    if config.overwrite:
        checkpoint.unlink(missing_ok=True)
    trained = train_picker(settings, log.info, checkpoint)
    facts = training_facts(settings, trained)
    notes = {"trained_on": ",".join(trained.trained_on), "seed": str(config.seed), "steps": str(len(trained.losses))}
    if trained.validation is not None and math.isfinite(trained.validation.threshold):
        notes["threshold"] = f"{trained.validation.threshold:.3f}"
    if trained.calibration is not None:
        notes["calibration"] = trained.calibration.to_text()
    return replace(trained.picker, notes=MappingProxyType(notes)), facts


def training_facts(settings: TrainingConfig, trained: TrainedPicker) -> dict[str, str]:
    """Return what a card says of a training, in words."""
    tail = trained.losses[-100:]
    facts = {
        "task": "find particle centres; log-odds at every point of a micrograph",
        "data": f"{settings.fields} simulated micrographs, no real one",
        "trained on": ", ".join(trained.trained_on),
        "validated on": ", ".join(trained.validated_on) or "nothing",
        "excluded": ", ".join(settings.excluded) if settings.structures is not None else "the phantom shell",
        "seed": str(settings.seed),
        "steps": f"{len(trained.losses)} of {settings.steps}, {settings.batch} patches of {settings.patch}² each",
        "loss": f"{sum(tail) / len(tail):.4f} over the last {len(tail)} steps",
        "seconds of training": f"{trained.seconds:.0f}",
    }
    if trained.validation is not None:
        v = trained.validation
        facts["average precision in validation"] = f"{v.average_precision:.3f} (best F1 {v.f1:.3f}), simulated"
        facts["threshold of the best F1 in validation"] = f"{v.threshold:.3f}"
    if trained.calibration is not None:
        c = trained.calibration
        facts["calibration in validation"] = (
            f"log-odds {c.slope:.2f} × score {c.offset:+.2f}, {100 * c.share:.0f} % of the candidates right"
        )
    return facts


def _adapted(config: TrainPickerConfig, job: Job) -> tuple[LearnedPicker, dict[str, str]]:
    diameter, expected = config.diameter_in_angstroms, config.expected_count
    if config.adapt_to is None or config.coordinates is None or diameter is None or expected is None:
        raise InputError("--adapt", "is not complete", "Give --coordinates, --diameter and --expected-count with it.")
    catalogue = read_catalogue(config.adapt_to)
    job.record_inputs([record.path for record in catalogue])
    clicked = [c for c in (_clicked(catalogue, record, config.coordinates) for record in catalogue) if c is not None]
    count = sum(len(c.clicks) for c in clicked)
    log.info("%d clicks on %d micrographs", count, len(clicked))
    start = load_picker(config.weights, device=config.device)
    picker = adapt(
        start,
        clicked,
        diameter_in_angstroms=diameter,
        expected_count=expected,
        seed=config.seed,
        **({} if config.steps is None else {"steps": config.steps}),
    )
    facts = {
        "task": "find particle centres, adapted to clicks",
        "start": "the shipped weights" if config.weights is None else str(config.weights.name),
        "clicks": f"{count} on {len(clicked)} micrographs",
        "diameter": f"{diameter:g} Å",
        "expected particles on a micrograph": f"{expected:g}",
        "seed": str(config.seed),
    }
    return picker, facts


def _clicked(catalogue: Catalogue, record: MicrographRecord, source: Path) -> ClickedMicrograph | None:
    """Join a micrograph with its clicks; None where it has none."""
    stem = Path(record.path.name).stem
    file = source
    if source.is_dir():
        found = sorted(f for f in source.glob(f"{stem}*") if f.suffix in {".star", ".box", ".cs"})
        exact = [f for f in found if f.stem == stem]
        if not found:
            return None
        file = (exact or found)[0]
    try:
        clicks = read_coordinates(file, micrograph=stem).xy_in_pixels
    except InputError as error:
        if source.is_dir() or "no coordinates of micrograph" not in error.found:
            raise
        return None
    optics = catalogue.optics_of(record)
    return ClickedMicrograph(
        image=read_image(record.path).data,
        pixel_size_in_angstroms=optics.pixel_size_in_angstroms,
        clicks=clicks,
        transfer=None if record.ctf is None else Transfer.from_records(optics, record.ctf),
    )
