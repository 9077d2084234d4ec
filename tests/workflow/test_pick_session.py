"""``cryoprism pick`` from files to files: what it writes, resume, thresholds, masks, noise, RELION, the real set."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from cryoprism.core import InputError, generator_for, random_rotations
from cryoprism.formats import read_catalogue, read_coordinates, read_cs, read_map, read_star, write_map, write_mrc
from cryoprism.formats.maps import Volume
from cryoprism.formats.star import find_block
from cryoprism.microscope import project_volume
from cryoprism.microscope.potential import Solvent, potential_from_atoms
from cryoprism.particles import phase_randomised
from cryoprism.synthesis.phantom import phantom
from cryoprism.synthesis.render import render_micrograph
from cryoprism.synthesis.scene import Scene
from cryoprism.synthesis.specimen import specimen_from_phantom
from cryoprism.workflow import PickConfig, pick_session

PIXEL = 2.0
SPECIMEN = specimen_from_phantom(phantom("shell"))
DIAMETER = 2 * SPECIMEN.radius_in_angstroms


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """Two simulated micrographs of odd and even size with a STAR file, and the true centres."""
    folder = tmp_path_factory.mktemp("pick")
    base = Scene(
        height_in_pixels=560,
        width_in_pixels=601,
        pixel_size_in_angstroms=PIXEL,
        particle_count=25,
        ice_thickness_in_angstroms=250.0,
    )
    truth = {}
    for seed, defocus in ((1, 16000.0), (2, 20000.0)):
        scene = replace(base, name=f"mic{seed}", seed=seed, defocus_in_angstroms=defocus)
        made = render_micrograph(scene, SPECIMEN, "projection")
        write_mrc(folder / f"{scene.name}.mrc", made.counts, PIXEL)
        truth[scene.name] = np.array([[p.x_in_pixels, p.y_in_pixels] for p in made.particles])
    (folder / "micrographs.star").write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnVoltage #3\n"
        "_rlnSphericalAberration #4\n_rlnAmplitudeContrast #5\n_rlnMicrographPixelSize #6\n"
        f"group1 1 300 2.7 0.07 {PIXEL}\n\n"
        "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\nmic1.mrc 1\nmic2.mrc 1\n"
    )
    model = SPECIMEN.model
    assert model is not None
    volume = potential_from_atoms(model, PIXEL, shape=(96, 96, 96), center=False, solvent=Solvent())
    write_map(folder / "map.mrc", Volume(volume, PIXEL))
    return folder, truth


def config(folder: Path, out: Path, **values: object) -> PickConfig:
    return PickConfig(inputs=folder / "micrographs.star", output=out, diameter_in_angstroms=DIAMETER, **values)


def score(xy: np.ndarray, truth: np.ndarray, shape: tuple[int, int] = (560, 601)) -> tuple[float, float]:
    """Precision and recall within a third of a diameter; the margin at the edges is not counted."""
    reach, margin = DIAMETER / 3 / PIXEL, 0.6 * DIAMETER / PIXEL
    far = np.array([shape[1] - margin, shape[0] - margin])
    inner = truth[((truth > margin) & (truth < far)).all(1)]
    right = cKDTree(truth).query(xy)[0] < reach
    return float(right.mean()), float((cKDTree(xy).query(inner)[0] < reach).mean())


@pytest.fixture(scope="module")
def template_job(session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, _ = session
    out = tmp_path_factory.mktemp("jobs") / "template"
    values = {"method": "template", "reference": folder / "map.mrc", "symmetry": "O", "healpix_order": 1}
    pick_session(config(folder, out, box_files=True, **values))
    return out


def test_particles_are_found_and_written_alike_in_every_format(session, template_job):
    _, truth = session
    table = find_block(read_star(template_job / "particles.star"), "particles")
    assert table is not None
    names = [Path(name).stem for name in table.column("rlnMicrographName")]
    for name, centres in truth.items():
        star = read_coordinates(template_job / "coordinates" / f"{name}.star")
        precision, recall = score(star.xy_in_pixels.numpy(), centres)
        assert precision > 0.9
        assert recall > 0.85
        box = read_coordinates(template_job / "coordinates" / f"{name}.box")
        torch.testing.assert_close(box.xy_in_pixels, star.xy_in_pixels, atol=0.51, rtol=0)
        cs = read_coordinates(template_job / "particles.cs", micrograph=name)
        torch.testing.assert_close(cs.xy_in_pixels, star.xy_in_pixels, atol=1e-3, rtol=0)
        assert cs.score is not None
        assert star.score is not None
        torch.testing.assert_close(cs.score, star.score, atol=1e-4, rtol=0)
        assert names.count(name) == len(star)
        picture = matplotlib.image.imread(template_job / "picks" / f"{name}.png")
        # Rings are coloured; a micrograph is grey.
        assert int((picture[..., 1] - picture[..., 2] > 0.3).sum()) > 50 * len(star)
    for label in ("rlnDefocusU", "rlnAutopickFigureOfMerit", "rlnAnglePsi", "rlnOpticsGroup", "rlnCoordinateY"):
        assert np.isfinite(table.numbers(label)).all()
    assert np.all(read_cs(template_job / "particles.cs")["location/micrograph_psize_A"] == np.float32(PIXEL))


def test_micrographs_get_the_ctf_that_was_used(session, template_job):
    records = {record.name: record for record in read_catalogue(template_job / "micrographs.star")}
    for name, defocus in (("mic1", 16000.0), ("mic2", 20000.0)):
        ctf = records[name].ctf
        assert ctf is not None
        assert 0.5 * (ctf.defocus_u_in_angstroms + ctf.defocus_v_in_angstroms) == pytest.approx(defocus, abs=400)


def test_another_threshold_needs_no_new_scores(session, template_job, tmp_path, monkeypatch):
    folder, _ = session
    before = json.loads((template_job / "job.json").read_text())["notes"]["particles"]
    stamps = {file: file.stat().st_mtime_ns for file in (template_job / "candidates").iterdir()}
    values = {"method": "template", "reference": folder / "map.mrc", "symmetry": "O", "healpix_order": 1}
    summary = pick_session(config(folder, template_job, only_do_unfinished=True, threshold=1.5, **values))
    assert summary.skipped == 2
    assert summary.particles > before
    assert stamps == {file: file.stat().st_mtime_ns for file in (template_job / "candidates").iterdir()}
    again = pick_session(config(folder, template_job, only_do_unfinished=True, box_files=True, **values))
    assert again.particles == before


def test_blobs_need_no_reference(session, tmp_path):
    folder, truth = session
    summary = pick_session(config(folder, tmp_path / "blob", pictures=False))
    found = np.concatenate(
        [
            score(read_coordinates(tmp_path / "blob/coordinates" / f"{name}.star").xy_in_pixels.numpy(), centres)
            for name, centres in truth.items()
        ]
    ).reshape(-1, 2)
    assert found[:, 0].mean() > 0.85
    assert found[:, 1].mean() > 0.7
    assert "expected to be false" in summary.how
    assert not (tmp_path / "blob/picks").exists()


def test_noise_gives_next_to_nothing(tmp_path):
    for seed in range(2):
        noise = torch.poisson(torch.full((500, 520), 40.0), generator=torch.Generator().manual_seed(seed))
        write_mrc(tmp_path / f"noise{seed}.mrc", noise, PIXEL)
    summary = pick_session(
        PickConfig(
            inputs=str(tmp_path / "noise*.mrc"),
            output=tmp_path / "out",
            diameter_in_angstroms=DIAMETER,
            voltage_in_kilovolts=300.0,
            spherical_aberration_in_millimeters=2.7,
            amplitude_contrast=0.1,
        )
    )
    assert summary.particles <= 4
    assert math.isfinite(summary.threshold) == (summary.particles > 0)
    assert set(summary.empty) <= {"noise0", "noise1"}
    assert (tmp_path / "out/particles.star").is_file()


def test_the_learned_picker_sets_its_threshold_by_the_session(session, tmp_path):
    """Particles and noise are sessions of their own: shares and thresholds differ, and noise stays empty."""
    folder, truth = session
    summary = pick_session(config(folder, tmp_path / "particles", method="learned", pictures=False))
    found = np.array(
        [
            score(read_coordinates(tmp_path / f"particles/coordinates/{name}.star").xy_in_pixels.numpy(), xy)
            for name, xy in truth.items()
        ]
    )
    assert found[:, 0].mean() > 0.9
    assert found[:, 1].mean() > 0.9
    assert "likelier right than wrong" in summary.how
    for seed in range(2):
        noise = torch.poisson(torch.full((500, 520), 40.0), generator=torch.Generator().manual_seed(seed))
        write_mrc(tmp_path / f"noise{seed}.mrc", noise, PIXEL)
    values = {"voltage_in_kilovolts": 300.0, "spherical_aberration_in_millimeters": 2.7, "amplitude_contrast": 0.1}
    empty = pick_session(
        PickConfig(
            inputs=str(tmp_path / "noise*.mrc"),
            output=tmp_path / "noise",
            method="learned",
            diameter_in_angstroms=DIAMETER,
            pictures=False,
            **values,
        )
    )
    assert empty.particles <= 1
    assert empty.threshold > summary.threshold


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two crowded micrographs, and copies of them with random Fourier phases: the power of particles and none there."""
    folder = tmp_path_factory.mktemp("crowded")
    for seed in (5, 6):
        scene = Scene(
            height_in_pixels=560,
            width_in_pixels=601,
            pixel_size_in_angstroms=PIXEL,
            particle_count=45,
            ice_thickness_in_angstroms=250.0,
            defocus_in_angstroms=18000.0,
            seed=seed,
        )
        counts = render_micrograph(scene, SPECIMEN, "projection").counts
        write_mrc(folder / f"full{seed}.mrc", counts, PIXEL)
        mean = counts.mean()
        noise = phase_randomised(counts - mean, torch.Generator().manual_seed(seed)) + mean
        write_mrc(folder / f"random{seed}.mrc", noise, PIXEL)
    return folder


