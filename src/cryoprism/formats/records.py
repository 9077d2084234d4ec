"""The typed catalogue that every reader of metadata fills and every other room works from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cryoprism.core import InputError

__all__ = ["Acquisition", "Catalogue", "CtfRecord", "MicrographRecord", "OpticsGroup"]

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class OpticsGroup:
    """What all micrographs of one optics group share.

    ``pixel_size_in_angstroms`` is that of the micrograph as stored. ``extra`` holds every column of the input's optics
    row as text, so that it can be written back as it came.
    """

    name: str
    voltage_in_kilovolts: float
    spherical_aberration_in_millimeters: float
    amplitude_contrast: float
    pixel_size_in_angstroms: float
    mtf_file: Path | None = None
    extra: Mapping[str, str] = field(default_factory=lambda: _NOTHING)

    def __post_init__(self) -> None:
        """Refuse values that no microscope has."""
        where = f"optics group '{self.name}'"
        checks = (
            ("voltage [kV]", self.voltage_in_kilovolts, 1.0, 5000.0, "Give --voltage in kV, for example 300."),
            ("Cs [mm]", self.spherical_aberration_in_millimeters, -100.0, 100.0, "Give --cs in mm, for example 2.7."),
            ("amplitude contrast", self.amplitude_contrast, 0.0, 1.0, "Give a fraction, for example 0.1."),
            ("pixel size [Å]", self.pixel_size_in_angstroms, 1e-3, 1e4, "Give --pixel-size in Å."),
        )
        for label, value, low, high, remedy in checks:
            if not (math.isfinite(value) and low <= value <= high):
                raise InputError(where, f"{label} is {value}", remedy)


@dataclass(frozen=True)
class CtfRecord:
    """A CTF estimate: underfocus positive, the angle of ``u`` counter-clockwise from x with the row index as +y."""

    defocus_u_in_angstroms: float
    defocus_v_in_angstroms: float
    defocus_angle_in_degrees: float
    phase_shift_in_degrees: float = 0.0
    figure_of_merit: float | None = None
    max_resolution_in_angstroms: float | None = None
    b_factor_in_square_angstroms: float = 0.0
    scale_factor: float = 1.0


@dataclass(frozen=True)
class Acquisition:
    """What the microscope's own software noted for one exposure (SerialEM mdoc, EPU XML); None where it said nothing.

    ``target_defocus_in_angstroms`` is positive for underfocus, whatever the sign in the file.
    """

    file: Path
    program: str
    voltage_in_kilovolts: float | None = None
    pixel_size_in_angstroms: float | None = None
    exposure_in_electrons_per_square_angstrom: float | None = None
    target_defocus_in_angstroms: float | None = None
    tilt_in_degrees: float | None = None
    magnification: float | None = None
    spherical_aberration_in_millimeters: float | None = None
    frames: int | None = None
    gain_file: str | None = None
    date: str | None = None


@dataclass(frozen=True)
class MicrographRecord:
    """One micrograph or movie.

    ``name`` is unique within a catalogue and names the outputs; ``optics_group`` is a key of ``Catalogue.optics``;
    ``extra`` holds every column of the input's row as text.
    """

    name: str
    path: Path
    optics_group: str
    ctf: CtfRecord | None = None
    exposure_in_electrons_per_square_angstrom: float | None = None
    gain_file: Path | None = None
    is_movie: bool = False
    extra: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    acquisition: Acquisition | None = None


@dataclass(frozen=True)
class Catalogue:
    """All micrographs of one run, whatever format they came in.

    ``extra_blocks`` holds the blocks of a STAR file that CryoPrism does not use, to be written back as they came.
    """

    optics: Mapping[str, OpticsGroup]
    micrographs: tuple[MicrographRecord, ...]
    source: str
    extra_blocks: tuple[Any, ...] = ()

    def __len__(self) -> int:
        """Return the number of micrographs."""
        return len(self.micrographs)

    def __iter__(self) -> Iterator[MicrographRecord]:
        """Go through the micrographs in their order."""
        return iter(self.micrographs)

    def optics_of(self, record: MicrographRecord) -> OpticsGroup:
        """Return the optics group of a record of this catalogue."""
        return self.optics[record.optics_group]
