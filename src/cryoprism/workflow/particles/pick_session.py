"""``cryoprism pick``: coordinates of every micrograph of a session, and one table of them all."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.image
import numpy as np
import torch

from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.formats import (
    Catalogue,
    CtfRecord,
    Locations,
    StarBlock,
    portable_name,
    read_image_info,
    read_star,
    write_coordinates,
    write_locations,
    write_micrographs_star,
    write_star,
)
from cryoprism.particles import (
    Calibration,
    LearnedPicker,
    Picks,
    at_least,
    load_picker,
    threshold_above_null,
    threshold_for_false_discoveries,
)
from cryoprism.workflow.jobs.files import atomic_path, fingerprint, output_stems
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.memory import plan_memory
from cryoprism.workflow.jobs.parallel import close_workers
from cryoprism.workflow.jobs.summary import MicrographsSummary
from cryoprism.workflow.jobs.unfinished import do_unfinished
from cryoprism.workflow.micrographs.reading import read_micrographs

from .configs import PickConfig
from .mask_files import artefact_labels_beside
from .picking import FLOOR, Candidates, PickTask, read_candidates, require_tools, score_micrograph
from .relion_coordinates import RELION_LIST, list_for_relion, write_for_relion
from .room import require_room

__all__ = ["PickSummary", "pick_session"]

log = logging.getLogger("cryoprism")

#: Even odds: the learned picker's figure of merit is the logarithm of the odds.
_LEARNED_THRESHOLD = 0.0
# Largest share of picks that a null may give too, in a session (five picks at the least, with the one that is always
# added to the null's) and on one micrograph (where a single sure particle counts as well).
_NULL_OF_SESSION, _NULL_OF_MICROGRAPH = 0.2, 0.5
# The smallest proteins that were ever picked measure about twice as much.
_SMALLEST = 20.0


@dataclass(frozen=True, kw_only=True)
class PickSummary(MicrographsSummary):
    """What ``pick_session`` returns.

    Attributes
    ----------
    micrographs, particles
        How many micrographs were read, and how many particles were picked on them.
    threshold
        Lowest figure of merit of a pick.
    how
        How the threshold came about, in a sentence.
    empty
        Names of micrographs without a pick.
    """

    particles: int
    threshold: float
    how: str
    empty: tuple[str, ...] = ()

    @property
    def star(self) -> Path:
        """The table of all picks."""
        return self.output / "particles.star"


def pick_session(config: PickConfig) -> PickSummary:
    """Run ``cryoprism pick``.

    Micrographs whose input gives no CTF get one by ``causes.estimate_causes``. Candidates are written first; the
    threshold is chosen over the whole session; then ``coordinates/NAME.star``, ``coordinates/NAME.box``,
    ``particles.star``, ``particles.cs``, ``micrographs.star`` and ``picks/NAME.png`` follow, and where RELION's own
    layout was asked for, ``coords_suffix_pick.star`` and what it stands for.

    The threshold: every micrograph is scored a second time with its Fourier phases replaced by random ones, which
    leaves its power (ice, Thon rings, crowding) and no particle in its place. The picks of these copies, less those
    that a better pick of the true micrograph would displace, are the false ones to be expected; the threshold is the
    lowest at which they are fewer than ``false_discovery_rate`` of all picks. The learned picker's threshold is the
    score of even odds, for the share of particles among the candidates that the session's own scores tell
    (``particles.calibration``), but higher, or none at all, where such copies give a fifth of the session's picks, or
    half of those of a micrograph; of weights without a calibration it is what they recommend, or 0.

    Raises
    ------
    InputError
        The input, a setting or the output folder cannot be used, or no micrograph can be read. A micrograph that
        cannot be read does not stop the others.
    """
    started = time.monotonic()
    catalogue = read_micrographs(config)
    if config.threshold is not None and config.threshold < FLOOR[config.method]:
        raise InputError(
            "--threshold",
            f"{config.threshold:g} is below {FLOOR[config.method]:g}, where noise alone fills a micrograph with picks",
            "Give a higher one, or leave it out to have it chosen.",
        )
    if config.reference is not None and not config.reference.is_file():
        raise InputError("--reference", f"{config.reference} does not exist", "Give a map or class averages in MRC.")
    require_tools(config)
    _require_room(config, catalogue)
    try:
        with open_job("Pick", config) as job:
            return _run(config, catalogue, job, started)
    finally:
        close_workers()


def _require_room(config: PickConfig, catalogue: Catalogue) -> None:
    """Refuse a particle that no micrograph has room for; wonder about one of a few ångströms."""
    diameter = config.diameter_in_angstroms
    require_room(catalogue, diameter)
    if diameter < _SMALLEST:
        warnings.warn(
            f"--diameter: {diameter:g} Å is less than any protein that can be seen. Diameters are in Å: if these are "
            f"nanometres, give {10 * diameter:g}",
            CryoPrismWarning,
            stacklevel=3,
        )


def _run(config: PickConfig, catalogue: Catalogue, job: Job, started: float) -> PickSummary:
    job.record_inputs(record.path for record in catalogue)
    records = catalogue.micrographs
    stems = dict(
        zip((record.name for record in records), output_stems([record.path for record in records]), strict=True)
    )
    folder = job.folder("candidates")
    tasks = [
        PickTask(
            record, catalogue.optics_of(record), config, _mask_of(config, record.name), folder / f"{record.name}.npz"
        )
        for record in records
    ]
    failed, skipped = _score_all(config, job, tasks)
    good = [task for task in tasks if task.record.name not in dict(failed)]
    if not good:
        raise InputError(config.inputs[0], f"none of {len(tasks)} micrographs could be used", failed[0][1])
    threshold, how = _threshold(config, [task.output for task in good])
    checked = _is_checked(config)
    log.info("%s", how)
    job.note("threshold", threshold if math.isfinite(threshold) else None)
    chosen: dict[str, tuple[Picks, Candidates]] = {}
    # What an earlier run laid out for RELION must not stay behind with the picks of another threshold.
    for_relion = config.relion_coordinates or (job.path / RELION_LIST).exists()
    for name in ("coordinates", *(("picks",) if config.pictures else ())):
        job.folder(name)
    for task in good:
        found = read_candidates(task.output)
        own = threshold
        if checked and math.isfinite(threshold):
            own = threshold_above_null(found.picks.figure_of_merit, found.null_scores, threshold, _NULL_OF_MICROGRAPH)
        picks = at_least(found.picks, own)
        _write_one(job.path, stems[task.record.name], task, picks, found)
        if for_relion:
            write_for_relion(job.path, portable_name(task.record.path), picks.coordinates())
        chosen[task.record.name] = picks, replace(found, picture=np.zeros((0, 0), np.uint8))
    _write_tables(job.path, catalogue, good, chosen)
    nodes = {"particles.star": 3, "micrographs.star": 1}
    if for_relion:
        list_for_relion(job.path)
        nodes[RELION_LIST] = 2
    job.write_relion_output_nodes(nodes)
    summary = PickSummary(
        output=job.path,
        micrographs=len(good),
        particles=sum(len(picks) for picks, _ in chosen.values()),
        threshold=threshold,
        how=how,
        empty=tuple(name for name, (picks, _) in chosen.items() if not len(picks)),
        skipped=skipped,
        failed=failed,
        seconds=time.monotonic() - started,
    )
    job.note("particles", summary.particles)
    return summary


def _mask_of(config: PickConfig, name: str) -> Path | None:
    if not config.use_masks:
        return None
    folder = config.masks_folder or Path(config.inputs[0]).parent / "masks"
    path = artefact_labels_beside(folder, name)
    if path is None and config.masks_folder is not None and not (folder / f"{name}.mrc").is_file():
        raise InputError(folder, f"holds no mask {name}.mrc", "Give the folder 'masks' that cryoprism restore wrote.")
    return path


def _score_all(config: PickConfig, job: Job, tasks: Sequence[PickTask]) -> tuple[tuple[tuple[str, str], ...], int]:
    limit = None if config.max_memory_in_gigabytes is None else int(config.max_memory_in_gigabytes * 1e9)
    plan = plan_memory(_largest(tasks), workers=config.workers, views=False, limit_in_bytes=limit)
    log.info("%s", plan)
    parts = [part for part in (config.reference, config.weights) if part is not None]
    shared = repr([fingerprint(part) for part in parts])
    stamps = {
        task.record.name: shared + repr((task.record.ctf, task.optics.pixel_size_in_angstroms, _changed(task.mask)))
        for task in tasks
    }
    return do_unfinished(
        job,
        "score",
        tasks,
        score_micrograph,
        title="Picking",
        source=lambda task: task.record.path,
        outputs=lambda task, _: [task.output],
        stamps=stamps,
        workers=plan.workers,
    )


def _changed(mask: Path | None) -> tuple[str, int] | None:
    return None if mask is None else (str(mask), mask.stat().st_mtime_ns)


def _largest(tasks: Sequence[PickTask]) -> tuple[int, int]:
    largest = (1024, 1024)
    for task in tasks:
        try:
            shape = read_image_info(task.record.path).shape
        except (InputError, OSError):  # said when the micrograph is picked, with its name
            continue
        if shape[-2] * shape[-1] > largest[0] * largest[1]:
            largest = (int(shape[-2]), int(shape[-1]))
    return largest


def _threshold(config: PickConfig, files: Sequence[Path]) -> tuple[float, str]:
    if config.threshold is not None:
        return config.threshold, f"Threshold {config.threshold:g}, as given."
    scores, null = [], []
    for file in files:
        found = read_candidates(file)
        scores.append(found.picks.figure_of_merit)
        null.append(found.null_scores)
    data, noise = torch.cat(scores), torch.cat(null)
    if config.method == "learned":
        return _learned_threshold(load_picker(config.weights), data, noise)
    threshold = threshold_for_false_discoveries(data, noise, config.false_discovery_rate)
    if not math.isfinite(threshold):
        return threshold, (
            f"No threshold keeps false picks below {100 * config.false_discovery_rate:g} %: the micrographs hold no "
            "more picks than noise of the same power. Check --diameter and the pixel size, or give --threshold."
        )
    count, false = int((data >= threshold).sum()), int((noise >= threshold).sum())
    return threshold, (
        f"Threshold {threshold:.2f} standard deviations: {count} picks, where copies of the micrographs with random "
        f"phases give {false} ({100 * false / max(count, 1):.1f} % expected to be false)."
    )


def _learned_threshold(picker: LearnedPicker, scores: torch.Tensor, null: torch.Tensor) -> tuple[float, str]:
    """Even odds for the share of particles among this session's candidates, or what the weights recommend."""
    if "calibration" not in picker.notes:
        threshold = float(picker.notes.get("threshold", _LEARNED_THRESHOLD))
        return threshold, f"Threshold {threshold:g} in log-odds, as the weights of the learned picker recommend."
    calibration = Calibration.from_text(picker.notes["calibration"])
    share = calibration.share_of(scores)
    even = calibration.threshold(share)
    threshold = threshold_above_null(scores, null, even, _NULL_OF_SESSION, surplus=1)
    if not math.isfinite(threshold):
        return threshold, (
            "No picks: copies of the micrographs with random phases hold as many candidates that score as high. Check "
            "--diameter and the pixel size, or give --threshold."
        )
    if threshold > even:
        return threshold, (
            f"Threshold {threshold:.2f}: from there on copies of the micrographs with random phases give no more than "
            f"{100 * _NULL_OF_SESSION:.0f} % of the picks."
        )
    return threshold, (
        f"Threshold {threshold:.2f}: from there on a pick is likelier right than wrong, if {100 * share:.0f} % of all "
        f"{len(scores)} candidates are particles, as their scores say."
    )


