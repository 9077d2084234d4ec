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
    "optics_groups",
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


def optics_groups(scenes: Sequence[Scene]) -> tuple[list[Scene], list[str]]:
    """Return one scene of every lens (voltage, Cs, amplitude contrast, pixel), and the group of each scene."""
    numbers: dict[tuple[float, ...], int] = {}
    first: list[Scene] = []
    groups = []
    for scene in scenes:
        lens = (
            scene.voltage_in_kilovolts,
            scene.spherical_aberration_in_millimeters,
            scene.amplitude_contrast,
            scene.pixel_size_in_angstroms,
        )
        if lens not in numbers:
            numbers[lens] = len(numbers) + 1
            first.append(scene)
        groups.append(str(numbers[lens]))
    return first, groups


def optics_block(
    bases: Sequence[Scene], *, movies: bool = False, mtf: bool = True, box_in_pixels: int | None = None
) -> StarBlock:
    """Return one optics group for each of the scenes, as :func:`optics_groups` numbers them.

    Parameters
    ----------
    bases
        One scene of each lens.
    movies
        Name the pixel size as movies have it.
    mtf
        Name ``mtf.star``.
    box_in_pixels
        Side of the boxes in a table of particles, without which RELION does not read it.
    """
    pixel = "rlnMicrographOriginalPixelSize" if movies else "rlnMicrographPixelSize"
    numbers = [str(number) for number in range(1, len(bases) + 1)]
    columns: dict[str, Any] = {
        "rlnOpticsGroupName": [f"opticsGroup{number}" for number in numbers],
        "rlnOpticsGroup": numbers,
    }
    if mtf:
        columns["rlnMtfFileName"] = ["mtf.star"] * len(bases)
    columns |= {
        pixel: [base.pixel_size_in_angstroms for base in bases],
        "rlnVoltage": [base.voltage_in_kilovolts for base in bases],
        "rlnSphericalAberration": [base.spherical_aberration_in_millimeters for base in bases],
        "rlnAmplitudeContrast": [base.amplitude_contrast for base in bases],
    }
    if box_in_pixels is not None:
        columns |= {
            "rlnImagePixelSize": [base.pixel_size_in_angstroms for base in bases],
            "rlnImageSize": [box_in_pixels] * len(bases),
            "rlnImageDimensionality": [2] * len(bases),
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
    _, groups = optics_groups(scenes)
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
        "rlnOpticsGroup": [group for group, some in zip(groups, particles, strict=True) for _ in some],
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
