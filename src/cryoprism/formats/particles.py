"""Particle tables from RELION STAR (3.0, 3.1) and cryoSPARC, in RELION's angles and CryoPrism's units."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoprism.core import InputError

from ._particle_checks import require_plausible_particles
from .cryosparc import pose_to_euler, read_cs, text_of
from .relion import main_table, optics_rows_of, pixel_size_of
from .star import StarBlock, find_block, read_star

__all__ = ["Particles", "read_particles"]


@dataclass(frozen=True)
class Particles:
    """A table of n particles; a quantity that nobody gave is None. ``dataclasses.replace`` changes columns.

    Attributes
    ----------
    image_names
        As in RELION: ``000001@stack.mrcs``, counted from 1.
    micrograph_names
        Micrograph of each particle.
    pixel_size_in_angstroms, voltage_in_kilovolts, spherical_aberration_in_millimeters, amplitude_contrast
        (n,) float64; the pixel size is that of the particle images.
    angles_in_degrees
        (n, 3) = rot, tilt, psi.
    origins_in_angstroms
        (n, 2) = x, y as rlnOriginXAngst: the shift that brings the particle to the centre of its image.
    coordinates_in_pixels
        (n, 2) = x, y on the micrograph.
    defocus
        (n, 3) = u [Å], v [Å], angle [degrees].
    phase_shift_in_degrees
        (n,)
    half_set
        (n,) 1 or 2.
    source
        File that relative names refer to, and that errors name.
    table, optics_table
        STAR blocks as read: what is not a field here is kept for writing.
    optics_group
        (n,) rlnOpticsGroup.
    beam_tilt_in_milliradians
        (n, 2) = x, y.
    image_size
        (n,) side of the images [pixels].
    micrograph_pixel_size_in_angstroms
        (n,) pixel size that ``coordinates_in_pixels`` refer to.
    ctf_b_factor_in_square_angstroms, ctf_scale
        (n,) the CTF is multiplied by scale · exp(-B k²/4).
    class_number
        (n,) from 1.
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
    optics_table: StarBlock | None = None
    optics_group: Tensor | None = None
    beam_tilt_in_milliradians: Tensor | None = None
    image_size: Tensor | None = None
    micrograph_pixel_size_in_angstroms: Tensor | None = None
    ctf_b_factor_in_square_angstroms: Tensor | None = None
    ctf_scale: Tensor | None = None
    class_number: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of particles."""
        return len(self.image_names)

    def subset(self, indices: Sequence[int] | Tensor) -> Particles:
        """Return the particles at ``indices`` (positions from 0, in this order) or where a boolean mask is True."""
        chosen = torch.as_tensor(indices)
        chosen = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen.long()
        positions = chosen.tolist()
        changed: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = value[chosen]
            elif isinstance(value, tuple):
                changed[field.name] = tuple(value[i] for i in positions)
        if self.table is not None:
            changed["table"] = replace(self.table, rows=tuple(self.table.rows[i] for i in positions))
        return replace(self, **changed)  # type: ignore[arg-type]


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
        No particles, optics that are missing or do not match, no pixel size, values that cannot be (voltage, Cs,
        amplitude contrast, defocus, pixel size), or a stack with another box or pixel size than the table says.
    """
    file = Path(path)
    particles = (
        _from_cs(file, pixel_size_in_angstroms, passthrough)
        if file.suffix.lower() == ".cs"
        else _from_star(file, pixel_size_in_angstroms)
    )
    require_plausible_particles(particles, pixel_size_given=pixel_size_in_angstroms is not None)
    return particles


def _columns(block: StarBlock, *labels: str) -> Tensor | None:
    if not all(label in block for label in labels):
        return None
    values = np.stack([block.numbers(label) for label in labels], axis=1)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise InputError(
            block.source,
            f"{labels[column]} is {values[row, column]:g} in row {row + 1} of data_{block.name}",
            "Write a finite number there, or delete the row.",
        )
    return torch.from_numpy(values)