def _is_checked(config: PickConfig) -> bool:
    """Whether each micrograph's picks have to outnumber those of its own null: for odds that may be wrong there."""
    if config.method != "learned" or config.threshold is not None:
        return False
    return "calibration" in load_picker(config.weights).notes


def _write_one(folder: Path, stem: str, task: PickTask, picks: Picks, found: Candidates) -> None:
    config, pixel = task.config, task.optics.pixel_size_in_angstroms
    micrograph = portable_name(task.record.path)
    write_coordinates(folder / "coordinates" / f"{stem}.star", picks.coordinates(), micrograph=micrograph)
    if config.box_files:
        box = config.box_in_pixels or 2 * round(0.75 * config.diameter_in_angstroms / pixel)
        write_coordinates(folder / "coordinates" / f"{stem}.box", picks.coordinates(), box_in_pixels=box)
    if config.pictures and found.picture.size:
        drawn = _drawn(found.picture, picks, found.shape, config.diameter_in_angstroms / pixel)
        with atomic_path(folder / "picks" / f"{stem}.png") as temporary:
            matplotlib.image.imsave(temporary, drawn, format="png")


def _drawn(picture: np.ndarray, picks: Picks, shape: tuple[int, int], diameter_in_pixels: float) -> np.ndarray:
    """Picture (h, w, 3) with a ring around each pick, from orange (least sure) to green (surest)."""
    canvas = np.repeat(picture[..., None], 3, axis=2).astype(np.float32)
    scale = picture.shape[0] / shape[0]
    merit = picks.figure_of_merit.numpy()
    low, high = (float(merit.min()), float(np.quantile(merit, 0.8))) if len(merit) else (0.0, 1.0)
    sizes = (
        np.full(len(merit), diameter_in_pixels * scale)
        if picks.diameter_in_angstroms is None
        else picks.diameter_in_angstroms.numpy() * (diameter_in_pixels * scale) / _typical(picks)
    )
    width = max(1.2, 0.0013 * max(picture.shape))
    for (x, y), value, size in zip(picks.xy_in_pixels.numpy() * scale, merit, sizes, strict=True):
        radius = 0.5 * size
        reach = math.ceil(radius + width + 1)
        top, left = max(0, int(y) - reach), max(0, int(x) - reach)
        part = canvas[top : int(y) + reach + 1, left : int(x) + reach + 1]
        if not part.size:
            continue
        rows, columns = np.ogrid[: part.shape[0], : part.shape[1]]
        away = np.abs(np.hypot(rows + top - y, columns + left - x) - radius)
        cover = np.clip(0.5 + 0.5 * width - away, 0.0, 1.0)[..., None]
        sure = min(max((value - low) / max(high - low, 1e-6), 0.0), 1.0)
        part += cover * (np.array([255 * (1 - sure), 150 + 90 * sure, 30]) - part)
    return canvas.clip(0, 255).astype(np.uint8)


