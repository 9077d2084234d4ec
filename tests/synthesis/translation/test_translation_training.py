import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryoprism.core import InputError
from cryoprism.synthesis.translation import (
    TRANSLATION_MODES,
    TranslationSettings,
    band_shares,
    query_points,
    similarity_maps,
    train_translator,
)
from cryoprism.synthesis.translation.fields import draw_batch, prepare
from cryoprism.synthesis.translation.losses import patch_nce
from cryoprism.synthesis.translation.networks import Discriminator, Generator
from cryoprism.synthesis.translation.sampling import Positions
from cryoprism.synthesis.translation.strength import best_strength
from cryoprism.synthesis.translation.training import _Trainer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "structure"))
from pretended_device import DEVICE, pretended_device


def weights_of(trained) -> list[torch.Tensor]:
    translator = trained.translator
    return [*translator.generator.state_dict().values(), *translator.heads.state_dict().values()]


def translated(translator, field, **changes) -> torch.Tensor:
    options = {"gain": field.gain, "pixel_size_in_angstroms": field.pixel_size_in_angstroms, "name": field.name}
    return translator.translate(field.image, field.clean, field.mask, **(options | changes))


@pytest.fixture(scope="module")
def trained(fields, small):
    # Fast, so that the toy's residual is not small.
    settings = replace(small, steps=40, rate=5e-3, memory=0.5)
    found = train_translator(*fields, settings)
    return replace(found, translator=replace(found.translator, strength=1.0))


def test_the_start_is_the_identity(fields, small):
    untrained = train_translator(*fields, small, stop_after=0).translator
    torch.testing.assert_close(translated(untrained, fields[1][0]), fields[1][0].image, rtol=0, atol=0)


def test_the_residual_of_a_trained_network_keeps_the_signal(fields, trained):
    for field in fields[1]:
        residual = translated(trained.translator, field) - field.image
        assert float(residual.std()) > 0.001 * float(field.image.std())
        share = band_shares(residual / field.gain, field.clean, bands=trained.translator.settings.bands)
        assert float(share.abs().max()) < 2e-3
    assert set(trained.losses) == {"discriminator", "adversarial", "contrast", "signal", "statistics"}
    assert len(trained.losses["contrast"]) == 40


def test_the_strength_scales_the_residual(fields, trained):
    field = fields[1][0]
    none, half = (translated(replace(trained.translator, strength=s), field) for s in (0.0, 0.5))
    torch.testing.assert_close(none, field.image, rtol=0, atol=0)
    torch.testing.assert_close(2 * half - none, translated(trained.translator, field), rtol=1e-5, atol=1e-3)


def test_as_much_is_added_as_brings_patches_nearer():
    generator = torch.Generator().manual_seed(0)
    white, more, other = (torch.randn(120, 32, 32, generator=generator) for _ in range(3))
    # What lacks is half of the second noise; all of it is too much, and noise of its own kind improves nothing.
    real = torch.randn(120, 32, 32, generator=generator) * 1.25**0.5
    assert best_strength(real, white, more)[0] == 0.5
    strength, distances = best_strength(other, white, more)
    assert strength == 0
    assert distances[0.0] < 0.05 < distances[1.0]


def test_what_is_judged_is_what_is_added(fields, small, monkeypatch):
    """A residual that is a copy of the particles would not be added: nothing of it is judged."""
    trainer = _Trainer(small, torch.device("cpu"))
    monkeypatch.setattr(trainer.average.generator, "forward", lambda image, conditions: 3 * conditions[:, :1])
    seen = []
    monkeypatch.setattr(
        "cryoprism.synthesis.translation.training.best_strength", lambda *a: seen.append(a[2]) or (1.0, {})
    )
    trainer.strength(prepare(*fields, small.patch))
    (judged,) = seen
    centred = judged - judged.mean((1, 2), keepdim=True)
    assert judged.shape == (8, 48, 48)
    assert float(centred.abs().max()) < 1e-3


