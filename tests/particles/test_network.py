"""The learned picker: the same answer at every pixel size, inputs that count, weights that are what the card says."""

import hashlib
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoprism.core import InputError, fourier_crop, generator_for
from cryoprism.formats import read_coordinates, read_image
from cryoprism.microscope.optics import Lens
from cryoprism.particles import Calibration, ScoreMap, Transfer, load_picker, precision_of, save_picker
from cryoprism.particles._inputs import (
    PIXELS_PER_DIAMETER,
    SPOT_WIDTH,
    centre_odds,
    null_channels,
    picker_channels,
    resample,
)
from cryoprism.particles.network import _VIEWS, LearnedPicker, PickerNetwork, _view, shipped_weights
from cryoprism.particles.picks import pick_from_score_map
from cryoprism.synthesis import Scene, phantom, render_micrograph, specimen_from_phantom

DIAMETER = 120.0


def noise(shape, seed=0):
    return 100.0 + 5.0 * torch.randn(shape, generator=generator_for(seed, "noise"))


@pytest.fixture(scope="module")
def seen():
    """A clean exposure of barrels at 2 Å per pixel, and where they are [Å]."""
    specimen = specimen_from_phantom(phantom("barrel"))
    scene = Scene(
        height_in_pixels=512,
        width_in_pixels=512,
        pixel_size_in_angstroms=2.0,
        particle_count=9,
        defocus_in_angstroms=18000.0,
        exposure_in_electrons_per_square_angstrom=60.0,
        ice_thickness_in_angstroms=200.0,
        seed=4,
    )
    rendered = render_micrograph(scene, specimen)
    centres = np.array([[2.0 * p.x_in_pixels, 2.0 * p.y_in_pixels] for p in rendered.particles])
    return rendered.counts, centres


def peaks(score: ScoreMap, least=-2.0):
    return score.picks(60.0, least, pixel_size_in_angstroms=1.0).xy_in_pixels.numpy()


@pytest.fixture(scope="module")
def picker():
    return load_picker()


@pytest.mark.parametrize("shape", [(200, 200), (201, 173), (350, 128)])
def test_the_map_covers_the_field_whatever_its_size(picker, shape):
    score = picker.score(noise(shape), 4.0, diameter_in_angstroms=DIAMETER)
    assert score.pixel_size_in_angstroms == DIAMETER / PIXELS_PER_DIAMETER
    for n, m in zip(shape, score.values.shape, strict=True):
        assert 0 <= (n - 1) * 4.0 - (m - 1) * score.pixel_size_in_angstroms < score.pixel_size_in_angstroms
    assert torch.isfinite(score.values).all()


@pytest.mark.parametrize("side", [512, 384, 256, 192])
def test_the_same_particles_are_found_at_every_pixel_size(picker, seen, side):
    """The exposure Fourier-cropped to coarser pixels is the same picture; the picks must be the same points."""
    image, centres = seen
    pixel = 2.0 * 512 / side
    found = peaks(picker.score(fourier_crop(image, (side, side)), pixel, diameter_in_angstroms=DIAMETER))
    assert len(found) == len(centres)
    assert np.linalg.norm(centres[:, None] - found[None], axis=-1).min(1).max() < 0.1 * DIAMETER
    finest = peaks(picker.score(image, 2.0, diameter_in_angstroms=DIAMETER))
    away = np.linalg.norm(finest[:, None] - found[None], axis=-1).min(1) / DIAMETER
    assert np.median(away) < 0.03
    assert away.max() < 0.06  # beside another candidate, whose distance it must keep, a pick stays where it was found


def test_grey_values_and_gradients_do_not_matter(picker, seen):
    image, centres = seen
    before = picker.score(image, 2.0, diameter_in_angstroms=DIAMETER).values
    other = picker.score(-3000.0 + 7.0 * image, 2.0, diameter_in_angstroms=DIAMETER).values
    torch.testing.assert_close(before, other, atol=2e-2, rtol=2e-2)
    slope = 2.0 * float(image.std()) * torch.linspace(0.0, 1.0, 512)[:, None]
    assert len(peaks(picker.score(image + slope, 2.0, diameter_in_angstroms=DIAMETER))) == len(centres)


