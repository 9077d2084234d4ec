"""``cryoprism extract``: particles out of every micrograph of a session, and one table of them all."""

from __future__ import annotations

import hashlib
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoprism.core import CryoPrismWarning, InputError, generator_for
from cryoprism.formats import (
    Catalogue,
    Coordinates,
    MicrographRecord,
    OpticsGroup,
    read_image,
    read_image_info,
    write_particles,
    write_stack,
)
from cryoprism.particles import (
    extract_particles,
    find_duplicates,
    junk_features,
    local_defocus,
    masked_fraction,
)
from cryoprism.restoration import find_defects, replace_defects
from cryoprism.workflow.jobs.job import Job, open_job
from cryoprism.workflow.jobs.memory import plan_memory
from cryoprism.workflow.jobs.parallel import close_workers
from cryoprism.workflow.jobs.summary import MicrographsSummary
from cryoprism.workflow.jobs.unfinished import do_unfinished
from cryoprism.workflow.micrographs.reading import read_micrographs

from .configs import ExtractConfig
from .coordinates import session_coordinates
from .extract_table import particles_table
from .mask_files import artefact_labels_beside
from .room import require_box
from .selection import choose_micrographs, note_left_out

__all__ = ["ExtractSummary", "extract_session"]

log = logging.getLogger("cryoprism")

_CLEANED = "cryoprismCleanedMicrographName"
_RESTORED = "cryoprismFlags"


@dataclass(frozen=True, kw_only=True)
class ExtractSummary(MicrographsSummary):
    """What ``extract_session`` returns.

    Attributes
    ----------
    micrographs, particles
        How many micrographs have coordinates, and how many particles are in ``particles.star``.
    at_edge, duplicates, without_contrast
        How many coordinates were left out, and why.
    without_coordinates
        Names of micrographs for which no coordinates were given.
    left_out
        Micrographs that do not keep the limits, each with the reason.
    pixel_size_in_angstroms
        Of the images (of the first particle).
    """

    particles: int
    at_edge: int = 0
    duplicates: int = 0
    without_contrast: int = 0
    without_coordinates: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    pixel_size_in_angstroms: float = 0.0

    @property
    def star(self) -> Path:
        """The table of the particles."""
        return self.output / "particles.star"


@dataclass(frozen=True)
class _Task:
    record: MicrographRecord
    optics: OpticsGroup
    coordinates: Coordinates
    config: ExtractConfig
    folder: Path
    image: Path
    mask: Path | None

    @property
    def stack(self) -> Path:
        return self.folder / "particles" / f"{self.record.name}.mrcs"

    def stamp(self) -> str:
        """Hash of what decides the result beside the configuration and the image."""
        digest = hashlib.sha256(self.coordinates.xy_in_pixels.numpy().tobytes())
        if self.coordinates.score is not None:
            digest.update(self.coordinates.score.numpy().tobytes())
        if self.coordinates.columns:
            digest.update(repr(sorted(self.coordinates.columns.items())).encode())
        mask = None if self.mask is None else (str(self.mask), self.mask.stat().st_mtime_ns)
        digest.update(
            repr((self.record.ctf, dict(self.record.extra), self.optics.pixel_size_in_angstroms, mask)).encode()
        )
        return digest.hexdigest()[:16]


def extract_session(config: ExtractConfig) -> ExtractSummary:
    """Run ``cryoprism extract``: from micrographs and coordinates to ``particles/*.mrcs`` and ``particles.star``.

    The defocus of a particle is that of its micrograph, plus the tilt of the field where ``cryoprism restore`` found
    one. Bad pixels are mended, unless the input comes from ``cryoprism restore``, whose cleaned images are used.

    Raises
    ------
    InputError
        The input, the coordinates, a setting or the output folder cannot be used, or no particle is left. A micrograph
        that cannot be read does not stop the others.
    """
    started = time.monotonic()
    catalogue = read_micrographs(config)
    require_box(config, catalogue)
    coordinates = session_coordinates(config.coordinates, catalogue.micrographs)
    left_out = choose_micrographs(config, Path(config.inputs[0]))
    kept = tuple(record for record in catalogue if record.name not in left_out)
    catalogue = replace(catalogue, micrographs=kept)
    try:
        with open_job("Extract", config) as job:
            note_left_out(job, left_out)
            return replace(_run(config, catalogue, coordinates, job, started), left_out=left_out)
    finally:
        close_workers()


