"""One micrograph through the session, inside worker processes: read and analyse it, later restore and write it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoprism.causes import (
    Circumstances,
    Estimate,
    SearchRange,
    estimate_causes,
    fitted_spectrum,
    measure_spectrum,
)
from cryoprism.core import InputError, generator_for
from cryoprism.formats import MicrographRecord, OpticsGroup, read_image, read_mtf, sum_movie, write_mrc
from cryoprism.microscope.optics import Lens
from cryoprism.restoration import (
    LABELS,
    ArtefactMask,
    Defects,
    GainResidue,
    artefact_mask,
    find_defects,
    replace_defects,
    restore_view,
    restore_view_in_tiles,
)
from cryoprism.workflow.jobs.config import RestoreConfig
from cryoprism.workflow.jobs.files import atomic_path

from .panels import make_panel

__all__ = ["Analysis", "RestoreTask", "Task", "analyse", "load_micrograph", "restore"]

#: Above this share of bad pixels they count as an area that is left out, not as pixels to mend.
_BLANK_SHARE = 0.02
#: Folders of the output contract, and what each holds.
PRODUCTS = ("views", "residuals", "deviations", "masks")


@dataclass(frozen=True)
class Task:
    """What a worker needs to analyse one micrograph."""

    record: MicrographRecord
    optics: OpticsGroup
    config: RestoreConfig
    gain_residue: Path | None


@dataclass(frozen=True)
class Analysis:
    """What came out of one micrograph before the session was looked at as a whole.

    ``bad_pixels`` are flat indices; ``spectrum_picture`` is the observed half plane as bytes for the report.
    """

    name: str
    estimate: Estimate
    defects: Defects
    bad_pixels: Tensor
    artefacts: ArtefactMask
    spectrum_picture: np.ndarray

    def all_defects(self) -> Defects:
        """Defects with their mask, which travels between processes as a list of indices."""
        mask = torch.zeros(self.estimate.spectrum.shape, dtype=torch.bool)
        mask.view(-1)[self.bad_pixels] = True
        return replace(self.defects, mask=mask)


@dataclass(frozen=True)
class RestoreTask:
    """What a worker needs to restore and write one micrograph."""

    task: Task
    analysis: Analysis
    folder: Path
    tile: tuple[int, int] | None = None


def _gain_residue(path: Path) -> GainResidue:
    return _read_gain_residue(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read_gain_residue(path: Path, changed: int) -> GainResidue:
    pattern = read_image(path).data
    return GainResidue(
        kind="multiplicative" if path.stem.endswith("multiplicative") else "additive",
        pattern=pattern,
        significance={},
        deviation={},
        micrographs=0,
    )


def load_micrograph(task: Task, *, corrected: bool = True) -> Tensor:
    """Read a micrograph, or sum a movie with its gain, and divide out the session's gain residue."""
    record, config = task.record, task.config
    if record.is_movie:
        image = sum_movie(record.path, gain=config.gain_file or record.gain_file).data
    else:
        image = read_image(record.path).data
    if image.ndim != 2:
        raise InputError(record.path, f"has shape {tuple(image.shape)}", "Give single micrographs or movies.")
    if corrected and task.gain_residue is not None:
        residue = _gain_residue(task.gain_residue)
        if residue.pattern is not None and residue.pattern.shape == image.shape:
            image = residue.correct(image)
    return image


def analyse(task: Task) -> Analysis:
    """Read one micrograph, find what must be left out, measure its spectrum and estimate its causes."""
    config, optics = task.config, task.optics
    pixel = optics.pixel_size_in_angstroms
    image = load_micrograph(task)
    defects = find_defects(image)
    bad = torch.from_numpy(np.flatnonzero(defects.mask.numpy()))
    raw_variance = float(image.var()) if bad.numel() else 0.0
    clean = image
    if bad.numel():
        clean = replace_defects(image, defects.mask, generator_for(config.seed, "defects", task.record.name))
    artefacts = artefact_mask(clean, pixel)
    # Contamination and carbon have Thon rings of their own; crystals stay in, since their rings are evidence.
    foreign = (artefacts.labels == LABELS["contamination"]) | (artefacts.labels == LABELS["carbon"])
    valid = None
    if bool(foreign.any()) and float(foreign.float().mean()) < 0.8:
        whole = artefacts.full_labels()
        valid = ((whole != LABELS["contamination"]) & (whole != LABELS["carbon"])).numpy()
    if bad.numel() > _BLANK_SHARE * image.numel():
        # A blank border or half is no specimen: its filled-in noise must not enter the spectrum.
        seen = ~defects.mask.numpy()
        valid = seen if valid is None else valid & seen
    spectrum = measure_spectrum(
        clean,
        pixel,
        low_in_angstroms=config.coarsest_resolution_in_angstroms,
        high_in_angstroms=config.finest_resolution_in_angstroms or 2.5,
        valid=valid,
        workers=torch.get_num_threads(),
    )
    known = _circumstances(task, clean, valid, spectrum.power, artefacts)
    if bad.numel():
        added = max(raw_variance - float(clean.var()), 0.0)
        known = replace(known, defect_power_share=added / float(spectrum.power[-16:].mean()))
    search = SearchRange(
        minimum_defocus_in_angstroms=config.lowest_defocus_in_angstroms,
        maximum_defocus_in_angstroms=config.highest_defocus_in_angstroms,
        phase_plate=config.phase_plate,
    )
    lens = Lens(
        voltage_in_kilovolts=optics.voltage_in_kilovolts,
        spherical_aberration_in_millimeters=optics.spherical_aberration_in_millimeters,
        amplitude_contrast=optics.amplitude_contrast,
    )
    estimate = estimate_causes(spectrum, lens, known, search=search)
    picture = _log_bytes(spectrum.plane)
    slim = replace(estimate, spectrum=replace(spectrum, plane=np.zeros((0, 0), dtype=np.float32)))
    return Analysis(
        name=task.record.name,
        estimate=slim,
        defects=replace(defects, mask=torch.zeros(0, 0, dtype=torch.bool)),
        bad_pixels=bad,
        artefacts=artefacts,
        spectrum_picture=picture,
    )


