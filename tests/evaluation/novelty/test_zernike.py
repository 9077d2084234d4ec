import math

import numpy as np
import pytest

from cryoprism.core import generator_for, random_rotations
from cryoprism.evaluation.novelty import (
    ball_grid,
    grid_invariants,
    invariant_labels,
    radial_polynomial,
    zernike_invariants,
)

LABELS = invariant_labels()
SIDE = 32


def cloud(seed: int, points: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    places = rng.normal(0, 1, (points, 3))
    places *= (rng.random((points, 1)) ** (1 / 3)) / np.linalg.norm(places, axis=1, keepdims=True)
    return places, rng.random(points)


def smooth_density(places: np.ndarray) -> np.ndarray:
    centres = np.array([[0.3, 0.1, 0.2], [-0.4, 0.2, -0.1], [0.0, -0.4, 0.3]])
    squares = ((places[:, None] - centres) ** 2).sum(-1)
    return (np.exp(-squares / 0.02) * np.array([1.0, 0.7, 1.3])).sum(1)


def test_there_are_121_invariants():
    assert len(LABELS) == 121
    assert all((n - degree) % 2 == 0 for n, degree in LABELS)


def test_radial_polynomials_are_orthonormal():
    nodes, weights = np.polynomial.legendre.leggauss(64)
    radius, weights = (nodes + 1) / 2, weights / 2
    for degree in (0, 1, 7, 20):
        rows = np.stack([radial_polynomial(n, degree, radius) for n in range(degree, 21, 2)])
        np.testing.assert_allclose((rows * weights * radius**2) @ rows.T, np.eye(len(rows)), atol=1e-12)


def test_a_point_has_its_closed_form():
    point = np.array([[0.3, -0.5, 0.2]])
    radius = np.linalg.norm(point, axis=1)
    expected = [
        math.sqrt(3 / (4 * math.pi)) * abs(radial_polynomial(n, d, radius)[0]) * math.sqrt((2 * d + 1) / (4 * math.pi))
        for n, d in LABELS
    ]
    np.testing.assert_allclose(zernike_invariants(point, np.ones(1)), expected, atol=1e-13)


def test_a_point_in_the_centre_has_only_the_radial_part():
    found = zernike_invariants(np.zeros((1, 3)), np.ones(1))
    for value, (n, degree) in zip(found, LABELS, strict=True):
        if degree == 0:
            assert value == pytest.approx(math.sqrt(3) / (4 * math.pi) * abs(radial_polynomial(n, 0, np.zeros(1))[0]))
        else:
            assert value == pytest.approx(0.0, abs=1e-14)


def test_a_full_ball_and_a_smaller_one_have_their_closed_forms():
    grid = ball_grid(64)
    full = grid_invariants(np.ones(len(grid)), 64)
    assert full[0] == pytest.approx(1.0, abs=0.003)
    assert np.abs(full[1:]).max() < 0.02
    # A soft edge: a sharp one is as rough as the grid.
    radius = np.linalg.norm(grid, axis=1)
    soft = 1 / (1 + np.exp((radius - 0.6) / 0.03))
    found = grid_invariants(soft, 64)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    r, w = (nodes + 1) / 2, weights / 2
    edge = 1 / (1 + np.exp((r - 0.6) / 0.03))
    for value, (n, degree) in zip(found, LABELS, strict=True):
        exact = math.sqrt(3) * abs((w * r**2 * edge * radial_polynomial(n, 0, r)).sum()) if degree == 0 else 0.0
        assert value == pytest.approx(exact, abs=0.003)


def test_a_shell_has_its_closed_form():
    rng = np.random.default_rng(0)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    azimuth = np.arange(48) * 2 * np.pi / 48 + rng.random()
    z = np.repeat(nodes, 48)
    ring = np.sqrt(1 - z**2)
    points = 0.7 * np.stack([ring * np.tile(np.cos(azimuth), 24), ring * np.tile(np.sin(azimuth), 24), z], -1)
    found = zernike_invariants(points, np.repeat(weights, 48) / 96)
    for value, (n, degree) in zip(found, LABELS, strict=True):
        radial = abs(radial_polynomial(n, 0, np.array([0.7]))[0])
        exact = math.sqrt(3) / (4 * math.pi) * radial if degree == 0 else 0.0
        assert value == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_rotated_points_have_the_same_invariants(seed):
    points, weights = cloud(seed)
    turn = random_rotations(1, generator_for(seed, "zernike"))[0].double().numpy()
    turn = np.linalg.qr(turn)[0]
    np.testing.assert_allclose(
        zernike_invariants(points @ turn.T, weights), zernike_invariants(points, weights), rtol=1e-9, atol=1e-9
    )


def test_the_mirror_image_has_the_same_invariants():
    points, weights = cloud(5)
    np.testing.assert_allclose(
        zernike_invariants(points * [-1, 1, 1], weights), zernike_invariants(points, weights), atol=1e-10
    )


@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (0, 2)])
def test_lattice_rotations_of_a_grid_are_exact(axes):
    cube = np.random.default_rng(1).random((SIDE,) * 3)
    axis = (np.arange(SIDE) - (SIDE - 1) / 2) * (2 / SIDE)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    inside = x**2 + y**2 + z**2 <= 1
    before, after = (grid_invariants(values[inside], SIDE) for values in (cube, np.rot90(cube, axes=axes)))
    np.testing.assert_allclose(after, before, atol=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_any_rotation_of_a_density_on_the_grid_keeps_the_invariants_to_one_percent(seed):
    turn = random_rotations(1, generator_for(seed, "zernike-grid"))[0].double().numpy()
    grid = ball_grid(48)
    before, after = (grid_invariants(smooth_density(places), 48) for places in (grid, grid @ turn))
    assert np.linalg.norm(after - before) < 0.01 * np.linalg.norm(before)
    # The control: another density is not near.
    other = grid_invariants(smooth_density(grid * [1.0, 1.0, 0.6]), 48)
    assert np.linalg.norm(other - before) > 0.05 * np.linalg.norm(before)


def test_what_lies_outside_the_ball_is_left_out():
    points, weights = cloud(2)
    more = np.concatenate([points, [[1.5, 0, 0]]])
    np.testing.assert_allclose(
        zernike_invariants(more, np.append(weights, 9.0)), zernike_invariants(points, weights), atol=1e-12
    )
