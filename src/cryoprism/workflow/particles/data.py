"""Particles of a table as the search for poses needs them: checked, without duplicates, in half sets, packed."""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cryoprism.core import CryoPrismWarning, InputError, rfft2
from cryoprism.formats import Particles, Volume, read_map, read_particle_images, read_particles
from cryoprism.particles import leaked_halves, transfer_at
from cryoprism.structure import (
    INVERTED,
    apply_beam_tilt,
    contrast_significance,
    memory_of_reconstruction_in_bytes,
    pack,
    packed_frequencies,
    split_half_sets,
    weights_for_particles,
)
from cryoprism.workflow.jobs.memory import GIGABYTE, available_memory_in_bytes

from .duplicates import without_duplicates

__all__ = [
    "ParticleData",
    "checked_particles",
    "common_pixel_size",
    "even_fast_size",
    "load_particles",
    "read_reference",
    "require_memory",
    "require_reachable",
]

log = logging.getLogger("cryoprism")

_BATCH = 256
# Of a process with everything loaded, and of the slices that a search keeps.
_PROCESS_BYTES = 450_000_000
_CACHE_BYTES = 1_300_000_000


@dataclass(frozen=True)
class ParticleData:
    """Particles ready for the search of poses.

    Attributes
    ----------
    particles
        The table, with half sets, without duplicates.
    images
        (n, N) complex64 packed coefficients; beam tilt is taken off.
    transfer
        (n, N) float32 CTF times the envelope that is modelled.
    group
        (n,) number of the micrograph.
    box
        Side of the images after scaling [pixels].
    pixel_size_in_angstroms
        Of the images after scaling [Å].
    radius
        Shells that are there.
    duplicates
        How many particles were left out because they lie on others.
    """

    particles: Particles
    images: Tensor
    transfer: Tensor
    group: Tensor
    box: int
    pixel_size_in_angstroms: float
    radius: int
    duplicates: int = 0

    @property
    def half_set(self) -> Tensor:
        """(n,) 1 or 2."""
        return split_half_sets(self.particles)

    @property
    def counts(self) -> tuple[int, int]:
        """Particles in each half."""
        return int((self.half_set == 1).sum()), int((self.half_set == 2).sum())


def checked_particles(
    path: Path, *, diameter_in_angstroms: float, pixel_size_in_angstroms: float | None = None
) -> tuple[Particles, int, float]:
    """Read a table and refuse what no pose can be found for: the particles, their box [pixels] and pixel size [Å].

    Raises
    ------
    InputError
        No defocus, images of several pixel sizes, a box that the particle does not fit into, fewer than two particles.
    """
    particles = read_particles(path, pixel_size_in_angstroms=pixel_size_in_angstroms)
    if particles.defocus is None:
        raise InputError(
            path,
            "gives no defocus (rlnDefocusU, rlnDefocusV, rlnDefocusAngle)",
            "Run 'cryoprism restore' and extract from its micrographs.star.",
        )
    pixel = common_pixel_size(particles, "refine")
    if len(particles) < 2:
        raise InputError(path, f"holds {len(particles)} particle", "Two half maps need at least two.")
    box = int(read_particle_images(particles, [0]).shape[-1])
    if box * pixel <= diameter_in_angstroms:
        raise InputError(
            "--diameter",
            f"{diameter_in_angstroms:g} Å does not fit into the box of {box} pixels ({box * pixel:.4g} Å)",
            "Lower it, or extract the particles in a larger box.",
        )
    if box * pixel < 1.15 * diameter_in_angstroms:
        warnings.warn(
            f"{path}: the box of {box * pixel:.4g} Å is hardly larger than the particle; defocus carries detail out of "
            "it. About 1.4 diameters are better",
            CryoPrismWarning,
            stacklevel=3,
        )
    return particles, box, pixel


def common_pixel_size(particles: Particles, verb: str) -> float:
    """Pixel size that all images share [Å]; ``verb`` says in the remedy what may be done with each group on its own.

    Raises
    ------
    InputError
        There are several.
    """
    sizes = sorted(set(particles.pixel_size_in_angstroms.tolist()))
    if sizes[-1] / sizes[0] - 1 > 1e-4:
        raise InputError(
            particles.source or "particles",
            f"holds images of {len(sizes)} pixel sizes ({sizes[0]:g} to {sizes[-1]:g} Å)",
            f"Extract them at one pixel size ('cryoprism extract --scale'), or {verb} each optics group on its own.",
        )
    return float(sizes[0])


