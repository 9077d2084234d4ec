import functools
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from synthetic_sets import config_for

from cryoprism.cli import main
from cryoprism.core import CryoPrismWarning, InputError
from cryoprism.formats import read_image, read_map, read_star, write_star
from cryoprism.particles.network import load_picker
from cryoprism.structure import FourierVolume, load_pose_network
from cryoprism.structure.fsc import fourier_shell_correlation
from cryoprism.synthesis import scene_from_dict, star_block
from cryoprism.workflow import (
    ExtractConfig,
    ReconstructConfig,
    extract_session,
    reconstruct_session,
    synthesize_session,
)
from cryoprism.workflow.maps.boxes import box_for
from cryoprism.workflow.particles.mask_files import artefact_labels_beside
from cryoprism.workflow.synthesis import realism
from cryoprism.workflow.synthesis.poses import posed_particles_of


def test_contract(made):
    out = made.output
    assert made.micrographs == 2
    labels = {block.name: block for block in read_star(out / "particles.star")}["particles"]
    assert made.particles == len(labels.rows)
    assert {"rlnCoordinateX", "rlnAngleRot", "rlnOriginXAngst", "rlnDefocusU", "rlnClassNumber"} <= set(labels.labels)
    table = {block.name: block for block in read_star(out / "micrographs.star")}
    assert {"rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"} <= set(table["micrographs"].labels)
    for name in ("000001", "000002"):
        image = read_image(out / "micrographs" / f"{name}.mrc")
        mask = read_image(out / "masks" / f"{name}.mrc")
        truth = json.loads((out / "truth" / f"{name}.json").read_text())
        assert image.data.shape == mask.data.shape == (448, 480)
        assert truth["simulated"] is True
        numbers = {int(n) for n in mask.data.unique()} - {0}
        assert numbers <= set(range(1, len(truth["particles"]) + 1))
        assert len(numbers) > 0.7 * len(truth["particles"])
        assert truth["matched_to"] in {"00001", "00002"}
    assert (out / "job.json").is_file()


def test_micrographs_have_the_grey_values_of_the_real_ones(session, made):
    real = torch.stack([read_image(f).data for f in sorted((session / "real" / "micrographs").glob("*.mrc"))])
    ours = torch.stack([read_image(f).data for f in sorted((made.output / "micrographs").glob("*.mrc"))])
    assert float(ours.mean()) == pytest.approx(float(real.mean()), rel=0.02)
    assert float(ours.std()) == pytest.approx(float(real.std()), rel=0.1)


def test_masks_lie_on_the_particles_that_they_number(made):
    mask = read_image(made.output / "masks" / "000001.mrc").data
    truth = json.loads((made.output / "truth" / "000001.json").read_text())
    hits = [
        int(mask[min(round(p["y_in_pixels"]) + 20, 447), round(p["x_in_pixels"])]) in (0, i)
        or int((mask == i).sum()) > 0
        for i, p in enumerate(truth["particles"], 1)
    ]
    assert all(hits)


def test_workers_change_no_pixel(session, made, tmp_path):
    two = synthesize_session(config_for(session, tmp_path / "two", workers=2))
    for name in ("000001", "000002"):
        one_image = read_image(made.output / "micrographs" / f"{name}.mrc").data
        assert torch.equal(one_image, read_image(two.output / "micrographs" / f"{name}.mrc").data)


def test_threads_change_no_pixel(session, made, tmp_path, monkeypatch):
    """Sums of large images round differently in two threads: each micrograph is made in one."""
    seen = []
    # By its name the package has the function.
    module = sys.modules["cryoprism.workflow.synthesis.making"]
    draw = module.draw_noise
    monkeypatch.setattr(module, "draw_noise", lambda *a, **k: seen.append(torch.get_num_threads()) or draw(*a, **k))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = synthesize_session(config_for(session, tmp_path / "threads", count=1))
    finally:
        torch.set_num_threads(before)
    assert seen == [1]
    one_image = read_image(made.output / "micrographs" / "000001.mrc").data
    assert torch.equal(one_image, read_image(two.output / "micrographs" / "000001.mrc").data)


