"""Resolution by place and by direction where the truth is known; statistics of views against closed forms."""

import math

import pytest
import torch
from half_maps import VOXEL, halves, molecule

from cryoprism.core import InputError, random_rotations
from cryoprism.core.rotations import matrix_to_euler
from cryoprism.structure import (
    cosine_edge,
    directional_fsc,
    filter_locally,
    fourier_shell_correlation,
    irfft3,
    local_resolution,
    low_pass,
    rfft3,
    shell_index,
    soft_sphere,
    spread_directions,
    three_shell_mean,
    viewing_directions,
)

BOX = 64


@pytest.fixture(scope="module")
def two_sided():
    """Left half of the box filtered to 12 Å, right half to 6 Å; white noise below the signal."""
    truth = torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(0))
    coarse, fine = low_pass(truth, VOXEL, 12.0), low_pass(truth, VOXEL, 6.0)
    side = (torch.arange(BOX) >= BOX // 2).float()
    return halves(coarse * (1 - side) + fine * side, 0.3)


def test_each_side_gets_its_own_resolution(two_sided):
    mask = soft_sphere((BOX,) * 3, VOXEL, 55.0)
    found = local_resolution(*two_sided, VOXEL, mask, window_in_angstroms=36.0, step_in_voxels=6)
    left, right = found.data[32, 32, 14], found.data[32, 32, 50]
    assert float(left) == pytest.approx(12.0, rel=0.15)
    assert float(right) == pytest.approx(6.0, rel=0.15)
    assert found.data.shape == mask.shape
    assert bool(torch.isfinite(found.data).all())
    assert float(found.data.min()) >= 2 * VOXEL - 1e-4


def test_local_values_lie_at_their_grid_points(two_sided):
    """A mask of one point: its value everywhere, and the mean of a window agrees with it."""
    mask = torch.zeros(BOX, BOX, BOX)
    mask[32, 32, 16] = 1.0
    found = local_resolution(*two_sided, VOXEL, mask, window_in_angstroms=36.0, step_in_voxels=1)
    assert found.points.numel() == 1
    assert bool((found.data == found.points[0]).all())


def test_noise_has_no_local_resolution():
    one, two = halves(torch.zeros(48, 48, 48), 1.0)
    mask = soft_sphere((48,) * 3, VOXEL, 30.0)
    found = local_resolution(one, two, VOXEL, mask, window_in_angstroms=36.0, step_in_voxels=8)
    assert float(found.points.median()) > 18.0


def test_windows_that_do_not_fit_are_refused():
    one, two = halves(molecule(32, 18.0), 0.5)
    mask = soft_sphere((32,) * 3, VOXEL, 20.0)
    for window in (8.0, 200.0):
        with pytest.raises(InputError, match="window_in_angstroms"):
            local_resolution(one, two, VOXEL, mask, window_in_angstroms=window)
    with pytest.raises(InputError, match="mask"):
        local_resolution(one, two, VOXEL, 0 * mask, window_in_angstroms=30.0)


def test_filtering_by_place_is_filtering_where_all_places_agree():
    volume = molecule(32, 18.0)
    same = filter_locally(volume, torch.full_like(volume, 8.0), VOXEL)
    torch.testing.assert_close(same, low_pass(volume, VOXEL, 8.0), rtol=1e-3, atol=1e-3)
    wanted = torch.where(torch.arange(32) < 16, 20.0, 5.0).expand(32, 32, 32)
    mixed = filter_locally(volume, wanted, VOXEL)
    torch.testing.assert_close(mixed[..., :16], low_pass(volume, VOXEL, 20.0)[..., :16], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mixed[..., 16:], low_pass(volume, VOXEL, 5.0)[..., 16:], rtol=1e-3, atol=1e-3)


def _squeezed(volume, coarse, fine):
    """Filter to ``coarse`` Å along z and ``fine`` Å across, an ellipsoid in Fourier space."""
    n = volume.shape[0]
    z, y = torch.fft.fftfreq(n, VOXEL)[:, None, None], torch.fft.fftfreq(n, VOXEL)[:, None]
    x = torch.fft.rfftfreq(n, VOXEL)
    inside = (z * coarse) ** 2 + (y * fine) ** 2 + (x * fine) ** 2 < 1
    return irfft3(rfft3(volume) * inside, (n, n, n))


def test_directions_see_which_axis_is_blurred():
    truth = torch.randn(48, 48, 48, generator=torch.Generator().manual_seed(0))
    even = directional_fsc(*halves(_squeezed(truth, 8.0, 8.0), 0.02), VOXEL)
    flat = directional_fsc(*halves(_squeezed(truth, 16.0, 8.0), 0.02), VOXEL)
    assert even.sphericity > 0.985
    assert flat.sphericity < 0.96
    by, along = flat.resolution_in_angstroms, flat.directions[:, 2]
    assert float(by[along > 0.97].mean()) > 12.0
    assert float(by[along < 0.15].mean()) == pytest.approx(8.0, rel=0.15)
    assert float(even.resolution_in_angstroms.max() / even.resolution_in_angstroms.min()) < 1.2


def test_a_shell_without_signal_makes_no_direction_bad():
    """A hollow particle's transform has a zero: there the halves share nothing, and beyond it they do."""
    shells = torch.arange(25)
    gain = cosine_edge(shells / (48 * VOXEL), 1 / 8.0) * (shells != 4)
    white = torch.randn(48, 48, 48, generator=torch.Generator().manual_seed(0))
    truth = irfft3(rfft3(white) * gain[shell_index(white.shape).clamp_max(24)], tuple(white.shape))
    one, two = halves(truth, 0.05)
    assert fourier_shell_correlation(one, two, VOXEL).crossing(0.143).resolution_in_angstroms > 20
    found = directional_fsc(one, two, VOXEL)
    assert float(found.resolution_in_angstroms.max()) < 10
    assert float(found.resolution_in_angstroms.max() / found.resolution_in_angstroms.min()) < 1.3


def test_the_mean_of_three_shells():
    curve = torch.tensor([[1.0, 0.4, 0.1, 0.7], [0.0, 0.0, 0.3, 0.3]])
    expected = torch.tensor([[0.8, 0.5, 0.4, 0.5], [0.0, 0.1, 0.2, 0.3]])
    torch.testing.assert_close(three_shell_mean(curve), expected)
    torch.testing.assert_close(three_shell_mean(curve[0]), expected[0])


def test_directions_are_even():
    axes = spread_directions(400)
    torch.testing.assert_close(axes.norm(dim=-1), torch.ones(400, dtype=torch.float64))
    full = torch.cat([axes, -axes])
    torch.testing.assert_close(full.T @ full / 800, torch.eye(3, dtype=torch.float64) / 3, rtol=0, atol=0.01)


def _angles(rotations):
    rot, tilt, _ = matrix_to_euler(rotations)
    return rot, tilt


def test_even_views_lose_nothing_and_side_views_a_fifth():
    """Side views sample the direction θ as 1 / sin θ: a factor of 8 / π²."""
    generator = torch.Generator().manual_seed(0)
    even = viewing_directions(*_angles(random_rotations(20000, generator)))
    assert even.sampling_compensation_factor > 0.99
    assert even.largest_share == pytest.approx(0.1, abs=0.03)
    assert even.missing_fraction == 0.0
    rot = 360 * torch.rand(20000, generator=generator)
    side = viewing_directions(rot, torch.full((20000,), 90.0))
    # 1 / (<1/S>) with S = (2/π) / sin θ over the sphere: <1/S> = (π/2) <sin θ> = π²/8.
    assert side.sampling_compensation_factor == pytest.approx(8 / math.pi**2, abs=0.02)
    top = viewing_directions(rot, torch.zeros(20000))
    assert top.sampling_compensation_factor < 0.05
    assert top.missing_fraction > 0.7


def test_views_stand_where_their_angles_say():
    seen = viewing_directions(torch.full((50,), 60.0), torch.full((50,), 120.0))
    band, column = divmod(int(seen.density.argmax()), seen.density.shape[1])
    assert (band + 0.5) * 180 / seen.density.shape[0] == pytest.approx(120.0, abs=4)
    assert (column + 0.5) * 360 / seen.density.shape[1] - 180 == pytest.approx(60.0, abs=4)
    assert seen.particles == 50


def test_symmetry_fills_the_equal_directions():
    one = viewing_directions(torch.tensor([10.0]), torch.tensor([70.0]))
    many = viewing_directions(torch.tensor([10.0]), torch.tensor([70.0]), symmetry="O")
    assert many.sampling_compensation_factor > one.sampling_compensation_factor
    assert int((many.density > 0.5 * many.density.max()).sum()) > 12 * int(
        (one.density > 0.5 * one.density.max()).sum()
    )


def test_views_that_cannot_be_used_are_refused():
    with pytest.raises(InputError, match="angles"):
        viewing_directions(torch.tensor([]), torch.tensor([]))
    with pytest.raises(InputError, match="finite"):
        viewing_directions(torch.tensor([math.nan]), torch.tensor([0.0]))
    with pytest.raises(InputError, match="point group"):
        viewing_directions(torch.tensor([0.0]), torch.tensor([0.0]), symmetry="X9")
