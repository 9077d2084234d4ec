"""Recipes for sessions: which scenes to render.

Every draw depends only on the seed, the micrograph's number and the name of what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import torch

from cryoprism.core import InputError, generator_for

from .scene import CAUSES, Scene

__all__ = ["DEMO", "Recipe", "demo_scenes", "dominant_scene", "session_scenes", "varied_scene"]

Recipe = Literal["varied", "demo", "clean"]

_DRIFT = math.radians(35.0)

DEMO: tuple[tuple[str, dict[str, Any]], ...] = (
    ("clean", {"defocus_in_angstroms": 14000.0}),
    (
        "drift",
        {
            "defocus_in_angstroms": 17000.0,
            "drift_y_in_angstroms": 9.0 * math.sin(_DRIFT),
            "drift_x_in_angstroms": 9.0 * math.cos(_DRIFT),
            "early_motion_y_in_angstroms": 3.0 * math.sin(_DRIFT),
            "early_motion_x_in_angstroms": 3.0 * math.cos(_DRIFT),
        },
    ),
    (
        "thick-ice",
        {
            "defocus_in_angstroms": 20000.0,
            "ice_thickness_in_angstroms": 1100.0,
            "ice_gradient_in_angstroms_per_micrometer": 800.0,
        },
    ),
    ("crystalline-ice", {"defocus_in_angstroms": 12000.0, "crystalline_ice_strength": 0.6}),
    (
        "contamination",
        {"defocus_in_angstroms": 16000.0, "contamination_count": 4, "carbon_fraction": 0.25},
    ),
    (
        "detector",
        {
            "defocus_in_angstroms": 11000.0,
            "hot_pixel_fraction": 2e-4,
            "hot_pixel_counts": 400.0,
            "dead_line_count": 2,
            "gain_residue_deviation": 0.03,
            "line_residue_deviation": 0.01,
            "envelope_b_factor_in_square_angstroms": 80.0,
        },
    ),
)
"""One dominant damage each: name and the fields that differ from an ordinary scene; drift 35° from x towards +y."""


def demo_scenes(seed: int, base: Scene, count: int = len(DEMO)) -> list[Scene]:
    """Scenes of :data:`DEMO`, then again from the start with other random draws, ``count`` in all."""
    scenes = []
    for index in range(count):
        label, changes = DEMO[index % len(DEMO)]
        turn = generator_for(seed, "demo", index, "astigmatism")
        draws = torch.rand(2, generator=turn).tolist()
        scenes.append(
            replace(
                base,
                name=f"{index + 1:03d}-{label}",
                seed=seed,
                session_seed=seed,
                **{
                    "astigmatism_in_angstroms": 150.0 + 400.0 * draws[0],
                    "astigmatism_angle_in_degrees": -90.0 + 180.0 * draws[1],
                    **changes,
                },
            )
        )
    return scenes


def _direction(length: float, angle: float, prefix: str) -> dict[str, float]:
    return {f"{prefix}_y_in_angstroms": length * math.sin(angle), f"{prefix}_x_in_angstroms": length * math.cos(angle)}


# Strength s (0 none, 1 ordinary, 2 bad) and a uniform draw for a direction, to the fields of a cause.
_STRENGTHS: dict[str, Callable[[float, float], dict[str, Any]]] = {
    "motion": lambda s, u: (
        _direction(5.0 * s, 2 * math.pi * u, "drift")
        | _direction(2.5 * s, 2 * math.pi * u + 0.5, "early_motion")
        | {"jitter_in_angstroms": 0.15 * s}
    ),
    "ice_thickness": lambda s, u: {
        "ice_thickness_in_angstroms": 200.0 + 400.0 * s,
        "ice_gradient_in_angstroms_per_micrometer": 300.0 * s,
        "ice_gradient_direction_in_degrees": 360.0 * u,
    },
    "crystalline_ice": lambda s, u: {"crystalline_ice_strength": 0.4 * s},
    "damage": lambda s, u: {"damage_scale": 1.0 + s},
    "coherence": lambda s, u: {
        "source_semi_angle_in_milliradians": 0.02 + 0.08 * s,
        "focal_spread_in_angstroms": 40.0 + 60.0 * s,
    },
    "detector": lambda s, u: {
        "detector_dqe0": 0.85 - 0.25 * min(s, 3.0),
        "detector_blur_in_pixels": 0.15 + 0.2 * s,
        "coincidence_area_in_square_pixels": 4.0 * s,
    },
    "contamination": lambda s, u: {"contamination_count": math.ceil(3 * s)},
    "carbon": lambda s, u: {"carbon_fraction": min(0.8, 0.2 * s)},
    "defects": lambda s, u: {
        "hot_pixel_fraction": 1e-4 * s,
        "hot_pixel_counts": 300.0,
        "dead_pixel_fraction": 1e-4 * s,
        "dead_line_count": round(s),
        "gain_residue_deviation": 0.03 * s,
        "line_residue_deviation": 0.01 * s,
    },
    "tilt": lambda s, u: {"tilt_in_degrees": 15.0 * s, "tilt_axis_in_degrees": 180.0 * u},
    "astigmatism": lambda s, u: {"astigmatism_in_angstroms": 200.0 + 800.0 * s},
    "envelope": lambda s, u: {"envelope_b_factor_in_square_angstroms": 60.0 * s},
}


def _optics(seed: int, index: int) -> dict[str, Any]:
    draws = torch.rand(3, generator=generator_for(seed, index, "optics")).tolist()
    return {
        "defocus_in_angstroms": 8000.0 + 16000.0 * draws[0],
        "astigmatism_in_angstroms": 600.0 * draws[1],
        "astigmatism_angle_in_degrees": -90.0 + 180.0 * draws[2],
    }


def dominant_scene(
    seed: int, index: int, base: Scene, dominant: str, *, strength: float = 1.5, background: float = 0.15
) -> Scene:
    """Return a scene in which one cause does most of the harm.

    Parameters
    ----------
    seed, index
        Name the draws.
    base
        What all scenes share.
    dominant
        A cause of ``CAUSES``.
    strength, background
        Of the dominant cause, and the highest strength of motion, thickness and envelope beside it (0 none, 1 ordinary,
        2 bad).

    Raises
    ------
    InputError
        The cause is unknown.
    """
    if dominant not in CAUSES:
        raise InputError("dominant", f"'{dominant}' is not known", f"Use one of {', '.join(CAUSES)}.")
    changes: dict[str, Any] = dict(_optics(seed, index))
    for cause in ("motion", "ice_thickness", "envelope", dominant):
        draws = torch.rand(2, generator=generator_for(seed, index, cause, "strength")).tolist()
        chosen = strength if cause == dominant else background * draws[0]
        changes |= _STRENGTHS[cause](chosen, draws[1])
    name = f"{index + 1:05d}-{dominant.replace('_', '-')}"
    return replace(base, name=name, seed=seed, session_seed=seed, **changes)


def varied_scene(seed: int, index: int, base: Scene, severity: float = 1.0) -> Scene:
    """Return a scene as sessions bring them: motion, ice and envelope always, other causes now and then."""
    changes: dict[str, Any] = dict(_optics(seed, index))
    for cause, fields in _STRENGTHS.items():
        if cause in ("astigmatism", "damage", "coherence", "detector", "defects"):
            continue
        draws = torch.rand(3, generator=generator_for(seed, index, cause, "strength")).tolist()
        always = cause in ("motion", "ice_thickness", "envelope")
        strength = severity * (-math.log(1 - 0.95 * draws[0])) * (0.7 if always else 1.0)
        if always or draws[2] < 0.2:
            changes |= fields(min(strength, 3.0), draws[1])
    # The detector is the same all session long.
    fixed = torch.rand(2, generator=generator_for(seed, "detector")).tolist()
    changes |= _STRENGTHS["defects"](severity * fixed[0], fixed[1])
    return replace(base, name=f"{index + 1:05d}", seed=seed, session_seed=seed, **changes)


def session_scenes(recipe: Recipe, seed: int, count: int, base: Scene, severity: float = 1.0) -> list[Scene]:
    """Scenes of a whole session.

    Raises
    ------
    InputError
        The recipe is unknown.
    """
    if recipe == "demo":
        return demo_scenes(seed, base, count)
    if recipe == "varied":
        return [varied_scene(seed, index, base, severity) for index in range(count)]
    if recipe == "clean":
        return [
            replace(base, name=f"{index + 1:05d}", seed=seed, session_seed=seed, **_optics(seed, index))
            for index in range(count)
        ]
    raise InputError("recipe", f"'{recipe}' is not known", f"Use one of {', '.join(get_args(Recipe))}.")
