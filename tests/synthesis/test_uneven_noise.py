import math

import pytest
import torch
from torch.nn.functional import avg_pool2d

from cryoprism.core import generator_for
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
    # A slope along one side: upwards, downwards, or along the other side.
    images = [avg_pool2d(drawn(fit, f"{i}")[None, None], 100)[0, 0] for i in range(6)]
    assert len({(bool(a[0, 0] > a[-1, -1]), bool(a[0, -1] > a[-1, 0])) for a in images}) > 1
    assert coarse(drawn(fit, shape=(300, 1000))) == pytest.approx(coarse(micrograph(0.5)), rel=0.25)


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
