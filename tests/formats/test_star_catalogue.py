from __future__ import annotations

import subprocess
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.formats import (
    StarBlock,
    read_catalogue,
    read_mtf,
    read_star,
    write_micrographs_star,
    write_mrc,
    write_star,
)
from cryoprism.formats.star import star_value

OPTICS = {"voltage_in_kilovolts": 300.0, "spherical_aberration_in_millimeters": 2.7, "amplitude_contrast": 0.1}
words = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), min_size=0, max_size=12).filter(
    lambda text: not ("'" in text and '"' in text)
)


def image(path: Path, pixel: float = 1.2, frames: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (8, 10) if frames == 1 else (frames, 8, 10)
    write_mrc(path, np.random.default_rng(0).normal(size=shape), pixel)
    return path


def star(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


V31 = """data_optics
loop_
_rlnOpticsGroupName
_rlnOpticsGroup
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnMicrographPixelSize
_rlnStrangeOptics
a 1 300 2.7 0.1 1.2 alpha
b 7 200 1.4 0.07 0.9 beta

data_micrographs
loop_
_rlnStrange
_rlnMicrographName
_rlnOpticsGroup
'two words' x.mrc 7
007 y.mrc 1

data_other
_rlnKey value
"""

V30 = """data_
loop_
_rlnMicrographName
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnDetectorPixelSize
_rlnMagnification
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
x.mrc 300 2.7 0.1 5.0 50000 10000 9000 33
y.mrc 300 2.7 0.1 5.0 40000 11000 9500 -20
"""


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(words, min_size=3, max_size=3), max_size=5), st.booleans())
def test_star_round_trip_of_any_text(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], loop: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.star"
    rows = rows if loop else (rows or [["a", "b", "c"]])[:1]
    block = StarBlock("t", ("a", "b", "c"), tuple(tuple(row) for row in rows), loop, str(path))
    write_star(path, [block])
    assert read_star(path) == (block,)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_numbers_survive_as_float32(value: float) -> None:
    assert np.float32(star_value(value)) == np.float32(value)


@pytest.mark.real
def test_real_star_files_read_as_starfile_reads_them(data: Path) -> None:
    files = [*data.glob("particles/*/*.star"), *data.glob("apoferritin/*.star"), *data.glob("detectors/*.star")]
    assert len(files) > 10
    for file in files:
        other = starfile.read(file, always_dict=True)
        for block in read_star(file):
            table = other[block.name]
            assert list(block.labels) == list(table.columns)
            for label in block.labels:
                if table[label].dtype.kind in "if":
                    np.testing.assert_array_equal(block.numbers(label), table[label].to_numpy(dtype=np.float64))
                else:
                    assert list(block.column(label)) == list(table[label])


def test_relion_31_and_its_rewriting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "x.mrc", 0.9)
    image(tmp_path / "y.mrc", 1.2)
    catalogue = read_catalogue(star(tmp_path / "in.star", V31))
    assert [record.name for record in catalogue] == ["x", "y"]
    x, y = catalogue.micrographs
    assert catalogue.optics_of(x).voltage_in_kilovolts == 200
    assert catalogue.optics_of(y).pixel_size_in_angstroms == 1.2
    write_micrographs_star("out.star", catalogue, {"rlnDefocusU": [1.0 / 3, 2e4], "rlnStrange2": ["p", "q r"]})
    blocks = {block.name: block for block in read_star("out.star")}
    assert sorted(blocks["optics"].column("rlnStrangeOptics")) == ["alpha", "beta"]
    assert dict(zip(*map(blocks["optics"].column, ("rlnOpticsGroup", "rlnVoltage")), strict=True)) == {
        "7": "200.000000",
        "1": "300.000000",
    }
    assert blocks["micrographs"].column("rlnStrange") == ("two words", "007")
    assert blocks["micrographs"].column("rlnStrange2") == ("p", "q r")
    assert blocks["micrographs"].column("rlnOpticsGroup") == ("7", "1")
    assert np.float32(blocks["micrographs"].numbers("rlnDefocusU")[0]) == np.float32(1 / 3)
    assert blocks["other"].rows == (("value",),)
    again = read_catalogue("out.star")
    assert [catalogue.optics_of(r).pixel_size_in_angstroms for r in catalogue] == [
        again.optics_of(r).pixel_size_in_angstroms for r in again
    ]
    with pytest.raises(InputError, match="1 values for 2 rows"):
        write_micrographs_star("out.star", catalogue, {"rlnX": [1]})


