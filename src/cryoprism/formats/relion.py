"""RELION micrograph STAR files, 3.0 (no optics table) and 3.1 (``data_optics``), to and from the catalogue."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryoprism.core import CryoPrismWarning, InputError

from ._files import stem_of
from .catalogue import Overrides, header_pixel_size, no_pixel_size, text_mapping
from .images import format_of, read_image_info, split_stack_name
from .metadata import find_acquisition
from .records import Catalogue, CtfRecord, MicrographRecord, OpticsGroup
from .star import StarBlock, find_block, read_star, star_value, write_star

__all__ = ["catalogue_from_star", "portable_name", "resolve_name", "write_micrographs_star"]

PER_ROW_OPTICS = (
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnDetectorPixelSize",
    "rlnMagnification",
    "rlnMicrographPixelSize",
    "rlnMicrographOriginalPixelSize",
    "rlnPixelSize",
    "rlnMtfFileName",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    "rlnBeamTiltClass",
)
_TABLES = ("micrographs", "movies", "particles")


def resolve_name(name: str, star_file: Path) -> Path:
    """Find an image named in a STAR file: absolute, beside the STAR file, or under the current folder.

    The current folder is where RELION projects are run from. Where the file is in neither, the path beside the STAR
    file is returned.
    """
    path = Path(split_stack_name(name)[1])
    if path.is_absolute():
        return path
    beside = star_file.parent / path
    return path if not beside.exists() and path.exists() else beside


def _number(row: Mapping[str, str], label: str, where: str) -> float | None:
    text = row.get(label)
    if text is None or text == "None":
        return None
    try:
        value = float(text)
    except ValueError:
        raise InputError(where, f"{label} is '{text}'", "Write a number there.") from None
    if not math.isfinite(value):
        raise InputError(where, f"{label} is '{text}'", "Write a finite number there.")
    return value


def pixel_size_of(row: Mapping[str, str], where: str, *, of: str = "micrograph") -> float | None:
    """Return the pixel size [Å] of a ``micrograph``, ``movie`` or ``particle`` that a STAR row gives, or None.

    micrograph: ``rlnMicrographPixelSize``, ``rlnMicrographOriginalPixelSize``; movie: the same two, the original first;
    particle: ``rlnImagePixelSize``. Then for all ``rlnPixelSize``, then 10⁴ × ``rlnDetectorPixelSize`` [µm] /
    ``rlnMagnification``. ``rlnImagePixelSize`` belongs to (perhaps rescaled) particles and is never that of a
    micrograph.
    """
    first = {
        "micrograph": ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize", "rlnPixelSize"),
        "movie": ("rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize", "rlnPixelSize"),
        "particle": ("rlnImagePixelSize", "rlnPixelSize"),
    }[of]
    for label in first:
        value = _number(row, label, where)
        if value is not None and value > 0:
            return value
    detector = _number(row, "rlnDetectorPixelSize", where)
    magnification = _number(row, "rlnMagnification", where)
    if detector and magnification and detector > 0 and magnification > 0:
        return 1.0e4 * detector / magnification
    return None


def ctf_of(row: Mapping[str, str], where: str) -> CtfRecord | None:
    """Return the CTF that a STAR row gives, or None without ``rlnDefocusU``."""
    u = _number(row, "rlnDefocusU", where)
    if u is None:
        return None
    v = _number(row, "rlnDefocusV", where)
    return CtfRecord(
        defocus_u_in_angstroms=u,
        defocus_v_in_angstroms=u if v is None else v,
        defocus_angle_in_degrees=_number(row, "rlnDefocusAngle", where) or 0.0,
        phase_shift_in_degrees=_number(row, "rlnPhaseShift", where) or 0.0,
        figure_of_merit=_number(row, "rlnCtfFigureOfMerit", where),
        max_resolution_in_angstroms=_number(row, "rlnCtfMaxResolution", where),
        b_factor_in_square_angstroms=_number(row, "rlnCtfBfactor", where) or 0.0,
        scale_factor=1.0 if (scale := _number(row, "rlnCtfScalefactor", where)) is None else scale,
    )


def main_table(blocks: Sequence[StarBlock], file: Path) -> StarBlock:
    """Return the table of micrographs, movies or particles of a STAR file; an InputError where there is none."""
    candidates = [block for name in _TABLES if (block := find_block(blocks, name)) is not None]
    candidates += [block for block in blocks if block.name != "optics" and block not in candidates]
    for block in candidates:
        if "rlnMicrographName" in block or "rlnMicrographMovieName" in block:
            if not block.rows:
                raise InputError(
                    file, f"block data_{block.name} has no rows", "Give a STAR file with micrographs in it."
                )
            return block
    names = ", ".join(f"data_{block.name}" for block in blocks)
    raise InputError(
        file,
        f"no block ({names}) has rows with rlnMicrographName or rlnMicrographMovieName",
        "Give a STAR file of micrographs, movies or particles.",
    )


@dataclass(frozen=True)
class OpticsRows:
    """The rows of ``data_optics`` by rlnOpticsGroup, and whether there was such a table (RELION 3.1) or not (3.0)."""

    rows: dict[str, dict[str, str]]
    has_table: bool


def optics_rows_of(blocks: Sequence[StarBlock], table: StarBlock, file: Path) -> OpticsRows:
    """Rows of data_optics by their number, checked against the optics groups that ``table`` uses."""
    optics = find_block(blocks, "optics")
    if optics is None:
        if "rlnOpticsGroup" in table and "rlnVoltage" not in table:
            raise InputError(
                file,
                "rows name an rlnOpticsGroup but there is no data_optics block",
                "Add the data_optics block of the file that this one was made from.",
            )
        return OpticsRows({}, False)
    if not optics.rows:
        raise InputError(file, "block data_optics has no rows", "Add one row per optics group.")
    numbers = optics.column("rlnOpticsGroup")
    if len(set(numbers)) != len(numbers):
        raise InputError(
            file, "data_optics numbers two groups alike", "Give every optics group its own rlnOpticsGroup."
        )
    if "rlnOpticsGroup" not in table:
        if len(numbers) > 1:
            raise InputError(
                file,
                f"block data_{table.name} has no rlnOpticsGroup but data_optics has {len(numbers)} groups",
                "Add the column rlnOpticsGroup.",
            )
    else:
        unknown = sorted(set(table.column("rlnOpticsGroup")) - set(numbers))
        if unknown:
            raise InputError(
                file,
                f"rows use optics group {', '.join(unknown)} but data_optics has {', '.join(numbers)}",
                "Add the missing group to data_optics, or correct rlnOpticsGroup.",
            )
    return OpticsRows(dict(zip(numbers, optics.records(), strict=True)), True)


def catalogue_from_star(file: Path, overrides: Overrides) -> Catalogue:
    """Read a RELION 3.0 or 3.1 STAR file of micrographs, movies or particles; see :func:`read_catalogue`.

    From a particle file every micrograph is taken once, with the CTF of its first particle.
    """
    blocks = read_star(file)
    table = main_table(blocks, file)
    optics_rows = optics_rows_of(blocks, table, file)
    movies = "rlnMicrographName" not in table or table.name == "movies"
    label = "rlnMicrographMovieName" if movies and "rlnMicrographMovieName" in table else "rlnMicrographName"
    particles = "rlnImageName" in table or table.name == "particles"
    optics: dict[str, OpticsGroup] = {}
    group_names: dict[tuple[str, ...], str] = {}
    records: list[MicrographRecord] = []
    seen: set[str] = set()
    for number, row in enumerate(table.records(), 1):
        name = row[label]
        if particles:
            if name in seen:
                continue
            seen.add(name)
        path = resolve_name(name, file)
        where = f"{file}, row {number} of data_{table.name}"
        is_movie = movies or _is_movie(path)
        group = row.get("rlnOpticsGroup", next(iter(optics_rows.rows), ""))
        shared = optics_rows.rows.get(group, {}) if optics_rows.has_table else row
        key = (group,) if optics_rows.has_table else tuple(row.get(column, "") for column in PER_ROW_OPTICS)
        if key not in group_names:
            group_name = shared.get("rlnOpticsGroupName", f"opticsGroup{len(optics) + 1}")
            if group_name in optics:
                raise InputError(file, f"two optics groups are named '{group_name}'", "Give every group its own name.")
            group_names[key] = group_name
            optics[group_name] = _make_group(
                group_name, shared, row, path, is_movie, overrides, file, optics_rows.has_table, particles
            )
        records.append(
            MicrographRecord(
                name=stem_of(path),
                path=path,
                optics_group=group_names[key],
                ctf=ctf_of(row, where),
                exposure_in_electrons_per_square_angstrom=None,
                gain_file=_gain(row, file),
                is_movie=is_movie,
                extra=text_mapping({} if particles else row),
                acquisition=None if particles else find_acquisition(path),
            )
        )
    kept = tuple(block for block in blocks if block.name != "optics" and block is not table)
    return Catalogue(optics, tuple(records), str(file), kept)


def _gain(row: Mapping[str, str], file: Path) -> Path | None:
    name = row.get("rlnMicrographGainName")
    return None if name in (None, "", "None") else resolve_name(str(name), file)


def _is_movie(path: Path) -> bool:
    try:
        kind = format_of(path)
    except InputError:
        return False
    if kind == "eer":
        return True
    if kind == "raster" or not path.is_file():
        return False
    try:
        return read_image_info(path).frames > 1
    except InputError:  # one unreadable file must not stop the others: it is named when it is read
        return False


def _make_group(
    name: str,
    shared: Mapping[str, str],
    row: Mapping[str, str],
    path: Path,
    is_movie: bool,
    overrides: Overrides,
    file: Path,
    has_table: bool,
    particles: bool,
) -> OpticsGroup:
    where = f"{file}, optics group '{name}'"
    header = None
    pixel = overrides.pixel_size_in_angstroms
    if pixel is None:
        kind = "movie" if is_movie else "micrograph"
        # In RELION 3.0 the detector pixel and magnification of a particle row are those of the (perhaps rescaled)
        # particle.
        source = {k: v for k, v in shared.items() if not (particles and not has_table and k in _OF_PARTICLES)}
        pixel = pixel_size_of(source, where, of=kind)
        if path.is_file():
            try:
                header = read_image_info(path).pixel_size_in_angstroms
            except InputError:
                if pixel is None:
                    raise
        if pixel is None and header is not None:
            pixel = header_pixel_size(path)
        if pixel is None and particles and not has_table:
            pixel = pixel_size_of(shared, where, of="particle")
        if pixel is None:
            extra = " (rlnImagePixelSize is that of particles)" if "rlnImagePixelSize" in shared else ""
            raise no_pixel_size(where, f"neither the STAR file nor the image header gives a pixel size{extra}")
        if header is not None and header != 1.0 and abs(header / pixel - 1) > 0.01:
            warnings.warn(
                f"{where}: the STAR file gives {pixel:g} Å per pixel, the header of {path} {header:g}; "
                "the STAR file is believed. Correct one of them, or give --pixel-size.",
                CryoPrismWarning,
                stacklevel=2,
            )
    values: dict[str, float] = {}
    for label, option, given in (
        ("rlnVoltage", "--voltage (kV)", overrides.voltage_in_kilovolts),
        ("rlnSphericalAberration", "--cs (mm)", overrides.spherical_aberration_in_millimeters),
        ("rlnAmplitudeContrast", "--amplitude-contrast", overrides.amplitude_contrast),
    ):
        value = given if given is not None else _number(shared, label, where)
        value = value if value is not None else _number(row, label, where)
        if value is None:
            raise InputError(where, f"{label} is missing", f"Add the column {label}, or give {option}.")
        values[label] = value
    mtf = shared.get("rlnMtfFileName")
    mtf_path = None if mtf in (None, "", "None") else resolve_name(str(mtf), file)
    return OpticsGroup(
        name=name,
        voltage_in_kilovolts=values["rlnVoltage"],
        spherical_aberration_in_millimeters=values["rlnSphericalAberration"],
        amplitude_contrast=values["rlnAmplitudeContrast"],
        pixel_size_in_angstroms=pixel,
        mtf_file=overrides.mtf_file or mtf_path,
        extra=text_mapping(shared if has_table else {}),
    )


_OF_PARTICLES = ("rlnDetectorPixelSize", "rlnMagnification", "rlnPixelSize")


def write_micrographs_star(
    path: str | os.PathLike[str], catalogue: Catalogue, columns: Mapping[str, Sequence[object]] | None = None
) -> None:
    """Atomically write a RELION 3.1 STAR file (``data_optics``, ``data_micrographs``) for a catalogue.

    Every column and block of the input stands unchanged; ``columns`` (label to one value per micrograph, in the
    catalogue's order) replace or follow them. RELION 3.0's per-row optics move into ``data_optics``. Relative names
    that do not resolve from the current folder are written so that they do.

    Raises
    ------
    InputError
        A column has another length than the catalogue, or the file cannot be written.
    """
    target = Path(path)
    records = catalogue.micrographs
    groups = _numbered_groups(catalogue)
    optics = _optics_block(catalogue, groups, str(target))
    had_optics = any(group.extra for group in catalogue.optics.values())
    labels: dict[str, None] = {"rlnMicrographName": None}
    for record in records:
        labels.update(dict.fromkeys(record.extra))
    if not had_optics:
        for label in PER_ROW_OPTICS:
            labels.pop(label, None)
    labels["rlnOpticsGroup"] = None
    rows = []
    for record in records:
        values = {
            **dict.fromkeys(labels, "None"),
            **record.extra,
            "rlnMicrographName": portable_name(record.path),
            "rlnOpticsGroup": groups[record.optics_group],
        }
        if "rlnMicrographMovieName" in record.extra and record.is_movie:
            values["rlnMicrographMovieName"] = portable_name(record.path)
        rows.append(tuple(values[label] for label in labels))
    block = StarBlock("micrographs", tuple(labels), tuple(rows), True, str(target))
    block = block.with_columns(columns or {})
    others = [other for other in catalogue.extra_blocks if other.name not in ("optics", "micrographs")]
    write_star(target, [optics, block, *others])


def portable_name(path: Path) -> str:
    """Return the name by which RELION, run from the current folder, finds a file: relative below it, else absolute."""
    absolute = Path(os.path.abspath(path))
    try:
        return str(absolute.relative_to(Path.cwd()))
    except ValueError:
        return str(absolute)


def _numbered_groups(catalogue: Catalogue) -> dict[str, str]:
    kept = {name: group.extra.get("rlnOpticsGroup") for name, group in catalogue.optics.items()}
    numbers = [number for number in kept.values() if number]
    if len(numbers) == len(kept) and len(set(numbers)) == len(numbers):
        return {name: str(number) for name, number in kept.items()}
    return {name: str(index) for index, name in enumerate(catalogue.optics, 1)}


def _optics_block(catalogue: Catalogue, groups: Mapping[str, str], source: str) -> StarBlock:
    labels: dict[str, None] = dict.fromkeys(
        (
            "rlnOpticsGroupName",
            "rlnOpticsGroup",
            "rlnVoltage",
            "rlnSphericalAberration",
            "rlnAmplitudeContrast",
            "rlnMicrographPixelSize",
        )
    )
    for group in catalogue.optics.values():
        labels.update(dict.fromkeys(group.extra))
        if group.mtf_file is not None:
            labels["rlnMtfFileName"] = None
    rows = []
    for name, group in catalogue.optics.items():
        known = {
            "rlnOpticsGroupName": name,
            "rlnOpticsGroup": groups[name],
            "rlnVoltage": star_value(group.voltage_in_kilovolts),
            "rlnSphericalAberration": star_value(group.spherical_aberration_in_millimeters),
            "rlnAmplitudeContrast": star_value(group.amplitude_contrast),
            "rlnMicrographPixelSize": star_value(group.pixel_size_in_angstroms),
        }
        if group.mtf_file is not None:
            known["rlnMtfFileName"] = portable_name(group.mtf_file)
        rows.append(tuple({**dict.fromkeys(labels, "None"), **group.extra, **known}[label] for label in labels))
    return StarBlock("optics", tuple(labels), tuple(rows), True, source)
