"""Particle tables that are wrong: cases of ``cryoprism classify``, ``initial-model`` and ``refine``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .making import SMALL_DISK, Case, can_mount, truncate
from .making_particles import (
    BOX,
    PIXEL,
    Table,
    all_missing,
    empty,
    no_defocus,
    no_optics,
    no_poses,
    no_voxel_size,
    posed,
    repeated,
    two_pixel_sizes,
    volume,
    with_nan,
)

SORT = ("--classes", "2", "--diameter", "60", "--iterations", "2")
MODEL = ("--diameter", "60", "--starts", "1")
REFINE = ("--reference", "reference.mrc", "--diameter", "60", "--iterations", "1", "--no-local")


def _cut_stack(folder: Path) -> None:
    truncate(folder / "particles.mrcs")


def _small(folder: Path) -> None:
    (folder / "disk").mkdir()


def _constant(data: np.ndarray) -> np.ndarray:
    data = data.copy()
    data[4] = 0
    return data


def _no_number(table: Table) -> None:
    table.columns["rlnDefocusU"][2] = "deep"


def _unknown_group(table: Table) -> None:
    table.columns["rlnOpticsGroup"][3] = "7"


def _beyond_the_stack(table: Table) -> None:
    table.columns["rlnImageName"][1] = "000900@particles.mrcs"


def one_half(table: Table) -> None:
    table.columns["rlnRandomSubset"] = ["1"] * len(table.columns["rlnRandomSubset"])


def _volts(table: Table) -> None:
    table.optics = table.optics.replace("one 300 ", "one 300000 ")


def _deep(table: Table) -> None:
    table.columns["rlnDefocusU"][5] = "-5000000"


def _tenfold(table: Table) -> None:
    table.optics = table.optics.replace(f" {PIXEL:g} {BOX}", f" {10 * PIXEL:g} {BOX}")


def _half_box(table: Table) -> None:
    table.optics = table.optics.replace(f" {PIXEL:g} {BOX}", f" {PIXEL:g} {BOX // 2}")


def _third_half(table: Table) -> None:
    table.columns["rlnRandomSubset"][5] = "3"


def _same_picture_twice(table: Table) -> None:
    """Both rows in one half: duplicates, no leak."""
    for label in ("rlnImageName", "rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"):
        table.columns[label][1] = table.columns[label][0]


def common(*options: str, ctf: bool = True) -> tuple[Case, ...]:
    """Return what every command that reads particles has to refuse."""
    cases = (
        Case("table that does not exist", lambda f: ["none.star", *options], words=("none.star", "does not exist")),
        Case("empty STAR file", lambda f: (f / "e.star").touch() or ["e.star", *options], words=("e.star",)),
        Case("STAR file without rows", posed(*options, change=empty), words=("particles.star", "no rows")),
        Case("STAR file without optics table", posed(*options, change=no_optics), words=("particles.star", "optics")),
        Case("row with an unknown optics group", posed(*options, change=_unknown_group), words=("group 7",)),
        Case("defocus that is no number", posed(*options, change=_no_number), words=("rlnDefocusU", "'deep'")),
        Case("stack cut short", posed(*options, more=_cut_stack), words=("particles.mrcs", "cut short")),
        Case("stack that is not there", posed(*options, more=all_missing), words=("particles.mrcs", "does not exist")),
        Case("image beyond the stack", posed(*options, change=_beyond_the_stack), words=("particles.mrcs", "900")),
        Case("a NaN in an image", posed(*options, images=with_nan), words=("particles.mrcs", "NaN")),
        Case("images of two pixel sizes", posed(*options, change=two_pixel_sizes), words=("3 to 4.2 Å", "--scale")),
        Case("voltage in volts", posed(*options, change=_volts), words=("rlnVoltage", "300000", "row 1", "kV")),
        Case("defocus of half a millimetre", posed(*options, change=_deep), words=("rlnDefocusU", "-5000000", "row 6")),
        Case("pixel size that is not the stack's", posed(*options, change=_tenfold), words=("30 Å", "row 1", "3 Å")),
        Case(
            "rlnImageSize that is not the stack's",
            posed(*options, change=_half_box),
            words=("rlnImageSize", "16", "32"),
        ),
    )
    no_ctf = Case("no defocus", posed(*options, change=no_defocus), words=("particles.star", "rlnDefocusU", "restore"))
    return (*cases, no_ctf) if ctf else cases


def disk(*options: str, size: str, more: Callable[[Path], object] = lambda folder: None) -> Case:
    return Case(
        "disk full",
        posed(*options, "--out", "disk/run", more=lambda f: (_small(f), more(f))),
        words=("disk/run", "pace", "--only-do-unfinished"),
        wrapper=SMALL_DISK,
        possible=can_mount,
        small_disk=size,
    )


_CLASSIFY = (
    *common(*SORT),
    Case("one particle", posed(*SORT, count=1), words=("--classes", "1 ")),
    Case("--diameter larger than the box", posed(*SORT, "--diameter", "150"), words=("--diameter", "150 Å", "96 Å")),
    Case("wrong pixel size", posed(*SORT, "--pixel-size", "0.3"), words=("--diameter", "60 Å", "10 Å")),
    Case("image of one value", posed(*SORT, images=_constant), words=("000005@particles.mrcs", "one value")),
    Case("--scale larger than the box", posed(*SORT, "--scale", "64"), words=("--scale", "64", "32")),
    disk(*SORT, size="30k"),
)

_MODEL = (
    *common(*MODEL),
    Case("one particle", posed(*MODEL, count=1), words=("particles.star", "1 particle")),
    Case("--diameter larger than the box", posed("--diameter", "150"), words=("--diameter", "150 Å", "96 Å")),
    Case("wrong pixel size", posed(*MODEL, "--pixel-size", "0.3"), words=("--diameter", "60 Å", "9.6 Å")),
    Case("unknown point group", posed(*MODEL, "--symmetry", "Q"), words=("--symmetry", "'Q'", "Dn")),
    Case("image of one value", posed(*MODEL, images=_constant), words=("000005@particles.mrcs", "one value")),
    Case(
        "one particle in both halves",
        posed(*MODEL, change=repeated),
        words=("particles.star", "half sets share", "rows 1 and 40"),
    ),
    disk(*MODEL, size="30k"),
)

_REFINE = (
    *common(*REFINE),
    Case("one particle", posed(*REFINE, count=1), words=("particles.star", "1 particle")),
    Case(
        "sixteen particles",
        posed(*REFINE, count=16),
        code=0,
        words=("8 particles", "too few"),
        kept=("map.mrc",),
    ),
    Case("particles listed twice", posed(*REFINE, change=_same_picture_twice), code=0, kept=("map.mrc",)),
    Case(
        "one particle in both halves",
        posed(*REFINE, change=repeated),
        words=("particles.star", "half sets share", "rows 1 and 40"),
    ),
    Case("all particles in one half", posed(*REFINE, change=one_half), words=("particles.star", "40 and 0")),
    Case("half set 3", posed(*REFINE, change=_third_half), words=("particles.star", "rlnRandomSubset is 3", "row 6")),
    Case(
        "--diameter of a fraction of a pixel",
        posed("--reference", "reference.mrc", "--diameter", "0.001"),
        words=("--diameter", "0.001 Å", "3 Å"),
    ),
    Case(
        "--diameter larger than the box",
        posed("--reference", "reference.mrc", "--diameter", "150"),
        words=("--diameter", "150 Å", "96 Å"),
    ),
    Case("wrong pixel size", posed(*REFINE, "--pixel-size", "0.3"), words=("--diameter", "60 Å", "9.6 Å")),
    Case("unknown point group", posed(*REFINE, "--symmetry", "Q"), words=("--symmetry", "'Q'", "Dn")),
    Case("image of one value", posed(*REFINE, images=_constant), words=("000005@particles.mrcs", "one value")),
    Case(
        "no reference and no poses",
        posed("--diameter", "60", change=no_poses),
        words=("--reference", "initial-model"),
    ),
    Case(
        "--reference that does not exist",
        posed(*REFINE, more=lambda f: (f / "reference.mrc").unlink()),
        words=("reference.mrc", "does not exist"),
    ),
    Case(
        "reference without voxel size",
        posed(*REFINE, more=lambda f: no_voxel_size(f / "reference.mrc")),
        words=("reference.mrc", "voxel size", "relion_image_handler"),
    ),
    Case(
        "reference cut short",
        posed(*REFINE, more=lambda f: truncate(f / "reference.mrc")),
        words=("reference.mrc", "cut short"),
    ),
    Case(
        "NaN in the reference",
        posed(*REFINE, more=lambda f: volume(f / "reference.mrc", np.full((32, 32, 32), np.nan))),
        words=("reference.mrc", "NaN"),
    ),
    Case(
        "reference of one value",
        posed(*REFINE, more=lambda f: volume(f / "reference.mrc", np.ones((32, 32, 32)))),
        words=("reference.mrc", "one value"),
    ),
    Case(
        "reference that is no cube",
        posed(*REFINE, more=lambda f: volume(f / "reference.mrc", np.random.default_rng(0).random((32, 32, 30)))),
        words=("reference.mrc", "cube"),
    ),
    Case(
        "mask of another box",
        posed(*REFINE, "--mask", "mask.mrc", more=lambda f: volume(f / "mask.mrc", np.ones((20, 20, 20)))),
        words=("mask.mrc", "20", "32"),
    ),
    Case(
        "--weights without this micrograph",
        posed(*REFINE, "--weights", "weights", more=lambda f: os.mkdir(f / "weights")),
        words=("weights", "m0"),
    ),
    Case(
        "--initial-lowpass beyond the pixels",
        posed(*REFINE, "--initial-lowpass", "4"),
        words=("--initial-lowpass", "4 Å", "6 Å"),
    ),
    disk(*REFINE, size="60k"),
)

CASES = (
    *(case.of("classify") for case in _CLASSIFY),
    *(case.of("initial-model") for case in _MODEL),
    *(case.of("refine") for case in _REFINE),
)