def _column(block: StarBlock, label: str) -> Tensor | None:
    values = _columns(block, label)
    return None if values is None else values[:, 0]


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

    def pixel_of(row: Mapping[str, str]) -> float:
        pixel = override if override is not None else pixel_size_of(row, str(file), of="particle")
        if pixel is None:
            raise InputError(
                file,
                "gives no pixel size of the particle images (rlnImagePixelSize, rlnPixelSize, "
                "or rlnDetectorPixelSize with rlnMagnification)",
                "Add rlnImagePixelSize to data_optics, or give --pixel-size.",
            )
        return pixel

    def per_group(value_of: Callable[[Mapping[str, str]], float]) -> Tensor:
        known = {id(row): row for row in shared}
        values = {key: value_of(row) for key, row in known.items()}
        return torch.tensor([values[id(row)] for row in shared], dtype=torch.float64)

    def required(label: str) -> Tensor:
        def value_of(row: Mapping[str, str]) -> float:
            try:
                value = float(row[label])
            except (KeyError, ValueError):
                value = math.nan
            if not math.isfinite(value):
                raise InputError(file, f"{label} is missing or no number", f"Add {label} to the optics table.")
            return value

        return per_group(value_of)

    def optional(label: str) -> Tensor | None:
        return None if any(row.get(label, "None") == "None" for row in shared) else required(label)

    pixel = per_group(pixel_of)
    origins = _columns(block, "rlnOriginXAngst", "rlnOriginYAngst")
    if origins is None:
        pixels = _columns(block, "rlnOriginX", "rlnOriginY")
        origins = None if pixels is None else pixels * pixel[:, None]
    half, group, class_number = (
        None if (column := _column(block, label)) is None else column.long()
        for label in ("rlnRandomSubset", "rlnOpticsGroup", "rlnClassNumber")
    )
    tilt_x, tilt_y, size = optional("rlnBeamTiltX"), optional("rlnBeamTiltY"), optional("rlnImageSize")
    original = optional("rlnMicrographOriginalPixelSize")
    return Particles(
        image_names=block.column("rlnImageName"),
        micrograph_names=block.column("rlnMicrographName") if "rlnMicrographName" in block else None,
        pixel_size_in_angstroms=pixel,
        voltage_in_kilovolts=required("rlnVoltage"),
        spherical_aberration_in_millimeters=required("rlnSphericalAberration"),
        amplitude_contrast=required("rlnAmplitudeContrast"),
        angles_in_degrees=_columns(block, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"),
        origins_in_angstroms=origins,
        coordinates_in_pixels=_columns(block, "rlnCoordinateX", "rlnCoordinateY"),
        defocus=_columns(block, "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"),
        phase_shift_in_degrees=_column(block, "rlnPhaseShift"),
        half_set=half,
        source=str(file),
        table=block,
        optics_table=find_block(blocks, "optics") if optics.has_table else None,
        optics_group=group,
        beam_tilt_in_milliradians=None if tilt_x is None or tilt_y is None else torch.stack([tilt_x, tilt_y], -1),
        image_size=None if size is None else size.long(),
        micrograph_pixel_size_in_angstroms=optional("rlnMicrographPixelSize") if original is None else original,
        ctf_b_factor_in_square_angstroms=_column(block, "rlnCtfBfactor"),
        ctf_scale=_column(block, "rlnCtfScalefactor"),
        class_number=class_number,
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
    split, group, size = field("alignments3D/split"), field("ctf/exp_group_id"), field("blob/shape")
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
        optics_group=None if group is None else group.long(),
        image_size=None if size is None else size[:, 0].long(),
        micrograph_pixel_size_in_angstroms=field("location/micrograph_psize_A"),
        ctf_b_factor_in_square_angstroms=field("ctf/bfactor"),
        ctf_scale=field("ctf/scale"),
    )