def test_a_set_grows(session, made, tmp_path):
    out = tmp_path / "grown"
    shutil.copytree(made.output, out)
    before = (out / "micrographs" / "000001.mrc").stat().st_mtime_ns
    grown = synthesize_session(config_for(session, out, count=3, only_do_unfinished=True))
    assert (grown.made, grown.skipped, grown.micrographs) == (1, 2, 3)
    assert (out / "micrographs" / "000001.mrc").stat().st_mtime_ns == before
    assert len(read_star(out / "micrographs.star")[1].rows) == 3


@pytest.fixture(scope="module")
def quiet_particles(session, tmp_path_factory):
    """Particles cut at the labels of four micrographs without noise: what a map lacks is the labels' fault."""
    out = tmp_path_factory.mktemp("quiet")
    made = synthesize_session(config_for(session, out / "set", count=4, noise="none"))
    extracted = extract_session(
        ExtractConfig(
            inputs=(str(made.output / "micrographs.star"),),
            coordinates=made.output / "particles.star",
            box_in_pixels=72,
            output=out / "extract",
            normalise=False,
        )
    )
    return extracted.star


def _least_correlation(truth, found):
    """Lowest FSC of the shells up to 0.9 Nyquist inside the particle's sphere."""
    side = min(truth.shape[0], found.shape[0])

    def middle(volume):
        start = volume.shape[0] // 2 - side // 2
        return volume[start : start + side, start : start + side, start : start + side]

    axis = torch.arange(side) - side // 2
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).float().sqrt() * 2.5
    mask = torch.sigmoid((70.0 - radius) / 2.0)
    curve = fourier_shell_correlation(middle(truth), middle(found), 2.5, mask=mask)
    return float(curve.fsc[1 : int(0.9 * side / 2)].min())


@pytest.mark.filterwarnings("ignore:.*A half has only")
@pytest.mark.filterwarnings("ignore:.*The FSC stays above")
@pytest.mark.parametrize("symmetry", ["O", "C1"])
def test_the_labels_give_the_map_back(session, quiet_particles, tmp_path, symmetry):
    made = reconstruct_session(
        ReconstructConfig(particles_file=quiet_particles, symmetry=symmetry, output=tmp_path / "map")
    )
    truth, found = read_map(session / "shell.mrc").data, read_map(made.output / "map.mrc").data
    assert _least_correlation(truth, found) > 0.5


@pytest.mark.relion
def test_relion_gets_the_map_back_too(session, quiet_particles, tmp_path):
    if shutil.which("relion_reconstruct") is None:
        pytest.skip("RELION is not installed")
    run = subprocess.run(
        ["relion_reconstruct", "--i", quiet_particles.name, "--o", str(tmp_path / "map.mrc"), "--ctf", "--sym", "O"],
        cwd=quiet_particles.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-500:]
    truth, found = read_map(session / "shell.mrc").data, read_map(tmp_path / "map.mrc").data
    assert _least_correlation(truth, found) > 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"maps": ("nowhere.mrc",)}, "nowhere.mrc"),
        ({"match": ("nowhere/*.mrc",)}, "nowhere"),
        ({"shares": (0.5, 0.5)}, "--share"),
        ({"maps": ("nowhere.mrc", "nowhere.mrc"), "shares": (1.5, -0.5)}, "--share"),
        ({"filaments": 2}, "--helical-rise"),
        ({"morph": 3}, "--morph"),
        ({"ice_thickness_in_angstroms": 60.0}, "--ice-thickness: 60 Å"),
        ({"noise": "pink"}, "--noise"),
    ],
)
def test_bad_input_is_named(session, tmp_path, changes, words):
    with pytest.raises(InputError) as error:
        synthesize_session(config_for(session, tmp_path / "out", **changes))
    assert words in str(error.value)
    assert not (tmp_path / "out" / "particles.star").exists()


