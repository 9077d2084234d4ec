"""The particles alone, each through the lens at its own defocus: the noise-free image that labels and noise start from.

``render`` carries whole layers of the slab through the lens. Where nothing but particles is wanted it is exact and much
faster to give each particle a box of its own, large enough for what its CTF delocalises, and to add the boxes up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import scipy.fft
import torch
from torch import Tensor

from cryoprism.core import frequency_grid, interaction_constant, irfft2, rfft2
from cryoprism.microscope.dose import damage_envelope
from cryoprism.microscope.motion import b_factor_envelope, jitter_envelope, track_transfer
from cryoprism.microscope.optics import contrast_transfer

from ._slab import coherence_envelope
from .placement import Placement
from .render import detector_of, motion_track
from .scene import Scene
from .species import Population, as_population
from .specimen import Specimen, project_specimen

__all__ = ["RadialCorrection", "particle_contrast", "particle_envelope"]

_BATCH_BYTES = 1 << 25
_VIEWS = 32  # batches of boxes whose views are projected together


@dataclass(frozen=True, eq=False)
class RadialCorrection:
    """Factor on the amplitude of a map by spatial frequency: what a map's own radial amplitudes lack against data.

    Maps come filtered, masked and sharpened; their low frequencies are seldom those of the molecule in ice. Linear
    between ``frequency`` [1/Å] (ascending), constant beyond the ends.
    """

    frequency: Tensor
    factor: Tensor

    def __call__(self, k: Tensor) -> Tensor:
        """Factor at frequencies [1/Å] of any shape."""
        index = torch.searchsorted(self.frequency, k.contiguous()).clamp(1, len(self.frequency) - 1)
        low, high = self.frequency[index - 1], self.frequency[index]
        share = ((k - low) / (high - low)).clamp(0, 1)
        return torch.lerp(self.factor[index - 1], self.factor[index], share)


def particle_envelope(scene: Scene, ky: Tensor, kx: Tensor) -> Tensor:
    """Everything but the CTF that acts on a particle's contrast (h, w), complex: damage, coherence, motion, B, MTF.

    ``ky`` and ``kx`` are frequencies [1/Å] that broadcast to (h, w).
    """
    k = torch.sqrt(ky * ky + kx * kx)
    value = coherence_envelope(scene, ky, kx)
    exposure = scene.damage_scale * scene.exposure_in_electrons_per_square_angstrom
    value = value * damage_envelope(k, scene.voltage_in_kilovolts, 0.0, exposure)
    value = value * b_factor_envelope(k, scene.envelope_b_factor_in_square_angstroms)
    value = value * jitter_envelope(k, scene.jitter_in_angstroms)
    value = value * detector_of(scene).mtf(k * scene.pixel_size_in_angstroms)
    track = motion_track(scene, max(64, scene.frames))
    return value * track_transfer(ky, kx, track[:, 0], track[:, 1])


def particle_contrast(
    scene: Scene,
    specimen: Specimen | Population,
    placement: Placement,
    *,
    finest_in_angstroms: float = 0.0,
    correction: RadialCorrection | None = None,
) -> Tensor:
    """Contrast (y, x) of the particles relative to a mean of 0, without noise, ice or anything else.

    Linear: -2 σ CTF(own defocus) envelope F(projected potential), as in the engine ``projection`` of ``render``, whose
    layers are 80 Å deep; here every particle has the CTF of its own height.

    Parameters
    ----------
    scene
        Optics, envelopes, size.
    specimen
        Who the particles are.
    placement
        Where they are; particles beyond the edge reach into the field.
    finest_in_angstroms
        Detail finer than this is left out, which makes the boxes smaller; 0 for all up to Nyquist.
    correction
        Of the radial amplitudes of all specimens.
    """
    image = torch.zeros(scene.shape)
    for s, species in enumerate(as_population(specimen).species):
        for c, conformation in enumerate(species.conformations):
            members = torch.nonzero((placement.species == s) & (placement.conformations == c))[:, 0]
            if len(members):
                _add(image, scene, conformation, placement, members, finest_in_angstroms, correction)
    return image


def _add(
    image: Tensor,
    scene: Scene,
    specimen: Specimen,
    placement: Placement,
    members: Tensor,
    finest: float,
    correction: RadialCorrection | None,
) -> None:
    pixel = scene.pixel_size_in_angstroms
    limit = min(0.5 / pixel, 1.0 / finest if finest > 0 else math.inf)
    heights = placement.centres_in_angstroms[members, 2]
    side = _box(scene, specimen, limit, heights)
    ky, kx = frequency_grid((side, side), pixel)
    k = torch.sqrt(ky * ky + kx * kx)
    factor = -2 * interaction_constant(scene.voltage_in_kilovolts)
    common = particle_envelope(scene, ky, kx) * (factor * (k <= limit))
    if correction is not None:
        common = common * correction(k)
    at = placement.centres_in_angstroms[members][:, [1, 0]] / pixel
    at = at + torch.tensor([scene.height_in_pixels // 2, scene.width_in_pixels // 2])
    whole = at.round()
    rest = (at - whole) * pixel
    corner = (whole.long() - side // 2).tolist()
    batch = max(1, _BATCH_BYTES // (side * side * 16))
    views = torch.zeros(0)
    for start in range(0, len(members), batch):
        part = slice(start, start + batch)
        if start % (batch * _VIEWS) == 0:  # many views a call: each call transforms the whole volume anew
            ahead = placement.rotations[members[start : start + batch * _VIEWS]]
            views = project_specimen(specimen, ahead, pixel, scene.specimen_b_factor_in_square_angstroms)
        first = start % (batch * _VIEWS)
        some = views[first : first + batch]
        before = side // 2 - some.shape[-1] // 2
        boxes = torch.zeros(some.shape[0], side, side)
        boxes[:, before : before + some.shape[-1], before : before + some.shape[-1]] = some
        ctf = contrast_transfer(ky, kx, scene.lens, **_aberrations(scene, heights[part]))
        seen = rfft2(boxes).mul_(ctf).mul_(common)
        for axis, frequency in ((0, ky), (1, kx)):
            seen.mul_(torch.exp(-2j * math.pi * (frequency * rest[part, axis, None, None])))
        seen = irfft2(seen, (side, side))
        for box, (top, left) in zip(seen, corner[part], strict=True):
            a, b = max(0, top), min(image.shape[0], top + side)
            c, d = max(0, left), min(image.shape[1], left + side)
            if a < b and c < d:
                image[a:b, c:d] += box[a - top : b - top, c - left : d - left]


def _aberrations(scene: Scene, heights: Tensor) -> dict[str, Tensor | float]:
    return {
        "defocus_u_in_angstroms": scene.defocus_u_in_angstroms + heights,
        "defocus_v_in_angstroms": scene.defocus_v_in_angstroms + heights,
        "defocus_angle_in_degrees": scene.astigmatism_angle_in_degrees,
        "phase_shift_in_degrees": scene.phase_shift_in_degrees,
    }


def _box(scene: Scene, specimen: Specimen, limit: float, heights: Tensor) -> int:
    """Side [px] of a box that holds the particle and the delocalisation λ Δf k - Cs λ³ k³ [Å] at the finest detail."""
    lens = scene.lens
    wavelength = lens.wavelength_in_angstroms
    cs = lens.spherical_aberration_in_millimeters * 1e7
    largest = float(heights.abs().max()) + abs(scene.defocus_in_angstroms) + 0.5 * abs(scene.astigmatism_in_angstroms)
    frequency = torch.linspace(0, limit, 64)
    spread = wavelength * largest * frequency
    reach = float(torch.maximum(spread, (spread - cs * wavelength**3 * frequency**3).abs()).max())
    track = motion_track(scene)
    reach += float(track.abs().max()) if len(track) else 0.0
    half = specimen.radius_in_angstroms + 20.0 + reach
    return 2 * int(scipy.fft.next_fast_len(math.ceil(half / scene.pixel_size_in_angstroms), real=True))
