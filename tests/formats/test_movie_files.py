from __future__ import annotations

import subprocess
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch

from cryoprism.core import InputError
from cryoprism.formats import (
    iterate_movie,
    read_gain,
    read_image,
    read_image_info,
    read_movie,
    read_movie_info,
    sum_movie,
    write_mrc,
)


def frames(count: int, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 9, (count, *shape)).astype(np.uint8)


def write_tiff(path: Path, movie: np.ndarray, compression: str | None = "lzw") -> None:
    with tifffile.TiffWriter(path) as tiff:
        for frame in movie:
            tiff.write(frame, compression=compression, contiguous=False)


@pytest.mark.parametrize("shape", [(16, 20), (15, 21)])
@pytest.mark.parametrize("compression", ["lzw", "deflate", None])
def test_tiff_is_turned_upside_down_and_mrcs_is_not(tmp_path: Path, shape: tuple[int, int], compression) -> None:
    movie = frames(4, shape)
    write_tiff(tmp_path / "m.tif", movie, compression)
    write_mrc(tmp_path / "m.mrcs", movie, 0.8, mode=1)
    assert torch.equal(read_movie(tmp_path / "m.tif").frames, torch.from_numpy(movie[:, ::-1].astype(np.float32)))
    assert torch.equal(read_movie(tmp_path / "m.mrcs").frames, torch.from_numpy(movie.astype(np.float32)))
    assert read_movie_info(tmp_path / "m.tif").frames == 4
    assert read_movie(tmp_path / "m.mrcs").pixel_size_in_angstroms == pytest.approx(0.8)


def test_sum_streams_the_same_numbers_and_ranges_work(tmp_path: Path) -> None:
    movie = frames(5, (12, 14))
    write_tiff(tmp_path / "m.tif", movie)
    gain = torch.from_numpy(np.random.default_rng(1).uniform(0.5, 1.5, (12, 14)).astype(np.float32))
    whole = read_movie(tmp_path / "m.tif", gain=gain).frames
    torch.testing.assert_close(sum_movie(tmp_path / "m.tif", gain=gain).data, whole.sum(0))
    torch.testing.assert_close(
        read_movie(tmp_path / "m.tif", gain=gain, first_frame=1, last_frame=3).frames, whole[1:3]
    )
    with pytest.raises(InputError, match="it has 5"):
        sum_movie(tmp_path / "m.tif", last_frame=6)
    with pytest.raises(InputError, match="gain"):
        sum_movie(tmp_path / "m.tif", gain=torch.ones(3, 3))


