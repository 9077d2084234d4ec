"""A scene: everything that decides how one micrograph comes out, as one frozen record, and interventions on it by name.

Each physical cause owns some fields of the scene and knows the values at which it does no harm. :func:`intervene` sets
them and leaves all others, and all random draws, as they were: every draw comes from a generator named after its cause.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any

import torch

from cryoprism.core import InputError, generator_for
from cryoprism.microscope.optics import Lens

__all__ = ["CAUSES", "Scene", "intervene", "scene_from_dict", "scene_to_dict"]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One exposure. Defaults are a clean 300 kV micrograph of ordinary quality; the ideals stand in :data:`CAUSES`.

    Parameters
    ----------
    name, seed
        Together they name every random draw.
    session_seed
        Names what a session shares: the detector's gain residue and defects.
    height_in_pixels, width_in_pixels, pixel_size_in_angstroms
        The recorded image.
    voltage_in_kilovolts, spherical_aberration_in_millimeters, amplitude_contrast
        The lens.
    defocus_in_angstroms, astigmatism_in_angstroms, astigmatism_angle_in_degrees, phase_shift_in_degrees
        Mean defocus in the middle of the slab (underfocus positive), difference U - V, direction of U (x towards +y).
    exposure_in_electrons_per_square_angstrom, frames
        Total exposure and the frames it is recorded in.
    damage_scale
        1: radiation damage as published; 0: none.
    ice_thickness_in_angstroms, ice_gradient_in_angstroms_per_micrometer, ice_gradient_direction_in_degrees
        Slab of vitreous ice and its wedge.
    crystalline_ice_strength
        Amplitude of crystalline ice relative to a film wholly crystallised; 0 for none.
    drift_y_in_angstroms, drift_x_in_angstroms
        Uniform drift from the start to the end of the exposure.
    early_motion_y_in_angstroms, early_motion_x_in_angstroms, early_motion_decay_in_electrons_per_square_angstrom
        Fast start: total displacement and its decay constant.
    jitter_in_angstroms
        Standard deviation of random displacement along each axis.
    envelope_b_factor_in_square_angstroms
        Isotropic loss of everything not named otherwise.
    source_semi_angle_in_milliradians, focal_spread_in_angstroms
        Spatial and temporal coherence.
    tilt_in_degrees, tilt_axis_in_degrees
        Tilt of the slab, and the direction of its axis from x towards +y.
    contamination_count
        Ice or ethane crystals on the surface, whole field.
    carbon_fraction
        Share of the field that a support film covers.
    carbon_thickness_in_angstroms
        Thickness of that film.
    detector_dqe0, detector_blur_in_pixels, coincidence_area_in_square_pixels
        Share of electrons counted, blur of their positions (MTF: :class:`~cryoprism.microscope.detector.CountingMtf`;
        negative: a perfect MTF), coincidence loss.
    detector_mtf
        A measured MTF as (frequency [1/pixel], value) pairs; it stands in for the blur where it is given.
    hot_pixel_fraction, hot_pixel_counts, dead_pixel_fraction, dead_line_count, gain_residue_deviation,
    line_residue_deviation
        Defects and what is left of the gain.
    particle_count
        Particles wanted in the field.
    specimen_b_factor_in_square_angstroms
        B-factor of the atoms of a phantom (thermal motion, part of the specimen and of the truth).
    """

    name: str = "scene"
    seed: int = 0
    session_seed: int = 0
    height_in_pixels: int = 1024
    width_in_pixels: int = 1024
    pixel_size_in_angstroms: float = 1.5
    voltage_in_kilovolts: float = 300.0
    spherical_aberration_in_millimeters: float = 2.7
    amplitude_contrast: float = 0.1
    defocus_in_angstroms: float = 15000.0
    astigmatism_in_angstroms: float = 200.0
    astigmatism_angle_in_degrees: float = 30.0
    phase_shift_in_degrees: float = 0.0
    exposure_in_electrons_per_square_angstrom: float = 40.0
    frames: int = 40
    damage_scale: float = 1.0
    ice_thickness_in_angstroms: float = 300.0
    ice_gradient_in_angstroms_per_micrometer: float = 0.0
    ice_gradient_direction_in_degrees: float = 0.0
    crystalline_ice_strength: float = 0.0
    drift_y_in_angstroms: float = 0.0
    drift_x_in_angstroms: float = 0.0
    early_motion_y_in_angstroms: float = 0.0
    early_motion_x_in_angstroms: float = 0.0
    early_motion_decay_in_electrons_per_square_angstrom: float = 4.0
    jitter_in_angstroms: float = 0.0
    envelope_b_factor_in_square_angstroms: float = 0.0
    source_semi_angle_in_milliradians: float = 0.02
    focal_spread_in_angstroms: float = 40.0
    tilt_in_degrees: float = 0.0
    tilt_axis_in_degrees: float = 0.0
    contamination_count: int = 0
    carbon_fraction: float = 0.0
    carbon_thickness_in_angstroms: float = 200.0
    detector_dqe0: float = 0.85
    detector_blur_in_pixels: float = 0.15
    detector_mtf: tuple[tuple[float, float], ...] = ()
    coincidence_area_in_square_pixels: float = 0.0
    hot_pixel_fraction: float = 0.0
    hot_pixel_counts: float = 0.0
    dead_pixel_fraction: float = 0.0
    dead_line_count: int = 0
    gain_residue_deviation: float = 0.0
    line_residue_deviation: float = 0.0
    particle_count: int = 60
    specimen_b_factor_in_square_angstroms: float = 30.0

    def __post_init__(self) -> None:
        for field, (low, high) in _LIMITS.items():
            value = getattr(self, field)
            if not (math.isfinite(value) and low <= value <= high):
                raise InputError(f"scene.{field}", f"is {value}", f"Give a value from {low:g} to {high:g}.")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the recorded image."""
        return (self.height_in_pixels, self.width_in_pixels)

    @property
    def lens(self) -> Lens:
        """Return the lens."""
        return Lens(
            voltage_in_kilovolts=self.voltage_in_kilovolts,
            spherical_aberration_in_millimeters=self.spherical_aberration_in_millimeters,
            amplitude_contrast=self.amplitude_contrast,
        )

    @property
    def defocus_u_in_angstroms(self) -> float:
        """Defocus along the direction of the astigmatism angle [Å]."""
        return self.defocus_in_angstroms + 0.5 * self.astigmatism_in_angstroms

    @property
    def defocus_v_in_angstroms(self) -> float:
        """Defocus across it [Å]."""
        return self.defocus_in_angstroms - 0.5 * self.astigmatism_in_angstroms

    def aberrations(self, height_in_angstroms: float = 0.0) -> dict[str, float]:
        """Keyword arguments of ``contrast_transfer`` for an object at a height [Å] along the beam from the middle."""
        return {
            "defocus_u_in_angstroms": self.defocus_u_in_angstroms + height_in_angstroms,
            "defocus_v_in_angstroms": self.defocus_v_in_angstroms + height_in_angstroms,
            "defocus_angle_in_degrees": self.astigmatism_angle_in_degrees,
            "phase_shift_in_degrees": self.phase_shift_in_degrees,
        }

    def generator(self, cause: str, *keys: object) -> torch.Generator:
        """Random numbers of one cause of this scene."""
        return generator_for(self.seed, self.name, cause, *keys)


_LIMITS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "height_in_pixels": (32, 32768),
        "width_in_pixels": (32, 32768),
        "pixel_size_in_angstroms": (0.1, 20),
        "voltage_in_kilovolts": (60, 1000),
        "spherical_aberration_in_millimeters": (0, 20),
        "amplitude_contrast": (0, 0.5),
        "defocus_in_angstroms": (-1e5, 1e5),
        "astigmatism_in_angstroms": (-2e4, 2e4),
        "exposure_in_electrons_per_square_angstrom": (1e-3, 1e4),
        "frames": (1, 10000),
        "damage_scale": (0, 10),
        "ice_thickness_in_angstroms": (0, 5000),
        "ice_gradient_in_angstroms_per_micrometer": (0, 5000),
        "crystalline_ice_strength": (0, 10),
        "jitter_in_angstroms": (0, 50),
        "early_motion_decay_in_electrons_per_square_angstrom": (1e-3, 1e3),
        "envelope_b_factor_in_square_angstroms": (0, 2000),
        "source_semi_angle_in_milliradians": (0, 5),
        "focal_spread_in_angstroms": (0, 1000),
        "tilt_in_degrees": (-70, 70),
        "contamination_count": (0, 1000),
        "carbon_fraction": (0, 1),
        "carbon_thickness_in_angstroms": (0, 2000),
        "detector_dqe0": (1e-3, 1),
        "coincidence_area_in_square_pixels": (0, 100),
        "hot_pixel_fraction": (0, 0.1),
        "dead_pixel_fraction": (0, 0.1),
        "gain_residue_deviation": (0, 0.5),
        "line_residue_deviation": (0, 0.5),
        "particle_count": (0, 100000),
        "specimen_b_factor_in_square_angstroms": (0, 500),
    }
)

CAUSES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "motion": {
            "drift_y_in_angstroms": 0.0,
            "drift_x_in_angstroms": 0.0,
            "early_motion_y_in_angstroms": 0.0,
            "early_motion_x_in_angstroms": 0.0,
            "jitter_in_angstroms": 0.0,
        },
        "ice_thickness": {"ice_thickness_in_angstroms": 150.0, "ice_gradient_in_angstroms_per_micrometer": 0.0},
        "crystalline_ice": {"crystalline_ice_strength": 0.0},
        "damage": {"damage_scale": 0.0},
        "coherence": {"source_semi_angle_in_milliradians": 0.0, "focal_spread_in_angstroms": 0.0},
        "detector": {
            "detector_dqe0": 1.0,
            "detector_blur_in_pixels": -1.0,
            "detector_mtf": (),
            "coincidence_area_in_square_pixels": 0.0,
        },
        "contamination": {"contamination_count": 0},
        "carbon": {"carbon_fraction": 0.0},
        "defects": {
            "hot_pixel_fraction": 0.0,
            "dead_pixel_fraction": 0.0,
            "dead_line_count": 0,
            "gain_residue_deviation": 0.0,
            "line_residue_deviation": 0.0,
        },
        "tilt": {"tilt_in_degrees": 0.0},
        "astigmatism": {"astigmatism_in_angstroms": 0.0},
        "envelope": {"envelope_b_factor_in_square_angstroms": 0.0},
    }
)
"""Cause → the fields it owns → their ideal values. Ice cannot be thinner than the particles: 150 Å is its ideal."""


def intervene(scene: Scene, *causes: str) -> Scene:
    """Return the scene with each of the named causes at its ideal: do(cause = ideal).

    A film already thinner than the ideal stays as thin as it is. Random draws keep their values.

    Raises
    ------
    InputError
        A cause is unknown.
    """
    changes: dict[str, Any] = {}
    for cause in causes:
        if cause not in CAUSES:
            raise InputError("cause", f"'{cause}' is not known", f"Use one of {', '.join(CAUSES)}.")
        changes |= CAUSES[cause]
    thickness = "ice_thickness_in_angstroms"
    if thickness in changes:
        changes[thickness] = min(changes[thickness], scene.ice_thickness_in_angstroms)
    return replace(scene, **changes)


def scene_to_dict(scene: Scene) -> dict[str, Any]:
    """Return the scene as plain numbers and text, for JSON."""
    return asdict(scene)


def scene_from_dict(values: Mapping[str, Any]) -> Scene:
    """Inverse of :func:`scene_to_dict`; missing fields take their defaults.

    Raises
    ------
    InputError
        A field is unknown or out of bounds.
    """
    known = {f.name for f in fields(Scene)}
    if unknown := sorted(set(values) - known):
        raise InputError("scene", f"unknown fields {', '.join(unknown)}", f"Use some of {', '.join(sorted(known))}.")
    curve = tuple((float(f), float(v)) for f, v in values.get("detector_mtf", ()))
    return Scene(**{**values, "detector_mtf": curve})
