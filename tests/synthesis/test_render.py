import math
from dataclasses import replace

import pytest
import torch

from cryoprism.core import InputError, frequency_grid, irfft2, radial_average, rfft2
from cryoprism.microscope.optics import contrast_transfer
from cryoprism.microscope.potential import AtomicModel, Solvent, project_atoms
from cryoprism.microscope.scattering import weak_phase_intensity
from cryoprism.synthesis import (
    CAUSES,
    Scene,
    dominant_scene,
    intervene,
    motion_track,
    place_particles,
    render_micrograph,
    render_movie,
)
from cryoprism.synthesis.specimen import project_specimen, slab_projections


def correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).mean() / a.square().mean().sqrt() / b.square().mean().sqrt())


@pytest.mark.parametrize("engine", ["projection", "multislice"])
def test_same_scene_same_image_and_another_seed_another(small_scene, shell, engine):
    first, second = (render_micrograph(small_scene, shell, engine) for _ in range(2))
    assert torch.equal(first.counts, second.counts)
    other = render_micrograph(replace(small_scene, seed=4), shell, engine)
    assert abs(correlation(first.counts, other.counts)) < 0.1
    assert first.counts.shape == small_scene.shape
    with pytest.raises(InputError, match="multislice"):
        render_micrograph(small_scene, shell, "guess")


@pytest.mark.parametrize("engine", ["projection", "multislice", "rytov"])
@pytest.mark.parametrize("poisson", ["common", "exact"])
def test_electrons_are_neither_lost_nor_made(small_scene, shell, engine, poisson):
    scene = replace(small_scene, particle_count=0, amplitude_contrast=0.0)
    rendered = render_micrograph(scene, shell, engine, poisson=poisson)
    want = 30.0 * 2.0**2 * math.exp(-250.0 / 3950.0) * 0.85
    assert float(rendered.counts.mean()) == pytest.approx(want, rel=3e-3)
    assert float(rendered.expected.mean()) == pytest.approx(want, rel=3e-3)


def test_shot_noise_has_the_poisson_variance(small_scene, shell):
    scene = replace(intervene(small_scene, "detector"), particle_count=0)
    for poisson in ("common", "exact"):
        rendered = render_micrograph(scene, shell, poisson=poisson)
        excess = (rendered.counts - rendered.expected) / rendered.expected.sqrt()
        assert float(excess.std()) == pytest.approx(1.0, abs=0.015)


def test_linear_image_agrees_with_atoms_projected_one_by_one(shell):
    ideal = intervene(Scene(height_in_pixels=128, width_in_pixels=120, pixel_size_in_angstroms=2.0), *CAUSES)
    scene = replace(ideal, particle_count=1, ice_thickness_in_angstroms=0.0)
    rendered = render_micrograph(scene, shell)
    placement = place_particles(scene, shell.radius_in_angstroms, math.ceil((shell.radius_in_angstroms + 20) / 2) * 2.0)
    assert 1 < len(placement) < 6  # those beyond the edges included
    atoms = shell.model
    model = AtomicModel(atoms.positions_in_angstroms, atoms.atomic_numbers, 30.0, 1.0, atoms.hydrogens)
    potential = project_atoms(
        model,
        placement.rotations,
        2.0,
        shape=(320, 320),
        shifts_in_angstroms=placement.centres_in_angstroms[:, :2],
        center=False,
        solvent=Solvent(),
    ).sum(0)
    ky, kx = frequency_grid((320, 320), 2.0)
    # Rendered particles end at Nyquist's circle, projected atoms at its square.
    potential = irfft2(rfft2(potential) * ((ky * ky + kx * kx) < 0.25**2), (320, 320))
    want = weak_phase_intensity(potential, contrast_transfer(ky, kx, scene.lens, **scene.aberrations()), 300.0)
    field = (slice(160 - 64, 160 + 64), slice(160 - 60, 160 + 60))
    assert correlation(rendered.potential, potential[field]) > 0.995
    assert correlation(rendered.expected, want[field]) > 0.99
    assert float(rendered.expected.std()) == pytest.approx(160.0 * float(want[field].std()), rel=0.03)


