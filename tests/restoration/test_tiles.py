"""Tiled views against whole ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cryoprism.causes import estimate_causes, fitted_spectrum, measure_spectrum
from cryoprism.core import InputError, frequency_grid, generator_for, irfft2, rfft2
from cryoprism.microscope.optics import Lens, contrast_transfer
from cryoprism.restoration import artefact_mask, find_defects, restore_view, restore_view_in_tiles


def micrograph(size: int = 1024) -> torch.Tensor:
    generator = generator_for(1, "tiles")
    ky, kx = frequency_grid((size, size), 2.0)
    ctf = contrast_transfer(ky, kx, Lens(), defocus_u_in_angstroms=15000.0, defocus_v_in_angstroms=15000.0)
    envelope = torch.exp(-60 * (ky**2 + kx**2)) * 3
    signal = irfft2(rfft2(torch.randn(size, size, generator=generator)) * ctf * envelope, (size, size))
    return signal + torch.randn(size, size, generator=generator) + 50


def test_tiles_agree_with_the_whole_and_show_no_seams() -> None:
    image = micrograph()
    before = image.clone()
    model = fitted_spectrum(estimate_causes(measure_spectrum(image, 2.0), Lens()))
    defects, artefacts = find_defects(image), artefact_mask(image, 2.0)
    whole = restore_view(image, model, defects=defects, artefacts=artefacts)
    tiled = restore_view_in_tiles(image, model, (640, 640), defects=defects, artefacts=artefacts)
    assert torch.equal(image, before)
    assert tiled.view.shape == image.shape
    inner = (slice(40, -40), slice(40, -40))
    both = torch.stack([whole.view[inner].flatten(), tiled.view[inner].flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.98
    # A seam would be a step between neighbouring columns in the middle of the blend.
    difference = (tiled.view - whole.view)[40:-40]
    steps = (difference[:, 1:] - difference[:, :-1]).square().mean(0)
    assert float(steps[380:640].max()) < 8 * float(steps[40:-40].median()) + 1e-6
    assert torch.equal(tiled.mask, whole.mask)


def test_a_tile_smaller_than_its_overlaps_is_refused() -> None:
    image = micrograph(512)
    defects, artefacts = find_defects(image), artefact_mask(image, 2.0)
    model = fitted_spectrum(estimate_causes(measure_spectrum(image, 2.0), Lens()))
    with pytest.raises(InputError, match="tile"):
        restore_view_in_tiles(image, replace(model), (300, 300), defects=defects, artefacts=artefacts)
