"""Defects, gain residue and background: what is found, what is not, and what stays untouched."""

from __future__ import annotations

import os
from pathlib import Path

import mrcfile
import pytest
import torch
from torch import Tensor

from cryoprism.core import InputError
from cryoprism.restoration import GainResidueAccumulator, find_defects, fit_background, replace_defects

SHAPE = (512, 544)


def particles(amplitude: float, sigma: float, count: int = 60) -> Tensor:
    """Sum of smooth blobs at random places."""
    places = torch.rand(count, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor(SHAPE)
    y, x = torch.arange(SHAPE[0])[:, None], torch.arange(SHAPE[1])[None, :]
    image = torch.zeros(SHAPE)
    for cy, cx in places.tolist():
        image += amplitude * torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * sigma**2))
    return image


@pytest.mark.parametrize("mean", [1.0, 5.0, 30.0, 200.0])
def test_poisson_noise_has_no_defects(mean: float, generator: torch.Generator) -> None:
    image = torch.poisson(torch.full((1024, 1024), mean), generator=generator)
    found = find_defects(image)
    assert int(found.mask.sum()) == 0
    assert found.rows == found.columns == ()


@pytest.mark.parametrize("amplitude", [-12.0, 12.0])
def test_particles_are_not_defects(amplitude: float, generator: torch.Generator) -> None:
    image = 50.0 + particles(amplitude, 4.0) + torch.randn(SHAPE, generator=generator)
    assert int(find_defects(image).mask.sum()) == 0


def test_hot_and_dead_pixels_are_found(generator: torch.Generator) -> None:
    image = 50.0 + particles(-4.0, 8.0) + torch.randn(SHAPE, generator=generator)
    y = torch.randint(SHAPE[0], (80,), generator=generator)
    x = torch.randint(SHAPE[1], (80,), generator=generator)
    image[y[:40], x[:40]] += 15.0
    image[y[40:], x[40:]] -= 15.0
    before = image.clone()
    found = find_defects(image)
    truth = torch.zeros(SHAPE, dtype=torch.bool)
    truth[y, x] = True
    assert float((found.mask & truth).sum() / truth.sum()) > 0.97
    assert int((found.mask & ~truth).sum()) == 0
    assert found.hot + found.dead == int(found.mask.sum())
    assert torch.equal(image, before)


def test_dead_pixels_of_a_counting_detector_are_found_at_little_dose(generator: torch.Generator) -> None:
    image = torch.poisson(torch.full(SHAPE, 40.0), generator=generator)
    image[7, 9] = image[300, 200] = 0.0
    found = find_defects(image)
    assert found.dead == 2
    assert found.mask[7, 9]
    assert found.mask[300, 200]