def test_sheets_of_a_particle_add_up_to_its_projection(shell, small_scene):
    rotation = render_micrograph(small_scene, shell).particles[0].rotation
    sheets, heights = slab_projections(shell, rotation, 2.0, 30.0, (0.0, 0.0))
    assert heights.abs().max() >= shell.radius_in_angstroms - 4.0
    whole = project_specimen(shell, rotation[None], 2.0, 30.0)[0]
    side = min(whole.shape[-1], sheets.shape[-1])

    def middle(image):
        start = image.shape[-1] // 2 - side // 2
        return image[start : start + side, start : start + side]

    assert correlation(middle(sheets.sum(0)), middle(whole)) > 0.99


def test_engines_agree_where_the_object_is_weak(small_scene, shell):
    linear, waves, rytov = (render_micrograph(small_scene, shell, e) for e in ("projection", "multislice", "rytov"))
    assert torch.equal(linear.masks["defects"], waves.masks["defects"])
    assert correlation(linear.expected, waves.expected) > 0.98
    assert correlation(waves.expected, rytov.expected) > 0.995
    assert not torch.equal(linear.expected, waves.expected)


@pytest.mark.parametrize("engine", ["projection", "multislice"])
def test_thon_rings_stand_where_the_ctf_says(shell, engine):
    scene = Scene(
        height_in_pixels=512,
        width_in_pixels=512,
        astigmatism_in_angstroms=0.0,
        particle_count=0,
        exposure_in_electrons_per_square_angstrom=200.0,
    )
    image = render_micrograph(scene, shell, engine).counts
    ky, kx = frequency_grid(scene.shape, 1.5)
    k = torch.sqrt(ky * ky + kx * kx)
    power = rfft2(image - image.mean()).abs().square()
    edges = torch.arange(0.0, 0.5, 0.012)  # wider than a ring: takes the envelope away, leaves the rings
    smooth, _ = radial_average(power, k, edges)
    band = (k > 0.05) & (k < 0.25)
    white = (power / smooth[(torch.bucketize(k, edges) - 1).clamp(0, smooth.numel() - 1)])[band]

    def agreement(defocus):
        there = replace(scene, defocus_in_angstroms=defocus)
        return correlation(white, contrast_transfer(ky, kx, scene.lens, **there.aberrations()).square()[band])

    agreements = {defocus: agreement(defocus) for defocus in [14000.0 + 50.0 * i for i in range(41)]}
    assert max(agreements, key=agreements.get) == pytest.approx(15000.0, abs=50.0)
    assert agreements[15000.0] > 4 * abs(agreements[14000.0])


@pytest.mark.parametrize("cause", [c for c in CAUSES if c not in ("ice_thickness", "tilt", "astigmatism")])
def test_twins_share_everything_but_the_cause(small_scene, shell, cause):
    harmed = replace(dominant_scene(2, 0, small_scene, cause, strength=1.5), hot_pixel_counts=500.0)
    twin = intervene(harmed, cause)
    a, b = render_micrograph(harmed, shell), render_micrograph(twin, shell)
    assert torch.equal(a.potential, b.potential)
    assert torch.equal(a.signal, b.signal)
    assert [p.x_in_pixels for p in a.particles] == [p.x_in_pixels for p in b.particles]
    assert not torch.equal(a.counts, b.counts)
    # What is left after the means are taken away is the same shot noise, up to the detector's blur.
    good = ~(a.masks["defects"] | (a.masks["contamination"] > 0.01) | (a.masks["carbon"] > 0.01))
    noise_a = ((a.counts - a.expected) / a.expected.sqrt())[good]
    noise_b = ((b.counts - b.expected) / b.expected.sqrt())[good]
    assert correlation(noise_a, noise_b) > 0.7


