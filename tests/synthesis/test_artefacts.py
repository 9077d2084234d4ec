import json
from dataclasses import asdict, replace

import pytest
import torch

from cryoprism.microscope import contamination_object
from cryoprism.microscope.contamination import contamination
from cryoprism.restoration import artefact_mask
from cryoprism.synthesis import (
    ArtefactMasks,
    Artefacts,
    CarbonEdge,
    Crystal,
    MatchedMicrograph,
    NoiseFit,
    RadialCorrection,
    Scene,
    SeenArtefacts,
    SessionMatch,
    Spot,
    artefact_contrast,
    artefact_field,
    draw_artefacts,
    read_match,
    write_match,
)
from cryoprism.synthesis._seen_artefacts import look_at_artefacts, seen_from_dict

PIXEL = 5.0


@pytest.fixture(scope="module")
def scene():
    return Scene(
        name="dirty",
        seed=2,
        height_in_pixels=400,
        width_in_pixels=480,
        pixel_size_in_angstroms=PIXEL,
        damage_scale=0.0,
        drift_x_in_angstroms=6.0,
    )


def _match(scene, *seen):
    fit = NoiseFit(
        mean=0.0, gain=1.0, power=torch.ones(8, 5), variance=1.0, electrons=float("inf"), field_deviation=0.0
    )
    micrographs = tuple(
        MatchedMicrograph(
            name=f"m{i}",
            scene=scene,
            deviations={},
            density_in_inverse_square_micrometers=10.0,
            noise=fit,
            ice_power=torch.zeros(8, 5),
            agreement=1.0,
            artefacts=one,
        )
        for i, one in enumerate(seen)
    )
    return SessionMatch(micrographs=micrographs, correction=RadialCorrection(torch.ones(2), torch.ones(2)))


def _seen(*spots, **more):
    made = tuple(Spot(radius_in_angstroms=r, depth=d, told_apart=told) for r, d, told in spots)
    return SeenArtefacts(spots=made, **more)


def test_one_object_is_one_of_many():
    """The same outline, thickness and place as the mechanism draws it, with nothing but the outline drawn."""
    many = contamination(
        (128, 128), 4.0, generator=torch.Generator().manual_seed(3), count=1, thickness_in_angstroms=300
    )
    generator = torch.Generator().manual_seed(3)
    draw = torch.rand(3, generator=generator).tolist()
    one = contamination_object(
        (128, 128),
        4.0,
        generator=generator,
        center_in_angstroms=((draw[0] - 0.5) * 512, (draw[1] - 0.5) * 512),
        radius_in_angstroms=(0.5 + draw[2]) * 300.0,
        thickness_in_angstroms=(0.5 + draw[2]) * 300.0,
    )
    assert torch.allclose(one.projected_potential, many.projected_potential, rtol=1e-5)
    assert torch.equal(one.mask, many.mask)


def test_what_is_drawn_is_found_again_as_large_and_as_dark(scene):
    """Seen in a micrograph, drawn from that, seen again."""
    crystals = tuple(
        Crystal(x_in_pixels=x, y_in_pixels=y, radius_in_angstroms=r, thickness_in_angstroms=400.0)
        for x, y, r in ((110, 100, 130.0), (330, 250, 180.0))
    )
    field = artefact_field(scene, Artefacts(crystals=crystals))
    contrast = field.canvas.crop(artefact_contrast(scene, field), scene.shape)
    grains = 0.02 * torch.randn(scene.shape, generator=torch.Generator().manual_seed(0))
    image = 100.0 + 40.0 * (contrast + grains)
    truth = ArtefactMasks(field.contamination, field.carbon)
    seen = look_at_artefacts(image, truth, PIXEL, 40.0, 40.0)
    assert [spot.told_apart for spot in seen.spots] == [True, True]
    assert sorted(spot.radius_in_angstroms for spot in seen.spots) == pytest.approx([130.0, 180.0], rel=0.15)
    again = _match(scene, seen)
    drawn = draw_artefacts(again, again.micrographs[0], scene)
    assert len(drawn.crystals) == 2
    for crystal in drawn.crystals:
        assert crystal.thickness_in_angstroms == pytest.approx(400.0, rel=0.1)
    found = artefact_mask(image, PIXEL).full_labels() == 2
    both = (found & field.contamination).sum() / (found | field.contamination).sum()
    assert float(both) > 0.6


