"""Maps against atomic models: a model's own map, map-to-model FSC, Q-scores, and rigid fits.

Model coordinates are in the frame of the map's file: a voxel (z, y, x) lies at origin + (x, y, z) · voxel size [Å].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.ndimage
import torch
from scipy.spatial import KDTree
from torch import Tensor

from cryoprism.core import InputError, fourier_crop, generator_for
from cryoprism.formats import Atoms, Volume
from cryoprism.microscope import AtomicModel, Solvent, average_hydrogens, potential_from_atoms

from .fsc import FscCurve, fourier_shell_correlation, irfft3, low_pass, rfft3

__all__ = [
    "RigidFit",
    "even_rotations",
    "fit_model_rigidly",
    "map_to_model_fsc",
    "model_map",
    "q_scores",
]


@dataclass(frozen=True, eq=False)
class RigidFit:
    """Where a model fits a map.

    Attributes
    ----------
    rotation, translation_in_angstroms
        (3, 3) and (3,): a fitted atom lies at ``rotation @ position + translation`` (x, y, z).
    score
        Mean of the low-passed map at the atoms, in its standard deviations.
    runner_up
        Score of the best fit that differs by more than 20° (a symmetry mate scores as high), or None.
    """

    rotation: Tensor
    translation_in_angstroms: Tensor
    score: float
    runner_up: float | None

    def apply(self, atoms: Atoms) -> Atoms:
        """Atoms at their fitted places."""
        moved = atoms.positions_in_angstroms @ self.rotation.T + self.translation_in_angstroms
        return replace(atoms, positions_in_angstroms=moved)


def _as_model(atoms: Atoms, b_factor: float | None) -> AtomicModel:
    known = atoms.atomic_numbers > 0
    kept = atoms.select(known) if not bool(known.all()) else atoms
    riding = average_hydrogens(kept.atomic_numbers) if not bool((kept.atomic_numbers == 1).any()) else 0.0
    return AtomicModel(
        kept.positions_in_angstroms,
        kept.atomic_numbers,
        kept.b_factors_in_square_angstroms if b_factor is None else b_factor,
        kept.occupancies,
        riding,
    )


def model_map(
    atoms: Atoms,
    like: Volume,
    *,
    b_factor_in_square_angstroms: float | None = None,
    resolution_in_angstroms: float | None = None,
) -> Volume:
    """Map of an atomic model on the grid of another map: electrostatic potential against ice [V].

    Parameters
    ----------
    atoms
        The model in the frame of the map.
    like
        Gives box, voxel size and origin.
    b_factor_in_square_angstroms
        One B for all atoms [Å²]; those of the model if absent.
    resolution_in_angstroms
        Low-pass filter; none if absent.

    Raises
    ------
    InputError
        An atom lies outside the box: the model is in another frame.
    """
    centre = torch.tensor(
        [
            start + (n // 2) * like.voxel_size_in_angstroms
            for start, n in zip(like.origin_in_angstroms, reversed(like.data.shape), strict=True)
        ]
    )
    z, y, x = (int(n) for n in like.data.shape)
    try:
        data = potential_from_atoms(
            _as_model(atoms, b_factor_in_square_angstroms),
            like.voxel_size_in_angstroms,
            shape=(z, y, x),
            center=centre,
            solvent=Solvent(),
        )
    except InputError as error:
        if error.where != "shape":
            raise
        raise InputError(
            "--model",
            f"the model does not lie inside the map ({error.found})",
            "Fit the model to the map first (--fit-model), or correct the map's origin.",
        ) from error
    if resolution_in_angstroms is not None:
        data = low_pass(data, like.voxel_size_in_angstroms, resolution_in_angstroms)
    return Volume(data, like.voxel_size_in_angstroms, like.origin_in_angstroms)


def map_to_model_fsc(
    volume: Volume, atoms: Atoms, *, mask: Tensor | None = None, b_factor_in_square_angstroms: float | None = 0.0
) -> FscCurve:
    """FSC of a map and its model's map under a mask; the usual threshold is 0.5.

    A B-factor common to all atoms changes no shell's correlation, so that 0 is as good as any where the model's own are
    not to be trusted.
    """
    model = model_map(atoms, volume, b_factor_in_square_angstroms=b_factor_in_square_angstroms)
    return fourier_shell_correlation(volume.data, model.data, volume.voxel_size_in_angstroms, mask=mask)


def even_rotations(count: int) -> Tensor:
    """Rotations (count, 3, 3) spread evenly over SO(3): the super-Fibonacci spiral (Alexa 2022, CVPR, 8291)."""
    number = torch.arange(count, dtype=torch.float64) + 0.5
    share = number / count
    alpha, beta = 2 * math.pi * number / math.sqrt(2), 2 * math.pi * number / 1.533751168755204288118041
    low, high = share.sqrt(), (1 - share).sqrt()
    return _from_quaternion(
        torch.stack([high * beta.cos(), low * alpha.sin(), low * alpha.cos(), high * beta.sin()], -1)
    )


def _from_quaternion(q: Tensor) -> Tensor:
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def fit_model_rigidly(
    volume: Volume,
    atoms: Atoms,
    *,
    resolution_in_angstroms: float = 15.0,
    finest_in_angstroms: float = 6.0,
    rotations: int = 2304,
    refine: int = 12,
    seed: int = 0,
) -> RigidFit:
    """Find where a model fits a map: all rotations and shifts at low resolution, then gradients from the best.

    The global search correlates the low-passed map with the atoms, rotated on an even grid and shifted by FFT, at a
    voxel size of about a third of the resolution. The best few are refined by gradient ascent of the mean density at
    the atoms, in a map low-passed to ever finer resolution.

    Parameters
    ----------
    volume
        The map.
    atoms
        The model, anywhere.
    resolution_in_angstroms, finest_in_angstroms
        Of the global search, and of the last refinement [Å].
    rotations
        Size of the rotation grid; 2304 are about 20° apart.
    refine
        How many candidates are refined.
    seed
        Of the choice of atoms, where there are more than 4000.

    Raises
    ------
    InputError
        The model is larger than the box.
    """
    voxel, shape = volume.voxel_size_in_angstroms, volume.data.shape
    heavy = torch.nonzero(atoms.atomic_numbers != 1).flatten()
    if heavy.numel() > 4000:
        order = torch.randperm(heavy.numel(), generator=generator_for(seed, "atoms of the rigid fit"))
        heavy = heavy[order[:4000]]
    positions = atoms.positions_in_angstroms[heavy].double()
    weights = atoms.atomic_numbers[heavy].clamp_min(6).double()
    centre = positions.mean(0)
    centred = (positions - centre).float()
    extent = float(centred.norm(dim=-1).max())
    if 2 * extent > math.sqrt(3) * max(shape) * voxel:
        raise InputError("--model", f"it is {2 * extent:.0f} Å long: larger than the map's box", "Check the model.")
    weights = (weights / weights.sum()).float()
    coarse, coarse_voxel = _coarse_map(volume, resolution_in_angstroms)
    candidates = _global_search(coarse, coarse_voxel, centred, weights, even_rotations(rotations).float(), refine)
    stages = [resolution_in_angstroms]
    while stages[-1] > max(finest_in_angstroms, 2.5 * voxel) * 1.3:
        stages.append(max(stages[-1] / 1.6, finest_in_angstroms, 2.5 * voxel))
    for resolution in stages:
        smooth = low_pass(volume.data.float(), voxel, resolution)
        smooth = (smooth - smooth.mean()) / smooth.std()
        candidates = [
            _climb(smooth, voxel, centred, weights, rotation, shift, resolution) for _, rotation, shift in candidates
        ]
    # Only the last stage judges: at low resolution wrong poses score as high.
    candidates.sort(key=lambda item: -item[0])
    best = candidates[0]
    others = [score for score, rotation, _ in candidates[1:] if _angle(rotation, best[1]) > 20.0]
    middle = torch.tensor([n // 2 for n in reversed(shape)]) * voxel + torch.tensor(volume.origin_in_angstroms)
    translation = best[2] + middle - best[1] @ centre.float()
    return RigidFit(best[1], translation, best[0], max(others, default=None))


def _angle(one: Tensor, other: Tensor) -> float:
    cosine = (float((one * other).sum()) - 1) / 2
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))


def _coarse_map(volume: Volume, resolution: float) -> tuple[Tensor, float]:
    """Low-passed map on a coarser grid with about three voxels per resolution; voxel n // 2 stays where it was."""
    data = low_pass(volume.data.float(), volume.voxel_size_in_angstroms, resolution)
    shape = data.shape
    factor = max(1.0, resolution / 3 / volume.voxel_size_in_angstroms)
    smaller = [2 * max(4, round(n / factor / 2)) for n in shape]
    if any(s >= n for s, n in zip(smaller, shape, strict=True)) or len(set(shape)) > 1:
        return (data - data.mean()) / data.std(), volume.voxel_size_in_angstroms
    rolled = data.roll([-(n // 2) for n in shape], (0, 1, 2))
    plane = fourier_crop(rolled, (smaller[1], smaller[2]))
    deep = fourier_crop(plane.permute(1, 0, 2), (smaller[0], smaller[2])).permute(1, 0, 2)
    small = deep.roll([s // 2 for s in smaller], (0, 1, 2)).contiguous()
    return (small - small.mean()) / small.std(), volume.voxel_size_in_angstroms * shape[0] / smaller[0]


def _global_search(
    volume: Tensor, voxel: float, points: Tensor, weights: Tensor, rotations: Tensor, keep: int
) -> list[tuple[float, Tensor, Tensor]]:
    """Best (score, rotation, shift [Å] from voxel n // 2) of a grid; kept ones differ by more than 15°."""
    shape = (int(volume.shape[0]), int(volume.shape[1]), int(volume.shape[2]))
    size = torch.tensor(shape)
    target = rfft3(volume)
    found: list[tuple[float, Tensor, Tensor]] = []
    batch = max(1, 2_000_000 // volume.numel())
    for start in range(0, rotations.shape[0], batch):
        part = rotations[start : start + batch]
        turned = (points @ part.transpose(1, 2)).flip(-1) / voxel
        spread = _spread_points(turned, weights, size)
        scores = irfft3(target * rfft3(spread).conj(), shape).reshape(part.shape[0], -1)
        best = scores.max(-1)
        for score, where, rotation in zip(best.values.tolist(), best.indices.tolist(), part, strict=True):
            z, rest = divmod(where, shape[1] * shape[2])
            y, x = divmod(rest, shape[2])
            offset = [float(a - n if a > n // 2 else a) for a, n in ((x, shape[2]), (y, shape[1]), (z, shape[0]))]
            # The points' own centre was put at voxel 0, the map's frame is about n // 2.
            moved = [o - n // 2 for o, n in zip(offset, reversed(shape), strict=True)]
            wrapped = [(m + n // 2) % n - n // 2 for m, n in zip(moved, reversed(shape), strict=True)]
            found.append((score, rotation, torch.tensor(wrapped) * voxel))
    found.sort(key=lambda item: -item[0])
    chosen: list[tuple[float, Tensor, Tensor]] = []
    for item in found:
        if all(_angle(item[1], other[1]) > 15.0 for other in chosen):
            chosen.append(item)
        if len(chosen) == keep:
            break
    return chosen


def _spread_points(points: Tensor, weights: Tensor, size: Tensor) -> Tensor:
    """Put weighted points (batch, n, 3) in voxels (z, y, x) on periodic grids by trilinear shares."""
    low = points.floor()
    share = points - low
    voxels = int(size.prod())
    grids = torch.zeros(points.shape[0] * voxels)
    base = (torch.arange(points.shape[0]) * voxels)[:, None]
    for corner in range(8):
        step = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1])
        at = (low.long() + step).remainder(size)
        weight = torch.where(step.bool(), share, 1 - share).prod(-1) * weights
        flat = (at[..., 0] * size[1] + at[..., 1]) * size[2] + at[..., 2] + base
        grids.index_add_(0, flat.flatten(), weight.flatten())
    return grids.reshape(points.shape[0], *size.tolist())


def _climb(
    volume: Tensor, voxel: float, points: Tensor, weights: Tensor, rotation: Tensor, shift: Tensor, resolution: float
) -> tuple[float, Tensor, Tensor]:
    """Raise the mean density at the points by small turns and shifts: L-BFGS from one start."""
    shape = torch.tensor(volume.shape)
    radius = float(points.norm(dim=-1).mean())
    # Turn vector in units that move an average atom by one ångström, shift in ångströms.
    step = torch.zeros(6, requires_grad=True)
    grid = volume[None, None]
    half = (shape // 2).flip(0).float()
    scale = 2.0 / (shape.flip(0).float() - 1)

    def placed() -> tuple[Tensor, Tensor]:
        return _exponential(step[:3] / radius) @ rotation, shift + step[3:]

    def density() -> Tensor:
        turn, move = placed()
        at = ((points @ turn.T + move) / voxel + half) * scale - 1
        values = torch.nn.functional.grid_sample(grid, at[None, None, None], align_corners=True)
        return (values.flatten() * weights).sum()

    optimiser = torch.optim.LBFGS([step], lr=0.5, max_iter=40, line_search_fn="strong_wolfe", tolerance_change=1e-7)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -density()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        if float(step.norm()) > 4 * resolution:  # left its own peak: the start was none
            step.zero_()
        turn, move = placed()
        return float(density()), turn.detach(), move.detach()


def _exponential(vector: Tensor) -> Tensor:
    x, y, z = vector.unbind()
    zero = torch.zeros_like(x)
    cross = torch.stack([torch.stack([zero, -z, y]), torch.stack([z, zero, -x]), torch.stack([-y, x, zero])])
    turn: Tensor = torch.linalg.matrix_exp(cross)
    return turn


_RADII = np.round(np.arange(0.0, 2.01, 0.1), 3)
_POINTS = 8


def q_scores(volume: Volume, atoms: Atoms, *, sigma_in_angstroms: float = 0.6) -> Tensor:
    """Q-score of every atom (n,): how much the map around it looks like an atom; 1 perfect, 0 nothing, NaN outside.

    Around each atom the map is sampled on shells of radius 0 … 2 Å at eight points each, leaving out points nearer to
    another atom; Q is the correlation, about their means, of these values with a Gaussian of standard deviation 0.6 Å.
    Pintilie et al. (2020), Nature Methods 17, 328. Hydrogens get NaN and do not claim points.

    Parameters
    ----------
    volume
        The map, sharpened as it is to be interpreted.
    atoms
        The model in the map's frame; the first model of an ensemble.
    sigma_in_angstroms
        Of the reference Gaussian.
    """
    counted = torch.nonzero((atoms.atomic_numbers != 1) & (atoms.models == atoms.models.min())).flatten()
    result = torch.full((len(atoms),), math.nan)
    positions = atoms.positions_in_angstroms[counted].double().numpy()
    voxel, origin = volume.voxel_size_in_angstroms, np.array(volume.origin_in_angstroms)
    grid = (positions - origin) / voxel
    inside = ((grid >= 0) & (grid <= np.array(volume.data.shape[::-1]) - 1)).all(1)
    tree = KDTree(positions)
    data = volume.data.double().cpu().numpy()
    chosen = counted[torch.from_numpy(inside)]
    scores = [
        _q_of(data, voxel, origin, tree, positions[inside][start : start + 2000], sigma_in_angstroms)
        for start in range(0, int(inside.sum()), 2000)
    ]
    if scores:
        result[chosen] = torch.from_numpy(np.concatenate(scores)).float()
    return result


def _q_of(
    data: np.ndarray, voxel: float, origin: np.ndarray, tree: KDTree, centres: np.ndarray, sigma: float
) -> np.ndarray:
    number = len(centres)
    sums = np.zeros((6, number))  # count, u, v, uu, vv, uv
    for radius in _RADII:
        reference = math.exp(-(radius**2) / (2 * sigma**2))
        owner, points = _own_points(tree, centres, float(radius))
        at = ((points - origin) / voxel)[:, ::-1].T
        u = scipy.ndimage.map_coordinates(data, at, order=1, mode="nearest")
        for row, values in enumerate((np.ones_like(u), u, None, u * u, None, u * reference)):
            if values is not None:
                sums[row] += np.bincount(owner, weights=values, minlength=number)
        points_here = np.bincount(owner, minlength=number)
        sums[2] += points_here * reference
        sums[4] += points_here * reference**2
    n = np.maximum(sums[0], 1)
    covariance = sums[5] - sums[1] * sums[2] / n
    variance_u, variance_v = sums[3] - sums[1] ** 2 / n, sums[4] - sums[2] ** 2 / n
    floor = 1e-12 * np.maximum(sums[3], 1e-300)
    known = (variance_u > floor) & (variance_v > 0)
    return np.where(known, covariance / np.sqrt(np.where(known, variance_u * variance_v, 1.0)), 0.0)


def _own_points(tree: KDTree, centres: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Up to eight points at a radius around each centre that no other atom is nearer to, with the centre's number."""
    number = len(centres)
    if radius == 0.0:
        owner = np.repeat(np.arange(number), _POINTS)
        return owner, centres[owner]
    owners, found = [], []
    missing = np.full(number, _POINTS)
    for tries in (8, 24, 64):
        open_ones = np.flatnonzero(missing > 0)
        if open_ones.size == 0:
            break
        candidates = centres[open_ones][:, None] + radius * _sphere(tries)
        nearest, _ = tree.query(candidates.reshape(-1, 3), distance_upper_bound=radius * (1 - 1e-6))
        free = ~np.isfinite(np.reshape(nearest, (open_ones.size, tries)))
        rank = np.cumsum(free, axis=1)
        take = free & (rank <= missing[open_ones][:, None])
        which, point = np.nonzero(take)
        owners.append(open_ones[which])
        found.append(candidates[which, point])
        missing[open_ones] -= take.sum(1)
    return np.concatenate(owners), np.concatenate(found)


def _sphere(count: int) -> np.ndarray:
    """Points (count, 3) spread evenly over the unit sphere, in an order in which the first few are spread too."""
    number = np.arange(count)
    z = 1 - 2 * (number + 0.5) / count
    turn = number * (math.pi * (3 - math.sqrt(5))) + 0.5 * count
    ring = np.sqrt(1 - z * z)
    points = np.stack([ring * np.cos(turn), ring * np.sin(turn), z], -1)
    stride = next(s for s in range(int(count * 0.618) | 1, 2 * count, 2) if math.gcd(s, count) == 1)
    return np.asarray(points[(number * stride) % count])
