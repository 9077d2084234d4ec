import json
import math

import pytest
import torch

from cryoprism.core import InputError, generator_for
from cryoprism.synthesis.noise import NoiseFit, add_noise, fit_noise
from cryoprism.synthesis.realism import (
    REAL_AGAINST_REAL,
    MicrographSet,
    compare_realism,
    gallery,
    kernel_distance,
    patch_statistics,
    spectrum_distance,
    two_sample_auc,
)

SIDE = 384


def _coloured(seed, softness=0.0, count=3, side=SIDE, scale=1.0):
    """Noise whose amplitude falls with frequency, a little differently in each micrograph."""
    images = []
    for number in range(count):
        generator = generator_for(seed, "coloured", number)
        ky, kx = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)
        own = softness + 0.1 * float(torch.rand((), generator=generator))
        amplitude = 1 / (1 + own * 40 * (ky * ky + kx * kx))
        white = torch.randn(side, side, generator=generator)
        images.append(scale * torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(side, side)) + 7)
    return MicrographSet(images, 1.5, name=f"set {seed}")


DISTANCES = {
    "spectrum": spectrum_distance,
    "rings": lambda a, b: spectrum_distance(a, b, rotational=True),
    "statistics": lambda a, b: patch_statistics(a, b)[0],
    "kernel": kernel_distance,
}


@pytest.mark.parametrize("measure", DISTANCES)
def test_distances_are_zero_within_error_for_one_origin_and_grow_with_the_difference(measure):
    distance = DISTANCES[measure]
    real = _coloured(1, 0.1, count=4)
    same, near, far = (distance(real, _coloured(2, s, count=4)) for s in (0.1, 0.3, 0.9))
    assert same.low <= 0 <= same.high
    assert same.low <= same.value <= same.high
    assert near.low > 0
    assert far.value > near.high > same.value
    assert distance(real, _coloured(2, 0.3, count=4)) == near


def test_distance_of_spectra_is_the_ratio_in_decibels():
    ky, kx = torch.fft.fftfreq(SIDE)[:, None], torch.fft.rfftfreq(SIDE)
    # Two decibels between two halves of the plane, scales taken away: the mean square of ±1 dB about their mean.
    step = torch.where(ky.abs() + 0 * kx > 0.25, 10**0.1, 1.0)
    made = [
        [
            torch.fft.irfft2(
                torch.fft.rfft2(torch.randn(SIDE, SIDE, generator=generator_for(3, f, number))) * f, s=(SIDE, SIDE)
            )
            for number in range(5)
        ]
        for f in (torch.ones(()), step)
    ]
    value = spectrum_distance(*[MicrographSet(images, 1.0) for images in made])
    expected = 20 * math.log10(10**0.1)
    mean = 10 * math.log10((10**0.2 + 1) / 2)
    assert value.value == pytest.approx(math.sqrt(0.5 * ((expected - mean) ** 2 + mean**2)), rel=0.06)


def test_intervals_of_distances_cover():
    hits = 0
    for seed in range(12):
        measure = spectrum_distance(_coloured(50 + seed, 0.1, 5), _coloured(80 + seed, 0.1, 5), rotational=True)
        hits += measure.low <= 0 <= measure.high
    assert hits >= 10


def test_scale_and_offset_do_not_count():
    a, b = _coloured(1, 0.1), _coloured(2, 0.1)
    louder = MicrographSet([500 - 30 * image for image in b.images], 1.5)
    assert spectrum_distance(a, louder).value == pytest.approx(spectrum_distance(a, b).value, abs=1e-3)


def test_skewness_is_named():
    real = _coloured(1)
    skewed = MicrographSet([(0.3 * image).exp() for image in _coloured(2).images], 1.5)
    _, differences = patch_statistics(real, skewed)
    assert differences["skewness"] > 10
    assert abs(differences["mean"]) < 5


