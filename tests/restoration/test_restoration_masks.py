"""Artefact masks and crystalline ice, on made and on real micrographs."""

from __future__ import annotations

import math
import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor

from cryoprism.core import InputError, rfft2
from cryoprism.restoration import LABELS, artefact_mask, suppress_crystalline_ice
from cryoprism.restoration.crystalline import ice_region

DATA = Path(os.environ.get("CRYOPRISM_DATA", "../shared/data"))
PIXEL = 3.0
SHAPE = (896, 960)


def scene(generator: torch.Generator, particle: float = -0.5, count: int = 120) -> Tensor:
    """White noise with smooth particles of about 120 Å that do not overlap."""
    image = torch.randn(SHAPE, generator=generator)
    y, x = torch.arange(SHAPE[0])[:, None], torch.arange(SHAPE[1])[None, :]
    cells = torch.cartesian_prod(torch.arange(12), torch.arange(13))[torch.randperm(156, generator=generator)[:count]]
    places = (cells + 0.3 + 0.4 * torch.rand(count, 2, generator=generator)) * 72.0
    for cy, cx in places.tolist():
        image += particle * torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 16.0**2))
    return image


@pytest.mark.parametrize(("particle", "count"), [(0.0, 1), (-0.5, 120), (-1.0, 120), (-1.0, 12)])
def test_particles_and_noise_are_not_artefacts(particle: float, count: int, generator: torch.Generator) -> None:
    fractions = artefact_mask(scene(generator, particle, count), PIXEL).area_fractions
    assert fractions["good"] > 0.98
    assert fractions["carbon"] == 0.0


def test_contamination_is_labelled_where_it_lies(generator: torch.Generator) -> None:
    image = scene(generator)
    y, x = torch.meshgrid(torch.arange(SHAPE[0]), torch.arange(SHAPE[1]), indexing="ij")
    disc = (y - 300) ** 2 + (x - 500) ** 2 < 60**2
    image = image - 4.0 * disc
    before = image.clone()
    found = artefact_mask(image, PIXEL)
    assert torch.equal(image, before)
    labels = found.full_labels()
    assert labels.shape == SHAPE
    marked = labels == LABELS["contamination"]
    assert float(marked[disc].float().mean()) > 0.95
    assert float(marked.float().mean()) < 2.2 * float(disc.float().mean())


def test_carbon_is_the_rough_side_of_an_edge(generator: torch.Generator) -> None:
    image = scene(generator)
    x = torch.arange(SHAPE[1])[None, :]
    carbon = (x < 250).expand(SHAPE)
    image = torch.where(carbon, 2.0 * torch.randn(SHAPE, generator=generator) - 1.0, image)
    marked = artefact_mask(image, PIXEL).full_labels() == LABELS["carbon"]
    assert float(marked[carbon].float().mean()) > 0.9
    assert float(marked[~carbon].float().mean()) < 0.1


def test_crystal_is_found_in_its_tile_only(generator: torch.Generator) -> None:
    pixel, shape = 1.2, (768, 1024)
    image = torch.randn(shape, generator=generator)
    clean = artefact_mask(image, pixel).area_fractions
    assert clean["crystalline ice"] == 0.0
    y, x = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    wave = torch.cos(2 * math.pi * pixel / 3.67 * (0.6 * y + 0.8 * x))
    image[256:512, 256:512] += 0.15 * wave[256:512, 256:512]
    marked = artefact_mask(image, pixel).full_labels() == LABELS["crystalline ice"]
    assert float(marked[260:508, 260:508].float().mean()) > 0.95
    assert float(marked.float().mean()) < 0.12
    # Coarser than 3.44 Å: nothing can be said, nothing is.
    assert artefact_mask(image, 2.0).area_fractions["crystalline ice"] == 0.0


