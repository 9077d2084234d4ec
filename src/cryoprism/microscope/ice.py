"""Vitreous ice: structure noise, its motion under the beam, thickness, and inelastic loss.

Structure noise. Amorphous ice is a random arrangement of water molecules. The projected potential of a layer of
thickness t has the power spectral density

    P(k) = C² n t [ ⟨F²⟩ - ⟨F⟩² + ⟨F⟩² S(k) ]   [V² Å⁴]

with C = 47.878 V Å², number density n of molecules (0.94 g/cm³), ⟨F⟩ and ⟨F²⟩ the orientational averages of the
molecule's scattering amplitude and of its square (oxygen and two hydrogens, Debye), and the structure factor S(k) of
the molecular centres. P is normalised so that ∫ P d²k is the variance [V² Å²] of the projected potential: a periodogram
|Δ² Σ V e^{-2πik·r}|² / area with pixel size Δ has the mean P. The likelihood of a spectrum and the noise images use the
same :func:`ice_structure_power`.

S(k) is a smooth approximation of low-density amorphous ice: a low-frequency limit S(0), a rise to one, and diffuse
rings at 3.7 Å (height about 2.2) and 2.1 Å, after the neutron and X-ray data of Bowron et al. (2006), J. Chem. Phys.
125, 194502; the numbers are rounded and stand in :class:`AmorphousStructure`.

Motion. Under the beam water moves by Brownian steps that grow as 34 Å² of B-factor per e/Å² (McMullan, Vinothkumar &
Henderson 2015, Ultramicroscopy 158, 26): two exposures that lie ΔN apart correlate by ρ = exp(-b ΔN k² / 4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Generator, Tensor

from cryoprism.core import AVOGADRO, InputError, frequency_magnitude, irfft2, rfft2

from ._registry import Mechanism, Parameters
from ._tensors import number, over_grid
from .potential import POTENTIAL_PER_SCATTERING_FACTOR, VITREOUS_ICE_POTENTIAL_IN_VOLTS, scattering_factor

__all__ = [
    "ICE_DENSITY_IN_GRAMS_PER_CUBIC_CENTIMETER",
    "WATER_MOTION_IN_SQUARE_ANGSTROMS",
    "AmorphousStructure",
    "amorphous_structure_factor",
    "coloured_noise",
    "ice_frames",
    "ice_motion_attenuation",
    "ice_slices",
    "ice_structure_power",
    "inelastic_mean_free_path_in_angstroms",
    "inelastic_transmission",
    "molecules_per_cubic_angstrom",
    "thickness_field",
    "thickness_from_transmission",
    "vitreous_ice",
]

ICE_DENSITY_IN_GRAMS_PER_CUBIC_CENTIMETER = 0.94
WATER_MOTION_IN_SQUARE_ANGSTROMS = 34.0
"""Growth of the B-factor of water with exposure [Å² per e/Å²]."""
_WATER_MASS = 18.01528
_OXYGEN_HYDROGEN = 0.9572  # Å
_HYDROGEN_HYDROGEN = 1.5139  # Å
_PATH_AT_300_KV = 3950.0  # Å, with energy filter: Rice et al. (2018), J. Struct. Biol. 204, 38
_ELECTRON_REST_ENERGY = 510.99895  # keV

Scalar = float | Tensor


@dataclass(frozen=True)
class AmorphousStructure:
    """Parameters of S(k) = S0 + (1 - S0) / (1 + (k_rise / k)^p) + Σ hᵢ exp(-(k - kᵢ)² / 2wᵢ²); k in 1/Å.

    The default ``low_limit`` is that of water near its freezing point, n k_B T κ; films with density waves have more.
    """

    low_limit: float = 0.06
    rise: float = 0.255
    rise_power: float = 8.0
    ring_positions: tuple[float, ...] = (0.270, 0.480)
    ring_heights: tuple[float, ...] = (1.55, 0.35)
    ring_widths: tuple[float, ...] = (0.026, 0.050)


def molecules_per_cubic_angstrom(
    density_in_grams_per_cubic_centimeter: float = ICE_DENSITY_IN_GRAMS_PER_CUBIC_CENTIMETER,
    molar_mass_in_grams: float = _WATER_MASS,
) -> float:
    """Return the number density [1/Å³]; 0.0314 for water at 0.94 g/cm³."""
    return density_in_grams_per_cubic_centimeter / molar_mass_in_grams * AVOGADRO * 1e-24


def amorphous_structure_factor(k: Tensor, structure: AmorphousStructure | None = None) -> Tensor:
    """Structure factor S(k) of the molecular centres of vitreous ice; k [1/Å] of any shape."""
    s = structure or AmorphousStructure()
    power = (k / s.rise) ** s.rise_power
    value = s.low_limit + (1 - s.low_limit) * power / (1 + power)
    for position, height, width in zip(s.ring_positions, s.ring_heights, s.ring_widths, strict=True):
        value = value + height * torch.exp(-0.5 * ((k - position) / width) ** 2)
    return value


def ice_structure_power(
    k: Tensor,
    thickness_in_angstroms: Scalar,
    *,
    exposure_in_electrons_per_square_angstrom: Scalar = 0.0,
    density_in_grams_per_cubic_centimeter: float = ICE_DENSITY_IN_GRAMS_PER_CUBIC_CENTIMETER,
    structure: AmorphousStructure | None = None,
) -> Tensor:
    """Power spectral density P(k) [V² Å⁴] of the projected potential of vitreous ice: ∫ P d²k = variance [V² Å²].

    Parameters
    ----------
    k
        Frequencies (h, w) or any shape [1/Å].
    thickness_in_angstroms
        One number or a batch (b,); 0 gives 0.
    exposure_in_electrons_per_square_angstrom
        Exposure [e/Å²] over which the image is averaged: the molecules move, see :func:`ice_motion_attenuation`.
    density_in_grams_per_cubic_centimeter, structure
        Density and S(k).
    """
    oxygen, hydrogen = scattering_factor(k, 8), scattering_factor(k, 1)
    bond = torch.sinc(2 * k * _OXYGEN_HYDROGEN)
    mean = oxygen + 2 * hydrogen * bond
    square = (
        oxygen**2
        + 2 * hydrogen**2
        + 4 * oxygen * hydrogen * bond
        + 2 * hydrogen**2 * torch.sinc(2 * k * _HYDROGEN_HYDROGEN)
    )
    molecule = square - mean**2 + mean**2 * amorphous_structure_factor(k, structure)
    density = molecules_per_cubic_angstrom(density_in_grams_per_cubic_centimeter)
    power = (POTENTIAL_PER_SCATTERING_FACTOR**2 * density) * over_grid(thickness_in_angstroms, k) * molecule
    return power * ice_motion_attenuation(k, exposure_in_electrons_per_square_angstrom)


def ice_motion_attenuation(
    k: Tensor,
    exposure_in_electrons_per_square_angstrom: Scalar,
    motion_in_square_angstroms: float = WATER_MOTION_IN_SQUARE_ANGSTROMS,
) -> Tensor:
    """Power left when moving water is averaged over an exposure N; 1 for N = 0.

    A = 2 (x - 1 + e^{-x}) / x², x = b N k² / 4, is the mean of ρ(N' - N'') over both exposures, for Brownian motion of
    independent molecules.
    """
    x = 0.25 * motion_in_square_angstroms * over_grid(exposure_in_electrons_per_square_angstrom, k) * k * k
    safe = x.clamp_min(0.05)
    series = 1 - x / 3 + x * x / 12 - x**3 / 60
    return torch.where(x < 0.05, series, 2 * (safe + torch.expm1(-safe)) / safe**2)


def coloured_noise(
    power: Tensor,
    shape: tuple[int, int],
    pixel_size_in_angstroms: float,
    generator: Generator,
    *,
    batch: Sequence[int] = (),
) -> Tensor:
    """Gaussian images (*batch, y, x) whose power spectral density is ``power`` (unit² Å²) on the half grid.

    Periodic; mean-free where P(0) = 0.
    """
    white = torch.randn(*batch, *shape, generator=generator, dtype=power.dtype, device=power.device)
    return irfft2(rfft2(white) * (power.sqrt() / pixel_size_in_angstroms), shape)


def _check_thickness(thickness: Scalar) -> None:
    if float(torch.as_tensor(thickness).detach().min()) < 0:
        raise InputError("thickness_in_angstroms", "it is negative", "Give 0 (no ice) or more.")


def vitreous_ice(
    shape: tuple[int, int],
    pixel_size_in_angstroms: float,
    thickness_in_angstroms: Scalar,
    *,
    generator: Generator,
    batch: Sequence[int] = (),
    exposure_in_electrons_per_square_angstrom: float = 0.0,
    excluded_fraction: Tensor | None = None,
    include_mean: bool = False,
    structure: AmorphousStructure | None = None,
) -> Tensor:
    """Projected potential [V Å] (*batch, y, x) of vitreous ice, by default only its fluctuations.

    Parameters
    ----------
    thickness_in_angstroms
        One number, or a field (y, x) (:func:`thickness_field`) that scales the noise locally by √t.
    exposure_in_electrons_per_square_angstrom
        Exposure that the image averages over.
    excluded_fraction
        (..., y, x) share of the ice's depth that particles displace, 0 … 1.
    include_mean
        Add the mean inner potential, 3.5 V × thickness.
    """
    _check_thickness(thickness_in_angstroms)
    thickness = torch.as_tensor(thickness_in_angstroms, dtype=torch.float32, device=generator.device)
    k = frequency_magnitude(shape, pixel_size_in_angstroms, device=generator.device)
    power = ice_structure_power(
        k, 1.0, exposure_in_electrons_per_square_angstrom=exposure_in_electrons_per_square_angstrom, structure=structure
    )
    depth = thickness if excluded_fraction is None else thickness * (1 - excluded_fraction)
    # The square root has no finite slope at zero; ice that is absent gets no gradient.
    amplitude = torch.where(depth > 0, depth.clamp_min(1e-12).sqrt(), torch.zeros_like(depth))
    noise = coloured_noise(power, shape, pixel_size_in_angstroms, generator, batch=batch) * amplitude
    return noise + VITREOUS_ICE_POTENTIAL_IN_VOLTS * depth if include_mean else noise


def ice_slices(
    shape: tuple[int, int],
    pixel_size_in_angstroms: float,
    thickness_in_angstroms: float,
    slice_thickness_in_angstroms: float,
    *,
    generator: Generator,
    structure: AmorphousStructure | None = None,
) -> Iterator[Tensor]:
    """Yield independent fluctuations [V Å] (y, x) of consecutive slices that together make up the layer."""
    _check_thickness(thickness_in_angstroms)
    count = max(1, math.ceil(thickness_in_angstroms / slice_thickness_in_angstroms - 1e-9))
    k = frequency_magnitude(shape, pixel_size_in_angstroms, device=generator.device)
    power = ice_structure_power(k, thickness_in_angstroms / count, structure=structure)
    for _ in range(count):
        yield coloured_noise(power, shape, pixel_size_in_angstroms, generator)


def ice_frames(
    shape: tuple[int, int],
    pixel_size_in_angstroms: float,
    thickness_in_angstroms: float,
    *,
    frames: int,
    exposure_per_frame_in_electrons_per_square_angstrom: float,
    generator: Generator,
    structure: AmorphousStructure | None = None,
) -> Iterator[Tensor]:
    """Yield the fluctuations [V Å] (y, x) of each movie frame, averaged over its exposure, while the water moves.

    Every Fourier coefficient is an Ornstein–Uhlenbeck process in exposure, sampled exactly (its value at the frame's
    end and its mean over the frame are drawn jointly); the mean of n frames therefore has the attenuation of the total
    exposure.
    """
    _check_thickness(thickness_in_angstroms)
    k = frequency_magnitude(shape, pixel_size_in_angstroms, device=generator.device)
    amplitude = ice_structure_power(k, thickness_in_angstroms, structure=structure).sqrt() / pixel_size_in_angstroms
    x = (
        0.25 * WATER_MOTION_IN_SQUARE_ANGSTROMS * exposure_per_frame_in_electrons_per_square_angstrom
    ) * k.double() ** 2
    decay = torch.exp(-x)
    carried = torch.where(x > 1e-9, -torch.expm1(-x) / x.clamp_min(1e-12), torch.ones_like(x))
    own = (
        ice_motion_attenuation(k.double(), exposure_per_frame_in_electrons_per_square_angstrom) - carried**2
    ).clamp_min(0)
    step = -torch.expm1(-2 * x)
    shared = torch.where(step > 0, (x * carried**2) / step.clamp_min(1e-300).sqrt(), torch.zeros_like(x))
    rest = (own - shared**2).clamp_min(0).sqrt()
    keep, drift, mean, common, private = (c.to(k.dtype) for c in (decay, step.sqrt(), carried, shared, rest))

    def white() -> Tensor:
        return rfft2(torch.randn(*shape, generator=generator, device=k.device))

    state = white()
    for _ in range(frames):
        kick = white()
        yield irfft2(amplitude * (mean * state + common * kick + private * white()), shape)
        state = keep * state + drift * kick


def inelastic_mean_free_path_in_angstroms(voltage_in_kilovolts: float) -> float:
    """Mean free path Λ [Å] for inelastic loss in vitreous ice with an energy filter: 3950 Å at 300 kV.

    Other voltages are scaled by (v/c)², an approximation that leaves out the slow logarithm of the Bethe formula: 3170
    Å at 200 kV, 1980 Å at 100 kV.
    """
    if voltage_in_kilovolts <= 0:
        raise InputError("voltage_in_kilovolts", f"{voltage_in_kilovolts}", "Give the acceleration voltage, e.g. 300.")

    def beta_square(voltage: float) -> float:
        return 1 - (_ELECTRON_REST_ENERGY / (_ELECTRON_REST_ENERGY + voltage)) ** 2

    return _PATH_AT_300_KV * beta_square(voltage_in_kilovolts) / beta_square(300.0)


def inelastic_transmission(thickness_in_angstroms: Tensor, mean_free_path_in_angstroms: Scalar) -> Tensor:
    """Fraction exp(-t/Λ) of the intensity that lost no energy; 1 for thickness 0."""
    return torch.exp(-thickness_in_angstroms / mean_free_path_in_angstroms)


def thickness_from_transmission(transmission: Tensor, mean_free_path_in_angstroms: Scalar) -> Tensor:
    """Thickness t = -Λ ln(I/I0) [Å]."""
    return -mean_free_path_in_angstroms * torch.log(transmission)


def thickness_field(
    shape: tuple[int, int],
    pixel_size_in_angstroms: float,
    thickness_in_angstroms: Scalar,
    *,
    gradient_in_angstroms_per_micrometer: Scalar = 0.0,
    direction_in_degrees: Scalar = 0.0,
    meniscus_in_angstroms: Scalar = 0.0,
    meniscus_center_in_angstroms: tuple[float, float] = (0.0, 0.0),
    meniscus_radius_in_angstroms: float = 6000.0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Ice thickness [Å] (..., y, x): a mean, a wedge, and the parabola of a meniscus; never below zero.

    t(r) = t0 + g·(r - r_n//2) + m |r - r_c|² / R²; a positive meniscus is thicker towards the rim of the hole.

    Parameters
    ----------
    thickness_in_angstroms
        Thickness at pixel n // 2 without meniscus; a number or a batch (b,).
    gradient_in_angstroms_per_micrometer, direction_in_degrees
        Slope of the wedge [Å per 10⁴ Å] and the direction in which it grows, from x towards +y.
    meniscus_in_angstroms, meniscus_center_in_angstroms, meniscus_radius_in_angstroms
        Extra thickness at the radius R around the hole's centre (x, y) relative to pixel n // 2.
    """
    y = ((torch.arange(shape[0], device=device) - shape[0] // 2) * pixel_size_in_angstroms)[:, None].float()
    x = ((torch.arange(shape[1], device=device) - shape[1] // 2) * pixel_size_in_angstroms)[None, :].float()
    angle = torch.deg2rad(over_grid(direction_in_degrees, x))
    slope = over_grid(gradient_in_angstroms_per_micrometer, x) * 1e-4
    cx, cy = meniscus_center_in_angstroms
    bowl = ((x - cx) ** 2 + (y - cy) ** 2) / meniscus_radius_in_angstroms**2
    field = (
        over_grid(thickness_in_angstroms, x)
        + slope * (angle.cos() * x + angle.sin() * y)
        + over_grid(meniscus_in_angstroms, x) * bowl
    )
    return field.clamp_min(0.0)


def _uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _apply_ice(images: Tensor, parameters: Parameters, generator: Generator | None) -> Tensor:
    if generator is None:
        raise ValueError("vitreous_ice is random: give it a generator")
    shape = (int(images.shape[-2]), int(images.shape[-1]))
    noise = vitreous_ice(
        shape,
        number(parameters, "pixel_size_in_angstroms"),
        1.0,
        generator=generator,
        batch=images.shape[:-2],
        exposure_in_electrons_per_square_angstrom=number(parameters, "exposure_in_electrons_per_square_angstrom", 0.0),
    )
    return images + noise.to(images) * over_grid(parameters["thickness_in_angstroms"], images).sqrt()


def _apply_loss(images: Tensor, parameters: Parameters, generator: Generator | None) -> Tensor:
    shape = (int(images.shape[-2]), int(images.shape[-1]))
    field = thickness_field(
        shape,
        number(parameters, "pixel_size_in_angstroms"),
        parameters["thickness_in_angstroms"],
        gradient_in_angstroms_per_micrometer=parameters["gradient_in_angstroms_per_micrometer"],
        direction_in_degrees=parameters["direction_in_degrees"],
        device=images.device,
    )
    path = inelastic_mean_free_path_in_angstroms(number(parameters, "voltage_in_kilovolts"))
    return images * inelastic_transmission(field.to(images.dtype), path)


MECHANISMS: tuple[Mechanism, ...] = (
    Mechanism(
        name="vitreous_ice",
        cause="ice_thickness",
        stage="ice",
        apply=_apply_ice,
        sample_parameters=lambda g: {
            "pixel_size_in_angstroms": 1.0,
            "thickness_in_angstroms": _uniform(g, 100, 1000),
            "exposure_in_electrons_per_square_angstrom": _uniform(g, 0, 60),
        },
        ideal=MappingProxyType({"thickness_in_angstroms": 0.0}),
        bounds=MappingProxyType(
            {"thickness_in_angstroms": (0.0, 5000.0), "exposure_in_electrons_per_square_angstrom": (0.0, 300.0)}
        ),
        units=MappingProxyType({"thickness_in_angstroms": "Å", "exposure_in_electrons_per_square_angstrom": "e/Å²"}),
        linear=False,
        random=True,
        differentiable=True,
        input_kind="image",
        gradient_parameters=("thickness_in_angstroms",),
    ),
    Mechanism(
        name="inelastic_loss",
        cause="ice_thickness",
        stage="ice",
        apply=_apply_loss,
        sample_parameters=lambda g: {
            "pixel_size_in_angstroms": 1.0,
            "voltage_in_kilovolts": 300.0,
            "thickness_in_angstroms": _uniform(g, 100, 1000),
            "gradient_in_angstroms_per_micrometer": _uniform(g, 0, 300),
            "direction_in_degrees": _uniform(g, 0, 360),
        },
        ideal=MappingProxyType({"thickness_in_angstroms": 0.0, "gradient_in_angstroms_per_micrometer": 0.0}),
        bounds=MappingProxyType(
            {
                "thickness_in_angstroms": (0.0, 5000.0),
                "gradient_in_angstroms_per_micrometer": (0.0, 2000.0),
                "direction_in_degrees": (0.0, 360.0),
            }
        ),
        units=MappingProxyType(
            {
                "thickness_in_angstroms": "Å",
                "gradient_in_angstroms_per_micrometer": "Å/µm",
                "direction_in_degrees": "degree",
            }
        ),
        linear=True,
        random=False,
        differentiable=True,
        input_kind="image",
        gradient_parameters=("thickness_in_angstroms",),
    ),
)
