"""A small project that tests of ``refine`` share."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from cryoprism.formats import (
    Volume,
    write_map,
    write_particles,
)
from cryoprism.structure import (
    low_pass,
)
from cryoprism.workflow import RefineConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "structure"))
from posed_particles import PIXEL, density, simulate

COUNT, DIAMETER = 260, 56.0


def make_project(folder: Path) -> Path:
    """Particles with poses that the table does not tell, and a reference at 20 Å."""
    truth = simulate(folder, COUNT, noise=1.6, beam_tilt=(0.5, -0.3))
    # The tilt is in the images: the table says so, as after 'ctf-refine'.
    tilt = torch.tensor([0.5, -0.3], dtype=torch.float64).expand(COUNT, 2)
    told = replace(truth, beam_tilt_in_milliradians=tilt)
    write_particles(folder / "posed.star", told)
    write_particles(folder / "input.star", replace(told, angles_in_degrees=None, origins_in_angstroms=None))
    write_map(folder / "reference.mrc", Volume(low_pass(density(), PIXEL, 20.0), PIXEL))
    return folder


def config(project: Path, out: Path, **changes: object) -> RefineConfig:
    settings = {
        "particles_file": project / "input.star",
        "reference": str(project / "reference.mrc"),
        "diameter_in_angstroms": DIAMETER,
        "initial_lowpass_in_angstroms": 20.0,
        "shift_range_in_angstroms": 6.0,
        "iterations": 3,
        "local": False,
        "output": out,
    }
    return RefineConfig(**(settings | changes))