@pytest.mark.parametrize("files", ["random*.mrc", "*.mrc"])
def test_the_power_of_particles_without_their_shape_is_not_picked(crowded, tmp_path, files):
    """In a session of its own kind, and among micrographs that hold particles."""
    out = tmp_path / "out"
    summary = pick_session(
        PickConfig(
            inputs=str(crowded / files),
            output=out,
            method="learned",
            diameter_in_angstroms=DIAMETER,
            pictures=False,
            voltage_in_kilovolts=300.0,
            spherical_aberration_in_millimeters=2.7,
            amplitude_contrast=0.07,
        )
    )
    counts = {file.stem: len(read_coordinates(file)) for file in (out / "coordinates").glob("*.star")}
    assert max(counts["random5"], counts["random6"]) <= 2
    if files == "*.mrc":
        assert min(counts["full5"], counts["full6"]) >= 25
    else:
        assert summary.particles == 0 or math.isfinite(summary.threshold)


def test_masks_given_are_used(session, tmp_path):
    folder, _ = session
    (tmp_path / "masks").mkdir()
    for name in ("mic1", "mic2"):
        labels = torch.zeros(560, 601)
        labels[:, :300] = 3  # carbon
        write_mrc(tmp_path / "masks" / f"{name}.mrc", labels, PIXEL, mode=0)
    out = tmp_path / "out"
    pick_session(config(folder, out, masks_folder=tmp_path / "masks", pictures=False))
    for name in ("mic1", "mic2"):
        xy = read_coordinates(out / "coordinates" / f"{name}.star").xy_in_pixels
        assert len(xy)
        assert float(xy[:, 0].min()) > 300
    with pytest.raises(InputError, match="holds no mask"):
        pick_session(config(folder, tmp_path / "out2", masks_folder=tmp_path))


