"""Radiation damage: published figures, closed forms against sums, and the exposure filter's promises."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from cryoprism.core import frequency_magnitude, generator_for
from cryoprism.microscope.dose import (
    critical_exposure,
    damage_amplitude,
    damage_envelope,
    damage_frames,
    exposure_weighted_sum,
    exposure_weights,
    voltage_factor,
)

K = torch.linspace(0.0, 0.5, 51, dtype=torch.float64)[None]


def test_critical_exposure_is_the_published_curve():
    k = torch.tensor([0.05, 0.1, 1 / 3], dtype=torch.float64)
    want = [0.24499 * x**-1.6649 + 2.8141 for x in k.tolist()]
    assert critical_exposure(k).tolist() == pytest.approx(want)
    assert critical_exposure(k, 200.0).tolist() == pytest.approx([0.8 * w for w in want])


def test_voltage_factor_passes_the_published_points_and_rises():
    assert voltage_factor(300.0) == pytest.approx(1.0)
    assert voltage_factor(200.0) == pytest.approx(0.8)
    values = [voltage_factor(v) for v in (80, 100, 199.99, 200.01, 250, 299.99, 300.01, 400)]
    assert values == sorted(values)
    # (v/c)² from the rest energy of 510.999 keV
    gamma = 1 + 100 / 510.999
    gamma200 = 1 + 200 / 510.999
    assert voltage_factor(100.0) == pytest.approx(0.8 * (1 - gamma**-2) / (1 - gamma200**-2), rel=1e-5)


def test_damage_envelope_is_the_mean_over_the_exposure():
    start, end = 3.0, 47.0
    doses = start + (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000 * (end - start)
    want = torch.stack([damage_amplitude(K, 300.0, float(n)) for n in doses[::20] + 0.02]).mean(0)
    torch.testing.assert_close(damage_envelope(K, 300.0, start, end), want, atol=2e-4, rtol=0)


def test_damage_envelope_limits():
    assert float(damage_envelope(K, 300.0, 0.0, 80.0)[0, 0]) == pytest.approx(1.0)
    torch.testing.assert_close(damage_envelope(K, 300.0, 7.0, 7.0), damage_amplitude(K, 300.0, 7.0))
    across = [damage_envelope(K, 300.0, 0.0, x) for x in (0.9e-3 * 5.6, 1.1e-3 * 5.6)]  # both sides of the series
    torch.testing.assert_close(across[0], across[1], atol=1e-3, rtol=0)
    assert bool((damage_envelope(K, 300.0, 0.0, 40.0).diff() < 0).all())


def test_damage_envelope_gradients_are_right_even_at_zero_exposure_and_frequency():
    ends = torch.tensor([0.0, 1e-4, 30.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e: damage_envelope(K[:, ::10], 300.0, 0.0, e), (ends,), atol=1e-6)
    k = K.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(damage_envelope(k, 300.0, 0.0, 30.0).sum(), k)
    assert bool(torch.isfinite(gradient).all())


def test_the_sum_of_damaged_frames_shows_the_envelope():
    movie = torch.randn(1, 32, 30, generator=generator_for(1), dtype=torch.float64).expand(20, 32, 30)
    total = damage_frames(movie, 1.2, 300.0, 2.0, pre_exposure=1.0).sum(-3)
    k = frequency_magnitude((32, 30), 1.2, dtype=torch.float64)
    want = torch.fft.irfft2(torch.fft.rfft2(movie[0]) * damage_envelope(k, 300.0, 1.0, 41.0), s=(32, 30)) * 20
    torch.testing.assert_close(total, want)


def test_weights_keep_the_mean_and_the_noise_spectrum():
    k = frequency_magnitude((24, 24), 1.0, dtype=torch.float64)
    weights = exposure_weights(k, 300.0, 1.5, 30)
    assert weights.shape == (30, 24, 13)
    torch.testing.assert_close(weights[:, 0, 0], torch.ones(30, dtype=torch.float64))
    torch.testing.assert_close(weights.square().sum(0), torch.full_like(k, 30.0))
    assert bool((weights[0, 5:10] > weights[-1, 5:10]).all())


def test_weights_are_the_best_for_signal_to_noise():
    """No other weights do better than those (Cauchy-Schwarz), and equal weights do worse at high frequency."""
    k = torch.full((1, 1), 1 / 3.0, dtype=torch.float64)
    w = exposure_weights(k, 300.0, 2.0, 25)[:, 0, 0]
    edges = torch.arange(26, dtype=torch.float64) * 2
    q = torch.stack([damage_envelope(k, 300.0, float(a), float(b)) for a, b in pairwise(edges)])
    q = q[:, 0, 0]

    def snr(v: torch.Tensor) -> float:
        return float((v * q).sum() ** 2 / (v * v).sum())

    assert snr(w) == pytest.approx(float((q * q).sum()))
    assert snr(w) > 1.5 * snr(torch.ones_like(w))


def test_without_damage_the_weighted_sum_is_the_plain_sum():
    movie = torch.randn(2, 6, 20, 21, generator=generator_for(2), dtype=torch.float64)
    torch.testing.assert_close(exposure_weighted_sum(movie, 1.0, 300.0, 0.0), movie.sum(-3))


def test_the_callers_dose_is_left_alone():
    dose = torch.tensor([1.0, 2.0], dtype=torch.float64)
    k = frequency_magnitude((8, 8), 1.0, dtype=torch.float64)
    batch = exposure_weights(k, 200.0, dose, 5)
    assert dose.tolist() == [1.0, 2.0]
    assert batch.shape == (2, 5, 8, 5)
    torch.testing.assert_close(batch[1], exposure_weights(k, 200.0, 2.0, 5))


def test_half_of_the_contrast_is_gone_where_theory_says():
    k = torch.full((1, 1), 0.25, dtype=torch.float64)
    half = 2 * math.log(2) * float(critical_exposure(k))
    assert float(damage_amplitude(k, 300.0, half)) == pytest.approx(0.5)
