from __future__ import annotations

import bz2
import gzip
import os
import re
import subprocess
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.formats import (
    Volume,
    read_image,
    read_image_info,
    read_map,
    read_mrc,
    read_mrc_header,
    write_map,
    write_mrc,
)

SHAPES = [(16, 20), (15, 21), (3, 16, 20), (4, 15, 21), (1, 7, 5)]
DTYPES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}


def numbers(shape: tuple[int, ...], mode: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if mode in (2, 12):
        return rng.normal(3.0, 2.0, shape).astype(DTYPES[mode]).astype(np.float32)
    low = 0 if mode == 6 else -100
    return rng.integers(low, 100, shape).astype(np.float32)


@pytest.mark.parametrize("mode", [0, 1, 2, 6, 12])
@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip_and_mrcfile_agree(tmp_path: Path, mode: int, shape: tuple[int, ...]) -> None:
    values = numbers(shape, mode)
    before = torch.from_numpy(values.copy())
    path = tmp_path / "x.mrc"
    write_mrc(path, before, 1.37, mode=mode)
    assert torch.equal(before, torch.from_numpy(values)), "the caller's tensor was changed"
    data, header = read_mrc(path)
    assert torch.equal(data.reshape(shape), before)
    assert header.pixel_size_in_angstroms == pytest.approx(1.37, rel=1e-6)
    with mrcfile.open(path) as other:
        assert other.data.dtype == DTYPES[mode]
        np.testing.assert_array_equal(np.asarray(other.data, dtype=np.float32).reshape(shape), values)
        assert float(other.voxel_size.x) == pytest.approx(1.37, rel=1e-6)
        assert float(other.voxel_size.z) == pytest.approx(1.37, rel=1e-6)
        assert int(other.header.ispg) == 0
        assert float(other.header.dmean) == pytest.approx(values.mean(dtype=np.float64), rel=1e-5, abs=1e-5)
        assert float(other.header.rms) == pytest.approx(values.std(dtype=np.float64), rel=1e-5)
        assert float(other.header.dmin) == values.min()
        assert float(other.header.dmax) == values.max()


def test_statistics_survive_a_large_mean(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(1.0e5, 1.0, (700, 701)).astype(np.float32)
    write_mrc(tmp_path / "x.mrc", values, 1.0)
    with mrcfile.open(tmp_path / "x.mrc") as other:
        assert float(other.header.rms) == pytest.approx(values.std(dtype=np.float64), rel=1e-4)


@pytest.mark.parametrize("mode", [0, 1, 2, 6, 12])
def test_big_endian(tmp_path: Path, mode: int) -> None:
    values = numbers((9, 12), mode)
    path = tmp_path / "big.mrc"
    with mrcfile.new(path) as other:
        other.set_data(values.astype(DTYPES[mode]))
        other.voxel_size = 2.5
        other.header.mode = mode
        other.header.ispg = 0
        header, body = other.header.copy(), np.asarray(other.data)
    swapped = header.astype(header.dtype.newbyteorder(">"))
    swapped["machst"] = [0x11, 0x11, 0, 0]
    path.write_bytes(swapped.tobytes() + body.astype(body.dtype.newbyteorder(">")).tobytes())
    image = read_image(path)
    assert torch.equal(image.data, torch.from_numpy(values))
    assert image.pixel_size_in_angstroms == pytest.approx(2.5)


@pytest.mark.parametrize(("pack", "suffix"), [(gzip.compress, ".gz"), (bz2.compress, ".bz2"), (gzip.compress, "")])
def test_compressed_files_are_known_by_their_contents(tmp_path: Path, pack, suffix: str) -> None:
    values = numbers((11, 13), 2)
    write_mrc(tmp_path / "a.mrc", values, 1.2)
    packed = tmp_path / f"b.mrc{suffix}"
    packed.write_bytes(pack((tmp_path / "a.mrc").read_bytes()))
    assert torch.equal(read_image(packed).data, torch.from_numpy(values))
    packed.write_bytes(packed.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"b\.mrc"):
        read_image(packed)


@pytest.mark.parametrize("kept", [10, 1024, 1030, 1024 + 4 * 16 * 20 - 1])
def test_truncated_files_name_what_is_missing(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.mrc"
    write_mrc(path, numbers((16, 20), 2), 1.0)
    path.write_bytes(path.read_bytes()[:kept])
    expected = str(1024 if kept < 1024 else 1024 + 4 * 16 * 20)
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert "cut.mrc" in caught.value.where
    assert str(kept) in caught.value.found
    assert expected in caught.value.found
    assert "again" in caught.value.remedy


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("mode", [2, 12])
def test_nonfinite_pixels(tmp_path: Path, bad: float, mode: int) -> None:
    values = numbers((16, 20), 2)
    values[3, 4] = bad
    path = tmp_path / "bad.mrc"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        write_mrc(path, values, 1.0, mode=mode)
    with pytest.raises(InputError, match=r"1 of 320 pixels .*\(3, 4\)"):
        read_image(path)
    assert not torch.isfinite(read_image(path, allow_nonfinite=True).data[3, 4])


@pytest.mark.parametrize("contents", [b"", b"text, not an image", os.urandom(5000), bytes(2000)])
def test_what_is_no_mrc_is_refused(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "x.mrc"
    path.write_bytes(contents)
    with pytest.raises(InputError, match=r"x\.mrc"):
        read_image(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_image(tmp_path / "nothing.mrc")
    (tmp_path / "folder.mrc").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path / "folder.mrc")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError):
        read_image(tmp_path / "file" / "inside.mrc")


def test_pixel_size_zero_is_unknown_and_unequal_pixels_warn(tmp_path: Path) -> None:
    path = tmp_path / "x.mrc"
    write_mrc(path, numbers((8, 10), 2), 1.0)
    with mrcfile.open(path, mode="r+") as other:
        other.header.cella = (0, 0, 0)
    assert read_image(path).pixel_size_in_angstroms is None
    with mrcfile.open(path, mode="r+") as other:
        other.header.cella = (10 * 1.5, 8 * 1.6, 1)
    with pytest.warns(CryoPrismWarning, match="1.6"):
        assert read_image_info(path).pixel_size_in_angstroms == pytest.approx(1.5)


def test_imod_bytes_without_sign(tmp_path: Path) -> None:
    path = tmp_path / "x.mrc"
    write_mrc(path, np.full((2, 2), -1.0), 1.0, mode=0)
    raw = bytearray(path.read_bytes())
    raw[152:160] = np.array([1146047817, 0], dtype="<i4").tobytes()
    path.write_bytes(raw)
    assert float(read_image(path).data.max()) == 255.0


@pytest.mark.parametrize(("mode", "value"), [(0, 128), (1, 40000), (6, -1), (12, 70000), (6, float("nan")), (3, 0)])
def test_values_that_do_not_fit_are_refused_and_the_old_file_stands(tmp_path: Path, mode: int, value: float) -> None:
    path = tmp_path / "x.mrc"
    write_mrc(path, np.ones((4, 4)), 1.0)
    before = path.read_bytes()
    with pytest.raises(InputError, match="mode"):
        write_mrc(path, np.full((4, 4), value, dtype=np.float32), 1.0, mode=mode)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.mrc"
    write_mrc(path, np.ones((4, 4)), 1.0)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        write_mrc(path, np.zeros((4, 4)), 1.0)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="cannot be written"):
        write_mrc(tmp_path / "none" / "x.mrc", np.zeros((4, 4)), 1.0)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_pixel_size_must_be_positive(tmp_path: Path, bad: float) -> None:
    with pytest.raises(InputError, match="pixel size"):
        write_mrc(tmp_path / "x.mrc", np.zeros((4, 4)), bad)


def test_one_image_of_a_stack(tmp_path: Path) -> None:
    values = numbers((3, 6, 7), 2)
    path = tmp_path / "s.mrcs"
    write_mrc(path, values, 1.0)
    assert torch.equal(read_image(f"000002@{path}").data, torch.from_numpy(values[1]))
    assert torch.equal(read_image(path, frame=2).data, torch.from_numpy(values[2]))
    with pytest.raises(InputError, match="holds 3 frames"):
        read_image(path)
    with pytest.raises(InputError, match="holds 3"):
        read_image(f"4@{path}")


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (3, 1, 2), (2, 3, 1)])
def test_maps_in_any_order_of_axes(tmp_path: Path, order: tuple[int, int, int]) -> None:
    truth = numbers((4, 5, 6), 2)  # z, y, x
    stored = np.ascontiguousarray(truth.transpose([{3: 0, 2: 1, 1: 2}[axis] for axis in reversed(order)]))
    path = tmp_path / "m.mrc"
    with mrcfile.new(path) as other:
        other.set_data(stored)
        other.set_volume()
        other.header.mapc, other.header.mapr, other.header.maps = order
        other.header.mx, other.header.my, other.header.mz = 6, 5, 4
        other.header.cella = (6 * 2.0, 5 * 2.0, 4 * 2.0)
        starts = {1: 10, 2: 20, 3: 30}
        other.header.nxstart, other.header.nystart, other.header.nzstart = (starts[a] for a in order)
    volume = read_map(path)
    assert torch.equal(volume.data, torch.from_numpy(truth))
    assert volume.voxel_size_in_angstroms == pytest.approx(2.0)
    assert volume.origin_in_angstroms == pytest.approx((20.0, 40.0, 60.0))