def _typical(picks: Picks) -> float:
    return float(picks.diameter_in_angstroms.double().median()) if picks.diameter_in_angstroms is not None else 1.0


_CTF_LABELS = {
    "rlnDefocusU": "defocus_u_in_angstroms",
    "rlnDefocusV": "defocus_v_in_angstroms",
    "rlnDefocusAngle": "defocus_angle_in_degrees",
    "rlnPhaseShift": "phase_shift_in_degrees",
    "rlnCtfBfactor": "b_factor_in_square_angstroms",
    "rlnCtfScalefactor": "scale_factor",
}


def _write_tables(
    folder: Path, catalogue: Catalogue, tasks: Sequence[PickTask], chosen: dict[str, tuple[Picks, Candidates]]
) -> None:
    """``micrographs.star`` with the CTF that was used, ``particles.star`` and ``particles.cs`` with all picks."""
    names = [task.record.name for task in tasks]
    ctfs = {name: chosen[name][1].ctf for name in names}
    known = all(ctf is not None for ctf in ctfs.values())
    columns = _ctf_columns([ctfs[name] for name in names]) if known else {}
    kept = replace(catalogue, micrographs=tuple(task.record for task in tasks))
    write_micrographs_star(folder / "micrographs.star", kept, columns)
    blocks = read_star(folder / "micrographs.star")
    optics = next(block for block in blocks if block.name == "optics")
    groups = next(block for block in blocks if block.name == "micrographs").column("rlnOpticsGroup")
    rows: dict[str, list[object]] = {}
    places = []

    def add(label: str, values: Sequence[object]) -> None:
        rows.setdefault(label, []).extend(values)

    for task, group in zip(tasks, groups, strict=True):
        name, path = task.record.name, portable_name(task.record.path)
        picks, found = chosen[name]
        count = len(picks)
        for label, column in zip(("rlnCoordinateX", "rlnCoordinateY"), picks.xy_in_pixels.T.tolist(), strict=True):
            add(label, [round(value, 4) for value in column])
        add("rlnAutopickFigureOfMerit", [round(value, 5) for value in picks.figure_of_merit.tolist()])
        if task.config.method == "template":
            angles = torch.zeros(0, 3) if picks.angles_in_degrees is None else picks.angles_in_degrees
            for label, column in zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T.tolist(), strict=True):
                add(label, [round(value, 4) for value in column])
        if known:
            for label, value in _ctf_columns([ctfs[name]]).items():
                add(label, list(value) * count)
        add("rlnMicrographName", [path] * count)
        add("rlnOpticsGroup", [group] * count)
        places.append(
            Locations(picks.xy_in_pixels, path, found.shape, picks.figure_of_merit, task.optics.pixel_size_in_angstroms)
        )
    total = sum(len(picks) for picks, _ in chosen.values())
    table = StarBlock("particles", (), tuple(() for _ in range(total))).with_columns(rows)
    write_star(folder / "particles.star", [optics, table])
    write_locations(folder / "particles.cs", places)


def _ctf_columns(ctfs: Sequence[CtfRecord | None]) -> dict[str, list[object]]:
    return {
        label: [getattr(ctf, attribute) for ctf in ctfs if ctf is not None] for label, attribute in _CTF_LABELS.items()
    }
