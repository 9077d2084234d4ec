import math

import pytest
import torch
from torch.nn.functional import avg_pool2d

from cryoprism.core import generator_for
from cryoprism.synthesis._slow_waves import SlowWaves, waves_like
from cryoprism.synthesis.noise import add_noise, fit_noise, power_spectrum

SHAPE = (600, 700)


def micrograph(slope: float, rate: float | None = None) -> torch.Tensor:
    """Grey values about 1000 with a spread of 100, a slope of some standard deviation, of counts or Gaussian."""
    generator = generator_for(0, "uneven")
    if rate is None:
        noise = torch.randn(SHAPE, generator=generator)
    else:
        noise = (torch.poisson(torch.full(SHAPE, rate), generator=generator) - rate) / rate**0.5
    return 1000 + 100 * noise + 141 * slope * torch.cos(torch.linspace(0, math.pi, SHAPE[0]))[:, None]


def drawn(fit, name="a", shape=SHAPE):
    return add_noise("matched", fit, torch.zeros(shape), pixel_size_in_angstroms=1.5, seed=1, name=name)


def fitted(image):
    return fit_noise(image, torch.zeros(SHAPE), 500.0, pixel_size_in_angstroms=1.5)


def coarse(image):
    return float(avg_pool2d(image[None, None], 50).std())


def skewness_and_kurtosis(image):
    z = (image - image.mean()) / image.std()
    return float(z.pow(3).mean()), float(z.pow(4).mean()) - 3


def test_a_slope_of_the_field_comes_back_and_does_not_leak_into_the_spectrum():
    even, sloping = micrograph(0.0), micrograph(0.5)
    assert coarse(sloping) > 10 * coarse(even)
    for real in (even, sloping):
        fit = fitted(real)
        assert [coarse(drawn(fit, name)) for name in "abc"] == pytest.approx([coarse(real)] * 3, rel=0.25)
    torch.testing.assert_close(fitted(sloping).power[1:4], fitted(even).power[1:4], rtol=0.05, atol=1e-3)


def test_backgrounds_differ_between_draws_and_fit_any_shape():
    fit = fitted(micrograph(0.5))
    # A slope along one side, upwards or downwards; never along the other side, which is longer.
    images = [avg_pool2d(drawn(fit, f"{i}")[None, None], 100)[0, 0] for i in range(6)]
    assert {bool(a[0].mean() > a[-1].mean()) for a in images} == {True, False}
    assert all(float(a.mean(0).std()) < 0.2 * float(a.mean(1).std()) for a in images)
    assert drawn(fit, shape=(300, 1000)).shape == (300, 1000)


def _field(shape, wave, y=0, x=0):
    """Noise with a background of half a wave down and a whole wave across its field, each ``wave`` long."""
    rows, columns = (torch.arange(start, start + n) for start, n in zip((y, x), shape, strict=True))
    noise = torch.randn(shape, generator=generator_for(1, "field", y, x))
    return 1000 + 100 * (noise + torch.cos(math.pi * rows / wave)[:, None] + torch.cos(2 * math.pi * columns / wave))


def test_a_smaller_field_is_a_window_and_does_not_squeeze_the_background():
    large, small = (1024, 1024), (256, 256)
    fit = fit_noise(_field(large, 1024), torch.zeros(large), 500.0, pixel_size_in_angstroms=1.5)
    assert fit.field_in_pixels == large
    made = [coarse(drawn(fit, f"{i}", small)) for i in range(16)]
    real = [coarse(_field(small, 1024, y, x)) for y in range(0, 1024, 256) for x in range(0, 1024, 256)]
    squeezed = coarse(_field(small, 256))
    assert torch.tensor(made).mean() == pytest.approx(float(torch.tensor(real).mean()), rel=0.25)
    assert torch.tensor(made).max() < 0.8 * squeezed
    # The windows lie in different places, and a field larger than the measured one goes on.
    means = torch.tensor([float(drawn(fit, f"{i}", small).mean()) for i in range(16)])
    assert float(means.std()) > 30
    assert coarse(drawn(fit, "wide", (256, 1536))) < squeezed


def test_a_field_of_the_measured_size_is_drawn_from_its_first_pixel():
    coefficients = torch.randn(3, 3, generator=generator_for(0, "waves"))
    whole = waves_like(coefficients, (64, 64), (64, 64), generator_for(1, "turn"))
    assert whole.start == (0, 0)
    window = SlowWaves(whole.coefficients, (64, 64), (10, 20)).on((30, 30))
    torch.testing.assert_close(window, whole.on((64, 64))[10:40, 20:50])


def test_the_spectrum_of_a_small_image_is_an_average():
    """One tile alone scatters by as much as its power."""
    for edge in (400, 512):
        power = power_spectrum(torch.randn(edge, edge, generator=generator_for(0, "white", edge)))
        assert power.shape[0] == edge // 2
        assert float(power[2:, 2:-1].std()) < 0.45
    assert power_spectrum(torch.zeros(1024, 1100)).shape == (512, 257)


def test_counts_leave_their_skewness_and_kurtosis():
    real = micrograph(0.3, rate=25.0)
    assert skewness_and_kurtosis(real - micrograph(0.3).mean())[0] > 0.1
    third, fourth = skewness_and_kurtosis(drawn(fitted(micrograph(0.0, rate=25.0))))
    assert third == pytest.approx(0.2, abs=0.03)
    assert fourth == pytest.approx(0.04, abs=0.04)
    assert skewness_and_kurtosis(drawn(fitted(micrograph(0.0))))[0] == pytest.approx(0, abs=0.02)


def test_the_spectrum_is_kept():
    real = avg_pool2d(micrograph(0.0, rate=25.0)[None, None], 3, 1, 1)[0, 0]
    ratio = power_spectrum(drawn(fitted(real))) / power_spectrum(real)
    assert float(ratio[:, 1:60].log().mean().exp()) == pytest.approx(1, abs=0.1)
