"""One micrograph through a picker, inside worker processes: candidates, the noise's candidates, and a small picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoprism.core import InputError, fourier_crop, frequency_magnitude, generator_for, irfft2, rfft2
from cryoprism.formats import CtfRecord, MicrographRecord, OpticsGroup, Volume, read_image, read_map
from cryoprism.formats.mrc import read_mrc, read_mrc_header
from cryoprism.microscope.optics import Lens
from cryoprism.particles import (
    Field,
    Picks,
    Templates,
    blob_pixel_in_angstroms,
    outside_artefacts,
    phase_randomised,
    pick_from_score_map,
    prepare_field,
    score_blobs,
    score_templates,
    surviving_null,
    templates_from_images,
    templates_from_map,
    within_field,
    without_small_contamination,
)
from cryoprism.particles.network import LOWEST_LOG_ODDS, LearnedPicker, Transfer, load_picker
from cryoprism.restoration import LABELS, ArtefactMask, artefact_mask, find_defects, replace_defects
from cryoprism.workflow.jobs.config import RestoreConfig
from cryoprism.workflow.jobs.files import atomic_path
from cryoprism.workflow.micrographs.analysis import Task, analyse, load_micrograph

from .configs import PickConfig
from .reference import require_bright

__all__ = ["FLOOR", "Candidates", "PickTask", "read_candidates", "require_tools", "score_micrograph"]

#: Lowest figure of merit that is kept: standard deviations, or log-odds of the learned picker.
FLOOR = {"blob": 1.5, "template": 1.5, "learned": LOWEST_LOG_ODDS}
_WIDEST_AVERAGE = 6.0  # diameters that the image of a class average may show
_PICTURE_EDGE = 1000


@dataclass(frozen=True)
class PickTask:
    """What a worker needs to score one micrograph."""

    record: MicrographRecord
    optics: OpticsGroup
    config: PickConfig
    mask: Path | None
    output: Path


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a worker leaves behind.

    ``null_scores`` are those of noise that would pass for particles; ``picture`` is a low-passed micrograph of bytes,
    ``shape`` that of the micrograph, ``ctf`` its CTF as given or estimated.
    """

    picks: Picks
    null_scores: Tensor
    shape: tuple[int, int]
    ctf: CtfRecord | None
    picture: np.ndarray


def score_micrograph(task: PickTask) -> int:
    """Find the candidates of one micrograph and write them; returns how many there are."""
    config, optics = task.config, task.optics
    pixel = optics.pixel_size_in_angstroms
    image, ctf, artefacts = _prepared(task)
    shape = (int(image.shape[0]), int(image.shape[1]))
    lens = Lens(
        voltage_in_kilovolts=optics.voltage_in_kilovolts,
        spherical_aberration_in_millimeters=optics.spherical_aberration_in_millimeters,
        amplitude_contrast=optics.amplitude_contrast,
    )
    distance = config.min_distance_in_angstroms or 0.5 * config.diameter_in_angstroms
    noise_generator = generator_for(config.seed, "null", task.record.name)
    if config.method == "learned":
        picker = _picker(config.weights, config.device)
        maps = picker.score_with_null(
            image,
            pixel,
            diameter_in_angstroms=config.diameter_in_angstroms,
            generator=noise_generator,
            transfer=None if ctf is None else Transfer.from_records(optics, ctf),
            mask=artefacts,
        )
        picks, noise_picks = (m.picks(distance, FLOOR["learned"], pixel_size_in_angstroms=pixel) for m in maps)
        noise_picks = _allowed(noise_picks, config, artefacts, shape, pixel)
    else:
        field = _field(image, pixel, config, artefacts)
        picks = _classical(field, config, lens, ctf, distance, pixel)
        noise = replace(field, image=phase_randomised(field.image, noise_generator))
        noise_picks = _classical(noise, config, lens, ctf, distance, pixel)
    null = surviving_null(noise_picks, picks, distance / pixel)
    picks = _allowed(picks, config, artefacts, shape, pixel)
    picture = _picture(image, config.diameter_in_angstroms / pixel)
    _write(task.output, Candidates(picks, null, shape, ctf, picture))
    return len(picks)


def _allowed(
    picks: Picks, config: PickConfig, artefacts: ArtefactMask | None, shape: tuple[int, int], pixel: float
) -> Picks:
    """Leave out picks that are too close to an edge or on artefacts."""
    edge = config.edge_in_angstroms if config.edge_in_angstroms is not None else 0.5 * config.diameter_in_angstroms
    picks = within_field(picks, shape, edge / pixel)
    if artefacts is None:
        return picks
    return outside_artefacts(picks, artefacts, shape, 0.5 * config.diameter_in_angstroms / pixel)