def test_relion_30_makes_optics_groups_of_its_rows(tmp_path: Path) -> None:
    image(tmp_path / "x.mrc", 1.0)
    image(tmp_path / "y.mrc", 1.25)
    catalogue = read_catalogue(star(tmp_path / "in.star", V30))
    assert [catalogue.optics_of(r).pixel_size_in_angstroms for r in catalogue] == pytest.approx([1.0, 1.25])
    ctf = catalogue.micrographs[1].ctf
    assert ctf is not None
    assert (ctf.defocus_u_in_angstroms, ctf.defocus_v_in_angstroms, ctf.defocus_angle_in_degrees) == (11000, 9500, -20)
    write_micrographs_star(tmp_path / "out.star", catalogue)
    optics, micrographs = read_star(tmp_path / "out.star")
    assert list(optics.numbers("rlnMicrographPixelSize")) == pytest.approx([1.0, 1.25])
    assert "rlnMagnification" not in micrographs
    assert micrographs.column("rlnDefocusAngle") == ("33", "-20")


@pytest.mark.parametrize(
    ("label", "value", "header", "expected"),
    [
        ("rlnMicrographPixelSize", "1.2", 1.2, 1.2),
        ("rlnMicrographOriginalPixelSize", "1.2", 1.2, 1.2),
        ("rlnPixelSize", "1.2", 1.2, 1.2),
        ("rlnImagePixelSize", "4.8", 1.2, 1.2),  # a particle's: the header decides
    ],
)
def test_pixel_size_labels(tmp_path: Path, label: str, value: str, header: float, expected: float) -> None:
    image(tmp_path / "x.mrc", header)
    text = V31.replace("rlnMicrographPixelSize", label).replace("1.2", value).replace("'two words' x.mrc 7\n", "")
    catalogue = read_catalogue(star(tmp_path / "in.star", text.replace("y.mrc", "x.mrc")))
    assert catalogue.optics_of(catalogue.micrographs[0]).pixel_size_in_angstroms == pytest.approx(expected)


def test_pixel_size_traps(tmp_path: Path) -> None:
    image(tmp_path / "a.mrc", 1.0)
    with pytest.warns(CryoPrismWarning, match="exactly 1"):
        read_catalogue(tmp_path, **OPTICS)
    assert read_catalogue(tmp_path, pixel_size_in_angstroms=1.3, **OPTICS).optics
    with mrcfile.open(tmp_path / "a.mrc", mode="r+") as file:
        file.header.cella = (0, 0, 0)
    with pytest.raises(InputError, match="--pixel-size"):
        read_catalogue(tmp_path, **OPTICS)
    image(tmp_path / "x.mrc", 2.0)
    image(tmp_path / "y.mrc", 1.2)
    with pytest.warns(CryoPrismWarning, match="STAR file is believed"):
        read_catalogue(star(tmp_path / "in.star", V31))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no data_ block"),
        ("hello\n", "before any data_ block"),
        ("data_optics\nloop_\n_rlnOpticsGroup\n1\n", "no block"),
        ("data_micrographs\nloop_\n_rlnMicrographName\n", "no rows"),
        (V31.replace("data_optics", "data_somethingelse"), "no data_optics"),
        (V31.replace("x.mrc 7", "x.mrc 3"), "optics group 3"),
        (V31.replace("b 7", "b 1"), "two groups alike"),
        (V31.replace("b 7", "a 7"), "named 'a'"),
        (V31.replace("_rlnVoltage\n", "_rlnVolts\n"), "--voltage"),
        (V31.replace("a 1 300", "a 1 many"), "'many'"),
        (V31.replace("a 1 300", "a 1 -300"), "voltage"),
        (V31.replace("007 y.mrc 1", "007 y.mrc"), "2 values for the 3 columns"),
        (V31.replace("_rlnStrange\n", "_rlnOpticsGroup\n"), "twice"),
        (V31.replace("y.mrc", "nowhere.mrc"), "1 of 2 images do not exist"),
        (V31.replace("y.mrc", "x.mrc").replace("0.07 0.9", "0.07 1.2").replace("x.mrc", "y.mrc"), "listed 2 times"),
    ],
)
def test_damaged_star_files_are_named_with_a_remedy(tmp_path: Path, text: str, message: str) -> None:
    image(tmp_path / "x.mrc", 0.9)
    image(tmp_path / "y.mrc", 1.2)
    with pytest.raises(InputError, match=message) as caught:
        read_catalogue(star(tmp_path / "in.star", text))
    assert caught.value.remedy.endswith(".")


