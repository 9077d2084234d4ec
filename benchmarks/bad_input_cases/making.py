"""What a case is, and the files that cases are made of."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from cryoprism.core import generator_for
from cryoprism.formats import write_mrc
from cryoprism.synthesis.phantom import phantom
from cryoprism.synthesis.render import Rendered, render_micrograph
from cryoprism.synthesis.scene import Scene
from cryoprism.synthesis.specimen import specimen_from_phantom

LENS = ["--voltage", "300", "--cs", "2.7", "--amplitude-contrast", "0.1"]
Prepare = Callable[[Path], Sequence[str]]


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong.

    ``prepare`` fills the folder and returns the arguments; ``words`` must stand in what the program says; ``kept`` are
    outputs that must be there.
    """

    title: str
    prepare: Prepare
    command: str = "restore"
    code: int = 2
    words: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()
    limit_in_bytes: int | None = None
    possible: Callable[[], bool] = field(default=lambda: True)
    small_disk: str = "5m"

    def of(self, command: str) -> Case:
        """Return the case of another command."""
        return replace(self, command=command)

    @property
    def name(self) -> str:
        """Command and title, as the table has them."""
        return self.title if self.command == "restore" else f"{self.command}: {self.title}"


@lru_cache(maxsize=1)
def _rendered() -> Rendered:
    specimen = specimen_from_phantom(phantom("shell"))
    scene = Scene(name="bad-input", height_in_pixels=512, width_in_pixels=512, particle_count=15)
    return render_micrograph(scene, specimen)


def good(index: int = 0) -> np.ndarray:
    """Return a simulated micrograph (512, 512) with particles; another index gives another one."""
    shape = (137 * index, 59 * index)
    mean = torch.from_numpy(np.roll(_rendered().expected.numpy(), shape, (0, 1)).copy())
    return torch.poisson(mean, generator=generator_for(0, "bad-input", index)).numpy()


def places(index: int = 0) -> list[tuple[float, float]]:
    """Centres (x, y) [px] of the particles of :func:`good`."""
    return [((p.x_in_pixels + 59 * index) % 512, (p.y_in_pixels + 137 * index) % 512) for p in _rendered().particles]


def mrc(path: Path, data: np.ndarray | None = None, pixel: float = 1.5) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mrc(path, good() if data is None else data, pixel)
    return path.name


def header_pixel(path: Path, cell: float) -> None:
    """Overwrite the cell of an MRC header, which is how a pixel size goes wrong."""
    with path.open("r+b") as stream:
        stream.seek(40)
        stream.write(np.array([cell, cell, cell], dtype="<f4").tobytes())


def star(path: Path, names: Sequence[str], *, optics: str = "1", group: str = "1", pixel: str = "1.5") -> str:
    head = (
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnOpticsGroupName #2\n_rlnVoltage #3\n"
        "_rlnSphericalAberration #4\n"
        f"_rlnAmplitudeContrast #5\n_rlnMicrographPixelSize #6\n{optics} one 300 2.7 0.1 {pixel}\n\n"
    )
    rows = "".join(f"{name} {group}\n" for name in names)
    body = f"data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n{rows}\n"
    path.write_text((head if optics else "") + body)
    return path.name


def one(
    change: Callable[[Path], None] = lambda path: None,
    *options: str,
    data: Callable[[], np.ndarray] | None = None,
    pixel: float = 1.5,
) -> Prepare:
    """One micrograph, changed."""

    def prepare(folder: Path) -> list[str]:
        name = mrc(folder / "a.mrc", None if data is None else data(), pixel)
        change(folder / name)
        return [name, *LENS, *options]

    return prepare


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def nan() -> np.ndarray:
    data = good()
    data[3, 5] = np.nan
    return data


def volume(path: Path) -> None:
    write_mrc(path, np.random.default_rng(0).random((130, 130, 130)), 1.5, volume=True)


def text(path: Path) -> None:
    path.write_text("These are notes, not pixels.\n" * 100)


def png(folder: Path) -> None:
    import imagecodecs

    inside = folder / "pictures"
    inside.mkdir()
    for index in range(2):
        data = good(index)
        grey = np.clip((data - data.min()) / np.ptp(data) * 255, 0, 255).astype(np.uint8)
        (inside / f"p{index}.png").write_bytes(imagecodecs.png_encode(grey))


def folder_of(count: int, folder: Path, name: str = "mics") -> str:
    for index in range(count):
        mrc(folder / name / f"m{index}.mrc", good(index))
    return name


def steps(*actions: Callable[[Path], object], then: Sequence[str]) -> Prepare:
    def prepare(folder: Path) -> Sequence[str]:
        for action in actions:
            action(folder)
        return then

    return prepare


def zipped_and_cut(path: Path) -> None:
    packed = gzip.compress(path.read_bytes(), 1)
    path.write_bytes(packed[: len(packed) // 2])


def one_bad(folder: Path) -> None:
    folder_of(3, folder)
    truncate(folder / "mics" / "m1.mrc")


def star_with_bad(folder: Path) -> None:
    one_bad(folder)
    star(folder / "mics.star", [f"mics/m{index}.mrc" for index in range(3)])


def twins(folder: Path) -> None:
    for name in ("one", "two"):
        mrc(folder / name / "a.mrc")


def held(folder: Path) -> None:
    mrc(folder / "a.mrc")
    (folder / "run").mkdir()
    (folder / "run" / "thesis.tex").write_text("mine")


def unreadable(folder: Path) -> None:
    folder_of(1, folder, "locked")
    (folder / "locked").chmod(0)


def unwritable(folder: Path) -> None:
    mrc(folder / "a.mrc")
    (folder / "shelf").mkdir()
    (folder / "shelf").chmod(0o555)


NO_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
WRAPPED = NO_OVERRIDE if hasattr(os, "geteuid") and os.geteuid() == 0 else ()


def can_drop_rights() -> bool:
    return not WRAPPED or shutil.which("setpriv") is not None


def can_mount() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
    )


SMALL_DISK = (
    "unshare",
    "-m",
    "sh",
    "-c",
    'mount -t tmpfs -o size=SIZE tmpfs disk && "$@"; code=$?; cp -a disk/run copy 2>/dev/null; exit $code',
    "sh",
)
