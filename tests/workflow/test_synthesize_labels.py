"""What the tables of ``cryoprism synthesize`` tell other programs."""

import json
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from synthetic_sets import config_for

from cryoprism.formats import read_catalogue, read_image, read_star, write_star
from cryoprism.formats.mrc import read_mrc
from cryoprism.workflow import synthesize_session


def two_lenses(session, path):
    """Write a table of the real micrographs whose second one is of 200 kV and another Cs."""
    optics, table = read_star(session / "real" / "micrographs.star")
    names = [str(session / "real" / name) for name in table.column("rlnMicrographName")]
    rows = [dict(zip(optics.labels, row, strict=True)) for row in (optics.rows[0], optics.rows[0])]
    rows[1] |= {"rlnOpticsGroupName": "other", "rlnOpticsGroup": "2", "rlnVoltage": "200"}
    rows[1] |= {"rlnSphericalAberration": "1.4"}
    for row in rows:
        row.pop("rlnMtfFileName", None)
    both = replace(optics, labels=tuple(rows[0]), rows=tuple(tuple(row.values()) for row in rows))
    write_star(path, [both, table.with_columns({"rlnMicrographName": names, "rlnOpticsGroup": ["1", "2"]})])
    return path


@pytest.fixture(scope="module")
def of_two_lenses(session, tmp_path_factory):
    """Two micrographs and their movies, matched to real ones of two lenses that were picked without coordinates."""
    folder = tmp_path_factory.mktemp("lenses")
    table = two_lenses(session, folder / "real.star")
    changes = {"match": (str(table),), "coordinates": None, "frames": 2}
    return synthesize_session(config_for(session, folder / "set", **changes)).output


def test_every_lens_is_an_optics_group(of_two_lenses):
    out = of_two_lenses
    truths = [json.loads((out / "truth" / f"00000{i}.json").read_text()) for i in (1, 2)]
    true = {f"00000{i}": truth["scene"]["voltage_in_kilovolts"] for i, truth in enumerate(truths, 1)}
    assert set(true.values()) == {200.0, 300.0}
    for name, label in (
        ("micrographs", "rlnMicrographName"), ("particles", "rlnMicrographName"), ("movies", "rlnMicrographMovieName"),
    ):  # fmt: skip
        optics, table = read_star(out / f"{name}.star")
        groups = dict(zip(optics.column("rlnOpticsGroup"), optics.records(), strict=True))
        assert len(groups) == 2
        told = {row[label].split("/")[1][:6]: groups[row["rlnOpticsGroup"]] for row in table.records()}
        assert {stem: float(group["rlnVoltage"]) for stem, group in told.items()} == true
        cs = {float(group["rlnVoltage"]): float(group["rlnSphericalAberration"]) for group in told.values()}
        assert cs == {300.0: 2.7, 200.0: 1.4}


def test_real_micrographs_are_picked_through_their_own_lenses(of_two_lenses):
    picked = read_catalogue(str(of_two_lenses / "match" / "picks" / "micrographs.star"))
    assert {r.name: picked.optics_of(r).voltage_in_kilovolts for r in picked} == {"00001": 300.0, "00002": 200.0}


@pytest.mark.relion
def test_relion_extracts_at_the_labels(made, tmp_path):
    """RELION reads no table of particles that does not tell its boxes."""
    if shutil.which("relion_preprocess") is None:
        pytest.skip("RELION is not installed")
    out = tmp_path / "set"
    shutil.copytree(made.output, out)
    command = ["relion_preprocess", "--i", "micrographs.star", "--reextract_data_star", "particles.star", "--extract"]
    command += ["--extract_size", "96", "--part_dir", "Extract/", "--part_star", "Extract/particles.star"]
    run = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-500:]
    optics, particles = read_star(out / "Extract" / "particles.star")
    assert optics.column("rlnImageSize") == ("96",)
    assert float(optics.column("rlnImagePixelSize")[0]) == pytest.approx(2.5)
    whole = read_image(out / "micrographs" / "000001.mrc").data
    mine = [row for row in particles.records() if "000001" in row["rlnMicrographName"]]
    assert mine
    stack, _ = read_mrc(out / "Extract" / "micrographs" / "000001.mrcs")
    for row, image in zip(mine, stack, strict=True):
        x, y = (int(float(row[f"rlnCoordinate{axis}"])) for axis in "XY")
        if 48 <= x <= 480 - 48 and 48 <= y <= 448 - 48:
            assert torch.equal(image, whole[y - 48 : y + 48, x - 48 : x + 48])


def test_the_table_of_particles_tells_its_boxes(made):
    optics = read_star(made.output / "particles.star")[0]
    (row,) = optics.records()
    assert float(row["rlnImagePixelSize"]) == 2.5
    assert int(row["rlnImageSize"]) * 2.5 > 1.2 * 121
    assert row["rlnImageDimensionality"] == "2"
