import math

import pytest
import torch

from cryoprism.core import InputError, irfft2, rfft2
from cryoprism.synthesis import NOISE_KINDS, add_noise, fit_noise, power_spectrum
from cryoprism.synthesis.noise import spectrum_on


def _image(seed, shape=(384, 512)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _coloured(seed, shape=(384, 512)):
    transform = rfft2(_image(seed, shape))
    k = (torch.fft.fftfreq(shape[0])[:, None] ** 2 + torch.fft.rfftfreq(shape[1]) ** 2).sqrt()
    return irfft2(transform * (0.3 + torch.exp(-((k / 0.1) ** 2))), shape)


def test_power_of_white_noise_is_its_variance():
    power = power_spectrum(2.0 * _image(0), 128)
    assert float(power[1:, 1:].mean()) == pytest.approx(4.0, rel=0.03)


def test_spectrum_on_another_grid_keeps_the_variance():
    power = power_spectrum(_coloured(1), 128)
    image = irfft2(rfft2(_image(2, (300, 420))) * spectrum_on(power, (300, 420)).sqrt(), (300, 420))
    assert float(image.var()) == pytest.approx(float(_coloured(1).var()), rel=0.05)


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_noise_has_the_variance_that_was_left_over(kind):
    clean = 0.05 * _coloured(3)
    real = 100.0 + 40.0 * (clean + 0.3 * _coloured(4))
    fit = fit_noise(real, clean, 40.0, pixel_size_in_angstroms=1.5)
    made = add_noise(kind, fit, clean, pixel_size_in_angstroms=1.5, seed=0, name="one")
    assert float(made.mean()) == pytest.approx(100.0, abs=1.0)
    assert float(made.std()) == pytest.approx(float(real.std()), rel=0.06)


def test_spectrum_noise_has_the_spectrum_and_gaussian_noise_has_not():
    clean = 0.05 * _coloured(5)
    real = 7.0 * (clean + 0.3 * _coloured(6))
    fit = fit_noise(real, clean, 7.0, pixel_size_in_angstroms=1.5)
    want = power_spectrum(real, 64)[1:, 1:].log()

    def off(kind):
        made = add_noise(kind, fit, clean, pixel_size_in_angstroms=1.5, seed=0, name="one")
        return float((power_spectrum(made, 64)[1:, 1:].log() - want).square().mean().sqrt())

    assert off("spectrum") < 0.2
    assert off("gaussian") > 3 * off("spectrum")


def test_electrons_are_counted_from_the_rise_of_the_variance():
    generator = torch.Generator().manual_seed(7)
    clean = 0.2 * torch.repeat_interleave(torch.repeat_interleave(_image(8, (24, 32)), 16, 0), 16, 1)
    counts = torch.poisson(50.0 * (1 + clean).clamp_min(0.05), generator=generator)
    fit = fit_noise(counts, clean, 50.0, pixel_size_in_angstroms=1.5)
    assert fit.electrons == pytest.approx(50.0, rel=0.15)


def test_strength_varies_where_the_real_one_does():
    still = _image(9)
    field = torch.exp(0.3 * torch.nn.functional.interpolate(_image(10, (3, 4))[None, None], (384, 512)))[0, 0]
    fits = [
        fit_noise(image, torch.zeros(384, 512), 1.0, pixel_size_in_angstroms=3.0) for image in (still, still * field)
    ]
    assert fits[0].field_deviation < 0.1
    assert 0.3 < fits[1].field_deviation < 0.9


def test_same_seed_same_pixels_and_names_differ():
    clean = torch.zeros(128, 128)
    fit = fit_noise(_coloured(11, (128, 128)), clean, 1.0, pixel_size_in_angstroms=1.5)

    def draw(name):
        return add_noise("matched", fit, clean, pixel_size_in_angstroms=1.5, seed=3, name=name)

    assert torch.equal(draw("a"), draw("a"))
    assert not torch.equal(draw("a"), draw("b"))


def test_errors_name_what_is_wrong():
    with pytest.raises(InputError, match="gain"):
        fit_noise(_image(0), torch.zeros(384, 512), 0.0, pixel_size_in_angstroms=1.5)
    with pytest.raises(InputError, match="alike"):
        fit_noise(torch.ones(128, 128), torch.zeros(128, 128), 1.0, pixel_size_in_angstroms=1.5)
    fit = fit_noise(_image(0), torch.zeros(384, 512), 1.0, pixel_size_in_angstroms=1.5)
    with pytest.raises(InputError, match="not known"):
        add_noise("pink", fit, torch.zeros(8, 8), pixel_size_in_angstroms=1.5, seed=0, name="a")
    assert math.isfinite(fit.variance)
