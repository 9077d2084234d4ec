"""From potential to exit wave to image: projection, first Born, Rytov, multislice, inelastic loss.

Signs. The beam runs along +z. A slice with projected potential V_z [V Å] multiplies the wave by
exp(iσ V_z e^{i·arcsin Q}): the absorptive part makes a weak object carry amplitude contrast Q, so that after the lens

    I = 1 - 2 F⁻¹[CTF · F(σ V_z)],  CTF = -sin(χ - arcsin Q),  CTF(0) = +Q.

Free space multiplies the transform of the wave by exp(-iπλ Δz k²); the lens by exp(-iχ). Waves refer to the middle of
the slab: with underfocus Δf there, an object at height z along the beam (0 in the middle) has underfocus Δf + z.

Kirkland, Advanced Computing in Electron Microscopy (2010), ch. 6 for multislice; Vulović et al. (2014), Ultramicroscopy
136, 61 for the comparison of weak phase, projection and multislice; Devaney (1981), Opt. Lett. 6, 374 for Rytov.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from types import MappingProxyType
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import grid_sample, pad

from cryoprism.core import (
    InputError,
    electron_wavelength_in_angstroms,
    euler_to_matrix,
    interaction_constant,
    irfft2,
    rfft2,
)

from ._registry import Mechanism, Parameters
from ._tensors import number

__all__ = [
    "backproject_images",
    "exit_wave",
    "free_space_propagator",
    "image_intensity",
    "inelastic_amplitude",
    "project_volume",
    "rotate_volume",
    "slices_from_volume",
    "wave_frequency_grid",
    "weak_phase_intensity",
]

Method = Literal["multislice", "rytov", "born", "projection"]
Slices = Iterable[Tensor] | Callable[[], Iterable[Tensor]]


def wave_frequency_grid(
    shape: tuple[int, int],
    pixel_size_in_angstroms: float,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Frequencies (ky, kx) [1/Å] of a full ``fft2``, shapes (height, 1) and (1, width)."""
    ky = torch.fft.fftfreq(shape[0], d=pixel_size_in_angstroms, device=device, dtype=dtype)[:, None]
    kx = torch.fft.fftfreq(shape[1], d=pixel_size_in_angstroms, device=device, dtype=dtype)[None, :]
    return ky, kx


def free_space_propagator(ky: Tensor, kx: Tensor, distance_in_angstroms: float, voltage_in_kilovolts: float) -> Tensor:
    """Fresnel propagator exp(-iπλ Δz k²) over a distance along +z [Å], complex (h, w)."""
    k2 = (ky * ky + kx * kx).to(torch.float64)
    phase = -math.pi * electron_wavelength_in_angstroms(voltage_in_kilovolts) * distance_in_angstroms * k2
    result = torch.polar(torch.ones_like(phase), phase)
    return result.to(torch.complex128 if ky.dtype == torch.float64 else torch.complex64)


def _complex(tensor: Tensor) -> torch.dtype:
    return torch.complex128 if tensor.dtype in (torch.float64, torch.complex128) else torch.complex64


def _aperture(ky: Tensor, kx: Tensor, fraction: float | None) -> Tensor | None:
    if fraction is None:
        return None
    if not 0 < fraction <= 1:
        raise InputError("bandwidth_limit", f"{fraction} is outside (0, 1]", "Use 2/3, or None for no limit.")
    limit = fraction * min(float(ky.abs().max()), float(kx.abs().max()))
    return ((ky * ky + kx * kx) <= limit * limit).to(ky.dtype)


