"""Copies of a model as other experiments would show it: turned, on another grid, filtered and with noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from cryoprism.core import generator_for, random_rotations
from cryoprism.formats import Atoms, Volume
from cryoprism.structure import low_pass, model_map

from .preparation import box_around

__all__ = ["CopyRecipe", "copies_of", "copy_of"]


@dataclass(frozen=True)
class CopyRecipe:
    """How a copy is made.

    Attributes
    ----------
    voxel_size_in_angstroms
        Of its grid [Å].
    resolution_in_angstroms
        Sharp low-pass before the noise [Å].
    b_factor_in_square_angstroms
        Of all atoms [Å²].
    noise
        Standard deviation of the white noise in units of the molecule's mean density.
    """

    voxel_size_in_angstroms: float
    resolution_in_angstroms: float
    b_factor_in_square_angstroms: float
    noise: float


def copy_of(atoms: Atoms, recipe: CopyRecipe, generator: torch.Generator) -> Volume:
    """Map of a model turned at random, by a recipe."""
    turn = random_rotations(1, generator)[0]
    turned = replace(atoms, positions_in_angstroms=atoms.positions_in_angstroms @ turn.T)
    like = box_around(turned.positions_in_angstroms, recipe.voxel_size_in_angstroms, 25.0)
    made = model_map(turned, like, b_factor_in_square_angstroms=recipe.b_factor_in_square_angstroms)
    data = low_pass(made.data, made.voxel_size_in_angstroms, recipe.resolution_in_angstroms)
    height = float(data[data > 0.5 * data.max() * 0.5].mean())
    noise = recipe.noise * height * torch.randn(data.shape, generator=generator)
    return replace(made, data=data + noise)


def copies_of(atoms: Atoms, count: int, seed: int, name: str) -> Iterator[tuple[CopyRecipe, Volume]]:
    """Make copies by random recipes: voxels of 1.5 to 3.5 Å, 5 to 15 Å, B of 0 to 200 Å², noise up to 1 in half.

    ``name`` of the model and ``seed`` decide the copies.
    """
    for number in range(count):
        generator = generator_for(seed, "novelty-copy", name, number)
        voxel, resolution, b_factor, noise = torch.rand(4, generator=generator).tolist()
        recipe = CopyRecipe(1.5 + 2.0 * voxel, 5.0 + 10.0 * resolution, 200.0 * b_factor, max(0.0, 2.0 * noise - 1.0))
        yield recipe, copy_of(atoms, recipe, generator)
