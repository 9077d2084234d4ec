"""Motion: envelopes against sums of shifted frames, tracks, and local fields."""

from __future__ import annotations

import math

import pytest
import torch

from cryoprism.core import frequency_grid, generator_for
from cryoprism.microscope.motion import (
    b_factor_envelope,
    drift_envelope,
    fast_start_track,
    jitter_b_factor,
    jitter_envelope,
    local_displacement,
    local_motion_sum,
    sample_track,
    shift_frames,
    track_transfer,
    warp_frames,
)

DOUBLE = torch.float64


def image(h: int, w: int, key: int = 0) -> torch.Tensor:
    return torch.randn(h, w, generator=generator_for(5, key), dtype=DOUBLE)


def inner_band(h: int, w: int) -> tuple[slice, slice]:
    """Rows below Nyquist in the natural order and columns below Nyquist."""
    return slice(0, (h - 1) // 2 + 1), slice(0, (w - 1) // 2 + 1)


@pytest.mark.parametrize("shape", [(24, 24), (25, 23)])
def test_power_of_summed_frames_over_one_frame_is_the_squared_drift_envelope(shape: tuple[int, int]):
    h, w = shape
    frames, drift_y, drift_x = 400, 5.0, -3.0
    t = (torch.arange(frames, dtype=DOUBLE) + 0.5) / frames - 0.5
    still = image(h, w)
    movie = shift_frames(still.expand(frames, h, w), t * drift_y, t * drift_x, 1.5)
    ratio = torch.fft.rfft2(movie.mean(0)).abs() ** 2 / torch.fft.rfft2(still).abs() ** 2
    ky, kx = frequency_grid(shape, 1.5, dtype=DOUBLE)
    band = inner_band(h, w)
    torch.testing.assert_close(ratio[band], drift_envelope(ky, kx, drift_y, drift_x)[band] ** 2, atol=1e-4, rtol=0)


def test_drift_envelope_is_directional():
    k = torch.tensor([[0.2]], dtype=DOUBLE)
    zero = torch.zeros(1, 1, dtype=DOUBLE)
    assert float(drift_envelope(k, zero, 5.0, 0.0)) == pytest.approx(0.0, abs=1e-12)  # first zero at 1/d
    assert float(drift_envelope(zero, k, 5.0, 0.0)) == 1.0
    assert float(drift_envelope(k, zero, 7.0, 0.0)) < 0
    assert drift_envelope(k, zero, torch.tensor([1.0, 2.0, 3.0]), 0.0).shape == (3, 1, 1)


def test_jitter_is_a_b_factor_and_the_mean_over_gaussian_positions():
    assert jitter_b_factor(0.5) == pytest.approx(8 * math.pi**2 * 0.25)
    ky, kx = frequency_grid((16, 16), 2.0, dtype=DOUBLE)
    k = torch.sqrt(ky**2 + kx**2)
    torch.testing.assert_close(jitter_envelope(k, 0.5), b_factor_envelope(k, 8 * math.pi**2 * 0.25))
    positions = torch.randn(2, 40000, generator=generator_for(3), dtype=DOUBLE) * 0.8
    torch.testing.assert_close(
        track_transfer(ky, kx, positions[0], positions[1]).real, jitter_envelope(k, 0.8), atol=0.03, rtol=0
    )


def test_track_transfer_is_what_shifting_and_adding_does():
    generator = generator_for(8)
    y, x = (4 * torch.randn(7, generator=generator, dtype=DOUBLE) for _ in range(2))
    weights = torch.rand(7, generator=generator, dtype=DOUBLE)
    still = image(21, 19)
    movie = shift_frames(still.expand(7, 21, 19), y, x, 1.3)
    added = (movie * (weights / weights.sum())[:, None, None]).sum(0)
    ky, kx = frequency_grid((21, 19), 1.3, dtype=DOUBLE)
    transfer = track_transfer(ky, kx, y, x, weights)
    torch.testing.assert_close(added, torch.fft.irfft2(torch.fft.rfft2(still) * transfer, s=(21, 19)))
    # The general path (dense grids) and the separable one agree; a batch of tracks gives a batch.
    dense = track_transfer(ky.expand(21, 10), kx.expand(21, 10), y, x, weights)
    torch.testing.assert_close(dense, transfer)
    both = track_transfer(ky, kx, torch.stack([y, 0 * y]), torch.stack([x, 0 * x]))
    torch.testing.assert_close(both[1].real, torch.ones(21, 10, dtype=DOUBLE))


def test_positive_shifts_move_towards_larger_indices():
    point = torch.zeros(1, 9, 9, dtype=DOUBLE)
    point[0, 4, 4] = 1
    moved = shift_frames(point, torch.tensor([2.0]), torch.tensor([-1.0]), 1.0)[0]
    assert divmod(int(moved.argmax()), 9) == (6, 3)
    assert float(moved.max()) == pytest.approx(1.0)


def test_fast_start_decays_to_the_late_drift():
    n = torch.tensor([0.0, 4.0, 1000.0], dtype=DOUBLE)
    y, x = fast_start_track(
        n, early_displacement_y_in_angstroms=6.0, early_displacement_x_in_angstroms=0.0, drift_rate_x=0.01
    )
    assert y.tolist() == pytest.approx([0.0, 6 * (1 - math.exp(-1)), 6.0])
    assert x.tolist() == pytest.approx([0.0, 0.04, 10.0])
    batched, _ = fast_start_track(
        n, early_displacement_y_in_angstroms=torch.tensor([1.0, 2.0]), early_displacement_x_in_angstroms=0.0
    )
    assert batched.shape == (2, 3)


def test_sampled_tracks_start_fast_are_centred_and_repeat():
    track = sample_track(40, 1.0, generator_for(4, "track"), jitter_in_angstroms=0.0)
    assert track.shape == (40, 2)
    assert float(track.mean(0).abs().max()) < 1e-5
    assert torch.equal(track, sample_track(40, 1.0, generator_for(4, "track"), jitter_in_angstroms=0.0))
    early, late = [], []
    for seed in range(100):
        steps = sample_track(40, 1.0, generator_for(seed, "track"), jitter_in_angstroms=0.0).diff(dim=0).norm(dim=1)
        early.append(float(steps[:4].mean()))
        late.append(float(steps[20:].mean()))
    assert sum(early) > 5 * sum(late)
    ends = [sample_track(2, 1e4, generator_for(s), drift_rate=0, jitter_in_angstroms=0)[1] for s in range(50)]
    assert float(torch.stack(ends).abs().max()) < 1e-3  # the early motion is over in the first frame


def test_local_displacement_is_the_polynomial():
    c = torch.zeros(2, 6, dtype=DOUBLE)
    c[0, 1], c[1, 2], c[0, 4] = 2.0, 2.0, 0.5
    field = local_displacement(c, (5, 7))
    assert field.shape == (2, 5, 7)
    assert field[:, 0, 0].tolist() == pytest.approx([-2 + 0.5, -2.0])
    assert field[:, 4, 6].tolist() == pytest.approx([2 + 0.5, 2.0])
    assert field[:, 2, 3].tolist() == pytest.approx([0.0, 0.0])


def test_warping_by_whole_pixels_is_a_shift_inside_the_frame():
    still = image(20, 22)
    field = torch.zeros(2, 20, 22, dtype=DOUBLE)
    field[0], field[1] = 3.0, -1.5
    moved = warp_frames(still, field, 1.5)
    torch.testing.assert_close(moved[4:-4, 4:-4], still.roll((2, -1), (0, 1))[4:-4, 4:-4])


def test_local_sum_with_equal_tracks_is_the_global_one_and_differs_otherwise():
    track = sample_track(10, 1.0, generator_for(1)).double()
    still = image(24, 26)
    tracks = track.expand(3, 4, 10, 2)
    ky, kx = frequency_grid((24, 26), 1.0, dtype=DOUBLE)
    want = torch.fft.irfft2(torch.fft.rfft2(still) * track_transfer(ky, kx, track[:, 0], track[:, 1]), s=(24, 26))
    torch.testing.assert_close(local_motion_sum(still, tracks, 1.0), want)
    corner = tracks.clone()
    corner[0, 0] = 0
    out = local_motion_sum(still, corner, 1.0)
    assert float(out[0, 0]) == pytest.approx(float(still[0, 0]))
    assert float(out[-1, -1]) == pytest.approx(float(want[-1, -1]))


def test_transfer_gradients():
    ky, kx = frequency_grid((6, 6), 2.0, dtype=DOUBLE)
    y, x = (torch.randn(3, generator=generator_for(k), dtype=DOUBLE, requires_grad=True) for k in (1, 2))
    assert torch.autograd.gradcheck(lambda a, b: torch.view_as_real(track_transfer(ky, kx, a, b)), (y, x))
    d = torch.tensor([0.0, 2.5], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: drift_envelope(ky, kx, a, 1.0), (d,), atol=1e-6)
