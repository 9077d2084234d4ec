"""Filaments: the prior of their poses against its definition, and refinement of simulated segments."""

import math
from dataclasses import replace

import pytest
import torch
from simulated_filaments import BOX, HELIX, PIXEL, Segments, segments, truth

from cryoprism.core import InputError, euler_to_matrix, random_rotations, rfft2
from cryoprism.structure import (
    AlignmentData,
    Filament,
    FourierVolume,
    HelicalCopies,
    HelicalSymmetry,
    RefinementSettings,
    SearchPlan,
    SliceAccumulator,
    fourier_shell_correlation,
    helical_agreement,
    insert_posterior,
    low_pass,
    pack,
    pack_real,
    refine,
    search,
    search_around,
    soft_cylinder,
    soft_sphere,
    start_state,
)

RADIUS = 19
FILAMENT = Filament(HELIX, 70.0, central_fraction=0.5)


def axes_of(psi: torch.Tensor, tilt: float = 90.0) -> torch.Tensor:
    psi = psi.double()
    return euler_to_matrix(torch.zeros_like(psi), torch.full_like(psi, tilt), psi)[..., 2].float()


def settings(**changes: object) -> RefinementSettings:
    chosen = RefinementSettings(
        symmetry="C1",
        diameter_in_angstroms=105.0,
        pixel_size_in_angstroms=PIXEL,
        shift_range_in_angstroms=9.0,
        iterations=4,
        finest_order=4,
        keep=16,
        filament=FILAMENT,
    )
    return replace(chosen, **changes)  # type: ignore[arg-type]


def test_the_axis_prior_is_a_gaussian_of_the_angle_to_a_line() -> None:
    axes = torch.stack([axes_of(torch.tensor(30.0)), torch.full((3,), math.nan)])
    prior = FILAMENT.prior(axes, 5.0, PIXEL)
    psi = torch.tensor([30.0, 210.0, 40.0, 120.0]).double()
    tilt = torch.tensor([90.0, 90.0, 90.0, 80.0]).double()
    turns = euler_to_matrix(torch.tensor([0.0, 70.0, 200.0, 10.0]).double(), tilt, psi).float()
    got = prior.orientations(turns[None].expand(2, -1, -1, -1), slice(0, 2))
    away = torch.tensor([[0.0, 0.0, 10.0, 90.0], [0.0, 0.0, 0.0, 10.0]])
    torch.testing.assert_close(got, -0.5 * (away / 10.0) ** 2, atol=1e-2, rtol=1e-3)
    lone = FILAMENT.prior(None, 5.0, PIXEL).orientations(turns[None], slice(0, 2))
    torch.testing.assert_close(lone[0], got[1])


def test_orientations_that_are_left_out_have_no_weight() -> None:
    turns = random_rotations(4000, torch.Generator().manual_seed(0))
    for axes in (None, axes_of(torch.tensor([10.0, 50.0]), 75.0)):
        prior = FILAMENT.prior(axes, 5.0, PIXEL)
        kept = prior.possible(turns, 0.0)
        assert 0.1 < float(kept.float().mean()) < 0.95
        assert float(prior.orientations(turns[None], slice(0, 2))[..., ~kept].max()) < -7.9


def test_shifts_along_the_axis_end_at_half_a_rise() -> None:
    prior = FILAMENT.prior(None, 6.0, PIXEL)
    turn = euler_to_matrix(*(torch.tensor(v, dtype=torch.float64) for v in (20.0, 90.0, 25.0))).float()[None, None]
    axis = turn[0, 0, :2, 2]
    normal = torch.stack([-axis[1], axis[0]])
    half = 0.5 * HELIX.rise_in_angstroms / PIXEL
    places = torch.tensor([[0.0, 0.0], [half, 0.0], [-half - 0.6, 0.0], [0.0, 3.0], [half, -6.0]])
    shifts = places[:, :1] * axis + places[:, 1:] * normal
    got = prior.shifts(shifts[None], turn, 0.2)[0, :, 0]
    assert got[:2].abs().max() < 1e-4
    assert float(got[2]) < -100
    torch.testing.assert_close(got[3:], torch.tensor([-0.5, -2.0]), atol=1e-3, rtol=1e-3)
    # Over all shifts the prior sums to one.
    step = 0.1
    line = torch.arange(-200, 201) * step
    y, x = torch.meshgrid(line, line, indexing="ij")
    every = prior.shifts(torch.stack([x, y], -1).reshape(1, -1, 2), turn, step).double()
    total = float(torch.logsumexp(every.flatten(), 0)) + prior.log_volume(step)
    assert total == pytest.approx(0.0, abs=0.1)