def test_settings_that_cannot_be_are_refused(session, tmp_path):
    folder, _ = session
    with pytest.raises(InputError, match="needs a map"):
        config(folder, tmp_path, method="template")
    with pytest.raises(InputError, match="--method template"):
        config(folder, tmp_path, reference=folder / "map.mrc")
    with pytest.raises(InputError, match="fills a micrograph"):
        pick_session(config(folder, tmp_path / "a", threshold=0.1))
    with pytest.raises(InputError, match=r"--diameter: 5000 Å does not fit into .*mic"):
        pick_session(
            PickConfig(inputs=folder / "micrographs.star", output=tmp_path / "c", diameter_in_angstroms=5000.0)
        )
    broken = tmp_path / "broken.mrc"
    broken.write_bytes((folder / "map.mrc").read_bytes()[:2000])
    with pytest.raises(InputError, match=r"broken.mrc: .*cut short"):
        pick_session(config(folder, tmp_path / "d", method="template", reference=broken))
    with pytest.raises(InputError, match=r"^\S*broken.mrc: is no safetensors file"):
        pick_session(config(folder, tmp_path / "e", method="learned", weights=broken))
    assert [path.name for path in tmp_path.iterdir()] == ["broken.mrc"]
    with pytest.raises(InputError, match="does not exist"):
        pick_session(config(folder, tmp_path / "b", method="template", reference=folder / "no.mrc"))


def test_a_black_reference_is_refused_before_any_micrograph_is_read(session, tmp_path):
    """As a map, and as class averages; the remedy is that of 'refine'."""
    folder, _ = session
    right = read_map(folder / "map.mrc")
    write_map(tmp_path / "black.mrc", Volume(-right.data, PIXEL))
    views = project_volume(right.data, random_rotations(6, generator_for(0, "views")), PIXEL)
    write_mrc(tmp_path / "black.mrcs", -views, PIXEL)
    for name in ("black.mrc", "black.mrcs"):
        remedy = f"relion_image_handler --i .*{name} --o black_inverted{Path(name).suffix} --multiply_constant -1"
        with pytest.raises(InputError, match=f"{name}: shows the particle black.* {remedy}"):
            pick_session(config(folder, tmp_path / "out", method="template", reference=tmp_path / name))
    assert not (tmp_path / "out").exists()
    write_mrc(tmp_path / "bright.mrcs", views, PIXEL)
    settings = config(folder, tmp_path / "out", method="template", reference=tmp_path / "bright.mrcs", pictures=False)
    assert pick_session(settings).particles > 10