def test_rings_and_spots_of_ice_are_brought_down_and_the_rest_is_left(generator: torch.Generator) -> None:
    shape, pixel = (512, 512), 1.2
    ky, kx = torch.fft.fftfreq(shape[0], pixel)[:, None], torch.fft.rfftfreq(shape[1], pixel)[None, :]
    k = torch.sqrt(ky * ky + kx * kx)
    noise = rfft2(torch.randn(shape, generator=generator))
    ring = ((k * 3.67 - 1).abs() < 0.015).float()
    dirty = noise * (1.0 + ring)  # four times the power
    index, frequency = ice_region(ky, kx)
    row, column = np.unravel_index(int(index[(frequency * 3.44 - 1).abs().argmin()]), k.shape)
    dirty[int(row), int(column)] = 50.0 * math.sqrt(shape[0] * shape[1])
    expected = torch.ones(index.numel())
    scale = 1.0 / (shape[0] * shape[1])
    before = dirty.clone()
    clean, found = suppress_crystalline_ice(dirty.reshape(-1)[index], expected, frequency, scale)
    assert torch.equal(dirty, before)
    excess = dict(zip(found.spacings_in_angstroms, found.excess, strict=True))
    assert excess[3.67] == pytest.approx(4.0, rel=0.1)
    assert excess[3.90] == pytest.approx(1.0, abs=0.1)
    assert sum(found.spots) == 1
    assert float(clean.abs().square().max()) * scale < 20.0
    in_ring = (frequency * 3.67 - 1).abs() < 0.015
    assert float((clean.abs().square() * scale)[in_ring].mean()) == pytest.approx(1.0, rel=0.05)
    # Phases stay, and clean data are not touched at all.
    torch.testing.assert_close(clean / clean.abs(), dirty.reshape(-1)[index] / dirty.reshape(-1)[index].abs())
    same, none = suppress_crystalline_ice(noise.reshape(-1)[index], expected, frequency, scale)
    assert torch.equal(same, noise.reshape(-1)[index])
    assert sum(none.spots) == 0


def test_wrong_input_is_named() -> None:
    with pytest.raises(InputError, match="pixel_size"):
        artefact_mask(torch.zeros(64, 64), 0.0)
    with pytest.raises(InputError, match="image"):
        artefact_mask(torch.zeros(2, 64, 64), 1.0)


@pytest.mark.real
def test_real_micrographs_lose_little_area() -> None:
    paths = sorted((DATA / "apoferritin" / "micrographs").glob("*.mrc"))
    if not paths:
        pytest.skip(f"no micrographs in {DATA}; set CRYOPRISM_DATA")
    flagged = []
    for path in paths:
        with mrcfile.open(path, permissive=True) as file:
            found = artefact_mask(torch.from_numpy(file.data.astype("float32")), 1.5)
        fractions = found.area_fractions
        assert fractions["carbon"] == fractions["crystalline ice"] == 0.0, path.name
        flagged.append(1.0 - fractions["good"])
        if path.stem.endswith("04.33.57"):  # one isolated ice contamination, seen by eye
            assert found.full_labels()[730, 245] == LABELS["contamination"]
    assert sorted(flagged)[len(flagged) // 2] < 0.03
    assert max(flagged) < 0.10


@pytest.mark.real
def test_curated_classes_are_ordered() -> None:
    image_module = pytest.importorskip("PIL.Image")
    paths = sorted((DATA / "curation").glob("*/*.png"))
    if not paths:
        pytest.skip(f"no images in {DATA / 'curation'}; set CRYOPRISM_DATA")
    flagged: dict[str, list[float]] = {}
    for path in paths:
        pixels = torch.from_numpy(np.array(image_module.open(path)).astype("float32"))
        fraction = 1.0 - artefact_mask(pixels, 8.0).area_fractions["good"]
        flagged.setdefault(path.parent.name[0], []).append(fraction)
    mean = {name: sum(values) / len(values) for name, values in flagged.items()}
    assert mean["0"] < 0.03
    assert mean["2"] > 2.0 * mean["0"]
    assert mean["4"] > 2.0 * mean["0"]
