"""The pages of ``prove`` and ``assess``: the model in its map, strips of residues, and words for a wrong frame."""

import csv
import io
import re
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from cryoprism.cli import main
from cryoprism.core import InputError
from cryoprism.evaluation.consistency import check_consistency, read_model
from cryoprism.formats import Volume, write_mrc
from cryoprism.workflow import ProveConfig, prove_model
from cryoprism.workflow.judgement import certificate_folder
from cryoprism.workflow.judgement.model_in_map import misfits, ranges_of, with_frame_remark
from cryoprism.workflow.judgement.scale_of_map import scale_of_map
from cryoprism.workflow.report._model_picture import model_section
from cryoprism.workflow.report._residue_strip import Cell, cells_of, residue_strips

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation" / "novelty"))
from made_shapes import helix, write_pdb

VOXEL = 1.5
SIZE = 48


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no prover: what is outside is found without it
    path = tmp_path / "helix.pdb"
    write_pdb(path, helix(30))
    return path


def volume_of(model, origin=None, sign=1.0, voxel=VOXEL, shown_origin=None):
    """A map of the model's own atoms, in its own frame unless told otherwise."""
    held = read_model(model)
    places = (held.points + held.corner) / 1000
    start = np.array(origin if origin is not None else np.round(places.mean(axis=0)) - SIZE // 2 * VOXEL)
    data = np.zeros((SIZE,) * 3, dtype=np.float32)
    index = np.rint((places - start) / VOXEL).astype(int)
    np.add.at(data, tuple(index[:, ::-1].T), 1)
    data = sign * gaussian_filter(data, 1.5)
    where = start if shown_origin is None else np.array(shown_origin)
    return Volume(torch.from_numpy(data), voxel, tuple(where.tolist()))


def judged(model, volume):
    return check_consistency(model, volume=volume)


def test_a_model_in_its_map_has_no_remark_and_no_misfit(model):
    volume = volume_of(model)
    result, remark = with_frame_remark(judged(model, volume), volume)
    assert remark is None
    assert misfits(result) == frozenset()
    page = model_section(result, volume)
    assert page.count("<svg") == page.count("<image") == 3
    assert 'class="o-out"' not in page
    assert "Outside the map" not in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shown_origin": (400.0, 300.0, -200.0)}, "brings their centres together"),
        ({"sign": -1.0}, "its contrast is inverted"),
        ({"voxel": 4.5}, "--pixel-size"),
    ],
)
def test_a_model_outside_its_map_is_told_why(model, changes, words):
    volume = volume_of(model, **changes)
    result, remark = with_frame_remark(judged(model, volume), volume)
    assert words in remark
    assert remark in result.sentences()


def test_a_wrong_voxel_size_is_named_before_any_shift(model):
    volume = volume_of(model, voxel=1.6 * VOXEL)
    _, remark = with_frame_remark(judged(model, volume), volume)
    assert "Moved by" not in remark
    named = float(re.search(r"probably ([\d.]+) Å", remark)[1])
    assert named == pytest.approx(VOXEL, rel=0.03)
    held = read_model(model)
    places = (held.points + held.corner) / 1000
    assert scale_of_map(places, volume).scale == pytest.approx(1.6, rel=0.03)
    assert scale_of_map(places, volume_of(model)) is None
    noise = replace(volume, data=torch.randn(volume.data.shape, generator=torch.Generator().manual_seed(0)))
    assert scale_of_map(places, noise) is None


def test_the_shift_that_is_named_is_the_one_that_was_made(model):
    held = read_model(model)
    middle = (held.points + held.corner).mean(axis=0) / 1000
    true = np.round(middle) - SIZE // 2 * VOXEL
    volume = volume_of(model, shown_origin=true + np.array((100.0, -50.0, 25.0)))
    _, remark = with_frame_remark(judged(model, volume), volume)
    moved = [float(text) for text in re.search(r"Moved by \(([^)]*)\)", remark)[1].split(",")]
    assert np.allclose(moved, (100, -50, 25), atol=3)


def test_a_model_that_counts_from_the_first_voxel_is_told_so(tmp_path, model):
    held = read_model(model)
    middle = (held.points + held.corner).mean(axis=0) / 1000
    true = np.round(middle) - SIZE // 2 * VOXEL
    # The header's origin is such that the model, moved by it, fits: the model lacks it.
    volume = volume_of(model, shown_origin=true)
    lacking = tmp_path / "lacking.pdb"
    lines = model.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("ATOM"):
            place = [float(line[k : k + 8]) - shift for k, shift in zip((30, 38, 46), true, strict=True)]
            lines[number] = line[:30] + "".join(f"{value:8.3f}" for value in place) + line[54:]
    lacking.write_text("\n".join(lines))
    _, remark = with_frame_remark(judged(lacking, volume), volume)
    assert "counts from the map's first voxel" in remark


def test_residues_outside_are_marked_and_named_as_ranges(model):
    volume = volume_of(model)
    data = volume.data.clone()
    held = read_model(model)
    last = range(20, len(held.residues))
    atoms = np.isin(held.residue_of, list(last))
    places = (held.points[atoms] + held.corner) / 1000 - np.array(volume.origin_in_angstroms)
    cut = int(np.floor(places[:, 2].min() / VOXEL))
    data[cut:] = 0  # the helix runs along z
    cutoff = replace(volume, data=data)
    result = judged(model, cutoff)
    outside = misfits(result)
    assert 0 < len(outside) < 20
    ranges = ranges_of(result.model, outside)
    assert [one.residues for one in ranges] == [len(outside)]
    page = model_section(result, cutoff)
    assert page.count('class="o-out"') == 3 * len(outside)
    assert ranges[0].words() in page
    assert with_frame_remark(result, cutoff)[1] is None


