"""Copies of a model as other experiments would show it: turned, uneven, a little bent, filtered and with noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryoprism.core import generator_for, random_rotations, volume_frequency_grid
from cryoprism.formats import Atoms, Volume
from cryoprism.structure import low_pass, model_map

from .preparation import box_around

__all__ = ["CopyRecipe", "copies_of", "copy_of"]

_MARGIN = 25.0
_WAVES = 4


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
        Standard deviation of the white noise in voxels of 2 Å, in units of the molecule's mean density; its power per
        frequency is the same in other voxels.
    magnification
        By which every length is wrong, as that of microscopes is by a percent or two.
    unevenness
        Part of the density that the most mobile places lack; it changes smoothly over the molecule.
    bend_in_angstroms
        Root mean square of smooth displacements, as between conformations [Å].
    low_frequency_loss, low_frequencies_in_angstroms
        Part of the amplitude lost at frequency 0, fading as exp(-(f·L)²): high-pass filters, normalised particles and
        tight masks do that to maps [Å].
    sharpening_in_square_angstroms
        B-factor of a sharpening, up to 6 Å [Å²].
    is_flattened
        Whether the solvent was set to 0 by a soft mask.
    """

    voxel_size_in_angstroms: float = 2.0
    resolution_in_angstroms: float = 10.0
    b_factor_in_square_angstroms: float = 0.0
    noise: float = 0.0
    magnification: float = 1.0
    unevenness: float = 0.0
    bend_in_angstroms: float = 0.0
    low_frequency_loss: float = 0.0
    low_frequencies_in_angstroms: float = 50.0
    sharpening_in_square_angstroms: float = 0.0
    is_flattened: bool = False


def copy_of(atoms: Atoms, recipe: CopyRecipe, generator: torch.Generator) -> Volume:
    """Map of a model turned at random, by a recipe."""
    turn = random_rotations(1, generator)[0]
    places = atoms.positions_in_angstroms - atoms.positions_in_angstroms.mean(0)
    fields = smooth_fields(places, 4, generator)
    bent = places + recipe.bend_in_angstroms * fields[:, 1:] / math.sqrt(3)
    # A standard deviation of 1 brings most of the field between 0 and 1.
    dim = (0.5 + 0.4 * fields[:, :1]).clamp(0, 1).flatten()
    turned = replace(
        atoms,
        positions_in_angstroms=recipe.magnification * bent @ turn.T,
        occupancies=atoms.occupancies * (1 - recipe.unevenness * dim),
    )
    like = box_around(turned.positions_in_angstroms, recipe.voxel_size_in_angstroms, _MARGIN)
    made = model_map(turned, like, b_factor_in_square_angstroms=recipe.b_factor_in_square_angstroms)
    data = low_pass(made.data, made.voxel_size_in_angstroms, recipe.resolution_in_angstroms)
    height = float(data[data > 0.25 * data.max()].mean())
    noise = (
        recipe.noise
        * (2.0 / recipe.voxel_size_in_angstroms) ** 1.5
        * height
        * torch.randn(data.shape, generator=generator)
    )
    return replace(made, data=_as_deposited(data, data + noise, made.voxel_size_in_angstroms, recipe))


def _as_deposited(clean: Tensor, noisy: Tensor, voxel: float, recipe: CopyRecipe) -> Tensor:
    """Map (z, y, x) after what is done to it between reconstruction and deposition."""
    loss, sharpening = recipe.low_frequency_loss, recipe.sharpening_in_square_angstroms
    if loss or sharpening:
        z, y, x = (f / voxel for f in volume_frequency_grid(noisy.shape, 1.0))
        square = z**2 + y**2 + x**2
        gain = 1 - loss * torch.exp(-square * recipe.low_frequencies_in_angstroms**2)
        gain = gain * torch.exp(sharpening / 4 * square.clamp_max(1 / 36))
        noisy = torch.fft.irfftn(torch.fft.rfftn(noisy) * gain, s=tuple(noisy.shape))
    if recipe.is_flattened:
        wide = low_pass(clean, voxel, 20.0)
        noisy = noisy * (4 * wide / wide[wide > 0.25 * wide.max()].mean()).clamp(0, 1)
    return noisy


def smooth_fields(places: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random fields (n, count) of variance about 1 at places (n, 3): waves of one to three of its diameters."""
    diameter = 2.6 * float(places.square().sum(1).mean().sqrt())
    directions = torch.nn.functional.normalize(torch.randn(_WAVES, count, 3, generator=generator), dim=-1)
    lengths = diameter * (1 + 2 * torch.rand(_WAVES, count, 1, generator=generator))
    phases = 2 * math.pi * torch.rand(_WAVES, count, generator=generator)
    angles = torch.einsum("nd,wcd->nwc", places, 2 * math.pi * directions / lengths) + phases
    return math.sqrt(2 / _WAVES) * angles.cos().sum(1)


def copies_of(atoms: Atoms, count: int, seed: int, name: str) -> Iterator[tuple[CopyRecipe, Volume]]:
    """Make copies by random recipes.

    Voxels of 2.5 to 4 Å, resolution of 5 to 15 Å, B of 0 to 200 Å², noise up to 1 in one half and none in the other,
    lengths wrong by up to 3 %, density uneven by up to a half, bent by up to 2 Å. One half as deposited: up to 0.7 of
    the low frequencies (25 to 70 Å) lost, sharpened by 50 to 200 Å², most with flat solvent. ``name`` and ``seed``
    decide them.
    """
    for number in range(count):
        generator = generator_for(seed, "novelty-copy", name, number)
        voxel, fine, b_factor, noise, size, uneven, bend = torch.rand(7, generator=generator).tolist()
        loss, low, sharp, flat = torch.rand(4, generator=generator).tolist() if number % 2 else (0.0, 0.0, 0.0, 1.0)
        recipe = CopyRecipe(
            voxel_size_in_angstroms=2.5 + 1.5 * voxel,
            resolution_in_angstroms=5.0 + 10.0 * fine,
            b_factor_in_square_angstroms=200.0 * b_factor,
            noise=max(0.0, 2.0 * noise - 1.0),
            magnification=1.0 + 0.03 * (2 * size - 1),
            unevenness=0.5 * uneven,
            bend_in_angstroms=2.0 * bend,
            low_frequency_loss=0.7 * loss,
            low_frequencies_in_angstroms=25.0 + 45.0 * low,
            sharpening_in_square_angstroms=50.0 + 150.0 * sharp if number % 2 else 0.0,
            is_flattened=flat < 0.6,
        )
        yield recipe, copy_of(atoms, recipe, generator)