def test_the_statistics_alone_teach_the_spectrum_and_the_deviation(fields, small):
    settings = replace(
        small, steps=120, rate=5e-3, memory=0.9, batch=4, adversarial_weight=0.0, contrast_weight=0.0, judged=40
    )
    found = train_translator(*fields, settings).losses["statistics"]
    assert sum(found[-20:]) < 0.5 * sum(found[:20])


def test_inputs_are_not_changed_and_the_same_seed_gives_the_same_micrograph(fields, trained):
    field = fields[1][0]
    before = field.image.clone()
    first = translated(trained.translator, field)
    assert torch.equal(field.image, before)
    assert torch.equal(first, translated(trained.translator, field))
    assert not torch.equal(first, translated(trained.translator, field, seed=1))


@pytest.mark.parametrize("shape", [(96, 96), (83, 95)])
def test_the_size_of_the_tiles_does_not_show(fields, trained, shape):
    field = fields[1][0]
    cut = replace(
        field,
        image=field.image[: shape[0], : shape[1]],
        clean=field.clean[: shape[0], : shape[1]],
        mask=field.mask[: shape[0], : shape[1]],
    )
    whole = translated(trained.translator, cut, tile=512)
    for tile in (16, 34, 64):
        torch.testing.assert_close(translated(trained.translator, cut, tile=tile), whole, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("mode", ["cryoprism", "cut", "cyclegan"])
def test_a_resumed_training_comes_to_the_same_weights(fields, small, mode, tmp_path):
    settings = replace(small, mode=mode)
    straight = train_translator(*fields, settings)
    file = tmp_path / "state.pt"
    train_translator(*fields, settings, checkpoint=file, stop_after=3)
    lines: list[str] = []
    resumed = train_translator(*fields, settings, checkpoint=file, progress=lines.append)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(straight), weights_of(resumed), strict=True))
    assert straight.losses == resumed.losses
    assert "step 6 of 6" in lines[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_checkpoint_of_other_settings_or_a_broken_one_is_not_used(fields, small, tmp_path):
    file = tmp_path / "state.pt"
    train_translator(*fields, small, checkpoint=file, stop_after=2)
    other = replace(small, seed=1)
    from_other = train_translator(*fields, other, checkpoint=file)
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights_of(from_other), weights_of(train_translator(*fields, other)), strict=True)
    )
    file.write_bytes(b"not a state")
    assert len(train_translator(*fields, small, checkpoint=file).losses["contrast"]) == 6


def test_mixed_precision_trains(fields, small, monkeypatch):
    # On the CPU it is only tried out here: it saves nothing there.
    monkeypatch.setattr(_Trainer, "_precision", lambda self: torch.autocast("cpu", torch.bfloat16))
    for mode in TRANSLATION_MODES:
        found = train_translator(*fields, replace(small, mode=mode, steps=2))
        assert all(math.isfinite(loss) for losses in found.losses.values() for loss in losses)
        assert all(weight.dtype == torch.float32 for weight in weights_of(found))


def test_places_that_count_little_are_left_out(fields):
    real, synthetic = fields
    weight = torch.zeros(96, 96)
    weight[:48, :48] = 1
    marked = [replace(real[0], image=torch.where(weight > 0, real[0].image, 1e4), weight=weight)]
    batch = draw_batch(prepare(marked, synthetic, 32), 4, 32, seed=0, step=0)
    assert float(batch.real.abs().max()) < 10
    with pytest.raises(InputError, match="free of contamination"):
        prepare([replace(marked[0], weight=torch.zeros(96, 96))], synthetic, 32)


def test_the_receptive_field_is_that_of_a_particle():
    with torch.enable_grad():
        _check_receptive_field(Generator())


