"""A first map of nearly round particles, and the cheap passes before their refinement."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cryoprism.core import generator_for, point_group_matrices, random_rotations, rfft2
from cryoprism.structure import (
    FirstMapSettings,
    FourierVolume,
    RefinementSettings,
    SliceAccumulator,
    ab_initio,
    correlation_with_mirror,
    finest_of_start,
    fourier_shell_correlation,
    improve_about_sphere,
    is_round_group,
    low_pass,
    pack,
    packed_frequencies,
    refine,
    soft_sphere,
    spherical_average,
    split_point_group,
    start_state,
)
from cryoprism.structure.likelihood import shift_phases

BOX, PIXEL, DIAMETER, RADIUS, COUNT = 40, 4.0, 120.0, 17, 240


def hollow(seed: int = 0) -> Tensor:
    """Shell of 24 lumpy subunits, symmetric under O, in a mean that shows nothing at low resolution."""
    generator = generator_for(seed, "hollow")
    axis = (torch.arange(BOX) - BOX // 2).float() * PIXEL
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")[::-1], -1)
    distance = grid.norm(dim=-1)
    volume = 0.6 * torch.exp(-0.5 * ((distance - 46) / 7) ** 2)
    directions = torch.nn.functional.normalize(torch.randn(3, 3, generator=generator), dim=1)
    for direction, radius in zip(directions, (40.0, 46.0, 52.0), strict=True):
        for place in point_group_matrices("O").float() @ direction * radius:
            volume += 0.5 * torch.exp(-0.5 * ((grid - place) ** 2).sum(-1) / 5.0**2)
    return volume


def settings() -> RefinementSettings:
    return RefinementSettings(
        symmetry="O", diameter_in_angstroms=DIAMETER, pixel_size_in_angstroms=PIXEL, shift_range_in_angstroms=10.0
    )


def particles(volume: Tensor, noise: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Packed images, transfer and micrograph of each; ``noise`` is a pixel's standard deviation over the signal's."""
    generator = generator_for(seed, "round-particles-of-tests")
    k = packed_frequencies(RADIUS).float().norm(dim=1) / (BOX * PIXEL)
    defocus = torch.linspace(9000, 16000, COUNT)[:, None]
    transfer = torch.sin(math.pi * 0.0197 * defocus * k**2 + 0.1)
    views = FourierVolume.from_map(volume, max_radius=RADIUS).slices(random_rotations(COUNT, generator), RADIUS)
    views = views * transfer * shift_phases(torch.randn(COUNT, 2, generator=generator), RADIUS, BOX)
    # Variance of a pixel of the signal, by Parseval over the half plane.
    signal = float((2 * views.abs() ** 2).sum(1).mean()) / BOX**4
    white = torch.randn(COUNT, BOX, BOX, generator=generator) * noise * math.sqrt(signal)
    return views + pack(rfft2(white), RADIUS), transfer, torch.arange(COUNT) * 4 // COUNT


def agreement(found: Tensor, truth: Tensor) -> float:
    """Correlation of what is not round, between 30 and 12 Å, in the better of both hands."""

    def band(volume: Tensor) -> Tensor:
        angular = volume - spherical_average(volume)
        return low_pass(angular, PIXEL, 12.0) - low_pass(angular, PIXEL, 30.0)

    return max(correlation_with_mirror(band(found), band(truth)))


