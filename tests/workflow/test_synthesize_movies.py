import json
import shutil

import pytest
import torch
from synthetic_sets import config_for

from cryoprism.cli import main
from cryoprism.core import InputError
from cryoprism.formats import read_catalogue, read_image, read_movie, read_star
from cryoprism.workflow import synthesize_session

FRAMES = 3


@pytest.fixture(scope="module")
def movies(session, tmp_path_factory):
    return synthesize_session(config_for(session, tmp_path_factory.mktemp("movies") / "set", frames=FRAMES))


def test_the_sum_of_a_movie_is_its_micrograph_which_is_that_of_a_set_without_movies(made, movies):
    assert not (made.output / "movies").exists()
    for name in ("000001", "000002"):
        plain = read_image(made.output / "micrographs" / f"{name}.mrc").data
        image = read_image(movies.output / "micrographs" / f"{name}.mrc").data
        assert torch.equal(plain, image)
        frames = read_movie(movies.output / "movies" / f"{name}.mrcs").frames
        assert frames.shape == (FRAMES, 448, 480)
        assert float((frames.double().sum(0) - image).abs().max()) < 1e-5 * float(image.abs().max())


def test_the_table_of_movies_is_read_and_the_truth_tells_the_track(movies):
    table = {block.name: block for block in read_star(movies.output / "movies.star")}
    assert "rlnMicrographOriginalPixelSize" in table["optics"].labels
    assert "rlnMicrographMovieName" in table["movies"].labels
    catalogue = read_catalogue(movies.output / "movies.star")
    assert [record.path.name for record in catalogue] == ["000001.mrcs", "000002.mrcs"]
    assert catalogue.optics_of(catalogue.micrographs[0]).pixel_size_in_angstroms == 2.5
    truth = json.loads((movies.output / "truth" / "000001.json").read_text())
    assert truth["scene"]["frames"] == FRAMES
    track = torch.tensor(truth["track_in_angstroms"])
    assert track.shape == (FRAMES, 2)
    drift = torch.tensor([truth["scene"]["drift_y_in_angstroms"], truth["scene"]["drift_x_in_angstroms"]])
    assert torch.allclose(track[-1] - track[0], drift * (FRAMES - 1) / FRAMES, atol=1e-3)


def test_a_lost_movie_is_made_again_by_whatever_number_of_workers(session, movies, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(movies.output, out)
    (out / "movies" / "000002.mrcs").unlink()
    grown = synthesize_session(config_for(session, out, frames=FRAMES, count=3, only_do_unfinished=True, workers=2))
    assert (grown.made, grown.skipped) == (2, 1)
    again = read_movie(out / "movies" / "000002.mrcs").frames
    assert torch.equal(again, read_movie(movies.output / "movies" / "000002.mrcs").frames)
    assert len(read_star(out / "movies.star")[1].rows) == 3


def test_the_page_speaks_of_movies_only_where_there_are_any(made, movies):
    assert "movies.star" in movies.report.read_text()
    assert "movies.star" not in made.report.read_text()


def test_bad_numbers_of_frames_are_named(session, tmp_path):
    with pytest.raises(InputError, match="--frames"):
        config_for(session, tmp_path / "out", frames=1)


def test_frames_come_from_either_option(session, tmp_path):
    assert config_for(session, tmp_path).frames_of_a_movie == 0
    assert config_for(session, tmp_path, movies=True).frames_of_a_movie == 40
    assert config_for(session, tmp_path, frames=7).frames_of_a_movie == 7


def test_the_command(session, movies, tmp_path, capsys):
    out = tmp_path / "set"
    shutil.copytree(movies.output, out)
    arguments = ["synthesize", "--map", str(session / "shell.mrc"), "--mass", "480", "--symmetry", "O", "--match"]
    arguments += [str(session / "real" / "micrographs.star"), "--coordinates", str(session / "real" / "particles.star")]
    arguments += ["--count", "2", "--no-realism", "--only-do-unfinished", "--out", str(out)]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--movies", "--frames", "3"])
    assert end.value.code == 2
    assert "--movies" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--frames", "3"])
    assert end.value.code == 0
    assert "movies.star" in capsys.readouterr().out
