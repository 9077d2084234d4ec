"""Training of the learned picker: it learns, repeats, resumes, adapts to clicks, and was shown no ferritin."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cryoprism.core import InputError, generator_for
from cryoprism.formats import Coordinates, write_coordinates, write_mrc
from cryoprism.microscope.optics import Lens
from cryoprism.particles import ClickedMicrograph, Transfer, adapt, load_picker, precision_of
from cryoprism.particles._patches import centre_target, draw_patch, without_particles
from cryoprism.particles._training_fields import EXCLUDED, TrainingField, load_specimens, simulate_fields
from cryoprism.particles.picks import Picks
from cryoprism.particles.training import TrainingConfig, precision_on_fields, train_on_fields
from cryoprism.restoration.masks import LABELS
from cryoprism.synthesis import phantom, specimen_from_phantom

PIXEL, DIAMETER = 4.5, 120.0
TRANSFER = Transfer(lens=Lens(), defocus_u_in_angstroms=15000.0, defocus_v_in_angstroms=15000.0)


def planted(seed, *, side=200, count=22, sign=1.0, noise=1.2, radius=42.0):
    """A field of dark discs, no two nearer than a diameter, in white noise."""
    generator = generator_for(seed, "planted")
    centres: list[tuple[float, float]] = []
    while len(centres) < count:
        x, y = (torch.rand(2, generator=generator) * (side - 1)).tolist()
        if all(math.hypot(x - a, y - b) * PIXEL >= DIAMETER for a, b in centres):
            centres.append((x, y))
    y, x = torch.arange(side)[:, None], torch.arange(side)[None, :]
    image = torch.zeros(side, side)
    for cx, cy in centres:
        image -= torch.sigmoid((radius - PIXEL * ((x - cx) ** 2 + (y - cy) ** 2).sqrt()) / 5.0)
    image = sign * image + noise * torch.randn(side, side, generator=generator)
    return TrainingField(
        "disc", image, PIXEL, DIAMETER, torch.tensor(centres), torch.zeros(side, side, dtype=torch.uint8), TRANSFER
    )


SMALL = TrainingConfig(steps=60, batch=4, patch=72, widths=(8, 16, 16), learning_rate=1e-2)


def weights_of(picker):
    return torch.cat([value.flatten() for value in picker.network.state_dict().values()])


def test_training_lowers_the_loss_and_finds_planted_discs():
    trained = train_on_fields([planted(i) for i in range(8)], [planted(99), planted(98)], SMALL)
    assert np.mean(trained.losses[-10:]) < 0.75 * np.mean(trained.losses[:3])
    assert trained.validation is not None
    assert trained.validation.average_precision > 0.9
    assert len(trained.losses) == SMALL.steps
    assert trained.trained_on == ("disc",)


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path):
    fields = [planted(0, side=120, count=8), planted(1, side=120, count=8)]
    settings = {"steps": 4, "batch": 2, "patch": 56, "widths": (8, 8, 8)}
    first = train_on_fields(fields, [], TrainingConfig(seed=5, **settings)).picker
    second = train_on_fields(fields, [], TrainingConfig(seed=5, **settings)).picker
    third = train_on_fields(fields, [], TrainingConfig(seed=6, **settings)).picker
    torch.testing.assert_close(weights_of(first), weights_of(second), atol=0, rtol=0)
    assert not torch.allclose(weights_of(first), weights_of(third))


def test_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path):
    fields = [planted(0, side=110, count=5)]
    config = TrainingConfig(steps=103, batch=1, patch=48, widths=(8, 8, 8))
    whole = train_on_fields(fields, [], config)
    file = tmp_path / "state.pt"

    train_on_fields(fields, [], config, None, file)  # writes the state at step 100
    lines = []
    resumed = train_on_fields(fields, [], config, lines.append, file)
    assert lines == []
    assert resumed.losses == whole.losses
    torch.testing.assert_close(weights_of(resumed.picker), weights_of(whole.picker), atol=0, rtol=0)
    other = TrainingConfig(steps=2, batch=1, patch=48, widths=(8, 8, 8))
    assert len(train_on_fields(fields, [], other, None, file).losses) == 2  # another training starts anew


def test_time_may_end_the_training():
    config = TrainingConfig(steps=10_000, batch=1, patch=48, widths=(8, 8, 8), minutes=0.01)
    assert 1 <= len(train_on_fields([planted(0, side=110, count=5)], [], config).losses) < 1000


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 0), ("patch", 20), ("widths", (7, 8, 8)), ("minutes", -1.0), ("validation_share", 1)]
)
def test_a_training_that_cannot_be_is_refused(name, value):
    with pytest.raises(InputError, match=name):
        TrainingConfig(**{name: value})


def test_precision_on_cases_that_can_be_counted():
    truth = torch.tensor([[10.0, 10.0], [50.0, 50.0], [90.0, 90.0], [10.0, 90.0]])
    merit = torch.tensor([4.0, 3.0, 2.0, 1.0])
    right = Picks(truth.double(), merit)
    all_right = precision_of([right], [truth], [5.0])
    assert all_right.average_precision == all_right.f1 == 1.0
    assert all_right.threshold == 1.0
    # Second best is false, the last sits on a particle that is taken: precision 1, 1/2, 2/3, 2/4 at recall 1/4, 2/4.
    xy = torch.tensor([[11.0, 10.0], [30.0, 30.0], [52.0, 50.0], [10.0, 12.0]], dtype=torch.float64)
    mixed = precision_of([Picks(xy, merit)], [truth], [5.0])
    assert mixed.average_precision == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)
    assert (mixed.precision, mixed.recall) == (pytest.approx(2 / 3), 0.5)
    assert precision_of([right], [truth + 20.0], [5.0]).average_precision == 0.0
    empty = Picks(torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0))
    assert precision_of([empty], [truth], [5.0]).f1 == 0.0
    two = precision_of([right, empty], [truth, truth], [5.0, 5.0])
    assert two.average_precision == pytest.approx(0.5)


def test_targets_mark_the_centres():
    target = centre_target(torch.tensor([[20.0, 8.0], [30.5, 31.5]]), (40, 48))
    assert target.shape == (40, 48)
    assert float(target[8, 20]) == 1.0
    assert float(target[31, 30]) == float(target[32, 31]) < 1.0
    assert float(centre_target(torch.zeros(0, 2), (8, 8)).max()) == 0.0


def test_patches_show_particles_where_the_target_says():
    """Averaged over many patches, the picture is dark at the target's spots, whatever turn or scale was drawn."""
    field = planted(3, noise=0.3)
    inside, outside = [], []
    for number in range(12):
        channels, target = draw_patch(field, generator_for(number, "patch"), 96)
        assert channels.shape == (3, 96, 96)
        assert torch.isfinite(channels).all()
        if bool((target > 0.8).any()):
            inside.append(float(channels[0][target > 0.8].mean()))
            outside.append(float(channels[0][target < 0.01].mean()))
    assert len(inside) > 8
    assert np.mean(np.array(inside) < np.array(outside) - 0.5) > 0.9


