"""Direct Fourier reconstruction of particles with known poses: CTF, half maps, point groups, weights per frequency.

Least squares with white or given noise (Wiener 1949; as in RELION, Scheres 2012, J. Struct. Biol. 180, 519)::

    V = (Σ Aᵢᵀ Hᵢ² / σᵢ² + 1 / τ²)⁻¹ Σ Aᵢᵀ Hᵢ Xᵢ / σᵢ²,     H = CTF · E

with the transform X of an image moved to its centre, the envelope E and the noise variance σ² of its micrograph, and
1 / τ² from the correlation of the half maps. Linear in the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoprism.core import InputError, euler_to_matrix, generator_for, point_group_matrices, rfft2
from cryoprism.formats import Particles, read_particle_images
from cryoprism.microscope.optics import Lens, odd_aberration_phase
from cryoprism.particles import transfer_at

from ._packing import pack, packed_frequencies
from ._transforms import PaddedGrid
from .accumulator import SliceAccumulator, split_point_group
from .fsc import fourier_shell_correlation
from .helical import HelicalCopies
from .weights import ParticleWeights

__all__ = [
    "ParticleBatch",
    "Reconstruction",
    "apply_beam_tilt",
    "insert_particles",
    "memory_of_reconstruction_in_bytes",
    "particle_batches",
    "reconstruct",
    "split_half_sets",
    "wiener_regularisation",
]


@dataclass(frozen=True)
class ParticleBatch:
    """Particles that are inserted together.

    Attributes
    ----------
    images
        (n, box, box), protein bright, centre of rotation at pixel box // 2.
    rotations
        (n, 3, 3), :func:`cryoprism.core.euler_to_matrix`.
    origins_in_pixels
        (n, 2) = x, y: the shift that brings the particle to the centre.
    half_set
        (n,) 1 or 2.
    transfer
        (n, N) packed contrast transfer; complex where a phase such as beam tilt's is in it. 1 if absent.
    envelope
        (n, N) packed amplitude that is left of the signal on top of the transfer; 1 if absent.
    noise_variance
        (n, N) packed variance of the noise; 1 if absent.
    """

    images: Tensor
    rotations: Tensor
    origins_in_pixels: Tensor
    half_set: Tensor
    transfer: Tensor | None = None
    envelope: Tensor | None = None
    noise_variance: Tensor | None = None


@dataclass(frozen=True)
class Reconstruction:
    """Maps of a set of particles.

    Attributes
    ----------
    map
        (box, box, box): all particles, with the Wiener weight of the half maps' correlation unless it was refused.
    half1, half2
        (box, box, box): the two halves alone, without it.
    fsc
        (box // 2 + 1,) correlation of the halves per shell, without a mask.
    counts
        Particles in each half.
    """

    map: Tensor
    half1: Tensor
    half2: Tensor
    fsc: Tensor
    counts: tuple[int, int]


def split_half_sets(particles: Particles, seed: int = 0) -> Tensor:
    """Half set (n,) of each particle, 1 or 2: kept where the table has one, else drawn for whole micrographs.

    Particles of one micrograph share its noise, so they stay together; where no micrograph, or only one, is named each
    particle is drawn alone. The halves differ by as few particles as whole micrographs allow.

    Raises
    ------
    InputError
        The table's half sets are something else than 1 and 2.
    """
    given = particles.half_set
    if given is not None and len(given):
        wrong = (given != 1) & (given != 2)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0, 0])
            raise InputError(
                particles.source or "particles",
                f"rlnRandomSubset is {int(given[row])} in row {row + 1}; half sets are 1 and 2",
                "Correct it, or delete the column rlnRandomSubset, so that halves are drawn.",
            )
        return given.long()
    names = particles.micrograph_names
    if names is None or len(set(names)) < 2:
        names = tuple(str(i) for i in range(len(particles)))
    count: dict[str, int] = {}
    for name in names:
        count[name] = count.get(name, 0) + 1
    order = torch.randperm(len(count), generator=generator_for(seed, "half-sets")).tolist()
    distinct = sorted(count)
    size, half = [0, 0], {}
    # Large micrographs first, each to the smaller half; the draw decides among equals.
    for i in sorted(order, key=lambda i: -count[distinct[i]]):
        chosen = 0 if size[0] <= size[1] else 1
        half[distinct[i]] = chosen + 1
        size[chosen] += count[distinct[i]]
    return torch.tensor([half[name] for name in names])


def particle_batches(
    particles: Particles,
    radius: int,
    *,
    half_set: Tensor | None = None,
    ctf: bool = True,
    weights: ParticleWeights | None = None,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
) -> Iterator[ParticleBatch]:
    """Read the images of a table batch by batch, with all that :func:`reconstruct` needs.

    Parameters
    ----------
    particles
        With angles; origins are 0 if absent.
    radius
        Of the packed coefficients [pixels].
    half_set
        (n,) 1 or 2; :func:`split_half_sets` if absent.
    ctf
        Whether to correct for the contrast transfer (and beam tilt); scale and B-factor of the table are part of it
        unless ``weights`` bring the envelope.
    weights
        Envelopes and noise per micrograph.
    batch_size
        Images in memory at a time.
    device
        Where the batches are.

    Raises
    ------
    InputError
        The table has no angles or no defocus, or its images cannot be read.
    """
    if particles.angles_in_degrees is None:
        raise InputError(
            particles.source or "particles",
            "gives no angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi)",
            "Refine the particles first.",
        )
    halves = split_half_sets(particles) if half_set is None else half_set
    angles = particles.angles_in_degrees
    for start in range(0, len(particles), batch_size):
        chosen = torch.arange(start, min(len(particles), start + batch_size))
        images = read_particle_images(particles, chosen)
        origins = (
            torch.zeros(len(chosen), 2, dtype=torch.float64)
            if particles.origins_in_angstroms is None
            else particles.origins_in_angstroms[chosen] / particles.pixel_size_in_angstroms[chosen, None]
        )
        k = packed_frequencies(radius).float() / images.shape[-1]
        transfer = envelope = noise = None
        if ctf:
            transfer = transfer_at(particles, k[None, :, 1], k[None, :, 0], chosen, damping=weights is None)[:, 0]
            transfer = apply_beam_tilt(transfer, particles, k, chosen)
        if weights is not None:
            envelope, noise = (t.to(device) for t in weights.at(chosen))
        yield ParticleBatch(
            images=images.to(device),
            rotations=euler_to_matrix(*angles[chosen].unbind(-1)).float().to(device),
            origins_in_pixels=origins.float().to(device),
            half_set=halves[chosen].to(device),
            transfer=None if transfer is None else transfer.to(device),
            envelope=envelope,
            noise_variance=noise,
        )


def apply_beam_tilt(transfer: Tensor, particles: Particles, k: Tensor, chosen: Tensor) -> Tensor:
    """Transfer (n, N) times the phase factor that the table's beam tilt leaves on the images; itself where it has none.

    Parameters
    ----------
    transfer
        (n, N) of the particles ``chosen``.
    k
        (N, 2) = x, y [cycles per pixel of the images].
    chosen
        (n,) positions in the table.
    """
    tilt = particles.beam_tilt_in_milliradians
    if tilt is None or not bool((tilt[chosen] != 0).any()):
        return transfer
    optics = torch.stack(
        [
            particles.voltage_in_kilovolts[chosen],
            particles.spherical_aberration_in_millimeters[chosen],
            particles.amplitude_contrast[chosen],
            particles.pixel_size_in_angstroms[chosen],
            *tilt[chosen].T,
        ],
        dim=1,
    )
    distinct, group = torch.unique(optics, dim=0, return_inverse=True)
    phases = []
    for voltage, aberration, contrast, pixel, x, y in distinct.tolist():
        lens = Lens(
            voltage_in_kilovolts=voltage, spherical_aberration_in_millimeters=aberration, amplitude_contrast=contrast
        )
        phases.append(
            odd_aberration_phase(
                k[:, 1] / pixel, k[:, 0] / pixel, lens, beam_tilt_x_in_milliradians=x, beam_tilt_y_in_milliradians=y
            )
        )
    return transfer * torch.exp(-1j * torch.stack(phases))[group]


def insert_particles(
    accumulators: tuple[SliceAccumulator, SliceAccumulator],
    batch: ParticleBatch,
    copies: Tensor,
    helix: HelicalCopies | None = None,
) -> None:
    """Insert a batch into the accumulators of the two halves.

    Parameters
    ----------
    accumulators
        Of half 1 and half 2.
    batch
        The particles.
    copies
        (c, 3, 3) rotations of the map under which each view is inserted again, the identity among them: the
        representatives of :func:`split_point_group`.
    helix
        Insert each view at its helical equivalents too.
    """
    grid = accumulators[0].grid
    box = int(batch.images.shape[-1])
    if box != grid.box or batch.images.shape[-2] != box:
        raise InputError("images", f"{tuple(batch.images.shape[-2:])} in a map of {grid.box}", "Use one box size.")
    values = pack(rfft2(batch.images), grid.max_radius)
    k = packed_frequencies(grid.max_radius, values.device).float()
    turns = batch.origins_in_pixels.to(k) @ k.T / -box
    values = values * torch.polar(torch.ones_like(turns), 2 * math.pi * turns)
    weights = torch.ones_like(turns)
    if batch.transfer is not None:
        values = values * batch.transfer.conj()
        weights = weights * (batch.transfer.abs() ** 2)
    if batch.envelope is not None:
        values = values * batch.envelope
        weights = weights * batch.envelope**2
    if batch.noise_variance is not None:
        values = values / batch.noise_variance
        weights = weights / batch.noise_variance
    for half, accumulator in enumerate(accumulators, start=1):
        mine = batch.half_set == half
        if not bool(mine.any()):
            continue
        for copy in copies.to(batch.rotations):
            turned = batch.rotations[mine] @ copy.T
            if helix is None:
                accumulator.add(values[mine], weights[mine], turned)
                continue
            for again, phases in helix.views(turned, k, box):
                accumulator.add(values[mine] * phases, weights[mine], again)


def memory_of_reconstruction_in_bytes(box: int, padding: int, radius: int, *, iterations: int = 3) -> int:
    """Peak memory of :func:`reconstruct` [bytes], without the images of a batch."""
    grid = PaddedGrid.of(box, padding, radius)
    # Sums of two halves, and while one map is made: folded sums, numerator, weight, shells, table.
    tables = (2 * 12 + 56) * grid.voxels
    return tables + (12 * grid.padded**3 if iterations > 0 else 8 * grid.padded**2 * box)


def wiener_regularisation(shell_weights: Tensor, fsc: Tensor, *, halves_to_whole: bool = True) -> Tensor:
    """1 / τ² per shell in an accumulator's units, from its shells' mean weight and the correlation of two half maps.

    The ratio of signal to noise is FSC / (1 - FSC) for a half, twice that for the whole set; FSC is kept within [0.001,
    0.9999].
    """
    correlation = fsc[: shell_weights.numel()].to(shell_weights).clamp(1e-3, 0.9999)
    ratio = correlation / (1 - correlation) * (2 if halves_to_whole else 1)
    return shell_weights / ratio


def reconstruct(
    batches: Iterable[ParticleBatch],
    box: int,
    *,
    symmetry: str = "C1",
    helix: HelicalCopies | None = None,
    padding: int = 2,
    max_radius: int | None = None,
    wiener: bool = True,
    iterations: int = 3,
    device: torch.device | str = "cpu",
) -> Reconstruction:
    """Reconstruct two half maps and the map of all particles; one batch is in memory at a time.

    Parameters
    ----------
    batches
        Of :func:`particle_batches`, or made otherwise.
    box
        Side of the images and of the map [pixels], even or odd.
    symmetry
        Point group.
    helix
        Helical copies to insert; besides a point group of the axis, such as C2.
    padding
        Of the transform; 2 as RELION.
    max_radius
        Radius of the frequencies used [pixels], that of the batches' packed arrays; (box - 1) // 2 if absent.
    wiener
        Whether the map of all particles is regularised by the correlation of the halves.
    iterations
        Of the conjugate gradients that account for uneven coverage, see :meth:`SliceAccumulator.reconstruct`.
    device
        Where the work is done.

    Raises
    ------
    InputError
        A half has no particles, or images of another size.
    """
    exact, copies = split_point_group(point_group_matrices(symmetry))
    first, second = (SliceAccumulator(box, padding, max_radius, device) for _ in range(2))
    counts = [0, 0]
    for batch in batches:
        insert_particles((first, second), batch, copies, helix)
        for half in (1, 2):
            counts[half - 1] += int((batch.half_set == half).sum())
    if min(counts) == 0:
        raise InputError(
            "half sets", f"{counts[0]} and {counts[1]} particles", "Give at least one particle to each half."
        )
    if exact.shape[0] > 1:
        first, second = first.symmetrised(exact), second.symmetrised(exact)
    half1 = first.reconstruct(iterations=iterations)
    half2 = second.reconstruct(iterations=iterations)
    fsc = fourier_shell_correlation(half1, half2, 1.0).fsc.float()
    first.sums.add_(second.sums)
    whole = first
    del second
    prior = wiener_regularisation(whole.shell_weights(), fsc) if wiener else None
    return Reconstruction(
        map=whole.reconstruct(prior, iterations=iterations),
        half1=half1,
        half2=half2,
        fsc=fsc,
        counts=(counts[0], counts[1]),
    )
