"""What loading particles for a search of poses refuses, and what it blames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cryoprism.core import InputError
from cryoprism.formats import Particles, write_stack
from cryoprism.workflow.particles.data import load_particles

BOX, PIXEL, COUNT = 32, 3.0, 6


def table(folder: Path) -> Particles:
    """Six images of noise from two micrographs; the stack is not written."""
    ones = torch.ones(COUNT, dtype=torch.float64)
    return Particles(
        image_names=tuple(f"{i + 1:06d}@noise.mrcs" for i in range(COUNT)),
        micrograph_names=("a", "b") * (COUNT // 2),
        pixel_size_in_angstroms=PIXEL * ones,
        voltage_in_kilovolts=300 * ones,
        spherical_aberration_in_millimeters=2.7 * ones,
        amplitude_contrast=0.1 * ones,
        defocus=torch.stack([1e4 * ones, 1e4 * ones, 0 * ones], -1),
        source=str(folder / "p.star"),
    )


@pytest.mark.parametrize(
    ("diameter", "pixel", "scaled_box", "words"),
    [
        (0.001, PIXEL, None, r"^--diameter: 0.001 Å is less than six pixels of 3 Å.*pixel size"),
        (0.001, PIXEL, 16, r"^--diameter: 0.001 Å"),
        (60.0, 30.0, None, r"^--diameter: 60 Å is less than six pixels of 30 Å.*--pixel-size"),
        (60.0, PIXEL, 8, r"^--scale: 8 pixels make them 12 Å wide, and a particle of 60 Å needs six.*Raise"),
        (60.0, PIXEL, 64, r"^--scale: 64 pixels is more than the images' 32"),
    ],
)
def test_too_coarse_pixels_are_blamed_on_what_was_given(
    tmp_path: Path, diameter: float, pixel: float, scaled_box: int | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        load_particles(table(tmp_path), BOX, pixel, diameter_in_angstroms=diameter, scaled_box=scaled_box)


def test_an_empty_half_is_named_before_images_are_read(tmp_path: Path) -> None:
    """There is no stack to read."""
    all_in_two = replace(table(tmp_path), half_set=torch.full((COUNT,), 2))
    with pytest.raises(InputError, match=r"p\.star: rlnRandomSubset gives half sets of 0 and 6 particles\. Delete"):
        load_particles(all_in_two, BOX, PIXEL, diameter_in_angstroms=60.0)


def test_a_half_set_that_is_none_is_named_by_its_row(tmp_path: Path) -> None:
    half = torch.tensor([1, 2, 1, 3, 2, 1])
    with pytest.raises(InputError, match=r"p\.star: rlnRandomSubset is 3 in row 4"):
        load_particles(replace(table(tmp_path), half_set=half), BOX, PIXEL, diameter_in_angstroms=60.0)


def test_copies_inside_one_half_are_left_out(tmp_path: Path) -> None:
    images = torch.randn(COUNT, BOX, BOX, generator=torch.Generator().manual_seed(1))
    images[5] = images[3]
    write_stack(tmp_path / "noise.mrcs", images, PIXEL)
    data = load_particles(table(tmp_path), BOX, PIXEL, diameter_in_angstroms=60.0)
    assert (len(data.particles), data.duplicates) == (COUNT - 1, 1)