def test_truncated_tiff(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    write_tiff(path, np.random.default_rng(0).integers(0, 255, (3, 64, 64)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(InputError, match=r"m\.tif"):
        read_movie(path)
    path.write_bytes(b"II*\x00")
    with pytest.raises(InputError, match=r"m\.tif"):
        read_movie(path)


def test_tiff_pixel_size_comes_from_a_plausible_resolution_tag_only(tmp_path: Path) -> None:
    image = frames(1, (8, 9))[0]
    tifffile.imwrite(tmp_path / "a.tif", image, resolution=(1e8 / 1.1, 1e8 / 1.1), resolutionunit=3)
    assert read_image(tmp_path / "a.tif").pixel_size_in_angstroms == pytest.approx(1.1, rel=1e-6)
    tifffile.imwrite(tmp_path / "b.tif", image, resolution=(300, 300), resolutionunit=2)
    assert read_image(tmp_path / "b.tif").pixel_size_in_angstroms is None


def test_png_and_jpeg(tmp_path: Path) -> None:
    image = np.kron(frames(1, (6, 7))[0], np.ones((8, 8), np.uint8)) * 20
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(image))
    assert torch.equal(read_image(tmp_path / "a.png").data, torch.from_numpy(image.astype(np.float32)))
    assert read_image(tmp_path / "a.png").pixel_size_in_angstroms is None
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(image, level=95))
    assert float((read_image(tmp_path / "a.jpg").data - torch.from_numpy(image.astype(np.float32))).abs().mean()) < 5
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(InputError, match=r"cut\.png"):
        read_image(tmp_path / "cut.png")
    with pytest.raises(InputError, match=r"\.bmp"):
        read_image(tmp_path / "a.bmp")


@pytest.mark.real
def test_curation_pictures(data: Path) -> None:
    for path in sorted(data.glob("curation/*/*.png")):
        image = read_image(path)
        assert image.data.shape == read_image_info(path).shape
        assert 0 <= float(image.data.min()) < float(image.data.max()) <= 255


# Electron Event Representation ----------------------------------------------------------------------------------------


def encode_eer(events: list[tuple[int, int, int, int]], shape: tuple[int, int], run_bits: int) -> bytes:
    """Pack (row, column, sub-row, sub-column) events; sub-pixels 0 to 3, in Thermo Fisher's format."""
    bits = 0
    length = 0
    position = 0
    top = (1 << run_bits) - 1

    def put(value: int, width: int) -> None:
        nonlocal bits, length
        bits |= value << length
        length += width

    def gap(count: int) -> None:
        while count >= top:
            put(top, run_bits)
            count -= top
            if run_bits == 8:
                put(0, 4)  # the 8-bit format keeps a symbol after every run
        put(count, run_bits)

    for row, column, sub_row, sub_column in sorted(events):
        place = row * shape[1] + column
        gap(place - position)
        put(((sub_row << 2) | sub_column) ^ 0b1010, 4)
        position = place + 1
    gap(shape[0] * shape[1] - position)
    put(0, 4)
    return bits.to_bytes((length + 7) // 8 + 4, "little")


XML = b'<metadata><item name="sensorPixelSize.width" unit="m">1.5E-10</item></metadata>'


def write_eer(
    path: Path, movie: list[list[tuple[int, int, int, int]]], shape: tuple[int, int], compression: int
) -> None:
    """A minimal little-endian TIFF by hand: one directory per raw frame, one strip each."""
    out = bytearray(b"II*\x00\x00\x00\x00\x00")
    link = 4
    for events in movie:
        strip = encode_eer(events, shape, 8 if compression == 65000 else 7)
        offset = len(out)
        out += strip
        xml = len(out)
        out += XML
        out += b"\x00" * (len(out) % 2)
        tags = [
            (256, 4, 1, shape[1]),
            (257, 4, 1, shape[0]),
            (258, 3, 1, 8),
            (259, 3, 1, compression),
            (262, 3, 1, 1),
            (273, 4, 1, offset),
            (277, 3, 1, 1),
            (278, 4, 1, shape[0]),
            (279, 4, 1, len(strip)),
            (65001, 7, len(XML), xml),
        ]
        out[link : link + 4] = len(out).to_bytes(4, "little")
        out += len(tags).to_bytes(2, "little")
        for tag, kind, count, value in tags:
            out += tag.to_bytes(2, "little") + kind.to_bytes(2, "little")
            out += count.to_bytes(4, "little") + value.to_bytes(4, "little")
        link = len(out)
        out += bytes(4)
    path.write_bytes(out)


def events(count: int, shape: tuple[int, int], rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    places = rng.choice(shape[0] * shape[1], count, replace=False)
    sub = rng.integers(0, 4, (count, 2))
    return [(int(p) // shape[1], int(p) % shape[1], int(a), int(b)) for p, (a, b) in zip(places, sub, strict=True)]


def rendered(movie: list[list[tuple[int, int, int, int]]], shape: tuple[int, int], upsampling: int) -> np.ndarray:
    image = np.zeros((shape[0] * upsampling, shape[1] * upsampling), dtype=np.float32)
    for frame in movie:
        for row, column, sub_row, sub_column in frame:
            image[row * upsampling + sub_row * upsampling // 4, column * upsampling + sub_column * upsampling // 4] += 1
    return image


@pytest.mark.parametrize("compression", [65000, 65001])
@pytest.mark.parametrize("upsampling", [1, 2])
@pytest.mark.parametrize("shape", [(64, 64), (34, 48)])
def test_eer_electrons_land_where_they_were_put(tmp_path: Path, compression: int, upsampling: int, shape) -> None:
    rng = np.random.default_rng(3)
    movie = [events(40, shape, rng) for _ in range(7)]
    path = tmp_path / "m.eer"
    write_eer(path, movie, shape, compression)
    info = read_movie_info(path, eer_fractionation=3, eer_upsampling=upsampling)
    assert (info.frames, info.shape) == (2, (shape[0] * upsampling, shape[1] * upsampling))  # the 7th is dropped
    assert info.pixel_size_in_angstroms == pytest.approx(1.5 / upsampling)
    got = read_movie(path, eer_fractionation=3, eer_upsampling=upsampling)
    for index in range(2):
        expected = rendered(movie[3 * index : 3 * index + 3], shape, upsampling)
        np.testing.assert_array_equal(got.frames[index].numpy(), expected)
    assert float(sum_movie(path, eer_fractionation=3, eer_upsampling=upsampling).data.sum()) == 6 * 40


def test_eer_errors(tmp_path: Path) -> None:
    path = tmp_path / "m.eer"
    write_eer(path, [events(40, (32, 32), np.random.default_rng(0))] * 3, (32, 32), 65001)
    with pytest.raises(InputError, match="3 raw frames"):
        read_movie(path, eer_fractionation=4)
    with pytest.raises(InputError, match="upsampling 3"):
        read_movie(path, eer_fractionation=1, eer_upsampling=3)
    with pytest.raises(InputError, match="read_movie"):
        read_image(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"m\.eer"):
        read_movie(path, eer_fractionation=1)


def test_eer_gain_means_what_relion_means(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    gain = rng.uniform(0.5, 2.0, (6, 6)).astype(np.float32)
    gain[2, 3] = 0
    write_mrc(tmp_path / "g.mrc", gain, 1.0)
    divides = read_gain(tmp_path / "g.mrc", (6, 6), for_eer=True).numpy()
    expected = np.divide(gain.mean(), gain, out=np.zeros_like(gain), where=gain > 0)
    np.testing.assert_allclose(divides, expected, rtol=1e-5)
    tifffile.imwrite(tmp_path / "g.gain", gain, photometric="minisblack")
    multiplies = read_gain(tmp_path / "g.gain", (12, 12), for_eer=True).numpy()
    np.testing.assert_array_equal(multiplies, np.kron(gain, np.ones((2, 2), np.float32)))
    with pytest.raises(InputError, match="6 x 6"):
        read_gain(tmp_path / "g.mrc", (7, 6))
    write_mrc(tmp_path / "n.mrc", -gain, 1.0)
    with pytest.raises(InputError, match="negative"):
        read_gain(tmp_path / "n.mrc", (6, 6))


# Against RELION -------------------------------------------------------------------------------------------------------


@pytest.mark.relion
def test_relion_turns_tiff_as_we_do(tmp_path: Path, relion: str) -> None:
    movie = frames(3, (30, 41), seed=8)
    write_tiff(tmp_path / "m.tif", movie)
    subprocess.run(
        ["relion_image_handler", "--i", "m.tif", "--o", "m.mrcs", "--add_constant", "0.5"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    theirs = read_movie(tmp_path / "m.mrcs").frames - 0.5
    torch.testing.assert_close(theirs, read_movie(tmp_path / "m.tif").frames)


@pytest.mark.relion
@pytest.mark.parametrize("upsampling", [1, 2])
def test_relion_renders_the_same_eer(tmp_path: Path, relion: str, upsampling: int) -> None:
    rng = np.random.default_rng(9)
    shape = (4096, 4096)
    movie = [events(2000, shape, rng) for _ in range(5)]
    write_eer(tmp_path / "m.eer", movie, shape, 65001)
    subprocess.run(
        [
            *("relion_convert_to_tiff", "--i", "m.eer", "--o", "out/", "--eer_grouping", "2"),
            *("--eer_upsampling", str(upsampling)),
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    written = next((tmp_path / "out").rglob("*.tif"))
    for theirs, ours in zip(
        iterate_movie(written),
        iterate_movie(tmp_path / "m.eer", eer_fractionation=2, eer_upsampling=upsampling),
        strict=True,
    ):
        assert torch.equal(theirs, ours)


@pytest.mark.relion
@pytest.mark.parametrize(("rotation", "flip"), [(1, 0), (3, 0), (2, 0), (0, 1), (1, 1)])
def test_relion_turns_the_gain_as_we_do(tmp_path: Path, relion: str, rotation: int, flip: int) -> None:
    rng = np.random.default_rng(2)
    side = 128
    gain = rng.uniform(0.8, 1.2, (side, side)).astype(np.float32)
    write_mrc(tmp_path / "gain.mrc", gain, 1.0)
    write_mrc(tmp_path / "m.mrcs", rng.poisson(20, (4, side, side)).astype(np.float32), 1.0)
    subprocess.run(
        [
            *("relion_run_motioncorr", "--i", "m.mrcs", "--o", "MotionCorr/", "--use_own", "--gainref", "gain.mrc"),
            *("--gain_rot", str(rotation), "--gain_flip", str(flip), "--angpix", "1", "--voltage", "300"),
        ],
        cwd=tmp_path,
        check=False,
        capture_output=True,
    )
    theirs = read_image(tmp_path / "MotionCorr/gain.mrc").data
    torch.testing.assert_close(theirs, read_gain(tmp_path / "gain.mrc", (side, side), rotation=rotation, flip=flip))