def require_reachable(limit_in_angstroms: float | None, pixel_size_in_angstroms: float) -> None:
    """Refuse a finest frequency that pixels of this size cannot show.

    Raises
    ------
    InputError
        The limit is beyond Nyquist.
    """
    finest = 2 * pixel_size_in_angstroms
    if limit_in_angstroms is not None and limit_in_angstroms < 0.999 * finest:
        raise InputError(
            "--maximum-resolution",
            f"{limit_in_angstroms:g} Å is finer than pixels of {pixel_size_in_angstroms:.4g} Å can show, which is "
            f"{finest:.4g} Å",
            "Give a coarser one, or leave it out to use all that there is.",
        )


def require_memory(
    where: Path, count: int, box: int, radius: int, limit_in_gigabytes: float | None, *, maps: int = 10
) -> None:
    """Say how much memory the search for poses takes; refuse where it does not fit.

    Parameters
    ----------
    where
        What an error names.
    count, box, radius
        Of the particles: their number, side [pixels] and shells.
    limit_in_gigabytes
        What may be used; what is free now if absent.
    maps
        Maps of the box that are alive together.
    """
    coefficients = int(packed_frequencies(radius).shape[0])
    # One half is copied while it is worked on.
    images = round(1.5 * count * coefficients * 12)
    table = memory_of_reconstruction_in_bytes(box, 2, radius)
    need = _PROCESS_BYTES + _CACHE_BYTES + images + table + maps * 4 * box**3
    available = available_memory_in_bytes() if limit_in_gigabytes is None else int(limit_in_gigabytes * GIGABYTE)
    log.info("Memory: about %.1f GB at most, %.1f GB available", need / GIGABYTE, available / GIGABYTE)
    if need > available:
        raise InputError(
            where,
            f"{count} particles of {box} pixels need about {need / GIGABYTE:.1f} GB but "
            f"{available / GIGABYTE:.1f} GB may be used",
            "Scale them down with --scale, free memory, or raise --max-memory.",
        )


def load_particles(
    particles: Particles,
    box: int,
    pixel_size_in_angstroms: float,
    *,
    diameter_in_angstroms: float,
    scaled_box: int | None = None,
    weights_folder: Path | None = None,
    min_distance_in_angstroms: float = 20.0,
    seed: int = 0,
    max_memory_in_gigabytes: float | None = None,
    on_batch: Callable[[str], None] = lambda name: None,
) -> ParticleData:
    """Read all images of a table, packed up to Nyquist of the scaled box.

    Parameters
    ----------
    particles, box, pixel_size_in_angstroms
        Of :func:`checked_particles`.
    diameter_in_angstroms
        Of the particle.
    scaled_box
        Side to which images are cropped in Fourier space [pixels].
    weights_folder
        Envelopes per micrograph; they stand in for the table's B-factor and scale.
    on_batch
        Called after every batch with the number of images read.

    Raises
    ------
    InputError
        Images that cannot be read or hold one value only, one image in both half sets, no weights for a micrograph, a
        scaled box beyond the box or too small for the particle, too little memory.
    """
    where = Path(particles.source or "particles")
    side = box if scaled_box is None else scaled_box
    if side > box:
        raise InputError("--scale", f"{side} pixels is more than the images' {box}", "Give a smaller side.")
    pixel = pixel_size_in_angstroms * box / side
    _require_fine_enough(diameter_in_angstroms, pixel_size_in_angstroms, scaled_box=scaled_box, scaled_pixel=pixel)
    given = particles.half_set is not None
    particles, dropped = without_duplicates(particles, min_distance_in_angstroms, seed)
    radius = (side - 1) // 2
    require_memory(where, len(particles), side, radius, max_memory_in_gigabytes)
    weights = None if weights_folder is None else weights_for_particles(weights_folder, particles, box, radius)
    k = packed_frequencies(radius).float() / box
    images = torch.empty(len(particles), k.shape[0], dtype=torch.complex64)
    transfer = torch.empty(len(particles), k.shape[0])
    digests: list[bytes] = []
    # A cropped transform is that of a smaller image but for this factor.
    factor = (side / box) ** 2
    for start in range(0, len(particles), _BATCH):
        chosen = torch.arange(start, min(start + _BATCH, len(particles)))
        batch = read_particle_images(particles, chosen)
        flat = batch.flatten(1).std(1) == 0
        if bool(flat.any()):
            row = int(chosen[int(flat.nonzero()[0, 0])])
            raise InputError(where, f"image {particles.image_names[row]} holds one value only", "Delete that row.")
        if batch.shape[-1] != box:
            raise InputError(where, f"images of {box} and {batch.shape[-1]} pixels", "Refine one box size at a time.")
        digests += [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in batch]
        contrast = transfer_at(particles, k[None, :, 1], k[None, :, 0], chosen, damping=weights is None)[:, 0]
        if weights is not None:
            contrast = contrast * weights.at(chosen)[0]
        phase = apply_beam_tilt(torch.ones_like(contrast), particles, k, chosen)
        packed = pack(rfft2(batch), radius) * factor
        images[chosen] = packed * phase.conj() if phase.is_complex() else packed
        transfer[chosen] = contrast
        on_batch(f"{int(chosen[-1]) + 1} images")
    keep = _first_of_each(digests)
    if not bool(keep.all()):
        if given:
            leaked_halves(particles, min_distance_in_angstroms=0)  # says which rows, where both halves hold one
        log.info("Left out %d images that stand in the table twice", int((~keep).sum()))
        dropped += int((~keep).sum())
        particles, images, transfer = particles.subset(keep), images[keep], transfer[keep]
    data = ParticleData(particles, images, transfer, _groups(particles), side, pixel, radius, dropped)
    if min(data.counts) == 0:
        raise InputError(where, f"half sets of {data.counts[0]} and {data.counts[1]} particles", "Both need some.")
    _warn_of_dark_particles(data, diameter_in_angstroms, where)
    return data