def test_classifier_tells_white_from_coloured_noise_and_not_one_process_from_itself():
    real, white = _coloured(1, 0.3), _coloured(3, 0.0)
    giveaway = two_sample_auc(real, white, trainings=1, steps=25)
    assert giveaway.value > 0.95
    assert giveaway.high >= giveaway.value >= giveaway.low
    assert len(giveaway.parts) == 3
    assert giveaway == two_sample_auc(real, white, trainings=1, steps=25)
    itself = two_sample_auc(_coloured(1, 0.1, 4), _coloured(2, 0.1, 4), trainings=1, steps=20)
    assert itself.low <= 0.5 <= itself.high
    assert abs(itself.value - 0.5) < 0.25


def test_dark_debris_and_masked_regions_do_not_count():
    real, other = _coloured(1, 0.1), _coloured(2, 0.1)
    clean = spectrum_distance(real, other, rotational=True)
    dirty, weights = [], []
    for image in other.images:
        image, weight = image.clone(), torch.ones_like(image)
        image[:64, :64] -= 40
        weight[:64, :64] = 0
        dirty.append(image)
        weights.append(weight)
    masked = spectrum_distance(real, MicrographSet(dirty, 1.5, weights), rotational=True)
    unmasked = spectrum_distance(real, MicrographSet(dirty, 1.5), rotational=True)
    assert masked.value == pytest.approx(clean.value, abs=0.3)
    assert unmasked.value > masked.high
    _, differences = patch_statistics(real, MicrographSet(dirty, 1.5, weights))
    assert abs(differences["deviation"]) < 4


def test_rows_are_compared_with_real_against_real_and_written_plainly():
    rows, advantages = compare_realism(_coloured(1), {"white": _coloured(3)}, _coloured(2), trainings=1, steps=2)
    assert not advantages
    assert list(rows) == ["white", REAL_AGAINST_REAL]
    record = json.loads(json.dumps(rows["white"].to_json()))
    assert set(record["two_sample_auc"]) == {"value", "low", "high", "count", "parts"}
    assert record["kernel_distance"]["count"] == 2 * 3 * 9
    assert "skewness" in record["patch_statistics"]
    with pytest.raises(InputError, match="name of the real row"):
        compare_realism(_coloured(1), {REAL_AGAINST_REAL: _coloured(3)}, _coloured(2))


def test_advantage_is_the_difference_of_the_squared_distances_and_sharper_than_their_intervals():
    real, near, far = _coloured(1, 0.1, 4), _coloured(2, 0.25, 4), _coloured(2, 0.4, 4)
    rows, advantages = compare_realism(real, {"near": near, "far": far}, None, trainings=1, steps=12, ours="near")
    assert list(advantages) == ["far"]
    found = advantages["far"]
    for name in ("spectrum", "rotational_spectrum", "patch"):
        here, there = (getattr(rows[row], name) for row in ("near", "far"))
        advantage = getattr(found, name)
        assert advantage.value == pytest.approx(there.value**2 - here.value**2, rel=1e-6), name
        assert advantage.low > 0, name
        # Intervals of squares of either one, as if nothing were common to them.
        apart = math.hypot(there.high**2 - there.value**2, here.high**2 - here.value**2)
        assert advantage.high - advantage.value < apart, name
    assert found.kernel.value == pytest.approx(rows["far"].kernel.value - rows["near"].kernel.value, rel=1e-6)
    assert found.auc.parts == tuple(f - n for f, n in zip(rows["far"].auc.parts, rows["near"].auc.parts, strict=True))
    swapped = compare_realism(real, {"near": near, "far": far}, None, trainings=1, steps=12, ours="far")[1]["near"]
    assert swapped.spectrum.value == pytest.approx(-found.spectrum.value)
    assert swapped.auc.value == pytest.approx(-found.auc.value)


def test_a_set_has_no_advantage_over_itself():
    near = _coloured(2, 0.25)
    _, advantages = compare_realism(
        _coloured(1, 0.1), {"ours": near, "again": near}, None, trainings=1, steps=4, ours="ours"
    )
    for measure in vars(advantages["again"]).values():
        assert measure.value == pytest.approx(0, abs=1e-9)
        assert measure.low <= 1e-9
        assert measure.high >= -1e-9
    with pytest.raises(InputError, match="pairs"):
        compare_realism(
            _coloured(1), {"ours": near, "more": _coloured(3, 0, 4)}, None, trainings=1, steps=1, ours="ours"
        )


