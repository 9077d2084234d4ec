"""Electrostatic potential of atoms and of maps, in volts on a grid or in volt-angstroms when projected along the beam.

The potential of an atom is V(r) = C · F⁻¹[f(k)](r) with the electron scattering factor f [Å] and C = h² / (2π m e)
= 47.878 V Å² (Peng, Ren, Dudarev & Whelan 1996, Acta Cryst. A52, 257). f is the sum of five Gaussians of the
International Tables for Crystallography, vol. C, table 4.3.2.2 (as gemmi carries it), for neutral isolated atoms:
f(k) = Σ aᵢ exp(-(bᵢ + B) k² / 4).

All atoms of a model share one small set of radial basis functions (the leading eigenvectors of their form factors,
relative residual 1e-5), so that any mixture of elements and B-factors needs only a handful of transforms: atoms are
splatted with quintic B-splines, transformed, corrected for the spline, multiplied by the basis functions and added up.

Solvent. A particle displaces ice, and only the difference scatters: f is lowered by V_ice v exp(-π v^(2/3) k²) / C with
the volume v that an atom displaces (Fraser, MacRae & Suzuki 1978, J. Appl. Cryst. 11, 693), softened by an edge.
Inside a protein it varies by about 1 V around its mean because atoms are not evenly spaced; :func:`solvent_mask` is
flat. The mean inner potential of vitreous ice is taken as 3.5 V (Harscher & Lichte 1998, Proc. ICEM14, 553); isolated
atoms would give about 4.5 V at 0.94 g/cm³ because hydrogen bonds draw charge together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import gemmi
import scipy.fft
import torch
from torch import Tensor

from cryoprism.core import InputError

from ._splatting import splat_density

__all__ = [
    "POTENTIAL_PER_SCATTERING_FACTOR",
    "PROTEIN_POTENTIAL_IN_VOLTS",
    "VITREOUS_ICE_POTENTIAL_IN_VOLTS",
    "AtomicModel",
    "Solvent",
    "average_hydrogens",
    "form_factors",
    "potential_from_atoms",
    "potential_from_map",
    "project_atoms",
    "scattering_factor",
    "slices_from_atoms",
    "solvent_mask",
]

POTENTIAL_PER_SCATTERING_FACTOR = 47.87764
"""h² / (2π m e) [V Å²]: potential [V] = this × F⁻¹ of the scattering factor [Å]."""
VITREOUS_ICE_POTENTIAL_IN_VOLTS = 3.5
"""Mean inner potential of vitreous ice [V]."""
PROTEIN_POTENTIAL_IN_VOLTS = 8.0
"""Mean inner potential of protein [V]: isolated atoms with hydrogens, 1.21 Å³/Da; bonds would lower it by a tenth."""

_RADIAL_NODES = 192
_BASIS_RESIDUAL = 1e-5
# Displaced volumes [Å³] of Fraser, MacRae & Suzuki (1978); other elements use the van der Waals sphere.
_DISPLACED_VOLUME = {1: 5.15, 6: 16.44, 7: 2.49, 8: 9.13, 15: 5.73, 16: 19.86}
# Hydrogens per heavy atom in an average protein residue C4.9 N1.4 O1.5 S0.04 H7.8.
_HYDROGENS = {6: 1.25, 7: 1.10, 8: 0.10, 16: 0.30}


@dataclass(frozen=True)
class AtomicModel:
    """Atoms in orthogonal coordinates.

    Parameters
    ----------
    positions_in_angstroms
        (n, 3) as (x, y, z).
    atomic_numbers
        (n,) integers.
    b_factors_in_square_angstroms
        (n,) or one number for all.
    occupancies
        (n,) or one number for all.
    hydrogens
        (n,) number of hydrogens that ride on each atom without a position of their own; 0 if the model has explicit
        ones (:func:`average_hydrogens` gives protein averages).
    """

    positions_in_angstroms: Tensor
    atomic_numbers: Tensor
    b_factors_in_square_angstroms: Tensor | float = 0.0
    occupancies: Tensor | float = 1.0
    hydrogens: Tensor | float = 0.0

    def __post_init__(self) -> None:
        count = self.atomic_numbers.numel()
        if tuple(self.positions_in_angstroms.shape) != (count, 3) or count == 0:
            raise InputError(
                "positions_in_angstroms",
                f"shape {tuple(self.positions_in_angstroms.shape)} for {count} atoms",
                "Give (n, 3) coordinates and n > 0 atomic numbers.",
            )


@dataclass(frozen=True)
class Solvent:
    """What surrounds the atoms: mean inner potential [V] and the softness (standard deviation) of its edge [Å]."""

    potential_in_volts: float = VITREOUS_ICE_POTENTIAL_IN_VOLTS
    edge_in_angstroms: float = 1.0


def average_hydrogens(atomic_numbers: Tensor) -> Tensor:
    """Mean number of hydrogens (n,) that ride on each heavy atom of a protein model without hydrogens."""
    table = torch.zeros(119)
    for number, count in _HYDROGENS.items():
        table[number] = count
    return table[atomic_numbers]


@lru_cache(maxsize=128)
def _gaussians(number: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    coefficients = gemmi.Element(number).c4322
    if not 0 < number < 119 or coefficients is None:
        raise InputError(
            "atomic_numbers", f"no electron scattering factor for element number {number}", "Remove or rename the atom."
        )
    return tuple(coefficients.a), tuple(coefficients.b)


def scattering_factor(k: Tensor, atomic_number: int) -> Tensor:
    """Electron scattering factor f(k) [Å] of a neutral atom at rest; k [1/Å] of any shape."""
    a, b = _gaussians(int(atomic_number))
    k2 = k * k
    return torch.stack([ai * torch.exp(-0.25 * bi * k2) for ai, bi in zip(a, b, strict=True)]).sum(0)


def _displaced_volume(number: int) -> float:
    return _DISPLACED_VOLUME.get(number, 4 / 3 * math.pi * float(gemmi.Element(number).vdw_r) ** 3)


def form_factors(model: AtomicModel, k: Tensor, solvent: Solvent | None = None) -> Tensor:
    """Form factor of every atom minus the solvent it displaces [Å], shape (n, m) for frequencies k (m,) [1/Å].

    Occupancy, B-factor and riding hydrogens are included. Differentiable in B-factors and occupancies.
    """
    count = model.atomic_numbers.numel()

    def column(value: Tensor | float) -> Tensor:
        return torch.as_tensor(value, dtype=k.dtype, device=k.device).expand(count)[:, None]

    numbers, which = torch.unique(model.atomic_numbers, return_inverse=True)
    which = which.to(k.device)
    k2 = k * k
    riding = column(model.hydrogens)
    at_rest = torch.stack([scattering_factor(k, int(z)) for z in numbers.tolist()])[which]
    if bool((riding != 0).any()):
        at_rest = at_rest + riding * scattering_factor(k, 1)
    factors = at_rest * torch.exp(-0.25 * column(model.b_factors_in_square_angstroms) * k2)
    if solvent is not None and solvent.potential_in_volts != 0:
        volumes = torch.tensor([_displaced_volume(int(z)) for z in numbers.tolist()], dtype=k.dtype, device=k.device)
        volume = volumes[which][:, None] + riding * _displaced_volume(1)
        width = math.pi * volume ** (2 / 3) + 2 * math.pi**2 * solvent.edge_in_angstroms**2
        factors = factors - solvent.potential_in_volts / POTENTIAL_PER_SCATTERING_FACTOR * volume * torch.exp(
            -width * k2
        )
    return column(model.occupancies) * factors


def _radial_basis(model: AtomicModel, highest: float, solvent: Solvent | None) -> tuple[Tensor, Tensor, Tensor]:
    """Split form factors into coefficients (n, r) times radial functions (m, r) on nodes (m,), in double precision."""
    nodes = torch.linspace(0, highest, _RADIAL_NODES, dtype=torch.float64, device=model.positions_in_angstroms.device)
    table = form_factors(model, nodes, solvent)
    with torch.no_grad():
        energies, vectors = torch.linalg.eigh(table.T @ table)
        total = energies.clamp_min(0).cumsum(0)
        rank = int((total > _BASIS_RESIDUAL**2 * total[-1]).sum().clamp_min(1))
        basis = vectors[:, -rank:]
    return nodes, basis, table @ basis


def _centred(model: AtomicModel, center: bool | Tensor) -> Tensor:
    positions = model.positions_in_angstroms
    if isinstance(center, Tensor):
        return positions - center.to(positions)
    return positions - positions.mean(0) if center else positions


def _require_inside(points: Tensor, shape: Sequence[int], pixel: float) -> None:
    reach = points.detach().abs().amax(0)
    half = torch.tensor([n * pixel / 2 for n in shape], dtype=points.dtype, device=points.device)
    if bool((reach > half).any()):
        raise InputError(
            "shape",
            f"atoms reach {[round(float(r), 1) for r in reach]} Å from the centre but the box ends at "
            f"{[round(float(h), 1) for h in half]} Å",
            "Enlarge the box, or centre the model (center=True).",
        )


def _highest_frequency(dimensions: int, pixel: float) -> float:
    return 0.5 * math.sqrt(dimensions) / pixel * 1.001


def potential_from_atoms(
    model: AtomicModel,
    voxel_size_in_angstroms: float,
    *,
    shape: tuple[int, int, int] | None = None,
    padding_in_angstroms: float = 10.0,
    center: bool | Tensor = True,
    solvent: Solvent | None = None,
    oversampling: float = 1.25,
) -> Tensor:
    """Electrostatic potential [V] of a model on a grid (z, y, x), limited to frequencies below Nyquist on each axis.

    Parameters
    ----------
    model
        Atoms; gradients flow to positions, B-factors and occupancies.
    voxel_size_in_angstroms
        Grid spacing [Å].
    shape
        (z, y, x) of the grid; the smallest fast cube with ``padding_in_angstroms`` around the model if absent. The grid
        is periodic.
    padding_in_angstroms
        Distance [Å] kept free around the outermost atom when ``shape`` is absent.
    center
        True: the mean position of the atoms comes to voxel n // 2; False: the model's origin does; a tensor (3,): that
        point (x, y, z) [Å].
    solvent
        Displaced solvent; ``None`` for vacuum. The result is the difference to the solvent's own potential.
    oversampling
        The splatting grid is finer by this factor; 1.25 keeps errors below 0.3 % up to 0.7 Nyquist, 2 up to Nyquist.

    Raises
    ------
    InputError
        An atom lies outside the box, or has no scattering factor.
    """
    positions = _centred(model, center)
    if shape is None:
        reach = float(positions.detach().abs().max()) + padding_in_angstroms
        side = scipy.fft.next_fast_len(2 * math.ceil(reach / voxel_size_in_angstroms), real=True)
        shape = (side, side, side)
    points = positions.flip(-1)
    _require_inside(points, shape, voxel_size_in_angstroms)
    nodes, basis, coefficients = _radial_basis(model, _highest_frequency(3, voxel_size_in_angstroms), solvent)
    return splat_density(
        points,
        coefficients.to(points.dtype),
        nodes,
        basis,
        shape,
        voxel_size_in_angstroms,
        oversampling,
        POTENTIAL_PER_SCATTERING_FACTOR,
    )


def project_atoms(
    model: AtomicModel,
    rotations: Tensor,
    pixel_size_in_angstroms: float,
    *,
    shape: tuple[int, int],
    shifts_in_angstroms: Tensor | None = None,
    center: bool | Tensor = True,
    solvent: Solvent | None = None,
    oversampling: float = 1.25,
) -> Tensor:
    """Projected potential [V Å] of a model seen along z after rotation, shape (..., y, x), without any volume.

    Parameters
    ----------
    rotations
        (..., 3, 3) matrices that take a point (x, y, z) of the model into the frame of the view
        (``core.euler_to_matrix``).
    shifts_in_angstroms
        (..., 2) as (x, y) [Å], added after the rotation.

    The other parameters are those of :func:`potential_from_atoms`.
    """
    positions = _centred(model, center)
    nodes, basis, coefficients = _radial_basis(model, _highest_frequency(2, pixel_size_in_angstroms), solvent)
    coefficients = coefficients.to(positions.dtype)
    batch = rotations.shape[:-2]
    turns = rotations.reshape(-1, 3, 3).to(positions)
    moves = torch.zeros(turns.shape[0], 2).to(positions)
    if shifts_in_angstroms is not None:
        moves = shifts_in_angstroms.to(positions).expand(*batch, 2).reshape(-1, 2)
    images = []
    for turn, move in zip(turns, moves, strict=True):
        points = ((positions @ turn.T)[:, :2] + move).flip(-1)
        _require_inside(points, shape, pixel_size_in_angstroms)
        images.append(
            splat_density(
                points,
                coefficients,
                nodes,
                basis,
                shape,
                pixel_size_in_angstroms,
                oversampling,
                POTENTIAL_PER_SCATTERING_FACTOR,
            )
        )
    return torch.stack(images).reshape(*batch, *shape)


def slices_from_atoms(
    model: AtomicModel,
    pixel_size_in_angstroms: float,
    *,
    shape: tuple[int, int],
    slice_thickness_in_angstroms: float,
    slab_thickness_in_angstroms: float,
    center: bool | Tensor = False,
    solvent: Solvent | None = None,
    oversampling: float = 1.25,
) -> Iterator[Tensor]:
    """Yield projected potentials [V Å] (y, x) of consecutive slices of a slab, low z (met first by the beam) first.

    Every atom belongs whole to the slice that its centre lies in; the slab's middle is z = 0. Nothing but one slice is
    held in memory.

    Raises
    ------
    InputError
        An atom lies outside the slab.
    """
    positions = _centred(model, center)
    count = max(1, math.ceil(slab_thickness_in_angstroms / slice_thickness_in_angstroms - 1e-9))
    index = torch.floor(positions[:, 2].detach() / slice_thickness_in_angstroms + 0.5 * count).long()
    if bool(((index < 0) | (index >= count)).any()):
        reach = float(positions[:, 2].detach().abs().max())
        raise InputError(
            "slab_thickness_in_angstroms",
            f"{slab_thickness_in_angstroms} Å, but atoms lie up to {reach:.1f} Å from its middle",
            "Thicken the slab or move the model.",
        )
    points = positions[:, :2].flip(-1)
    _require_inside(points, shape, pixel_size_in_angstroms)
    nodes, basis, coefficients = _radial_basis(model, _highest_frequency(2, pixel_size_in_angstroms), solvent)
    coefficients = coefficients.to(positions.dtype)
    for number in range(count):
        chosen = index == number
        if not bool(chosen.any()):
            yield torch.zeros(shape, dtype=positions.dtype, device=positions.device)
            continue
        yield splat_density(
            points[chosen],
            coefficients[chosen],
            nodes,
            basis,
            shape,
            pixel_size_in_angstroms,
            oversampling,
            POTENTIAL_PER_SCATTERING_FACTOR,
        )


def solvent_mask(
    model: AtomicModel,
    voxel_size_in_angstroms: float,
    *,
    shape: tuple[int, int, int],
    center: bool | Tensor = True,
    probe_in_angstroms: float = 0.0,
    edge_in_angstroms: float = 1.0,
) -> Tensor:
    """Fraction of each voxel (z, y, x) that the atoms take from the solvent, 0 … 1.

    Smooth union 1 - Π(1 - oᵢ) of soft spheres oᵢ = ½ erfc((|r - rᵢ| - R - probe) / (√2 edge)) with van der Waals radii
    R.
    """
    points = _centred(model, center).flip(-1)
    _require_inside(points, shape, voxel_size_in_angstroms)
    numbers, which = torch.unique(model.atomic_numbers, return_inverse=True)
    radii = torch.tensor([float(gemmi.Element(int(z)).vdw_r) for z in numbers.tolist()]).to(points)[which]
    radii = radii + probe_in_angstroms
    reach = math.ceil((float(radii.max()) + 3 * edge_in_angstroms) / voxel_size_in_angstroms)
    sizes = torch.tensor(shape, device=points.device)
    pixels = points / voxel_size_in_angstroms + torch.div(sizes, 2, rounding_mode="floor")
    span = torch.arange(-reach, reach + 1, device=points.device)
    window = torch.stack(torch.meshgrid(span, span, span, indexing="ij"), -1).reshape(-1, 3)
    logarithm = torch.zeros(math.prod(shape), dtype=points.dtype, device=points.device)
    for start in range(0, points.shape[0], 1024):
        part, radius = pixels[start : start + 1024], radii[start : start + 1024]
        voxels = part.detach().round().long()[:, None] + window
        distance = ((voxels - part[:, None]).square().sum(-1) + 1e-12).sqrt() * voxel_size_in_angstroms
        outside = torch.special.ndtr((distance - radius[:, None]) / edge_in_angstroms)
        voxels = voxels.remainder(sizes)
        flat = (voxels[..., 0] * shape[1] + voxels[..., 1]) * shape[2] + voxels[..., 2]
        logarithm = logarithm.index_add(0, flat.flatten(), outside.clamp_min(1e-6).log().flatten())
    return (1 - logarithm.exp()).reshape(shape)


def potential_from_map(
    density: Tensor,
    voxel_size_in_angstroms: float,
    *,
    molecular_mass_in_daltons: float | None = None,
    threshold: float | None = None,
    contrast_in_volts: float = PROTEIN_POTENTIAL_IN_VOLTS - VITREOUS_ICE_POTENTIAL_IN_VOLTS,
) -> Tensor:
    """Potential against ice [V] (z, y, x) from a map in arbitrary units.

    The map is shifted and scaled, (density - solvent level) × s: the solvent level is the median outside the molecule,
    and s makes the mean inside the molecule equal to ``contrast_in_volts`` (protein minus ice). This keeps all of the
    map's relative structure; a sharpened map stays sharpened.

    Parameters
    ----------
    molecular_mass_in_daltons
        The molecule is the densest part of the map with the volume of this mass (1.21 Å³ per Da, Harpaz, Gerstein &
        Chothia 1994).
    threshold
        Or: the molecule is where the map exceeds this level. Exactly one of the two is needed.

    Raises
    ------
    InputError
        None or both of mass and threshold are given, or they leave nothing inside or outside.
    """
    if (molecular_mass_in_daltons is None) == (threshold is None):
        raise InputError(
            "potential_from_map",
            "needs exactly one of mass and threshold",
            "Give molecular_mass_in_daltons or threshold.",
        )
    with torch.no_grad():
        flat = density.flatten()
        if molecular_mass_in_daltons is not None:
            inside = round(1.21 * molecular_mass_in_daltons / voxel_size_in_angstroms**3)
            inside = min(max(inside, 0), flat.numel())
        else:
            inside = int((flat > float(threshold or 0.0)).sum())
        if inside == 0 or inside >= flat.numel():
            raise InputError(
                "density",
                f"{inside} of {flat.numel()} voxels would be molecule",
                "Check mass, threshold and voxel size.",
            )
        order = flat.argsort(descending=True)
        molecule, solvent = order[:inside], order[inside:]
    level = flat[solvent].median()
    return (density - level) * (contrast_in_volts / (flat[molecule].mean() - level))
