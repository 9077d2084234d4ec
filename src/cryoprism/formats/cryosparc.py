"""CryoSPARC ``.cs`` files: numpy record arrays, joined with their passthrough by uid, brought to CryoPrism's own.

Conventions turned here: angles and phase shifts in radians, shapes as [y, x], poses as rotation vectors, paths that may
begin with ``>`` and are relative to the project's folder. Nothing pickled is ever loaded.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import recfunctions
from numpy.typing import NDArray
from torch import Tensor

from cryoprism.core import InputError, matrix_to_euler

from ._files import atomic_writer, existing_file, stem_of
from .catalogue import Overrides, header_pixel_size, no_pixel_size
from .images import format_of, read_image_info
from .metadata import find_acquisition
from .records import Catalogue, CtfRecord, MicrographRecord, OpticsGroup

__all__ = ["Locations", "catalogue_from_cs", "pose_to_euler", "read_cs", "write_locations"]

Table = NDArray[Any]


def read_cs(path: str | os.PathLike[str], passthrough: Sequence[str | os.PathLike[str]] = ()) -> Table:
    """Read a ``.cs`` file as a structured array; fields of the ``passthrough`` files are joined on by ``uid``.

    Raises
    ------
    InputError
        Not a .cs file, empty, without uid where a passthrough is to be joined, or a uid missing from the passthrough.
    """
    file = existing_file(path)
    try:
        table = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(
            file, f"is not a readable .cs file ({error})"[:300], "Copy it again from cryoSPARC."
        ) from error
    if not isinstance(table, np.ndarray) or not table.dtype.names or table.ndim != 1:
        raise InputError(file, "is not a table of records", "Give a .cs file as cryoSPARC writes it.")
    if table.size == 0:
        raise InputError(file, "has no rows", "Give a .cs file with something in it.")
    for other in passthrough:
        extra = read_cs(other)
        if "uid" not in table.dtype.names or "uid" not in (extra.dtype.names or ()):
            raise InputError(other, "cannot be joined: there is no uid", "Give the passthrough file of the same job.")
        order = np.argsort(extra["uid"])
        place = np.searchsorted(extra["uid"], table["uid"], sorter=order).clip(max=extra.size - 1)
        rows = order[place]
        if not np.array_equal(extra["uid"][rows], table["uid"]):
            raise InputError(other, "lacks some of the uids of the main file", "Give the passthrough of the same job.")
        fresh = [name for name in extra.dtype.names or () if name not in table.dtype.names]
        if fresh:
            table = recfunctions.merge_arrays([table, recfunctions.repack_fields(extra[fresh][rows])], flatten=False)
            table = _flatten(table)
    return np.asarray(table)


def _flatten(pair: Table) -> Table:
    parts = [pair[name] for name in pair.dtype.names or ()]
    fields = [(name, part.dtype[name]) for part in parts for name in part.dtype.names or ()]
    out = np.empty(pair.size, dtype=fields)
    for part in parts:
        for name in part.dtype.names or ():
            out[name] = part[name]
    return out


@dataclass(frozen=True)
class Locations:
    """Particles on one micrograph: (n, 2) x, y [pixels] from the first pixel, its (y, x) shape, name, pixel size [Å].

    ``score`` (n,) and the pixel size may be absent.
    """

    xy_in_pixels: Tensor
    micrograph: str
    micrograph_shape: tuple[int, int]
    score: Tensor | None = None
    pixel_size_in_angstroms: float | None = None


def write_locations(path: str | os.PathLike[str], locations: Sequence[Locations]) -> None:
    """Atomically write particle locations of any number of micrographs as a ``.cs`` file.

    Centres are fractions of width and height from the first pixel in the file (lower left as cryoSPARC draws MRC). A
    micrograph's uid is a checksum of its name, so that the same micrograph has the same uid in every file.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    names = [place.micrograph.encode() for place in locations]
    fields: list[Any] = [
        ("uid", "<u8"),
        ("location/micrograph_uid", "<u8"),
        ("location/exp_group_id", "<u4"),
        ("location/micrograph_path", f"S{max([1, *map(len, names)])}"),
        ("location/micrograph_shape", "<u4", (2,)),
        ("location/center_x_frac", "<f4"),
        ("location/center_y_frac", "<f4"),
    ]
    if locations and all(place.pixel_size_in_angstroms is not None for place in locations):
        fields.append(("location/micrograph_psize_A", "<f4"))
    if locations and all(place.score is not None for place in locations):
        fields.append(("pick_stats/ncc_score", "<f4"))
    table = np.zeros(sum(len(place.xy_in_pixels) for place in locations), dtype=fields)
    table["uid"] = np.arange(1, len(table) + 1)
    start = 0
    for place, name in zip(locations, names, strict=True):
        rows = table[start : start + len(place.xy_in_pixels)]
        start += len(rows)
        xy = place.xy_in_pixels.detach().cpu().double().numpy()
        rows["location/micrograph_uid"] = (zlib.crc32(name) << 32) | zlib.crc32(name[::-1])
        rows["location/micrograph_path"] = name
        rows["location/micrograph_shape"] = place.micrograph_shape
        rows["location/center_x_frac"] = xy[:, 0] / place.micrograph_shape[1]
        rows["location/center_y_frac"] = xy[:, 1] / place.micrograph_shape[0]
        if "location/micrograph_psize_A" in (table.dtype.names or ()):
            rows["location/micrograph_psize_A"] = place.pixel_size_in_angstroms
        if place.score is not None and "pick_stats/ncc_score" in (table.dtype.names or ()):
            rows["pick_stats/ncc_score"] = place.score.detach().cpu().numpy()
    with atomic_writer(Path(path)) as stream:
        np.save(stream, table, allow_pickle=False)


