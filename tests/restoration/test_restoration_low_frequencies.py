"""The continuation of fitted spectra below the fitted band."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from conftest import FakeModel, draw
from cryoprism.core import irfft2, rfft2
from cryoprism.restoration import restore_view, tabulate, wiener_filter
from cryoprism.restoration.low_frequencies import continue_to_low_frequencies, lowest_fitted_frequency
from cryoprism.restoration.wiener import pass_band

SHAPE = (768, 800)
TRUTH = FakeModel(noise=1.0)


@dataclass(frozen=True)
class Extrapolated(FakeModel):
    """Right above 1/30 Å, a thirtieth of the signal below it."""

    lowest_fitted_frequency: float = 1.0 / 30.0

    def signal_power(self, ky: Tensor, kx: Tensor) -> Tensor:
        k = torch.sqrt(ky * ky + kx * kx)
        return super().signal_power(ky, kx) * torch.where(k < self.lowest_fitted_frequency, 1.0 / 30.0, 1.0)


def test_a_model_without_a_limit_is_taken_to_start_at_30_angstroms() -> None:
    assert lowest_fitted_frequency(TRUTH) == pytest.approx(1.0 / 30.0)
    assert lowest_fitted_frequency(Extrapolated(lowest_fitted_frequency=0.02)) == 0.02


def test_missing_signal_is_recovered_from_the_image() -> None:
    specimen, image = draw(TRUTH, SHAPE, 21)
    model = Extrapolated(noise=1.0)
    band = pass_band(SHAPE, tabulate(model))
    continued = continue_to_low_frequencies(band.forward(image), band, model)
    k = torch.linspace(1 / 120, 1 / 32, 20)
    zero = torch.zeros(1)
    ratio = continued.signal_power(zero, k) / TRUTH.signal_power(zero, k)
    assert 0.7 < float(ratio.min()) <= float(ratio.max()) < 1.4
    above = torch.linspace(1 / 29, 0.3, 20)
    assert torch.equal(continued.signal_power(zero, above), model.signal_power(zero, above))
    assert torch.equal(continued.transfer(zero, k), model.transfer(zero, k))
    error = [
        float((view - specimen).square().mean())
        for view in (restore_view(image, model).view, wiener_filter(image, model)[0], wiener_filter(image, TRUTH)[0])
    ]
    assert error[0] == pytest.approx(error[2], rel=0.01)  # as good as knowing the spectrum
    refocused = continued.with_defocus_offset(500.0)  # type: ignore[attr-defined]
    assert torch.equal(refocused.signal_power(zero, k), continued.signal_power(zero, k))
    torch.testing.assert_close(refocused.transfer(zero, k), model.with_defocus_offset(500.0).transfer(zero, k))


def test_a_right_model_and_pure_noise_are_left_alone(generator: torch.Generator) -> None:
    _, image = draw(TRUTH, SHAPE, 22)
    band = pass_band(SHAPE, tabulate(TRUTH))
    assert continue_to_low_frequencies(band.forward(image), band, TRUTH) is TRUTH
    ky, kx = torch.fft.fftfreq(SHAPE[0], 1.5)[:, None], torch.fft.rfftfreq(SHAPE[1], 1.5)[None, :]
    noise = irfft2(rfft2(torch.randn(SHAPE, generator=generator)) * TRUTH.noise_power(ky, kx).sqrt(), SHAPE)
    silent = FakeModel(signal=1e-9)
    assert continue_to_low_frequencies(band.forward(noise), band, silent) is silent


def test_gradients_and_thick_spots_count_as_background_not_as_signal() -> None:
    _, image = draw(TRUTH, SHAPE, 23)
    k = torch.sqrt(torch.fft.fftfreq(SHAPE[0], 1.5)[:, None] ** 2 + torch.fft.rfftfreq(SHAPE[1], 1.5)[None, :] ** 2)
    slow = irfft2(rfft2(torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))) * 20.0 * (k < 1 / 400), SHAPE)
    band = pass_band(SHAPE, tabulate(TRUTH))
    continued = continue_to_low_frequencies(band.forward(image + slow), band, TRUTH)
    zero, low = torch.zeros(1), torch.tensor([1 / 600])
    assert float(continued.signal_power(zero, low) / TRUTH.signal_power(zero, low)) < 2.0
    assert float(continued.noise_power(zero, low) / TRUTH.noise_power(zero, low)) > 20.0
