from dataclasses import replace

import pytest
import torch

from cryoprism.core import InputError, frequency_magnitude, half_plane_weights, irfft2, rfft2
from cryoprism.synthesis import bits_lost, information_in_bits, information_of, intervene, render_micrograph

SHAPE = (256, 240)
PIXEL = 1.5


def coloured(generator, envelope=150.0):
    k = frequency_magnitude(SHAPE, PIXEL)
    white = torch.randn(SHAPE, generator=generator)
    return irfft2(rfft2(white) * torch.exp(-envelope * k * k / 4), SHAPE)


def test_pure_noise_has_no_bits():
    generator = torch.Generator().manual_seed(1)
    ones = torch.ones(SHAPE[0], SHAPE[1] // 2 + 1)
    found = [
        information_in_bits(torch.randn(SHAPE, generator=generator), coloured(generator), PIXEL, squared_ctf=ones)
        for _ in range(12)
    ]
    bits = torch.tensor([i.bits for i in found])
    error = found[0].standard_error
    assert bits.std() == pytest.approx(error, rel=0.6)
    assert bits.mean().abs() < 4 * error / 12**0.5


def test_known_signal_to_noise_gives_shannons_bits():
    generator = torch.Generator().manual_seed(2)
    ones = torch.ones(SHAPE[0], SHAPE[1] // 2 + 1)
    k = frequency_magnitude(SHAPE, PIXEL)
    for strength in (0.1, 1.0, 10.0):
        signal = coloured(generator)
        image = strength**0.5 * signal + torch.randn(SHAPE, generator=generator)
        ssnr = strength * torch.exp(-150.0 * k * k / 2)
        want = (half_plane_weights(SHAPE[1]) * (k < 0.5 / PIXEL) * 0.5 * torch.log2(1 + ssnr)).sum()
        found = information_in_bits(3.0 * image + 7.0, 0.2 * signal, PIXEL, squared_ctf=ones)
        assert found.bits == pytest.approx(float(want), rel=0.03, abs=3 * found.standard_error)
        assert float(found.bits_per_ring.sum()) == pytest.approx(found.bits)


def test_half_of_the_field_holds_half_of_the_bits():
    generator = torch.Generator().manual_seed(3)
    ones = torch.ones(SHAPE[0], SHAPE[1] // 2 + 1)
    signal = coloured(generator)
    image = signal + torch.randn(SHAPE, generator=generator)
    mask = torch.zeros(SHAPE)
    mask[:128] = 1
    whole = information_in_bits(image, signal, PIXEL, squared_ctf=ones)
    half = information_in_bits(image, signal, PIXEL, squared_ctf=ones, excluded=mask)
    assert half.bits == pytest.approx(0.5 * whole.bits, rel=0.08)
    with pytest.raises(InputError, match="less than 1 %"):
        information_in_bits(image, signal, PIXEL, squared_ctf=ones, excluded=torch.ones(SHAPE))


def test_drift_costs_bits_and_removing_it_gives_them_back(small_scene, shell):
    still = replace(small_scene, particle_count=8)
    drifting = replace(still, drift_x_in_angstroms=12.0)
    calm, blurred = (information_of(render_micrograph(s, shell)) for s in (still, drifting))
    assert blurred.bits < 0.9 * calm.bits
    assert bits_lost(drifting, shell, "motion") == pytest.approx(calm.bits - blurred.bits, rel=1e-4)
    stronger = replace(still, drift_x_in_angstroms=20.0)
    assert bits_lost(stronger, shell, "motion") > bits_lost(drifting, shell, "motion") > 0


def test_twin_differences_scatter_less_than_bits(small_scene, shell):
    lost, own = [], []
    for seed in range(4):
        scene = replace(small_scene, seed=seed, envelope_b_factor_in_square_angstroms=60.0)
        a = information_of(render_micrograph(scene, shell)).bits
        b = information_of(render_micrograph(intervene(scene, "envelope"), shell)).bits
        own.append(a)
        lost.append((b - a) / b)
    assert min(lost) > 0.03
    assert torch.tensor(lost).std() < 0.5 * torch.tensor(lost).mean()


def test_bits_of_another_micrographs_particles_are_none(small_scene, shell):
    a, b = (render_micrograph(replace(small_scene, seed=s), shell) for s in (1, 2))
    crossed = information_of(replace(a, signal=b.signal))
    assert abs(crossed.bits) < 0.1 * information_of(a).bits
