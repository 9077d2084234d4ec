"""Real micrographs to match: mended, their causes estimated, picked with the specimen's own views."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.causes import Estimate
from cryoprism.core import CryoPrismWarning, InputError, generator_for
from cryoprism.formats import (
    Catalogue,
    MicrographRecord,
    OpticsGroup,
    Volume,
    read_catalogue,
    write_map,
    write_micrographs_star,
)
from cryoprism.particles import find_duplicates
from cryoprism.restoration import LABELS, replace_defects
from cryoprism.synthesis import ArtefactMasks, Exemplar, Population, specimen_volume
from cryoprism.workflow.jobs.config import RestoreConfig
from cryoprism.workflow.jobs.job import Job
from cryoprism.workflow.jobs.parallel import Failure, map_items
from cryoprism.workflow.jobs.progress import progress
from cryoprism.workflow.micrographs.analysis import Task, analyse, load_micrograph
from cryoprism.workflow.particles.configs import PickConfig
from cryoprism.workflow.particles.coordinates import session_coordinates
from cryoprism.workflow.particles.pick_session import pick_session

from .configs import SynthesizeConfig

__all__ = ["exemplars_of", "read_picks", "require_one_session", "require_picks"]

_TWICE_IN_ANGSTROMS = 20.0
_FEWEST_TO_DIVIDE = 6  # with fewer, all are needed for the match
_MOST_APART = 6


@dataclass(frozen=True)
class _Looked:
    """A real micrograph and what one look at it told."""

    image: Tensor
    estimate: Estimate
    ordinary: Tensor
    artefacts: ArtefactMasks


def require_one_session(config: SynthesizeConfig) -> tuple[Catalogue, float]:
    """Read the catalogue of real micrographs; they must have one pixel size [Å].

    Raises
    ------
    InputError
        There are none, their pixel sizes differ, or the table counts overfocus as positive.
    """
    source = config.match[0] if len(config.match) == 1 else list(config.match)
    catalogue = read_catalogue(
        source,
        pixel_size_in_angstroms=config.pixel_size_in_angstroms,
        voltage_in_kilovolts=config.voltage_in_kilovolts,
        spherical_aberration_in_millimeters=config.spherical_aberration_in_millimeters,
        amplitude_contrast=config.amplitude_contrast,
    )
    if not len(catalogue):
        raise InputError("--match", f"{config.match[0]} names no micrographs", "Give at least one real micrograph.")
    sizes = sorted({catalogue.optics_of(record).pixel_size_in_angstroms for record in catalogue})
    if sizes[-1] - sizes[0] > 1e-4 * sizes[0]:
        listed = ", ".join(f"{size:g}" for size in sizes)
        raise InputError(
            "--match",
            f"the micrographs have pixel sizes of {listed} Å",
            "Match one session at a time: give micrographs of one pixel size.",
        )
    for record in catalogue:
        if record.ctf is not None and record.ctf.defocus_u_in_angstroms + record.ctf.defocus_v_in_angstroms < 0:
            raise InputError(
                "--match",
                f"{record.name} has a defocus of {record.ctf.defocus_u_in_angstroms:g} Å, which is overfocus "
                "(underfocus is positive)",
                "Change the sign in the table; EMAN, Bsoft and Frealign's older files count the other way.",
            )
    return catalogue, sizes[0]


def require_picks(config: SynthesizeConfig, catalogue: Catalogue) -> None:
    """Raise an error where ``--coordinates`` cannot be read or are those of other micrographs."""
    if config.coordinates is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said where they are used
            session_coordinates(config.coordinates, catalogue.micrographs)


def exemplars_of(
    config: SynthesizeConfig,
    catalogue: Catalogue,
    pixel: float,
    population: Population,
    job: Job,
    known: Sequence[str] = (),
) -> tuple[list[Exemplar], list[Exemplar]]:
    """Look at the real micrographs: those to match, with their particles, and those kept apart to judge the result.

    Where an earlier run has matched some already (``known``), these come back without their particles, and what is
    kept apart is none of them.

    Raises
    ------
    InputError
        None can be used, or coordinates are missing.
    """
    chosen, apart = _divided(config, list(catalogue.micrographs), known)
    records = [*chosen, *apart]
    settings = RestoreConfig(inputs=config.match, seed=config.seed)
    tasks = [Task(record, catalogue.optics_of(record), settings, None) for record in records]
    looked: dict[str, _Looked] = {}
    with progress("Looking at real micrographs", len(tasks)) as step:
        names = [record.name for record in records]
        results = map_items(_look, tasks, config.workers, names=names, keep_going=True, on_result=step)
        for record, result in zip(records, results, strict=True):
            if isinstance(result, Failure):
                warnings.warn(CryoPrismWarning(f"{record.name} is left out: {result.error}"), stacklevel=2)
            else:
                looked[record.name] = result
    if not looked:
        raise InputError("--match", f"none of {len(records)} micrographs could be used", "See the errors above.")
    usable = [record for record in chosen if record.name in looked]
    if not usable:
        raise InputError("--match", "none of the micrographs to match could be used", "See the errors above.")
    none = torch.zeros(0, 2, dtype=torch.float64)
    if known:
        picks = dict.fromkeys(known, none)
    else:
        picks = _picks(config, usable, catalogue, pixel, population, job)
    unknown = [record.name for record in usable if record.name not in picks]
    if unknown:
        # Not to be taken for empty ones: their density is not known, nor what of them is noise.
        more = f" and {len(unknown) - 1} more" if unknown[1:] else ""
        warnings.warn(CryoPrismWarning(f"{unknown[0]}{more} is not matched: without coordinates"), stacklevel=2)
        usable = [record for record in usable if record.name in picks]
    if not usable:
        raise InputError("--coordinates", "none of the micrographs to match has any", "Give picks of these.")

    def exemplar(record: MicrographRecord, xy: Tensor) -> Exemplar:
        seen = looked[record.name]
        return Exemplar(
            name=record.name,
            image=seen.image,
            estimate=seen.estimate,
            xy_in_pixels=xy,
            weight=seen.ordinary,
            artefacts=seen.artefacts,
        )

    judges = [exemplar(record, none) for record in apart if record.name in looked]
    return [exemplar(record, picks[record.name]) for record in usable], judges


def _divided(
    config: SynthesizeConfig, records: list[MicrographRecord], known: Sequence[str]
) -> tuple[list[MicrographRecord], list[MicrographRecord]]:
    """Micrographs to match and micrographs to keep apart, both evenly over the session: it drifts in time."""
    apart = records[2::3] if config.realism and len(records) >= _FEWEST_TO_DIVIDE else []
    if known:
        others = [r for r in apart if r.name not in known]
        return [r for r in records if r.name in known], _evenly(others, _MOST_APART)
    return _evenly([r for r in records if r not in apart], config.exemplars), _evenly(apart, _MOST_APART)


def _evenly(records: list[MicrographRecord], most: int) -> list[MicrographRecord]:
    if len(records) <= most:
        return records
    return [records[round(i * (len(records) - 1) / max(1, most - 1))] for i in range(most)]


def _look(task: Task) -> _Looked:
    image = load_micrograph(task)
    found = analyse(task)
    defects = found.all_defects().mask
    if bool(defects.any()):
        image = replace_defects(image, defects, generator_for(task.config.seed, "defects", task.record.name))
    labels = found.artefacts.full_labels()
    foreign = (labels == LABELS["contamination"]) | (labels == LABELS["carbon"])
    coarse = found.artefacts.labels
    seen = ArtefactMasks(coarse == LABELS["contamination"], coarse == LABELS["carbon"])
    return _Looked(image, found.estimate, 1.0 - foreign.float(), seen)


def _picks(
    config: SynthesizeConfig,
    records: list[MicrographRecord],
    catalogue: Catalogue,
    pixel: float,
    population: Population,
    job: Job,
) -> dict[str, Tensor]:
    if config.coordinates is not None:
        return read_picks(config.coordinates, records, catalogue)
    folder = job.folder("match")
    reference = folder / "reference.mrc"
    largest = max(
        (c for one in population.species for c in one.conformations), key=lambda specimen: specimen.radius_in_angstroms
    )
    write_map(reference, Volume(specimen_volume(largest, pixel), pixel))
    inputs, lens = tuple(str(record.path) for record in records), _lens(catalogue.optics_of(records[0]))
    if any(_lens(catalogue.optics_of(record)) != lens for record in records):
        # Each micrograph is picked through its own lens; its CTF is estimated as that of every other.
        table = folder / "real.star"
        plain = tuple(MicrographRecord(r.name, r.path, r.optics_group, is_movie=r.is_movie) for r in records)
        write_micrographs_star(table, replace(catalogue, micrographs=plain, extra_blocks=()))
        inputs, lens = (str(table),), {}
    settings = PickConfig(
        inputs=inputs,
        output=folder / "picks",
        overwrite=True,
        method="template",
        reference=reference,
        symmetry=largest.symmetry,
        diameter_in_angstroms=config.diameter_in_angstroms or 2 * population.radius_in_angstroms,
        pictures=False,
        workers=config.workers,
        seed=config.seed,
        **lens,
    )
    pick_session(settings)
    # Where the picker found nothing there is nothing.
    none = {record.name: torch.zeros(0, 2, dtype=torch.float64) for record in records}
    alone = replace(catalogue, micrographs=tuple(records))
    return none | read_picks(folder / "picks" / "coordinates", records, alone)


def read_picks(source: Path, records: Sequence[MicrographRecord], catalogue: Catalogue) -> dict[str, Tensor]:
    """Coordinates (n, 2) [px] of each micrograph that has some, without those that mark a particle twice."""
    # Those that are kept apart or left out may have some too.
    found = session_coordinates(source, catalogue.micrographs)
    picks = {}
    for record in records:
        if record.name not in found:
            continue
        xy = found[record.name].xy_in_pixels
        twice = find_duplicates(xy * catalogue.optics_of(record).pixel_size_in_angstroms, _TWICE_IN_ANGSTROMS)
        picks[record.name] = xy[~twice]
    return picks


def _lens(optics: OpticsGroup) -> dict[str, float]:
    return {
        "pixel_size_in_angstroms": optics.pixel_size_in_angstroms,
        "voltage_in_kilovolts": optics.voltage_in_kilovolts,
        "spherical_aberration_in_millimeters": optics.spherical_aberration_in_millimeters,
        "amplitude_contrast": optics.amplitude_contrast,
    }
