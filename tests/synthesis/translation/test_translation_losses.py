import math

import pytest
import torch

from cryoprism.core import InputError, generator_for
from cryoprism.synthesis.translation import band_shares, particle_mask
from cryoprism.synthesis.translation.losses import (
    discriminator_loss,
    generator_loss,
    patch_nce,
    signal_loss,
    statistics_loss,
    without_signal,
)
from cryoprism.synthesis.translation.sampling import sample_positions


def units(count: int, size: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, size, generator=generator_for(seed)), dim=1)


@pytest.mark.parametrize("own_negatives", [False, True])
def test_the_contrast_prefers_the_right_positive(own_negatives):
    positive = units(20, 16, 0)
    negatives = units(30, 16, 1) if own_negatives else None
    right = patch_nce(positive, positive, negatives)
    wrong = patch_nce(positive.roll(1, 0), positive, negatives)
    assert right < 0.1 < 3 < wrong


def test_the_contrast_of_alike_vectors_is_the_logarithm_of_their_number():
    alike = units(1, 8, 0).expand(12, 8)
    assert float(patch_nce(alike, alike)) == pytest.approx(math.log(12), rel=1e-5)
    assert float(patch_nce(alike, alike, alike[:5])) == pytest.approx(math.log(6), rel=1e-5)


def test_least_squares_have_their_minimum_where_the_sides_are_told_apart_or_fooled():
    ones, zeros = (torch.ones(2, 3, 3), torch.ones(2)), (torch.zeros(2, 3, 3), torch.zeros(2))
    assert float(discriminator_loss(ones, zeros)) == 0
    assert float(generator_loss(ones)) == 0
    assert float(generator_loss(zeros)) == float(discriminator_loss(zeros, ones)) == 2


def test_statistics_of_few_patches_are_compared_without_bias():
    mean, scale = torch.tensor([3.0, -1.0]), torch.tensor([2.0, 0.5])
    drawn = mean + scale * torch.randn(4000, 6, 2, generator=torch.Generator().manual_seed(0))
    losses = torch.stack([statistics_loss(part, mean, scale) for part in drawn])
    assert abs(float(losses.mean())) < 3 * float(losses.std()) / 4000**0.5
    # A shift of a deviation in one of the two costs a half.
    shifted = torch.stack([statistics_loss(part + torch.tensor([2.0, 0.0]), mean, scale) for part in drawn])
    assert float(shifted.mean()) == pytest.approx(0.5, abs=0.05)


def test_guided_positions_come_from_the_masks_and_their_negatives_from_the_other_class():
    mask = particle_mask((20, 30), torch.tensor([[8.0, 9.0], [22.0, 4.0]]), 4.0)
    (on, off), (off_again, on_again) = sample_positions(mask, 12, generator_for(0)).groups
    assert on.tolist() == on_again.tolist()
    assert off.tolist() == off_again.tolist()
    assert bool((mask.flatten()[on] == 1).all())
    assert bool((mask.flatten()[off] == 0).all())
    assert len(set(on.tolist())) == len(set(off.tolist())) == 12


@pytest.mark.parametrize(("mask", "guided"), [(torch.zeros(8, 8), True), (torch.eye(8), False)])
def test_without_guidance_or_with_one_class_positions_lie_anywhere(mask, guided):
    ((queries, negatives),) = sample_positions(mask, 10, generator_for(0), guided=guided).groups
    assert negatives is None
    assert len(set(queries.tolist())) == 20


def test_a_particle_mask_is_a_disc_at_x_y():
    mask = particle_mask((30, 40), torch.tensor([[25.0, 10.0], [-50.0, 3.0]]), 5.0)
    assert mask[10, 25] == mask[10, 30] == mask[5, 25] == 1
    assert mask[10, 31] == mask[25, 10] == 0
    assert float(mask.sum()) == pytest.approx(math.pi * 25, rel=0.05)
    with pytest.raises(InputError, match="radius"):
        particle_mask((30, 40), torch.zeros(1, 2), 0.0)


@pytest.mark.parametrize("shape", [(48, 48), (37, 52), (40, 33)])
def test_what_is_taken_from_a_residual_is_its_regression_on_the_signal(shape):
    clean, noise = (torch.randn(*shape, generator=generator_for(seed)) for seed in (1, 2))
    clean = clean - clean.mean()
    shares = band_shares(noise + 0.3 * clean, clean, bands=4) - band_shares(noise, clean, bands=4)
    torch.testing.assert_close(shares, torch.full((4,), 0.3), rtol=1e-4, atol=1e-5)
    rest = without_signal(noise + 0.3 * clean, clean, bands=4)
    # The frequencies at the edge of the half plane are their own mirror images, in the sums as in the image.
    assert float(band_shares(rest, clean, bands=4).abs().max()) < 1e-4
    torch.testing.assert_close(rest, without_signal(noise, clean, bands=4), rtol=1e-3, atol=1e-4)


def test_the_signal_loss_is_zero_without_residual_and_one_for_the_signal_itself():
    clean = torch.randn(2, 1, 32, 32, generator=generator_for(3))
    image = clean + torch.randn(2, 1, 32, 32, generator=generator_for(4))
    assert float(signal_loss(torch.zeros_like(clean), clean, image)) == 0
    assert float(signal_loss(clean, clean, image)) == pytest.approx(1, abs=0.02)
    assert float(signal_loss(torch.randn(2, 1, 32, 32, generator=generator_for(5)), clean, image)) < 0.1