def _check_receptive_field(generator):
    torch.nn.init.ones_(generator.head.weight)
    image = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    generator(image)[0, 0, 64, 64].backward()
    rows = torch.nonzero(image.grad[0, 0].abs().sum(1) > 0)[:, 0]
    extent = int(rows.max() - rows.min()) + 1
    assert 60 <= extent <= 100
    assert max(64 - int(rows.min()), int(rows.max()) - 64) <= generator.margin + 1


def test_the_discriminator_scores_places_and_the_whole():
    images = torch.randn(5, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    real, synthetic = Discriminator()(images[:2], images[2:])
    assert [tuple(scores.shape) for scores in (*real, *synthetic)] == [(2, 6, 6), (2,), (3, 6, 6), (3,)]
    assert all(bool((scores == 0.5).all()) for scores in (*real, *synthetic))


def test_a_place_is_most_like_itself(fields, trained):
    field = fields[1][0]
    generator = torch.Generator().manual_seed(0)
    xy = torch.cat([query_points(field.mask, 3, generator, particle=side) for side in (True, False)])
    assert [float(field.mask[int(y), int(x)]) for x, y in xy] == [1, 1, 1, 0, 0, 0]
    found = similarity_maps(trained.translator, field.image, field.image, xy)
    assert found.maps.shape == (6, 96, 96)
    for one, (x, y) in zip(found.maps, xy.long().tolist(), strict=True):
        assert float(one[y, x]) == pytest.approx(1, abs=1e-5)
        assert float(one.max()) <= 1
    tiled = similarity_maps(trained.translator, field.image, field.image, xy, tile=24)
    torch.testing.assert_close(tiled.maps, found.maps, rtol=0, atol=1e-4)
    with pytest.raises(InputError, match="outside"):
        similarity_maps(trained.translator, field.image, field.image, torch.tensor([[96.0, 3.0]]))
    with pytest.raises(InputError, match="layer"):
        similarity_maps(trained.translator, field.image, field.image, xy, layer=7)
    with pytest.raises(InputError, match="background"):
        query_points(torch.ones(4, 4), 1, generator, particle=False)


def test_presets_are_of_two_sizes():
    compact, gpu = TranslationSettings.compact(), TranslationSettings.gpu(seed=3)
    assert compact.device == "cpu"
    assert gpu.device == "cuda"
    assert gpu.seed == 3
    assert gpu.width > compact.width
    assert TranslationSettings.from_dict(gpu.to_dict()) == gpu


@pytest.mark.parametrize("mode", TRANSLATION_MODES)
def test_training_on_another_device_comes_to_the_same(fields, small, mode, monkeypatch):
    settings = replace(small, mode=mode, steps=3)
    here = train_translator(*fields, settings)
    monkeypatch.setattr("cryoprism.synthesis.translation.training.resolve_device", lambda name: DEVICE)
    with pretended_device():
        there = train_translator(*fields, settings)
    for name, losses in here.losses.items():
        assert there.losses[name] == pytest.approx(losses, rel=1e-4), name
    assert there.translator.strength == here.translator.strength


def test_groups_of_positions_count_alike_whatever_their_size(fields, small):
    trainer = _Trainer(small, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    after, before = (
        [torch.randn(3, small.width, 6, 6, generator=generator) for _ in range(trainer.half.generator.layers)]
        for _ in range(2)
    )

    def some(count: int) -> torch.Tensor:
        return torch.randperm(36, generator=generator)[:count]

    positions = [
        Positions(((some(5), some(7)), (some(7), some(5)))),
        Positions(((some(9), None),)),
        Positions(((some(5), some(7)), (some(3), some(7)))),
    ]
    each = []
    for layer, (a, b) in enumerate(zip(after, before, strict=True)):
        for place, chosen in enumerate(positions):
            for queries, negatives in chosen.groups:
                one, other = (trainer.half.heads(layer, x[place].flatten(1).T) for x in (a, b))
                against = None if negatives is None else other[negatives]
                each.append(patch_nce(one[queries], other[queries], against, temperature=small.temperature))
    torch.testing.assert_close(trainer._contrast(after, before, positions), torch.stack(each).mean())