def test_a_micrograph_is_no_class_average(session, tmp_path):
    folder, _ = session
    write_mrc(tmp_path / "field.mrc", torch.randn(512, 512, generator=generator_for(0, "field")), PIXEL)
    with pytest.raises(InputError, match=r"field.mrc: shows \d+ Å, \d+ diameters: a class average shows one particle"):
        pick_session(config(folder, tmp_path / "out", method="template", reference=tmp_path / "field.mrc"))
    assert not (tmp_path / "out").exists()


@pytest.mark.relion
def test_relion_extracts_at_the_coordinates(session, template_job):
    """relion_preprocess cuts as many particles as were written, where their boxes fit."""
    count = sum(len(read_coordinates(file)) for file in (template_job / "coordinates").glob("*.star"))
    folder, _ = session
    command = ["relion_preprocess", "--i", "micrographs.star"]
    command += ["--coord_dir", f"{template_job}/coordinates/", "--coord_suffix", ".star", "--extract"]
    command += ["--extract_size", "16", "--part_dir", f"{template_job}/relion/", "--part_star"]
    command += [f"{template_job}/relion/particles.star"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    table = find_block(read_star(template_job / "relion/particles.star"), "particles")
    assert table is not None
    assert len(table) == count


@pytest.mark.relion
@pytest.mark.parametrize("where", ["mics", "Restore/job012/micrographs", "elsewhere"])
def test_relion_finds_the_picks_of_micrographs_in_folders(session, tmp_path, monkeypatch, where):
    """RELION runs in the project folder on the very tables that were written, wherever the micrographs lie."""
    folder, _ = session
    project = tmp_path / "project"
    home = (tmp_path if where == "elsewhere" else project) / where
    home.mkdir(parents=True)
    project.mkdir(exist_ok=True)
    for name in ("mic1.mrc", "mic2.mrc", "micrographs.star"):
        shutil.copy(folder / name, home / name)
    monkeypatch.chdir(project)
    settings = config(home, Path("Pick/job001"), threshold=6.0, pictures=False, relion_coordinates=True)
    summary = pick_session(settings)
    listed = summary.output / "coords_suffix_pick.star"
    assert listed.read_text().split() == ["Pick/job001/micrographs.star"]
    assert f"{listed} 2" in (summary.output / "RELION_OUTPUT_NODES.star").read_text()
    # As RELION's window makes the command: from the folder of the listed file, and the end of its name.
    command = ["relion_preprocess", "--i", "Pick/job001/micrographs.star", "--coord_dir", f"{listed.parent}/"]
    command += ["--coord_suffix", listed.name.removeprefix("coords_suffix"), "--part_dir", "Extract/job002/"]
    command += ["--part_star", "Extract/job002/particles.star", "--extract", "--extract_size", "16"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    table = find_block(read_star(Path("Extract/job002/particles.star")), "particles")
    assert table is not None
    assert len(table) == summary.particles > 20


def test_picks_for_relion_follow_another_threshold(session, tmp_path):
    folder, _ = session
    settings = config(folder, tmp_path / "run", threshold=6.0, pictures=False, relion_coordinates=True)
    pick_session(settings)
    strict = settings.model_copy(update={"threshold": 9.0, "only_do_unfinished": True, "relion_coordinates": False})
    summary = pick_session(strict)
    laid_out = list((tmp_path / "run").rglob("*mic?_pick.star"))
    assert len(laid_out) == 2
    assert sum(len(read_coordinates(file)) for file in laid_out) == summary.particles
    plain = pick_session(config(folder, tmp_path / "plain", threshold=9.0, pictures=False))
    assert not list(plain.output.rglob("*_pick.star"))


@pytest.mark.real
def test_real_particles_without_a_reference(real_data, tmp_path):
    name = "May08_04.32.27"
    summary = pick_session(
        PickConfig(
            inputs=str(real_data / f"apoferritin/micrographs/{name}.mrc"),
            output=tmp_path / "out",
            diameter_in_angstroms=130.0,
            pixel_size_in_angstroms=1.5,
            voltage_in_kilovolts=300.0,
            spherical_aberration_in_millimeters=2.7,
            amplitude_contrast=0.07,
        )
    )
    truth = read_coordinates(real_data / f"apoferritin/coordinates/{name}.star").xy_in_pixels.numpy()
    xy = read_coordinates(summary.output / "coordinates" / f"{name}.star").xy_in_pixels.numpy()
    far = np.array([1240, 1200]) - 87
    inner = truth[((truth > 87) & (truth < far)).all(1)]
    assert (cKDTree(truth).query(xy)[0] < 43).mean() > 0.93
    assert (cKDTree(xy).query(inner)[0] < 43).mean() > 0.9
