"""The observable: averaged periodograms, their freedom, halves, regions and masks."""

import math
import pickle

import numpy as np
import pytest
import torch
from drawn_spectra import white

from cryoprism.causes.spectrum import measure_spectrum, polar_grid, tile_edge, window_autocorrelation
from cryoprism.core import InputError


def _blocks(power: torch.Tensor, freedom: torch.Tensor, width: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Averages over blocks of shells and all sectors, and their freedom."""
    shells = len(power) // width * width
    weight = freedom[:shells].reshape(-1, width * freedom.shape[1])
    value = (power[:shells].reshape(weight.shape) * weight).sum(1) / weight.sum(1)
    return value.numpy(), weight.sum(1).numpy()


def test_white_noise_has_its_variance_as_power_at_every_frequency():
    spectrum = measure_spectrum(2 * white((1024, 1024), 1) + 100, 1.5)
    value, freedom = _blocks(spectrum.power / 4, spectrum.freedom, 15)
    z = (value - 1) * np.sqrt(freedom)
    assert np.abs(z).max() < 4
    assert abs(z.mean()) < 4 / math.sqrt(len(z))
    assert spectrum.mean == pytest.approx(100, abs=0.02)
    assert spectrum.variance == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("shape", [(256, 256), (300, 384), (700, 600)])
def test_wide_averages_vary_as_the_effective_freedom_says(shape):
    z = []
    for seed in range(40):
        spectrum = measure_spectrum(white(shape, seed), 2.8)
        value, freedom = _blocks(spectrum.power, spectrum.freedom)
        z.append((value - 1) * np.sqrt(freedom))
    # About 400 squares: their mean is known to 7 % for one tile (few shells per block are correlated).
    assert np.square(z).mean() == pytest.approx(1, abs=0.25)


def test_a_half_varies_twice_as_much_and_hardly_follows_the_other():
    first, second = [], []
    for seed in range(25):
        spectrum = measure_spectrum(white((1024, 1024), seed), 2.8)
        assert spectrum.grid.edge == 256
        for half, store in zip(spectrum.halves, (first, second), strict=True):
            value, freedom = _blocks(half, spectrum.freedom / 2)
            store.append((value - 1) * np.sqrt(freedom))
    a, b = np.ravel(first), np.ravel(second)
    assert np.square(a).mean() == pytest.approx(1, abs=0.3)
    assert np.square(b).mean() == pytest.approx(1, abs=0.3)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.35


@pytest.mark.parametrize("shape", [(768, 768), (768, 512), (1024, 768), (1300, 1200)])
def test_both_halves_hold_tiles(shape):
    spectrum = measure_spectrum(white(shape, 3), 1.5)
    for half in spectrum.halves:
        assert float(half.mean()) == pytest.approx(1, abs=0.1)


def test_window_autocorrelation_is_the_numerical_one():
    n = 2000
    window = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
    lags = np.array([0, 1, 77, 500, 999, 1500, 1999])
    numeric = [(window[: n - lag] * window[lag:]).sum() / (window**2).sum() for lag in lags]
    closed = window_autocorrelation(torch.from_numpy(lags / n))
    np.testing.assert_allclose(closed.numpy(), numeric, atol=1e-6)
    assert torch.equal(window_autocorrelation(torch.tensor([-0.3])), window_autocorrelation(torch.tensor([0.3])))
    assert window_autocorrelation(torch.tensor([1.0, 1.7])).abs().max() < 1e-6


def test_regions_are_where_they_say():
    image = white((1500, 1500), 5)
    image[:500] *= 3
    image[:, 1000:] *= 2
    spectrum = measure_spectrum(image, 2.8)
    local = (spectrum.regions * spectrum.grid.count).sum((-1, -2)) / spectrum.grid.count.sum()
    # The middle row of tiles straddles borders; corners are pure.
    assert float(local[0, 0]) == pytest.approx(9, rel=0.12)
    assert float(local[2, 0]) == pytest.approx(1, rel=0.12)
    assert float(local[0, 2]) == pytest.approx(36, rel=0.12)
    assert float(local[2, 2]) == pytest.approx(4, rel=0.12)
    centres = spectrum.region_centres
    third = 1500 * 2.8 / 3
    torch.testing.assert_close(centres, -centres.flip(0, 1), atol=1.0, rtol=0)
    assert float(centres[2, 0, 0]) == pytest.approx(third, rel=0.15)
    assert float(centres[0, 2, 1]) == pytest.approx(third, rel=0.15)


def test_masked_tiles_are_left_out_and_cost_freedom():
    image = white((1024, 1024), 6)
    image[:, 512:] *= 30
    valid = np.ones((1024, 1024), dtype=bool)
    valid[:, 512:] = False
    # A tile that straddles the border counts half: leave it out too.
    valid[:, 500:] = False
    whole, part = (measure_spectrum(image, 2.8, valid=mask) for mask in (None, valid))
    left = measure_spectrum(image[:, :512], 2.8)
    assert part.tiles == left.tiles < whole.tiles
    torch.testing.assert_close(part.power, left.power, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(part.freedom, whole.freedom * (part.tiles / whole.tiles))
    assert part.shape == (1024, 1024)


def test_a_mask_without_any_tile_is_ignored():
    image = white((512, 512), 7)
    nothing = measure_spectrum(image, 1.5, valid=np.zeros((512, 512), dtype=bool))
    assert torch.equal(nothing.power, measure_spectrum(image, 1.5).power)


def test_low_shells_continue_the_polar_grid_downwards():
    low = np.mean([measure_spectrum(3 * white((1024, 1024), s), 1.5).low_power.mean() for s in range(6)])
    assert low == pytest.approx(9, rel=0.12)
    spectrum = measure_spectrum(white((1024, 1024), 0), 1.5)
    extent = spectrum.grid.edge * 1.5
    shells = (spectrum.low_k * extent).round().int().tolist()
    assert shells == list(range(4, spectrum.grid.first_shell))
    # Coefficients of half the plane: half a ring of radius r and width 1, per tile, times tiles that fit side by side.
    rings = math.pi * torch.tensor(shells) * (1024 / spectrum.grid.edge) ** 2
    torch.testing.assert_close(spectrum.low_coefficients, rings.float(), rtol=0.25, atol=0)
    assert float(spectrum.low_coefficients.sum()) == pytest.approx(float(rings.sum()), rel=0.05)


def test_coefficients_are_those_of_the_whole_micrograph():
    spectrum = measure_spectrum(white((900, 1100), 0), 1.5)
    k0, k1 = (float(spectrum.grid.k[i]) for i in (0, -1))
    half = spectrum.grid.shell_width / 2
    annulus = 0.5 * math.pi * ((k1 + half) ** 2 - (k0 - half) ** 2) * (900 * 1100 * 1.5**2)
    assert float(spectrum.coefficients.sum()) == pytest.approx(annulus, rel=0.02)


@pytest.mark.parametrize("degrees", [10.0, 55.0, 100.0, 160.0])
def test_angles_count_from_x_towards_rising_rows(degrees):
    k = 0.15
    y, x = torch.meshgrid(torch.arange(512.0) * 1.5, torch.arange(512.0) * 1.5, indexing="ij")
    direction = math.radians(degrees)
    image = torch.cos(2 * math.pi * k * (math.sin(direction) * y + math.cos(direction) * x))
    spectrum = measure_spectrum(image, 1.5)
    shell, sector = divmod(int(spectrum.power.argmax()), spectrum.power.shape[1])
    assert float(spectrum.grid.k[shell]) == pytest.approx(k, abs=spectrum.grid.shell_width)
    assert float(spectrum.grid.angle_in_degrees[sector]) == pytest.approx(degrees, abs=7.6)
    assert float(spectrum.grid.ky[shell, sector]) == pytest.approx(k * math.sin(direction), abs=0.02)
    assert float(spectrum.grid.kx[shell, sector]) == pytest.approx(k * math.cos(direction), abs=0.02)


def test_the_image_is_left_alone_and_its_type_and_level_do_not_matter():
    image = white((512, 640), 8)
    before = image.clone()
    spectrum = measure_spectrum(image, 1.5)
    assert torch.equal(image, before)
    assert torch.equal(measure_spectrum(image.numpy(), 1.5).power, spectrum.power)
    raised = measure_spectrum(image.double().numpy() + 1000, 1.5)
    torch.testing.assert_close(raised.power, spectrum.power, rtol=1e-2, atol=1e-4)


def test_workers_do_not_change_the_spectrum():
    image = white((768, 768), 9)
    assert torch.equal(measure_spectrum(image, 1.5, workers=1).power, measure_spectrum(image, 1.5, workers=2).power)


def test_a_pickled_grid_comes_back_as_the_cached_one():
    spectrum = measure_spectrum(white((512, 512), 9), 1.5)
    assert pickle.loads(pickle.dumps(spectrum.grid)) is spectrum.grid
    again = pickle.loads(pickle.dumps(spectrum))
    assert again.grid is spectrum.grid
    assert torch.equal(again.power, spectrum.power)


def test_tiles_fit_the_image_and_hold_the_rings():
    assert tile_edge((4096, 4096), 0.7) == 1024
    assert tile_edge((4096, 4096), 1.5) == 512
    assert tile_edge((4096, 4096), 6.0) == 256
    for shape in ((128, 4000), (200, 200), (500, 4000), (1000, 1000)):
        assert tile_edge(shape, 1.0) <= min(shape)


def test_unusable_images_are_refused_with_a_remedy():
    with pytest.raises(InputError, match="128"):
        measure_spectrum(white((127, 500), 0), 1.5)
    with pytest.raises(InputError, match="same value"):
        measure_spectrum(torch.full((256, 256), 7.0), 1.5)
    with pytest.raises(InputError, match="pixel size"):
        polar_grid(256, 13.0, 30.0, 2.5)
