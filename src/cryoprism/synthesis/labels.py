"""Labels as RELION 3.1 and JSON have them: optics, micrographs with their true CTF, particles, and the truth."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cryoprism.core import matrix_to_euler
from cryoprism.formats.star import StarBlock, write_star

from .render import Particle, detector_of
from .scene import Scene
from .species import Population

__all__ = [
    "micrograph_ctf",
    "optics_block",
    "particle_record",
    "particles_block",
    "star_block",
    "write_json",
    "write_mtf",
]


def write_json(path: Path, values: object) -> None:
    """Write a JSON file so that it is whole or not there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def star_block(name: str, columns: Mapping[str, Any]) -> StarBlock:
    """Return a loop of equally long columns."""
    count = len(next(iter(columns.values())))
    return StarBlock(name, (), tuple(() for _ in range(count))).with_columns(dict(columns))


def optics_block(base: Scene, *, movies: bool = False, mtf: bool = True) -> StarBlock:
    """Return the one optics group of a session; ``mtf`` names ``mtf.star`` in it."""
    pixel = "rlnMicrographOriginalPixelSize" if movies else "rlnMicrographPixelSize"
    columns: dict[str, Any] = {"rlnOpticsGroupName": ["opticsGroup1"], "rlnOpticsGroup": ["1"]}
    if mtf:
        columns["rlnMtfFileName"] = ["mtf.star"]
    columns |= {
        pixel: [base.pixel_size_in_angstroms],
        "rlnVoltage": [base.voltage_in_kilovolts],
        "rlnSphericalAberration": [base.spherical_aberration_in_millimeters],
        "rlnAmplitudeContrast": [base.amplitude_contrast],
    }
    return star_block("optics", columns)


def micrograph_ctf(scenes: Sequence[Scene]) -> dict[str, list[float]]:
    """Columns of the true CTF of micrographs, at the middle of the slab."""
    return {
        "rlnDefocusU": [s.defocus_u_in_angstroms for s in scenes],
        "rlnDefocusV": [s.defocus_v_in_angstroms for s in scenes],
        "rlnDefocusAngle": [s.astigmatism_angle_in_degrees for s in scenes],
        "rlnPhaseShift": [s.phase_shift_in_degrees for s in scenes],
    }


def particle_record(particle: Particle, population: Population | None = None) -> dict[str, Any]:
    """Return a label as JSON values, angles as RELION's Euler angles; the population numbers conformations."""
    rot, tilt, psi = (float(angle) for angle in matrix_to_euler(particle.rotation))
    return {
        "x_in_pixels": particle.x_in_pixels,
        "y_in_pixels": particle.y_in_pixels,
        "height_in_angstroms": particle.height_in_angstroms,
        "rot_in_degrees": rot,
        "tilt_in_degrees": tilt,
        "psi_in_degrees": psi,
        "defocus_u_in_angstroms": particle.defocus_u_in_angstroms,
        "defocus_v_in_angstroms": particle.defocus_v_in_angstroms,
        "species": particle.species,
        "conformation": particle.conformation,
        "class_number": 1 if population is None else population.class_number(particle.species, particle.conformation),
        "filament": particle.filament,
        "arc_position_in_angstroms": particle.arc_position_in_angstroms,
        "aggregate": particle.aggregate,
    }


def particles_block(
    names: Sequence[str], scenes: Sequence[Scene], particles: Sequence[Sequence[Mapping[str, Any]]]
) -> StarBlock:
    """Return the table of all particles: coordinates, Euler angles, own defocus, conformation, filament.

    ``particles`` holds the records of each micrograph, in the order of ``names`` and ``scenes``.
    """
    rows = [(name, scene, p) for name, scene, some in zip(names, scenes, particles, strict=True) for p in some]
    columns: dict[str, Any] = {
        "rlnMicrographName": [name for name, _, _ in rows],
        "rlnCoordinateX": [p["x_in_pixels"] for _, _, p in rows],
        "rlnCoordinateY": [p["y_in_pixels"] for _, _, p in rows],
        "rlnAngleRot": [p["rot_in_degrees"] for _, _, p in rows],
        "rlnAngleTilt": [p["tilt_in_degrees"] for _, _, p in rows],
        "rlnAnglePsi": [p["psi_in_degrees"] for _, _, p in rows],
        "rlnDefocusU": [p["defocus_u_in_angstroms"] for _, _, p in rows],
        "rlnDefocusV": [p["defocus_v_in_angstroms"] for _, _, p in rows],
        "rlnDefocusAngle": [scene.astigmatism_angle_in_degrees for _, scene, _ in rows],
        "rlnPhaseShift": [scene.phase_shift_in_degrees for _, scene, _ in rows],
        "rlnOriginXAngst": [0.0] * len(rows),
        "rlnOriginYAngst": [0.0] * len(rows),
        "rlnClassNumber": [p["class_number"] for _, _, p in rows],
        "rlnOpticsGroup": ["1"] * len(rows),
    }
    if any(p["filament"] for _, _, p in rows):
        columns["rlnHelicalTubeID"] = [p["filament"] for _, _, p in rows]
        columns["rlnHelicalTrackLengthAngst"] = [p["arc_position_in_angstroms"] for _, _, p in rows]
    return star_block("particles", columns)


def write_mtf(path: Path, base: Scene) -> None:
    """Write the detector's MTF as RELION reads it."""
    frequency = torch.linspace(0, 0.5, 51)
    value = detector_of(base).mtf(frequency)
    columns = {"rlnResolutionInversePixel": frequency.tolist(), "rlnMtfValue": value.tolist()}
    write_star(path, [star_block("", columns)])
