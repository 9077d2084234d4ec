"""What is put into a scene: a phantom, an atomic model or a map, as potential volumes at any pixel size."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import scipy.fft
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from cryoprism.core import InputError
from cryoprism.microscope.potential import (
    AtomicModel,
    Solvent,
    average_hydrogens,
    potential_from_atoms,
    potential_from_map,
)
from cryoprism.microscope.scattering import project_volume

from .phantom import Phantom

__all__ = ["Specimen", "project_specimen", "slab_projections", "specimen_from_file", "specimen_from_phantom"]

_MAP_SUFFIXES = (".mrc", ".map", ".ccp4")
_STRUCTURE_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif")
_MARGIN_IN_ANGSTROMS = 8.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Specimen:
    """A particle: atoms, or a map of its potential against ice; the origin of both is the particle's centre.

    Parameters
    ----------
    name
        For labels.
    radius_in_angstroms
        Radius of the sphere that holds it.
    symmetry
        Point group.
    model
        Atoms with their B-factors; None for a map.
    density
        (z, y, x) [V] against ice; None for atoms.
    voxel_size_in_angstroms
        Of ``density``.
    takes_scene_b_factor
        Whether the scene's specimen B-factor counts (phantoms), or the atoms' own (files).
    """

    name: str
    radius_in_angstroms: float
    symmetry: str = "C1"
    model: AtomicModel | None = None
    density: Tensor | None = None
    voxel_size_in_angstroms: float = 0.0
    takes_scene_b_factor: bool = False


def specimen_from_phantom(made: Phantom) -> Specimen:
    """Return a phantom as a specimen; its carbons, nitrogens and oxygens carry the hydrogens of an average protein."""
    numbers = torch.from_numpy(made.atomic_numbers)
    model = AtomicModel(
        positions_in_angstroms=torch.from_numpy(made.positions_in_angstroms).float(),
        atomic_numbers=numbers,
        hydrogens=average_hydrogens(numbers),
    )
    return Specimen(
        name=made.name,
        radius_in_angstroms=made.radius_in_angstroms + 1.5,
        symmetry=made.symmetry,
        model=model,
        takes_scene_b_factor=True,
    )


def specimen_from_file(
    path: str | os.PathLike[str], *, assembly: str | None = None, molecular_mass_in_kilodaltons: float | None = None
) -> Specimen:
    """Read a specimen from a structure (PDB, mmCIF) or a map (MRC, CCP4).

    Parameters
    ----------
    path
        The file; its suffix decides. Waters are left out, hydrogens that a structure lacks are added on average.
    assembly
        Biological assembly of a structure, as in ``formats.read_structure``.
    molecular_mass_in_kilodaltons
        Needed for a map: it sets the map's scale and offset.

    Raises
    ------
    InputError
        Unknown suffix, unreadable file, or a map without its mass.
    """
    file = Path(path)
    suffixes = [s.lower() for s in file.suffixes[-2:]]
    if any(s in _STRUCTURE_SUFFIXES for s in suffixes):
        return _from_structure(file, assembly)
    if not any(s in _MAP_SUFFIXES for s in suffixes):
        known = ", ".join((*_STRUCTURE_SUFFIXES, *_MAP_SUFFIXES))
        raise InputError(file, "is neither a structure nor a map by its name", f"Give a file ending in one of {known}.")
    if molecular_mass_in_kilodaltons is None:
        raise InputError(
            file, "a map without a molecular mass has no scale", "Give the particle's mass in kDa (--mass)."
        )
    from cryoprism.formats.maps import read_map

    volume = read_map(file)
    density = potential_from_map(
        volume.data,
        volume.voxel_size_in_angstroms,
        molecular_mass_in_daltons=1000.0 * molecular_mass_in_kilodaltons,
    )
    side = max(density.shape)
    cube = _centre_pad(density, side)
    return Specimen(
        name=file.stem,
        radius_in_angstroms=_map_radius(cube, volume.voxel_size_in_angstroms),
        density=cube,
        voxel_size_in_angstroms=volume.voxel_size_in_angstroms,
    )


def _from_structure(file: Path, assembly: str | None) -> Specimen:
    from cryoprism.formats.structures import read_structure

    atoms = read_structure(file, assembly, include_waters=False)
    known = (atoms.atomic_numbers > 0) & (atoms.models == 0)
    atoms = atoms.select(known)
    centre = atoms.positions_in_angstroms.mean(0)
    explicit = bool((atoms.atomic_numbers == 1).any())
    model = AtomicModel(
        positions_in_angstroms=atoms.positions_in_angstroms - centre,
        atomic_numbers=atoms.atomic_numbers,
        b_factors_in_square_angstroms=atoms.b_factors_in_square_angstroms,
        occupancies=atoms.occupancies,
        hydrogens=0.0 if explicit else average_hydrogens(atoms.atomic_numbers),
    )
    radius = float(model.positions_in_angstroms.norm(dim=1).max()) + 1.5
    return Specimen(name=file.stem, radius_in_angstroms=radius, model=model)


def _centre_pad(volume: Tensor, side: int) -> Tensor:
    cube = volume.new_zeros(side, side, side)
    starts = [side // 2 - n // 2 for n in volume.shape]
    cube[tuple(slice(s, s + n) for s, n in zip(starts, volume.shape, strict=True))] = volume
    return cube


def _map_radius(density: Tensor, voxel: float) -> float:
    """Radius [Å] that holds 99.5 % of the squared density."""
    side = density.shape[0]
    axis = (torch.arange(side) - side // 2).float() * voxel
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt().flatten()
    order = radius.argsort()
    share = density.flatten()[order].double().square().cumsum(0)
    return float(radius[order][int(torch.searchsorted(share, 0.995 * share[-1]))])


@lru_cache(maxsize=4)
def _volume(specimen: Specimen, voxel: float, resolution: float, b_factor: float) -> Tensor:
    """Potential [V] in an even cube, without anything finer than ``resolution`` [Å]."""
    reach = specimen.radius_in_angstroms + _MARGIN_IN_ANGSTROMS
    side = 2 * int(scipy.fft.next_fast_len(math.ceil(reach / voxel)))
    if specimen.model is not None:
        model = specimen.model
        if specimen.takes_scene_b_factor:
            model = AtomicModel(
                positions_in_angstroms=model.positions_in_angstroms,
                atomic_numbers=model.atomic_numbers,
                b_factors_in_square_angstroms=b_factor,
                occupancies=model.occupancies,
                hydrogens=model.hydrogens,
            )
        volume = potential_from_atoms(model, voxel, shape=(side, side, side), center=False, solvent=Solvent())
    elif specimen.density is not None:
        volume = _resample(specimen.density, specimen.voxel_size_in_angstroms, voxel, side)
    else:
        raise InputError("specimen", f"'{specimen.name}' has neither atoms nor a map", "Give one of them.")
    spectrum = torch.fft.rfftn(volume)
    limited: Tensor = torch.fft.irfftn(spectrum * (_radius3(side, voxel) <= 1.0 / resolution), s=(side,) * 3)
    return limited


def _radius3(side: int, voxel: float) -> Tensor:
    full, half = torch.fft.fftfreq(side, voxel), torch.fft.rfftfreq(side, voxel)
    radius: Tensor = (full[:, None, None] ** 2 + full[:, None] ** 2 + half**2).sqrt()
    return radius


def _resample(density: Tensor, old: float, new: float, side: int) -> Tensor:
    """Resample a cube to another voxel by trilinear interpolation of a copy limited to the coarser Nyquist."""
    n = density.shape[0]
    smooth = torch.fft.irfftn(torch.fft.rfftn(density) * (_radius3(n, old) < 0.5 / max(old, new)), s=(n,) * 3)
    axis = (torch.arange(side) - side // 2).float() * (new / old)
    at = (2 * (axis + n // 2) + 1) / n - 1
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")
    grid = torch.stack([x, y, z], -1)[None]
    return grid_sample(smooth[None, None].float(), grid, mode="bilinear", align_corners=False)[0, 0]


def project_specimen(
    specimen: Specimen, rotations: Tensor, pixel_size_in_angstroms: float, b_factor_in_square_angstroms: float
) -> Tensor:
    """Projected potentials against ice [V Å] (n, side, side) for rotations (n, 3, 3), centred at side // 2."""
    pixel = pixel_size_in_angstroms
    volume = _volume(specimen, pixel, 2 * pixel, b_factor_in_square_angstroms)
    return project_volume(volume, rotations, pixel)