def text_of(value: object) -> str:
    """Return the text of a bytes or str field, without cryoSPARC's leading ``>``."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.rstrip("\x00").lstrip(">")


def pose_to_euler(pose: Tensor) -> Tensor:
    """CryoSPARC poses (n, 3) [rad] to RELION's Euler angles (n, 3) = rot, tilt, psi [degrees].

    A pose is a rotation vector e; RELION's matrix is exp(−[e]×), the transpose of the rotation by |e| about e. This is
    the convention of the widely used converter csparc2star.py (Asarnow, Palovcak & Cheng 2019, doi
    10.5281/zenodo.3576630).
    """
    vector = pose.double()
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    return torch.stack(matrix_to_euler(torch.linalg.matrix_exp(-cross)), -1)


def resolve_cs_path(name: str, cs_file: Path) -> Path:
    """Find a path of a .cs file: absolute, under the folder of the file or one of its parents, or the current folder.

    CryoSPARC writes paths relative to the project's folder, in which the .cs file lies one or two levels down.
    """
    path = Path(name)
    if path.is_absolute():
        return path
    home = cs_file.absolute().parent
    for folder in (home, *list(home.parents)[:3], Path.cwd()):
        if (folder / path).exists():
            return folder / path
    return home / path


_PREFIXES = ("micrograph_blob", "micrograph_blob_non_dw", "movie_blob")


def catalogue_from_cs(file: Path, overrides: Overrides) -> Catalogue:
    """Read a .cs file of micrographs, movies or particles; see :func:`cryoprism.formats.read_catalogue`.

    A file ``NAME_passthrough_…cs`` or ``passthrough_NAME.cs`` beside it is joined on where there is exactly one.
    """
    table = read_cs(file)
    names = table.dtype.names or ()
    if not any(f"{prefix}/path" in names for prefix in _PREFIXES):
        others = sorted(p for p in file.parent.glob("*passthrough*.cs") if p.absolute() != file.absolute())
        if len(others) == 1 and "uid" in names:
            table = read_cs(file, others)
            names = table.dtype.names or ()
    prefix = next((p for p in _PREFIXES if f"{p}/path" in names), None)
    if prefix is not None:
        column, pixel_field = f"{prefix}/path", f"{prefix}/psize_A"
    elif "location/micrograph_path" in names:
        column, pixel_field = "location/micrograph_path", "location/micrograph_psize_A"
    else:
        raise InputError(
            file,
            "names no micrographs (neither micrograph_blob/path nor location/micrograph_path)",
            "Give the .cs file of the micrographs, or put the passthrough file beside this one.",
        )
    optics: dict[tuple[float, ...], OpticsGroup] = {}
    records: list[MicrographRecord] = []
    seen: set[str] = set()
    for index in range(table.size):
        row = table[index]
        name = text_of(row[column])
        if name in seen:
            continue
        seen.add(name)
        path = resolve_cs_path(name, file)
        where = f"{file}, row {index + 1}"
        group = _optics_of(row, names, pixel_field, path, overrides, where)
        key = tuple(group[1:])
        if key not in optics:
            label = f"opticsGroup{len(optics) + 1}"
            optics[key] = OpticsGroup(label, *group[1:], mtf_file=overrides.mtf_file)
        gain = text_of(row["gain_ref_blob/path"]) if "gain_ref_blob/path" in names else ""
        dose = _field(row, names, "mscope_params/total_dose_e_per_A2")
        is_movie = prefix == "movie_blob" or _holds_frames(path)
        records.append(
            MicrographRecord(
                name=stem_of(path),
                path=path,
                optics_group=optics[key].name,
                ctf=_ctf_of(row, names),
                exposure_in_electrons_per_square_angstrom=dose if dose and dose > 0 else None,
                gain_file=resolve_cs_path(gain, file) if gain and is_movie else None,
                is_movie=is_movie,
                acquisition=find_acquisition(path),
            )
        )
    return Catalogue({group.name: group for group in optics.values()}, tuple(records), str(file))


def _holds_frames(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        return format_of(path) == "eer" or read_image_info(path).frames > 1
    except InputError:  # one unreadable file must not stop the others: it is named when it is read
        return False


def _field(row: Any, names: Sequence[str], *candidates: str) -> float | None:
    for name in candidates:
        if name in names:
            value = float(row[name])
            if np.isfinite(value):
                return value
    return None


def _optics_of(
    row: Any, names: Sequence[str], pixel_field: str, path: Path, overrides: Overrides, where: str
) -> tuple[str, float, float, float, float]:
    pixel = overrides.pixel_size_in_angstroms or _field(row, names, pixel_field, "mscope_params/psize_A")
    if not pixel and path.is_file():
        pixel = header_pixel_size(path)
    if not pixel:
        raise no_pixel_size(where, f"neither {pixel_field} nor the image header gives a pixel size")
    found = {
        "--voltage (kV)": overrides.voltage_in_kilovolts
        or _field(row, names, "ctf/accel_kv", "mscope_params/accel_kv"),
        "--cs (mm)": overrides.spherical_aberration_in_millimeters
        if overrides.spherical_aberration_in_millimeters is not None
        else _field(row, names, "ctf/cs_mm", "mscope_params/cs_mm"),
        "--amplitude-contrast": overrides.amplitude_contrast
        if overrides.amplitude_contrast is not None
        else _field(row, names, "ctf/amp_contrast"),
    }
    for option, value in found.items():
        if value is None:
            raise InputError(where, f"nothing gives what {option} means", f"Give {option}.")
    voltage, cs, contrast = (float(value) for value in found.values() if value is not None)
    return "", voltage, cs, contrast, round(float(pixel), 5)


def _ctf_of(row: Any, names: Sequence[str]) -> CtfRecord | None:
    u, v = _field(row, names, "ctf/df1_A"), _field(row, names, "ctf/df2_A")
    if u is None or v is None or (u == 0 and v == 0):
        return None
    degrees = 180 / np.pi
    return CtfRecord(
        defocus_u_in_angstroms=u,
        defocus_v_in_angstroms=v,
        defocus_angle_in_degrees=degrees * (_field(row, names, "ctf/df_angle_rad") or 0.0),
        phase_shift_in_degrees=degrees * (_field(row, names, "ctf/phase_shift_rad") or 0.0),
        figure_of_merit=_field(row, names, "ctf/cross_corr_ctffind4"),
        max_resolution_in_angstroms=_field(row, names, "ctf/ctf_fit_to_A"),
        b_factor_in_square_angstroms=_field(row, names, "ctf/bfactor") or 0.0,
        scale_factor=1.0 if (scale := _field(row, names, "ctf/scale")) is None else scale,
    )