def test_map_round_trip_and_voxel_traps(tmp_path: Path) -> None:
    data = torch.from_numpy(numbers((5, 6, 7), 2))
    path = tmp_path / "m.mrc"
    write_map(path, Volume(data, 1.5, (-3.0, 2.0, 1.0)))
    back = read_map(path)
    assert torch.equal(back.data, data)
    assert back.origin_in_angstroms == (-3.0, 2.0, 1.0)
    assert read_mrc_header(path).space_group == 1
    write_map(path, Volume(data, 1.0))
    with pytest.warns(CryoPrismWarning, match="exactly 1"):
        read_map(path)
    assert read_map(path, 3.54).voxel_size_in_angstroms == 3.54
    with mrcfile.open(path, mode="r+") as other:
        other.header.cella = (0, 0, 0)
    with pytest.raises(InputError, match="voxel size"):
        read_map(path)


@pytest.mark.real
def test_real_maps(data: Path) -> None:
    assert read_map(data / "maps/emd_1997_groel.mrc").voxel_size_in_angstroms == pytest.approx(2.02, abs=1e-4)
    with pytest.warns(CryoPrismWarning, match="exactly 1"):
        read_map(data / "maps/beta_galactosidase_local_resolution.mrc")
    path = data / "apoferritin/micrographs/May08_03.13.02.mrc"
    with mrcfile.open(path) as other:
        np.testing.assert_array_equal(read_image(path).data.numpy(), np.asarray(other.data, dtype=np.float32))