def _require_fine_enough(diameter: float, pixel: float, *, scaled_box: int | None, scaled_pixel: float) -> None:
    """Refuse a particle of fewer than six pixels; blame --scale only where the images themselves are fine enough."""
    if 6 * scaled_pixel <= diameter:
        return
    if 6 * pixel > diameter:
        raise InputError(
            "--diameter",
            f"{diameter:.4g} Å is less than six pixels of {pixel:.4g} Å: too small to find poses for",
            "Give the particle's diameter in Å, or correct the pixel size (--pixel-size or rlnImagePixelSize).",
        )
    raise InputError(
        "--scale",
        f"{scaled_box} pixels make them {scaled_pixel:.4g} Å wide, and a particle of {diameter:.4g} Å needs six",
        "Raise it, or leave it out.",
    )


def _first_of_each(digests: list[bytes]) -> Tensor:
    first: dict[bytes, int] = {}
    return torch.tensor([first.setdefault(digest, i) == i for i, digest in enumerate(digests)])


def _groups(particles: Particles) -> Tensor:
    """Micrograph (the optics group where none is named) and half set of each particle as a number.

    Where a table splits the particles of a micrograph, each half measures noise and strength by itself.
    """
    names = particles.micrograph_names
    if names is None and particles.optics_group is not None:
        names = tuple(f"{number:06d}" for number in particles.optics_group.tolist())
    elif names is None:
        names = ("",) * len(particles)
    keys = list(zip(names, split_half_sets(particles).tolist(), strict=True))
    number = {key: i for i, key in enumerate(sorted(set(keys)))}
    return torch.tensor([number[key] for key in keys])


def _warn_of_dark_particles(data: ParticleData, diameter: float, where: Path) -> None:
    """Protein has to be bright."""
    significance = contrast_significance(
        data.images,
        data.transfer,
        box=data.box,
        pixel_size_in_angstroms=data.pixel_size_in_angstroms,
        diameter_in_angstroms=diameter,
    )
    if significance < INVERTED:
        warnings.warn(
            f"{where}: the particles look dark on bright ground, but protein has to be bright. Extract them with "
            "contrast inverted",
            CryoPrismWarning,
            stacklevel=4,
        )


def read_reference(path: Path) -> Volume:
    """Read a map to start from.

    Raises
    ------
    InputError
        The file is no map, gives no voxel size, is not finite, is constant, or is no cube.
    """
    if not path.is_file():
        raise InputError("--reference", f"{path} does not exist", "Give a map in MRC format.")
    volume = read_map(path)
    if float(volume.data.float().std()) == 0:
        raise InputError(
            path,
            "holds one value only: it is no map",
            "Give a map of the particle, or make one with 'cryoprism initial-model'.",
        )
    if len(set(volume.data.shape)) != 1:
        size = " x ".join(str(n) for n in reversed(volume.data.shape))
        raise InputError(path, f"{size} voxels are no cube", "Pad the map to a cube about the particle's centre.")
    return volume


def even_fast_size(least: float) -> int:
    """Smallest even number from ``least`` on that has no prime factor above 5: transforms of it are fast."""
    size = max(2, 2 * math.ceil(least / 2))
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2
