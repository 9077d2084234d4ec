"""Particles with poses against a map: what the microscope should have made of each view, beside what it recorded.

Everything that needs poses to be measured (defocus of single particles, beam tilt, what motion left of the signal)
compares the transform X of a particle with the prediction C · R: its contrast transfer times the slice R of the half
map *of its own half set*, so that the halves stay independent. The half map's noise is taken out of R by the
correlation of the halves: E[V | half map] = FSC · (half map) per shell. Shells beyond FSC = 0.143 are not used.

A half map holds a share of the noise of every particle it was made of, and poses were found by agreeing with it. Both
make X and C · R agree beyond the signal, most where C is what it was when the map was made: untreated, this holds every
parameter at its old value, the more so the fewer the particles. How much it is can be measured, since a particle
agrees with the *other* half's map through the signal alone:

    λ(shell) = Σ Re[X* · C (R_own - R_other)] / Σ C² σ²,     E[X* R_own] = signal + λ · C_old · σ².

This mean is subtracted wherever the own half is used. A beam tilt, a few numbers from all particles, is fitted to the
other half outright.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoprism.core import InputError, euler_to_matrix, rfft2
from cryoprism.formats import Particles, read_particle_images
from cryoprism.microscope.optics import Lens, odd_aberration_phase
from cryoprism.particles import transfer_at

from ._packing import pack, packed_frequencies, packed_shells
from .map_reference import MapReference

__all__ = [
    "Match",
    "MatchedBatch",
    "NoiseLevels",
    "beam_tilt_phase",
    "match_particles",
    "matched_batches",
    "noise_levels",
]

_FEWEST = 8
#: Standard deviations by which the images of a half must agree with its map.
_LEAST_AGREEMENT = 4.0
_CLEARLY = 5.0  # standard deviations
_SURE = 4.0
_FILTERED = 1.25


@dataclass(frozen=True)
class NoiseLevels:
    """How much of each coefficient of a particle is noise, and how the map's units compare with the images'.

    Attributes
    ----------
    micrograph
        (n,) number of each particle's micrograph.
    names
        Of the micrographs, in the order of the numbers.
    variance
        (m, radius + 1) variance of a coefficient per micrograph and shell; index 0 is not used.
    scale
        Of the images over the half maps; one for both halves.
    own_share
        (radius + 1,) λ: the share of its own noise that a particle meets again in its half map.
    map_gain
        (radius + 1,) by which a shell of the maps is too weak beside the images: 1 in maps as they were reconstructed;
        in filtered ones what the shells before the filter's edge show, 0 from there on.
    """

    micrograph: Tensor
    names: tuple[str, ...]
    variance: Tensor
    scale: float
    own_share: Tensor
    map_gain: Tensor


@dataclass(frozen=True)
class Match:
    """Everything to compare particles with a map.

    Attributes
    ----------
    particles
        With poses, defocus and one size and pixel size of images.
    reference
        The half maps.
    half_set
        (n,) 1 or 2.
    noise
        Levels measured on these particles.
    device
        Where the work is done.
    made_with
        The table as it was when the half maps were made.
    batch_size
        Images in memory at a time.
    """

    particles: Particles
    reference: MapReference
    half_set: Tensor
    noise: NoiseLevels
    device: torch.device
    made_with: Particles
    batch_size: int = 128

    @property
    def finest_in_angstroms(self) -> float:
        """Detail down to which the half maps hold what the particles show."""
        shells = int((self.noise.map_gain > 0).sum()) - 1
        return self.reference.box * self.reference.pixel_size_in_angstroms / max(shells, 1)

    def with_particles(self, particles: Particles) -> Match:
        """Return the same with other parameters of the same images, such as a refined defocus."""
        return replace(self, particles=particles)


@dataclass(frozen=True)
class MatchedBatch:
    """Some particles beside their predictions, packed at the reference's radius.

    Attributes
    ----------
    indices
        (n,) positions in the table.
    observed
        (n, N) transforms moved to the centre, freed of the beam tilt that the table gives.
    predicted
        (n, N) slices in the units of the images, without contrast transfer.
    transfer
        (n, N) contrast transfer C.
    weight
        (n, N) 1 over the variance of the noise.
    own
        (n, N) mean of Re(X* R) that is the particle's own noise in its half map; 0 for the other half's.
    """

    indices: Tensor
    observed: Tensor
    predicted: Tensor
    transfer: Tensor
    weight: Tensor
    own: Tensor


def match_particles(
    particles: Particles,
    reference: MapReference,
    half_set: Tensor,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 128,
) -> Match:
    """Check particles against the half maps and measure their noise (one pass over the images).

    Raises
    ------
    InputError
        No poses, no defocus, images of another size or pixel size than the maps, a pixel size that varies, images that
        do not resemble the map at all.
    """
    where = particles.source or "particles"
    if particles.angles_in_degrees is None:
        raise InputError(
            where,
            "gives no angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi)",
            "Find the poses first, with 'cryoprism refine' or RELION, and give its table.",
        )
    if particles.defocus is None:
        raise InputError(
            where,
            "gives no defocus (rlnDefocusU, rlnDefocusV, rlnDefocusAngle)",
            "Estimate the CTF ('cryoprism restore') and extract and refine again, or give the table of the refinement.",
        )
    sizes = particles.pixel_size_in_angstroms
    if float(sizes.max() / sizes.min()) > 1.0001:
        raise InputError(
            where,
            f"holds images of several pixel sizes ({float(sizes.min()):g} to {float(sizes.max()):g} Å)",
            "Extract them at one pixel size ('cryoprism extract --scale'), or refine each optics group on its own.",
        )
    if abs(float(sizes[0]) / reference.pixel_size_in_angstroms - 1) > 0.01:
        raise InputError(
            where,
            f"images of {float(sizes[0]):g} Å per pixel for maps of {reference.pixel_size_in_angstroms:g} Å",
            "Give the half maps that were made of these particles.",
        )
    if len(half_set) != len(particles):
        raise InputError("half sets", f"{len(half_set)} for {len(particles)} particles", "Give one per particle.")
    noise = noise_levels(particles, reference, half_set, device=device, batch_size=batch_size)
    return Match(particles, reference, half_set, noise, torch.device(device), particles, batch_size)


@dataclass(frozen=True)
class _Raw:
    """Some particles beside their slices: positions, rotations, transforms, slices, contrast transfers."""

    indices: Tensor
    rotations: Tensor
    observed: Tensor
    predicted: Tensor
    transfer: Tensor


def _raw_batches(
    particles: Particles, reference: MapReference, half_set: Tensor, device: torch.device, batch_size: int
) -> Iterator[_Raw]:
    """Read particles batch by batch and slice the maps of the given half sets."""
    assert particles.angles_in_degrees is not None
    radius, box = reference.radius, reference.box
    k = packed_frequencies(radius, device).float() / box
    for start in range(0, len(particles), batch_size):
        chosen = torch.arange(start, min(len(particles), start + batch_size))
        images = read_particle_images(particles, chosen).to(device)
        if images.shape[-1] != box:
            raise InputError(
                particles.source or "particles",
                f"images of {images.shape[-1]} pixels for maps of {box}",
                "Give the half maps that were made of these particles.",
            )
        observed = pack(rfft2(images), radius)
        if particles.origins_in_angstroms is not None:
            origins = particles.origins_in_angstroms[chosen] / particles.pixel_size_in_angstroms[chosen, None]
            turns = origins.to(k) @ k.T
            observed = observed * torch.polar(torch.ones_like(turns), -2 * math.pi * turns)
        odd = beam_tilt_phase(particles, radius, box, chosen, device)
        if odd is not None:
            observed = observed * torch.polar(torch.ones_like(odd), odd)
        rotations = euler_to_matrix(*particles.angles_in_degrees[chosen].unbind(-1)).float().to(device)
        predicted = reference.slices(rotations, half_set[chosen].to(device))
        yield _Raw(chosen, rotations, observed, predicted, _transfer(particles, k, chosen))


def _transfer(particles: Particles, k: Tensor, chosen: Tensor) -> Tensor:
    return transfer_at(particles, k[None, :, 1], k[None, :, 0], chosen)[:, 0]


def beam_tilt_phase(
    particles: Particles, radius: int, box: int, indices: Tensor, device: torch.device | str = "cpu"
) -> Tensor | None:
    """Odd phase χ (n, N) [rad] of the beam tilt in the table, packed; None where there is none.

    The transform of an image carries exp(-iχ), see :func:`cryoprism.microscope.odd_aberration_phase`.
    """
    tilt = particles.beam_tilt_in_milliradians
    if tilt is None or not bool((tilt[indices] != 0).any()):
        return None
    k = packed_frequencies(radius, device).float() / box
    optics = torch.stack(
        [
            particles.voltage_in_kilovolts[indices],
            particles.spherical_aberration_in_millimeters[indices],
            particles.pixel_size_in_angstroms[indices],
            *tilt[indices].T,
        ],
        dim=1,
    )
    distinct, group = torch.unique(optics, dim=0, return_inverse=True)
    phases = []
    for voltage, aberration, pixel, x, y in distinct.tolist():
        lens = Lens(voltage_in_kilovolts=voltage, spherical_aberration_in_millimeters=aberration)
        at = k / pixel
        phases.append(
            odd_aberration_phase(at[:, 1], at[:, 0], lens, beam_tilt_x_in_milliradians=x, beam_tilt_y_in_milliradians=y)
        )
    return torch.stack(phases)[group.to(device)]


def _micrographs(particles: Particles) -> tuple[Tensor, tuple[str, ...]]:
    names = particles.micrograph_names or ("all",) * len(particles)
    distinct = tuple(dict.fromkeys(names))
    number = {name: i for i, name in enumerate(distinct)}
    return torch.tensor([number[name] for name in names]), distinct


def noise_levels(
    particles: Particles,
    reference: MapReference,
    half_set: Tensor,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 128,
) -> NoiseLevels:
    """Noise per micrograph and shell, and the scale of the half maps, by regression of images on predictions.

    σ² = mean |X - a · C · R|² over the coefficients of a shell. A micrograph with fewer than 8 particles gets the
    shape of the noise of all, at its own level. Agreement is measured with the other half's map.

    Raises
    ------
    InputError
        The images do not resemble the map: wrong poses, map, pixel size or contrast.
    """
    target = torch.device(device)
    number, names = _micrographs(particles)
    radius = reference.radius
    shell = packed_shells(radius, target)
    # Per micrograph, half and shell: Σ|X|², Σ Re X* C R of the other half and of the own, Σ |C R|², Σ C².
    sums = torch.zeros(5, len(names) * 2, radius + 1, dtype=torch.float64, device=target)
    for raw in _raw_batches(particles, reference, half_set, target, batch_size):
        row = (2 * number[raw.indices] + half_set[raw.indices] - 1).to(target)
        other = reference.slices(raw.rotations, 3 - half_set[raw.indices].to(target))
        filtered = raw.observed.conj() * raw.transfer
        parts = (
            raw.observed.abs() ** 2,
            (filtered * other).real,
            (filtered * raw.predicted).real,
            (raw.transfer * raw.predicted).abs() ** 2,
            raw.transfer**2,
        )
        for total, values in zip(sums, parts, strict=True):
            by_shell = torch.zeros(values.shape[0], radius + 1, device=target).index_add_(1, shell, values)
            total.index_add_(0, row, by_shell.double())
    power, cross, own, model, squares = sums.cpu().view(5, len(names), 2, radius + 1)
    count = torch.bincount(shell.cpu(), minlength=radius + 1).double()
    members = torch.bincount(number, minlength=len(names)).double()
    level = (power.sum((0, 1)) / (members.sum() * count).clamp_min(1)).clamp_min(1e-300)
    scale = float((cross.sum((0, 1)) / level).sum() / (model.sum((0, 1)) / level).sum().clamp_min(1e-300))
    present = torch.bincount(half_set - 1, minlength=2) > 0
    # A map holds the noise of its own particles: what they resemble more is their half.
    nearer = ((own - cross).sum(0) / level).sum(-1)
    spread = (model.sum(0) / level).sum(-1).sqrt()
    if bool(present.all()) and bool((nearer < -_CLEARLY * spread).all()):
        raise InputError(
            particles.source or "particles",
            "the particles of each half resemble the other half's map more than their own",
            "The half maps are swapped: give the first of them in --half1.",
        )
    clear = (cross.sum(0) / level).sum(-1) / (0.5 * (model.sum(0) / level).sum(-1)).sqrt().clamp_min(1e-300)
    if bool((clear[present] < _LEAST_AGREEMENT).any()):
        raise InputError(
            particles.source or "particles",
            "the images do not resemble the half maps in these poses",
            "Check that the half maps and this table are of one refinement, and that protein is bright.",
        )
    residual = power - 2 * scale * cross + scale**2 * model
    per_micrograph = residual.sum(1)
    shape = per_micrograph.sum(0) / (members.sum() * count).clamp_min(1)
    shape[0] = shape[1]
    shape = shape.clamp_min(1e-6 * float(shape.max()))
    mine = per_micrograph / (members[:, None] * count).clamp_min(1)
    ratio = (mine[:, 1:] / shape[1:] * count[1:]).sum(1) / count[1:].sum()
    variance = torch.where((members >= _FEWEST)[:, None], mine, ratio[:, None] * shape)
    variance[:, 0] = variance[:, 1]
    variance = variance.clamp_min(1e-3 * shape)
    excess = scale * (own - cross).sum((0, 1)) / (squares.sum(1) * variance).sum(0).clamp_min(1e-300)
    strength = scale * model.sum((0, 1)).clamp_min(1e-300)
    error = (0.5 * (model.sum(1) * variance).sum(0)).sqrt() / strength
    gain = _map_gain(cross.sum((0, 1)) / strength, error)
    return NoiseLevels(number, names, variance.float(), scale, excess.clamp_min(0.0).float(), gain.float())


def _map_gain(ratio: Tensor, error: Tensor) -> Tensor:
    """Gain (shells,) of :class:`NoiseLevels` from the regression of the images on the maps, with its standard error.

    Wrong defoci and poses make a ratio smaller, never larger, so that one clearly above 1 is a filter's doing: there
    the maps end. Up to there what the regression says is used, since the one scale of all shells was drawn to the
    filtered ones, and at low frequency an amplitude off by a hundredth counts as 100 Å of defocus.
    """
    sure = _SURE * error
    gone = (ratio - sure > _FILTERED) | (ratio + sure < 0.0)
    gone[0] = False
    if not bool(gone.any()):
        return torch.ones_like(ratio)
    gain = torch.where(gone.int().cumsum(0) == 0, ratio.clamp_min(0.0), 0.0)
    gain[0] = 1.0
    return gain


def matched_batches(match: Match, *, other_half: bool = False) -> Iterator[MatchedBatch]:
    """Particles beside their predictions, batch by batch.

    Parameters
    ----------
    match
        What is to be compared.
    other_half
        Predict from the other half's map, which shares nothing but the signal with the particle: for a few parameters
        of many particles only, or the halves are no longer independent.
    """
    radius = match.reference.radius
    shell = packed_shells(radius, match.device)
    k = packed_frequencies(radius, match.device).float() / match.reference.box
    noise = match.noise
    half_set = 3 - match.half_set if other_half else match.half_set
    share = noise.own_share.to(match.device)[shell]
    for raw in _raw_batches(match.particles, match.reference, half_set, match.device, match.batch_size):
        variance = noise.variance.to(match.device)[noise.micrograph[raw.indices].to(match.device)][:, shell]
        if other_half:
            own = torch.zeros((), device=match.device).expand(variance.shape)
        else:
            own = share * variance * _old_transfer(match, raw, k)
        yield MatchedBatch(raw.indices, raw.observed, noise.scale * raw.predicted, raw.transfer, 1.0 / variance, own)


def _old_transfer(match: Match, raw: _Raw, k: Tensor) -> Tensor:
    """Give what the half maps took each particle's noise in with, seen from the table as it is now.

    A beam tilt that was found since turns the noise against what is in the map.
    """
    now, then = match.particles, match.made_with
    same = now.defocus is then.defocus and now.ctf_scale is then.ctf_scale
    old = raw.transfer if same else _transfer(then, k, raw.indices)
    if now.beam_tilt_in_milliradians is then.beam_tilt_in_milliradians:
        return old
    radius, box = match.reference.radius, match.reference.box
    phases = [beam_tilt_phase(table, radius, box, raw.indices, match.device) for table in (now, then)]
    zero = torch.zeros((), device=match.device)
    new, before = (zero if phase is None else phase for phase in phases)
    return old * torch.cos(new - before)
