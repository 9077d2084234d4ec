"""Artefacts of a synthetic micrograph: ice crystals and the edge of a support film, as many as a session shows.

They are drawn with the mechanisms of ``microscope`` as a projected potential that goes through the CTF and the envelope
of the particles, and are added to their contrast; where they are thicker than a weak phase the image is only as dark as
the real ones are, which is what their thickness is taken from. Losses of beam are within that darkness.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cryoprism.core import frequency_grid, interaction_constant, irfft2, rfft2
from cryoprism.microscope import CARBON_POTENTIAL_IN_VOLTS, carbon_film, contamination_object
from cryoprism.microscope.optics import contrast_transfer
from cryoprism.microscope.potential import VITREOUS_ICE_POTENTIAL_IN_VOLTS

from ._seen_artefacts import Spot
from ._slab import HOLE_RADIUS_IN_ANGSTROMS, Canvas, hole_center, with_border
from .exposure import particle_envelope
from .matching import MatchedMicrograph, SessionMatch
from .render import motion_track
from .scene import Scene

__all__ = [
    "ArtefactField",
    "Artefacts",
    "CarbonEdge",
    "Crystal",
    "artefact_contrast",
    "artefact_field",
    "canvas_of",
    "draw_artefacts",
]

_BORDER_IN_ANGSTROMS = 200.0  # a film ends at the border of the canvas, and its fringes must not reach the field
_TYPICAL_RADIUS, _TYPICAL_THICKNESS = 150.0, 400.0  # Å, where a session has no contamination to learn from
_TYPICAL_CARBON = 200.0  # Å
_CARBON_SHARES = (0.1, 0.4)
_DARKEST = 0.8  # relative contrast: a linear image of anything darker would be blacker than black
_THINNEST_CARBON = 50.0  # Å
_LEAST_TRANSFER = 0.02  # of contrast at frequency zero
_REACH = 2.0  # radii that an outline stays within


@dataclass(frozen=True, kw_only=True)
class Crystal:
    """An ice crystal: its middle pixel, mean radius and thickness [Å]."""

    x_in_pixels: int
    y_in_pixels: int
    radius_in_angstroms: float
    thickness_in_angstroms: float


@dataclass(frozen=True, kw_only=True)
class CarbonEdge:
    """Support film over a share of the field on the side of a direction (x towards +y), thickness [Å]."""

    share: float
    direction_in_degrees: float
    thickness_in_angstroms: float


@dataclass(frozen=True, kw_only=True)
class Artefacts:
    """What is to be drawn on one micrograph."""

    crystals: tuple[Crystal, ...] = ()
    carbon: CarbonEdge | None = None

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.crystals) or self.carbon is not None

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        return {
            "contamination": [asdict(crystal) for crystal in self.crystals],
            "carbon": None if self.carbon is None else asdict(self.carbon),
        }


@dataclass(frozen=True, eq=False)
class ArtefactField:
    """Artefacts of a scene as they lie in the beam.

    Parameters
    ----------
    canvas
        The field with a border.
    potential
        (y, x) projected [V Å], on the canvas.
    contamination, carbon
        (y, x) bool, on the field: what they spoil.
    """

    canvas: Canvas
    potential: Tensor
    contamination: Tensor
    carbon: Tensor


def draw_artefacts(
    match: SessionMatch,
    chosen: MatchedMicrograph,
    scene: Scene,
    *,
    contamination: int | None = None,
    carbon: float | None = None,
) -> Artefacts:
    """Draw the artefacts of a scene.

    Parameters
    ----------
    match, chosen
        The session, and the real micrograph whose turn it is.
    scene
        Names the draws and has the size and the lens.
    contamination
        Crystals in the field. None: as many per area as the chosen micrograph has contaminations that can be told apart
        from particles. Sizes and darkness are those of the session's; of all its dark spots where none can be told
        apart; typical ones where it has none.
    carbon
        Chance of an edge of a support film. None: there is one, as large, where the chosen micrograph has one.
    """
    pixel = scene.pixel_size_in_angstroms
    generator = scene.generator("contamination", "places")
    pool = [spot for one in match.micrographs for spot in one.artefacts.contaminations]
    if contamination is None:
        theirs = chosen.scene.height_in_pixels * chosen.scene.width_in_pixels * chosen.scene.pixel_size_in_angstroms**2
        ours = scene.height_in_pixels * scene.width_in_pixels * pixel**2
        expected = len(chosen.artefacts.contaminations) * ours / theirs
        count = math.floor(expected + float(torch.rand((), generator=generator)))
    else:
        count = contamination
        pool = pool or [spot for one in match.micrographs for spot in one.artefacts.spots]
    crystals = []
    for number in range(count):
        draw = torch.rand(3, generator=scene.generator("contamination", number)).tolist()
        radius, thickness = _size_of(scene, pool, draw[2])
        crystals.append(
            Crystal(
                x_in_pixels=int(draw[0] * scene.width_in_pixels),
                y_in_pixels=int(draw[1] * scene.height_in_pixels),
                radius_in_angstroms=radius,
                thickness_in_angstroms=thickness,
            )
        )
    return Artefacts(crystals=tuple(crystals), carbon=_edge(match, chosen, scene, carbon))


def _size_of(scene: Scene, pool: list[Spot], draw: float) -> tuple[float, float]:
    """Radius and thickness [Å] of a crystal: of one that was seen, else half to one and a half times the typical."""
    if not pool:
        return (0.5 + draw) * _TYPICAL_RADIUS, (0.5 + draw) * _TYPICAL_THICKNESS
    spot = pool[min(int(draw * len(pool)), len(pool) - 1)]
    return spot.radius_in_angstroms, _thickness(scene, spot.depth, VITREOUS_ICE_POTENTIAL_IN_VOLTS)


def _thickness(scene: Scene, depth: float, potential: float) -> float:
    """Thickness [Å] of a plate of a mean potential [V] that is so much darker: depth = 2 σ CTF(0) V t."""
    zero = torch.zeros(())
    transfer = abs(float(contrast_transfer(zero, zero, scene.lens, **scene.aberrations())))
    darkening = 2 * interaction_constant(scene.voltage_in_kilovolts) * max(transfer, _LEAST_TRANSFER) * potential
    return min(depth, _DARKEST) / darkening


def _edge(match: SessionMatch, chosen: MatchedMicrograph, scene: Scene, chance: float | None) -> CarbonEdge | None:
    draw = torch.rand(3, generator=scene.generator("carbon", "edge")).tolist()
    seen = chosen.artefacts
    if chance is None:
        if seen.carbon_share <= 0:
            return None
    else:
        if draw[0] >= chance:
            return None
        pool = [one.artefacts for one in match.micrographs if one.artefacts.carbon_share > 0]
        if pool:
            seen = pool[min(int(draw[2] * len(pool)), len(pool) - 1)]
        else:
            low, high = _CARBON_SHARES
            return CarbonEdge(
                share=low + (high - low) * draw[2],
                direction_in_degrees=360.0 * draw[1],
                thickness_in_angstroms=_TYPICAL_CARBON,
            )
    thickness = max(_THINNEST_CARBON, _thickness(scene, seen.carbon_depth, CARBON_POTENTIAL_IN_VOLTS))
    return CarbonEdge(share=seen.carbon_share, direction_in_degrees=360.0 * draw[1], thickness_in_angstroms=thickness)


def canvas_of(scene: Scene) -> Canvas:
    """Field with a border, so that neither fringes nor motion bring in at one edge what lies at the other."""
    moved = float(motion_track(scene, max(64, scene.frames)).abs().max())
    return with_border(scene, math.ceil((_BORDER_IN_ANGSTROMS + 2 * moved) / scene.pixel_size_in_angstroms))


def artefact_field(scene: Scene, drawn: Artefacts) -> ArtefactField:
    """Put the artefacts into the beam; outlines and the texture of the film are drawn here."""
    canvas = canvas_of(scene)
    potential, dirt = torch.zeros(canvas.shape), torch.zeros(canvas.shape)
    for number, crystal in enumerate(drawn.crystals):
        half = math.ceil((_REACH * crystal.radius_in_angstroms + 60.0) / canvas.pixel)
        one = contamination_object(
            (2 * half, 2 * half),
            canvas.pixel,
            generator=scene.generator("contamination", number, "outline"),
            radius_in_angstroms=crystal.radius_in_angstroms,
            thickness_in_angstroms=crystal.thickness_in_angstroms,
            voltage_in_kilovolts=scene.voltage_in_kilovolts,
        )
        top, left = canvas.top + crystal.y_in_pixels - half, canvas.left + crystal.x_in_pixels - half
        a, b = max(0, top), min(canvas.shape[0], top + 2 * half)
        c, d = max(0, left), min(canvas.shape[1], left + 2 * half)
        part = (slice(a - top, b - top), slice(c - left, d - left))
        potential[a:b, c:d] += one.projected_potential[part]
        dirt[a:b, c:d] = torch.maximum(dirt[a:b, c:d], one.mask[part])
    film = torch.zeros(canvas.shape)
    if drawn.carbon is not None:
        edge = drawn.carbon
        angle = math.radians(edge.direction_in_degrees)
        carbon = carbon_film(
            canvas.shape,
            canvas.pixel,
            generator=scene.generator("carbon", "film"),
            thickness_in_angstroms=edge.thickness_in_angstroms,
            hole_radius_in_angstroms=HOLE_RADIUS_IN_ANGSTROMS,
            hole_center_in_angstroms=hole_center(scene.shape, canvas.pixel, edge.share, angle),
            voltage_in_kilovolts=scene.voltage_in_kilovolts,
        )
        potential, film = potential + carbon.projected_potential, carbon.mask
    return ArtefactField(canvas, potential, canvas.crop(dirt, scene.shape) > 0.5, canvas.crop(film, scene.shape) > 0.5)


def artefact_contrast(scene: Scene, field: ArtefactField) -> Tensor:
    """Contrast (y, x) of artefacts on their canvas, through the lens and envelope of a scene; they do not fade."""
    ky, kx = frequency_grid(field.canvas.shape, field.canvas.pixel)
    transfer = particle_envelope(replace(scene, damage_scale=0.0), ky, kx)
    transfer = transfer * contrast_transfer(ky, kx, scene.lens, **scene.aberrations())
    factor = -2 * interaction_constant(scene.voltage_in_kilovolts)
    return irfft2(rfft2(field.potential).mul_(transfer * factor), field.canvas.shape)