def exit_wave(
    slices: Slices,
    *,
    pixel_size_in_angstroms: float,
    slice_thickness_in_angstroms: float,
    voltage_in_kilovolts: float,
    amplitude_contrast: float = 0.0,
    method: Method = "multislice",
    bandwidth_limit: float | None = 2 / 3,
    incident: Tensor | None = None,
) -> Tensor:
    """Wave behind a slab, referred to the slab's middle plane, complex (..., y, x); 1 without an object.

    Parameters
    ----------
    slices
        Projected potentials (..., y, x) [V Å] of consecutive slices, first what the beam meets first: a list, an
        iterator, or a callable that returns one. They are read one by one, the slab is never held as a whole.
    pixel_size_in_angstroms, slice_thickness_in_angstroms
        Sampling [Å] across and along the beam.
    voltage_in_kilovolts
        Acceleration voltage [kV].
    amplitude_contrast
        Q of the absorptive part [fraction].
    method
        ``multislice``: ψ ← F⁻¹{F[ψ·t]·exp(-iπλΔz k²)}; ``rytov``: the exponential of the sum of single scattering;
        ``born``: 1 + that sum; ``projection``: no propagation inside the slab.
    bandwidth_limit
        Fraction of Nyquist kept in the scattered waves against aliasing; potentials should be sampled 1.5 times finer
        than the image, or ``None`` be given for weak objects.
    incident
        Incident wave in the slab's *middle* plane as it would be without an object; a plane wave of amplitude 1 if
        absent. For ``multislice`` and ``projection`` only.

    Raises
    ------
    InputError
        No slices, or an unknown method.
    """
    if not 0 <= amplitude_contrast < 1:
        raise InputError("amplitude_contrast", f"{amplitude_contrast} is outside [0, 1)", "Use about 0.1.")
    if method not in ("multislice", "rytov", "born", "projection"):
        raise InputError("method", f"'{method}'", "Use multislice, rytov, born or projection.")
    if incident is not None and method in ("rytov", "born"):
        raise InputError("incident", f"given for method '{method}'", "Use multislice or projection.")
    iterator: Iterator[Tensor] = iter(slices() if callable(slices) else slices)
    first = next(iterator, None)
    if first is None:
        raise InputError("slices", "there are none", "Give at least one slice (zeros for an empty slab).")
    shape = (int(first.shape[-2]), int(first.shape[-1]))
    ky, kx = wave_frequency_grid(shape, pixel_size_in_angstroms, device=first.device, dtype=first.dtype)
    aperture = _aperture(ky, kx, bandwidth_limit)
    strength = interaction_constant(voltage_in_kilovolts)
    factor = complex(-amplitude_contrast, math.sqrt(1 - amplitude_contrast**2)) * strength  # i σ exp(i arcsin Q)

    def rest() -> Iterator[Tensor]:
        yield first
        yield from iterator

    step = free_space_propagator(ky, kx, slice_thickness_in_angstroms, voltage_in_kilovolts)
    if method == "projection":
        total = torch.zeros_like(first)
        for projected in rest():
            total = total + projected
        wave = torch.exp(factor * total.to(_complex(first)))
        return wave if incident is None else incident * wave
    if method == "multislice":
        return _multislice(rest(), first, ky, kx, factor, aperture, step, incident, slice_thickness_in_angstroms,
                           voltage_in_kilovolts)  # fmt: skip
    # Single scattering: propagate the running sum, so that slices can be read as they come.
    scattered = torch.zeros(shape, dtype=_complex(first), device=first.device)
    count = 0
    for projected in rest():
        scattered = (scattered * step if count else scattered) + torch.fft.fft2(projected.to(_complex(first)))
        count += 1
    back = free_space_propagator(ky, kx, -0.5 * (count - 1) * slice_thickness_in_angstroms, voltage_in_kilovolts)
    scattered = scattered * back if aperture is None else scattered * back * aperture
    exponent = factor * torch.fft.ifft2(scattered)
    return torch.exp(exponent) if method == "rytov" else 1 + exponent


def _multislice(
    slices: Iterator[Tensor],
    first: Tensor,
    ky: Tensor,
    kx: Tensor,
    factor: complex,
    aperture: Tensor | None,
    step: Tensor,
    incident: Tensor | None,
    thickness: float,
    voltage: float,
) -> Tensor:
    """Multislice: the wave is kept between the slices' middles and brought back to the slab's middle at the end."""
    kernel = step if aperture is None else step * aperture
    wave: Tensor | None = None
    count = 0
    if incident is not None:
        # The slab's middle is known only at its end, so the incident wave needs the slices counted first.
        listed = list(slices)
        slices = iter(listed)
        to_first = free_space_propagator(ky, kx, -0.5 * (len(listed) - 1) * thickness, voltage)
        wave = torch.fft.ifft2(torch.fft.fft2(incident.to(_complex(first))) * to_first)
    for projected in slices:
        transmission = torch.exp(factor * projected.to(_complex(first)))
        if wave is not None and count:
            wave = torch.fft.ifft2(torch.fft.fft2(wave) * kernel)
        wave = transmission if wave is None else wave * transmission
        count += 1
    back = free_space_propagator(ky, kx, -0.5 * (count - 1) * thickness, voltage)
    if aperture is not None:
        back = back * aperture
    if wave is None:  # not reachable: the caller has seen the first slice
        raise InputError("slices", "there are none", "Give at least one slice.")
    result: Tensor = torch.fft.ifft2(torch.fft.fft2(wave) * back)
    return result


