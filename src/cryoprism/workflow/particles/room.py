"""Sizes that cannot be: particles larger than micrographs, boxes smaller than particles. Judged before any work."""

from __future__ import annotations

from cryoprism.core import InputError
from cryoprism.formats import Catalogue, MicrographRecord, read_image_info

from .configs import ExtractConfig

__all__ = ["require_box", "require_room"]


def require_room(catalogue: Catalogue, diameter_in_angstroms: float) -> None:
    """Refuse a diameter that exceeds the shorter side of every micrograph.

    Raises
    ------
    InputError
        No micrograph has room for a particle of this size.
    """
    sides = {
        record.path: min(shape) * catalogue.optics_of(record).pixel_size_in_angstroms
        for record, shape in _shapes(catalogue)
    }
    if sides and max(sides.values()) < diameter_in_angstroms:
        path = max(sides, key=lambda name: sides[name])
        raise InputError(
            "--diameter",
            f"{diameter_in_angstroms:g} Å does not fit into {path}, which measures {sides[path]:.4g} Å",
            "Give the particle's diameter in Å, and check the pixel size.",
        )


def require_box(config: ExtractConfig, catalogue: Catalogue) -> None:
    """Refuse boxes that no micrograph has room for, and particles that do not fit into them.

    Raises
    ------
    InputError
        The box is larger than every micrograph, or smaller than the particle.
    """
    box, diameter = config.box_in_pixels, config.diameter_in_angstroms
    shapes = [shape for _, shape in _shapes(catalogue)]
    if shapes and all(min(shape) < box for shape in shapes):
        height, width = max(shapes)
        raise InputError(
            "--box",
            f"{box} pixels, but the micrographs have {width} x {height}",
            "Boxes are in pixels: give a smaller one.",
        )
    for optics in catalogue.optics.values():
        extent = box * optics.pixel_size_in_angstroms
        if diameter is not None and diameter > extent:
            raise InputError(
                "--diameter",
                f"{diameter:g} Å does not fit into the box of {box} pixels ({extent:.4g} Å)",
                f"Give a --box of about {1.4 * diameter / optics.pixel_size_in_angstroms:.0f} pixels, or correct it.",
            )


def _shapes(catalogue: Catalogue) -> list[tuple[MicrographRecord, tuple[int, int]]]:
    """Height and width of every micrograph whose header can be read; the others are named when it is their turn."""
    shapes = []
    for record in catalogue:
        try:
            height, width = read_image_info(record.path).shape[-2:]
        except (InputError, OSError):
            continue
        shapes.append((record, (int(height), int(width))))
    return shapes