@pytest.mark.parametrize(("kind", "value"), [("shift", 2.0), ("constant", 50.0), ("noisy", 5.0)])
def test_bad_lines_are_found(kind: str, value: float, generator: torch.Generator) -> None:
    image = 50.0 + particles(-4.0, 8.0) + torch.randn(SHAPE, generator=generator)
    for line in (image[100], image[:, 333], image[400, : SHAPE[1] // 4]):
        if kind == "shift":
            line += value
        elif kind == "constant":
            line[:] = value
        else:
            line += value * torch.randn(line.shape, generator=generator)
    found = find_defects(image)
    assert found.rows == (100, 400)
    assert found.columns == (333,)
    assert bool(found.mask[100].all())
    assert bool(found.mask[:, 333].all())
    # Only the bad quarter of row 400 (and the bad column) is left out.
    assert int(found.mask[400].sum()) <= SHAPE[1] // 4 + 3


def test_blank_border_and_non_finite_pixels_are_bad(generator: torch.Generator) -> None:
    image = 50.0 + torch.randn(SHAPE, generator=generator)
    image[:12] = 0.0
    image[:, -9:] = 0.0
    image[200, 200] = float("nan")
    image[210, 200] = float("inf")
    mask = find_defects(image).mask
    assert bool(mask[:12].all())
    assert bool(mask[:, -9:].all())
    assert mask[200, 200]
    assert mask[210, 200]
    assert int(mask[12:, :-9].sum()) == 2


def test_clipped_noise_is_counted_and_kept(generator: torch.Generator) -> None:
    image = (6500.0 * torch.randn(1024, 1024, generator=generator)).round().clamp(-32768, 32767)
    image[500:503, 500:503] = 32767.0
    found = find_defects(image)
    assert found.saturated == int(((image == 32767) | (image == -32768)).sum()) >= 9
    assert int(found.mask.sum()) == 0  # 5 deviations from the mean is what noise does


def test_replacement_has_the_local_level_and_noise(generator: torch.Generator) -> None:
    level = torch.linspace(10.0, 60.0, SHAPE[1])[None, :].expand(SHAPE)
    image = level + torch.randn(SHAPE, generator=generator)
    mask = torch.rand(SHAPE, generator=generator) < 0.02
    mask[100] = True
    bad = torch.where(mask, 1e4, image)
    out = replace_defects(bad, mask, torch.Generator().manual_seed(1))
    assert torch.equal(out[~mask], image[~mask])
    new = (out - level)[mask]
    assert float(new.mean()) == pytest.approx(0.0, abs=0.12)
    assert float(new.std()) == pytest.approx(1.0, abs=0.08)
    assert torch.equal(out, replace_defects(bad, mask, torch.Generator().manual_seed(1)))
    assert not torch.equal(out, replace_defects(bad, mask, torch.Generator().manual_seed(2)))
    with pytest.raises(InputError, match="every pixel"):
        replace_defects(bad, torch.ones(SHAPE, dtype=torch.bool), generator)
    with pytest.raises(InputError, match="mask"):
        replace_defects(bad, mask[:5], generator)


def session(pattern: Tensor, count: int, mean: float, generator: torch.Generator) -> GainResidueAccumulator:
    accumulator = GainResidueAccumulator()
    for index in range(count):
        ideal = mean * (1.0 + 0.1 * torch.roll(particles(-1.0, 8.0), index * 37, 1))
        image = torch.poisson(ideal.clamp_min(0.1), generator=generator) * (1.0 + pattern)
        accumulator.update(image)
    return accumulator


def test_no_common_pattern_gives_none(generator: torch.Generator) -> None:
    estimate = session(torch.zeros(SHAPE), 8, 30.0, generator).estimate()
    assert estimate.kind == "none"
    assert estimate.pattern is None
    assert max(estimate.significance.values()) < 5.0
    image = torch.randn(SHAPE, generator=generator)
    assert estimate.correct(image) is image
    assert GainResidueAccumulator().estimate().kind == "none"


def test_gain_residue_is_recovered(generator: torch.Generator) -> None:
    pattern = 0.05 * torch.randn(SHAPE, generator=generator) + 0.03 * torch.randn(1, SHAPE[1], generator=generator)
    accumulator = session(pattern, 24, 30.0, generator)
    estimate = accumulator.estimate()
    assert estimate.kind == "multiplicative"
    assert estimate.micrographs == accumulator.micrographs == 24
    assert estimate.pattern is not None
    truth = pattern - pattern.mean()
    # Noise per pixel of the mean: 1 / sqrt(30 · 24) = 0.037; best linear error of 0.05 is 0.05·0.037/0.062 = 0.030.
    assert float((estimate.pattern - truth).std()) < 0.036
    assert estimate.deviation["pixels"] == pytest.approx(0.05, rel=0.1)
    assert estimate.deviation["columns"] == pytest.approx(0.03, rel=0.25)
    assert estimate.deviation["rows"] < 0.005
    flat = torch.full(SHAPE, 30.0) * (1.0 + pattern)
    corrected = estimate.correct(flat)
    assert float(corrected.std()) < 0.65 * float(flat.std())


def test_images_without_a_true_zero_get_an_additive_pattern(generator: torch.Generator) -> None:
    pattern = 0.5 * torch.randn(SHAPE, generator=generator)
    accumulator = GainResidueAccumulator()
    for _ in range(10):
        accumulator.update(1000.0 * (torch.randn(SHAPE, generator=generator) + pattern))
    estimate = accumulator.estimate()
    assert estimate.kind == "additive"
    image = 1000.0 * (torch.randn(SHAPE, generator=generator) + pattern)
    corrected = estimate.correct(image)
    assert float(torch.corrcoef(torch.stack([corrected.flatten(), pattern.flatten()]))[0, 1].abs()) < 0.2
    with pytest.raises(InputError, match="separate sessions"):
        accumulator.update(torch.zeros(10, 10))
    with pytest.raises(InputError, match="separate sessions"):
        estimate.correct(torch.zeros(10, 10))


@pytest.mark.parametrize("shape", [(512, 544), (411, 333)])
def test_background_is_recovered_under_particles_and_contamination(
    shape: tuple[int, int], generator: torch.Generator
) -> None:
    y, x = torch.linspace(-1, 1, shape[0])[:, None], torch.linspace(-1, 1, shape[1])[None, :]
    truth = 100.0 + 8.0 * y - 5.0 * x * x + 3.0 * x * y
    image = truth + torch.randn(shape, generator=generator)
    image[50:120, 60:130] -= 80.0
    before = image.clone()
    found = fit_background(image)
    assert torch.equal(image, before)
    assert float((found.field() - truth).abs().max()) < 0.6
    constant = fit_background(torch.full(shape, 7.0), order=2)
    assert float((constant.field() - 7.0).abs().max()) < 1e-4
    assert found.relative_range == pytest.approx(float((truth.max() - truth.min()) / truth.mean()), rel=0.15)
    with pytest.raises(InputError, match="order"):
        fit_background(image, order=9)


def test_ignored_regions_do_not_pull_the_background(generator: torch.Generator) -> None:
    image = 10.0 + torch.randn(SHAPE, generator=generator)
    image[:, :240] -= 30.0  # 44 %: too much for any robust fit alone
    ignore = torch.zeros(64, 68, dtype=torch.bool)
    ignore[:, :30] = True
    field = fit_background(image, order=1, ignore=ignore).field()
    assert float((field - 10.0).abs().max()) < 1.0


@pytest.mark.real
def test_real_micrographs_have_few_defects() -> None:
    folder = Path(os.environ.get("CRYOPRISM_DATA", "../shared/data")) / "apoferritin" / "micrographs"
    paths = sorted(folder.glob("*.mrc"))
    if not paths:
        pytest.skip(f"no micrographs in {folder}; set CRYOPRISM_DATA")
    for path in paths:
        with mrcfile.open(path, permissive=True) as file:
            found = find_defects(torch.from_numpy(file.data.astype("float32")))
        assert float(found.mask.float().mean()) < 2e-3
        assert 20 < found.saturated < 100