def test_thinner_ice_keeps_the_noise_of_its_inner_layers(small_scene, shell):
    empty = replace(small_scene, particle_count=0)
    thick = render_micrograph(replace(empty, ice_thickness_in_angstroms=320.0), shell).expected
    thin = render_micrograph(replace(empty, ice_thickness_in_angstroms=240.0), shell).expected
    assert correlation(thick, thin) > 0.8  # √(240 / 320) = 0.87 for nested noise


def test_drift_multiplies_the_contrast_by_a_sinc(small_scene, shell):
    still = intervene(replace(small_scene, particle_count=0), "motion", "detector")
    moved = replace(still, drift_x_in_angstroms=6.0, drift_y_in_angstroms=3.0)
    a, b = (rfft2(render_micrograph(s, shell).expected) for s in (still, moved))
    ky, kx = frequency_grid(still.shape, 2.0)
    sinc = torch.sinc(6.0 * kx + 3.0 * ky)
    strong = (a.abs() > a.abs().median()) & (sinc.abs() > 0.3) & (ky.abs() > 0.02)
    ratio = (b / a)[strong].real
    assert float((ratio - sinc[strong]).abs().median()) < 0.05


def test_track_starts_fast_and_is_centred():
    track = motion_track(Scene(early_motion_x_in_angstroms=4.0, drift_y_in_angstroms=2.0))
    assert track.shape == (40, 2)
    assert track.mean(0).abs().max() < 1e-5
    step = track.diff(dim=0)
    torch.testing.assert_close(step[:, 0], torch.full((39,), 0.05))
    assert step[0, 1] > 5 * step[20, 1]


def test_movie_adds_up_to_the_micrograph(small_scene, shell):
    scene = replace(small_scene, frames=5, drift_x_in_angstroms=6.0)
    movie = render_movie(scene, shell)
    assert movie.counts.shape == (5, *scene.shape)
    picture = render_micrograph(scene, shell)
    assert correlation(movie.expected, picture.expected) > 0.98
    assert float(movie.counts.sum(0).mean()) == pytest.approx(float(picture.counts.mean()), rel=2e-3)
    # Frames move: the first against the last is shifted by four fifths of the drift.
    noiseless = [f - f.mean() for f in movie.counts]
    cross = irfft2(rfft2(noiseless[4]) * rfft2(noiseless[0]).conj(), scene.shape)
    ky, kx = frequency_grid(scene.shape, 2.0)
    smooth = irfft2(rfft2(cross) * torch.exp(-400 * (ky * ky + kx * kx)), scene.shape)
    x = torch.arange(scene.width_in_pixels)
    peak = int(smooth[0].argmax())
    assert int(x[peak]) in (1, 2, 3)


def test_labels_point_at_the_particles(small_scene, shell):
    rendered = render_micrograph(replace(small_scene, ice_thickness_in_angstroms=160.0), shell)
    blurred = irfft2(
        rfft2(rendered.potential) * torch.exp(-2e3 * sum(f * f for f in frequency_grid(small_scene.shape, 2.0))),
        small_scene.shape,
    )
    inside = [p for p in rendered.particles if 35 < p.x_in_pixels < 220 and 35 < p.y_in_pixels < 265]
    assert inside
    for p in inside:
        assert blurred[round(p.y_in_pixels), round(p.x_in_pixels)] > blurred.mean()
        assert p.defocus_u_in_angstroms - p.defocus_v_in_angstroms == pytest.approx(200.0)


def test_masks_show_what_was_asked_for(small_scene, shell):
    scene = replace(
        small_scene, carbon_fraction=0.3, hot_pixel_fraction=1e-3, hot_pixel_counts=500.0, dead_line_count=1
    )
    rendered = render_micrograph(scene, shell)
    assert float(rendered.masks["carbon"].mean()) == pytest.approx(0.3, abs=0.08)
    carbon = rendered.masks["carbon"] > 0.9
    assert rendered.expected[carbon].mean() < 0.97 * rendered.expected[~carbon].mean()
    assert (rendered.counts[rendered.masks["defects"]] > 500).any()
    assert (rendered.counts == 0).sum() >= min(scene.shape)