def inelastic_amplitude(thickness_in_angstroms: Tensor, mean_free_path_in_angstroms: float) -> Tensor:
    """Factor exp(-t / 2Λ) on the elastic wave: electrons that lost energy are filtered out, |ψ|² falls by exp(-t/Λ)."""
    return torch.exp(-0.5 * thickness_in_angstroms / mean_free_path_in_angstroms)


def image_intensity(wave: Tensor, transfer: Tensor) -> Tensor:
    """Intensity |F⁻¹[F ψ · transfer]|² (..., y, x), relative to the incident beam.

    ``transfer`` is the wave transfer exp(-iχ) times envelopes on the full grid (:func:`wave_frequency_grid`). Envelopes
    on the wave are exact for the linear (object times background) part of the image, an approximation for the quadratic
    part.
    """
    image = torch.fft.ifft2(torch.fft.fft2(wave) * transfer)
    intensity: Tensor = image.real.square() + image.imag.square()
    return intensity


def weak_phase_intensity(projected_potential: Tensor, ctf: Tensor, voltage_in_kilovolts: float) -> Tensor:
    """Linear image 1 - 2 F⁻¹[CTF · F(σ V_z)] (..., y, x) of a weak object; ``ctf`` on the half grid."""
    spectrum = rfft2(interaction_constant(voltage_in_kilovolts) * projected_potential)
    height, width = projected_potential.shape[-2:]
    return 1 - 2 * irfft2(spectrum * ctf, (height, width))


def slices_from_volume(volume: Tensor, voxel_size_in_angstroms: float, voxels_per_slice: int = 1) -> Iterator[Tensor]:
    """Yield projected potentials [V Å] (..., y, x) of a volume (..., z, y, x) [V], low z first."""
    for start in range(0, volume.shape[-3], voxels_per_slice):
        yield volume[..., start : start + voxels_per_slice, :, :].sum(-3) * voxel_size_in_angstroms