def test_binary_star_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.star").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="binary"):
        read_catalogue(tmp_path / "x.star")


def test_folders_globs_and_lists(tmp_path: Path) -> None:
    for name in ("b.mrc", "a.mrc", "sub/c.mrc"):
        image(tmp_path / name)
    image(tmp_path / "movie.mrcs", frames=3)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.mrc").write_text("x")
    folder = read_catalogue(tmp_path, **OPTICS)
    assert [(r.name, r.is_movie) for r in folder] == [("a", False), ("b", False), ("movie", True)]
    assert [r.name for r in read_catalogue(f"{tmp_path}/**/*.mrc", **OPTICS)] == ["a", "b", "c"]
    assert [r.name for r in read_catalogue([tmp_path / "b.mrc", tmp_path / "a.mrc"], **OPTICS)] == ["b", "a"]
    assert len(read_catalogue(tmp_path / "a.mrc", **OPTICS)) == 1


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty folder"):
        read_catalogue(tmp_path, **OPTICS)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="holds no image"):
        read_catalogue(tmp_path, **OPTICS)
    with pytest.raises(InputError, match="matches nothing"):
        read_catalogue(f"{tmp_path}/*.mrc", **OPTICS)
    with pytest.raises(InputError, match="matches 1 files but no image"):
        read_catalogue(f"{tmp_path}/*.txt", **OPTICS)
    with pytest.raises(InputError, match="does not exist"):
        read_catalogue(tmp_path / "none", **OPTICS)
    with pytest.raises(InputError):
        read_catalogue(tmp_path / "notes.txt" / "inside", **OPTICS)
    with pytest.raises(InputError, match="empty"):
        read_catalogue([], **OPTICS)
    image(tmp_path / "a.mrc")
    with pytest.raises(InputError, match="--voltage"):
        read_catalogue(tmp_path)
    with pytest.warns(CryoPrismWarning, match=r"Cs \(2.7"):
        read_catalogue(tmp_path, voltage_in_kilovolts=300)


def test_equal_stems(tmp_path: Path) -> None:
    for name in ("one/a.mrc", "two/a.mrc", "b.mrc"):
        image(tmp_path / name)
    names = [r.name for r in read_catalogue(f"{tmp_path}/**/*.mrc", **OPTICS)]
    assert names == ["b", "one_a", "two_a"]
    image(tmp_path / "one" / "a.mrcs", frames=2)
    with pytest.raises(InputError, match="same outputs"):
        read_catalogue(tmp_path / "one", **OPTICS)


def test_mixed_pixel_sizes_become_groups(tmp_path: Path) -> None:
    image(tmp_path / "a.mrc", 1.1)
    image(tmp_path / "b.mrc", 0.8)
    catalogue = read_catalogue(tmp_path, **OPTICS)
    assert [catalogue.optics_of(r).pixel_size_in_angstroms for r in catalogue] == pytest.approx([1.1, 0.8])


