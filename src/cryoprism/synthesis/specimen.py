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

__all__ = [
    "Specimen",
    "enclosed_mass_in_kilodaltons",
    "project_specimen",
    "resample",
    "slab_projections",
    "specimen_from_file",
    "specimen_from_phantom",
    "specimen_name",
    "specimen_volume",
    "specimens_from_file",
]

_MAP_SUFFIXES = (".mrc", ".map", ".ccp4")
_STRUCTURE_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif")
_STRUCTURE_NAMES = (*_STRUCTURE_SUFFIXES, *(f"{s}.gz" for s in _STRUCTURE_SUFFIXES))
_MARGIN_IN_ANGSTROMS = 8.0
# A particle that fills more of its box than this has a wrong voxel size or mass.
_FULLEST_BOX = 0.5


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
    resolution_in_angstroms
        Coarsened by the Gaussian exp(-(k d)²) of this resolution d, as a map at that resolution looks; 0 for none.
    """

    name: str
    radius_in_angstroms: float
    symmetry: str = "C1"
    model: AtomicModel | None = None
    density: Tensor | None = None
    voxel_size_in_angstroms: float = 0.0
    takes_scene_b_factor: bool = False
    resolution_in_angstroms: float = 0.0

    @property
    def reach_in_angstroms(self) -> float:
        """Half of the box [Å] that holds the particle with what its resolution spreads around it."""
        return self.radius_in_angstroms + _MARGIN_IN_ANGSTROMS + 0.5 * self.resolution_in_angstroms


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
    path: str | os.PathLike[str],
    *,
    assembly: str | None = None,
    molecular_mass_in_kilodaltons: float | None = None,
    contour: float | None = None,
    symmetry: str = "C1",
    resolution_in_angstroms: float = 0.0,
    voxel_size_in_angstroms: float | None = None,
) -> Specimen:
    """Read a specimen from a map or from the first model of a structure; see :func:`specimens_from_file`."""
    return specimens_from_file(
        path,
        assembly=assembly,
        molecular_mass_in_kilodaltons=molecular_mass_in_kilodaltons,
        contour=contour,
        symmetry=symmetry,
        resolution_in_angstroms=resolution_in_angstroms,
        voxel_size_in_angstroms=voxel_size_in_angstroms,
        _first_only=True,
    )[0]


def specimens_from_file(
    path: str | os.PathLike[str],
    *,
    assembly: str | None = None,
    molecular_mass_in_kilodaltons: float | None = None,
    contour: float | None = None,
    symmetry: str = "C1",
    resolution_in_angstroms: float = 0.0,
    voxel_size_in_angstroms: float | None = None,
    _first_only: bool = False,
) -> tuple[Specimen, ...]:
    """Read specimens from a structure (PDB, mmCIF; one for each model) or a map (MRC, CCP4).

    Parameters
    ----------
    path
        The file; its suffix decides. Waters are left out, hydrogens that a structure lacks are added on average. The
        models of a file keep their common frame, centred on the first.
    assembly
        Biological assembly of a structure, as in ``formats.read_structure``.
    molecular_mass_in_kilodaltons, contour
        One of them is needed for a map, and sets its scale and offset: the mass, or the level that encloses the
        molecule.
    symmetry
        Point group, a label.
    resolution_in_angstroms
        Make it as coarse as this; 0 leaves it as it is.
    voxel_size_in_angstroms
        Of a map, where its header is wrong.

    Raises
    ------
    InputError
        Unknown suffix, unreadable file, a map without voxel size or with one that its mass does not allow, or without
        mass and contour.
    """
    file = Path(path)
    if not (math.isfinite(resolution_in_angstroms) and resolution_in_angstroms >= 0):
        raise InputError("resolution", f"is {resolution_in_angstroms} Å", "Give a resolution in Å, or 0 for none.")
    suffixes = [s.lower() for s in file.suffixes[-2:]]
    if any(s in _STRUCTURE_SUFFIXES for s in suffixes):
        return _from_structure(file, assembly, symmetry, resolution_in_angstroms, first_only=_first_only)
    if not any(s in _MAP_SUFFIXES for s in suffixes):
        known = ", ".join((*_STRUCTURE_SUFFIXES, *_MAP_SUFFIXES))
        raise InputError(file, "is neither a structure nor a map by its name", f"Give a file ending in one of {known}.")
    if not file.is_file():
        raise InputError(file, "does not exist", "Give an existing map or structure.")
    if molecular_mass_in_kilodaltons is None and contour is None:
        raise InputError(
            file,
            "a map without a molecular mass has no scale",
            "Give the particle's mass in kDa (--mass) or, to synthesize, the level that encloses it (--contour).",
        )
    if molecular_mass_in_kilodaltons is not None and contour is not None:
        raise InputError(file, "was given both a mass and a contour", "Give one of them.")
    from cryoprism.formats.maps import read_map

    volume = read_map(file, voxel_size_in_angstroms)
    if float(volume.data.min()) == float(volume.data.max()):
        raise InputError(file, f"all voxels are {float(volume.data.min()):g}", "Give a map with a particle in it.")
    voxel = volume.voxel_size_in_angstroms
    mass = molecular_mass_in_kilodaltons
    if mass is None:
        mass = enclosed_mass_in_kilodaltons(volume.data, voxel, contour if contour is not None else 0.0)
    filled = 1210.0 * mass / (volume.data.numel() * voxel**3)
    if filled > _FULLEST_BOX:
        raise InputError(
            file,
            f"at {voxel:g} Å per voxel a particle of {mass:g} kDa would take {100 * filled:.0f} % of the box",
            "Check the mass, and give the voxel size if the header's is wrong.",
        )
    density = potential_from_map(
        volume.data,
        voxel,
        molecular_mass_in_daltons=None if contour is not None else 1000.0 * mass,
        threshold=contour,
    )
    if not bool((density != 0).any()):
        raise InputError(file, "holds no density once the ice around it is 0", "Check --contour or the mass.")
    cube = _centre_pad(density, max(density.shape))
    specimen = Specimen(
        name=specimen_name(file),
        radius_in_angstroms=_map_radius(cube, voxel),
        symmetry=symmetry,
        density=cube,
        voxel_size_in_angstroms=voxel,
        resolution_in_angstroms=resolution_in_angstroms,
    )
    return (specimen,)


def specimen_name(path: str | os.PathLike[str]) -> str:
    """Name of what a file holds: its own without the suffix, compressed or not."""
    file = Path(path)
    return next((file.name[: -len(s)] for s in _STRUCTURE_NAMES if file.name.lower().endswith(s)), file.stem)


def enclosed_mass_in_kilodaltons(density: Tensor, voxel_size_in_angstroms: float, contour: float) -> float:
    """Mass [kDa] of protein that fills the volume above a contour of a map, 1.21 Å³ per Da (Harpaz et al. 1994).

    Good to about a fifth at the contour that depositors recommend; a map blurred to 20 Å encloses more.
    """
    return float((density > contour).sum()) * voxel_size_in_angstroms**3 / 1210.0


def _from_structure(
    file: Path, assembly: str | None, symmetry: str, resolution: float, *, first_only: bool
) -> tuple[Specimen, ...]:
    from cryoprism.formats.structures import read_structure

    atoms = read_structure(file, assembly, include_waters=False)
    atoms = atoms.select(atoms.atomic_numbers > 0)
    if not len(atoms):
        raise InputError(file, "holds no atoms but water and unknown ones", "Give a structure with known elements.")
    name = specimen_name(file)
    numbers = sorted(set(atoms.models.tolist()))
    centre = None
    found = []
    for number in numbers[:1] if first_only else numbers:
        chosen = atoms.select(atoms.models == number) if len(numbers) > 1 else atoms
        centre = chosen.positions_in_angstroms.mean(0) if centre is None else centre
        explicit = bool((chosen.atomic_numbers == 1).any())
        model = AtomicModel(
            positions_in_angstroms=chosen.positions_in_angstroms - centre,
            atomic_numbers=chosen.atomic_numbers,
            b_factors_in_square_angstroms=chosen.b_factors_in_square_angstroms,
            occupancies=chosen.occupancies,
            hydrogens=0.0 if explicit else average_hydrogens(chosen.atomic_numbers),
        )
        found.append(
            Specimen(
                name=name if len(numbers) == 1 or first_only else f"{name}-{number + 1}",
                radius_in_angstroms=float(model.positions_in_angstroms.norm(dim=1).max()) + 1.5,
                symmetry=symmetry,
                model=model,
                resolution_in_angstroms=resolution,
            )
        )
    return tuple(found)


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
    return float(radius[order][int(torch.searchsorted(share, 0.995 * share[-1]).clamp_max(share.numel() - 1))])


def _volume(specimen: Specimen, voxel: float, resolution: float, b_factor: float) -> Tensor:
    """Potential [V] in an even cube, without anything finer than ``resolution`` [Å]."""
    return _made_volume(specimen, voxel, resolution, b_factor if specimen.takes_scene_b_factor else 0.0)


@lru_cache(maxsize=8)
def _made_volume(specimen: Specimen, voxel: float, resolution: float, b_factor: float) -> Tensor:
    side = 2 * int(scipy.fft.next_fast_len(math.ceil(specimen.reach_in_angstroms / voxel)))
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
        volume = resample(specimen.density, specimen.voxel_size_in_angstroms, voxel, side)
    else:
        raise InputError("specimen", f"'{specimen.name}' has neither atoms nor a map", "Give one of them.")
    radius = _radius3(side, voxel)
    spectrum = torch.fft.rfftn(volume) * (radius <= 1.0 / resolution)
    if specimen.resolution_in_angstroms > 0:
        spectrum = spectrum * torch.exp(-((radius * specimen.resolution_in_angstroms) ** 2))
    limited: Tensor = torch.fft.irfftn(spectrum, s=(side,) * 3)
    return limited


def _radius3(side: int, voxel: float) -> Tensor:
    full, half = torch.fft.fftfreq(side, voxel), torch.fft.rfftfreq(side, voxel)
    radius: Tensor = (full[:, None, None] ** 2 + full[:, None] ** 2 + half**2).sqrt()
    return radius


def resample(density: Tensor, old: float, new: float, side: int) -> Tensor:
    """Resample a cube to another voxel by trilinear interpolation of a copy limited to the coarser Nyquist."""
    n = density.shape[0]
    smooth = torch.fft.irfftn(torch.fft.rfftn(density) * (_radius3(n, old) < 0.5 / max(old, new)), s=(n,) * 3)
    axis = (torch.arange(side) - side // 2).float() * (new / old)
    at = (2 * (axis + n // 2) + 1) / n - 1
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")
    grid = torch.stack([x, y, z], -1)[None]
    return grid_sample(smooth[None, None].float(), grid, mode="bilinear", align_corners=False)[0, 0]


def specimen_volume(
    specimen: Specimen, voxel_size_in_angstroms: float, b_factor_in_square_angstroms: float = 0.0
) -> Tensor:
    """Potential against ice [V] (side, side, side) at a voxel size, its centre at side // 2, without aliasing."""
    voxel = voxel_size_in_angstroms
    return _volume(specimen, voxel, 2 * voxel, b_factor_in_square_angstroms).clone()


