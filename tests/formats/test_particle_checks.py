"""Particle tables whose values cannot be are refused with column, row, value and remedy."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoprism.core import InputError
from cryoprism.formats import read_particles, write_stack

OPTICS = {
    "rlnOpticsGroup": "1",
    "rlnVoltage": "300",
    "rlnSphericalAberration": "2.7",
    "rlnAmplitudeContrast": "0.1",
    "rlnImagePixelSize": "3",
    "rlnImageSize": "16",
    "rlnMicrographOriginalPixelSize": "1.5",
}


def written(folder: Path, *, header: float = 3.0, defocus: str = "12000", **changed: str) -> Path:
    """Write four images and their table, the defocus of the third row and columns of the optics table changed."""
    write_stack(folder / "s.mrcs", torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(0)), header)
    optics = OPTICS | changed
    labels = "".join(f"_{label}\n" for label in optics)
    rows = "".join(f"{i + 1}@s.mrcs {defocus if i == 2 else '11000'} 10500 20 1\n" for i in range(4))
    columns = "_rlnImageName\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n_rlnOpticsGroup\n"
    path = folder / "p.star"
    path.write_text(
        f"data_optics\n\nloop_\n{labels}{' '.join(optics.values())}\n\ndata_particles\n\nloop_\n{columns}{rows}\n"
    )
    return path


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rlnVoltage": "300000"}, "rlnVoltage is 300000 kV for row 1; .* 20 and 1500 kV.*in kV"),
        ({"rlnVoltage": "0.3"}, "rlnVoltage is 0.3 kV"),
        ({"rlnSphericalAberration": "2700"}, "rlnSphericalAberration is 2700 mm .*in mm"),
        ({"rlnAmplitudeContrast": "7"}, "rlnAmplitudeContrast is 7 .*a fraction"),
        ({"rlnAmplitudeContrast": "1"}, "rlnAmplitudeContrast is 1 .*below 1"),
        ({"defocus": "-5000000"}, "rlnDefocusU is -5000000 Å for row 3; .*1000000 Å"),
        ({"rlnImagePixelSize": "300"}, "rlnImagePixelSize.* is 300 Å for row 1; .*50 Å"),
        ({"rlnImagePixelSize": "0.3"}, "0.3 Å per pixel for row 1 .*rlnImagePixelSize.* 1.5 Å .*--pixel-size"),
        ({"rlnImagePixelSize": "30"}, r"30 Å per pixel for row 1 .*but 3 Å by the header of .*s\.mrcs"),
        ({"rlnImageSize": "8"}, r"rlnImageSize is 8 for row 1, but the images in .*s\.mrcs are 16 .*Write 16"),
    ],
)
def test_values_that_cannot_be_are_named(tmp_path: Path, changed: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=rf"p\.star: .*{words}"):
        read_particles(written(tmp_path, **changed))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"rlnVoltage": "100", "rlnSphericalAberration": "0.001", "rlnAmplitudeContrast": "0"},
        {"defocus": "-800"},
        {"rlnImagePixelSize": "3.1"},
        {"rlnMicrographOriginalPixelSize": "6"},
    ],
)
def test_unusual_values_pass(tmp_path: Path, changed: dict[str, str]) -> None:
    """Among them a calibrated pixel size and particles of super-resolution movies."""
    assert len(read_particles(written(tmp_path, **changed))) == 4


def test_a_header_that_nobody_set_is_not_asked(tmp_path: Path) -> None:
    assert len(read_particles(written(tmp_path, header=1.0))) == 4


def test_a_given_pixel_size_wins_over_both(tmp_path: Path) -> None:
    star = written(tmp_path, header=4.5, rlnImagePixelSize="0.3")
    assert read_particles(star, pixel_size_in_angstroms=2.0).pixel_size_in_angstroms.tolist() == [2.0] * 4


def test_a_stack_that_is_missing_or_damaged_is_left_to_its_reader(tmp_path: Path) -> None:
    star = written(tmp_path)
    (tmp_path / "s.mrcs").write_bytes(b"no stack")
    assert len(read_particles(star)) == 4
    (tmp_path / "s.mrcs").unlink()
    assert len(read_particles(star)) == 4


def test_fields_of_cryosparc_are_called_by_their_names(tmp_path: Path) -> None:
    names = ["blob/path", "blob/idx", "blob/psize_A", "ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast"]
    kinds = ["S8", "u4", "f4", "f4", "f4", "f4"]
    table = np.array([(b"s.mrcs", 0, 3.0, 300000.0, 2.7, 0.1)], dtype=list(zip(names, kinds, strict=True)))
    with (tmp_path / "p.cs").open("wb") as stream:
        np.save(stream, table)
    with pytest.raises(InputError, match=re.escape("ctf/accel_kv is 300000 kV for row 1")):
        read_particles(tmp_path / "p.cs")
