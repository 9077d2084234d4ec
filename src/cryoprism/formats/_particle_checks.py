"""Values of particle tables that cannot be: a voltage in volts, a defocus of half a millimetre, another box.

They would go through every later step without an error and come out as a map that shows nothing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from cryoprism.core import InputError

from .images import split_stack_name
from .mrc import MrcHeader, read_mrc_header
from .relion import resolve_name

if TYPE_CHECKING:
    from .particles import Particles

__all__ = ["require_plausible_particles"]

# Attribute, label in STAR and .cs files, bounds (those of the options), unit, remedy.
_BOUNDS: Final = (
    ("voltage_in_kilovolts", "rlnVoltage", "ctf/accel_kv", 20.0, 1500.0, " kV", "Write the voltage in kV."),
    ("spherical_aberration_in_millimeters", "rlnSphericalAberration", "ctf/cs_mm", 0.0, 20.0, " mm", "Write Cs in mm."),
    (
        "amplitude_contrast",
        "rlnAmplitudeContrast",
        "ctf/amp_contrast",
        0.0,
        math.nextafter(1.0, 0.0),
        "",
        "Write a fraction, usually 0.07 to 0.1.",
    ),
    (
        "pixel_size_in_angstroms",
        "the pixel size of the images (rlnImagePixelSize)",
        "blob/psize_A",
        0.05,
        50.0,
        " Å",
        "Write Å per pixel.",
    ),
    ("defocus", "rlnDefocusU or rlnDefocusV", "ctf/df1_A or ctf/df2_A", -1e6, 1e6, " Å", "Write the defocus in Å."),
)
# Images are binned, hardly ever sampled finer than the micrograph; super-resolution movies account for a factor of two.
_FINEST_OF_MICROGRAPH: Final = 0.4
# Calibration moves a pixel size by a few per cent; binning that one file knows and the other does not, by more.
_CALIBRATION: Final = 1.5


def require_plausible_particles(particles: Particles, *, pixel_size_given: bool = False) -> None:
    """Refuse values that no microscope has, and images that are not those that the table describes.

    Parameters
    ----------
    particles
        As read.
    pixel_size_given
        The user gave the pixel size: files are not asked about it.

    Raises
    ------
    InputError
        A voltage, Cs, amplitude contrast, pixel size or defocus is out of bounds, or the first stack of an optics group
        has another box or pixel size than the table says. It names column, row and value.
    """
    cs = particles.source.lower().endswith(".cs")
    for attribute, star_label, cs_label, low, high, unit, remedy in _BOUNDS:
        values: Tensor | None = getattr(particles, attribute)
        if values is None or (attribute == "pixel_size_in_angstroms" and pixel_size_given):
            continue
        # The angle of astigmatism is the third column.
        values = values[:, :2] if values.ndim == 2 else values[:, None]
        wrong = ~((values >= low) & (values <= high))
        if bool(wrong.any()):
            row, column = wrong.nonzero()[0].tolist()
            label = (cs_label if cs else star_label).split(" or ")
            upper = "below 1" if attribute == "amplitude_contrast" else f"{high:.7g}{unit}"
            raise InputError(
                particles.source,
                f"{label[column]} is {float(values[row, column]):.7g}{unit} for row {row + 1}; it has to lie between "
                f"{low:.7g} and {upper}",
                remedy,
            )
    if not pixel_size_given:
        _require_binned(particles)
    _require_described_stacks(particles, pixel_size_given, cs)


def _require_binned(particles: Particles) -> None:
    whole = particles.micrograph_pixel_size_in_angstroms
    if whole is None:
        return
    pixel = particles.pixel_size_in_angstroms
    wrong = (whole > 0) & (pixel < _FINEST_OF_MICROGRAPH * whole)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise InputError(
            particles.source,
            f"the images have {float(pixel[row]):g} Å per pixel for row {row + 1} (rlnImagePixelSize), the micrograph "
            f"they were cut from {float(whole[row]):g} Å (rlnMicrographPixelSize or rlnMicrographOriginalPixelSize)",
            "Correct the one that is wrong, or give --pixel-size.",
        )


def _require_described_stacks(particles: Particles, pixel_size_given: bool, cs: bool) -> None:
    """Compare the table with the header of the first stack of each optics group; whoever reads it says what ails it."""
    for row in _first_rows(particles):
        path = resolve_name(split_stack_name(particles.image_names[row])[1], Path(particles.source))
        header = _header(path)
        if header is None:
            continue
        side, told = header.shape[-1], None if particles.image_size is None else int(particles.image_size[row])
        if told is not None and told != side:
            raise InputError(
                particles.source,
                f"{'blob/shape' if cs else 'rlnImageSize'} is {told} for row {row + 1}, but the images in {path} are "
                f"{side} pixels wide",
                f"Write {side}, or name the stack that the table was made for.",
            )
        pixel, found = float(particles.pixel_size_in_angstroms[row]), header.pixel_size_in_angstroms
        # Exactly 1 Å often means that nobody set it.
        if pixel_size_given or not found or found == 1.0 or abs(math.log(found / pixel)) < math.log(_CALIBRATION):
            continue
        raise InputError(
            particles.source,
            f"the images have {pixel:g} Å per pixel for row {row + 1} ({'blob/psize_A' if cs else 'rlnImagePixelSize'})"
            f", but {found:.4g} Å by the header of {path}",
            "Correct the one that is wrong, or give --pixel-size.",
        )


def _first_rows(particles: Particles) -> list[int]:
    group = particles.optics_group
    if group is None:
        return [0] if len(particles) else []
    return [int((group == number).nonzero()[0, 0]) for number in torch.unique(group)]


def _header(path: Path) -> MrcHeader | None:
    try:
        return read_mrc_header(path) if path.is_file() else None
    except (InputError, OSError):
        return None
