import math
from dataclasses import replace

import pytest
import scipy.optimize
import torch

from cryoprism.core import frequency_grid, frequency_magnitude, rfft2
from cryoprism.microscope import damage_envelope
from cryoprism.synthesis import (
    NoiseFit,
    Scene,
    as_population,
    draw_noise,
    frame_tracks,
    movie_frames,
    particle_contrast,
    place_population,
    shared_power,
    still_contrast,
)

FRAMES = 5
GAIN, MEAN = 30.0, 200.0


@pytest.fixture(scope="module")
def scene():
    return Scene(
        name="moving",
        seed=5,
        height_in_pixels=256,
        width_in_pixels=300,
        pixel_size_in_angstroms=3.0,
        particle_count=10,
        ice_thickness_in_angstroms=200.0,
        drift_y_in_angstroms=9.0,
        drift_x_in_angstroms=-15.0,
        damage_scale=0.0,
    )


def _fit(**changes):
    n = 64
    k = frequency_magnitude((n, n), 1.0)
    values = {
        "mean": MEAN,
        "gain": GAIN,
        "power": 0.05 + 0.2 * torch.exp(-((k / 0.1) ** 2)),
        "variance": 0.06,
        "electrons": 60.0,
        "field_deviation": 0.3,
        "skewness": 0.1,
        "kurtosis": 0.1,
        "background": torch.tensor([[0.0, 0.02], [-0.03, 0.01]]),
        "background_power": torch.zeros(n, n // 2 + 1),
    }
    return NoiseFit(**(values | changes))


def _movie(scene, shell, kind, fit, frames=FRAMES, ice=None):
    population = as_population(shell)
    placement = place_population(scene, population, population.radius_in_angstroms)
    clean = particle_contrast(scene, population, placement)
    pixel = scene.pixel_size_in_angstroms
    noise = draw_noise(kind, fit, clean, pixel_size_in_angstroms=pixel, seed=1, name="m")
    image = (noise.total + clean) * fit.gain + fit.mean
    still = still_contrast(scene, population, placement, None)
    ice = torch.zeros_like(fit.power) if ice is None else ice
    shared = shared_power(kind, fit, ice, scene)
    made = movie_frames(image, clean, noise, fit, scene, still, frames, shared=shared, seed=1, name="m")
    return image, torch.stack(list(made))


@pytest.mark.parametrize("kind", ["none", "gaussian", "poisson", "poisson-gaussian", "spectrum", "matched"])
def test_the_frames_add_up_to_the_micrograph(scene, shell, kind):
    fit = _fit()
    image, frames = _movie(scene, shell, kind, fit, ice=0.5 * fit.power)
    assert frames.shape == (FRAMES, *scene.shape)
    assert float((frames.double().sum(0) - image).abs().max()) < 1e-5 * float(image.abs().max())
    assert float((frames[0] - frames[1]).abs().max()) > 0


def test_they_add_up_with_damage_too(scene, shell):
    image, frames = _movie(replace(scene, damage_scale=1.0), shell, "matched", _fit())
    assert float((frames.double().sum(0) - image).abs().max()) < 1e-5 * float(image.abs().max())


def _fine(frames):
    k = frequency_magnitude(tuple(frames.shape[-2:]), 1.0)
    return rfft2(frames) * ((k > 0.3) & (k < 0.48))


def _correlation(a, b):
    return float((a * b.conj()).real.sum() / math.sqrt(float(a.abs().square().sum() * b.abs().square().sum())))


@pytest.mark.parametrize("kind", ["gaussian", "poisson", "poisson-gaussian", "spectrum", "matched"])
def test_the_noise_of_the_detector_is_new_in_every_frame(scene, shell, kind):
    _, frames = _movie(replace(scene, particle_count=0), shell, kind, _fit())
    fine = _fine(frames)
    count = int((fine[0] != 0).sum())
    for i in range(FRAMES):
        for j in range(i):
            assert abs(_correlation(fine[i], fine[j])) < 4 / math.sqrt(2 * count)
    powers = fine.abs().square().sum((1, 2))
    assert float(powers.max() / powers.min()) < 1.1


def test_what_passed_the_lens_is_the_same_in_all_frames(scene, shell):
    """Half of the noise in every frequency, in four frames: ½ / 16 of it in common beside ½ / 4 that is new."""
    quiet = replace(scene, particle_count=0, drift_y_in_angstroms=0.0, drift_x_in_angstroms=0.0)
    fit = _fit(background_power=0.5 * _fit().power)
    fit = replace(fit, power=fit.power - fit.background_power)
    _, frames = _movie(quiet, shell, "spectrum", fit, frames=4)
    fine = _fine(frames)
    assert _correlation(fine[0], fine[3]) == pytest.approx(0.2, abs=0.02)


def _shift(first, second, pixel):
    """Shift (y, x) [Å] of the second image against the first, where their correlation is highest."""
    ky, kx = frequency_grid(tuple(first.shape), pixel)
    cross = rfft2(first - first.mean()).conj() * rfft2(second - second.mean())

    def lost(shift):
        return -float((cross * torch.exp(2j * math.pi * (ky * shift[0] + kx * shift[1]))).real.sum())

    starts = [(y, x) for y in range(-18, 19, 3) for x in range(-18, 19, 3)]
    start = min(starts, key=lost)
    return scipy.optimize.minimize(lost, start, method="Nelder-Mead", options={"xatol": 0.01, "fatol": 1e-9}).x


def test_the_particles_move_along_the_track(scene, shell):
    _, frames = _movie(scene, shell, "none", _fit())
    track = frame_tracks(scene, FRAMES).mean(1)
    assert float(track.mean(0).abs().max()) < 1e-4
    found = _shift(frames[0], frames[-1], scene.pixel_size_in_angstroms)
    true = (track[-1] - track[0]).tolist()
    assert true == pytest.approx([9.0 * 0.8, -15.0 * 0.8], abs=1e-3)
    for axis in (0, 1):
        assert abs(found[axis] - true[axis]) < 0.3 * scene.pixel_size_in_angstroms


def test_the_noise_behind_the_lens_moves_along(scene, shell):
    quiet = replace(scene, particle_count=0)
    fit = _fit(
        field_deviation=0.0, background=None, power=torch.exp(-((frequency_magnitude((64, 64), 1.0) / 0.1) ** 2))
    )
    ice = 1e3 * torch.ones_like(fit.power)  # all of it
    _, frames = _movie(quiet, shell, "matched", replace(fit, electrons=math.inf, skewness=0.0), ice=ice)
    found = _shift(frames[0], frames[-1], scene.pixel_size_in_angstroms)
    assert list(found) == pytest.approx([7.2, -12.0], abs=0.9)


def test_particles_fade_with_the_dose(scene, shell):
    still = replace(scene, drift_y_in_angstroms=0.0, drift_x_in_angstroms=0.0, damage_scale=1.0)
    _, frames = _movie(still, shell, "none", _fit())
    first, last = (rfft2(frame - frame.mean()).abs() for frame in (frames[0], frames[-1]))
    k = frequency_magnitude(still.shape, still.pixel_size_in_angstroms)
    ring = (k > 1 / 12) & (k < 1 / 10)
    middle = torch.tensor([[1 / 11]])
    step = still.exposure_in_electrons_per_square_angstrom / FRAMES
    expected = damage_envelope(middle, 300.0, 4 * step, 5 * step) / damage_envelope(middle, 300.0, 0.0, step)
    assert float(last[ring].sum() / first[ring].sum()) == pytest.approx(float(expected), rel=0.1)
    assert float(expected) < 0.5


def test_frames_of_counts_are_counts(scene, shell):
    fit = _fit(variance=1 / 25)
    _, frames = _movie(scene, shell, "poisson", fit)
    electrons = (frames - (MEAN - GAIN) / FRAMES) / GAIN * 25
    assert float((electrons - electrons.round()).abs().max()) < 0.01
    assert float(electrons.min()) > -0.01
    assert float(electrons.mean()) == pytest.approx(25 / FRAMES, rel=0.05)
