"""Things in the beam that are not the specimen: ice crystals and ethane, and the edge of the carbon film.

Each returns what it does to the beam, a projected potential [V Å] and a transmission, together with the mask of the
pixels it spoils. These objects are thick (phases of radians): the weak-phase image only approximates them, multislice
does not.

Carbon: amorphous, 1.75 g/cm³, mean inner potential 9.1 V (Wanner et al. 2006, Ultramicroscopy 106, 341), structure
noise as in :mod:`cryoprism.microscope.ice` with carbon's scattering factor and diffuse rings at 2.1 and 1.2 Å. Its
inelastic mean free path is that of ice scaled by the density, an approximation.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from cryoprism.core import InputError, frequency_magnitude

from ._outlines import pixel_coordinates, soft_blob
from ._registry import Mechanism, Parameters
from ._tensors import number, over_grid
from .ice import (
    ICE_DENSITY_IN_GRAMS_PER_CUBIC_CENTIMETER,
    AmorphousStructure,
    Scalar,
    amorphous_structure_factor,
    coloured_noise,
    inelastic_mean_free_path_in_angstroms,
    inelastic_transmission,
    molecules_per_cubic_angstrom,
)
from .potential import POTENTIAL_PER_SCATTERING_FACTOR, VITREOUS_ICE_POTENTIAL_IN_VOLTS, scattering_factor

__all__ = [
    "CARBON_DENSITY_IN_GRAMS_PER_CUBIC_CENTIMETER",
    "CARBON_POTENTIAL_IN_VOLTS",
    "Obstacle",
    "carbon_film",
    "carbon_structure_power",
    "contamination",
    "contamination_object",
]

CARBON_DENSITY_IN_GRAMS_PER_CUBIC_CENTIMETER = 1.75
CARBON_POTENTIAL_IN_VOLTS = 9.1
_CARBON_MASS = 12.011
_CARBON = AmorphousStructure(
    low_limit=0.3,
    rise=0.42,
    rise_power=8.0,
    ring_positions=(0.48, 0.85),
    ring_heights=(0.6, 0.4),
    ring_widths=(0.05, 0.07),
)
_ETHANE_POTENTIAL = 3.6  # V; 0.65 g/cm³ of C2H6, isolated atoms reduced as for ice


class Obstacle(NamedTuple):
    """What stands in the beam, each (y, x).

    Projected potential [V Å], intensity transmission (0 … 1) and mask (0 … 1, 1 where pixels are spoiled).
    """

    projected_potential: Tensor
    transmission: Tensor
    mask: Tensor


def contamination(
    shape: tuple[int, int],
    pixel_size_in_angstroms: float,
    *,
    generator: Generator,
    count: int = 3,
    radius_in_angstroms: float = 300.0,
    thickness_in_angstroms: float = 600.0,
    kind: Literal["ice", "ethane"] = "ice",
    voltage_in_kilovolts: float = 300.0,
    roughness: float = 0.15,
    edge_in_angstroms: float = 30.0,
) -> Obstacle:
    """Random contamination: plateaus with soft, rough outlines (ice crystals) or domes (ethane drops).

    Parameters
    ----------
    count
        Number of objects; their centres are uniform over the field. 0 gives an empty field.
    radius_in_angstroms, thickness_in_angstroms
        Mean radius and height [Å]; both are multiplied by one draw between 0.5 and 1.5 per object. Thickness 0 gives no
        effect.
    kind
        ``ice`` or ``ethane``.
    voltage_in_kilovolts
        Sets the mean free path.
    roughness, edge_in_angstroms
        Relative waviness of outlines and width of their edge [Å].
    """
    if count < 0 or radius_in_angstroms <= 0 or thickness_in_angstroms < 0:
        raise InputError(
            "contamination",
            f"count {count}, radius {radius_in_angstroms} Å, thickness {thickness_in_angstroms} Å",
            "Give count >= 0, radius > 0 and thickness >= 0.",
        )
    if kind not in ("ice", "ethane"):
        raise InputError("kind", f"'{kind}'", "Use ice or ethane.")
    device = generator.device
    height, mask = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
    for _ in range(count):
        draw = torch.rand(3, generator=generator, device=device).tolist()
        centre = (
            (draw[0] - 0.5) * shape[1] * pixel_size_in_angstroms,
            (draw[1] - 0.5) * shape[0] * pixel_size_in_angstroms,
        )
        size = 0.5 + draw[2]
        profile, blob = _profile(
            shape,
            pixel_size_in_angstroms,
            generator,
            centre,
            size * radius_in_angstroms,
            kind=kind,
            roughness=roughness,
            edge_in_angstroms=edge_in_angstroms,
        )
        height = height + size * thickness_in_angstroms * profile
        mask = torch.maximum(mask, blob)
    return _in_the_beam(height, mask, kind, voltage_in_kilovolts)


def contamination_object(
    shape: tuple[int, int],
    pixel_size_in_angstroms: float,
    *,
    generator: Generator,
    center_in_angstroms: tuple[float, float] = (0.0, 0.0),
    radius_in_angstroms: float,
    thickness_in_angstroms: float,
    kind: Literal["ice", "ethane"] = "ice",
    voltage_in_kilovolts: float = 300.0,
    roughness: float = 0.15,
    edge_in_angstroms: float = 30.0,
) -> Obstacle:
    """One object of :func:`contamination` of a given size at a given place; only its outline is drawn.

    Parameters
    ----------
    center_in_angstroms
        (x, y) from pixel n // 2.
    """
    profile, blob = _profile(
        shape,
        pixel_size_in_angstroms,
        generator,
        center_in_angstroms,
        radius_in_angstroms,
        kind=kind,
        roughness=roughness,
        edge_in_angstroms=edge_in_angstroms,
    )
    return _in_the_beam(thickness_in_angstroms * profile, blob, kind, voltage_in_kilovolts)


def _profile(
    shape: tuple[int, int],
    pixel_size_in_angstroms: float,
    generator: Generator,
    center_in_angstroms: tuple[float, float],
    radius_in_angstroms: float,
    *,
    kind: Literal["ice", "ethane"],
    roughness: float,
    edge_in_angstroms: float,
) -> tuple[Tensor, Tensor]:
    """Height (y, x) of one object relative to its thickness, and its mask."""
    blob = soft_blob(
        shape,
        pixel_size_in_angstroms,
        center_in_angstroms,
        radius_in_angstroms,
        generator=generator,
        roughness=roughness if kind == "ice" else 0.3 * roughness,
        edge_in_angstroms=edge_in_angstroms,
    )
    if kind == "ice":
        return blob, blob
    y, x = pixel_coordinates(shape, pixel_size_in_angstroms, generator.device)
    away = ((x - center_in_angstroms[0]) ** 2 + (y - center_in_angstroms[1]) ** 2) / radius_in_angstroms**2
    return blob * (1.2 - away).clamp_min(0.0).sqrt(), blob


def _in_the_beam(height: Tensor, mask: Tensor, kind: Literal["ice", "ethane"], voltage_in_kilovolts: float) -> Obstacle:
    potential = VITREOUS_ICE_POTENTIAL_IN_VOLTS if kind == "ice" else _ETHANE_POTENTIAL
    path = inelastic_mean_free_path_in_angstroms(voltage_in_kilovolts)
    return Obstacle(potential * height, inelastic_transmission(height, path), mask)


def carbon_structure_power(k: Tensor, thickness_in_angstroms: Scalar) -> Tensor:
    """Power spectral density [V² Å⁴] of the projected potential of amorphous carbon, C² n t f² S(k).

    ∫ P d²k is the variance [V² Å²].
    """
    density = molecules_per_cubic_angstrom(CARBON_DENSITY_IN_GRAMS_PER_CUBIC_CENTIMETER, _CARBON_MASS)
    amplitude = POTENTIAL_PER_SCATTERING_FACTOR * scattering_factor(k, 6)
    return density * over_grid(thickness_in_angstroms, k) * amplitude**2 * amorphous_structure_factor(k, _CARBON)


def carbon_film(
    shape: tuple[int, int],
    pixel_size_in_angstroms: float,
    *,
    generator: Generator,
    thickness_in_angstroms: float = 150.0,
    hole_radius_in_angstroms: float = 6000.0,
    hole_center_in_angstroms: tuple[float, float] = (0.0, 0.0),
    voltage_in_kilovolts: float = 300.0,
    edge_in_angstroms: float = 30.0,
    edge_roughness_in_angstroms: float = 15.0,
    include_mean: bool = True,
) -> Obstacle:
    """Support film of amorphous carbon outside a round hole: curved, slightly rough boundary.

    Parameters
    ----------
    thickness_in_angstroms
        Film thickness [Å]; 0 gives no effect on the beam (the mask still shows where the film would be).
    hole_radius_in_angstroms, hole_center_in_angstroms
        The hole; centre (x, y) from pixel n // 2. A field without carbon has its farthest corner inside.
    edge_in_angstroms, edge_roughness_in_angstroms
        Width of the soft edge and amplitude of its waviness [Å].
    include_mean
        Include the mean inner potential (9.1 V × thickness, against vacuum) besides the structure noise.
    """
    if thickness_in_angstroms < 0 or hole_radius_in_angstroms <= 0:
        raise InputError(
            "carbon_film",
            f"thickness {thickness_in_angstroms} Å, hole radius {hole_radius_in_angstroms} Å",
            "Give thickness >= 0 and radius > 0.",
        )
    device = generator.device
    hole = soft_blob(
        shape,
        pixel_size_in_angstroms,
        hole_center_in_angstroms,
        hole_radius_in_angstroms,
        generator=generator,
        roughness=edge_roughness_in_angstroms / hole_radius_in_angstroms,
        edge_in_angstroms=edge_in_angstroms,
    )
    film = 1 - hole
    k = frequency_magnitude(shape, pixel_size_in_angstroms, device=device)
    noise = coloured_noise(carbon_structure_power(k, thickness_in_angstroms), shape, pixel_size_in_angstroms, generator)
    potential = noise * film.sqrt()
    if include_mean:
        potential = potential + CARBON_POTENTIAL_IN_VOLTS * thickness_in_angstroms * film
    path = inelastic_mean_free_path_in_angstroms(voltage_in_kilovolts) * (
        ICE_DENSITY_IN_GRAMS_PER_CUBIC_CENTIMETER / CARBON_DENSITY_IN_GRAMS_PER_CUBIC_CENTIMETER
    )
    return Obstacle(potential, inelastic_transmission(thickness_in_angstroms * film, path), film)


def _uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _require(generator: Generator | None, name: str) -> Generator:
    if generator is None:
        raise ValueError(f"{name} is random: give it a generator")
    return generator


def _apply_contamination(images: Tensor, parameters: Parameters, generator: Generator | None) -> Tensor:
    source = _require(generator, "contamination")
    shape = (int(images.shape[-2]), int(images.shape[-1]))
    unit = torch.stack(
        [
            contamination(
                shape,
                number(parameters, "pixel_size_in_angstroms"),
                generator=source,
                radius_in_angstroms=number(parameters, "radius_in_angstroms"),
                thickness_in_angstroms=1.0,
            ).projected_potential
            for _ in range(images.shape[:-2].numel())
        ]
    ).reshape(images.shape)
    return images + unit.to(images) * over_grid(parameters["thickness_in_angstroms"], images)


def _apply_carbon(images: Tensor, parameters: Parameters, generator: Generator | None) -> Tensor:
    source = _require(generator, "carbon_edge")
    shape = (int(images.shape[-2]), int(images.shape[-1]))
    pixel = number(parameters, "pixel_size_in_angstroms")
    angle = math.radians(number(parameters, "direction_in_degrees"))
    radius = number(parameters, "hole_radius_in_angstroms")
    shift = number(parameters, "edge_distance_in_angstroms") - radius  # the edge crosses the axis at this distance
    films = [
        carbon_film(
            shape,
            pixel,
            generator=source,
            thickness_in_angstroms=1.0,
            hole_radius_in_angstroms=radius,
            hole_center_in_angstroms=(shift * math.cos(angle), shift * math.sin(angle)),
            include_mean=False,
        )
        for _ in range(images.shape[:-2].numel())
    ]
    noise = torch.stack([f.projected_potential for f in films]).reshape(images.shape).to(images)
    mask = torch.stack([f.mask for f in films]).reshape(images.shape).to(images)
    thickness = over_grid(parameters["thickness_in_angstroms"], images)
    return images + noise * thickness.sqrt() + CARBON_POTENTIAL_IN_VOLTS * thickness * mask


MECHANISMS: tuple[Mechanism, ...] = (
    Mechanism(
        name="contamination",
        cause="contamination",
        stage="contamination",
        apply=_apply_contamination,
        sample_parameters=lambda g: {
            "pixel_size_in_angstroms": 1.0,
            "radius_in_angstroms": _uniform(g, 50, 500),
            "thickness_in_angstroms": _uniform(g, 100, 1500),
        },
        ideal=MappingProxyType({"thickness_in_angstroms": 0.0}),
        bounds=MappingProxyType({"radius_in_angstroms": (10.0, 10000.0), "thickness_in_angstroms": (0.0, 10000.0)}),
        units=MappingProxyType({"radius_in_angstroms": "Å", "thickness_in_angstroms": "Å"}),
        linear=False,
        random=True,
        differentiable=True,
        input_kind="image",
        gradient_parameters=("thickness_in_angstroms",),
    ),
    Mechanism(
        name="carbon_edge",
        cause="carbon_edge",
        stage="contamination",
        apply=_apply_carbon,
        sample_parameters=lambda g: {
            "pixel_size_in_angstroms": 1.0,
            "thickness_in_angstroms": _uniform(g, 80, 250),
            "hole_radius_in_angstroms": _uniform(g, 3000, 12000),
            "edge_distance_in_angstroms": _uniform(g, -20, 20),
            "direction_in_degrees": _uniform(g, 0, 360),
        },
        ideal=MappingProxyType({"thickness_in_angstroms": 0.0}),
        bounds=MappingProxyType(
            {
                "thickness_in_angstroms": (0.0, 1000.0),
                "hole_radius_in_angstroms": (500.0, 50000.0),
                "edge_distance_in_angstroms": (-20000.0, 20000.0),
                "direction_in_degrees": (0.0, 360.0),
            }
        ),
        units=MappingProxyType(
            {
                "thickness_in_angstroms": "Å",
                "hole_radius_in_angstroms": "Å",
                "edge_distance_in_angstroms": "Å",
                "direction_in_degrees": "degree",
            }
        ),
        linear=False,
        random=True,
        differentiable=True,
        input_kind="image",
        gradient_parameters=("thickness_in_angstroms",),
    ),
)
