"""Which of particles and map is bright, whatever the shape and however generous the diameter."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cryoprism.core import frequency_magnitude, generator_for, irfft2, random_rotations, rfft2
from cryoprism.formats import read_map
from cryoprism.microscope import project_volume
from cryoprism.structure import (
    INVERTED,
    FourierVolume,
    brightness,
    contrast_of_map,
    contrast_significance,
    low_pass,
    pack,
    packed_frequencies,
    soft_sphere,
)

BOX, PIXEL, RADIUS, COUNT = 48, 3.0, 20, 300
DIAMETERS = (100.0, 130.0)


def solid() -> Tensor:
    """Lumps in an ellipsoid of 90 by 50 by 60 Å, off centre."""
    generator = generator_for(0, "contrast")
    axis = (torch.arange(BOX) - BOX // 2).float() * PIXEL
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    volume = torch.zeros(BOX, BOX, BOX)
    for place in torch.randn(60, 3, generator=generator) * torch.tensor([20.0, 11.0, 13.0]) + 4.0:
        volume += torch.exp(-0.5 * ((grid - place) ** 2).sum(-1) / 6.0**2)
    return volume


def hollow() -> Tensor:
    """Shell from 30 to 48 Å."""
    outer, inner = (soft_sphere((BOX,) * 3, PIXEL, r, soft_edge_in_angstroms=6) for r in (48.0, 30.0))
    return outer - inner


def particles(volume: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Packed images with variance of the signal over that of the noise ``ratio`` (0: noise alone), and transfer."""
    generator = generator_for(1, "contrast")
    k = packed_frequencies(RADIUS).float().norm(dim=1) / (BOX * PIXEL)
    transfer = torch.sin(math.pi * 0.0197 * torch.linspace(8000, 22000, COUNT)[:, None] * k**2 + 0.1)
    views = FourierVolume.from_map(volume, max_radius=RADIUS).slices(random_rotations(COUNT, generator), RADIUS)
    views = views * transfer
    level = math.sqrt(float((2 * views.abs() ** 2).sum(1).mean()) / BOX**4)
    white = pack(rfft2(torch.randn(COUNT, BOX, BOX, generator=generator) * level), RADIUS)
    return (white if ratio == 0 else views + white / math.sqrt(ratio)), transfer


def significance(images: Tensor, transfer: Tensor, diameter: float, reference: Tensor | None = None) -> float:
    return contrast_significance(
        images,
        transfer,
        box=BOX,
        pixel_size_in_angstroms=PIXEL,
        diameter_in_angstroms=diameter,
        reference=reference,
    )


@pytest.mark.parametrize("diameter", DIAMETERS)
@pytest.mark.parametrize("shape", [solid, hollow])
def test_noisy_particles_are_bright_and_their_negatives_dark(shape, diameter: float) -> None:
    truth = shape()
    images, transfer = particles(truth, 0.02)
    for reference in (None, low_pass(truth, PIXEL, 30.0)):
        found = significance(images, transfer, diameter, reference)
        assert found > 20
        assert significance(-images, transfer, diameter, reference) == pytest.approx(-found)
        assert -found < INVERTED
    assert significance(images, transfer, diameter, -truth) < INVERTED


@pytest.mark.parametrize("diameter", DIAMETERS)
def test_another_shape_is_not_the_negative(diameter: float) -> None:
    for one, other in ((solid, hollow), (hollow, solid)):
        assert significance(*particles(one(), 0.02), diameter, other()) > 10


def test_noise_has_no_contrast() -> None:
    images, transfer = particles(solid(), 0.0)
    for reference in (None, solid(), -hollow()):
        assert abs(significance(images, transfer, 100.0, reference)) < 4
    assert significance(images[:1], transfer[:1], 100.0) == 0.0


@pytest.mark.parametrize("shape", [solid, hollow])
def test_a_black_map_is_told_whatever_its_level(shape) -> None:
    for level in (0.0, 3.0):
        assert contrast_of_map(shape() + level, PIXEL, 100.0) > 0.5
        assert contrast_of_map(level - shape(), PIXEL, 100.0) < -0.5


def differences(volume: Tensor, pixel: float) -> list[Tensor]:
    """Of a map and itself moved or turned over, and what is left of it without its coarse part."""
    moved = volume - torch.roll(volume, (3, 2, 1), (0, 1, 2))
    sharp = [volume - low_pass(volume, pixel, max(detail, 3 * pixel)) for detail in (20.0, 40.0)]
    return [moved, volume - volume.flip(0), *sharp]


@pytest.mark.parametrize("diameter", [80.0, *DIAMETERS])
@pytest.mark.parametrize("shape", [solid, hollow])
def test_a_map_alone_tells_whether_it_is_black(shape, diameter: float) -> None:
    volume = shape()
    noisy = volume + 0.3 * volume.std() * torch.randn(volume.shape, generator=generator_for(3, "contrast"))
    sharpened = volume + 3 * (volume - low_pass(volume, PIXEL, 15.0))
    for made in (volume, volume + 3.0, noisy, sharpened, volume - volume.mean()):
        assert brightness(made, PIXEL, diameter) > 0.8
        assert brightness(-made, PIXEL, diameter) < -0.8
    for unclear in differences(volume, PIXEL):
        assert abs(brightness(unclear, PIXEL, diameter)) < 0.7


@pytest.mark.parametrize("shape", [solid, hollow])
def test_class_averages_alone_tell_whether_they_are_black(shape) -> None:
    """With the contrast transfer in them as well, whose rings lie about the particle."""
    turns = random_rotations(BOX, generator_for(4, "contrast"))
    views = project_volume(shape(), turns, PIXEL)
    k = frequency_magnitude((BOX, BOX), PIXEL)
    seen = irfft2(rfft2(views) * torch.sin(math.pi * 0.0197 * 15000 * k**2 + 0.1), (BOX, BOX))
    for diameter in DIAMETERS:
        for averages in (views, views + 2.0):
            assert brightness(averages, PIXEL, diameter, averages=True) > 0.8
            assert brightness(-averages, PIXEL, diameter, averages=True) < -0.8
        assert brightness(seen, PIXEL, diameter, averages=True) > 0.5


def test_where_nothing_lies_around_nothing_is_said() -> None:
    assert brightness(-solid(), PIXEL, 300.0) == 0.0
    assert brightness(torch.zeros(BOX, BOX, BOX), PIXEL, 100.0) == 0.0


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "diameter"), [("beta_galactosidase.mrc", 190.0), ("emd_1997_groel.mrc", 160.0), ("emd_3197.mrc", 180.0)]
)
def test_real_maps_are_not_taken_for_black(real_data: Path, name: str, diameter: float) -> None:
    read = read_map(real_data / "maps" / name)
    volume, pixel = read.data.float(), read.voxel_size_in_angstroms
    for share in (0.7, 1.0, 1.3):
        for made in (volume, *differences(volume, pixel)):
            assert brightness(made, pixel, share * diameter) > -0.7
        if name != "emd_3197.mrc":  # too coarse for any to be told
            assert brightness(volume, pixel, share * diameter) > 0.8
            assert brightness(-volume, pixel, share * diameter) < -0.8
