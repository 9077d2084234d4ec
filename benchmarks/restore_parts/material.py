"""Simulated micrographs at three severities, plain filters, and the views that CryoPrism makes."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.causes import fitted_spectrum
from cryoprism.core import frequency_grid, generator_for, irfft2, rfft2
from cryoprism.formats import MicrographRecord, OpticsGroup, read_image
from cryoprism.microscope.optics import contrast_transfer
from cryoprism.restoration import View, restore_view
from cryoprism.synthesis.phantom import phantom
from cryoprism.synthesis.render import Rendered, render_micrograph
from cryoprism.synthesis.scene import Scene
from cryoprism.synthesis.specimen import specimen_from_phantom
from cryoprism.workflow import RestoreConfig, analyse_session
from cryoprism.workflow.micrographs.analysis import Task, analyse

SEVERITIES: dict[str, dict[str, float]] = {
    "clean": {"ice_thickness_in_angstroms": 180.0},
    "ordinary": {"ice_thickness_in_angstroms": 400.0, "envelope_b_factor_in_square_angstroms": 40.0, "drift": 3.0},
    "severe": {"ice_thickness_in_angstroms": 800.0, "envelope_b_factor_in_square_angstroms": 100.0, "drift": 9.0},
}


def scene_of(seed: int, severity: str, index: int) -> Scene:
    g = generator_for(seed, "restore-benchmark", severity, index)
    u = lambda low, high: low + (high - low) * float(torch.rand((), generator=g))  # noqa: E731
    fields = dict(SEVERITIES[severity])
    drift, direction = fields.pop("drift", 0.0), u(0, 2 * math.pi)
    return Scene(
        name=f"{severity}-{index:02d}",
        seed=seed,
        defocus_in_angstroms=u(8000, 22000),
        astigmatism_in_angstroms=u(0, 600),
        astigmatism_angle_in_degrees=u(-90, 90),
        drift_y_in_angstroms=drift * math.sin(direction),
        drift_x_in_angstroms=drift * math.cos(direction),
        early_motion_y_in_angstroms=0.4 * drift * math.sin(direction + 0.5),
        early_motion_x_in_angstroms=0.4 * drift * math.cos(direction + 0.5),
        particle_count=60,
        **fields,  # type: ignore[arg-type]
    )


def render(scene: Scene) -> Rendered:
    return render_micrograph(scene, specimen_from_phantom(phantom("shell")), "multislice", poisson="exact")


def flip(image: Tensor, scene: Scene, aberrations: dict[str, float]) -> Tensor:
    """Image with the sign of a CTF taken out."""
    ky, kx = frequency_grid((image.shape[0], image.shape[1]), scene.pixel_size_in_angstroms)
    sign = torch.sign(contrast_transfer(ky, kx, scene.lens, **aberrations))
    return irfft2(rfft2(image - image.mean()) * sign, (image.shape[0], image.shape[1]))


def low_pass(image: Tensor, pixel: float, resolution: float) -> Tensor:
    """Fermi filter, half at the resolution [Å]."""
    ky, kx = frequency_grid((image.shape[0], image.shape[1]), pixel)
    k = torch.sqrt(ky * ky + kx * kx)
    return irfft2(
        rfft2(image - image.mean()) * torch.sigmoid(-(k - 1 / resolution) / (0.02 / resolution)),
        (image.shape[0], image.shape[1]),
    )


def views_of(files: list[Path], names: list[str], pixel: float) -> tuple[list[View], list[object], float]:
    """Return views, settled estimates, and CPU seconds per micrograph (reading to view, one thread) of a session."""
    optics = OpticsGroup("simulated", 300.0, 2.7, 0.1, pixel)
    tasks = [
        Task(MicrographRecord(name, file, "simulated"), optics, RestoreConfig(inputs=str(file)), None)
        for name, file in zip(names, files, strict=True)
    ]
    began = time.process_time()
    analyses = [analyse(task) for task in tasks]
    session = analyse_session(names, [a.estimate for a in analyses])
    views = []
    for task, analysis, estimate in zip(tasks, analyses, session.estimates, strict=True):
        image = read_image(task.record.path).data
        settled = replace(analysis, estimate=estimate)
        views.append(
            restore_view(
                image,
                fitted_spectrum(estimate),
                name=task.record.name,
                defects=settled.all_defects(),
                artefacts=analysis.artefacts,
            )
        )
    return views, list(session.estimates), (time.process_time() - began) / len(files)
