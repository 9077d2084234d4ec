"""Specimens, real micrographs and wishes that are wrong: cases of ``cryoprism synthesize``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor

from cryoprism.formats import Volume, write_map
from cryoprism.synthesis.phantom import phantom
from cryoprism.synthesis.specimen import specimen_from_phantom, specimen_volume

from .making import LENS, SMALL_DISK, Case, Prepare, can_mount, folder_of, good, mrc, places, star, text, truncate
from .making_particles import no_voxel_size, put_data

PIXEL = 1.5
MAP = ("--map", "shell.mrc", "--mass", "480", "--symmetry", "O")
MATCH = ("--match", "mics", "--coordinates", "picks", *LENS)
LITTLE = ("--count", "1", "--no-realism")


@lru_cache(maxsize=1)
def _shell() -> Tensor:
    return specimen_volume(specimen_from_phantom(phantom("shell")), 3.0, 30.0)


def _session(folder: Path, count: int = 1) -> None:
    """Write mics/, picks/ and the map of their particle."""
    folder_of(count, folder)
    (folder / "picks").mkdir()
    for index in range(count):
        rows = "".join(f"{x:.1f} {y:.1f}\n" for x, y in places(index))
        (folder / "picks" / f"m{index}.star").write_text(f"data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n{rows}")
    write_map(folder / "shell.mrc", Volume(_shell(), 3.0))


def session(
    *options: str,
    more: Callable[[Path], object] = lambda folder: None,
    given: Sequence[str] = MAP,
    match: Sequence[str] = MATCH,
    count: int = 1,
) -> Prepare:
    """Real micrographs, coordinates and a map, with one thing wrong."""

    def prepare(folder: Path) -> Sequence[str]:
        _session(folder, count)
        more(folder)
        return [*given, *match, *LITTLE, *options]

    return prepare


def _defocus(folder: Path, value: str) -> None:
    """Write a table of the micrographs with a defocus."""
    name = star(folder / "mics.star", ["mics/m0.mrc"])
    table = (folder / name).read_text().replace("#2\nmics/m0.mrc 1", f"#2\n_rlnDefocusU #3\nmics/m0.mrc 1 {value}")
    (folder / name).write_text(table)


def _nan(folder: Path) -> None:
    data = _shell().numpy().copy()
    data[1, 2, 3] = np.nan
    put_data(folder / "shell.mrc", data)


def _even(folder: Path) -> None:
    put_data(folder / "shell.mrc", np.ones_like(_shell().numpy()))


def _subunit(folder: Path) -> None:
    """Write a cube of atoms, 15 Å long."""
    line = "ATOM  {n:5d}  CA  ALA A{n:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C\n"
    grid = np.stack(np.meshgrid(*[3.0 * np.arange(6)] * 3), -1).reshape(-1, 3)
    atoms = "".join(line.format(n=n + 1, x=x, y=y, z=z) for n, (x, y, z) in enumerate(grid))
    (folder / "subunit.pdb").write_text(atoms + "END\n")


def _no_rows(folder: Path) -> None:
    name = star(folder / "mics.star", ["mics/m0.mrc"])
    (folder / name).write_text((folder / name).read_text().replace("mics/m0.mrc 1\n", ""))


def _other_specimen(folder: Path) -> None:
    """Put a small ball in the place of the shell that the micrographs show."""
    axis = np.arange(50) - 25.0
    radius = 3.0 * np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    put_data(folder / "shell.mrc", (1 / (1 + np.exp((radius - 15) / 4))).astype(np.float32))


def _empty(folder: Path) -> None:
    (folder / "none").mkdir()


def _one_pick(folder: Path) -> None:
    (folder / "picks" / "m0.star").write_text("data_\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n200 200\n")


TABLE = ("--match", "mics.star", "--coordinates", "picks")
NOWHERE = ("--match", "none", "--coordinates", "picks", *LENS)
SUBUNIT = ("--map", "subunit.pdb")
TWO = ("--map", "shell.mrc", "--map", "shell.mrc", "--mass", "480")

_SYNTHESIZE = (
    Case(
        "map without voxel size",
        session(more=lambda f: no_voxel_size(f / "shell.mrc")),
        words=("shell.mrc", "voxel size"),
    ),
    Case("map that does not exist", session(given=("--map", "m.mrc", "--mass", "480")), words=("m.mrc", "not exist")),
    Case("map that is text", session(more=lambda f: text(f / "shell.mrc")), words=("shell.mrc",)),
    Case("map cut short", session(more=lambda f: truncate(f / "shell.mrc")), words=("shell.mrc", "cut short")),
    Case("NaN in the map", session(more=_nan), words=("shell.mrc", "NaN")),
    Case(
        "map without mass or contour",
        session(given=("--map", "shell.mrc")),
        words=("shell.mrc", "--mass", "--contour"),
    ),
    Case(
        "mass larger than the box",
        session(given=("--map", "shell.mrc", "--mass", "480000")),
        words=("shell.mrc", "480000 kDa", "voxel size"),
    ),
    Case(
        "defocus of the wrong hand",
        session(more=lambda f: _defocus(f, "-15000"), match=TABLE),
        words=("--match", "m0", "-15000", "overfocus", "sign"),
    ),
    Case(
        "particles larger than the slab",
        session("--ice-thickness", "60"),
        words=("--ice-thickness", "60 Å", "shell", "thicker"),
    ),
    Case("map that is even", session(more=_even), words=("shell.mrc", "all voxels")),
    Case(
        "--mass for two of three species",
        session("--mass", "500", given=(*TWO, "--map", "shell.mrc")),
        words=("--mass", "2 for 3", "each --map"),
    ),
    Case(
        "--conformation-share for two of one conformation",
        session("--conformation-share", "0.5,0.5"),
        words=("--conformation-share", "2 shares", "1 conformations"),
    ),
    Case("--axis-offset of one number", session("--axis-offset", "5"), words=("--axis-offset",)),
    Case(
        "a repeat taller than --helical-rise",
        session("--filaments", "1", "--helical-rise", "5", "--helical-twist", "50", given=SUBUNIT, more=_subunit),
        words=("'subunit'", "would lie within", "--axis-offset"),
    ),
    Case(
        "--tilt through the focus",
        session("--tilt", "70", "--width", "8000", "--height", "8000"),
        words=("--tilt", "Å above", "Tilt less"),
    ),
    Case("no micrographs to match", session(more=_empty, match=NOWHERE), words=("none",)),
    Case("table of real micrographs without rows", session(more=_no_rows, match=TABLE), words=("mics.star", "rows")),
    Case(
        "coordinates of other micrographs",
        session(more=lambda f: (f / "picks" / "m0.star").rename(f / "picks" / "other.star")),
        words=("picks", "m0", "other"),
    ),
    Case("micrographs to match that do not exist", session(match=NOWHERE), words=("none",)),
    Case(
        "mixed pixel sizes",
        session(more=lambda f: mrc(f / "mics" / "m1.mrc", good(1), 1.8)),
        words=("--match", "1.5, 1.8", "one pixel size"),
    ),
    Case("one pick on all micrographs", session(more=_one_pick), words=("--match", "1 particles", "--coordinates")),
    Case(
        "map of another specimen",
        session(given=("--map", "shell.mrc", "--mass", "15"), more=_other_specimen),
        code=0,
        words=("real micrograph agrees with the map to", "below 0.8", "--diameter"),
        kept=("particles.star",),
    ),
    Case(
        "the only micrograph cut short",
        session(more=lambda f: truncate(f / "mics" / "m0.mrc")),
        words=("m0", "cut short"),
    ),
    Case(
        "one micrograph cut short of three",
        session(more=lambda f: truncate(f / "mics" / "m1.mrc"), count=3),
        code=0,
        words=("m1 is left out", "cut short"),
        kept=("particles.star", "micrographs/000001.mrc"),
    ),
    Case("--share for one of two species", session("--share", "0.5", given=TWO), words=("--share", "1 for 2")),
    Case(
        "negative --share",
        session("--share", "1.5", "--share", "-0.5", given=TWO),
        words=("--share", "-0.5"),
    ),
    Case("--noise with an unknown name", session("--noise", "pink"), words=("--noise", "pink", "matched")),
    Case("--count 0", session("--count", "0"), words=("--count", "0")),
    Case("--particles 0", session("--particles", "0"), words=("--particles",)),
    Case(
        "more particles than fit",
        session("--particles", "900", "--ice-thickness", "160"),
        words=("900 particles", "do not fit"),
    ),
    Case("--filaments without --helical-rise", session("--filaments", "2"), words=("--helical-rise",)),
    Case("--morph with one conformation", session("--morph", "3"), words=("--morph", "two conformations")),
    Case("unknown point group", session("--symmetry", "Q"), words=("--symmetry", "'Q'", "Dn")),
    Case(
        "disk full",
        session("--out", "disk/run", more=lambda f: (f / "disk").mkdir()),
        words=("disk/run", "pace", "--only-do-unfinished"),
        wrapper=SMALL_DISK,
        possible=can_mount,
        small_disk="700k",
    ),
)

CASES = tuple(case.of("synthesize") for case in _SYNTHESIZE)