def test_gallery_holds_both_and_the_answer():
    real = MicrographSet([im + 0 for im in _coloured(1).images], 1.5)
    ramp = torch.arange(SIDE).float().expand(SIDE, SIDE)
    shown = gallery(real, MicrographSet([ramp, ramp], 1.5), generator_for(0, "gallery"), side_in_pixels=128)
    assert shown.patches.shape == (12, 128, 128)
    assert 0 < int(shown.is_real.sum()) < 12
    smooth = (shown.patches[:, 0] - shown.patches[:, 1]).abs().amax(1) < 1e-6
    assert torch.equal(~smooth, shown.is_real)
    with pytest.raises(InputError, match="below 500 pixels"):
        gallery(real, real, generator_for(0, "gallery"), side_in_pixels=500)


@pytest.mark.parametrize(
    ("images", "pixel", "weights", "found"),
    [
        ([], 1.5, None, "holds 0 micrographs"),
        ([torch.randn(200, 200)], 1.5, None, "holds 1 micrographs"),
        ([torch.randn(200, 100)] * 2, 1.5, None, "has the shape"),
        ([torch.randn(200, 200)] * 2, [1.0, 1.5], None, "from 1 to 1.5 Å"),
        ([torch.randn(200, 200)] * 2, [1.0], None, "1 pixel sizes for 2"),
        ([torch.randn(200, 200)] * 2, 0.0, None, "pixel size 0"),
        ([torch.zeros(200, 200)] * 2, 1.0, None, "flat"),
        ([torch.randn(200, 200)] * 2, 1.0, [None], "1 weights for 2"),
        ([torch.randn(200, 200)] * 2, 1.0, [None, torch.ones(3, 3)], "weight"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(images, pixel, weights, found):
    with pytest.raises(InputError, match=found) as caught:
        MicrographSet(images, pixel, weights, "some")
    assert caught.value.where.startswith("some")
    assert caught.value.remedy


@pytest.mark.parametrize("measure", [two_sample_auc, spectrum_distance, patch_statistics, kernel_distance])
def test_sets_of_different_pixel_sizes_are_refused(measure):
    other = MicrographSet(_coloured(2).images, 2.0, name="other")
    with pytest.raises(InputError, match="pixels of") as caught:
        measure(_coloured(1), other)
    assert "Resample" in caught.value.remedy


def test_nothing_but_contamination_is_refused():
    hidden = MicrographSet(_coloured(1).images, 1.5, [torch.zeros(SIDE, SIDE)] * 3)
    with pytest.raises(InputError, match="ordinary field"):
        patch_statistics(hidden, hidden)


def test_noise_has_the_skewness_and_kurtosis_that_were_fitted():
    power = 0.06 / (1 + 8 * (torch.fft.fftfreq(512)[:, None] ** 2 + torch.fft.rfftfreq(512) ** 2))
    fit = NoiseFit(
        mean=10.0,
        gain=2.0,
        power=power,
        variance=float(power.mean()),
        electrons=math.inf,
        field_deviation=0.0,
        skewness=0.08,
        kurtosis=0.05,
    )
    clean = torch.zeros(1000, 1000)
    image = add_noise("matched", fit, clean, pixel_size_in_angstroms=1.5, seed=0, name="skewed")
    again = fit_noise(image, clean, 2.0, pixel_size_in_angstroms=1.5)
    assert again.skewness == pytest.approx(0.08, abs=0.012)
    assert again.kurtosis == pytest.approx(0.05, abs=0.025)
    assert again.variance == pytest.approx(fit.variance, rel=0.05)


def test_noise_is_weaker_where_it_is_darker():
    power = torch.full((512, 257), 0.05)
    fit = NoiseFit(mean=0.0, gain=1.0, power=power, variance=0.05, electrons=25.0, field_deviation=0.0)
    clean = torch.zeros(600, 600)
    clean[:300] = -0.2
    noise = add_noise("matched", fit, clean, pixel_size_in_angstroms=1.5, seed=0, name="dark") - clean
    # 25 electrons: 0.04 of the variance 0.05 are theirs, and a fifth of them is missing.
    assert float(noise[:300].var() / noise[300:].var()) == pytest.approx(1 - 0.2 * 0.8, abs=0.02)
