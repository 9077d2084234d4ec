"""Particle tables from RELION STAR (3.0, 3.1) and cryoSPARC, in RELION's angles and CryoPrism's units."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoprism.core import InputError

from .cryosparc import pose_to_euler, read_cs, text_of
from .relion import main_table, optics_rows_of, pixel_size_of
from .star import StarBlock, read_star

__all__ = ["Particles", "read_particles"]


@dataclass(frozen=True)
class Particles:
    """A table of n particles; a quantity that the file does not give is None.

    ``image_names`` are as in RELION (``000001@stack.mrcs``, from 1); ``angles_in_degrees`` (n, 3) = rot, tilt, psi;
    ``origins_in_angstroms`` (n, 2) = x, y as rlnOriginXAngst; ``coordinates_in_pixels`` (n, 2) = x, y on the
    micrograph; ``defocus`` (n, 3) = u [Å], v [Å], angle [degrees]; ``phase_shift_in_degrees`` (n,); ``half_set`` (n,) 1
    or 2; ``pixel_size_in_angstroms``, ``voltage_in_kilovolts``, ``spherical_aberration_in_millimeters`` and
    ``amplitude_contrast`` are (n,), the pixel size being that of the particle images. ``table`` is the STAR block as
    read.
    """

    image_names: tuple[str, ...]
    micrograph_names: tuple[str, ...] | None
    pixel_size_in_angstroms: Tensor
    voltage_in_kilovolts: Tensor
    spherical_aberration_in_millimeters: Tensor
    amplitude_contrast: Tensor
    angles_in_degrees: Tensor | None = None
    origins_in_angstroms: Tensor | None = None
    coordinates_in_pixels: Tensor | None = None
    defocus: Tensor | None = None
    phase_shift_in_degrees: Tensor | None = None
    half_set: Tensor | None = None
    source: str = ""
    table: StarBlock | None = None

    def __len__(self) -> int:
        """Return the number of particles."""
        return len(self.image_names)


def read_particles(
    path: str | os.PathLike[str],
    *,
    pixel_size_in_angstroms: float | None = None,
    passthrough: Sequence[str | os.PathLike[str]] = (),
) -> Particles:
    """Read particles from a RELION STAR file (3.0 or 3.1) or a cryoSPARC .cs file (with its ``passthrough`` files).

    RELION 3.0's origins (pixels) become Å. ``pixel_size_in_angstroms`` wins over the file.

    Raises
    ------
    InputError
        No particles, optics that are missing or do not match, no pixel size.
    """
    file = Path(path)
    if file.suffix.lower() == ".cs":
        return _from_cs(file, pixel_size_in_angstroms, passthrough)
    return _from_star(file, pixel_size_in_angstroms)


def _columns(block: StarBlock, *labels: str) -> Tensor | None:
    if not all(label in block for label in labels):
        return None
    return torch.from_numpy(np.stack([block.numbers(label) for label in labels], axis=1))


def _from_star(file: Path, override: float | None) -> Particles:
    blocks = read_star(file)
    block = next((b for b in blocks if "rlnImageName" in b), None)
    if block is None or not block.rows:
        main_table(blocks, file)
        raise InputError(file, "has no rows with rlnImageName", "Give a STAR file of particles.")
    optics = optics_rows_of(blocks, block, file)
    shared: list[Mapping[str, str]] = (
        [optics.rows[g] for g in block.column("rlnOpticsGroup")]
        if optics.has_table and "rlnOpticsGroup" in block
        else [next(iter(optics.rows.values()))] * len(block)
        if optics.has_table
        else list(block.records())
    )
    cache: dict[int, float] = {}

    def pixel_of(row: Mapping[str, str]) -> float:
        if override is not None:
            return override
        if id(row) not in cache:
            pixel = pixel_size_of(row, str(file), of="particle")
            if pixel is None:
                raise InputError(
                    file,
                    "gives no pixel size of the particle images (rlnImagePixelSize, rlnPixelSize, "
                    "or rlnDetectorPixelSize with rlnMagnification)",
                    "Add rlnImagePixelSize to data_optics, or give --pixel-size.",
                )
            cache[id(row)] = pixel
        return cache[id(row)]

    def per_row(label: str) -> Tensor:
        try:
            return torch.tensor([float(row[label]) for row in shared], dtype=torch.float64)
        except (KeyError, ValueError):
            raise InputError(file, f"{label} is missing or no number", f"Add {label} to the optics table.") from None

    pixel = torch.tensor([pixel_of(row) for row in shared], dtype=torch.float64)
    origins = _columns(block, "rlnOriginXAngst", "rlnOriginYAngst")
    if origins is None:
        pixels = _columns(block, "rlnOriginX", "rlnOriginY")
        origins = None if pixels is None else pixels * pixel[:, None]
    phase = _columns(block, "rlnPhaseShift")
    half = _columns(block, "rlnRandomSubset")
    return Particles(
        image_names=block.column("rlnImageName"),
        micrograph_names=block.column("rlnMicrographName") if "rlnMicrographName" in block else None,
        pixel_size_in_angstroms=pixel,
        voltage_in_kilovolts=per_row("rlnVoltage"),
        spherical_aberration_in_millimeters=per_row("rlnSphericalAberration"),
        amplitude_contrast=per_row("rlnAmplitudeContrast"),
        angles_in_degrees=_columns(block, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"),
        origins_in_angstroms=origins,
        coordinates_in_pixels=_columns(block, "rlnCoordinateX", "rlnCoordinateY"),
        defocus=_columns(block, "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"),
        phase_shift_in_degrees=None if phase is None else phase[:, 0],
        half_set=None if half is None else half[:, 0].long(),
        source=str(file),
        table=block,
    )


def _from_cs(file: Path, override: float | None, passthrough: Sequence[str | os.PathLike[str]]) -> Particles:
    table = read_cs(file, passthrough)
    names = table.dtype.names or ()
    if "blob/path" not in names or "blob/idx" not in names:
        raise InputError(file, "names no particle images (blob/path, blob/idx)", "Give a .cs file of particles.")

    def field(name: str, scale: float = 1.0) -> Tensor | None:
        return torch.from_numpy(table[name].astype(np.float64) * scale) if name in names else None

    def required(name: str) -> Tensor:
        value = field(name)
        if value is None:
            raise InputError(file, f"has no field {name}", "Join the passthrough file that holds it.")
        return value

    pixel = torch.full((table.size,), override, dtype=torch.float64) if override else required("blob/psize_A")
    pose = field("alignments3D/pose")
    shift = field("alignments3D/shift")
    shift_pixel = field("alignments3D/psize_A")
    degrees = 180 / np.pi
    u, v, angle = field("ctf/df1_A"), field("ctf/df2_A"), field("ctf/df_angle_rad", degrees)
    shape = field("location/micrograph_shape")
    x, y = field("location/center_x_frac"), field("location/center_y_frac")
    split = field("alignments3D/split")
    return Particles(
        image_names=tuple(
            f"{int(row['blob/idx']) + 1:06d}@{text_of(row['blob/path'])}" for row in table[["blob/path", "blob/idx"]]
        ),
        micrograph_names=tuple(text_of(name) for name in table["location/micrograph_path"])
        if "location/micrograph_path" in names
        else None,
        pixel_size_in_angstroms=pixel,
        voltage_in_kilovolts=required("ctf/accel_kv"),
        spherical_aberration_in_millimeters=required("ctf/cs_mm"),
        amplitude_contrast=required("ctf/amp_contrast"),
        angles_in_degrees=None if pose is None else pose_to_euler(pose),
        origins_in_angstroms=None
        if shift is None
        else shift * (pixel if shift_pixel is None else shift_pixel)[:, None],
        coordinates_in_pixels=None
        if shape is None or x is None or y is None
        else torch.stack([x * shape[:, 1], y * shape[:, 0]], -1),
        defocus=None if u is None or v is None or angle is None else torch.stack([u, v, angle], -1),
        phase_shift_in_degrees=field("ctf/phase_shift_rad", degrees),
        half_set=None if split is None else split.long() + 1,
        source=str(file),
    )