def test_dark_spots_as_large_as_a_few_particles_are_not_taken_for_contamination(scene):
    crystal = Crystal(x_in_pixels=200, y_in_pixels=200, radius_in_angstroms=150.0, thickness_in_angstroms=400.0)
    field = artefact_field(scene, Artefacts(crystals=(crystal,)))
    contrast = field.canvas.crop(artefact_contrast(scene, field), scene.shape)
    masks = ArtefactMasks(field.contamination, field.carbon)
    assert look_at_artefacts(contrast, masks, PIXEL, 1.0, 30.0).contaminations
    seen = look_at_artefacts(contrast, masks, PIXEL, 1.0, 80.0)
    assert len(seen.spots) == 1
    assert not seen.contaminations
    match = _match(scene, seen)
    assert not draw_artefacts(match, match.micrographs[0], scene)
    # Who asks for contamination gets it in the sizes that were seen.
    asked = draw_artefacts(match, match.micrographs[0], scene, contamination=3)
    assert {crystal.radius_in_angstroms for crystal in asked.crystals} == {seen.spots[0].radius_in_angstroms}


def test_nothing_is_drawn_where_nothing_was_seen(scene):
    match = _match(scene, SeenArtefacts())
    assert not draw_artefacts(match, match.micrographs[0], scene)


def test_as_many_are_drawn_as_there_are_and_none_where_they_are_switched_off(scene):
    dirty = _seen((200.0, 0.2, True), (300.0, 0.3, True), (50.0, 0.2, False))
    film = _seen(carbon_share=0.25, carbon_depth=0.2)
    match = _match(scene, dirty, film)
    assert len(draw_artefacts(match, match.micrographs[0], scene).crystals) == 2
    half = replace(scene, width_in_pixels=240)
    counts = [len(draw_artefacts(match, match.micrographs[0], replace(half, name=str(i))).crystals) for i in range(9)]
    assert set(counts) == {1}
    edge = draw_artefacts(match, match.micrographs[1], scene).carbon
    assert edge is not None
    assert edge.share == 0.25
    assert not draw_artefacts(match, match.micrographs[0], scene, contamination=0)
    assert not draw_artefacts(match, match.micrographs[1], scene, carbon=0.0)
    names = [replace(scene, name=str(i)) for i in range(60)]
    edges = [draw_artefacts(match, match.micrographs[0], one, contamination=0, carbon=0.5).carbon for one in names]
    assert 18 <= sum(edge is not None for edge in edges) <= 42


def test_carbon_covers_its_share_and_is_as_dark_as_the_film_it_stands_for(scene):
    depth = 0.2
    match = _match(scene, _seen(carbon_share=0.3, carbon_depth=depth))
    drawn = draw_artefacts(match, match.micrographs[0], scene)
    assert isinstance(drawn.carbon, CarbonEdge)
    field = artefact_field(scene, drawn)
    assert float(field.carbon.float().mean()) == pytest.approx(0.3, abs=0.05)
    contrast = field.canvas.crop(artefact_contrast(scene, field), scene.shape)
    inside, outside = contrast[field.carbon].median(), contrast[~field.carbon].median()
    assert float(outside - inside) == pytest.approx(depth, rel=0.1)
    seen = look_at_artefacts(contrast, ArtefactMasks(field.contamination, field.carbon), PIXEL, 1.0, 60.0)
    assert seen.carbon_depth == pytest.approx(depth, rel=0.1)


def test_artefacts_move_and_blur_with_the_specimen_but_do_not_fade(scene):
    crystal = Crystal(x_in_pixels=240, y_in_pixels=200, radius_in_angstroms=150.0, thickness_in_angstroms=300.0)
    field = artefact_field(scene, Artefacts(crystals=(crystal,)))
    faded = artefact_contrast(replace(scene, damage_scale=1.0), field)
    assert torch.equal(faded, artefact_contrast(scene, field))
    blurred = artefact_contrast(replace(scene, drift_x_in_angstroms=60.0), field)
    assert float(blurred.square().sum()) < float(faded.square().sum())


def test_a_match_keeps_its_artefacts_and_older_ones_have_none(scene, tmp_path):
    seen = _seen((200.0, 0.2, True), carbon_share=0.1, carbon_depth=0.3, contamination_share=0.02)
    assert seen_from_dict(json.loads(json.dumps(asdict(seen)))) == seen
    write_match(tmp_path, _match(scene, seen))
    assert read_match(tmp_path).micrographs[0].artefacts == seen
    older = json.loads((tmp_path / "match.json").read_text())
    del older["micrographs"][0]["artefacts"]
    (tmp_path / "match.json").write_text(json.dumps(older))
    assert read_match(tmp_path).micrographs[0].artefacts == SeenArtefacts()