def test_pure_noise_gives_next_to_nothing(picker):
    image = noise((300, 300))
    assert len(peaks(picker.score(image, 4.0, diameter_in_angstroms=DIAMETER), 0.0)) <= 2


def test_what_the_mask_covers_is_not_picked(picker, seen):
    image, centres = seen
    labels = torch.zeros(32, 32, dtype=torch.uint8)
    labels[:16] = 2  # the upper half: contamination
    labels[24:, 24:] = 1  # defects are mended and no artefact
    found = peaks(picker.score(image, 2.0, diameter_in_angstroms=DIAMETER, mask=labels))
    assert len(found)
    assert found[:, 1].min() > 512.0
    assert len(found) == int((centres[:, 1] > 512.0).sum())


def test_scoring_changes_nothing_and_repeats(picker):
    image = noise((150, 150))
    copy = image.clone()
    first = picker.score(image, 4.0, diameter_in_angstroms=DIAMETER).values
    torch.testing.assert_close(image, copy, atol=0, rtol=0)
    torch.testing.assert_close(first, picker.score(image, 4.0, diameter_in_angstroms=DIAMETER).values, atol=0, rtol=0)


def test_resampling_keeps_waves_and_their_place():
    """A cosine below the new Nyquist frequency is sampled where the new pixels are; one far above it vanishes."""
    n, old = 400, 1.3
    at = torch.arange(n) * old
    for new in (0.9, 2.1, 6.1, 11.0):
        period = 5 * new if new > old else 6 * old
        wave = torch.cos(2 * torch.pi * at / period)
        image = wave[:, None] * torch.ones(1, n)
        out = resample(image, old, new)
        inner = slice(8, -8)
        expected = torch.cos(2 * torch.pi * torch.arange(out.shape[0]) * new / period)
        # Averaging over whole pixels and the kernel's own roll-off cost some amplitude, never the phase.
        assert torch.nn.functional.cosine_similarity(out[inner, 5], expected[inner], dim=0) > 0.999
        assert 0.7 < out[inner, 5].norm() / expected[inner].norm() < 1.02
    fast = torch.cos(2 * torch.pi * at / 3.1)[:, None] * torch.ones(1, n)
    assert resample(fast, old, 6.1)[8:-8].square().mean() < 0.05 * fast.square().mean()
    torch.testing.assert_close(resample(torch.ones(50, 60), 1.0, 3.3), torch.ones(15, 18))


def test_the_wiener_channel_turns_the_phases_of_the_ctf():
    """A point seen through the CTF comes back as a peak: more of its power lies at the centre than without the CTF."""
    side, pixel = 240, 5.0
    transfer = Transfer(lens=Lens(), defocus_u_in_angstroms=25000.0, defocus_v_in_angstroms=24000.0)
    ctf = transfer.on_grid((side, side), pixel, torch.device("cpu"))
    point = torch.zeros(side, side)
    point[120, 120] = -1.0
    image = torch.fft.irfft2(torch.fft.rfft2(point) * ctf, s=(side, side))
    image = image + 0.03 * torch.randn(side, side, generator=generator_for(0, "w"))
    grey, filtered, mask = picker_channels(image, pixel, diameter_in_angstroms=120.0, transfer=transfer)
    for channel in (grey, filtered):
        channel /= channel.std()
    assert int(filtered.argmin()) == 120 * filtered.shape[1] + 120
    assert filtered[120, 120] < grey[120, 120]
    assert mask.sum() == 0
    assert picker_channels(image, pixel, diameter_in_angstroms=120.0)[1].abs().sum() == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"diameter_in_angstroms": 0.0}, "diameter"),
        ({"diameter_in_angstroms": 5000.0}, "does not fit"),
        ({"pixel_size_in_angstroms": -1.0}, "pixel size"),
        ({"micrograph": torch.zeros(2, 50, 50)}, "one image"),
        ({"micrograph": torch.full((50, 50), float("nan"))}, "not finite"),
        ({"mask": torch.zeros(3)}, "labels"),
    ],
)
def test_an_input_that_cannot_be_is_named(picker, change, words):
    values = {
        "micrograph": torch.randn(80, 80),
        "pixel_size_in_angstroms": 4.0,
        "diameter_in_angstroms": DIAMETER,
    } | change
    image, pixel = values.pop("micrograph"), values.pop("pixel_size_in_angstroms")
    with pytest.raises(InputError, match=words):
        picker.score(image, pixel, **values)


