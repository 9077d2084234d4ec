"""The view against closed forms and negative controls."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from conftest import FakeModel, draw, grids
from cryoprism.core import CryoPrismWarning, InputError, half_plane_weights, irfft2, rfft2
from cryoprism.restoration import artefact_mask, find_defects, restore_view, tabulate, wiener_filter
from cryoprism.restoration._band import Band

SHAPE = (384, 420)


def predicted_variance(model: FakeModel, shape: tuple[int, int]) -> float:
    """Mean of S N / (H² S + N) over all coefficients of the full transform."""
    ky, kx = grids(shape, model.pixel_size_in_angstroms)
    h, s, n = model.transfer(ky, kx), model.signal_power(ky, kx), model.noise_power(ky, kx)
    posterior = s * n / (h * h * s + n)
    return float((posterior * half_plane_weights(shape[1])).sum() / (shape[0] * shape[1]))


def exact_filter(image: torch.Tensor, model: FakeModel) -> torch.Tensor:
    ky, kx = grids(tuple(image.shape), model.pixel_size_in_angstroms)
    h, s, n = model.transfer(ky, kx), model.signal_power(ky, kx), model.noise_power(ky, kx)
    return irfft2(rfft2(image) * (h * s / (h * h * s + n)), tuple(image.shape))


@pytest.mark.parametrize("shape", [(64, 48), (63, 49), (64, 49), (63, 48)])
def test_band_is_the_cropped_transform(shape: tuple[int, int], generator: torch.Generator) -> None:
    image = torch.randn(shape, generator=generator)
    whole = Band.up_to(shape, 1.5, math.inf)
    torch.testing.assert_close(whole.forward(image), rfft2(image), rtol=0, atol=2e-4)
    torch.testing.assert_close(whole.inverse(whole.forward(image)), image, rtol=0, atol=1e-5)
    part = Band.up_to(shape, 1.5, 0.15)
    ky, kx = grids(shape, 1.5)
    outside = (ky.abs() > float(part.frequencies()[0].abs().max()) + 1e-6) | (
        kx > float(part.frequencies()[1].max()) + 1e-6
    )
    expected = irfft2(torch.where(outside, 0.0, rfft2(image)), shape)
    torch.testing.assert_close(part.inverse(part.forward(image)), expected, rtol=0, atol=1e-5)
    assert outside.any()


@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_error_equals_the_posterior_deviation(noise: float) -> None:
    model = FakeModel(noise=noise)
    specimen, image = draw(model, SHAPE, 1)
    result = restore_view(image + 50.0, model)
    error = float((result.view - specimen).square().mean())
    predicted = predicted_variance(model, SHAPE)
    assert error == pytest.approx(predicted, rel=0.04)
    assert float(result.deviation.square().mean()) == pytest.approx(predicted, rel=0.04)
    assert result.support.scale == pytest.approx(1.0, abs=5 * result.support.error)
    # It must beat both doing nothing and returning nothing.
    assert error < 0.8 * float(specimen.square().mean())
    assert error < float((image - specimen).square().mean())


def test_deviation_is_the_error_where_the_noise_varies() -> None:
    model = FakeModel(noise=2.0)  # as fitted over the whole field
    specimen, image = draw(FakeModel(noise=1.0), (512, 512), 2)
    _, other = draw(FakeModel(noise=2.0, signal=1e-9), (512, 512), 3)
    image[:, 256:] += other[:, 256:]  # noise variance three times as high on the right
    result = restore_view(image, model)
    error = (result.view - specimen).square()
    for half in (slice(0, 224), slice(288, 512)):
        assert float(result.deviation[:, half].square().mean()) == pytest.approx(float(error[:, half].mean()), rel=0.08)


def test_filter_is_the_exact_wiener_filter_linear_and_self_adjoint(generator: torch.Generator) -> None:
    model = FakeModel(signal=4.0)
    _, first = draw(model, SHAPE, 4)
    second = torch.randn(SHAPE, generator=generator)
    a, _ = wiener_filter(first, model)
    b, _ = wiener_filter(second, model)
    both, _ = wiener_filter(2.0 * first - 3.0 * second, model)
    torch.testing.assert_close(both, 2.0 * a - 3.0 * b, rtol=0, atol=1e-4)
    assert float((a * second).sum()) == pytest.approx(float((first * b).sum()), rel=1e-3, abs=0.05)
    exact = exact_filter(first, model)
    # Only frequencies with hardly any signal are left out.
    assert float((a - exact).norm() / exact.norm()) < 0.02


def test_image_is_background_plus_reblurred_view_plus_residual() -> None:
    model = FakeModel()
    _, image = draw(model, SHAPE, 5)
    y = torch.linspace(-1, 1, SHAPE[0])[:, None]
    image = image + 40.0 + 3.0 * y * y
    image[100, 57] = 400.0
    before = image.clone()
    result = restore_view(image, model, seed=3)
    assert torch.equal(image, before)
    assert result.defects.hot == 1
    assert result.mask[100, 57] == 1
    ky, kx = grids(SHAPE, model.pixel_size_in_angstroms)
    seen = irfft2(rfft2(result.view) * model.transfer(ky, kx), SHAPE)
    torch.testing.assert_close(result.removed_background + seen + result.residual, image, rtol=0, atol=3e-3)
    assert float((result.removed_background - 40.0 - 3.0 * y * y).abs().max()) < 1.0
    again = restore_view(image, model, seed=3)
    assert torch.equal(again.view, result.view)


def test_view_keeps_dark_particles_dark() -> None:
    model = FakeModel(noise=0.2)
    y, x = torch.meshgrid(torch.arange(SHAPE[0]), torch.arange(SHAPE[1]), indexing="ij")
    blob = -6.0 * torch.exp(-((y - 190.0) ** 2 + (x - 200.0) ** 2) / (2 * 12.0**2))
    ky, kx = grids(SHAPE, model.pixel_size_in_angstroms)
    _, image = draw(model, SHAPE, 6)
    image = image + irfft2(rfft2(blob) * model.transfer(ky, kx), SHAPE)
    result = restore_view(image, model)
    assert float(result.view[180:200, 190:210].mean() - result.view.mean()) < -1.0


def test_pure_noise_returns_nothing(generator: torch.Generator) -> None:
    model = FakeModel()
    ky, kx = grids(SHAPE, model.pixel_size_in_angstroms)
    white = rfft2(torch.randn(SHAPE, generator=generator))
    noise = irfft2(white * model.noise_power(ky, kx).sqrt(), SHAPE)
    claims_signal = restore_view(noise, model)  # a wrong model: it says there is a signal
    assert claims_signal.support.factor == 0.0
    assert float(claims_signal.view.abs().max()) == 0.0
    knows = restore_view(noise, FakeModel(signal=1e-6))
    assert float(knows.view.var()) < 1e-6
    torch.testing.assert_close(knows.residual + knows.removed_background, noise, rtol=0, atol=1e-3)


def test_randomised_phases_give_no_more_structure_than_chance() -> None:
    model = FakeModel(noise=0.2)
    _, image = draw(FakeModel(noise=0.2, signal=1e-9), SHAPE, 8)
    y, x = torch.meshgrid(torch.arange(SHAPE[0]), torch.arange(SHAPE[1]), indexing="ij")
    ky, kx = grids(SHAPE, model.pixel_size_in_angstroms)
    specimen = torch.zeros(SHAPE)
    for cy, cx in (torch.rand(20, 2, generator=torch.Generator().manual_seed(2)) * torch.tensor(SHAPE)).tolist():
        specimen -= 12.0 * torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 7.0**2))
    image = image + irfft2(rfft2(specimen) * model.transfer(ky, kx), SHAPE)
    coefficients = rfft2(image)
    phases = rfft2(torch.randn(SHAPE, generator=torch.Generator().manual_seed(9)))
    scrambled = irfft2(coefficients.abs() * phases / phases.abs().clamp_min(1e-9), SHAPE)

    def agreement(picture: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([picture.flatten(), specimen.flatten()]))[0, 1])

    true_view, _ = wiener_filter(image, model)
    null_view, _ = wiener_filter(scrambled, model)
    assert agreement(true_view) > 0.6
    # Blobs of this size leave about h w / (4 pi 7²) = 260 independent coefficients: four standard errors of chance.
    assert abs(agreement(null_view)) < 0.25
    kurtosis = ((null_view - null_view.mean()) / null_view.std()).pow(4).mean()
    assert float(kurtosis) < 3.6 < float(((true_view - true_view.mean()) / true_view.std()).pow(4).mean())


def test_field_with_a_defocus_gradient_is_sharper_than_with_the_mean_defocus() -> None:
    shape = (1280, 256)
    flat = FakeModel(noise=0.2, b_factor=20.0)
    specimen, _ = draw(flat, shape, 10)
    ky, kx = grids(shape, 1.5)
    slope = 0.3
    position = (torch.arange(shape[0]) - 0.5 * (shape[0] - 1)) * 1.5 * slope
    image = torch.zeros(shape)
    for start in range(0, shape[0], 16):  # every strip of 16 rows of the specimen at its own focus
        here = flat.with_defocus_offset(float(position[start : start + 16].mean()))
        strip = torch.zeros(shape)
        strip[start : start + 16] = specimen[start : start + 16]
        image += irfft2(rfft2(strip) * here.transfer(ky, kx), shape)
    _, noise = draw(FakeModel(noise=0.2, signal=1e-9), shape, 11)
    image += noise
    tilted = FakeModel(noise=0.2, b_factor=20.0, slope=(slope, 0.0))
    corrected, _ = wiener_filter(image, tilted)
    uncorrected, _ = wiener_filter(image, flat)
    planes = restore_view(image, tilted).focal_planes
    assert planes > 2
    ends = torch.cat([torch.arange(130, 260), torch.arange(1020, 1150)])  # the edges wrap around
    error = [(v - specimen)[ends].square().mean() for v in (corrected, uncorrected)]
    assert float(error[0]) < 0.75 * float(error[1])
    assert float(error[0]) < 1.25 * predicted_variance(flat, shape)


def test_gradient_without_refocusing_warns_and_uses_the_mean() -> None:
    class Fixed:
        pixel_size_in_angstroms = 1.5

        def __init__(self) -> None:
            self.inner = FakeModel()
            self.transfer, self.signal_power = self.inner.transfer, self.inner.signal_power
            self.noise_power = self.inner.noise_power

        def local_defocus_plane(self) -> tuple[float, float, float]:
            return (15000.0, 5.0, 0.0)

    _, image = draw(FakeModel(), SHAPE, 12)
    with pytest.warns(CryoPrismWarning, match="local_defocus_plane"):
        view, _ = wiener_filter(image, Fixed())
    expected, _ = wiener_filter(image, FakeModel())
    assert torch.equal(view, expected)


def test_masked_regions_get_the_prior_deviation() -> None:
    model = FakeModel(pixel_size_in_angstroms=3.0)
    _, image = draw(model, (512, 512), 13)
    y, x = torch.meshgrid(torch.arange(512), torch.arange(512), indexing="ij")
    image = image - 60.0 * (((y - 256) ** 2 + (x - 128) ** 2) < 40**2)
    result = restore_view(image, model)
    assert result.mask[256, 128] == 2
    assert float(result.deviation[256, 128]) == pytest.approx(result.prior_deviation, rel=1e-3)
    assert float(result.deviation[256, 400]) < 0.95 * result.prior_deviation


def test_given_defects_and_masks_are_used() -> None:
    model = FakeModel()
    _, image = draw(model, SHAPE, 14)
    defects, artefacts = find_defects(image), artefact_mask(image, 1.5)
    given = restore_view(image, model, defects=defects, artefacts=artefacts)
    assert given.defects is defects
    assert given.artefacts is artefacts
    assert torch.equal(given.view, restore_view(image, model).view)


def test_wrong_input_is_named() -> None:
    with pytest.raises(InputError, match="sum a movie"):
        restore_view(torch.zeros(3, 64, 64), FakeModel())
    with pytest.raises(InputError, match="pixel_size"):
        tabulate(FakeModel(pixel_size_in_angstroms=0.0))
    with pytest.raises(InputError, match="noise_power"):
        tabulate(FakeModel(noise=-1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = tabulate(FakeModel())
    assert float(table.density.sum()) * table.angle_in_degrees.numel() == pytest.approx(1.0, rel=1e-5)
