import json
from dataclasses import replace

import pytest
import torch

from cryoprism.cli import main
from cryoprism.core import InputError, euler_to_matrix
from cryoprism.formats import read_catalogue, read_image, read_mtf, read_star
from cryoprism.synthesis import Scene, SessionConfig, render_micrograph, scene_from_dict, simulate_session
from cryoprism.synthesis.session import load_specimen

TINY = Scene(height_in_pixels=128, width_in_pixels=144, pixel_size_in_angstroms=3.0, frames=4)


def config(folder, **changes):
    return SessionConfig(
        **{"output": folder, "micrographs": 3, "seed": 5, "base": TINY, "engine": "projection", **changes}
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("session")
    return folder, simulate_session(config(folder))


def test_session_reads_back_without_its_secrets(made):
    folder, session = made
    catalogue = read_catalogue(session.star)
    assert len(catalogue) == 3
    assert all(record.ctf is None for record in catalogue)
    group = next(iter(catalogue.optics.values()))
    assert (group.voltage_in_kilovolts, group.pixel_size_in_angstroms) == (300.0, 3.0)
    image = read_image(catalogue.micrographs[0].path)
    assert image.data.shape == (128, 144)
    assert image.pixel_size_in_angstroms == pytest.approx(3.0)
    assert read_mtf(folder / "mtf.star").value[0] == pytest.approx(1.0)
    truth = read_catalogue(session.truth_star)
    for record in truth:
        scene = scene_from_dict(json.loads((folder / "truth" / f"{record.path.stem}.json").read_text())["scene"])
        assert record.ctf.defocus_u_in_angstroms == pytest.approx(scene.defocus_u_in_angstroms, rel=1e-6)


def test_truth_file_renders_the_same_image_again(made, shell):
    folder, session = made
    truth = json.loads((folder / "truth" / f"{session.names[1]}.json").read_text())
    again = render_micrograph(scene_from_dict(truth["scene"]), shell, truth["engine"])
    stored = read_image(folder / "micrographs" / f"{session.names[1]}.mrc").data
    assert torch.equal(again.counts.float(), stored)
    block = next(b for b in read_star(session.particles_star) if b.name == "particles")
    rows = [r for r in block.records() if session.names[1] in r["rlnMicrographName"]]
    assert len(rows) == len(again.particles)
    for row, particle in zip(rows, again.particles, strict=True):
        angles = (torch.tensor(float(row[f"rlnAngle{a}"])) for a in ("Rot", "Tilt", "Psi"))
        torch.testing.assert_close(euler_to_matrix(*angles), particle.rotation, atol=1e-4, rtol=0)
        assert float(row["rlnCoordinateX"]) == pytest.approx(particle.x_in_pixels, abs=1e-3)


def test_workers_change_nothing(made, tmp_path):
    folder, session = made
    simulate_session(config(tmp_path, workers=2))
    for name in session.names:
        path = f"micrographs/{name}.mrc"
        assert torch.equal(read_image(folder / path).data, read_image(tmp_path / path).data)
    assert (folder / "particles.star").read_text() == (tmp_path / "particles.star").read_text()


def test_killed_session_goes_on_and_another_one_is_refused(tmp_path):
    first = simulate_session(config(tmp_path, micrographs=2))
    assert (first.rendered, first.skipped) == (2, 0)
    (tmp_path / "truth" / f"{first.names[0]}.json").unlink()  # killed before the truth was written
    calls = []
    rest = simulate_session(config(tmp_path), progress=lambda *at: calls.append(at))
    assert (rest.rendered, rest.skipped) == (2, 1)
    assert calls == [(2, 3), (3, 3)]
    with pytest.raises(InputError, match="another simulated session"):
        simulate_session(config(tmp_path, seed=6))
    assert simulate_session(config(tmp_path, micrographs=1, seed=6, overwrite=True)).rendered == 1


def test_movies_and_truth_images(tmp_path):
    session = simulate_session(config(tmp_path, micrographs=1, movies=True, truth_images=True, recipe="clean"))
    catalogue = read_catalogue(session.star)
    assert catalogue.micrographs[0].is_movie
    assert read_image(tmp_path / "truth" / f"{session.names[0]}_signal.mrc").data.shape == TINY.shape


def test_demo_has_one_dominant_damage_each(tmp_path):
    base = replace(TINY, height_in_pixels=64, width_in_pixels=64, pixel_size_in_angstroms=6.0)
    session = simulate_session(config(tmp_path, micrographs=None, recipe="demo", base=base, particles=2))
    assert len(session.names) == 6
    truths = [json.loads((tmp_path / "truth" / f"{name}.json").read_text()) for name in session.names]
    assert truths[0]["masked_fraction"]["defects"] == 0
    assert truths[2]["mean_ice_thickness_in_angstroms"] > 1000
    assert truths[4]["masked_fraction"]["carbon"] > 0.1


def test_wrong_settings_are_named(tmp_path):
    for changes, word in (
        ({"micrographs": 0}, "micrographs"),
        ({"recipe": "soup"}, "varied"),
        ({"engine": "magic"}, "rytov"),
        ({"workers": 0}, "workers"),
    ):
        with pytest.raises(InputError, match=word):
            config(tmp_path, **changes)
    with pytest.raises(InputError, match="no phantom and no file"):
        load_specimen("unicorn")
    with pytest.raises(InputError, match="does not exist"):
        load_specimen("nowhere.mrc")
    (tmp_path / "map.mrc").touch()
    with pytest.raises(InputError, match="mass"):
        load_specimen(str(tmp_path / "map.mrc"))
    with pytest.raises(InputError, match="neither a structure nor a map"):
        load_specimen("notes.txt")


def test_command_line_makes_and_continues_a_session(tmp_path, capsys):
    size = ["--width", "128", "--height", "128", "--pixel-size", "3", "--seed", "4", "--recipe", "clean"]
    for more, word in (
        (["--count", "1"], "1 images"),
        (["--count", "2", "--only-do-unfinished"], "1 were there before"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["simulate", "--out", str(tmp_path / "run"), *size, *more])
        assert caught.value.code == 0
        assert word in capsys.readouterr().out
    assert len(read_catalogue(tmp_path / "run" / "micrographs.star")) == 2
    with pytest.raises(SystemExit) as caught:
        main(["simulate", "--out", str(tmp_path / "other"), "--recipe", "soup"])
    assert caught.value.code == 2
    assert "varied" in capsys.readouterr().err


@pytest.mark.real
def test_ferritin_from_its_structure(real_data):
    specimen = load_specimen(str(real_data / "structures" / "4oyn.pdb.gz"), assembly="1")
    assert 55 < specimen.radius_in_angstroms < 70
    scene = replace(TINY, particle_count=2)
    rendered = render_micrograph(scene, specimen)
    assert float(rendered.potential.max()) > 100.0  # V Å
