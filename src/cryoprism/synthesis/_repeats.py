"""One repeat of a filament, cut from a structure or map that holds several; repeats that cannot be laid are refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch.nn.functional import grid_sample

from cryoprism.core import InputError
from cryoprism.microscope.potential import AtomicModel

from .species import Helix, repeat_unit
from .specimen import Specimen

__all__ = ["one_repeat"]

Floats = NDArray[np.float64]

_SAME_IN_ANGSTROMS = 1.0
_HAS_COPIES = 0.4  # share of atoms with an image on another atom; molecules laid through each other have a quarter
_CLASHING = 0.05  # share of atoms inside of another repeat; neighbours that only touch have next to none
_SAMPLED_ATOMS = 2000
_MOST_NEIGHBOURS = 60
_EVEN = 0.9  # share of what the fullest of three repeats holds that the others have at least
_LIKE_ITS_COPY = 0.5  # correlation of a map of a filament with itself, one repeat further


def one_repeat(specimen: Specimen, helix: Helix) -> Specimen:
    """Return the specimen as one repeat of a helix, so that repeats by rise and twist add up to the filament.

    A structure with several repeats is cut to the last of them, which is whole: those atoms whose image by rise and
    twist is no other atom. A map that looks like itself one repeat further is cut by :func:`~.species.repeat_unit`.
    What holds no copies is one repeat already.

    Parameters
    ----------
    specimen
        Its z along the axis of the helix, which lies at ``-helix.axis_offset_in_angstroms`` from its centre.
    helix
        Rise and twist.

    Raises
    ------
    InputError
        Repeats would lie in one another: the rise or twist are others, or the axis lies elsewhere.
    """
    if specimen.model is not None:
        return _of_atoms(specimen, specimen.model, helix)
    return _of_map(specimen, helix)


def _image(points: Floats, helix: Helix, steps: int) -> Floats:
    """Points (n, 3) moved by some steps of the helix."""
    turn = math.radians(helix.twist_in_degrees) * steps
    c, s = math.cos(turn), math.sin(turn)
    axis = -np.array([*helix.axis_offset_in_angstroms, 0.0])
    turned = (points - axis) @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
    moved: Floats = turned + axis + np.array([0.0, 0.0, helix.rise_in_angstroms * steps])
    return moved


def _near(tree: cKDTree, points: Floats) -> NDArray[np.bool_]:
    distance, _ = tree.query(points, distance_upper_bound=_SAME_IN_ANGSTROMS)
    near: NDArray[np.bool_] = np.isfinite(distance)
    return near


def _of_atoms(specimen: Specimen, model: AtomicModel, helix: Helix) -> Specimen:
    points = model.positions_in_angstroms.double().numpy()
    copied = _near(cKDTree(points), _image(points, helix, 1))
    if copied.mean() > _HAS_COPIES:
        kept = torch.from_numpy(~copied)
        where = model.positions_in_angstroms[kept]
        where = where - torch.tensor([0.0, 0.0, float(where[:, 2].mean())])  # along the axis only: it stays where it is
        count = len(copied)

        def part(values: torch.Tensor | float) -> torch.Tensor | float:
            return values[kept] if isinstance(values, torch.Tensor) and values.numel() == count else values

        model = AtomicModel(
            positions_in_angstroms=where,
            atomic_numbers=model.atomic_numbers[kept],
            b_factors_in_square_angstroms=part(model.b_factors_in_square_angstroms),
            occupancies=part(model.occupancies),
            hydrogens=part(model.hydrogens),
        )
        specimen = replace(specimen, model=model, radius_in_angstroms=float(where.norm(dim=1).max()) + 1.5)
        points = where.double().numpy()
    height = float(np.ptp(points[:, 2]))
    tree = cKDTree(points)
    some = points[:: max(1, len(points) // _SAMPLED_ATOMS)]
    for steps in range(1, 1 + min(_MOST_NEIGHBOURS, int(height / helix.rise_in_angstroms))):
        share = float(_near(tree, _image(some, helix, steps)).mean())
        if share > _CLASHING:
            raise _wrong(specimen, helix, f"{100 * share:.0f} % of its atoms would lie within {steps} repeats further")
    return specimen


def _of_map(specimen: Specimen, helix: Helix) -> Specimen:
    if specimen.density is None:
        return specimen
    density, voxel = specimen.density.clamp_min(0), specimen.voxel_size_in_angstroms
    side = density.shape[0]
    axis = ((torch.arange(side) - side // 2).float() * voxel).double()
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    back = _image(torch.stack([x, y, z], -1).reshape(-1, 3).numpy(), helix, -1)
    grid = (2 * (torch.from_numpy(back).float() / voxel + side // 2) + 1) / side - 1
    copy = grid_sample(density[None, None], grid.reshape(1, side, side, side, 3), align_corners=False)[0, 0]
    held = z.abs() < 0.5 * side * voxel - helix.rise_in_angstroms
    both = float((density * copy)[held].sum())
    alike = both / math.sqrt(max(float(density[held].square().sum() * copy[held].square().sum()), 1e-30))
    if alike > _LIKE_ITS_COPY and _is_even(density.sum((1, 2)).numpy(), voxel, helix.rise_in_angstroms):
        return repeat_unit(specimen, helix.rise_in_angstroms)
    share = float(torch.minimum(density, copy).sum() / density.sum())
    if share > _LIKE_ITS_COPY:
        raise _wrong(specimen, helix, f"{100 * share:.0f} % of it would lie within the next repeat")
    return specimen


def _is_even(profile: Floats, voxel: float, rise: float) -> bool:
    """Whether there is as much to each side of the middle repeat as in it: in a filament, but not in a ball."""
    axis = (np.arange(len(profile)) - len(profile) // 2) * voxel
    share = profile / profile.sum()
    middle = float((share * axis).sum())
    # Even density of that length would have this spread.
    length = math.sqrt(12 * float((share * (axis - middle) ** 2).sum()))
    if length <= 2 * rise:
        return False
    total = np.concatenate([[0.0], np.cumsum(share)])
    edges = np.append(axis - 0.5 * voxel, axis[-1] + 0.5 * voxel)
    centres = middle + max(rise, 0.25 * length) * np.array([-1.0, 0.0, 1.0])
    held = np.interp(centres + 0.5 * rise, edges, total) - np.interp(centres - 0.5 * rise, edges, total)
    return bool(held.min() > _EVEN * held.max())


def _wrong(specimen: Specimen, helix: Helix, found: str) -> InputError:
    return InputError(
        f"'{specimen.name}' as a repeat of a filament",
        f"{found} at a rise of {helix.rise_in_angstroms:g} Å and a twist of {helix.twist_in_degrees:g}°",
        "Check --helical-rise and --helical-twist; the filament has to lie along z. Give --axis-offset for a subunit "
        "that is not centred on the axis.",
    )