def _view_grid(rotations: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Where every voxel (b, z, y, x) of the view lies in the map, as ``grid_sample`` wants it (x, y, z in [-1, 1])."""
    axes = [torch.arange(n, device=rotations.device, dtype=rotations.dtype) - n // 2 for n in shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    points = torch.stack([x, y, z], -1) @ rotations[:, None, None]  # rows: p @ A = Aᵀ p, from the view into the map
    sizes = torch.tensor(shape[::-1], device=rotations.device, dtype=rotations.dtype)
    return (2 * (points + torch.div(sizes, 2, rounding_mode="floor")) + 1) / sizes - 1


def rotate_volume(volume: Tensor, rotations: Tensor) -> Tensor:
    """Volumes (b, z, y, x) as seen in the frames of the rotations (b, 3, 3).

    Trilinear interpolation about voxel n // 2; linear in the volume; zero outside the box. ``rotations`` take a point
    (x, y, z) of the map into the view.
    """
    shape = (int(volume.shape[-3]), int(volume.shape[-2]), int(volume.shape[-1]))
    turns = rotations.reshape(-1, 3, 3).to(volume)
    views = [
        grid_sample(volume[None, None], _view_grid(turn[None], shape), mode="bilinear", align_corners=False)[0, 0]
        for turn in turns
    ]
    return torch.stack(views).reshape(*rotations.shape[:-2], *shape)


def _slice_points(rotations: Tensor, side: int, padded: int) -> tuple[Tensor, Tensor]:
    """Central slices as ``grid_sample`` points of a half volume (z, y shifted; x from 0), and which are mirrored."""
    ky = torch.fft.fftfreq(side, d=1 / side, device=rotations.device, dtype=rotations.dtype)
    kx = torch.arange(side // 2 + 1, device=rotations.device, dtype=rotations.dtype)
    plane = torch.stack([kx.expand(side, -1), ky[:, None].expand(-1, kx.numel())], -1) * (padded / side)
    points = plane @ rotations[:, None, :2, :]  # (b, h, w, 3) as x, y, z in voxels of the padded transform
    mirrored = points[..., 0] < 0
    points = torch.where(mirrored[..., None], -points, points)
    halves = torch.tensor([padded // 2, padded - 1, padded - 1], device=rotations.device, dtype=rotations.dtype)
    origin = torch.tensor([0, padded // 2, padded // 2], device=rotations.device, dtype=rotations.dtype)
    return 2 * (points + origin) / halves - 1, mirrored


def project_volume(volume: Tensor, rotations: Tensor, voxel_size_in_angstroms: float, *, padding: int = 2) -> Tensor:
    """Projections [V Å] (..., y, x) of a cubic volume (z, y, x) [V] along the beam, by central Fourier slices.

    The volume is corrected for trilinear interpolation (1 / sinc² of the radius), padded, transformed, and sampled on
    the planes; exactly linear in the volume. Frequencies beyond Nyquist's sphere are zero. Voxel n // 2 is the centre
    of rotation. :func:`backproject_images` is its adjoint.

    Raises
    ------
    InputError
        The volume is not a cube.
    """
    side = int(volume.shape[-1])
    if tuple(volume.shape) != (side, side, side):
        raise InputError("volume", f"shape {tuple(volume.shape)} is not a cube", "Pad it to (n, n, n).")
    if padding < 1:
        raise InputError("padding", f"{padding}", "Use 2.")
    padded = padding * side + (padding * side) % 2
    before = padded // 2 - side // 2
    axis = (torch.arange(side, device=volume.device, dtype=volume.dtype) - side // 2) / padded
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    corrected = volume / torch.sinc(radius.clamp_max(0.5 * math.sqrt(3) / padding)) ** 2
    box = pad(corrected, (before, padded - side - before) * 3)
    spectrum = torch.fft.fftshift(torch.fft.rfftn(torch.fft.ifftshift(box)), dim=(0, 1))
    channels = torch.view_as_real(spectrum).permute(3, 0, 1, 2)[None]
    turns = rotations.reshape(-1, 3, 3).to(volume)
    points, mirrored = _slice_points(turns, side, padded)
    sampled = grid_sample(channels, points[None], mode="bilinear", align_corners=True)[0]  # (2, b, h, w)
    planes = torch.complex(sampled[0], torch.where(mirrored, -sampled[1], sampled[1]))
    ky = torch.fft.fftfreq(side, device=volume.device, dtype=volume.dtype)[:, None]
    kx = torch.fft.rfftfreq(side, device=volume.device, dtype=volume.dtype)[None, :]
    inside = (ky * ky + kx * kx) < 0.25
    # Bring the centre of rotation from pixel 0 to pixel n // 2.
    phase = -2 * math.pi * (side // 2) * (ky + kx)
    planes = planes * torch.polar(inside.to(volume.dtype), phase)
    images = torch.fft.irfft2(planes, s=(side, side)) * voxel_size_in_angstroms
    result: Tensor = images.reshape(*rotations.shape[:-2], side, side)
    return result


def backproject_images(
    images: Tensor, rotations: Tensor, voxel_size_in_angstroms: float, *, padding: int = 2
) -> Tensor:
    """Adjoint of :func:`project_volume`: images (..., y, x) to a volume (z, y, x) with ⟨P v, i⟩ = ⟨v, Pᵀ i⟩."""
    side = int(images.shape[-1])
    start = torch.zeros(side, side, side, dtype=images.dtype, device=images.device)
    with torch.enable_grad():
        _, pull = torch.func.vjp(  # type: ignore[misc]
            lambda v: project_volume(v, rotations, voxel_size_in_angstroms, padding=padding), start
        )
        volume: Tensor = pull(images.expand(*rotations.shape[:-2], side, side))[0]
    return volume


def _uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _apply_free_space(waves: Tensor, parameters: Parameters, generator: Generator | None) -> Tensor:
    shape = (int(waves.shape[-2]), int(waves.shape[-1]))
    dtype = torch.float64 if waves.dtype == torch.complex128 else torch.float32
    ky, kx = wave_frequency_grid(shape, number(parameters, "pixel_size_in_angstroms"), device=waves.device, dtype=dtype)
    voltage = number(parameters, "voltage_in_kilovolts")
    kernel = free_space_propagator(ky, kx, number(parameters, "distance_in_angstroms"), voltage)
    result: Tensor = torch.fft.ifft2(torch.fft.fft2(waves) * kernel)
    return result


def _apply_projection(volumes: Tensor, parameters: Parameters, generator: Generator | None) -> Tensor:
    angles = [torch.tensor(number(parameters, f"{name}_in_degrees")) for name in ("rot", "tilt", "psi")]
    turn = euler_to_matrix(*angles)
    voxel = number(parameters, "voxel_size_in_angstroms")
    images = [project_volume(v, turn, voxel) for v in volumes.reshape(-1, *volumes.shape[-3:])]
    return torch.stack(images).reshape(*volumes.shape[:-3], *volumes.shape[-2:])


def _apply_multislice(volumes: Tensor, parameters: Parameters, generator: Generator | None) -> Tensor:
    voxel = number(parameters, "voxel_size_in_angstroms")
    return exit_wave(
        slices_from_volume(volumes, voxel),
        pixel_size_in_angstroms=voxel,
        slice_thickness_in_angstroms=voxel,
        voltage_in_kilovolts=number(parameters, "voltage_in_kilovolts"),
        amplitude_contrast=number(parameters, "amplitude_contrast"),
    )


MECHANISMS: tuple[Mechanism, ...] = (
    Mechanism(
        name="free_space",
        cause="defocus",
        stage="scattering",
        apply=_apply_free_space,
        sample_parameters=lambda g: {
            "pixel_size_in_angstroms": 1.0,
            "voltage_in_kilovolts": 300.0,
            "distance_in_angstroms": _uniform(g, -500, 500),
        },
        ideal=MappingProxyType({"distance_in_angstroms": 0.0}),
        bounds=MappingProxyType({"distance_in_angstroms": (-1e5, 1e5)}),
        units=MappingProxyType({"distance_in_angstroms": "Å"}),
        linear=True,
        random=False,
        differentiable=True,
        input_kind="wave",
    ),
    Mechanism(
        name="projection",
        cause="pose",
        stage="scattering",
        apply=_apply_projection,
        sample_parameters=lambda g: {
            "voxel_size_in_angstroms": 1.0,
            "rot_in_degrees": _uniform(g, -180, 180),
            "tilt_in_degrees": _uniform(g, 0, 180),
            "psi_in_degrees": _uniform(g, -180, 180),
        },
        ideal=MappingProxyType({"rot_in_degrees": 0.0, "tilt_in_degrees": 0.0, "psi_in_degrees": 0.0}),
        bounds=MappingProxyType(
            {"rot_in_degrees": (-180.0, 180.0), "tilt_in_degrees": (0.0, 180.0), "psi_in_degrees": (-180.0, 180.0)}
        ),
        units=MappingProxyType({"rot_in_degrees": "degree", "tilt_in_degrees": "degree", "psi_in_degrees": "degree"}),
        linear=True,
        random=False,
        differentiable=True,
        input_kind="volume",
        ideal_is_identity=False,
        ideal_note="The volume summed along the beam, in the map's own orientation.",
    ),
    Mechanism(
        name="multislice",
        cause="specimen",
        stage="scattering",
        apply=_apply_multislice,
        sample_parameters=lambda g: {
            "voxel_size_in_angstroms": 1.0,
            "voltage_in_kilovolts": 300.0,
            "amplitude_contrast": _uniform(g, 0, 0.2),
        },
        ideal=MappingProxyType({"amplitude_contrast": 0.0}),
        bounds=MappingProxyType({"amplitude_contrast": (0.0, 0.5)}),
        units=MappingProxyType({"amplitude_contrast": "1"}),
        linear=False,
        random=False,
        differentiable=True,
        input_kind="volume",
        ideal_is_identity=False,
        ideal_note="The exit wave of a pure phase object; its mean intensity is 1.",
    ),
)
