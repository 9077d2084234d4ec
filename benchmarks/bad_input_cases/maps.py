"""Maps that are wrong: cases of ``cryoprism reconstruct``, ``resolution``, ``ctf-refine`` and ``train-picker``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from cryoprism.formats import read_map, write_stack

from .making import SMALL_DISK, Case, Prepare, can_mount, truncate
from .making_particles import (
    Table,
    copied,
    copy_stack,
    halves,
    listed_twice,
    no_poses,
    no_voxel_size,
    noise,
    posed,
    repeated,
    volume,
)
from .particles import common, disk, one_half

TILT = ("--half1", "half1.mrc", "--half2", "half2.mrc")
PAIR = ("half1.mrc", "half2.mrc", "--no-local")


def _no_halves(table: Table) -> None:
    table.without("RandomSubset")


def _nan(path: Path) -> None:
    data = np.random.default_rng(0).random((32, 32, 32))
    data[1, 2, 3] = np.nan
    volume(path, data)


def _nan_in_second(folder: Path) -> None:
    _nan(folder / "half2.mrc")


def _mean_of_both(folder: Path) -> None:
    """Put the mean of the halves into the place of the second."""
    one, two = (read_map(folder / f"half{n}.mrc").data.numpy() for n in (1, 2))
    volume(folder / "half2.mrc", (one + two) / 2)


def _stacks(folder: Path) -> None:
    for number in (1, 2):
        write_stack(folder / f"half{number}.mrcs", torch.from_numpy(noise((8, 32, 32), number)), 3.0)


def pair(*options: str, more: Callable[[Path], object] = lambda folder: None, given: Sequence[str] = PAIR) -> Prepare:
    """Two half maps, with one thing wrong."""

    def prepare(folder: Path) -> Sequence[str]:
        halves(folder)
        more(folder)
        return [*given, *options]

    return prepare


def _other_box(folder: Path) -> None:
    halves(folder, boxes=(32, 40))


_RECONSTRUCT = (
    *common(),
    Case("no poses", posed(change=no_poses), words=("particles.star", "rlnAngleRot")),
    Case(
        "one particle in both halves",
        posed(change=repeated),
        words=("particles.star", "half sets share", "rows 1 and 40"),
    ),
    Case(
        "copies of the stack in the other half",
        posed(change=copied, more=copy_stack),
        words=("particles.star", "same pixels", "rows 1 and 41"),
    ),
    Case(
        "every image listed twice, without half sets or names",
        posed(change=listed_twice),
        code=0,
        words=("40 particles stood in the table twice",),
        kept=("map.mrc",),
    ),
    Case("all particles in one half", posed(change=one_half), words=("particles.star", "rlnRandomSubset", "40 and 0")),
    Case("unknown point group", posed("--symmetry", "Q"), words=("--symmetry", "'Q'", "Dn")),
    Case(
        "--maximum-resolution beyond Nyquist",
        posed("--maximum-resolution", "2"),
        words=("--maximum-resolution", "2 Å", "6"),
    ),
    Case(
        "--maximum-resolution coarser than the box",
        posed("--maximum-resolution", "900"),
        words=("--maximum-resolution", "900 Å", "96 Å"),
    ),
    Case(
        "--weights without this micrograph",
        posed("--weights", "weights", more=lambda f: (f / "weights").mkdir()),
        words=("weights", "m0"),
    ),
    Case("--helical-rise without twist", posed("--helical-rise", "5"), words=("--helical-twist",)),
    Case("sixteen particles", posed(count=16), code=0, words=("8 particles", "too few"), kept=("map.mrc",)),
    disk(size="60k"),
)

_RESOLUTION = (
    Case("half map that does not exist", lambda f: [*PAIR], words=("half1.mrc", "does not exist")),
    Case("the same half map twice", pair(given=("half1.mrc", "half1.mrc")), words=("half1.mrc", "first half map")),
    Case(
        "a copy of the first half map",
        pair(more=lambda f: (f / "half2.mrc").write_bytes((f / "half1.mrc").read_bytes())),
        words=("half2.mrc", "same map", "given twice"),
    ),
    Case("half maps of other boxes", pair(more=_other_box), words=("half2.mrc", "40", "32", "half maps of one")),
    Case(
        "half maps of other voxel sizes",
        pair(more=lambda f: volume(f / "half2.mrc", pixel=2.0)),
        words=("half2.mrc", "2 Å", "3 Å"),
    ),
    Case("half map cut short", pair(more=lambda f: truncate(f / "half2.mrc")), words=("half2.mrc", "cut short")),
    Case("NaN in a half map", pair(more=_nan_in_second), words=("half2.mrc", "NaN", "relion_image_handler")),
    Case(
        "half map of one value",
        pair(more=lambda f: volume(f / "half1.mrc", np.ones((32, 32, 32)))),
        words=("half1.mrc", "every voxel is 1"),
    ),
    Case(
        "half map without voxel size",
        pair(more=lambda f: no_voxel_size(f / "half1.mrc")),
        words=("half1.mrc", "voxel size", "--pixel-size"),
    ),
    Case(
        "halves that share noise",
        pair(more=lambda f: halves(f, shared=0.7)),
        words=("half2.mrc", "shares noise with half1.mrc", "disjoint"),
    ),
    Case(
        "a half map and the map of both",
        pair(more=_mean_of_both),
        words=("half2.mrc", "shares noise with half1.mrc", "map of both"),
    ),
    Case(
        "stacks of images for half maps",
        pair(more=_stacks, given=("half1.mrcs", "half2.mrcs", "--no-local")),
        words=("half1.mrcs", "stack of 8 images", "ISPG"),
    ),
    Case(
        "mask of another box",
        pair("--mask", "mask.mrc", more=lambda f: volume(f / "mask.mrc", np.ones((20, 20, 20)))),
        words=("mask.mrc", "20", "32"),
    ),
    Case(
        "mask that is empty",
        pair("--mask", "mask.mrc", more=lambda f: volume(f / "mask.mrc", np.zeros((32, 32, 32)))),
        words=("mask.mrc",),
    ),
    Case("unknown point group", pair("--symmetry", "Q"), words=("--symmetry", "'Q'", "Dn")),
    Case(
        "--model that is no model",
        pair("--model", "m.pdb", more=lambda f: (f / "m.pdb").write_text("notes\n")),
        words=("m.pdb",),
    ),
    Case("--model that does not exist", pair("--model", "m.pdb"), words=("m.pdb", "does not exist")),
    Case("--mtf that does not exist", pair("--mtf", "m.star"), words=("m.star", "does not exist")),
    Case("--particles that do not exist", pair("--particles", "p.star"), words=("p.star", "does not exist")),
    Case("--max-memory too small", pair("--max-memory", "0.1"), words=("0.1 GB", "--max-memory")),
    Case(
        "disk full",
        pair("--out", "disk/run", more=lambda f: (f / "disk").mkdir()),
        words=("disk/run", "pace", "--only-do-unfinished"),
        wrapper=SMALL_DISK,
        possible=can_mount,
        small_disk="60k",
    ),
)

_CTF_REFINE = (
    *common(*TILT),
    Case("no poses", posed(*TILT, change=no_poses), words=("particles.star", "rlnAngleRot")),
    Case("no half sets", posed(*TILT, change=_no_halves), words=("particles.star", "rlnRandomSubset")),
    Case(
        "one particle in both halves",
        posed(*TILT, change=repeated),
        words=("particles.star", "half sets share", "rows 1 and 40"),
    ),
    Case("no half maps", posed(), words=("--half1",)),
    Case(
        "half map that does not exist",
        posed(*TILT, more=lambda f: (f / "half2.mrc").unlink()),
        words=("half2.mrc", "does not exist"),
    ),
    Case(
        "half maps of other boxes",
        posed(*TILT, more=_other_box),
        words=("half2.mrc", "40", "32", "half maps of one"),
    ),
    Case(
        "half maps of another box than the particles",
        posed(*TILT, more=lambda f: halves(f, boxes=(40, 40))),
        words=("particles.star", "40", "32", "half maps"),
    ),
    Case(
        "half maps of another voxel size than the particles",
        posed(
            *TILT,
            more=lambda f: [
                volume(f / f"half{n}.mrc", np.random.default_rng(n).random((32, 32, 32)), pixel=2.0) for n in (1, 2)
            ],
        ),
        words=("particles.star", "2 Å", "3 Å", "half maps"),
    ),
    Case("NaN in a half map", posed(*TILT, more=_nan_in_second), words=("half2.mrc", "NaN")),
    Case(
        "half map without voxel size",
        posed(*TILT, more=lambda f: no_voxel_size(f / "half1.mrc")),
        words=("half1.mrc", "voxel size"),
    ),
    Case(
        "everything switched off", posed(*TILT, "--no-defocus", "--no-beam-tilt", "--no-signal"), words=("--defocus",)
    ),
    disk(*TILT, size="20k"),
)

_TRAIN = (
    Case("--structures that do not exist", lambda f: ["--structures", "pdb"], words=("pdb", "does not exist")),
    Case(
        "--structures without a structure",
        lambda f: (f / "pdb").mkdir() or ["--structures", "pdb"],
        words=("pdb", "PDB or mmCIF"),
    ),
    Case("--adapt without clicks", lambda f: ["--adapt", "mics"], words=("--coordinates",)),
    Case("--coordinates without --adapt", lambda f: ["--coordinates", "x"], words=("--coordinates", "--adapt")),
    Case("--micrographs 1", lambda f: ["--micrographs", "1"], words=("--micrographs", "1", "2")),
)

CASES = (
    *(case.of("reconstruct") for case in _RECONSTRUCT),
    *(case.of("resolution") for case in _RESOLUTION),
    *(case.of("ctf-refine") for case in _CTF_REFINE),
    *(case.of("train-picker") for case in _TRAIN),
)
