from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from cryoprism.core import InputError
from cryoprism.synthesis.translation import TranslationSettings, load_translator, save_translator, train_translator


@pytest.fixture(scope="module")
def translator(fields, small):
    return replace(train_translator(*fields, replace(small, rate=5e-3)).translator, strength=0.75)


def test_a_saved_translation_is_the_same(fields, translator, tmp_path):
    field = fields[1][0]
    file = tmp_path / "translation.safetensors"
    digest = save_translator(file, translator)
    loaded = load_translator(file)
    options = {"gain": field.gain, "pixel_size_in_angstroms": 1.5}
    before = translator.translate(field.image, field.clean, field.mask, **options)
    assert torch.equal(before, loaded.translate(field.image, field.clean, field.mask, **options))
    assert not torch.equal(before, field.image)
    assert loaded.settings == translator.settings
    assert loaded.strength == 0.75
    assert loaded.notes["data"] == translator.notes["data"]
    assert "standard deviations" in loaded.notes["units"]
    assert save_translator(tmp_path / "again.safetensors", loaded) == digest
    assert torch.equal(loaded.to("cpu").translate(field.image, field.clean, field.mask, **options), before)


def test_files_that_are_no_translations(translator, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_translator(tmp_path / "absent.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, other)
    with pytest.raises(InputError, match="no format"):
        load_translator(other)
    other.write_text("text")
    with pytest.raises(InputError, match="no safetensors file"):
        load_translator(other)


def test_an_empty_match_set(fields, small):
    with pytest.raises(InputError, match="real micrographs: there are none"):
        train_translator([], fields[1], small)
    with pytest.raises(InputError, match="synthetic micrographs: there are none"):
        train_translator(fields[0], [], small)


def test_an_image_smaller_than_a_patch(fields, small):
    real = replace(fields[0][0], image=fields[0][0].image[:40])
    with pytest.raises(InputError, match=r"real0: has 40 × 96 pixels.*48 × 48.*smaller patch"):
        train_translator([real], fields[1], small)


def test_mixed_pixel_sizes(fields, small):
    synthetic = replace(fields[1][0], pixel_size_in_angstroms=1.2)
    with pytest.raises(InputError, match=r"synthetic0: has a pixel size of 1.2 Å.*one pixel size"):
        train_translator(fields[0], [synthetic], small)


def test_shapes_and_flat_images(fields, small):
    with pytest.raises(InputError, match="same shape"):
        train_translator(fields[0], [replace(fields[1][0], mask=torch.zeros(3, 3))], small)
    with pytest.raises(InputError, match="real0: its grey values have a standard deviation of 0"):
        train_translator([replace(fields[0][0], image=torch.zeros(96, 96))], fields[1], small)


def test_a_micrograph_that_cannot_be_translated(fields, translator):
    field = fields[1][0]
    with pytest.raises(InputError, match=r"trained at 1\.5 Å"):
        translator.translate(field.image, field.clean, field.mask, gain=1.0, pixel_size_in_angstroms=3.0)
    with pytest.raises(InputError, match="one shape"):
        translator.translate(field.image, field.clean[1:], field.mask, gain=1.0, pixel_size_in_angstroms=1.5)
    small = torch.zeros(4, 4)
    with pytest.raises(InputError, match="at least"):
        translator.translate(small, small, small, gain=1.0, pixel_size_in_angstroms=1.5)


@pytest.mark.parametrize(
    "changes", [{"mode": "gan"}, {"patch": 31}, {"steps": 0}, {"contrast_weight": -1.0}, {"encoder": ()}, {"rate": 2.0}]
)
def test_settings_that_cannot_be_used(changes):
    with pytest.raises(InputError, match="Give"):
        TranslationSettings.compact(**changes)
