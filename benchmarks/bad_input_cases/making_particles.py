"""Small particle sets, coordinates and maps, whole or with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryoprism.core import euler_to_matrix, generator_for, irfft2, rfft2
from cryoprism.formats import Volume, read_particles, write_map, write_stack
from cryoprism.microscope import project_volume
from cryoprism.particles import particle_transfer

from .making import Prepare

BOX, PIXEL = 32, 3.0
_made: dict[int, np.ndarray] = {}
TABLE = "particles.star"


def _ball(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return a lopsided blob of 50 Å in the middle."""
    axes = [np.arange(n) - n // 2 for n in shape]
    grid = np.meshgrid(*axes, indexing="ij")
    places = np.random.default_rng(seed).uniform(-6, 6, (6, len(shape)))
    return sum(np.exp(-sum((g - p) ** 2 for g, p in zip(grid, place, strict=True)) / 12) for place in places)


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return torch.randn(shape, generator=generator_for(0, "bad-input-noise", seed)).numpy()


@dataclass
class Table:
    """Rows of a particle table; a case changes what it likes before it is written."""

    columns: dict[str, list[str]]
    optics: str = (
        "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnVoltage\n_rlnSphericalAberration\n"
        f"_rlnAmplitudeContrast\n_rlnImagePixelSize\n_rlnImageSize\n1 one 300 2.7 0.1 {PIXEL:g} {BOX}\n\n"
    )

    def without(self, *labels: str) -> None:
        """Leave columns out."""
        for label in labels:
            self.columns.pop(f"rln{label}")

    def write(self, path: Path) -> None:
        """Write the STAR file."""
        labels = "".join(f"_{label}\n" for label in self.columns)
        rows = "".join(" ".join(row) + "\n" for row in zip(*self.columns.values(), strict=True))
        path.write_text(f"{self.optics}data_particles\n\nloop_\n{labels}{rows}\n")


def particles(
    folder: Path,
    count: int = 40,
    *,
    change: Callable[[Table], None] = lambda table: None,
    images: Callable[[np.ndarray], np.ndarray] = lambda data: data,
) -> None:
    """Write a table and its stack: noisy views of the lopsided blob from four micrographs, in two half sets."""
    number = np.arange(count) * 4 // count
    values = np.random.default_rng(0).uniform(0, 1, (count, 5))
    table = Table(
        {
            "rlnImageName": [f"{i + 1:06d}@particles.mrcs" for i in range(count)],
            "rlnMicrographName": [f"m{n}.mrc" for n in number],
            "rlnCoordinateX": [f"{200 + 100 * (i % 10)}" for i in range(count)],
            "rlnCoordinateY": [f"{200 + 100 * (i // 10)}" for i in range(count)],
            "rlnDefocusU": [f"{12000 + 800 * n}" for n in number],
            "rlnDefocusV": [f"{11800 + 800 * n}" for n in number],
            "rlnDefocusAngle": ["20"] * count,
            "rlnAngleRot": [f"{360 * v:.2f}" for v in values[:, 0]],
            "rlnAngleTilt": [f"{np.degrees(np.arccos(2 * v - 1)):.2f}" for v in values[:, 1]],
            "rlnAnglePsi": [f"{360 * v:.2f}" for v in values[:, 2]],
            "rlnOriginXAngst": ["0"] * count,
            "rlnOriginYAngst": ["0"] * count,
            "rlnRandomSubset": [str(n % 2 + 1) for n in number],
            "rlnOpticsGroup": ["1"] * count,
        }
    )
    data = _views(folder, table, count)
    changed = images(data)
    write_stack(folder / "particles.mrcs", torch.from_numpy(np.nan_to_num(changed)), PIXEL)
    put_data(folder / "particles.mrcs", changed)
    change(table)
    table.write(folder / TABLE)


def _views(folder: Path, table: Table, count: int) -> np.ndarray:
    """Images that the table describes; written once to have the table read as any other."""
    if count not in _made:
        write_stack(folder / "particles.mrcs", torch.from_numpy(noise((count, BOX, BOX), 1)), PIXEL)
        table.write(folder / "all.star")
        told = read_particles(folder / "all.star")
        assert told.angles_in_degrees is not None
        volume = torch.from_numpy(_ball((BOX, BOX, BOX))).float()
        rotations = euler_to_matrix(*told.angles_in_degrees.unbind(-1)).float()
        spectra = rfft2(project_volume(volume, rotations, 1.0)) * particle_transfer(told, (BOX, BOX))
        clean = irfft2(spectra, (BOX, BOX)).numpy()
        _made[count] = (clean + clean.std() * noise((count, BOX, BOX), 1)).astype(np.float32)
    return _made[count]


def volume(path: Path, data: np.ndarray | None = None, pixel: float = PIXEL, box: int = BOX) -> str:
    data = _ball((box, box, box)) if data is None else data
    write_map(path, Volume(torch.from_numpy(np.nan_to_num(data).astype(np.float32)), pixel))
    put_data(path, data)
    return path.name


def halves(folder: Path, *, boxes: tuple[int, int] = (BOX, BOX), shared: float = 0.0) -> None:
    """Write two half maps; ``shared`` is the share of their noise that is the same."""
    for number, box in enumerate(boxes, 1):
        own = 0.3 * noise((box, box, box), number)
        same = 0.3 * noise((box, box, box), 9)
        volume(folder / f"half{number}.mrc", _ball((box, box, box)) + (1 - shared) * own + shared * same)


def put_data(path: Path, data: np.ndarray) -> None:
    """Overwrite the values of a file of mode 2: the writers refuse NaN."""
    with path.open("r+b") as stream:
        stream.seek(1024)
        stream.write(np.ascontiguousarray(data, dtype="<f4").tobytes())


def no_voxel_size(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(40)
        stream.write(bytes(12))


def posed(
    *options: str,
    change: Callable[[Table], None] = lambda table: None,
    images: Callable[[np.ndarray], np.ndarray] = lambda data: data,
    count: int = 40,
    more: Callable[[Path], object] = lambda folder: None,
) -> Prepare:
    """Particles, half maps and a reference, with one thing wrong; the arguments are the table and ``options``."""

    def prepare(folder: Path) -> Sequence[str]:
        particles(folder, count, change=change, images=images)
        halves(folder)
        volume(folder / "reference.mrc")
        more(folder)
        return [TABLE, *options]

    return prepare


def with_nan(data: np.ndarray) -> np.ndarray:
    data = data.copy()
    data[3, 5, 7] = np.nan
    return data


def all_missing(folder: Path) -> None:
    (folder / "particles.mrcs").unlink()


def repeated(table: Table) -> None:
    """Put the first image into both halves, under two rows."""
    for label in ("rlnImageName", "rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"):
        table.columns[label][-1] = table.columns[label][0]


def empty(table: Table) -> None:
    for column in table.columns.values():
        column.clear()


def no_defocus(table: Table) -> None:
    table.without("DefocusU", "DefocusV", "DefocusAngle")


def no_poses(table: Table) -> None:
    table.without("AngleRot", "AngleTilt", "AnglePsi")


def no_optics(table: Table) -> None:
    table.optics = ""


def two_pixel_sizes(table: Table) -> None:
    table.optics = table.optics.rstrip() + f"\n2 two 300 2.7 0.1 {1.4 * PIXEL:g} {BOX}\n\n"
    table.columns["rlnOpticsGroup"][-5:] = ["2"] * 5


def copied(table: Table) -> None:
    """All particles in half 1, and again in half 2 from a stack and micrographs of other names."""
    count = len(table.columns["rlnImageName"])
    for column in table.columns.values():
        column += column
    table.columns["rlnRandomSubset"] = ["1"] * count + ["2"] * count
    for label, old, new in (("rlnImageName", "particles", "copy"), ("rlnMicrographName", "m", "other")):
        column = table.columns[label]
        column[count:] = [name.replace(old, new, 1) for name in column[count:]]


def copy_stack(folder: Path) -> None:
    """Copy the stack to where ``copied`` looks for it."""
    (folder / "copy.mrcs").write_bytes((folder / "particles.mrcs").read_bytes())


def listed_twice(table: Table) -> None:
    """Every row twice, with nothing that would tell which particles are the same but the images."""
    table.without("RandomSubset", "MicrographName", "CoordinateX", "CoordinateY")
    for column in table.columns.values():
        column += column
