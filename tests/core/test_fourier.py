"""Fourier grids, transforms, shells, and resampling."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from cryoprism.core import (
    fourier_crop,
    frequency_grid,
    frequency_magnitude,
    generator_for,
    half_plane_weights,
    irfft2,
    radial_average,
    rfft2,
    volume_frequency_grid,
)

SHAPES = [(16, 16), (15, 17), (16, 17), (15, 16)]


def images(*shape: int, key: object = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator_for(1, key), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_parseval_with_half_plane_weights(shape: tuple[int, int]):
    x = images(3, *shape)
    power = (rfft2(x).abs() ** 2 * half_plane_weights(shape[1], dtype=torch.float64)).sum((-2, -1))
    torch.testing.assert_close(power / math.prod(shape), x.square().sum((-2, -1)))


@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip_and_agreement_of_both_paths(shape: tuple[int, int]):
    x = images(2, *shape)
    before = x.clone()
    torch.testing.assert_close(irfft2(rfft2(x), shape), x)
    assert torch.equal(x, before)
    leaf = x.clone().requires_grad_(True)
    torch.testing.assert_close(rfft2(leaf).detach(), rfft2(x))
    # Also where the half transform is not Hermitian, as after a fractional shift at an even size.
    odd = rfft2(x) * torch.exp(1j * images(shape[0], shape[1] // 2 + 1, key="phase"))
    tracked = odd.clone().requires_grad_(True)
    torch.testing.assert_close(irfft2(tracked, shape).detach(), irfft2(odd, shape))
    assert rfft2(x.float()).dtype == torch.complex64


def test_transforms_have_gradients():
    x = images(4, 5).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: torch.view_as_real(rfft2(v)), (x,))
    c = torch.fft.rfft2(images(4, 5)).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: irfft2(v, (4, 5)), (c,))


@pytest.mark.parametrize("shape", SHAPES)
def test_frequency_grid_is_in_inverse_angstroms(shape: tuple[int, int]):
    ky, kx = frequency_grid(shape, 1.5, dtype=torch.float64)
    assert ky.shape == (shape[0], 1)
    assert kx.shape == (1, shape[1] // 2 + 1)
    # A cosine with three periods along y lies on row 3, at 3 / (h · pixel).
    y = torch.arange(shape[0], dtype=torch.float64)[:, None]
    wave = torch.cos(2 * math.pi * 3 * y / shape[0]).expand(shape)
    peak = int(rfft2(wave).abs()[: shape[0] // 2].argmax() // kx.shape[1])
    assert float(ky[peak]) == pytest.approx(3 / (shape[0] * 1.5))
    magnitude = frequency_magnitude(shape, 1.5, dtype=torch.float64)
    torch.testing.assert_close(magnitude, torch.hypot(ky.expand_as(magnitude), kx.expand_as(magnitude)))


@pytest.mark.parametrize("shape", SHAPES)
def test_radial_average_of_a_radial_function_and_of_the_full_plane(shape: tuple[int, int]):
    k = frequency_magnitude(shape, 1.0, dtype=torch.float64)
    edges = torch.linspace(0, 0.5, 9, dtype=torch.float64)
    weights = half_plane_weights(shape[1], dtype=torch.float64)
    mean, count = radial_average(torch.ones(2, *k.shape, dtype=torch.float64), k, edges, weights)
    torch.testing.assert_close(mean, torch.ones(2, 8, dtype=torch.float64))
    # The same shells counted on the full transform.
    ky, kx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in shape)
    full = torch.hypot(ky[:, None].expand(shape), kx[None].expand(shape))
    power = torch.fft.fft2(images(*shape)).abs() ** 2
    want = [power[(full >= a) & (full < b)] for a, b in pairwise(edges)]
    assert count.tolist() == [len(w) for w in want]
    got, _ = radial_average(rfft2(images(*shape)).abs() ** 2, k, edges, weights)
    torch.testing.assert_close(got, torch.stack([w.mean() for w in want]))


def test_radial_average_of_an_empty_shell_is_zero_with_zero_count():
    k = frequency_magnitude((4, 4), 1.0)
    mean, count = radial_average(torch.ones_like(k), k, torch.tensor([0.0, 0.1, 0.2, 0.6]))
    assert count[1] == 0
    assert mean[1] == 0


def test_radial_average_has_gradients():
    k = frequency_magnitude((6, 6), 1.0, dtype=torch.float64)
    values = images(*k.shape).requires_grad_(True)
    edges = torch.tensor([0.0, 0.2, 0.4, 0.8], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: radial_average(v, k, edges)[0], (values,))


@pytest.mark.parametrize("shape", [(16, 16), (15, 17), (18, 15)])
@pytest.mark.parametrize("target", [(8, 8), (7, 9), (8, 7), (1, 1), (2, 2)])
def test_crop_keeps_the_mean_and_is_linear_with_its_adjoint(shape: tuple[int, int], target: tuple[int, int]):
    x, y = images(2, *shape), images(2, *shape, key=1)
    small = fourier_crop(x, target)
    assert small.shape == (2, *target)
    torch.testing.assert_close(small.mean((-2, -1)), x.mean((-2, -1)))
    torch.testing.assert_close(fourier_crop(2 * x - y, target), 2 * small - fourier_crop(y, target))
    leaf = x.clone().requires_grad_(True)
    z = images(2, *target, key=2)
    (adjoint,) = torch.autograd.grad(fourier_crop(leaf, target), leaf, grad_outputs=z)
    torch.testing.assert_close((adjoint * y).sum(), (z * fourier_crop(y, target)).sum())


def test_crop_keeps_a_slow_wave_at_its_place():
    def wave(n: int) -> torch.Tensor:
        return torch.cos(2 * math.pi * (torch.arange(n, dtype=torch.float64) / n + 0.1)).expand(n, n)

    torch.testing.assert_close(fourier_crop(wave(24), (10, 10)), wave(10))


def test_crop_does_not_enlarge():
    with pytest.raises(ValueError, match="8x8"):
        fourier_crop(torch.zeros(8, 8), (9, 8))


@pytest.mark.parametrize("shape", [(8, 10, 12), (9, 8, 7), (7, 11, 5)])
@pytest.mark.parametrize("sizes", [1.3, (1.3, 0.9, 2.1)])
@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_frequencies_of_a_volume_are_those_of_its_transform(shape, sizes, dtype, off):
    grid = volume_frequency_grid(shape, sizes, dtype=dtype)
    assert [tuple(k.shape) for k in grid] == [(shape[0], 1, 1), (1, shape[1], 1), (1, 1, shape[2] // 2 + 1)]
    edges = np.array(shape) * np.broadcast_to(sizes, 3)
    places = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    # A wave with whole periods along each axis has its coefficient at its frequency.
    for periods in ((-2, 3, 1), (1, -3, 2), (0, 0, 0)):
        power = np.abs(
            np.fft.rfftn(np.cos(2 * np.pi * sum(p * place for p, place in zip(periods, places, strict=True))))
        )
        peak = np.unravel_index(np.argmax(power), power.shape)
        found = [float(k.expand(power.shape)[peak]) for k in grid]
        np.testing.assert_allclose(found, periods / edges, rtol=off, atol=0)
    # To the bit what numpy computes, so that one may stand for the other.
    if dtype == torch.float64:
        for k, n, d in zip(grid[:2], shape[:2], np.broadcast_to(sizes, 3)[:2], strict=True):
            np.testing.assert_array_equal(k.flatten().numpy(), np.fft.fftfreq(n, d))
