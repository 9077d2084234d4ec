"""Micrographs and coordinates that are wrong: cases of ``cryoprism pick``, ``extract`` and ``process``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .making import (
    LENS,
    SMALL_DISK,
    WRAPPED,
    Case,
    Prepare,
    can_drop_rights,
    can_mount,
    folder_of,
    mrc,
    nan,
    one,
    one_bad,
    png,
    star,
    steps,
    truncate,
    unreadable,
)
from .making_particles import no_voxel_size, volume

PICK = ["--diameter", "150"]
CUT = ["--coordinates", "picks", "--box", "128"]
WHOLE = ["--diameter", "150", "--symmetry", "O"]


def coordinates(
    folder: Path, name: str = "a", rows: Sequence[str] = ("200 200", "330 300"), suffix: str = "star"
) -> None:
    """Coordinates of a micrograph."""
    (folder / "picks").mkdir(exist_ok=True)
    table = "data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n" + "".join(f"{row}\n" for row in rows)
    (folder / "picks" / f"{name}.{suffix}").write_text(table)


def cut(
    *options: str,
    change: Callable[[Path], object] = lambda path: None,
    name: str = "a",
    rows: Sequence[str] = ("200 200", "330 300"),
    data: Callable[[], np.ndarray] | None = None,
    given: Sequence[str] = CUT,
) -> Prepare:
    """One micrograph with coordinates, changed."""

    def prepare(folder: Path) -> list[str]:
        coordinates(folder, name, rows)
        mrc(folder / "a.mrc", None if data is None else data())
        change(folder / "a.mrc")
        return ["a.mrc", *LENS, *given, *options]

    return prepare


def _one_file(folder: Path, text: str) -> None:
    mrc(folder / "a.mrc")
    (folder / "picks.star").write_text(text)


def _no_such_micrograph(folder: Path) -> None:
    mrc(folder / "a.mrc")
    rows = "".join(f"{name}.mrc 200 200\n" for name in ("a", "b", "c"))
    (folder / "picks.star").write_text(f"data_\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n{rows}")


def _coordinates_without_micrograph(folder: Path) -> None:
    mrc(folder / "a.mrc")
    for name in "abc":
        coordinates(folder, name)


def _picture_of_another(folder: Path) -> None:
    png(folder)
    coordinates(folder, "elsewhere")


def _picture_too_small(folder: Path) -> None:
    png(folder)
    coordinates(folder, "p0", ("3800 3600", "200 200"))


def _locked_picks(folder: Path) -> None:
    mrc(folder / "a.mrc")
    coordinates(folder)
    (folder / "picks").chmod(0)


def _many(folder: Path) -> None:
    folder_of(4, folder)
    for number in range(4):
        coordinates(folder, f"m{number}", [f"{80 + 50 * i} {90 + 40 * i}" for i in range(8)])


def _two_with_one_bad(folder: Path) -> None:
    one_bad(folder)
    for number in range(3):
        coordinates(folder, f"m{number}")


def _reference(change: Callable[[Path], None]) -> Callable[[Path], object]:
    def prepare(folder: Path) -> None:
        mrc(folder / "a.mrc")
        change(folder / volume(folder / "reference.mrc"))

    return prepare


def _nan_map(path: Path) -> None:
    data = np.ones((32, 32, 32))
    data[1, 2, 3] = np.nan
    volume(path, data)


def _black_map(path: Path) -> None:
    axis = np.arange(128) - 64
    ball = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < 30**2
    volume(path, -ball.astype(np.float32))


TEMPLATE = ["a.mrc", *LENS, *PICK, "--method", "template", "--reference", "reference.mrc"]
PROCESS_MAP = ["a.mrc", *LENS, *WHOLE, "--reference", "reference.mrc"]

_PICK = (
    Case("micrograph cut short", one(truncate, *PICK), words=("a.mrc", "cut short")),
    Case(
        "one cut short of three",
        steps(one_bad, then=["mics", *LENS, *PICK, "--threshold", "3"]),
        code=1,
        words=("m1", "cut short"),
        kept=("particles.star",),
    ),
    Case("a NaN among the pixels", one(lambda p: None, *PICK, data=nan), words=("a.mrc", "NaN", "(3, 5)")),
    Case("no --diameter", one(), words=("--diameter", "nothing was given")),
    Case(
        "--diameter larger than the micrograph",
        one(lambda p: None, "--diameter", "900"),
        words=("--diameter", "900 Å", "768 Å", "a.mrc"),
    ),
    Case(
        "--diameter in nanometres",
        one(lambda p: None, "--diameter", "15"),
        code=0,
        words=("--diameter", "15 Å", "nanometres", "150"),
    ),
    Case("wrong pixel size", one(lambda p: None, *PICK, "--pixel-size", "20"), words=("pixel size", "20 Å")),
    Case(
        "PNG folder without pixel size", steps(png, then=["pictures", *LENS, *PICK]), words=("p0.png", "--pixel-size")
    ),
    Case("empty STAR file", lambda f: (f / "e.star").touch() or ["e.star", *PICK], words=("e.star",)),
    Case("STAR file without rows", lambda f: [star(f / "e.star", []), *PICK], words=("e.star", "no rows")),
    Case(
        "STAR file without optics table",
        steps(lambda f: mrc(f / "a.mrc"), lambda f: star(f / "m.star", ["a.mrc"], optics=""), then=["m.star", *PICK]),
        words=("m.star", "data_optics"),
    ),
    Case("--method template without a map", one(lambda p: None, *PICK, "--method", "template"), words=("--reference",)),
    Case(
        "--reference that does not exist",
        one(lambda p: None, *TEMPLATE[1:]),
        words=("reference.mrc", "does not exist"),
    ),
    Case(
        "reference without voxel size",
        steps(_reference(no_voxel_size), then=TEMPLATE),
        words=("reference.mrc", "voxel"),
    ),
    Case("NaN in the reference", steps(_reference(_nan_map), then=TEMPLATE), words=("reference.mrc", "NaN")),
    Case("black reference", steps(_reference(_black_map), then=TEMPLATE), words=("black", "--multiply_constant -1")),
    Case("reference cut short", steps(_reference(truncate), then=TEMPLATE), words=("reference.mrc", "cut short")),
    Case("unknown point group", one(lambda p: None, *PICK, "--symmetry", "Q"), words=("--symmetry", "'Q'", "Dn")),
    Case(
        "--picker that is no picker",
        lambda f: (
            (f / "w.safetensors").write_text("x")
            and [*one(lambda p: None)(f), *PICK, "--method", "learned", "--picker", "w.safetensors"]
        ),
        words=("w.safetensors",),
    ),
    Case(
        "folder that may not be read",
        steps(unreadable, then=["locked", *LENS, *PICK]),
        words=("locked", "ermission"),
        wrapper=WRAPPED,
        possible=can_drop_rights,
    ),
    Case(
        "disk full",
        lambda f: (f / "disk").mkdir() or [folder_of(4, f), *LENS, *PICK, "--threshold", "2", "--out", "disk/run"],
        words=("disk/run", "pace", "--only-do-unfinished"),
        wrapper=SMALL_DISK,
        possible=can_mount,
        small_disk="200k",
    ),
)

_EXTRACT = (
    Case("micrograph cut short", cut(change=truncate), words=("a.mrc", "cut short")),
    Case(
        "one cut short of three",
        steps(_two_with_one_bad, then=["mics", *LENS, *CUT]),
        code=1,
        words=("m1", "cut short"),
        kept=("particles.star", "particles/m0.mrcs"),
    ),
    Case("a NaN among the pixels", cut(data=nan), words=("a.mrc", "NaN", "(3, 5)")),
    Case("no --coordinates", one(lambda p: None, "--box", "128"), words=("--coordinates", "nothing was given")),
    Case("--coordinates that do not exist", one(lambda p: None, *CUT), words=("picks", "does not exist")),
    Case(
        "empty folder of coordinates",
        lambda f: (f / "picks").mkdir() or one(lambda p: None, *CUT)(f),
        words=("picks", "no coordinate files"),
    ),
    Case(
        "folder of coordinates that may not be read",
        steps(_locked_picks, then=["a.mrc", *LENS, *CUT]),
        words=("picks", "ermission"),
        wrapper=WRAPPED,
        possible=can_drop_rights,
    ),
    Case(
        "coordinates in an empty STAR file",
        steps(lambda f: _one_file(f, ""), then=["a.mrc", *LENS, "--coordinates", "picks.star", "--box", "128"]),
        words=("picks.star",),
    ),
    Case("coordinates without rows", cut(rows=()), words=("picks", "no")),
    Case("a coordinate that is no number", cut(rows=("200 north",)), words=("a.star", "north")),
    Case("coordinates of another micrograph", cut(name="elsewhere"), words=("picks", "a", "elsewhere")),
    Case(
        "coordinates of micrographs that are not given",
        steps(_coordinates_without_micrograph, then=["a.mrc", *LENS, *CUT]),
        code=0,
        words=("2 micrographs", "'b'", "not among"),
        kept=("particles.star",),
    ),
    Case(
        "one table with micrographs that are not given",
        steps(_no_such_micrograph, then=["a.mrc", *LENS, "--coordinates", "picks.star", "--box", "128"]),
        code=0,
        words=("2 micrographs", "'b'", "not among"),
        kept=("particles.star",),
    ),
    Case(
        "all coordinates outside the micrograph",
        cut(rows=("3800 3900", "4000 200")),
        words=("a.mrc", "2 of 2", "outside", "512 x 512"),
    ),
    Case(
        "some coordinates outside the micrograph",
        cut(rows=("3800 3900", "200 200", "330 300")),
        code=0,
        words=("1 of 3", "outside", "a.mrc"),
        kept=("particles.star",),
    ),
    Case(
        "PNG with another micrograph's coordinates",
        steps(_picture_of_another, then=["pictures", *LENS, *CUT, "--pixel-size", "1.5"]),
        words=("picks", "p0"),
    ),
    Case(
        "PNG smaller than the micrograph of the coordinates",
        steps(_picture_too_small, then=["pictures", *LENS, *CUT, "--pixel-size", "1.5"]),
        words=("p0.png", "1 of 2", "outside"),
    ),
    Case("PNG folder without pixel size", steps(png, then=["pictures", *LENS, *CUT]), words=("p0.png", "--pixel-size")),
    Case(
        "STAR file without optics table",
        steps(
            lambda f: mrc(f / "a.mrc"),
            coordinates,
            lambda f: star(f / "m.star", ["a.mrc"], optics=""),
            then=["m.star", *CUT],
        ),
        words=("m.star", "data_optics"),
    ),
    Case("--diameter larger than the box", cut("--diameter", "250"), words=("--diameter", "250 Å", "192 Å")),
    Case("--box larger than the micrograph", cut(given=[*CUT[:2], "--box", "600"]), words=("--box", "600", "512")),
    Case("--scale larger than the box", cut("--scale", "256"), words=("--scale", "256", "128")),
    Case(
        "micrographs without defocus", cut(), code=0, words=("defocus", "cryoprism restore"), kept=("particles.star",)
    ),
    Case(
        "disk full",
        lambda f: (f / "disk").mkdir() or _many(f) or ["mics", *LENS, *CUT, "--out", "disk/run"],
        words=("disk/run", "pace", "--only-do-unfinished"),
        wrapper=SMALL_DISK,
        possible=can_mount,
        small_disk="900k",
        kept=("particles/m0.mrcs",),
    ),
)

_PROCESS = (
    Case("no --diameter", one(), words=("--diameter", "nothing was given")),
    Case(
        "--diameter larger than the micrograph",
        one(lambda p: None, "--diameter", "900"),
        words=("--diameter", "900 Å", "768 Å"),
    ),
    Case(
        "--box smaller than the particle",
        one(lambda p: None, "--diameter", "130", "--box", "80"),
        words=("--box", "80 pixels", "120 Å", "130 Å"),
    ),
    Case("unknown point group", one(lambda p: None, *PICK, "--symmetry", "Q"), words=("--symmetry", "'Q'", "Dn")),
    Case(
        "--reference that does not exist",
        one(lambda p: None, *PROCESS_MAP[1:]),
        words=("reference.mrc", "does not exist"),
    ),
    Case(
        "reference without voxel size",
        steps(_reference(no_voxel_size), then=PROCESS_MAP),
        words=("reference.mrc", "voxel"),
    ),
    Case("NaN in the reference", steps(_reference(_nan_map), then=PROCESS_MAP), words=("reference.mrc", "NaN")),
    Case("black reference", steps(_reference(_black_map), then=PROCESS_MAP), words=("black", "--multiply_constant -1")),
    Case(
        "PNG folder without pixel size", steps(png, then=["pictures", *LENS, *PICK]), words=("p0.png", "--pixel-size")
    ),
    Case("empty STAR file", lambda f: (f / "e.star").touch() or ["e.star", *PICK], words=("e.star",)),
    Case("micrograph cut short", one(truncate, *PICK), words=("a.mrc", "cut short")),
    Case(
        "micrographs of noise",
        one(lambda p: None, *PICK, data=lambda: np.random.default_rng(0).normal(50, 7, (512, 512)).astype(np.float32)),
        words=("Thon rings",),
        kept=("Restore/micrographs.star",),
    ),
    Case(
        "folder that may not be read",
        steps(unreadable, then=["locked", *LENS, *PICK]),
        words=("locked", "ermission"),
        wrapper=WRAPPED,
        possible=can_drop_rights,
    ),
    Case(
        "disk full",
        lambda f: (f / "disk").mkdir() or [folder_of(2, f), *LENS, *PICK, "--out", "disk/run"],
        words=("disk/run", "pace", "--only-do-unfinished"),
        wrapper=SMALL_DISK,
        possible=can_mount,
        small_disk="300k",
    ),
)


def _of(command: str, cases: Sequence[Case]) -> tuple[Case, ...]:
    return tuple(case.of(command) for case in cases)


CASES = (*_of("pick", _PICK), *_of("extract", _EXTRACT), *_of("process", _PROCESS))
