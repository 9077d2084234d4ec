"""How large boxes are where nobody says it: room for the particle and for what defocus carries out of it."""

from __future__ import annotations

from cryoprism.workflow.particles.data import even_fast_size

from .configs import ProcessConfig

__all__ = ["box_for", "scaled_box_for", "with_room"]

# The molecule reaches a little beyond what is called its diameter, and picks are not exactly in its middle.
_ROOM = 1.1
_BOX_IN_DIAMETERS = 1.4
_MOST_OF_BOX = 0.95
_WORTH_SCALING = 0.87


def box_for(diameter_in_angstroms: float, pixel_size_in_angstroms: float) -> int:
    """Side of a box [pixels] with room for what defocus carries out of the particle; even, of small factors."""
    return even_fast_size(_BOX_IN_DIAMETERS * diameter_in_angstroms / pixel_size_in_angstroms)


def scaled_box_for(box: int, pixel_size_in_angstroms: float, finest_in_angstroms: float | None) -> int | None:
    """Smaller side whose Nyquist limit still is a quarter finer than the data; None where it would save little."""
    if finest_in_angstroms is None:
        return None
    side = even_fast_size(2 * box * pixel_size_in_angstroms / (0.75 * finest_in_angstroms))
    return side if side <= _WORTH_SCALING * box else None


def with_room(config: ProcessConfig, pixel: float) -> float:
    """Diameter of the circle that holds every particle [Å]: a little more than was given, as far as the box goes."""
    box = config.box_in_pixels or box_for(config.diameter_in_angstroms, pixel)
    return min(_ROOM * config.diameter_in_angstroms, max(config.diameter_in_angstroms, _MOST_OF_BOX * box * pixel))