def test_an_empty_copy_keeps_the_power_and_nothing_of_the_particles_or_artefacts():
    field = planted(3)
    empty = without_particles(field, generator_for(1, "empty"))
    again = without_particles(field, generator_for(1, "empty"))
    torch.testing.assert_close(empty.image, again.image, atol=0, rtol=0)
    assert empty.xy_in_pixels.shape == (0, 2)
    before, after = (torch.fft.rfft2(f.image).abs() for f in (field, empty))
    torch.testing.assert_close(after, before, atol=1e-2, rtol=1e-3)
    both = torch.stack([field.image.flatten(), empty.image.flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.1
    dirty = replace(field, image=field.image.clone(), labels=field.labels.clone())
    dirty.labels[:60, :60] = LABELS["contamination"]
    dirty.image[:60, :60] -= 50.0
    clean = without_particles(dirty, generator_for(1, "empty"))
    assert float(clean.image.std()) < 1.2 * float(field.image.std())
    assert int(clean.labels.sum()) == 0


def test_some_patches_of_a_crowded_field_hold_nothing():
    field = planted(4, count=40)
    empty = [not bool(draw_patch(field, generator_for(n, "share"), 96)[1].any()) for n in range(80)]
    assert 4 <= sum(empty) <= 24


@pytest.fixture(scope="module")
def barrel():
    return specimen_from_phantom(phantom("barrel"))


def test_simulated_fields_have_dark_particles_at_their_labels(barrel):
    fields = list(simulate_fields([barrel], 4, 7, side=160))
    again = list(simulate_fields([barrel], 4, 7, side=160))
    differences = []
    for field, same in zip(fields, again, strict=True):
        torch.testing.assert_close(field.image, same.image, atol=0, rtol=0)
        assert field.diameter_in_angstroms == 2 * barrel.radius_in_angstroms
        x, y = field.xy_in_pixels.round().long().unbind(-1)
        assert bool((field.labels[y, x] != LABELS["carbon"]).all())
        good = field.labels == 0
        spots = centre_target(field.xy_in_pixels, (160, 160)) > 0.002  # a third of the diameter around each
        if int((spots & good).sum()) > 50:
            level, spread = field.image[good].mean(), field.image[good].std()
            differences.append(float((level - field.image[spots & good].mean()) / spread))
    assert differences
    assert min(differences) > 0.05


def test_particles_under_contamination_count_where_it_is_thin(barrel, monkeypatch):
    """The same fields with a film so thick that nothing shows, and one so thin that all does."""
    from cryoprism.microscope.contamination import Obstacle
    from cryoprism.particles import _training_fields

    def film(transmission):
        def made(scene, diameter, generator):
            half = torch.zeros(scene.shape)
            half[:, : scene.shape[1] // 2] = 1.0
            return Obstacle(torch.zeros(scene.shape), 1.0 - half * (1.0 - transmission), half)

        return made

    found = {}
    for transmission in (0.97, 0.5):
        monkeypatch.setattr(_training_fields, "_small_crystals", film(transmission))
        fields = list(simulate_fields([barrel], 4, 7, side=160))
        left = [int((field.xy_in_pixels[:, 0].round() < 80).sum()) for field in fields]
        right = [int((field.xy_in_pixels[:, 0].round() >= 80).sum()) for field in fields]
        found[transmission] = sum(left), sum(right)
    assert found[0.97][0] > 10
    assert found[0.5][0] == 0
    assert found[0.97][1] == found[0.5][1]


def test_crowded_fields_hold_more_than_spheres_could(barrel):
    from cryoprism.particles._training_fields import _interlocking

    packed = _interlocking(barrel)
    assert 0.8 < packed.radius_in_angstroms / barrel.radius_in_angstroms < 1.0
    assert packed.model is barrel.model
    fields = list(simulate_fields([barrel], 12, 3, side=200))
    area = [len(f.xy_in_pixels) * 0.25 * math.pi * 28**2 / 200**2 for f in fields]
    assert max(area) > 0.5
    assert min(area) < 0.3


def test_nothing_like_ferritin_is_trained_on(tmp_path):
    assert {"4oyn", "6z6u"} <= set(EXCLUDED)
    (tmp_path / "4OYN.pdb").write_text("not even read")
    with pytest.raises(InputError, match="no structure"):
        load_specimens(tmp_path)


def average_precision(picker, fields):
    return precision_on_fields(picker, fields).average_precision


def test_a_few_clicks_teach_a_picker_another_contrast():
    """White particles, which the shipped weights never saw: twelve clicks out of 44 particles make them found."""
    picker = load_picker()
    before = weights_of(picker)
    fields = [planted(20 + i, sign=-1.0) for i in range(2)]
    test = [planted(30 + i, sign=-1.0) for i in range(2)]
    clicked = [
        ClickedMicrograph(image=f.image, pixel_size_in_angstroms=PIXEL, clicks=f.xy_in_pixels[:6], transfer=TRANSFER)
        for f in fields
    ]
    adapted = adapt(picker, clicked, diameter_in_angstroms=DIAMETER, expected_count=22, steps=40, batch=2)
    assert average_precision(adapted, test) > average_precision(picker, test) + 0.3
    assert "12 clicks" in adapted.notes["adapted"]
    torch.testing.assert_close(weights_of(picker), before, atol=0, rtol=0)
    # The threshold that comes with it finds about as many as were said to be there.
    threshold = float(adapted.notes["threshold"])
    found = 0
    for field in test:
        score = adapted.score(field.image, PIXEL, diameter_in_angstroms=DIAMETER, transfer=TRANSFER)
        found += len(score.picks(60.0, threshold, pixel_size_in_angstroms=PIXEL))
    assert 30 <= found <= 60
    assert "calibration" not in adapted.notes  # which was that of other scores


@pytest.mark.parametrize(
    ("clicks", "count", "words"),
    [(torch.zeros(0, 2), 10, "no clicks"), (torch.full((3, 2), 500.0), 10, "outside"), (torch.ones(3, 2), 0, "is 0")],
)
def test_clicks_that_cannot_be_are_refused(clicks, count, words):
    micrograph = ClickedMicrograph(image=torch.randn(120, 120), pixel_size_in_angstroms=PIXEL, clicks=clicks)
    with pytest.raises(InputError, match=words):
        adapt(load_picker(), [micrograph], diameter_in_angstroms=DIAMETER, expected_count=count)


def test_the_command_adapts_to_clicks(tmp_path, capsys):
    from cryoprism.cli import main

    names = []
    (tmp_path / "clicks").mkdir()
    for number in range(2):
        field = planted(40 + number, side=120, count=8)
        name = f"mic{number}.mrc"
        write_mrc(tmp_path / name, field.image, PIXEL)
        if number == 0:
            write_coordinates(tmp_path / "clicks" / "mic0.star", Coordinates(field.xy_in_pixels.double()))
        names.append(name)
    star = (
        "data_optics\n\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n"
        "_rlnAmplitudeContrast\n_rlnMicrographPixelSize\nog1 1 300 2.7 0.1 4.5\n\n"
        "data_micrographs\n\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n" + "".join(f"{n} 1\n" for n in names)
    )
    (tmp_path / "micrographs.star").write_text(star)
    arguments = ["train-picker", "--adapt", str(tmp_path / "micrographs.star"), "--coordinates"]
    arguments += [str(tmp_path / "clicks"), "--diameter", "120", "--expected-count", "8", "--steps", "2"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--out", str(tmp_path / "out")])
    assert end.value.code == 0, capsys.readouterr().err
    assert "8 on 1 micrographs" in capsys.readouterr().out
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    assert job["notes"]["sha256"] in (tmp_path / "out" / "picker.md").read_text()
    assert "8 clicks" in load_picker(tmp_path / "out" / "picker.safetensors").notes["adapted"]
    with pytest.raises(SystemExit) as end:
        main(["train-picker", "--diameter", "120", "--out", str(tmp_path / "other")])
    assert end.value.code == 2
    assert "--adapt" in capsys.readouterr().err