@pytest.mark.relion
@pytest.mark.parametrize("mode", [0, 1, 2, 6])
@pytest.mark.parametrize("shape", [(64, 66), (65, 63), (3, 65, 64)])
def test_relion_reads_what_we_write(tmp_path: Path, relion: str, mode: int, shape: tuple[int, ...]) -> None:
    values = numbers(shape, mode, seed=4)
    path = tmp_path / ("x.mrcs" if len(shape) == 3 else "x.mrc")
    write_mrc(path, values, 1.25, mode=mode)
    out = subprocess.run(
        ["relion_image_handler", "--i", str(path), "--stats"], capture_output=True, text=True, check=True
    ).stdout
    images = values if len(shape) == 3 else values[None]
    found = [dict(re.findall(r"(\w+)= *(-?[\d.e+-]+)", line)) for line in out.splitlines() if "avg=" in line]
    assert len(found) == len(images), out
    for line, image in zip(found, images, strict=True):
        assert float(line["avg"]) == pytest.approx(image.mean(), abs=2e-4)
        assert float(line["stddev"]) == pytest.approx(image.std(), rel=1e-3)
        assert float(line["minval"]) == pytest.approx(image.min(), abs=1e-4)
    size = re.search(r"\(x,y,z,n\)= *(\d+) x (\d+) x (\d+) x (\d+)", out)
    assert size is not None
    assert (int(size.group(1)), int(size.group(2))) == (shape[-1], shape[-2])