def _warn_of_coordinates_outside(
    config: ExtractConfig, tasks: Sequence[_Task], results: Sequence[Mapping[str, Any]]
) -> None:
    outside = sum(result.get("outside", 0) for result in results)
    if outside:
        first = next(task.record for task, result in zip(tasks, results, strict=True) if result.get("outside", 0))
        warnings.warn(
            f"{config.coordinates}: {outside} of {sum(result['given'] for result in results)} coordinates lie outside "
            f"their micrographs, such as {first.path}. They are left out; were they picked on these micrographs, at "
            "this binning?",
            CryoPrismWarning,
            stacklevel=3,
        )


def _run(
    config: ExtractConfig, catalogue: Catalogue, coordinates: Mapping[str, Coordinates], job: Job, started: float
) -> ExtractSummary:
    job.record_inputs(record.path for record in catalogue)
    records = [record for record in catalogue if record.name in coordinates]
    without = tuple(record.name for record in catalogue if record.name not in coordinates)
    if without:
        log.info("No coordinates for %d of %d micrographs, such as %s", len(without), len(catalogue), without[0])
    if not all(record.ctf for record in records):
        warnings.warn(
            f"{catalogue.source}: gives no defocus, so the particles get none and cannot be refined. "
            "Run 'cryoprism restore' first and give its micrographs.star",
            CryoPrismWarning,
            stacklevel=2,
        )
    limit = None if config.max_memory_in_gigabytes is None else int(config.max_memory_in_gigabytes * 1e9)
    plan = plan_memory(_largest(records), workers=config.workers, views=False, limit_in_bytes=limit)
    log.info("%s", plan)
    folder = job.folder("particles").parent
    masks = config.masks_folder or Path(config.inputs[0]).parent / "masks"
    tasks = [
        _Task(
            record,
            catalogue.optics_of(record),
            coordinates[record.name],
            config,
            folder,
            _image_of(record, catalogue),
            artefact_labels_beside(masks, record.name),
        )
        for record in records
    ]
    stamps = {task.record.name: task.stamp() for task in tasks}
    failed, skipped = do_unfinished(
        job,
        "extract",
        tasks,
        _extract,
        title="Extracting particles",
        source=lambda task: task.image,
        outputs=lambda task, result: [task.stack] if result["x"] else [],
        stamps=stamps,
        workers=plan.workers,
    )
    done = [task for task in tasks if task.record.name not in dict(failed)]
    results = [job.done_result(task.record.name, stage="extract") for task in done]
    _warn_of_coordinates_outside(config, done, results)
    if not any(result["x"] for result in results):
        counts = {key: sum(result[key] for result in results) for key in ("at_edge", "duplicates", "without_contrast")}
        raise InputError(
            config.coordinates if results else config.inputs[0],
            f"no particle is left ({counts['at_edge']} at edges, {counts['duplicates']} duplicates, "
            f"{counts['without_contrast']} without contrast, {len(failed)} micrographs that cannot be used)",
            failed[0][1] if failed else "Take a smaller --box or --edge, and check that coordinates are in pixels.",
        )
    particles, columns = particles_table(
        catalogue, config, [task.record for task in done], [task.stack for task in done], results
    )
    write_particles(job.path / "particles.star", particles, extra_columns=columns)
    job.write_relion_output_nodes({"particles.star": 3})
    summary = ExtractSummary(
        output=job.path,
        micrographs=len(records),
        particles=len(particles),
        at_edge=sum(result["at_edge"] for result in results),
        duplicates=sum(result["duplicates"] for result in results),
        without_contrast=sum(result["without_contrast"] for result in results),
        without_coordinates=without,
        skipped=skipped,
        failed=failed,
        pixel_size_in_angstroms=float(particles.pixel_size_in_angstroms[0]),
        seconds=time.monotonic() - started,
    )
    job.note("particles", summary.particles)
    return summary


def _largest(records: Sequence[MicrographRecord]) -> tuple[int, int]:
    largest = (1024, 1024)
    for record in records:
        try:
            shape = read_image_info(record.path).shape
        except InputError:  # said by the extraction, with the micrograph's name
            continue
        if shape[0] * shape[1] > largest[0] * largest[1]:
            largest = (int(shape[0]), int(shape[1]))
    return largest