def test_constant_and_half_empty_images_are_no_accident(picker):
    flat = torch.full((120, 120), 7.0)
    assert torch.isfinite(picker.score(flat, 4.0, diameter_in_angstroms=DIAMETER).values).all()
    labels = torch.full((10, 10), 3, dtype=torch.uint8)
    score = picker.score(noise((120, 120)), 4.0, diameter_in_angstroms=DIAMETER, mask=labels)
    assert torch.isfinite(score.values).all()


def test_log_odds_count_the_centres_that_are_expected():
    """A perfect spot is one centre: 1 − exp(−1) likely; spread over a wider area with equal sum it is nearly that."""
    side, at = 61, 30
    distance = (torch.arange(side) - at).float().square()
    for width, most in ((SPOT_WIDTH * PIXELS_PER_DIAMETER, 1e-3), (2.0 * SPOT_WIDTH * PIXELS_PER_DIAMETER, 1.2)):
        spot = torch.exp(-0.5 * (distance[:, None] + distance[None, :]) / width**2)
        spot = spot * (2 * torch.pi * (SPOT_WIDTH * PIXELS_PER_DIAMETER) ** 2) / spot.sum()
        odds = centre_odds(torch.logit(spot.clamp(1e-9, 1 - 1e-7)))
        assert int(odds.argmax()) == at * side + at
        assert 0.0 <= math.log(math.e - 1) - float(odds[at, at]) + 1e-4 < most + 1e-4
    assert float(centre_odds(torch.full((40, 40), -30.0)).max()) < -15.0
    assert float(centre_odds(torch.full((40, 40), 30.0)).max()) < 5.0


@pytest.mark.real
def test_real_apoferritin_is_found(picker):
    data = Path(os.environ.get("CRYOPRISM_DATA", Path(__file__).parents[3] / "shared" / "data")) / "apoferritin"
    if not data.is_dir():
        pytest.skip("no real micrographs: set CRYOPRISM_DATA")
    image = read_image(data / "micrographs" / "May08_04.33.57.mrc").data
    truth = read_coordinates(data / "coordinates" / "May08_04.33.57.star").xy_in_pixels
    score = picker.score(image, 1.5, diameter_in_angstroms=130.0)
    picks = score.picks(65.0, -9.0, pixel_size_in_angstroms=1.5)
    assert precision_of([picks], [truth], [65.0 / 1.5]).average_precision > 0.8


def bump(x, y, height, width):
    at_y, at_x = torch.arange(80)[:, None], torch.arange(80)[None, :]
    return height * torch.exp(-0.5 * ((at_x - x) ** 2 + (at_y - y) ** 2) / width**2)


def test_a_shoulder_is_a_candidate_and_a_sure_pick_keeps_its_place():
    """A faint particle on the flank of a sure one has no maximum of its own; the sharpened map gives it one."""
    spots = -12.0 + bump(30.0, 40.0, 15.0, 5.0) + bump(38.0, 40.0, 4.0, 2.4)
    score = ScoreMap(centre_odds(spots), 5.0, spots)
    assert len(pick_from_score_map(spots, 5.0, 30.0, -9.0, pixel_size_in_angstroms=5.0)) == 1
    both = score.picks(30.0, -9.0, pixel_size_in_angstroms=5.0)
    assert len(both) == 2
    torch.testing.assert_close(both.xy_in_pixels[0], torch.tensor([30.0, 40.0]).double(), atol=0.5, rtol=0)
    torch.testing.assert_close(both.xy_in_pixels[1], torch.tensor([38.0, 40.0]).double(), atol=2.0, rtol=0)


def test_the_answer_does_not_depend_on_how_the_micrograph_was_turned(picker):
    """The views that are averaged are a group: a picture seen as one of them gives the same map seen so."""
    channels = torch.randn(3, 96, 120, generator=generator_for(0, "turned"))
    straight = picker._scored(channels, DIAMETER)
    turned = picker._scored(_view(channels, *_VIEWS[1]), DIAMETER)
    torch.testing.assert_close(turned.spots, _view(straight.spots, *_VIEWS[1]), atol=1e-4, rtol=1e-4)