@lru_cache(maxsize=2)
def _interpolation_volume(specimen: Specimen, pixel: float, b_factor: float) -> tuple[Tensor, float]:
    """Volume 1.5 times finer than the pixel, sharpened by what trilinear interpolation will take away (1 / sinc²)."""
    voxel = pixel / 1.5
    volume = _volume(specimen, voxel, 2 * pixel, b_factor)
    side = volume.shape[0]
    full, half = torch.fft.fftfreq(side), torch.fft.rfftfreq(side)
    kernel = (torch.sinc(full)[:, None, None] * torch.sinc(full)[:, None] * torch.sinc(half)) ** 2
    return torch.fft.irfftn(torch.fft.rfftn(volume) / kernel, s=(side,) * 3), voxel


def slab_projections(
    specimen: Specimen,
    rotation: Tensor,
    pixel_size_in_angstroms: float,
    b_factor_in_square_angstroms: float,
    offset_in_angstroms: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """Potential of one rotated particle in thin sheets across the beam.

    The volume is limited to Nyquist's sphere, so that sheets two pixels apart still add up to the exact projection.

    Parameters
    ----------
    specimen
        The particle.
    rotation
        (3, 3), from the specimen to the view.
    pixel_size_in_angstroms, b_factor_in_square_angstroms
        Sampling and B-factor of a phantom's atoms.
    offset_in_angstroms
        (y, x) of the particle's centre from the middle pixel side // 2.

    Returns
    -------
    sheets
        (m, side, side) [V Å].
    heights
        (m,) [Å] of the sheets relative to the particle's centre, along the beam.
    """
    pixel = pixel_size_in_angstroms
    volume, voxel = _interpolation_volume(specimen, pixel, b_factor_in_square_angstroms)
    n = volume.shape[0]
    side = 2 * math.ceil((specimen.radius_in_angstroms + _MARGIN_IN_ANGSTROMS) / pixel)
    spacing = 2 * pixel
    count = 2 * math.ceil(specimen.radius_in_angstroms / spacing) + 1
    z = (torch.arange(count) - count // 2) * spacing
    axis = (torch.arange(side) - side // 2) * pixel
    zz, yy, xx = torch.meshgrid(z, axis - offset_in_angstroms[0], axis - offset_in_angstroms[1], indexing="ij")
    points = torch.stack([xx, yy, zz], -1) @ rotation  # rows: p @ A = Aᵀ p, from the view into the specimen
    grid = (2 * (points / voxel + n // 2) + 1) / n - 1
    sheets = grid_sample(volume[None, None], grid[None], mode="bilinear", align_corners=False)[0, 0]
    return sheets * spacing, z