def test_the_average_over_rotations() -> None:
    truth = hollow()
    average = spherical_average(truth)
    axis = torch.arange(BOX) - BOX // 2
    square = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).flatten()
    ring = average.flatten()[square == 11**2]
    assert float(ring.std()) < 1e-5 * float(ring.mean())
    inside = square.view(BOX, BOX, BOX) < (BOX // 2 - 1) ** 2
    assert float(average[inside].sum()) == pytest.approx(float(truth[inside].sum()), rel=0.01)
    assert torch.allclose(spherical_average(average), average, atol=0.05 * float(average.max()))


def test_which_groups_are_round() -> None:
    assert [is_round_group(name) for name in ("T", "O", "I1", "I2")] == [True] * 4
    assert not any(is_round_group(name) for name in ("C1", "C24", "D7", "D12"))
    assert finest_of_start("C1", 80.0) == 12.0
    assert finest_of_start("C1", 130.0) == pytest.approx(17.02, abs=0.01)
    assert finest_of_start("D2", 130.0) == 12.0
    assert finest_of_start("O", 130.0) == 9.0
    assert finest_of_start("I1", 300.0) == pytest.approx(19.63, abs=0.01)


@pytest.mark.slow
def test_a_round_particle_is_found_from_noise_in_either_hand() -> None:
    truth = hollow()
    images, transfer, group = particles(truth, 2.0)
    first = FirstMapSettings(starts=2, finest_in_angstroms=11.0, seed=1)
    made = ab_initio(images, transfer, group, settings(), first, box=BOX)
    assert agreement(made.map, truth) > 0.8
    assert len(made.log_evidence) == 2
    assert made.chosen == int(made.log_evidence.argmax())


@pytest.mark.slow
def test_noise_alone_gives_a_map_that_explains_nothing() -> None:
    truth = hollow()
    images, transfer, group = particles(truth, 2.0)
    empty = torch.randn(len(images), BOX, BOX, generator=generator_for(0, "noise-alone"))
    scale = float(images[:, -200:].abs().square().mean().sqrt()) / BOX
    first = FirstMapSettings(starts=1, finest_in_angstroms=11.0)
    made = ab_initio(pack(rfft2(empty * scale), RADIUS), transfer, group, settings(), first, box=BOX)
    real = ab_initio(images, transfer, group, settings(), first, box=BOX)
    assert abs(agreement(made.map, truth)) < 0.3
    assert float(made.log_evidence.max()) < 0.1 * float(real.log_evidence.max())


def test_cheap_passes_bring_a_blurred_map_to_the_detail_of_their_cells() -> None:
    truth = hollow()
    images, transfer, group = particles(truth, 1.5)
    start = low_pass(truth, PIXEL, 30.0)
    kept = (images.clone(), start.clone())
    made, noise, radius = improve_about_sphere(images, transfer, group, start, settings(), passes=6)
    assert radius == RADIUS
    fsc = [fourier_shell_correlation(m, truth, PIXEL).fsc[8 : radius - 1].mean() for m in (start, made)]
    assert fsc[1] > 0.7
    assert fsc[1] > fsc[0] + 0.3
    # In the units of the images: the particles' own reconstruction has the same strength.
    exact, _ = split_point_group(point_group_matrices("O"))
    assert len(exact) == 24
    assert float((made * truth).sum() / truth.square().sum()) == pytest.approx(1.0, abs=0.2)
    expected = images[:, -100:].abs().square().mean()
    assert float(noise[:, -20:].mean()) == pytest.approx(float(expected), rel=0.15)
    assert torch.equal(images, kept[0])
    assert torch.equal(start, kept[1])


def test_a_few_particles_are_enough_where_they_are_clear() -> None:
    """Fewer than one batch: both inner halves still get some."""
    truth = hollow()
    images, transfer, group = particles(truth, 0.3)
    some = torch.arange(0, COUNT, 8)
    start = low_pass(truth, PIXEL, 30.0)
    made, _, radius = improve_about_sphere(images[some], transfer[some], group[some], start, settings(), passes=6)
    assert float(fourier_shell_correlation(made, truth, PIXEL).fsc[6 : radius - 3].min()) > 0.5


def test_cheap_passes_keep_to_the_mask() -> None:
    """A mask that leaves out the middle, and one that leaves out a quarter of the shell."""
    truth = hollow()
    images, transfer, group = particles(truth, 1.5)
    start = low_pass(truth, PIXEL, 30.0)
    inner, wide = (soft_sphere((BOX,) * 3, PIXEL, r, soft_edge_in_angstroms=8) for r in (24.0, 64.0))
    shell = wide - inner
    open_map, _, _ = improve_about_sphere(images, transfer, group, start, settings(), passes=3)
    made, _, _ = improve_about_sphere(images, transfer, group, start, settings(), mask=shell, passes=3)
    middle = soft_sphere((BOX,) * 3, PIXEL, 14.0, soft_edge_in_angstroms=4)
    assert float((made * middle).norm()) < 0.3 * float((open_map * middle).norm())
    assert agreement(made, truth) > agreement(open_map, truth) - 0.02
    quarter = shell.clone()
    quarter[BOX // 2 + 2 :, BOX // 2 + 2 :] = 0
    cut, _, _ = improve_about_sphere(images, transfer, group, start, settings(), mask=quarter, passes=3)
    gone = shell * (quarter == 0)
    assert float((cut * gone).norm()) < 0.25 * float((open_map * gone).norm())


def test_the_passes_before_a_refinement_keep_to_the_mask() -> None:
    truth = hollow()
    images, transfer, group = particles(truth, 1.5)
    inner, wide = (soft_sphere((BOX,) * 3, PIXEL, r, soft_edge_in_angstroms=8) for r in (24.0, 64.0))
    plan = replace(settings(), iterations=0)
    state = start_state(images, transfer, group, low_pass(truth, PIXEL, 30.0), plan, RADIUS)
    found = refine(images, transfer, group, group % 2 + 1, state, plan, mask=wide - inner)
    assert found.radius > state.radius
    for reference in found.references:
        assert float(reference[wide - inner == 0].abs().max()) == 0.0


def test_a_half_may_lack_whole_micrographs() -> None:
    truth = hollow()
    images, transfer, group = particles(truth, 1.5)
    mine = group % 2 == 1
    start = low_pass(truth, PIXEL, 30.0)
    made, noise, _ = improve_about_sphere(images[mine], transfer[mine], group[mine], start, settings(), passes=2)
    assert bool(torch.isfinite(made).all())
    again, _, _ = improve_about_sphere(images[mine], transfer[mine], group[mine], start, settings(), passes=2)
    assert torch.equal(made, again)
    assert len(noise) == 4


def test_accumulators_of_the_whole_group_are_exact() -> None:
    """The group O maps the grid onto itself: one insertion and 24 exact turns, no copies."""
    exact, copies = split_point_group(point_group_matrices("O"))
    assert (len(exact), len(copies)) == (24, 1)
    assert SliceAccumulator(BOX, max_radius=4).symmetrised(exact).shell_weights().shape == (5,)