def test_names_resolve_beside_the_star_file_then_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    image(project / "mics" / "x.mrc", 0.9)
    image(project / "mics" / "y.mrc", 1.2)
    (project / "CtfFind").mkdir()
    text = V31.replace("x.mrc", "mics/x.mrc").replace("y.mrc", "mics/y.mrc")
    path = star(project / "CtfFind" / "in.star", text)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(InputError, match="2 of 2"):
        read_catalogue(path)
    monkeypatch.chdir(project)
    catalogue = read_catalogue(path)
    write_micrographs_star("again.star", catalogue)
    assert read_star("again.star")[1].column("rlnMicrographName") == ("mics/x.mrc", "mics/y.mrc")


@pytest.mark.real
def test_real_catalogues(data: Path) -> None:
    catalogue = read_catalogue(data / "apoferritin/micrographs.star")
    assert len(catalogue) == 9
    group = catalogue.optics_of(catalogue.micrographs[0])
    assert (group.pixel_size_in_angstroms, group.voltage_in_kilovolts, group.amplitude_contrast) == (1.5, 300, 0.07)
    particles = read_catalogue(data / "particles/empiar_10017/particles.star", must_exist=False)
    assert len(particles) == len({r.path for r in particles})
    assert particles.optics_of(particles.micrographs[0]).pixel_size_in_angstroms == pytest.approx(3.54, abs=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = read_catalogue(f"{data}/curation/**/*.png", pixel_size_in_angstroms=8.0, **OPTICS)
    assert len(pictures) == 12


@pytest.mark.relion
def test_relion_opens_our_star_file(tmp_path: Path, relion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "x.mrc", 0.9)
    image(tmp_path / "y.mrc", 1.2)
    catalogue = read_catalogue(star(tmp_path / "in.star", V31.replace("'two words'", "word")))
    write_micrographs_star("out.star", catalogue, {"rlnDefocusU": [20000.0, 10000.0], "rlnCtfBfactor": [12.5, 1e-7]})
    subprocess.run(
        [
            *("relion_star_handler", "--i", "out.star", "--o", "kept.star", "--select", "rlnDefocusU"),
            *("--minval", "15000", "--maxval", "25000"),
        ],
        check=True,
        capture_output=True,
    )
    kept = read_catalogue("kept.star")
    assert [r.name for r in kept] == ["x"]
    assert kept.optics_of(kept.micrographs[0]).voltage_in_kilovolts == 200
    out = subprocess.run(
        ["relion_star_printtable", "out.star", "data_micrographs", "_rlnMicrographName", "_rlnCtfBfactor"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert (out[0], float(out[1]), out[2]) == ("x.mrc", 12.5, "y.mrc")
    assert float(out[3]) == pytest.approx(1e-7, rel=1e-4)


def test_mtf_interpolates_and_clamps(tmp_path: Path) -> None:
    text = "data_m\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n0 1\n0.2 0.8\n0.5 0.2\n"
    mtf = read_mtf(star(tmp_path / "m.star", text))
    got = mtf.at(torch.tensor([[0.0, 0.1, -0.2], [0.35, 0.5, 0.9]]))
    torch.testing.assert_close(got, torch.tensor([[1.0, 0.9, 0.8], [0.5, 0.2, 0.2]]))
    for bad in (text.replace("0.2 0.8", "0.6 0.8"), text.replace("0.8", "-1"), text.replace("rlnMtfValue", "rlnX")):
        with pytest.raises(InputError, match=r"m\.star"):
            read_mtf(star(tmp_path / "m.star", bad))


@pytest.mark.real
def test_real_mtfs_fall_from_one(data: Path) -> None:
    for file in data.glob("detectors/*.star"):
        mtf = read_mtf(file)
        curve = mtf.at(torch.linspace(0, 0.5, 51))
        assert float(curve[0]) == pytest.approx(1.0, abs=1e-3), file
        assert float(curve[-1]) < float(curve[20]) < 1, file
