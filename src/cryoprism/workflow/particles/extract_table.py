"""The table of extracted particles: one row each, with optics, defocus and what their micrograph says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoprism.formats import Catalogue, MicrographRecord, OpticsGroup, Particles, StarBlock, portable_name
from cryoprism.particles import junk_probability

from .configs import ExtractConfig
from .coordinates import PARTICLE_LABELS

__all__ = ["particles_table"]


def particles_table(
    catalogue: Catalogue,
    config: ExtractConfig,
    records: Sequence[MicrographRecord],
    stacks: Sequence[Path],
    results: Sequence[Mapping[str, Any]],
) -> tuple[Particles, dict[str, list[object]]]:
    """All particles of the session, in the order of its micrographs, and columns that are not fields.

    Parameters
    ----------
    catalogue, config
        Of the session.
    records, stacks, results
        Micrographs, the stack of each, and what the extraction says of it.
    """
    pairs = [(record, result) for record, result in zip(records, results, strict=True) if result["x"]]
    files = [stack for stack, result in zip(stacks, results, strict=True) if result["x"]]
    optics = [catalogue.optics_of(record) for record, _ in pairs]
    counts = torch.tensor([len(result["x"]) for _, result in pairs])

    def each(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).repeat_interleave(counts)

    def joined(key: str) -> list[Any]:
        return [value for _, result in pairs for value in result[key]]

    def pair(one: str, other: str) -> Tensor:
        return torch.tensor([joined(one), joined(other)], dtype=torch.float64).T

    numbers = {name: number for number, name in enumerate(catalogue.optics, 1)}
    ctfs = [record.ctf for record, _ in pairs]
    has_ctf = all(ctf is not None for ctf in ctfs)
    known = [ctf for ctf in ctfs if ctf is not None] if has_ctf else []
    names = [portable_name(file) for file in files]
    side = config.scaled_box_in_pixels or config.box_in_pixels
    particles = Particles(
        image_names=tuple(
            f"{i + 1:06d}@{stack}" for stack, count in zip(names, counts.tolist(), strict=True) for i in range(count)
        ),
        micrograph_names=tuple(
            portable_name(record.path)
            for (record, _), count in zip(pairs, counts.tolist(), strict=True)
            for _ in range(count)
        ),
        pixel_size_in_angstroms=each([result["pixel_size_in_angstroms"] for _, result in pairs]),
        voltage_in_kilovolts=each([group.voltage_in_kilovolts for group in optics]),
        spherical_aberration_in_millimeters=each([group.spherical_aberration_in_millimeters for group in optics]),
        amplitude_contrast=each([group.amplitude_contrast for group in optics]),
        origins_in_angstroms=pair("origin_x", "origin_y"),
        coordinates_in_pixels=pair("x", "y"),
        defocus=torch.tensor(joined("defocus"), dtype=torch.float64) if has_ctf else None,
        phase_shift_in_degrees=each([ctf.phase_shift_in_degrees for ctf in known]) if has_ctf else None,
        optics_table=_optics_table(catalogue, numbers),
        optics_group=each([numbers[record.optics_group] for record, _ in pairs]).long(),
        image_size=torch.full((int(counts.sum()),), side),
        micrograph_pixel_size_in_angstroms=each([group.pixel_size_in_angstroms for group in optics]),
        ctf_b_factor_in_square_angstroms=each([ctf.b_factor_in_square_angstroms for ctf in known]) if has_ctf else None,
        ctf_scale=each([ctf.scale_factor for ctf in known]) if has_ctf else None,
    )
    particles, columns = _with_labels(particles, [result for _, result in pairs])
    if all(result["score"] is not None for _, result in pairs):
        columns["rlnAutopickFigureOfMerit"] = joined("score")
    if all(ctf.max_resolution_in_angstroms is not None for ctf in known) and known:
        columns["rlnCtfMaxResolution"] = list(each([ctf.max_resolution_in_angstroms or 0.0 for ctf in known]).tolist())
    if all("masked" in result for _, result in pairs):
        columns["cryoprismMaskedFraction"] = joined("masked")
    junk = junk_probability(torch.tensor(joined("features"), dtype=torch.float64))
    columns["cryoprismJunkProbability"] = [round(value, 6) for value in junk.tolist()]
    return particles, columns


def _with_labels(
    particles: Particles, results: Sequence[Mapping[str, Any]]
) -> tuple[Particles, dict[str, list[object]]]:
    """Particles with the poses, origins and own defocus that their table gave, and its other columns as they were."""
    shared = set.intersection(*(set(result.get("columns", {})) for result in results))
    given = {label: [value for result in results for value in result["columns"][label]] for label in shared}

    def numbers(*labels: str) -> Tensor | None:
        if not all(label in given for label in labels):
            return None
        columns = [given.pop(label) for label in labels]
        return torch.tensor(
            [[float(value) for value in row] for row in zip(*columns, strict=True)], dtype=torch.float64
        )

    angles = numbers("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    origins = numbers("rlnOriginXAngst", "rlnOriginYAngst")
    defocus = numbers("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
    if angles is not None:
        particles = replace(particles, angles_in_degrees=angles)
    if origins is not None and particles.origins_in_angstroms is not None:
        particles = replace(particles, origins_in_angstroms=particles.origins_in_angstroms + origins)
    if defocus is not None and particles.defocus is not None:
        particles = replace(particles, defocus=defocus)
    return particles, {label: list(given[label]) for label in PARTICLE_LABELS if label in given}


def _optics_table(catalogue: Catalogue, numbers: Mapping[str, int]) -> StarBlock:
    """Columns of the micrographs' optics that particles keep (MTF, names), by the new numbers."""
    # The pixel size of micrographs is the particles' original one from now on.
    gone = {"rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize", "rlnOpticsGroup", "rlnOpticsGroupName"}
    labels = dict.fromkeys(label for group in catalogue.optics.values() for label in group.extra if label not in gone)
    rows = [
        (str(numbers[name]), name, *(_value_of(group, label) for label in labels))
        for name, group in catalogue.optics.items()
    ]
    return StarBlock("optics", ("rlnOpticsGroup", "rlnOpticsGroupName", *labels), tuple(rows))


def _value_of(group: OpticsGroup, label: str) -> str:
    if label == "rlnMtfFileName" and group.mtf_file is not None and group.mtf_file.is_file():
        return portable_name(group.mtf_file)  # the table stands in another folder
    return group.extra.get(label, "None")
