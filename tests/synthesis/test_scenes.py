import json
from dataclasses import fields, replace

import pytest
import torch

from cryoprism.core import InputError
from cryoprism.synthesis import CAUSES, Scene, intervene, place_particles, scene_from_dict, scene_to_dict
from cryoprism.synthesis.recipes import demo_scenes, dominant_scene, varied_scene


@pytest.mark.parametrize("thickness", [100.0, 250.0, 900.0])
def test_particles_lie_in_the_slab_and_never_touch(thickness):
    scene = Scene(particle_count=50, ice_thickness_in_angstroms=thickness)
    centres = place_particles(scene, 63.0, 100.0).centres_in_angstroms
    distance = torch.cdist(centres, centres) + 1e9 * torch.eye(len(centres))
    assert distance.min() >= 126.0 * 0.999
    assert centres[:, 2].abs().max() <= max(0.0, 0.5 * thickness - 63.0) + 1e-3
    half = 0.5 * 1024 * 1.5
    assert ((centres[:, :2].abs() <= half).all(1)).sum() == pytest.approx(50, abs=15)


def test_thicker_ice_keeps_the_particles_where_they_are():
    thin = place_particles(Scene(ice_thickness_in_angstroms=160.0), 63.0)
    thick = place_particles(Scene(ice_thickness_in_angstroms=800.0), 63.0)
    assert torch.equal(thin.centres_in_angstroms[:, :2], thick.centres_in_angstroms[:, :2])
    assert torch.equal(thin.rotations, thick.rotations)
    assert thick.centres_in_angstroms[:, 2].std() > 5 * thin.centres_in_angstroms[:, 2].std()


def test_orientations_are_uniform():
    scene = Scene(particle_count=400, height_in_pixels=4096, width_in_pixels=4096)
    rotations = place_particles(scene, 63.0).rotations
    # Under the uniform law every element has mean 0 and variance 1/3.
    assert rotations.mean(0).abs().max() < 4 * (1 / 3 / 400) ** 0.5
    assert (rotations.square().mean(0) - 1 / 3).abs().max() < 0.08


def test_tilted_slab_raises_particles_across_the_axis():
    flat = place_particles(Scene(), 63.0).centres_in_angstroms
    tilted = place_particles(Scene(tilt_in_degrees=45.0, tilt_axis_in_degrees=0.0), 63.0).centres_in_angstroms
    torch.testing.assert_close(tilted[:, 2] - flat[:, 2], flat[:, 1])


def test_too_many_particles_are_refused_with_a_number_that_fits():
    with pytest.raises(InputError, match="do not fit") as caught:
        place_particles(Scene(particle_count=500), 63.0)
    assert "about" in caught.value.remedy


@pytest.mark.parametrize("cause", CAUSES)
def test_interventions_set_their_fields_and_no_others(cause):
    harmed = dominant_scene(1, 4, Scene(), cause, strength=2.0)
    healed = intervene(harmed, cause)
    assert healed != harmed
    for field in fields(Scene):
        value = getattr(healed, field.name)
        if field.name not in CAUSES[cause]:
            assert value == getattr(harmed, field.name)
        else:
            assert value == CAUSES[cause][field.name]
    assert intervene(healed, cause) == healed


def test_unknown_causes_and_values_are_named():
    with pytest.raises(InputError, match="weather"):
        intervene(Scene(), "weather")
    with pytest.raises(InputError, match="exposure"):
        Scene(exposure_in_electrons_per_square_angstrom=-1.0)
    with pytest.raises(InputError, match="bogus"):
        scene_from_dict({"bogus": 1})


def test_scenes_survive_json():
    scene = replace(varied_scene(5, 2, Scene()), detector_mtf=((0.0, 1.0), (0.5, 0.4)))
    assert scene_from_dict(json.loads(json.dumps(scene_to_dict(scene)))) == scene


def test_recipes_depend_on_seed_and_number_only():
    assert [s.name for s in demo_scenes(0, Scene())] == sorted(s.name for s in demo_scenes(0, Scene()))
    assert varied_scene(1, 7, Scene()) == varied_scene(1, 7, Scene())
    assert varied_scene(1, 7, Scene()) != varied_scene(2, 7, Scene())
    calm = varied_scene(1, 7, Scene(), severity=0.0)
    assert (calm.drift_x_in_angstroms, calm.envelope_b_factor_in_square_angstroms) == (0.0, 0.0)