def test_posteriors_obey_the_prior() -> None:
    made = segments(12, 0.05, seed=4)
    noise = (pack(rfft2(made.images), RADIUS).abs() ** 2).mean(0, keepdim=True)
    data = AlignmentData(
        pack(rfft2(made.images), RADIUS), pack_real(made.transfer, RADIUS), noise, torch.zeros(12).long(), BOX
    )
    volume = FourierVolume.from_map(truth() / 50, max_radius=RADIUS)
    plan = SearchPlan(orders=(1, 2, 3), radii=(5, 8, 12), shift_range=4.0, shift_step=1.5, keep=16)
    narrow = replace(FILAMENT, axis_spread_in_degrees=2.0)
    prior = narrow.prior(axes_of(made.psi_prior), 4.0, PIXEL)
    for found in (
        search(data, volume, plan, prior=prior),
        search_around(
            data,
            volume,
            made.rotations,
            made.shifts,
            step_in_degrees=8.0,
            reach=2,
            shift_step=0.7,
            shift_reach=2,
            radius=8,
            prior=prior,
        ),
    ):
        turns, moves = found.best()
        # Cells of 7.5° lie up to about 6° from where the prior is highest.
        line = (turns[:, :, 2] * axes_of(made.psi_prior)).sum(1).abs()
        assert float(torch.rad2deg(torch.arccos(line.clamp_max(1.0))).max()) < 12.0
        axis = torch.nn.functional.normalize(turns[:, :2, 2], dim=1)
        assert float((moves * axis).sum(1).abs().max()) < 0.5 * HELIX.rise_in_angstroms / PIXEL + 0.6
        torch.testing.assert_close(found.weights.sum((1, 2)), torch.ones(12), atol=1e-4, rtol=0)


def test_helical_copies_of_posteriors_are_those_of_views() -> None:
    made = segments(6, 10.0, seed=2)
    images, transfer = pack(rfft2(made.images), RADIUS), pack_real(made.transfer, RADIUS)
    data = AlignmentData(images, transfer, torch.ones(1, images.shape[1]), torch.zeros(6).long(), BOX)
    volume = FourierVolume.from_map(truth(), max_radius=RADIUS)
    known = search_around(
        data, volume, made.rotations, made.shifts, step_in_degrees=1, reach=0, shift_step=1, shift_reach=0, radius=8
    )
    copies = HelicalCopies(HELIX, 3, PIXEL)
    once, thrice = (SliceAccumulator(BOX, max_radius=RADIUS) for _ in range(2))
    insert_posterior(once, data, known, RADIUS)
    insert_posterior(thrice, data, known, RADIUS, helix=copies)
    assert float(thrice.sums[2].sum()) == pytest.approx(3 * float(once.sums[2].sum()), rel=1e-4)
    one, three = (s.reconstruct(1e-3 * s.shell_weights(), iterations=0) for s in (once, thrice))
    assert helical_agreement(three, PIXEL, HELIX, steps=1) > helical_agreement(one, PIXEL, HELIX, steps=1) + 0.1


@pytest.fixture(scope="module")
def made() -> Segments:
    return segments(160, 0.15)


def run(made: Segments, chosen: RefinementSettings, axes: torch.Tensor | None) -> tuple[float, float, dict[str, float]]:
    """Mean FSC to the truth beyond the low-pass, before and after, and the last row of the history."""
    group = made.filament
    images, transfer = pack(rfft2(made.images), RADIUS), pack_real(made.transfer, RADIUS)
    state = start_state(images, transfer, group, low_pass(truth(), PIXEL, 30.0), chosen, RADIUS)
    end = refine(images, transfer, group, 1 + group % 2, state, chosen, axes=axes)
    mask = soft_sphere((BOX,) * 3, PIXEL, 35.0) * soft_cylinder((BOX,) * 3, PIXEL, 35.0)
    curves = [
        fourier_shell_correlation(volume, truth(), PIXEL, mask=mask).fsc[6:13].mean()
        for volume in (state.maps[0], end.maps[0] + end.maps[1])
    ]
    return float(curves[0]), float(curves[1]), end.history[-1]


def test_refinement_comes_closer_to_the_truth(made: Segments) -> None:
    before, after, last = run(made, settings(), axes_of(made.psi_prior))
    assert after > before + 0.4
    assert last["rise_in_angstroms"] == HELIX.rise_in_angstroms
    _, alone, _ = run(made, settings(filament=None), None)
    assert after > alone + 0.1


@pytest.mark.slow
def test_rise_and_twist_are_refined_with_the_map(made: Segments) -> None:
    off = replace(
        FILAMENT, symmetry=HelicalSymmetry(12.6, 45.5), rise_range_in_angstroms=0.7, twist_range_in_degrees=2.0
    )
    still = replace(off, rise_range_in_angstroms=0.0, twist_range_in_degrees=0.0)
    _, _, last = run(made, settings(filament=off, iterations=7), None)
    _, _, first = run(made, settings(filament=still, iterations=7), None)
    # Segments fade towards the ends of so short a box, which draws the rise out by about 0.2 Å.
    assert last["rise_in_angstroms"] == pytest.approx(HELIX.rise_in_angstroms, abs=0.3)
    assert last["twist_in_degrees"] == pytest.approx(HELIX.twist_in_degrees, abs=0.5)
    assert (first["rise_in_angstroms"], first["twist_in_degrees"]) == (12.6, 45.5)
    # So near the centre maps do not tell the two apart; the images do.
    assert last["log_evidence"] > first["log_evidence"] + 1.0


def test_impossible_filaments_are_refused() -> None:
    with pytest.raises(InputError, match="diameter"):
        Filament(HELIX, 0.0)
    with pytest.raises(InputError, match="spread"):
        Filament(HELIX, 70.0, axis_spread_in_degrees=0.0)
