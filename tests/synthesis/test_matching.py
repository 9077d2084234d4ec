from dataclasses import replace

import pytest
import torch

from cryoprism.causes import estimate_causes, measure_spectrum
from cryoprism.core import InputError, generator_for
from cryoprism.synthesis import (
    Exemplar,
    Scene,
    SessionMatch,
    draw_exposure,
    match_session,
    noise_for,
    power_spectrum,
    read_match,
    render_micrograph,
    write_match,
)
from cryoprism.synthesis._centring import Centring

PIXEL = 2.0


def _scene(index, defocus):
    return Scene(
        name=f"m{index}",
        seed=index,
        height_in_pixels=512,
        width_in_pixels=560,
        pixel_size_in_angstroms=PIXEL,
        particle_count=24,
        ice_thickness_in_angstroms=160.0,
        defocus_in_angstroms=defocus,
        exposure_in_electrons_per_square_angstrom=40.0,
        damage_scale=0.0,
    )


def _exemplar(shell, index, defocus, scale=3.0, offset=50.0):
    rendered = render_micrograph(_scene(index, defocus), shell)
    # Grey values that say nothing of electrons, as after somebody's rescaling.
    image = scale * (rendered.counts / rendered.expected.mean() - 1.0) + offset
    lens = rendered.scene.lens
    xy = torch.tensor([[p.x_in_pixels, p.y_in_pixels] for p in rendered.particles], dtype=torch.float64)
    jitter = torch.randn(xy.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
    estimate = estimate_causes(measure_spectrum(image, PIXEL, high_in_angstroms=4.5), lens)
    return Exemplar(name=f"m{index}", image=image, estimate=estimate, xy_in_pixels=xy + 3.0 * jitter)


@pytest.fixture(scope="module")
def exemplars(shell):
    return [_exemplar(shell, 1, 14000.0), _exemplar(shell, 2, 20000.0)]


@pytest.fixture(scope="module")
def match(exemplars, shell):
    return match_session(exemplars, shell, PIXEL, seed=0)


def test_gain_and_mean_come_back_from_rescaled_grey_values(match):
    for one in match.micrographs:
        assert one.noise.gain == pytest.approx(3.0, rel=0.12)
        assert one.noise.mean == pytest.approx(50.0, abs=0.1)
        assert one.agreement > 0.95


def test_the_map_needs_no_correction_where_it_is_the_truth(match):
    strong = match.correction.factor[:4]
    assert float((strong - 1).abs().max()) < 0.25


def test_noise_is_as_strong_as_the_electrons_make_it(match):
    # 40 e/Å² × 4 Å² × DQE of 0.85, less what the ice scatters out; their blur by the MTF takes a third of the variance.
    for one in match.micrographs:
        assert 100 < 1 / one.noise.variance < 250
        assert one.noise.electrons >= 0.99 / one.noise.variance


def test_density_is_that_of_the_scene(match):
    expected = 24 / (512 * 560 * PIXEL**2 * 1e-8)
    for one in match.micrographs:
        assert one.density_in_inverse_square_micrometers == pytest.approx(expected, rel=0.35)


def test_draws_take_turns_and_stay_near_their_micrograph(match):
    drawn = [draw_exposure(match, 7, index, f"s{index}") for index in range(20)]
    names = [chosen.name for _, chosen in drawn]
    assert names.count("m1") == names.count("m2") == 10
    spread = match.defocus_kernel_in_angstroms
    for scene, chosen in drawn:
        assert abs(scene.defocus_in_angstroms - chosen.scene.defocus_in_angstroms) < 5 * spread + 500
        assert scene.particle_count > 0
    assert len({scene.defocus_in_angstroms for scene, _ in drawn}) == 20


def _with_defoci(match, *defoci):
    first = match.micrographs[0]
    many = [replace(first, scene=replace(first.scene, defocus_in_angstroms=d)) for d in defoci]
    return SessionMatch(micrographs=tuple(many), correction=match.correction)


@pytest.mark.parametrize("defoci", [(8000.0, 12000.0, 16000.0, 20000.0, 24000.0), (5000.0, 15000.0, 25000.0)])
def test_a_wide_session_is_never_drawn_out_of_underfocus(match, defoci):
    wide = _with_defoci(match, *defoci)
    drawn = [draw_exposure(wide, 3, index, f"s{index}")[0] for index in range(1000)]
    assert min(min(s.defocus_u_in_angstroms, s.defocus_v_in_angstroms) for s in drawn) > 0
    values = torch.tensor([s.defocus_in_angstroms for s in drawn])
    assert 0.5 * min(defoci) <= float(values.min()) <= float(values.max()) <= 2 * max(defoci)
    # Reflected, not heaped up at the ends.
    assert values.unique().numel() > 990
    assert float(values.std()) > 0.8 * float(torch.tensor(defoci).std())


def test_draws_of_a_narrow_session_are_not_touched(match):
    narrow = _with_defoci(match, 14000.0, 15000.0, 16000.0)
    scene, chosen = draw_exposure(narrow, 3, 0, "s0")
    generator = generator_for(3, 0, "posterior")
    steps = {name: float(torch.randn((), generator=generator)) for name in chosen.deviations}
    free = chosen.scene.defocus_in_angstroms + chosen.deviations["defocus_in_angstroms"] * steps["defocus_in_angstroms"]
    free += narrow.defocus_kernel_in_angstroms * float(torch.randn((), generator=generator))
    assert scene.defocus_in_angstroms == free


def test_same_seed_same_draw(match):
    assert draw_exposure(match, 7, 3, "a")[0] == draw_exposure(match, 7, 3, "a")[0]
    assert draw_exposure(match, 8, 3, "a")[0] != draw_exposure(match, 7, 3, "a")[0]


def test_noise_moves_with_the_defocus_that_was_drawn(match):
    scene, chosen = draw_exposure(match, 7, 0, "s")
    moved = noise_for(chosen, scene)
    assert moved.power.shape == chosen.noise.power.shape
    assert float(moved.power.min()) > 0
    same = noise_for(chosen, chosen.scene)
    assert torch.allclose(same.power, chosen.noise.power, rtol=1e-4)


def test_a_match_comes_back_from_disk(match, tmp_path):
    write_match(tmp_path / "match", match)
    back = read_match(tmp_path / "match")
    assert [m.scene for m in back.micrographs] == [m.scene for m in match.micrographs]
    assert torch.equal(back.correction.factor, match.correction.factor)
    for old, new in zip(match.micrographs, back.micrographs, strict=True):
        assert torch.equal(old.noise.power, new.noise.power)
        assert torch.equal(old.ice_power, new.ice_power)
        assert old.noise.gain == pytest.approx(new.noise.gain)
    (tmp_path / "match" / "match.json").write_text("{")
    with pytest.raises(InputError, match="no whole matched session"):
        read_match(tmp_path / "match")


def test_too_little_to_match_is_refused(exemplars, shell):
    with pytest.raises(InputError, match="no micrographs"):
        match_session([], shell, PIXEL)
    few = [replace(exemplars[0], xy_in_pixels=exemplars[0].xy_in_pixels[:3])]
    with pytest.raises(InputError, match="3 particles"):
        match_session(few, shell, PIXEL)


@pytest.mark.parametrize("edge", [400, 512])
def test_centres_on_a_small_micrograph_are_where_the_particles_are(shell, edge):
    """With the spectrum of one tile alone they came out 7 to 8 px beside."""
    scene = replace(_scene(edge, 15000.0), height_in_pixels=edge, width_in_pixels=edge, particle_count=edge // 27)
    rendered = render_micrograph(scene, shell)
    xy = torch.tensor([[p.x_in_pixels, p.y_in_pixels] for p in rendered.particles], dtype=torch.float64)
    found = Centring(scene, shell, power_spectrum(rendered.counts), 0).centres(rendered.counts, xy)
    assert float((found - xy).square().mean().sqrt()) < 1.0