def project_specimen(
    specimen: Specimen, rotations: Tensor, pixel_size_in_angstroms: float, b_factor_in_square_angstroms: float
) -> Tensor:
    """Projected potentials against ice [V Å] (n, side, side) for rotations (n, 3, 3), centred at side // 2."""
    pixel = pixel_size_in_angstroms
    volume = _volume(specimen, pixel, 2 * pixel, b_factor_in_square_angstroms)
    return project_volume(volume, rotations, pixel)


@lru_cache(maxsize=4)
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
    side = 2 * math.ceil(specimen.reach_in_angstroms / pixel)
    spacing = 2 * pixel
    count = 2 * math.ceil(specimen.radius_in_angstroms / spacing) + 1
    z = (torch.arange(count) - count // 2) * spacing
    axis = (torch.arange(side) - side // 2) * pixel
    zz, yy, xx = torch.meshgrid(z, axis - offset_in_angstroms[0], axis - offset_in_angstroms[1], indexing="ij")
    points = torch.stack([xx, yy, zz], -1) @ rotation  # rows: p @ A = Aᵀ p, from the view into the specimen
    grid = (2 * (points / voxel + n // 2) + 1) / n - 1
    sheets = grid_sample(volume[None, None], grid[None], mode="bilinear", align_corners=False)[0, 0]
    return sheets * spacing, z