def _prepared(task: PickTask) -> tuple[Tensor, CtfRecord | None, ArtefactMask | None]:
    """Mended image, CTF (estimated where the input has none) and artefacts of a micrograph."""
    config, optics = task.config, task.optics
    settings = RestoreConfig(inputs=str(task.record.path), seed=config.seed)
    work = Task(task.record, optics, settings, None)
    image = load_micrograph(work)
    ctf = task.record.ctf
    artefacts = None if task.mask is None else _mask(task.mask, (int(image.shape[0]), int(image.shape[1])))
    if ctf is None:
        analysis = analyse(work)
        if analysis.estimate.rings.detected:
            found = analysis.estimate.ctf
            ctf = CtfRecord(
                found.defocus_u_in_angstroms,
                found.defocus_v_in_angstroms,
                found.defocus_angle_in_degrees,
                found.phase_shift_in_degrees,
            )
        defects = analysis.all_defects()
        artefacts = artefacts or analysis.artefacts
    else:
        defects = find_defects(image)
    if bool(defects.mask.any()):
        image = replace_defects(image, defects.mask, generator_for(config.seed, "defects", task.record.name))
    if not config.use_masks:
        return image, ctf, None
    if artefacts is None:
        artefacts = artefact_mask(image, optics.pixel_size_in_angstroms)
    diameter = config.diameter_in_angstroms / optics.pixel_size_in_angstroms
    return image, ctf, without_small_contamination(artefacts, diameter)