def _image_of(record: MicrographRecord, catalogue: Catalogue) -> Path:
    """Return the micrograph whose bad pixels are mended, where a restoration wrote one."""
    name = record.extra.get(_CLEANED, "None")
    if name == "None":
        return record.path
    path = Path(name)
    beside = Path(catalogue.source).parent / path
    return beside if not path.is_absolute() and beside.is_file() else path


def _extract(task: _Task) -> dict[str, Any]:
    """Cut the particles of one micrograph, write their stack, and return what the table says of them."""
    config, record, pixel = task.config, task.record, task.optics.pixel_size_in_angstroms
    if record.is_movie:
        raise InputError(record.path, "is a movie", "Sum it first: 'cryoprism restore' writes averages/.")
    image = read_image(task.image).data
    if _RESTORED not in record.extra:
        defects = find_defects(image)
        if bool(defects.mask.any()):
            image = replace_defects(image, defects.mask, generator_for(config.seed, "defects", record.name))
    xy, score = task.coordinates.xy_in_pixels, task.coordinates.score
    outside = _count_outside(xy, image)
    if outside and 2 * outside >= len(xy):
        raise InputError(
            record.path,
            f"{outside} of {len(xy)} coordinates lie outside its {image.shape[1]} x {image.shape[0]} pixels",
            "They were picked on another micrograph, or at another binning: give the micrographs that were picked.",
        )
    twice = find_duplicates(xy * pixel, config.min_distance_in_angstroms, figure_of_merit=score)
    xy = xy[~twice]
    cut = extract_particles(
        image,
        xy,
        box_in_pixels=config.box_in_pixels,
        pixel_size_in_angstroms=pixel,
        output_box=config.scaled_box_in_pixels,
        edge_in_pixels=None if config.edge_in_angstroms is None else config.edge_in_angstroms / pixel,
        background_diameter_in_angstroms=config.diameter_in_angstroms,
        invert=config.invert,
        normalise=config.normalise,
        dust_in_deviations=config.dust_in_deviations,
        generator=generator_for(config.seed, "dust", record.name),
    )
    shape = (int(image.shape[0]), int(image.shape[1]))
    result: dict[str, Any] = {
        "outside": outside,
        "given": len(xy) + int(twice.sum()),
        "at_edge": cut.at_edge,
        "without_contrast": cut.without_contrast,
        "duplicates": int(twice.sum()),
        "pixel_size_in_angstroms": cut.pixel_size_in_angstroms,
    }
    for key, column in zip("xy", cut.centres_in_pixels.T.tolist(), strict=True):
        result[key] = column
    # A JSON number keeps a double, but -0 would look like a mistake in the table.
    result["origin_x"], result["origin_y"] = (cut.origins_in_angstroms + 0.0).T.tolist()
    result["score"] = None if score is None else score[~twice][cut.kept].tolist()
    kept = xy[cut.kept]
    rows = torch.nonzero(~twice)[:, 0][cut.kept].tolist()
    columns = task.coordinates.columns
    result["columns"] = {label: [values[row] for row in rows] for label, values in columns.items()}
    if record.ctf is not None:
        base = torch.tensor(
            [record.ctf.defocus_u_in_angstroms, record.ctf.defocus_v_in_angstroms, record.ctf.defocus_angle_in_degrees],
            dtype=torch.float64,
        )
        result["defocus"] = local_defocus(base, _gradient(record), kept, shape, pixel).tolist()
    if task.mask is not None:
        diameter = (config.diameter_in_angstroms or 0.75 * config.box_in_pixels * pixel) / pixel
        result["masked"] = masked_fraction(read_image(task.mask).data, kept, shape, diameter).tolist()
    if len(cut):
        result["features"] = junk_features(cut.images).tolist()
        write_stack(task.stack, cut.images, cut.pixel_size_in_angstroms)
    else:
        task.stack.unlink(missing_ok=True)
    return result


def _count_outside(xy: Tensor, image: Tensor) -> int:
    far = torch.tensor([image.shape[1], image.shape[0]], dtype=xy.dtype)
    return int(((xy < -0.5) | (xy > far - 0.5)).any(1).sum())


def _gradient(record: MicrographRecord) -> tuple[float, float]:
    """Change of the defocus over the field [Å per Å] as (y, x); zero where no tilt was found."""
    y, x = (record.extra.get(f"cryoprismDefocusGradient{axis}", "0") for axis in "YX")
    try:
        return float(y), float(x)
    except ValueError:
        raise InputError(record.path, f"cryoprismDefocusGradient is '{y}', '{x}'", "Write numbers there.") from None