def test_ranges_end_where_a_chain_or_the_order_does(model):
    held = read_model(model)
    found = ranges_of(held, (4, 2, 3, 9))
    assert [(one.first.split()[-1], one.last.split()[-1], one.residues) for one in found] == [
        (str(held.residues[2].number), str(held.residues[4].number), 3),
        (str(held.residues[9].number), str(held.residues[9].number), 1),
    ]


def test_without_a_map_the_trace_stands_alone(model):
    page = model_section(check_consistency(model), None)
    assert page.count("<svg") == 3
    assert "<image" not in page
    assert "No map was given" in page


def chain(length, refuted=()):
    return [
        Cell(f"Ala {k}", k, "refuted" if k in refuted else "proved", "it clashes" if k in refuted else "")
        for k in range(1, length + 1)
    ]


def drawings(page):
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_a_long_chain_is_broken_into_rows_and_its_refuted_residues_are_named():
    page = residue_strips({"A": chain(1000, {5, 6, 7, 500})})
    (drawing,) = drawings(page)
    assert len(drawing.findall("g")) == 5
    assert [one.text for one in drawing.iter("text") if one.get("class") == "named"] == ["Ala 5–7", "Ala 500"]
    shapes = list(drawing.iter("path"))
    assert len(shapes) == 3 + 1 + 3 + 1 + 1  # runs, not residues
    assert sum(one.get("class") == "s-refuted" for one in shapes) == 2
    assert "1,000 residues, 4 refuted" in page


def test_names_that_find_no_room_are_counted():
    (drawing,) = drawings(residue_strips({"A": chain(200, set(range(1, 200, 2)))}))
    named = [one.text for one in drawing.iter("text") if one.get("class") == "named"]
    (rest,) = [one.text for one in drawing.iter("text") if (one.text or "").startswith("and ")]
    assert len(named) + int(rest.split()[1]) == 100


def test_of_many_chains_those_with_faults_come_first_and_clean_ones_are_listed():
    chains = {f"C{k}": chain(20, {3} if k in {50, 70} else ()) for k in range(100)}
    page = residue_strips(chains)
    assert re.findall(r"Chain (C\d+)", page) == ["C50", "C70"]
    assert "All proved: chains C0 (20)" in page
    folded = residue_strips({f"C{k}": chain(20, {3}) for k in range(30)})
    assert "14 more chains" in folded
    assert len(drawings(folded)) == 30


def test_names_from_the_file_are_escaped_on_the_page():
    page = residue_strips({"<b>&": [Cell('"<i>', 1, "refuted", "<u>")]})
    assert not any(text in page for text in ("<b>", "<i>", "<u>"))


def test_every_residue_but_waters_is_in_a_strip(model):
    cells = cells_of(check_consistency(model))
    assert sum(map(len, cells.values())) == 30
    assert {cell.kind for several in cells.values() for cell in several} == {"unknown"}


def test_a_contour_that_holds_the_whole_map_is_refused(model):
    with pytest.raises(InputError, match="bounds nothing"):
        check_consistency(model, volume=volume_of(model), contour=-9.0)


def test_odd_names_in_atoms_csv_are_quoted(tmp_path, model):
    text = model.read_text().replace(" CB  ALA A", ' C," ALA A')
    odd = tmp_path / "odd.pdb"
    odd.write_text(text)
    result = check_consistency(odd)
    result.write_certificate(tmp_path / "certificate")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "certificate/atoms.csv").read_text())))
    assert [row["atom"] for row in rows] == list(result.model.names)
    assert len(rows[0]) == 13


def test_an_interrupted_certificate_leaves_nothing_half_written(tmp_path, model, monkeypatch):
    result = check_consistency(model)
    certificate_folder.put_certificate(result, tmp_path)
    before = (tmp_path / "certificate/atoms.csv").read_text()

    def interrupted(folder):
        folder.mkdir()
        (folder / "atoms.csv").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(type(result), "write_certificate", lambda self, folder: interrupted(folder))
    with pytest.raises(KeyboardInterrupt):
        certificate_folder.put_certificate(result, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("certificate*")) == ["certificate"]
    assert (tmp_path / "certificate/atoms.csv").read_text() == before


def test_the_page_of_prove_explains_its_words_and_says_why_the_map_does_not_fit(tmp_path, model):
    volume = volume_of(model, sign=-1.0)
    write_mrc(tmp_path / "map.mrc", volume.data.numpy(), VOXEL, True)
    out = tmp_path / "out"
    prove_model(ProveConfig(model_file=model, map_file=tmp_path / "map.mrc", output=out))
    page = (out / "report.html").read_text()
    assert "A check is what one rule asks" in page
    assert "LogicScore is the share" in page
    assert 'class="notice"' in page
    assert page.index('class="notice"') < page.index('id="model"') < page.index('id="rules"')


@pytest.mark.parametrize("command", ["prove", "assess"])
def test_a_folder_in_place_of_a_model_is_named_as_one(tmp_path, capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([command, str(tmp_path), "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert "is a folder, not a file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
