"""Particle tables out: RELION 3.1 STAR with ``data_optics`` and ``data_particles``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from cryoprism.core import InputError

from .images import read_image_info, split_stack_name
from .particles import Particles
from .relion import PER_ROW_OPTICS, portable_name, resolve_name
from .star import StarBlock, star_value, write_star

__all__ = ["write_particles"]

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
_OF_OPTICS = (*PER_ROW_OPTICS, "rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality", "rlnOpticsGroupName")


def write_particles(
    path: str | os.PathLike[str],
    particles: Particles,
    *,
    extra_columns: Mapping[str, Sequence[object]] | None = None,
) -> None:
    """Atomically write particles as RELION 3.1 STAR; :func:`read_particles` returns the same.

    Columns of ``particles.table`` and ``particles.optics_table`` that CryoPrism does not know stand unchanged; a known
    quantity that is None now is left out. Particles of one optics group that differ in their optics (a beam tilt
    fitted for some, two pixel sizes) get groups of their own. RELION 3.0's per-row optics and origins in pixels move to
    where 3.1 has them. Names that do not resolve from the current folder are written so that they do.

    Parameters
    ----------
    path
        The file to write; its folder must exist.
    particles
        At least one.
    extra_columns
        Label to one value per particle; they replace or follow the others.

    Raises
    ------
    InputError
        No particles, a column of another length, or the file cannot be written.
    """
    target = Path(path)
    count = len(particles)
    if count == 0:
        raise InputError(target, "there are no particles to write", "Keep at least one particle.")
    for name in ("angles_in_degrees", "origins_in_angstroms", "coordinates_in_pixels", "defocus", "half_set"):
        value = getattr(particles, name)
        if value is not None and len(value) != count:
            raise InputError(target, f"{name} holds {len(value)} rows for {count} particles", "Give one per particle.")
    numbers, optics = _optics(particles, str(target))
    known = _columns(particles)
    known["rlnOpticsGroup"] = numbers
    table = _without(particles.table or StarBlock("particles", (), ((),) * count), _stale(particles))
    table = replace(table, name="particles", is_loop=True, source=str(target))
    table = table.with_columns(known).with_columns(extra_columns or {})
    write_star(target, [optics, table])


def _list(values: Tensor | None) -> list[float] | None:
    return None if values is None else values.detach().cpu().tolist()


def _columns(particles: Particles) -> dict[str, Sequence[object]]:
    """Columns of data_particles that the fields give, by label."""
    columns: dict[str, Sequence[object]] = {}

    def put(labels: Sequence[str], values: Tensor | None) -> None:
        if values is not None:
            parts = values.detach().cpu().reshape(len(particles), len(labels)).T.tolist()
            columns.update(zip(labels, parts, strict=True))

    put(("rlnCoordinateX", "rlnCoordinateY"), particles.coordinates_in_pixels)
    columns["rlnImageName"] = _portable(particles.image_names, particles.source)
    if particles.micrograph_names is not None:
        columns["rlnMicrographName"] = _portable(particles.micrograph_names, particles.source)
    put(("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"), particles.defocus)
    put(("rlnPhaseShift",), particles.phase_shift_in_degrees)
    put(("rlnCtfBfactor",), particles.ctf_b_factor_in_square_angstroms)
    put(("rlnCtfScalefactor",), particles.ctf_scale)
    put(_ANGLES, particles.angles_in_degrees)
    put(_ORIGINS, particles.origins_in_angstroms)
    put(("rlnClassNumber",), None if particles.class_number is None else particles.class_number.long())
    put(("rlnRandomSubset",), None if particles.half_set is None else particles.half_set.long())
    return columns


def _stale(particles: Particles) -> set[str]:
    """Labels of the table as read that must not be written again beside (or without) the field they were read into."""
    groups: list[tuple[tuple[str, ...], object]] = [
        (("rlnCoordinateX", "rlnCoordinateY"), particles.coordinates_in_pixels),
        (("rlnMicrographName",), particles.micrograph_names),
        (("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"), particles.defocus),
        (("rlnPhaseShift",), particles.phase_shift_in_degrees),
        (("rlnCtfBfactor",), particles.ctf_b_factor_in_square_angstroms),
        (("rlnCtfScalefactor",), particles.ctf_scale),
        (_ANGLES, particles.angles_in_degrees),
        (_ORIGINS, particles.origins_in_angstroms),
        (("rlnClassNumber",), particles.class_number),
        (("rlnRandomSubset",), particles.half_set),
    ]
    have = set(() if particles.table is None else particles.table.labels)
    stale = {label for labels, value in groups if value is None and have.issuperset(labels) for label in labels}
    # What RELION 3.0 gives per row stands in the optics table from now on.
    return stale | {"rlnOriginX", "rlnOriginY"} | (set() if particles.optics_table is not None else set(_OF_OPTICS))


def _without(block: StarBlock, labels: set[str]) -> StarBlock:
    kept = [index for index, label in enumerate(block.labels) if label not in labels]
    return replace(
        block,
        labels=tuple(block.labels[i] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in block.rows),
    )


def _portable(names: Sequence[str], source: str) -> list[str]:
    """Names that RELION finds from the current folder; names of files that are not there stay as they are."""
    known: dict[str, str] = {}
    out = []
    for name in names:
        number, plain = split_stack_name(name)
        if plain not in known:
            path = resolve_name(plain, Path(source))
            known[plain] = portable_name(path) if not Path(plain).is_absolute() and path.is_file() else plain
        prefix = "" if number is None else name[: name.index("@") + 1]
        out.append(prefix + known[plain])
    return out


def _optics(particles: Particles, source: str) -> tuple[list[int], StarBlock]:
    """Optics group of every particle, and ``data_optics``: one group for every set of values that occurs."""
    sizes = particles.image_size
    known: dict[str, Sequence[float | None] | None] = {
        "rlnVoltage": _list(particles.voltage_in_kilovolts),
        "rlnSphericalAberration": _list(particles.spherical_aberration_in_millimeters),
        "rlnAmplitudeContrast": _list(particles.amplitude_contrast),
        "rlnImagePixelSize": _list(particles.pixel_size_in_angstroms),
        "rlnImageSize": _sizes(particles) if sizes is None else _list(sizes),
        "rlnMicrographOriginalPixelSize": _list(particles.micrograph_pixel_size_in_angstroms),
    }
    if particles.beam_tilt_in_milliradians is not None:
        known["rlnBeamTiltX"], known["rlnBeamTiltY"] = particles.beam_tilt_in_milliradians.T.tolist()
    columns = {label: values for label, values in known.items() if values is not None and None not in values}
    groups = [1] * len(particles) if particles.optics_group is None else particles.optics_group.tolist()
    keys = list(zip(groups, *columns.values(), strict=True))
    distinct = list(dict.fromkeys(keys))
    original = [int(key[0]) for key in distinct]
    keep = len(set(original)) == len(original) and min(original) >= 1
    number_of = {key: int(key[0]) if keep else index for index, key in enumerate(distinct, 1)}
    old = {} if particles.optics_table is None else _by_number(particles.optics_table)
    labels = dict.fromkeys(
        ("rlnOpticsGroup", "rlnOpticsGroupName", *columns, "rlnImageDimensionality", *_kept_labels(particles))
    )
    taken: set[str] = set()
    rows = []
    for key in sorted(distinct, key=lambda key: number_of[key]):
        number, row = number_of[key], old.get(int(key[0]), {})
        name = row.get("rlnOpticsGroupName", f"opticsGroup{number}")
        if name in taken:
            name = f"{name}_{number}"
        taken.add(name)
        values = {
            **dict.fromkeys(labels, "None"),
            "rlnImageDimensionality": "2",
            **row,
            **_files_found(row, source),
            "rlnOpticsGroup": str(number),
            "rlnOpticsGroupName": name,
            **{label: star_value(value) for label, value in zip(columns, key[1:], strict=True)},
        }
        rows.append(tuple(values[label] for label in labels))
    return [number_of[key] for key in keys], StarBlock("optics", tuple(labels), tuple(rows), True, source)


def _files_found(row: dict[str, str], source: str) -> dict[str, str]:
    """Files that an optics group names, as they are found from the current folder."""
    label = "rlnMtfFileName"
    return {} if row.get(label, "None") in ("", "None") else {label: _portable([row[label]], source)[0]}


def _kept_labels(particles: Particles) -> list[str]:
    labels = () if particles.optics_table is None else particles.optics_table.labels
    tilts = ("rlnBeamTiltX", "rlnBeamTiltY")
    return [label for label in labels if label not in tilts]


def _by_number(optics: StarBlock) -> dict[int, dict[str, str]]:
    if "rlnOpticsGroup" not in optics:
        return {1: optics.records()[0]}
    return {int(row["rlnOpticsGroup"]): row for row in optics.records()}


def _sizes(particles: Particles) -> list[float | None]:
    """Side of each particle's image from the headers of its stack; None where that cannot be read."""
    known: dict[str, float | None] = {}
    for name in dict.fromkeys(split_stack_name(name)[1] for name in particles.image_names):
        try:
            known[name] = read_image_info(resolve_name(name, Path(particles.source))).shape[1]
        except InputError:
            known[name] = None
    return [known[split_stack_name(name)[1]] for name in particles.image_names]