def test_the_null_of_a_crowded_micrograph_keeps_its_power_and_loses_its_particles(picker, seen):
    image, centres = seen
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[:8] = 2
    values = {"diameter_in_angstroms": DIAMETER, "mask": mask}
    score, null = picker.score_with_null(image, 2.0, generator=generator_for(1, "null"), **values)
    torch.testing.assert_close(score.values, picker.score(image, 2.0, **values).values, atol=0, rtol=0)
    _, same = picker.score_with_null(image, 2.0, generator=generator_for(1, "null"), **values)
    torch.testing.assert_close(null.values, same.values, atol=0, rtol=0)
    assert len(peaks(score)) >= 0.7 * len(centres)
    assert len(peaks(null)) <= 2
    channels = picker_channels(image, 2.0, **values)
    noise = null_channels(channels, DIAMETER, None, generator_for(1, "null"))
    torch.testing.assert_close(noise[2], channels[2], atol=0, rtol=0)
    power, other = (torch.fft.rfft2(c[0]).abs().square() for c in (channels, noise))
    rings = [slice(1, 6), slice(6, 15), slice(15, 30)]  # in both directions
    for ring in rings:
        assert float(other[ring, ring].mean() / power[ring, ring].mean()) == pytest.approx(1.0, abs=0.35)


def test_neighbours_are_told_apart_by_the_map_of_spots():
    """A faint particle on the flank of a sure one has a maximum of its own among the spots, none in the sums."""
    spots = -14.0 + torch.maximum(bump(30.0, 40.0, 17.0, 5.0), bump(44.0, 40.0, 10.0, 3.0))
    score = ScoreMap(centre_odds(spots), 5.0, spots)
    sums = pick_from_score_map(score.values, 5.0, 60.0, -9.0, pixel_size_in_angstroms=5.0)
    both = score.picks(60.0, -9.0, pixel_size_in_angstroms=5.0)
    assert len(sums) == 1
    torch.testing.assert_close(both.xy_in_pixels, torch.tensor([[30.0, 40.0], [44.0, 40.0]]).double(), atol=0.5, rtol=0)
    assert float(both.figure_of_merit[0]) == pytest.approx(float(sums.figure_of_merit[0]), abs=0.05)


def test_weights_are_written_and_read(tmp_path):
    torch.manual_seed(3)
    network = PickerNetwork((8, 16, 16)).eval()
    torch.nn.init.normal_(network.head.weight)
    made = LearnedPicker(network, offset=1.25, notes={"seed": "3"})
    digest = save_picker(tmp_path / "w.safetensors", made)
    assert digest == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    read = load_picker(tmp_path / "w.safetensors")
    assert read.offset == 1.25
    assert read.notes["seed"] == "3"
    assert read.network.widths == (8, 16, 16)
    image = noise((100, 100))
    expected = made.score(image, 4.0, diameter_in_angstroms=DIAMETER).values
    torch.testing.assert_close(read.score(image, 4.0, diameter_in_angstroms=DIAMETER).values, expected)
    assert save_picker(tmp_path / "again.safetensors", read) == digest


def test_files_that_are_no_weights_are_refused(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(InputError, match="no such file"):
        load_picker(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(InputError, match="safetensors"):
        load_picker(tmp_path / "text.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no format"):
        load_picker(tmp_path / "other.safetensors")


def test_a_device_that_is_not_there_is_refused(picker):
    with pytest.raises(InputError, match="device"):
        load_picker(device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="cuda"):
            picker.to("cuda")


def test_the_card_names_the_weights_that_ship():
    file = shipped_weights()
    card = (file.parent / "picker.md").read_text(encoding="utf-8")
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert file.stat().st_size < 2_000_000
    notes = load_picker().notes
    assert math.isfinite(Calibration.from_text(notes["calibration"]).threshold(0.5))
    names = notes["trained_on"].split(",")
    assert re.search(r"4oyn", card)
    assert re.search(r"6z6u", card)
    assert not {"4oyn", "6z6u", "shell-0"} & {name.lower() for name in names}
