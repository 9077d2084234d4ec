"""Crystalline ice: diffraction rings of hexagonal and cubic ice in spectra, and patches of crystals in images.

Rings (lattice spacings): hexagonal 3.90 Å (100), 3.67 Å (002) and 3.44 Å (101); cubic 3.66 Å (111): Dowell & Rinfret
(1960), Nature 188, 1144. Their relative intensities are rounded powder values; texture changes them in real films.
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
from .ice import Scalar, coloured_noise

__all__ = [
    "CUBIC_SPACINGS_IN_ANGSTROMS",
    "HEXAGONAL_SPACINGS_IN_ANGSTROMS",
    "CrystallineIce",
    "crystalline_ice",
    "crystalline_ring_power",
]

HEXAGONAL_SPACINGS_IN_ANGSTROMS = (3.90, 3.67, 3.44)
CUBIC_SPACINGS_IN_ANGSTROMS = (3.66,)
_HEXAGONAL_SHARES = (0.5, 0.25, 0.25)
_BRAGG_POTENTIAL = 1.0  # V; Fourier coefficient of the strong low-order reflections of ice, to the order of magnitude

Lattice = Literal["hexagonal", "cubic"]


class CrystallineIce(NamedTuple):
    """Projected potential [V Å] (y, x) of the lattice planes, and where crystals are (0 … 1)."""

    projected_potential: Tensor
    mask: Tensor


def crystalline_ring_power(
    k: Tensor,
    *,
    hexagonal_variance: Scalar = 0.0,
    cubic_variance: Scalar = 0.0,
    ring_width_in_inverse_angstroms: float = 0.004,
) -> Tensor:
    """Power spectral density [V² Å⁴] of polycrystalline ice on frequencies k [1/Å].

    ∫ P d²k is the sum of the variances [V² Å²].     Each ring is a Gaussian of standard deviation
    ``ring_width_in_inverse_angstroms`` around 1/d; hexagonal ice shares its variance as 2 : 1 : 1 among 3.90, 3.67 and
    3.44 Å. Zero variance means no crystals.
    """

    def ring(spacing: float) -> Tensor:
        area = 2 * math.pi / spacing * ring_width_in_inverse_angstroms * math.sqrt(2 * math.pi)
        return torch.exp(-0.5 * ((k - 1 / spacing) / ring_width_in_inverse_angstroms) ** 2) / area

    hexagonal = torch.zeros_like(k)
    for share, spacing in zip(_HEXAGONAL_SHARES, HEXAGONAL_SPACINGS_IN_ANGSTROMS, strict=True):
        hexagonal = hexagonal + share * ring(spacing)
    cubic = ring(CUBIC_SPACINGS_IN_ANGSTROMS[0])
    return over_grid(hexagonal_variance, k) * hexagonal + over_grid(cubic_variance, k) * cubic


def _reflections(lattice: Lattice, zone: int) -> tuple[tuple[float, float, float], ...]:
    """Spots of one zone axis as (1/d along the first axis, 1/d along the second, relative amplitude)."""
    if lattice == "cubic":  # zone [110]: two {111} pairs, 70.5° apart
        half = math.radians(70.53 / 2)
        g = 1 / CUBIC_SPACINGS_IN_ANGSTROMS[0]
        return ((g * math.cos(half), g * math.sin(half), 1.0), (g * math.cos(half), -g * math.sin(half), 1.0))
    g100, g002, g101 = (1 / d for d in HEXAGONAL_SPACINGS_IN_ANGSTROMS)
    if zone == 0:  # basal zone [001]: three {100} pairs, 60° apart
        return tuple((g100 * math.cos(a), g100 * math.sin(a), 1.0) for a in (0.0, math.pi / 3, 2 * math.pi / 3))
    c = math.sqrt(g101**2 - g100**2)  # prism zone: (100), (002) and (101)
    return ((g100, 0.0, 1.0), (0.0, g002, 0.7), (g100, c, 0.7), (g100, -c, 0.7))


def crystalline_ice(
    shape: tuple[int, int],
    pixel_size_in_angstroms: float,
    crystal_thickness_in_angstroms: float,
    *,
    generator: Generator,
    lattice: Lattice = "hexagonal",
    patches: int = 3,
    patch_radius_in_angstroms: float = 300.0,
    polycrystalline_fraction: float = 0.5,
    ring_width_in_inverse_angstroms: float = 0.004,
) -> CrystallineIce:
    """Random patches of crystalline ice: single crystals (spots in the spectrum) or powders (rings).

    A single crystal shows the lattice fringes of a zone axis, each 2 V_g t cos(2πg·r + φ) with V_g about 1 V; a powder
    is noise with the power of :func:`crystalline_ring_power` and the same mean variance. The mean potential is that of
    the ice around it and does not appear.

    Parameters
    ----------
    crystal_thickness_in_angstroms
        Depth of crystal [Å]; 0 gives no potential.
    patches, patch_radius_in_angstroms
        How many, and their mean radius [Å] (each is drawn between 0.5 and 1.5 times that).
    polycrystalline_fraction
        Probability that a patch is a powder.
    """
    if crystal_thickness_in_angstroms < 0:
        raise InputError("crystal_thickness_in_angstroms", f"{crystal_thickness_in_angstroms}", "Give 0 or more.")
    if lattice not in ("hexagonal", "cubic"):
        raise InputError("lattice", f"'{lattice}'", "Use hexagonal or cubic.")
    device = generator.device
    y, x = pixel_coordinates(shape, pixel_size_in_angstroms, device)
    k = frequency_magnitude(shape, pixel_size_in_angstroms, device=device)
    amplitude = 2 * _BRAGG_POTENTIAL * crystal_thickness_in_angstroms
    total, covered = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
    for _ in range(patches):
        draw = torch.rand(6, generator=generator, device=device).tolist()
        center = (
            (draw[0] - 0.5) * shape[1] * pixel_size_in_angstroms,
            (draw[1] - 0.5) * shape[0] * pixel_size_in_angstroms,
        )
        window = soft_blob(
            shape, pixel_size_in_angstroms, center, patch_radius_in_angstroms * (0.5 + draw[2]), generator=generator
        )
        spots = _reflections(lattice, int(draw[4] > 0.5))
        if draw[3] < polycrystalline_fraction:
            variance = 0.5 * amplitude**2 * sum(a * a for *_, a in spots)
            power = crystalline_ring_power(
                k,
                hexagonal_variance=variance if lattice == "hexagonal" else 0.0,
                cubic_variance=variance if lattice == "cubic" else 0.0,
                ring_width_in_inverse_angstroms=ring_width_in_inverse_angstroms,
            )
            planes = coloured_noise(power, shape, pixel_size_in_angstroms, generator)
        else:
            turn = 2 * math.pi * draw[5]
            phases = (2 * math.pi * torch.rand(len(spots), generator=generator, device=device)).tolist()
            planes = torch.zeros(shape, device=device)
            for (along, across, strength), phase in zip(spots, phases, strict=True):
                gx = along * math.cos(turn) - across * math.sin(turn)
                gy = along * math.sin(turn) + across * math.cos(turn)
                if max(abs(gx), abs(gy)) < 0.5 / pixel_size_in_angstroms:  # finer planes than Nyquist are not recorded
                    planes = planes + amplitude * strength * torch.cos(2 * math.pi * (gx * x + gy * y) + phase)
        total = total + planes * window
        covered = torch.maximum(covered, window)
    return CrystallineIce(total, covered)


def _uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _apply(images: Tensor, parameters: Parameters, generator: Generator | None) -> Tensor:
    if generator is None:
        raise ValueError("crystalline_ice is random: give it a generator")
    shape = (int(images.shape[-2]), int(images.shape[-1]))
    items = images.shape[:-2].numel()
    unit = torch.stack(
        [
            crystalline_ice(
                shape,
                number(parameters, "pixel_size_in_angstroms"),
                1.0,
                generator=generator,
                patch_radius_in_angstroms=number(parameters, "patch_radius_in_angstroms"),
            ).projected_potential
            for _ in range(items)
        ]
    ).reshape(images.shape)
    return images + unit.to(images) * over_grid(parameters["crystal_thickness_in_angstroms"], images)


MECHANISMS: tuple[Mechanism, ...] = (
    Mechanism(
        name="crystalline_ice",
        cause="crystalline_ice",
        stage="ice",
        apply=_apply,
        sample_parameters=lambda g: {
            "pixel_size_in_angstroms": 1.0,
            "crystal_thickness_in_angstroms": _uniform(g, 10, 200),
            "patch_radius_in_angstroms": _uniform(g, 20, 400),
        },
        ideal=MappingProxyType({"crystal_thickness_in_angstroms": 0.0}),
        bounds=MappingProxyType(
            {"crystal_thickness_in_angstroms": (0.0, 2000.0), "patch_radius_in_angstroms": (10.0, 5000.0)}
        ),
        units=MappingProxyType({"crystal_thickness_in_angstroms": "Å", "patch_radius_in_angstroms": "Å"}),
        linear=False,
        random=True,
        differentiable=True,
        input_kind="image",
        gradient_parameters=("crystal_thickness_in_angstroms",),
    ),
)