def _mask(path: Path, shape: tuple[int, int]) -> ArtefactMask:
    """Mask of ``cryoprism restore`` at the coarse resolution that suffices, without single defects."""
    labels = read_image(path).data
    if tuple(labels.shape) != shape:
        raise InputError(path, f"is {tuple(labels.shape)}, its micrograph {shape} pixels", "Give the masks of these.")
    factor = max(1, min(shape) // 512)
    coarse = labels[factor // 2 :: factor, factor // 2 :: factor].round().to(torch.uint8)
    return ArtefactMask(torch.where(coarse == LABELS["defect"], torch.zeros_like(coarse), coarse), shape)


def _field(image: Tensor, pixel: float, config: PickConfig, artefacts: ArtefactMask | None) -> Field:
    if config.method == "template":
        coarse = _templates(config).pixel_size_in_angstroms
    else:
        coarse = blob_pixel_in_angstroms(config.diameters_in_angstroms[0])
    return prepare_field(image, pixel, coarse, artefacts)


def _classical(
    field: Field, config: PickConfig, lens: Lens, ctf: CtfRecord | None, distance: float, pixel: float
) -> Picks:
    if config.method == "template":
        templates = _templates(config)
        found = score_templates(field, templates, lens=lens, ctf=ctf)
        return pick_from_score_map(
            found.values,
            found.pixel_size_in_angstroms,
            distance,
            FLOOR["template"],
            pixel_size_in_angstroms=pixel,
            view_map=found.views,
            view_angles_in_degrees=templates.angles_in_degrees,
        )
    small, large = config.diameters_in_angstroms
    blobs = score_blobs(field, small, large, lowpass_in_angstroms=config.lowpass_in_angstroms, lens=lens, ctf=ctf)
    return pick_from_score_map(
        blobs.values,
        blobs.pixel_size_in_angstroms,
        distance,
        FLOOR["blob"],
        pixel_size_in_angstroms=pixel,
        diameter_map=blobs.diameter_in_angstroms,
    )


def require_tools(config: PickConfig) -> None:
    """Refuse a reference or a picker that cannot be used, before any micrograph is read.

    Raises
    ------
    InputError
        As ``templates_from_map``, ``templates_from_images`` and ``load_picker``; or the particle is black.
    """
    if config.method == "template":
        _templates(config)
    elif config.method == "learned":
        load_picker(config.weights)


def _templates(config: PickConfig) -> Templates:
    if config.reference is None:
        raise InputError("--reference", "nothing was given", "The template picker needs a map or class averages.")
    return _read_templates(
        config.reference,
        config.reference.stat().st_mtime_ns,
        config.diameter_in_angstroms,
        config.symmetry,
        config.lowpass_in_angstroms,
        config.healpix_order,
    )


@lru_cache(maxsize=1)
def _read_templates(
    path: Path, changed: int, diameter: float, symmetry: str, lowpass: float, healpix_order: int
) -> Templates:
    """Templates of a map, or of a stack of images (by its suffix .mrcs, or a header that says stack)."""
    header = read_mrc_header(path)
    if path.suffix.lower() == ".mrcs" or header.shape[0] == 1:
        data, _ = read_mrc(path)
        pixel = header.voxel_size_in_angstroms[2]
        if not pixel:
            raise InputError(
                path,
                "the header gives no pixel size",
                "Write the true one, in Å, into it: 'relion_image_handler --i IN --o OUT --force_header_angpix 1.23'.",
            )
        width = data.shape[-1] * float(pixel)
        if width > _WIDEST_AVERAGE * diameter:
            raise InputError(
                path,
                f"shows {width:.0f} Å, {width / diameter:.0f} diameters: a class average shows one particle",
                "Give class averages or a map in --reference, and the right --diameter.",
            )
        made = templates_from_images(
            data.float(),
            float(pixel),
            diameter_in_angstroms=diameter,
            lowpass_in_angstroms=lowpass,
            healpix_order=healpix_order,
        )
        # Images that are not square were refused before.
        require_bright(data.float(), float(pixel), diameter, path, averages=True)
        return made
    volume: Volume = read_map(path)
    made = templates_from_map(
        volume,
        diameter_in_angstroms=diameter,
        symmetry=symmetry,
        lowpass_in_angstroms=lowpass,
        healpix_order=healpix_order,
    )
    # A map that is no cube was refused before.
    require_bright(volume.data, volume.voxel_size_in_angstroms, diameter, path)
    return made


@lru_cache(maxsize=1)
def _picker(weights: Path | None, device: str) -> LearnedPicker:
    return load_picker(weights, device=device)


def _picture(image: Tensor, diameter_in_pixels: float) -> np.ndarray:
    """Bytes of the micrograph low-passed to an eighth of the diameter, at most 1000 pixels along the longer axis."""
    shrink = max(1.0, max(image.shape) / _PICTURE_EDGE)
    shape = (round(image.shape[0] / shrink), round(image.shape[1] / shrink))
    small = fourier_crop(image.float(), shape)
    k = frequency_magnitude(shape, 1.0)
    scale = diameter_in_pixels / shrink
    # Waves longer than two diameters are ice and beam, shorter than an eighth are noise.
    keep = torch.exp(-0.5 * (k * scale / 8) ** 2) * (1 - torch.exp(-0.5 * (k * scale * 2) ** 2))
    flat = irfft2(rfft2(small - small.mean()) * keep, shape)
    low, high = (float(np.quantile(flat.numpy(), q)) for q in (0.01, 0.99))
    picture: np.ndarray = (((flat - low) / max(high - low, 1e-12)).clamp(0, 1) * 255).to(torch.uint8).numpy()
    return picture


_CTF_FIELDS = (
    "defocus_u_in_angstroms",
    "defocus_v_in_angstroms",
    "defocus_angle_in_degrees",
    "phase_shift_in_degrees",
    "b_factor_in_square_angstroms",
    "scale_factor",
)


def _write(path: Path, found: Candidates) -> None:
    picks = found.picks
    none = np.zeros((0, 3))
    with atomic_path(path) as temporary:
        np.savez_compressed(
            temporary,
            xy=picks.xy_in_pixels.numpy(),
            score=picks.figure_of_merit.numpy(),
            angles=none if picks.angles_in_degrees is None else picks.angles_in_degrees.numpy(),
            diameter=none[:, 0] if picks.diameter_in_angstroms is None else picks.diameter_in_angstroms.numpy(),
            null=found.null_scores.numpy(),
            shape=np.array(found.shape),
            ctf=np.array([] if found.ctf is None else [getattr(found.ctf, name) for name in _CTF_FIELDS]),
            picture=found.picture,
        )


def read_candidates(path: Path) -> Candidates:
    """Read what :func:`score_micrograph` wrote."""
    with np.load(path, allow_pickle=False) as data:
        content = {name: data[name] for name in data.files}
    angles, diameter = content["angles"], content["diameter"]
    count = len(content["xy"])
    return Candidates(
        Picks(
            torch.from_numpy(content["xy"]),
            torch.from_numpy(content["score"]),
            torch.from_numpy(angles) if count and len(angles) == count else None,
            torch.from_numpy(diameter) if count and len(diameter) == count else None,
        ),
        torch.from_numpy(content["null"]),
        (int(content["shape"][0]), int(content["shape"][1])),
        CtfRecord(**dict(zip(_CTF_FIELDS, content["ctf"].tolist(), strict=True))) if content["ctf"].size else None,
        content["picture"],
    )