@pytest.mark.parametrize("wrong", ["match", "coordinates", "second map"])
def test_files_are_looked_at_before_a_structure_is_read(session, tmp_path, monkeypatch, wrong):
    def read(config):
        raise AssertionError("the structure was read first")

    monkeypatch.setattr(sys.modules["cryoprism.workflow.synthesis.synthesize_session"], "population_of", read)
    optics, table = read_star(session / "real" / "micrographs.star")
    empty = tmp_path / "empty.star"
    write_star(empty, [optics, replace(table, rows=())])
    changes = {
        "match": {"match": (str(empty),)},
        "coordinates": {"coordinates": empty},
        "second map": {"maps": (f"{session / 'shell.mrc'},{tmp_path / 'empty.mrc'}",)},
    }
    with pytest.raises(InputError, match="empty"):
        synthesize_session(config_for(session, tmp_path / "out", **changes[wrong]))
    assert not (tmp_path / "out").exists()


def test_a_table_that_counts_overfocus_as_positive_is_refused(session, tmp_path):
    optics, table = read_star(session / "real" / "truth.star")
    columns = {
        "rlnMicrographName": [str(session / "real" / name) for name in table.column("rlnMicrographName")],
        "rlnDefocusU": [-float(value) for value in table.column("rlnDefocusU")],
        "rlnDefocusV": [-float(value) for value in table.column("rlnDefocusV")],
    }
    write_star(tmp_path / "other_hand.star", [optics, table.with_columns(columns)])
    with pytest.raises(InputError, match=r"--match: 00001 has a defocus of -\d.*overfocus.*Change the sign"):
        synthesize_session(config_for(session, tmp_path / "out", match=(str(tmp_path / "other_hand.star"),)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["micrographs.star", "micrographs"])
def test_a_real_micrograph_that_cannot_be_read_is_named_and_left_out(session, tmp_path, source):
    shutil.copytree(session / "real", tmp_path / "real")
    cut = sorted((tmp_path / "real" / "micrographs").glob("*.mrc"))[1]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    lens = {"voltage_in_kilovolts": 300.0, "spherical_aberration_in_millimeters": 2.7, "amplitude_contrast": 0.1}
    changes = {"match": (str(tmp_path / "real" / source),), "count": 1, **lens}
    with pytest.warns(CryoPrismWarning, match=r"00002 is left out: .*cut short"):
        made = synthesize_session(config_for(session, tmp_path / "out", **changes))
    assert made.micrographs == 1


def test_a_real_micrograph_without_coordinates_is_not_taken_for_an_empty_one(session, tmp_path):
    _, table = read_star(session / "real" / "particles.star")
    folder = tmp_path / "coordinates"
    folder.mkdir()
    mine = [row for row in table.records() if "00001" in row["rlnMicrographName"]]
    assert 0 < len(mine) < len(table)
    labels = ("rlnCoordinateX", "rlnCoordinateY")
    write_star(folder / "00001.star", [star_block("", {name: [row[name] for row in mine] for name in labels})])
    with pytest.warns(CryoPrismWarning, match="00002 is not matched"):
        made = synthesize_session(config_for(session, tmp_path / "out", count=2, coordinates=folder))
    truths = [json.loads(file.read_text()) for file in sorted((made.output / "truth").glob("*.json"))]
    assert {truth["matched_to"] for truth in truths} == {"00001"}
    assert all(truth["particles"] for truth in truths)


def test_a_picker_is_trained_on_the_set(session, made, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(made.output, out)
    done = synthesize_session(
        config_for(session, out, count=5, only_do_unfinished=True, train_picker=True, picker_steps=12)
    )
    assert done.picker is not None
    picker = load_picker(done.picker)
    assert "one specimen" in picker.notes["trained_on"]
    assert "synthetic micrographs" in (out / "picker.md").read_text()
    assert not (out / ".picker.pt").exists()


def test_a_pose_network_is_trained_on_the_set(session, made, tmp_path, capsys):
    out = tmp_path / "set"
    shutil.copytree(made.output, out)
    arguments = ["synthesize", "--map", str(session / "shell.mrc"), "--mass", "480", "--symmetry", "O", "--match"]
    arguments += [str(session / "real" / "micrographs.star"), "--coordinates", str(session / "real" / "particles.star")]
    arguments += ["--count", "4", "--no-realism", "--only-do-unfinished", "--out", str(out)]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--train-poses", "--pose-steps", "3"])
    assert end.value.code == 0
    assert "by chance" in capsys.readouterr().out
    found = load_pose_network(out / "poses.safetensors")
    assert found.network.config.symmetry == "O"
    assert 120 < found.diameter_in_angstroms < 220
    assert "median_error_in_degrees" in found.notes
    assert "synthetic micrographs" in (out / "poses.md").read_text()
    assert not (out / ".poses.pt").exists()


def test_particles_are_cut_where_the_labels_say(session, tmp_path):
    """Without noise, what is cut out is the map's own view at the labelled pose and defocus."""
    quiet = synthesize_session(config_for(session, tmp_path / "set", count=1, noise="none", particles_per_micrograph=6))
    truth = json.loads((quiet.output / "truth" / "000001.json").read_text())
    image = read_image(quiet.output / "micrographs" / "000001.mrc").data
    known, pixel = posed_particles_of(image, scene_from_dict(truth["scene"]), truth["particles"], 150.0)
    assert pixel * known.box == pytest.approx(2.5 * box_for(150.0, 2.5))
    volume = read_map(session / "shell.mrc").data
    # The volume stands in the box of the images, at its own voxels.
    box, side = box_for(150.0, 2.5), len(volume)
    assert side < box
    cube = torch.zeros(box, box, box)
    inner = slice(box // 2 - side // 2, box // 2 - side // 2 + side)
    cube[inner, inner, inner] = volume
    radius = 16
    seen = known.moved(torch.arange(len(known)), radius, torch.zeros(len(known), 2))
    views = FourierVolume.from_map(cube).slices(known.rotations, radius) * known.transfer[:, : seen.shape[1]]
    agreement = (seen * views.conj()).real.sum(1) / (seen.norm(dim=1) * views.norm(dim=1))
    assert float(agreement.median()) > 0.8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_poses": True, "count": 3}, "--train-poses: 3 micrographs"),
        ({"train_picker": True, "count": 3}, "--train-picker: 3 micrographs"),
        ({"train_poses": True, "count": 4, "maps": ("a.mrc", "b.mrc")}, "2 species"),
        ({"train_poses": True, "count": 4, "filaments": 1, "helical_rise": 5.0}, "filaments"),
    ],
)
def test_sets_that_cannot_be_trained_on_are_named(session, tmp_path, changes, words):
    with pytest.raises(InputError) as error:
        config_for(session, tmp_path / "out", **changes)
    assert words in str(error.value)


def test_realism_is_measured_and_shown(session, tmp_path, monkeypatch):
    """With two real micrographs none can be kept apart, and the page says so; classifiers are hardly trained here."""
    quick = functools.partial(realism.compare_realism, trainings=1, steps=6)
    monkeypatch.setattr(realism, "compare_realism", quick)
    done = synthesize_session(config_for(session, tmp_path / "set", realism=True))
    document = json.loads((done.output / "realism.json").read_text())
    assert document["kept_apart"] is False
    assert {"made (matched)", "gaussian", "poisson", "poisson-gaussian"} <= set(document["measures"])
    for row in document["measures"].values():
        assert 0 <= row["two_sample_auc"]["low"] <= row["two_sample_auc"]["value"] <= row["two_sample_auc"]["high"] <= 1
    assert {"gaussian", "spectrum"} <= set(document["advantages"])
    page = done.report.read_text()
    assert "were matched themselves" in page
    assert "Compared with simpler noise in pairs" in page
    assert "Which of these are real?" in page


def test_the_command(session, tmp_path, capsys):
    arguments = ["synthesize", "--map", str(session / "shell.mrc"), "--mass", "480", "--match"]
    arguments += [str(session / "real" / "micrographs.star"), "--coordinates", str(session / "real" / "particles.star")]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--count", "1", "--no-realism", "--preferred-view", "0,90", "--out", str(tmp_path / "run")])
    assert end.value.code == 0
    assert "1 synthetic micrographs" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--count", "0", "--out", str(tmp_path / "none")])
    assert end.value.code == 2
    assert "--count" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_noise_is_learned_once_and_its_share_written_down(session, made, tmp_path, monkeypatch):
    out = tmp_path / "learned"
    settings = {"noise": "learned", "learning_steps": 3}
    # As the command is: half the residual, whatever three steps are worth.
    monkeypatch.setattr(
        "cryoprism.synthesis.translation.training.best_strength", lambda *_: (0.5, {0.0: 1.0, 0.5: 0.9})
    )
    first = synthesize_session(config_for(session, out, **settings))
    weights = out / "match" / "translation.safetensors"
    before = weights.stat().st_mtime_ns
    assert not (out / "match" / ".translation.pt").exists()
    truth = json.loads((out / "truth" / "000001.json").read_text())["noise"]
    assert truth["kind"] == "matched"
    assert truth["share_of_learned_residual"] == 0.5
    learned = read_image(out / "micrographs" / "000001.mrc").data
    fitted = read_image(made.output / "micrographs" / "000001.mrc").data
    assert 0 < float((learned - fitted).std()) < 0.5 * float(fitted.std())
    page = first.report.read_text(encoding="utf-8")
    assert "A translation was trained for 3 steps" in page
    assert "between particles" in page
    grown = synthesize_session(config_for(session, out, count=3, only_do_unfinished=True, **settings))
    assert (grown.made, grown.skipped) == (1, 2)
    assert weights.stat().st_mtime_ns == before
    again = synthesize_session(config_for(session, tmp_path / "again", workers=2, **settings))
    assert torch.equal(read_image(again.output / "micrographs" / "000001.mrc").data, learned)


def test_learning_that_brings_nothing_changes_nothing(session, made, tmp_path, monkeypatch):
    monkeypatch.setattr("cryoprism.synthesis.translation.training.best_strength", lambda *_: (0.0, {0.0: 0.1}))
    out = synthesize_session(config_for(session, tmp_path / "none", count=1, noise="learned", learning_steps=1)).output
    fitted = read_image(made.output / "micrographs" / "000001.mrc").data
    assert torch.equal(read_image(out / "micrographs" / "000001.mrc").data, fitted)
    assert "Nothing of it is added" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"learning_steps": 5}, "--noise matched"), ({"particles_per_micrograph": 0}, "nothing to label")],
)
def test_settings_that_ask_for_nothing_are_refused(session, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        config_for(session, tmp_path / "set", **changes)


def test_numbers_of_particles_are_not_taken_for_artefacts(session, tmp_path):
    out = synthesize_session(config_for(session, tmp_path / "set", count=1, contamination=1)).output
    artefacts = artefact_labels_beside(out / "masks", "000001")
    assert artefacts == out / "masks" / "000001_artefacts.mrc"
    (out / "masks" / "000001_artefacts.mrc").unlink()
    assert artefact_labels_beside(out / "masks", "000001") is None
    # A folder of `restore` has them under the micrograph's own name.
    other = tmp_path / "restored" / "masks"
    other.mkdir(parents=True)
    shutil.copy(out / "masks" / "000001.mrc", other)
    assert artefact_labels_beside(other, "000001") == other / "000001.mrc"
    cut = extract_session(
        ExtractConfig(
            inputs=(str(out / "micrographs.star"),),
            coordinates=out / "particles.star",
            box_in_pixels=64,
            output=tmp_path / "particles",
        )
    )
    labels = {block.name: block for block in read_star(out / "particles.star")}["particles"]
    assert cut.particles > 0.5 * len(labels.rows)