def _circumstances(
    task: Task, image: Tensor, valid: np.ndarray | None, power: Tensor, artefacts: ArtefactMask
) -> Circumstances:
    config, record = task.config, task.record
    exposure = config.exposure_in_electrons_per_square_angstrom or record.exposure_in_electrons_per_square_angstrom
    # Contamination and carbon are darker than ice: they must not pass for thickness.
    mean = float(image.mean()) if valid is None else float(image[torch.from_numpy(valid)].mean())
    counts = mean > 0 and float(image.min()) >= 0 and 0.3 < float(power[-16:].mean()) / mean < 3.0
    incident = config.incident_intensity or _column(record, "cryoprismIncidentIntensity")
    if incident is None and exposure is not None and counts:
        incident = exposure * task.optics.pixel_size_in_angstroms**2
    mtf_file = config.mtf_file or task.optics.mtf_file
    mtf = None
    if mtf_file is not None:
        curve = read_mtf(mtf_file)
        mtf = (curve.frequency_in_inverse_pixels.float(), curve.value.float().square())
    areas = artefacts.area_fractions
    return Circumstances(
        exposure_in_electrons_per_square_angstrom=exposure,
        exposure_weighted=_column(record, "rlnMicrographDoseWeighted") == 1.0,
        incident_intensity=incident,
        mean_intensity=mean if counts else None,
        mtf_squared=mtf,
        area_fractions={
            "contamination": areas["contamination"],
            "carbon": areas["carbon"],
            "crystalline_ice": areas["crystalline ice"],
        },
    )


def _column(record: MicrographRecord, name: str) -> float | None:
    try:
        value = float(record.extra[name])
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def restore(item: RestoreTask) -> dict[str, Any]:
    """Write view, residual, deviation, mask and the report's panel of one micrograph; what else is worth telling."""
    task, analysis = item.task, item.analysis
    record, pixel = task.record, task.optics.pixel_size_in_angstroms
    image = load_micrograph(task)
    defects = analysis.all_defects()
    model = fitted_spectrum(analysis.estimate)
    if item.tile is None:
        view = restore_view(
            image, model, seed=task.config.seed, name=record.name, defects=defects, artefacts=analysis.artefacts
        )
    else:
        view = restore_view_in_tiles(
            image,
            model,
            item.tile,
            defects=defects,
            artefacts=analysis.artefacts,
            seed=task.config.seed,
            name=record.name,
        )
    products: Mapping[str, tuple[Tensor, int]] = {
        "views": (view.view, 2),
        "residuals": (view.residual, 2),
        "deviations": (view.deviation, 2),
        "masks": (view.mask, 0),
    }
    if task.config.views:
        for folder, (data, mode) in products.items():
            write_mrc(item.folder / folder / f"{record.name}.mrc", data, pixel, mode=mode)
        if analysis.bad_pixels.numel() or task.gain_residue is not None:
            clean = image
            if analysis.bad_pixels.numel():
                clean = replace_defects(image, defects.mask, generator_for(task.config.seed, "defects", record.name))
            write_mrc(item.folder / "cleaned" / f"{record.name}.mrc", clean.float(), pixel)
    if record.is_movie:
        write_mrc(item.folder / "averages" / f"{record.name}.mrc", load_micrograph(task, corrected=False), pixel)
    panel = make_panel(analysis.estimate, analysis.spectrum_picture, image, view)
    with atomic_path(item.folder / "panels" / f"{record.name}.npz") as temporary:
        np.savez_compressed(temporary, **panel)
    return {
        "resolution_limit_in_angstroms": view.resolution_limit_in_angstroms,
        "saturated_pixels": defects.saturated,
        "bad_pixels": int(analysis.bad_pixels.numel()),
        "focal_planes": view.focal_planes,
        "cleaned": bool(task.config.views and (analysis.bad_pixels.numel() or task.gain_residue is not None)),
    }


def _log_bytes(plane: np.ndarray) -> np.ndarray:
    """Half-plane power as bytes for a picture: log, flattened along radius, 1 to 99.5 %."""
    edge = plane.shape[0]
    value = np.log(np.maximum(plane, 1e-30))
    fy = np.fft.fftfreq(edge, 1 / edge)[:, None]
    radius = np.sqrt(fy**2 + np.arange(plane.shape[1])[None, :] ** 2).astype(int)
    total = np.bincount(radius.ravel(), value.ravel())
    count = np.bincount(radius.ravel())
    mean = total / np.maximum(count, 1)
    smooth = np.convolve(np.pad(mean, 12, mode="edge"), np.ones(25) / 25, mode="valid")
    value = value - smooth[radius]
    low, high = np.percentile(value, [1, 99.5])
    scaled: np.ndarray = np.clip((value - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
    return scaled
